"""What a DTensor holds: how it is laid out over a mesh, and this rank's part of it; nothing is loaded for that."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, TypeAlias

from torch import Tensor

from clipcheck.runtime.gradients import no_subclass

Placements: TypeAlias = tuple[Any, ...]
Layout: TypeAlias = tuple[
    int, Placements
]  # the mesh, by identity: meshes may be equal and have other groups; the placements


class Parts(NamedTuple):
    """This rank's parts of gradients, in the order of the gradients."""

    stored: list[Tensor]  # the memory: scaling it scales the gradients, partial sums too
    values: list[Tensor]  # what counts: the same list, or another where partial sums had to be reduced


def dtensor_class() -> Any:
    """The class of DTensors, or () for `isinstance`: there is none before its module is loaded."""
    return getattr(_module(), "DTensor", ())


def is_dtensor(tensor: object) -> bool:
    return isinstance(tensor, dtensor_class())


def any_dtensor(tensors: list[Tensor]) -> bool:
    """Whether one of them is a DTensor."""
    if no_subclass(tensors):  # first: torch.compile of torch 2.2 cannot ask for the class
        return False
    dtensor = dtensor_class()
    return any(isinstance(tensor, dtensor) for tensor in tensors)


def layouts(tensors: Iterable[Any], plain: Callable[[Any], Any]) -> list[Any]:
    """Returns how each DTensor is laid out, and for another tensor what `plain` says."""
    dtensor = dtensor_class()
    return [
        (id(spec.mesh), spec.placements) if isinstance(tensor, dtensor) and (spec := tensor._spec) else plain(tensor)
        for tensor in tensors
    ]


def wanted(tensor: Any) -> Placements:
    """Returns the placements with which the elements of a DTensor's gradient count: its own, but no partial sums."""
    return tuple(map(_whole, tensor.placements))


def parts(grads: Iterable[Any], tensors: Iterable[Any], placements: Iterable[Placements | None]) -> Parts:
    """Returns this rank's parts of gradients, given what each belongs to and the placements that are wanted of it.

    A gradient with others is redistributed for its values: a collective. Each step asks for this of every gradient, so
    the loop calls no function of ours where nothing is to be done.
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
    """Returns the memory of this rank's part of a gradient: scaling it scales the gradient, partial sums too."""
    return _memory(grad) if is_dtensor(grad) else grad


def plain(norm: Any) -> Any:
    """Returns a total norm as a plain tensor or number: torch's own norm of DTensors is a DTensor."""
    return norm.full_tensor() if is_dtensor(norm) else norm


def replicated(norm: Tensor, mesh: Any) -> Tensor:
    """Returns a norm that all ranks of a mesh know as a DTensor; nothing is sent."""
    placements = [_module().Replicate()] * mesh.ndim
    return dtensor_class().from_local(norm, mesh, placements, run_check=False)  # type: ignore[no-any-return]


def _memory(grad: Any) -> Tensor:
    part: Tensor = grad._local_tensor
    return part.wait() if type(part) is not Tensor and hasattr(part, "wait") else part


def _redistributed(grad: Any, tensor: Any) -> Tensor:
    """This rank's part of a gradient, laid out as its parameter is; partial sums are reduced for that."""
    like = tensor if is_dtensor(tensor) and tensor.device_mesh == grad.device_mesh else grad
    form = tuple(map(_whole, like.placements))
    return _memory(grad if grad.placements == form else grad.redistribute(placements=form))


def _whole(placement: Any) -> Any:
    return _module().Replicate() if placement.is_partial() else placement


def _module() -> Any:
    """The module of DTensor and its placements, if it is loaded: private up to torch 2.4."""
    names = ("torch.distributed.tensor", "torch.distributed._tensor")
    return next((sys.modules[name] for name in names if hasattr(sys.modules.get(name), "DTensor")), None)
