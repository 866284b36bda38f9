"""
## What it does
Finds clips that run before the `backward()` whose gradients they are meant to clip.

## Why is this bad?
Before `backward()` there are no gradients (after `zero_grad()` they are None, and the clip does nothing) or only those
of the previous step. The gradients that the optimizer then uses are never clipped.

## How to fix by hand
Move the clip below `loss.backward()`, right before `optimizer.step()`.

## Fix safety
Unsafe: moves the clip below `backward()`, so that the new gradients are clipped and training changes.

## When to suppress it
Where gradients that were left from an earlier `backward()`, which the file does not show, are clipped on purpose before
new ones are added.

## References
- Cranial-XIX/FAMO#4, yandex-research/tabm#20
"""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from clipcheck.fixes.move import carrier, moved_after, names_settled
from clipcheck.python.source import Source
from clipcheck.rule import Fix, Hit, Safety
from clipcheck.training.acts import EventKind
from clipcheck.training.flows import Event, flows
from clipcheck.training.guards import loops

TITLE = "Clip after `backward()`"
BY_HAND = "clip between `backward()` and the step"


def check(source: Source) -> Iterator[Hit]:
    for flow in flows(source, EventKind.CLIP):
        for clip in flow.of(EventKind.CLIP):
            backward = _too_late(source, clip)
            if backward is not None:
                yield _hit(source, clip, backward)


def _too_late(source: Source, clip: Event) -> Event | None:
    """The first backward after `clip`, where nothing before the clip leaves gradients to clip."""
    later = clip.first_after(EventKind.BACKWARD, EventKind.STEP, EventKind.UNKNOWN, EventKind.EDIT)
    if not later or any(event.kind is not EventKind.BACKWARD for event in later):
        return None
    earlier = clip.first_before(
        EventKind.BACKWARD, EventKind.STEP, EventKind.ZERO_GRAD, EventKind.UNKNOWN, EventKind.EDIT
    )
    if any(event.kind in (EventKind.BACKWARD, EventKind.UNKNOWN, EventKind.EDIT) for event in earlier):
        return None
    backward = later[0]
    if backward.at is clip.at or loops(source, backward.at) != loops(source, clip.at):
        return None  # in another loop: not of the same step
    if backward.is_called and _is_step(backward.at):
        return None  # inside a closure: CLIP109
    # a clip after a step is too late, not too early, unless the step belongs to the previous iteration
    if any(e.kind is EventKind.STEP and source.rank(e.at) < source.rank(clip.at) for e in earlier):
        return None
    return backward


def _is_step(node: cst.CSTNode) -> bool:
    match node:
        case cst.Call(func=cst.Attribute(attr=cst.Name("step"))):
            return True
    return False


def _hit(source: Source, clip: Event, backward: Event) -> Hit:
    message = f"clips before {source.where(backward.at)} runs `backward()`: the new gradients are never clipped"
    fix = None if clip.is_called or backward.is_called else _fix(source, clip, backward)
    return Hit(clip.at, message, fix, "" if fix else BY_HAND, ((backward.at, "the gradients are computed here"),))


def _fix(source: Source, clip: Event, backward: Event) -> Fix | None:
    pair = carrier(source, clip.node, backward.node)
    if pair is None or clip.wrapper or backward.scaler is not None or not _follows_at_once(source, backward):
        return None
    statement, target = pair
    if not names_settled(source, statement, source.span(statement)[1], source.span(target)[1]):
        return None
    edits = moved_after(source, [statement], target)
    return None if edits is None else Fix(TITLE, Safety.UNSAFE, edits)


def _follows_at_once(source: Source, backward: Event) -> bool:
    """Whether it is this backward's gradients that the next step uses: not those of a second one after it."""
    later = backward.first_after(EventKind.BACKWARD, EventKind.STEP, EventKind.UNKNOWN)
    return all(event.kind in (EventKind.STEP, EventKind.END) for event in later)
