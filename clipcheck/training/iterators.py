"""One-shot iterators that are used again: `model.parameters()`, `filter`, `map`, `chain` and generators.

They yield their items only once: a second loop over one runs zero times, and a function that receives it sees no
parameters, without an error. So a clip clips nothing if an earlier use has exhausted the iterator, or if every
iteration or call uses the same one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import libcst as cst

from clipcheck.python.assignments import assigned_value
from clipcheck.python.names import Binding, Scope, last_name
from clipcheck.python.reaching import contains, reaching
from clipcheck.python.source import Source
from clipcheck.training.guards import exclusive, loops
from clipcheck.training.one_shot import WRAPS
from clipcheck.training.parameters import attribute_bindings
from clipcheck.training.readings import drain_of, makes_iterator

# Methods that run once per object, so that they see a fresh iterator in an attribute.
_RUN_ONCE = ("__init__", "setup", "build")


class Spent(NamedTuple):
    """A use of an exhausted iterator: `made` is the expression that creates the iterator, `name` its variable.

    `drained` is the earlier use that exhausts it, or the use itself if it does so in the first iteration.
    """

    use: cst.BaseExpression
    made: cst.BaseExpression
    name: str
    drained: cst.CSTNode
    again: bool
    calls: bool = False  # the use is in a method that runs repeatedly


class _Making(NamedTuple):
    """An assignment of a one-shot iterator to a variable: its place, and the expression that creates the iterator."""

    place: cst.CSTNode
    made: cst.BaseExpression


def spent(source: Source, use: cst.BaseExpression, call: cst.Call | None = None) -> Spent | None:
    """Why the iterator in a name or a `self.` attribute is exhausted at `use`; None if it may not be.

    `call` calls the `functools.partial` to which `use` is given.
    """
    match use:
        case cst.Name():
            return _spent_name(source, use, use if call is None else call)
        case cst.Attribute(value=cst.Name("self")):
            return _spent_attribute(source, use)
        case cst.Call(args=[*_, cst.Arg(value=(cst.Name() | cst.Attribute()) as inner)], func=func) if (
            last_name(func) in WRAPS
        ):
            found = spent(source, inner)
            return None if found is None else found._replace(use=use)
    return None


def _spent_before(
    source: Source, use: cst.Name | cst.Attribute, making: _Making, earlier: Iterable[cst.BaseExpression]
) -> Spent | None:
    """The first earlier use that exhausts the iterator on a path that leads to `use`."""
    for other in earlier:
        drain = drain_of(source, other)
        if drain is not None and not contains(source, drain, use) and not exclusive(source, other, use):
            return Spent(use, making.made, source.code(use), drain, again=False)
    return None


def _spent_by_itself(
    source: Source, use: cst.Name | cst.Attribute, making: _Making, places: Sequence[cst.CSTNode], at: cst.CSTNode
) -> Spent | None:
    """A use in a loop around `at` that sees the same iterator each time; `places` are all assignments of the variable."""
    repeating = [loop for loop in loops(source, at) if not contains(source, loop, making.place)]
    if not repeating or any(contains(source, loop, place) for place in places for loop in repeating):
        return None
    return None if _leaves(source, at) else Spent(use, making.made, source.code(use), use, again=True)


def _leaves(source: Source, use: cst.CSTNode) -> bool:
    """Whether the loop is left right after the use, so that it runs once."""
    block, index = source.siblings(source.statement(use))
    for statement in block[index + 1 :]:
        match statement:
            case cst.SimpleStatementLine(body=[*_, cst.Break() | cst.Return() | cst.Raise()]):
                return True
    return False


def _value(source: Source, value: cst.BaseExpression | None, depth: int = 2) -> cst.BaseExpression | None:
    """The value that was assigned to a variable, through plain aliases."""
    if isinstance(value, cst.Name) and depth:
        match source.bindings(value):
            case [Binding(kind="assign", value=other)]:
                return _value(source, other, depth - 1)
    return value


def _one_shot(source: Source, place: cst.CSTNode, value: cst.BaseExpression | None) -> _Making | None:
    """The creation of a one-shot iterator, if `value` is one."""
    made = _value(source, value)
    return _Making(place, made) if made is not None and makes_iterator(source, made) else None


def _function_of(source: Source, node: cst.CSTNode) -> cst.CSTNode | None:
    return source.enclosing(node, cst.FunctionDef, cst.Lambda)


# --- variables ------------------------------------------------------------------------------------------------------


def _spent_name(source: Source, use: cst.Name, at: cst.CSTNode) -> Spent | None:
    scope = source.scope(use).owner(use.value)
    if scope is None:
        return None
    other = _other_name(source, use)
    found = None if other is None else spent(source, other)
    if found is not None:
        return found._replace(use=use)
    bindings = scope.bindings[use.value]
    here = _function_of(source, bindings[0].node) is source.function(use)
    making = _seen_from(source, use, bindings, here)
    if making is None:
        return None
    earlier = list(_uses_since(source, use, scope, making, here))
    if isinstance(other, cst.Name):
        earlier += _uses_since(source, use, source.scope(other).owner(other.value), making, here, other.value)
    found = _spent_before(source, use, making, earlier)
    if found is not None or not here or _function_of(source, at) is not _function_of(source, use):
        return found
    return _spent_by_itself(source, use, making, [binding.node for binding in bindings], at)


def _seen_from(source: Source, use: cst.Name, bindings: Sequence[Binding], here: bool) -> _Making | None:
    """The last of the assignments that `use` can see, if they all create one-shot iterators.

    A nested function sees all of them; with `here`, only those before `use` count.
    """
    if here:
        rank = source.rank(use)
        bindings = [b for b in bindings if source.rank(b.node) < rank and not exclusive(source, b.node, use)]
    values = ((b.node, assigned_value(source, b) if b.kind == "assign" else None) for b in bindings)
    makings = [_one_shot(source, place, value) for place, value in values]
    return makings[-1] if makings and None not in makings else None


def _other_name(source: Source, use: cst.Name) -> cst.BaseExpression | None:
    """Another name or attribute of the same iterator: `own` if `params = own` is the only assignment."""
    match reaching(source, use):
        case [Binding(kind="assign", value=(cst.Name() | cst.Attribute(value=cst.Name("self"))) as other)]:
            return other if source.rank(other) < source.rank(use) else None  # two may stand for each other in a loop
    return None


def _uses_since(
    source: Source, use: cst.Name, scope: Scope | None, making: _Making, here: bool, name: str = ""
) -> Iterator[cst.BaseExpression]:
    """The other uses of the variable in the same function after the creation; with `here`, up to `use`."""
    home = _function_of(source, making.place)
    for other in source.names.uses(scope, name or use.value):
        late = source.rank(other) < source.rank(making.place) or (here and source.rank(other) > source.rank(use))
        if other is not use and not late and _function_of(source, other) is home:
            yield other


def iterator_made(source: Source, node: cst.BaseExpression) -> cst.BaseExpression | None:
    """The expression that creates the one-shot iterator to which an expression refers; None if that is uncertain."""
    if makes_iterator(source, node):
        return node
    if not isinstance(node, cst.Name):
        return None
    scope = source.scope(node).owner(node.value)
    if scope is None:
        return None
    bindings = scope.bindings[node.value]
    here = _function_of(source, bindings[0].node) is source.function(node)
    making = _seen_from(source, node, bindings, here)
    return None if making is None else making.made


# --- attributes -----------------------------------------------------------------------------------------------------


def _spent_attribute(source: Source, use: cst.Attribute) -> Spent | None:
    """`self.params = model.parameters()` in one method, exhausted in another, or by another."""
    assigned = [(place, value, _one_shot(source, place, value)) for place, value in attribute_bindings(source, use)]
    makings = [making for _, _, making in assigned if making is not None]
    others = [value for _, value, making in assigned if making is None]
    if not makings or any(_is_collection(source, value) for value in others):
        return None
    places = [place for place, _, _ in assigned]
    method = _function_of(source, use)
    if any(_function_of(source, place) is method for place in places):
        return _spent_in_method(source, use, makings, places)
    return _spent_elsewhere(source, use, makings[-1]) or _spent_by_calls(source, use, makings[-1])


def _spent_in_method(
    source: Source, use: cst.Attribute, makings: Sequence[_Making], places: Sequence[cst.Attribute]
) -> Spent | None:
    """The attribute is assigned in the method that uses it, so it is treated like a variable."""
    method, rank = _function_of(source, use), source.rank(use)
    before = [place for place in places if _function_of(source, place) is method and source.rank(place) < rank]
    making = next((one for one in makings if before and one.place is before[-1]), None)
    if making is None or exclusive(source, making.place, use):
        return None
    since = source.rank(making.place)
    earlier = (other for other in _uses_in(source, use, method) if since < source.rank(other) < rank)
    return _spent_before(source, use, making, earlier) or _spent_by_itself(source, use, making, places, use)


def _spent_elsewhere(source: Source, use: cst.Attribute, making: _Making) -> Spent | None:
    """The method that creates the iterator exhausts it."""
    since = source.rank(making.place)
    for other in _uses_in(source, use, _function_of(source, making.place)):
        drain = drain_of(source, other) if source.rank(other) > since else None
        if drain is not None:
            return Spent(use, making.made, source.code(use), drain, again=False)
    return None


def _spent_by_calls(source: Source, use: cst.Attribute, making: _Making) -> Spent | None:
    """The method that uses the iterator runs repeatedly."""
    method = _function_of(source, use)
    if isinstance(method, cst.FunctionDef) and method.name.value in _RUN_ONCE:
        return None
    return Spent(use, making.made, source.code(use), use, again=True, calls=True)


def _is_collection(source: Source, value: cst.BaseExpression | None) -> bool:
    """Whether an attribute may also be a list or a tuple; None and a parameter of the same name are ignored."""
    match value:
        case cst.Name("None"):
            return False
        case cst.Name() as name:
            return any(b.kind != "parameter" for b in source.bindings(name))
    return True


def _uses_in(source: Source, use: cst.Attribute, method: cst.CSTNode | None) -> Iterator[cst.Attribute]:
    """The places in a method that read the attribute of the class around `use`."""
    owner = source.enclosing(use, cst.ClassDef)
    for node in source.nodes(cst.Attribute):
        match node:
            case cst.Attribute(value=cst.Name("self"), attr=cst.Name(value=attr)) if (
                attr == use.attr.value
                and not isinstance(source.parent(node), cst.AssignTarget)
                and source.enclosing(node, cst.ClassDef) is owner
                and _function_of(source, node) is method
            ):
                yield node
