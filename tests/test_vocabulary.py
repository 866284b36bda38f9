"""The vocabulary that every part shares: targets, safeties, edits, findings and verdicts as they are shown and sorted."""

from __future__ import annotations

from typing import Any

import pytest

from clipcheck.formats import FORMATS, MAKERS
from clipcheck.rule import (
    Edit,
    Finding,
    Fix,
    Hit,
    Place,
    Role,
    Rule,
    Safety,
    Severity,
    Tier,
    Verdict,
    is_target,
    package_of,
)


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        *(
            ("", False),
            ("a-b", False),
            ("a.", False),
            (".a", False),
            ("class", False),
            ("a.class", False),
            ("1a", False),
        ),
        *(("clipcheck", True), ("torch", True), ("lib", True), ("my.lib_2", True)),
    ],
)
def test_targets(word: str, expected: bool) -> None:
    assert is_target(word) is expected


@pytest.mark.parametrize(
    ("target", "package"), [("clipcheck", "clipcheck.runtime"), ("torch", "torch.nn.utils"), ("my.lib", "my.lib")]
)
def test_the_package_of_a_target(target: str, package: str) -> None:
    assert package_of(target) == package


def test_how_safe_a_fix_is() -> None:
    assert [safety.applicability for safety in sorted(Safety)] == ["display", "unsafe", "safe"]
    assert Safety.MANUAL < Safety.UNSAFE < Safety.SAFE


def test_all_edits_of_a_fix_are_sorted_and_there_once() -> None:
    one, two, three = Edit(5, 6, "b"), Edit(1, 2, "a"), Edit(3, 3, "c")
    assert Fix("", Safety.SAFE, (one, two), (two, three)).all_edits == (two, three, one)


def test_findings_sort_by_file_cell_and_place() -> None:
    def finding(
        path: str, line: int, column: int = 1, cell: int | None = None, code: str = "A", said: str = "m"
    ) -> Finding:
        return Finding(path, Place(line, column, line, column, cell), code, "name", said)

    ordered = [
        finding("a", 9),
        finding("b", 1),
        finding("b", 2, 1, code="A", said="m"),
        finding("b", 2, 1, code="A", said="n"),
        finding("b", 2, 1, code="B"),
        finding("b", 2, 3),
        finding("b", 1, 1, cell=1),  # after what is said of the whole notebook
        finding("b", 1, 1, cell=2),
    ]
    shuffled = [ordered[place] for place in (3, 0, 7, 6, 1, 5, 2, 4)]
    assert sorted(shuffled, key=lambda one: one.order) == ordered
    assert ordered[0].severity is Severity.WARNING
    assert ordered[0] == Finding(
        *("a", Place(9, 1, 9, 1), "A", "name", "m", Severity.WARNING, None),
        changes=(),
        help="",
        related=(),
        program=0,
        silent_at=0,
        copied="",
        verdict=None,
    )


def test_what_a_rule_need_not_say() -> None:
    node: Any = object()
    assert Hit(node, "message") == Hit(node, "message", fix=None, help="", related=(), masked=False)
    assert Verdict("refuted") == Verdict("refuted", cases=0, exceptions=(), reason="")


def test_roles_are_called_by_their_names() -> None:
    assert {role.value for role in Role} == {role.name.lower() for role in Role}


@pytest.mark.parametrize(
    ("verdict", "shown"),
    [
        (Verdict("verified", 3), "verified on 3 cases"),
        (Verdict("verified", 3, ("a", "b")), "verified on 3 cases; the new code is also correct where the original fails: a; b"),
        (Verdict("verified", 3, (), "c"), "verified on 3 cases; what else is different: c"),
        (Verdict("verified", 3, ("a",), "c"), "verified on 3 cases; the new code is also correct where the original fails: a; what else is different: c"),
        (Verdict("refuted", 3, (), "c"), "refuted: c"),
        (Verdict("not verified", 0, ("a",), "c"), "not verified: c"),
    ],
)  # fmt: skip
def test_verdicts_in_words(verdict: Verdict, shown: str) -> None:
    assert str(verdict) == shown


def test_the_module_of_a_rule() -> None:
    assert Rule("X", "clip-after-step", Tier.DEFAULT, Severity.NOTE, ()).module == "clip_after_step"
    assert [tier.value for tier in Tier] == ["default", "opt-in"]
    assert [severity.value for severity in Severity] == ["error", "warning", "note"]


def test_the_formats() -> None:
    assert (
        *("full", "concise", "grouped", "pylint", "json", "json-lines", "github", "azure", "gitlab", "rdjson", "junit"),
        "sarif",
    ) == FORMATS
    assert set(MAKERS) == set(FORMATS)
