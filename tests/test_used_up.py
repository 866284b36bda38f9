"""Iterators that yield their items once, and which clip sees an exhausted one. Silent cases first.

`ITER` in a program is `model.parameters()`, `CLIP` the clip of `params`.
"""

from __future__ import annotations

import pytest

from clipcheck.engine.file import check_file
from clipcheck.engine.results import FileReport
from clipcheck.rule import Safety
from clipcheck.settings.keys import Settings

HEAD = "import itertools\nimport torch\nfrom itertools import chain\nfrom torch.nn.utils import clip_grad_norm_, parameters_to_vector\n"


def program(body: str) -> str:
    return HEAD + body.replace("ITER", "model.parameters()").replace("CLIP", "clip_grad_norm_(params, 1.0)") + "\n"


def check(body: str, fix: bool = False) -> FileReport:
    settings = Settings(codes=frozenset({"CLIP105"}), fix=fix, safety=Safety.UNSAFE)
    report = check_file("x.py", program(body).encode(), settings)
    assert report.errors == ()
    return report


def function(*lines: str) -> str:
    return "def f(model, xs, flag):\n" + "\n".join("    " + line for line in lines)


def attribute(init: str, update: str, more: str = "") -> str:
    return (
        f"class T:\n    def __init__(self, model, params=None):\n        {init}\n"
        f"    def update(self, model):\n        {update}\n{more}"
    )


SILENT = [
    # used once, or made again
    function("params = ITER", "CLIP"),
    function("params = ITER", "list(params)", "params = ITER", "CLIP"),
    function("for x in xs:", "    params = ITER", "    CLIP"),
    function("params = ITER", "for x in xs:", "    CLIP", "    params = ITER"),
    function("params = ITER", "for x in xs:", "    CLIP", "    break"),
    function("params = ITER", "for x in xs:", "    CLIP", "    return"),
    function("params = ITER", "while flag:", "    CLIP", "    raise E"),
    function("params = ITER", "if flag:", "    list(params)", "else:", "    CLIP"),
    function("params = ITER", "if flag:", "    list(params)", "    return", "CLIP"),
    function("params = ITER", "CLIP", "list(params)"),
    attribute("self.params = ITER", "clip_grad_norm_(self.params, 1.0)\n        self.params = ITER"),
    # what can be read again and again
    function("params = list(ITER)", "list(params)", "CLIP"),
    function("params = [*ITER]", "for x in xs:", "    CLIP"),
    function("params = [p for p in ITER]", "for x in xs:", "    CLIP"),
    function("params = model.params", "for x in xs:", "    CLIP"),
    function("params = model.get_parameters()", "for x in xs:", "    CLIP"),
    function("params = tuple(filter(None, ITER))", "for x in xs:", "    CLIP"),
    "def map(f, xs):\n    return [f(x) for x in xs]\n" + function("params = map(f, xs)", "for x in xs:", "    CLIP"),
    "class M:\n    def parameters(self):\n        return []\n" + function("params = ITER", "for x in xs:", "    CLIP"),
    "class M:\n    def parameters(self):\n        return []\n    def f(self, xs):\n        params = self.parameters()\n        for x in xs:\n            CLIP",
    # one of several values
    function("if flag:", "    params = ITER", "else:", "    params = list(ITER)", "for x in xs:", "    CLIP"),
    "def f(params, xs):\n    for x in xs:\n        CLIP",
    "def f(model, xs, params):\n    if xs:\n        params = ITER\n    for x in xs:\n        CLIP",
    "for params in groups:\n    for x in xs:\n        CLIP",
    # uses that do not exhaust it
    function("params = ITER", "next(params)", "CLIP"),
    function("params = ITER", "print(params)", "CLIP"),
    function("params = ITER", "for p in params:", "    break", "CLIP"),
    function("params = ITER", "for p in params:", "    if p.ok:", "        return", "CLIP"),
    function("params = ITER", "unknown(params)", "CLIP"),
    function("params = ITER", "opt = torch.optim.Adam(xs, params)", "CLIP"),
    function("params = ITER", "opt = torch.optim.lr_scheduler.StepLR(params)", "CLIP"),
    # given to a partial that runs once, or in each iteration with a new one
    "from functools import partial\n"
    + function("params = ITER", "clip = partial(clip_grad_norm_, params, max_norm=1.0)", "clip()"),
    "from functools import partial\n"
    + function(
        "for x in xs:", "    params = ITER", "    clip = partial(clip_grad_norm_, params, max_norm=1.0)", "    clip()"
    ),
    "from functools import partial\n"
    + function(
        "params = list(ITER)", "clip = partial(clip_grad_norm_, params, max_norm=1.0)", "for x in xs:", "    clip()"
    ),
    # another function's
    "params = model.parameters()\ndef g():\n    list(params)\nCLIP",
    # attributes
    attribute("self.params = list(ITER)", "clip_grad_norm_(self.params, 1.0)"),
    attribute("self.params = params", "clip_grad_norm_(self.params, 1.0)"),
    attribute("self.params = None", "self.params = ITER\n        clip_grad_norm_(self.params, 1.0)"),
    attribute(
        "self.params = ITER", "pass", "class U:\n    def update(self):\n        clip_grad_norm_(self.params, 1.0)"
    ),
    attribute("self.params = ITER\n        self.params = []", "clip_grad_norm_(self.params, 1.0)"),
    attribute("self.params = ITER\n        clip_grad_norm_(self.params, 1.0)", "pass"),
    attribute("self.params = ITER", "clip_grad_norm_(other.params, 1.0)"),
    attribute("self.params = ITER", "clip_grad_norm_(self.params, 1.0)").replace("def update", "def setup"),
    attribute("self.params = ITER", "clip_grad_norm_(self.params, 1.0)").replace("def update", "def build"),
]


@pytest.mark.parametrize("body", SILENT)
def test_silent(body: str) -> None:
    assert check(body).findings == ()


MADE = [
    "ITER",
    "model.named_parameters()",
    "model.buffers()",
    "(p for p in xs)",
    "filter(None, xs)",
    "map(str, xs)",
    "zip(xs, xs)",
    "iter(xs)",
    "reversed(xs)",
    "enumerate(xs)",
    "chain(xs, xs)",
    "itertools.chain(xs, xs)",
    "itertools.chain.from_iterable(xs)",
    "itertools.islice(xs, 3)",
    "itertools.starmap(f, xs)",
    "itertools.compress(xs, xs)",
    "itertools.filterfalse(f, xs)",
    "itertools.takewhile(f, xs)",
]


@pytest.mark.parametrize("made", MADE)
def test_everything_that_creates_an_iterator(made: str) -> None:
    body = function(f"params = {made}", "for x in xs:", "    CLIP")
    (finding,) = check(body).findings
    assert "first iteration only" in finding.message
    expected = f"[{made[1:-1]}]" if made.startswith("(") else f"list({made})"
    assert check(body, fix=True).now.decode() == program(body.replace(f"params = {made}", f"params = {expected}"))


DRAINS = [
    "list(params)",
    "tuple(params)",
    "set(params)",
    "sorted(params)",
    "sum(params)",
    "any(params)",
    "all(params)",
    "max(params)",
    "min(params)",
    "dict(params)",
    "frozenset(params)",
    "parameters_to_vector(params)",
    "torch.nn.utils.parameters_to_vector(params)",
    "for p in params: print(p)",
    "[p for p in params]",
    "{p for p in params}",
    "clip_grad_norm_(params, 2.0)",
    "torch.nn.utils.clip_grad_value_(params, 2.0)",
    "accelerator.clip_grad_norm_(params, 2.0)",
    "torch.optim.Adam(params)",
    "torch.optim.SGD(params, lr=0.1)",
    "torch.optim.SGD(lr=0.1, params=params)",
    "torch.optim.SGD([{'params': params, 'lr': 0.1}])",
    "torch.optim.SGD([*params])",
    "AdamW(params)",
    "optimizer_class(params)",
    "optim_cls(params)",
    "list(filter(None, params))",
    "sum(map(f, params))",
    "list(chain(params, xs))",
    "list(iter(params))",
    "list(enumerate(params))",
    "dict(zip(params, xs))",
]


@pytest.mark.parametrize("drain", DRAINS)
def test_everything_that_exhausts_an_iterator(drain: str) -> None:
    (finding,) = [f for f in check(function("params = ITER", drain, "CLIP")).findings if f.place.line == 8]
    assert "was used up on line 7" in finding.message
    assert [place.line for place, _ in finding.related] == [6, 7]


FOUND = [
    "class M:\n    def f(self, xs):\n        params = self.parameters()\n        for x in xs:\n            CLIP",
    "class M:\n    def parameters(self):\n        return []\n    def f(self, xs):\n        params = super().parameters()\n        for x in xs:\n            CLIP",
    function("params = ITER", "while flag:", "    CLIP"),
    function("params = ITER", "alias = params", "for x in xs:", "    clip_grad_norm_(alias, 1.0)"),
    function("params = ITER", "for x in xs:", "    for y in x:", "        CLIP"),
    function("params = ITER", "for x in xs:", "    if x:", "        CLIP"),
    function("params = ITER", "for x in xs:", "    clip_grad_norm_(filter(None, params), 1.0)"),
    function("if flag:", "    params = ITER", "else:", "    params = filter(None, xs)", "for x in xs:", "    CLIP"),
    function("params = ITER", "if flag:", "    print(1)", "    return", "for x in xs:", "    CLIP"),
    function("params = ITER", "for x in xs:", "    accelerator.clip_grad_norm_(params, 1.0)"),
    function("params = ITER", "for x in xs:", "    accelerator.clip_grad_value_(params, 1.0)"),
    attribute("self.params = ITER", "clip_grad_norm_(self.params, 1.0)"),
    attribute("self.params = ITER\n        torch.optim.Adam(self.params)", "clip_grad_norm_(self.params, 1.0)"),
    attribute("ps = ITER\n        self.params = ps", "clip_grad_norm_(self.params, 1.0)"),
    attribute("self.params = None", "self.params = ITER\n        for x in model:\n            clip_grad_norm_(self.params, 1.0)"),
    attribute("self.params = None", "self.params = ITER\n        list(self.params)\n        clip_grad_norm_(self.params, 1.0)"),
]  # fmt: skip


@pytest.mark.parametrize("body", FOUND)
def test_found(body: str) -> None:
    (finding,) = check(body).findings
    assert finding.fix is not None
    after = check(body, fix=True).now.decode()
    assert "list(" in after.replace(program(body), "")
    assert check_file("x.py", after.encode(), Settings(codes=frozenset({"CLIP105"}))).findings == ()


def test_the_message_says_when_nothing_is_left() -> None:
    (finding,) = check(attribute("self.params = ITER", "clip_grad_norm_(self.params, 1.0)")).findings
    assert finding.message.startswith("clips the first time only: `self.params` is a one-shot iterator")
    (finding,) = check(function("params = ITER", "for x in xs:", "    CLIP")).findings
    assert finding.message.startswith("clips in the first iteration only: `params` is a one-shot iterator")


def test_a_partial_that_is_called_again_with_the_same_iterator() -> None:
    body = function(
        "params = ITER", "clip = partial(clip_grad_norm_, params, max_norm=1.0)", "for x in xs:", "    clip()"
    )
    (finding,) = check("from functools import partial\n" + body).findings
    assert (finding.place.line, finding.message) == (
        10,
        "clips in the first iteration only: `params` is a one-shot iterator, made on line 7",
    )


@pytest.mark.parametrize(
    ("made", "after"),
    [("(ITER)", "list((model.parameters()))"), ("(p for p in ITER)", "[p for p in model.parameters()]")],
)
def test_parentheses_around_an_iterator(made: str, after: str) -> None:
    body = function("params = {}", "list(params)", "CLIP")
    assert check(body.format(made), fix=True).now.decode() == program(body.format(after))


def test_a_hand_written_clip_of_a_used_up_iterator() -> None:
    scaled = ("total_norm = f(model)", "for p in params:", "    p.grad.mul_(limit / (total_norm + 1e-6))")
    assert check(function("params = list(ITER)", "list(params)", *scaled)).findings == ()
    assert len(check(function("params = ITER", "list(params)", *scaled)).findings) == 1
