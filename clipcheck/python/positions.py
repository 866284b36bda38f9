"""A text's syntax tree with the place of every node; after an edit, only the statements around it are parsed anew.

A file that an editor holds is parsed at every keystroke. Its parse takes most of the time that a look at it takes (60 of
100 ms for 1,000 lines), and nearly all of it gives what the last parse gave. Statements of the top level are kept, and
those of a class, which is often half the file.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import NamedTuple, TypeAlias, cast

import libcst as cst
from libcst._nodes.internal import CodegenState

from clipcheck.python.memory import current

Statement: TypeAlias = cst.SimpleStatementLine | cst.BaseCompoundStatement
Span: TypeAlias = tuple[int, int]


class Stretch(NamedTuple):
    """A statement of a module's top level, or of a class's: from its first comment or blank line to behind its last
    line's end.

    `first` is the number of spans that were written before those of its nodes; `members` are a class's statements.
    """

    start: int
    stop: int
    first: int
    members: tuple[Stretch, ...] = ()

    def moved(self, shift: int, grown: int) -> Stretch:
        members = tuple(member.moved(shift, grown) for member in self.members)
        return Stretch(self.start + shift, self.stop + shift, self.first + grown, members)


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
    touched = _touched(text, last.text, last.stretches, last.module.body, last.spans)
    if touched is None or not last.exact:
        return None
    first, stop = touched
    if stop == first + 1:
        tree = _reparse_class(text, last, first)
        if tree is not None:
            return tree
    old = last.module
    at_end = stop == len(last.stretches)
    start = last.stretches[first].start
    old_end = len(last.text) if at_end else last.stretches[stop].start
    shift = len(text) - len(last.text)
    middle = _parse_within(text[start : old_end + shift], old, at_end)
    if middle is None:
        return None
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
    grown = before + len(new.of) - after
    spans = _joined(last.spans, before, new.of, after, old_end, shift, {old: module})
    spans[module] = (0, len(text))
    return Tree(text, module, spans, True, _replaced(last.stretches, touched, stretches, before, shift, grown))


def _reparse_class(text: str, last: Tree, index: int) -> Tree | None:
    """As `reparse`, where only statements in the body of a class are touched, and not its last one.

    Behind the last one the class may end, or go on, by what is typed.
    """
    owner, stretch, old = last.module.body[index], last.stretches[index], last.module
    if not isinstance(owner, cst.ClassDef) or not isinstance(owner.body, cst.IndentedBlock):
        return None
    touched = _touched(text, last.text, stretch.members, owner.body.body, last.spans)
    if touched is None or touched[1] == len(stretch.members):
        return None
    first, stop = touched
    start, old_end = stretch.members[first].start, stretch.members[stop].start
    shift = len(text) - len(last.text)
    indent = old.default_indent if owner.body.indent is None else owner.body.indent
    middle = _parse_members(text[start : old_end + shift], old, indent)
    if middle is None:
        return None
    block = owner.body.with_changes(body=(*owner.body.body[:first], *middle, *owner.body.body[stop:]))
    changed = owner.with_changes(body=block)
    module = old.with_changes(body=(*old.body[:index], changed, *old.body[index + 1 :]))
    new = _Spans(module, start)
    new.increase_indent(indent)
    members = new.write_statements(middle)
    if new.code(None) != text[start : old_end + shift]:
        return None
    before, after = stretch.members[first].first, stretch.members[stop].first
    replaced: dict[cst.CSTNode, cst.CSTNode] = {old: module, owner: changed, owner.body: block}
    spans = _joined(last.spans, before, new.of, after, old_end, shift, replaced)
    grown = before + len(new.of) - after
    whole = Stretch(
        stretch.start,
        stretch.stop + shift,
        stretch.first,
        _replaced(stretch.members, touched, members, before, shift, grown),
    )
    behind = (other.moved(shift, grown) for other in last.stretches[index + 1 :])
    return Tree(text, module, spans, True, (*last.stretches[:index], whole, *behind))


def _touched(
    text: str, old: str, stretches: Sequence[Stretch], body: Sequence[cst.CSTNode], spans: dict[cst.CSTNode, Span]
) -> tuple[int, int] | None:
    """The statements to parse anew, as a range; the module's head belongs to the first, which is never among them."""
    start, end, _ = difference(old, text)
    count = len(stretches)
    first = next((i for i, s in enumerate(stretches) if s.stop >= start), count - 1)
    if first < 1:
        return None
    if start <= spans[body[first]][0]:
        first -= 1  # above a statement's first word: a comment there may be the end of the block before
    stop = next((i for i, s in enumerate(stretches) if s.start > end), count)
    return (first, stop) if first > 0 else None


def _joined(
    old: dict[cst.CSTNode, Span],
    before: int,
    new: dict[cst.CSTNode, Span],
    after: int,
    old_end: int,
    shift: int,
    replaced: dict[cst.CSTNode, cst.CSTNode],
) -> dict[cst.CSTNode, Span]:
    """The first spans of the old tree, the new ones, and the old ones from number `after` on, moved.

    What is written behind the edit but starts before it is around it, and has been replaced by a node of its kind.
    """
    spans = dict(islice(old.items(), before))
    spans.update(new)
    for node, (start, stop) in islice(old.items(), after, None):
        if start < old_end:
            spans[replaced[node]] = start, stop + shift
        else:
            spans[node] = start + shift, stop + shift
    return spans


def _replaced(
    old: Sequence[Stretch], touched: tuple[int, int], new: Sequence[Stretch], before: int, shift: int, grown: int
) -> tuple[Stretch, ...]:
    """The stretches with the touched ones replaced, all counted anew."""
    first, stop = touched
    return (
        *old[:first],
        *(stretch.moved(0, before) for stretch in new),
        *(stretch.moved(shift, grown) for stretch in old[stop:]),
    )


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
    alone = all(map(_is_pass, edges))
    return parsed.with_changes(body=body) if alone and (at_end or len(parsed.body) > 1) else None


def _parse_members(text: str, module: cst.Module, indent: str) -> Sequence[Statement] | None:
    """The statements in a piece of a class's body, likewise."""
    config = cst.PartialParserConfig(default_indent=module.default_indent, default_newline=module.default_newline)
    try:
        parsed = cst.parse_module(f"class _:\n{indent}pass\n{text}{indent}pass\n", config)
    except cst.ParserSyntaxError:
        return None
    match parsed.body:
        case [cst.ClassDef(body=cst.IndentedBlock(body=[first, *body, last]))] if _is_pass(first) and _is_pass(last):
            return cast("list[Statement]", body)
    return None


def _is_pass(line: cst.CSTNode) -> bool:
    return (
        isinstance(line, cst.SimpleStatementLine)
        and not line.leading_lines
        and len(line.body) == 1
        and isinstance(line.body[0], cst.Pass)
    )


# --- places -------------------------------------------------------------------------------------------------------------


def _members(statement: cst.CSTNode) -> Sequence[cst.CSTNode]:
    """The statements of a class's body where it stands on lines of its own."""
    match statement:
        case cst.ClassDef(body=cst.IndentedBlock(body=body)):
            return body
    return ()


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
        self._members: dict[int, Stretch] = {}

    def write(self, nodes: Sequence[cst.CSTNode]) -> None:
        for node in nodes:
            node._codegen(self)

    def write_statements(self, body: Sequence[Statement]) -> tuple[Stretch, ...]:
        stretches: list[Stretch] = []
        for statement in body:
            start, first = self.position, len(self.of)
            members = _members(statement)
            self._members = dict.fromkeys(map(id, members), Stretch(0, 0, 0))
            statement._codegen(self)
            stretches.append(Stretch(start, self.position, first, tuple(self._members[id(m)] for m in members)))
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
        if id(node) in self._members:
            self._members[id(node)] = Stretch(self.position, 0, len(self.of))

    def after_codegen(self, node: cst.CSTNode) -> None:
        start = self._starts.pop()
        if id(node) in self._members:
            self._members[id(node)] = self._members[id(node)]._replace(stop=self.position)
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
