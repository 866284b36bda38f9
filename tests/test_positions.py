"""Every node's position is the one that LibCST's providers report, and its code is the text there."""

from __future__ import annotations

import re
from pathlib import Path

import libcst as cst
import pytest
from conftest import PROJECT
from libcst.metadata import MetadataWrapper, PositionProvider

from clipcheck.python.positions import code, placed

FILES = [*sorted((PROJECT / "clipcheck").rglob("*.py"))[::5], PROJECT / "demo" / "train.py"]
LINE_END = re.compile(r"\r\n|\n|\r")
ODD = {
    "nothing": "",
    "a blank line": "\n",
    "no end of the last line": "def f():\n    return (1)",
    "a comment at the end": "x = 1\n# done",
    "wide characters": "é = '😀'; y = (é)\n",
    "carriage returns": "if x:\r\n    y = (x)  # why\r\n\r\nz = 1\r\n",
    "tabs": "if x:\n\tif y:\n\t\tz = (\n1,\n\t)\n",
    "decorators and comments": "# head\n\n\n@d\n# between\nclass C:\n    # first\n\n    def f(self): pass; x = 1\n    # last\n",
    "joined lines": "x = 1 + \\\n    (2)\n",
}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_places_in_a_file_are_those_of_libcst(path: Path) -> None:
    compare(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("text", ODD.values(), ids=ODD)
def test_the_places_in_an_odd_text_are_those_of_libcst(text: str) -> None:
    compare(text)


def compare(text: str) -> None:
    module = cst.parse_module(text)
    starts = [0, *(end.end() for end in LINE_END.finditer(text))]
    theirs = MetadataWrapper(module, unsafe_skip_copy=True).resolve(PositionProvider)
    ours = placed(text, module)
    assert ours.exact
    assert ours.spans[module] == (0, len(text))
    checked = 0
    for node, place in theirs.items():
        if isinstance(node, (cst.BaseExpression, cst.Arg, cst.BaseSmallStatement, cst.Comment)):
            start, end = (starts[at.line - 1] + at.column for at in (place.start, place.end))
            assert ours.spans[node] == (start, end), text[start:end]
            checked += 1
    assert checked or not text.strip()


def test_the_code_of_an_expression_comes_with_or_without_its_parentheses() -> None:
    module = cst.parse_module("y = (a  +  b)\n")
    match module.body:
        case [cst.SimpleStatementLine(body=[cst.Assign(value=value)])]:
            assert code(module, value) == "a  +  b"
            assert code(module, value, outer=True) == "(a  +  b)"
            return
    raise AssertionError(module)


@pytest.mark.parametrize("text", ["if x:\n    y\n  # c\n ", "x = 1\n\r\ny = 2\r", "\ufeffx = 1\n"])
def test_what_libcst_does_not_reproduce_is_not_exact(text: str) -> None:
    assert not placed(text, cst.parse_module(text)).exact
