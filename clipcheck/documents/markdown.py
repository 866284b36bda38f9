"""Python in documents: the fenced blocks of Markdown, and the code blocks of reStructuredText, each a separate program."""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from clipcheck import extras
from clipcheck.documents.magics import masked
from clipcheck.documents.program import LINE_END, Document, MissingParser, Program, Segment, apply, decoded, without_bom
from clipcheck.documents.sessions import is_session, typed
from clipcheck.rule import Edit

# ```python, ```py3 title="train.py", ```{python}, ```{.python .input}, ```{code-cell} ipython3
# Also the name of a session, such as pycon: the block itself shows whether it has prompts.
_NAMES = r"(?:pycon\d?|i?python-(?:repl|console)|i?python[\d.]*|pyi?|py3)"
_PYTHON = re.compile(
    rf"\{{?[ \t]*(?:code-(?:cell|block)[ \t]*\}}[ \t]*)?\.?{_NAMES}(?![\w+-])|\{{code-cell\}}[ \t]*$", re.IGNORECASE
)
# A block without a language is taken for Python if it contains one of these and is valid Python.
_TORCH_CLIP = re.compile(r"\b(?:clip_grad_norm_?|clip_grad_value_|clip_grads_with_norm_|get_total_norm)\b")
_LINE = re.compile(r"[^\r\n]*(?:\r\n|\n|\r)")
_DIRECTIVE = re.compile(
    r"(?P<indent>[ \t]*)\.\.[ \t]+(?:(?:code-block|code|sourcecode)::[ \t]*(?:pycon\d?|i?python[\d.]*|py3?)|(?:testcode|doctest)::.*)[ \t]*",
    re.IGNORECASE,
)


class _Block(NamedTuple):
    """A code block: its lines of Python with their ends, and what comes before each in the file.

    Of a session, only what was typed is
    Python, and nothing is edited, since its output would no longer match.
    """

    line: int
    texts: tuple[str, ...]
    margins: tuple[str, ...]
    editable: bool


def read(data: bytes) -> Document:
    """The fenced Python of a Markdown file. Raises Unreadable and MissingParser."""
    text, bom = _decoded(data)
    return _document(text, bom, list(_fences(text)), editable=True)


def read_rst(data: bytes) -> Document:
    """The Python code blocks of a reStructuredText file, to be reported and not changed."""
    text, bom = _decoded(data)
    return _document(text, bom, list(_directives(text)), editable=False)


def _decoded(data: bytes) -> tuple[str, bytes]:
    bom, rest = without_bom(data)
    return decoded(rest, "utf-8"), bom


def _document(text: str, bom: bytes, blocks: Sequence[_Block], editable: bool) -> Document:
    starts = [0, *(end.end() for end in LINE_END.finditer(text))]
    found: list[tuple[_Block, Program]] = []
    for block in blocks:
        written = "".join(block.texts)
        python = masked(written)
        if python is not None:
            segment = Segment(0, len(written), block.line, margins=block.margins, editable=editable and block.editable)
            found.append((block, Program(python[0], (segment,), written)))

    def splice(edits: Sequence[Sequence[Edit]]) -> bytes:
        changes = [
            _in_text(starts, block, edit) for (block, _), some in zip(found, edits, strict=True) for edit in some
        ]
        return bom + apply(text, changes).encode()

    return Document(tuple(program for _, program in found), splice, fragments=True)


def _in_text(starts: Sequence[int], block: _Block, edit: Edit) -> Edit:
    """An edit of a block's Python as an edit of the file: every line that it adds gets the block's margin."""
    margin = next((m for m, text in zip(block.margins, block.texts, strict=True) if text.strip()), "")
    (first, column), (last, end_column) = _row_and_column(block, edit.start), _row_and_column(block, edit.end)
    start, end = starts[block.line - 1 + first], starts[block.line - 1 + last]
    if not column and not end_column and (not edit.text or LINE_END.search(edit.text[-1])):  # whole lines
        return Edit(start, end, _LINE.sub(lambda line: margin + line.group(), edit.text))
    text = LINE_END.sub(lambda line_end: line_end.group() + margin, edit.text)
    if not end_column and LINE_END.search(edit.text[-1:]):  # the line below keeps its own margin
        text = text.removesuffix(margin)
    else:
        end += _margin(block, last) + end_column
    return Edit(start + _margin(block, first) + column, end, text)


def _row_and_column(block: _Block, offset: int) -> tuple[int, int]:
    """The index of a block's line, or of the one after its last, and the column from 0."""
    row = 0
    # the last line may have no end: the file ends with it
    while row < len(block.texts) and offset >= len(block.texts[row]) and LINE_END.search(block.texts[row]):
        offset -= len(block.texts[row])
        row += 1
    return row, offset


def _margin(block: _Block, row: int) -> int:
    return len(block.margins[row]) if row < len(block.margins) else 0


# --- Markdown -------------------------------------------------------------------------------------------------------


def _fences(text: str) -> Iterator[_Block]:
    try:
        from markdown_it import MarkdownIt
    except ImportError:
        raise MissingParser(f"Markdown files need markdown-it-py: {extras.command('markdown')}") from None
    parser = MarkdownIt("commonmark")
    parser.core.ruler.enableOnly(["normalize", "block"])
    lines = LINE_END.split(text)
    ends = [*LINE_END.findall(text), ""]
    for token in parser.parse(text):
        if token.type != "fence":
            continue
        assert token.map is not None  # it is a block
        language = token.info.strip()
        if _PYTHON.match(language) if language else _TORCH_CLIP.search(token.content):
            block = _fence(token.map[0] + 1, token.content.removesuffix("\n").split("\n"), lines, ends)
            if block is not None and (language or _parses("".join(block.texts))):
                yield block


def _parses(text: str) -> bool:
    """Whether text is Python."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about escapes in strings, which are not our concern
            ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True


def _fence(first: int, content: Sequence[str], lines: Sequence[str], ends: Sequence[str]) -> _Block | None:
    """The block whose lines start at index `first`; None where Markdown changed them (tabs that it widened)."""
    raw = lines[first : first + len(content)]
    if len(raw) != len(content) or any(not line.endswith(inner) for line, inner in zip(raw, content, strict=True)):
        return None
    inside = [line[len(line) - len(inner) :] for line, inner in zip(raw, content, strict=True)]
    return _block(first, raw, inside, ends)


def _block(first: int, raw: Sequence[str], inside: Sequence[str], ends: Sequence[str]) -> _Block:
    """Lines without the indentation that they share, such as that of an excerpt from a function's body, and without prompts."""
    session = is_session(inside)
    inside = typed(inside) if session else inside
    depth = min((_depth(line) for line in inside if line.strip()), default=0)
    texts = [line[depth:] if line.strip() else "" for line in inside]
    margins = tuple(line[: len(line) - len(text)] for line, text in zip(raw, texts, strict=True))
    ended = tuple(text + ends[first + index] for index, text in enumerate(texts))
    return _Block(first + 1, ended, margins, not session)


# --- reStructuredText -----------------------------------------------------------------------------------------------


def _directives(text: str) -> Iterator[_Block]:
    lines = LINE_END.split(text)
    ends = [*LINE_END.findall(text), ""]
    for index, line in enumerate(lines):
        directive = _DIRECTIVE.fullmatch(line)
        if directive is None:
            continue
        depth = len(directive.group("indent"))
        stop = next(
            (i for i in range(index + 1, len(lines)) if lines[i].strip() and _depth(lines[i]) <= depth), len(lines)
        )
        # options such as `:linenos:` are right below the directive, the code after a blank line
        first = next((i for i in range(index + 1, stop) if not lines[i].strip()), stop)
        while first < stop and not lines[first].strip():
            first += 1
        while not lines[stop - 1].strip():
            stop -= 1
        if first < stop:
            yield _block(first, lines[first:stop], lines[first:stop], ends)


def _depth(line: str) -> int:
    return len(line) - len(line.lstrip(" \t"))
