"""
## What it does
Finds gradients that are clamped, scaled or cleaned by a method that returns a new tensor, where that tensor is
discarded: `p.grad.clamp(-1, 1)` as a statement.

## Why is this bad?
`clamp`, `mul`, `nan_to_num` and similar methods do not change the tensor that they are called on. The gradient stays
as it is, and the optimizer uses it unclipped.

## How to fix by hand
Use the in-place method, `p.grad.clamp_(-1, 1)`, or assign the result: `p.grad = p.grad.clamp(-1, 1)`.

## Fix safety
Unsafe: adds the underscore, so that the gradient is changed in place and training changes.

## When to suppress it
Where the call is made only for its time or its errors, as in a benchmark.

## References
- pytorch/tutorials#30, pytorch/pytorch#4829
- https://pytorch.org/docs/stable/generated/torch.Tensor.clamp_.html
"""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from clipcheck.fixes.verbs import insert_after
from clipcheck.gradients.gradient import is_in_place
from clipcheck.python.names import Binding
from clipcheck.python.source import Source
from clipcheck.rule import Fix, Hit, Safety

_METHODS = frozenset("clamp clip clamp_min clamp_max mul div nan_to_num multiply divide".split())
_FUNCTIONS = {f"torch.{name}": name for name in ("clamp", "clip", "clamp_min", "clamp_max", "nan_to_num")}


def check(source: Source) -> Iterator[Hit]:
    for statement in source.nodes(cst.Expr):
        match statement.value:
            case (cst.Call() as call) | cst.ListComp(elt=cst.Call() as call) | cst.SetComp(elt=cst.Call() as call):
                name = _out_of_place(source, call)
                if name is not None:
                    yield _hit(source, call, name)
    for assign in source.nodes(cst.Assign):
        match assign:
            case cst.Assign(
                targets=[cst.AssignTarget(target=cst.Name() as target)],
                value=cst.Call(func=cst.Attribute(value=cst.Name() as name, attr=method)) as call,
            ) if method.value in _METHODS and _is_lost(source, name, target):
                yield _hit(source, call, method)


def _hit(source: Source, call: cst.Call, name: cst.Name) -> Hit:
    message = f"the gradient is not changed: `{name.value}` returns a new tensor, which is discarded"
    return Hit(
        call,
        message,
        Fix(f"Use `{name.value}_`, which works in place", Safety.UNSAFE, (insert_after(source, name, "_"),)),
    )


def _out_of_place(source: Source, call: cst.Call) -> cst.Name | None:
    """The name of the function that leaves a gradient alone and returns another tensor."""
    match call:
        case cst.Call(func=cst.Attribute(value=tensor, attr=method)) if method.value in _METHODS and is_in_place(
            tensor
        ):
            return method
        case cst.Call(func=func, args=[first, *rest]) if source.qualified(func) in _FUNCTIONS:
            if is_in_place(first.value) and not any(arg.keyword and arg.keyword.value == "out" for arg in rest):
                return func.attr if isinstance(func, cst.Attribute) else None
    return None


def _is_lost(source: Source, name: cst.Name, target: cst.Name) -> bool:
    """Whether `name` is `p.grad` and what is assigned to `target` is never read: `g = p.grad; g = g.clamp(-1, 1)`."""
    scope = source.scope(name)
    if scope is not scope.module and not isinstance(scope.node, cst.FunctionDef):
        return False
    earlier = [b for b in scope.bindings.get(name.value, []) if source.rank(b.node) < source.rank(target)]
    match earlier:
        case [*_, Binding(kind="assign", value=cst.BaseExpression() as value) as before] if is_in_place(value):
            pass
        case _:
            return False
    if source.parent(source.statement(before.node)) is not source.parent(source.statement(target)):
        return False
    uses = source.names.uses(scope, target.value)
    return not any(source.rank(use) > source.rank(name) for use in uses) and (
        target.value == name.value or len(scope.bindings[target.value]) == 1
    )
