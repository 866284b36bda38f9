"""
## What it does
Finds a clip in a `try` whose `except Exception` (or bare `except`, or `contextlib.suppress(Exception)`) only passes or
logs, while the step that follows runs anyway.

## Why is this bad?
Any error in the clip silently turns clipping off: a misspelled setting (`config.max_nrom`), a wrong argument, a
gradient that a backend cannot handle. Training continues with unclipped gradients in every step, and nobody notices.

## How to fix by hand
Move the clip out of the `try`. If an error is expected, catch only that one, and skip the step in its handler:

```python
try:
    clip_grad_norm_(model.parameters(), max_norm, error_if_nonfinite=True)
except RuntimeError:
    optimizer.zero_grad()
    continue
```

## Fix safety
No automatic fix: the code does not say which error was expected.

## When to suppress it
Where training also works without clipping, and somebody reads the log.

## References
- https://docs.python.org/3/tutorial/errors.html#handling-exceptions
- ermongroup/ddim, bghira/SimpleTuner, a-r-r-o-w/finetrainers
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeAlias

import libcst as cst

from clipcheck.python.literals import number
from clipcheck.python.names import last_name
from clipcheck.python.reaching import contains
from clipcheck.python.source import Source
from clipcheck.python.words import words
from clipcheck.rule import Hit
from clipcheck.training.acts import EventKind, acts
from clipcheck.training.calls import callee
from clipcheck.training.clips import only_measures
from clipcheck.training.guards import expects_error
from clipcheck.training.summaries import act_of, possible_acts

Guarded: TypeAlias = "cst.Try | cst.With"

_OF_CLIPS = (EventKind.CLIP, EventKind.UNSCALE, EventKind.MEASURE, EventKind.EDIT)

BY_HAND = "let the error propagate, or catch only the expected one and skip the step"
_ANY_ERROR = frozenset({"builtins.Exception", "builtins.BaseException"})
_LOGS = frozenset(
    "print log logger logging warn warning warnings info debug error exception critical traceback".split()
)


def check(source: Source) -> Iterator[Hit]:
    for call in source.nodes(cst.Call):
        if _clips(source, call):
            guarded = _swallowing(source, call)
            if guarded is not None and not _steps_inside(source, guarded, call) and not expects_error(source, call):
                yield _hit(source, call, guarded)


def _clips(source: Source, call: cst.Call) -> bool:
    """Whether a call clips, or runs a function of the file that does, and nothing else of the training step."""
    act = act_of(source, call)
    if act is not None:
        return act.kind is EventKind.CLIP and not only_measures(source, call)
    called = callee(source, call)
    inside = () if called is None else possible_acts(source, called.function)
    clipping = [one.act.node for one in inside if one.kind is EventKind.CLIP]
    return all(one.kind in _OF_CLIPS for one in inside) and any(
        isinstance(node, cst.Call) and not only_measures(source, node) for node in clipping
    )


def _hit(source: Source, call: cst.Call, guarded: Guarded) -> Hit:
    step = _step_after(source, guarded)
    message = "a failed clip goes unnoticed: training continues with unclipped gradients"
    related: list[tuple[cst.CSTNode, str]] = [(guarded, "every error is swallowed here")]
    if step is not None:
        message = f"a failed clip goes unnoticed: the step on {source.where(step)} uses unclipped gradients"
        related.append((step, "the step runs anyway"))
    return Hit(call, message, None, BY_HAND, tuple(related))


def _swallowing(source: Source, call: cst.Call) -> Guarded | None:
    """The innermost statement around a call, in its function, that takes every error and says nothing or logs it."""
    inner: cst.CSTNode = call
    for above in source.ancestors(call):
        match above:
            case cst.Try(body=body, handlers=handlers) if inner is body:
                catching = next((h for h in handlers if _takes_any(source, h.type)), None)
                if catching is not None:
                    return above if _only_logs(source, above, catching) else None
            case cst.With(items=items, body=body) if inner is body and any(_suppresses(source, i.item) for i in items):
                return above
            case cst.FunctionDef() | cst.Lambda() | cst.ClassDef():
                return None
        inner = above
    return None


def _takes_any(source: Source, kind: cst.BaseExpression | None) -> bool:
    match kind:
        case None:
            return True
        case cst.Tuple(elements=elements):
            return any(_takes_any(source, element.value) for element in elements)
    return source.qualified(kind) in _ANY_ERROR


def _suppresses(source: Source, item: cst.BaseExpression) -> bool:
    match item:
        case cst.Call(func=func, args=args) if source.qualified(func) == "contextlib.suppress":
            return any(_takes_any(source, arg.value) for arg in args)
    return False


def _only_logs(source: Source, guarded: cst.Try, handler: cst.ExceptHandler) -> bool:
    """Whether a handler neither stops nor skips the step, nor clips in another way."""
    return all(_does_nothing(source, guarded, statement) for statement in _small(handler.body))


def _small(block: cst.BaseSuite) -> Iterator[cst.CSTNode]:
    """The statements of a block, those on one line one by one."""
    for statement in block.body:
        match statement:
            case cst.SimpleStatementLine(body=parts):
                yield from parts
            case _:
                yield statement


def _does_nothing(source: Source, guarded: cst.Try, statement: cst.CSTNode) -> bool:
    match statement:
        case cst.Pass() | cst.Import() | cst.ImportFrom():
            return True
        case cst.Expr(value=cst.Call(func=func)):
            return _is_log(source, func)
        case cst.Expr(value=cst.BaseString() | cst.Ellipsis()):
            return True
        case cst.Assign(targets=targets, value=value):
            return _is_plain(source, value) and not any(_is_tested(source, guarded, t.target) for t in targets)
        case cst.If(body=body, orelse=orelse):
            parts: Sequence[cst.BaseSuite] = [body, *([orelse.body] if isinstance(orelse, cst.Else) else [])]
            nothing = all(_does_nothing(source, guarded, inner) for part in parts for inner in _small(part))
            return nothing and (not isinstance(orelse, cst.If) or _does_nothing(source, guarded, orelse))
    return False


def _is_log(source: Source, func: cst.BaseExpression) -> bool:
    """Whether a call only prints or logs: `print`, `warnings.warn`, `self.logger.exception`, `tqdm.write`."""
    return not _LOGS.isdisjoint(words(source.code(func))) or last_name(func) == "write"


def _is_plain(source: Source, value: cst.BaseExpression) -> bool:
    """Whether a value says no more than that there is none, or that it failed: `None`, `0.0`, `float("nan")`, `True`."""
    match value:
        case cst.Name("None" | "True" | "False"):
            return True
        case cst.Call(func=func, args=[cst.Arg(value=inner)]) if source.qualified(func) == "torch.tensor":
            return number(source, inner) is not None
    return number(source, value) is not None


def _is_tested(source: Source, guarded: cst.Try, target: cst.BaseExpression) -> bool:
    """Whether a test asks for what a handler has assigned: it may well skip the step, unless only the clip is under it."""
    spelled = source.spelled(target)
    home = source.function(guarded)
    steps = [node for node, act in acts(source).items() if act.kind in (EventKind.STEP, EventKind.UNKNOWN)]
    kinds: tuple[type[cst.If | cst.IfExp | cst.While], ...] = (cst.If, cst.IfExp, cst.While)
    asking = (node for kind in kinds for node in source.nodes(kind) if source.function(node) is home)
    tests = (node.test for node in asking if not _only_clips(source, node, guarded, steps))
    return not isinstance(target, (cst.Name, cst.Attribute)) or any(
        isinstance(node, (cst.Name, cst.Attribute)) and source.spelled(node) == spelled
        for test in tests
        for node in source.walk(test)
    )


def _only_clips(source: Source, test: cst.CSTNode, guarded: Guarded, steps: Sequence[cst.CSTNode]) -> bool:
    """Whether a test decides on the clip, and on no step."""
    outside = isinstance(test, cst.If) and test.orelse is None and contains(source, test.body, guarded)
    return outside and not any(contains(source, test, step) for step in steps)


def _steps_inside(source: Source, guarded: Guarded, call: cst.Call) -> bool:
    """Whether the step is taken only where the clip did not fail: after it, in the same `try`."""
    parts: list[cst.CSTNode] = [guarded.body]
    if isinstance(guarded, cst.Try) and guarded.orelse is not None:
        parts.append(guarded.orelse)
    return any(
        act.kind in (EventKind.STEP, EventKind.UNKNOWN)
        and source.rank(node) > source.rank(call)
        and any(contains(source, part, node) for part in parts)
        for node, act in acts(source).items()
    )


def _step_after(source: Source, guarded: Guarded) -> cst.CSTNode | None:
    """The next step in the text, in the same function."""
    end = max(source.rank(node) for node in source.walk(guarded))
    home = source.function(guarded)
    steps = (node for node, act in acts(source).items() if act.kind is EventKind.STEP and source.function(node) is home)
    return min((node for node in steps if source.rank(node) > end), key=source.rank, default=None)
