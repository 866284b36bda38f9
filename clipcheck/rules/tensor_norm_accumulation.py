"""
## What it does
Finds gradient norms that are put together on the device, tensor by tensor, without `.item()`: loops that add
`p.grad.norm() ** 2`, the norm of stacked norms, the norm of all gradients joined into one vector.

## Why is this bad?
Every tensor costs its own kernels, and a sum of tensors runs in the gradients' dtype: 3,000 gradients of norm 1 in
bfloat16 add up to 16 instead of 54.8. Joining gradients copies all of them. One call to
`clipcheck.runtime.grad_norm(parameters)` or `get_total_norm(gradients)` adds in float32 at least and stays on the device.

## Fix safety
Unsafe: the dtype in which the sum runs changes, and with it the last digits. What was a tensor stays a tensor, what was
a float stays a float. A cast of each gradient becomes a cast of the norm, without copies of all gradients. Silent where autograd goes through the norm (`create_graph=True`), where the accumulator is reduced
over processes, and inside optimizers. No fix is offered where the stacked norms or the joined vector have another use.

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
from clipcheck.gradients.spelling import Refused
from clipcheck.gradients.totals import differentiable, totals
from clipcheck.python.source import Source
from clipcheck.rule import Fix, Hit, Safety

MESSAGE = "gradient norm put together tensor by tensor: many kernels, and a sum in the gradients' dtype"
TITLE = "Compute the norm in one call"
BY_HAND = "no fix here: {why}; `grad_norm(parameters)` computes it in one call"


def check(source: Source) -> Iterator[Hit]:
    for one in accumulations(source):
        if one.how == "add" and not one.term.synced and not one.term.exponent.is_one and _is_ours(source, one):
            yield _hit(one.statement, rewrite_loop(source, one, TITLE, Safety.UNSAFE))
    for found in totals(source):
        plain = found.form == "sum" and (found.term.synced or found.term.exponent.is_one)
        if plain or differentiable(source, found.series) or is_in_optimizer(source, found.node):
            continue
        match source.parent(found.node):
            case cst.Assign(targets=[cst.AssignTarget(target=target)]) if reduced(source, found.node, target):
                continue
        yield _hit(found.node, rewrite_total(source, found, TITLE, Safety.UNSAFE))


def _hit(node: cst.CSTNode, outcome: Fix | Refused) -> Hit:
    if isinstance(outcome, Refused):
        return Hit(node, MESSAGE, help=BY_HAND.format(why=outcome.why))
    return Hit(node, MESSAGE, outcome)


def _is_ours(source: Source, one: Accumulation) -> bool:
    return not (
        differentiable(source, one.series)
        or is_in_optimizer(source, one.statement)
        or reduced(source, one.statement, one.target)
    )
