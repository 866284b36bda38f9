"""What two widely read documents claim about gradient clipping, run on torch."""

from __future__ import annotations

import math

import pytest

torch = pytest.importorskip("torch")

from clipcheck.bench import beliefs  # noqa: E402

CPU = torch.device("cpu")


def param_with_gradient() -> torch.Tensor:
    param = torch.zeros(2, requires_grad=True)
    param.grad = torch.tensor([3.0, 4.0])
    return param


def test_clip_grad_norm_is_a_deprecated_alias_that_clips_in_place() -> None:
    param = param_with_gradient()
    with pytest.warns(FutureWarning, match="deprecated"):
        returned = torch.nn.utils.clip_grad_norm([param], 1.0)
    assert returned.item() == 5.0  # the norm before
    torch.testing.assert_close(param.grad, torch.tensor([0.6, 0.8]), rtol=1e-5, atol=0)  # not left alone
    twin = param_with_gradient()
    assert torch.nn.utils.clip_grad_norm_([twin], 1.0).item() == 5.0
    assert torch.equal(param.grad, twin.grad)
    assert not beliefs.leaves_gradients_alone(CPU).holds
    assert not beliefs.returns_the_clipped_norm(CPU).holds


def test_the_root_does_not_cause_the_loss_of_digits() -> None:
    """`pow(2).sum()` is more accurate on the CPU, with the root put back too: torch sums squares and norms differently."""
    generator = torch.Generator().manual_seed(0)
    errors = beliefs.errors_of_the_norm([torch.randn(1000, 1000, generator=generator) for _ in range(10)])
    assert errors["squares"] < errors["norm"]
    assert errors["rooted"] < errors["norm"] / 10
    assert errors["rooted"] < 1e-7  # a root and a square cost at most a rounding each


def test_squaring_a_root_again_costs_one_rounding() -> None:
    for value in (2.0, 3.0, 1e-3, 7e5):
        assert math.sqrt(value) ** 2 == pytest.approx(value, rel=3e-16)


def test_torch_takes_norms_of_norms_and_does_not_sum_squares() -> None:
    belief = beliefs.torch_sums_squares(CPU)
    assert not belief.holds
    assert "_foreach_norm" in belief.seen


def test_every_belief_can_be_run() -> None:
    found = beliefs.all_beliefs(CPU)
    assert len(found) == len(beliefs.BELIEFS)
    speed = next(belief for belief in found if "faster" in belief.claim)
    assert "times as" in speed.seen  # how fast depends on the machine, so no figure is asserted


def test_a_ratio_is_computed_per_round() -> None:
    """A machine that is slow for a while is slow for both: the ratio of the medians here would be 1."""
    from clipcheck.bench.measure import Timing

    ours, theirs = Timing([1.0, 2.0, 10.0, 20.0, 30.0], None), Timing([2.0, 4.0, 20.0, 10.0, 10.0], None)
    assert ours.wall == theirs.wall == 10.0
    assert ours.ratio(theirs) == 0.5
