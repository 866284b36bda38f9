"""What decides whether a rule finds something, one condition after the other. Silent cases first.

The programs are written in the short names of `abbreviated`, below a head that imports torch; a finding is given by the
code of its line.
"""

from __future__ import annotations

import pytest
from abbreviated import written

from clipcheck.engine.file import check_file
from clipcheck.rule import Finding, Safety
from clipcheck.settings.keys import Settings

HEAD = """\
import math
import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import clip_grad_norm_, clip_grad_value_, clip_grads_with_norm_, get_total_norm

"""


def findings(body: str, code: str) -> tuple[Finding, ...]:
    settings = Settings(codes=frozenset({code}), safety=Safety.UNSAFE, prefilter=False)
    report = check_file("x.py", (HEAD + written(body) + "\n").encode(), settings)
    assert report.errors == ()
    return report.findings


def found(body: str, code: str) -> list[str]:
    lines = (HEAD + written(body)).split("\n")
    return [lines[finding.place.line - 1].strip() for finding in findings(body, code)]


def f(body: str, head: str = "def f(ps, model, loss, optimizer, scaler, log):") -> str:
    return head + "\n" + "\n".join(f"    {line}" for line in body.split("\n"))


def loop(body: str) -> str:
    return f("for i, x in enumerate(xs):\n" + "\n".join(f"    {line}" for line in body.split("\n")))


SQUARES = "norm = 0.0\nfor p in ps:\n    norm += p.grad.norm().item() ** 2\n"
NORMS = "norm = 0.0\nfor p in ps:\n    norm += p.grad.norm().item()\n"
TOTAL = "sum(p.grad.norm() ** 2 for p in ps) ** 0.5"
LOCAL = "sum(p.grad.to_local().norm() ** 2 for p in ps) ** 0.5"
READ = "total = 0.0\nfor p in ps:\n    total += p.grad.norm().item() ** 2\n"

SILENT: dict[str, list[str]] = {
    "CLIP001": [
        # tests that check the gradients
        f(READ + "assert total > 0", "def test_f(ps):"),
        f(READ + "assert_close(total, 1.0)", "def test_f(ps):"),
        f(READ + "self.assertGreater(total, 0)", "def test_f(self, ps):"),
        "import pytest\n" + f(READ + "return total", "def test_f(ps):"),
        "import unittest.mock\n" + f(READ + "return total", "def test_f(ps):"),
        f("top = 0.0\nfor p in ps:\n    top = max(top, p.grad.abs().max().item())\nassert top > 0", "def test_f(ps):"),
        f("assert sum(p.grad.norm().item() ** 2 for p in ps) > 0", "def test_f(ps):"),
        f("x = sum(p.grad.norm().item() ** 2 for p in ps)\nassert x > 0", "def test_f(ps):"),
        f("assert max(p.grad.abs().max().item() for p in ps) > 0", "def test_f(ps):"),
        # norms that only assertions read
        f("assert sum(p.grad.norm().item() ** 2 for p in ps) > 0"),
        f("self.assertLess(sum(p.grad.norm().item() ** 2 for p in ps) ** 0.5, 1)"),
        f("n = sum(p.grad.norm().item() ** 2 for p in ps) ** 0.5\nassert n > 0\nassert n < 9"),
        # one vector that has another use
        f("flat = torch.cat([p.grad.cpu().view(-1) for p in ps])\nlog(flat)\nlog(flat.norm())"),
        f("norms = []\nfor p in ps:\n    norms.append(p.grad.norm().item())\nlog(norms)"),
        # in a test, numbers other than the norm
        f("log(sum(p.grad.norm().item() ** 2 for p in ps))\nassert ps", "def test_f(ps):"),
        f("log(max(p.grad.abs().max().item() for p in ps))\nassert ps", "def test_f(ps):"),
        f("log((torch.cat([p.grad.cpu().view(-1) for p in ps]) ** 2).mean())\nassert ps", "def test_f(ps):"),
        # sums of norms
        f(NORMS),
        f("log(sum(p.grad.norm().item() for p in ps))"),
        f("for p in ps:\n    log(p.grad.norm().item() ** 2)"),
        f(READ.replace(".item()", "")),
    ],
    "CLIP004": [
        f(NORMS + "norm = norm / 2"),
        f(NORMS + "norm /= 2"),
        f(NORMS + "assert norm"),
        f(NORMS.replace("norm +=", "norm -=")),
        f("top_norm = 0.0\nfor p in ps:\n    top_norm = max(top_norm, p.grad.abs().max())"),
        f("norms = []\nfor p in ps:\n    norms.append(p.grad.norm())"),
        f("norm = torch.stack([p.grad.norm() for p in ps]).sum()"),
        f("log(norm=sum(p.grad.norm() for p in ps))"),
        f("size = sum(p.grad.norm() for p in ps)"),
        *(f(f"{word}_norm = sum(p.grad.norm() for p in ps)") for word in ("mean", "avg", "average", "sum", "sums")),
    ],
    "CLIP005": [
        f(READ.replace(".item()", "").replace(".norm()", ".to_local().norm()")),
        f(READ.replace(".item()", "") + "log(total / 2)"),
        f(READ.replace(".item()", "") + "dist.all_reduce(total)"),
        f("total = sum(p.grad.norm() ** 2 for p in ps)\ndist.all_reduce(total)"),
        f("total = sum(p.grad.norm() ** 2 for p in ps)\nlog(total / 2)"),
        f("log(1 / sum(p.grad.norm() ** 2 for p in ps))"),
        f(f"log({LOCAL})"),
        f("log(sum(p.grad.norm().item() ** 2 for p in ps) ** 0.5)"),
        f("log(max(p.grad.abs().max() for p in ps))"),
        f("log((torch.cat([p.grad.flatten() for p in ps]) ** 2).mean())"),
        f("log(torch.stack(torch._foreach_norm([p.grad for p in ps])).norm())"),
        f("gs = torch.autograd.grad(loss, ps, create_graph=True)\ntotal = 0.0\nfor g in gs:\n    total += g.norm() ** 2"),
        "class A(torch.optim.Optimizer):\n    def step(self):\n        total = 0.0\n        for p in self.ps:\n            total += p.grad.norm() ** 2",
        f("norms = []\nfor p in ps:\n    norms.append(p.grad.norm() ** 2)"),
    ],
    "CLIP006": [
        f(NORMS + "return norm ** 1 / 2"),
        f(SQUARES + "return (norm ** 1) / 2"),
        f(SQUARES + "return norm ** 1 * 2"),
        f(SQUARES + "return norm ** 2 / 2"),
        f(SQUARES + "return norm ** k / 2"),
        f(SQUARES + "return other ** 1 / 2"),
        # not said to be a norm, or not the one
        f(SQUARES.replace("norm", "total").replace(".total(", ".norm(") + "log(total)"),
        f("for p in ps:\n    norm += p.grad.norm() ** 2\nlog(norm)"),
        f("self.norm = 0.0\nfor p in ps:\n    self.norm += p.grad.norm() ** 2\nlog(self.norm)"),
        f(SQUARES + "dist.all_reduce(norm)\nlog(norm)"),
        f(SQUARES + "log(math.sqrt(norm))\nlog(norm)"),
        f(SQUARES + "x += norm\nlog(norm)"),
        f(SQUARES + "log(norm * 2)"),
        f(SQUARES + "log(norm > 2)\nlog(norm)"),
        f(SQUARES + "abs(norm)"),
        f(SQUARES + "norm = norm\nreturn norm"),
        f(SQUARES + "norm = norm\nlog(1)", "def grad_norm(ps):"),
        f(SQUARES + "total = norm\nreturn total", "def grad_norm(ps):"),
        f(SQUARES + "return norm", "def squares(ps):"),
        f(NORMS + "log(norm)"),
        f("norm = []\nfor p in ps:\n    norm.append(p.grad.norm() ** 2)\nlog(norm)"),
        f("norm = 0.0\nfor p in ps:\n    norm += p.grad.norm(3) ** 1\nlog(norm)"),
        f("norm = 0.0\nfor p in ps:\n    norm += p.grad.norm(3) ** k"),
        f("norm = 0.0\nfor p in ps:\n    norm = max(norm, p.grad.norm() ** 2)\nlog(norm)"),
        f(SQUARES + "xs = [norm]"),
        SQUARES + "norm = norm",
        f("norm = 0.0\nfor p in ps:\n    norm += p.grad.norm(k) ** 2\nlog(norm ** 0.5)"),
    ],
    "CLIP010": [
        f("for p in ps:\n    log(abs(p.grad.norm().item()) ** 2)"),
        f("for p in ps:\n    log(p.grad.norm().item().real ** 2)"),
        f("for p in ps:\n    log(p.grad.norm().item() * p.grad.norm().item())"),
        f("for p in ps:\n    log(p.grad.norm().item() > 1)"),
        f("for p in ps:\n    assert p.grad.norm().item()"),
        f("for p in ps:\n    log(p.grad.pow(2).sum().item())"),
        f("for p in ps:\n    n = p.grad.norm().item()\n    log(n + 1)"),
        f("for p in ps:\n    g = lambda: p.grad.norm().item()"),
        f("for p in ps:\n    log(q.grad.norm().item())"),
        f("log([q.grad.norm().item() for p in ps])"),
    ],
    "CLIP101": [
        f("for x in xs:\n    S\n    C"),
        f("for x in xs:\n    Z\n    B\n    S\n    clip_grad_norm_(model.parameters(), math.inf)"),
        f("for x in xs:\n    Z\n    B\n    a.step()\n    b.step()\n    C"),
        f("for x in xs:\n    Z\n    B\n    for y in x:\n        S\n    C\n    for y in x:\n        S"),
        "def run(a_net, b_net, loss, xs):\n    a = torch.optim.SGD(a_net.parameters())\n    for x in xs:\n        Z\n        B\n        a.step()\n        clip_grad_norm_(b_net.parameters(), 1.0)",
    ],
    "CLIP102": [
        loop("Z\nS\nC\nB"),
        loop("Z\nC\noptimizer.step(lambda: loss.backward())"),
    ],
    "CLIP104": [
        loop("B\nZ"),
        loop("Z\nB\nZ\nB\nS"),
        loop("prepare(optimizer)\nZ\nS"),
        loop("Z\nS"),
    ],
    "CLIP108": [
        loop("B\nC\nif i % 4 == 0:\n    other.step()\n    Z\nS"),
        f("per_sample = 1\nfor i, x in enumerate(xs):\n    B\n    C\n    if i % 4 == 0:\n        S\n        Z"),
        f("for i, x in enumerate(xs):\n    B\n    clip_grad_norm_(p.grad_sample, 1.0)\n    if i % 4 == 0:\n        S\n        Z"),
        loop("with model.join():\n    B\n    C\nS"),
        "def run(a_net, b_net, loss, xs):\n    a = torch.optim.SGD(a_net.parameters())\n    for i, x in enumerate(xs):\n        B\n        clip_grad_norm_(b_net.parameters(), 1.0)\n        if i % 4 == 0:\n            a.step()\n            a.zero_grad()",
    ],
    "CLIP116": [
        loop("B\nif x:\n    C\n    optimizer.step()\nelse:\n    step(optimizer)"),
        loop("if x:\n    B\n    C\n    a.step()\nelse:\n    B\n    b.step()"),
        loop("if x:\n    B\n    C\n    S\nelse:\n    S"),
        loop("if x:\n    B\n    C\n    B\nelse:\n    B\n    S"),
        loop("if max_norm > 0:\n    B\n    clip_grad_norm_(ps, max_norm)\n    S\nelse:\n    B\n    S"),
        loop("if self.do_clip_grad:\n    B\n    C\n    S\nelse:\n    B\n    S"),
        loop("if cfg.limit > 0:\n    B\n    clip_grad_norm_(ps, cfg.limit)\n    S\nelse:\n    B\n    S"),
        loop("if self.limit:\n    B\n    clip_grad_norm_(ps, limit)\n    S\nelse:\n    B\n    S"),
        loop("if not clipper.enabled:\n    B\n    S\nelse:\n    B\n    C\n    S"),
    ],
    "CLIP117": [
        "while True:\n    C",  # nothing steps
        # its own optimizer may step next
        *(
            "def run(m, n, loss, xs):\n    a = torch.optim.SGD(m.parameters())\n    b = torch.optim.SGD(n.parameters())\n    for x in xs:\n        a.zero_grad()\n        B\n        clip_grad_norm_(m.parameters(), 1.0)\n        a.step()\n        b.zero_grad()\n        B\n"
            f"        clip_grad_norm_(m.parameters(), 1.0)\n        if x:\n            {one}.step()\n        else:\n            {other}.step()"
            for one, other in ("ab", "ba")
        ),
        # only one optimizer, or which one is not known
        f("a = torch.optim.SGD(m.parameters())\nfor x in xs:\n    B\n    clip_grad_norm_(n.parameters(), 1.0)\n    a.step()"),
        f("a = torch.optim.SGD(m.parameters())\nb = make(n)\nfor x in xs:\n    B\n    clip_grad_norm_(n.parameters(), 1.0)\n    a.step()\n    B\n    b.step()"),
    ],
    "CLIP201": [
        "def g():\n    x: torch.Tensor\n    clip_grad_norm_(x, 0)",
        "def g():\n    x: torch.Tensor\n    clip_grad_norm_([x], 0)",
        "clip_grad_norm_(ps)",
        "if limit >= 0 and limit != 0:\n    clip_grad_norm_(ps, limit)",
        "if limit != -0.5:\n    clip_grad_norm_(ps, limit)",
    ],
    "CLIP202": [
        "clip_grad_norm_([], 1.0)",
        "clip_grad_norm_(torch.zeros(3), 1.0)",
    ],
    "CLIP203": ["clip_grad_norm_(ps, 1.0, norm_type='1e3')", "clip_grad_norm_(ps, 1.0, norm_type=None)"],
    "CLIP206": [
        "clip_grads_with_norm_(ps, 1.0)",
        "clip_grads_with_norm_(ps, 1.0, total_norm=norm.detach())",
        "n = get_total_norm(gs).item()\nn = g(n)\nclip_grads_with_norm_(ps, 1.0, n)",
        "for n in xs:\n    clip_grads_with_norm_(ps, 1.0, n)",
        "n = 1.0\nclip_grads_with_norm_(ps, 1.0, n)",
        "get_total_norm(ps.item())",
    ],
    "CLIP207": [
        "e = nn.Embedding(3, 4, max_norm=True)\nclip_grad_norm_(e.parameters(), 1.0)",
        "e = nn.Embedding(3, 4, True)\nclip_grad_norm_(e.parameters(), 1.0)",
        "e = nn.Embedding(3, 4, sparse=flag)\nclip_grad_norm_(e.parameters(), 1.0)",
        "e = nn.Embedding(3, 4, sparse=True)\nclip_grad_norm_(e, 1.0)",
        "e = nn.Embedding(3, 4, sparse=True)\nm = nn.Sequential(nn.Linear(2, 2))\nclip_grad_norm_(m.parameters(), 1.0)",
        "class A(nn.Module):\n    def __init__(self):\n        self.e = nn.Embedding(3, 4, sparse=True)\n    def g(self, other):\n        clip_grad_norm_(other.parameters(), 1.0)",
        "e = nn.Embedding(3, 4, sparse=True)\nclip_grad_norm_(make(e).parameters(), 1.0)",
        "class A:\n    def __init__(self):\n        self.e = nn.Embedding(3, 4, sparse=True)\n    def g(self):\n        clip_grad_norm_(self.parameters(), 1.0)",
        "class A(nn.Module):\n    def __init__(self):\n        self.e = nn.Embedding(3, 4, sparse=True)\nclass B(nn.Module):\n    def g(self):\n        clip_grad_norm_(self.parameters(), 1.0)",
    ],
    "CLIP303": [
        loop("SB\nU\nscaler.step(optimizer)\nUP"),
        loop("SB\nU\nother(scaler)\nU\nSS\nUP"),
        loop("SB\nU\nSS\nU\nUP"),
        loop("SB\nhelper.unscale_(optimizer)\nhelper.unscale_(optimizer)\nSS"),
    ],
    "CLIP304": [
        loop("SB\nU\nB\nclip_grad_norm_(ps, 1.0, error_if_nonfinite=True)\nSS"),
        loop("SB\nscaler.unscale_()\nclip_grad_norm_(ps, 1.0, error_if_nonfinite=True)\nSS"),
        loop("SB\nU\nSS\nclip_grad_norm_(ps, 1.0, error_if_nonfinite=True)\nUP"),
        loop("SB\nU\nprepare(optimizer)\nclip_grad_norm_(ps, 1.0, error_if_nonfinite=True)\nSS"),
        loop("SB\nU\nclip()\nSS\nUP") + "\n" + f("clip_grad_norm_(ps, 1.0, error_if_nonfinite=True)", "def clip():"),
        loop("SB\nU\nget_total_norm(ps, 2.0, True)\nSS"),
    ],
    "CLIP309": [
        loop("SB\nlog('grad_norm', get_total_norm([p.grad for p in ps]) / scaler.get_scale())\nSS"),
        "accelerator = Accelerator(mixed_precision='bf16')\n" + loop(f"accelerator.backward(loss)\nlog('grad_norm', {TOTAL})\nS"),
        "accelerator = Accelerator(fp16='fp16')\n" + loop(f"accelerator.backward(loss)\nlog('grad_norm', {TOTAL})\nS"),
        "accelerator = Other(mixed_precision='fp16')\n" + loop(f"accelerator.backward(loss)\nlog('grad_norm', {TOTAL})\nS"),
        "accelerator = Accelerator(mixed_precision='fp16')\n" + loop(f"fabric.backward(loss)\nlog('grad_norm', {TOTAL})\nS"),
    ],
    "CLIP408": [
        "import torch_xla.core.xla_model as xm\n" + loop("B\nC\nS"),
        "import torch_xla.core.xla_model as xm\n" + loop("B\nxm.reduce_gradients(optimizer)\nC\nxm.optimizer_step(optimizer)"),
        "import torch_xla.core.xla_model as xm\n" + loop("B\naccelerator.clip_grad_norm_(ps, 1.0)\nxm.optimizer_step(optimizer)"),
        "import torch_xla.core.xla_model as xm\n" + loop("B\nC\nif x:\n    xm.optimizer_step(optimizer)\nelse:\n    S"),
        loop("B\nC\nother.optimizer_step(optimizer)"),
    ],
    "CLIP409": [
        "import horovod.torch as hvd\n" + f("optimizer = torch.optim.SGD(ps)\nfor x in xs:\n    B\n    C\n    S"),
        "import horovod.torch as hvd\n" + f("optimizer = hvd.DistributedOptimizer(optimizer)\nfor x in xs:\n    B\n    optimizer.synchronize()\n    C\n    S"),
        "import horovod.torch as hvd\n" + f("optimizer = hvd.DistributedOptimizer(optimizer)\nwith optimizer.skip_synchronize():\n    pass\nfor x in xs:\n    B\n    C\n    S"),
        "import other as hvd\n" + f("optimizer = hvd.DistributedOptimizer(optimizer)\nfor x in xs:\n    B\n    C\n    S"),
        "import horovod.torch as hvd\n" + f("optimizer = hvd.DistributedOptimizer(optimizer)\nfor x in xs:\n    B\n    clip()\n    S") + "\n" + f("C", "def clip():"),
        "import horovod.torch as hvd\n" + f("self.optimizer = hvd.DistributedOptimizer(optimizer)\nfor x in xs:\n    B\n    C\n    self.optimizer.step()"),
        "import horovod.torch as hvd\n" + f("optimizer = hvd.Other(optimizer)\nfor x in xs:\n    B\n    C\n    S"),
        "import horovod.torch as hvd\n" + f("optimizer = hvd.DistributedOptimizer(optimizer)\noptimizer = wrap(optimizer)\nfor x in xs:\n    B\n    C\n    S"),
        "import horovod.torch as hvd\n" + f("optimizer = hvd.DistributedOptimizer(optimizer)\nfor x in xs:\n    B\n    C\n    B\n    S"),
    ],
    "CLIP412": [
        f("return sum(p.grad.norm() ** 2 for p in ps) ** 0.5"),
        f(f"return {LOCAL.removesuffix(' ** 0.5')}"),
        f("norms = []\nfor p in ps:\n    norms.append(p.grad.to_local().norm())\nreturn norms"),
        f(f"total = {LOCAL}\ndist.all_reduce(total)\nreturn total"),
        f(f"return {LOCAL}", "def total(ps):") + "\n" + f("x = total(ps)\ndist.all_reduce(x)", "def g(ps):"),
        *(f(f"{word}_norm = {LOCAL}\nreturn {word}_norm") for word in ("local", "rank", "shard", "per", "own", "device", "my_partial")),
        f(f"return {LOCAL}", "def local_norm(ps):"),
        f(f"log('norm of this rank', {LOCAL})"),
        f(f"log({{'norm/shard': {LOCAL}}})"),
        f(f"log(f'local: {{1}}', {LOCAL})"),
        f(f"total = {LOCAL}"),
        f(LOCAL),
    ],
    "CLIP501": [
        "grad_norm = clip_grad_norm_(ps, 1.0)",
        "unclipped_norm = clip_grad_norm_(ps, 1.0)",
        *(f"{word}_clipped = clip_grad_norm_(ps, 1.0)" for word in "before pre un unclipped preclip is was num n frac ratio count not".split()),
        "after = clip_grad_norm_(ps, 1.0)",
        "post_loss = clip_grad_norm_(ps, 1.0)",
        "clipped_norm = clip_grad_value_(ps, 1.0)",
        "clipped_norm = torch.clip_grad_norm_(ps, 1.0)",
        "clipped_norm = clip_grad_norm_(ps, math.inf)",
        "clip_grad_norm_(ps, 1.0)\nclipped_norm = clip_grad_norm_(ps, 2.0)",
        "clipped_norm = g(clip_grad_norm_(ps, 1.0))",
        "clipped_norm = clip_grad_norm_(ps, 1.0).sqrt()",
        "a = clipped_norm = clip_grad_norm_(ps, 1.0)",
        # names under which it is logged
        "norm = clip_grad_norm_(ps, 1.0)\nlog({'grad_norm': norm})",
        "norm = clip_grad_norm_(ps, 1.0)\nlog({norm: 'clipped'})",
        "norm = clip_grad_norm_(ps, 1.0)\nlog({'clipped_norm': g(norm, 1)})",
        "norm = clip_grad_norm_(ps, 1.0)\nlog({'clipped_norm': norm + 1})",
        "norm = clip_grad_norm_(ps, 1.0)\nstats['grad_norm'] = norm",
        "norm = clip_grad_norm_(ps, 1.0)\nstats['clipped_norm'] = norm + 1",
        "norm = clip_grad_norm_(ps, 1.0)\nstats[clipped_norm] = norm",
        "norm = clip_grad_norm_(ps, 1.0)\nself.log('grad_norm', norm)",
        "norm = clip_grad_norm_(ps, 1.0)\nself.show('clipped_norm', norm)",
        "norm = clip_grad_norm_(ps, 1.0)\nself.log('clipped_norm', 1, norm)",
        "norm = clip_grad_norm_(ps, 1.0)\nlog('clipped_norm', norm)",
        "norm = clip_grad_norm_(ps, 1.0)\nself.log(norm, 'clipped_norm')",
        "norm = clip_grad_norm_(ps, 1.0)\nself.log('clipped_norm', value=norm)",
        "if x:\n    norm = clip_grad_norm_(ps, 1.0)\nelse:\n    norm = g()\nself.log('clipped_norm', norm)",
        "self.log('clipped_norm', norm)\nnorm = clip_grad_norm_(ps, 1.0)",
        # assertions
        "norm = clip_grad_norm_(ps, 1.0)\nfor norm in xs:\n    self.log('clipped_norm', norm)",
        "norm = clip_grad_norm_(ps, 1.0)\nnorm += 1\nself.log('clipped_norm', norm)",
        "norm = clip_grad_norm_(ps, 1.0)\nassert norm < 2.0",
        "norm = clip_grad_norm_(ps, 1.0)\nassert g(x) <= 1.0 + norm",
        "norm = clip_grad_norm_(ps, 1.0)\nassert norm > 1.0",
        "norm = clip_grad_norm_(ps, 1.0)\nassert 1.0 < norm",
        "norm = clip_grad_norm_(ps, 1.0)\nassert norm.x < 1.0",
        "norm = clip_grad_norm_(ps)\nassert norm <= 1.0",
    ],
    "CLIP507": [
        f(f"B\nmine.clip_grad_norm_(ps, 1.0)\nlog('grad_norm', {TOTAL})\nS"),
        f(f"B\nif x:\n    n = clip_grad_norm_(ps, 1.0)\nelse:\n    clip_grad_norm_(ps, 1.0)\nlog('grad_norm', {TOTAL})\nS"),
        f(f"B\nclip_grad_norm_(ps, 1.0)\n# after the clip\nlog('grad_norm', {TOTAL})\nS"),
    ],
    "CLIP502": [
        "loss, norm = clip_grad_norm_(ps, 1.0)",
        "a = loss = clip_grad_norm_(ps, 1.0)",
        "loss_x = clip_grad_norm_(ps, 1.0)",
        "grad = clip_grad_norm_(ps, 1.0)",
        "self.data_norm = clip_grad_norm_(ps, 1.0)",
    ],
    "CLIP505": [
        "x = 1\nclip_grad_norm_(ps, 1.0)",
        "clip_grad_norm_(ps, 1.0)\nx = 1\nclip_grad_norm_(ps, 1.0)",
        "clip_grad_norm_(max_norm=1.0)\nclip_grad_norm_(max_norm=1.0)",
        "clip_grad_norm_(ps, 1.0)\nclip_grad_norm_(ps)",
        "clip_grad_norm_(ps, 1.0)\nclip_grad_norm_(ps, limit)",
        "clip_grad_norm_(ps, limit)\nclip_grad_norm_(ps, 1.0)",
        "clip_grad_norm_(ps, 1.0)\nprint(clip_grad_norm_(ps, 1.0))",
        "if x: clip_grad_norm_(ps, 1.0)\nclip_grad_norm_(ps, 1.0)",
        "clip_grad_norm_(ps)\nclip_grad_norm_(ps, 1.0)",
        "clip_grad_norm_(ps, 1.0, 1)\nclip_grad_norm_(ps, 1.0)",
        "clip_grad_norm_(ps, 2.0)\nclip_grad_norm_(ps, 1.0)",
        "clip_grad_norm_(ps, 1.0)\nclip_grad_norm_(qs, 1.0)",
        "clip_grad_norm_(ps, 1.0)\nclip_grad_norm_(ps, math.inf)",
        "clip_grad_norm_(ps, 1.0)\nclip_grad_value_(ps, 1.0)",
    ],
}  # fmt: skip


@pytest.mark.parametrize(("code", "body"), [(code, body) for code, bodies in SILENT.items() for body in bodies])
def test_silent(code: str, body: str) -> None:
    assert found(body, code) == []


FOUND: dict[str, list[tuple[str, list[str]]]] = {
    "CLIP001": [
        (f(READ + "assert total ** 0.5 > 0", "def test_f(ps):"), ["total += p.grad.norm().item() ** 2"]),
        (f(READ + "return total", "def test_f(ps):"), ["total += p.grad.norm().item() ** 2"]),
        (f("for p in ps:\n    a = p\n    b = a\n    c = b\n    d = c\n    total += d.grad.norm().item() ** 2"), ["total += d.grad.norm().item() ** 2"]),
        (f(READ + "assert total > 0"), ["total += p.grad.norm().item() ** 2"]),
        ("import pytest\n" + f(READ), ["total += p.grad.norm().item() ** 2"]),
        ("import testing\n" + f(READ + "log(total)", "def test_f(ps):"), ["total += p.grad.norm().item() ** 2"]),
        (f("log(sum(p.grad.norm().item() ** 2 for p in ps))"), ["log(sum(p.grad.norm().item() ** 2 for p in ps))"]),
        ("import pytest\n" + f("log(sum(p.grad.norm().item() ** 2 for p in ps) ** 0.5)", "def test_f(ps):"), ["log(sum(p.grad.norm().item() ** 2 for p in ps) ** 0.5)"]),
        (f("n = sum(p.grad.norm().item() ** 2 for p in ps)\nassert n > 0\nlog(n)"), ["n = sum(p.grad.norm().item() ** 2 for p in ps)"]),
        (f("n = sum(p.grad.norm().item() ** 2 for p in ps)"), ["n = sum(p.grad.norm().item() ** 2 for p in ps)"]),
        (f("top = 0.0\nfor p in ps:\n    top = max(top, p.grad.abs().max().item())"), ["top = max(top, p.grad.abs().max().item())"]),
        (f("norms = []\nfor p in ps:\n    norms.append(p.grad.norm().item() ** 2)\nlog(sum(norms))"), ["norms.append(p.grad.norm().item() ** 2)"]),
        (f("norms = []\nfor p in ps:\n    norms.append(p.grad.norm().item() ** 2)\nlog(norms)"), ["norms.append(p.grad.norm().item() ** 2)"]),
        (f("log((torch.cat([p.grad.cpu().view(-1) for p in ps]) ** 2).mean())"), ["log((torch.cat([p.grad.cpu().view(-1) for p in ps]) ** 2).mean())"]),
        (f("norms = [p.grad.norm().item() for p in ps]\nlog(norms)\nlog(sum(n ** 2 for n in norms) ** 0.5)"), ["log(sum(n ** 2 for n in norms) ** 0.5)"]),
        (f("flat = torch.cat([p.grad.cpu().view(-1) for p in ps])\nlog(flat.norm())"), ["flat = torch.cat([p.grad.cpu().view(-1) for p in ps])"]),
    ],
    "CLIP004": [
        (f(NORMS), ["norm += p.grad.norm().item()"]),
        (f(NORMS + "log(norm * 2)"), ["norm += p.grad.norm().item()"]),
        (f(NORMS + "norm *= 2"), ["norm += p.grad.norm().item()"]),
        (f(NORMS + "log(2 / norm)"), ["norm += p.grad.norm().item()"]),
        (f(NORMS + "log(other / 2)\nother /= 2"), ["norm += p.grad.norm().item()"]),
        (f("self.norm = 0.0\nfor p in ps:\n    self.norm += p.grad.norm()\nassert self.norm"), ["self.norm += p.grad.norm()"]),
        (f("norm = functools.reduce(lambda t, p: t + p.grad.norm(), ps, 0)").replace("def f", "import functools\ndef f"), ["norm = functools.reduce(lambda t, p: t + p.grad.norm(), ps, 0)"]),
    ],
    "CLIP005": [
        (f("total = sum(p.grad.norm() ** 2 for p in ps)\nlog(total)"), ["total = sum(p.grad.norm() ** 2 for p in ps)"]),
        (f("log(sum(p.grad.norm() ** 2 for p in ps))"), ["log(sum(p.grad.norm() ** 2 for p in ps))"]),
        (f("self.total = sum(p.grad.norm() ** 2 for p in ps)\nlog(self.total / 2)"), ["self.total = sum(p.grad.norm() ** 2 for p in ps)"]),
        (f("self.total = 0.0\nfor p in ps:\n    self.total += p.grad.norm() ** 2\nlog(self.total / 2)"), ["self.total += p.grad.norm() ** 2"]),
        (f(READ.replace(".item()", "") + "log(total ** 0.5)\nlog(total / 2)"), ["total += p.grad.norm() ** 2"]),
        (f("total = 0.0\nfor p in ps:\n    total += p.grad.norm() ** 2\n    log(total / 2)"), ["total += p.grad.norm() ** 2"]),
        (f(f"a = sum(p.grad.norm() ** 2 for p in ps)\ndist.all_reduce(a)\nlog({TOTAL})"), [f"log({TOTAL})"]),
        (f("log(sum(p.grad.norm(3) ** 2 for p in ps) / 2)"), ["log(sum(p.grad.norm(3) ** 2 for p in ps) / 2)"]),
    ],
    "CLIP006": [
        (f(SQUARES + "return norm ** 1 / 2"), ["return norm ** 1 / 2"]),
        (f("return sum(p.grad.norm() ** 2 for p in ps) ** 1 / 2"), ["return sum(p.grad.norm() ** 2 for p in ps) ** 1 / 2"]),
        (f(SQUARES + "x = f'{norm}'"), ["x = f'{norm}'"]),
        (f(SQUARES + "total = norm\nreturn norm", "def grad_norm(ps):"), ["return norm"]),
        (f("norm = 0.0\nlog(norm)\nfor p in ps:\n    norm += p.grad.norm() ** 2\nreturn norm", "def grad_norm(ps):"), ["return norm"]),
        (f(SQUARES + "x = {'a': norm}"), ["x = {'a': norm}"]),
        (f(SQUARES + "norm = norm\nreturn norm", "def grad_norm(ps):"), ["norm = norm"]),
        (f(SQUARES + "if ps:\n    return norm\nlog(norm)", "def grad_norm(ps):"), ["return norm"]),
        (f("norm = 0.0\nfor p in ps:\n    norm += p.grad.norm(3) ** 2"), ["norm += p.grad.norm(3) ** 2"]),
    ],
    "CLIP010": [
        (f("for p in ps:\n    log(float(p.grad.norm().item()))"), ["log(float(p.grad.norm().item()))"]),
        (f("log([p.grad.norm().item() for g in gs for p in g])"), ["log([p.grad.norm().item() for g in gs for p in g])"]),
        (f("for p in ps:\n    n = p.grad.norm().item()\n    log(n + 1)\n    log(n)"), ["n = p.grad.norm().item()"]),
        (f("for p in ps:\n    n = p.grad.norm().item()\n    log(n)"), ["n = p.grad.norm().item()"]),
        (f("for p in ps:\n    n = p.grad.norm().item()\n    log(float(n))\n    log(n)"), ["n = p.grad.norm().item()"]),
        (f("for p in ps:\n    self.n = p.grad.norm().item()"), ["self.n = p.grad.norm().item()"]),
        (f("for n, p in named:\n    log(n, p.grad.norm().item())"), ["log(n, p.grad.norm().item())"]),
        (f("log(p.grad.norm().item() for p in ps)"), ["log(p.grad.norm().item() for p in ps)"]),
    ],
    "CLIP108": [
        (loop("with model.no_sync():\n    B\n    C"), ["clip_grad_norm_(model.parameters(), 1.0)"]),
        (loop("with a, accelerator.accumulate(model):\n    B\n    C\n    S\n    Z"), ["clip_grad_norm_(model.parameters(), 1.0)"]),
    ],
    "CLIP101": [(loop("B\nS\nC\nB"), ["clip_grad_norm_(model.parameters(), 1.0)"])],
    "CLIP116": [
        (loop("if x:\n    B\n    C\n    S\nelse:\n    B\n    U\n    S"), ["clip_grad_norm_(model.parameters(), 1.0)"]),
        (f("if x:\n    B\n    C\n    S\nelse:\n    if y:\n        B\n    S"), ["clip_grad_norm_(model.parameters(), 1.0)"]),
        # another setting than the limit, of the same object
        (loop("if cfg.amp:\n    B\n    S\nelse:\n    B\n    clip_grad_norm_(ps, cfg.limit)\n    S"), ["clip_grad_norm_(ps, cfg.limit)"]),
    ],
    "CLIP117": [
        (
            "def run(m, n, loss, xs):\n    a = torch.optim.SGD(m.parameters())\n    b = torch.optim.SGD(n.parameters())\n    for x in xs:\n        a.zero_grad()\n        B\n        clip_grad_norm_(m.parameters(), 1.0)\n        a.step()\n        b.zero_grad()\n        B\n        clip_grad_norm_(m.parameters(), 1.0)\n        b.step()",
            ["clip_grad_norm_(m.parameters(), 1.0)"],
        ),
    ],
    "CLIP201": [
        ("def g(x):\n    y: torch.Tensor\n    clip_grad_norm_(x, 0)", ["clip_grad_norm_(x, 0)"]),
        ("def g():\n    self.x: torch.Tensor\n    clip_grad_norm_(x, 0)", ["clip_grad_norm_(x, 0)"]),
        ("if limit > -0.25:\n    clip_grad_norm_(ps, limit)", ["clip_grad_norm_(ps, limit)"]),
    ],
    "CLIP203": [
        ("clip_grad_norm_(ps, 1.0, True)", ["clip_grad_norm_(ps, 1.0, True)"]),
        ("clip_grad_norm_(ps, 1.0, False)", ["clip_grad_norm_(ps, 1.0, False)"]),
        ("get_total_norm(gs, True)", ["get_total_norm(gs, True)"]),
        ("clip_grad_norm_(ps, 1.0, norm_type='l2')", ["clip_grad_norm_(ps, 1.0, norm_type='l2')"]),
        ("clip_grad_norm_(ps, 1.0, norm_type=True)", ["clip_grad_norm_(ps, 1.0, norm_type=True)"]),
    ],
    "CLIP206": [
        ("clip_grads_with_norm_(ps, 1.0, norm.item())", ["clip_grads_with_norm_(ps, 1.0, norm.item())"]),
        ("clip_grads_with_norm_(ps, 1.0, total_norm=float(norm))", ["clip_grads_with_norm_(ps, 1.0, total_norm=float(norm))"]),
        ("n = get_total_norm(gs).item()\nclip_grads_with_norm_(ps, 1.0, n)", ["clip_grads_with_norm_(ps, 1.0, n)"]),
        ("n = get_total_norm(gs).item()\nlog(n)\nclip_grads_with_norm_(ps, 1.0, n)", ["clip_grads_with_norm_(ps, 1.0, n)"]),
    ],
    "CLIP303": [
        (loop("SB\nU\nC\nU\nSS\nUP"), ["scaler.unscale_(optimizer)"]),
        (loop("SB\nself.scaler.unscale_(a)\nself.scaler.unscale_(a)\nself.scaler.step(a)"), ["self.scaler.unscale_(a)"]),
    ],
    "CLIP309": [
        (loop(f"SB\nlog('grad_norm', {TOTAL})\nSS"), [f"log('grad_norm', {TOTAL})"]),
        ("accelerator = Accelerator(mixed_precision=\"fp16\")\n" + loop(f"accelerator.backward(loss)\nlog('grad_norm', {TOTAL})\nS"), [f"log('grad_norm', {TOTAL})"]),
        (loop(f"if x:\n    SB\nelse:\n    B\nlog('grad_norm', {TOTAL})\nSS"), [f"log('grad_norm', {TOTAL})"]),
    ],
    "CLIP408": [
        ("import torch_xla.core.xla_model as xm\n" + loop("B\nC\nxm.optimizer_step(optimizer)"), ["clip_grad_norm_(model.parameters(), 1.0)"]),
        ("import torch_xla.core.xla_model as xm\n" + loop("B\nC\nif x:\n    xm.optimizer_step(optimizer)\nelse:\n    xm.optimizer_step(optimizer, True)"), ["clip_grad_norm_(model.parameters(), 1.0)"]),
    ],
    "CLIP409": [
        ("import horovod.torch as hvd\n" + f("optimizer = hvd.DistributedOptimizer(optimizer)\nfor x in xs:\n    B\n    C\n    S"), ["clip_grad_norm_(model.parameters(), 1.0)"]),
        ("from horovod.torch import DistributedOptimizer\n" + f("optimizer = wrap(optimizer)\noptimizer = DistributedOptimizer(optimizer)\nfor x in xs:\n    B\n    C\n    S"), ["clip_grad_norm_(model.parameters(), 1.0)"]),
    ],
    "CLIP412": [
        (f(f"return {LOCAL}"), [f"return {LOCAL}"]),
        (f(f"total = {LOCAL}\nlog(1)\nreturn total"), ["return total"]),
        (f(f"total = {LOCAL}\nif total > 1:\n    pass"), ["if total > 1:"]),
        (f(f"total = {LOCAL}\nx = f'{{total}}'"), ["x = f'{total}'"]),
        (f(f"total = {LOCAL}\nx = {{'a': total}}"), ["x = {'a': total}"]),
        (f(f"total = {LOCAL}\nx = total * 2"), ["x = total * 2"]),
        (f("total = 0.0\nfor p in ps:\n    total += p.grad.to_local().norm() ** 2\nreturn total ** 0.5"), ["return total ** 0.5"]),
        (f("top = 0.0\nfor p in ps:\n    top = max(top, p.grad.to_local().abs().max())\nreturn top"), ["return top"]),
        (f(f"return {LOCAL}", "def total(ps):") + "\n" + f("dist.all_reduce(x)", "def g(x):"), [f"return {LOCAL}"]),
    ],
    "CLIP501": [
        *((f"{name} = clip_grad_norm_(ps, 1.0)", [f"{name} = clip_grad_norm_(ps, 1.0)"]) for name in (
            *("clipped_norm", "self.clipped_norm", "norm_postclip", "afterclip_norm", "norm_after", "grad_after", "post_gradient"),
            *("gnorm_after", "after_clip", "post_clipping"),
        )),
        *((f"clipped_norm = {code}", [f"clipped_norm = {code}"]) for code in (
            *(f"clip_grad_norm_(ps, 1.0).{method}()" for method in ("item", "detach", "cpu", "clone", "float", "to")),
            *("float(clip_grad_norm_(ps, 1.0))", "model.clip_grad_norm_(ps, 1.0)"),
        )),
        ("clipped_norm: float = clip_grad_norm_(ps, 1.0)", ["clipped_norm: float = clip_grad_norm_(ps, 1.0)"]),
        ("clip_grad_norm_(qs, 1.0)\nclipped_norm = clip_grad_norm_(ps, 1.0)", ["clipped_norm = clip_grad_norm_(ps, 1.0)"]),
        ("clipped_norm = clip_grad_norm_(ps, 1.0)\nnorm = clip_grad_norm_(ps, 1.0)", ["clipped_norm = clip_grad_norm_(ps, 1.0)"]),
        ("clip_grad_norm_(ps, math.inf)\nclipped_norm = clip_grad_norm_(ps, 1.0)", ["clipped_norm = clip_grad_norm_(ps, 1.0)"]),
        (f("clip_grad_norm_(ps, 1.0)") + "\nclipped_norm = clip_grad_norm_(ps, 1.0)", ["clipped_norm = clip_grad_norm_(ps, 1.0)"]),
        ("log({'clipped_norm': clip_grad_norm_(ps, 1.0)})", ["log({'clipped_norm': clip_grad_norm_(ps, 1.0)})"]),
        ("stats['clipped_norm'] = clip_grad_norm_(ps, 1.0)", ["stats['clipped_norm'] = clip_grad_norm_(ps, 1.0)"]),
        *((f"norm = clip_grad_norm_(ps, 1.0)\n{use}", [use]) for use in (
            "log({'clipped_norm': norm})",
            "log({'clipped_norm': norm.item()})",
            "log({'clipped_norm': norm.detach().cpu()})",
            "log({'clipped_norm': float(norm)})",
            "stats['clipped_norm'] = norm",
            "stats['clipped_norm'] = norm.item()",
            *(f"self.{method}('clipped_norm', norm)" for method in ("log", "add_scalar", "log_metric", "scalar", "record")),
            "self.log('clipped_norm', float(norm), 3)",
            "assert norm < 1.0",
            "assert norm <= 1.0",
            "assert norm.item() <= 1.0 + 1e-6",
        )),
        ("if x:\n    norm = clip_grad_norm_(ps, 1.0)\nself.log('clipped_norm', norm)", ["self.log('clipped_norm', norm)"]),
    ],
    "CLIP505": [
        *((f"{first}\n{second}", [second]) for first, second in (
            ("clip_grad_norm_(ps, 1.0)", "clip_grad_norm_(ps, max_norm=1.5)"),
            ("clip_grad_norm_(ps, 1.0, 2.0)", "clip_grad_norm_(ps, 2.0)"),
            ("clip_grad_value_(ps, limit)", "clip_grad_value_( ps, limit )"),
        )),
    ],
    "CLIP506": [
        (loop(f"Z\nlog({TOTAL})\nB\nS\nfor p in ps:\n    p.grad = None"), [f"log({TOTAL})"]),
    ],
    "CLIP507": [
        *((f(f"B\n{clip}\n{log}\nS"), [log.split("\n")[-1]]) for clip, log in (
            ("# after the clip\nx = 1\nclip_grad_norm_(ps, 1.0)", f"log('grad_norm', {TOTAL})"),
            ("if x:\n    clip_grad_norm_(ps, 1.0)\nelse:\n    U", f"log('grad_norm', {TOTAL})"),
            ("clip_grad_norm_(ps, 1.0)", f"x = f'grad norm: {{{TOTAL}}}'"),
            ("clip_grad_norm_(ps, 1.0)", f"log(f'gradient {{x}}', {TOTAL})"),
            ("clip_grad_norm_(ps, 1.0)", f"log('grad' 'ient', {TOTAL})"),
        )),
        (f("B\nclip_grad_norm_(ps, 1.0)\ngrad_norm = 0.0\nfor p in ps:\n    grad_norm += p.grad.norm() ** 2\nlog(grad_norm ** 0.5)"), ["for p in ps:"]),
    ],
    "CLIP502": [
        ("p.data = clip_grad_norm_(ps, 1.0)", ["p.data = clip_grad_norm_(ps, 1.0)"]),
        ("my_loss = clip_grad_norm_(ps, 1.0)", ["my_loss = clip_grad_norm_(ps, 1.0)"]),
    ],
}  # fmt: skip


@pytest.mark.parametrize(("code", "body", "lines"), [(code, *case) for code, cases in FOUND.items() for case in cases])
def test_found(code: str, body: str, lines: list[str]) -> None:
    assert found(body, code) == lines
