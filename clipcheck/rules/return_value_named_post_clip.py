"""
## What it does
Finds the result of `clip_grad_norm_` with a name, or logged under a key, that says it is the norm after clipping, and
assertions that it is at most `max_norm`.

## Why is this bad?
The function returns the norm **before** clipping. A plot shows spikes far above `max_norm`, and an assertion fails,
although clipping works; or clipping seems to work when it does not.

## How to fix by hand
Rename the variable or key (`grad_norm`), or use `min(norm, max_norm)`, which is the norm after clipping. An assertion
that clipping works has to measure the gradients again, with `get_total_norm`.

## Fix safety
No automatic fix: the code does not say which of the two norms is wanted, and other code may use the name.

## When to suppress it
Where the called function of that name is not torch's, and returns the norm after clipping.

## References
- verl-project/verl#2282, hiyouga/LlamaFactory#3996, ray-project/ray#4965, radixark/miles#2132, pytorch/torchtitan#1500
"""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from clipcheck.python.names import last_name
from clipcheck.python.source import Source, memo
from clipcheck.python.words import words
from clipcheck.rule import Hit
from clipcheck.training.clips import bound, clips, only_measures

BY_HAND = "rename it, or use `min(norm, max_norm)`, the norm after clipping"
BY_HAND_ASSERTED = "drop the assertion, or measure the norm again after the clip"


def check(source: Source) -> Iterator[Hit]:
    for call in _results(source):
        if _measures_again(source, call):
            continue
        target = _target(source, call)
        if target is not None and _says_after(last_name(target)):
            name = source.quoted(target, "the result")
            yield Hit(
                target,
                f"{name} is the norm before clipping, which is what the clip returns",
                None,
                BY_HAND,
                ((call, "clipped here"),),
            )
        elif isinstance(target, cst.Name):
            yield from _uses(source, target, call)
        else:
            key = _key(source, call)
            if key:
                yield Hit(
                    call, f"logged as `{key}`, but the clip returns the norm before clipping"[:100], None, BY_HAND
                )


@memo
def _results(source: Source) -> tuple[cst.Call, ...]:
    """Every call whose result is a norm before clipping: torch's function, and the methods that follow it."""
    known = {clip.call for clip in clips(source) if clip.is_norm}
    return tuple(call for call in source.nodes(cst.Call) if call in known or _is_method(source, call))


def _is_method(source: Source, call: cst.Call) -> bool:
    match call.func:
        case cst.Attribute(value=owner, attr=cst.Name("clip_grad_norm_")):
            return source.qualified(owner) is None
    return False


def _measures_again(source: Source, call: cst.Call) -> bool:
    """Whether the call measures what another one has clipped: no limit, or the same parameters a second time."""
    if only_measures(source, call):
        return True
    first = call.args[0] if call.args else None
    for other in _results(source):
        if (
            not only_measures(source, other)
            and first is not None
            and other.args
            and source.rank(other) < source.rank(call)
        ):
            same = source.spelled(other.args[0].value) == source.spelled(first.value)
            if same and source.function(other) is source.function(call):
                return True
    return False


def _target(source: Source, call: cst.Call) -> cst.BaseExpression | None:
    """What the result is assigned to, as it is or as a Python number."""
    match _around(source, call):
        case cst.Assign(targets=[cst.AssignTarget(target=target)]) | cst.AnnAssign(target=target):
            return target
    return None


def _around(source: Source, norm: cst.CSTNode) -> cst.CSTNode:
    """What a norm is part of, past what only reads or copies it: `norm.item()`, `float(norm)`."""
    return next(above for above in source.ancestors(norm) if not _hands_on(source, above))


def _hands_on(source: Source, node: cst.CSTNode) -> bool:
    match node:
        case cst.Attribute(attr=cst.Name("item" | "detach" | "cpu" | "clone" | "float" | "to")) | cst.Call():
            return True
        case cst.Arg():
            return _is_float(source, source.parent(node))
    return False


def _is_float(source: Source, node: cst.CSTNode | None) -> bool:
    return isinstance(node, cst.Call) and source.qualified(node.func) == "builtins.float"


def _says_after(name: str) -> bool:
    parts = words(name)
    if set(parts) & {
        "before",
        "pre",
        "un",
        "unclipped",
        "preclip",
        "is",
        "was",
        "num",
        "n",
        "frac",
        "ratio",
        "count",
        "not",
    }:
        return False
    if "clipped" in parts or "postclip" in parts or "afterclip" in parts:
        return True
    return bool(set(parts) & {"after", "post"}) and bool(
        set(parts) & {"norm", "grad", "gradient", "gnorm", "clip", "clipping"}
    )


def _uses(source: Source, target: cst.Name, call: cst.Call) -> Iterator[Hit]:
    """Where the variable is logged under such a name, or asserted to be within the limit."""
    scope = source.scope(target)
    bindings = scope.bindings.get(target.value, [])
    if any(_says_more(source, b.value, call) for b in bindings):
        return
    limit = bound(call, "clip_grad_norm_").limit
    for use in source.names.uses(scope, target.value):
        if source.rank(use) < source.rank(call):
            continue
        key = _key(source, use)
        if key:
            yield Hit(
                use,
                f"logged as `{key}`, but the clip returns the norm before clipping"[:100],
                None,
                BY_HAND,
                ((call, "clipped here"),),
            )
        elif limit is not None and _asserted_below(source, use, limit):
            yield Hit(
                use,
                "the assertion fails whenever clipping is needed: the clip returns the norm before clipping",
                None,
                BY_HAND_ASSERTED,
                ((call, "clipped here"),),
            )


def _says_more(source: Source, value: cst.BaseExpression | None, call: cst.Call) -> bool:
    """Whether a variable is also assigned something other than the result of a clip."""
    return value is None or not any(node is call for node in source.walk(value))


def _key(source: Source, use: cst.CSTNode) -> str:
    """The name under which a value is logged, where that name says it is the norm after clipping."""
    match _around(source, use):
        case (
            cst.DictElement(key=cst.SimpleString() as key)
            | cst.Assign(
                targets=[
                    cst.AssignTarget(
                        target=cst.Subscript(
                            slice=[cst.SubscriptElement(slice=cst.Index(value=cst.SimpleString() as key))]
                        )
                    )
                ]
            )
        ):
            return _if_after(key)
        case cst.Arg(keyword=None) as arg:
            return _logged(source, source.parent(arg), arg)
    return ""


def _logged(source: Source, call: cst.CSTNode | None, arg: cst.Arg) -> str:
    """The key of `self.log("grad_norm_after_clip", norm)` and `writer.add_scalar(…)`."""
    match call:
        case cst.Call(
            func=cst.Attribute(attr=cst.Name("log" | "add_scalar" | "log_metric" | "scalar" | "record")),
            args=[cst.Arg(value=cst.SimpleString() as key), second, *_],
        ) if second is arg:
            return _if_after(key)
    return ""


def _if_after(key: cst.SimpleString) -> str:
    text = str(key.evaluated_value)
    return text if _says_after(text) else ""


def _asserted_below(source: Source, use: cst.Name, limit: cst.BaseExpression) -> bool:
    statement = source.enclosing(use, cst.Assert)
    match statement:
        case cst.Assert(
            test=cst.Comparison(
                left=left,
                comparisons=[cst.ComparisonTarget(operator=cst.LessThan() | cst.LessThanEqual(), comparator=right)],
            )
        ):
            direct = left is use or (isinstance(left, cst.Call) and any(node is use for node in source.walk(left)))
            return direct and source.spelled(limit) in source.spelled(right)
    return False
