"""
## What it does
Finds `clip_grad_norm_` called for one parameter after the other in a loop.

## Why is this bad?
Each tensor is bounded by itself: the norm of the whole gradient may be as large as `sqrt(n) * max_norm`, and because
large gradients are scaled and small ones are not, its direction changes. One call over all parameters scales them by
one factor, and is faster.

## Fix safety
Unsafe: a loop that does nothing else becomes one call, so the training changes. Optimizers that clip each parameter in
their own `step` (the BERT Adam and its heirs) are left alone.

## References
- huggingface/transformers#581, huggingface/transformers#614, clab/dynet#1374
"""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from clipcheck.gradients.optimizers import is_in_optimizer
from clipcheck.python.names import last_name
from clipcheck.python.source import Source
from clipcheck.python.words import words
from clipcheck.rule import Edit, Fix, Hit, Safety
from clipcheck.training.clips import Clip, clips
from clipcheck.training.parameters import assigned

TITLE = "Clip all parameters together"
BY_HAND = "clip all parameters together, outside of the loop"
_SINGLE = {"p", "param", "parameter", "w", "weight", "tensor"}


def check(source: Source) -> Iterator[Hit]:
    for clip in clips(source):
        if clip.is_norm and isinstance(clip.parameters, cst.Name):
            loop = _loop_over(source, clip.parameters)
            if loop is not None and _is_shared(source, clip, loop) and not is_in_optimizer(source, clip.call):
                message = "clips each parameter by its own norm: bounds no total, and turns the gradient's direction"
                fix = _fix(source, clip, loop)
                yield Hit(clip.call, message, fix, "" if fix else BY_HAND, ((loop, "the loop over the parameters"),))


def _loop_over(source: Source, name: cst.Name) -> cst.For | None:
    """The loop whose variable `name` is, if it goes over single parameters."""
    bindings = source.bindings(name)
    if len(bindings) != 1 and len({source.code(b.node) for b in bindings}) != 1:
        return None
    for above in source.ancestors(name):
        if isinstance(above, cst.For):
            for node in source.walk(above.target):
                if isinstance(node, cst.Name) and node.value == name.value:
                    return above if _gives_parameters(source, above.iter, name) else None
        if isinstance(above, (cst.FunctionDef, cst.Lambda)):
            return None
    return None


def _gives_parameters(source: Source, iterable: cst.BaseExpression, name: cst.Name, depth: int = 3) -> bool:
    match iterable:
        case cst.Call(func=cst.Attribute(attr=cst.Name("parameters" | "named_parameters"))):
            return True
        case cst.Call(func=cst.Name("filter"), args=[_, cst.Arg(value=inner)]):
            return _gives_parameters(source, inner, name, depth)
        case cst.Call(func=cst.Name("list" | "tuple" | "reversed" | "enumerate"), args=[cst.Arg(value=inner)]):
            return _gives_parameters(source, inner, name, depth)
        case cst.Subscript(slice=[cst.SubscriptElement(slice=cst.Index(value=cst.SimpleString() as key))]):
            return key.evaluated_value == "params"
        case cst.GeneratorExp(elt=elt, for_in=comp) | cst.ListComp(elt=elt, for_in=comp):
            return source.code(elt) == source.code(comp.target) and _gives_parameters(source, comp.iter, name, depth)
        case cst.Name() | cst.Attribute():
            value = assigned(source, iterable)
            if value is not None and depth:
                return _gives_parameters(source, value, name, depth - 1)
            unknown = not isinstance(iterable, cst.Name) or all(
                b.kind == "parameter" for b in source.bindings(iterable)
            )
            return unknown and name.value in _SINGLE and _is_called_parameters(last_name(iterable))
    return False


def _is_called_parameters(name: str) -> bool:
    return [word for word in words(name) if word.isalpha()][-1:] in (["params"], ["parameters"])


def _is_shared(source: Source, clip: Clip, loop: cst.For) -> bool:
    """Whether every parameter gets the same limit: nothing that the loop binds goes into it."""
    inside = (node for part in (loop.target, loop.body) for node in source.walk(part))
    bound = {node.value for node in inside if isinstance(node, cst.Name) and _binds(source, node)}
    others = [value for name, value in clip.arguments.items() if name != "parameters"]
    return bool(others) and not any(
        isinstance(node, cst.Name) and node.value in bound for value in others for node in source.walk(value)
    )


def _binds(source: Source, node: cst.Name) -> bool:
    return any(b.node is node for b in source.scope(node).bindings.get(node.value, []))


def _fix(source: Source, clip: Clip, loop: cst.For) -> Fix | None:
    """One call in place of a loop that holds nothing else."""
    body: cst.BaseSuite = loop.body
    statements = list(body.body)
    match statements:
        case [cst.If(orelse=None, body=cst.IndentedBlock(body=inner), test=test)] if _skips_nothing(source, test):
            statements = list(inner)
    if len(statements) != 1 or loop.orelse is not None or "#" in source.code(loop):
        return None
    match statements[0]:
        case cst.SimpleStatementLine(body=[cst.Expr(value=call)]) | cst.Expr(value=call) if call is clip.call:
            pass
        case _:
            return None
    iterable = _all_of(source, loop, clip)
    if iterable is None or clip.parameters is None:
        return None
    start, end = source.span(clip.call)
    at, to = source.span(clip.parameters)
    text = source.text[start:at] + iterable + source.text[to:end]
    if "\n" in text:
        return None
    first, last = source.span(loop)
    last = first + len(source.text[first:last].rstrip())
    return Fix(TITLE, Safety.UNSAFE, (Edit(first, last, text),))


def _skips_nothing(source: Source, test: cst.BaseExpression) -> bool:
    """Whether a condition leaves out only parameters without a gradient, which the clip skips by itself."""
    return source.code(test).endswith((".grad is not None", ".requires_grad"))


def _all_of(source: Source, loop: cst.For, clip: Clip) -> str | None:
    """The iterable as an expression for the parameters alone."""
    match loop.target, loop.iter:
        case cst.Name(), _:
            return source.outer_code(loop.iter)
        case cst.Tuple(), cst.Call(func=cst.Attribute(value=module, attr=cst.Name("named_parameters")), args=()):
            return f"{source.outer_code(module)}.parameters()"
    return None
