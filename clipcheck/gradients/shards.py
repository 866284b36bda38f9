"""Expressions that are this process's shard of a sharded tensor, by DTensor's own methods or by a function around them."""

from __future__ import annotations

import libcst as cst

from clipcheck.python.names import Binding
from clipcheck.python.source import Source

_METHODS = frozenset({"to_local", "_local_tensor"})


def shard_of(source: Source, node: cst.CSTNode) -> cst.BaseExpression | None:
    """The tensor whose shard an expression is: the `g` of `g.to_local()`, `g._local_tensor` and `local_part(g)`."""
    match node:
        case (
            cst.Call(func=cst.Attribute(value=whole, attr=cst.Name(value=method)), args=())
            | cst.Attribute(value=whole, attr=cst.Name(value=method))
        ) if method in _METHODS:
            return whole
        case cst.Call(func=cst.Name() as name, args=[cst.Arg(value=whole, keyword=None, star="")]):
            return whole if _gives_shard(source, name) else None
    return None


def _gives_shard(source: Source, name: cst.Name) -> bool:
    """Whether a function returns the shard of its only argument; one of another file must say so by its name."""
    match source.bindings(name):
        case [Binding(kind="import")]:
            return name.value.strip("_").startswith("to_local")
        case [Binding(node=cst.FunctionDef(params=cst.Parameters(params=[cst.Param(name=given)])) as function)]:
            values = [node.value for node in source.walk(function) if isinstance(node, cst.Return)]
            return _is_part(source, given, values)
        case [Binding(value=cst.Lambda(params=cst.Parameters(params=[cst.Param(name=given)]), body=body))]:
            return _is_part(source, given, [body])
    return False


def _is_part(source: Source, given: cst.Name, values: list[cst.BaseExpression | None]) -> bool:
    """Whether each value is the given tensor or its shard, and at least one is the shard."""
    forms = [form for value in values for form in _forms(value)]
    shards = [form for form in forms if form is not None and shard_of(source, form) is not None]
    whole = [shard_of(source, form) or form for form in forms if form is not None]
    return bool(shards) and None not in forms and all(source.code(tensor) == given.value for tensor in whole)


def _forms(value: cst.BaseExpression | None) -> list[cst.BaseExpression | None]:
    """The two sides of `t.to_local() if … else t`."""
    match value:
        case cst.IfExp(body=body, orelse=orelse):
            return [*_forms(body), *_forms(orelse)]
    return [value]
