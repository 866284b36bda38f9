"""Every rule in one table: its code, its name, whether it runs by default, and the bytes a file must hold to concern it.

The checks themselves are the modules of `clipcheck.rules`, found by the rule's name. This table lives apart from them
because importing a check imports libcst, which costs more than reading a hundred files: `--help`, `rules`, the
selection and every file without a mark get by without.
"""

from __future__ import annotations

import re
from functools import cache

from clipcheck.rule import Rule, Severity, Tier

_GRADIENT = rb"(?i)\bgrads?\b|gradient"
_NORM = rb"\bnorm\s*\(|\.pow\s*\(|\.square\s*\(|\*\*\s*2|dot\s*\("


def _rule(
    code: str, name: str, *marks: bytes, tier: Tier = Tier.DEFAULT, severity: Severity = Severity.WARNING
) -> Rule:
    return Rule(code, name, tier, severity, marks)


RULES: dict[str, Rule] = {
    rule.code: rule
    for rule in (
        _rule("CLIP001", "item-norm-loop", _GRADIENT, _NORM),
        _rule("CLIP002", "deprecated-clip-grad-norm", rb"\bclip_grad_norm\b"),
    )
}


def wanted(data: bytes, codes: frozenset[str]) -> frozenset[str]:
    """Those of `codes` whose marks `data` holds. A superset test: a file that lacks a mark cannot hold the fault."""
    return frozenset(code for code in codes if all(_compiled(mark).search(data) for mark in RULES[code].marks))


@cache
def _compiled(mark: bytes) -> re.Pattern[bytes]:
    return re.compile(mark)
