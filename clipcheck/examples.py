"""Where the rules' examples lie: `fixtures/CODE-name/`, beside the package in a checkout, inside it when installed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from clipcheck.rule import Rule

_NUMBERED = re.compile(r"before(_\d+)?\.(py|ipynb|md)$")


class Example(NamedTuple):
    """One faulty program, and what its fix makes of it; `after` is None for a shape that is reported only."""

    before: Path
    after: Path | None

    @property
    def name(self) -> str:
        return f"{self.before.parent.name}/{self.before.stem}"


def root() -> Path:
    """The folder of all fixtures."""
    package = Path(__file__).resolve().parent
    inside = package / "fixtures"
    return inside if inside.is_dir() else package.parent / "fixtures"


def folder(rule: Rule) -> Path:
    return root() / f"{rule.code}-{rule.name}"


def examples(rule: Rule, after: str = "after") -> Iterator[Example]:
    """The rule's examples, the first one first; `after="after_torch"` gives what `--target torch` makes of them."""
    for before in sorted(folder(rule).glob("before*"), key=_number):
        if _NUMBERED.match(before.name):
            fixed = before.with_name(before.name.replace("before", after))
            yield Example(before, fixed if fixed.exists() else None)


def clean(rule: Rule) -> list[Path]:
    """The look-alikes that the rule must leave alone."""
    return sorted(folder(rule).glob("clean*.py"), key=_number)


def _number(path: Path) -> tuple[int, str]:
    found = re.search(r"_(\d+)$", path.stem)
    return (int(found.group(1)) if found else 1), path.name
