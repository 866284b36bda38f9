"""Describes, for an error message, which gradients made a norm NaN or infinite."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from clipcheck.runtime import dtensors
from clipcheck.runtime.gradients import stored

NamedTensors: TypeAlias = Iterable[tuple[str, Tensor]]

SHOWN = 3


def culprits(tensors: Sequence[Tensor], grads: Sequence[Tensor | None], names: NamedTensors | None) -> str:
    """Returns which of `grads`, the gradients of `tensors`, are not finite: the first few, by name or index.

    Only gradients of this process are checked, and the result is read on the host. `names` are (name, parameter) pairs.
    """
    held = [(index, _held(grad)) for index, grad in enumerate(grads) if grad is not None]
    faulty = [(index, values) for index, values in held if not values.isfinite().all()]
    if not faulty:
        return "all gradients of this process are finite, those of another or the norm itself are not"
    name_of, remark = _named(names)
    first = ", ".join(_described(index, tensors[index], values, name_of) for index, values in faulty[:SHOWN])
    more = f" and {len(faulty) - SHOWN} more" if len(faulty) > SHOWN else ""
    return f"{len(faulty)} of {len(held)} gradients are not finite: {first}{more}{remark}"


def _named(names: NamedTensors | None) -> tuple[dict[int, str], str]:
    """The names by the identities of tensors, and what is wrong with them: that must not hide the error itself."""
    try:
        return {id(tensor): name for name, tensor in names or ()}, ""
    except (TypeError, ValueError):
        return {}, " (`names` must be `model.named_parameters()`)"


def _described(index: int, tensor: Tensor, values: Tensor, name_of: dict[int, str]) -> str:
    kind = "NaN" if values.isnan().any() else "infinite"
    name = name_of.get(id(tensor))
    return f"{name} ({kind})" if name else f"number {index}, counted from 0, of shape {tuple(tensor.shape)} ({kind})"


def _held(grad: Tensor) -> Tensor:
    with torch.no_grad():
        return stored(dtensors.local_storage(grad))
