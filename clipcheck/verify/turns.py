"""A side that several ranks run: it pauses at each collective call, and resumes when all ranks have arrived."""

from __future__ import annotations

import ast
from collections.abc import Mapping

from clipcheck.verify.allowed import NotVerifiable
from clipcheck.verify.sides import Side

# By role: the methods in which ranks wait for each other.
_WAITS = {
    "group": frozenset(["all_average", "all_reduce", "optimizer_step", "reduce_gradients"]),
    "horovod": frozenset(["step", "synchronize"]),
    "fsdp": frozenset(["clip_grad_norm_"]),
}
_INNER = (ast.Lambda, ast.ListComp, ast.GeneratorExp)


def in_turns(side: Side, roles: Mapping[str, str]) -> Side:
    """The side as a generator that yields the result of each collective call. Only `yield` is added."""
    tree = ast.parse(side.code)
    for node in ast.walk(tree):
        if isinstance(node, _INNER) and any(_waits(inner, roles) for inner in ast.walk(node)):
            raise NotVerifiable("its ranks wait for one another inside an expression")
    (site,) = _Waiting(roles).visit(tree).body
    site.body.append(ast.Expr(ast.Yield(None)))  # after the return, so that a side that never waits is a generator, too
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
