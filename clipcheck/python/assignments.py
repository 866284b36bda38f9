"""The value that an assignment or a loop gives to one of its target names."""

from __future__ import annotations

from typing import TypeAlias

import libcst as cst

from clipcheck.python.names import Binding
from clipcheck.python.reaching import reaching
from clipcheck.python.source import Source

# The path to a name through the tuples of a target: (1, 0) leads to `c` in `a, (c, d)`.
Path: TypeAlias = tuple[int, ...]


def assigned_value(source: Source, binding: Binding) -> cst.BaseExpression | None:
    """The part of the right side of an assignment that belongs to one name, also in `a, b = x, y`."""
    if binding.value is not None:
        return binding.value
    target = source.enclosing(binding.node, cst.AssignTarget)
    statement = source.enclosing(binding.node, cst.Assign)
    if target is None or statement is None or any(isinstance(n, cst.StarredElement) for n in source.walk(target)):
        return None
    return part(statement.value, _path(source, binding.node))


def unpacked(source: Source, binding: Binding) -> tuple[cst.Call, Path] | None:
    """The call whose result is unpacked into several names, and the path to this one: `net, opt = build()`."""
    statement = source.enclosing(binding.node, cst.Assign)
    match statement, binding.value:
        case cst.Assign(targets=[cst.AssignTarget(target=target)], value=cst.Call() as call), None:
            if not any(isinstance(node, cst.StarredElement) for node in source.walk(target)):
                return call, _path(source, binding.node)
    return None


def assigned_values(source: Source, name: cst.Name) -> list[cst.BaseExpression | None]:
    """The values that a use of a name may see; None for each binding that is not a plain assignment."""
    return [assigned_value(source, binding) if binding.kind == "assign" else None for binding in reaching(source, name)]


def only_assignment(source: Source, name: cst.Name) -> Binding | None:
    """The assignment of a whole value, if a use of the name can see only this one."""
    match reaching(source, name):
        case [Binding(kind="assign", value=cst.BaseExpression()) as binding]:
            return binding
    return None


def appended(source: Source, name: cst.Name) -> tuple[cst.Call, ...]:
    """The `.append(…)` calls that fill the list in a name; none if it may be filled in another way."""
    found: list[cst.Call] = []
    for use in source.names.uses(source.scope(name).owner(name.value), name.value):
        match source.parent(use):
            case cst.Attribute(attr=cst.Name("append" | "extend" | "insert")) as method:
                call = source.parent(method)
                if not isinstance(call, cst.Call) or method.attr.value != "append" or len(call.args) != 1:
                    return ()
                found.append(call)
    return tuple(found)


def stored(source: Source, name: cst.Name) -> tuple[cst.Assign, ...]:
    """The assignments `name[key] = value` that fill the table in a name."""
    found: list[cst.Assign] = []
    for use in source.names.uses(source.scope(name).owner(name.value), name.value):
        match source.parent(use):
            case cst.Subscript(value=table) as place if table is use:
                target = source.parent(place)
                statement = source.parent(target) if isinstance(target, cst.AssignTarget) else None
                found += [statement] if isinstance(statement, cst.Assign) else []
    return tuple(found)


def item(source: Source, holder: cst.Name, key: cst.BaseExpression) -> cst.BaseExpression | None:
    """The value under a key of a dict display, where the code only reads single keys of it."""
    binding = only_assignment(source, holder)
    match binding.value if binding is not None else None:
        case cst.Dict(elements=elements) if all(isinstance(element, cst.DictElement) for element in elements):
            uses = source.names.uses(source.scope(holder).owner(holder.value), holder.value)
            read = (source.parent(use) for use in uses)
            if all(isinstance(one, cst.Subscript) and not _is_changed(source, one) for one in read):
                return next((element.value for element in elements if _has_key(element, key)), None)
    return None


def _is_changed(source: Source, node: cst.Subscript) -> bool:
    return isinstance(source.parent(node), (cst.AssignTarget, cst.AugAssign, cst.Del))


def _has_key(element: cst.BaseDictElement, key: cst.BaseExpression) -> bool:
    match element, key:
        case cst.DictElement(key=cst.SimpleString() as own), cst.SimpleString():
            return own.evaluated_value == key.evaluated_value
    return False


def loop_of(source: Source, target: cst.CSTNode) -> tuple[cst.For | cst.CompFor, Path]:
    """The loop that binds a name in its target, and the path to that name."""
    loop = source.enclosing(target, cst.For, cst.CompFor)
    assert isinstance(loop, (cst.For, cst.CompFor))
    return loop, _path(source, target)


def mapped_over(source: Source, binding: Binding) -> cst.BaseExpression | None:
    """The `xs` of `map(lambda x: …, xs)` if the binding is the lambda's parameter."""
    function = source.enclosing(binding.node, cst.Lambda, cst.FunctionDef)
    call = source.enclosing(function, cst.Call) if isinstance(function, cst.Lambda) else None
    match call:
        case cst.Call(func=func, args=[cst.Arg(value=first), cst.Arg(value=iterable)]) if (
            first is function and source.qualified(func) == "builtins.map"
        ):
            return iterable
    return None


def _path(source: Source, name: cst.CSTNode) -> Path:
    path: list[int] = []
    child = name
    for parent in source.ancestors(name):
        match parent:
            case cst.Tuple(elements=elements) | cst.List(elements=elements):
                path.append(next(index for index, element in enumerate(elements) if element is child))
            case cst.Element() | cst.StarredElement():
                pass
            case _:
                break
        child = parent
    return tuple(reversed(path))


def part(value: cst.BaseExpression, path: Path) -> cst.BaseExpression | None:
    """The part of nested tuples or lists at the position of the name among the targets."""
    for index in path:
        match value:
            case cst.Tuple(elements=elements) | cst.List(elements=elements) if index < len(elements):
                if any(isinstance(element, cst.StarredElement) for element in elements):
                    return None
                value = elements[index].value
            case _:
                return None
    return value
