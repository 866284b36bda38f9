"""Products of derivatives with random vectors, which are not gradients even if their names say so."""

from __future__ import annotations

from collections.abc import Sequence

import libcst as cst

from clipcheck.python.assignments import assigned_values
from clipcheck.python.source import Source


def is_drawn_product(source: Source, args: Sequence[cst.Arg]) -> bool:
    """Whether `torch.autograd.grad` multiplies by a given vector rather than ones, as in estimates of a Jacobian."""
    given = [
        arg.value for n, arg in enumerate(args) if (arg.keyword.value if arg.keyword else n) in (2, "grad_outputs")
    ]
    values = [
        value for one in given for value in (assigned_values(source, one) if isinstance(one, cst.Name) else [one])
    ]
    return any(value is not None and _is_random(source, value) for value in values)


def _is_random(source: Source, node: cst.BaseExpression) -> bool:
    """Whether an expression contains a call that draws random numbers."""
    return any(
        "rand" in last or last in ("normal", "bernoulli")
        for inner in source.walk(node)
        if isinstance(inner, cst.Call)
        for last in [source.origin(inner.func).rpartition(".")[2]]
    )
