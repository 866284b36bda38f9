"""Recognizes series of powers of gradient norms: in a comprehension, a list, a stack, or an argument of `reduce`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal

import libcst as cst

from clipcheck.gradients.accumulations import Accumulation, Series, accumulations, selects
from clipcheck.gradients.exponents import ONE, TWO, Exponent
from clipcheck.gradients.gradient import Condition, element, gradient
from clipcheck.gradients.loops import Clause
from clipcheck.gradients.norm_functions import order_asked
from clipcheck.gradients.powers import PASS, Power, power, raised, through
from clipcheck.python.assignments import only_assignment
from clipcheck.python.literals import is_zero
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
        around = clauses(node.for_in)
        return Series(around, term) if selects(source, term, around) else None
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
        case cst.Call():
            passed = through(source, node)
            inner = passed and _with_element(source, passed.value, name, found)
            if passed is not None and inner is not None:
                term = inner.term
                read, kind = passed.read or term.read, passed.kind or term.kind
                return inner._replace(term=term._replace(read=read, kind=kind))
    step = raised(source, node)
    inner = step and _with_element(source, step.base, name, found)
    return _to_power(inner, step.exponent) if step and inner else None


def _raised(source: Source, node: cst.BaseExpression, depth: int) -> Series | None:
    """An array of powers, each raised to a further power."""
    step = raised(source, node)
    inner = step and series(source, step.base, depth - 1)
    return _to_power(inner, step.exponent) if step and inner and (inner.array or step.function) else None


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
    step = raised(source, call)
    if step is not None:
        return _raised(source, call, depth)
    match call.func:
        case cst.Attribute(value=inner, attr=cst.Name(value=method)) if function is None and method in PASS:
            found = series(source, inner, depth - 1)
            return found if found is not None and found.array else None
    return None


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
            term = power(source, body)
            around = (Clause(name, iterable),)
            return Series(around, term) if term and selects(source, term, around) else None
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
    match binding.value:
        case cst.List(elements=[]) | cst.Call(func=cst.Name(value="list"), args=[]):
            loops = [one for one in accumulations(source) if one.how == "append" and _fills(source, one, name, binding)]
            return loops[0].series._replace(loop=loops[0]) if len(loops) == 1 else None
    return None


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
            return _assigned(source, parts, lambda _, value: _joined(source, value, depth - 1))
    return None


# --- reduce ----------------------------------------------------------------------------------------------------------


def folded(source: Source, call: cst.Call) -> tuple[Series, str] | None:
    """What `functools.reduce` iterates over, and whether it adds or keeps the largest ("add", "max")."""
    match call.args:
        case [cst.Arg(value=function), cst.Arg(value=iterable), *start] if not any(
            not is_zero(source, arg.value) for arg in start
        ):
            pass
        case _:
            return None
    if source.qualified(call.func) != "functools.reduce":
        return None
    if source.qualified(function) in ("operator.add", "builtins.max", "numpy.add", "torch.add"):
        found = series(source, iterable)
        return (found, "max" if source.qualified(function) == "builtins.max" else "add") if found else None
    match function:
        case cst.Lambda(params=cst.Parameters(params=[cst.Param(name=total), cst.Param(name=one)]), body=body):
            return _step(source, total.value, one, iterable, [body])
        case cst.Name():
            match source.bindings(function):
                case [Binding(node=cst.FunctionDef() as named)]:
                    return _step_of(source, named, iterable)
    return None


def _step_of(source: Source, function: cst.FunctionDef, iterable: cst.BaseExpression) -> tuple[Series, str] | None:
    """One step of a reduction in a separate function, from which its terms cannot be moved."""
    match function.params.params:
        case [cst.Param(name=total), cst.Param(name=one)]:
            returned = [n.value for n in source.walk(function) if isinstance(n, cst.Return) and n.value is not None]
            step = _step(source, total.value, one, iterable, returned)
            return step and (_uncertain(step[0]), step[1])
    return None


def _uncertain(found: Series) -> Series:
    """A series whose terms are computed in a separate function."""
    term = found.term
    return found._replace(term=term._replace(gradient=term.gradient._replace(certain=False)))


def _step(
    source: Source, total: str, one: cst.Name, iterable: cst.BaseExpression, results: list[cst.BaseExpression]
) -> tuple[Series, str] | None:
    """One step of a reduction: each possible result is the total, or the total plus the power of one tensor."""
    steps = [found for result in results for found in _ways(source, result, total)]
    added = [step for step in steps if step is not None]
    if len(added) != 1 or not added[0][1]:
        return None
    value, how, tests = added[0]
    term = power(source, value)
    around = (Clause(one, iterable, tests),)
    return (Series(around, term), how) if term is not None and selects(source, term, around) else None


def _ways(
    source: Source, node: cst.BaseExpression, total: str, tests: tuple[Condition, ...] = ()
) -> Iterator[tuple[cst.BaseExpression, str, tuple[Condition, ...]] | None]:
    """What an expression adds to the total, and how, per way to compute it; None for nothing, no `how` if unknown."""
    match node:
        case cst.Name(value=name) if name == total:
            yield None
        case cst.IfExp(test=test, body=body, orelse=orelse):
            yield from _ways(source, body, total, (*tests, Condition(test, True)))
            yield from _ways(source, orelse, total, (*tests, Condition(test, False)))
        case cst.BinaryOperation(left=cst.Name(value=name), operator=cst.Add(), right=value) if name == total:
            yield value, "add", tests
        case cst.BinaryOperation(left=value, operator=cst.Add(), right=cst.Name(value=name)) if name == total:
            yield value, "add", tests
        case cst.Call(func=func, args=[cst.Arg(value=one), cst.Arg(value=other)]) if source.qualified(
            func
        ) == "builtins.max" and total in (source.code(one), source.code(other)):
            yield (other if source.code(one) == total else one), "max", tests
        case _:
            yield node, "", tests


def uses_beside(source: Source, found: Series, node: cst.CSTNode) -> bool:
    """Whether anything other than `node` reads a name that holds the series."""
    return any(
        not contains(source, node, use)
        for binding in found.used
        for use in reached(source, source.scope(binding.node), [binding])
        if not any(
            use is inner for other in found.used if other.value is not None for inner in source.walk(other.value)
        )
    )
