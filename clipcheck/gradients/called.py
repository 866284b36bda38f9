"""Which identifiers are names of gradients; separate from modules that parse code, so as not to import LibCST."""

from __future__ import annotations

from functools import lru_cache

from clipcheck.python.words import words

GRADIENT_WORDS = frozenset({"grad", "grads", "gradient", "gradients"})
# Words that turn "grad_…" or "…_grads" into something other than gradients.
_OTHER_WORDS = frozenset(
    "norm norms sample samples sq square squared squares mask masks name names count counts fn func hook hooks scale "
    "scales scaler hist history stat stats ema mean means std var diff diffs delta ratio penalty dist sim cos cosine "
    "clip clips clipped clipping max min enabled acc accumulate accumulation step steps index idx indices shape shapes "
    "size sizes sum log logs no enable set group groups bucket buckets required req requires queue handle handles "
    "checkpoint checkpointing ckpt error errors zero supports unscale sync trainer descent".split()
)


@lru_cache(maxsize=8192)  # a program uses the same names again and again
def called_gradients(name: str) -> bool:
    """Whether an identifier is the name of one or several gradients."""
    parts = set(words(name))
    return bool(parts & GRADIENT_WORDS) and not parts & _OTHER_WORDS


def gives_gradient(name: str) -> bool:
    """`safe_get_full_grad(p)` and similar names."""
    parts = words(name)
    return "get" in parts and parts[-1] in ("grad", "gradient")


# Words that turn `grad_norm` into something other than a function that computes it.
_NO_MEASURE = frozenset(
    "clip clips clipped clipping clipper log logger logs print plot record write add set append update max limit scale "
    "unscale normalize rescale penalty loss hook register callback config args setting history meter test check is has".split()
)


@lru_cache(maxsize=8192)
def gives_gradient_norm(name: str) -> bool:
    """`get_grad_norm(model)` and similar names."""
    parts = set(words(name))
    return bool(parts & {"norm", "norms"}) and bool(parts & GRADIENT_WORDS) and not parts & _NO_MEASURE


def may_be_gradient(name: str) -> bool:
    """Whether code with this identifier can refer to a gradient at all, by attribute, name or call."""
    return called_gradients(name) or gives_gradient(name)
