"""Checks one program: rules run, their hits become findings, and comments suppress some of them."""

from __future__ import annotations

import os
import re
from binascii import crc32
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from clipcheck import rules
from clipcheck.catalogue import RULES
from clipcheck.documents.program import Document
from clipcheck.engine import suppressions
from clipcheck.engine.suppressions import Directive, Naming, Standing, names_us
from clipcheck.fixes.unused import left_unused, without_unused
from clipcheck.prefilter import contains_clipping_code
from clipcheck.python import syntax
from clipcheck.python.limits import Excess, excess
from clipcheck.python.source import Source
from clipcheck.python.syntax import Fault
from clipcheck.rule import (
    INVALID_SYNTAX,
    NOT_ANALYZED,
    NOT_ROUND_TRIPPED,
    UNUSED,
    Edit,
    Finding,
    Fix,
    Hit,
    Place,
    Rule,
    Severity,
)
from clipcheck.settings.keys import DEFAULT, Settings


class Examined(NamedTuple):
    """The findings, and `masked` ones that are not reported because another mistake hides their effect."""

    findings: tuple[Finding, ...]
    errors: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    masked: tuple[Finding, ...] = ()


class _Found(NamedTuple):
    finding: Finding
    standing: Standing
    masked: bool


class _View(NamedTuple):
    """What all functions here need: the file, the index of the program, the parsed program, and its syntax errors."""

    path: str
    document: Document
    program: int
    source: Source
    faults: tuple[Fault, ...]
    settings: Settings


def examine(
    path: str, document: Document, index: int, codes: frozenset[str], settings: Settings, before: str
) -> Examined:
    """What the rules `codes` find in program `index` of a file; `before` is for `syntax.parse`."""
    too_much = excess(document.programs[index].text)
    if too_much is not None:
        return Examined((_not_analyzed(path, document, index, too_much),))
    try:
        source, faults = syntax.parse(document.programs[index], settings.target, before)
        broken = tuple(_fault(path, document, index, fault) for fault in _reported_faults(document, index, faults))
        if source is None:
            return Examined(broken)
        source.locate = lambda offset: document.place(index, offset, offset)
        view = _View(path, document, index, source, faults, settings)
        everything, errors = _run_rules(view, codes)
    except RecursionError:
        return Examined((_not_analyzed(path, document, index, Excess(0, "nested too deeply to be analyzed")),))
    found = [item for item in everything if not item.masked]
    masked = tuple(item.finding for item in everything if item.masked)
    findings, warnings = _suppress(view, found) if settings.suppressions else ([item.finding for item in found], [])
    if found and not source.exact:
        findings.append(_not_round_tripped(view))
    return Examined((*broken, *_tried(view, findings)), tuple(errors), tuple(warnings), masked)


def _tried(view: _View, findings: Sequence[Finding]) -> Sequence[Finding]:
    """The findings, with a verdict on each applicable fix if fixes have to be verified."""
    settings, text = view.settings, view.source.text
    if settings.verify is None:
        return findings
    return [
        f._replace(verdict=settings.verify(text, f.fix, settings.target))
        if f.fix and settings.applies(f.fix.safety)
        else f
        for f in findings
    ]


def _run_rules(view: _View, codes: frozenset[str]) -> tuple[list[_Found], list[str]]:
    """The rules' findings; a rule that crashes becomes an error and does not stop the others."""
    found: list[_Found] = []
    errors: list[str] = []
    for code in sorted(codes):
        try:
            found += [_found(view, RULES[code], hit) for hit in rules.check_of(RULES[code])(view.source)]
        except RecursionError:
            raise
        except Exception as error:
            line = str(error).replace("\n", " ")
            errors.append(f"{view.path}: rule {code} crashed: {type(error).__name__}: {line}")
    return found, errors


def _found(view: _View, rule: Rule, hit: Hit) -> _Found:
    source, document, index = view.source, view.document, view.program
    start, end = source.span(hit.node)
    logical = source.logical_line(hit.node)
    last = source.line_starts[logical[1] - 1]
    fix = _adjusted(view, rule.code, hit.fix)
    obstacle = _obstacle(source, fix) if fix is not None else ""
    fix = None if obstacle else fix
    finding = Finding(
        view.path,
        document.place(index, start, end),
        rule.code,
        rule.name,
        hit.message,
        rule.severity,
        fix,
        _changes(view, fix),
        f"no automatic fix: {obstacle}" if obstacle else hit.help,
        tuple((document.place(index, *source.span(node)), label) for node, label in hit.related),
        index,
        document.place(index, last, last).line,
        _copied(source, hit),
    )
    return _Found(finding, suppressions.standing(source, start, end, logical), hit.masked)


def _copied(source: Source, hit: Hit) -> str:
    """What findings share that are at the same place of the same code: of the function, else of the program."""
    around = source.span(source.function(hit.node) or source.module)
    text = source.text[slice(*around)]
    # a checksum, as the import of hashlib, with OpenSSL, takes longer than to check a file
    return f"{source.span(hit.node)[0] - around[0]} {len(text)} {crc32(text.encode()):08x}"


def _adjusted(view: _View, code: str, fix: Fix | None) -> Fix | None:
    """The fix, if it is possible here, with the safety according to the settings."""
    if fix is None or not view.source.exact:  # then its positions are unreliable
        return None
    edits = without_unused(view.source, fix.all_edits, _keeps_imports(view.path, view.document))
    if not all(_may_edit(view, edit) for edit in edits):
        return None
    imports = tuple(sorted(set(edits) - set(fix.edits)))
    return fix._replace(safety=view.settings.trust(code, fix.safety), imports=imports)


def whole(path: str, document: Document, index: int, edits: list[Edit], settings: Settings) -> list[Edit]:
    """The edits of several fixes in program `index`, plus those for imports that only all of them leave unused."""
    source, _ = syntax.parse(document.programs[index], settings.target)
    return edits if source is None else without_unused(source, edits, _keeps_imports(path, document))


def _keeps_imports(path: str, document: Document) -> bool:
    """Whether others may use an unused import: importers of a package, later cells or fences."""
    return document.fragments or document.cells or os.path.basename(path) == "__init__.py"


def _obstacle(source: Source, fix: Fix) -> str:
    """Why a fix is refused: it would remove something that it must not, or leave a variable unused."""
    if not _keep_comments(source, fix.all_edits):
        return "it would remove a comment"
    unused = left_unused(source, fix.all_edits)
    return f"it would leave `{unused}` unused" if unused else ""


def _keep_comments(source: Source, edits: Sequence[Edit]) -> bool:
    """Whether edits write each comment that they delete exactly once, and no other comments of the text."""
    comments = [source.text[start:end].rstrip() for start, end in source.comments]
    gone = Counter(
        comment
        for comment, (start, end) in zip(comments, source.comments, strict=True)
        if any(edit.start < end and start < edit.end for edit in edits)
    )
    written = Counter(found.rstrip() for edit in edits for found in re.findall(r"#[^\r\n]*", edit.text))
    return all(written[comment] == gone[comment] for comment in comments)


def _may_edit(view: _View, edit: Edit) -> bool:
    """Whether no edit crosses a cell boundary or touches code that is not Python."""
    segment = view.document.segment(view.program, edit.start, edit.end)
    in_faulty = any(fault.start <= edit.start and edit.end <= fault.end for fault in view.faults)
    return segment is not None and segment.editable and not in_faulty


def _changes(view: _View, fix: Fix | None) -> tuple[tuple[Place, str], ...]:
    """The edits of a fix as places in the file, each as short as possible."""
    written = view.document.programs[view.program].written
    edits = [_shortest(edit, written) for edit in (fix.all_edits if fix else ())]
    changed = (edit for edit in edits if edit.text or edit.start < edit.end)
    return tuple((view.document.place(view.program, edit.start, edit.end), edit.text) for edit in changed)


def _shortest(edit: Edit, text: str) -> Edit:
    """The edit without the text that it does not change at its start and end."""
    old, new = text[edit.start : edit.end], edit.text
    lead = _shared(old, new)
    tail = _shared(old[lead:][::-1], new[lead:][::-1])
    return Edit(edit.start + lead, edit.end - tail, new[lead : len(new) - tail])


def _shared(one: str, other: str) -> int:
    """The length of the common prefix."""
    differ = (i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)
    return next(differ, min(len(one), len(other)))


# --- suppressions ---------------------------------------------------------------------------------------------------


def _suppress(view: _View, found: Sequence[_Found]) -> tuple[list[Finding], list[str]]:
    """The findings that no comment suppresses, findings of unused comments, and warnings."""
    source = view.source
    if not found and not names_us(source.text.encode()):
        return [], []  # no other comment matters, and looking for them takes time
    codes = view.settings.codes
    sifted = suppressions.sift(
        source, [(item.finding.code, item.standing) for item in found], codes, whole=codes >= DEFAULT
    )
    suppressed = [found[i] for i in sifted.suppressed]
    findings = [_unless_suppressed_lines(source, found[i].finding, suppressed) for i in sifted.kept]
    if view.settings.report_unused:
        findings += [_unused(view, directive, name) for directive, name in sifted.unused]
    warnings = []
    for at, message in sifted.malformed:
        place = view.document.place(view.program, at, at)
        cell = "" if place.cell is None else f":cell {place.cell}"
        warnings.append(f"{view.path}{cell}:{place.line}: {message}")
    return findings, warnings


def _unless_suppressed_lines(source: Source, finding: Finding, suppressed: Sequence[_Found]) -> Finding:
    """The finding, without its fix if that would edit a line on which a finding is suppressed."""
    for other in suppressed:
        first, last = other.standing.first, other.standing.last
        if finding.fix and any(suppressions.edits_line(source, edit, first, last) for edit in finding.fix.all_edits):
            why = (
                f"no automatic fix: it would edit line {other.finding.place.line}, where a comment suppresses a finding"
            )
            return finding._replace(fix=None, changes=(), help=why)
    return finding


def _unused(view: _View, directive: Directive, name: Naming | None) -> Finding:
    start, end = (name.start, name.end) if name else (directive.start, directive.end)
    fix = _adjusted(view, UNUSED, suppressions.removal(view.source, directive, name))
    what = f"`{name.code}`" if name else "findings"
    message = f"unused suppression of {what}: there is no finding to suppress"
    if directive.verb == "enable":
        message = f"`enable` without a `disable` of {what} before it"
    return Finding(
        view.path,
        view.document.place(view.program, start, end),
        UNUSED,
        UNUSED,
        message,
        Severity.WARNING,
        fix,
        _changes(view, fix),
        program=view.program,
    )


# --- syntax errors ----------------------------------------------------------------------------------------------------


def _reported_faults(document: Document, index: int, faults: Sequence[Fault]) -> Sequence[Fault]:
    """The syntax errors that are reported.

    Fragments of a document are often abridged (`for x, y in …:`), and nobody runs them; cells of a notebook contain
    blanks to fill in, and prose. An error matters only in gradient-clipping code: for a file, if there is any, since
    nobody knows what the error hides. Templates generate programs, but are not programs themselves.
    """
    text = document.programs[index].written
    if document.fragments or any(_is_of_template(text, fault) for fault in faults):
        return ()
    return [f for f in faults if contains_clipping_code(text[f.start : f.end] if document.cells else text)]


# A Jinja statement, `{% if layers %}`, or a value outside strings: `class {{ cookiecutter.name }}Model:`.
_OF_TEMPLATE = re.compile(r"\s*\{%-? *[a-z][^\n]*%\}|[^\n'\"#{]*\{\{-? *[a-z_][\w.]* *(\|[^\n]*)?\}\}", re.IGNORECASE)


def _is_of_template(text: str, fault: Fault) -> bool:
    return _OF_TEMPLATE.match(text, text[: fault.at].rfind("\n") + 1) is not None


def _fault(path: str, document: Document, index: int, fault: Fault) -> Finding:
    place = document.place(index, fault.at, fault.at)
    if fault.is_python:
        why = "valid Python that the parser cannot read; the rest is analyzed but not fixed"
        return Finding(path, place, NOT_ANALYZED, NOT_ANALYZED, why, Severity.WARNING)
    return Finding(path, place, INVALID_SYNTAX, INVALID_SYNTAX, f"not valid Python: {fault.message}", Severity.ERROR)


def _not_analyzed(path: str, document: Document, index: int, why: Excess) -> Finding:
    place = document.place(index, why.at, why.at)
    return Finding(path, place, NOT_ANALYZED, NOT_ANALYZED, why.message, Severity.ERROR)


def _not_round_tripped(view: _View) -> Finding:
    what = "these cells" if view.document.cells else "this file"
    why = f"the parser does not reproduce {what} byte for byte, so nothing is fixed"
    return Finding(view.path, view.document.place(view.program, 0, 0), NOT_ROUND_TRIPPED, NOT_ROUND_TRIPPED, why)
