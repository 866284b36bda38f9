"""How a claim is judged by what two programs did: what may differ, by how much, and which one is nearer to float64."""

from __future__ import annotations

import math
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="needs the extra clipcheck[torch]")

from clipcheck.verify import trial  # noqa: E402
from clipcheck.verify.claims import Claim, Outcome  # noqa: E402
from clipcheck.verify.distance import Apart, of_traces  # noqa: E402
from clipcheck.verify.harness import OPTIMIZERS, Setting, Trace, load, run  # noqa: E402
from clipcheck.verify.trial import Refuted, is_rename, judge  # noqa: E402

BFLOAT16 = 2.0**-7
PLAIN = Setting(0, "SGD", torch.float32, 0.5)
LOW = PLAIN._replace(dtype=torch.bfloat16)
WIDE = PLAIN._replace(dtype=torch.float64)
ERROR = ValueError("no\nreason")


def vector(*numbers: float) -> torch.Tensor:
    return torch.tensor(numbers)


def trace(*norms: float, records: tuple[object, ...] = (), parameter: float = 1.0, **more: Any) -> Trace:
    """A run whose steps had gradients of these norms."""
    return Trace([(0, [vector(norm), None]) for norm in norms], list(records), parameters=[vector(parameter)], **more)


# --- the same -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("setting", "limit"), [(WIDE, 1e-7), (PLAIN, 1e-5), (LOW, BFLOAT16)])
def test_what_rounding_may_do(setting: Setting, limit: float) -> None:
    near, far = (trace(1.0, parameter=1.0 + part * limit) for part in (0.9, 1.1))
    near.parameters, far.parameters = ([p.double() for p in t.parameters] for t in (near, far))
    near.parameters[0][0], far.parameters[0][0] = 1.0 + 0.9 * limit, 1.0 + 1.1 * limit
    assert trial._compare(setting, trace(1.0), near, False) == pytest.approx(0.9 * limit, rel=0.01)
    with pytest.raises(Refuted, match=rf"^differs by .*, allowed is .* \({setting.title}\)$"):
        trial._compare(setting, trace(1.0), far, False)
    assert trial._compare(setting, trace(1.0), trace(1.0), True) == 0.0
    with pytest.raises(Refuted, match="allowed is 0 "):
        trial._compare(setting, trace(1.0), near, True)


def test_after_the_first_step_two_runs_in_bfloat16_part_as_each_does_from_float64() -> None:
    one, other = trace(1.0, 1.0), trace(1.0, 1.05)
    assert trial._compare(LOW, one, other, False, noise=0.03) == pytest.approx(0.05)
    with pytest.raises(Refuted, match=r"allowed is 0\.04"):
        trial._compare(LOW, one, other, False, noise=0.02)
    with pytest.raises(Refuted, match=r"at the first step, allowed is 0\.0078"):
        trial._compare(LOW, one, trace(1.05, 1.0), False, noise=0.03)
    with pytest.raises(Refuted):
        trial._compare(PLAIN, one, other, False, noise=0.03)  # in float32 they do not


def test_what_cannot_be_compared_is_refuted() -> None:
    with pytest.raises(Refuted, match=r"1 optimizer steps against 2 \(seed 0, SGD, float32, max_norm 0.5\)"):
        trial._compare(PLAIN, trace(1.0), trace(1.0, 1.0), False)
    with pytest.raises(Refuted, match=r"after raised ValueError: no \(seed 0.*\), before did not"):
        trial._compare(PLAIN, trace(1.0), trace(raised=ERROR), False)
    with pytest.raises(Refuted):
        trial._compare(PLAIN, trace(1.0), trace(math.nan), False)


def rows(dtype: torch.dtype, *pairs: tuple[Apart, Apart], optimizer: str = "SGD") -> list[trial._Errors]:
    setting = PLAIN._replace(dtype=dtype, optimizer=optimizer)
    return [trial._Errors(setting, 0.0, before, after, (1.0, 1.0)) for before, after in pairs]


@pytest.mark.parametrize(
    ("before", "after", "nearer"),
    [
        (Apart(4e-7, 1e-7), Apart(1e-7, 1e-7), "after"),
        (Apart(1e-7, 4e-7), Apart(1e-7, 1e-7), "after"),
        (Apart(1e-7, 1e-7), Apart(1.5e-7, 1e-7), "before"),  # half a unit further is not too far
        (Apart(4e-7, 1e-7), Apart(1e-7, 1.5e-7), "equal"),  # one by this measure, the other by that
        (Apart(1.2e-7, 1e-7), Apart(1e-7, 1e-7), "equal"),  # not by a quarter
        (Apart(1e-8, 1e-9), Apart(1e-9, 1e-8), "equal"),  # less than rounding
    ],
)
def test_which_side_is_nearer_to_float64(before: Apart, after: Apart, nearer: str) -> None:
    assert trial._nearer(rows(torch.float32, (before, after)), demanded=True) == nearer


def test_averages_over_the_settings_of_a_precision_count() -> None:
    good, bad = Apart(1e-7, 1e-7), Apart(5e-7, 1e-7)
    both = rows(torch.float32, (bad, good), (good, bad))
    assert trial._nearer(both, demanded=True) == "equal"
    low = rows(torch.bfloat16, (Apart(4e-2, 0.0), Apart(1e-2, 0.0)))
    assert trial._nearer([*both, *low], demanded=True) == "after"
    assert trial._nearer([*rows(torch.float32, (good, Apart(1.5e-7, 1e-7))), *low], demanded=True) == "equal"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_further_from_float64_is_refuted_where_it_is_demanded(dtype: torch.dtype) -> None:
    unit = torch.finfo(dtype).eps
    worse = rows(dtype, (Apart(2 * unit, 0.0), Apart(3.1 * unit, 0.0)))
    name = str(dtype).removeprefix("torch.")
    with pytest.raises(Refuted, match=f"^further from float64 than before in {name}: .* against "):
        trial._nearer(worse, demanded=True)
    assert trial._nearer(worse, demanded=False) == "before"
    trial._nearer(rows(dtype, (Apart(2 * unit, 0.0), Apart(2.9 * unit, 0.0))), demanded=True)


def test_the_speed_is_the_median_of_the_optimizers_fastest_runs() -> None:
    def timed(optimizer: str, *seconds: tuple[float, float]) -> list[trial._Errors]:
        setting = PLAIN._replace(optimizer=optimizer)
        return [trial._Errors(setting, 0.0, Apart(0, 0), Apart(0, 0), pair) for pair in seconds]

    every = [*timed("SGD", (2.0, 9.0), (4.0, 1.0)), *timed("AdamW", (1.0, 3.0)), *timed("momentum", (1.0, 7.0))]
    assert trial._speed(every) == 3.0  # of 0.5, 3 and 7


def test_the_settings_of_an_ordinary_run() -> None:
    found = [trial._ordinary(seed, "SGD", torch.float32) for seed in range(3)]
    assert [(s.seed, s.optimizer, s.dtype) for s in found] == [(seed, "SGD", torch.float32) for seed in range(3)]
    train = load("def train(model, optimizer, batches, loss_fn):\n    for x, y in batches:\n        optimizer.zero_grad()\n        loss_fn(model(x), y).backward()\n        optimizer.step()\n", "x")  # fmt: skip
    ratios = [[trial._total(grads, 2.0) / s.max_norm for _, grads in run(train, s).steps] for s in found]
    assert min(ratios[0]) > 1  # always above the limit
    assert min(ratios[1]) < 1 < max(ratios[1])  # around it
    assert max(ratios[2]) < 1e-2  # never near it
    assert [s.unused for s in found] == [False, True, False]
    assert [trial._circumstance(s) for s in found] == ["ordinary gradients", "a parameter without gradient", "ordinary gradients"]  # fmt: skip


def test_runs_in_float32_stay_near_those_in_float64() -> None:
    """So that their distance says something: both have the same model and the same batches."""
    text = "def train(model, optimizer, batches, loss_fn, record):\n    for x, y in batches:\n        optimizer.zero_grad()\n        loss = loss_fn(model(x), y)\n        loss.backward()\n        record(loss)\n        optimizer.step()\n"  # fmt: skip
    train = load(text, "x")
    for seed in range(3):
        exact = run(train, trial._ordinary(seed, "SGD", torch.float64))
        for dtype, limit in ((torch.float32, 1e-5), (torch.bfloat16, 0.1)):
            apart = of_traces(exact, run(train, trial._ordinary(seed, "SGD", dtype)), strict_types=False)
            assert 0 < max(apart) < limit


# --- a rename ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ("import torch\nf(x, 1)", "g(y, 1)", True),
        ("from a import b\nb(1)", "import c\nc(1)", True),
        ("f(1)", "f(2)", False),
        ("f(1)", "f(1.0)", True),  # equal numbers
        ("f(x)", "f(x, y)", False),
        ("f(x)", "f.g(x)", False),
        ("f(x)", "clipcheck(x)", False),
    ],
)
def test_a_rename_changes_names_only(before: str, after: str, expected: bool) -> None:
    assert is_rename(before, after) is expected


# --- the limit --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("norms", "fault"),
    [
        ((0.5,), ""),
        ((0.1, 0.5, 0.3), ""),
        ((0.50004,), ""),
        ((0.49996,), ""),
        ((0.5001,), "a gradient of norm 0.5001 reaches a step, max_norm is 0.5"),
        ((0.5, 0.7), "a gradient of norm 0.7 reaches a step, max_norm is 0.5"),
        ((0.4, 0.2), "all gradients end below 0.8 of max_norm, although they were above it"),
        ((), "no optimizer step"),
        ((math.nan,), "a gradient of norm nan reaches a step, max_norm is 0.5"),
    ],
)
def test_how_gradients_miss_the_limit(norms: tuple[float, ...], fault: str) -> None:
    assert trial._missed(trace(*norms), PLAIN) == fault


def test_in_bfloat16_they_may_miss_it_by_more() -> None:
    assert trial._missed(trace(0.5 * (1 + 0.9 * BFLOAT16)), LOW) == ""
    assert trial._missed(trace(0.5 * (1 + 1.1 * BFLOAT16)), LOW) != ""
    assert trial._missed(trace(0.5 * (1 - 1.1 * BFLOAT16)), LOW) != ""


def test_one_limit_for_several_optimizers_or_for_the_largest_element() -> None:
    shared = Trace([(0, [vector(0.3)]), (1, [vector(0.4)]), (0, [vector(0.1)]), (1, [vector(0.1)])])
    assert trial._joint(shared) == pytest.approx([0.5, math.hypot(0.1, 0.1)])
    assert trial._missed(shared, PLAIN) == ""
    largest = Trace([(0, [vector(0.5, 0.5), None, vector(0.2)])])
    assert trial._missed(largest, PLAIN) != ""
    assert trial._missed(largest, PLAIN, order=math.inf) == ""
    assert trial._joint(largest, math.inf) == [0.5]
    assert trial._total([None], 2.0) == trial._total([], math.inf) == 0.0
    assert trial._total([vector(3.0), None, vector(4.0)], 2.0) == 5.0


def test_the_gradients_of_a_bounded_run_are_far_above_the_limit() -> None:
    found = list(trial._excessive())
    assert len(found) == len(set(found)) == 3 * 3 * 2
    assert {s.max_norm for s in found} == {0.5, 0.25, 2.0}
    assert {s.seed for s in found} == {0, 1, 2}
    assert {s.dtype for s in found} == {torch.float32, torch.bfloat16}
    assert {s.optimizer for s in found} == {*OPTIMIZERS}
    assert {s.scale for s in found} == {100.0}


def programs(monkeypatch: pytest.MonkeyPatch, before: Any, after: Any) -> tuple[Any, Any]:
    """Two programs whose runs are made up, by the setting."""
    made = {"before": before, "after": after}
    monkeypatch.setattr(trial, "run", lambda name, setting: made[name](setting))
    return "before", "after"


def test_a_bound_is_kept_where_before_it_was_not(monkeypatch: pytest.MonkeyPatch) -> None:
    found = trial._bounded(*programs(monkeypatch, lambda s: trace(9.0), lambda s: trace(s.max_norm * 1.00001)))
    assert found == Outcome(True, difference=pytest.approx(1e-5, rel=1e-2))


def test_where_before_raises_a_bound_shows_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Refuted, match="before raised under every setting"):
        trial._bounded(*programs(monkeypatch, lambda s: trace(raised=ERROR), lambda s: trace(s.max_norm)))
    with pytest.raises(Refuted, match=r"^after raised ValueError: no \("):
        trial._bounded(*programs(monkeypatch, lambda s: trace(9.0), lambda s: trace(raised=ERROR)))
    assert trial._bounded(
        *programs(
            monkeypatch,
            lambda s: trace(raised=ERROR) if s.dtype is torch.bfloat16 else trace(9.0),
            lambda s: trace(raised=ERROR) if s.dtype is torch.bfloat16 else trace(s.max_norm),
        )
    ).holds


def test_a_bound_that_was_kept_with_one_optimizer_is_no_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    def before(setting: Setting) -> Trace:
        return trace(setting.max_norm if setting.optimizer == "momentum" else 9.0)

    with pytest.raises(Refuted, match=r"before stays within max_norm as well \(momentum\): there was nothing to fix"):
        trial._bounded(*programs(monkeypatch, before, lambda s: trace(s.max_norm)))
    once = lambda s: trace(9.0 if s.seed == 0 else s.max_norm)  # noqa: E731
    assert trial._bounded(*programs(monkeypatch, once, lambda s: trace(s.max_norm))).holds
    with pytest.raises(Refuted, match=r"^after: a gradient of norm 9 reaches a step"):
        trial._bounded(*programs(monkeypatch, lambda s: trace(9.0), lambda s: trace(9.0)))


# --- finite and raises ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "expected"),
    [
        (trace(1.0), True),
        (trace(math.inf), False),
        (trace(1.0, math.nan), False),
        (trace(1.0, parameter=math.nan), False),
        (trace(), False),  # no step at all
    ],
)
def test_a_run_is_finite(one: Trace, expected: bool) -> None:
    assert trial._all_finite(one) is expected


def test_a_run_that_was_not_finite_has_to_become_so(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Setting] = []
    good, bad = lambda s: asked.append(s) or trace(1.0), lambda s: trace(math.nan)
    assert trial._finite(*programs(monkeypatch, bad, good)) == Outcome(True)
    assert len(set(asked)) == 3 * 3 * 2
    assert {(s.max_norm, s.overflow) for s in asked} == {(0.5, True)}
    assert {s.dtype for s in asked} == {torch.float32, torch.bfloat16}
    assert trial._finite(*programs(monkeypatch, lambda s: trace(1.0, raised=ERROR), good)).holds
    for before, after, why in (
        (bad, bad, "after: a NaN or an infinity reaches a step or the parameters"),
        (good, good, "before stays finite as well"),
        (bad, lambda s: trace(1.0, raised=ERROR), "after raised ValueError: no"),
    ):
        with pytest.raises(Refuted, match=why):
            trial._finite(*programs(monkeypatch, before, after))


def raises(monkeypatch: pytest.MonkeyPatch, before: Any, after: Any, limited: bool = True) -> Outcome:
    made = {id(old := lambda: None): before}
    new = (lambda max_norm: None) if limited else (lambda: None)
    monkeypatch.setattr(trial, "run", lambda program, setting: made.get(id(program), after)(setting))
    return trial._raises(old, new)


def test_what_raised_has_to_run_and_to_keep_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    stops, fine = lambda s: trace(raised=ERROR), lambda s: trace(s.max_norm)
    free = lambda s: trace(9.0)  # noqa: E731
    assert raises(monkeypatch, stops, fine) == Outcome(True, notes=("before raised ValueError: no",))
    assert raises(monkeypatch, lambda s: stops(s) if s.overflow else fine(s), fine).holds  # somewhere is enough
    assert raises(monkeypatch, stops, free, limited=False).holds  # it takes no limit
    by_value = lambda s: Trace([(0, [vector(s.max_norm, s.max_norm)])])  # noqa: E731
    assert raises(monkeypatch, stops, by_value).holds
    for before, after, why in (
        (fine, fine, "before does not raise either: there was nothing to fix"),
        (stops, stops, "after raised ValueError: no"),
        (stops, free, r"after: a gradient of norm 9 reaches a step, max_norm is 0.5 \(seed 0"),
        (stops, lambda s: trace(), r"after: no optimizer step \(seed 0"),
        (stops, lambda s: trace(raised=ERROR) if s.overflow else fine(s), "after raised"),
    ):
        with pytest.raises(Refuted, match=why):
            raises(monkeypatch, before, after)


# --- a judgment -------------------------------------------------------------------------------------------------------------


def test_an_error_is_told_in_its_first_line() -> None:
    assert trial._name(ERROR) == "ValueError: no"
    assert trial._name(ValueError()) == trial._name(ValueError("\n")) == "ValueError"
    assert trial._name(ValueError("x" * 99)) == f"ValueError: {'x' * 80}"


TRAIN = "import torch\ndef train(model, optimizer, batches, loss_fn, record):\n    for x, y in batches:\n        optimizer.zero_grad()\n        loss_fn(model(x), y).backward()\n        {}\n        optimizer.step()\n"


def judged(before: str, after: str, to_torch: bool = False) -> Outcome:
    return judge(Claim("same"), TRAIN.format(before), TRAIN.format(after), to_torch)


def test_what_a_judgment_says() -> None:
    assert judged("record(1)", "record(1)")[:4] == (True, "", 0.0, "equal")
    assert judged("record(1)", "record(2)").reason.startswith("differs by 1, allowed is 1e-07 (seed 0, SGD, float64")
    assert (
        judge(Claim("same"), "1 / 0", "x = 1").reason == "a program does not load: ZeroDivisionError: division by zero"
    )
    found = judged("if x.dtype is torch.bfloat16: raise ValueError('low')", "pass")
    assert (found.holds, found.notes) == (True, ("before raised ValueError: low in bfloat16",))
    found = judged("if x.dtype is not torch.float32: record(1)", "if x.dtype is not torch.float32: record(1)")
    assert (found.holds, found.reason[:27]) == (False, "before in another precision")


def test_for_torch_it_need_not_be_nearer() -> None:
    right, off = "record(loss_fn(model(x), y).double().item())", "record((loss_fn(model(x), y).double() * {}).item())"
    worse = off.format("(1 + 4e-6 * (x.dtype is torch.float32))")
    assert judged(right, worse).reason.startswith("further from float64 than before in float32")
    assert judged(right, worse, to_torch=True).holds
