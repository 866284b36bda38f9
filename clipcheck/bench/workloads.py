"""The sets of gradients that the benchmarks run on: the shapes of real models, filled with random values."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

Shape = tuple[int, ...]


class Workload(NamedTuple):
    """A named list of gradient shapes in one dtype."""

    name: str
    shapes: tuple[Shape, ...]
    dtype: torch.dtype

    @property
    def elements(self) -> int:
        return sum(torch.Size(shape).numel() for shape in self.shapes)

    @property
    def bytes(self) -> int:
        return self.elements * self.dtype.itemsize

    def gradients(self, device: torch.device) -> list[Tensor]:
        """Returns fresh gradients, normally distributed as 1e-3 N(0, 1), the same for the same device."""
        generator = torch.Generator(device).manual_seed(0)
        grads = (torch.empty(shape, dtype=self.dtype, device=device) for shape in self.shapes)
        return [grad.normal_(std=1e-3, generator=generator) for grad in grads]


def gpt2(layers: int, width: int) -> Iterator[Shape]:
    """The 4 + 12 × layers parameters of GPT-2 (Radford et al. 2019): 12 × 768 is the small one, 48 × 1600 is XL."""
    yield from ((50257, width), (1024, width))
    for _ in range(layers):
        yield from ((width,), (width,))
        yield from ((width, 3 * width), (3 * width,), (width, width), (width,))
        yield from ((width,), (width,))
        yield from ((width, 4 * width), (4 * width,), (4 * width, width), (width,))
    yield from ((width,), (width,))


def resnet50() -> Iterator[Shape]:
    """The 161 parameters of ResNet-50 (He et al. 2015)."""
    yield from ((64, 3, 7, 7), (64,), (64,))
    incoming = 64
    for blocks, width in ((3, 64), (4, 128), (6, 256), (3, 512)):
        for block in range(blocks):
            yield from ((width, incoming, 1, 1), (width,), (width,))
            yield from ((width, width, 3, 3), (width,), (width,))
            yield from ((4 * width, width, 1, 1), (4 * width,), (4 * width,))
            if block == 0:
                yield from ((4 * width, incoming, 1, 1), (4 * width,), (4 * width,))
            incoming = 4 * width
    yield from ((1000, 2048), (1000,))


def llama_7b() -> Iterator[Shape]:
    """The 291 parameters of LLaMA 7B (Touvron et al. 2023)."""
    yield (32000, 4096)
    for _ in range(32):
        yield from ((4096, 4096),) * 4
        yield from ((11008, 4096), (11008, 4096), (4096, 11008), (4096,), (4096,))
    yield from ((4096,), (32000, 4096))


_WORKLOADS: dict[str, tuple[Callable[[], Iterator[Shape]], torch.dtype]] = {
    "6x64x64": (lambda: iter([(64, 64)] * 6), torch.float32),
    "10x1M": (lambda: iter([(1000, 1000)] * 10), torch.float32),
    "resnet50": (resnet50, torch.float32),
    "gpt2": (lambda: gpt2(12, 768), torch.float32),
    "gpt2-bf16": (lambda: gpt2(12, 768), torch.bfloat16),
    "gpt2-xl": (lambda: gpt2(48, 1600), torch.float32),
    "2000x64": (lambda: iter([(64,)] * 2000), torch.float32),
    "1x100M": (lambda: iter([(100_000_000,)]), torch.float32),
    "7b-bf16": (llama_7b, torch.bfloat16),
}


SHARDED = ("6x64x64", "gpt2", "gpt2-xl", "2000x64")  # measured over processes unless others are named


def names() -> list[str]:
    return list(_WORKLOADS)


def workload(name: str) -> Workload:
    """Returns the workload of that name; `KeyError` if there is none."""
    shapes, dtype = _WORKLOADS[name]
    return Workload(name, tuple(shapes()), dtype)


def fits(load: Workload, device: torch.device) -> bool:
    """Whether the gradients and a copy of them fit into the device's free memory, with a fifth left over."""
    if device.type == "cuda":
        return load.bytes * 2.4 < torch.cuda.mem_get_info(device)[0]
    return load.bytes * 2.4 < _free_memory()


def _free_memory() -> int:
    try:
        with open("/proc/meminfo", encoding="ascii") as meminfo:
            return 1024 * next(int(line.split()[1]) for line in meminfo if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return 8 << 30  # no such file outside Linux: assume a laptop
