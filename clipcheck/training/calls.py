"""Which function of the file a call runs, and which arguments it passes.

Names, lambdas, aliases and `functools.partial` are followed, and methods of `self`, `super()` and instances of classes
in the file, through their bases in the file. If a call may also run something else, the function is unknown.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, TypeAlias

import libcst as cst

from clipcheck.python.names import Binding, last_name
from clipcheck.python.source import Source, memo
from clipcheck.training.parameters import assigned

Function: TypeAlias = "cst.FunctionDef | cst.Lambda"
_DEPTH = 4  # maximum number of names, partials and bases to follow
# Bases without any methods that programs define themselves.
_PLAIN_BASES = frozenset({"builtins.object", "abc.ABC", "torch.nn.Module", "typing.Generic", "typing.Protocol"})


class Callee(NamedTuple):
    """The function that a call runs, and the caller's arguments by the name of the parameter.

    `owner` is the object whose method it is; None for functions and for methods of the caller's `self`.
    """

    function: Function
    given: dict[str, cst.BaseExpression]
    owner: cst.BaseExpression | None = None


class _Found(NamedTuple):
    """A function; if `bound`, its first parameter is the object; `args` are those of partials, innermost first."""

    function: Function
    bound: bool = False
    args: tuple[cst.Arg, ...] = ()
    owner: cst.BaseExpression | None = None


@memo
def callee(source: Source, call: cst.Call) -> Callee | None:
    """The function of this file that a call runs, if it is known; None for a generator, whose body does not run."""
    found = _found(source, call.func, _DEPTH) if last_name(call.func) in _callable_names(source) else None
    if found is None or found.function in _generators(source):
        return None
    return Callee(found.function, _given(found, call.args), found.owner)


@memo
def calls_of(source: Source, function: Function) -> tuple[Callee, ...]:
    """The arguments of every call of a function in this file."""
    found = (callee(source, call) for call in source.nodes(cst.Call))
    return tuple(called for called in found if called is not None and called.function is function)


def callees(source: Source, call: cst.Call) -> Iterator[Callee]:
    """The functions of this file that a call runs: the one it calls, and local functions passed to `step(closure)`."""
    direct = callee(source, call)
    if direct is not None:
        yield direct
    yield from (Callee(function, {}) for function in closures(source, call))


def closures(source: Source, call: cst.Call) -> Iterator[Function]:
    """Functions of the file that are passed to `step(closure)`, which calls them first."""
    match call.func:
        case cst.Attribute(attr=cst.Name("step")):
            found = (named_function(source, arg.value) for arg in call.args)
            yield from (function for function in found if function is not None)


def named_function(source: Source, node: cst.BaseExpression) -> Function | None:
    """The function of this file that an expression names, such as a hook that is passed on; or a lambda."""
    found = _found(source, node, _DEPTH)
    return None if found is None or found.function in _generators(source) else found.function


def parameters_of(function: Function) -> list[str]:
    """The names of the parameters that accept positional arguments."""
    return [param.name.value for param in (*function.params.posonly_params, *function.params.params)]


def generator_of(source: Source, call: cst.Call) -> cst.FunctionDef | None:
    """The generator function of this file that a call runs: it returns an iterator that yields its items once."""
    found = _found(source, call.func, _DEPTH) if last_name(call.func) in _callable_names(source) else None
    match None if found is None else found.function:
        case cst.FunctionDef() as function if function in _generators(source):
            plain = {last_name(decorator.decorator) for decorator in function.decorators} <= _KEEPS_ITERATOR
            return function if plain else None
    return None


# Decorators after which a generator function still returns its iterator, unlike `contextmanager`.
_KEEPS_ITERATOR = {"staticmethod", "classmethod", "no_grad"}


@memo
def _generators(source: Source) -> frozenset[cst.CSTNode | None]:
    return frozenset(source.enclosing(node, cst.FunctionDef, cst.Lambda) for node in source.nodes(cst.Yield))


@memo
def _callable_names(source: Source) -> frozenset[str]:
    """The names that may refer to a function of the file; most calls use other names."""
    names = {function.name.value for function in source.nodes(cst.FunctionDef)}
    for statement in source.nodes(cst.Assign):
        match statement.value:
            case cst.Lambda() | cst.Name() | cst.Attribute():
                names |= {last_name(target.target) for target in statement.targets}
            case cst.Call(func=func) if last_name(func) == "partial":
                names |= {last_name(target.target) for target in statement.targets}
    return frozenset(names)


# --- from an expression to a function -------------------------------------------------------------------------------


def _found(source: Source, node: cst.BaseExpression, depth: int) -> _Found | None:
    match node:
        case cst.Lambda():
            return _Found(node)
        case cst.Name():
            return _bound(source, source.bindings(node), depth)
        case cst.Attribute(value=owner, attr=cst.Name(value=method)):
            found = _method_of(source, owner, method)
            if found is not None or not depth:
                return found
            value = assigned(source, node)
            return None if value is None else _found(source, value, depth - 1)
        case cst.Call(func=func, args=[cst.Arg(value=inner, keyword=None, star=""), *args]) if depth:
            if is_partial(source, func):
                found = _found(source, inner, depth - 1)
                return None if found is None else found._replace(args=(*found.args, *args))
    return None


def is_partial(source: Source, func: cst.BaseExpression) -> bool:
    """Whether a function is `functools.partial`; an unbound `partial` counts, since fragments may lack imports."""
    unbound = isinstance(func, cst.Name) and not source.bindings(func)
    return last_name(func) == "partial" and (unbound or source.qualified(func) == "functools.partial")


def _bound(source: Source, bindings: Sequence[Binding], depth: int) -> _Found | None:
    match bindings:
        case [Binding(node=cst.FunctionDef() as function)]:
            return _Found(function)
        case [Binding(kind="assign", value=cst.BaseExpression() as value)] if depth:
            return _found(source, value, depth - 1)
    return None


def _method_of(source: Source, owner: cst.BaseExpression, method: str) -> _Found | None:
    """The function that `owner.method` refers to, according to the type of `owner`."""
    around = source.enclosing(owner, cst.ClassDef)
    match owner:
        case cst.Name("self" | "cls") if around is not None:
            theirs = [one for one in _subclasses(source, around) if method in source.names.scopes[one].bindings]
            own = _of_class(source, around, method)
            match theirs:
                case []:
                    return _as_method(own)
                case [only] if own is None and _is_whole(source, around):
                    return _as_method(_of_class(source, only, method))  # no other object has this method
            return None  # the object may be an instance of a subclass
        case cst.Call(func=cst.Name("super"), args=[]) if around is not None:
            return _as_method(_of_bases(source, around, method))
    of_class = _class_named(source, owner)
    if of_class is not None:
        function = _of_class(source, of_class, method)
        return None if function is None else _Found(function, _has_decorator(function, "classmethod"))
    match assigned(source, owner):
        case cst.Call(func=func) if (made_of := _class_named(source, func)) is not None:
            return _as_method(_of_class(source, made_of, method), owner)
    return None


def _as_method(function: cst.FunctionDef | None, owner: cst.BaseExpression | None = None) -> _Found | None:
    if function is None:
        return None
    return _Found(function, not _has_decorator(function, "staticmethod"), owner=owner)


def _of_class(source: Source, owner: cst.ClassDef, method: str) -> cst.FunctionDef | None:
    return _first(source, _lineage(source, owner, _DEPTH), method)


def _of_bases(source: Source, owner: cst.ClassDef, method: str) -> cst.FunctionDef | None:
    _, *bases = _lineage(source, owner, _DEPTH)
    return _first(source, bases, method)


def _first(source: Source, classes: Iterable[cst.ClassDef | None], method: str) -> cst.FunctionDef | None:
    """The method of the first class that has it; None if a class before it is unknown."""
    for one in classes:
        match source.names.scopes[one].bindings.get(method, []) if one is not None else None:
            case [Binding(node=cst.FunctionDef() as function)]:
                return function
            case []:
                continue
        break
    return None


def _lineage(source: Source, owner: cst.ClassDef, depth: int) -> Iterator[cst.ClassDef | None]:
    """A class and its bases, in method resolution order; None for each that is not in the file."""
    yield owner
    for base in owner.bases:
        above = _class_named(source, base.value)
        if above is not None and above is not owner and depth:
            yield from _lineage(source, above, depth - 1)
        elif source.qualified(base.value) not in _PLAIN_BASES:
            yield None


def _is_whole(source: Source, owner: cst.ClassDef) -> bool:
    """Whether all bases of a class are in the file, so that no other can have a method that these lack."""
    return None not in _lineage(source, owner, _DEPTH)


def _class_named(source: Source, node: cst.BaseExpression) -> cst.ClassDef | None:
    match source.bindings(node) if isinstance(node, cst.Name) else ():
        case [Binding(node=cst.ClassDef() as of_class)]:
            return of_class
    return None


@memo
def _subclasses(source: Source, owner: cst.ClassDef) -> tuple[cst.ClassDef, ...]:
    """The classes of the file that derive from a class, directly or indirectly."""
    found: list[cst.ClassDef] = []
    for other in source.nodes(cst.ClassDef):
        parents = [_class_named(source, base.value) for base in other.bases]
        if any(parent is not None and (parent is owner or parent in found) for parent in parents):
            found.append(other)
    return tuple(found)


# --- arguments ------------------------------------------------------------------------------------------------------


def _given(found: _Found, args: Sequence[cst.Arg]) -> dict[str, cst.BaseExpression]:
    """The arguments of a call by parameter name, up to the first `*` or `**`."""
    names = parameters_of(found.function)[found.bound :]
    given: dict[str, cst.BaseExpression] = {}
    position = 0
    for arg in (*found.args, *args):
        if arg.star:
            break
        if arg.keyword is not None:
            given[arg.keyword.value] = arg.value
        elif position < len(names):
            given[names[position]] = arg.value
            position += 1
    return given


def _has_decorator(function: cst.FunctionDef, name: str) -> bool:
    return any(last_name(decorator.decorator) == name for decorator in function.decorators)
