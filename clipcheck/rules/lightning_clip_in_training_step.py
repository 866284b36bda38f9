"""
## What it does
Finds clips in the `training_step` of a LightningModule with automatic optimization.

## Why is this bad?
With automatic optimization Lightning calls `training_step` first, and then runs `backward()` and the step with the loss
that it returns. A clip in `training_step` gets the gradients of the previous step, or none; the new ones are never
clipped.

## How to fix by hand
Delete the call, and pass `gradient_clip_val=max_norm` to the `Trainer`. For a custom clip, override
`configure_gradient_clipping`, which Lightning calls after `backward()` and unscaling.

## Fix safety
No automatic fix: the `Trainer` is often created in another file.

## When to suppress it
Where `training_step` runs `backward()` on other parameters in a way that the file does not show.

## References
- https://lightning.ai/docs/pytorch/stable/advanced/training_tricks.html#gradient-clipping
- simchowitzlabpublic/nano-world-model#22
"""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from clipcheck.python.source import Source
from clipcheck.rule import Hit
from clipcheck.training.acts import EventKind
from clipcheck.training.classes import is_lightning_module
from clipcheck.training.flows import flows

MESSAGE = "clips before backward: Lightning runs `backward()` after `training_step` returns"
BY_HAND = "use `Trainer(gradient_clip_val=…)` or override `configure_gradient_clipping`"


def check(source: Source) -> Iterator[Hit]:
    for flow in flows(source, EventKind.CLIP):
        function = flow.function
        if not isinstance(function, cst.FunctionDef) or function.name.value != "training_step":
            continue
        owner = source.enclosing(function, cst.ClassDef)
        if owner is None or not is_lightning_module(source, owner) or _is_manual(source, owner):
            continue
        if flow.of(EventKind.BACKWARD, EventKind.STEP):
            continue
        for clip in flow.of(EventKind.CLIP):
            yield Hit(clip.at, MESSAGE, None, BY_HAND)


def _is_manual(source: Source, owner: cst.ClassDef) -> bool:
    """Whether the class, or one of its bases in this file, runs backward and step by itself."""
    for node in source.walk(owner):
        match node:
            case cst.Attribute(attr=cst.Name("automatic_optimization" | "manual_backward")):
                return True
            case cst.FunctionDef(name=cst.Name("automatic_optimization")):
                return True
    parents = [b for base in owner.bases if isinstance(base.value, cst.Name) for b in source.bindings(base.value)]
    return any(isinstance(b.node, cst.ClassDef) and b.node is not owner and _is_manual(source, b.node) for b in parents)
