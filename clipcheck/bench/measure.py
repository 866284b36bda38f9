"""Timing: interleaved calls and their medians, and the figures of the machine they were taken on."""

from __future__ import annotations

import datetime
import math
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

Call = Callable[[], object]


class Timing(NamedTuple):
    """What a call took, in milliseconds."""

    walls: list[float]  # in each round, from the call, with an idle device, until the device is done
    device: float | None  # median of the device's own time when the host is ahead of it, as after a backward pass

    @property
    def wall(self) -> float:
        """The median."""
        return statistics.median(self.walls)

    def ratio(self, other: Timing) -> float:
        """The median of the ratios to another call in the same rounds: what slows a machine for a while slows both."""
        return statistics.median(own / theirs for own, theirs in zip(self.walls, other.walls, strict=True))


def interleaved(
    calls: Mapping[str, Call], device: torch.device, reset: Call, rounds: int, only_wall: bool = False
) -> dict[str, Timing]:
    """Times every call once per round, `reset()` untimed before each."""
    for call in calls.values():
        reset()
        call()
    wall: dict[str, list[float]] = {name: [] for name in calls}
    on_device: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            reset()
            wall[name].append(_wall(call, device))
            if device.type == "cuda" and not only_wall:
                reset()
                on_device[name].append(_device(call))
    return {
        name: Timing(walls, statistics.median(times) if (times := on_device[name]) else None)
        for name, walls in wall.items()
    }


def bandwidth(device: torch.device) -> float:
    """Returns bytes read and written a second by a large copy, the best of five."""
    elements = 1 << (28 if device.type == "cuda" else 25)
    source = torch.ones(elements, device=device)
    target = torch.ones_like(source)
    best = min(_wall(lambda: target.copy_(source), device) for _ in range(6))
    return 2 * source.nbytes / (best / 1e3)


def exact_norm(grads: list[Tensor]) -> float:
    """Returns the 2-norm in float64, in pieces that fit beside the gradients."""
    pieces = (piece for grad in grads for piece in torch.split(grad.reshape(-1), 1 << 26))
    return math.sqrt(sum(float(piece.double().square().sum()) for piece in pieces))


def machine(device: torch.device) -> dict[str, Any]:
    """Returns what a figure must be read with: device, versions, threads, load, date."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    return {
        "device": name,
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "torch": torch.__version__,
        "triton": _triton_version(),
        "python": platform.python_version(),
        "system": platform.system(),
        "date": datetime.date.today().isoformat(),
    }


def _wall(call: Call, device: torch.device) -> float:
    _wait(device)
    start = time.perf_counter()
    call()
    _wait(device)
    return (time.perf_counter() - start) * 1e3


def _device(call: Call) -> float:
    """Times on the device, after 20 ms of waiting in which the host runs ahead."""
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    torch.cuda.synchronize()
    torch.cuda._sleep(30_000_000)  # type: ignore[no-untyped-call]
    begin.record()
    call()
    end.record()
    torch.cuda.synchronize()
    return float(begin.elapsed_time(end))


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _triton_version() -> str | None:
    try:
        import triton
    except ImportError:
        return None
    return str(triton.__version__)


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as cpuinfo:
            return next(line.split(":")[1].strip() for line in cpuinfo if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
