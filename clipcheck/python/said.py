"""What the code around a value says that it is: the names, keys and texts that it is assigned to, logged or returned as."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

import libcst as cst

from clipcheck.python.source import Source
from clipcheck.python.words import words

_TEXTS = (cst.SimpleString, cst.FormattedString, cst.ConcatenatedString)


def said(source: Source, value: cst.CSTNode) -> frozenset[str]:
    """The words in the statement of a value, and of the function that returns it."""
    function = source.function(value)
    returned = isinstance(source.enclosing(value, cst.Return, cst.FunctionDef, cst.Lambda), cst.Return)
    return said_here(source, value) | _split([function.name.value] if returned and function is not None else [])


def said_here(source: Source, value: cst.CSTNode) -> frozenset[str]:
    """The words of the names, keys and strings in the statement of a value, outside of what computes it."""
    return _split(_texts(source, value))


def _split(texts: Iterable[str]) -> frozenset[str]:
    return frozenset(word for text in texts for part in re.split(r"\W+", text) for word in words(part))


def _texts(source: Source, value: cst.CSTNode) -> Iterator[str]:
    below: cst.CSTNode = value
    if isinstance(value, cst.Name):
        yield value.value
    for above in source.ancestors(value):
        match above:
            case cst.Assign(targets=targets):
                # the last name: the object that has the attribute says nothing
                yield from (source.code(target.target).rpartition(".")[2] for target in targets)
            case cst.AnnAssign(target=target):
                yield source.code(target).rpartition(".")[2]
            case cst.Arg(keyword=cst.Name(value=name)):
                yield name
            case cst.DictElement(key=cst.SimpleString() as key):
                yield str(key.evaluated_value)
            case cst.Call(func=func, args=args) if below is not func:
                texts = [arg.value for arg in args]
                texts += [func.value] if isinstance(func, cst.Attribute) else []  # `"norm: {}".format(…)`
                yield from (source.code(text) for text in texts if isinstance(text, _TEXTS))
            case cst.BinaryOperation(operator=cst.Modulo(), left=text) if isinstance(text, _TEXTS):
                yield source.code(text)
            case cst.FormattedString(parts=parts):
                yield from (part.value for part in parts if isinstance(part, cst.FormattedStringText))
        below = above
