"""Which assignments a use of a name can see, and which uses an assignment can reach.

A reading of the source, not of its execution: both ways of an `if` are possible, a loop may run any number of times,
and a function that is defined inside another one may run whenever it likes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import libcst as cst

from clipcheck.python.names import Binding, Scope
from clipcheck.python.source import Source

_BLOCKS = (cst.Module, cst.IndentedBlock, cst.SimpleStatementLine, cst.SimpleStatementSuite)
_COMPREHENSIONS = (cst.GeneratorExp, cst.ListComp, cst.SetComp, cst.DictComp)


def reaching(source: Source, use: cst.Name) -> list[Binding]:
    """The bindings whose value the name can have at `use`; none for builtins and names bound nowhere."""
    owner = source.scope(use).owner(use.value)
    return _reaching(source, use, owner, use.value) if owner else []


def reaching_at(source: Source, place: cst.CSTNode, name: str) -> list[Binding]:
    """As `reaching`, for a name that would be read right before the statement `place`."""
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
    """Whether `inner` stands within `outer`, or is it."""
    return inner is outer or any(above is outer for above in source.ancestors(inner))


def blocks_around(source: Source, node: cst.CSTNode) -> Iterator[tuple[Sequence[cst.CSTNode], int]]:
    """The blocks of statements around a node, innermost first, each with the place of the one that holds the node."""
    child = node
    for parent in source.ancestors(node):
        if isinstance(parent, _BLOCKS):
            yield parent.body, _index(parent.body, child)
        child = parent


def _index(body: Sequence[cst.CSTNode], child: cst.CSTNode) -> int:
    return next(index for index, item in enumerate(body) if item is child)


def _reaching(source: Source, use: cst.CSTNode, owner: Scope, name: str) -> list[Binding]:
    bindings = owner.bindings.get(name, [])
    if len(bindings) == 1:
        return bindings
    found: list[Binding] = []
    child = use
    for parent in source.ancestors(use):
        match parent:
            case cst.Module() | cst.IndentedBlock() | cst.SimpleStatementLine() | cst.SimpleStatementSuite():
                for item in reversed(parent.body[: _index(parent.body, child)]):
                    some, surely = _leaving(source, item, bindings)
                    _add(found, some)
                    if some and surely:
                        return found
            case cst.FunctionDef() | cst.Lambda() if owner.node is parent:
                _add(found, [binding for binding in bindings if binding.kind == "parameter"])
                return found
            case cst.FunctionDef() | cst.Lambda():
                return bindings
            case _ if owner.node is parent and isinstance(parent, _COMPREHENSIONS):
                return bindings
            case _:
                some, surely = _entering(source, parent, child, bindings)
                _add(found, some)
                if some and surely:
                    return found
        child = parent
    return found


def _entering(
    source: Source, around: cst.CSTNode, part: cst.CSTNode, bindings: Sequence[Binding]
) -> tuple[list[Binding], bool]:
    """The bindings of a compound statement that a name can have where its `part` begins, and whether it surely has one."""
    match around:
        case cst.For(target=target) if part is around.body and (own := _inside(source, target, bindings)):
            return own, True
        case cst.For() | cst.While() if part is around.body:
            return _inside(source, part, bindings), False  # what an earlier round of the loop has left
        case cst.For() | cst.While() if part is around.orelse:
            return _outside(source, part, _inside(source, around, bindings)), False
        case cst.Try() | cst.TryStar() if part is not around.body:
            # an error may strike anywhere in the body; what is done at last follows each of the other parts
            before = around if part is around.finalbody else around.body
            return _outside(source, part, _inside(source, before, bindings)), False
        case cst.With() | cst.ExceptHandler() | cst.MatchCase() if part is around.body:
            return _outside(source, part, _inside(source, around, bindings)), True
    return [], False


def _inside(source: Source, part: cst.CSTNode, bindings: Sequence[Binding]) -> list[Binding]:
    return [binding for binding in bindings if contains(source, part, binding.node)]


def _outside(source: Source, part: cst.CSTNode, bindings: Sequence[Binding]) -> list[Binding]:
    return [binding for binding in bindings if not contains(source, part, binding.node)]


def _add(found: list[Binding], more: Sequence[Binding]) -> None:
    found += [binding for binding in more if binding not in found]


def _leaving(source: Source, item: cst.CSTNode, bindings: Sequence[Binding]) -> tuple[list[Binding], bool]:
    """The bindings whose value a name can have once the statement `item` has run, and whether it surely has one of them."""
    inside = _inside(source, item, bindings)
    if not inside and not isinstance(item, (cst.SimpleStatementLine, cst.If)):
        return [], False
    match item:
        case cst.SimpleStatementLine() | cst.BaseSmallStatement():
            jumps = isinstance(item, cst.SimpleStatementLine) and any(isinstance(small, _JUMPS) for small in item.body)
            return [] if jumps else inside, bool(inside) or jumps
        case cst.FunctionDef() | cst.ClassDef():
            own = [binding for binding in inside if binding.node is item]
            return own, bool(own)
        case cst.With(body=body):
            found, surely = _leaving_block(source, body, inside)
            targets = [] if surely else _outside(source, body, inside)
            return [*found, *targets], surely or bool(targets)
        case cst.If(body=body, orelse=orelse):
            one, surely = _leaving_block(source, body, inside)
            match orelse:
                case cst.Else(body=block):
                    other, also = _leaving_block(source, block, inside)
                case cst.If():
                    other, also = _leaving(source, orelse, inside)
                case _:
                    other, also = [], False
            return [*one, *other], surely and also
        case cst.For() | cst.While() if not any(isinstance(node, _SKIPS) for node in source.walk(item.body)):
            found, _ = _leaving_block(source, item.body, inside)
            return [*found, *_outside(source, item.body, inside)], False
        case cst.Try(body=body, handlers=[*handlers]) if handlers:
            parts = [body, *(handler.body for handler in handlers)]
            return inside, all(_leaving_block(source, part, inside)[1] for part in parts)
    return inside, False


_JUMPS = (cst.Return, cst.Raise, cst.Continue, cst.Break)
_SKIPS = (cst.Continue, cst.Break)


def _leaving_block(source: Source, block: cst.BaseSuite, bindings: Sequence[Binding]) -> tuple[list[Binding], bool]:
    found: list[Binding] = []
    for item in reversed(block.body):
        some, surely = _leaving(source, item, bindings)
        if surely and not some:
            return [], True  # the block is left before its end
        _add(found, some)
        if surely:
            return found, True
    return found, False
