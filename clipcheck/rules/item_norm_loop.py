"""
## What it does
Finds gradient norms that are added up in Python from one `.item()` per parameter: loops, comprehensions inside `sum`,
lists that are summed later; with `norm`, `pow(2).sum()`, `float()` or `math.pow`, with or without the root.

## Why is this bad?
Every `.item()` waits for the device: a model of 150 tensors stops 150 times for one number. Where gradients are
sharded (FSDP2, tensor parallelism) the sum is that of this rank's shards, which is not the norm of the gradient.

One call computes the norm with one synchronization: `clipcheck.runtime.grad_norm(parameters)`, or
`get_total_norm(gradients)` where the tensors are gradients already.

## Fix safety
Safe: the whole loop becomes one call that gives the same number as a Python float. Parameters without a gradient are
skipped (code without a test for `None` raised there), other tests go along as a comprehension. `grad_norm` adds
in float64, so casts such as `.float()` are not needed; other casts leave no fix. The zero before the loop, the root after it,
imports and variables that nothing else uses go with the loop. A squared value stays squared, an accumulator that held something before is added to. Where the accumulator
started as the integer `0` and there is no gradient at all, the result is `0.0` instead of `0`. A norm type that is a
variable is passed on; at infinity the loop computed nonsense and the call computes the largest element.

Unsafe where the code fails today (`torch.sqrt` of a Python float), in files that use FSDP2 or DTensor, where the value changes from the rank's to the whole and the call is a
collective, and with `--target torch`, whose `get_total_norm` needs torch 2.6, rejects sparse gradients and overflows
in float16.

No fix is offered where the loop does more than add up (it clamps, stores, logs the norm of each tensor), where its variables are used
later, or where the sum is reduced over processes.

## References
- pytorch/pytorch#60691, pytorch/pytorch#61042
- https://pytorch.org/docs/stable/generated/torch.nn.utils.get_total_norm.html
"""

from __future__ import annotations

from collections.abc import Iterator

from clipcheck.fixes.loop_to_call import rewrite_loop
from clipcheck.fixes.split_loop import EACH
from clipcheck.fixes.total_to_call import rewrite_total
from clipcheck.gradients.accumulations import accumulations
from clipcheck.gradients.spelling import Refused
from clipcheck.gradients.totals import totals
from clipcheck.python.source import Source
from clipcheck.rule import Fix, Hit

MESSAGE = "gradient norm built with one `.item()` per parameter: one device sync per tensor"
TITLE = "Compute the norm in one call"
BY_HAND = "no fix here: {why}; take the norm with one `grad_norm(parameters)` beside the loop"
AT_ONCE = "no fix here: {why}; read them all at once: `torch.stack(torch._foreach_norm(gradients)).tolist()`"


def check(source: Source) -> Iterator[Hit]:
    sums = [found for found in totals(source) if found.form == "sum" and found.term.synced]
    lists = {id(found.series.loop.statement): found for found in sums if found.series.loop is not None}
    for one in accumulations(source):
        if one.term.synced and not one.term.exponent.is_one:
            if one.how == "add":
                yield hit(one.statement, rewrite_loop(source, one, TITLE))
            elif id(one.statement) in lists:
                yield hit(one.statement, rewrite_total(source, lists[id(one.statement)], TITLE))
            else:
                yield hit(one.statement, Refused("the single values are kept"))
    for found in sums:
        if not found.term.exponent.is_one and found.series.loop is None:
            yield hit(found.node, rewrite_total(source, found, TITLE))


def hit(node: object, outcome: Fix | Refused) -> Hit:
    if isinstance(outcome, Refused):
        by_hand = AT_ONCE if outcome.why == EACH else BY_HAND
        return Hit(node, MESSAGE, help=by_hand.format(why=outcome.why))  # type: ignore[arg-type]
    return Hit(node, MESSAGE, outcome)  # type: ignore[arg-type]
