"""Tiny trainings in the real frameworks: with the runtime installed, the losses are the same.

They need `pip install 'clipcheck[frameworks]'`; what is not installed is skipped.
"""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from conftest import PROJECT

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from torch.nn.utils import clip_grad  # noqa: E402

from clipcheck import runtime  # noqa: E402
from clipcheck.runtime import clip  # noqa: E402

pytestmark = pytest.mark.frameworks

Train = Callable[[float], list[float]]  # with a max_norm, to the losses of the steps
MAX_NORM = 0.05
STEPS = 6


def needed(name: str) -> ModuleType:
    """A framework; if it is missing, the test is skipped and says what to install."""
    pytest.importorskip(name, reason=f"{name} is not installed: pip install 'clipcheck[frameworks]'")
    return importlib.import_module(name)


@contextmanager
def counting_torchs() -> Iterator[list[None]]:
    """Counts the calls of torch's function, which is still called."""
    calls: list[None] = []
    original = torch.nn.utils.clip_grad_norm_

    def counted(*args: Any, **kwargs: Any) -> torch.Tensor:
        calls.append(None)
        return original(*args, **kwargs)

    torch.nn.utils.clip_grad_norm_ = counted
    try:
        yield calls
    finally:
        torch.nn.utils.clip_grad_norm_ = original


@contextmanager
def counting_ours() -> Iterator[list[None]]:
    """Counts the calls of our functions, and fails if one of torch's own is called."""
    calls: list[None] = []
    with pytest.MonkeyPatch.context() as patch:
        listed = clip.listed

        def counted(*args: Any, **kwargs: Any) -> list[torch.Tensor]:
            calls.append(None)
            return listed(*args, **kwargs)

        def never(*args: Any) -> None:
            raise AssertionError("torch's own function was called")

        patch.setattr(clip, "listed", counted)  # the first thing that each of ours calls
        patch.setattr(clip_grad, "_group_tensors_by_device_and_dtype", never)
        yield calls


def differ(some: list[float], others: list[float]) -> float:
    """The largest difference, relative for losses above 1: a float32 near 7 has steps of 5e-7."""
    return max(abs(one - other) / max(1, abs(other)) for one, other in zip(some, others, strict=True))


def check(train: Train, steps: int, ours: Train | None = None) -> None:
    """Trains with torch's function, without a clip, and with ours: installed, or as `ours` calls it."""
    with counting_torchs() as calls:
        want = train(MAX_NORM)
    assert len(calls) == steps
    assert differ(want, train(1e9)) > 1e-3, "clipping makes no difference here, so the losses show nothing"
    with counting_ours() as calls:
        if ours:
            got = ours(MAX_NORM)
        else:
            with runtime.installed():
                got = train(MAX_NORM)
    assert len(calls) == steps
    assert differ(got, want) <= 1e-6


def test_the_check_itself_can_fail() -> None:
    """With a missing clip, one that is off by a thousandth, and one by torch."""
    model_of = SmallLoop()
    check(model_of.train, STEPS)
    for wrong in (
        lambda max_norm: model_of.train(1e9),
        lambda max_norm: model_of.train(max_norm * 1.001, runtime.clip_grad_norm_),
        lambda max_norm: model_of.train(max_norm),
    ):
        with pytest.raises(AssertionError):
            check(model_of.train, STEPS, wrong)


class SmallLoop:
    """A loop without a framework."""

    def train(self, max_norm: float, clip: Callable[..., torch.Tensor] | None = None) -> list[float]:
        model, data = small_model(), batches()
        optimizer = torch.optim.SGD(model.parameters(), lr=2.0)
        losses = []
        for inputs, targets in data:
            optimizer.zero_grad()
            loss = nn.functional.mse_loss(model(inputs), targets)
            loss.backward()
            (clip or torch.nn.utils.clip_grad_norm_)(model.parameters(), max_norm)
            optimizer.step()
            losses.append(loss.item())
        return losses


def small_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 1))


def batches() -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(STEPS, 16, 8, generator=generator)
    return [(each, each[:, :1].sin() * 3) for each in inputs]


# --- transformers ---------------------------------------------------------------------------------------------------


def trainer(max_norm: float, folder: Path, **arguments: Any) -> list[float]:
    """Trains a tiny GPT-2 from its configuration with the real Trainer."""
    transformers = needed("transformers")
    needed("accelerate")
    transformers.set_seed(0)
    sizes = {"vocab_size": 50, "n_positions": 16, "n_embd": 16, "n_layer": 2, "n_head": 2}
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes, bos_token_id=0, eos_token_id=0))
    tokens = torch.randint(50, (2 * STEPS, 12), generator=torch.Generator().manual_seed(1))
    losses = []

    class Recording(transformers.Trainer):
        def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
            loss = super().compute_loss(*args, **kwargs)
            losses.append((loss[0] if isinstance(loss, tuple) else loss).item())
            return loss

    options = transformers.TrainingArguments(
        output_dir=str(folder), max_steps=STEPS, per_device_train_batch_size=2, learning_rate=0.5, optim="sgd",
        max_grad_norm=max_norm, logging_steps=1, report_to=[], save_strategy="no", disable_tqdm=True, use_cpu=True,
        **arguments,
    )  # fmt: skip
    training = Recording(
        model=model, args=options, train_dataset=[{"input_ids": each, "labels": each} for each in tokens]
    )
    training.train()
    norms = [entry["grad_norm"] for entry in training.state.log_history if "grad_norm" in entry]
    assert len(norms) == STEPS
    assert all(norm > MAX_NORM for norm in norms)
    return losses


def test_transformers_trainer(tmp_path: Path) -> None:
    check(lambda max_norm: trainer(max_norm, tmp_path), STEPS)


def test_transformers_trainer_accumulates(tmp_path: Path) -> None:
    check(lambda max_norm: trainer(max_norm, tmp_path, gradient_accumulation_steps=2), STEPS)


def test_trl_sft(tmp_path: Path) -> None:
    """TRL's trainers are transformers' Trainer; one of them, on a vocabulary of ten words."""
    trl, transformers = needed("trl"), needed("transformers")
    tokenizers = importlib.import_module("tokenizers")
    words = "a b c d e f g h <eos> <pad>".split()
    vocabulary = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="<pad>")
    )
    vocabulary.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=vocabulary, eos_token="<eos>", pad_token="<pad>", unk_token="<pad>"
    )
    texts = [{"text": " ".join(words[index % 8] for index in range(start, start + 9))} for start in range(2 * STEPS)]

    def train(max_norm: float) -> list[float]:
        transformers.set_seed(0)
        sizes = {"n_positions": 16, "n_embd": 16, "n_layer": 2, "n_head": 2}
        configuration = transformers.GPT2Config(vocab_size=len(words), **sizes, bos_token_id=8, eos_token_id=8)
        options = trl.SFTConfig(
            output_dir=str(tmp_path), max_steps=STEPS, per_device_train_batch_size=2, learning_rate=0.5, optim="sgd",
            max_grad_norm=max_norm, logging_steps=1, report_to=[], save_strategy="no", disable_tqdm=True, use_cpu=True,
            bf16=False, gradient_checkpointing=False,
        )  # fmt: skip
        training = trl.SFTTrainer(
            model=transformers.GPT2LMHeadModel(configuration),
            args=options,
            train_dataset=importlib.import_module("datasets").Dataset.from_list(texts),
            processing_class=tokenizer,
        )
        training.train()
        return nn.utils.parameters_to_vector(training.model.parameters()).tolist()

    check(train, STEPS)


# --- Accelerate -----------------------------------------------------------------------------------------------------


def accelerated(max_norm: float, clip: Callable[..., Any] | None = None) -> list[float]:
    accelerate = needed("accelerate")
    accelerator = accelerate.Accelerator(cpu=True)
    model = small_model()
    model, optimizer = accelerator.prepare(model, torch.optim.SGD(model.parameters(), lr=2.0))
    losses = []
    for inputs, targets in batches():
        with accelerator.accumulate(model):
            loss = nn.functional.mse_loss(model(inputs), targets)
            accelerator.backward(loss)
            if accelerator.sync_gradients:
                if clip:
                    norm = clip(accelerator, model.parameters(), max_norm)
                else:
                    norm = accelerator.clip_grad_norm_(model.parameters(), max_norm)
                assert norm > MAX_NORM
            optimizer.step()
            optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def test_accelerate() -> None:
    check(accelerated, STEPS)


def test_accelerate_without_installing() -> None:
    from clipcheck.integrations import accelerate as ours

    check(accelerated, STEPS, lambda max_norm: accelerated(max_norm, ours.clip))


def test_our_clip_unscales_as_the_accelerator_does() -> None:
    from clipcheck.integrations import accelerate as ours

    accelerator = needed("accelerate").Accelerator(cpu=True)
    param = nn.Parameter(torch.zeros(2))
    param.grad = torch.tensor([3.0, 4.0]) * 128
    accelerator.unscale_gradients = lambda: param.grad.div_(128)
    assert ours.clip(accelerator, [param], 1.0).item() == 5.0
    assert ours.clip(accelerator, [param], 1.0, nonfinite="skip", norm_type=1).item() < 2.0


# --- Lightning ------------------------------------------------------------------------------------------------------


def lightning_classes() -> tuple[type, Callable[..., Any]]:
    """A module without a clip, and a factory for its trainer."""
    pl = needed("lightning").pytorch

    class Model(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = small_model()
            self.losses: list[float] = []

        def training_step(self, batch: Any, _: int) -> torch.Tensor:
            loss = nn.functional.mse_loss(self.model(batch[0]), batch[1])
            self.losses.append(loss.item())
            return loss

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=2.0)

    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "barebones": False}
    return Model, lambda **options: pl.Trainer(
        accelerator="cpu", devices=1, max_steps=STEPS, enable_model_summary=False, **quiet, **options
    )


def fitted(bases: tuple[type, ...], max_norm: float, **options: Any) -> Any:
    """A trained module, with additional `bases`."""
    model_class, trainer_of = lightning_classes()
    model = type("Mixed", (*bases, model_class), {})()
    loader = torch.utils.data.DataLoader(batches(), batch_size=None)
    trainer_of(gradient_clip_val=max_norm, **options).fit(model, loader)
    return model


@pytest.mark.parametrize("algorithm", [None, "norm"])
def test_lightning(algorithm: str | None) -> None:
    check(lambda max_norm: fitted((), max_norm, gradient_clip_algorithm=algorithm).losses, STEPS)


def test_lightning_without_installing() -> None:
    from clipcheck.integrations.lightning import ClipsWithRuntime

    check(
        lambda max_norm: fitted((), max_norm).losses,
        STEPS,
        lambda max_norm: fitted((ClipsWithRuntime,), max_norm).losses,
    )


# What CLIP301 and CLIP410 say about Lightning: the norm of the gradients that a step uses, by the place of the clip.

SCALE = 64.0


def norm_of(model: nn.Module) -> float:
    return float(torch.nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None]))


def norms_at_steps(scaled: bool, **methods: Callable[..., Any]) -> list[float]:
    """The norms at the steps of a training whose module has these methods, with or without a loss scale."""
    pl = needed("lightning").pytorch
    plugins = importlib.import_module("lightning.pytorch.plugins")
    model_class, trainer_of = lightning_classes()
    seen: list[float] = []

    class Watch(pl.Callback):
        def on_before_optimizer_step(self, trainer: Any, module: Any, optimizer: Any) -> None:
            seen.append(norm_of(module))

    scaler = torch.amp.GradScaler("cpu", init_scale=SCALE)
    plugin = [plugins.MixedPrecision("16-mixed", device="cpu", scaler=scaler)] if scaled else []
    model = type("Clips", (model_class,), methods)()
    loader = torch.utils.data.DataLoader(batches(), batch_size=None)
    trainer_of(plugins=plugin, callbacks=[Watch()]).fit(model, loader)
    assert len(seen) == STEPS
    return seen


def bound_norm(module: Any, *args: Any) -> None:
    if any(p.grad is not None for p in module.parameters()):
        clip_grad.clip_grad_norm_(module.parameters(), MAX_NORM)


def bound_before_the_closure(module: Any, epoch: int, index: int, optimizer: Any, closure: Any) -> None:
    bound_norm(module)
    optimizer.step(closure=closure)


@pytest.mark.parametrize(
    "methods",
    [
        {"on_train_batch_end": bound_norm},
        {"on_train_batch_start": bound_norm},
        {"on_before_zero_grad": bound_norm},
        {"optimizer_step": bound_before_the_closure},
    ],
    ids=lambda methods: next(iter(methods)),
)
def test_lightning_steps_with_unclipped_gradients(methods: dict[str, Callable[..., Any]]) -> None:
    assert max(norms_at_steps(False, **methods)) > 2 * MAX_NORM


@pytest.mark.parametrize("scaled", [False, True])
def test_lightning_scales_in_on_after_backward(scaled: bool) -> None:
    limit = MAX_NORM / SCALE if scaled else MAX_NORM
    assert max(norms_at_steps(scaled, on_after_backward=bound_norm)) == pytest.approx(limit, rel=1e-2)


@pytest.mark.parametrize("scaled", [False, True])
def test_lightning_scales_until_a_manual_step(scaled: bool) -> None:
    def by_hand(module: Any) -> None:
        super(type(module), module).__init__()
        module.automatic_optimization = False

    def training_step(module: Any, batch: Any, _: int) -> None:
        optimizer = module.optimizers()
        optimizer.zero_grad()
        module.manual_backward(nn.functional.mse_loss(module.model(batch[0]), batch[1]))
        module.clip_gradients(optimizer, gradient_clip_val=MAX_NORM, gradient_clip_algorithm="norm")
        optimizer.step()

    limit = MAX_NORM / SCALE if scaled else MAX_NORM
    found = norms_at_steps(scaled, __init__=by_hand, training_step=training_step)
    assert max(found) == pytest.approx(limit, rel=1e-2)


def test_our_lightning_mixin_clips_to_the_norm() -> None:
    from clipcheck.integrations.lightning import ClipsWithRuntime

    model = fitted((ClipsWithRuntime,), MAX_NORM)
    assert model.total_norm > MAX_NORM
    assert runtime.grad_norm(model.parameters()).item() == pytest.approx(MAX_NORM, rel=1e-4)
    assert "clip_grad_by_norm" not in vars(model.trainer.precision_plugin)
    assert fitted((ClipsWithRuntime,), 0.0).total_norm is None  # Lightning does not clip then


def test_clipping_by_value_is_left_to_lightning() -> None:
    from clipcheck.integrations.lightning import ClipsWithRuntime

    by_value = {"gradient_clip_algorithm": "value"}
    model = fitted((ClipsWithRuntime,), MAX_NORM, **by_value)
    assert model.total_norm is None
    assert model.losses == fitted((), MAX_NORM, **by_value).losses


def test_plugins_with_a_different_clip_are_left_alone() -> None:
    from clipcheck.integrations.lightning import _calls_torch

    needed("lightning")
    plugins = importlib.import_module("lightning.pytorch.plugins.precision")
    known = {name: getattr(plugins, name) for name in vars(plugins) if name.endswith("Precision")}
    taken = {name for name, plugin in known.items() if _calls_torch(object.__new__(plugin))}
    assert {"Precision", "MixedPrecision", "HalfPrecision", "DoublePrecision"} <= taken
    assert not taken & {"FSDPPrecision", "XLAPrecision"}


def test_fabric() -> None:
    fabric_module = needed("lightning").fabric

    def train(max_norm: float) -> list[float]:
        fabric = fabric_module.Fabric(accelerator="cpu", devices=1)
        model = small_model()
        model, optimizer = fabric.setup(model, torch.optim.SGD(model.parameters(), lr=2.0))
        losses = []
        for inputs, targets in batches():
            optimizer.zero_grad()
            loss = nn.functional.mse_loss(model(inputs), targets)
            fabric.backward(loss)
            assert fabric.clip_gradients(model, optimizer, max_norm=max_norm) > MAX_NORM
            optimizer.step()
            losses.append(loss.item())
        return losses

    check(train, STEPS)


# --- stable-baselines3 ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "steps", "updates", "options"),
    [
        ("PPO", 128, 8, {"n_steps": 64, "batch_size": 32, "n_epochs": 2}),
        ("A2C", 30, 6, {"n_steps": 5}),
        ("DQN", 60, 10, {"learning_starts": 20, "batch_size": 16, "train_freq": 4}),
    ],
)
def test_stable_baselines3(name: str, steps: int, updates: int, options: dict[str, Any]) -> None:
    algorithms = needed("stable_baselines3")

    def train(max_norm: float) -> list[float]:
        """The losses of all updates, and the parameters at the end."""
        algorithm = getattr(algorithms, name)(
            "MlpPolicy", "CartPole-v1", seed=0, device="cpu", learning_rate=0.01, max_grad_norm=max_norm, **options
        )
        algorithm.learn(steps)
        losses = [value for key, value in algorithm.logger.name_to_value.items() if key.endswith("loss")]
        return [*losses, *nn.utils.parameters_to_vector(algorithm.policy.parameters()).tolist()]

    check(train, updates)


# --- starting ranks -------------------------------------------------------------------------------------------------


def below_run(tmp_path: Path, program: str, *launcher: str) -> str:
    """What a program prints under `python -m clipcheck.run`."""
    script = tmp_path / "train.py"
    script.write_text(textwrap.dedent(program), encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    command = [sys.executable, "-m", "clipcheck.run", *launcher, str(script)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def ranks_below(tmp_path: Path) -> list[str]:
    return [(tmp_path / f"rank{rank}").read_text(encoding="utf-8") for rank in (0, 1)]


@pytest.mark.skipif(sys.platform == "win32", reason="torch's launcher wants libuv there")
def test_both_ranks_of_accelerate_launch_call_our_functions(tmp_path: Path) -> None:
    needed("accelerate")
    program = """
        import torch
        from accelerate import Accelerator
        accelerator = Accelerator(cpu=True)
        with open(f"rank{accelerator.process_index}", "w") as file:
            file.write(f"{accelerator.num_processes} {torch.nn.utils.clip_grad_norm_.__module__}")
        accelerator.wait_for_everyone()
    """
    launch = ("-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1")
    options = ("--mixed_precision", "no", "--dynamo_backend", "no", "--num_cpu_threads_per_process", "1")
    below_run(tmp_path, program, *launch, *options)
    assert ranks_below(tmp_path) == ["2 clipcheck.runtime.clip"] * 2


@pytest.mark.skipif(sys.platform == "win32", reason="gloo over files")
def test_both_ranks_that_lightning_starts_call_our_functions(tmp_path: Path) -> None:
    """Lightning starts the second rank itself, with the command line of the first."""
    needed("lightning")
    program = """
        import torch
        from lightning.pytorch import LightningModule, Trainer

        class Model(LightningModule):
            def __init__(self):
                super().__init__()
                self.layer = torch.nn.Linear(2, 1)

            def training_step(self, batch, _):
                return self.layer(batch).sum()

            def configure_optimizers(self):
                return torch.optim.SGD(self.parameters(), lr=0.1)

            def on_fit_end(self):
                with open(f"rank{self.global_rank}", "w") as file:
                    file.write(f"{self.trainer.world_size} {torch.nn.utils.clip_grad_norm_.__module__}")

        quiet = dict(logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False)
        trainer = Trainer(accelerator="cpu", devices=2, strategy="ddp", max_steps=2, gradient_clip_val=0.1, **quiet)
        trainer.fit(Model(), torch.utils.data.DataLoader(torch.ones(8, 2), batch_size=2))
    """
    below_run(tmp_path, program)
    assert ranks_below(tmp_path) == ["2 clipcheck.runtime.clip"] * 2


# --- what cannot be run here ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["DEEPSPEED", "MEGATRON_LM", "XLA", "TPU", "FSDP"])
def test_accelerators_with_a_different_clip_are_left_alone(kind: str) -> None:
    """With a stand-in for the accelerator, since those backends need special devices."""
    from clipcheck.integrations import accelerate as ours

    passed_on: list[tuple[object, ...]] = []
    accelerator = SimpleNamespace(
        distributed_type=SimpleNamespace(value=kind),
        is_fsdp2=False,
        clip_grad_norm_=lambda *args: passed_on.append(args),
    )
    params = [nn.Parameter(torch.ones(1))]
    assert ours.clip(accelerator, params, 2.0) is None
    assert passed_on == [(params, 2.0, 2.0)]
    with pytest.raises(ValueError, match=f"nonfinite: {kind} does its own clipping"):
        ours.clip(accelerator, params, 2.0, nonfinite="skip")


def test_fsdp2_of_accelerate_is_ours() -> None:
    from clipcheck.integrations import accelerate as ours

    unscaled: list[None] = []
    accelerator = SimpleNamespace(
        distributed_type=SimpleNamespace(value="FSDP"), is_fsdp2=True, unscale_gradients=lambda: unscaled.append(None)
    )
    param = nn.Parameter(torch.zeros(2))
    param.grad = torch.tensor([3.0, 4.0])
    assert ours.clip(accelerator, [param], 1.0).item() == 5.0
    assert unscaled == [None]
