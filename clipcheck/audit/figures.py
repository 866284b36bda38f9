"""Figures of a run: norms before and after clipping, what other limits would have clipped, times."""

from __future__ import annotations

import itertools
import math
import statistics
import time
from typing import NamedTuple

import torch

from clipcheck import runtime
from clipcheck.audit.events import Clip, Log, Optimizer, Skip
from clipcheck.audit.judge import Outcome, touched

MOST = 2**30  # bytes of gradients that are made up at most, to try the runtime on them
ROUNDS = 5


class Norms(NamedTuple):
    """One of each for a step, where they are known: what the norm was, what the step used, and the limit."""

    before: list[float]
    after: list[float]
    limits: list[float]
    nonfinite: int  # steps with NaN or infinity, and steps that a GradScaler left out

    def at(self, share: float) -> float:
        """The norm that this share of the steps does not exceed: the nearest rank."""
        finite = sorted(filter(math.isfinite, self.before))
        return finite[max(0, math.ceil(share * len(finite)) - 1)] if finite else math.nan

    @property
    def clipped(self) -> float:
        """The share of steps whose norm was above the limit."""
        above = [norm > limit for norm, limit in zip(self.before, self.limits, strict=True) if limit < math.inf]
        return sum(above) / len(above) if above else 0.0


def norms(log: Log, optimizer: Optimizer, outcomes: list[Outcome]) -> Norms:
    skipped = sum(isinstance(e, Skip) and bool({*e.parameters} & {*optimizer.parameters}) for e in log.events)
    before, after, limits = [], [], []
    for outcome in outcomes:
        known = [c for c in outcome.clips if c.norm is not None and not c.scaled and c.function != "clip_grad_value_"]
        first = {c.listed: c for c in reversed(known)}  # of several of the same parameters
        if outcome.step.norm is not None:
            by_clip = sum(clip.norm**2 for clip in first.values()) ** 0.5
            before.append(max(by_clip, outcome.step.norm) if by_clip == by_clip else by_clip)
            after.append(outcome.step.norm)
            limits.append(min((clip.limit for clip in known), default=math.inf))
    odd = sum(not math.isfinite(norm) for norm in before)
    return Norms(before, after, limits, odd + skipped)


class Times(NamedTuple):
    """Seconds of a step, and of the clipping in it; reads by the host in one call, None where that was not counted."""

    step: float
    clipping: float
    reads: int | None


def times(log: Log, optimizer: Optimizer, outcomes: list[Outcome]) -> Times | None:
    """As the host sees it: work that a device does later is in the step, not in the call."""
    steps = [outcome.step.time for outcome in outcomes if not outcome.step.in_closure]
    own = set(optimizer.parameters)
    called = [e for e in log.events if isinstance(e, Clip) and own & (touched(e, e.before) | set(e.listed))]
    if len(steps) < 2 or not called:
        return None
    seconds = statistics.median(e.seconds for e in called) * len(called) / len(steps)
    reads = [e.reads for e in called if e.reads is not None]
    return Times(statistics.median(b - a for a, b in itertools.pairwise(steps)), seconds, max(reads, default=None))


def tried(optimizer: Optimizer) -> tuple[float, float] | None:
    """Median seconds of torch's clip and of the runtime's on made-up gradients of the same shapes, in turn.

    None where they would not fit, or are of a kind that cannot be made up.
    """
    sizes = [math.prod(shape) for shape, _, _ in optimizer.shapes]
    if not sizes or sum(sizes) * 8 > MOST:
        return None
    try:
        parameters = []
        for shape, dtype, device in optimizer.shapes:
            parameter = torch.nn.Parameter(torch.empty(shape, dtype=getattr(torch, dtype[6:]), device=device))
            parameter.grad = torch.ones_like(parameter)
            parameters.append(parameter)
        taken: dict[bool, list[float]] = {False: [], True: []}
        runtime.clip_grad_norm_(parameters, 1.0)  # its first call makes a plan
        for _ in range(ROUNDS):
            for ours, clip in ((False, torch.nn.utils.clip_grad_norm_), (True, runtime.clip_grad_norm_)):
                taken[ours].append(_seconds(clip, parameters))
    except (RuntimeError, AttributeError):
        return None
    return statistics.median(taken[False]), statistics.median(taken[True])


def _seconds(clip: object, parameters: list[torch.nn.Parameter]) -> float:
    assert callable(clip)
    is_cuda = any(p.is_cuda for p in parameters)
    if is_cuda:
        torch.cuda.synchronize()
    start = time.perf_counter()
    clip(parameters, 1.0)
    if is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - start
