"""Compares what can be observed of both sides of a site in one case: values, types, gradients, parameters, errors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import chain
from typing import NamedTuple

import torch
from torch import Tensor

from clipcheck.verify import battery, distance
from clipcheck.verify.battery import Case
from clipcheck.verify.distance import Different

# As for the fixtures: the rounding of one computation in float32, and three roundings of 2^-9 in low precision.
_TOLERANCE = {torch.float64: 1e-7, torch.float32: 1e-5, torch.bfloat16: 2.0**-7, torch.float16: 2.0**-9}

_EPSILON = 1e-6  # torch's, in `clip_grad_norm_`


class Seen(NamedTuple):
    """What can be observed of one run: values by name, gradients and parameters afterwards, or the exception."""

    values: dict[str, list[object]]
    gradients: list[Tensor | None]
    parameters: list[Tensor | None]
    raised: BaseException | None = None


class Failed(Exception):
    def __init__(self, why: str, before: object, after: object) -> None:
        super().__init__(why)
        self.sides = _shown(before), _shown(after)


class Note(NamedTuple):
    """A remark on a case in which a fix holds: what the old side does wrong, and any other difference."""

    better: str = ""
    changed: str = ""


def compare(
    case: Case,
    before: Seen,
    after: Seen,
    reference: Seen,
    errors: dict[torch.dtype, list[tuple[float, float]]],
    unsafe: bool,
) -> Note:
    """A remark on a case; None if both sides agree. Raises Failed."""
    if before.raised is not None:
        return Note("" if after.raised is not None else type(before.raised).__name__)
    if after.raised is not None:
        raise Failed("raises", before.values, f"{type(after.raised).__name__}: {after.raised}")
    changed = _kinds(case, before, after, unsafe)
    dtype = _coarsest(case)
    limit = _TOLERANCE[dtype]
    apart = _apart(before, after)
    off, ours = (_apart(reference, side) if reference.raised is None else math.nan for side in (before, after))
    if apart <= limit:
        if dtype is not torch.float64 and math.isfinite(off + ours):  # nothing is more accurate than float64
            errors.setdefault(dtype, []).append((off, ours))
        return Note(changed=changed)
    if ours <= limit < off:
        return Note(_loss(before, reference) or f"an error of {off:.2g}", changed)
    if case.norm_type == math.inf and not _is_largest(case, before):
        return Note("a result that is not a norm", changed)
    if unsafe and case.container == "a generator" and _clips_what_is_left(case, before, after):
        return Note("gradients that stay above max_norm", changed)
    if unsafe and (other := _as_torch_clips(case, before, after, limit)):
        return Note(changed=other)
    raise Failed(f"differs by {_ratio(apart)}", *_first_difference(before, after, limit))


def _as_torch_clips(case: Case, before: Seen, after: Seen, limit: float) -> str:
    """How torch's clip differs by design from multiplying by `max_norm / norm` above `max_norm`; "" if it does not.

    It multiplies by `max_norm / (norm + 1e-6)`, and by NaN if the norm is NaN.
    """
    norm = _norm(_wide(case.gradients()), case.norm_type)
    if _apart(_times(before, norm / (norm + _EPSILON)), after) <= limit:
        if math.isfinite(norm):
            return "gradients are smaller, since torch adds 1e-6 to the norm,"
        return "all gradients become NaN"
    return ""


def _times(seen: Seen, factor: float) -> Seen:
    return seen._replace(gradients=[None if g is None else distance.wide(g) * factor for g in seen.gradients])


def _clips_what_is_left(case: Case, before: Seen, after: Seen) -> bool:
    """Whether the new side clips, to the harness's limit, gradients that the old one read but did not change."""
    given = battery.build(case, {}).gradients
    norm = _norm(_wide(given))
    clipped = _times(Seen({}, given, []), min(1.0, case.ratio * norm / (norm + _EPSILON)))
    return _unchanged(given, before) and _apart(clipped, _first_of(after, len(given))) <= _TOLERANCE[_coarsest(case)]


def _loss(before: Seen, reference: Seen) -> str:
    """How a run loses a value that float64 keeps: by overflow or underflow; the empty string for neither."""
    numbers, exact = _numbers(before), _numbers(reference)
    if any(math.isfinite(b) and not math.isfinite(a) for a, b in zip(numbers, exact, strict=False)):
        return "overflow"
    if any(a == 0 != b for a, b in zip(numbers, exact, strict=False)):
        return "underflow to 0"
    return ""


def _numbers(seen: Seen) -> list[float]:
    found: list[float] = []
    for value in chain(*seen.values.values(), seen.gradients):
        match value:
            case Tensor():
                found += distance.wide(value).flatten().tolist()
            case int() | float():
                found.append(float(value))
    return found


def _kinds(case: Case, before: Seen, after: Seen, unsafe: bool) -> str:
    """Checks that every value keeps its kind; returns a clause that describes a tolerated difference. Raises Failed."""
    changed = ""
    for name, old in before.values.items():
        if name not in after.values:
            raise Failed(f"`{name}` is read later, and the new code does not assign it", old, "unbound")
        new = after.values[name]
        if len(old) != len(new):
            raise Failed(f"`{name}` holds {len(new)} values instead of {len(old)}", old, new)
        for one, other in zip(old, new, strict=True):
            try:
                distance.same_kind(one, other)
            except Different as error:
                changed = _tolerated(case, one, other, unsafe)
                if not changed:
                    raise Failed(str(error), one, other) from None
                changed = f"`{name}` {changed}"
    return changed


def _tolerated(case: Case, one: object, other: object, unsafe: bool) -> str:
    """Which difference in kind is tolerated, as a clause; "" if there is none.

    Without any gradient, a zero of any kind is accepted. A result may leave the graph, and a result of low-precision
    gradients may have higher precision. An unsafe fix may do more: a tensor of one element may become a number."""
    if unsafe and isinstance(one, Tensor) and one.dim() == 0 and distance.is_scalar(other):
        return f"is {distance.kind(other)} instead of a tensor"
    if all(g is None for g in case.gradients()) and distance.of_values(one, other) == 0:
        return f"is {one!r} before and {other!r} after"
    if not (isinstance(one, Tensor) and isinstance(other, Tensor)) or one.shape != other.shape:
        return ""
    if one.requires_grad and not other.requires_grad:
        return "is part of the graph before only"
    low = any(g is not None and g.dtype in battery.LOW for g in battery.build(case, {}).gradients)
    if distance.is_wider(other, one) and (low or unsafe):
        return f"is {other.dtype} instead of {one.dtype}".replace("torch.", "")
    return ""


def _coarsest(case: Case) -> torch.dtype:
    dtypes = {case.dtype, *(g.dtype for g in case.gradients() if g is not None)}
    if case.dtype is torch.float64:
        return torch.float64
    return max(dtypes, key=lambda dtype: _TOLERANCE[dtype])


def _apart(one: Seen, other: Seen) -> float:
    """The largest relative difference of values, gradients and parameters; infinite if they cannot be compared."""
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


def _is_largest(case: Case, seen: Seen) -> bool:
    """Whether one of a run's numbers is the largest element, that is, the inf norm."""
    largest = _norm(_wide(case.gradients()), math.inf)
    return any(math.isclose(number, largest, rel_tol=1e-3) for number in _numbers(seen._replace(gradients=[])))


def _is_norm(case: Case, seen: Seen) -> bool:
    """Whether a run returns nothing but the norm of the gradients, each counted once."""
    once = {id(g): distance.wide(g) for g in case.gradients() if g is not None}
    return _gives(case, seen, [_norm([*once.values()], case.norm_type)])


def _is_norm_of_list(case: Case, seen: Seen, gradients: list[Tensor | None]) -> bool:
    """Whether a run returns nothing but the norm that a clip of the list returns, which may overflow its dtype."""
    wide = _wide(gradients)
    return _gives(case, seen, [_norm(wide, case.norm_type), _norm([g.to(case.dtype) for g in wide], case.norm_type)])


def _gives(case: Case, seen: Seen, norms: list[float]) -> bool:
    """Whether every number of a run is one of these."""
    numbers = _numbers(seen._replace(gradients=[]))
    near = _TOLERANCE[_coarsest(case)]

    def agree(norm: float) -> bool:
        return all(n == norm or math.isclose(n, norm, rel_tol=near) or (n != n and norm != norm) for n in numbers)

    return seen.raised is None and bool(numbers) and any(map(agree, norms))


def _as_listed(case: Case, seen: Seen) -> list[Tensor | None]:
    """A run's gradients in the order of the list, repeats included."""
    every = case.gradients()
    keys = [index if g is None else id(g) for index, g in enumerate(every)]
    places = {key: index for index, key in enumerate(dict.fromkeys(keys))}
    return [seen.gradients[places[key]] for key in keys]


def _wide(gradients: Sequence[Tensor | None]) -> list[Tensor]:
    """The gradients that are not None, in float64."""
    return [distance.wide(gradient) for gradient in gradients if gradient is not None]


def _norm(gradients: list[Tensor], norm_type: float = 2.0) -> float:
    norms = [torch.linalg.vector_norm(gradient, norm_type) for gradient in gradients]
    return float(torch.linalg.vector_norm(torch.stack(norms), norm_type)) if norms else 0.0


def is_right(case: Case, reference: Seen, after: Seen, norm: bool) -> bool:
    """Whether the new side returns the right result although the old one raises."""
    if norm:
        return _is_norm(case, after)
    return reference.raised is None and after.raised is None and _apart(reference, after) == 0


def excused(case: Case, before: Seen, after: Seen) -> str:
    """What is wrong with the old side if the new one returns the norm and changes the gradients no more than it.

    A clause for a fix that changes training; otherwise empty."""
    given = battery.build(case, {}).gradients
    if after.raised is not None or not after.values:
        return ""
    if not _unchanged(given, after):
        same = _apart(before._replace(values={}), after._replace(values={})) == 0
        late = same and _is_norm_of_list(case, before, _as_listed(case, before))
        return (
            "a norm of gradients that are clipped" if late and _is_norm_of_list(case, after, case.gradients()) else ""
        )
    if not _unchanged(given, before):
        finite = all(bool(g.isfinite().all()) for g in _wide(given))
        same = _apart(before._replace(gradients=[], parameters=[]), after._replace(gradients=[], parameters=[])) == 0
        return "" if finite or not same else "gradients that all become NaN"
    return "a result that is not a norm" if _is_norm(case, after) and not _is_norm(case, before) else ""


def _unchanged(given: list[Tensor | None], seen: Seen) -> bool:
    return _apart(Seen({}, given, []), _first_of(seen, len(given))) == 0


def _first_of(seen: Seen, count: int) -> Seen:
    """A run's gradients, one per parameter."""
    return Seen({}, seen.gradients[:count], [])


def _first_difference(before: Seen, after: Seen, limit: float) -> tuple[str, str]:
    for name, old in before.values.items():
        one, other = (Seen({name: side.values.get(name, [])}, [], []) for side in (before, after))
        if not _apart(one, other) <= limit:
            return f"{name} = {_shown(old)}", f"{name} = {_shown(after.values.get(name))}"
    for left, right in zip(before.gradients, after.gradients, strict=False):
        if not _apart(Seen({}, [left], []), Seen({}, [right], [])) <= limit:
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
