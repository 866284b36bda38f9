"""Whether tensors may be part of an autograd graph, so that their norm must be, too."""

from __future__ import annotations

import libcst as cst

from clipcheck.python.assignments import assigned_values
from clipcheck.python.source import Source

DEPTH = 8  # maximum number of names and calls to follow


def has_graph(source: Source, node: cst.CSTNode, depth: int = DEPTH) -> bool:
    """Whether tensors of this expression were computed with `create_graph`, so that autograd may use their norm."""
    if not depth:
        return False
    match node:
        case cst.Call(args=args):
            return any(_creates_graph(source, arg) or has_graph(source, arg.value, depth - 1) for arg in args)
        case cst.Name():
            values = assigned_values(source, node)
            return any(value is not None and has_graph(source, value, depth - 1) for value in values)
        case cst.ListComp(for_in=clause) | cst.GeneratorExp(for_in=clause):
            return has_graph(source, clause.iter, depth - 1)
        case cst.Subscript(value=value):
            return has_graph(source, value, depth - 1)
    return False


def _creates_graph(source: Source, arg: cst.Arg) -> bool:
    keyword = arg.keyword.value if arg.keyword is not None else ""
    return keyword == "create_graph" and source.code(arg.value) not in ("False", "None")
