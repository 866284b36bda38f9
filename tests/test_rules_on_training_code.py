"""Rules on training code as people write it: what each one must be silent about, and what it must find. Silent cases first."""

from __future__ import annotations

import pytest
from test_rules_in_detail import TOTAL, f, findings, found, loop

from clipcheck.engine.file import check_file
from clipcheck.settings.keys import Settings

LIGHTNING = "import lightning as L\n"
MANUAL = (
    LIGHTNING
    + "trainer = L.Trainer(precision='16-mixed')\nclass M(L.LightningModule):\n    def __init__(self):\n        self.automatic_optimization = False\n    def training_step(self, batch):\n        self.manual_backward(loss)\n"
)
SHARD = "from torch.distributed.fsdp import fully_shard\n"
FSDP = "from torch.distributed.fsdp import FullyShardedDataParallel as FSDP\n"
CLIP = "clip_grad_norm_(model.parameters(), 1.0)"


def two_nets(between: str) -> str:
    """A GAN's step, where the second clip is of the first network's parameters; `between` comes before that clip."""
    return (
        "def run(m, n, ps, loss, xs):\n    a = torch.optim.SGD(m.parameters())\n    b = torch.optim.SGD(n.parameters())\n"
        "    for x in xs:\n        a.zero_grad()\n        B\n        clip_grad_norm_(m.parameters(), 1.0)\n        a.step()\n"
        f"        b.zero_grad()\n        B\n        {between}\n        clip_grad_norm_(m.parameters(), 3.0)\n        b.step()"
    )


CLASS_OF_TWO = (
    "class A:\n    def __init__(self, m, n):\n        self.m, self.n = m, n\n        self.a = torch.optim.SGD(self.m.parameters())\n"
    "        self.b = torch.optim.SGD(self.n.parameters())\n    def step(self, loss):\n        B\n"
    "        clip_grad_norm_(self.m.parameters(), 1.0)\n        self.b.step()\n    def other(self, loss):\n        STEPS\n"
)
HOOKED = "def hook(p):\n    opts[p].step()\n    opts[p].zero_grad()\nfor p in PARAMETERS:\n    p.register_post_accumulate_grad_hook(hook)\n"


HAVE = "[p.grad for p in ps if p.grad is not None]"


def reduced(body: str, test: str, after: str = "dist.all_reduce(torch.cat(grads))") -> str:
    """A function that leaves where a test says so, and else all-reduces."""
    return f(f"{body}\nif {test}:\n    return\n{after}", "def f(ps, n):")


def filled(fill: str, start: str = "[]") -> str:
    return f"grads = {start}\nfor p in ps:\n    " + fill.replace("\n", "\n    ")


ALL_REDUCE = "for p in model.parameters():\n    dist.all_reduce(p.grad)"
SYNC = "\ndef sync(net):\n    for p in net.parameters():\n        dist.all_reduce(p.grad)"


SILENT: dict[str, list[str]] = {
    "CLIP001": [
        # a test keeps the largest element in an attribute
        f("for p in ps:\n    self.top = max(self.top, p.grad.abs().max().item())\nassert self.top > 0", "def test_f(self, ps):"),
    ],
    "CLIP102": [
        loop("def closure():\n    loss.backward()\n    return loss\nC\noptimizer.step(closure)"),
    ],
    "CLIP103": [
        f("if resume:\n    train_epoch(optimizer)\nC\nfor x in xs:\n    B\n    S"),
        f("if warm:\n    B\nC\nfor x in xs:\n    B\n    S"),
        f("for x in xs:\n    C\n    for y in x:\n        train(y, optimizer)\n        B\n    S"),
    ],
    "CLIP104": [
        loop("B\nC\nother.zero_grad()\nS"),
        f("if x:\n    B\nZ\nS"),  # there may be nothing to clear
        f("B\nZ\nif x:\n    S\nelse:\n    train(optimizer)"),
        f("B\nif x:\n    train(optimizer)\nZ\nS"),
        loop("B\nC\nmodel.zero_grad()\nS"),  # which may not be all that the optimizer has
    ],
    "CLIP117": [
        two_nets("clip_grad_norm_(n.parameters(), 1.0)"),
        two_nets("clip_grad_norm_(ps, 1.0)"),  # whose optimizer is not known
        two_nets("clip_all(n)"),
        two_nets("p.grad.mul_(0.5)"),
        two_nets("opt.zero_grad()").replace("a.step()", "a.step()\n        opt.step()"),  # whose parameters are not known
        two_nets("clip_grad_norm_(n.parameters(), 1.0)\n        clip_grad_norm_(m.parameters(), 2.0)"),
        # what is clipped steps outside of this class only
        CLASS_OF_TWO.replace("STEPS", "pass") + "class Other:\n    def other(self, loss):\n        self.a.zero_grad()\n        B\n        self.a.step()",
    ],
    "CLIP108": [
        loop("with model.no_sync():\n    B\nB\nC\nS\nZ"),
        loop("with model.no_sync():\n    B\n    C\n    S\n    Z"),
        loop("with accelerator.accumulate(model):\n    B\n    if accelerator.sync_gradients:\n        C\n    S\n    Z"),
        loop("with torch.autocast('cuda'):\n    B\n    C\nS\nZ"),
        loop("with accumulate(model):\n    B\n    C\n    S\n    Z"),
        loop("for net in nets:\n    B\n    clip_grad_norm_(net.parameters(), 1.0)\nS\nZ"),
        loop("for y in x:\n    B\n    engine.clip_grad_norm_(1.0)\nS\nZ"),
        loop("for attempt in range(3):\n    try:\n        B\n        C\n    except RuntimeError:\n        pass\nS\nZ"),
        loop("for y in x:\n    B\n    C\n    Z\nS"),
        loop("while x:\n    B\n    C\nS\nZ"),
    ],
    "CLIP110": [
        *(f"for p in {made}:\n    clip_grad_norm_(p, 1.0)" for made in (
            *("itertools.chain(model.parameters(), batches)", "itertools.chain(*lists)", "chain(model.parameters(), ps)"),
            *("list(model.parameters()) + batches", "[*model.parameters(), batch]", "[*model.parameters(), *batches]"),
            *("table.values()", "dict(batches).values()", "group['lr']", "filter(None, batches)", "[q for q in batches]"),
            *("[f(q) for q in model.parameters()]", "reversed(batches)"),
        )),
        *(loop(f"ps = {made}\nfor p in ps:\n    clip_grad_norm_(p, 1.0)") for made in ("list(ps)", "filter(None, ps)", "[p for p in ps]", "ps + ps", "ps")),
        "def ps():\n    return ps()\nfor p in ps():\n    clip_grad_norm_(p, 1.0)",
        "def ps():\n    for p in ps():\n        yield p\nfor p in ps():\n    clip_grad_norm_(p, 1.0)",
        # another tensor than the one that is given
        "def clip(p):\n    p = p.data\n    clip_grad_norm_(p, 1.0)\nfor p in model.parameters():\n    clip(p)",
        "for m in model.modules():\n    if m.training:\n        clip_grad_norm_(m.parameters(), 1.0)",
    ],
    "CLIP111": [
        "for group in optimizer.param_groups:\n    clip_grad_norm_(group['params'], group['max_norm'])",
        "for group in optimizer.param_groups:\n    clip_grad_norm_(group['lr'], 1.0)",
        "for m in models:\n    clip_grad_norm_(m.parameters(), 1.0)\n    m.optimizer.step()",
        "for i in range(3):\n    clip_grad_norm_(model.parameters(), 1.0)",
        "clip_grad_norm_(group['params'], 1.0)",
        "def clip(g, limit):\n    clip_grad_norm_(g['params'], limit)\nfor g in optimizer.param_groups:\n    clip(g, g['max_norm'])",
        "def clip(g):\n    clip_grad_norm_(g['params'], g['max_norm'])\nfor g in optimizer.param_groups:\n    clip(g)",
        "def clip(g):\n    clip_grad_norm_(g['params'], 1.0)\nclip(optimizer.param_groups[0])",
        "def clip(g):\n    clip_grad_norm_(g['params'], 1.0)\nfor g in optimizer.param_groups:\n    clip(other)",
        "def clip(m):\n    ps = m.body.parameters()\n    clip_grad_norm_(ps, 1.0)\nfor m in models:\n    clip(other)",
    ],
    "CLIP113": [
        # which one it is, is not known
        "try:\n    from a import get_grad_norm\nexcept ImportError:\n    from b import get_grad_norm\n" + f("B\nget_grad_norm(model)\nS"),
    ],
    "CLIP116": [
        loop("if x:\n    C\n    engine.backward()\nelse:\n    engine.step()"),
    ],
    "CLIP115": [
        HOOKED.replace("PARAMETERS", "encoder.parameters()") + f("for x in xs:\n    B\n    engine.clip_grad_norm_(1.0)"),
        *(HOOKED.replace("PARAMETERS", "encoder.parameters()") + f(f"for i, x in enumerate(xs):\n    {body}") for body in (
            "if x:\n        B\n    else:\n        train_one(x)\n    clip_grad_norm_(encoder.parameters(), 1.0)",
            "if x:\n        B\n    p.grad.mul_(2)\n    clip_grad_norm_(encoder.parameters(), 1.0)",
            "B\n    clip_grad_norm_(encoder.parameters(), 1.0)\n    S",
            "clip_grad_norm_(encoder.parameters(), 1.0)\n    S",
            "B\n    if not fused:\n        clip_grad_norm_(encoder.parameters(), 1.0)",
            "B\n    if max_norm and not fused:\n        clip_grad_norm_(encoder.parameters(), max_norm)",
        )),
        HOOKED.replace("PARAMETERS", "encoder.parameters()").replace("    opts[p].step()", "    clip_grad_norm_(p, 1.0)\n    opts[p].step()") + f("for x in xs:\n    B"),
        HOOKED.replace("PARAMETERS", "encoder.parameters()") + f("clip_grad_norm_(encoder.parameters(), 1.0)"),  # of what was there
        # the hooks are another module's
        HOOKED.replace("PARAMETERS", "encoder.parameters()") + f("for x in xs:\n    B\n    clip_grad_norm_(decoder.parameters(), 1.0)\n    S"),
    ],
    "CLIP304": [
        loop("SB\nU\nclip_grad_norm_(ps, 1.0, error_if_nonfinite=False)\nSS\nUP"),
        loop("SB\nU\nclip_grad_norm_(ps, 1.0, error_if_nonfinite=strict)\nSS\nUP"),
        loop("SB\nU\ntry:\n    clip_grad_norm_(ps, 1.0, error_if_nonfinite=True)\nexcept RuntimeError:\n    continue\nSS\nUP"),
        loop("B\nclip_grad_norm_(ps, 1.0, error_if_nonfinite=True)\nS"),
    ],
    "CLIP401": [
        LIGHTNING + "C\nclass M(L.LightningModule):\n    def training_step(self, batch):\n        return loss",
        LIGHTNING + "class M(L.LightningModule):\n    def training_step(self, batch):\n        C\n    def by_hand(self, loss):\n        self.manual_backward(loss)",
        LIGHTNING + "class M(L.LightningModule):\n    @property\n    def automatic_optimization(self):\n        return False\n    def training_step(self, batch):\n        C",
    ],
    "CLIP403": [
        loop("if fast:\n    accelerator.backward(loss)\nclip(model)\nS") + "\ndef clip(model):\n    if fast:\n        C\n    else:\n        accelerator.clip_grad_norm_(model.parameters(), 1.0)",
    ],
    "CLIP407": [
        SHARD + "fully_shard(model)\ndef norm():\n    return norm()\nprint(f'{norm():.2f}')",
        SHARD + "fully_shard(model)\ndef norm():\n    return loss, norm()[1]\n_, n = norm()\nprint(f'{n:.2f}')",
        SHARD + "fully_shard(model)\n" + loop("n = n\nprint(f'{n:.2f}')"),
        SHARD + "fully_shard(model)\n" + loop("d = {}\nd['n'] = d['n']\nprint(f\"{d['n']:.2f}\")"),
        SHARD + "fully_shard(model)\ndef show(n):\n    show(n)\n    print(f'{n:.2f}')",
    ],
    "CLIP413": [
        f(f"B\n{ALL_REDUCE}\nC\nS"),
        f(f"B\nC\nS\n{ALL_REDUCE}"),
        f(f"{ALL_REDUCE}\nB\nC\nS\nB\n{ALL_REDUCE}\nS"),
        f(f"B\nC\n{ALL_REDUCE.replace('model', 'other')}\nS"),
        f(f"B\nC\n{ALL_REDUCE.replace('model', 'models')}\nS"),
        f("B\nif x:\n    C\nelse:\n    dist.all_reduce(p.grad)\nS"),
        f("B\nC\ndist.all_reduce(loss)\nS"),
        f("B\nC\nsync(other)\nS") + SYNC,
        f("B\nsync(model)\nC\nS") + SYNC,
        f("B\nC\nmodel.sync()\nS") + "\nclass One:\n    def sync(self):\n        dist.all_reduce(self.w.grad)\nclass Two:\n    def sync(self):\n        pass",
        f("B\nC\nmodel.sync()\nS") + "\ndef sync():\n    dist.all_reduce(w.grad)",
        f("B\nC\nmodel.sync()\nS") + "\nclass One:\n    def run(self):\n        def sync():\n            dist.all_reduce(w.grad)",
        # a function of the file that is called as if it reduced
        "class A:\n    def sync_gradients(self, model):\n        pass\n    def step(self, model, loss, optimizer):\n        B\n        C\n        self.sync_gradients(model)\n        S",
    ],
    "CLIP504": [
        # a norm whose type is not known may be another one
        f("norm = get_total_norm([p.grad for p in ps])\nclip_grad_norm_(ps, 1.0, norm_type=kind(ps))\nlog(norm)"),
        f("norm = get_total_norm([p.grad for p in ps])\nclip_grad_norm_(ps, 1.0, norm_type=3)\nlog(norm)"),
    ],
    "CLIP202": [
        # an object that has a list of parameters
        "net.parameters = []\nclip_grad_norm_(net.parameters, 1.0)",
        "class Net:\n    @property\n    def parameters(self):\n        return self.ps\nclip_grad_norm_(net.parameters, 1.0)",
        "for p in net.parameters:\n    log(p)\nclip_grad_norm_(net.parameters, 1.0)",
        "clip_grad_norm_(optimizer.param_groups[0]['params'], 1.0)",
        "for group in optimizer.param_groups:\n    clip_grad_norm_(group['params'], 1.0)",
        "for group in groups:\n    clip_grad_norm_(group, 1.0)",
        "group = optimizer.param_groups[0]\nif x:\n    group = model.parameters()\nclip_grad_norm_(group, 1.0)",
    ],
    "CLIP412": [
        # the norms are kept one by one; another total is returned
        f(f"norms = []\nfor p in ps:\n    norms.append(p.grad.to_local().norm())\nlog(norms)\nreturn {TOTAL}"),
    ],
    "CLIP414": [
        *(reduced(f"grads = {HAVE}", test) for test in (
            *("grads", "len(grads)", "len(grads) > 0", "len(grads) != 0", "len(grads) >= 1", "len(grads) < n", "len(grads) == 1"),
            *("len(grads) > 1", "len(ps) == 0", "not ps", "n == 0", "not n", "any(grads)", "grads != []", "grads is not None"),
            *("all(p.grad is not None for p in ps)", "not any(p.requires_grad for p in ps)", "not all(p.grad is None for p in ps)"),
        )),
        reduced("grads = list(filter(None, ps))", "not grads"),
        reduced("grads = [p for p in ps if p.grad is None]", "not grads"),
        reduced("grads = [p for p in ps]", "not grads"),
        reduced("count = sum(p.numel() for p in ps)", "count == 0"),
        reduced(filled("if p.grad is None:\n    grads.append(p)"), "not grads"),
        reduced(filled("grads.append(p)"), "not grads"),
        reduced(filled("grads.append(p.grad)", "[zero]"), "not grads"),
        # the ranks know of each other
        reduced(f"grads = {HAVE}\ncount = torch.tensor(len(grads))\ndist.all_reduce(count)", "count == 0"),
        f(f"grads = {HAVE}\nif not grads:\n    dist.all_reduce(zero)\n    return\ndist.all_reduce(torch.cat(grads))", "def f(ps):"),
        # nothing that the others wait for
        reduced(f"grads = {HAVE}", "not grads", "log(grads)"),
        reduced(f"grads = {HAVE}", "not grads", "mine.all_reduce(grads)"),
        reduced(f"grads = {HAVE}", "not grads", "grads[0].full_tensor(grads)"),
        f(f"grads = {HAVE}\nif not grads:\n    return\nelse:\n    log(grads)", "def f(ps):"),
    ],
    "CLIP501": [
        "for x in xs:\n    self.log('clipped_norm', norm)\n    norm = clip_grad_norm_(ps, 1.0)",
    ],
    "CLIP506": [
        f(f"Z\nn = {TOTAL}\nassert n < 1e-6"),
        f(f"Z\nn = {TOTAL}\nif n == 0:\n    log('cleared')"),
        f(f"Z\nn = {TOTAL}\nif 0 < n:\n    log('not cleared')"),
        f(f"Z\nlog({TOTAL})", "def test_f(ps, optimizer, log):"),
        f("for p in ps:\n    p.grad = None\nlog(TOTAL)").replace("TOTAL", TOTAL),
        # those of another network are cleared
        f("a = torch.optim.SGD(m.parameters())\nb = torch.optim.SGD(n.parameters())\na.zero_grad()\nlog(clip_grad_norm_(n.parameters(), math.inf))"),
    ],
    "CLIP507": [
        f("B\nclip_grad_norm_(ps, 1.0)\ngs = torch.autograd.grad(loss, ps)\nlog('grad_norm', get_total_norm(gs))\nS"),
    ],
    "CLIP508": [
        "norms = []\nnorms.append(clip_grad_norm_(ps, 1.0))\nnp.mean(norms[1:])",
        "norms = []\nnorms.append(clip_grad_norm_(ps, 1.0))\nnorms = list(others)\nnp.mean(norms)",
        "def show(n):\n    show(n)\n    np.log(n)",
        "def norm():\n    return norm()\nnp.log(norm())",
        *(loop(f"n = {made}\nnp.log(n)") for made in ("n", "n * 2", "2 * n", "n.sqrt()", "(m := n)")),
        "norms = []\nnorms.append(clip_grad_norm_(ps, 1.0))\nnorms.extend(others)\nnp.mean(norms)",
        "norms = []\nnorms.append(clip_grad_norm_(ps, 1.0))\nnorms.insert(0, 1.0)\nnp.mean(norms)",
        f("norm = clip_grad_norm_(ps, 1.0)\nif isinstance(norm, torch.Tensor):\n    raise TypeError\nnp.log(norm)"),
        f("norm = clip_grad_norm_(ps, 1.0)\nreturn isinstance(norm, float) and np.log(norm)"),
        f("norm = clip_grad_norm_(ps, 1.0)\nreturn torch.is_tensor(norm) or np.log(norm)"),
        f("norm = clip_grad_norm_(ps, 1.0)\nreturn norm if torch.is_tensor(norm) else np.log(norm)"),
    ],
    "CLIP301": [
        MANUAL + "        self.optimizers().step()",
        # some gradients are scaled elsewhere, others are computed here
        f("if x:\n    B\nC\nSS\nUP") + "\ndef other(loss):\n    SB",
        f("C\nif x:\n    SS\nelse:\n    B\nUP") + "\ndef other(loss):\n    SB",
        MANUAL + "        self.log('loss', loss)",
    ],
    "CLIP303": [
        loop("SB\nfor opt in opts:\n    scaler.unscale_(opt)\nSS\nUP"),
        loop("SB\nfor scaler in scalers:\n    U\nSS\nUP"),
        loop("SB\nfor opt in opts:\n    optimizer = opt\n    scaler.unscale_(optimizer)\nSS\nUP"),
        loop("SB\nfor part in parts:\n    U\n    break\nSS\nUP"),
        loop("SB\nfor part in parts:\n    if part:\n        continue\n    U\nSS\nUP"),
        loop("SB\nfor part in parts:\n    U\n    SS\n    UP"),
        loop("SB\nfor part in parts:\n    U\n    train(part, optimizer)\nSS\nUP"),
        loop("SB\nfor part in parts:\n    helper.unscale_(optimizer)\nSS\nUP"),
        loop("SB\nwhile not ready():\n    U\nSS\nUP"),
    ],
    "CLIP406": [
        *(SHARD + f(f"if {test}:\n    C") for test in (
            *("rank > 0", "rank >= 0", "rank < 8", "rank == 1", "rank != 0", "rank", "rank in ranks", "rank in (0, 1)"),
            *("rank not in (-1, 0)", "flags['clip']", "not is_main_process()", "is_mainly_cpu.rank", "rank == 0 or clipping"),
        )),
    ],
    # what is computed from itself
    "CLIP007": [
        "param_norm = get_total_norm(model.parameters())",
        *(f"grad_norm = get_total_norm({tensors})" for tensors in (
            *("ps", "model.buffers()", "set(model.parameters())", "[n for n, p in model.named_parameters()]", "[q for p in model.parameters()]"),
            *("[p for p, n in model.named_parameters()]", "[p.grad for p in model.parameters()]", "[p for n, p in model.named_buffers()]"),
        )),
        "ps = model.parameters()\nif x:\n    ps = grads\ngrad_norm = get_total_norm(ps)",
        *(loop(f"ps = {made}\nget_total_norm(ps)") for made in ("list(ps)", "filter(None, ps)", "[p for p in ps]")),
    ],
    "CLIP105": [
        "def show(ps):\n    for p in ps:\n        print(p)\nps = model.parameters()\noptimizer = torch.optim.SGD(ps)\nshow(ps)",
        "class A:\n    def f(self):\n        self.ps = a.parameters()\n        optimizer = torch.optim.SGD(self.ps)\n        self.ps = b.parameters()\n        clip_grad_norm_(self.ps, 1.0)",
        "class A:\n    def f(self):\n        if x:\n            self.ps = a.parameters()\n            optimizer = torch.optim.SGD(self.ps)\n        else:\n            clip_grad_norm_(self.ps, 1.0)",
    ],
    "CLIP106": [
        *(loop(f"gs = {made}\nclip_grad_norm_(gs, 1.0)") for made in (
            *("list(gs)", "filter(None, gs)", "gs.values()", "gs + gs", "gs if x else gs", "map(lambda p: p, gs)", "gs"),
        )),
        "def gs():\n    return gs()\nclip_grad_norm_(gs(), 1.0)",
        "class A:\n    def f(self):\n        self.gs = self.gs\n    def g(self):\n        clip_grad_norm_(self.gs, 1.0)",
        *(f"clip_grad_norm_({name}([p.grad for p in ps]), 1.0)" for name in ("owners", "reduce_to_parameters", "ps.of")),
    ],
    "CLIP107": [
        "class A:\n    g = p.grad\n    g = g.clamp(-1, 1)",  # read as `A.g`
        "g = p.grad\nif x:\n    g = g.clamp(-1, 1)",
    ],
}  # fmt: skip


@pytest.mark.parametrize(("code", "body"), [(code, body) for code, bodies in SILENT.items() for body in bodies])
def test_silent(code: str, body: str) -> None:
    assert found(body, code) == []


FOUND: dict[str, list[tuple[str, list[str]]]] = {
    "CLIP001": [
        (f("self.total = 0.0\nfor p in ps:\n    self.total += p.grad.norm().item() ** 2\nassert self.total", "def test_f(self, ps):"), ["self.total += p.grad.norm().item() ** 2"]),
    ],
    "CLIP102": [
        (loop("Z\nC\ncompute(loss)\nS") + "\ndef compute(loss):\n    loss.backward()", [CLIP]),
    ],
    "CLIP117": [
        (two_nets("pass"), ["clip_grad_norm_(m.parameters(), 3.0)"]),
        (two_nets("for part in parts:\n            clip_grad_norm_(m.parameters(), 2.0)"), ["clip_grad_norm_(m.parameters(), 2.0)", "clip_grad_norm_(m.parameters(), 3.0)"]),
        (CLASS_OF_TWO.replace("STEPS", "self.a.zero_grad()\n        B\n        self.a.step()"), ["clip_grad_norm_(self.m.parameters(), 1.0)"]),
        (two_nets("clip_grad_norm_(m.parameters(), 2.0)"), ["clip_grad_norm_(m.parameters(), 2.0)", "clip_grad_norm_(m.parameters(), 3.0)"]),
    ],
    "CLIP007": [
        *((f"grad_norm = get_total_norm({tensors})", [f"grad_norm = get_total_norm({tensors})"]) for tensors in (
            *("model.parameters()", "list(model.parameters())", "tuple(model.parameters())", "filter(None, model.parameters())"),
            *("[p for p in model.parameters()]", "(p for n, p in model.named_parameters())", "[p for n, p in model.named_parameters() if n]"),
        )),
        ("ps = model.parameters()\ngrad_norm = get_total_norm(ps)", ["grad_norm = get_total_norm(ps)"]),
        ("n = get_total_norm(model.parameters())\nclip_grads_with_norm_(model.parameters(), 1.0, n)", ["n = get_total_norm(model.parameters())"]),
    ],
    "CLIP008": [
        # one that is not clamped does not end the search
        (f("for p in ps:\n    p.grad.mul_(max_norm / total_norm)\nfor p in ps:\n    p.grad.mul_(min(1.0, max_norm / total_norm))"), ["p.grad.mul_(min(1.0, max_norm / total_norm))"]),
    ],
    "CLIP105": [
        ("ps = model.parameters()\noptimizer = torch.optim.SGD(ps)\nclip_grad_norm_(ps, 1.0)\nps = list(model.parameters())", ["clip_grad_norm_(ps, 1.0)"]),
        ("ps = model.parameters()\noptimizer = torch.optim.SGD(ps)\nnorms = [clip_grad_norm_(ps, 1.0) for _ in range(1)]\nps = list(model.parameters())", ["norms = [clip_grad_norm_(ps, 1.0) for _ in range(1)]"]),
        ("def train(ps):\n    optimizer = torch.optim.SGD(ps)\n    clip_grad_norm_(ps, 1.0)\nps = model.parameters()\ntrain(ps)\nps = list(model.parameters())", ["train(ps)"]),
        ("ps = model.parameters()\ndef step():\n    clip_grad_norm_(ps, 1.0)\noptimizer = torch.optim.SGD(ps)", ["clip_grad_norm_(ps, 1.0)"]),
        ("if x:\n    ps = model.parameters()\n    optimizer = torch.optim.SGD(ps)\n    clip_grad_norm_(ps, 1.0)\nelse:\n    ps = list(model.parameters())", ["clip_grad_norm_(ps, 1.0)"]),
        ("if x:\n    ps = list(model.parameters())\nelse:\n    ps = model.parameters()\n    optimizer = torch.optim.SGD(ps)\n    clip_grad_norm_(ps, 1.0)", ["clip_grad_norm_(ps, 1.0)"]),
        ("ps = model.parameters()\noptimizer = torch.optim.SGD(ps)\naccelerator.clip_grad_norm_(ps, 1.0)", ["accelerator.clip_grad_norm_(ps, 1.0)"]),
        ("ps = model.parameters()\noptimizer = torch.optim.SGD(ps)\naccelerator.clip_grad_value_(ps, 1.0)", ["accelerator.clip_grad_value_(ps, 1.0)"]),
    ],
    "CLIP108": [
        (loop("with accelerator.accumulate(model):\n    B\n    C\n    S\n    Z"), [CLIP]),
        (loop("with accelerator.accumulate(model):\n    B\n    clip(model)\n    S\n    Z") + "\ndef clip(model):\n    C", ["clip(model)"]),
        (loop("for y in x:\n    B\n    C\nS\nZ"), [CLIP]),
        (loop("for y in x:\n    B\nfor y in x:\n    B\n    C\nS\nZ"), [CLIP]),
    ],
    "CLIP106": [
        *((f"clip_grad_norm_({name}([p.grad for p in ps]), 1.0)", [f"clip_grad_norm_({name}([p.grad for p in ps]), 1.0)"]) for name in ("list", "tuple", "iter", "reversed")),
    ],
    "CLIP110": [
        *((f"import itertools\nfor p in {made}:\n    clip_grad_norm_(p, 1.0)", ["clip_grad_norm_(p, 1.0)"]) for made in (
            *("itertools.chain(one.parameters(), other.parameters())", "list(one.parameters()) + list(other.parameters())"),
            *("[*one.parameters(), *other.parameters()]", "(*one.parameters(), *other.parameters())", "group['params']"),
            *("dict(model.named_parameters()).values()", "filter(None, model.parameters())", "[q for q in model.parameters()]"),
            *("(q for q in model.parameters())", "reversed(list(model.parameters()))", "tuple(model.parameters())"),
        )),
        ("for i, p in enumerate(model.parameters()):\n    clip_grad_norm_(p, 1.0)", ["clip_grad_norm_(p, 1.0)"]),
        ("for n, p in dict(model.named_parameters()).items():\n    clip_grad_norm_(p, 1.0)", ["clip_grad_norm_(p, 1.0)"]),
        ("table = dict(model.named_parameters())\nfor p in table.values():\n    clip_grad_norm_(p, 1.0)", ["clip_grad_norm_(p, 1.0)"]),
        ("list(map(lambda p: clip_grad_norm_(p, 1.0), model.parameters()))", ["list(map(lambda p: clip_grad_norm_(p, 1.0), model.parameters()))"]),
    ],
    "CLIP111": [
        ("for group in optimizer.param_groups:\n    clip_grad_norm_(group['params'], 1.0)", ["clip_grad_norm_(group['params'], 1.0)"]),
        ("for m in (one, other):\n    clip_grad_norm_(m.parameters(), 1.0)", ["clip_grad_norm_(m.parameters(), 1.0)"]),
        ("for params in groups:\n    clip_grad_norm_(params, 1.0)", ["clip_grad_norm_(params, 1.0)"]),
        ("[clip_grad_norm_(m.parameters(), 1.0) for m in models]", ["[clip_grad_norm_(m.parameters(), 1.0) for m in models]"]),
        ("def clip(g):\n    clip_grad_norm_(g['params'], 1.0)\nfor g in optimizer.param_groups:\n    clip(g)", ["clip(g)"]),
        ("def clip(ps, limit):\n    clip_grad_norm_(ps, limit)\nfor g in optimizer.param_groups:\n    clip(g['params'], 1.0)", ["clip(g['params'], 1.0)"]),
        ("def clip(ps):\n    clip_grad_norm_(ps, 1.0)\nfor m in models:\n    clip(list(m.parameters()))", ["clip(list(m.parameters()))"]),
    ],
    "CLIP115": [
        *((HOOKED.replace("PARAMETERS", "encoder.parameters()") + f(f"for i, x in enumerate(xs):\n    {body}"), [line]) for body, line in (
            ("B\n    clip_grad_norm_(encoder.parameters(), 1.0)\n    if x:\n        S", "clip_grad_norm_(encoder.parameters(), 1.0)"),
            ("B\n    if i % 4 == 0:\n        clip_grad_norm_(encoder.parameters(), 1.0)", "clip_grad_norm_(encoder.parameters(), 1.0)"),
            ("B\n    if max_norm:\n        clip_grad_norm_(encoder.parameters(), max_norm)", "clip_grad_norm_(encoder.parameters(), max_norm)"),
            ("B\n    if max_norm is not None:\n        clip_grad_norm_(encoder.parameters(), max_norm)", "clip_grad_norm_(encoder.parameters(), max_norm)"),
            ("B\n    clip_grad_norm_(model.encoder.parameters(), 1.0)", "clip_grad_norm_(model.encoder.parameters(), 1.0)"),
            ("B\n    clip_grad_norm_(ps, 1.0)", "clip_grad_norm_(ps, 1.0)"),
        )),
        # a hook on one tensor, which may be any
        ("def hook(p):\n    opts[p].step()\n    opts[p].zero_grad()\nweight.register_post_accumulate_grad_hook(hook)\n" + f("for x in xs:\n    B\n    clip_grad_norm_(encoder.parameters(), 1.0)"), ["clip_grad_norm_(encoder.parameters(), 1.0)"]),
        (HOOKED.replace("PARAMETERS", "encoder.parameters()") + f("for x in xs:\n    B\n    clip_grad_norm_(encoder.parameters(), 1.0)"), ["clip_grad_norm_(encoder.parameters(), 1.0)"]),
    ],
    "CLIP202": [
        *((f"clip_grad_norm_({given}, 1.0)", [f"clip_grad_norm_({given}, 1.0)"]) for given in (
            *("optimizer.param_groups[1:]", "optimizer.param_groups[0]", "optimizer.param_groups[i]", "net.parameters"),
            *("list(optimizer.param_groups)", "tuple(model.named_parameters())", "[model.parameters()]"),
        )),
        *((f"for group in {groups}:\n    clip_grad_norm_(group, 1.0)", ["clip_grad_norm_(group, 1.0)"]) for groups in ("optimizer.param_groups", "optimizer.param_groups[1:]")),
        ("group = optimizer.param_groups[0]\nclip_grad_norm_(group, 1.0)", ["clip_grad_norm_(group, 1.0)"]),
        ("log(net.parameters)\nclip_grad_norm_(net.parameters, 1.0)", ["clip_grad_norm_(net.parameters, 1.0)"]),
        ("class A:\n    def __init__(self):\n        self.net = nn.Linear(2, 2)\n    def step(self):\n        clip_grad_norm_(self.net, 1.0)", ["clip_grad_norm_(self.net, 1.0)"]),
        ("class A:\n    def __init__(self):\n        self.opt = torch.optim.SGD(ps)\n    def step(self):\n        clip_grad_norm_(self.opt, 1.0)", ["clip_grad_norm_(self.opt, 1.0)"]),
    ],
    # what one function does is reported there, and not again where it is called
    "CLIP304": [
        (loop("SB\nU\nclip_grad_norm_(ps, 1.0, error_if_nonfinite=True)\nSS\nUP"), ["clip_grad_norm_(ps, 1.0, error_if_nonfinite=True)"]),
        (loop("SB\nU\nclip_grad_norm_(ps, 1.0, 2.0, True)\nSS\nUP"), ["clip_grad_norm_(ps, 1.0, 2.0, True)"]),
    ],
    "CLIP309": [
        (loop("train(ps, loss)") + "\ndef train(ps, loss):\n    SB\n    log('grad_norm', get_total_norm([p.grad for p in ps]))", ["log('grad_norm', get_total_norm([p.grad for p in ps]))"]),
    ],
    "CLIP403": [
        (loop("train(model, loss)\nS") + "\ndef train(model, loss):\n    accelerator.backward(loss)\n    C", [CLIP]),
    ],
    "CLIP407": [
        *((SHARD + f"fully_shard(model)\nnorm = clip_grad_norm_(ps, 1.0)\n{use}", [use]) for use in (
            *("print('{{n}} {:.2f}'.format(norm))", "print('{} {:.2f} steps'.format(1, norm))", "print('{1:.2f} {0}'.format(1, norm))"),
        )),
    ],
    "CLIP405": [
        (FSDP + "model = FSDP(model)\ndef step():\n    clip_grad_norm_(model.parameters(), 1.0)", [CLIP]),
        (FSDP + "def step(model):\n    model = FSDP(model)\n    clip_grad_norm_(model.parameters(), 1.0)", [CLIP]),
        (FSDP + "model = torch.compile(FSDP(model))\nclip_grad_norm_(model.parameters(), 1.0)", [CLIP]),
    ],
    "CLIP413": [
        (f(f"B\nC\n{ALL_REDUCE}\nS"), [CLIP]),
        (f(f"B\nC\n{ALL_REDUCE.replace('model', 'model.head')}\nS"), [CLIP]),
        (f(f"{ALL_REDUCE}\nB\nC\n{ALL_REDUCE}\nS"), [CLIP]),
        (f("B\nC\nsync(model)\nS") + SYNC, [CLIP]),
        (f("B\nC\nsync(net=model.head)\nS") + SYNC, [CLIP]),
        (f("B\nC\ndist.all_reduce(p.grad)\nS"), [CLIP]),
        (f("B\nC\nmodel.sync()\nS") + "\nclass One:\n    def sync(self):\n        dist.all_reduce(self.w.grad)", [CLIP]),
        (loop("B\nclip_grad_norm_(model.head.parameters(), 1.0)\nsync(model)\nS") + SYNC, ["clip_grad_norm_(model.head.parameters(), 1.0)"]),
    ],
    "CLIP414": [
        *((reduced(f"grads = {HAVE}", test), ["return"]) for test in (
            *("not grads", "len(grads) == 0", "len(grads) <= 0", "len(grads) < 1", "not len(grads)", "grads == []", "not bool(grads)"),
            *("not any(p.grad is not None for p in ps)", "all(p.grad is None for p in ps)", "n > 1 or not grads", "not grads and n"),
            *("not (have := grads)", "(count := len(grads)) == 0"),
        )),
        *((reduced(made, "not grads"), ["return"]) for made in (
            *(f"grads = list({HAVE})", f"grads = tuple({HAVE})", "grads = list(filter(lambda p: p.grad is not None, ps))"),
            *(filled("if p.grad is not None:\n    grads.append(p)"), filled("grads.append(p.grad)"), filled("grads.extend([p.grad])")),
            *(filled("grads[p] = p.grad", "{}"), filled("grads.add(p.grad)", "set()"), filled("grads = grads + [p.grad]")),
        )),
        (reduced(filled("grads = p.grad", "None"), "grads is None"), ["return"]),
        *((reduced(f"count = {count}", "count == 0"), ["return"]) for count in (
            *(f"len({HAVE})", "sum(1 for p in ps if p.grad is not None)", "sum(p.grad is not None for p in ps)"),
        )),
        (f(f"grads = {HAVE}\nif grads:\n    log(grads)\nelse:\n    return\ndist.all_reduce(torch.cat(grads))", "def f(ps):"), ["return"]),
        *((reduced(f"grads = {HAVE}", "not grads", after) + "\ndef total(grads):\n    dist.all_reduce(grads)", ["return"]) for after in (
            *("grads[0].full_tensor()", "torch.distributed.all_reduce(grads)", "total(grads)", "dist.all_gather(xs, grads)"),
        )),
    ],
    "CLIP501": [
        ("for x in xs:\n    self.log('norm', norm)\n    norm = clip_grad_norm_(ps, 1.0)\n    self.log('clipped_norm', norm)", ["self.log('clipped_norm', norm)"]),
        ("self.log('clipped_norm', clip_grad_norm_(ps, 1.0).item())", ["self.log('clipped_norm', clip_grad_norm_(ps, 1.0).item())"]),
        ("log({'clipped_norm': clip_grad_norm_(ps, 1.0).clone().float()})", ["log({'clipped_norm': clip_grad_norm_(ps, 1.0).clone().float()})"]),
    ],
    "CLIP503": [
        (f("for x in xs:\n    norm = clip_grad_norm_(ps, 1.0)\n    keep(norm)\n    log(norm.item())"), ["log(norm.item())"]),
    ],
    "CLIP504": [
        *((f(f"norm = get_total_norm([p.grad for p in ps])\nclip_grad_norm_(ps, 1.0{kind})\nlog(norm)"), ["norm = get_total_norm([p.grad for p in ps])"]) for kind in ("", ", norm_type=2", ", 2.0")),
    ],
    "CLIP508": [
        (f("one = clip_grad_norm_(ps, 1.0)\ntwo = clip_grad_norm_(qs, 1.0)\nif isinstance(one, float):\n    np.maximum(one, two)"), ["np.maximum(one, two)"]),
        ("norms = []\nnorms.append(clip_grad_norm_(ps, 1.0))\nnp.mean(norms)\nnorms.clear()", ["np.mean(norms)"]),
        (f("norm = clip_grad_norm_(ps, 1.0)\nreturn torch.is_tensor(norm) and np.log(norm)"), ["return torch.is_tensor(norm) and np.log(norm)"]),
    ],
    "CLIP301": [
        (f("C\nSS\nUP") + "\ndef other(loss):\n    SB", [CLIP]),
        # a module with automatic optimization comes first
        (MANUAL.replace("class M", "class N(L.LightningModule):\n    pass\nclass M") + f"        {CLIP}", [CLIP]),
        (MANUAL + f"        {CLIP}\n        self.optimizers().step()", [CLIP]),
    ],
    "CLIP303": [
        (loop("SB\nfor part in parts:\n    U\n    clip_grad_norm_(part.parameters(), 1.0)\nSS\nUP"), ["scaler.unscale_(optimizer)"]),
    ],
    "CLIP406": [
        *((SHARD + f(f"if {test}:\n    C"), [CLIP]) for test in (
            *("rank == 0", "self.rank == 0", "rank in (-1, 0)", "rank in [0, -1]", "not rank", "is_main_process()"),
            *("accelerator.is_main_process", "clipping and rank == 0", "not (rank != 0)", "not (rank or clipping)"),
        )),
    ],
}  # fmt: skip


@pytest.mark.parametrize(("code", "body", "lines"), [(code, *case) for code, cases in FOUND.items() for case in cases])
def test_found(code: str, body: str, lines: list[str]) -> None:
    assert found(body, code) == lines


@pytest.mark.parametrize("call", ["torch.nn.utils.get_total_norm(grads)", "torch.nn.utils.clip_grad_norm_(ps, 1.0)"])
def test_the_runtime_is_offered_for_each_of_torchs_functions(call: str) -> None:
    report = check_file("x.py", f"import torch\n{call}\n".encode(), Settings(codes=frozenset({"CLIP011"})))
    assert [finding.place.line for finding in report.findings] == [2]


# Findings whose fix would change more than the mistake, or would leave it.
NO_FIX: dict[str, list[str]] = {
    "CLIP110": [
        "for p in model.parameters():\n    # each on its own\n    clip_grad_norm_(p, 1.0)",
        "for p in model.parameters():\n    clip_grad_norm_(p, 1.0)\nelse:\n    pass",
    ],
    "CLIP405": [
        FSDP + "model = FSDP(model)\nclip_grad_norm_(\n    model.parameters(),\n    1.0,  # as in the paper\n)",
        FSDP + "model = FSDP(model)\nps = model.parameters()\nclip_grad_norm_(ps, 1.0)",
        FSDP + "model = FSDP(model)\nclip_grad_norm_(model.parameters(), 1.0, foreach=True)",
    ],
    "CLIP112": [
        "clip_grad_norm_([*model.parameters(), *model.head.parameters()], 1.0)",
        "clip_grad_norm_(chain(model.parameters(), model.head.parameters()), 1.0)",
    ],
    "CLIP205": [
        "clip_grad_norm_((p for p in ps), math.inf)",
        "clip_grad_norm_(make(ps), math.inf)",
        "clip_grad_norm_(ps, math.inf, foreach=True)",
        "clip_grad_norm_(ps, max_norm=math.inf, **options)",
    ],
    "CLIP206": [
        "n = get_total_norm(gs).item()\nlog(n)\nclip_grads_with_norm_(ps, 1.0, n)",
        "clip_grads_with_norm_(ps, 1.0, float(x=norm))",
    ],
    "CLIP304": [
        loop("SB\nU\nclip_grad_norm_(ps, 1.0, 2.0, True)\nSS\nUP"),
        loop("SB\nU\nclip_grad_norm_(\n    ps,\n    1.0,  # as in the paper\n    error_if_nonfinite=True,\n)\nSS\nUP"),
    ],
    "CLIP409": [
        "import horovod.torch as hvd\n"
        + f("optimizer = hvd.DistributedOptimizer(optimizer)\nfor x in xs:\n    B\n    C\n    loss = optimizer.step()"),
    ],
    "CLIP507": [
        f(
            "B\nclip_grad_norm_(ps, 1.0, norm_type=kind(ps))\ngrad_norm = get_total_norm([p.grad for p in ps])\nlog(grad_norm)\nS"
        ),
    ],
    "CLIP006": [
        f(
            "norm = 0.0\nfor p in ps:\n    norm += p.grad.norm() ** 2\nlog(norm)\nreturn norm",
            "def grad_norm(ps, log):",
        ),
    ],
    "CLIP111": [
        "for group in optimizer.param_groups:\n    # each group on its own\n    clip_grad_norm_(group['params'], 1.0)",
        "for group in optimizer.param_groups:\n    clip_grad_norm_(group['params'], 1.0)\nelse:\n    pass",
    ],
    "CLIP301": [
        loop("SB\nC\nif x:\n    scaler.step(a)\nelse:\n    scaler.step(b)\nUP"),
    ],
    "CLIP202": [
        "clip_grad_norm_([p for p in model.named_parameters()], 1.0)",
        "clip_grad_norm_((g for g in optimizer.param_groups), 1.0)",
        "pairs = model.named_parameters()\nclip_grad_norm_(pairs, 1.0)",
    ],
}


@pytest.mark.parametrize(("code", "body"), [(code, body) for code, bodies in NO_FIX.items() for body in bodies])
def test_no_fix_but_advice(code: str, body: str) -> None:
    (finding,) = findings(body, code)
    assert finding.fix is None and finding.help
