"""
## What it does
Finds clips of parameters whose own optimizer has not been unscaled, while another one has: `scaler.unscale_(opt_d)`,
then a clip of the generator's parameters.

## Why is this bad?
`unscale_` divides the gradients of the parameters of the optimizer that it is given, and no others. The clip gets
gradients that are still multiplied by the loss scale, and clips them to almost nothing.

## How to fix by hand
Unscale the optimizer whose parameters are clipped:

```python
scaler.unscale_(opt_g)
torch.nn.utils.clip_grad_norm_(generator.parameters(), max_norm)
scaler.step(opt_g)
```

## Fix safety
No automatic fix: which optimizer has the clipped parameters is often decided elsewhere.

## When to suppress it
Where the optimizer that is unscaled does have these parameters, although names suggest otherwise.

## References
- https://pytorch.org/docs/stable/notes/amp_examples.html#working-with-multiple-models-losses-and-optimizers
- huggingface/accelerate#113
"""

from __future__ import annotations

from collections.abc import Iterator

from clipcheck.python.source import Source
from clipcheck.rule import Hit
from clipcheck.training.acts import EventKind
from clipcheck.training.flows import Event, Flow, flows
from clipcheck.training.parameters import named_alike, surely_belong

BY_HAND = "unscale the optimizer of these parameters"


def check(source: Source) -> Iterator[Hit]:
    for flow in flows(source, EventKind.CLIP):
        for clip in flow.of(EventKind.CLIP):
            found = [] if clip.wrapper else _unscales(clip)
            if found and all(_is_of_others(source, flow, clip, unscale) for unscale in found):
                where = source.where(found[0].at)
                message = f"clips scaled gradients: {where} unscales those of another optimizer"
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


def _is_of_others(source: Source, flow: Flow, clip: Event, unscale: Event) -> bool:
    """Whether an unscaled optimizer does not hold the clipped parameters.

    The parameters that the optimizers were created with decide; else their names, where they match another optimizer's.
    """
    if unscale.subject is None or clip.subject is None:
        return False
    known = surely_belong(source, clip.subject, unscale.subject)
    if known is not None:
        return not known
    if named_alike(source, clip.subject, unscale.subject) is not False:
        return False
    own = source.spelled(unscale.subject)
    steps = (step.subject for step in flow.of(EventKind.STEP) if step.subject is not None)
    others = [optimizer for optimizer in steps if source.spelled(optimizer) != own]
    return any(
        named_alike(source, clip.subject, optimizer) and surely_belong(source, clip.subject, optimizer) is not False
        for optimizer in others
    )
