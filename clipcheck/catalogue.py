"""Every rule in one table: its code, its name, whether it runs by default, and the bytes a file must hold to concern it.

The checks themselves are the modules of `clipcheck.rules`, found by the rule's name. This table lives apart from them
because importing a check imports libcst, which costs more than reading a hundred files: `--help`, `rules`, the
selection and every file without a mark get by without.
"""

from __future__ import annotations

import re
from functools import cache

from clipcheck.rule import Rule, Severity, Tier

# Bytes that a gradient norm cannot do without, cheap ones first: each mark only sees the files that the ones before let
# pass. Of 7,493 files of 13 packages of training code the five of CLIP001 let 40 pass.
_RAD = rb"rad(?:s|ients?)?(?![a-z])"  # grad, grads, gradient, gradients; a literal start is what makes it fast
_NAMED = (
    rb"(?<!requires_g)(?<!no_g)(?<!enable_g)(?<!set_g)(?<!clip_g)" + _RAD + rb"(?![_ ](?:norm|fn|check|accum|scale))"
)
_GRADIENT = (
    rb"\.grad\b(?! ?\()|autograd\.grad\b|\bfor\s[^:#]{0,200}?" + _NAMED + rb"|" + _NAMED + rb"\w*\s*(?::[^=\n]*)?=[^=]"
)
_NORM = rb"norm\(|dot\(|sum\(|max\("
_READ = rb"\.(?:item|tolist|numpy)\s*\("
_SYNCED = (
    rb"(?s)\b(?:\w*norm|v?dot)\s*\(.{0,500}?"
    + _READ
    + rb"|\bsum\s*\(.{0,120}?"
    + _READ
    + rb"|(?:float|pow|sqrt)\s*\([^#]{0,120}?(?:norm|dot|sum)\s*\(|linalg\.norm"
)
_SUMMED = (
    rb"(?:\+=|= ?\w+ ?\+|\+ ?\w+\n|\b(?:f?sum|append)\s*\()[^\n]*(?:\n[^\n]*){0,2}?"
    rb"(?:\*\*|pow\s*\(|square\s*\(|sum\s*\(|dot\s*\(|\b(\w+) ?\* ?\1\b)"
)


def _rule(
    code: str, name: str, *marks: bytes, tier: Tier = Tier.DEFAULT, severity: Severity = Severity.WARNING
) -> Rule:
    return Rule(code, name, tier, severity, marks)


RULES: dict[str, Rule] = {
    rule.code: rule
    for rule in (
        _rule("CLIP001", "item-norm-loop", _RAD, _NORM, _SYNCED, _SUMMED, _GRADIENT),
        _rule("CLIP002", "deprecated-clip-grad-norm", rb"\bclip_grad_norm\b"),
    )
}


def wanted(data: bytes, codes: frozenset[str]) -> frozenset[str]:
    """Those of `codes` whose marks `data` holds. A superset test: a file that lacks a mark cannot hold the fault."""
    return frozenset(code for code in codes if all(_compiled(mark).search(data) for mark in RULES[code].marks))


@cache
def _compiled(mark: bytes) -> re.Pattern[bytes]:
    return re.compile(mark)
