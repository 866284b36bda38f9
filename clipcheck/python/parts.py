"""The parts of a program, by Python's own parser: its functions, and what is outside of them; and the words in each."""

from __future__ import annotations

import ast
import warnings
from collections.abc import Iterable, Sequence
from typing import NamedTuple

Words = frozenset[str]
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


class Function(NamedTuple):
    """An outermost function or method: its body, and the lines from its `def` on."""

    body: Sequence[ast.AST]
    text: bytes

    def words(self) -> Words:
        return _words(self.body)[0]


class Parts(NamedTuple):
    """The words outside of functions, and the functions; decorators, defaults and annotations are outside, as are classes.

    Words are identifiers, `.x` for the attribute x or an import of it, `def x` for a definition, `<For>` for a node of that kind.
    """

    outside: Words
    functions: tuple[Function, ...]


def parts(text: str) -> Parts | None:
    """The parts of a program, None where it is not Python."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what is wrong with the user's strings is not ours to say
            tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    lines = text.encode(errors="replace").splitlines(keepends=True)  # of bytes, by the line ends that Python knows
    outside, found = _words([tree], enter=False)
    functions = (Function(node.body, b"".join(lines[node.lineno - 1 : node.end_lineno])) for node in found)
    return Parts(outside, tuple(functions))


def shares(function: Function, outside: Words) -> bool:
    """Whether a function may give something to the others: by `global`, or by filling a list of the module's."""
    return b"global" in function.text or (b"append" in function.text and "<empty list>" in outside)


def _words(roots: Iterable[ast.AST], enter: bool = True) -> tuple[Words, list[ast.FunctionDef | ast.AsyncFunctionDef]]:
    """The words of all that is below `roots`, and the functions there, whose bodies are left out unless `enter`."""
    words: set[str] = set()
    functions: list[ast.FunctionDef | ast.AsyncFunctionDef] = []
    pending = list(roots)
    while pending:
        node = pending.pop()
        kind = type(node)
        if kind is ast.Name:  # most nodes are one of these three
            words.add(node.id)  # type: ignore[attr-defined]
        elif kind is ast.Attribute:
            words |= {node.attr, f".{node.attr}"}  # type: ignore[attr-defined]
            pending.append(node.value)  # type: ignore[attr-defined]
        elif kind is not ast.Constant:
            words.add(f"<{kind.__name__}>")
            words.update(_special(node))
            inner: Sequence[ast.AST] = ()
            if isinstance(node, _FUNCTIONS):
                functions.append(node)
                inner = () if enter else node.body
            pending += (child for child in ast.iter_child_nodes(node) if child not in inner)
    return frozenset(words), functions


def _special(node: ast.AST) -> Iterable[str]:
    match node:
        case ast.keyword(arg=str(name)):
            return (name,)
        case ast.alias(name=path) | ast.ImportFrom(module=str(path)):
            return [*path.split("."), f".{path}"]
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
            return (f"def {name}",)
        case ast.BinOp(left=left, op=ast.Mult(), right=right) if ast.dump(left) == ast.dump(right):
            return ("<square>",)
        case ast.List(elts=[]) | ast.Call(func=ast.Name(id="list"), args=[]):
            return ("<empty list>",)
    return ()
