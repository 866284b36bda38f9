"""The rules about when a norm is measured (CLIP309, CLIP506, CLIP507), on short programs. Silent cases first.

The programs are written in the short names of `abbreviated`; `N` is the norm of the gradients, and `L` logs it as the norm
of gradients.
"""

from __future__ import annotations

import textwrap

import pytest
from abbreviated import STEPS, written

from clipcheck.engine.file import check_file
from clipcheck.engine.results import FileReport
from clipcheck.rule import Safety
from clipcheck.settings.keys import Settings

HEAD = """\
import numpy as np
import torch
from torch.nn.utils import clip_grad_norm_, clip_grad_value_, get_total_norm

def norm_of(module):
    return torch.stack([p.grad.norm() for p in module.parameters() if p.grad is not None]).norm()

def f(model, head, loss, log):
"""
CALLS = {
    **STEPS,
    "N": "torch.norm(torch.stack([p.grad.norm() for p in model.parameters()]))",
    "L": 'log("grad_norm", norm_of(model))',
}


def program(body: str, head: str = HEAD) -> str:
    return head + textwrap.indent(written(body, CALLS), "    ") + "\n"


def check(body: str, code: str, fix: bool = False, head: str = HEAD) -> FileReport:
    settings = Settings(codes=frozenset({code}), fix=fix, target="torch", safety=Safety.UNSAFE)
    report = check_file("x.py", program(body, head).encode(), settings)
    assert report.errors == ()
    return report


SILENT = {
    # the norm of scaled gradients
    "CLIP309": [
        "B\nL\nS",
        "SB\nU\nL\nSS\nUP",
        "SB\nC\nL\nSS\nUP",
        "SB\nSS\nL\nUP",
        "SB\nSS\nUP\nL",
        "SB\nZ\nL",
        "SB\nif loss:\n    U\nL\nSS\nUP",
        "SB\nprepare(optimizer)\nL\nSS",
        "SB\nscale = scaler.get_scale()\nlog('grad_norm', norm_of(model) / scale)\nSS",
        "SB\nif torch.isfinite(norm_of(model)):\n    log(1)\nSS",
        "SB\nnorm = N\nlog(torch.isnan(norm), torch.isinf(norm))\nSS",
        "SB\ngrads = torch.autograd.grad(loss, [*model.parameters()])\nlog(get_total_norm(grads))\nSS",
        "scaler = torch.amp.GradScaler('cuda', enabled=False)\nSB\nL\nSS",
        "accelerator.backward(loss)\nL\nS",  # it need not scale
    ],
    # the norm of gradients that are gone
    "CLIP506": [
        "B\nL\nS\nZ",
        "Z\nB\nL\nS",
        "S\nL\nZ",
        "S\nif loss:\n    Z\nL",
        "S\nZ\nB\nL",
        "S\nZ\nprepare(optimizer)\nL",
        "S\nhead.zero_grad()\nZ\nlog(norm_of(model))\nother.zero_grad()",  # of another module, or of this one
        "optimizer = torch.optim.SGD(head.parameters())\nZ\nnorm = N\nlog(norm)",
        "B\ngrads = [p.grad for p in model.parameters()]\nZ\nlog(get_total_norm(grads))",
        "Z\nassert norm_of(model) == 0",
        "Z\nassert not norm_of(model).isnan()",
        "Z\nnorm = norm_of(model)\nif norm == 0:\n    log(1)",
        "Z\nnorm = norm_of(model)\nif 0 != norm:\n    log(1)",
    ],
    # the norm of clipped gradients
    "CLIP507": [
        "B\nL\nC\nS",
        "B\nnorm = C\nL\nS",
        "B\nlog(C)\nL\nS",
        "B\nclip_grad_value_(model.parameters(), 1.0)\nL\nS",
        "B\nclip_grad_norm_(model.parameters(), torch.inf)\nL\nS",
        "B\nclip_grad_norm_(head.parameters(), 1.0)\nnorm = N\nlog('grad_norm', norm)\nS",
        "B\nC\nB\nL\nS",
        "B\nC\nU\nL\nS",
        "B\nC\nprepare(optimizer)\nL\nS",
        "B\nC\nfor p in model.parameters():\n    p.grad.mul_(2)\nL\nS",
        "B\nC\nS\nZ\nL",
        "B\nC\nlog(norm_of(model))\nS",  # not said to be the norm of gradients
        "B\nC\nlog('size', norm_of(model))\nS",
        "B\nC\nnorm_of(model)\nS",  # CLIP113
        "B\nC\nlog('clipped_grad_norm', norm_of(model))\nS",
        "B\nC\nlog('grad_norm/after', norm_of(model))\nS",
        "B\nC\npost_norm = norm_of(model)\nlog(grad_norm=post_norm)\nS",
        "B\nC\nlog(grad_norm_new=norm_of(model))\nS",
        "B\nC\nlog(f'grad norm, clipped: {norm_of(model)}')\nS",
        "B\nC\nlog({'clipped_grad_norm': norm_of(model)})\nS",
        "B\nC\nL  # after the clip\nS",
        "B\nC\n# after the clip\nL\nS",
        "B\nC\nassert norm_of(model) <= 1\nS",
        "B\nC\ngrad_norm = norm_of(model)\nassert grad_norm <= 1\nif grad_norm > 2:\n    log(1)\nS",
        "B\nlog('raw', norm_of(model))\nC\nL\nS",  # both are logged
        "B\ngrads = torch.autograd.grad(loss, [*model.parameters()])\nC\nlog('grad_norm', get_total_norm(grads))\nS",
    ],
}  # fmt: skip


@pytest.mark.parametrize(("code", "body"), [(code, body) for code, bodies in SILENT.items() for body in bodies])
def test_silent(code: str, body: str) -> None:
    assert [f.message for f in check(body, code).findings] == []


def test_a_test_may_measure_what_is_left_and_what_is_clipped() -> None:
    head = HEAD.replace("def f(", "def test_f(")
    for code, body in (("CLIP506", "S\nZ\nL"), ("CLIP507", "B\nC\nL\nS")):
        assert len(check(body, code).findings) == 1
        assert check(body, code, head=head).findings == ()


FOUND = {
    "CLIP309": [
        ("SB\nL\nSS\nUP", "SB\nU\nL\nSS\nUP"),
        ("SB\nnorm = N\nlog(norm)\nSS\nUP", "SB\nU\nnorm = N\nlog(norm)\nSS\nUP"),
        ("SB\nif loss:\n    L\nSS\nUP", "SB\nif loss:\n    U\n    L\nSS\nUP"),
        ("SB\nL\nU\nSS\nUP", None),  # it comes later
        # one of the paths is scaled, and the scaler steps on both
        ("if loss:\n    SB\nelse:\n    B\nL\nSS\nUP", "if loss:\n    SB\nelse:\n    B\nU\nL\nSS\nUP"),
        ("SB\nL\nS", None),
        ("SB\nL\nscaler.step()\nUP", None),  # of which optimizer is not said
        ("SB\nL\nif loss:\n    SS\n    UP", None),
        ("SB\nL\nif loss:\n    SS\nelse:\n    scaler.step(other)\nUP", None),
        ("SB\nL\nscaler.step(get())\nscaler.step(optimizer)\nUP", "SB\nscaler.unscale_(get())\nL\nscaler.step(get())\nscaler.step(optimizer)\nUP"),
        ("SB\nnorm = N\nlog(norm, torch.isnan(norm))\nSS", "SB\nU\nnorm = N\nlog(norm, torch.isnan(norm))\nSS"),
        ("scaler = torch.amp.GradScaler('cuda')\nSB\nL\nSS", "scaler = torch.amp.GradScaler('cuda')\nSB\nU\nL\nSS"),
        ("accelerator = Accelerator(mixed_precision='fp16')\naccelerator.backward(loss)\nL\nS", None),
        ("if loss:\n    SB\nelse:\n    SB\nL\nSS\nUP", "if loss:\n    SB\nelse:\n    SB\nU\nL\nSS\nUP"),
    ],
    "CLIP506": [
        ("S\nZ\nL", "S\nL\nZ"),
        ("S\nZ\nlog(1)\nL", "S\nlog(1)\nL\nZ"),
        ("S\nZ\nif loss:\n    L", None),
        ("if loss:\n    S\n    Z\nelse:\n    Z\nL", None),
        ("S\nclear()\nL\ndef clear():\n    Z", None),
        ("S\nZ\nnorm = norm_of(model)\nif norm > 1:\n    log(1)", "S\nnorm = norm_of(model)\nZ\nif norm > 1:\n    log(1)"),
        ("S\nZ\nnorm = norm_of(model)\nassert norm == 0\nlog(norm)", "S\nnorm = norm_of(model)\nZ\nassert norm == 0\nlog(norm)"),
        ("optimizer = torch.optim.SGD(model.parameters())\nS\nZ\nnorm = N\nlog(norm)",
         "optimizer = torch.optim.SGD(model.parameters())\nS\nnorm = N\nZ\nlog(norm)"),
    ],
    "CLIP507": [
        ("B\nC\ngrad_norm = N\nS\nlog(grad_norm)", "B\ngrad_norm = C\nS\nlog(grad_norm)"),
        ("B\nC\nlog('grad_norm', 1)\nx = N\nlog(grad_norm=x)\nS", "B\nx = C\nlog('grad_norm', 1)\nlog(grad_norm=x)\nS"),
        ("B\nC\ngrad_norm = 1\nlog(grad_norm)\ngrad_norm = N\nS\nlog(grad_norm)", None),  # the name is used in between
        ("B\nC\ngrad_norm = N  # of all\nS\nlog(grad_norm)", None),
        ("B\nif loss:\n    C\ngrad_norm = N\nS\nlog(grad_norm)", None),
        ("B\nC\ngrad_norm = N.item()\nS\nlog(grad_norm)", "B\ngrad_norm = C.item()\nS\nlog(grad_norm)"),
        ("B\nclip_grad_norm_(model.parameters(), 1.0, 1)\ngrad_norm = N\nS\nlog(grad_norm)", None),  # another norm
        ("B\nC\ngrad_norm = np.sqrt(sum(p.grad.norm().item() ** 2 for p in model.parameters()))\nS\nlog(grad_norm)", None),
        ("B\nC\nlog('grad_norm', N)\nS", None),
        ("B\nC\nself.grad_norm = N\nS", None),
        ("B\nC\nL\nS", None),
        ("if loss:\n    C\nL\nS", None),  # after a backward of the caller
        ("B\nC\nS\nL", None),
        ("B\nC\nlog(grad_norm=norm_of(model))\nS", None),
        ("B\nC\nlog({'grad_norm': norm_of(model)})\nS", None),
        ("B\nC\nlog(f'norm {norm_of(model)}')\nS", None),
        ("B\nC\ngrad_norm = norm_of(model)\nassert grad_norm <= 1\nlog(grad_norm)\nS", None),
        ("B\naccelerator.clip_grad_norm_(model.parameters(), 1.0)\nL\nS", None),
        ("B\nif loss:\n    C\nelse:\n    clip_grad_norm_(model.parameters(), 2.0)\nL\nS", None),
    ],
}  # fmt: skip


@pytest.mark.parametrize(("code", "body", "after"), [(code, *case) for code, cases in FOUND.items() for case in cases])
def test_found_and_fixed(code: str, body: str, after: str | None) -> None:
    (finding,) = check(body, code).findings
    assert (finding.fix is None) == (after is None)
    assert bool(finding.help) == (after is None)
    assert check(body, code, fix=True).now.decode() == program(after or body)
