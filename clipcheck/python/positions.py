"""The position of every node of a syntax tree in its text, and the code of a single expression."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple, TypeAlias

import libcst as cst
from libcst._nodes.internal import CodegenState

Statement: TypeAlias = cst.SimpleStatementLine | cst.BaseCompoundStatement
Span: TypeAlias = tuple[int, int]


class Placed(NamedTuple):
    """The start and end offset of each node; `exact` is False if the tree does not reproduce the text."""

    spans: dict[cst.CSTNode, Span]
    exact: bool


def placed(text: str, module: cst.Module) -> Placed:
    """The positions of the nodes of a parsed text; this takes about half as long as the parse."""
    state = _Spans(module)
    module._codegen(state)
    state.of[module] = (0, len(text))  # also if the last line has no newline
    return Placed(state.of, "".join(state.tokens) == text)


def code(module: cst.Module, node: cst.BaseExpression | cst.Arg, outer: bool = False) -> str:
    """The code of an expression, with `outer` including its parentheses; lines of a block lose their indentation."""
    state = _Spans(module)
    node._codegen(state)
    start, end = state.of[node]
    text = "".join(state.tokens)
    return text if outer else text[start:end]


class _Spans(CodegenState):
    """Offsets of nodes, in code points, from a run of LibCST's code generator.

    PositionProvider gives lines and columns and takes three times as long (138 against 43 ms for 1,500 lines);
    ByteSpanPositionProvider counts bytes and is wrong after a byte order mark.
    """

    def __init__(self, module: cst.Module) -> None:
        super().__init__(default_indent=module.default_indent, default_newline=module.default_newline)
        self.position = 0
        self.of: dict[cst.CSTNode, Span] = {}
        self._starts: list[int] = []

    def add_indent_tokens(self) -> None:
        super().add_indent_tokens()
        self.position += sum(map(len, self.indent_tokens))

    def add_token(self, value: str) -> None:
        super().add_token(value)
        self.position += len(value)

    def before_codegen(self, node: cst.CSTNode) -> None:
        self._starts.append(self.position)

    def after_codegen(self, node: cst.CSTNode) -> None:
        start = self._starts.pop()
        self.of.setdefault(node, (start, self.position))

    @contextmanager
    def record_syntactic_position(
        self, node: cst.CSTNode, *, start_node: cst.CSTNode | None = None, end_node: cst.CSTNode | None = None
    ) -> Iterator[None]:
        start = self.position
        yield
        if start_node is not None:
            start = self.of[start_node][0]
        self.of[node] = start, self.position if end_node is None else self.of[end_node][1]
