"""The output of `--statistics`: the number of findings of each rule."""

from __future__ import annotations

import json
from collections import Counter

from clipcheck.engine.results import Outcome
from clipcheck.report.text import summary
from clipcheck.report.view import View, rows


def report(outcome: Outcome, view: View, as_json: bool) -> str:
    """One rule per line, the most frequent first: count, code, whether all or some can be fixed, name; then the summary."""
    found = rows(outcome)
    counts = Counter((row.finding.code, row.finding.name) for row in found)
    fixable = Counter(row.finding.code for row in found if row.fixable)
    order = sorted(counts, key=lambda rule: (-counts[rule], rule))
    if as_json:
        content = [
            {
                "code": code,
                "count": counts[code, name],
                "fixable": fixable[code] == counts[code, name],
                "fixable_count": fixable[code],
                "name": name,
            }
            for code, name in order
        ]
        return json.dumps(content, indent=2)
    lines = [f"{counts[rule]}\t{rule[0]}\t{_mark(fixable[rule[0]], counts[rule])}\t{rule[1]}\n" for rule in order]
    return "".join([*lines, summary(outcome, view)])


def _mark(fixable: int, count: int) -> str:
    """`[*]` if every finding of a rule can be fixed, `[-]` if some can."""
    if fixable == count:
        return "[*]"
    return "[-]" if fixable else "[ ]"
