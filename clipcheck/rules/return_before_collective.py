"""
## What it does
Finds a function that returns early where a rank has no gradients (`if not grads: return 0.0`), and otherwise calls a
collective such as `all_reduce`, in which the other ranks wait for it.

## Why is this bad?
A collective returns once all ranks have called it. With parameters that are sharded, frozen or used on some ranks only,
one rank can have no gradients while the others have some: it returns, they wait, and training hangs until the process
group times out, at a step that nobody can predict.

## How to fix by hand
Contribute a zero instead of returning:

```python
total = torch.zeros((), device=device)
for grad in grads:
    total += grad.float().pow(2).sum()
dist.all_reduce(total)
```

Or decide together: all-reduce the number of gradients first, and return where it is 0 on all ranks.

## Fix safety
No automatic fix: what a rank without gradients has to contribute depends on the collective.

## When to suppress it
Where every rank is known to have the same gradients, as with plain data parallelism without unused parameters.

## References
- https://pytorch.org/docs/stable/distributed.html#collective-functions
- axolotl-ai-cloud/axolotl, hiyouga/LLaMA-Factory
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import takewhile
from typing import NamedTuple

import libcst as cst

from clipcheck.python.assignments import assigned_value
from clipcheck.python.literals import number
from clipcheck.python.names import dotted
from clipcheck.python.reaching import reaching
from clipcheck.python.source import Source, memo
from clipcheck.rule import Hit
from clipcheck.training.calls import callees
from clipcheck.training.guards import branches, exclusive
from clipcheck.training.summaries import home

BY_HAND = "contribute a zero to the collective instead of returning"
_COLLECTIVES = frozenset(
    "all_reduce all_reduce_coalesced allreduce all_reduce_ allreduce_ all_gather all_gather_into_tensor all_gather_object "
    "reduce_scatter_tensor".split()
)
_FILLS = frozenset({"append", "extend", "add", "insert", "update"})


class Asked(NamedTuple):
    """What a test asks to be there, and whether it is there where the test comes out true."""

    subject: cst.BaseExpression
    there: bool


def check(source: Source) -> Iterator[Hit]:
    for leave in source.nodes(cst.Return):
        branch, outcome = next(branches(source, leave), (None, False))
        if branch is None or not _lacks_gradients(source, branch.test, outcome):
            continue
        if _has_just_made_them(source, leave):
            continue
        awaited = _awaited(source, leave, branch)
        if awaited is not None:
            where = source.where(awaited)
            message = f"training hangs: a rank without gradients returns, and the others wait for it on {where}"
            yield Hit(leave, message, None, BY_HAND, ((awaited, "the other ranks wait here"),))


# --- collectives ------------------------------------------------------------------------------------------------------


def _awaited(source: Source, leave: cst.Return, branch: cst.If) -> cst.Call | None:
    """The first collective after an early return, which a rank that returns does not call; None where it has called one."""
    function, at = home(source, leave), source.rank(leave)
    places = [call for call in _collectives(source) if home(source, call) is function]
    inside = {id(node) for node in source.walk(branch.body)}
    if any(id(place) in inside and source.rank(place) < at for place in places):
        return None
    tested = {node.value for node in source.walk(branch.test) if isinstance(node, cst.Name)}
    for place in places:
        shared = {node.value for arg in place.args for node in source.walk(arg) if isinstance(node, cst.Name)}
        if source.rank(place) < at and tested & shared:
            return None  # the ranks have told each other what the test asks
    return next((p for p in places if source.rank(p) > at and not exclusive(source, branch, p)), None)


@memo
def _collectives(source: Source) -> tuple[cst.Call, ...]:
    """The calls that all ranks have to make, in the order of the text; those of functions that make one are among them."""
    return tuple(call for call in source.nodes(cst.Call) if _is_collective(source, call) or _leads_to_one(source, call))


def _is_collective(source: Source, call: cst.Call) -> bool:
    match call.func:
        case cst.Attribute(attr=cst.Name("full_tensor")):
            return not call.args
        case cst.Attribute(value=owner, attr=cst.Name(value=name)) if name in _COLLECTIVES:
            origin = source.origin(call.func)
            return origin.startswith("torch.distributed.") or dotted(owner).split(".")[-1] in ("dist", "distributed")
        case cst.Name():
            module, _, name = source.origin(call.func).rpartition(".")
            return name in _COLLECTIVES and module.startswith("torch.distributed")
    return False


def _leads_to_one(source: Source, call: cst.Call) -> bool:
    for called in callees(source, call):
        inside = (node for node in source.walk(called.function) if isinstance(node, cst.Call))
        if any(home(source, node) is called.function and _is_collective(source, node) for node in inside):
            return True
    return False


# --- gradients that are there on every rank ---------------------------------------------------------------------------


def _has_just_made_them(source: Source, leave: cst.Return) -> bool:
    """Whether the same function has run the models whose gradients it asks for, and then `backward()`.

    It raises where no parameter of a model gets a gradient, so that some are there on each rank.
    """
    function, at = home(source, leave), source.rank(leave)
    calls = [call for call in source.nodes(cst.Call) if source.rank(call) < at and home(source, call) is function]
    made = [call for call in calls if _method(call) in ("backward", "zero_grad") and _comes_before(source, call, leave)]
    if not made or _method(made[-1]) != "backward":
        return False
    asked = {model for call in calls if (model := _asked_for_parameters(source, call))}
    run = {source.spelled(call.func) for call in takewhile(lambda c: c is not made[-1], calls)}
    return bool(asked) and asked <= run


def _asked_for_parameters(source: Source, call: cst.Call) -> str:
    """`model` of `model.parameters()`."""
    match call.func:
        case cst.Attribute(value=model, attr=cst.Name("parameters" | "named_parameters")):
            return source.spelled(model)
    return ""


def _method(call: cst.Call) -> str:
    return call.func.attr.value if isinstance(call.func, cst.Attribute) else ""


def _comes_before(source: Source, call: cst.Call, leave: cst.Return) -> bool:
    """Whether no test decides that a call is left out on the way to an early return."""
    around = {(id(branch), outcome) for branch, outcome in branches(source, leave)}
    return all((id(branch), outcome) in around for branch, outcome in branches(source, call))


# --- gradients that are not there -------------------------------------------------------------------------------------


def _lacks_gradients(source: Source, test: cst.BaseExpression, outcome: bool) -> bool:
    """Whether a test has this outcome if a rank has no gradients."""
    match test:
        case cst.BooleanOperation(left=left, right=right):
            return any(_lacks_gradients(source, side, outcome) for side in (left, right))
    asked = _asked(source, test)
    return asked is not None and asked.there is not outcome and _holds_gradients(source, asked.subject)


def _asked(source: Source, test: cst.BaseExpression) -> Asked | None:
    match test:
        case cst.UnaryOperation(operator=cst.Not(), expression=inner):
            asked = _asked(source, inner)
            return asked and asked._replace(there=not asked.there)
        case cst.NamedExpr(value=inner):
            return _asked(source, inner)
        case cst.Call(func=cst.Name("len" | "any" | "bool"), args=[cst.Arg(value=inner)]):
            return Asked(inner, True)
        case cst.Call(func=cst.Name("all"), args=[cst.Arg(value=inner)]):
            return Asked(test, False) if _is_of_missing(source, inner) else None
        case cst.Comparison(left=left, comparisons=[cst.ComparisonTarget(operator=operator, comparator=right)]):
            return _compared(source, left, operator, right)
        case cst.Name():
            return Asked(test, True)
    return None


def _compared(
    source: Source, left: cst.BaseExpression, operator: cst.BaseCompOp, right: cst.BaseExpression
) -> Asked | None:
    """`x is None`, `x == []`, `len(x) == 0` and similar tests."""
    nothing = source.outer_code(right) in ("None", "[]", "()", "{}")
    counted = _counted(source, left)
    match left:
        case _ if counted is not None:
            bound = number(source, right)
            few = isinstance(operator, (cst.Equal, cst.LessThanEqual)) and bound == 0
            many = isinstance(operator, (cst.NotEqual, cst.GreaterThan)) and bound == 0
            if few or (isinstance(operator, cst.LessThan) and bound == 1):
                return Asked(counted, False)
            return Asked(counted, True) if many or (isinstance(operator, cst.GreaterThanEqual) and bound == 1) else None
        case _ if nothing and isinstance(operator, (cst.Is, cst.Equal)):
            return Asked(left, False)
        case _ if nothing:
            return Asked(left, True)
    return None


def _counted(source: Source, count: cst.BaseExpression, depth: int = 2) -> cst.BaseExpression | None:
    """What is counted: by `len`, by `sum(1 for …)`, or by the one value of a variable."""
    match count:
        case cst.Call(func=cst.Name("len"), args=[cst.Arg(value=inner)]):
            return inner
        case cst.Call(func=cst.Name("sum"), args=[cst.Arg(value=(cst.GeneratorExp() | cst.ListComp()) as inner)]):
            return inner if isinstance(inner.elt, (cst.Integer, cst.Comparison)) else None
        case cst.NamedExpr(value=inner) if depth:
            return _counted(source, inner, depth - 1)
        case cst.Name() if depth:
            values = [assigned_value(source, binding) for binding in reaching(source, count)]
            return _counted(source, values[0], depth - 1) if len(values) == 1 and values[0] is not None else None
    return None


def _holds_gradients(source: Source, subject: cst.BaseExpression, depth: int = 4) -> bool:
    """Whether an expression is made of the gradients that are there: a filtered list, or what a loop has collected."""
    match subject:
        case cst.ListComp() | cst.GeneratorExp() | cst.SetComp() | cst.DictComp():
            return _mentions_grad(source, subject) and not _is_of_missing(source, subject)
        case cst.Call(func=cst.Name("all"), args=[cst.Arg(value=inner)]):  # whether all are missing, as it was asked
            return _mentions_grad(source, inner)
        case cst.Call(func=cst.Name("filter"), args=[cst.Arg(value=chooses), _]):
            return _mentions_grad(source, chooses)
        case cst.Call(func=cst.Name("list" | "tuple" | "set"), args=[cst.Arg(value=inner)]):
            return _holds_gradients(source, inner, depth)
        case cst.Name() if depth:
            counted = _counted(source, subject)
            return _holds_gradients(source, counted, depth - 1) if counted else _collects(source, subject, depth - 1)
    return False


def _collects(source: Source, name: cst.Name, depth: int) -> bool:
    """Whether a variable holds what has a gradient: it was filtered, or a loop has put it in."""
    bindings = reaching(source, name)
    if any(binding.kind == "parameter" for binding in bindings):
        return False
    values = [value for binding in bindings if (value := assigned_value(source, binding)) is not None]
    if any(not isinstance(value, cst.Name) and _holds_gradients(source, value, depth) for value in values):
        return True
    empty = any(_is_empty(source, value) for value in values)
    return empty and any(_depends_on_grad(source, node) for node in _filled_at(source, name))


def _is_empty(source: Source, value: cst.BaseExpression) -> bool:
    return source.spelled(value) in ("None", "[]", "list()", "{}", "dict()", "set()")


def _filled_at(source: Source, name: cst.Name) -> Iterator[cst.CSTNode]:
    """Where a variable that was empty is given something."""
    for binding in source.bindings(name):
        if binding.value is None or not _is_empty(source, binding.value):
            yield binding.node
    for use in source.names.uses(source.scope(name).owner(name.value), name.value):
        match source.parent(use):
            case cst.Attribute(attr=cst.Name(value=method)) as found if method in _FILLS:
                yield found
            case cst.Subscript() as found if isinstance(source.parent(found), cst.AssignTarget):
                yield found


def _depends_on_grad(source: Source, node: cst.CSTNode) -> bool:
    """Whether something is done with a gradient, or under a test for one."""
    if _mentions_grad(source, source.statement(node)):
        return True
    around = [(branch.test, outcome) for branch, outcome in branches(source, node)]
    return any(_mentions_grad(source, test) and not _is_missing(test, outcome) for test, outcome in around)


def _is_of_missing(source: Source, made: cst.CSTNode) -> bool:
    """Whether a comprehension is about what has no gradient."""
    asked = (node for node in source.walk(made) if isinstance(node, cst.Comparison))
    return any(_is_missing(one, not isinstance(source.parent(one), cst.UnaryOperation)) for one in asked)


def _is_missing(test: cst.CSTNode, outcome: bool) -> bool:
    """Whether a test with this outcome, `p.grad is None`, chooses what has no gradient."""
    match test:
        case cst.UnaryOperation(operator=cst.Not(), expression=inner):
            return _is_missing(inner, not outcome)
        case cst.Comparison(comparisons=[cst.ComparisonTarget(operator=operator, comparator=cst.Name("None"))]):
            return isinstance(operator, cst.Is) is outcome
    return False


def _mentions_grad(source: Source, node: cst.CSTNode) -> bool:
    return any(isinstance(inner, cst.Attribute) and inner.attr.value == "grad" for inner in source.walk(node))
