"""Looks for the faults of the table in the steps, and counts them by their lines."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterator
from typing import NamedTuple

from clipcheck.audit.faults import FAULTS, ONCE, OPTIONAL, STRANGERS, Fault
from clipcheck.audit.log import Event, Log, Optimizer
from clipcheck.audit.sites import Site
from clipcheck.audit.steps import Step, is_own, scope, story


class Finding(NamedTuple):
    """A fault, or a note, at a line; seen so many times, of so many steps or calls."""

    code: str
    message: str
    is_fault: bool
    times: int
    of: int
    site: Site


def of_step(step: Step, used: Collection[int]) -> Iterator[tuple[Fault, Event]]:
    """The faults of a step and their events; `used` are the clips, by identity, that reach a step of any optimizer."""
    is_clipped = step.how == "clipped"
    has_clips = any(event.kind == "C" and scope(event, step) for event in step.events)
    for event in step.events:
        is_foreign = event.kind == "C" and not scope(event, step)
        if is_own(event, step) or (is_foreign and (has_clips or not event.about or id(event) in used)):
            continue
        if not is_foreign and not scope(event, step):
            continue
        reaches = any(clip is event for clip, _ in step.clips)
        faults = [fault for fault in FAULTS if fault.group != "lost" or not (is_clipped or reaches)]
        for fault in _first_of_each(faults, "F" if is_foreign else event.kind, event, step):
            yield fault, event


def _first_of_each(faults: Collection[Fault], kind: str, event: Event, step: Step) -> Iterator[Fault]:
    word, groups = story(event, step), set()
    for fault in faults:
        if fault.group not in groups and kind in fault.of and re.search(fault.story, word) and fault.when(event, step):
            groups.add(fault.group)
            yield fault


def of_optimizer(log: Log, steps: list[Step], found: list[list[tuple[Fault, Event]]]) -> list[Finding]:
    """What was found in all steps, each line once; faults first."""
    calls = Counter(event.site for event in log.events if event.call is not None)
    counted: Counter[tuple[Fault, Site]] = Counter()
    early: dict[Site, Fault] = {}  # before the first step: the same line is not after the step before later ones
    for step, of in zip(steps, found, strict=True):
        seen = {(fault, event.site) for fault, event in of if event.site is not None}
        if not step.before:
            early = {site: fault for fault, site in seen if fault.code in ("CLIP102", "CLIP109")}
        if step.end is None and any(one.how == "clipped" for one in steps):  # another line may clip the next step
            seen = {(fault, site) for fault, site in seen if fault.group != "lost"}
        counted.update((early.get(site, f) if f.code == "CLIP101" else f, site) for f, site in seen)
    listed, count = [], len(steps) - 1
    for (fault, site), times in counted.items():
        is_once = fault.code == "CLIP102" and count > 2 and calls[site] == 1
        listed.append(_finding(ONCE if is_once else fault, site, times, count))
    return sorted(listed, key=lambda one: (not one.is_fault, -one.times, one.code))


def of_strangers(log: Log) -> list[Finding]:
    """Clips of nothing that an optimizer steps."""
    stepped = {event.optimizer for event in log.events if event.use is not None}
    own = {p for optimizer in log.optimizers if optimizer.key in stepped for p in optimizer.parameters}
    whole = Step(Optimizer(0, "", None, {}, [], []), "", log.events)
    clips = [event for event in log.events if event.call is not None and event.kind == "C"]
    strange = [event for event in clips if event.call and own.isdisjoint(event.call.listed)]
    counted = Counter((f, event.site) for event in strange for f in _first_of_each(STRANGERS, "C", event, whole))
    of = Counter(event.site for event in clips)
    return [_finding(fault, site, times, of[site]) for (fault, site), times in counted.items() if site is not None]


def _finding(fault: Fault, site: Site, times: int, of: int) -> Finding:
    return Finding(fault.code, fault.says, bool(fault.code) and fault.code not in OPTIONAL, times, of, site)
