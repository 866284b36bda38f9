"""
## What it does
Finds the result of a clip assigned to something that is not a norm: `loss =`, `grads =`, `params =`, `p.grad =`.

## Why is this bad?
`clip_grad_norm_` works in place and returns the norm before clipping. The old value is lost: the logged loss is a norm,
the list of parameters is a single number, and assigning `p.grad` raises an error or corrupts the gradient.

## How to fix by hand
Call it without assigning the result, or assign the result to a name for the norm: `grad_norm = clip_grad_norm_(…)`.

## Fix safety
Unsafe: removes the assignment where its target is a plain name, which then keeps its value. No automatic fix for
attributes.

## When to suppress it
Where the name is only unusual: `grads` is used as a norm everywhere.

## References
- https://pytorch.org/docs/stable/generated/torch.nn.utils.clip_grad_norm_.html
"""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from clipcheck.python.names import last_name
from clipcheck.python.source import Source
from clipcheck.python.words import words
from clipcheck.rule import Edit, Fix, Hit, Safety
from clipcheck.training.clips import clips

BY_HAND = "call the clip without assigning its result"
_NO_NORM = {"loss", "losses", "grads", "gradients", "params", "parameters", "model", "optimizer"}
_NORMS = {"norm", "norms", "gnorm", "total", "clip", "clipped", "value", "size", "magnitude"}


def check(source: Source) -> Iterator[Hit]:
    for clip in clips(source):
        match source.parent(clip.call):
            case cst.Assign(targets=[cst.AssignTarget(target=target)]) as assign if _is_no_norm(target):
                name = source.quoted(target, "the target")
                fix = _fix(source, assign, target)
                message = f"{name} becomes a norm: the clip works in place, so do not assign its result"
                yield Hit(assign, message, fix, "" if fix else BY_HAND)


def _is_no_norm(target: cst.BaseExpression) -> bool:
    parts = words(last_name(target))
    if isinstance(target, cst.Attribute) and parts in (("grad",), ("data",)):
        return True
    return bool(set(parts[-1:]) & _NO_NORM) and not set(parts) & _NORMS


def _fix(source: Source, assign: cst.Assign, target: cst.BaseExpression) -> Fix | None:
    """Only where the name has a value already: else its uses would raise a NameError."""
    if not isinstance(target, cst.Name):
        return None
    bindings = source.scope(target).bindings.get(target.value, [])
    if not any(source.rank(b.node) < source.rank(target) for b in bindings):
        return None
    start, end = source.span(assign)[0], source.span(assign.value)[0]
    return Fix("Drop the assignment", Safety.UNSAFE, (Edit(start, end, ""),))
