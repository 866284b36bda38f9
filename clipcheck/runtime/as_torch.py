"""The functions of `clip`, returning the types that torch returns: the norm of DTensors is a DTensor.

They are for code written for torch that calls `.full_tensor()` on every norm.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from clipcheck.runtime import clip, dtensors
from clipcheck.runtime.gradients import Tensors, listed


def clip_grad_norm_(
    parameters: Tensors,
    max_norm: float,
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
    foreach: bool | None = None,
) -> Tensor:
    """Like `clipcheck.runtime.clip_grad_norm_`, but returns a replicated DTensor if a gradient is a DTensor.

    Its `.full_tensor()`, `.to_local()` and `.item()` are all the norm of the whole model, without communication.
    """
    params = listed(parameters, level=3)
    norm = clip.clip_grad_norm_(params, max_norm, norm_type, error_if_nonfinite, foreach)
    return _as_torch_gives_it(norm, [p.grad for p in params])


def get_total_norm(
    tensors: Tensors, norm_type: float = 2.0, error_if_nonfinite: bool = False, foreach: bool | None = None
) -> Tensor:
    """Like `clipcheck.runtime.get_total_norm`, but returns a replicated DTensor if a tensor is a DTensor."""
    grads = listed(tensors, "tensors", level=3)
    return _as_torch_gives_it(clip.get_total_norm(grads, norm_type, error_if_nonfinite, foreach), grads)


def _as_torch_gives_it(norm: Tensor, grads: list[Any]) -> Tensor:
    """The norm on the mesh of the first DTensor; torch itself raises where there are several meshes."""
    mesh = next((grad.device_mesh for grad in grads if dtensors.is_dtensor(grad)), None)
    return norm if mesh is None else dtensors.replicated(norm, mesh)
