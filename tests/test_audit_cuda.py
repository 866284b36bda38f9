"""The audit on a GPU: it never synchronizes with the device inside a step, and changes nothing there."""

from __future__ import annotations

import os

import pytest

torch = pytest.importorskip("torch")

from torch import Tensor, nn  # noqa: E402
from torch.nn.utils import clip_grad_norm_  # noqa: E402

from clipcheck import audit, runtime  # noqa: E402

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what deterministic products of matrices ask for

STEPS = 8  # more than the calls in which reads by the host are counted


def training(clip: object, steps: int = STEPS, synchronization: str = "default") -> list[Tensor]:
    """The losses and the parameters at the end, still on the device; `synchronization` says whether the steps may synchronize."""
    assert callable(clip)
    torch.manual_seed(0)
    layers = [nn.Linear(256, 256), nn.LayerNorm(256), nn.GELU()] * 4
    model = nn.Sequential(*layers, nn.Linear(256, 1)).cuda()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    inputs = torch.randn(steps, 64, 256, device="cuda")
    losses = []
    torch.cuda.set_sync_debug_mode(synchronization)
    try:
        for step in range(steps):
            optimizer.zero_grad()
            loss = (model(inputs[step]) - inputs[step].sum(1, keepdim=True)).square().mean()
            loss.backward()
            clip(model.parameters(), 0.5)
            optimizer.step()
            losses.append(loss.detach())
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return [*losses, nn.utils.parameters_to_vector(model.parameters()).detach()]


@pytest.mark.parametrize("clip", [clip_grad_norm_, runtime.clip_grad_norm_, nn.utils.clip_grad_value_])
def test_no_step_synchronizes_while_it_watches(clip: object) -> None:
    training(clip)  # what is loaded and compiled at first
    with audit.watching() as watch:
        training(clip, synchronization="error")
    report = watch.report()
    assert report.not_seen == []  # an error of an observer would stand here
    assert report.optimizers[0].steps == {"clipped": STEPS}
    assert report.optimizers[0].times is not None
    assert report.optimizers[0].times.reads == 0


def test_a_program_that_synchronizes_is_reported() -> None:
    """Without which the test above could not fail: the same mode, and a clip that reads its norm."""

    def waits(parameters: object, max_norm: float) -> None:
        clip_grad_norm_(parameters, max_norm, error_if_nonfinite=True)

    training(waits)
    with audit.watching() as watch:
        training(waits)
    times = watch.report().optimizers[0].times
    assert times is not None
    assert times.reads == 1
    with pytest.raises(RuntimeError, match="synchroniz"):
        training(waits, synchronization="error")


@pytest.mark.parametrize("clip", [clip_grad_norm_, runtime.clip_grad_norm_])
def test_the_training_is_the_same_bit_for_bit(clip: object) -> None:
    torch.use_deterministic_algorithms(True)
    try:
        alone, again = training(clip), training(clip)
        with audit.watching() as watch:
            beside = training(clip)
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(map(torch.equal, alone, again))
    assert all(map(torch.equal, alone, beside))
    assert watch.report().steps == STEPS


def test_the_norms_are_those_that_the_program_sees() -> None:
    seen: list[Tensor] = []
    with audit.watching() as watch:
        training(lambda *args: seen.append(clip_grad_norm_(*args)))
    norms = watch.report().optimizers[0].norms
    assert norms.before == [norm.item() for norm in seen]
    assert norms.after == pytest.approx([min(0.5, norm) for norm in norms.before], rel=1e-4)
