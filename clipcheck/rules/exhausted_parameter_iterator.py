"""
## What it does
Finds clips that are given a one-shot iterator (`model.parameters()`, `filter(...)`, `chain(...)`, a generator
expression) with nothing left in it: the optimizer, an earlier loop or the previous iteration has used it up. The clip
may be a call, a hand-written loop, or a function in this file that iterates over its argument twice: once for the norm
and once to clip.

## Why is this bad?
The clip gets no parameters at all: it clips nothing and returns 0.0. Since 2.8 torch warns about generators, but not
about `filter`, `map` and `chain`; `clip_grad_value_` raises an error that does not name the cause.

## How to fix by hand
Keep the parameters in a list, `params = list(model.parameters())`, or call `model.parameters()` again for each use.

## Fix safety
Unsafe: makes a list where the iterator is created, so that gradients are clipped and training changes.

## When to suppress it
Where the object can be iterated more than once although its constructor looks like that of an iterator.

## References
- pytorch/pytorch#148259, pytorch/pytorch#151529, PixArt-alpha/PixArt-alpha#160, pytorch/torchtitan#1258
"""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from clipcheck.gradients.manual_clips import manual_clips
from clipcheck.python.source import Source
from clipcheck.rule import Edit, Fix, Hit, Safety
from clipcheck.training.calls import Callee, callee
from clipcheck.training.clips import bound, clips, partial_clip
from clipcheck.training.iterators import Spent, iterator_made, spent
from clipcheck.training.readings import clip_after_drain, clips_by, readings


def check(source: Source) -> Iterator[Hit]:
    for at, parameters in _clipped(source):
        found = spent(source, parameters)
        if found is not None:
            yield _hit(source, at, found)
    for call in source.nodes(cst.Call):
        called = callee(source, call)
        if called is not None:
            yield from _handed_over(source, call, called)
        made = partial_clip(source, call)
        if made is not None and made.parameters is not None:
            found = spent(source, made.parameters, call)
            if found is not None:
                yield _hit(source, call, found)


def _clipped(source: Source) -> Iterator[tuple[cst.CSTNode, cst.BaseExpression]]:
    """The parameters that something clips, and where it does."""
    for clip in clips(source):
        if clip.parameters is not None:
            yield clip.call, clip.parameters
    for manual in manual_clips(source):
        yield manual.loop.iter, manual.loop.iter
    for call in source.nodes(cst.Call):
        match call.func:
            case cst.Attribute(value=cst.Name("accelerator"), attr=cst.Name("clip_grad_norm_" | "clip_grad_value_")):
                first = bound(call, "clip_grad_norm_").parameters
                if first is not None:
                    yield call, first


def _handed_over(source: Source, call: cst.Call, called: Callee) -> Iterator[Hit]:
    """Calls of functions that clip their argument, if it is already used up, or if the function itself uses it up."""
    for name, value in called.given.items():
        if not any(clips_by(source, reading.drain) for reading in readings(source, called.function, name)):
            continue
        found = spent(source, value)
        if found is not None:
            yield _hit(source, call, found)
            continue
        made = iterator_made(source, value)
        first = None if made is None else clip_after_drain(source, called.function, name)
        if made is not None and first is not None:
            message = "clips nothing: the function iterates over its argument twice, which empties an iterator"
            related = ((first.drain, "used up here"), (first.use, "and nothing is left here"))
            yield Hit(call, message, _fix(source, made), "", related)


def _hit(source: Source, at: cst.CSTNode, found: Spent) -> Hit:
    made = (found.made, "the iterator is made here")
    related = (made,) if found.again else (made, (found.drained, "and used up here"))
    return Hit(at, _message(source, found), _fix(source, found.made), "", related)


def _message(source: Source, found: Spent) -> str:
    name = f"`{found.name}`" if len(found.name) <= 24 else "the iterator"
    if not found.again:
        return f"gradients are never clipped: {name} was used up on {source.where(found.drained)}"
    made = source.where(found.made)
    if found.calls:
        return f"clips the first time only: {name} is a one-shot iterator, made once on {made}"
    return f"clips in the first iteration only: {name} is a one-shot iterator, made on {made}"


def _fix(source: Source, made: cst.BaseExpression) -> Fix:
    start, end = source.outer_span(made)
    if isinstance(made, cst.GeneratorExp) and source.text[start] == "(":
        edits = (Edit(start, start + 1, "["), Edit(end - 1, end, "]"))
    else:
        edits = (Edit(start, start, "list("), Edit(end, end, ")"))
    return Fix("Convert the iterator to a list", Safety.UNSAFE, edits)
