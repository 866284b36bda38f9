"""A parsed program and the questions that rules ask about it: where a node is, what a name means, what surrounds it."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Iterator
from functools import cached_property, wraps
from itertools import chain
from typing import Concatenate, ParamSpec, TypeVar, cast

import libcst as cst

from clipcheck.python.names import Binding, Scope
from clipcheck.python.nodes import walk
from clipcheck.python.positions import Placed, code, placed
from clipcheck.python.positions import Statement as Statement
from clipcheck.python.scopes import Names
from clipcheck.python.unread import parse_module
from clipcheck.rule import RUNTIME, TORCH, Place, Target, package_of

NodeT = TypeVar("NodeT", bound=cst.CSTNode)
AnswerT = TypeVar("AnswerT")
ArgumentsT = ParamSpec("ArgumentsT")

_LINE_END = re.compile(r"\r\n|\n|\r")


class Source:
    """A program, parsed once.

    Raises `libcst.ParserSyntaxError` if LibCST cannot parse the text. `exact` is False if LibCST loses text (a lone
    carriage return, a comment after a whitespace-only last line): findings are valid, but edits would not be.
    """

    # Maps an offset to its place in the file, if the text is not the file itself but the cells of a notebook.
    locate: Callable[[int], Place] | None = None

    def __init__(self, text: str, target: Target = "clipcheck") -> None:
        self.text = text
        self.target = target
        self.package = package_of(target)  # from which fixes import functions
        self.module = parse_module(text)
        self._answers: dict[object, object] = {}  # results of `memo` functions

    @cached_property
    def _placed(self) -> Placed:
        """Computed on first use: most files need no positions."""
        return placed(self.text, self.module)

    @cached_property
    def _spans(self) -> dict[cst.CSTNode, tuple[int, int]]:
        return self._placed.spans

    @property
    def exact(self) -> bool:
        return self._placed.exact

    @cached_property
    def names(self) -> Names:
        return Names(self.module)

    # --- text ---------------------------------------------------------------------------------------------------

    def span(self, node: cst.CSTNode) -> tuple[int, int]:
        """Start and end offset of a node's code in `text`, without surrounding parentheses and whitespace."""
        return self._spans[node]

    def code(self, node: cst.CSTNode) -> str:
        """The code of a node, without surrounding parentheses and whitespace."""
        match node:
            case cst.Name(value=name):
                return name
            case cst.BaseExpression() | cst.Arg():
                # most files never need the positions of all nodes, which take time
                written = code(self.module, node)
                if not _LINE_END.search(written):  # code on several lines is written without its indentation
                    return written
        start, end = self._spans[node]
        return self.text[start:end]

    def outer_code(self, node: cst.BaseExpression) -> str:
        """Like `code`, with the parentheses that the expression has, or needs inside another one, such as a tuple."""
        if isinstance(node, cst.Tuple):
            return f"({self.code(node)})"
        written = code(self.module, node, outer=True)
        if not _LINE_END.search(written):
            return written
        start, end = self.outer_span(node)
        return self.text[start:end]

    def spelled(self, node: cst.BaseExpression) -> str:
        """The code of an expression without white space; in one scope, the same spelling means the same."""
        return "".join((node.value if isinstance(node, cst.Name) else code(self.module, node)).split())

    def outer_span(self, node: cst.BaseExpression) -> tuple[int, int]:
        """Like `span`, with the parentheses that belong to the expression."""
        start, end = self._spans[node]
        if node.lpar:
            start, end = self._spans[node.lpar[0]][0], self._spans[node.rpar[-1]][1]
        return start, end

    def logical_line(self, node: cst.CSTNode) -> tuple[int, int]:
        """First and last line of the statement that `node` belongs to; of a compound statement, those of its header."""
        statement = self.statement(node)
        start, end = self.span(statement)
        if not isinstance(statement, cst.SimpleStatementLine) and isinstance(statement.body, cst.IndentedBlock):
            end = self.span(statement.body.header)[0]
        return self.line_at(start), self.line_at(end)

    def line(self, node: cst.CSTNode) -> int:
        """The line on which a node starts, counting from 1."""
        return self.line_at(self._spans[node][0])

    def quoted(self, node: cst.CSTNode | None, otherwise: str, limit: int = 32) -> str:
        """The code of a node in backticks for a message; `otherwise` if it is long or on several lines."""
        code = "" if node is None else self.code(node)
        return f"`{code}`" if code and len(code) <= limit and "\n" not in code and "`" not in code else otherwise

    def where(self, node: cst.CSTNode) -> str:
        """The line on which a node starts, for a message: "line 12", in a notebook "line 3 of cell 5"."""
        if self.locate is None:
            return f"line {self.line(node)}"
        place = self.locate(self._spans[node][0])
        return f"line {place.line}" if place.cell is None else f"line {place.line} of cell {place.cell}"

    def line_at(self, offset: int) -> int:
        return bisect_right(self.line_starts, offset)

    @cached_property
    def line_starts(self) -> list[int]:
        return [0, *(m.end() for m in _LINE_END.finditer(self.text))]

    @cached_property
    def newline(self) -> str:
        """The first line ending in the text."""
        found = _LINE_END.search(self.text)
        return found.group() if found else "\n"

    @cached_property
    def comments(self) -> list[tuple[int, int]]:
        """Start and end of every comment, in source order."""
        return sorted(span for node, span in self._spans.items() if type(node) is cst.Comment)

    # --- tree ---------------------------------------------------------------------------------------------------

    def nodes(self, *kinds: type[NodeT]) -> Iterator[NodeT]:
        """All nodes of these exact types, each type in source order."""
        for kind in kinds:
            yield from cast("list[NodeT]", self.names.by_type.get(kind, []))

    def rank(self, node: cst.CSTNode) -> int:
        """A number that increases from node to node, to compare their order without computing positions."""
        return self.names.rank(node)

    def parent(self, node: cst.CSTNode) -> cst.CSTNode | None:
        return self.names.parent(node)

    def ancestors(self, node: cst.CSTNode) -> Iterator[cst.CSTNode]:
        """The nodes around `node`, innermost first."""
        return self.names.ancestors(node)

    def enclosing(self, node: cst.CSTNode, *kinds: type[NodeT]) -> NodeT | None:
        """The innermost node of these exact types around `node`."""
        # not `isinstance`, which takes several times as long for a class that is not the node's own: all are abstract
        return next((cast("NodeT", above) for above in self.ancestors(node) if type(above) in kinds), None)

    def walk(self, node: cst.CSTNode) -> Iterator[cst.CSTNode]:
        """`node` and all nodes below it, in source order, without whitespace."""
        return walk(node)

    def statement(self, node: cst.CSTNode) -> Statement:
        """The statement that `node` belongs to: a whole line, or a compound statement for nodes of its header."""
        around = chain((node,), self.ancestors(node))
        return next(one for one in around if isinstance(one, (cst.SimpleStatementLine, cst.BaseCompoundStatement)))

    def siblings(self, statement: cst.CSTNode) -> tuple[list[Statement], int]:
        """The statements of the block that holds `statement`, and its index among them."""
        block = self.parent(statement)
        match block:
            case cst.Module(body=body) | cst.IndentedBlock(body=body):
                found = cast("list[Statement]", list(body))
                return found, next(i for i, item in enumerate(found) if item is statement)
        return [], 0

    def function(self, node: cst.CSTNode) -> cst.FunctionDef | None:
        """The innermost `def` around `node`."""
        return self.enclosing(node, cst.FunctionDef)

    # --- names --------------------------------------------------------------------------------------------------

    def qualified(self, node: cst.CSTNode) -> str | None:
        """Dotted origin of a name or attribute (`torch.nn.utils.clip_grad_norm_`); None if it is not certain.

        If the target is a module of the user's, it counts as the runtime, whose functions it has.
        """
        found = self.names.qualified(node)
        if found is None or self.package in (RUNTIME, TORCH) or not found.startswith(f"{self.package}."):
            return found
        return RUNTIME + found.removeprefix(self.package)

    def origin(self, node: cst.CSTNode) -> str:
        """As `qualified`; "" if it is not certain."""
        return self.qualified(node) or ""

    def scope(self, node: cst.CSTNode) -> Scope:
        return self.names.scope(node)

    def bindings(self, node: cst.Name) -> list[Binding]:
        return self.names.bindings(node)

    def is_taken(self, name: str) -> bool:
        """Whether any scope binds `name`, or some code reads it with an unknown meaning."""
        return self.names.is_taken(name)


_NOT_ASKED = object()


def memo(
    function: Callable[Concatenate[Source, ArgumentsT], AnswerT],
) -> Callable[Concatenate[Source, ArgumentsT], AnswerT]:
    """Memoizes a function of a source and hashable arguments; results live as long as the source.

    Rules ask the same questions about a source one after the other. Results are shared and must not be changed.
    """

    @wraps(function)
    def remembered(source: Source, /, *args: ArgumentsT.args, **named: ArgumentsT.kwargs) -> AnswerT:
        key = (function, args, *named.items())
        answer = source._answers.get(key, _NOT_ASKED)
        if answer is _NOT_ASKED:
            answer = source._answers[key] = function(source, *args, **named)
        return cast("AnswerT", answer)

    return remembered
