"""Several ranks in one process: each runs until it waits for the others, and what they wait for is done for all at once."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from clipcheck.verify.stand_ins import Model, Optimizer, World


class Collective(NamedTuple):
    """What one rank brings to a call of all ranks: tensors that become the sum, or the mean, of what all bring.

    `then` is what the rank does with them, and gives the call's result.
    """

    tensors: Sequence[Tensor]
    mean: bool
    then: Callable[[], object] = lambda: None


class OutOfStep(Exception):
    """Some ranks wait for others that do not come, or that wait for something else."""


Rank = Generator["Collective | None", object, object]


def together(ranks: Sequence[Rank]) -> None:
    """Run all ranks to their end. Raises OutOfStep, and what they raise."""
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
    """A rank has nothing more to do."""


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
    """The gradients of some parameters; where there is none, one of zero."""
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
    """A model that FSDP1 wraps: each rank holds a part of every parameter, and the method clips by the norm of all."""

    def clip_grad_norm_(self, max_norm: float, norm_type: float = 2.0) -> Collective:
        gradients = [parameter.grad for parameter in self.parameters() if parameter.grad is not None]
        power = torch.stack([gradient.abs().pow(norm_type).sum() for gradient in gradients]).sum()

        def scale() -> Tensor:
            norm = power ** (1.0 / norm_type)
            for gradient in gradients:
                gradient.mul_((max_norm / (norm + 1e-6)).clamp(max=1.0))
            return norm

        return Collective([power], mean=False, then=scale)
