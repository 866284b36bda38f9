"""The total norm of gradients on the CPU, read once, to 1e-7 or better.

A full reduction in torch sums millions of float32 squares into eight accumulators (error 1e-5 to 1e-2). Here torch takes
the norms of rows, and they are combined in float64. The rounding errors of rows (up to 3e-7 each) cancel, unless values
repeat, as in a constant gradient, or few rows dominate: then the errors of a few rows are measured and taken off.
"""

from __future__ import annotations

import itertools
import math
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from clipcheck.runtime import plain, rows
from clipcheck.runtime.load import GRAIN, is_serial_better
from clipcheck.runtime.rows import Piece

EXACT = 4_096  # elements: below all in float64; from here on MKL's dot product uses all threads
TINY = 384  # elements that the host adds up sooner than torch
FEW = 1_024  # norms of rows that the host adds up sooner than torch
SAMPLE = 32  # norms of rows that are looked at
MEASURED = 16  # rows whose error is measured
KEPT = 64  # vectors of norms that are not concatenated yet
WIDE = frozenset({torch.float64})

_vector_norm = torch.linalg.vector_norm


def norm(groups: list[list[Tensor]], norm_type: float) -> float:
    """Returns the total norm of gradients, those of one dtype together; `norm_type` is not 0.

    The dtypes are the real and complex floating ones from float16 on; without any element the norm is 0.
    """
    if len(groups) == 1:
        return _group_norm(groups[0], norm_type)
    return combined([_group_norm(grads, norm_type) for grads in groups], norm_type) if groups else 0.0


def scale_(groups: list[list[Tensor]], coefficient: float) -> None:
    """Multiplies gradients, those of one dtype together, in place."""
    for grads in groups:
        factor = scalar(coefficient, plain.factor_dtype(grads[0].dtype))
        if grads[0].is_complex():
            plain.scale_group_(grads, factor)
            continue
        if max(map(Tensor.numel, grads)) >= GRAIN and is_serial_better():
            grads = [part for grad in grads for part in _parts(grad)]
        torch._foreach_mul_(grads[::-1], factor)  # last ones first: still in the cache, 5 % for 100 MB of gradients


def scalar(value: float, dtype: torch.dtype) -> Tensor:
    """Returns a 0-dim tensor on the CPU, by the fastest of the ways to make one."""
    return torch.scalar_tensor(value, dtype=dtype, device="cpu")


def _parts(grad: Tensor) -> tuple[Tensor, ...]:
    """Views that torch scales on one thread each, where they are cheap to have."""
    if grad.numel() < GRAIN or not grad.is_contiguous():
        return (grad,)
    return torch.split(grad.view(-1), GRAIN - 1)


def combined(norms: Iterable[float], norm_type: float) -> float:
    """Returns the norm of a vector of partial norms; no power of them overflows."""
    values = list(norms)
    if len(values) == 1:
        return values[0]
    largest = max(values)
    vector = torch.tensor(values, dtype=torch.float64, device="cpu")
    if 0 < largest < math.inf and not any(map(math.isnan, values)) and not math.isinf(norm_type):
        return largest * float(_vector_norm(vector / largest, norm_type))
    return float(_vector_norm(vector, norm_type))


def careful_norm(grads: list[Tensor], norm_type: float) -> float:
    """Returns the norm of real gradients in float64, each divided by the largest element first: no range is left."""
    largest = max_abs(grads)
    if norm_type > 0 and not 0 < largest < math.inf:
        return largest
    unit = largest if 0 < largest < math.inf else 1.0
    sizes = [grad.numel() for grad in grads]
    norms = [float(_vector_norm(part.double() / unit, norm_type)) for part in _parts_of(grads, sizes)]
    return unit * combined(norms, norm_type)


def max_abs(grads: list[Tensor]) -> float:
    """Returns the largest absolute value, NaN if there is one; an `aminmax` takes a tenth of torch's inf norm's time."""
    sizes = [grad.numel() for grad in grads]
    extremes = [extreme for part in _parts_of(grads, sizes) for extreme in torch.aminmax(part)]
    return float(torch.stack(extremes).abs_().max())


def _group_norm(grads: list[Tensor], norm_type: float) -> float:
    """The norm of gradients of one dtype: fast, and again with care where the fast way may have left the range."""
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
    norm = _exact_norm(grads, elements) if elements < EXACT else _norm_by_rows(grads, sizes)
    wide = elements < EXACT or grads[0].dtype in WIDE
    return norm if _in_range(norm, elements, wide) else careful_norm(grads, 2)


def _in_range(norm: float, elements: int, wide: bool) -> bool:
    """Whether no square of an element can have been lost: to infinity above, to zero below.

    A float32 square below 1e-38 may be flushed. Where the mean square is above 1e-30 that is under 1e-8 of the sum.
    """
    return math.isfinite(norm) and norm > (1e-145 if wide else 1e-15) * math.sqrt(elements)


def _exact_norm(grads: list[Tensor], elements: int) -> float:
    vector = rows.joined(grads)
    if elements <= TINY:
        return math.hypot(*vector.tolist())
    wide = vector.double()
    return math.sqrt(torch.dot(wide, wide))


def _by_powers(grads: list[Tensor], sizes: list[int], norm_type: float) -> float:
    """The norm by the sum of the powers in float64, which is in range up to the eighth power of float32."""
    parts = (part.abs().double() for part in _parts_of(grads, sizes))
    sums = [part.sum() if norm_type == 1 else part.pow_(norm_type).sum() for part in parts]
    total = math.fsum(torch.stack(sums).tolist())
    return total ** (1 / norm_type) if 1e-280 < total < math.inf else careful_norm(grads, norm_type)


def _parts_of(grads: list[Tensor], sizes: list[int]) -> Iterator[Tensor]:
    """Yields the elements in tensors that torch runs on one thread each."""
    for piece in rows.split(rows.pieces(grads, sizes)):
        yield rows.joined(piece) if isinstance(piece, list) else piece


def _norm_by_rows(grads: list[Tensor], sizes: list[int]) -> float:
    if max(sizes) < GRAIN:
        return _norm_of_pieces(lambda: rows.pieces(grads, sizes))
    is_narrow, has_kernel = grads[0].dtype in rows.SIXTEEN, rows.has_squares(grads[0].dtype)
    if is_serial_better() or (is_narrow and not has_kernel):
        return _norm_of_pieces(lambda: rows.split(rows.pieces(grads, sizes)))
    if not is_narrow:
        return _norm_of_pieces(lambda: rows.pieces(grads, sizes))
    large: list[Tensor] = []
    small: list[Piece] = []
    for piece in rows.pieces(grads, sizes):
        if isinstance(piece, list) or piece.numel() < GRAIN or not piece.is_contiguous():
            small.append(piece)
        else:
            large.append(piece.view(-1))
    sums = [sums for vector in large for sums in rows.squares(vector)]
    of_large = math.sqrt(torch.cat(sums).double().sum()) if sums else 0.0
    return math.hypot(of_large, _norm_of_pieces(lambda: rows.split(small))) if small else of_large


def _norm_of_pieces(pieces: Callable[[], Iterable[Piece]]) -> float:
    """The norm of pieces, which are asked for again if their errors have to be measured: to keep them costs more."""
    norms, counts = _norms_of_rows(pieces())
    count = len(norms)
    if count <= FEW:
        values = norms.tolist()
        norm = math.hypot(*values)
        sample = values[:: -(-count // SAMPLE)]
    else:
        parts = torch.split(norms, GRAIN - 1) if count >= GRAIN else (norms,)
        norm = math.hypot(*[float(_vector_norm(part.double())) for part in parts])
        sample = norms[:: -(-count // SAMPLE)].tolist()
    if norms.dtype in WIDE or not 0 < norm < math.inf or _errors_cancel(sample, norm, count):
        return norm
    if count <= FEW and len(counts) <= MEASURED:  # all takes less time than some
        return math.hypot(*[float(_vector_norm(rows.matrix(piece).double())) for piece in pieces()])
    return norm * _correction([*pieces()], counts, norms)


def _norms_of_rows(pieces: Iterable[Piece]) -> tuple[Tensor, list[int]]:
    """Returns the norms of the rows of all pieces, and how many rows each has.

    Few vectors are kept at a time: between copies of gradients they would keep the memory of each from being used again.
    """
    done: list[Tensor] = []
    vectors: list[Tensor] = []
    counts: list[int] = []
    for piece in pieces:
        vector = _vector_norm(rows.matrix(piece), 2, 1)
        vectors.append(vector)
        counts.append(len(vector))
        if len(vectors) == KEPT:
            done.append(torch.cat(vectors))
            vectors = []
    done += vectors
    return torch.cat(done) if len(done) > 1 else done[0], counts


def _errors_cancel(sample: list[float], norm: float, count: int) -> bool:
    """Whether many rows are different and none dominates, as far as a sample of so many rows' norms tells.

    The sample must have its share of the norm: else others, that are not in it, dominate.
    """
    if len(set(sample)) < len(sample) - sample.count(0.0) - 1:  # zeros are added without an error
        return False
    share = math.hypot(*sample) * math.sqrt(count / len(sample))
    return 0.7 * norm < share < 1.4 * norm and 3 * max(sample) < norm


def _correction(pieces: list[Piece], counts: list[int], norms: Tensor) -> float:
    """Returns what the norm is to be multiplied by: 1 and the mean error of rows that are drawn in proportion to squares.

    Drawn so, the mean is that of all rows, whatever dominates; the same error in all rows is found whole, and one in
    half of them up to a fifth.
    """
    reached = torch.cat([part.double().square_() for part in torch.split(norms, GRAIN - 1)]).cumsum(0)
    places = torch.arange(0.5, MEASURED, dtype=torch.float64, device="cpu") * (reached[-1] / MEASURED)
    drawn = torch.searchsorted(reached, places).clamp_(max=len(reached) - 1).tolist()
    ends = list(itertools.accumulate(counts))
    matrices: dict[int, Tensor] = {}
    chosen: list[Tensor] = []
    for row in drawn:
        at = bisect_right(ends, row)
        if at not in matrices:
            matrices[at] = rows.matrix(pieces[at])
        chosen.append(matrices[at][row - ends[at] + counts[at]])
    exact = pad_sequence(chosen, batch_first=True).double().square_().sum(1)
    measured = norms[torch.tensor(drawn, device="cpu")].double().square_()
    return math.sqrt(float((exact / measured).mean()))
