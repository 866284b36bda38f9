"""Recognises the norm of many gradients in one expression: `(Σ ‖g‖ₚ ** q) ** r`, the norm of stacked norms or of joined gradients.

`clipcheck.gradients.powers` reads one term, `clipcheck.gradients.accumulations` the sum that a loop's statements make. What the code is called, how
it is spelled and over how many statements it is spread makes no difference.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, NamedTuple

import libcst as cst

from clipcheck.gradients.accumulations import Accumulation, Clause, Series, accumulations
from clipcheck.gradients.exponents import ONE, TWO, Factor, factor
from clipcheck.gradients.gradient import Condition, gradient, has_graph
from clipcheck.gradients.powers import NORM_FUNCTIONS, PASS, Kind, Power, power, raised, through
from clipcheck.python.literals import is_zero
from clipcheck.python.names import Binding
from clipcheck.python.reaching import reaching
from clipcheck.python.source import Source

_DEPTH = 8


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


def series(source: Source, node: cst.CSTNode, depth: int = _DEPTH) -> Series | None:
    """The powers that a list or generator expression holds, one for each tensor."""
    if not depth:
        return None
    match node:
        case cst.GeneratorExp(elt=elt, for_in=clause) | cst.ListComp(elt=elt, for_in=clause):
            term = None if clause.asynchronous else power(source, elt)
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
                    found = series(source, binding.value, depth - 1) or _appended(source, node, binding)
                    return found and found._replace(used=(*found.used, binding))
    return None


def _appended(source: Source, name: cst.Name, binding: Binding) -> Series | None:
    """The powers that a loop has appended to an empty list."""
    match binding.value:
        case cst.List(elements=[]):
            pass
        case cst.Call(func=cst.Name(value="list"), args=[]):
            pass
        case _:
            return None
    loops = [one for one in accumulations(source) if one.how == "append" and _fills(source, one, name, binding)]
    return loops[0].series._replace(loop=loops[0]) if len(loops) == 1 else None


def _fills(source: Source, one: Accumulation, name: cst.Name, binding: Binding) -> bool:
    return (
        isinstance(one.target, cst.Name) and one.target.value == name.value and binding in reaching(source, one.target)
    )


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
        passed = through(source, node)
        if passed is not None:
            value, new = passed
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
        case cst.Call(func=cst.Attribute(value=inner, attr=cst.Name(value=method))) if method in PASS:
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
        case _ if origin in NORM_FUNCTIONS:
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
