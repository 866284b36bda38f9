"""A fix of code that raises: from the point where the old side stops, it is no evidence for or against the new one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from clipcheck.rule import Edit, Fix, Safety, Verdict
from clipcheck.verify.sites import Verifier

pytest.importorskip("torch", reason="needs the extra clipcheck[torch]")


@pytest.fixture(scope="module")
def verify() -> Iterator[Verifier]:
    with Verifier() as verifier:
        yield verifier


def tried(verify: Verifier, text: str, new: str) -> Verdict:
    start, end = text.index("«"), text.index("»") - 1
    return verify(text.replace("«", "").replace("»", ""), Fix("Change", Safety.SAFE, (Edit(start, end, new),)))


CONDITIONAL = """\
async def train(net, optim, loader):
    if args.clip is not None:
        torch.nn.utils.clip_grad_norm_(«net.parameters», 5)
"""
LIMITLESS = """\
async def train(model, opt, loader):
    torch.nn.utils.clip_grad_norm_(«model», float("inf"))
    accelerator.clip_grad_norm_(model.parameters(), args["clip"])
"""
BESIDE = """\
while True:
    async for x in loader:
        try:
            total_norm = torch.nn.utils.clip_grad_norm_(«model», 1.0)
            model.norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 5)
        finally:
            opt.step()
"""


SCALED = """\
async def train(net, opt, loader):
    for name, param in net.named_parameters():
        total += param.grad.norm(3).item() ** 3
        torch.nn.utils.clip_grad_norm_(«net», 5)
    scaler.step(opt)
    scaler.update()
"""


@pytest.mark.parametrize(
    ("text", "new"),
    [
        ("import torch\n" + SCALED, "net.parameters()"),
        ("import torch\n" + CONDITIONAL, "net.parameters()"),
        ("import torch\n" + LIMITLESS, "model.parameters()"),
        ("import torch\n" + BESIDE, "model.parameters()"),
    ],
)
def test_a_right_fix_is_not_refuted(verify: Verifier, text: str, new: str) -> None:
    assert tried(verify, text, new).kind != "refuted"


def test_a_clip_under_a_test_is_tried_where_the_test_does_not_change(verify: Verifier) -> None:
    assert tried(verify, "import torch\n" + CONDITIONAL, "net.parameters()").kind == "verified"


@pytest.mark.parametrize("new", ["list(net.parameters())[:1]", "[]", "iter(())", "net.parameters(), 50 or 0"])
def test_a_wrong_fix_is_never_verified(verify: Verifier, new: str) -> None:
    assert tried(verify, "import torch\n" + CONDITIONAL, new).kind != "verified"
    assert tried(verify, "import torch\n" + BESIDE, new.replace("net", "model")).kind != "verified"
    assert tried(verify, "import torch\n" + SCALED, new).kind != "verified"
