"""The safety net of `--fix`: a result that fails clipcheck's own check is not written, whatever a rule claims.

Bad rules replace real ones here; the texts contain the keywords of the real ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import libcst as cst
import pytest
from conftest import runner

import clipcheck.rules
from clipcheck.cli.main import main
from clipcheck.engine.file import _compatible, check_text
from clipcheck.engine.results import FileReport
from clipcheck.python.source import Source
from clipcheck.rule import Edit, Finding, Fix, Hit, Place, Safety, Severity, Verdict
from clipcheck.rules import Check
from clipcheck.settings.keys import Settings

HEAD = "from torch._six import inf\nfrom torch.nn.utils import clip_grad_norm\nclip_grad_norm(p, inf)\n"
FIRST, SECOND = "CLIP002", "CLIP003"
Install = Callable[..., None]


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Install:
    """Replaces the checks of the first and the second rule."""

    def put(first: Check, second: Check = lambda source: iter(())) -> None:
        checks = {FIRST: first, SECOND: second}
        monkeypatch.setattr(clipcheck.rules, "check_of", lambda rule: checks[rule.code])

    return put


def finds(old: str, new: str | None = None, safety: Safety = Safety.SAFE, imports: tuple[Edit, ...] = ()) -> Check:
    """A rule that finds the name `old` and replaces it by `new`."""

    def check(source: Source) -> Iterator[Hit]:
        for name in source.nodes(cst.Name):
            if name.value == old:
                edit = Edit(*source.span(name), new or "")
                fix = None if new is None else Fix("Replace it", safety, (edit,), imports)
                yield Hit(name, f"`{old}` is found", fix)

    return check


def both(*checks: Check) -> Check:
    return lambda source: (hit for check in checks for hit in check(source))


def fixed(text: str, safety: Safety = Safety.SAFE, **more: Any) -> tuple[str, list[str], FileReport]:
    settings = Settings(frozenset({FIRST, SECOND}), fix=True, safety=safety, **more)
    report = check_text("x.py", HEAD + text, settings)
    assert report.data == (HEAD + text).encode()
    after = report.now.decode()
    assert after.startswith(HEAD)
    assert (report.fixed_data is None) == (after == HEAD + text)
    return after[len(HEAD) :], [finding.message for finding in report.findings], report


def refusal(line: int, column: int, code: str = FIRST) -> str:
    return f"x.py:{line}:{column}: the fix of {code} was not written"


# --- fixes that are not written ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "new",
    [
        "1 1",  # no longer Python
        "(",
        "old",  # changes nothing
        "old + 0",  # the finding stays
        "g(old, old)",  # and there is another one
    ],
)
def test_a_fix_whose_outcome_fails_is_not_written(install: Install, new: str) -> None:
    install(finds("old", new))
    after, left, report = fixed("f(old)\n")
    assert after == "f(old)\n"
    assert left == ["`old` is found"]
    assert report.fixed == ()
    assert [error.startswith(refusal(4, 3)) for error in report.errors] == [True]


def test_a_fix_that_causes_a_finding_elsewhere_is_not_written(install: Install) -> None:
    def elsewhere(source: Source) -> Iterator[Hit]:
        if "new" in source.text:
            yield from finds("far")(source)

    install(finds("old", "new"), elsewhere)
    after, left, report = fixed("f(old)\nfar\n")
    assert after == "f(old)\nfar\n"
    assert left == ["`old` is found"]
    assert len(report.errors) == 1


def finds_without(word: str, name: str, masked: bool = False) -> Check:
    """A rule that finds `name` if `word` is not in the text; if it is and `masked`, the finding is masked."""

    def check(source: Source) -> Iterator[Hit]:
        if word not in source.text:
            yield from finds(name)(source)
        elif masked:
            yield from (hit._replace(masked=True) for hit in finds(name)(source))

    return check


def test_a_fix_that_removes_what_prevented_a_finding_elsewhere_is_not_written(install: Install) -> None:
    """A finding that `old` prevented is caused by the fix, even though its code was there before."""
    install(finds("old", "new"), finds_without("old", "far"))
    after, left, report = fixed("f(old)\nfar\n")
    assert (after, left) == ("f(old)\nfar\n", ["`old` is found"])
    assert [error.startswith(refusal(4, 3)) for error in report.errors] == [True]


def test_a_fix_that_moves_what_prevented_a_finding_elsewhere_is_not_written(install: Install) -> None:
    def moves(source: Source) -> Iterator[Hit]:
        """Moves `guard` from above `far` to below it."""
        for hit in finds("guard")(source):
            start, end = source.span(hit.node)
            edits = (Edit(start, end + 1, ""), Edit(len(source.text), len(source.text), "moved\n"))
            yield hit._replace(fix=Fix("Move it", Safety.SAFE, edits))

    install(moves, finds_without("guard", "far"))
    after, left, report = fixed("guard\nf()\nfar\ng()\n")
    assert (after, left) == ("guard\nf()\nfar\ng()\n", ["`guard` is found"])
    assert [error.startswith(refusal(4, 1)) for error in report.errors] == [True]


def test_a_finding_that_its_rule_saw_masked_is_reported_once_the_mask_is_gone(install: Install) -> None:
    install(finds("old", "new"), finds_without("old", "far", masked=True))
    after, left, report = fixed("f(old)\nfar\n")
    assert (after, left, report.errors) == ("f(new)\nfar\n", ["`far` is found"], ())


def test_a_masked_finding_is_not_reported_and_suppresses_nothing(install: Install) -> None:
    install(finds("older", "new"), finds_without("old", "far", masked=True))
    after, left, report = fixed(f"f(old)\nfar  # clipcheck: ignore[{SECOND}]\n")
    assert (after, left, report.errors) == ("f(old)\nfar\n", [], ())
    assert [finding.code for finding in report.fixed] == ["unused-suppression"]


def test_a_masked_finding_excuses_only_itself(install: Install) -> None:
    def check(source: Source) -> Iterator[Hit]:
        yield from finds_without("old", "far", masked=True)(source)
        yield from finds_without("old", "caused")(source)

    install(finds("old", "new"), check)
    after, left, report = fixed("f(old)\nfar\ncaused\n")
    assert (after, left) == ("f(old)\nfar\ncaused\n", ["`old` is found"])
    assert len(report.errors) == 1


def test_a_masked_finding_of_one_rule_does_not_excuse_another_rule(install: Install) -> None:
    def first(source: Source) -> Iterator[Hit]:
        yield from finds("old", "new")(source)
        yield from (hit._replace(masked=True) for hit in finds("far")(source))

    install(first, finds_without("old", "far"))
    after, left, report = fixed("f(old)\nfar\n")
    assert (after, left) == ("f(old)\nfar\n", ["`old` is found"])
    assert len(report.errors) == 1


def test_a_fix_that_makes_a_rule_crash_is_not_written(install: Install) -> None:
    def crash(source: Source) -> Iterator[Hit]:
        if "new" in source.text:
            raise RuntimeError("what is this?")
        return iter(())

    install(finds("old", "new"), crash)
    after, left, report = fixed("f(old)\n")
    assert (after, left) == ("f(old)\n", ["`old` is found"])
    assert [error.startswith(refusal(4, 3)) for error in report.errors] == [True]


def test_a_rule_that_always_crashes_does_not_stop_fixes(install: Install) -> None:
    def crash(source: Source) -> Iterator[Hit]:
        raise RuntimeError("first\nsecond")

    install(finds("old", "new"), crash)
    after, left, report = fixed("f(old)\n")
    assert (after, left) == ("f(new)\n", [])
    assert report.errors == (f"x.py: rule {SECOND} crashed: RuntimeError: first second",)


def test_fixes_that_do_not_settle_are_not_written(install: Install) -> None:
    """Each fix edits the same place, so that one is applied per round."""

    def check(source: Source) -> Iterator[Hit]:
        for hit in finds("old", "new")(source):
            assert hit.fix is not None
            (edit,) = hit.fix.edits
            yield hit._replace(fix=hit.fix._replace(edits=(Edit(len(HEAD), len(HEAD), f"# {edit.start}\n"), edit)))

    install(check)
    after, left, report = fixed("\n" + "old\n" * 5)
    assert (after.count("new"), left, report.errors, len(report.fixed)) == (5, [], (), 5)
    text = "\n" + "old\n" * 30
    after, left, report = fixed(text)
    assert after == text
    assert left == ["`old` is found"] * 30
    assert report.fixed == ()
    assert report.errors == ("x.py: the fixes do not settle after 10 rounds",)


def test_a_fix_after_which_the_file_cannot_be_read_is_not_written(install: Install) -> None:
    def check(source: Source) -> Iterator[Hit]:
        for hit in finds("old", "new")(source):
            assert hit.fix is not None
            yield hit._replace(fix=hit.fix._replace(imports=(Edit(0, 0, "# coding: nonsense\n"),)))

    install(check)
    after, left, report = fixed("f(old)\n")
    assert (after, left) == ("f(old)\n", ["`old` is found"])
    assert [error.startswith(refusal(4, 3)) for error in report.errors] == [True]


def test_a_fix_that_makes_another_block_of_a_document_is_not_written(install: Install) -> None:
    pytest.importorskip("markdown_it")
    install(finds("old", "x\n```\n\n```python\ny"))
    text = f"```python\n{HEAD}old\n```\n\n```python\ny\n```\n"
    report = check_text("x.md", text, Settings(frozenset({FIRST}), fix=True))
    assert (report.now.decode(), report.fixed) == (text, ())
    assert len(report.errors) == len(report.findings) == 1


def test_a_finding_does_not_go_because_its_rule_no_longer_runs(install: Install) -> None:
    """The fix removes the words that tell which files the second rule has to look at."""

    def check(source: Source) -> Iterator[Hit]:
        for line in source.nodes(cst.ImportFrom):
            if "_six" in source.code(line):
                start, end = source.span(line)
                yield Hit(line, "an old import", Fix("Remove it", Safety.SAFE, (Edit(start, end + 1, ""),)))

    install(check, finds("far"))
    text = HEAD.replace(", inf", ", 1")
    settings = Settings(frozenset({FIRST, SECOND}), fix=True)
    report = check_text("x.py", f"{text}far\n", settings)
    assert report.now.decode() == f"{text.partition(chr(10))[2]}far\n"
    assert [(finding.message, finding.place.line) for finding in report.findings] == [("`far` is found", 3)]
    assert check_text("x.py", report.now.decode(), settings).findings == ()  # alone, the rule would not run


def test_what_is_wrong_with_comments_is_told_of_the_text_that_is_written(install: Install) -> None:
    install(finds("old", "new", imports=(Edit(len(HEAD), len(HEAD), "import a\nimport b\n"),)))
    report = fixed("f(old)\nx  # clipcheck: skip\n")[2]
    assert report.fixed and [warning[:7] for warning in report.warnings] == ["x.py:7:"]
    install(finds("old", "old"))
    report = fixed("f(old)\nx  # clipcheck: skip\n")[2]
    assert not report.fixed and [warning[:7] for warning in report.warnings] == ["x.py:5:"]


def test_refuted_fixes_are_reported_though_none_is_wanted(install: Install) -> None:
    install(finds("old", "new"))
    verdict = Verdict("refuted", 3, reason="so it is")
    settings = Settings(frozenset({FIRST}), verify=lambda *_: verdict)
    report = check_text("x.py", f"{HEAD}f(old)\n", settings)
    assert [finding.verdict for finding in report.findings] == [verdict]
    assert [error.startswith("x.py:4:3: the fix of CLIP002 is refuted: so it is. ") for error in report.errors] == [
        True
    ]
    assert (report.fixed, report.fixed_data) == ((), None)


# --- one bad fix among good ones --------------------------------------------------------------------------------------


def test_a_bad_fix_does_not_stop_good_ones(install: Install) -> None:
    install(both(finds("bad", "1 1"), finds("good", "new")))
    after, left, report = fixed("f(bad)\nf(good)\nf(good)\n")
    assert after == "f(bad)\nf(new)\nf(new)\n"
    assert left == ["`bad` is found"]
    assert [finding.place.line for finding in report.fixed] == [5, 6]
    assert [error.startswith(refusal(4, 3)) for error in report.errors] == [True]


def test_a_bad_fix_of_another_rule_does_not_stop_good_ones(install: Install) -> None:
    install(finds("good", "new"), finds("bad", "bad"))
    after, left, report = fixed("f(good)\nf(bad)\nf(good)\n")
    assert after == "f(new)\nf(bad)\nf(new)\n"
    assert left == ["`bad` is found"]
    assert [error.startswith(refusal(5, 3, SECOND)) for error in report.errors] == [True]


def test_each_bad_fix_is_reported_once(install: Install) -> None:
    install(finds("bad", "("), both(finds("worse", "worse"), finds("good", "new")))
    after, left, report = fixed("f(bad)\nf(worse)\nf(good)\nf(good)\n")
    assert after == "f(bad)\nf(worse)\nf(new)\nf(new)\n"
    assert left == ["`bad` is found", "`worse` is found"]
    assert [error.partition(": ")[0] for error in report.errors] == ["x.py:4:3", "x.py:5:3"]


def only_one(old: str, new: str) -> Check:
    """A rule that finds `far` as soon as `old` has been replaced twice."""

    def check(source: Source) -> Iterator[Hit]:
        if source.text.count(new) > 1:
            yield from finds("far")(source)

    return check


def test_of_fixes_that_fail_only_together_the_first_is_written(install: Install) -> None:
    install(finds("old", "new"), only_one("old", "new"))
    after, left, report = fixed("f(old)\ng(old)\nh(old)\nfar\n")
    assert (after, left) == ("f(new)\ng(old)\nh(old)\nfar\n", ["`old` is found"] * 2)
    assert [finding.place.line for finding in report.fixed] == [4]
    assert [error.partition(": ")[0] for error in report.errors] == ["x.py:5:3", "x.py:6:3"]


def test_fixes_that_fail_together_beside_one_that_fails_alone(install: Install) -> None:
    install(both(finds("bad", "("), finds("old", "new")), only_one("old", "new"))
    after, left, report = fixed("f(bad)\nf(old)\ng(old)\nfar\n")
    assert (after, left) == ("f(bad)\nf(new)\ng(old)\nfar\n", ["`bad` is found", "`old` is found"])
    assert [finding.place.line for finding in report.fixed] == [5]
    assert [error.partition(": ")[0] for error in report.errors] == ["x.py:4:3", "x.py:6:3"]


# --- fixes that are written -------------------------------------------------------------------------------------------


def test_good_fixes_are_written_at_once(install: Install) -> None:
    install(finds("old", "new"), finds("bad", "good"))
    after, left, report = fixed("f(old, old)\nf(bad)\n")
    assert (after, left, report.errors) == ("f(new, new)\nf(good)\n", [], ())
    assert [(finding.code, finding.place.line) for finding in report.fixed] == [(FIRST, 4), (FIRST, 4), (SECOND, 5)]


def test_fixes_that_overlap_are_made_one_after_the_other(install: Install) -> None:
    def check(source: Source) -> Iterator[Hit]:
        for name in source.nodes(cst.Name):
            start, end = source.span(name)
            if name.value == "one":
                yield Hit(name, "one", Fix("Write 1", Safety.SAFE, (Edit(start, end + 4, "1,two"),)))
            if name.value == "two":
                yield Hit(name, "two", Fix("Write 2", Safety.SAFE, (Edit(start, end, "2"),)))

    install(check)
    after, left, report = fixed("x = [one,two]\n")
    assert (after, left, report.errors) == ("x = [1,2]\n", [], ())
    assert [finding.message for finding in report.fixed] == ["one", "two"]


def found(*edits: Edit, program: int = 0) -> Finding:
    fix = Fix("Fix it", Safety.SAFE, edits)
    return Finding("x.py", Place(1, 1, 1, 2), FIRST, "name", "found", Severity.WARNING, fix, program=program)


@pytest.mark.parametrize(
    ("edits", "taken"),
    [
        ([Edit(0, 5, "a"), Edit(10, 15, "b")], [0, 1]),
        ([Edit(10, 15, "a"), Edit(0, 5, "b")], [0, 1]),
        ([Edit(0, 5, "a"), Edit(6, 6, "b")], [0, 1]),
        ([Edit(0, 5, "a"), Edit(0, 5, "a")], [0, 1]),  # the same
        ([Edit(0, 5, "a"), Edit(0, 5, "b")], [0]),
        ([Edit(0, 5, "a"), Edit(5, 9, "b")], [0]),  # they meet
        ([Edit(5, 9, "a"), Edit(0, 5, "b")], [0]),
        ([Edit(0, 5, "a"), Edit(5, 5, "b")], [0]),
        ([Edit(3, 3, "a"), Edit(3, 3, "b")], [0]),
        ([Edit(0, 9, "a"), Edit(3, 4, "b")], [0]),
        ([Edit(3, 4, "a"), Edit(0, 9, "b")], [0]),
        ([Edit(0, 5, "a"), Edit(3, 9, "b"), Edit(8, 9, "c")], [0, 2]),
    ],
)
def test_which_fixes_are_made_at_once(edits: list[Edit], taken: list[int]) -> None:
    findings = [found(edit) for edit in edits]
    chosen, together = _compatible(findings, 2)
    assert chosen == [findings[i] for i in taken]
    assert together == [list(dict.fromkeys(edits[i] for i in taken)), []]
    apart = [found(edit, program=i % 2) for i, edit in enumerate(edits[:2])]  # of two programs
    assert _compatible(apart, 2) == (apart, [edits[:1], edits[1:2]])


def test_a_fix_is_made_whole_or_not_at_all() -> None:
    first, second = found(Edit(0, 5, "a")), found(Edit(20, 25, "b"), Edit(4, 6, "c"))
    assert _compatible([first, second], 1) == ([first], [[Edit(0, 5, "a")]])
    assert _compatible([second, first], 1) == ([second], [[Edit(4, 6, "c"), Edit(20, 25, "b")]])
    shared = found(Edit(0, 5, "a"), Edit(8, 9, "d"))
    assert _compatible([first, shared], 1) == ([first, shared], [[Edit(0, 5, "a"), Edit(8, 9, "d")]])


def test_an_edit_that_fixes_share_is_made_once(install: Install) -> None:
    shared = Edit(len(HEAD), len(HEAD), "import shared\n")
    install(finds("old", "new", imports=(shared,)), finds("bad", "good", imports=(shared,)))
    after, left, report = fixed("\nf(old)\nf(bad)\nf(old)\n")
    assert (after, left, report.errors) == ("import shared\n\nf(new)\nf(good)\nf(new)\n", [], ())


def test_a_fix_of_a_fix_is_written_too(install: Install) -> None:
    """A fix may correct a part of the finding, and leave the rest to the next round."""

    def check(source: Source) -> Iterator[Hit]:
        olds = [name for name in source.nodes(cst.Name) if name.value in ("old", "older")]
        for name in olds[:1]:
            new = "new" if name.value == "old" else "old"
            found = f"`{name.value}` is found"
            yield Hit(name, found, Fix("Replace it", Safety.SAFE, (Edit(*source.span(name), new),)))
        yield from (Hit(name, f"`{name.value}` is found") for name in olds[1:])

    install(check)
    after, left, report = fixed("f(old)\nf(old)\n")
    assert (after, left, report.errors) == ("f(new)\nf(new)\n", [], ())


def test_a_comment_that_a_fix_leaves_without_a_finding_to_suppress_is_removed(install: Install) -> None:
    def beside(source: Source) -> Iterator[Hit]:
        if "old" in source.text:
            yield from finds("far")(source)

    install(finds("old", "new"), beside)
    after, left, report = fixed(f"f(old)\nfar  # clipcheck: ignore[{SECOND}]\n")
    assert (after, left, report.errors) == ("f(new)\nfar\n", [], ())
    assert [finding.code for finding in report.fixed] == [FIRST, "unused-suppression"]


# --- the safety of fixes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("safety", [Safety.MANUAL, Safety.UNSAFE])
def test_only_safe_fixes_are_written_unless_asked(install: Install, safety: Safety) -> None:
    install(finds("old", "new", safety), finds("bad", "good"))
    after, left, report = fixed("f(old)\nf(bad)\n")
    assert (after, left, report.errors) == ("f(old)\nf(good)\n", ["`old` is found"], ())


def test_unsafe_fixes_are_written_when_asked(install: Install) -> None:
    install(finds("old", "new", Safety.UNSAFE), finds("bad", "good", Safety.MANUAL))
    after, left, report = fixed("f(old)\nf(bad)\n", Safety.UNSAFE)
    assert (after, left, report.errors) == ("f(new)\nf(bad)\n", ["`bad` is found"], ())


@pytest.mark.parametrize(
    ("more", "after"),
    [
        ({"unfixable": frozenset({FIRST})}, "f(old)\n"),
        ({"distrusted": frozenset({FIRST})}, "f(old)\n"),
        ({"trusted": frozenset({SECOND})}, "f(new)\n"),
        ({"unfixable": frozenset({SECOND})}, "f(new)\n"),
    ],
)
def test_the_user_can_change_the_safety_of_a_rules_fixes(install: Install, more: dict[str, Any], after: str) -> None:
    install(finds("old", "new"))
    assert fixed("f(old)\n", **more)[0] == after


def test_an_unsafe_fix_that_the_user_trusts_is_written(install: Install) -> None:
    install(finds("old", "new", Safety.UNSAFE))
    assert fixed("f(old)\n", trusted=frozenset({FIRST}))[0] == "f(new)\n"


@pytest.mark.parametrize(
    ("kind", "after", "errors"), [("verified", "new", 0), ("refuted", "old", 1), ("not verified", "old", 0)]
)
def test_with_verify_only_verified_fixes_are_written(install: Install, kind: Any, after: str, errors: int) -> None:
    tried: list[str] = []

    def verify(text: str, fix: Fix, target: str) -> Verdict:
        tried.append(fix.title)
        return Verdict(kind, 3, reason="so it is")

    install(finds("old", "new"), finds("unsafe", "?", Safety.UNSAFE))
    got, _, report = fixed("f(old)\nunsafe\n", verify=verify)
    assert got == f"f({after})\nunsafe\n"
    assert [error.startswith(f"x.py:4:3: the fix of {FIRST} is ") for error in report.errors] == [True] * errors
    assert set(tried) == {"Replace it"}
    assert len(tried) == 1, "an unsafe fix is not tried where it would not be made"


def test_what_has_no_fix_is_not_verified(install: Install) -> None:
    install(finds("old"), finds("unsafe", "?", Safety.UNSAFE))
    verdict = Verdict("verified", 3)
    settings = Settings(frozenset({FIRST, SECOND}), fix=True, verify=lambda *_: verdict)
    report = check_text("x.py", f"{HEAD}old\nunsafe\n", settings)
    assert [finding.verdict for finding in report.findings] == [None, None]
    assert (report.errors, report.fixed_data) == ((), None)


# --- on disk ----------------------------------------------------------------------------------------------------------


def test_a_file_whose_fix_fails_is_unchanged_and_reported(install: Install, tmp_path: Path) -> None:
    install(finds("old", "1 1"), finds("bad", "good"))
    bad, good = tmp_path / "bad.py", tmp_path / "good.py"
    bad.write_bytes((HEAD + "f(old)\r\n").encode())
    good.write_bytes((HEAD + "f(bad)\r\n").encode())
    words = [
        "check",
        "--fix",
        "--isolated",
        "--no-cache",
        "--jobs",
        "1",
        "--select",
        f"{FIRST},{SECOND}",
        str(tmp_path),
    ]
    result = runner().invoke(main, words)
    assert result.exit_code == 2
    assert bad.read_bytes() == (HEAD + "f(old)\r\n").encode()
    assert good.read_bytes() == (HEAD + "f(good)\r\n").encode()
    assert f"{bad}:4:3: the fix of {FIRST} was not written" in result.stderr
    assert "Traceback" not in result.output
