"""CLIP413 and CLIP414 on short programs, and what two ranks over gloo do with the examples of both."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from conftest import PROJECT

from clipcheck.engine.file import check_file
from clipcheck.engine.results import FileReport
from clipcheck.rule import Safety
from clipcheck.settings.keys import Settings

HEAD = "import torch\nimport torch.distributed as dist\nfrom torch.nn.utils import clip_grad_norm_\n"
HELPER = "def average(m):\n    for p in m.parameters():\n        dist.all_reduce(p.grad)\n        p.grad /= 2\n"
FLAT = "def average(ps):\n    flat = torch.cat([p.grad.view(-1) for p in ps])\n    dist.all_reduce(flat)\n"
REDUCE = "for p in net.parameters():\n    dist.all_reduce(p.grad)"
CLIP = "clip_grad_norm_(net.parameters(), 1.0)"


def check(code: str, text: str, fix: bool = False) -> FileReport:
    settings = Settings(codes=frozenset({code}), fix=fix, safety=Safety.UNSAFE)
    report = check_file("x.py", (HEAD + text).encode(), settings)
    assert report.errors == () and all(finding.help or finding.fix for finding in report.findings)
    return report


def step(body: str, helper: str = HELPER) -> str:
    body = body.replace("CLIP", CLIP).replace("REDUCE", REDUCE)
    return f"{helper}def f(net, head, opt, loss, many):\n" + textwrap.indent(body, "    ") + "\n"


# --- clips before the gradients of all ranks meet ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        "loss.backward()\nCLIP\nREDUCE\nopt.step()",
        "loss.backward()\nCLIP\naverage(net)\nopt.step()",
        "loss.backward()\nif many:\n    CLIP\naverage(net)\nopt.step()",
        "loss.backward()\nnorm = CLIP\nif many:\n    average(net)\nopt.step()\nreturn norm",
        "loss.backward()\nCLIP\n[dist.all_reduce(p.grad) for p in net.parameters()]\nopt.step()",
        "loss.backward()\nCLIP\naverage(net.module)\nopt.step()",
        "for x in loss:\n    x.backward()\n    CLIP\n    average(net)\n    opt.step()\n    opt.zero_grad()",
        "loss.backward()\nCLIP\naverage(net)",  # the caller steps
        "loss.backward()\nCLIP\ndist.all_reduce_coalesced([p.grad for p in net.parameters()])\nopt.step()",
        "loss.backward()\nCLIP\ngrads = [p.grad for p in net.parameters()]\ndist.all_reduce_coalesced(grads)\nopt.step()",
        # an inherited method, by its name
        "loss.backward()\nCLIP\nif many:\n    self.sync_gradients(net)\nopt.step()",
        "loss.backward()\nCLIP\nself.allreduce_grads(net.parameters())\nopt.step()",
    ],
)
def test_a_clip_of_one_ranks_gradients(body: str) -> None:
    (finding,) = check("CLIP413", step(body)).findings
    assert "each rank's own gradients" in finding.message


@pytest.mark.parametrize(
    "reduce",
    [
        "flat = torch.cat([p.grad.view(-1) for p in ps]).cpu()\n    dist.all_reduce(flat)",
        "flat = torch.cat([p.grad.view(-1) for p in ps]).to('cpu').numpy()\n    comm.Allreduce(flat, out)",
        "dist.all_reduce(torch.nn.utils.parameters_to_vector([p.grad for p in ps]))",
        "gs = []\n    for p in ps:\n        gs.append(p.grad.view(-1))\n    flat = torch.cat(gs)\n    dist.all_reduce(flat)",
    ],
)
def test_gradients_that_are_joined(reduce: str) -> None:
    body = "loss.backward()\nCLIP\naverage(list(net.parameters()))\nopt.step()"
    helper = f"def average(ps):\n    {reduce}\n"
    assert len(check("CLIP413", step(body, helper)).findings) == 1
    assert check("CLIP413", step(body, helper.replace(".grad", ".data"))).findings == ()


def test_a_method_of_an_object_whose_class_is_unknown() -> None:
    body = "loss.backward()\nCLIP\nnet.average()\nopt.step()"
    method = "class N:\n    def average(self):\n        for p in self.ps:\n            dist.all_reduce(p.grad)\n"
    assert len(check("CLIP413", step(body, method)).findings) == 1
    assert check("CLIP413", step(body, method + method.replace("N", "M"))).findings == ()
    assert check("CLIP413", step(body, method.replace("p.grad", "p.data"))).findings == ()
    assert check("CLIP413", step(body.replace("net.average()", "opt.step()\nnet.average()"), method)).findings == ()
    assert check("CLIP413", step(body, HELPER)).findings == ()  # a function, not a method


def test_gradients_in_one_piece() -> None:
    body = "loss.backward()\nCLIP\naverage(list(net.parameters()))\nopt.step()"
    assert len(check("CLIP413", step(body, FLAT)).findings) == 1
    assert check("CLIP413", step(body, FLAT.replace("p.grad.view(-1)", "p.view(-1)"))).findings == ()


@pytest.mark.parametrize(
    "body",
    [
        "loss.backward()\nself.sync_gradients(net)\nCLIP\nopt.step()",
        "loss.backward()\nCLIP\nopt.step()\nself.sync_gradients(net)",
        "loss.backward()\nCLIP\nself.sync_gradients()\nopt.step()",  # of what, is not said
        "loss.backward()\nCLIP\nself.log_gradients(net)\nopt.step()",
        "loss.backward()\nCLIP\naverage_gradients(net)\nopt.step()",  # whatever was given
        "loss.backward()\nif accelerator.sync_gradients:\n    CLIP\nopt.step()",
        "loss.backward()\nREDUCE\nCLIP\nopt.step()",
        "loss.backward()\naverage(net)\nCLIP\nopt.step()",
        "loss.backward()\naverage(net)\nCLIP\naverage(net)\nopt.step()",
        "loss.backward()\nCLIP\nopt.step()\naverage(net)",
        "loss.backward()\nCLIP\nopt.step()\nloss.backward()\naverage(net)\nopt.step()",
        "loss.backward()\nCLIP\naverage(head)\nopt.step()",
        "loss.backward()\nCLIP\nfor p in head.parameters():\n    dist.all_reduce(p.grad)\nopt.step()",
        "loss.backward()\nif many:\n    average(net)\nelse:\n    CLIP\nopt.step()",
        "loss.backward()\nif many:\n    CLIP\nelse:\n    average(net)\nopt.step()",
        "loss.backward()\nnorm = CLIP\ndist.all_reduce(norm)\nopt.step()",
        "loss.backward()\nCLIP\nfor p in net.parameters():\n    dist.all_reduce(p.data)\nopt.step()",
        "loss.backward()\nCLIP\nfor p in net.parameters():\n    dist.broadcast(p.grad, 0)\nopt.step()",
        "for x in loss:\n    average(net)\n    CLIP\n    opt.step()\n    x.backward()",
        "def g():\n    average(net)\nloss.backward()\nCLIP\nopt.step()",
    ],
)
def test_a_clip_of_all_ranks_gradients_or_of_others(body: str) -> None:
    assert check("CLIP413", step(body)).findings == ()


@pytest.mark.parametrize(
    ("body", "after"),
    [
        ("loss.backward()\nCLIP\nREDUCE\nopt.step()", "loss.backward()\nREDUCE\nCLIP\nopt.step()"),
        ("loss.backward()\nCLIP\naverage(net)\nopt.step()", "loss.backward()\naverage(net)\nCLIP\nopt.step()"),
        (
            "loss.backward()\nnorm = CLIP\nlog(norm)\nif many:\n    average(net)\nopt.step()",
            "loss.backward()\nif many:\n    average(net)\nnorm = CLIP\nlog(norm)\nopt.step()",
        ),
        ("loss.backward()\nnorm = CLIP\nif norm > 1:\n    average(net)\nopt.step()", None),
        ("loss.backward()\nif many:\n    CLIP\naverage(net)\nopt.step()", None),
        ("loss.backward()\nCLIP\nif many:\n    average(net)\n    log(1)\nopt.step()", None),
        ("loss.backward()\nCLIP\nif many:\n    average(net)\nelse:\n    log(1)\nopt.step()", None),
        ("loss.backward()\nCLIP\nn = average(net)\nopt.step()", None),
    ],
)
def test_the_all_reduce_goes_first(body: str, after: str | None) -> None:
    report = check("CLIP413", step(body), fix=True)
    expected = HEAD + step(after if after is not None else body)
    assert report.now.decode() == expected
    assert bool(report.findings) is (after is None)


# --- ranks that return while others hang ------------------------------------------------------------------------------

LIST = "grads = [p.grad for p in ps if p.grad is not None]\n"
OF_NET = "grads = [p.grad for p in net.parameters() if p.grad is not None]\n"
WAIT = "\ntotal = sum(grads)\ndist.all_reduce(total)\nreturn total"


# How a program asks whether a rank has any gradient, and what asks for something else.
NOTHING = [
    "grads == []",
    "not bool(grads)",
    "len(grads) <= 0",
    "grads is None",
    "not len(grads) > 0",
    "not (not not grads)",
]
SOMETHING = ["len(grads) >= 1", "len(grads) > 0", "len(grads) != 0", "grads is not None", "grads != []", "bool(grads)"]
OTHER = [
    "len(grads) <= 1",
    "len(grads) < 2",
    "len(grads) > 1",
    "len(grads) >= 0",
    "grads == ps",
    "grads in ps",
    "print(grads)",
]


def function(body: str, before: str = "") -> str:
    return f"{before}def f(ps, many):\n" + textwrap.indent(body, "    ") + "\n"


@pytest.mark.parametrize(
    "body",
    [
        LIST + "if not grads:\n    return 0.0" + WAIT,
        LIST + "if not grads: return 0.0" + WAIT,
        LIST + "if len(grads) == 0:\n    return 0.0" + WAIT,
        LIST + "if len(grads) < 1:\n    return 0.0" + WAIT,
        LIST + "if not len(grads):\n    return 0.0" + WAIT,
        *(LIST + f"if {nothing}:\n    return 0.0" + WAIT for nothing in NOTHING),
        *(LIST + f"if {something}:\n    pass\nelse:\n    return 0.0" + WAIT for something in SOMETHING),
        "there = []\nfor p in ps:\n    if not p.grad is None:\n        there.append(p)\nif not there:\n    return\ndist.all_gather(a, b)",
        "there = []\nfor p in ps:\n    if p.grad is None:\n        pass\n    else:\n        there.append(p)\nif not there:\n    return\ndist.all_gather(a, b)",
        "there = [p for p in ps if not p.grad is None]\nif not there:\n    return\ndist.all_gather(a, b)",
        LIST + "if many or not grads:\n    return 0.0" + WAIT,
        LIST + "if grads:\n    pass\nelse:\n    return 0.0" + WAIT,
        LIST + "n = len(grads)\nif n == 0:\n    return 0.0" + WAIT,
        LIST + "n = len(grads)\nif not n:\n    return 0.0" + WAIT,
        LIST + "if (n := len(grads)) < 1:\n    return 0.0" + WAIT,
        LIST + "if not (g := grads):\n    return 0.0" + WAIT,
        "if sum(1 for p in ps if p.grad is not None) == 0:\n    return\ndist.all_gather(a, b)",
        "n = sum([p.grad is not None for p in ps])\nif n == 0:\n    return\ndist.all_gather(a, b)",
        LIST + "if not grads:\n    return 0.0\nelse:\n    dist.all_reduce(sum(grads))",
        "grads = list(p.grad for p in ps if p.grad is not None)\nif not grads:\n    return 0.0" + WAIT,
        "ps = [p for p in ps if p.grad is not None]\nif not ps:\n    return" + WAIT,
        "ps = list(filter(lambda p: p.grad is not None, ps))\nif not ps:\n    return\ndist.all_gather(a, b)",
        "if not any(p.grad is not None for p in ps):\n    return\ndist.all_gather(a, b)",
        "if all(p.grad is None for p in ps):\n    return\ndist.all_gather(a, b)",
        "grads = []\nfor p in ps:\n    if p.grad is not None:\n        grads.append(p.grad)\nif not grads:\n    return" + WAIT,
        "norms = {}\nfor p in ps:\n    if p.grad is not None:\n        norms[p] = 1\nif not norms:\n    return" + WAIT,
        "total = None\nfor p in ps:\n    if p.grad is not None:\n        total = 1\nif total is None:\n    return\ndist.all_reduce(x)",
        LIST + "if not grads:\n    return 0.0\nreturn sum(grads).full_tensor()",
        LIST + "if not grads:\n    return 0.0\ndist.all_gather_object(found, len(grads))",
        OF_NET + "if not grads:\n    return" + WAIT,
        "net(many).backward()\n" + LIST + "if not grads:\n    return" + WAIT,
        "loss = net(many)\nif many:\n    loss.backward()\n" + OF_NET + "if not grads:\n    return" + WAIT,
        "loss = net(many)\nloss.backward()\nnet.zero_grad()\n" + OF_NET + "if not grads:\n    return" + WAIT,
        "net(many).backward()\n" + OF_NET.replace("net.", "net.experts.") + "if not grads:\n    return" + WAIT,
        "loss.backward()\nnet(many)\n" + OF_NET + "if not grads:\n    return" + WAIT,
        "loss = net(many)\n" + OF_NET + "if not grads:\n    return" + WAIT + "\nloss.backward()",
        LIST + "if not grads:\n    return 0.0\nif many:\n    dist.all_reduce(grads[0])",
    ],
)  # fmt: skip
def test_a_rank_that_makes_the_others_hang(body: str) -> None:
    (finding,) = check("CLIP414", function(body)).findings
    assert finding.message.startswith("training hangs")


def test_a_collective_in_a_function_of_the_file() -> None:
    body = LIST + "if not grads:\n    return 0.0\nreturn merged(sum(grads))"
    helper = "def merged(x):\n    dist.all_reduce(x)\n    return x\n"
    assert len(check("CLIP414", function(body, helper)).findings) == 1
    assert check("CLIP414", function(body, helper.replace("dist.all_reduce(x)", "log(x)"))).findings == ()
    named = "from torch.distributed import all_reduce\n"
    assert len(check("CLIP414", function(LIST + "if not grads:\n    return\nall_reduce(x)", named)).findings) == 1


@pytest.mark.parametrize(
    "body",
    [
        LIST + "total = sum(grads)\ndist.all_reduce(total)\nif not grads:\n    return 0.0\nreturn total",
        LIST + "if not grads:\n    dist.all_reduce(zero)\n    return zero" + WAIT,
        LIST + "if not grads:\n    raise ValueError" + WAIT,
        LIST + "if not grads:\n    total = 0.0" + WAIT,
        LIST + "if grads:\n    return 0.0" + WAIT,
        LIST + "if many:\n    return 0.0" + WAIT,
        LIST + "if not dist.is_initialized():\n    return 0.0" + WAIT,
        LIST + "if len(grads) == 1:\n    return grads[0]" + WAIT,
        *(LIST + f"if {something}:\n    return 0.0" + WAIT for something in SOMETHING),
        *(LIST + f"if {nothing}:\n    pass\nelse:\n    return 0.0" + WAIT for nothing in NOTHING),
        *(LIST + f"if {other}:\n    return 0.0" + WAIT for other in OTHER),
        *(LIST + f"if {other}:\n    pass\nelse:\n    return 0.0" + WAIT for other in OTHER),
        # what is asked for has no gradient
        "missing = [p for p in ps if p.grad is None]\nif not missing:\n    return\ndist.all_gather(a, b)",
        "if not any(p.grad is None for p in ps):\n    return\ndist.all_gather(a, b)",
        "if sum(p.grad is None for p in ps) == 0:\n    return\ndist.all_gather(a, b)",
        "n = len([p for p in ps if p.grad is None])\nif n == 0:\n    return\ndist.all_gather(a, b)",
        "missing = []\nfor p in ps:\n    if p.grad is None:\n        missing.append(p)\nif not missing:\n    return\ndist.all_gather(a, b)",
        "missing = []\nfor p in ps:\n    if p.grad is not None:\n        pass\n    else:\n        missing.append(p)\nif not missing:\n    return\ndist.all_gather(a, b)",
        LIST + "n = len(grads)\nif n == 1:\n    return 0.0" + WAIT,
        LIST + "n = len(grads)\nif many:\n    n = many\nif n == 0:\n    return 0.0" + WAIT,
        LIST + "n = len(ps)\nif n == 0:\n    return 0.0" + WAIT,
        "if sum(p.grad.sum() for p in ps) == 0:\n    return\ndist.all_gather(a, b)",
        LIST + "if sum(grads) == 0:\n    return\ndist.all_gather(a, b)",
        LIST + "if not grads:\n    return 0.0\nreturn sum(grads)",
        LIST + "if not grads:\n    return 0.0\nother.all_reduce(sum(grads))",
        LIST + "if not grads:\n    return 0.0\nreturn [dist.get_rank() for g in grads]",
        LIST + "n = torch.tensor(len(grads))\ndist.all_reduce(n)\nif n == 0:\n    return 0.0" + WAIT,
        LIST + "if many:\n    if not grads:\n        return 0.0\n    return 1.0" + WAIT,
        LIST + "def g(x):\n    dist.all_reduce(x)\nif not grads:\n    return 0.0\nreturn g",
        "if not ps:\n    return" + WAIT,
        "loss = net(many)\nnet.zero_grad()\nloss.backward()\n" + OF_NET + "if not grads:\n    return" + WAIT,
        "loss = net(many)\nif many:\n    loss.backward()\n    " + OF_NET + "    if not grads:\n        return" + WAIT,
        "xs = [p for p in ps if p.requires_grad]\nif not xs:\n    return" + WAIT,
        "for p in ps:\n    if p.grad is None:\n        continue\n    dist.all_reduce(p.grad)",
        "total = None\nfor p in ps:\n    total = p.sum()\nif total is None:\n    return\ndist.all_reduce(p.grad)",
    ],
)
def test_ranks_that_return_together(body: str) -> None:
    assert check("CLIP414", function(body)).findings == ()


# --- two ranks --------------------------------------------------------------------------------------------------------

RANK = """
import datetime, json, sys
import torch
import torch.distributed as dist
rank, store = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method="file:///" + store.lstrip("/"), rank=rank, world_size=2,
                        timeout=datetime.timedelta(seconds=float(sys.argv[3])))
torch.manual_seed(0)
"""


def on_two_ranks(tmp_path: Path, example: str, program: str, timeout: float = 60) -> list[object]:
    """The JSON that a program prints on each rank after the code of an example."""
    torch = pytest.importorskip("torch", reason="needs the extra clipcheck[torch]")
    if sys.platform == "win32" or not (torch.distributed.is_available() and torch.distributed.is_gloo_available()):
        pytest.skip("torch has no gloo over files here")
    path = tmp_path / "rank.py"
    code = (PROJECT / "fixtures" / example).read_text(encoding="utf-8")
    path.write_text(RANK + code + textwrap.dedent(program), encoding="utf-8")
    store = tmp_path / Path(example).stem
    ranks = [
        subprocess.Popen([sys.executable, path, str(rank), str(store), str(timeout)], stdout=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    return [json.loads(rank.communicate(timeout=120)[0]) for rank in ranks]


AVERAGE = """
model = torch.nn.Linear(2, 1, bias=False).double()
inputs = torch.tensor([[3.0, 0.0]] if rank else [[0.0, 0.2]], dtype=torch.float64)
before = model.weight.detach().clone()
class Sum(torch.nn.Module):
    def forward(self, outputs, targets): return outputs.sum()
train(model, torch.optim.SGD(model.parameters(), lr=1.0), [(inputs, None)], Sum(), 1.0)
print(json.dumps((before - model.weight.detach()).flatten().tolist()))
"""


def test_large_gradients_of_one_rank_count_less(tmp_path: Path) -> None:
    """The gradients are (0, 0.2) and (3, 0): their mean, clipped to a norm of 1, is (0.998, 0.067)."""
    folder = "CLIP413-clip-before-gradient-all-reduce"
    mean = [1.5, 0.1]
    norm = sum(x * x for x in mean) ** 0.5
    for step in on_two_ranks(tmp_path, f"{folder}/after.py", AVERAGE):
        assert step == pytest.approx([x / norm for x in mean], rel=1e-5)
    for step in on_two_ranks(tmp_path, f"{folder}/before.py", AVERAGE):
        assert step == pytest.approx([0.5, 0.1], rel=1e-5)  # a third of the large one is left, all of the small one


HANG = """
p = torch.nn.Parameter(torch.ones(2))
if rank == 0:
    p.grad = torch.ones(2)
try:
    found = float(FUNCTION([p]))
except RuntimeError:
    found = "hangs"
print(json.dumps(found), flush=True)
"""


def test_the_other_ranks_hang_when_one_has_returned(tmp_path: Path) -> None:
    folder = "CLIP414-return-before-collective"
    waits, returned = on_two_ranks(tmp_path, f"{folder}/before.py", HANG.replace("FUNCTION", "total_norm"), timeout=3)
    assert (waits, returned) == ("hangs", 0.0)
    both = on_two_ranks(tmp_path, f"{folder}/clean.py", HANG.replace("FUNCTION", "takes_part_first"))
    assert both[0] == pytest.approx(2**0.5)
