"""Checks one file: prefilter → programs → rules → findings and, if wanted, fixes until nothing changes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from clipcheck.documents.program import Document, MissingParser, Program, Unreadable
from clipcheck.documents.read import encode, is_python, read, searchable
from clipcheck.engine import touched
from clipcheck.engine.results import FileReport
from clipcheck.engine.suppressions import names_us
from clipcheck.prefilter import concerned, wanted
from clipcheck.python.limits import with_room
from clipcheck.rule import INVALID_SYNTAX, Edit, Finding, Place, Severity
from clipcheck.settings.keys import Settings

MAX_ROUNDS = 10


class _Checked(NamedTuple):
    """One state of a file and its findings, including masked ones; `ran` are the rules that ran on each program."""

    document: Document | None
    findings: tuple[Finding, ...]
    errors: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    ran: tuple[frozenset[str], ...] = ()
    masked: tuple[Finding, ...] = ()


class _Step(NamedTuple):
    """The result of a round of fixes: the new bytes and their state, and which edits of which findings were applied."""

    data: bytes
    checked: _Checked
    taken: list[Finding]
    edits: list[list[Edit]]


def candidate(path: str, data: bytes, settings: Settings) -> bool:
    """Whether a file contains keywords of a selected rule, or a suppression comment of clipcheck that may be unused."""
    text = searchable(path, data)
    return bool(_wanted(path, text, settings)) or (settings.suppressions and names_us(text))


def check_file(path: str, data: bytes, settings: Settings, before: bytes = b"") -> FileReport:
    """Checks one file and, if the settings say so, fixes it in memory; `before` is its last valid content."""
    if not candidate(path, data, settings):
        return FileReport(path, data, threshold=settings.safety)
    return with_room(lambda: _checked_and_fixed(path, data, settings, before))


def _checked_and_fixed(path: str, data: bytes, settings: Settings, before: bytes) -> FileReport:
    report = _settle(path, data, _check(path, data, settings, before), settings)
    refuted = (_refuted(f) for f in report.findings if f.verdict and f.verdict.kind == "refuted")
    return report._replace(errors=(*report.errors, *refuted))


def check_text(path: str, text: str, settings: Settings, before: str = "") -> FileReport:
    """Like `check_file`, for text that is not (yet) in a file, such as the text in an editor.

    `before` is the text when it was last valid Python: while the user is typing, only lines changed since then are
    skipped.
    """
    try:
        return check_file(path, encode(path, text), settings, encode(path, before))
    except Unreadable as error:
        return FileReport(path, b"", (_unreadable(path, str(error)),))


def _wanted(path: str, text: bytes, settings: Settings) -> frozenset[str]:
    return wanted(text, settings.codes, code=is_python(path)) if settings.prefilter else settings.codes


def _check(
    path: str, data: bytes, settings: Settings, before: bytes = b"", again: Sequence[frozenset[str]] = ()
) -> _Checked:
    """Runs the rules that apply to each program, and those that have to run `again` because they ran before a fix."""
    try:
        doc = read(path, data)
    except Unreadable as error:
        return _Checked(None, (_unreadable(path, str(error)),))
    except MissingParser as error:
        return _Checked(None, (), (f"{path}: {error}",))
    findings: list[Finding] = []
    errors: list[str] = []
    warnings: list[str] = []
    masked: list[Finding] = []
    ran: list[frozenset[str]] = []
    for index, (program, was) in enumerate(zip(doc.programs, _before(path, before, doc), strict=True)):
        codes = concerned(program.text, settings.codes) if settings.prefilter else settings.codes
        codes |= again[index] if index < len(again) else frozenset()
        ran.append(codes)
        if codes or (settings.suppressions and names_us(program.text.encode(errors="replace"))):
            from clipcheck.engine.program import examine  # imports libcst

            found = examine(path, doc, index, codes, settings, was)
            findings += found.findings
            errors += found.errors
            warnings += found.warnings
            masked += found.masked
    findings.sort(key=lambda finding: finding.order)
    return _Checked(doc, tuple(findings), tuple(errors), tuple(warnings), tuple(ran), tuple(masked))


def _before(path: str, before: bytes, now: Document) -> list[str]:
    """The earlier text of each program of a file; "" if it is unknown or, as in Markdown, useless."""
    nothing = [""] * len(now.programs)
    if not before or now.fragments:
        return nothing
    return [*(program.text for program in read(path, before).programs), *nothing][: len(nothing)]


def _settle(path: str, data: bytes, first: _Checked, settings: Settings) -> FileReport:
    """Applies all fixes that do not overlap, checks again, and repeats until there is nothing left to fix."""
    fixed: list[Finding] = []
    checked = first
    errors = list(first.errors)
    refused: set[touched.Refused] = set()
    current = data
    for _ in range(MAX_ROUNDS):
        pending = [f for f in _applicable(checked.findings, settings) if touched.key(f) not in refused]
        step, bad = _round(path, checked, pending, settings)
        errors += map(_bad_fix, bad)
        refused |= set(map(touched.key, bad))
        if step is None:
            break
        refused = touched.shifted(refused, step.edits)
        current, checked = step.data, step.checked
        fixed += step.taken
    else:
        errors.append(f"{path}: the fixes do not settle after {MAX_ROUNDS} rounds")
        return FileReport(path, data, first.findings, (), None, tuple(errors), first.warnings, settings.safety)
    now = current if fixed else None
    return FileReport(path, data, checked.findings, tuple(fixed), now, tuple(errors), checked.warnings, settings.safety)


def _round(
    path: str, checked: _Checked, pending: Sequence[Finding], settings: Settings
) -> tuple[_Step | None, list[Finding]]:
    """The result of all fixes that do not overlap, and those that fail by themselves; None if no other is pending."""
    bad: list[Finding] = []
    while pending:
        step = _step(path, checked, pending, settings)
        if step is not None:
            return step, bad
        alone = [(finding, _step(path, checked, [finding], settings)) for finding in pending]
        failed = [finding for finding, step in alone if step is None]
        if not failed:  # each works by itself, but they do not work together
            return alone[0][1], bad
        bad += failed
        pending = [finding for finding in pending if finding not in failed]
    return None, bad


def _step(path: str, checked: _Checked, pending: Sequence[Finding], settings: Settings) -> _Step | None:
    """The result of applying the fixes together; None if it is not what they promise."""
    document = checked.document
    assert document is not None
    taken, chosen = _compatible(pending, len(document.programs))
    edits = _with_imports(path, document, chosen, settings)
    after = document.splice(edits)
    again = _check(path, after, settings, again=checked.ran)
    if again.document is None or set(again.errors) - set(checked.errors) or _breaks(document, again.document):
        return None
    old, new = touched.replaced_lines(document, edits), touched.written_lines(document, again.document, edits)
    if not touched.is_promised((*checked.findings, *checked.masked), again.findings, taken, old, new):
        return None
    return _Step(after, again, taken, edits)


def _with_imports(path: str, document: Document, edits: list[list[Edit]], settings: Settings) -> list[list[Edit]]:
    """The edits of several fixes, plus edits that remove imports that only all of them together leave unused."""
    from clipcheck.engine.program import whole  # imports libcst, as finding something to fix did before

    return [whole(path, document, number, some, settings) if some else some for number, some in enumerate(edits)]


def _breaks(before: Document, after: Document) -> bool:
    """Whether a program is no longer valid Python: for fragments of a document, no finding says so."""
    from clipcheck.python.syntax import is_python  # imports libcst, as finding something to fix did before

    def is_broken(old: Program, new: Program) -> bool:
        return is_python(old.text) and not is_python(new.text)

    return len(before.programs) != len(after.programs) or any(map(is_broken, before.programs, after.programs))


def _applicable(findings: Iterable[Finding], settings: Settings) -> list[Finding]:
    return [
        f
        for f in findings
        if settings.fix and f.fix and settings.applies(f.fix.safety)
        if f.verdict is None or f.verdict.kind == "verified"
    ]


def _compatible(findings: Sequence[Finding], programs: int) -> tuple[list[Finding], list[list[Edit]]]:
    """The findings whose fixes do not overlap, on a first come, first served basis, and all their edits.

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
        "own check. This is a bug in clipcheck, please report it"
    )


def _refuted(finding: Finding) -> str:
    at = finding.place
    return (
        f"{finding.path}:{at.line}:{at.column}: the fix of {finding.code} is {finding.verdict}. "
        "This is a bug in clipcheck, please report it"
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
