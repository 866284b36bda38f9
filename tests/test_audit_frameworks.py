"""The audit in real frameworks: what it reports of tiny trainings, beside what their sources do.

They need `pip install 'clipcheck[frameworks]'`; what is not installed is skipped.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from test_frameworks import MAX_NORM, STEPS, batches, fitted, lightning_classes, needed, small_model, trainer  # noqa: E402
from torch import nn  # noqa: E402

from clipcheck import audit  # noqa: E402

pytestmark = pytest.mark.frameworks


def watched(train: Callable[[], Any]) -> audit.Report:
    with audit.watching() as watch:
        train()
    return watch.report()


def only(report: audit.Report) -> Any:
    """The one optimizer that stepped, with nothing that the audit could not do."""
    assert not any("ended early" in one for one in report.not_seen)
    (part,) = report.optimizers
    return part


def codes(report: audit.Report) -> list[str]:
    return [fault.code for fault in report.faults]


def test_transformers_trainer(tmp_path: Path) -> None:
    """It clips after backward, through Accelerate; the line of the user's that is shown calls `train`."""
    with audit.watching() as watch:
        trainer(MAX_NORM, tmp_path)
    report = watch.report()
    part = only(report)
    assert (part.steps, report.exit_code) == ({"clipped": STEPS}, 0)
    assert part.norms.limits == [MAX_NORM] * STEPS
    assert part.norms.after == pytest.approx([MAX_NORM] * STEPS, rel=1e-3)
    clip = next(event for event in watch.end().events if event.kind == "C")
    assert clip.site is not None
    assert clip.site.file.endswith("test_frameworks.py")
    assert clip.site.function == "trainer"


def test_transformers_trainer_accumulates(tmp_path: Path) -> None:
    """Once for two micro-batches, so there is nothing to complain about."""
    report = watched(lambda: trainer(MAX_NORM, tmp_path, gradient_accumulation_steps=2))
    assert (only(report).steps, report.exit_code) == ({"clipped": STEPS}, 0)


def accelerated(every: int, guarded: bool) -> None:
    accelerate = needed("accelerate")
    accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=every)
    model = small_model()
    model, optimizer = accelerator.prepare(model, torch.optim.SGD(model.parameters(), lr=2.0))
    for inputs, targets in batches():
        with accelerator.accumulate(model):
            accelerator.backward(nn.functional.mse_loss(model(inputs), targets))
            if accelerator.sync_gradients or not guarded:
                accelerator.clip_grad_norm_(model.parameters(), MAX_NORM)
            optimizer.step()
            optimizer.zero_grad()


@pytest.mark.parametrize(("guarded", "faults"), [(True, []), (False, ["CLIP108"])])
def test_accelerate_accumulates(guarded: bool, faults: list[str]) -> None:
    report = watched(lambda: accelerated(2, guarded))
    assert (only(report).steps, codes(report)) == ({"clipped": STEPS // 2}, faults)
    for fault in report.faults:
        assert fault.site.file == __file__
        assert "accelerator.clip_grad_norm_" in Path(__file__).read_text().splitlines()[fault.site.line - 1]


def test_lightning_clips_between_backward_and_step() -> None:
    """Inside the closure that it gives to the optimizer."""
    report = watched(lambda: fitted((), MAX_NORM))
    assert (only(report).steps, report.exit_code) == ({"clipped": STEPS}, 0)


def test_lightning_clip_in_training_step() -> None:
    needed("lightning")

    class Early:
        def training_step(self, batch: Any, index: int) -> Any:
            loss = super().training_step(batch, index)  # type: ignore[misc]
            nn.utils.clip_grad_norm_(self.parameters(), MAX_NORM)  # type: ignore[attr-defined]
            return loss

    report = watched(lambda: fitted((Early,), 0.0))
    assert only(report).steps == {"unclipped": STEPS}
    assert codes(report) == ["CLIP401"]


def test_lightnings_own_demo() -> None:
    """`lightning.pytorch.demos`: a model without any clipping."""
    demos = importlib.import_module("lightning.pytorch.demos.boring_classes") if needed("lightning") else None
    _, trainer_of = lightning_classes()
    report = watched(lambda: trainer_of(gradient_clip_val=None).fit(demos.BoringModel()))  # type: ignore[union-attr]
    part = only(report)
    assert (part.steps, report.exit_code) == ({"unclipped": STEPS}, 0)
    assert part.times is None
    assert "not clipped" in str(report)


@pytest.mark.parametrize(
    ("name", "steps", "updates", "options"),
    [
        ("PPO", 128, 8, {"n_steps": 64, "batch_size": 32, "n_epochs": 2}),
        ("A2C", 30, 6, {"n_steps": 5}),
    ],
)
def test_stable_baselines3(name: str, steps: int, updates: int, options: dict[str, Any]) -> None:
    algorithms = needed("stable_baselines3")

    def train() -> None:
        algorithm = getattr(algorithms, name)(
            "MlpPolicy", "CartPole-v1", seed=0, device="cpu", max_grad_norm=MAX_NORM, **options
        )
        algorithm.learn(steps)

    report = watched(train)
    assert (only(report).steps, report.exit_code) == ({"clipped": updates}, 0)
    assert max(only(report).norms.after) <= MAX_NORM * 1.001


def test_stable_baselines3_sac_is_not_clipped() -> None:
    """SAC has three optimizers and clips none of them."""
    algorithms = needed("stable_baselines3")

    def train() -> None:
        algorithm = algorithms.SAC("MlpPolicy", "Pendulum-v1", seed=0, learning_starts=20, batch_size=8)
        algorithm.learn(30)

    report = watched(train)
    assert len(report.optimizers) == 3
    assert {how for part in report.optimizers for how in part.steps} == {"unclipped"}
    assert report.exit_code == 0


def test_fabric_and_its_precision() -> None:
    fabric_module = needed("lightning").fabric
    fabric = fabric_module.Fabric(accelerator="cpu", devices=1)
    model = small_model()
    model, optimizer = fabric.setup(model, torch.optim.SGD(model.parameters(), lr=2.0))

    def train() -> None:
        for inputs, targets in batches():
            optimizer.zero_grad()
            fabric.backward(nn.functional.mse_loss(model(inputs), targets))
            fabric.clip_gradients(model, optimizer, max_norm=MAX_NORM)
            optimizer.step()

    assert only(watched(train)).steps == {"clipped": STEPS}


def test_an_accelerator_with_a_scaler_and_torchs_clip() -> None:
    """CLIP403 in a run: fp16 needs a GPU, so the scaler of the CPU is put in by hand."""
    accelerate = needed("accelerate")
    accelerator = accelerate.Accelerator(cpu=True)
    accelerator.scaler = torch.amp.GradScaler("cpu")
    model = small_model()
    model, optimizer = accelerator.prepare(model, torch.optim.SGD(model.parameters(), lr=2.0))

    def train(clip: Callable[..., Any]) -> None:
        for inputs, targets in batches():
            optimizer.zero_grad()
            accelerator.backward(nn.functional.mse_loss(model(inputs), targets))
            clip(model.parameters(), MAX_NORM)
            optimizer.step()

    accelerator.native_amp, accelerator.state._mixed_precision = True, "fp16"
    optimizer.scaler = accelerator.scaler
    accelerator.backward = lambda loss: accelerator.scaler.scale(loss).backward()
    assert codes(watched(lambda: train(nn.utils.clip_grad_norm_))) == ["CLIP301"]
    assert codes(watched(lambda: train(accelerator.clip_grad_norm_))) == []
