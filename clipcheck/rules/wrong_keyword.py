"""
## What it does
Finds keywords that torch's clipping functions do not have, such as `clip_grad_norm_(..., clip_value=1.0)` or
`clip_grad_value_(..., max_norm=1.0)`, and calls with too many arguments; also in a `functools.partial`.

## Why is this bad?
The call raises a TypeError, but not before the first step.

## How to fix by hand
Decide which of the two you want: `clip_grad_norm_(parameters, max_norm)` bounds the norm of all gradients together,
`clip_grad_value_(parameters, clip_value)` bounds each element of each gradient.

## Fix safety
There is no automatic fix: only you know whether to bound the norm or each element.

## When to suppress it
If a newer torch has the argument and clipcheck does not know it yet; please report that.

## References
- https://pytorch.org/docs/stable/generated/torch.nn.utils.clip_grad_value_.html
"""

from __future__ import annotations

from collections.abc import Iterator

from clipcheck.python.source import Source
from clipcheck.rule import Hit
from clipcheck.training.clips import KEYWORDS, SIGNATURES, partials, torch_calls


def check(source: Source) -> Iterator[Hit]:
    for call in (*torch_calls(source), *partials(source)):
        if source.origin(call.call.func).startswith("clipcheck."):
            continue  # the runtime's functions have more arguments
        by_hand = f"call `{call.function}({', '.join(SIGNATURES[call.function])})`"
        for keyword in sorted(call.keywords - KEYWORDS[call.function]):
            message = f"raises in the first step: `{call.function}` has no argument `{keyword}`"
            yield Hit(call.call, message[:100], None, by_hand)
        if call.surplus:
            message = f"raises in the first step: too many arguments for `{call.function}`"
            yield Hit(call.call, message, None, by_hand)
