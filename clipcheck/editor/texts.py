"""The texts of open documents: split into lines as the protocol does it, places in the client's units."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Sequence
from functools import cached_property, lru_cache
from itertools import accumulate
from urllib.parse import unquote

from lsprotocol import types as lsp
from pygls.protocol import LanguageServerProtocol
from pygls.workspace import TextDocument, Workspace

from clipcheck.rule import Place

_LINE = re.compile(r"[^\r\n]*(?:\r\n|\n|\r)|[^\r\n]+")
# How many units a character takes in the encodings that client and server may agree on.
_UNITS: dict[str, Callable[[str], int]] = {
    "utf-8": lambda char: len(char.encode("utf-8", "surrogatepass")),
    "utf-16": lambda char: 2 if char > "\uffff" else 1,
    "utf-32": lambda char: 1,
}


@lru_cache(maxsize=16)
def lines_of(text: str) -> tuple[str, ...]:
    """The lines with their ends. `str.splitlines` also splits at form feeds and the like, which would move edits.

    Kept for the texts just seen: each finding asks for places in one of them.
    """
    return tuple(_LINE.findall(text))


class Text(TextDocument):
    """The text of a document, or of a notebook's cell, as the client has it now.

    Any position is accepted: one outside of the text is moved to its edge.
    """

    @property
    def lines(self) -> Sequence[str]:
        return lines_of(self.source)

    @property
    def _units(self) -> Callable[[str], int]:
        return _UNITS[self.position_codec.encoding or "utf-16"]

    def apply_change(self, change: lsp.TextDocumentContentChangeEvent) -> None:
        if isinstance(change, lsp.TextDocumentContentChangePartial):
            start, end = sorted((self._offset(change.range.start), self._offset(change.range.end)))
            change = lsp.TextDocumentContentChangeWholeDocument(self.source[:start] + change.text + self.source[end:])
        super().apply_change(change)

    def span(self, place: Place) -> lsp.Range:
        """A place as the client counts it: from 0, and in the units that were agreed on."""
        return lsp.Range(
            self._position(place.line - 1, place.column - 1), self._position(place.end_line - 1, place.end_column - 1)
        )

    def _position(self, line: int, column: int) -> lsp.Position:
        text = self.lines[line] if line < len(self.lines) else ""
        return lsp.Position(line, sum(map(self._units, text[:column])))

    def _offset(self, at: lsp.Position) -> int:
        if at.line >= len(self.lines):
            return len(self.source)
        line = self.lines[at.line].rstrip("\r\n")
        units = [*accumulate(map(self._units, line), initial=0)]
        return sum(map(len, self.lines[: at.line])) + min(bisect_left(units, at.character), len(line))


class _Texts(Workspace):
    def put_text_document(self, text_document: lsp.TextDocumentItem, notebook_uri: str | None = None) -> None:
        super().put_text_document(text_document, notebook_uri)
        one = text_document
        text = Text(one.uri, one.text, one.version, one.language_id, position_codec=self.position_codec)
        self.text_documents[unquote(one.uri)] = text


class Protocol(LanguageServerProtocol):
    """The protocol with texts of this kind."""

    @cached_property
    def workspace(self) -> Workspace:
        was = super().workspace
        return _Texts(was.root_uri, workspace_folders=[*was.folders.values()], position_encoding=was.position_encoding)
