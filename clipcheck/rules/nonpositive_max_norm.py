"""
## What it does
Finds clipping calls whose `max_norm` or `clip_value` is zero, negative, NaN, a bool, None or a string, or becomes one of
these if a setting is missing: `max_norm or 0.0`, `config.get("clip", 0)`, a check `max_norm >= 0`
that lets 0 through. Attributes, `self.max_norm`, count if no test in the file looks at them.

## Why is this bad?
0 does not disable clipping: it sets every gradient to zero. A negative `max_norm` flips the sign of the gradients, so the
loss is maximized; a negative `clip_value` sets every gradient to that value. NaN makes every gradient NaN. `True` means
1.0, None raises a TypeError, and a string that is not a number raises a ValueError.

## How to fix by hand
Pass a positive number, and skip the call if clipping is disabled:

```python
if max_norm is not None and max_norm > 0:
    clip_grad_norm_(model.parameters(), max_norm)
```

To measure the norm without clipping, call `clipcheck.runtime.grad_norm(parameters)`.

## Fix safety
There is no automatic fix: only you know which value is meant.

## When to suppress it
If gradients of zero or with the opposite sign are intended, which is rare enough to deserve a comment.

## References
- pytorch/pytorch#31367, pytorch/torchtitan#4295, OpenNMT/OpenNMT-py#1140
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import libcst as cst

from clipcheck.python.source import Source
from clipcheck.rule import Hit
from clipcheck.training.clips import Clip, clips, partials
from clipcheck.training.guards import expects_error
from clipcheck.training.possible_limits import Constant, Guard, Value, constants, guards, passes

BY_HAND = "pass a positive number; to disable clipping, skip the call"
_NEGATIVE = (-0.5, -2.0)  # what a check of the sign rejects, and a check for a single value such as -1 does not


def check(source: Source) -> Iterator[Hit]:
    for clip in (*clips(source), *partials(source)):
        if clip.limit is None or expects_error(source, clip.call) or _is_for_type_checkers(source, clip):
            continue
        fault = _fault(source, clip, clip.limit)
        guard = None if fault else _lets_zero_through(source, clip, clip.limit)
        if guard is not None:
            where = source.where(guard.test)
            fault = f"the check on {where} lets 0 through, and clipping to 0 sets every gradient to zero"
        if fault:
            related = () if guard is None else ((guard.test, "0 passes this check"),)
            yield Hit(clip.call, fault, None, BY_HAND, related)


def _is_for_type_checkers(source: Source, clip: Clip) -> bool:
    """Whether the parameters are a name that is declared, `p: torch.Tensor`, and never has a value: such code is not run."""
    function = source.enclosing(clip.call, cst.FunctionDef)
    if function is None or clip.parameters is None:
        return False
    unbound = {n.value for n in source.walk(clip.parameters) if isinstance(n, cst.Name) and not source.bindings(n)}
    return any(
        isinstance(node, cst.AnnAssign) and isinstance(node.target, cst.Name) and node.target.value in unbound
        for node in source.walk(function)
    )


def _fault(source: Source, clip: Clip, limit: cst.BaseExpression) -> str:
    shown = f"{source.quoted(limit, 'this value', 18)} as `{_argument(clip)}`"
    faults = (_message(clip, shown, constant) for constant in constants(source, limit))
    return next(filter(None, faults), "")


def _argument(clip: Clip) -> str:
    return "clip_value" if clip.function == "clip_grad_value_" else "max_norm"


def _message(clip: Clip, shown: str, constant: Constant) -> str:
    """What a value of `max_norm` or `clip_value` does to the gradients; "" for one that may be intended."""
    value = constant.value
    if value is None:
        return f"{shown} {'raises' if constant.always else 'may raise'} a TypeError in the first step"
    if value is True:
        return f"{shown} means 1.0: pass a number, a bool does not switch clipping on"
    if value is False:
        return f"{shown} means 0 and sets every gradient to zero"
    if isinstance(value, str):
        return _message_for_string(shown, value)
    effect = _effect(clip, value)
    if not effect:
        return ""
    if constant.always:
        ends = "" if math.isnan(value) else "; it does not disable clipping"
        return f"{shown} {effect}{ends}"
    return f"{shown} can be {value:g}, which {effect}"


def _effect(clip: Clip, value: float) -> str:
    """What a `max_norm` or `clip_value` that is not positive does; "" for one that is."""
    if math.isnan(value):
        return "makes every gradient NaN"
    if value > 0:
        return ""
    if value == 0:
        return "sets every gradient to zero"
    return (
        "sets every gradient to this value" if _argument(clip) == "clip_value" else "flips the sign of every gradient"
    )


def _message_for_string(shown: str, text: Value) -> str:
    try:
        float(str(text))
    except ValueError:
        return f"{shown} is not a number and raises a ValueError in the first step"
    return f"{shown} is a string, which torch may not convert: pass a number"


def _lets_zero_through(source: Source, clip: Clip, limit: cst.BaseExpression) -> Guard | None:
    """The check that rejects negative values but lets 0 through, though it is meant to disable clipping."""
    tests = list(guards(source, clip.call))
    if not all(passes(source, test, limit, 0.0) for test in tests):
        return None
    keeps_out = (test for test in tests if not any(passes(source, test, limit, value) for value in _NEGATIVE))
    return next(keeps_out, None)
