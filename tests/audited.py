"""Runs functions of fixtures under the audit, with objects of the harness's making by the names of their parameters."""

from __future__ import annotations

import ast
import gc
import inspect
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from torch import nn

from clipcheck.audit.report import report
from clipcheck.audit.watch import Watch
from clipcheck.verify import harness

gc.freeze()  # what is there already needs no looking through before each watch


class Missing(Exception):
    """A function asks for what is not made here; the message names it."""


def objects() -> dict[str, Any]:
    """One of everything that fixtures ask for. Gradients are large beside every limit that they clip to."""
    torch.manual_seed(0)
    random.seed(0)
    trace = harness.Trace()
    made = harness._objects(harness.Setting(0, "SGD", torch.float32, 0.5), trace)
    model, optimizer, batches, loss_fn = (made[name] for name in ("model", "optimizer", "batches", "loss_fn"))
    scaler = made["scaler"]
    generator, critic = nn.Linear(6, 6), nn.Linear(6, 1)
    encoder, decoder = nn.Linear(6, 5), nn.Linear(5, 3)
    for each in (generator, critic, encoder, decoder):
        each.weight.data.mul_(30)

    class Accelerator:
        """As the real one on a CPU, without a framework: two micro-batches a step."""

        sync_gradients = True
        count = 0

        def accumulate(self, _: nn.Module) -> Any:
            self.count += 1
            self.sync_gradients = self.count % 2 == 0
            return torch.enable_grad()

        def prepared(self, optimizer: torch.optim.Optimizer) -> Any:
            """Its `step` and `zero_grad` do something in the second micro-batch only."""
            return SimpleNamespace(
                step=lambda: self.sync_gradients and optimizer.step(),
                zero_grad=lambda: self.sync_gradients and optimizer.zero_grad(),
            )

        def backward(self, loss: torch.Tensor) -> None:
            loss.backward()

        def clip_grad_norm_(self, parameters: Any, max_norm: float) -> torch.Tensor:
            return nn.utils.clip_grad_norm_(parameters, max_norm)

        def unscale_gradients(self) -> None: ...

        def print(self, *_: object) -> None: ...

    return {
        **made,
        "loss": loss_fn(model(batches[0][0]), batches[0][1]) * 100,
        "generator": generator,
        "critic": critic,
        "encoder": encoder,
        "decoder": decoder,
        "g_optimizer": torch.optim.SGD(generator.parameters(), lr=0.01),
        "c_optimizer": torch.optim.SGD(critic.parameters(), lr=0.01),
        "log": lambda *_: None,
        "every": 2,
        "log_every": 2,
        "epochs": 2,
        "skip_clipping": False,
        "use_amp": False,
        "threshold": 1.0,
        "stash": [],
        "by_value": True,
        "scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 10),
        "profiler": SimpleNamespace(step=lambda: None),
        "trainer": SimpleNamespace(
            backward_once_more=lambda module: loss_fn(module(batches[0][0]), batches[0][1]).backward(),
            step=optimizer.step,
        ),
        "compute": SimpleNamespace(backward_pass=lambda loss: loss.backward()),
        "warm_up": SimpleNamespace(train=lambda *_: loss_fn(model(batches[0][0]), batches[0][1]).backward()),
        "prepare": lambda scaler, optimizer: scaler.unscale_(optimizer),
        "accelerator": Accelerator(),
        "factor": 0.1,
        "limits": {name: 0.1 + index for index, (name, _) in enumerate(model.named_parameters())},
        "scaler": scaler,
        "other": nn.Linear(2, 2),
        "actor": nn.Linear(6, 6),
        "embedding": encoder,
        "dense": decoder,
        "frozen": [],
        "norms": [],
        "limit": 0.5,
        "fused": True,
        "args": SimpleNamespace(layer_wise=True, in_backward=True, grad_clipping=1.0, limit=1.0),
    }


def functions(path: Path) -> Iterator[tuple[Callable[..., Any], frozenset[str]]]:
    """The functions of a fixture on the top level, and the codes that are expected in each or in what it calls."""
    text = path.read_text(encoding="utf-8")
    module = ModuleType(path.stem)
    module.__dict__["__file__"] = str(path)
    exec(compile(text, str(path), "exec"), module.__dict__)
    lines = text.splitlines()
    tree = ast.parse(text)
    own = {node.name: node for node in tree.body if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
    for name, node in own.items():
        if isinstance(node, ast.FunctionDef):
            called = {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and n.id in own}
            codes: set[str] = set()
            for each in {name, *called}:
                for line in lines[own[each].lineno - 1 : own[each].end_lineno]:
                    codes |= set(line.partition("# expect:")[2].replace(",", " ").split())
            yield module.__dict__[name], frozenset(codes)


class Seen(SimpleNamespace):
    """`codes` of the faults, `notes` without an exit code, `how` each step came out, `raised`, `troubles`."""


def _source(function: Callable[..., Any], path: Path) -> str:
    """The text of a function and of what it names in its module."""
    text = path.read_text(encoding="utf-8")
    own = {node.name: node for node in ast.parse(text).body if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
    named = {n.id for n in ast.walk(own[function.__name__]) if isinstance(n, ast.Name)} | {function.__name__}
    return "".join(ast.get_source_segment(text, own[name]) or "" for name in named if name in own)


def audited(function: Callable[..., Any], path: Path) -> Seen:
    """Runs a function; one that neither computes gradients nor steps gets gradients before it and a step after it."""
    asked, source = inspect.signature(function).parameters, _source(function, path)
    made = objects()
    if "critic" in asked and "optimizer" in asked:
        made["critic"] = made["model"]
    if "accelerator" in asked:
        made["optimizer"] = made["accelerator"].prepared(made["optimizer"])
    if "critic" in asked and {"generator", "actor"} & set(asked):
        made["batches"] = [inputs for inputs, _ in made["batches"]]
    if unknown := [name for name in asked if name not in made]:
        raise Missing(", ".join(unknown))
    arguments = {name: made[name] for name in asked}
    raised = None
    watch = Watch(1000).begin()
    try:
        with harness._quiet():
            if "backward" not in source and "grad(" not in source:
                made["loss"].backward()
            function(**arguments)
            if "step(" not in source and "accelerator" not in asked:
                made["optimizer"].step()
    except BaseException as error:
        raised = error
    finally:
        log = watch.end()
    seen = report(log)
    found = [*seen.findings, *(one for part in seen.optimizers for one in part.findings)]
    how = {how for part in seen.optimizers for how in part.steps}
    faults, notes = ({one.code for one in found if one.is_fault is kind} for kind in (True, False))
    return Seen(codes=faults, notes=notes, how=how, raised=raised, troubles=log.troubles)
