"""
## What it does
Finds the norm that torch's clip returns under `fully_shard` formatted with a format specifier: in an f-string, by
`"{:.2f}".format(norm)`, or by `format(norm, ".2f")`.

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
from clipcheck.python.reaching import reaching
from clipcheck.python.source import Source
from clipcheck.rule import Fix, Hit, Safety
from clipcheck.training.clips import torch_calls

MESSAGE = "raises a TypeError: under `fully_shard` the norm is a DTensor, which cannot be formatted"
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


def _norm(source: Source, value: cst.BaseExpression) -> cst.CSTNode | None:
    """Where torch computes the norm that an expression is."""
    norms = {call.call for call in torch_calls(source) if call.function in ("clip_grad_norm_", "get_total_norm")}
    if not isinstance(value, cst.Name):
        return value if value in norms else None
    bindings = reaching(source, value)
    if bindings and all(one.kind == "assign" and one.value in norms for one in bindings):
        return bindings[0].node
    return None
