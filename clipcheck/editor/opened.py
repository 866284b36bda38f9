"""Open documents as clipcheck reads them: programs, documents and notebooks, and the edits that change them."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Sequence
from typing import NamedTuple, cast
from urllib.parse import unquote

from lsprotocol import types as lsp
from pygls.uris import to_fs_path
from pygls.workspace import Workspace

from clipcheck.documents import read as document
from clipcheck.documents.program import MARKDOWN, RST
from clipcheck.editor.texts import Text, lines_of
from clipcheck.engine.results import FileReport
from clipcheck.rule import Finding, Place

# Languages by the names that editors have for them, each with the endings that it is read by, the usual one first.
LANGUAGES = {
    "python": (".py",),
    "markdown": MARKDOWN,
    "mdx": (".mdx",),
    "quarto": (".qmd",),
    "rmd": (".Rmd", ".rmd"),
    "restructuredtext": RST,
    "rst": RST,
}


class Opened(NamedTuple):
    """What is checked as one: a program, a document with Python in it, or a notebook with its cells by number.

    `text` is what its file would contain.
    """

    uri: str
    path: str
    text: str
    parts: dict[int | None, Text]

    @property
    def is_document(self) -> bool:
        return self.path.lower().endswith((*MARKDOWN, *RST))

    def span(self, place: Place) -> lsp.Range:
        """A place as the client counts it."""
        return self.parts[place.cell].span(place)


def opened(workspace: Workspace, uri: str) -> Opened | None:
    """The program, document or notebook that `uri` is, or is a cell of; None for anything else."""
    notebook = workspace.get_notebook_document(notebook_uri=uri) or workspace.get_notebook_document(cell_uri=uri)
    if notebook is not None:
        cells = {n: text_at(workspace, cell.document) for n, cell in enumerate(notebook.cells, 1)}
        parts: dict[int | None, Text] = {n: c for n, c in cells.items() if c and c.language_id == "python"}
        return Opened(notebook.uri, path_of(notebook.uri, ".ipynb"), _notebook(len(cells), parts), parts)
    text = text_at(workspace, uri)
    endings = LANGUAGES.get(text.language_id or "") if text is not None else None
    if text is None or endings is None:
        return None
    path = path_of(uri, endings[0])
    if text.language_id != "python" and not path.lower().endswith(endings):
        path += endings[0]  # a README without one: the ending of a file decides how it is read
    return Opened(uri, path, text.source, {None: text})


def text_at(workspace: Workspace, uri: str) -> Text | None:
    """The client's text under a name; never that of a file."""
    return cast("Text | None", workspace.text_documents.get(unquote(uri)))


def path_of(uri: str, ending: str) -> str:
    """A name for what is opened: its path, and one with the right ending for what is not in a file yet."""
    path = to_fs_path(uri)
    return path if path is not None and uri.startswith("file:") else f"untitled{ending}"


def _notebook(count: int, parts: dict[int | None, Text]) -> str:
    """The notebook's file as it would be saved, as far as clipcheck reads it."""
    empty = {"cell_type": "raw", "metadata": {}, "source": ""}
    cells = [
        {"cell_type": "code", "metadata": {}, "outputs": [], "source": parts[number].source}
        if number in parts
        else empty
        for number in range(1, count + 1)
    ]
    return json.dumps({"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5})


def changes_of(at: Opened, report: FileReport, finding: Finding) -> Sequence[tuple[Place, str]]:
    """A fix's edits in an open document; in Markdown, whose blocks may be indented or quoted, by whole lines."""
    if not at.is_document or finding.fix is None:
        return finding.changes
    read = document.read(report.path, report.now)
    edits = [finding.fix.all_edits if number == finding.program else () for number in range(len(read.programs))]
    return tuple(differences(at, document.decode(report.path, read.splice(edits))))


def differences(at: Opened, after: str) -> Iterator[tuple[Place, str]]:
    """What to change in each part so that the whole becomes `after`: runs of lines, so that cursors stay put."""
    sources = [cell["source"] for cell in json.loads(after)["cells"]] if None not in at.parts else []
    for cell, part in at.parts.items():
        old, new = part.lines, lines_of(after if cell is None else sources[cell - 1])
        for kind, start, end, new_start, new_end in difflib.SequenceMatcher(None, old, new, False).get_opcodes():
            if kind != "equal":
                yield Place(start + 1, 1, end + 1, 1, cell), "".join(new[new_start:new_end])
