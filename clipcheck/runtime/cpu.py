"""The total norm of gradients on the CPU, read once, on all threads, to 1e-7 or better.

A full reduction in torch runs on one thread and sums millions of float32 squares into few accumulators (error 1e-5
to 1e-2). Here the norms of rows run on all threads, and are combined in float64. Their rounding errors (1e-7 each)
cancel, unless the values are few, as in a constant gradient: then the rows are summed in float64, too.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from clipcheck.runtime import rows

FAST = frozenset({1.0, 2.0, math.inf})  # the other norms go through float64: powers lose digits
EXACT = 262_144  # elements: up to here all in float64 costs little more
PLACES = 4  # of the gradients where values are looked at
MANY = 131_072  # norms of rows: 1 MB in float64


def norm(groups: list[list[Tensor]], norm_type: float) -> float:
    """Returns the total norm of gradients, those of one dtype together; `norm_type` is not 0.

    The dtypes are the real and complex floating ones from float16 on; without any element the norm is 0.
    """
    norms: list[float] = []
    for grads in groups:
        sizes = [grad.numel() for grad in grads]
        if 0 in sizes:
            grads, sizes = [grad for grad in grads if grad.numel()], [size for size in sizes if size]
        if grads:
            norms.append(_group_norm(grads, sizes, norm_type))
    return combined(norms, norm_type) if norms else 0.0


def combined(norms: Iterable[float], norm_type: float) -> float:
    """Returns the norm of a vector of partial norms; no power of them overflows."""
    values = list(norms)
    if len(values) == 1:
        return values[0]
    largest = max(values)
    vector = torch.tensor(values, dtype=torch.float64, device="cpu")
    if not 0 < largest < math.inf or any(map(math.isnan, values)) or math.isinf(norm_type):
        return _norm_of(vector, norm_type)
    return largest * _norm_of(vector / largest, norm_type)


def careful_norm(grads: list[Tensor], norm_type: float) -> float:
    """Returns the norm of real gradients in float64, each divided by the largest element first: no range is left."""
    largest = max_abs(grads)
    if norm_type > 0 and not 0 < largest < math.inf:
        return largest
    unit = largest if 0 < largest < math.inf else 1.0
    pieces = (piece for grad in grads for piece in rows.contiguous_pieces(grad))
    chunks = (chunk for piece in pieces for chunk in torch.split(piece.view(-1), rows.CHUNK))
    norms = [torch.linalg.vector_norm(chunk.double() / unit, norm_type).item() for chunk in chunks]
    return unit * combined(norms, norm_type)


def max_abs(grads: list[Tensor]) -> float:
    """Returns the largest absolute value, NaN if there is one."""
    return _wide_norm(grads, [grad.numel() for grad in grads], math.inf)


def _group_norm(grads: list[Tensor], sizes: list[int], norm_type: float) -> float:
    """The norm of gradients of one dtype: fast, and again in float64 where the fast way may have lost digits."""
    if grads[0].is_complex():
        grads = [torch.view_as_real(g.resolve_conj()) if norm_type == 2 else g.abs() for g in grads]
        sizes = [grad.numel() for grad in grads]
    if norm_type not in FAST:
        return careful_norm(grads, norm_type)
    elements = sum(sizes)
    wide = elements <= EXACT or grads[0].dtype == torch.float64
    if elements <= EXACT:
        norm = _norm_of(torch._C._nn.flatten_dense_tensors(grads), norm_type)
    elif wide or norm_type == math.inf:
        norm = _wide_norm(grads, sizes, norm_type)
    else:
        norm = _fast_norm(grads, sizes, norm_type)
    return norm if _in_range(norm, elements, norm_type, wide) else careful_norm(grads, norm_type)


def _wide_norm(grads: list[Tensor], sizes: list[int], norm_type: float) -> float:
    return _total((rows.norms(matrix, norm_type, torch.float64) for matrix in rows.rows(grads, sizes)), norm_type)


def _fast_norm(grads: list[Tensor], sizes: list[int], norm_type: float) -> float:
    """The 1-norm or 2-norm in float32, of float32 in float64 where the rounding errors of the rows would add up."""
    matrices = rows.rows(grads, sizes)
    if norm_type == 2 and rows.has_squares(grads[0].dtype):
        return math.sqrt(_total(map(rows.squares, matrices), 1))
    if grads[0].dtype != torch.float32:
        return _total((rows.norms(matrix, norm_type, torch.float32) for matrix in matrices), norm_type)
    samples: list[list[float]] = []
    sampled = _sampled(matrices, sum(sizes) // PLACES, samples)
    norm = _total((rows.norms(matrix, norm_type, torch.float32) for matrix in sampled), norm_type)
    return _wide_norm(grads, sizes, norm_type) if any(map(_repeat, samples)) else norm


def _in_range(norm: float, elements: int, norm_type: float, wide: bool) -> bool:
    """Whether no square of an element can have been lost: to infinity above, to zero below.

    A float32 square below 1e-38 may be flushed. Where the mean square is above 1e-30 that is under 1e-8 of the sum.
    """
    if norm_type != 2 or not math.isfinite(norm):
        return math.isfinite(norm)
    return norm > (1e-145 if wide else 1e-15) * math.sqrt(elements)


def _sampled(matrices: Iterator[Tensor], every: int, samples: list[list[float]]) -> Iterator[Tensor]:
    """Passes matrices on and puts a few elements into `samples`, once in so many elements."""
    passed = every // 2
    for matrix in matrices:
        passed += matrix.numel()
        if passed >= every:
            passed %= every
            count, length = matrix.shape
            if count > 1:  # the same columns of two rows that are far from each other
                first, second = matrix.as_strided((2, 8), (count // 2 * length, length // 8)).tolist()
                samples.append(first + second)
        yield matrix


def _repeat(sample: list[float]) -> bool:
    """Whether so few values are different that the rounding errors of rows add up instead of cancelling.

    The norm of a constant gradient is up to 3e-7 off, that of four values 1e-7, of sixteen 7e-8; that of equal rows as
    much as one of them. Zeros are added without an error.
    """
    magnitudes = [abs(value) for value in sample if value]
    return 2 * len(set(magnitudes)) <= len(magnitudes) > 1


def _total(parts: Iterator[Tensor], norm_type: float) -> float:
    """Returns the norm of vectors of norms, which are taken together as often as they fill a few caches."""
    done: list[float] = []
    pending: list[Tensor] = []
    count = 0
    for norms in parts:
        pending.append(norms)
        count += norms.numel()
        if count >= MANY:
            done.append(_norm_of(torch.cat(pending), norm_type))
            pending, count = [], 0
    if pending:
        done.append(_norm_of(torch.cat(pending), norm_type))
    return combined(done, norm_type)


def _norm_of(vector: Tensor, norm_type: float) -> float:
    wide = vector.double()
    match norm_type:  # torch's own norms of a vector in float64 take three times as long
        case 1:
            return float(wide.abs().sum())
        case 2:
            return math.sqrt(torch.dot(wide, wide))
        case math.inf:
            return float(wide.abs().max())
        case _:
            return float(torch.linalg.vector_norm(wide, norm_type))
