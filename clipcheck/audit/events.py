"""What is seen while a training runs, in its order: plain records, which hold numbers once the training is over."""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

from clipcheck.audit.sites import Site

Mark: TypeAlias = tuple[int, int]  # which object the gradient is, and how often it was written to
State: TypeAlias = dict[int, Mark]  # by the identity of the parameter; those without a gradient are left out
Probe: TypeAlias = dict[int, Any]  # norms of the smallest gradients: what is written through `.data` leaves no mark


class Backward(NamedTuple):
    """The end of a backward; `within` is the optimizer in whose `step` it ran, 0 outside."""

    changed: frozenset[int]  # the parameters whose gradients it made or added to
    state: State
    probe: Probe
    within: int


class Clip(NamedTuple):
    """A call of a clipping function."""

    site: Site
    function: str
    limit: float  # infinite where the call only measures
    norm_type: float
    norm: Any  # before clipping, where the function tells it
    listed: tuple[int, ...]  # the identities of all tensors that were passed
    is_iterator: bool
    is_fsdp1: bool  # its parts of parameters, passed to a function that does not know of the others
    can_hold: bool  # whether one of the tensors could ever hold a gradient
    are_gradients: bool  # whether one of them is the gradient of a parameter
    before: State
    state: State
    probe: Probe
    scaled: frozenset[int]  # the parameters whose gradients a GradScaler scales
    within: int
    error: str
    seconds: float
    reads: int | None  # how often the host read a value of the device, where that was counted
    parts: int = 1  # over how many ranks what the norm is of is spread; 0 where they cannot be combined


class Zero(NamedTuple):
    site: Site
    state: State


class Unscale(NamedTuple):
    site: Site
    parameters: tuple[int, ...]
    state: State
    error: str


class Step(NamedTuple):
    """The gradients that a step is about to use; with a closure, what each of its calls has left.

    `after` is their state at the end of the step, which may write to them.
    """

    site: Site
    optimizer: int
    number: int
    norm: Any
    state: State
    probe: Probe
    in_backward: bool
    in_closure: bool
    time: float
    after: State
    parts: int = 1
    weights: tuple[Any, ...] = ()  # norms of the smallest parameters, where there are several ranks


class Skip(NamedTuple):
    """A GradScaler left a step out, since gradients were not finite."""

    parameters: tuple[int, ...]


Event: TypeAlias = Backward | Clip | Zero | Unscale | Step | Skip


class Optimizer(NamedTuple):
    """An optimizer that was seen: its parameters by identity; `asks` are options of its own that ask for clipping."""

    key: int
    name: str
    site: Site | None
    parameters: tuple[int, ...]
    shapes: tuple[tuple[tuple[int, ...], str, str], ...]  # shape, dtype and device of this rank's parts
    asks: tuple[str, ...]


class Log(NamedTuple):
    """All that was seen."""

    events: tuple[Event, ...]
    optimizers: tuple[Optimizer, ...]
    names: dict[int, str]  # of parameters, by identity
    steps: int
    seconds: float
    troubles: tuple[str, ...]  # what the audit itself could not do
