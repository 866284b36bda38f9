"""Fixes that change training: each shows that its steps are right and the old ones are not; sabotage fails."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from clipcheck.rule import Edit, Fix, Safety, Verdict
from clipcheck.verify.allowed import NotVerifiable
from clipcheck.verify.changes import Change
from clipcheck.verify.sites import Verifier
from clipcheck.verify.training import Training, rehearsal

pytest.importorskip("torch", reason="needs the extra clipcheck[torch]")

HEAD = """\
import torch
from apex import amp
from itertools import chain
from torch.nn.utils import clip_grad_norm_, clip_grad_value_

"""


@pytest.fixture(scope="module")
def verify() -> Iterator[Verifier]:
    with Verifier() as verifier:
        yield verifier


def change(before: str, after: str, safety: Safety = Safety.UNSAFE) -> Change:
    """The fix that turns one program into another, as one edit of whole lines."""
    old, new = (HEAD + text for text in (before, after))
    first, second = (text.splitlines(keepends=True) for text in (old, new))
    least = min(len(first), len(second))
    head = next((i for i in range(least) if first[i] != second[i]), least)
    tail = next((i for i in range(least - head) if first[-1 - i] != second[-1 - i]), least - head)
    start, end = len("".join(first[:head])), len("".join(first[: len(first) - tail]))
    return Change(old, Fix("Change", safety, (Edit(start, end, "".join(second[head : len(second) - tail])),)))


def tried(verify: Verifier, before: str, after: str, safety: Safety = Safety.UNSAFE) -> Verdict:
    asked = change(before, after, safety)
    return verify(asked.text, asked.fix)


def loop(body: str, head: str = "") -> str:
    lines = [f"    {line}\n" for line in head.splitlines()] + ["    for inputs, targets in batches:\n"]
    lines += [f"        {line}\n" for line in body.splitlines()]
    return "def train(model, optimizer, batches, loss_fn, max_norm, scaler, record):\n" + "".join(lines)


BACKWARD = "optimizer.zero_grad()\nloss = loss_fn(model(inputs), targets)\nloss.backward()\n"
CLIP = "clip_grad_norm_(model.parameters(), max_norm)\n"
STEP = "optimizer.step()\n"
SCALED = "optimizer.zero_grad()\nscaler.scale(loss_fn(model(inputs), targets)).backward()\n"
UNSCALE = "scaler.unscale_(optimizer)\n"
SCALED_STEP = "scaler.step(optimizer)\nscaler.update()\n"
WRAPPED = "optimizer.zero_grad()\naccelerator.backward(loss_fn(model(inputs), targets))\n"
FILTERED = "params = filter(lambda p: p.requires_grad, model.parameters())\noptimizer = torch.optim.SGD(params, lr=0.1)"
OF_LIST = CLIP.replace("model.parameters()", "params")
MICRO = "scaled = loss_fn(model(inputs), targets) / 4\nscaled.backward()\n"
EVERY = "if (index + 1) % 4 == 0:\n    {}optimizer.step()\n    optimizer.zero_grad()\n"
SCALED_MICRO = "scaler.scale(loss_fn(model(inputs), targets)).backward()\n"
SCALED_EVERY = EVERY.replace("optimizer.step()", "scaler.step(optimizer)\n    scaler.update()")
APEX = "optimizer.zero_grad()\nwith amp.scale_loss(loss_fn(model(inputs), targets), optimizer) as scaled:\n    scaled.backward()\n"
MASTER = CLIP.replace("model.parameters()", "amp.master_params(optimizer)")


def micro(body: str) -> str:
    return loop(body).replace("for inputs, targets in batches", "for index, (inputs, targets) in enumerate(batches)")


# By the purpose of the fix: the program before, after, and the fault that it removes.
RIGHT = {
    "a clip before the step": (loop(BACKWARD + STEP + CLIP), loop(BACKWARD + CLIP + STEP), "a step above max_norm with gradients above"),
    "a clip after backward": (loop(CLIP + BACKWARD + STEP), loop(BACKWARD + CLIP + STEP), "a step above max_norm"),
    "an unscale": (
        loop(SCALED + CLIP + SCALED_STEP),
        loop(SCALED + UNSCALE + CLIP + SCALED_STEP),
        "a step that is far too small in every case",
    ),
    "one unscale": (
        micro(SCALED_MICRO + UNSCALE + SCALED_EVERY.format("")),
        micro(SCALED_MICRO + SCALED_EVERY.format(UNSCALE + "    ")),
        "RuntimeError",
    ),
    "a list": (
        loop(BACKWARD + OF_LIST + STEP, FILTERED),
        loop(BACKWARD + OF_LIST + STEP, FILTERED.replace("filter(", "list(filter(").replace("())\n", "()))\n", 1)),
        "a step above max_norm",
    ),
    "one clip for all micro-batches": (
        micro(MICRO + CLIP + EVERY.format("")),
        micro(MICRO + EVERY.format(CLIP + "    ")),
        "a step in a wrong direction",
    ),
    "one clip for all parameters": (
        loop(BACKWARD + "for p in model.parameters():\n    clip_grad_norm_(p, max_norm)\n" + STEP),
        loop(BACKWARD + CLIP + STEP),
        "a step above max_norm",
    ),
    "the gradients cleared at first": (
        loop("loss_fn(model(inputs), targets).backward()\noptimizer.zero_grad()\n" + CLIP + STEP),
        loop("optimizer.zero_grad()\nloss_fn(model(inputs), targets).backward()\n" + CLIP + STEP),
        "a step without gradients in every case",
    ),
    "the accelerator's clip": (
        loop(WRAPPED + CLIP + STEP),
        loop(WRAPPED + "accelerator." + CLIP + STEP),
        "a step that is far too small",
    ),
    "a clip outside of scale_loss": (
        loop(APEX + "    " + MASTER + STEP),
        loop(APEX + MASTER + STEP),
        "a step above max_norm",
    ),
    "the master parameters": (loop(APEX + CLIP + STEP), loop(APEX + MASTER + STEP), "a step above max_norm"),
    "called parameters": (
        loop(BACKWARD + CLIP.replace("parameters()", "parameters") + STEP),
        loop(BACKWARD + CLIP + STEP),
        "TypeError in every case",
    ),
    "a clamp in place": (
        loop(BACKWARD + "for p in model.parameters():\n    p.grad.clamp(-1.0, 1.0)\n" + STEP),
        loop(BACKWARD + "for p in model.parameters():\n    p.grad.clamp_(-1.0, 1.0)\n" + STEP),
        "a step that is too large",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", RIGHT)
def test_a_right_fix_is_verified_by_what_the_optimizer_sees(verify: Verifier, name: str) -> None:
    before, after, fault = RIGHT[name]
    found = tried(verify, before, after)
    assert found.kind == "verified", found
    assert found.cases >= 4
    assert any(note.startswith(fault) for note in found.exceptions), found


# Wrong fixes of the first program in RIGHT, and of the one with a scaler.
SABOTAGE = {
    "nothing": loop(BACKWARD + STEP + CLIP + "record(loss)\n"),
    "the clip dropped": loop(BACKWARD + STEP),
    "the step dropped": loop(BACKWARD + CLIP),
    "two steps": loop(BACKWARD + CLIP + STEP + STEP),
    "no backward": loop(BACKWARD.replace("loss.backward()\n", "") + CLIP + STEP),
    "two backwards": loop(BACKWARD + "loss_fn(model(inputs), targets).backward()\n" + CLIP + STEP),
    "nothing cleared": loop(BACKWARD.replace("optimizer.zero_grad()\n", "") + CLIP + STEP),
    "cleared too late": loop(BACKWARD.replace("optimizer.zero_grad()\n", "") + CLIP + "optimizer.zero_grad()\n" + STEP),
    "twice the limit": loop(BACKWARD + CLIP.replace("max_norm", "2 * max_norm") + STEP),
    "another limit": loop(BACKWARD + CLIP.replace("max_norm", "1.0") + STEP),
    "a limit of another name": loop(BACKWARD + CLIP.replace("max_norm", "record") + STEP),
    "another norm": loop(BACKWARD + CLIP.replace("max_norm", "max_norm, 1.0") + STEP),
    "by value": loop(BACKWARD + CLIP.replace("norm_(", "value_(") + STEP),
    "some of the parameters": loop(
        BACKWARD + CLIP.replace("model.parameters()", "list(model.parameters())[1:]") + STEP
    ),
    "each parameter twice": loop(BACKWARD + CLIP.replace("model.parameters()", "list(model.parameters()) * 2") + STEP),
    "the gradients": loop(BACKWARD + CLIP.replace("model.parameters()", "[p.grad for p in model.parameters()]") + STEP),
    "each by itself": loop(BACKWARD + "for p in model.parameters():\n    clip_grad_norm_(p, max_norm)\n" + STEP),
    "at times": loop(BACKWARD + "if record(loss):\n    " + CLIP + STEP),
    "a clip in front of backward": loop(CLIP + BACKWARD + STEP),
}
SCALED_SABOTAGE = {
    "no unscale": loop(SCALED + SCALED_STEP + CLIP),
    "an unscale after the clip": loop(SCALED + CLIP + UNSCALE + SCALED_STEP),
    "two unscales": loop(SCALED + UNSCALE + UNSCALE + CLIP + SCALED_STEP),
    "no update": loop(SCALED + UNSCALE + CLIP + SCALED_STEP.replace("scaler.update()\n", "")),
    "the optimizer's step": loop(SCALED + CLIP + STEP + "scaler.update()\n"),
}


@pytest.mark.parametrize("name", SABOTAGE)
def test_wrong_fixes_are_not_verified(verify: Verifier, name: str) -> None:
    found = tried(verify, RIGHT["a clip before the step"][0], SABOTAGE[name])
    assert found.kind == "not verified", found


@pytest.mark.parametrize("name", SCALED_SABOTAGE)
def test_wrong_fixes_of_scaled_gradients_are_not_verified(verify: Verifier, name: str) -> None:
    found = tried(verify, RIGHT["an unscale"][0], SCALED_SABOTAGE[name])
    assert found.kind == "not verified", found


def test_a_safe_fix_that_breaks_the_step_is_refuted(verify: Verifier) -> None:
    before, after = (
        RIGHT["called parameters"][0],
        loop(BACKWARD + "clip_grad_norm_(list(model.parameters())[1:], max_norm)\n" + STEP),
    )
    found = tried(verify, before, after, Safety.SAFE)
    assert found.kind == "refuted" and "a step above max_norm" in found.reason


def test_a_fix_may_leave_right_steps_as_they_are(verify: Verifier) -> None:
    each = (
        "for module in model.modules():\n    clip_grad_norm_(module.parameters(), max_norm)\n"  # the whole comes first
    )
    found = tried(verify, loop(BACKWARD + each + STEP), loop(BACKWARD + CLIP + STEP))
    assert found.kind == "verified" and found.exceptions == ()


# --- what is left out, and what is replaced ------------------------------------------------------------------------


def reduced(before: str, after: str) -> Training:
    return rehearsal(change(before, after))


def lines(training: Training) -> list[str]:
    return [line.strip() for line in training.after.code.splitlines()[2:-1]]


def test_what_has_nothing_to_do_with_the_gradients_is_left_out() -> None:
    extra = (
        "record(loss.item())\naccuracy = (model(inputs) == targets).mean()\nif accuracy > 0.5:\n    print(accuracy)\n"
    )
    found = reduced(loop(BACKWARD + STEP + extra + CLIP), loop(BACKWARD + CLIP + STEP + extra))
    assert lines(found) == [
        "for _ in batches__0__call():",
        "optimizer__0__name.zero_grad()",
        "loss__0__call().backward()",
        "torch__nn__utils__clip_grad_norm_(model__0__name.parameters(), max_norm__0__name)",
        "optimizer__0__name.step()",
    ]
    assert set(found.roles.values()) == {"max_norm", "model", "optimizer"}


def test_a_test_that_is_not_known_is_tried_both_ways() -> None:
    guarded = "if record(loss):\n    optimizer.step()\n"
    found = reduced(loop(BACKWARD + guarded + CLIP), loop(BACKWARD + CLIP + guarded))
    assert "if flag__0__call():" in lines(found)
    assert found.roles["flag__0__call"] == "flag"


def test_what_uses_up_an_iterator_stays() -> None:
    head = "params = (p for p in model.parameters())\nprint(sum(p.numel() for p in params), 'parameters')"
    found = reduced(
        loop(BACKWARD + OF_LIST + STEP, head),
        loop(BACKWARD + OF_LIST + STEP, head.replace("(p for p in model.parameters())", "list(model.parameters())", 1)),
    )
    assert "builtins__sum((p.numel() for p in params))" in lines(found)


def test_attributes_of_self_are_what_methods_use() -> None:
    text = """\
class Trainer:
    def __init__(self, model, optimizer):
        self.model, self.optimizer = model, optimizer
        self.params = {}(model.parameters())

    def step(self, loss):
        self.optimizer.zero_grad()
        loss.backward()
        clip_grad_norm_(self.params, self.config.clip)
        self.optimizer.step()
"""
    found = reduced(text.format("chain"), text.format("list"))
    assert "local_0 = itertools__chain(model__0__name.parameters())" in found.before.code
    assert "torch__nn__utils__clip_grad_norm_(local_0, max_norm__0__name)" in found.before.code


DROPS = "optimizer.zero_grad()\n"
DROPPED = (
    micro(DROPS + SCALED_MICRO + UNSCALE + CLIP + SCALED_EVERY.format("")),
    micro(DROPS + SCALED_MICRO + SCALED_EVERY.format(UNSCALE + "    " + CLIP + "    ")),
)
NOT_DROPPED = {
    "nothing unscaled": micro(DROPS + SCALED_MICRO + SCALED_EVERY.format(CLIP + "    ")),
    "unscaled after the clip": micro(DROPS + SCALED_MICRO + SCALED_EVERY.format(CLIP + "    " + UNSCALE + "    ")),
    "no clip": micro(DROPS + SCALED_MICRO + SCALED_EVERY.format(UNSCALE + "    ")),
    "cleared after backward": micro(SCALED_MICRO + DROPS + SCALED_EVERY.format(UNSCALE + "    " + CLIP + "    ")),
}


def test_gradients_that_both_sides_drop_are_no_fault_of_the_fix(verify: Verifier) -> None:
    found = tried(verify, *DROPPED)
    assert found.kind == "verified" and found.exceptions == ("RuntimeError in every case",), found


@pytest.mark.parametrize("name", NOT_DROPPED)
def test_a_fix_that_drops_others_or_does_not_fix_is_not_verified(verify: Verifier, name: str) -> None:
    assert tried(verify, DROPPED[0], NOT_DROPPED[name]).kind == "not verified"


def test_a_test_of_what_only_init_sets_has_one_outcome() -> None:
    text = "class T:\n    def __init__(self, on):\n        self.on = on\n{}\n    def step(self, model, optimizer, loss, max_norm):\n"
    body = BACKWARD.replace("loss = loss_fn(model(inputs), targets)\n", "") + "if self.on:\n    {}\n"
    moved = (STEP + body.format(CLIP.strip()), body.format(CLIP.strip()) + STEP)
    for more, role in (("", "choice"), ("\n    def stop(self):\n        self.on = False\n", "flag")):
        sides = ("".join(f"        {line}\n" for line in side.splitlines()) for side in moved)
        found = reduced(*(text.format(more) + side for side in sides))
        assert list(found.roles.values()).count(role) == 1, found.roles


def test_a_name_that_may_not_be_bound_is_not_known() -> None:
    head = "if start is None:\n    start = 0\n"
    found = reduced(loop(BACKWARD + STEP + CLIP, head), loop(BACKWARD + CLIP + STEP, head))
    assert "start" not in found.after.code


UNKNOWN = {
    "a closure": loop(BACKWARD + "optimizer.step(closure)\n" + CLIP),
    "several optimizers": loop(BACKWARD + STEP + "other_optimizer.step()\n" + CLIP),
    "an engine": loop(BACKWARD + STEP + "engine.backward(loss)\n" + CLIP),
    "a return from a loop": loop(BACKWARD + STEP + "if record(loss):\n    return loss\n" + CLIP),
    "a custom clip": loop(BACKWARD + STEP + "model.clip_grad_norm_(max_norm)\n"),
    "a part of a model": loop(BACKWARD + STEP + CLIP.replace("model.parameters()", "record(model)")),
    "many tests": loop(
        "".join(f"if record({i}):\n    optimizer.zero_grad()\n" for i in range(4)) + BACKWARD + STEP + CLIP
    ),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_code_without_a_stand_in_is_not_run(name: str) -> None:
    body = UNKNOWN[name]
    last = body.splitlines(keepends=True)[-1]
    moved = body.removesuffix(last).replace("        optimizer.step()\n", last + "        optimizer.step()\n")
    moved = (
        moved
        if moved != body.removesuffix(last)
        else body.replace("    loss.backward()", "    loss_fn(loss).backward()")
    )
    with pytest.raises(NotVerifiable):
        reduced(body, moved)


FORBIDDEN = {
    "a file": "model.parameters(open('x', 'w'))",
    "a path of torch's": "torch.hub.load('x', 'y').parameters()",
    "a step of the harness's": "optimizer.take().parameters()",
    "a bound method": "optimizer.step",
    "an update of something else": "[].update(model.parameters())",
    "eval": "eval('model.parameters()')",
    "a lambda": "(lambda: model.parameters())()",
    "a generator's frame": "(p for p in model.parameters()).gi_frame",
}


# Expressions that are not acts of the training step: they are replaced as a whole, whatever they contain.
MADE_UP = [
    "model.__class__.parameters()",
    "model._own_world",
    "torch.nn.utils",
    "self.hub.load",
    "args.__dict__.parameters",
]


@pytest.mark.parametrize("parameters", MADE_UP)
def test_replaced_expressions_are_not_run(parameters: str) -> None:
    clip = CLIP.replace("model.parameters()", parameters).replace("max_norm", "limits(record)")
    found = reduced(loop(BACKWARD + STEP + clip), loop(BACKWARD + clip + STEP))
    for code in (found.before.code, found.after.code):
        names = set(re.findall(r"\w+", code))
        assert not names & {"__class__", "_own_world", "nn", "hub", "load", "args", "__dict__", "limits", "record"}


@pytest.mark.parametrize("name", FORBIDDEN)
def test_nothing_beyond_the_list_is_run(name: str) -> None:
    clip = CLIP.replace("model.parameters()", FORBIDDEN[name])
    with pytest.raises(NotVerifiable):
        reduced(loop(BACKWARD + STEP + clip), loop(BACKWARD + clip + STEP))


@pytest.mark.parametrize(
    "statement", ["open('x', 'w')", "import os", "os.remove('x')", "exec(inputs)", "model.save('x')", "del model"]
)
def test_other_statements_are_left_out_and_never_run(statement: str) -> None:
    found = reduced(loop(BACKWARD + STEP + statement + "\n" + CLIP), loop(BACKWARD + CLIP + STEP + statement + "\n"))
    assert len(lines(found)) == 5


# --- what is known of a training run, without running it --------------------------------------------------------------

SIDES = (loop(BACKWARD + STEP + CLIP), loop(BACKWARD + CLIP + STEP))


def test_a_training_run() -> None:
    found = reduced(*SIDES)
    assert found._replace(before=found.after, roles={}) == Training(
        found.after, found.after, {}, "norm", 2.0, 0.5, clears=True, groups=2, implied=(), ranks=1
    )
    assert found.roles == {f"{role}__0__name": role for role in ("max_norm", "model", "optimizer")}
    assert found.before.code.startswith("def site():\n    for turn__own__item in turns__own__call():\n")
    assert found.before.names == {"torch__nn__utils__clip_grad_norm_": "torch.nn.utils.clip_grad_norm_"}


FSDP = "from torch.distributed.fsdp import FullyShardedDataParallel\nmodel = FullyShardedDataParallel(model)\n"
SHARDED_CLIP = "model.clip_grad_norm_(max_norm)\n"


@pytest.mark.parametrize(
    ("before", "after", "known"),
    [
        (BACKWARD + STEP + CLIP, BACKWARD + CLIP.replace("norm)", "norm, 1)") + STEP, None),  # another norm
        (CLIP.replace("norm)", "norm, 1)") + BACKWARD + STEP, BACKWARD + CLIP.replace("norm)", "norm, 1)") + STEP, {"norm_type": 1.0}),
        (BACKWARD + STEP + CLIP.replace("max_norm", "2.0"), BACKWARD + CLIP.replace("max_norm", "2.0") + STEP, {"limit": 2.0}),
        (BACKWARD + STEP + CLIP.replace("norm_", "value_"), BACKWARD + CLIP.replace("norm_", "value_") + STEP, {"clip": "value"}),
        (BACKWARD.replace(DROPS, "") + STEP + CLIP, BACKWARD.replace(DROPS, "") + CLIP + STEP, {"clears": False}),
        (CLIP + BACKWARD, BACKWARD + CLIP, {"implied": ("step",)}),
        (STEP + CLIP, CLIP + STEP, {"implied": ("backward",), "clears": False}),
        (
            BACKWARD + STEP + "for p in optimizer.param_groups[0]['params']:\n    p.grad.clamp_(-max_norm, max_norm)\n",
            BACKWARD + "for p in optimizer.param_groups[0]['params']:\n    p.grad.clamp_(-max_norm, max_norm)\n" + STEP,
            {"groups": 1, "clip": "value"},
        ),
    ],
)  # fmt: skip
def test_what_a_training_run_needs(before: str, after: str, known: dict[str, object] | None) -> None:
    if known is None:
        with pytest.raises(NotVerifiable, match="it clips in another way than before"):
            reduced(loop(before), loop(after))
    else:
        found = reduced(loop(before), loop(after))._asdict()
        plain = {"clip": "norm", "norm_type": 2.0, "limit": 0.5, "clears": True, "groups": 2, "implied": (), "ranks": 1}
        assert {name: found[name] for name in plain} == plain | known


def test_sharded_models_train_on_two_ranks() -> None:
    before, after = (
        loop(BACKWARD.replace("optimizer.zero", "model.zero") + body, FSDP)
        for body in (STEP + SHARDED_CLIP, SHARDED_CLIP + STEP)
    )
    found = reduced(before, after)
    assert found.ranks == 2 and found.roles["fsdp__0__name"] == "fsdp"
    assert "yield fsdp__0__name.clip_grad_norm_(max_norm__0__name)" in found.before.code
    assert "yield fsdp__0__name.clip_grad_norm_(max_norm__0__name)" in found.after.code


def test_parameters_from_elsewhere_are_handed_over_in_each_turn() -> None:
    before, after = (loop(BACKWARD + body) for body in (STEP + OF_LIST, OF_LIST + STEP))
    found = reduced(before, after)
    _, second, third, *_ = found.after.code.splitlines()
    assert second == "    for turn__own__item in turns__own__call():"
    assert third == "        parameters__0__name = parameters__0__name__call()"
    assert found.roles["parameters__0__name"] == "parameters"


def test_a_step_that_only_the_old_side_takes_apart_may_be_new() -> None:
    """Where the old side clips by hand, the limit of the new one must be in its code."""
    by_hand = "for p in model.parameters():\n    p.grad.mul_({})\n"
    found = reduced(
        loop(BACKWARD + by_hand.format("3.0") + STEP), loop(BACKWARD + CLIP.replace("max_norm", "3.0") + STEP)
    )
    assert found.limit == 3.0
    with pytest.raises(NotVerifiable, match="it clips to another limit than before"):
        reduced(loop(BACKWARD + by_hand.format("3.0") + STEP), loop(BACKWARD + CLIP.replace("max_norm", "4.0") + STEP))


ANOTHER = [
    (SIDES[0], "def helper():\n    pass\n\n\n" + SIDES[1], "the fix adds or removes a function"),
    (loop(BACKWARD + STEP + "print(1)\n"), loop(BACKWARD + STEP + "print(2)\n"), "what it changes is no part of the training step"),
    (
        "def scale(model):\n    for p in model.parameters():\n        p.grad.mul_(2.0)\n",
        "def scale(model):\n    for p in model.parameters():\n        p.grad.mul_(3.0)\n",
        "nothing around it concerns the gradients",
    ),
    (loop(BACKWARD + STEP + CLIP), loop(BACKWARD + CLIP.replace("norm_", "value_") + STEP), "it clips in another way than before"),
    (loop(BACKWARD + STEP + CLIP), loop(BACKWARD + CLIP.replace("max_norm", "1.0") + STEP), "it clips to another limit than before"),
    (loop(BACKWARD + STEP + CLIP), loop(BACKWARD + CLIP + CLIP.replace("max_norm", "scaler") + STEP), "it clips to another limit than before"),
    (
        loop("".join(f"if record({i}):\n    optimizer.zero_grad()\n" for i in range(4)) + BACKWARD + STEP + CLIP),
        loop("".join(f"if record({i}):\n    optimizer.zero_grad()\n" for i in range(4)) + BACKWARD + CLIP + STEP),
        "too many tests decide what happens",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("before", "after", "why"), ANOTHER)
def test_why_a_training_run_is_not_tried(before: str, after: str, why: str) -> None:
    with pytest.raises(NotVerifiable) as caught:
        reduced(before, after)
    assert str(caught.value) == why


def test_three_tests_may_decide_what_happens() -> None:
    tests = "".join(f"if record({i}):\n    optimizer.zero_grad()\n" for i in range(3))
    found = reduced(loop(tests + BACKWARD + STEP + CLIP), loop(tests + BACKWARD + CLIP + STEP))
    assert list(found.roles.values()).count("flag") == 3


def test_a_fix_of_imports_is_no_training_run() -> None:
    with pytest.raises(NotVerifiable, match="only imports change, and not those of a clip"):
        rehearsal(Change(HEAD, Fix("Change", Safety.SAFE, (Edit(0, 0, "import os\n"),))))


REDUCE = "for p in model.parameters():\n    torch.distributed.all_reduce(p.grad)\n"
HOROVOD = "import horovod.torch as hvd\noptimizer = hvd.DistributedOptimizer(optimizer)"


@pytest.mark.parametrize(
    ("before", "after", "head", "role", "waits"),
    [
        (CLIP + REDUCE + STEP, REDUCE + CLIP + STEP, "", "group", "yield group__own__name.all_reduce(p.grad)"),
        (STEP + CLIP, CLIP + STEP, HOROVOD, "horovod", "yield horovod__0__name.step()"),
    ],
)
def test_what_waits_for_other_ranks(before: str, after: str, head: str, role: str, waits: str) -> None:
    found = reduced(loop(BACKWARD + before, head), loop(BACKWARD + after, head))
    assert found.ranks == 2 and role in found.roles.values()
    assert waits in found.before.code and waits in found.after.code
    assert found.after.code.endswith("\n    yield")


def test_ranks_that_wait_inside_of_an_expression_are_not_tried() -> None:
    reduce = "[torch.distributed.all_reduce(p.grad) for p in model.parameters()]\n"
    with pytest.raises(NotVerifiable, match="its ranks wait for one another inside an expression"):
        reduced(loop(BACKWARD + CLIP + reduce + STEP), loop(BACKWARD + reduce + CLIP + STEP))


def test_roles_that_only_one_side_shows() -> None:
    with pytest.raises(NotVerifiable, match="it clips to another limit than before"):
        reduced(loop(BACKWARD + STEP), loop(BACKWARD + CLIP + STEP))
    logged = "record(max_norm)\n"  # a limit that was there before
    found = reduced(loop(BACKWARD + STEP + logged), loop(BACKWARD + CLIP + STEP + logged))
    assert "max_norm__0__name" not in found.before.code and found.roles["max_norm__0__name"] == "max_norm"
    assert set(found.roles.values()) == {"max_norm", "model", "optimizer"}
    with pytest.raises(NotVerifiable, match="it clips in another way than before"):
        reduced(loop(BACKWARD + CLIP + STEP), loop(BACKWARD + STEP))


def test_a_clip_by_value_of_the_accelerator() -> None:
    clip = CLIP.replace("norm_(", "value_(")
    found = reduced(loop(WRAPPED + clip + STEP), loop(WRAPPED + "accelerator." + clip + STEP))
    assert found.clip == "value"
    other = loop(WRAPPED + "accelerator." + CLIP + STEP)
    with pytest.raises(NotVerifiable, match="it clips in another way than before"):
        reduced(loop(WRAPPED + clip + STEP), other)
