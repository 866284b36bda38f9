"""Norm types and exponents as written: numbers, names, and reciprocals of names, with the little algebra they need."""

from __future__ import annotations

import math
from typing import NamedTuple

import libcst as cst

from clipcheck.python.assignments import only_assignment
from clipcheck.python.literals import is_infinity
from clipcheck.python.names import Binding
from clipcheck.python.source import Source


class Exponent(NamedTuple):
    """`number · symbol ** degree`; `known` is the symbol's value if the source shows it, `text` the original code."""

    number: float
    symbol: str = ""
    degree: int = 0
    known: float | None = None
    text: str = ""

    def times(self, other: Exponent) -> Exponent | None:
        """The product; None if it would contain two different names."""
        if self.symbol and other.symbol and self.symbol != other.symbol:
            one, two = self.value, other.value
            return None if one is None or two is None else Exponent(one * two)
        symbol, known = (self.symbol, self.known) if self.symbol else (other.symbol, other.known)
        degree = self.degree + other.degree
        number = self.number * other.number
        return Exponent(number, symbol, degree, known) if degree else Exponent(number)

    @property
    def value(self) -> float | None:
        if not self.degree:
            return self.number
        return None if self.known is None else self.number * self.known**self.degree

    def equals(self, other: Exponent) -> bool:
        if (self.symbol, self.degree) == (other.symbol, other.degree):
            return math.isclose(self.number, other.number, rel_tol=1e-9) or self.number == other.number
        one, two = self.value, other.value
        return one is not None and two is not None and math.isclose(one, two, rel_tol=1e-9)

    @property
    def is_one(self) -> bool:
        return self.equals(ONE)


ONE, TWO, HALF, INFINITY = (
    Exponent(1.0),
    Exponent(2.0, text="2"),
    Exponent(0.5),
    Exponent(math.inf, text='float("inf")'),
)


def exponent_of(source: Source, node: cst.CSTNode) -> Exponent | None:
    """The value of an exponent or a norm type; None unless it is a number, a name, or the reciprocal of either."""
    text = source.code(node)
    match node:
        case cst.Integer() | cst.Float():
            return Exponent(float(node.evaluated_value), text=text)
        case cst.SimpleString(evaluated_value="fro"):
            return TWO
        case cst.SimpleString(evaluated_value="inf"):
            return Exponent(math.inf, text=text)
        case cst.Call(func=func, args=[cst.Arg(value=inner)]) if source.qualified(func) == "builtins.float":
            value = exponent_of(source, inner)
            return value and value._replace(text=text)
        case cst.BinaryOperation(left=left, operator=cst.Divide(), right=right):
            above, below = exponent_of(source, left), exponent_of(source, right)
            if above is None or below is None or below.number == 0:
                return None
            inverse = below._replace(number=1 / below.number, degree=-below.degree)
            result = above.times(inverse)
            return result and result._replace(text=text)
        case cst.Name() | cst.Attribute():
            if is_infinity(source, node):
                return Exponent(math.inf, text=text)
            return Exponent(1.0, text, 1, _constant(source, node), text)
        case cst.Subscript():
            return Exponent(1.0, text, 1, None, text)
    return None


def _constant(source: Source, node: cst.Name | cst.Attribute) -> float | None:
    """The number that a name certainly is at this place."""
    if not isinstance(node, cst.Name):
        return None
    match only_assignment(source, node):
        case Binding(value=(cst.Integer() | cst.Float()) as value):
            return float(value.evaluated_value)
    return None
