"""
## What it does
Finds norms of single gradients that are summed without being squared, under a name that says it is a norm.

## Why is this bad?
The norm of the whole gradient is the square root of the sum of the squared norms. A plain sum of norms is larger, by up
to the square root of the number of tensors, and depends on how the model is split into parameters, so a `max_norm` that
was chosen for one does not fit the other.

## Why is this rule opt-in?
Some code means the sum, for example as a rough value for a log, and only its author can tell.

## How to fix by hand
Take the norm of all gradients in one call, or square each norm and take the root at the end:

```python
total_norm = grad_norm(model.parameters())
```

## Fix safety
Unsafe: the number changes, which is the point. If you do mean a sum of norms, say so in the name.

## When to suppress it
If the sum is what you want and its name has to stay. A name with `sum` or `mean` in it is not reported.

## References
- mr-eggplant/SAR#11
"""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from clipcheck.fixes.loop_to_call import rewrite_linear
from clipcheck.gradients.accumulations import Accumulation, accumulations
from clipcheck.gradients.spelling import Refused
from clipcheck.gradients.totals import totals
from clipcheck.python.reaching import contains
from clipcheck.python.source import Source
from clipcheck.python.words import words
from clipcheck.rule import Hit

MESSAGE = "a sum of norms is larger than the gradient norm: sum their squares, then take the root"
TITLE = "Compute the norm of all gradients"
BY_HAND = "call `grad_norm(parameters)`, or square each norm and take the square root of the sum"


def check(source: Source) -> Iterator[Hit]:
    for one in accumulations(source):
        if one.how == "add" and one.term.exponent.is_one and _is_named_norm(source, one.target):
            if _is_mean(source, one) or _is_asserted(source, one):
                continue
            outcome = rewrite_linear(source, one, TITLE)
            fix = None if isinstance(outcome, Refused) else outcome
            yield Hit(one.statement, MESSAGE, fix, "" if fix else BY_HAND)
    for found in totals(source):
        if found.form == "sum" and found.term.exponent.is_one and found.outer.is_one:
            match source.parent(found.node):
                case cst.Assign(targets=[cst.AssignTarget(target=target)]) if _is_named_norm(source, target):
                    yield Hit(found.node, MESSAGE, help=BY_HAND)


def _is_named_norm(source: Source, target: cst.BaseExpression) -> bool:
    name = source.code(target).rpartition(".")[2]
    parts = words(name)
    return any("norm" in part for part in parts) and not {"mean", "avg", "average", "sum", "sums"} & set(parts)


def _is_mean(source: Source, one: Accumulation) -> bool:
    """Whether the sum is divided by a count afterwards."""
    wanted = source.code(one.target)
    divisions = [node.left for node in source.nodes(cst.BinaryOperation) if isinstance(node.operator, cst.Divide)]
    divisions += [node.target for node in source.nodes(cst.AugAssign) if isinstance(node.operator, cst.DivideAssign)]
    function = source.function(one.statement)
    return any(source.code(left) == wanted and source.function(left) is function for left in divisions)


def _is_asserted(source: Source, one: Accumulation) -> bool:
    """Whether the sum is only used to check that there is a gradient at all."""
    if not isinstance(one.target, cst.Name):
        return False
    uses = source.names.uses(source.scope(one.target).owner(one.target.value), one.target.value)
    later = [use for use in uses if not contains(source, one.loop, use)]
    return bool(later) and all(source.enclosing(use, cst.Assert) is not None for use in later)
