"""Where a program measures the norm of gradients as a part of the training step, and which gradients it reads."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, NamedTuple, TypeAlias

import libcst as cst

from clipcheck.gradients.accumulations import Series, accumulations
from clipcheck.gradients.called import gives_gradient_norm
from clipcheck.gradients.gradient import element, gradient
from clipcheck.gradients.loops import Clause
from clipcheck.gradients.series import clauses
from clipcheck.gradients.totals import totals
from clipcheck.python.assignments import assigned_values
from clipcheck.python.names import last_name
from clipcheck.python.reaching import contains, reached, reaching
from clipcheck.python.source import Source, memo
from clipcheck.training.clips import Clip, torch_calls

Gradients: TypeAlias = Literal["read", "listed", "computed", "unknown"]


class Measure(NamedTuple):
    """A norm of gradients that is measured.

    `act` is the call or assignment that reads the gradients; `node` is what a reader would call the measurement: the
    accumulating loop, the expression, or the call. `result` is the expression of the norm, if any; `loops` iterate over
    the tensors. `gradients` says what is read: `.grad` of parameters at this place, a list made of these earlier, the
    result of `torch.autograd.grad`, or unknown. `local` means that these are this rank's shards.
    """

    act: cst.CSTNode
    node: cst.CSTNode
    result: cst.BaseExpression | None = None
    loops: tuple[Clause, ...] = ()
    gradients: Gradients = "unknown"
    local: bool = False


@memo
def measures(source: Source) -> dict[cst.CSTNode, Measure]:
    """The norms of gradients that a program measures."""
    found: dict[cst.CSTNode, Measure] = {}
    for one in (*_in_loops(source), *_in_expressions(source), *_by_calls(source)):
        found.setdefault(one.act, one)
    return found


def _in_loops(source: Source) -> Iterator[Measure]:
    for one in accumulations(source):
        match one.statement:
            case cst.AugAssign() | cst.Assign() as act if one.is_total:
                yield _measure(source, act, one.loop, None, one.series)
            case cst.Expr(value=cst.Call() as act) if one.is_total or one.how == "append":
                yield _measure(source, act, one.loop, None, one.series)


def _in_expressions(source: Source) -> Iterator[Measure]:
    for found in totals(source):
        if found.is_total and found.series.loop is None:
            act = _first_read(source, found.node, found.series)
            if act is not None:
                yield _measure(source, act, found.node, found.node, found.series)


def _measure(
    source: Source, act: cst.CSTNode, node: cst.CSTNode, result: cst.BaseExpression | None, series: Series
) -> Measure:
    loops = series.clauses
    owned = series.term.gradient.owner is not None
    read: Gradients = "read" if owned else _listed(source, loops[0].iterable if loops else None)
    return Measure(act, node, result, loops, read, series.term.gradient.local)


def _listed(source: Source, iterable: cst.BaseExpression | None) -> Gradients:
    """The kind of gradients that a list contains."""
    made = element(source, iterable) if iterable is not None else None
    if made is not None and made.owner is not None:
        return "listed"
    values = assigned_values(source, iterable) if isinstance(iterable, cst.Name) else [iterable]
    for value in values:
        for inner in source.walk(value) if value is not None else ():
            if isinstance(inner, cst.Call) and source.qualified(inner.func) == "torch.autograd.grad":
                return "computed"
    return "unknown"


def _first_read(source: Source, node: cst.BaseExpression, series: Series) -> cst.CSTNode | None:
    """The call, or the assignment of a value that it uses, that reads the gradients."""
    if series.used:
        return source.enclosing(series.used[0].node, cst.Assign)
    return next((inner for inner in source.walk(node) if isinstance(inner, cst.Call)), None)


def _by_calls(source: Source) -> Iterator[Measure]:
    for call in torch_calls(source):
        if call.function == "get_total_norm":
            yield _total_norm(source, call)
    for node in source.nodes(cst.Call):
        if _is_called_norm(source, node):
            yield Measure(node, node, node)


def _total_norm(source: Source, call: Clip) -> Measure:
    """`get_total_norm([p.grad for p in parameters])`"""
    tensors = call.arguments.get("tensors")
    match tensors:
        case cst.ListComp(elt=elt, for_in=clause) | cst.GeneratorExp(elt=elt, for_in=clause):
            found = gradient(source, elt)
            read: Gradients = "read" if found is not None and found.owner is not None else "unknown"
            local = found is not None and found.local
            return Measure(call.call, call.call, call.call, clauses(clause), read, local)
    made = element(source, tensors) if tensors is not None else None
    local = made is not None and made.local
    return Measure(call.call, call.call, call.call, (), _listed(source, tensors), local)


def _is_called_norm(source: Source, call: cst.Call) -> bool:
    """Whether the name of a function outside the file says that it returns the norm of gradients."""
    if not gives_gradient_norm(last_name(call.func)):
        return False
    match call.func:
        case cst.Name() as name:
            return all(binding.kind == "import" for binding in source.bindings(name)) and bool(source.bindings(name))
        case cst.Attribute(value=cst.Name() as name):
            bindings = source.bindings(name)
            return bool(bindings) and all(binding.kind == "import" for binding in bindings)
    return False


# --- uses of the norm ------------------------------------------------------------------------------------------------


def shown(source: Source, at: cst.CSTNode, act: cst.CSTNode) -> cst.CSTNode:
    """The node to report for an event that measures: the loop or expression, or the call that leads to it."""
    found = measures(source).get(act)
    return found.node if found is not None and at is act else at


def is_dropped(source: Source, node: cst.CSTNode) -> bool:
    """Whether the value of an expression is discarded: it is a statement by itself."""
    return isinstance(source.parent(node), cst.Expr)


def values(source: Source, node: cst.CSTNode, depth: int = 3) -> list[cst.CSTNode]:
    """The uses of the norm that is measured at `node`, under whatever name."""
    if isinstance(node, cst.For):
        targets = [one.target for one in accumulations(source) if one.loop is node]
        names = [target for target in targets if isinstance(target, cst.Name)]
        uses = [use for name in names for use in uses_of(source, name) if not contains(source, node, use)]
        return [value for use in uses for value in (values(source, use, depth - 1) if depth else [use])]
    name = _handed_on(source, node) if depth else None
    if name is None:
        return [node]
    later = [use for use in uses_of(source, name) if source.statement(use) is not source.statement(node)]
    return [found for use in later for found in values(source, use, depth - 1)]


def _handed_on(source: Source, node: cst.CSTNode) -> cst.Name | None:
    """The name to which a statement assigns a norm: its root may be taken, it may be read or stacked, but no more."""
    for above in source.ancestors(node):
        match above:
            case cst.Attribute() | cst.Arg() | cst.Call() | cst.IfExp() | cst.BinaryOperation(operator=cst.Power()):
                continue
            case cst.Assign(targets=[cst.AssignTarget(target=cst.Name() as name)]):
                return name
        break
    return None


def uses_of(source: Source, name: cst.Name) -> list[cst.Name]:
    """The reads of the value that a name is assigned, or has, at this place."""
    scope = source.scope(name).owner(name.value)
    if scope is None:
        return []
    bound = [one for one in scope.bindings.get(name.value, []) if one.node is name]
    return [use for use in reached(source, scope, bound or reaching(source, name)) if use is not name]
