"""
## What it does
Finds a gradient norm that is measured after `clip_grad_norm_` has clipped the same gradients, and that is logged or
returned as if it were the norm of the gradient.

## Why is this bad?
The value never exceeds `max_norm`: a plot is flat exactly where gradients explode, which is what the norm is logged
for. `clip_grad_norm_` has computed the norm before clipping, and its result is unused.

## How to fix by hand
Use the result of the clip, `norm = clip_grad_norm_(parameters, max_norm)`, and delete the second computation. Where
both norms are wanted, give the second one a name that says so, such as `clipped_norm`.

## Fix safety
Unsafe: the logged norm changes; the steps stay the same, and the gradients are read once instead of twice. Offered
where the clip is a separate statement in the same block, and a single assignment computes the norm.

## When to suppress it
Where the norm after clipping is wanted. It is not reported where a name, key or comment says so (`clipped`, `after`,
`post`), or where the norm is also measured before the clip.

## References
- https://pytorch.org/docs/stable/generated/torch.nn.utils.clip_grad_norm_.html
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator

import libcst as cst

from clipcheck.fixes.verbs import comments_of, delete_lines, lines_of, replace
from clipcheck.gradients.norm_origin import base
from clipcheck.gradients.totals import total
from clipcheck.python.literals import number
from clipcheck.python.said import said
from clipcheck.python.source import Source
from clipcheck.rule import Fix, Hit, Role, Safety
from clipcheck.training.acts import EventKind
from clipcheck.training.clips import Clip, clips
from clipcheck.training.flows import Event, Flow
from clipcheck.training.measures import is_dropped, measures, shown, values
from clipcheck.training.measuring import measuring
from clipcheck.training.norm_places import order_of

MESSAGE = "norm of already clipped gradients: it never exceeds `max_norm`"
TITLE = "Use the norm that the clip returns"
BY_HAND = "log what `clip_grad_norm_` returns, or rename this norm so that it says `clipped`"
_ENDS = (
    *(EventKind.CLIP, EventKind.BACKWARD, EventKind.UNSCALE),
    *(EventKind.EDIT, EventKind.ZERO_GRAD, EventKind.UNKNOWN),
)
_SAYS_SO = frozenset("clip clipped clipping clamped after post new final scaled rescaled".split())
_COMMENT = re.compile(r"\b(after|post|clipped)\b", re.IGNORECASE)


def check(source: Source) -> Iterator[Hit]:
    seen: set[cst.CSTNode] = set()
    limits: dict[cst.CSTNode, Clip] = {clip.call: clip for clip in clips(source)}
    for flow in measuring(source):
        for event in flow.of(EventKind.MEASURE):
            node = shown(source, event.at, event.node)
            clip = _clip_before(source, flow, event, limits)
            if clip is not None and node not in seen and _is_reported(source, node):
                seen.add(node)
                fix = _fix(source, node, limits.get(clip.node))
                yield Hit(node, MESSAGE, fix, "" if fix else BY_HAND, ((clip.at, "the gradients are clipped here"),))


def _clip_before(source: Source, flow: Flow, event: Event, limits: dict[cst.CSTNode, Clip]) -> Event | None:
    """The clip of the same gradients that comes first on the paths back, if it discards the norm and nothing else has it.

    Other paths lead around a clip that a setting turns off.
    """
    earlier = event.first_before(*_ENDS)
    found = [one for one in earlier if one.kind is EventKind.CLIP]
    around = (EventKind.CLIP, EventKind.BACKWARD, EventKind.UNSCALE, EventKind.START)
    if not found or any(one.kind not in around for one in earlier):
        return None
    clip = found[0]
    if (
        clip.at is event.at
        or not all(_drops(source, one, limits) for one in found)
        or not _is_same(source, event, clip)
    ):
        return None
    others = [one for one in flow.of(EventKind.MEASURE) if one.at is not event.at]
    return None if any(clip in one.first_after(*_ENDS) for one in others) else clip


def _drops(source: Source, event: Event, limits: dict[cst.CSTNode, Clip]) -> bool:
    """Whether a clip by norm, with a limit, throws away the norm that it returns."""
    clip = limits.get(event.node)
    if clip is not None and (not clip.is_norm or number(source, clip.limit) == math.inf):
        return False
    return (clip is not None or event.wrapper == "accelerator") and is_dropped(source, event.node)


def _is_same(source: Source, event: Event, clip: Event) -> bool:
    """Whether the clip is of the gradients that are measured, as far as both are spelled in one function."""
    loops = measures(source)[event.node].loops
    if measures(source)[event.node].gradients == "computed":
        return False
    if event.is_called or clip.is_called or not loops or clip.subject is None:
        return True
    return base(source, loops[0].iterable) == base(source, clip.subject)


# --- what it is used as ----------------------------------------------------------------------------------------------


def _is_reported(source: Source, node: cst.CSTNode) -> bool:
    """Whether the norm has a use other than a check of the clip, and no name says that it is the clipped one."""
    function = source.function(node)
    if is_dropped(source, node) or (function is not None and function.name.value.startswith("test")):
        return False
    if any(_COMMENT.search(text) for text in _comments(source, node)):
        return False
    found = values(source, node)
    if all(_is_compared(source, value) for value in found):
        return False
    named = {word for value in (node, *found) for word in said(source, value)}
    return not _SAYS_SO & named and any("norm" in word or word.startswith("grad") for word in named)


def _comments(source: Source, node: cst.CSTNode) -> list[str]:
    statement = source.statement(node)
    first = source.line_at(lines_of(source, statement)[0])
    above = [source.text[a:b] for a, b in source.comments if source.line_at(a) == first - 1]
    return [*above, *comments_of(source, statement)]


def _is_compared(source: Source, value: cst.CSTNode) -> bool:
    return source.enclosing(value, cst.Assert, cst.Comparison) is not None


# --- the fix ---------------------------------------------------------------------------------------------------------


def _fix(source: Source, node: cst.CSTNode, clip: Clip | None) -> Fix | None:
    """`norm = …` and `clip_grad_norm_(…)` become one assignment of what the clip returns."""
    found = total(source, node)
    if clip is None or found is None or found.degree is None or not found.degree.is_one or found.kind == "numpy":
        return None
    measuring, clipping = source.statement(node), source.statement(clip.call)
    match measuring, clipping:
        case (
            cst.SimpleStatementLine(
                body=[cst.Assign(targets=[cst.AssignTarget(target=cst.Name() as name)], value=value)]
            ),
            cst.SimpleStatementLine(body=[cst.Expr()]),
        ) if value is node and found.term.order.equals(order_of(source, clip)) and not found.series.used:
            pass
        case _:
            return None
    block, here = source.siblings(measuring)
    start, end = source.span(clipping)[1], source.span(measuring)[0]
    between = any(start <= source.span(one)[0] < end for one in source.nodes(cst.Name) if one.value == name.value)
    if between or not any(other is clipping for other in block[:here]) or comments_of(source, measuring):
        return None
    text = f"{name.value} = {source.code(clip.call)}{'.item()' if found.kind == 'float' else ''}"
    edits = (replace(source, clip.call, text), delete_lines(source, measuring))
    named = [(source.code(clip.parameters), Role.PARAMETERS)] if clip.parameters is not None else []
    named += [(source.code(clip.limit), Role.MAX_NORM)] if clip.limit is not None else []
    return Fix(TITLE, Safety.UNSAFE, edits, roles=tuple(named))
