"""Recognises a gradient norm: the power of one tensor's norm, and the sum of such powers over many tensors.

Every expression that matters has the form `(Σ ‖g‖ₚ ** q) ** r`. `power` reads `‖g‖ₚ ** q` off an expression about one
gradient, `total` reads the whole; `clipcheck.loops` reads the sum off the statements of a loop. What the code is
called, how it is spelled and over how many statements it is spread makes no difference.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, NamedTuple, TypeAlias

import libcst as cst

from clipcheck.factors import HALF, INFINITY, ONE, TWO, Factor, factor
from clipcheck.flow import reaching
from clipcheck.gradients import Condition, Gradient, assigned_value, gradient, has_graph, is_zero, speaks_torch
from clipcheck.names import Binding
from clipcheck.source import Source

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


class Clause(NamedTuple):
    """One `for target in iterable` with the tests under it."""

    target: cst.BaseExpression
    iterable: cst.BaseExpression
    conditions: tuple[Condition, ...] = ()


class Series(NamedTuple):
    """The power of each tensor that the clauses go through; `used` are the bindings of the names it was read through."""

    clauses: tuple[Clause, ...]
    term: Power
    used: tuple[Binding, ...] = ()


class Total(NamedTuple):
    """`(Σ term) ** outer` as one expression; `flat` where the tensors were joined first, `stacked` where their norms were."""

    node: cst.BaseExpression
    series: Series
    outer: Factor
    kind: Kind
    form: Literal["sum", "stack", "cat"] = "sum"
    numpy: str = ""  # how the file calls numpy, where the value is one of its numbers

    @property
    def term(self) -> Power:
        return self.series.term

    @property
    def degree(self) -> Factor | None:
        """The power of the total norm that the value is: 1 for the norm, p for its p-th power."""
        if not self.term.order.equals(self.term.exponent):
            return None
        return self.term.order.times(self.outer)


# --- one tensor ------------------------------------------------------------------------------------------------------

_PASS = frozenset("detach clone cpu cuda to float double view reshape squeeze contiguous".split())
_NORM_FUNCTIONS = {
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
    if not depth or speaks_torch(source) is False:
        return None
    step = raised(source, node)
    if step is not None:
        base, exponent, kind = step
        inner = power(source, base, depth - 1)
        product = inner and inner.exponent.times(exponent)
        if inner is None or product is None:
            return None
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
        case _ if origin in _NORM_FUNCTIONS:
            if not call.args or call.args[0].star:
                return None
            tensor, args = call.args[0].value, call.args[1:]
        case cst.Attribute(value=tensor, attr=cst.Name(value="norm")) if origin is None:
            args = call.args
        case _:
            return None
    inner = gradient(source, tensor)
    if inner is None or ((origin or "").startswith("numpy") and speaks_torch(source) is not True):
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
    if speaks_torch(source) is not True:
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
        case cst.Call(func=cst.Attribute(value=inner, attr=cst.Name(value=method)), args=()) if method in _PASS | {
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
    through = _through(source, call)
    if through is None:
        return None
    value, kind = through
    inner = power(source, value, depth - 1)
    return inner and inner._replace(kind=kind or inner.kind)


def _through(source: Source, call: cst.Call) -> tuple[cst.BaseExpression, Kind | None] | None:
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
        case cst.Call(func=cst.Attribute(value=value, attr=cst.Name(value=method))) if method in _PASS:
            return (value, None) if source.qualified(call.func) is None else None
    return None


# --- many tensors ----------------------------------------------------------------------------------------------------


def series(source: Source, node: cst.CSTNode, depth: int = _DEPTH) -> Series | None:
    """The powers that a list or generator expression holds, one for each tensor."""
    if not depth:
        return None
    match node:
        case cst.GeneratorExp(elt=elt, for_in=clause) | cst.ListComp(elt=elt, for_in=clause):
            term = power(source, elt)
            return Series(clauses(clause), term) if term else None
        case cst.Call(func=func, args=[cst.Arg(value=value, keyword=None)]) if source.qualified(func) in (
            "builtins.list",
            "builtins.tuple",
            "numpy.array",
            "numpy.asarray",
        ):
            return series(source, value, depth - 1)
        case cst.Name():
            match reaching(source, node):
                case [binding] if binding.kind == "assign" and binding.value is not None:
                    found = series(source, binding.value, depth - 1)
                    return found and found._replace(used=(*found.used, binding))
    return None


def clauses(clause: cst.CompFor) -> tuple[Clause, ...]:
    """The `for`s of a comprehension, outermost first."""
    own = Clause(clause.target, clause.iter, tuple(Condition(one.test, True) for one in clause.ifs))
    return (own, *(clauses(clause.inner_for_in) if clause.inner_for_in else ()))


def flat(source: Source, node: cst.CSTNode, depth: int = _DEPTH) -> Series | None:
    """Gradients joined into one vector: as a series, each to the power 1."""
    if not depth:
        return None
    match node:
        case cst.Call(func=func, args=[cst.Arg(value=parts, keyword=None), *_]) if source.qualified(func) in (
            "torch.cat",
            "torch.concat",
            "torch.concatenate",
            "torch.hstack",
            "torch._utils._flatten_dense_tensors",
            "torch.nn.utils.parameters_to_vector",
        ):
            return _joined(source, parts)
        case cst.Call(func=cst.Attribute(value=value, attr=cst.Name(value=method))) if method in (
            "detach cpu numpy float double view reshape flatten cuda to".split()
        ):
            return flat(source, value, depth - 1) if source.qualified(node.func) is None else None
        case cst.Name():
            match reaching(source, node):
                case [binding] if binding.kind == "assign" and binding.value is not None:
                    found = flat(source, binding.value, depth - 1)
                    return found and found._replace(used=(*found.used, binding))
    return None


def _joined(source: Source, parts: cst.BaseExpression) -> Series | None:
    match parts:
        case cst.ListComp(elt=elt, for_in=clause) | cst.GeneratorExp(elt=elt, for_in=clause):
            found = gradient(source, elt)
            return Series(clauses(clause), Power(found, TWO, ONE)) if found else None
        case cst.Name():
            match reaching(source, parts):
                case [binding] if binding.kind == "assign" and binding.value is not None:
                    found_series = _joined(source, binding.value)
                    return found_series and found_series._replace(used=(*found_series.used, binding))
    return None


def total(source: Source, node: cst.CSTNode, depth: int = _DEPTH) -> Total | None:
    """The sum of powers over many gradients, or the norm of them all, that an expression computes."""
    if not depth or not isinstance(node, cst.BaseExpression):
        return None
    found = _summed(source, node) or _norm_of_many(source, node)
    if found is not None:
        return found
    step = raised(source, node)
    if step is not None:
        base, exponent, kind = step
        inner = total(source, base, depth - 1)
        outer = inner and inner.outer.times(exponent)
        if inner is None or outer is None:
            return None
        if kind == "tensor":
            return inner._replace(node=node, outer=outer)
        spelled = _module(source, node) if kind == "numpy" else ""
        return inner._replace(node=node, outer=outer, kind=kind, numpy=spelled)
    if isinstance(node, cst.Call):
        through = _through(source, node)
        if through is not None:
            value, new = through
            inner = total(source, value, depth - 1)
            if inner is not None and new != "numpy":
                return inner._replace(node=node, kind=new or inner.kind)
    return None


def _module(source: Source, call: cst.CSTNode) -> str:
    """How numpy is written in `np.sqrt(…)`; empty where the function was imported by its name."""
    match call:
        case cst.Call(func=cst.Attribute(value=value)):
            return source.code(value)
    return ""


def _summed(source: Source, node: cst.BaseExpression) -> Total | None:
    match node:
        case cst.Call(func=func, args=[cst.Arg(value=inner, keyword=None, star=""), *rest]):
            origin = source.qualified(func)
        case cst.Call(func=cst.Attribute(value=inner, attr=cst.Name(value="sum")), args=()):
            origin, rest = "method", []
        case _:
            return None
    if any(not is_zero(source, arg.value) for arg in rest):
        return None
    match origin:
        case "builtins.sum" | "math.fsum" | "numpy.sum":
            found = series(source, inner)
        case "torch.sum" | "method":
            stacked = _stacked(source, inner)
            found = stacked
            if stacked is None:
                return _squared_vector(source, node, inner)
        case _:
            return None
    if found is None:
        return None
    kind: Kind = found.term.kind
    numpy = ""
    if origin == "numpy.sum":
        kind, numpy = "numpy", _module(source, node)
    return Total(node, found, ONE, kind, "stack" if origin in ("torch.sum", "method") else "sum", numpy)


def _stacked(source: Source, node: cst.CSTNode) -> Series | None:
    """`torch.stack([…])` or `torch.tensor([…])` of powers."""
    match node:
        case cst.Call(func=func, args=[cst.Arg(value=inner, keyword=None), *_]) if source.qualified(func) in (
            "torch.stack",
            "torch.tensor",
            "torch.cat",
            "torch.hstack",
            "torch.as_tensor",
        ):
            return series(source, inner)
        case cst.Call(func=cst.Attribute(value=inner, attr=cst.Name(value=method))) if method in _PASS:
            return _stacked(source, inner)
        case cst.Name():
            match reaching(source, node):
                case [binding] if binding.kind == "assign" and binding.value is not None:
                    found = _stacked(source, binding.value)
                    return found and found._replace(used=(*found.used, binding))
        case cst.BinaryOperation(left=left, operator=cst.Power(), right=exponent):
            found, by = _stacked(source, left), factor(source, exponent)
            product = found and by and found.term.exponent.times(by)
            return found._replace(term=found.term._replace(exponent=product)) if found and product else None
        case cst.Call(func=cst.Attribute(value=left, attr=cst.Name(value="pow")), args=[cst.Arg(value=exponent)]):
            found, by = _stacked(source, left), factor(source, exponent)
            product = found and by and found.term.exponent.times(by)
            return found._replace(term=found.term._replace(exponent=product)) if found and product else None
    return None


def _squared_vector(source: Source, node: cst.BaseExpression, inner: cst.CSTNode) -> Total | None:
    """`(flat ** 2).sum()`"""
    step = raised(source, inner)
    if step is None or step[1].value != 2:
        return None
    joined = flat(source, step[0])
    if joined is None:
        return None
    return Total(node, joined._replace(term=joined.term._replace(exponent=TWO)), ONE, "tensor", "cat")


def _norm_of_many(source: Source, node: cst.BaseExpression) -> Total | None:
    """The norm of stacked norms, or of joined gradients."""
    if not isinstance(node, cst.Call):
        return None
    origin = source.qualified(node.func)
    match node.func:
        case _ if origin in _NORM_FUNCTIONS:
            if not node.args:
                return None
            vector, args = node.args[0].value, node.args[1:]
        case cst.Attribute(value=vector, attr=cst.Name(value="norm")) if origin is None:
            args = node.args
        case _:
            return None
    order = TWO
    for position, arg in enumerate(args):
        keyword = arg.keyword.value if arg.keyword else ""
        found = factor(source, arg.value)
        if keyword in ("p", "ord") or (not keyword and position == 0):
            if found is None:
                return None
            order = found
        elif keyword != "dtype":
            return None
    kind: Kind = "numpy" if origin == "numpy.linalg.norm" else "tensor"
    numpy = _module(source, node).partition(".")[0] if kind == "numpy" else ""
    root = ONE.times(order._replace(number=1 / order.number, degree=-order.degree)) if order.number else None
    if root is None:
        return None
    stacked = _stacked(source, vector) or (series(source, vector) if kind == "numpy" else None)
    if stacked is not None:
        term = stacked.term
        if not term.exponent.is_one or not term.order.equals(order):
            return None
        return Total(node, stacked._replace(term=term._replace(exponent=term.order)), root, kind, "stack", numpy)
    joined = flat(source, vector)
    if joined is not None:
        term = joined.term._replace(order=order, exponent=order)
        return Total(node, joined._replace(term=term), root, kind, "cat", numpy)
    return None


def differentiable(source: Source, found: Series) -> bool:
    """Whether autograd may go through the tensors: then a norm without a graph would break a gradient penalty."""
    if found.term.gradient.graph:
        return True
    return any(has_graph(source, clause.iterable) for clause in found.clauses)


def totals(source: Source) -> Iterator[Total]:
    """Every norm of many gradients that one expression computes, as the largest expression that still is one."""
    for call in source.nodes(cst.Call):
        if _last(call.func) not in _INNERMOST:
            continue
        found = _summed(source, call) or _norm_of_many(source, call)
        if found is None:
            continue
        for above in source.ancestors(call):
            match above:
                case cst.Arg() | cst.Attribute():
                    continue
                case cst.BaseExpression():
                    larger = total(source, above)
                    if larger is None:
                        break
                    found = larger
                case _:
                    break
        yield found


_INNERMOST = frozenset({"sum", "fsum", "norm", "vector_norm"})


def _last(func: cst.BaseExpression) -> str:
    match func:
        case cst.Name(value=name) | cst.Attribute(attr=cst.Name(value=name)):
            return name
    return ""
