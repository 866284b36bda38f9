"""Where an import line goes: next to the imports of torch, in sorted order.

It never goes where a missing clipcheck would look like a missing torch."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import cast

import libcst as cst

from clipcheck.fixes.import_blocks import (
    Line,
    block_of,
    import_lines,
    imports_torch,
    is_from_future,
    is_import,
    is_relative,
    is_standard,
    modules_of,
    parsed,
    place_among,
    root,
    runs,
    split,
)
from clipcheck.fixes.verbs import indentation, insert_line_after, lines_of, with_comments
from clipcheck.python.reaching import contains
from clipcheck.python.source import Source, Statement, memo
from clipcheck.rule import Edit

_WIDTH = 88  # isort's maximum length of a line


def import_line(source: Source, at: cst.CSTNode, text: str) -> Edit:
    """A new import that code at `at` can rely on: next to torch's imports, else at the top.

    If a program imports torch only on demand (in a function, in a `try`, under a check, or only for type checkers),
    clipcheck is imported on demand as well: the line goes into the function that needs it.
    """
    lines = beside_torch(source, at)
    if lines:
        return put_in(source, lines, text)
    if _imports_torch_later(source):
        return _where_needed(source, at, text)
    before = _runs_before(source, at)
    return _with_others(source, before[0], text) if before else _on_top(source, text)


def beside_torch(source: Source, at: cst.CSTNode) -> list[Line]:
    """The lines with an import of torch that has certainly run when `at` is reached, outermost first."""
    for run in _runs_before(source, at):
        if any(map(imports_torch, run)):
            return _with_torch(source, run)
    for block in reversed(_blocks_around(source, at)):
        if not is_caught(source, block) and not is_for_checkers(source, block):
            run = [line for line in import_lines(block.body) if _ends_before(source, line, at)]
            if any(map(imports_torch, run)):
                return _with_torch(source, run)
    return []


def lines_before(source: Source, at: cst.CSTNode) -> list[Line]:
    """The import lines of the blocks around `at` that have run when it is reached."""
    inner = [
        line
        for block in _blocks_around(source, at)
        for line in import_lines(block.body)
        if _ends_before(source, line, at)
    ]
    return [*(line for run in _runs_before(source, at) for line in run), *inner]


def _blocks_around(source: Source, at: cst.CSTNode) -> list[cst.IndentedBlock]:
    """The blocks around a node whose names it can see, innermost first: not the bodies of classes."""
    blocks = [above for above in source.ancestors(at) if isinstance(above, cst.IndentedBlock)]
    return [block for block in blocks if not isinstance(source.parent(block), cst.ClassDef)]


def put_in(source: Source, lines: Sequence[Line], text: str) -> Edit:
    """Adds a line to import lines: in order if they are sorted, else after those of torch."""
    place = place_among(lines, text)
    if place is None:
        last = next((line for line in reversed(lines) if imports_torch(line)), lines[-1])
        return insert_line_after(source, last, text)
    if place == len(lines):
        return insert_line_after(source, lines[-1], text)
    start = _top_of(source, lines[place])
    return Edit(start, start, indentation(source, lines[place]) + text + source.newline)


def in_the_place_of(source: Source, statement: Line, text: str) -> tuple[Edit, ...]:
    """Replaces the only import on a line and keeps its comment: in the same place, or where the sort order puts it."""
    old = statement.body[0]
    edit = _elsewhere(source, statement, text)
    start, stop = lines_of(source, statement)
    if edit is None or edit.start in (start, stop) or _top_of(source, statement) != start:
        return (Edit(*source.span(old), text),)
    rest = source.text[source.span(old)[1] : stop].rstrip()
    ends = edit.text.partition(text)
    return Edit(start, stop, ""), edit._replace(text=f"{ends[0]}{text}{rest}{ends[2]}")


def _elsewhere(source: Source, statement: Line, text: str) -> Edit | None:
    """The line before which the sort order of the imports around `statement` puts it; None if they are not sorted."""
    others = [line for line in block_of(source, statement) if line is not statement]
    sorted_ = bool(others) and place_among(others, text) is not None
    if is_standard(parsed(text)) and statement in source.module.body and not all(map(is_standard, others)):
        return _with_standard(source, statement, text, alone=sorted_)
    return put_in(source, others, text) if sorted_ else None


def _with_standard(source: Source, statement: Line, text: str, alone: bool) -> Edit | None:
    """An import from the standard library: after or among those above, or as a separate block."""
    run = next(run for run in _top_level(source) if any(line is statement for line in run))
    above = [line for line in run[: run.index(statement)] if is_standard(line) and not is_from_future(line)]
    if above:
        block = [line for line in block_of(source, above[-1]) if line is not statement]
        in_order = place_among(block, text) is not None
        return put_in(source, block, text) if in_order else insert_line_after(source, above[-1], text)
    if not alone:
        return None
    start = _top_of(source, next(line for line in run if not is_from_future(line)))
    return Edit(start, start, text + source.newline * 2)


def fewer(source: Source, statement: cst.Import | cst.ImportFrom, names: Sequence[str]) -> str:
    """An import of only these names: on one line if it fits, unless a trailing comma keeps each on a separate line."""
    if isinstance(statement, cst.Import):
        return f"import {', '.join(names)}"
    head = source.text[source.span(statement)[0] :].partition("import")[0]
    line = f"{head}import {', '.join(names)}"
    if statement.lpar is None:
        return line
    spread = not isinstance(statement.names, cst.ImportStar) and isinstance(statement.names[-1].comma, cst.Comma)
    if len(line) <= _WIDTH and not spread:
        return line
    newline, margin = source.newline, indentation(source, source.statement(statement))
    lines = "".join(f"{margin}    {name},{newline}" for name in names)
    return f"{head}import ({newline}{lines}{margin})"


# --- which lines ------------------------------------------------------------------------------------------------------


@memo
def _top_level(source: Source) -> list[list[Line]]:
    return runs(source.module.body)


def _runs_before(source: Source, at: cst.CSTNode) -> list[list[Line]]:
    """The runs of the top level, without lines below `at`: these have not run when the name is needed."""
    limit = source.span(at)[0]
    before = ([line for line in run if source.span(line)[0] <= limit] for run in _top_level(source))
    return [run for run in before if run]


def _with_torch(source: Source, run: Sequence[Line]) -> list[Line]:
    return next(lines for lines in split(source, run) if any(map(imports_torch, lines)))


def _imports_torch_later(source: Source) -> bool:
    """Whether torch is imported, but never unconditionally at the top level."""
    if any(imports_torch(line) for run in _top_level(source) for line in run):
        return False
    return any("torch" in map(root, modules_of(node)) for node in source.nodes(cst.Import, cst.ImportFrom))


def is_caught(source: Source, node: cst.CSTNode) -> bool:
    """Whether a failing import here may be caught: it is in the body of a `try`."""
    child = node
    for above in source.ancestors(node):
        match above:
            case cst.Try(body=body) | cst.TryStar(body=body) if body is child:
                return True
            case cst.FunctionDef():
                return False
        child = above
    return False


def is_for_checkers(source: Source, node: cst.CSTNode) -> bool:
    """Whether only type checkers read this: it is under `if TYPE_CHECKING`."""
    child = node
    for above in source.ancestors(node):
        if isinstance(above, cst.If) and child is above.body and "TYPE_CHECKING" in source.code(above.test):
            return True
        child = above
    return False


def _ends_before(source: Source, line: Line, at: cst.CSTNode) -> bool:
    return source.span(line)[1] <= source.span(at)[0]


# --- without an import of torch ---------------------------------------------------------------------------------------


def _where_needed(source: Source, at: cst.CSTNode, text: str) -> Edit:
    """At the top of the function whose body `at` is in, or right above the statement if there is none."""
    around = (above for above in source.ancestors(at) if isinstance(above, cst.FunctionDef))
    function = next((one for one in around if contains(source, one.body, at)), None)
    if function is None:
        return _above(source, source.statement(at), text)
    if isinstance(function.body, cst.SimpleStatementSuite):  # all on the line of the `def`
        small, *rest = function.body.body
        start = source.span(rest[0] if _is_docstring(small) else small)[0]
        return Edit(start, start, f"{text}; ")
    first, *others = cast("Sequence[Statement]", function.body.body)
    if _is_docstring(first):
        first = others[0]
    if is_import(first):
        return put_in(source, block_of(source, first), text)
    return _above(source, first, text)


def _above(source: Source, statement: Statement, text: str) -> Edit:
    start, margin = with_comments(source, statement)[0], indentation(source, statement)
    return Edit(start, start, margin + text + source.newline + _blank_above(source, statement))


def _blank_above(source: Source, statement: Statement) -> str:
    """The blank lines between imports and a statement below: two above a definition of the module, else one."""
    defined = isinstance(statement, (cst.FunctionDef, cst.ClassDef)) and statement in source.module.body
    return source.newline * (2 if defined else 1)


def _with_others(source: Source, run: Sequence[Line], text: str) -> Edit:
    """Among imports of other packages; those of the standard library form a separate block above."""
    blocks = split(source, run)
    others = [lines for lines in blocks if not all(map(is_standard, lines))]
    packages = [lines for lines in others if not all(map(is_relative, lines))]
    if packages:
        return put_in(source, packages[0], text)
    if others:
        start = _top_of(source, others[0][0])
        return Edit(start, start, text + source.newline * 2)
    edit = insert_line_after(source, blocks[-1][-1], text)
    return edit._replace(text=source.newline + edit.text)


def _top_of(source: Source, statement: Statement) -> int:
    """The start of a statement including its comments; comments at the very top of a file are about the file."""
    return with_comments(source, statement)[0] or lines_of(source, statement)[0]


def _on_top(source: Source, text: str) -> Edit:
    """In a file without imports: after the shebang, comments and docstring."""
    newline = source.newline
    top, *rest = source.module.body
    first = rest[0] if _is_docstring(top) else top
    if _is_about(source, first):
        return Edit(0, 0, text + newline * 2)
    start = _top_of(source, first)
    blank = newline if start == lines_of(source, top)[1] else ""
    return Edit(start, start, blank + text + newline + _blank_above(source, first))


def _is_about(source: Source, first: Statement) -> bool:
    """Whether the comments at the top of a file or a fence are about its first statement rather than about the file."""
    commented = with_comments(source, first)[0] == 0 < lines_of(source, first)[0]
    return isinstance(first, Line) and commented and _LINE_OF_FILE.match(source.text) is None


_LINE_OF_FILE = re.compile(r"#!|#.*(coding[:=]|copyright|licen[sc]e)|# *\S+\.\w+\s*$", re.IGNORECASE | re.MULTILINE)


def _is_docstring(statement: cst.CSTNode) -> bool:
    """Whether a statement, alone on its line or one of several after a `def`, is only a string."""
    match statement:
        case cst.SimpleStatementLine(body=[small]):
            return _is_docstring(small)
        case cst.Expr(value=cst.SimpleString() | cst.ConcatenatedString() as text):
            return isinstance(text.evaluated_value, str)
    return False
