"""Moves statements to where they take effect: which statement contains a call, where it may go, and the edits."""

from __future__ import annotations

import re

import libcst as cst

from clipcheck.fixes.verbs import deletion, indentation, lines_of, with_comments
from clipcheck.python.source import Source, Statement
from clipcheck.rule import Edit

_LINE = re.compile(r"[^\r\n]*(?:\r\n|\n|\r)|[^\r\n]+")


def carrier(source: Source, node: cst.CSTNode, beside: cst.CSTNode) -> tuple[Statement, Statement] | None:
    """The statement that contains only `node`, and the one that contains `beside`, in the same block.

    An `if` that only decides whether to clip (`if max_norm is not None:`) moves with its clip. `beside` may be nested
    more deeply in a statement of that block. None if there is no such pair.
    """
    statement = source.statement(node)
    if not isinstance(statement, cst.SimpleStatementLine) or not stands_alone(source, statement):
        return None
    above = {id(part): part for part in (beside, *source.ancestors(beside))}
    while True:
        block, _ = source.siblings(statement)
        for other in block:
            if id(other) in above and other is not statement:
                return statement, other
        _, parent, *_ = (*source.ancestors(statement), None)
        if not (isinstance(parent, cst.If) and parent.orelse is None and len(block) == 1):
            return None
        if isinstance(source.parent(parent), cst.If):  # an elif
            return None
        statement = parent


def names_settled(source: Source, statement: Statement, start: int, stop: int) -> bool:
    """Whether `statement` means the same at both ends of `text[start:stop]`.

    That is, nothing in between binds a name that it reads, or reads a name that it binds."""
    names = [node for node in source.walk(statement) if isinstance(node, cst.Name)]
    written = {name.value for name in names if binds(source, name)}
    passed = {name.value for name in source.nodes(cst.Name) if start <= source.span(name)[0] < stop}
    if passed & written:
        return False
    bindings = (
        one for scope in source.names.scopes.values() for name in names for one in scope.bindings.get(name.value, ())
    )
    return not any(start <= source.span(binding.node)[0] < stop for binding in bindings)


def binds(source: Source, name: cst.Name) -> bool:
    """Whether a name is the target of an assignment or a loop."""
    return any(binding.node is name for binding in source.scope(name).bindings.get(name.value, ()))


def stands_alone(source: Source, statement: cst.CSTNode) -> bool:
    """Whether a statement is alone on its lines, so that they can be moved."""
    match statement:
        case cst.SimpleStatementLine(body=[_]) | cst.BaseCompoundStatement():
            return isinstance(source.parent(statement), (cst.IndentedBlock, cst.Module))
    return False


def moved(source: Source, statements: list[Statement], before: Statement) -> tuple[Edit, ...] | None:
    """Moves whole statements to right above another one, with their comments; None if text would be lost."""
    return _moved(source, statements, lines_of(source, before)[0], before)


def moved_after(source: Source, statements: list[Statement], after: Statement) -> tuple[Edit, ...] | None:
    """Moves whole statements to right below another one, with their comments; None if text would be lost."""
    return _moved(source, statements, lines_of(source, after)[1], after)


def _moved(source: Source, statements: list[Statement], to: int, beside: Statement) -> tuple[Edit, ...] | None:
    if not all(stands_alone(source, statement) for statement in (*statements, beside)):
        return None
    margin = indentation(source, beside)
    edits: list[Edit] = []
    texts: list[str] = []
    for statement in statements:
        start, stop = with_comments(source, statement)
        text = _indented(source, statement, source.text[start:stop], margin)
        if text is None:
            return None
        texts.append(text if text.endswith(("\n", "\r")) else text + source.newline)
        edits.append(deletion(source, start, stop))
    if to and source.text[to - 1] not in "\r\n":
        texts.insert(0, source.newline)
    return (*edits, Edit(to, to, "".join(texts)))


def _indented(source: Source, statement: Statement, text: str, margin: str) -> str | None:
    """`text` with the statement's indentation replaced by `margin`."""
    old = indentation(source, statement)
    if old == margin:
        return text
    strings = (node for node in source.walk(statement) if isinstance(node, (cst.SimpleString, cst.FormattedStringText)))
    if any("\n" in string.value for string in strings):
        return None  # lines inside a string belong to its value
    lines = _LINE.findall(text)
    return "".join(margin + line[len(old) :] if line.startswith(old) and line.strip() else line for line in lines)
