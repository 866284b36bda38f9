"""The training step: the order in which a function runs backward, unscale, clip, step, zero_grad and update.

A function becomes a graph of events: every event knows which events can come right before and right after it, through
branches, loops (the end of an iteration leads to the next one), `continue`, `break`, `return` and the local functions
that are called. Rules then ask what comes first on every way from a clip, forwards or backwards. What may be anything is
an event of its own kind, UNKNOWN: a rule that meets one stays silent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

import libcst as cst

from clipcheck.python.nodes import children
from clipcheck.python.source import Source, memo
from clipcheck.training.acts import Act, EventKind, acts
from clipcheck.training.calls import arguments, called, closures
from clipcheck.training.guards import Loop
from clipcheck.training.known_tests import facts

Function: TypeAlias = "cst.FunctionDef | cst.Module"
DEPTH = 3  # how deep calls of local functions are followed


@dataclass(eq=False)
class Event:
    """An act and where it takes place in the function that is asked about.

    `at` is the act's node, or the call of the local function that holds it. `facts` are the tests around it whose outcome
    cannot change between two events of one iteration, with that outcome.
    """

    kind: EventKind
    node: cst.CSTNode
    at: cst.CSTNode
    act: Act | None = None
    facts: frozenset[tuple[str, bool]] = frozenset()
    before: list[Event] = field(default_factory=list, repr=False)
    after: list[Event] = field(default_factory=list, repr=False)

    @property
    def subject(self) -> cst.BaseExpression | None:
        return self.act.subject if self.act else None

    @property
    def scaler(self) -> cst.BaseExpression | None:
        return self.act.scaler if self.act else None

    @property
    def wrapper(self) -> str:
        return self.act.wrapper if self.act else ""

    @property
    def is_called(self) -> bool:
        """Whether it takes place inside a local function that is called here."""
        return self.at is not self.node

    def first_before(self, *kinds: EventKind) -> list[Event]:
        """The first event of these kinds on every way that leads here; START where a way meets none."""
        return list(_first(self, lambda event: event.before, frozenset(kinds)))

    def first_after(self, *kinds: EventKind) -> list[Event]:
        """The first event of these kinds on every way from here; END where a way meets none."""
        return list(_first(self, lambda event: event.after, frozenset(kinds)))


def _first(event: Event, neighbours: Callable[[Event], list[Event]], kinds: frozenset[EventKind]) -> Iterator[Event]:
    pending, seen = list(neighbours(event)), {event}
    while pending:
        other = pending.pop()
        if other in seen:
            # an event that only leads back to itself ends the search
            if other is event and event.kind in kinds:
                yield event
            continue
        seen.add(other)
        if _contradict(event, other):
            continue  # no run takes this way
        if other.kind in kinds or other.kind in (EventKind.START, EventKind.END):
            yield other
        else:
            pending.extend(neighbours(other))


def _contradict(one: Event, other: Event) -> bool:
    return any((test, not outcome) in other.facts for test, outcome in one.facts)


@dataclass(eq=False)
class Flow:
    """The events of one function, or of a module's top level, in the order of the text."""

    function: Function
    events: list[Event]
    start: Event
    end: Event

    def of(self, *kinds: EventKind) -> list[Event]:
        return [event for event in self.events if event.kind in kinds]


def flows(source: Source, kind: EventKind) -> Iterator[Flow]:
    """The flow of every function, and of the module's top level, that may hold an event of this kind, also by a call."""
    holding = _holding(source, kind)
    functions: list[Function] = [source.module, *source.nodes(cst.FunctionDef)]
    return (flow(source, function) for function in functions if function in holding)


@memo
def flow(source: Source, function: Function) -> Flow:
    start, end = (Event(kind, function, function) for kind in (EventKind.START, EventKind.END))
    here = _Here(source, function, [])
    ends = _block(_statements(function), [start], here)
    _link([*ends, *here.returns], end)
    return Flow(function, here.events, start, end)


@memo
def _holding(source: Source, kind: EventKind) -> frozenset[Function]:
    """The functions with an event of this kind, and those that mention one that has it, and may so call it."""
    found = new = frozenset(_home(source, node) for node, act in acts(source).items() if act.kind is kind)
    for _ in range(DEPTH):
        names = {function.name.value for function in new if isinstance(function, cst.FunctionDef)}
        new = frozenset(_home(source, name) for name in source.nodes(cst.Name) if name.value in names) - found
        found |= new
    return found


def _home(source: Source, node: cst.CSTNode) -> Function:
    return source.function(node) or source.module


# --- from code to events --------------------------------------------------------------------------------------------
#
# One walk over the statements. `ends` are the events that can come last before a statement; each function below links
# the statement's events behind them and gives the events that can come last up to the statement's end.


@dataclass(frozen=True)
class _Here:
    """Where the walk is: the calls that led from the function asked about to the code, and where control leaves it."""

    source: Source
    function: Function
    events: list[Event]  # all that were found, in the order of the text
    call: cst.Call | None = None  # the call in the function asked about that led here
    followed: tuple[cst.FunctionDef, ...] = ()  # the functions that were called on the way
    facts: frozenset[tuple[str, bool]] = frozenset()  # what is known at that call
    renamed: Mapping[str, str] = field(default_factory=dict)  # how the caller spells what is named otherwise here
    head: Event | None = None  # where the next iteration begins
    breaks: list[Event] = field(default_factory=list)  # the events right before a `break`
    returns: list[Event] = field(default_factory=list)

    def follows(self, function: cst.FunctionDef) -> bool:
        """Whether a call of this function is to be followed."""
        return len(self.followed) < DEPTH and function not in (self.function, *self.followed)

    def inside(self, call: cst.Call, function: cst.FunctionDef) -> _Here:
        """The place where a function that is called here begins."""
        given = arguments(call, function) if self.call is None else {}
        plain = {name: value for name, value in given.items() if isinstance(value, (cst.Name, cst.Attribute))}
        return replace(
            self,
            call=self.call or call,
            followed=(*self.followed, function),
            facts=self.known(call),
            renamed={name: self.source.spelled(value) for name, value in plain.items()},
            head=None,
            breaks=[],
            returns=[],
        )

    def known(self, node: cst.CSTNode) -> frozenset[tuple[str, bool]]:
        return self.facts | facts(self.source, node, self.renamed, self.call)


def _statements(body: Function | cst.BaseSuite) -> Sequence[cst.CSTNode]:
    return body.body.body if isinstance(body, cst.FunctionDef) else body.body


def _block(body: Sequence[cst.CSTNode], ends: list[Event], here: _Here) -> list[Event]:
    for statement in body:
        if not ends:
            break  # after a return, a continue or a break
        # ways that meet again are one: without this, n branches in a row would be 2 ** n ways
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
            return [*(end for case in cases for end in _block(case.body.body, ends, here)), *ends]
        case cst.FunctionDef() | cst.ClassDef():
            return ends
        case cst.Return() | cst.Raise() | cst.Continue() | cst.Break():
            _leave(node, ends, here)
            return []
    return _expression(node, ends, here)


def _leave(node: cst.Return | cst.Raise | cst.Continue | cst.Break, ends: list[Event], here: _Here) -> None:
    match node:
        case cst.Return(value=value):
            left = ends if value is None else _expression(value, ends, here)
            here.returns.extend(end for end in dict.fromkeys(left) if end not in here.returns)
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
    head = Event(EventKind.LOOP, node, here.call or node)
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
    for inner in _effective(here.source, node):
        ends = _act(inner, ends, here)
    return ends


def _act(node: cst.CSTNode, ends: list[Event], here: _Here) -> list[Event]:
    if isinstance(node, cst.Call):
        function = called(here.source, node)
        if function is not None and here.follows(function):
            return _followed(node, function, ends, here)
        for closure in closures(here.source, node):
            if here.follows(closure):
                ends = _followed(node, closure, ends, here)
    act = acts(here.source).get(node)
    if act is None:
        return ends
    event = Event(act.kind, node, here.call or node, act, here.known(node))
    _link(ends, event)
    here.events.append(event)
    return [event]


def _followed(call: cst.Call, function: cst.FunctionDef, ends: list[Event], here: _Here) -> list[Event]:
    """The events of a function that is called."""
    inside = here.inside(call, function)
    return _block(_statements(function), ends, inside) + inside.returns


def _link(ends: Sequence[Event], event: Event) -> None:
    for end in ends:
        if event not in end.after:
            end.after.append(event)
            event.before.append(end)


# --- the order of evaluation ----------------------------------------------------------------------------------------

# compared by identity: `isinstance` on LibCST's abstract classes is ten times as slow
_CLOSED = frozenset({cst.FunctionDef, cst.Lambda, cst.ClassDef})
_EFFECTIVE = frozenset({cst.Call, cst.Assign, cst.AugAssign})


@memo
def _effective(source: Source, node: cst.CSTNode) -> tuple[cst.CSTNode, ...]:
    """The acts in a simple statement or an expression, and its calls of local functions, in their order."""
    return tuple(inner for inner in _evaluated(node) if _takes_effect(source, inner))


def _takes_effect(source: Source, node: cst.CSTNode) -> bool:
    if node in acts(source):
        return True
    return isinstance(node, cst.Call) and (called(source, node) is not None or any(closures(source, node)))


def _evaluated(node: cst.CSTNode) -> Iterator[cst.CSTNode]:
    """Calls and assignments in the order in which they take effect, without those of nested functions."""
    # post-order with an explicit stack: generated files nest deeper than the interpreter's recursion limit
    stack: list[tuple[cst.CSTNode, bool]] = [(node, False)]
    while stack:
        top, done = stack.pop()
        if done:
            yield top
        elif type(top) not in _CLOSED:
            if type(top) in _EFFECTIVE:
                stack.append((top, True))
            stack.extend((child, False) for child in reversed(children(top)))
