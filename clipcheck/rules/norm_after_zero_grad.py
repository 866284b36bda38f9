"""
## What it does
Finds a gradient norm that is measured after `zero_grad()`, before the next backward, also by a clip with an infinite
`max_norm`.

## Why is this bad?
`zero_grad()` has cleared the gradients: the norm is 0 in every step. Since torch 2.0 the gradients are None by
default, so code that skips missing gradients logs a zero, and code that does not raises an AttributeError.

## How to fix by hand
Measure between `loss.backward()` and `optimizer.zero_grad()`, before the clip, or use the norm that `clip_grad_norm_`
returns, which is the norm before clipping.

## Fix safety
Unsafe: moves `zero_grad()` below the norm, where both are statements of the same block. The measured norm changes; the
steps stay the same.

## When to suppress it
Where the code checks that the gradients are cleared. Assertions, comparisons with zero and tests are not reported.

## References
- https://pytorch.org/docs/stable/generated/torch.optim.Optimizer.zero_grad.html
"""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from clipcheck.fixes.move import moved_after
from clipcheck.python.literals import is_zero
from clipcheck.python.source import Source
from clipcheck.rule import Fix, Hit, Safety
from clipcheck.training.acts import EventKind
from clipcheck.training.clips import only_measures
from clipcheck.training.flows import Event, Flow, flows
from clipcheck.training.measures import is_dropped, measures, shown, values
from clipcheck.training.measuring import measuring
from clipcheck.training.parameters import belong

MESSAGE = "norm of gradients that `zero_grad()` has cleared: it is always 0"
TITLE = "Clear the gradients after the norm is computed"
BY_HAND = "measure between `backward()` and `zero_grad()`, or use what `clip_grad_norm_` returns"
_ENDS = (
    *(EventKind.BACKWARD, EventKind.ZERO_GRAD, EventKind.EDIT, EventKind.UNKNOWN),
    *(EventKind.STEP, EventKind.CLIP, EventKind.UNSCALE),
)


def check(source: Source) -> Iterator[Hit]:
    seen: set[cst.CSTNode] = set()
    for flow in measuring(source):
        for event in flow.of(EventKind.MEASURE):
            node = shown(source, event.at, event.node)
            cleared = _cleared(source, flow, event)
            if cleared is not None and node not in seen and not _is_expected(source, node):
                seen.add(node)
                yield _hit(source, node, cleared)
    for flow in flows(source, EventKind.CLIP):
        for clip in flow.of(EventKind.CLIP):
            cleared = _cleared_before_clip(source, flow, clip) if only_measures(source, clip.node) else None
            if cleared is not None and clip.at not in seen and not _is_expected(source, clip.at):
                seen.add(clip.at)
                yield _hit(source, clip.at, cleared)


def _hit(source: Source, node: cst.CSTNode, cleared: Event) -> Hit:
    fix = _fix(source, node, cleared)
    return Hit(node, MESSAGE, fix, "" if fix else BY_HAND, ((cleared.at, "the gradients are cleared here"),))


def _cleared(source: Source, flow: Flow, event: Event) -> Event | None:
    """The `zero_grad()` of the same gradients that comes first on all paths back from the norm."""
    if measures(source)[event.node].gradients != "read":
        return None  # a list keeps the tensors that it was made of
    loops = measures(source)[event.node].loops
    return _zero_before(source, flow, event, loops[0].iterable if loops and not event.is_called else None)


def _cleared_before_clip(source: Source, flow: Flow, clip: Event) -> Event | None:
    """As `_cleared`, of a clip without a limit, which is there for the norm that it returns."""
    if is_dropped(source, clip.node):
        return None
    return _zero_before(source, flow, clip, None if clip.is_called else clip.subject)


def _zero_before(source: Source, flow: Flow, event: Event, parameters: cst.BaseExpression | None) -> Event | None:
    earlier = event.first_before(*_ENDS)
    if not earlier or any(one.kind is not EventKind.ZERO_GRAD or one.subject is None for one in earlier):
        return None
    cleared = earlier[0]
    if cleared.at is event.at or not all(_is_same(source, flow, parameters, one) for one in earlier):
        return None
    return cleared


def _is_same(source: Source, flow: Flow, parameters: cst.BaseExpression | None, cleared: Event) -> bool:
    """Whether the gradients that are cleared are those measured; where only one kind is ever cleared here, they are."""
    assert cleared.subject is not None
    known = None if parameters is None else belong(source, parameters, cleared.subject)
    if known is not None:
        return known
    return len({source.spelled(one.subject) for one in flow.of(EventKind.ZERO_GRAD) if one.subject is not None}) == 1


def _is_expected(source: Source, node: cst.CSTNode) -> bool:
    """Whether the code itself says that there is nothing left: in a test, an assertion, or a comparison with zero."""
    function = source.function(node)
    if function is not None and function.name.value.startswith("test"):
        return True
    found = values(source, node)
    return bool(found) and all(_is_checked(source, value) for value in found)


def _is_checked(source: Source, value: cst.CSTNode) -> bool:
    for above in source.ancestors(value):
        match above:
            case cst.Assert():
                return True
            case cst.Comparison(left=left, comparisons=[cst.ComparisonTarget(comparator=right)]) if is_zero(
                source, left
            ) or is_zero(source, right):
                return True
    return False


def _fix(source: Source, node: cst.CSTNode, cleared: Event) -> Fix | None:
    """`zero_grad()` after the norm, where both are statements of one block."""
    measuring = source.statement(node)
    clearing = source.statement(cleared.at)
    block, here = source.siblings(measuring)
    if cleared.is_called or not any(other is clearing for other in block[:here]):
        return None
    edits = moved_after(source, [clearing], measuring)
    return Fix(TITLE, Safety.UNSAFE, edits) if edits is not None else None
