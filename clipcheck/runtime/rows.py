"""Views gradients on the CPU as rows of a few hundred elements, whose norms torch's vectorized kernels compute.

torch runs an operation on one thread if it has fewer than GRAIN elements, otherwise on all. When cores are busy,
threads wait milliseconds for each other. So groups made here stay below GRAIN, and larger gradients can be split.
"""

from __future__ import annotations

import functools
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from itertools import accumulate
from typing import NamedTuple, TypeAlias, overload

import torch
from torch import Tensor

from clipcheck.runtime.load import GRAIN
from clipcheck.runtime.sixteen import SIXTEEN

ALONE, ALONE_OF_16 = 6_144, 16_384  # gradients with fewer (16-bit) elements are concatenated: a call costs more
LONGEST, SHORT_ROWS = 256, 104  # elements per row: shorter rows take more time, longer ones round more
SHORTEST = 64  # elements: rows of a matrix are used as they are from this length on
MANY = 131_072  # elements of all gradients: from this number on, rows are long
COPIED = 4_194_304  # elements of small float16 gradients: from MANY to this number, rows of a copy are used

# A gradient as a matrix of rows, or several gradients to be concatenated, below GRAIN elements.
Piece: TypeAlias = Tensor | list[Tensor]


class Division(NamedTuple):
    """How gradients of one dtype are divided, as indices in their list; it follows from their sizes and strides."""

    sizes: list[int]  # elements of each, all positive
    elements: int  # of all
    matrices: list[tuple[int, tuple[int, int] | None]]  # rows as they are, or in the given shape
    dense: list[tuple[int, tuple[int, int]]]  # rows of the given shape in memory order: transposed, channels_last
    small: list[int]  # to be concatenated
    others: list[int]  # partly a matrix; the remainder is concatenated with the small ones
    small_as_rows: bool  # float16 from MANY elements on: converting them to float64 would take longer
    any_long: bool  # whether rows may have more than SHORT_ROWS elements


def division(grads: list[Tensor]) -> Division:
    """Returns how nonempty gradients of one dtype are divided."""
    sizes = list(map(Tensor.numel, grads))
    longest, least = longest_row(sizes), alone(grads[0].dtype)
    matrices: list[tuple[int, tuple[int, int] | None]] = []
    dense: list[tuple[int, tuple[int, int]]] = []
    small: list[int] = []
    others: list[int] = []
    widest = 0
    for at, (grad, size) in enumerate(zip(grads, sizes, strict=True)):
        if size < least:
            small.append(at)
        elif _has_rows(grad, longest):
            matrices.append((at, None))
            widest = max(widest, grad.size(1))
        elif size % (across := length(size, longest)) == 0 and _in_memory(grad) is not None:
            shape = size // across, across
            (matrices if grad.is_contiguous() else dense).append((at, shape))
            widest = max(widest, across)
        else:
            others.append(at)
            widest = max(widest, longest)
    as_rows = grads[0].dtype == torch.float16 and MANY <= sum(sizes[at] for at in small) <= COPIED
    widest = max(widest, longest) if as_rows else widest
    return Division(sizes, sum(sizes), matrices, dense, small, others, as_rows, widest > SHORT_ROWS)


def pieces(grads: list[Tensor], how: Division) -> Iterator[Piece]:
    """Yields every element of gradients once."""
    matrices, small = divided(grads, how)
    yield from matrices
    yield from together(small)


def divided(grads: list[Tensor], how: Division) -> tuple[list[Tensor], list[Tensor]]:
    """Returns large gradients as matrices of rows, and the rest: small gradients, and remainders of large ones."""
    matrices = [grads[at] if shape is None else grads[at].view(shape) for at, shape in how.matrices]
    matrices += [grads[at].as_strided(shape, (shape[1], 1)) for at, shape in how.dense]
    small = [grads[at] for at in how.small]
    longest = longest_row(how.sizes) if how.others or how.small_as_rows else 0
    for grad in [grads[at] for at in how.others]:
        if (view := _in_memory(grad)) is None:
            if grad.dim() == 2 and grad.stride(1) == 1 and grad.size(1) > longest and grad.size(0) >= LONGEST:
                matrices += torch.split(grad, longest, 1)  # columns of a matrix that is a slice of a larger one
            else:
                small += _parts(grad)
        else:
            small += _as_rows(view.view(-1), longest, matrices)
    if how.small_as_rows:
        small = [rest for run in together(small) for rest in _as_rows(joined(run), longest, matrices)]
    return matrices, small


def _as_rows(vector: Tensor, longest: int, matrices: list[Tensor]) -> list[Tensor]:
    """Appends a matrix of rows to `matrices`; returns the remainder."""
    size = vector.numel()
    across = length(size, longest)
    rest = size % across
    if size > rest:
        matrices.append(vector[: size - rest].view(-1, across))
    return [vector[size - rest :]] if rest else []


def _has_rows(grad: Tensor, longest: int) -> bool:
    """Whether a gradient is a matrix of rows as it is."""
    return grad.dim() == 2 and SHORTEST <= grad.size(1) <= longest and grad.stride(1) == 1


def together(grads: list[Tensor]) -> Iterator[list[Tensor]]:
    """Yields small gradients in runs of fewer than GRAIN elements."""
    ends = list(accumulate(map(Tensor.numel, grads)))
    start, passed = 0, 0
    while start < len(grads):
        end = max(start + 1, bisect_right(ends, passed + GRAIN - 1))
        yield grads[start:end]
        start, passed = end, ends[end - 1]


@overload
def split(pieces: Iterable[Tensor]) -> Iterator[Tensor]: ...


@overload
def split(pieces: Iterable[Piece]) -> Iterator[Piece]: ...


def split(pieces: Iterable[Piece]) -> Iterator[Piece]:
    """Yields the pieces in parts that torch processes on one thread each."""
    for piece in pieces:
        if isinstance(piece, list) or piece.numel() < GRAIN:
            yield piece
        else:
            yield from torch.split(piece, max(1, (GRAIN - 1) // piece.size(1)))


def joined(grads: list[Tensor]) -> Tensor:
    """Returns the elements of gradients as one vector."""
    if len(grads) == 1:
        return grads[0].reshape(-1)
    vector: Tensor = torch._C._nn.flatten_dense_tensors(grads)
    return vector


def alone(dtype: torch.dtype) -> int:
    """Returns how many elements a gradient needs so that it is not concatenated with others."""
    return ALONE_OF_16 if dtype in SIXTEEN else ALONE


def longest_row(sizes: list[int]) -> int:
    """Returns the maximum length of a row: the errors of short rows need no correction unless the rows are alike."""
    return LONGEST if sum(sizes) >= MANY else SHORT_ROWS


@functools.lru_cache(maxsize=4096)
def length(count: int, longest: int) -> int:
    """Returns the length of the rows that so many elements are viewed as, preferably one without a remainder."""
    return next((each for each in range(longest, 79, -8) if count % each == 0), longest)


def _in_memory(grad: Tensor) -> Tensor | None:
    """Returns a contiguous view of, say, a transposed or channels_last tensor, with the elements in memory order.

    None if there are gaps or overlaps.
    """
    if grad.is_contiguous():
        return grad
    view = grad.t() if grad.dim() == 2 else grad.permute(sorted(range(grad.dim()), key=grad.stride, reverse=True))
    return view if view.is_contiguous() else None


def _parts(grad: Tensor) -> Iterator[Tensor]:
    """Yields parts of fewer than GRAIN elements."""
    limit = GRAIN - 1
    if grad.numel() <= limit:
        yield grad
        return
    outer = max((dim for dim in range(grad.dim()) if grad.size(dim) > 1), key=grad.stride)
    for part in torch.split(grad, max(1, grad.size(outer) * limit // grad.numel()), outer):
        yield from _parts(part)
