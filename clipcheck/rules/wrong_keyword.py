"""
## What it does
Finds keywords that torch's clipping functions do not have: `clip_grad_norm_(..., clip_value=1.0)`,
`clip_grad_value_(..., max_norm=1.0)`.

## Why is this bad?
The call raises a TypeError when the first step is taken.

## Fix safety
No fix: whether the norm or each value is to be bounded cannot be known.

## References
- https://pytorch.org/docs/stable/generated/torch.nn.utils.clip_grad_value_.html
"""

from __future__ import annotations

from collections.abc import Iterator

from clipcheck.python.source import Source
from clipcheck.rule import Hit
from clipcheck.training.clips import KEYWORDS, torch_calls


def check(source: Source) -> Iterator[Hit]:
    for call in torch_calls(source):
        if (source.qualified(call.call.func) or "").startswith("clipcheck."):
            continue  # the runtime's functions have more
        allowed = KEYWORDS[call.function]
        for keyword in sorted(call.keywords - allowed):
            message = f"raises in the first step: `{call.function}` has no argument `{keyword}`"
            yield Hit(call.call, message[:100], None, f"its arguments are {', '.join(sorted(allowed))}")
        if call.surplus:
            yield Hit(
                call.call,
                f"raises in the first step: `{call.function}` is given too many arguments",
                None,
                "see its page",
            )
