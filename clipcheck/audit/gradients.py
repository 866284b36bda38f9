"""What gradients are at a moment: which objects, how often written to, the norms of a few; nothing waits for a device."""

from __future__ import annotations

import gc
import math
from collections.abc import Iterable
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.nn import Module, Parameter

from clipcheck.runtime.gradients import stored

# By the identity of the parameter: which object its gradient is, and how often that was written to.
Marks: TypeAlias = dict[int, tuple[int, int]]

PROBES = 8  # of this many of the smallest gradients of each optimizer the norm is noted


def local(tensor: Tensor) -> Tensor:
    """The part of a tensor that is on this rank: what a DTensor holds."""
    part: Tensor = getattr(tensor, "_local_tensor", tensor)
    return part


def parameters(optimizer: Any) -> list[Tensor]:
    return [p for group in optimizer.param_groups for p in group["params"]]


def marks(tensors: Iterable[Tensor]) -> Marks:
    return {id(t): (id(t.grad), local(t.grad)._version) for t in tensors if t.is_leaf and t.grad is not None}


def probe(tensors: Iterable[Tensor]) -> dict[int, Tensor]:
    """Norms of the smallest gradients."""
    small = sorted(tensors, key=Tensor.numel)[:PROBES]
    grads = {id(t): local(t.grad) for t in small if t.grad is not None and not t.grad.is_sparse}
    return dict(zip(grads, torch._foreach_norm([*grads.values()]), strict=True)) if grads else {}


def weights(tensors: Iterable[Tensor]) -> tuple[Tensor, ...]:
    """Norms of the smallest parameters, by which replicas are known."""
    small = sorted(tensors, key=Tensor.numel)[:PROBES]
    return tuple(torch._foreach_norm([local(t).detach() for t in small])) if small else ()


def parts(tensors: Iterable[Any]) -> int:
    """Over how many ranks the first DTensor is spread: 1 without one, 0 on a mesh of several dimensions."""
    mesh = next((t.device_mesh for t in tensors if hasattr(t, "device_mesh")), None)
    return 1 if mesh is None else int(mesh.size()) if mesh.ndim == 1 else 0


def values(tensors: Iterable[Tensor]) -> list[Tensor]:
    """The memory of this rank's parts of gradients."""
    return [stored(local(t.grad)) for t in tensors if t.grad is not None]


def could_hold(tensor: Tensor) -> bool:
    """Whether a tensor has or could get a gradient."""
    return isinstance(tensor, Parameter) or (tensor.is_leaf and (tensor.requires_grad or tensor.grad is not None))


def holders(tensors: Iterable[Tensor], among: Iterable[Tensor]) -> frozenset[int]:
    """The parameters whose gradients begin where one of the tensors does."""
    there = {*map(_address, tensors)}
    return frozenset(id(p) for p in among if p.grad is not None and _address(p.grad) in there)


def _address(tensor: Tensor) -> int:
    try:
        return stored(local(tensor)).data_ptr() or id(tensor)
    except RuntimeError:  # it has no memory of its own
        return id(tensor)


def numbers(value: Any) -> Any:
    """The same with floats in the place of tensors, in containers as well; this synchronizes with the device."""
    match value:
        case Tensor():
            try:
                return float(local(value.detach()))
            except RuntimeError:  # the device has failed, and with it the program
                return math.nan
        case dict():
            return {key: numbers(one) for key, one in value.items()}
        case tuple() if hasattr(value, "_replace"):
            return type(value)(*map(numbers, value))
        case list() | tuple():
            return type(value)(map(numbers, value))
    return value


def living(kind: type) -> list[Any]:
    """All objects of a class, whatever holds them."""
    return [thing for thing in gc.get_objects() if issubclass(type(thing), kind)]


def names() -> dict[int, str]:
    """The longest name of each parameter among all modules, by its identity."""
    named = [(name, id(p)) for module in living(Module) for name, p in _named(module)]
    return {parameter: name for name, parameter in sorted(named, key=lambda one: len(one[0]))}


def _named(module: Module) -> list[tuple[str, Tensor]]:
    try:
        return list(module.named_parameters())
    except Exception:  # of a module whose construction has failed, anything
        return []
