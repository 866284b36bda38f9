"""The audit: it changes nothing, reports what it saw, and never harms the program that it watches."""

from __future__ import annotations

import contextlib
import functools
import gc
import importlib.util
import io
import json
import math
import os
import subprocess
import sys
import textwrap
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import PROJECT

torch = pytest.importorskip("torch")

from torch import Tensor, nn  # noqa: E402
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict  # noqa: E402
from torch.nn.utils import clip_grad_norm_  # noqa: E402
from torch.optim import optimizer as optimizers  # noqa: E402
from torch.optim.optimizer import (  # noqa: E402
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

from clipcheck import audit, runtime  # noqa: E402
from clipcheck.audit import calls, faults, figures  # noqa: E402
from clipcheck.audit.__main__ import main  # noqa: E402
from clipcheck.audit.log import Optimizer  # noqa: E402
from clipcheck.audit.sites import NOWHERE  # noqa: E402
from clipcheck.audit.taps import tap  # noqa: E402
from clipcheck.catalogue import RULES  # noqa: E402

pytestmark = pytest.mark.usefixtures("frozen_heap")

STEPS = 6
Clip = Callable[..., Any]


def training(clip: Clip | None = clip_grad_norm_, optimizer: str = "SGD", after: bool = False) -> list[float]:
    """The losses, and all parameters at the end."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 1))
    stepper = getattr(torch.optim, optimizer)(model.parameters(), lr=0.1)
    losses = []
    for _ in range(STEPS):
        inputs = torch.randn(16, 8)
        stepper.zero_grad()
        loss = (model(inputs) - 3 * inputs.sum(1, keepdim=True)).square().mean()
        loss.backward()
        if clip and not after:
            clip(model.parameters(), 1.0)
        stepper.step()
        if clip and after:
            clip(model.parameters(), 1.0)
        losses.append(loss.item())
    return [*losses, *nn.utils.parameters_to_vector(model.parameters()).tolist()]


def watched(train: Callable[[], Any], steps: int = 200) -> audit.Report:
    with audit.watching(steps) as watch:
        train()
    report = watch.report()
    assert not any("ended early" in one for one in report.not_seen)
    return report


# --- it changes nothing -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("clip", [None, clip_grad_norm_, nn.utils.clip_grad_value_, runtime.clip_grad_norm_])
@pytest.mark.parametrize("optimizer", ["SGD", "AdamW"])
def test_the_training_is_the_same_bit_for_bit(clip: Clip | None, optimizer: str) -> None:
    alone = training(clip, optimizer)
    with audit.watching():
        beside = training(clip, optimizer)
    assert beside == alone


def test_the_random_state_and_gradient_versions_do_not_change() -> None:
    def last() -> tuple[Tensor, list[int]]:
        torch.manual_seed(1)
        layer = nn.Linear(3, 2)
        optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
        for _ in range(8):  # more than the calls in which reads are counted
            layer(torch.randn(4, 3)).sum().backward()
            clip_grad_norm_(layer.parameters(), 0.1)
            optimizer.step()
        return torch.get_rng_state(), [p.grad._version for p in layer.parameters()]

    state, versions = last()
    with audit.watching():
        other, beside = last()
    assert torch.equal(state, other)
    assert beside == versions


def test_no_observer_reads_a_value() -> None:
    """Tensors on the meta device have none: whatever would wait for a device raises there."""

    def train() -> None:
        model = nn.Sequential(nn.Linear(8, 32), nn.Linear(32, 1)).to("meta")
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for _ in range(STEPS):
            optimizer.zero_grad()
            model(torch.empty(16, 8, device="meta")).sum().backward()
            clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()

    with pytest.raises(RuntimeError, match="meta"):
        torch.ones((), device="meta").item()
    report = watched(train)
    assert (report.optimizers[0].steps, report.not_seen) == ({"clipped": STEPS}, [])


def test_functions_keep_their_signatures_and_are_restored() -> None:
    function, code = nn.utils.clip_grad_norm_, nn.utils.clip_grad_norm_.__code__
    names = set(function.__globals__)
    with audit.watching():
        assert nn.utils.clip_grad_norm_ is function
        assert function.__code__ is not code
    assert function.__code__ is code
    assert set(function.__globals__) == names


def test_calls_through_every_kind_of_reference_are_seen() -> None:
    """Those that were made before the watch: a name, a default, a partial, an attribute of a class, a closure."""

    class Holder:
        clip = staticmethod(clip_grad_norm_)

    def by_default(parameters: Any, max_norm: float, clip: Clip = clip_grad_norm_) -> Any:
        return clip(parameters, max_norm)

    for clip in (Holder.clip, by_default, functools.partial(clip_grad_norm_, norm_type=2.0), [clip_grad_norm_][0]):
        assert watched(lambda clip=clip: training(clip)).optimizers[0].steps == {"clipped": STEPS}


def test_a_program_that_installs_the_runtime_meanwhile_gets_it() -> None:
    with audit.watching() as watch, runtime.installed(rebind=True) as installation:
        assert installation.foreign == ()
        training(lambda *args: nn.utils.clip_grad_norm_(*args))
    assert watch.report().optimizers[0].steps == {"clipped": STEPS}


def test_an_iterator_is_read_once_and_torchs_warning_stays() -> None:
    spent = iter(())
    with audit.watching(), pytest.warns(UserWarning, match="empty generator"):
        clip_grad_norm_((p for p in spent), 1.0)


def test_compiled_code_is_left_alone() -> None:
    compiled = torch.compile(lambda p: clip_grad_norm_(p, 1.0), backend="eager")
    parameter = nn.Parameter(torch.ones(4))
    with audit.watching():
        parameter.grad = torch.ones(4)
        assert compiled([parameter]).item() == 2.0
    assert parameter.grad.norm().item() == pytest.approx(1.0, rel=1e-4)


def test_an_error_in_an_observer_ends_the_watch_but_not_the_training(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise ArithmeticError("no")

    alone = training()
    monkeypatch.setattr("clipcheck.audit.gradients.probe", fails)
    with audit.watching() as watch:
        assert training() == alone
    trouble = watch.report().not_seen[0]
    assert trouble == "the watch ended early: ArithmeticError: no"
    assert f"not seen: {trouble}" in str(watch.report())


def test_a_module_that_is_an_iterator_is_not_read() -> None:
    class Stream(nn.Linear):
        def __iter__(self) -> Any:
            return self

        def __next__(self) -> Any:
            raise AssertionError("it was read")

    with audit.watching() as watch:
        Stream(2, 1).zero_grad()
        assert watch.is_on


def test_an_error_of_the_iterator_comes_through() -> None:
    def parameters() -> Any:
        yield nn.Parameter(torch.ones(1))
        raise TypeError("of the program")

    with audit.watching(), pytest.raises(TypeError, match="of the program"):
        clip_grad_norm_(parameters(), 1.0)


def test_a_max_norm_of_nan_is_a_fault() -> None:
    report = watched(lambda: training(lambda parameters, _: clip_grad_norm_(parameters, math.nan)))
    assert "CLIP201" in [fault.code for fault in report.faults]


def test_errors_of_torch_are_passed_on() -> None:
    with audit.watching(), pytest.raises(TypeError):
        clip_grad_norm_(nn.Linear(1, 1).parameters(), None)


def test_calls_that_a_function_rejects_are_passed_on_unchanged() -> None:
    scaler = torch.amp.GradScaler("cpu")
    with audit.watching() as watch:
        with pytest.raises(TypeError, match=r"GradScaler.unscale_\(\) missing 1 required positional argument"):
            scaler.unscale_()
        assert watch.is_on


def test_only_python_functions_can_be_observed() -> None:
    with pytest.raises(TypeError, match="is not a Python function"):
        tap(len, lambda original, *args: original(*args))


def test_a_report_keeps_no_optimizer_alive() -> None:
    alive: list[weakref.ref[Any]] = []

    def train() -> None:
        optimizer = torch.optim.SGD(nn.Linear(2, 1).parameters(), lr=0.1)
        alive.append(weakref.ref(optimizer))
        optimizer.step()

    report = watched(train)
    gc.collect()
    assert report.steps == 1
    assert alive[0]() is None


# --- what it says -----------------------------------------------------------------------------------------------


def test_the_norms_are_those_that_the_program_sees() -> None:
    seen: list[float] = []

    def clip(*args: Any) -> None:
        seen.append(clip_grad_norm_(*args).item())

    norms = watched(lambda: training(clip)).optimizers[0].norms
    assert norms.before == seen
    assert norms.after == pytest.approx([min(1.0, norm) for norm in seen], rel=1e-4)
    assert norms.limits == [1.0] * STEPS
    assert norms.clipped == sum(norm > 1.0 for norm in seen) / STEPS
    assert (norms.at(1.0), norms.at(0.5)) == (max(seen), sorted(seen)[STEPS // 2 - 1])


@pytest.mark.parametrize("share", [0.5, 0.1, 0.01])
def test_the_suggested_max_norm_clips_at_most_that_share(share: float) -> None:
    before = [float(n) for n in range(1, 201)]
    norms = figures.Norms(before, before, [math.inf] * 200, 0)
    limit = norms.at(1 - share)
    assert sum(norm > limit for norm in before) / 200 == pytest.approx(share)


def test_norms_without_a_clip_are_measured() -> None:
    report = watched(lambda: training(None))
    (part,) = report.optimizers
    assert part.steps == {"unclipped": STEPS}
    assert (part.times, report.exit_code) == (None, 0)
    assert all(norm > 1 for norm in part.norms.before[:2])
    assert part.norms.before == part.norms.after


def test_a_fault_has_a_code_a_page_and_a_line() -> None:
    report = watched(lambda: training(after=True))
    (fault,) = report.faults
    assert (fault.code, fault.times, fault.of) == ("CLIP101", STEPS, STEPS)
    assert Path(fault.site.file) == Path(__file__)
    line = Path(__file__).read_text(encoding="utf-8").splitlines()[fault.site.line - 1]
    assert line.strip() == "clip(model.parameters(), 1.0)"
    assert "`clipcheck rule CLIP101`" in str(report)
    assert report.exit_code == 1


def test_gradients_that_are_not_finite_are_counted() -> None:
    def train() -> None:
        layer = nn.Linear(2, 1)
        optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
        for factor in (1.0, math.nan, 1.0):
            optimizer.zero_grad()
            (layer(torch.ones(1, 2)).sum() * factor).backward()
            clip_grad_norm_(layer.parameters(), 1.0)
            optimizer.step()
            with torch.no_grad():
                nn.init.ones_(layer.weight)

    assert watched(train).optimizers[0].norms.nonfinite == 1


def test_a_step_that_the_scaler_skips_is_not_a_fault() -> None:
    def train() -> None:
        layer = nn.Linear(2, 1)
        optimizer, scaler = torch.optim.SGD(layer.parameters(), lr=0.1), torch.amp.GradScaler("cpu")
        for factor in (1.0, math.inf, 1.0):
            optimizer.zero_grad()
            scaler.scale(layer(torch.ones(1, 2)).sum() * factor).backward()
            scaler.unscale_(optimizer)
            clip_grad_norm_(layer.parameters(), 1.0)
            scaler.step(optimizer)
            scaler.update()

    report = watched(train)
    assert report.optimizers[0].steps == {"clipped": 2}
    assert (report.optimizers[0].norms.nonfinite, report.exit_code) == (1, 0)


@pytest.mark.parametrize(
    ("zeroes", "note"),
    [
        (True, "clips gradients that were zeroed before a step used them (in 3 of 3 steps)"),
        (False, "clips, then another backward adds to the clipped gradients (in 3 of 3 steps)"),
    ],
)
def test_what_may_be_intended_is_a_note(zeroes: bool, note: str) -> None:
    def train() -> None:
        layer = nn.Linear(2, 1)
        optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
        for _ in range(3):
            layer(torch.ones(1, 2)).sum().backward()
            clip_grad_norm_(layer.parameters(), 0.1)
            if zeroes:
                optimizer.zero_grad()
            layer(torch.ones(1, 2)).sum().backward()
            optimizer.step()
            optimizer.zero_grad()

    report = watched(train)
    assert f"  note     {Path(__file__)}" in str(report) or "  note     tests" in str(report)
    assert note in str(report)
    assert (report.optimizers[0].steps, report.exit_code) == ({"unclipped": 3}, 0)


def test_parameters_that_are_never_clipped_are_named() -> None:
    def train() -> None:
        model = nn.ModuleDict({"body": nn.Linear(2, 2), "head": nn.Linear(2, 1)})
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for _ in range(2):
            optimizer.zero_grad()
            model["head"](model["body"](torch.ones(1, 2))).sum().backward()
            clip_grad_norm_(model["body"].parameters(), 0.1)
            optimizer.step()
        kept.append(model)

    kept: list[nn.Module] = []
    report = watched(train)
    assert report.optimizers[0].steps == {"partly": 2}
    assert report.optimizers[0].never_clipped == ["head.weight", "head.bias"]
    assert "2 parameters never clipped: head.weight, head.bias" in str(report)


def test_another_optimizers_parameters() -> None:
    """Two models, one optimizer each, and the clip before one's step is of the other's."""

    def train(mixed: bool) -> None:
        one, other = nn.Linear(2, 1), nn.Linear(2, 1)
        steppers = [torch.optim.SGD(each.parameters(), lr=0.1) for each in (one, other)]
        for _ in range(4):
            (one(torch.ones(1, 2)) + other(torch.ones(1, 2))).sum().backward()
            clip_grad_norm_((other if mixed else one).parameters(), 0.1)
            steppers[0].step()
            for each in steppers:
                each.zero_grad()

    assert [fault.code for fault in watched(lambda: train(True)).faults] == ["CLIP117"]
    assert watched(lambda: train(False)).faults == []


def test_a_step_of_another_optimizer_may_come_between_a_clip_and_its_step() -> None:
    def train() -> None:
        one, other = nn.Linear(2, 1), nn.Linear(2, 1)
        steppers = [torch.optim.SGD(each.parameters(), lr=0.1) for each in (one, other)]
        for _ in range(4):
            (one(torch.ones(1, 2)) + other(torch.ones(1, 2))).sum().backward()
            clip_grad_norm_(one.parameters(), 0.1)
            for each in reversed(steppers):
                each.step()
                each.zero_grad()

    report = watched(train)
    assert report.faults == []
    assert [part.steps for part in report.optimizers] == [{"clipped": 4}, {"unclipped": 4}]


def test_a_step_in_backward_leaves_nothing_to_clip() -> None:
    def train() -> None:
        layer = nn.Linear(2, 1)
        optimizers = {p: torch.optim.SGD([p], lr=0.1) for p in layer.parameters()}

        def step(parameter: Tensor) -> None:
            optimizers[parameter].step()
            optimizers[parameter].zero_grad()

        for parameter in layer.parameters():
            parameter.register_post_accumulate_grad_hook(step)
        for _ in range(3):
            layer(torch.ones(1, 2)).sum().backward()
            clip_grad_norm_(layer.parameters(), 0.1)

    assert {fault.code for fault in watched(train).faults} == {"CLIP115"}


def test_an_optimizer_that_clips_by_itself() -> None:
    class Own(torch.optim.SGD):
        @torch.no_grad()
        def step(self, closure: Any = None) -> Any:
            clip_grad_norm_(self.param_groups[0]["params"], 0.1)
            return super().step(closure)

    def train() -> None:
        layer = nn.Linear(2, 1)
        optimizer = Own(layer.parameters(), lr=0.1)
        for _ in range(3):
            optimizer.zero_grad()
            layer(torch.ones(1, 2)).sum().backward()
            optimizer.step()

    report = watched(train)
    assert (report.optimizers[0].steps, report.exit_code) == ({"by itself": 3}, 0)


def test_an_option_that_asks_for_clipping_inside_a_step_is_named() -> None:
    class Fused(torch.optim.SGD):
        def __init__(self, parameters: Any) -> None:
            super().__init__(parameters, lr=0.1)
            self.defaults["max_grad_norm"] = 1.0

    def train() -> None:
        layer = nn.Linear(2, 1)
        optimizer = Fused(layer.parameters())
        layer(torch.ones(1, 2)).sum().backward()
        optimizer.step()

    assert "not seen: Fused has max_grad_norm=1.0: clipping inside its step is not seen" in str(watched(train))


def test_an_optimizer_that_is_never_seen_to_step_is_named() -> None:
    def train() -> None:
        layer = nn.Linear(2, 1)
        kept.append(torch.optim.SGD(layer.parameters(), lr=0.1))
        layer(torch.ones(1, 2)).sum().backward()

    kept: list[Any] = []
    report = watched(train)
    assert report.exit_code == 2
    assert "was not seen to step" in str(report)
    assert "no optimizer was seen to step" in str(report)


def test_only_reads_on_the_device_of_the_gradients_count() -> None:
    addresses, elsewhere = torch.ones(1), torch.empty(1, device="meta")
    for gradients, expected in (([addresses], 1), ([elsewhere], 0), ([], 0)):
        with calls.Reads(gradients) as reads:
            addresses.item()
        assert reads.count == expected


def test_reads_by_the_host_are_counted() -> None:
    def reads(**options: Any) -> int | None:
        times = watched(lambda: training(lambda p, n: clip_grad_norm_(p, n, **options))).optimizers[0].times
        return times.reads if times else None

    assert reads() == 0
    assert reads(error_if_nonfinite=True) == 1


def test_the_watch_ends_after_so_many_steps() -> None:
    report = watched(training, steps=2)
    assert report.steps == 2
    assert training.__code__ and nn.utils.clip_grad_norm_.__code__.co_filename.endswith("clip_grad.py")


def test_the_watch_ends_while_torch_goes_through_other_global_hooks() -> None:
    """Which are registered after it, so that they are called after its own."""
    called: list[str] = []
    with audit.watching(2) as watch:
        before = register_optimizer_step_pre_hook(lambda *_: called.append("before"))
        after = register_optimizer_step_post_hook(lambda *_: called.append("after"))
        try:
            training()
        finally:
            before.remove()
            after.remove()
    assert called == ["before", "after"] * STEPS
    assert watch.report().steps == 2


def test_no_hook_is_left() -> None:
    def hooks() -> tuple[int, int]:
        return len(optimizers._global_optimizer_pre_hooks), len(optimizers._global_optimizer_post_hooks)

    left = hooks()
    with audit.watching(2):
        assert hooks() == (left[0] + 1, left[1] + 1)
        training()
    assert hooks() == left


def test_the_runtime_is_tried_on_the_same_shapes() -> None:
    state = torch.get_rng_state()
    sgd = Optimizer(0, "SGD", NOWHERE, {}, [((3, 2), torch.float32, torch.device("cpu"))], [])
    times = figures.tried(sgd)
    assert times is not None and min(times.values()) > 0
    assert torch.equal(torch.get_rng_state(), state)
    huge = Optimizer(0, "SGD", NOWHERE, {}, [((2**20, 2**10), torch.float32, torch.device("cpu"))], [])
    assert figures.tried(huge) is None


def test_every_code_belongs_to_a_rule_and_has_a_message() -> None:
    table = (*faults.FAULTS, *faults.STRANGERS)
    codes = {fault.code for fault in table} - {""}
    assert faults.OPTIONAL < codes <= set(RULES)
    assert all(fault.says[0].islower() and not fault.says.endswith(".") for fault in table)


def test_json_contains_everything_in_the_text() -> None:
    from clipcheck.audit.report import as_json

    content = json.loads(as_json(watched(lambda: training(after=True))))
    (part,) = content["optimizers"]
    assert (content["exit_code"], content["steps"], part["optimizer"]) == (1, STEPS, "SGD")
    assert [one["code"] for one in part["findings"]] == ["CLIP101"]
    assert part["norms"]["limits"] == [None] * STEPS  # no clip reached a step


@pytest.mark.skipif(importlib.util.find_spec("matplotlib") is None, reason="needs matplotlib")
@pytest.mark.parametrize("suffix", [".svg", ".png"])
def test_the_plot(tmp_path: Path, suffix: str) -> None:
    from clipcheck.audit.plot import plot

    plot(watched(training), tmp_path / f"norms{suffix}")
    light, dark = ((tmp_path / f"norms{end}{suffix}").read_bytes() for end in ("", "-dark"))
    assert len(light) > 2000
    assert light != dark
    if suffix == ".svg":  # which draws letters as shapes, with the text beside them
        assert b"<!-- optimizer step -->" in light and b"<!-- norm -->" in light
        assert b"#ffffff" in light and b"#ffffff" not in dark


# --- stories ----------------------------------------------------------------------------------------------------


def scaled(body: Callable[[Any, Any, Any], Any]) -> audit.Report:
    """A training with a scaler; `body` is what happens between backward and step."""

    def train() -> None:
        layer = nn.Linear(2, 1)
        optimizer, scaler = torch.optim.SGD(layer.parameters(), lr=0.1), torch.amp.GradScaler("cpu")
        for _ in range(3):
            optimizer.zero_grad()
            scaler.scale(layer(torch.ones(1, 2)).sum()).backward()
            body(layer, optimizer, scaler)
            scaler.step(optimizer)
            scaler.update()

    return watched(train)


def norm_of(layer: nn.Module) -> Tensor:
    return nn.utils.get_total_norm([p.grad for p in layer.parameters()])


@pytest.mark.parametrize(
    ("body", "codes"),
    [
        (lambda layer, optimizer, scaler: clip_grad_norm_(layer.parameters(), 0.1), ["CLIP301"]),
        (lambda layer, optimizer, scaler: clip_grad_norm_(layer.parameters(), 0.1 * scaler.get_scale()), []),
        (lambda layer, optimizer, scaler: [p.grad.div_(65536) for p in layer.parameters()], []),
        (lambda layer, optimizer, scaler: norm_of(layer), ["CLIP309"]),
        (lambda layer, optimizer, scaler: norm_of(layer) / scaler.get_scale(), []),
        (lambda layer, optimizer, scaler: (scaler.unscale_(optimizer), norm_of(layer)), []),
    ],
)
def test_scaled_gradients(body: Callable[..., Any], codes: list[str]) -> None:
    assert [fault.code for fault in scaled(body).faults] == codes


@pytest.mark.parametrize(("steps_anyway", "codes"), [(True, ["CLIP114"]), (False, [])])
def test_a_clip_that_raises_is_a_fault_where_the_step_is_made(steps_anyway: bool, codes: list[str]) -> None:
    def train() -> None:
        layer = nn.Linear(2, 1)
        optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
        for limit in (1.0, None, 1.0):
            optimizer.zero_grad()
            layer(torch.ones(1, 2)).sum().backward()
            try:
                clip_grad_norm_(layer.parameters(), limit)
            except TypeError:
                if not steps_anyway:
                    continue
            optimizer.step()

    assert [fault.code for fault in watched(train).faults] == codes


def test_an_empty_generator_is_not_an_exhausted_one() -> None:
    """As of a module whose parameters are all in its parts."""

    def train(parameters: Any) -> None:
        layer = nn.Sequential(nn.Linear(2, 1))
        optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
        layer(torch.ones(1, 2)).sum().backward()
        clip_grad_norm_(layer.parameters(), 0.1)
        clip_grad_norm_(parameters or layer.parameters(recurse=False), 0.1)
        optimizer.step()

    assert watched(lambda: train(None)).faults == []
    assert [fault.code for fault in watched(lambda: train(iter(()))).faults] == ["CLIP105"]


def test_a_step_that_calls_the_step_of_its_base_class_is_one_step() -> None:
    """Its closure runs once, and what it leaves is what the step uses."""

    class Derived(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            return super().step(closure)

    def train() -> None:
        layer = nn.Linear(2, 1)
        optimizer = Derived(layer.parameters(), lr=0.1)

        def closure() -> Tensor:
            optimizer.zero_grad()
            loss = layer(torch.ones(1, 2)).sum()
            loss.backward()
            clip_grad_norm_(layer.parameters(), 0.1)
            return loss

        for _ in range(3):
            optimizer.step(closure)

    part = watched(train).optimizers[0]
    assert (part.steps, len(part.norms.before)) == ({"clipped": 3}, 3)


def test_a_step_that_makes_the_state_of_an_optimizer_has_no_gradients() -> None:
    """Checkpoints of torch.distributed make it in this way, with zeros."""

    def train() -> None:
        layer = nn.Linear(2, 1)
        optimizer = torch.optim.AdamW(layer.parameters(), lr=0.1)
        get_optimizer_state_dict(layer, optimizer)
        for _ in range(3):
            optimizer.zero_grad()
            layer(torch.ones(1, 2)).sum().backward()
            clip_grad_norm_(layer.parameters(), 0.1)
            optimizer.step()

    report = watched(train)
    (part,) = report.optimizers
    assert (part.steps, report.exit_code) == ({"no gradients": 1, "clipped": 3}, 0)
    assert min(part.norms.before) > 1
    assert len(part.norms.before) == 3


def test_a_fault_is_counted_once_for_a_step_whose_closure_runs_several_times() -> None:
    def train() -> None:
        layer = nn.Linear(4, 1)
        optimizer = torch.optim.LBFGS(layer.parameters(), lr=0.1, max_iter=5)
        inputs = torch.randn(16, 4)

        def closure() -> Tensor:
            optimizer.zero_grad()
            loss = (layer(inputs) - inputs.sum(1, keepdim=True)).square().mean()
            loss.backward()
            return loss

        for _ in range(3):
            clip_grad_norm_(layer.parameters(), 0.1)
            optimizer.step(closure)

    report = watched(train)
    (fault,) = report.faults
    assert len(report.optimizers[0].norms.before) > 3
    assert (fault.code, fault.times, fault.of) == ("CLIP109", 3, 3)


def test_norms_of_a_fused_optimizer_that_unscales_in_its_step() -> None:
    """It is given the scale of the GradScaler, and the gradients are still scaled when its step begins."""

    def train(is_scaled: bool) -> None:
        torch.manual_seed(0)
        layer = nn.Linear(4, 1)
        try:
            optimizer = torch.optim.AdamW(layer.parameters(), lr=0.1, fused=True)
        except RuntimeError as error:
            pytest.skip(str(error))
        scaler = torch.amp.GradScaler("cpu", enabled=is_scaled)
        for _ in range(3):
            optimizer.zero_grad()
            scaler.scale(layer(torch.randn(8, 4)).square().mean()).backward()
            scaler.step(optimizer)
            scaler.update()

    alone, scaled = (watched(lambda kind=kind: train(kind)).optimizers[0] for kind in (False, True))
    assert (alone.steps, scaled.steps) == ({"unclipped": 3}, {"unclipped": 3})
    assert scaled.norms.before == pytest.approx(alone.norms.before, rel=1e-4)
    assert scaled.norms.after == pytest.approx(alone.norms.after, rel=1e-4)


def test_steps_after_one_that_has_raised() -> None:
    """As for want of memory: the program drops the batch and goes on."""

    class Fails(torch.optim.SGD):
        calls = 0

        def step(self, closure: Any = None) -> Any:
            Fails.calls += 1
            if Fails.calls == 2:
                raise MemoryError
            return super().step(closure)

    def train() -> None:
        layer = nn.Linear(2, 1)
        optimizer = Fails(layer.parameters(), lr=0.1)
        for _ in range(4):
            optimizer.zero_grad()
            layer(torch.ones(1, 2)).sum().backward()
            clip_grad_norm_(layer.parameters(), 0.1)
            with contextlib.suppress(MemoryError):
                optimizer.step()

    (part,) = watched(train).optimizers
    assert part.steps == {"clipped": 3}


def test_gradients_that_a_step_changes_before_it_uses_them() -> None:
    class Adds(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            for p in self.param_groups[0]["params"]:
                p.grad.add_(p)
            return super().step(closure)

    def train(kind: Any) -> None:
        layer = nn.Linear(2, 1)
        optimizer = kind(layer.parameters(), lr=0.1, weight_decay=0.1)
        for _ in range(3):
            optimizer.zero_grad()
            layer(torch.ones(1, 2)).sum().backward()
            clip_grad_norm_(layer.parameters(), 0.1)
            optimizer.step()

    assert "the gradients are changed by other code before the step (in 3 of 3" in str(watched(lambda: train(Adds)))
    assert watched(lambda: train(torch.optim.SGD)).optimizers[0].steps == {"clipped": 3}


@pytest.mark.parametrize(("sharding", "codes"), [("FULL_SHARD", ["CLIP405"]), ("NO_SHARD", [])])
def test_parts_of_fsdp1s_parameters(sharding: str, codes: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """They are made up, since FSDP1 does not train without a GPU."""
    model = SimpleNamespace(sharding_strategy=SimpleNamespace(name=sharding))
    monkeypatch.setattr("clipcheck.audit.gradients.living", lambda kind: [model] if "Fully" in kind.__name__ else [])

    def train() -> None:
        layer = nn.Linear(2, 1)
        optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
        for p in layer.parameters():
            p._fsdp_flattened = True
        layer(torch.ones(1, 2)).sum().backward()
        clip_grad_norm_(layer.parameters(), 0.1)
        optimizer.step()

    assert [fault.code for fault in watched(train).faults] == codes


def test_half_initialized_modules_are_left_alone() -> None:
    class Half(nn.Module):
        def named_parameters(self, *_: Any, **__: Any) -> Any:
            raise RecursionError

    kept = Half()
    assert watched(training).optimizers[0].steps == {"clipped": STEPS}
    assert kept is not None


def test_caught_errors_keep_no_tensors_alive() -> None:
    """Whoever catches an error of backward to free memory must be able to."""
    alive: list[weakref.ref[Any]] = []

    def train() -> None:
        loss = nn.Linear(2, 2)(torch.ones(1, 2))
        alive.append(weakref.ref(loss))
        loss.backward()  # of more than one number

    gc.disable()
    try:
        with audit.watching():
            with pytest.raises(RuntimeError, match="scalar"):
                train()
            assert alive[0]() is None
    finally:
        gc.enable()


# --- the command ------------------------------------------------------------------------------------------------


PROGRAM = """
    import sys
    import torch
    from torch.nn.utils import clip_grad_norm_
    torch.manual_seed(0)
    layer = torch.nn.Linear(4, 1)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    for step in range(int(sys.argv[1])):
        optimizer.zero_grad()
        layer(torch.randn(8, 4)).square().sum().backward()
        {body}
    print("done", __name__, sys.argv[1:], layer.weight.sum().item(), sys.path, flush=True)
"""
RIGHT = "clip_grad_norm_(layer.parameters(), 0.1); optimizer.step()"
WRONG = "optimizer.step(); clip_grad_norm_(layer.parameters(), 0.1)"


def written(folder: Path, body: str, more: str = "") -> Path:
    path = folder / "my train.py"
    path.write_text(textwrap.dedent(PROGRAM).format(body=body) + textwrap.dedent(more), encoding="utf-8")
    return path


def run(
    *words: str | Path, folder: Path, start: tuple[str, ...] = ("-m", "clipcheck", "audit"), paths: Sequence[Path] = ()
) -> Any:
    """In a process of its own, which takes seconds to start."""
    path = os.pathsep.join(map(str, (PROJECT, *paths)))
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *start, *map(str, words)]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)


@pytest.fixture
def audited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """Runs the command in this process, from the folder of the test; what it changes of the interpreter is put back."""
    paths, arguments = [*sys.path], sys.argv
    monkeypatch.chdir(tmp_path)

    def command(*words: str | Path) -> Any:
        try:
            code = main([*map(str, words)])
        except SystemExit as end:
            code = end.code
        finally:
            sys.path[:], sys.argv = paths, arguments
        out, err = capfd.readouterr()
        return SimpleNamespace(returncode=code, stdout=out, stderr=err)

    return command


def test_the_command_runs_a_program_with_its_arguments(tmp_path: Path) -> None:
    program = written(tmp_path, RIGHT)
    alone = run(program, "5", "--steps", "1", folder=tmp_path, start=())
    done = run(program, "5", "--steps", "1", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(alone.stdout)
    report = done.stdout.removeprefix(alone.stdout)
    assert report.startswith("clipcheck audit: watched 5 steps in ")
    assert "5 of 5 used clipped gradients" in report
    assert "SGD (my train.py:7): 5 steps, 2 parameters" in report


def test_the_command_finds_a_fault_and_writes_where_it_is_told_to(tmp_path: Path, audited: Callable[..., Any]) -> None:
    program = written(tmp_path, WRONG)
    done = audited("--output-file", "report.json", "--output-format", "json", program, "4")
    assert (done.returncode, done.stdout.count("\n")) == (1, 1), done.stderr
    content = json.loads((tmp_path / "report.json").read_text())
    assert [one["site"]["line"] for one in content["optimizers"][0]["findings"]] == [11]


@pytest.mark.parametrize(("stop", "printed"), [((), True), (("--stop",), False)])
def test_the_watch_ends_and_the_training_goes_on_or_not(
    tmp_path: Path, audited: Callable[..., Any], stop: tuple[str, ...], printed: bool
) -> None:
    done = audited("--steps", "3", *stop, written(tmp_path, RIGHT), "9")
    assert (done.returncode, "done" in done.stdout) == (0, printed), done.stderr
    assert "watched 3 steps" in done.stdout


def test_a_module_runs(tmp_path: Path) -> None:
    (tmp_path / "package").mkdir()
    written(tmp_path / "package", RIGHT).rename(tmp_path / "package" / "train.py")
    done = run("-m", "package.train", "3", folder=tmp_path, start=("-m", "clipcheck.audit"))
    assert done.returncode == 0, done.stderr
    assert "done __main__ ['3']" in done.stdout
    assert f"[{str(tmp_path)!r}, {str(PROJECT)!r}, " in done.stdout  # as Python has it
    assert "3 of 3 used clipped gradients" in done.stdout


def test_a_package_of_the_user_or_the_system_is_not_the_users_code(tmp_path: Path) -> None:
    """It may be installed outside of the environment that runs."""
    packages = tmp_path / "lib" / "dist-packages"
    packages.mkdir(parents=True)
    (packages / "trainers.py").write_text(
        "import torch\ndef clip(layer):\n    torch.nn.utils.clip_grad_norm_(layer.parameters(), 0.1)\n"
    )
    program = written(tmp_path, "import trainers; optimizer.step(); trainers.clip(layer)")
    done = run(program, "3", folder=tmp_path, paths=[packages])
    assert "CLIP101  my train.py:11 (through trainers.py:3): " in done.stdout, done.stderr


@pytest.mark.parametrize(
    ("end", "code", "says"),
    [
        ("sys.exit(7)", 2, "the program ended with exit code 7"),
        ("sys.exit('too bad')", 2, "too bad\nclipcheck audit: the program ended with exit code 1"),
        ("raise KeyError('x')", 2, "KeyError: 'x'\nclipcheck audit: the program ended with exit code 1"),
        ("sys.exit()", 0, ""),
        ("import os; os._exit(0)", 0, ""),
        ("import os; os._exit(3)", 2, "the program ended with exit code 3"),
    ],
)
def test_the_end_of_the_program_is_reported(
    tmp_path: Path, audited: Callable[..., Any], end: str, code: int, says: str
) -> None:
    program = written(tmp_path, RIGHT, end)
    done = run(program, "3", folder=tmp_path) if "_exit" in end else audited(program, "3")
    assert done.returncode == code, done.stderr
    assert says in done.stderr
    assert "audit/__main__.py" not in done.stderr
    assert "3 of 3 used clipped gradients" in done.stdout


@pytest.mark.parametrize(("end", "code"), [("", 0), ("sys.exit(7)", 2)])
def test_only_the_first_rank_reports_and_each_tells_how_it_failed(
    tmp_path: Path, audited: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, end: str, code: int
) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    done = audited(written(tmp_path, WRONG, end), "3")
    assert (done.returncode, done.stdout.count("\n")) == (code, 1)
    assert done.stderr == ("clipcheck audit: the program ended with exit code 7\n" if end else "")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ((), "what to run is missing"),
        (("none.py",), "none.py: no such file"),
        (("--steps", "0", "x.py"), "`--steps` must be at least 1"),
        (("--steps", "many", "x.py"), "argument --steps: invalid int value: 'many'"),
        (("--plot", "x.gif", "x.py"), "`--plot` must end in .svg or .png"),
    ],
)
def test_wrong_arguments_are_one_line(
    tmp_path: Path, audited: Callable[..., Any], words: tuple[str, ...], says: str
) -> None:
    (tmp_path / "x.py").write_text("")
    done = audited(*words)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"clipcheck audit: {says}; `clipcheck audit --help` shows how\n"


def test_a_report_that_cannot_be_written_is_one_line(tmp_path: Path, audited: Callable[..., Any]) -> None:
    done = audited("--output-file", "none/report.txt", written(tmp_path, RIGHT), "2")
    assert (done.returncode, done.stdout.count("\n")) == (2, 1)
    assert done.stderr == "clipcheck audit: none/report.txt: No such file or directory\n"


def test_help_and_a_program_without_steps(tmp_path: Path, audited: Callable[..., Any]) -> None:
    assert audited("--help").stdout.startswith("usage: clipcheck audit")
    (tmp_path / "x.py").write_text("print('hello')")
    done = audited("x.py")
    assert (done.returncode, done.stderr) == (2, "")
    assert "no optimizer was seen to step" in done.stdout


def test_the_report_is_the_last_thing_printed(tmp_path: Path, audited: Callable[..., Any]) -> None:
    program = written(tmp_path, RIGHT)
    done = audited("--output-format", "text", program, "3")
    assert (done.returncode, done.stderr) == (0, "")
    said, report = done.stdout.split("clipcheck audit: ")
    assert said.startswith("done __main__ ['3']")
    assert report.startswith("watched 3 steps in ") and report.endswith("\n\nno faults found\n")
    content = json.loads(audited("--output-format", "json", program, "3").stdout.partition("\n")[2])
    assert (content["steps"], content["exit_code"]) == (3, 0)


@pytest.mark.skipif(importlib.util.find_spec("matplotlib") is None, reason="needs matplotlib")
def test_the_norms_are_drawn_where_that_is_asked_for(
    tmp_path: Path, audited: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr("clipcheck.audit.plot.plot", lambda seen, path: drawn.append((seen.steps, path)))
    program = written(tmp_path, RIGHT)
    for name in ("norms.svg", "norms.png"):
        done = audited("--plot", name, program, "3")
        assert (done.returncode, done.stderr, drawn.pop()) == (0, "", (3, Path(name)))
        assert "no faults found" in done.stdout
    audited(program, "3")
    assert drawn == []


def test_a_plot_needs_matplotlib_and_a_report_does_not(
    tmp_path: Path, audited: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "x.py").write_text("print('hello')")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    done = audited("--plot", "norms.svg", "x.py")
    assert (done.returncode, done.stdout) == (2, "")
    assert "`--plot` needs matplotlib: pip install 'clipcheck[bench]'" in done.stderr
    assert "hello" in audited("x.py").stdout


def test_a_module_runs_with_its_arguments(
    tmp_path: Path, audited: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the current folder, which is the first on the path then."""
    (tmp_path / "audited_package").mkdir()
    written(tmp_path / "audited_package", WRONG).rename(tmp_path / "audited_package" / "train.py")
    (tmp_path / "audited_package" / "__init__.py").write_text("")
    monkeypatch.setitem(sys.modules, "audited_package", None)
    del sys.modules["audited_package"]
    done = audited("--steps", "2", "-m", "audited_package.train", "4", "--steps")
    assert (done.returncode, done.stderr) == (1, "")
    assert "done __main__ ['4', '--steps']" in done.stdout
    assert f"[{str(tmp_path)!r}, " in done.stdout
    assert "watched 2 steps" in done.stdout


@pytest.mark.parametrize(
    ("command", "first", "is_safe", "begins"),
    [
        ("/env/bin/clipcheck", "/env/bin", False, ["{folder}"]),
        ("/env/bin/clipcheck", "/other", False, ["{folder}", "/other"]),
        ("/env/bin/clipcheck", "/env/bin", True, []),
        ("/env/bin/clipcheck", "/other", True, ["/other"]),
    ],
)
def test_the_path_is_that_of_the_program(
    tmp_path: Path,
    audited: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    command: str,
    first: str,
    is_safe: bool,
    begins: list[str],
) -> None:
    """The folder of the command `clipcheck` is not on it; with `python -P` nothing is put in its place."""
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "x.py").write_text("import sys; print(sys.path, sys.argv)")
    names = {name: getattr(sys.flags, name) for name in dir(sys.flags) if not name.startswith(("_", "count", "index"))}
    monkeypatch.setattr(sys, "flags", SimpleNamespace(**{**names, "safe_path": is_safe}))
    monkeypatch.setattr(sys, "path", [first, "/rest", *sys.path])
    monkeypatch.setattr(sys, "argv", [command, "audit"])
    printed = audited("parts/x.py", "7").stdout
    path = [*(part.format(folder=tmp_path / "parts") for part in begins), "/rest"]
    assert printed.startswith(str(path)[:-1] + ", ")
    assert "['parts/x.py', '7']" in printed


@pytest.mark.parametrize(
    ("end", "says", "told"),
    [
        ("raise KeyboardInterrupt", 130, "KeyboardInterrupt"),
        ("raise KeyError('x')", 1, "KeyError: 'x'"),
        ("import none_such", 1, "ModuleNotFoundError"),
        ("sys.exit(False)", 0, ""),
        ("sys.exit(1.5)", 1, "1.5"),
    ],
)
def test_the_exit_code_of_the_program_is_told(
    tmp_path: Path, audited: Callable[..., Any], end: str, says: int, told: str
) -> None:
    done = audited(written(tmp_path, RIGHT, end), "3")
    assert done.returncode == (2 if says else 0)
    assert told in done.stderr
    assert (f"clipcheck audit: the program ended with exit code {says}\n" in done.stderr) is bool(says)
    assert "runpy" not in done.stderr and "__main__.py" not in done.stderr  # of whose frames the program knows nothing
    assert "3 of 3 used clipped gradients" in done.stdout


class LeftError(Exception):
    """Instead of the end of this process."""


@pytest.mark.parametrize(
    ("end", "status", "reports"),
    [
        ("import os; os._exit(0)", 0, True),
        ("import os; os._exit(3)", 2, True),
        ("import os; os.getpid = lambda: -1; os._exit(3)", 3, False),  # a process that was forked
        ("import os; os.getpid = lambda: -1; os._exit(0)", 0, False),
    ],
)
def test_a_program_that_ends_without_cleanup_is_reported(
    tmp_path: Path,
    audited: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    end: str,
    status: int,
    reports: bool,
) -> None:
    left: list[tuple[int, bool]] = []

    def leave(code: int) -> None:
        left.append((code, os._exit is leave))
        monkeypatch.setattr(sys, "__stdout__", io.StringIO())  # what would not run any more is not heard
        raise LeftError

    monkeypatch.setattr(os, "getpid", os.getpid)
    monkeypatch.setattr(os, "_exit", leave)
    done = audited(written(tmp_path, RIGHT, end), "3")
    assert left == [(status, True)] and os._exit is leave
    assert ("3 of 3 used clipped gradients" in done.stdout) is reports


def test_what_ends_a_program_is_as_before_afterwards(tmp_path: Path, audited: Callable[..., Any]) -> None:
    before = os._exit
    (tmp_path / "x.py").write_text("import os; print(os._exit)")
    assert "exit_now" in audited("x.py").stdout
    assert os._exit is before


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (OSError(28, "No space left on device"), "No space left on device"),
        (OSError(13, "Permission denied", "/there"), "/there: Permission denied"),
        (ArithmeticError("no"), "ArithmeticError: no. This is a bug in clipcheck, please report it"),
    ],
)
def test_a_report_that_fails_is_one_line(
    tmp_path: Path, audited: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, error: Exception, says: str
) -> None:
    def fails(*_: object) -> None:
        raise error

    monkeypatch.setattr("clipcheck.audit.ranks.compared", fails)
    done = audited(written(tmp_path, RIGHT, "sys.exit(7)"), "3")
    assert (done.returncode, done.stderr) == (2, f"clipcheck audit: {says}\n")


# --- what is noted ----------------------------------------------------------------------------------------------


def noted(train: Callable[[], Any]) -> list[Any]:
    """The events of a training."""
    with audit.watching() as watch:
        train()
    return watch.end().events


def test_reads_are_counted_in_a_few_calls_of_each_line() -> None:
    """The first one may read what later ones know; and counting takes time."""
    calls_ = [event.call for event in noted(training) if event.call]
    assert [call.reads for call in calls_] == [None, 0, 0, 0, None, None]
    assert all(0 < call.seconds < 60 for call in calls_)
    assert {(call.function, call.limit, call.error) for call in calls_} == {("clip_grad_norm_", 1.0, "")}


def test_ranks_are_compared_by_their_smallest_matrices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Vectors begin as ones or zeros on all ranks."""
    weights: list[list[float]] = []

    def train() -> None:
        torch.manual_seed(0)
        layers = [nn.Linear(n, 3) for n in range(1, 12)]
        optimizer = torch.optim.SGD([p for layer in layers for p in layer.parameters()], lr=0.1)
        for _ in range(2):
            sum(layer.weight.square().sum() + layer.bias.sum() for layer in layers).backward()
            weights.append([layer.weight.norm().item() for layer in layers[:8]])
            optimizer.step()

    def seen() -> list[Any]:
        weights.clear()
        return [event.weights for event in noted(train) if event.kind == "s"]

    assert seen() == [(), ()]
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert [list(each) for each in seen()] == [pytest.approx(each) for each in weights]


def test_the_events_of_a_step_in_their_order() -> None:
    def train() -> None:
        layer = nn.Linear(2, 1)
        optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
        for _ in range(2):
            optimizer.zero_grad()
            layer(torch.ones(1, 2)).sum().backward()
            norm_of(layer)
            clip_grad_norm_(layer.parameters(), 0.1)
            layer.weight.grad.add_(0)
            optimizer.step()

    events = noted(train)
    assert "".join(event.kind for event in events) == "ZBMCO<sZBMCO<s"
    assert [len(event.about) for event in events] == [0, 2, 2, 2, 1, 0, 2, 2, 2, 2, 2, 1, 0, 2]
    assert [event.probe is not None for event in events[:7]] == [False, True, False, True, False, False, True]
    begin, end = events[5:7]
    assert begin.optimizer == end.optimizer != 0 and begin.time > 0
    assert (end.norm, events[3].norm) == (pytest.approx(0.1, rel=1e-4), pytest.approx(math.sqrt(3)))
    assert not end.in_closure and end.parts == 1


def test_norms_under_the_name_of_any_module_are_seen() -> None:
    def train() -> None:
        layer = nn.Linear(2, 1)
        optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
        layer(torch.ones(1, 2)).sum().backward()
        runtime.grad_norm(layer.parameters())
        runtime.get_total_norm([p.grad for p in layer.parameters()])
        runtime.clip_grads_with_norm_(layer.parameters(), 1.0, 2.0)
        nn.utils.clip_grad_value_(layer.parameters(), 0.5)
        optimizer.step()

    seen = [(event.kind, event.call.function, event.norm) for event in noted(train) if event.call]
    root = pytest.approx(math.sqrt(3))
    assert seen == [
        ("M", "grad_norm", root),
        ("M", "get_total_norm", root),
        ("C", "clip_grads_with_norm_", 2.0),
        ("C", "clip_grad_value_", None),
    ]
