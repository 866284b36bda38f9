"""
## What it does
Finds gradient norms that are summed in Python from one `.item()` per parameter: loops, comprehensions inside `sum`,
lists that are summed later; with `norm`, `pow(2).sum()`, `float()` or `math.pow`, with or without the root. Other calls
that copy each tensor to the host count as well: `.cpu()`, `.numpy()`, `torch.tensor([…])` of the norms.
Tests of a model are left alone where they only check gradients, since no training waits for them: a sum that nothing but
assertions read, or, in a function `test_…` of pytest or unittest, a largest element or a sum of which no root is taken.
So is what a test such as `if not p.is_cuda:` reserves for tensors on the CPU.

## Why is this bad?
Every `.item()` synchronizes with the device: a model with 150 tensors synchronizes 150 times to get one number. With
sharded gradients (FSDP2, tensor parallelism), the sum covers only the shards of this rank, so it is not the norm of the
gradient.

One call computes the norm with one synchronization: `clipcheck.runtime.grad_norm(parameters)`, or
`get_total_norm(gradients)` if the tensors are gradients already.

## How to fix by hand
Replace the loop, the zero before it and the root after it with one call, and read the result once:

```python
total_norm = grad_norm(model.parameters()).item()
```

If you clip as well, no extra call is needed: `clip_grad_norm_` returns the total norm before clipping.

## Fix safety
Safe: the whole loop becomes one call that gives the same number as a Python float. Parameters without a gradient are
skipped (code that does not check for `None` raised there); other conditions move into a comprehension. `grad_norm` sums
in float64, so casts such as `.float()` are not needed; with other casts no fix is offered. The zero before the loop, the
root after it, and imports and variables that nothing else uses are removed with the loop. A squared value stays squared,
and an accumulator that starts from another value is added to. If the accumulator started as the integer `0` and there is
no gradient at all, the result is `0.0` instead of `0`. A norm type in a variable is passed on; for an infinite one the
loop's result was meaningless, and the call computes the largest element.

Unsafe where the code fails today (`torch.sqrt` of a Python float), in files that use FSDP2 or DTensor, where the value
changes from the norm of this rank's shards to the total norm and the call is a collective, and with `--target torch`,
whose `get_total_norm` needs torch 2.6, rejects sparse gradients and overflows in float16.

No automatic fix is offered if the loop has side effects (it clamps, stores, or logs the norm of each tensor), if its
variables are used later, if the sum is reduced over processes, or if the result is a CPU tensor, a numpy number or the
largest of the values.

## When to suppress it
For models on the CPU with few parameters, where an `.item()` costs next to nothing, or in code that runs once, such as a
helper of tests that compares against a hand-written norm.

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
from clipcheck.gradients.roots import root_of
from clipcheck.gradients.series import uses_beside
from clipcheck.gradients.spelling import Refused
from clipcheck.gradients.totals import Total, totals
from clipcheck.python.source import Source
from clipcheck.rule import Fix, Hit
from clipcheck.training.guards import is_on_cpu

MESSAGE = "`{read}` synchronizes once per parameter: compute the gradient norm in one call"
TITLE = "Compute the norm in one call"
BY_HAND = "no automatic fix: {why}; compute the norm with one `grad_norm(parameters)` outside the loop"
AT_ONCE = "no automatic fix: {why}; read them all at once: `torch.stack(torch._foreach_norm(gradients)).tolist()`"


def check(source: Source) -> Iterator[Hit]:
    # reading a CPU tensor waits for nothing
    yield from (hit for hit in _synced(source) if not is_on_cpu(source, hit.node))


def _synced(source: Source) -> Iterator[Hit]:
    sums = [found for found in totals(source) if found.term.synced and found.is_total]
    lists = {id(found.series.loop.statement): found for found in sums if found.series.loop is not None}
    for one in accumulations(source):
        if not one.term.synced or _is_check(source, one):
            continue
        if one.how != "append" and one.is_total:
            yield _hit(one.statement, one.term, _of_loop(source, one))
        elif id(one.statement) in lists:
            yield _hit(one.statement, one.term, _of_total(source, lists[id(one.statement)]))
        elif one.is_total:
            yield _hit(one.statement, one.term, Refused("the individual norms are kept"))
    for found in sums:
        if found.series.loop is not None or _is_only_asserted(source, found.node) or _is_checked(source, found):
            continue
        if not (found.series.joined and uses_beside(source, found.series, found.node)):
            yield _hit(found.series.joined or found.node, found.term, _of_total(source, found))


def _is_check(source: Source, one: Accumulation) -> bool:
    """Whether a test accumulates no norm, but a number that says whether the gradients are as they should be."""
    if not _is_in_test(source, one.statement):
        return False
    match one.target:
        case cst.Name(value=name):
            uses = source.names.uses(source.scope(one.target).owner(name), name)
            return all(root_of(source, use, one.term) is None for use in uses)
    return one.how == "max"


def _is_checked(source: Source, found: Total) -> bool:
    """As `_is_check`, for what one expression computes."""
    whole = found.degree is not None and found.degree.is_one and found.form != "max"
    return not whole and _is_in_test(source, found.node)


def _is_in_test(source: Source, node: cst.CSTNode) -> bool:
    """Whether a node is in a function that a test runner runs, once."""
    for above in source.ancestors(node):
        match above:
            case cst.FunctionDef(name=cst.Name(value=name)) if name.startswith("test_"):
                return _is_of_tests(source) or any(_asserts(part) for part in source.walk(above))
    return False


def _is_of_tests(source: Source) -> bool:
    bound = source.names.module.bindings.values()
    return any(b.path.partition(".")[0] in ("pytest", "unittest") for bindings in bound for b in bindings)


def _asserts(node: cst.CSTNode) -> bool:
    match node:
        case cst.Assert():
            return True
        case cst.Call(func=cst.Name(value=name) | cst.Attribute(attr=cst.Name(value=name))):
            return name.startswith("assert")
    return False


def _is_only_asserted(source: Source, node: cst.BaseExpression) -> bool:
    """Whether nothing but assertions reads a norm: code that checks the training, whose time does not matter."""
    if _is_in_assertion(source, node):
        return True
    match source.parent(node):
        case cst.Assign(targets=[cst.AssignTarget(target=cst.Name(value=name) as target)]):
            uses = source.names.uses(source.scope(target), name)
            return bool(uses) and all(_is_in_assertion(source, use) for use in uses)
    return False


def _is_in_assertion(source: Source, node: cst.CSTNode) -> bool:
    """Whether a node is in an `assert`, or in a call of a function of that name: `self.assertGreater(norm, 0)`."""
    return any(map(_asserts, source.ancestors(node)))


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
    """Why a fix could change the number or its type."""
    if term.order.value == math.inf and term.exponent.is_one:
        return Refused("where a gradient is NaN, `max` gives a different number than a norm")
    if term.read == ".data[0]":
        return Refused("`.data[0]` of a number raises an IndexError in current versions of torch")
    if term.kind == "tensor":
        return Refused("the sum is a CPU tensor")
    if term.gradient.local:
        return Refused("the tensors are this rank's shards")
    return None
