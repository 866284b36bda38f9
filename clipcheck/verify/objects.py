"""The objects for the names of a side that trains."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from clipcheck.verify.ranks import Group, Horovod, Sharded
from clipcheck.verify.stand_ins import Apex, Model, Optimizer, Scaler, World, Wrapper


def objects(world: World, roles: dict[str, str], groups: int) -> dict[str, Any]:
    """The objects for the names of a side, by role; an optimizer has `groups` groups of parameters."""
    kinds = set(roles.values())
    wrapper = Wrapper(world)
    apex = Apex(world)
    optimizer = Optimizer(world, wrapper.before_step if kinds & {"accelerator", "fabric"} else lambda: True, groups)
    made: dict[str, Any] = {
        "model": Model(world),
        "fsdp": Sharded(world),
        "optimizer": optimizer,
        "horovod": Horovod(world, groups=groups),
        "group": Group(world),
        "scaler": Scaler(world),
        "accelerator": wrapper,
        "fabric": wrapper,
        "amp": apex,
        "max_norm": world.aim.limit,
        "max_value": world.aim.limit,
        "count": 2,
        "norm_type": 2.0,
        "switch": False,
        "method": Model(world).parameters,
    }
    flags = iter(world.setting.flags)
    names: dict[str, Any] = {}
    for name, role in roles.items():
        if role in ("flag", "choice"):
            names[name] = _flag(world, next(flags))
        elif role == "parameters":
            names[f"{name}__call"] = _handed(world)
        else:
            names[name] = made[role]
    return names


def _flag(world: World, outcome: str) -> Callable[[], bool]:
    return lambda: outcome == "always" or (outcome == "every second time" and world.batches % 2 == 0)


def _handed(world: World) -> Callable[[], Any]:
    if world.setting.handed == "generator":
        return lambda: (parameter for parameter in world.parameters)
    return lambda: list(world.parameters)
