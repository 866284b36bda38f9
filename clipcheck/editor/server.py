"""The language server: checks open documents after the last key, and answers the client's requests."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import BinaryIO, cast

from lsprotocol import types as lsp
from pygls.exceptions import JsonRpcException, JsonRpcInternalError, PyglsError
from pygls.lsp.server import LanguageServer

from clipcheck import __version__
from clipcheck.documents.read import decode
from clipcheck.editor.answers import diagnostic, page_at, quick_fixes, workspace_edit
from clipcheck.editor.looks import Look, look, run, settings_of
from clipcheck.editor.opened import Opened, differences, opened, text_at
from clipcheck.editor.texts import Protocol
from clipcheck.editor.wire import Messages
from clipcheck.engine.results import FileReport
from clipcheck.engine.workers import collect_less
from clipcheck.rule import RUNTIME, Safety
from clipcheck.settings.dependencies import NOTE, declares_clipcheck
from clipcheck.settings.files import FILES
from clipcheck.settings.keys import Settings

# Seconds without a keystroke after which the whole text is checked. Keys of one word come 0.1 to 0.2 s apart.
DELAY = 0.1
# Seconds without a keystroke after which dead cycles are collected: during typing that would take as long as an answer.
PAUSE = 2.0
FIX_ALL = "source.fixAll.clipcheck"
FIX_ALL_CELLS = "notebook.source.fixAll.clipcheck"


class Server(LanguageServer):
    """The last result for each open document, by name, and what is scheduled for it."""

    def __init__(self) -> None:
        notebooks = lsp.NotebookDocumentFilterWithNotebook(notebook="*", cells=[lsp.NotebookCellLanguage("python")])
        super().__init__(
            "clipcheck",
            __version__,
            notebook_document_sync=lsp.NotebookDocumentSyncOptions([notebooks], save=True),
            protocol_cls=Protocol,
        )
        self.looks: dict[str, Look] = {}
        self.waiting: dict[str, asyncio.TimerHandle] = {}
        self.tidying: asyncio.TimerHandle | None = None
        self.shown_error = ""
        self.noted = False  # that fixes need clipcheck as a dependency

    # --- checking ---------------------------------------------------------------------------------------------------

    def look(self, at: Opened) -> FileReport:
        """The findings in an open document, with which all answers begin."""
        last = self.looks.get(at.uri)
        new = self.looks[at.uri] = look(at, self.settings(at.path), last)
        if new is not last:
            self.log(new.report)
        return new.report

    def settings(self, path: str) -> Settings:
        """The settings of a file; an error in them is shown once, not at every keystroke."""
        try:
            return settings_of(path)
        except Exception as error:  # mostly ConfigError
            if self.shown_error != str(error):
                self.shown_error = str(error)
                self.window_show_message(lsp.ShowMessageParams(lsp.MessageType.Error, f"clipcheck: {error}"))
            return Settings()

    def note(self, at: Opened) -> None:
        """Say once what fixes make the project depend on, when they are offered."""
        written = (text for finding in self.look(at).findings for _, text in finding.changes)
        if self.noted or RUNTIME in at.text or not any(RUNTIME in text for text in written):
            return
        if not declares_clipcheck(os.path.dirname(os.path.abspath(at.path))):
            self.noted = True
            self.window_show_message(lsp.ShowMessageParams(lsp.MessageType.Info, f"clipcheck: {NOTE}"))

    def log(self, report: FileReport) -> None:
        for kind, lines in ((lsp.MessageType.Error, report.errors), (lsp.MessageType.Warning, report.warnings)):
            for line in lines:
                self.window_log_message(lsp.LogMessageParams(kind, line))

    def look_soon(self, uri: str) -> None:
        """Publish the findings when no key has been pressed for a while."""
        notebook = self.workspace.get_notebook_document(cell_uri=uri)
        uri = uri if notebook is None else notebook.uri
        if uri in self.waiting:
            self.waiting[uri].cancel()
        self.waiting[uri] = asyncio.get_running_loop().call_later(DELAY, self.publish, uri)

    def publish(self, uri: str) -> None:
        self.waiting.pop(uri, None)
        at = opened(self.workspace, uri)
        if at is None:
            return
        findings = self.look(at).findings
        for cell, text in at.parts.items():
            diagnostics = [diagnostic(at, finding) for finding in findings if finding.place.cell == cell]
            self.text_document_publish_diagnostics(
                lsp.PublishDiagnosticsParams(text.uri, diagnostics, version=text.version)
            )
        if self.tidying is not None:
            self.tidying.cancel()
        self.tidying = asyncio.get_running_loop().call_later(PAUSE, gc.collect)

    def forget(self, uri: str, parts: Sequence[str]) -> None:
        """Clear the findings of a closed document."""
        self.looks.pop(uri, None)
        if uri in self.waiting:
            self.waiting.pop(uri).cancel()
        self.clear(parts)

    def clear(self, parts: Sequence[str]) -> None:
        for part in parts:
            self.text_document_publish_diagnostics(lsp.PublishDiagnosticsParams(part, []))

    def rest(self) -> None:
        """Start nothing more: after the shutdown nobody reads what is written."""
        for timer in (*self.waiting.values(), *([self.tidying] if self.tidying else [])):
            timer.cancel()

    def report_server_error(self, error: Exception, source: type[PyglsError] | type[JsonRpcException]) -> None:
        """Report an error to the client, unless the error is that the client cannot be reached: that would never end."""
        if source is not JsonRpcInternalError:
            super().report_server_error(error, source)

    # --- answers ----------------------------------------------------------------------------------------------------

    @property
    def versioned(self) -> bool:
        """Whether the client applies edits to one version of a document only."""
        workspace = self.client_capabilities.workspace
        return bool(workspace and workspace.workspace_edit and workspace.workspace_edit.document_changes)

    def fix_all(self, at: Opened) -> lsp.WorkspaceEdit | None:
        """Every safe fix at once, or None if there are none."""
        # unsafe ones are asked for one by one
        report = run(at, replace(self.settings(at.path), fix=True, safety=Safety.SAFE))
        self.log(report)
        if report.fixed_data is None:
            return None
        return workspace_edit(at, tuple(differences(at, decode(at.path, report.fixed_data))), self.versioned)


# --- notifications and requests --------------------------------------------------------------------------------------


async def initialized(ls: Server, params: lsp.InitializedParams) -> None:
    capabilities = ls.client_capabilities.workspace
    watching = capabilities and capabilities.did_change_watched_files
    if watching and watching.dynamic_registration:
        watchers = [lsp.FileSystemWatcher(f"**/{name}") for name in FILES]
        options = lsp.DidChangeWatchedFilesRegistrationOptions(watchers)
        registration = lsp.Registration("configuration", lsp.WORKSPACE_DID_CHANGE_WATCHED_FILES, options)
        await ls.client_register_capability_async(lsp.RegistrationParams([registration]))


def leave(ls: Server, params: None) -> None:
    ls.rest()


def changed(ls: Server, params: lsp.DidOpenTextDocumentParams | lsp.DidChangeTextDocumentParams) -> None:
    ls.look_soon(params.text_document.uri)


def closed(ls: Server, params: lsp.DidCloseTextDocumentParams) -> None:
    ls.forget(params.text_document.uri, [params.text_document.uri])


def saved(ls: Server, params: lsp.DidSaveTextDocumentParams) -> None:
    if params.text_document.uri.rpartition("/")[2] in FILES:
        settings_changed(ls, params)


def settings_changed(ls: Server, params: object) -> None:
    for uri in [*ls.looks]:
        ls.look_soon(uri)


def notebook_opened(ls: Server, params: lsp.DidOpenNotebookDocumentParams) -> None:
    ls.look_soon(params.notebook_document.uri)


def notebook_changed(ls: Server, params: lsp.DidChangeNotebookDocumentParams) -> None:
    cells = params.change.cells
    if cells and cells.structure:
        ls.clear([cell.uri for cell in cells.structure.did_close or ()])
    ls.look_soon(params.notebook_document.uri)


def notebook_closed(ls: Server, params: lsp.DidCloseNotebookDocumentParams) -> None:
    ls.forget(params.notebook_document.uri, [cell.uri for cell in params.cell_text_documents])


def actions(ls: Server, params: lsp.CodeActionParams) -> list[lsp.CodeAction]:
    at = opened(ls.workspace, params.text_document.uri)
    if at is None:
        return []
    only = params.context.only
    found: list[lsp.CodeAction] = []
    if _asked(lsp.CodeActionKind.QuickFix, only):
        found += quick_fixes(at, ls.look(at), params, ls.versioned)
    kind = next((kind for kind in (FIX_ALL, FIX_ALL_CELLS) if _asked(kind, only)), None)
    if kind is not None and (edit := ls.fix_all(at)) is not None:
        found.append(lsp.CodeAction("Apply all safe fixes (clipcheck)", kind, edit=edit))
    if found:
        ls.note(at)
    return found


def _asked(kind: str, only: Sequence[str] | None) -> bool:
    return only is None or any(kind == one or kind.startswith(f"{one}.") for one in only)


def hover(ls: Server, params: lsp.HoverParams) -> lsp.Hover | None:
    uri = params.text_document.uri
    at, part = opened(ls.workspace, uri), text_at(ls.workspace, uri)
    return None if at is None or part is None else page_at(at, ls.look(at), part, params.position)


HANDLERS: dict[str, Callable[..., object]] = {
    lsp.INITIALIZED: initialized,
    lsp.SHUTDOWN: leave,
    lsp.EXIT: leave,
    lsp.TEXT_DOCUMENT_DID_OPEN: changed,
    lsp.TEXT_DOCUMENT_DID_CHANGE: changed,
    lsp.TEXT_DOCUMENT_DID_CLOSE: closed,
    lsp.TEXT_DOCUMENT_DID_SAVE: saved,
    lsp.WORKSPACE_DID_CHANGE_WATCHED_FILES: settings_changed,
    lsp.WORKSPACE_DID_CHANGE_CONFIGURATION: settings_changed,
    lsp.NOTEBOOK_DOCUMENT_DID_OPEN: notebook_opened,
    lsp.NOTEBOOK_DOCUMENT_DID_CHANGE: notebook_changed,
    lsp.NOTEBOOK_DOCUMENT_DID_CLOSE: notebook_closed,
    lsp.TEXT_DOCUMENT_CODE_ACTION: actions,
    lsp.TEXT_DOCUMENT_HOVER: hover,
}
OPTIONS = {lsp.TEXT_DOCUMENT_CODE_ACTION: lsp.CodeActionOptions([lsp.CodeActionKind.QuickFix, FIX_ALL, FIX_ALL_CELLS])}


def server() -> Server:
    """A server with all its handlers."""
    ls = Server()
    for name, handler in HANDLERS.items():
        ls.feature(name, OPTIONS.get(name))(handler)
    return ls


def main() -> None:
    """Serve on standard input and output until the client shuts it down or disappears."""
    collect_less()
    # errors are reported to the client; tracebacks on stderr would fill a pipe that nobody reads, and block the server
    logging.getLogger().addHandler(logging.NullHandler())
    server().start_io(cast("BinaryIO", Messages(sys.stdin.buffer)))
