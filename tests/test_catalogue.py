"""The keywords of each rule: a program with one of them concerns it, and the same program without does not."""

from __future__ import annotations

import pytest

from clipcheck.catalogue import RULES
from clipcheck.prefilter import concerned, wanted
from clipcheck.rule import Severity, Tier

RAISED = (
    *(
        "x ** 2",
        "x * x",
        "pow(x, 2)",
        "x.pow_(2)",
        "np.power(x, 2)",
        "torch.float_power(x, 2)",
        "x.square()",
        "x.sqrt()",
    ),
    *("x.sqrt_()", "torch.dot(x, y)", "torch.vdot(x, y)"),
)
CLIPS = ("clip_grad_norm_", "clip_grad_value_", "clip_grads_with_norm_", "clip_grad_norm")
STEP = "loss.backward()\noptimizer.step()\n"
TORCH = "torch.nn.utils.clip_grad_norm_(ps, 1.0)\n"
OWN = "x.clip_grad_norm_(ps, 1.0)\n"
FUNCTION = "def f(ps, x, y):\n    {}\n"
LOOP = "def f(ps, x, y):\n    for p in ps:\n        p.grad\n        {}\n"
MEASURED = "x = [p.grad.norm() ** 2 for p in ps]\n"
MODULE = "class M(LightningModule):\n    pass\n"

# A rule, a program with a gap, and the code that has to stand there, in one of these ways.
ROWS: list[tuple[str, str, tuple[str, ...]]] = [
    # hand-written norms
    ("CLIP004", LOOP, (*(f"p.{name}()" for name in ("norm", "vector_norm", "sum", "dot", "vdot", "mean")), "abs(x)")),
    ("CLIP004", FUNCTION.format("p.grad.norm()\n    {}"), ("for p in ps: pass", "[p for p in ps]", "map(f, ps)", "reduce(f, ps)")),
    ("CLIP004", "async def f(ps):\n    p.grad.norm()\n    {}\n", ("async for p in ps: pass",)),
    ("CLIP004", "def f(ps):\n    for p in ps:\n        {}.norm()\n", ("p.grad", "gradient", "grads[0]", "get_full_grad(p)")),
    ("CLIP005", LOOP, ("p.norm()",)),
    ("CLIP010", LOOP.format("p.norm()\n        {}"), (
        *("x.item()", "x.tolist()", "x.numpy()", "float(x)", "np.linalg.x(y)", "x.cpu()", "x.data[0]", "math.sqrt(x)", "math.pow(x, 2)", "x.to('cpu')"),
        *(f"torch.{name}(x)" for name in ("tensor", "as_tensor", "Tensor", "FloatTensor", "DoubleTensor")),
    )),
    ("CLIP001", LOOP.format("p.norm().item()\n        {}"), (
        *RAISED, "np.linalg.x(y)", "max(x, y)", "x.amax()", "torch.maximum(x, y)",
        *(f"torch.{name}(x)" for name in (
            *("stack", "tensor", "as_tensor", "FloatTensor", "DoubleTensor", "cat", "concat", "concatenate", "hstack"),
            *("_utils._flatten_dense_tensors", "nn.utils.parameters_to_vector"),
        )),
    )),
    ("CLIP001", LOOP.format("p.sum().item()\n        {}"), RAISED),
    ("CLIP001", LOOP.format("max(x.item(), y)\n        {}.max()"), ("abs(x)",)),
    ("CLIP001", LOOP.format("x.item() ** 2\n        {}"), ("x.sum()", "x.norm()", "x.vector_norm()", "abs(x).amax()", "abs(x).max()", "x.dot(x)")),
    ("CLIP001", LOOP.format("torch.cat(x).item() ** 2\n        {}"), ("x.mean()",)),
    ("CLIP006", LOOP.format("torch.stack(x.norm())\n        {}"), RAISED),
    ("CLIP007", "get_total_norm(x)\nfrom torch.nn import utils\nmodel.{}()\n", ("parameters", "named_parameters")),
    ("CLIP007", "get_total_norm(x.parameters())\nfrom a import {}\n", ("utils", "runtime")),
    ("CLIP007", "from torch.nn.utils import {}\nx.parameters()\n", ("get_total_norm",)),
    ("CLIP008", FUNCTION.format("p.grad\n    x / y\n    {}"), ("for p in ps: pass",)),
    ("CLIP008", "async def f(ps):\n    p.grad\n    x / y\n    {}\n", ("async for p in ps: pass",)),
    ("CLIP008", LOOP, ("x / y",)),
    ("CLIP009", LOOP, ("x / y",)),
    ("CLIP009", FUNCTION.format("p.grad\n    x / y\n    {}"), ("for p in ps: pass",)),
    ("CLIP009", "async def f(ps):\n    p.grad\n    x / y\n    {}\n", ("async for p in ps: pass",)),
    # calls
    ("CLIP011", "from torch.nn.utils import {}\n", ("clip_grad_norm_", "get_total_norm")),
    ("CLIP011", "from torch.nn.{} import clip_grad_norm_\n", ("utils",)),
    ("CLIP002", "from torch.nn.utils import {}\n", ("clip_grad_norm",)),
    ("CLIP002", "x = {}\n", ("'torch.nn.utils.clip_grad_norm'",)),
    ("CLIP002", "clip_grad_norm\nimport {}\n", ("utils",)),
    ("CLIP003", "import torch{}\n", ("._six",)),
    ("CLIP003", "from {} import _six\n", ("torch",)),
    *((code, f"from torch.nn.utils import {{}}\n{more}", CLIPS) for code, more in (
        *(("CLIP112", ""), ("CLIP201", ""), ("CLIP202", ""), ("CLIP502", ""), ("CLIP505", ""), ("CLIP504", "")),
        *(("CLIP106", "p.grad"), ("CLIP207", "Embedding(sparse=True)"), ("CLIP304", "x.unscale_(y)"), ("CLIP306", "scale_loss(x)")),
        *(("CLIP307", "scale_loss(x).backward()"), ("CLIP403", "accelerator.backward(x)"), ("CLIP405", "FullyShardedDataParallel(x)")),
        ("CLIP411", "fabric.backward(x)"),
    )),
    ("CLIP112", "from torch.{} import clip_grad_norm_\n", ("utils", "runtime")),
    ("CLIP106", TORCH + "x.{}\n", ("grad", "data", "state_dict()")),
    ("CLIP203", "from torch.nn.utils import {}\n", (*CLIPS, "get_total_norm")),
    ("CLIP203", "from torch.{} import get_total_norm\n", ("utils", "runtime")),
    ("CLIP204", "from torch.nn.utils import {}\n", (*CLIPS, "get_total_norm")),
    ("CLIP407", "from torch.nn.utils import {}\n", (*CLIPS, "get_total_norm")),
    ("CLIP205", "from torch.nn.utils import {}\n", ("clip_grad_norm_", "clip_grad_norm")),
    ("CLIP205", "from torch.{} import clip_grad_norm_\n", ("utils", "runtime")),
    ("CLIP206", "from torch.nn.utils import {}\n", ("clip_grads_with_norm_",)),
    ("CLIP206", "from torch.{} import clip_grads_with_norm_\n", ("utils",)),
    ("CLIP207", TORCH + "{}(sparse=True)\n", ("Embedding", "EmbeddingBag")),
    ("CLIP207", TORCH + "Embedding({}=True)\n", ("sparse",)),
    ("CLIP208", "from torch.nn.utils import {}\n", ("clip_grad_value_",)),
    ("CLIP208", "from torch.{} import clip_grad_value_\n", ("utils", "runtime")),
    ("CLIP503", "from torch.nn.utils import {}\n", ("clip_grad_norm_", "clip_grad_norm")),
    ("CLIP503", "from torch.{} import clip_grad_norm_\n", ("utils", "runtime")),
    # clips, also by methods
    *((code, "{}\n" + more, ("x.clip_gradients(y)", "x.clip_grad_norm_(y)", "x.clip_grad_value_(y)", "utils.clip_grad_norm(y)", "runtime.clip_grads_with_norm_(y)")) for code, more in (
        *(("CLIP101", STEP), ("CLIP102", STEP), ("CLIP103", STEP), ("CLIP108", ""), ("CLIP109", STEP), ("CLIP114", "with suppress(x): pass")),
        *(("CLIP115", "loss.backward()\np.register_hook(x)"), ("CLIP116", STEP), ("CLIP117", STEP + "m.parameters()"), ("CLIP301", "s.scale(loss).backward()")),
        *(("CLIP305", "x.unscale_(y)"), ("CLIP401", MODULE + "def training_step(): pass"), ("CLIP404", "deepspeed.initialize(x).backward(y)"), ("CLIP406", "")),
        *(("CLIP408", "xm.optimizer_step(x)"), ("CLIP409", "from horovod import DistributedOptimizer"), ("CLIP410", MODULE + "def optimizer_step(): pass")),
        *(("CLIP413", "dist.all_reduce(x)"), ("CLIP501", "")),
    )),
    ("CLIP110", "{}\n", ("x.clip_grad_norm_(y)", "utils.clip_grad_norm(y)", "runtime.clip_grad_norm(y)")),
    ("CLIP111", "{}\n", ("x.clip_grad_norm_(y)", "utils.clip_grad_norm(y)", "runtime.clip_grad_norm(y)")),
    # the training step
    ("CLIP101", OWN + "loss.{}()\noptimizer.step()\n", ("backward", "manual_backward")),
    ("CLIP101", OWN + "loss.backward()\noptimizer.{}()\n", ("step", "optimizer_step")),
    ("CLIP102", OWN + "loss.{}()\n", ("backward", "manual_backward")),
    ("CLIP103", OWN + "loss.{}()\n", ("backward", "manual_backward")),
    ("CLIP104", STEP + "x.{}()\nclip_grad\n", ("zero_grad",)),
    ("CLIP104", STEP + "x.zero_grad()\n{}\n", ("my_clip_grads", "grad_scaler")),
    ("CLIP104", "optimizer.step()\nx.zero_grad()\nscaler\nx.{}()\n", ("backward", "manual_backward")),
    ("CLIP104", "loss.backward()\nx.zero_grad()\nscaler\nx.{}()\n", ("step", "optimizer_step")),
    ("CLIP109", OWN + "loss.backward()\noptimizer.{}()\n", ("step",)),
    ("CLIP109", OWN + "optimizer.step()\nloss.{}()\n", ("backward", "manual_backward")),
    ("CLIP114", OWN + "{}\n", ("try:\n    pass\nfinally:\n    pass", "suppress(x)")),
    ("CLIP115", OWN + "loss.backward()\nx.{}(y)\n", ("register_post_accumulate_grad_hook", "register_hook", "_apply_optimizer_in_backward", "apply_optimizer_in_backward")),
    ("CLIP115", OWN + "x.register_hook(y)\nloss.{}()\n", ("backward", "manual_backward")),
    ("CLIP116", OWN + "x.{}()\n", ("step", "optimizer_step")),
    ("CLIP117", OWN + STEP + "x.{}()\n", ("parameters", "named_parameters")),
    ("CLIP117", OWN + "loss.backward()\nx.parameters()\nx.{}()\n", ("step", "optimizer_step")),
    ("CLIP117", OWN + "x.step()\nx.parameters()\nx.{}()\n", ("backward", "manual_backward")),
    # iterators
    ("CLIP105", OWN + "{}\n", (
        *("m.parameters()", "m.named_parameters()", "m.buffers()", "filter(x, y)", "map(x, y)", "zip(x, y)", "iter(x)", "reversed(x)", "enumerate(x)"),
        *("chain(x)", "islice(x, 1)", "starmap(x, y)", "compress(x, y)", "filterfalse(x, y)", "takewhile(x, y)", "(p for p in ps)"),
    )),
    ("CLIP105", "def f(ps, m):\n    m.parameters()\n    for p in ps:\n        {}\n", ("p.grad.mul_(x / p.grad.norm())",)),
    ("CLIP107", "{};\n", (
        *(f"p.grad.{name}(1)" for name in ("clamp", "clip", "clamp_min", "clamp_max", "mul", "div", "nan_to_num", "multiply", "divide")),
        *("g = p.grad; h = g.clamp(1)",),
    )),
    # norms that are measured
    ("CLIP113", "def f(ps):\n    {}\n\nloss.backward()\n", (MEASURED.strip(), "get_total_norm(x)", "get_grad_norm(x)")),
    ("CLIP113", "def f(ps):\n    get_total_norm(x)\n\n{}\n", ("loss.backward()", "x.manual_backward(y)", "x.step()", "x.optimizer_step(y)", "def clip_it(): pass")),
    ("CLIP309", "def f(ps):\n    get_total_norm(x)\n    x.backward()\n\n{}\n", ("s.scale(x)", "Accelerator()")),
    ("CLIP309", "def f(ps):\n    get_total_norm(x)\n    s.scale(x)\n\n{}\n", ("loss.backward()", "x.manual_backward(y)")),
    ("CLIP309", "def f(ps):\n    s.scale(x).backward()\n    {}\n", (MEASURED.strip(), "get_total_norm(x)", "get_grad_norm(x)")),
    ("CLIP412", "def f(ps):\n    get_total_norm(x)\n\nx.{}\n", ("to_local()", "_local_tensor")),
    ("CLIP412", "def f(ps):\n    x.to_local()\n    {}\n", (MEASURED.strip(), "get_total_norm(x)")),
    ("CLIP506", "def f(ps):\n    get_total_norm(x)\n\nx.{}()\n", ("zero_grad",)),
    ("CLIP506", "def f(ps):\n    x.zero_grad()\n    {}\n", (MEASURED.strip(), "get_total_norm(x)")),
    ("CLIP507", OWN + "def f(ps):\n    {}\n", (MEASURED.strip(), "get_total_norm(x)")),
    ("CLIP508", "from numpy import x\n\ndef f(ps):\n    {}\n", (MEASURED.strip(), "get_total_norm(x)", "get_grad_norm(x)", *(f"{name}(x)" for name in CLIPS))),
    ("CLIP508", "import {}\n\ndef f(ps):\n    get_total_norm(x)\n", ("numpy",)),
    # mixed precision
    ("CLIP301", OWN + "loss.backward()\n{}\n", ("s.scale(x)", "self.automatic_optimization")),
    ("CLIP301", OWN + "s.scale(x)\nloss.{}()\n", ("backward", "manual_backward")),
    ("CLIP303", "x.step()\nx.{}()\n", ("unscale_", "unscale_gradients")),
    ("CLIP303", "x.unscale_()\nx.{}()\n", ("step",)),
    ("CLIP304", TORCH + "x.{}()\n", ("unscale_", "unscale_gradients")),
    ("CLIP305", OWN + "x.{}()\n", ("unscale_", "unscale_gradients")),
    ("CLIP306", TORCH + "{}(x)\n", ("scale_loss",)),
    ("CLIP307", TORCH + "x.backward()\n{}(x)\n", ("scale_loss",)),
    ("CLIP307", TORCH + "scale_loss(x)\nx.{}()\n", ("backward", "manual_backward")),
    ("CLIP308", "x.update()\nx.{}()\n", ("unscale_", "unscale_gradients")),
    ("CLIP308", "x.unscale_()\nx.{}()\n", ("update",)),
    # frameworks
    ("CLIP401", OWN + "{}\ndef training_step(): pass\n", ("LightningModule",)),
    ("CLIP401", OWN + "LightningModule\n{}\n", ("def training_step(): pass",)),
    *(("CLIP402", program, (word,)) for program, word in (
        ("Trainer(automatic_optimization, LightningModule, {}=1)\n", "gradient_clip_val"),
        ("Trainer(gradient_clip_val, LightningModule, {}=1)\n", "automatic_optimization"),
        ("Trainer(gradient_clip_val, automatic_optimization, {}=1)\n", "LightningModule"),
        ("{}(gradient_clip_val, automatic_optimization, LightningModule)\n", "Trainer"),
    )),
    ("CLIP403", TORCH + "x.backward()\n{}\n", ("accelerator", "Accelerator")),
    ("CLIP403", TORCH + "accelerator.{}()\n", ("backward",)),
    ("CLIP404", OWN + "{}.initialize(x).backward()\n", ("deepspeed",)),
    ("CLIP404", OWN + "deepspeed.{}(x).backward()\n", ("initialize",)),
    ("CLIP404", OWN + "deepspeed.initialize(x).{}()\n", ("backward",)),
    ("CLIP405", TORCH + "{}(x)\n", ("FullyShardedDataParallel",)),
    ("CLIP408", OWN + "xm.{}(x)\n", ("optimizer_step",)),
    ("CLIP409", OWN + "{}.DistributedOptimizer(x)\n", ("horovod",)),
    ("CLIP409", OWN + "horovod.{}(x)\n", ("DistributedOptimizer",)),
    ("CLIP410", OWN + "{}\ndef optimizer_step(): pass\n", ("LightningModule", "Callback")),
    ("CLIP410", OWN + "LightningModule\ndef {}(): pass\n", (
        "optimizer_step", "on_after_backward", "on_train_batch_end", "on_train_batch_start", "on_train_epoch_end", "on_before_zero_grad",
    )),
    ("CLIP411", TORCH + "{}.backward(x)\n", ("fabric",)),
    ("CLIP411", TORCH + "fabric.{}(x)\n", ("backward",)),
    # ranks
    ("CLIP413", OWN + "x.{}(y)\n", (
        *("all_reduce", "all_reduce_coalesced", "allreduce", "all_reduce_", "allreduce_"),
        *(f"{verb}_{what}" for verb in ("sync", "synchronize", "average", "reduce", "allreduce", "all_reduce") for what in ("grads", "gradients")),
    )),
    ("CLIP414", "def f(qs):\n    ps = list(qs)\n    p.grad\n    if not ps:\n        return\n    x.{}(y)\n", (
        *("all_reduce", "all_reduce_coalesced", "allreduce", "all_reduce_", "allreduce_", "all_gather", "all_gather_into_tensor"),
        *("all_gather_object", "reduce_scatter_tensor", "full_tensor"),
    )),
    ("CLIP414", "def f(qs):\n    ps = list(qs)\n    x.all_reduce(y)\n    if not ps:\n        return\n    {}\n", ("p.grad",)),
    ("CLIP414", "def f(qs):\n    ps = list(qs)\n    p.grad\n    x.all_reduce(y)\n    {}\n", ("if not ps: return",)),
]  # fmt: skip


@pytest.mark.parametrize(
    ("code", "program", "there"), [(code, program, one) for code, program, ways in ROWS for one in ways]
)
def test_a_keyword_of_a_rule(code: str, program: str, there: str) -> None:
    without, text = program.replace("{}", "other"), program.replace("{}", there)
    codes = frozenset({code})
    assert concerned(text, codes) == codes
    assert wanted(text.encode(), codes) == codes
    assert concerned(without, codes) == frozenset()


OPT_IN = {
    "CLIP004",
    "CLIP005",
    "CLIP008",
    "CLIP009",
    "CLIP010",
    "CLIP011",
    "CLIP111",
    "CLIP116",
    "CLIP205",
    "CLIP409",
    "CLIP503",
}
ERRORS = {
    *(
        "CLIP003",
        "CLIP202",
        "CLIP204",
        "CLIP206",
        "CLIP207",
        "CLIP308",
        "CLIP402",
        "CLIP406",
        "CLIP412",
        "CLIP414",
        "CLIP508",
    ),
}
NOTES = {"CLIP205", "CLIP503"}


def test_which_rules_are_opt_in_and_how_severe_their_findings_are() -> None:
    assert {code for code, rule in RULES.items() if rule.tier is Tier.OPT_IN} == OPT_IN
    assert {code for code, rule in RULES.items() if rule.severity is Severity.ERROR} == ERRORS
    assert {code for code, rule in RULES.items() if rule.severity is Severity.NOTE} == NOTES
