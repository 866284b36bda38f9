"""Figures of a run: norms before and after clipping, what other limits would have clipped, times."""

from __future__ import annotations

import functools
import itertools
import math
import statistics
from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch.nn import Parameter

from clipcheck import runtime
from clipcheck.audit.findings import Step, scope
from clipcheck.audit.log import Log, Optimizer
from clipcheck.bench import measure

MOST = 2**30  # bytes of gradients that are made up at most, to try the runtime on them


@dataclass(frozen=True)
class Norms:
    """One of each for a step, where they are known: what the norm was, what the step used, and the limit."""

    before: list[float]
    after: list[float]
    limits: list[float]
    nonfinite: int  # steps with NaN or infinity, and steps that a GradScaler skipped

    def at(self, share: float) -> float:
        """The norm that this share of the steps does not exceed: the nearest rank."""
        finite = sorted(filter(math.isfinite, self.before))
        return finite[max(0, math.ceil(share * len(finite)) - 1)] if finite else math.nan

    @property
    def clipped(self) -> float:
        """The share of steps whose norm was above the limit."""
        above = [norm > limit for norm, limit in zip(self.before, self.limits, strict=True) if limit < math.inf]
        return sum(above) / len(above) if above else 0.0


def norms(log: Log, optimizer: Optimizer, steps: list[Step], scaled: Collection[int]) -> Norms:
    """The norms of all steps; `scaled` are the clips, by identity, whose norms are those of scaled gradients."""
    skipped = sum(event.kind == "K" and bool(event.about.intersection(optimizer.parameters)) for event in log.events)
    before, after, limits = [], [], []
    for step in steps:
        if step.end is None or step.how == "no gradients":
            continue
        clips = [clip for clip, _ in step.clips if clip.norm is not None and id(clip) not in scaled]
        calls = [(clip.call, clip.norm) for clip in clips if clip.call and clip.call.function != "clip_grad_value_"]
        first = {call.listed: norm for call, norm in reversed(calls)}  # of several of the same parameters
        by_clips = math.hypot(*first.values())
        before.append(max(by_clips, step.end.norm) if by_clips == by_clips else by_clips)
        after.append(step.end.norm)
        limits.append(min((call.limit for call, _ in calls), default=math.inf))
    return Norms(before, after, limits, sum(not math.isfinite(norm) for norm in before) + skipped)


@dataclass(frozen=True)
class Times:
    """Seconds of a step, and of the clipping in it; reads by the host in one call, None where that was not counted; see `tried`."""

    step: float
    clipping: float
    reads: int | None
    tried: dict[str, float] | None


def times(optimizer: Optimizer, steps: list[Step]) -> Times | None:
    """As the host sees it: work that a device does later is in the step, not in the call."""
    begun = [e.time for step in steps for e in step.events if e.kind == "<" and e.optimizer == step.optimizer.key]
    called = [e.call for step in steps for e in step.events if e.call is not None and scope(e, step)]
    if len(begun) < 2 or not called:
        return None
    seconds = statistics.median(call.seconds for call in called) * len(called) / len(begun)
    reads = [call.reads for call in called if call.reads is not None]
    step = statistics.median(b - a for a, b in itertools.pairwise(begun))
    return Times(step, seconds, max(reads, default=None), tried(optimizer))


def tried(optimizer: Optimizer) -> dict[str, float] | None:
    """Median seconds of torch's clip and of the runtime's on made-up gradients of the same shapes, in turn.

    None where they would not fit, or are of a kind that cannot be made up.
    """
    sizes = [math.prod(shape) for shape, _, _ in optimizer.shapes]
    if not sizes or sum(sizes) * 8 > MOST:
        return None
    try:
        made = [Parameter(torch.empty(shape, dtype=dtype, device=device)) for shape, dtype, device in optimizer.shapes]
        random = torch.Generator(made[0].device).manual_seed(0)  # the program's own stays as it is
        for parameter in made:
            parameter.grad = torch.empty_like(parameter).normal_(std=1e-3, generator=random)
        clips = {"torch": torch.nn.utils.clip_grad_norm_, "clipcheck": runtime.clip_grad_norm_}
        calls = {name: functools.partial(clip, made, 1.0) for name, clip in clips.items()}
        taken = measure.interleaved(calls, made[0].device, lambda: None, rounds=11, only_wall=True)
    except RuntimeError:
        return None
    return {name: timing.wall / 1e3 for name, timing in taken.items()}
