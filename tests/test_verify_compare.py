"""The remark on a case: both sides agree, only the old one is wrong, or how the new one is wrong."""

from __future__ import annotations

import math
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="needs the extra clipcheck[torch]")

from clipcheck.verify.battery import Case  # noqa: E402
from clipcheck.verify.compare import Failed, Note, Seen, compare, excused, is_right  # noqa: E402

INF, NAN = math.inf, math.nan


def vector(*numbers: float, dtype: Any = torch.float32) -> torch.Tensor:
    return torch.tensor(numbers, dtype=dtype)


def case(*gradients: torch.Tensor | None, **more: Any) -> Case:
    """Gradients of norm 5 if no others are given."""
    given = gradients or (vector(3), vector(4))
    return Case("a case", lambda: list(given), **more)


def seen(total: object = 5.0, gradients: Any = None, parameters: Any = (), raised: BaseException | None = None) -> Seen:
    """A run after which `total` holds this value."""
    left = [vector(3), vector(4)] if gradients is None else list(gradients)
    return Seen({"total": [total]}, left, list(parameters), raised)


def said(
    before: Seen, after: Seen, reference: Seen | None = None, *, of: Case | None = None, unsafe: bool = False
) -> Note:
    return compare(of or case(), before, after, reference or before, {}, unsafe)


def fault(before: Seen, after: Seen, reference: Seen | None = None, **more: Any) -> tuple[str, str, str]:
    with pytest.raises(Failed) as failed:
        said(before, after, reference, **more)
    return (str(failed.value), *failed.value.sides)


ERROR = seen(raised=ValueError("no"))


# --- both agree -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (seen(), seen()),
        (seen(5.0), seen(5.00004)),  # float32's rounding
        (seen(vector(5)), seen(vector(5.00004))),
        (seen(NAN), seen(NAN)),
        (seen("text"), seen("text")),
        (seen(gradients=[None]), seen(gradients=[None])),
        (seen(gradients=[vector(3)]), seen(gradients=[vector(3.00002)])),
        (ERROR, seen(raised=TypeError())),
    ],
)
def test_no_remark_if_both_sides_agree(before: Seen, after: Seen) -> None:
    assert said(before, after) == Note()


@pytest.mark.parametrize(
    ("dtype", "off"),
    [(torch.float64, 5e-7), (torch.float32, 5e-5), (torch.bfloat16, 3e-2), (torch.float16, 9e-3)],
)
def test_what_rounding_may_do_depends_on_the_precision(dtype: torch.dtype, off: float) -> None:
    of = case(vector(3, dtype=dtype), vector(4, dtype=dtype), dtype=dtype)
    assert said(seen(5.0), seen(5.0 + 0.8 * off), of=of) == Note()
    assert fault(seen(5.0), seen(5.0 + 1.5 * off), of=of)[0].startswith("differs by ")


def test_the_lowest_precision_among_the_gradients_counts() -> None:
    mixed = case(vector(3), vector(4, dtype=torch.bfloat16))
    assert said(seen(5.0), seen(5.03), of=mixed) == Note()
    assert fault(seen(5.0), seen(5.03), of=mixed._replace(dtype=torch.float64))[0] == "differs by 0.006"


def test_errors_of_both_sides_are_kept_by_precision() -> None:
    errors: dict[torch.dtype, list[tuple[float, float]]] = {}
    compare(case(), seen(5.00001), seen(5.00002), seen(5.0), errors, False)
    compare(case(), seen(5.0), seen(5.0), seen(NAN), errors, False)  # nothing to measure against
    compare(case(), seen(5.0), seen(5.0), ERROR, errors, False)
    compare(case(dtype=torch.float64), seen(5.0), seen(5.0), seen(5.0), errors, False)  # nothing is more accurate
    assert list(errors) == [torch.float32]
    assert errors[torch.float32] == [pytest.approx((2e-6, 4e-6), rel=1e-2)]


# --- only the old side is wrong ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "better"),
    [
        (seen(INF), "overflow"),
        (seen(NAN), "overflow"),
        (seen(0.0), "underflow to 0"),
        (seen(4.0), "an error of 0.2"),
        (seen(5.0, gradients=[vector(3), vector(INF)]), "overflow"),
        (seen(5.0, gradients=[vector(3), vector(0)]), "underflow to 0"),
        (seen(5.0, gradients=[vector(3), vector(0).to_sparse()]), "underflow to 0"),
        (seen(raised=ZeroDivisionError("division by zero")), "ZeroDivisionError"),
    ],
)
def test_what_the_old_side_gets_wrong_is_named(before: Seen, better: str) -> None:
    assert said(before, seen(), seen()) == Note(better)


def test_what_is_wrong_in_the_reference_as_well_is_not_an_overflow() -> None:
    assert fault(seen(INF), seen(5.0), seen(INF)) == ("differs by an infinity or a NaN", "total = inf", "total = 5")


def test_a_result_that_is_not_the_largest_element_is_not_a_norm_of_that_type() -> None:
    largest = case(vector(3), vector(-4), norm_type=INF)
    assert said(seen(7.0), seen(4.0), of=largest) == Note("a result that is not a norm")
    assert said(seen(4.0), seen(4.0), of=largest) == Note()
    assert fault(seen(4.0), seen(7.0), of=largest)[0] == "differs by 0.75"
    several = case(vector(1, -4), vector(2, 3), norm_type=INF)
    assert (
        said(seen(1.0), seen(4.0), of=several)
        == said(seen(3.0), seen(4.0), of=several)
        == Note("a result that is not a norm")
    )
    assert fault(seen(4.0), seen(3.0), of=several)[0] == "differs by 0.25"
    assert fault(seen(7.0), seen(5.0), of=case())[0] == "differs by 0.29"


# --- the new side is wrong --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (seen(), seen(25.0), ("differs by 4", "total = 5", "total = 25")),
        (seen(), seen(NAN), ("differs by an infinity or a NaN", "total = 5", "total = nan")),
        (
            seen(gradients=[vector(3), vector(4)]),
            seen(gradients=[vector(3), vector(8)]),
            ("differs by 1", "gradient = tensor(4)", "gradient = tensor(8)"),
        ),
        (
            seen(parameters=[vector(1)]),
            seen(parameters=[vector(2)]),
            ("differs by 1", "other parameters", "other parameters"),
        ),
        (seen(), seen(raised=ValueError("no")), ("raises", "total = 5", "ValueError: no")),
        (seen(), Seen({}, [], []), ("`total` is read later, and the new code does not assign it", "5", "unbound")),
        (seen(), Seen({"total": [5.0, 5.0]}, [], []), ("`total` holds 2 values instead of 1", "5", "[5, 5]")),
        (seen(5.0), seen(5), ("a float became an int", "5", "5")),
    ],
)
def test_a_failure_shows_the_values_of_both_sides(before: Seen, after: Seen, expected: tuple[str, str, str]) -> None:
    assert fault(before, after, seen()) == expected


def test_a_different_number_of_gradients_is_a_failure() -> None:
    fewer = seen(gradients=[vector(3)])
    assert fault(seen(), fewer)[0] == fault(fewer, seen())[0] == "differs by an infinity or a NaN"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (1 / 3, "total = 0.333333333"),
        (vector(1, 2, 3, 4), "total = tensor(1, 2, 3, 4)"),
        (vector(1, 2, 3, 4, 5), "total = tensor(1, 2, 3, 4, …)"),
        (vector(0, 2).to_sparse(), "total = tensor(0, 2)"),
        (vector(1).requires_grad_(), "total = tensor(1)"),
        ("x" * 200, "total = " + "x" * 120),
    ],
)
def test_long_values_are_shortened(value: object, shown: str) -> None:
    assert fault(seen(value), seen(raised=ValueError()))[1] == shown


def test_long_lists_are_shortened() -> None:
    four, five = (Seen({"total": list(range(n))}, [], []) for n in (4, 5))
    assert fault(four, five) == ("`total` holds 5 values instead of 4", "[0, 1, 2, 3]", "[0, 1, 2, 3, …]")


# --- values of another kind -------------------------------------------------------------------------------------------

LOW = case(vector(3, dtype=torch.bfloat16), vector(4, dtype=torch.bfloat16), dtype=torch.bfloat16)


def test_a_zero_of_no_gradients_may_be_of_any_kind() -> None:
    none = case(None, None)
    assert said(seen(0), seen(0.0), of=none) == Note(changed="`total` is 0 before and 0.0 after")
    assert fault(seen(0), seen(0.0))[0] == "an int became a float"
    assert fault(seen(0), seen(1.0), of=none)[0] == "an int became a float"
    assert fault(seen(0), seen(0.0), of=case(vector(3), None))[0] == "an int became a float"


def test_a_result_may_leave_the_graph_but_not_join_it() -> None:
    inside, outside = vector(5).requires_grad_(), vector(5)
    assert said(seen(inside), seen(outside)) == Note(changed="`total` is part of the graph before only")
    assert "graph" in fault(seen(outside), seen(inside))[0]


def test_a_result_of_low_gradients_may_be_of_higher_precision() -> None:
    low, high = seen(vector(5, dtype=torch.bfloat16)), seen(vector(5))
    wider = Note(changed="`total` is float32 instead of bfloat16")
    assert said(low, high, of=LOW) == wider
    assert fault(high, low, of=LOW)[0] == "float32 became bfloat16"
    assert fault(low, high)[0] == "bfloat16 became float32"
    assert said(low, high, unsafe=True) == wider
    assert fault(low, seen(vector(5, 5)), of=LOW)[0].startswith("shape ")
    assert fault(low, seen(5.0), of=LOW)[0] == "a torch.Tensor became a float"


# --- fixes that change training ---------------------------------------------------------------------------------------


def test_a_new_side_is_right_where_it_is_what_float64_gives() -> None:
    assert is_right(case(), seen(), seen(), norm=False)
    assert not is_right(case(), seen(), seen(5.0001), norm=False)
    assert not is_right(case(), ERROR, seen(), norm=False)
    assert not is_right(case(), seen(), ERROR, norm=False)


@pytest.mark.parametrize(
    ("of", "total", "right"),
    [
        (case(), 5.0, True),
        (case(), 5.00001, True),
        (case(), 5.001, False),
        (case(), vector(5)[0], True),
        (case(), "5.0", False),  # no number at all
        (case(norm_type=1.0), 7.0, True),
        (case(norm_type=1.0), 5.0, False),
        (case(vector(3), None, vector(4)), 5.0, True),
        (case(None), 0.0, True),
        (case(None), 1.0, False),
        (case(vector(NAN)), NAN, True),
        (case(vector(NAN)), 1.0, False),
        (case(vector(INF)), INF, True),
        (LOW, 5.03, True),
    ],
)
def test_a_new_side_is_right_where_it_gives_the_norm(of: Case, total: object, right: bool) -> None:
    assert is_right(of, ERROR, seen(total, gradients=[]), norm=True) is right


def test_a_norm_that_counts_a_parameter_twice_counts_it_once() -> None:
    one = vector(3)
    assert is_right(case(one, one, vector(4)), ERROR, seen(5.0), norm=True)


def test_a_side_that_raises_returns_no_norm() -> None:
    assert not is_right(case(), seen(), seen(5.0, raised=ValueError()), norm=True)


def test_an_old_side_without_a_norm_excuses_another_result() -> None:
    assert excused(case(), seen(25.0), seen(5.0)) == "a result that is not a norm"
    assert excused(case(), seen(5.0), seen(25.0)) == ""
    assert excused(case(), seen(5.0), seen(5.0)) == ""
    assert excused(case(), seen(25.0), seen(24.0)) == ""
    assert excused(case(), seen(25.0), ERROR) == ""
    assert excused(case(), seen(25.0), Seen({}, seen().gradients, [])) == ""


def test_an_old_side_that_makes_all_gradients_nan_is_excused_by_that() -> None:
    odd = [vector(NAN), vector(4)]
    spoiled, kept = seen(NAN, gradients=[vector(NAN), vector(NAN)]), seen(NAN, gradients=odd)
    assert excused(case(*odd), spoiled, kept) == "gradients that all become NaN"
    assert excused(case(*odd), spoiled, seen(5.0, gradients=odd)) == ""  # another value as well
    assert excused(case(*odd), kept, spoiled) == ""  # the new side changes gradients
    clipped = seen(5.0, gradients=[vector(0.6), vector(0.8)])
    assert excused(case(), clipped, seen(5.0)) == ""  # of ordinary gradients, that was a clip


def test_a_norm_of_clipped_gradients_excuses_the_norm_before_the_clip() -> None:
    clipped = [vector(1.5), vector(2)]
    late, early = seen(2.5, gradients=clipped), seen(5.0, gradients=clipped)
    assert excused(case(), late, early) == "a norm of gradients that are clipped"
    assert excused(case(), late, seen(4.0, gradients=clipped)) == ""  # no norm
    assert excused(case(), seen(2.0, gradients=clipped), early) == ""  # no norm of the clipped gradients
    assert excused(case(), late, seen(5.0, gradients=[vector(1.5), vector(1.5)])) == ""  # another clip
    assert excused(case(), late._replace(parameters=[vector(1)]), early._replace(parameters=[vector(2)])) == ""
    one, none = vector(3), [vector(1.5), None, vector(2)]
    assert excused(case(one, None, vector(4)), seen(2.5, gradients=none), seen(5.0, gradients=none)) != ""


def test_a_clip_counts_a_parameter_that_is_listed_twice_twice() -> None:
    one = vector(4)
    twice = case(one, one, None, None, vector(2))  # of norm 6 as a list
    halved = [vector(2), None, None, vector(1)]
    assert excused(twice, seen(3.0, gradients=halved), seen(6.0, gradients=halved)) != ""
    assert excused(twice, seen(5.0**0.5, gradients=halved), seen(6.0, gradients=halved)) == ""
    assert excused(twice, seen(3.0, gradients=halved), seen(20.0**0.5, gradients=halved)) == ""


def test_the_norm_of_a_clip_may_overflow_its_precision() -> None:
    large = case(*(vector(60_000, dtype=torch.float16) for _ in range(2)), dtype=torch.float16)
    zeros = [vector(0, dtype=torch.float16)] * 2
    for norm in (INF, 60_000 * 2**0.5):
        assert excused(large, seen(0.0, gradients=zeros), seen(norm, gradients=zeros)) != ""
    assert excused(large, seen(0.0, gradients=zeros), seen(60_000.0, gradients=zeros)) == ""


SMALL = case(vector(3e-4), None, vector(4e-4))  # of norm 5e-4


def halved(scale: float = 1.0, total: float = 5e-4) -> Seen:
    return seen(total, gradients=[vector(1.5e-4 * scale), None, vector(2e-4 * scale)])


def test_torchs_epsilon_is_tolerated_in_an_unsafe_fix() -> None:
    smaller = Note(changed="gradients are smaller, since torch adds 1e-6 to the norm,")
    epsilon = 5e-4 / (5e-4 + 1e-6)
    assert said(halved(), halved(epsilon), of=SMALL, unsafe=True) == smaller
    assert fault(halved(), halved(epsilon), of=SMALL)[0] == "differs by 0.002"
    for other in (5e-4 / (5e-4 + 2e-6), 5e-4 / (5e-4 - 1e-6), 0.99):
        assert fault(halved(), halved(other), of=SMALL, unsafe=True)[0].startswith("differs by ")
    assert fault(halved(), halved(epsilon, total=6e-4), of=SMALL, unsafe=True)[0] == "differs by 0.2"
    sums = SMALL._replace(norm_type=1.0)
    assert said(halved(), halved(7e-4 / (7e-4 + 1e-6)), of=sums, unsafe=True) == smaller


def test_torchs_clip_makes_all_gradients_nan_in_an_unsafe_fix() -> None:
    odd = [vector(NAN), vector(4)]
    kept, spoiled = seen(NAN, gradients=odd), seen(NAN, gradients=[vector(NAN), vector(NAN)])
    assert said(kept, spoiled, of=case(*odd), unsafe=True) == Note(changed="all gradients become NaN")
    assert fault(kept, spoiled, of=case(*odd))[0] == "differs by an infinity or a NaN"
    assert fault(spoiled, kept, of=case(*odd), unsafe=True)[0] == "differs by an infinity or a NaN"


def test_a_used_up_generator_leaves_nothing_to_clip() -> None:
    """Of gradients of norm 5, the harness's limit is half."""
    of = case(container="a generator")
    stay = seen(gradients=[vector(3), vector(4), vector(3), vector(4)])  # of the parameters, then of the list
    clipped = seen(gradients=[vector(1.5), vector(2), vector(3), vector(4)])
    assert said(stay, clipped, of=of, unsafe=True) == Note("gradients that stay above max_norm")
    for other, unsafe in ((of, False), (case(container="a tuple"), True), (case(), True)):
        assert fault(stay, clipped, of=other, unsafe=unsafe)[0].startswith("differs by ")
    assert fault(clipped, stay, of=of, unsafe=True)[0].startswith("differs by ")
    lower = seen(gradients=[vector(0.75), vector(1), vector(3), vector(4)])
    assert fault(stay, lower, of=of, unsafe=True)[0].startswith("differs by ")
    assert fault(lower, clipped, of=of, unsafe=True)[0].startswith("differs by ")
    doubled = seen(gradients=[vector(6), vector(8), vector(3), vector(4)])
    assert fault(stay, doubled, of=of._replace(ratio=2.0), unsafe=True)[0].startswith("differs by ")
    with_none = case(vector(3), None, vector(4), container="a generator")
    before, after = (seen(gradients=[a, None, b]) for a, b in ((vector(3), vector(4)), (vector(1.5), vector(2))))
    assert said(before, after, of=with_none, unsafe=True) == Note("gradients that stay above max_norm")


def test_a_number_instead_of_a_tensor_is_tolerated_in_an_unsafe_fix() -> None:
    scalar = seen(torch.tensor(5.0))
    assert said(scalar, seen(5.0), unsafe=True) == Note(changed="`total` is a float instead of a tensor")
    assert fault(scalar, seen(5.0))[0] == "a torch.Tensor became a float"
    assert fault(seen(vector(5)), seen(5.0), unsafe=True)[0] == "a torch.Tensor became a float"
    assert fault(scalar, seen("5.0"), unsafe=True)[0] == "a torch.Tensor became a str"
    assert fault(seen(5.0), scalar, unsafe=True)[0] == "a float became a torch.Tensor"
    assert fault(scalar, seen(6.0), unsafe=True)[0] == "differs by 0.2"


# --- on the edge ------------------------------------------------------------------------------------------------------


def test_a_difference_as_large_as_the_limit_is_within_it() -> None:
    """100,001 is off by float32's limit of 1e-5."""
    assert said(seen(100_000.0), seen(100_001.0)) == Note()
    assert said(seen(100_003.0), seen(100_001.0), seen(100_000.0)) == Note("an error of 3e-05")
    assert fault(seen(100_001.0), seen(99_999.0), seen(100_000.0))[0] == "differs by 2e-05"


def test_the_first_value_beyond_the_limit_is_shown() -> None:
    before = Seen({"a": [100_000.0], "b": [1.0], "c": [1.0]}, [], [])
    after = Seen({"a": [100_001.0], "b": [2.0], "c": [3.0]}, [], [])
    assert fault(before, after) == ("differs by 2", "b = 1", "b = 2")
    one, other = (seen(gradients=[vector(*numbers)]) for numbers in ((1, 1), (1, 3)))
    edge = seen(gradients=[vector(100_000), vector(1), vector(1)])
    off = seen(gradients=[vector(100_001), vector(20_000), vector(1)])
    assert fault(edge, off)[1:] == ("gradient = tensor(1)", "gradient = tensor(20000)")
    assert fault(one, other)[1:] == ("gradient = tensor(1, 1)", "gradient = tensor(1, 3)")


def test_a_reference_with_other_values_measures_nothing() -> None:
    errors: dict[torch.dtype, list[tuple[float, float]]] = {}
    for values in ({"other": [5.0]}, {"total": [5.0, 5.0]}, {"total": [vector(5, 5)]}):
        reference = seen()._replace(values=values)
        assert compare(case(), seen(vector(5)), seen(vector(5)), reference, errors, False) == Note()
    assert errors == {}


def test_a_gradient_that_only_the_old_side_lacks_is_its_error() -> None:
    assert said(seen(gradients=[None, vector(4)]), seen(), seen()) == Note("an error of inf")
    assert fault(seen(), seen(gradients=[None, vector(4)]), seen())[0] == "differs by an infinity or a NaN"


def test_one_number_of_many_may_be_lost() -> None:
    many = [1.0] * 2000
    lost = seen(gradients=[vector(*many, 0)])
    assert said(lost, seen(gradients=[vector(*many, 1)]), seen(gradients=[vector(*many, 1)])) == Note("underflow to 0")


def test_one_low_gradient_is_enough_for_a_wider_result() -> None:
    low, high = vector(5, dtype=torch.bfloat16), vector(5)
    mixed = case(None, vector(3), vector(4, dtype=torch.bfloat16))
    wider = Note(changed="`total` is float32 instead of bfloat16")
    assert said(seen(low), seen(high), of=mixed) == wider
    both = (seen(tensor.clone().requires_grad_()) for tensor in (low, high))
    assert said(*both, of=mixed) == wider  # which both sides leave in the graph


def test_a_largest_element_is_one_of_the_gradients_that_there_are() -> None:
    of = case(vector(3), None, vector(-4), norm_type=INF)
    assert said(seen(7.0), seen(4.0), of=of) == Note("a result that is not a norm")
    assert fault(seen(4.0), seen(7.0), of=of)[0] == "differs by 0.75"
