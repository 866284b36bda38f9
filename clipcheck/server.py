"""The language server: findings while one types, their fixes as quick fixes, and the rules' pages on hover."""

from __future__ import annotations

import asyncio
import difflib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

from lsprotocol import types as lsp
from pygls.lsp.server import LanguageServer
from pygls.uris import to_fs_path
from pygls.workspace import TextDocument, Workspace
from pygls.workspace.position_codec import ServerTextPosition, ServerTextRange

from clipcheck import __version__, document, engine
from clipcheck.catalogue import RULES
from clipcheck.config import Settings
from clipcheck.engine import FileReport
from clipcheck.memory import Memory, remembered
from clipcheck.rule import Finding, Place, Safety, Severity

# Keystrokes that come together are looked at together; a longer wait would only be felt.
DELAY = 0.01
CONFIGURATION = ("pyproject.toml", "clipcheck.toml", ".clipcheck.toml")
FIX_ALL = "source.fixAll.clipcheck"
FIX_ALL_CELLS = "notebook.source.fixAll.clipcheck"

_LINE = re.compile(r"[^\r\n]*(?:\r\n|\n|\r)|[^\r\n]+")
_CODE = re.compile(r"\bCLIP\d{3}\b")
_SEVERITIES = {
    Severity.ERROR: lsp.DiagnosticSeverity.Error,
    Severity.WARNING: lsp.DiagnosticSeverity.Warning,
    Severity.NOTE: lsp.DiagnosticSeverity.Information,
}


class Opened(NamedTuple):
    """What is looked at as one: a program, or a notebook with its cells by number; `text` is what its file would hold."""

    uri: str
    path: str
    text: str
    parts: dict[int | None, TextDocument]


class Look(NamedTuple):
    """The outcome of the last look at something opened, and what it was a look at."""

    text: str
    settings: Settings
    report: FileReport
    memory: Memory


class Server(LanguageServer):
    def __init__(self) -> None:
        notebooks = lsp.NotebookDocumentFilterWithNotebook(notebook="*", cells=[lsp.NotebookCellLanguage("python")])
        super().__init__(
            "clipcheck", __version__, notebook_document_sync=lsp.NotebookDocumentSyncOptions([notebooks], save=True)
        )
        self.looks: dict[str, Look] = {}
        self.waiting: dict[str, asyncio.TimerHandle] = {}

    # --- looking ----------------------------------------------------------------------------------------------------

    def opened(self, uri: str) -> Opened | None:
        """The program or notebook that `uri` is, or is a cell of; None for what is neither."""
        notebook = self.workspace.get_notebook_document(notebook_uri=uri) or (
            self.workspace.get_notebook_document(cell_uri=uri)
        )
        if notebook is not None:
            cells = {n: self.workspace.get_text_document(cell.document) for n, cell in enumerate(notebook.cells, 1)}
            parts: dict[int | None, TextDocument] = {n: c for n, c in cells.items() if c.language_id == "python"}
            return Opened(notebook.uri, _path(notebook.uri, ".ipynb"), _notebook(len(cells), parts), parts)
        text = self.workspace.text_documents.get(unquote(uri))
        if text is None or text.language_id != "python":
            return None
        return Opened(uri, _path(uri, ".py"), text.source, {None: text})

    def look(self, at: Opened) -> FileReport:
        """The findings in what is opened, from the last look if nothing has changed since."""
        settings = self.settings(at.path)
        last = self.looks.get(at.uri)
        if last is not None and (last.text, last.settings) == (at.text, settings):
            return last.report
        memory = last.memory if last is not None else Memory()
        with remembered(memory):
            report = self.run(at, settings)
        self.looks[at.uri] = Look(at.text, settings, report, memory)
        return report

    def run(self, at: Opened, settings: Settings) -> FileReport:
        """One run of the engine; whatever goes wrong in it is told and ends nothing."""
        try:
            report = engine.run_text(at.path, at.text, settings)
        except Exception as error:
            report = FileReport(at.path, b"", errors=(f"{at.path}: {type(error).__name__}: {error}",))
        for line in report.errors:
            self.window_log_message(lsp.LogMessageParams(lsp.MessageType.Error, line))
        return report

    def settings(self, path: str) -> Settings:
        return Settings()

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
        at = self.opened(uri)
        if at is None:
            return
        findings = self.look(at).findings
        for cell, text in at.parts.items():
            diagnostics = [self.diagnostic(at, finding) for finding in findings if finding.place.cell == cell]
            self.text_document_publish_diagnostics(
                lsp.PublishDiagnosticsParams(text.uri, diagnostics, version=text.version)
            )

    def forget(self, uri: str, parts: Sequence[str]) -> None:
        """Take the findings of what was closed off the screen."""
        self.looks.pop(uri, None)
        if uri in self.waiting:
            self.waiting.pop(uri).cancel()
        self.clear(parts)

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
        for finding in self.look(at).findings:
            where = span(at, finding.place)
            if finding.fix is None or at.parts[finding.place.cell].uri != part or not _meet(where, wanted):
                continue
            safe = finding.fix.safety is Safety.SAFE
            yield lsp.CodeAction(
                finding.fix.title if safe else f"{finding.fix.title} (unsafe: training may change)",
                lsp.CodeActionKind.QuickFix,
                [self.diagnostic(at, finding)],
                is_preferred=safe,
                edit=self.workspace_edit(at, finding.changes),
            )

    def fix_all(self, at: Opened) -> lsp.WorkspaceEdit | None:
        """Every safe fix at once, or None where there is none."""
        settings = replace(self.settings(at.path), fix=True, safety=Safety.SAFE)
        report = self.run(at, settings)
        if report.fixed_data is None:
            return None
        after = document.decode(at.path, report.fixed_data)
        return self.workspace_edit(at, tuple(_differences(at, after)))

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
            if finding.code in RULES and at.parts[finding.place.cell].uri == part.uri and _meet(where, here):
                found.setdefault(finding.code, where)
        line = part.lines[position.line] if position.line < len(part.lines) else ""
        for word in _CODE.finditer(line):
            where = _span(part, Place(position.line + 1, word.start() + 1, position.line + 1, word.end() + 1))
            if word.group() in RULES and _meet(where, here):
                found.setdefault(word.group(), where)
        if not found:
            return None
        text = "\n\n---\n\n".join(page(RULES[code]) for code in found)
        return lsp.Hover(lsp.MarkupContent(lsp.MarkupKind.Markdown, text), next(iter(found.values())))


# --- places and texts ---------------------------------------------------------------------------------------------------


class _Text(TextDocument):
    """A text that is cut into lines where the protocol cuts them.

    `str.splitlines`, which pygls uses, also cuts at form feeds and the like: the edits below one would go astray.
    """

    @property
    def lines(self) -> Sequence[str]:
        return _LINE.findall(self.source)


class _Workspace(Workspace):
    def _create_text_document(
        self, doc_uri: str, source: str | None = None, version: int | None = None, language_id: str | None = None
    ) -> TextDocument:
        return _Text(
            doc_uri, source, version, language_id, sync_kind=self._sync_kind, position_codec=self._position_codec
        )


def span(at: Opened, place: Place) -> lsp.Range:
    """A place as the client counts it: from 0, and in the code units that were agreed on."""
    return _span(at.parts[place.cell], place)


def _span(part: TextDocument, place: Place) -> lsp.Range:
    start = ServerTextPosition(place.line - 1, place.column - 1)
    end = ServerTextPosition(place.end_line - 1, place.end_column - 1)
    return part.position_codec.range_to_client_units(part.lines, ServerTextRange(start, end))


def _meet(one: lsp.Range, other: lsp.Range) -> bool:
    return one.start <= other.end and other.start <= one.end


def _path(uri: str, ending: str) -> str:
    """A name for what is opened: its path, and one with the right ending for what is not in a file yet."""
    path = to_fs_path(uri)
    return path if path is not None and uri.startswith("file:") else f"untitled{ending}"


def _notebook(count: int, parts: dict[int | None, TextDocument]) -> str:
    """The notebook's file as it would be saved, as far as clipcheck reads it."""
    empty = {"cell_type": "raw", "metadata": {}, "source": ""}
    cells = [
        {"cell_type": "code", "metadata": {}, "outputs": [], "source": parts[number].source}
        if number in parts
        else empty
        for number in range(1, count + 1)
    ]
    return json.dumps({"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5})


def _differences(at: Opened, after: str) -> Iterator[tuple[Place, str]]:
    """What to change in each part so that the whole becomes `after`: runs of lines, so that cursors stay put."""
    sources = [cell["source"] for cell in json.loads(after)["cells"]] if None not in at.parts else []
    for cell, part in at.parts.items():
        old, new = part.lines, _LINE.findall(after if cell is None else sources[cell - 1])
        for kind, start, end, new_start, new_end in difflib.SequenceMatcher(None, old, new, False).get_opcodes():
            if kind != "equal":
                yield Place(start + 1, 1, end + 1, 1, cell), "".join(new[new_start:new_end])


# --- the protocol -------------------------------------------------------------------------------------------------------


def server() -> Server:
    """A server with everything that it answers to."""
    ls = Server()

    @ls.feature(lsp.INITIALIZE)
    def initialize(params: lsp.InitializeParams) -> None:
        was = ls.workspace
        ls.protocol._workspace = _Workspace(
            was.root_uri, lsp.TextDocumentSyncKind.Incremental, [*was.folders.values()], was.position_encoding
        )

    @ls.feature(lsp.INITIALIZED)
    async def initialized(params: lsp.InitializedParams) -> None:
        capabilities = ls.client_capabilities.workspace
        watching = capabilities and capabilities.did_change_watched_files
        if watching and watching.dynamic_registration:
            watchers = [lsp.FileSystemWatcher(f"**/{name}") for name in CONFIGURATION]
            options = lsp.DidChangeWatchedFilesRegistrationOptions(watchers)
            registration = lsp.Registration("configuration", lsp.WORKSPACE_DID_CHANGE_WATCHED_FILES, options)
            await ls.client_register_capability_async(lsp.RegistrationParams([registration]))

    @ls.feature(lsp.TEXT_DOCUMENT_DID_OPEN)
    @ls.feature(lsp.TEXT_DOCUMENT_DID_CHANGE)
    def changed(params: lsp.DidOpenTextDocumentParams | lsp.DidChangeTextDocumentParams) -> None:
        ls.look_soon(params.text_document.uri)

    @ls.feature(lsp.TEXT_DOCUMENT_DID_CLOSE)
    def closed(params: lsp.DidCloseTextDocumentParams) -> None:
        ls.forget(params.text_document.uri, [params.text_document.uri])

    @ls.feature(lsp.TEXT_DOCUMENT_DID_SAVE)
    def saved(params: lsp.DidSaveTextDocumentParams) -> None:
        if Path(_path(params.text_document.uri, "")).name in CONFIGURATION:
            ls.look_again()

    @ls.feature(lsp.WORKSPACE_DID_CHANGE_WATCHED_FILES)
    @ls.feature(lsp.WORKSPACE_DID_CHANGE_CONFIGURATION)
    def configured(params: object) -> None:
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
        at = ls.opened(uri)
        if at is None:
            return []
        only = params.context.only
        found: list[lsp.CodeAction] = []
        if _asked(lsp.CodeActionKind.QuickFix, only):
            found += ls.quick_fixes(at, params.range, uri)
        kind = next((kind for kind in (FIX_ALL, FIX_ALL_CELLS) if _asked(kind, only)), None)
        if kind is not None and (edit := ls.fix_all(at)) is not None:
            found.append(lsp.CodeAction("Apply all safe fixes of clipcheck", kind, edit=edit))
        return found

    @ls.feature(lsp.TEXT_DOCUMENT_HOVER)
    def hover(params: lsp.HoverParams) -> lsp.Hover | None:
        uri = params.text_document.uri
        at = ls.opened(uri)
        return None if at is None else ls.page_at(at, ls.workspace.get_text_document(uri), params.position)

    return ls


def _asked(kind: str, only: Sequence[str] | None) -> bool:
    return only is None or any(kind == one or kind.startswith(f"{one}.") for one in only)


def main() -> None:
    """Serve on standard input and output until the client says goodbye or goes away."""
    server().start_io()
