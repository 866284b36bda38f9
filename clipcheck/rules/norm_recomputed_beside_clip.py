"""
## What it does
Finds a gradient norm that is computed right before `clip_grad_norm_` clips the same parameters, there or in a function
of the file.

## Why is this bad?
`clip_grad_norm_` computes this norm anyway and returns it, as it was before clipping. The second computation reads all
gradients once more, and a loop with `.item()` also synchronizes with the device once per parameter.

## How to fix by hand
Use the result of the clip, `norm = clip_grad_norm_(parameters, max_norm)`, and delete the other computation.

## Fix safety
Unsafe: the norm becomes what `clip_grad_norm_` returns, which is rounded differently, and is assigned after the clip
instead of before it. A norm that is computed after the clip is not reported: it is that of the clipped gradients.

## When to suppress it
Where the two norms differ on purpose, for instance because one is computed in float64.

## References
- pytorch/pytorch#1032
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import libcst as cst

from clipcheck.fixes.verbs import comments_of, delete_lines, lines_of
from clipcheck.python.literals import number
from clipcheck.python.reaching import contains
from clipcheck.python.source import Source, Statement
from clipcheck.rule import Edit, Fix, Hit, Role, Safety
from clipcheck.training.clips import Clip, clips
from clipcheck.training.norm_places import Norm, called, measured, order_of, plain

MESSAGE = "`clip_grad_norm_` already returns this norm: it is computed twice"
BY_HAND = "no automatic fix: {why}; use the value that `clip_grad_norm_` returns"

# Calls that may change a gradient.
_CHANGES = frozenset(
    "backward step zero_grad unscale_ unscale_gradients mul_ div_ clamp_ add_ copy_ zero_ fill_ clip_grad_value_ "
    "clip_grad_norm_ clip_grads_with_norm_ all_reduce synchronize reduce_gradients".split()
)
_REACH = 8  # statements between the norm and the clip that are looked through


def check(source: Source) -> Iterator[Hit]:
    found = {id(source.statement(norm.node)): norm for norm in (*called(source), *measured(source))}
    for clip in clips(source):
        if not clip.is_norm or clip.parameters is None or number(source, clip.limit) == math.inf:
            continue
        statement = source.statement(clip.call)
        siblings, here = source.siblings(statement)
        for before in reversed(siblings[max(0, here - _REACH) : here]):
            norm = found.get(id(before)) or _within(source, before, found)
            if norm is not None and _same(source, norm, clip):
                yield _hit(source, norm, clip, siblings, here)
                break
            if _changes(source, before):
                break


def _within(source: Source, statement: Statement, found: dict[int, Norm]) -> Norm | None:
    """The norm whose loop is this statement."""
    if not isinstance(statement, cst.For):
        return None
    return next((norm for norm in found.values() if contains(source, statement, norm.node)), None)


def _same(source: Source, norm: Norm, clip: Clip) -> bool:
    """Whether the clip's parameters are those of the norm: by their spelling, without the tests for None."""
    assert clip.parameters is not None
    wanted = plain(source, clip.parameters)
    same = wanted in norm.parameters or wanted.removeprefix("[").removesuffix("]") in norm.parameters
    return same and norm.order.equals(order_of(source, clip))


def _changes(source: Source, statement: Statement) -> bool:
    for node in source.walk(statement):
        match node:
            case cst.Call(func=cst.Attribute(attr=cst.Name(value=name)) | cst.Name(value=name)) if name in _CHANGES:
                return True
            case cst.AssignTarget(target=cst.Attribute(attr=cst.Name(value="grad"))):
                return True
    return False


def _hit(source: Source, norm: Norm, clip: Clip, siblings: list[Statement], here: int) -> Hit:
    related = ((clip.call, "clips the same parameters and returns their norm"),)
    outcome = _fix(source, norm, clip, siblings, here)
    if isinstance(outcome, str):
        return Hit(norm.node, MESSAGE, None, BY_HAND.format(why=outcome), related)
    return Hit(norm.node, MESSAGE, outcome, "", related)


def _fix(source: Source, norm: Norm, clip: Clip, siblings: list[Statement], here: int) -> Fix | str:
    """`norm = …` and `clip_grad_norm_(…)` become one assignment of what the clip returns."""
    if norm.value is None:
        return f"the norm is computed in a {'function' if isinstance(norm.node, cst.Call) else 'loop'}"
    line, clipping = source.statement(norm.node), siblings[here]
    match line, clipping:
        case (
            cst.SimpleStatementLine(
                body=[cst.Assign(targets=[cst.AssignTarget(target=cst.Name() as name)], value=value)]
            ),
            cst.SimpleStatementLine(body=[cst.Expr(value=call)]),
        ) if value is norm.value and call is clip.call:
            pass
        case _:
            return "the norm or the clip is part of a larger statement"
    start, end = source.span(line)[1], source.span(clipping)[1]
    uses = source.names.uses(source.scope(name).owner(name.value), name.value)
    if any(start <= source.span(use)[0] < end for use in uses):
        return f"`{name.value}` is used before the clip"
    if comments_of(source, line):
        return "it would remove a comment"
    text = f"{name.value} = {source.code(clip.call)}{'.item()' if norm.item else ''}"
    named = [(source.code(clip.parameters), Role.PARAMETERS)] if clip.parameters is not None else []
    named += [(source.code(clip.limit), Role.MAX_NORM)] if clip.limit is not None else []
    first, stop = lines_of(source, clipping)
    before, after = source.text[first : source.span(clip.call)[0]], source.text[source.span(clip.call)[1] : stop]
    edits = (delete_lines(source, line), Edit(first, stop, f"{before}{text}{after}"))
    return Fix("Use the norm that `clip_grad_norm_` returns", Safety.UNSAFE, edits, roles=tuple(named))
