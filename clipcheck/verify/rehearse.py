"""A training experiment: both sides train in every setting, and each step is compared with the right one."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from itertools import chain, product
from typing import Any, NamedTuple, TypeAlias

import torch

from clipcheck.verify.claims import Answer
from clipcheck.verify.objects import objects
from clipcheck.verify.ranks import OutOfStep, together
from clipcheck.verify.replay import compiled_site, listed
from clipcheck.verify.stand_ins import BATCHES, TURNS, Aim, Optimizer, Setting, World

_TOLERANCE = 1e-3  # the effect of torch's epsilon of 1e-6 on the smallest gradients tried, and float32 rounding
_SIZES = {
    "gradients above max_norm": (40.0, 20.0, 30.0),
    "gradients around max_norm": (20.0, 0.25, 3.0, 0.5),
    "gradients below max_norm": (0.1, 0.02, 0.05),
}
# Outcomes of a test that may change between turns, and of one that cannot.
_OUTCOMES = {"flag": ("always", "every second time", "never"), "choice": ("always", "never")}


Program: TypeAlias = "Callable[[dict[str, Any]], Callable[..., Any]]"


class _Run(NamedTuple):
    """A side's steps, and what is wrong with them, as a clause; empty if every step is right.

    `clears` says after which batches it cleared the gradients, `lost` whether no step had used them by then.
    """

    steps: list[list[list[float]]]
    batches: int
    fault: str
    raised: bool
    clears: list[int]
    lost: bool


def rehearse(experiment: dict[str, Any], at: Callable[[str], None]) -> Answer:
    """Trains both sides in every setting; `at` is called with each setting before it runs.

    The new side must take the right steps in every setting in which it differs from the old one, and either everywhere
    or in at least one setting in which the old side is wrong: a fix that keeps all faults has not been verified.
    """
    roles: dict[str, str] = experiment["roles"]
    old, new = (compiled_site(experiment[side]) for side in ("before", "after"))
    experiment = experiment | {"sums": False, "drops": False}
    if experiment["ranks"] > 1:
        experiment["sums"] = _adds_up(old, experiment)
    better: dict[str, dict[str, None]] = {}
    count = right = 0
    for setting in _settings(roles):
        before, after = _both(old, new, setting, experiment, at)
        if _drop_the_same(before, after):  # the fix cannot decide what these are for
            before, after = _both(old, new, setting, experiment | {"drops": True}, at)
        count += 1
        if not before.raised and not after.raised and _amount(before) != _amount(after):
            return Answer(count, (), setting.title, "another number of steps", *map(str, map(_amount, (before, after))))
        if not after.fault:
            right += 1
            if before.fault:
                better.setdefault(before.fault, {})[setting.title] = None
        elif _is_open(before, after, setting):
            count -= 1
        elif before.raised and not after.raised and _is_scaled_outside(experiment):
            return Answer(count, (), "every case", "whether code around it unscales the gradients is not known")
        elif not _same(before, after):
            shown = before.fault or "the right steps"
            return Answer(count, (), setting.title, after.fault, shown, after.fault)
    if not better and right < count:
        return Answer(count, (), "every case", "the steps are wrong after the fix as well")
    return Answer(count, tuple(f"{fault} {listed(list(titles), count)}" for fault, titles in better.items()))


def _both(
    old: Program, new: Program, setting: Setting, experiment: dict[str, Any], at: Callable[[str], None]
) -> tuple[_Run, _Run]:
    at(f"{setting.title}, before")
    before = _run(old, setting, experiment)
    at(f"{setting.title}, after")
    return before, _run(new, setting, experiment)


def _is_open(before: _Run, after: _Run, setting: Setting) -> bool:
    """Whether the cause of a wrong step is unknown because the old side raised before it could take that step.

    The cause may be a test around the clip, or the way in which the scaler handles an overflow.
    """
    return before.raised and not after.raised and (math.inf in setting.sizes or "every second time" in setting.flags)


def _is_scaled_outside(experiment: dict[str, Any]) -> bool:
    """Whether the backward is none of a side's own, so that its caller may unscale the gradients as well."""
    return "backward" in experiment["implied"] and "scaler" in experiment["roles"].values()


def _drop_the_same(before: _Run, after: _Run) -> bool:
    """Whether both sides clear unused gradients at the same times, as far as the old side got."""
    return before.lost and after.lost and after.clears[: len(before.clears)] == before.clears


def _adds_up(old: Program, experiment: dict[str, Any]) -> bool:
    """Whether ranks use the sum of their gradients, not the mean: what the old side does when it clips nothing."""
    below = next(setting for setting in _settings(experiment["roles"]) if setting.title == "gradients below max_norm")
    return not _run(old, below, experiment | {"sums": True}).fault


def _settings(roles: dict[str, str]) -> Iterator[Setting]:
    kinds = list(roles.values())
    flags = product(*(_OUTCOMES[kind] for kind in kinds if kind in _OUTCOMES))
    handed = ("list", "generator") if "parameters" in kinds else ("list",)
    scaled = (True, False) if {"accelerator", "fabric"} & set(kinds) else (True,)
    for (title, sizes), outcomes, container, scales in product(_SIZES.items(), flags, handed, scaled):
        plain = Setting(title, sizes, outcomes, container, scales)
        yield plain
        if title == "gradients above max_norm":
            yield plain._replace(title="a parameter without gradient", unused=True)
            if {"scaler", "accelerator", "fabric"} & set(kinds):
                yield plain._replace(title="an overflow", sizes=(math.inf, *sizes))


def _run(program: Program, setting: Setting, experiment: dict[str, Any]) -> _Run:
    roles, count = experiment["roles"], experiment["ranks"]
    aim = Aim(*(experiment[key] for key in ("clip", "norm_type", "limit", "clears", "sums", "drops")))
    sharded = "fsdp" in roles.values()
    worlds = [World(setting, aim, rank, count, sharded) for rank in range(count)]
    sites = [program(_names(world, experiment)) for world in worlds]
    raised = ""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            runs = [site() for site in sites]
            if count > 1:
                together(runs)
    except OutOfStep:
        raised = "ranks that wait for one another forever"
    except Exception as error:  # exceptions are part of a side's behavior
        raised = type(error).__name__
    steps = [
        [[] if g is None else g.flatten().tolist() for g in step.taken] for world in worlds for step in world.steps
    ]
    fault = raised or next(filter(None, map(_fault, worlds)), "")
    batches, lost = sum(world.batches for world in worlds), any(world.lost for world in worlds)
    return _Run(steps, batches, fault, bool(raised), worlds[0].cleared_after, lost)


def _names(world: World, experiment: dict[str, Any]) -> dict[str, Any]:
    """The objects for the names of a side."""
    names = objects(world, experiment["roles"], experiment["groups"])
    own = {
        "loss__0__call": world.loss,
        "batches__0__call": lambda: list(range(BATCHES)),
        "turns__own__call": lambda: _turns(world, experiment["implied"], _backward(world, experiment["roles"], names)),
    }
    return names | own


def _backward(world: World, roles: dict[str, str], names: dict[str, Any]) -> Callable[[], None]:
    """How the harness runs backward for a side: through its scaler or wrapper, if it has one."""
    for name, role in roles.items():
        if role == "scaler":
            return lambda: names[name].scale(world.loss()).backward()
        if role in ("accelerator", "fabric"):
            return lambda: names[name].backward(world.loss())
    return lambda: world.loss().backward()


def _turns(world: World, implied: list[str], backward: Callable[[], None]) -> Iterator[int]:
    """The turns of a side, each completed with what the side leaves to its caller."""
    optimizer = Optimizer(world)
    for turn in range(TURNS):
        if "backward" in implied:
            backward()
        yield turn
        if "step" in implied:
            optimizer.take()
            optimizer.zero_grad()


def _fault(world: World) -> str:
    """What is wrong with the steps of a side; "" for nothing."""
    if not world.steps and not world.skips:
        return "no step"
    for step in world.steps:
        for taken, wanted in zip(step.taken, step.wanted, strict=True):
            got = torch.zeros_like(wanted) if taken is None else taken.double()
            if not torch.allclose(got, wanted, rtol=_TOLERANCE, atol=_TOLERANCE * 0.01 * world.aim.limit):
                return _miss(step.taken, step.wanted, world.aim.clip)
    return "lost gradients" if world.lost else ""


def _miss(taken: list[torch.Tensor | None], wanted: list[torch.Tensor], clip: str) -> str:
    """How a step differs from the right one."""
    norm, right = (_norm([g for g in side if g is not None]) for side in (taken, wanted))
    if not math.isfinite(norm):
        return "a step with a NaN or an infinity"
    if norm == 0 < right:
        return "a step without gradients"
    if norm > right * 1.01:
        return "a step above max_norm" if clip == "norm" else "a step that is too large"
    if norm < right * 0.99:
        return "a step that is far too small" if norm < right / 2 else "a step that is too small"
    return "a step in a wrong direction"


def _norm(gradients: list[torch.Tensor]) -> float:
    return math.hypot(*(float(torch.linalg.vector_norm(gradient.double())) for gradient in gradients))


def _same(before: _Run, after: _Run) -> bool:
    """Whether both sides took the same steps, except for rounding."""
    if before.fault != after.fault or list(map(len, before.steps)) != list(map(len, after.steps)):
        return False
    return all(map(_is_near, chain(*before.steps), chain(*after.steps)))


def _is_near(one: list[float], other: list[float]) -> bool:
    left, right = torch.tensor(one), torch.tensor(other)
    return left.shape == right.shape and torch.allclose(left, right, rtol=1e-5, atol=0.0, equal_nan=True)


def _amount(run: _Run) -> tuple[int, int]:
    return len(run.steps), run.batches
