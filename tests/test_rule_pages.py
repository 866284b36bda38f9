"""`clipcheck rule`: one page or all of them, and a clear error for an unknown one."""

from __future__ import annotations

import json

import pytest
from conftest import runner

from clipcheck import pages
from clipcheck.catalogue import RULES
from clipcheck.cli.main import main
from clipcheck.examples import examples
from clipcheck.rule import Rule


def test_all_pages() -> None:
    result = runner().invoke(main, ["rule", "--all"])
    assert result.exit_code == 0
    assert [code for code in RULES if f"# {code} " not in result.stdout] == []


def test_one_page() -> None:
    result = runner().invoke(main, ["rule", "CLIP002"])
    assert result.exit_code == 0
    assert "# CLIP002 " in result.stdout
    assert "# CLIP001 " not in result.stdout


@pytest.mark.parametrize("rule", RULES.values(), ids=lambda rule: rule.code)
def test_a_heading_stands_alone(rule: Rule) -> None:
    lines = pages.page(rule).splitlines()
    headings = [index for index, line in enumerate(lines) if line.startswith("## ")]
    assert "## What it does" in lines
    assert [lines[index] for index in headings if lines[index - 1]] == []


def test_all_pages_as_json() -> None:
    result = runner().invoke(main, ["rule", "--all", "--output-format", "json"])
    assert {page["code"] for page in json.loads(result.stdout)} == set(RULES)


@pytest.mark.parametrize(
    ("words", "said"), [(["CLIP999"], "CLIP999"), ([], "--all"), (["clip-after-steps"], "clip-after-steps")]
)
def test_an_unknown_page(words: list[str], said: str) -> None:
    result = runner().invoke(main, ["rule", *words])
    assert result.exit_code == 2
    assert said in result.stderr
    assert "Traceback" not in result.output


@pytest.mark.parametrize("rule", RULES.values(), ids=lambda rule: rule.code)
def test_a_rule_has_a_fix_where_its_examples_show_one(rule: Rule) -> None:
    """The comments that only tests read must not prevent a fix, as a user's comments would."""
    shows = any(example.after for example in examples(rule))
    assert (pages.best_fix(rule) is not None) is shows
    head = pages.page(rule).split("\n")[2]
    assert ("no automatic fix" in head) is not shows
