"""What is known of Lightning's part: manual optimization, and which Trainer scales the loss."""

from __future__ import annotations

import pytest

from clipcheck.engine.file import check_file
from clipcheck.settings.keys import Settings

MODULE = """\
import lightning as L
import torch
class M(L.LightningModule):
    def __init__(self):
        self.automatic_optimization = {manual}
    def training_step(self, batch, i):
        {body}
"""
BODY = "self.manual_backward(loss)\n        CLIP\n        opt.step()"
OWN = 'self.clip_gradients(opt, gradient_clip_val=0.5, gradient_clip_algorithm="norm")'
TORCHS = "torch.nn.utils.clip_grad_norm_(self.parameters(), 1.0)"


def found(trainer: str, body: str = BODY, clip: str = OWN, manual: str = "False") -> list[str]:
    text = MODULE.format(manual=manual, body=body.replace("CLIP", clip)) + trainer + "\n"
    report = check_file("x.py", text.encode(), Settings(codes=frozenset({"CLIP301"})))
    assert report.errors == ()
    return [finding.help for finding in report.findings]


@pytest.mark.parametrize("clip", [OWN, TORCHS, TORCHS.replace("norm_", "value_")])
@pytest.mark.parametrize(
    "trainer",
    [
        'L.Trainer(precision="16-mixed")',
        "L.Trainer(precision=16)",
        'L.Trainer(precision="16")',
        'L.Trainer(devices=2, precision="16-mixed" if torch.cuda.is_available() else 32)',
        'PRECISION = "16-mixed"\nL.Trainer(precision=PRECISION)',
        'L.Trainer(plugins=[MixedPrecision("16-mixed", "cuda")])',
        'L.Trainer(plugins=MixedPrecision(precision="16-mixed", device="cuda"))',
        'from lightning.pytorch import Trainer\nTrainer(precision="16-mixed")',
    ],
)
def test_a_trainer_that_scales(trainer: str, clip: str) -> None:
    (said,) = found(trainer, clip=clip)
    assert "on_before_optimizer_step" in said


@pytest.mark.parametrize(
    "trainer",
    [
        "",
        "L.Trainer()",
        'L.Trainer(precision="bf16-mixed")',
        'L.Trainer(precision="16-true")',
        'L.Trainer(precision="bf16")',
        "L.Trainer(precision=32)",
        "L.Trainer(precision=args.precision)",
        "L.Trainer(devices=16)",
        'Trainer(precision="16-mixed")',  # of something else
        'L.Trainer(plugins=[MixedPrecision("bf16-mixed", "cuda")])',
        'L.Trainer(precision="16-mixed")\nL.Trainer(precision="bf16-mixed")',
    ],
)
def test_a_trainer_that_does_not_or_may_not(trainer: str) -> None:
    assert found(trainer) == []


@pytest.mark.parametrize(
    ("body", "manual"),
    [
        (BODY, "True"),
        ("CLIP", "False"),
        ("self.manual_backward(loss)\n        self.scaler.unscale_(opt)\n        CLIP", "False"),
        ("self.manual_backward(loss)\n        opt.step()\n        CLIP", "False"),
        ("loss.backward()\n        CLIP", "False"),
        ("if a:\n            self.manual_backward(loss)\n        CLIP", "False"),
        ("self.manual_backward(loss)\n        self.unscale(opt)\n        CLIP", "False"),
    ],
)
def test_nothing_is_scaled_or_it_may_be_unscaled(body: str, manual: str) -> None:
    assert found('L.Trainer(precision="16-mixed")', body, manual=manual) == []
