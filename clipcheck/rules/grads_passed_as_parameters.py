"""
## What it does
Finds torch's in-place clips that are given gradients, `.data` tensors or the values of a `state_dict` instead of
parameters, also through a function in this file.

## Why is this bad?
The function reads `.grad` of each tensor that it is given. A gradient does not have a gradient itself, so nothing is
clipped, the result is 0.0, and neither an error nor a warning says so.

## How to fix by hand
Pass the parameters: `clip_grad_norm_(model.parameters(), max_norm)`. Scale the results of `torch.autograd.grad`
yourself:

```python
coefficient = (max_norm / (torch.nn.utils.get_total_norm(grads) + 1e-6)).clamp(max=1.0)
grads = [grad * coefficient for grad in grads]
```

## Fix safety
Unsafe: passes the parameters themselves, so that gradients are clipped and training changes. No automatic fix for the
results of `torch.autograd.grad`, which do not belong to a parameter.

## When to suppress it
Where the tensors have their own `.grad` that is set elsewhere, as for FP32 master weights.

## References
- https://pytorch.org/docs/stable/generated/torch.nn.utils.clip_grad_norm_.html
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import libcst as cst

from clipcheck.fixes.verbs import replace
from clipcheck.gradients.gradient import gradient
from clipcheck.python.assignments import appended, only_assignment, stored
from clipcheck.python.names import Binding
from clipcheck.python.reaching import contains, reaching
from clipcheck.python.source import Source
from clipcheck.rule import Edit, Fix, Hit, Safety
from clipcheck.training.calls import Callee, callee
from clipcheck.training.clips import Clip, clips
from clipcheck.training.parameters import assigned
from clipcheck.training.readings import is_clipped_by_torch
from clipcheck.training.summaries import returned

TITLE = "Pass the parameters instead"
BY_HAND = "pass the parameters themselves"
_DEPTH = 4  # maximum number of names and calls to follow
_COLLECTIONS = frozenset({"builtins.list", "builtins.tuple", "builtins.iter", "builtins.reversed"})
# Functions that return a function of parameters, which returns their gradients.
_TRANSFORMS = frozenset({"torch.func.grad", "functorch.grad"})

BY_HAND_GRADS = "scale them by `max_norm / get_total_norm(grads)` where that is less than 1"


def check(source: Source) -> Iterator[Hit]:
    for clip in clips(source):
        if clip.parameters is not None:
            yield from _clip(source, clip, clip.parameters)
    for call in source.nodes(cst.Call):
        called = callee(source, call)
        if called is not None:
            yield from _handed_over(source, call, called)


def _handed_over(source: Source, call: cst.Call, called: Callee) -> Iterator[Hit]:
    """Calls of a function that hands what it is given to a clip."""
    for name, value in called.given.items():
        if is_clipped_by_torch(source, called.function, name):
            what, made = _instead_of_parameters(source, value)
            if what:
                message = f"clips nothing: the function gets {what} instead of parameters"
                by_hand = BY_HAND_GRADS if "the result" in what else BY_HAND
                yield Hit(call, message, None, by_hand, ((made, "they are made here"),) if made is not value else ())


def _clip(source: Source, clip: Clip, given: cst.BaseExpression) -> Iterator[Hit]:
    what, made = _instead_of_parameters(source, given)
    if what:
        message = f"clips nothing and returns 0.0: it gets {what} instead of parameters"
        fix = _fix(source, given, made)
        by_hand = BY_HAND_GRADS if "the result" in what else BY_HAND
        related = ((made, "they are made here"),) if made is not given else ()
        yield Hit(clip.call, message, fix, "" if fix else by_hand, related)


def _instead_of_parameters(
    source: Source, node: cst.BaseExpression, depth: int = _DEPTH
) -> tuple[str, cst.BaseExpression]:
    """What is passed instead of parameters, and the expression that makes it; empty where that is not certain."""
    match node:
        case cst.ListComp(elt=elt) | cst.GeneratorExp(elt=elt) | cst.DictComp(value=elt) if _is_gradient(source, elt):
            return "gradients", node
        case (
            cst.ListComp(elt=cst.Attribute(attr=cst.Name("data")))
            | cst.GeneratorExp(elt=cst.Attribute(attr=cst.Name("data")))
        ):
            return "`.data` tensors", node
        case cst.List(elements=[_, *_] as elements) | cst.Tuple(elements=[_, *_] as elements) if all(
            _is_gradient(source, element.value) for element in elements
        ):
            return "gradients", node
        case cst.BinaryOperation(left=left, operator=cst.Add(), right=right) | cst.IfExp(body=left, orelse=right) if (
            depth
        ):
            parts = [_instead_of_parameters(source, part, depth - 1) for part in (left, right)]
            return (parts[0][0], node) if all(what for what, _ in parts) else ("", node)
        case cst.Call():
            return _returned(source, node, depth)
        case cst.Name():
            return _variable(source, node, depth)
        case cst.Attribute(value=cst.Name("self")) if depth:
            value = assigned(source, node)
            if value is not None:
                return _instead_of_parameters(source, value, depth - 1)
    return ("a gradient", node) if _is_gradient(source, node) else ("", node)


def _returned(source: Source, call: cst.Call, depth: int) -> tuple[str, cst.BaseExpression]:
    """Like `_instead_of_parameters`, for what a call returns."""
    function = source.qualified(call.func)
    if function == "torch.autograd.grad" or _is_made_by_transform(source, call):
        return "the result of `autograd.grad`" if function else "the result of `func.grad`", call
    match call:
        case cst.Call(
            func=cst.Attribute(value=cst.Call(func=cst.Attribute(attr=cst.Name("state_dict"))), attr=cst.Name("values"))
        ):
            return "tensors of a `state_dict`", call
        case cst.Call(func=cst.Attribute(value=table, attr=cst.Name("values")), args=[]) if depth:
            return _instead_of_parameters(source, table, depth - 1)
        case cst.Call(args=[cst.Arg(value=inner, star="")]) if function in _COLLECTIONS and depth:
            return _instead_of_parameters(source, inner, depth - 1)
        case cst.Call(args=[cst.Arg(), cst.Arg(value=inner, star="")]) if function == "builtins.filter" and depth:
            return _instead_of_parameters(source, inner, depth - 1)
        case cst.Call(args=[cst.Arg(value=cst.Lambda(body=body)), _]) if function == "builtins.map":
            return ("gradients", call) if _is_gradient(source, body) else ("", call)
    called = callee(source, call) if depth else None
    values = None if called is None else returned(source, called.function)
    found = [_instead_of_parameters(source, value, depth - 1) for value in values or ()]
    if found and all(what for what, _ in found):
        return found[0][0], call
    return ("a gradient", call) if _is_gradient(source, call) else ("", call)


def _is_made_by_transform(source: Source, call: cst.Call) -> bool:
    """Whether a call runs what `torch.func.grad` returns: `grad(loss)(parameters)`."""
    match call.func:
        case cst.Call(func=transform):
            return source.qualified(transform) in _TRANSFORMS
        case cst.Name() as name:
            match only_assignment(source, name):
                case Binding(value=cst.Call(func=transform)):
                    return source.qualified(transform) in _TRANSFORMS
    return False


def _is_gradient(source: Source, node: cst.BaseExpression) -> bool:
    """Whether an expression is certain to be the gradient of a parameter, and not only called so."""
    found = gradient(source, node)
    return found is not None and found.owner is not None and found.certain


def _owner(source: Source, node: cst.BaseExpression) -> cst.BaseExpression | None:
    """The parameter whose gradient is written right there: `p` for `p.grad.data`."""
    found = gradient(source, node)
    return found.owner if found is not None and not found.via else None


def _variable(source: Source, name: cst.Name, depth: int) -> tuple[str, cst.BaseExpression]:
    """What a name stands for, where all that it can be bound to here are tensors instead of parameters."""
    bindings = reaching(source, name)
    values = [binding.value for binding in bindings if binding.value is not None]
    kinds = {binding.kind for binding in bindings}
    if not depth or not values or len(values) != len(bindings):
        return "", name
    if kinds == {"for"}:
        # for g in [p.grad for p in parameters]: the list's elements are what is passed
        made = [_instead_of_parameters(source, value, depth - 1) for value in values]
        return ("a gradient", made[0][1]) if all(what for what, _ in made) else ("", name)
    if kinds != {"assign"} or _has_gradients(source, name):
        return "", name
    found = [_value(source, name, value, depth - 1) for value in values]
    return found[0] if all(what for what, _ in found) else ("", name)


def _value(source: Source, name: cst.Name, value: cst.BaseExpression, depth: int) -> tuple[str, cst.BaseExpression]:
    """Like `_instead_of_parameters`, for what a name is assigned."""
    if isinstance(value, cst.List) and not value.elements:
        return _filled(source, name, [call.args[0].value for call in appended(source, name)])
    if isinstance(value, cst.Dict) and not value.elements:
        return _filled(source, name, [statement.value for statement in stored(source, name)])
    if _is_gradient(source, value):
        return "a gradient", value
    return ("", name) if isinstance(value, cst.Name) else _instead_of_parameters(source, value, depth)


def _filled(source: Source, name: cst.Name, values: Sequence[cst.BaseExpression]) -> tuple[str, cst.BaseExpression]:
    """Like `_instead_of_parameters`, for a list or a dict that starts empty and is filled with these."""
    if values and all(_is_gradient(source, value) for value in values):
        return "gradients", values[0]
    return "", name


def _has_gradients(source: Source, name: cst.Name) -> bool:
    """Whether the program sets the `.grad` of the tensors, as for FP32 master weights."""
    for use in source.names.uses(source.scope(name).owner(name.value), name.value):
        match source.parent(use):
            case cst.Attribute(attr=cst.Name("grad" | "requires_grad" | "requires_grad_")):
                return True
            case cst.For(target=cst.Name(value=element), body=body):
                if any(_sets_gradient(node, element) for node in source.walk(body)):
                    return True
    return False


def _sets_gradient(node: cst.CSTNode, element: str) -> bool:
    match node:
        case cst.Attribute(value=cst.Name(value=name), attr=cst.Name("grad" | "requires_grad" | "requires_grad_")):
            return name == element
    return False


def _fix(source: Source, given: cst.BaseExpression, made: cst.BaseExpression) -> Fix | None:
    if isinstance(given, cst.Name):
        if not _serves_the_clip_alone(source, given, made):
            return None
    elif not contains(source, given, made):
        return None  # what is made elsewhere may have other uses
    match made:
        case cst.ListComp() | cst.GeneratorExp():
            edits = _of_comprehension(source, made)
        case cst.Attribute():
            edits = _of_gradients(source, [made])
        case cst.List(elements=elements) | cst.Tuple(elements=elements):
            edits = _of_gradients(source, [element.value for element in elements])
        case _:
            return None
    return Fix(TITLE, Safety.UNSAFE, edits) if edits else None


def _serves_the_clip_alone(source: Source, given: cst.Name, made: cst.BaseExpression) -> bool:
    """Whether a name is only read by the clip, so that what it holds may change."""
    used = source.names.uses(source.scope(given).owner(given.value), given.value)
    looped = any(binding.kind == "for" for binding in source.bindings(given))
    return len(used) == 1 and not looped and not isinstance(made, cst.Attribute)


def _of_gradients(source: Source, gradients: Sequence[cst.BaseExpression]) -> tuple[Edit, ...]:
    """The parameters of these gradients; nothing where one does not belong to a parameter."""
    pairs = [(node, _owner(source, node)) for node in gradients]
    edits = tuple(replace(source, node, source.code(owner)) for node, owner in pairs if owner is not None)
    return edits if len(edits) == len(pairs) else ()


def _of_comprehension(source: Source, made: cst.ListComp | cst.GeneratorExp) -> tuple[Edit, ...]:
    """What the comprehension goes through in its place, or parameters as its elements where it leaves some out."""
    owner = _owner(source, made.elt)
    if owner is None and isinstance(made.elt, cst.Attribute):
        owner = made.elt.value  # of `p.data`
    if owner is None:
        return ()
    clause = made.for_in
    plain = source.code(owner) == source.code(clause.target) and clause.inner_for_in is None
    if plain and all(_only_skips_none(source, condition.test) for condition in clause.ifs):
        start, end = source.outer_span(made) if isinstance(made, cst.GeneratorExp) else source.span(made)
        return (Edit(start, end, source.outer_code(clause.iter)),)
    return (replace(source, made.elt, source.code(owner)),)


def _only_skips_none(source: Source, test: cst.BaseExpression) -> bool:
    """Whether a condition leaves out what the clip would skip by itself."""
    match test:
        case cst.Comparison(
            left=left, comparisons=[cst.ComparisonTarget(operator=cst.IsNot(), comparator=cst.Name("None"))]
        ):
            return _is_gradient(source, left)
    return False
