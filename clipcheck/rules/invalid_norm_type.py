"""
## What it does
Finds norm types that are no number, and a positional `True` or `False` where the norm type stands.

## Why is this bad?
`norm_type="l2"` raises a ValueError in the first step. A third positional `True`, meant for `error_if_nonfinite`, is
taken for the norm type: the 1-norm, 8.0 where the 2-norm is 5.1.

## Fix safety
Unsafe for a bool: passes it as `error_if_nonfinite`, so the training changes. No fix for a string.

## References
- https://pytorch.org/docs/stable/generated/torch.nn.utils.clip_grad_norm_.html
"""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from clipcheck.fixes.verbs import replace
from clipcheck.python.source import Source
from clipcheck.rule import Fix, Hit, Safety
from clipcheck.training.clips import torch_calls


def check(source: Source) -> Iterator[Hit]:
    for call in torch_calls(source):
        match call.norm_type:
            case cst.Name("True" | "False") as value:
                shown = source.code(value)
                title, text = "Pass it as `error_if_nonfinite`", f"error_if_nonfinite={shown}"
                fix = (
                    None if "norm_type" in call.keywords else Fix(title, Safety.UNSAFE, (replace(source, value, text),))
                )
                message = (
                    f"`{shown}` is taken for the norm type: {'the 1-norm' if shown == 'True' else 'counts nonzeros'}"
                )
                yield Hit(call.call, message, fix, "" if fix else "pass a number as the norm type")
            case cst.SimpleString() as value if not _is_number(str(value.evaluated_value)):
                shown = source.quoted(value, "this string", 20)
                message = f"{shown} as the norm type raises a ValueError in the first step"
                yield Hit(call.call, message, None, "pass 2.0, or `math.inf` for the largest entry")


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
