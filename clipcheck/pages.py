"""A rule's page: its head, the module's docstring, and the first example with its fix as a diff."""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import Any

from clipcheck import site
from clipcheck.catalogue import RULES
from clipcheck.engine.file import check_file
from clipcheck.examples import Example, examples
from clipcheck.rule import Rule, Tier
from clipcheck.rules import page_of
from clipcheck.settings.keys import Settings

_FOR_TESTS = re.compile(r"^# claim:.*\n|[ \t]*# expect:.*$", re.MULTILINE)


def by_code() -> list[Rule]:
    """All rules in the order of their codes."""
    return [RULES[code] for code in sorted(RULES)]


def described(rule: Rule) -> dict[str, Any]:
    """A rule as JSON: what a program that lists rules asks for."""
    return {
        "code": rule.code,
        "name": rule.name,
        "summary": summary(rule) + ".",
        "severity": rule.severity.value,
        "tier": rule.tier.value,
        "fix": best_fix(rule),
        "url": site.page(rule.code, rule.name),
    }


def page(rule: Rule) -> str:
    """The whole page as Markdown."""
    head = f"# {rule.code} `{rule.name}`\n\n*{facts(rule)}*"
    return "\n\n".join(part for part in (head, page_of(rule), _example(rule)) if part)


def facts(rule: Rule) -> str:
    """When the rule runs, how severe its findings are, and what its fix is."""
    runs = "Runs by default" if rule.tier is Tier.DEFAULT else "Opt-in"
    fix = best_fix(rule)
    return f"{runs} · {rule.severity.value} · {f'{fix} fix' if fix else 'no automatic fix'}"


def _example(rule: Rule) -> str:
    example = next(examples(rule), None)
    if example is None:
        return ""
    if example.after is None:
        return f"## Example\n\n```python\n{_text(example.before)}```"
    return f"## Example\n\n```diff\n{diff_of(example)}\n```"


def diff_of(example: Example) -> str:
    """The fix of an example as a diff, without headers."""
    assert example.after is not None
    before, after = (_text(path).splitlines() for path in (example.before, example.after))
    lines = difflib.unified_diff(before, after)
    return "\n".join(line for line in lines if not line.startswith(("---", "+++", "@@")))


def _text(path: Path) -> str:
    return readable(path.read_text(encoding="utf-8"))


def readable(text: str) -> str:
    """An example without the comments that only the tests and the verification read."""
    return _FOR_TESTS.sub("", text)


def summary(rule: Rule) -> str:
    """The first sentence of the rule's page, without its full stop."""
    text = " ".join(page_of(rule).split("## What it does", 1)[-1].split("\n\n")[0].split())
    sentence = re.split(r"(?<=[.:])\s", text + " ", maxsplit=1)[0]
    return sentence.rstrip(".:")


def best_fix(rule: Rule) -> str | None:
    """`safe`, `unsafe`, or None: the safest fix that the rule's examples get."""
    settings = Settings(codes=frozenset({rule.code}))
    found = [
        finding.fix.safety
        for path in (example.before for example in examples(rule))
        for finding in check_file(path.name, _as_users_write(path), settings).findings
        if finding.fix
    ]
    return max(found).applicability if found else None


def _as_users_write(path: Path) -> bytes:
    """An example without the comments for tests: a fix that would remove a comment is not offered."""
    return _text(path).encode() if path.suffix == ".py" else path.read_bytes()
