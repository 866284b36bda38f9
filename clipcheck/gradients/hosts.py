"""Which methods copy a tensor to the host."""

from __future__ import annotations

from collections.abc import Sequence

import libcst as cst

from clipcheck.python.source import Source


def is_to_host(source: Source, method: str, args: Sequence[cst.Arg]) -> bool:
    """Whether a method copies a tensor to the host: `.cpu()`, `.numpy()`, `.to("cpu")`."""
    return method in ("cpu", "numpy") or (method == "to" and any(_is_cpu(source, arg.value) for arg in args))


def _is_cpu(source: Source, node: cst.BaseExpression) -> bool:
    """`"cpu"` or `torch.device("cpu")`."""
    match node:
        case cst.SimpleString(evaluated_value="cpu"):
            return True
        case cst.Call(func=func, args=[cst.Arg(value=cst.SimpleString(evaluated_value="cpu"))]):
            return source.qualified(func) == "torch.device"
    return False
