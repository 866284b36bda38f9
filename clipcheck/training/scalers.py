"""Loss scalers: whether one does anything."""

from __future__ import annotations

import libcst as cst

from clipcheck.python.names import last_name
from clipcheck.python.source import Source
from clipcheck.training.parameters import assigned


def is_off(source: Source, scaler: cst.CSTNode) -> bool:
    """Whether a scaler is made with `enabled=False`, or by something else than torch's class."""
    match assigned(source, scaler):
        case cst.Call(func=func, args=args):
            if last_name(func) not in ("GradScaler", "ShardedGradScaler"):
                return True
            return any(
                arg.keyword is not None and arg.keyword.value == "enabled" and source.code(arg.value) == "False"
                for arg in args
            )
    return False
