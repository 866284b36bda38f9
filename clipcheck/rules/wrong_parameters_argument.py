"""
## What it does
Finds torch's clips that are given `model.parameters` without its call, `named_parameters()`, `param_groups`, a module
or an optimizer.

## Why is this bad?
All of these raise a TypeError or an AttributeError, but only when the first step is taken, which may be after a long
set-up, or only where clipping is switched on.

## Fix safety
Safe: the call raised before.

## References
- https://pytorch.org/docs/stable/generated/torch.nn.utils.clip_grad_norm_.html
"""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from clipcheck.fixes.verbs import insert_after, replace
from clipcheck.gradients.optimizers import is_optimizer_class
from clipcheck.python.names import last_name
from clipcheck.python.source import Source
from clipcheck.rule import Edit, Fix, Hit, Safety
from clipcheck.training.classes import is_module_class
from clipcheck.training.clips import clips
from clipcheck.training.parameters import assigned, attribute_bindings

TITLE = "Pass the parameters"


def check(source: Source) -> Iterator[Hit]:
    for clip in clips(source):
        if clip.parameters is not None:
            found = _wrong(source, clip.parameters)
            if found is not None:
                fault, edit = found
                yield Hit(clip.call, f"raises in the first step: {fault}", Fix(TITLE, Safety.SAFE, (edit,)))


def _wrong(source: Source, node: cst.BaseExpression) -> tuple[str, Edit] | None:
    """Why an expression cannot be passed, and the edit that makes it parameters."""
    match node:
        case cst.Attribute(value=owner, attr=cst.Name("parameters")):
            if not _may_be_a_list(source, node) and not _is_own(source, owner):
                return f"{source.quoted(node, '`parameters`')} is not called", insert_after(source, node, "()")
        case cst.Call(func=cst.Attribute(attr=cst.Name("named_parameters") as name)):
            return "`named_parameters()` gives pairs of name and parameter", replace(source, name, "parameters")
        case cst.Attribute(value=owner, attr=cst.Name("param_groups")):
            return "`param_groups` are dictionaries", replace(source, node, _all_groups(source, owner))
        case cst.Name() | cst.Attribute():
            if _is_optimizer(source, node):
                return "it is given the optimizer", replace(source, node, _all_groups(source, node))
            if _is_module(source, node):
                return "it is given the module, not its parameters", insert_after(source, node, ".parameters()")
    return None


def _all_groups(source: Source, optimizer: cst.BaseExpression) -> str:
    return f'[p for group in {source.outer_code(optimizer)}.param_groups for p in group["params"]]'


def _may_be_a_list(source: Source, node: cst.Attribute) -> bool:
    """Whether some object here has a list called `parameters`: a class sets it, or other code goes through it."""
    if attribute_bindings(source, node):
        return True
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
    """Whether it is an attribute of a class that is not known to be a module, and may have it from a base."""
    match owner:
        case cst.Name("self"):
            holder = source.enclosing(owner, cst.ClassDef)
            return holder is None or not is_module_class(source, holder)
    return False


def _is_optimizer(source: Source, node: cst.BaseExpression) -> bool:
    match assigned(source, node):
        case cst.Call(func=func):
            return (source.qualified(func) or "").startswith("torch.optim.") and is_optimizer_class(source, func)
    return False


def _is_module(source: Source, node: cst.BaseExpression) -> bool:
    """Whether an expression is surely a module: made by a class of torch.nn or a module class of this file."""
    match assigned(source, node):
        case cst.Call(func=cst.Attribute(value=inner, attr=cst.Name("to" | "cuda" | "train" | "float" | "half"))):
            return _makes_module(source, inner)
        case cst.Call() as call:
            return _makes_module(source, call)
    return _is_treated_as_module(source, node)


def _makes_module(source: Source, node: cst.BaseExpression) -> bool:
    match node:
        case cst.Call(func=func):
            origin = source.qualified(func) or ""
            if origin.startswith("torch.nn.") and last_name(func)[:1].isupper() and last_name(func) != "Parameter":
                return True
            match func:
                case cst.Name() as name:
                    classes = [b.node for b in source.bindings(name)]
                    return (
                        len(classes) == 1
                        and isinstance(classes[0], cst.ClassDef)
                        and is_module_class(source, classes[0])
                    )
    return False


def _is_treated_as_module(source: Source, node: cst.BaseExpression) -> bool:
    """Whether the code around calls methods on the same name that only modules have."""
    if not isinstance(node, cst.Name):
        return False
    scope = source.scope(node)
    for use in source.names.uses(scope.owner(node.value), node.value):
        match source.parent(use):
            case cst.Attribute(attr=cst.Name("parameters" | "named_parameters" | "state_dict" | "zero_grad")) as method:
                if isinstance(source.parent(method), cst.Call) and source.function(use) is source.function(node):
                    return "opt" not in node.value.lower()
    return False
