"""What is known about Lightning: manual optimization, and which Trainer scales the loss."""

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
        'settings = dict(devices=2, precision="16-mixed")\nL.Trainer(**settings)',
        'L.Trainer(max_epochs=2, **{"precision": 16})',
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
        'settings = dict(precision="bf16-mixed")\nL.Trainer(**settings)',
        'settings = dict(precision="16-mixed")\nsettings["precision"] = 32\nL.Trainer(**settings)',
        'settings = read(precision="16-mixed")\nL.Trainer(**settings)',
        'Trainer(precision="16-mixed")',  # of something else
        'L.Trainer(plugins=[MixedPrecision("bf16-mixed", "cuda")])',
        'L.Trainer(precision="16-mixed")\nL.Trainer(precision="bf16-mixed")',
    ],
)
def test_a_trainer_that_does_not_or_may_not_scale(trainer: str) -> None:
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


def test_manual_optimization_that_the_class_declares() -> None:
    text = MODULE.format(manual="False", body=BODY.replace("CLIP", OWN)) + 'L.Trainer(precision="16-mixed")\n'
    declared = text.replace(
        "def __init__(self):\n        self.automatic_optimization = False", "automatic_optimization = False"
    )
    settings = Settings(codes=frozenset({"CLIP301"}))
    assert len(check_file("x.py", declared.encode(), settings).findings) == 1
    assert check_file("x.py", declared.replace("False", "True").encode(), settings).findings == ()


# --- hooks ------------------------------------------------------------------------------------------------------------

HOOK = "import lightning as L\nimport torch\nclass M({base}):\n    def {hook}:\n        {body}\n{trainer}\n"
CLIP = "torch.nn.utils.clip_grad_norm_(self.parameters(), 1.0)"
BATCH_END = "on_train_batch_end(self, outputs, batch, i)"
STEP = "optimizer_step(self, epoch, i, optimizer, optimizer_closure)"
SCALES = 'L.Trainer(precision="16-mixed")'


def said(hook: str, body: str = CLIP, base: str = "L.LightningModule", trainer: str = "") -> list[str]:
    text = HOOK.format(hook=hook, body=body, base=base, trainer=trainer)
    report = check_file("x.py", text.encode(), Settings(codes=frozenset({"CLIP410"})))
    assert report.errors == () and all(finding.help for finding in report.findings)
    return [finding.message for finding in report.findings]


@pytest.mark.parametrize(
    ("hook", "body", "word"),
    [
        (BATCH_END, CLIP, "after the step"),
        (BATCH_END, "if self.clips:\n            " + CLIP, "after the step"),
        ("on_train_batch_start(self, batch, i)", CLIP, "after the step"),
        ("on_train_epoch_end(self)", CLIP, "after the step"),
        ("on_before_zero_grad(self, optimizer)", CLIP, "after the step"),
        (STEP, CLIP + "\n        optimizer.step(closure=optimizer_closure)", "is called later"),
        (STEP, CLIP + "\n        super().optimizer_step(epoch, i, optimizer, optimizer_closure)", "is called later"),
        (STEP, "optimizer.step(closure=optimizer_closure)\n        " + CLIP, "the step above has already used"),
        ("on_after_backward(self)", CLIP, "clips scaled gradients"),
    ],
)
def test_a_clip_that_lightning_runs_at_the_wrong_time(hook: str, body: str, word: str) -> None:
    (message,) = said(hook, body, trainer=SCALES)
    assert word in message


@pytest.mark.parametrize(
    ("hook", "body", "base", "trainer"),
    [
        ("on_after_backward(self)", CLIP, "L.LightningModule", ""),
        ("on_after_backward(self)", CLIP, "L.LightningModule", 'L.Trainer(precision="bf16-mixed")'),
        ("on_after_backward(self)", "self.scaler.unscale_(o)\n        " + CLIP, "L.LightningModule", SCALES),
        ("on_before_optimizer_step(self, optimizer)", CLIP, "L.LightningModule", SCALES),
        ("configure_gradient_clipping(self, optimizer)", CLIP, "L.LightningModule", SCALES),
        (STEP, "optimizer_closure()\n        " + CLIP + "\n        optimizer.step()", "L.LightningModule", ""),
        (STEP, "loss.backward()\n        " + CLIP + "\n        optimizer.step()", "L.LightningModule", ""),
        (BATCH_END, "loss.backward()\n        " + CLIP, "L.LightningModule", ""),
        (BATCH_END, CLIP.replace("1.0", "torch.inf"), "L.LightningModule", ""),
        (BATCH_END, CLIP, "torch.nn.Module", ""),
        (BATCH_END, CLIP, "Callback", ""),
        ("training_step(self, batch, i)", CLIP, "L.LightningModule", ""),
        ("finish(self)", CLIP, "L.LightningModule", ""),
    ],
)
def test_a_clip_in_time_or_at_a_time_unknown(hook: str, body: str, base: str, trainer: str) -> None:
    assert said(hook, body, base, trainer) == []


@pytest.mark.parametrize(
    ("module", "count"), [("class N(M, L.LightningModule): pass", 1), ("class N(L.LightningModule): pass", 0)]
)
def test_a_hook_of_a_mixin(module: str, count: int) -> None:
    text = HOOK.format(hook=BATCH_END, body=CLIP, base="object", trainer=module)
    report = check_file("x.py", text.encode(), Settings(codes=frozenset({"CLIP410"})))
    assert len(report.findings) == count


def test_lightnings_own_clip() -> None:
    own = "self.clip_gradients(self.optimizers(), gradient_clip_val=0.5, gradient_clip_algorithm='norm')"
    assert len(said(BATCH_END, own)) == 1
    assert len(said(STEP, own + "\n        optimizer.step(closure=optimizer_closure)")) == 1
    assert said("configure_gradient_clipping(self, optimizer)", own) == []
    assert said(BATCH_END, "self.clip_gradients(0.5)") == []  # a method of the program's own


def test_a_callback_of_lightning() -> None:
    assert len(said(BATCH_END, base="L.Callback")) == 1
    assert len(said(BATCH_END, base="L.pytorch.callbacks.Callback")) == 1
