"""What clipping adds to a whole training step: forward, backward, clip and optimizer, with each clip in turn.

Under torchrun the model can be sharded, as FSDP2 does it, and a step takes as long as on the slowest process.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from clipcheck.bench import measure, peers, sharded
from clipcheck.bench.models import TRAININGS, Block, Bottleneck, Training

NO_CLIP = "no clip"
CLIPS: dict[str, peers.Clip] = {
    NO_CLIP: lambda params, max_norm: None,
    "torch": peers.CLIPS["torch"],
    "clipcheck": peers.CLIPS["clipcheck"],
    "norm(2).item()**2 loop": peers.CLIPS["norm(2).item()**2 loop"],
}
SHARDED = (NO_CLIP, "torch", "clipcheck")  # a loop over local norms clips by another norm on each process
MAX_NORM = 1.0
HEADER = f"{'model':18}{'tensors':>8}  {'clip':24}{'step, ms':>10}{'added':>9}"


class Step(NamedTuple):
    """One model with one clip."""

    model: str
    parameters: int  # tensors
    clip: str
    wall_ms: float  # of a whole step, the median
    added: float  # to the step without a clip, as a part of it: the median over the rounds


def steps(name: str, device: torch.device, rounds: int, is_sharded: bool = False) -> Iterator[Step]:
    """Trains a model with each clip in turn, one step a round, and yields what a step took."""
    torch.manual_seed(0)
    training = TRAININGS[name](device)
    if is_sharded:
        _shard_(training.model)
    params: list[Tensor] = [*training.model.parameters()]
    optimizer = torch.optim.AdamW(params, lr=1e-5, fused=device.type == "cuda")
    calls = {
        clip: _step(training, params, optimizer, CLIPS[clip], device) for clip in (SHARDED if is_sharded else CLIPS)
    }
    for _ in range(2):
        for call in calls.values():
            call()
    timings = measure.interleaved(calls, device, sharded.start_together if is_sharded else _nothing, rounds, True)
    if is_sharded:
        timings = {clip: sharded.of_the_slowest(timing, device) for clip, timing in timings.items()}
    for clip, timing in timings.items():
        yield Step(name, len(params), clip, timing.wall, timing.ratio(timings[NO_CLIP]) - 1)


def line(step: Step) -> str:
    """Returns what a step took, under `HEADER`."""
    added = "" if step.clip == NO_CLIP else f"{step.added:+9.1%}"
    return f"{step.model:18}{step.parameters:8}  {step.clip:24}{step.wall_ms:10.2f}{added}"


def _step(
    training: Training, params: list[Tensor], optimizer: Any, clip: peers.Clip, device: torch.device
) -> Callable[[], None]:
    mixed = torch.autocast("cuda", torch.bfloat16) if device.type == "cuda" else contextlib.nullcontext()

    def step() -> None:
        optimizer.zero_grad()
        with mixed:
            loss = training.loss()
        loss.backward()  # type: ignore[no-untyped-call]
        clip(params, MAX_NORM)
        optimizer.step()

    return step


def _shard_(model: torch.nn.Module) -> None:
    """Shards a model over all processes as FSDP2's guide says: each block, and what is left as a whole."""
    from torch.distributed.fsdp import fully_shard

    for module in model.modules():
        if isinstance(module, (Block, Bottleneck)):
            fully_shard(module)
    fully_shard(model)


def _nothing() -> None:
    pass
