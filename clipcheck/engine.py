"""One file's way through clipcheck: prefilter → programs → rules → findings, and, where wanted, fixes until it settles."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from clipcheck import document
from clipcheck.catalogue import RULES, wanted
from clipcheck.config import Settings
from clipcheck.document import Document, Program
from clipcheck.rule import Edit, Finding, Hit, Place, Severity

if TYPE_CHECKING:
    from libcst import ParserSyntaxError

    from clipcheck.source import Source

MAX_ROUNDS = 10
INVALID_SYNTAX = "invalid-syntax"
NOT_ROUND_TRIPPED = "not-round-tripped"


class FileReport(NamedTuple):
    """All that is known of one file after a run; plain data, so that it travels between processes.

    `data` is what the file held, `fixed_data` what it should hold after the fixes (None: unchanged). `errors` are
    clipcheck's own faults, a line each.
    """

    path: str
    data: bytes
    findings: tuple[Finding, ...] = ()
    fixed: tuple[Finding, ...] = ()
    fixed_data: bytes | None = None
    errors: tuple[str, ...] = ()


class _Checked(NamedTuple):
    document: Document | None
    findings: tuple[Finding, ...]
    errors: tuple[str, ...] = ()


def run(path: str, data: bytes, settings: Settings) -> FileReport:
    """Check one file and, if the settings say so, fix it in memory."""
    codes = wanted(document.searchable(path, data), settings.codes)
    if not codes:
        return FileReport(path, data)
    first = _check(path, data, codes, settings)
    if not settings.fix or not any(_applicable(first.findings, settings)):
        return FileReport(path, data, first.findings, errors=first.errors)
    return _settle(path, data, first, codes, settings)


def run_text(path: str, text: str, settings: Settings) -> FileReport:
    """As `run`, for a text that is not (yet) a file's, such as an editor's."""
    try:
        return run(path, document.encode(path, text), settings)
    except document.Unreadable as error:
        return FileReport(path, b"", (_unreadable(path, str(error)),))


def _check(path: str, data: bytes, codes: frozenset[str], settings: Settings) -> _Checked:
    try:
        doc = document.read(path, data)
    except document.Unreadable as error:
        return _Checked(None, (_unreadable(path, str(error)),))
    findings: list[Finding] = []
    errors: list[str] = []
    for index, program in enumerate(doc.programs):
        here = wanted(program.text.encode(), codes) if doc.fragments else codes
        found, crashed = _check_program(path, doc, index, program, here, settings) if here else ([], [])
        findings += found
        errors += crashed
    return _Checked(doc, tuple(sorted(findings, key=lambda finding: finding.order)), tuple(errors))


def _check_program(
    path: str, doc: Document, index: int, program: Program, codes: frozenset[str], settings: Settings
) -> tuple[list[Finding], list[str]]:
    try:
        source, faults = _parsed(program, settings.target)
    except RecursionError:
        return [], [f"{path}: nested too deeply to be analysed"]
    findings = [_invalid_syntax(path, doc.place(index, at, at), message) for at, message in faults]
    if source is None:
        return findings, []
    errors: list[str] = []
    for code in sorted(codes):
        try:
            hits = list(_run_rule(code, source))
            findings += [_finding(path, doc, index, code, source, hit) for hit in hits]
        except RecursionError:
            return [], [f"{path}: nested too deeply to be analysed"]
        except Exception as error:
            errors.append(f"{path}: rule {code} crashed: {type(error).__name__}: {error}".replace("\n", " "))
    if findings and not source.exact:
        findings = [finding._replace(fix=None, changes=()) for finding in findings]
        findings.append(_not_round_tripped(path, doc.place(index, 0, 0)))
    return findings, errors


def _parsed(program: Program, target: str) -> tuple[Source | None, list[tuple[int, str]]]:
    """The program parsed, with the offset and message of what does not: a bad cell must not hide the good ones."""
    import libcst as cst

    from clipcheck.source import Source

    faults: list[tuple[int, str]] = []
    text = program.text
    try:
        return Source(text, target), faults
    except cst.ParserSyntaxError as error:
        whole = _fault(text, error)
    if len(program.segments) == 1:
        return None, [whole]
    for segment in program.segments:
        piece = program.text[segment.start : segment.end]
        try:
            cst.parse_module(piece)
        except cst.ParserSyntaxError as error:
            at, message = _fault(piece, error)
            faults.append((segment.start + at, message))
            text = text[: segment.start] + _NOT_LINE_END.sub(" ", piece) + text[segment.end :]
    try:
        return Source(text, target), faults
    except cst.ParserSyntaxError:
        return None, faults or [whole]


_NOT_LINE_END = re.compile(r"[^\r\n]")


def _run_rule(code: str, source: object) -> Iterable[Hit]:
    from clipcheck.rules import check_of

    return check_of(RULES[code])(source)  # type: ignore[arg-type]


def _finding(path: str, doc: Document, index: int, code: str, source: object, hit: Hit) -> Finding:
    from clipcheck.source import Source

    assert isinstance(source, Source)
    rule = RULES[code]
    fix = hit.fix
    if fix is not None and any(doc.segment(index, edit.start, edit.end) is None for edit in fix.all_edits):
        fix = None  # an edit that crosses from one cell into the next
    return Finding(
        path,
        doc.place(index, *source.span(hit.node)),
        code,
        rule.name,
        hit.message,
        rule.severity,
        fix,
        tuple((doc.place(index, e.start, e.end), e.text) for e in fix.all_edits) if fix else (),
        hit.help,
        tuple((doc.place(index, *source.span(node)), label) for node, label in hit.related),
        index,
    )


def _settle(path: str, data: bytes, checked: _Checked, codes: frozenset[str], settings: Settings) -> FileReport:
    """Apply every fix that touches no other, look again, and go on until nothing more is to be fixed."""
    fixed: list[Finding] = []
    errors = list(checked.errors)
    refused: set[tuple[str, str]] = set()
    current = data
    for _ in range(MAX_ROUNDS):
        todo = [f for f in _applicable(checked.findings, settings) if (f.code, f.message) not in refused]
        if not todo or checked.document is None:
            break
        step = _step(path, current, checked, todo, codes, settings)
        if step is None:
            # Together they fail: take them one by one, and leave out the one that does.
            for finding in todo:
                step = _step(path, current, checked, [finding], codes, settings)
                if step is not None:
                    break
                refused.add((finding.code, finding.message))
                errors.append(_bad_fix(finding))
            else:
                break
        current, checked, taken = step
        fixed += taken
    else:
        errors.append(f"{path}: the fixes do not settle after {MAX_ROUNDS} rounds")
        return FileReport(path, data, checked.findings, errors=tuple(errors))
    return FileReport(path, data, checked.findings, tuple(fixed), current if current != data else None, tuple(errors))


def _step(
    path: str,
    data: bytes,
    checked: _Checked,
    todo: Sequence[Finding],
    codes: frozenset[str],
    settings: Settings,
) -> tuple[bytes, _Checked, list[Finding]] | None:
    """One round of fixes, or None where the outcome is not what the fixes promise."""
    assert checked.document is not None
    taken, edits = _compatible(todo, len(checked.document.programs))
    after = checked.document.splice(edits)
    again = _check(path, after, wanted(document.searchable(path, after), settings.codes) | codes, settings)
    if again.errors or any(f.code == INVALID_SYNTAX for f in again.findings):
        return None
    before, now, gone = (Counter(f.code for f in group) for group in (checked.findings, again.findings, taken))
    if any(now[code] > before[code] - gone[code] for code in now):
        return None
    return after, again, taken


def _applicable(findings: Iterable[Finding], settings: Settings) -> list[Finding]:
    return [f for f in findings if f.fix is not None and settings.applies(f.fix.safety)]


def _compatible(findings: Sequence[Finding], programs: int) -> tuple[list[Finding], list[list[Edit]]]:
    """The findings whose fixes do not touch each other, first come first served, and all their edits.

    Fixes may share an edit, such as the import that several of them need.
    """
    taken: list[Finding] = []
    edits: list[list[Edit]] = [[] for _ in range(programs)]
    for finding in findings:
        assert finding.fix is not None
        accepted = edits[finding.program]
        new = [edit for edit in finding.fix.all_edits if edit not in accepted]
        if not any(_touch(edit, other) for edit in new for other in accepted):
            accepted += new
            taken.append(finding)
    return taken, edits


def _touch(one: Edit, other: Edit) -> bool:
    return one.start <= other.end and other.start <= one.end


def _bad_fix(finding: Finding) -> str:
    at = finding.place
    return (
        f"{finding.path}:{at.line}:{at.column}: the fix of {finding.code} was not written: its outcome fails clipcheck's "
        "own check. This is a fault of clipcheck, please report it"
    )


def _unreadable(path: str, why: str) -> Finding:
    return Finding(
        path,
        Place(1, 1, 1, 1),
        INVALID_SYNTAX,
        INVALID_SYNTAX,
        f"cannot be decoded: {why}",
        Severity.ERROR,
    )


def _invalid_syntax(path: str, place: Place, message: str) -> Finding:
    first = message.strip().split("\n")[0]
    return Finding(path, place, INVALID_SYNTAX, INVALID_SYNTAX, f"not valid Python: {first}", Severity.ERROR)


def _not_round_tripped(path: str, place: Place) -> Finding:
    return Finding(
        path,
        place,
        NOT_ROUND_TRIPPED,
        NOT_ROUND_TRIPPED,
        "the parser does not give this file back byte for byte, so it is not fixed",
    )


def _fault(text: str, error: ParserSyntaxError) -> tuple[int, str]:
    """Where and why a text is not Python: in the interpreter's words, which people know, else in the parser's."""
    starts = [0, *(end.end() for end in document.LINE_END.finditer(text))]
    line, column, message = _interpreters_word(text) or _parsers_word(error)
    return min(starts[min(max(line, 1), len(starts)) - 1] + column, len(text)), message


def _interpreters_word(text: str) -> tuple[int, int, str] | None:
    """Line from 1, column from 0 and message; None where this interpreter accepts what the parser does not."""
    import ast
    import warnings

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of escapes in strings, not ours to judge
            ast.parse(text)
    except SyntaxError as error:
        return error.lineno or 1, max((error.offset or 1) - 1, 0), error.msg
    except (ValueError, RecursionError, MemoryError):
        pass
    return None


def _parsers_word(error: ParserSyntaxError) -> tuple[int, int, str]:
    """The same from the parser's message, whose `error at 4:0` is right where its attributes are a line off."""
    found = re.search(r"error at (\d+):(\d+): (.*)", error.message)
    if found is None:
        return error.raw_line, error.raw_column, error.message.split("\n")[0]
    expected = found.group(3) if len(found.group(3)) < 60 else "unexpected token"
    return int(found.group(1)), int(found.group(2)), expected
