"""Which tests change from one micro-batch to the next, and which of them count: the guards of gradient accumulation.

A guard is recognized by what it does, not by its names: `if (i + 1) % every == 0:` in a loop over `i`, a counter that
the loop increments, a flag that the loop sets, or what a framework offers. `if accumulation_steps > 1:` has the same
outcome for every batch and guards nothing. A test is judged in its context, with the arguments that callers pass.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import libcst as cst

from clipcheck.python.assignments import assigned_value
from clipcheck.python.names import Binding, last_name
from clipcheck.python.nodes import children
from clipcheck.python.reaching import contains
from clipcheck.python.source import Source, memo
from clipcheck.python.words import words
from clipcheck.training.calls import callee
from clipcheck.training.flows import Event
from clipcheck.training.frames import Frame, entered
from clipcheck.training.guards import Loop, conditions, loops
from clipcheck.training.parameters import attribute_bindings
from clipcheck.training.summaries import returned

_DEPTH = 6  # maximum number of names and calls to follow
# Attributes of frameworks that say whether the next step uses the sum; `is_accumulating` is the negation.
_OF_FRAMEWORKS = frozenset({"sync_gradients", "is_gradient_accumulation_boundary", "is_accumulating"})
# Methods that read a setting.
_READS = frozenset({"get", "item", "size", "keys", "values"})
_CONSTANT_ROOTS = ("builtins.", "torch.", "os.", "math.", "numpy.")
_CONSTRUCTORS = frozenset({"__init__", "setup", "build"})
_ORDER = (cst.GreaterThan, cst.GreaterThanEqual, cst.LessThan, cst.LessThanEqual)


class Test(NamedTuple):
    """A test that decides whether an event happens, its outcome, the loop that repeats it, and the calls leading to it.

    Without a loop, the outermost function is assumed to be called for one micro-batch after the other.
    """

    branch: cst.If
    outcome: bool
    frame: Frame | None
    loop: Loop | None


def tests_around(source: Source, event: Event) -> Iterator[Test]:
    """The tests that decide whether an event happens in one iteration of its innermost loop, innermost first."""
    loop = next((loop for place in event.places for loop in loops(source, place)), None)
    place, frame = event.node, event.frame
    while True:
        inner = loops(source, place)
        for branch, outcome in conditions(source, place):
            if not inner or inner[0] in loops(source, branch):
                yield Test(branch, outcome, frame, loop)
        if inner or frame is None:
            return
        place, frame = frame.call, frame.outer


def counting_guard(source: Source, event: Event) -> Test | None:
    """The test around an event that is certainly true only once in several micro-batches."""
    return next((test for test in tests_around(source, event) if _counts(source, test)), None)


def may_be_guarded(source: Source, event: Event, apart_from: frozenset[Test] = frozenset()) -> bool:
    """Whether a test around an event may be true once in several micro-batches: it counts, or a flag changes."""
    tests = [test for test in tests_around(source, event) if test not in apart_from]
    return any(_counts(source, test) or _is_flag(source, test) for test in tests)


def is_data_dependent(source: Source, test: Test) -> bool:
    """Whether a test may have a different outcome for each micro-batch without counting them."""
    return not _counts(source, test) and _Look(source, test.loop, test.frame).varies(test.branch.test)


def guard_of(source: Source, node: cst.CSTNode) -> cst.If | None:
    """The `if (i + 1) % n == 0:` around a place in its function."""
    around = loops(source, node)
    for branch, outcome in conditions(source, node):
        if _counts(source, Test(branch, outcome, None, around[0] if around else None)):
            return branch
    return None


# --- counting ---------------------------------------------------------------------------------------------------------


@memo
def _counts(source: Source, test: Test) -> bool:
    return _Look(source, test.loop, test.frame).counts(test.branch.test)


@memo
def _is_flag(source: Source, test: Test) -> bool:
    """Whether a part of a test is a name, an attribute or a call that changes in an unknown way."""
    look = _Look(source, test.loop, test.frame)
    return any(look.varies(part) for part in _flags(source, test.branch.test))


def _flags(source: Source, test: cst.BaseExpression) -> Iterator[cst.BaseExpression]:
    match test:
        case cst.UnaryOperation(operator=cst.Not(), expression=inner):
            yield from _flags(source, inner)
        case cst.BooleanOperation(left=left, right=right):
            yield from _flags(source, left)
            yield from _flags(source, right)
        case cst.Name() | cst.Attribute():
            yield test
        case cst.Comparison(comparisons=[cst.ComparisonTarget(operator=cst.In() | cst.NotIn())]):
            yield test
        case cst.Call(func=func) if not source.origin(func).startswith(_CONSTANT_ROOTS):
            yield test


class _Look(NamedTuple):
    """The context in which an expression is judged: what repeats, and the calls that lead to the code."""

    source: Source
    loop: Loop | None
    frame: Frame | None
    depth: int = _DEPTH

    def deeper(self) -> _Look:
        return self._replace(depth=self.depth - 1)

    def counts(self, node: cst.CSTNode) -> bool:
        """Whether an expression counts micro-batches."""
        match node:
            case cst.Attribute(attr=cst.Name(value=name)) if name in _OF_FRAMEWORKS:
                return True
            case cst.BinaryOperation(operator=cst.Modulo(), left=left) if not isinstance(left, cst.SimpleString):
                return self._divides_counter(left)
            case cst.Comparison(left=left, comparisons=[cst.ComparisonTarget(operator=operator, comparator=right)]) if (
                self._compares_counter(left, operator, right)
            ):
                return True
            case cst.Name():
                return self._name_counts(node)
            case cst.Call() if self.depth and (inner := self._results(node)):
                return any(look.counts(value) for look, value in inner)
        return any(self.counts(child) for child in children(node))

    def varies(self, node: cst.CSTNode) -> bool:
        """Whether the value of an expression can differ from one micro-batch to the next."""
        match node:
            case cst.Name():
                return self._name_varies(node)
            case cst.Attribute(value=value, attr=cst.Name(value=name)):
                return name in _OF_FRAMEWORKS or self._attribute_varies(node) or self.varies(value)
            case cst.Call(func=func, args=args):
                return self._call_varies(node, func) or any(self.varies(arg.value) for arg in args)
        return any(self.varies(child) for child in children(node))

    # --- names ----------------------------------------------------------------------------------------------------

    def _name_counts(self, name: cst.Name) -> bool:
        given = self._given(name)
        if given is not None:
            return given[0].counts(given[1])
        if _mentions_accumulation(name.value) and self.varies(name):
            return True
        values = (assigned_value(self.source, b) for b in self.source.bindings(name) if b.kind == "assign")
        return self.depth > 0 and any(self.deeper().counts(value) for value in values if value is not None)

    def _name_varies(self, name: cst.Name) -> bool:
        given = self._given(name)
        if given is not None:
            return given[0].varies(given[1])
        return self.depth > 0 and any(self._binding_varies(name, binding) for binding in self.source.bindings(name))

    def _binding_varies(self, name: cst.Name, binding: Binding) -> bool:
        if not self._is_repeated(name, binding):
            return False
        match binding.kind:
            case "assign":
                value = assigned_value(self.source, binding)
                return value is None or _continues(self.source, name, value) or self.deeper().varies(value)
            case "for" | "augmented" | "with" | "other":
                return True
        return False

    def _is_repeated(self, name: cst.Name, binding: Binding) -> bool:
        """Whether a binding is executed again for each micro-batch."""
        here, there = self.source.function(name), self.source.function(binding.node)
        if self.loop is not None and self.source.function(self.loop) is there:
            return contains(self.source, self.loop, binding.node)
        return (here is there and here is not None) or binding.kind == "augmented"

    def _given(self, name: cst.Name) -> tuple[_Look, cst.BaseExpression] | None:
        """The caller's argument for a parameter, and the context of the caller."""
        if self.frame is None or name.value not in self.frame.given:
            return None
        if any(binding.kind != "parameter" for binding in self.source.bindings(name)):
            return None
        return self._replace(frame=self.frame.outer), self.frame.given[name.value]

    def _divides_counter(self, node: cst.CSTNode) -> bool:
        """Whether the dividend of a remainder changes or is unknown: nobody takes the remainder of a setting."""
        parts = list(self.source.walk(node))
        if any(word.startswith("epoch") for part in parts for word in words(last_name(part))):
            return False
        if any(isinstance(part, cst.Attribute) for part in parts):
            return True
        if self.varies(node):
            return True
        names = [part for part in parts if isinstance(part, cst.Name)]
        return self.loop is None and any(
            all(b.kind == "parameter" for b in self.source.bindings(name)) for name in names
        )

    # --- attributes and calls -------------------------------------------------------------------------------------

    def _attribute_varies(self, node: cst.Attribute) -> bool:
        """Whether an attribute is assigned in the loop, or an attribute of `self` outside the constructor."""
        if isinstance(node.value, cst.Name) and node.value.value == "self":
            return any(self._is_set_again(*binding) for binding in attribute_bindings(self.source, node))
        spelled = self.source.spelled(node)
        places = _attributes_assigned(self.source).get(spelled, ())
        return any(self.loop is None or contains(self.source, self.loop, place) for place in places)

    def _is_set_again(self, place: cst.Attribute, value: cst.BaseExpression | None) -> bool:
        method = self.source.function(place)
        if method is None or method.name.value in _CONSTRUCTORS:
            return False
        match value:
            case cst.Name() as name if any(b.kind == "parameter" for b in self.source.bindings(name)):
                return False  # a setting that is passed on
            case None | cst.Name() | cst.Integer():
                return True
        return self.depth > 0 and self._replace(loop=None, frame=None, depth=self.depth - 1).varies(value)

    def _call_varies(self, call: cst.Call, func: cst.BaseExpression) -> bool:
        results = self._results(call) if self.depth else []
        if results:
            return any(look.varies(value) for look, value in results)
        if last_name(func) in _READS or self.source.origin(func).startswith(_CONSTANT_ROOTS):
            return isinstance(func, cst.Attribute) and self.varies(func.value)
        return True  # its result is unknown

    def _results(self, call: cst.Call) -> list[tuple[_Look, cst.BaseExpression]]:
        """What a function of the file returns, and the context in which to judge it."""
        called = callee(self.source, call)
        values = None if called is None else returned(self.source, called.function)
        if called is None or values is None:
            return []
        look = self.deeper()._replace(frame=entered(self.source, call, called, self.frame))
        return [(look, value) for value in values]

    # --- counters -------------------------------------------------------------------------------------------------

    def _compares_counter(self, left: cst.CSTNode, operator: cst.BaseCompOp, right: cst.CSTNode) -> bool:
        """`i == last`, or `count >= every` for a counter that is reset."""
        if isinstance(operator, (cst.Equal, cst.NotEqual)):
            return self._is_counter(left, reset=False) or self._is_counter(right, reset=False)
        return isinstance(operator, _ORDER) and (self._is_counter(left, True) or self._is_counter(right, True))

    def _is_counter(self, node: cst.CSTNode, reset: bool) -> bool:
        """Whether an expression is a number that the loop increments and, with `reset`, also resets."""
        match node:
            case cst.BinaryOperation(operator=cst.Add() | cst.Subtract(), left=left, right=right):
                return self._is_counter(left, reset) or self._is_counter(right, reset)
            case cst.Name():
                given = self._given(node)
                if given is not None:
                    return given[0]._is_counter(given[1], reset)
                here = [b for b in self.source.bindings(node) if self._is_repeated(node, b)]
                steps = [b for b in here if b.kind == "augmented" or _continues(self.source, node, b.value)]
                raised = bool(steps)
                if reset:
                    return raised and any(b.kind == "assign" for b in here if b not in steps)
                return raised or any(b.kind == "for" and _is_index(self.source, b) for b in here)
            case cst.Attribute(value=cst.Name("self")):
                bindings = attribute_bindings(self.source, node)
                raising = [
                    (place, value)
                    for place, value in bindings
                    if isinstance(self.source.parent(place), cst.AugAssign) or _continues(self.source, node, value)
                ]
                return bool(raising) and (
                    not reset or self._attribute_is_set([b for b in bindings if b not in raising])
                )
            case cst.Attribute() if self.loop is not None:
                places = _attributes_assigned(self.source).get(self.source.spelled(node), ())
                inside = [self.source.parent(place) for place in places if contains(self.source, self.loop, place)]
                raised = any(isinstance(statement, cst.AugAssign) for statement in inside)
                return raised and (not reset or not all(isinstance(statement, cst.AugAssign) for statement in inside))
        return False

    def _attribute_is_set(self, bindings: list[tuple[cst.Attribute, cst.BaseExpression | None]]) -> bool:
        """Whether an attribute is assigned again outside the constructor."""
        around = [self.source.function(place) for place, value in bindings if value is not None]
        return any(method is not None and method.name.value not in _CONSTRUCTORS for method in around)


@memo
def _attributes_assigned(source: Source) -> dict[str, list[cst.CSTNode]]:
    """The places that assign attributes of anything, by their spelling."""
    found: dict[str, list[cst.CSTNode]] = {}
    targets = [target.target for target in source.nodes(cst.AssignTarget)]
    for target in (*targets, *(statement.target for statement in source.nodes(cst.AugAssign))):
        if isinstance(target, cst.Attribute):
            found.setdefault(source.spelled(target), []).append(target)
    return found


def _is_index(source: Source, binding: Binding) -> bool:
    """Whether a loop's target counts its iterations: over `range(…)`, or the first of `enumerate(…)`."""
    loop = source.enclosing(binding.node, cst.For)
    match loop:
        case cst.For(iter=cst.Call(func=func)):
            return source.qualified(func) in ("builtins.range", "builtins.enumerate") or last_name(func) == "trange"
    return False


def _continues(source: Source, variable: cst.BaseExpression, value: cst.BaseExpression | None) -> bool:
    """Whether the new value of a variable is computed from its last one: `count + 1`, `(i + 1) % every`."""
    match value:
        case cst.BinaryOperation(operator=cst.Add() | cst.Subtract() | cst.Modulo()):
            names = (node for node in source.walk(value) if isinstance(node, (cst.Name, cst.Attribute)))
            return any(source.spelled(node) == source.spelled(variable) for node in names)
    return False


def _mentions_accumulation(name: str) -> bool:
    parts = words(name)
    return any(part.startswith("accum") for part in parts) or parts in (("sync", "gradients"), ("sync", "grads"))
