"""Gradients in sections: those that are spread over the same processes, whose sums are exchanged together."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor


class Sections(NamedTuple):
    """Which section each of a list of gradients is in, and what happens to the sums before a norm is taken of them."""

    of: list[int]  # one per gradient; one that counts on another rank is in a section beyond the last
    number: int
    join: Callable[[Tensor], Tensor]  # from the sums of all sections, 1-D and float64, to sums over all processes
