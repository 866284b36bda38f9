"""
## What it does
Finds torch's `clip_grad_norm_` on the parameters of a model that was wrapped by FSDP1 (`FullyShardedDataParallel`), here
or in a function of the file, also where a list of the parameters has a name.

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
from clipcheck.python.reaching import contains
from clipcheck.python.source import Source
from clipcheck.rule import Fix, Hit, Safety
from clipcheck.training.clips import Clip, clips
from clipcheck.training.guards import branches
from clipcheck.training.parameters import assigned
from clipcheck.training.sharding import wrapped_by_fsdp

BY_HAND = "call the wrapped model's own `clip_grad_norm_(max_norm)`"


def check(source: Source) -> Iterator[Hit]:
    for clip in clips(source):
        model = _model(source, clip.parameters) if clip.is_norm else None
        wrapped = None if model is None else wrapped_by_fsdp(source, model)
        if model is not None and wrapped is not None and not _is_dispatched(source, clip.call):
            message = f"each rank clips by the norm of its own shards: FSDP wraps the model on {source.where(wrapped)}"
            fix = _fix(source, clip, model)
            yield Hit(clip.call, message, fix, "" if fix else BY_HAND, ((wrapped, "the model is sharded here"),))


def _model(source: Source, parameters: cst.BaseExpression | None, depth: int = 4) -> cst.BaseExpression | None:
    """The model whose parameters these are, also where a list of them has a name."""
    match parameters:
        case cst.Call(func=cst.Attribute(value=model, attr=cst.Name("parameters")), args=()):
            return model
        case cst.Call(func=cst.Name("list" | "tuple"), args=[cst.Arg(value=inner)]):
            return _model(source, inner, depth)
        case cst.ListComp(elt=cst.Name(value=kept), for_in=cst.CompFor(target=cst.Name(value=each), iter=inner)):
            return _model(source, inner, depth) if kept == each else None
        case cst.Name() | cst.Attribute() if depth:
            return _model(source, assigned(source, parameters), depth - 1)
    return None


def _is_dispatched(source: Source, node: cst.CSTNode) -> bool:
    """Whether a test around the clip has asked whether the model is sharded."""
    return any(
        "isinstance" in source.code(branch.test) or "fsdp" in source.code(branch.test).lower()
        for branch, _ in branches(source, node)
    )


def _fix(source: Source, clip: Clip, model: cst.BaseExpression) -> Fix | None:
    if (
        clip.unknown
        or clip.limit is None
        or not contains(source, clip.call, model)
        or not clip.arguments.keys() <= {"parameters", "max_norm", "norm_type"}
    ):
        return None
    given = [source.code(clip.limit)]
    if clip.norm_type is not None:
        given.append(f"norm_type={source.code(clip.norm_type)}")
    text = f"{source.outer_code(model)}.clip_grad_norm_({', '.join(given)})"
    if "#" in source.code(clip.call):
        return None
    return Fix("Call the wrapped model's own method", Safety.UNSAFE, (replace(source, clip.call, text),))
