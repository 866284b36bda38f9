"""
## What it does
Finds gradient norms that are added up in Python from one `.item()` per parameter: loops, comprehensions inside `sum`,
lists that are summed later; with `norm`, `pow(2).sum()`, `float()` or `math.pow`, with or without the root. Other calls
that copy each tensor to the host count as well: `.cpu()`, `.numpy()`, `torch.tensor([…])` of the norms.

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

No fix is offered where the loop does more than add up (it clamps, stores, logs the norm of each tensor), where its
variables are used later, where the sum is reduced over processes, and where the result is a tensor of the CPU, an array's
number or the largest of the values.

## References
- pytorch/pytorch#60691, pytorch/pytorch#61042
- https://pytorch.org/docs/stable/generated/torch.nn.utils.get_total_norm.html
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import libcst as cst

from clipcheck.fixes.loop_to_call import rewrite_loop
from clipcheck.fixes.split_loop import EACH
from clipcheck.fixes.total_to_call import rewrite_total
from clipcheck.gradients.accumulations import Accumulation, accumulations
from clipcheck.gradients.powers import Power
from clipcheck.gradients.series import uses_beside
from clipcheck.gradients.spelling import Refused
from clipcheck.gradients.totals import Total, totals
from clipcheck.python.source import Source
from clipcheck.rule import Fix, Hit

MESSAGE = "gradient norm built with one `{read}` per parameter: one device sync per tensor"
TITLE = "Compute the norm in one call"
BY_HAND = "no fix here: {why}; take the norm with one `grad_norm(parameters)` beside the loop"
AT_ONCE = "no fix here: {why}; read them all at once: `torch.stack(torch._foreach_norm(gradients)).tolist()`"


def check(source: Source) -> Iterator[Hit]:
    sums = [found for found in totals(source) if found.term.synced and found.is_total]
    lists = {id(found.series.loop.statement): found for found in sums if found.series.loop is not None}
    for one in accumulations(source):
        if not one.term.synced:
            continue
        if one.how != "append" and one.is_total:
            yield _hit(one.statement, one.term, _of_loop(source, one))
        elif id(one.statement) in lists:
            yield _hit(one.statement, one.term, _of_total(source, lists[id(one.statement)]))
        elif one.is_total:
            yield _hit(one.statement, one.term, Refused("the single values are kept"))
    for found in sums:
        if found.series.loop is None and not (found.series.joined and uses_beside(source, found.series, found.node)):
            yield _hit(found.series.joined or found.node, found.term, _of_total(source, found))


def _hit(node: cst.CSTNode, term: Power, outcome: Fix | Refused) -> Hit:
    message = MESSAGE.format(read=term.read)
    if isinstance(outcome, Refused):
        by_hand = AT_ONCE if outcome.why == EACH else BY_HAND
        return Hit(node, message, help=by_hand.format(why=outcome.why))
    return Hit(node, message, outcome)


def _of_loop(source: Source, one: Accumulation) -> Fix | Refused:
    return _refused(one.term) or rewrite_loop(source, one, TITLE)


def _of_total(source: Source, found: Total) -> Fix | Refused:
    if found.series.joined:
        return Refused("the gradients themselves are copied to the host")
    return _refused(found.term) or rewrite_total(source, found, TITLE)


def _refused(term: Power) -> Refused | None:
    """Why the number could be another one, or of another type, after a fix."""
    if term.order.value == math.inf and term.exponent.is_one:
        return Refused("where a gradient is NaN, `max` keeps another number than a norm")
    if term.read == ".data[0]":
        return Refused("`.data[0]` of a number raises an IndexError in current versions of torch")
    if term.kind == "tensor":
        return Refused("the sum is a tensor of the CPU")
    if term.gradient.local:
        return Refused("the tensors are this rank's shards")
    return None
