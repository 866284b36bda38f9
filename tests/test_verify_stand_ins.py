"""The stand-ins for a model, an optimizer, a scaler and the like, and the record of each step that they take."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="needs the extra clipcheck[torch]")

from torch import nn  # noqa: E402

from clipcheck.verify.objects import objects  # noqa: E402
from clipcheck.verify.stand_ins import SCALE, Aim, Optimizer, Setting, World  # noqa: E402

LIMIT = 0.5


def world(*sizes: float, clip: str = "norm", norm_type: float = 2.0, clears: bool = True, **more: Any) -> World:
    """Batches whose gradients have norms of `sizes` times the limit."""
    return World(Setting("a setting", sizes or (2.0,), **more), Aim(clip, norm_type, LIMIT, clears))


def stand_ins(of: World, *roles: str, groups: int = 1) -> Any:
    """The stand-ins for these roles, in order."""
    made = objects(of, {role: role for role in roles}, groups)
    found = [made.get(role, made.get(f"{role}__call")) for role in roles]
    return found[0] if len(found) == 1 else found


def norm(gradients: Any) -> float:
    return math.hypot(*(float(g.double().norm()) for g in gradients if g is not None))


def left(of: World) -> float:
    """The norm of the parameters' current gradients."""
    return norm(p.grad for p in of.parameters)


# --- gradients and what they should be --------------------------------------------------------------------------------


def batch(of: World) -> list[Any]:
    """The gradients of only the next batch."""
    for p in of.parameters:
        p.grad = None
    of.backward(1.0)
    return [p.grad for p in of.parameters]


def test_the_batches_have_gradients_of_the_sizes_asked_for_in_turn() -> None:
    one = world(2.0, 0.5)
    assert [norm(batch(one)) for _ in range(3)] == pytest.approx([2 * LIMIT, 0.5 * LIMIT, 2 * LIMIT])
    assert one.batches == 3
    first, again = batch(world(2.0)), batch(world(2.0))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    batches = world(2.0)
    assert not torch.allclose(batch(batches)[0], batch(batches)[0])


def test_backward_adds_up_until_a_step_has_used_the_gradients() -> None:
    one = world(2.0, 0.1, clip="")
    one.loss().backward()
    one.loss().backward()
    held = [p.grad.clone() for p in one.parameters]
    for gradient, wanted in zip(held, one.wanted, strict=True):
        assert torch.allclose(gradient.double(), wanted)
    stand_ins(one, "optimizer").step()
    one.loss().backward()
    assert norm(one.wanted) == pytest.approx(2.0 * LIMIT)  # new ones are expected; the sum was not cleared
    assert left(one) != pytest.approx(2.0 * LIMIT)


def test_gradients_are_expected_to_stay_if_the_code_never_clears_them() -> None:
    one = world(2.0, 2.0, clip="", clears=False)
    optimizer = stand_ins(one, "optimizer")
    for _ in range(2):
        one.loss().backward()
        optimizer.step()
    assert norm(one.steps[1].wanted) == pytest.approx(left(one))


def test_the_loss_may_not_depend_on_a_parameter() -> None:
    one = world(2.0, unused=True)
    one.loss().backward()
    assert [p.grad is None for p in one.parameters] == [False, True, False]
    assert left(one) == pytest.approx(2 * LIMIT)
    assert not one.wanted[1].any()


@pytest.mark.parametrize(
    ("clip", "norm_type", "expected"),
    [
        ("norm", 2.0, [0.3, 0.4]),
        ("norm", math.inf, [0.375, 0.5]),
        ("norm", 1.0, [1.5 / 7, 2 / 7]),
        ("value", 2.0, [0.5, 0.5]),
        ("", 2.0, [3.0, 4.0]),
    ],
)
def test_the_aim_is_a_clip_by_norm_or_by_value_or_none(clip: str, norm_type: float, expected: list[float]) -> None:
    clipped = Aim(clip, norm_type, LIMIT, True).clipped([torch.tensor([3.0]), torch.tensor([4.0])])
    assert [float(g) for g in clipped] == pytest.approx(expected)


@pytest.mark.parametrize("gradients", [[0.0, 0.0], [0.3, -0.4], [0.1, 0.0]])
@pytest.mark.parametrize("clip", ["norm", "value"])
def test_what_is_within_the_limit_stays(clip: str, gradients: list[float]) -> None:
    given = [torch.tensor([g]) for g in gradients]
    assert [float(g) for g in Aim(clip, 2.0, LIMIT, True).clipped(given)] == pytest.approx(gradients)
    below = [torch.tensor([-3.0])]
    assert [float(g) for g in Aim("value", 2.0, LIMIT, True).clipped(below)] == [-LIMIT]


# --- the model and the optimizer --------------------------------------------------------------------------------------


def test_a_step_records_its_gradients_and_the_right_ones() -> None:
    one = world(2.0)
    optimizer = stand_ins(one, "optimizer")
    before = [p.detach().clone() for p in one.parameters]
    one.loss().backward()
    optimizer.step()
    (step,) = one.steps
    assert norm(step.taken) == pytest.approx(2 * LIMIT)
    assert norm(step.wanted) == pytest.approx(LIMIT)
    for old, new, gradient in zip(before, one.parameters, step.taken, strict=True):
        assert torch.allclose(new, old - 0.01 * gradient)


def test_a_step_without_gradients_takes_none() -> None:
    one = world(2.0)
    stand_ins(one, "optimizer").step()
    assert one.steps[0].taken == [None, None, None]


@pytest.mark.parametrize("who", ["model", "optimizer"])
def test_gradients_that_are_cleared_before_a_step_are_lost(who: str) -> None:
    one = world(2.0)
    owner, optimizer = stand_ins(one, who, "optimizer")
    owner.zero_grad()
    assert not one.lost  # there were none
    one.loss().backward()
    optimizer.step()
    owner.zero_grad()
    assert not one.lost and left(one) == 0
    assert all(p.grad is None for p in one.parameters)
    assert norm(one.wanted) == 0
    one.loss().backward()
    owner.zero_grad()
    assert one.lost and left(one) == 0


def test_gradients_that_were_not_cleared_are_expected_in_the_next_step_after_clipping() -> None:
    one = world(2.0, clears=False)
    one.loss().backward()
    stand_ins(one, "optimizer").step()
    assert norm(one.wanted) == pytest.approx(LIMIT)


@pytest.mark.parametrize(("groups", "sizes"), [(1, [3]), (2, [1, 2])])
def test_an_optimizer_has_one_group_or_two(groups: int, sizes: list[int]) -> None:
    one = world()
    optimizer = stand_ins(one, "optimizer", groups=groups)
    assert [len(group["params"]) for group in optimizer.param_groups] == sizes
    listed = list(itertools.chain.from_iterable(group["params"] for group in optimizer.param_groups))
    assert all(a is b for a, b in zip(listed, one.parameters, strict=True))


def test_a_model_has_the_parameters() -> None:
    one = world()
    model = stand_ins(one, "model")
    assert isinstance(model, nn.Module)
    assert [name for name, _ in model.named_parameters()] == ["layer0.weight", "layer1.bias", "layer2.weight"]
    assert all(a is b for a, b in zip(model.parameters(), one.parameters, strict=True))


# --- scalers and wrappers ---------------------------------------------------------------------------------------------


def test_a_scaler_unscales_before_the_step_at_the_latest() -> None:
    one = world(2.0)
    scaler, optimizer = stand_ins(one, "scaler", "optimizer")
    scaler.scale(one.loss()).backward()
    assert left(one) == pytest.approx(2 * LIMIT * SCALE)
    assert norm(one.wanted) == pytest.approx(2 * LIMIT)
    scaler.step(optimizer)
    assert norm(one.steps[0].taken) == pytest.approx(2 * LIMIT)


def test_a_scaler_unscales_once() -> None:
    one = world(2.0)
    scaler, optimizer = stand_ins(one, "scaler", "optimizer")
    for _ in range(2):
        scaler.scale(one.loss()).backward()
        scaler.unscale_(optimizer)
        with pytest.raises(RuntimeError, match="already been called"):
            scaler.unscale_(optimizer)
        scaler.step(optimizer)
        with pytest.raises(RuntimeError, match="already been called"):
            scaler.step(optimizer)
        optimizer.zero_grad()
        scaler.update()
    assert [norm(step.taken) for step in one.steps] == pytest.approx([2 * LIMIT, 2 * LIMIT])


def test_a_scaler_does_not_unscale_after_the_step() -> None:
    """Like torch's, https://pytorch.org/docs/stable/amp.html; a step unscales by itself, so both reasons apply."""
    one = world(2.0)
    scaler, optimizer = stand_ins(one, "scaler", "optimizer")
    scaler.scale(one.loss()).backward()
    scaler.step(optimizer)
    with pytest.raises(RuntimeError):
        scaler.unscale_(optimizer)


def test_a_scaler_skips_a_step_with_an_overflow() -> None:
    one = world(math.inf, 2.0)
    scaler, optimizer = stand_ins(one, "scaler", "optimizer")
    for skipped in (True, False):
        scaler.scale(one.loss()).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        assert len(one.steps) == (not skipped)
        assert one.skips == 1
        assert not one.lost  # of a skipped step they are not
    assert norm(one.steps[0].wanted) == pytest.approx(LIMIT)


@pytest.mark.parametrize("role", ["accelerator", "fabric"])
@pytest.mark.parametrize("scaled", [True, False])
def test_what_wraps_the_training_scales_in_backward_and_unscales_before_the_step(role: str, scaled: bool) -> None:
    one = world(2.0, scaled=scaled)
    wrapper, optimizer = stand_ins(one, role, "optimizer")
    for _ in range(2):
        wrapper.backward(one.loss())
        assert left(one) == pytest.approx(2 * LIMIT * (SCALE if scaled else 1))
        optimizer.step()
        optimizer.zero_grad()
    assert [norm(step.taken) for step in one.steps] == pytest.approx([2 * LIMIT] * 2)


def test_an_optimizer_that_nothing_wraps_takes_scaled_gradients_as_they_are() -> None:
    one = world(2.0)
    scaler, optimizer = stand_ins(one, "scaler", "optimizer")
    scaler.scale(one.loss()).backward()
    optimizer.step()
    assert norm(one.steps[0].taken) == pytest.approx(2 * LIMIT * SCALE)


@pytest.mark.parametrize("again", [False, True])
def test_a_wrapper_clips_what_it_has_unscaled_once(again: bool) -> None:
    one = world(4.0)
    wrapper, optimizer = stand_ins(one, "accelerator", "optimizer")
    wrapper.backward(one.loss())
    if again:
        wrapper.unscale_gradients()
    total = wrapper.clip_grad_norm_(one.parameters, LIMIT)
    assert float(total) == pytest.approx(4 * LIMIT)
    optimizer.step()
    assert norm(one.steps[0].taken) == pytest.approx(LIMIT, rel=1e-3)


def test_a_wrapper_clips_by_value_and_by_other_norms() -> None:
    one = world(400.0)
    wrapper = stand_ins(one, "accelerator")
    wrapper.backward(one.loss())
    wrapper.clip_grad_norm_(one.parameters, LIMIT, norm_type=math.inf)
    assert max(float(p.grad.abs().max()) for p in one.parameters) == pytest.approx(LIMIT, rel=1e-3)
    other = world(400.0)
    wrapper = stand_ins(other, "accelerator")
    wrapper.backward(other.loss())
    wrapper.clip_grad_value_(other.parameters, LIMIT)
    assert {abs(float(x)) for p in other.parameters for x in p.grad.flatten()} == {LIMIT}


@pytest.mark.parametrize(
    ("given", "largest", "total"),
    [
        ({"max_norm": LIMIT}, None, LIMIT),
        ({"max_norm": LIMIT, "norm_type": math.inf}, LIMIT, None),
        ({"clip_val": 0.01}, 0.01, None),
        ({}, None, 400 * LIMIT),
    ],
)
def test_fabric_clips_the_gradients_of_a_module(given: Any, largest: float | None, total: float | None) -> None:
    one = world(400.0)
    fabric, model, optimizer = stand_ins(one, "fabric", "model", "optimizer")
    fabric.backward(one.loss())
    fabric.clip_gradients(model, optimizer, **given)
    fabric.unscale_gradients()
    if largest is not None:
        assert max(float(p.grad.abs().max()) for p in one.parameters) == pytest.approx(largest, rel=1e-3)
    if total is not None:
        assert left(one) == pytest.approx(total, rel=1e-3)


def test_a_wrapper_skips_a_step_with_an_overflow() -> None:
    one = world(math.inf, 2.0)
    wrapper, optimizer = stand_ins(one, "accelerator", "optimizer")
    for steps in (0, 1):
        wrapper.backward(one.loss())
        optimizer.step()
        optimizer.zero_grad()
        assert (len(one.steps), one.skips, one.lost) == (steps, 1, False)


def test_apex_updates_master_weights_that_get_their_gradients_when_scale_loss_ends() -> None:
    one = world(2.0)
    amp, optimizer = stand_ins(one, "amp", "optimizer")
    with amp.scale_loss(one.loss(), optimizer) as scaled:
        scaled.backward()
        assert left(one) == pytest.approx(2 * LIMIT * SCALE)
        assert all(p.grad is None for p in amp.master_params(optimizer))
    masters = list(amp.master_params(optimizer))
    assert not any(m is p for m, p in zip(masters, one.parameters, strict=True))
    assert all(torch.equal(m, p) for m, p in zip(masters, one.parameters, strict=True))
    assert norm(m.grad for m in masters) == pytest.approx(2 * LIMIT)
    optimizer.step()
    assert norm(one.steps[0].taken) == pytest.approx(2 * LIMIT)


def test_without_apex_the_optimizer_has_the_models_parameters() -> None:
    one = world()
    optimizer = Optimizer(one)
    assert all(a is b for a, b in zip(optimizer.param_groups[0]["params"], one.parameters, strict=True))


# --- by roles ---------------------------------------------------------------------------------------------------------


def test_numbers_of_a_side() -> None:
    roles = ("max_norm", "max_value", "count", "norm_type", "switch")
    assert stand_ins(world(), *roles) == [LIMIT, LIMIT, 2, 2.0, False]


@pytest.mark.parametrize(
    ("outcome", "expected"),
    [("always", [True] * 4), ("never", [False] * 4), ("every second time", [True, False, True, False])],
)
def test_a_test_has_the_outcome_that_the_setting_says(outcome: str, expected: list[bool]) -> None:
    one = world(flags=(outcome,))
    flag = stand_ins(one, "flag")
    found = []
    for _ in expected:
        found.append(flag())
        one.loss().backward()
    assert found == expected


def test_each_test_has_its_own_outcome() -> None:
    one = world(flags=("always", "never"))
    made = objects(one, {"first": "flag", "second": "flag"}, 1)
    assert (made["first"](), made["second"]()) == (True, False)


def test_parameters_are_handed_over_as_a_list_or_as_a_generator() -> None:
    listed, used_up = (stand_ins(world(handed=handed), "parameters")() for handed in ("list", "generator"))
    assert len(list(listed)) == len(list(listed)) == 3
    assert (len(list(used_up)), len(list(used_up))) == (3, 0)
    assert set(objects(world(), {"p": "parameters", "q": "parameters"}, 1)) == {"p__call", "q__call"}


def test_a_method_gives_the_parameters() -> None:
    assert len(list(stand_ins(world(), "method")())) == 3


def test_the_kind_of_each_stand_in() -> None:
    kinds = {
        "model": "Model",
        "fsdp": "Sharded",
        "optimizer": "Optimizer",
        "horovod": "Horovod",
        "group": "Group",
        "scaler": "Scaler",
        "accelerator": "Wrapper",
        "fabric": "Wrapper",
        "amp": "Apex",
    }
    for role, kind in kinds.items():
        assert type(stand_ins(world(), role)).__name__ == kind
    for role in ("optimizer", "horovod"):
        assert [len(stand_ins(world(), role, groups=count).param_groups) for count in (1, 2)] == [1, 2]


@pytest.mark.parametrize(("role", "unscaled"), [("accelerator", True), ("fabric", True), ("scaler", False)])
def test_an_optimizer_unscales_what_a_wrapper_scaled(role: str, unscaled: bool) -> None:
    one = world(2.0)
    wrapper, optimizer = stand_ins(one, role, "optimizer")
    if unscaled:
        wrapper.backward(one.loss())
    else:
        wrapper.scale(one.loss()).backward()
    assert left(one) == pytest.approx(2 * LIMIT * SCALE)
    optimizer.step()
    assert norm(one.steps[0].taken) == pytest.approx(2 * LIMIT * (1 if unscaled else SCALE))


def test_flags_are_handed_out_in_the_order_of_the_names() -> None:
    one = world(flags=("always", "never", "every second time"))
    made = objects(one, {"a": "flag", "x": "model", "b": "choice", "c": "flag"}, 1)
    assert [made[name]() for name in "abc"] == [True, False, True]
    one.loss().backward()
    assert [made[name]() for name in "abc"] == [True, False, False]
