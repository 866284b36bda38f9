"""Numbers in source code: the value of a literal, infinities, and zeros of any type."""

from __future__ import annotations

import math

import libcst as cst

from clipcheck.python.source import Source

_INFINITE = frozenset({"math.inf", "torch.inf", "numpy.inf", "numpy.Inf", "numpy.infty", "torch._six.inf"})
_CASTS = frozenset("to cuda cpu float double".split())


def is_infinity(source: Source, node: cst.CSTNode) -> bool:
    """Whether a name is `math.inf` or an equivalent, whichever import it comes from."""
    if isinstance(node, cst.Name) and len(bindings := source.bindings(node)) > 1:
        return all(source.names.origin(binding) in _INFINITE for binding in bindings)
    return source.qualified(node) in _INFINITE


def number(source: Source, node: cst.BaseExpression | None) -> float | None:
    """The value of a numeric literal, `-1`, `float("inf")`, `math.inf` and the like; None for anything else."""
    match node:
        case cst.Integer() | cst.Float():
            return float(node.evaluated_value)
        case cst.UnaryOperation(operator=cst.Minus(), expression=inner):
            value = number(source, inner)
            return None if value is None else -value
        case cst.Call(func=cst.Name("float"), args=[cst.Arg(value=cst.SimpleString() as text)]):
            try:
                return float(str(text.evaluated_value))
            except ValueError:
                return None
        case cst.Name() | cst.Attribute() if is_infinity(source, node):
            return math.inf
    return None


def is_zero(source: Source, node: cst.CSTNode) -> bool:
    """A zero of any type: `0`, `0.0`, `torch.tensor(0)`, `torch.zeros(1, device=…)`, or a list of one zero."""
    match node:
        case cst.Integer() | cst.Float():
            return float(node.evaluated_value) == 0
        case cst.Call(func=func, args=args):
            match source.qualified(func):
                case "builtins.float" | "builtins.int" | "torch.tensor" | "torch.as_tensor" | "torch.FloatTensor":
                    return len(args) > 0 and is_zero(source, args[0].value)
                case "torch.zeros" | "torch.zeros_like":
                    return True
            match func:
                case cst.Attribute(value=value, attr=cst.Name(value=method)) if method in _CASTS:
                    return is_zero(source, value)
        case cst.List(elements=[element]):
            return is_zero(source, element.value)
    return False
