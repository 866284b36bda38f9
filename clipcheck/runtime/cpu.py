"""The total norm of gradients on the CPU, read once, on all threads, to 1e-7 or better.

A full reduction in torch runs on one thread and sums millions of float32 squares into few accumulators (error 1e-5
to 1e-2). Here each gradient is viewed as rows of 512 elements: the row norms run on all threads in torch's vectorised
kernel, and are combined in float64. Their rounding errors (2e-7 each) cancel, unless the rows are the same: those of a
constant gradient are summed again in float64.
"""

from __future__ import annotations

import itertools
import math
import threading
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

FAST = frozenset({1.0, 2.0, math.inf, -math.inf})  # the other norms go through float64: powers lose digits
ROW = 512  # elements a row; rows of 128 cost up to a third more, rows of 4,096 have ten times the error
SHORT_ROW = 128  # the same where there are few rows whose errors could cancel
FEW = 131_072  # elements: up to here rows are short, and small gradients go through float64
SAMPLE = 64  # rows among which repeated ones are looked for
SMALL = 8_192  # gradients of fewer elements are flattened together: one call each would cost more than the copy
CHUNK = 2_097_152  # elements that are flattened or converted at once: 8 MB of scratch in float32
VIEW = 128 * CHUNK  # elements whose row norms are taken at once: 2 MB of them


class _Scratch(threading.local):
    def __init__(self) -> None:
        self.buffers: dict[torch.dtype, Tensor] = {}


_scratch = _Scratch()


def norm(groups: list[list[Tensor]], norm_type: float) -> float:
    """Returns the total norm of gradients, those of one dtype together; `norm_type` is not 0.

    The dtypes are the real and complex floating ones from float16 on; without any element the norm is 0.
    """
    filled = [group for tensors in groups if (group := [grad for grad in tensors if grad.numel()])]
    return combined([_group_norm(group, norm_type) for group in filled], norm_type) if filled else 0.0


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


def _group_norm(grads: list[Tensor], norm_type: float) -> float:
    """The norm of gradients of one dtype: fast, and again in float64 where the fast way may have lost digits."""
    if grads[0].is_complex():
        grads = [torch.view_as_real(g.resolve_conj()) if norm_type == 2 else g.abs() for g in grads]
    if norm_type not in FAST:
        return careful_norm(grads, norm_type)
    fast = _fast_norm(grads, norm_type)
    return fast if _in_range(fast, grads, norm_type) else careful_norm(grads, norm_type)


def _fast_norm(grads: list[Tensor], norm_type: float) -> float:
    done: list[float] = []
    for vector in _joined(_partial_norms(grads, norm_type)):
        if norm_type in (1, 2) and vector.dtype == torch.float32 and _repeat(vector):
            return _fold(_partial_norms(grads, norm_type, torch.float64), norm_type)
        done.append(_norm_of(vector, norm_type))
    return combined(done, norm_type)


def _in_range(norm: float, grads: list[Tensor], norm_type: float) -> bool:
    """Whether no square of an element can have been lost: to infinity above, to zero below.

    A float32 square below 1e-38 may be flushed. Where the mean square is above 1e-30 that is under 1e-8 of the sum.
    """
    if norm_type != 2 or not math.isfinite(norm):
        return math.isfinite(norm)
    floor = 1e-145 if grads[0].dtype == torch.float64 else 1e-15
    return norm > floor * math.sqrt(sum(map(Tensor.numel, grads)))


def _partial_norms(grads: list[Tensor], norm_type: float, dtype: torch.dtype = torch.float32) -> Iterator[Tensor]:
    """Yields 1-D tensors of norms of pieces, which together cover every element once, in this dtype or a wider one."""
    small: list[Tensor] = []
    for grad in grads:
        if grad.numel() < SMALL:
            small.append(grad)
            continue
        for piece in _contiguous_pieces(grad):
            whole_rows = piece.numel() - piece.numel() % ROW
            yield from _norms(piece, whole_rows, norm_type, dtype)
            if whole_rows < piece.numel():
                small.append(piece.view(-1)[whole_rows:] if piece is grad else piece.view(-1)[whole_rows:].clone())
    for batch in _batches(small):
        flat = torch._C._nn.flatten_dense_tensors(batch)
        whole_rows = flat.numel() - flat.numel() % ROW if flat.numel() > FEW else 0
        yield from _norms(flat, whole_rows, norm_type, dtype)
        yield from _norms(flat[whole_rows:], flat.numel() - whole_rows, norm_type, torch.float64)


def _norms(piece: Tensor, count: int, norm_type: float, dtype: torch.dtype) -> Iterator[Tensor]:
    """Yields norms of rows of the first `count` elements of a contiguous tensor, taken in `dtype` or a wider one."""
    if not count:
        return
    row = math.gcd(count, SHORT_ROW if count <= FEW else ROW)
    dtype = torch.float64 if piece.dtype == torch.float64 else dtype
    if norm_type not in (1, math.inf) and piece.dtype == dtype and count <= VIEW:  # most often: as few calls as can be
        yield torch.linalg.vector_norm(piece.as_strided((count // row, row), (row, 1)), norm_type, 1)
        return
    flat = piece.view(-1)[:count]
    if norm_type == math.inf:
        yield torch.stack(torch.aminmax(flat)).abs().amax().double().view(1)  # 20 times as fast as torch's inf norm
    elif norm_type == 1:
        for copy in _copied(flat, dtype):  # twice as fast as torch's 1-norm, which is not vectorised
            yield copy.abs_().view(-1, row).sum(1)
    else:
        for part in torch.split(flat, VIEW) if flat.dtype == dtype else _copied(flat, dtype):
            yield torch.linalg.vector_norm(part.view(-1, row), norm_type, 1)


def _copied(flat: Tensor, dtype: torch.dtype) -> Iterator[Tensor]:
    """Yields the elements in `dtype`, in pieces that are this thread's scratch: each is overwritten by the next.

    Norms of float16 or bfloat16 rows would be rounded to that dtype, and for their argument `dtype` torch has no
    vectorised kernel and allocates a copy. Larger pieces leave the cache; for smaller ones the calls cost more than the
    copies.
    """
    buffer = _buffer(dtype)
    for chunk in torch.split(flat, CHUNK):
        yield buffer[: chunk.numel()].copy_(chunk)


def _buffer(dtype: torch.dtype) -> Tensor:
    """Returns this thread's scratch, of CHUNK elements: fresh memory costs a page fault every 4 KB at each call."""
    if dtype not in _scratch.buffers:
        with torch.inference_mode(False):
            _scratch.buffers[dtype] = torch.empty(CHUNK, dtype=dtype, device="cpu")
    return _scratch.buffers[dtype]


def _batches(grads: list[Tensor]) -> Iterator[list[Tensor]]:
    """Yields the gradients in batches of at most about CHUNK elements."""
    batch: list[Tensor] = []
    elements = 0
    for grad in grads:
        batch.append(grad)
        elements += grad.numel()
        if elements >= CHUNK:
            yield batch
            batch, elements = [], 0
    if batch:
        yield batch


def _contiguous_pieces(grad: Tensor) -> Iterator[Tensor]:
    """Yields contiguous tensors with the elements of a gradient in some order: views where its memory is dense.

    Where it is not, a piece is this thread's scratch, overwritten by the next.
    """
    if grad.is_contiguous():
        yield grad
        return
    in_memory = grad.permute(sorted(range(grad.dim()), key=grad.stride, reverse=True))
    if in_memory.is_contiguous():  # channels_last, transposed
        yield in_memory
    elif grad.numel() <= CHUNK:
        wide = torch.float64 if grad.dtype == torch.float64 else torch.float32
        yield _buffer(wide)[: grad.numel()].view(grad.shape).copy_(grad)
    else:
        widest = max(range(grad.dim()), key=grad.size)
        for half in grad.tensor_split(2, dim=widest):
            yield from _contiguous_pieces(half)


def _fold(norms: Iterator[Tensor], norm_type: float) -> float:
    """Returns the norm of all partial norms, holding about CHUNK of them at a time."""
    return combined([_norm_of(vector, norm_type) for vector in _joined(norms)], norm_type)


def _joined(norms: Iterator[Tensor]) -> Iterator[Tensor]:
    """Yields partial norms as few vectors, those of either dtype together: joining both would take longer."""
    pending: dict[torch.dtype, list[Tensor]] = {torch.float32: [], torch.float64: []}
    count = 0
    for each in norms:
        pending[each.dtype].append(each)
        count += each.numel()
        if count >= CHUNK:
            yield from (torch.cat(parts) for parts in pending.values() if parts)
            pending, count = {dtype: [] for dtype in pending}, 0
    yield from (torch.cat(parts) for parts in pending.values() if parts)


def _repeat(norms: Tensor) -> bool:
    """Whether rows of the very same norm make up a tenth of the whole, by a sample.

    Their rounding errors, 2e-7 and up to 6e-7, are the same too and add up, while those of different rows cancel.
    """
    sample = sorted(norms[:: norms.numel() // SAMPLE + 1].tolist())
    twins = [one for one, next_one in itertools.pairwise(sample) if one == next_one]
    return bool(sum(one * one for one in twins) > 0.1 * sum(one * one for one in sample))


def _norm_of(vector: Tensor, norm_type: float) -> float:
    return float(torch.linalg.vector_norm(vector.double(), norm_type))


def careful_norm(grads: list[Tensor], norm_type: float) -> float:
    """Returns the norm of real gradients in float64, each divided by the largest element first: no range is left."""
    largest = max_abs(grads)
    if largest == 0 or not math.isfinite(largest) or math.isinf(norm_type):
        return _fold(_partial_norms(grads, norm_type), norm_type)
    pieces = (
        chunk for grad in grads for piece in _contiguous_pieces(grad) for chunk in torch.split(piece.view(-1), CHUNK)
    )
    norms = [torch.linalg.vector_norm(piece.double() / largest, norm_type).item() for piece in pieces]
    return largest * combined(norms, norm_type)


def max_abs(grads: list[Tensor]) -> float:
    """Returns the largest absolute value, NaN if there is one."""
    return _fold(_partial_norms(grads, math.inf), math.inf)
