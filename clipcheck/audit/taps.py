"""Observers in front of functions: the function object stays, only the code that it runs is another.

So every reference to the function goes through the observer, however and whenever it was imported, stored or bound, and
whoever compares functions by identity, as `clipcheck.runtime.install` does, sees no difference.
"""

from __future__ import annotations

from collections.abc import Callable
from types import CodeType, FunctionType
from typing import Any, TypeAlias

Function: TypeAlias = Callable[..., Any]


def tap(function: Any, observer: Function) -> Function:
    """Lets `observer` run in the place of a Python function, with the original before its arguments; returns the undoing.

    Raises a `TypeError` for what is not a Python function, such as one that is written in C.
    """
    if not isinstance(function, FunctionType):
        raise TypeError(f"`{function!r}` is not a Python function")
    code, names = function.__code__, function.__globals__
    original = FunctionType(code, names, function.__name__, function.__defaults__, function.__closure__)
    original.__kwdefaults__ = function.__kwdefaults__
    name = f"__clipcheck_observer_{id(function)}__"

    def observed(*args: Any, **kwargs: Any) -> Any:
        return observer(original, *args, **kwargs)

    names[name] = observed
    function.__code__ = _calling(name, code)

    def undo() -> None:
        function.__code__ = code
        del names[name]

    return undo


def _calling(name: str, like: CodeType) -> CodeType:
    """Code that calls the global `name`, for a function with as many cells in its closure as the code `like` has."""
    cells = ", ".join(f"cell_{index}" for index in range(len(like.co_freevars)))
    source = f"lambda {cells}: lambda *args, **kwargs: ({name}(*args, **kwargs), {cells})[0]"
    inner: FunctionType = eval(source)(*like.co_freevars)
    return inner.__code__.replace(co_name=like.co_name, co_filename=like.co_filename)
