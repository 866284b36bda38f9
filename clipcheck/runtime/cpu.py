"""The total norm of gradients on the CPU, read once, on all threads, to about 1e-10.

A full reduction in torch runs on one thread and sums millions of float32 squares into few accumulators (error 1e-5
to 1e-2). Here each gradient is viewed as rows of 128 elements: the row norms run on all threads in torch's vectorised
kernel, and are combined in float64. Rows that short keep even constant gradients at 1e-7; rows of 4,096 are 10 %
faster and lose a factor of 20 there.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

FAST = frozenset({1.0, 2.0, math.inf, -math.inf})  # the other norms go through float64: powers lose digits
ROW = 128  # elements a row
SMALL = 8_192  # gradients of fewer elements are flattened together: one call each would cost more than the copy
EXACT = 131_072  # up to here a set of gradients goes through float64 altogether
CHUNK = 1_048_576  # elements that are flattened or converted at once: 4 MB of scratch in float32
VIEW = 128 * CHUNK  # elements whose row norms are held at once: 4 MB too


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
        return _of_doubles(vector, norm_type)
    return largest * _of_doubles(vector / largest, norm_type)


def _group_norm(grads: list[Tensor], norm_type: float) -> float:
    """The norm of gradients of one dtype: fast, and again in float64 where the fast way left its range."""
    if grads[0].is_complex():
        grads = [torch.view_as_real(g.resolve_conj()) if norm_type == 2 else g.abs() for g in grads]
    if norm_type not in FAST:
        return careful_norm(grads, norm_type)
    fast = _fold(_partial_norms(grads, norm_type), norm_type)
    return fast if _in_range(fast, grads, norm_type) else careful_norm(grads, norm_type)


def _in_range(norm: float, grads: list[Tensor], norm_type: float) -> bool:
    """Whether no square of an element can have been lost: to infinity above, to zero below.

    A float32 square below 1e-38 may be flushed. Where the mean square is above 1e-30 that is under 1e-8 of the sum.
    """
    if norm_type != 2 or not math.isfinite(norm):
        return math.isfinite(norm)
    floor = 1e-145 if grads[0].dtype == torch.float64 else 1e-15
    return norm > floor * math.sqrt(sum(map(Tensor.numel, grads)))


def _partial_norms(grads: list[Tensor], norm_type: float) -> Iterator[Tensor]:
    """Yields 1-D tensors of norms of pieces, which together cover every element once."""
    small = [grad for grad in grads if grad.numel() < SMALL]
    for grad in grads:
        if grad.numel() >= SMALL:
            for flat in _flat_pieces(grad):
                body = flat.numel() - flat.numel() % ROW
                yield from _row_norms(flat[:body], norm_type)
                if body < flat.numel():
                    small.append(flat[body:].clone())  # a view would keep a copied piece alive
    for batch in _batches(small):
        flat = torch._C._nn.flatten_dense_tensors(batch)
        if flat.numel() <= EXACT:
            yield torch.linalg.vector_norm(flat.double(), norm_type).view(1)
            continue
        body = flat.numel() - flat.numel() % ROW
        yield from _row_norms(flat[:body], norm_type)
        if body < flat.numel():
            yield torch.linalg.vector_norm(flat[body:].double(), norm_type).view(1)


def _row_norms(flat: Tensor, norm_type: float) -> Iterator[Tensor]:
    """Yields the norms of the rows of a flat gradient whose length is a multiple of ROW."""
    if flat.dtype in (torch.float32, torch.float64):
        for view in torch.split(flat, VIEW):
            yield torch.linalg.vector_norm(view.view(-1, ROW), norm_type, dim=1)
        return
    # Row norms in float16 or bfloat16 would be rounded to that dtype. `dtype=float32` has no vectorised kernel and
    # allocates a copy; converting into a buffer that stays is 1.4 times faster.
    buffer = _buffer(torch.float32)
    for chunk in torch.split(flat, CHUNK):
        copy = buffer[: chunk.numel()].copy_(chunk)
        yield torch.linalg.vector_norm(copy.view(-1, ROW), norm_type, dim=1)


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


def _flat_pieces(grad: Tensor) -> Iterator[Tensor]:
    """Yields 1-D tensors with the elements of a gradient in some order: views where its memory is dense.

    Where it is not, a piece is this thread's scratch, overwritten by the next.
    """
    if grad.is_contiguous():
        yield grad.view(-1)
        return
    in_memory = grad.permute(sorted(range(grad.dim()), key=grad.stride, reverse=True))
    if in_memory.is_contiguous():  # channels_last, transposed
        yield in_memory.view(-1)
    elif grad.numel() <= CHUNK:
        wide = torch.float64 if grad.dtype == torch.float64 else torch.float32
        copy = _buffer(wide)[: grad.numel()]
        copy.view(grad.shape).copy_(grad)
        yield copy
    else:
        widest = max(range(grad.dim()), key=grad.size)
        for half in grad.tensor_split(2, dim=widest):
            yield from _flat_pieces(half)


def _fold(partial_norms: Iterator[Tensor], norm_type: float) -> float:
    """Returns the norm of all partial norms, in float64, holding about a million of them at a time."""
    pending: list[Tensor] = []
    done: list[float] = []
    count = 0
    for norms in partial_norms:
        pending.append(norms)
        count += norms.numel()
        if count >= CHUNK:
            done.append(_of_doubles(torch.cat(pending).double(), norm_type))
            pending, count = [], 0
    if pending:
        done.append(_of_doubles(torch.cat(pending).double(), norm_type))
    return combined(done, norm_type)


def _of_doubles(vector: Tensor, norm_type: float) -> float:
    if norm_type == 2:
        return math.sqrt(vector.dot(vector).item())
    return float(torch.linalg.vector_norm(vector, norm_type))


def careful_norm(grads: list[Tensor], norm_type: float) -> float:
    """Returns the norm of real gradients in float64, each divided by the largest element first: no range is left."""
    largest = max_abs(grads)
    if largest == 0 or not math.isfinite(largest) or math.isinf(norm_type):
        return _fold(_partial_norms(grads, norm_type), norm_type)
    pieces = (chunk for grad in grads for flat in _flat_pieces(grad) for chunk in torch.split(flat, CHUNK))
    norms = [torch.linalg.vector_norm(piece.double() / largest, norm_type).item() for piece in pieces]
    return largest * combined(norms, norm_type)


def max_abs(grads: list[Tensor]) -> float:
    """Returns the largest absolute value, NaN if there is one."""
    return _fold(_partial_norms(grads, math.inf), math.inf)
