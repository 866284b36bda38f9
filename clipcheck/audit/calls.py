"""What a function is called with."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from functools import lru_cache
from inspect import GEN_CREATED, BoundArguments, getgeneratorstate
from types import GeneratorType
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module, Parameter
from torch.overrides import TorchFunctionMode

from clipcheck.audit import gradients
from clipcheck.audit.log import Call

_READING = {"item", "tolist", "numpy", "cpu", "__bool__", "__float__", "__int__", "__index__"}


class Reads(TorchFunctionMode):
    """Counts how often Python reads a value on the device of the gradients while it is entered: on a GPU, each synchronizes."""

    count = 0

    def __init__(self, gradients: Iterable[Tensor]) -> None:
        super().__init__()
        self._devices = {tensor.device for tensor in gradients}

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(function, "__name__", "") in _READING:
            self.count += any(isinstance(arg, Tensor) and arg.device in self._devices for arg in args[:1])
        return function(*args, **(kwargs or {}))


def is_spent(bound: BoundArguments) -> bool:
    """Whether the first argument is an iterator that was read before; of any other, what it holds takes its place.

    An empty one stays, since torch warns of some.
    """
    name, first = next(iter(bound.arguments.items()), ("", None))
    if not isinstance(first, Iterator):
        return False
    is_fresh = isinstance(first, GeneratorType) and getgeneratorstate(first) == GEN_CREATED
    items = list(first)
    bound.arguments[name] = items or first
    return not items and not is_fresh


def called(function: str, arguments: dict[str, Any], is_spent: bool) -> tuple[Call, list[Tensor]]:
    """What the call is before its outcome, and the tensors that it lists."""
    first = next(iter(arguments.values()), None)
    items = first.parameters() if isinstance(first, Module) else [first] if isinstance(first, Tensor) else first
    tensors = [item for item in items if isinstance(item, Tensor)] if isinstance(items, Iterable) else []
    limit = arguments.get("max_norm", arguments.get("clip_value"))
    oddities = {
        "spent": is_spent,
        "no parameters": bool(tensors) and not any(map(_could_hold, tensors)),
        "shards": not isinstance(first, Module) and _are_shards(tensors),
    }
    return Call(
        function,
        math.inf if limit is None else limit if isinstance(limit, (int, float, Tensor)) else math.nan,
        arguments.get("norm_type", 2.0),
        tuple(map(id, tensors)),
        tuple(oddity for oddity, holds in oddities.items() if holds),
    ), tensors


def _could_hold(tensor: Tensor) -> bool:
    """Whether a tensor has or could get a gradient."""
    return isinstance(tensor, Parameter) or (tensor.is_leaf and (tensor.requires_grad or tensor.grad is not None))


def _are_shards(tensors: list[Tensor]) -> bool:
    """Whether they are parts of FSDP1's parameters, which are whole in a model that is not sharded."""
    return any(getattr(tensor, "_fsdp_flattened", False) for tensor in tensors) and _shards_models(*map(id, tensors))


@lru_cache(maxsize=1)  # a program clips the same parameters in each step
def _shards_models(*_: int) -> bool:
    models = gradients.living(torch.distributed.fsdp.FullyShardedDataParallel)
    return any(model.sharding_strategy.name != "NO_SHARD" for model in models)
