"""What an editor holds open: texts and notebooks, their places in the client's units, and edits that turn them into others."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple
from urllib.parse import unquote

from lsprotocol import types as lsp
from pygls.uris import to_fs_path
from pygls.workspace import TextDocument, Workspace
from pygls.workspace.position_codec import ServerTextPosition, ServerTextRange

from clipcheck.documents.program import MARKDOWN, RST
from clipcheck.rule import Place

# Languages by the names that editors have for them, each with the endings that it is read by, the usual one first.
LANGUAGES = {
    "python": (".py",),
    "markdown": MARKDOWN,
    "quarto": (".qmd",),
    "restructuredtext": RST,
    "rst": RST,
}

_LINE = re.compile(r"[^\r\n]*(?:\r\n|\n|\r)|[^\r\n]+")


class Opened(NamedTuple):
    """What is looked at as one: a program, a document with Python in it, or a notebook with its cells by number.

    `text` is what its file would hold.
    """

    uri: str
    path: str
    text: str
    parts: dict[int | None, TextDocument]

    @property
    def is_document(self) -> bool:
        return self.path.lower().endswith((*MARKDOWN, *RST))


def opened(workspace: Workspace, uri: str) -> Opened | None:
    """The program, document or notebook that `uri` is, or is a cell of; None for what is none of them."""
    notebook = workspace.get_notebook_document(notebook_uri=uri) or workspace.get_notebook_document(cell_uri=uri)
    if notebook is not None:
        cells = {n: workspace.get_text_document(cell.document) for n, cell in enumerate(notebook.cells, 1)}
        parts: dict[int | None, TextDocument] = {n: c for n, c in cells.items() if c.language_id == "python"}
        return Opened(notebook.uri, path_of(notebook.uri, ".ipynb"), _notebook(len(cells), parts), parts)
    text = workspace.text_documents.get(unquote(uri))
    endings = LANGUAGES.get(text.language_id or "") if text is not None else None
    if text is None or endings is None:
        return None
    path = path_of(uri, endings[0])
    if text.language_id != "python" and not path.lower().endswith(endings):
        path += endings[0]  # a README without one: by its ending a file is read as what it is
    return Opened(uri, path, text.source, {None: text})


class _Text(TextDocument):
    """A text that is cut into lines where the protocol cuts them.

    `str.splitlines`, which pygls uses, also cuts at form feeds and the like: the edits below one would go astray.
    """

    @property
    def lines(self) -> Sequence[str]:
        return _LINE.findall(self.source)


class ProtocolWorkspace(Workspace):
    def _create_text_document(
        self, doc_uri: str, source: str | None = None, version: int | None = None, language_id: str | None = None
    ) -> TextDocument:
        return _Text(
            doc_uri, source, version, language_id, sync_kind=self._sync_kind, position_codec=self._position_codec
        )


def span(at: Opened, place: Place) -> lsp.Range:
    """A place as the client counts it: from 0, and in the code units that were agreed on."""
    return span_in(at.parts[place.cell], place)


def span_in(part: TextDocument, place: Place) -> lsp.Range:
    start = ServerTextPosition(place.line - 1, place.column - 1)
    end = ServerTextPosition(place.end_line - 1, place.end_column - 1)
    return part.position_codec.range_to_client_units(part.lines, ServerTextRange(start, end))


def meet(one: lsp.Range, other: lsp.Range) -> bool:
    return one.start <= other.end and other.start <= one.end


def path_of(uri: str, ending: str) -> str:
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


def differences(at: Opened, after: str) -> Iterator[tuple[Place, str]]:
    """What to change in each part so that the whole becomes `after`: runs of lines, so that cursors stay put."""
    sources = [cell["source"] for cell in json.loads(after)["cells"]] if None not in at.parts else []
    for cell, part in at.parts.items():
        old, new = part.lines, _LINE.findall(after if cell is None else sources[cell - 1])
        for kind, start, end, new_start, new_end in difflib.SequenceMatcher(None, old, new, False).get_opcodes():
            if kind != "equal":
                yield Place(start + 1, 1, end + 1, 1, cell), "".join(new[new_start:new_end])
