"""
## What it does
Finds clips that run for every micro-batch although the optimizer steps once in several: the step stands under an
accumulation guard such as `if (i + 1) % accumulation_steps == 0:`, the clip does not.

## Why is this bad?
Each clip bounds the sum of the gradients so far, not the gradient of the whole batch: micro-batches that came first are
scaled down again and again, so the direction is wrong. For two micro-batches of equal size the direction becomes
(0.05, 1.00) instead of (0.71, 0.71).

## Fix safety
Unsafe: moves the clip, with the `unscale_` that belongs to it, under the guard and above the step. Training changes.

## References
- huggingface/transformers#986, #1563 (fixed in #1580), facebookresearch/lingua#59, huggingface/diffusers#721
- finegrain-ai/refiners#326, Deci-AI/super-gradients#653
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import libcst as cst

from clipcheck.fixes.into_guard import into_guard
from clipcheck.python.source import Source
from clipcheck.rule import Hit
from clipcheck.training.acts import EventKind
from clipcheck.training.flows import Event, Flow, flows
from clipcheck.training.guards import accumulation_guard
from clipcheck.training.microbatches import guarded_step
from clipcheck.training.parameters import belong

BY_HAND = "clip once, right before the step"
_PER_SAMPLE = re.compile(r"\bopacus\b|per_sample|grad_sample")


def check(source: Source) -> Iterator[Hit]:
    if _PER_SAMPLE.search(source.text):
        return  # clipping each sample's gradient is the algorithm
    for flow in flows(source, EventKind.CLIP):
        for clip in flow.of(EventKind.CLIP):
            yield from _clip(source, flow, clip)


def _clip(source: Source, flow: Flow, clip: Event) -> Iterator[Hit]:
    step = guarded_step(source, clip)
    if step is not None:
        if step.subject is not None and belong(source, clip.subject, step.subject) is False:
            return
        message = f"clips every micro-batch, but the step on {source.where(step.at)} uses the sum of several"
        fix = into_guard(source, flow, clip, step)
        yield Hit(clip.at, message, fix, "" if fix else BY_HAND, ((step.at, "the gradients are used here"),))
        return
    region = _accumulate(source, clip.at)
    if region is not None and not _is_synchronised(source, clip.at):
        message = f"clips every micro-batch: `accumulate()` on {source.where(region)} adds up several"
        yield Hit(
            clip.at, message, None, "clip under `if accelerator.sync_gradients:`", ((region, "accumulates here"),)
        )


def _accumulate(source: Source, node: cst.CSTNode) -> cst.CSTNode | None:
    """The `accelerator.accumulate(model)` whose block holds `node`."""
    for above in source.ancestors(node):
        match above:
            case cst.With(items=items):
                for item in items:
                    match item.item:
                        case cst.Call(func=cst.Attribute(attr=cst.Name("accumulate"))) as call:
                            return call
            case cst.FunctionDef():
                return None
    return None


def _is_synchronised(source: Source, node: cst.CSTNode) -> bool:
    return accumulation_guard(source, node) is not None
