"""The origin of a norm: the tensors over which it was computed, if it is exactly their norm."""

from __future__ import annotations

import libcst as cst

from clipcheck.gradients.accumulations import Accumulation, Series, accumulations, reduced
from clipcheck.gradients.loops import Clause
from clipcheck.gradients.powers import raised
from clipcheck.gradients.totals import total
from clipcheck.python.assignments import only_assignment
from clipcheck.python.literals import is_zero
from clipcheck.python.names import Binding
from clipcheck.python.reaching import reaching
from clipcheck.python.source import Source

_DEPTH = 6  # maximum number of names and calls to follow
_HANDED_ON = frozenset("item to float detach cpu cuda clone".split())


def origins(source: Source, node: cst.BaseExpression, depth: int = _DEPTH) -> list[Series] | None:
    """What a norm was computed over, one per binding; None if it is merged, reduced, or from an unknown source."""
    if not depth:
        return None
    found = total(source, node)
    if found is not None:
        return [found.series]
    step = raised(source, node)
    if step is not None:
        return origins(source, step.base, depth - 1)
    match node:
        case cst.Call(func=cst.Attribute(value=value, attr=cst.Name(value=method))) if method in _HANDED_ON:
            return origins(source, value, depth - 1)
        case cst.Call(func=cst.Name(value="float"), args=[cst.Arg(value=value)]):
            return origins(source, value, depth - 1)
        case cst.Name() if not reduced(source, node, node):
            return _named(source, node, depth)
    return None


def _named(source: Source, name: cst.Name, depth: int) -> list[Series] | None:
    found: list[Series] = []
    for binding in reaching(source, name):
        one = _bound(source, binding, depth)
        if one is None:
            return None
        found += one
    return found or None


def _bound(source: Source, binding: Binding, depth: int) -> list[Series] | None:
    """What one binding contributes to a norm; nothing if it is the zero before a loop, or the root after it."""
    added = _adding(source, binding)
    if added is not None:
        return [added.series]
    match source.enclosing(binding.node, cst.Assign, cst.AnnAssign, cst.AugAssign):
        case cst.AugAssign(operator=cst.PowerAssign(), target=cst.Name() as target) if depth:
            return _named_before(source, target, binding, depth)
    if binding.kind != "assign" or binding.value is None:
        return None
    return [] if is_zero(source, binding.value) else origins(source, binding.value, depth - 1)


def _named_before(source: Source, name: cst.Name, binding: Binding, depth: int) -> list[Series] | None:
    """The value of a name before `name **= 0.5`."""
    found: list[Series] = []
    for other in reaching(source, name):
        one = [] if other is binding else _bound(source, other, depth - 1)
        if one is None:
            return None
        found += one
    return found


def _adding(source: Source, binding: Binding) -> Accumulation | None:
    return next((one for one in accumulations(source) if one.target is binding.node), None)


def is_over(source: Source, found: Series, loops: tuple[Clause, ...]) -> bool:
    """Whether a series iterates over the same tensors as some loops."""
    one, other = found.clauses, loops
    return bool(one and other) and base(source, one[0].iterable) == base(source, other[0].iterable)


def base(source: Source, node: cst.BaseExpression, depth: int = _DEPTH) -> str:
    """The code of what an iterable is made from, without filters, lists and names in between."""
    match node:
        case cst.Call(func=cst.Attribute(value=module, attr=cst.Name(value="named_parameters")), args=()):
            return f"{source.spelled(module)}.parameters()"
        case cst.Call(func=cst.Name(value="list" | "tuple" | "filter" | "enumerate"), args=[*_, last]):
            return base(source, last.value, depth)
        case cst.ListComp(for_in=clause) | cst.GeneratorExp(for_in=clause) if clause.inner_for_in is None:
            return base(source, clause.iter, depth)
        case cst.Name() if depth:
            binding = only_assignment(source, node)
            if binding is not None and binding.value is not None and not isinstance(binding.value, cst.Name):
                return base(source, binding.value, depth - 1)
    return source.spelled(node)
