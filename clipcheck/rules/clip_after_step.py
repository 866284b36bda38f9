"""
## What it does
Finds clips that run after `optimizer.step()` has used the gradients, with no other step of that optimizer before the
gradients are cleared, and with no `backward()` in between, unless it is followed by another optimizer's step.

## Why is this bad?
The optimizer has already used the unclipped gradients, and the clipped ones are discarded by the next `zero_grad()`.
Training runs without any clipping, and no error says so.

## How to fix by hand
Move the clip between `backward()` and the step:

```python
loss.backward()
torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm)
optimizer.step()
optimizer.zero_grad()
```

## Fix safety
Unsafe: moves the clip above the step, so that the steps are clipped and training changes. With a `GradScaler` the fix
unscales the gradients first; an `unscale_` that was after the step, next to the clip, moves with it.

## When to suppress it
Where another optimizer, which the file does not show, steps with these gradients later.

## References
- awslabs/graphstorm#1366, jongwook/onsets-and-frames#24, VGraphRNN/VGRNN#4, APPFL/APPFL#198
- https://pytorch.org/docs/stable/generated/torch.nn.utils.clip_grad_norm_.html
"""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from clipcheck.fixes.move import carrier, moved, names_settled
from clipcheck.fixes.verbs import indentation
from clipcheck.python.reaching import contains
from clipcheck.python.source import Source, Statement
from clipcheck.rule import Edit, Fix, Hit, Safety
from clipcheck.training.acts import EventKind
from clipcheck.training.clips import only_measures
from clipcheck.training.flows import Event, Flow, flows
from clipcheck.training.microbatches import loops_around
from clipcheck.training.parameters import belong, owners

TITLE = "Clip before the step"
BY_HAND = "clip between `backward()` and the step"


def check(source: Source) -> Iterator[Hit]:
    for flow in flows(source, EventKind.CLIP):
        for clip in flow.of(EventKind.CLIP):
            step = _used_by(source, flow, clip) or _cleared_unused(source, flow, clip)
            if step is not None:
                yield _hit(source, flow, clip, step)


def _used_by(source: Source, flow: Flow, clip: Event) -> Event | None:
    """The step that used the gradients before `clip`, on every path."""
    earlier = clip.first_before(EventKind.BACKWARD, EventKind.STEP, EventKind.EDIT, EventKind.UNKNOWN)
    steps = [event for event in earlier if event.kind is EventKind.STEP]
    rest = [event for event in earlier if event not in steps and event.kind is not EventKind.START]
    if not steps or (rest and not _is_each(source, steps, rest, clip)):
        return None
    if len(steps) < len(earlier) and not all(_in_inner_loop(source, step, clip) for step in steps):
        return None  # on some path nothing has stepped yet
    later = clip.first_after(EventKind.BACKWARD, EventKind.STEP, EventKind.ZERO_GRAD, EventKind.UNKNOWN)
    if any(event.kind in (EventKind.STEP, EventKind.UNKNOWN) for event in later) or not flow.of(EventKind.BACKWARD):
        return None
    step = steps[0]
    if step.at is clip.at or only_measures(source, clip.node):
        return None
    optimizers = {source.spelled(event.subject) for event in flow.of(EventKind.STEP) if event.subject is not None}
    same = step.subject is not None and belong(source, clip.subject, step.subject)
    return step if same or (same is None and len(optimizers) == 1) else None


def _cleared_unused(source: Source, flow: Flow, clip: Event) -> Event | None:
    """The last step of a clip's own optimizer, where the next one comes after a `zero_grad` of what is clipped.

    Between the two, others may run backward and step: as one net of a GAN does through the other.
    """
    if clip.subject is None or only_measures(source, clip.node):
        return None
    known = {step: _steps(source, clip, step) for step in flow.of(EventKind.STEP)}
    own = {step for step, is_own in known.items() if is_own}
    if len(own) == len(known) or None in known.values():
        return None
    if any(event.kind is EventKind.STEP for event in clip.first_after(EventKind.STEP, EventKind.BACKWARD)):
        return None  # another optimizer's clip, with the wrong parameters

    def ends(event: Event) -> bool:
        return event in own or event.kind is EventKind.UNKNOWN or _clears(source, clip, event)

    earlier = clip.previous_where(ends)
    # the function may be called again
    later = [
        event for start in (clip, flow.start) for event in start.next_where(ends) if event.kind is not EventKind.END
    ]
    stepped = bool(earlier) and all(event in own for event in earlier)
    return earlier[0] if stepped and later and all(event.kind is EventKind.ZERO_GRAD for event in later) else None


def _steps(source: Source, clip: Event, step: Event) -> bool | None:
    return None if step.subject is None else belong(source, clip.subject, step.subject)


def _clears(source: Source, clip: Event, event: Event) -> bool:
    """Whether an event is a `zero_grad` of what is clipped: of its optimizer, or of the module itself."""
    if event.kind is not EventKind.ZERO_GRAD or event.subject is None or clip.subject is None:
        return False
    modules = owners(source, clip.subject) or ()
    return source.spelled(event.subject) in modules or belong(source, clip.subject, event.subject) is True


def _is_each(source: Source, steps: list[Event], rest: list[Event], clip: Event) -> bool:
    """Whether the steps are those of `for optimizer in optimizers: optimizer.step()`, which somebody wrote for at least one."""
    backward = all(event.kind is EventKind.BACKWARD for event in rest)
    return backward and all(_in_inner_loop(source, step, clip) and _is_of_target(source, step) for step in steps)


def _is_of_target(source: Source, step: Event) -> bool:
    """Whether what steps is what the loop around goes through."""
    loop = loops_around(source, step)[0]
    names = [node for node in source.walk(step.subject) if isinstance(node, cst.Name)] if step.subject else []
    return isinstance(loop, cst.For) and any(
        binding.kind == "for" and contains(source, loop.target, binding.node)
        for name in names
        for binding in source.bindings(name)
    )


def _in_inner_loop(source: Source, step: Event, clip: Event) -> bool:
    """Whether a step is in a loop that ends before the clip: where the loop does not run, there is nothing to clip."""
    outer = loops_around(source, clip)
    inner = loops_around(source, step)
    return len(inner) > len(outer) and inner[len(inner) - len(outer) :] == outer


def _hit(source: Source, flow: Flow, clip: Event, step: Event) -> Hit:
    name = source.quoted(step.at, "the optimizer's step")
    zeroed = bool(flow.of(EventKind.ZERO_GRAD)) or EventKind.BACKWARD not in {
        e.kind for e in clip.first_after(EventKind.BACKWARD)
    }
    outcome = "has no effect" if zeroed else "comes too late"
    message = f"clipping {outcome}: {name} on {source.where(step.at)} has already used the gradients"
    fix = None if clip.is_called or step.is_called else _fix(source, clip, step)
    return Hit(clip.at, message, fix, "" if fix else BY_HAND, ((step.at, "the gradients are used here"),))


def _fix(source: Source, clip: Event, step: Event) -> Fix | None:
    pair = carrier(source, clip.node, step.node)
    if pair is None or _takes_closure(step) or clip.wrapper or _in_inner_loop(source, step, clip):
        return None
    statement, target = pair
    start, stop = source.span(target)[0], source.span(statement)[0]
    if not names_settled(source, statement, start, stop) or _holds_backward(source, target):
        return None
    scaler = step.scaler if _is_scaled(step) else None
    late = _late_unscale(source, clip, step, target) if scaler is not None else None
    edits = moved(source, [statement] if late is None else [late, statement], target)
    if edits is None:
        return None
    if scaler is not None and late is None and step.subject is not None:
        line = f"{source.outer_code(scaler)}.unscale_({source.code(step.subject)})"
        lead = indentation(source, target) + line + source.newline
        edits = tuple(Edit(e.start, e.end, lead + e.text) if e.text else e for e in edits)
    return Fix(TITLE, Safety.UNSAFE, edits)


def _is_scaled(step: Event) -> bool:
    """Whether the gradients are still scaled when a scaler's step takes them: the scaler unscales them in the step."""
    return step.first_before(EventKind.UNSCALE, EventKind.BACKWARD)[0].kind is not EventKind.UNSCALE


def _late_unscale(source: Source, clip: Event, step: Event, target: Statement) -> Statement | None:
    """The `unscale_` that comes too late together with the clip, as a statement that can be moved with it."""
    match clip.first_before(EventKind.UNSCALE, EventKind.STEP):
        case [event] if event.kind is EventKind.UNSCALE and not event.is_called:
            statement = source.statement(event.node)
            beside = any(statement is other for other in source.siblings(target)[0])
            if beside and _same(source, event.subject, step.subject):
                start, stop = source.span(target)[0], source.span(statement)[0]
                return statement if names_settled(source, statement, start, stop) else None
    return None


def _same(source: Source, one: cst.BaseExpression | None, other: cst.BaseExpression | None) -> bool:
    return one is not None and other is not None and source.spelled(one) == source.spelled(other)


def _takes_closure(step: Event) -> bool:
    return isinstance(step.node, cst.Call) and bool(step.node.args) and step.scaler is None


def _holds_backward(source: Source, statement: cst.CSTNode) -> bool:
    return any(isinstance(node, cst.Attribute) and node.attr.value == "backward" for node in source.walk(statement))
