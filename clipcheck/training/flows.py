"""The training step: the order in which a function runs backward, unscale, clip, step, zero_grad and update.

A function becomes a graph of events: every event knows which events can come right before and right after it, through
branches, loops (the end of an iteration leads to the next one), `continue`, `break`, `return` and the local functions
that are called. Rules then ask what comes first on every way from a clip, forwards or backwards. What may be anything is
an event of its own kind, UNKNOWN: a rule that meets one stays silent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import libcst as cst

from clipcheck.python.nodes import children
from clipcheck.python.source import Source, memo
from clipcheck.training.acts import Act, EventKind, act
from clipcheck.training.guards import Loop
from clipcheck.training.known_tests import arguments, facts

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
    return _Builder(source, function).flow()


# --- from code to events --------------------------------------------------------------------------------------------


@memo
def _acts(source: Source) -> dict[cst.CSTNode, Act]:
    nodes = source.nodes(cst.Call, cst.Assign, cst.AugAssign)
    return {node: found for node in nodes if (found := act(source, node))}


@memo
def _holding(source: Source, kind: EventKind) -> frozenset[Function]:
    """The functions with an event of this kind, and those that mention one that has it, and may so call it."""
    found = new = frozenset(_home(source, node) for node, what in _acts(source).items() if what.kind is kind)
    for _ in range(DEPTH):
        names = {function.name.value for function in new if isinstance(function, cst.FunctionDef)}
        new = frozenset(_home(source, name) for name in source.nodes(cst.Name) if name.value in names) - found
        found |= new
    return found


def _home(source: Source, node: cst.CSTNode) -> Function:
    return source.function(node) or source.module


@memo
def _effective(source: Source, node: cst.CSTNode) -> tuple[cst.CSTNode, ...]:
    """The acts in a simple statement or an expression, and its calls of local functions, in their order."""
    return tuple(inner for inner in _evaluated(node) if _takes_effect(source, inner))


def _takes_effect(source: Source, node: cst.CSTNode) -> bool:
    if node in _acts(source):
        return True
    return isinstance(node, cst.Call) and (local_function(source, node) is not None or any(_closures(source, node)))


@dataclass
class _Around:
    """Where control goes from inside the loops and functions being built."""

    breaks: list[Event]
    loop: Event | None
    returns: list[Event]


class _Builder:
    """Builds the graph of one function by walking its statements once."""

    def __init__(self, source: Source, function: Function) -> None:
        self.source = source
        self.function = function
        self.start = Event(EventKind.START, function, function)
        self.end = Event(EventKind.END, function, function)
        self.events: list[Event] = []
        self.active: list[cst.FunctionDef] = []
        self.call: cst.Call | None = None  # the call in the function asked about that led to where we are
        self.facts: frozenset[tuple[str, bool]] = frozenset()  # what is known at that call
        self.renamed: dict[str, str] = {}  # how the caller spells what the function called here names otherwise

    def flow(self) -> Flow:
        around = _Around([], None, [])
        body = self.function.body
        exits = self._block(body.body if isinstance(body, cst.BaseSuite) else body, [self.start], around)
        _link(exits + around.returns, self.end)
        return Flow(self.function, self.events, self.start, self.end)

    def _block(self, body: Sequence[cst.CSTNode], preds: list[Event], around: _Around) -> list[Event]:
        for statement in body:
            if not preds:
                break  # behind a return, a continue or a break
            # ways that meet again are one: without this, n branches in a row would be 2 ** n ways
            preds = list(dict.fromkeys(self._statement(statement, preds, around)))
        return preds

    def _suite(self, suite: cst.BaseSuite, preds: list[Event], around: _Around) -> list[Event]:
        return self._block(suite.body, preds, around)

    def _statement(self, node: cst.CSTNode, preds: list[Event], around: _Around) -> list[Event]:
        match node:
            case cst.SimpleStatementLine(body=body):
                return self._block(body, preds, around)
            case cst.If(test=test, body=body, orelse=orelse):
                preds = self._expression(test, preds)
                taken = self._suite(body, preds, around)
                match orelse:
                    case None:
                        return taken + preds
                    case cst.If():
                        return taken + self._statement(orelse, preds, around)
                    case cst.Else(body=other):
                        return taken + self._suite(other, preds, around)
            case cst.For(iter=header) | cst.While(test=header):
                return self._loop(node, header, preds, around)
            case cst.With(items=items, body=body):
                for item in items:
                    preds = self._expression(item.item, preds)
                return self._suite(body, preds, around)
            case cst.Try() | cst.TryStar():
                return self._try(node, preds, around)
            case cst.Match(subject=subject, cases=cases):
                preds = self._expression(subject, preds)
                return [exit for case in cases for exit in self._suite(case.body, preds, around)] + preds
            case cst.FunctionDef() | cst.ClassDef():
                return preds
            case cst.Return(value=value):
                exits = self._expression(value, preds) if value is not None else preds
                around.returns[:] = dict.fromkeys((*around.returns, *exits))
                return []
            case cst.Raise():
                return []
            case cst.Continue() if around.loop is not None:
                _link(preds, around.loop)
                return []
            case cst.Break():
                around.breaks += preds
                return []
        return self._expression(node, preds)

    def _loop(self, node: Loop, header: cst.CSTNode, preds: list[Event], around: _Around) -> list[Event]:
        if isinstance(node, cst.For):
            preds = self._expression(header, preds)
        head = Event(EventKind.LOOP, node, self.call or node)
        _link(preds, head)
        inside: list[Event] = [head]
        if isinstance(node, cst.While):
            inside = self._expression(header, inside)
        within = _Around([], head, around.returns)
        _link(self._suite(node.body, inside, within), head)
        endless = isinstance(node, cst.While) and isinstance(header, cst.Name) and header.value == "True"
        exits = [] if endless else inside
        if node.orelse is not None:
            exits = self._suite(node.orelse.body, exits, around)
        return exits + within.breaks

    def _try(self, node: cst.Try | cst.TryStar, preds: list[Event], around: _Around) -> list[Event]:
        count = len(self.events)
        exits = self._suite(node.body, preds, around)
        # an exception may leave the body before, or behind, each of its events
        raised = [*preds, *self.events[count:]]
        if node.orelse is not None:
            exits = self._suite(node.orelse.body, exits, around)
        for handler in node.handlers:
            exits = exits + self._suite(handler.body, raised, around)
        if node.finalbody is not None:
            exits = self._suite(node.finalbody.body, exits or raised, around)
        return exits

    def _expression(self, node: cst.CSTNode, preds: list[Event]) -> list[Event]:
        """The events of a simple statement or an expression, the arguments of a call before the call."""
        for inner in _effective(self.source, node):
            preds = self._act(inner, preds)
        return preds

    def _act(self, node: cst.CSTNode, preds: list[Event]) -> list[Event]:
        if isinstance(node, cst.Call):
            callee = local_function(self.source, node)
            if (
                callee is not None
                and callee not in self.active
                and len(self.active) < DEPTH
                and callee is not self.function
            ):
                return self._inlined(node, callee, preds)
            for closure in _closures(self.source, node):
                if closure not in self.active and closure is not self.function:
                    preds = self._inlined(node, closure, preds)
        found = _acts(self.source).get(node)
        if found is None:
            return preds
        at = self.call or node
        event = Event(found.kind, node, at, found, self.facts | facts(self.source, node, self.renamed, self.call))
        _link(preds, event)
        self.events.append(event)
        return [event]

    def _inlined(self, call: cst.Call, callee: cst.FunctionDef, preds: list[Event]) -> list[Event]:
        outer = self.call, self.facts, self.renamed
        self.facts = self.facts | facts(self.source, call, self.renamed, self.call)
        self.renamed = arguments(self.source, call, callee) if self.call is None else {}
        self.call = self.call or call
        self.active.append(callee)
        around = _Around([], None, [])
        exits = self._suite(callee.body, preds, around) + around.returns
        self.active.pop()
        self.call, self.facts, self.renamed = outer
        return exits


def _link(preds: list[Event], event: Event) -> None:
    for pred in preds:
        if event not in pred.after:
            pred.after.append(event)
            event.before.append(pred)


# compared by identity: `isinstance` on LibCST's abstract classes is ten times as slow
_CLOSED = frozenset({cst.FunctionDef, cst.Lambda, cst.ClassDef})
_EFFECTIVE = frozenset({cst.Call, cst.Assign, cst.AugAssign})


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


@memo
def local_function(source: Source, call: cst.Call) -> cst.FunctionDef | None:
    """The function of this file that a call runs, where that is plain: by its name, or a method by `self.`."""
    match call.func:
        case cst.Name() as name:
            bindings = source.bindings(name)
            if len(bindings) == 1 and isinstance(bindings[0].node, cst.FunctionDef):
                return _ordinary(source, bindings[0].node)
        case cst.Attribute(value=cst.Name("self"), attr=cst.Name(value=method)):
            owner = source.enclosing(call, cst.ClassDef)
            if owner is not None:
                bindings = source.names.scopes[owner].bindings.get(method, [])
                if len(bindings) == 1 and isinstance(bindings[0].node, cst.FunctionDef):
                    return _ordinary(source, bindings[0].node)
    return None


def _ordinary(source: Source, function: cst.FunctionDef) -> cst.FunctionDef | None:
    """None for generators, whose body does not run when they are called."""
    return None if function in _generators(source) else function


@memo
def _generators(source: Source) -> frozenset[cst.FunctionDef | None]:
    return frozenset(source.function(node) for node in source.nodes(cst.Yield))


def _closures(source: Source, call: cst.Call) -> Iterator[cst.FunctionDef]:
    """Local functions that are handed to `step(closure)`, which calls them first."""
    match call.func:
        case cst.Attribute(attr=cst.Name("step")):
            for arg in call.args:
                if isinstance(arg.value, cst.Name):
                    for binding in source.bindings(arg.value):
                        if isinstance(binding.node, cst.FunctionDef):
                            yield binding.node
