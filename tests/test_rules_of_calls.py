"""The rules about a single call of a clip: its arguments, and the use of its result. Silent cases first."""

from __future__ import annotations

import textwrap

import pytest

from clipcheck.engine.file import check_file
from clipcheck.rule import Safety
from clipcheck.settings.keys import Settings

IMPORTS = (
    "import math\nimport torch\nfrom torch import nn\n"
    "from torch.nn.utils import clip_grad_norm_, clip_grad_value_, clip_grads_with_norm_, get_total_norm\n"
)


def found(text: str, code: str) -> list[int]:
    """The lines, without the imports, on which the rule finds something."""
    report = check_file("x.py", (IMPORTS + text).encode(), Settings(codes=frozenset({code})))
    assert report.errors == ()
    return [finding.place.line - IMPORTS.count("\n") for finding in report.findings]


def fixed(text: str, code: str) -> str:
    settings = Settings(codes=frozenset({code}), target="torch", fix=True, safety=Safety.UNSAFE)
    report = check_file("x.py", (IMPORTS + text).encode(), settings)
    assert report.errors == ()
    after = report.now.decode()
    assert after.startswith(IMPORTS)
    return after[len(IMPORTS) :]


KEPT = "class A:\n    def __init__(self, limit=None):\n        self.limit = limit or 0.0\n    def f(self):\n        "
SETTINGS = "class Settings:\n    limit: float = 0.0\n"
SILENT = {
    "CLIP201": [
        "clip_grad_norm_(ps, 1.0)",
        "clip_grad_norm_(ps, 1e-9)",
        "clip_grad_norm_(ps, math.inf)",
        "clip_grad_norm_(ps, float('inf'))",
        "clip_grad_norm_(ps, limit)",
        "clip_grad_norm_(ps, limit())",
        "clip_grad_norm_(*args)",
        "clip_grad_norm_(ps, 1.0, 0)",  # the norm type
        "limit = 0.0\nlimit = 1.0\nclip_grad_norm_(ps, limit)",
        "limit = 0.0\nif limit > 0:\n    clip_grad_norm_(ps, limit)",
        "limit = -1\nif limit != -1:\n    clip_grad_norm_(ps, limit)",
        "def f(limit=0.0):\n    clip_grad_norm_(ps, limit)",
        "for limit in (0, 1):\n    clip_grad_norm_(ps, limit)",
        "with pytest.raises(ValueError):\n    clip_grad_norm_(ps, -1)",
        "with self.assertRaises(ValueError):\n    clip_grad_norm_(ps, -1)",
        "get_total_norm(gs, 0)",
        "other.clip_grad_norm_(ps, 0)",
        # a setting in an attribute that something else may decide
        f"{KEPT}if self.limit > 0:\n            clip_grad_norm_(ps, self.limit)",
        f"{KEPT}clip_grad_norm_(ps, self.limit)\n    def g(self):\n        if self.limit:\n            self.f()",
        f"{KEPT}clip_grad_norm_(ps, self.limit)\n    def g(self):\n        if self.clips:\n            self.f()",
        f"{KEPT}if self.clips:\n            clip_grad_norm_(ps, self.limit)",
        f"{KEPT}clip_grad_norm_(ps, self.limit)\n    def g(self):\n        self.limit, x = h()",
        f"{KEPT}clip_grad_norm_(ps, other.limit)",
        KEPT.replace("limit or 0.0", "0.0") + "clip_grad_norm_(ps, self.limit)",  # until the real one is known
        KEPT.replace("limit or 0.0", "limit or 1.0") + "clip_grad_norm_(ps, self.limit)",
        f"{SETTINGS}settings = Settings()\nif settings.limit:\n    clip_grad_norm_(ps, settings.limit)",
        f"{SETTINGS}settings = Settings()\nsettings.limit = x\nclip_grad_norm_(ps, settings.limit)",
        f"{SETTINGS}settings = Settings()\noverride(settings)\nclip_grad_norm_(ps, settings.limit)",
        f"{SETTINGS}settings = Settings()\nsetattr(settings, x, y)\nclip_grad_norm_(ps, settings.limit)",
        f"{SETTINGS}settings = Settings(x)\nclip_grad_norm_(ps, settings.limit)",
        f"{SETTINGS}settings = read(Settings)\nclip_grad_norm_(ps, settings.limit)",
        SETTINGS.replace("Settings", "Settings(Base)") + "settings = Settings()\nclip_grad_norm_(ps, settings.limit)",
        SETTINGS.replace("0.0", "1.0") + "clip_grad_norm_(ps, Settings.limit)",
        "partial(clip_grad_norm_, max_norm=1.0)",
        "def limit():\n    return 1.0\nclip_grad_norm_(ps, limit())",
        "def limit():\n    return x\nclip_grad_norm_(ps, limit())",
        "c = {'limit': 1, 'lr': 0}\nclip_grad_norm_(ps, c['limit'])",
        "c = {'limit': 0}\nif c['limit']:\n    clip_grad_norm_(ps, c['limit'])",
        "c = {'limit': 0}\nc['limit'] = x\nclip_grad_norm_(ps, c['limit'])",
        "c = {'limit': 0}\nc.update(x)\nclip_grad_norm_(ps, c['limit'])",
        "c = {'limit': 0, **x}\nclip_grad_norm_(ps, c['limit'])",
        "c = {'limit': 0}\nc['limit'] += x\nclip_grad_norm_(ps, c['limit'])",
        "c = {'limit': 0}\noverride(c)\nclip_grad_norm_(ps, c['limit'])",
        "c = {'limit': 0}\nif y:\n    c = x\nclip_grad_norm_(ps, c['limit'])",
        "def limit():\n    return x or 0\nif limit() > 0:\n    clip_grad_norm_(ps, limit())",
        "def limit():\n    return x or 0\nl = limit()\nif l:\n    clip_grad_norm_(ps, l)",
        "partial(other, max_norm=0)",
        # a setting that is missing becomes no limit, or a limit
        "clip_grad_norm_(ps, limit or 1.0)",
        "clip_grad_norm_(ps, limit or math.inf)",
        "clip_grad_norm_(ps, limit if limit is not None else math.inf)",
        "clip_grad_norm_(ps, config.get('clip', 1.0))",
        "clip_grad_norm_(ps, config.get('clip'))",
        "clip_grad_norm_(ps, getattr(args, 'clip', 5))",
        "clip_grad_norm_(ps, parse('0'))",
        # tests that keep the faulty value out
        "def f(limit=None):\n    if limit is not None:\n        clip_grad_norm_(ps, limit if limit is not None else 0.0)",
        "def f(limit=None):\n    if limit:\n        clip_grad_norm_(ps, limit or 0.0)",
        "limit = config.get('clip', 0)\nif limit:\n    clip_grad_norm_(ps, limit)",
        "def f(limit):\n    limit = limit or 0.0\n    if not limit > 0:\n        return\n    clip_grad_norm_(ps, limit)",
        "limit = 0.0\nif flag:\n    limit = 1.0\n    clip_grad_norm_(ps, limit)",
        "limit = 0.0\nif flag:\n    limit = 1.0\nif flag:\n    clip_grad_norm_(ps, limit)",
        "LIMIT = 0\ndef main():\n    global LIMIT\n    LIMIT = parse()\ndef f():\n    clip_grad_norm_(ps, LIMIT)",
        # tests of the sign that keep 0 out, too, tests for one value, and tests of other things
        "if limit > 0:\n    clip_grad_norm_(ps, limit)",
        "if limit >= 0 and limit:\n    clip_grad_norm_(ps, limit)",
        "if limit != -1:\n    clip_grad_norm_(ps, limit)",
        "if limit is not None:\n    clip_grad_norm_(ps, limit)",
        "if limit >= 1:\n    clip_grad_norm_(ps, limit)",
        "if step >= 0:\n    clip_grad_norm_(ps, limit)",
        "if limit < 0:\n    clip_grad_norm_(ps, default)\nelse:\n    f(limit)",
        "if limit > -1:\n    clip_grad_norm_(ps, limit)",
        "if limit >= 0:\n    if limit != 0:\n        clip_grad_norm_(ps, limit)",
        "if limit <= 0:\n    pass\nelse:\n    clip_grad_norm_(ps, limit)",
    ],
    "CLIP202": [
        "clip_grad_norm_(model.parameters(), 1.0)",
        "clip_grad_norm_(parameters, 1.0)",
        "clip_grad_norm_([p for _, p in model.named_parameters()], 1.0)",
        "clip_grad_norm_([p for g in opt.param_groups for p in g['params']], 1.0)",
        "clip_grad_norm_([named[1] for named in net.named_parameters()], 1.0)",
        "clip_grad_norm_(list(dict(net.named_parameters()).values()), 1.0)",
        "clip_grad_norm_([p for p in net.parameters()], 1.0)",
        "ps = model.parameters()\nclip_grad_norm_(ps, 1.0)",
        "clip_grad_norm_(model.weight, 1.0)",
        "model = nn.Parameter(x)\nclip_grad_norm_(model, 1.0)",
        "model = nn.functional.relu(x)\nclip_grad_norm_(model, 1.0)",
        "model = f()\nclip_grad_norm_(model, 1.0)",
        "def f(model):\n    clip_grad_norm_(model, 1.0)",
        "def f(net, g):\n    g(net.parameters)\n    clip_grad_norm_(net, 1.0)",
        # a list that is called `parameters`
        "class A:\n    def f(self):\n        clip_grad_norm_(self.parameters, 1.0)",
        "class A:\n    def __init__(self):\n        self.parameters = []\n    def f(self):\n        clip_grad_norm_(self.parameters, 1.0)",
        "state.parameters = []\nclip_grad_norm_(state.parameters, 1.0)",
        "for p in state.parameters:\n    pass\nclip_grad_norm_(state.parameters, 1.0)",
        "class A:\n    @property\n    def parameters(self):\n        return []\nclip_grad_norm_(a.parameters, 1.0)",
        # a scheduler, an averaged model, another library's class
        "opt = torch.optim.lr_scheduler.StepLR(o, 1)\nclip_grad_norm_(opt, 1.0)",
        "opt = other.Adam(ps)\nclip_grad_norm_(opt, 1.0)",
        # a name that is a module first and its parameters later
        "def f(x):\n    if isinstance(x, nn.Module):\n        x = x.parameters()\n    clip_grad_norm_(x, 1.0)",
        "def f(x):\n    x = x.parameters()\n    clip_grad_norm_(x, 1.0)",
        "net = nn.Linear(1, 2)\nnet = net.parameters()\nclip_grad_norm_(net, 1.0)",
        "net = nn.Linear(1, 2)\nif c:\n    net = list(net.parameters())\nclip_grad_norm_(net, 1.0)",
        "def f(x):\n    try:\n        x = x.parameters()\n    except AttributeError:\n        pass\n    clip_grad_norm_(x, 1.0)",
        "def f(x):\n    if hasattr(x, 'parameters'):\n        pass\n    else:\n        clip_grad_norm_(x, 1.0)\n        return\n    x.parameters()",
        "def f(x):\n    while c:\n        x = x.parameters()\n        clip_grad_norm_(x, 1.0)",
        # one that is a module on some ways only
        "def f(x):\n    if isinstance(x, nn.Module):\n        x.zero_grad()\n    clip_grad_norm_(x, 1.0)",
        "def f(x):\n    ps = x.parameters() if isinstance(x, nn.Module) else x\n    clip_grad_norm_(x, 1.0)",
        "def f(x):\n    isinstance(x, nn.Module) and x.zero_grad()\n    clip_grad_norm_(x, 1.0)",
        "def f(x):\n    if isinstance(x, nn.Module):\n        clip_grad_norm_(x.parameters(), 1.0)\n    else:\n        clip_grad_norm_(x, 1.0)",
        "def f(x):\n    if isinstance(x, nn.Module):\n        return clip_grad_norm_(x.parameters(), 1.0)\n    return clip_grad_norm_(x, 1.0)",
        "def f(x):\n    if not isinstance(x, nn.Module):\n        return clip_grad_norm_(x, 1.0)\n    return clip_grad_norm_(x.parameters(), 1.0)",
        "def f(x):\n    try:\n        ps = x.parameters()\n    except AttributeError:\n        ps = x\n    clip_grad_norm_(x, 1.0)",
        "net = nn.ParameterList()\nclip_grad_norm_(net, 1.0)",
        "class M(nn.Module):\n    def __iter__(self):\n        return iter([])\nm = M()\nclip_grad_norm_(m, 1.0)",
        "opt = torch.optim.Adam(ps)\nopt = opt.param_groups[0]['params']\nclip_grad_norm_(opt, 1.0)",
        # lists and groups of parameters
        "clip_grad_norm_([*net.parameters()], 1.0)",
        "clip_grad_norm_([scale, net.weight], 1.0)",
        "clip_grad_norm_([net.parameters(1)], 1.0)",
        "ps = [net.parameters()]\nps = list(ps[0])\nclip_grad_norm_(ps, 1.0)",
        "clip_grad_norm_(opt.param_groups[0]['params'], 1.0)",
        "clip_grad_norm_(opt.param_groups['params'], 1.0)",
        "for g in groups:\n    clip_grad_norm_(g, 1.0)",
        "for g in opt.param_groups:\n    g = g['params']\n    clip_grad_norm_(g, 1.0)",
        # no limit, but one may come, or it is written in short, or another rule says it
        "clip_grad_norm_(ps, *limits)",
        "clip_grad_norm_(ps, **limits)",
        "clip_grad_norm_(...)",
        "clip_grad_norm_(net.parameters(), ...)",
        "clip_grad_norm_()",
        "clip_grad_norm_(ps, clip=1.0)",
        "with pytest.raises(TypeError):\n    clip_grad_norm_(ps)",
        "partial(clip_grad_norm_, max_norm=1.0)(ps)",
    ],
    "CLIP203": [
        "clip_grad_norm_(ps, 1.0, 2)",
        "clip_grad_norm_(ps, 1.0, norm_type=2.0)",
        "clip_grad_norm_(ps, 1.0, 'inf')",
        "clip_grad_norm_(ps, 1.0, '2')",
        "clip_grad_norm_(ps, 1.0, norm_type)",
        "clip_grad_norm_(ps, True)",
        "clip_grad_norm_(ps, 1.0, error_if_nonfinite=True)",
        "clip_grad_value_(ps, 1.0, True)",  # foreach
        "get_total_norm(gs, 2.0, True)",
    ],
    "CLIP204": [
        "clip_grad_norm_(parameters=ps, max_norm=1.0, norm_type=2, error_if_nonfinite=True, foreach=True)",
        "clip_grad_value_(ps, clip_value=1.0, foreach=True)",
        "clip_grads_with_norm_(ps, max_norm=1.0, total_norm=n, foreach=None)",
        "get_total_norm(tensors=gs, norm_type=2, error_if_nonfinite=True, foreach=True)",
        "clip_grad_norm_(ps, 1.0, 2, False, None)",
        "clip_grad_norm_(**options)",
        "other.clip_grad_norm_(ps, clip=1.0)",
    ],
    "CLIP206": [
        "clip_grads_with_norm_(ps, 1.0, norm)",
        "clip_grads_with_norm_(ps, 1.0, get_total_norm(gs))",
        "norm = get_total_norm(gs)\nclip_grads_with_norm_(ps, 1.0, norm)",
        "norm = get_total_norm(gs).item()\nnorm = get_total_norm(gs)\nclip_grads_with_norm_(ps, 1.0, norm)",
        "clip_grads_with_norm_(ps, max_norm.item(), norm)",
        "clip_grads_with_norm_(ps, 1.0, norm.item(0))",
        "from clipcheck.runtime import clip_grads_with_norm_ as own\nown(ps, 1.0, norm.item())",
        "from clipcheck.runtime import clip_grads_with_norm_ as own\nown(ps, 1.0, float(norm))",
    ],
    "CLIP208": [
        "clip_grad_value_(ps, 1.0)",
        "def f():\n    return clip_grad_value_(ps, 1.0)",
        "lambda: clip_grad_value_(ps, 1.0)",
        "norm = clip_grad_norm_(ps, 1.0)",
        "norm = other.clip_grad_value_(ps, 1.0)",
    ],
    "CLIP502": [
        "clip_grad_norm_(ps, 1.0)",
        "norm = clip_grad_norm_(ps, 1.0)",
        "grad_norm = clip_grad_norm_(ps, 1.0)",
        "total = clip_grad_norm_(ps, 1.0)",
        *(
            f"{said}_grads = clip_grad_norm_(ps, 1.0)"
            for said in "norm norms gnorm total clip clipped value size magnitude".split()
        ),
        "norm_params = clip_grad_norm_(ps, 1.0)",
        "p.gradient_size = clip_grad_norm_(ps, 1.0)",
        "model.loss_value = clip_grad_norm_(ps, 1.0)",
        "loss = f(clip_grad_norm_(ps, 1.0))",
    ],
    "CLIP505": [
        "clip_grad_norm_(ps, 1.0)\nclip_grad_norm_(qs, 1.0)",
        "clip_grad_norm_(ps, 1.0)\nclip_grad_value_(ps, 1.0)",
        "clip_grad_norm_(ps, 2.0)\nclip_grad_norm_(ps, 1.0)",  # the second one is tighter
        "clip_grad_norm_(ps, a)\nclip_grad_norm_(ps, b)",
        "clip_grad_norm_(ps, 1.0)\nclip_grad_norm_(ps, 1.0, 1)",
        "clip_grad_norm_(ps, 1.0, math.inf)\nclip_grad_norm_(ps, 1.0)",
        "clip_grad_norm_(ps, 1.0)\nclip_grad_norm_(ps, math.inf)",
        "clip_grad_norm_(ps, 1.0)\nnorm = clip_grad_norm_(ps, 1.0)",  # measures
        "clip_grad_norm_(ps, 1.0)\nloss.backward()\nclip_grad_norm_(ps, 1.0)",
        "if x:\n    clip_grad_norm_(ps, 1.0)\nclip_grad_norm_(ps, 1.0)",
        "clip_grad_norm_(ps, 1.0)\nif x:\n    clip_grad_norm_(ps, 1.0)",
        "clip_grad_norm_(ps)\nclip_grad_norm_(ps, 1.0)",
    ],
    "CLIP112": [
        "clip_grad_norm_(list(a.parameters()) + list(b.parameters()), 1.0)",
        "clip_grad_norm_([*a.parameters(), *b.parameters()], 1.0)",
        "clip_grad_norm_(chain(a.parameters(), b.parameters()), 1.0)",
        "clip_grad_norm_(list(net.parameters()) + list(network.parameters()), 1.0)",
        "clip_grad_norm_(list(net.a.parameters()) + list(net.b.parameters()), 1.0)",
        "clip_grad_norm_(list(net.a.parameters()) + [scale], 1.0)",
        "clip_grad_norm_(list(net.parameters()) + extra, 1.0)",
        "clip_grad_norm_(net.parameters(), 1.0)",
    ],
    "CLIP207": [
        "def make():\n    return nn.Embedding(3, 3)\ndef other():\n    return nn.Embedding(3, 3, sparse=True)\nnet = make()\nclip_grad_norm_(net.parameters(), 1.0)",
        "class M(nn.Module):\n    def __init__(self):\n        self.e = nn.Embedding(3, 4)\nm = M()\nclip_grad_norm_(m.parameters(), 1.0)",
        "class M(nn.Module):\n    def __init__(self):\n        self.e = nn.Embedding(3, 4, sparse=False)\nm = M()\nclip_grad_norm_(m.parameters(), 1.0)",
        "class M(nn.Module):\n    def __init__(self):\n        self.e = nn.Embedding(3, 4, sparse=True)\nm = N()\nclip_grad_norm_(m.parameters(), 1.0)",
        "e = nn.Embedding(3, 4, sparse=True)\nclip_grad_norm_(m.parameters(), 1.0)",
        "e = nn.Embedding(3, 4, sparse=True)\nclip_grad_norm_(ps, 1.0)",
        "e = other.Embedding(3, 4, sparse=True)\nclip_grad_norm_(e.parameters(), 1.0)",
        "from clipcheck.runtime import clip_grad_norm_ as own\ne = nn.Embedding(3, 4, sparse=True)\nown(e.parameters(), 1.0)",
    ],
}


@pytest.mark.parametrize(("code", "text"), [(code, text) for code, texts in SILENT.items() for text in texts])
def test_silent(code: str, text: str) -> None:
    assert found(text + "\n", code) == []


FOUND = {
    "CLIP201": [
        ("clip_grad_norm_(ps, 0)", 1),
        ("clip_grad_norm_(ps, 0.0)", 1),
        ("def f(ps):\n    q: int\n    clip_grad_norm_(ps, 0)", 3),
        ("def f():\n    ps: list\n    ps = g()\n    clip_grad_norm_(ps, 0)", 4),
        ("def f():\n    clip_grad_norm_(ps, 0)\ndef g():\n    ps: list", 2),
        ("clip_grad_norm_(ps, -1)", 1),
        ("clip_grad_norm_(ps, max_norm=-1.0)", 1),
        ("clip_grad_norm_(ps, -math.inf)", 1),
        ("clip_grad_norm_(ps, True)", 1),
        ("clip_grad_norm_(ps, False)", 1),
        ("clip_grad_norm_(ps, None)", 1),
        ("clip_grad_value_(ps, 0)", 1),
        ("clip_grad_value_(ps, clip_value=-0.5)", 1),
        ("limit = 0.0\nclip_grad_norm_(ps, limit)", 2),
        ("limit = -1\nif x:\n    clip_grad_norm_(ps, limit)", 3),
        ("with torch.no_grad():\n    clip_grad_norm_(ps, 0)", 2),
        ("clip_grad_norm_(ps, float('nan'))", 1),
        ("clip_grad_norm_(ps, 'none')", 1),
        ("clip_grad_norm_(ps, '5')", 1),
        ("clip_grad_norm_(ps, limit or 0.0)", 1),
        ("clip_grad_norm_(ps, float(limit or 0))", 1),
        ("clip_grad_norm_(ps, limit if limit is not None else 0.0)", 1),
        ("clip_grad_norm_(ps, 0.0 if limit is None else limit)", 1),
        ("clip_grad_norm_(ps, limit if use else None)", 1),
        ("clip_grad_norm_(ps, config.get('clip', 0))", 1),
        ("clip_grad_norm_(ps, config.get('clip', default=0))", 1),
        ("clip_grad_norm_(ps, getattr(args, 'clip', 0.0))", 1),
        ("clip_grad_norm_(ps, kwargs.pop('clip', 0.0))", 1),
        ("clip_grad_norm_(ps, float(os.environ.get('CLIP', 0)))", 1),
        ("clip_grad_norm_(ps, float(os.getenv('CLIP', '0')))", 1),
        ("def f(limit=None):\n    if limit is None:\n        limit = 0.0\n    clip_grad_norm_(ps, limit)", 4),
        ("limit = config.get('clip', 0)\nclip_grad_norm_(ps, limit)", 2),
        ("if limit >= 0:\n    clip_grad_norm_(ps, limit)", 2),
        ("if 0 <= args.limit:\n    clip_grad_norm_(ps, args.limit)", 2),
        ("if limit is not None and limit >= 0:\n    clip_grad_norm_(ps, limit)", 2),
        ("if limit < 0:\n    f()\nelse:\n    clip_grad_norm_(ps, limit)", 4),
        ("def f(limit):\n    if limit < 0:\n        return\n    clip_grad_norm_(ps, limit)", 4),
        ("if use:\n    clip_grad_value_(ps, limit) if limit >= 0.0 else None", 2),
        (f"{KEPT}clip_grad_norm_(ps, self.limit)", 5),
        (f"{KEPT}for x in xs:\n            if x:\n                clip_grad_norm_(ps, max_norm=self.limit)", 7),
        (f"{SETTINGS}settings = Settings()\nclip_grad_norm_(ps, settings.limit)", 4),
        (f"{SETTINGS}clip_grad_norm_(ps, Settings.limit)", 3),
        (SETTINGS.replace(": float", "") + "clip_grad_norm_(ps, Settings.limit)", 3),
        ("clip = partial(clip_grad_norm_, max_norm=0)", 1),
        ("def limit():\n    if x is None:\n        return 0.0\n    return x\nclip_grad_norm_(ps, limit())", 5),
        ("c = {'limit': 0, 'lr': 1}\nclip_grad_norm_(ps, c['limit'])", 2),
        ("limit = lambda: x or 0\nclip_grad_norm_(ps, limit())", 2),
    ],
    "CLIP202": [
        ("ps = model.parameters\nclip_grad_norm_(ps, 1.0)", 2),
        ("ps = model.named_parameters()\nclip_grad_norm_(ps, 1.0)", 2),
        ("groups = optimizer.param_groups\nclip_grad_norm_(groups, 1.0)", 2),
        ("clip_grad_norm_([p for p in net.named_parameters()], 1.0)", 1),
        ("clip_grad_norm_((g for g in opt.param_groups), 1.0)", 1),
        ("clip_grad_norm_([g for g in opt.param_groups], 1.0)", 1),
    ],
    "CLIP204": [
        ("clip_grad_norm_(ps, clip=1.0)", 1),
        ("clip_grad_norm_(ps, clip_value=1.0)", 1),
        ("clip_grad_value_(ps, max_norm=1.0)", 1),
        ("clip_grad_value_(ps, 1.0, norm_type=2)", 1),
        ("get_total_norm(parameters=gs)", 1),
        ("clip_grad_norm_(ps, 1.0, 2, False, None, 1)", 1),
        ("clip_grad_value_(ps, 1.0, True, 2)", 1),
        ("clip = partial(clip_grad_value_, max_norm=0.5)", 1),
        ("run(functools.partial(clip_grad_norm_, clip_value=0.5))", 1),
    ],
    "CLIP208": [
        ("norm = clip_grad_value_(ps, 1.0)", 1),
        ("print(clip_grad_value_(ps, 1.0))", 1),
        ("clip_grad_value_(ps, 1.0).item()", 1),
        ("if clip_grad_value_(ps, 1.0):\n    pass", 1),
    ],
    "CLIP502": [
        ("grads = clip_grad_norm_(ps, 1.0)", 1),
        ("model.params = clip_grad_norm_(ps, 1.0)", 1),
        ("new_gradients = clip_grad_norm_(ps, 1.0)", 1),
        ("loss = clip_grad_norm_(ps, 1.0)", 1),
        *(
            (f"self.{name} = clip_grad_norm_(ps, 1.0)", 1)
            for name in "losses all_gradients params parameters optimizer".split()
        ),
        ("p.grad = clip_grad_norm_(ps, 1.0)", 1),
        ("p.grad.data = clip_grad_norm_(ps, 1.0)", 1),
        ("model = clip_grad_value_(ps, 1.0)", 1),
    ],
    "CLIP505": [
        ("clip_grad_norm_(ps, 1.0)\nclip_grad_norm_(ps, 1.0)", 2),
        ("clip_grad_norm_(ps, 1.0)\nclip_grad_norm_(ps, 2.0)", 2),
        ("clip_grad_norm_(ps, a)\nclip_grad_norm_(ps, a)", 2),
        ("clip_grad_norm_(ps, 1.0)\nclip_grad_norm_(ps, 1.0, 2.0)", 2),
        ("clip_grad_norm_(ps, 1.0, math.inf)\nclip_grad_norm_(ps, 1.0, math.inf)", 2),
        ("norm = clip_grad_norm_(ps, 1.0)\nclip_grad_norm_( ps , max_norm=1.0)", 2),
        ("clip_grad_value_(ps, 1.0)\nclip_grad_value_(ps, 1.0)", 2),
        ("if x:\n    clip_grad_norm_(ps, 1.0)\n    clip_grad_norm_(ps, 1.0)", 3),
    ],
    "CLIP207": [
        (
            "def make():\n    net = nn.Sequential(nn.Embedding(3, 3, sparse=True))\n    return net\n"
            "net = make()\nclip_grad_norm_(net.parameters(), 1.0)",
            5,
        ),
        ("e = nn.Embedding(3, 4, sparse=True)\nclip_grad_norm_(e.parameters(), 1.0)", 2),
        ("e = nn.EmbeddingBag(3, 4, sparse=True)\nclip_grad_value_(e.parameters(), 1.0)", 2),
        ("m = nn.Sequential(nn.Embedding(3, 4, sparse=True), nn.Linear(4, 5))\nclip_grad_norm_(m.parameters(), 1.0)", 2),
        ("class M(nn.Module):\n    def __init__(self):\n        self.e = nn.Embedding(3, 4, sparse=True)\nm = M()\nclip_grad_norm_(m.parameters(), 1.0)", 5),
        ("class M(nn.Module):\n    def __init__(self):\n        self.e = nn.Embedding(3, 4, sparse=True)\nm = M().to(d)\nclip_grad_norm_(m.parameters(), 1.0)", 5),
        ("class M(nn.Module):\n    def __init__(self):\n        self.e = nn.Embedding(3, 4, sparse=True)\n    def clip(self):\n        clip_grad_norm_(self.parameters(), 1.0)", 5),
    ],
}  # fmt: skip


@pytest.mark.parametrize(("code", "text", "line"), [(code, *case) for code, cases in FOUND.items() for case in cases])
def test_found(code: str, text: str, line: int) -> None:
    assert found(text + "\n", code) == [line]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("clip_grad_norm_(ps, float('nan'))", "makes every gradient NaN"),
        ("clip_grad_norm_(ps, -1)", "flips the sign of every gradient"),
        ("clip_grad_value_(ps, -1)", "`-1` as `clip_value` sets every gradient to this value"),
        (
            "clip_grad_norm_(ps, limit or 0.0)",
            "`limit or 0.0` as `max_norm` can be 0, which sets every gradient to zero",
        ),
        ("if limit >= 0:\n    clip_grad_norm_(ps, limit)", "the check on line 5 lets 0 through"),
        ("clip_grad_norm_(ps, 'none')", "raises a ValueError"),
        ("clip_grad_norm_(ps, '5')", "pass a number"),
        ("clip_grad_norm_(ps, limit if use else None)", "may raise a TypeError"),
    ],
)
def test_the_message_says_what_the_value_does(text: str, said: str) -> None:
    report = check_file("x.py", (IMPORTS + text).encode(), Settings(codes=frozenset({"CLIP201"})))
    assert [said in finding.message for finding in report.findings] == [True]


@pytest.mark.parametrize("function", ["clip_grad_norm_", "clip_grad_value_"])
@pytest.mark.parametrize(
    "value", ["0", "-1", "-math.inf", "float('nan')", "True", "False", "None", "'5'", "'none'", "x or 0"]
)
def test_a_message_with_a_long_name_is_short_as_well(function: str, value: str) -> None:
    name = "largest_norm_of_it"
    text = f"{name} = {value}\n{function}(ps, {name})\n"
    report = check_file("x.py", (IMPORTS + text).encode(), Settings(codes=frozenset({"CLIP201"})))
    (finding,) = report.findings
    assert f"`{name}` as `{'clip_value' if 'value' in function else 'max_norm'}`" in finding.message
    assert len(finding.message) <= 100


FIXED = {
    "CLIP202": [
        ("clip_grad_norm_(model.parameters, 1.0)", "clip_grad_norm_(model.parameters(), 1.0)"),
        ("clip_grad_norm_(list(net.named_parameters()), 1.0)", "clip_grad_norm_(list(net.parameters()), 1.0)"),
        ("clip_grad_norm_(self.model.parameters, 1.0)", "clip_grad_norm_(self.model.parameters(), 1.0)"),
        (
            "class A(nn.Module):\n    def f(self):\n        clip_grad_norm_(self.parameters, 1.0)",
            "class A(nn.Module):\n    def f(self):\n        clip_grad_norm_(self.parameters(), 1.0)",
        ),
        ("clip_grad_value_(model.named_parameters(), 1.0)", "clip_grad_value_(model.parameters(), 1.0)"),
        (
            "clip_grad_norm_(opt.param_groups, 1.0)",
            'clip_grad_norm_([p for group in opt.param_groups for p in group["params"]], 1.0)',
        ),
        (
            "opt = torch.optim.Adam(ps)\nclip_grad_norm_(opt, 1.0)",
            'opt = torch.optim.Adam(ps)\nclip_grad_norm_([p for group in opt.param_groups for p in group["params"]], 1.0)',
        ),
        ("m = nn.Linear(1, 2)\nclip_grad_norm_(m, 1.0)", "m = nn.Linear(1, 2)\nclip_grad_norm_(m.parameters(), 1.0)"),
        (
            "m = nn.Linear(1, 2).to(d)\nclip_grad_norm_(m, 1.0)",
            "m = nn.Linear(1, 2).to(d)\nclip_grad_norm_(m.parameters(), 1.0)",
        ),
        (
            "class M(nn.Module):\n    pass\nm = M()\nclip_grad_norm_(m, 1.0)",
            "class M(nn.Module):\n    pass\nm = M()\nclip_grad_norm_(m.parameters(), 1.0)",
        ),
        (
            "def f(model):\n    o = Adam(model.parameters())\n    clip_grad_norm_(model, 1.0)",
            "def f(model):\n    o = Adam(model.parameters())\n    clip_grad_norm_(model.parameters(), 1.0)",
        ),
        (
            "net = nn.Linear(1, 2)\nnet = net.to(d)\nnet = nn.DataParallel(net)\nclip_grad_norm_(net, 1.0)",
            "net = nn.Linear(1, 2)\nnet = net.to(d)\nnet = nn.DataParallel(net)\nclip_grad_norm_(net.parameters(), 1.0)",
        ),
        (
            "def f(x):\n    if c:\n        x.zero_grad()\n        clip_grad_norm_(x, 1.0)",
            "def f(x):\n    if c:\n        x.zero_grad()\n        clip_grad_norm_(x.parameters(), 1.0)",
        ),
        ("clip_grad_norm_([net.parameters()], 1.0)", "clip_grad_norm_(net.parameters(), 1.0)"),
        (
            "clip_grad_norm_([a.parameters(), list(b.parameters()), scale], 1.0)",
            "clip_grad_norm_([*a.parameters(), *list(b.parameters()), scale], 1.0)",
        ),
        ("clip_grad_norm_((a.parameters(),), 1.0)", "clip_grad_norm_((*a.parameters(),), 1.0)"),
        (
            "ps = [net.parameters()]\nfor x in xs:\n    clip_grad_norm_(ps, 1.0)",
            "ps = [*net.parameters()]\nfor x in xs:\n    clip_grad_norm_(ps, 1.0)",
        ),
        ("ps = [net.parameters()]\nf(ps)\nclip_grad_norm_(ps, 1.0)", None),
        ("clip_grad_norm_(opt.param_groups[0], 1.0)", 'clip_grad_norm_(opt.param_groups[0]["params"], 1.0)'),
        ("g = opt.param_groups[i]\nclip_grad_norm_(g, 1.0)", 'g = opt.param_groups[i]\nclip_grad_norm_(g["params"], 1.0)'),
        (
            "for g in opt.param_groups:\n    clip_grad_norm_(g, 1.0)",
            'for g in opt.param_groups:\n    clip_grad_norm_(g["params"], 1.0)',
        ),
        ("clip_grad_norm_(opt.param_groups[1:], 1.0)", None),
        ("clip_grad_norm_(net.parameters())", None),
        ("clip_grad_value_(net.parameters())", None),
        ("clip_grads_with_norm_(net.parameters(), 1.0)", None),
        ("clip_grad_norm_(max_norm=1.0)", None),
    ],
    "CLIP203": [
        ("clip_grad_norm_(ps, 1.0, True)", "clip_grad_norm_(ps, 1.0, error_if_nonfinite=True)"),
        ("clip_grad_norm_(ps, 1.0, False)", "clip_grad_norm_(ps, 1.0, error_if_nonfinite=False)"),
        ("clip_grad_norm_(ps, 1.0, norm_type=True)", None),
        ("clip_grad_norm_(ps, 1.0, 'fro')", None),
        ("clip_grad_norm_(ps, 1.0, norm_type='l2')", None),
        ("get_total_norm(gs, True)", "get_total_norm(gs, error_if_nonfinite=True)"),
    ],
    "CLIP206": [
        ("clip_grads_with_norm_(ps, 1.0, norm.item())", "clip_grads_with_norm_(ps, 1.0, norm)"),
        ("clip_grads_with_norm_(ps, 1.0, total_norm=float(norm))", "clip_grads_with_norm_(ps, 1.0, total_norm=norm)"),
        (
            "n = get_total_norm(gs).item()\nclip_grads_with_norm_(ps, 1.0, n)",
            "n = get_total_norm(gs)\nclip_grads_with_norm_(ps, 1.0, n)",
        ),
        ("n = get_total_norm(gs).item()\nclip_grads_with_norm_(ps, 1.0, n)\nprint(n)", None),
    ],
    "CLIP502": [
        ("params = list(x)\nparams = clip_grad_norm_(params, 1.0)", "params = list(x)\nclip_grad_norm_(params, 1.0)"),
        ("grads = clip_grad_norm_(ps, 1.0)", None),  # its later uses would raise
        ("p.grad = clip_grad_norm_(ps, 1.0)", None),
        ("grads = clip_grad_norm_(ps, 1.0)\ngrads = 1", None),
    ],
    "CLIP112": [
        (
            "clip_grad_norm_(list(net.parameters()) + list(net.head.parameters()), 1.0)",
            "clip_grad_norm_(list(net.parameters()), 1.0)",
        ),
        (
            "clip_grad_norm_(list(net.head.parameters()) + list(net.parameters()), 1.0)",
            "clip_grad_norm_(list(net.parameters()), 1.0)",
        ),
        ("clip_grad_norm_(list(net.parameters()) + list(net.parameters()), 1.0)", "clip_grad_norm_(list(net.parameters()), 1.0)"),
        ("clip_grad_norm_([*net.parameters(), *net.head.parameters()], 1.0)", None),
        ("clip_grad_norm_(itertools.chain(net.parameters(), net.head.parameters()), 1.0)", None),
    ],
}  # fmt: skip


@pytest.mark.parametrize(("code", "text", "after"), [(code, *case) for code, cases in FIXED.items() for case in cases])
def test_fixed(code: str, text: str, after: str | None) -> None:
    assert len(found(text + "\n", code)) == 1
    assert fixed(text + "\n", code) == (after or text) + "\n"


# --- gradients instead of parameters ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "clip_grad_norm_([p for p in ps], 1.0)",
        "clip_grad_norm_([p for p in ps if p.grad is not None], 1.0)",
        "clip_grad_norm_([w, b], 1.0)",
        "clip_grad_norm_([w.grad, b], 1.0)",
        "clip_grad_norm_([], 1.0)",
        "get_total_norm([p.grad for p in ps])",
        "clip_grad_norm_(model.state_dict(), 1.0)",
        "clip_grad_norm_(grads, 1.0)",
        "def f(grads):\n    clip_grad_norm_(grads, 1.0)",
        "xs = []\nclip_grad_norm_(xs, 1.0)",
        "xs = []\nxs.append(p)\nclip_grad_norm_(xs, 1.0)",
        "xs = []\nxs.append(p.grad)\nxs.append(p)\nclip_grad_norm_(xs, 1.0)",
        "xs = []\nxs.append(p.grad)\nxs.extend(ps)\nclip_grad_norm_(xs, 1.0)",
        "xs = [p.grad for p in ps]\nxs = ps\nclip_grad_norm_(xs, 1.0)",
        "xs = [p.grad for p in ps]\nif c:\n    xs = f()\nclip_grad_norm_(xs, 1.0)",
        "g = p.grad.clone()\ng.grad = x\nclip_grad_norm_(g, 1.0)",
        "masters = [p.grad for p in ps]\nfor m in masters:\n    m.grad = x\nclip_grad_norm_(masters, 1.0)",
        "masters = [p.grad for p in ps]\nfor m in masters:\n    m.requires_grad_()\nclip_grad_norm_(masters, 1.0)",
        "clip_grad_norm_([p.grad for p in ps] + [w], 1.0)",
        "clip_grad_norm_([p.grad for p in ps] if x else [w], 1.0)",
        "clip_grad_norm_(list(p for p in ps), 1.0)",
        "clip_grad_norm_(tuple(grads), 1.0)",
        "clip_grad_norm_(filter(None, ps), 1.0)",
        "clip_grad_norm_(map(lambda p: p.master, ps), 1.0)",
        "clip_grad_norm_({n: p for n, p in net.named_parameters()}.values(), 1.0)",
        "clip_grad_norm_(dict(net.named_parameters()).values(), 1.0)",
        "own = {}\nclip_grad_norm_(own.values(), 1.0)",
        "own = {}\nfor n, p in net.named_parameters():\n    own[n] = p\nclip_grad_norm_(own.values(), 1.0)",
        "own = {}\nfor n, p in net.named_parameters():\n    own[n] = p.grad\nown['w'] = w\nclip_grad_norm_(own.values(), 1.0)",
        "from torch.func import vmap\nclip_grad_norm_(vmap(f)(ps), 1.0)",
        "def own():\n    return list(net.parameters())\nclip_grad_norm_(own(), 1.0)",
        "def own(x):\n    if x:\n        return ps\n    return [p.grad for p in ps]\nclip_grad_norm_(own(1), 1.0)",
        "class A:\n    def __init__(self):\n        self.own = list(net.parameters())\n    def f(self):\n        clip_grad_norm_(self.own, 1.0)",
        "class A:\n    def __init__(self):\n        self.own = []\n    def f(self):\n        self.own = [p.grad for p in ps]\n        clip_grad_norm_(self.own, 1.0)",
        "xs = ps\nfor x in y:\n    xs = list(xs)\n    clip_grad_norm_(xs, 1.0)",
        "for g in ps:\n    clip_grad_norm_(g, 1.0)",
        # handed to a function that does something else with it, or gives the tensors a gradient first
        "def f(xs):\n    print(xs)\nf(torch.autograd.grad(loss, ps))",
        "def f(xs, ps):\n    clip_grad_norm_(ps, 1.0)\nf([p.grad for p in ps], ps)",
        "def f(xs):\n    xs = [p for x in xs]\n    clip_grad_norm_(xs, 1.0)\nf([p.grad for p in ps])",
        "def f(xs):\n    for x in xs:\n        x.grad = x\n    clip_grad_norm_(xs, 1.0)\nf([p.grad for p in ps])",
        "def f(xs):\n    clip_grad_norm_(xs, 1.0)\nf([p for p in ps])",
        "f([p.grad for p in ps])",
    ],
)
def test_parameters_or_what_may_be_some(text: str) -> None:
    assert found(text + "\n", "CLIP106") == []


@pytest.mark.parametrize(
    ("text", "after"),
    [
        ("clip_grad_norm_([p.grad for p in ps], 1.0)", "clip_grad_norm_(ps, 1.0)"),
        ("clip_grad_norm_((p.grad for p in ps), 1.0)", "clip_grad_norm_(ps, 1.0)"),
        ("clip_grad_norm_([p.grad for p in (w, b)], 1.0)", "clip_grad_norm_((w, b), 1.0)"),
        ("clip_grad_norm_((p.grad for p in (w, b)), 1.0)", "clip_grad_norm_((w, b), 1.0)"),
        ("clip_grad_norm_([p.grad for p in (q for q in ps)], 1.0)", "clip_grad_norm_((q for q in ps), 1.0)"),
        ("clip_grad_norm_([p.grad for p in ps if p.grad is not None], 1.0)", "clip_grad_norm_(ps, 1.0)"),
        ("clip_grad_norm_([p.grad for p in ps if p.ndim > 1], 1.0)", "clip_grad_norm_([p for p in ps if p.ndim > 1], 1.0)"),
        ("clip_grad_norm_([p.grad for g in gs for p in g], 1.0)", "clip_grad_norm_([p for g in gs for p in g], 1.0)"),
        ("clip_grad_norm_([m.w.grad for m in ms], 1.0)", "clip_grad_norm_([m.w for m in ms], 1.0)"),
        ("clip_grad_norm_([p.data for p in ps], 1.0)", "clip_grad_norm_(ps, 1.0)"),
        ("clip_grad_norm_(p.grad, 1.0)", "clip_grad_norm_(p, 1.0)"),
        ("clip_grad_value_([w.grad, b.grad], 1.0)", "clip_grad_value_([w, b], 1.0)"),
        ("clip_grad_norm_((w.grad, b.grad), 1.0)", "clip_grad_norm_((w, b), 1.0)"),
        ("xs = [p.grad for p in ps]\nclip_grad_norm_(xs, 1.0)", "xs = ps\nclip_grad_norm_(xs, 1.0)"),
        ("xs = [p.grad for p in ps]\nclip_grad_norm_(xs, 1.0)\nprint(xs)", None),
        ("xs = []\nfor p in ps:\n    xs.append(p.grad)\nclip_grad_norm_(xs, 1.0)", None),
        ("xs = []\nfor p in ps:\n    g = p.grad\n    xs.append(g.data)\nclip_grad_norm_(xs, 1.0)", None),
        ("xs = []\nfor p in ps:\n    g = p.grad\n    xs.append(g.detach())\nclip_grad_norm_(xs, 1.0)", None),
        ("clip_grad_norm_(torch.autograd.grad(loss, ps), 1.0)", None),
        ("def f(xs):\n    clip_grad_norm_(xs, 1.0)\nf(torch.autograd.grad(loss, ps))", None),
        ("def f(xs):\n    clip_grad_norm_(xs, 1.0)\ngs = torch.autograd.grad(loss, ps)\nf(gs)", None),
        ("def f(xs):\n    g(xs)\ndef g(xs):\n    clip_grad_norm_(xs, 1.0)\nf([p.grad for p in ps])", None),
        ("clip_grad_norm_(model.state_dict().values(), 1.0)", None),
        ("xs = [p.grad for p in ps]\nfor x in xs:\n    x.mul_(2)\nclip_grad_norm_(xs, 1.0)", None),
        ("clip_grad_norm_(tuple(p.grad for p in ps), 1.0)", "clip_grad_norm_(tuple(ps), 1.0)"),
        ("clip_grad_norm_(list([p.grad for p in ps]), 1.0)", "clip_grad_norm_(list(ps), 1.0)"),
        ("xs = [p.grad for p in ps]\nclip_grad_norm_(tuple(xs), 1.0)\nprint(xs)", None),
        ("xs = tuple(p.grad.data for p in ps)\nclip_grad_norm_(xs, 1.0)", "xs = tuple(ps)\nclip_grad_norm_(xs, 1.0)"),
        ("clip_grad_norm_(filter(None, [p.grad for p in ps]), 1.0)", "clip_grad_norm_(filter(None, ps), 1.0)"),
        ("clip_grad_norm_(map(lambda p: p.grad, ps), 1.0)", None),
        ("clip_grad_norm_([p.grad for p in ps] + [w.grad], 1.0)", None),
        ("clip_grad_norm_([p.grad for p in ps] if x else [w.grad], 1.0)", None),
        ("clip_grad_norm_({n: p.grad for n, p in net.named_parameters()}.values(), 1.0)", None),
        ("own = {n: p.grad for n, p in net.named_parameters()}\nclip_grad_norm_(own.values(), 1.0)", None),
        ("own = {}\nfor n, p in net.named_parameters():\n    own[n] = p.grad\nclip_grad_norm_(own.values(), 1.0)", None),
        ("from torch.func import grad\nclip_grad_norm_(grad(f)(ps).values(), 1.0)", None),
        ("from torch.func import grad\nd = grad(f)\ngs = d(ps)\nclip_grad_norm_(gs, 1.0)", None),
        ("def own():\n    return [p.grad for p in ps]\nclip_grad_norm_(own(), 1.0)", None),
        ("class A:\n    def own(self):\n        return [p.grad for p in ps]\n    def f(self):\n        clip_grad_norm_(self.own(), 1.0)", None),
        ("class A:\n    def f(self):\n        self.own = torch.autograd.grad(loss, ps)\n    def g(self):\n        clip_grad_norm_(self.own, 1.0)", None),
        ("for g in [p.grad for p in ps]:\n    clip_grad_norm_(g, 1.0)", None),
    ],
)  # fmt: skip
def test_gradients_in_the_place_of_parameters(text: str, after: str | None) -> None:
    assert len(found(text + "\n", "CLIP106")) == 1
    assert fixed(text + "\n", "CLIP106") == (after or text) + "\n"


# --- clips in loops over parameters or groups -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "for p in ps:\n    f(p)\nclip_grad_norm_(ps, 1.0)",
        "for m in ms:\n    clip_grad_norm_(m, 1.0)",
        "for p in model.parameters():\n    clip_grad_value_(p, 1.0)",  # a clip by value is one per entry anyway
        "for p in model.parameters():\n    clip_grad_norm_(p, limits[p])",
        "for p in model.parameters():\n    limit = f(p)\n    clip_grad_norm_(p, limit)",
        "for p, limit in zip(model.parameters(), limits):\n    clip_grad_norm_(p, limit)",
        "for p in (f(q) for q in model.parameters()):\n    clip_grad_norm_(p, 1.0)",
        "for g in opt.param_groups:\n    for p in g['lr']:\n        clip_grad_norm_(p, 1.0)",
        "def f(batches):\n    for p in batches:\n        clip_grad_norm_(p, 1.0)",
        "def f(params):\n    for x in params:\n        clip_grad_norm_(x, 1.0)",
        "with x as params:\n    for p in params:\n        clip_grad_norm_(p, 1.0)",
        "for p in model.parameters():\n    def g():\n        clip_grad_norm_(p, 1.0)",
        "class A(torch.optim.Optimizer):\n    def step(self):\n        for g in self.param_groups:\n            for p in g['params']:\n                clip_grad_norm_(p, 1.0)",
        "for p in model.parameters():\n    clip_grad_norm_(p)",
        "for p in model.parameters():\n    clip_grad_norm_([p, q], 1.0)",
        "for p in model.parameters():\n    model.clip_grad_norm_(p)",
        "for p in model.parameters():\n    clip_grad_norm_([p], limits[p])",
        "[clip_grad_norm_(p, limit) for p, limit in zip(model.parameters(), limits)]",
        # something else is clipped than the loop gives, or nothing
        "for p in model.parameters():\n    if x:\n        p = ps\n    clip_grad_norm_(p, 1.0)",
        "for p in model.parameters():\n    clip_grad_norm_(p, float('inf'))",
        "for p in chain(model.parameters(), groups):\n    clip_grad_norm_(p, 1.0)",
        "for p in list(model.parameters()) + groups:\n    clip_grad_norm_(p, 1.0)",
        "for p in [*model.parameters(), groups]:\n    clip_grad_norm_(p, 1.0)",
        "list(map(lambda p: clip_grad_norm_(p, 1.0), groups))",
        "for i in range(len(ws)):\n    clip_grad_norm_(ws[i], 1.0)",
        "for n, p in parts.items():\n    clip_grad_norm_(p, 1.0)",
        "def own():\n    for w in net.parameters():\n        yield [w]\nfor p in own():\n    clip_grad_norm_(p, 1.0)",
        "def own():\n    for w in groups:\n        yield w\nfor p in own():\n    clip_grad_norm_(p, 1.0)",
        "def own():\n    yield 1\n    for w in net.parameters():\n        yield w\nfor p in own():\n    clip_grad_norm_(p, 1.0)",
        "def own():\n    for w in own():\n        yield w\nfor p in own():\n    clip_grad_norm_(p, 1.0)",
        "def own():\n    return groups\nfor p in own():\n    clip_grad_norm_(p, 1.0)",
        "for p in net.groups():\n    clip_grad_norm_(p, 1.0)",
        "for p in dict(net.named_children()).values():\n    clip_grad_norm_(p, 1.0)",
        "ws = list(model.parameters())\nclip_grad_norm_(ws[i], 1.0)",
        "ws = list(model.parameters())\nfor i in chosen:\n    clip_grad_norm_(ws[i], 1.0)",
        "ws = list(model.parameters())\nfor i in range(len(ws)):\n    clip_grad_norm_(ws[i], limits[i])",
        "list(map(lambda p: clip_grad_norm_(ps, 1.0), model.parameters()))",
        "list(each(lambda p: clip_grad_norm_(p, 1.0), model.parameters()))",
        "def clip(p):\n    clip_grad_norm_(p, 1.0)\nfor m in models:\n    clip(m)",
        "def clip(p):\n    clip_grad_norm_(p, 1.0)\nclip(model.parameters())",
        "def clip(p, limit):\n    clip_grad_norm_(p, limit)\nfor n, p in model.named_parameters():\n    clip(p, limits[n])",
        "class LangevinOptimizer:\n    def step(self):\n        for p in self.params:\n            clip_grad_norm_(p, 1.0)",
        # hooks that get a gradient, clip by value, clip something else, or are never registered
        "def hook(g):\n    clip_grad_norm_(g, 1.0)\nx.register_hook(hook)",
        "def hook(p):\n    clip_grad_value_(p, 1.0)\nx.register_post_accumulate_grad_hook(hook)",
        "def hook(p):\n    clip_grad_norm_(ps, 1.0)\nx.register_post_accumulate_grad_hook(hook)",
        "def hook(p):\n    clip_grad_norm_(p, 1.0)",
        "def hook(g, p):\n    clip_grad_norm_(p, 1.0)\nx.register_post_accumulate_grad_hook(hook)",
        "def hook(p):\n    p = ps\n    clip_grad_norm_(p, 1.0)\nx.register_post_accumulate_grad_hook(hook)",
        "class A(torch.optim.Optimizer):\n    def hook(self, p):\n        clip_grad_norm_(p, 1.0)\n    def f(self):\n        x.register_post_accumulate_grad_hook(self.hook)",
        # parts of a model, without the whole
        "for m in net.modules():\n    if isinstance(m, nn.Linear):\n        clip_grad_norm_(m.parameters(), 1.0)",
        "for m in net.modules():\n    if m is net:\n        continue\n    clip_grad_norm_(m.parameters(), 1.0)",
        "for m in net.modules():\n    clip_grad_norm_(m.parameters(recurse=False), 1.0)",
        "for m in net.modules():\n    clip_grad_norm_(m.parameters(), limits[m])",
        "for m in net.children():\n    clip_grad_norm_(m.parameters(), 1.0)",
        "for m in list(net.modules())[1:]:\n    clip_grad_norm_(m.parameters(), 1.0)",
        "for m in net.modules():\n    clip_grad_norm_(net.parameters(), 1.0)",
    ],
)
def test_intended_clips_of_one_parameter(text: str) -> None:
    assert found(text + "\n", "CLIP110") == []


@pytest.mark.parametrize(
    ("loop", "after"),
    [
        ("for p in model.parameters():\n    clip_grad_norm_(p, 1.0)", "clip_grad_norm_(model.parameters(), 1.0)"),
        ("for p in model.parameters(): clip_grad_norm_(p, 1.0)", "clip_grad_norm_(model.parameters(), 1.0)"),
        ("for _, p in model.named_parameters():\n    clip_grad_norm_(p, limit)", "clip_grad_norm_(model.parameters(), limit)"),
        (
            "for p in model.parameters():\n    if p.grad is not None:\n        clip_grad_norm_(p, 1.0, 1)",
            "clip_grad_norm_(model.parameters(), 1.0, 1)",
        ),
        ("for p in list(model.parameters()):\n    clip_grad_norm_(p, 1.0)", "clip_grad_norm_(list(model.parameters()), 1.0)"),
        ("for p in g['params']:\n    clip_grad_norm_(p, 1.0)", "clip_grad_norm_(g['params'], 1.0)"),
        ("for p in self.params:\n    clip_grad_norm_(p, 1.0)", "clip_grad_norm_(self.params, 1.0)"),
        ("for p in opt.parameters:\n    clip_grad_norm_(p, 1.0)", "clip_grad_norm_(opt.parameters, 1.0)"),
        (
            "def f(params):\n    for p in params:\n        clip_grad_norm_(p, 1.0)",
            "def f(params):\n    clip_grad_norm_(params, 1.0)",
        ),
        ("for p in (q for q in model.parameters()):\n    clip_grad_norm_(p, 1.0)", "clip_grad_norm_((q for q in model.parameters()), 1.0)"),
        ("for i, p in enumerate(model.parameters()):\n    clip_grad_norm_(p, 1.0)", None),
        ("for p in model.parameters():\n    if p.ndim > 1:\n        clip_grad_norm_(p, 1.0)", None),
        ("for p in model.parameters():\n    clip_grad_norm_(p, 1.0)\n    count += 1", None),
        ("for p in model.parameters():\n    clip_grad_norm_(p, 1.0)\nelse:\n    f()", None),
        ("for p in model.parameters():\n    clip_grad_norm_(p, 1.0)  # why", "clip_grad_norm_(model.parameters(), 1.0)  # why"),
        ("for p in model.parameters():\n    # why\n    clip_grad_norm_(p, 1.0)", None),
        ("for p in model.parameters():\n    norm = clip_grad_norm_(p, 1.0)", None),
        ("for p in model.parameters():\n    clip_grad_norm_([p], 1.0)", "clip_grad_norm_(model.parameters(), 1.0)"),
        ("for p in model.parameters():\n    clip_grad_norm_((p,), 1.0)", "clip_grad_norm_(model.parameters(), 1.0)"),
        ("for g in opt.param_groups:\n    for p in g['params']:\n        clip_grad_norm_([p], 1.0)\n        f(p)", None),
        ("for p in model.parameters():\n    accelerator.clip_grad_norm_(p, 1.0)", "accelerator.clip_grad_norm_(model.parameters(), 1.0)"),
        ("norms = [clip_grad_norm_(p, 1.0) for p in model.parameters()]", None),
        ("def hook(p):\n    clip_grad_norm_(p, 1.0)\nx.register_post_accumulate_grad_hook(hook)", None),
        ("def hook(p):\n    accelerator.clip_grad_norm_(p, 1.0)\nx.register_post_accumulate_grad_hook(hook)", None),
        ("x.register_post_accumulate_grad_hook(lambda p: clip_grad_norm_([p], 1.0))", None),
        ("from functools import partial\ndef hook(p, g):\n    clip_grad_norm_(p, 1.0)\nx.register_post_accumulate_grad_hook(partial(hook, g=1))", None),
        (
            "def make(group):\n    def hook(p):\n        clip_grad_norm_(p, 1.0)\n    return hook\nx.register_post_accumulate_grad_hook(make(g))",
            None,
        ),
        ("hook = lambda p: clip_grad_norm_(p, 1.0)\nx.register_post_accumulate_grad_hook(hook)", None),
        (
            "class A:\n    def hook(self, p):\n        clip_grad_norm_(p, 1.0)\n    def f(self):\n        x.register_post_accumulate_grad_hook(self.hook)",
            None,
        ),
        ("for m in net.modules():\n    clip_grad_norm_(m.parameters(), 1.0)", "clip_grad_norm_(net.parameters(), 1.0)"),
        ("for n, m in net.named_modules():\n    clip_grad_norm_(m.parameters(), 1.0)", "clip_grad_norm_(net.parameters(), 1.0)"),
        ("for m in net.modules():\n    clip_grad_norm_(m.parameters(), 1.0)\n    f()", None),
        (
            "from itertools import chain\nfor p in chain(a.parameters(), b.parameters()):\n    clip_grad_norm_(p, 1.0)",
            "from itertools import chain\nclip_grad_norm_(chain(a.parameters(), b.parameters()), 1.0)",
        ),
        (
            "for p in list(a.parameters()) + list(b.parameters()):\n    clip_grad_norm_(p, 1.0)",
            "clip_grad_norm_(list(a.parameters()) + list(b.parameters()), 1.0)",
        ),
        ("for p in [*a.parameters(), *b.parameters()]:\n    clip_grad_norm_(p, 1.0)", "clip_grad_norm_([*a.parameters(), *b.parameters()], 1.0)"),
        ("list(map(lambda p: clip_grad_norm_(p, 1.0), model.parameters()))", None),
        ("ws = list(model.parameters())\nfor i in range(len(ws)):\n    clip_grad_norm_(ws[i], 1.0)", None),
        ("for n, p in dict(net.named_parameters()).items():\n    clip_grad_norm_(p, 1.0)", None),
        ("def own():\n    for w in net.parameters():\n        yield w\nfor p in own():\n    clip_grad_norm_(p, 1.0)",
         "def own():\n    for w in net.parameters():\n        yield w\nclip_grad_norm_(own(), 1.0)"),
        ("def own():\n    return [w for w in net.parameters()]\nfor p in own():\n    clip_grad_norm_(p, 1.0)",
         "def own():\n    return [w for w in net.parameters()]\nclip_grad_norm_(own(), 1.0)"),
        ("own = dict(net.named_parameters())\nfor p in own.values():\n    clip_grad_norm_(p, 1.0)", "own = dict(net.named_parameters())\nclip_grad_norm_(own.values(), 1.0)"),
        ("def clip(p):\n    clip_grad_norm_(p, 1.0)\nfor p in model.parameters():\n    clip(p)", None),
        ("def clip(p, limit):\n    clip_grad_norm_([p], limit)\nfor n, p in model.named_parameters():\n    clip(p, limit)", None),
        (
            "class A:\n    def clip(self, w):\n        clip_grad_norm_(w, self.limit)\n    def f(self):\n        for p in self.net.parameters():\n            self.clip(p)",
            None,
        ),
        (
            "class TrainOptimizer:\n    def step(self):\n        loss.backward()\n        for p in self.params:\n            clip_grad_norm_(p, 1.0)",
            "class TrainOptimizer:\n    def step(self):\n        loss.backward()\n        clip_grad_norm_(self.params, 1.0)",
        ),
    ],
)  # fmt: skip
def test_clips_of_one_parameter_at_a_time(loop: str, after: str | None) -> None:
    assert len(found(loop + "\n", "CLIP110")) == 1
    assert fixed(loop + "\n", "CLIP110") == (after or loop) + "\n"


@pytest.mark.parametrize(
    "text",
    [
        "for g in opt.param_groups:\n    clip_grad_norm_(g['params'], g['clip'])",
        "for g in opt.param_groups:\n    clip_grad_value_(g['params'], 1.0)",
        "for g in opt.param_groups:\n    norms.append(clip_grad_norm_(g['params'], float('inf')))",
        "for g in opt.param_groups:\n    clip_grad_norm_(h['params'], 1.0)",
        "for g in opt.param_groups:\n    clip_grad_norm_(g['lr'], 1.0)",
        "for m in models:\n    loss(m).backward()\n    clip_grad_norm_(m.parameters(), 1.0)",
        "for m in models:\n    clip_grad_norm_(m.parameters(), 1.0)\n    m.opt.step()",
        "clip_grad_norm_(m.parameters(), 1.0)",
        "for name, m in parts.items():\n    clip_grad_norm_(m.parameters(), limits[name])",
        "for i in range(3):\n    clip_grad_norm_(net.parameters(), 1.0)",
        "for i in range(3):\n    clip_grad_norm_(groups[i]['params'], limits[i])",
        "for name, m in parts.items():\n    m.zero_grad()\n    f(name)\n    clip_grad_norm_(m.parameters(), 1.0)",
        "for m in net.modules():\n    clip_grad_norm_(m.parameters(), 1.0)",  # the whole comes first, the parts are no-ops
        "for p in model.parameters():\n    clip_grad_norm_(p, 1.0)",
        "for name, p in table.items():\n    clip_grad_norm_(p, 1.0)",
        "for m in models:\n    m.clip_grad_norm_(1.0)",  # FSDP's takes no parameters
        "for m in models:\n    other(m.parameters(), 1.0)",
        "def clip(ps, limit):\n    clip_grad_norm_(ps, limit)\nfor m in models:\n    clip(m.parameters(), m.limit)",
        "def clip(ps, limit):\n    clip_grad_norm_(ps, limit)\nfor m in models:\n    clip(net.parameters(), 1.0)",
        "def clip(m):\n    clip_grad_norm_(m.parameters(), m.limit)\nfor m in models:\n    clip(m)",
        "def clip(m):\n    clip_grad_norm_(m.parameters(), 1.0)\nfor m in net.modules():\n    clip(m)",
        "def clip(m):\n    clip_grad_norm_(m.parameters(), 1.0)\nfor m in models:\n    f(m).backward()\n    clip(m)",
    ],
)
def test_intended_clips_of_one_group(text: str) -> None:
    assert found(text + "\n", "CLIP111") == []


@pytest.mark.parametrize(
    ("loop", "after"),
    [
        (
            "for g in opt.param_groups:\n    clip_grad_norm_(g['params'], 1.0)",
            "clip_grad_norm_([p for g in opt.param_groups for p in g['params']], 1.0)",
        ),
        (
            "for m in (a, b):\n    clip_grad_norm_(m.parameters(), limit)",
            "clip_grad_norm_([p for m in (a, b) for p in m.parameters()], limit)",
        ),
        ("for p in (a, b):\n    clip_grad_norm_(p.parameters(), 1.0)", None),
        ("for m in (a, b):\n    clip_grad_norm_(m.parameters(), 1.0)\n    f()", None),
        ("for m in (a, b):\n    # why\n    clip_grad_norm_(m.parameters(), 1.0)", None),
        (
            "for m in ms if x else ns:\n    clip_grad_norm_(m.parameters(), 1.0)",
            "clip_grad_norm_([p for m in (ms if x else ns) for p in m.parameters()], 1.0)",
        ),
        (
            "for m in a, b:\n    clip_grad_norm_(m.parameters(), 1.0)",
            "clip_grad_norm_([p for m in (a, b) for p in m.parameters()], 1.0)",
        ),
        ("for m in (a, b):\n    norm = clip_grad_norm_(m.parameters(), 1.0)", None),
        ("for m in (a, b):\n    clip_grad_norm_(m.parameters(), 1.0)\nelse:\n    f()", None),
        (
            "for i, m in enumerate(models):\n    clip_grad_norm_(m.parameters(), 1.0)",
            "clip_grad_norm_([p for i, m in enumerate(models) for p in m.parameters()], 1.0)",
        ),
        (
            "for name, m in parts.items():\n    clip_grad_norm_(m.parameters(), 1.0)",
            "clip_grad_norm_([p for name, m in parts.items() for p in m.parameters()], 1.0)",
        ),
        ("for n, p in parts.items():\n    clip_grad_norm_(p.parameters(), 1.0)", None),
        (
            "for m in parts.values():\n    clip_grad_norm_(m.parameters(), 1.0)",
            "clip_grad_norm_([p for m in parts.values() for p in m.parameters()], 1.0)",
        ),
        ("for name in parts:\n    norm = clip_grad_norm_(parts[name].parameters(), 1.0)", None),
        ("for i in range(len(groups)):\n    norms[i] = clip_grad_norm_(groups[i]['params'], 1.0)", None),
        ("for params in lists:\n    norm = clip_grad_norm_(params, 1.0)", None),
        ("for g in opt.param_groups:\n    ps = [p for p in g['params'] if p.grad is not None]\n    clip_grad_norm_(ps, 1.0)", None),
        ("for g in opt.param_groups:\n    clip_grad_norm_(list(filter(f, g['params'])), 1.0)", None),
        ("for a in agents:\n    norm = clip_grad_norm_(a.net.parameters(), 1.0)", None),
        ("norms = {n: clip_grad_norm_(m.parameters(), 1.0) for n, m in parts.items()}", None),
        ("norms = [clip_grad_norm_(m.parameters(), 1.0) for m in net.children()]", None),
        ("for m in net.modules():\n    if isinstance(m, nn.Linear):\n        clip_grad_norm_(m.parameters(), 1.0)", None),
        ("for g in opt.param_groups:\n    norm = accelerator.clip_grad_norm_(g['params'], 1.0)", None),
        ("def clip(ps, limit):\n    clip_grad_norm_(ps, limit)\nfor m in models:\n    clip(m.parameters(), 1.0)", None),
        ("def clip(m):\n    clip_grad_norm_(m.parameters(), 1.0)\nfor m in models:\n    clip(m)", None),
        (
            "class A:\n    def clip(self, m):\n        clip_grad_norm_(m.parameters(), self.limit)\n    def f(self):\n        for m in self.nets:\n            self.clip(m)",
            None,
        ),
    ],
)  # fmt: skip
def test_clips_of_one_group_at_a_time(loop: str, after: str | None) -> None:
    assert len(found(loop + "\n", "CLIP111")) == 1
    assert fixed(loop + "\n", "CLIP111") == (after or loop) + "\n"


# --- gradients that are clamped ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "p.grad.clamp_(-1, 1)",
        "p.grad = p.grad.clamp(-1, 1)",
        "p.data.clamp(-1, 1)",
        "x.clamp(-1, 1)",
        "p.grad.norm()",
        "p.grad.clone().clamp(-1, 1)",
        "torch.clamp(p.grad, -1, 1, out=p.grad)",
        "torch.clamp(x, -1, 1)",
        "y = torch.clamp(p.grad, -1, 1)",
        "def f(p):\n    g = p.grad\n    g = g.clamp(-1, 1)\n    return g",
        "def f(p):\n    g = p.grad.clone()\n    g = g.clamp(-1, 1)",
        "def f(p):\n    g = x\n    g = g.clamp(-1, 1)",
        "def f(p):\n    if c:\n        g = p.grad\n    g = g.clamp(-1, 1)",
    ],
)
def test_gradients_that_are_changed_or_only_read(text: str) -> None:
    assert found(text + "\n", "CLIP107") == []


@pytest.mark.parametrize(
    ("text", "after"),
    [
        ("p.grad.clamp(-1, 1)", "p.grad.clamp_(-1, 1)"),
        ("p.grad.data.clamp(-1, 1)", "p.grad.data.clamp_(-1, 1)"),
        ("p.grad.mul(c)", "p.grad.mul_(c)"),
        ("p.grad.div(2)", "p.grad.div_(2)"),
        ("p.grad.nan_to_num(0.0)", "p.grad.nan_to_num_(0.0)"),
        ("torch.clamp(p.grad, -1, 1)", "torch.clamp_(p.grad, -1, 1)"),
        ("torch.nan_to_num(p.grad)", "torch.nan_to_num_(p.grad)"),
        ("def f(p):\n    g = p.grad\n    g = g.clamp(-1, 1)", "def f(p):\n    g = p.grad\n    g = g.clamp_(-1, 1)"),
        ("def f(p):\n    g = p.grad\n    h = g.clamp(-1, 1)", "def f(p):\n    g = p.grad\n    h = g.clamp_(-1, 1)"),
    ],
)
def test_gradients_whose_clamp_is_discarded(text: str, after: str) -> None:
    assert len(found(text + "\n", "CLIP107")) == 1
    assert fixed(text + "\n", "CLIP107") == textwrap.dedent(after) + "\n"


def test_missing_parentheses_on_one_line_show_what_a_name_is_on_another() -> None:
    text = "def f(net):\n    clip_grad_norm_(net, 1.0)\n    clip_grad_norm_(net.parameters, 2.0)\n"
    assert found(text, "CLIP202") == [2, 3]
    assert fixed(text, "CLIP202") == text.replace("(net,", "(net.parameters(),").replace("parameters,", "parameters(),")


@pytest.mark.parametrize(
    ("text", "after"),
    [
        ("from torch.  _six import inf\n", "from math import inf\n"),
        ("from torch \\\n  ._six import inf as far\nx = far\n", "from math import inf as far\nx = far\n"),
        # it goes among the standard library's, after what has to be first
        (
            "from __future__ import annotations\nfrom torch import nn\nfrom torch._six import inf\n",
            "from __future__ import annotations\nfrom math import inf\n\nfrom torch import nn\n",
        ),
    ],
)
def test_inf_comes_from_math_however_the_import_was_written(text: str, after: str) -> None:
    settings = Settings(codes=frozenset({"CLIP003"}), fix=True)
    report = check_file("x.py", text.encode(), settings)
    assert report.errors == ()
    assert (report.fixed_data or b"").decode() == after
