"""Gradients on the CPU as rows of a few hundred elements, and the norms of rows in torch's vectorised kernels."""

from __future__ import annotations

import functools
import math
import threading
from collections.abc import Iterator

import torch
from torch import Tensor

LENGTHS = (256, 320, 192)  # elements a row: the first that leaves no rest; shorter ones cost more, longer ones err more
SHORT = 32  # elements a row of float16, the sums of whose squares are rounded from the fifth summand on
SMALL = 65_536  # gradients of fewer elements are copied together: a call for each would cost more
FEW = 1_048_576  # elements of all gradients: up to here all are copied together
CHUNK = 2_097_152  # elements that are copied together or converted at once: 8 MB of scratch in float32
ROWS = 524_288  # rows of a matrix: 2 MB of norms


class _Scratch(threading.local):
    def __init__(self) -> None:
        self.buffers: dict[torch.dtype, Tensor] = {}


_scratch = _Scratch()


def rows(grads: list[Tensor], sizes: list[int]) -> Iterator[Tensor]:
    """Yields matrices whose rows hold every element once, and perhaps some zeros, in the dtype of the gradients.

    `sizes` are their numbers of elements. Most matrices are views; one that is this thread's scratch is overwritten by
    the next.
    """
    large = SMALL if sum(sizes) > FEW else CHUNK
    small: list[Tensor] = []
    waiting = 0
    for grad, size in zip(grads, sizes, strict=True):
        if size < large:
            small.append(grad)
            waiting += size
        else:
            for piece in (grad,) if grad.is_contiguous() else contiguous_pieces(grad):
                count = size if piece is grad else piece.numel()
                length = _length(piece.dtype, count)
                whole, rest = divmod(count, length)
                matrix = piece.as_strided((whole, length), (length, 1))
                if whole > ROWS:
                    yield from torch.split(matrix, ROWS)
                else:
                    yield matrix
                if rest:
                    last = piece.view(-1)[-rest:]
                    small.append(last if piece is grad else last.clone())
                    waiting += rest
        if waiting > CHUNK - 2 * SMALL:
            yield _together(small, waiting)
            small, waiting = [], 0
    if waiting:
        yield _together(small, waiting)


def norms(matrix: Tensor, norm_type: float, dtype: torch.dtype) -> Tensor:
    """Returns a vector, in float32 or float64 as `dtype` says, whose norm is that of the matrix: the norms of its rows.

    `dtype` is at least as wide as the matrix's; `norm_type` is not 0.
    """
    if norm_type == 2 and matrix.dtype == dtype:
        of_rows: Tensor = torch.linalg.vector_norm(matrix, 2, 1)
        return of_rows
    if norm_type == math.inf:  # 20 times as fast as torch's inf norm
        return torch.stack(torch.aminmax(matrix)).abs().amax().to(dtype).view(1)
    if norm_type == 1:  # twice as fast as torch's 1-norm, which is not vectorised
        return torch.cat([part.abs_().sum(1) for part in _copied(matrix, dtype)])
    return torch.cat([torch.linalg.vector_norm(part, norm_type, 1) for part in _copied(matrix, dtype)])


def squares(matrix: Tensor) -> Tensor:
    """Returns the sums of squares of rows of a dtype that `has_squares`, in float32.

    torch rounds the norms of 16-bit rows to 16 bits. A group normalization's backward does not: the gradient of its
    scale is, with the mean 0 and the deviation 1, for each channel the sum of input times gradient, here of squares. It
    reads 16 bits and sums in float32, vectorised and on all threads. (Wu and He 2018, arXiv:1803.08494.)
    """
    mean, deviation = _standard()
    channels, elements = matrix.shape
    weight = _buffer(torch.float32)[:channels]  # of it the backward takes shape and dtype only
    input = matrix.unsqueeze(0)
    backward = torch.ops.aten.native_group_norm_backward.default
    of_rows: Tensor = backward(input, input, mean, deviation, weight, 1, channels, elements, 1, [False, True, False])[1]
    return of_rows


@functools.cache
def has_squares(dtype: torch.dtype) -> bool:
    """Whether this torch sums 16 bits in float32, by trying: 256 whole numbers, the sum of whose squares has 23 bits."""
    if dtype not in (torch.float16, torch.bfloat16):
        return False
    whole = torch.arange(256, device="cpu", dtype=torch.float32)
    try:
        of_rows = squares(whole.to(dtype).view(1, -1))
    except RuntimeError:
        return False
    return of_rows.dtype == torch.float32 and of_rows.item() == whole.square().sum().item()


def contiguous_pieces(grad: Tensor) -> Iterator[Tensor]:
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
        yield _buffer(grad.dtype)[: grad.numel()].view(grad.shape).copy_(grad)
    else:
        widest = max(range(grad.dim()), key=grad.size)
        for half in grad.tensor_split(2, dim=widest):
            yield from contiguous_pieces(half)


def _together(grads: list[Tensor], count: int) -> Tensor:
    """Returns the rows of so many elements of small gradients, which are copied one behind the other, and zeros."""
    dtype = grads[0].dtype
    vectors = [grad if grad.dim() == 1 else grad.reshape(-1) for grad in grads]
    length = _length(dtype, count)
    padding = -count % length
    flat = _buffer(dtype)[: count + padding]
    torch.cat([*vectors, _zeros(dtype)[:padding]], out=flat)
    return flat.view(-1, length)


def _length(dtype: torch.dtype, count: int) -> int:
    if dtype == torch.float16:
        return SHORT
    for length in LENGTHS:
        if count % length == 0:
            return length
    return LENGTHS[0]


def _copied(matrix: Tensor, dtype: torch.dtype) -> Iterator[Tensor]:
    """Yields the rows in `dtype`, in pieces that are this thread's scratch: each is overwritten by the next.

    For its argument `dtype` torch's norm has no vectorised kernel and allocates a copy. Larger pieces leave the cache;
    for smaller ones the calls cost more than the copies.
    """
    for part in torch.split(matrix, max(1, CHUNK // matrix.size(1))):
        yield _buffer(dtype)[: part.numel()].view(part.shape).copy_(part)


@functools.cache
def _standard() -> tuple[Tensor, Tensor]:
    """The mean 0 and the deviation 1 of one group."""
    with torch.inference_mode(False):
        mean = torch.zeros((1, 1), device="cpu", dtype=torch.float32)
        return mean, torch.ones_like(mean)


@functools.cache
def _zeros(dtype: torch.dtype) -> Tensor:
    with torch.inference_mode(False):
        return torch.zeros(LENGTHS[0], device="cpu", dtype=dtype)


def _buffer(dtype: torch.dtype) -> Tensor:
    """Returns this thread's scratch, of CHUNK elements: fresh memory costs a page fault every 4 KB at each call."""
    if dtype not in _scratch.buffers:
        with torch.inference_mode(False):
            _scratch.buffers[dtype] = torch.empty(CHUNK, dtype=dtype, device="cpu")
    return _scratch.buffers[dtype]
