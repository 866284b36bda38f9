"""Which assignments a use of a name can see, and which uses an assignment can reach.

This is static: both branches of an `if` are possible, a loop may run any number of times, and a nested function may run
at any time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import libcst as cst

from clipcheck.python.names import COMPREHENSIONS, Binding, Scope
from clipcheck.python.source import Source

_SKIPS = (cst.Continue, cst.Break)


class _Effect(NamedTuple):
    """What running a piece of code does to the value of one variable.

    Afterwards the value can be that of one of `bindings`, or still the previous one, unless `replaces`: then every path
    through the code changes the value.
    """

    bindings: tuple[Binding, ...] = ()
    replaces: bool = False

    @property
    def jumps(self) -> bool:
        """Whether control never reaches the end of the code."""
        return self.replaces and not self.bindings


_NONE = _Effect()
_JUMP = _Effect(replaces=True)


def reaching(source: Source, use: cst.Name) -> list[Binding]:
    """The bindings whose value the name can have at `use`; none for builtins and unbound names."""
    owner = source.scope(use).owner(use.value)
    return _reaching(source, use, owner, use.value) if owner else []


def reaching_at(source: Source, place: cst.CSTNode, name: str) -> list[Binding]:
    """Like `reaching`, as if the name were read right before the statement `place`."""
    owner = source.scope(place).owner(name)
    return _reaching(source, place, owner, name) if owner else []


def reached(source: Source, scope: Scope, bindings: Sequence[Binding]) -> list[cst.Name]:
    """The uses that can see the value of one of these bindings of one name of `scope`."""
    wanted = {id(binding) for binding in bindings}
    return [
        use
        for name in {binding.name for binding in bindings}
        for use in source.names.uses(scope, name)
        if any(id(binding) in wanted for binding in reaching(source, use))
    ]


def contains(source: Source, outer: cst.CSTNode, inner: cst.CSTNode) -> bool:
    """Whether `inner` is inside `outer`, or is the same node."""
    return inner is outer or any(above is outer for above in source.ancestors(inner))


def _reaching(source: Source, use: cst.CSTNode, owner: Scope, name: str) -> list[Binding]:
    """The bindings of a variable that a place can see, latest first: a walk upward through the text."""
    bindings = tuple(owner.bindings.get(name, ()))
    if len(bindings) == 1:
        return list(bindings)
    around = {id(above) for binding in bindings for above in (binding.node, *source.ancestors(binding.node))}
    found: list[Binding] = []
    child = use
    for parent in source.ancestors(use):
        if owner.node is not parent and isinstance(parent, (cst.FunctionDef, cst.Lambda)):
            return list(bindings)  # it may be called at any time
        if owner.node is parent and isinstance(parent, COMPREHENSIONS):
            return list(bindings)
        before = _before(source, parent, child, bindings, around)
        found += [binding for binding in before.bindings if binding not in found]
        if before.replaces:
            break
        child = parent
    return found


def _before(
    source: Source, parent: cst.CSTNode, child: cst.CSTNode, bindings: tuple[Binding, ...], around: set[int]
) -> _Effect:
    """The effect on a variable between the start of `parent` and its `child`; `around` are the nodes around its bindings."""
    match parent:
        case cst.Module() | cst.IndentedBlock() | cst.SimpleStatementLine() | cst.SimpleStatementSuite():
            earlier = [each for each in parent.body[: _index(parent.body, child)] if id(each) in around]
            effects = _effects(source, earlier, bindings)
            return _in_turn(effect for effect in effects if not effect.jumps)  # `child` is reached: no jump was taken
        case cst.For(target=target, body=body) if child is body and (by_loop := _within(source, target, bindings)):
            return _Effect(by_loop, replaces=True)
        case cst.For(body=body) | cst.While(body=body) if child is body:
            return _Effect(_within(source, body, bindings))  # left by an earlier iteration
        case cst.For(orelse=orelse) | cst.While(orelse=orelse) if child is orelse:
            return _Effect(_beside(source, orelse, parent, bindings))
        case cst.Try(body=body, finalbody=final) | cst.TryStar(body=body, finalbody=final):
            # an error may occur anywhere in the body; `finally` follows each of the other parts
            return _Effect(_beside(source, child, parent if child is final else body, bindings))
        case cst.With(body=body) | cst.ExceptHandler(body=body) | cst.MatchCase(body=body) if child is body:
            targets = _beside(source, body, parent, bindings)
            return _Effect(targets, replaces=bool(targets))
        case cst.FunctionDef() | cst.Lambda():
            return _Effect(tuple(binding for binding in bindings if binding.kind == "parameter"), replaces=True)
    return _NONE


def _in_turn(effects: Iterable[_Effect]) -> _Effect:
    """The effect of statements that run one after the other, given their effects, last one first."""
    found: list[Binding] = []
    for effect in effects:
        if effect.jumps:
            return _JUMP
        found += [binding for binding in effect.bindings if binding not in found]
        if effect.replaces:
            return _Effect(tuple(found), replaces=True)
    return _Effect(tuple(found))


def _effects(source: Source, statements: Sequence[cst.CSTNode], bindings: tuple[Binding, ...]) -> Iterator[_Effect]:
    """The effects of statements, last one first."""
    return (_effect(source, statement, bindings) for statement in reversed(statements))


def _effect(source: Source, statement: cst.CSTNode, bindings: tuple[Binding, ...]) -> _Effect:
    """The effect of one statement."""
    inside = _within(source, statement, bindings)
    match statement:
        case cst.Return() | cst.Raise() | cst.Continue() | cst.Break():
            return _JUMP
        case cst.SimpleStatementLine(body=parts):
            return _in_turn(_effects(source, parts, inside))
        case cst.If():
            return _of_if(source, statement, inside)
        case cst.BaseSmallStatement():
            return _Effect(inside, bool(inside))
    return _of_compound(source, statement, inside) if inside else _NONE


def _of_compound(source: Source, statement: cst.CSTNode, inside: tuple[Binding, ...]) -> _Effect:
    match statement:
        case cst.FunctionDef() | cst.ClassDef():
            own = tuple(binding for binding in inside if binding.node is statement)
            return _Effect(own, bool(own))
        case cst.With(body=body):
            effect = _of_block(source, body, inside)
            targets = () if effect.replaces else _beside(source, body, statement, inside)
            return _Effect(effect.bindings + targets, effect.replaces or bool(targets))
        case cst.For(body=body) | cst.While(body=body) if not any(isinstance(n, _SKIPS) for n in source.walk(body)):
            return _Effect(_of_block(source, body, inside).bindings + _beside(source, body, statement, inside))
        case cst.Try(body=body, handlers=[*handlers]) if handlers:
            blocks = [body, *(handler.body for handler in handlers)]
            return _Effect(inside, all(_of_block(source, block, inside).replaces for block in blocks))
    return _Effect(inside)


def _of_if(source: Source, statement: cst.If, bindings: tuple[Binding, ...]) -> _Effect:
    one = _of_block(source, statement.body, bindings)
    match statement.orelse:
        case cst.Else(body=body):
            other = _of_block(source, body, bindings)
        case cst.If() as elif_:
            other = _effect(source, elif_, bindings)
        case _:
            other = _NONE
    return _Effect(one.bindings + other.bindings, one.replaces and other.replaces)


def _of_block(source: Source, block: cst.BaseSuite, bindings: tuple[Binding, ...]) -> _Effect:
    return _in_turn(_effects(source, block.body, bindings))


def _within(source: Source, node: cst.CSTNode, bindings: tuple[Binding, ...]) -> tuple[Binding, ...]:
    return tuple(binding for binding in bindings if contains(source, node, binding.node))


def _beside(
    source: Source, part: cst.CSTNode, whole: cst.CSTNode, bindings: tuple[Binding, ...]
) -> tuple[Binding, ...]:
    """The bindings in `whole` that are not in its `part`."""
    return tuple(b for b in _within(source, whole, bindings) if not contains(source, part, b.node))


def _index(body: Sequence[cst.CSTNode], child: cst.CSTNode) -> int:
    return next(index for index, item in enumerate(body) if item is child)
