"""Stand-ins for the objects of a training step: they change the gradients as the real ones do, and keep records.

The loss is linear in the parameters, so its gradient is known in advance. In parallel to the gradients that the code
computes, the world accumulates the right ones, and records both whenever an optimizer takes a step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

BATCHES = 4
TURNS = 3
SCALE = 1024.0
_SHAPES = ((4, 3), (6,), (1,))


class Setting(NamedTuple):
    """How a side is run.

    `sizes` are the gradient norms of successive batches in units of the limit; an infinite one is an overflow. `flags`
    are the outcomes of tests: always, never, or for every second batch. `handed` is how a caller passes parameters,
    `scaled` whether a wrapper scales the loss, `unused` whether the loss does not depend on one of the parameters.
    """

    title: str
    sizes: tuple[float, ...]
    flags: tuple[str, ...] = ()
    handed: str = "list"
    scaled: bool = True
    unused: bool = False


class Aim(NamedTuple):
    """What the gradients of a step should be: clipped by norm, by value or not at all, and new for each step.

    With several ranks it is the mean, or with `sums` the sum. With `drops`, gradients cleared before a step are not
    part of it.
    """

    clip: str
    norm_type: float
    limit: float
    clears: bool
    sums: bool = False
    drops: bool = False

    def clipped(self, gradients: list[Tensor]) -> list[Tensor]:
        if self.clip == "value":
            return [gradient.clamp(-self.limit, self.limit) for gradient in gradients]
        if self.clip != "norm":
            return gradients
        norms = [torch.linalg.vector_norm(gradient, self.norm_type) for gradient in gradients]
        norm = float(torch.linalg.vector_norm(torch.stack(norms), self.norm_type))
        return [gradient * min(1.0, self.limit / norm) if norm else gradient for gradient in gradients]


class Step(NamedTuple):
    """The gradients that a step uses, and those that it should use; None for no gradient."""

    taken: list[Tensor | None]
    wanted: list[Tensor]


class World:
    """The parameters, their gradients as they should be, and the steps so far.

    With several ranks, each has different batches, and all should step with the mean of their gradients, or the sum.
    With `sharded`, each holds a part of every parameter and of its gradient.
    """

    def __init__(self, setting: Setting, aim: Aim, rank: int = 0, ranks: int = 1, sharded: bool = False) -> None:
        self.setting = setting
        self.aim = aim
        self.ranks = ranks
        self._rank, self._sharded = rank, sharded
        self.parameters = [nn.Parameter(self._own(torch.ones(shape))) for shape in _SHAPES]
        self.wanted = self._zeros()
        self.steps: list[Step] = []
        self.batches = 0
        self.cleared_after: list[int] = []  # the number of batches so far
        self.lost = False
        self.skips = 0
        self._stepped = True

    def _zeros(self) -> list[Tensor]:
        return [torch.zeros(shape, dtype=torch.float64) for shape in _SHAPES]

    def loss(self) -> Loss:
        return Loss(self)

    def _own(self, whole: Tensor) -> Tensor:
        """This rank's part of a tensor."""
        return whole.flatten().tensor_split(self.ranks)[self._rank].clone() if self._sharded else whole

    def _gradients(self, rank: int) -> list[Tensor]:
        """The gradients of a rank's next batch."""
        generator = torch.Generator().manual_seed(self.batches + 1000 * rank)
        size = self.setting.sizes[(self.batches + rank) % len(self.setting.sizes)]
        drawn = [torch.randn(shape, generator=generator) for shape in _SHAPES]
        if self.setting.unused:
            drawn[1] = torch.zeros(_SHAPES[1])
        norm = math.sqrt(sum(float(g.square().sum()) for g in drawn))
        return [g * (size * self.aim.limit / norm) for g in drawn]

    def backward(self, factor: float) -> None:
        every = [self._gradients(rank) for rank in range(self.ranks)]
        self.batches += 1
        total = [torch.stack(parts).sum(0) for parts in zip(*every, strict=True)]
        mean = [gradient / self.ranks for gradient in total]
        gradients = mean if self._sharded else every[self._rank]
        if self._stepped and self.aim.clears:
            self.wanted = self._zeros()
        self._stepped = False
        for index, (parameter, gradient) in enumerate(zip(self.parameters, gradients, strict=True)):
            if self.setting.unused and index == 1:
                continue  # a parameter that the loss does not depend on
            self.wanted[index] += (total if self.aim.sums else mean)[index].double()
            scaled = self._own(gradient) * factor
            parameter.grad = scaled if parameter.grad is None else parameter.grad + scaled

    def cleared(self) -> None:
        """Records that gradients were cleared: right after a step has used them, otherwise they are lost."""
        self.cleared_after.append(self.batches)
        if self._stepped or self.aim.drops:
            self.wanted = self._zeros()
        else:
            self.lost = True

    def step(self, parameters: Sequence[nn.Parameter]) -> None:
        wanted = self.aim.clipped(self.wanted)
        taken = [None if p.grad is None else p.grad.clone() for p in parameters]
        self.steps.append(Step(taken, list(map(self._own, wanted))))
        self.wanted = [gradient.clone() for gradient in wanted]
        self._stepped = True

    def skipped(self) -> None:
        """Records that a scaler skipped a step because of an overflow."""
        self._stepped = True
        self.skips += 1


class Loss:
    def __init__(self, world: World, factor: float = 1.0) -> None:
        self._world, self._factor = world, factor

    def backward(self) -> None:
        self._world.backward(self._factor)

    def scaled(self, factor: float) -> Loss:
        return Loss(self._world, self._factor * factor)


class Model(nn.Module):
    def __init__(self, world: World) -> None:
        super().__init__()
        self._own_world = [world]
        for index, parameter in enumerate(world.parameters):
            block = nn.Module()
            block.register_parameter("bias" if index % 2 else "weight", parameter)
            self.add_module(f"layer{index}", block)

    def zero_grad(self, set_to_none: bool = True) -> None:
        for parameter in self.parameters():
            parameter.grad = None
        self._own_world[0].cleared()


class Optimizer:
    """Takes plain gradient descent steps. `unscale` is what a wrapper does to the gradients right before a step."""

    def __init__(self, world: World, before_step: Callable[[], bool] = lambda: True, groups: int = 1) -> None:
        self._world, self._before_step, self._count = world, before_step, groups
        self.param_groups: list[dict[str, list[nn.Parameter]]] = []
        self.takes(world.parameters)

    def takes(self, parameters: list[nn.Parameter]) -> None:
        """Sets the parameters to optimize, in one group or in two."""
        half = len(parameters) // 2 if self._count == 2 else len(parameters)
        self.param_groups = [{"params": part} for part in (parameters[:half], parameters[half:]) if part]

    def _all(self) -> list[nn.Parameter]:
        return [parameter for group in self.param_groups for parameter in group["params"]]

    def step(self) -> None:
        if self._before_step():
            self.take()

    def take(self) -> None:
        self._world.step(self._all())
        with torch.no_grad():
            for parameter in self._all():
                if parameter.grad is not None:
                    parameter.sub_(parameter.grad, alpha=0.01)

    def zero_grad(self) -> None:
        for parameter in self._world.parameters:
            parameter.grad = None
        self._world.cleared()


class Scaler:
    """torch's GradScaler, https://pytorch.org/docs/stable/amp.html: unscales once, skips a step with an overflow."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._unscaled = self._stepped = self._overflow = False

    def scale(self, loss: Loss) -> Loss:
        return loss.scaled(SCALE)

    def unscale_(self, optimizer: Optimizer) -> None:
        if self._unscaled:
            raise RuntimeError("unscale_() has already been called on this optimizer since the last update().")
        if self._stepped:
            raise RuntimeError("unscale_() is being called after step().")
        self._overflow = _divide(self._world.parameters, SCALE)
        self._unscaled = True

    def step(self, optimizer: Optimizer) -> None:
        if self._stepped:
            raise RuntimeError("step() has already been called since the last update().")
        if not self._unscaled:
            self.unscale_(optimizer)
        self._stepped = True
        if self._overflow:
            self._world.skipped()
        else:
            optimizer.take()

    def update(self) -> None:
        self._unscaled = self._stepped = self._overflow = False


class Wrapper:
    """Accelerate's Accelerator and Lightning's Fabric: they scale in `backward` and unscale no later than at a step."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._scale = SCALE if world.setting.scaled else 1.0
        self._scaled = False
        self._overflow = False

    def backward(self, loss: Loss) -> None:
        self._scaled = True
        loss.scaled(self._scale).backward()

    def unscale_gradients(self, optimizer: Optimizer | None = None) -> None:
        if self._scaled:
            self._overflow = _divide(self._world.parameters, self._scale)
            self._scaled = False

    def before_step(self) -> bool:
        self.unscale_gradients()
        if self._overflow:
            self._world.skipped()
        return not self._overflow

    def clip_grad_norm_(self, parameters: Iterable[nn.Parameter], max_norm: float, norm_type: float = 2.0) -> Tensor:
        self.unscale_gradients()
        return torch.nn.utils.clip_grad_norm_(parameters, max_norm, norm_type)

    def clip_grad_value_(self, parameters: Iterable[nn.Parameter], clip_value: float) -> None:
        self.unscale_gradients()
        torch.nn.utils.clip_grad_value_(parameters, clip_value)

    def clip_gradients(
        self,
        module: Model,
        optimizer: Optimizer,
        clip_val: float | None = None,
        max_norm: float | None = None,
        norm_type: float = 2.0,
        error_if_nonfinite: bool = True,
    ) -> None:
        if max_norm is not None:
            self.clip_grad_norm_(module.parameters(), max_norm, norm_type)
        if clip_val is not None:
            self.clip_grad_value_(module.parameters(), clip_val)


class Apex:
    """NVIDIA's apex.amp at O2: the optimizer updates FP32 master weights, which get gradients as `scale_loss` exits."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._masters = [nn.Parameter(parameter.detach().clone()) for parameter in world.parameters]

    @contextmanager
    def scale_loss(self, loss: Loss, optimizer: Optimizer) -> Iterator[Loss]:
        optimizer.takes(self._masters)  # as `amp.initialize` has done
        for master in self._masters:
            master.grad = None
        yield loss.scaled(SCALE)
        for parameter, master in zip(self._world.parameters, self._masters, strict=True):
            master.grad = None if parameter.grad is None else parameter.grad / SCALE

    def master_params(self, optimizer: Optimizer) -> Iterator[nn.Parameter]:
        return iter(optimizer._all())


def _divide(parameters: Sequence[nn.Parameter], scale: float) -> bool:
    """Unscales the gradients in place; returns whether one of them is not finite."""
    overflow = False
    for parameter in parameters:
        if parameter.grad is not None:
            overflow = overflow or not bool(parameter.grad.isfinite().all())
            parameter.grad = parameter.grad / scale
    return overflow
