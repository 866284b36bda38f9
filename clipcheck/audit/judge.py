"""What became of each clip and of each step: which gradients were clipped, and under which rule's fault they were not."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from typing import Literal, NamedTuple, TypeAlias

from clipcheck.audit.events import Backward, Clip, Event, Log, Optimizer, State, Step, Unscale, Zero
from clipcheck.audit.sites import Site

How: TypeAlias = Literal["clipped", "partly", "unclipped", "by hand", "by itself", "no gradients"]

# What the message of a fault says; a message without a code is a note, and so are the codes of NOTES.
MESSAGES = {
    "CLIP101": "clips gradients that the step has used already",
    "CLIP102": "clips before backward: there are no new gradients yet",
    "CLIP103": "clips once, before the training: later gradients are not clipped",
    "CLIP104": "zeroes the gradients between backward and the step, which moves nothing",
    "CLIP105": "gets an iterator that was read before: nothing is clipped",
    "CLIP106": "gets gradients or other tensors without a `.grad`, not parameters: nothing is clipped",
    "CLIP108": "clips each micro-batch; the next backward adds to what was clipped",
    "CLIP109": "clips outside the closure, which computes the gradients again",
    "CLIP110": "clips each parameter by itself: the norm of all may exceed `max_norm`, and the direction changes",
    "CLIP111": "clips several groups one by one: the norm of all may exceed `max_norm`",
    "CLIP112": "lists parameters twice: they are scaled twice",
    "CLIP115": "clips after backward, which stepped and freed the gradients itself",
    "CLIP117": "clips parameters that this optimizer does not step, and whose gradients no step used",
    "CLIP201": "has a limit that is not positive: gradients become zero or change their sign",
    "CLIP301": "clips scaled gradients: call `scaler.unscale_(optimizer)` first",
    "CLIP303": "unscales again in the same accumulation: the scaler raises",
    "CLIP304": "raises on gradients that the GradScaler would have skipped",
    "CLIP305": "clips gradients that are still scaled: another optimizer's were unscaled",
    "CLIP308": "unscales again after a step that was skipped without `scaler.update()`: the scaler raises",
    "CLIP401": "clips in `training_step`, which Lightning calls before backward",
    "CLIP405": "clips this rank's part of FSDP1's parameters by its own norm: ranks scale unlike",
    "CLIP505": "clips again what is clipped to at most as much already: it has no effect",
    "another backward": "clips, then another backward adds to the clipped gradients",
    "zeroed unused": "clips gradients that were zeroed before a step used them",
    "changed": "clips, then the gradients are changed by other code before the step",
    "not stepped": "clips tensors that no optimizer steps that was seen",
}
NOTES = {"CLIP111", "CLIP505"}  # which may be on purpose, and harm nothing


class Complaint(NamedTuple):
    code: str
    site: Site


class Outcome(NamedTuple):
    step: Step
    how: How
    clips: tuple[Clip, ...]  # that reached it
    unclipped: frozenset[int]  # the parameters that it used with gradients that were not clipped
    complaints: tuple[Complaint, ...]


class Finding(NamedTuple):
    code: str
    site: Site
    times: int
    of: int
    is_fault: bool

    @property
    def text(self) -> str:
        return MESSAGES[self.code]


class Window(NamedTuple):
    """What happened to an optimizer's gradients between two of its steps; `prior` is their state after the first."""

    optimizer: Optimizer
    events: list[Event]
    prior: State
    step: Step | None  # none after the last one


def outcomes(log: Log, optimizer: Optimizer) -> tuple[list[Outcome], list[Complaint]]:
    """What each step used, and complaints about what came after the last one."""
    every = list(windows(log, optimizer))
    used = _used(log)
    early = {e.site for e in every[0].events if isinstance(e, Clip)}
    found: list[Outcome] = []
    rest: list[Complaint] = []
    for window in every:
        inside = [e for e in window.events if isinstance(e, Clip) and found and _in_body(e, found[-1].step)]
        if inside:
            found[-1] = found[-1]._replace(how="by itself", clips=tuple(inside))
        window = window._replace(events=[e for e in window.events if e not in inside])
        complaints = list(_complaints(window, used, early))
        if window.step is None:
            rest = [one for one in complaints if one.code not in _OF_A_STEP]
        else:
            found.append(_outcome(window, window.step, complaints))
    return found, rest


def windows(log: Log, optimizer: Optimizer) -> Iterator[Window]:
    seen: list[Event] = []
    prior: State = {}
    for event in log.events:
        if isinstance(event, Step) and event.optimizer == optimizer.key:
            yield Window(optimizer, seen, prior, event)
            seen, prior = [], event.after
        else:
            seen.append(event)
    yield Window(optimizer, seen, prior, None)


def _in_body(clip: Clip, step: Step) -> bool:
    """Whether the optimizer's own `step` made the call, and not its closure."""
    return clip.within == step.optimizer and not step.in_closure


def clips(event: Event) -> bool:
    """Whether it is a call that limits something."""
    return isinstance(event, Clip) and event.limit < math.inf and not event.error


def _reached(clip: Clip, window: Window) -> set[int]:
    """The parameters whose gradients the step uses as the clip has left them.

    A new gradient may be where the old one was, and as often written to: so every event in between is asked, too.
    """
    if window.step is None:
        return set()
    used = window.step.state
    own = {p for p in touched(clip, clip.state) if p in window.optimizer.parameters and used.get(p) == clip.state[p]}
    for event in window.events[window.events.index(clip) + 1 :]:
        state = _state(event)
        own = {p for p in own if state is None or state.get(p) == clip.state[p]}
        own -= event.changed if isinstance(event, Backward) else set()
    return own


def touched(clip: Clip, state: State) -> set[int]:
    """The parameters whose gradients it clips: of those that are listed, or objects that others have as well."""
    objects = {state[p] for p in clip.listed if p in state}
    return {p for p, mark in state.items() if mark in objects}


def _used(log: Log) -> set[int]:
    """The clips, by identity, that reached a step of some optimizer."""
    return {
        id(event)
        for optimizer in log.optimizers
        for window in windows(log, optimizer)
        for event in window.events
        if isinstance(event, Clip) and _reached(event, window)
    }


def _outcome(window: Window, step: Step, complaints: list[Complaint]) -> Outcome:
    limiting = [e for e in window.events if isinstance(e, Clip) and clips(e)]
    there = [clip for clip in limiting if _reached(clip, window)]
    reached = set().union(*(_reached(clip, window) for clip in there))
    left = frozenset(set(step.state) - reached)
    how: How = "clipped" if not left else "partly" if reached else "unclipped"
    if not step.state:
        how = "no gradients"
    elif how == "unclipped" and _changed_by_hand(window, step):
        how = "by hand"
    if how in ("clipped", "by hand"):
        complaints = [one for one in complaints if one.code in _IN_ANY_CASE]
    return Outcome(step, how, tuple(there), left, tuple(dict.fromkeys(complaints)))


# Without a step these are none: it may still come.
_OF_A_STEP = {"CLIP102", "CLIP108", "CLIP109", "CLIP117", "another backward", "zeroed unused", "changed"}
# These are faults of steps that used clipped gradients, too.
_IN_ANY_CASE = {"CLIP108", "CLIP110", "CLIP111", "CLIP112", "CLIP201", "CLIP301", "CLIP303", "CLIP304", "CLIP305"}
_IN_ANY_CASE |= {"CLIP308", "CLIP405", "CLIP505"}


def _changed_by_hand(window: Window, step: Step) -> bool:
    """Whether something wrote to gradients after the last event: hand-written clipping, most likely."""
    if not window.events:
        return False
    last = window.events[-1]
    state = _state(last) or {}
    written = any(step.state[p] != state[p] for p in step.state if p in state)
    probe = getattr(last, "probe", {})
    return written or any(probe[p] != step.probe[p] for p in probe if p in step.probe and probe[p] == probe[p])


def _complaints(window: Window, used: set[int], early: set[Site]) -> Iterator[Complaint]:
    own = set(window.optimizer.parameters)
    yield from _of_scaler(window)
    mine = [(i, e) for i, e in enumerate(window.events) if isinstance(e, Clip) and _concerns(e, own)]
    yield from _of_repetition([clip for _, clip in mine if clips(clip)], window)
    for index, clip in mine:
        if clip.error and "non-finite" in clip.error and any(isinstance(e, Unscale) for e in window.events):
            yield Complaint("CLIP304", clip.site)
        if not clips(clip):
            continue
        unscaled = any(isinstance(e, Unscale) for e in window.events[:index])
        yield from (Complaint(code, clip.site) for code in _of_call(clip, own, unscaled))
        if not _reached(clip, window):
            complaint = _why_wasted(window, index, clip, early)
            if complaint is not None:
                yield complaint
    others = [e for e in window.events if isinstance(e, Clip) and clips(e) and touched(e, e.state) and not mine]
    yield from (Complaint("CLIP117", clip.site) for clip in others if id(clip) not in used)


def _concerns(clip: Clip, own: set[int]) -> bool:
    return bool(own & (touched(clip, clip.before) | set(clip.listed)))


def _of_call(clip: Clip, own: set[int], unscaled: bool) -> Iterator[str]:
    """What the arguments and the gradients of a call show by themselves."""
    if clip.limit <= 0:
        yield "CLIP201"
    if len(clip.listed) > len(set(clip.listed)):
        yield "CLIP112"
    if clip.scaled & own & touched(clip, clip.before):
        yield "CLIP305" if unscaled else "CLIP301"
    if clip.is_fsdp1:
        yield "CLIP405"


def _of_scaler(window: Window) -> Iterator[Complaint]:
    """`unscale_` that raises: in the same accumulation, or since the step before was left out."""
    zeroed = False
    own = set(window.optimizer.parameters)
    for event in window.events:
        match event:
            case Zero():
                zeroed = True
            case Unscale(parameters=parameters) if not own & set(parameters):
                pass
            case Unscale(site=site, error=error) if "already been called" in error:
                yield Complaint("CLIP308" if zeroed else "CLIP303", site)
            case Unscale():
                zeroed = False


def _of_repetition(called: list[Clip], window: Window) -> Iterator[Complaint]:
    by_place: dict[tuple[Site, float], list[Clip]] = {}
    for before, clip in zip([None, *called], called, strict=False):
        same = before is not None and before.function == clip.function and before.norm_type == clip.norm_type
        if same and before is not None and set(clip.listed) <= set(before.listed) and clip.limit >= before.limit:
            shared = set(clip.listed) & set(clip.before)
            if shared and all(before.state.get(p) == clip.before[p] for p in shared):
                yield Complaint("CLIP505", clip.site)
        if clip.function != "clip_grad_value_" and _reached(clip, window):
            by_place.setdefault((clip.site, clip.limit), []).append(clip)
    for (site, _), group in by_place.items():
        if len({clip.listed for clip in group}) > 1:
            yield Complaint("CLIP110" if all(len(clip.listed) == 1 for clip in group) else "CLIP111", site)


def _why_wasted(window: Window, index: int, clip: Clip, early: set[Site]) -> Complaint | None:
    """Why a clip of this optimizer's parameters did not reach the step."""
    before, after = window.events[:index], window.events[index + 1 :]
    backwards = [e for e in after if isinstance(e, Backward)]
    in_closure = any(e.within == window.optimizer.key for e in backwards)
    if window.step is not None and window.step.in_closure and in_closure and clip.within != window.optimizer.key:
        return Complaint("CLIP109", clip.site)
    if window.step is not None and window.step.in_backward:
        return Complaint("CLIP115", clip.site)
    held = touched(clip, clip.before).intersection(window.optimizer.parameters)
    renewed = any(isinstance(e, Zero) or (isinstance(e, Backward) and e.changed & held) for e in before)
    is_stale = bool(held) and not renewed and all(window.prior.get(p) == clip.before[p] for p in held)
    if is_stale:
        return Complaint("CLIP102" if clip.site in early and backwards else "CLIP101", clip.site)
    zeroed = next((e for e in reversed(before) if isinstance(e, (Zero, Backward))), None)
    if not held or (isinstance(zeroed, Zero) and all(zeroed.state.get(p) == clip.before[p] for p in held)):
        if isinstance(zeroed, Zero) and not backwards and any(isinstance(e, Backward) for e in before):
            return Complaint("CLIP104", zeroed.site)
        return Complaint("CLIP102", clip.site) if backwards else None
    return _what_changed_it(window, clip, after, held)


def _what_changed_it(window: Window, clip: Clip, after: list[Event], held: set[int]) -> Complaint | None:
    """The first event by which gradients are no longer as the clip left them."""
    changed = next((e for e in after if _changes(e, clip, held)), None)
    again = any(isinstance(e, Clip) and clips(e) and held & set(e.listed) for e in after)
    match changed:
        case Backward():
            return Complaint("CLIP108" if again else "another backward", clip.site)
        case Zero(site=site):
            is_lost = window.step is not None and not window.step.state
            return Complaint("CLIP104", site) if is_lost else Complaint("zeroed unused", clip.site)
        case Unscale():
            return None if clip.scaled else Complaint("changed", clip.site)
        case None if window.step is not None:
            return Complaint("changed", clip.site)
    return None


def _changes(event: Event, clip: Clip, held: set[int]) -> bool:
    state = _state(event)
    if isinstance(event, Backward) and event.changed & held:
        return True
    return state is not None and any(state.get(p) != clip.state.get(p) for p in held)


def _state(event: Event) -> State | None:
    """The gradients at the end of an event; None for one that does not tell: a step tells of its own parameters only."""
    return None if isinstance(event, Step) else getattr(event, "state", None)


def strangers(log: Log) -> list[Finding]:
    """Calls that list nothing that an optimizer steps."""
    own = {p for optimizer in log.optimizers for p in optimizer.parameters}
    calls = [e for e in log.events if isinstance(e, Clip)]
    strange = Counter(Complaint(_why_strange(c), c.site) for c in calls if clips(c) and not _concerns(c, own))
    of = Counter(clip.site for clip in calls)
    return [_finding(complaint, times, of[complaint.site]) for complaint, times in strange.items()]


def _why_strange(clip: Clip) -> str:
    if not clip.listed and clip.is_iterator:
        return "CLIP105"
    holds = clip.can_hold or any(tensor in clip.before for tensor in clip.listed)
    return "CLIP106" if clip.listed and (clip.are_gradients or not holds) else "not stepped"


def _finding(complaint: Complaint, times: int, of: int) -> Finding:
    is_fault = complaint.code.startswith("CLIP") and complaint.code not in NOTES
    return Finding(complaint.code, complaint.site, times, of, is_fault)


def findings(log: Log, optimizer: Optimizer, seen: list[Outcome], rest: list[Complaint]) -> list[Finding]:
    """The complaints of all steps, each once with how often it was seen; faults first."""
    counted = Counter(complaint for outcome in seen for complaint in outcome.complaints)
    counted += Counter(rest)
    calls = Counter(event.site for event in log.events if isinstance(event, Clip))
    merged: Counter[Complaint] = Counter()
    for complaint, times in counted.items():
        code = complaint.code
        if code == "CLIP102" and len(seen) > 2 and calls[complaint.site] == 1:
            code = "CLIP103"
        if code in ("CLIP102", "CLIP109") and complaint.site.function == "training_step":
            code = "CLIP401"
        merged[complaint._replace(code=code)] += times
    found = [_finding(complaint, times, len(seen)) for complaint, times in merged.items()]
    return sorted(found, key=lambda one: (not one.is_fault, -one.times, one.code))
