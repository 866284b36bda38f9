"""Recognizes the power of one gradient's norm, `‖g‖ₚ ** q`, however it is written and named."""

from __future__ import annotations

from typing import Literal, NamedTuple, TypeAlias

import libcst as cst

from clipcheck.gradients.exponents import HALF, INFINITY, ONE, TWO, Exponent, exponent_of
from clipcheck.gradients.framework import framework
from clipcheck.gradients.gradient import Condition, Gradient, gradient
from clipcheck.gradients.hosts import is_to_host
from clipcheck.gradients.norm_functions import norm_call_of
from clipcheck.python.assignments import assigned_value
from clipcheck.python.literals import is_zero
from clipcheck.python.names import Binding
from clipcheck.python.reaching import reaching
from clipcheck.python.source import Source

# The type of a norm: a tensor on its device, a Python float, or a numpy number.
NumberKind: TypeAlias = Literal["tensor", "float", "numpy"]
_DEPTH = 8  # maximum number of names and calls to follow


class Power(NamedTuple):
    """`‖gradient‖_order ** exponent`; `matrix` if `order` selects a matrix norm for two-dimensional gradients.

    `read` is the call with which the host reads it, one tensor at a time: `.item()`, `.cpu()`, `float()`; else empty.
    """

    gradient: Gradient
    order: Exponent
    exponent: Exponent
    kind: NumberKind = "tensor"
    matrix: bool = False
    read: str = ""

    @property
    def synced(self) -> bool:
        return bool(self.read)


class Raised(NamedTuple):
    """`base ** exponent`, the type to which the operation converts ("tensor" for none), and its function, if any."""

    base: cst.BaseExpression
    exponent: Exponent
    kind: NumberKind = "tensor"
    function: str = ""


class Passed(NamedTuple):
    """The number that a call returns unchanged, the type to which it converts, and the call if it reads on the host."""

    value: cst.BaseExpression
    kind: NumberKind | None = None
    read: str = ""


PASS = frozenset("detach clone cpu cuda to float double view reshape squeeze contiguous".split())
_POWERS: dict[str, NumberKind] = {
    "builtins.pow": "tensor",
    "math.pow": "float",
    "torch.pow": "tensor",
    "numpy.power": "tensor",
    "torch.float_power": "tensor",
}
_ROOTS: dict[str, NumberKind] = {"math.sqrt": "float", "numpy.sqrt": "numpy", "torch.sqrt": "tensor"}
_SQUARES = frozenset({"torch.square", "numpy.square"})
_SUMS = frozenset({"torch.sum", "numpy.sum"})
_MAXIMA = frozenset({"torch.max", "torch.amax", "numpy.max", "numpy.amax"})
_ABSOLUTE = frozenset({"torch.abs", "numpy.abs", "numpy.absolute", "numpy.fabs", "builtins.abs"})


def power(source: Source, node: cst.CSTNode, depth: int = _DEPTH) -> Power | None:
    """The power of one gradient's norm that an expression computes."""
    if not depth or framework(source) == "another":
        return None
    step = raised(source, node)
    if step is not None:
        inner = power(source, step.base, depth - 1)
        return inner and _power_of_power(inner, step)
    match node:
        case cst.IfExp():
            return _conditional(source, node, depth)
        case cst.BinaryOperation(left=left, operator=cst.Multiply(), right=right) if source.code(left) == source.code(
            right
        ):
            inner = power(source, left, depth - 1)
            return inner and _power_of_power(inner, Raised(left, TWO))
        case cst.Name():
            return _named(source, node, depth)
        case cst.Attribute(value=value, attr=cst.Name(value="data")):
            return power(source, value, depth - 1)
        case cst.Subscript(value=cst.Attribute(value=value, attr=cst.Name(value="data"))) if _is_first(node):
            inner = power(source, value, depth - 1)  # how numbers were read before torch had `.item()`
            return inner and inner._replace(kind="float", read=".data[0]")
        case cst.Call():
            return _norm(source, node) or _reduced(source, node) or _read(source, node, depth)
    return None


def _is_first(node: cst.Subscript) -> bool:
    match node.slice:
        case [cst.SubscriptElement(slice=cst.Index(value=cst.Integer(value="0")))]:
            return True
    return False


def _power_of_power(inner: Power, step: Raised) -> Power | None:
    product = inner.exponent.times(step.exponent)
    if product is None or (step.kind == "numpy" and not inner.synced):
        return None  # numpy does not accept device tensors: these are arrays
    kind = step.kind if step.kind != "tensor" else inner.kind
    read = inner.read or ("" if kind == "tensor" else f"{step.function}()")
    return inner._replace(exponent=product._replace(text=step.exponent.text), kind=kind, read=read)


def _conditional(source: Source, node: cst.IfExp, depth: int) -> Power | None:
    """A power if a test holds, else zero."""
    for chosen, other, holds in ((node.body, node.orelse, True), (node.orelse, node.body, False)):
        inner = power(source, chosen, depth - 1) if is_zero(source, other) else None
        if inner is not None:
            guards = (*inner.gradient.guards, Condition(node.test, holds))
            return inner._replace(gradient=inner.gradient._replace(guards=guards))
    return None


def _named(source: Source, name: cst.Name, depth: int) -> Power | None:
    """The power in a name; zeros that replace a missing gradient do not count."""
    found: list[Power] = []
    via: list[Binding] = []
    zeros: list[Binding] = []
    certain = True
    for binding in reaching(source, name):
        value = assigned_value(source, binding) if binding.kind == "assign" else None
        inner = power(source, value, depth - 1) if value is not None else None
        if inner is not None:
            found.append(inner)
            via += [*inner.gradient.via, binding]
        elif value is not None and is_zero(source, value):
            zeros.append(binding)
        else:
            certain = False
    if not found:
        return None
    first, *others = found
    certain &= first.gradient.certain and all(_is_same(source, first, other) for other in others)
    return first._replace(gradient=first.gradient._replace(via=(*via, *zeros), certain=certain))


def _is_same(source: Source, one: Power, other: Power) -> bool:
    return (
        source.code(one.gradient.node) == source.code(other.gradient.node)
        and one.gradient.casts == other.gradient.casts
        and one.order.equals(other.order)
        and one.exponent.equals(other.exponent)
    )


def raised(source: Source, node: cst.CSTNode) -> Raised | None:
    """Base and exponent of an expression that is a power, a square or a root."""
    match node:
        case cst.BinaryOperation(left=base, operator=cst.Power(), right=exponent):
            return _raised_to(source, base, exponent)
        case cst.Call(func=func, args=args):
            function = source.qualified(func)
            if function is not None:
                return _raised_by_function(source, function, node)
            match func, args:
                case cst.Attribute(value=base, attr=cst.Name(value="sqrt" | "sqrt_")), ():
                    return Raised(base, HALF)
                case cst.Attribute(value=base, attr=cst.Name(value="square")), ():
                    return Raised(base, TWO)
                case cst.Attribute(value=base, attr=cst.Name(value="pow" | "pow_")), [cst.Arg(value=exponent)]:
                    return _raised_to(source, base, exponent)
    return None


def _raised_by_function(source: Source, function: str, call: cst.Call) -> Raised | None:
    match call.args:
        case [cst.Arg(value=base, keyword=None), cst.Arg(value=exponent)] if function in _POWERS:
            step = _raised_to(source, base, exponent)
            return step and step._replace(kind=_POWERS[function], function=function)
        case [cst.Arg(value=base, keyword=None)] if function in _ROOTS:
            return Raised(base, HALF, _ROOTS[function], function)
        case [cst.Arg(value=base, keyword=None)] if function in _SQUARES:
            return Raised(base, TWO, function=function)
    return None


def _raised_to(source: Source, base: cst.BaseExpression, exponent: cst.BaseExpression) -> Raised | None:
    found = exponent_of(source, exponent)
    return Raised(base, found) if found else None


def _norm(source: Source, call: cst.Call) -> Power | None:
    """A norm of a gradient over all of its elements."""
    asked = norm_call_of(source, call)
    inner = asked and gradient(source, asked.tensor)
    if asked is None or inner is None or (asked.numpy and framework(source) != "torch"):
        return None
    read = inner.host or ("numpy.linalg.norm()" if asked.numpy else "")
    inner = inner._replace(casts=inner.casts + asked.cast)
    kind: NumberKind = "numpy" if asked.numpy else "tensor"
    return Power(inner, asked.order, ONE, kind, asked.matrix and not inner.flat, read)


def _reduced(source: Source, call: cst.Call) -> Power | None:
    """A sum of powers of a gradient's elements, `‖g‖ ** p`; or the largest element, the infinity norm."""
    origin = source.qualified(call.func)
    match call:
        case cst.Call(args=[cst.Arg(value=inner, keyword=None)]) if origin in _SUMS:
            powers = _elementwise(source, inner)
        case cst.Call(func=cst.Attribute(value=inner, attr=cst.Name(value="sum")), args=()) if origin is None:
            powers = _elementwise(source, inner)
        case cst.Call(args=[cst.Arg(value=one), cst.Arg(value=other)]) if origin in ("torch.dot", "torch.vdot"):
            powers = _product(source, one, other)
        case cst.Call(func=cst.Attribute(value=one, attr=cst.Name(value="dot" | "vdot")), args=[cst.Arg(value=other)]):
            powers = _product(source, one, other)
        case cst.Call(func=cst.Attribute(value=inner, attr=cst.Name(value="max" | "amax")), args=()) if origin is None:
            powers = _largest(source, inner)
        case cst.Call(args=[cst.Arg(value=inner, keyword=None)]) if origin in _MAXIMA:
            powers = _largest(source, inner)
        case _:
            return None
    if powers is None or framework(source) != "torch":
        return None  # numpy arrays have these methods, too
    found, exponent = powers
    raised_to = ONE if exponent is INFINITY else exponent
    return Power(found, exponent, raised_to, "numpy" if found.host == ".numpy()" else "tensor", read=found.host)


def _largest(source: Source, node: cst.BaseExpression) -> tuple[Gradient, Exponent] | None:
    """`g.abs().max()`: the infinity norm."""
    value = _absolute(source, node)
    found = value and gradient(source, value)
    return (found, INFINITY) if found else None


def _absolute(source: Source, node: cst.BaseExpression) -> cst.BaseExpression | None:
    """The `x` of `x.abs()` or `torch.abs(x)`."""
    match node:
        case cst.Call(func=cst.Attribute(value=value, attr=cst.Name(value="abs")), args=()):
            return value
        case cst.Call(func=func, args=[cst.Arg(value=value)]) if source.qualified(func) in _ABSOLUTE:
            return value
    return None


def _elementwise(source: Source, node: cst.BaseExpression) -> tuple[Gradient, Exponent] | None:
    """A gradient whose elements are each raised to a power, and that power."""
    match node:
        case cst.BinaryOperation(left=left, operator=cst.Multiply(), right=right):
            return _product(source, left, right)
        case cst.Call(func=cst.Attribute(value=inner, attr=cst.Name(value=method)), args=()) if (
            method in PASS or method == "flatten"
        ):
            return _elementwise(source, inner)
    step = raised(source, node)
    if step is None:
        return None
    absolute = _absolute(source, step.base)
    found = gradient(source, absolute or step.base)
    if found is None or not (absolute or ".abs()" in source.code(step.base) or step.exponent.value == 2):
        return None  # a sum of signed powers is not a power of a norm
    return found, step.exponent


def _product(source: Source, one: cst.BaseExpression, other: cst.BaseExpression) -> tuple[Gradient, Exponent] | None:
    if source.code(one) != source.code(other):
        return None
    found = gradient(source, one)
    return (found, TWO) if found else None


def _read(source: Source, call: cst.Call, depth: int) -> Power | None:
    """A norm that a call returns, copies to the host or wraps."""
    passed = through(source, call)
    inner = passed and power(source, passed.value, depth - 1)
    if passed is None or inner is None:
        return None
    return inner._replace(kind=passed.kind or inner.kind, read=passed.read or inner.read)


def through(source: Source, call: cst.Call) -> Passed | None:
    """The number that a call returns unchanged."""
    match call:
        case cst.Call(func=cst.Attribute(value=value, attr=cst.Name(value="item" | "tolist" as method)), args=()):
            return Passed(value, "float", f".{method}()")
        case cst.Call(func=cst.Attribute(value=value, attr=cst.Name(value="numpy")), args=()):
            return Passed(value, "numpy", ".numpy()")
        case cst.Call(func=func, args=[cst.Arg(value=value, keyword=None, star="")]) if (
            source.qualified(func) == "builtins.float"
        ):
            return Passed(value, "float", "float()")
        case cst.Call(func=cst.Attribute(value=value, attr=cst.Name(value=method)), args=args) if method in PASS:
            if source.qualified(call.func) is not None:
                return None
            return Passed(value, read=f".{method}()" if is_to_host(source, method, args) else "")
    return None
