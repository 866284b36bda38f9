"""A rule's page: its head, the module's docstring, and the first example with what the fix makes of it."""

from __future__ import annotations

import difflib
import re
from pathlib import Path

from clipcheck.catalogue import RULES
from clipcheck.engine.file import check_file
from clipcheck.examples import Example, examples
from clipcheck.rule import Rule, Tier
from clipcheck.rules import page_of
from clipcheck.settings.keys import Settings

_FOR_TESTS = re.compile(r"^# claim:.*\n|[ \t]*# expect:.*$", re.MULTILINE)


def page(rule: Rule) -> str:
    """The whole page as Markdown."""
    head = f"# {rule.code} `{rule.name}`\n\n*{rule.tier.value}, {rule.severity.value}*"
    return "\n\n".join(part for part in (head, page_of(rule), _example(rule)) if part)


def _example(rule: Rule) -> str:
    example = next(examples(rule), None)
    if example is None:
        return ""
    if example.after is None:
        return f"## Example\n\n```python\n{_text(example.before)}```"
    return f"## Example\n\n```diff\n{diff_of(example)}\n```"


def diff_of(example: Example) -> str:
    """What the fix makes of an example, as a diff without its headers."""
    assert example.after is not None
    before, after = (_text(path).splitlines() for path in (example.before, example.after))
    lines = difflib.unified_diff(before, after, lineterm="", n=3)
    return "\n".join(line for line in lines if not line.startswith(("---", "+++", "@@")))


def _text(path: Path) -> str:
    return readable(path.read_text(encoding="utf-8"))


def readable(text: str) -> str:
    """An example without the comments that only the tests and the proof read."""
    return _FOR_TESTS.sub("", text)


def table() -> str:
    """The table of all rules as Markdown: what each finds, whether it runs by default, and the best fix it offers."""
    rows = ["| code | name | runs | fix | finds |", "| --- | --- | --- | --- | --- |"]
    for rule in RULES.values():
        tier = "by default" if rule.tier is Tier.DEFAULT else "if selected"
        rows.append(f"| {rule.code} | `{rule.name}` | {tier} | {best_fix(rule)} | {summary(rule)} |")
    return "\n".join(rows)


def summary(rule: Rule) -> str:
    """The first sentence of the rule's page."""
    text = " ".join(page_of(rule).split("## What it does", 1)[-1].split("\n\n")[0].split())
    sentence = re.split(r"(?<=[.:])\s", text + " ", maxsplit=1)[0]
    return sentence.rstrip(".:").replace("|", "\\|")


def best_fix(rule: Rule) -> str:
    """`safe`, `unsafe` or `–`: the safest fix that the rule's examples get."""
    settings = Settings(codes=frozenset({rule.code}))
    found = [
        finding.fix.safety
        for example in examples(rule)
        for finding in check_file(example.before.name, example.before.read_bytes(), settings).findings
        if finding.fix
    ]
    return max(found).applicability if found else "–"
