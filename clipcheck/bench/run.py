"""Runs the benchmarks: every peer on every workload, interleaved, with its error against float64."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from clipcheck.bench import measure, peers, workloads
from clipcheck.bench.workloads import Workload


class Row(NamedTuple):
    """One peer on one workload."""

    workload: str
    case: str  # "no clip", "clip" or "norm"
    peer: str
    wall_ms: float
    device_ms: float | None
    ratio: float  # the median of the wall times' ratios to torch in the same rounds
    error: float | None  # of the norm, relative to float64; None if the peer returns none
    floor_ms: float  # the bytes that must move over the measured bandwidth


class Options(NamedTuple):
    """What the command line chooses."""

    device: torch.device
    rounds: int | None = None  # None: as many as the gradients' size makes affordable
    compiled: bool = False  # torch.compile too


def clip(load: Workload, options: Options, bytes_a_second: float) -> Iterator[Row]:
    """Yields the rows of one workload, first when nothing is clipped, then when the gradients are halved."""
    device = options.device
    params = _parameters(load.gradients(device))
    grads = [p.grad for p in params if p.grad is not None]
    originals = [grad.clone() for grad in grads]
    norm = measure.exact_norm(grads)
    known = {**peers.CLIPS, **({"torch, compiled": peers.compiled()} if options.compiled else {})}
    for case, max_norm, passes in (("no clip", 10 * norm, 1), ("clip", norm / 2, 3)):
        calls = {name: _bound(peer, params, max_norm) for name, peer in known.items()}
        if device.type == "cuda":
            calls["clipcheck, CUDA graph"] = peers.captured(params, max_norm)

        def refill() -> None:
            torch._foreach_copy_(grads, originals)

        refill()
        errors = {name: _error(call, norm, refill) for name, call in calls.items()}
        timings = measure.interleaved(calls, device, refill if case == "clip" else _nothing, rounds_of(load, options))
        yield from rows_of(load.name, case, timings, errors, 1e3 * passes * load.bytes / bytes_a_second)
        refill()


def norm(load: Workload, options: Options, bytes_a_second: float) -> Iterator[Row]:
    """Yields the rows of one workload for the norm alone."""
    grads = load.gradients(options.device)
    exact = measure.exact_norm(grads)
    calls = {name: _bound(peer, grads) for name, peer in peers.NORMS.items()}
    errors = {name: _error(call, exact, _nothing) for name, call in calls.items()}
    timings = measure.interleaved(calls, options.device, _nothing, rounds_of(load, options))
    yield from rows_of(load.name, "norm", timings, errors, 1e3 * load.bytes / bytes_a_second)


def chosen(names: tuple[str, ...], device: torch.device) -> list[Workload]:
    """Returns the workloads of these names, or all, without those that do not fit into the device's memory."""
    loads = [workloads.workload(name) for name in names or workloads.names()]
    return [load for load in loads if workloads.fits(load, device)]


def rounds_of(load: Workload, options: Options) -> int:
    """Returns how often each peer is called."""
    return options.rounds or (15 if load.bytes > 1 << 30 else 61)


def rows_of(
    load: str,
    case: str,
    timings: dict[str, measure.Timing],
    errors: dict[str, float | None],
    floor: float,
) -> Iterator[Row]:
    """Yields what was measured of each peer in one case."""
    for peer, timing in timings.items():
        yield Row(load, case, peer, timing.wall, timing.device, timing.ratio(timings["torch"]), errors[peer], floor)


def _error(call: measure.Call, exact: float, reset: measure.Call) -> float | None:
    reset()
    result = call()
    if not isinstance(result, (Tensor, float)):
        return None
    return abs(float(result) / exact - 1)


def _bound(peer: Callable[..., object], *arguments: object) -> measure.Call:
    return lambda: peer(*arguments)


def _nothing() -> None:
    pass


def _parameters(grads: list[Tensor]) -> list[Tensor]:
    """Leaf tensors with these gradients; they share one storage, since only their gradients matter."""
    params: list[Tensor] = []
    for grad in grads:
        param = torch.empty((), dtype=grad.dtype, device=grad.device).expand(grad.shape).requires_grad_()
        param.grad = grad
        params.append(param)
    return params
