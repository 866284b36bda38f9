"""One-shot iterators that are used again: `model.parameters()`, `filter`, `map`, `chain` and generators.

They yield their items only once: a second loop over one runs zero times, and a function that is given it sees no
parameters, without an error. So a clip of one clips nothing if an earlier use took everything, or if it is the same
iterator in each iteration or each call.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import libcst as cst

from clipcheck.python.names import Binding, Scope, last_name
from clipcheck.python.reaching import contains, reaching
from clipcheck.python.source import Source
from clipcheck.training.guards import exclusive, loops
from clipcheck.training.one_shot import WRAPS
from clipcheck.training.parameters import attribute_bindings
from clipcheck.training.readings import drain_of, makes_iterator

# Methods that run once for an object: what they find in an attribute, they find the first time.
_RUN_ONCE = ("__init__", "setup", "build")


class Spent(NamedTuple):
    """A use that finds nothing: `made` is the expression that makes the iterator, `name` the variable's.

    `drained` is the earlier use that took everything, or the use itself where it takes everything the first time round.
    """

    use: cst.BaseExpression
    made: cst.BaseExpression
    name: str
    drained: cst.CSTNode
    again: bool
    calls: bool = False  # the use is in a method that runs again and again


class _Making(NamedTuple):
    """An assignment of a one-shot iterator to a variable: where it stands, and the expression that makes the iterator."""

    place: cst.CSTNode
    made: cst.BaseExpression


def spent(source: Source, use: cst.BaseExpression) -> Spent | None:
    """Why the iterator that a name or a `self.` attribute stands for has nothing left at `use`; None if it may have."""
    match use:
        case cst.Name():
            return _spent_name(source, use)
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
    """The first of the earlier uses of the iterator that takes everything, on a path that leads to `use`."""
    for other in earlier:
        drain = drain_of(source, other)
        if drain is not None and not contains(source, drain, use) and not exclusive(source, other, use):
            return Spent(use, making.made, source.code(use), drain, again=False)
    return None


def _spent_by_itself(
    source: Source, use: cst.Name | cst.Attribute, making: _Making, places: Sequence[cst.CSTNode]
) -> Spent | None:
    """The use in a loop that finds the same iterator each time; `places` are all that assign the variable."""
    repeating = [loop for loop in loops(source, use) if not contains(source, loop, making.place)]
    if not repeating or any(contains(source, loop, place) for place in places for loop in repeating):
        return None
    return None if _leaves(source, use) else Spent(use, making.made, source.code(use), use, again=True)


def _leaves(source: Source, use: cst.CSTNode) -> bool:
    """Whether the loop around is left right after the use, so that it runs once."""
    block, index = source.siblings(source.statement(use))
    for statement in block[index + 1 :]:
        match statement:
            case cst.SimpleStatementLine(body=[*_, cst.Break() | cst.Return() | cst.Raise()]):
                return True
    return False


def _value(source: Source, value: cst.BaseExpression | None, depth: int = 2) -> cst.BaseExpression | None:
    """What a variable was assigned, through plain aliases."""
    if isinstance(value, cst.Name) and depth:
        match source.bindings(value):
            case [Binding(kind="assign", value=other)]:
                return _value(source, other, depth - 1)
    return value


def _one_shot(source: Source, place: cst.CSTNode, value: cst.BaseExpression | None) -> _Making | None:
    """The making of a one-shot iterator, if an assignment of `value` is one."""
    made = _value(source, value)
    return _Making(place, made) if made is not None and makes_iterator(source, made) else None


def _function_of(source: Source, node: cst.CSTNode) -> cst.CSTNode | None:
    return source.enclosing(node, cst.FunctionDef, cst.Lambda)


# --- variables ------------------------------------------------------------------------------------------------------


def _spent_name(source: Source, use: cst.Name) -> Spent | None:
    scope = source.scope(use).owner(use.value)
    if scope is None:
        return None
    other = _other_name(source, use)
    found = None if other is None else spent(source, other)
    if found is not None:
        return found._replace(use=use)
    bindings = scope.bindings[use.value]
    here = scope is source.scope(use) or _function_of(source, bindings[0].node) is source.function(use)
    making = _seen_from(source, use, bindings, here)
    if making is None:
        return None
    earlier = list(_uses_since(source, use, scope, making, here))
    if isinstance(other, cst.Name):
        earlier += _uses_since(source, use, source.scope(other).owner(other.value), making, here, other.value)
    found = _spent_before(source, use, making, earlier)
    if found is not None or not here:
        return found
    return _spent_by_itself(source, use, making, [binding.node for binding in bindings])


def _seen_from(source: Source, use: cst.Name, bindings: Sequence[Binding], here: bool) -> _Making | None:
    """The last of the assignments that `use` can see, if they all make one-shot iterators.

    A function that is defined further in sees all of them, `here` only those before it.
    """
    if here:
        rank = source.rank(use)
        bindings = [b for b in bindings if source.rank(b.node) < rank and not exclusive(source, b.node, use)]
    values = ((b.node, b.value if b.kind == "assign" else None) for b in bindings)
    makings = [_one_shot(source, place, value) for place, value in values]
    return makings[-1] if makings and None not in makings else None


def _other_name(source: Source, use: cst.Name) -> cst.BaseExpression | None:
    """The name or attribute that stands for the same iterator: `own` where `params = own` is all that is assigned."""
    match reaching(source, use):
        case [Binding(kind="assign", value=(cst.Name() | cst.Attribute(value=cst.Name("self"))) as other)]:
            return other
    return None


def _uses_since(
    source: Source, use: cst.Name, scope: Scope | None, making: _Making, here: bool, name: str = ""
) -> Iterator[cst.BaseExpression]:
    """The other uses of the variable, after the making and in the same function; `here` up to `use`."""
    home = _function_of(source, making.place)
    for other in source.names.uses(scope, name or use.value):
        late = source.rank(other) < source.rank(making.place) or (here and source.rank(other) > source.rank(use))
        if other is not use and not late and _function_of(source, other) is home:
            yield other


def iterator_made(source: Source, node: cst.BaseExpression) -> cst.BaseExpression | None:
    """The expression that makes the one-shot iterator that an expression stands for, None where it may be none."""
    if makes_iterator(source, node):
        return node
    scope = source.scope(node).owner(node.value) if isinstance(node, cst.Name) else None
    if scope is None or not isinstance(node, cst.Name):
        return None
    bindings = scope.bindings[node.value]
    here = scope is source.scope(node) or _function_of(source, bindings[0].node) is source.function(node)
    making = _seen_from(source, node, bindings, here)
    return None if making is None else making.made


# --- attributes -----------------------------------------------------------------------------------------------------


def _spent_attribute(source: Source, use: cst.Attribute) -> Spent | None:
    """`self.params = model.parameters()` in one method, used up in another, or by another."""
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
    """The attribute is assigned in the method that uses it: as with a variable."""
    method, rank = _function_of(source, use), source.rank(use)
    before = [place for place in places if _function_of(source, place) is method and source.rank(place) < rank]
    making = next((one for one in makings if before and one.place is before[-1]), None)
    if making is None or exclusive(source, making.place, use):
        return None
    since = source.rank(making.place)
    earlier = (other for other in _uses_in(source, use, method) if since < source.rank(other) < rank)
    return _spent_before(source, use, making, earlier) or _spent_by_itself(source, use, making, places)


def _spent_elsewhere(source: Source, use: cst.Attribute, making: _Making) -> Spent | None:
    """The method that makes the iterator uses it up."""
    since = source.rank(making.place)
    for other in _uses_in(source, use, _function_of(source, making.place)):
        drain = drain_of(source, other) if source.rank(other) > since else None
        if drain is not None:
            return Spent(use, making.made, source.code(use), drain, again=False)
    return None


def _spent_by_calls(source: Source, use: cst.Attribute, making: _Making) -> Spent | None:
    """The method that uses the iterator runs again and again."""
    method = _function_of(source, use)
    if isinstance(method, cst.FunctionDef) and method.name.value in _RUN_ONCE:
        return None
    return Spent(use, making.made, source.code(use), use, again=True, calls=True)


def _is_collection(source: Source, value: cst.BaseExpression | None) -> bool:
    """Whether an attribute may as well be a list or a tuple; a parameter of the same name or None says nothing."""
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
