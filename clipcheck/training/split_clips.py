"""Norm clips of one part of the parameters at a time: the loop over the parts, and whether all have the same limit."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

import libcst as cst

from clipcheck.python.assignments import only_assignment
from clipcheck.python.names import last_name
from clipcheck.python.source import Source, memo
from clipcheck.training.clips import Clip, bound, clips, only_measures
from clipcheck.training.possible_limits import guards

Loop: TypeAlias = "cst.For | cst.CompFor"


@memo
def norm_clips(source: Source) -> tuple[Clip, ...]:
    """Torch's norm clips, and methods that take parameters and a limit, such as an Accelerator's; not mere measurements."""
    found = (*(clip for clip in clips(source) if clip.is_norm), *_by_methods(source))
    return tuple(clip for clip in found if not only_measures(source, clip.call))


def _by_methods(source: Source) -> Iterator[Clip]:
    for call in source.nodes(cst.Call):
        match call.func:
            case cst.Attribute(attr=cst.Name("clip_grad_norm_")) if source.qualified(call.func) is None:
                clip = bound(call, "clip_grad_norm_")
                if clip.parameters is not None and clip.limit is not None:
                    yield clip


def loops_around(source: Source, node: cst.CSTNode) -> Iterator[Loop]:
    """The loops and comprehensions that repeat `node` in its function, innermost first."""
    inner = node
    for above in source.ancestors(node):
        match above:
            case cst.For(body=body) if inner is body:
                yield above
            case cst.ListComp(for_in=clause) | cst.SetComp(for_in=clause) | cst.GeneratorExp(for_in=clause):
                if inner is not clause:
                    yield from reversed(list(_clauses(clause)))
            case cst.DictComp(for_in=clause) if inner is not clause:
                yield from reversed(list(_clauses(clause)))
            case cst.FunctionDef() | cst.Lambda() | cst.ClassDef():
                return
        inner = above


def _clauses(clause: cst.CompFor | None) -> Iterator[cst.CompFor]:
    while clause is not None:
        yield clause
        clause = clause.inner_for_in


def is_bound_by(source: Source, name: cst.CSTNode, loop: Loop) -> bool:
    """Whether the target of a loop binds a name."""
    if not isinstance(name, cst.Name):
        return False
    targets = {id(node) for node in source.walk(loop.target)}
    return any(id(binding.node) in targets for binding in source.bindings(name))


def loop_of_part(source: Source, part: cst.BaseExpression, clip: cst.CSTNode) -> Loop | None:
    """The innermost loop around a clip whose variable an expression depends on."""
    names = [node for node in source.walk(part) if isinstance(node, cst.Name)]
    for loop in loops_around(source, clip):
        if any(is_bound_by(source, name, loop) for name in names):
            return loop
    return None


def has_one_limit(source: Source, clip: Clip, loop: Loop) -> bool:
    """Whether every part has the same limit: it does not depend on anything that the loop binds."""
    others = [value for name, value in clip.arguments.items() if name != "parameters"]
    return bool(others) and not any(_goes_into(source, value, loop) for value in others)


def _goes_into(source: Source, value: cst.CSTNode, loop: Loop) -> bool:
    """Whether an expression contains a name that a loop, or its body, binds."""
    parts = (loop.target, loop.body) if isinstance(loop, cst.For) else (loop.target,)
    inside = {id(node) for part in parts for node in source.walk(part)}
    return any(
        isinstance(name, cst.Name) and any(id(binding.node) in inside for binding in source.bindings(name))
        for name in source.walk(value)
    )


def whole_of(source: Source, node: cst.BaseExpression, depth: int = 4) -> cst.BaseExpression:
    """What a list was made from: `p` if it contains all or some of the elements of `p`, possibly through a name."""
    match node:
        case cst.Call(func=cst.Name("list" | "tuple" | "filter" | "iter"), args=[*_, cst.Arg(value=inner)]):
            return whole_of(source, inner, depth)
        case cst.ListComp(elt=cst.Name(value=elt), for_in=cst.CompFor(target=cst.Name(value=target), iter=inner)) if (
            elt == target
        ):
            return whole_of(source, inner, depth)
        case cst.GeneratorExp(
            elt=cst.Name(value=elt), for_in=cst.CompFor(target=cst.Name(value=target), iter=inner)
        ) if elt == target:
            return whole_of(source, inner, depth)
        case cst.Name() if depth:
            binding = only_assignment(source, node)
            if binding is not None and binding.value is not None and _selects(binding.value):
                return whole_of(source, binding.value, depth - 1)
    return node


def _selects(value: cst.BaseExpression) -> bool:
    match value:
        case cst.ListComp() | cst.GeneratorExp() | cst.Subscript():
            return True
        case cst.Call(func=func):
            return last_name(func) in ("list", "tuple", "filter", "parameters")
    return False


def gives_modules(loop: Loop) -> bool:
    """Whether a loop iterates over `modules()`, which yields the whole model first, then its parts."""
    match loop.iter:
        case cst.Call(func=cst.Attribute(attr=cst.Name("modules" | "named_modules")), args=[]):
            return True
    return False


def begins_with_all(source: Source, part: cst.BaseExpression, loop: Loop) -> bool:
    """Whether the first iteration of a loop clips a whole model, and the other iterations clip parts of it."""
    match part:
        case cst.Call(func=cst.Attribute(value=cst.Name() as name, attr=cst.Name("parameters")), args=[]):
            return gives_modules(loop) and is_bound_by(source, name, loop)
    return False


def is_guarded_in(source: Source, node: cst.CSTNode, loop: Loop) -> bool:
    """Whether a test inside a loop decides whether `node` runs."""
    inside = {id(inner) for inner in source.walk(loop)}
    tested = isinstance(loop, cst.CompFor) and bool(loop.ifs)
    return tested or any(id(guard.test) in inside for guard in guards(source, node))
