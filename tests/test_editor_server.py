"""The language server in process: what it schedules, publishes, shows once, and answers."""

from __future__ import annotations

import asyncio
import gc
import io
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest

pytest.importorskip("pygls", reason="needs the extra clipcheck[lsp]")

from lsprotocol import types as lsp
from pygls.exceptions import JsonRpcInternalError, JsonRpcInvalidParams, PyglsError
from pygls.lsp.server import LanguageServer

from clipcheck.editor import looks, server, texts
from clipcheck.editor.server import DELAY, FIX_ALL, FIX_ALL_CELLS, PAUSE, Server
from clipcheck.editor.wire import Messages
from clipcheck.engine.results import FileReport
from clipcheck.settings.keys import ConfigError, Settings

CALL = "torch.nn.utils.clip_grad_norm(model.parameters(), 1.0)"
BAD = f"import torch\n{CALL}\n"
UNSAFE = f"import torch\nfrom torch.distributed.fsdp import FullyShardedDataParallel\n{CALL}\n"
QUICK = lsp.CodeActionKind.QuickFix


class Timer:
    def __init__(self, delay: float, call: Callable[..., object], arguments: tuple[Any, ...]) -> None:
        self.delay, self.call, self.arguments, self.cancelled = delay, call, arguments, False

    def cancel(self) -> None:
        self.cancelled = True


class Loop:
    """An event loop whose timers end when they are told to."""

    def __init__(self) -> None:
        self.timers: list[Timer] = []

    def call_later(self, delay: float, call: Callable[..., object], *arguments: Any) -> Timer:
        self.timers.append(Timer(delay, call, arguments))
        return self.timers[-1]

    def waiting(self) -> list[float]:
        return [timer.delay for timer in self.timers if not timer.cancelled]

    def pause(self) -> None:
        """No key is pressed for a while."""
        due = [timer for timer in self.timers if not timer.cancelled and timer.delay == DELAY]
        self.timers = [timer for timer in self.timers if timer not in due]
        for timer in due:
            timer.call(*timer.arguments)


class Session(NamedTuple):
    ls: Server
    loop: Loop
    published: list[tuple[str, int | None, list[Any]]]
    shown: list[str]
    logged: list[tuple[lsp.MessageType, str]]
    folder: Path

    def uri(self, name: str) -> str:
        return (self.folder / name).as_uri()

    def open(self, name: str, text: str, version: int = 1, language: str = "python") -> str:
        uri = name if ":" in name else self.uri(name)
        item = lsp.TextDocumentItem(uri, language, version, text)
        self.ls.workspace.put_text_document(item)
        server.changed(self.ls, lsp.DidOpenTextDocumentParams(item))
        return uri

    def said(self) -> list[tuple[str, int | None, list[Any]]]:
        found = [*self.published]
        self.published.clear()
        return found

    def actions(self, uri: str, line: int = 1, only: list[str] | None = None) -> list[lsp.CodeAction]:
        where = lsp.Range(lsp.Position(line, 0), lsp.Position(line, 1))
        context = lsp.CodeActionContext([], only=only)
        return server.actions(self.ls, lsp.CodeActionParams(lsp.TextDocumentIdentifier(uri), where, context))


@pytest.fixture
def session(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Session:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    one = Session(server.server(), Loop(), [], [], [], tmp_path)

    def publish(params: lsp.PublishDiagnosticsParams) -> None:
        one.published.append((params.uri, params.version, [found.code for found in params.diagnostics]))

    monkeypatch.setattr(server.asyncio, "get_running_loop", lambda: one.loop)
    monkeypatch.setitem(one.ls.protocol.__dict__, "workspace", texts._Texts(None))
    monkeypatch.setattr(one.ls, "text_document_publish_diagnostics", publish)
    monkeypatch.setattr(one.ls, "window_show_message", lambda params: one.shown.append(params.message))
    monkeypatch.setattr(one.ls, "window_log_message", lambda params: one.logged.append((params.type, params.message)))
    capable(monkeypatch, True)
    return one


def capable(monkeypatch: pytest.MonkeyPatch, versions: bool | None, dynamic: bool | None = None) -> None:
    """A client that applies edits to one version of a document, and registers what is watched; None if it says nothing."""
    edit = None if versions is None else lsp.WorkspaceEditClientCapabilities(document_changes=versions)
    watched = None if dynamic is None else lsp.DidChangeWatchedFilesClientCapabilities(dynamic_registration=dynamic)
    workspace = lsp.WorkspaceClientCapabilities(workspace_edit=edit, did_change_watched_files=watched)
    monkeypatch.setattr(Server, "client_capabilities", lsp.ClientCapabilities(workspace=workspace))


# --- when what is checked ---------------------------------------------------------------------------------------------


def test_findings_are_published_once_after_the_last_key(session: Session) -> None:
    uri = session.open("a.py", "import torch\n")
    session.open("a.py", BAD, 2)
    assert (session.loop.waiting(), session.said()) == ([DELAY], [])
    session.loop.pause()
    assert session.said() == [(uri, 2, ["CLIP002"])]
    assert session.ls.waiting == {} and session.loop.waiting() == [PAUSE]
    session.open("a.py", "import torch\n", 3)
    session.loop.pause()
    assert session.said() == [(uri, 3, [])]
    (tidying,) = [timer for timer in session.loop.timers if not timer.cancelled]
    assert (tidying.delay, tidying.call) == (PAUSE, gc.collect)


def test_each_document_has_its_own_timer(session: Session) -> None:
    one, other = session.open("a.py", BAD), session.open("b.py", BAD)
    session.loop.pause()
    assert session.said() == [(one, 1, ["CLIP002"]), (other, 1, ["CLIP002"])]


def test_a_closed_document_is_not_checked_and_its_findings_are_cleared(session: Session) -> None:
    uri = session.open("a.py", BAD)
    session.loop.pause()
    session.said()
    session.open("a.py", BAD, 2)
    server.closed(session.ls, lsp.DidCloseTextDocumentParams(lsp.TextDocumentIdentifier(uri)))
    session.loop.pause()
    assert session.said() == [(uri, None, [])]
    assert session.ls.waiting == {} == session.ls.looks
    server.closed(session.ls, lsp.DidCloseTextDocumentParams(lsp.TextDocumentIdentifier(uri)))  # without a timer


def test_a_document_that_is_gone_or_of_another_language_is_not_published(session: Session) -> None:
    session.open("a.rs", BAD, language="rust")
    session.open("b.py", BAD)
    session.ls.workspace.text_documents.clear()
    session.loop.pause()
    assert session.said() == []


@pytest.mark.parametrize(
    ("name", "checks"),
    [
        ("clipcheck.toml", True),
        (".clipcheck.toml", True),
        ("pyproject.toml", True),
        ("train.py", False),
        ("my-clipcheck.toml", False),
    ],
)
def test_documents_are_checked_again_when_settings_are_saved(name: str, checks: bool, session: Session) -> None:
    uri = session.open("a.py", BAD)
    session.loop.pause()
    session.said()
    server.saved(session.ls, lsp.DidSaveTextDocumentParams(lsp.TextDocumentIdentifier(session.uri(name))))
    session.loop.pause()
    assert session.said() == ([(uri, 1, ["CLIP002"])] if checks else [])


def test_nothing_is_left_to_do_after_the_shutdown(session: Session) -> None:
    session.open("a.py", BAD)
    session.loop.pause()
    session.open("b.py", BAD)
    assert session.loop.waiting() == [PAUSE, DELAY]
    server.leave(session.ls, None)
    assert session.loop.waiting() == []
    server.leave(server.server(), None)  # without a timer


def a_notebook(session: Session) -> str:
    """A notebook with three cells: code, prose and code."""
    sources = (("import torch\n", "python"), ("prose", "markdown"), (CALL, "python"))
    listed = [lsp.NotebookCell(lsp.NotebookCellKind.Code, f"cell:{n}") for n in range(3)]
    items = [lsp.TextDocumentItem(f"cell:{n}", language, n, text) for n, (text, language) in enumerate(sources)]
    notebook = lsp.NotebookDocument("file:///n.ipynb", "jupyter-notebook", 1, listed)
    params = lsp.DidOpenNotebookDocumentParams(notebook, items)
    session.ls.workspace.put_notebook_document(params)
    server.notebook_opened(session.ls, params)
    return notebook.uri


def test_the_cells_of_a_notebook_are_checked_together(session: Session) -> None:
    uri = a_notebook(session)
    session.ls.look_soon("cell:2")
    assert session.loop.waiting() == [DELAY]
    session.loop.pause()
    assert session.said() == [("cell:0", 0, []), ("cell:2", 2, ["CLIP002"])]
    assert [*session.ls.looks] == [uri]


def test_cells_that_are_gone_have_no_findings(session: Session) -> None:
    uri = a_notebook(session)
    session.loop.pause()
    session.said()
    known = lsp.VersionedNotebookDocumentIdentifier(2, uri)
    array = lsp.NotebookCellArrayChange(2, 1)

    def changed(cells: lsp.NotebookDocumentCellChanges | None) -> list[Any]:
        server.notebook_changed(
            session.ls, lsp.DidChangeNotebookDocumentParams(known, lsp.NotebookDocumentChangeEvent(cells=cells))
        )
        assert session.loop.waiting() == [PAUSE, DELAY]
        session.loop.timers.pop()
        session.ls.waiting.clear()
        return session.said()

    gone = lsp.NotebookDocumentCellChangeStructure(array, did_close=[lsp.TextDocumentIdentifier("cell:2")])
    assert changed(lsp.NotebookDocumentCellChanges(structure=gone)) == [("cell:2", None, [])]
    added = lsp.NotebookDocumentCellChangeStructure(array)
    assert changed(lsp.NotebookDocumentCellChanges(structure=added)) == []
    assert changed(lsp.NotebookDocumentCellChanges()) == changed(None) == []


def test_a_closed_notebook_has_no_findings(session: Session) -> None:
    uri = a_notebook(session)
    session.loop.pause()
    session.said()
    closed = lsp.DidCloseNotebookDocumentParams(
        lsp.NotebookDocumentIdentifier(uri),
        [lsp.TextDocumentIdentifier("cell:0"), lsp.TextDocumentIdentifier("cell:2")],
    )
    server.notebook_closed(session.ls, closed)
    assert session.said() == [("cell:0", None, []), ("cell:2", None, [])]
    assert session.ls.looks == {}


# --- what is shown ----------------------------------------------------------------------------------------------------


def test_an_error_in_the_settings_is_shown_once(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    errors = iter(("one", "one", "two"))

    def broken(path: str) -> Settings:
        raise ConfigError(next(errors))

    monkeypatch.setattr(server, "settings_of", broken)
    assert [session.ls.settings("a.py") for _ in range(3)] == [Settings()] * 3
    assert session.shown == ["clipcheck: one", "clipcheck: two"]


def test_errors_and_warnings_are_logged_once_per_check(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    report = FileReport("a.py", b"", errors=("broken",), warnings=("odd",))
    monkeypatch.setattr(looks, "check_text", lambda *_: report)
    uri = session.open("a.py", BAD)
    session.loop.pause()
    said = [(lsp.MessageType.Error, "broken"), (lsp.MessageType.Warning, "odd")]
    assert session.logged == said
    session.actions(uri, only=[QUICK])  # nothing has changed since
    assert session.logged == said
    session.actions(uri, only=[FIX_ALL])
    assert session.logged == said * 2


@pytest.mark.parametrize(
    ("text", "requirements", "shown"),
    [
        (BAD, "torch\n", 1),
        (BAD, "clipcheck\n", 0),
        (f"import clipcheck.runtime\n{BAD}", "torch\n", 0),
        ("import torch\n", "torch\n", 0),
    ],
)
def test_a_dependency_that_fixes_bring_is_noted_once(
    text: str, requirements: str, shown: int, session: Session
) -> None:
    (session.folder / "requirements.txt").write_text(requirements, encoding="utf-8")
    for name in ("a.py", "b.py"):
        session.actions(session.open(name, text), line=text.count("\n") - 1)
    assert len(session.shown) == shown
    assert all("`clipcheck.runtime`" in line for line in session.shown)


def test_a_note_waits_for_an_offer(session: Session) -> None:
    uri = session.open("a.py", BAD)
    session.loop.pause()
    session.actions(uri, only=["refactor"])
    session.actions(uri, line=0, only=[QUICK])
    assert session.shown == []


def test_an_error_that_cannot_be_told_to_the_client_is_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []
    monkeypatch.setattr(LanguageServer, "report_server_error", lambda self, error, source: told.append((error, source)))
    error = ValueError("x")
    for source in (JsonRpcInternalError, JsonRpcInvalidParams, PyglsError):
        server.server().report_server_error(error, source)
    assert told == [(error, JsonRpcInvalidParams), (error, PyglsError)]


# --- answers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("only", "kinds"),
    [
        (None, [QUICK, QUICK, FIX_ALL]),
        ([], []),
        ([QUICK], [QUICK, QUICK]),
        (["source"], [FIX_ALL]),
        (["source.fixAll"], [FIX_ALL]),
        ([FIX_ALL], [FIX_ALL]),
        ([FIX_ALL_CELLS], [FIX_ALL_CELLS]),
        (["notebook"], [FIX_ALL_CELLS]),
        (["source.fixAl"], []),
        (["refactor", "quickfix"], [QUICK, QUICK]),
        ([f"{FIX_ALL}.more"], []),
    ],
)
def test_only_the_kinds_of_actions_that_are_asked_for(
    only: list[str] | None, kinds: list[str], session: Session
) -> None:
    uri = session.open("a.py", BAD)
    assert [action.kind for action in session.actions(uri, only=only)] == kinds


def test_safe_fixes_are_applied_at_once_and_unsafe_ones_one_by_one(session: Session) -> None:
    (every,) = session.actions(session.open("a.py", BAD), only=[FIX_ALL])
    assert every.title == "Apply all safe fixes (clipcheck)" and every.edit is not None
    uri = session.open("b.py", UNSAFE)
    assert session.actions(uri, only=[FIX_ALL]) == []
    assert [action.is_preferred for action in session.actions(uri, 2, only=[QUICK])] == [False, None]
    (session.folder / "clipcheck.toml").write_text("unsafe-fixes = true\n", encoding="utf-8")
    assert session.actions(uri, only=[FIX_ALL]) == []


@pytest.mark.parametrize(("versions", "versioned"), [(True, True), (False, False), (None, False)])
def test_edits_are_of_one_version_if_the_client_knows_them(
    versions: bool | None, versioned: bool, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    capable(monkeypatch, versions)
    assert session.ls.versioned is versioned
    found = session.actions(session.open("a.py", BAD))
    assert [bool(action.edit and action.edit.document_changes) for action in found] == [versioned] * 3
    monkeypatch.setattr(Server, "client_capabilities", lsp.ClientCapabilities())
    assert session.ls.versioned is False


def test_what_is_not_checked_has_no_answers(session: Session) -> None:
    uri = session.open("a.rs", BAD, language="rust")
    position = lsp.HoverParams(lsp.TextDocumentIdentifier(uri), lsp.Position(1, 1))
    assert session.actions(uri) == [] and server.hover(session.ls, position) is None
    missing = lsp.HoverParams(lsp.TextDocumentIdentifier("file:///missing.py"), lsp.Position(0, 0))
    assert server.hover(session.ls, missing) is None


def test_a_page_is_shown_on_hover(session: Session) -> None:
    uri = session.open("a.py", BAD)
    found = server.hover(session.ls, lsp.HoverParams(lsp.TextDocumentIdentifier(uri), lsp.Position(1, 1)))
    assert found is not None and isinstance(found.contents, lsp.MarkupContent)
    assert found.contents.value.startswith("# CLIP002")


# --- start ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dynamic", "registered"), [(True, 1), (False, 0), (None, 0)])
def test_settings_files_are_watched_if_the_client_can(
    dynamic: bool | None, registered: int, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[lsp.RegistrationParams] = []

    async def register(params: lsp.RegistrationParams) -> None:
        asked.append(params)

    capable(monkeypatch, True, dynamic)
    monkeypatch.setattr(session.ls, "client_register_capability_async", register)
    asyncio.run(server.initialized(session.ls, lsp.InitializedParams()))
    assert len(asked) == registered
    for (one,) in (params.registrations for params in asked):
        options: Any = one.register_options
        assert one.method == "workspace/didChangeWatchedFiles"
        patterns = [watcher.glob_pattern for watcher in options.watchers]
        assert patterns == ["**/.clipcheck.toml", "**/clipcheck.toml", "**/pyproject.toml"]
    monkeypatch.setattr(Server, "client_capabilities", lsp.ClientCapabilities())
    asyncio.run(server.initialized(session.ls, lsp.InitializedParams()))
    assert len(asked) == registered


def test_what_the_server_says_of_itself() -> None:
    ls = server.server()
    assert ls.name == "clipcheck"
    sync: Any = ls._notebook_document_sync
    (selected,) = sync.notebook_selector
    assert (sync.save, selected.notebook, [cell.language for cell in selected.cells]) == (True, "*", ["python"])
    offered: Any = ls.protocol.fm.feature_options[lsp.TEXT_DOCUMENT_CODE_ACTION]
    assert offered.code_action_kinds == ["quickfix", "source.fixAll.clipcheck", "notebook.source.fixAll.clipcheck"]


def test_the_server_reads_messages_from_stdin(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[Any] = []
    monkeypatch.setattr(server, "collect_less", lambda: done.append("collect less"))
    monkeypatch.setattr(Server, "start_io", lambda self, stream: done.append(stream))
    stream = io.BytesIO()
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=stream))
    root = logging.getLogger()
    before = [*root.handlers]
    try:
        server.main()
        (added,) = (handler for handler in root.handlers if handler not in before)
        assert isinstance(added, logging.NullHandler)
    finally:
        root.handlers[:] = before
    assert done == ["collect less", Messages(stream)]
