"""Inlines functions: statements with calls replaced by the bodies of the called functions.

The nodes of such a body are copies that know their original node and the arguments of the call.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple, TypeVar, cast

_DEPTH = 3
_LENT = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
NodeT = TypeVar("NodeT", bound=ast.AST)


class Called(NamedTuple):
    """The body of a called function, and the arguments for its parameters."""

    body: Sequence[ast.stmt]
    given: Mapping[str, ast.expr]


Calls = Callable[[ast.Call], "Called | None"]


def inlined(statements: Sequence[ast.stmt], called: Calls, depth: int = _DEPTH) -> list[ast.stmt]:
    """The statements; those that only call a function known to `called` are replaced by its body."""
    return [new for statement in statements for new in _inlined(statement, called, depth)]


def _inlined(statement: ast.stmt, called: Calls, depth: int) -> list[ast.stmt]:
    match statement:
        case ast.Expr(value=ast.Call() as node) if depth and (found := called(node)) is not None:
            return inlined(list(_body(found, f"{node.lineno}_{node.col_offset}")), called, depth - 1)
        case _ if isinstance(statement, _LENT):
            return [statement]
    blocks = {field: block for field, block in ast.iter_fields(statement) if _is_block(block)}
    changed = {field: inlined(block, called, depth) for field, block in blocks.items()}
    if changed == blocks:
        return [statement]
    fields = {field: changed.get(field, value) for field, value in ast.iter_fields(statement)}
    return [_marked(type(statement)(**fields), statement)]


def _is_block(value: object) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], ast.stmt)


def _body(found: Called, place: str) -> Iterator[ast.stmt]:
    """The statements of a function as its caller could have written them, with fresh local names."""
    nodes = [node for statement in found.body for node in ast.walk(statement) if isinstance(node, ast.Name)]
    stored = {node.id for node in nodes if isinstance(node.ctx, ast.Store)}
    plain = {name: value for name, value in found.given.items() if name not in stored and _is_plain(value)}
    fresh = {name: ast.Name(f"{name}_{place}", ast.Load()) for name in stored | (found.given.keys() - plain.keys())}
    for name, value in found.given.items():
        if name in fresh:
            target = ast.Name(fresh[name].id, ast.Store())
            yield _marked(ast.Assign([target], value), value)
    for statement in found.body:
        match statement:
            case ast.Return(value=None):
                continue
            case ast.Return(value=ast.expr() as value):
                statement = _marked(ast.Expr(value), statement)
        yield substituted(statement, {**plain, **fresh})


def _is_plain(value: ast.expr) -> bool:
    """Whether an expression can be duplicated: a name, a chain of attributes, a constant."""
    return all(isinstance(node, (ast.Name, ast.Attribute, ast.Constant, ast.expr_context)) for node in ast.walk(value))


# --- copies ---------------------------------------------------------------------------------------------------------


def original(node: ast.AST) -> ast.AST:
    """The node of the program that a node is a copy of."""
    return cast("ast.AST", getattr(node, "_original", node))


def copied(node: NodeT) -> NodeT:
    """A copy that can be changed; its nodes know their originals."""
    return substituted(node, {})


def substituted(node: NodeT, given: Mapping[str, ast.expr]) -> NodeT:
    """A copy with some names replaced by other expressions."""
    match node:
        case ast.Name(id=name, ctx=ctx) if name in given:
            value = copied(given[name])
            if isinstance(value, ast.Name):
                value.ctx = ctx
            return cast("NodeT", value)
    fields = {field: _substituted(value, given) for field, value in ast.iter_fields(node)}
    new = _marked(type(node)(**fields), node)
    new._given = {**getattr(node, "_given", {}), **given}  # type: ignore[attr-defined]
    return new


def _substituted(value: object, given: Mapping[str, ast.expr]) -> object:
    match value:
        case ast.AST():
            return substituted(value, given)
        case list():
            return [_substituted(item, given) for item in value]
    return value


def _marked(new: NodeT, of: ast.AST) -> NodeT:
    ast.copy_location(new, of)
    new._original = original(of)  # type: ignore[attr-defined]
    return new


def as_called(node: ast.AST, text: str) -> str:
    """An expression of the function that a node belongs to, as its caller would write it."""
    given = getattr(node, "_given", {})
    return ast.unparse(substituted(ast.parse(text, mode="eval").body, given)) if text and given else text
