"""The cases for a site: which there are for which roles, and the objects for its names."""

from __future__ import annotations

import math
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="needs the extra clipcheck[torch]")

from torch import nn  # noqa: E402

from clipcheck.verify.battery import Case, build, cases, seed  # noqa: E402

PLAIN = frozenset({"parameters"})


def titles(*roles: str) -> list[str]:
    return [case.title for case in cases(frozenset(roles))]


def named(title: str, *roles: str) -> Case:
    return next(case for case in cases(frozenset(roles)) if case.title == title)


def small(**more: Any) -> Case:
    """Gradients of norms 3 and 4, so of norm 5 together."""
    return Case("small", lambda: [torch.tensor([3.0]), torch.tensor([4.0])])._replace(**more)


# --- which cases ------------------------------------------------------------------------------------------------------


def test_the_plainest_case_comes_first_and_no_title_twice() -> None:
    everything = titles("parameters", "max_norm", "norm_type", "switch", "gradients")
    assert everything[0] == "gradients [3, 4]"
    assert len(everything) == len(set(everything)) > 35


@pytest.mark.parametrize(
    ("role", "added"),
    [
        (
            "max_norm",
            {
                "gradients [3, 4], limit above",
                "gradients [3, 4], limit met",
                "ordinary gradients, limit above",
                "ordinary gradients, limit far below",
            },
        ),
        ("norm_type", {f"ordinary gradients, norm type {kind}" for kind in ("1", "3", "inf")}),
        ("switch", {"ordinary gradients, switched on"}),
        ("gradients", {"gradients that are part of the graph"}),
        ("model", set()),
    ],
)
def test_a_role_adds_the_cases_in_which_it_matters(role: str, added: set[str]) -> None:
    assert set(titles("parameters", role)) - set(titles("parameters")) == added


@pytest.mark.parametrize(
    ("title", "gradients"),
    [
        ("one gradient, a scalar", [torch.tensor(-3.0)]),
        ("gradients of zero", [torch.zeros(3), torch.zeros(2, 2)]),
        ("a gradient without elements", [torch.tensor([3.0]), torch.zeros(0, 2)]),
        ("no parameters", []),
        ("a gradient that is None", [torch.tensor([3.0]), None, torch.tensor([4.0])]),
        ("gradients that are all None", [None, None]),
    ],
)
def test_cases_contain_what_their_titles_say(title: str, gradients: list[Any]) -> None:
    found = build(named(title, "parameters"), {}).gradients
    assert len(found) == len(gradients)
    for one, other in zip(found, gradients, strict=True):
        assert one is other is None or torch.equal(one, other)


def test_odd_gradients_are_odd() -> None:
    def of(title: str) -> list[torch.Tensor]:
        return build(named(title, "parameters", "gradients"), {}).gradients

    def norm(title: str) -> float:
        return math.hypot(*(float(g.double().norm()) for g in of(title)))

    assert sum(g.numel() for g in of("a gradient of many elements")) > 20_000
    assert [g.is_contiguous() for g in of("non-contiguous gradients")] == [False, False]
    assert [g.is_sparse for g in of("a sparse gradient")] == [True, False]
    assert [g.requires_grad for g in of("gradients that are part of the graph")] == [True, True]
    assert {g.dtype for g in of("float32 and bfloat16 gradients")} == {torch.float32, torch.bfloat16}
    assert norm("huge gradients") ** 2 > torch.finfo(torch.float32).max  # the squares overflow, the norm does not
    assert norm("huge gradients") < torch.finfo(torch.float32).max
    assert 0 < norm("tiny gradients") ** 2 < torch.finfo(torch.float32).tiny * 2**-23
    assert norm("large float16 gradients") ** 2 > torch.finfo(torch.float16).max
    assert norm("small gradients") == pytest.approx(2**-10 * norm("huge gradients") / 2**66)
    for title, special in (("NaN", "nan"), ("infinity", "inf"), ("minus infinity", "-inf")):
        odd = [str(float(x)) for g in of(f"a gradient with {title}") for x in g.flatten() if not x.isfinite()]
        assert odd == [special]


def test_numbers_are_random_but_the_same_each_time_and_exact_in_bfloat16() -> None:
    first, second = (build(named("ordinary gradients", "parameters"), {}).gradients for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert all(torch.equal(g, g.bfloat16().float()) for g in first)
    numbers = torch.cat([g.flatten() for g in first])
    assert len(numbers.unique()) > 0.9 * len(numbers)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_a_case_in_another_precision(dtype: torch.dtype) -> None:
    made = build(named(f"{str(dtype).removeprefix('torch.')} gradients", "parameters"), {"total": "total"})
    assert {t.dtype for t in (*made.gradients, *made.parameters, made.names["total"])} == {dtype}


def test_the_reference_has_the_same_numbers_in_float64() -> None:
    mixed = named("float32 and bfloat16 gradients", "parameters")
    wide = build(mixed.as_float64(), {}).gradients
    assert {g.dtype for g in wide} == {torch.float64}
    assert all(torch.equal(g.double(), w) for g, w in zip(build(mixed, {}).gradients, wide, strict=True))
    twice = named("a parameter listed twice", "parameters")
    assert len(twice.gradients()) == 3
    assert len(twice.as_float64().gradients()) == 2  # counted once
    assert math.hypot(*(float(g.norm()) for g in build(twice.as_float64(), {}).gradients)) == 13.0


# --- what stands in the names -----------------------------------------------------------------------------------------


def test_parameters_hold_their_gradients() -> None:
    made = build(small(), {"params": "parameters", "grads": "gradients"})
    assert [p.grad.item() for p in made.parameters] == [3.0, 4.0]
    assert made.names["params"] == made.parameters
    assert [g.item() for g in made.names["grads"]] == [3.0, 4.0]
    assert all(p.requires_grad and p.dtype is torch.float32 for p in made.parameters)


def test_no_parameter_is_like_another() -> None:
    first, second = build(Case("", lambda: [torch.ones(2), torch.ones(2)]), {}).parameters
    assert not torch.equal(first, second)
    assert len(first.unique()) == 2


@pytest.mark.parametrize(("container", "kind"), [("list", list), ("a tuple", tuple)])
def test_a_container_that_may_be_read_twice(container: str, kind: type) -> None:
    made = build(small(container=container), {"params": "parameters"})
    assert type(made.names["params"]) is kind
    assert list(made.names["params"]) == made.parameters


def test_a_generator_is_exhausted_unless_a_call_returns_it() -> None:
    made = build(small(container="a generator"), {"params": "parameters", "params_call": "parameters"})
    assert len(list(made.names["params"])) == 2
    assert list(made.names["params"]) == []
    assert len(list(made.names["params_call"]())) == len(list(made.names["params_call"]())) == 2


def test_a_parameter_that_is_listed_twice_is_one() -> None:
    made = build(named("a parameter listed twice", "parameters"), {"params": "parameters"})
    one, _, again = made.names["params"]
    assert one is again
    assert len(made.parameters) == len(made.gradients) == 2


def test_frozen_parameters_keep_an_old_gradient_or_have_none() -> None:
    made = build(small(frozen=True), {"params": "parameters"})
    assert [(p.requires_grad, p.grad is None) for p in made.names["params"]] == [
        (False, False),
        (True, False),
        (False, True),
    ]
    assert build(Case("", list, frozen=True), {"params": "parameters"}).names["params"] == []


@pytest.mark.parametrize(
    ("case", "limit"),
    [
        (small(), 2.5),
        (small(ratio=2.0), 10.0),
        (Case("", list), 1.0),
        (Case("", lambda: [torch.zeros(2)]), 1.0),
        (Case("", lambda: [torch.tensor([math.inf])]), 1.0),
        (Case("", lambda: [torch.tensor([math.nan])]), 1.0),
        (named("a parameter listed twice", "parameters"), 6.5),
        (named("gradients [3, 4], limit met", "max_norm"), 5.0),
    ],
)
def test_max_norm_is_a_share_of_the_norm_where_that_is_a_number(case: Case, limit: float) -> None:
    assert build(case, {"c": "max_norm"}).names["c"] == limit


def test_numbers_and_switches() -> None:
    roles = {"a": "norm_type", "b": "epsilon", "c": "switch", "d": "total", "e_call": "norm_type"}
    made = build(small(norm_type=3.0, switch=True), roles).names
    assert (made["a"], made["b"], made["c"]) == (3.0, 1e-6, True)
    assert made["d"].item() == 5.0
    assert made["e_call"]() == 3.0
    with pytest.raises(LookupError, match="scaler"):
        build(small(), {"s": "scaler"})


def test_a_model_has_parameters_with_realistic_names() -> None:
    made = build(small(), {"model": "model"})
    model = made.names["model"]
    assert isinstance(model, nn.Module)
    assert [name for name, _ in model.named_parameters()] == ["layer0.weight", "layer1.bias"]
    assert list(model.parameters()) == made.parameters


def test_an_optimizer_has_its_parameters_in_two_groups() -> None:
    made = build(Case("", lambda: [torch.ones(1), torch.ones(1), torch.ones(1)]), {"o": "optimizer"})
    first, second = (group["params"] for group in made.names["o"].param_groups)
    assert (first, second) == (made.parameters[:1], made.parameters[1:])


@pytest.mark.parametrize(("start", "kind", "value"), [(2.5, float, 2.5), ("int", int, 0), ("tensor", torch.Tensor, 0)])
def test_an_accumulator_starts_from_a_number_or_a_tensor(start: Any, kind: type, value: float) -> None:
    made = seed(small(seed=start))
    assert type(made) is kind and made == value
    starts = [case.seed for case in cases(PLAIN) if "accumulator" in case.title]
    assert starts == [0.0, "int", "tensor"]


@pytest.mark.parametrize(
    ("title", "shapes"),
    [
        ("gradients [3, 4]", [(1,), (1, 1)]),
        ("ordinary gradients", [(7, 5), (5,), (3, 4, 2), (1,)]),
        ("small gradients", [(4, 3), (6,)]),
        ("a gradient of many elements", [(300, 90), (90,)]),
        ("non-contiguous gradients", [(4, 6), (4, 3)]),
        ("a parameter listed twice", [(2,), (1,)]),
        ("a sparse gradient", [(5, 2), (4,)]),
        ("a gradient with NaN", [(3, 3), (4,)]),
        ("float32 and bfloat16 gradients", [(5, 5), (5,)]),
        ("gradients that are part of the graph", [(4,), (2, 2)]),
    ],
)
def test_gradients_have_several_shapes(title: str, shapes: list[tuple[int, ...]]) -> None:
    made = build(named(title, "parameters", "gradients"), {})
    assert [tuple(g.shape) for g in made.gradients] == [tuple(p.shape) for p in made.parameters] == shapes


def test_a_sparse_gradient_leaves_most_rows_out() -> None:
    sparse, _ = build(named("a sparse gradient", "parameters"), {}).gradients
    assert sparse.is_coalesced() and sparse.indices().tolist() == [[0, 3]]


def test_no_two_gradients_of_a_case_start_with_the_same_numbers() -> None:
    for case in cases(frozenset(["gradients"])):
        found = [g.to_dense() for g in build(case, {}).gradients if g is not None and g.numel() > 1 and g.any()]
        starts = [float(g.flatten()[0]) for g in found]
        assert len(set(starts)) == len(starts)


def test_gradients_of_the_graph_are_computed() -> None:
    found = build(named("gradients that are part of the graph", "gradients"), {}).gradients
    assert all(g.grad_fn is not None for g in found)


EVERY = ("parameters", "max_norm", "norm_type", "switch", "gradients")


def test_most_limits_are_half_of_the_norm_and_some_are_not() -> None:
    found = {case.title: case.ratio for case in cases(frozenset(EVERY)) if case.ratio != 0.5}
    above = {"gradients [3, 4], limit above", "ordinary gradients, limit above"}
    assert set(found) == {
        *above, "gradients [3, 4], limit met", "ordinary gradients, limit far below", "tiny gradients"
    }  # fmt: skip
    assert all(2.0 <= found[title] <= 3.0 for title in above)
    assert found["gradients [3, 4], limit met"] == 1.0
    assert found["ordinary gradients, limit far below"] < 1e-3
    limit = build(named("tiny gradients", *EVERY), {"c": "max_norm"}).names["c"]
    assert 0.1 < limit < 10  # an ordinary limit, which the norm does not reach


def test_cases_differ_from_the_plain_ones_in_one_way() -> None:
    found = list(cases(frozenset(EVERY)))
    assert [case.title for case in found if case.switch] == ["ordinary gradients, switched on"]
    assert [case.title for case in found if case.frozen] == ["frozen parameters"]
    assert [case.title for case in found if case.exact is not None] == ["a parameter listed twice"]
    assert [case.container for case in found if case.container != "list"] == ["a tuple", "a generator"]
    assert [case.norm_type for case in found if case.norm_type != 2.0] == [1.0, 3.0, math.inf]
    assert {case.dtype for case in found if "large" in case.title} == {torch.bfloat16, torch.float16}
    assert {case.seed for case in found} == {2.5, 0.0, "int", "tensor"}


def test_weights_are_small_whole_numbers_that_every_precision_has() -> None:
    for title in ("a gradient of many elements", "ordinary gradients"):
        for index, parameter in enumerate(build(named(title, "parameters"), {}).parameters):
            weights = parameter.detach()
            assert torch.equal(weights, weights.bfloat16().float())
            assert weights.flatten()[0] == index and weights.max() <= index + 6
            assert len(weights.unique()) == min(weights.numel(), 7)


def test_a_frozen_parameter_without_gradient_comes_last() -> None:
    made = build(small(frozen=True), {})
    assert [tuple(p.shape) for p in made.parameters] == [(1,), (1,), (2,)]
    assert made.parameters[-1].tolist() == [1.0, 1.0]


def test_a_gradient_of_the_graph_is_that_of_its_parameter() -> None:
    made = build(named("gradients that are part of the graph", "gradients"), {})
    assert all(p.grad is g for p, g in zip(made.parameters, made.gradients, strict=True))
    made = build(small(), {})
    assert all(p.grad.data_ptr() == g.data_ptr() for p, g in zip(made.parameters, made.gradients, strict=True))


def test_an_optimizer_clears_the_gradients_of_both_groups() -> None:
    made = build(small(), {"o": "optimizer"})
    made.names["o"].zero_grad()
    assert [p.grad for p in made.parameters] == [None, None]


def test_what_a_call_returns_and_what_a_name_holds() -> None:
    roles = {"m__0__call": "model", "m__0__name": "model", "g__0__call": "gradients", "g__0__name": "gradients"}
    made = build(small(container="a tuple"), roles).names
    assert isinstance(made["m__0__call"](), nn.Module) and isinstance(made["m__0__name"], nn.Module)
    assert made["g__0__call"]() == made["g__0__name"] and isinstance(made["g__0__name"], tuple)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_mixed_gradients_stay_mixed_except_in_float64(dtype: torch.dtype) -> None:
    mixed = Case("", lambda: [torch.tensor([1.0]), torch.tensor([1.0], dtype=torch.float16)], dtype)
    second = torch.float64 if dtype is torch.float64 else torch.float16
    assert [g.dtype for g in build(mixed, {}).gradients] == [dtype, second]
