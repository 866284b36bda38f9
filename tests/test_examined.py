"""What becomes of a rule's hits: places, fixes that are possible, findings that comments suppress, and what is said of the rest.

Checks of two rules are replaced here; the texts contain the keywords of the real ones.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from typing import Any

import libcst as cst
import pytest
from test_settling import FIRST, HEAD, SECOND

import clipcheck.rules
from clipcheck.engine import program
from clipcheck.engine.file import candidate, check_file, check_text
from clipcheck.engine.results import FileReport
from clipcheck.python.source import Source
from clipcheck.rule import (
    INVALID_SYNTAX,
    NOT_ANALYZED,
    NOT_ROUND_TRIPPED,
    UNUSED,
    Edit,
    Fix,
    Hit,
    Place,
    Safety,
)
from clipcheck.rules import Check
from clipcheck.settings.keys import Settings

BOTH = frozenset({FIRST, SECOND})
Run = Callable[..., FileReport]


def silent(source: Source) -> Iterator[Hit]:
    return iter(())


@pytest.fixture
def check(monkeypatch: pytest.MonkeyPatch) -> Run:
    """Checks a string below the head with these checks in the place of two rules."""

    def run(text: str, first: Check, second: Check = silent, path: str = "x.py", **more: Any) -> FileReport:
        checks = {FIRST: first, SECOND: second}
        monkeypatch.setattr(clipcheck.rules, "check_of", lambda rule: checks[rule.code])
        return check_text(path, text, Settings(BOTH, **more))

    return run


def notebook(*cells: str) -> str:
    return json.dumps({"cells": [{"cell_type": "code", "source": cell} for cell in cells]})


def calls(name: str, new: str | None = None, **more: Any) -> Check:
    """Finds calls of a function; `new` replaces the first argument's text."""

    def found(source: Source) -> Iterator[Hit]:
        for call in source.nodes(cst.Call):
            if isinstance(call.func, cst.Name) and call.func.value == name:
                start, end = source.span(call)
                fix = None if new is None else Fix("Write it", Safety.SAFE, (Edit(start, end, new),))
                yield Hit(call, f"`{name}` is called", fix, **more)

    return found


# --- where a finding is -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "place", "silent_at"),
    [
        ("f()\n", (4, 1, 4, 4), 4),
        ("f()", (4, 1, 4, 4), 4),
        ("x = [\n    f(\n),\n    1,\n]\ny\n", (5, 5, 6, 2), 8),
        ("x = [f(),\n\n]", (4, 6, 4, 9), 6),
        ("if f() and (\n    x\n):\n    y\n", (4, 4, 4, 7), 6),
        ("x = f() \\\n    + 1\r\n", (4, 5, 4, 8), 5),
    ],
)
def test_a_finding_and_the_line_for_its_comment(check: Run, text: str, place: tuple[int, ...], silent_at: int) -> None:
    (finding,) = check(HEAD + text, calls("f")).findings
    assert (finding.place, finding.silent_at) == (Place(*place), silent_at)
    assert (finding.code, finding.program, finding.path) == (FIRST, 0, "x.py")


def test_findings_of_all_rules_are_in_the_order_of_the_text(check: Run) -> None:
    report = check(f"{HEAD}g()\nf()\nf(); g()\n", calls("f"), calls("g"))
    assert [(f.place.line, f.code) for f in report.findings] == [(4, SECOND), (5, FIRST), (6, FIRST), (6, SECOND)]


def test_related_places_are_those_of_the_file(check: Run) -> None:
    def pair(source: Source) -> Iterator[Hit]:
        one, two = source.nodes(cst.Pass)
        yield Hit(one, "both", related=((two, "and here"), (one, "here")))

    report = check(f"{HEAD}pass\nif x:\n    pass\n", pair)
    assert report.findings[0].related == ((Place(6, 5, 6, 9), "and here"), (Place(4, 1, 4, 5), "here"))


def test_a_finding_without_a_fix_says_what_its_rule_says(check: Run) -> None:
    (finding,) = check(f"{HEAD}f()\n", calls("f", help="do it by hand")).findings
    assert (finding.fix, finding.changes, finding.help, finding.message) == (None, (), "do it by hand", "`f` is called")


# --- whether its fix is possible --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "new", "help_text"),
    [
        ("f()  # why", "g()", "do it by hand"),
        ("f()", "g()  # added", "do it by hand"),
        ("f(  # why\n)", "g(  # why\n)", "do it by hand"),
        ("f(  # why \n)", "g()  # why", "do it by hand"),
        ("f(  # a\n    # a\n)", "g(  # a\n    # a\n)", "do it by hand"),
        ("f(  # why\n)", "g()", "no automatic fix: it would remove a comment"),
        ("f(  # why\n)", "g()  # whyever", "no automatic fix: it would remove a comment"),
        ("f(  # a\n    # b\n)", "g()  # a", "no automatic fix: it would remove a comment"),
        ("f(  # a\n    # a\n)", "g()  # a", "no automatic fix: it would remove a comment"),
        ("f(  # a\n)", "g(  # a\n  # a\n)", "no automatic fix: it would remove a comment"),
        ("f()  # a", "g()  # a\n", "no automatic fix: it would remove a comment"),  # it is there twice
    ],
)
def test_comments_are_kept_once(check: Run, text: str, new: str, help_text: str) -> None:
    (finding,) = check(f"{HEAD}{text}\n", calls("f", new, help="do it by hand")).findings
    assert finding.help == help_text
    assert (finding.fix is None) is ("no automatic" in help_text)
    assert bool(finding.changes) is (finding.fix is not None)


@pytest.mark.parametrize(("start", "end"), [(0, 0), (-1, 0), (0, -1), (4, 0), (0, 1), (2, -1), (-1, -4)])
def test_a_fix_that_cuts_into_a_comment_is_not_offered(check: Run, start: int, end: int) -> None:
    """It begins before, with or in the comment, and ends in, with or after it."""

    def cut(source: Source) -> Iterator[Hit]:
        (one,) = source.nodes(cst.Pass)
        edit = Edit(source.text.index("# why") + start, source.text.index("# why") + 5 + end, "")
        beside = Edit(source.text.index("# why") - 2, source.text.index("# why"), "")
        fixes = Fix("Cut", Safety.SAFE, (edit,)), Fix("Cut", Safety.SAFE, (beside,))
        yield from (Hit(one, "found", fix) for fix in fixes)

    left, kept = check(f"{HEAD}pass  # why\n\n", cut).findings
    assert kept.fix is not None
    assert (left.fix, left.help) == (None, "no automatic fix: it would remove a comment")


def test_a_fix_that_would_leave_a_variable_unused_is_not_offered(check: Run) -> None:
    (finding,) = check(f"{HEAD}def g(y):\n    x = y()\n    f(x)\n", calls("f", "h()")).findings
    assert (finding.fix, finding.changes) == (None, ())
    assert finding.help == "no automatic fix: it would leave `x` unused"


@pytest.mark.parametrize(
    ("path", "gone"), [("x.py", True), ("init.py", True), ("a/__init__.py", False), ("n.ipynb", False), ("x.md", False)]
)
def test_an_import_that_others_may_use_stays(check: Run, path: str, gone: bool) -> None:
    text = f"{HEAD}import os\nf(os)\n"
    if path == "x.md":
        pytest.importorskip("markdown_it")
        text = f"```python\n{text}```\n"
    if path == "n.ipynb":
        text = notebook(text)
    (finding,) = check(text, calls("f", "h()"), path=path).findings
    assert finding.fix is not None and len(finding.fix.edits) == 1
    assert len(finding.fix.imports) == gone
    assert len(finding.changes) == 1 + gone


def test_fixes_that_leave_an_import_unused_only_together(check: Run) -> None:
    report = check(f"{HEAD}import os\nf(os)\ng(os)\n", calls("f", "h()"), calls("g", "h()"), fix=True)
    assert report.now.decode() == f"{HEAD}h()\nh()\n"
    assert all(finding.fix and not finding.fix.imports for finding in report.fixed)


def test_an_edit_that_leaves_its_cell_makes_the_fix_impossible(check: Run) -> None:
    def found(source: Source) -> Iterator[Hit]:
        for name in source.nodes(cst.Name):
            if name.value in ("one", "two"):
                end = source.text.index("three")
                extra = Edit(end - 3, end + 1, "") if name.value == "two" else Edit(end, end + 5, "3")
                yield Hit(name, name.value, Fix("Swap", Safety.SAFE, (Edit(*source.span(name), "new"), extra)))

    one, two = check(notebook(f"{HEAD}one\ntwo", "three"), found, path="n.ipynb").findings
    assert one.fix is not None  # each of its edits is in one cell
    assert two.fix is None
    assert [place.cell for place, _ in one.changes] == [1, 2]


def test_nothing_is_edited_in_a_cell_that_is_not_python(check: Run) -> None:
    broken = "f()\nx = = 1\nf()"
    text = notebook(f"{HEAD}f()", broken, "f()")

    def lines(source: Source) -> Iterator[Hit]:
        """Replaces whole lines."""
        for hit in calls("f", "g()\n")(source):
            assert hit.fix is not None
            (edit,) = hit.fix.edits
            yield hit._replace(fix=hit.fix._replace(edits=(edit._replace(end=edit.end + 1),)))

    report = check(text, lines, path="n.ipynb", fix=True)
    assert [(f.place.cell, f.fix) for f in report.findings if f.code == FIRST] == [(2, None)] * 2
    assert report.now.decode() == notebook(f"{HEAD}g()", broken, "g()")


@pytest.mark.parametrize(
    ("old", "new", "shown"),
    [
        ("abc", "abc", Edit(13, 13, "")),
        ("abc", "axc", Edit(11, 12, "x")),
        ("abc", "ab", Edit(12, 13, "")),
        ("abc", "bc", Edit(10, 11, "")),
        ("abc", "xyz", Edit(10, 13, "xyz")),
        ("aa", "aaa", Edit(12, 12, "a")),
        ("aaa", "aa", Edit(12, 13, "")),
        ("", "x", Edit(10, 10, "x")),
        ("abab", "ab", Edit(12, 14, "")),
    ],
)
def test_only_what_is_different_is_shown_as_a_change(old: str, new: str, shown: Edit) -> None:
    text = f"{'.' * 10}{old}{'.' * 10}"
    assert program._shortest(Edit(10, 10 + len(old), new), text) == shown


def test_an_edit_that_changes_nothing_is_not_shown(check: Run) -> None:
    def found(source: Source) -> Iterator[Hit]:
        (one,) = source.nodes(cst.Pass)
        start, end = source.span(one)
        edits = (Edit(0, 4, "from"), Edit(start, start, "x\n"), Edit(start, end, "pass"), Edit(end, end + 1, ""))
        yield Hit(one, "found", Fix("Do it", Safety.SAFE, edits))

    (finding,) = check(f"{HEAD}pass\n", found).findings
    assert finding.changes == ((Place(4, 1, 4, 1), "x\n"), (Place(4, 5, 5, 1), ""))


# --- what the parser cannot do ----------------------------------------------------------------------------------------


def test_what_is_not_reproduced_is_reported_and_not_fixed(check: Run) -> None:
    text = f"{HEAD}x = 1  # clipcheck: ignore[{SECOND}]\nf()\n\r\n \x0c# c"
    source = Source(text)
    assert source.exact is False
    report = check(text, calls("f", "g()"), fix=True)
    assert [(f.code, f.fix, f.changes) for f in report.findings] == [
        (NOT_ROUND_TRIPPED, None, ()),
        (UNUSED, None, ()),
        (FIRST, None, ()),
    ]
    assert report.findings[0].place == Place(1, 1, 1, 1)
    assert "this file" in report.findings[0].message
    assert report.fixed_data is None


def test_what_is_not_reproduced_does_not_matter_without_findings(check: Run) -> None:
    assert check(f"{HEAD}f()\n\r\n \x0c# c", silent).findings == ()


def test_cells_that_are_not_reproduced(check: Run) -> None:
    text = notebook(f"{HEAD}f()\n\r\n \x0c# c")
    one, two = check(text, calls("f", "g()"), path="n.ipynb").findings
    assert (one.code, one.place, two.fix) == (NOT_ROUND_TRIPPED, Place(1, 1, 1, 1, 1), None)
    assert "these cells" in one.message


def test_a_rule_that_recurses_too_deeply_leaves_the_program_unanalyzed(check: Run) -> None:
    def deep(source: Source) -> Iterator[Hit]:
        raise RecursionError
        yield

    for checks in ((calls("f"), deep), (deep, calls("f"))):
        report = check(f"{HEAD}f()\n", *checks)
        assert [(f.code, f.place, f.message) for f in report.findings] == [
            (NOT_ANALYZED, Place(1, 1, 1, 1), "nested too deeply to be analyzed")
        ]
        assert report.errors == ()


def test_a_program_of_which_too_little_is_python(check: Run) -> None:
    """Each line of it is faulty, more than are left out at once."""
    text = HEAD + "".join(f"x{n} = = 1\n" for n in range(60))
    report = check(text, calls("clip_grad_norm"))
    assert INVALID_SYNTAX in [finding.code for finding in report.findings]


def test_of_a_program_that_is_not_read_only_its_errors_are_reported(
    check: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    fault = program.Fault(len(HEAD), "what is this?", 0, len(HEAD) + 3, False)
    monkeypatch.setattr(program.syntax, "parse", lambda *_: program.syntax.Parsed(None, (fault,)))
    report = check(f"{HEAD}f()", calls("f"))
    assert [(f.code, f.place, f.message) for f in report.findings] == [
        (INVALID_SYNTAX, Place(4, 1, 4, 1), "not valid Python: what is this?")
    ]


# --- what comments do -------------------------------------------------------------------------------------------------


def test_comments_are_not_looked_for_where_none_matters(check: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def looked(source: Source) -> Any:
        raise AssertionError("looked for comments")

    monkeypatch.setattr(program.suppressions, "read", looked)
    for text in ("x\n", "x  # noqa\n", "x  # noqa: E501\n"):
        assert check(HEAD + text, silent) == FileReport("x.py", (HEAD + text).encode())
    assert len(check(f"{HEAD}f()  # noqa\n", calls("f"), suppressions=False).findings) == 1


@pytest.mark.parametrize(
    "text", ["x = 1  # clipcheck: ignore[CLIP002] why", "x = 1  # noqa: E501, CLIP003", "# clipcheck: disable[CLIP002]"]
)
def test_an_unused_comment_is_reported_at_the_name_of_the_rule(check: Run, text: str) -> None:
    (finding,) = check(f"{HEAD}{text}\n", silent).findings
    column = text.index("CLIP") + 1
    assert (finding.code, finding.program, finding.place) == (UNUSED, 0, Place(4, column, 4, column + 7))


def test_a_fix_that_edits_a_line_with_a_suppressed_finding_says_why_not(check: Run) -> None:
    def far(source: Source) -> Iterator[Hit]:
        """Fixes each call and the last line."""
        for hit in calls("f", "g()")(source):
            assert hit.fix is not None
            last = len(source.text) - 2
            yield hit._replace(fix=hit.fix._replace(edits=(*hit.fix.edits, Edit(last, last + 1, "y"))))

    def names(source: Source) -> Iterator[Hit]:
        yield from (Hit(name, "x") for name in source.nodes(cst.Name) if name.value in ("x", "w"))

    text = f"{HEAD}w  # noqa: {SECOND}\nf()\nf(); x  # noqa: {SECOND}\nx"
    first, second, third = check(f"{text}\n", far, names).findings
    assert [(f.code, f.place.line, f.fix is None) for f in (first, second, third)] == [
        (FIRST, 5, False), (FIRST, 6, True), (SECOND, 7, True)
    ]  # fmt: skip
    assert second.help == "no automatic fix: it would edit line 6, where a comment suppresses a finding"
    assert second.changes == () and first.help == ""


def test_rules_without_their_words_run_only_without_the_prefilter(check: Run) -> None:
    assert check("f()\n", calls("f"), prefilter=True).findings == ()
    assert len(check("f()\n", calls("f"), prefilter=False).findings) == 1
    assert [f.code for f in check("f()  # clipcheck: ignore[CLIP003]\n", calls("f")).findings] == [UNUSED]


@pytest.mark.parametrize(
    ("cell", "suppressions", "count"),
    [
        ("x", True, 1),
        ("x  # noqa: E501", True, 1),
        ("x  # clipcheck: ignore", True, 2),
        ("x  # clipcheck: ignore", False, 1),
        (HEAD, False, 2),
    ],
)
def test_only_programs_with_something_to_find_are_parsed(
    monkeypatch: pytest.MonkeyPatch, cell: str, suppressions: bool, count: int
) -> None:
    examined: list[int] = []

    def examine(path: str, document: object, index: int, *_: object) -> program.Examined:
        examined.append(index)
        return program.Examined(())

    monkeypatch.setattr(program, "examine", examine)
    text = notebook(HEAD, f"%%writefile a.py\n{cell}")
    check_text("n.ipynb", text, Settings(BOTH, suppressions=suppressions))
    assert examined == [0, 1][:count]


@pytest.mark.parametrize("line", ["f()", "x = p.grad", "x  # clipcheck: ignore", "x  # noqa: CLIP003"])
@pytest.mark.parametrize("head", ["", HEAD])
def test_half_a_character_is_an_error_of_the_text(check: Run, head: str, line: str) -> None:
    """An encoding of the user's may allow it, but no parser of Python does."""
    check("", calls("f"))
    data = f"# coding: utf-7\n{head}'+2D0'\n{line}\n".encode()
    report = check_file("x.py", data, Settings(BOTH))
    assert report.errors == ()
    assert {finding.code for finding in report.findings} <= {INVALID_SYNTAX}
    assert check_file("x.py", data.replace(b"+2D0", b"x"), Settings(BOTH)).data == data.replace(b"+2D0", b"x")


def test_rules_that_crash_are_told_in_order(check: Run) -> None:
    def crash(source: Source) -> Iterator[Hit]:
        raise KeyError("what\nis this?")

    report = check(HEAD, crash, crash)
    assert report.errors == tuple(f"x.py: rule {code} crashed: KeyError: 'what\\nis this?'" for code in (FIRST, SECOND))


@pytest.mark.parametrize(
    ("text", "settings", "expected"),
    [
        ("x = 1\n", {}, False),
        ("# clipcheck: ignore\n", {}, True),
        ("# clipcheck: ignore\n", {"suppressions": False}, False),
        (HEAD, {"suppressions": False}, True),
        ("x = 1\n", {"suppressions": False, "prefilter": False}, True),
    ],
)
def test_which_files_are_parsed(text: str, settings: dict[str, Any], expected: bool) -> None:
    given = Settings(BOTH, **settings)
    assert candidate("x.py", text.encode(), given) is expected
    assert check_file("x.py", text.encode(), given).threshold is Safety.SAFE


# --- what is wrong with the text --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "reported"),
    [
        ("{% if layers %}", False),
        ("  {%- for x in y %}", False),
        ("class {{ cookiecutter.name }}Model:", False),
        ("x = {{x}}y", False),
        ("x = {{ name | lower }}y", False),
        ("'{{ x }}' = = 1", True),  # in a string
        ("# {{ x }}\nx = = 1", True),
        ("x = {{}}y", True),
        ("x = {% 1", True),
        ("y = = 1", True),
    ],
)
def test_a_template_is_no_faulty_program(line: str, reported: bool) -> None:
    text = f"{HEAD}{line}\n"
    found = [f.code for f in check_file("x.py", text.encode(), Settings(frozenset({"CLIP201"}))).findings]
    assert (INVALID_SYNTAX in found) is reported


def test_a_template_in_one_cell_of_a_notebook() -> None:
    cells = ["x = = p.grad", "y = = p.grad"]
    for more, count in (([], 2), (["{% if x %}"], 0), (["{% if x"], 2)):
        report = check_text("n.ipynb", notebook(HEAD, *cells, *more), Settings(frozenset({"CLIP201"})))
        assert len(report.findings) == count


def test_text_that_its_file_cannot_hold_is_one_finding() -> None:
    report = check_text("x.py", "# coding: latin-1\nclip_grad_norm('€')\n", Settings(BOTH))
    (finding,) = report.findings
    assert (report.path, report.data, finding.code, finding.place) == ("x.py", b"", INVALID_SYNTAX, Place(1, 1, 1, 1))
    assert finding.message.startswith("cannot be decoded: not iso-8859-1: ")


def test_a_document_whose_parser_is_missing_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "markdown_it", None)
    report = check_file("x.md", f"```python\n{HEAD}```\n".encode(), Settings(BOTH))
    assert report.findings == ()
    assert [error.startswith("x.md: Markdown files need markdown-it-py") for error in report.errors] == [True]


# --- while the user is typing -----------------------------------------------------------------------------------------


def found(path: str, text: str, before: str) -> list[tuple[str, int | None, int]]:
    report = check_text(path, text, Settings(frozenset({FIRST}), "torch"), before)
    return [(f.code, f.place.cell, f.place.line) for f in report.findings]


def test_the_last_valid_text_says_which_line_is_being_typed() -> None:
    valid = "import torch\nif x:\n    torch.nn.utils.clip_grad_norm(p, 1.0)\n    y\n"
    typed = valid.replace("    y", "    y = (")
    assert (FIRST, None, 3) in found("x.py", typed, valid)
    assert found("x.py", valid, valid) == [(FIRST, None, 3)]
    assert found("x.py", valid, "") == [(FIRST, None, 3)]


def test_blocks_of_a_document_are_read_as_they_are() -> None:
    pytest.importorskip("markdown_it")
    valid = "```python\nimport torch\ntorch.nn.utils.clip_grad_norm(p, 1.0)\n```\n"
    typed = "```python\ntorch.nn.utils.clip_grad_norm(p, 1.0)\nx = (\n```\n"
    for before in ("", valid, "```python\ny = 1\n```\n"):  # blocks may have come before it
        assert found("x.md", typed, before) == [(FIRST, None, 2)]


@pytest.mark.parametrize("old", [1, 2, 3])
def test_programs_of_a_notebook_may_come_and_go_while_it_is_typed(old: int) -> None:
    cells = ["import torch\ntorch.nn.utils.clip_grad_norm(p, 1.0)", *["%%writefile a.py\nx"] * 2]
    assert found("n.ipynb", notebook(*cells[:2]), notebook(*cells[:old])) == [(FIRST, 1, 2)]
