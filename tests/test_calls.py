"""Which function of the file a call runs, and which arguments it passes."""

from __future__ import annotations

import textwrap

import libcst as cst
import pytest

from clipcheck.python.source import Source
from clipcheck.training.calls import callee, closures
from clipcheck.training.optimizers import is_optimizer
from clipcheck.training.parameters import belong, owners


def at(text: str, name: str = "g") -> tuple[Source, cst.Call]:
    """A program and its last call of `name(…)` or `….name(…)`."""
    source = Source(textwrap.dedent(text))
    *_, call = (c for c in source.nodes(cst.Call) if source.code(c.func).split(".")[-1] == name)
    return source, call


@pytest.mark.parametrize(
    "text",
    [
        "g()",
        "from m import g\ng()",
        "def f(g):\n    g()\ndef g(): pass",
        "def g(): pass\ng = other\ng()",
        "if x:\n    def g(): pass\nelse:\n    def g(): pass\ng()",
        "class g: pass\ng()",
        "g = make(lambda: 1)\ng()",
        "g = lambda: (yield)\ng()",
        "def g():\n    yield 1\ng()",
        "def g():\n    x = yield\ng()",
        "def g(): pass\nmodel.g()",
        "def g(): pass\nself.g()",
        "def g(): pass\nsuper().g()",
        "class A:\n    def g(self): pass\n    def f(self):\n        g()",
        "class A:\n    def g(self): pass\nclass B:\n    def f(self):\n        self.g()",
        "class A:\n    def g(self): pass\n    def f(self):\n        self.h.g()",
        "class A:\n    def g(self): pass\n    g = cached(g)\n    def f(self):\n        self.g()",
        # an object of a class that derives from this one may have another
        "class A:\n    def g(self): pass\n    def f(self):\n        self.g()\nclass B(A):\n    def g(self): pass",
        "class A:\n    def f(self):\n        self.g()\nclass B(A):\n    def g(self): pass\nclass C(A):\n    def g(self): pass",
        "class A(Elsewhere):\n    def f(self):\n        self.g()\nclass B(A):\n    def g(self): pass",
    ],
)
def test_a_call_that_may_run_something_else(text: str) -> None:
    assert callee(*at(text)) is None


@pytest.mark.parametrize(
    "text",
    [
        "def g(): pass\ng()",
        "def f():\n    g()\ndef g(): pass",
        "def f():\n    def g(): pass\n    return lambda: g()",
        "class A:\n    def f(self):\n        self.g()\n    def g(self): pass",
        "class A:\n    def f(self):\n        def inner():\n            self.g()\n    def g(self): pass",
        "def g():\n    def h():\n        yield 1\ng()",  # another one is the generator
        "class A:\n    def f(self):\n        self.g()\nclass B(A):\n    def g(self): pass",  # no other object has it
    ],
)
def test_a_call_of_a_function_of_this_file(text: str) -> None:
    found = callee(*at(text))
    assert found is not None
    assert isinstance(found.function, cst.FunctionDef)
    assert found.function.name.value == "g"


@pytest.mark.parametrize(
    ("head", "call", "given"),
    [
        ("def g(): pass", "g(x)", {}),
        ("def g(a, b): pass", "g(x, y)", {"a": "x", "b": "y"}),
        ("def g(a, b=1): pass", "g(x)", {"a": "x"}),
        ("def g(a, b): pass", "g(b=x, a=y)", {"b": "x", "a": "y"}),
        ("def g(a, *, b): pass", "g(x, b=y)", {"a": "x", "b": "y"}),
        ("def g(a, /, b): pass", "g(x, y)", {"a": "x", "b": "y"}),
        ("def g(a, b): pass", "g(*x, y)", {}),
        ("def g(a, b): pass", "g(x, *y)", {"a": "x"}),
        ("def g(a, b): pass", "g(x, **y)", {"a": "x"}),
        ("def g(self, a): pass", "self.g(x)", {"a": "x"}),
        ("@staticmethod\n    def g(a): pass", "self.g(x)", {"a": "x"}),
        ("@torch.no_grad()\n    def g(self, a): pass", "self.g(x)", {"a": "x"}),
    ],
)
def test_the_arguments_of_a_call_by_parameter(head: str, call: str, given: dict[str, str]) -> None:
    as_method = f"class A:\n    {head}\n    def f(self):\n        {call}"
    source, node = at(as_method if call.startswith("self.") else f"{head}\n{call}")
    found = callee(source, node)
    assert found is not None
    assert {name: source.code(value) for name, value in found.given.items()} == given


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        ("optimizer.step(g)", ["g"]),
        ("optimizer.step(closure=g)", ["g"]),
        ("optimizer.step(unknown)", []),
        ("optimizer.step(g())", []),
        ("optimizer.start(g)", []),
        ("step(g)", []),
    ],
)
def test_closures_of_a_step(call: str, expected: list[str]) -> None:
    source = Source(f"def g(): pass\n{call}\n")
    outer = next(c for c in source.nodes(cst.Call))
    assert [source.code(function).split("(")[0].split()[-1] for function in closures(source, outer)] == expected


# --- whose parameters -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("x", None),
        ("model", None),
        ("model.parameters(True)", None),
        ("[]", None),
        ("list()", None),
        ("[x, a.parameters()]", None),
        ("{'lr': a.parameters()}", None),
        ("(p for m in ms for p in m.parameters())", None),
        ("a.parameters()", {"a"}),
        ("a.module.parameters()", {"a"}),
        ("list(self.a.named_parameters())", {"self.a"}),
        ("filter(f, a.parameters())", {"a"}),
        ("chain(a.parameters(), b.parameters())", {"a", "b"}),
        ("[*a.parameters(), *b.parameters()]", {"a", "b"}),
        ("list(a.parameters()) + list(b.parameters())", {"a", "b"}),
        ("[p for p in a.parameters()]", {"a"}),
        ("[{'params': a.parameters(), 'lr': x}]", {"a"}),
        ("named", {"c"}),
    ],
)
def test_whose_parameters_an_expression_holds(code: str, expected: set[str] | None) -> None:
    source = Source(f"own = c.parameters()\nnamed = own\nsee({code})\n")
    call = next(c for c in source.nodes(cst.Call) if source.code(c.func) == "see")
    assert owners(source, call.args[0].value) == expected


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("model", False),
        ("lr_optimizer", False),
        ("scheduler", False),
        ("warmup_optimizer", False),
        ("ema_opt", False),
        ("profiled_optimizer", False),
        ("averaged", False),  # by what it was assigned
        ("optimizer_schedule", False),
        ("optimizer", True),
        ("self.optim_g", True),
        ("opts['g']", True),
        ("adam", True),
        ("plain", True),  # by what it was assigned
        ("option", False),
        # by what holds it
        ("by_key['g']", True),
        ("by_name['g']", True),
        ("by_index[0]", True),
        ("made[0]", True),
        ("given['g']", True),
        ("left", True),
        ("meters['g']", False),
        ("counted['g']", False),
        ("right", False),
        ("by_key", False),
    ],
)
def test_what_is_an_optimizer(code: str, expected: bool) -> None:
    source = Source(
        "import torch\nplain = torch.optim.SGD(x)\naveraged = torch.optim.swa_utils.AveragedModel(x)\n"
        "by_key = {k: torch.optim.SGD(v) for k, v in x}\nby_name = {'g': torch.optim.SGD(x)}\n"
        "by_index = [torch.optim.SGD(v) for v in x]\nmade = [torch.optim.SGD(x), 1]\n"
        "given, counted, meters = {}, {}, {k: Meter(v) for k, v in x}\n"
        "given['g'] = torch.optim.SGD(x)\ncounted['g'] = Meter(x)\nleft, right = torch.optim.SGD(x), Meter(x)\n"
        f"optimizer_schedule = torch.optim.lr_scheduler.StepLR(x)\nsee({code})\n"
    )
    call = next(c for c in source.nodes(cst.Call) if source.code(c.func) == "see")
    assert is_optimizer(source, call.args[0].value) is expected


@pytest.mark.parametrize(
    ("parameters", "optimizer", "expected"),
    [
        ("x", "optimizer", None),
        ("params", "unknown", None),
        ("net_d.parameters()", "optimizer", False),
        ("net_d.parameters()", "optimizer_g", False),
        ("self.m.parameters()", "optimizer", False),
        ("m.parameters()", "optimizer", True),
        ("m.part.parameters()", "optimizer", True),
        ("m.parameters()", "of_part", True),
        ("m.part.parameters()", "of_part", True),
        ("m.partial.parameters()", "of_part", False),
        ("optimizer.param_groups[0]['params']", "optimizer", True),
        ("group", "by_group", True),
        ("net_g.parameters()", "optimizer_g", True),
    ],
)
def test_whether_an_optimizer_steps_parameters(parameters: str, optimizer: str, expected: bool | None) -> None:
    source = Source(
        "import torch\ndef f(m, group):\n    optimizer = torch.optim.SGD(m.parameters())\n"
        f"    by_group = torch.optim.SGD(group)\n    of_part = torch.optim.SGD(m.part.parameters())\n    see({parameters}, {optimizer})\n"
    )
    call = next(c for c in source.nodes(cst.Call) if source.code(c.func) == "see")
    first, second = (arg.value for arg in call.args)
    assert belong(source, first, second) is expected
    assert belong(source, None, second) is None


def test_a_name_of_one_method_may_be_an_attribute_of_another() -> None:
    source = Source(
        "import torch\nclass A:\n    def __init__(self, model):\n        self.opt = torch.optim.SGD(model.parameters())\n"
        "    def f(self):\n        see(self.model.parameters(), self.opt)\n"
    )
    call = next(c for c in source.nodes(cst.Call) if source.code(c.func) == "see")
    assert belong(source, call.args[0].value, call.args[1].value) is None
