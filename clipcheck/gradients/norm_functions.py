"""The functions that compute a norm, and what their arguments ask for."""

from __future__ import annotations

from typing import NamedTuple

import libcst as cst

from clipcheck.gradients.exponents import TWO, Exponent, exponent_of
from clipcheck.python.source import Source

_VECTOR_NORMS = frozenset({"torch.norm", "torch.functional.norm", "torch.linalg.vector_norm"})
# Of two-dimensional tensors, these give a matrix norm where they are given an order.
_LINALG_NORMS = frozenset({"torch.linalg.norm", "numpy.linalg.norm"})


class NormCall(NamedTuple):
    """A call that takes the norm of `tensor` over all of its elements.

    `matrix` says that `order` means a matrix norm if the tensor has two dimensions, `cast` is the change of dtype that
    the call makes first (`.to(torch.float32)`), `numpy` that the function is numpy's.
    """

    tensor: cst.BaseExpression
    order: Exponent
    matrix: bool
    cast: str
    numpy: bool


def norm_call_of(source: Source, call: cst.Call) -> NormCall | None:
    """`x.norm(p)`, `torch.norm(x, p)`, `torch.linalg.vector_norm(x)` and their like; None for a norm along a dimension."""
    function = source.qualified(call.func)
    match call.func, call.args:
        case _, [cst.Arg(value=tensor, star=""), *args] if function in _VECTOR_NORMS | _LINALG_NORMS:
            pass
        case cst.Attribute(value=tensor, attr=cst.Name(value="norm")), [*args] if function is None:
            pass
        case _:
            return None
    order: Exponent | None = TWO
    given, cast = False, ""
    for position, arg in enumerate(args):
        keyword = arg.keyword.value if arg.keyword else ""
        if arg.star:
            return None
        if keyword in ("p", "ord") or (not keyword and position == 0):
            if source.code(arg.value) != "None":
                order, given = exponent_of(source, arg.value), True
        elif keyword == "dtype":
            cast = f".to({source.code(arg.value)})"
        else:
            return None  # `dim`, `keepdim`: not one number for the tensor
    if order is None:
        return None
    return NormCall(tensor, order, given and function in _LINALG_NORMS, cast, function == "numpy.linalg.norm")
