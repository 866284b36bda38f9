"""
## What it does
Finds the norm that torch's clip returns under `fully_shard` formatted with a format specifier: in an f-string, by
`"{:.2f}".format(norm)`, or by `format(norm, ".2f")`; also in another function of the file than the clip.

## Why is this bad?
The norm is a DTensor. Formatting it, as in `f"{norm:.2f}"`, raises a TypeError: unsupported format string. (A loop over
`p.grad.norm().item()` under `fully_shard`, which gives only this rank's part, is reported as CLIP001. `"%.2f" % norm`
converts it to a number and works.)

## How to fix by hand
Convert the norm on all ranks, before a test of the rank: `norm = norm.full_tensor().item()`.

## Fix safety
Unsafe: reads the value with `.item()`, which in older versions of torch is a collective that all ranks have to call.

## When to suppress it
Where the value is already a plain tensor or a number, because the function that returns it converts it.

## References
- pytorch/pytorch#126457, radixark/miles_diffusion#35, baidu-baige/LoongForge#152
"""

from __future__ import annotations

import re
import string
from collections.abc import Iterator

import libcst as cst

from clipcheck.fixes.verbs import insert_after
from clipcheck.python.assignments import Path, item, part, unpacked
from clipcheck.python.names import Binding
from clipcheck.python.reaching import reaching
from clipcheck.python.source import Source, memo
from clipcheck.rule import Fix, Hit, Safety
from clipcheck.training.calls import callee, calls_of
from clipcheck.training.clips import torch_calls
from clipcheck.training.summaries import returned

MESSAGE = "raises a TypeError: under `fully_shard` the norm is a DTensor, which cannot be formatted"
_DEPTH = 3  # how many names and calls are followed
_FULLY_SHARD = re.compile(r"\bfully_shard\s*\(")


def check(source: Source) -> Iterator[Hit]:
    if not _FULLY_SHARD.search(source.text):
        return
    for value in _formatted(source):
        norm = _norm(source, value)
        if norm is not None:
            fix = Fix("Read the value with `.item()`", Safety.UNSAFE, (insert_after(source, value, ".item()"),))
            related = () if norm is value else ((norm, "the norm is computed here"),)
            yield Hit(value, MESSAGE, fix, "", related)


def _formatted(source: Source) -> Iterator[cst.BaseExpression]:
    """The expressions with a format specifier."""
    for node in source.nodes(cst.FormattedStringExpression):
        if node.format_spec and node.conversion is None:
            yield node.expression
    for call in source.nodes(cst.Call):
        match call:
            case cst.Call(func=cst.Attribute(value=cst.SimpleString() | cst.ConcatenatedString() as text, attr=attr)):
                if attr.value == "format" and isinstance(text.evaluated_value, str):
                    yield from _by_method(text.evaluated_value, call)
            case cst.Call(func=cst.Name(value="format"), args=[cst.Arg(value=value), cst.Arg()]):
                yield value


def _by_method(text: str, call: cst.Call) -> Iterator[cst.BaseExpression]:
    """The arguments of `text.format(…)` whose field has a format specifier."""
    if any(arg.star for arg in call.args):
        return
    given: dict[str, cst.BaseExpression] = {
        arg.keyword.value if arg.keyword else str(position): arg.value for position, arg in enumerate(call.args)
    }
    try:
        fields = [field for field in string.Formatter().parse(text) if field[1] is not None]
    except ValueError:
        return  # it raises as it is
    for position, (_, name, spec, conversion) in enumerate(fields):
        value = given.get(name or str(position))
        if spec and not conversion and value is not None:
            yield value


def _norm(source: Source, value: cst.BaseExpression | None, depth: int = _DEPTH) -> cst.CSTNode | None:
    """Where torch computes the norm that an expression is, on every path; also in another function of the file."""
    match value:
        case cst.Call() if value in _norms(source):
            return value
        case cst.Call():
            return _returned(source, value, (), depth)
        case cst.Subscript(value=cst.Name() as kept, slice=[cst.SubscriptElement(slice=cst.Index(value=key))]):
            return _norm(source, item(source, kept, key), depth - 1) if depth else None
        case cst.Name():
            bindings = reaching(source, value)
            return _same([_bound(source, value, binding, depth) for binding in bindings])
    return None


def _bound(source: Source, name: cst.Name, binding: Binding, depth: int) -> cst.CSTNode | None:
    match binding.kind, binding.value, unpacked(source, binding):
        case "assign", cst.BaseExpression() as value, _:
            found = _norm(source, value, depth - 1) if depth else None
            return binding.node if found is value else found
        case "assign", _, (call, path):
            return _returned(source, call, path, depth)
        case "parameter", _, _ if depth:
            function = source.function(binding.node)
            callers = () if function is None else calls_of(source, function)
            return _same([_norm(source, called.given.get(name.value), depth - 1) for called in callers])
    return None


def _returned(source: Source, call: cst.Call, path: Path, depth: int) -> cst.CSTNode | None:
    """The norm that the called function of the file returns, or a part of what it returns."""
    called = callee(source, call) if depth else None
    values = (None if called is None else returned(source, called.function)) or ()
    return _same([_norm(source, part(value, path), depth - 1) for value in values])


def _same(found: list[cst.CSTNode | None]) -> cst.CSTNode | None:
    """The first of several places, None if one of them is unknown."""
    return found[0] if found and None not in found else None


@memo
def _norms(source: Source) -> frozenset[cst.CSTNode]:
    return frozenset(c.call for c in torch_calls(source) if c.function in ("clip_grad_norm_", "get_total_norm"))
