"""
## What it does
Finds norm types that are not numbers, and a positional `True` or `False` in the place of `norm_type`.

## Why is this bad?
`norm_type="l2"` raises a ValueError in the first step. A third positional argument `True`, meant for
`error_if_nonfinite`, is taken as the norm type: it computes the 1-norm, for example 8.0 where the 2-norm is 5.1, so the
gradients are clipped harder.

## How to fix by hand
Pass a number, and pass flags by keyword:

```python
clip_grad_norm_(model.parameters(), max_norm, error_if_nonfinite=True)
```

## Fix safety
Unsafe for a bool: it is passed as `error_if_nonfinite`, so training changes. There is no automatic fix for a string.

## When to suppress it
Never for a string, which raises. If you do want the 1-norm, write `norm_type=1.0` instead.

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
                message = f"`{shown}` is taken as `norm_type`, so this {'computes the 1-norm' if shown == 'True' else 'counts nonzeros'}"
                yield Hit(call.call, message, fix, "" if fix else "pass a number as `norm_type`, such as 2.0")
            case cst.SimpleString() as value if not _is_number(str(value.evaluated_value)):
                shown = source.quoted(value, "this string", 20)
                message = f"{shown} as `norm_type` raises a ValueError in the first step: pass a number"
                yield Hit(call.call, message, None, "pass 2.0, or `math.inf` for the largest element")


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
