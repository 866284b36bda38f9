"""
## What it does
Finds clips in a hook of a LightningModule or a Callback that Lightning calls at the wrong time: `on_train_batch_end`
and similar hooks, which run after the optimizer's step; `optimizer_step` before the closure that runs backward; and
`on_after_backward` with a Trainer with 16-mixed precision, where the gradients are still scaled.

## Why is this bad?
After the step the gradients have already been used, and before the closure they are those of the previous step, or
None: no step is ever clipped. Gradients that are still multiplied by the loss scale (65536 at first) have a norm of
`max_norm / 65536` when they are used.

## How to fix by hand
Pass `gradient_clip_val` to the `Trainer`. For a custom clip, override `configure_gradient_clipping`, or clip in
`on_before_optimizer_step(self, optimizer)`: Lightning calls both after backward and unscaling, before the step.

## Fix safety
No automatic fix: the clip belongs in another method.

## When to suppress it
Where the hook runs backward in a way that the file does not show, or where another callback steps the optimizer later.

## References
- https://lightning.ai/docs/pytorch/stable/common/lightning_module.html#hooks
- Lightning-AI/pytorch-lightning#4151
"""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from clipcheck.python.source import Source
from clipcheck.rule import Hit
from clipcheck.training.acts import EventKind
from clipcheck.training.classes import is_in_lightning_module
from clipcheck.training.clips import only_measures
from clipcheck.training.flows import Event, flows
from clipcheck.training.lightning import is_callback, manual_at, scaling_trainer

BY_HAND = "use `Trainer(gradient_clip_val=…)`, or clip in `on_before_optimizer_step`"
_AFTER_STEP = frozenset(
    f"on_{hook}" for hook in ("train_batch_end", "train_batch_start", "train_epoch_end", "before_zero_grad")
) | {"on_batch_end", "on_batch_start"}  # of older versions; the current ones never call them
# What may bring new gradients, or have used them, before the clip.
_EARLIER = (EventKind.BACKWARD, EventKind.STEP, EventKind.UNSCALE, EventKind.EDIT, EventKind.UNKNOWN)


def check(source: Source) -> Iterator[Hit]:
    for flow in flows(source, EventKind.CLIP):
        function = flow.function
        owner = source.enclosing(function, cst.ClassDef)
        if not isinstance(function, cst.FunctionDef) or owner is None or source.parent(function) is not owner.body:
            continue
        if not (is_in_lightning_module(source, owner) or is_callback(source, owner)):
            continue
        for clip in flow.of(EventKind.CLIP):
            fault = "" if only_measures(source, clip.node) else _fault(source, owner, function.name.value, clip)
            if fault:
                yield Hit(clip.at, fault, None, BY_HAND)


def _fault(source: Source, owner: cst.ClassDef, hook: str, clip: Event) -> str:
    """What is wrong with the time at which Lightning calls a hook, "" if nothing is."""
    earlier = {event.kind for event in clip.first_before(*_EARLIER)}
    untouched = earlier == {EventKind.START}
    # what scales gradients after the step is as late as the clip
    if hook in _AFTER_STEP and _runs_nothing(clip) and not (hook == "on_before_zero_grad" and manual_at(source, owner)):
        return f"has no effect: Lightning calls `{hook}` after the step"
    if hook == "optimizer_step" and untouched:
        return "clips the previous step's gradients: the closure, which runs backward, is called later"
    if hook == "optimizer_step" and earlier == {EventKind.STEP}:
        return "has no effect: the step above has already used the gradients"
    if hook == "on_after_backward" and untouched and scaling_trainer(source) is not None:
        return "clips scaled gradients: Lightning unscales them after `on_after_backward`"
    return ""


def _runs_nothing(clip: Event) -> bool:
    """Whether nothing before a clip runs a part of the training step."""
    kinds = (kind for kind in _EARLIER if kind is not EventKind.EDIT)
    return {event.kind for event in clip.first_before(*kinds)} == {EventKind.START}
