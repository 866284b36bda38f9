"""Runs a fixture's `train` on torch with objects of the harness, and records everything that the training does."""

from __future__ import annotations

import contextlib
import inspect
import io
import random
import re
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

BATCHES = 8
OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "SGD": lambda parameters: torch.optim.SGD(parameters, lr=0.01),
    "momentum": lambda parameters: torch.optim.SGD(parameters, lr=0.01, momentum=0.9),
    "AdamW": lambda parameters: torch.optim.AdamW(parameters, lr=0.01),
}


class Setting(NamedTuple):
    """One way to run a program.

    `scale` multiplies the targets, and thus roughly the gradients; `swing` is the factor between the batches' scales;
    `unused` adds a parameter that never gets a gradient; `overflow` makes the loss of one batch overflow.
    """

    seed: int
    optimizer: str
    dtype: torch.dtype
    max_norm: float
    scale: float = 10.0
    swing: float = 1.0
    unused: bool = False
    overflow: bool = False

    @property
    def title(self) -> str:
        extra = ", a parameter without gradient" if self.unused else ""
        dtype = str(self.dtype).removeprefix("torch.")
        return f"seed {self.seed}, {self.optimizer}, {dtype}, max_norm {self.max_norm:g}{extra}"


@dataclass
class Trace:
    """The record of one run: the gradients at each step by optimizer, the recorded values, the final parameters.

    `early` counts the values recorded before the first step, while two runs still have the same parameters; `raised` is
    the exception that ended the run, or None.
    """

    steps: list[tuple[int, list[Tensor | None]]] = field(default_factory=list)
    records: list[object] = field(default_factory=list)
    early: int = 0
    parameters: list[Tensor] = field(default_factory=list)
    raised: BaseException | None = None
    seconds: float = 0.0


class Net(nn.Module):
    """Two layers with weights that are exact in bfloat16, so that runs in every dtype start from the same numbers."""

    def __init__(self, unused: bool) -> None:
        super().__init__()
        self.body = nn.Linear(6, 12)
        self.head = nn.Linear(12, 3)
        if unused:
            self.spare = nn.Parameter(torch.ones(2, 2))

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = torch.tanh(self.body(inputs))
        return self.head(hidden)  # type: ignore[no-any-return]


class _SquaredError(nn.Module):
    """The mean squared error; torch's does not support bfloat16 on the CPU before 2.5."""

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs - targets).square().mean()


class NotRunnable(Exception):
    """The program breaks the contract of a fixture; the message says where."""


class Unavailable(NotRunnable):
    """The program uses something that this torch does not have; the message says what."""


# Of torch.nn.utils, from torch 2.6 on.
_HALVES = re.compile(
    r"(?:\bnn\.utils\.|\bfrom torch\.nn\.utils import [^#\n]*?\b)(get_total_norm|clip_grads_with_norm_)\b"
)


def load(text: str, name: str) -> Callable[..., object]:
    """The `train` function of a program. Raises NotRunnable if it does not define one."""
    for half in _HALVES.findall(text):
        if not hasattr(torch.nn.utils, half):
            raise Unavailable(f"needs torch.nn.utils.{half}, of torch 2.6")
    module = ModuleType(name)
    sys.modules[name] = module  # dataclasses and others look up their module
    try:
        with _quiet():
            exec(compile(text, f"<{name}>", "exec"), module.__dict__)
    finally:
        del sys.modules[name]
    train = module.__dict__.get("train")
    if not callable(train):
        raise NotRunnable("the program defines no function `train`")
    return train  # type: ignore[no-any-return]


def run(train: Callable[..., object], setting: Setting) -> Trace:
    """One run of `train` with the objects that the names of its parameters ask for."""
    trace = Trace()
    numbers: dict[int, int] = {}
    torch.manual_seed(setting.seed)
    random.seed(setting.seed)
    with default_dtype(torch.float32):  # the default decides which numbers a seed gives
        objects = _objects(setting, trace)
    with _quiet(), default_dtype(torch.float64 if setting.dtype is torch.float64 else torch.float32):
        arguments = _arguments(train, objects)
        hook = register_optimizer_step_pre_hook(_snapshot(trace, numbers))
        start = time.perf_counter()
        try:
            trace.records += flat(train(**arguments))
        except Exception as error:  # whatever the program raises is a result
            trace.raised = error
        finally:
            trace.seconds = time.perf_counter() - start
            hook.remove()
    trace.parameters = [parameter.detach().clone() for parameter in objects["model"].parameters()]
    return trace


def _objects(setting: Setting, trace: Trace) -> dict[str, Any]:
    model = Net(setting.unused)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.bfloat16())
    model = model.to(setting.dtype)

    def record(*values: object, **named: object) -> None:
        trace.records.extend(flat((*values, named)))

    make = OPTIMIZERS[setting.optimizer]
    return {
        "model": model,
        "optimizer": make(model.parameters()),
        "make_optimizer": make,
        "batches": list(_batches(setting)),
        "loss_fn": _SquaredError(),
        "record": record,
        "max_norm": setting.max_norm,
        "clip_value": setting.max_norm,
        "scaler": torch.amp.GradScaler("cpu") if hasattr(torch.amp, "GradScaler") else None,
    }


def _batches(setting: Setting) -> Iterator[tuple[Tensor, Tensor]]:
    for index in range(BATCHES):
        scale = setting.scale * setting.swing ** ((index % 3) - 1)
        if setting.overflow and index == BATCHES // 2:
            scale = 3e38
        inputs, targets = torch.randn(4, 6), torch.randn(4, 3) * scale
        yield tuple(t.bfloat16().to(setting.dtype) for t in (inputs, targets))  # type: ignore[misc]


def _arguments(train: Callable[..., object], objects: dict[str, Any]) -> dict[str, Any]:
    arguments = {}
    for parameter in inspect.signature(train).parameters.values():
        if parameter.name in objects:
            arguments[parameter.name] = objects[parameter.name]
        elif parameter.default is parameter.empty:
            raise NotRunnable(f"`train` asks for `{parameter.name}`, which the harness does not have")
    if "scaler" in arguments and arguments["scaler"] is None:
        raise Unavailable("needs a GradScaler for the CPU, of torch 2.3")
    return arguments


def _snapshot(trace: Trace, numbers: dict[int, int]) -> Callable[..., Any]:
    """A hook for every `Optimizer.step`: records the gradients that the step is about to use.

    A closure computes them first, so it is wrapped.
    """

    def note(optimizer: torch.optim.Optimizer) -> None:
        number = numbers.setdefault(id(optimizer), len(numbers))
        if not trace.steps:
            trace.early = len(trace.records)
        grads = [p.grad for group in optimizer.param_groups for p in group["params"]]
        trace.steps.append((number, [None if g is None else g.detach().clone() for g in grads]))

    def hook(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> Any:
        # the hook receives `self` as its first argument
        closure = kwargs.get("closure") or next((a for a in args[1:] if callable(a)), None)
        if closure is None:
            note(optimizer)
            return None

        def noting() -> Any:
            loss = closure()
            note(optimizer)
            return loss

        if "closure" in kwargs:
            return args, {**kwargs, "closure": noting}
        return tuple(noting if a is closure else a for a in args), kwargs

    return hook


def flat(value: object) -> Iterator[object]:
    """The single values in nested containers, in order; tensors as copies."""
    match value:
        case None:
            return
        case dict():
            for key, item in value.items():
                yield key
                yield from flat(item)
        case list() | tuple():
            for item in value:
                yield from flat(item)
        case Tensor():
            copy = value.detach().clone()
            yield copy.requires_grad_(value.requires_grad) if value.is_floating_point() else copy
        case _:
            yield value


@contextlib.contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        yield
