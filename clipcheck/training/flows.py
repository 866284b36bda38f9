"""The training step: the order in which a function runs backward, unscale, clip, step, zero_grad and update.

A function becomes a graph of events: every event knows which events can come right before and right after it, through
branches, loops (the end of an iteration leads to the next one), `continue`, `break`, `return` and calls of local
functions. Rules then ask what comes first on every path from a clip, forward or backward. Code that might do anything
is an UNKNOWN event: a rule that encounters one reports nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

import libcst as cst

from clipcheck.python.source import Source, memo
from clipcheck.training.acts import Act, EventKind
from clipcheck.training.calls import Callee
from clipcheck.training.frames import Frame, entered, frames, in_outermost_terms
from clipcheck.training.guards import Loop
from clipcheck.training.known_tests import facts
from clipcheck.training.order import called, effective
from clipcheck.training.summaries import DEPTH, MOST, Place, act_of, does

Function: TypeAlias = "cst.FunctionDef | cst.Module"


@dataclass(eq=False)
class Event:
    """An act and its place in the analyzed function.

    `frame` is the innermost call that leads to it; `subject` is what it acts on, as the outermost caller with a
    name for it writes it. `facts` are the tests around it whose outcome is fixed for an iteration, with their outcomes.
    """

    kind: EventKind
    node: cst.CSTNode
    frame: Frame | None = None
    act: Act | None = None
    subject: cst.BaseExpression | None = None
    scaler: cst.BaseExpression | None = None
    facts: frozenset[tuple[str, bool]] = frozenset()
    before: list[Event] = field(default_factory=list, repr=False)
    after: list[Event] = field(default_factory=list, repr=False)

    @property
    def places(self) -> list[cst.CSTNode]:
        """Its node, then the calls that lead to it; the call in the analyzed function comes last."""
        return [self.node, *(frame.call for frame in frames(self.frame))]

    @property
    def at(self) -> cst.CSTNode:
        """The act's node, or the call in the analyzed function that leads to it."""
        return self.places[-1]

    @property
    def wrapper(self) -> str:
        return self.act.wrapper if self.act else ""

    @property
    def is_called(self) -> bool:
        """Whether it happens inside a called function."""
        return self.frame is not None

    def first_before(self, *kinds: EventKind) -> list[Event]:
        """The nearest earlier event of these kinds on every path that leads here; START if a path has none."""
        return self.previous_where(lambda event: event.kind in kinds)

    def first_after(self, *kinds: EventKind) -> list[Event]:
        """The nearest later event of these kinds on every path from here; END if a path has none."""
        return self.next_where(lambda event: event.kind in kinds)

    def previous_where(self, wanted: Callable[[Event], bool]) -> list[Event]:
        """Like `first_before`, with a test of the events instead of their kinds."""
        return list(_first(self, lambda event: event.before, wanted))

    def next_where(self, wanted: Callable[[Event], bool]) -> list[Event]:
        """Like `first_after`, with a predicate instead of kinds."""
        return list(_first(self, lambda event: event.after, wanted))


def _first(event: Event, neighbors: Callable[[Event], list[Event]], wanted: Callable[[Event], bool]) -> Iterator[Event]:
    pending, seen = list(neighbors(event)), {event}
    while pending:
        other = pending.pop()
        if other in seen:
            # an event that only leads back to itself ends the search
            if other is event and wanted(event):
                yield event
            continue
        seen.add(other)
        if _contradict(event, other):
            continue  # this path is impossible
        if wanted(other) or other.kind in (EventKind.START, EventKind.END):
            yield other
        else:
            pending.extend(neighbors(other))


def _contradict(one: Event, other: Event) -> bool:
    return any((test, not outcome) in other.facts for test, outcome in one.facts)


@dataclass(eq=False)
class Flow:
    """The events of one function, or of a module's top level, in source order."""

    function: Function
    events: list[Event]
    start: Event
    end: Event

    def of(self, *kinds: EventKind) -> list[Event]:
        return [event for event in self.events if event.kind in kinds]


def flows(source: Source, kind: EventKind) -> Iterator[Flow]:
    """The flow of every function, and of the top level, that may contain an event of this kind, also through calls."""
    functions: list[Function] = [source.module, *source.nodes(cst.FunctionDef)]
    return (flow(source, function) for function in functions if does(source, function, kind))


@memo
def flow(source: Source, function: Function) -> Flow:
    start, end = (Event(kind, function) for kind in (EventKind.START, EventKind.END))
    here = _Here(source, function, [])
    ends = _block(_statements(function), [start], here)
    _link([*ends, *here.returns], end)
    return Flow(function, here.events, start, end)


# --- from code to events --------------------------------------------------------------------------------------------
#
# One walk over the statements. `ends` are the events that can come last before a statement; each function below links
# the statement's events after them and gives the events that can come last up to the statement's end.


@dataclass(frozen=True)
class _Here:
    """The state of the walk: the calls that led from the analyzed function to the code, and where control leaves it."""

    source: Source
    function: Function
    events: list[Event]  # all events so far, in source order
    frame: Frame | None = None  # the call that led here
    facts: frozenset[tuple[str, bool]] = frozenset()  # the known facts at that call
    head: Event | None = None  # where the next iteration begins
    breaks: list[Event] = field(default_factory=list)  # the events right before a `break`
    returns: list[Event] = field(default_factory=list)

    def follows(self, function: Place) -> bool:
        """Whether a call of this function should be followed."""
        running = [self.function, *(frame.function for frame in frames(self.frame))]
        return len(running) <= DEPTH and len(self.events) < MOST and function not in running

    def inside(self, call: cst.Call, callee: Callee) -> _Here:
        """The state at the start of a function that is called here."""
        frame = entered(self.source, call, callee, self.frame)
        return replace(self, frame=frame, facts=self.known(call), head=None, breaks=[], returns=[])

    def known(self, node: cst.CSTNode) -> frozenset[tuple[str, bool]]:
        words = self.frame.words if self.frame else {}
        return self.facts | facts(self.source, node, words, called=self.frame is not None)


def _statements(body: Place | cst.BaseSuite) -> Sequence[cst.CSTNode]:
    match body:
        case cst.FunctionDef(body=suite):
            return suite.body
        case cst.Lambda(body=expression):
            return [expression]
    return body.body


def _block(body: Sequence[cst.CSTNode], ends: list[Event], here: _Here) -> list[Event]:
    for statement in body:
        if not ends:
            break  # after a return, a continue or a break
        # merge paths that meet again: without this, n branches in a row would be 2 ** n paths
        ends = list(dict.fromkeys(_statement(statement, ends, here)))
    return ends


def _statement(node: cst.CSTNode, ends: list[Event], here: _Here) -> list[Event]:
    match node:
        case cst.SimpleStatementLine(body=body):
            return _block(body, ends, here)
        case cst.If():
            return _if(node, ends, here)
        case cst.For() | cst.While():
            return _loop(node, ends, here)
        case cst.With(items=items, body=suite):
            for item in items:
                ends = _expression(item.item, ends, here)
            return _block(suite.body, ends, here)
        case cst.Try() | cst.TryStar():
            return _try(node, ends, here)
        case cst.Match(subject=subject, cases=cases):
            ends = _expression(subject, ends, here)
            passed = [] if any(_takes_all(case) for case in cases) else ends
            return [*(end for case in cases for end in _block(case.body.body, ends, here)), *passed]
        case cst.FunctionDef() | cst.ClassDef():
            return ends
        case cst.Return() | cst.Raise() | cst.Continue() | cst.Break():
            _leave(node, ends, here)
            return []
    return _expression(node, ends, here)


def _takes_all(case: cst.MatchCase) -> bool:
    """Whether a case is `case _:`, or a name that anything can be bound to."""
    return isinstance(case.pattern, cst.MatchAs) and case.pattern.pattern is None and case.guard is None


def _leave(node: cst.Return | cst.Raise | cst.Continue | cst.Break, ends: list[Event], here: _Here) -> None:
    match node:
        case cst.Return(value=value):
            here.returns.extend(ends if value is None else _expression(value, ends, here))
        case cst.Continue() if here.head is not None:
            _link(ends, here.head)
        case cst.Break():
            here.breaks.extend(ends)


def _if(node: cst.If, ends: list[Event], here: _Here) -> list[Event]:
    ends = _expression(node.test, ends, here)
    taken = _block(node.body.body, ends, here)
    match node.orelse:
        case cst.If() as following:
            return taken + _if(following, ends, here)
        case cst.Else(body=suite):
            return taken + _block(suite.body, ends, here)
    return taken + ends


def _loop(node: Loop, ends: list[Event], here: _Here) -> list[Event]:
    if isinstance(node, cst.For):
        ends = _expression(node.iter, ends, here)
    head = Event(EventKind.LOOP, node, here.frame)
    _link(ends, head)
    tested = [head] if isinstance(node, cst.For) else _expression(node.test, [head], here)
    within = replace(here, head=head, breaks=[])
    _link(_block(node.body.body, tested, within), head)
    exits = [] if _is_endless(node) else tested
    if node.orelse is not None:
        exits = _block(node.orelse.body.body, exits, here)
    return exits + within.breaks


def _is_endless(node: Loop) -> bool:
    return isinstance(node, cst.While) and isinstance(node.test, cst.Name) and node.test.value == "True"


def _try(node: cst.Try | cst.TryStar, ends: list[Event], here: _Here) -> list[Event]:
    count = len(here.events)
    exits = _block(node.body.body, ends, here)
    # an exception may leave the body before, or after, each of its events
    raised = [*ends, *here.events[count:]]
    if node.orelse is not None:
        exits = _block(node.orelse.body.body, exits, here)
    for handler in node.handlers:
        exits = exits + _block(handler.body.body, raised, here)
    if node.finalbody is not None:
        exits = _block(node.finalbody.body.body, exits or raised, here)
    return exits


def _expression(node: cst.CSTNode, ends: list[Event], here: _Here) -> list[Event]:
    """The events of a simple statement or an expression, the arguments of a call before the call."""
    for inner in effective(here.source, node):
        ends = _act(inner, ends, here)
    return ends


def _act(node: cst.CSTNode, ends: list[Event], here: _Here) -> list[Event]:
    count = len(here.events)
    if isinstance(node, cst.Call):
        for callee in called(here.source, node):
            if here.follows(callee.function):
                ends = _followed(node, callee, ends, here)
            else:
                ends = _event(Act(EventKind.UNKNOWN, node), ends, here)
    act = act_of(here.source, node)
    if act is None or (act.kind is EventKind.BACKWARD and any(e.kind is act.kind for e in here.events[count:])):
        return ends  # nothing, or a function of the file, called `backward`, that has run it
    return _event(act, ends, here)


def _event(act: Act, ends: list[Event], here: _Here) -> list[Event]:
    known = here.known(act.node)
    subject, scaler = (in_outermost_terms(here.source, node, here.frame) for node in (act.subject, act.scaler))
    event = Event(act.kind, act.node, here.frame, act, subject, scaler, known)
    _link(ends, event)
    here.events.append(event)
    return [event]


def _followed(call: cst.Call, callee: Callee, ends: list[Event], here: _Here) -> list[Event]:
    """The events of a function that is called."""
    inside = here.inside(call, callee)
    return _block(_statements(callee.function), ends, inside) + inside.returns


def _link(ends: Sequence[Event], event: Event) -> None:
    for end in ends:
        if event not in end.after:
            end.after.append(event)
            event.before.append(end)
