"""What two widely read documents say about clipping, compared with torch on this machine."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import NamedTuple
from unittest import mock

import torch
from torch import Tensor

from clipcheck.bench import measure, peers


class Belief(NamedTuple):
    """A claim and what was seen."""

    claim: str
    seen: str
    holds: bool


def all_beliefs(device: torch.device) -> list[Belief]:
    """Runs every claim on `device`."""
    return [belief(device) for belief in BELIEFS]


def leaves_gradients_alone(device: torch.device) -> Belief:
    param, _ = _clipped_by_the_old_name(device)
    assert param.grad is not None
    after = param.grad.norm().item()
    return Belief(
        "`clip_grad_norm` leaves the gradients unchanged", f"their norm went from 5 to {after:.4g}", after == 5
    )


def returns_the_clipped_norm(device: torch.device) -> Belief:
    _, returned = _clipped_by_the_old_name(device)
    seen = f"it returned {returned:.4g}, the norm before clipping"
    return Belief("`clip_grad_norm` returns the norm of the clipped gradients", seen, abs(returned - 1) < 0.01)


def squares_are_faster(device: torch.device) -> Belief:
    grads = _gradients(device)
    calls = {"norm": lambda: peers.loop_of_norms(grads), "squares": lambda: peers.loop_of_squares(grads)}
    timings = measure.interleaved(calls, device, lambda: None, 51)
    ratio = timings["norm"].ratio(timings["squares"])
    seen = f"it took {1 / ratio:.2f} times as long" if ratio < 1 else f"it was {ratio:.2f} times as fast"
    return Belief(
        "`pow(2).sum()` is 1.25 times faster than `norm(2).item() ** 2`", f"{seen} (10 × 1000 × 1000)", ratio >= 1.2
    )


def squares_are_more_exact(device: torch.device) -> Belief:
    """The root is not what costs digits: with a root taken and squared again the sum of squares is as accurate."""
    grads = _gradients(device)
    errors = errors_of_the_norm(grads)
    seen = (
        "error {norm:.0e} with `norm(2)`, {squares:.0e} with `pow(2).sum()`, {rooted:.0e} with a root and a square more"
    )
    saved = errors["squares"] < errors["norm"] and errors["squares"] < errors["rooted"] / 2
    return Belief("`pow(2).sum()` is more accurate because a root is saved", seen.format(**errors), saved)


def torch_sums_squares(device: torch.device) -> Belief:
    grads = _gradients(device)
    with mock.patch.object(torch, "_foreach_norm", wraps=torch._foreach_norm) as foreach_norm:
        torch.nn.utils.clip_grad_norm_(_parameters(grads), 1e9)
    seen = f"it called `torch._foreach_norm` {foreach_norm.call_count} time(s), then took the norm of the norms"
    return Belief("`clip_grad_norm_` sums squares without a root", seen, foreach_norm.call_count == 0)


BELIEFS: tuple[Callable[[torch.device], Belief], ...] = (
    leaves_gradients_alone,
    returns_the_clipped_norm,
    squares_are_faster,
    squares_are_more_exact,
    torch_sums_squares,
)


def errors_of_the_norm(grads: list[Tensor]) -> dict[str, float]:
    """Relative errors of three loops: norms squared, squares, and squares with a root that is squared again."""
    exact = measure.exact_norm(grads)
    rooted = sum(grad.pow(2).sum().sqrt().item() ** 2 for grad in grads) ** 0.5
    found = {"norm": peers.loop_of_norms(grads), "squares": peers.loop_of_squares(grads), "rooted": rooted}
    return {name: abs(value / exact - 1) for name, value in found.items()}


def _clipped_by_the_old_name(device: torch.device) -> tuple[Tensor, float]:
    """A parameter with the gradient (3, 4) after `clip_grad_norm(…, 1.0)`, and what that returned."""
    (param,) = _parameters([torch.tensor([3.0, 4.0], device=device)])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        returned = torch.nn.utils.clip_grad_norm([param], 1.0)
    return param, float(returned)


def _gradients(device: torch.device) -> list[Tensor]:
    generator = torch.Generator(device).manual_seed(0)
    return [torch.randn(1000, 1000, device=device, generator=generator) for _ in range(10)]


def _parameters(grads: list[Tensor]) -> list[Tensor]:
    params = [torch.zeros_like(grad, requires_grad=True) for grad in grads]
    for param, grad in zip(params, grads, strict=True):
        param.grad = grad
    return params
