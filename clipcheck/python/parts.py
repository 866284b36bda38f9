"""The parts of a program, by Python's own parser: its functions, the code outside them, and the words in each."""

from __future__ import annotations

import ast
import warnings
from collections.abc import Callable, Iterable, Sequence
from enum import Enum
from functools import lru_cache
from typing import Any, NamedTuple

from clipcheck.python.stripped import stripped

Words = frozenset[str]
# For a million characters of code, LibCST needs about 1.4 GB and 2 s, Python's own parser 0.3 GB and 1 s.
MAX_CHARACTERS = 2_000_000
_COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
# Nodes without words, and the types of values that nodes contain besides other nodes.
_SILENT = frozenset({ast.Load, ast.Store, ast.Del, type(None), str, int, bool})

_LONGEST_PATH = 80


class Function(NamedTuple):
    """An outermost function or method: its body, and its lines from `def` on, without comments and strings."""

    body: Sequence[ast.AST]
    text: bytes

    def words(self) -> Words:
        return _words(self.body)[0]


class Parts(NamedTuple):
    """The words outside functions, and the functions; decorators, defaults, annotations and classes are outside.

    Words are identifiers, `.x` for the attribute x or an import of it, `def x` for a definition, `'x'` for a string
    that is a name or a dotted path with x in it, `<For>` for a node of that type; `x=` where x may be bound to a list,
    `[]x` to an empty one, `{}x` to an empty table, `x[]=` where an entry is set, `global x`, and `+x` where code outside
    functions reads it.
    """

    outside: Words
    functions: tuple[Function, ...]


class NoTree(Enum):
    """Why Python's parser returns no tree."""

    FAULTY = "not Python"
    DEEP = "nested too deeply"
    LARGE = "too large"


@lru_cache(maxsize=1)  # for a relevant program, the tree is needed twice: for the depth and for the words
def tree_of(text: str) -> ast.Module | NoTree:
    """The tree of a program by Python's own parser, ten times as fast as LibCST's; too large ones are not parsed."""
    if len(text) > MAX_CHARACTERS:
        return NoTree.LARGE
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # warnings about the user's strings do not matter here
            return ast.parse(text)
    except (RecursionError, MemoryError):
        return NoTree.DEEP
    except (SyntaxError, ValueError):
        return NoTree.FAULTY


def parts(text: str) -> Parts | None:
    """The parts of a program, None if it cannot be parsed."""
    tree = tree_of(text)
    if isinstance(tree, NoTree):
        return None
    lines = stripped(text.encode(errors="replace")).splitlines(
        keepends=True
    )  # as bytes, which are split only at Python's line ends
    outside, found = _words([tree], enter=False)
    functions = (Function(node.body, b"".join(lines[node.lineno - 1 : node.end_lineno])) for node in found)
    return Parts(outside, tuple(functions))


class Giver(NamedTuple):
    """A function that passes something to others by the names of module variables."""

    names: frozenset[str]
    words: Words


def givers(split: Parts) -> list[Giver]:
    """The functions that set a `global` variable, or add to a list or a table of the module."""
    lists, tables = _with("[]", split.outside), _with("{}", split.outside)
    found: list[Giver] = []
    for function in split.functions:
        if b"global" in function.text or any(name.encode() in function.text for name in lists | tables):
            words = function.words()
            added = lists & words if "append" in words else frozenset()
            names = added | {name for name in tables if f"{name}[]=" in words} | _with("global ", words)
            found += [Giver(names, words)] if names else []
    return found


def given(names: Words, givers: Iterable[Giver]) -> Words:
    """The words of the functions that pass something on by one of these names, directly or through one another."""
    words, others = names, list(givers)
    while near := [giver for giver in others if not giver.names.isdisjoint(words)]:
        words = words.union(*(giver.words for giver in near))
        others = [giver for giver in others if giver not in near]
    return words - names


def read_outside(split: Parts) -> Words:
    """The names that code outside functions reads."""
    return _with("+", split.outside)


def _with(mark: str, words: Words) -> Words:
    return frozenset(word.removeprefix(mark) for word in words if word.startswith(mark))


def _words(roots: Iterable[ast.AST], enter: bool = True) -> tuple[Words, list[ast.FunctionDef | ast.AsyncFunctionDef]]:
    """The words of everything below `roots`, and the functions there, whose bodies are left out unless `enter`.

    Most nodes are names, attributes and others without words; `ast.walk` would take twice the time.
    """
    words: set[str] = set()
    functions: list[ast.FunctionDef | ast.AsyncFunctionDef] = []
    pending: list[Any] = list(roots)
    while pending:
        node = pending.pop()
        kind = type(node)
        if kind is ast.Name:
            words.add(node.id)
            if not enter and type(node.ctx) is ast.Load:
                words.add(f"+{node.id}")
        elif kind is ast.Attribute:
            words.add(node.attr)
            words.add(f".{node.attr}")
            pending.append(node.value)
        elif kind is list:
            pending += node
        elif kind is ast.Constant:
            if type(node.value) is str and len(node.value) < _LONGEST_PATH:
                words.update(_in_string(node.value))
        elif kind not in _SILENT:
            words.add(f"<{kind.__name__}>")
            special = _SPECIAL.get(kind)
            if special:
                words.update(special(node))
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


# --- words of some nodes besides their type ---------------------------------------------------------------------------


def _of_call(node: ast.Call) -> Iterable[str]:
    match node:
        case ast.Call(func=ast.Name(id="list"), args=[]):
            return ("list()",)
        case ast.Call(func=ast.Attribute(attr="dot" | "vdot", value=one), args=[other]) if _is_same(one, other):
            return ("<dot>",)
        case ast.Call(func=func, args=[one, other]) if last_name(func) in ("dot", "vdot") and _is_same(one, other):
            return ("<dot>",)
        case ast.Call(func=ast.Name(id=name)):
            return (f"{name}()",)
        case ast.Call(func=ast.Attribute(value=ast.Name(id=owner), attr=name)) if owner != "self":
            return (f"{name}()",)
    return ()


def last_name(node: ast.AST) -> str:
    """The name by which a function is called."""
    match node:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
    return ""


def _of_statement(node: ast.Expr) -> Iterable[str]:
    match node.value:
        case ast.Call(func=func) | ast.ListComp(elt=ast.Call(func=func)) | ast.SetComp(elt=ast.Call(func=func)):
            return (f"{last_name(func)}();",)
    return ()


def _of_assignment(node: ast.Assign) -> Iterable[str]:
    return (*_of_binding(node.targets, node.value), *_of_value(node))


def _of_binding(targets: Sequence[ast.expr], value: ast.expr | None) -> Iterable[str]:
    """`x=` for each variable that may be bound to a list of something, or to nothing yet; `[]x` and `{}x` for empty ones."""
    values = value.elts if type(value) is ast.Tuple and value.elts else [value]
    forms = [form for form, is_one in _OF_BINDING.items() if any(map(is_one, values))]
    names = [name.id for target in targets for name in ast.walk(target) if type(name) is ast.Name] if forms else ()
    return [form.format(name) for form in forms for name in names]


def _may_be_list(value: ast.expr | None) -> bool:
    match value:
        case (
            ast.Constant(value=None)
            | ast.Call(func=ast.Name(id="list" | "tuple" | "set" | "dict" | "filter" | "len" | "sum"))
        ):
            return True
    return isinstance(value, (*_COMPREHENSIONS, ast.List, ast.Tuple, ast.Dict, ast.Name, ast.IfExp, ast.NamedExpr))


def _is_empty_list(value: ast.expr | None) -> bool:
    match value:
        case ast.List(elts=[]) | ast.Call(func=ast.Name(id="list"), args=[]):
            return True
    return False


def _is_empty_table(value: ast.expr | None) -> bool:
    match value:
        case ast.Dict(keys=[]) | ast.Call(func=ast.Name(id="dict"), args=[]):
            return True
    return False


_OF_BINDING = {"{}=": _may_be_list, "[]{}": _is_empty_list, "{{}}{}": _is_empty_table}


def _of_value(node: ast.Assign) -> Iterable[str]:
    match node:
        case ast.Assign(targets=[ast.Name()], value=ast.Call(func=ast.Attribute(value=ast.Name(), attr=name))):
            return (f"{name}();",)
        case ast.Assign(value=ast.Attribute() | ast.Name() as function):  # it may be called under another name
            return (f"{last_name(function)}()",)
    return ()


def _of_function(node: ast.FunctionDef) -> Iterable[str]:
    match node.body[0]:
        case ast.Expr(value=ast.Constant(value=str(text))) if "clip" in text.lower():
            return (f"def {node.name}", "<clips>")
    return (f"def {node.name}", "<clips>") if "clip" in node.name else (f"def {node.name}",)


def _of_product(node: ast.BinOp) -> Iterable[str]:
    return ("<square>",) if type(node.op) is ast.Mult and _is_same(node.left, node.right) else ()


def _is_same(one: ast.AST, other: ast.AST) -> bool:
    return type(one) is type(other) and ast.dump(one) == ast.dump(other)


def _of_subscript(node: ast.Subscript) -> Iterable[str]:
    match node:
        case ast.Subscript(value=ast.Attribute(attr=name)):
            return (f".{name}[]",)
        case ast.Subscript(value=ast.Name(id=name), ctx=ast.Store()):
            return (f"{name}[]=",)
    return ()


def _of_import(path: str | None) -> Iterable[str]:
    return [*path.split("."), f".{path}"] if path else ()


def _of_test(node: ast.If) -> Iterable[str]:
    return _asked(node.test) if _returns(node.body) or _returns(node.orelse) else ()


def _returns(statements: Sequence[ast.stmt]) -> bool:
    """Whether one of these statements is a `return`, or contains one without a further test."""
    return any(type(one) is ast.Return or (type(one) is not ast.If and _holds_return(one)) for one in statements)


def _holds_return(statement: ast.stmt) -> bool:
    blocks = [getattr(statement, name, ()) for name in ("body", "orelse", "finalbody")]
    handled = [handler.body for handler in getattr(statement, "handlers", ())]
    cases = [case.body for case in getattr(statement, "cases", ())]
    return any(map(_returns, [*blocks, *handled, *cases]))


# What asks whether something is there, or a number of things is 0: which number a name stands for, is not known here.
_IS = (ast.Is, ast.Eq, ast.IsNot, ast.NotEq)
_BOUNDS: dict[object, tuple[type[ast.cmpop], ...]] = {
    None: _IS,
    0: (ast.Eq, ast.LtE, ast.NotEq, ast.Gt),
    1: (ast.Lt, ast.GtE),
}
_ANY = (*_IS, ast.LtE, ast.Gt, ast.Lt, ast.GtE)


def _asked(test: ast.expr) -> Iterable[str]:
    """`<return>` for a test whether a list has elements, `<return>x` for one whether the variable x is there or has some."""
    match test:
        case ast.BoolOp(values=values):
            return [word for value in values for word in _asked(value)]
        case ast.UnaryOp(op=ast.Not(), operand=inner) | ast.NamedExpr(value=inner):
            return _asked(inner)
        case ast.Compare(left=left, ops=[op], comparators=[ast.Constant(value=bound)]):
            return _subject(left) if isinstance(op, _BOUNDS.get(bound, ())) else ()
        case ast.Compare(left=left, ops=[op]):
            return _subject(left) if isinstance(op, _ANY) else ()
    return _subject(test)


_OF_LISTS = frozenset({"len", "sum", "any", "all", "bool", "list", "tuple", "set"})


def _subject(asked: ast.expr) -> Iterable[str]:
    match asked:
        case ast.Name(id=name):
            return (f"<return>{name}",)
        case ast.NamedExpr(value=inner):
            return _subject(inner)
        case ast.Call(func=ast.Name(id=name), args=[inner]) if name in _OF_LISTS:
            return _subject(inner)
        case ast.Call(func=ast.Name(id="filter")):
            return ("<return>",)
    return ("<return>",) if isinstance(asked, _COMPREHENSIONS) else ()


_SPECIAL: dict[type, Callable[[Any], Iterable[str]]] = {
    ast.Call: _of_call,
    ast.FunctionDef: _of_function,
    ast.AsyncFunctionDef: lambda node: (f"def {node.name}",),
    ast.ClassDef: lambda node: (f"def {node.name}",),
    ast.BinOp: _of_product,
    ast.Expr: _of_statement,
    ast.Assign: _of_assignment,
    ast.Subscript: _of_subscript,
    ast.keyword: lambda node: (node.arg,) if node.arg else (),
    ast.alias: lambda node: [*_of_import(node.name), f"{node.name}()"],
    ast.ImportFrom: lambda node: _of_import(node.module),
    ast.AnnAssign: lambda node: _of_binding([node.target], node.value),
    ast.NamedExpr: lambda node: _of_binding([node.target], node.value),
    ast.AugAssign: lambda node: (f"+{last_name(node.target)}",),
    ast.Global: lambda node: [f"global {name}" for name in node.names],
    ast.If: _of_test,
}
