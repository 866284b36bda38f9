"""Observers in front of functions: the function object stays, only the code that it runs is another.

So every reference to the function goes through the observer, however and whenever it was imported, stored or bound, and
whoever compares functions by identity, as `clipcheck.runtime.install` does, sees no difference.
"""

from __future__ import annotations

from collections.abc import Callable
from types import CodeType, FunctionType
from typing import Any, TypeAlias

Function: TypeAlias = Callable[..., Any]
Observer: TypeAlias = Callable[..., Any]  # given the original function, then what it was called with

_NAME = "__clipcheck_observer_{}__"


def tap(function: Any, observer: Observer) -> Callable[[], None]:
    """Lets `observer` run in the place of a Python function, and returns what undoes that.

    Raises a `TypeError` for what is not a Python function, such as one that is written in C.
    """
    if not isinstance(function, FunctionType):
        raise TypeError(f"`{function!r}` is not a Python function")
    code = function.__code__
    original = FunctionType(code, function.__globals__, function.__name__, function.__defaults__, function.__closure__)
    original.__kwdefaults__ = function.__kwdefaults__
    name = _NAME.format(id(function))

    def observed(*args: Any, **kwargs: Any) -> Any:
        return observer(original, *args, **kwargs)

    function.__globals__[name] = observed
    function.__code__ = _calling(name, code)

    def undo() -> None:
        function.__code__ = code
        del function.__globals__[name]

    return undo


def _calling(name: str, like: CodeType) -> CodeType:
    """Code that calls the global `name`, for a function with the same closure as the code `like`."""
    cells = [f"cell_{index}" for index in range(len(like.co_freevars))]
    mention = "; ".join(cells) or "pass"  # a closure has to have as many cells as the code that replaces its own
    source = f"""
def outer({", ".join(cells)}):
    def {like.co_name if like.co_name.isidentifier() else "tapped"}(*args, **kwargs):
        return {name}(*args, **kwargs)
        {mention}
    return {like.co_name if like.co_name.isidentifier() else "tapped"}
"""
    made: dict[str, Any] = {}
    exec(compile(source, like.co_filename, "exec"), made)
    inner: FunctionType = made["outer"](*cells)
    return inner.__code__
