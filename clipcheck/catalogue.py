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
# pass. Of 7,493 files of 13 packages of training code those of CLIP001 let 28 pass.
_RAD = rb"rad(?:s|ients?)?(?![a-z])"  # grad, grads, gradient, gradients; a literal start is what makes it fast
_NAMED = (
    rb"(?<!requires_g)(?<!no_g)(?<!enable_g)(?<!set_g)(?<!clip_g)" + _RAD + rb"(?![_ ](?:norm|fn|check|accum|scale))"
)
_GRADIENT = (
    rb"\.grad\b(?! ?\()|autograd\.grad\b|get\w*_grad(?:ient)?\s*\("
    rb"|\bfor\s+[\w., (*]{0,60}?" + _NAMED + rb"[\w., )]{0,60}?\s+in\s"
    rb"|\bfor\s+[\w., ()*]{1,80}?\s+in\s[^:#]{0,200}?" + _NAMED + rb"|" + _NAMED + rb"[\w, \t]*(?::[^=\n]*)?=[^=]"
)
_NORM = rb"norm\(|dot\(|sum\(|max\("
_READ = rb"\.(?:item|tolist|numpy)\s*\("
_HOST = rb"\.item\(|\.tolist\(|\.numpy\(|float\(|math|linalg\.norm"
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
_ADDED = (
    rb"\*\* ?1\.?0? ?/|(?:\+=|= ?[\w.]+ ?\+)[^\n]*(?:\n[^\n]*){0,2}?"
    rb"(?:\*\*|pow\s*\(|square\s*\(|sum\s*\(|dot\s*\(|\b(\w+) ?\* ?\1\b)"
)
_SCALED = (
    rb"\.grad\b[^\n]{0,60}?(?:\.mul_\s*\(|\.div_\s*\(|\.copy_\s*\(|[*/]=|=[^=])|"
    rb"\b\w+(?:\.data|\.detach\(\))?\.(?:mul_|div_)\s*\(|(?i:grad\w*|\bg)(?:\[:\])? ?[*/]="
)
_RATIO = rb"/[^\n]{0,80}norm|norm\w*[^\n]{0,60}/"
_RECOMPUTED = (
    rb"norm\s*\(.*\n(?:.*\n){0,9}?.*\bclip_grad_norm_?\s*\(|\bsum\s*\(.*\n(?:.*\n){0,9}?.*\bclip_grad_norm_?\s*\("
)
_CLIP = rb"\bclip_grad_(?:norm|value)|\bclip_gradients\b"


def _rule(
    code: str, name: str, *marks: bytes, tier: Tier = Tier.DEFAULT, severity: Severity = Severity.WARNING
) -> Rule:
    return Rule(code, name, tier, severity, marks)


RULES: dict[str, Rule] = {
    rule.code: rule
    for rule in (
        _rule("CLIP001", "item-norm-loop", _RAD, _NORM, _HOST, _SUMMED, _SYNCED, _GRADIENT),
        _rule("CLIP004", "linear-norm-sum", _RAD, rb"norm", rb"norm\s*\(", _GRADIENT, tier=Tier.OPT_IN),
        _rule("CLIP005", "tensor-norm-accumulation", _RAD, _NORM, _GRADIENT, tier=Tier.OPT_IN),
        _rule("CLIP006", "norm-exponent-mismatch", _RAD, _NORM, _ADDED, _GRADIENT),
        _rule("CLIP007", "total-norm-of-parameters", rb"get_total_norm\b", rb"parameters\b"),
        _rule("CLIP008", "hand-rolled-clip", _RAD, rb"norm", _RATIO, _SCALED, tier=Tier.OPT_IN),
        _rule("CLIP009", "unclamped-clip-coefficient", _RAD, rb"norm", _RATIO, _SCALED, tier=Tier.OPT_IN),
        _rule("CLIP010", "item-per-parameter", _RAD, _NORM, _HOST, _SYNCED, _GRADIENT, tier=Tier.OPT_IN),
        _rule(
            "CLIP011", "torch-clip-grad-norm", rb"\b(?:clip_grad_norm_|get_total_norm)\b", rb"torch", tier=Tier.OPT_IN
        ),
        _rule("CLIP504", "norm-recomputed-beside-clip", rb"clip_grad_norm", _RECOMPUTED),
        _rule("CLIP002", "deprecated-clip-grad-norm", rb"\bclip_grad_norm\b"),
        _rule("CLIP003", "torch-six-inf", rb"\btorch\s*\._six|_six\b", severity=Severity.ERROR),
        _rule("CLIP101", "clip-after-step", _CLIP, rb"backward", rb"\bstep\b"),
        _rule("CLIP102", "clip-before-backward", _CLIP, rb"backward"),
        _rule("CLIP103", "clip-outside-training-loop", _CLIP, rb"backward"),
        _rule(
            "CLIP104",
            "zero-grad-discards-gradients",
            rb"\bzero_grad\b",
            rb"\bclip_grad|\bscaler\b|clip_gradients",
            rb"backward",
        ),
        _rule("CLIP105", "exhausted-parameter-iterator", _CLIP),
        _rule("CLIP106", "grads-passed-as-parameters", _CLIP, rb"\bgrad\b|\bdata\b|state_dict"),
        _rule(
            "CLIP107",
            "discarded-out-of-place-clamp",
            rb"\bgrad\b",
            rb"\b(clamp|clip|clamp_min|clamp_max|mul|div|nan_to_num|multiply|divide)\s*\(",
        ),
        _rule("CLIP108", "clip-each-microbatch", _CLIP, rb"backward", rb"%|accum"),
        _rule("CLIP109", "clip-outside-closure", _CLIP, rb"closure|\.step\(\w"),
        _rule("CLIP110", "per-parameter-clip", rb"\bclip_grad_norm", rb"\bfor\b"),
        _rule("CLIP111", "per-group-or-module-clip", _CLIP, rb"\bfor\b", tier=Tier.OPT_IN),
        _rule("CLIP112", "overlapping-parameter-lists", _CLIP, rb"\+|chain|\*"),
        _rule("CLIP201", "nonpositive-max-norm", _CLIP),
        _rule("CLIP202", "wrong-parameters-argument", _CLIP, severity=Severity.ERROR),
        _rule("CLIP203", "invalid-norm-type", rb"\bclip_grad_norm|\bget_total_norm\b"),
        _rule("CLIP204", "wrong-keyword", rb"\bclip_grad|\bget_total_norm\b", severity=Severity.ERROR),
        _rule(
            "CLIP205",
            "inf-max-norm-for-logging",
            rb"\bclip_grad_norm",
            rb"\binf",
            tier=Tier.OPT_IN,
            severity=Severity.NOTE,
        ),
        _rule("CLIP206", "float-total-norm", rb"\bclip_grads_with_norm_", severity=Severity.ERROR),
        _rule("CLIP207", "sparse-embedding-clip", _CLIP, rb"\bsparse\b", rb"\bEmbedding"),
        _rule("CLIP208", "clip-value-result-used", rb"\bclip_grad_value_"),
        _rule("CLIP301", "amp-missing-unscale", _CLIP, rb"\.scale\s*\("),
        _rule("CLIP303", "amp-unscale-each-microbatch", rb"\bunscale_\b", rb"%|accum"),
        _rule("CLIP304", "amp-error-if-nonfinite", _CLIP, rb"\berror_if_nonfinite\b", rb"\bunscale_\b"),
        _rule("CLIP305", "amp-unscale-wrong-optimizer", _CLIP, rb"\bunscale_\b", tier=Tier.OPT_IN),
        _rule("CLIP306", "apex-clip-inside-scale-loss", _CLIP, rb"\bscale_loss\b"),
        _rule("CLIP307", "apex-master-params", _CLIP, rb"\bscale_loss\b"),
        _rule("CLIP308", "amp-skip-without-update", rb"\bunscale_\b", rb"\bcontinue\b", tier=Tier.OPT_IN),
        _rule("CLIP401", "lightning-clip-in-training-step", _CLIP, rb"LightningModule", rb"training_step"),
        _rule(
            "CLIP402",
            "lightning-manual-gradient-clip-val",
            rb"\bgradient_clip_val\b",
            rb"\bautomatic_optimization\b",
            severity=Severity.ERROR,
        ),
        _rule("CLIP403", "accelerate-torch-clip", _CLIP, rb"\baccelerator\b|\bAccelerator\b"),
        _rule("CLIP404", "deepspeed-torch-clip", _CLIP, rb"\bdeepspeed\.initialize\b"),
        _rule("CLIP405", "fsdp1-torch-clip", _CLIP, rb"FullyShardedDataParallel"),
        _rule(
            "CLIP406",
            "rank-conditional-clip",
            _CLIP,
            rb"\b(?:fully_shard|FullyShardedDataParallel|DTensor|parallelize_module)\b",
            rb"rank|is_m",
        ),
        _rule("CLIP407", "dtensor-local-norm", rb"\bclip_grad_norm|\bget_total_norm\b", rb"\bfully_shard\b"),
        _rule("CLIP408", "xla-clip-before-reduce", _CLIP, rb"\boptimizer_step\b"),
        _rule(
            "CLIP409",
            "horovod-clip-without-synchronize",
            _CLIP,
            rb"\bhorovod\b",
            rb"\bDistributedOptimizer\b",
            tier=Tier.OPT_IN,
        ),
        _rule("CLIP411", "fabric-torch-clip", _CLIP, rb"\bfabric\b"),
        _rule("CLIP501", "return-value-named-post-clip", _CLIP, rb"(?i)after|post|clipped|assert"),
        _rule("CLIP502", "return-value-rebinds", _CLIP, rb"="),
        _rule(
            "CLIP503",
            "per-step-sync",
            rb"\bclip_grad_norm",
            rb"\.item\(|float\(|[<>]",
            tier=Tier.OPT_IN,
            severity=Severity.NOTE,
        ),
        _rule("CLIP505", "double-clip", _CLIP),
    )
}


def wanted(data: bytes, codes: frozenset[str]) -> frozenset[str]:
    """Those of `codes` whose marks `data` holds. A superset test: a file that lacks a mark cannot hold the fault."""
    held: dict[bytes, bool] = {}  # several rules share their marks

    def holds(mark: bytes) -> bool:
        if mark not in held:
            held[mark] = _compiled(mark).search(data) is not None
        return held[mark]

    return frozenset(code for code in codes if all(map(holds, RULES[code].marks)))


@cache
def _compiled(mark: bytes) -> re.Pattern[bytes]:
    return re.compile(mark)
