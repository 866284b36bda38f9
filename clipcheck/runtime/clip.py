"""Gradient clipping that is faster and more accurate than torch's, and correct however the gradients are sharded.

`clip_grad_norm_`, `get_total_norm` and `clip_grads_with_norm_` replace the functions of the same names in
`torch.nn.utils`: same arguments, same results or more accurate ones. Differences from torch: `docs/runtime.md`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor

from clipcheck.runtime import again, dtensors, local, plain, sharded
from clipcheck.runtime.culprits import NamedTensors, culprits
from clipcheck.runtime.gradients import (
    ORDINARY,
    Gradient,
    Tensors,
    gradients,
    listed,
    no_subclass,
    parameters_of,
    present,
    refuse_copies,
    reject,
)
from clipcheck.runtime.sharded import Counts
from clipcheck.runtime.spread import Asked, Group, ShardGroup, Spread, refuse_fsdp1, spread

NonFinite: TypeAlias = Literal["spread", "raise", "skip"]


def clip_grad_norm_(
    parameters: Tensors,
    max_norm: float,
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
    foreach: bool | None = None,
    *,
    group: Group | Iterable[Group] | None = None,
    shard_group: ShardGroup | None = None,
    all_groups: Iterable[Group] | None = None,
    counts: Counts | None = None,
    gradient: Gradient | None = None,
    nonfinite: NonFinite = "spread",
    names: NamedTensors | None = None,
) -> Tensor:
    """Scales the gradients of `parameters` in place so that their total norm is at most `max_norm`.

    The total norm is `(Σ|g|^p)^(1/p)` over all elements of all gradients, `p = norm_type`; every gradient is multiplied
    by `min(1, max_norm / (norm + 1e-6))`, the formula of `torch.nn.utils.clip_grad_norm_`. Nothing is written when the
    coefficient is 1.

    With DTensors, on one mesh or on several, or with `group`, `shard_group` or `all_groups`, the norm is that of the
    whole model and the call is a collective: every rank must make it, with the same list of parameters unless
    `all_groups` is given. Wherever a process group is accepted, so is a device mesh: it means the groups of all its
    dimensions.

    Args:
        parameters: an iterable of parameters, read once, or one parameter; a `.grad` of None is skipped.
        max_norm: the largest norm allowed.
        norm_type: the order of the norm; may be `inf`. 0 counts the gradients that are not all zero.
        error_if_nonfinite: raise a `RuntimeError` if the norm is NaN or infinite; reads the norm on the host.
        foreach: as in torch; True raises on devices without foreach functions, and nothing else depends on it.
        group: one or more process groups whose ranks hold different parameters, such as pipeline stages.
        shard_group: for parameters that are not DTensors, the process group whose ranks hold different parts of them,
            or a function that returns that group, or None, for a parameter (experts, flat parameters). Without it, a
            plain parameter is assumed to be whole on every rank.
        all_groups: every process group over which a parameter of any rank is sharded, in the same order on every
            rank. Ranks may then pass different parameters: a rank without experts takes part in their exchange.
        counts: a function that returns whether this rank counts a parameter in the norm. A parameter that two ranks
            hold, such as an embedding tied across pipeline stages, is counted on one and scaled on both.
        gradient: where to find the gradient of a parameter if not in `.grad`: the name of an attribute, such as
            "main_grad", or a function that returns a parameter's gradient or None.
        nonfinite: what to do if the norm is NaN or infinite. "spread": the gradients become NaN, or zero, as in torch.
            "raise": as `error_if_nonfinite`. "skip": all gradients become zero, on their device, without a
            synchronization; `norm.isfinite()` tells later whether that happened. All ranks that share the norm do
            the same.
        names: `model.named_parameters()`, for the error message; read only when the error is raised.

    Returns:
        The norm before clipping, 0-dim, on the first gradient's device: float64 if any gradient is, else float32.

    Raises:
        TypeError: `parameters` is a module, `named_parameters()`, `param_groups` or the like.
        ValueError: `all_groups` lacks a group; `gradient` returns a copy, so that scaling it would have no effect;
            `nonfinite` is unknown, or contradicts `error_if_nonfinite`.
        RuntimeError: the norm is not finite under `error_if_nonfinite` or `nonfinite="raise"`, and nothing was scaled;
            `foreach=True` on a device without it; the parameters belong to FSDP1.
    """
    params = listed(parameters, level=3)
    max_norm, norm_type = float(max_norm), float(norm_type)
    raises, skips = _choices(nonfinite, error_if_nonfinite)
    is_local = group is None and shard_group is None and all_groups is None
    if is_local and not raises and counts is None and gradient is None:
        clipped = _clip_here_(params, max_norm, norm_type, skips)
        clipped = again.clip_(params, max_norm, norm_type, skips) if clipped is None else clipped
        if clipped is not None:
            return clipped
    with torch.no_grad():
        params = parameters_of(params)
        how = spread(params, Asked(group, shard_group, all_groups))
        own = gradients(params, gradient)
        refuse_copies(params, own, gradient)
        grads = present(own)
        if raises or not grads or (how is None and counts is not None):
            norm = _norm(params, own, how, norm_type, raises, foreach, counts, names=names)
            _scale(grads, norm, max_norm, skips)
        else:
            local.check_foreach(grads, foreach)
            if how is None:
                norm = local.clip_(grads, max_norm, norm_type, skips)
            else:
                norm = sharded.clip_(params, own, max_norm, norm_type, how, counts, skips)
        return _result(norm, grads or params)


def get_total_norm(
    tensors: Tensors,
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
    foreach: bool | None = None,
    *,
    group: Group | Iterable[Group] | None = None,
    shard_group: ShardGroup | None = None,
    all_groups: Iterable[Group] | None = None,
    counts: Counts | None = None,
) -> Tensor:
    """Returns the total norm of `tensors`, which are gradients, not parameters, as if they were one vector.

    Arguments, result and errors are those of `clip_grad_norm_`, except that functions are called with the gradients
    themselves; the norm of an empty list is 0. For DTensors it is the norm of the whole tensors.
    """
    with torch.no_grad():
        grads = listed(tensors, "tensors", level=3)
        if not no_subclass(grads):
            for grad in grads:
                if not isinstance(grad, Tensor):
                    reject(grad, "tensors")
        how = spread(grads, Asked(group, shard_group, all_groups))
        norm = _norm(grads, [*grads], how, float(norm_type), error_if_nonfinite, foreach, counts, exact=False)
        return _result(norm, grads)


def clip_grads_with_norm_(
    parameters: Tensors,
    max_norm: float,
    total_norm: Tensor | float,
    foreach: bool | None = None,
    *,
    group: Group | Iterable[Group] | None = None,
    shard_group: ShardGroup | None = None,
    gradient: Gradient | None = None,
    nonfinite: NonFinite = "spread",
    names: NamedTensors | None = None,
) -> None:
    """Multiplies the gradients of `parameters` in place by `min(1, max_norm / (total_norm + 1e-6))`.

    `total_norm` is a tensor of one element, as `get_total_norm` returns it, or a number. It is the norm over all ranks,
    so nothing is exchanged: `group` and `shard_group` are accepted only so that both functions can be called with the
    same arguments. The other arguments are those of `clip_grad_norm_`.
    """
    del group, shard_group
    raises, skips = _choices(nonfinite)
    with torch.no_grad():
        params = parameters_of(parameters)
        own = gradients(params, gradient)
        refuse_copies(params, own, gradient)
        grads = present(own)
        local.check_foreach(grads, foreach)
        norm = dtensors.plain(total_norm)
        if raises and not local.is_finite(norm):
            raise RuntimeError(f"`total_norm` is non-finite, so nothing was clipped: {culprits(params, own, names)}")
        _scale(grads, norm, float(max_norm), skips)


def grad_norm(
    parameters: Tensors,
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
    foreach: bool | None = None,
    *,
    group: Group | Iterable[Group] | None = None,
    shard_group: ShardGroup | None = None,
    all_groups: Iterable[Group] | None = None,
    counts: Counts | None = None,
    gradient: Gradient | None = None,
) -> Tensor:
    """Returns the total norm of the gradients of `parameters`; nothing is changed.

    Arguments and errors are those of `clip_grad_norm_`. The result is 0-dim and float64 (float32 on devices without
    it), so that `.item()` is as precise as a sum of Python floats.
    """
    with torch.no_grad():
        params = parameters_of(parameters)
        how = spread(params, Asked(group, shard_group, all_groups))
        own = gradients(params, gradient)
        norm = _norm(params, own, how, float(norm_type), error_if_nonfinite, foreach, counts)
        return _result(norm, present(own) or params, torch.float64)


class Clipped(NamedTuple):
    """What `clipped_grads` returns."""

    grads: list[Tensor | None]  # one for each parameter, in order; None where there is no gradient
    norm: Tensor  # the total norm before clipping, 0-dim
    clipped_norm: Tensor  # the total norm of `grads`, 0-dim


def clipped_grads(
    parameters: Tensors,
    max_norm: float,
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
    foreach: bool | None = None,
    *,
    group: Group | Iterable[Group] | None = None,
    shard_group: ShardGroup | None = None,
    all_groups: Iterable[Group] | None = None,
    counts: Counts | None = None,
    gradient: Gradient | None = None,
) -> Clipped:
    """Returns clipped copies of the gradients of `parameters`, and the norm before and after; `.grad` stays as it is.

    Arguments and errors are those of `clip_grad_norm_`. The copies share no memory with the gradients.
    """
    with torch.no_grad():
        given = listed(parameters, level=3)
        params = parameters_of(given)
        max_norm, norm_type = float(max_norm), float(norm_type)
        how = spread(params, Asked(group, shard_group, all_groups))
        own = gradients(params, gradient)
        norm = _norm(params, own, how, norm_type, error_if_nonfinite, foreach, counts)
        copies = [None if grad is None else grad.clone() for grad in own]
        _scale(present(copies), norm, max_norm)
        after = _norm(params, copies, how, norm_type, False, None, counts)
        copy_of = dict(zip(map(id, params), copies, strict=True))
        like = present(own) or params
        return Clipped([copy_of[id(p)] for p in given], _result(norm, like), _result(after, like))


def _choices(nonfinite: NonFinite, error_if_nonfinite: bool = False) -> tuple[bool, bool]:
    """Whether a norm that is not finite raises, and whether it zeroes the gradients."""
    if nonfinite not in ("spread", "raise", "skip"):
        raise ValueError(f'`nonfinite` must be "spread", "raise" or "skip", got {nonfinite!r}')
    if error_if_nonfinite and nonfinite == "skip":
        raise ValueError('`error_if_nonfinite=True` contradicts `nonfinite="skip"`')
    return error_if_nonfinite or nonfinite == "raise", nonfinite == "skip"


def _clip_here_(params: list[Tensor], max_norm: float, norm_type: float, skips: bool) -> Tensor | None:
    """Clips gradients that are all on one CUDA device, or all on the CPU; for others does nothing and returns None.

    Inspecting 2,000 small gradients takes the host longer than clipping them takes the GPU, so they are inspected once.
    Repeated parameters, and whatever needs a warning, are left to the general path.
    """
    if local.is_observed() or not (params and set(map(type, params)) <= ORDINARY):
        return None
    clip_ = local.clip_on_cuda_ if params[0].is_cuda else local.clip_on_cpu_
    refuse_fsdp1(params)
    grads = [grad for p in params if (grad := p.grad) is not None]
    if not grads:
        return None
    tracked = torch.is_grad_enabled()
    torch._C._set_grad_enabled(False)  # `torch.no_grad()` would take as long as the norm of a few elements
    try:
        return clip_(grads, max_norm, norm_type, skips)
    finally:
        torch._C._set_grad_enabled(tracked)


def _norm(
    tensors: list[Tensor],
    grads: list[Tensor | None],
    how: Spread | None,
    norm_type: float,
    raises: bool,
    foreach: bool | None,
    counts: Counts | None,
    exact: bool = True,
    names: NamedTensors | None = None,
) -> local.Norm:
    """The total norm of `grads`, which belong to `tensors`.

    On a device it is float64 if `exact`, otherwise it may have the dtype that callers get.
    """
    there = present(grads)
    local.check_foreach(there, foreach)
    norm: local.Norm = 0.0
    if how is not None:
        norm = sharded.norm(tensors, grads, norm_type, how, counts)
    else:
        if counts is not None:
            there = [grad for t, grad in zip(tensors, grads, strict=True) if grad is not None and counts(t)]
        if there:
            norm = local.norm(there, norm_type, torch.float64 if exact else None)
    if raises and not local.is_finite(norm):
        raise RuntimeError(
            f"The total norm of order {norm_type} for gradients from `parameters` is non-finite, so it cannot be "
            f"clipped: {culprits(tensors, grads, names)}. To disable this error and scale the gradients by the "
            "non-finite norm anyway, set `error_if_nonfinite=False`"
        )
    return norm


def _scale(grads: list[Tensor], norm: local.Norm, max_norm: float, skips: bool = False) -> None:
    if grads:
        local.scale_([dtensors.local_storage(grad) for grad in grads], norm, max_norm, skips)


def _result(norm: local.Norm, tensors: list[Tensor], dtype: torch.dtype | None = None) -> Tensor:
    """The 0-dim tensor that callers get; for an empty list it is on the CPU, as in torch."""
    device = tensors[0].device if tensors else torch.device("cpu")
    if dtype == torch.float64 and device.type not in plain.HAS_FLOAT64:
        dtype = torch.float32
    if dtype is None:
        is_narrow = isinstance(norm, Tensor) and norm.dtype == torch.float32
        dtype = torch.float32 if is_narrow else local.result_dtype(tensors)
    return local.as_tensor(norm, dtype, device)
