"""A file's programs: the position of a span in the file, which spans may be edited, and what is written back."""

from __future__ import annotations

import json
import warnings

import pytest

from clipcheck.documents.magics import masked
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
        ("a.py", b"# coding: rot13\n"),  # no encoding of text
        ("a.py", b"\xef\xbb\xbf# coding: latin-1\n"),
        ("a.py", b"# coding: utf-7\nx = '+AGE-'\n"),  # decodes, but is spelled otherwise when it is written
        ("a.md", b"\xff"),
        ("a.rst", b"\xff"),
        ("a.ipynb", b"\xff"),
        ("a.ipynb", b"{"),
        ("a.ipynb", b"[]"),
        ("a.ipynb", b'["cells"]'),
        ("a.ipynb", b'"cells"'),
        ("a.ipynb", b"[" * 100_000),
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
    for text in ("# coding: latin-1\n'€'", "# coding: rot13\n"):
        with pytest.raises(Unreadable):
            encode("a.py", text)


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


def test_a_document_without_programs_has_no_cells() -> None:
    for path, data in (("a.rst", b""), ("a.md", b""), ("a.ipynb", b'{"cells": []}')):
        document = read(path, data)
        assert (document.programs, document.cells, document.splice([])) == ((), False, data)


def test_blocks_of_markdown_and_cells_may_be_edited() -> None:
    for document in (read("a.md", GUIDE.encode()), read("a.ipynb", notebook("one")), read("a.py", b"one")):
        assert all(segment.editable for program in document.programs for segment in program.segments)


@pytest.mark.parametrize(
    ("data", "texts"),
    [
        ({"cells": 3}, []),
        ({"cells": {"a": 1}}, []),
        ({"worksheets": 3}, []),
        ({"worksheets": [1, "{", [], {"cells": 3}, {}]}, []),
        ({"cells": [1, "x", None, [], {}, {"source": "x"}]}, []),
        ({"cells": [{"cell_type": kind, "source": "x"} for kind in ("markdown", "raw", None, 1)]}, []),
        ({"cells": [{"cell_type": "code", "source": source} for source in (3, None, {}, [], "", [1], ["x", 1])]}, []),
        ({"cells": [{"cell_type": "code", "source": "x"}], "worksheets": []}, []),
        ({"worksheets": [{"cells": [{"cell_type": "code", "input": "x"}]}, {"cells": [{"cell_type": "code", "input": ["y"]}]}]}, ["x\n\ny\n"]),
        ({"cells": [{"cell_type": "code", "source": "x", "input": "y"}]}, ["x\n"]),
    ],
)  # fmt: skip
@pytest.mark.parametrize("indent", [None, 1])
def test_a_notebook_of_any_shape_is_read(data: object, texts: list[str], indent: int | None) -> None:
    raw = json.dumps(data, indent=indent).encode()
    document = read("a.ipynb", raw)
    assert [program.text for program in document.programs] == texts
    assert document.splice([[] for _ in texts]) == raw


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        (None, True),
        ([], True),
        ({}, True),
        ({"kernelspec": None, "language_info": 3}, True),
        ({"kernelspec": {"language": "Python"}}, True),
        ({"kernelspec": {"language": "sagemath"}}, True),
        ({"kernelspec": {"language": "python"}, "language_info": {"name": "julia"}}, True),
        ({"language_info": {"name": "ipython"}}, True),
        ({"kernelspec": {"language": 3, "name": "python3"}}, True),
        *(({"kernelspec": {"name": name}}, True) for name in ("python3", "my-env", "conda-env-ir-py", "", None, 3)),
        ({"kernelspec": {"language": "R"}}, False),
        ({"kernelspec": {"language": "julia"}, "language_info": {"name": "python"}}, False),
        ({"kernelspec": {"name": "python3"}, "language_info": {"name": "scala"}}, False),
        ({"kernelspec": {"language": 3, "name": "ir"}}, False),
        *(
            ({"kernelspec": {"name": name}}, False)
            for name in "ir IR julia-1.10 bash javascript deno scala rust xcpp17 cpp swift .net-csharp octave matlab sql".split()
        ),
    ],
)
def test_whether_a_notebook_is_of_python(metadata: object, expected: bool) -> None:
    data = {"cells": [{"cell_type": "code", "source": "x"}], "metadata": metadata}
    assert len(read("a.ipynb", json.dumps(data).encode()).programs) == expected


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({}, True),
        ({"metadata": {}}, True),
        ({"metadata": 3}, True),
        ({"metadata": {"vscode": 3}}, True),
        ({"metadata": {"vscode": {}}}, True),
        ({"metadata": {"vscode": {"languageId": 3}}}, True),
        ({"metadata": {"vscode": {"languageId": "Python"}}}, True),
        ({"metadata": {"vscode": {"languageId": ""}}}, True),
        ({"metadata": {"vscode": {"languageId": "python"}}, "language": "r"}, True),
        ({"language": "PYTHON"}, True),
        ({"language": ""}, True),
        ({"language": None}, True),
        ({"metadata": {"vscode": {"languageId": "r"}}}, False),
        ({"language": "r"}, False),
        ({"metadata": {"vscode": None}, "language": "r"}, False),
    ],
)
def test_whether_a_cell_is_of_python(more: dict[str, object], expected: bool) -> None:
    data = {"cells": [{"cell_type": "code", "source": "x", **more}]}
    assert len(read("a.ipynb", json.dumps(data).encode()).programs) == expected


@pytest.mark.parametrize(
    ("lines", "indent"),
    [
        (["one\n", "two"], None),
        *((lines, indent) for lines in (["one\n", "two"], ["one"], ["one\n"]) for indent in (0, 1, 2, "\t")),
    ],
)
def test_a_line_that_is_added_is_written_as_its_neighbors_are(lines: list[str], indent: int | str | None) -> None:
    def book(lines: list[str]) -> str:
        cell = {"cell_type": "code", "source": lines, "outputs": []}
        return json.dumps({"cells": [cell, cell], "nbformat": 4}, indent=indent)

    document = read("a.ipynb", book(lines).encode())
    segment = document.programs[0].segments[0]
    after = document.splice([[Edit(segment.start, segment.start, "zero\n")]]).decode()
    first, second = json.loads(after)["cells"]
    assert (first["source"], second["source"]) == (["zero\n", *lines], lines)
    together = json.loads(book(lines))
    together["cells"][0]["source"] = ["zero\n", *lines]
    assert after == json.dumps(together, indent=indent)


@pytest.mark.parametrize(
    ("source", "new", "written"),
    [
        ('"one"', "é", '"\\u00e9"'),  # nothing in the file is more than ASCII
        ('"one\\n", "ü"', "é", '"é\\n", "ü"'),
        ('"\\u00fc one\\n", "ü"', "é", '"\\u00fc \\u00e9\\n", "ü"'),  # as in the same line
        ('"ü one\\n", "\\u00fc"', "é", '"ü é\\n", "\\u00fc"'),
        ('"one\\n", "ü\\n", "\\ud83d"', "é", '"é\\n", "ü\\n", "\\ud83d"'),
        ('"one \\ud83d\\n", "ü"', "é", '"\\u00e9 \\ud83d\\n", "ü"'),  # half a character
    ],
)
def test_a_changed_line_is_escaped_as_its_neighbors_are(source: str, new: str, written: str) -> None:
    data = '{"cells": [{"cell_type": "code", "source": [%s]}]}'
    assert replaced(read("a.ipynb", (data % source).encode()), "one", new) == data % written


@pytest.mark.parametrize("half", [0xD800, 0xD83D, 0xDFFF])
def test_a_line_with_half_a_character_can_be_written_where_nothing_else_is_escaped(half: int) -> None:
    data = '{"cells": [{"cell_type": "code", "source": ["ü\\n", "one"]}]}'
    document = read("a.ipynb", data.encode())
    spelled = f'"\\u{half:04x}\\n", "\ud7ff\ue000"'
    assert replaced(document, "one", f"{chr(half)}\n\ud7ff\ue000") == data.replace('"one"', spelled)


def test_in_a_long_cell_only_the_changed_line_is_spelled_again() -> None:
    lines = ['"\\u0078\\n"'] * 300
    data = '{"cells": [{"cell_type": "code", "source": [%s]}]}'
    for before, after in ((['"one\\n"', *lines], ['"1\\n"', *lines]), ([*lines, '"one"'], [*lines, '"1"'])):
        document = read("a.ipynb", (data % ", ".join(before)).encode())
        assert replaced(document, "one", "1") == data % ", ".join(after)


def test_a_last_line_that_is_replaced_with_its_end() -> None:
    document = read("a.ipynb", notebook("a\nb", "c"))
    assert document.splice([[Edit(2, 4, "d")]]) == notebook("a\nd", "c")
    assert document.splice([[Edit(2, 4, "d\n")]]) == notebook("a\nd", "c")


@pytest.mark.parametrize("line_end", ["\\n", "\\u000a", "\\u000A"])
def test_places_in_a_string_of_several_lines(line_end: str) -> None:
    raw = f'"one \\ud83d\\ude00 two{line_end}{line_end}  three\\r{line_end}four"'
    data = f'{{"cells":\n [{{"cell_type": "code", "source": {raw}}}]}}'
    document = read("a.ipynb", data.encode())

    def shown(at: Place) -> str:
        found = document.in_file(at)
        assert (found.line, found.end_line, found.cell) == (2, 2, None)
        return data.split("\n")[1][found.column - 1 : found.end_column - 1]

    assert shown(Place(1, 1, 1, 4, 1)) == "one"
    assert shown(Place(1, 5, 1, 6, 1)) == "\\ud83d\\ude00"
    assert shown(Place(1, 7, 1, 10, 1)) == "two"
    assert shown(Place(1, 7, 1, 99, 1)) == "two"
    assert shown(Place(1, 7, 3, 4, 1)) == f"two{line_end}{line_end}  t"
    assert shown(Place(2, 1, 2, 1, 1)) == ""
    assert shown(Place(2, 1, 3, 1, 1)) == line_end
    assert shown(Place(3, 3, 3, 8, 1)) == "three"
    assert shown(Place(4, 1, 4, 5, 1)) == "four"
    assert shown(Place(4, 4, 5, 1, 1)) == "r"


@pytest.mark.parametrize(
    ("cell", "hidden", "apart"),
    [
        ("x = 1", [], False),
        ("%%time\nx", ["%%time"], False),
        (" %%time  \nx", [" %%time  "], False),
        ("%%time\n%%capture out\nx", ["%%time", "%%capture out"], False),
        ("\n \t\r\n%%time -n 3\nx", ["%%time -n 3"], False),
        *((f"%%{name}\nx", [f"%%{name}"], False) for name in "capture debug heat memit mprun prun pypy snakeviz tab\tall time timeit wandb".split(" ")),
        ("%%tab mxnet, torch\nx", ["%%tab mxnet, torch"], False),
        ("%%tab pytorch", ["%%tab pytorch"], False),
        ("%%python\nx", ["%%python"], True),
        ("%%time\n%%python3\nx", ["%%time", "%%python3"], True),
        ("%%python3\n%%time\nx", ["%%python3", "%%time"], True),
        ("%%writefile a.py\nx", ["%%writefile a.py"], True),
        ("%%file  b.py  \nx", ["%%file  b.py  "], True),
        ("x\n%%time", ["%%time"], False),
        # lines
        ("!ls -l\nx", ["!ls -l"], False),
        ("if x:\n    !ls -l\n    y", ["!ls -l"], False),
        ("!ls \\\n  -l \\\r\n  -h\nx", ["!ls \\\n  -l \\\r\n  -h"], False),
        ("!ls \\", ["!ls \\"], False),
        ("?x\nx?\nx.y??\n%x?\nx[0]?  # c", ["?x", "x?", "x.y??", "%x?", "x[0]?  # c"], False),
        ("%matplotlib inline", ["%matplotlib inline"], False),
        *((f"{name} install x", [f"{name} install x"], False) for name in ("pip", "pip3", "conda", "mamba")),
        ("pip uninstall x\nconda list", ["pip uninstall x", "conda list"], False),
        ("pip = 3\npip.install", [], False),
        ("%time for x in y: pass", ["%time for x in y: pass"], False),
        ("%timeit f(x)", ["%timeit f(x)"], False),
        ("%time", ["%time"], False),
        ("files = !ls", ["!ls"], False),
        ("a, b.c[0] = %f 1 \\\n  2\nx", ["%f 1 \\\n  2"], False),
        ("x == a % b", [], False),
        ("x = a \\\n%b", [], False),
        ("x = (a\n%b)\n!y", ["!y"], False),
        ("x = [a,\n{b: (c\n%d)}\n%e]\n%f", ["%f"], False),
        (")\n!x", ["!x"], False),
        ("# (\n%x", ["%x"], False),
        ('x = """\n!a\n"""\n!b', ["!b"], False),
        ("x = '''\n!a\\'''\n!b'''; y\n!c", ["!c"], False),
        ("x = '('\n!b", ["!b"], False),
        ("x = 'a\\\n!b'\n!c", ["!c"], False),
        ("x = '\n!c", ["!c"], False),
        ('x = """\n!a', [], False),
        ("x = 1; !a", [], False),
        ("x != y", [], False),
    ],
)  # fmt: skip
def test_what_is_not_python_in_a_cell_is_masked(cell: str, hidden: list[str], apart: bool) -> None:
    expected, at = "", 0
    for part in hidden:
        start = cell.index(part, at)
        expected += cell[at:start] + "_" + "".join(c if c in "\r\n" else " " for c in part[1:])
        at = start + len(part)
    assert masked(cell) == (expected + cell[at:], apart)


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        ("%time f(x)", "_;    f(x)"),
        ("  %time  f(x)", "  _;     f(x)"),
        ("%time x = 1", "_;    x = 1"),
        ("%time (x)", "_;    (x)"),
        ("%time [x]", "_;    [x]"),
        ("%time form(x)", "_;    form(x)"),
        ("x = '\ud83d'", "x = '\ufffd'"),
    ],
)
def test_what_a_line_magic_runs_is_read(cell: str, expected: str) -> None:
    assert masked(cell) == (expected, False)


@pytest.mark.parametrize(
    "cell",
    ["%%bash\nx", "%%time\n%%html\nx", "%%tab mxnet\nx", "%%tab\nx", "%%writefile a.txt\nx", "%%file a\nx", "%%writefile a.py.txt\nx", "\n%%perl"],
)  # fmt: skip
def test_cells_that_are_not_python(cell: str) -> None:
    assert masked(cell) is None


# --- edits of blocks --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("edit", "lines"),
    [
        (Edit(0, 3, "1"), ["1 = 1", "two = 2", "", "  three"]),
        (Edit(3, 3, "s"), ["ones = 1", "two = 2", "", "  three"]),
        (Edit(0, 0, "zero\n"), ["zero", "one = 1", "two = 2", "", "  three"]),
        (Edit(8, 8, "zero\n\n"), ["one = 1", "zero", "", "two = 2", "", "  three"]),
        (Edit(8, 16, ""), ["one = 1", "", "  three"]),
        (Edit(0, 16, "1\n2\n"), ["1", "2", "", "  three"]),
        (Edit(6, 8, "3\n4 + "), ["one = 3", "4 + two = 2", "", "  three"]),
        (Edit(7, 7, "\n4"), ["one = 1", "4", "two = 2", "", "  three"]),
        (Edit(6, 15, "3"), ["one = 3", "", "  three"]),
        (Edit(8, 8, "x + "), ["one = 1", "x + two = 2", "", "  three"]),
        (Edit(19, 24, "3"), ["one = 1", "two = 2", "", "  3"]),
        (Edit(17, 25, ""), ["one = 1", "two = 2", ""]),
        (Edit(25, 25, "four\n"), ["one = 1", "two = 2", "", "  three", "four"]),
        (Edit(24, 24, "\n  4"), ["one = 1", "two = 2", "", "  three", "  4"]),
        (Edit(24, 25, "\n  4\n"), ["one = 1", "two = 2", "", "  three", "  4"]),
        (Edit(6, 8, "3\n4\n"), ["one = 3", "4", "two = 2", "", "  three"]),
        (Edit(6, 16, "3\n"), ["one = 3", "", "  three"]),
        (Edit(3, 3, "s\n"), ["ones", " = 1", "two = 2", "", "  three"]),
        (Edit(0, 3, "x\n"), ["x", " = 1", "two = 2", "", "  three"]),
        (Edit(8, 8, "a\nb + "), ["one = 1", "a", "b + two = 2", "", "  three"]),
    ],
)
@pytest.mark.parametrize("margin", ["", "> ", "    ", "> > "])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_an_edit_of_a_block_keeps_its_margin(edit: Edit, lines: list[str], margin: str, end: str) -> None:
    head = "1. item\n\n" if margin == "    " else ""

    def guide(lines: list[str]) -> str:
        text = "".join(f"{margin}{line}\n" if line else f"{margin.rstrip()}\n" for line in ["```python", *lines, "```"])
        return f"{head}{text}after\n"

    before = ["one = 1", "two = 2", "", "  three"]
    document = read("a.md", guide(before).replace("\n", end).encode())
    (program,) = document.programs
    assert program.text == end.join([*before, ""])

    def moved(at: int) -> int:
        """An offset in the text with line ends of any length."""
        return at + ("\n".join(before)[:at].count("\n") + (at == 25)) * (len(end) - 1)

    edits = [Edit(moved(edit.start), moved(edit.end), edit.text.replace("\n", end))]
    after = document.splice([edits]).decode().replace(end, "\n")
    assert [line.rstrip() for line in after.split("\n")] == [line.rstrip() for line in guide(lines).split("\n")]


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("```python", 0),
        ("```python\n", 1),
        ("- ```python\n\tx\n  ```\n", 0),  # Markdown widens the tab, half of which is indentation
        ("- ```python\n  y\n\tx\n  ```\n", 0),
        ("- ```python\n  y\n  \tx\n  ```\n", 1),
        ("1.  ```python\n\tx\n    ```\n", 1),
    ],
)
def test_a_block_is_read_where_its_lines_are_those_of_the_file(text: str, count: int) -> None:
    assert len(read("a.md", text.encode()).programs) == count


def test_a_line_above_all_others_gets_the_margin_of_those_with_text() -> None:
    document = read("a.md", b"> ```python\n>\n> x\n> ```\n")
    assert document.splice([[Edit(1, 1, "y\n")]]) == b"> ```python\n>\n> y\n> x\n> ```\n"
    assert document.splice([[Edit(1, 2, "y\nz")]]) == b"> ```python\n>\n> y\n> z\n> ```\n"
    assert document.splice([[Edit(0, 0, "y\n")]]) == b"> ```python\n> y\n>\n> x\n> ```\n"


def test_no_warning_about_text_that_may_be_python() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(read("a.md", b"```\nclip_grad_norm_('\\d')\n```\n").programs) == 1


def test_a_block_that_ends_with_the_file() -> None:
    for text in ("```python\nx = 1", "~~~py\nx = 1"):
        document = read("a.md", text.encode())
        assert replaced(document, "1", "2") == text.replace("1", "2")
        assert document.splice([[Edit(5, 5, "\ny")]]) == f"{text}\ny".encode()
        assert document.splice([[Edit(0, 0, "y\n")]]) == text.replace("x", "y\nx").encode()


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("    x\n      y\n\n    z", "x\n  y\n\nz\n"),
        ("\tx\n\t  y", "x\n  y\n"),
        ("\n", "\n\n"),
        ("  \n x", "\nx\n"),
        ("x\n>>> y", "x\n>>> y\n"),
        ("\n >>> x\n ... y\n1\n >>> z", "\nx\ny\n\nz\n"),
    ],
)
def test_the_text_of_a_block(content: str, text: str) -> None:
    (program,) = read("a.md", f"```python\n{content}\n```\n".encode()).programs
    assert program.text == text
    assert program.segments[0].editable is (">>> z" not in content)


@pytest.mark.parametrize(
    "content",
    [
        "torch.nn.utils.clip_grad_norm_(x",
        "clip_grad_norm_(x)\0",
        "x" * 10,
        "(" * 5000 + "clip_grad_norm_",
        "clip_grad_norm_(" + "-" * 50_000 + "1)",
    ],
)
def test_a_block_without_a_language_has_to_be_python_that_clips(content: str) -> None:
    assert read("a.md", f"```\n{content}\n```\n".encode()).programs == ()


@pytest.mark.parametrize(
    ("text", "programs"),
    [
        (".. code:: python\n", []),
        (".. code:: python\n\n\n", []),
        (".. code:: python\n   :linenos:\n", []),
        (".. code:: python\n   x\n", []),  # no blank line
        (".. code:: python\nx\n", []),
        (".. code:: python\nprose\n\n   x\n", []),
        (".. code:: python\n\nx\n", []),
        ("  .. code:: python\n\n  x\n", []),
        (".. code:: bash\n\n   x\n", []),
        (".. note:: python\n\n   x\n", []),
        (".. code:: python\n\n   x", ["x"]),
        (".. code:: python\n\n   x\n\n\n", ["x\n"]),
        (".. code:: python\n\n   x\n\n \nprose\n", ["x\n"]),
        (".. code:: python\n   :linenos:\n   :a: b\n\n\n   x\n     y\n", ["x\n  y\n"]),
        ("  .. code:: python\n\n   x\n\n   y\n  prose\n", ["x\n\ny\n"]),
        (".. code:: python\n\n   x\n\n.. code:: python\n\n   y\n", ["x\n", "y\n"]),
        (".. sourcecode:: PyCon\n\n   >>> x\n   1\n", ["x\n\n"]),
        (".. testcode::\n\n   x\n", ["x\n"]),
        (".. testcode:: group\n\n   x\n", ["x\n"]),
        (".. CODE-BLOCK::   ipython3  \n\n\tx\n", ["x\n"]),
    ],
)
def test_where_a_block_of_restructured_text_ends(text: str, programs: list[str]) -> None:
    for end in ("\n", "\r\n"):
        document = read("a.rst", text.replace("\n", end).encode())
        assert [program.text.replace(end, "\n") for program in document.programs] == programs


def test_half_a_character_in_text_without_a_file_is_an_error() -> None:
    for path in ("a.py", "a.md", "a.ipynb"):
        with pytest.raises(Unreadable, match=r"not utf-8|encoding declaration"):
            encode(path, "x = '\ud83d'")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32-be"])
def test_words_are_searched_for_in_every_unicode_encoding(encoding: str) -> None:
    assert b"clip_grad" in searchable("a.py", f"{'x' * 300}\nclip_grad".encode(encoding))
    assert b"clip_grad" in searchable("a.py", b"x" * 300 + "clip_grad".encode(encoding))
