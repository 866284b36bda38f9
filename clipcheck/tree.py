"""A text's syntax tree with the place of every node; after an edit, only the statements around it are parsed anew.

A file that an editor holds is parsed at every keystroke. Its parse takes most of the time that a look at it takes (60 of
100 ms for 1,000 lines), and nearly all of it gives what the last parse gave.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import NamedTuple, TypeAlias

import libcst as cst
from libcst._nodes.internal import CodegenState

from clipcheck.memory import current

Statement: TypeAlias = cst.SimpleStatementLine | cst.BaseCompoundStatement
Span: TypeAlias = tuple[int, int]


class Stretch(NamedTuple):
    """A statement of a module's top level: from its first comment or blank line to behind its last line's end.

    `first` is the number of spans that were written before those of its nodes.
    """

    start: int
    stop: int
    first: int


class Tree(NamedTuple):
    """`spans` holds the offsets of each node; `exact` is False where the tree does not give the text back."""

    text: str
    module: cst.Module
    spans: dict[cst.CSTNode, Span]
    exact: bool
    stretches: tuple[Stretch, ...]


def parse(text: str) -> Tree:
    """The tree of a text. Raises `libcst.ParserSyntaxError` where it is not Python."""
    memory = current()
    if memory is None:
        return _whole(text)
    tree = (memory.tree and reparse(text, memory.tree)) or _whole(text)
    memory.tree = tree
    return tree


def _whole(text: str) -> Tree:
    return placed(text, cst.parse_module(text))


def placed(text: str, module: cst.Module) -> Tree:
    """A parsed text with the places of its nodes, which takes about half as long again as the parse."""
    spans = _Spans(module)
    spans.write(module.header)
    stretches = spans.write_statements(module.body)
    spans.write(module.footer)
    spans.of[module] = (0, len(text))
    return Tree(text, module, spans.of, spans.code(module) == text, stretches)


def code(module: cst.Module, node: cst.BaseExpression | cst.Arg, outer: bool = False) -> str:
    """The code of an expression, with `outer` in its parentheses; its lines have no indents if they stand in a block."""
    spans = _Spans(module)
    spans.write((node,))
    start, end = spans.of[node]
    text = "".join(spans.tokens)
    return text if outer else text[start:end]


# --- after an edit ------------------------------------------------------------------------------------------------------


def reparse(text: str, last: Tree) -> Tree | None:
    """The tree of `text` with the untouched statements of `last`, or None where nothing is gained by that."""
    touched = _touched(text, last)
    if touched is None or not last.exact:
        return None
    first, stop = touched
    at_end = stop == len(last.stretches)
    start = last.stretches[first].start
    old_end = len(last.text) if at_end else last.stretches[stop].start
    shift = len(text) - len(last.text)
    middle = _parse_within(text[start : old_end + shift], last.module, at_end)
    if middle is None:
        return None
    old = last.module
    module = old.with_changes(
        body=(*old.body[:first], *middle.body, *old.body[stop:]),
        footer=middle.footer if at_end else old.footer,
        has_trailing_newline=middle.has_trailing_newline if at_end else old.has_trailing_newline,
    )
    new = _Spans(module, start)
    stretches = new.write_statements(middle.body)
    if at_end:
        new.write(middle.footer)
    if new.code(module if at_end else None) != text[start : old_end + shift]:
        return None
    before = last.stretches[first].first
    after = len(last.spans) if at_end else last.stretches[stop].first
    spans = dict(islice(last.spans.items(), before))
    spans.update(new.of)
    grown = len(spans) - after
    spans.update((node, (a + shift, b + shift)) for node, (a, b) in islice(last.spans.items(), after, None))
    spans[module] = (0, len(text))
    spans.pop(old, None)
    return Tree(
        text,
        module,
        spans,
        True,
        (
            *last.stretches[:first],
            *(Stretch(s.start, s.stop, s.first + before) for s in stretches),
            *(Stretch(s.start + shift, s.stop + shift, s.first + grown) for s in last.stretches[stop:]),
        ),
    )


def _touched(text: str, last: Tree) -> tuple[int, int] | None:
    """The statements to parse anew, as a range; the module's head belongs to the first, which is never among them."""
    start, end, _ = difference(last.text, text)
    count = len(last.stretches)
    first = next((i for i, s in enumerate(last.stretches) if s.stop >= start), count - 1)
    if first < 1:
        return None
    if start <= last.spans[last.module.body[first]][0]:
        first -= 1  # above a statement's first word: a comment there may be the end of the block before
    stop = next((i for i, s in enumerate(last.stretches) if s.start > end), count)
    return (first, stop) if first > 0 else None


def difference(old: str, new: str) -> tuple[int, int, int]:
    """The stretch that an edit replaced: its start in both texts, its end in the old and its end in the new one."""
    start = _common(old, new)
    rest = min(len(old), len(new)) - start
    same = min(_common(old[::-1], new[::-1]), rest)
    return start, len(old) - same, len(new) - same


def _common(one: str, other: str) -> int:
    """The length of the common prefix, by halving: comparing slices is a hundred times faster than characters."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _parse_within(text: str, module: cst.Module, at_end: bool) -> cst.Module | None:
    """The statements in a piece of a module; None where they would not stand alone.

    They are parsed between two others: comments at the edge of a text would become the module's own, and what is open
    at its end (a bracket, a decorator, a block without a body) would go unnoticed.
    """
    config = cst.PartialParserConfig(default_indent=module.default_indent, default_newline=module.default_newline)
    try:
        parsed = cst.parse_module(f"pass\n{text}" if at_end else f"pass\n{text}pass\n", config)
    except cst.ParserSyntaxError:
        return None
    body = parsed.body[1:] if at_end else parsed.body[1:-1]
    edges = parsed.body[:1] if at_end else (parsed.body[0], parsed.body[-1])
    alone = all(isinstance(edge, cst.SimpleStatementLine) and _is_pass(edge) for edge in edges)
    return parsed.with_changes(body=body) if alone and (at_end or len(parsed.body) > 1) else None


def _is_pass(line: cst.SimpleStatementLine) -> bool:
    return not line.leading_lines and len(line.body) == 1 and isinstance(line.body[0], cst.Pass)


# --- places -------------------------------------------------------------------------------------------------------------


class _Spans(CodegenState):
    """Offsets of nodes, in code points, from a run of LibCST's code generator.

    PositionProvider gives lines and columns and takes three times as long (138 against 43 ms for 1,500 lines);
    ByteSpanPositionProvider counts bytes and is wrong after a byte order mark.
    """

    def __init__(self, module: cst.Module, position: int = 0) -> None:
        super().__init__(default_indent=module.default_indent, default_newline=module.default_newline)
        self.position = position
        self.of: dict[cst.CSTNode, Span] = {}
        self._starts: list[int] = []

    def write(self, nodes: Sequence[cst.CSTNode]) -> None:
        for node in nodes:
            node._codegen(self)

    def write_statements(self, body: Sequence[Statement]) -> tuple[Stretch, ...]:
        stretches: list[Stretch] = []
        for statement in body:
            start, first = self.position, len(self.of)
            statement._codegen(self)
            stretches.append(Stretch(start, self.position, first))
        return tuple(stretches)

    def code(self, end_of: cst.Module | None) -> str:
        """What was written, up to the end of a module if that is where it ends."""
        if end_of is not None:
            if not end_of.has_trailing_newline:
                self.pop_trailing_newline()
            elif not self.tokens:
                self.add_token(end_of.default_newline)
        return "".join(self.tokens)

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
