"""Gradient clipping that is faster and more exact than torch's, and right however the gradients are sharded.

`clip_grad_norm_`, `get_total_norm` and `clip_grads_with_norm_` take the place of the functions of the same names in
`torch.nn.utils`: same arguments, same results or more exact ones. Differences from torch: `docs/runtime.md`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from clipcheck.runtime import local, sharded
from clipcheck.runtime.gradients import (
    Tensors,
    gradients,
    is_compiling,
    listed,
    no_subclass,
    parameters_of,
    reject,
)
from clipcheck.runtime.sharded import ProcessGroup, ShardGroup

__all__ = ["Clipped", "clip_grad_norm_", "clip_grads_with_norm_", "clipped_grads", "get_total_norm", "grad_norm"]


def clip_grad_norm_(
    parameters: Tensors,
    max_norm: float,
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
    foreach: bool | None = None,
    *,
    group: ProcessGroup | Iterable[ProcessGroup] | None = None,
    shard_group: ShardGroup | None = None,
) -> Tensor:
    """Scales the gradients of `parameters` in place so that their total norm is at most `max_norm`.

    The total norm is `(Σ|g|^p)^(1/p)` over all elements of all gradients, `p = norm_type`; every gradient is multiplied
    by `min(1, max_norm / (norm + 1e-6))`, the formula of `torch.nn.utils.clip_grad_norm_`. Nothing is written when the
    coefficient is 1. A norm of NaN or infinity spreads to the gradients as it does in torch.

    With DTensors, on one mesh or on several, or with `group` or `shard_group`, the norm is that of the whole model and
    the call is a collective: every rank makes it with the same list of parameters.

    Args:
        parameters: an iterable of parameters, read once, or one parameter; a `.grad` of None is skipped.
        max_norm: the largest norm allowed.
        norm_type: the order of the norm; may be `inf`. 0 counts the gradients that are not all zero.
        error_if_nonfinite: raise a `RuntimeError` if the norm is NaN or infinite; reads the norm on the host.
        foreach: as in torch; True raises on devices without foreach functions, nothing else depends on it.
        group: process groups, one or several, whose ranks hold different parameters: pipeline stages.
        shard_group: for parameters that are no DTensors, the process group whose ranks hold different parts of them,
            or a function from a parameter to that group or None: experts, flat parameters. Without it a plain
            parameter is taken to be whole on every rank.

    Returns:
        The norm before clipping, 0-dim, on the first gradient's device: float64 if any gradient is double, else float32.

    Raises:
        TypeError: `parameters` is a module, `named_parameters()`, `param_groups` or the like.
        RuntimeError: the norm is not finite under `error_if_nonfinite`; `foreach=True` on a device without it; the
            parameters are FSDP1's.
    """
    with torch.no_grad():
        params = listed(parameters, level=3)
        max_norm, norm_type = float(max_norm), float(norm_type)
        if group is None and shard_group is None and not error_if_nonfinite:
            clipped = _clip_here_(params, max_norm, norm_type)
            if clipped is not None:
                return clipped
        params = parameters_of(params)
        how = sharded.spread(params, group, shard_group)
        grads = gradients(params)
        if how is None and grads and not error_if_nonfinite:
            local.check_foreach(grads, foreach)
            norm = local.clip_(grads, max_norm, norm_type)
        else:
            norm = _norm(params, grads, how, norm_type, error_if_nonfinite, foreach)
            _scale(grads, norm, max_norm)
        return _result(norm, grads or params)


def get_total_norm(
    tensors: Tensors,
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
    foreach: bool | None = None,
) -> Tensor:
    """Returns the total norm of `tensors`, which are gradients and not parameters, seen as one vector.

    Arguments, result and errors are those of `clip_grad_norm_`; the norm of no tensors is 0. DTensors give the norm of
    the whole tensors.
    """
    with torch.no_grad():
        grads = listed(tensors, "tensors", level=3)
        if not no_subclass(grads):
            for grad in grads:
                if not isinstance(grad, Tensor):
                    reject(grad, "tensors")
        how = sharded.spread(grads, None, None)
        return _result(_norm(grads, grads, how, float(norm_type), error_if_nonfinite, foreach, exact=False), grads)


def clip_grads_with_norm_(
    parameters: Tensors, max_norm: float, total_norm: Tensor | float, foreach: bool | None = None
) -> None:
    """Multiplies the gradients of `parameters` in place by `min(1, max_norm / (total_norm + 1e-6))`.

    `total_norm` is a tensor of one element, as `get_total_norm` returns it, or a number.
    """
    with torch.no_grad():
        grads = gradients(parameters_of(parameters))
        local.check_foreach(grads, foreach)
        _scale(grads, sharded.plain(total_norm), float(max_norm))


def grad_norm(
    parameters: Tensors,
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
    foreach: bool | None = None,
    *,
    group: ProcessGroup | Iterable[ProcessGroup] | None = None,
    shard_group: ShardGroup | None = None,
) -> Tensor:
    """Returns the total norm of the gradients of `parameters`; nothing is changed.

    Arguments and errors are those of `clip_grad_norm_`. The result is 0-dim and float64 (float32 on devices without
    it), so that `.item()` has every digit that a sum in Python floats has.
    """
    with torch.no_grad():
        params = parameters_of(parameters)
        how = sharded.spread(params, group, shard_group)
        grads = gradients(params)
        norm = _norm(params, grads, how, float(norm_type), error_if_nonfinite, foreach)
        return _result(norm, grads or params, torch.float64)


class Clipped(NamedTuple):
    """What `clipped_grads` returns."""

    grads: list[Tensor | None]  # one for each parameter, in order; None where `.grad` is None
    norm: Tensor  # the total norm before clipping, 0-dim
    clipped_norm: Tensor  # the total norm of `grads`, 0-dim


def clipped_grads(
    parameters: Tensors,
    max_norm: float,
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
    foreach: bool | None = None,
    *,
    group: ProcessGroup | Iterable[ProcessGroup] | None = None,
    shard_group: ShardGroup | None = None,
) -> Clipped:
    """Returns clipped copies of the gradients of `parameters`, and the norm before and after; `.grad` stays as it is.

    Arguments and errors are those of `clip_grad_norm_`. The copies share no memory with the gradients.
    """
    with torch.no_grad():
        given = listed(parameters, level=3)
        params = parameters_of(given)
        max_norm, norm_type = float(max_norm), float(norm_type)
        how = sharded.spread(params, group, shard_group)
        grads = gradients(params)
        norm = _norm(params, grads, how, norm_type, error_if_nonfinite, foreach)
        copies = {id(p): None if p.grad is None else p.grad.clone() for p in params}
        present = [copy for copy in copies.values() if copy is not None]
        _scale(present, norm, max_norm)
        after: local.Norm = 0.0
        if how is not None:
            after = sharded.norm(params, list(copies.values()), norm_type, how)
        elif present:
            after = local.norm(present, norm_type)
        return Clipped([copies[id(p)] for p in given], _result(norm, grads or params), _result(after, grads or params))


def _clip_here_(params: list[Tensor], max_norm: float, norm_type: float) -> Tensor | None:
    """The clip of gradients that all are on one CUDA device; None, and nothing done, for others.

    The host looks at each of 2,000 small gradients for longer than the GPU does, so here it looks once. Repeated
    parameters are among the others, and so is what has to be warned about.
    """
    if is_compiling() or not (no_subclass(params) and params and params[0].is_cuda):
        return None
    sharded.refuse_fsdp1(params)
    grads = [grad for p in params if (grad := p.grad) is not None]
    return local.clip_on_cuda_(grads, max_norm, norm_type) if grads else None


def _norm(
    tensors: list[Tensor],
    grads: list[Tensor],
    how: sharded.Spread | None,
    norm_type: float,
    error_if_nonfinite: bool,
    foreach: bool | None,
    exact: bool = True,
) -> local.Norm:
    """The total norm of `grads`: of `tensors` themselves if they are the same list, else of their `.grad`.

    A device gives it in float64 if `exact`, else perhaps in the dtype that callers get.
    """
    local.check_foreach(grads, foreach)
    norm: local.Norm = 0.0
    if how is not None:
        own: list[Tensor | None] = [*grads] if tensors is grads else [t.grad for t in tensors]
        norm = sharded.norm(tensors, own, norm_type, how)
    elif grads:
        norm = local.norm(grads, norm_type, torch.float64 if exact else None)
    if error_if_nonfinite and not local.is_finite(norm):
        raise RuntimeError(
            f"The total norm of order {norm_type} for gradients from `parameters` is non-finite, so it cannot be "
            "clipped. To disable this error and scale the gradients by the non-finite norm anyway, set "
            "`error_if_nonfinite=False`"
        )
    return norm


def _scale(grads: list[Tensor], norm: local.Norm, max_norm: float) -> None:
    if grads:
        local.scale_([sharded.local_storage(grad) for grad in grads], norm, max_norm)


def _result(norm: local.Norm, tensors: list[Tensor], dtype: torch.dtype | None = None) -> Tensor:
    """The 0-dim tensor that callers get; of no tensors at all on the CPU, like torch's."""
    device = tensors[0].device if tensors else torch.device("cpu")
    if dtype == torch.float64 and device.type not in ("cpu", "cuda", "meta"):
        dtype = torch.float32
    if dtype is None:
        is_narrow = isinstance(norm, Tensor) and norm.dtype == torch.float32
        dtype = torch.float32 if is_narrow else local.result_dtype(tensors)
    return local.as_tensor(norm, dtype, device)
