"""Which findings are fixed, into what, and which are not: the conditions of fixes, and a few more of the findings themselves.

The programs are those of `test_rules_in_detail`.
"""

from __future__ import annotations

import pytest
from abbreviated import written
from test_rules_in_detail import HEAD, TOTAL, f, findings, found, loop
from test_rules_of_places import HOOK, SHARDED, SWALLOWED, TRAIN, module

from clipcheck.engine.file import check_file
from clipcheck.rule import Safety
from clipcheck.settings.keys import Settings

C = "clip_grad_norm_(model.parameters(), 1.0)"
XLA, HVD = "import torch_xla.core.xla_model as xm\n", "import horovod.torch as hvd\n"
TWO = """\
class A:
    def __init__(self):
        self.a = torch.optim.SGD(self.m.parameters())
        self.b = torch.optim.SGD(self.n.parameters())
        self.clip = functools.partial(clip_grad_norm_, self.m.parameters(), max_norm=1.0)
    def run(self, loss, xs):
        for x in xs:
            self.a.zero_grad()
            B
            self.a.step()
            self.b.zero_grad()
            B
            {}
            self.b.step()"""
WRAPPED = "optimizer = hvd.DistributedOptimizer(optimizer)\n"


def fixed(body: str, code: str) -> str:
    settings = Settings(codes=frozenset({code}), safety=Safety.UNSAFE, fix=True, target="torch")
    report = check_file("x.py", (HEAD + written(body) + "\n").encode(), settings)
    assert report.errors == ()
    return report.now.decode().removeprefix(HEAD)[:-1]


NO_FIX = [
    ("CLIP106", "clip_grad_norm_(torch.autograd.grad(loss, ps), 1.0)"),
    ("CLIP106", "g = p.grad\nclip_grad_norm_(g, 1.0)"),
    ("CLIP110", "[clip_grad_norm_(p, 1.0) for p in model.parameters()]"),
    ("CLIP110", "for p in model.parameters():\n    clip_grad_norm_(p, 1.0)\n    log(p)"),
    ("CLIP110", "for p in model.parameters():\n    clip_grad_norm_(p, 1.0)\nelse:\n    log(p)"),
    ("CLIP110", "for p in model.parameters():  # why\n    clip_grad_norm_(p, 1.0)"),
    ("CLIP110", "for p in model.parameters():\n    n = clip_grad_norm_(p, 1.0)"),
    ("CLIP110", "for p in model.parameters():\n    if p.x:\n        clip_grad_norm_(p, 1.0)"),
    ("CLIP110", "for p in model.parameters():\n    if p.grad is not None:\n        clip_grad_norm_(p, 1.0)\n    else:\n        log(p)"),
    ("CLIP110", "for n, p in enumerate(model.parameters()):\n    clip_grad_norm_(p, 1.0)"),
    ("CLIP110", "for n, p in model.named_parameters(x):\n    clip_grad_norm_(p, 1.0)"),
    ("CLIP110", "for p in model.parameters():\n    clip_grad_norm_(p,\n                    1.0)"),
    ("CLIP111", "for m in models:\n    clip_grad_norm_(m.parameters(), 1.0)\n    log(m)"),
    ("CLIP111", "for m in models:\n    clip_grad_norm_(m.parameters(), 1.0)\nelse:\n    log(m)"),
    ("CLIP111", "for m in models:  # why\n    clip_grad_norm_(m.parameters(), 1.0)"),
    ("CLIP111", "for m in models:\n    clip_grad_norm_(m.parameters(),\n                    1.0)"),
    ("CLIP111", "for p in models:\n    clip_grad_norm_(p.parameters(), 1.0)"),
    ("CLIP111", "for m in models:\n    n = clip_grad_norm_(m.parameters(), 1.0)"),
    ("CLIP111", "for m in models:\n    clip_grad_norm_([p for p in m.parameters()], 1.0)"),
    ("CLIP111", "def g(ps):\n    clip_grad_norm_(ps, 1.0)\n\nfor m in models:\n    g(m.parameters())"),
    ("CLIP112", "clip_grad_norm_(list(m.parameters()) + list(m.parameters()) + list(n.parameters()), 1.0)"),
    ("CLIP112", "clip_grad_norm_([*m.parameters(), *m.parameters()], 1.0)"),
    ("CLIP117", "import functools\n" + TWO.format("self.clip()")),
    ("CLIP117", TWO.format("ps = self.m.parameters()\n            clip_grad_norm_(ps, 1.0)")),
    ("CLIP203", "clip_grad_norm_(ps, 1.0, norm_type=True)"),
    *(("CLIP205", f"clip_grad_norm_({given}") for given in (
        *("ps, math.inf, error_if_nonfinite=True)", "*args, max_norm=math.inf)", "(p for p in ps), math.inf)", "f(ps), math.inf)"),
    )),
    ("CLIP206", "n = get_total_norm(gs).item()\nlog(n)\nclip_grads_with_norm_(ps, 1.0, n)"),
    ("CLIP405", SHARDED + "m = FSDP(n)\nclip_grad_norm_(m.parameters(), 1.0, foreach=True)"),
    ("CLIP405", SHARDED + "m = FSDP(n)\nclip_grad_norm_(m.parameters(), *args)"),
    ("CLIP405", SHARDED + "m = FSDP(n)\nclip_grad_norm_(m.parameters(),  # why\n    1.0)"),
    ("CLIP408", XLA + loop("B\nC\nxm.optimizer_step(optimizer, barrier=True)")),
    ("CLIP408", XLA + loop("B\nC; log(1)\nxm.optimizer_step(optimizer)")),
    ("CLIP408", XLA + loop("B\nC\ngo(optimizer)") + "\n" + f("xm.optimizer_step(optimizer)", "def go(optimizer):")),
    ("CLIP409", HVD + f(WRAPPED + "for x in xs:\n    B\n    C\n    S; log(1)")),
    ("CLIP409", HVD + f(WRAPPED + "for x in xs:\n    B\n    C; log(1)\n    S")),
    ("CLIP409", HVD + f(WRAPPED + "for x in xs:\n    B\n    C\n    y = optimizer.step()")),
    ("CLIP411", loop("fabric.backward(loss)\nclip_grad_norm_(model.parameters())\nS")),
    ("CLIP411", loop("fabric.backward(loss)\nclip_grad_norm_(model.parameters(), *args)\nS")),
    ("CLIP411", loop("fabric.backward(loss)\nC\nprepare(optimizer)")),
    ("CLIP413", loop("B\nif x:\n    C\nfor p in model.parameters():\n    dist.all_reduce(p.grad)\nS")),
    ("CLIP413", loop("B\nC\nfor p in model.parameters():\n    dist.all_reduce(p.grad)\nelse:\n    log(1)\nS")),
    ("CLIP413", loop("B\nC; log(1)\nfor p in model.parameters():\n    dist.all_reduce(p.grad)\nS")),
    ("CLIP502", "loss = clip_grad_norm_(ps, 1.0)"),
    ("CLIP502", "self.loss = 1\nself.loss = clip_grad_norm_(ps, 1.0)"),
    ("CLIP003", "from torch._six import inf, nan"),
    ("CLIP003", "import torch._six"),
    ("CLIP003", "import torch._six as six\nsix.inf"),
    ("CLIP003", "import torch._six\ntorch._six.nan"),
    ("CLIP003", "import torch._six\ntorch._six.inf + torch._six.nan"),
    ("CLIP003", "import os, torch._six"),
    ("CLIP003", "from torch import nn, _six"),
    ("CLIP003", "from torch import _six"),
    ("CLIP003", "torch._six.nan"),
]  # fmt: skip


@pytest.mark.parametrize(("code", "body"), NO_FIX)
def test_no_fix(code: str, body: str) -> None:
    (finding,) = findings(body, code)
    assert finding.fix is None and finding.help
    assert fixed(body, code) == written(body)


@pytest.mark.parametrize(
    ("code", "body", "after"),
    [
        *(("CLIP001",
            f(f"total = 0.0\nfor group in groups:\n    {test}        for p in group:\n            total += p.grad.norm().item() ** 2\nlog(total ** 0.5)"),
            f(f"total = get_total_norm(\n    [p.grad for group in groups if {condition} for p in group if p.grad is not None]\n).item()\nlog(total)"),
        ) for test, condition in (("if group:\n", "group"), ("if group:\n        pass\n    else:\n", "not group"))),
        ("CLIP110", "for p in model.parameters():\n    clip_grad_norm_(p, 1.0)", "clip_grad_norm_(model.parameters(), 1.0)"),
        ("CLIP110", "for p in model.parameters():\n    clip_grad_norm_(p, 1.0)  # why", "clip_grad_norm_(model.parameters(), 1.0)  # why"),
        ("CLIP110", "for p in model.parameters(): clip_grad_norm_(p, 1.0)", "clip_grad_norm_(model.parameters(), 1.0)"),
        ("CLIP110", "for n, p in m.named_parameters():\n    clip_grad_norm_([p], 1.0)", "clip_grad_norm_(m.parameters(), 1.0)"),
        ("CLIP110", "for p in ps.params:\n    if p.grad is not None:\n        clip_grad_norm_(p, max_norm=1.0)", "clip_grad_norm_(ps.params, max_norm=1.0)"),
        ("CLIP110", "for p in m.parameters():\n    if p.requires_grad:\n        clip_grad_norm_(p, 1.0)\nlog(1)", "clip_grad_norm_(m.parameters(), 1.0)\nlog(1)"),
        ("CLIP110", "for m in model.modules():\n    clip_grad_norm_(m.parameters(), 1.0)", "clip_grad_norm_(model.parameters(), 1.0)"),
        ("CLIP110", "for n, m in model.named_modules():\n    clip_grad_norm_(m.parameters(), 1.0)", "clip_grad_norm_(model.parameters(), 1.0)"),
        ("CLIP111", "for m in models:\n    clip_grad_norm_(m.parameters(), 1.0)", "clip_grad_norm_([p for m in models for p in m.parameters()], 1.0)"),
        ("CLIP111", "for m in a if x else b:\n    clip_grad_norm_(m.parameters(), 1.0)", "clip_grad_norm_([p for m in (a if x else b) for p in m.parameters()], 1.0)"),
        ("CLIP111", "for m in (a if x else b):\n    clip_grad_norm_(m.parameters(), 1.0)", "clip_grad_norm_([p for m in (a if x else b) for p in m.parameters()], 1.0)"),
        ("CLIP112", "clip_grad_norm_(list(m.parameters()) + list(m.head.parameters()), 1.0)", "clip_grad_norm_(list(m.parameters()), 1.0)"),
        ("CLIP112", "clip_grad_norm_(list(m.head.parameters()) + list(m.parameters()), 1.0)", "clip_grad_norm_(list(m.parameters()), 1.0)"),
        ("CLIP117", TWO.format("clip_grad_norm_(self.m.parameters(), 1.0)"), TWO.format("clip_grad_norm_(self.n.parameters(), 1.0)")),
        ("CLIP203", "clip_grad_norm_(ps, 1.0, True)", "clip_grad_norm_(ps, 1.0, error_if_nonfinite=True)"),
        ("CLIP206", "clip_grads_with_norm_(ps, 1.0, norm.item())", "clip_grads_with_norm_(ps, 1.0, norm)"),
        ("CLIP206", "clip_grads_with_norm_(ps, 1.0, float(norm))", "clip_grads_with_norm_(ps, 1.0, norm)"),
        ("CLIP206", "n = get_total_norm(gs).item()\nclip_grads_with_norm_(ps, 1.0, n)", "n = get_total_norm(gs)\nclip_grads_with_norm_(ps, 1.0, n)"),
        ("CLIP405", SHARDED + "m = FSDP(n)\nclip_grad_norm_(m.parameters(), 1.0, 1)\nclip_grad_norm_(ps, 1.0)", SHARDED + "m = FSDP(n)\nm.clip_grad_norm_(1.0, norm_type=1)\nclip_grad_norm_(ps, 1.0)"),
        ("CLIP408", XLA + loop("B\nC\nxm.optimizer_step(optimizer)"), XLA + loop("B\nxm.reduce_gradients(optimizer)\nC\noptimizer.step()")),
        ("CLIP409", HVD + f(WRAPPED + "for x in xs:\n    B\n    C\n    S"), HVD + f(WRAPPED + "for x in xs:\n    B\n    optimizer.synchronize()\n    C\n    with optimizer.skip_synchronize():\n        S")),
        ("CLIP413", loop("B\nC\nfor p in model.parameters():\n    dist.all_reduce(p.grad)\nS"), loop("B\nfor p in model.parameters():\n    dist.all_reduce(p.grad)\nC\nS")),
        ("CLIP413", loop("B\nC\nif x:\n    for p in model.parameters():\n        dist.all_reduce(p.grad)\nS"), loop("B\nif x:\n    for p in model.parameters():\n        dist.all_reduce(p.grad)\nC\nS")),
        ("CLIP413", loop("B\nC\nself.sync_grads(model)\nS"), loop("B\nself.sync_grads(model)\nC\nS")),
        ("CLIP502", "loss = 1\nloss = clip_grad_norm_(ps, 1.0)", "loss = 1\nclip_grad_norm_(ps, 1.0)"),
        ("CLIP106", "clip_grad_norm_([p.grad for p in ps for q in p], 1.0)", "clip_grad_norm_([p for p in ps for q in p], 1.0)"),
        ("CLIP003", "from torch._six import inf", "from math import inf"),
        ("CLIP003", "from torch._six import inf as INF", "from math import inf as INF"),
        ("CLIP003", "x = 1; from torch._six import inf", "x = 1; from math import inf"),
        ("CLIP003", "import torch._six\nx = torch._six.inf", "import torch\nx = torch.inf"),
        ("CLIP003", "x = torch._six.inf", "x = torch.inf"),
        ("CLIP003", "if x: from torch._six import inf", "if x: from math import inf"),
        ("CLIP003", "from torch._six import (  # why\n    inf,\n)", "from math import (  # why\n    inf,\n)"),
        ("CLIP107", "p.grad.clamp(-1, 1)", "p.grad.clamp_(-1, 1)"),
        ("CLIP107", "torch.clamp(p.grad, -1, 1)", "torch.clamp_(p.grad, -1, 1)"),
        ("CLIP407", "fully_shard(model)\nn = get_total_norm(gs)\nprint(f'{n:.2f}')", "fully_shard(model)\nn = get_total_norm(gs)\nprint(f'{n.item():.2f}')"),
        ("CLIP508", "np.isnan(get_total_norm(gs))", "np.isnan(get_total_norm(gs).item())"),
    ],
)  # fmt: skip
def test_a_fix(code: str, body: str, after: str) -> None:
    assert fixed(body, code) == written(after)


SILENT = [
    ("CLIP110", "for p in model.parameters():\n    clip_grad_norm_(max_norm=1.0)"),
    ("CLIP104", loop("run()\nS\nlog(scaler)") + "\n" + f("B\nZ", "def run():")),
    ("CLIP104", loop("B\ngo()\nlog(scaler)") + "\n" + f("Z\nS", "def go():")),
    ("CLIP202", "for p in state.parameters:\n    pass\nclip_grad_norm_(state.parameters, 1.0)"),
    ("CLIP111", "for m in models:\n    clip_grad_norm_(max_norm=1.0)"),
    ("CLIP106", "clip_grad_norm_(max_norm=1.0)"),
    ("CLIP105", "clip_grad_norm_(max_norm=1.0)"),
    ("CLIP202", "clip_grad_norm_(*args)"),
    ("CLIP114", f(SWALLOWED.format("Exception", "failed = x = True") + "\n    if not failed:\n        S")),
    ("CLIP114", f("for x in xs:\n    B\n    if go:\n        try:\n            C\n        except Exception:\n            go = False\n        prepare(optimizer)")),
    ("CLIP115", HOOK + TRAIN.format("if i % 4 == 0:\n            if use_hooks:\n                " + C).replace("for x in xs", "for i, x in enumerate(xs)")),
    ("CLIP308", loop("SB\nif amp:\n    U\nif not amp:\n    continue\nSS\nUP")),
    ("CLIP403", loop("accelerator.backward(loss)\nif x:\n    accelerator.unscale_gradients()\nC\nS")),
    ("CLIP403", loop("accelerator.backward(loss)\nclip()\nS") + "\n" + f("if x:\n    C", "def clip():")),
    ("CLIP403", loop("accelerator.backward()\nC\nS")),
    ("CLIP405", SHARDED + "def wrap(n):\n    if x:\n        return FSDP(n)\n    raise E\n\nm = wrap(n)\nclip_grad_norm_(m.parameters(), 1.0)"),
    ("CLIP507", f(f"B\nclip_grad_norm_(ps, 1.0)\nlog('mygrad', {TOTAL})\nS")),
    ("CLIP401", "class M:\n    def training_step(self):\n        clip_grad_norm_(self.parameters(), 1.0)\n"),
    ("CLIP410", "class M:\n    def on_train_batch_end(self):\n        clip_grad_norm_(self.parameters(), 1.0)\n"),
    ("CLIP410", module("def g(self):\n    clip_grad_norm_(self.parameters(), 1.0)", "on_train_batch_end")),
    ("CLIP501", "norm = clip_grad_norm_(ps, 1.0)\nassert f(norm).x < 1.0"),
]  # fmt: skip


@pytest.mark.parametrize(("code", "body"), SILENT)
def test_silent(code: str, body: str) -> None:
    assert found(body, code) == []


@pytest.mark.parametrize(
    ("code", "body", "line"),
    [
        ("CLIP116", loop("if x:\n    B\n    C\n    S\nelif y:\n    B\n    go()\nelse:\n    B\n    S") + "\n" + f("S", "def go():"), C),
        ("CLIP202", "state.parameters()\nclip_grad_norm_(state.parameters, 1.0)", "clip_grad_norm_(state.parameters, 1.0)"),
        ("CLIP202", "f(state.parameters)\nclip_grad_norm_(state.parameters, 1.0)", "clip_grad_norm_(state.parameters, 1.0)"),
        ("CLIP403", SHARDED + loop("accelerator.backward(loss)\nif x:\n    accelerator.unscale_gradients()\nC\nS"), C),
        ("CLIP403", loop("accelerator.backward(loss)\nclip()\nS") + "\n" + f("C", "def clip():"), "clip()"),
        ("CLIP405", SHARDED + "from x import m\nm = FSDP(n)\nclip_grad_norm_(m.parameters(), 1.0)", "clip_grad_norm_(m.parameters(), 1.0)"),
        ("CLIP412", f("norms = []\nfor p in ps:\n    norms.append(p.grad.to_local().norm())\ntotal = torch.stack(norms).norm()\nreturn total"), "return total"),
        *((
            "CLIP414",
            f"def g(ps):\n    grads = {call}(p.grad for p in ps)\n    if not grads:\n        return 0\n    dist.all_reduce(x)",
            "return 0",
        ) for call in ("list", "tuple", "set")),
        ("CLIP414", "import torch.distributed as td\ndef g(ps):\n    grads = [p.grad for p in ps]\n    if not grads:\n        return 0\n    td.all_reduce(x)", "return 0"),
        ("CLIP507", f(f"B\nclip_grad_norm_(ps, 1.0)\nlog(f'gradient {{{TOTAL}}}')\nS"), f"log(f'gradient {{{TOTAL}}}')"),
        ("CLIP507", f"B\nclip_grad_norm_(ps, 1.0)\nlog('gradient', {TOTAL})\nS", f"log('gradient', {TOTAL})"),
        ("CLIP507", f(f"B\nclip_grad_norm_(ps, 1.0)\nlog('gradient', {TOTAL})\nS"), f"log('gradient', {TOTAL})"),
        *(("CLIP202", f"clip_grad_norm_([{part}], 1.0)", f"clip_grad_norm_([{part}], 1.0)") for part in (
            *("m.parameters()", "list(m.parameters())", "tuple(m.parameters())", "iter(m.parameters())", "filter(None, m.parameters())"),
            "list(filter(None, m.parameters()))",
        )),
    ],
)  # fmt: skip
def test_found(code: str, body: str, line: str) -> None:
    assert found(body, code) == [line]


@pytest.mark.parametrize(
    ("body", "advice"),
    [
        ("clip_grad_norm_(torch.autograd.grad(loss, ps), 1.0)", "scale them by `max_norm / get_total_norm(grads)`"),
        ("clip_grad_norm_(model.state_dict().values(), 1.0)", "pass the parameters themselves"),
        ("def g(ps):\n    clip_grad_norm_(ps, 1.0)\n\ng(torch.autograd.grad(loss, qs))", "scale them by `max_norm / get_total_norm(grads)`"),
        ("def g(ps):\n    clip_grad_norm_(ps, 1.0)\n\ng([p.grad for p in qs])", "pass the parameters themselves"),
    ],
)  # fmt: skip
def test_what_to_do_with_gradients_that_are_no_parameters(body: str, advice: str) -> None:
    (finding,) = findings(body, "CLIP106")
    assert finding.help.startswith(advice)


def test_a_list_in_a_loop_is_a_group_as_well() -> None:
    for made in ("list", "tuple"):
        body = f"for m in models:\n    ps = {made}(m.parameters())\n    clip_grad_norm_(ps, 1.0)"
        assert found(body, "CLIP111") == ["clip_grad_norm_(ps, 1.0)"]
    assert found("for p in model.parameters():\n    model.clip_grad_norm_(p)", "CLIP110") == []


def test_a_function_that_is_called_a_norm_says_so() -> None:
    body = f"B\nclip_grad_norm_(ps, 1.0)\nreturn {TOTAL}"
    assert found(f(body, "def grad_norm(ps, loss):"), "CLIP507") == [f"return {TOTAL}"]
    assert found(f(body, "def train(ps, loss):"), "CLIP507") == []
