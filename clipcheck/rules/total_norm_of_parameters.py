"""
## What it does
Finds `get_total_norm(model.parameters())` where the norm of the gradients is meant.

## Why is this bad?
`get_total_norm` computes the norm of the tensors it is given. Given parameters, it returns the norm of the weights without
a warning: a number that changes slowly, looks plausible in a log and tells nothing about the gradients. If it is passed
to `clip_grads_with_norm_`, the gradients are clipped by the wrong amount.

## How to fix by hand
Pass the gradients, or call `clipcheck.runtime.grad_norm`, which takes parameters:

```python
total_norm = get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
```

## Fix safety
Unsafe: the number changes, which is the point. The parameters are replaced by the gradients of those that have one. No
automatic fix is offered if the name of the result does not say that a gradient is meant.

## When to suppress it
If you want the norm of the weights; a result with `param` or `weight` in its name is not reported.

## References
- https://pytorch.org/docs/stable/generated/torch.nn.utils.get_total_norm.html
"""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from clipcheck.fixes.verbs import replace
from clipcheck.python.assignments import assigned_value
from clipcheck.python.reaching import reaching
from clipcheck.python.said import said
from clipcheck.python.source import Source
from clipcheck.rule import Edit, Fix, Hit, Role, Safety
from clipcheck.training.clips import torch_calls

MESSAGE = "`get_total_norm` of parameters is the norm of the weights: pass the gradients"
BY_HAND = (
    "pass `[p.grad for p in parameters if p.grad is not None]`, or name the result `param_norm` if you mean the weights"
)

_WEIGHTS = frozenset("param params parameter parameters weight weights model theta w".split())
_GRADIENT = frozenset("grad grads gradient gradients gn gnorm gradnorm".split())


def check(source: Source) -> Iterator[Hit]:
    for call in torch_calls(source):
        tensors = call.arguments.get("tensors")
        if call.function != "get_total_norm" or tensors is None or not are_parameters(source, tensors):
            continue
        named = said(source, call.call)
        if named & _GRADIENT or _clips_with(source, call.call):
            fix = Fix("Compute the norm of the gradients", Safety.UNSAFE, (_gradients_of(source, tensors),), (), ())
            yield Hit(call.call, MESSAGE, fix._replace(roles=((source.code(tensors), Role.PARAMETERS),)))
        elif not named & _WEIGHTS:
            yield Hit(call.call, MESSAGE, help=BY_HAND)


def are_parameters(source: Source, node: cst.CSTNode, depth: int = 6) -> bool:
    """Whether an expression is an iterable of parameters, as they come from a module."""
    if not depth:
        return False
    match node:
        case cst.Call(func=cst.Attribute(attr=cst.Name(value="parameters"))):
            return True
        case cst.Call(func=func, args=[*_, cst.Arg(value=inner)]) if source.qualified(func) in (
            "builtins.list",
            "builtins.tuple",
            "builtins.filter",
        ):
            return are_parameters(source, inner, depth - 1)
        case (
            cst.ListComp(elt=cst.Name() as elt, for_in=clause) | cst.GeneratorExp(elt=cst.Name() as elt, for_in=clause)
        ):
            match clause.target, clause.iter:
                case cst.Name(value=name), iterable if name == elt.value:
                    return are_parameters(source, iterable, depth - 1)
                case (
                    cst.Tuple(elements=[_, cst.Element(value=cst.Name(value=name))]),
                    cst.Call(func=cst.Attribute(attr=cst.Name(value="named_parameters"))),
                ):
                    return name == elt.value
        case cst.Name():
            values = [assigned_value(source, b) if b.kind == "assign" else None for b in reaching(source, node)]
            return bool(values) and all(v is not None and are_parameters(source, v, depth - 1) for v in values)
    return False


def _gradients_of(source: Source, tensors: cst.BaseExpression) -> Edit:
    match tensors:
        case cst.ListComp(elt=elt) | cst.GeneratorExp(elt=elt):
            inner = source.code(tensors)[1:-1] if isinstance(tensors, cst.ListComp) else source.code(tensors)
            name = source.code(elt)
            rest = inner.strip()[len(name) :]
            return replace(source, tensors, f"[{name}.grad{rest} if {name}.grad is not None]")
    return replace(source, tensors, f"[p.grad for p in {source.outer_code(tensors)} if p.grad is not None]")


def _clips_with(source: Source, call: cst.Call) -> bool:
    """Whether the gradients are then clipped with this norm."""
    match source.parent(call):
        case cst.Assign(targets=[cst.AssignTarget(target=cst.Name(value=name))]):
            used = (clip.arguments.get("total_norm") for clip in torch_calls(source))
            return any(norm is not None and source.code(norm) == name for norm in used)
    return False
