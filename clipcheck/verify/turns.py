"""A side that several ranks run: it stops wherever it calls the others, and goes on when all have come that far."""

from __future__ import annotations

import ast
from collections.abc import Mapping

from clipcheck.verify.allowed import NotVerifiable
from clipcheck.verify.sides import Side

# By the role of what has them, the methods in which ranks wait for one another.
_WAITS = {
    "group": frozenset(["all_average", "all_reduce", "optimizer_step", "reduce_gradients"]),
    "horovod": frozenset(["step", "synchronize"]),
    "fsdp": frozenset(["clip_grad_norm_"]),
}
_INNER = (ast.Lambda, ast.ListComp, ast.GeneratorExp)


def in_turns(side: Side, roles: Mapping[str, str]) -> Side:
    """The side as a generator, which yields what each collective call gives. Nothing but `yield` is added to it."""
    tree = ast.parse(side.code)
    for node in ast.walk(tree):
        if isinstance(node, _INNER) and any(_waits(inner, roles) for inner in ast.walk(node)):
            raise NotVerifiable("its ranks wait for one another inside an expression")
    (site,) = _Waiting(roles).visit(tree).body
    site.body.append(ast.Expr(ast.Yield(None)))  # after the return: a side that never waits is a generator, too
    return Side(ast.unparse(ast.fix_missing_locations(tree)), side.names)


class _Waiting(ast.NodeTransformer):
    def __init__(self, roles: Mapping[str, str]) -> None:
        self._roles = roles

    def visit_Call(self, node: ast.Call) -> ast.expr:
        self.generic_visit(node)
        return ast.Yield(node) if _waits(node, self._roles) else node


def _waits(node: ast.AST, roles: Mapping[str, str]) -> bool:
    match node:
        case ast.Call(func=ast.Attribute(value=ast.Name(id=name), attr=attr)):
            return attr in _WAITS.get(roles.get(name, ""), ())
    return False
