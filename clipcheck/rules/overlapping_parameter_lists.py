"""
## What it does
Finds clips that are given some parameters twice: `list(m.parameters()) + list(m.head.parameters())`.

## Why is this bad?
A parameter that is listed twice counts twice in the total norm and is scaled twice: for a gradient of norm 5.0 the call
returns 7.07 and leaves a norm of 0.1, although `max_norm` is 1.0.

## How to fix by hand
List each parameter once: the outer module's `parameters()` already contain those of its submodules.

## Fix safety
Unsafe: removes the list that the other one already contains, so that training changes.

## When to suppress it
Where the two modules do not share parameters, for instance because the attribute is replaced after construction.

## References
- https://pytorch.org/docs/stable/generated/torch.nn.Module.html#torch.nn.Module.parameters
"""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from clipcheck.fixes.verbs import replace
from clipcheck.python.source import Source
from clipcheck.rule import Fix, Hit, Safety
from clipcheck.training.clips import clips
from clipcheck.training.parameters import owners

BY_HAND = "list each parameter once"


def check(source: Source) -> Iterator[Hit]:
    for clip in clips(source):
        parts = list(_parts(source, clip.parameters)) if clip.parameters is not None else []
        for index, (part, owner) in enumerate(parts):
            outer = next((o for i, (_, o) in enumerate(parts) if _holds(o, owner, i < index)), None)
            if outer is not None:
                reason = f": `{outer}` already contains them" if outer != owner else ""
                message = f"counts and scales the parameters of `{owner}` twice{reason}"
                fix = _fix(source, clip.parameters, part)
                yield Hit(clip.call, message[:100], fix, "" if fix else BY_HAND)
                break


def _holds(outer: str, inner: str, first: bool) -> bool:
    return inner.startswith(outer + ".") or (outer == inner and first)


def _parts(source: Source, node: cst.BaseExpression) -> Iterator[tuple[cst.BaseExpression, str]]:
    """The lists that are concatenated, each with the one module whose parameters it holds."""
    match node:
        case cst.BinaryOperation(operator=cst.Add(), left=left, right=right):
            yield from _parts(source, left)
            yield from _parts(source, right)
        case cst.Call(func=cst.Name("chain") | cst.Attribute(attr=cst.Name("chain")), args=args):
            for arg in args:
                yield from _parts(source, arg.value)
        case cst.List(elements=[_, *_] as elements) if all(isinstance(e, cst.StarredElement) for e in elements):
            for element in elements:
                yield from _parts(source, element.value)
        case cst.Call():
            found = owners(source, node, depth=0)
            if found is not None and len(found) == 1:
                yield node, next(iter(found))


def _fix(source: Source, whole: cst.BaseExpression | None, part: cst.BaseExpression) -> Fix | None:
    match whole:
        case cst.BinaryOperation(operator=cst.Add(), left=left, right=right) if part in (left, right):
            kept = left if part is right else right
            return Fix("Pass each parameter once", Safety.UNSAFE, (replace(source, whole, source.code(kept)),))
    return None
