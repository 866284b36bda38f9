"""
## What it does
Finds a clip in one of two branches that both step the same optimizer, most often the one with a `GradScaler`; the other
branch steps without clipping.

## Why is this bad?
Whether gradients are clipped depends on an unrelated setting: without mixed precision, on a CPU or on another GPU, the
same training runs without clipping, and its results cannot be compared.

## Why is this rule opt-in?
Some projects clip in half precision only, on purpose.

## How to fix by hand
Clip in both branches, or once, before they split:

```python
if scaler is not None:
    scaler.unscale_(optimizer)
clip_grad_norm_(model.parameters(), max_norm)
if scaler is not None:
    scaler.step(optimizer)
    scaler.update()
else:
    optimizer.step()
```

## Fix safety
No automatic fix: the code does not say whether the other branch should be clipped, and by which `max_norm`.

## When to suppress it
Where gradients are clipped in half precision only, on purpose.

## References
- labmlai/annotated_deep_learning_paper_implementations
- https://pytorch.org/docs/stable/notes/amp_examples.html#gradient-clipping
"""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from clipcheck.python.source import Source
from clipcheck.rule import Hit
from clipcheck.training.acts import EventKind
from clipcheck.training.flows import Event, Flow, flows
from clipcheck.training.guards import asked_for, conditions, exclusive

BY_HAND = "clip in both branches, or once, before they split"
_BEFORE = (EventKind.CLIP, EventKind.BACKWARD, EventKind.STEP, EventKind.EDIT, EventKind.UNKNOWN)


def check(source: Source) -> Iterator[Hit]:
    for flow in flows(source, EventKind.CLIP):
        for clip in flow.of(EventKind.CLIP):
            other = None if clip.is_called else _unlimited(source, flow, clip)
            if other is not None:
                name = source.quoted(other.at, "the step")
                message = f"only this branch clips: {name} on {source.where(other.at)} is not clipped"
                yield Hit(clip.node, message, None, BY_HAND, ((other.at, "not clipped here"),))


def _unlimited(source: Source, flow: Flow, clip: Event) -> Event | None:
    """The step of the same optimizer in the other branch, before which nothing clips."""
    later = clip.first_after(EventKind.STEP, EventKind.BACKWARD, EventKind.UNKNOWN)
    if len(later) != 1 or later[0].kind is not EventKind.STEP or later[0].is_called:
        return None
    mine = later[0]
    for other in flow.of(EventKind.STEP):
        if other.is_called or mine.subject is None or other.subject is None:
            continue
        same = source.spelled(mine.subject) == source.spelled(other.subject)
        if same and _are_alternatives(source, clip, mine, other) and not _may_be_limited(other):
            return other
    return None


def _are_alternatives(source: Source, clip: Event, mine: Event, other: Event) -> bool:
    """Whether two steps are two ways to do the same: one with a scaler, or each after its own backward.

    They split at a test that is not about `max_norm`.
    """
    apart = exclusive(source, other.node, mine.node) or exclusive(source, mine.node, other.node)
    if not apart or not (exclusive(source, other.node, clip.node) or exclusive(source, clip.node, other.node)):
        return False
    if (mine.scaler is None) == (other.scaler is None) and _backwards(mine) & _backwards(other):
        return False
    return not any(_is_about_limit(source, clip, test.test) for test, _ in conditions(source, other.node))


def _backwards(step: Event) -> set[Event]:
    return set(step.first_before(EventKind.BACKWARD))


def _is_about_limit(source: Source, clip: Event, test: cst.BaseExpression) -> bool:
    """Whether a test asks for what the clip is given beside the parameters, or for clipping by name."""
    args = clip.node.args[1:] if isinstance(clip.node, cst.Call) else ()
    given = {name for arg in args for name in asked_for(source, arg.value)}
    names = {node.value for node in source.walk(test) if isinstance(node, cst.Name)}
    return bool(asked_for(source, test) & given - {"None"}) or any("clip" in name.lower() for name in names)


def _may_be_limited(step: Event) -> bool:
    """Whether anything before a step may have clipped what it uses."""
    kinds = {event.kind for event in step.first_before(*_BEFORE)}
    return not kinds <= {EventKind.BACKWARD, EventKind.START}
