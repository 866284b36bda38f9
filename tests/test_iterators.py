"""One-shot iterators: which uses see an exhausted one, and why."""

from __future__ import annotations

import textwrap

import libcst as cst
import pytest

from clipcheck.python.source import Source
from clipcheck.training.iterators import Spent, spent
from clipcheck.training.one_shot import drains, is_one_shot

IMPORTS = "import itertools\nimport torch\nfrom itertools import chain\nfrom torch.nn.utils import clip_grad_norm_\n"


def program(text: str) -> Source:
    return Source(IMPORTS + textwrap.dedent(text))


def asked(source: Source) -> cst.BaseExpression:
    """The argument of the one call `see(…)`."""
    (call,) = (c for c in source.nodes(cst.Call) if isinstance(c.func, cst.Name) and c.func.value == "see")
    return call.args[0].value


def why(text: str) -> Spent | None:
    source = program(text)
    return spent(source, asked(source))


def story(text: str) -> str:
    """Why `see(…)` sees an exhausted iterator: what exhausted it, or how the use is repeated."""
    source = program(text)
    found = spent(source, asked(source))
    if found is None:
        return "not spent"
    if found.again:
        return "each call" if found.calls else "each iteration"
    return source.code(found.drained).split("\n")[0]


# --- the iterator may not be exhausted --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "see(params)",
        "see(print)",
        "see(other(params))",
        "params = model.parameters()\nsee(params)",
        "params = model.parameters()\nlist(params)\nparams = model.parameters()\nsee(params)",
        "params = list(model.parameters())\nlist(params)\nsee(params)",
        "params = get()\nlist(params)\nsee(params)",
        "params, other = list(model.parameters()), 1\nlist(params)\nsee(params)",
        "params, *other = model.parameters(), 1\nlist(params)\nsee(params)",
        "def f(params):\n    list(params)\n    see(params)",
        "for params in groups:\n    list(params)\n    see(params)",
        "params = model.parameters()\nsee(params)\nlist(params)",
        # it may be a list, too
        "params = model.parameters()\nif c:\n    params = [1]\nlist(params)\nsee(params)",
        # a use that takes some, or none
        "params = model.parameters()\nnext(params)\nsee(params)",
        "params = model.parameters()\nprint(params)\nsee(params)",
        "params = model.parameters()\nfor p in params:\n    break\nsee(params)",
        "def f():\n    params = model.parameters()\n    for p in params:\n        if p:\n            return\n    see(params)",
        "params = model.parameters()\nmodel.train(params)\nsee(params)",
        "params = model.parameters()\nparams()\nsee(params)",
        "params = model.parameters()\nfilter(None, params)\nsee(params)",
        "params = model.parameters()\ntorch.optim.SGD(model2.parameters(), params)\nsee(params)",
        # another name for something else, or for what was made again
        "own = model.parameters()\nparams = list(own)\nlist(params)\nsee(params)",
        "own = model.parameters()\nlist(own)\nown = model.parameters()\nparams = own\nsee(params)",
        "for x in y:\n    own = model.parameters()\n    params = own\n    see(params)",
        "own = model.parameters()\nparams = own if c else []\nlist(own)\nsee(params)",
        # a function that takes none, or that is another one's
        "def g(ps):\n    print(ps)\nparams = model.parameters()\ng(params)\nsee(params)",
        "params = model.parameters()\ng(params)\nsee(params)",
        "def own():\n    return list(model.parameters())\nparams = own()\nlist(params)\nsee(params)",
        "params = model.parameters() if c else []\nlist(params)\nsee(params)",
        "from contextlib import contextmanager\n@contextmanager\ndef own():\n    yield model\nparams = own()\nlist(params)\nsee(params)",
        "def own():\n    def inner():\n        yield 1\n    return [p for p in inner()]\nparams = own()\nlist(params)\nsee(params)",
        "def own(c):\n    if c:\n        return model.parameters()\n    return []\nparams = own(1)\nlist(params)\nsee(params)",
        "params = model.parameters.parameters()\nlist(params)\nsee(params)",
        "params = self.params.parameters()\nlist(params)\nsee(params)",
        # on another path
        "params = model.parameters()\nif c:\n    list(params)\nelse:\n    see(params)",
        "if c:\n    params = model.parameters()\n    list(params)\nelse:\n    params = model.parameters()\n    see(params)",
        "def f():\n    params = model.parameters()\n    if c:\n        list(params)\n        return\n    see(params)",
        "def f():\n    params = model.parameters()\n    if c:\n        list(params)\n        raise E\n    see(params)",
        "for x in y:\n    params = model.parameters()\n    if c:\n        list(params)\n        continue\n    see(params)",
        "params = model.parameters()\ndef f():\n    list(params)\nsee(params)",
        # the use takes everything itself
        "params = model.parameters()\nlist(see(params))",
        # made in each iteration, or used in one
        "for x in y:\n    params = model.parameters()\n    see(params)",
        "params = model.parameters()\nfor x in y:\n    see(params)\n    params = model.parameters()",
        "params = model.parameters()\nfor x in y:\n    see(params)\n    break",
        "def f():\n    params = model.parameters()\n    while c:\n        see(params)\n        return",
        "params = model.parameters()\nwhile c:\n    see(params)\n    raise E",
        "params = model.parameters()\nwhile c:\n    if d:\n        see(params)\n        break",
        "params = model.parameters()\nfor x in see(params):\n    pass",
    ],
)
def test_variables_that_may_not_be_exhausted(text: str) -> None:
    assert why(text) is None


CLASS = "class A:\n    def __init__(self):\n        {}\n    def update(self):\n        {}\n"


@pytest.mark.parametrize(
    "text",
    [
        CLASS.format("self.params = list(model.parameters())", "see(self.params)"),
        CLASS.format("self.params = None", "see(self.params)"),
        CLASS.format("self.other = model.parameters()", "see(self.params)"),
        CLASS.format("other.params = model.parameters()", "see(self.params)"),
        CLASS.format("self.params = None", "self.params = model.parameters(); see(self.params)"),
        CLASS.format("self.params = model.parameters()", "see(self.params); self.params = model.parameters()"),
        CLASS.format("self.params = model.parameters(); self.params = []", "see(self.params)"),
        CLASS.format("self.params = model.parameters(); self.params += x", "see(self.params)"),
        CLASS.format("self.params = model.parameters(); see(self.params)", "pass"),
        "class A:\n    def __init__(self):\n        self.params = model.parameters()\nclass B:\n    def f(self):\n        see(self.params)",
        "class A:\n    def __init__(self):\n        self.params = x.parameters()\n    def parameters(self):\n        return []\n"
        "    def update(self):\n        see(self.params)",
        "class A:\n    def setup(self):\n        see(self.params)\n    def __init__(self):\n        self.params = x.parameters()",
        CLASS.format("pass", "self.params = model.parameters()\n        for x in y:\n            see(self.params)\n            break"),
    ],
)  # fmt: skip
def test_attributes_that_may_not_be_exhausted(text: str) -> None:
    assert why(text) is None


# --- the iterator is exhausted ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("params = model.parameters()\nlist(params)\nsee(params)", "list(params)"),
        ("params = model.parameters()\nsgd = torch.optim.SGD(params, lr=1)\nsee(params)", "torch.optim.SGD(params, lr=1)"),
        ("params = model.parameters()\nsgd = torch.optim.SGD(params=params)\nsee(params)", "torch.optim.SGD(params=params)"),
        ("params = model.parameters()\nclip_grad_norm_(params, 1)\nsee(params)", "clip_grad_norm_(params, 1)"),
        ("params = model.parameters()\nfor p in params:\n    pass\nsee(params)", "for p in params:"),
        ("params = model.parameters()\nx = [p for p in params]\nsee(params)", "[p for p in params]"),
        ("params = model.parameters()\nsum(map(f, params))\nsee(params)", "sum(map(f, params))"),
        ("params = (p for p in x)\nlist(params)\nsee(params)", "list(params)"),
        ("params, other = model.parameters(), 1\nlist(params)\nsee(params)", "list(params)"),
        ("other, (params, last) = 1, (model.parameters(), 2)\nlist(params)\nsee(params)", "list(params)"),
        (CLASS.format("self.params, self.lr = model.parameters(), 1", "see(self.params)"), "each call"),
        ("own = model.parameters()\nparams = own\nlist(params)\nsee(params)", "list(params)"),
        ("params = model.parameters()\nlist(params)\nsee(chain(params))", "list(params)"),
        # another name for the same iterator
        ("own = model.parameters()\nlist(own)\nparams = own\nsee(params)", "list(own)"),
        ("own = model.parameters()\nparams = own\nlist(own)\nsee(params)", "list(own)"),
        ("own = model.parameters()\nfor x in y:\n    params = own\n    see(params)", "each iteration"),
        (CLASS.format("self.params = model.parameters()", "own = self.params; see(own)"), "each call"),
        # a function that takes everything, or that makes the iterator
        ("def g(ps):\n    return sum(p.sum() for p in ps)\nparams = model.parameters()\ng(params)\nsee(params)", "g(params)"),
        ("def own():\n    return filter(None, model.parameters())\nparams = own()\nlist(params)\nsee(params)", "list(params)"),
        ("def own():\n    for p in model.parameters():\n        yield p\nparams = own()\nlist(params)\nsee(params)", "list(params)"),
        ("params = model.parameters() if c else filter(None, x)\nlist(params)\nsee(params)", "list(params)"),
        ("class A:\n    @staticmethod\n    def own():\n        yield 1\n    def f(self):\n        params = self.own()\n        list(params)\n        see(params)", "list(params)"),
        ("params = model.parameters()\nlist(params)\nif c:\n    see(params)", "list(params)"),
        ("params = model.parameters()\nif c:\n    list(params)\nsee(params)", "list(params)"),
        ("params = model.parameters()\nlist(params)\nfor x in y:\n    see(params)", "list(params)"),
        ("params = model.parameters()\nsgd = torch.optim.SGD(params)\ndef f():\n    see(params)", "torch.optim.SGD(params)"),
        ("params = model.parameters()\nfor x in y:\n    see(params)", "each iteration"),
        ("for z in y:\n    params = model.parameters()\n    for x in y:\n        see(params)", "each iteration"),
        (CLASS.format("self.params = model.parameters()", "see(self.params)"), "each call"),
        (CLASS.format("self.params = model.parameters(); list(self.params)", "see(self.params)"), "list(self.params)"),
        (CLASS.format("list(self.params); self.params = model.parameters()", "see(self.params)"), "each call"),
        (CLASS.format("pass", "self.params = model.parameters(); list(self.params); see(self.params)"), "list(self.params)"),
        (CLASS.format("pass", "self.params = m.parameters()\n        for x in y:\n            see(self.params)"), "each iteration"),
        # an earlier use took everything: then the loop around is not what matters
        (
            CLASS.format("pass", "self.params = m.parameters()\n        list(self.params)\n        for x in y:\n            see(self.params)"),
            "list(self.params)",
        ),
        ("class A:\n    def __init__(self, params=None):\n        self.params = params\n        self.params = m.parameters()\n"
         "    def update(self):\n        see(self.params)", "each call"),
    ],
)  # fmt: skip
def test_why_an_iterator_is_exhausted(text: str, reason: str) -> None:
    assert story(text) == reason


def test_what_is_reported() -> None:
    source = program("params = model.parameters()\nlist(params)\nsee(params)")
    found = spent(source, asked(source))
    assert found is not None
    assert (found.use, found.name, source.code(found.made)) == (asked(source), "params", "model.parameters()")


# --- creating and exhausting iterators --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("model.parameters()", True),
        ("model.named_parameters()", True),
        ("model.buffers()", True),
        ("super().parameters()", True),
        ("filter(f, x)", True),
        ("chain(a, b)", True),
        ("itertools.chain.from_iterable(x)", True),
        ("(p for p in x)", True),
        ("[p for p in x]", False),
        ("list(x)", False),
        ("model.children()", False),
        ("model.parameters", False),
        ("x", False),
    ],
)
def test_what_creates_a_one_shot_iterator(code: str, expected: bool) -> None:
    source = program(f"see({code})")
    assert is_one_shot(source, asked(source)) is expected


@pytest.mark.parametrize(
    "name",
    [
        *("filter", "map", "zip", "iter", "reversed", "enumerate", "chain"),
        *(f"itertools.{name}" for name in ("islice", "starmap", "compress", "filterfalse", "takewhile")),
    ],
)
def test_functions_that_return_a_one_shot_iterator(name: str) -> None:
    source = program(f"see({name}(x))")
    assert is_one_shot(source, asked(source))


@pytest.mark.parametrize(
    "name",
    [
        *("list", "tuple", "set", "sorted", "sum", "any", "all", "max", "min", "dict", "frozenset"),
        *("torch.nn.utils.parameters_to_vector", "clip_grad_norm", "clip_grad_value_"),
    ],
)
def test_functions_that_exhaust_an_iterator(name: str) -> None:
    source = program(f"{name}(x)")
    (call,) = source.nodes(cst.Call)
    assert drains(source, call.args[0].value) is call


def test_the_target_of_a_loop_does_not_exhaust_an_iterator() -> None:
    source = program("for self.x in y:\n    pass")
    (target,) = (node for node in source.nodes(cst.Attribute) if source.code(node) == "self.x")
    assert drains(source, target) is None


def test_a_method_of_this_file_may_return_a_list() -> None:
    source = program("class A:\n    def parameters(self):\n        return []\nsee(model.parameters())")
    assert not is_one_shot(source, asked(source))


@pytest.mark.parametrize(
    ("code", "drain"),
    [
        ("list(x)", "list(x)"),
        ("sum(f(p) for p in x)", "f(p) for p in x"),
        ("list(filter(f, x))", "list(filter(f, x))"),
        ("torch.optim.Adam([{'params': x}])", "torch.optim.Adam([{'params': x}])"),
        ("optimizer_class(x)", "optimizer_class(x)"),
        ("own.clip_grad_norm_(x)", "own.clip_grad_norm_(x)"),
        ("f([x])", None),
        ("print(x)", None),
        ("filter(f, x)", None),
        ("torch.optim.Adam(y, x)", None),
        ("my_class(x)", None),
        ("optim_cls(x)", "optim_cls(x)"),
        ("optimize(x)", None),
        ("optimizer_group(x)", None),
        ("optimizer_class(lr, params=x)", "optimizer_class(lr, params=x)"),
        ("optimizer_class(lr, x)", None),
        ("optimizer_class(lr, betas=x)", None),
        ("[y for x.z in x]", None),
        ("list(zip(x, y))", "list(zip(x, y))"),
        ("f(zip(x, y))", None),
        ("torch.optim.Adam([*x])", "torch.optim.Adam([*x])"),
        ("x(list)", None),
        ("x.step()", None),
    ],
)
def test_which_uses_exhaust_an_iterator(code: str, drain: str | None) -> None:
    source = program(code)
    use = next(node for node in source.nodes(cst.Name) if node.value == "x")
    found = drains(source, use)
    assert (None if found is None else source.code(found)) == drain
