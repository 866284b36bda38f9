"""When a fix moves a user's expression, it keeps the parentheses that the expression needs there."""

from __future__ import annotations

import ast

import pytest

from clipcheck.api import fix

CLIP = "torch.nn.utils.clip_grad_norm_"


@pytest.mark.parametrize(
    ("code", "before", "after"),
    [
        ("CLIP106", f"{CLIP}([p.grad for p in (p for p in ps if p)], 1.0)", f"{CLIP}((p for p in ps if p), 1.0)"),
        ("CLIP106", f"{CLIP}([p.grad for p in (a or b).parameters()], 1.0)", f"{CLIP}((a or b).parameters(), 1.0)"),
        (
            "CLIP007",
            "grad_norm = torch.nn.utils.get_total_norm((a or b).parameters())",
            "grad_norm = torch.nn.utils.get_total_norm([p.grad for p in (a or b).parameters() if p.grad is not None])",
        ),
        (
            "CLIP202",
            "optimizer = torch.optim.SGD(ps)\n" + f"{CLIP}((optimizer), 1.0)",
            "optimizer = torch.optim.SGD(ps)\n"
            + f'{CLIP}(([p for group in (optimizer).param_groups for p in group["params"]]), 1.0)',
        ),
    ],
)
def test_parentheses_move_with_expressions_that_need_them(code: str, before: str, after: str) -> None:
    done = fix(f"import torch\n{before}\n", unsafe=True, isolated=True, select=code, target="torch")
    assert done.text == f"import torch\n{after}\n"
    ast.parse(done.text)


def test_a_module_keeps_its_parentheses_when_names_are_dropped() -> None:
    text = (
        "import torch\ndef norm(a, b):\n    total = 0.0\n    for name, p in (a or b).named_parameters():\n"
        "        total += p.grad.norm().item() ** 2\n    return total ** 0.5\n"
    )
    done = fix(text, isolated=True, select="CLIP001")
    assert "return grad_norm((a or b).parameters()).item()\n" in done.text
