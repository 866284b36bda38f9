"""What clipcheck finds in a folder of checkouts, beside what was judged by hand.

    python benchmarks/survey.py FOLDER [--judged TSV] [--select CODES]

FOLDER holds one checkout per repository, named `owner+name`. Their commits are git's own, or stand in FOLDER/commits.tsv
(`owner/name`, commit) for checkouts without `.git`. Every finding becomes a line of a table on stdout: repository,
commit, path, line, code, verdict, reason. The verdicts come from benchmarks/survey.tsv, which has the same columns and
is written by hand, by reading the code: right, noise (true, but a maintainer would shrug), wrong, or unsure. A verdict is
for a code on a line of a path at a commit; nothing is carried over to another commit. A reason that starts with "no longer
reported" tells of a finding that led to a change of its rule, "first reported later" of one that such a change brought. The
summary goes to stderr; exit status 1 if a finding has no
verdict yet.
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

JUDGED = Path(__file__).with_suffix(".tsv")
VERDICTS = ("right", "noise", "wrong", "unsure")


class Row(NamedTuple):
    """A finding in a repository, and what was said of it by hand."""

    repository: str
    commit: str
    path: str
    line: int
    code: str
    verdict: str = ""
    reason: str = ""

    @property
    def place(self) -> tuple[str, str, str, int, str]:
        return self[:5]


def judged(table: Path) -> dict[tuple[str, str, str, int, str], Row]:
    """The verdicts of a table by their places."""
    if not table.exists():
        return {}
    with table.open(encoding="utf-8", newline="") as file:
        rows = [Row(**{**row, "line": int(row["line"])}) for row in csv.DictReader(file, delimiter="\t")]
    for row in rows:
        if row.verdict not in VERDICTS:
            sys.exit(f"{table}: {row.repository} {row.path}:{row.line}: not a verdict: {row.verdict!r}")
    return {row.place: row for row in rows}


def commits(folder: Path) -> Mapping[str, str]:
    """The commit of each checkout below a folder, by the repository's name."""
    listed = folder / "commits.tsv"
    known = dict(line.split("\t")[:2] for line in listed.read_text().splitlines()) if listed.exists() else {}
    for checkout in sorted(path for path in folder.iterdir() if path.is_dir()):
        name = checkout.name.replace("+", "/", 1)
        if name not in known:
            head = subprocess.run(["git", "-C", checkout, "rev-parse", "HEAD"], capture_output=True, text=True)
            known[name] = head.stdout.strip() or "unknown"
    return known


def found(folder: Path, select: str = "") -> list[dict[str, object]]:
    """clipcheck's findings below a folder, as its JSON has them."""
    command = [sys.executable, "-m", "clipcheck", "check", "--isolated", "--no-cache", "--output-format", "json"]
    command += ["--select", select] if select else []
    done = subprocess.run([*command, str(folder)], capture_output=True, text=True)
    if done.stderr:
        print(done.stderr, file=sys.stderr)
    findings: list[dict[str, object]] = json.loads(done.stdout)
    return findings


def rows(folder: Path, findings: Iterable[Mapping[str, object]], verdicts: Mapping[object, Row]) -> list[Row]:
    """The table of findings, each with its verdict if there is one."""
    known = commits(folder)
    table = []
    for finding in findings:
        checkout, _, path = Path(str(finding["filename"])).relative_to(folder).as_posix().partition("/")
        name = checkout.replace("+", "/", 1)
        location = finding["location"]
        assert isinstance(location, dict)
        cell = f"#{finding['cell']}" if finding["cell"] else ""
        row = Row(name, known.get(name, "unknown"), path + cell, location["row"], str(finding["code"]))
        table.append(verdicts.get(row.place, row))
    return sorted(table)


def summary(table: Sequence[Row], repositories: int) -> str:
    """How many findings of each verdict, in all and by code, and the share of the judged ones that is right."""
    by_verdict = Counter(row.verdict or "not judged" for row in table)
    true, false = by_verdict["right"] + by_verdict["noise"], by_verdict["wrong"]
    lines = [f"{len(table)} findings in {repositories} repositories: {_counts(by_verdict)}"]
    if true + false:
        lines.append(f"true: {true} of {true + false} ({true / (true + false):.1%})")
    for code in sorted({row.code for row in table}):
        lines.append(f"  {code}: {_counts(Counter(row.verdict or 'not judged' for row in table if row.code == code))}")
    return "\n".join(lines)


def _counts(by_verdict: Counter[str]) -> str:
    return ", ".join(f"{by_verdict[verdict]} {verdict}" for verdict in (*VERDICTS, "not judged") if by_verdict[verdict])


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--judged", type=Path, default=JUDGED)
    parser.add_argument("--select", default="", help="these rules in place of the default ones")
    given = parser.parse_args(arguments)
    folder = given.folder.resolve()
    table = rows(folder, found(folder, given.select), judged(given.judged))
    writer = csv.writer(sys.stdout, delimiter="\t", lineterminator="\n")
    writer.writerow(Row._fields)
    writer.writerows(table)
    print(summary(table, sum(path.is_dir() for path in folder.iterdir())), file=sys.stderr)
    return int(any(not row.verdict for row in table))


if __name__ == "__main__":
    sys.exit(main())
