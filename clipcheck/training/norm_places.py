"""Every norm of parameters' gradients in a program, with the code of the parameters, to compare norms."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import libcst as cst

from clipcheck.gradients.accumulations import Series, accumulations
from clipcheck.gradients.exponents import ONE, TWO, Exponent, exponent_of
from clipcheck.gradients.gradient import gradient
from clipcheck.gradients.norm_origin import origins
from clipcheck.gradients.powers import Power
from clipcheck.gradients.series import clauses
from clipcheck.gradients.spelling import parameters_of
from clipcheck.gradients.totals import totals
from clipcheck.python.literals import number
from clipcheck.python.names import last_name
from clipcheck.python.source import Source
from clipcheck.python.words import words
from clipcheck.training.calls import callee
from clipcheck.training.clips import Clip, torch_calls
from clipcheck.training.summaries import returned


class Norm(NamedTuple):
    """A norm of the gradients of `parameters` (code without white space); `value` is its expression, if it has one."""

    node: cst.CSTNode
    parameters: tuple[str, ...]
    order: Exponent
    value: cst.BaseExpression | None = None
    item: bool = False


def measured(source: Source) -> Iterator[Norm]:
    """All norms of a program: those added up by hand first, then torch's and the runtime's."""
    yield from _in_loops(source)
    yield from _in_expressions(source)
    for call in torch_calls(source):
        yield from _by_torch(source, call)
    yield from _by_runtime(source)


def _in_loops(source: Source) -> Iterator[Norm]:
    for one in accumulations(source):
        if one.how == "max" or (one.how == "add" and one.term.order.equals(one.term.exponent)):
            yield Norm(one.statement, parameters_of(source, one.series), one.term.order)


def _in_expressions(source: Source) -> Iterator[Norm]:
    for total in totals(source):
        if total.degree is not None and total.degree.is_one and total.kind != "numpy":
            names = parameters_of(source, total.series)
            yield Norm(total.node, names, total.term.order, total.node, total.kind == "float")


def _by_torch(source: Source, call: Clip) -> Iterator[Norm]:
    """A clip that clips nothing, since its limit is infinite, or `get_total_norm` of a comprehension."""
    names: tuple[str, ...] | None = None
    match call.function, call.arguments.get("tensors"):
        case "clip_grad_norm_", _ if number(source, call.limit) == math.inf and call.parameters:
            names = (plain(source, call.parameters),)
        case "get_total_norm", (cst.ListComp() | cst.GeneratorExp()) as tensors:
            element = gradient(source, tensors.elt)
            if element is not None:
                names = parameters_of(source, Series(clauses(tensors.for_in), Power(element, TWO, ONE)))
    if names is not None:
        yield Norm(call.call, names, order_of(source, call), *_valued(source, call.call))


def _by_runtime(source: Source) -> Iterator[Norm]:
    for node in source.nodes(cst.Call):
        if source.qualified(node.func) == "clipcheck.runtime.grad_norm" and node.args:
            order = exponent_of(source, node.args[1].value) if len(node.args) > 1 else TWO
            if order is not None:
                yield Norm(node, (plain(source, node.args[0].value),), order, *_valued(source, node))


def called(source: Source) -> Iterator[Norm]:
    """The norms that functions of the file return, `grad_norm(model)`, where they are called."""
    for call in source.nodes(cst.Call):
        one = callee(source, call) if "norm" in words(last_name(call.func)) else None
        if one is None:
            continue
        match returned(source, one.function):
            case [value]:
                for norm in _given_back(source, value):
                    names = (_as_called(source, call, one.given, name) for name in norm.parameters)
                    yield Norm(call, tuple(filter(None, names)), norm.order)


def _given_back(source: Source, value: cst.BaseExpression) -> list[Norm]:
    """The norms that an expression is: computed in it, or by a loop above it."""
    computed = [norm for norm in measured(source) if norm.value is value]
    summed = origins(source, value) if not computed else None
    return computed or [Norm(value, parameters_of(source, one), one.term.order) for one in summed or ()]


def _as_called(source: Source, call: cst.Call, given: Mapping[str, cst.BaseExpression], parameters: str) -> str:
    """The parameters of a norm as the caller writes them; "" if that is unclear."""
    root, dot, rest = parameters.partition(".")
    if root in given:
        return f"{plain(source, given[root])}{dot}{rest}"
    match call.func:
        case cst.Attribute(value=cst.Name("self")) if root == "self":
            return parameters
    return ""


def _valued(source: Source, call: cst.Call) -> tuple[cst.BaseExpression, bool]:
    """The expression that holds the value of a call: the call itself, or its `.item()`."""
    match source.parent(call):
        case cst.Attribute(attr=cst.Name(value="item")) as attribute:
            around = source.parent(attribute)
            if isinstance(around, cst.Call):
                return around, True
    return call, False


def plain(source: Source, node: cst.CSTNode) -> str:
    return "".join(source.code(node).split())


def order_of(source: Source, clip: Clip) -> Exponent:
    """The type of a clip's norm; one that is not known equals no other."""
    return TWO if clip.norm_type is None else exponent_of(source, clip.norm_type) or Exponent(math.nan)
