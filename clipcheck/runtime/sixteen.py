"""16-bit gradients on the CPU: squares and products by two functions that torch has for other purposes.

For each a test tells whether this torch has it and whether it computes what is needed here.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator

import torch
from torch import Tensor

SQUARED = 262_144  # elements: gradients with more are squared by `squares`
LONG, SHORT = 256, 32  # elements per row of bfloat16 and float16, where sums of squares are rounded from the fifth on
ROWS = 524_288  # rows of a matrix for `squares`: 2 MB of sums
SIXTEEN = frozenset({torch.float16, torch.bfloat16})

_CPU = torch.device("cpu")


def squares(vector: Tensor) -> Iterator[Tensor]:
    """Yields the sums of squares of rows of a contiguous vector whose dtype `has_squares`, in float32.

    torch rounds the norms of 16-bit rows to 16 bits. The backward of group normalization does not: with mean 0 and
    deviation 1, the gradient of its scale is, for each channel, the sum of input times gradient, here the sum of
    squares. It reads 16 bits and sums in float32, vectorized and on all threads. (Wu and He 2018, arXiv:1803.08494.)
    """
    across = SHORT if vector.dtype == torch.float16 else LONG
    whole = vector.numel() // across * across
    for rows in torch.split(vector[:whole].view(-1, across), ROWS):
        yield _squares(rows)
    if whole < vector.numel():
        yield _squares(vector[whole:].view(1, -1))


def _squares(rows: Tensor) -> Tensor:
    mean, deviation = _standard()
    channels, elements = rows.shape
    weight = mean.expand(1, channels)  # the backward uses only its shape and dtype
    input = rows.unsqueeze(0)
    backward = torch.ops.aten.native_group_norm_backward.default
    sums: Tensor = backward(input, input, mean, deviation, weight[0], 1, channels, elements, 1, [False, True, False])[1]
    return sums


@functools.cache
def has_squares(dtype: torch.dtype) -> bool:
    """Tests whether this torch sums 16-bit values in float32: 256 integers whose sum of squares has 23 bits."""
    if dtype not in SIXTEEN:
        return False
    whole = torch.arange(256, device="cpu", dtype=torch.float32)
    try:
        sums = _squares(whole.to(dtype).view(1, -1))
    except RuntimeError:
        return False
    return sums.dtype == torch.float32 and sums.item() == whole.square().sum().item()


def scale_(grads: list[Tensor], factor: Tensor) -> None:
    """Multiplies gradients in place by a float32 factor, to the bit as `_foreach_mul_` does.

    For every gradient, that function first converts the factor to 16 bits, and then multiplies by the original: for
    1,000 elements the conversion takes twice as long as the product. What torch's `GradScaler` calls does not convert.
    """
    is_infinite = torch.scalar_tensor(0.0, dtype=torch.float32, device=_CPU)  # is set, and nothing here reads it
    torch._amp_foreach_non_finite_check_and_unscale_(grads, is_infinite, factor)


@functools.cache
def has_scaling(dtype: torch.dtype) -> bool:
    """Tests whether gradients of a dtype can be multiplied by `scale_` (torch 2.3 and later), and are rounded alike."""
    if dtype not in SIXTEEN:
        return False
    factor = torch.tensor(0.3, dtype=torch.float32, device="cpu")
    got = torch.arange(256, dtype=torch.float32, device="cpu").to(dtype)
    want = got * factor
    try:
        scale_([got], factor)
    except (AttributeError, RuntimeError):  # NotImplementedError is one
        return False
    return torch.equal(got, want)


@functools.cache
def _standard() -> tuple[Tensor, Tensor]:
    """The mean 0 and the deviation 1 of one group."""
    with torch.inference_mode(False):
        mean = torch.zeros((1, 1), device="cpu", dtype=torch.float32)
        return mean, torch.ones_like(mean)
