"""What a clipping function is called with."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from functools import lru_cache
from inspect import GEN_CREATED, Signature, getgeneratorstate
from types import GeneratorType
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module
from torch.overrides import TorchFunctionMode

from clipcheck.audit import gradients
from clipcheck.audit.log import Call

_READING = {"item", "tolist", "numpy", "cpu", "__bool__", "__float__", "__int__", "__index__"}


class Reads(TorchFunctionMode):
    """Counts how often Python reads a value on the device of the gradients while it is entered: on a GPU, each time is a wait."""

    count = 0

    def __init__(self, gradients: Iterable[Tensor]) -> None:
        super().__init__()
        self._devices = {tensor.device for tensor in gradients}

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(function, "__name__", "") in _READING:
            self.count += any(isinstance(arg, Tensor) and arg.device in self._devices for arg in args[:1])
        return function(*args, **(kwargs or {}))


class Once(list[Any]):
    """What an iterator held: it can be read once, so whoever reads it passes another one on."""

    def __init__(self, iterator: Iterator[Any]) -> None:
        self.is_generator = isinstance(iterator, GeneratorType)
        self.is_fresh = isinstance(iterator, GeneratorType) and getgeneratorstate(iterator) == GEN_CREATED
        super().__init__(iterator)


def read(value: Any) -> Any:
    return Once(value) if isinstance(value, Iterator) else value


def again(value: Any) -> Any:
    """The value for the function that is called; torch warns of empty generators, so one stays one."""
    match value:
        case Once(is_generator=True):
            return (item for item in value)
        case Once():
            return iter(value)
    return value


def called(function: str, signature: Signature, args: Any, kwargs: Any) -> tuple[Call, list[Tensor]]:
    """What the call is before its outcome, and the tensors that it lists."""
    try:
        given = signature.bind(*args, **kwargs).arguments
    except TypeError:  # which the function raises, too
        given = {}
    first = next(iter(given.values()), None)
    items = first.parameters() if isinstance(first, Module) else [first] if isinstance(first, Tensor) else first
    tensors = [item for item in items if isinstance(item, Tensor)] if isinstance(items, Iterable) else []
    limit = given.get("max_norm", given.get("clip_value"))
    call = Call(
        function,
        math.inf if limit is None else float(limit) if isinstance(limit, int) else limit,
        given.get("norm_type", 2.0),
        given.get("total_norm"),
        tuple(map(id, tensors)),
        is_spent=isinstance(first, Once) and not first and not first.is_fresh,
        is_fsdp1=not isinstance(first, Module) and _are_shards(tensors),
        can_hold=any(map(gradients.could_hold, tensors)),
    )
    return call, tensors


def _are_shards(tensors: list[Tensor]) -> bool:
    """Whether they are parts of FSDP1's parameters, which are whole in a model that is not sharded."""
    return any(getattr(tensor, "_fsdp_flattened", False) for tensor in tensors) and _shards_models(*map(id, tensors))


@lru_cache(maxsize=1)  # a program clips the same parameters in each step
def _shards_models(*_: int) -> bool:
    models = gradients.living(torch.distributed.fsdp.FullyShardedDataParallel)
    return any(model.sharding_strategy.name != "NO_SHARD" for model in models)
