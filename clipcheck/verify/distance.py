"""How far apart two values or two runs are: relative differences in float64, with NaN and infinities as values."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from clipcheck.verify.harness import Trace

# A tensor much smaller than the others is measured relative to a thousandth of their norm: if a gradient cancels to
# zero, what rounding leaves is noise, not a difference.
_FLOOR = 1e-3


class Different(Exception):
    """The two cannot be compared: their types, shapes or numbers of values differ; the message says which."""


class Apart(NamedTuple):
    """The largest relative differences of two runs: in gradients and parameters, and in what was recorded."""

    training: float
    records: float


def of_traces(one: Trace, other: Trace, strict_types: bool = True) -> Apart:
    """How far apart two runs are. Raises Different.

    With `strict_types`, recorded values must agree in Python type, shape and `requires_grad`, and `other` may not have
    lower precision than `one`.
    """
    if len(one.steps) != len(other.steps):
        raise Different(f"{len(one.steps)} optimizer steps against {len(other.steps)}")
    if len(one.records) != len(other.records):
        raise Different(f"{len(one.records)} recorded values against {len(other.records)}")
    training, records = of_tensors(one.parameters, other.parameters), 0.0
    for (number, grads), (other_number, other_grads) in zip(one.steps, other.steps, strict=True):
        if number != other_number:
            raise Different("the optimizers step in another order")
        training = max(training, of_tensors(grads, other_grads))
    for left, right in zip(one.records, other.records, strict=True):
        if strict_types and not _is_only_wider(left, right):
            same_kind(left, right)
        records = max(records, of_values(left, right))
    return Apart(training, records)


def _is_only_wider(one: object, other: object) -> bool:
    """Whether the second of two recorded values is the same kind of tensor in higher precision."""
    if not (isinstance(one, Tensor) and isinstance(other, Tensor)) or not is_wider(other, one):
        return False
    return one.shape == other.shape and one.requires_grad == other.requires_grad


def of_first_steps(one: Trace, other: Trace) -> float:
    """How far apart two runs are at their first step, where both still have the same parameters. Raises Different."""
    if not (one.steps and other.steps):
        return 0.0
    early = zip(one.records[: one.early], other.records[: other.early], strict=False)
    return max([of_tensors(one.steps[0][1], other.steps[0][1]), *(of_values(*pair) for pair in early)])


def of_tensors(one: Sequence[Tensor | None], other: Sequence[Tensor | None]) -> float:
    """The largest difference of any tensor from its counterpart, relative to its norm. Raises Different."""
    if len(one) != len(other):
        raise Different(f"{len(one)} tensors against {len(other)}")
    whole = _norm([t for t in one if t is not None])
    largest = 0.0
    for left, right in zip(one, other, strict=True):
        if left is None or right is None:
            if left is not right:
                raise Different("a gradient is None on one side only")
        elif left.shape != right.shape:
            raise Different(f"shape {tuple(left.shape)} against {tuple(right.shape)}")
        else:
            largest = max(largest, _relative(left, right, whole))
    return largest


def of_values(one: object, other: object) -> float:
    """The relative difference of two recorded values; infinite if they are neither numbers nor equal."""
    left, right = _number(one), _number(other)
    if left is None or right is None:
        return 0.0 if type(one) is type(other) and one == other else math.inf
    if left.shape != right.shape:
        raise Different(f"shape {tuple(left.shape)} against {tuple(right.shape)}")
    return _relative(left, right, 0.0)


def same_kind(one: object, other: object) -> None:
    """Raises Different unless `other` has the same Python type and, for a tensor, the same shape, dtype and device."""
    if type(one) is not type(other):
        raise Different(f"{kind(one)} became {kind(other)}")
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        if one.requires_grad != other.requires_grad:
            raise Different("a tensor is part of the graph on one side only")
        if one.shape != other.shape:
            raise Different(f"shape {tuple(one.shape)} against {tuple(other.shape)}")
        if one.dtype is not other.dtype:
            raise Different(f"{one.dtype} became {other.dtype}".replace("torch.", ""))
        if one.device != other.device:
            raise Different(f"{one.device} became {other.device}")


def is_wider(one: Tensor, other: Tensor) -> bool:
    """Whether both hold floating-point numbers and the first has higher precision."""
    floats = one.is_floating_point() and other.is_floating_point()
    return floats and torch.finfo(one.dtype).eps < torch.finfo(other.dtype).eps


def kind(value: object) -> str:
    """A value's type as a noun with its article."""
    of = type(value)
    name = of.__name__ if of.__module__ == "builtins" else f"{of.__module__.split('.')[0]}.{of.__name__}"
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def is_scalar(value: object) -> bool:
    """Whether a value is a number of Python or NumPy, not an array."""
    return isinstance(value, (int, float)) or (type(value).__module__ == "numpy" and not getattr(value, "shape", (1,)))


def _number(value: object) -> Tensor | None:
    if isinstance(value, Tensor):
        return value.detach().to_dense() if value.is_sparse else value.detach()
    if isinstance(value, (int, float)) or type(value).__module__ == "numpy":
        try:
            return torch.as_tensor(value)
        except (TypeError, ValueError, RuntimeError):
            return None
    return None


def _relative(left: Tensor, right: Tensor, whole: float) -> float:
    a, b = (wide(t) for t in (left, right))
    if torch.equal(a, b):
        return 0.0
    finite = a.isfinite() & b.isfinite()
    special = ~finite
    if special.any():
        agree = (a[special] == b[special]) | (a[special].isnan() & b[special].isnan())
        if not agree.all():
            return math.inf
        a, b = a[finite], b[finite]
    apart = float(torch.linalg.vector_norm(a - b)) if a.numel() else 0.0
    size = max(float(torch.linalg.vector_norm(a)) if a.numel() else 0.0, _FLOOR * whole)
    return 0.0 if apart == 0.0 else apart / size if size else math.inf


def wide(tensor: Tensor) -> Tensor:
    """The same numbers, dense and in float64."""
    dense = tensor.detach().to_dense() if tensor.is_sparse else tensor.detach()
    return dense.to(torch.complex128 if dense.is_complex() else torch.float64)


def _norm(tensors: Iterable[Tensor]) -> float:
    norms = [float(torch.linalg.vector_norm(wide(t))) for t in tensors if t.numel()]
    return math.sqrt(sum(n * n for n in norms if math.isfinite(n)))
