"""Every fixture: the findings that its comments announce, its fixed version, and no findings in its look-alikes."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from clipcheck.catalogue import RULES
from clipcheck.engine.file import check_file
from clipcheck.engine.results import FileReport
from clipcheck.examples import Example, clean, examples
from clipcheck.prefilter import wanted
from clipcheck.rule import Rule, Safety, Target
from clipcheck.settings.keys import DEFAULT, Settings

EXPECT = re.compile(r"#\s*expect:\s*(CLIP\d{3}(?:\s*,\s*CLIP\d{3})*)")
CLAIM = re.compile(r"# claim: (same|bounded|finite|raises)\b")

EXAMPLES = [(rule, example) for rule in RULES.values() for example in examples(rule)]
FIXED = [(rule, example) for rule, example in EXAMPLES if example.after]
TORCH = [(rule, example) for rule in RULES.values() for example in examples(rule, "after_torch") if example.after]
HELP_BESIDE_FIX = ("CLIP002", "CLIP006")  # for what the fix cannot know: that copies or the squared norm are meant
SILENT = [(rule, path) for rule in RULES.values() for path in clean(rule)]


def run(
    path: Path, codes: frozenset[str], fix: bool = False, target: Target = "clipcheck", data: bytes | None = None
) -> FileReport:
    settings = Settings(codes=codes, fix=fix, safety=Safety.UNSAFE, target=target)
    report = check_file(path.name, path.read_bytes() if data is None else data, settings)
    assert report.errors == ()
    return report


def fixed(path: Path, rule: Rule, target: Target = "clipcheck") -> str:
    # A fix keeps the comments of the code that it replaces, but these comments belong to the test.
    bare = re.sub(r"[ \t]*" + EXPECT.pattern, "", path.read_bytes().decode())
    report = run(path, frozenset({rule.code}), fix=True, target=target, data=bare.encode())
    return (report.fixed_data or report.data).decode()


def identify(value: object) -> str:
    if isinstance(value, Example):
        return f"{value.before.parent.name}/{value.before.name}"
    return value.name if isinstance(value, (Rule, Path)) else str(value)


@pytest.mark.parametrize(("rule", "example"), EXAMPLES, ids=identify)
def test_findings_are_where_they_are_expected(rule: Rule, example: Example) -> None:
    lines = example.before.read_text(encoding="utf-8").splitlines()
    expected = sorted(
        (number, code.strip())
        for number, line in enumerate(lines, 1)
        if (match := EXPECT.search(line))
        for code in match.group(1).split(",")
    )
    assert any(code == rule.code for _, code in expected), "an example shows its own rule"
    report = run(example.before, DEFAULT | {rule.code})
    assert sorted((finding.place.line, finding.code) for finding in report.findings) == expected


@pytest.mark.parametrize(("rule", "example"), EXAMPLES, ids=identify)
def test_the_prefilter_passes_every_example(rule: Rule, example: Example) -> None:
    assert wanted(example.before.read_bytes(), frozenset({rule.code})) == {rule.code}


@pytest.mark.parametrize(("rule", "example"), FIXED, ids=identify)
def test_the_fix_produces_the_expected_text(rule: Rule, example: Example) -> None:
    assert example.after is not None
    assert without_expectations(fixed(example.before, rule)) == without_expectations(example.after.read_text())


@pytest.mark.parametrize(("rule", "example"), TORCH, ids=identify)
def test_fix_towards_torch(rule: Rule, example: Example) -> None:
    assert example.after is not None
    assert without_expectations(fixed(example.before, rule, "torch")) == without_expectations(example.after.read_text())


@pytest.mark.parametrize(("rule", "example"), FIXED, ids=identify)
def test_the_fixed_version_has_no_findings_and_does_not_change(rule: Rule, example: Example) -> None:
    assert example.after is not None
    codes = DEFAULT | {rule.code}
    report = run(example.after, codes, fix=True)
    assert [f"{f.place.line}: {f.code}" for f in report.findings + report.fixed] == []
    ast.parse(example.after.read_text())


@pytest.mark.parametrize(("rule", "example"), [pair for pair in EXAMPLES if not pair[1].after], ids=identify)
def test_an_example_without_a_fix_says_what_to_do(rule: Rule, example: Example) -> None:
    own = [f for f in run(example.before, frozenset({rule.code})).findings if f.code == rule.code]
    assert [f.fix for f in own] == [None] * len(own)
    assert all(f.help for f in own)


@pytest.mark.parametrize(("rule", "example"), EXAMPLES, ids=identify)
def test_a_finding_says_what_to_do_by_hand_only_where_no_fix_does_it(rule: Rule, example: Example) -> None:
    for finding in run(example.before, frozenset({rule.code})).findings:
        assert finding.help or finding.fix
        assert not (finding.help and finding.fix) or rule.code in HELP_BESIDE_FIX
        assert finding.place not in [place for place, _ in finding.related]


@pytest.mark.parametrize(("rule", "path"), SILENT, ids=identify)
def test_look_alikes_have_no_findings(rule: Rule, path: Path) -> None:
    report = run(path, DEFAULT | {rule.code})
    assert [f"{f.place.line}: {f.code} {f.message}" for f in report.findings] == []


@pytest.mark.parametrize(("rule", "example"), FIXED, ids=identify)
def test_a_fixable_example_names_its_claim(rule: Rule, example: Example) -> None:
    """A safe fix must not change training, so its only valid claim is `same`."""
    claim = CLAIM.match(example.before.read_text())
    assert claim, "the first line says what running the pair must show"
    report = run(example.before, frozenset({rule.code}))
    if any(f.fix and f.fix.safety is Safety.SAFE for f in report.findings) and claim.group(1) != "raises":
        assert claim.group(1) == "same"


def without_expectations(text: str) -> str:
    """Removes the comments that the tests read; they are in `before` and may move with their lines."""
    kept = [EXPECT.sub("", line).rstrip() for line in text.splitlines() if not CLAIM.match(line)]
    return "\n".join(kept)
