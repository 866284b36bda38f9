"""Messages and help texts that depend on the code: names in the program, or which case applies."""

from __future__ import annotations

import pytest

from clipcheck.engine.file import check_file
from clipcheck.settings.keys import Settings

IMPORTS = "import torch\nfrom torch.nn.utils import clip_grad_norm_\n"
SCALED = (
    "def f(self):\n    {0}.scale(loss).backward()\n    clip_grad_norm_(ps, 1.0)\n    {0}.step(opt)\n    {0}.update()\n"
)
LONG = "self.trainer.accelerator.scaler"
ASSERTED = "norm = clip_grad_norm_(ps, max_norm)\nassert norm <= max_norm\n"
LOGGED = "norm = clip_grad_norm_(ps, max_norm)\nlog({'clipped_norm': norm})\n"


def said(text: str, code: str) -> tuple[str, str]:
    report = check_file("x.py", (IMPORTS + text).encode(), Settings(codes=frozenset({code})))
    (finding,) = report.findings
    return finding.message, finding.help


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        (
            "list(m.parameters()) + list(m.head.parameters())",
            "counts and scales the parameters of `m.head` twice: `m` already contains them",
        ),
        ("list(m.parameters()) + list(m.parameters())", "counts and scales the parameters of `m` twice"),
    ],
)
def test_parameters_that_are_listed_twice(parameters: str, message: str) -> None:
    assert said(f"clip_grad_norm_({parameters}, 1.0)\n", "CLIP112")[0] == message


@pytest.mark.parametrize(("scaler", "shown"), [("self.grad_scaler", "self.grad_scaler"), (LONG, "scaler")])
def test_the_missing_unscale_is_named_after_the_scaler_unless_that_is_long(scaler: str, shown: str) -> None:
    message, _ = said(SCALED.format(scaler), "CLIP301")
    assert message == f"clips scaled gradients: call `{shown}.unscale_(optimizer)` first"


@pytest.mark.parametrize(("text", "advice"), [(ASSERTED, "drop the assertion"), (LOGGED, "rename it")])
def test_an_assertion_is_not_to_be_renamed(text: str, advice: str) -> None:
    assert said(text, "CLIP501")[1].startswith(advice)


@pytest.mark.parametrize(
    "use", ["log({'KEY': clip_grad_norm_(ps, 1.0)})\n", "n = clip_grad_norm_(ps, 1.0)\nlog({'KEY': n})\n"]
)
def test_a_long_key_is_cut(use: str) -> None:
    key = "clipped_norm" + "_of_all" * 10
    message, _ = said(use.replace("KEY", key), "CLIP501")
    assert len(message) == 100 and message.startswith(f"logged as `{key}`")
