"""The rules about sharding, Lightning, DeepSpeed, Horovod and XLA, on short programs. Silent cases first."""

from __future__ import annotations

import pytest

from clipcheck.engine.file import check_file
from clipcheck.engine.results import FileReport
from clipcheck.rule import Safety
from clipcheck.settings.keys import Settings

HEAD = (
    "import torch  # noqa\nimport deepspeed\nimport horovod.torch as hvd\nimport pytorch_lightning as pl\n"
    "import torch_xla.core.xla_model as xm\nfrom torch.distributed.fsdp import FullyShardedDataParallel as FSDP, fully_shard\n"
    "from torch.nn.utils import clip_grad_norm_, clip_grad_value_  # noqa\n"
)
CLIP = "clip_grad_norm_(model.parameters(), 1.0)"


def check(body: str, code: str, fix: bool = False) -> FileReport:
    text = (HEAD + body + "\n").replace("CLIP", CLIP)
    report = check_file("x.py", text.encode(), Settings(codes=frozenset({code}), fix=fix, safety=Safety.UNSAFE))
    assert report.errors == ()
    return report


def step(lines: str) -> str:
    """A training loop of these lines."""
    body = "\n".join("        " + line for line in lines.split("\n"))
    return f"def f(model, optimizer, loss, xs, rank):\n    for x in xs:\n{body}"


MODULE = "class M(pl.LightningModule):\n    def __init__(self):\n        {}\n    def training_step(self, batch):\n        {}\n        return loss"
NORM = "fully_shard(model)\ndef f(model):\n    return CLIP\n"
SILENT = {
    "CLIP405": [
        step("loss.backward()\nCLIP\noptimizer.step()"),
        "model = FSDP(model)\nmodel.clip_grad_norm_(1.0)",
        "model = FSDP(model)\nclip_grad_value_(model.parameters(), 1.0)",
        "model = FSDP(model)\nmodel = net\nCLIP",
        "model = FSDP(model, sharding_strategy=ShardingStrategy.NO_SHARD)\nCLIP",
        "if sharded:\n    model = FSDP(model)\nCLIP",
        "if sharded:\n    model = FSDP(model)\nelse:\n    CLIP",
        "model = FSDP(model)\nif isinstance(model, FSDP):\n    CLIP",
        "model = FSDP(model)\nif args.fsdp:\n    CLIP",
        "other = FSDP(model)\nCLIP",
        "CLIP\nmodel = FSDP(model)",
        "model = Other.FSDP(model)\nCLIP",
        "def g(model):\n    CLIP\nmodel = FSDP(net)",
        "def g(model):\n    CLIP\ng(FSDP)",
        "def g(model):\n    CLIP\nnet = FSDP(model)\ng(net)\ng(other)",  # one caller's is not wrapped
        "def wrap(net):\n    if sharded:\n        return FSDP(net)\n    return net\nmodel = wrap(net)\nCLIP",
        "def wrap(net):\n    return DDP(net)\nmodel = wrap(net)\nCLIP",
        "def wrap(net):\n    if sharded:\n        net = FSDP(net)\n    return net\nmodel = wrap(net)\nCLIP",
        "class A:\n    def f(self):\n        clip_grad_norm_(self.model.parameters(), 1.0)",
        "model = FSDP(model)\nclip_grad_norm_(model.parameters(recurse=False), 1.0)",
        "ps = list(net.parameters())\nmodel = FSDP(net)\nclip_grad_norm_(ps, 1.0)",
        "model = FSDP(net)\nps = [p for p in head.parameters()]\nclip_grad_norm_(ps, 1.0)",
        "model = FSDP(net)\nps = [p.grad for p in model.parameters()]\nclip_grad_norm_(ps, 1.0)",
        "def build(net):\n    return FSDP(net), net\nother, model = build(net)\nCLIP",
        "def build(net):\n    if sharded:\n        return FSDP(net), 1\n    return net, 1\nmodel, x = build(net)\nCLIP",
        "model, x = build(net)\nCLIP",
        "model = torch.compile(net)\nCLIP",
        "model = FSDP(net)\nmodel = unwrap(model)\nCLIP",
        "def build(net):\n    return FSDP(net), 1\n*model, x = build(net)\nCLIP",
    ],
    "CLIP502": [],
    "CLIP407": [
        "norm = CLIP\nprint(f'{norm:.3f}')",  # nothing is sharded by fully_shard(…)
        "fully_shard(model)\nnorm = CLIP\nprint(f'{norm}')",
        "fully_shard(model)\nnorm = CLIP\nprint(f'{norm.item():.3f}')",
        "fully_shard(model)\nnorm = CLIP\nnorm = 1.0\nprint(f'{norm:.3f}')",
        "fully_shard(model)\nnorm = clip_grad_value_(ps, 1.0)\nprint(f'{norm:.3f}')",
        "fully_shard(model)\nfor norm in CLIP:\n    print(f'{norm:.3f}')",
        "fully_shard(model)\nm = {'n': CLIP, 'x': 1.0}\nprint(f\"{m['x']:.3f}\")",
        "fully_shard(model)\nm = {'n': CLIP}\nm['n'] = 1.0\nprint(f\"{m['n']:.3f}\")",
        "fully_shard(model)\nm = {'n': CLIP}\nm.update(n=1.0)\nprint(f\"{m['n']:.3f}\")",
        f"{NORM}norm = f(model)\nprint(f'{{norm.item():.3f}}')",
        f"{NORM.replace('CLIP', 'CLIP.item()')}norm = f(model)\nprint(f'{{norm:.3f}}')",
        f"{NORM}    return 0.0\nnorm = f(model)\nprint(f'{{norm:.3f}}')".replace("    return CLIP", "    if model:\n        return CLIP"),
        f"{NORM}norm, x = f(model)\nprint(f'{{x:.3f}}')".replace("return CLIP", "return CLIP, loss"),
        "fully_shard(model)\ndef show(norm):\n    print(f'{norm:.3f}')\nshow(CLIP)\nshow(1.0)",
        "fully_shard(model)\ndef show(norm):\n    print(f'{norm:.3f}')",
    ],
    "CLIP404": [
        step("loss.backward()\nCLIP\noptimizer.step()"),
        step("model.backward(loss)\nCLIP\noptimizer.step()"),
        step("engine.backward(loss)\nCLIP\nengine.step()"),  # nothing here makes it an engine of DeepSpeed
        "engine, _, _, _ = deepspeed.initialize(model)\n" + step("loss.backward()\nCLIP\noptimizer.step()"),
        "engine, _, _, _ = deepspeed.initialize(model)\n" + step("if x:\n    loss.backward()\nelse:\n    engine.backward(loss)\nCLIP"),
    ],
    "CLIP401": [
        MODULE.format("pass", "loss.backward()"),
        MODULE.format("self.automatic_optimization = False", "CLIP"),
        MODULE.format("pass", "self.manual_backward(loss)\n        CLIP"),
        MODULE.format("pass", "loss.backward()\n        CLIP"),
        MODULE.format("pass", "CLIP").replace("training_step", "on_after_backward"),
        MODULE.format("pass", "CLIP").replace("pl.LightningModule", "torch.nn.Module"),
        MODULE.format("pass", "CLIP").replace("class M(pl.LightningModule)", "class B(pl.LightningModule):\n    automatic_optimization = 1\n    def x(self):\n        self.automatic_optimization = False\nclass M(B)"),
        "def training_step(batch):\n    CLIP",
    ],
    "CLIP402": [
        MODULE.format("pass", "pass") + "\npl.Trainer(gradient_clip_val=1.0)",
        MODULE.format("self.automatic_optimization = False", "pass") + "\npl.Trainer()",
        MODULE.format("self.automatic_optimization = False", "pass") + "\npl.Trainer(gradient_clip_val=None)",
        MODULE.format("self.automatic_optimization = False", "pass") + "\npl.Trainer(gradient_clip_val=0)",
        MODULE.format("self.automatic_optimization = False", "pass") + "\nTrainer(gradient_clip_val=1.0)",
        MODULE.format("self.automatic_optimization = flag", "pass") + "\npl.Trainer(gradient_clip_val=1.0)",
        MODULE.format("self.automatic_optimization = False", "pass") + "\nclass N(pl.LightningModule):\n    pass\npl.Trainer(gradient_clip_val=1.0)",
        "pl.Trainer(gradient_clip_val=1.0)",
    ],
    "CLIP409": [
        step("loss.backward()\nCLIP\noptimizer.step()"),
        "optimizer = hvd.DistributedOptimizer(o)\n" + step("loss.backward()\nCLIP\noptimizer.step()"),  # another variable
        "optimizer = hvd.DistributedOptimizer(o)\nfor x in xs:\n    loss.backward()\n    optimizer.synchronize()\n    CLIP\n    optimizer.step()",
        "optimizer = hvd.DistributedOptimizer(o)\nfor x in xs:\n    loss.backward()\n    CLIP\n    other.step()",
        "optimizer = hvd.DistributedOptimizer(o)\noptimizer = o\nfor x in xs:\n    loss.backward()\n    CLIP\n    optimizer.step()",
        "optimizer = other.DistributedOptimizer(o)\nfor x in xs:\n    loss.backward()\n    CLIP\n    optimizer.step()",
        "optimizer = hvd.Other(o)\nfor x in xs:\n    loss.backward()\n    CLIP\n    optimizer.step()",
        "optimizer = hvd.DistributedOptimizer(o)\nfor x in xs:\n    loss.backward()\n    CLIP\n    if x:\n        loss.backward()\n    else:\n        optimizer.step()",
    ],
    "CLIP408": [
        step("loss.backward()\nCLIP\noptimizer.step()"),
        step("loss.backward()\nxm.reduce_gradients(optimizer)\nCLIP\nxm.optimizer_step(optimizer)"),
        step("loss.backward()\nCLIP\nif x:\n    optimizer.step()\nelse:\n    xm.optimizer_step(optimizer)"),
        step("loss.backward()\nCLIP\nother.optimizer_step(optimizer)"),
    ],
    "CLIP406": [
        "if rank == 0:\n    print(1)\nCLIP",
        "fully_shard(model)\nif rank == 0:\n    print(1)\nCLIP",
        "fully_shard(model)\nif rank == 1:\n    CLIP",
        "fully_shard(model)\nif rank == 0 or x:\n    CLIP",
        "fully_shard(model)\nif rank:\n    CLIP",
        "fully_shard(model)\nif rank != 0:\n    CLIP",
        "fully_shard(model)\nif rank in (0, 1):\n    CLIP",
        "fully_shard(model)\nif rank not in (-1, 0):\n    CLIP",
        "fully_shard(model)\nif not rank and not x:\n    print(1)\nelse:\n    CLIP",
        "fully_shard(model)\nif not ranks:\n    CLIP",
        "fully_shard(model)\nif is_mainly:\n    print(1)\nCLIP",
        "fully_shard(model)\nif not is_main_process():\n    CLIP",
        "fully_shard(model)\nif rank == 0:\n    print(1)\nelse:\n    CLIP",
        "fully_shard(model)\nif rank == 0:\n    clip_grad_value_(ps, 1.0)",
    ],
}  # fmt: skip


@pytest.mark.parametrize(("code", "body"), [(code, body) for code, bodies in SILENT.items() for body in bodies])
def test_silent(code: str, body: str) -> None:
    assert check(body, code).findings == ()


FOUND: dict[str, list[tuple[str, str | None]]] = {
    "CLIP405": [
        ("def wrap(net):\n    return FSDP(net)\nmodel = wrap(net)\nCLIP", "def wrap(net):\n    return FSDP(net)\nmodel = wrap(net)\nmodel.clip_grad_norm_(1.0)"),
        ("def g(model):\n    CLIP\nnet = FSDP(model)\ng(net)", "def g(model):\n    model.clip_grad_norm_(1.0)\nnet = FSDP(model)\ng(net)"),
        (
            "class A:\n    def build(self):\n        self.model = self.wrap(net)\n    def wrap(self, net):\n        net = FSDP(net)\n        return net\n    def f(self):\n        clip_grad_norm_(self.model.parameters(), 1.0)",
            "class A:\n    def build(self):\n        self.model = self.wrap(net)\n    def wrap(self, net):\n        net = FSDP(net)\n        return net\n    def f(self):\n        self.model.clip_grad_norm_(1.0)",
        ),
        ("model = FSDP(model)\nCLIP", "model = FSDP(model)\nmodel.clip_grad_norm_(1.0)"),
        ("model = FSDP(model)\nclip_grad_norm_(model.parameters(), 1.0, 1)", "model = FSDP(model)\nmodel.clip_grad_norm_(1.0, norm_type=1)"),
        ("model = FSDP(model)\nnorm = CLIP", "model = FSDP(model)\nnorm = model.clip_grad_norm_(1.0)"),
        ("model = FSDP(model)\nclip_grad_norm_(model.parameters(), 1.0, foreach=True)", None),
        ("model = FSDP(model)\nclip_grad_norm_(model.parameters(), **more)", None),
        ("model = FSDP(net)\nmodel = torch.compile(model)\nCLIP", "model = FSDP(net)\nmodel = torch.compile(model)\nmodel.clip_grad_norm_(1.0)"),
        ("model = FSDP(net)\nps = list(model.parameters())\nclip_grad_norm_(ps, 1.0)", None),
        ("model = FSDP(net)\nps = [p for p in model.parameters() if p.requires_grad]\nclip_grad_norm_(ps, 1.0)", None),
        (
            "def build(net):\n    net = FSDP(net)\n    return net, adam(net)\nmodel, opt = build(net)\nCLIP",
            "def build(net):\n    net = FSDP(net)\n    return net, adam(net)\nmodel, opt = build(net)\nmodel.clip_grad_norm_(1.0)",
        ),
        ("if sharded:\n    model = FSDP(model)\n    CLIP", "if sharded:\n    model = FSDP(model)\n    model.clip_grad_norm_(1.0)"),
        ("model = net\nmodel = FSDP(model)\nCLIP", "model = net\nmodel = FSDP(model)\nmodel.clip_grad_norm_(1.0)"),
        ("def f(model):\n    model = FSDP(model)\n    CLIP", "def f(model):\n    model = FSDP(model)\n    model.clip_grad_norm_(1.0)"),
        (
            "class A:\n    def __init__(self):\n        self.m = FSDP(net)\n    def f(self):\n        clip_grad_norm_(self.m.parameters(), 1.0)",
            "class A:\n    def __init__(self):\n        self.m = FSDP(net)\n    def f(self):\n        self.m.clip_grad_norm_(1.0)",
        ),
    ],
    "CLIP407": [
        ("fully_shard(model)\nnorm = CLIP\nprint(f'{norm:.3f}')", "fully_shard(model)\nnorm = CLIP\nprint(f'{norm.item():.3f}')"),
        (f"{NORM}norm = f(model)\nprint(f'{{norm:.3f}}')", f"{NORM}norm = f(model)\nprint(f'{{norm.item():.3f}}')"),
        ("fully_shard(model)\nm = {'n': CLIP, 'x': 1.0}\nprint(f\"{m['n']:.3f}\")", "fully_shard(model)\nm = {'n': CLIP, 'x': 1.0}\nprint(f\"{m['n'].item():.3f}\")"),
        (f"{NORM}print(f'{{f(model):.3f}}')", f"{NORM}print(f'{{f(model).item():.3f}}')"),
        (
            f"{NORM}norm, x = f(model)\nprint(f'{{norm:.3f}}')".replace("return CLIP", "return CLIP, loss"),
            f"{NORM}norm, x = f(model)\nprint(f'{{norm.item():.3f}}')".replace("return CLIP", "return CLIP, loss"),
        ),
        (
            "fully_shard(model)\ndef show(i, norm):\n    print(f'{norm:.3f}')\nshow(1, CLIP)",
            "fully_shard(model)\ndef show(i, norm):\n    print(f'{norm.item():.3f}')\nshow(1, CLIP)",
        ),
    ],
    "CLIP404": [
        ("engine, _, _, _ = deepspeed.initialize(model)\n" + step("engine.backward(loss)\nCLIP\nengine.step()"), None),
        ("engine, _, _, _ = deepspeed.initialize(model)\nfor x in xs:\n    engine.backward(loss)\n    CLIP\n    engine.step()", None),
    ],
    "CLIP401": [
        (MODULE.format("pass", "CLIP"), None),
        ("def training_step(batch):\n    pass\n" + MODULE.format("pass", "x = 1\n        CLIP"), None),
        (MODULE.format("pass", "pass").replace("class M", "class B") + "\n" + MODULE.format("pass", "CLIP").replace("pl.LightningModule", "B"), None),
    ],
    "CLIP402": [
        (MODULE.format("self.automatic_optimization = False", "pass") + "\npl.Trainer(gradient_clip_val=1.0)", None),
        (MODULE.format("self.automatic_optimization = False", "pass") + "\npl.Trainer(max_epochs=1, gradient_clip_val=args.clip)", None),
    ],
    "CLIP409": [
        (
            "optimizer = hvd.DistributedOptimizer(o)\nfor x in xs:\n    loss.backward()\n    CLIP\n    optimizer.step()",
            "optimizer = hvd.DistributedOptimizer(o)\nfor x in xs:\n    loss.backward()\n    optimizer.synchronize()\n    CLIP\n    with optimizer.skip_synchronize():\n        optimizer.step()",
        ),
        (
            "optimizer = o\noptimizer = hvd.DistributedOptimizer(optimizer)\nfor x in xs:\n    loss.backward()\n    CLIP; print(x)\n    optimizer.step()",
            None,
        ),
        ("optimizer = hvd.DistributedOptimizer(o)\nfor x in xs:\n    loss.backward()\n    CLIP\n    y = optimizer.step()", None),
    ],
    "CLIP408": [
        (
            step("loss.backward()\nCLIP\nxm.optimizer_step(optimizer)"),
            step("loss.backward()\nxm.reduce_gradients(optimizer)\nCLIP\noptimizer.step()"),
        ),
        (step("loss.backward()\nCLIP\nxm.optimizer_step(optimizer, barrier=True)"), None),
        (step("loss.backward()\nprint(x); CLIP\nxm.optimizer_step(optimizer)"), None),
    ],
    "CLIP406": [
        ("fully_shard(model)\nif rank == 0:\n    CLIP", None),
        ("fully_shard(model)\nif dist.get_rank() == 0:\n    CLIP", None),
        ("fully_shard(model)\nif not rank:\n    CLIP", None),
        ("fully_shard(model)\nif rank:\n    print(1)\nelse:\n    CLIP", None),
        ("fully_shard(model)\nif args.local_rank in [-1, 0]:\n    CLIP", None),
        ("def f():\n    fully_shard(model)\n    if rank != 0:\n        return\n    CLIP", None),
        ("def f():\n    fully_shard(model)\n    if not trainer.is_main_process:\n        return\n    CLIP", None),
        ("fully_shard(model)\nif not (rank or x):\n    CLIP", None),
        ("fully_shard(model)\nif is_main_process():\n    CLIP", None),
        ("model = FSDP(net)\nif self.is_rank_zero:\n    model.clip_grad_norm_(1.0)", None),
        ("fully_shard(model)\nif x:\n    if rank() == 0 and y:\n        CLIP", None),
    ],
}  # fmt: skip


@pytest.mark.parametrize(("code", "body", "after"), [(code, *case) for code, cases in FOUND.items() for case in cases])
def test_found_and_fixed(code: str, body: str, after: str | None) -> None:
    (finding,) = check(body, code).findings
    assert (finding.fix is None) == (after is None)
    assert after is not None or finding.help
    assert check(body, code, fix=True).now.decode() == (HEAD + (after or body) + "\n").replace("CLIP", CLIP)


# --- a result with a misleading name ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        "norm = CLIP",
        "norm_before_clip = CLIP",
        "unclipped_norm = CLIP",
        *(
            f"{word}_clipped_norm = CLIP"
            for word in "before pre un preclip unclipped is was num n frac ratio count not".split()
        ),
        "is_clipped = CLIP > 1.0",
        "num_clipped = CLIP",
        "clip_ratio_after = CLIP",
        "after = CLIP",  # after what?
        "clipped = clip_grad_value_(ps, 1.0)",
        "CLIP\nclipped_norm = CLIP",  # measures what the first one left
        "clipped_norm = clip_grad_norm_(ps, float('inf'))",
        "norm = CLIP\nlog({'grad_norm': norm})",
        "norm = CLIP\nlog({'clipped_grad_norm': min(norm, 1.0)})",
        "norm = CLIP\nnorm = 1.0\nlog({'clipped_norm': norm})",
        "norm = CLIP\nassert norm <= 2.0",
        "norm = CLIP\nassert 1.0 <= norm",
        "clipped_norm = torch.nn.utils.clip_grad_norm_.__name__",
    ],
)
def test_names_that_do_not_claim_the_norm_after_clipping(body: str) -> None:
    assert check(body, "CLIP501").findings == ()


@pytest.mark.parametrize(
    "body",
    [
        "clipped_norm = CLIP",
        "self.clipped_norm = CLIP",
        "clipped: float = CLIP.item()",
        "clipped_norm = float(CLIP)",
        "norm_after_clip = CLIP.detach().cpu()",
        "post_clip_norm = CLIP",
        "gradNormAfter = CLIP",
        "clipped_norm = model.clip_grad_norm_(1.0)",
        "norm = CLIP\nlog({'clipped_norm': norm})",
        "norm = CLIP\nlog({'clipped_norm': norm.item()})",
        "norm = CLIP\nlog({'clipped_norm': float(norm)})",
        "norm = CLIP\nlogs['grad_norm_after_clip'] = norm",
        "norm = CLIP\nself.log('clipped_norm', norm)",
        "norm = CLIP\nwriter.add_scalar('grad/clipped_norm', norm.item(), x)",
        "log({'clipped_norm': CLIP})",
        "self.log('clipped_norm', CLIP)",
        "norm = CLIP\nassert norm <= 1.0",
        "norm = CLIP\nassert norm.item() < 1.0 + 1e-6",
    ],
)
def test_names_that_claim_the_norm_after_clipping(body: str) -> None:
    (finding,) = check(body, "CLIP501").findings
    assert finding.help
    assert finding.fix is None


# --- a norm that is read in every step --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        "norm = CLIP.item()",  # in no loop
        step("norm = CLIP"),
        step("norm = CLIP\nif x:\n    log(norm.item())"),
        step("norm = CLIP\nif x % 10 == 0:\n    log(norm.item())"),
        step("norm = CLIP\nlog(norm)"),
        step("norm = CLIP\nif norm is None:\n    pass"),
        step("norm = CLIP") + "\n    print(norm.item())",
        step("norm = CLIP\nclass A(norm):\n    pass"),
        step("norm = CLIP\n@norm\ndef g():\n    pass"),
        step("clip_grad_value_(ps, 1.0)"),
    ],
)
def test_norms_that_are_read_rarely_or_never(body: str) -> None:
    assert check(body, "CLIP503").findings == ()


@pytest.mark.parametrize(
    "lines",
    [
        "norm = CLIP.item()",
        "norm = float(CLIP)",
        "norm = CLIP\nlog(norm.item())",
        "norm = CLIP\nlog(float(norm))",
        "norm = CLIP\nif norm > 10:\n    pass",
        "if CLIP > 10:\n    pass",
        "if x:\n    norm = CLIP\n    log(norm.item())",
    ],
)
def test_norms_that_are_read_in_every_step(lines: str) -> None:
    assert len(check(step(lines), "CLIP503").findings) == 1
