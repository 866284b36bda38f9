"""A rule's page: its head, the module's docstring, and the first example with what the fix makes of it."""

from __future__ import annotations

import difflib
import re
from pathlib import Path

from clipcheck import fixtures
from clipcheck.rule import Rule
from clipcheck.rules import page_of

# What only the tests and the proof read.
_FOR_TESTS = re.compile(r"^# claim:.*\n|[ \t]*# expect:.*$", re.MULTILINE)


def page(rule: Rule) -> str:
    """The whole page as Markdown."""
    head = f"# {rule.code} `{rule.name}`\n\n*{rule.tier.value}, {rule.severity.value}*"
    return "\n\n".join(part for part in (head, page_of(rule), _example(rule)) if part)


def _example(rule: Rule) -> str:
    example = next(fixtures.examples(rule), None)
    if example is None:
        return ""
    before = _text(example.before)
    if example.after is None:
        return f"## Example\n\n```python\n{before}```"
    lines = difflib.unified_diff(before.splitlines(), _text(example.after).splitlines(), lineterm="", n=3)
    diff = "\n".join(line for line in lines if not line.startswith(("---", "+++", "@@")))
    return f"## Example\n\n```diff\n{diff}\n```"


def _text(path: Path) -> str:
    return _FOR_TESTS.sub("", path.read_text(encoding="utf-8"))
