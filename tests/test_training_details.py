"""What is known of the parts of a training step: whose parameters, which limit, what repeats, what is an iterator. Silent cases first.

Each program ends in the expression that is asked about, on a line of its own.
"""

from __future__ import annotations

import libcst as cst
import pytest

from clipcheck.gradients.framework import is_foreign
from clipcheck.python.source import Source
from clipcheck.training.acts import acts
from clipcheck.training.calls import callee, named_function
from clipcheck.training.classes import is_lightning_module, is_module_class
from clipcheck.training.clips import bound, clips, only_measures, partial_clip
from clipcheck.training.effects import only_computes
from clipcheck.training.guards import asked_for, conditions, expects_error
from clipcheck.training.kept_settings import kept_values
from clipcheck.training.lightning import is_callback, manual_at, scaling_trainer
from clipcheck.training.measures import measures, uses_of, values
from clipcheck.training.modules import is_module
from clipcheck.training.modules import is_optimizer as is_torch_optimizer
from clipcheck.training.norm_places import called, measured
from clipcheck.training.one_shot import drains, is_one_shot
from clipcheck.training.optimizers import is_optimizer
from clipcheck.training.parameters import (
    assigned,
    belong,
    is_all_of,
    named_alike,
    owners,
    stepped,
    surely_belong,
)
from clipcheck.training.possible_limits import constants, guards, passes
from clipcheck.training.readings import makes_iterator, readings
from clipcheck.training.scalers import is_compensated, is_off
from clipcheck.training.split_clips import whole_of
from clipcheck.training.summaries import hooks, is_called_reduction, is_reduction, returned

HEAD = """\
import functools
import itertools
import math
import pytorch_lightning as pl
import lightning as L
import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.utils import clip_grad_norm_, clip_grad_value_, clip_grads_with_norm_, get_total_norm

"""


def asked(program: str) -> tuple[Source, cst.BaseExpression]:
    source = Source(HEAD + program)
    *_, last = source.nodes(cst.Expr)
    return source, last.value


def last_call(program: str) -> tuple[Source, cst.Call]:
    source, node = asked(program)
    assert isinstance(node, cst.Call)
    return source, node


# --- acts -------------------------------------------------------------------------------------------------------------


def told(code: str, before: str = "") -> str:
    source, node = asked(f"{before}\n{code}")
    act = acts(source).get(node)
    return "" if act is None else f"{act.kind.value} {act.wrapper}".strip()


@pytest.mark.parametrize(
    "code",
    [
        *(f"{name}.step()" for name in "scheduling lr_a warming profile timer envs bar pbar ema meter tracker progress sims".split()),
        *(f"{word}_all(optimizer)" for word in (
            "lr rate learning save load checkpoint resume schedule scheduler sched log print write state dict warmup append "
            "summary lambda count counter metrics meter set get scalar wandb loader trained steps timer progress rewards env "
            "plot adjust register"
        ).split()),
        "amp.master_params(optimizer)",
        "torch.train_step(x)",
        "functools.step_all(x)",
        "np.step_all(x)",
        "f(1, 'optimizer')",
        "p.grad.copy(x)",
        "p.data.zero_()",
        "x.update(1)",
        "x.scale(1)",
    ],
)  # fmt: skip
def test_no_act(code: str) -> None:
    assert told(code) == ""


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        *((f"{word}_all(x)", "unknown") for word in "backward step optimize optimise train unscale closure fit learn backprop clip accumulate".split()),
        *((f"x.{word}_all()", "unknown") for word in "backward optimizer unscaled fitting learned clips accumulated".split()),
        ("train(x, 1)", "unknown"),
        ("train_all(x)", "unknown"),
        ("f(x, scaler)", "unknown"),
        ("f(self.optimizer)", "unknown"),
        *((f"{name}.backward(loss)", f"backward {name}") for name in ("accelerator", "fabric", "engine", "optimizer", "manual", "x")),
        *((f"{name}.backward(g)", "backward") for name in ("loss", "losses", "err", "error", "cost", "total", "outputs")),
        *((f"{name}.backward(loss=g)", f"backward {name}") for name in ("accelerator", "my_engine", "fabric", "optimizer", "manual")),
        ("x.backward(loss=g)", "backward"),
        ("torch.autograd.backward(x)", "backward"),
        ("accelerator.unscale_gradients(optimizer)", "unscale"),
        ("p.grad.zero_()", "zero_grad"),
        ("p.grad.data.zero_()", "zero_grad"),
        ("p.grad.detach_().zero_()", "zero_grad"),
        ("my_engine.step()", "step engine"),
        ("x.optimizer_step(y)", "step x"),
        ("clip_grad_value_(ps, 1.0)", "clip"),
        ("clip_grad_norm_(ps, 1.0)", "clip"),
        ("mine.clip_grad_value_(ps, 1.0)", "clip own"),
        ("my_accelerator.clip_grad_value_(ps, 1.0)", "clip accelerator"),
        ("self.fabric.clip_gradients(m, o)", "clip fabric"),
    ],
)  # fmt: skip
def test_an_act(code: str, expected: str) -> None:
    assert told(code) == expected


def test_a_partial_of_a_clip_clips() -> None:
    made = "clip = functools.partial(clip_grad_norm_, max_norm=1.0)"
    assert told("clip(ps)", made) == "clip"
    assert told("other(ps)", made) == ""
    assert told("clip(ps)", made + "\nclip = print") == "unknown"
    assert told("total(ps)", "total = functools.partial(get_total_norm)") == ""
    source, call = last_call(f"{made}\nclip(ps, norm_type=1)")
    found = partial_clip(source, call)
    assert found is not None and {name: source.code(value) for name, value in found.arguments.items()} == {
        "max_norm": "1.0",
        "parameters": "ps",
        "norm_type": "1",
    }


# --- the arguments of a clip ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "function", "arguments", "surplus", "unknown"),
    [
        ("f(ps)", "clip_grad_norm_", "parameters=ps", 0, False),
        ("f(ps, 1.0, 2, True, False)", "clip_grad_norm_", "parameters=ps max_norm=1.0 norm_type=2 error_if_nonfinite=True foreach=False", 0, False),
        ("f(ps, 1.0, 2, True, False, 6, 7)", "clip_grad_norm_", "parameters=ps max_norm=1.0 norm_type=2 error_if_nonfinite=True foreach=False", 2, False),
        ("f(ps, 1.0, True)", "clip_grad_value_", "parameters=ps clip_value=1.0 foreach=True", 0, False),
        ("f(ps, 1.0, n, True)", "clip_grads_with_norm_", "parameters=ps max_norm=1.0 total_norm=n foreach=True", 0, False),
        ("f(gs, 2, True, False)", "get_total_norm", "tensors=gs norm_type=2 error_if_nonfinite=True foreach=False", 0, False),
        ("f(ps, *args, x)", "clip_grad_norm_", "parameters=ps", 0, True),
        ("f(ps, *args, x, norm_type=1)", "clip_grad_norm_", "parameters=ps norm_type=1", 0, True),
        ("f(ps, *args, norm_type=1)", "clip_grad_norm_", "parameters=ps norm_type=1", 0, True),
        ("f(ps, **options)", "clip_grad_norm_", "parameters=ps", 0, True),
        ("f(max_norm=1.0, other=2)", "clip_grad_norm_", "max_norm=1.0 other=2", 0, False),
    ],
)  # fmt: skip
def test_the_arguments_of_a_clip(code: str, function: str, arguments: str, surplus: int, unknown: bool) -> None:
    source, call = last_call(code)
    found = bound(call, function)
    assert " ".join(f"{name}={source.code(value)}" for name, value in found.arguments.items()) == arguments
    assert (found.surplus, found.unknown) == (surplus, unknown)
    assert found.keywords == {arg.keyword.value for arg in call.args if arg.keyword}


@pytest.mark.parametrize(
    ("code", "limit", "is_norm"),
    [
        ("clip_grad_norm_(ps, 1.0)", "1.0", True),
        ("torch.nn.utils.clip_grad_norm(ps, 1.0)", "1.0", True),
        ("clip_grad_value_(ps, 2.0)", "2.0", False),
        ("clip_grads_with_norm_(ps, 3.0, n)", "3.0", False),
    ],
)
def test_the_limit_of_a_clip(code: str, limit: str, is_norm: bool) -> None:
    source, _ = asked(code)
    (found,) = clips(source)
    assert found.limit is not None and source.code(found.limit) == limit
    assert found.is_norm is is_norm


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("f(ps, math.inf)", True),
        ("f(ps, max_norm=float('inf'))", True),
        ("f(ps, 1.0)", False),
        ("f(ps)", False),
        ("x", False),
    ],
)
def test_a_clip_that_only_measures(code: str, expected: bool) -> None:
    assert only_measures(*asked(code)) is expected


# --- parameters and optimizers ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        *((name, True) for name in ("optimizer", "optim", "my_opt", "opts", "adam", "adamw", "sgd", "rmsprop", "lbfgs", "self.optimizer_d")),
        *((name, False) for name in ("x", "option", "optimizer_scheduler", "lr_optimizer", "warmup_opt", "opt_profiler", "ema_opt", "adamant")),
        ("x = torch.optim.SGD(ps)\nx", True),
        ("opt = torch.optim.lr_scheduler.StepLR(o, 1)\nopt", False),
        ("opt = other()\nopt", True),
        # what holds optimizers
        ("steppers[p] = torch.optim.SGD(ps)\nsteppers[q]", True),
        ("steppers[p] = torch.optim.SGD(ps)\nx = steppers[q]\nx", True),
        ("steppers[p] = torch.optim.SGD(ps)\nothers[q]", False),
        ("steppers[p] = p\nsteppers[q]", False),
        ("steppers[p] = make(p)\nsteppers[q]", False),
        ("steppers.p = torch.optim.SGD(ps)\nsteppers[q]", False),
        ("class A:\n    def f(self):\n        self.by[p] = torch.optim.SGD(ps)\n    def g(self):\n        self.by[q]", True),
        ("class A:\n    def f(self):\n        self.by[p] = torch.optim.SGD(ps)\nclass B:\n    def g(self):\n        self.by[q]", False),
        *((f"steppers = {made}\nsteppers[q]", True) for made in (
            "[torch.optim.SGD(p) for p in ps]",
            "{p: torch.optim.SGD(p) for p in ps}",
            "[torch.optim.SGD(ps), torch.optim.Adam(qs)]",
            "{'a': torch.optim.SGD(ps), 'b': torch.optim.SGD(qs)}",
        )),
        *((f"steppers = {made}\nsteppers[q]", False) for made in (
            "[make(p) for p in ps]",
            "{p: make(p) for p in ps}",
            "[make(ps), torch.optim.Adam(qs)]",
            "{'a': make(ps)}",
            "{torch.optim.SGD(p): p for p in ps}",
            "[]",
        )),
    ],
)  # fmt: skip
def test_what_is_called_an_optimizer(code: str, expected: bool) -> None:
    assert is_optimizer(*asked(code)) is expected


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("x", None),
        ("x = 1\nx", "1"),
        ("x = 1\nx = 2\nx", None),
        ("x = 1\nfor x in y:\n    pass\nx", None),
        ("x.y = 1\nx.y", None),
        ("self.x = 1\nself.x", None),
        ("class A:\n    def f(self):\n        self.x = 1\n    def g(self):\n        self.x", "1"),
        ("class A:\n    def f(self):\n        self.x = 1\n        self.x = 2\n    def g(self):\n        self.x", None),
        ("class A:\n    def f(self):\n        self.x: int = 1\n    def g(self):\n        self.x", "1"),
        ("class A:\n    def f(self):\n        self.x: int\n        self.x = 1\n    def g(self):\n        self.x", "1"),
        ("class A:\n    def f(self):\n        self.x = 1\n        self.x += 1\n    def g(self):\n        self.x", None),
        ("class A:\n    def f(self):\n        self.x, self.y = 1, 2\n    def g(self):\n        self.x", "1"),
        ("class A:\n    def f(self):\n        self.x, self.y = h()\n    def g(self):\n        self.x", None),
        ("class A:\n    def f(self):\n        self.x, self.y = 1, 2, 3\n    def g(self):\n        self.x", None),
        ("class A:\n    def f(self):\n        self.x, *self.y = 1, 2\n    def g(self):\n        self.x", None),
        ("class A:\n    def f(self):\n        self.x, self.y = 1, *h\n    def g(self):\n        self.x", None),
        ("class A:\n    def f(self):\n        [self.x, self.y] = [1, 2]\n    def g(self):\n        self.x", "1"),
        ("class A:\n    def f(self):\n        self.y = self.x = 1\n    def g(self):\n        self.x", "1"),
        ("class A:\n    def f(self):\n        self.x = 1\nclass B:\n    def g(self):\n        self.x", None),
    ],
)  # fmt: skip
def test_what_a_name_is_assigned(code: str, expected: str | None) -> None:
    source, node = asked(code)
    found = assigned(source, node)
    assert (None if found is None else source.code(found)) == expected


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("ps", None),
        ("m.buffers()", None),
        ("m.parameters(True)", None),
        ("filter(m.parameters())", None),
        ("f(m.parameters())", None),
        ("[p for p in m.parameters() for q in p]", None),
        ("m.parameters() * 2", None),
        ("[*m.parameters(), x]", None),
        ("{'lr': m.parameters()}", None),
        ("{params: m.parameters()}", None),
        ("{**options}", None),
        ("[]", None),
        ("m.parameters()", "m"),
        ("m.named_parameters()", "m"),
        ("self.m.head.parameters()", "self.m.head"),
        ("m.module.head.parameters()", "m.head"),
        ("m._orig_mod.parameters()", "m"),
        ("module.parameters()", "module"),
        ("filter(None, m.parameters())", "m"),
        ("map(f, m.parameters())", "m"),
        *((f"{call}(m.parameters())", "m") for call in "list tuple set iter reversed sorted chain itertools.chain.from_iterable islice cast".split()),
        ("chain(m.parameters(), n.parameters())", "m n"),
        ("[m.parameters(), n.parameters()]", "m n"),
        ("(m.parameters(),)", "m"),
        ("m.parameters() + n.parameters()", "m n"),
        ("[p for p in m.parameters()]", "m"),
        ("(p for p in m.parameters())", "m"),
        ("[{'params': m.parameters(), 'lr': 1}]", "m"),
        ("[{**options, 'params': m.parameters()}]", "m"),
    ],
)  # fmt: skip
def test_whose_parameters_an_expression_holds(code: str, expected: str | None) -> None:
    found = owners(*asked(code))
    assert (None if found is None else " ".join(sorted(found))) == expected


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("o", None),
        ("o = f(m.parameters())\no", None),
        ("o = torch.optim.SGD()\no", None),
        ("o = torch.optim.SGD(m.parameters())\no.add_param_group(g)\no", None),
        ("o = torch.optim.SGD(m.parameters())\nq.add_param_group(g)\no", "m"),
        ("o = torch.optim.SGD(m.parameters(), lr=1)\no", "m"),
        ("o = torch.optim.SGD(params=m.parameters())\no", "m"),
    ],
)
def test_what_an_optimizer_steps(code: str, expected: str | None) -> None:
    found = stepped(*asked(code))
    assert (None if found is None else " ".join(sorted(found))) == expected


def two(program: str) -> tuple[Source, cst.BaseExpression, cst.BaseExpression]:
    """A program that ends in a pair: parameters and an optimizer."""
    source, pair = asked(program)
    assert isinstance(pair, cst.Tuple)
    one, other = (element.value for element in pair.elements)
    return source, one, other


@pytest.mark.parametrize(
    ("program", "expected"),
    [
        ("o = torch.optim.SGD(m.parameters())\nm.parameters(), o", True),
        ("o = torch.optim.SGD(m.parameters())\nm.head.parameters(), o", True),
        ("o = torch.optim.SGD(m.parameters())\n[*m.parameters(), *n.parameters()], o", True),
        ("o = torch.optim.SGD([*m.parameters(), *n.parameters()])\nn.parameters(), o", True),
        ("o = torch.optim.SGD(m.head.parameters())\nm.parameters(), o", True),
        ("o = torch.optim.SGD(m.parameters())\nn.parameters(), o", False),
        ("o = torch.optim.SGD(m.parameters())\nmm.parameters(), o", False),
        ("w = DDP(m)\no = torch.optim.SGD(m.parameters())\nw.parameters(), o", None),
        ("w = DDP(m)\no = torch.optim.SGD(w.parameters())\nm.parameters(), o", None),
        ("w = DDP(m)\no = torch.optim.SGD(m.head.parameters())\nw.parameters(), o", None),
        ("w = DDP(m)\no = torch.optim.SGD(w.parameters())\nm.head.parameters(), o", None),
        ("w = DDP(m)\nv = w\no = torch.optim.SGD(v.parameters())\nm.parameters(), o", None),
        ("n = make(k)\no = torch.optim.SGD(m.head.parameters())\nn.head.parameters(), o", False),
        ("m, o = prepare(m, o)\no2 = torch.optim.SGD(m.parameters())\nn.parameters(), o2", False),
        ("o = torch.optim.SGD(ps)\nps, o", True),
        ("o.param_groups[0], o", True),
        ("o = torch.optim.SGD(m.parameters())\ndef f():\n    n.parameters(), o", None),
        ("class A:\n    def f(self):\n        self.o = torch.optim.SGD(self.m.parameters())\n    def g(self):\n        self.n.parameters(), self.o", False),
        ("class A:\n    def f(self):\n        self.n = wrap(self.m)\n        self.o = torch.optim.SGD(self.m.parameters())\n    def g(self):\n        self.n.parameters(), self.o", None),
        ("class A:\n    def f(self):\n        self.n = wrap(self.m)\n        self.o = torch.optim.SGD(self.m.head.parameters())\n    def g(self):\n        self.n.head.parameters(), self.o", None),
        ("class A:\n    def f(self):\n        self.n = wrap(self.k)\n        self.o = torch.optim.SGD(self.m.head.parameters())\n    def g(self):\n        self.n.parameters(), self.o", False),
    ],
)  # fmt: skip
def test_whether_parameters_surely_belong_to_an_optimizer(program: str, expected: bool | None) -> None:
    assert surely_belong(*two(program)) is expected
    if expected is not None:
        assert belong(*two(program)) is expected


@pytest.mark.parametrize(
    ("program", "expected"),
    [
        ("m.parameters(), x", False),
        ("net_g.parameters(), opt_g", True),
        ("net_g.parameters(), g_optim", True),
        ("net_g.parameters(), opt_d", False),
        ("netG.parameters(), optimizer_d", False),
        ("generator.parameters(), opt_gen", True),
        ("gen.parameters(), opt_generator", True),
        ("g_params, opt_d", False),
        ("net.parameters(), opt_d", None),
        ("net_g.parameters(), optimizer", None),
        *((f"{word}.parameters(), opt_d", None) for word in "self net model module opt opts params param parameters network solver the".split()),
    ],
)  # fmt: skip
def test_whether_parameters_belong_to_an_optimizer_by_their_names(program: str, expected: bool | None) -> None:
    assert named_alike(*two(program)) is expected
    assert belong(*two(program)) is expected


def test_unknown_parameters_belong_to_no_optimizer_for_sure() -> None:
    source, _, optimizer = two("x, opt_g")
    assert belong(source, None, optimizer) is None


@pytest.mark.parametrize(
    ("program", "expected"),
    [
        ("m, o", False),
        ("o = torch.optim.SGD(m.parameters())\nm, o", True),
        ("o = torch.optim.SGD(m.head.parameters())\nm, o", True),
        ("o = torch.optim.SGD(m.parameters())\nm.head, o", False),
        ("o = torch.optim.SGD([*m.parameters(), *n.parameters()])\nm, o", False),
        ("o = torch.optim.SGD([*m.a.parameters(), *m.b.parameters()])\nm, o", True),
        ("o = torch.optim.SGD(m.parameters())\nfor m in ms:\n    m, o", False),
        ("o = torch.optim.SGD(m.parameters())\ndef f():\n    m, o", False),
        (
            "class A:\n    def f(self):\n        self.o = torch.optim.SGD(self.m.parameters())\n    def g(self):\n        self.m, self.o",
            True,
        ),
    ],
)
def test_whether_an_optimizer_steps_only_parameters_of_a_module(program: str, expected: bool) -> None:
    assert is_all_of(*two(program)) is expected


# --- modules ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("x", False),
        ("nn.Parameter(x)", False),
        ("nn.ParameterList()", False),
        ("nn.Buffer(x)", False),
        ("nn.functional.relu(x)", False),
        ("nn.Linear(1, 2)", True),
        ("nn.Linear(1, 2).other()", False),
        *((f"nn.Linear(1, 2).{method}(x)", True) for method in "to cuda cpu train eval float double half bfloat16 requires_grad_".split()),
        ("class M(nn.Module):\n    pass\nM()", True),
        ("class M(Other):\n    pass\nM()", False),
        ("class M(nn.Module):\n    def __iter__(self):\n        pass\nM()", False),
        ("x = nn.Linear(1, 2)\nif y:\n    x = other()\nx", False),
        ("class A:\n    def f(self):\n        self.m = nn.Linear(1, 2)\n    def g(self):\n        self.m", True),
        *((f"def f(x):\n    x.{method}()\n    x", True) for method in "parameters named_parameters state_dict zero_grad".split()),
        ("def f(x):\n    x.other()\n    x", False),
        ("def f(x):\n    x.parameters\n    x", False),
        ("def f(x):\n    clip_grad_norm_(x.parameters, 1.0)\n    x", True),
        ("def f(x):\n    clip_grad_norm_(x.state_dict, 1.0)\n    x", False),
        ("def f(my_opt):\n    my_opt.zero_grad()\n    my_opt", False),
        ("def f(x):\n    x.zero_grad()\n    x = y\n    x", False),
        ("def f(x):\n    def g():\n        x.zero_grad()\n    x", False),
        ("def f(x):\n    if y:\n        x.zero_grad()\n    x", False),
        ("def f(x):\n    if x.zero_grad():\n        pass\n    x", True),
        ("def f(x):\n    y and x.zero_grad()\n    x", False),
        ("def f(x):\n    x.zero_grad() and y\n    x", True),
        ("def f(x):\n    x.zero_grad() if y else 1\n    x", False),
        ("def f(x):\n    1 if x.zero_grad() else 2\n    x", True),
        ("def f(x):\n    try:\n        x.zero_grad()\n    except E:\n        pass\n    x", False),
        ("def f(x):\n    match y:\n        case 1:\n            x.zero_grad()\n    x", False),
        ("def f(x):\n    match x.zero_grad():\n        case 1:\n            pass\n    x", True),
        ("def f(x):\n    if y:\n        x.zero_grad()\n        x", True),
    ],
)  # fmt: skip
def test_what_is_surely_a_module(code: str, expected: bool) -> None:
    assert is_module(*asked(code)) is expected


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("x", False),
        ("torch.optim.SGD(ps)", True),
        ("torch.optim.lr_scheduler.StepLR(o, 1)", False),
        ("other.Adam(ps)", False),
        ("o = torch.optim.SGD(ps)\no", True),
        ("o = torch.optim.SGD(ps)\nif x:\n    o = other()\no", False),
        ("class A:\n    def f(self):\n        self.o = torch.optim.SGD(ps)\n    def g(self):\n        self.o", True),
    ],
)
def test_what_is_surely_an_optimizer(code: str, expected: bool) -> None:
    assert is_torch_optimizer(*asked(code)) is expected


@pytest.mark.parametrize(
    ("base", "module", "lightning", "callback"),
    [
        ("object", False, False, False),
        ("nn.Module", True, False, False),
        ("nn.Sequential", True, False, False),
        ("nn.ModuleList", True, False, False),
        ("torch.nn.modules.module.Module", True, False, False),
        ("nn.Linear", False, False, False),
        ("pl.LightningModule", True, True, False),
        ("L.LightningModule", True, True, False),
        ("other.LightningModule", True, False, False),
        ("pl.Callback", False, False, True),
        ("L.Callback", False, False, True),
        ("other.Callback", False, False, False),
        ("pl.OtherCallback", False, False, False),
    ],
)
def test_what_a_class_is_for_torch(base: str, module: bool, lightning: bool, callback: bool) -> None:
    source = Source(f"{HEAD}class A({base}):\n    pass\n")
    (owner,) = source.nodes(cst.ClassDef)
    assert (is_module_class(source, owner), is_lightning_module(source, owner), is_callback(source, owner)) == (
        module,
        lightning,
        callback,
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("class A:\n    x = 1", False),
        ("class A:\n    def f(self):\n        self.automatic_optimization = True", False),
        ("class A:\n    def f(self):\n        self.other = False", False),
        ("class A:\n    def f(self):\n        self.automatic_optimization = False", True),
        ("class B:\n    def f(self):\n        self.automatic_optimization = False\nclass A(B):\n    pass", True),
        ("class A(A):\n    pass", False),
        ("class A(x.B):\n    pass", False),
    ],
)
def test_manual_optimization(text: str, expected: bool) -> None:
    source = Source(HEAD + text + "\n")
    owner = next(one for one in source.nodes(cst.ClassDef) if one.name.value == "A")
    assert (manual_at(source, owner) is not None) is expected


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("pl.Trainer()", False),
        ("other.Trainer(precision=16)", False),
        ("pl.Other(precision=16)", False),
        ("pl.Trainer(precision='16-true')", False),
        ("pl.Trainer(precision='bf16-mixed')", False),
        ("pl.Trainer(precision=32)", False),
        ("pl.Trainer(max_steps=16)", False),
        ("pl.Trainer(plugins=Other('16-mixed'))", False),
        ("pl.Trainer(plugins=MixedPrecision('bf16-mixed'))", False),
        ("pl.Trainer(plugins=MixedPrecision(16))", False),
        ("pl.Trainer(plugins=MixedPrecision(*args))", False),
        ("pl.Trainer(precision=16)\npl.Trainer()", False),
        ("pl.Trainer(precision=16)", True),
        ("L.Trainer(precision='16')", True),
        ("L.Trainer(precision='16-mixed')", True),
        ("L.Trainer(precision='16-mixed' if x else 32)", True),
        *((f"L.Trainer(plugins=[{name}('16-mixed')])", True) for name in ("MixedPrecision", "MixedPrecisionPlugin", "NativeMixedPrecisionPlugin")),
        ("L.Trainer(plugins=[x.MixedPrecision(*args, '16-mixed')])", True),
    ],
)  # fmt: skip
def test_a_trainer_that_scales_the_loss(code: str, expected: bool) -> None:
    assert (scaling_trainer(asked(code)[0]) is not None) is expected


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("s", False),
        ("s = torch.amp.GradScaler()\ns", False),
        ("s = torch.amp.GradScaler(enabled=True)\ns", False),
        ("s = torch.amp.GradScaler(init_scale=False)\ns", False),
        ("s = ShardedGradScaler()\ns", False),
        ("s = torch.amp.GradScaler(enabled=False)\ns", True),
        ("s = Other()\ns", True),
    ],
)
def test_a_scaler_that_is_off(code: str, expected: bool) -> None:
    assert is_off(*asked(code)) is expected


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("def f(x):\n    n = get_total_norm(x)\n    log(n)", False),
        ("def f(x):\n    get_total_norm(x)", False),
        ("def f(x):\n    n = get_total_norm(x)", False),
        ("def f(x):\n    n = get_total_norm(x)\n    log(n / s.get_scale())", True),
        ("def f(x):\n    n = get_total_norm(x)\n    log(n / s._scale)", True),
        *(
            (f"def f(x):\n    n = get_total_norm(x)\n    torch.{test}(n)", True)
            for test in ("isfinite", "isnan", "isinf")
        ),
        ("def f(x):\n    n = get_total_norm(x)\n    torch.isnan(n)\n    log(n)", False),
    ],
)
def test_a_norm_whose_scale_does_not_matter(code: str, expected: bool) -> None:
    source = Source(HEAD + code + "\n")
    call = next(one for one in source.nodes(cst.Call) if source.code(one.func) == "get_total_norm")
    assert is_compensated(source, call) is expected


@pytest.mark.parametrize(
    ("program", "expected"),
    [
        ("ps", "ps"),
        ("sorted(ps)", "sorted(ps)"),
        ("[q for p in ps]", "[q for p in ps]"),
        ("(q for p in ps)", "(q for p in ps)"),
        ("[p.grad for p in ps]", "[p.grad for p in ps]"),
        ("qs = other(ps)\nqs", "qs"),
        ("qs = ps\nqs", "qs"),
        ("qs = list(ps)\nqs = ps\nqs", "qs"),
        ("list(ps)", "ps"),
        ("tuple(ps)", "ps"),
        ("iter(ps)", "ps"),
        ("filter(None, ps)", "ps"),
        ("[p for p in ps]", "ps"),
        ("[p for p in ps if p.requires_grad]", "ps"),
        ("(p for p in ps)", "ps"),
        ("list(p for p in filter(None, ps))", "ps"),
        ("qs = [p for p in ps]\nqs", "ps"),
        ("qs = (p for p in ps)\nqs", "ps"),
        ("qs = list(ps)\nrs = filter(None, qs)\nrs", "ps"),
        ("qs = m.parameters()\nqs", "m.parameters()"),
        ("qs = group['params']\nqs", "group['params']"),
    ],
)
def test_what_a_list_of_parameters_was_made_from(program: str, expected: str) -> None:
    source, node = asked(program)
    assert source.outer_code(whole_of(source, node)) == expected


# --- functions --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("program", "expected"),
    [
        ("def f(a):\n    pass\ng(1)", None),
        ("def f(a):\n    yield a\nf(1)", None),
        ("def f(a):\n    pass\nf = x\nf(1)", None),
        ("def f(self):\n    self.g(1)\ndef g(a):\n    pass", None),
        ("def f(self):\n    super().g(1)\ndef g(a):\n    pass", None),
        ("def f(a, b):\n    pass\nf(1, 2)", {"a": "1", "b": "2"}),
        ("def f(a, b):\n    pass\nf(b=1)", {"b": "1"}),
        ("def f(a, b):\n    pass\nf(1, *x)", {"a": "1"}),
        ("def f(a, b):\n    pass\ng = f\ng(1)", {"a": "1"}),
        ("def f(a, b):\n    pass\ng = functools.partial(f, 1)\ng(2)", {"a": "1", "b": "2"}),
        ("def f(a, b):\n    pass\ng = partial(f, b=1)\ng(2)", {"a": "2", "b": "1"}),
        ("def f(a, b):\n    pass\ng = other(f, 1)\ng(2)", None),
        ("f = lambda a: a\nf(1)", {"a": "1"}),
        ("class A:\n    def f(self, a):\n        pass\nx = A()\nx.f(1)", {"a": "1"}),
        ("class A:\n    def f(self, a):\n        pass\nA.f(x, 1)", {"self": "x", "a": "1"}),
        ("class A:\n    @staticmethod\n    def f(a):\n        pass\nx = A()\nx.f(1)", {"a": "1"}),
        ("class A:\n    @classmethod\n    def f(cls, a):\n        pass\nA.f(1)", {"a": "1"}),
        ("class A:\n    def f(self, a):\n        pass\n    def g(self):\n        self.f(1)", {"a": "1"}),
        ("class A:\n    def f(self, a):\n        pass\n    def g(self):\n        self.h(1)", None),
        ("class A:\n    def f(self, a):\n        pass\n    def g(self):\n        self.f(1)\nclass B(A):\n    def f(self, a):\n        pass", None),
        ("class A:\n    def f(self, a):\n        pass\nclass B(A):\n    def f(self, a):\n        super().f(1)", {"a": "1"}),
        ("class B(Unknown):\n    def f(self, a):\n        super().f(1)", None),
        ("class A:\n    def f(self, a):\n        pass\nclass B(Unknown, A):\n    def g(self):\n        self.f(1)", None),
        *((f"class A:\n    def f(self, a):\n        pass\nclass B({base}, A):\n    def g(self):\n        self.f(1)", {"a": "1"}) for base in ("object", "nn.Module")),
        ("class A:\n    def __init__(self):\n        self.h = h\n    def g(self):\n        self.h(1)\ndef h(a):\n    pass", {"a": "1"}),
    ],
)  # fmt: skip
def test_the_function_that_a_call_runs(program: str, expected: dict[str, str] | None) -> None:
    source = Source(HEAD + program + "\n")
    call = [
        c
        for c in source.nodes(cst.Call)
        if any(source.code(a.value) in ("1", "2") for a in c.args)
        or "f(b=1)" in source.code(c)
        or "f(1, *x)" in source.code(c)
    ][-1]
    found = callee(source, call)
    given = None if found is None else {name: source.code(value) for name, value in found.given.items()}
    assert given == expected


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("return sum(p.grad.norm() for p in ps)", True),
        ("x = []\n    x.append(1)\n    return math.sqrt(2)", True),
        ("return [p.item().pow(2).sqrt().abs().max() for p in ps]", True),
        ("return g(ps)\n\ndef g(x):\n    return x.norm()", True),
        ("return g(ps)\n\ndef g(x):\n    print(x)", False),
        ("raise E", False),
        ("assert ps", False),
        ("yield ps", False),
        ("global x", False),
        ("self.x = 1", False),
        ("x[0] = 1", False),
        ("x[0] += 1", False),
        ("x.y: int = 1", False),
        ("x += 1", True),
        ("x: int = 1", True),
        ("print(1)", False),
        ("setattr(x, 'y', 1)", False),
        ("open(x)", False),
        ("torch.nn.init.zeros_(x)", False),
        ("torch.zeros(1)", True),
        ("np.sqrt(1)", True),
        ("itertools.chain(x)", True),
        ("functools.reduce(x, y)", True),
        ("unknown(x)", False),
        ("x.unknown()", False),
        ("x.step()", False),
        ("await x", False),
    ],
)
def test_a_function_that_only_computes(body: str, expected: bool) -> None:
    keyword = "async def" if "await" in body else "def"
    source = Source(f"{HEAD}{keyword} f(ps):\n    {body}\n")
    function = next(one for one in source.nodes(cst.FunctionDef) if one.name.value == "f")
    assert only_computes(source, function) is expected


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("pass", None),
        ("return", None),
        ("return 1\n    return", None),
        ("return 1", ["1"]),
        ("if x:\n        return 1\n    return 2", ["1", "2"]),
    ],
)
def test_what_a_function_returns(body: str, expected: list[str] | None) -> None:
    source = Source(f"def f(x):\n    {body}\n")
    (function,) = source.nodes(cst.FunctionDef)
    found = returned(source, function)
    assert (None if found is None else [source.code(value) for value in found]) == expected


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("dist.barrier()", False),
        ("dist.all_reduce()", False),
        ("dist.all_reduce(loss)", False),
        ("dist.all_reduce([loss, x])", False),
        ("dist.all_reduce(p.grad)", True),
        ("dist.all_reduce(p.grad.data)", True),
        ("g = p.grad.clone()\ndist.all_reduce(g)", True),
        ("dist.all_reduce_coalesced([p.grad for p in ps])", True),
        ("gs = [p.grad for p in ps]\ndist.all_reduce_coalesced(gs)", True),
        ("flat = torch.cat([p.grad.flatten() for p in ps])\ndist.all_reduce(flat)", True),
        ("gs = [p.grad for p in ps]\nflat = torch.cat(gs)\ndist.all_reduce(flat)", True),
        ("gs = []\nfor p in ps:\n    gs.append(p.grad.view(-1))\nflat = torch.cat(gs)\ndist.all_reduce(flat)", True),
        ("gs = []\nfor p in ps:\n    gs.append(p.data.view(-1))\nflat = torch.cat(gs)\ndist.all_reduce(flat)", False),
        ("gs = []\nfor p in ps:\n    other.append(p.grad)\nflat = torch.cat(gs)\ndist.all_reduce(flat)", False),
        ("gs = []\ndef f(gs):\n    gs.append(p.grad)\nflat = torch.cat(gs)\ndist.all_reduce(flat)", False),
        ("flat = torch.cat([p.grad.flatten() for p in ps])\ndist.all_reduce(flat.cpu().contiguous())", True),
        ("flat = torch.cat([p.grad.flatten() for p in ps])\ndist.all_reduce(flat.mean())", False),
        ("dist.all_reduce_coalesced([p.grad, q.grad])", True),
        ("flat = torch.cat([p.data for p in ps])\ndist.all_reduce(flat)", False),
        ("flat = other([p.grad for p in ps])\ndist.all_reduce(flat)", False),
    ],
)
def test_a_reduction_of_gradients(code: str, expected: bool) -> None:
    assert is_reduction(*last_call(code)) is expected


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("sync_gradients(model)", False),  # a function of this file, which can be read
        ("model.sync_gradients(model)", False),
        ("self.comm.sync_gradients(model)", False),
        ("made().sync_gradients(model)", False),
        ("self.sync_gradients()", False),
        ("dist.sync_model(model)", False),
        ("dist.sync_gradients()", False),
        ("self.sync_gradients(model)", True),
        ("dist.average_grads(model)", True),
        ("from lib import all_reduce_grads\nall_reduce_grads(model)", True),
    ],
)
def test_a_call_that_says_it_reduces_gradients(code: str, expected: bool) -> None:
    made = "def sync_gradients(model):\n    pass\nmodel = make()\n"
    assert is_called_reduction(*last_call(made + code)) is expected


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("p.register_other(hook)", []),
        ("p.register_hook(*hook)", []),
        ("p.register_hook(unknown)", []),
        ("p.register_hook(hook)", ["computed"]),
        ("p.register_post_accumulate_grad_hook(hook)", ["accumulated"]),
        ("p.register_hook(lambda g: g)", ["computed"]),
        ("p.register_hook(maker(1))", ["computed"]),
        ("p.register_hook(unknown(1))", []),
    ],
)
def test_hooks(code: str, expected: list[str]) -> None:
    made = "def hook(x):\n    pass\ndef maker(n):\n    def made(x):\n        pass\n    return made\n"
    assert [hook.when for hook in hooks(Source(f"{made}{code}\n"))] == expected


# --- iterators --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("ps", False),
        ("list(ps)", False),
        ("[p for p in ps]", False),
        ("m.modules()", False),
        ("self.params.parameters()", False),
        ("groups.parameters()", False),
        ("collection.buffers()", False),
        ("my_parameters.parameters()", False),
        ("class A:\n    def parameters(self):\n        pass\nx.parameters()", False),
        ("class A:\n    def parameters(self):\n        pass\n    def f(self):\n        self.parameters()", False),
        ("class A:\n    def f(self):\n        self.parameters()", True),
        ("class A:\n    def parameters(self):\n        super().parameters()", True),
        ("class A:\n    def parameters(self):\n        pass\nx.buffers()", True),
        *((f"m.{method}()", True) for method in ("parameters", "named_parameters", "buffers")),
        ("(p for p in ps)", True),
        *((f"{name}(ps)", True) for name in ("filter", "map", "zip", "iter", "reversed", "enumerate")),
        *((f"itertools.{name}(ps)", True) for name in ("chain", "chain.from_iterable", "islice", "starmap", "compress", "filterfalse", "takewhile")),
        ("itertools.product(ps)", False),
    ],
)  # fmt: skip
def test_what_makes_a_one_shot_iterator(code: str, expected: bool) -> None:
    assert is_one_shot(*asked(code)) is expected


@pytest.mark.parametrize(
    ("program", "expected"),
    [
        ("def f():\n    return [1]\nf()", False),
        ("def f():\n    return iter([1])\nf()", True),
        ("def f():\n    if x:\n        return [1]\n    return iter([1])\nf()", False),
        ("unknown()", False),
        ("@contextmanager\ndef f():\n    yield 1\nf()", False),
        ("def f():\n    yield 1\nf()", True),
        ("@torch.no_grad()\ndef f():\n    yield 1\nf()", True),
        ("class A:\n    @staticmethod\n    def f():\n        yield 1\nA.f()", True),
        ("class A:\n    @classmethod\n    def f(cls):\n        yield 1\nA.f()", True),
    ],
)
def test_a_function_that_makes_a_one_shot_iterator(program: str, expected: bool) -> None:
    assert makes_iterator(*asked(program)) is expected


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("USED", False),
        ("print(USED)", False),
        ("USED(x)", False),
        ("next(USED)", False),
        ("[USED]", False),
        ("x = [*USED]", False),
        ("for p in USED:\n    break", False),
        ("for p in USED:\n    return", False),
        ("for p in ps:\n    USED", False),
        ("map(f, USED)", False),
        ("torch.optim.SGD(x, USED)", False),
        ("for p in USED:\n    pass", True),
        ("[p for p in USED]", True),
        ("{p for p in USED}", True),
        *((f"{name}(USED)", True) for name in ("list", "tuple", "set", "sorted", "sum", "any", "all", "max", "min", "dict", "frozenset")),
        *((f"list({name}(f, USED))", True) for name in ("filter", "map", "chain", "zip", "enumerate", "iter", "islice")),
        ("nn.utils.parameters_to_vector(USED)", True),
        ("clip_grad_norm_(USED, 1.0)", True),
        ("model.clip_grad_norm_(USED, 1.0)", True),
        ("x.clip_grad_value_(USED, 1.0)", True),
        ("x.clip_grad_norm(USED, 1.0)", True),
        ("torch.optim.SGD(USED)", True),
        ("torch.optim.SGD(lr=1, params=USED)", True),
        ("torch.optim.SGD([{'params': USED}])", True),
        ("torch.optim.SGD([*USED])", True),
        ("optimizer_class(USED)", True),
        ("self.optim_cls(USED)", True),
        ("some_class(USED)", False),
    ],
)  # fmt: skip
def test_what_takes_everything_from_an_iterator(code: str, expected: bool) -> None:
    source = Source(HEAD + "def f():\n" + "\n".join("    " + line for line in code.split("\n")) + "\n")
    (use,) = (name for name in source.nodes(cst.Name) if name.value == "USED")
    assert (drains(source, use) is not None) is expected


@pytest.mark.parametrize(
    ("body", "count"),
    [
        ("print(ps)", 0),
        ("list(ps)", 1),
        ("list(ps)\n    list(ps)", 2),
        ("ps = list(ps)\n    list(ps)", 1),
        ("ps = [ps]\n    list(ps)", 0),
        ("if isinstance(ps, torch.Tensor):\n        ps = [ps]\n    list(ps)", 1),
        ("if isinstance(ps, Parameter):\n        ps = [ps]\n    list(ps)", 1),
        ("if isinstance(ps, Variable):\n        ps = [ps]\n    list(ps)", 1),
        ("if isinstance(ps, dict):\n        ps = [ps]\n    list(ps)", 0),
        ("if isinstance(ps, torch.Tensor):\n        ps = [qs]\n    list(ps)", 0),
        ("def g():\n        list(ps)", 0),
        ("g(ps)\n\ndef g(x):\n    list(x)", 1),
        ("g(ps)\n\ndef g(x):\n    print(x)", 0),
        ("list(filter(None, ps))", 1),
    ],
)
def test_how_often_a_function_goes_through_its_argument(body: str, count: int) -> None:
    source = Source(f"{HEAD}def f(ps):\n    {body}\n")
    function = next(one for one in source.nodes(cst.FunctionDef) if one.name.value == "f")
    assert len(readings(source, function, "ps")) == count


@pytest.mark.parametrize(
    ("tests", "kept"),
    [
        ("pass", ["1.0"]),
        ("if self.other:\n            pass", ["1.0"]),
        ("if self.limit:\n            pass", []),
        ("while self.limit:\n            break", []),
        ("return 1 if self.limit else 2", []),
        ("return self.limit and x", []),
        ("return self.limit > 0", []),
    ],
)
def test_an_attribute_that_a_test_looks_at_may_have_another_value(tests: str, kept: list[str]) -> None:
    source, node = asked(
        f"class A:\n    def __init__(self):\n        self.limit = 1.0\n    def h(self):\n        {tests}\n"
        "    def g(self):\n        self.limit"
    )
    assert isinstance(node, cst.Attribute)
    assert [source.code(value) for value in kept_values(source, node)] == kept


# --- limits -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("x", []),
        ("f()", []),
        ("x and 1", []),
        ("d.get('k')", []),
        ("d.other('k', 1)", []),
        ("d.get('k', other=1)", []),
        ("getattr(x, 'y')", []),
        ("1", [(1.0, True)]),
        ("-1.5", [(-1.5, True)]),
        ("True", [(True, True)]),
        ("False", [(False, True)]),
        ("None", [(None, True)]),
        ("'a'", [("a", True)]),
        ("float('inf')", [(float("inf"), True)]),
        ("int(None)", [(None, True)]),
        ("float(x or 0)", [(0.0, False)]),
        ("1 if x else 2", [(1.0, False), (2.0, False)]),
        ("x or 3", [(3.0, False)]),
        ("d.get('k', 0)", [(0.0, False)]),
        ("d.get('k', default=0)", [(0.0, False)]),
        ("d.pop('k', 0)", [(0.0, False)]),
        ("d.setdefault('k', 0)", [(0.0, False)]),
        ("getattr(x, 'y', 0)", [(0.0, False)]),
        ("os.getenv('k', '0')", [("0", False)]),
        ("getenv('k', '0')", [("0", False)]),
        ("x = 1\nx", [(1.0, True)]),
        ("x = 1\nx = 2\nx", [(2.0, True)]),
        ("if y:\n    x = 1\nelse:\n    x = 2\nx", [(1.0, False), (2.0, False)]),
        ("for x in y:\n    x", []),
        # tests that look at it
        ("if x:\n    x or 1", []),
        ("if x:\n    1 if x else 2", []),
        ("x = 1\nif x:\n    x", []),
        ("x = 1\nif y:\n    x = 2\nif z:\n    x", []),
    ],
)
def test_the_constants_that_a_limit_can_be(code: str, expected: list[tuple[object, bool]]) -> None:
    assert [(one.value, one.always) for one in constants(*asked(code))] == expected


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("x", []),
        ("if a:\n    x", [("a", True)]),
        ("if a:\n    pass\nelse:\n    x", [("a", False)]),
        ("def f():\n    if a:\n        return\n    x", [("a", False)]),
        ("for y in z:\n    if a: continue\n    x", [("a", False)]),
        ("for y in z:\n    if a:\n        break\n    x", []),
        ("def f():\n    if a:\n        return\n    else:\n        pass\n    x", [("a", False)]),
        ("def f():\n    if a:\n        raise E\n    x", [("a", False)]),
        ("if a:\n    def f():\n        x", []),
    ],
)
def test_the_tests_that_a_place_is_reached_through(code: str, expected: list[tuple[str, bool]]) -> None:
    source, node = asked(code)
    assert [(source.code(guard.test), guard.outcome) for guard in guards(source, node)] == expected


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("a and x()", [("a", True)]),
        ("a or x()", [("a", False)]),
        ("x() and a", []),
        ("x() if a else 1", [("a", True)]),
        ("1 if a else x()", [("a", False)]),
    ],
)
def test_the_tests_in_an_expression(code: str, expected: list[tuple[str, bool]]) -> None:
    source = Source(f"{code}\n")
    (call,) = source.nodes(cst.Call)
    assert [(source.code(guard.test), guard.outcome) for guard in guards(source, call)] == expected


@pytest.mark.parametrize(
    ("test", "values_that_pass"),
    [
        ("x", [-1, 1]),
        ("not x", [0]),
        ("x > 0", [1]),
        ("x >= 0", [0, 1]),
        ("x < 0", [-1]),
        ("x <= 0", [-1, 0]),
        ("x == 1", [1]),
        ("x != 1", [-1, 0]),
        ("0 < x", [1]),
        ("-1 < x < 1", [0]),
        ("x is None", []),
        ("x is not None", [-1, 0, 1]),
        ("y is None", [-1, 0, 1]),
        ("x is y", [-1, 0, 1]),
        ("x in y", [-1, 0, 1]),
        ("x > y", [-1, 0, 1]),
        ("x > 0 and y", [1]),
        ("x > 0 or y", [-1, 0, 1]),
        ("x > 0 or x < 0", [-1, 1]),
        ("f(x)", [-1, 0, 1]),
    ],
)
def test_the_values_that_get_through_a_test(test: str, values_that_pass: list[int]) -> None:
    source, node = asked(f"if {test}:\n    x")
    (guard,) = guards(source, node)
    assert [value for value in (-1, 0, 1) if passes(source, guard, node, value)] == values_that_pass


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("with pytest.raises(E):\n    x", True),
        ("with a, self.assertRaises(E):\n    x", True),
        ("with torch.no_grad():\n    x", False),
        ("x", False),
    ],
)
def test_places_where_an_error_is_expected(code: str, expected: bool) -> None:
    assert expects_error(*asked(code)) is expected


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("if a:\n    continue\nx", [("a", False)]),
        ("if a:\n    pass\nelse:\n    continue\nx", [("a", True)]),
        ("if a: raise E\nx", [("a", False)]),
        ("if a:\n    pass\nelse: raise E\nx", [("a", True)]),
        ("if a:\n    pass\nelif b:\n    continue\nx", []),
        ("if a:\n    continue; pass\nx", []),
    ],
)
def test_the_tests_that_decide_on_a_place(code: str, expected: list[tuple[str, bool]]) -> None:
    source, node = asked("for i in xs:\n" + "\n".join("    " + line for line in code.split("\n")))
    assert [(source.code(branch.test), outcome) for branch, outcome in conditions(source, node)] == expected


@pytest.mark.parametrize(
    ("test", "expected"),
    [
        ("amp", "amp"),
        ("1 > 0", ""),
        ("self.amp", "amp"),
        ("self.config.amp", "amp"),
        ("cfg['clip'].enabled", "cfg enabled"),
        ("self.cfgs[i].enabled", "cfgs enabled i"),
        ("config().amp", "amp config"),
        ("self.config().amp", "amp config"),
        ("ready(limit=max_norm)", "max_norm ready"),
        ("ready(*norms)", "norms ready"),
        ("limit > 0 and not self.skip", "limit skip"),
    ],
)
def test_what_a_test_asks_for(test: str, expected: str) -> None:
    assert " ".join(sorted(asked_for(*asked(test)))) == expected


# --- norms that are measured ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("x", []),
        ("p.grad.norm()", []),
        ("for p in ps:\n    t += p.grad.norm()", []),
        ("sum(p.grad.norm() for p in ps)", []),
        ("get_grad_norm(m)", []),
        ("def get_grad_norm(m):\n    pass\nget_grad_norm(m)", []),
        ("x.get_grad_norm(m)", []),
        ("for p in ps:\n    t += p.grad.norm() ** 2", [("read", False)]),
        ("for p in ps:\n    t = t + p.grad.norm() ** 2", [("read", False)]),
        ("for p in ps:\n    t.append(p.grad.norm())", [("read", False)]),
        ("for p in ps:\n    t.add_(p.grad.norm() ** 2)", [("read", False)]),
        ("for p in ps:\n    t += p.grad.to_local().norm() ** 2", [("read", True)]),
        ("sum(p.grad.norm() ** 2 for p in ps)", [("read", False)]),
        ("gs = [p.grad for p in ps]\nsum(g.norm() ** 2 for g in gs)", [("listed", False)]),
        ("gs = torch.autograd.grad(y, ps)\nsum(g.norm() ** 2 for g in gs)", [("computed", False)]),
        ("sum(g.norm() ** 2 for g in grads)", [("unknown", False)]),
        ("get_total_norm([p.grad for p in ps])", [("read", False)]),
        ("get_total_norm([p.grad.to_local() for p in ps])", [("read", True)]),
        ("get_total_norm(grads)", [("unknown", False)]),
        ("get_total_norm([g for g in grads])", [("unknown", False)]),
        ("gs = [p.grad for p in ps]\nget_total_norm(gs)", [("listed", False)]),
        ("gs = [p.grad.to_local() for p in ps]\nget_total_norm(gs)", [("listed", True)]),
        ("get_total_norm(torch.autograd.grad(y, ps))", [("computed", False)]),
        ("from lib import get_grad_norm\nget_grad_norm(m)", [("unknown", False)]),
        ("import lib\nlib.get_grad_norm(m)", [("unknown", False)]),
        ("from lib import clip_grad_norm\nclip_grad_norm(m)", []),
    ],
)
def test_what_is_measured(code: str, expected: list[tuple[str, bool]]) -> None:
    found = measures(Source(HEAD + code + "\n")).values()
    assert [(one.gradients, one.local) for one in found] == expected


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("log(N)", ["log(N)"]),
        ("n = N\nlog(n)", ["log(n)"]),
        ("n = N\nlog(n)\nshow(n)", ["log(n)", "show(n)"]),
        ("n = N.item()\nlog(n)", ["log(n)"]),
        ("n = float(N)\nlog(n)", ["log(n)"]),
        ("n = N ** 0.5\nlog(n)", ["log(n)"]),
        ("n = N if x else 0\nlog(n)", ["log(n)"]),
        ("n = N * 2\nlog(n)", ["n = N * 2"]),
        ("n = N\nm = n\nlog(m)", ["log(m)"]),
        ("n = m = N\nlog(m)", ["n = m = N"]),
        ("self.n = N\nlog(self.n)", ["self.n = N"]),
        ("n = N\nn = 1\nlog(n)", []),
        ("a = N\nb = a\nc = b\nd = c\nlog(d)", ["d = c"]),
    ],
)
def test_where_something_is_done_with_a_norm(code: str, expected: list[str]) -> None:
    source = Source(HEAD + code.replace("N", "get_total_norm(gs)") + "\n")
    call = next(one for one in source.nodes(cst.Call) if source.code(one.func) == "get_total_norm")
    lines = [
        source.code(source.statement(value)).strip().replace("get_total_norm(gs)", "N")
        for value in values(source, call)
    ]
    assert lines == expected


def test_the_uses_of_a_loops_sum() -> None:
    source = Source(f"{HEAD}t = 0\nfor p in ps:\n    t += p.grad.norm() ** 2\nlog(t)\nshow(t)\nt = 1\nprint(t)\n")
    (loop,) = source.nodes(cst.For)
    assert [source.code(source.parent(source.parent(use))) for use in values(source, loop)] == ["log(t)", "show(t)"]
    last = [name for name in source.nodes(cst.Name) if name.value == "t"][-2]
    assert [source.code(source.parent(source.parent(use))) for use in uses_of(source, last)] == ["print(t)"]


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("x", []),
        ("clip_grad_norm_(ps, 1.0)", []),
        ("sum(p.grad.norm() ** 2 for p in ps)", []),
        ("for p in ps:\n    t += p.grad.norm() ** 3", []),
        ("np.sqrt(sum(p.grad.norm().item() ** 2 for p in ps))", []),
        ("get_total_norm(gs)", []),
        ("for p in ps:\n    t += p.grad.norm() ** 2", [("ps", 2, False)]),
        ("for p in ps:\n    t = max(t, p.grad.abs().max())", [("ps", float("inf"), False)]),
        ("sum(p.grad.norm() ** 2 for p in ps) ** 0.5", [("ps", 2, False)]),
        ("(sum(p.grad.norm() ** 2 for p in ps) ** 0.5).item()", [("ps", 2, True)]),
        ("clip_grad_norm_(ps, math.inf)", [("ps", 2, False)]),
        ("clip_grad_norm_(ps, math.inf, 1).item()", [("ps", 1, True)]),
        ("get_total_norm([p.grad for p in ps], 3)", [("ps", 3, False)]),
        ("get_total_norm((p.grad for p in ps), 3)", [("ps", 3, False)]),
        ("import clipcheck.runtime\nclipcheck.runtime.grad_norm(ps)", [("ps", 2, False)]),
        ("import clipcheck.runtime\nclipcheck.runtime.grad_norm(ps, 1).item()", [("ps", 1, True)]),
        ("import clipcheck.runtime\nclipcheck.runtime.grad_norm()", []),
        ("import clipcheck.runtime\nclipcheck.runtime.grad_norm(ps, f(x))", []),
    ],
)
def test_norms_and_whose_they_are(code: str, expected: list[tuple[str, float, bool]]) -> None:
    found = list(measured(Source(HEAD + code + "\n")))
    assert [(" ".join(one.parameters), one.order.value, one.item) for one in found] == expected


@pytest.mark.parametrize(
    ("program", "expected"),
    [
        ("def grad_norm(m):\n    return get_total_norm([p.grad for p in m.parameters()])\ngrad_norm(net.head)", ["net.head.parameters()"]),
        ("def grad_norm(ps):\n    return get_total_norm([p.grad for p in ps])\ngrad_norm(net.parameters())", ["net.parameters()"]),
        ("def grad_norm(ps):\n    t = 0\n    for p in ps:\n        t += p.grad.norm() ** 2\n    return t ** 0.5\ngrad_norm(net.parameters())", ["net.parameters()"]),
        ("class A:\n    def grad_norm(self):\n        return get_total_norm([p.grad for p in self.m.parameters()])\n    def f(self):\n        self.grad_norm()", ["self.m.parameters()"]),
        # what it measures has no name where it is called
        ("class A:\n    def grad_norm(self):\n        return get_total_norm([p.grad for p in self.m.parameters()])\na = A()\na.grad_norm()", [""]),
        ("class A:\n    def grad_norm(self):\n        return get_total_norm([p.grad for p in ps])\n    def f(self):\n        self.grad_norm()", [""]),
        # no norms
        ("def grad_norm(m):\n    return 1.0\ngrad_norm(net)", []),
        ("def grad_norm(m):\n    if m:\n        return 0.0\n    return get_total_norm([p.grad for p in m.parameters()])\ngrad_norm(net)", []),
        ("def total(m):\n    return get_total_norm([p.grad for p in m.parameters()])\ntotal(net)", []),
        ("grad_norm(net)", []),
    ],
)  # fmt: skip
def test_norms_that_functions_of_the_file_return(program: str, expected: list[str]) -> None:
    assert [" ".join(norm.parameters) for norm in called(asked(program)[0])] == expected


@pytest.mark.parametrize(("code", "expected"), [("np.f(x)", True), ("x[0]", False), ("torch.f(x)", False)])
def test_values_of_numpy(code: str, expected: bool) -> None:
    assert is_foreign(*asked(code)) is expected


@pytest.mark.parametrize(
    ("code", "expected"),
    [("x", False), ("f", True), ("lambda: 1", True), ("partial(f, 1)", True), ("g", False), ("f()", False)],
)
def test_functions_that_an_expression_stands_for(code: str, expected: bool) -> None:
    program = f"def f():\n    pass\ndef g():\n    yield 1\n{code}"
    assert (named_function(*asked(program)) is not None) is expected
