"""
## What it does
Finds clips that are given a one-shot iterator (`model.parameters()`, `filter(...)`, `chain(...)`, a generator
expression) with nothing left in it: the optimizer, an earlier loop or the iteration before has used it up.

## Why is this bad?
The clip sees no parameters at all: it clips nothing and returns 0.0. torch warns for generators since 2.8, and stays
silent for `filter`, `map` and `chain`; `clip_grad_value_` raises an error that does not speak of the cause.

## Fix safety
Unsafe: makes a list where the iterator is made, so that clipping starts and training changes, which is the point.

## References
- pytorch/pytorch#148259, pytorch/pytorch#151529, PixArt-alpha/PixArt-alpha#160, pytorch/torchtitan#1258
"""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from clipcheck.python.source import Source
from clipcheck.rule import Edit, Fix, Hit, Safety
from clipcheck.training.clips import bound, clips
from clipcheck.training.iterators import Spent, spent

BY_HAND = "make a list of the parameters where the iterator is made"


def check(source: Source) -> Iterator[Hit]:
    for call, parameters in _clipped(source):
        found = spent(source, parameters)
        if found is not None:
            made = (found.made, "the iterator is made here")
            related = (made,) if found.again else (made, (found.drained, "and used up here"))
            yield Hit(call, _message(source, found), _fix(source, found), "", related)


def _clipped(source: Source) -> Iterator[tuple[cst.Call, cst.BaseExpression]]:
    for clip in clips(source):
        if clip.parameters is not None:
            yield clip.call, clip.parameters
    for call in source.nodes(cst.Call):
        match call.func:
            case cst.Attribute(value=cst.Name("accelerator"), attr=cst.Name("clip_grad_norm_" | "clip_grad_value_")):
                first = bound(call, "clip_grad_norm_").parameters
                if first is not None:
                    yield call, first


def _message(source: Source, found: Spent) -> str:
    name = f"`{found.name}`" if len(found.name) <= 24 else "the iterator"
    if not found.again:
        return f"gradients are never clipped: {name} was used up on {source.where(found.drained)}"
    made = source.where(found.made)
    if found.calls:
        return f"clips the first time only: {name} is a one-shot iterator, made once on {made}"
    return f"clips in the first iteration only: {name} is a one-shot iterator, made on {made}"


def _fix(source: Source, found: Spent) -> Fix:
    start, end = source.outer_span(found.made)
    if isinstance(found.made, cst.GeneratorExp) and source.text[start] == "(":
        edits = (Edit(start, start + 1, "["), Edit(end - 1, end, "]"))
    else:
        edits = (Edit(start, start, "list("), Edit(end, end, ")"))
    return Fix("Make a list, which can be used again and again", Safety.UNSAFE, edits)
