"""The nodes below a node of a syntax tree, in source order and without whitespace and punctuation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields
from operator import attrgetter
from typing import cast

import libcst as cst

# Fields for punctuation and whitespace, which rules never look at.
_PUNCTUATION = frozenset(
    "lpar rpar lbracket rbracket leading_lines lines_after_decorators header footer trailing_whitespace comma semicolon "
    "equal colon dot indent star operator_whitespace asynchronous encoding default_indent default_newline "
    "has_trailing_newline lbrace rbrace whitespace relative first_colon second_colon posonly_ind leading_whitespace".split()
)
# Fields that precede, in the text, fields that LibCST declares before them.
_FIRST: dict[type, tuple[str, ...]] = {
    cst.Arg: ("keyword",),
    cst.ClassDef: ("decorators", "name", "type_parameters", "bases", "keywords"),
    cst.ExceptHandler: ("type", "name"),
    cst.ExceptStarHandler: ("type", "name"),
    cst.FunctionDef: ("decorators", "name", "type_parameters", "params", "returns"),
    cst.IfExp: ("body",),
    cst.MatchCase: ("pattern", "guard"),
    cst.Parameters: ("posonly_params",),
}
_FIELDS: dict[type, Callable[[cst.CSTNode], tuple[object, ...]]] = {}
_IS_NODE: dict[type, bool] = {type(None): False, bool: False, str: False, cst.MaybeSentinel: False}


def children(node: cst.CSTNode) -> list[cst.CSTNode]:
    """The child nodes of `node` in source order, without whitespace and punctuation."""
    kind = type(node)
    values = _FIELDS.get(kind)
    if values is None:
        values = _FIELDS[kind] = _getter(kind)
    found: list[cst.CSTNode] = []
    for value in values(node):
        type_of = type(value)
        if type_of is tuple or type_of is list:
            found += cast("Sequence[cst.CSTNode]", value)  # sequences contain nothing else
        else:
            # `isinstance(value, CSTNode)`, once per class: with its abstract metaclass, a walk takes a third longer
            known = _IS_NODE.get(type_of)
            if known is None:
                known = _IS_NODE[type_of] = isinstance(value, cst.CSTNode)
            if known:
                found.append(cast("cst.CSTNode", value))
    return found


def _getter(kind: type) -> Callable[[cst.CSTNode], tuple[object, ...]]:
    """A function that returns all fields of a node of this class, in source order."""
    names = _fields(kind)
    if len(names) > 1:
        return attrgetter(*names)
    return lambda node: tuple(getattr(node, name) for name in names)  # for one name, attrgetter returns no tuple


def _fields(kind: type) -> tuple[str, ...]:
    declared = [f.name for f in fields(kind) if not (f.name in _PUNCTUATION or f.name.startswith("whitespace"))]
    first = [name for name in _FIRST.get(kind, ()) if name in declared]
    return (*first, *(name for name in declared if name not in first))


def walk(node: cst.CSTNode) -> Iterator[cst.CSTNode]:
    """`node` and all nodes below it, in source order, without whitespace and punctuation."""
    stack = [node]  # not recursion: generated files nest deeper than the interpreter's recursion limit
    while stack:
        top = stack.pop()
        yield top
        stack.extend(reversed(children(top)))
