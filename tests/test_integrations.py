"""The runtime inside training frameworks, which are made up here as far as they are asked; the real ones: test_frameworks."""

from __future__ import annotations

import importlib.util
import runpy
import sys
from collections.abc import Callable, Iterator
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from conftest import PROJECT

torch = pytest.importorskip("torch")

from clipcheck.integrations import accelerate, lightning  # noqa: E402


def parameter() -> Any:
    made = torch.nn.Parameter(torch.zeros(2))
    made.grad = torch.tensor([3.0, 4.0])
    return made


# --- Accelerate -------------------------------------------------------------------------------------------------------------


class Accelerator:
    def __init__(self, kind: str, **more: Any) -> None:
        self.distributed_type = SimpleNamespace(value=kind)
        self.log: list[Any] = []
        vars(self).update(more)

    def unscale_gradients(self) -> None:
        self.log.append("unscaled")

    def clip_grad_norm_(self, *given: Any) -> str:
        self.log.append(given)
        return "its own"


@pytest.mark.parametrize(
    ("kind", "more"), [("NO", {}), ("MULTI_GPU", {}), ("MULTI_CPU", {}), ("FSDP", {"is_fsdp2": True})]
)
def test_accelerate_unscales_and_the_runtime_clips(kind: str, more: dict[str, Any]) -> None:
    accelerator, param = Accelerator(kind, **more), parameter()
    assert accelerate.clip(accelerator, [param], 2.5).item() == 5.0
    assert accelerator.log == ["unscaled"]
    torch.testing.assert_close(param.grad, torch.tensor([1.5, 2.0]), rtol=1e-5, atol=0)
    assert accelerate.clip(accelerator, [param], 9.0, 1.0).item() == pytest.approx(3.5, rel=1e-5)
    param.grad.fill_(torch.inf)
    accelerate.clip(accelerator, [param], 1.0, nonfinite="skip")
    assert param.grad.tolist() == [0.0, 0.0]


@pytest.mark.parametrize(
    ("kind", "more"),
    [("DEEPSPEED", {}), ("MEGATRON_LM", {}), ("XLA", {}), ("TPU", {}), ("FSDP", {}), ("FSDP", {"is_fsdp2": False})],
)
def test_what_clips_by_itself_is_left_to_accelerate(kind: str, more: dict[str, Any]) -> None:
    accelerator, params = Accelerator(kind, **more), [parameter()]
    assert accelerate.clip(accelerator, params, 1.0) == "its own"
    assert accelerate.clip(accelerator, params, 1.0, 3.0) == "its own"
    assert accelerator.log == [(params, 1.0, 2.0), (params, 1.0, 3.0)]
    with pytest.raises(ValueError, match=f"^nonfinite, group: {kind} does its own clipping, and takes no such option$"):
        accelerate.clip(accelerator, params, 1.0, nonfinite="skip", group=None)
    assert len(accelerator.log) == 2


# --- Lightning --------------------------------------------------------------------------------------------------------------


class Precision:
    """Lightning's plain plugin."""

    def __init__(self) -> None:
        self.log: list[Any] = []

    def main_params(self, optimizer: Any) -> Iterator[Any]:
        yield from optimizer.params

    def clip_grad_by_norm(self, optimizer: Any, clip_val: float) -> None:
        self.log.append(clip_val)


class FSDPPrecision(Precision):
    def clip_grad_by_norm(self, optimizer: Any, clip_val: float) -> None:
        self.log.append(("by itself", clip_val))


class XLAPrecision(Precision):
    """Reduces the gradients elsewhere."""


class HalfPrecision(Precision):
    """Clips as the plain one does."""


class Module:
    """What a `LightningModule` does when it is asked to clip."""

    def __init__(self, plugin: Precision) -> None:
        self.trainer = SimpleNamespace(precision_plugin=plugin)

    def configure_gradient_clipping(
        self, optimizer: Any, gradient_clip_val: Any = None, gradient_clip_algorithm: Any = None
    ) -> None:
        if gradient_clip_algorithm == "wrong":
            raise ValueError("no such algorithm")
        if gradient_clip_algorithm != "value":
            self.trainer.precision_plugin.clip_grad_by_norm(optimizer, gradient_clip_val)


class Model(lightning.ClipsWithRuntime, Module):
    pass


@pytest.mark.parametrize("plugin", [Precision(), HalfPrecision()])
def test_the_runtime_clips_in_the_place_of_torch(plugin: Precision) -> None:
    model, param = Model(plugin), parameter()
    optimizer = SimpleNamespace(params=[param])
    assert model.total_norm is None
    model.configure_gradient_clipping(optimizer, 2.5, "norm")
    assert model.total_norm.item() == 5.0
    torch.testing.assert_close(param.grad, torch.tensor([1.5, 2.0]), rtol=1e-5, atol=0)
    with pytest.raises(ValueError, match="no such algorithm"):
        model.configure_gradient_clipping(optimizer, 1.0, "wrong")
    assert plugin.log == [] and set(vars(plugin)) == {"log"}  # the plugin is as it was


def test_clipping_by_value_is_that_of_lightning() -> None:
    model, param = Model(Precision()), parameter()
    model.configure_gradient_clipping(SimpleNamespace(params=[param]), 1.0, gradient_clip_algorithm="value")
    assert param.grad.tolist() == [3.0, 4.0] and model.total_norm is None


@pytest.mark.parametrize(("plugin", "log"), [(FSDPPrecision(), [("by itself", 2.5)]), (XLAPrecision(), [2.5])])
def test_plugins_that_clip_in_another_way_do_so(plugin: Precision, log: list[Any]) -> None:
    model, param = Model(plugin), parameter()
    model.configure_gradient_clipping(SimpleNamespace(params=[param]), 2.5, "norm")
    assert plugin.log == log
    assert param.grad.tolist() == [3.0, 4.0] and model.total_norm is None


# --- the start of a process below `clipcheck.run` ---------------------------------------------------------------------------

STARTUP = PROJECT / "clipcheck" / "startup"


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """Runs what Python runs at its start, with a path; returns its names. The interpreter is as before afterwards."""
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path])
    monkeypatch.delitem(sys.modules, "sitecustomize", raising=False)

    def start(*path: Path, results: str = "") -> dict[str, Any]:
        monkeypatch.setattr(sys, "path", [str(STARTUP), *map(str, path), *[p for p in sys.path if p != str(STARTUP)]])
        monkeypatch.setenv("CLIPCHECK_RUNTIME", results)
        return runpy.run_path(str(STARTUP / "sitecustomize.py"))

    return start


def test_the_path_is_as_if_it_had_not_run(started: Any, tmp_path: Path) -> None:
    before = [*sys.meta_path]
    started(tmp_path)
    assert sys.path[0] == str(tmp_path) and str(STARTUP) not in sys.path
    assert sys.meta_path == before
    names = started(tmp_path, results="plain")
    waits, *others = sys.meta_path
    assert others == before
    assert type(waits).__name__ == "_WaitsForTorch" and waits.results == "plain"  # type: ignore[attr-defined]
    assert names["_results"] == "plain"


def test_the_one_that_is_hidden_runs(started: Any, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("seen = __name__, __file__\n")
    started(tmp_path)
    hidden = sys.modules["sitecustomize"]
    assert hidden.seen == ("sitecustomize", str(tmp_path / "sitecustomize.py"))


def test_a_folder_of_that_name_is_nothing_to_run(started: Any, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize").mkdir()
    run = started()["_run_the_hidden_one"]
    before = sys.modules.get("sitecustomize")
    sys.path[:] = [str(tmp_path)]
    run(str(STARTUP))
    sys.path[:] = [str(tmp_path / "empty")]
    run(str(STARTUP))
    sys.path[:] = [str(STARTUP)]  # by another spelling of the path
    run(str(STARTUP))
    assert sys.modules.get("sitecustomize") is before


class Finder:
    """Finds torch, and notes whether it was run."""

    def __init__(self, log: list[str], loads: bool = True) -> None:
        self.log, self.loads = log, loads

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        self.log.append(f"asked for {name}")
        loader: Any = SimpleNamespace(exec_module=lambda module: self.log.append(f"ran {module.__name__}"))
        return ModuleSpec(name, loader if self.loads else None)


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What happens, with the runtime's `install` among it."""
    made: list[str] = []
    monkeypatch.setattr("clipcheck.runtime.install", lambda results: made.append(f"installed {results}"))
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "torch_xla" else real(name))
    return made


def waiting(started: Any, *finders: Any) -> Any:
    """What waits for torch, before these other finders."""
    started(results="torch")
    waits = sys.meta_path[0]
    sys.meta_path[:] = [waits, *finders]
    return waits


def test_the_runtime_is_installed_when_torch_has_run(started: Any, log: list[str]) -> None:
    silent = SimpleNamespace(find_spec=lambda *_: None)
    finder = Finder(log)
    waits = waiting(started, silent, finder)
    assert waits.find_spec("torchvision") is None and waits.find_spec("numpy") is None
    spec = waits.find_spec("torch")
    assert log == ["asked for torch"] and waits in sys.meta_path
    spec.loader.exec_module(ModuleType("torch"))
    assert log == ["asked for torch", "ran torch", "installed torch"]
    assert sys.meta_path == [silent, finder]


def test_a_torch_that_is_not_found_or_cannot_be_run_is_left_to_python(started: Any, log: list[str]) -> None:
    waits = waiting(started)
    assert waits.find_spec("torch") is None
    waits = waiting(started, Finder(log, loads=False))  # a folder of that name
    assert waits.find_spec("torch").loader is None


@pytest.mark.parametrize("missing", ["torch_xla", "runtime"])
def test_torch_keeps_its_functions_where_ours_cannot_be_put(
    missing: str, started: Any, log: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    waits = waiting(started, Finder(log))
    if missing == "torch_xla":
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: "there" if name == "torch_xla" else None)
    else:
        monkeypatch.setitem(sys.modules, "clipcheck.runtime", None)
    waits.install()
    out, err = capsys.readouterr()
    assert out == "" and log == []
    assert err.startswith(f"clipcheck.run: torch keeps its own functions in {sys.executable}: ")
    assert err.count("\n") == 1
    assert ("torch_xla has its own clip" in err) is (missing == "torch_xla")
    assert waits not in sys.meta_path
