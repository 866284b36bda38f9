"""Python that LibCST cannot parse: its errors are syntax errors, and the rest of the program is read."""

from __future__ import annotations

import ast
from types import SimpleNamespace

import libcst as cst
import pytest

from clipcheck.python import unread
from clipcheck.python.unread import is_read, parse_module, readable


def fails_with(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def fail(text: str) -> None:
        raise error

    monkeypatch.setattr(cst, "parse_module", fail)


def test_an_error_of_the_parser_keeps_its_message() -> None:
    with pytest.raises(cst.ParserSyntaxError) as raised:
        parse_module("a\nb c\n")
    assert "ParserSyntaxError" not in raised.value.message and "2:" in raised.value.message


def test_a_crash_of_the_parser_is_a_syntax_error(monkeypatch: pytest.MonkeyPatch) -> None:
    fails_with(monkeypatch, AttributeError("'NoneType' object has no attribute 'line'"))
    with pytest.raises(cst.ParserSyntaxError) as raised:
        parse_module("a\n")
    assert raised.value.message == "parser error: error at 1:0: AttributeError"
    assert (raised.value.raw_line, raised.value.raw_column) == (1, 0)
    assert not is_read("a\n")


@pytest.mark.parametrize("error", [RecursionError, MemoryError])
def test_what_does_not_fit_into_memory_is_no_syntax_error(
    monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    fails_with(monkeypatch, error())
    with pytest.raises(error):
        parse_module("a\n")


@pytest.mark.parametrize("error", [SyntaxError, ValueError, RecursionError, MemoryError])
def test_what_the_interpreter_cannot_parse_is_left_alone(
    monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    def fail(text: str) -> None:
        raise error

    monkeypatch.setattr(unread, "ast", SimpleNamespace(parse=fail))
    assert readable("(x): int = 1\n") is None


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("(x): int = 1\n", "_           \n"),
        ("(x): int = 1", "_           "),
        ("a\n(x): int = (\n    1,\n)\nb\n", "a\n_           \n      \n \nb\n"),
        ("a; (x): int = 1; b\n", "_                 \n"),
        # the innermost statement, and what is around it stays
        ("if a:\n    (x): int = 1\n    b\n", "if a:\n    _           \n    b\n"),
        ("if a:\n    b\nelse:\n    (x): int = 1\n", "if a:\n    b\nelse:\n    _           \n"),
        ("for a in b:\n\t(x): int = 1\n", "for a in b:\n\t_           \n"),
        ("try:\n    a\nexcept E:\n    (x): int = 1\n", "try:\n    a\nexcept E:\n    _           \n"),
        ("match a:\n    case 1:\n        (x): int = 1\n", "match a:\n    case 1:\n        _           \n"),
        ("@a\ndef f():\n    (x): int = 1\n", "@a\ndef f():\n    _           \n"),
        ("@a([b async\n    for b in c])\ndef f():\n    d\ne\n", "_          \n                \n        \n     \ne\n"),
        ("(x): int = 1\n(y): int = 1\n", "_           \n_           \n"),
        ("(x): int = 1\r\nb\r\n", "_           \r\nb\r\n"),
        # a line with only a backslash is joined with the next
        ("if x:\n\\\n    pass\n", "if x:\n \n    pass\n"),
        ("if x:\n  \\\n    pass\n", "if x:\n   \n    pass\n"),
    ],
)  # fmt: skip
def test_the_code_around_a_statement_that_is_not_read_is(text: str, left: str) -> None:
    ast.parse(text)
    found = readable(text)
    assert found is not None and len(found) == len(text)
    assert found == left
