"""Fixes of training on several ranks: verified with stand-ins for the process group; wrong fixes are not."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from clipcheck.rule import Edit, Fix, Safety, Verdict
from clipcheck.verify.allowed import NotVerifiable
from clipcheck.verify.changes import Change
from clipcheck.verify.sites import Verifier
from clipcheck.verify.training import rehearsal

pytest.importorskip("torch", reason="needs the extra clipcheck[torch]")

HEAD = """\
import horovod.torch as hvd
import torch
import torch.distributed as dist
import torch_xla.core.xla_model as xm
from torch.distributed.fsdp import FullyShardedDataParallel as FSDP
from torch.nn.utils import clip_grad_norm_


def average(network, world):
    for p in network.parameters():
        if p.grad is not None:
            dist.all_reduce(p.grad.data)
            p.grad.data /= world


def clip_all(weights, limit):
    print(sum(weight.numel() for weight in weights))
    clip_grad_norm_(weights, limit)


"""


@pytest.fixture(scope="module")
def verify() -> Iterator[Verifier]:
    with Verifier() as verifier:
        yield verifier


def loop(body: str, head: str = "") -> str:
    lines = [f"    {line}\n" for line in head.splitlines()] + ["    for inputs, targets in batches:\n"]
    lines += [f"        {line}\n" for line in (BACKWARD + body).splitlines()]
    return "def train(model, optimizer, batches, loss_fn, max_norm, world, several):\n" + "".join(lines)


def change(before: str, after: str) -> Change:
    edit = Edit(len(HEAD), len(HEAD + before), after)
    return Change(HEAD + before, Fix("Change", Safety.UNSAFE, (edit,)))


def tried(verify: Verifier, before: str, after: str) -> Verdict:
    asked = change(before, after)
    return verify(asked.text, asked.fix)


BACKWARD = "optimizer.zero_grad()\nloss_fn(model(inputs), targets).backward()\n"
CLIP = "clip_grad_norm_(model.parameters(), max_norm)\n"
STEP = "optimizer.step()\n"
REDUCE = "for p in model.parameters():\n    dist.all_reduce(p.grad)\n    p.grad /= dist.get_world_size()\n"
SUM = "for p in model.parameters():\n    dist.all_reduce(p.grad)\n"
AVERAGE = "for p in model.parameters():\n    dist.all_reduce(p.grad, op=dist.ReduceOp.AVG)\n"
HELPER = "average(model, world)\n"
HOROVOD = "optimizer = hvd.DistributedOptimizer(torch.optim.SGD(model.parameters(), lr=0.1))"
SKIP = "optimizer.synchronize()\n{}with optimizer.skip_synchronize():\n    optimizer.step()\n"
SHARD = "model = FSDP(model)"
REDUCED = "xm.reduce_gradients(optimizer)\n"

RIGHT = {
    "an all-reduce": (loop(CLIP + REDUCE + STEP), loop(REDUCE + CLIP + STEP)),
    "a sum": (loop(CLIP + SUM + STEP), loop(SUM + CLIP + STEP)),
    "an average": (loop(CLIP + AVERAGE + STEP), loop(AVERAGE + CLIP + STEP)),
    "a function of the file": (loop(CLIP + HELPER + STEP), loop(HELPER + CLIP + STEP)),
    "Horovod": (loop(CLIP + STEP, HOROVOD), loop(SKIP.format(CLIP), HOROVOD)),
    "XLA": (loop(CLIP + "xm.optimizer_step(optimizer)\n"), loop(REDUCED + CLIP + STEP)),
    "FSDP1": (loop(CLIP + STEP, SHARD), loop("model.clip_grad_norm_(max_norm)\n" + STEP, SHARD)),
}


@pytest.mark.parametrize("name", RIGHT)
def test_a_right_fix_is_verified_by_the_steps_of_all_ranks(verify: Verifier, name: str) -> None:
    found = tried(verify, *RIGHT[name])
    assert found.kind == "verified", found
    assert any("gradients above max_norm" in note for note in found.exceptions), found


# By the fix that they imitate.
WRONG = {
    ("an all-reduce", "none at all"): loop(CLIP + STEP),
    ("an all-reduce", "the clip dropped"): loop(REDUCE + STEP),
    ("a sum", "twice"): loop(SUM + SUM + CLIP + STEP),
    ("an all-reduce", "the sum for the mean"): loop(SUM + CLIP + STEP),
    ("an all-reduce", "after the step"): loop(CLIP + STEP + REDUCE),
    ("an all-reduce", "another limit"): loop(REDUCE + CLIP.replace("max_norm", "2 * max_norm") + STEP),
    ("an all-reduce", "both"): loop(CLIP + REDUCE + CLIP + STEP),
    ("an all-reduce", "as before"): loop(CLIP + REDUCE + STEP + "print(several)\n"),
    ("a sum", "the mean for the sum"): loop(REDUCE + CLIP + STEP),
    ("a function of the file", "never called"): loop(CLIP + STEP),
    ("a function of the file", "of other parameters"): loop(HELPER.replace("model", "optimizer") + CLIP + STEP),
    ("Horovod", "no synchronization"): loop(
        CLIP + "with optimizer.skip_synchronize():\n    optimizer.step()\n", HOROVOD
    ),
    ("Horovod", "synchronized after the clip"): loop(CLIP + SKIP.format(""), HOROVOD),
    ("Horovod", "the clip dropped"): loop(SKIP.format(""), HOROVOD),
    ("XLA", "nothing reduced"): loop(CLIP + STEP),
    ("XLA", "reduced after the clip"): loop(CLIP + REDUCED + STEP),
    ("FSDP1", "twice the limit"): loop("model.clip_grad_norm_(2 * max_norm)\n" + STEP, SHARD),
    ("FSDP1", "dropped"): loop(STEP, SHARD),
    ("FSDP1", "by each rank, too"): loop(CLIP + "model.clip_grad_norm_(max_norm)\n" + STEP, SHARD),
}


@pytest.mark.parametrize(("fix", "name"), WRONG)
def test_wrong_fixes_are_not_verified(verify: Verifier, fix: str, name: str) -> None:
    found = tried(verify, RIGHT[fix][0], WRONG[fix, name])
    assert found.kind == "not verified", found
    if not found.cases:
        with pytest.raises(NotVerifiable, match=r"in another way|to another limit|no part of"):
            rehearsal(change(RIGHT[fix][0], WRONG[fix, name]))


def test_ranks_that_get_out_of_step_are_a_failure(verify: Verifier) -> None:
    """A test that decides whether ranks reduce may depend on a rank's own gradients, and then differs between ranks."""
    own = "if float(next(model.parameters()).grad.sum()) > 0:\n"
    found = tried(verify, *(loop(one + STEP) for one in (CLIP + REDUCE, own + "    dist.all_reduce(p.grad)\n" + CLIP)))
    assert found.kind == "not verified", found


def test_a_collective_inside_an_expression_is_not_tried() -> None:
    before = loop("[dist.all_reduce(p.grad) for p in model.parameters()]\n" + STEP + CLIP)
    after = loop("[dist.all_reduce(p.grad) for p in model.parameters()]\n" + CLIP + STEP)
    with pytest.raises(NotVerifiable, match="inside an expression"):
        rehearsal(change(before, after))


@pytest.mark.parametrize("given", ["op=dist.ReduceOp.MAX", "async_op=True", "group=several"])
def test_other_reductions_are_not_tried(given: str) -> None:
    other = REDUCE.replace("(p.grad)", f"(p.grad, {given})")
    with pytest.raises(NotVerifiable, match="no stand-in"):
        rehearsal(change(loop(CLIP + other + STEP), loop(other + CLIP + STEP)))


# --- functions of the file ------------------------------------------------------------------------------------------


def test_the_body_of_a_function_of_the_file_is_run_with_what_it_is_given() -> None:
    found = rehearsal(change(loop(HELPER + STEP + CLIP), loop(HELPER + CLIP + STEP)))
    lines = [re.sub(r"p_[0-9]+_[0-9]+", "p", line).strip() for line in found.after.code.splitlines()]
    assert "yield group__own__name.all_reduce(p.grad.data)" in lines
    assert "p.grad.data /= count__own__name" in lines
    assert "for p in model__0__name.parameters():" in lines


def test_an_iterator_that_a_function_uses_up(verify: Verifier) -> None:
    """Counting empties the generator before the clip; a list can be read twice."""
    given = "clip_all({}, max_norm)\n"
    before, after = (loop(given.format(way) + STEP) for way in ("model.parameters()", "list(model.parameters())"))
    found = tried(verify, before, after)
    assert found.kind == "verified", found
    wrong = loop(given.format("list(model.parameters())[1:]") + STEP)
    assert tried(verify, before, wrong).kind == "not verified"


LEFT = {
    "what returns early": "    if limit:\n        return\n",
    "what takes a list of arguments": "",
    "what defines a function": "    def inner():\n        pass\n",
}


@pytest.mark.parametrize("name", LEFT)
def test_other_functions_of_the_file_are_not_followed(name: str) -> None:
    more = ", *rest" if "list" in name else ""
    helper = f"def shrink(weights, limit{more}):\n{LEFT[name]}    clip_grad_norm_(weights, limit)\n\n\n"
    body = "shrink(model.parameters(), max_norm)\n"
    with pytest.raises(NotVerifiable):
        rehearsal(change(helper + loop(STEP + body), helper + loop(body + STEP)))
