"""
## What it does
Finds a `continue` between `scaler.unscale_(optimizer)` and `scaler.update()`.

## Why is this bad?
The scaler remembers that the optimizer was unscaled until `update()` is called. The next iteration's `unscale_` raises
`RuntimeError: unscale_() has already been called on this optimizer since the last update()`.

## Fix safety
No fix: call `scaler.update()` on the way out as well, or let the scaler skip the step.

## References
- Haian-Jin/LVSM#19, pytorch/pytorch#185915
"""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from clipcheck.python.source import Source
from clipcheck.rule import Hit
from clipcheck.training.acts import EventKind
from clipcheck.training.flows import Event, flows
from clipcheck.training.guards import loops
from clipcheck.training.microbatches import guarded_step

BY_HAND = "call `scaler.update()` before the `continue`"


def check(source: Source) -> Iterator[Hit]:
    for flow in flows(source, EventKind.UNSCALE):
        for unscale in flow.of(EventKind.UNSCALE):
            later = unscale.first_after(EventKind.UPDATE, EventKind.UNSCALE, EventKind.UNKNOWN)
            again = unscale in later and EventKind.UPDATE in {event.kind for event in later}
            if again and not unscale.is_called and guarded_step(source, unscale) is None:
                leave = _continue(source, unscale)
                if leave is not None:
                    where = source.where(unscale.at)
                    message = f"skips `scaler.update()`: the next `unscale_` on {where} raises a RuntimeError"
                    yield Hit(leave, message, None, BY_HAND, ((unscale.at, "unscaled here"),))


def _continue(source: Source, unscale: Event) -> cst.Continue | None:
    """The `continue` behind the unscale, in the same loop."""
    around = loops(source, unscale.node)
    for node in source.walk(around[0].body) if around else ():
        behind = source.rank(node) > source.rank(unscale.node)
        if isinstance(node, cst.Continue) and behind and loops(source, node) == around:
            return node
    return None
