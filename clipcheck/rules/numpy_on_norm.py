"""
## What it does
Finds a numpy function, such as `np.isnan` or `np.sqrt`, that is given a gradient norm which is still a tensor, or a list
of such norms: `np.mean(norms)`.

## Why is this bad?
numpy converts its argument to an array, which fails for a tensor on a GPU: `TypeError: can't convert cuda:0 device type
tensor to numpy`. It also fails for a bfloat16 tensor on the CPU, and for any DTensor. The code works in a test on a
laptop, and crashes the training.

## How to fix by hand
Call `.item()` first: `np.isnan(norm.item())`. Or use a function that takes a tensor: `torch.isnan(norm)`,
`norm.sqrt()`, or `math.isnan(norm)`, which synchronizes with the device as `.item()` does.

## Fix safety
Unsafe: on the CPU, where the code works, the result changes from a tensor to a numpy scalar.

## When to suppress it
Where gradients never leave the CPU and are float32 or float64.

## References
- https://github.com/pytorch/pytorch/issues/13721
"""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from clipcheck.fixes.verbs import replace
from clipcheck.gradients.accumulations import Accumulation, accumulations
from clipcheck.gradients.totals import total
from clipcheck.python.literals import is_zero
from clipcheck.python.names import Binding
from clipcheck.python.reaching import reaching
from clipcheck.python.source import Source, memo
from clipcheck.rule import Fix, Hit, Safety
from clipcheck.training.calls import callee, calls_of
from clipcheck.training.clips import torch_calls
from clipcheck.training.parameters import attribute_bindings
from clipcheck.training.possible_limits import guards
from clipcheck.training.summaries import returned

MESSAGE = "`{name}` raises a TypeError for a tensor on a GPU: call `.item()` first"
MESSAGE_OF_LIST = "`{name}` raises a TypeError for tensors on a GPU: append `norm.item()` to the list"
BY_HAND_OF_LIST = "keep numbers, or stack the tensors: `torch.stack(norms).mean()`"
TITLE = "Call `.item()` on the norm first"
TITLE_OF_SUM = "Convert the norm to a number first"
BY_HAND = "call `.item()` on the norm, or use a function that takes a tensor: `torch.isnan`, `torch.sqrt`, `math.isnan`"

# Those that convert their argument to an array; `np.round` and the like call the method of that name.
_FUNCTIONS = frozenset(
    "isnan isinf isfinite sqrt square log log2 log10 log1p exp abs absolute fabs power float_power cbrt sign maximum "
    "minimum add multiply divide isclose asarray array".split()
)
# Those that are given a list of norms.
_OF_LISTS = frozenset(
    "array asarray mean average median std var sum max amax min amin percentile quantile stack".split()
)
_DEPTH = 6  # how many names and calls are followed
# Methods of a tensor whose result is one on the same device.
_STAYS = frozenset("detach clone float double half sqrt square pow squeeze".split())


def check(source: Source) -> Iterator[Hit]:
    for call in source.nodes(cst.Call):
        library, _, function = source.origin(call.func).partition(".")
        if library == "numpy" and function in _OF_LISTS and call.args and _is_list(source, call.args[0].value):
            yield Hit(call, MESSAGE_OF_LIST.format(name=source.code(call.func)), None, BY_HAND_OF_LIST)
        if library != "numpy" or function not in _FUNCTIONS:
            continue
        for arg in call.args:
            if arg.keyword is None and not arg.star and _is_tensor(source, arg.value):
                if _is_number_here(source, call, arg.value):
                    continue
                fix = _fix(source, arg.value)
                yield Hit(call, MESSAGE.format(name=source.code(call.func)), fix, "" if fix else BY_HAND)
                break


def _fix(source: Source, value: cst.BaseExpression) -> Fix | None:
    if not isinstance(value, (cst.Name, cst.Attribute, cst.Call)):
        return None
    written = source.outer_code(value)
    if not _may_be_zero(source, value):
        return Fix(TITLE, Safety.UNSAFE, (replace(source, value, f"{written}.item()"),))
    if source.is_taken("float"):
        return None
    return Fix(TITLE_OF_SUM, Safety.UNSAFE, (replace(source, value, f"float({written})"),))


def _may_be_zero(source: Source, value: cst.BaseExpression) -> bool:
    """Whether a name may still be the number that a loop adds to, which has no `.item()`: where there are no parameters."""
    bindings = reaching(source, value) if isinstance(value, cst.Name) else ()
    return any(one.value is not None and is_zero(source, one.value) for one in bindings)


def _is_tensor(source: Source, node: cst.BaseExpression, depth: int = _DEPTH) -> bool:
    """Whether an expression is the norm of gradients, as a tensor on their device."""
    if not depth:
        return False
    if node in _norms(source):
        return True
    found = total(source, node)
    if found is not None:
        return found.kind == "tensor" and not found.term.synced and not _is_on_cpu(source, node)
    match node:
        case cst.Call(func=cst.Attribute(value=value, attr=cst.Name(value=method))) if method in _STAYS:
            return source.qualified(node.func) is None and _is_tensor(source, value, depth - 1)
        case cst.NamedExpr(value=value):
            return _is_tensor(source, value, depth - 1)
        case cst.Call():
            one = callee(source, node)
            values = (None if one is None else returned(source, one.function)) or ()
            return bool(values) and all(_is_tensor(source, value, depth - 1) for value in values)
        case cst.BinaryOperation(left=left, right=right):
            return any(_is_tensor(source, side, depth - 1) for side in (left, right))
        case cst.Name():
            bindings = reaching(source, node)
            made = [_is_made(source, one, depth) for one in bindings]
            return True in made and False not in made
    return False


def _is_list(source: Source, node: cst.BaseExpression) -> bool:
    """Whether an expression is a list to which only norms are appended, as tensors on their device."""
    match node:
        case cst.Name():
            made = [binding.value for binding in source.bindings(node)]
        case cst.Attribute(value=cst.Name("self")):
            made = [value for _, value in attribute_bindings(source, node)]
        case _:
            return False
    if not made or any(not isinstance(value, cst.List) or value.elements for value in made):
        return False
    spelled, owner = source.spelled(node), source.enclosing(node, cst.ClassDef)
    filled = [
        call
        for call in source.nodes(cst.Call)
        if isinstance(call.func, cst.Attribute)
        and call.func.attr.value in ("append", "extend", "insert")
        and source.spelled(call.func.value) == spelled
        and source.enclosing(call, cst.ClassDef) is owner
    ]
    return bool(filled) and all(_appends_tensor(source, call) for call in filled)


def _appends_tensor(source: Source, call: cst.Call) -> bool:
    match call:
        case cst.Call(func=cst.Attribute(attr=cst.Name("append")), args=[cst.Arg(value=value)]):
            return _is_tensor(source, value)
    return False


@memo
def _norms(source: Source) -> frozenset[cst.CSTNode]:
    return frozenset(c.call for c in torch_calls(source) if c.function in ("clip_grad_norm_", "get_total_norm"))


def _is_made(source: Source, binding: Binding, depth: int) -> bool | None:
    """Whether a binding gives a name a tensor of the device; None where it is the zero that a loop adds to."""
    added = next((one for one in accumulations(source) if one.target is binding.node), None)
    if added is not None:
        return _adds_tensors(added)
    if binding.kind == "parameter":
        function = source.function(binding.node)
        given = [one.given.get(binding.name) for one in calls_of(source, function)] if function is not None else []
        return bool(given) and all(value is not None and _is_tensor(source, value, depth - 1) for value in given)
    if binding.value is None:
        return False
    return None if is_zero(source, binding.value) else _is_tensor(source, binding.value, depth - 1)


def _adds_tensors(one: Accumulation) -> bool:
    return one.how != "append" and one.is_total and one.term.kind == "tensor" and not one.term.synced


def _is_number_here(source: Source, call: cst.Call, value: cst.BaseExpression) -> bool:
    """Whether a test around the call, or one that leaves before it, says that the norm is not a tensor: `isinstance(norm, float)`."""
    named = frozenset(
        source.spelled(node) for node in source.walk(value) if isinstance(node, (cst.Name, cst.Attribute))
    )
    return any(_says_number(source, guard.test, guard.outcome, named) for guard in guards(source, call))


def _says_number(source: Source, test: cst.BaseExpression, outcome: bool, named: frozenset[str]) -> bool:
    match test:
        case cst.UnaryOperation(operator=cst.Not(), expression=inner):
            return _says_number(source, inner, not outcome, named)
        case cst.BooleanOperation(left=left, operator=operator, right=right):
            return isinstance(operator, cst.And) == outcome and any(
                _says_number(source, side, outcome, named) for side in (left, right)
            )
        case cst.Call(args=[cst.Arg(value=asked), *kinds]) if source.spelled(asked) in named:
            match source.qualified(test.func):
                case "torch.is_tensor":
                    return not outcome
                case "builtins.isinstance":
                    return any(_names_tensor(source, kind) for kind in kinds) != outcome
    return False


def _names_tensor(source: Source, kinds: cst.CSTNode) -> bool:
    named = (node for node in source.walk(kinds) if isinstance(node, (cst.Name, cst.Attribute)))
    return any(source.origin(node).startswith("torch.") for node in named)


def _is_on_cpu(source: Source, node: cst.BaseExpression) -> bool:
    """Whether the whole norm is moved to the host."""
    named = (inner.value for inner in source.walk(node) if isinstance(inner, (cst.Name, cst.SimpleString)))
    return any(name.strip("'\"") == "cpu" for name in named)
