"""One file's way through clipcheck: prefilter → programs → rules → findings, and, where wanted, fixes until it settles."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from clipcheck import document
from clipcheck.catalogue import RULES, wanted
from clipcheck.config import Settings
from clipcheck.document import Document, Program
from clipcheck.rule import Edit, Finding, Hit, Place, Severity

if TYPE_CHECKING:
    from clipcheck.source import Source
    from clipcheck.syntax import Fault

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
    from clipcheck import syntax

    try:
        source, faults = syntax.parse(program, settings.target)
    except RecursionError:
        return [], [f"{path}: nested too deeply to be analysed"]
    # a document's fragments are often abridged (`for x, y in …:`), and nobody runs them
    said = () if doc.fragments else faults
    broken = [_invalid_syntax(path, doc.place(index, fault.at, fault.at), fault.message) for fault in said]
    if source is None:
        return broken, []
    findings: list[Finding] = []
    errors: list[str] = []
    for code in sorted(codes):
        try:
            hits = list(_run_rule(code, source))
            findings += [_finding(path, doc, index, code, source, hit, faults) for hit in hits]
        except RecursionError:
            return [], [f"{path}: nested too deeply to be analysed"]
        except Exception as error:
            errors.append(f"{path}: rule {code} crashed: {type(error).__name__}: {error}".replace("\n", " "))
    if findings and not source.exact:
        findings = [finding._replace(fix=None, changes=()) for finding in findings]
        findings.append(_not_round_tripped(path, doc.place(index, 0, 0)))
    return [*broken, *findings], errors


def _run_rule(code: str, source: Source) -> Iterable[Hit]:
    from clipcheck.rules import check_of

    return check_of(RULES[code])(source)


def _may_edit(doc: Document, index: int, edit: Edit, faults: Sequence[Fault]) -> bool:
    """No edit crosses from one cell into the next, and none stands where something is not Python."""
    segment = doc.segment(index, edit.start, edit.end)
    in_faulty = any(fault.start <= edit.start and edit.end <= fault.end for fault in faults)
    return segment is not None and segment.editable and not in_faulty


def _finding(
    path: str, doc: Document, index: int, code: str, source: Source, hit: Hit, faults: Sequence[Fault]
) -> Finding:
    rule = RULES[code]
    fix = hit.fix
    if fix is not None and not all(_may_edit(doc, index, edit, faults) for edit in fix.all_edits):
        fix = None
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
    if set(again.errors) - set(checked.errors):
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
