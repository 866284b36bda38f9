"""The layout of a DTensor over its mesh, and this rank's part of it; does not import the DTensor module."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, TypeAlias

from torch import Tensor

from clipcheck.runtime.gradients import no_subclass

Placements: TypeAlias = tuple[Any, ...]
Layout: TypeAlias = tuple[
    int, Placements
]  # the placements, and the mesh by identity: equal meshes may have different groups


class Parts(NamedTuple):
    """This rank's parts of gradients, in the order of the gradients."""

    stored: list[Tensor]  # the storage: scaling it scales the gradients, including partial sums
    values: list[Tensor]  # what is measured: the same list, or another one if partial sums had to be reduced


def dtensor_class() -> Any:
    """The class DTensor, or () for `isinstance` if its module is not loaded: then no DTensor can exist."""
    return getattr(_module(), "DTensor", ())


def is_dtensor(tensor: object) -> bool:
    return isinstance(tensor, dtensor_class())


def any_dtensor(tensors: list[Tensor]) -> bool:
    """Whether any of them is a DTensor."""
    if no_subclass(tensors):  # first: torch.compile of torch 2.2 cannot ask for the class
        return False
    dtensor = dtensor_class()
    return any(isinstance(tensor, dtensor) for tensor in tensors)


def layouts(tensors: Iterable[Any], plain: Callable[[Any], Any]) -> list[Any]:
    """Returns the layout of each DTensor, and `plain(tensor)` for any other tensor."""
    dtensor = dtensor_class()
    return [
        (id(spec.mesh), spec.placements) if isinstance(tensor, dtensor) and (spec := tensor._spec) else plain(tensor)
        for tensor in tensors
    ]


def wanted(tensor: Any) -> Placements:
    """Returns the placements under which a DTensor's gradient is measured: its own, with partial sums reduced."""
    return tuple(map(_whole, tensor.placements))


def parts(grads: Iterable[Any], tensors: Iterable[Any], placements: Iterable[Placements | None]) -> Parts:
    """Returns this rank's parts of gradients, given the tensor that each belongs to and the placements wanted for it.

    A gradient with other placements is redistributed to read its values: a collective. This runs for every gradient in
    every step, so the loop makes no Python call for gradients that need nothing.
    """
    dtensor = dtensor_class()
    stored: list[Tensor] = []
    reduced: dict[int, Tensor] = {}
    for grad, tensor, form in zip(grads, tensors, placements, strict=True):
        if not isinstance(grad, dtensor):
            stored.append(grad)
            continue
        part = grad._local_tensor
        if grad._spec.placements != form:
            reduced[len(stored)] = _redistributed(grad, tensor)
        stored.append(part if type(part) is Tensor else _memory(grad))
    values = [reduced.get(at, part) for at, part in enumerate(stored)] if reduced else stored
    return Parts(stored, values)


def local_storage(grad: Any) -> Tensor:
    """Returns the storage of this rank's part of a gradient: scaling it scales the gradient, including partial sums."""
    return _memory(grad) if is_dtensor(grad) else grad


def plain(norm: Any) -> Any:
    """Returns a total norm as a plain tensor or number: torch's own norm of DTensors is a DTensor."""
    return norm.full_tensor() if is_dtensor(norm) else norm


def replicated(norm: Tensor, mesh: Any) -> Tensor:
    """Returns a norm that all ranks of a mesh have as a replicated DTensor; nothing is sent."""
    placements = [_module().Replicate()] * mesh.ndim
    return dtensor_class().from_local(norm, mesh, placements, run_check=False)  # type: ignore[no-any-return]


def _memory(grad: Any) -> Tensor:
    part: Tensor = grad._local_tensor
    return part.wait() if type(part) is not Tensor and hasattr(part, "wait") else part


def _redistributed(grad: Any, tensor: Any) -> Tensor:
    """This rank's part of a gradient, redistributed to the layout of its parameter; partial sums are reduced."""
    like = tensor if is_dtensor(tensor) and tensor.device_mesh == grad.device_mesh else grad
    form = tuple(map(_whole, like.placements))
    return _memory(grad if grad.placements == form else grad.redistribute(placements=form))


def _whole(placement: Any) -> Any:
    return _module().Replicate() if placement.is_partial() else placement


def _module() -> Any:
    """The module of DTensor and its placements, if it is loaded; it was private up to torch 2.4."""
    names = ("torch.distributed.tensor", "torch.distributed._tensor")
    return next((sys.modules[name] for name in names if hasattr(sys.modules.get(name), "DTensor")), None)
