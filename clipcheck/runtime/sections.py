"""Sections of gradients: those that are sharded over the same processes, whose sums are exchanged together."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor


class Sections(NamedTuple):
    """Which section each of a list of gradients is in, and how their sums are combined before the norm is taken."""

    of: list[int]  # one per gradient; past the last section if another rank counts it
    number: int
    join: Callable[[Tensor], Tensor]  # from the sums of all sections, 1-D and float64, to sums over all processes
