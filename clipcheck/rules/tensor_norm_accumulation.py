"""
## What it does
Finds gradient norms that are accumulated on the device, one tensor at a time, without `.item()`: loops that add
`p.grad.norm() ** 2`, the norm of stacked norms, the norm of all gradients concatenated into one vector.

## Why is this bad?
Every tensor launches its own kernels, and a sum of tensors runs in the dtype of the gradients: in bfloat16, the norm of
3,000 gradients with norm 1 comes out as 16 instead of 54.8. Concatenating gradients copies all of them. One call to
`clipcheck.runtime.grad_norm(parameters)` or `get_total_norm(gradients)` sums in float32 or higher precision and stays on
the device.

## Why is this rule opt-in?
With float32 gradients and a small model the result is right and the cost is small.

## How to fix by hand
Replace the loop, or the stack and its norm, with one call. The result stays a tensor on the device:

```python
total_norm = grad_norm(model.parameters())
```

## Fix safety
Unsafe: the dtype of the sum changes, and with it the last digits. A tensor stays a tensor, and a float stays a float. A
cast of each gradient becomes a cast of the norm, without copies of all gradients. Nothing is reported if autograd goes
through the norm (`create_graph=True`), if the accumulator is reduced over processes, if a formula uses the sum of
squares as it is, or inside optimizers. No automatic fix is offered if the stacked norms or the concatenated vector are
used elsewhere.

## When to suppress it
If the result has to match another implementation bit for bit, or in code that runs once, such as a test.

## References
- https://pytorch.org/docs/stable/generated/torch.nn.utils.get_total_norm.html
"""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from clipcheck.fixes.loop_to_call import rewrite_loop
from clipcheck.fixes.total_to_call import rewrite_total
from clipcheck.gradients.accumulations import Accumulation, accumulations, reduced
from clipcheck.gradients.optimizers import is_in_optimizer
from clipcheck.gradients.roots import is_operand, squared_is_wanted
from clipcheck.gradients.spelling import Refused
from clipcheck.gradients.totals import Total, differentiable, totals
from clipcheck.python.reaching import contains
from clipcheck.python.source import Source
from clipcheck.rule import Fix, Hit, Safety

MESSAGE = "gradient norm accumulated one tensor at a time: many kernels, and a sum in the gradients' dtype"
CAST = "gradient norm accumulated one tensor at a time: many kernels where one call would do"
TITLE = "Compute the norm in one call"
BY_HAND = "no automatic fix: {why}; `grad_norm(parameters)` computes it in one call"


def check(source: Source) -> Iterator[Hit]:
    for one in accumulations(source):
        if one.how == "add" and one.is_total and not one.term.synced and _is_ours(source, one):
            yield _hit(one.statement, one.term.gradient.casts, rewrite_loop(source, one, TITLE, Safety.UNSAFE))
    for found in totals(source):
        if not _is_accumulated(source, found):
            continue
        match source.parent(found.node):
            case cst.Assign(targets=[cst.AssignTarget(target=target)]) if reduced(source, found.node, target):
                continue
        casts = found.term.gradient.casts or found.cast
        yield _hit(found.node, casts, rewrite_total(source, found, TITLE, Safety.UNSAFE))


def _hit(node: cst.CSTNode, casts: str, outcome: Fix | Refused) -> Hit:
    """`casts` is the dtype, if any, that the code asks for itself."""
    message = CAST if casts else MESSAGE
    if isinstance(outcome, Refused):
        return Hit(node, message, help=BY_HAND.format(why=outcome.why))
    return Hit(node, message, outcome)


def _is_ours(source: Source, one: Accumulation) -> bool:
    return not (
        one.term.gradient.local
        or differentiable(source, one.series)
        or is_in_optimizer(source, one.statement)
        or reduced(source, one.statement, one.target)
        or squared_is_wanted(source, _later(source, one), one.term)
    )


def _later(source: Source, one: Accumulation) -> list[cst.Name]:
    """Where an accumulator is read after its loop, and not only to add to it."""
    if not isinstance(one.target, cst.Name):
        return []
    uses = source.names.uses(source.scope(one.target).owner(one.target.value), one.target.value)
    return [use for use in uses if not contains(source, one.loop, use) and not _is_added_to(source, use)]


def _is_added_to(source: Source, use: cst.Name) -> bool:
    """Whether a variable is read in `total = total + x`, which is `total += x`."""
    match source.parent(use):
        case cst.BinaryOperation(operator=cst.Add()) as sum_:
            match source.parent(sum_):
                case cst.Assign(targets=[cst.AssignTarget(target=cst.Name(value=name))]):
                    return name == use.value
    return False


def _is_accumulated(source: Source, found: Total) -> bool:
    """Whether an expression is a norm that is accumulated on the device one tensor at a time, and that nothing else needs this way."""
    if not found.is_total or found.term.synced or found.term.gradient.local:
        return False
    if found.form in ("max", "mean") or found.series.array == "fused":
        return False
    if differentiable(source, found.series) or is_in_optimizer(source, found.node):
        return False
    return found.degree is None or found.degree.is_one or not _is_power_wanted(source, found)


def _is_power_wanted(source: Source, found: Total) -> bool:
    """Whether the sum of powers goes into a formula as it is."""
    match source.parent(found.node):
        case cst.Assign(targets=[cst.AssignTarget(target=cst.Name() as name)]):
            uses = source.names.uses(source.scope(name).owner(name.value), name.value)
            return squared_is_wanted(source, uses, found.term)
    return is_operand(source, found.node)
