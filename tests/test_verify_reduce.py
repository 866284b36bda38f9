"""What is left of a training step: what concerns the gradients, in the harness's names, and nothing else."""

from __future__ import annotations

import ast

import pytest

from clipcheck.python.source import Source
from clipcheck.verify.allowed import NotVerifiable
from clipcheck.verify.parts import parts
from clipcheck.verify.program import Program
from clipcheck.verify.reduce import reduced

HEAD = "import torch\nfrom torch.nn.utils import clip_grad_norm_, clip_grad_value_\n\n"
SIGNATURE = "model, optimizer, batches, loss_fn, max_norm, scaler"
CLIP = "clip_grad_norm_(model.parameters(), max_norm)\n"


def left(body: str) -> list[str]:
    """The lines that are left of the body of a function; `model` stands for the harness's model, and so on."""
    lines = "".join(f"    {line}\n" for line in body.splitlines())
    program = Program(Source(f"{HEAD}def train({SIGNATURE}):\n{lines}"))
    found = parts(program, 1)
    names = found.joined(found)
    setup, turn = reduced(program, 1, names)
    assert setup == []
    text = ast.unparse(ast.fix_missing_locations(ast.Module(turn, [])))
    for name in names.roles:
        text = text.replace(name, name.partition("__")[0])
    for name in ("loss", "batches"):
        text = text.replace(f"{name}__0__call()", name)
    return text.splitlines()


SAME = {
    "a step": "optimizer.zero_grad()\nloss.backward()\n" + CLIP + "optimizer.step()",
    "a scaler": "scaler.scale(loss).backward()\nscaler.unscale_(optimizer)\n" + CLIP + "scaler.step(optimizer)\nscaler.update()",
    "a norm that decides": "loss.backward()\nnorm = " + CLIP + "if norm > 5:\n    optimizer.zero_grad()\noptimizer.step()",
    "a loop that scales": "for p in model.parameters():\n    p.grad.mul_(0.5)",
    "a loop that assigns": "for p in model.parameters():\n    p.grad = p.grad * 2",
    "a comprehension that clears": "[p.grad.zero_() for p in model.parameters()]",
    "a loop that skips": "for p in model.parameters():\n    if p.grad is None:\n        continue\n    p.grad.clamp_(-0.1, 0.1)",
    "a list of parameters": "params = [p for p in model.parameters() if p.requires_grad]\nclip_grad_norm_(params, max_norm)",
    "several names": "a, b = (model.parameters(), 3)\nclip_grad_norm_(a, max_norm)",
    "a list that is filled": "norms = []\nfor p in model.parameters():\n    norms.append(p.grad.norm())",
    "a list of parameters that is filled": "found = []\nfor p in model.parameters():\n    found.append(p)\nclip_grad_norm_(found, max_norm)",
    "a gradient that is dropped": "for p in model.parameters():\n    p.grad = None",
    "the numbers of a gradient": "for p in model.parameters():\n    p.grad.data = p.grad.data * 2",
    "a part of a gradient": "for p in model.parameters():\n    p.grad[:] *= 2",
    "a divisor that is assigned": "every = 4\nfor p in model.parameters():\n    p.grad /= every",
    "an iterator that is used up": "params = model.parameters()\nlist(params)\nclip_grad_norm_(params, max_norm)",
    "an iterator that a loop uses up": "params = model.parameters()\nfor p in params:\n    pass\nclip_grad_norm_(params, max_norm)",
    "a loop over what is known": "for p in list(model.parameters()):\n    loss.backward()\noptimizer.step()",
    "a comprehension that steps": "[optimizer.step() for _ in range(2)]",
    "numbered parameters": "for i, p in enumerate(model.parameters()):\n    if i > 2:\n        p.grad.mul_(0.5)",
    "a lambda": "params = filter(lambda p: p.requires_grad, model.parameters())\nclip_grad_norm_(params, max_norm)",
    "master parameters": "clip_grad_norm_(amp.master_params(optimizer), max_norm)\noptimizer.step()",
    "a loop over master parameters": "for p in amp.master_params(optimizer):\n    p.grad.mul_(0.5)\noptimizer.step()",
    "a scaled loss": "with amp.scale_loss(loss, optimizer) as scaled:\n    scaled.backward()\noptimizer.step()",
    "a step that does not wait": "with optimizer.skip_synchronize():\n    optimizer.step()",
    "the accelerator": "accelerator.backward(loss)\naccelerator.clip_grad_norm_(model.parameters(), max_norm)\noptimizer.step()",
    "Fabric": "fabric.backward(loss)\nfabric.clip_gradients(model, optimizer, max_norm=max_norm)\noptimizer.step()",
    "a sum that decides": "total = 0\nfor p in model.parameters():\n    total += p.grad.norm() ** 2\nif total > 1:\n    optimizer.step()",
}  # fmt: skip


@pytest.mark.parametrize("name", SAME)
def test_what_concerns_the_gradients_stays(name: str) -> None:
    assert left(SAME[name]) == SAME[name].splitlines()


LESS = {
    "the loss": ("loss: float = loss_fn(model(x))\nloss.backward()", "loss.backward()"),
    "what is logged": ("norm = " + CLIP + "log(norm)", CLIP),
    "an annotated name": ("norm: float = " + CLIP, CLIP),
    "an annotated name that decides": ("norm: float = " + CLIP + "if norm > 5:\n    optimizer.step()", "norm = " + CLIP + "if norm > 5:\n    optimizer.step()"),
    "a count": ("seen += 1\noptimizer.step()", "optimizer.step()"),
    "a loop without training": ("for x in things:\n    print(x)\noptimizer.step()", "optimizer.step()"),
    "a loop that waits": ("while busy:\n    print(1)\noptimizer.step()", "optimizer.step()"),
    "a test without consequences": ("if train:\n    print(1)\nelse:\n    print(2)\noptimizer.step()", "optimizer.step()"),
    "a test that calls": ("if ready():\n    pass\noptimizer.step()", "optimizer.step()"),
    "a block": ("with autocast():\n    loss = loss_fn(model(x))\nloss.backward()", "loss.backward()"),
    "an asynchronous block": ("async with lock:\n    loss.backward()", "loss.backward()"),
    "what handles errors": (
        "try:\n    loss.backward()\nexcept ValueError:\n    optimizer.zero_grad()\nelse:\n    print(1)\nfinally:\n    optimizer.step()",
        "loss.backward()\noptimizer.step()",
    ),
    "what makes the optimizer": ("optimizer = make(model)\noptimizer.step()", "optimizer.step()"),
    "constants": ("'docs'\n1\noptimizer.step()", "optimizer.step()"),
    "inner functions and imports": ("def inner():\n    loss.backward()\nimport os\noptimizer.step()", "optimizer.step()"),
    "arguments of backward": ("loss.backward(retain_graph=True)", "loss.backward()"),
    "arguments of zero_grad": ("optimizer.zero_grad(set_to_none=True)\noptimizer.step()", "optimizer.zero_grad()\noptimizer.step()"),
    "a call without an effect": ("model.parameters()\noptimizer.step()", "optimizer.step()"),
    **{
        f"what surrounds {act}": (f"print({act})\noptimizer.step()", f"{act}\noptimizer.step()")
        for act in ("scaler.update()", "scaler.unscale_(optimizer)", "optimizer.zero_grad()", CLIP.strip(), "loss.backward()", "scaler.step(optimizer)")
    },
    "what surrounds a norm": (f"log(scale({CLIP.strip()}))\noptimizer.step()", f"{CLIP}optimizer.step()"),
    "what is passed by name": (f"log(norm={CLIP.strip()})\noptimizer.step()", f"{CLIP}optimizer.step()"),
    "a list that nobody reads": ("found = []\nfor p in model.parameters():\n    found.append(p)\noptimizer.step()", "optimizer.step()"),
    "an iterator that is only printed": ("params = model.parameters()\nprint(params)\nclip_grad_norm_(params, max_norm)", "params = model.parameters()\nclip_grad_norm_(params, max_norm)"),
    "a norm that is printed": (f"norm = {CLIP}print(float(norm))\noptimizer.step()", f"{CLIP}optimizer.step()"),
    "a limit that is changed": (f"max_norm *= 2\n{CLIP}", CLIP),
    "what makes several objects": ("(a, (model, b)), c = make()\noptimizer.step()", "optimizer.step()"),
    "an act in what makes a model": ("model = wrap(loss.backward())\noptimizer.step()", "loss.backward()\noptimizer.step()"),
    "an act in an unknown value": ("x = wrap(loss.backward())\noptimizer.step()", "loss.backward()\noptimizer.step()"),
    "an act in an unknown sum": ("x += wrap(loss.backward())\noptimizer.step()", "loss.backward()\noptimizer.step()"),
    "a block that is none of the optimizer's": ("with optimizer.skip_synchronize(1):\n    optimizer.step()", "optimizer.step()"),
    "another block beside one": (
        "with lock, amp.scale_loss(loss, optimizer) as scaled:\n    scaled.backward()",
        "with amp.scale_loss(loss, optimizer) as scaled:\n    scaled.backward()",
    ),
    "a set of parameters": ("seen = {p for p in model.parameters()}\noptimizer.step()", "optimizer.step()"),
    "a dictionary of parameters": ("seen = {p: 1 for p in model.parameters()}\noptimizer.step()", "optimizer.step()"),
    "an unknown method of a model": (f"model.scale(optimizer)\n{CLIP}optimizer.step()", f"{CLIP}optimizer.step()"),
    "an attribute of what is assigned": (f"first = list(model.parameters())[0]\nprint(float(first.grad.norm()))\n{CLIP}", CLIP),
    "numbers that are printed": (f"x = 3\ny = x + 1\nprint(list(range(y)))\n{CLIP}", CLIP),
    "what surrounds an edit": ("for p in model.parameters():\n    print(p.grad.mul_(0.5))", "for p in model.parameters():\n    p.grad.mul_(0.5)"),
    "what a comprehension makes of steps": ("done = [optimizer.step() for _ in range(2)]", "[optimizer.step() for _ in range(2)]"),
    "what a comprehension makes of parameters": ("done = [p.shape for p in model.parameters()]\noptimizer.step()", "optimizer.step()"),
    "a norm that nobody reads": (
        "total = torch.nn.utils.get_total_norm([p.grad for p in model.parameters()])\noptimizer.step()",
        "optimizer.step()",
    ),
    "a list of targets": ("[model, optimizer] = make()\noptimizer.step()", "optimizer.step()"),
    "what is left of several": ("(*model, optimizer) = make()\noptimizer.step()", "optimizer.step()"),
    "a block around nothing": ("with amp.scale_loss(loss, optimizer) as scaled:\n    print(scaled)\noptimizer.step()", "optimizer.step()"),
    "what is printed": ("print(p.grad for p in model.parameters())\noptimizer.step()", "optimizer.step()"),
}  # fmt: skip


@pytest.mark.parametrize("name", LESS)
def test_what_does_not_is_left_out(name: str) -> None:
    before, after = LESS[name]
    assert left(before) == after.splitlines()


OTHER = {
    "an act in a test": ("if " + CLIP.strip() + " > 1:\n    print(1)\noptimizer.step()", CLIP + "optimizer.step()"),
    "an unknown test": ("if train:\n    loss.backward()\nelse:\n    evaluate()", "if flag():\n    loss.backward()"),
    "an unknown test with both branches": (
        "if train:\n    loss.backward()\nelse:\n    optimizer.step()",
        "if flag():\n    loss.backward()\nelse:\n    optimizer.step()",
    ),
    "only the other branch": ("if train:\n    print(1)\nelse:\n    optimizer.step()", "if flag():\n    pass\nelse:\n    optimizer.step()"),
    "the batches": ("for x, y in loader:\n    loss.backward()\n    optimizer.step()", "for _ in batches:\n    loss.backward()\n    optimizer.step()"),
    "an asynchronous loop": ("async for x in loader:\n    loss.backward()", "for x in batches:\n    loss.backward()"),
    "an endless loop": (
        "while True:\n    loss.backward()\n    optimizer.step()\n    if done(loss):\n        break",
        "for _ in batches:\n    loss.backward()\n    optimizer.step()\n    if flag():\n        break",
    ),
    "numbered batches": (
        "for i, x in enumerate(loader, 1):\n    loss.backward()\n    if i % 4 == 0:\n        optimizer.step()",
        "for i, _ in enumerate(batches, 1):\n    loss.backward()\n    if i % 4 == 0:\n        optimizer.step()",
    ),
    "a range": (
        "for i in range(10):\n    loss.backward()\n    if i % 4 == 0:\n        optimizer.step()",
        "for i in batches:\n    loss.backward()\n    if i % 4 == 0:\n        optimizer.step()",
    ),
    "how many there are": (
        "for i in range(10):\n    loss.backward()\n    if (i + 1) % every == 0:\n        optimizer.step()",
        "for i in batches:\n    loss.backward()\n    if (i + 1) % count == 0:\n        optimizer.step()",
    ),
    "the number of ranks": (
        "for p in model.parameters():\n    p.grad /= world",
        "for p in model.parameters():\n    p.grad /= count",
    ),
    "the end": ("loss.backward()\nreturn optimizer.step()", "loss.backward()\noptimizer.step()\ncontinue"),
    "an early end": ("if bad:\n    return\noptimizer.step()", "if flag():\n    continue\noptimizer.step()"),
    "attributes": (
        "self.params = list(model.parameters())\nclip_grad_norm_(self.params, max_norm)",
        "local_0 = list(model.parameters())\nclip_grad_norm_(local_0, max_norm)",
    ),
    "an iterator that is read to be printed": (
        "params = model.parameters()\nprint(list(params))\nclip_grad_norm_(params, max_norm)",
        "params = model.parameters()\nlist(params)\nclip_grad_norm_(params, max_norm)",
    ),
    "an iterator that is read to be counted": (
        "params = model.parameters()\nn = len(list(params))\nclip_grad_norm_(params, max_norm)",
        "params = model.parameters()\nlen(list(params))\nclip_grad_norm_(params, max_norm)",
    ),
    "an iterator that an optimizer is made of": (
        "params = model.parameters()\noptimizer = SGD(params, lr=rate)\nclip_grad_norm_(params, max_norm)\noptimizer.step()",
        "params = model.parameters()\nlist(params)\nclip_grad_norm_(params, max_norm)\noptimizer.step()",
    ),
    "an iterator by another name": (
        "a = model.parameters()\nb = a\nprint(list(b))\nclip_grad_norm_(b, max_norm)",
        "a = model.parameters()\nb = a\nlist(b)\nclip_grad_norm_(b, max_norm)",
    ),
    "an iterator in an attribute": (
        "self.ps = model.parameters()\nprint(list(self.ps))\nclip_grad_norm_(self.ps, max_norm)",
        "local_0 = model.parameters()\nlist(local_0)\nclip_grad_norm_(local_0, max_norm)",
    ),
    "a block that is left empty": (
        "with amp.scale_loss(loss, optimizer) as scaled:\n    n = len(list(model.parameters()))\noptimizer.step()",
        "with amp.scale_loss(loss, optimizer) as scaled:\n    pass\noptimizer.step()",
    ),
    "batches that only step": ("for x in loader:\n    optimizer.step()", "for x in batches:\n    optimizer.step()"),
    "what a call of all ranks returns": (
        "import torch.distributed as dist\nfor p in model.parameters():\n    work = dist.all_reduce(p.grad)",
        "for p in model.parameters():\n    group.all_reduce(p.grad)",
    ),
    "a call of all ranks within another": (
        "import torch.distributed as dist\nfor p in model.parameters():\n    log(dist.all_reduce(p.grad))",
        "for p in model.parameters():\n    group.all_reduce(p.grad)",
    ),
    "batches that are numbered from a start by name": (
        "for i, x in enumerate(loader, start=1):\n    loss.backward()\n    if i % 4 == 0:\n        optimizer.step()",
        "for _ in batches:\n    loss.backward()\n    if flag():\n        optimizer.step()",
    ),
    "batches of two loaders": (
        "for x, y in zip(a, b):\n    loss.backward()\n    if x > 1:\n        optimizer.step()",
        "for _ in batches:\n    loss.backward()\n    if flag():\n        optimizer.step()",
    ),
    "functions of torch_xla": (
        "import torch_xla.core.xla_model as xm\nxm.reduce_gradients(optimizer)\nxm.optimizer_step(optimizer)",
        "group.reduce_gradients(optimizer)\ngroup.optimizer_step(optimizer)",
    ),
    "a loop over an iterator": (
        "params = model.parameters()\nfor p in params:\n    print(p)\nclip_grad_norm_(params, max_norm)",
        "params = model.parameters()\nfor p in params:\n    pass\nclip_grad_norm_(params, max_norm)",
    ),
    "a device": (
        "total = torch.zeros(1, device=device)\nfor p in model.parameters():\n    total += p.grad.norm()\nif total > 1:\n    optimizer.step()",
        "total = torch.zeros(1, device='cpu')\nfor p in model.parameters():\n    total += p.grad.norm()\nif total > 1:\n    optimizer.step()",
    ),
    "a method that is not called": ("clip_grad_norm_(model.parameters, max_norm)", "clip_grad_norm_(method, max_norm)"),
    "a divisor of the arguments": ("for p in model.parameters():\n    p.grad /= args.world", "for p in model.parameters():\n    p.grad /= count"),
    "a range that trains nothing": (
        "for i in range(2):\n    for p in model.parameters():\n        p.grad.mul_(0.5)",
        "for i in range(2):\n    for p in model.parameters():\n        p.grad.mul_(0.5)",
    ),
    "numbered batches of pairs": (
        "for i, (x, y) in enumerate(loader):\n    loss.backward()\n    if i % 4 == 0:\n        optimizer.step()",
        "for i, _ in enumerate(batches):\n    loss.backward()\n    if i % 4 == 0:\n        optimizer.step()",
    ),
    **{
        f"ranks that {name} by{given}": (
            f"import torch.distributed as dist\nfor p in model.parameters():\n    dist.all_reduce(p.grad{given})",
            f"for p in model.parameters():\n    group.{name}(p.grad)",
        )
        for name, given in (("all_reduce", ", op=dist.ReduceOp.SUM"), ("all_average", ", op=dist.ReduceOp.AVG"), ("all_average", ", dist.ReduceOp.AVG"), ("all_reduce", ""))
    },
    "how many ranks there are": (
        "import torch.distributed as dist\nn = dist.get_world_size()\nfor p in model.parameters():\n    p.grad /= n",
        "n = group.get_world_size()\nfor p in model.parameters():\n    p.grad /= n",
    ),
    "a limit that is made": (
        "x = float('inf') if a else 3\nclip_grad_norm_(model.parameters(), x)",
        "clip_grad_norm_(model.parameters(), max_norm)",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", OTHER)
def test_what_is_known_of_the_rest_is_said_in_the_harness_words(name: str) -> None:
    before, after = OTHER[name]
    assert left(before) == after.splitlines()


UNKNOWN = {
    "a loop over something": ("for x in things:\n    optimizer.zero_grad()\noptimizer.step()", "`things` cannot be resolved"),
    "a closure": ("loss.backward()\noptimizer.step(closure)", "there is no stand-in for `optimizer.step(closure)`"),
    "a closure by name": ("loss.backward()\noptimizer.step(closure=f)", "there is no stand-in for `optimizer.step(closure=f)`"),
    "a closure beside a scaler": ("loss.backward()\nscaler.step(optimizer, f)", "there is no stand-in for `scaler.step(optimizer, f)`"),
    "a step of an engine": (
        "import deepspeed\nmodel_engine, *_ = deepspeed.initialize()\nmodel_engine.step()",
        "there is no stand-in for `model_engine.step()`",
    ),
    "an end within a loop": ("for x in batches:\n    loss.backward()\n    return", "it returns from within a loop"),
    "a part of an unknown list": ("a, *rest = model.parameters()\nclip_grad_norm_(a, max_norm)", "`a` cannot be resolved"),
    "an unknown gradient": ("for p in model.parameters():\n    p.grad = f(p)", "`f` cannot be resolved"),
    "an unknown coefficient": ("x = f()\nfor p in model.parameters():\n    p.grad.mul_(x)", "`x` cannot be resolved"),
    "an unknown coefficient of an assignment": ("x = f()\nfor p in model.parameters():\n    p.grad *= x", "`x` cannot be resolved"),
    "a coefficient that may be unknown": ("x = 2.0\nif a:\n    x = f()\nfor p in model.parameters():\n    p.grad.mul_(x)", "`x` cannot be resolved"),
    "a coefficient that becomes unknown": ("x = 2.0\nx += f()\nfor p in model.parameters():\n    p.grad.mul_(x)", "`x` cannot be resolved"),
    "what a loop binds": (
        "x = 2.0\nfor x, y in loader:\n    loss.backward()\n    for p in model.parameters():\n        p.grad.mul_(x)",
        "`x` cannot be resolved",
    ),
    "some of the ranks": (
        "import torch.distributed as dist\nfor p in model.parameters():\n    dist.all_reduce(p.grad, group=some)",
        "there is no stand-in for `dist.all_reduce(p.grad, group=some)`",
    ),
    "a name like the harness's": ("a__b = 2.0\nfor p in model.parameters():\n    p.grad.mul_(a__b)", "`a__b` cannot be resolved"),
    "a long name": (f"for p in model.parameters():\n    p.grad.mul_({'a' * 70})", f"`{'a' * 60}` cannot be resolved"),
    "an attribute of something": ("for p in model.parameters():\n    p.grad.mul_(p.factor)", "`p.factor` cannot be resolved"),
    "unknown parameters in a call": ("log(clip_grad_norm_(f(), max_norm))", "`f` cannot be resolved"),
    "an engine": ("engine.backward(loss)\noptimizer.step()", "there is no stand-in for `engine.backward`"),
    "a clip of another kind": ("model.clip_grad_norm_(max_norm)\noptimizer.step()", "there is no stand-in for `model.clip_grad_norm_`"),
    "the largest of all ranks": (
        "import torch.distributed as dist\nfor p in model.parameters():\n    dist.all_reduce(p.grad, op=dist.ReduceOp.MAX)",
        "there is no stand-in for `dist.all_reduce(p.grad, op=dist.ReduceOp.MAX)`",
    ),
    "gradients of something": ("for p in things:\n    p.grad.zero_()", "`things` cannot be resolved"),
}  # fmt: skip


@pytest.mark.parametrize("name", UNKNOWN)
def test_what_is_not_known_is_not_made_up(name: str) -> None:
    body, why = UNKNOWN[name]
    with pytest.raises(NotVerifiable) as caught:
        left(body)
    assert str(caught.value) == why


def names(body: str, signature: str = "self, net, opt, c") -> list[str]:
    """The lines that are left, in the harness's own names."""
    lines = "".join(f"    {line}\n" for line in body.splitlines())
    program = Program(Source(f"{HEAD}def train({signature}):\n{lines}"))
    found = parts(program, 1)
    setup, turn = reduced(program, 1, found.joined(found))
    return ast.unparse(ast.fix_missing_locations(ast.Module([*setup, *turn], []))).splitlines()


@pytest.mark.parametrize(
    ("test", "name"),
    [
        ("ready", "flag__0__call()"),
        ("ready()", "flag__0__call()"),
        ("args.ready", "flag__0__call()"),
        ("self.ready", "choice__0__call()"),
        ("self.args.ready", "choice__0__call()"),
        ("self.ready and not self.done", "choice__0__call()"),
        ("self.ready and ready", "flag__0__call()"),
        ("self.ready and args.ready", "flag__0__call()"),
        ("self.is_ready()", "flag__0__call()"),
    ],
)
def test_a_test_of_the_object_alone_is_settled(test: str, name: str) -> None:
    assert names(f"if {test}:\n    opt.step()") == [f"if {name}:", "    optimizer__0__name.step()"]


def test_a_test_has_the_same_outcome_wherever_it_stands() -> None:
    found = names("".join(f"if {test}:\n    opt.step()\n" for test in ("a", "self.a", "b", "a", "self.b", "self.a")))
    assert [line[3:-3] for line in found[::2]] == [
        *("flag__0__call", "choice__0__call", "flag__1__call"),
        *("flag__0__call", "choice__1__call", "choice__0__call"),
    ]


def test_a_name_that_is_bound_inside_of_an_expression_is_not_the_limit() -> None:
    found = names("clip_grad_norm_(net.parameters(), c)\n[c.grad.zero_() for c in net.parameters()]")
    assert found[1] == "[c.grad.zero_() for c in model__0__name.parameters()]"
    found = names("ps = filter(lambda c: c.requires_grad, net.parameters())\nclip_grad_norm_(ps, c)")
    assert found == [
        "ps = filter(lambda c: c.requires_grad, model__0__name.parameters())",
        "clip_grad_norm_(ps, max_norm__0__name)",
    ]


def test_an_attribute_gets_a_name_that_the_program_does_not_use() -> None:
    body = (
        "self.ps = list(net.parameters())\nself.qs = self.ps\nclip_grad_norm_(self.ps, c)\nclip_grad_norm_(self.qs, c)"
    )
    for more, first, second in (("", "local_0", "local_1"), ("\nlocal_0 = 1", "local_1", "local_2")):
        found = names(body + more)
        assert found[:2] == [f"{first} = list(model__0__name.parameters())", f"{second} = {first}"]
        assert [line.partition(",")[0] for line in found[2:4]] == [
            f"clip_grad_norm_({first}",
            f"clip_grad_norm_({second}",
        ]


def test_names_that_depend_on_one_another_in_a_long_chain_are_not_followed() -> None:
    """In each round, one name more is seen to hold something unknown; the last of 20 rounds must bring nothing new."""

    def chain(count: int) -> str:
        start = "".join(f"x{i} = 1\n" for i in range(count))
        return start + "".join(f"x{i + 1} = x{i}\n" for i in reversed(range(count - 1))) + "x0 = f()\noptimizer.step()"

    assert left(chain(19)) == ["optimizer.step()"]
    with pytest.raises(NotVerifiable, match="its names are bound in too many ways"):
        left(chain(20))


@pytest.mark.parametrize(
    "text", ["x = 'é'; f(x)", "# é\nx = 'a😀é' + f(y, 'é')  # é", "def é(ü):\n    return ü.grad, 'é'"]
)
def test_places_in_lines_with_other_letters(text: str) -> None:
    program = Program(Source(text + "\n"))
    for node in ast.walk(program.tree):
        if isinstance(node, (ast.expr, ast.stmt)):
            start, end = program.span(node)
            assert program.source.text[start:end] == ast.get_source_segment(program.source.text, node)
