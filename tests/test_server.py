"""The language server, driven by a real client over the server's standard input and output."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from conftest import PROJECT
from lsprotocol import types as lsp
from pygls.lsp.client import LanguageClient

from clipcheck.editor.server import server
from clipcheck.editor.texts import Text

BEFORE = """\
import torch


def clip(model):
    return torch.nn.utils.clip_grad_norm(model.parameters(), 1.0)
"""
AFTER = """\
from clipcheck.runtime import clip_grad_norm_


def clip(model):
    return clip_grad_norm_(model.parameters(), 1.0)
"""
# The longest wait for an answer, which usually takes milliseconds.
PATIENCE = 20.0
SERVER = ("-m", "clipcheck", "server")


class Editor(LanguageClient):
    """A client that stores what the server sends, as an editor does."""

    def __init__(self) -> None:
        super().__init__("editor", "1")
        self.diagnostics: dict[str, lsp.PublishDiagnosticsParams] = {}
        self.logged: list[str] = []
        self.shown: list[str] = []
        self.registered: list[str] = []
        self.news = asyncio.Event()

    async def until(self, uri: str, version: int | None) -> list[lsp.Diagnostic]:
        """The diagnostics for this version of a document."""

        async def wait() -> list[lsp.Diagnostic]:
            while (said := self.diagnostics.get(uri)) is None or said.version != version:
                self.news.clear()
                await self.news.wait()
            return list(said.diagnostics)

        return await asyncio.wait_for(wait(), PATIENCE)

    async def logs(self) -> str:
        async def wait() -> str:
            while not self.logged:
                self.news.clear()
                await self.news.wait()
            return self.logged[-1]

        return await asyncio.wait_for(wait(), PATIENCE)

    def open(self, uri: str, text: str, version: int = 1, language: str = "python") -> None:
        item = lsp.TextDocumentItem(uri, language, version, text)
        self.text_document_did_open(lsp.DidOpenTextDocumentParams(item))

    def change(self, uri: str, version: int, *changes: lsp.TextDocumentContentChangeEvent) -> None:
        document = lsp.VersionedTextDocumentIdentifier(version, uri)
        self.text_document_did_change(lsp.DidChangeTextDocumentParams(document, changes))

    async def actions(
        self, uri: str, line: int, only: Sequence[str] | None = None, columns: tuple[int, int] = (0, 80)
    ) -> list[lsp.CodeAction]:
        where = span(line, columns[0], line, columns[1])
        params = lsp.CodeActionParams(lsp.TextDocumentIdentifier(uri), where, lsp.CodeActionContext([], only=only))
        found = await asyncio.wait_for(self.text_document_code_action_async(params), PATIENCE)
        return [action for action in found or () if isinstance(action, lsp.CodeAction)]

    async def hover(self, uri: str, line: int, character: int) -> str:
        params = lsp.HoverParams(lsp.TextDocumentIdentifier(uri), lsp.Position(line, character))
        found = await asyncio.wait_for(self.text_document_hover_async(params), PATIENCE)
        assert found is None or isinstance(found.contents, lsp.MarkupContent)
        return "" if found is None else found.contents.value


def editor() -> Editor:
    client = Editor()

    @client.feature(lsp.TEXT_DOCUMENT_PUBLISH_DIAGNOSTICS)
    def published(params: lsp.PublishDiagnosticsParams) -> None:
        client.diagnostics[params.uri] = params
        client.news.set()

    @client.feature(lsp.WINDOW_LOG_MESSAGE)
    def logged(params: lsp.LogMessageParams) -> None:
        client.logged.append(params.message)
        client.news.set()

    @client.feature(lsp.WINDOW_SHOW_MESSAGE)
    def shown(params: lsp.ShowMessageParams) -> None:
        client.shown.append(params.message)
        client.news.set()

    @client.feature(lsp.CLIENT_REGISTER_CAPABILITY)
    def registered(params: lsp.RegistrationParams) -> None:
        client.registered += [one.method for one in params.registrations]
        client.news.set()

    return client


@asynccontextmanager
async def session(
    command: Sequence[str] = SERVER,
    folder: Path = PROJECT,
    encodings: Sequence[lsp.PositionEncodingKind] = (),
    document_changes: bool = True,
) -> AsyncIterator[Editor]:
    client = editor()
    await client.start_io(sys.executable, *command, cwd=folder)
    capabilities = lsp.ClientCapabilities(
        general=lsp.GeneralClientCapabilities(position_encodings=encodings or None),
        workspace=lsp.WorkspaceClientCapabilities(
            workspace_edit=lsp.WorkspaceEditClientCapabilities(document_changes=document_changes),
            did_change_watched_files=lsp.DidChangeWatchedFilesClientCapabilities(dynamic_registration=True),
        ),
    )
    await asyncio.wait_for(
        client.initialize_async(lsp.InitializeParams(capabilities, root_uri=folder.as_uri())), PATIENCE
    )
    client.initialized(lsp.InitializedParams())
    server: Any = client._server
    try:
        yield client
        await asyncio.wait_for(client.shutdown_async(None), PATIENCE)
        client.exit(None)
        assert await asyncio.wait_for(server.wait(), PATIENCE) == 0
    finally:
        if server.returncode is None:
            server.kill()
        await asyncio.wait_for(client.stop(), PATIENCE)


def span(line: int, character: int, end_line: int, end_character: int) -> lsp.Range:
    return lsp.Range(lsp.Position(line, character), lsp.Position(end_line, end_character))


def typed(line: int, character: int, text: str, deleted: int = 0) -> lsp.TextDocumentContentChangePartial:
    return lsp.TextDocumentContentChangePartial(span(line, character, line, character + deleted), text)


def applied(text: str, edit: lsp.WorkspaceEdit | None, uri: str) -> str:
    """The text after an editor has applied an edit; columns are code points, since the texts here are ASCII."""
    assert edit is not None
    edits: list[lsp.TextEdit] = []
    for change in edit.document_changes or ():
        assert isinstance(change, lsp.TextDocumentEdit)
        if change.text_document.uri == uri:
            edits += [one for one in change.edits if isinstance(one, lsp.TextEdit)]
    edits += (edit.changes or {}).get(uri, [])
    starts = [0]
    for line in text.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))

    def at(position: lsp.Position) -> int:
        return starts[position.line] + position.character

    for one in sorted(edits, key=lambda one: at(one.range.start), reverse=True):
        text = text[: at(one.range.start)] + one.new_text + text[at(one.range.end) :]
    return text


URI = "file:///project/train%20me.py"


def test_findings_follow_keystrokes() -> None:
    async def run() -> None:
        async with session() as client:
            client.open(URI, BEFORE)
            (found,) = await client.until(URI, 1)
            assert (found.code, found.source, found.severity) == ("CLIP002", "clipcheck", 2)
            assert found.range == span(4, 11, 4, 40)
            assert "alias" in found.message

            client.change(URI, 2, typed(4, 40, "_"))
            assert await client.until(URI, 2) == []

            client.change(URI, 3, typed(4, 40, "", 1), typed(0, 0, "# a comment\n"))
            (found,) = await client.until(URI, 3)
            assert found.range == span(5, 11, 5, 40)

            client.change(URI, 4, lsp.TextDocumentContentChangeWholeDocument("x = 1\n"))
            assert await client.until(URI, 4) == []

            client.change(URI, 5, lsp.TextDocumentContentChangeWholeDocument(BEFORE))
            assert len(await client.until(URI, 5)) == 1
            client.text_document_did_close(lsp.DidCloseTextDocumentParams(lsp.TextDocumentIdentifier(URI)))
            assert await client.until(URI, None) == []

    asyncio.run(run())


def test_a_half_typed_line_does_not_stop_the_analysis() -> None:
    async def run() -> None:
        async with session() as client:
            client.open(URI, BEFORE + "x = (\n")
            assert "invalid-syntax" in [one.code for one in await client.until(URI, 1)]
            client.change(URI, 2, typed(5, 5, ")"))
            assert [one.code for one in await client.until(URI, 2)] == ["CLIP002"]

    asyncio.run(run())


@pytest.mark.parametrize(
    ("line", "text"),
    [
        (8, "("),
        (8, " ="),
        (8, "."),
        (7, "("),
        (9, "x = '"),
        (9, "if x"),
        (9, "    for y in"),
        (6, "@"),
        (0, "("),
        (3, " x = [1,"),
    ],
)
def test_a_half_typed_line_hides_no_other_finding(line: int, text: str) -> None:
    program = BEFORE + "\n\ndef forward(x):\n    return x\n\n\n" + BEFORE.partition("\n")[2]

    async def run() -> None:
        async with session() as client:
            client.open(URI, program)
            whole = await client.until(URI, 1)
            assert [one.range.start.line for one in whole] == [4, 14]
            client.change(URI, 2, typed(line, len(program.splitlines()[line]), text))
            half = await client.until(URI, 2)
            assert sorted(one.code for one in half) == ["CLIP002", "CLIP002", "invalid-syntax"]
            assert [one.range for one in half if one.code == "CLIP002"] == [one.range for one in whole]

    asyncio.run(run())


@pytest.mark.parametrize("encoding", [None, *lsp.PositionEncodingKind], ids=str)
def test_columns_are_counted_as_agreed(encoding: lsp.PositionEncodingKind | None) -> None:
    text = "import torch\nx = '😀é'; torch.nn.utils.clip_grad_norm([], 1.0)\n"
    column = {"utf-8": 14, "utf-16": 11, "utf-32": 10}[encoding or "utf-16"]

    async def run() -> None:
        async with session(encodings=[encoding] if encoding else []) as client:
            client.open(URI, text)
            (found,) = await client.until(URI, 1)
            assert found.range == span(1, column, 1, column + 29)

    asyncio.run(run())


def test_lines_end_where_the_protocol_says_so() -> None:
    """A form feed or a line separator in a string ends no line, a lone carriage return does."""
    text = "import torch\n\f\nname = 'a\u2028b'\r\nx = 1\r" + "torch.nn.utils.clip_grad_norm([], 1.0)\n"

    async def run() -> None:
        async with session() as client:
            client.open(URI, text)
            (found,) = [one for one in await client.until(URI, 1) if one.code == "CLIP002"]
            assert found.range.start == lsp.Position(4, 0)
            client.change(URI, 2, typed(4, 29, "_"))
            assert [one for one in await client.until(URI, 2) if one.code == "CLIP002"] == []

    asyncio.run(run())


def test_a_quick_fix_changes_the_text() -> None:
    async def run() -> None:
        async with session() as client:
            client.open(URI, BEFORE)
            fix, silence = await client.actions(URI, 4, only=["quickfix"])
            assert silence.title == "Ignore CLIP002 on this line"
            assert not silence.is_preferred
            ignored = BEFORE.replace("1.0)", "1.0)  # clipcheck: ignore[CLIP002]")
            assert applied(BEFORE, silence.edit, URI) == ignored
            assert (fix.title, fix.is_preferred) == ("Replace with `clip_grad_norm_`", True)
            assert [one.code for one in fix.diagnostics or ()] == ["CLIP002"]
            (found,) = fix.diagnostics or ()
            assert found.code_description is not None
            assert found.code_description.href.endswith("/rules/deprecated-clip-grad-norm/")
            assert applied(BEFORE, fix.edit, URI) == AFTER
            assert len(await client.actions(URI, 4, columns=(40, 40), only=["quickfix"])) == 2
            assert await client.actions(URI, 4, columns=(0, 10), only=["quickfix"]) == []
            assert await client.actions(URI, 0, only=["quickfix"]) == []

    asyncio.run(run())


@pytest.mark.parametrize(("requirements", "said"), [("torch\n", 1), ("clipcheck\n", 0)])
def test_a_dependency_that_fixes_bring_is_named_once(tmp_path: Path, requirements: str, said: int) -> None:
    (tmp_path / "requirements.txt").write_text(requirements, encoding="utf-8")
    uri = (tmp_path / "train.py").as_uri()
    text = (
        "import torch\n\n\ndef norm(model):\n    total = 0.0\n    for p in model.parameters():\n"
        "        total += p.grad.norm(2).item() ** 2\n    return total ** 0.5\n"
    )

    async def run() -> None:
        async with session(folder=tmp_path) as client:
            client.open(uri, text)
            for _ in range(2):
                assert await client.actions(uri, 6, only=["quickfix"])
            assert len(client.shown) == said
            assert all("add `clipcheck` to your dependencies" in line for line in client.shown)

    asyncio.run(run())


def test_an_unsafe_fix_says_so_and_is_never_preferred() -> None:
    text = BEFORE.replace(
        "import torch\n", "import torch\nfrom torch.distributed.fsdp import FullyShardedDataParallel\n"
    )

    async def run() -> None:
        async with session() as client:
            client.open(URI, text)
            fix, _ = await client.actions(URI, 5, only=["quickfix"])
            assert fix.title == "Replace with `clip_grad_norm_` (unsafe: changes training)"
            assert not fix.is_preferred
            assert await client.actions(URI, 5, only=["source.fixAll"]) == []

    asyncio.run(run())


def test_everything_safe_is_fixed_on_save() -> None:
    text = BEFORE + "\n\ndef again(model):\n    torch.nn.utils.clip_grad_norm(model.parameters(), 2.0)\n"

    async def run() -> None:
        async with session() as client:
            client.open(URI, text)
            (fix,) = await client.actions(URI, 0, only=["source.fixAll"])
            assert fix.kind == "source.fixAll.clipcheck"
            after = applied(text, fix.edit, URI)
            assert "clip_grad_norm(" not in after
            assert after.count("clip_grad_norm_(") == 2
            assert await client.actions(URI, 0, only=["source.fixAll.other"]) == []
            client.change(URI, 2, lsp.TextDocumentContentChangeWholeDocument(after))
            assert await client.actions(URI, 0, only=["source.fixAll"]) == []

    asyncio.run(run())


def test_edits_fit_a_client_without_versions() -> None:
    async def run() -> None:
        async with session(document_changes=False) as client:
            client.open(URI, BEFORE)
            fix, _ = await client.actions(URI, 4, only=["quickfix"])
            assert fix.edit is not None
            assert fix.edit.document_changes is None
            assert applied(BEFORE, fix.edit, URI) == AFTER

    asyncio.run(run())


def test_hover_shows_the_rules_page() -> None:
    async def run() -> None:
        async with session() as client:
            client.open(URI, BEFORE + "x = 1  # clipcheck: ignore[CLIP002]\n")
            assert (await client.hover(URI, 4, 30)).startswith("# CLIP002 `deprecated-clip-grad-norm`")
            assert (await client.hover(URI, 5, 30)).startswith("# CLIP002 `deprecated-clip-grad-norm`")
            assert await client.hover(URI, 0, 3) == ""

    asyncio.run(run())


# --- notebooks --------------------------------------------------------------------------------------------------------

NOTEBOOK = "file:///project/train.ipynb"
CELLS = ["import torch\n", "# a heading", "%matplotlib inline\ntorch.nn.utils.clip_grad_norm([], 1.0)"]


def cell_uri(number: int) -> str:
    return f"vscode-notebook-cell:/project/train.ipynb#{number}"


def open_notebook(client: Editor) -> None:
    kinds = [lsp.NotebookCellKind.Code, lsp.NotebookCellKind.Markup, lsp.NotebookCellKind.Code]
    cells = [lsp.NotebookCell(kind, cell_uri(number)) for number, kind in enumerate(kinds)]
    texts = [
        lsp.TextDocumentItem(cell_uri(number), "markdown" if number == 1 else "python", 1, text)
        for number, text in enumerate(CELLS)
    ]
    notebook = lsp.NotebookDocument(NOTEBOOK, "jupyter-notebook", 1, cells)
    client.notebook_document_did_open(lsp.DidOpenNotebookDocumentParams(notebook, texts))


def change_cells(client: Editor, version: int, change: lsp.NotebookDocumentCellChanges) -> None:
    document = lsp.VersionedNotebookDocumentIdentifier(version, NOTEBOOK)
    client.notebook_document_did_change(
        lsp.DidChangeNotebookDocumentParams(document, lsp.NotebookDocumentChangeEvent(cells=change))
    )


def test_the_cells_of_a_notebook_are_one_program() -> None:
    async def run() -> None:
        async with session() as client:
            open_notebook(client)
            (found,) = await client.until(cell_uri(2), 1)
            assert (found.code, found.range.start) == ("CLIP002", lsp.Position(1, 0))
            assert await client.until(cell_uri(0), 1) == []
            assert cell_uri(1) not in client.diagnostics

            fix, _ = await client.actions(cell_uri(2), 1, only=["quickfix"])
            (all_of_them,) = await client.actions(cell_uri(0), 0, only=["notebook.source.fixAll"])
            for edit in (fix.edit, all_of_them.edit):
                assert "from clipcheck.runtime import clip_grad_norm_" in applied(CELLS[0], edit, cell_uri(0))
                assert applied(CELLS[2], edit, cell_uri(2)) == "%matplotlib inline\nclip_grad_norm_([], 1.0)"
            assert all_of_them.kind == "notebook.source.fixAll.clipcheck"

    asyncio.run(run())


def test_cells_change_come_and_go() -> None:
    async def run() -> None:
        async with session() as client:
            open_notebook(client)
            assert len(await client.until(cell_uri(2), 1)) == 1

            text = lsp.VersionedTextDocumentIdentifier(2, cell_uri(2))
            content = lsp.NotebookDocumentCellContentChanges(text, [typed(1, 29, "_")])
            change_cells(client, 2, lsp.NotebookDocumentCellChanges(text_content=[content]))
            assert await client.until(cell_uri(2), 2) == []

            new = lsp.NotebookCell(lsp.NotebookCellKind.Code, cell_uri(3))
            opened = lsp.TextDocumentItem(cell_uri(3), "python", 1, "torch.nn.utils.clip_grad_norm([], 2.0)")
            array = lsp.NotebookCellArrayChange(start=1, delete_count=1, cells=[new])
            structure = lsp.NotebookDocumentCellChangeStructure(array, did_open=[opened])
            change_cells(client, 3, lsp.NotebookDocumentCellChanges(structure=structure))
            assert [one.code for one in await client.until(cell_uri(3), 1)] == ["CLIP002"]

            array = lsp.NotebookCellArrayChange(start=1, delete_count=1, cells=[])
            gone = [lsp.TextDocumentIdentifier(cell_uri(3))]
            structure = lsp.NotebookDocumentCellChangeStructure(array, did_close=gone)
            change_cells(client, 4, lsp.NotebookDocumentCellChanges(structure=structure))
            assert await client.until(cell_uri(3), None) == []

    asyncio.run(run())


# --- settings ---------------------------------------------------------------------------------------------------------


def test_settings_are_noticed_when_they_change(tmp_path: Path) -> None:
    uri = (tmp_path / "train.py").as_uri()
    settings = tmp_path / "clipcheck.toml"

    def notified(client: Editor) -> None:
        event = lsp.FileEvent(settings.as_uri(), lsp.FileChangeType.Changed)
        client.workspace_did_change_watched_files(lsp.DidChangeWatchedFilesParams([event]))

    async def run() -> None:
        async with session(folder=tmp_path) as client:
            client.open(uri, BEFORE)
            assert len(await client.until(uri, 1)) == 1
            assert client.registered == ["workspace/didChangeWatchedFiles"]

            settings.write_text('ignore = ["CLIP002"]\n')
            client.diagnostics.clear()
            notified(client)
            assert await client.until(uri, 1) == []

            settings.write_text('target = "torch"\n')
            client.change(uri, 2, typed(0, 0, "\n"))
            assert len(await client.until(uri, 2)) == 1
            fix, _ = await client.actions(uri, 5, only=["quickfix"])
            assert applied("\n" + BEFORE, fix.edit, uri) == "\n" + BEFORE.replace("norm(", "norm_(")

            settings.write_text('extend-exclude = ["train.py"]\n')
            client.change(uri, 3, typed(0, 0, "\n"))
            assert await client.until(uri, 3) == []

    asyncio.run(run())


def test_a_fault_in_the_settings_is_shown_once(tmp_path: Path) -> None:
    uri = (tmp_path / "train.py").as_uri()
    (tmp_path / "clipcheck.toml").write_text("\ntarjet = 1\n")

    async def run() -> None:
        async with session(folder=tmp_path) as client:
            for version in (1, 2, 3):
                client.open(uri, BEFORE, version)
                assert len(await client.until(uri, version)) == 1
            (shown,) = client.shown
            assert "clipcheck.toml:2: unknown key `tarjet`" in shown

    asyncio.run(run())


# --- faults -----------------------------------------------------------------------------------------------------------

FAULTY = """
from clipcheck.editor import looks, server

check_text = looks.check_text

def faulty(path, text, *rest):
    if "explode" in text:
        raise MemoryError("too much")
    return check_text(path, text, *rest)

looks.check_text = faulty
server.main()
"""


def test_an_error_in_one_file_does_not_stop_the_server() -> None:
    async def run() -> None:
        async with session(("-c", FAULTY)) as client:
            other = "file:///project/other.py"
            client.open(other, "explode = 1\n")
            assert await client.until(other, 1) == []
            assert await client.logs() == f"{Path('/project/other.py')}: MemoryError: too much"
            client.open(URI, BEFORE)
            assert len(await client.until(URI, 1)) == 1
            assert await client.actions(other, 0) == []

    asyncio.run(run())


def test_hostile_texts_do_not_stop_the_server() -> None:
    texts = [
        "(" * 100_000,
        "# coding: nonsense\nclip_grad_norm",
        "clip_grad_norm \x00",
        "x = 1;" * 9_000 + "clip_grad_norm",
    ]

    async def run() -> None:
        async with session() as client:
            for number, text in enumerate(texts):
                client.open(f"file:///project/{number}.py", "import torch\n" + text)
            client.open(URI, BEFORE)
            assert len(await client.until(URI, 1)) == 1
            for number in range(len(texts)):
                await client.until(f"file:///project/{number}.py", 1)

    asyncio.run(run())


def raw(method: str, params: object, length: str | None = None, number: int | None = None) -> bytes:
    """A message as it is sent, by a client without the checks of the protocol library."""
    message = {"jsonrpc": "2.0", "method": method, "params": params} | ({} if number is None else {"id": number})
    body = json.dumps(message).encode()
    return f"Content-Length: {len(body) if length is None else length}\r\n\r\n".encode() + body


def document(uri: str, text: str = BEFORE) -> dict[str, object]:
    return {"textDocument": {"uri": uri, "languageId": "python", "version": 1, "text": text}}


@pytest.mark.parametrize("length", ["20", "150", "9" * 14, "9" * 30, "9" * 5000, "-5", "abc", "0", ""])
def test_messages_are_found_again_after_a_wrong_length(length: str) -> None:
    async def run() -> None:
        async with session() as client:
            server: Any = client._server
            server.stdin.write(raw("textDocument/didOpen", document("file:///project/wrong.py"), length))
            for number in range(3):
                server.stdin.write(raw("textDocument/didOpen", document(f"file:///project/{number}.py")))
            assert len(await client.until("file:///project/2.py", 1)) == 1

    asyncio.run(run())


PLACES = [(-1, -1), (-5, 3), (0, -1), (10**6, 0), (0, 10**6), (2**31, 2**31), (10**30, 10**30), (1.5, 0), ("a", None)]


def test_positions_outside_of_the_text_do_not_stop_the_server() -> None:
    async def run() -> None:
        async with session() as client:
            server: Any = client._server
            client.open(URI, BEFORE)
            for line, character in PLACES:
                at = {"line": line, "character": character}
                start = {"line": 0, "character": 0}
                for low, high in ((at, at), (start, at), (at, start)):
                    span = {"start": low, "end": high}
                    change = {
                        "textDocument": {"uri": URI, "version": 2},
                        "contentChanges": [{"range": span, "text": ""}],
                    }
                    where = {"textDocument": {"uri": URI}}
                    action = where | {"range": span, "context": {"diagnostics": []}}
                    server.stdin.write(raw("textDocument/didChange", change))
                    server.stdin.write(raw("textDocument/codeAction", action, number=7))
                    server.stdin.write(raw("textDocument/hover", where | {"position": low}, number=8))
            client.change(URI, 3, lsp.TextDocumentContentChangeWholeDocument(BEFORE))
            assert len(await client.until(URI, 3)) == 1

    asyncio.run(run())


@pytest.mark.parametrize(
    ("start", "end", "after"),
    [
        ((0, 1), (0, 99), "f\nsecond\n"),  # beyond a line's end is at its end
        ((1, 0), (99, 0), "first\n"),  # after the last line is at the end
        ((9, 9), (9, 9), "first\nsecond\n"),
        ((1, 3), (0, 0), "ond\n"),  # the wrong way around
    ],
)
def test_a_change_outside_of_the_text_is_made_at_its_edge(
    start: tuple[int, int], end: tuple[int, int], after: str
) -> None:
    text = Text("file:///a.py", "first\nsecond\n", 1, "python")
    text.apply_change(lsp.TextDocumentContentChangePartial(lsp.Range(lsp.Position(*start), lsp.Position(*end)), ""))
    assert text.source == after


MARKDOWN = """\
# Clipping

Prose may mention `torch.nn.utils.clip_grad_norm(model.parameters(), 1.0)`.

- In a list:

  ```python
  import torch


  def clip(model):
      return torch.nn.utils.clip_grad_norm(model.parameters(), 1.0)
  ```

```text
torch.nn.utils.clip_grad_norm(model.parameters(), 1.0)
```

```python
for x, y in …:  # abridged, and no fault
```

> ```python
> import torch
>
> torch.nn.utils.clip_grad_norm(model.parameters(), 2.0)
> ```
"""
# Both calls, each below the import that it needs, with the list's indentation and after the quote's marks.
FIXED_LIST = MARKDOWN.replace(
    "  import torch\n", "  import torch\n  from clipcheck.runtime import clip_grad_norm_\n", 1
)
FIXED_LIST = FIXED_LIST.replace(
    "return torch.nn.utils.clip_grad_norm(model.parameters(), 1.0)", "return clip_grad_norm_(model.parameters(), 1.0)"
)
FIXED_MARKDOWN = FIXED_LIST.replace(
    "> import torch\n>\n> torch.nn.utils.clip_grad_norm(",
    "> import torch\n> from clipcheck.runtime import clip_grad_norm_\n>\n> clip_grad_norm_(",
)


def test_python_in_markdown_is_checked_and_fixed() -> None:
    uri = "file:///project/notes.md"

    async def run() -> None:
        async with session() as client:
            client.open(uri, MARKDOWN, language="markdown")
            found = await client.until(uri, 1)
            assert [(one.code, one.range.start.line, one.range.start.character) for one in found] == [
                ("CLIP002", 11, 13),
                ("CLIP002", 25, 2),
            ]
            fix, silence = await client.actions(uri, 11, only=["quickfix"])
            assert fix.is_preferred
            assert applied(MARKDOWN, fix.edit, uri) == FIXED_LIST
            assert "model.parameters(), 1.0)  # clipcheck: ignore[CLIP002]\n  ```" in applied(
                MARKDOWN, silence.edit, uri
            )
            assert await client.actions(uri, 2, only=["quickfix"]) == []
            (everything,) = await client.actions(uri, 0, only=["source.fixAll"])
            assert applied(MARKDOWN, everything.edit, uri) == FIXED_MARKDOWN
            assert "deprecated-clip-grad-norm" in await client.hover(uri, 25, 4)
            client.change(uri, 2, typed(11, 13, "#"))
            assert [one.range.start.line for one in await client.until(uri, 2)] == [25]
            client.change(uri, 3, typed(25, 2, "("))
            assert await client.until(uri, 3) == []

    asyncio.run(run())


@pytest.mark.parametrize(
    ("name", "language"),
    [
        ("file:///project/README", "markdown"),
        ("untitled:Untitled-1", "markdown"),
        ("file:///project/NOTES.MD", "markdown"),
        ("file:///project/page.mdx", "mdx"),
        ("file:///project/page.Rmd", "rmd"),
        ("file:///project/page.qmd", "quarto"),
    ],
)
def test_a_document_is_known_by_its_language(name: str, language: str) -> None:
    async def run() -> None:
        async with session() as client:
            client.open(name, MARKDOWN, language=language)
            assert [one.code for one in await client.until(name, 1)] == ["CLIP002", "CLIP002"]

    asyncio.run(run())


def test_restructured_text_is_reported_and_left_as_it_is() -> None:
    uri = "file:///project/guide.rst"
    text = "Clip\n====\n\n.. code-block:: python\n\n   import torch\n   torch.nn.utils.clip_grad_norm([], 1.0)\n"

    async def run() -> None:
        async with session() as client:
            client.open(uri, text, language="restructuredtext")
            (found,) = await client.until(uri, 1)
            assert (found.code, found.range.start) == ("CLIP002", lsp.Position(6, 3))
            assert await client.actions(uri, 6) == []

    asyncio.run(run())


def test_other_languages_are_left_alone() -> None:
    async def run() -> None:
        async with session() as client:
            client.open("file:///project/notes.txt", BEFORE, language="plaintext")
            client.open(URI, BEFORE)
            await client.until(URI, 1)
            assert [*client.diagnostics] == [URI]
            assert await client.actions("file:///project/notes.txt", 4) == []
            assert await client.hover("file:///project/nowhere.py", 0, 0) == ""

    asyncio.run(run())


def test_the_server_ends_when_the_client_is_gone() -> None:
    async def run() -> int:
        server = await asyncio.create_subprocess_exec(
            sys.executable, *SERVER, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, cwd=PROJECT
        )
        assert server.stdin is not None
        server.stdin.close()
        return await asyncio.wait_for(server.wait(), PATIENCE)

    assert asyncio.run(run()) == 0


@pytest.mark.parametrize("asked", [True, False])
def test_a_shutdown_right_after_a_keystroke_is_handled(asked: bool) -> None:
    """The work that the keystroke started is not waited for, and does not keep the server alive."""

    async def run() -> None:
        client = editor()
        await client.start_io(sys.executable, *SERVER, cwd=PROJECT)
        server: Any = client._server
        try:
            params = lsp.InitializeParams(lsp.ClientCapabilities(), root_uri=PROJECT.as_uri())
            await asyncio.wait_for(client.initialize_async(params), PATIENCE)
            client.initialized(lsp.InitializedParams())
            client.open(URI, BEFORE)
            await client.until(URI, 1)
            client.change(URI, 2, typed(0, 0, "#"))
            if asked:
                answer = asyncio.ensure_future(client.shutdown_async(None))
                await asyncio.sleep(0)
            client.exit(None)
            assert await asyncio.wait_for(server.wait(), PATIENCE) == 0
            assert not asked or await answer is None
        finally:
            if server.returncode is None:
                server.kill()

    asyncio.run(run())


def test_a_lost_client_is_reported_once() -> None:
    """If the client is gone, the server does not log each message that it could not deliver."""

    class Gone:
        tries = 0

        def write(self, data: bytes) -> None:
            self.tries += 1
            if self.tries > 3:
                raise KeyboardInterrupt  # otherwise it would go on forever
            raise ValueError("write to closed file")

    ls, gone = server(), Gone()
    ls.protocol.set_writer(gone)
    ls.window_show_message(lsp.ShowMessageParams(lsp.MessageType.Info, "hello"))
    assert gone.tries == 1


def test_nothing_starts_after_the_shutdown() -> None:
    begun: list[str] = []

    async def run() -> None:
        ls = server()
        ls.waiting[URI] = asyncio.get_running_loop().call_later(0, begun.append, "look")
        ls.tidying = asyncio.get_running_loop().call_later(0, begun.append, "collection")
        ls.rest()
        await asyncio.sleep(0.05)

    asyncio.run(run())
    assert begun == []
