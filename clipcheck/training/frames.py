"""The calls that lead from a function into those that it calls, and the first caller's names for values there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import libcst as cst

from clipcheck.python.source import Source
from clipcheck.training.calls import Callee, Function
from clipcheck.training.summaries import in_caller_terms


@dataclass(frozen=True, eq=False)
class Frame:
    """A call that led into a function, from the analyzed function or from one that it calls.

    `given` are the caller's arguments by parameter name; `words` are the analyzed function's expressions for them.
    """

    call: cst.Call
    function: Function
    given: Mapping[str, cst.BaseExpression]
    words: Mapping[str, str]
    outer: Frame | None = None


def frames(innermost: Frame | None) -> Iterator[Frame]:
    """The calls that lead to a place, innermost first."""
    while innermost is not None:
        yield innermost
        innermost = innermost.outer


def entered(source: Source, call: cst.Call, callee: Callee, outer: Frame | None) -> Frame:
    """The frame of a function that is called within `outer`."""
    named = callee.given if callee.owner is None else {**callee.given, "self": callee.owner}
    plain = {name: value for name, value in named.items() if isinstance(value, (cst.Name, cst.Attribute))}
    words = {name: _spelled(source, value, outer) for name, value in plain.items()}
    if callee.owner is None:  # a function inside a method has that one's `self`
        words = {"self": "self" if outer is None else outer.words.get("self", ""), **words}
    return Frame(call, callee.function, callee.given, {name: word for name, word in words.items() if word}, outer)


def _spelled(source: Source, node: cst.BaseExpression, frame: Frame | None) -> str:
    """A name or attribute as the analyzed function writes it; empty if it has no name for it."""
    written = source.spelled(node)
    if frame is None:
        return written
    root, dot, rest = written.partition(".")
    word = frame.words.get(root, "")
    return word and word + dot + rest


def in_outermost_terms(
    source: Source, node: cst.BaseExpression | None, frame: Frame | None
) -> cst.BaseExpression | None:
    """A parameter replaced by the argument of the outermost caller that has a name for it."""
    for inner in frames(frame):
        outer = in_caller_terms(source, node, inner.given)
        if outer is node:
            return node
        node = outer
    return node
