"""
## What it does
Finds torch's clipping functions called with `model.parameters` without the parentheses, `named_parameters()`,
`param_groups` or one of its groups, a list around `model.parameters()`, a module or an optimizer, and calls without
`max_norm` or `clip_value`.

## Why is this bad?
All of these raise a TypeError or an AttributeError, but not before the first step, which may be after a long setup, or
only when clipping is enabled.

## How to fix by hand
Pass an iterable of parameters, and a number:

```python
clip_grad_norm_(model.parameters(), max_norm)
clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], max_norm)
```

## Fix safety
Safe: the call raised before. No automatic fix is offered if `max_norm` or `clip_value` is missing, or if a list is used
elsewhere as well.

## When to suppress it
If the object is iterable in a way that clipcheck cannot see, such as a class with a property named `parameters` that is
defined in another file.

## References
- https://pytorch.org/docs/stable/generated/torch.nn.utils.clip_grad_norm_.html
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import libcst as cst

from clipcheck.fixes.verbs import insert_after, insert_before, replace
from clipcheck.python.assignments import only_assignment
from clipcheck.python.reaching import reaching
from clipcheck.python.source import Source
from clipcheck.rule import Edit, Fix, Hit, Safety
from clipcheck.training.classes import is_module_class
from clipcheck.training.clips import KEYWORDS, Clip, clips
from clipcheck.training.guards import expects_error
from clipcheck.training.modules import is_module, is_optimizer

TITLE = "Pass the parameters"
BY_HAND = "pass the parameters themselves in one flat list"
MISSING_BY_HAND = "pass `{missing}`: `{function}({arguments})`"
_REQUIRED = {
    "clip_grad_norm_": ("parameters", "max_norm"),
    "clip_grad_value_": ("parameters", "clip_value"),
    "clip_grads_with_norm_": ("parameters", "max_norm", "total_norm"),
}


_READ_AS_THEY_ARE = ("parameters", "param_groups")


class Wrong(NamedTuple):
    """Why an expression cannot be passed, and the edits that make it parameters, if any do."""

    fault: str
    edits: tuple[Edit, ...] = ()


def check(source: Source) -> Iterator[Hit]:
    for clip in clips(source):
        if expects_error(source, clip.call):
            continue
        found = None if clip.parameters is None else _wrong(source, clip.parameters)
        if found is not None:
            fix = Fix(TITLE, Safety.SAFE, found.edits) if found.edits else None
            yield Hit(clip.call, f"raises in the first step: {found.fault}", fix, "" if fix else BY_HAND)
        missing = _missing(clip)
        if missing:
            arguments = ", ".join(_REQUIRED[clip.function])
            by_hand = MISSING_BY_HAND.format(missing=missing, function=clip.function, arguments=arguments)
            yield Hit(clip.call, f"raises in the first step: `{missing}` is missing", None, by_hand)


def _missing(clip: Clip) -> str:
    """The first argument that a call lacks, "" where it lacks none or is abbreviated: `clip_grad_norm_(...)`."""
    short = not clip.call.args or any(isinstance(arg.value, cst.Ellipsis) for arg in clip.call.args)
    if short or clip.unknown or clip.keywords - KEYWORDS[clip.function]:
        return ""
    return next((name for name in _REQUIRED[clip.function] if name not in clip.arguments), "")


def _wrong(source: Source, node: cst.BaseExpression) -> Wrong | None:
    match node:
        case cst.Attribute(value=owner, attr=cst.Name("parameters")):
            if not _may_be_a_list(source, node) and not _is_own(source, owner):
                shown = source.quoted(node, "`parameters`")
                return Wrong(f"{shown} is not called", (insert_after(source, node, "()"),))
        case cst.Call(func=cst.Attribute(attr=cst.Name("named_parameters") as name)):
            edit = replace(source, name, "parameters")
            return Wrong("`named_parameters()` yields (name, parameter) pairs", (edit,))
        case cst.Attribute(value=owner, attr=cst.Name("param_groups")):
            return Wrong(
                "`param_groups` is a list of dictionaries", (replace(source, node, _all_groups(source, owner)),)
            )
        case cst.Call(func=cst.Name("list" | "tuple"), args=[cst.Arg(value=inner)]) if not _gives_parameters(node):
            return _wrong(source, inner) if _yields_others(inner) else None
        case (
            cst.ListComp(elt=cst.Name(value=kept), for_in=cst.CompFor(target=cst.Name(value=each), iter=inner))
            | cst.GeneratorExp(elt=cst.Name(value=kept), for_in=cst.CompFor(target=cst.Name(value=each), iter=inner))
        ) if kept == each and _yields_others(inner):
            found = _wrong(source, inner)
            return found and found._replace(edits=())
        case cst.List(elements=elements) | cst.Tuple(elements=elements):
            return _nested(source, node, elements)
        case cst.Subscript() | cst.Name() if _is_group(source, node):
            shown = source.quoted(node, "a parameter group")
            return Wrong(f"{shown} is a dictionary", (insert_after(source, node, '["params"]'),))
        case cst.Subscript(
            value=cst.Attribute(attr=cst.Name("param_groups")), slice=[cst.SubscriptElement(cst.Slice())]
        ):
            return Wrong("parameter groups are dictionaries")
        case cst.Name() | cst.Attribute():
            return _wrong_name(source, node)
    return None


def _yields_others(node: cst.BaseExpression) -> bool:
    """Whether an iterable yields pairs or dictionaries, which a list of them still has."""
    match node:
        case (
            cst.Call(func=cst.Attribute(attr=cst.Name("named_parameters")))
            | cst.Attribute(attr=cst.Name("param_groups"))
        ):
            return True
    return False


def _wrong_name(source: Source, node: cst.Name | cst.Attribute) -> Wrong | None:
    if is_optimizer(source, node):
        return Wrong("the optimizer is passed, not its parameters", (replace(source, node, _all_groups(source, node)),))
    if is_module(source, node):
        return Wrong("the module is passed, not its parameters", (insert_after(source, node, ".parameters()"),))
    binding = only_assignment(source, node) if isinstance(node, cst.Name) else None
    match binding.value if binding is not None else None:
        case (cst.List(elements=elements) | cst.Tuple(elements=elements)) as held:
            found = _nested(source, held, elements, again=True)
            used_once = binding is not None and _is_used_once(source, binding.name, node)
            return found if found is None or used_once else found._replace(edits=())
        case cst.Attribute() | cst.Call() as value if (
            isinstance(value, cst.Call) or value.attr.value in _READ_AS_THEY_ARE
        ):
            given = _wrong(source, value)  # under a name that may have other uses
            return given and given._replace(edits=())
    return None


def _is_used_once(source: Source, name: str, use: cst.CSTNode) -> bool:
    return len(source.names.uses(source.scope(use).owner(name), name)) == 1


def _all_groups(source: Source, optimizer: cst.BaseExpression) -> str:
    return f'[p for group in {source.outer_code(optimizer)}.param_groups for p in group["params"]]'


def _nested(
    source: Source, holder: cst.BaseExpression, elements: Sequence[cst.BaseElement], again: bool = False
) -> Wrong | None:
    """What is wrong with a list that holds all of a module's parameters as one element.

    A list that may be iterated over `again` stays a list: an iterator would be exhausted by then.
    """
    inside = [e.value for e in elements if not isinstance(e, cst.StarredElement) and _gives_parameters(e.value)]
    if not inside:
        return None
    shown = source.quoted(inside[0], "an iterator", 24)
    fault = f"the list contains {shown} itself, not its parameters"
    if len(elements) == 1 and isinstance(holder, cst.List) and not again:
        return Wrong(fault, (replace(source, holder, source.code(inside[0])),))
    return Wrong(fault, tuple(insert_before(source, node, "*") for node in inside))


def _gives_parameters(node: cst.BaseExpression) -> bool:
    match node:
        case cst.Call(func=cst.Attribute(attr=cst.Name("parameters")), args=[]):
            return True
        case cst.Call(func=cst.Name("list" | "tuple" | "iter"), args=[cst.Arg(value=inner)]):
            return _gives_parameters(inner)
        case cst.Call(func=cst.Name("filter"), args=[_, cst.Arg(value=inner)]):
            return _gives_parameters(inner)
    return False


def _is_group(source: Source, node: cst.BaseExpression) -> bool:
    """Whether an expression is one of an optimizer's `param_groups`."""
    match node:
        case cst.Subscript(
            value=cst.Attribute(attr=cst.Name("param_groups")),
            slice=[cst.SubscriptElement(slice=cst.Index(value=index))],
        ):
            return not isinstance(index, cst.SimpleString)
        case cst.Name():
            bindings = reaching(source, node)
            return bool(bindings) and all(
                _goes_through_groups(binding.value)
                if binding.kind == "for"
                else isinstance(binding.value, cst.Subscript) and _is_group(source, binding.value)
                for binding in bindings
            )
    return False


def _goes_through_groups(iterable: cst.BaseExpression | None) -> bool:
    match iterable:
        case cst.Attribute(attr=cst.Name("param_groups")):
            return True
        case cst.Subscript(
            value=cst.Attribute(attr=cst.Name("param_groups")), slice=[cst.SubscriptElement(slice=cst.Slice())]
        ):
            return True
    return False


def _may_be_a_list(source: Source, node: cst.Attribute) -> bool:
    """Whether some object here has a list called `parameters`: a class sets it, or other code iterates over it."""
    own = source.spelled(node)
    for other in source.nodes(cst.Attribute):
        if other.attr.value != "parameters" or other is node:
            continue
        parent = source.parent(other)
        if isinstance(parent, cst.AssignTarget):
            return True
        called = isinstance(parent, cst.Call) and parent.func is other
        if not called and source.spelled(other) == own and not isinstance(parent, cst.Arg):
            return True
    for function in source.nodes(cst.FunctionDef):
        if function.name.value == "parameters" and function.decorators:
            return True  # a property
    return False


def _is_own(source: Source, owner: cst.BaseExpression) -> bool:
    """Whether the attribute may come from a base class: its class is not known to be a module."""
    match owner:
        case cst.Name("self"):
            holder = source.enclosing(owner, cst.ClassDef)
            return holder is None or not is_module_class(source, holder)
    return False
