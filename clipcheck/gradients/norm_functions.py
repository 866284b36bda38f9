"""The functions that compute a norm, and what their arguments mean."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import libcst as cst

from clipcheck.gradients.exponents import TWO, Exponent, exponent_of
from clipcheck.python.source import Source

_VECTOR_NORMS = frozenset({"torch.norm", "torch.functional.norm", "torch.linalg.vector_norm"})
# Given an order, these compute a matrix norm of two-dimensional tensors.
_LINALG_NORMS = frozenset({"torch.linalg.norm", "numpy.linalg.norm"})


class NormCall(NamedTuple):
    """A call that computes the norm of `tensor` over all of its elements.

    `matrix` means that `order` selects a matrix norm if the tensor has two dimensions; `cast` is the dtype conversion
    that the call makes first (`.to(torch.float32)`); `numpy` means that the function is numpy's.
    """

    tensor: cst.BaseExpression
    order: Exponent
    matrix: bool
    cast: str
    numpy: bool


def norm_call_of(source: Source, call: cst.Call) -> NormCall | None:
    """`x.norm(p)`, `torch.norm(x, p)`, `torch.linalg.vector_norm(x)` and the like; None for norms along a dimension."""
    function = source.qualified(call.func)
    match call.func, call.args:
        case _, [cst.Arg(value=tensor, star=""), *args] if function in _VECTOR_NORMS | _LINALG_NORMS:
            pass
        case cst.Attribute(value=tensor, attr=cst.Name(value="norm")), [*args] if function is None:
            pass
        case _:
            return None
    asked = _asked(source, args)
    if asked is None:
        return None
    matrix = asked.given and function in _LINALG_NORMS
    return NormCall(tensor, asked.order, matrix, asked.cast, function == "numpy.linalg.norm")


class _Asked(NamedTuple):
    order: Exponent
    given: bool
    cast: str


def _asked(source: Source, args: Sequence[cst.Arg]) -> _Asked | None:
    """What the arguments after the tensor ask for; None if the result is not a single number: `dim`, `keepdim`."""
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
            return None
    return _Asked(order, given, cast) if order is not None else None


def order_asked(source: Source, args: Sequence[cst.Arg]) -> Exponent | None:
    """The norm type that the arguments after the tensor ask for."""
    asked = _asked(source, args)
    return asked and asked.order
