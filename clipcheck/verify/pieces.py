"""The parts of a document that a fix changes: the statements or expressions around its edits, before and after."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import libcst as cst

from clipcheck.documents.program import apply
from clipcheck.python.reaching import reached
from clipcheck.python.source import Source
from clipcheck.rule import RUNTIME, TORCH, Edit, Fix
from clipcheck.verify import allowed
from clipcheck.verify.allowed import NotVerifiable

_CLIPS = (f"{TORCH}.clip_", f"{RUNTIME}.clip_")
_EDITED_IMPORTS = (cst.Import, cst.ImportFrom)
_LENT = (cst.FunctionDef, cst.ClassDef)
_STATEMENTS = (cst.SimpleStatementLine, cst.If, cst.For, cst.While, cst.With, cst.Try, cst.FunctionDef, cst.ClassDef)


class Piece(NamedTuple):
    """A span of both texts: whole statements, or an expression."""

    before: tuple[int, int]
    after: tuple[int, int]
    whole: bool


def apart(source: Source, edits: Sequence[Edit]) -> list[list[Edit]]:
    """Edits to expressions in different statements can be tested separately; others only together."""
    groups: dict[cst.CSTNode, list[Edit]] = {}
    nodes: list[cst.BaseExpression] = []
    for edit in edits:
        node = smallest(source, edit)
        if node is None:
            return [list(edits)]
        nodes.append(node)
        groups.setdefault(source.statement(node), []).append(edit)
    exchange = all(source.qualified(node) in allowed.FUNCTIONS for node in nodes)  # one function for another
    return list(groups.values()) if exchange else [list(edits)]


def pieces(source: Source, fix: Fix, edits: Sequence[Edit]) -> list[Piece]:
    """The spans that these edits of a fix change, in order. Raises NotVerifiable."""
    shift = _Shift(fix.all_edits)
    single = _one_expression(source, edits)
    if single is not None:
        return [Piece(single, shift.stretch(*single), whole=False)]
    statements = _covering(source, edits)
    after = apply(source.text, fix.all_edits)
    found: list[Piece] = []
    for group in _grouped(source, statements, edits):
        lines = _lines(source, group)
        here = [edit for edit in edits if lines[0] <= edit.start and edit.end <= lines[1]]
        parts = list(_expressions(source, group, here, shift))
        alone = bool(parts) and all(_is_expression(after[slice(*part.after)]) for part in parts)
        found += parts if alone else [Piece(lines, shift.stretch(*lines), whole=True)]
    return found


def whole(source: Source, fix: Fix, edits: Sequence[Edit]) -> list[Piece]:
    """The statements from the first to the last that these edits are in. Raises NotVerifiable."""
    lines = _lines(source, _covering(source, edits))
    return [Piece(lines, _Shift(fix.all_edits).stretch(*lines), whole=True)]


def above(source: Source, fix: Fix, start: int, name: str) -> list[Piece]:
    """The statements above an offset, in its function, that assign a name or append to the list that it holds."""
    shift = _Shift(fix.all_edits)
    found: list[Piece] = []
    for node in _around(source, start):
        block, index = source.siblings(node)
        makers = (other for other in block[:index] if _makes(source, other, name))
        found += (Piece(lines, shift.stretch(*lines), whole=True) for lines in (_lines(source, [n]) for n in makers))
    return found


def _around(source: Source, offset: int) -> Iterator[cst.CSTNode]:
    """The statements of a function that an offset is in, innermost first."""
    held = [node for node in source.nodes(*_STATEMENTS) if _overlap(_lines(source, [node]), (offset, offset))]
    inner = max(held, key=lambda node: source.span(node)[0], default=None)
    while inner is not None and not isinstance(inner, _LENT):
        yield inner
        inner = source.enclosing(inner, *_STATEMENTS)


def _makes(source: Source, statement: cst.CSTNode, name: str) -> bool:
    """Whether a statement binds a name, or calls a method of what it is bound to."""
    if isinstance(statement, _LENT):
        return False
    for node in source.walk(statement):
        match node:
            case (
                cst.AssignTarget(target=target)
                | cst.AnnAssign(target=target)
                | cst.AugAssign(target=target)
                | cst.For(target=target)
            ):
                if any(isinstance(part, cst.Name) and part.value == name for part in source.walk(target)):
                    return True
            case cst.Call(func=cst.Attribute(value=cst.Name(value=owner))) if owner == name:
                return True
    return False


def _expressions(source: Source, group: list[cst.CSTNode], edits: Sequence[Edit], shift: _Shift) -> Iterator[Piece]:
    """The edited expressions alone, if the rest of a statement does not matter."""
    if len(group) == 1 and edits and not _is_arithmetic(source, group[0]):
        spans = [_one_expression(source, [edit]) for edit in edits]
        if all(spans):
            for span in dict.fromkeys(span for span in spans if span):
                yield Piece(span, shift.stretch(*span), whole=False)


def _is_expression(text: str) -> bool:
    try:
        ast.parse(f"({text}\n)", mode="eval")
    except SyntaxError:
        return False
    return True


def _is_arithmetic(source: Source, statement: cst.CSTNode) -> bool:
    """Whether a statement is an assignment, a return or a loop, not a call of something unknown."""
    match statement:
        case cst.SimpleStatementLine(body=[cst.Expr(value=cst.Call())]):
            return False
        case cst.If() | cst.With() | cst.While() | cst.Try():
            return False
    return True


def is_clipped(source: Source, edits: Sequence[Edit]) -> bool:
    """Whether edits change only an argument of a clip: a different argument is not necessarily a mistake."""
    node = _one_node(source, edits)
    while isinstance(parent := source.parent(node) if node is not None else None, cst.Attribute):
        node = parent
    call = source.parent(parent) if isinstance(parent, cst.Arg) else None
    return isinstance(call, cst.Call) and source.origin(call.func).startswith(_CLIPS)


def _one_node(source: Source, edits: Sequence[Edit]) -> cst.BaseExpression | None:
    return smallest(source, Edit(min(edit.start for edit in edits), max(edit.end for edit in edits), ""))


def _one_expression(source: Source, edits: Sequence[Edit]) -> tuple[int, int] | None:
    """The span of the smallest expression that contains all edits; for the function of a call, that of the call."""
    node = _one_node(source, edits)
    if node is None:
        return None
    above = source.parent(node)
    if isinstance(above, cst.Attribute) and above.attr is node:
        node, above = above, source.parent(above)
    if isinstance(above, cst.Call) and above.func is node:
        node, above = above, source.parent(above)
    if isinstance(above, (cst.AssignTarget, cst.AugAssign)) and node is above.target:
        return None
    return source.outer_span(node)


def smallest(source: Source, edit: Edit) -> cst.BaseExpression | None:
    """The smallest expression whose span contains that of the edit; insertions included."""
    start, end = trimmed(source.text, edit)
    best: tuple[int, cst.BaseExpression] | None = None
    for node in source.walk(source.module):
        if isinstance(node, cst.BaseExpression):
            first, last = source.span(node)
            if first <= start and end <= last and (best is None or last - first <= best[0]):
                best = last - first, node
    return best[1] if best else None


def trimmed(text: str, edit: Edit) -> tuple[int, int]:
    """The span of the edit without white space at its ends."""
    replaced = text[edit.start : edit.end]
    if not replaced.strip():
        return edit.start, edit.start
    return edit.start + len(replaced) - len(replaced.lstrip()), edit.end - len(replaced) + len(replaced.rstrip())


def _covering(source: Source, edits: Sequence[Edit]) -> list[cst.CSTNode]:
    """The statements of the innermost block that contains all edits, from the first edited one to the last."""
    low, high = (pick(trimmed(source.text, e)[i] for e in edits) for i, pick in ((0, min), (1, max)))
    best: list[cst.CSTNode] = []
    blocks: list[cst.IndentedBlock | cst.Module] = [*source.nodes(cst.IndentedBlock), source.module]
    for block in blocks:
        body: list[cst.CSTNode] = list(block.body)
        touched = [i for i, item in enumerate(body) if _overlap(_lines(source, [item]), (low, high))]
        if not touched:
            continue
        run = body[touched[0] : touched[-1] + 1]
        first, last = _lines(source, run)
        if first <= low and high <= last and (not best or last - first < _width(_lines(source, best))):
            best = run
    if not best:
        raise NotVerifiable("the edits do not lie in one block")
    return best


def _width(span: tuple[int, int]) -> int:
    return span[1] - span[0]


def _overlap(one: tuple[int, int], other: tuple[int, int]) -> bool:
    return one[0] < max(other[1], other[0] + 1) and other[0] < one[1]


def _grouped(source: Source, statements: list[cst.CSTNode], edits: Sequence[Edit]) -> list[list[cst.CSTNode]]:
    """Groups of adjacent statements; those that one edit spans are in one group."""
    groups: list[list[cst.CSTNode]] = []
    for statement in statements:
        lines = _lines(source, [statement])
        joined = groups and any(
            edit.start < _lines(source, groups[-1])[1]
            and lines[0] < edit.end
            and _overlap(lines, trimmed(source.text, edit))
            for edit in edits
        )
        if joined and groups:
            groups[-1].append(statement)
        else:
            groups.append([statement])
    return groups


def _lines(source: Source, statements: Sequence[cst.CSTNode]) -> tuple[int, int]:
    """From the start of the first line to just after the end of the last."""
    start, end = source.span(statements[0])[0], source.span(statements[-1])[1]
    last = source.line_at(max(start, end - 1))
    stop = source.line_starts[last] if last < len(source.line_starts) else len(source.text)
    return source.line_starts[source.line_at(start) - 1], stop


class _Shift:
    """Maps a span of the old text to the new text."""

    def __init__(self, edits: Iterable[Edit]) -> None:
        self._edits = sorted(edits)

    def stretch(self, start: int, end: int) -> tuple[int, int]:
        return self._moved(start, inclusive=False), self._moved(end, inclusive=True)

    def _moved(self, offset: int, inclusive: bool) -> int:
        """With `inclusive`, an insertion at the offset itself counts as before it; an inserted import always does."""
        done = [
            e
            for e in self._edits
            if e.end < offset or (e.end == offset and (inclusive or e.start < e.end or _adds_import(e)))
        ]
        return offset + sum(len(e.text) - (e.end - e.start) for e in done)


def in_import(source: Source, edit: Edit) -> bool:
    """Whether an edit changes an import statement, or adds one."""
    if _adds_import(edit):
        return True
    start, end = trimmed(source.text, edit)
    return any(
        first <= start and end <= last
        for node in source.nodes(*_EDITED_IMPORTS)
        for first, last in [_lines(source, [source.statement(node)])]  # with the comment after it
    )


def _adds_import(edit: Edit) -> bool:
    return edit.start == edit.end and edit.text.split()[:1] in (["import"], ["from"])


def kept(source: Source, stored: Iterable[str], spans: Sequence[tuple[int, int]]) -> set[str]:
    """The names that the pieces assign and that code outside of them reads."""
    names = set()
    for name in stored:
        for scope in source.names.scopes.values():
            own = [b for b in scope.bindings.get(name, []) if inside(source.span(b.node), spans)]
            if any(not inside(source.span(use), spans) for use in reached(source, scope, own)):
                names.add(name)
    return names


def inside(span: tuple[int, int], spans: Sequence[tuple[int, int]]) -> bool:
    return any(first <= span[0] and span[1] <= last for first, last in spans)
