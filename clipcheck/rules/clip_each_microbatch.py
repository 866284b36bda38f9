"""
## What it does
Finds clips that run for every micro-batch although the optimizer steps only once for several of them: the step is under
an accumulation guard such as `if (i + 1) % accumulation_steps == 0:`, the clip is not; or the step comes after a loop over
the micro-batches, and the clip is inside it.

## Why is this bad?
Each clip scales the sum of the gradients so far, not the gradient of the whole batch: the first micro-batches are
scaled down repeatedly, so the direction is wrong. For two micro-batches of equal size the direction becomes
(0.05, 1.00) instead of (0.71, 0.71).

## How to fix by hand
Clip once, right before the step:

```python
loss.backward()
if (i + 1) % accumulation_steps == 0:
    torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm)
    optimizer.step()
    optimizer.zero_grad()
```

## Fix safety
Unsafe: moves the clip, and its `unscale_`, under the guard and above the step, so that training changes.

## When to suppress it
Where each micro-batch is to be clipped on its own, as in differentially private training.

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
from clipcheck.rule import Fix, Hit
from clipcheck.training.acts import EventKind
from clipcheck.training.counting import may_be_guarded
from clipcheck.training.flows import Event, Flow, flows
from clipcheck.training.microbatches import guarded_step, leads_to_backward, place_of, step_elsewhere
from clipcheck.training.parameters import belong

BY_HAND = "clip once, right before the step"
_PER_SAMPLE = re.compile(r"\bopacus\b|per_sample|grad_sample")


def check(source: Source) -> Iterator[Hit]:
    if _PER_SAMPLE.search(source.text):
        return  # clipping each sample's gradient is the algorithm
    found: dict[cst.CSTNode, Hit] = {}  # what several callers lead to is one finding
    for flow in flows(source, EventKind.CLIP):
        for clip in flow.of(EventKind.CLIP):
            hit = _clip(source, flow, clip)
            if hit is not None:
                found.setdefault(hit.node, hit)
    yield from found.values()


def _clip(source: Source, flow: Flow, clip: Event) -> Hit | None:
    step = guarded_step(source, clip)
    if step is not None:
        if step.subject is not None and belong(source, clip.subject, step.subject) is False:
            return None
        used = step.node if step.at is clip.at else step.at
        message = f"clips every micro-batch, but the step on {source.where(used)} uses the sum of several"
        fix = into_guard(source, flow, clip, step)
        return _hit(source, clip, message, (used, "the gradients are used here"), fix)
    step = step_elsewhere(source, flow, clip)
    if step is not None:
        message = f"clips a partial sum of the gradients that the step on {source.where(step.at)} uses"
        return _hit(source, clip, message, (step.at, "the gradients are used here"))
    return _in_region(source, clip)


def _hit(
    source: Source, clip: Event, message: str, related: tuple[cst.CSTNode, str], fix: Fix | None = None, help: str = ""
) -> Hit:
    node = place_of(clip)
    others = [related] if node is clip.at else [(clip.at, "called here"), related]
    return Hit(node, message, fix, "" if fix else help or BY_HAND, tuple(others))


def _in_region(source: Source, clip: Event) -> Hit | None:
    """A clip in a block that accumulates gradients: `accumulate()`, or `no_sync()`."""
    region = _region(source, clip, "accumulate")
    if region is not None and not may_be_guarded(source, clip):
        message = f"clips every micro-batch: `accumulate()` on {source.where(region)} accumulates several"
        help = "clip under `if accelerator.sync_gradients:`"
        return _hit(source, clip, message, (region, "accumulates here"), help=help)
    region = _region(source, clip, "no_sync")
    if region is not None and leads_to_backward(clip):
        message = f"clips every micro-batch: `no_sync()` on {source.where(region)} accumulates several"
        return _hit(source, clip, message, (region, "gradients are not averaged in this block"))
    return None


def _region(source: Source, clip: Event, method: str) -> cst.CSTNode | None:
    """The `with ….method(…):` around a clip or around a call that leads to it."""
    for place in clip.places:
        for above in source.ancestors(place):
            match above:
                case cst.With(items=items):
                    for item in items:
                        match item.item:
                            case cst.Call(func=cst.Attribute(attr=cst.Name(value=name))) as call if name == method:
                                return call
                case cst.FunctionDef():
                    break
    return None
