"""Short names for the calls of a training step, in which the tests of rules write their programs.

`B` runs backward, `C` clips, `S` steps, `Z` zeroes the gradients; `SB`, `U`, `SS` and `UP` are a scaler's scaled backward,
unscale, step and update.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

STEPS = {
    "B": "loss.backward()",
    "C": "clip_grad_norm_(model.parameters(), 1.0)",
    "S": "optimizer.step()",
    "Z": "optimizer.zero_grad()",
    "SB": "scaler.scale(loss).backward()",
    "U": "scaler.unscale_(optimizer)",
    "SS": "scaler.step(optimizer)",
    "UP": "scaler.update()",
}


def written(text: str, calls: Mapping[str, str] = STEPS) -> str:
    """The program with each short name, where it is a word of its own and not called, as the call that it stands for."""
    names = "|".join(sorted(calls, key=len, reverse=True))
    return re.sub(rf"\b({names})\b(?!\()", lambda found: calls[found[0]], text)
