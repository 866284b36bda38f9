"""The rules' examples: `fixtures/CODE-name/`, beside the package in a checkout, inside it when installed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from clipcheck.rule import Rule

_NUMBERED = re.compile(r"before(_\d+)?\.(py|ipynb|md)$")


class Example(NamedTuple):
    """A program with a mistake, and the same program after the fix; `after` is None if it is only reported."""

    before: Path
    after: Path | None


def root() -> Path:
    """The folder of all fixtures."""
    package = Path(__file__).resolve().parent
    inside = package / "fixtures"
    return inside if inside.is_dir() else package.parent / "fixtures"


def folder(rule: Rule) -> Path:
    return root() / f"{rule.code}-{rule.name}"


def examples(rule: Rule, after: str = "after") -> Iterator[Example]:
    """The rule's examples, the first one first; `after="after_torch"` gives the result of `--target torch`."""
    for before in sorted(folder(rule).glob("before*"), key=_number):
        if _NUMBERED.match(before.name):
            fixed = before.with_name(before.name.replace("before", after))
            yield Example(before, fixed if fixed.exists() else None)


def clean(rule: Rule) -> list[Path]:
    """Similar programs that are correct: the rule must not report them."""
    return sorted(folder(rule).glob("clean*.py"), key=_number)


def _number(path: Path) -> tuple[int, str]:
    found = re.search(r"_(\d+)$", path.stem)
    return (int(found.group(1)) if found else 1), path.name
