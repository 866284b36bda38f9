"""`make fuzz`: random modules with clipping idioms are checked and fixed, and nothing may be lost.

A module is a random sentence of the grammar in fuzz_modules.py, with comments, line breaks, tabs, backslashes and odd
blanks between its tokens wherever Python allows them, in a Python file, a notebook or Markdown. All are valid Python.
For each, nothing crashes and nothing is reported as invalid; the result is valid Python if the input was; a second fix
changes nothing; every comment still occurs exactly once and by itself; and lines that no fix affects are byte for byte
the same and in the same order. Every 50th fix is also verified on torch. A failing module is reduced by removing lines,
and printed. Usage: fuzz.py [COUNT] [SEED]
"""

from __future__ import annotations

import json
import random
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import NamedTuple

from fuzz_modules import PEP701, TAG, File, decorated, file_of, is_python, module

from clipcheck.catalogue import RULES
from clipcheck.documents.read import read
from clipcheck.engine.file import check_file
from clipcheck.python.unread import is_read
from clipcheck.rule import INVALID_SYNTAX, Safety, Verify
from clipcheck.settings.keys import Settings
from clipcheck.verify.sites import Verifier

TRIED = 50  # the fixes of one module in so many are verified on torch
ALL = Settings(codes=frozenset(RULES), fix=True)

# --- what must hold ---------------------------------------------------------------------------------------------------


class Outcome(NamedTuple):
    """What goes wrong with a file, its kind ("" if all is well), and the rules of the applied fixes."""

    kind: str = ""
    detail: str = ""
    fixed: tuple[str, ...] = ()


def outcome(file: File, settings: Settings) -> Outcome:
    try:
        return _outcome(file, settings)
    except Exception as error:
        return Outcome("exception", f"{type(error).__name__}: {error}")


def _outcome(file: File, settings: Settings) -> Outcome:
    report = check_file(file.name, file.data, settings)
    fixed = tuple(finding.code for finding in report.fixed)
    if report.errors:
        return Outcome("error", report.errors[0], fixed)
    for finding in report.findings:
        if finding.code == INVALID_SYNTAX:
            return Outcome("false invalid-syntax", finding.message, fixed)
    if report.fixed_data is None:
        return Outcome()
    again = check_file(file.name, report.fixed_data, settings)
    if again.fixed_data is not None or again.errors:
        return Outcome("not idempotent", "; ".join((*again.errors, *(f.message for f in again.fixed))), fixed)
    if again.findings != report.findings:
        return Outcome("another report", "what is left of the findings is not what a second look finds", fixed)
    before, after = ([p.written for p in read(file.name, data).programs] for data in (file.data, report.fixed_data))
    if all(map(is_python, before)) and not all(map(is_python, after)):
        return Outcome("no longer Python", ", ".join(fixed), fixed)
    return Outcome(*_loss(file.name, file.data, report.fixed_data, before, after), fixed)


def _loss(name: str, data: bytes, fixed: bytes, before: list[str], after: list[str]) -> tuple[str, str]:
    """A comment that is lost, doubled or followed by something else, or a changed line that no fix affects."""
    was, now = (Counter(_comments(texts)) for texts in (before, after))
    for kind, differ in (("lost comment", was - now), ("new comment", now - was)):
        if differ:
            return kind, next(iter(differ))
    for one, other in ((before, after), ([_outside(name, data)], [_outside(name, fixed)])):
        kept, left = (re.findall(r"(?m)^[^\w\n]*keep_.*", "\n".join(texts)) for texts in (one, other))
        if kept != left:
            return "touched line", next((line for line in kept if line not in left), "in another order")
    return "", ""


def _outside(name: str, data: bytes) -> str:
    """The content of a file besides its code."""
    if not name.endswith(".ipynb"):
        return data.decode("utf-8-sig")
    book = json.loads(data)
    return json.dumps(
        [book, *(cell.pop("source", "") for cell in book["cells"] if cell["cell_type"] == "code")][0], indent=1
    )


def _comments(texts: list[str]) -> Iterator[str]:
    return (found.rstrip() for text in texts for found in TAG.findall(text))


# --- the run ----------------------------------------------------------------------------------------------------------


def case(seed: int, number: int) -> tuple[str, str, Settings]:
    """The module with this number for a seed, its container, and the settings to check it with."""
    rng = random.Random(f"{seed} {number}")
    plain = module(rng)
    text = decorated(rng, plain)
    if not is_python(text):  # a tab or a line break where it matters
        text = plain
    # an older interpreter reports the error in the string, whatever LibCST cannot parse
    if "PEP701" in text and (sys.version_info >= (3, 12) or is_read(text)):
        text = text.replace("PEP701", rng.choice(PEP701))
    container = rng.choice(["py", "py", "py", "py", "ipynb", "md"])
    settings = replace(ALL, safety=rng.choice(list(Safety)[1:]), target=rng.choice(["clipcheck", "clipcheck", "torch"]))
    return text, container, settings


def reduced(text: str, fails: Callable[[str], bool]) -> str:
    """The text without lines that the failure does not need, removed in shorter and shorter blocks."""
    lines = re.findall(r"[^\n]*\n|[^\n]+", text)
    size = len(lines) // 2
    while size:
        start = 0
        while start < len(lines):
            fewer = [*lines[:start], *lines[start + size :]]
            if fails("".join(fewer)):
                lines = fewer
            else:
                start += size
        size //= 2
    return "".join(lines)


def looked_at(text: str, container: str, settings: Settings, seed: str) -> Outcome:
    return outcome(file_of(random.Random(seed), text, container), settings)


def run(count: int, seed: int, verify: Verify | None = None, say: Callable[[str], None] = print) -> list[Outcome]:
    """The outcome of each module; `verify` runs the fixes of one in `TRIED`, and failures are printed."""
    outcomes: list[Outcome] = []
    for number in range(count):
        text, container, settings = case(seed, number)
        if verify is not None and number % TRIED == 0:
            settings = replace(settings, verify=verify)
        look = partial(looked_at, container=container, settings=settings, seed=f"file {seed} {number}")
        found = look(text)
        outcomes.append(found)
        if found.kind:
            short = reduced(text, lambda some, look=look, kind=found.kind: is_python(some) and look(some).kind == kind)
            how = f"{container}, {settings.target}, {settings.safety.name}"
            say(f"--- module {number} of seed {seed} ({how}): {found.kind}: {look(short).detail}\n{short}")
    return outcomes


def main(count: int = 20_000, seed: int = 1) -> int:
    start = time.time()
    with Verifier() as verifier:
        outcomes = run(count, seed, verifier)
    kinds = Counter(one.kind for one in outcomes if one.kind)
    fixed = Counter(code for one in outcomes for code in one.fixed)
    print(f"{count} modules of seed {seed} in {time.time() - start:.0f} s; {fixed.total()} fixes of {len(fixed)} rules")
    print("; ".join(f"{kind}: {times}" for kind, times in kinds.items()) or "all is well")
    return 1 if kinds else 0


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
