"""The language server: findings while one types, their fixes as quick fixes, and the rules' pages on hover."""

from __future__ import annotations

import asyncio
import gc
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from lsprotocol import types as lsp
from pygls.exceptions import JsonRpcException, JsonRpcInternalError, PyglsError
from pygls.lsp.server import LanguageServer
from pygls.workspace import TextDocument

from clipcheck import __version__
from clipcheck.catalogue import RULES
from clipcheck.documents import read as document
from clipcheck.editor.opened import Opened, ProtocolWorkspace, differences, meet, opened, path_of, span, span_in
from clipcheck.engine.batch import collect_less
from clipcheck.engine.file import check_text
from clipcheck.engine.results import FileReport
from clipcheck.rule import INVALID_SYNTAX, Finding, Place, Safety, Severity
from clipcheck.settings.files import FILES
from clipcheck.settings.keys import ConfigError, Layer, Settings
from clipcheck.settings.projects import Projects

# Seconds without a keystroke after which the text is looked at, whole. Keys of one word come 0.1 to 0.2 s apart.
DELAY = 0.1
# Seconds without a keystroke after which dead cycles are collected: in between that would take as long as an answer.
IDLE = 2.0
FIX_ALL = "source.fixAll.clipcheck"
FIX_ALL_CELLS = "notebook.source.fixAll.clipcheck"

_CODE = re.compile(r"\bCLIP\d{3}\b")
_SEVERITIES = {
    Severity.ERROR: lsp.DiagnosticSeverity.Error,
    Severity.WARNING: lsp.DiagnosticSeverity.Warning,
    Severity.NOTE: lsp.DiagnosticSeverity.Information,
}


class Look(NamedTuple):
    """The outcome of the last look at something opened, and what it was a look at."""

    text: str
    settings: Settings
    report: FileReport
    python: str  # the last text that was Python


class Server(LanguageServer):
    def __init__(self) -> None:
        notebooks = lsp.NotebookDocumentFilterWithNotebook(notebook="*", cells=[lsp.NotebookCellLanguage("python")])
        super().__init__(
            "clipcheck", __version__, notebook_document_sync=lsp.NotebookDocumentSyncOptions([notebooks], save=True)
        )
        self.looks: dict[str, Look] = {}
        self.waiting: dict[str, asyncio.TimerHandle] = {}
        self.tidying: asyncio.TimerHandle | None = None
        self.told = ""

    # --- looking ----------------------------------------------------------------------------------------------------

    def look(self, at: Opened) -> FileReport:
        """The findings in what is opened, from the last look if nothing has changed since."""
        settings = self.settings(at.path)
        last = self.looks.get(at.uri)
        if last is not None and (last.text, last.settings) == (at.text, settings):
            return last.report
        before = "" if last is None else last.python
        report = self.run(at, settings, before)
        broken = any(finding.code == INVALID_SYNTAX for finding in report.findings)
        self.looks[at.uri] = Look(at.text, settings, report, before if broken else at.text)
        return report

    def run(self, at: Opened, settings: Settings, before: str = "") -> FileReport:
        """One run of the engine; whatever goes wrong in it is told and ends nothing."""
        try:
            report = check_text(at.path, at.text, settings, before)
        except Exception as error:
            report = FileReport(at.path, b"", errors=(f"{at.path}: {type(error).__name__}: {error}",))
        for kind, lines in ((lsp.MessageType.Error, report.errors), (lsp.MessageType.Warning, report.warnings)):
            for line in lines:
                self.window_log_message(lsp.LogMessageParams(kind, line))
        return report

    def settings(self, path: str) -> Settings:
        """What holds for a file now: read anew at each look, so that no change of a settings file goes unnoticed."""
        try:
            project = Projects(Layer({}, os.getcwd()), Settings()).of(path)
            settings = project.for_file(path)
            left_out = project.excludes(path)
        except ConfigError as error:
            self.tell(str(error))
            return Settings()
        return replace(settings, codes=frozenset(), report_unused=False) if left_out else settings

    def tell(self, fault: str) -> None:
        """Show a fault of the settings, once and not at every keystroke."""
        if fault != self.told:
            self.told = fault
            self.window_show_message(lsp.ShowMessageParams(lsp.MessageType.Error, f"clipcheck: {fault}"))

    def look_soon(self, uri: str) -> None:
        """Publish the findings once no keystroke follows at once."""
        at = self.workspace.get_notebook_document(cell_uri=uri)
        uri = uri if at is None else at.uri
        if uri in self.waiting:
            self.waiting[uri].cancel()
        self.waiting[uri] = asyncio.get_running_loop().call_later(DELAY, self.publish, uri)

    def look_again(self) -> None:
        """Publish everything anew, after a change of the configuration."""
        for uri in [*self.looks]:
            self.look_soon(uri)

    def publish(self, uri: str) -> None:
        self.waiting.pop(uri, None)
        at = opened(self.workspace, uri)
        if at is None:
            return
        findings = self.look(at).findings
        for cell, text in at.parts.items():
            diagnostics = [self.diagnostic(at, finding) for finding in findings if finding.place.cell == cell]
            self.text_document_publish_diagnostics(
                lsp.PublishDiagnosticsParams(text.uri, diagnostics, version=text.version)
            )
        if self.tidying is not None:
            self.tidying.cancel()
        self.tidying = asyncio.get_running_loop().call_later(IDLE, gc.collect)

    def forget(self, uri: str, parts: Sequence[str]) -> None:
        """Take the findings of what was closed off the screen."""
        self.looks.pop(uri, None)
        if uri in self.waiting:
            self.waiting.pop(uri).cancel()
        self.clear(parts)

    def rest(self) -> None:
        """Start nothing more: what runs after the goodbye finds nobody to write to."""
        for timer in (*self.waiting.values(), *([self.tidying] if self.tidying else [])):
            timer.cancel()

    def report_server_error(self, error: Exception, source: type[PyglsError] | type[JsonRpcException]) -> None:
        """Tell the client of a fault, other than that it cannot be told anything: that would have no end."""
        if source is not JsonRpcInternalError:
            super().report_server_error(error, source)

    def clear(self, parts: Sequence[str]) -> None:
        for part in parts:
            self.text_document_publish_diagnostics(lsp.PublishDiagnosticsParams(part, []))

    # --- answers ----------------------------------------------------------------------------------------------------

    def diagnostic(self, at: Opened, finding: Finding) -> lsp.Diagnostic:
        message = finding.message if finding.fix or not finding.help else f"{finding.message}\nhelp: {finding.help}"
        related = [
            lsp.DiagnosticRelatedInformation(lsp.Location(at.parts[place.cell].uri, span(at, place)), label)
            for place, label in finding.related
        ]
        return lsp.Diagnostic(
            span(at, finding.place),
            message,
            _SEVERITIES[finding.severity],
            finding.code,
            source="clipcheck",
            related_information=related or None,
        )

    def quick_fixes(self, at: Opened, wanted: lsp.Range, part: str) -> Iterator[lsp.CodeAction]:
        """The fixes of the findings that touch a range; the safe ones alone are preferred, so only they fix unasked."""
        report = self.look(at)
        for finding in report.findings:
            where = span(at, finding.place)
            if finding.fix is None or at.parts[finding.place.cell].uri != part or not meet(where, wanted):
                continue
            safe = finding.fix.safety is Safety.SAFE
            yield lsp.CodeAction(
                finding.fix.title if safe else f"{finding.fix.title} (unsafe: training may change)",
                lsp.CodeActionKind.QuickFix,
                [self.diagnostic(at, finding)],
                is_preferred=safe,
                edit=self.workspace_edit(at, _changes(at, report, finding)),
            )

    def silencers(self, at: Opened, wanted: lsp.Range, part: str) -> Iterator[lsp.CodeAction]:
        """A comment beside each finding in a range that silences it there."""
        from clipcheck.engine import baseline

        report = self.look(at)
        for finding in report.findings:
            if at.parts[finding.place.cell].uri == part and meet(span(at, finding.place), wanted):
                after, count = baseline.added(report._replace(findings=(finding,)), "ignore", "")
                if count:
                    changes = tuple(differences(at, document.decode(at.path, after)))
                    title = f"Ignore {finding.code} on this line"
                    edit = self.workspace_edit(at, changes)
                    yield lsp.CodeAction(title, lsp.CodeActionKind.QuickFix, [self.diagnostic(at, finding)], edit=edit)

    def fix_all(self, at: Opened) -> lsp.WorkspaceEdit | None:
        """Every safe fix at once, or None where there is none."""
        settings = replace(self.settings(at.path), fix=True, safety=Safety.SAFE)  # unsafe ones are asked for one by one
        report = self.run(at, settings)
        if report.fixed_data is None:
            return None
        after = document.decode(at.path, report.fixed_data)
        return self.workspace_edit(at, tuple(differences(at, after)))

    def workspace_edit(self, at: Opened, changes: Sequence[tuple[Place, str]]) -> lsp.WorkspaceEdit:
        edits: dict[int | None, list[lsp.TextEdit]] = {}
        for place, text in changes:
            edits.setdefault(place.cell, []).append(lsp.TextEdit(span(at, place), text))
        capabilities = self.client_capabilities.workspace
        if capabilities and capabilities.workspace_edit and capabilities.workspace_edit.document_changes:
            return lsp.WorkspaceEdit(
                document_changes=[
                    lsp.TextDocumentEdit(
                        lsp.OptionalVersionedTextDocumentIdentifier(at.parts[cell].uri, at.parts[cell].version), of_cell
                    )
                    for cell, of_cell in edits.items()
                ]
            )
        return lsp.WorkspaceEdit({at.parts[cell].uri: of_cell for cell, of_cell in edits.items()})

    def page_at(self, at: Opened, part: TextDocument, position: lsp.Position) -> lsp.Hover | None:
        """The pages of the rules that have a finding here, or whose code is written here."""
        from clipcheck.pages import page

        here = lsp.Range(position, position)
        found: dict[str, lsp.Range] = {}
        for finding in self.look(at).findings:
            where = span(at, finding.place)
            if finding.code in RULES and at.parts[finding.place.cell].uri == part.uri and meet(where, here):
                found.setdefault(finding.code, where)
        line = part.lines[position.line] if position.line < len(part.lines) else ""
        for word in _CODE.finditer(line):
            where = span_in(part, Place(position.line + 1, word.start() + 1, position.line + 1, word.end() + 1))
            if word.group() in RULES and meet(where, here):
                found.setdefault(word.group(), where)
        if not found:
            return None
        text = "\n\n---\n\n".join(page(RULES[code]) for code in found)
        return lsp.Hover(lsp.MarkupContent(lsp.MarkupKind.Markdown, text), next(iter(found.values())))


# --- the protocol -------------------------------------------------------------------------------------------------------


def server() -> Server:
    """A server with everything that it answers to."""
    ls = Server()

    @ls.feature(lsp.INITIALIZE)
    def initialize(params: lsp.InitializeParams) -> None:
        was = ls.workspace
        ls.protocol._workspace = ProtocolWorkspace(
            was.root_uri, lsp.TextDocumentSyncKind.Incremental, [*was.folders.values()], was.position_encoding
        )

    @ls.feature(lsp.INITIALIZED)
    async def initialized(params: lsp.InitializedParams) -> None:
        capabilities = ls.client_capabilities.workspace
        watching = capabilities and capabilities.did_change_watched_files
        if watching and watching.dynamic_registration:
            watchers = [lsp.FileSystemWatcher(f"**/{name}") for name in FILES]
            options = lsp.DidChangeWatchedFilesRegistrationOptions(watchers)
            registration = lsp.Registration("configuration", lsp.WORKSPACE_DID_CHANGE_WATCHED_FILES, options)
            await ls.client_register_capability_async(lsp.RegistrationParams([registration]))

    @ls.feature(lsp.SHUTDOWN)
    @ls.feature(lsp.EXIT)
    def leave(*_: object) -> None:
        ls.rest()

    @ls.feature(lsp.TEXT_DOCUMENT_DID_OPEN)
    @ls.feature(lsp.TEXT_DOCUMENT_DID_CHANGE)
    def changed(params: lsp.DidOpenTextDocumentParams | lsp.DidChangeTextDocumentParams) -> None:
        ls.look_soon(params.text_document.uri)

    @ls.feature(lsp.TEXT_DOCUMENT_DID_CLOSE)
    def closed(params: lsp.DidCloseTextDocumentParams) -> None:
        ls.forget(params.text_document.uri, [params.text_document.uri])

    @ls.feature(lsp.TEXT_DOCUMENT_DID_SAVE)
    def saved(params: lsp.DidSaveTextDocumentParams) -> None:
        if Path(path_of(params.text_document.uri, "")).name in FILES:
            ls.look_again()

    @ls.feature(lsp.WORKSPACE_DID_CHANGE_WATCHED_FILES)
    @ls.feature(lsp.WORKSPACE_DID_CHANGE_CONFIGURATION)
    def configured(params: lsp.DidChangeWatchedFilesParams | lsp.DidChangeConfigurationParams) -> None:
        ls.look_again()

    @ls.feature(lsp.NOTEBOOK_DOCUMENT_DID_OPEN)
    def notebook_opened(params: lsp.DidOpenNotebookDocumentParams) -> None:
        ls.look_soon(params.notebook_document.uri)

    @ls.feature(lsp.NOTEBOOK_DOCUMENT_DID_CHANGE)
    def notebook_changed(params: lsp.DidChangeNotebookDocumentParams) -> None:
        cells = params.change.cells
        if cells and cells.structure:
            ls.clear([cell.uri for cell in cells.structure.did_close or ()])
        ls.look_soon(params.notebook_document.uri)

    @ls.feature(lsp.NOTEBOOK_DOCUMENT_DID_CLOSE)
    def notebook_closed(params: lsp.DidCloseNotebookDocumentParams) -> None:
        ls.forget(params.notebook_document.uri, [cell.uri for cell in params.cell_text_documents])

    kinds = [lsp.CodeActionKind.QuickFix, FIX_ALL, FIX_ALL_CELLS]

    @ls.feature(lsp.TEXT_DOCUMENT_CODE_ACTION, lsp.CodeActionOptions(kinds))
    def actions(params: lsp.CodeActionParams) -> list[lsp.CodeAction]:
        uri = params.text_document.uri
        at = opened(ls.workspace, uri)
        if at is None:
            return []
        only = params.context.only
        found: list[lsp.CodeAction] = []
        if _asked(lsp.CodeActionKind.QuickFix, only):
            found += [*ls.quick_fixes(at, params.range, uri), *ls.silencers(at, params.range, uri)]
        kind = next((kind for kind in (FIX_ALL, FIX_ALL_CELLS) if _asked(kind, only)), None)
        if kind is not None and (edit := ls.fix_all(at)) is not None:
            found.append(lsp.CodeAction("Apply all safe fixes of clipcheck", kind, edit=edit))
        return found

    @ls.feature(lsp.TEXT_DOCUMENT_HOVER)
    def hover(params: lsp.HoverParams) -> lsp.Hover | None:
        uri = params.text_document.uri
        at = opened(ls.workspace, uri)
        return None if at is None else ls.page_at(at, ls.workspace.get_text_document(uri), params.position)

    return ls


def _changes(at: Opened, report: FileReport, finding: Finding) -> Sequence[tuple[Place, str]]:
    """A fix's edits in what is opened; in a document, whose blocks may be indented or quoted, by whole lines."""
    if not at.is_document or finding.fix is None:
        return finding.changes
    read = document.read(report.path, report.now)
    edits = [finding.fix.all_edits if number == finding.program else () for number in range(len(read.programs))]
    return tuple(differences(at, document.decode(report.path, read.splice(edits))))


def _asked(kind: str, only: Sequence[str] | None) -> bool:
    return only is None or any(kind == one or kind.startswith(f"{one}.") for one in only)


def main() -> None:
    """Serve on standard input and output until the client says goodbye or goes away."""
    collect_less()
    server().start_io()
