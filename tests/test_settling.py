"""Fixes settle: the next round handles what a fix uncovers, and an unacceptable result blocks only that fix."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import libcst as cst
import pytest

import clipcheck.rules
from clipcheck.documents.program import Document, Program, Segment
from clipcheck.engine import touched
from clipcheck.engine.file import check_text
from clipcheck.engine.results import FileReport
from clipcheck.python.source import Source
from clipcheck.rule import (
    INVALID_SYNTAX,
    NOT_ANALYZED,
    NOT_ROUND_TRIPPED,
    UNUSED,
    Edit,
    Finding,
    Fix,
    Hit,
    Place,
    Safety,
)
from clipcheck.rules import Check
from clipcheck.settings.keys import Settings

HEAD = "from torch._six import inf\nfrom torch.nn.utils import clip_grad_norm\nclip_grad_norm(p, inf)\n"
FIRST, SECOND = "CLIP002", "CLIP003"


def swaps(**names: str) -> Check:
    """A rule that finds these names and replaces them; "" offers no fix."""

    def check(source: Source) -> Iterator[Hit]:
        for name in source.nodes(cst.Name):
            if name.value in names:
                edit = Edit(*source.span(name), names[name.value])
                yield Hit(name, f"`{name.value}` is found", Fix("Swap", Safety.SAFE, (edit,)) if edit.text else None)

    return check


@pytest.fixture
def fixed(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[str, list[str], FileReport]]:
    """Fixes a string with two checks instead of those of real rules."""

    def run(text: str, first: Check, second: Check = lambda source: iter(())) -> tuple[str, list[str], FileReport]:
        checks = {FIRST: first, SECOND: second}
        monkeypatch.setattr(clipcheck.rules, "check_of", lambda rule: checks[rule.code])
        report = check_text("x.py", HEAD + text, Settings(frozenset(checks), fix=True))
        return report.now.decode()[len(HEAD) :], [f.message for f in report.findings], report

    return run


def test_what_a_fix_uncovers_is_fixed_in_the_next_round(fixed: Any) -> None:
    after, left, report = fixed("f(one)\n", swaps(one="two"), swaps(two="three"))
    assert (after, left, report.errors) == ("f(three)\n", [], ())
    assert [finding.code for finding in report.fixed] == [FIRST, SECOND]


def test_what_a_fix_uncovers_may_have_no_fix(fixed: Any) -> None:
    after, left, report = fixed("f(one)\n", swaps(one="two"), swaps(two=""))
    assert (after, left, report.errors) == ("f(two)\n", ["`two` is found"], ())


def test_fixes_that_undo_each_other_are_not_written(fixed: Any) -> None:
    after, left, report = fixed("f(one)\n", swaps(one="two"), swaps(two="one"))
    assert (after, left) == ("f(one)\n", ["`one` is found"])
    assert report.errors == ("x.py: the fixes do not settle after 10 rounds",)


def test_a_bad_fix_does_not_block_the_same_fix_elsewhere(fixed: Any) -> None:
    def check(source: Source) -> Iterator[Hit]:
        """Finds `old` everywhere, and fixes it everywhere but in the first call."""
        for hit in swaps(old="new")(source):
            (edit,) = hit.fix.edits  # type: ignore[union-attr]
            bad = source.text[: edit.start].endswith("first(")
            yield hit._replace(fix=hit.fix._replace(edits=(edit._replace(text="old + 0" if bad else "new"),)))  # type: ignore[union-attr]

    after, left, report = fixed("first(old)\nf(old)\ng(old)\n", check)
    assert (after, left) == ("first(old)\nf(new)\ng(new)\n", ["`old` is found"])
    assert [error.partition(": ")[0] for error in report.errors] == ["x.py:4:7"]


def test_a_bad_fix_among_very_many_leaves_none_of_them_unfixed(fixed: Any) -> None:
    text = "f(bad)\n" + "f(good)\n" * 30
    after, left, report = fixed(text, swaps(good="fine"), swaps(bad="bad"))
    assert (after, left) == (text.replace("good", "fine"), ["`bad` is found"])
    assert len(report.errors) == 1


def test_a_bad_fix_is_refused_once_though_others_move_it(fixed: Any) -> None:
    """Good fixes above, in several rounds, move the bad one further and further down."""
    after, _, report = fixed("f(one)\nf(bad)\n", swaps(one="two,\ntwo"), swaps(bad="bad", two="3,\n3"))
    assert after == "f(3,\n3,\n3,\n3)\nf(bad)\n"
    assert len(report.errors) == 1


@pytest.mark.parametrize("name", ["x.py", "x.md"])
def test_a_fix_that_leaves_code_that_only_the_parser_accepts_is_not_written(monkeypatch: Any, name: str) -> None:
    """LibCST accepts a bare generator next to another argument; in Markdown no finding reports the error."""
    checks = {FIRST: swaps(one="x for x in y"), SECOND: swaps()}
    monkeypatch.setattr(clipcheck.rules, "check_of", lambda rule: checks[rule.code])
    text = f"```python\n{HEAD}f(one, 2)\n```\n\n```python\nx\n```\n" if name == "x.md" else f"{HEAD}f(one, 2)\n"
    report = check_text(name, text, Settings(frozenset(checks), fix=True))
    assert report.fixed_data is None
    assert len(report.errors) == 1


# --- what is touched --------------------------------------------------------------------------------------------------


def document(text: str, margins: tuple[str, ...] = ()) -> Document:
    return Document((Program(text, (Segment(0, len(text), margins=margins),)),), lambda edits: b"")


@pytest.mark.parametrize(
    ("edit", "old", "new"),
    [
        (Edit(2, 3, "x"), {2}, {2}),  # in a line
        (Edit(2, 2, "x"), {2}, {2}),  # inserted into one
        (Edit(2, 4, ""), {2}, set()),  # a deleted line
        (Edit(2, 3, ""), {2}, {2}),  # one that is emptied
        (Edit(3, 4, ""), {2}, {2}),  # one that is joined to the next
        (Edit(2, 2, "x\ny\n"), set(), {2, 3}),  # lines inserted between others
        (Edit(0, 0, "x\n"), set(), {1}),
        (Edit(3, 3, "\nx"), {2}, {2, 3}),  # after the end of a line
        (Edit(0, 4, "x\n"), {1, 2}, {1}),
        (Edit(3, 3, "x\n"), {2}, {2}),
        (Edit(2, 3, "x\ny"), {2}, {2, 3}),
        (Edit(1, 4, "\n"), {1, 2}, {1}),
    ],
)
@pytest.mark.parametrize("margin", ["", "> "])
def test_touched_lines_are_those_that_edits_change(edit: Edit, old: set[int], new: set[int], margin: str) -> None:
    text = "a\nb\nc\n"
    after = text[: edit.start] + edit.text + text[edit.end :]
    assert touched.replaced_lines(document(text, (margin,) * 4), [[edit]]) == {(None, line) for line in old}
    assert touched.written_lines(document(text), document(after, (margin,) * 6), [[edit]]) == {
        (None, line) for line in new
    }


def test_lines_before_a_program_without_a_line_end_touch_nothing() -> None:
    for text in ("a", ""):
        assert touched.replaced_lines(document(text), [[Edit(0, 0, "x\n")]]) == frozenset()
        assert touched.written_lines(document(f"x\n{text}"), document(text), [[Edit(0, 2, "")]]) == frozenset()


def test_written_lines_count_the_edits_before() -> None:
    edits = [[Edit(2, 3, "x"), Edit(0, 0, "1\n2\n")]]
    assert touched.written_lines(document("a\nb\nc\n"), document("1\n2\na\nx\nc\n"), edits) == {
        (None, 1),
        (None, 2),
        (None, 4),
    }


def found(line: int, code: str = FIRST, last: int = 0, about: int = 0) -> Finding:
    place = Place(line, 1, last or line, 2)
    related = ((Place(about, 1, about, 2), "here"),) if about else ()
    return Finding("x.py", place, code, code, "found", related=related)


LINES = frozenset({(None, 5), (None, 6)})


@pytest.mark.parametrize(
    ("after", "promised"),
    [
        ([], True),
        ([found(5)], False),  # the same finding
        ([found(6)], False),
        ([found(5, SECOND)], True),  # another rule's, in what was written
        ([found(2, "CLIP008")], False),  # where nothing was touched
        ([found(2)], False),
        ([found(2, SECOND, last=8)], True),  # around what was written
        ([found(2, SECOND, about=6)], True),  # which is about what was written
        ([found(2, SECOND, about=8)], True),  # what stood between a norm and its clip is gone
        ([found(2, "CLIP008", about=4)], False),
        ([found(8, "CLIP008", about=9)], False),
        ([found(2, last=8)], True),  # the same rule, in the loop around
        ([found(5, INVALID_SYNTAX)], False),
        ([found(5, NOT_ANALYZED)], False),
        ([found(1, UNUSED), found(1, NOT_ROUND_TRIPPED)], True),
        ([found(9, SECOND)], True),  # was there before
        ([found(9, SECOND), found(10, SECOND)], False),
    ],
)
def test_which_findings_may_follow_a_fix(after: list[Finding], promised: bool) -> None:
    before = [found(5), found(9, SECOND)]
    assert touched.is_promised(before, after, [before[0]], LINES, LINES) is promised


def test_a_finding_related_to_touched_code_may_remain() -> None:
    """If the first of two clips after a step is moved above it, the finding for the second one is not new."""
    before = [found(5), found(7, about=4)]
    assert touched.is_promised(before, [found(7, about=6)], [before[0]], frozenset({(None, 5)}), frozenset({(None, 4)}))
    more = [found(7, about=6), found(9)]
    assert not touched.is_promised(before, more, [before[0]], frozenset({(None, 5)}), frozenset({(None, 4)}))


@pytest.mark.parametrize(
    ("edit", "expected"),
    [
        (Edit(0, 10, "123"), ((3, 5), (13, 13))),  # right before it
        (Edit(10, 10, "123"), ((13, 15), (23, 23))),
        (Edit(12, 14, ""), ((10, 12), (18, 18))),  # right after a part of it
        (Edit(12, 12, "1"), ((10, 13), (21, 21))),
        (Edit(20, 20, "1"), ((10, 12), (21, 21))),
        (Edit(20, 22, ""), ((10, 12), (20, 20))),
        (Edit(21, 22, "123"), ((10, 12), (20, 20))),
        (Edit(9, 11, "12"), None),
        (Edit(11, 13, "12"), None),
        (Edit(10, 12, "12"), None),
        (Edit(19, 21, "12"), None),
    ],
)
def test_where_a_refused_fix_is_after_an_edit(edit: Edit, expected: tuple[tuple[int, int], ...] | None) -> None:
    assert touched.shifted({(FIRST, 0, ((10, 12), (20, 20)))}, [[edit]]) == (
        set() if expected is None else {(FIRST, 0, expected)}
    )


def test_refused_fixes_move_with_the_text_and_are_forgotten_with_it() -> None:
    refused = {(FIRST, 0, ((10, 12), (20, 20))), (SECOND, 1, ((10, 12),))}
    assert touched.shifted(refused, [[Edit(0, 0, "123")], []]) == {
        (FIRST, 0, ((13, 15), (23, 23))),
        (SECOND, 1, ((10, 12),)),
    }
    assert touched.shifted(refused, [[Edit(15, 18, "")], []]) == {
        (FIRST, 0, ((10, 12), (17, 17))),
        (SECOND, 1, ((10, 12),)),
    }
    assert touched.shifted(refused, [[Edit(11, 12, "x")], []]) == {(SECOND, 1, ((10, 12),))}
