"""
## What it does
Finds the norm of this rank's shards, `p.grad.to_local()`, used as the norm of the whole gradient: gradients are scaled
by it, or it is returned or logged, and nothing reduces it across ranks.

## Why is this bad?
Each rank gets a different value, and all are too small: with two ranks, 5.74 and 6.79 where the total norm is 8.89. The
ranks then scale their shards by different coefficients, so that the direction changes, and the total norm after
clipping is above `max_norm`.

## How to fix by hand
All-reduce the sum of squares over the ranks of the shards before the square root. Or call
`clipcheck.runtime.clip_grad_norm_(parameters, max_norm)` or torch's, which take sharded gradients directly; torch's
returns a DTensor, whose value is `norm.full_tensor()`.

## Fix safety
No automatic fix: the code does not say whether the ranks share parameters or have different ones (pipeline stages,
experts).

## When to suppress it
Where each rank's own norm is wanted, for instance to find the rank with an outlier. A norm whose name says `local`,
`shard` or `rank` is not reported.

## References
- hao-ai-lab/FastVideo (training/training_utils.py)
- https://pytorch.org/docs/stable/distributed.tensor.html
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import libcst as cst

from clipcheck.gradients.accumulations import accumulations
from clipcheck.gradients.roots import root_of
from clipcheck.gradients.totals import total, totals
from clipcheck.python.names import last_name
from clipcheck.python.said import said_here
from clipcheck.python.source import Source
from clipcheck.python.words import words
from clipcheck.rule import Hit
from clipcheck.training.measures import Measure, measures, uses_of, values

MESSAGE = "norm of this rank's shards without an all-reduce: too small, and different on each rank"
BY_HAND = "all-reduce the sum of squares before the square root, or call `clipcheck.runtime.clip_grad_norm_`"

_MERGES = re.compile(r"reduce|gather|full_tensor|redistribute|from_local|broadcast|sync|psum", re.IGNORECASE)
_OWN = frozenset("local rank ranks shard shards sharded partial mine per own device".split())


def check(source: Source) -> Iterator[Hit]:
    for measure in measures(source).values():
        if not measure.local or not _is_root(source, measure) or _is_merged(source, measure.node):
            continue
        use = _use(source, measure.node)
        if use is not None:
            related = () if use is measure.node else ((measure.node, "the norm is computed here"),)
            yield Hit(use, MESSAGE, None, BY_HAND, related)


def _is_root(source: Source, measure: Measure) -> bool:
    """Whether the number is a norm: a sum of squares may well be added up over ranks elsewhere."""
    if measure.result is not None:
        found = total(source, measure.result)
        return found is None or (found.degree is not None and found.degree.is_one)
    one = next(one for one in accumulations(source) if one.loop is measure.node)
    if one.how == "append":
        return any(t.series.loop is one and t.degree is not None and t.degree.is_one for t in totals(source))
    uses = uses_of(source, one.target) if isinstance(one.target, cst.Name) else []
    return one.how == "max" or any(root_of(source, use, one.term) for use in uses)


def _is_merged(source: Source, node: cst.CSTNode) -> bool:
    """Whether the function, or one that calls it, merges anything over ranks."""
    home = source.function(node)
    places: list[cst.CSTNode] = [home or source.module]
    if home is not None:
        calls = (call for call in source.nodes(cst.Call) if last_name(call.func) == home.name.value)
        places += [source.function(call) or source.module for call in calls]
    return any(
        _MERGES.search(last_name(call.func))
        for place in places
        for call in source.walk(place)
        if isinstance(call, cst.Call)
    )


def _use(source: Source, node: cst.CSTNode) -> cst.CSTNode | None:
    """Where the norm is first used as that of all ranks; None if a name says that it is this rank's."""
    found = values(source, node)
    if any(_OWN & (said_here(source, value) | _of_function(source, value)) for value in (node, *found)):
        return None
    return next((value for value in found if _serves(source, value)), None)


_SERVING = (
    *(cst.BinaryOperation, cst.Comparison, cst.Call, cst.Return, cst.DictElement),
    cst.FormattedStringExpression,
)


def _serves(source: Source, value: cst.CSTNode) -> bool:
    """Whether something is done with a norm: it is computed with, compared, given away or returned."""
    return source.enclosing(value, *_SERVING) is not None


def _of_function(source: Source, value: cst.CSTNode) -> set[str]:
    """The words of the name of the function that computes a norm; what clips is not named after one."""
    function = source.function(value)
    named = set(words(function.name.value)) if function is not None else set()
    return set() if "clip" in named else named
