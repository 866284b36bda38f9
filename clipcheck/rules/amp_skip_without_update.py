"""
## What it does
Finds a `continue` between `scaler.unscale_(optimizer)` and `scaler.update()`.

## Why is this bad?
Until `update()` is called, the scaler remembers that the optimizer was unscaled. The next iteration's `unscale_` raises
`RuntimeError: unscale_() has already been called on this optimizer since the last update()`.

## How to fix by hand
Call `scaler.update()` before the `continue` as well. Where the test is for infinite or NaN gradients, drop it:
`scaler.step(optimizer)` skips such steps by itself.

## Fix safety
No automatic fix: the code may have to clear the gradients or count the skipped step as well.

## When to suppress it
Where `update()` is called in a way that the file does not show.

## References
- Haian-Jin/LVSM#19, pytorch/pytorch#185915
"""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from clipcheck.python.source import Source
from clipcheck.rule import Hit
from clipcheck.training.acts import EventKind
from clipcheck.training.flows import Event, Flow, flows
from clipcheck.training.guards import branches, exclusive, loops
from clipcheck.training.known_tests import KnownOutcomes, facts, known_in
from clipcheck.training.microbatches import guarded_step

BY_HAND = "call `scaler.update()` before the `continue`"


def check(source: Source) -> Iterator[Hit]:
    for flow in flows(source, EventKind.UNSCALE):
        for unscale in flow.of(EventKind.UNSCALE):
            later = unscale.first_after(EventKind.UPDATE, EventKind.UNSCALE, EventKind.UNKNOWN)
            again = unscale in later and EventKind.UPDATE in {event.kind for event in later}
            if again and not unscale.is_called and guarded_step(source, unscale) is None:
                leave = _continue(source, flow, unscale)
                if leave is not None:
                    where = source.where(unscale.at)
                    message = f"skips `scaler.update()`: the next `unscale_` on {where} raises a RuntimeError"
                    yield Hit(leave, message, None, BY_HAND, ((unscale.at, "unscaled here"),))


def _continue(source: Source, flow: Flow, unscale: Event) -> cst.Continue | None:
    """The first `continue` after the unscale, in the same loop, that is reached without an update."""
    around = loops(source, unscale.node)
    updates = flow.of(EventKind.UPDATE)
    for node in source.walk(around[0].body) if around else ():
        if isinstance(node, cst.Continue) and source.rank(node) > source.rank(unscale.node):
            updated = any(_comes_before(source, update.at, node, unscale) for update in updates)
            if not updated and loops(source, node) == around and not _is_other_way(source, unscale, node):
                return node
    return None


def _comes_before(source: Source, update: cst.CSTNode, leave: cst.CSTNode, unscale: Event) -> bool:
    """Whether every path from the unscale to a `continue` leads through an update."""
    if not source.rank(unscale.node) < source.rank(update) < source.rank(leave):
        return False
    around = {(id(branch), outcome) for branch, outcome in branches(source, leave)}
    return all(
        (id(branch), outcome) in around or _is_certain(unscale, known_in(source, branch, outcome))
        for branch, outcome in branches(source, update)
    )


def _is_certain(unscale: Event, tests: KnownOutcomes) -> bool:
    """Whether whoever has unscaled takes a branch: all that is known in it was known at the unscale, as with `if amp:`."""
    return bool(tests) and unscale.facts.issuperset(tests)


def _is_other_way(source: Source, unscale: Event, leave: cst.CSTNode) -> bool:
    """Whether the tests around a `continue` contradict those around the unscale: `if not amp: continue`."""
    known = facts(source, leave, {}, called=False)
    return exclusive(source, unscale.node, leave) or any(
        (test, not outcome) in known for test, outcome in unscale.facts
    )
