"""
## What it does
Finds clips of `model.parameters()` after apex's `amp.scale_loss`, where the optimizer may have FP32 master weights.

## Why is this bad?
At `opt_level="O2"` the optimizer updates FP32 master weights, which have their own gradients. A clip of the model's
parameters changes gradients that the step does not use.

## How to fix by hand
Clip `amp.master_params(optimizer)`, as apex's documentation does; at O0 and O1 these are the model's own parameters.

## Fix safety
Unsafe: clips `amp.master_params(optimizer)`, which are the model's own parameters at O0 and O1. No automatic fix is offered
if the loss is scaled in one branch only, and the clip follows both: without apex there are no such parameters.

## When to suppress it
Where the program only ever runs at O0 or O1.

## References
- https://nvidia.github.io/apex/advanced.html#gradient-clipping
- Lightning-AI/pytorch-lightning#2556, NVIDIA/apex#201
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import libcst as cst

from clipcheck.fixes.verbs import replace
from clipcheck.python.reaching import contains
from clipcheck.python.source import Source
from clipcheck.rule import Fix, Hit, Safety
from clipcheck.training.acts import EventKind
from clipcheck.training.clips import Clip, clips
from clipcheck.training.flows import Event, flows
from clipcheck.training.guards import branches

BY_HAND = "no automatic fix: the loss is scaled in one branch only; clip `{text}` where it is"
# O0 and O1 update the model's own parameters, and nearly all programs choose O1.
_MASTER_COPIES = re.compile(r"""["']O2["']""")


def check(source: Source) -> Iterator[Hit]:
    if not _MASTER_COPIES.search(source.text):
        return
    own: dict[cst.CSTNode, Clip] = {clip.call: clip for clip in clips(source)}
    for flow in flows(source, EventKind.CLIP):
        for event in flow.of(EventKind.CLIP):
            clip = own.get(event.node)
            scaled = None if event.is_called else _scaled(source, event)
            match clip.parameters if clip is not None else None:
                case cst.Call(func=cst.Attribute(attr=cst.Name("parameters"))) as given if scaled is not None:
                    amp, optimizer = scaled
                    text = f"{source.outer_code(amp)}.master_params({source.code(optimizer)})"
                    message = "has no effect at O2: the step updates FP32 master weights, which are not clipped here"
                    if _is_in_another_branch(source, amp, event.node):
                        yield Hit(event.at, message, help=BY_HAND.format(text=text))
                        continue
                    fix = Fix("Clip the master weights", Safety.UNSAFE, (replace(source, given, text),))
                    yield Hit(event.at, message, fix)


def _is_in_another_branch(source: Source, amp: cst.CSTNode, clip: cst.CSTNode) -> bool:
    """Whether a test decides that `amp` is used, and not whether the clip runs."""
    return any(not contains(source, branch, clip) for branch, _ in branches(source, amp))


def _scaled(source: Source, clip: Event) -> tuple[cst.BaseExpression, cst.BaseExpression] | None:
    """The `amp` and the optimizer of the `amp.scale_loss(loss, optimizer)` whose backward comes before `clip`."""
    for backward in clip.first_before(EventKind.BACKWARD, EventKind.STEP, EventKind.UNKNOWN):
        for above in source.ancestors(backward.node):
            match above:
                case cst.With(
                    items=[
                        cst.WithItem(
                            item=cst.Call(
                                func=cst.Attribute(value=amp, attr=cst.Name("scale_loss")),
                                args=[_, cst.Arg(value=optimizer), *_],
                            )
                        )
                    ]
                ):
                    inside = any(node is clip.node for node in source.walk(above))
                    return None if backward.is_called or inside else (amp, optimizer)
    return None
