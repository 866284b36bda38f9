"""
## What it does
Finds clips of gradients whose optimizer already steps during `backward()`: in a hook that
`register_post_accumulate_grad_hook` registers for each parameter, or by `_apply_optimizer_in_backward`.

## Why is this bad?
When `backward()` returns, every parameter has been updated and its gradient is cleared. The clip finds no gradients: it
clips nothing, returns 0.0, and neither an error nor a warning says so. No step is ever clipped.

## How to fix by hand
The total norm is not known before the last gradient is computed, so a step during `backward()` cannot be combined with
a clip by the total norm. Step after `backward()` and the clip, or clip each gradient on its own in the hook, right
before its step:

```python
def hook(p):
    torch.nn.utils.clip_grad_value_([p], max_value)
    optimizers[p].step()
    optimizers[p].zero_grad()
```

## Fix safety
No automatic fix: the code does not say which is more important, the memory that the hooks save or the clipping.

## When to suppress it
Where the hooks are registered in one configuration and the clip is for the others, if the code does not show that.

## References
- https://pytorch.org/tutorials/intermediate/optimizer_step_in_backward_tutorial.html
- pytorch/pytorch#124523, pytorch/torchtitan#990, pytorch/torchtune#1934, jiaweizzhao/GaLore
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import libcst as cst

from clipcheck.python.names import last_name
from clipcheck.python.source import Source, memo
from clipcheck.rule import Hit
from clipcheck.training.acts import EventKind
from clipcheck.training.counting import Test, counting_guard, tests_around
from clipcheck.training.flows import Event, flows
from clipcheck.training.guards import asked_for, loops
from clipcheck.training.parameters import owners
from clipcheck.training.summaries import home, hooks, possible_acts

BY_HAND = "step after the clip, or clip each gradient in the hook before its step"
_STEPS_IN_BACKWARD = frozenset({"_apply_optimizer_in_backward", "apply_optimizer_in_backward"})


class Stepping(NamedTuple):
    """What makes `backward()` step: the call that sets it up, the function that runs, and the expression for the parameters."""

    call: cst.Call
    hook: cst.CSTNode | None
    parameters: cst.BaseExpression | None


def check(source: Source) -> Iterator[Hit]:
    found = _steppings(source)
    if not found:
        return
    seen: set[cst.CSTNode] = set()
    for flow in flows(source, EventKind.CLIP):
        for clip in flow.of(EventKind.CLIP):
            stepping = next((one for one in found if _comes_too_late(source, clip, one)), None)
            if stepping is not None and clip.node not in seen:
                seen.add(clip.node)
                message = f"clips nothing: {source.where(stepping.call)} makes the optimizer step during `backward()`"
                yield Hit(
                    clip.node, message, None, BY_HAND, ((stepping.call, "set up here to step during `backward()`"),)
                )


@memo
def _steppings(source: Source) -> tuple[Stepping, ...]:
    found = [
        Stepping(hook.call, hook.function, _looped(source, hook.call))
        for hook in hooks(source)
        if any(act.kind is EventKind.STEP for act in possible_acts(source, hook.function))
    ]
    for call in source.nodes(cst.Call):
        if last_name(call.func) in _STEPS_IN_BACKWARD and len(call.args) > 1:
            found.append(Stepping(call, None, call.args[1].value))
    return tuple(found)


def _looped(source: Source, call: cst.Call) -> cst.BaseExpression | None:
    """The parameters of `for p in model.parameters(): p.register_…(hook)`."""
    match loops(source, call):
        case [cst.For(iter=iterable), *_]:
            return iterable
    return None


def _comes_too_late(source: Source, clip: Event, stepping: Stepping) -> bool:
    """Whether a clip sees only what has been stepped during `backward()`, whenever that is set up."""
    earlier = clip.first_before(EventKind.BACKWARD, EventKind.UNKNOWN, EventKind.EDIT)
    if not any(event.kind is EventKind.BACKWARD for event in earlier) or _is_in(source, clip, stepping.hook):
        return False
    if any(event.kind in (EventKind.UNKNOWN, EventKind.EDIT) for event in earlier):
        return False
    later = clip.first_after(EventKind.STEP, EventKind.UNKNOWN, EventKind.BACKWARD)
    if all(event.kind in (EventKind.STEP, EventKind.UNKNOWN) for event in later):
        return False  # another step follows in any case: the hooks are for other parameters
    return _are_same(source, clip, stepping) and all(
        _concerns_limit(source, clip, test) for test in tests_around(source, clip)
    )


def _is_in(source: Source, clip: Event, hook: cst.CSTNode | None) -> bool:
    return hook is not None and any(home(source, place) is hook for place in clip.places)


def _are_same(source: Source, clip: Event, stepping: Stepping) -> bool:
    """Whether nothing says that other parameters are clipped than those that step by themselves."""
    if clip.subject is None or stepping.parameters is None:
        return stepping.parameters is None
    mine, theirs = owners(source, clip.subject), owners(source, stepping.parameters)
    if not mine or not theirs:
        return True
    return {name.rpartition(".")[2] for name in theirs} == {name.rpartition(".")[2] for name in mine}


def _concerns_limit(source: Source, clip: Event, test: Test) -> bool:
    """Whether a test asks only for what the clip is given, or counts; any other may tell the ways of stepping apart."""
    guard = counting_guard(source, clip)
    if guard is not None and guard.branch is test.branch:
        return True
    given = {node.value for node in source.walk(clip.node) if isinstance(node, cst.Name)}
    return asked_for(source, test.branch.test) <= given | {"None"}
