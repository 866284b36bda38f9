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
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from clipcheck.runtime import plain, rows
from clipcheck.runtime.load import GRAIN, is_serial_better

TINY = 192  # elements: up to this many, Python adds them up faster than torch
FEW = 1_024  # row norms: up to this many, Python adds them up faster than torch
SAMPLE = 32  # row norms that are inspected
ELEMENTS = 16  # elements of one row that are inspected
MEASURED = 16  # rows whose error is measured
WIDE = frozenset({torch.float64})

_CPU = torch.device("cpu")
_vector_norm = torch.linalg.vector_norm


def norm(groups: list[list[Tensor]], norm_type: float) -> float:
    """Returns the total norm of gradients, grouped by dtype; `norm_type` is not 0.

    The dtypes are real and complex floating-point ones of at least 16 bits; the norm of no elements is 0.
    """
    if len(groups) == 1:
        return _group_norm(groups[0], norm_type)
    return combined([_group_norm(grads, norm_type) for grads in groups], norm_type) if groups else 0.0


def scale_(groups: list[list[Tensor]], coefficient: float) -> None:
    """Multiplies gradients, grouped by dtype, in place."""
    for grads in groups:
        factor = scalar(coefficient, plain.factor_dtype(grads[0].dtype))
        if grads[0].is_complex():
            plain.scale_group_(grads, factor)
            continue
        if max(map(Tensor.numel, grads)) >= GRAIN and is_serial_better():
            grads = [part for grad in grads for part in _parts(grad)]
        torch._foreach_mul_(grads[::-1], factor)  # the last ones are still in the cache: 5 % faster for 100 MB


def scalar(value: float, dtype: torch.dtype) -> Tensor:
    """Returns a 0-dim tensor on the CPU, made in the fastest way."""
    return torch.scalar_tensor(value, dtype=dtype, device=_CPU)


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
    sizes = [grad.numel() for grad in grads]
    norms = [float(_vector_norm(part.double() / unit, norm_type)) for part in _parts_of(grads, sizes)]
    return unit * combined(norms, norm_type)


def max_abs(grads: list[Tensor]) -> float:
    """Returns the largest absolute value, NaN if there is one; `aminmax` is ten times as fast as torch's inf norm."""
    sizes = [grad.numel() for grad in grads]
    extremes = [extreme for part in _parts_of(grads, sizes) for extreme in torch.aminmax(part)]
    return float(torch.stack(extremes).abs_().max())


def _group_norm(grads: list[Tensor], norm_type: float) -> float:
    """The norm of gradients of one dtype: fast, then again with care if the fast way may have overflowed."""
    sizes = [grad.numel() for grad in grads]
    if 0 in sizes:
        grads, sizes = [grad for grad in grads if grad.numel()], [size for size in sizes if size]
        if not grads:
            return 0.0
    if grads[0].is_complex():
        grads = [torch.view_as_real(g.resolve_conj()) if norm_type == 2 else g.abs() for g in grads]
        sizes = [grad.numel() for grad in grads]
    if norm_type == math.inf:
        return max_abs(grads)
    if norm_type == -math.inf:
        return careful_norm(grads, norm_type)
    if norm_type != 2:
        return _by_powers(grads, sizes, norm_type)
    elements = sum(sizes)
    are_small = max(sizes) < rows.alone(grads[0].dtype)
    norm = _exact_norm(grads, elements) if are_small else _norm_by_rows(grads, sizes)
    is_wide = are_small or grads[0].dtype in WIDE
    return norm if _in_range(norm, elements, is_wide) else careful_norm(grads, 2)


def _in_range(norm: float, elements: int, wide: bool) -> bool:
    """Whether no square can have overflowed to infinity or underflowed to zero.

    A float32 square below 1e-38 may be flushed to zero. With a mean square above 1e-30 that is under 1e-8 of the sum.
    """
    return math.isfinite(norm) and norm > (1e-145 if wide else 1e-15) * math.sqrt(elements)


def _exact_norm(grads: list[Tensor], elements: int) -> float:
    """The norm in float64."""
    if elements <= TINY:
        return math.hypot(*rows.joined(grads).tolist())
    runs = rows.together(grads) if elements >= GRAIN else (grads,)
    norms = [float(_vector_norm(rows.joined(run).double())) for run in runs]
    return norms[0] if len(norms) == 1 else math.hypot(*norms)


def _by_powers(grads: list[Tensor], sizes: list[int], norm_type: float) -> float:
    """The norm from a sum of powers in float64, which cannot overflow up to the eighth power of a float32."""
    parts = (part.abs().double() for part in _parts_of(grads, sizes))
    sums = [part.sum() if norm_type == 1 else part.pow_(norm_type).sum() for part in parts]
    total = math.fsum(torch.stack(sums).tolist())
    return total ** (1 / norm_type) if 1e-280 < total < math.inf else careful_norm(grads, norm_type)


def _parts_of(grads: list[Tensor], sizes: list[int]) -> Iterator[Tensor]:
    """Yields the elements in tensors that torch processes on one thread each."""
    for piece in rows.split(rows.pieces(grads, sizes)):
        yield rows.joined(piece) if isinstance(piece, list) else piece


def _norm_by_rows(grads: list[Tensor], sizes: list[int]) -> float:
    matrices, small = rows.divided(grads, sizes)
    norms = [_exact_norm(small, sum(map(Tensor.numel, small)))] if small else []
    if max(sizes) >= GRAIN:
        matrices, norm = _divided(matrices)
        norms.append(norm)
    if matrices:
        norms.append(_norm_of_rows(matrices))
    return math.hypot(*norms)


def _divided(matrices: list[Tensor]) -> tuple[list[Tensor], float]:
    """Returns matrices for `_norm_of_rows` and the norm of everything else; on a busy machine, one thread each."""
    if is_serial_better():
        return list(rows.split(matrices)), 0.0
    dtype = matrices[0].dtype if matrices else None
    if dtype not in rows.SIXTEEN:
        return matrices, 0.0
    large = [matrix for matrix in matrices if matrix.numel() >= rows.SQUARED]
    matrices = [matrix for matrix in matrices if matrix.numel() < rows.SQUARED]
    kernel = [matrix for matrix in large if matrix.is_contiguous() and rows.has_squares(matrix.dtype)]
    others = [matrix for matrix in large if not (matrix.is_contiguous() and rows.has_squares(matrix.dtype))]
    sums = [sums for matrix in kernel for sums in rows.squares(matrix.view(-1))]
    norm = math.sqrt(_sum(sums)) if sums else 0.0
    return [*matrices, *rows.split(others)], norm  # split, since a float32 copy of a large one would need memory


def _norm_of_rows(matrices: list[Tensor]) -> float:
    """The norm of real matrices of one dtype from the norms of their rows."""
    dtype = torch.float32 if matrices[0].dtype in rows.SIXTEEN else None
    vectors = [_vector_norm(matrix, 2, 1, dtype=dtype) for matrix in matrices]
    count = sum(map(Tensor.numel, vectors))
    step = -(-count // SAMPLE)
    norms = [torch.cat(run) for run in (rows.together(vectors) if count >= GRAIN else (vectors,))]
    if count <= FEW:
        values = norms[0].tolist()
        norm, sample = math.hypot(*values), values[::step]
    else:
        norm, sample = math.sqrt(_sum(norms, square=True)), rows.joined(list(_every(norms, step))).tolist()
    if vectors[0].dtype in WIDE or not 0 < norm < math.inf:
        return norm
    largest = max(sample)
    is_seen = _is_seen(sample, norm, count)
    if is_seen and not _repeats(sample) and not _repeats(_of_long_row(matrices, step * sample.index(largest))):
        return norm
    if is_seen and 4 * largest < math.hypot(*sample):
        return norm * _even_correction(matrices, step, sample)
    return norm * _correction(matrices, vectors)


def _sum(vectors: list[Tensor], square: bool = False) -> float:
    """The sum of float32 numbers, or of their squares, in float64, on one thread: MKL's dot product would use all."""
    parts = (part for each in vectors for part in (torch.split(each, GRAIN - 1) if len(each) >= GRAIN else (each,)))
    wide = map(Tensor.double, parts)
    return math.fsum(float(_vector_norm(part)) ** 2 if square else float(part.sum()) for part in wide)


def _every(tensors: list[Tensor], step: int) -> Iterator[Tensor]:
    """Yields every `step`-th row, counted over all tensors."""
    start = 0
    for tensor in tensors:
        if start < (count := tensor.size(0)):
            yield tensor[start::step]
        start = (start - count) % step


def _is_seen(sample: list[float], norm: float, count: int) -> bool:
    """Whether a sample of row norms is representative: no row dominates, inside the sample or outside."""
    share = math.hypot(*sample) * math.sqrt(count / len(sample))
    return 0.7 * norm < share < 1.4 * norm and 3 * max(sample) < norm


def _repeats(values: list[float]) -> bool:
    """Whether nonzero values repeat; zeros are added without error."""
    return len(set(values)) < len(values) - values.count(0.0) - 1


def _of_long_row(matrices: list[Tensor], row: int) -> list[float]:
    """The magnitudes of the first elements of the given row, counted over all matrices, if any rows are long.

    The rounding error of a long row with few distinct values exceeds 1e-7 even if such rows differ from each other.
    """
    if not any(matrix.size(1) > rows.SHORT_ROWS for matrix in matrices):
        return []
    for matrix in matrices:
        if row < (count := matrix.size(0)):
            return list(map(abs, matrix[row, :ELEMENTS].tolist()))
        row -= count
    return []


def _even_correction(matrices: list[Tensor], step: int, sample: list[float]) -> float:
    """Returns what to multiply the norm by: 1 plus the mean error of the rows in the sample."""
    chosen = rows.joined(list(_every(matrices, step)))
    return float(_vector_norm(chosen.double())) / math.hypot(*sample)


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
