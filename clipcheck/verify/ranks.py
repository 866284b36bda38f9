"""Several ranks in one process: each runs up to its next collective call, which is then performed for all at once."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from clipcheck.verify.stand_ins import Model, Optimizer, World


class Collective(NamedTuple):
    """One rank's part in a collective call: tensors that become the sum, or the mean, over all ranks.

    `then` is what the rank does with them; it returns the result of the call.
    """

    tensors: Sequence[Tensor]
    mean: bool
    then: Callable[[], object] = lambda: None


class OutOfStep(Exception):
    """Some ranks wait for others that have ended or are in a different collective call."""


Rank = Generator["Collective | None", object, object]


def together(ranks: Sequence[Rank]) -> None:
    """Runs all ranks until they finish. Raises OutOfStep, and whatever they raise."""
    results: list[object] = [None] * len(ranks)
    while True:
        asked = [_resumed(rank, result) for rank, result in zip(ranks, results, strict=True)]
        match asked:
            case [_End(), *_] if all(isinstance(one, _End) for one in asked):
                return
            case _ if all(one is None for one in asked):
                results = [None] * len(ranks)
            case _:
                results = _done([one for one in asked if isinstance(one, Collective)], len(ranks))


class _End(NamedTuple):
    """A rank has finished."""


def _resumed(rank: Rank, result: object) -> Collective | _End | None:
    try:
        return rank.send(result)
    except StopIteration:
        return _End()


def _done(asked: Sequence[Collective], count: int) -> list[object]:
    shapes = {tuple(tuple(tensor.shape) for tensor in one.tensors) for one in asked}
    if len(asked) < count or len(shapes) > 1:
        raise OutOfStep
    for parts in zip(*(one.tensors for one in asked), strict=True):
        total = torch.stack([part.detach() for part in parts]).sum(0)
        for one, part in zip(asked, parts, strict=True):
            part.detach().copy_(total / count if one.mean else total)
    return [one.then() for one in asked]


def _gradients(parameters: Sequence[nn.Parameter]) -> list[Tensor]:
    """The gradients of some parameters; zeros where there is none."""
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    return [parameter.grad for parameter in parameters if parameter.grad is not None]


class Group:
    """The process group of torch.distributed, and torch_xla's functions of the same kind."""

    def __init__(self, world: World) -> None:
        self._world = world

    def get_world_size(self) -> int:
        return self._world.ranks

    def all_reduce(self, tensor: Tensor) -> Collective:
        return Collective([tensor], mean=False)

    def all_average(self, tensor: Tensor) -> Collective:
        return Collective([tensor], mean=True)

    def reduce_gradients(self, optimizer: Optimizer) -> Collective:
        return Collective(_gradients(self._world.parameters), mean=True)

    def optimizer_step(self, optimizer: Optimizer) -> Collective:
        return Collective(_gradients(self._world.parameters), mean=True, then=optimizer.take)


class Horovod(Optimizer):
    """Horovod's DistributedOptimizer: averages the gradients in `synchronize`, and in `step` unless that is skipped."""

    _skips = False

    def synchronize(self) -> Collective:
        return Collective(_gradients(self._world.parameters), mean=True)

    @contextmanager
    def skip_synchronize(self) -> Iterator[None]:
        self._skips = True
        yield
        self._skips = False

    def step(self) -> Collective | None:  # type: ignore[override]
        if self._skips:
            self.take()
            return None
        return Collective(_gradients(self._world.parameters), mean=True, then=self.take)


class Sharded(Model):
    """A model wrapped by FSDP1: each rank holds a part of every parameter, and its method clips by the global norm."""

    def clip_grad_norm_(self, max_norm: float, norm_type: float = 2.0) -> Collective:
        gradients = [parameter.grad for parameter in self.parameters() if parameter.grad is not None]
        power = torch.stack([gradient.abs().pow(norm_type).sum() for gradient in gradients]).sum()

        def scale() -> Tensor:
            norm = power ** (1.0 / norm_type)
            for gradient in gradients:
                gradient.mul_((max_norm / (norm + 1e-6)).clamp(max=1.0))
            return norm

        return Collective([power], mean=False, then=scale)
