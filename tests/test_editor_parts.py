"""The editor's parts, without a server: places in the client's units, what is opened, edits, and what is checked again."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pygls", reason="needs the extra clipcheck[lsp]")

from lsprotocol import types as lsp
from pygls.workspace import PositionCodec

from clipcheck.editor import answers, looks, opened, texts
from clipcheck.editor.opened import Opened
from clipcheck.editor.texts import Text, lines_of
from clipcheck.editor.wire import Messages
from clipcheck.engine.results import FileReport
from clipcheck.rule import INVALID_SYNTAX, Edit, Finding, Fix, Place, Safety, Severity
from clipcheck.settings.keys import Settings

URI = "file:///x.py"


def text(source: str, encoding: str | None = "utf-16", uri: str = URI, version: int = 3) -> Text:
    return Text(uri, source, version, "python", position_codec=PositionCodec(encoding))  # type: ignore[arg-type]


def where(line: int, column: int, last: int | None = None, end: int | None = None) -> lsp.Range:
    return lsp.Range(
        lsp.Position(line, column), lsp.Position(line if last is None else last, column if end is None else end)
    )


# --- texts ------------------------------------------------------------------------------------------------------------------------


def test_lines_end_as_in_the_protocol() -> None:
    assert lines_of("a\nb\r\nc\rd\x0ce\u2028f") == ("a\n", "b\r\n", "c\r", "d\x0ce\u2028f")
    assert lines_of("") == ()


@pytest.mark.parametrize(
    ("encoding", "start", "end"), [("utf-8", 7, 8), ("utf-16", 4, 5), ("utf-32", 3, 4), (None, 4, 5)]
)
def test_a_place_in_the_units_of_the_client(encoding: str | None, start: int, end: int) -> None:
    """After é and 😀 and a letter: 2, 4 and 1 bytes of UTF-8; 1, 2 and 1 units of UTF-16."""
    one = text("x\né😀ab\n", encoding)
    assert one.span(Place(2, 4, 2, 5)) == where(1, start, 1, end)
    assert one.span(Place(9, 1, 9, 1)) == where(8, 0)  # after the end


@pytest.mark.parametrize(
    ("position", "offset"),
    [((0, 0), 0), ((0, 2), 2), ((0, 9), 2), ((1, 0), 4), ((1, 2), 5), ((1, 3), 6), ((2, 0), 7), ((9, 9), 7)],
)
def test_an_offset_is_inside_of_the_text(position: tuple[int, int], offset: int) -> None:
    assert text("ab\r\n😀c\n")._offset(lsp.Position(*position)) == offset


def test_a_change_may_be_given_backwards() -> None:
    for start, end in (((0, 1), (1, 1)), ((1, 1), (0, 1))):
        one = text("abc\ndef\n")
        one.apply_change(lsp.TextDocumentContentChangePartial(lsp.Range(lsp.Position(*start), lsp.Position(*end)), "-"))
        assert one.source == "a-ef\n"
    one.apply_change(lsp.TextDocumentContentChangeWholeDocument("new"))
    assert one.source == "new"


# --- what is opened -----------------------------------------------------------------------------------------------------------------


class Workspace:
    """As much of a workspace as is asked for: texts by address, and notebooks."""

    def __init__(self, documents: dict[str, Text], notebook: Any = None) -> None:
        self.text_documents, self.notebook = documents, notebook

    def get_notebook_document(self, notebook_uri: str | None = None, cell_uri: str | None = None) -> Any:
        known = self.notebook is not None and (notebook_uri == self.notebook.uri or cell_uri in self.text_documents)
        return self.notebook if known else None


def found(name: str, language: str, uri: str | None = None) -> Opened | None:
    uri = uri or f"file:///{name}"
    one = Text(uri, "x", 1, language, position_codec=PositionCodec("utf-16"))  # type: ignore[arg-type]
    return opened.opened(Workspace({uri: one}), uri)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "language", "path"),
    [
        ("x.py", "python", "x.py"),
        ("x", "python", "x"),
        ("README", "markdown", "README.md"),
        ("x.md", "markdown", "x.md"),
        ("X.MD", "markdown", "X.MD"),
        ("x", "mdx", "x.mdx"),
        ("x", "quarto", "x.qmd"),
        ("x.rmd", "rmd", "x.rmd"),
        ("x", "rmd", "x.Rmd"),
        ("x", "restructuredtext", "x.rst"),
        ("x", "rst", "x.rst"),
    ],
)
def test_a_document_is_read_by_its_language(name: str, language: str, path: str) -> None:
    one = found(name, language)
    assert one is not None and Path(one.path).name == path
    assert one.is_document is (language != "python")
    assert (one.text, [*one.parts]) == ("x", [None])


def test_other_languages_are_not_read() -> None:
    assert found("x.rs", "rust") is None
    assert opened.opened(Workspace({}), URI) is None  # type: ignore[arg-type]


def test_what_is_in_no_file_yet_has_a_name() -> None:
    one = found("", "python", "untitled:Untitled-1")
    assert one is not None and one.path == "untitled.py"
    assert opened.path_of("untitled:x", ".md") == "untitled.md"


def a_notebook() -> tuple[Any, Opened]:
    cells = {f"cell:{n}": text(source, uri=f"cell:{n}") for n, source in enumerate(("a\n", "b\n", "c\n"))}
    cells["cell:1"] = Text("cell:1", "# prose", 1, "markdown", position_codec=PositionCodec("utf-16"))  # type: ignore[arg-type]
    listed = [lsp.NotebookCell(lsp.NotebookCellKind.Code, uri) for uri in cells]
    notebook = lsp.NotebookDocument("untitled:nb", "jupyter-notebook", 1, listed)
    workspace: Any = Workspace(cells, notebook)
    one = opened.opened(workspace, "untitled:nb")
    assert one is not None and one == opened.opened(workspace, "cell:2")
    return workspace, one


def test_the_cells_of_a_notebook_are_numbered_from_one() -> None:
    _, one = a_notebook()
    assert one.path == "untitled.ipynb" and not one.is_document
    assert [*one.parts] == [1, 3]
    content = json.loads(one.text)
    assert [(cell["cell_type"], cell["source"]) for cell in content["cells"]] == [
        ("code", "a\n"),
        ("raw", ""),
        ("code", "c\n"),
    ]
    assert (content["nbformat"], content["nbformat_minor"], content["metadata"]) == (4, 5, {})
    assert all(cell["metadata"] == {} for cell in content["cells"])
    assert one.span(Place(1, 1, 1, 2, 3)) == where(0, 0, 0, 1)


def test_differences_are_runs_of_lines() -> None:
    one = Opened(URI, "x.py", "a\nb\nc\n", {None: text("a\nb\nc\n")})
    assert list(opened.differences(one, "a\nX\nY\nc\n")) == [(Place(2, 1, 3, 1), "X\nY\n")]
    assert list(opened.differences(one, "a\nb\nc\nd\n")) == [(Place(4, 1, 4, 1), "d\n")]
    assert list(opened.differences(one, one.text)) == []
    _, notebook = a_notebook()
    after = json.loads(notebook.text)
    after["cells"][2]["source"] = "X\n"
    assert list(opened.differences(notebook, json.dumps(after))) == [(Place(1, 1, 2, 1, 3), "X\n")]


# --- answers ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        (where(1, 2, 1, 5), where(1, 5), True),
        (where(1, 2, 1, 5), where(1, 2), True),
        (where(1, 2, 1, 5), where(1, 6), False),
        (where(1, 2, 1, 5), where(1, 1), False),
        (where(1, 2, 3, 5), where(2, 0), True),
        (where(1, 2, 3, 5), where(0, 0, 9, 9), True),
    ],
)
def test_two_ranges_meet(one: lsp.Range, other: lsp.Range, expected: bool) -> None:
    assert answers._meet(one, other) is answers._meet(other, one) is expected


AT = Opened(URI, "x.py", "ab\ncd\n", {None: text("ab\ncd\n")})
FOUND = Finding(
    "x.py", Place(2, 1, 2, 3), "CLIP002", "deprecated-clip-grad-norm", "message", Severity.WARNING, help="why"
)


@pytest.mark.parametrize(
    ("severity", "expected"),
    [
        (Severity.ERROR, lsp.DiagnosticSeverity.Error),
        (Severity.WARNING, lsp.DiagnosticSeverity.Warning),
        (Severity.NOTE, lsp.DiagnosticSeverity.Information),
    ],
)
def test_a_finding_as_a_diagnostic(severity: Severity, expected: lsp.DiagnosticSeverity) -> None:
    one = answers.diagnostic(AT, FOUND._replace(severity=severity))
    assert (one.range, one.message, one.severity, one.code, one.source) == (where(1, 0, 1, 2), "message\nhelp: why", expected, "CLIP002", "clipcheck")  # fmt: skip
    assert one.related_information is None
    fix = Fix("Swap", Safety.SAFE, (Edit(0, 1, "x"),))
    assert answers.diagnostic(AT, FOUND._replace(fix=fix)).message == "message"
    assert answers.diagnostic(AT, FOUND._replace(help="")).message == "message"
    (related,) = (
        answers.diagnostic(AT, FOUND._replace(related=((Place(1, 1, 1, 2), "here"),))).related_information or ()
    )
    assert (related.message, related.location) == ("here", lsp.Location(URI, where(0, 0, 0, 1)))


def test_changes_as_the_client_applies_them() -> None:
    changes = [(Place(1, 1, 1, 2), "x"), (Place(2, 1, 2, 1), "y")]
    edits = [lsp.TextEdit(where(0, 0, 0, 1), "x"), lsp.TextEdit(where(1, 0), "y")]
    plain = answers.workspace_edit(AT, changes, versioned=False)
    assert (plain.changes, plain.document_changes) == ({URI: edits}, None)
    (one,) = answers.workspace_edit(AT, changes, versioned=True).document_changes or ()
    assert isinstance(one, lsp.TextDocumentEdit)
    assert (one.text_document.uri, one.text_document.version, one.edits) == (URI, 3, edits)


def test_a_rules_page_is_shown_at_its_code_and_at_its_finding() -> None:
    source = "x  # CLIP002\n# CLIP999 CLIP001\n"
    at = Opened(URI, "x.py", source, {None: text(source)})
    part = at.parts[None]

    def page(line: int, column: int, *findings: Finding) -> tuple[list[str], lsp.Range | None]:
        hover = answers.page_at(at, FileReport("x.py", b"", findings), part, lsp.Position(line, column))
        if hover is None:
            return [], None
        assert isinstance(hover.contents, lsp.MarkupContent)
        pages = hover.contents.value.split("\n\n---\n\n")
        return [next(code for code in ("CLIP001", "CLIP002") if code in page) for page in pages], hover.range

    assert page(0, 5) == (["CLIP002"], where(0, 5, 0, 12))
    assert page(0, 12)[0] == ["CLIP002"]
    assert page(0, 4) == page(1, 3) == page(9, 0) == ([], None)
    assert page(1, 12)[0] == ["CLIP001"]
    here = FOUND._replace(place=Place(1, 1, 1, 13))
    assert page(0, 0, here) == (["CLIP002"], where(0, 0, 0, 12))
    assert page(0, 0, here._replace(code="unused-suppression")) == ([], None)


# --- what is checked again ------------------------------------------------------------------------------------------------------------


def test_an_open_document_is_checked_when_it_or_the_settings_change(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str]] = []

    def check(path: str, source: str, settings: Settings, before: str = "") -> FileReport:
        asked.append((source, before))
        broken = Finding(path, Place(1, 1, 1, 1), INVALID_SYNTAX, INVALID_SYNTAX, "no")
        return FileReport(path, source.encode(), (broken,) if "(" in source else ())

    monkeypatch.setattr(looks, "check_text", check)

    def at(source: str) -> Opened:
        return Opened(URI, "x.py", source, {})

    first = looks.look(at("a"), Settings(), None)
    assert looks.look(at("a"), Settings(), first) is first
    broken = looks.look(at("a("), Settings(), first)
    again = looks.look(at("a(b"), Settings(), broken)
    assert (broken.python, again.python) == ("a", "a")  # the last text that was Python
    other = looks.look(at("a(b"), Settings(fix=True), again)
    assert other is not again
    assert asked == [("a", ""), ("a(", "a"), ("a(b", "a"), ("a(b", "a")]


def test_an_error_of_the_engine_is_an_error_of_the_report(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> FileReport:
        raise ZeroDivisionError("odd")

    monkeypatch.setattr(looks, "check_text", fails)
    report = looks.run(AT, Settings())
    assert report.errors == ("x.py: ZeroDivisionError: odd",) and report.findings == ()


def test_an_excluded_file_has_no_findings(tmp_path: Path) -> None:
    (tmp_path / "clipcheck.toml").write_text('exclude = ["generated"]\n')
    kept = looks.settings_of(str(tmp_path / "x.py"))
    assert "CLIP002" in kept.codes and kept.report_unused
    left_out = looks.settings_of(str(tmp_path / "generated" / "x.py"))
    assert left_out.codes == frozenset() and not left_out.report_unused


# --- messages -------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "read"),
    [
        (b"Content-Length: 12\r\n", b"Content-Length: 12\r\n"),
        (b'{"x": 1}Content-Length: 12\r\n', b"Content-Length: 12\r\n"),
        (b"Content-Length: 123456789\r\n", b"skipped\r\n"),
        (b"Content-Length: 12345678\r\n", b"Content-Length: 12345678\r\n"),
        (b"Content-Length: 12\n", b"skipped\r\n"),
        (b"Content-Type: json\r\n", b"skipped\r\n"),
        (b"\r\n", b"\r\n"),
        (b"", b""),
    ],
)
def test_a_header_is_found_in_its_line(line: bytes, read: bytes) -> None:
    messages = Messages(io.BytesIO(line + b"rest"[: 4 * bool(line)]) if line.endswith(b"\n") else io.BytesIO(line))
    assert messages.readline() == read
    assert messages.read(2) == (b"re" if line.endswith(b"\n") else b"")


def test_a_workspace_holds_texts_of_this_kind() -> None:
    assert issubclass(texts._Texts, texts.Workspace)
    workspace = texts._Texts(None)
    workspace.put_text_document(lsp.TextDocumentItem("file:///a%20b.py", "python", 7, "x\n"))
    (one,) = workspace.text_documents.values()
    assert isinstance(one, Text) and (one.version, one.language_id, one.source) == (7, "python", "x\n")
