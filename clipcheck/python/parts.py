"""The parts of a program, by Python's own parser: its functions, and what is outside of them; and the words in each."""

from __future__ import annotations

import ast
import warnings
from collections.abc import Iterable, Sequence
from enum import Enum
from functools import lru_cache
from typing import Any, NamedTuple

Words = frozenset[str]
# A million characters of code take LibCST some 1.4 GB and 2 s, and Python's own parser 0.3 GB and 1 s.
MAX_CHARACTERS = 2_000_000
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
# What holds no words: besides some nodes, the values that nodes have beside other nodes.
_SILENT = (ast.Constant, ast.Load, ast.Store, ast.Del, type(None), str, int, bool)

_LONGEST_PATH = 80


class Function(NamedTuple):
    """An outermost function or method: its body, and the lines from its `def` on."""

    body: Sequence[ast.AST]
    text: bytes

    def words(self) -> Words:
        return _words(self.body)[0]


class Parts(NamedTuple):
    """The words outside of functions, and the functions; decorators, defaults and annotations are outside, as are classes.

    Words are identifiers, `.x` for the attribute x or an import of it, `def x` for a definition, `'x'` for a string that is a
    name or a dotted path with x in it, `<For>` for a node of that kind.
    """

    outside: Words
    functions: tuple[Function, ...]


class NoTree(Enum):
    """Why Python's parser gives no tree."""

    FAULTY = "not Python"
    DEEP = "nested too deeply"
    LARGE = "too large"


@lru_cache(maxsize=1)  # of a program that concerns us, the depth is asked for as well as the words
def tree_of(text: str) -> ast.Module | NoTree:
    """The tree of a program by Python's own parser, a tenth as costly as LibCST's; no parser sees what is too large."""
    if len(text) > MAX_CHARACTERS:
        return NoTree.LARGE
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what is wrong with the user's strings is not ours to say
            return ast.parse(text)
    except (RecursionError, MemoryError):
        return NoTree.DEEP
    except (SyntaxError, ValueError):
        return NoTree.FAULTY


def parts(text: str) -> Parts | None:
    """The parts of a program, None where there is no tree of it."""
    tree = tree_of(text)
    if isinstance(tree, NoTree):
        return None
    lines = text.encode(errors="replace").splitlines(keepends=True)  # of bytes, by the line ends that Python knows
    outside, found = _words([tree], enter=False)
    functions = (Function(node.body, b"".join(lines[node.lineno - 1 : node.end_lineno])) for node in found)
    return Parts(outside, tuple(functions))


def shares(function: Function, outside: Words) -> bool:
    """Whether a function may give something to the others: by `global`, or by filling a list of the module's."""
    return b"global" in function.text or (b"append" in function.text and "<empty list>" in outside)


def _words(roots: Iterable[ast.AST], enter: bool = True) -> tuple[Words, list[ast.FunctionDef | ast.AsyncFunctionDef]]:
    """The words of all that is below `roots`, and the functions there, whose bodies are left out unless `enter`.

    Most nodes are names, attributes and what says nothing; `ast.walk` would take twice the time.
    """
    words: set[str] = set()
    functions: list[ast.FunctionDef | ast.AsyncFunctionDef] = []
    pending: list[Any] = list(roots)
    while pending:
        node = pending.pop()
        kind = type(node)
        if kind is ast.Name:
            words.add(node.id)
        elif kind is ast.Attribute:
            words |= {node.attr, f".{node.attr}"}
            pending.append(node.value)
        elif kind is list:
            pending += node
        elif kind is ast.Constant:
            if type(node.value) is str and len(node.value) < _LONGEST_PATH:
                words.update(_in_string(node.value))
        elif kind not in _SILENT:
            words.add(f"<{kind.__name__}>")
            words.update(_special(node))
            values = vars(node)
            if kind in _FUNCTIONS:
                functions.append(node)
                if not enter:
                    values = {**values, "body": None}
            pending += values.values()
    return frozenset(words), functions


def _in_string(text: str) -> Iterable[str]:
    parts = text.split(".")
    return [f"'{part}'" for part in parts] if all(map(str.isidentifier, parts)) else ()


def _speaks_of_clipping(name: str, first: ast.stmt) -> bool:
    """Whether a function's name or its docstring, the first statement, does."""
    match first:
        case ast.Expr(value=ast.Constant(value=str(text))):
            return "clip" in name or "clip" in text.lower()
    return "clip" in name


def _special(node: ast.AST) -> Iterable[str]:
    match node:
        case ast.keyword(arg=str(name)):
            return (name,)
        case ast.alias(name=path) | ast.ImportFrom(module=str(path)):
            return [*path.split("."), f".{path}"]
        case ast.FunctionDef(name=name, body=[first, *_]) if _speaks_of_clipping(name, first):
            return (f"def {name}", "<clips>")
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
            return (f"def {name}",)
        case ast.BinOp(left=left, op=ast.Mult(), right=right) if ast.dump(left) == ast.dump(right):
            return ("<square>",)
        case ast.List(elts=[]) | ast.Call(func=ast.Name(id="list"), args=[]):
            return ("<empty list>",)
    return ()
