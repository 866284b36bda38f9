"""Recognises the power of one gradient's norm, `‖g‖ₚ ** q`, however it is spelled and over however many names."""

from __future__ import annotations

from typing import Literal, NamedTuple, TypeAlias

import libcst as cst

from clipcheck.gradients.exponents import HALF, INFINITY, ONE, TWO, Factor, factor
from clipcheck.gradients.framework import framework
from clipcheck.gradients.gradient import Condition, Gradient, gradient
from clipcheck.python.assignments import assigned_value
from clipcheck.python.literals import is_zero
from clipcheck.python.names import Binding
from clipcheck.python.reaching import reaching
from clipcheck.python.source import Source

Kind: TypeAlias = Literal["tensor", "float", "numpy"]
_DEPTH = 8


class Power(NamedTuple):
    """`‖gradient‖_order ** exponent`; `synced` where the host reads it, tensor by tensor; `matrix` where `order` means a
    matrix norm for two-dimensional gradients."""

    gradient: Gradient
    order: Factor
    exponent: Factor
    kind: Kind = "tensor"
    matrix: bool = False

    @property
    def synced(self) -> bool:
        return self.kind != "tensor"


PASS = frozenset("detach clone cpu cuda to float double view reshape squeeze contiguous".split())
NORM_FUNCTIONS = {
    "torch.norm": "p",
    "torch.functional.norm": "p",
    "torch.linalg.vector_norm": "ord",
    "torch.linalg.norm": "ord",
    "torch.linalg.matrix_norm": "",
    "numpy.linalg.norm": "ord",
}
_POWERS = frozenset({"builtins.pow", "math.pow", "torch.pow", "numpy.power", "torch.float_power"})
_ROOTS: dict[str, Kind] = {"math.sqrt": "float", "numpy.sqrt": "numpy", "torch.sqrt": "tensor"}
_SQUARES = frozenset({"torch.square", "numpy.square"})
_SUMS = frozenset({"torch.sum", "numpy.sum"})


def power(source: Source, node: cst.CSTNode, depth: int = _DEPTH) -> Power | None:
    """The power of one gradient's norm that an expression computes."""
    if not depth or framework(source) == "another":
        return None
    step = raised(source, node)
    if step is not None:
        base, exponent, kind = step
        inner = power(source, base, depth - 1)
        product = inner and inner.exponent.times(exponent)
        if inner is None or product is None:
            return None
        if kind == "numpy" and not inner.synced:
            return None  # numpy takes no tensor of the device: these are arrays
        kind = kind if kind != "tensor" else inner.kind
        return inner._replace(exponent=product._replace(text=exponent.text), kind=kind)
    match node:
        case cst.IfExp(test=test, body=body, orelse=orelse):
            for chosen, other, holds in ((body, orelse, True), (orelse, body, False)):
                inner = power(source, chosen, depth - 1)
                if inner is not None and is_zero(source, other):
                    return _guarded(inner, Condition(test, holds))
            return None
        case cst.BinaryOperation(left=left, operator=cst.Multiply(), right=right):
            if source.code(left) == source.code(right):
                inner = power(source, left, depth - 1)
                product = inner and inner.exponent.times(TWO)
                return inner._replace(exponent=product) if inner and product else None
            return None
        case cst.Name():
            return _named(source, node, depth)
        case cst.Attribute(value=value, attr=cst.Name(value="data")):
            return power(source, value, depth - 1)
        case cst.Call():
            return _norm(source, node) or _sum_of_squares(source, node) or _read(source, node, depth)
    return None


def _guarded(inner: Power, condition: Condition) -> Power:
    return inner._replace(gradient=inner.gradient._replace(guards=(*inner.gradient.guards, condition)))


def _named(source: Source, name: cst.Name, depth: int) -> Power | None:
    found: list[Power] = []
    defaults: list[Binding] = []
    unknown = False
    for binding in reaching(source, name):
        value = assigned_value(source, binding) if binding.kind == "assign" else None
        inner = power(source, value, depth - 1) if value is not None else None
        if inner is not None:
            via = (*inner.gradient.via, binding)
            found.append(inner._replace(gradient=inner.gradient._replace(via=via)))
        elif value is not None and is_zero(source, value):
            defaults.append(binding)
        else:
            unknown = True
    if not found:
        return None
    first = found[0]
    alike = all(
        source.code(one.gradient.node) == source.code(first.gradient.node)
        and one.gradient.casts == first.gradient.casts
        and one.order.equals(first.order)
        and one.exponent.equals(first.exponent)
        for one in found[1:]
    )
    via = (*(binding for one in found for binding in one.gradient.via), *defaults)
    guards = first.gradient.guards
    certain = first.gradient.certain and alike and not unknown
    return first._replace(gradient=first.gradient._replace(via=via, guards=guards, certain=certain))


def raised(source: Source, node: cst.CSTNode) -> tuple[cst.BaseExpression, Factor, Kind] | None:
    """Base and exponent where an expression is a power or a root, and the type that it forces on the result."""
    match node:
        case cst.BinaryOperation(left=base, operator=cst.Power(), right=exponent):
            found = factor(source, exponent)
            return (base, found, "tensor") if found else None
        case cst.Call(func=func, args=[cst.Arg(value=base, keyword=None), cst.Arg(value=exponent)]) if (
            source.qualified(func) in _POWERS
        ):
            found = factor(source, exponent)
            kind: Kind = "float" if source.qualified(func) == "math.pow" else "tensor"
            return (base, found, kind) if found else None
        case cst.Call(func=func, args=[cst.Arg(value=base, keyword=None)]) if source.qualified(func) in _ROOTS:
            return base, HALF, _ROOTS[source.qualified(func) or ""]
        case cst.Call(func=func, args=[cst.Arg(value=base, keyword=None)]) if source.qualified(func) in _SQUARES:
            return base, TWO, "tensor"
        case cst.Call(func=cst.Attribute(value=base, attr=cst.Name(value=method)), args=args):
            if source.qualified(node.func) is not None:
                return None  # a function of a module, not a method
            match method, args:
                case (("sqrt" | "sqrt_"), ()):
                    return base, HALF, "tensor"
                case "square", ():
                    return base, TWO, "tensor"
                case (("pow" | "pow_"), [cst.Arg(value=exponent)]):
                    found = factor(source, exponent)
                    return (base, found, "tensor") if found else None
    return None


def _norm(source: Source, call: cst.Call) -> Power | None:
    """`g.norm(p)`, `torch.norm(g, p)`, `torch.linalg.vector_norm(g)` and their like, over all elements of `g`."""
    origin = source.qualified(call.func)
    match call.func:
        case _ if origin in NORM_FUNCTIONS:
            if not call.args or call.args[0].star:
                return None
            tensor, args = call.args[0].value, call.args[1:]
        case cst.Attribute(value=tensor, attr=cst.Name(value="norm")) if origin is None:
            args = call.args
        case _:
            return None
    inner = gradient(source, tensor)
    if inner is None or ((origin or "").startswith("numpy") and framework(source) != "torch"):
        return None
    order = TWO
    given = False
    for position, arg in enumerate(args):
        keyword = arg.keyword.value if arg.keyword else ""
        if arg.star:
            return None
        if keyword in ("p", "ord") or (not keyword and position == 0):
            if source.code(arg.value) == "None":
                continue
            found = factor(source, arg.value)
            if found is None:
                return None
            order, given = found, True
        elif keyword == "dtype":
            inner = inner._replace(casts=f"{inner.casts}.to({source.code(arg.value)})")
        else:
            return None  # `dim`, `keepdim`: not one number for the tensor
    if origin == "torch.linalg.matrix_norm":
        return None
    matrix = given and origin in ("torch.linalg.norm", "numpy.linalg.norm") and not inner.flat
    kind: Kind = "numpy" if origin == "numpy.linalg.norm" else "tensor"
    return Power(inner, order, ONE, kind, matrix)


def _sum_of_squares(source: Source, call: cst.Call) -> Power | None:
    """`(g ** 2).sum()`, `torch.sum(g * g)`, `torch.dot(g.flatten(), g.flatten())`: ‖g‖ squared, without the root."""
    origin = source.qualified(call.func)
    match call:
        case cst.Call(args=[cst.Arg(value=inner, keyword=None)]) if origin in _SUMS:
            squares = _elementwise(source, inner)
        case cst.Call(func=cst.Attribute(value=inner, attr=cst.Name(value="sum")), args=()) if origin is None:
            squares = _elementwise(source, inner)
        case cst.Call(args=[cst.Arg(value=one), cst.Arg(value=other)]) if origin in ("torch.dot", "torch.vdot"):
            squares = _product(source, one, other)
        case cst.Call(func=cst.Attribute(value=one, attr=cst.Name(value="dot" | "vdot")), args=[cst.Arg(value=other)]):
            squares = _product(source, one, other)
        case cst.Call(func=cst.Attribute(value=inner, attr=cst.Name(value="max")), args=()) if origin is None:
            return _largest(source, inner)
        case cst.Call(args=[cst.Arg(value=inner, keyword=None)]) if origin == "torch.max":
            return _largest(source, inner)
        case _:
            return None
    if squares is None:
        return None
    inner_gradient, exponent = squares
    if framework(source) != "torch":
        return None  # arrays of numpy's have these methods, too
    return Power(inner_gradient, exponent, exponent)


def _largest(source: Source, node: cst.BaseExpression) -> Power | None:
    """`g.abs().max()`: the infinity norm."""
    match node:
        case cst.Call(func=cst.Attribute(value=value, attr=cst.Name(value="abs")), args=()):
            inner = gradient(source, value)
        case cst.Call(func=func, args=[cst.Arg(value=value)]) if source.qualified(func) == "torch.abs":
            inner = gradient(source, value)
        case _:
            return None
    return Power(inner, INFINITY, ONE) if inner else None


def _elementwise(source: Source, node: cst.BaseExpression) -> tuple[Gradient, Factor] | None:
    """A gradient whose elements are each raised to a power, and that power."""
    match node:
        case cst.BinaryOperation(left=left, operator=cst.Multiply(), right=right):
            return _product(source, left, right)
        case cst.Call(func=cst.Attribute(value=inner, attr=cst.Name(value=method)), args=()) if method in PASS | {
            "flatten"
        }:
            return _elementwise(source, inner)
    step = raised(source, node)
    if step is None:
        return None
    base, exponent, _ = step
    match base:
        case cst.Call(func=func, args=[cst.Arg(value=value)]) if source.qualified(func) == "torch.abs":
            base = value
            absolute = True
        case _:
            absolute = ".abs()" in source.code(base)
    found = gradient(source, base)
    if found is None or not (absolute or exponent.value == 2):
        return None
    return found, exponent


def _product(source: Source, one: cst.BaseExpression, other: cst.BaseExpression) -> tuple[Gradient, Factor] | None:
    if source.code(one) != source.code(other):
        return None
    found = gradient(source, one)
    return (found, TWO) if found else None


def _read(source: Source, call: cst.Call, depth: int) -> Power | None:
    """What hands a norm on, moves it to the host or wraps it."""
    passed = through(source, call)
    if passed is None:
        return None
    value, kind = passed
    inner = power(source, value, depth - 1)
    return inner and inner._replace(kind=kind or inner.kind)


def through(source: Source, call: cst.Call) -> tuple[cst.BaseExpression, Kind | None] | None:
    """The number that a call takes as it is, and the type that it gives it."""
    match call:
        case cst.Call(func=cst.Attribute(value=value, attr=cst.Name(value="item" | "tolist")), args=()):
            return value, "float"
        case cst.Call(func=cst.Attribute(value=value, attr=cst.Name(value="numpy")), args=()):
            return value, "numpy"
        case cst.Call(func=func, args=[cst.Arg(value=value, keyword=None, star="")]) if (
            source.qualified(func) == "builtins.float"
        ):
            return value, "float"
        case cst.Call(func=cst.Attribute(value=value, attr=cst.Name(value=method))) if method in PASS:
            return (value, None) if source.qualified(call.func) is None else None
    return None
