"""A site's experiment: both sides run on every case of the battery, and everything observable is compared."""

from __future__ import annotations

import contextlib
import pkgutil
import warnings
from collections.abc import Callable, Sequence
from functools import cache
from statistics import fmean
from types import CodeType
from typing import Any

import torch
from torch import Tensor

from clipcheck.verify import battery
from clipcheck.verify.allowed import CONSTANTS, FUNCTIONS
from clipcheck.verify.battery import Case
from clipcheck.verify.claims import Answer
from clipcheck.verify.compare import Failed, Note, Seen, compare, excused, is_right
from clipcheck.verify.harness import default_dtype, flat

_WORSE = 1.25
_NAMED = 4


def replay(experiment: dict[str, Any], at: Callable[[str], None]) -> Answer:
    """Runs an experiment on every case; `at` is called with each case before it runs."""
    roles: dict[str, str] = experiment["roles"]
    kept, seeds, norm = experiment["kept"], experiment["seeds"], bool(experiment.get("norm"))
    old, new, exact = (compiled_site(experiment[side]) for side in ("before", "after", "reference"))
    better: dict[str, list[str]] = {}
    changed: dict[str, list[str]] = {}
    errors: dict[torch.dtype, list[tuple[float, float]]] = {}
    raised: dict[str, None] = {}
    count = tried = right = 0
    for case in battery.cases(frozenset(roles.values())):
        at(f"{case.title}, before")
        before = _run(old, case, roles, seeds, kept)
        at(f"{case.title}, after")
        after = _run(new, case, roles, seeds, kept)
        at(f"{case.title} in float64, before")
        reference = _run(exact, case.as_float64(), roles, seeds, kept)
        count += 1
        tried += before.raised is None and any(g is not None for g in case.gradients())
        raised |= {type(side.raised).__name__: None for side in (before, after) if side.raised is not None}
        right += is_right(case, reference, after, norm)
        try:
            note = compare(case, before, after, reference, errors, norm)
        except Failed as failed:
            note = Note(excused(case, before, after) if norm else "")
            if not note.better:
                return Answer(count, _sentences(better, count), case.title, str(failed), *failed.sides)
        for clauses, clause in ((better, note.better), (changed, note.changed)):
            if clause:
                clauses.setdefault(clause, []).append(case.title)
    found = Answer(count, _sentences(better, count), why="; ".join(_sentences(changed, count)))
    if not tried and right < count:
        why = f"it raises {' or '.join(raised)} wherever there is a gradient, so nothing was compared"
        return found._replace(refuted="every case", why=why)
    return _accuracy(found, errors)


def _accuracy(found: Answer, errors: dict[torch.dtype, list[tuple[float, float]]]) -> Answer:
    """The answer if no case failed; it fails if the new side is on average further from float64 than the old one."""
    for dtype, pairs in errors.items():
        ours, theirs = fmean(a for _, a in pairs), fmean(b for b, _ in pairs)
        if ours > _WORSE * theirs + torch.finfo(dtype).eps:
            why = f"further from float64 in {dtype}".replace("torch.", "")
            return found._replace(refuted="all cases", why=why, before=f"{theirs:.2g}", after=f"{ours:.2g}")
    return found


def _sentences(exceptions: dict[str, list[str]], count: int) -> tuple[str, ...]:
    return tuple(f"{clause} {listed(titles, count)}" for clause, titles in exceptions.items())


def listed(titles: Sequence[str], count: int) -> str:
    """The end of a sentence that says which of `count` cases: the first few if there are many."""
    if len(titles) == count:
        return "in every case"
    if len(titles) > _NAMED:
        return f"with {', '.join(titles[: _NAMED - 1])} and {len(titles) - _NAMED + 1} more"
    return "with " + " and ".join(filter(None, [", ".join(titles[:-1]), titles[-1]]))


def compiled_site(side: list[Any]) -> Callable[[dict[str, Any]], Callable[..., Any]]:
    """A factory that makes a side's function from the objects for its names."""
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
    """The objects at the listed paths, without those that this torch or this machine does not have."""
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
) -> Seen:
    objects = battery.build(case, roles)
    try:
        default = torch.float64 if case.dtype is torch.float64 else torch.float32
        with warnings.catch_warnings(), default_dtype(default):
            warnings.simplefilter("ignore")
            kind, result = program(objects.names)(**{name: battery.seed(case) for name in seeds})
    except Exception as error:  # exceptions are part of a side's behavior
        return Seen({}, [], [], error)
    if kind == "locals":
        values = {k: v for k, v in result.items() if k in kept or k.startswith("value__")}
    else:
        values = {"the result": result}
    gradients = [_copy(g) for g in (p.grad for p in objects.parameters)] + [_copy(g) for g in objects.gradients]
    return Seen(
        {_shown(name, values): list(flat(value)) for name, value in values.items()},
        gradients,
        [_copy(p) for p in objects.parameters],
    )


def _shown(name: str, values: dict[str, Any]) -> str:
    """The name of a value for messages: the value of an edited expression has none."""
    alone = sum(other.startswith("value__") for other in values) == 1
    return "the value" if alone and name.startswith("value__") else name.replace("__", " ")


def _copy(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.detach().clone()
