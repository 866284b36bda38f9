"""One-shot iterators: which expressions create one, and which uses exhaust it."""

from __future__ import annotations

import libcst as cst

from clipcheck.gradients.optimizers import is_optimizer_class
from clipcheck.python.names import COMPREHENSIONS, last_name
from clipcheck.python.source import Source
from clipcheck.python.words import words
from clipcheck.training.clips import torch_calls

_ONE_SHOT = {
    "builtins.filter",
    "builtins.map",
    "builtins.zip",
    "builtins.iter",
    "builtins.reversed",
    "builtins.enumerate",
    "itertools.chain",
    "itertools.chain.from_iterable",
    "itertools.islice",
    "itertools.starmap",
    "itertools.compress",
    "itertools.filterfalse",
    "itertools.takewhile",
}
_PARAMETERS = {"parameters", "named_parameters", "buffers"}
# `self.model.parameters.parameters()`: a module's `parameters` is a method, so this must be some other object.
_COLLECTION = {"params", "parameters", "groups", "collection"}
# Calls that exhaust an iterator.
_DRAINS = {
    f"builtins.{name}"
    for name in ("list", "tuple", "set", "sorted", "sum", "any", "all", "max", "min", "dict", "frozenset")
} | {"torch.nn.utils.parameters_to_vector"}
# Calls that wrap an iterator: exhausting the result exhausts the iterator, too.
WRAPS = {"filter", "map", "chain", "zip", "enumerate", "iter", "islice"}


def is_one_shot(source: Source, node: cst.BaseExpression | None) -> bool:
    """Whether an expression creates an iterator that yields its items only once."""
    match node:
        case cst.GeneratorExp():
            return True
        case cst.Call(func=cst.Attribute(value=owner, attr=cst.Name(value=method))) if method in _PARAMETERS:
            return not _gives_a_list(source, owner, method)
        case cst.Call(func=func):
            return source.qualified(func) in _ONE_SHOT
    return False


def _gives_a_list(source: Source, owner: cst.BaseExpression, method: str) -> bool:
    """Whether the owner may not be a plain module: a class of this file has that method, or it is a collection."""
    if _COLLECTION & set(words(last_name(owner))):
        return True
    match owner:
        case cst.Name("self"):
            holder = source.enclosing(owner, cst.ClassDef)
            return holder is not None and bool(source.names.scopes[holder].bindings.get(method))
        case cst.Call(func=cst.Name("super")):
            return False
    return any(
        isinstance(scope.node, cst.ClassDef) and method in scope.bindings for scope in source.names.scopes.values()
    )


def drains(source: Source, use: cst.BaseExpression) -> cst.CSTNode | None:
    """The call or loop that exhausts the iterator at `use`; None if that is not certain."""
    parent = source.parent(use)
    match parent:
        case cst.For(iter=iterable) if iterable is use:
            return None if _breaks(source, parent) else parent
        case cst.CompFor(iter=iterable) if iterable is use:
            return source.enclosing(use, *COMPREHENSIONS)
        case cst.Arg():
            call = source.parent(parent)
            if isinstance(call, cst.Call):
                return _draining_call(source, call, parent)
        case cst.Element() | cst.StarredElement() | cst.DictElement():
            # Adam([{"params": params, "lr": 0.1}])
            call = source.enclosing(use, cst.Call)
            if call is not None and is_optimizer_class(source, call.func):
                return call
    return None


def _draining_call(source: Source, call: cst.Call, arg: cst.Arg) -> cst.CSTNode | None:
    if is_optimizer_class(source, call.func) or _is_class_of_optimizers(last_name(call.func)):
        return call if call.args[0] is arg or (arg.keyword and arg.keyword.value == "params") else None
    if source.qualified(call.func) in _DRAINS or any(call is clip.call for clip in torch_calls(source)):
        return call
    if last_name(call.func) in ("clip_grad_norm_", "clip_grad_norm", "clip_grad_value_"):
        return call
    if last_name(call.func) in WRAPS:
        return drains(source, call)
    return None


def _is_class_of_optimizers(name: str) -> bool:
    """Whether a name refers to a class chosen elsewhere: `optimizer_class`, `optim_cls`."""
    parts = words(name)
    return parts[-1:] in (("class",), ("cls",)) and any(part.startswith("optim") for part in parts)


def _breaks(source: Source, loop: cst.For) -> bool:
    return any(isinstance(node, (cst.Break, cst.Return)) for node in source.walk(loop.body))
