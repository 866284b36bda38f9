"""What gradients are at a moment: which objects, how often written to, the norms of a few; nothing waits for a device."""

from __future__ import annotations

import gc
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module, Parameter

from clipcheck.audit.events import Probe, State
from clipcheck.runtime.gradients import stored

PROBES = 8  # of this many of the smallest gradients of each optimizer the norm is noted at every event


def local(tensor: Tensor) -> Tensor:
    """The part of a tensor that is on this rank: what a DTensor holds."""
    part: Tensor = getattr(tensor, "_local_tensor", tensor)
    return part


def parameters(optimizer: Any) -> list[Tensor]:
    return [p for group in optimizer.param_groups for p in group["params"]]


def state(tensors: Iterable[Tensor]) -> State:
    return {id(t): (id(t.grad), local(t.grad)._version) for t in tensors if t.is_leaf and t.grad is not None}


def probe(tensors: list[Tensor]) -> Probe:
    small = sorted(tensors, key=Tensor.numel)[:PROBES]
    grads = {id(t): local(t.grad) for t in small if t.grad is not None and not t.grad.is_sparse}
    return dict(zip(grads, torch._foreach_norm([*grads.values()]), strict=True)) if grads else {}


def weights(tensors: list[Tensor]) -> tuple[Tensor, ...]:
    """The norms of the smallest parameters, by which replicas are known."""
    small = sorted(tensors, key=Tensor.numel)[:PROBES]
    return tuple(torch._foreach_norm([local(t).detach() for t in small])) if small else ()


def parts(tensors: Iterable[Any]) -> int:
    """Over how many ranks the first DTensor is spread: 1 without one, 0 on a mesh of several dimensions."""
    mesh = next((t.device_mesh for t in tensors if hasattr(t, "device_mesh")), None)
    return 1 if mesh is None else int(mesh.size()) if mesh.ndim == 1 else 0


def values(grads: Iterable[Tensor]) -> list[Tensor]:
    """The memory of this rank's parts of gradients."""
    return [stored(local(grad)) for grad in grads]


def could_hold(tensor: Tensor) -> bool:
    return isinstance(tensor, Parameter) or (tensor.is_leaf and tensor.requires_grad)


def share_memory(tensors: list[Tensor], grads: Iterable[Tensor | None]) -> bool:
    """Whether one of the tensors, parameters aside, is one of the gradients, or a view of one's beginning."""
    there = {_address(grad) for grad in grads if grad is not None}
    return any(not isinstance(t, Parameter) and _address(t) in there for t in tensors)


def _address(tensor: Tensor) -> int:
    try:
        return stored(local(tensor)).data_ptr() or id(tensor)
    except RuntimeError:  # it has no memory of its own
        return id(tensor)


def living(kind: type) -> list[Any]:
    """All objects of a class, whatever holds them."""
    return [thing for thing in gc.get_objects() if issubclass(type(thing), kind)]


def names(wanted: set[int]) -> dict[int, str]:
    """The longest name of each parameter among all modules."""
    found: dict[int, str] = {}
    for module in living(Module):
        if "_parameters" not in vars(module):
            continue
        for name, parameter in module.named_parameters():
            if id(parameter) in wanted and len(name) > len(found.get(id(parameter), "")):
                found[id(parameter)] = name
    return found
