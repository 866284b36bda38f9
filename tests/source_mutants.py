"""The changes that `make mutate-source` makes: every way to spoil one expression, pattern or statement of a source text.

Left out is what no test could notice, or only one that repeats the text: annotations and what serves mypy alone,
docstrings, prose (strings with spaces: messages and help), memoizing decorators, None in the place of another empty
value that is returned (mypy refuses it, and a test of the value cannot tell them apart; the value itself is spoiled), and
the inside of f-strings, whose places Python before 3.12 does not know.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from typing import NamedTuple

Change = tuple[str, str]  # what it is, and the text in the place of the node's


class Mutant(NamedTuple):
    """One change: bytes `start` to `end` of the file at `path` become `text`; `first` to `last` are the statement's lines."""

    path: str
    start: int
    end: int
    text: str
    what: str
    first: int
    last: int
    at_import: bool

    def applied(self, source: str) -> str:
        data = source.encode()
        return (data[: self.start] + self.text.encode() + data[self.end :]).decode()


_SWAPS = (
    *((ast.Eq, ast.NotEq), (ast.Is, ast.IsNot), (ast.In, ast.NotIn), (ast.Lt, ast.LtE), (ast.Gt, ast.GtE)),
    *((ast.And, ast.Or), (ast.Add, ast.Sub), (ast.Mult, ast.Div), (ast.BitOr, ast.BitAnd), (ast.LShift, ast.RShift)),
)
OPPOSITE: dict[type, type] = {
    **dict(_SWAPS),
    **{other: one for one, other in _SWAPS},
    **dict.fromkeys((ast.FloorDiv, ast.Mod, ast.Pow), ast.Mult),
}
NAMES = {"any": "all", "all": "any", "min": "max", "max": "min", "startswith": "endswith", "endswith": "startswith"}
_TYPING = ("TypeVar", "cast", "NewType")
_MEMO = ("lru_cache", "cache", "cached_property", "dataclass")


def operators(node: ast.AST) -> Iterator[Change]:
    match node:
        case ast.Compare(left=left, ops=[op, *rest], comparators=right) if type(op) in OPPOSITE:
            yield "comparison", ast.unparse(ast.Compare(left, [OPPOSITE[type(op)](), *rest], right))
        case ast.BoolOp(op=op, values=values):
            yield "and/or", ast.unparse(ast.BoolOp(OPPOSITE[type(op)](), values))
            for i in range(len(values)):
                rest = [*values[:i], *values[i + 1 :]]
                yield "operand dropped", ast.unparse(rest[0] if len(rest) == 1 else ast.BoolOp(op, rest))
        case ast.UnaryOp(op=ast.Not() | ast.USub(), operand=operand):
            yield "not or minus dropped", ast.unparse(operand)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in OPPOSITE:
            yield "arithmetic", ast.unparse(ast.BinOp(left, OPPOSITE[type(op)](), right))
        case ast.IfExp(test=test, body=body, orelse=orelse):
            yield "condition turned", ast.unparse(ast.IfExp(test, orelse, body))
        case ast.Name(id=name) if name in NAMES:
            yield "name", NAMES[name]
        case ast.Call(func=ast.Attribute(value=value, attr=name), args=args, keywords=keywords) if name in NAMES:
            yield "name", ast.unparse(ast.Call(ast.Attribute(value, NAMES[name]), args, keywords))


def constants(node: ast.AST) -> Iterator[Change]:
    match node:
        case ast.Constant(value=bool() as value):
            yield "flag", str(not value)
        case ast.Constant(value=int() | float() as value):
            yield "number", str(value + 1)
        case ast.Constant(value=str() | bytes() as value) if not prose(value):
            other = "mutated" if isinstance(value, str) else b"mutated"
            yield "string", repr(value[:0] if value else other)
        case (
            ast.Tuple(elts=elements, ctx=ast.Load()) | ast.List(elts=elements, ctx=ast.Load()) | ast.Set(elts=elements)
        ):
            for i, dropped in enumerate(elements if len(elements) > 1 else ()):
                if not isinstance(dropped, ast.Starred):
                    rest = [*elements[:i], *elements[i + 1 :]]
                    fields = {} if isinstance(node, ast.Set) else {"ctx": ast.Load()}
                    yield "element dropped", ast.unparse(type(node)(elts=rest, **fields))


def patterns(node: ast.AST) -> Iterator[Change]:
    match node:
        case ast.MatchOr(patterns=alternatives):
            for i in range(len(alternatives)):
                rest = [*alternatives[:i], *alternatives[i + 1 :]]
                yield "alternative dropped", ast.unparse(rest[0] if len(rest) == 1 else ast.MatchOr(rest))


def statements(node: ast.AST) -> Iterator[Change]:
    match node:
        case ast.Return(value=ast.expr() as value) if not _is_empty(value):
            yield "nothing returned", "return None"
        case ast.Expr(value=value) if not isinstance(value, ast.Constant):
            yield "statement dropped", "pass"
        case ast.AugAssign() | ast.Raise():
            yield "statement dropped", "pass"
        case ast.Continue():
            yield "jump", "break"
        case ast.Break():
            yield "jump", "continue"


def _is_empty(value: ast.expr) -> bool:
    """Whether a value is None, or counts as little as None does in a test: False, 0, "", [], ()."""
    match value:
        case ast.Constant(value=constant):
            return not constant
        case ast.Tuple(elts=[]) | ast.List(elts=[]) | ast.Dict(keys=[]):
            return True
    return False


def tests(node: ast.AST) -> Iterator[tuple[ast.AST, Change]]:
    """Conditions turned round: of branches, loops, comprehensions and cases."""
    match node:
        case ast.If(test=test) | ast.While(test=test):
            yield test, ("condition turned", f"not ({ast.unparse(test)})")
        case ast.comprehension(ifs=conditions):
            for test in conditions:
                yield test, ("filter turned", f"not ({ast.unparse(test)})")
                yield test, ("filter dropped", "True")
        case ast.match_case(pattern=pattern, guard=None):
            yield pattern, ("case dropped", f"{ast.unparse(pattern)} if False")
        case ast.match_case(guard=ast.expr() as guard):
            yield guard, ("guard turned", f"not ({ast.unparse(guard)})")
            yield guard, ("guard dropped", "True")


OPERATORS: tuple[Callable[[ast.AST], Iterator[Change]], ...] = (operators, constants, patterns, statements)


def prose(value: str | bytes) -> bool:
    return (" " in value) if isinstance(value, str) else (b" " in value)


def alters(mutant: Mutant, source: str) -> bool:
    """Whether a mutant still is Python, and another program."""
    try:
        return ast.dump(ast.parse(mutant.applied(source))) != ast.dump(ast.parse(source))
    except SyntaxError:
        return False


def mutants(path: str, source: str) -> Iterator[Mutant]:
    """All mutants of a file; a few are no Python or change nothing, see `alters`."""
    tree = ast.parse(source)
    lines = source.encode().splitlines(keepends=True)
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line))
    for node, first, last, at_import in _nodes(tree):
        found = [(node, change) for operator in OPERATORS for change in operator(node)] + list(tests(node))
        for target, (what, text) in found:
            start = starts[target.lineno - 1] + target.col_offset
            end = starts[target.end_lineno - 1] + target.end_col_offset
            if isinstance(target, ast.expr) and not isinstance(target, (ast.Constant, ast.Name)):
                text = f"({text})"
            yield Mutant(path, start, end, text, what, first, last, at_import)


def _nodes(tree: ast.Module) -> Iterator[tuple[ast.AST, int, int, bool]]:
    """Every node that may be spoiled, with the first and last line of its statement or of that one's header."""
    stack: list[tuple[ast.AST, int, int, bool]] = [(tree, 1, 1, True)]
    while stack:
        node, first, last, at_import = stack.pop()
        if isinstance(node, (ast.stmt, ast.match_case, ast.ExceptHandler)):
            inner = [child for child in ast.iter_child_nodes(node) if isinstance(child, (ast.stmt, ast.match_case))]
            first = node.pattern.lineno if isinstance(node, ast.match_case) else node.lineno
            last = max(first, inner[0].lineno - 1 if inner and hasattr(inner[0], "lineno") else first)
            last = last if inner else node.end_lineno
        yield node, first, last, at_import
        within = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        for name, value in ast.iter_fields(node):
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST) and not _left_out(node, name, child):
                    stack.append((child, first, last, at_import and not (within and name == "body")))


def _left_out(node: ast.AST, name: str, child: ast.AST) -> bool:
    match node, child:
        case _ if name in ("annotation", "returns"):
            return True
        case _, ast.JoinedStr():
            return True
        case _, ast.If(test=ast.Name(id="TYPE_CHECKING")):
            return True
        case ast.Expr(), ast.Constant():  # a docstring
            return True
        case ast.AnnAssign(annotation=ast.Name(id="TypeAlias")), _:
            return True
        case ast.Assign(targets=[ast.Name(id="__all__")]), _:
            return True
        case ast.Call(func=ast.Name(id=called), args=[kind, *_]), _ if called in _TYPING and child is kind:
            return True
        case ((ast.FunctionDef() | ast.ClassDef()), _) if name == "decorator_list":
            return any(word in ast.unparse(child) for word in _MEMO)
    return False
