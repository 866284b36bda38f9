"""A file's programs: the position of a span in the file, which spans may be edited, and what is written back."""

from __future__ import annotations

import json

import pytest

from clipcheck.documents.program import Document, Unreadable
from clipcheck.documents.read import decode, encode, read, searchable
from clipcheck.rule import Edit, Place


def notebook(*sources: str | list[str], indent: int | None = None) -> bytes:
    cells = [{"cell_type": "code", "source": source} for source in sources]
    return json.dumps({"cells": cells}, indent=indent).encode()


def place(document: Document, stretch: str, program: int = 0) -> Place:
    """The position in the file of the first occurrence of `stretch` in a program."""
    start = document.programs[program].text.index(stretch)
    return document.place(program, start, start + len(stretch))


def replaced(document: Document, stretch: str, new: str, program: int = 0) -> str:
    """The file's text after an edit of one span."""
    start = document.programs[program].text.index(stretch)
    edits: list[list[Edit]] = [[] for _ in document.programs]
    edits[program] = [Edit(start, start + len(stretch), new)]
    return document.splice(edits).decode()


# --- Python -----------------------------------------------------------------------------------------------------------


def test_places_in_python_count_lines_and_columns_from_one_and_end_after_the_stretch() -> None:
    document = read("a.py", b"one\ntwo three\r\nfour\n")
    assert place(document, "one") == Place(1, 1, 1, 4)
    assert place(document, "three") == Place(2, 5, 2, 10)
    assert place(document, "three\r\nfour") == Place(2, 5, 3, 5)
    assert not document.cells
    assert not document.fragments
    assert document.in_file(Place(2, 5, 3, 5)) == Place(2, 5, 3, 5)


def test_lines_are_shown_without_their_ends() -> None:
    document = read("a.py", b"one\r\ntwo\rthree\n")
    assert document.lines(None, 0) == {1: "one", 2: "two", 3: "three", 4: ""}


def test_a_byte_order_mark_stays_and_counts_no_column() -> None:
    document = read("a.py", b"\xef\xbb\xbfone = 1\n")
    assert place(document, "one") == Place(1, 1, 1, 4)
    assert document.splice([[Edit(0, 3, "two")]]) == b"\xef\xbb\xbftwo = 1\n"


def test_the_declared_encoding_is_that_of_what_is_written() -> None:
    document = read("a.py", "# coding: latin-1\né = 1\n".encode("latin-1"))
    assert document.splice([[Edit(18, 19, "ü")]]) == "# coding: latin-1\nü = 1\n".encode("latin-1")


@pytest.mark.parametrize(
    ("path", "data"),
    [
        ("a.py", b"x = '\xff'"),
        ("a.py", b"# coding: nonsense\n"),
        ("a.py", b"\xef\xbb\xbf# coding: latin-1\n"),
        ("a.py", b"# coding: utf-7\nx = '+AGE-'\n"),  # decodes, but is spelled otherwise when it is written
        ("a.md", b"\xff"),
        ("a.rst", b"\xff"),
        ("a.ipynb", b"\xff"),
        ("a.ipynb", b"{"),
        ("a.ipynb", b"[]"),
        ("a.ipynb", b'{"nbformat": 4}'),
    ],
)
def test_a_file_that_cannot_be_read_is_an_error(path: str, data: bytes) -> None:
    with pytest.raises(Unreadable, match=r"^(not|unknown|encoding|utf-7|.*coding)"):
        read(path, data)


@pytest.mark.parametrize("path", ["a.py", "a", "folder.md/a", "a.pyi", "A.PY"])
def test_other_names_are_python(path: str) -> None:
    assert read(path, b"```python\nx\n```\n").programs[0].text == "```python\nx\n```\n"


@pytest.mark.parametrize("path", ["a.md", "A.MD", "b.py.md", "a.markdown", ".md"])
def test_names_of_markdown(path: str) -> None:
    assert read(path, b"```python\nx\n```\n").programs[0].text == "x\n"


def test_text_is_encoded_as_its_file_would_be() -> None:
    assert encode("a.py", "# coding: latin-1\n'é'") == b"# coding: latin-1\n'\xe9'"
    assert encode("a.md", "# coding: latin-1\n'é'") == "# coding: latin-1\n'é'".encode()
    assert decode("a.py", b"# coding: latin-1\n'\xe9'") == "# coding: latin-1\n'é'"
    assert decode("a.md", "# coding: latin-1\n'é'".encode()) == "# coding: latin-1\n'é'"
    assert decode("a.py", b"\xef\xbb\xbfx") == "\ufeffx"
    with pytest.raises(Unreadable):
        encode("a.py", "# coding: latin-1\n'€'")


def test_the_searched_text_includes_words_that_a_notebook_escapes() -> None:
    assert (
        searchable("a.ipynb", rb'"import torch\nclip\tand\"more\u0063\u00e9"')
        == b'"import torch\nclip\tand"morec\\u00e9"'
    )
    assert searchable("a.py", rb'"torch\nclip"') == rb'"torch\nclip"'


# --- notebooks --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("as_lists", [True, False])
def test_positions_in_a_notebook_are_relative_to_the_cell(as_lists: bool) -> None:
    sources = ["one\ntwo", "three\nfour five\n", "six"]
    cells = [source.splitlines(keepends=True) if as_lists else source for source in sources]
    document = read("a.ipynb", notebook(*cells))
    assert document.cells
    assert place(document, "one") == Place(1, 1, 1, 4, 1)
    assert place(document, "two") == Place(2, 1, 2, 4, 1)
    assert place(document, "three\nfour") == Place(1, 1, 2, 5, 2)
    assert place(document, "five") == Place(2, 6, 2, 10, 2)
    assert place(document, "six") == Place(1, 1, 1, 4, 3)
    assert document.lines(2, 0) == {1: "three", 2: "four five", 3: ""}


def test_a_span_that_leaves_its_cell_ends_with_the_cell_and_is_in_no_segment() -> None:
    document = read("a.ipynb", notebook("one", "two"))
    (program,) = document.programs
    assert program.text == "one\n\ntwo\n"
    assert document.place(0, 0, 8) == Place(1, 1, 2, 1, 1)
    assert document.segment(0, 0, 8) is None
    assert document.segment(0, 0, 5) is None
    assert document.segment(0, 0, 4) == program.segments[0]
    assert document.segment(0, 5, 9) == program.segments[1]
    assert document.segment(0, 4, 5) is None


def test_the_end_of_a_cell_is_never_the_start_of_the_next() -> None:
    for first in ("one\n", "one", "one\r"):
        (program,) = read("a.ipynb", notebook(first, "two")).programs
        assert program.text == first + ("" if first.endswith(("\n", "\r")) else "\n") + "\ntwo\n"


def test_numbers_count_all_cells() -> None:
    cells = [
        {"cell_type": "markdown", "source": "prose"},
        {"cell_type": "code", "source": "one"},
        {"cell_type": "code", "source": []},
        {"cell_type": "code"},
        "no cell",
        {"cell_type": "code", "source": "two"},
    ]
    document = read("a.ipynb", json.dumps({"cells": cells}).encode())
    assert place(document, "one").cell == 2
    assert place(document, "two").cell == 6


@pytest.mark.parametrize(
    ("source", "written"),
    [
        ('"one\\ntwo\\n"', '"1\\ntwo\\n"'),
        ('["one\\n", "two"]', '["1\\n", "two"]'),
        ('[ "one\\n" ,"two" ]', '[ "1\\n" ,"two" ]'),
        ('["one"]', '["1"]'),
        ('"\\u006fne"', '"1"'),
        ('["x\\u00e9\\n", "one é"]', '["x\\u00e9\\n", "1 é"]'),
    ],
)
def test_a_cell_keeps_its_json_format(source: str, written: str) -> None:
    data = '{"cells": [{"cell_type": "code", "source": %s}], "x": "é"}'
    document = read("a.ipynb", (data % source).encode())
    assert replaced(document, "one", "1") == data % written


@pytest.mark.parametrize(
    ("sources", "old", "new", "written"),
    [
        (["one\n", "two"], "two", "2\n3", ["one\n", "2\n", "3"]),
        (["one\n", "two"], "two\n", "2\n3\n", ["one\n", "2\n", "3"]),
        (["one\n", "two"], "one\n", "", ["two"]),
        (["one\n", "two\n"], "two\n", "", ["one\n"]),
        (["one"], "one", "é", ["\u00e9"]),
        ("one\ntwo", "one\n", "", "two"),
        ("one", "one", "", ""),
        (["one"], "one", "", []),
    ],
)
def test_lines_of_a_cell_can_be_added_and_removed(
    sources: str | list[str], old: str, new: str, written: str | list[str]
) -> None:
    document = read("a.ipynb", notebook(sources))
    assert replaced(document, old, new) == notebook(written).decode()


@pytest.mark.parametrize("as_list", [True, False])
def test_places_in_the_file_itself(as_list: bool) -> None:
    source = 'one "x" \\ é\ntwo'
    data = notebook("zero", source.splitlines(keepends=True) if as_list else source, indent=1)
    document = read("a.ipynb", data)
    lines = data.decode().splitlines()

    def shown(at: Place) -> str:
        """The text of the file between the two ends of a position."""
        found = document.in_file(at)
        assert found.cell is None
        assert found.line == found.end_line
        return lines[found.line - 1][found.column - 1 : found.end_column - 1]

    assert shown(Place(1, 1, 1, 4, 2)) == "one"
    assert shown(Place(1, 5, 1, 8, 2)) == r"\"x\""
    assert shown(Place(1, 9, 1, 10, 2)) == r"\\"
    assert shown(Place(1, 11, 1, 12, 2)) == r"\u00e9"
    assert shown(Place(1, 11, 1, 99, 2)) == r"\u00e9"
    assert shown(Place(2, 1, 2, 4, 2)) == "two"
    assert shown(Place(2, 2, 2, 3, 2)) == "w"
    assert shown(Place(1, 1, 1, 5, 1)) == "zero"
    assert shown(Place(3, 1, 3, 1, 2)) == ""


def test_isolated_cells_are_separate_programs() -> None:
    document = read("a.ipynb", notebook("one", "%%writefile a.py\ntwo", "three"))
    assert [program.text for program in document.programs] == ["one\n\nthree\n", "_               \ntwo\n"]
    assert place(document, "two", 1) == Place(2, 1, 2, 4, 2)
    assert place(document, "three") == Place(1, 1, 1, 6, 3)
    assert replaced(document, "two", "2", 1) == notebook("one", "%%writefile a.py\n2", "three").decode()
    assert document.lines(2, 1) == {1: "%%writefile a.py", 2: "two", 3: ""}


# --- Markdown and reStructuredText ------------------------------------------------------------------------------------

GUIDE = "# Guide\n\n> - ```python\n>   if one:\n>       two(three,\n>   \tfour)\n>   ```\n\n```py\nfive\n```\n"


def test_positions_in_markdown_are_those_of_the_file() -> None:
    document = read("a.md", GUIDE.encode())
    assert document.fragments
    assert not document.cells
    lines = GUIDE.splitlines()
    first = place(document, "two(three,\n\tfour)")
    assert first == Place(5, lines[4].index("two") + 1, 6, lines[5].index(")") + 2)
    assert place(document, "if") == Place(4, 5, 4, 7)
    assert place(document, "five", 1) == Place(10, 1, 10, 5)
    assert document.lines(None, 1)[10] == "five"
    assert {n: document.lines(None, 0)[n] for n in (4, 5, 6)} == {n: lines[n - 1] for n in (4, 5, 6)}


def test_an_edit_of_markdown_changes_nothing_else() -> None:
    document = read("a.md", GUIDE.encode())
    assert replaced(document, "three", "3") == GUIDE.replace("three", "3")
    assert replaced(document, "five", "5", 1) == GUIDE.replace("five", "5")
    assert replaced(document, "five", "5\n6", 1) == GUIDE.replace("five", "5\n6")
    assert replaced(document, "if one:", "if 1:\n    x = 1") == GUIDE.replace("if one:", "if 1:\n>       x = 1")


RST = """\
Guide
=====

.. code-block:: python
   :linenos:

   one
   if two:

       three

Prose.

  .. code:: py

     four
     .. code:: py

.. code-block:: bash

   five

.. testcode::

   six
.. sourcecode:: python3

..   seven
"""


def test_blocks_of_restructured_text() -> None:
    document = read("a.rst", RST.encode())
    assert [program.text for program in document.programs] == [
        "one\nif two:\n\n    three\n",
        "four\n.. code:: py\n",
        "six\n",
    ]
    assert place(document, "one") == Place(7, 4, 7, 7)
    assert place(document, "three") == Place(10, 8, 10, 13)
    assert place(document, "four", 1) == Place(16, 6, 16, 10)
    assert place(document, "six", 2) == Place(25, 4, 25, 7)
    assert not any(segment.editable for program in document.programs for segment in program.segments)


def test_blocks_of_markdown_and_cells_may_be_edited() -> None:
    for document in (read("a.md", GUIDE.encode()), read("a.ipynb", notebook("one")), read("a.py", b"one")):
        assert all(segment.editable for program in document.programs for segment in program.segments)
