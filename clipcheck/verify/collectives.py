"""Collective calls, and models and optimizers that are wrapped for several ranks."""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from clipcheck.python.source import Source

_CALLS: dict[str | None, str] = {
    "torch.distributed.all_reduce": "all_reduce",
    "torch.distributed.get_world_size": "get_world_size",
    "torch_xla.core.xla_model.optimizer_step": "optimizer_step",
    "torch_xla.core.xla_model.reduce_gradients": "reduce_gradients",
}
_WRAPPERS = {"FullyShardedDataParallel": "fsdp", "DistributedOptimizer": "horovod"}
_PACKAGES = ("torch.distributed.fsdp", "horovod.")


def collectives(source: Source) -> Iterator[tuple[cst.Call, str]]:
    """The calls of collective functions, each with the method of the stand-in that replaces it."""
    for call in source.nodes(cst.Call):
        kind = _CALLS.get(source.qualified(call.func))
        if kind is not None:
            yield call, kind


def wrapped(source: Source) -> Iterator[tuple[cst.BaseExpression, str]]:
    """The assigned names that hold a model sharded by FSDP1 or a Horovod optimizer."""
    for assign in source.nodes(cst.Assign):
        match assign.value:
            case cst.Call(func=func):
                path = source.origin(func)
                role = _WRAPPERS.get(path.rpartition(".")[2])
                if role is not None and path.startswith(_PACKAGES):
                    yield from ((target.target, role) for target in assign.targets)
