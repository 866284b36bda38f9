"""
## What it does
Finds a loop that clips each parameter group, or each part of a model, by its own norm with one and the same limit.

## Why is this bad?
Each group is bounded by itself, so the norm of the whole gradient may reach `sqrt(k) * max_norm`, and groups with large
gradients are slowed down against the others. Where separate clipping is meant, this is right: the rule is opt-in.

## Fix safety
Unsafe: clips the parameters of all groups in one call.

## References
- huggingface/transformers#614, pytorch/torchtitan#649, nvidia-cosmos/cosmos-rl#120
"""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from clipcheck.fixes.verbs import replace
from clipcheck.gradients.optimizers import is_in_optimizer
from clipcheck.python.source import Source
from clipcheck.rule import Fix, Hit, Safety
from clipcheck.training.clips import Clip, clips

BY_HAND = "clip the parameters of all of them in one call"


def check(source: Source) -> Iterator[Hit]:
    for clip in clips(source):
        loop = _loop(source, clip) if clip.is_norm else None
        if loop is not None and not is_in_optimizer(source, clip.call):
            fix = _fix(source, clip, loop)
            message = "clips each group by its own norm: together they may exceed the limit"
            yield Hit(clip.call, message, fix, "" if fix else BY_HAND, ((loop, "the loop over the groups"),))


def _loop(source: Source, clip: Clip) -> cst.For | None:
    """The loop whose variable `g` is clipped as `g["params"]`, or `m` as `m.parameters()`, with one limit for all."""
    match clip.parameters:
        case cst.Subscript(
            value=cst.Name() as name, slice=[cst.SubscriptElement(slice=cst.Index(value=cst.SimpleString() as key))]
        ) if key.evaluated_value == "params":
            pass
        case cst.Call(func=cst.Attribute(value=cst.Name() as name, attr=cst.Name("parameters"))):
            pass
        case _:
            return None
    loop = source.enclosing(clip.call, cst.For)
    if loop is None or not isinstance(loop.target, cst.Name) or loop.target.value != name.value:
        return None
    if clip.limit is None or any(isinstance(n, cst.Name) and n.value == name.value for n in source.walk(clip.limit)):
        return None
    steps = (node for node in source.walk(loop.body) if isinstance(node, cst.Attribute))
    return None if any(node.attr.value in ("step", "backward") for node in steps) else loop


def _fix(source: Source, clip: Clip, loop: cst.For) -> Fix | None:
    match loop.body:
        case cst.IndentedBlock(body=[cst.SimpleStatementLine(body=[cst.Expr(value=call)])]) if call is clip.call:
            pass
        case _:
            return None
    if clip.parameters is None or loop.orelse is not None or "#" in source.code(loop):
        return None
    target = source.code(loop.target)
    groups = source.outer_code(loop.iter)
    if isinstance(loop.iter, cst.IfExp) and not loop.iter.lpar:
        groups = f"({groups})"  # what a loop may go over and a comprehension may not
    every = f"[p for {target} in {groups} for p in {source.outer_code(clip.parameters)}]"
    if target == "p" or "\n" in source.code(clip.call):
        return None
    start, end = source.span(clip.call)
    at, to = source.span(clip.parameters)
    text = source.text[start:at] + every + source.text[to:end]
    return Fix("Clip all groups together", Safety.UNSAFE, (replace(source, loop, text),))
