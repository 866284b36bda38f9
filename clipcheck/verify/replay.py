"""A site's experiment: both sides of it run on every case of the battery, and all that can be seen of them compared."""

from __future__ import annotations

import contextlib
import math
import pkgutil
import warnings
from collections.abc import Callable, Sequence
from functools import cache
from statistics import fmean
from types import CodeType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from clipcheck.verify import battery, distance
from clipcheck.verify.allowed import CONSTANTS, FUNCTIONS
from clipcheck.verify.battery import Case
from clipcheck.verify.claims import Answer
from clipcheck.verify.distance import Different
from clipcheck.verify.harness import default_dtype, flat

# As for the fixtures: float32's own rounding for one computation, and three roundings of 2^-9 in low precision.
_TOLERANCE = {torch.float64: 1e-7, torch.float32: 1e-5, torch.bfloat16: 2.0**-7, torch.float16: 2.0**-9}
_WORSE = 1.25
_NAMED = 4


class _Seen(NamedTuple):
    """What can be seen of one run: values by name, gradients and parameters afterwards, or what it raised."""

    values: dict[str, list[object]]
    gradients: list[Tensor | None]
    parameters: list[Tensor | None]
    raised: BaseException | None = None


class _Failed(Exception):
    def __init__(self, why: str, before: object = "", after: object = "") -> None:
        super().__init__(why)
        self.sides = _shown(before), _shown(after)


def replay(experiment: dict[str, Any], at: Callable[[str], None]) -> Answer:
    """Try an experiment on every case; `at` is told each case before it runs."""
    roles: dict[str, str] = experiment["roles"]
    kept, seeds = experiment["kept"], experiment["seeds"]
    old, new, exact = (compiled_site(experiment[side]) for side in ("before", "after", "reference"))
    exceptions: dict[str, list[str]] = {}
    errors: dict[torch.dtype, list[tuple[float, float]]] = {}
    count = tried = right = 0
    for case in battery.cases(frozenset(roles.values())):
        at(f"{case.title}, before")
        before = _run(old, case, roles, seeds, kept)
        at(f"{case.title}, after")
        after = _run(new, case, roles, seeds, kept)
        at(f"{case.title} in float64, before")
        reference = _run(exact, case.as_float64(), roles, seeds, kept)
        count += 1
        tried += before.raised is None
        right += _is_norm(case, after) if experiment.get("norm") else _apart(reference, after) == 0
        try:
            note = _compare(case, before, after, reference, errors)
        except _Failed as failed:
            note = _excused(case, before, after) if experiment.get("norm") else ""
            if note:
                exceptions.setdefault(note, []).append(case.title)
                continue
            return Answer(count, _sentences(exceptions, count), case.title, str(failed), *failed.sides)
        if note:
            exceptions.setdefault(note, []).append(case.title)
    for dtype, pairs in errors.items():
        ours, theirs = fmean(a for _, a in pairs), fmean(b for b, _ in pairs)
        if ours > _WORSE * theirs + torch.finfo(dtype).eps:
            why = f"further from float64 in {dtype}".replace("torch.", "")
            return Answer(count, _sentences(exceptions, count), "all cases", why, f"{theirs:.2g}", f"{ours:.2g}")
    if not tried and right < (count if reference.raised is None else 1):
        return Answer(
            count, _sentences(exceptions, count), "every case", "before raised in all of them, so nothing was compared"
        )
    return Answer(count, _sentences(exceptions, count))


def _sentences(exceptions: dict[str, list[str]], count: int) -> tuple[str, ...]:
    return tuple(f"{clause} {listed(titles, count)}" for clause, titles in exceptions.items())


def listed(titles: Sequence[str], count: int) -> str:
    """The end of a sentence that says with which of `count` cases, the first few of many."""
    if len(titles) == count:
        return "in every case"
    if len(titles) > _NAMED:
        return f"with {', '.join(titles[: _NAMED - 1])} and {len(titles) - _NAMED + 1} more"
    return "with " + " and ".join(filter(None, [", ".join(titles[:-1]), titles[-1]]))


def compiled_site(side: list[Any]) -> Callable[[dict[str, Any]], Callable[..., Any]]:
    """What makes a side's function, given what stands in its names."""
    code, paths = side
    missing = [path for path in paths.values() if path not in libraries()]
    if missing:
        return lambda names: _raising(ImportError(f"{missing[0]} is not part of what is installed"))
    compiled = _compile(code)
    listed = {name: libraries()[path] for name, path in paths.items()}
    return lambda names: _define(compiled, {"__builtins__": {}, "bound__now": locals, **listed, **names})


def _raising(error: Exception) -> Callable[..., Any]:
    def site(**_: object) -> None:
        raise error

    return site


def _compile(code: str) -> CodeType:
    return compile(code, "<site>", "exec")


def _define(compiled: CodeType, space: dict[str, Any]) -> Callable[..., Any]:
    exec(compiled, space)
    return space["site"]  # type: ignore[no-any-return]


COMPILERS = frozenset([_compile.__code__, _define.__code__])


@cache
def libraries() -> dict[str, Any]:
    """What the listed paths stand for, without those that this torch or this machine does not have."""
    found = {}
    for path in (*FUNCTIONS, *CONSTANTS):
        with contextlib.suppress(ImportError, AttributeError):
            found[path] = pkgutil.resolve_name(path)
    return found


def _run(
    program: Callable[[dict[str, Any]], Callable[..., Any]],
    case: Case,
    roles: dict[str, str],
    seeds: list[str],
    kept: list[str],
) -> _Seen:
    objects = battery.build(case, roles)
    try:
        default = torch.float64 if case.dtype is torch.float64 else torch.float32
        with warnings.catch_warnings(), default_dtype(default):
            warnings.simplefilter("ignore")
            kind, result = program(objects.names)(**{name: battery.seed(case) for name in seeds})
    except Exception as error:  # what a side raises is part of what it does
        return _Seen({}, [], [], error)
    if kind == "locals":
        values = {k: v for k, v in result.items() if k in kept or k.startswith("value__")}
    else:
        values = {"the result": result}
    gradients = [_copy(g) for g in (p.grad for p in objects.parameters)] + [_copy(g) for g in objects.gradients]
    return _Seen(
        {k.replace("value__0", "the value").replace("__", " "): list(flat(v)) for k, v in values.items()},
        gradients,
        [_copy(p) for p in objects.parameters],
    )


def _copy(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.detach().clone()


def _compare(
    case: Case, before: _Seen, after: _Seen, reference: _Seen, errors: dict[torch.dtype, list[tuple[float, float]]]
) -> str:
    """What only the old side does wrong in a case, as a clause; empty where both sides agree. Raises _Failed."""
    if before.raised is not None:
        return "" if after.raised is not None else type(before.raised).__name__
    if after.raised is not None:
        raise _Failed("raises", before.values, f"{type(after.raised).__name__}: {after.raised}")
    note = _kinds(before, after, idle=all(g is None for g in case.gradients()))
    dtype = _coarsest(case)
    limit = _TOLERANCE[dtype]
    apart = _apart(before, after)
    off, ours = (_apart(reference, side) if reference.raised is None else math.nan for side in (before, after))
    if apart <= limit:
        if (
            dtype is not torch.float64 and math.isfinite(off) and math.isfinite(ours)
        ):  # nothing is more accurate than float64
            errors.setdefault(dtype, []).append((off, ours))
        return note
    if ours <= limit < off:
        return _loss(before, reference) or f"an error of {off:.2g}"
    if case.norm_type == math.inf and not _is_largest(case, before):
        return "a result that is no norm"
    raise _Failed(f"differs by {_ratio(apart)}", *_first_difference(before, after, limit))


def _loss(before: _Seen, reference: _Seen) -> str:
    """How a run lost what one in float64 keeps: by overflow or underflow, the empty string for neither."""
    numbers, exact = _numbers(before), _numbers(reference)
    if any(math.isfinite(b) and not math.isfinite(a) for a, b in zip(numbers, exact, strict=False)):
        return "overflow"
    if any(a == 0 != b for a, b in zip(numbers, exact, strict=False)):
        return "underflow to 0"
    return ""


def _numbers(seen: _Seen) -> list[float]:
    values = [value for kept in seen.values.values() for value in kept]
    tensors = [value if isinstance(value, Tensor) else torch.tensor(value) for value in values if _is_number(value)]
    tensors += [g.to_dense() if g.is_sparse else g for g in seen.gradients if g is not None]
    return [float(number) for tensor in tensors for number in tensor.flatten()[:1000]]


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float, Tensor))


def _kinds(before: _Seen, after: _Seen, idle: bool) -> str:
    """Checks that the values keep their Python types; where no gradient is, a zero of any type will do. Raises _Failed."""
    for name, old in before.values.items():
        if name not in after.values:
            raise _Failed(f"`{name}` is read later, and after no longer binds it", old, "unbound")
        new = after.values[name]
        if len(old) != len(new):
            raise _Failed(f"`{name}` holds {len(new)} values instead of {len(old)}", old, new)
        for one, other in zip(old, new, strict=True):
            try:
                distance.same_kind(one, other)
            except Different as error:
                if idle and distance.of_values(one, other) == 0:
                    return f"`{name}` is {one!r} before and {other!r} after"
                if (
                    isinstance(one, Tensor)
                    and isinstance(other, Tensor)
                    and one.requires_grad
                    and not other.requires_grad
                ):
                    return f"`{name}` is part of the graph before only"
                raise _Failed(str(error), one, other) from None
    return ""


def _coarsest(case: Case) -> torch.dtype:
    dtypes = {case.dtype, *(g.dtype for g in case.gradients() if g is not None)}
    if case.dtype is torch.float64:
        return torch.float64
    return max(dtypes, key=lambda dtype: _TOLERANCE[dtype])


def _apart(one: _Seen, other: _Seen) -> float:
    """The largest relative difference of values, gradients and parameters, infinite where they cannot be compared."""
    try:
        largest = max(
            distance.of_tensors(one.gradients, other.gradients), distance.of_tensors(one.parameters, other.parameters)
        )
        for name, old in one.values.items():
            new = other.values.get(name)
            if new is None or len(old) != len(new):
                return math.inf
            largest = max([largest, *(distance.of_values(a, b) for a, b in zip(old, new, strict=True))])
        return largest
    except Different:
        return math.inf


def _is_largest(case: Case, seen: _Seen) -> bool:
    """Whether one of a run's numbers is the largest element, the norm of type inf."""
    largest = max(float(g.abs().max()) for g in case.gradients() if g is not None)  # clipcheck: ignore[CLIP001]
    return any(math.isclose(number, largest, rel_tol=1e-3) for number in _numbers(seen._replace(gradients=[])))


def _is_norm(case: Case, seen: _Seen) -> bool:
    """Whether all that a run gives is the norm of the gradients."""
    given = {id(g): g for g in case.gradients() if g is not None}
    norms = [torch.linalg.vector_norm(distance.wide(g), case.norm_type) for g in given.values()]
    norm = float(torch.linalg.vector_norm(torch.stack(norms), case.norm_type)) if norms else 0.0
    numbers = _numbers(seen._replace(gradients=[]))
    near = _TOLERANCE[_coarsest(case)]
    agree = all(n == norm or math.isclose(n, norm, rel_tol=near) or (n != n and norm != norm) for n in numbers)
    return seen.raised is None and bool(numbers) and agree


def _excused(case: Case, before: _Seen, after: _Seen) -> str:
    """What is wrong with the old side of a fix that changes training, where the new one gives the norm and changes no
    gradient: a clause, empty where that is not so."""
    given = [None if g is None else g.detach() for g in battery.build(case, {}).gradients]
    if after.raised is not None or not after.values or not _unchanged(given, after):
        return ""
    if not _unchanged(given, before):
        finite = all(bool(distance.wide(g).isfinite().all()) for g in given if g is not None)
        same = _apart(before._replace(gradients=[], parameters=[]), after._replace(gradients=[], parameters=[])) == 0
        return "" if finite or not same else "gradients that all become NaN"
    return "a result that is no norm" if _is_norm(case, after) and not _is_norm(case, before) else ""


def _unchanged(given: list[Tensor | None], seen: _Seen) -> bool:
    return _apart(_Seen({}, given, []), _Seen({}, seen.gradients[len(seen.gradients) - len(given) :], [])) == 0


def _first_difference(before: _Seen, after: _Seen, limit: float) -> tuple[str, str]:
    for name, old in before.values.items():
        one, other = (_Seen({name: side.values.get(name, [])}, [], []) for side in (before, after))
        if not _apart(one, other) <= limit:
            return f"{name} = {_shown(old)}", f"{name} = {_shown(after.values.get(name))}"
    for left, right in zip(before.gradients, after.gradients, strict=False):
        if not _apart(_Seen({}, [left], []), _Seen({}, [right], [])) <= limit:
            return f"gradient = {_shown(left)}", f"gradient = {_shown(right)}"
    return "other parameters", "other parameters"


def _shown(value: object) -> str:
    match value:
        case Tensor():
            flat_values = value.detach().to_dense().flatten() if value.is_sparse else value.detach().flatten()
            numbers = ", ".join(f"{float(v):.6g}" for v in flat_values[:4])
            more = ", …" if value.numel() > 4 else ""
            return f"tensor({numbers}{more})"
        case float():
            return f"{value:.9g}"
        case list() if len(value) == 1:
            return _shown(value[0])
        case list():
            return f"[{', '.join(_shown(v) for v in value[:4])}{', …' if len(value) > 4 else ''}]"
        case dict():
            return ", ".join(f"{k} = {_shown(v)}" for k, v in value.items())
    return str(value)[:120]


def _ratio(ratio: float) -> str:
    return f"{ratio:.2g}" if math.isfinite(ratio) else "an infinity or a NaN"
