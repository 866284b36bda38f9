"""
## What it does
Finds a loop that clips each parameter group, or each part of a model, by its own norm with the same `max_norm`, also
through a function in this file.

## Why is this bad?
Each group is clipped on its own, so the total norm of `k` groups may reach `sqrt(k) * max_norm`, and groups with large
gradients learn more slowly than the others.

## Why is this rule opt-in?
Clipping each group on its own is often intended, and the code does not say whether it is.

## How to fix by hand
Clip the parameters of all groups in one call:

```python
params = [p for group in optimizer.param_groups for p in group["params"]]
torch.nn.utils.clip_grad_norm_(params, max_norm)
```

## Fix safety
Unsafe: clips the parameters of all groups in one call, so that training changes.

## When to suppress it
Where separate clipping is intended, for instance of an encoder and a decoder that train at different speeds.

## References
- huggingface/transformers#614, pytorch/torchtitan#649, nvidia-cosmos/cosmos-rl#120
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import libcst as cst

from clipcheck.fixes.verbs import replace
from clipcheck.gradients.optimizers import is_in_optimizer
from clipcheck.python.source import Source
from clipcheck.python.words import words
from clipcheck.rule import Fix, Hit, Safety
from clipcheck.training.calls import callee
from clipcheck.training.clips import Clip
from clipcheck.training.split_clips import (
    Loop,
    begins_with_all,
    gives_modules,
    has_one_limit,
    is_bound_by,
    is_guarded_in,
    loop_of_part,
    norm_clips,
    whole_of,
)

MESSAGE = "clips each group by its own norm: the total norm may exceed `max_norm`"
BY_HAND = "clip the parameters of all groups in one call"
_OF_STEPS = frozenset({"step", "backward", "zero_grad", "optimizer_step"})


class Split(NamedTuple):
    """A call that clips a part of the parameters, what the part is, and the loop that gives the parts."""

    call: cst.Call
    part: cst.BaseExpression
    loop: Loop


def check(source: Source) -> Iterator[Hit]:
    for clip in norm_clips(source):
        if is_in_optimizer(source, clip.call) or clip.parameters is None:
            continue
        part = whole_of(source, clip.parameters)
        for split in (_split(source, clip, part), *_by_calls(source, clip, part)):
            if split is not None:
                fix = _fix(source, clip, split) if split.call is clip.call else None
                yield Hit(split.call, MESSAGE, fix, "" if fix else BY_HAND, ((split.loop, "the loop over the groups"),))


def _split(source: Source, clip: Clip, part: cst.BaseExpression) -> Split | None:
    loop = loop_of_part(source, part, clip.call)
    if loop is None or not has_one_limit(source, clip, loop) or not _is_group(source, part, loop):
        return None
    all_first = begins_with_all(source, part, loop) and not is_guarded_in(source, clip.call, loop)  # CLIP110
    return None if _steps(source, loop) or all_first else Split(clip.call, part, loop)


def _steps(source: Source, loop: Loop) -> bool:
    """Whether a loop trains one model after the other, each with its own step."""
    return any(isinstance(node, cst.Attribute) and node.attr.value in _OF_STEPS for node in source.walk(loop))


def _is_group(source: Source, part: cst.BaseExpression, loop: Loop) -> bool:
    """Whether an expression is several parameters, those of what a loop goes through: `g["params"]`, `m.parameters()`."""
    match part:
        case cst.Subscript(slice=[cst.SubscriptElement(slice=cst.Index(value=cst.SimpleString() as key))]):
            return key.evaluated_value == "params"
        case cst.Call(func=cst.Attribute(attr=cst.Name("parameters"))):
            return True
        case cst.Name() if is_bound_by(source, part, loop):
            return _is_called_group(part.value)
    return False


def _is_called_group(name: str) -> bool:
    return [word for word in words(name) if word.isalpha()][-1:] in (["params"], ["parameters"])


def _by_calls(source: Source, clip: Clip, part: cst.BaseExpression) -> Iterator[Split]:
    """The calls, in a loop over groups, of the function that clips what it is given."""
    function = source.function(clip.call)
    if function is None:
        return
    name = _parameter_in(source, part)
    limit = {node.value for node in source.walk(clip.limit or part) if isinstance(node, cst.Name)}
    if name is None or name in limit:
        return
    for call in source.nodes(cst.Call):
        called = callee(source, call)
        if called is None or called.function is not function:
            continue
        given = called.given
        loop = loop_of_part(source, given[name], call) if name in given else None
        if loop is None or _steps(source, loop) or gives_modules(loop) or is_in_optimizer(source, call):
            continue
        # what the function clips is what it is given, or the parameters of that
        group = whole_of(source, given[name]) if isinstance(part, cst.Name) else part
        others = (value for other, value in given.items() if other != name)
        if _is_group(source, group, loop) and not any(_varies(source, value, loop) for value in others):
            yield Split(call, given[name], loop)


def _parameter_in(source: Source, part: cst.BaseExpression) -> str | None:
    """The parameter of a function that an expression goes back to."""
    for node in source.walk(part):
        match node:
            case cst.Name(value=name) if any(b.kind == "parameter" for b in source.bindings(node)):
                return name if name != "self" else None
    return None


def _varies(source: Source, value: cst.BaseExpression, loop: Loop) -> bool:
    return any(is_bound_by(source, node, loop) for node in source.walk(value))


def _fix(source: Source, clip: Clip, split: Split) -> Fix | None:
    loop = split.loop
    match loop:
        case cst.For(body=cst.IndentedBlock(body=[cst.SimpleStatementLine(body=[cst.Expr(value=call)])])) if (
            call is clip.call and split.part is clip.parameters
        ):
            pass
        case _:
            return None
    if loop.orelse is not None or "#" in source.code(loop):
        return None
    target = source.code(loop.target)
    groups = source.outer_code(loop.iter)
    if isinstance(loop.iter, cst.IfExp) and not loop.iter.lpar:
        groups = f"({groups})"  # what a loop may go over and a comprehension may not
    every = f"[p for {target} in {groups} for p in {source.outer_code(split.part)}]"
    names = {node.value for node in source.walk(loop.target) if isinstance(node, cst.Name)}
    if "p" in names or "\n" in source.code(clip.call):
        return None
    start, end = source.span(clip.call)
    at, to = source.outer_span(split.part)
    text = source.text[start:at] + every + source.text[to:end]
    return Fix("Clip all groups in one call", Safety.UNSAFE, (replace(source, loop, text),))
