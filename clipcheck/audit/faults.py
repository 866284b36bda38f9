"""What a run can show of each rule: one table of patterns of events, in the order in which they are asked."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

from clipcheck.audit.log import Call, Event
from clipcheck.audit.steps import Step

Condition: TypeAlias = Callable[[Event, Step], bool]


class Fault(NamedTuple):
    """A pattern. Of each group the first that holds counts; the group `lost` is about clips that reach no step.

    `of` are the kinds of the event in question (`F`: a clip of none of the optimizer's parameters), `story` is a regular
    expression on what happened around it: the letters of `log.Kind`, `S` for the step before (`P` if in a backward), `!` for the event itself,
    `u` for an unscaling of other parameters. A note has no code.
    """

    group: str
    code: str
    of: str
    story: str
    when: Condition
    says: str


def call(event: Event) -> Call:
    assert event.call is not None
    return event.call


def _always(event: Event, step: Step) -> bool:
    return True


def _by(*libraries: str) -> Condition:
    """Whether a backward ran through one of these."""
    return lambda _, step: any(
        event.site.through.startswith(libraries) for event in step.events if event.kind in "AB" and event.site
    )


def _stepped_by(library: str) -> Condition:
    return lambda _, step: step.use is not None and step.use.through.startswith(library)


_AFTER = ("on_train_batch_end", "optimizer_step", "on_before_zero_grad")


def _in(*functions: str) -> Condition:
    """Whether Lightning calls a function of this name, which makes the call."""
    hook = rf"(lightning/pytorch|pytorch_lightning)/.* ({'|'.join(functions)})"
    return lambda event, _: event.site is not None and re.fullmatch(hook, event.site.hook) is not None


def _finds_nonfinite(event: Event, _: Step) -> bool:
    return "non-finite" in call(event).error


def _fails(event: Event, _: Step) -> bool:
    return "non-finite" not in call(event).error


def _moves_nothing(_: Event, step: Step) -> bool:
    return step.use is not None and not step.use.norm


def _lists_twice(event: Event, _: Step) -> bool:
    return len(call(event).listed) > len(set(call(event).listed))


def _is_not_positive(event: Event, _: Step) -> bool:
    limit = call(event).limit
    return not (isinstance(limit, float) and limit > 0)


def _is_fsdp1(event: Event, _: Step) -> bool:
    return call(event).is_fsdp1


def _is_spent(event: Event, _: Step) -> bool:
    return call(event).is_spent


def _cannot_hold(event: Event, _: Step) -> bool:
    return bool(call(event).listed) and not call(event).can_hold


def _is_again(event: Event, step: Step) -> bool:
    """Whether the clip before has done at least as much with the same gradients."""
    before = [one for one in step.events[: step.events.index(event)] if one.kind == "C" and one.about & event.about]
    last, this = call(before[-1]), call(event)
    are_alike = (last.function, last.norm_type) == (this.function, this.norm_type)
    return are_alike and set(this.listed) <= set(last.listed) and this.limit >= last.limit


def _in_parts(event: Event, step: Step) -> set[tuple[int, ...]]:
    """What the clips of a line list that reach a step with the same limit."""
    alike = [call(one) for one, _ in step.clips if one.site == event.site and call(one).limit == call(event).limit]
    return {one.listed for one in alike if one.function != "clip_grad_value_"}


def _each_parameter(event: Event, step: Step) -> bool:
    parts = _in_parts(event, step)
    return len(parts) > 1 and call(event).listed in parts and all(len(part) == 1 for part in parts)


def _several_groups(event: Event, step: Step) -> bool:
    parts = _in_parts(event, step)
    return len(parts) > 1 and call(event).listed in parts


_STALE, _EARLY, _OUTSIDE = r"^[SP][^ABOZ]*!", r"(^|S|P|Z)[^ABO]*!.*[AB].*[sp]$", r"!.*<.*[AB].*s$"
_SCALED, _CHANGED = r"^[^G]*A[^GOUZ]*!", r"![^ABZ]*O[^ABZ]*[sp]$"
OPTIONAL = {"CLIP111", "CLIP505"}  # may be on purpose, and harm nothing

# fmt: off
FAULTS = (
    Fault("lost", "CLIP115", "C", r"!.*p$|^P[^ABO]*!", _always, "clips after backward, which stepped and freed the gradients itself"),
    Fault("lost", "CLIP401", "C", _EARLY, _in("training_step"), "clips in `training_step`, which Lightning calls before backward"),
    Fault("lost", "CLIP410", "C", f"{_STALE}|{_OUTSIDE}", _in(*_AFTER), "clips in a hook that Lightning calls after the step or before backward"),
    Fault("lost", "CLIP101", "C", _STALE, _always, "clips gradients that the step has used already"),
    Fault("lost", "CLIP109", "C", _OUTSIDE, _always, "clips outside the closure, which computes the gradients again"),
    Fault("lost", "CLIP102", "C", _EARLY, _always, "clips before backward: there are no new gradients yet"),
    Fault("lost", "CLIP408", "C", _CHANGED, _stepped_by("torch_xla/"), "clips before `xm.optimizer_step` reduces the gradients"),
    Fault("lost", "CLIP409", "C", _CHANGED, _stepped_by("horovod/"), "clips before Horovod's step reduces the gradients"),
    Fault("lost", "CLIP413", "C", r"!.*R.*[sp]$", _always, "clips before the gradients of all ranks are added up"),
    Fault("lost", "", "C", _CHANGED, _always, "clips, then the gradients are changed by other code before the step"),
    Fault("lost", "", "C", r"[ABO][^SPZ]*!.*Z.*[AB].*[sp]$", _always, "clips gradients that were zeroed before a step used them"),
    Fault("lost", "", "C", r"[ABO][^SPZ]*![^CZ]*[AB][^C]*[sp]$", _always, "clips, then another backward adds to the clipped gradients"),
    Fault("lost", "CLIP114", "E", r"!.*[sp]$", _fails, "raises, and the step is made without it"),
    Fault("lost", "CLIP117", "F", r"!.*[sp]$", _always, "clips parameters that this optimizer does not step, and whose gradients no step used"),
    Fault("scaled", "CLIP403", "C", _SCALED, _by("accelerate/"), "clips scaled gradients: call `accelerator.clip_grad_norm_` instead"),
    Fault("scaled", "CLIP411", "C", _SCALED, _by("lightning/fabric/"), "clips scaled gradients: call `fabric.clip_gradients` instead"),
    Fault("scaled", "CLIP410", "C", _SCALED, _in("on_after_backward"), "clips scaled gradients in a hook that Lightning calls before it unscales"),
    Fault("scaled", "CLIP305", "C", r"^[^G]*A[^GOUZ]*u[^GOUZ]*!", _always, "clips gradients that are still scaled: another optimizer's were unscaled"),
    Fault("scaled", "CLIP301", "C", _SCALED, _always, "clips scaled gradients: call `scaler.unscale_(optimizer)` first"),
    Fault("measured", "CLIP309", "M", rf"{_SCALED}[^G]*$", _always, "measures scaled gradients: call `scaler.unscale_(optimizer)` first"),
    Fault("unscaled", "CLIP303", "X", r"U[^Z]*!", _always, "unscales again in the same accumulation: the scaler raises"),
    Fault("unscaled", "CLIP308", "X", r"U.*!", _always, "unscales again after a step that was skipped without `scaler.update()`: the scaler raises"),
    Fault("raised", "CLIP304", "E", r"U.*!", _finds_nonfinite, "raises on gradients that the GradScaler would have skipped"),
    Fault("zeroed", "CLIP104", "Z", r"[AB][^SPZ]*![^ABO]*[sp]$", _moves_nothing, "zeroes the gradients between backward and the step, which moves nothing"),
    Fault("added to", "CLIP108", "C", r"[AB][^SPZ]*![^Z]*[AB][^Z]*C.*[sp]$", _always, "clips each micro-batch; the next backward adds to what was clipped"),
    Fault("parts", "CLIP110", "C", r"", _each_parameter, "clips each parameter by itself: the norm of all may exceed `max_norm`, and the direction changes"),
    Fault("parts", "CLIP111", "C", r"", _several_groups, "clips several groups one by one: the norm of all may exceed `max_norm`"),
    Fault("listed", "CLIP112", "C", r"", _lists_twice, "lists parameters twice: they are scaled twice"),
    Fault("limit", "CLIP201", "CE", r"", _is_not_positive, "has a limit that is not positive: gradients become zero or NaN, or change their sign"),
    Fault("sharded", "CLIP405", "C", r"", _is_fsdp1, "clips this rank's part of FSDP1's parameters by its own norm: ranks scale unlike"),
    Fault("again", "CLIP505", "C", r"C!", _is_again, "clips again what is clipped to at most as much already: it has no effect"),
)
ONCE = Fault("lost", "CLIP103", "C", _EARLY, _always, "clips once, before the training: later gradients are not clipped")  # a CLIP102
# Of a clip of nothing that any optimizer steps; the step holds all events then.
STRANGERS = (
    Fault("lost", "CLIP404", "C", r"", _by("deepspeed/"), "clips beside DeepSpeed, whose engine has the gradients and clips by itself"),
    Fault("lost", "CLIP105", "C", r"", _is_spent, "gets an iterator that was read before: nothing is clipped"),
    Fault("lost", "CLIP106", "C", r"", _cannot_hold, "gets gradients or other tensors without a `.grad`, not parameters: nothing is clipped"),
    Fault("lost", "", "C", r"", _always, "clips tensors that no optimizer steps that was seen"),
)
# fmt: on
