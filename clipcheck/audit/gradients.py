"""What gradients are at a moment: which objects, how often written to, the norms of a few; nothing waits for a device."""

from __future__ import annotations

import gc
import math
from collections.abc import Iterable
from operator import attrgetter
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.nn import Module
from torch.utils._pytree import tree_map_only

from clipcheck.runtime.gradients import stored

# By the identity of the parameter: which object its gradient is, and how often that was written to.
Versions: TypeAlias = dict[int, tuple[int, int]]

PROBES = 8  # of this many of the smallest gradients of each optimizer the norm is noted


def local(tensor: Tensor) -> Tensor:
    """The part of a tensor that is on this rank: what a DTensor holds."""
    part: Tensor = getattr(tensor, "_local_tensor", tensor)
    return part


def parameters(optimizer: Any) -> list[Tensor]:
    return [p for group in optimizer.param_groups for p in group["params"]]


def versions(tensors: list[Tensor]) -> Versions:
    # for each parameter at each event: a call for each would take longer than all the rest
    return {
        id(tensor): (id(grad), grad._version if type(grad) is Tensor else local(grad)._version)
        for tensor, grad in zip(tensors, map(_grad, tensors), strict=True)
        if grad is not None
    }


_grad = attrgetter("grad")


def smallest(tensors: Iterable[Tensor]) -> list[Tensor]:
    return sorted(tensors, key=Tensor.numel)[:PROBES]


def norms(tensors: Iterable[Tensor]) -> list[Tensor]:
    parts = [local(tensor).detach() for tensor in tensors]
    return list(torch._foreach_norm(parts)) if parts else []


def probe(tensors: Iterable[Tensor]) -> dict[int, Tensor]:
    """Norms of the smallest gradients."""
    grads = {id(t): t.grad for t in smallest(tensors) if t.grad is not None and not t.grad.is_sparse}
    return dict(zip(grads, norms(grads.values()), strict=True))


def parts(tensors: Iterable[Any]) -> int:
    """Over how many ranks the first DTensor is spread that is: 1 without one, 0 on a mesh of several dimensions."""
    spread = (t.device_mesh for t in tensors if not all(one.is_replicate() for one in getattr(t, "placements", ())))
    mesh = next(spread, None)
    return 1 if mesh is None else int(mesh.size()) if mesh.ndim == 1 else 0


def values(tensors: Iterable[Tensor]) -> list[Tensor]:
    """The memory of this rank's parts of gradients."""
    return [stored(local(t.grad)) for t in tensors if t.grad is not None]


def holders(tensors: Iterable[Tensor], among: Iterable[Tensor]) -> frozenset[int]:
    """The parameters whose gradients begin where one of the tensors does."""
    there = {*map(_address, tensors)}
    return frozenset(id(p) for p in among if p.grad is not None and _address(p.grad) in there)


def fits(buffer: Tensor, among: Iterable[Tensor]) -> frozenset[int]:
    """The parameters with gradients, if the buffer is large enough for these together."""
    own = [p for p in among if p.grad is not None]
    return frozenset(map(id, own) if buffer.numel() >= sum(p.numel() for p in own) else ())


def _address(tensor: Tensor) -> int:
    try:
        return stored(local(tensor)).data_ptr() or id(tensor)
    except RuntimeError:  # it has no memory of its own
        return id(tensor)


def numbers(value: Any) -> Any:
    """The same with floats in the place of tensors, in containers as well; this synchronizes with the device."""
    return tree_map_only(Tensor, _number, value)


def _number(tensor: Tensor) -> float:
    try:
        return float(local(tensor.detach()))
    except RuntimeError:  # the device has failed, and with it the program
        return math.nan


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
