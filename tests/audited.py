"""Runs the code of fixtures under the audit, with objects chosen by the names of their parameters.

Frameworks that a fixture imports are stand-ins (`standins/`): they treat gradients as the real ones do, in the same
order, and appear to the audit to be installed where the real ones would be.
"""

from __future__ import annotations

import ast
import inspect
import itertools
import random
import re
import sys
import sysconfig
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, NamedTuple

import torch
from torch import nn

from clipcheck.audit.report import report
from clipcheck.audit.watch import Watch
from clipcheck.verify import harness

STANDINS = {
    "accelerate": ("accelerate", "accelerate/accelerator.py"),
    "lightning": ("lightning", "lightning/pytorch/trainer/trainer.py"),
    "pytorch_lightning": ("lightning", "pytorch_lightning/trainer/trainer.py"),
    "fabric": ("fabric", "lightning/fabric/fabric.py"),
    "deepspeed": ("deepspeed", "deepspeed/runtime/engine.py"),
    "torch_xla.core.xla_model": ("torch_xla", "torch_xla/core/xla_model.py"),
    "horovod.torch": ("horovod", "horovod/torch/optimizer.py"),
    "apex": ("apex", "apex/amp/handle.py"),
    "mypackage": ("mypackage", "mypackage/__init__.py"),
    "norms": ("norms", "norms/__init__.py"),
    "project.mpi": ("project", "project/mpi.py"),
    "project.distributed": ("project", "project/distributed.py"),
}


def _installed(name: str) -> ModuleType:
    """A stand-in whose code claims to be in the file of the real one."""
    source, place = STANDINS[name]
    text = (Path(__file__).parent / "standins" / f"{source}.py").read_text(encoding="utf-8")
    module = ModuleType(name)
    exec(compile(text, str(Path(sysconfig.get_path("purelib")) / place), "exec"), module.__dict__)
    return module


FRAMEWORKS = {name: _installed(name) for name in STANDINS}
LIGHTNING = FRAMEWORKS["lightning.pytorch"] = FRAMEWORKS["lightning"]


def _modules() -> dict[str, ModuleType]:
    """The stand-ins by their names, and what holds them."""
    modules: dict[str, ModuleType] = {}
    for name, module in FRAMEWORKS.items():
        *above, _ = name.split(".")
        modules[name] = module
        for index in range(len(above), 0, -1):
            holder = modules.setdefault(".".join(above[:index]), ModuleType(".".join(above[:index])))
            setattr(holder, name.split(".")[index], modules[".".join(name.split(".")[: index + 1])])
    return modules


@contextmanager
def frameworks() -> Iterator[None]:
    """Has the stand-ins in the place of modules; what is loaded meanwhile stays loaded."""
    modules = _modules()
    before = {name: sys.modules.get(name) for name in modules}
    sys.modules.update(modules)
    try:
        yield
    finally:
        for name, module in before.items():
            sys.modules.pop(name)
            if module is not None:
                sys.modules[name] = module


class Loss(nn.Module):
    """The mean squared error, against zero where there are no targets."""

    def forward(self, outputs: torch.Tensor, targets: torch.Tensor | float = 0.0) -> torch.Tensor:
        return (outputs - targets).square().mean()


class Scalar(nn.Linear):
    """A critic that returns one number for all samples."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return super().forward(inputs).square().mean()


class Widths(nn.Linear):
    """A model that is given the width of what it computes."""

    def forward(self, inputs: torch.Tensor, width: int) -> torch.Tensor:
        return super().forward(inputs) * width


class Judged(nn.Module):
    """A loss with a separate critic."""

    def __init__(self) -> None:
        super().__init__()
        self.critic = Scalar(3, 1)

    def forward(self, outputs: torch.Tensor) -> torch.Tensor:
        return self.critic(outputs) * 100


class Agent(nn.Module):
    """A model that has its own loss and optimizer."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 1)
        self.optimizer = torch.optim.SGD(self.parameters(), lr=0.01)
        self.loss = self.layer(torch.randn(4, 6)).square().mean() * 100


class Config(SimpleNamespace):
    def get(self, name: str, default: object) -> object:
        return getattr(self, name, default)


class Missing(Exception):
    """A function has a parameter that is not provided here; the message names it."""


def objects() -> dict[str, Any]:
    """One of everything that fixtures ask for. Gradients are large compared with every limit."""
    torch.manual_seed(0)
    random.seed(0)
    made = harness._objects(harness.Setting(0, "SGD", torch.float32, 0.5), harness.Trace())
    model, optimizer, batches, loss_fn = made["model"], made["optimizer"], made["batches"], Loss()
    model.encoder, model.decoder, model.tail, model.neck = model.body, model.head, model.head, model.body
    model.weight, model.max_norm = model.body.weight, 0.5
    vars(model)["header"] = nn.Linear(2, 1)  # of another model
    generator, critic, encoder, decoder = nn.Linear(6, 6), nn.Linear(6, 1), nn.Linear(6, 5), nn.Linear(5, 3)
    critic.target = nn.Linear(6, 1)
    for each in (generator, critic, encoder, decoder):
        each.weight.data.mul_(30)
        each.max_norm = 0.5
    loss = loss_fn(model(batches[0][0]), batches[0][1]) * 100
    policy, values, flat = nn.Linear(6, 6), nn.Linear(6, 1), nn.Parameter(torch.ones(3))
    flat.grad = torch.ones(3)
    return {
        **made,
        "loss_fn": loss_fn,
        "loss": loss,
        "losses": [loss],
        "penalty": sum(p.square().sum() for p in model.parameters()),
        "policy": policy,
        "values": values,
        "policy_loss": policy(batches[0][0]).square().mean() * 100,
        "value_loss": values(batches[0][0]).square().mean() * 100,
        "first": loss_fn(model(batches[0][0])) * 100,
        "second": None,
        "samples": [inputs for inputs, _ in batches],
        "kept": [],
        "flat": flat,
        "gradient": torch.ones(3),
        "gradients": [flat],
        "clip_gradients": SimpleNamespace(clip_grad_norm_=lambda *_: None),
        "headless": nn.Linear(2, 1),
        "grads": [flat.grad],
        "value": torch.ones(()),
        "scaled": torch.ones(3),
        "norm_type": 2.0,
        "group": None,
        "reduce_over_ranks": lambda total: total,
        "shard": False,
        "batch": batches[0][0],
        "inputs": batches[0][0],
        "targets": batches[0][1],
        "params": list(model.parameters()),
        "defaults": {"lr": 0.01, "max_grad_norm": 0.5},
        "generator": generator,
        "discriminator": critic,
        "split": lambda batch: (batch, batch),
        "sums": [torch.zeros_like(p) for p in model.parameters()],
        "nets": [model.body, nn.Linear(6, 5)],
        "others": [],
        "lr": 0.01,
        "tools": SimpleNamespace(avg_grads=lambda _: None),
        "critic": critic,
        "encoder": encoder,
        "decoder": decoder,
        "embedding": encoder,
        "dense": decoder,
        "head": nn.Linear(5, 1),
        "actor": nn.Linear(6, 6),
        "other": nn.Linear(6, 6),
        "net": nn.Linear(6, 6),
        "small": nn.Linear(2, 1),
        "models": [encoder, decoder],
        "module": model.head,
        "parts": {"body": model.body, "head": model.head},
        "groups": optimizer.param_groups,
        "agents": [Agent(), Agent()],
        "p": model.body.weight,
        "parameters": list(model.parameters()),
        "weights": list(model.parameters()),
        "tensors": list(model.parameters()),
        "shared_parameters": list(model.parameters()),
        "g": generator,
        "d": critic,
        "g_optimizer": torch.optim.SGD(generator.parameters(), lr=0.01),
        "c_optimizer": torch.optim.SGD(critic.parameters(), lr=0.01),
        "d_optimizer": torch.optim.SGD(critic.parameters(), lr=0.01),
        "actor_optimizer": optimizer,
        "critic_optimizer": optimizer,
        "opt_d": torch.optim.SGD(critic.parameters(), lr=0.01),
        "opt_g": torch.optim.SGD(generator.parameters(), lr=0.01),
        "scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 10),
        "accelerator": FRAMEWORKS["accelerate"].Accelerator(gradient_accumulation_steps=2),
        "fabric": FRAMEWORKS["fabric"].Fabric(),
        "profiler": SimpleNamespace(step=lambda: None),
        "trainer": SimpleNamespace(
            backward_once_more=lambda module: loss_fn(module(batches[0][0]), batches[0][1]).backward(),
            step=optimizer.step,
        ),
        "compute": SimpleNamespace(backward_pass=lambda loss: loss.backward()),
        "warm_up": SimpleNamespace(train=lambda *_: loss_fn(model(batches[0][0]), batches[0][1]).backward()),
        "prepare": lambda scaler, optimizer: scaler.unscale_(optimizer),
        "unscale_gradients": lambda optimizer: made["scaler"].unscale_(optimizer),
        "clip_all": lambda module: nn.utils.clip_grad_norm_(module.parameters(), 0.5),
        "clip_gradients_of": lambda module: nn.utils.clip_grad_norm_(module.parameters(), 0.5),
        "scale_all": lambda parameters, factor: [p.grad.mul_(factor) for p in parameters],
        "lock": SimpleNamespace(release=lambda: None),
        "state": SimpleNamespace(fail=lambda error: None),
        "writer": SimpleNamespace(add_scalar=lambda *_: None),
        "log": lambda *_: None,
        "limits": {
            **{name: 0.1 + i for i, (name, _) in enumerate(model.named_parameters())},
            "body": 1,
            "head": 2,
            0: 1,
        },
        "args": SimpleNamespace(layer_wise=True, in_backward=True, grad_clipping=1.0, limit=1.0, fp16=True),
        "config": Config(max_norm=None, by_value=True),
        "loader": batches,
        "every": 2,
        "log_every": 2,
        "epochs": 2,
        "steps": 2,
        "step": 1,
        "rank": 0,
        "scale": 65536.0,
        "total": 100.0,
        "skip_clipping": False,
        "use_amp": False,
        "use_apex": True,
        "amp": True,
        "is_leader": True,
        "spread": False,
        "turn": True,
        "twice": True,
        "clip": True,
        "clip_grad": True,
        "on_tpu": True,
        "use_deepspeed": False,
        "engine": None,
        "threshold": 1.0,
        "limit": 0.5,
        "factor": 0.1,
        "by_value": True,
        "fused": True,
        "stash": [],
        "frozen": [],
        "norms": [],
    }


class Play(NamedTuple):
    """A function or class of a fixture to run, and the codes expected in it or in what it calls."""

    fixture: str  # as `CLIP101/before`
    name: str
    thing: Any
    source: str
    expected: frozenset[str]
    namespace: dict[str, Any]


def name_of(path: Path) -> str:
    return f"{path.parent.name[:7]}/{path.stem}"


def plays(path: Path) -> Iterator[Play]:
    text = path.read_text(encoding="utf-8")
    module = ModuleType(path.stem)
    module.__dict__["__file__"] = str(path)
    with frameworks():
        exec(compile(text, str(path), "exec"), module.__dict__)
    own = {node.name: node for node in ast.parse(text).body if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
    lines = text.splitlines()
    used = {n.id for node in own.values() for n in ast.walk(node) if isinstance(n, ast.Name) and n.id != node.name}
    for name, node in own.items():
        if isinstance(node, ast.ClassDef) and name in used and not _is_lightnings(module.__dict__[name]):
            continue  # a function runs it
        named = {name, *(n.id for n in ast.walk(node) if isinstance(n, ast.Name) and n.id in own)}
        source = "\n".join("\n".join(lines[own[each].lineno - 1 : own[each].end_lineno]) for each in sorted(named))
        codes = {
            code for line in source.splitlines() for code in line.partition("# expect:")[2].replace(",", " ").split()
        }
        yield Play(name_of(path), name, module.__dict__[name], source, frozenset(codes), module.__dict__)


class Seen(SimpleNamespace):
    """`codes` of the faults, `notes` without an exit code, `how` each step came out, `raised`, `troubles`."""


def audited(play: Play) -> Seen:
    """Runs it; code that neither computes gradients nor steps gets gradients before it and a step after it."""
    made, asked = objects(), _asked(play.thing)
    if "targets" not in play.source and "batches[0]" not in play.source and "batch[0]" not in play.source:
        made["batches"] = [inputs for inputs, _ in made["batches"]]
    made |= OTHERS.get((play.fixture, play.name), lambda made: {})(made)
    if "critic" in asked and "optimizer" in asked:
        made["critic"] = made["model"]
    if "optimizers" in asked:
        made.setdefault("optimizers", {p: torch.optim.SGD([p], lr=0.01) for p in made["model"].parameters()})
    if accelerator := play.namespace.get("accelerator") or ("accelerator" in asked and made["accelerator"]):
        (made["optimizer"],) = accelerator.prepare(made["optimizer"])
    if "fabric" in asked and "fabric.backward" in play.source:
        made["optimizer"] = made["fabric"].setup(made["optimizer"])
    raised = None
    watch = Watch(1000).begin()
    try:
        with harness._quiet(), frameworks():
            if "backward" not in play.source and "grad(" not in play.source and not _is_lightnings(play.thing):
                made["loss"].backward()
            _run(play, made)
            if "step(" not in play.source and "accelerator" not in asked and not _is_lightnings(play.thing):
                made["optimizer"].step()
    except Missing:
        raise
    except BaseException as error:
        raised = error
    finally:
        log = watch.end()
    seen = report(log)
    found = [*seen.findings, *(one for part in seen.optimizers for one in part.findings)]
    how = {how for part in seen.optimizers for how in part.steps}
    faults, notes = ({one.code for one in found if one.is_fault is kind} for kind in (True, False))
    return Seen(codes=faults, notes=notes, how=how, raised=raised, troubles=log.troubles, text=str(seen))


def _is_lightnings(thing: Any) -> bool:
    return isinstance(thing, type) and issubclass(thing, (*_MODULES, LIGHTNING.Callback))


_MODULES = tuple(FRAMEWORKS[name].LightningModule for name in ("lightning", "pytorch_lightning"))


def _asked(thing: Any) -> list[str]:
    """The names of parameters without a default."""
    parameters = inspect.signature(thing).parameters.values()
    return [p.name for p in parameters if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD]


def _called(thing: Any, made: dict[str, Any]) -> Any:
    asked = _asked(thing)
    if unknown := [name for name in asked if name not in made]:
        raise Missing(", ".join(unknown))
    return thing(**{name: made[name] for name in asked})


def _run(play: Play, made: dict[str, Any]) -> None:
    match play.thing:
        case type() if _is_lightnings(play.thing):
            _fit(play, made)
        case type():
            _use(play, made)
        case _:
            _called(play.thing, made)


def _fit(play: Play, made: dict[str, Any]) -> None:
    """Trains a module, or a plain one with a callback, with Lightning."""
    kind, callbacks = play.thing, []
    if issubclass(kind, LIGHTNING.Callback):
        kind, callbacks = LIGHTNING.LightningModule, [kind()]

    class Module(kind):  # type: ignore[misc, valid-type]
        clips = False  # hooks that need gradients before the first backward, where torch raises

        def forward(self, inputs: Any) -> Any:
            return made["model"](inputs[0] if isinstance(inputs, tuple) else inputs)

        def loss(self, batch: Any) -> Any:
            return self(batch).square().mean() * 100

        if not hasattr(kind, "training_step"):

            def training_step(self, batch: Any, batch_idx: int) -> Any:
                return self.loss(batch)

    module = _called(Module, {**made, "net": made["model"]})
    module.model, module.head, module.scale = made["model"], made["model"].head, made["model"].weight
    trainer = made.get("lightning") or play.namespace.get("trainer") or LIGHTNING.Trainer()
    trainer.callbacks = callbacks
    trainer.fit(module, made["batches"])


def _use(play: Play, made: dict[str, Any]) -> None:
    """An object whose methods are called in source order, except those that others call."""
    thing = _called(play.thing, made)
    if isinstance(thing, nn.Module):
        thing.model = made["model"]
    own = {**made, "loss": lambda _: made["loss"], "parameters": made["model"].parameters, "several": True}
    own["optimizers"] = [made["optimizer"]]
    for name, value in own.items():
        if not hasattr(type(thing), name) and name not in vars(thing):
            vars(thing)[name] = value
    kinds = [kind for kind in reversed(play.thing.__mro__) if play.namespace.get(kind.__name__) is kind]
    for name, method in {name: method for kind in kinds for name, method in vars(kind).items()}.items():
        is_called = re.search(rf"self\.{name}\b", play.source)
        if inspect.isfunction(method) and not name.startswith("_") and not is_called:
            own = {"batch": made["batches"][0], "outputs": None, "batch_idx": 0, "epoch": 0, **made}
            own |= {"pl_module": made["model"], "optimizer_closure": lambda: None}
            _called(getattr(thing, name), own)


def _scalar() -> dict[str, Any]:
    """A model that returns its loss."""
    model = Scalar(6, 1)
    return {"model": model, "optimizer": torch.optim.SGD(model.parameters(), lr=0.01)}


def _critic(made: dict[str, Any]) -> dict[str, Any]:
    critic = Scalar(6, 1)
    return {"critic": critic, "opt_d": torch.optim.SGD(critic.parameters(), lr=0.01)}


def _adversarial(made: dict[str, Any]) -> dict[str, Any]:
    """A loss of two outputs, or of one."""
    return {"loss_fn": lambda *outputs: sum(one.mean() for one in outputs if one is not None)}


def _network_and_head() -> dict[str, Any]:
    return {"net": nn.Linear(6, 5), "head": nn.Linear(5, 1)}


def _actor_and_critic() -> dict[str, Any]:
    parts: dict[str, Any] = {"actor": nn.Linear(6, 6), "critic": nn.Linear(6, 1)}
    return parts | {f"{name}_optimizer": torch.optim.SGD(part.parameters(), lr=0.01) for name, part in parts.items()}


def _counted(made: dict[str, Any]) -> dict[str, Any]:
    """A state that is two steps before its end, and batches without one."""
    return {"state": SimpleNamespace(step=98, acc_step=0), "batches": itertools.cycle(made["samples"])}


def _of_widths() -> dict[str, Any]:
    model = Widths(6, 1)
    return {"model": model, "optimizer": torch.optim.SGD(model.parameters(), lr=0.01), "widths": (1, 2)}


def _policy_and_value(made: dict[str, Any]) -> dict[str, Any]:
    """Two models and a loss of each."""
    policy, value = nn.Linear(6, 6), nn.Linear(6, 1)
    losses = {name: one(made["inputs"]).square().mean() * 100 for name, one in (("a", policy), ("b", value))}
    return {"policy": policy, "value": value, **losses}


def _parts(made: dict[str, Any]) -> dict[str, Any]:
    """An optimizer for each part of the model."""
    model = made["model"]
    optimizers = [torch.optim.SGD(part.parameters(), lr=0.01) for part in (model.body, model.head)]
    return {"optimizers": optimizers, "loss": lambda _: model(made["inputs"]).square().mean()}


def _in_float32(made: dict[str, Any]) -> dict[str, Any]:
    fabric = FRAMEWORKS["fabric"].Fabric(enabled=False)
    return {"fabric": fabric, "optimizer": fabric.setup(made["optimizer"])}


class _Engine:
    """An engine that is not DeepSpeed's."""

    def __init__(self, model: nn.Module) -> None:
        self.model, self.parameters = model, model.parameters

    def __call__(self, batch: Any) -> torch.Tensor:
        result: torch.Tensor = self.model(batch).square().mean()
        return result

    def backward(self, loss: torch.Tensor) -> None:
        loss.backward()


# Objects for names that mean something else elsewhere, or on a machine with a GPU.
OTHERS: dict[tuple[str, str], Callable[[dict[str, Any]], dict[str, Any]]] = {
    ("CLIP101/before_5", "adversarial"): lambda made: _adversarial(made),
    ("CLIP101/after_5", "adversarial"): lambda made: _adversarial(made),
    ("CLIP101/before_5", "two_parts"): lambda made: _network_and_head(),
    ("CLIP101/after_5", "two_parts"): lambda made: _network_and_head(),
    ("CLIP101/before_5", "by_its_optimizer"): lambda made: _actor_and_critic(),
    ("CLIP101/after_5", "by_its_optimizer"): lambda made: _actor_and_critic(),
    ("CLIP101/clean", "kept_for_the_next_call"): lambda made: {**_actor_and_critic(), "last": False},
    ("CLIP106/clean", "either"): lambda made: {"first": False},
    ("CLIP108/clean", "only_the_last_part"): lambda made: {"parts": made["samples"]},
    ("CLIP108/before_4", "counted_by_a_state"): lambda made: _counted(made),
    ("CLIP108/clean", "counted_by_a_state"): lambda made: _counted(made),
    ("CLIP108/clean", "a_state_that_counts_nothing"): lambda made: {"state": SimpleNamespace(frozen=0)},
    ("CLIP108/before_4", "several_widths_in_each_micro_batch"): lambda made: _of_widths(),
    ("CLIP108/before_4", "run"): lambda made: {**_of_widths(), "splits": (1, 2)},
    ("CLIP108/before_4", "skipped_with_its_backward"): lambda made: {"overflows": lambda loss: False},
    ("CLIP108/clean", "a_test_that_may_count"): lambda made: {"is_last": lambda index: index % 2 == 1},
    ("CLIP108/clean", "a_loop_over_widths"): lambda made: _of_widths(),
    ("CLIP108/clean", "a_loop_that_zeroes"): lambda made: _of_widths(),
    ("CLIP108/before_4", "with_settings_of_each_turn"): lambda made: {
        "options": SimpleNamespace(every=2, limited=True)
    },
    ("CLIP108/clean", "stepped_in_a_loop_of_its_own"): lambda made: {"parts": made["samples"]},
    ("CLIP108/clean", "taken_before_they_are_cleared"): lambda made: {
        "server": SimpleNamespace(push=lambda gradients: None, pull=lambda model: None)
    },
    ("CLIP108/before_4", "with_fabric"): lambda made: _in_float32(made),
    ("CLIP108/before_4", "Learner"): lambda made: {"critic": made["model"]},
    ("CLIP303/clean", "each_optimizer_once"): lambda made: _parts(made),
    ("CLIP404/before_2", "Runner"): lambda made: _scalar(),
    ("CLIP404/clean", "AnotherRunner"): lambda made: {"args": SimpleNamespace(make=_Engine)},
    ("CLIP102/before_2", "WeightedLoss"): lambda made: {"weights": [1.0]},
    ("CLIP110/clean", "something_else_after_a_test"): lambda made: {"chosen": {made["model"].body.weight}},
    ("CLIP110/clean", "LangevinOptimizer"): lambda made: {"rate": 0.1},
    ("CLIP111/clean", "measures_each"): lambda made: {"groups": {"all": made["optimizer"].param_groups[0]}},
    ("CLIP115/clean", "Groups"): lambda made: {"table": nn.Linear(6, 1), "rest": nn.Linear(6, 1)},
    ("CLIP116/clean", "a_setting_decides"): lambda made: {"settings": SimpleNamespace(max_norm=0.5)},
    ("CLIP117/before_3", "Agent"): lambda made: _policy_and_value(made),
    ("CLIP303/before_3", "one_part"): lambda made: {"part": made["inputs"]},
    ("CLIP303/before_3", "helped"): lambda made: setattr(made["model"], "no_sync", nullcontext) or {},
    ("CLIP412/clean", "local"): lambda made: {"tensor": torch.ones(3)},
    ("CLIP111/before_2", "clip"): lambda made: {"parts": [made["model"].body, made["model"].head]},
    ("CLIP113/before_2", "Learner"): lambda made: {"net": made["model"]},
    ("CLIP114/before_2", "Trainer"): lambda made: {"max_norm": None, "log": SimpleNamespace(error=lambda _: None)},
    ("CLIP116/before_2", "Trainer"): lambda made: {"scaler": None},
    ("CLIP301/before_4", "Net"): lambda made: {"lightning": LIGHTNING.Trainer(precision="16-mixed")},
    ("CLIP301/before_4", "Both"): lambda made: {"lightning": LIGHTNING.Trainer(precision="16-mixed")},
    ("CLIP111/clean", "own_limit"): lambda made: made["optimizer"].param_groups[0].update(max_norm=0.5) or {},
    ("CLIP305/clean", "inside_of_a_wrapper"): lambda made: {"loss_fn": Judged()},
    ("CLIP305/clean", "under_another_name"): lambda made: {"net": Scalar(6, 1)},
    ("CLIP305/clean", "more_given_later"): lambda made: {"head": Scalar(6, 1)},
    ("CLIP305/clean", "other_words"): lambda made: _critic(made),
    ("CLIP505/clean", "clip"): lambda made: {"generator": made["model"].body, "critic": made["model"].head},
    ("CLIP308/before_2", "train"): lambda made: {"limit": 1e9},
    ("CLIP307/before_2", "train"): lambda made: _scalar(),
    ("CLIP309/before_2", "one_branch_has_a_scaler"): lambda made: {
        "engine": SimpleNamespace(model=made["model"], scaler=made["scaler"])
    },
    ("CLIP403/before_2", "train"): lambda made: {"accelerator": FRAMEWORKS["accelerate"].Accelerator("fp16")},
}
