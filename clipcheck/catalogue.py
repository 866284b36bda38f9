"""Every rule in one table: its code, its name, whether it runs by default, and the bytes a file must hold to concern it.

The checks themselves are the modules of `clipcheck.rules`, found by the rule's name. This table lives apart from them
because importing a check imports libcst, which costs more than reading a hundred files: `--help`, `rules`, the
selection and every file without a mark get by without.
"""

from __future__ import annotations

from clipcheck.rule import Rule, Severity, Tier

# What a gradient norm cannot do without, cheap words first: a mark only sees the files that the ones before let pass.
_GRAD = b"grad|Grad"
_NORM = b"norm(|dot(|sum(|max("
_HOST = b".item(|.tolist(|.numpy(|float(|math|linalg.norm"  # how a value gets from the device into Python
# grad, grads, gradient, gradients as a name; a pattern that begins with letters is ten times as fast
_NAMED = (
    rb"rad(?<!requires_grad)(?<!no_grad)(?<!enable_grad)(?<!set_grad)(?<!clip_grad)(?:s|ients?)?(?![a-z])"
    rb"(?![_ ](?:norm|fn|check|clipping|accum|scale))"
)
_GRADIENT = b"\n".join(  # a gradient that is read, bound to a name or iterated over
    (
        rb"\.grad\b(?! ?\()",
        rb"autograd\.grad\b",
        rb"get\w*_grad(?:ient)?\s*\(",
        _NAMED + rb"[\w., )]{0,60}?\s+in\s",
        _NAMED + rb"[\w, \t]*(?::[^=\n]*)?=[^=]",
        rb"for\s+[\w., ()*]{1,80}?\s+in\s[^:#]{0,200}?" + _NAMED,
    )
)
_READ = rb"(?:\.(?:item|tolist|numpy)|float|pow|sqrt)\s*\("
_SYNCED = (
    rb"(?s)(?:norm|dot)\s*\(.{0,2000}?"
    + _READ
    + rb"|sum\s*\(.{0,500}?"
    + _READ
    + rb"|(?:float|pow|sqrt)\s*\([^#]{0,200}?(?:norm|dot|sum)\s*\(|linalg\.norm"
)
_SQUARE = rb"(?:\*\*|pow\s*\(|square\s*\(|sum\s*\(|dot\s*\(|\b(\w+) ?\* ?\1\b)"
_PLUS = rb"\+=|= ?[\w.]+ ?\+|\b(?:f?sum|append)\s*\("
_SUMMED = (
    rb"(?:"
    + _PLUS
    + rb")[^\n]*(?:\n[^\n]*){0,2}?"
    + _SQUARE
    + rb"|(?:\*\*|pow\s*\(|square\s*\(|sum\s*\(|dot\s*\(|item\s*\()[^\n]*\+ ?\w+[ \t]*(?:#[^\n]*)?\r?\n"
)
# A root that is a division, a norm that is summed by its name, or a norm raised to a power.
_EXPONENT = (
    rb"\*\* ?1\.?0? ?/|norm\w* ?\+=|norm\w* ?= ?\w*norm\w* ?\+"
    rb"|norm\s*\([^\n]*(?:\n[^\n]*){0,6}?(?:\*\*|pow\s*\()"
)
_RESULT = rb"\.(?:clamp|clip|clamp_min|clamp_max|mul|div|nan_to_num|multiply|divide)\s*\("
_DISCARDED = (  # a statement that begins with a gradient's method or torch's function of one, or `g = p.grad`, `g = g.clamp(`
    rb"(?m)(?:^|[:;])[ \t]*(?:[\w.\[\]]*grad(?:\.data)?" + _RESULT + rb"|\w+" + _RESULT + rb"[\w.\[\]]*grad\b)"
    rb"|= ?[\w.\[\]]+\.grad(?:\.data)?[ \t]*(?:#[^\n]*)?\r?\n(?:[^\n]*\n){0,30}?[^\n]*= ?\w+" + _RESULT
)
_SCALED = (
    rb"\.grad\b[^\n]{0,60}?(?:\.mul_\s*\(|\.div_\s*\(|\.copy_\s*\(|[*/]=|=[^=])|"
    rb"\b\w+(?:\.data|\.detach\(\))?\.(?:mul_|div_)\s*\(|(?i:grad\w*|\bg)(?:\[:\])? ?[*/]="
)
_RATIO = rb"/[^\n]{0,80}norm|norm\w*[^\n]{0,60}/"
_RECOMPUTED = rb"(?:norm|sum)\s*\(.*\n(?:.*\n){0,9}?.*\bclip_grad_norm_?\s*\("
_CLIPS = b"clip_grad"
# A call of a clip, its import or a reference to it; a definition or an option of that name is none.
_CLIP = (
    rb"(?<!def )(?<!def _)clip_grad(?:s_with)?_(?:norm|value)_?\s*\(|(?<!def )(?<!def _)clip_gradients\s*\("
    rb"|utils\.clip_grad|import[^\n]*clip_grad"
    rb"|clip_grad(?:s_with)?_(?:norm|value)_?,?[ \t]*(?:as \w+,?)?[ \t]*(?:#[^\n]*)?\r?\n"
)
_BACKWARD = rb"\.\s*(?:manual_)?backward\s*\("
_TOTALS = b"clip_grad|get_total_norm"
_TOTAL = _CLIP + rb"|get_total_norm"


def _rule(
    code: str,
    name: str,
    *marks: bytes,
    tier: Tier = Tier.DEFAULT,
    severity: Severity = Severity.WARNING,
    together: bool = False,
) -> Rule:
    return Rule(code, name, tier, severity, marks, together)


RULES: dict[str, Rule] = {
    rule.code: rule
    for rule in (
        _rule("CLIP001", "item-norm-loop", _GRAD, _NORM, _HOST, _GRADIENT, _SYNCED, _SUMMED, together=True),
        _rule("CLIP004", "linear-norm-sum", _GRAD, b"norm(", _GRADIENT, tier=Tier.OPT_IN, together=True),
        _rule("CLIP005", "tensor-norm-accumulation", _GRAD, _NORM, _GRADIENT, tier=Tier.OPT_IN, together=True),
        _rule("CLIP006", "norm-exponent-mismatch", _GRAD, b"norm", _NORM, _GRADIENT, _EXPONENT, together=True),
        _rule("CLIP007", "total-norm-of-parameters", b"get_total_norm", b"parameters"),
        _rule("CLIP008", "hand-rolled-clip", _GRAD, b"norm", _SCALED, _RATIO, tier=Tier.OPT_IN),
        _rule("CLIP009", "unclamped-clip-coefficient", _GRAD, b"norm", _SCALED, _RATIO, tier=Tier.OPT_IN),
        _rule(
            "CLIP010", "item-per-parameter", _GRAD, _NORM, _HOST, _GRADIENT, _SYNCED, tier=Tier.OPT_IN, together=True
        ),
        _rule("CLIP011", "torch-clip-grad-norm", b"clip_grad_norm_|get_total_norm", tier=Tier.OPT_IN),
        _rule("CLIP504", "norm-recomputed-beside-clip", _CLIPS, _CLIP, _RECOMPUTED, together=True),
        _rule("CLIP002", "deprecated-clip-grad-norm", _CLIPS, rb"clip_grad_norm\b", _CLIP),
        _rule("CLIP003", "torch-six-inf", b"_six", b"torch", severity=Severity.ERROR),
        _rule("CLIP101", "clip-after-step", _CLIPS, _CLIP, _BACKWARD, b"step"),
        _rule("CLIP102", "clip-before-backward", _CLIPS, _CLIP, _BACKWARD),
        _rule("CLIP103", "clip-outside-training-loop", _CLIPS, _CLIP, _BACKWARD),
        _rule(
            "CLIP104",
            "zero-grad-discards-gradients",
            b"zero_grad",
            rb"\.\s*zero_grad\s*\(",
            b"clip_grad|scaler",
            _BACKWARD,
        ),
        _rule("CLIP105", "exhausted-parameter-iterator", _CLIPS, _CLIP),
        _rule("CLIP106", "grads-passed-as-parameters", _CLIPS, _CLIP, b"grad|data|state_dict"),
        _rule(
            "CLIP107",
            "discarded-out-of-place-clamp",
            b".grad",
            rb"\.grad\b",
            b"clamp|clip|mul(|div(|nan_to_num|multiply(|divide(",
            _DISCARDED,
        ),
        _rule("CLIP108", "clip-each-microbatch", _CLIPS, _CLIP, _BACKWARD, b"%|accum"),
        _rule("CLIP109", "clip-outside-closure", _CLIPS, _CLIP, rb"closure|\.step\(\w"),
        _rule("CLIP110", "per-parameter-clip", _CLIPS, _CLIP, b"for "),
        _rule("CLIP111", "per-group-or-module-clip", _CLIPS, _CLIP, b"for ", tier=Tier.OPT_IN),
        _rule("CLIP112", "overlapping-parameter-lists", _CLIPS, _CLIP, rb"\+|chain|\*"),
        _rule("CLIP201", "nonpositive-max-norm", _CLIPS, _CLIP),
        _rule("CLIP202", "wrong-parameters-argument", _CLIPS, _CLIP, severity=Severity.ERROR),
        _rule("CLIP203", "invalid-norm-type", _TOTALS, _TOTAL),
        _rule("CLIP204", "wrong-keyword", _TOTALS, _TOTAL, severity=Severity.ERROR),
        _rule(
            "CLIP205",
            "inf-max-norm-for-logging",
            b"clip_grad_norm",
            b"inf",
            tier=Tier.OPT_IN,
            severity=Severity.NOTE,
        ),
        _rule("CLIP206", "float-total-norm", b"clip_grads_with_norm_", severity=Severity.ERROR),
        _rule("CLIP207", "sparse-embedding-clip", _CLIPS, _CLIP, b"sparse", b"Embedding"),
        _rule("CLIP208", "clip-value-result-used", b"clip_grad_value_"),
        _rule("CLIP301", "amp-missing-unscale", _CLIPS, _CLIP, b".scale"),
        _rule("CLIP303", "amp-unscale-each-microbatch", b"unscale_(", b"%|accum"),
        _rule("CLIP304", "amp-error-if-nonfinite", _CLIPS, _CLIP, b"error_if_nonfinite", b"unscale_"),
        _rule("CLIP305", "amp-unscale-wrong-optimizer", _CLIPS, _CLIP, b"unscale_", tier=Tier.OPT_IN),
        _rule("CLIP306", "apex-clip-inside-scale-loss", _CLIPS, _CLIP, b"scale_loss"),
        _rule("CLIP307", "apex-master-params", _CLIPS, _CLIP, b"scale_loss"),
        _rule("CLIP308", "amp-skip-without-update", b"unscale_", b"continue", tier=Tier.OPT_IN),
        _rule("CLIP401", "lightning-clip-in-training-step", _CLIPS, _CLIP, b"LightningModule", b"training_step"),
        _rule(
            "CLIP402",
            "lightning-manual-gradient-clip-val",
            b"gradient_clip_val",
            b"automatic_optimization",
            severity=Severity.ERROR,
        ),
        _rule("CLIP403", "accelerate-torch-clip", _CLIPS, _CLIP, b"accelerator|Accelerator"),
        _rule("CLIP404", "deepspeed-torch-clip", _CLIPS, _CLIP, b"deepspeed"),
        _rule("CLIP405", "fsdp1-torch-clip", _CLIPS, _CLIP, b"FullyShardedDataParallel"),
        _rule(
            "CLIP406",
            "rank-conditional-clip",
            _CLIPS,
            _CLIP,
            b"fully_shard|FullyShardedDataParallel|DTensor|parallelize_module",
            b"rank|is_m",
        ),
        _rule("CLIP407", "dtensor-local-norm", _TOTALS, _TOTAL, b"fully_shard"),
        _rule("CLIP408", "xla-clip-before-reduce", _CLIPS, _CLIP, b"optimizer_step"),
        _rule(
            "CLIP409",
            "horovod-clip-without-synchronize",
            _CLIPS,
            _CLIP,
            b"horovod",
            b"DistributedOptimizer",
            tier=Tier.OPT_IN,
        ),
        _rule("CLIP411", "fabric-torch-clip", _CLIPS, _CLIP, b"fabric"),
        _rule("CLIP501", "return-value-named-post-clip", _CLIPS, _CLIP, rb"(?i)after|post|clipped|assert"),
        _rule("CLIP502", "return-value-rebinds", _CLIPS, _CLIP, b"="),
        _rule(
            "CLIP503",
            "per-step-sync",
            b"clip_grad_norm",
            b".item(|float(|<|>",
            tier=Tier.OPT_IN,
            severity=Severity.NOTE,
        ),
        _rule("CLIP505", "double-clip", _CLIPS, _CLIP),
    )
}
