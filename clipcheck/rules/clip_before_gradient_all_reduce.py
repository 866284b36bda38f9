"""
## What it does
Finds a clip of gradients that are all-reduced by hand after it and before the step, in the same function or in one that
it calls, or in the only method of that name. An inherited method or an imported function counts if its name says so:
`self.sync_gradients(model)`, `distributed.avg_grads(model)`.

## Why is this bad?
Each rank clips its own gradients by its own norm, and what the step uses is the mean (or the sum) of the results. Ranks
with large gradients count less in it, so its direction is not that of the gradient of the whole batch; the norm of a
sum may be up to `world_size * max_norm`; and the clip returns the norm of one rank. The rule cannot tell whether this
is intended, but it seldom is.

## How to fix by hand
All-reduce the gradients first, then clip: all ranks then compute the same norm and take the same step.

## Fix safety
Unsafe: training changes. The fix moves the all-reduce above the clip where both are in the same block.

## When to suppress it
Where each rank's gradients should be clipped on their own, for instance against one bad batch on one rank.

## References
- NVIDIA/Megatron-LM#1998, mindspore-lab/mindcv#603, opendilab/LightZero
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import libcst as cst

from clipcheck.fixes.move import moved, names_settled, stands_alone
from clipcheck.fixes.verbs import lines_of
from clipcheck.python.source import Source, memo
from clipcheck.rule import Fix, Hit, Safety
from clipcheck.training.acts import EventKind
from clipcheck.training.calls import callees
from clipcheck.training.flows import Event, flows
from clipcheck.training.guards import exclusive
from clipcheck.training.parameters import owners
from clipcheck.training.summaries import home, is_called_reduction, is_reduction, reductions

TITLE = "All-reduce the gradients before the clip"
BY_HAND = "all-reduce the gradients first, then clip, unless each rank is to be clipped on its own"


def check(source: Source) -> Iterator[Hit]:
    for flow in flows(source, EventKind.CLIP):
        places = [place for place in _reductions(source) if home(source, place) is flow.function]
        for clip in flow.of(EventKind.CLIP) if places else ():
            after = _reduced_after(source, clip, places)
            if after is not None:
                where = source.where(after)
                message = f"clips each rank's own gradients before the all-reduce on {where}: the direction changes"
                fix = None if clip.is_called else _fix(source, clip, after)
                related = ((after, "the gradients are all-reduced here"),)
                yield Hit(clip.at, message, fix, "" if fix else BY_HAND, related)


@memo
def _reductions(source: Source) -> tuple[cst.Call, ...]:
    """The calls that all-reduce gradients, by themselves or in the function of the file that they run."""
    return tuple(call for call in source.nodes(cst.Call) if _reduces(source, call))


def _reduces(source: Source, call: cst.Call) -> bool:
    called = list(callees(source, call))
    by_name = not called and (is_called_reduction(source, call) or _is_reducing_method(source, call))
    return by_name or is_reduction(source, call) or any(reductions(source, one.function) for one in called)


def _is_reducing_method(source: Source, call: cst.Call) -> bool:
    """Whether the only method of this name in the file, of an object whose class is unknown here, reduces gradients."""
    match call.func:
        case cst.Attribute(value=cst.Name() | cst.Attribute(), attr=cst.Name(value=name)):
            method = _only_methods(source).get(name)
            return method is not None and bool(reductions(source, method))
    return False


@memo
def _only_methods(source: Source) -> dict[str, cst.FunctionDef]:
    """The methods of the file whose name no other function has."""
    functions = list(source.nodes(cst.FunctionDef))
    count = Counter(function.name.value for function in functions)
    methods = (f for f in functions if isinstance(source.enclosing(f, cst.FunctionDef, cst.ClassDef), cst.ClassDef))
    return {method.name.value: method for method in methods if count[method.name.value] == 1}


def _reduced_after(source: Source, clip: Event, places: list[cst.Call]) -> cst.Call | None:
    """The first all-reduce of what a clip has clipped, before the step uses it; None where one came before the clip."""
    at = source.rank(clip.at)
    starts = [source.rank(event.at) for event in clip.first_before(EventKind.BACKWARD, EventKind.ZERO_GRAD)]
    begin = max((start for start in starts if start < at), default=-1)
    ends = [source.rank(event.at) for event in clip.first_after(EventKind.STEP, EventKind.BACKWARD)]
    end = min((stop for stop in ends if stop > at), default=None)
    mine = [place for place in places if place is not clip.at and _may_be_same(source, clip, place)]
    if any(begin < source.rank(place) < at and not exclusive(source, place, clip.at) for place in mine):
        return None
    later = (place for place in mine if source.rank(place) > at and (end is None or source.rank(place) < end))
    return next((place for place in later if not exclusive(source, clip.at, place)), None)


def _may_be_same(source: Source, clip: Event, place: cst.Call) -> bool:
    """Whether nothing says that what is all-reduced are other modules' gradients than those that are clipped."""
    clipped = owners(source, clip.subject) if clip.subject is not None else None
    reduced = _modules(source, place)
    if not clipped or not reduced:
        return True
    return any(_within(one, other) or _within(other, one) for one in reduced for other in clipped)


def _modules(source: Source, place: cst.Call) -> set[str]:
    """The modules (as spelled) whose gradients a call all-reduces, as far as the code says."""
    loop = source.enclosing(place, cst.For)
    if is_reduction(source, place):
        return set(owners(source, loop.iter) or ()) if loop is not None else set()
    return {
        source.spelled(value)
        for called in callees(source, place)
        for name, value in called.given.items()
        if any(_asks_for_parameters(node, name) for node in source.walk(called.function))
    }


def _asks_for_parameters(node: cst.CSTNode, name: str) -> bool:
    match node:
        case cst.Attribute(value=cst.Name(value=owner), attr=cst.Name("parameters" | "named_parameters")):
            return owner == name
    return False


def _within(part: str, whole: str) -> bool:
    return part == whole or part.startswith(f"{whole}.")


def _fix(source: Source, clip: Event, place: cst.Call) -> Fix | None:
    """The statement that all-reduces moved above the clip, where the two are in one block."""
    block, index = source.siblings(source.statement(clip.node))
    above = {id(node) for node in source.ancestors(place)}
    following = [statement for statement in block[index + 1 :] if id(statement) in above]
    if not following or not stands_alone(source, block[index]) or not _only_reduces(source, following[0], place):
        return None
    start, stop = lines_of(source, block[index])[0], lines_of(source, following[0])[0]
    if not names_settled(source, following[0], start, stop):
        return None
    edits = moved(source, [following[0]], block[index])
    return None if edits is None else Fix(TITLE, Safety.UNSAFE, edits)


def _only_reduces(source: Source, statement: cst.CSTNode, place: cst.Call) -> bool:
    """Whether a statement does nothing but the all-reduce: the call, a loop of it, or that under a test."""
    match statement:
        case cst.SimpleStatementLine(body=[cst.Expr(value=value)]):
            return value is place
        case cst.For(orelse=None):
            return is_reduction(source, place)
        case cst.If(orelse=None, body=cst.IndentedBlock(body=[inner])):
            return _only_reduces(source, inner, place)
    return False
