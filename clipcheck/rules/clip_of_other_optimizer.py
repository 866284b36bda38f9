"""
## What it does
Finds clips of parameters that no later step updates, right before the step of another optimizer whose own parameters
are not clipped: a line copied from the actor to the critic, or from the generator to the discriminator.

## Why is this bad?
The optimizer that steps next uses unclipped gradients: one of the two networks trains without clipping. The other one's
gradients are clipped a second time, after their step, and then cleared.

## How to fix by hand
Pass the parameters of the optimizer that steps next.

## Fix safety
Unsafe: passes the parameters that the optimizer was created with, so that its steps are clipped and training changes.

## When to suppress it
Where only one of the networks should be clipped; deleting the second clip is better, since it does nothing.

## References
- google-deepmind/open_spiel#827
"""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from clipcheck.fixes.verbs import replace
from clipcheck.python.source import Source
from clipcheck.rule import Fix, Hit, Safety
from clipcheck.training.acts import EventKind
from clipcheck.training.flows import Event, Flow, flows
from clipcheck.training.ownership import is_for
from clipcheck.training.parameters import assigned

TITLE = "Clip the parameters that the next step updates"
BY_HAND = "pass the parameters of the optimizer that steps next"


def check(source: Source) -> Iterator[Hit]:
    seen: set[cst.CSTNode] = set()
    for flow in flows(source, EventKind.CLIP):
        for clip in flow.of(EventKind.CLIP):
            step = _of_another(source, flow, clip)
            # in one called function, which names the parameters itself: that is where the mistake is
            together = step is not None and clip.frame is step.frame and not _are_given(source, clip)
            place = clip.node if together else clip.at
            if step is not None and place not in seen:
                seen.add(place)
                used = step.node if together else step.at
                name = source.quoted(used, "the step", 24)
                message = f"clips another optimizer's parameters: {name} on {source.where(used)} is not clipped"
                fix = _fix(source, clip, step)
                related = () if used is place else ((used, "the step is here"),)
                yield Hit(place, message, fix, "" if fix else BY_HAND, related)


def _are_given(source: Source, clip: Event) -> bool:
    """Whether the function that clips is given the parameters, or what has them."""
    names = source.walk(clip.act.subject) if clip.act is not None and clip.act.subject is not None else ()
    return any(
        isinstance(name, cst.Name)
        and name.value != "self"
        and any(b.kind == "parameter" for b in source.bindings(name))
        for name in names
    )


def _of_another(source: Source, flow: Flow, clip: Event) -> Event | None:
    """The next step, if it is another optimizer's and the clip has no other effect."""
    later = clip.first_after(EventKind.STEP, EventKind.BACKWARD, EventKind.UNKNOWN)
    if len(later) != 1 or is_for(source, clip, later[0]) is not False:
        return None
    step = later[0]
    # the optimizer of what is clipped is there, and steps at another time
    steps = [event for event in flow.of(EventKind.STEP) if is_for(source, clip, event) is not False]
    if any(is_for(source, clip, event) is None for event in steps):
        return None
    if not steps and not _steps_in_other_methods(source, flow, clip):
        return None
    after = step.next_where(lambda event: event.kind in (EventKind.BACKWARD, EventKind.UNKNOWN) or event in steps)
    if any(event in steps or event.kind is EventKind.UNKNOWN for event in after):
        return None  # it steps later on, with what was clipped here
    return None if _is_clipped(source, clip, step) else step


def _steps_in_other_methods(source: Source, flow: Flow, clip: Event) -> bool:
    """Whether other methods of the class step what is clipped, each with gradients that it has computed again."""
    owner = source.enclosing(flow.function, cst.ClassDef)
    others = (one for one in flows(source, EventKind.STEP) if one.function is not flow.function)
    steps = [
        step
        for other in others
        if owner is not None and source.enclosing(other.function, cst.ClassDef) is owner
        for step in other.of(EventKind.STEP)
        if is_for(source, clip, step) is not False
    ]
    return bool(steps) and all(is_for(source, clip, step) and _starts_over(source, step) for step in steps)


def _starts_over(source: Source, step: Event) -> bool:
    """Whether `zero_grad` and then `backward` come before a step on every path."""
    computed = step.first_before(EventKind.BACKWARD, EventKind.UNKNOWN)
    cleared = step.previous_where(lambda event: event.kind is EventKind.ZERO_GRAD and _same(source, event, step))
    return all(event.kind is EventKind.BACKWARD for event in computed) and all(
        event.kind is EventKind.ZERO_GRAD for event in cleared
    )


def _same(source: Source, one: Event, other: Event) -> bool:
    names = [event.subject and source.spelled(event.subject) for event in (one, other)]
    return None not in names and names[0] == names[1]


def _is_clipped(source: Source, clip: Event, step: Event) -> bool:
    """Whether something between the backward and the step may have limited what is stepped."""
    ends = (EventKind.BACKWARD, EventKind.UNKNOWN, EventKind.EDIT, EventKind.CLIP)
    pending, seen = [step], {step}
    while pending:
        for event in pending.pop().first_before(*ends):
            if event.kind in (EventKind.UNKNOWN, EventKind.EDIT, EventKind.START):
                return True
            if event.kind is EventKind.CLIP:
                if is_for(source, event, step) is not False:
                    return True
                if event not in seen:
                    seen.add(event)
                    pending.append(event)
    return False


def _fix(source: Source, clip: Event, step: Event) -> Fix | None:
    """Pass what the optimizer was created with, if that is `net.parameters()` and `net` has the same name in both places."""
    if clip.is_called or step.is_called or clip.subject is None or step.subject is None:
        return None
    made = assigned(source, step.subject)
    match made:
        case cst.Call(
            args=[
                cst.Arg(
                    value=cst.Call(
                        func=cst.Attribute(value=cst.Name() | cst.Attribute(), attr=cst.Name("parameters")), args=[]
                    ) as given
                ),
                *_,
            ]
        ):
            # not in a partial that was made elsewhere
            is_listed_here = source.function(clip.subject) is source.function(clip.node)
            is_known_here = source.function(made) is source.function(clip.node) or source.spelled(given).startswith(
                "self."
            )
            if is_listed_here and is_known_here and isinstance(clip.subject, cst.Call):
                return Fix(TITLE, Safety.UNSAFE, (replace(source, clip.subject, source.code(given)),))
    return None
