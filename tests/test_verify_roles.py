"""What the user's expressions in a training step are, by what the code does with them."""

from __future__ import annotations

import math

import pytest

from clipcheck.python.source import Source
from clipcheck.verify.allowed import NotVerifiable
from clipcheck.verify.parts import Parts, is_chain, is_number, parts
from clipcheck.verify.program import Program

HEAD = """\
import math
import numpy as np
import torch
from torch import inf
from torch.distributed.fsdp import FullyShardedDataParallel as FSDP
from torch.nn.utils import clip_grad_norm_, clip_grad_value_, get_total_norm

"""


def of(body: str) -> Parts:
    lines = "".join(f"    {line}\n" for line in body.splitlines())
    return parts(Program(Source(f"{HEAD}def train():\n{lines}")), 1)


def roles(body: str) -> dict[str, str]:
    found = of(body)
    return {text: found.roles[name] for text, name in found.texts.items()}


CLIP = "clip_grad_norm_(ps, {})"


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("opt.zero_grad()\nloss.backward()\nopt.step()", {"opt": "optimizer"}),
        ("net.zero_grad()\nloss.backward()", {"net": "model"}),
        ("self.opt.step()", {"self.opt": "optimizer"}),
        ("s.scale(loss).backward()\ns.unscale_(o)\ns.step(o)", {"s": "scaler", "o": "optimizer"}),
        ("clip_grad_norm_(net.parameters(), c)", {"net": "model", "c": "max_norm"}),
        ("clip_grad_norm_(self.net.parameters(), self.args.c)", {"self.net": "model", "self.args.c": "max_norm"}),
        ("clip_grad_norm_(get(), c)", {"c": "max_norm"}),
        ("clip_grad_norm_(o.param_groups[0]['params'], c)", {"o": "optimizer", "c": "max_norm"}),
        ("clip_grad_norm_(o.param_groups, c)", {"o": "optimizer", "c": "max_norm"}),
        ("clip_grad_norm_(net.parameters, c)", {"net": "model", "c": "max_norm"}),
        ("clip_grad_norm_(get().parameters, c)", {"c": "max_norm"}),
        ("clip_grad_norm_(get().param_groups, c)", {"c": "max_norm"}),
        ("clip_grad_norm_(get().ps, c)", {"c": "max_norm"}),
        ("get().parameters()\nget().param_groups\nget().modules()", {}),
        ("for group in o.param_groups:\n    print(group)", {"o": "optimizer"}),
        ("p.grad.clamp_(f(c), d)", {"d": "max_value"}),
        ("p.grad.clamp_(-f(c), d)", {"d": "max_value"}),
        ("p.grad = torch.clamp(p.grad, -c, c)", {"c": "max_value"}),
        ("p.grad = p.grad.clamp(-self.c, self.c)", {"self.c": "max_value"}),
        ("p.grad.clamp_(-1.0, 1.0)", {}),
        ("accelerator.backward(loss)\naccelerator.clip_grad_norm_(net.parameters())", {"accelerator": "accelerator", "net": "model"}),
        ("fabric.backward(loss)\nfabric.clip_gradients(net, o, max_norm=1.0)", {"fabric": "fabric", "net": "model", "o": "optimizer"}),
        ("net = FSDP(net)\nnet.zero_grad()\nnet.clip_grad_norm_(max_norm=c)", {"net": "fsdp", "c": "max_norm"}),
        ("net = FSDP(net)\nnet.zero_grad()\nnet.clip_grad_norm_(1.0)", {"net": "fsdp"}),
        ("self.net = FSDP(net)\nself.net.zero_grad()", {"self.net": "fsdp"}),
        ("clip_grad_norm_(c, c)", {"c": "max_norm"}),  # the stronger of two roles
        ("f(net)\nclip_grad_norm_(net, c)\nnet.zero_grad()", {"net": "model", "c": "max_norm"}),
        ("scaler.scale(loss).backward()\nscaler.step(o)\nscaler.update()", {"scaler": "scaler", "o": "optimizer"}),
        ("clip_grad_value_(net.parameters(), c)", {"net": "model", "c": "max_value"}),
        (CLIP.format("c, norm_type=self.p"), {"ps": "parameters", "c": "max_norm", "self.p": "norm_type"}),
        (CLIP.format("c, error_if_nonfinite=a, foreach=b"), {"ps": "parameters", "c": "max_norm", "a": "switch", "b": "switch"}),
        (CLIP.format("c, norm_type=math.inf"), {"ps": "parameters", "c": "max_norm"}),
        (CLIP.format("c, norm_type=2"), {"ps": "parameters", "c": "max_norm"}),
        (CLIP.format("1.0"), {"ps": "parameters"}),
        *((CLIP.format(inf), {"ps": "parameters"}) for inf in ("float('inf')", "math.inf", "torch.inf", "np.inf", "numpy.inf", "inf")),
        (CLIP.format("a if b else c"), {"ps": "parameters", "a if b else c": "max_norm"}),
        (CLIP.format("{'a': 1}[k]"), {"ps": "parameters"}),
        (CLIP.format("[1, 2][0]"), {"ps": "parameters"}),
        (CLIP.format(" + ".join(["c"] * 100)), {"ps": "parameters"}),  # too long
        (CLIP.format("-1.0"), {"ps": "parameters", "-1.0": "max_norm"}),  # no limit that can be met
        (CLIP.format("0"), {"ps": "parameters", "0": "max_norm"}),
        ("for p in net.parameters():\n    p.grad.clamp_(-c, c)", {"net": "model", "c": "max_value"}),
        ("for p in net.named_parameters():\n    pass", {"net": "model"}),
        ("for m in net.modules():\n    pass", {"net": "model"}),
        ("for group in o.param_groups:\n    pass", {"o": "optimizer"}),
        ("get_total_norm([p.grad for p in ps])", {}),
        ("norm = get_total_norm(gs, q, foreach=b)", {"q": "norm_type", "b": "switch"}),
        ("for p in ps:\n    p.grad = None", {}),
        ("import deepspeed\nmodel_engine, *_ = deepspeed.initialize()\nmodel_engine.backward(loss)\nmodel_engine.step()", {}),
        (CLIP.format("c" * 200), {"ps": "parameters", "c" * 200: "max_norm"}),
        (CLIP.format("c" * 201), {"ps": "parameters"}),
        ("accelerator.backward(loss)\naccelerator.clip_grad_norm_(net.parameters(), c)", {"accelerator": "accelerator", "net": "model", "c": "max_norm"}),
        ("accelerator.backward(loss)\naccelerator.clip_grad_norm_(net.parameters(), max_norm=c)", {"accelerator": "accelerator", "net": "model", "c": "max_norm"}),
        ("accelerator.backward(loss)\naccelerator.clip_grad_norm_(net.parameters(), 1.0)", {"accelerator": "accelerator", "net": "model"}),
        ("fabric.backward(loss)\nfabric.clip_gradients(net, o, max_norm=c)", {"fabric": "fabric", "net": "model", "o": "optimizer", "c": "max_norm"}),
        ("fabric.backward(loss)\nfabric.clip_gradients(net, o, c)", {"fabric": "fabric", "net": "model", "o": "optimizer"}),
        ("net = FSDP(net)\nnet.zero_grad()\nnet.clip_grad_norm_(c)", {"net": "fsdp", "c": "max_norm"}),
        ("import horovod.torch as hvd\nopt = hvd.DistributedOptimizer(opt)\nopt.step()", {"opt": "horovod"}),
        ("from torch.distributed.optim import DistributedOptimizer\nopt = DistributedOptimizer(opt)\nopt.step()", {"opt": "optimizer"}),
        ("with amp.scale_loss(loss, o) as scaled:\n    scaled.backward()", {"amp": "amp", "o": "optimizer"}),
        ("clip_grad_norm_(amp.master_params(o), c)", {"amp": "amp", "o": "optimizer", "c": "max_norm"}),
        ("net(x)\nprint(net)", {}),
    ],
)  # fmt: skip
def test_roles(body: str, expected: dict[str, str]) -> None:
    assert roles(body) == expected


@pytest.mark.parametrize(
    ("body", "kinds"),
    [
        ("loss.backward()", {"backward"}),
        ("opt.step()", {"step"}),
        ("opt.zero_grad()", {"zero_grad"}),
        ("loss.backward()\nopt.step()\nopt.zero_grad()", {"backward", "step", "zero_grad"}),
        (CLIP.format("c"), set()),
    ],
)
def test_acts(body: str, kinds: set[str]) -> None:
    assert of(body).kinds == kinds


@pytest.mark.parametrize(
    ("body", "clip", "norm_type", "limits"),
    [
        (CLIP.format("c"), "norm", 2.0, {"c"}),
        (CLIP.format("c, 1"), "norm", 1.0, {"c"}),
        (CLIP.format("c, norm_type=3.0"), "norm", 3.0, {"c"}),
        (CLIP.format("c, p"), "norm", 2.0, {"c"}),
        (CLIP.format("c, True"), "norm", 2.0, {"c"}),
        (CLIP.format("c, self.p"), "norm", 2.0, {"c"}),
        (CLIP.format("c") + "\n" + CLIP.format("float('inf')"), "norm", 2.0, {"c"}),
        (CLIP.format("c") + "\nget_total_norm(gs, 1)", "norm", 2.0, {"c"}),
        ("clip_grad_value_(ps, c)\np.grad.clamp_(-c, c)", "value", 2.0, {"c"}),
        ("p.grad.clamp_(min=-1.0, max=1.0)", "value", 2.0, set()),
        ("model.clip_grad_norm_(ps, c)", "", 2.0, set()),
        ("model.clip_grad_norm_(ps, max_norm=c)", "", 2.0, {"c"}),
        (CLIP.format("c, math.inf"), "norm", math.inf, {"c"}),
        (CLIP.format("c, float('inf')"), "norm", math.inf, {"c"}),
        (CLIP.format("1.0"), "norm", 2.0, {"1.0"}),
        (CLIP.format("float('inf')"), "", 2.0, set()),  # which clips nothing
        ("clip_grad_value_(ps, c)", "value", 2.0, {"c"}),
        ("p.grad.clamp_(-c, c)", "value", 2.0, {"c"}),
        ("p.grad.clamp_(-c, d)", "value", 2.0, {"c", "d"}),
        ("p.grad = torch.clamp(p.grad, -c, c)", "", 2.0, {"c"}),
        ("get_total_norm(gs)", "", 2.0, set()),
        ("accelerator.clip_grad_norm_(ps, c)", "norm", 2.0, {"c"}),
        ("accelerator.clip_grad_norm_(ps, max_norm=c)", "norm", 2.0, {"c"}),
        ("fabric.clip_gradients(net, o, max_norm=c)", "norm", 2.0, {"c"}),
        ("fabric.clip_gradients(net, o, clip_val=c)", "value", 2.0, {"c"}),
        ("accelerator.clip_grad_value_(ps, clip_value=c)", "value", 2.0, {"c"}),
        ("accelerator.clip_grad_value_(ps, c)", "value", 2.0, {"c"}),
        ("accelerator.clip_grad_norm_(ps, max_norm=c, norm_type=1)", "norm", 1.0, {"c"}),
        ("accelerator.clip_grad_norm_(ps, c, 3.0)", "norm", 3.0, {"c"}),
        ("fabric.clip_gradients(net, o, max_norm=c, norm_type=1.0)", "norm", 1.0, {"c"}),
        ("net = FSDP(net)\nnet.clip_grad_norm_(c, 1)", "norm", 1.0, {"c"}),
        ("fabric.clip_gradients(net, o)", "norm", 2.0, set()),
        ("net = FSDP(net)\nnet.clip_grad_norm_(c)", "norm", 2.0, {"c"}),
        ("net = FSDP(net)\nnet.clip_grad_norm_(max_norm=c)", "norm", 2.0, {"c"}),
        (CLIP.format("c") + "\n" + CLIP.format("d"), "norm", 2.0, {"c", "d"}),
        ("loss.backward()", "", 2.0, set()),
    ],
)
def test_how_gradients_are_clipped(body: str, clip: str, norm_type: float, limits: set[str]) -> None:
    found = of(body)
    assert (found.clip, found.norm_type, found.limits) == (clip, norm_type, limits)


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (CLIP.format("c") + "\nclip_grad_value_(ps, d)", "it clips in several ways"),
        (CLIP.format("c") + "\n" + CLIP.format("c, 1"), "it clips in several ways"),
        (CLIP.format("c, f()"), "the norm type is not known"),
        (CLIP.format("c, 'l2'"), "the norm type is not known"),
        ("accelerator.clip_grad_norm_(ps, c, p)", "the norm type is not known"),
        ("accelerator.clip_grad_norm_(ps, c, norm_type=math.inf)", "the norm type is not known"),
        ("accelerator.clip_grad_norm_(ps, c)\naccelerator.clip_grad_norm_(ps, c, 1)", "it clips in several ways"),
        ("accelerator.clip_grad_norm_(ps, c)\naccelerator.clip_grad_value_(ps, c)", "it clips in several ways"),
        ("first.zero_grad()\nfirst_optimizer.step()\nsecond_optimizer.step()", "it trains with several optimizers"),
    ],
)
def test_what_is_not_known(body: str, why: str) -> None:
    with pytest.raises(NotVerifiable) as caught:
        of(body)
    assert str(caught.value) == why


def test_each_expression_has_a_name_of_its_own() -> None:
    found = of("clip_grad_norm_(net.parameters(), c, error_if_nonfinite=a, foreach=b)\nopt.step()")
    assert found.texts == {
        "a": "switch__0__name",
        "b": "switch__1__name",
        "c": "max_norm__0__name",
        "net": "model__0__name",
        "opt": "optimizer__0__name",
    }
    assert found.roles == {name: name.partition("__")[0] for name in found.texts.values()}


def test_what_one_side_says_holds_for_the_other() -> None:
    old, new = of("net.zero_grad()\nf(ps)"), of("clip_grad_norm_(ps, c)")
    joined = old.joined(new)
    assert {text: joined.roles[name] for text, name in joined.texts.items()} == {
        "net": "model",
        "ps": "parameters",
        "c": "max_norm",
    }
    first = Parts({"x": "a"}, {"a": "max_norm"})
    second = Parts({"x": "b"}, {"b": "optimizer"})
    for joined in (first.joined(second), second.joined(first)):
        assert joined.roles == {"optimizer__0__name": "optimizer"}  # the stronger of two roles


@pytest.mark.parametrize(
    ("text", "expected"), [("1", True), ("1.5", True), ("0", False), ("-1", False), ("c", False), ("inf", True)]
)
def test_a_limit_that_is_a_number(text: str, expected: bool) -> None:
    assert is_number(text) is expected


@pytest.mark.parametrize(
    ("text", "expected"), [("a", True), ("a.b.c", True), ("a()", False), ("a().b", False), ("a[0]", False)]
)
def test_a_chain_of_names(text: str, expected: bool) -> None:
    import ast

    assert is_chain(ast.parse(text, mode="eval").body) is expected


# What an object is says more than what a part of it is used for.
STRONGEST_FIRST = "fsdp horovod model optimizer scaler accelerator fabric amp max_norm max_value parameters norm_type switch".split()  # fmt: skip


@pytest.mark.parametrize("role", STRONGEST_FIRST)
def test_of_two_roles_the_stronger_one_counts(role: str) -> None:
    one = Parts({"x": "a"}, {"a": role})
    for weaker in STRONGEST_FIRST[STRONGEST_FIRST.index(role) + 1 :]:
        other = Parts({"x": "b"}, {"b": weaker})
        assert one.joined(other).roles == other.joined(one).roles == {f"{role}__0__name": role}
    assert one.joined(one).texts == {"x": f"{role}__0__name"}


def test_names_are_numbered_by_role() -> None:
    joined = Parts({"b": "1", "a": "2", "c": "3"}, {"1": "switch", "2": "switch", "3": "model"}).joined(Parts({}, {}))
    assert joined.texts == {"a": "switch__0__name", "b": "switch__1__name", "c": "model__0__name"}
