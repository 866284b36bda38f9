"""Which classes are optimizers: one answer for every rule."""

from __future__ import annotations

import textwrap

import libcst as cst
import pytest

from clipcheck.gradients.optimizers import is_in_optimizer, is_optimizer_class
from clipcheck.python.source import Source

IMPORTS = """\
import torch
from torch import optim
from torch.optim import Optimizer
from transformers import BertAdam, TrainerCallback
from .stages import OptimizationStage
"""


def is_in(text: str) -> bool:
    """Whether the only call `here()` is in an optimizer."""
    source = Source(IMPORTS + textwrap.dedent(text))
    (call,) = (c for c in source.nodes(cst.Call) if source.code(c.func) == "here")
    return is_in_optimizer(source, call)


@pytest.mark.parametrize(
    "text",
    [
        "here()",
        "def step():\n    here()",
        "class A:\n    here()",
        "class A(object):\n    here()",
        "class A(OptimizationStage):\n    here()",
        "class A(TrainerCallback):\n    here()",
        "class A(OptimizerHook):\n    here()",
        "class A(torch.optim.lr_scheduler.LRScheduler):\n    here()",
        "class A(torch.optim.swa_utils.AveragedModel):\n    here()",
        "class A(torch.nn.Module):\n    here()",
        "class A(Optimizer):\n    pass\nhere()",
        "class A(A):\n    here()",
        "class OwnSGD:\n    def update(self):\n        here()",
        "class Trainer:\n    def step(self):\n        here()",
        "class OptimizerLoop:\n    def step(self):\n        here()",
        "class OwnOptimizer:\n    def step(self):\n        loss.backward()\n        here()",
    ],
)
def test_code_outside_optimizers(text: str) -> None:
    assert not is_in(text)


@pytest.mark.parametrize(
    "base",
    [
        "Optimizer",
        "torch.optim.Optimizer",
        "optim.Adam",
        "optim.Unheard",
        "BertAdam",
        "MyAdamW",
        "FusedSGD",
        "BaseOptimizer",
        "other.Lion",
        "unknown.optim.Anything",
        "Mixin, BertAdam",
    ],
)
def test_code_inside_optimizers(base: str) -> None:
    assert is_in(f"class A({base}):\n    def step(self):\n        here()")


def test_an_optimizer_by_its_own_name_and_methods() -> None:
    assert is_in("class OwnOptimizer:\n    def step(self):\n        self.move()\n    def move(self):\n        here()")


def test_an_optimizer_by_a_class_of_this_file() -> None:
    assert is_in("class A(BertAdam):\n    pass\nclass B(A):\n    def step(self):\n        here()")


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("torch.optim.SGD", True),
        ("optim.AdamW", True),
        ("Lion", True),
        ("apex.FusedAdam", True),
        ("Own", True),
        ("torch.optim.lr_scheduler.StepLR", False),
        ("torch.optim.swa_utils.SWALR", False),
        ("Plain", False),
        ("torch.nn.Linear", False),
        ("make_optimizer", False),
    ],
)
def test_what_creates_an_optimizer(code: str, expected: bool) -> None:
    source = Source(f"{IMPORTS}class Own(BertAdam): pass\nclass Plain(OptimizationStage): pass\nsee({code})\n")
    call = next(source.nodes(cst.Call))
    assert is_optimizer_class(source, call.args[0].value) is expected
