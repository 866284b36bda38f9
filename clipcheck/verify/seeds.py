"""The names that statements read before they bind them: the harness supplies their initial values."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence


def read_before_bound(statements: Sequence[ast.stmt], sure: bool = False) -> Iterator[str]:
    """The names that are read before they are bound, in the order of execution.

    The body of a loop counts as run, and so do both branches of a test; with `sure`, a name must be bound in both.
    """
    bound: set[str] = set()

    def run(block: Sequence[ast.stmt]) -> Iterator[str]:
        for statement in block:
            match statement:
                case ast.Assign(targets=targets, value=value):
                    yield from _read(value, bound)
                    bound.update(name for target in targets for name in _names(target))
                case ast.AugAssign(target=ast.Name(id=name), value=value):
                    yield from _read(value, bound)
                    if name not in bound:
                        yield name
                case ast.For(target=target, iter=iterable, body=body):
                    yield from _read(iterable, bound)
                    bound.update(_names(target))
                    yield from run(body)
                case ast.If(test=test, body=body, orelse=orelse):
                    yield from _read(test, bound)
                    start = set(bound)
                    yield from run(body)
                    one = set(bound)
                    bound.intersection_update(start)
                    yield from run(orelse)
                    bound.intersection_update(one) if sure else bound.update(one)
                case ast.With(body=body):
                    yield from run(body)
                case _:
                    yield from _read(statement, bound)

    yield from run(statements)


def _read(node: ast.AST, bound: set[str]) -> Iterator[str]:
    inner = {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    for name in ast.walk(node):
        if isinstance(name, ast.Name) and isinstance(name.ctx, ast.Load) and name.id not in bound | inner:
            yield name.id


def _names(target: ast.AST) -> set[str]:
    return {node.id for node in ast.walk(target) if isinstance(node, ast.Name)}
