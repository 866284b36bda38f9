"""What is seen while a training runs, in its order: plain records, which hold numbers once the training is over."""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

from clipcheck.audit.sites import NOWHERE, Site

# A    a backward of a loss that a GradScaler has scaled      M    a norm is measured
# B    a backward                                             O    other code, which is not watched, writes to gradients
# C    a clip                                                 R    an all-reduce of gradients
# E    a clip raises                                          U    an unscaling
# G    the program reads the factor of its GradScaler         X    an unscaling raises
# K    a GradScaler skips a step, for NaN or infinity         Z    gradients are zeroed or removed
# <    a step begins                                          s    a step uses gradients (p: within a backward)
# Q    an all-reduce of something as large as an optimizer's gradients together: of a copy of them, if they change after it
Kind: TypeAlias = str


class Call(NamedTuple):
    """A call of a function that clips or measures."""

    function: str
    limit: Any  # infinite where the call only measures, NaN for anything but a number
    norm_type: float
    listed: tuple[int, ...]  # the identities of all tensors that were passed
    oddities: tuple[str, ...]  # of these
    error: str = ""
    seconds: float = 0.0
    reads: int | None = None  # how often the host read a value of the device, where that was counted


class Event(NamedTuple):
    kind: Kind
    about: frozenset[int]  # the parameters whose gradients it writes to, or that it was called with
    site: Site = NOWHERE
    optimizer: int = 0  # the one that steps
    call: Call | None = None
    probe: Any = None  # norms of the smallest gradients: what is written through `.data` leaves no other mark
    norm: Any = None  # of all gradients: before a clip, where the function tells it, or as a step uses them
    parts: int = 1  # over how many ranks what the norm is of is spread; 0 where their norms cannot be combined
    time: float = 0.0  # when a step begins
    weights: Any = ()  # of a step: norms of the smallest matrices, where there are several ranks
    in_closure: bool = False  # of a step: it is about what one call of its closure has left


class Optimizer(NamedTuple):
    """An optimizer that was seen; `asks` are options of its own that ask for clipping."""

    key: int
    name: str
    site: Site
    parameters: dict[int, str]  # their names by their identities
    shapes: list[tuple[tuple[int, ...], Any, Any]]  # shape, dtype and device of this rank's parts
    asks: list[str]


class Log(NamedTuple):
    """All that was seen."""

    events: list[Event]
    optimizers: list[Optimizer]
    steps: int
    seconds: float
    troubles: list[str]  # what the audit itself could not do
