"""Numbers in the place of tensors, once the training is over: reading them synchronizes with the device."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from clipcheck.audit import events, gradients
from clipcheck.audit.events import Event


def read(event: Event) -> Event:
    """The event with numbers in the place of tensors."""
    match event:
        case events.Clip():
            is_part = any("Partial" in type(one).__name__ for one in getattr(event.norm, "placements", ()))
            parts = (gradients.parts([event.norm]) if event.norm_type == 2 else 0) if is_part else 1
            limit = math.inf if event.limit is None else number(event.limit)
            norm, probe = number(event.norm), _all(event.probe)
            return event._replace(limit=limit, norm=norm, parts=parts, probe=probe)
        case events.Step():
            weights = tuple(map(number, event.weights))
            return event._replace(norm=number(event.norm), probe=_all(event.probe), weights=weights)
        case events.Backward():
            return event._replace(probe=_all(event.probe))
    return event


def _all(probe: events.Probe) -> events.Probe:
    return {key: number(value) for key, value in probe.items()}


def number(value: Any) -> Any:
    """As a float; None where it is none."""
    try:
        return float(gradients.local(value.detach()) if isinstance(value, Tensor) else value)
    except (TypeError, ValueError, RuntimeError):
        return math.nan if value is not None else None
