"""The total norm of gradients on the CPU, read once, to 1e-7 or better.

A full reduction in torch sums millions of float32 squares into eight accumulators (error 1e-5 to 1e-2). Here small
gradients are concatenated and computed in float64. Larger ones are viewed as rows: torch computes the norm of each row,
and the norms are combined in float64. The rounding errors of rows (up to 3e-7 each) cancel, unless values repeat, as
in a constant gradient, or a few rows dominate: then the error is measured on a few rows and subtracted.
"""

from __future__ import annotations

import itertools
import math
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from clipcheck.runtime import plain, rows, sixteen
from clipcheck.runtime.load import GRAIN, is_serial_better
from clipcheck.runtime.rows import Division
from clipcheck.runtime.sixteen import SIXTEEN

TINY = 192  # elements: up to this many, Python adds them up faster than torch
FEW = 512  # row norms: up to this many, Python adds them up faster than torch
SAMPLE = 32  # row norms that are inspected
ELEMENTS = 16  # elements of one row that are inspected
MEASURED = 16  # rows whose error is measured
WIDE = frozenset({torch.float64})
LARGEST = torch.finfo(torch.float32).max

_CPU = torch.device("cpu")
_vector_norm = torch.linalg.vector_norm


def norm(groups: list[list[Tensor]], norm_type: float, divisions: Sequence[Division | None] = ()) -> float:
    """Returns the total norm of gradients, grouped by dtype; `norm_type` is not 0.

    The dtypes are real and complex floating-point ones of at least 16 bits; the norm of no elements is 0. `divisions`
    says how the gradients of each dtype are divided, where that is known.
    """
    known = divisions or [None] * len(groups)
    if len(groups) == 1:
        return _group_norm(groups[0], norm_type, known[0])
    norms = [
        _group_norm(grads, norm_type, how)
        for grads, how in zip(groups, known, strict=True)
        if how or any(map(Tensor.numel, grads))
    ]
    return combined(norms, norm_type) if norms else 0.0


def scale_(groups: list[list[Tensor]], coefficient: float) -> None:
    """Multiplies gradients, grouped by dtype, in place."""
    for grads in groups:
        factor = scalar(coefficient, plain.factor_dtype(grads[0].dtype))
        if grads[0].is_complex():
            plain.scale_group_(grads, factor)
            continue
        largest = max(map(Tensor.numel, grads))
        if largest >= GRAIN and is_serial_better():
            grads = [part for grad in grads for part in _parts(grad)]
        if sixteen.has_scaling(grads[0].dtype):
            grads = _scale_small_(grads, factor, largest)
        if grads:
            torch._foreach_mul_(grads[::-1], factor)  # the last ones are still in the cache: 5 % faster for 100 MB


def _scale_small_(grads: list[Tensor], factor: Tensor, largest: int) -> list[Tensor]:
    """Multiplies small 16-bit gradients and returns the others."""
    if largest < rows.ALONE_OF_16:
        sixteen.scale_(grads, factor)
        return []
    if small := [grad for grad in grads if grad.numel() < rows.ALONE_OF_16]:
        sixteen.scale_(small, factor)
    return [grad for grad in grads if grad.numel() >= rows.ALONE_OF_16]


def scalar(value: float, dtype: torch.dtype) -> Tensor:
    """Returns a 0-dim tensor on the CPU, made in the fastest way; infinite if `dtype` has no number as large."""
    return torch.scalar_tensor(rounded(value, dtype), dtype=dtype, device=_CPU)


def rounded(value: float, dtype: torch.dtype) -> float:
    """Returns infinity for numbers above the range of `dtype`, float32 or float64: torch refuses to convert those."""
    return math.inf if value > LARGEST and dtype == torch.float32 else value


def _parts(grad: Tensor) -> tuple[Tensor, ...]:
    """Views that torch scales on one thread each, if they are cheap to make."""
    if grad.numel() < GRAIN or not grad.is_contiguous():
        return (grad,)
    return torch.split(grad.view(-1), GRAIN - 1)


def combined(norms: Iterable[float], norm_type: float) -> float:
    """Returns the norm of a vector of partial norms, without overflow in their powers."""
    values = list(norms)
    if len(values) == 1:
        return values[0]
    largest = max(values)
    vector = torch.tensor(values, dtype=torch.float64, device="cpu")
    if 0 < largest < math.inf and not any(map(math.isnan, values)) and not math.isinf(norm_type):
        return largest * float(_vector_norm(vector / largest, norm_type))
    return float(_vector_norm(vector, norm_type))


def careful_norm(grads: list[Tensor], norm_type: float) -> float:
    """Returns the norm of real gradients in float64, divided by the largest element first so that nothing overflows."""
    largest = max_abs(grads)
    if norm_type > 0 and not 0 < largest < math.inf:
        return largest
    unit = largest if 0 < largest < math.inf else 1.0
    norms = [float(_vector_norm(part.double() / unit, norm_type)) for part in _parts_of(grads)]
    return unit * combined(norms, norm_type)


def max_abs(grads: list[Tensor]) -> float:
    """Returns the largest absolute value, NaN if there is one; `aminmax` is ten times as fast as torch's inf norm."""
    extremes = [extreme for part in _parts_of(grads) for extreme in torch.aminmax(part)]
    return float(torch.stack(extremes).abs_().max())


def _group_norm(grads: list[Tensor], norm_type: float, how: Division | None) -> float:
    """The norm of gradients of one dtype: fast, then again with care if the fast way may have overflowed.

    If `how` they are divided is known, none is empty or complex.
    """
    if how is None:
        grads = [grad for grad in grads if grad.numel()]
        if not grads:
            return 0.0
        if grads[0].is_complex():
            grads = [torch.view_as_real(g.resolve_conj()) if norm_type == 2 else g.abs() for g in grads]
    if norm_type != 2:
        return _norm_of_order(grads, norm_type)
    how = how or rows.division(grads)
    are_small = len(how.small) == len(grads) and not how.small_as_rows
    norm = _exact_norm(grads, how.elements) if are_small else _norm_by_rows(grads, how)
    is_wide = are_small or grads[0].dtype in WIDE
    return norm if _in_range(norm, how.elements, is_wide) else careful_norm(grads, 2)


def _norm_of_order(grads: list[Tensor], norm_type: float) -> float:
    """The norm of any order but 0 and 2."""
    if norm_type == math.inf:
        return max_abs(grads)
    return careful_norm(grads, norm_type) if norm_type == -math.inf else _by_powers(grads, norm_type)


def _in_range(norm: float, elements: int, wide: bool) -> bool:
    """Whether no square can have overflowed to infinity or underflowed to zero.

    A float32 square below 1e-38 may be flushed to zero. With a mean square above 1e-30 that is under 1e-8 of the sum.
    """
    return math.isfinite(norm) and norm > (1e-145 if wide else 1e-15) * math.sqrt(elements)


def _exact_norm(grads: list[Tensor], elements: int) -> float:
    """The norm in float64."""
    if elements <= TINY:
        return math.hypot(*rows.joined(grads).tolist())
    if elements < GRAIN:
        return _norm_in_double(grads[0] if len(grads) == 1 else rows.joined(grads))
    return math.hypot(*[_norm_in_double(rows.joined(run)) for run in rows.together(grads)])


def _norm_in_double(tensor: Tensor) -> float:
    return float(_vector_norm(tensor, dtype=torch.float64))


def _by_powers(grads: list[Tensor], norm_type: float) -> float:
    """The norm from a sum of powers in float64, which cannot overflow up to the eighth power of a float32."""
    parts = (part.abs().double() for part in _parts_of(grads))
    sums = [part.sum() if norm_type == 1 else part.pow_(norm_type).sum() for part in parts]
    total = math.fsum(torch.stack(sums).tolist())
    if not 1e-280 < total < math.inf:
        return careful_norm(grads, norm_type)
    try:
        root: float = total ** (1 / norm_type)
        return root
    except OverflowError:  # orders near 0
        return math.inf


def _parts_of(grads: list[Tensor]) -> Iterator[Tensor]:
    """Yields the elements in tensors that torch processes on one thread each."""
    for piece in rows.split(rows.pieces(grads, rows.division(grads))):
        yield rows.joined(piece) if isinstance(piece, list) else piece


def _norm_by_rows(grads: list[Tensor], how: Division) -> float:
    matrices, small = rows.divided(grads, how)
    norms = [_exact_norm(small, sum(map(Tensor.numel, small)))] if small else []
    if max(how.sizes) >= GRAIN:
        matrices, norm = _divided(matrices)
        norms.append(norm)
    if matrices:
        norms.append(_norm_of_rows(matrices, how.any_long))
    return norms[0] if len(norms) == 1 else math.hypot(*norms)


def _divided(matrices: list[Tensor]) -> tuple[list[Tensor], float]:
    """Returns matrices for `_norm_of_rows` and the norm of everything else; on a busy machine, one thread each."""
    if is_serial_better():
        return list(rows.split(matrices)), 0.0
    dtype = matrices[0].dtype if matrices else None
    if dtype not in SIXTEEN:
        return matrices, 0.0
    large = [matrix for matrix in matrices if matrix.numel() >= sixteen.SQUARED]
    matrices = [matrix for matrix in matrices if matrix.numel() < sixteen.SQUARED]
    kernel = [matrix for matrix in large if matrix.is_contiguous() and sixteen.has_squares(matrix.dtype)]
    others = [matrix for matrix in large if not (matrix.is_contiguous() and sixteen.has_squares(matrix.dtype))]
    sums = [sums for matrix in kernel for sums in sixteen.squares(matrix.view(-1))]
    norm = math.sqrt(_sum(sums)) if sums else 0.0
    return [*matrices, *rows.split(others)], norm  # split, since a float32 copy of a large one would need memory


def _norm_of_rows(matrices: list[Tensor], any_long: bool) -> float:
    """The norm of real matrices of one dtype from the norms of their rows, some of which may be long."""
    is_wide = matrices[0].dtype in WIDE
    if matrices[0].dtype in SIXTEEN:
        vectors = [_vector_norm(matrix, 2, 1, dtype=torch.float32) for matrix in matrices]
    else:
        vectors = [_vector_norm(matrix, 2, 1) for matrix in matrices]
    count = sum(map(Tensor.numel, vectors))
    step = -(-count // SAMPLE)
    norm, sample = _norm_and_sample(vectors, count, step)
    if is_wide or not 0 < norm < math.inf:
        return norm
    largest, root = max(sample), math.hypot(*sample)
    # whether the sample is representative: no row dominates, inside the sample or outside
    is_seen = 3 * largest < norm and 0.7 * norm < root * math.sqrt(count / len(sample)) < 1.4 * norm
    if is_seen and not _repeats(sample):
        first = _start_of_row(matrices, step * sample.index(largest)) if any_long else []
        if not _repeats(first):
            return norm
    if is_seen and 4 * largest < root:
        return norm * _even_correction(matrices, step, sample)
    return norm * _correction(matrices, vectors)


def _norm_and_sample(vectors: list[Tensor], count: int, step: int) -> tuple[float, list[float]]:
    """The norm of vectors with `count` elements in all, and every `step`-th element."""
    if count >= GRAIN:
        joined = [torch.cat(run) for run in rows.together(vectors)]
        return math.sqrt(_sum(joined, square=True)), rows.joined(list(_every(joined, step))).tolist()
    vector = vectors[0] if len(vectors) == 1 else torch.cat(vectors)
    if count <= FEW:
        values: list[float] = vector.tolist()
        return math.hypot(*values), values[::step]
    return _norm_in_double(vector), vector[::step].tolist()


def _sum(vectors: list[Tensor], square: bool = False) -> float:
    """The sum of float32 numbers, or of their squares, in float64, on one thread: MKL's dot product would use all."""
    parts = (part for each in vectors for part in (torch.split(each, GRAIN - 1) if each.numel() >= GRAIN else (each,)))
    return math.fsum(_norm_in_double(part) ** 2 if square else float(part.double().sum()) for part in parts)


def _every(tensors: list[Tensor], step: int) -> Iterator[Tensor]:
    """Yields every `step`-th row, counted over all tensors."""
    start = 0
    for tensor in tensors:
        if start < (count := tensor.size(0)):
            yield tensor[start::step]
        start = (start - count) % step


def _repeats(values: list[float]) -> bool:
    """Whether nonzero values repeat, more than once; zeros are added without error."""
    return len(set(values)) < len(values) - values.count(0.0) - 1


def _start_of_row(matrices: list[Tensor], row: int) -> list[float]:
    """The magnitudes of the first elements of the given row, counted over all matrices.

    The rounding error of a long row with few distinct values exceeds 1e-7 even if such rows differ from each other.
    """
    for matrix in matrices:
        if row < (count := matrix.size(0)):
            return list(map(abs, matrix.select(0, row)[:ELEMENTS].tolist()))  # twice as fast as [row, :16]
        row -= count
    return []


def _even_correction(matrices: list[Tensor], step: int, sample: list[float]) -> float:
    """Returns what the norm is to be multiplied by: 1 and the error of the rows whose norms are in the sample.

    If all are equal, as in a constant gradient, so are the errors, and a quarter of the rows tells as much.
    """
    if len(set(sample)) == 1:
        step, sample = 4 * step, sample[::4]
    chosen = rows.joined(list(_every(matrices, step)))
    return _norm_in_double(chosen) / math.hypot(*sample)


def _correction(matrices: list[Tensor], vectors: list[Tensor]) -> float:
    """Returns what to multiply the norm by: 1 plus the mean error of rows drawn in proportion to their squared norms.

    Their mean then estimates that of all rows, whatever dominates. An error that all rows share is found in full, an
    error in half of them to within a fifth.
    """
    ends = list(itertools.accumulate(map(Tensor.numel, vectors)))
    reached = torch.empty(ends[-1], dtype=torch.float64, device=_CPU)
    parts = [part for vector in vectors for part in torch.split(vector, GRAIN - 1)]
    for part, into in zip(parts, torch.split(reached, list(map(len, parts))), strict=True):
        into.copy_(part).square_()
    reached = reached.cumsum(0)
    levels = torch.arange(0.5, MEASURED, dtype=torch.float64, device=_CPU) * (reached[-1] / MEASURED)
    drawn = torch.searchsorted(reached, levels).clamp_(max=len(reached) - 1).tolist()
    places = [(at := bisect_right(ends, row), row - ends[at]) for row in drawn]  # a matrix, a row from its end
    exact = pad_sequence([matrices[at][row] for at, row in places], batch_first=True).double().square_().sum(1)
    measured = torch.stack([vectors[at][row] for at, row in places]).double().square_()
    return math.sqrt(float((exact / measured).mean()))
