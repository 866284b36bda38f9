"""Loss scalers: whether a scaler is enabled, and whether the code accounts for the scale of a norm."""

from __future__ import annotations

import libcst as cst

from clipcheck.python.names import last_name
from clipcheck.python.source import Source
from clipcheck.training.measures import values
from clipcheck.training.optimizers import makes_scaler
from clipcheck.training.parameters import assigned

_TESTS = frozenset({"isfinite", "isnan", "isinf"})


def is_off(source: Source, scaler: cst.CSTNode) -> bool:
    """Whether a scaler is created with `enabled=False`, or by something other than torch's class."""
    match assigned(source, scaler):
        case cst.Call(args=args) as made:
            if not makes_scaler(made):
                return True
            return any(
                arg.keyword is not None and arg.keyword.value == "enabled" and source.code(arg.value) == "False"
                for arg in args
            )
    return False


def is_compensated(source: Source, node: cst.CSTNode) -> bool:
    """Whether the norm is divided by the scale, or the scale does not matter, as in a test for infinity."""
    home = source.function(node) or source.module
    if any(isinstance(inner, cst.Name) and inner.value in ("get_scale", "_scale") for inner in source.walk(home)):
        return True
    found = values(source, node)
    return bool(found) and all(_is_tested(source, value) for value in found)


def _is_tested(source: Source, value: cst.CSTNode) -> bool:
    return any(isinstance(above, cst.Call) and last_name(above.func) in _TESTS for above in source.ancestors(value))
