"""
## What it does
Finds the norm of sharded parameters, as torch's clip returns it under `fully_shard`, formatted in an f-string.

## Why is this bad?
The norm is a DTensor. A format such as `f"{norm:.2f}"` raises a TypeError: unsupported format string. (A loop over
`p.grad.norm().item()` under `fully_shard`, which gives this rank's part only, is reported as CLIP001.)

## Fix safety
Unsafe: reads the number with `.item()`, a collective in older versions of torch, which all ranks have to reach.

## References
- pytorch/pytorch#126457, radixark/miles_diffusion#35, baidu-baige/LoongForge#152
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import libcst as cst

from clipcheck.fixes.verbs import insert_after
from clipcheck.python.source import Source
from clipcheck.rule import Fix, Hit, Safety
from clipcheck.training.clips import torch_calls
from clipcheck.training.parameters import single

MESSAGE = "raises a TypeError: under `fully_shard` the norm is a DTensor, which takes no format"
_FULLY_SHARD = re.compile(r"\bfully_shard\s*\(")


def check(source: Source) -> Iterator[Hit]:
    if not _FULLY_SHARD.search(source.text):
        return
    norms = {call.call for call in torch_calls(source) if call.function in ("clip_grad_norm_", "get_total_norm")}
    for node in source.nodes(cst.FormattedStringExpression):
        match node.expression:
            case cst.Name() as name if node.format_spec:
                binding = single(source.bindings(name))
                if binding is not None and binding.kind == "assign" and binding.value in norms:
                    fix = Fix("Read the number", Safety.UNSAFE, (insert_after(source, name, ".item()"),))
                    yield Hit(name, MESSAGE, fix, "", ((binding.node, "the norm is computed here"),))
