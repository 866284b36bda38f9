"""What a function of the file does, reads, returns, measures and reduces. Silent cases first."""

from __future__ import annotations

import itertools
import textwrap

import libcst as cst
import pytest

from clipcheck.python.source import Source
from clipcheck.training.acts import EventKind
from clipcheck.training.readings import clip_after_drain, readings
from clipcheck.training.summaries import DEPTH, MOST, does, hooks, possible_acts, reductions, returned

IMPORTS = (
    "import functools\nimport torch\nimport torch.distributed as dist\nfrom torch.nn.utils import clip_grad_norm_\n"
)


def program(text: str) -> Source:
    return Source(IMPORTS + textwrap.dedent(text))


def function(source: Source, name: str = "f") -> cst.FunctionDef:
    return next(node for node in source.nodes(cst.FunctionDef) if node.name.value == name)


def acts_of(text: str, name: str = "f") -> list[str]:
    """The acts of a function: kind, subject."""
    source = program(text)
    return [
        f"{act.kind.value} {'' if act.subject is None else source.code(act.subject)}".strip()
        for act in possible_acts(source, function(source, name))
    ]


# --- acts -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "def f(x):\n    print(x)",
        "def f(opt):\n    g\ndef g(opt):\n    opt.step()",  # named, not called
        "def f(opt):\n    def g():\n        opt.step()",
        "def f(opt):\n    g = lambda: opt.step()",
        "def f(opt):\n    g()\ndef g(opt):\n    yield opt.step()",  # does not run when it is called
        "def f(g):\n    g()\ndef g(opt):\n    opt.step()",  # another one
        "class A:\n    def g(self):\n        self.opt.step()\nclass B:\n    def f(self):\n        self.g()",
        "class A(Other):\n    def f(self):\n        self.g()\nclass C:\n    def g(self):\n        self.opt.step()",
        # which of them runs is not known
        "class A:\n    def g(self):\n        self.opt.step()\n    def f(self):\n        self.g()\nclass B(A):\n    def g(self):\n        pass",
        # a step that does nothing
        "class A:\n    def step(self):\n        pass\ndef f():\n    opt = A()\n    opt.step()",
        'class A:\n    def step(self, c=None):\n        """In hooks."""\n        if c:\n            raise E(c)\ndef f():\n    opt = A()\n    opt.step()',
        "class A(Other):\n    pass\nclass C:\n    def g(self):\n        self.opt.step()\nclass B(A, C):\n    def f(self):\n        self.g()",
    ],
)
def test_a_function_that_does_nothing_to_the_step(text: str) -> None:
    assert acts_of(text) == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("def f(loss, opt):\n    opt.zero_grad()\n    loss.backward()\n    opt.step()", ["zero_grad opt", "backward loss", "step opt"]),
        ("def f(scaler, opt):\n    scaler.unscale_(opt)\n    scaler.update()", ["unscale opt", "update"]),
        # what it calls, as the function writes it
        ("def f(net, x):\n    g(net.parameters(), x)\ndef g(ps, o):\n    clip_grad_norm_(ps, 1.0)\n    o.step()", ["clip net.parameters()", "unknown"]),
        ("def f(optim):\n    g(optim)\ndef g(opt):\n    h(opt=opt)\ndef h(opt):\n    opt.step()", ["step optim"]),
        ("def f(net):\n    g(net)\ndef g(net):\n    ps = net.parameters()\n    clip_grad_norm_(ps, 1.0)", ["clip ps"]),
        ("def f(net):\n    g(net.parameters())\ndef g(ps):\n    ps = list(ps)\n    clip_grad_norm_(ps, 1.0)", ["clip ps"]),  # no longer the argument
        # closures, lambdas, partials, other names
        ("def f(opt):\n    def g():\n        opt.step()\n    g()", ["step opt"]),
        ("def f(opt, loss):\n    def g():\n        loss.backward()\n    opt.step(g)", ["step opt", "backward loss"]),
        ("def f(opt, loss):\n    opt.step(lambda: loss.backward())", ["step opt", "backward loss"]),
        ("def f(opt):\n    g = lambda o: o.step()\n    g(opt)", ["unknown"]),
        ("def f(opt):\n    g = lambda: opt.step()\n    g()", ["step opt"]),
        ("def f(opt):\n    go = functools.partial(g, opt)\n    go()\ndef g(o):\n    o.zero_grad()", ["zero_grad opt"]),
        ("def f(net, opt):\n    go = functools.partial(g, ps=net.parameters())\n    go()\ndef g(ps):\n    clip_grad_norm_(ps, 1.0)", ["clip net.parameters()"]),
        ("def f(opt):\n    go = g\n    go(opt)\ndef g(o):\n    o.zero_grad()", ["zero_grad opt"]),
        ("clip = functools.partial(clip_grad_norm_, max_norm=1.0)\ndef f(net):\n    clip(net.parameters())", ["clip net.parameters()"]),
        ("class A:\n    def step(self):\n        move(self)\ndef f():\n    opt = A()\n    opt.step()", ["step opt"]),
        ("class A:\n    def step(self):\n        self.x = 1\ndef f():\n    opt = A()\n    opt.step()", ["step opt"]),
        ("class A(Other):\n    pass\ndef f():\n    opt = A()\n    opt.step()", ["step opt"]),
        # methods
        ("class A:\n    def f(self):\n        self.g()\n    def g(self):\n        self.opt.step()", ["step self.opt"]),
        ("class A:\n    def g(self):\n        self.opt.step()\nclass B(A):\n    def f(self):\n        self.g()", ["step self.opt"]),
        ("class A:\n    def g(self):\n        self.opt.step()\nclass B(A):\n    def g(self):\n        pass\n    def f(self):\n        super().g()", ["step self.opt"]),
        ("class A:\n    def g(self):\n        self.opt.step()\nclass B(torch.nn.Module, A):\n    def f(self):\n        self.g()", ["step self.opt"]),
        ("class A:\n    @staticmethod\n    def g(o):\n        o.zero_grad()\n    def f(self):\n        self.g(self.opt)", ["zero_grad self.opt"]),
        ("class A:\n    @classmethod\n    def g(cls, o):\n        o.zero_grad()\ndef f(opt):\n    A.g(opt)", ["zero_grad opt"]),
        ("class A:\n    def g(self, o):\n        o.zero_grad()\ndef f(opt):\n    a = A()\n    a.g(opt)", ["zero_grad opt"]),
        ("class A:\n    def __init__(self):\n        self.go = functools.partial(g, self.opt)\n    def f(self):\n        self.go()\ndef g(o):\n    o.zero_grad()", ["zero_grad self.opt"]),
    ],
)  # fmt: skip
def test_what_a_function_does(text: str, expected: list[str]) -> None:
    assert acts_of(text) == expected


def chain(length: int) -> str:
    names = ["f", *(f"g{i}" for i in range(1, length + 1))]
    calls = [f"def {one}(opt):\n    {other}(opt)\n" for one, other in itertools.pairwise(names)]
    return "".join([*calls, f"def {names[-1]}(opt):\n    opt.step()\n"])


def test_calls_are_followed_as_deep_as_it_says() -> None:
    assert acts_of(chain(DEPTH)) == ["step opt"]
    assert acts_of(chain(DEPTH + 1)) == ["unknown"]
    assert acts_of(chain(DEPTH + 2)) == []


def test_recursion_and_size_are_bounded() -> None:
    assert set(acts_of("def f(opt):\n    f(opt)\n    g(opt)\n    opt.step()\ndef g(opt):\n    f(opt)")) == {
        "step opt",
        "unknown",
    }
    wide = "def f(opt):\n" + "    g(opt)\n" * 60 + "def g(opt):\n" + "    opt.step()\n" * 60
    assert len(acts_of(wide)) == MOST


def test_the_calls_that_lead_to_an_act() -> None:
    source = program("def f(opt):\n    g(opt)\ndef g(opt):\n    h(opt)\ndef h(opt):\n    opt.step()\n")
    (act,) = possible_acts(source, function(source))
    assert [source.code(call) for call in act.calls] == ["g(opt)", "h(opt)"]
    assert does(source, function(source), EventKind.STEP, EventKind.CLIP)
    assert not does(source, function(source), EventKind.CLIP)
    assert not does(source, source.module, EventKind.STEP)


# --- parameters -----------------------------------------------------------------------------------------------------


def read(text: str, name: str = "ps") -> list[str]:
    """The first lines of the code that iterates over all of a parameter of `f`."""
    source = program(text)
    return [source.code(reading.drain).split("\n")[0] for reading in readings(source, function(source), name)]


@pytest.mark.parametrize(
    "text",
    [
        "def f(ps):\n    print(ps)",
        "def f(ps):\n    next(ps)",
        "def f(ps):\n    for p in ps:\n        break",
        "def f(ps):\n    ps = list(model.parameters())\n    sum(ps)",  # something else
        "def f(ps):\n    if not isinstance(ps, list):\n        ps = [*ps]\n    for p in ps:\n        pass",  # perhaps something else
        "def f(ps):\n    if deep:\n        ps = [ps]\n    for p in ps:\n        pass",
        "def f(ps):\n    def g():\n        list(ps)",  # g need not run
        "def f(ps):\n    g(ps)\ndef g(qs):\n    print(qs)",
        "def f(ps):\n    g(1, ps)\ndef g(qs, x):\n    list(qs)",
        "def f(ps):\n    filter(None, ps)",
    ],
)
def test_a_parameter_that_may_not_be_exhausted(text: str) -> None:
    assert read(text) == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("def f(ps):\n    ps = list(ps)\n    for p in ps:\n        pass", ["list(ps)"]),
        ("def f(ps):\n    for p in ps:\n        pass\n    clip_grad_norm_(ps, 1.0)", ["for p in ps:", "clip_grad_norm_(ps, 1.0)"]),
        ("def f(ps):\n    if isinstance(ps, torch.Tensor):\n        ps = [ps]\n    for p in ps:\n        pass", ["for p in ps:"]),
        ("def f(ps):\n    x = [p for p in ps]\n    return sum(ps)", ["[p for p in ps]", "sum(ps)"]),
        ("def f(ps):\n    g(ps)\ndef g(qs):\n    list(qs)", ["g(ps)"]),
        ("def f(ps):\n    g(x=1, qs=ps)\ndef g(qs, x):\n    for q in qs:\n        pass", ["g(x=1, qs=ps)"]),
        ("def f(ps):\n    g(filter(None, ps))\ndef g(qs):\n    list(qs)", ["g(filter(None, ps))"]),
    ],
)  # fmt: skip
def test_how_often_a_parameter_is_iterated_over(text: str, expected: list[str]) -> None:
    assert read(text) == expected


def test_a_recursive_function_with_its_parameter_terminates() -> None:
    assert read("def f(ps):\n    f(ps)\n    list(ps)") == ["f(ps)", "list(ps)"]


def starving(text: str) -> str | None:
    source = program(text)
    found = clip_after_drain(source, function(source), "ps")
    return None if found is None else source.code(found.drain).split("\n")[0]


SUM = "total = torch.sqrt(sum(torch.sum(p.grad ** 2) for p in ps))"
SCALE = "for p in ps:\n        p.grad.mul_(limit / total)"


@pytest.mark.parametrize(
    "text",
    [
        "def f(ps, limit):\n    clip_grad_norm_(ps, limit)",
        "def f(ps, limit):\n    clip_grad_norm_(ps, limit)\n    return sum(p.sum() for p in ps)",
        "def f(ps, limit):\n    for p in ps:\n        print(p)\n    for p in ps:\n        print(p)",  # clips nothing
        f"def f(ps, limit):\n    ps = list(ps)\n    {SUM}\n    {SCALE}",
        f"def f(ps, limit):\n    if not isinstance(ps, list):\n        ps = list(ps)\n    {SUM}\n    {SCALE}",
        f"def f(ps, limit, total):\n    {SCALE}",
        "def f(ps, limit):\n    if limit:\n        list(ps)\n    else:\n        clip_grad_norm_(ps, limit)",
        "def f(ps, limit):\n    if limit:\n        return list(ps)\n    clip_grad_norm_(ps, limit)",
    ],
)
def test_a_function_whose_clip_is_not_too_late(text: str) -> None:
    assert starving(text) is None


@pytest.mark.parametrize(
    ("text", "drain"),
    [
        (f"def f(ps, limit):\n    {SUM}\n    {SCALE}", "torch.sum(p.grad ** 2) for p in ps"),
        ("def f(ps, limit):\n    print([p for p in ps])\n    clip_grad_norm_(ps, limit)", "[p for p in ps]"),
        ("def f(ps, limit):\n    g(ps)\n    g(ps)\ndef g(ps):\n    clip_grad_norm_(ps, 1.0)", "g(ps)"),
        (f"def f(ps, limit):\n    total = g(ps)\n    {SCALE}\ndef g(ps):\n    return sum(p.grad.norm() ** 2 for p in ps) ** 0.5", "g(ps)"),
        (f"def f(ps, limit):\n    total = g(ps)\n    h(ps, limit, total)\ndef g(ps):\n    return sum(p.grad.norm() ** 2 for p in ps) ** 0.5\ndef h(ps, limit, total):\n    {SCALE}", "g(ps)"),
    ],
)  # fmt: skip
def test_a_function_whose_clip_comes_too_late(text: str, drain: str) -> None:
    assert starving(text) == drain


HALVES = (
    "def f(ps, limit, by):\n    total = g(ps)\n    {}\n    for p in ps:\n        {}\ndef g(ps):\n    return max(ps)"
)


@pytest.mark.parametrize(
    ("before", "line"),
    [
        ("pass", "p.grad.mul_(limit / total)"),
        ("pass", "p.grad *= limit / total"),
        ("pass", "p.grad.mul_(min(1.0, limit / total))"),
        ("pass", "p.grad.mul_(torch.clamp(limit / total, max=1.0))"),
        ("pass", "p.grad.mul_((limit / total).clamp(max=1.0))"),
        ("by = limit / (total + 1e-6)", "p.grad.mul_(by)"),
        ("by = min(limit / total, 1.0)", "p.grad.mul_(by)"),
        ("by = limit / total\n    by = by.clamp(max=1.0)", "p.grad.mul_(by)"),
    ],
)
def test_gradients_times_a_quotient_are_clipped(before: str, line: str) -> None:
    assert starving(HALVES.format(before, line)) == "g(ps)"


@pytest.mark.parametrize(
    ("before", "line"),
    [
        ("pass", "p.grad.mul_(by)"),
        ("pass", "p.grad.mul_(0.5)"),
        ("pass", "p.grad.mul_(1.0 / by)"),  # unscales
        ("pass", "p.grad.mul_(limit * by)"),
        ("pass", "p.grad.add_(limit / total)"),
        ("pass", "p.grad /= limit / total"),
        ("pass", "p.data.mul_(limit / total)"),
        ("pass", "print(limit / total)"),
        ("by = min(1.0, limit)", "p.grad.mul_(by)"),
    ],
)
def test_gradients_times_something_else_are_not(before: str, line: str) -> None:
    assert starving(HALVES.format(before, line)) is None


# --- results, norms, collectives, hooks -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("def f():\n    pass", None),
        ("def f(x):\n    if x:\n        return\n    return 1", None),
        ("def f(x):\n    def g():\n        return 2\n    return 1", ["1"]),
        ("def f(x):\n    if x:\n        return x\n    return 1", ["x", "1"]),
    ],
)
def test_what_a_function_returns(text: str, expected: list[str] | None) -> None:
    source = program(text)
    found = returned(source, function(source))
    assert (None if found is None else [source.code(value) for value in found]) == expected


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("def f(ps):\n    return sum(p.norm() for p in ps)", 0),
        ("def f(ps):\n    return torch.nn.utils.clip_grad_norm_(ps, 1.0)", 0),
        ("def f(ps):\n    return torch.nn.utils.get_total_norm([p.grad for p in ps])", 1),
        ("def f(ps):\n    return sum(p.grad.norm() ** 2 for p in ps) ** 0.5", 1),
        ("def f(ps):\n    return g(ps)\ndef g(ps):\n    return sum(p.grad.norm() ** 2 for p in ps) ** 0.5", 1),
        ("def f(ps):\n    return g\ndef g(ps):\n    return sum(p.grad.norm() ** 2 for p in ps) ** 0.5", 0),
    ],
)
def test_the_norms_that_a_function_computes(text: str, count: int) -> None:
    source = program(text)
    assert [act.kind for act in possible_acts(source, function(source))].count(EventKind.MEASURE) == count


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("def f(ps, loss):\n    dist.all_reduce(loss)", []),
        ("def f(ps):\n    for p in ps:\n        dist.broadcast(p.grad, 0)", []),
        ("def f(ps):\n    for p in ps:\n        dist.all_reduce(p.grad.data)", ["dist.all_reduce(p.grad.data)"]),
        (
            "def f(ps):\n    g(ps)\ndef g(ps):\n    for p in ps:\n        dist.all_reduce(p.grad)",
            ["dist.all_reduce(p.grad)"],
        ),
    ],
)
def test_the_collectives_that_a_function_runs(text: str, expected: list[str]) -> None:
    source = program(text)
    assert [source.code(call) for call in reductions(source, function(source))] == expected


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("p.register_post_accumulate_grad_hook(unknown)", 0),
        ("def g(p):\n    pass\np.register_forward_hook(g)", 0),
        ("def g(p):\n    pass\np.register_post_accumulate_grad_hook(g)", 1),
        ("p.register_post_accumulate_grad_hook(lambda p: p.grad.zero_())", 1),
        ("def g(x, p):\n    pass\np.register_post_accumulate_grad_hook(functools.partial(g, 1))", 1),
        ("def make(x):\n    def g(p):\n        pass\n    return g\np.register_post_accumulate_grad_hook(make(1))", 1),
        ("class A:\n    def g(self, p):\n        pass\n    def f(self, p):\n        p.register_hook(self.g)", 1),
    ],
)
def test_the_hooks_of_autograd(text: str, count: int) -> None:
    assert len(hooks(program(text))) == count
