"""Every rule in one table: its code, its name, whether it runs by default, and its keywords.

The checks themselves are the modules of `clipcheck.rules`, found by the rule's name. This table is separate from them because importing a check imports libcst, which costs more than reading a hundred files: `--help`, `rules`, the
selection and every file without keywords need none of it.

A rule's needs are what its check cannot do without, never more: a program that lacks one has no such finding. Each is a
word or several of which one will do:

    step                an identifier: a name, an attribute, a keyword, a part of an import's dotted path
    .grad               an attribute, or a name that is imported from a module
    float()             a call of this function, alone or as a module's or a variable's
    clamp();            a call of this function or method that is a statement, or the new value of a variable
    .data[]             an attribute of which an element is taken
    def training_step   a function or class that is defined
    'clip_grad_norm'    a string that is this name, or a dotted path with it
    *scaler*            an identifier with these letters in it
    <gradient>          an identifier that may stand for gradients (`clipcheck.gradients.called`)
    <gradient norm>     a call of what may be a function that gives the norm of gradients, by its name
    <clips>             a function whose name or docstring is about clipping
    <For>               a node of Python's grammar, as `ast` calls it; <square> is `x * x`, whatever x is, <dot> `x.dot(x)`,
                        <return> a `return` under a test whether a list is there, or has elements

What a check reads in other strings, comments or the spelling of code cannot be a need: an import or an escape may hide it.
"""

from __future__ import annotations

from clipcheck.rule import Need, Rule, Severity, Tier

# One gradient's norm or a power of it: by its name, or as a sum of squares, a product with itself, the largest entry.
_GRADIENT = "<gradient>"
_NORM = (".norm", ".vector_norm", ".sum", ".dot", ".vdot", "abs", ".mean")
_TENSORS = (".tensor", ".as_tensor", ".Tensor", ".FloatTensor", ".DoubleTensor")
# What copies a value from the device to Python; `linalg` is numpy's norm, `math` takes a root or a power.
_READS = ("item", "tolist", ".numpy", "float()", "linalg", ".cpu", ".data[]", *_TENSORS)
_HOST = tuple((*_READS, *called, *moved) for called in (("math",), ("sqrt", "pow")) for moved in ((".to",), ("'cpu'",)))
_REPEATED = ("<For>", "<AsyncFor>", "<comprehension>", "map", "reduce")
# What makes another power of a norm, or sums powers: without it, the norm itself is added up.
_RAISED = (
    "<Pow>",
    "<square>",
    "pow",
    "pow_",
    "power",
    "float_power",
    "square",
    "sqrt",
    "sqrt_",
    "dot",
    "vdot",
)
# A sum or a mean is that of a norm only if something is squared on the way.
_SIZED = (".norm", ".vector_norm", "linalg", "abs", *_RAISED)
# What makes a norm of a list of norms, or of one vector of all gradients.
_JOINED = (
    *("linalg", ".stack", ".tensor", ".as_tensor", ".FloatTensor", ".DoubleTensor"),
    *(".cat", ".concat", ".concatenate", ".hstack", "._flatten_dense_tensors", ".parameters_to_vector"),
)
# Powers that are summed, norms that are joined, or the largest of norms or of absolute values.
_COMBINED = (
    (*_RAISED, *_JOINED, "max", ".amax", ".maximum"),
    (*_RAISED, *_JOINED, "abs", ".norm", ".vector_norm"),
)
# A mean is that of one joined vector, a product that of a vector with itself; of absolute values, only the largest counts.
_WHOLE = (
    (".norm", ".vector_norm", ".sum", ".dot", ".vdot", "abs", *_JOINED),
    (".norm", ".vector_norm", ".sum", "<dot>", ".max", ".amax", ".mean"),
)
_WRITTEN_OUT = (_GRADIENT, _NORM, _REPEATED, _SIZED, *_COMBINED, *_WHOLE)

# A call of torch's clips or the runtime's: they are reached through their module, even with `import *`.
_MODULES = ("utils", "runtime")
_TORCH_CLIPS = (("clip_grad_norm_", "clip_grad_value_", "clip_grads_with_norm_", "clip_grad_norm"), _MODULES)
_TOTALS = (("get_total_norm", *_TORCH_CLIPS[0]), _MODULES)
# Also any call by these names, such as a model's or Fabric's; the deprecated name is an option's more often.
_CLIPS = (("clip_gradients", *_TORCH_CLIPS[0]), ("clip_grad_norm_", "clip_grad_value_", "clip_gradients", *_MODULES))
_NORM_CLIPS = (("clip_grad_norm_", "clip_grad_norm"), ("clip_grad_norm_", *_MODULES))
# A clip, or a loop that measures gradients and one that scales them by a quotient; a clip meets each need of the second.
_BY_HAND = tuple((*_CLIPS[0], *words) for words in ((".grad",), ("<For>", "<AsyncFor>"), ("<Div>",), _NORM))
# What creates an iterator that yields its items only once.
_ITERATORS = (
    *("parameters", "named_parameters", "buffers", "filter", "map", "zip", "iter", "reversed", "enumerate", "chain"),
    *("islice", "starmap", "compress", "filterfalse", "takewhile", "<GeneratorExp>"),
)
# Whatever measures the norm of gradients: it is hand-written, or computed by a function that says so by its name.
_BY_NAME = ("get_total_norm", "<gradient norm>")
_MEASURED = tuple((*((need,) if isinstance(need, str) else need), *_BY_NAME) for need in _WRITTEN_OUT)
# Also torch's clip, whose result is the norm.
_NORM_OR_CLIP = tuple((*need, *_TORCH_CLIPS[0]) for need in _MEASURED)
_BACKWARD = ("backward", "manual_backward")
_LIGHTNING_HOOKS = tuple(
    f"def on_{hook}"
    for hook in (
        *("train_batch_end", "train_batch_start", "train_epoch_end", "before_zero_grad"),
        *("batch_end", "batch_start"),
    )
)
# What all ranks of a process group call together; the first ones all-reduce.
_REDUCE = ("all_reduce", "all_reduce_coalesced", "allreduce", "all_reduce_", "allreduce_")
# Functions that do so with the gradients, wherever they are defined.
_REDUCERS = tuple(
    f"{verb}_{what}"
    for verb in ("sync", "synchronize", "average", "avg", "mpi_avg", "reduce", "allreduce", "all_reduce")
    for what in ("grads", "gradients")
)
_OTHER_COLLECTIVES = (
    "all_gather",
    "all_gather_into_tensor",
    "all_gather_object",
    "reduce_scatter_tensor",
    "full_tensor",
)
_UNSCALE = ("unscale_", "unscale_gradients")
_STEP = ("step", "optimizer_step")


def _rule(
    code: str,
    name: str,
    *needs: str | Need,
    near: tuple[str | Need, ...] = (),
    tier: Tier = Tier.DEFAULT,
    severity: Severity = Severity.WARNING,
) -> Rule:
    """`near` are needs that one function meets together with what is outside of all functions."""
    return Rule(code, name, tier, severity, _each(needs), _each(near))


def _each(needs: tuple[str | Need, ...]) -> tuple[Need, ...]:
    return tuple((need,) if isinstance(need, str) else need for need in needs)


RULES: dict[str, Rule] = {
    rule.code: rule
    for rule in (
        _rule("CLIP001", "item-norm-loop", near=(*_WRITTEN_OUT, *_HOST)),
        _rule("CLIP004", "linear-norm-sum", near=(_GRADIENT, _NORM, _REPEATED), tier=Tier.OPT_IN),
        _rule("CLIP005", "tensor-norm-accumulation", near=(_GRADIENT, _NORM, _REPEATED), tier=Tier.OPT_IN),
        _rule("CLIP006", "norm-exponent-mismatch", near=(*_WRITTEN_OUT, _RAISED)),
        _rule("CLIP007", "total-norm-of-parameters", "get_total_norm", _MODULES, ("parameters", "named_parameters")),
        # the norm that a gradient is scaled by may be computed in another function
        _rule("CLIP008", "hand-rolled-clip", near=(_GRADIENT, ("<For>", "<AsyncFor>"), "<Div>"), tier=Tier.OPT_IN),
        _rule(
            "CLIP009",
            "unclamped-clip-coefficient",
            near=(_GRADIENT, ("<For>", "<AsyncFor>"), "<Div>"),
            tier=Tier.OPT_IN,
        ),
        _rule("CLIP010", "item-per-parameter", near=(_GRADIENT, _NORM, *_HOST, _REPEATED), tier=Tier.OPT_IN),
        _rule("CLIP011", "torch-clip-grad-norm", ("clip_grad_norm_", "get_total_norm"), "utils", tier=Tier.OPT_IN),
        _rule("CLIP504", "norm-recomputed-beside-clip", *_TORCH_CLIPS),
        _rule("CLIP002", "deprecated-clip-grad-norm", ("clip_grad_norm", "'clip_grad_norm'"), ("utils", "'utils'")),
        _rule("CLIP003", "torch-six-inf", "_six", "torch", severity=Severity.ERROR),
        _rule("CLIP101", "clip-after-step", *_CLIPS, _BACKWARD, _STEP),
        _rule("CLIP102", "clip-before-backward", *_CLIPS, _BACKWARD),
        _rule("CLIP103", "clip-outside-training-loop", *_CLIPS, _BACKWARD),
        _rule("CLIP104", "zero-grad-discards-gradients", "zero_grad", ("*clip_grad*", "*scaler*"), _BACKWARD, _STEP),
        _rule("CLIP105", "exhausted-parameter-iterator", (*_CLIPS[1], ".grad"), _ITERATORS, near=_BY_HAND),
        _rule("CLIP106", "grads-passed-as-parameters", *_TORCH_CLIPS, ("grad", "data", "state_dict")),
        _rule(
            "CLIP107",
            "discarded-out-of-place-clamp",
            near=(
                _GRADIENT,
                ".grad",
                tuple(
                    f"{name}();" for name in "clamp clip clamp_min clamp_max mul div nan_to_num multiply divide".split()
                ),
            ),
        ),
        _rule("CLIP108", "clip-each-microbatch", *_CLIPS),
        _rule("CLIP109", "clip-outside-closure", *_CLIPS, _BACKWARD, "step"),
        # also a method, such as an Accelerator's
        _rule("CLIP110", "per-parameter-clip", *_NORM_CLIPS),
        _rule("CLIP111", "per-group-or-module-clip", *_NORM_CLIPS, tier=Tier.OPT_IN),
        _rule("CLIP112", "overlapping-parameter-lists", *_TORCH_CLIPS),
        _rule("CLIP113", "norm-without-clip", ("<clips>", *_BACKWARD, *_STEP), near=_MEASURED),
        _rule("CLIP114", "swallowed-clip-error", *_CLIPS, ("<Try>", "suppress")),
        _rule(
            "CLIP115",
            "step-in-backward-hook",
            *_CLIPS,
            _BACKWARD,
            (
                *("register_post_accumulate_grad_hook", "register_hook"),
                *("_apply_optimizer_in_backward", "apply_optimizer_in_backward"),
            ),
        ),
        _rule("CLIP116", "clip-in-one-branch", *_CLIPS, _STEP, tier=Tier.OPT_IN),
        _rule("CLIP117", "clip-of-other-optimizer", *_CLIPS, _STEP, _BACKWARD, ("parameters", "named_parameters")),
        _rule("CLIP201", "nonpositive-max-norm", *_TORCH_CLIPS),
        _rule("CLIP202", "wrong-parameters-argument", *_TORCH_CLIPS, severity=Severity.ERROR),
        _rule("CLIP203", "invalid-norm-type", *_TOTALS),
        _rule("CLIP204", "wrong-keyword", *_TOTALS, severity=Severity.ERROR),
        # the infinite norm may be `1e999`
        _rule(
            "CLIP205",
            "inf-max-norm-for-logging",
            ("clip_grad_norm_", "clip_grad_norm"),
            _MODULES,
            tier=Tier.OPT_IN,
            severity=Severity.NOTE,
        ),
        _rule("CLIP206", "float-total-norm", "clip_grads_with_norm_", "utils", severity=Severity.ERROR),
        _rule(
            "CLIP207",
            "sparse-embedding-clip",
            *_TORCH_CLIPS,
            "sparse",
            ("Embedding", "EmbeddingBag"),
            severity=Severity.ERROR,
        ),
        _rule("CLIP208", "clip-value-result-used", "clip_grad_value_", _MODULES),
        _rule("CLIP301", "amp-missing-unscale", *_CLIPS, ("scale", "automatic_optimization"), _BACKWARD),
        _rule("CLIP303", "amp-unscale-each-microbatch", _UNSCALE, "step"),
        # `error_if_nonfinite` may be passed by its position
        _rule("CLIP304", "amp-error-if-nonfinite", *_TORCH_CLIPS, _UNSCALE),
        _rule("CLIP305", "amp-unscale-wrong-optimizer", *_CLIPS, _UNSCALE),
        _rule("CLIP306", "apex-clip-inside-scale-loss", *_TORCH_CLIPS, "scale_loss"),
        _rule("CLIP307", "apex-master-params", *_TORCH_CLIPS, "scale_loss", _BACKWARD),
        _rule("CLIP308", "amp-skip-without-update", _UNSCALE, "update", severity=Severity.ERROR),
        # the norm may be measured in another function, or by one that is imported
        _rule("CLIP309", "norm-of-scaled-gradients", ("scale", "Accelerator"), _BACKWARD, near=_MEASURED),
        _rule("CLIP401", "lightning-clip-in-training-step", *_CLIPS, "LightningModule", "def training_step"),
        _rule(
            "CLIP402",
            "lightning-manual-gradient-clip-val",
            "gradient_clip_val",
            "automatic_optimization",
            "LightningModule",
            "Trainer",
            severity=Severity.ERROR,
        ),
        _rule("CLIP403", "accelerate-torch-clip", *_TORCH_CLIPS, ("accelerator", "Accelerator"), "backward"),
        _rule("CLIP404", "deepspeed-torch-clip", *_CLIPS, "deepspeed", "initialize", "backward"),
        _rule("CLIP405", "fsdp1-torch-clip", *_TORCH_CLIPS, "FullyShardedDataParallel"),
        _rule("CLIP406", "rank-conditional-clip", *_CLIPS, severity=Severity.ERROR),
        _rule("CLIP407", "dtensor-local-norm", *_TOTALS),
        _rule("CLIP408", "xla-clip-before-reduce", *_CLIPS, "optimizer_step"),
        _rule(
            "CLIP409",
            "horovod-clip-without-synchronize",
            *_CLIPS,
            "horovod",
            "DistributedOptimizer",
            tier=Tier.OPT_IN,
        ),
        _rule(
            "CLIP410",
            "lightning-clip-in-hook",
            *_CLIPS,
            ("LightningModule", "Callback"),
            ("def optimizer_step", "def on_after_backward", *_LIGHTNING_HOOKS),
        ),
        _rule("CLIP411", "fabric-torch-clip", *_TORCH_CLIPS, "fabric", "backward"),
        _rule("CLIP412", "local-shard-norm", ("to_local", "_local_tensor"), near=_MEASURED, severity=Severity.ERROR),
        _rule("CLIP413", "clip-before-gradient-all-reduce", *_CLIPS, (*_REDUCE, "Allreduce", *_REDUCERS)),
        _rule(
            "CLIP414",
            "return-before-collective",
            (*_REDUCE, *_OTHER_COLLECTIVES),
            near=(".grad", "<return>"),
            severity=Severity.ERROR,
        ),
        _rule("CLIP501", "return-value-named-post-clip", *_CLIPS),
        _rule("CLIP502", "return-value-rebinds", *_TORCH_CLIPS),
        _rule(
            "CLIP503",
            "per-step-sync",
            ("clip_grad_norm_", "clip_grad_norm"),
            _MODULES,
            tier=Tier.OPT_IN,
            severity=Severity.NOTE,
        ),
        _rule("CLIP505", "double-clip", *_TORCH_CLIPS),
        _rule("CLIP506", "norm-after-zero-grad", "zero_grad", near=_NORM_OR_CLIP),
        _rule("CLIP507", "norm-logged-after-clip", *_CLIPS, near=_MEASURED),
        _rule("CLIP508", "numpy-on-norm", "numpy", near=_NORM_OR_CLIP, severity=Severity.ERROR),
    )
}
