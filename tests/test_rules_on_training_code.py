"""Rules on training code as people write it: what each one must pass over, and what it must find. Silent cases first."""

from __future__ import annotations

import pytest
from test_rules_in_detail import TOTAL, f, found, loop

LIGHTNING = "import lightning as L\n"
MANUAL = LIGHTNING + "trainer = L.Trainer(precision='16-mixed')\nclass M(L.LightningModule):\n    def __init__(self):\n        self.automatic_optimization = False\n    def training_step(self, batch):\n        self.manual_backward(loss)\n"
SHARD = "from torch.distributed.fsdp import fully_shard\n"
XLA = "import torch_xla.core.xla_model as xm\n"
CLIP = "clip_grad_norm_(model.parameters(), 1.0)"


def two_nets(between: str) -> str:
    """A GAN's step, where the second clip is of the first network's parameters; `between` comes before that clip."""
    return (
        "def run(m, n, ps, loss, xs):\n    a = torch.optim.SGD(m.parameters())\n    b = torch.optim.SGD(n.parameters())\n"
        "    for x in xs:\n        a.zero_grad()\n        B\n        clip_grad_norm_(m.parameters(), 1.0)\n        a.step()\n"
        f"        b.zero_grad()\n        B\n        {between}\n        clip_grad_norm_(m.parameters(), 3.0)\n        b.step()"
    )


SILENT: dict[str, list[str]] = {
    "CLIP001": [
        # a test keeps the largest element in an attribute
        f("for p in ps:\n    self.top = max(self.top, p.grad.abs().max().item())\nassert self.top > 0", "def test_f(self, ps):"),
    ],
    "CLIP102": [
        loop("def closure():\n    loss.backward()\n    return loss\nC\noptimizer.step(closure)"),
    ],
    "CLIP104": [
        loop("B\nC\nother.zero_grad()\nS"),
        loop("B\nC\nmodel.zero_grad()\nS"),  # which may not be all that the optimizer has
    ],
    "CLIP117": [
        two_nets("clip_grad_norm_(n.parameters(), 1.0)"),
        two_nets("clip_grad_norm_(ps, 1.0)"),  # whose optimizer is not known
        two_nets("clip_all(n)"),
        two_nets("p.grad.mul_(0.5)"),
        two_nets("clip_grad_norm_(n.parameters(), 1.0)\n        clip_grad_norm_(m.parameters(), 2.0)"),
    ],
    "CLIP301": [
        MANUAL + "        self.optimizers().step()",
        MANUAL + "        self.log('loss', loss)",
    ],
    "CLIP303": [
        loop("SB\nfor opt in opts:\n    scaler.unscale_(opt)\nSS\nUP"),
        loop("SB\nfor opt in opts:\n    optimizer = opt\n    scaler.unscale_(optimizer)\nSS\nUP"),
        loop("SB\nfor part in parts:\n    U\n    break\nSS\nUP"),
        loop("SB\nfor part in parts:\n    if part:\n        continue\n    U\nSS\nUP"),
        loop("SB\nfor part in parts:\n    U\n    SS\n    UP"),
        loop("SB\nfor part in parts:\n    U\n    train(part, optimizer)\nSS\nUP"),
        loop("SB\nfor part in parts:\n    helper.unscale_(optimizer)\nSS\nUP"),
        loop("SB\nwhile not ready():\n    U\nSS\nUP"),
    ],
    "CLIP406": [
        *(SHARD + f(f"if {test}:\n    C") for test in (
            *("rank > 0", "rank >= 0", "rank < 8", "rank == 1", "rank != 0", "rank", "rank in ranks", "rank in (0, 1)"),
            *("rank not in (-1, 0)", "flags['clip']", "not is_main_process()", "is_mainly_cpu.rank", "rank == 0 or clipping"),
        )),
    ],
    "CLIP107": [
        "class A:\n    g = p.grad\n    g = g.clamp(-1, 1)",  # read as `A.g`
        "g = p.grad\nif x:\n    g = g.clamp(-1, 1)",
    ],
}  # fmt: skip


@pytest.mark.parametrize(("code", "body"), [(code, body) for code, bodies in SILENT.items() for body in bodies])
def test_silent(code: str, body: str) -> None:
    assert found(body, code) == []


FOUND: dict[str, list[tuple[str, list[str]]]] = {
    "CLIP001": [
        (f("self.total = 0.0\nfor p in ps:\n    self.total += p.grad.norm().item() ** 2\nassert self.total", "def test_f(self, ps):"), ["self.total += p.grad.norm().item() ** 2"]),
    ],
    "CLIP102": [
        (loop("Z\nC\ncompute(loss)\nS") + "\ndef compute(loss):\n    loss.backward()", [CLIP]),
    ],
    "CLIP117": [
        (two_nets("pass"), ["clip_grad_norm_(m.parameters(), 3.0)"]),
        (two_nets("clip_grad_norm_(m.parameters(), 2.0)"), ["clip_grad_norm_(m.parameters(), 2.0)", "clip_grad_norm_(m.parameters(), 3.0)"]),
    ],
    "CLIP301": [
        (MANUAL + f"        {CLIP}\n        self.optimizers().step()", [CLIP]),
    ],
    "CLIP303": [
        (loop("SB\nfor part in parts:\n    U\n    clip_grad_norm_(part.parameters(), 1.0)\nSS\nUP"), ["scaler.unscale_(optimizer)"]),
    ],
    "CLIP406": [
        *((SHARD + f(f"if {test}:\n    C"), [CLIP]) for test in (
            *("rank == 0", "self.rank == 0", "rank in (-1, 0)", "rank in [0, -1]", "not rank", "is_main_process()"),
            *("accelerator.is_main_process", "clipping and rank == 0", "not (rank != 0)", "not (rank or clipping)"),
        )),
    ],
}  # fmt: skip


@pytest.mark.parametrize(("code", "body", "lines"), [(code, *case) for code, cases in FOUND.items() for case in cases])
def test_found(code: str, body: str, lines: list[str]) -> None:
    assert found(body, code) == lines
