"""Between a file's bytes and the program texts in it: decode once, and splice edits back into the original bytes."""

from __future__ import annotations

import io
import re
import tokenize
from collections.abc import Sequence

from clipcheck.documents.program import (
    MARKDOWN,
    NOTEBOOK,
    RST,
    Document,
    Program,
    Segment,
    Unreadable,
    apply,
    decoded,
    without_bom,
)
from clipcheck.rule import Edit


def read(path: str, data: bytes) -> Document:
    """The document in a file's bytes, by the ending of its name. Raises Unreadable and MissingParser."""
    suffix = _suffix(path)
    if suffix in NOTEBOOK:
        from clipcheck.documents import notebook

        return notebook.read(data)
    if suffix in MARKDOWN or suffix in RST:
        from clipcheck.documents import markdown

        return markdown.read(data) if suffix in MARKDOWN else markdown.read_rst(data)
    return _python(data)


def is_python(path: str) -> bool:
    """Whether all of a file is one program, by the ending of its name."""
    return _suffix(path) not in (*NOTEBOOK, *MARKDOWN, *RST)


def searchable(path: str, data: bytes) -> bytes:
    """What to search for the rules' words: a notebook's bytes without the escapes that would hide a word's start.

    UTF-16 and UTF-32 are not encodings for Python, but not reporting such a file would say that it is clean.
    """
    data = data.replace(b"\0", b"")
    if _suffix(path) not in NOTEBOOK:
        return data
    if b"\\u00" in data:
        data = re.sub(rb"\\u00([0-7][0-9a-fA-F])", lambda escape: bytes([int(escape.group(1), 16)]), data)
    return data.replace(b"\\n", b"\n").replace(b"\\t", b"\t").replace(b'\\"', b'"')


def encode(path: str, text: str) -> bytes:
    """The bytes to pass to `read` for `text` that is not (yet) in a file. Raises Unreadable."""
    encoding = _declared(path, text.encode("utf-8", "surrogatepass"))
    try:
        return text.encode(encoding)
    except (UnicodeError, LookupError) as error:
        raise Unreadable(f"not {encoding}: {error}") from None


def decode(path: str, data: bytes) -> str:
    """The whole text in a file's bytes, with a byte order mark if there is one. Raises Unreadable."""
    return decoded(data, _declared(path, data))


def _declared(path: str, data: bytes) -> str:
    return _encoding(data) if is_python(path) else "utf-8"


def _suffix(path: str) -> str:
    return path[path.rfind(".") :].lower()  # a name without a dot has none, and no letter is one


def _python(data: bytes) -> Document:
    bom, rest = without_bom(data)
    encoding = _encoding(data)
    text = decoded(rest, encoding)

    def splice(edits: Sequence[Sequence[Edit]]) -> bytes:
        return bom + apply(text, edits[0]).encode(encoding)

    return Document((Program(text, (Segment(0, len(text)),)),), splice)


def _encoding(data: bytes) -> str:
    """The encoding by PEP 263."""
    try:
        name, _ = tokenize.detect_encoding(io.BytesIO(data).readline)
    except SyntaxError as error:
        raise Unreadable(str(error)) from None
    return "utf-8" if name == "utf-8-sig" else name
