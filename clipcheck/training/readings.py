"""How often a function of the file iterates over an argument, and whether anything is left for its clip.

An iterator such as `model.parameters()` yields its items only once: a second iteration sees nothing.
"""

from __future__ import annotations

from typing import NamedTuple

import libcst as cst

from clipcheck.gradients.manual_clips import manual_clips
from clipcheck.python.assignments import assigned_values
from clipcheck.python.names import last_name
from clipcheck.python.reaching import contains, reaching
from clipcheck.python.source import Source, memo
from clipcheck.training.acts import Act, EventKind, acts
from clipcheck.training.calls import Function, callee, generator_of
from clipcheck.training.clips import clips
from clipcheck.training.guards import exclusive
from clipcheck.training.one_shot import WRAPS, drains, is_one_shot
from clipcheck.training.summaries import DEPTH, act_of, does, home, returned

_TENSOR_TYPES = ("Tensor", "Parameter", "Variable")


class Reading(NamedTuple):
    """A use of a parameter that exhausts an iterator, and the code that does so."""

    use: cst.BaseExpression
    drain: cst.CSTNode


@memo
def readings(source: Source, function: Function, parameter: str, depth: int = DEPTH) -> tuple[Reading, ...]:
    """Where a function iterates over the whole argument of a parameter, in source order."""
    scope = source.names.scopes[function]
    found = []
    for use in source.names.uses(scope, parameter):
        if home(source, use) is function and _still_given(source, use):
            drain = drain_of(source, use, depth)
            if drain is not None:
                found.append(Reading(use, drain))
    return tuple(found)


def drain_of(source: Source, use: cst.BaseExpression, depth: int = DEPTH) -> cst.CSTNode | None:
    """The call or loop that exhausts the iterator at `use`, possibly inside a function of the file."""
    found = drains(source, use)
    if found is not None or not depth:
        return found
    arg = source.parent(use)
    call = source.parent(arg) if isinstance(arg, cst.Arg) else None
    if not isinstance(call, cst.Call):
        return None
    called = callee(source, call)
    if called is not None:
        names = [name for name, value in called.given.items() if value is use]
        return call if any(readings(source, called.function, name, depth - 1) for name in names) else None
    return drain_of(source, call, depth) if last_name(call.func) in WRAPS else None


@memo
def clip_after_drain(source: Source, function: Function, parameter: str) -> Reading | None:
    """The clip in a function that sees an exhausted iterator; its `drain` is the earlier code that exhausts it."""
    found = readings(source, function, parameter)
    for clip in found:
        for earlier in found[: found.index(clip)] if clips_by(source, clip.drain) else ():
            if not contains(source, earlier.drain, clip.use) and not exclusive(source, earlier.use, clip.use):
                return Reading(clip.use, earlier.drain)
    return None


def clips_by(source: Source, drain: cst.CSTNode) -> bool:
    """Whether the code that iterates over parameters clips their gradients."""
    if isinstance(drain, cst.For):
        return any(drain is clip.loop for clip in manual_clips(source)) or _scales_by_quotient(source, drain)
    if not isinstance(drain, cst.Call):
        return False
    act = act_of(source, drain)
    if act is not None:
        return act.kind is EventKind.CLIP
    called = callee(source, drain)
    return called is not None and (
        does(source, called.function, EventKind.CLIP)
        or any(
            home(source, loop) is called.function and clips_by(source, loop)
            for loop in source.nodes(cst.For)
            if contains(source, called.function, loop)
        )
    )


def _scales_by_quotient(source: Source, loop: cst.For) -> bool:
    """Whether a loop multiplies gradients by a quotient, such as a limit over a norm that a function has computed."""
    for node in source.walk(loop.body):
        match acts(source).get(node), node:
            case Act(kind=EventKind.EDIT), cst.AugAssign(operator=cst.MultiplyAssign(), value=by):
                return _is_quotient(source, by)
            case Act(kind=EventKind.EDIT), cst.Call(
                func=cst.Attribute(attr=cst.Name("mul_")), args=[cst.Arg(value=by)]
            ):
                return _is_quotient(source, by)
    return False


def _is_quotient(source: Source, node: cst.CSTNode | None, depth: int = 4) -> bool:
    match node:
        case cst.BinaryOperation(left=left, operator=cst.Divide()):
            return not isinstance(left, cst.BaseNumber)  # `1.0 / scale` unscales
        case cst.Name() if depth:
            return any(_is_quotient(source, value, depth - 1) for value in assigned_values(source, node))
        case cst.Call(func=func, args=args) if depth:
            inner = [arg.value for arg in args] + ([func.value] if isinstance(func, cst.Attribute) else [])
            return any(_is_quotient(source, value, depth - 1) for value in inner)
    return False


@memo
def is_clipped_by_torch(source: Source, function: Function, parameter: str, depth: int = DEPTH) -> bool:
    """Whether a function first passes the argument of a parameter to one of torch's clips.

    Also through functions that it calls; earlier iterations over it might set the `.grad` of the tensors.
    """
    for reading in readings(source, function, parameter)[:1]:
        if any(reading.drain is clip.call and reading.use is clip.parameters for clip in clips(source)):
            return True
        called = callee(source, reading.drain) if depth and isinstance(reading.drain, cst.Call) else None
        if called is not None:
            names = [name for name, value in called.given.items() if value is reading.use]
            if any(is_clipped_by_torch(source, called.function, name, depth - 1) for name in names):
                return True
    return False


@memo
def makes_iterator(source: Source, node: cst.BaseExpression, depth: int = DEPTH) -> bool:
    """Whether an expression creates an iterator that yields its items only once, possibly in a function of the file."""
    if is_one_shot(source, node) or (isinstance(node, cst.Call) and generator_of(source, node) is not None):
        return True
    if isinstance(node, cst.IfExp):
        return all(depth > 0 and makes_iterator(source, part, depth - 1) for part in (node.body, node.orelse))
    called = callee(source, node) if isinstance(node, cst.Call) and depth else None
    values = None if called is None else returned(source, called.function)
    return bool(values) and all(makes_iterator(source, value, depth - 1) for value in values or ())


def _still_given(source: Source, use: cst.Name) -> bool:
    """Whether a parameter certainly still holds its argument, if that is an iterator.

    `if isinstance(ps, torch.Tensor): ps = [ps]` replaces a single tensor only.
    """
    return all(b.kind == "parameter" or _wraps_one(source, b.node, b.value) for b in reaching(source, use))


def _wraps_one(source: Source, place: cst.CSTNode, value: cst.BaseExpression | None) -> bool:
    """Whether an assignment makes a list of one tensor, under a test that it is a tensor."""
    match value:
        case cst.List(elements=[cst.Element(value=cst.Name(value=inner))]):
            around = source.enclosing(place, cst.If)
            test = "" if around is None else source.code(around.test)
            return isinstance(place, cst.Name) and place.value == inner and test.endswith(
                tuple(f"{name})" for name in _TENSOR_TYPES)
            )  # fmt: skip
    return False
