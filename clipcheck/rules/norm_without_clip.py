"""
## What it does
Finds code that measures the norm of the gradients where it should clip them: a call of a function that only measures,
whose result is unused, between backward and step; and a function that says it clips, by its name or its docstring, and
changes no gradient.

## Why is this bad?
Nothing is clipped. Training runs without the clipping that its author expects, and no error says so. Many such
functions are copies of torch's without its second half, the loop that scales.

## How to fix by hand
Call `torch.nn.utils.clip_grad_norm_(parameters, max_norm)`: it returns the same norm, and clips. Where only the norm is
wanted, log it, and make the function's name and docstring say that it measures.

## Fix safety
No automatic fix: the code does not say which `max_norm` was intended.

## When to suppress it
Where a norm is computed for its side effects, such as a hook or a profiler that watches the kernels.

## References
- https://github.com/jcwleo/random-network-distillation-pytorch/blob/master/utils.py
- https://pytorch.org/docs/stable/generated/torch.nn.utils.clip_grad_norm_.html
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import libcst as cst

from clipcheck.gradients.norm_origin import origins
from clipcheck.python.literals import is_zero
from clipcheck.python.names import last_name
from clipcheck.python.source import Source
from clipcheck.python.words import words
from clipcheck.rule import Hit
from clipcheck.training.acts import EventKind
from clipcheck.training.calls import callee
from clipcheck.training.clips import torch_calls
from clipcheck.training.effects import only_computes
from clipcheck.training.flows import Event, flow
from clipcheck.training.measures import is_dropped, measures, shown
from clipcheck.training.measuring import measuring

DROPPED = "{name} only measures the norm: its result is unused, and nothing is clipped"
BY_HAND = "call `clip_grad_norm_(parameters, max_norm)`, which returns the norm and clips"
PROMISED = "claims to clip but changes no gradient: its callers train without clipping"
BY_HAND_TOO = "scale the gradients here or call `clip_grad_norm_`; if only the norm is wanted, rename the function"

_BEFORE = (
    *(EventKind.BACKWARD, EventKind.CLIP, EventKind.EDIT, EventKind.STEP),
    *(EventKind.ZERO_GRAD, EventKind.UNKNOWN),
)


def check(source: Source) -> Iterator[Hit]:
    if not measures(source):
        return
    yield from _dropped(source)
    for function in source.nodes(cst.FunctionDef):
        if _promises(source, function) and _only_measures(source, function):
            yield Hit(function.name, PROMISED, help=BY_HAND_TOO)


# --- a result that is unused -----------------------------------------------------------------------------------------


def _dropped(source: Source) -> Iterator[Hit]:
    seen: set[cst.CSTNode] = set()
    for one in measuring(source):
        for event in one.of(EventKind.MEASURE):
            node = shown(source, event.at, event.node)
            if (
                node not in seen
                and is_dropped(source, node)
                and _is_step_unclipped(event)
                and _does_nothing(source, node)
            ):
                seen.add(node)
                name = last_name(node.func) if isinstance(node, cst.Call) else ""
                yield Hit(node, DROPPED.format(name=f"`{name}`" if 0 < len(name) <= 24 else "this"), help=BY_HAND)


def _is_step_unclipped(event: Event) -> bool:
    """Whether the event lies between backward and step, and nothing else there may clip."""
    before = {one.kind for one in event.first_before(*_BEFORE)}
    after = {one.kind for one in event.first_after(*_BEFORE)}
    return (
        before <= {EventKind.BACKWARD, EventKind.START}
        and after <= {EventKind.STEP, EventKind.END}
        and (EventKind.BACKWARD in before or EventKind.STEP in after)
    )


def _does_nothing(source: Source, node: cst.CSTNode) -> bool:
    """Whether nothing is left of a call but its result."""
    if not isinstance(node, cst.Call):
        return True
    if any(call.call is node and "error_if_nonfinite" in call.arguments for call in torch_calls(source)):
        return False  # it is called to raise
    own = callee(source, node)
    if own is not None:
        return isinstance(own.function, cst.FunctionDef) and _only_measures(source, own.function)
    return source.origin(node.func).startswith(("torch.", "clipcheck."))


# --- a promise -------------------------------------------------------------------------------------------------------

_PROMISES = re.compile(
    r"""^\W*clips?\b(?!-)                                                   # Clips the gradients …
    | \b(?:it|function|method|that|which|and|then)\s+(?:also\s+)?clips\b     # a function that clips …
    | \b(?:perform|appl|do|implement|execut)\w*\s+(?:[\w-]+\s+){0,3}clipping\b
    | \b(?:gradients?|grads?|they)\s+(?:are|is|get|gets)\s+(?:clipped|modified\s+in[-\s]?place)\b
    """,
    re.VERBOSE | re.IGNORECASE,
)
_DENIES = re.compile(r"\b(?:no|not|never|without|before|un)\W+(?:\w+\W+){0,2}clip", re.IGNORECASE)
_NO_CLIP = frozenset("coef coefficient factor ratio value values stats should need needs before pre no un info".split())


def _promises(source: Source, function: cst.FunctionDef) -> bool:
    """Whether a function says that it clips: by the first word of its name, or by its docstring."""
    parts = words(function.name.value)
    if parts and parts[0] in ("clip", "clips") and not _NO_CLIP & set(parts):
        return True
    text = function.get_docstring() or ""
    sentences = re.split(r"[.!?:;](?=\s|$)|\n\s*\n", text)
    return any(_PROMISES.search(one) and not _DENIES.search(one) for one in sentences)


def _only_measures(source: Source, function: cst.FunctionDef) -> bool:
    """Whether a function computes the norm of gradients, returns it, and does nothing else."""
    events = flow(source, function).events
    if not events or any(event.kind is not EventKind.MEASURE for event in events):
        return False
    returned = [node.value for node in source.walk(function) if isinstance(node, cst.Return)]
    if not returned or not all(value is not None and _is_norm(source, value) for value in returned):
        return False
    return only_computes(source, function)


def _is_norm(source: Source, value: cst.BaseExpression) -> bool:
    if is_zero(source, value) or origins(source, value) is not None:
        return True
    return isinstance(value, cst.Call) and last_name(value.func) in ("get_total_norm", "grad_norm")
