"""A fixture's experiment: both sides of a pair run under every setting, which shows whether its claim holds."""

from __future__ import annotations

import ast
import inspect
import math
from collections.abc import Callable, Iterable, Iterator
from itertools import product
from statistics import fmean, median
from typing import NamedTuple

import torch
from torch import Tensor

from clipcheck.verify import distance
from clipcheck.verify.claims import Claim, Nearer, Outcome
from clipcheck.verify.distance import Apart, Different
from clipcheck.verify.harness import OPTIMIZERS, NotRunnable, Setting, Trace, Unavailable, load, run

# The largest relative difference that still counts as the same. For float64 it is the rounding error of float32, since
# a program may convert to float32 in between.
TOLERANCE = {torch.float64: 1e-7, torch.float32: 1e-5}
# In bfloat16 torch rounds the norm, the coefficient and the product by up to 2^-9 each. This applies to the first step;
# later the parameters differ in their last bits, and two right runs diverge: each from the float64 run, in the worst
# case in opposite directions.
FIRST_STEP_BFLOAT16 = 2.0**-7
# A mean error is worse than another if it is larger by this factor and by half a unit in the last place.
WORSE = 1.25
BOUND_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 2.0**-7}

Program = Callable[..., object]


class Refuted(Exception):
    """The claim does not hold; the message says where."""


def judge(claim: Claim, before: str, after: str, to_torch: bool = False) -> Outcome:
    """Tests the claim of a pair.

    With `to_torch`, the variant for `--target torch`, `after` need not be as close to float64 as `before`.
    """
    try:
        old, new = load(before, "fixture_before"), load(after, "fixture_after")
        match claim.kind:
            case "same":
                return _same(old, new, bitwise=is_rename(before, after), nearness=not to_torch)
            case "bounded":
                return _bounded(old, new)
            case "finite":
                return _finite(old, new)
            case "raises":
                return _raises(old, new)
    except Unavailable as error:
        return Outcome(None, str(error))
    except (Refuted, NotRunnable) as error:
        return Outcome(False, str(error))
    except Different as error:  # between precisions: a program may act differently in another one
        return Outcome(False, f"before in another precision: {error}")
    except Exception as error:
        return Outcome(False, f"a program does not load: {_name(error)}")


# --- same ---------------------------------------------------------------------------------------------------------


class _Errors(NamedTuple):
    """Distances in one setting: between the sides, and of each side from its float64 run; and the seconds of each."""

    setting: Setting
    apart: float
    before: Apart
    after: Apart
    seconds: tuple[float, float]


def _same(old: Program, new: Program, bitwise: bool, nearness: bool) -> Outcome:
    rows: list[_Errors] = []
    notes: dict[str, None] = {}
    for optimizer, seed in product(OPTIMIZERS, range(3)):
        exact = _ordinary(seed, optimizer, torch.float64)
        reference, after = run(old, exact), run(new, exact)
        if reference.raised is not None:
            if after.raised is None:
                notes[f"before raised {_name(reference.raised)} with {_circumstance(exact)}, after does not"] = None
            continue
        _compare(exact, reference, after, bitwise)
        for dtype in (torch.float32, torch.bfloat16):
            setting = exact._replace(dtype=dtype)
            one, other = run(old, setting), run(new, setting)
            if one.raised is not None:
                notes[f"before raised {_name(one.raised)} in {dtype}".replace("torch.", "")] = None
                continue
            before_off = distance.of_traces(reference, one, strict_types=False)
            apart = _compare(setting, one, other, bitwise, noise=max(before_off))
            after_off = distance.of_traces(reference, other, strict_types=False)
            rows.append(_Errors(setting, apart, before_off, after_off, (one.seconds, other.seconds)))
    float32 = [row for row in rows if row.setting.dtype is torch.float32]
    if not float32:
        raise Refuted("before raised under every setting: " + "; ".join(notes))
    nearer = _nearer(rows, demanded=nearness)
    return Outcome(
        True,
        difference=max(row.apart for row in float32),
        nearer=nearer,
        speed=_speed(float32),
        notes=tuple(notes),
    )


def _ordinary(seed: int, optimizer: str, dtype: torch.dtype) -> Setting:
    """The settings for `same`.

    Always above `max_norm`, some small enough to reveal an epsilon; around it, with a parameter that gets no gradient;
    never above it."""
    match seed % 3:
        case 0:
            return Setting(seed, optimizer, dtype, max_norm=0.05, scale=1.0, swing=100.0)
        case 1:
            return Setting(seed, optimizer, dtype, max_norm=5.0, swing=10.0, unused=True)
        case _:
            return Setting(seed, optimizer, dtype, max_norm=1e4, swing=3.0)


def _circumstance(setting: Setting) -> str:
    return "a parameter without gradient" if setting.unused else "ordinary gradients"


def _speed(rows: list[_Errors]) -> float:
    """The time of the new side divided by that of the old one: the median over optimizers, the fastest run of each."""
    fastest: dict[str, tuple[float, float]] = {}
    for row in rows:
        before, after = fastest.get(row.setting.optimizer, row.seconds)
        fastest[row.setting.optimizer] = min(before, row.seconds[0]), min(after, row.seconds[1])
    return median(after / before for before, after in fastest.values())


def _compare(setting: Setting, one: Trace, other: Trace, bitwise: bool, noise: float = 0.0) -> float:
    """The difference of two runs; `noise` is the effect of rounding on the first of them. Raises Refuted."""
    if other.raised is not None:
        raise Refuted(f"after raised {_name(other.raised)} ({setting.title}), before did not")
    try:
        apart = max(distance.of_traces(one, other))
        first = distance.of_first_steps(one, other)
    except Different as error:
        raise Refuted(f"{error} ({setting.title})") from None
    low_precision = setting.dtype is torch.bfloat16
    limit = 0.0 if bitwise else max(2 * noise, FIRST_STEP_BFLOAT16) if low_precision else TOLERANCE[setting.dtype]
    if not apart <= limit:
        raise Refuted(f"differs by {apart:.2g}, allowed is {limit:.2g} ({setting.title})")
    if low_precision and not first <= FIRST_STEP_BFLOAT16:
        raise Refuted(
            f"differs by {first:.2g} at the first step, allowed is {FIRST_STEP_BFLOAT16:.2g} ({setting.title})"
        )
    return apart


def _nearer(rows: list[_Errors], demanded: bool) -> Nearer:
    """Which side is closer to the float64 runs, on average over the settings of each precision.

    Recorded values are judged separately from gradients and parameters: a more accurate norm shows long before it
    affects training.
    """
    found: set[Nearer] = set()
    for dtype in (torch.float32, torch.bfloat16):
        here = [row for row in rows if row.setting.dtype is dtype]
        for part in Apart._fields if here else ():
            before, after = (fmean(getattr(getattr(row, side), part) for row in here) for side in ("before", "after"))
            if demanded and after > WORSE * before + torch.finfo(dtype).eps / 2:
                raise Refuted(
                    f"further from float64 than before in {dtype}: {after:.2g} against {before:.2g}".replace(
                        "torch.", ""
                    )
                )
            if max(before, after) > torch.finfo(dtype).eps / 8:
                found |= {"after"} if after * WORSE < before else {"before"} if before * WORSE < after else set()
    return found.pop() if len(found) == 1 else "equal"


def is_rename(before: str, after: str) -> bool:
    """Whether the two differ only in names and both use torch: then they must agree to the last bit."""
    return "clipcheck" not in after and _shape(before) == _shape(after)


def _shape(text: str) -> list[tuple[type, object]]:
    nodes = [
        node for node in ast.walk(ast.parse(text)) if not isinstance(node, (ast.Import, ast.ImportFrom, ast.alias))
    ]
    return [(type(node), getattr(node, "value", None) if isinstance(node, ast.Constant) else None) for node in nodes]


# --- bounded ------------------------------------------------------------------------------------------------------


def _bounded(old: Program, new: Program) -> Outcome:
    """The gradients are far above `max_norm` at every step, so a right clip scales them to `max_norm`."""
    broken: dict[str, bool] = {}
    worst = 0.0
    for setting in _excessive():
        one, other = run(old, setting), run(new, setting)
        if one.raised is None and other.raised is not None:
            raise Refuted(f"after raised {_name(other.raised)} ({setting.title})")
        if one.raised is not None:
            continue
        fault = _missed(other, setting)
        if fault:
            raise Refuted(f"after: {fault} ({setting.title})")
        worst = max(worst, *(abs(norm / setting.max_norm - 1) for norm in _joint(other)))
        broken[setting.optimizer] = broken.get(setting.optimizer, False) or bool(_missed(one, setting))
    if not broken:
        raise Refuted("before raised under every setting")
    for optimizer, missed in broken.items():
        if not missed:
            raise Refuted(f"before stays within max_norm as well ({optimizer}): there was nothing to fix")
    return Outcome(True, difference=worst)


def _excessive() -> Iterator[Setting]:
    limits = (0.5, 0.25, 2.0)  # numbers that differ from their squares
    for optimizer, (seed, limit), dtype in product(OPTIMIZERS, enumerate(limits), BOUND_TOLERANCE):
        yield Setting(seed, optimizer, dtype, limit, scale=100.0)


def _missed(trace: Trace, setting: Setting, order: float = 2.0) -> str:
    """How the gradients of a run miss the limit: above it, or all far below it."""
    slack = BOUND_TOLERANCE[setting.dtype]
    single = [_total(grads, order) for _, grads in trace.steps]
    if not single:
        return "no optimizer step"
    over = max(single) / setting.max_norm
    if not over <= 1 + slack:
        return f"a gradient of norm {max(single):.4g} reaches a step, max_norm is {setting.max_norm:g}"
    reached = max(*single, *_joint(trace, order)) / setting.max_norm
    if not reached >= 1 - slack:
        return f"all gradients end below {reached:.2g} of max_norm, although they were above it"
    return ""


def _joint(trace: Trace, order: float = 2.0) -> list[float]:
    """Norms over optimizers that step one after the other: several may share one clip."""
    rounds: list[dict[int, float]] = [{}]
    for number, grads in trace.steps:
        if number in rounds[-1]:
            rounds.append({})
        rounds[-1][number] = _total(grads, order)
    return [_combined(norms.values(), order) for norms in rounds]


def _total(grads: list[Tensor | None], order: float) -> float:
    return _combined((float(torch.linalg.vector_norm(g.double(), order)) for g in grads if g is not None), order)


def _combined(norms: Iterable[float], order: float) -> float:
    return max(norms, default=0.0) if order == math.inf else math.hypot(*norms)


# --- finite and raises --------------------------------------------------------------------------------------------


def _finite(old: Program, new: Program) -> Outcome:
    for optimizer, seed in product(OPTIMIZERS, range(3)):
        for dtype in (torch.float32, torch.bfloat16):
            setting = Setting(seed, optimizer, dtype, max_norm=0.5, overflow=True)
            one, other = run(old, setting), run(new, setting)
            if other.raised is not None:
                raise Refuted(f"after raised {_name(other.raised)} ({setting.title})")
            if not _all_finite(other):
                raise Refuted(f"after: a NaN or an infinity reaches a step or the parameters ({setting.title})")
            if one.raised is None and _all_finite(one):
                raise Refuted(f"before stays finite as well ({setting.title}): there was nothing to fix")
    return Outcome(True)


def _all_finite(trace: Trace) -> bool:
    tensors = [*trace.parameters, *(g for _, grads in trace.steps for g in grads if g is not None)]
    return bool(trace.steps) and all(bool(t.isfinite().all()) for t in tensors)


def _raises(old: Program, new: Program) -> Outcome:
    """Running without an error is not enough: if there is a limit, it must be respected, as by a `bounded` fix."""
    raised: dict[str, None] = {}
    for optimizer, seed, overflow in product(OPTIMIZERS, range(3), (False, True)):
        setting = Setting(seed, optimizer, torch.float32, max_norm=0.5, overflow=overflow)
        one, other = run(old, setting), run(new, setting)
        if other.raised is not None:
            raise Refuted(f"after raised {_name(other.raised)} ({setting.title})")
        if not other.steps:
            raise Refuted(f"after: no optimizer step ({setting.title})")
        if one.raised is not None:
            raised[f"before raised {_name(one.raised)}"] = None
    if not raised:
        raise Refuted("before does not raise either: there was nothing to fix")
    if "max_norm" in inspect.signature(new).parameters:
        for setting in _excessive():
            if setting.dtype is torch.float32:
                trace = run(new, setting)
                fault = _missed(trace, setting)
                if fault and _missed(trace, setting, order=math.inf):
                    raise Refuted(f"after: {fault} ({setting.title})")
    return Outcome(True, notes=tuple(raised))


def _name(error: BaseException) -> str:
    first = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {first[:80]}" if first else type(error).__name__
