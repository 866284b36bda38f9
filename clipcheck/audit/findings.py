"""What became of each step, and which faults of the table it shows.

A walk through the log knows for every parameter which clips its gradient has gone through.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from clipcheck.audit.faults import FAULTS, OPTIONAL, STRANGERS, Fault
from clipcheck.audit.log import Event, Log, Optimizer
from clipcheck.audit.sites import NOWHERE, Site

_WRITES = "ABORZ"  # after these the gradient is another one
_TOLD = "ABCGOQRUZ"  # what a story tells of


class Step(NamedTuple):
    """What happened to an optimizer's gradients after the step before, up to `end`, the step itself.

    It has none where the log ends.
    """

    optimizer: Optimizer
    before: str  # of what kind the step before was: empty, `S` or `P`
    events: list[Event]
    end: Event | None = None
    clips: list[tuple[Event, frozenset[int]]] = []  # noqa: RUF012  # those that reach it, and for which parameters
    number: int = 0  # a closure that is called again makes another one with the same number

    @property
    def unclipped(self) -> frozenset[int]:
        """The parameters that step with gradients that no clip has gone through."""
        return self.end.about.difference(*(of for _, of in self.clips)) if self.end else frozenset()

    @property
    def how(self) -> str:
        has_backward = any(event.kind in "AB" for event in self.events)
        if (
            self.end is None or not self.end.about or not (self.end.norm or has_backward)
        ):  # as to make an optimizer's state
            return "no gradients"
        if any(is_own(event, self) for event, _ in self.clips):
            return "by itself"
        if not self.unclipped:
            return "clipped"
        return "partly" if self.clips else "by hand" if self._is_by_hand(self.end) else "unclipped"

    def _is_by_hand(self, end: Event) -> bool:
        """Whether other code wrote to gradients after the last watched event: hand-written clipping, most likely."""
        kinds = "".join(event.kind for event in self.events if event.about & end.about)
        before: dict[int, float] = next((event.probe for event in reversed(self.events) if event.probe is not None), {})
        changed = any(before[p] != end.probe[p] for p in before if p in end.probe and before[p] == before[p])
        return changed or "O" in re.split("[ABC]", kinds)[-1]


def steps(log: Log, optimizer: Optimizer) -> Iterator[Step]:
    before, number, events = "", 0, list[Event]()
    reached: dict[int, list[int]] = {}  # the clips, as places in `events`, that each present gradient has gone through
    for event in log.events:
        if event.kind not in "sp":
            if event.kind in _WRITES:
                reached = {p: clips for p, clips in reached.items() if p not in event.about}
            elif event.kind == "C":
                for parameter in event.about & optimizer.parameters.keys():
                    reached.setdefault(parameter, []).append(len(events))
            number += event.kind == "<" and event.optimizer == optimizer.key
            events.append(event)
        elif event.optimizer == optimizer.key:
            places = sorted({place for p in event.about for place in reached.get(p, ())})
            clips = [(events[i], frozenset(p for p in event.about if i in reached.get(p, ()))) for i in places]
            yield Step(optimizer, before, events, event, clips, number)
            before, events, reached = event.kind.upper(), [], {}
    yield Step(optimizer, before, events)


def is_own(event: Event, step: Step) -> bool:
    """Whether the optimizer's `step` clips by itself, not through its closure."""
    is_inside = event.call is not None and re.search("<[^<]*![^<]*$", story(event, step))
    return bool(is_inside) and step.end is not None and not step.end.in_closure


def scope(event: Event, step: Step) -> frozenset[int]:
    """The optimizer's parameters that an event is about; of a clip also those without a gradient."""
    listed = event.call.listed if event.call is not None and event.kind != "M" else ()
    return event.about.union(listed).intersection(step.optimizer.parameters)


def story(event: Event, step: Step) -> str:
    """The kinds of the events of some parameters as a word, the event in question as `!`, the step before as a capital.

    An unscaling of other parameters is a `u`.
    """
    of, word = scope(event, step), step.before
    for other in step.events:
        if other is event:
            word += "!"
        elif other.kind == "<" and other.optimizer == step.optimizer.key:
            word += "<"
        elif other.kind in _TOLD and (other.about & of or other.kind == "G"):
            word += other.kind
        elif other.kind == "U":
            word += "u"
    return word + (step.end.kind if step.end else "")


def is_used(event: Event, step: Step) -> bool:
    """Whether the step uses the gradients of a clip, even if something was added to them."""
    is_clip = event.kind == "C" and step.end is not None and not scope(event, step).isdisjoint(step.end.about)
    return is_clip and "Z" not in story(event, step).partition("!")[2]


def told(event: Event, step: Step) -> str:
    """What else is known of an event, one fact a line."""
    facts = [f"backward {other.site.through}" for other in step.events if other.kind in "AB"]
    facts.append(f"hook {event.site.hook}")
    if step.end:
        facts += [f"step {step.end.site.through}", *([] if step.end.norm else ["moves nothing"])]
    if call := event.call:
        facts += [*call.oddities, f"error {' '.join(call.error.split())}", *_beside(event, step)]
        facts += [] if call.limit > 0 else ["not positive"]
        facts += ["twice"] if len(call.listed) > len(set(call.listed)) else []
    return "\n".join(facts)


def _beside(event: Event, step: Step) -> Iterator[str]:
    """How a clip compares with the others of its step."""
    this = event.call
    assert this is not None
    earlier = itertools.takewhile(lambda other: other is not event, step.events)
    last = next((e.call for e in reversed([*earlier]) if e.kind == "C" and e.about & event.about), None)
    is_like_it = last and (last.function, last.norm_type) == (this.function, this.norm_type)
    if last and is_like_it and {*this.listed} <= {*last.listed} and this.limit >= last.limit:
        yield "again"  # the clip before has done at least as much with the same gradients
    alike = [clip.call for clip, _ in step.clips if clip.site == event.site and clip.call]
    parts = {call.listed for call in alike if call.limit == this.limit and call.function != "clip_grad_value_"}
    if len(parts) > 1 and this.listed in parts:
        yield "each alone" if all(len(part) == 1 for part in parts) else "in parts"


@dataclass(frozen=True)
class Finding:
    """A fault, or a note, at a line; seen so many times, of so many steps or calls."""

    code: str
    message: str
    is_fault: bool
    times: int
    of: int
    site: Site


def of_steps(log: Log, steps: list[Step], used: Collection[int]) -> Iterator[list[tuple[Fault, Event]]]:
    """The faults of each step of an optimizer and their events; `used` are the clips, by identity, of what any step uses."""
    calls = Counter(event.site for event in log.events if event.call)
    once = {site for site, times in calls.items() if times == 1 and len(steps) > 3}
    for step in steps:
        yield [*_of_step(step, used, once)]


def _of_step(step: Step, used: Collection[int], once: Collection[Site]) -> Iterator[tuple[Fault, Event]]:
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


def counted(steps: list[Step], found: list[list[tuple[Fault, Event]]]) -> list[Finding]:
    """What was found in all steps, each line once; faults first."""
    numbers: defaultdict[tuple[Fault, Site], set[int]] = defaultdict(set)  # of the steps
    early: dict[Site, Fault] = {}  # before the first step: the same line is not after the step before later ones
    for step, of in zip(steps, found, strict=True):
        seen = {(fault, event.site) for fault, event in of}
        if not step.before:
            early = {site: fault for fault, site in seen if fault.code in ("CLIP102", "CLIP109")}
        if step.end is None and any(one.how == "clipped" for one in steps):  # another line may clip the next step
            seen = {(fault, site) for fault, site in seen if fault.group != "lost"}
        for fault, site in seen:
            numbers[early.get(site, fault) if fault.code == "CLIP101" else fault, site].add(step.number)
    count = len({step.number for step in steps if step.end})
    listed = [_finding(fault, site, len(times), count) for (fault, site), times in numbers.items()]
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
