"""The harness of `make fuzz` finds what it looks for, and a short run of it finds nothing."""

from __future__ import annotations

import ast
import re
from typing import Any

import pytest

pytest.importorskip("torch", reason="needs the extra clipcheck[torch]")

import fuzz
from fuzz_modules import TAG, File, decorated, file_of, is_python, module

from clipcheck.engine.results import FileReport
from clipcheck.rule import INVALID_SYNTAX, Finding, Place

TEXT = "keep_1 = 2\nx = old  # c1c\n"
FIXED = "keep_1 = 2\nx = new  # c1c\n"


@pytest.mark.slow
def test_random_modules_are_fixed_without_any_loss() -> None:
    said: list[str] = []
    outcomes = fuzz.run(150, 7, say=said.append)
    assert said == []
    assert len(outcomes) == 150
    assert len({code for one in outcomes for code in one.fixed}) >= 8, "a run that fixes little shows little"


def pretended(monkeypatch: pytest.MonkeyPatch, after: str, before: str = TEXT, **more: Any) -> fuzz.Outcome:
    """What the harness reports for a linter that turns `before` into `after`."""
    finding = Finding("x.py", Place(2, 5, 2, 8), "CLIP002", "old", "`old` is found")

    def check_file(path: str, data: bytes, settings: object) -> FileReport:
        if data == before.encode():
            return FileReport(path, data, fixed=(finding,), fixed_data=after.encode(), **more)
        return FileReport(path, data)

    monkeypatch.setattr(fuzz, "check_file", check_file)
    return fuzz.outcome(File("x.py", before.encode()), fuzz.ALL)


def test_a_right_fix_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    assert pretended(monkeypatch, FIXED) == fuzz.Outcome("", "", ("CLIP002",))


@pytest.mark.parametrize(
    ("after", "kind"),
    [
        ("keep_1 = 2\nx = new\n", "lost comment"),
        ("keep_1 = 2\n# c1c\nx = new  # c1c\n", "new comment"),
        ("keep_1 = 2\n# c1c x = new\n", "lost comment"),
        ("keep_1  = 2\nx = new  # c1c\n", "touched line"),
        ("x = new  # c1c\n", "touched line"),
        ("keep_1 = 2\r\nx = new  # c1c\n", "touched line"),
        ("keep_1 = 2\nx = = new  # c1c\n", "no longer Python"),
    ],
)
def test_a_wrong_fix_is_a_failure_of_its_kind(monkeypatch: pytest.MonkeyPatch, after: str, kind: str) -> None:
    assert pretended(monkeypatch, after).kind == kind


def test_the_report_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    assert pretended(monkeypatch, FIXED, errors=("a rule crashed",)).kind == "error"
    false = Finding("x.py", Place(1, 1, 1, 1), INVALID_SYNTAX, INVALID_SYNTAX, "not valid Python")
    assert pretended(monkeypatch, FIXED, findings=(false,)).kind == "false invalid-syntax"
    left = Finding("x.py", Place(1, 1, 1, 1), "CLIP003", "left", "`left` is found")
    assert pretended(monkeypatch, FIXED, findings=(left,)).kind == "another report"


def test_a_second_fix_and_an_exception_are_failures(monkeypatch: pytest.MonkeyPatch) -> None:
    def again(path: str, data: bytes, settings: object) -> FileReport:
        return FileReport(path, data, fixed_data=data + b"\n")

    def crash(path: str, data: bytes, settings: object) -> FileReport:
        raise KeyError("x")

    monkeypatch.setattr(fuzz, "check_file", again)
    assert fuzz.outcome(File("x.py", TEXT.encode()), fuzz.ALL).kind == "not idempotent"
    monkeypatch.setattr(fuzz, "check_file", crash)
    assert fuzz.outcome(File("x.py", TEXT.encode()), fuzz.ALL) == fuzz.Outcome("exception", "KeyError: 'x'")


def test_failures_are_reduced() -> None:
    text = "".join(f"{number}\n" for number in range(40))
    assert fuzz.reduced(text, lambda some: {"7", "31"} <= set(some.split())) == "7\n31\n"


@pytest.mark.parametrize("container", ["py", "ipynb", "md"])
def test_modules_are_python_and_the_same_for_the_same_seed(container: str) -> None:
    for number in range(10):
        text, _, settings = fuzz.case(3, number)
        assert fuzz.case(3, number) == (text, fuzz.case(3, number)[1], settings)
        assert is_python(text)
        one, other = (file_of(fuzz.random.Random(number), text, container) for _ in range(2))
        assert one == other
        assert one.name == f"x.{container}"


def test_decorating_changes_nothing_that_python_reads_and_numbers_each_comment() -> None:
    marks: list[str] = []
    for number in range(60):
        rng = fuzz.random.Random(number)
        plain = module(rng)
        text = decorated(rng, plain)
        if is_python(text):
            assert ast.dump(ast.parse(text)) == ast.dump(ast.parse(plain))
        found = [re.search(r"c\d+c", comment)[0] for comment in TAG.findall(text)]  # type: ignore[index]
        assert len(found) == len(set(found))
        marks += found
    assert len(marks) > 200
