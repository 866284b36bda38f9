"""Findings in the protocol's terms: diagnostics, quick fixes, edits, and the rules' pages on hover."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from lsprotocol import types as lsp

from clipcheck import site
from clipcheck.catalogue import RULES
from clipcheck.documents import read as document
from clipcheck.editor.opened import Opened, changes_of, differences
from clipcheck.editor.texts import Text
from clipcheck.engine.results import FileReport
from clipcheck.rule import Finding, Place, Safety, Severity

_CODE = re.compile(r"\bCLIP\d{3}\b")
_SEVERITIES = {
    Severity.ERROR: lsp.DiagnosticSeverity.Error,
    Severity.WARNING: lsp.DiagnosticSeverity.Warning,
    Severity.NOTE: lsp.DiagnosticSeverity.Information,
}


def diagnostic(at: Opened, finding: Finding) -> lsp.Diagnostic:
    page = site.page(finding.code, finding.name)
    message = finding.message if finding.fix or not finding.help else f"{finding.message}\nhelp: {finding.help}"
    related = [
        lsp.DiagnosticRelatedInformation(lsp.Location(at.parts[place.cell].uri, at.span(place)), label)
        for place, label in finding.related
    ]
    return lsp.Diagnostic(
        at.span(finding.place),
        message,
        _SEVERITIES[finding.severity],
        finding.code,
        code_description=lsp.CodeDescription(page) if page else None,
        source="clipcheck",
        related_information=related or None,
    )


def quick_fixes(at: Opened, report: FileReport, wanted: lsp.CodeActionParams, versioned: bool) -> list[lsp.CodeAction]:
    """The fixes of the findings that touch a range, then comments that suppress them; only safe fixes are preferred."""
    found = [finding for finding in report.findings if _touches(at, finding, wanted.text_document.uri, wanted.range)]
    fixes = [_quick_fix(at, report, finding, versioned) for finding in found if finding.fix]
    return [*fixes, *(action for finding in found for action in _suppressions(at, report, finding, versioned))]


def _quick_fix(at: Opened, report: FileReport, finding: Finding, versioned: bool) -> lsp.CodeAction:
    assert finding.fix is not None
    safe = finding.fix.safety is Safety.SAFE
    return lsp.CodeAction(
        finding.fix.title if safe else f"{finding.fix.title} (unsafe: changes training)",
        lsp.CodeActionKind.QuickFix,
        [diagnostic(at, finding)],
        is_preferred=safe,
        edit=workspace_edit(at, changes_of(at, report, finding), versioned),
    )


def _suppressions(at: Opened, report: FileReport, finding: Finding, versioned: bool) -> Iterator[lsp.CodeAction]:
    """A comment that suppresses a finding, where a comment is possible."""
    from clipcheck.engine import baseline

    after, count = baseline.added(report._replace(findings=(finding,)), "ignore", "")
    if count:
        changes = tuple(differences(at, document.decode(at.path, after)))
        title = f"Ignore {finding.code} on this line"
        edit = workspace_edit(at, changes, versioned)
        yield lsp.CodeAction(title, lsp.CodeActionKind.QuickFix, [diagnostic(at, finding)], edit=edit)


def workspace_edit(at: Opened, changes: Sequence[tuple[Place, str]], versioned: bool) -> lsp.WorkspaceEdit:
    """Changes as the client applies them, `versioned` if it knows how to apply them to one version only."""
    edits: dict[int | None, list[lsp.TextEdit]] = {}
    for place, text in changes:
        edits.setdefault(place.cell, []).append(lsp.TextEdit(at.span(place), text))
    if not versioned:
        return lsp.WorkspaceEdit({at.parts[cell].uri: of_cell for cell, of_cell in edits.items()})
    return lsp.WorkspaceEdit(
        document_changes=[
            lsp.TextDocumentEdit(
                lsp.OptionalVersionedTextDocumentIdentifier(at.parts[cell].uri, at.parts[cell].version), of_cell
            )
            for cell, of_cell in edits.items()
        ]
    )


def page_at(at: Opened, report: FileReport, part: Text, position: lsp.Position) -> lsp.Hover | None:
    """The pages of the rules that have a finding here, or whose code is written here."""
    from clipcheck.pages import page

    here = lsp.Range(position, position)
    found: dict[str, lsp.Range] = {}
    for finding in report.findings:
        if finding.code in RULES and _touches(at, finding, part.uri, here):
            found.setdefault(finding.code, at.span(finding.place))
    line = part.lines[position.line] if position.line < len(part.lines) else ""
    for word in _CODE.finditer(line):
        where = part.span(Place(position.line + 1, word.start() + 1, position.line + 1, word.end() + 1))
        if word.group() in RULES and _meet(where, here):
            found.setdefault(word.group(), where)
    if not found:
        return None
    text = "\n\n---\n\n".join(page(RULES[code]) for code in found)
    return lsp.Hover(lsp.MarkupContent(lsp.MarkupKind.Markdown, text), next(iter(found.values())))


def _touches(at: Opened, finding: Finding, part: str, where: lsp.Range) -> bool:
    return at.parts[finding.place.cell].uri == part and _meet(at.span(finding.place), where)


def _meet(one: lsp.Range, other: lsp.Range) -> bool:
    return one.start <= other.end and other.start <= one.end
