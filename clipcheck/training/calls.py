"""Which function of the file a call runs, and what it gives to that function's parameters."""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from clipcheck.python.names import Binding
from clipcheck.python.source import Source, memo


@memo
def called(source: Source, call: cst.Call) -> cst.FunctionDef | None:
    """The function of this file that a call runs, where that is plain: by its name, or a method by `self.`.

    None for a generator, whose body does not run when it is called.
    """
    match call.func:
        case cst.Name() as name:
            bindings = source.bindings(name)
        case cst.Attribute(value=cst.Name("self"), attr=cst.Name(value=method)) if owner := source.enclosing(
            call, cst.ClassDef
        ):
            bindings = source.names.scopes[owner].bindings.get(method, [])
        case _:
            return None
    match bindings:
        case [Binding(node=cst.FunctionDef() as function)]:
            return None if function in _generators(source) else function
    return None


@memo
def _generators(source: Source) -> frozenset[cst.FunctionDef | None]:
    return frozenset(source.function(node) for node in source.nodes(cst.Yield))


def closures(source: Source, call: cst.Call) -> Iterator[cst.FunctionDef]:
    """Local functions that are handed to `step(closure)`, which calls them first."""
    match call.func:
        case cst.Attribute(attr=cst.Name("step")):
            names = [arg.value for arg in call.args if isinstance(arg.value, cst.Name)]
            bindings = (binding for name in names for binding in source.bindings(name))
            yield from (binding.node for binding in bindings if isinstance(binding.node, cst.FunctionDef))


def arguments(call: cst.Call, function: cst.FunctionDef) -> dict[str, cst.BaseExpression]:
    """The expressions that a call gives to a function's parameters, by their names, up to the first `*` or `**`."""
    names = [param.name.value for param in (*function.params.posonly_params, *function.params.params)]
    if isinstance(call.func, cst.Attribute) and not _is_static(function):
        names = names[1:]  # self
    given: dict[str, cst.BaseExpression] = {}
    for position, arg in enumerate(call.args):
        if arg.star:
            break
        name = arg.keyword.value if arg.keyword else names[position] if position < len(names) else ""
        if name:
            given[name] = arg.value
    return given


def _is_static(function: cst.FunctionDef) -> bool:
    return any(
        isinstance(decorator.decorator, cst.Name) and decorator.decorator.value == "staticmethod"
        for decorator in function.decorators
    )
