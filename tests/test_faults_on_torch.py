"""Faults that need more than one model and optimizer: run on torch, the examples miss the limit as documented."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from conftest import PROJECT

torch = pytest.importorskip("torch", reason="needs the extra clipcheck[torch]")

from torch.optim.optimizer import register_optimizer_step_pre_hook  # noqa: E402

LIMIT = 0.01


def program(name: str) -> dict[str, Any]:
    """The names that a fixture's file defines."""
    space: dict[str, Any] = {}
    path = PROJECT / "fixtures" / name
    exec(compile(path.read_text(encoding="utf-8"), str(path), "exec"), space)  # ours
    return space


@pytest.fixture
def norms() -> Iterator[dict[int, float]]:
    """The largest gradient norm with which each optimizer steps, by its number of parameters."""
    seen: dict[int, float] = {}

    def before_step(optimizer: Any, *_: object) -> None:
        params = [p for group in optimizer.param_groups for p in group["params"]]
        norm = torch.nn.utils.get_total_norm([p.grad for p in params if p.grad is not None]).item()
        seen[len(params)] = max(seen.get(len(params), 0.0), norm)

    handle = register_optimizer_step_pre_hook(before_step)
    yield seen
    handle.remove()


def batches() -> list[tuple[Any, Any]]:
    torch.manual_seed(0)
    return [(torch.randn(8, 3), torch.randn(8, 1)) for _ in range(3)]


def test_a_step_inside_backward_is_not_clipped(norms: dict[int, float]) -> None:
    """CLIP115: each parameter steps with its whole gradient; the clip afterwards finds none."""
    model = torch.nn.Linear(3, 1)
    program("CLIP115-step-in-backward-hook/before.py")["train"](model, batches(), torch.nn.functional.mse_loss, LIMIT)
    assert norms[1] > LIMIT
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.skipif(not hasattr(torch.amp, "GradScaler"), reason="before torch 2.3, scalers need a GPU")
@pytest.mark.parametrize("scaled", [False, True])
def test_only_one_branch_respects_the_limit(norms: dict[int, float], scaled: bool) -> None:
    """CLIP116: without the scaler, the same training runs without clipping."""
    model = torch.nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    train = program("CLIP116-clip-in-one-branch/before.py")["train"]
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0) if scaled else None
    train(model, optimizer, batches(), torch.nn.functional.mse_loss, scaler, LIMIT)
    assert (norms[2] <= LIMIT * 1.001) is scaled


@pytest.mark.parametrize(("side", "limited"), [("before", False), ("after", True)])
def test_only_the_optimizer_whose_parameters_are_clipped_respects_the_limit(
    norms: dict[int, float], side: str, limited: bool
) -> None:
    """CLIP117: the actor is clipped twice, the critic never, until the second clip takes the critic's parameters."""
    actor, critic = torch.nn.Linear(3, 1), torch.nn.Sequential(torch.nn.Linear(3, 1), torch.nn.Linear(1, 1))
    inputs = [one for one, _ in batches()]
    program(f"CLIP117-clip-of-other-optimizer/{side}.py")["train"](actor, critic, inputs, LIMIT)
    assert norms[2] <= LIMIT * 1.001
    assert (norms[4] <= LIMIT * 1.001) is limited
