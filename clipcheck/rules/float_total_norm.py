"""
## What it does
Finds `clip_grads_with_norm_` called with a Python number, such as the `.item()` of a norm.

## Why is this bad?
torch's function divides by the total norm and clamps the result, which only works for a tensor: a Python float raises a
TypeError in the first step, and `.item()` synchronizes with the device.

## How to fix by hand
Pass the tensor, and call `.item()` only where the number is logged:

```python
total_norm = get_total_norm(gradients)
clip_grads_with_norm_(parameters, max_norm, total_norm)
```

## Fix safety
Safe: removes `.item()` if the number is not used elsewhere; the call raised before.

## When to suppress it
In a test of that TypeError. `clipcheck.runtime.clip_grads_with_norm_` is not reported.

## References
- https://pytorch.org/docs/stable/generated/torch.nn.utils.clip_grads_with_norm_.html
"""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from clipcheck.fixes.verbs import replace
from clipcheck.python.source import Source
from clipcheck.rule import Fix, Hit, Safety
from clipcheck.training.clips import torch_calls
from clipcheck.training.parameters import single

MESSAGE = "raises in the first step: `total_norm` must be a tensor, not a Python number"
BY_HAND = "pass the tensor that `get_total_norm` returns"


def check(source: Source) -> Iterator[Hit]:
    for call in torch_calls(source):
        if call.function == "clip_grads_with_norm_" and _is_torch(source, call.call):
            given = call.arguments.get("total_norm")
            made = _number(source, given) if given is not None else None
            if made is not None:
                fix = _fix(source, given, made)
                yield Hit(call.call, MESSAGE, fix, "" if fix else BY_HAND)


def _is_torch(source: Source, call: cst.Call) -> bool:
    return source.origin(call.func).startswith("torch.")


def _number(source: Source, given: cst.BaseExpression) -> cst.Call | None:
    """The call that turns a tensor into a number."""
    match given:
        case cst.Call(func=cst.Attribute(attr=cst.Name("item")), args=()):
            return given
        case cst.Call(func=func) if source.qualified(func) == "builtins.float":
            return given
        case cst.Name():
            binding = single(source.bindings(given))
            if binding is not None and binding.kind == "assign" and isinstance(binding.value, cst.Call):
                return _number(source, binding.value)
    return None


def _fix(source: Source, given: cst.BaseExpression | None, made: cst.Call) -> Fix | None:
    if isinstance(given, cst.Name) and len(source.names.uses(source.scope(given).owner(given.value), given.value)) != 1:
        return None
    match made:
        case cst.Call(func=cst.Attribute(value=tensor, attr=cst.Name("item"))):
            return Fix("Keep the tensor", Safety.SAFE, (replace(source, made, source.code(tensor)),))
        case cst.Call(args=[cst.Arg(value=tensor, keyword=None)]):
            return Fix("Keep the tensor", Safety.SAFE, (replace(source, made, source.code(tensor)),))
    return None
