"""What a call does to the training step, judging by its name and its arguments. Silent cases first."""

from __future__ import annotations

import libcst as cst
import pytest

from clipcheck.python.source import Source
from clipcheck.training.acts import acts

HEAD = "import torch\nimport math\nimport deepspeed\nfrom torch.nn.utils import clip_grad_norm_\n"


def acts_of(code: str, before: str = "") -> str:
    """What the last line does: kind, subject, scaler, wrapper."""
    source = Source(f"{HEAD}{before}\n{code}\n")
    last = source.module.body[-1]
    inside = list(source.walk(last))
    found = [act for node, act in acts(source).items() if any(node is one for one in inside)]

    def part(name: str, node: cst.CSTNode | None) -> str:
        return "" if node is None else f" {name}{source.code(node)}"

    return "; ".join(
        f"{act.kind.value}{part('', act.subject)}{part('by ', act.scaler)}{act.wrapper and f' ({act.wrapper})'}"
        for act in found
    )


# --- nothing that affects the gradients -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    "scheduler lr_scheduler sched lr_step warmup self.warmup_lr profiler prof timer env envs bar pbar ema meter tracker "
    "progress sim simulator self.progress_bar".split(),
)
def test_a_step_of_something_other_than_an_optimizer(name: str) -> None:
    assert acts_of(f"{name}.step()") == ""


@pytest.mark.parametrize(
    "made", ["torch.optim.lr_scheduler.StepLR(x, 1)", "torch.profiler.profile()", "LinearWarmup(x)", "get_scheduler(x)"]
)
def test_a_step_of_an_object_created_as_something_else(made: str) -> None:
    assert acts_of("tool.step()", f"tool = {made}") == ""
    assert acts_of("tool.step()", "tool = Trainer(x)") == "unknown"


@pytest.mark.parametrize("origin", ["torch.optim.lr_scheduler", "torch.profiler"])
def test_a_step_of_an_object_created_by_an_import_under_another_name(origin: str) -> None:
    assert acts_of("tool.step()", f"from {origin} import x as Tool\ntool = Tool(y)") == ""
    assert acts_of("tool.step()", "from torch.other import x as Tool\ntool = Tool(y)") == "unknown"


@pytest.mark.parametrize(
    "code",
    [
        "print(optimizer)",
        "isinstance(optimizer, Adam)",
        "torch.save(optimizer)",
        "math.step(optimizer)",
        "save_checkpoint(model, optimizer)",
        "adjust_learning_rate(optimizer)",
        "get_lr(optimizer)",
        "log_step(x)",
        "train(x)",  # a mode
        "model.train()",
        "model.train(False)",
        "trained(model)",
        "self.optimizers()",
        "amp.scale_loss(loss, optimizer)",
        "fabric.no_backward_sync(model, enabled=True)",
        "f(model)",
        "f(optimizer.lr, [optimizer], x=3)",
        "x.zero_()",
        "x.add_(1)",
        "x = 3",
        "x.data = 3",
        "x *= 2",
        "scaler.step()",  # of which optimizer?
        "tqdm.update(1)",
        "env.step(action)",
    ],
)
def test_calls_that_do_nothing_to_the_gradients(code: str) -> None:
    assert acts_of(code) == ""


# --- acts -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("loss.backward()", "backward loss"),
        ("(loss / 4).backward()", "backward loss / 4"),
        ("scaler.scale(loss).backward()", "backward scaler.scale(loss) by scaler"),
        ("accelerator.backward(loss)", "backward loss (accelerator)"),
        ("self.fabric.backward(loss, model=m)", "backward loss (fabric)"),
        ("engine.backward(loss=loss)", "backward loss (engine)"),
        ("loss.backward(gradient)", "backward loss"),  # what starts it
        ("outputs.backward(gradient)", "backward outputs"),
        ("x.backward(gradient)", "backward gradient (x)"),
        ("x.backward(retain_graph=True)", "backward x"),
        ("self.manual_backward(loss)", "backward loss (self)"),
        ("torch.autograd.backward(loss)", "backward loss"),
        ("optimizer.step()", "step optimizer"),
        ("optimizer.step(closure)", "step optimizer"),
        ("scaler.step(optimizer)", "step optimizer by scaler"),
        ("engine.step()", "step engine (engine)"),
        ("xm.optimizer_step(opt)", "step opt (xm)"),
        ("agent.step()", "unknown"),
        ("optimizer.zero_grad()", "zero_grad optimizer"),
        ("model.zero_grad(set_to_none=True)", "zero_grad model"),
        ("p.grad.zero_()", "zero_grad"),
        ("p.grad = None", "zero_grad"),
        ("p.grad = x", "edit"),
        ("p.grad *= x", "edit"),
        ("p.grad.mul_(x)", "edit"),
        ("p.grad._mul_(x)", ""),
        ("p.grad.mul(x)", ""),
        ("scaler.unscale_(optimizer)", "unscale optimizer by scaler"),
        ("accelerator.unscale_gradients()", "unscale by accelerator"),
        ("scaler.update()", "update by scaler"),
        ("self.grad_scaler.update(2.0)", "update by self.grad_scaler"),
        ("torch.nn.utils.clip_grad_norm_(ps, 1.0)", "clip ps"),
        ("clip_grad_norm_(ps, 1.0)", "clip ps"),
        ("accelerator.clip_grad_norm_(ps, 1.0)", "clip ps (accelerator)"),
        ("accelerator.clip_grad_value_(ps, 1.0)", "clip ps (accelerator)"),
        ("fabric.clip_gradients(model, optimizer, max_norm=1.0)", "clip model (fabric)"),
        ("self.clip_gradients(optimizer, gradient_clip_val=1.0)", "clip (lightning)"),
        ("self.clip_gradients(optimizer, gradient_clip_algorithm='value')", "clip (lightning)"),
        ("self.clip_gradients(optimizer, 1.0)", "unknown"),
        ("model.clip_grad_norm_(1.0)", "clip (own)"),
        ("mine.clip_grad_norm_(ps, 1.0)", "clip ps (own)"),
        ("mine.clip_grad_norm_(model.parameters(), 1.0)", "clip model.parameters() (own)"),
        ("mine.clip_grad_norm_(1.0, 2.0)", "clip (own)"),  # a limit and a norm type
        ("model.clip_grad_norm_(limit)", "clip (own)"),
        ("clip_grad_value_(ps, 1.0)", "clip ps (own)"),  # a copy of torch's
    ],
)
def test_what_a_call_does(code: str, expected: str) -> None:
    assert acts_of(code) == expected


@pytest.mark.parametrize(
    "code",
    [
        *(
            "run_backward(x)",
            "train_step(x)",
            "optimize(x)",
            "train(x, y)",
            "model.unscale(x)",
            "closure()",
            "x.fit(y)",
        ),
        *("agent.learn()", "backprop(loss)", "clip_all(x)", "accumulate(x)", "prepare(optimizer)", "f(x, self.scaler)"),
        *("f(opt=optimizer)", "self.f(self.optimizer)", "xm.optimizer_step()", "super().backward()"),
    ],
)
def test_a_call_of_unknown_code_may_do_anything(code: str) -> None:
    assert acts_of(code) == "unknown"


def test_a_loss_that_was_scaled_earlier() -> None:
    assert acts_of("scaled.backward()", "scaled = scaler.scale(loss)") == "backward scaled by scaler"
    assert (
        acts_of("scaled.backward()", "gs = torch.amp.GradScaler()\nscaled = gs.scale(loss)") == "backward scaled by gs"
    )
    assert acts_of("scaled.backward()", "scaled = other.scale(loss)") == "backward scaled"
    assert acts_of("gs.step(opt)", "gs = torch.cuda.amp.GradScaler()") == "step opt by gs"


def test_a_deepspeed_engine_is_known_by_its_creation() -> None:
    made = "net, _, _, _ = deepspeed.initialize(model)"
    assert acts_of("net.step()", made) == "step net (engine)"
    assert acts_of("net.step()", made.replace("deepspeed", "other")) == "unknown"


@pytest.mark.parametrize(("maker", "expected"), [("deepspeed", "step self.net (engine)"), ("other", "unknown")])
def test_an_engine_of_deepspeed_that_is_an_attribute(maker: str, expected: str) -> None:
    made = f"self.net, *_ = {maker}.initialize(model)"
    assert (
        acts_of(f"class A:\n    def __init__(self):\n        {made}\n    def f(self):\n        self.net.step()")
        == expected
    )
