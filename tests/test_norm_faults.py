"""What the rules about norms say about training but their fixes cannot show: their examples, run on torch."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from clipcheck.catalogue import RULES
from clipcheck.examples import folder

torch = pytest.importorskip("torch")

from processes import SETUPS, Case, DTensor, Setup, Shard, every_rank_agrees, whole  # noqa: E402
from torch.distributed.device_mesh import init_device_mesh  # noqa: E402

from clipcheck.verify.harness import Setting, Trace, load, run  # noqa: E402

SETTING = Setting(seed=0, optimizer="SGD", dtype=torch.float32, max_norm=0.5)


def example(code: str, name: str) -> str:
    return Path(folder(RULES[code]), name).read_text(encoding="utf-8")


def trained(text: str) -> Trace:
    trace = run(load(text, "example"), SETTING)
    assert trace.raised is None
    assert trace.steps
    return trace


def norms(trace: Trace) -> list[float]:
    """The norm of the gradients at each step."""
    return [math.sqrt(sum(g.double().pow(2).sum().item() for g in grads if g is not None)) for _, grads in trace.steps]


def logged(trace: Trace) -> list[float]:
    return [float(value) for value in trace.records if not isinstance(value, str)]  # type: ignore[arg-type]


def test_a_norm_that_is_logged_after_the_clip_never_shows_more_than_the_limit() -> None:
    before, after = trained(example("CLIP507", "before.py")), trained(example("CLIP507", "after.py"))
    assert max(logged(before)) < SETTING.max_norm * 1.001
    assert min(logged(after)) > 2 * SETTING.max_norm
    assert norms(before) == norms(after), "the steps are the same"


def test_a_norm_that_is_dropped_clips_nothing() -> None:
    text = example("CLIP113", "before.py")
    call = "        global_grad_norm_(model.parameters())  # expect: CLIP113\n"
    assert call in text
    assert norms(trained(text)) == norms(trained(text.replace(call, "")))
    assert max(norms(trained(text))) > 10


def test_a_norm_of_scaled_gradients_is_as_much_too_large() -> None:
    if not hasattr(torch.amp, "GradScaler"):
        pytest.skip("needs a GradScaler for the CPU, of torch 2.3")
    guard = '        if norm > 10_000:\n            raise RuntimeError("the gradients explode")\n'
    before, after = (example("CLIP309", name).replace(guard, "") for name in ("before.py", "after.py"))
    scaled, plain = logged(trained(before)), logged(trained(after))
    assert scaled[0] == pytest.approx(65536 * plain[0], rel=1e-3)


# --- the norm of one rank's shards -----------------------------------------------------------------------------------


def the_shards_norm_is_no_norm(rank: int, size: int) -> None:
    """Each rank scales by a different number, and the norm after the clip is above the limit."""
    space: dict[str, object] = {}
    private = "torch.distributed._tensor" if torch.__version__ < "2.5" else "torch.distributed.tensor"
    text = example("CLIP412", "before.py").replace("torch.distributed.tensor", private)
    exec(compile(text, "<before>", "exec"), space)
    mesh = init_device_mesh("cpu", (size,))
    gradients = whole((8, 3), (6,), (4, 4))
    true = math.sqrt(sum(g.double().pow(2).sum().item() for g in gradients))
    parameters = []
    for gradient in gradients:
        local = gradient.chunk(size)[rank].clone()
        parameter = torch.nn.Parameter(DTensor.from_local(torch.zeros_like(local), mesh, [Shard(0)]))
        parameter.grad = DTensor.from_local(local, mesh, [Shard(0)])
        parameters.append(parameter)
    used = float(space["clip"](parameters, 0.5))  # type: ignore[operator]
    assert used < 0.95 * true, "the part of the norm that this rank holds"
    clipped = sum(p.grad.full_tensor().double().pow(2).sum().item() for p in parameters)
    assert math.sqrt(clipped) > 1.2 * 0.5, "the gradient after the clip is above the limit"


CASES: tuple[Case, ...] = (the_shards_norm_is_no_norm,)


@pytest.mark.parametrize("setup", [setup for setup in SETUPS if str(setup) == "gloo-2"], ids=str)
def test_the_norm_of_one_ranks_shards(setup: Setup) -> None:
    every_rank_agrees(setup, the_shards_norm_is_no_norm, CASES)
