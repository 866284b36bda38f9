"""The output of `--statistics`: how often each rule found something."""

from __future__ import annotations

import json
from collections import Counter

from clipcheck.engine.results import Outcome
from clipcheck.report.view import rows


def report(outcome: Outcome, as_json: bool) -> str:
    """One rule a line, the most frequent first: count, code, whether all its findings would be fixed, name."""
    found = rows(outcome)
    counts = Counter((row.finding.code, row.finding.name) for row in found)
    fixable = Counter(row.finding.code for row in found if row.fixable)
    order = sorted(counts, key=lambda rule: (-counts[rule], rule))
    if as_json:
        content = [
            {"code": code, "count": counts[code, name], "fixable": fixable[code] == counts[code, name], "name": name}
            for code, name in order
        ]
        return json.dumps(content, indent=2)
    marks = {code: "[*]" if fixable[code] == counts[code, name] else "[ ]" for code, name in order}
    return "".join(f"{counts[code, name]}\t{code}\t{marks[code]}\t{name}\n" for code, name in order)
