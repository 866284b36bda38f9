"""Which expressions are certainly modules or optimizers: every assignment that can reach a use must agree."""

from __future__ import annotations

from collections.abc import Callable

import libcst as cst

from clipcheck.gradients.optimizers import is_optimizer_class
from clipcheck.python.assignments import assigned_value
from clipcheck.python.names import Binding, last_name
from clipcheck.python.reaching import contains, reaching
from clipcheck.python.source import Source
from clipcheck.training.classes import is_module_class
from clipcheck.training.clips import clips
from clipcheck.training.guards import exclusive
from clipcheck.training.parameters import assigned

_DEPTH = 4  # maximum number of names and calls to follow
_KEEPS = frozenset(
    "to cuda cpu train eval float double half bfloat16 requires_grad_".split()
)  # methods that return the module
_OF_TENSORS = frozenset({"Parameter", "ParameterList", "Buffer"})  # these are tensors or iterate over tensors
_OF_MODULES = frozenset({"parameters", "named_parameters", "state_dict", "zero_grad"})


def is_module(source: Source, node: cst.CSTNode, depth: int = _DEPTH) -> bool:
    """Whether an expression is a module: an instance of a class of torch.nn or this file, or used as a module."""
    if not depth:
        return False
    match node:
        case cst.Call(func=cst.Attribute(value=inner, attr=cst.Name(value=method))) if method in _KEEPS:
            return is_module(source, inner, depth - 1)
        case cst.Call(func=func):
            return _is_class_of_modules(source, func)
        case cst.Name():
            return _every_value(source, node, lambda value: is_module(source, value, depth - 1)) or _is_used_as_module(
                source, node
            )
        case cst.Attribute():
            value = assigned(source, node)
            return value is not None and is_module(source, value, depth - 1)
    return False


def is_optimizer(source: Source, node: cst.CSTNode, depth: int = _DEPTH) -> bool:
    """Whether an expression is a torch optimizer, whichever of its assignments it comes from."""
    if not depth:
        return False
    match node:
        case cst.Call(func=func):
            return source.origin(func).startswith("torch.optim.") and is_optimizer_class(source, func)
        case cst.Name():
            return _every_value(source, node, lambda value: is_optimizer(source, value, depth - 1))
        case cst.Attribute():
            value = assigned(source, node)
            return value is not None and is_optimizer(source, value, depth - 1)
    return False


def _every_value(source: Source, name: cst.Name, holds: Callable[[cst.BaseExpression], bool]) -> bool:
    bindings = reaching(source, name)
    values = [assigned_value(source, binding) if binding.kind == "assign" else None for binding in bindings]
    return bool(values) and all(value is not None and holds(value) for value in values)


def _is_class_of_modules(source: Source, func: cst.BaseExpression) -> bool:
    origin = source.origin(func)
    if origin.startswith("torch.nn.") and last_name(func)[:1].isupper():
        return last_name(func) not in _OF_TENSORS
    match func:
        case cst.Name() as name:
            match source.bindings(name):
                case [Binding(node=cst.ClassDef() as owner)]:
                    goes_through_own = "__iter__" in source.names.scopes[owner].bindings
                    return is_module_class(source, owner) and not goes_through_own
    return False


def _is_used_as_module(source: Source, name: cst.Name) -> bool:
    """Whether a method that only modules have is called on the same value, wherever `name` is reached."""
    if "opt" in name.value.lower():
        return False
    values = reaching(source, name)
    for use in source.names.uses(source.scope(name).owner(name.value), name.value):
        match source.parent(use):
            case cst.Attribute(attr=cst.Name(value=attr)) as method if attr in _OF_MODULES and use is not name:
                called = isinstance(source.parent(method), cst.Call) or _is_clipped_uncalled(source, method)
                same = source.function(use) is source.function(name) and _are_same(reaching(source, use), values)
                apart = (
                    exclusive(source, use, name) or exclusive(source, name, use) or _is_conditional(source, use, name)
                )
                if called and same and not apart:
                    return True
    return False


def _is_clipped_uncalled(source: Source, method: cst.Attribute) -> bool:
    """Whether `net.parameters` is passed to a clip without parentheses, so that `net` is a module."""
    return method.attr.value == "parameters" and any(clip.parameters is method for clip in clips(source))


def _are_same(some: list[Binding], others: list[Binding]) -> bool:
    return {id(binding) for binding in some} == {id(binding) for binding in others}


def _is_conditional(source: Source, use: cst.CSTNode, place: cst.CSTNode) -> bool:
    """Whether `use` has a condition that `place` does not have, most often a type check."""
    inner = use
    for above in source.ancestors(use):
        match above:
            case cst.FunctionDef() | cst.Lambda():
                return False
            case cst.If() | cst.IfExp() | cst.Try() | cst.BooleanOperation() | cst.Match() if not contains(
                source, inner, place
            ):
                if not _is_tested_first(above, inner):
                    return True
        inner = above
    return False


def _is_tested_first(above: cst.CSTNode, part: cst.CSTNode) -> bool:
    """Whether a part of a statement always runs: the test of an `if`, the left side of `and`."""
    match above:
        case cst.If(test=test) | cst.IfExp(test=test):
            return part is test
        case cst.BooleanOperation(left=left):
            return part is left
        case cst.Match(subject=subject):
            return part is subject
    return False
