"""How far apart two results are: equal ones first, then rounding, then what cannot be compared."""

from __future__ import annotations

import math
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="needs the extra clipcheck[torch]")

from clipcheck.verify.distance import (  # noqa: E402
    Apart,
    Different,
    is_wider,
    of_first_steps,
    of_tensors,
    of_traces,
    of_values,
    same_kind,
    wide,
)
from clipcheck.verify.harness import Trace  # noqa: E402

INF, NAN = math.inf, math.nan


def vector(*numbers: float, dtype: Any = torch.float32) -> torch.Tensor:
    return torch.tensor(numbers, dtype=dtype)


def sparse(*numbers: float) -> torch.Tensor:
    return vector(*numbers).to_sparse()


# --- values -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (1.5, 1.5),
        (0, 0.0),
        (True, 1),
        (2.0, vector(2.0)[0]),
        (NAN, NAN),
        (INF, INF),
        (vector(1, NAN, -INF), vector(1, NAN, -INF)),
        (vector(), vector()),
        (vector(3, 4), vector(3, 4, dtype=torch.float64)),
        (sparse(0, 4), vector(0, 4)),
        (vector(1 + 2j, dtype=torch.complex64), vector(1 + 2j, dtype=torch.complex128)),
        ("text", "text"),
        (None, None),
    ],
)
def test_equal_values_have_no_distance(one: Any, other: Any) -> None:
    assert of_values(one, other) == of_values(other, one) == 0.0


@pytest.mark.parametrize(
    ("one", "other", "distance"),
    [
        (2.0, 3.0, 0.5),
        (-2.0, 2.0, 2.0),
        (vector(3, 4), vector(3, 5), 0.2),  # the difference's norm by the first one's
        (vector(3, 4, INF), vector(3, 5, INF), 0.2),
        (vector(4 + 3j, dtype=torch.complex64), vector(4 + 2j, dtype=torch.complex64), 0.2),
        (0.0, 1.0, INF),
        (1.0, 0.0, 1.0),
        (1.0, NAN, INF),
        (NAN, INF, INF),
        (INF, -INF, INF),
        (vector(1, INF), vector(1, 2), INF),
        ("text", "other", INF),
        ("1", 1, INF),
        (None, 0, INF),
    ],
)
def test_the_distance_is_relative_to_the_first(one: Any, other: Any, distance: float) -> None:
    assert of_values(one, other) == pytest.approx(distance)


def test_values_that_are_equal_but_of_another_type_are_not_the_same() -> None:
    assert of_values((1, 2), [1, 2]) == INF
    assert of_values([1, 2], [1, 2]) == 0.0


def test_numbers_of_numpy_are_numbers() -> None:
    numpy = pytest.importorskip("numpy")
    assert of_values(numpy.float32(2.0), 3.0) == 0.5
    assert of_values(numpy.array([3.0, 4.0]), vector(3, 5)) == pytest.approx(0.2)
    assert of_values(numpy.array(["a"]), 1.0) == INF


@pytest.mark.parametrize(("one", "other"), [(vector(1, 2), vector(1, 2, 3)), (1.0, vector(1.0))])
def test_values_of_other_shapes_are_not_compared(one: Any, other: Any) -> None:
    with pytest.raises(Different, match=r"^shape .* against "):
        of_values(one, other)


# --- gradients --------------------------------------------------------------------------------------------------------


def test_the_largest_difference_of_any_tensor_counts() -> None:
    assert of_tensors([], []) == 0.0
    assert of_tensors([vector(2), None, vector(4)], [vector(2), None, vector(4)]) == 0.0
    assert of_tensors([vector(2), vector(4)], [vector(3), vector(4)]) == 0.5
    assert of_tensors([vector(2), vector(4)], [vector(2.2), vector(5)]) == pytest.approx(0.25)


def test_a_tiny_tensor_is_measured_relative_to_a_thousandth_of_all() -> None:
    rounding = [vector(3000, 4000), vector(1e-9)], [vector(3000, 4000), vector(2e-9)]
    assert of_tensors(*rounding) == pytest.approx(1e-9 / 5)  # 5000 in all, and a thousandth of that
    assert of_tensors([vector(1e-9)], [vector(2e-9)]) == pytest.approx(1.0)
    alone = [vector(INF), vector(1e-9)], [vector(INF), vector(2e-9)]
    assert of_tensors(*alone) == pytest.approx(1.0)  # an infinity makes nothing small


@pytest.mark.parametrize(
    ("one", "other", "message"),
    [
        ([vector(1)], [vector(1), vector(1)], "1 tensors against 2"),
        ([vector(1)], [None], "a gradient is None on one side only"),
        ([None], [vector(1)], "a gradient is None on one side only"),
        ([vector(1, 2)], [vector(1)], r"shape \(2,\) against \(1,\)"),
    ],
)
def test_gradients_that_cannot_be_compared(one: Any, other: Any, message: str) -> None:
    with pytest.raises(Different, match=f"^{message}$"):
        of_tensors(one, other)


def test_wide_numbers_are_dense_and_in_double_precision() -> None:
    dense = wide(sparse(0, 2).requires_grad_())
    assert (dense.dtype, dense.layout, dense.requires_grad) == (torch.float64, torch.strided, False)
    assert wide(vector(1, dtype=torch.bfloat16)).dtype is torch.float64
    assert wide(vector(1j, dtype=torch.complex64)).dtype is torch.complex128


# --- kinds ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "other"),
    [(1.0, 2.0), (1, 5), ("a", "b"), (None, None), (vector(1), vector(2)), (sparse(1), vector(1))],
)
def test_values_of_one_kind(one: Any, other: Any) -> None:
    same_kind(one, other)


@pytest.mark.parametrize(
    ("one", "other", "message"),
    [
        (1.0, 1, "a float became an int"),
        (1.0, vector(1), "a float became a torch.Tensor"),
        (vector(1), vector(1).requires_grad_(), "a tensor is part of the graph on one side only"),
        (vector(1), vector(1, 2), r"shape \(1,\) against \(2,\)"),
        (vector(1), vector(1, dtype=torch.float64), "float32 became float64"),
        (vector(1), vector(1).to("meta"), "cpu became meta"),
    ],
)
def test_values_of_other_kinds(one: Any, other: Any, message: str) -> None:
    with pytest.raises(Different, match=f"^{message}$"):
        same_kind(one, other)


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        (torch.float64, torch.float32, True),
        (torch.float32, torch.bfloat16, True),
        (torch.float16, torch.bfloat16, True),
        (torch.float32, torch.float32, False),
        (torch.bfloat16, torch.float32, False),
        (torch.float32, torch.int64, False),
        (torch.int64, torch.bfloat16, False),
    ],
)
def test_one_precision_is_higher_than_another(one: torch.dtype, other: torch.dtype, expected: bool) -> None:
    assert is_wider(torch.ones(1, dtype=one), torch.ones(1, dtype=other)) is expected


# --- runs -------------------------------------------------------------------------------------------------------------


def run(*records: object, steps: Any = ((0, (1.0,)),), parameters: tuple[float, ...] = (1.0,), early: int = 0) -> Trace:
    """A run that recorded these values, with its steps as the optimizer's number and one gradient."""
    trace = Trace()
    trace.records = list(records)
    trace.steps = [(number, [vector(*grads)]) for number, grads in steps]
    trace.parameters = [vector(*parameters)]
    trace.early = early
    return trace


def test_training_and_records_are_measured_apart() -> None:
    assert of_traces(run(2.0), run(2.0)) == Apart(0.0, 0.0)
    assert of_traces(run(2.0), run(3.0)) == Apart(0.0, 0.5)
    assert of_traces(run(), run(parameters=(1.5,))) == Apart(0.5, 0.0)
    assert of_traces(run(), run(steps=[(0, (1.25,))])) == Apart(0.25, 0.0)
    far_first = run(2.0, 4.0, steps=[(0, (1.0,)), (0, (1.0,))])
    assert of_traces(far_first, run(3.0, 4.0, steps=[(0, (2.0,)), (0, (1.0,))], parameters=(1.1,))) == Apart(1.0, 0.5)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (run(1.0, steps=[]), "1 optimizer steps against 0"),
        (run(1.0, 2.0), "1 recorded values against 2"),
        (run(1.0, steps=[(1, (1.0,))]), "the optimizers step in another order"),
        (run(1), "a float became an int"),
    ],
)
def test_runs_that_cannot_be_compared(other: Trace, message: str) -> None:
    with pytest.raises(Different, match=f"^{message}$"):
        of_traces(run(1.0), other)


def test_a_record_may_be_of_higher_precision_but_of_no_lower_one() -> None:
    low, high = vector(2, dtype=torch.bfloat16), vector(2)
    assert of_traces(run(low), run(high)) == Apart(0.0, 0.0)
    with pytest.raises(Different, match="float32 became bfloat16"):
        of_traces(run(high), run(low))
    assert of_traces(run(high), run(low), strict_types=False) == Apart(0.0, 0.0)
    with pytest.raises(Different, match="on one side only"):
        of_traces(run(low), run(high.requires_grad_()))
    with pytest.raises(Different, match="shape"):
        of_traces(run(low), run(vector(2, 2)))


def test_the_first_steps_are_compared_with_what_was_recorded_before_them() -> None:
    def two(first: float, second: float, *records: object, early: int) -> Trace:
        return run(*records, steps=[(0, (first,)), (0, (second,))], early=early)

    assert of_first_steps(two(1, 1, 2.0, 4.0, early=1), two(1, 9, 2.0, 9.0, early=1)) == 0.0
    assert of_first_steps(two(1, 1, 2.0, early=1), two(1, 1, 3.0, early=1)) == 0.5
    assert of_first_steps(two(1, 1, early=0), two(1.25, 1, early=0)) == 0.25
    assert of_first_steps(run(2.0, steps=[], early=1), two(9, 1, 3.0, early=1)) == 0.0
    assert of_first_steps(two(9, 1, 3.0, early=1), run(2.0, steps=[], early=1)) == 0.0
