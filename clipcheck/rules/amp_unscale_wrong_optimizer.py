"""
## What it does
Finds clips of parameters whose own optimizer has not been unscaled, while another one has: `scaler.unscale_(opt_d)`,
then a clip of the generator's parameters.

## Why is this bad?
`unscale_` divides the gradients of the parameters that the named optimizer holds, and no others. The clip sees gradients
that are still multiplied by the loss scale.

## Fix safety
No fix: name the optimizer that holds the clipped parameters.

## References
- https://pytorch.org/docs/stable/notes/amp_examples.html#working-with-multiple-models-losses-and-optimizers
- huggingface/accelerate#113
"""

from __future__ import annotations

from collections.abc import Iterator

from clipcheck.python.source import Source
from clipcheck.rule import Hit
from clipcheck.training.acts import EventKind
from clipcheck.training.flows import Event, flows
from clipcheck.training.parameters import belong

BY_HAND = "unscale the optimizer that holds these parameters"


def check(source: Source) -> Iterator[Hit]:
    for flow in flows(source, EventKind.CLIP):
        for clip in flow.of(EventKind.CLIP):
            found = [] if clip.wrapper else _unscales(clip)
            if found and all(_is_of_others(source, clip, unscale) for unscale in found):
                where = source.where(found[0].at)
                message = f"clips gradients that are still scaled: {where} unscales another optimizer's"
                yield Hit(clip.at, message, None, BY_HAND, ((found[0].at, "another optimizer is unscaled here"),))


def _unscales(clip: Event) -> list[Event]:
    """Every unscale between the scaled backward and the clip; none where something unknown may have unscaled."""
    found: list[Event] = []
    pending = [clip]
    while pending:
        for event in pending.pop().first_before(
            EventKind.UNSCALE, EventKind.BACKWARD, EventKind.UNKNOWN, EventKind.STEP, EventKind.EDIT
        ):
            if event.kind in (EventKind.UNKNOWN, EventKind.EDIT):
                return []
            if event.kind is EventKind.UNSCALE and event not in found:
                found.append(event)
                pending.append(event)
    return found


def _is_of_others(source: Source, clip: Event, unscale: Event) -> bool:
    return unscale.subject is not None and belong(source, clip.subject, unscale.subject) is False
