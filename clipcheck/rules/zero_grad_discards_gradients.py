"""
## What it does
Finds `zero_grad()`, of the optimizer or of its module, between `backward()` and the step that should use the gradients;
and `zero_grad()` in every micro-batch where the step runs only once for several of them.

## Why is this bad?
The gradients that `backward()` has just computed are discarded: the optimizer steps without any (only weight decay and
momentum change the parameters), so nothing is learned. If they are cleared in every micro-batch, only those of the last
one are used, and where the loss is divided by the number of micro-batches, the step is too small by that factor.

Gradients that are cleared on a condition, such as a norm that is not finite, are cleared on purpose and not reported.

## How to fix by hand
Clear the gradients before `backward()`, or after the step. Under gradient accumulation, clear them right after the
step, under the same condition:

```python
if (i + 1) % accumulation_steps == 0:
    optimizer.step()
    optimizer.zero_grad()
```

## Fix safety
Unsafe: moves `zero_grad()` above `backward()`, so that the model is trained at all. No automatic fix under gradient
accumulation.

## When to suppress it
Where the cleared gradients are meant to be lost, for instance those of a warm-up pass.

## References
- lucidrains/byol-pytorch#93, cloneofsimo/lora#263
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import libcst as cst

from clipcheck.fixes.move import carrier, moved, names_settled
from clipcheck.python.source import Source
from clipcheck.rule import Fix, Hit, Safety
from clipcheck.training.acts import EventKind
from clipcheck.training.counting import is_data_dependent, tests_around
from clipcheck.training.flows import Event, Flow, flows
from clipcheck.training.guards import is_conditional
from clipcheck.training.microbatches import comes_once_in_several
from clipcheck.training.parameters import is_all_of

BY_HAND = "clear the gradients before `backward()`, or after the step"
BY_HAND_ACCUMULATED = "clear the gradients right after the step, under the same condition"


_CLIPS = re.compile("clip_grad|scaler")  # other code is not the concern of a linter for gradient clipping


def check(source: Source) -> Iterator[Hit]:
    if not _CLIPS.search(source.text):
        return
    for flow in flows(source, EventKind.ZERO_GRAD):
        for zero in flow.of(EventKind.ZERO_GRAD):
            if zero.subject is None or len(_stepped(source, flow)) != 1:
                continue
            pair = _discarded(source, zero)
            if pair is not None:
                yield _hit(source, zero, *pair)
                continue
            step = _step_of_several(source, zero)
            if step is not None:
                message = (
                    f"discards the earlier micro-batches: the step on {source.where(step.at)} uses only the last one"
                )
                yield Hit(zero.at, message, None, BY_HAND_ACCUMULATED, ((step.at, "the sum is used here"),))


def _stepped(source: Source, flow: Flow) -> set[str]:
    return {source.spelled(event.subject) for event in flow.of(EventKind.STEP) if event.subject is not None}


def _hit(source: Source, zero: Event, backward: Event, step: Event) -> Hit:
    message = f"discards the gradients of {source.where(backward.at)} before the step on {source.where(step.at)}"
    fix = None if zero.is_called or backward.is_called else _fix(source, zero, backward)
    related = ((backward.at, "the gradients are computed here"), (step.at, "and would be used here"))
    return Hit(zero.at, message, fix, "" if fix else BY_HAND, related)


def _discarded(source: Source, zero: Event) -> tuple[Event, Event] | None:
    """The backward whose gradients `zero` clears on every path, and the step of the same optimizer that needs them."""
    kinds = (EventKind.BACKWARD, EventKind.STEP, EventKind.UNKNOWN, EventKind.EDIT)
    earlier, later = zero.first_before(*kinds), zero.first_after(*kinds)
    if any(event.kind is not EventKind.BACKWARD for event in earlier) or any(
        e.kind is not EventKind.STEP for e in later
    ):
        return None
    if not earlier or not later or zero.at in (earlier[0].at, later[0].at):
        return None
    backward, step = earlier[0], later[0]
    if not _is_cleared(source, zero, step) or _is_on_purpose(source, zero, backward, step):
        return None
    return backward, step


def _is_cleared(source: Source, zero: Event, step: Event) -> bool:
    """Whether `zero` clears all that a step uses: its optimizer's gradients, or those of the module that it was created with."""
    match zero.subject, step.subject:
        case cst.BaseExpression() as cleared, cst.BaseExpression() as stepped:
            return source.spelled(stepped) == source.spelled(cleared) or is_all_of(source, cleared, stepped)
    return False


def _is_on_purpose(source: Source, zero: Event, backward: Event, step: Event) -> bool:
    """Whether a value that training has computed decides to clear the gradients, such as a norm that is not finite."""
    if any(is_conditional(source, place) for place in zero.places):
        return True
    with_backward = {(test.branch, test.outcome) for test in tests_around(source, backward)}
    with_step = {(test.branch, test.outcome) for test in tests_around(source, step)}
    own = [test for test in tests_around(source, zero) if (test.branch, test.outcome) not in with_backward]
    return any((t.branch, t.outcome) not in with_step or is_data_dependent(source, t) for t in own)


def _step_of_several(source: Source, zero: Event) -> Event | None:
    """The step that uses the sum of several micro-batches, of which `zero` leaves the last one only."""
    if any(tests_around(source, zero)) or any(is_conditional(source, place) for place in zero.places):
        return None
    backwards = zero.first_after(EventKind.BACKWARD, EventKind.STEP, EventKind.UNKNOWN, EventKind.EDIT)
    if any(event.kind not in (EventKind.BACKWARD, EventKind.END) for event in backwards):
        return None
    kinds = (EventKind.BACKWARD, EventKind.STEP, EventKind.UNKNOWN, EventKind.ZERO_GRAD)
    later = [event for one in backwards if one.kind is EventKind.BACKWARD for event in one.first_after(*kinds)]
    steps = [event for event in later if event.kind is EventKind.STEP]
    rest = [event for event in later if event.kind not in (EventKind.STEP, EventKind.END)]
    if not steps or not rest or any(event is not zero for event in rest):
        return None
    if zero.at is steps[0].at:
        return None  # in one called function, which has a separate flow
    counted = all(comes_once_in_several(source, step, zero) and _is_cleared(source, zero, step) for step in steps)
    return steps[0] if counted else None


def _fix(source: Source, zero: Event, backward: Event) -> Fix | None:
    if set(tests_around(source, zero)) != set(tests_around(source, backward)):
        return None  # before each `backward()`, it would discard what the others have added
    pair = carrier(source, zero.node, backward.node)
    if pair is None or not names_settled(source, pair[0], source.span(pair[1])[0], source.span(pair[0])[0]):
        return None
    edits = moved(source, [pair[0]], pair[1])
    return None if edits is None else Fix("Clear the gradients before `backward()`", Safety.UNSAFE, edits)
