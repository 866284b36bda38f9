"""
## What it does
Finds clips of gradients that a `GradScaler` has scaled and that nothing has unscaled yet: `unscale_` is missing, or
comes after the clip. The scaled `backward()` may run in another function, if nothing in the file unscales. It also
finds `self.clip_gradients` in a LightningModule with manual optimization and a Trainer with 16-mixed precision, where
`manual_backward` scales and only the optimizer's step unscales.

## Why is this bad?
The gradients are multiplied by the loss scale, 65536 at first. Clipped to a norm of 1.0 and then divided by the scale,
they reach the optimizer with a norm of 1/65536: training almost stops, unless the optimizer (such as Adam) normalizes
its updates and hides it.

## How to fix by hand
Unscale between `backward()` and the clip; `scaler.step` then does not unscale again:

```python
scaler.scale(loss).backward()
scaler.unscale_(optimizer)
torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm)
scaler.step(optimizer)
scaler.update()
```

## Fix safety
Unsafe: inserts `scaler.unscale_(optimizer)` above the clip, with the optimizer that `scaler.step` is given, so that
training changes. A second call raises, so there is one line for all clips and norms of the step, above the first of them;
no automatic fix where it depends on a branch which comes first.

## When to suppress it
Where the gradients are unscaled in a way that the file does not show, or the scaler is always disabled.

## References
- https://pytorch.org/docs/stable/notes/amp_examples.html#gradient-clipping
- pytorch/pytorch#40907, pytorch/examples#1196, milesial/Pytorch-UNet#468, TorchSSL/TorchSSL#59
- Lightning-AI/pytorch-lightning#9599, rwth-i6/returnn#1595, NCAR/miles-credit#141
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import libcst as cst

from clipcheck.fixes.move import moved, stands_alone
from clipcheck.fixes.unscale import unscaled_above
from clipcheck.python.names import last_name
from clipcheck.python.source import Source, memo
from clipcheck.rule import Fix, Hit, Safety
from clipcheck.training.acts import Act, EventKind, acts
from clipcheck.training.clips import bound
from clipcheck.training.flows import Event, flows
from clipcheck.training.flows import flow as flow_of
from clipcheck.training.lightning import lightning_modules, manual_at, scaling_trainer
from clipcheck.training.microbatches import guarded_step
from clipcheck.training.parameters import assigned
from clipcheck.training.scalers import is_off
from clipcheck.training.sharding import wrapped_by_fsdp

TITLE = "Unscale the gradients before the clip"
_BEFORE = (
    *(EventKind.BACKWARD, EventKind.UNSCALE, EventKind.EDIT, EventKind.UNKNOWN),
    *(EventKind.STEP, EventKind.UPDATE, EventKind.ZERO_GRAD),
)
# A `zero_grad` after the backward discards what would be scaled: it is a separate mistake, and masks the missing `unscale_`.
_BEFORE_CLEARED = tuple(kind for kind in _BEFORE if kind is not EventKind.ZERO_GRAD)
BY_HAND = "call `scaler.unscale_(optimizer)` before the clip"
LIGHTNING = "clips scaled gradients: under 16-mixed precision Lightning unscales them in `step()`"
LIGHTNING_BY_HAND = "clip in `on_before_optimizer_step`, which runs after unscaling, or train in bf16-mixed precision"


def check(source: Source) -> Iterator[Hit]:
    found: dict[cst.CSTNode, Hit] = {}  # what several callers lead to is one finding
    masked: dict[cst.CSTNode, Hit] = {}
    for flow in flows(source, EventKind.CLIP):
        for clip in flow.of(EventKind.CLIP):
            for hits, kinds in ((found, _BEFORE), (masked, _BEFORE_CLEARED)):
                backward = _scaled(source, clip, kinds)
                if backward is not None:
                    hit = _hit(source, clip, backward)
                    hits.setdefault(hit.node, hit)
    for flow in flows(source, EventKind.CLIP) if _never_unscales(source) else ():
        for clip in flow.of(EventKind.CLIP):
            act = _scaled_elsewhere(source, clip)
            if act is not None:
                found.setdefault(clip.node, _hit_elsewhere(source, clip, act))
    yield from found.values()
    yield from (hit._replace(masked=True) for node, hit in masked.items() if node not in found)
    yield from _in_lightning(source)


@memo
def _never_unscales(source: Source) -> bool:
    """Whether nothing in the file can have unscaled a gradient."""
    if any(act.kind is EventKind.EDIT for act in acts(source).values()):
        return False
    return not any("unscale" in name.value for name in source.nodes(cst.Name))


def _scaled_elsewhere(source: Source, clip: Event) -> Act | None:
    """The scaled backward of another function, where a clip and the scaler's step are all that this function does."""
    if clip.wrapper:
        return None
    earlier = clip.first_before(*_BEFORE)
    later = clip.first_after(EventKind.STEP, EventKind.BACKWARD, EventKind.UNKNOWN)
    if any(event.kind is not EventKind.START for event in earlier) or any(e.kind is not EventKind.STEP for e in later):
        return None
    scalers = [step.scaler for step in later if step.scaler is not None]
    if not scalers or is_off(source, scalers[0]) or _accounts_for_scale(source, clip):
        return None
    backwards = [act for act in acts(source).values() if act.kind is EventKind.BACKWARD and act.scaler is not None]
    same = (act for act in backwards if act.scaler and last_name(act.scaler) == last_name(scalers[0]))
    return next(same, None)


def _hit_elsewhere(source: Source, clip: Event, backward: Act) -> Hit:
    message = f"clips scaled gradients: nothing in this file calls `{_unscale(source, backward)}`"
    fix = None if clip.is_called else _fix(source, clip, None)
    related = [(backward.node, "the gradients are scaled here")]
    if clip.is_called:
        related.insert(0, (clip.at, "called here"))
    return Hit(clip.node, message, fix, "" if fix else BY_HAND, tuple(related))


def _scaled(source: Source, clip: Event, kinds: Sequence[EventKind]) -> Event | None:
    """The scaled backward before `clip`, where nothing on any path between them may have unscaled the gradients."""
    if clip.wrapper and not _is_fsdps(source, clip):
        return None  # accelerate and Fabric unscale by themselves
    earlier = clip.first_before(*kinds)
    if any(event.kind in (EventKind.UNSCALE, EventKind.EDIT, EventKind.UNKNOWN) for event in earlier):
        return None
    scaled = [event for event in earlier if event.kind is EventKind.BACKWARD and event.scaler is not None]
    if not scaled or scaled[0].at is clip.at:
        return None
    backward = scaled[0]
    assert backward.scaler is not None
    if is_off(source, backward.scaler) or _accounts_for_scale(source, clip):
        return None
    return backward


def _is_fsdps(source: Source, clip: Event) -> bool:
    """Whether a clip is the method of a model that FSDP1 shards: it knows no loss scaler."""
    match clip.node:
        case cst.Call(func=cst.Attribute(value=model, attr=cst.Name("clip_grad_norm_"))) if clip.wrapper == "own":
            return wrapped_by_fsdp(source, model) is not None or _is_sharded_with(source, model)
    return False


def _is_sharded_with(source: Source, model: cst.BaseExpression) -> bool:
    """Whether the program calls a model that it does not wrap itself, and has the scaler that only FSDP needs."""
    made = any(last_name(call.func) == "ShardedGradScaler" for call in source.nodes(cst.Call))
    spelled = source.spelled(model)
    return made and any(source.spelled(call.func) == spelled for call in source.nodes(cst.Call))


def _accounts_for_scale(source: Source, clip: Event) -> bool:
    """Whether `max_norm` is multiplied by the scale."""
    match clip.node:
        case cst.Call() as call if (limit := bound(call, "clip_grad_norm_").limit) is not None:
            return any("scale" in source.code(node) for node in (limit, assigned(source, limit)) if node is not None)
    return False


def _in_lightning(source: Source) -> Iterator[Hit]:
    """Clips under manual optimization, where a Trainer with 16-mixed precision scales the loss: only its step unscales."""
    trainer = scaling_trainer(source)
    if trainer is None:
        return
    related = ((trainer, "this Trainer scales the loss"),)
    for owner in lightning_modules(source):
        if manual_at(source, owner) is None:
            continue
        for function in owner.body.body:
            if isinstance(function, cst.FunctionDef):
                clips = (event for event in flow_of(source, function).events if _clips_scaled(event))
                yield from (Hit(clip.at, LIGHTNING, None, LIGHTNING_BY_HAND, related) for clip in clips)


def _clips_scaled(event: Event) -> bool:
    """Whether an event clips what `manual_backward` has left; Lightning's own `clip_gradients` does not unscale either."""
    match event.node:
        case cst.Call(func=cst.Attribute(attr=cst.Name("clip_gradients"))):
            pass
        case _ if event.kind is not EventKind.CLIP or event.wrapper not in ("", "own"):
            return False
    earlier = event.first_before(
        EventKind.BACKWARD, EventKind.UNSCALE, EventKind.EDIT, EventKind.UNKNOWN, EventKind.STEP, EventKind.CLIP
    )
    backward = (earlier_one.node for earlier_one in earlier)
    return bool(earlier) and all(isinstance(n, cst.Call) and last_name(n.func) == "manual_backward" for n in backward)


def _unscale(source: Source, backward: Event | Act) -> str:
    """The call that is missing, for a message."""
    scaler = source.quoted(backward.scaler, "`scaler`", 20).strip("`")
    return f"{scaler}.unscale_(optimizer)"


def _hit(source: Source, clip: Event, backward: Event) -> Hit:
    message = f"clips scaled gradients: call `{_unscale(source, backward)}` first"
    late = _late_unscale(source, clip)
    if late is not None:
        message = f"clips scaled gradients: `unscale_` comes later, on {source.where(late.at)}"
    fix = None if clip.is_called or backward.is_called else _fix(source, clip, late)
    related = [(backward.at, "the gradients are scaled here")]
    node = clip.node if _never_unscales(source) else clip.at
    if clip.is_called:
        related.insert(0, (clip.at, "called here") if node is clip.node else (clip.node, "clipped here"))
    if late is not None:
        related.append((late.at, "and unscaled here"))
    return Hit(node, message, fix, "" if fix else BY_HAND, tuple(related))


def _late_unscale(source: Source, clip: Event) -> Event | None:
    later = clip.first_after(EventKind.UNSCALE, EventKind.STEP, EventKind.UNKNOWN, EventKind.BACKWARD)
    return later[0] if later and all(event.kind is EventKind.UNSCALE for event in later) else None


def _fix(source: Source, clip: Event, late: Event | None) -> Fix | None:
    statement = source.statement(clip.node)
    if not stands_alone(source, statement) or guarded_step(source, clip) is not None:
        return None  # under accumulation `unscale_` goes under the guard, together with the clip
    if late is not None:
        other = source.statement(late.node)
        block, _ = source.siblings(statement)
        if late.is_called or not any(other is item for item in block):
            return None
        edits = moved(source, [other], statement)
        return None if edits is None else Fix(TITLE, Safety.UNSAFE, edits)
    steps = clip.first_after(EventKind.STEP, EventKind.BACKWARD, EventKind.UNKNOWN)
    scaled = [step for step in steps if step.kind is EventKind.STEP and step.scaler is not None]
    names = {source.spelled(step.subject) for step in scaled if step.subject is not None}
    if len(names) != 1 or any(step.is_called for step in scaled):
        return None
    line = unscaled_above(source, clip, scaled[0])
    return None if line is None else Fix(TITLE, Safety.UNSAFE, (line,))
