"""What became of each step: a walk through the log that knows for every parameter which clips its gradient has gone through."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Literal, NamedTuple, TypeAlias

from clipcheck.audit.log import Event, Log, Optimizer, Use

How: TypeAlias = Literal["clipped", "partly", "unclipped", "by hand", "by itself", "no gradients"]

_WRITES = "ABORZ"  # after these the gradient is another one
_TOLD = "ABCGORUZ"  # what a story tells of


class Step(NamedTuple):
    """What happened to an optimizer's gradients after the step before, up to `end`, the step itself.

    It has none where the log ends.
    """

    optimizer: Optimizer
    before: str  # of what kind the step before was: empty, `S` or `P`
    events: list[Event]
    end: Event | None = None
    clips: list[tuple[Event, frozenset[int]]] = []  # noqa: RUF012  # those that reach it, and for which parameters

    @property
    def use(self) -> Use | None:
        return self.end.use if self.end else None

    @property
    def used(self) -> frozenset[int]:
        """The parameters with gradients."""
        return self.end.about if self.end else frozenset()

    @property
    def unclipped(self) -> frozenset[int]:
        return self.used.difference(*(of for _, of in self.clips))

    @property
    def how(self) -> How:
        if self.use is not None and any(is_own(event, self) for event, _ in self.clips):
            return "by itself"
        if not self.used:
            return "no gradients"
        if not self.unclipped:
            return "clipped"
        return "partly" if self.clips else "by hand" if self._is_by_hand() else "unclipped"

    def _is_by_hand(self) -> bool:
        """Whether other code wrote to gradients after the last watched event: hand-written clipping, most likely."""
        kinds = "".join(event.kind for event in self.events if event.about & self.used)
        probes = [event.probe for event in self.events if event.probe is not None]
        before, after = probes[-1] if probes else {}, self.use.probe if self.use else {}
        changed = any(before[p] != after[p] for p in before if p in after and before[p] == before[p])
        return changed or "O" in re.split("[ABC]", kinds)[-1]


def is_own(event: Event, step: Step) -> bool:
    """Whether the optimizer's `step` clips by itself, not through its closure."""
    is_inside = event.call is not None and event.call.inside == step.optimizer.key
    return is_inside and step.use is not None and not step.use.in_closure


def steps(log: Log, optimizer: Optimizer) -> Iterator[Step]:
    before, events = "", list[Event]()
    reached: dict[int, list[int]] = {}  # the clips, as places in `events`, that each present gradient has gone through
    for event in log.events:
        if event.use is None:
            if event.kind in _WRITES:
                reached = {p: clips for p, clips in reached.items() if p not in event.about}
            elif event.kind == "C":
                for parameter in event.about & optimizer.parameters.keys():
                    reached.setdefault(parameter, []).append(len(events))
            events.append(event)
        elif event.optimizer == optimizer.key:
            places = sorted({place for p in event.about for place in reached.get(p, ())})
            clips = [(events[i], frozenset(p for p in event.about if i in reached.get(p, ()))) for i in places]
            yield Step(optimizer, before, events, event, clips)
            before, events, reached = event.kind.upper(), [], {}
    yield Step(optimizer, before, events)


def scope(event: Event, step: Step) -> frozenset[int]:
    """The optimizer's parameters that an event is about; of a clip also those without a gradient."""
    listed = event.call.listed if event.call is not None and event.kind != "M" else ()
    return event.about.union(listed).intersection(step.optimizer.parameters)


def story(event: Event, step: Step) -> str:
    """The kinds of the events of some parameters as a word, the event in question as `!`, the step before as a capital.

    An unscaling of other parameters is a `u`.
    """
    of = scope(event, step)
    word = step.before
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
