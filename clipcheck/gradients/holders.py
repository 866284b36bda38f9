"""Which expressions are gradients, and not the parameters that hold them."""

from __future__ import annotations

import libcst as cst

from clipcheck.python.source import Source

# Methods that give a tensor made from the one they are called on; the result has no `.grad` of its own.
_VIEWS = frozenset("detach clone float half double to cpu cuda view flatten reshape contiguous coalesce".split())


def is_gradient(node: cst.CSTNode | None) -> bool:
    """Whether an expression is `p.grad`, or a copy or a view of it, as it stands there."""
    match node:
        case cst.Attribute(attr=cst.Name("grad")):
            return True
        case cst.Attribute(value=inner, attr=cst.Name("data")):
            return is_gradient(inner)
        case cst.Call(func=cst.Attribute(value=inner, attr=cst.Name(value=method))) if method in _VIEWS:
            return is_gradient(inner)
    return False


def holder(node: cst.CSTNode) -> cst.BaseExpression | None:
    """The parameter whose gradient `node` is: `p` for `p.grad.data`."""
    match node:
        case cst.Attribute(value=inner, attr=cst.Name("grad")):
            return inner
        case cst.Attribute(value=inner) | cst.Call(func=cst.Attribute(value=inner)):
            return holder(inner)
    return None


def means_gradient(source: Source, node: cst.BaseExpression, depth: int = 2) -> bool:
    """As `is_gradient`, through names that are never assigned anything else."""
    match node:
        case cst.Name() if depth:
            bindings = source.bindings(node)
            return bool(bindings) and all(
                b.kind == "assign" and b.value is not None and means_gradient(source, b.value, depth - 1)
                for b in bindings
            )
        case cst.Call(func=cst.Attribute(value=inner, attr=cst.Name(value=method))) if method in _VIEWS:
            return means_gradient(source, inner, depth)
        case cst.Attribute(value=inner, attr=cst.Name("data")):
            return means_gradient(source, inner, depth)
    return is_gradient(node)
