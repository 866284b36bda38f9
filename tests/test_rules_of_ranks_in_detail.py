"""Rules about what ranks do together, and about what a clip is given, one condition after the other. Silent cases first.

The programs are those of `test_rules_in_detail`.
"""

from __future__ import annotations

import pytest
from test_rules_in_detail import LOCAL, TOTAL, f, found, loop

REDUCE = "for p in model.parameters():\n    dist.all_reduce(p.grad)"
SHARE = "def share(m):\n    for p in m.{}():\n        dist.all_reduce(p.grad)\n\n"
CLIP = "clip_grad_norm_(model.parameters(), 1.0)"
GRADS = "grads = [p.grad for p in ps]"
A = "clip_grad_norm_(a.parameters, 1.0)"


def early(made: str = GRADS, test: str = "not grads", then: str = "return 0", end: str = "dist.all_reduce(x)") -> str:
    """A function that returns early where a test says that there are no gradients, and else ends in a collective."""
    return f"def g(ps):\n    {made}\n    if {test}:\n        {then}\n    {end}"


def filled(empty: str, by: str) -> str:
    return early(f"grads = {empty}\n    for n, p in ps:\n        if p.grad is not None:\n            {by}")


SILENT = {
    "CLIP413": [
        SHARE.format("parameters") + loop("B\nC\nS"),
        loop(f"B\n{REDUCE}\nC\n{REDUCE}\nS"),
        loop(f"B\nC\nS\n{REDUCE}"),
        loop(f"B\nC\nS\n{REDUCE}\nS"),
        *(SHARE.format(method) + loop("B\nC\nshare(other)\nS") for method in ("parameters", "named_parameters")),
    ],
    "CLIP414": [
        # no collective
        early(end="all_reduce(x)"),
        "from other import all_reduce\n" + early(end="all_reduce(x)"),
        "from torch.distributed import barrier\n" + early(end="barrier(x)"),
        "def h(x):\n    print(x)\n\n" + early(end="h(x)"),
        "def h(x):\n    def inner():\n        dist.all_reduce(x)\n    return inner\n\n" + early(end="h(x)"),
        # the ranks have agreed, or all take part
        early(f"{GRADS}\n    dist.all_reduce(grads)"),
        early(then="dist.all_reduce(x)\n        return 0"),
        # no test for gradients
        early(test="grads != []"),
        early(test="grads != other"),
        early(test="grads == other"),
        filled("make()", "grads.append(p)"),
        filled("[]", "grads.count(p)"),
        filled("[]", "y = grads[0]"),
        "def g(model, x):\n    loss = model(x)\n    loss.backward()\n    grads = [p.grad for _, p in model.named_parameters()]\n    if not grads:\n        return 0\n    dist.all_reduce(x)",
    ],
    "CLIP412": [
        f(f"log('local ' 'norm', {LOCAL})"),
        f(f"return {LOCAL}", "def total(ps):") + "\nx = total(ps)\ndist.all_reduce(x)",
    ],
    "CLIP113": [
        f(f"x = {TOTAL}\nreturn tell(x)", "def clip_gradients(ps):"),
        f(f"for p in ps:\n    p.grad.add_(1)\nreturn {TOTAL}", "def clip_gradients(ps):"),
    ],
    "CLIP202": [
        "def f(self):\n    clip_grad_norm_(self.parameters, 1.0)",
        f"class A:\n    @property\n    def parameters(self):\n        return []\n\n{A}",
        f"b.parameters = [1]\n{A}",
        "g = opt.param_groups[0]\nif x:\n    g = other\nclip_grad_norm_(g, 1.0)",
        "clip_grad_norm_(ps, ...)",
    ],
}  # fmt: skip


@pytest.mark.parametrize(("code", "body"), [(code, body) for code, bodies in SILENT.items() for body in bodies])
def test_silent(code: str, body: str) -> None:
    assert found(body, code) == []


FOUND = {
    "CLIP413": [
        (loop(f"{REDUCE}\nB\nC\n{REDUCE}\nS"), CLIP),
        (loop(f"B\nif x:\n    dist.all_reduce(p.grad)\nelse:\n    C\n{REDUCE}\nS"), CLIP),
        (SHARE.format("named_parameters") + loop("B\nC\nshare(model)\nS"), CLIP),
        (loop(f"B\nclip_grad_norm_(model.head.parameters(), 1.0)\n{REDUCE}\nS"), "clip_grad_norm_(model.head.parameters(), 1.0)"),
        (loop("B\nC\nfor p in params:\n    dist.all_reduce(p.grad)\nS"), CLIP),
    ],
    "CLIP414": [
        (early(f"{GRADS}\n    dist.all_reduce(y)"), "return 0"),
        (early(test="grads == ()"), "return 0"),
        (early(test="grads == {}"), "return 0"),
        (early(test="grads != []", then="pass\n    else:\n        return 0"), "return 0"),
        (early("grads = {p.grad for p in ps}"), "return 0"),
        (early("grads = {n: p.grad for n, p in ps}"), "return 0"),
        (early().replace("g(ps)", "g(ps, dist)"), "return 0"),
        ("def first():\n    return 1\n\n" + early(), "return 0"),
        (filled("{}", "grads[n] = p"), "return 0"),
    ],
    "CLIP412": [
        (f"total = {LOCAL}\nlog(total)", "log(total)"),
        # what merges is in a function that has nothing to do with the norm
        (f(f"return {LOCAL}", "def total(ps):") + "\ndef g(ps):\n    log(total(ps))\n\ndef h(x):\n    dist.all_reduce(x)", f"return {LOCAL}"),
    ],
    "CLIP113": [
        ("from clipcheck.runtime import grad_norm\n" + f("return grad_norm(ps)", "def clip_gradients(ps):"), "def clip_gradients(ps):"),
        ("import clipcheck.runtime\n" + loop("B\nclipcheck.runtime.get_total_norm(grads)\nS"), "clipcheck.runtime.get_total_norm(grads)"),
        (loop("B\nget_total_norm(grads)\nS\nlog(get_total_norm(gs, error_if_nonfinite=True))"), "get_total_norm(grads)"),
        (f("get_total_norm(grads)\nS"), "get_total_norm(grads)"),
        (f("if x:\n    B\nget_total_norm(grads)\nS"), "get_total_norm(grads)"),
        (f("B\nget_total_norm(grads)\nif x:\n    S"), "get_total_norm(grads)"),
    ],
    "CLIP202": [
        (f"@cached\ndef other():\n    pass\n\n{A}", A),
        (f"class A:\n    def parameters(self):\n        return []\n\n{A}", A),
        (f"for p in b.parameters:\n    pass\n{A}", A),
        (f"for p in a.others:\n    pass\n{A}", A),
        ("for g in opt.param_groups[1:]:\n    clip_grad_norm_(g, 1.0)", "clip_grad_norm_(g, 1.0)"),
        ("ps = (m.parameters(),)\nclip_grad_norm_(ps, 1.0)", "clip_grad_norm_(ps, 1.0)"),
        ("class A:\n    def __init__(self):\n        self.o = torch.optim.SGD(ps)\n    def g(self):\n        clip_grad_norm_(self.o, 1.0)", "clip_grad_norm_(self.o, 1.0)"),
    ],
}  # fmt: skip


@pytest.mark.parametrize(("code", "body", "line"), [(code, *case) for code, cases in FOUND.items() for case in cases])
def test_found(code: str, body: str, line: str) -> None:
    assert found(body, code) == [line]
