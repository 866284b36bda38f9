"""
## What it does
Finds torch's `clip_grad_norm_` on the parameters of a model that was wrapped by FSDP1 (`FullyShardedDataParallel`).

## Why is this bad?
Each rank has a shard of every gradient, so each rank computes a different norm, smaller than the total norm, and scales
its shards by a different coefficient. The model's method `clip_grad_norm_` computes the norm across ranks.

## How to fix by hand
Call the wrapped model's own method, on all ranks: `model.clip_grad_norm_(max_norm)`.

## Fix safety
Unsafe: calls the model's method, a collective that all ranks have to call. FSDP2 (`fully_shard`) is not affected:
torch's function is correct there.

## When to suppress it
Where `NO_SHARD` is the only sharding strategy: each rank then has whole gradients.

## References
- https://pytorch.org/docs/stable/fsdp.html#torch.distributed.fsdp.FullyShardedDataParallel.clip_grad_norm_
- pytorch/pytorch#72548, ContextualAI/HALOs#15, PrimeIntellect-ai/OpenDiloco#6, Modalities/modalities#206
"""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from clipcheck.fixes.verbs import replace
from clipcheck.python.source import Source
from clipcheck.rule import Fix, Hit, Safety
from clipcheck.training.calls import callee, calls_of
from clipcheck.training.clips import Clip, clips
from clipcheck.training.guards import branches
from clipcheck.training.parameters import attribute_bindings
from clipcheck.training.summaries import home, returned

BY_HAND = "call the wrapped model's own `clip_grad_norm_(max_norm)`"


def check(source: Source) -> Iterator[Hit]:
    for clip in clips(source):
        match clip.parameters:
            case cst.Call(func=cst.Attribute(value=model, attr=cst.Name("parameters")), args=()) if clip.is_norm:
                wrapped = _wrapped_by_fsdp(source, model)
                if wrapped is not None and not _is_dispatched(source, clip.call):
                    where = source.where(wrapped)
                    message = f"each rank clips by the norm of its own shards: FSDP wraps the model on {where}"
                    fix = _fix(source, clip, model)
                    yield Hit(
                        clip.call, message, fix, "" if fix else BY_HAND, ((wrapped, "the model is sharded here"),)
                    )


def _wrapped_by_fsdp(source: Source, model: cst.BaseExpression, depth: int = 3) -> cst.Call | None:
    """The `FSDP(…)` that is the last thing the name is assigned before, None where it may be something else."""
    match model:
        case cst.Name():
            owner = source.scope(model).owner(model.value)
            bindings = owner.bindings[model.value] if owner else []
            if bindings and all(b.kind == "parameter" for b in bindings):
                return _given_by_callers(source, model, depth - 1) if depth else None
            if any(b.kind != "assign" for b in bindings):
                bindings = [b for b in bindings if b.kind == "assign"] if owner is source.scope(model) else []
            values = [b.value for b in bindings if source.rank(b.node) < source.rank(model)]
        case cst.Attribute(value=cst.Name("self")):
            values = [value for _, value in attribute_bindings(source, model)]
        case _:
            return None
    match values[-1:]:
        case [cst.Call() as made]:
            return _wrapping(source, made, model, depth)
    return None


def _wrapping(source: Source, made: cst.Call, place: cst.CSTNode, depth: int) -> cst.Call | None:
    """The `FSDP(…)` that a call is, or that the function which it calls returns, on every path that leads to `place`."""
    if any(True for _ in branches(source, made)) and not _same_branch(source, made, place):
        return None
    if (source.qualified(made.func) or "").endswith(".FullyShardedDataParallel"):
        return None if "NO_SHARD" in source.code(made) else made
    called = callee(source, made) if depth else None
    values = () if called is None else returned(source, called.function) or ()
    found = [
        _wrapping(source, value, value, depth - 1)
        if isinstance(value, cst.Call)
        else _wrapped_by_fsdp(source, value, depth - 1)
        for value in values
    ]
    return found[0] if found and None not in found and not any(True for _ in branches(source, values[0])) else None


def _given_by_callers(source: Source, parameter: cst.Name, depth: int) -> cst.Call | None:
    """The `FSDP(…)` that every caller in this file gives for a parameter."""
    function = home(source, source.bindings(parameter)[0].node)
    callers = () if isinstance(function, cst.Module) else calls_of(source, function)
    given = [called.given.get(parameter.value) for called in callers]
    found = [None if value is None else _wrapped_by_fsdp(source, value, depth) for value in given]
    return found[0] if found and None not in found else None


def _same_branch(source: Source, one: cst.CSTNode, other: cst.CSTNode) -> bool:
    around = {(id(branch), outcome) for branch, outcome in branches(source, other)}
    return all((id(branch), outcome) in around for branch, outcome in branches(source, one))


def _is_dispatched(source: Source, node: cst.CSTNode) -> bool:
    """Whether a test around the clip has asked whether the model is sharded."""
    return any(
        "isinstance" in source.code(branch.test) or "fsdp" in source.code(branch.test).lower()
        for branch, _ in branches(source, node)
    )


def _fix(source: Source, clip: Clip, model: cst.BaseExpression) -> Fix | None:
    if clip.unknown or clip.limit is None or not clip.arguments.keys() <= {"parameters", "max_norm", "norm_type"}:
        return None
    given = [source.code(clip.limit)]
    if clip.norm_type is not None:
        given.append(f"norm_type={source.code(clip.norm_type)}")
    text = f"{source.outer_code(model)}.clip_grad_norm_({', '.join(given)})"
    if "#" in source.code(clip.call):
        return None
    return Fix("Call the wrapped model's own method", Safety.UNSAFE, (replace(source, clip.call, text),))
