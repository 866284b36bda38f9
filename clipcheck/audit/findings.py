"""Looks for the faults of the table in the steps, and counts them by their lines."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterator
from typing import NamedTuple

from clipcheck.audit.faults import FAULTS, OPTIONAL, STRANGERS, Fault
from clipcheck.audit.log import Event, Log, Optimizer
from clipcheck.audit.sites import NOWHERE, Site
from clipcheck.audit.steps import Step, is_own, scope, story, told


class Finding(NamedTuple):
    """A fault, or a note, at a line; seen so many times, of so many steps or calls."""

    code: str
    message: str
    is_fault: bool
    times: int
    of: int
    site: Site


def of_step(step: Step, used: Collection[int], once: Collection[Site]) -> Iterator[tuple[Fault, Event]]:
    """The faults of a step and their events.

    `used` are the clips, by identity, of gradients that a step of any optimizer uses, `once` the lines that call once in all steps.
    """
    has_clips = any(event.kind == "C" and scope(event, step) for event in step.events)
    for event in step.events:
        is_foreign = not scope(event, step)
        if is_own(event, step) or not event.site.file:
            continue
        if is_foreign and (event.kind != "C" or has_clips or not event.about or id(event) in used):
            continue
        reaches = step.how == "clipped" or any(clip is event for clip, _ in step.clips)
        facts = told(event, step) + ("\nonce" if event.site in once else "")
        for fault in _first_of_each(FAULTS, "F" if is_foreign else event.kind, story(event, step), facts):
            if fault.group != "lost" or not reaches:
                yield fault, event


def _first_of_each(table: Collection[Fault], kind: str, word: str, facts: str) -> Iterator[Fault]:
    groups = set()
    for fault in table:
        holds = kind in fault.of and re.search(fault.story, word) and re.search(fault.when, facts, re.MULTILINE)
        if holds and fault.group not in groups:
            groups.add(fault.group)
            yield fault


def of_optimizer(steps: list[Step], found: list[list[tuple[Fault, Event]]]) -> list[Finding]:
    """What was found in all steps, each line once; faults first."""
    counted: Counter[tuple[Fault, Site]] = Counter()
    early: dict[Site, Fault] = {}  # before the first step: the same line is not after the step before later ones
    for step, of in zip(steps, found, strict=True):
        seen = {(fault, event.site) for fault, event in of}
        if not step.before:
            early = {site: fault for fault, site in seen if fault.code in ("CLIP102", "CLIP109")}
        if step.end is None and any(one.how == "clipped" for one in steps):  # another line may clip the next step
            seen = {(fault, site) for fault, site in seen if fault.group != "lost"}
        counted.update((early.get(site, f) if f.code == "CLIP101" else f, site) for f, site in seen)
    listed = [_finding(fault, site, times, len(steps) - 1) for (fault, site), times in counted.items()]
    return sorted(listed, key=lambda one: (not one.is_fault, -one.times, one.code))


def of_strangers(log: Log) -> list[Finding]:
    """Clips of nothing that an optimizer steps."""
    stepped = {event.optimizer for event in log.events if event.kind in "sp"}
    own = {p for optimizer in log.optimizers if optimizer.key in stepped for p in optimizer.parameters}
    whole = Step(Optimizer(0, "", NOWHERE, {}, [], []), "", log.events)
    clips = [event for event in log.events if event.kind == "C" and event.call]
    strange = [event for event in clips if event.call and own.isdisjoint(event.call.listed)]
    of = Counter(event.site for event in clips)
    counted = Counter((f, e.site) for e in strange for f in _first_of_each(STRANGERS, "C", "", told(e, whole)))
    return [_finding(fault, site, times, of[site]) for (fault, site), times in counted.items()]


def _finding(fault: Fault, site: Site, times: int, of: int) -> Finding:
    return Finding(fault.code, fault.says, bool(fault.code) and fault.code not in OPTIONAL, times, of, site)
