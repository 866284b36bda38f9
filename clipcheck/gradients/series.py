"""Recognizes series of powers of gradient norms: in a comprehension, a list, a dict, a stack or a joined vector."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import libcst as cst

from clipcheck.gradients.accumulations import Accumulation, Series, accumulations, selects
from clipcheck.gradients.exponents import ONE, TWO, Exponent
from clipcheck.gradients.gradient import Condition, element, gradient
from clipcheck.gradients.loops import Clause, clauses_around, outermost
from clipcheck.gradients.norm_functions import order_asked
from clipcheck.gradients.powers import PASS, Passed, Power, power, raised, through
from clipcheck.python.assignments import appended, only_assignment, stored
from clipcheck.python.names import Binding
from clipcheck.python.reaching import contains, reached, reaching
from clipcheck.python.source import Source

DEPTH = 8  # maximum number of names and calls to follow

_LISTS = frozenset({"builtins.list", "builtins.tuple"})
_ARRAYS = frozenset({"numpy.array", "numpy.asarray", "numpy.fromiter"})
_STACKS = frozenset({"torch.stack", "torch.cat", "torch.hstack"})
# Functions that make a tensor from a list of numbers; they read each one that is a tensor.
_COPIES = frozenset({"torch.tensor", "torch.as_tensor", "torch.Tensor", "torch.FloatTensor", "torch.DoubleTensor"})
_JOINS = frozenset(
    {
        *("torch.cat", "torch.concat", "torch.concatenate", "torch.hstack"),
        *("torch._utils._flatten_dense_tensors", "torch.nn.utils.parameters_to_vector"),
        *("numpy.concatenate", "numpy.concat", "numpy.hstack"),
    }
)
_SAME_VECTOR = frozenset("detach cpu numpy float double view reshape flatten ravel cuda to".split())


def series(source: Source, node: cst.CSTNode, depth: int = DEPTH) -> Series | None:
    """The powers in a list, a generator or an array, one per tensor."""
    if not depth:
        return None
    match node:
        case cst.GeneratorExp() | cst.ListComp():
            return _comprehended(source, node, depth)
        case cst.Call():
            return _called(source, node, depth)
        case cst.Name():
            return _assigned(
                source,
                node,
                lambda binding, value: series(source, value, depth - 1) or _appended(source, node, binding),
            )
        case cst.BinaryOperation(operator=cst.Power()):
            return _raised(source, node, depth)
    return None


def _comprehended(source: Source, node: cst.GeneratorExp | cst.ListComp, depth: int) -> Series | None:
    if node.for_in.asynchronous:
        return None
    term = power(source, node.elt)
    if term is not None:
        return _selected(source, clauses(node.for_in), term)
    return _of_each(source, node, depth)


def _of_each(source: Source, node: cst.GeneratorExp | cst.ListComp, depth: int) -> Series | None:
    """`[n ** 2 for n in norms]`: powers of the elements of another series."""
    match clauses(node.for_in):
        case (Clause(target=cst.Name(value=name), iterable=iterable, conditions=()),):
            found = series(source, iterable, depth - 1)
            return found and _with_element(source, node.elt, name, found)
    return None


def _with_element(source: Source, node: cst.CSTNode, name: str, found: Series) -> Series | None:
    """A series whose elements an expression refers to by name, each raised to a power or read."""
    match node:
        case cst.Name(value=value) if value == name:
            return found
        case cst.BinaryOperation(left=left, operator=cst.Multiply(), right=right) if (
            source.code(left) == source.code(right) == name
        ):
            return _to_power(found, TWO)
        case cst.Call() if (passed := through(source, node)) is not None:
            inner = _with_element(source, passed.value, name, found)
            return inner and _as_passed(inner, passed)
    step = raised(source, node)
    if step is None:
        return None
    inner = _with_element(source, step.base, name, found)
    return inner and _to_power(inner, step.exponent)


def _as_passed(found: Series, passed: Passed) -> Series:
    """A series whose elements a call reads, or converts."""
    read, kind = passed.read or found.term.read, passed.kind or found.term.kind
    return found._replace(term=found.term._replace(read=read, kind=kind))


def _raised(source: Source, node: cst.BaseExpression, depth: int) -> Series | None:
    """An array of powers, each raised to a further power."""
    step = raised(source, node)
    if step is None:
        return None
    inner = series(source, step.base, depth - 1)
    return _to_power(inner, step.exponent) if inner and (inner.array or step.function) else None


def _to_power(found: Series, exponent: Exponent) -> Series | None:
    product = found.term.exponent.times(exponent)
    return found._replace(term=found.term._replace(exponent=product)) if product else None


def _called(source: Source, call: cst.Call, depth: int) -> Series | None:
    """The powers that a call returns or computes from its arguments."""
    function = source.qualified(call.func)
    match call.args:
        case [cst.Arg(value=inner, keyword=None, star=""), *rest]:
            if function in _LISTS:
                return series(source, inner, depth - 1) if not rest else None
            if function in _ARRAYS:
                return _as_array(series(source, inner, depth - 1), "numpy")
            if function in _STACKS:
                return _as_array(series(source, inner, depth - 1), "torch")
            if function in _COPIES:
                return _as_array(_read(series(source, inner, depth - 1), function), "torch")
            if function == "builtins.map" and len(rest) == 1:
                return _mapped(source, inner, rest[0].value)
            if function == "torch._foreach_norm":
                return _fused(source, call, inner)
        case [] if isinstance(call.func, cst.Attribute) and call.func.attr.value == "values":
            return _tabled(source, call.func.value, depth)
    if raised(source, call) is not None:
        return _raised(source, call, depth)
    match call.func:
        case cst.Attribute(value=inner, attr=cst.Name(value=method)) if function is None and method in PASS:
            found = series(source, inner, depth - 1)
            return found if found is not None and found.array else None
    return None


def _tabled(source: Source, table: cst.BaseExpression, depth: int) -> Series | None:
    """The powers in the values of a dict: `{name: p.grad.norm().item() for …}`, or one that a loop fills."""
    match table:
        case cst.DictComp(value=value, for_in=clause) if not clause.asynchronous:
            return _selected(source, clauses(clause), power(source, value))
        case cst.Name() if depth:
            return _assigned(
                source,
                table,
                lambda _, value: _stored(source, table) if _is_empty(value) else _tabled(source, value, depth - 1),
            )
    return None


def _stored(source: Source, table: cst.Name) -> Series | None:
    """The powers that a loop stores in a dict, each under its own key; their norm may be stored there as well."""
    match [one for one in stored(source, table) if not contains(source, one, table)]:
        case [statement]:
            return _selected(source, _around(source, statement), power(source, statement.value))
    return None


def _selected(source: Source, around: tuple[Clause, ...], term: Power | None) -> Series | None:
    """The series of a term, if the loops around it iterate over gradients."""
    return Series(around, term) if term is not None and selects(source, term, around) else None


def _around(source: Source, statement: cst.CSTNode) -> tuple[Clause, ...]:
    """The loops around a statement in its function that do nothing else, outermost first."""
    inner = source.enclosing(statement, cst.For, cst.FunctionDef, cst.Lambda)
    if not isinstance(inner, cst.For):
        return ()
    return clauses_around(source, statement, outermost(source, inner)).clauses


def _is_empty(value: cst.BaseExpression) -> bool:
    """Whether an expression makes an empty list or dict."""
    match value:
        case cst.List(elements=[]) | cst.Dict(elements=[]):
            return True
        case cst.Call(func=cst.Name(value="list" | "dict"), args=[]):
            return True
    return False


def _as_array(found: Series | None, array: Literal["torch", "numpy"]) -> Series | None:
    return found._replace(array=array) if found is not None and found.array != "fused" else found


def _read(found: Series | None, function: str) -> Series | None:
    """A series whose elements a function reads one by one, unless they already are Python numbers."""
    if found is None:
        return None
    return found._replace(term=found.term._replace(kind="tensor", read=found.term.read or f"{function}()"))


def _mapped(source: Source, function: cst.BaseExpression, iterable: cst.BaseExpression) -> Series | None:
    """`map(lambda p: p.grad.norm() ** 2, parameters)`"""
    match function:
        case cst.Lambda(params=cst.Parameters(params=[cst.Param(name=name)]), body=body):
            return _selected(source, (Clause(name, iterable),), power(source, body))
    return None


def _fused(source: Source, call: cst.Call, tensors: cst.BaseExpression) -> Series | None:
    """`torch._foreach_norm(gradients)`: the norms of all, in a few kernels."""
    order = order_asked(source, call.args[1:])
    match tensors:
        case cst.ListComp(elt=elt, for_in=clause):
            found = gradient(source, elt)
            around = clauses(clause)
        case _:
            found = element(source, tensors)
            around = ()
    return Series(around, Power(found, order, ONE), array="fused") if found and order else None


# --- names -----------------------------------------------------------------------------------------------------------


def _assigned(
    source: Source, name: cst.Name, read: Callable[[Binding, cst.BaseExpression], Series | None]
) -> Series | None:
    """The result of `read` for the only value of a name; the assignment is recorded as used."""
    binding = only_assignment(source, name)
    if binding is None or binding.value is None:
        return None
    found = read(binding, binding.value)
    return found and found._replace(used=(*found.used, binding))


def _appended(source: Source, name: cst.Name, binding: Binding) -> Series | None:
    """The powers that a loop appends to an empty list."""
    if binding.value is None or not _is_empty(binding.value):
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


# --- joined ----------------------------------------------------------------------------------------------------------


def flat(source: Source, node: cst.CSTNode, depth: int = DEPTH) -> Series | None:
    """Gradients concatenated into one vector, as a series of first powers."""
    if not depth:
        return None
    match node:
        case cst.Call(func=func, args=[cst.Arg(value=parts, keyword=None), *_]) if source.qualified(func) in _JOINS:
            found = _joined(source, parts, depth - 1)
            return found and found._replace(joined=node)
        case cst.Call(func=cst.Attribute(value=value, attr=cst.Name(value=method))) if method in _SAME_VECTOR:
            return flat(source, value, depth - 1) if source.qualified(node.func) is None else None
        case cst.Name():
            return _assigned(source, node, lambda _, value: flat(source, value, depth - 1))
    return None


def _joined(source: Source, parts: cst.BaseExpression, depth: int) -> Series | None:
    match parts:
        case cst.ListComp(elt=elt, for_in=clause) | cst.GeneratorExp(elt=elt, for_in=clause):
            found = gradient(source, elt)
            return Series(clauses(clause), Power(found, TWO, ONE, read=found.host)) if found else None
        case cst.Name() if depth:
            return _assigned(
                source,
                parts,
                lambda _, value: _gathered(source, parts) if _is_empty(value) else _joined(source, value, depth - 1),
            )
    return None


def _gathered(source: Source, parts: cst.Name) -> Series | None:
    """The gradients that a loop appends to an empty list."""
    match appended(source, parts):
        case [cst.Call(args=[cst.Arg(value=part)]) as call]:
            found = gradient(source, part)
            return _selected(source, _around(source, call), found and Power(found, TWO, ONE, read=found.host))
    return None


def _is_filled(source: Source, use: cst.Name) -> bool:
    match source.parent(use):
        case cst.Attribute(attr=cst.Name(value="append")):
            return True
    return False


def uses_beside(source: Source, found: Series, node: cst.CSTNode) -> bool:
    """Whether anything other than `node` reads a name that holds the series; filling a list does not read it."""
    return any(
        not contains(source, node, use) and not _is_filled(source, use)
        for binding in found.used
        for use in reached(source, source.scope(binding.node), [binding])
        if not any(
            use is inner for other in found.used if other.value is not None for inner in source.walk(other.value)
        )
    )
