"""What runs a fixture's `train`: the objects it is given, and the record of what it did with them."""

from __future__ import annotations

import random
import sys
import warnings
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="needs the extra clipcheck[torch]")

from clipcheck.verify import harness  # noqa: E402
from clipcheck.verify.harness import NotRunnable, Setting, Trace, Unavailable, flat, load, run  # noqa: E402

PLAIN = Setting(0, "SGD", torch.float32, 0.5)


def given(setting: Setting = PLAIN) -> dict[str, Any]:
    """All that a program may ask for."""
    found: dict[str, Any] = {}

    def train(model: Any, optimizer: Any, make_optimizer: Any, batches: Any, loss_fn: Any, record: Any, max_norm: Any,
              clip_value: Any, scaler: Any) -> None:  # fmt: skip
        found.update(locals())

    trace = run(train, setting)
    assert trace.raised is None
    return found


# --- settings -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "title"),
    [
        (PLAIN, "seed 0, SGD, float32, max_norm 0.5"),
        (Setting(3, "AdamW", torch.bfloat16, 1e4, unused=True), "seed 3, AdamW, bfloat16, max_norm 10000, a parameter without gradient"),
    ],
)  # fmt: skip
def test_a_setting_has_a_title(setting: Setting, title: str) -> None:
    assert setting.title == title


def test_a_setting_is_plain_unless_it_says_otherwise() -> None:
    assert PLAIN[4:] == (10.0, 1.0, False, False)


# --- what a program is given ------------------------------------------------------------------------------------------------


def test_a_model_of_two_layers() -> None:
    found = given()
    model = found["model"]
    assert [(name, tuple(p.shape)) for name, p in model.named_parameters()] == [
        ("body.weight", (12, 6)),
        ("body.bias", (12,)),
        ("head.weight", (3, 12)),
        ("head.bias", (3,)),
    ]
    inputs = found["batches"][0][0]
    assert torch.equal(model(inputs), model.head(torch.tanh(model.body(inputs))))
    spare = given(PLAIN._replace(unused=True))["model"].spare
    assert torch.equal(spare, torch.ones(2, 2)) and spare.requires_grad


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_runs_in_every_precision_start_from_the_same_numbers(dtype: torch.dtype) -> None:
    plain, other = given(), given(PLAIN._replace(dtype=dtype))
    for one, same in zip(plain["model"].parameters(), other["model"].parameters(), strict=True):
        assert same.dtype is dtype
        assert torch.equal(one, same.float())
    for one, same in zip(plain["batches"], other["batches"], strict=True):
        assert [t.dtype for t in same] == [dtype, dtype]
        assert all(torch.equal(a, b.float()) for a, b in zip(one, same, strict=True))


def test_eight_batches_of_four() -> None:
    batches = given()["batches"]
    assert len(batches) == 8
    assert {(tuple(inputs.shape), tuple(targets.shape)) for inputs, targets in batches} == {((4, 6), (4, 3))}


def test_targets_are_as_large_as_the_setting_says() -> None:
    plain = [targets for _, targets in given(PLAIN._replace(scale=1.0))["batches"]]
    scaled = [targets for _, targets in given(PLAIN._replace(scale=4.0))["batches"]]
    swinging = [targets for _, targets in given(PLAIN._replace(scale=1.0, swing=8.0))["batches"]]
    for index, (one, four, other) in enumerate(zip(plain, scaled, swinging, strict=True)):
        assert torch.equal(four, 4 * one)
        assert torch.equal(other, one * (1 / 8, 1, 8)[index % 3])
    assert 0.5 < float(torch.cat(plain).std()) < 2


def test_the_loss_of_one_batch_overflows() -> None:
    found = given(PLAIN._replace(overflow=True))
    model, loss_fn = found["model"], found["loss_fn"]
    finite = [bool(loss_fn(model(inputs), targets).isfinite()) for inputs, targets in found["batches"]]
    assert finite == [index != 4 for index in range(8)]


def test_the_loss_is_the_mean_squared_error() -> None:
    outputs, targets = torch.randn(4, 3), torch.randn(4, 3)
    torch.testing.assert_close(given()["loss_fn"](outputs, targets), torch.nn.functional.mse_loss(outputs, targets))


@pytest.mark.parametrize(
    ("name", "kind", "momentum"),
    [("SGD", torch.optim.SGD, 0), ("momentum", torch.optim.SGD, 0.9), ("AdamW", torch.optim.AdamW, None)],
)
def test_optimizers(name: str, kind: type, momentum: float | None) -> None:
    found = given(PLAIN._replace(optimizer=name))
    for optimizer in (found["optimizer"], found["make_optimizer"](found["model"].parameters())):
        (group,) = optimizer.param_groups
        assert type(optimizer) is kind
        assert (group["lr"], group.get("momentum")) == (0.01, momentum)
        assert all(a is b for a, b in zip(group["params"], found["model"].parameters(), strict=True))
    assert [*harness.OPTIMIZERS] == ["SGD", "momentum", "AdamW"]


def test_both_kinds_of_limits_and_a_scaler() -> None:
    found = given(PLAIN._replace(max_norm=0.25))
    assert (found["max_norm"], found["clip_value"]) == (0.25, 0.25)
    assert type(found["scaler"]) is torch.amp.GradScaler
    assert found["scaler"]._device == "cpu"


def test_a_torch_without_a_scaler_for_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.amp, "GradScaler")
    with pytest.raises(Unavailable, match="needs a GradScaler for the CPU"):
        run(lambda scaler: None, PLAIN)
    assert run(lambda model: 1, PLAIN).records == [1]


def test_what_the_harness_lacks_needs_a_default() -> None:
    assert run(lambda scheduler=7: scheduler, PLAIN).records == [7]
    with pytest.raises(NotRunnable, match="`train` asks for `scheduler`, which the harness does not have"):
        run(lambda model, scheduler: None, PLAIN)


# --- what is noted --------------------------------------------------------------------------------------------------------


def test_a_run_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([10.0, 12.5])
    monkeypatch.setattr(harness.time, "perf_counter", lambda: next(clock))

    def train(model: Any, optimizer: Any, record: Any) -> Any:
        record(1, [2.0, None], name="x")
        model.body.bias.grad = torch.full((12,), 2.0)
        optimizer.step()
        model.body.bias.grad.zero_()
        record(torch.tensor(3.0))
        optimizer.step()
        return {"end": 4}

    before = given()["model"].body.bias.detach().clone()
    clock = iter([10.0, 12.5])
    trace = run(train, PLAIN)
    assert trace.records == [1, 2.0, "name", "x", torch.tensor(3.0), "end", 4]
    assert trace.early == 4
    assert [number for number, _ in trace.steps] == [0, 0]
    first, second = ([None if g is None else g.unique().tolist() for g in grads] for _, grads in trace.steps)
    assert (first, second) == ([None, [2.0], None, None], [None, [0.0], None, None])  # as they were at the step
    assert torch.allclose(trace.parameters[1], before - 0.02)
    assert not any(p.requires_grad for p in trace.parameters)
    assert (trace.raised, trace.seconds) == (None, 2.5)


def test_what_a_program_raises_is_part_of_what_it_does() -> None:
    error = ZeroDivisionError("no")

    def train(record: Any) -> None:
        record(1)
        raise error

    trace = run(train, PLAIN)
    assert (trace.raised, trace.records, len(trace.parameters)) == (error, [1], 4)
    assert trace.seconds > 0


def test_steps_are_counted_by_optimizer() -> None:
    def train(model: Any, make_optimizer: Any) -> None:
        first, second = make_optimizer(model.body.parameters()), make_optimizer(model.head.parameters())
        for optimizer in (second, first, second):
            optimizer.step()

    trace = run(train, PLAIN)
    assert [(number, len(grads)) for number, grads in trace.steps] == [(0, 2), (1, 2), (0, 2)]


@pytest.mark.parametrize("by_name", [True, False])
def test_gradients_that_a_closure_leaves_count(by_name: bool) -> None:
    def train(model: Any, optimizer: Any, record: Any) -> None:
        def closure() -> torch.Tensor:
            model.head.bias.grad = torch.full((3,), 7.0)
            return torch.tensor(0.5)

        record(optimizer.step(closure=closure) if by_name else optimizer.step(closure))

    trace = run(train, PLAIN)
    assert trace.raised is None, trace.raised
    ((_, grads),) = trace.steps
    assert grads[3].tolist() == [7.0] * 3
    assert trace.records == [torch.tensor(0.5)]


def test_no_hook_stays() -> None:
    trace = run(lambda model: None, PLAIN)
    torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=1.0).step()
    assert trace.steps == []
    run(lambda: 1 / 0, PLAIN)
    torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=1.0).step()


def test_two_runs_with_one_seed_are_the_same_and_with_another_are_not() -> None:
    def train() -> list[float]:
        return [random.random(), float(torch.rand(()))]

    one, same, other = (run(train, PLAIN._replace(seed=seed)).records for seed in (1, 1, 2))
    assert one == same
    assert one[0] != other[0] and one[1] != other[1]


def test_float64_is_the_default_of_runs_in_it() -> None:
    found = [run(lambda: torch.zeros(1), PLAIN._replace(dtype=dtype)).records[0].dtype for dtype in (torch.float64, torch.float32, torch.bfloat16)]  # fmt: skip
    assert found == [torch.float64, torch.float32, torch.float32]
    assert torch.get_default_dtype() is torch.float32
    run(lambda: 1 / 0, PLAIN._replace(dtype=torch.float64))
    assert torch.get_default_dtype() is torch.float32


def test_what_a_program_prints_and_warns_of_is_not_seen(capfd: pytest.CaptureFixture[str]) -> None:
    def train() -> None:
        print("out")
        print("err", file=sys.stderr)
        warnings.warn("careful", stacklevel=1)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert run(train, PLAIN).raised is None
        load("print('loaded')\nimport warnings\nwarnings.warn('careful')\ndef train(): pass", "x")
    assert capfd.readouterr() == ("", "")


def test_values_are_taken_out_of_what_holds_them() -> None:
    tensor, whole = torch.tensor([1.0], requires_grad=True), torch.tensor([1])
    assert list(flat(None)) == []
    assert list(flat({"a": [1, (2, None)], "b": {"c": "x"}})) == ["a", 1, 2, "b", "c", "x"]
    (copy,) = flat(tensor)
    assert copy is not tensor and copy.requires_grad and copy.is_leaf and torch.equal(copy, tensor)
    (copy,) = flat((tensor * 2).detach())
    assert not copy.requires_grad
    (copy,) = flat([whole])
    whole += 1
    assert copy.tolist() == [1]


# --- programs -------------------------------------------------------------------------------------------------------------


def test_a_program_is_a_module_while_it_loads() -> None:
    text = "from dataclasses import dataclass\n@dataclass\nclass A:\n    x: 'int' = 1\ndef train():\n    return A().x, __name__"
    train = load(text, "some_program")
    assert run(train, PLAIN).records == [1, "some_program"]
    assert "some_program" not in sys.modules
    with pytest.raises(ZeroDivisionError):
        load("1 / 0", "some_program")
    assert "some_program" not in sys.modules


@pytest.mark.parametrize("text", ["x = 1", "train = 1", "class train_it: pass"])
def test_a_program_has_a_function_train(text: str) -> None:
    with pytest.raises(NotRunnable, match="defines no function `train`"):
        load(text, "x")


@pytest.mark.parametrize(
    ("text", "missing"),
    [
        ("torch.nn.utils.get_total_norm(x)", "get_total_norm"),
        ("from torch.nn.utils import clip_grad_norm_, get_total_norm", "get_total_norm"),
        ("from torch.nn.utils import clip_grads_with_norm_", "clip_grads_with_norm_"),
        ("from torch.nn.utils import clip_grad_norm_  # get_total_norm", ""),
        ("from clipcheck.runtime import get_total_norm", ""),
        ("torch.nn.utils.get_total_norms(x)", ""),
    ],
)
def test_what_an_older_torch_lacks_is_named(text: str, missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("get_total_norm", "clip_grads_with_norm_"):
        monkeypatch.delattr(torch.nn.utils, name, raising=False)
    program = f"def train():\n    {text}\n"
    if missing:
        with pytest.raises(Unavailable, match=f"needs torch.nn.utils.{missing}, of torch 2.6"):
            load(program, "x")
    else:
        load(program, "x")
    assert Trace() == Trace([], [], 0, [], None, 0.0)
