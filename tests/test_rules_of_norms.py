"""The rules about handwritten norms: sums that are not norms, and norms that are measured twice."""

from __future__ import annotations

import pytest

from clipcheck.engine.file import check_file
from clipcheck.engine.results import FileReport
from clipcheck.rule import Safety
from clipcheck.settings.keys import Settings

HEAD = "import torch  # noqa\nfrom torch.nn.utils import clip_grad_norm_, clip_grad_value_, clip_grads_with_norm_, get_total_norm  # noqa\n"


def check(body: str, code: str, fix: bool = False) -> FileReport:
    settings = Settings(codes=frozenset({code}), target="torch", fix=fix, safety=Safety.UNSAFE)
    report = check_file("x.py", (HEAD + body + "\n").encode(), settings)
    assert report.errors == ()
    return report


def fixed(body: str, code: str) -> str:
    return check(body, code, fix=True).now.decode()[len(HEAD) : -1]


# --- a sum of squares that is called a norm ---------------------------------------------------------------------------


def summed(name: str, after: str, term: str = "p.grad.norm(2).item() ** 2") -> str:
    return (
        f"def f(ps):\n    {name} = 0.0\n    for p in ps:\n        {name} += {term}\n    {after.replace('NAME', name)}"
    )


@pytest.mark.parametrize("name", ["norm", "grad_norm", "total_norm", "gradNorm", "norms_total"])
@pytest.mark.parametrize("after", ["log(NAME)", "print(NAME)", "print(f'{NAME:.3f}')", "log({'x': NAME})"])
def test_a_sum_of_squares_that_is_returned_as_a_norm(name: str, after: str) -> None:
    (finding,) = check(summed(name, after), "CLIP006").findings
    assert f"`{name}`" in finding.message


@pytest.mark.parametrize(
    "name",
    "sq_norm sqr_norm norm_square norm_squares squared_norm norm_sum norm_pow norm_power norm_acc accum_norm norm2 "
    "exponentiated_norm total size".split(),
)
def test_a_name_that_says_what_it_is(name: str) -> None:
    assert check(summed(name, "log(NAME)"), "CLIP006").findings == ()


@pytest.mark.parametrize(
    "after",
    [
        "log(NAME ** 0.5)",
        "NAME = NAME ** 0.5\n    log(NAME)",
        "log(NAME / 2)",
        "if NAME > 1: log(1)",
        "log(NAME > 1)",
        "pass",
        "return NAME",  # of a function that claims nothing
        "NAME = float(NAME) + 1\n    log(NAME)",
        "x = abs(NAME)",
        "x = torch.tensor(NAME)",
        "x = NAME",
    ],
)
def test_a_sum_of_squares_that_is_computed_with(after: str) -> None:
    assert check(summed("norm", after), "CLIP006").findings == ()


def test_a_function_that_is_called_a_norm_returns_one() -> None:
    body = summed("norm", "return NAME").replace("def f", "def grad_norm")
    assert fixed(body, "CLIP006") == body.replace("return norm", "return norm ** 0.5")
    cubes = body.replace("norm(2).item() ** 2", "norm(3).item() ** 3")
    assert fixed(cubes, "CLIP006") == cubes.replace("return norm", "return norm ** (1.0 / 3)")
    assert check(body.replace("def grad_norm", "def squared_norm"), "CLIP006").findings == ()


@pytest.mark.parametrize(
    "term", ["p.grad.norm(2).item() ** 3", "p.grad.norm(1).item() ** 2", "p.grad.norm(float('inf')).item() ** 2"]
)
def test_an_exponent_that_is_not_the_norm_type(term: str) -> None:
    (finding,) = check(summed("total", "log(NAME ** 0.5)", term), "CLIP006").findings
    assert finding.help


@pytest.mark.parametrize(
    "term",
    ["p.grad.norm(2).item() ** 2", "p.grad.norm(q).item() ** 2", "p.grad.norm(3).item() ** 3", "p.grad.norm(1).item()"],
)
def test_an_exponent_that_may_be_the_norm_type(term: str) -> None:
    assert check(summed("total", "log(NAME ** 0.5)", term), "CLIP006").findings == ()


def test_a_root_without_parentheses_halves() -> None:
    body = summed("total", "return NAME ** 1.0 / 2")
    assert fixed(body, "CLIP006") == body.replace("** 1.0 / 2", "** (1.0 / 2)")
    assert check(summed("total", "return NAME ** (1.0 / 2)"), "CLIP006").findings == ()
    assert check("x = y ** 1 / 2\n" + summed("total", "return NAME ** 0.5"), "CLIP006").findings == ()
    assert check(summed("total", "return NAME ** 2.0 / 2"), "CLIP006").findings == ()


# --- a sum of norms ---------------------------------------------------------------------------------------------------


LINEAR = "p.grad.norm(2).item()"


@pytest.mark.parametrize(
    "body",
    [
        summed("grad_norm", "log(NAME)"),  # squares
        summed("total", "log(NAME)", LINEAR),
        summed("mean_norm", "log(NAME)", LINEAR),
        summed("avg_norm", "log(NAME)", LINEAR),
        summed("norm_sum", "log(NAME)", LINEAR),
        summed("norm", "log(NAME / len(ps))", LINEAR),
        summed("norm", "NAME /= len(ps)\n    log(NAME)", LINEAR),
        summed("norm", "assert NAME > 0", LINEAR),
        "norm = max(p.grad.norm().item() for p in ps)",
        "norm = sum(p.grad.norm().item() ** 2 for p in ps)",
        "norm = sum(p.grad.norm().item() ** 2 for p in ps) ** 0.5",
        "norm = sum(p.grad.norm().item() for p in ps) ** 2",
        "norm = torch.stack([p.grad.norm() for p in ps]).norm()",
        "size = sum(p.grad.norm().item() for p in ps)",
        "norm = sum(p.norm().item() for p in ps)",
    ],
)
def test_sums_that_do_not_claim_to_be_a_norm(body: str) -> None:
    assert check(body, "CLIP004").findings == ()


@pytest.mark.parametrize(
    "body",
    [
        summed("grad_norm", "log(NAME)", LINEAR),
        summed("norm", "return NAME", LINEAR),
        summed("norm", "assert NAME > 0\n    log(NAME)", LINEAR),
        summed("norm", "return NAME", LINEAR) + "\ndef g(norm):\n    return norm / 2",  # another function's
        "norm = sum(p.grad.norm().item() for p in ps)",
        "self.norm = sum([p.grad.norm() for p in ps])",
    ],
)
def test_a_sum_of_norms_is_called_a_norm(body: str) -> None:
    assert len(check(body, "CLIP004").findings) == 1


# --- one read for each parameter --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        "for p in ps:\n    log(p.grad.norm())",
        "x = w.grad.norm().item()",
        "for x in xs:\n    log(w.grad.norm().item())",  # one gradient
        "for p in ps:\n    total += p.grad.norm().item() ** 2",
        "for p in ps:\n    n = p.grad.norm().item()\n    total += n ** 2",
        "for p in ps:\n    assert p.grad.norm().item() > 0",
        "for p in ps:\n    if p.grad.norm().item() > 1:\n        pass",
        "for p in ps:\n    log(p.norm().item())",
        "for p in ps:\n    def f():\n        return p.grad.norm().item()",
    ],
)
def test_reads_that_are_few_or_belong_to_another_rule(body: str) -> None:
    assert check(body, "CLIP010").findings == ()


@pytest.mark.parametrize(
    "body",
    [
        "for p in ps:\n    log(p.grad.norm().item())",
        "for p in ps:\n    log(float(p.grad.norm()))",
        "for n, p in named:\n    norms[n] = p.grad.norm().item()",
        "norms = [p.grad.norm().item() for p in ps]",
        "norms = {n: p.grad.norm(1).item() for n, p in named}",
        "norms = {p.grad.norm().item() for p in ps}",
        "for p in ps:\n    n = p.grad.norm().item()\n    log(n)",
        "for p in ps:\n    for x in xs:\n        log(p.grad.norm().item(), x)",
        "for p in ps:\n    for x in xs:\n        log([p.grad.norm().item() for y in ys])",
    ],
)
def test_one_read_for_each_parameter(body: str) -> None:
    assert len(check(body, "CLIP010").findings) == 1


# --- the norm of the weights ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        "grad_norm = get_total_norm([p.grad for p in ps])",
        "grad_norm = get_total_norm(grads)",
        "param_norm = get_total_norm(model.parameters())",
        "log({'weight_norm': get_total_norm(model.parameters())})",
        "self.log('param_norm', get_total_norm(model.parameters()))",
        "log(weights=get_total_norm(model.parameters()))",
        "def weight_norm(model):\n    return get_total_norm(model.parameters())",
        "print(f'weights: {get_total_norm(model.parameters())}')",
        "xs = f()\ngrad_norm = get_total_norm(xs)",
        "grad_norm = get_total_norm([f(p) for p in model.parameters()])",
        "xs = model.parameters()\nif c:\n    xs = grads\ngrad_norm = get_total_norm(xs)",
        "grad_norm = get_total_norm([x for p in model.parameters()])",
        "grad_norm = get_total_norm(f(model.parameters()))",
        "grad_norm = clip_grad_norm_(tensors=model.parameters(), max_norm=1.0)",
    ],
)
def test_norms_that_are_named_correctly(body: str) -> None:
    assert check(body, "CLIP007").findings == ()


@pytest.mark.parametrize(
    ("body", "after"),
    [
        ("grad_norm = get_total_norm(model.parameters())", "grad_norm = get_total_norm([p.grad for p in model.parameters() if p.grad is not None])"),
        ("gnorm: float = get_total_norm(list(model.parameters()))", "gnorm: float = get_total_norm([p.grad for p in list(model.parameters()) if p.grad is not None])"),
        ("log({'grad_norm': get_total_norm([p for p in model.parameters()])})", "log({'grad_norm': get_total_norm([p.grad for p in model.parameters() if p.grad is not None])})"),
        ("log(grad_norm=get_total_norm(p for _, p in m.named_parameters()))", "log(grad_norm=get_total_norm([p.grad for _, p in m.named_parameters() if p.grad is not None]))"),
        ("self.log('grad_norm', get_total_norm(model.parameters()))", "self.log('grad_norm', get_total_norm([p.grad for p in model.parameters() if p.grad is not None]))"),
        ("ps = model.parameters()\ngrad_norm = get_total_norm(ps)", "ps = model.parameters()\ngrad_norm = get_total_norm([p.grad for p in ps if p.grad is not None])"),
        (
            "n = get_total_norm(model.parameters())\nclip_grads_with_norm_(ps, 1.0, n)",
            "n = get_total_norm([p.grad for p in model.parameters() if p.grad is not None])\nclip_grads_with_norm_(ps, 1.0, n)",
        ),
        ("x = get_total_norm(model.parameters())", None),
        ("x = get_total_norm(filter(None, model.parameters()))", None),
        ("x = get_total_norm(tuple(model.parameters()))", None),
        ("get_total_norm(grads)\nx = get_total_norm(model.parameters())", None),
        ("log('x', get_total_norm(model.parameters()))", None),
        ("x = get_total_norm(model.parameters())\nclip_grads_with_norm_(ps, 1.0)", None),
    ],
)  # fmt: skip
def test_norms_of_weights_in_the_place_of_gradients(body: str, after: str | None) -> None:
    (finding,) = check(body, "CLIP007").findings
    assert (finding.fix is None) == (after is None)
    assert fixed(body, "CLIP007").replace("(\n    ", "(").replace("\n)", ")") == (after or body)


# --- measured next to a clip ------------------------------------------------------------------------------------------


NORM_OF = "def norm_of(qs):\n    return get_total_norm([q.grad for q in qs])\n"
MEASURED = "norm = get_total_norm([p.grad for p in ps if p.grad is not None])"


@pytest.mark.parametrize(
    "body",
    [
        MEASURED,
        f"{MEASURED}\nclip_grad_norm_(qs, 1.0)",
        f"{MEASURED}\nclip_grad_value_(ps, 1.0)",
        f"{MEASURED}\nclip_grad_norm_(ps, 1.0, 1)",
        f"{MEASURED}\nclip_grad_norm_(ps, float('inf'))",
        f"{MEASURED}\nloss.backward()\nclip_grad_norm_(ps, 1.0)",
        f"{MEASURED}\nscaler.unscale_(opt)\nclip_grad_norm_(ps, 1.0)",
        f"{MEASURED}\np.grad = x\nclip_grad_norm_(ps, 1.0)",
        f"{MEASURED}\np.grad.mul_(2)\nfor x in xs:\n    f()\nclip_grad_norm_(ps, 1.0)",
        f"{MEASURED}\nclip_grad_norm_(max_norm=1.0)",
        "from clipcheck.runtime import grad_norm\nnorm = grad_norm(p for p in ps if p.x)\nclip_grad_norm_([p for p in ps], 1.0)",
        f"{MEASURED}\nclip_grad_value_(ps, 1.0)\nclip_grad_norm_(ps, 1.0)",
        f"clip_grad_norm_(ps, 1.0)\n{MEASURED}",  # what is left
        f"if c:\n    {MEASURED}\nclip_grad_norm_(ps, 1.0)",
        f"{MEASURED}\n" + "f()\n" * 8 + "clip_grad_norm_(ps, 1.0)",
        f"{NORM_OF}log(norm_of(qs))\nclip_grad_norm_(ps, 1.0)",
        f"{NORM_OF}log(norm_of(ps))\nloss.backward()\nclip_grad_norm_(ps, 1.0)",
        f"{NORM_OF}log(norm_of(ps))\nclip_grad_norm_(ps, 1.0, 1)",
        f"{NORM_OF}if c:\n    log(norm_of(ps))\nclip_grad_norm_(ps, 1.0)",
        f"{NORM_OF.replace('.grad', '')}log(norm_of(ps))\nclip_grad_norm_(ps, 1.0)",  # of the weights
        f"{NORM_OF}    return 0.0\nlog(norm_of(ps))\nclip_grad_norm_(ps, 1.0)",
        "log(norm_of(ps))\nclip_grad_norm_(ps, 1.0)",
    ],
)
def test_norms_that_differ_from_the_result_of_the_clip(body: str) -> None:
    assert check(body, "CLIP504").findings == ()


@pytest.mark.parametrize(
    ("body", "after"),
    [
        (f"{MEASURED}\nclip_grad_norm_(ps, 1.0)", "norm = clip_grad_norm_(ps, 1.0)"),
        (f"{MEASURED}\nf()\nclip_grad_norm_(ps, 1.0)  # why\nlog(norm)", "f()\nnorm = clip_grad_norm_(ps, 1.0)  # why\nlog(norm)"),
        (f"{MEASURED}\n" + "f()\n" * 7 + "clip_grad_norm_(ps, 1.0)", "f()\n" * 7 + "norm = clip_grad_norm_(ps, 1.0)"),
        ("norm = get_total_norm([p.grad for p in ps], 1)\nclip_grad_norm_(ps, 1.0, 1)", "norm = clip_grad_norm_(ps, 1.0, 1)"),
        (f"{MEASURED}\nlog(norm)\nclip_grad_norm_(ps, 1.0)", None),
        (f"{MEASURED}\ntotal = clip_grad_norm_(ps, 1.0)", None),
        (f"{MEASURED}\nlog(clip_grad_norm_(ps, 1.0))", None),
        (
            "from clipcheck.runtime import grad_norm\nnorm = grad_norm(p for p in ps if p.x)\nclip_grad_norm_([p for p in ps if p.x], 1.0)",
            "norm = clip_grad_norm_([p for p in ps if p.x], 1.0)",
        ),
        (f"{MEASURED}  # why\nclip_grad_norm_(ps, 1.0)", None),
        (f"{MEASURED}\nif c:\n    pass\nclip_grad_norm_(ps, 1.0); f()", None),
        (f"{NORM_OF}log(norm_of(ps))\nclip_grad_norm_(ps, 1.0)", None),
        (f"{NORM_OF}norm = norm_of(model.parameters())\nclip_grad_norm_(model.parameters(), 1.0)", None),
        (f"{NORM_OF.replace('qs)', 'net)').replace('qs]', 'net.parameters()]')}log(norm_of(model))\nclip_grad_norm_(model.parameters(), 1.0)", None),
        (
            "class A:\n    def norm(self):\n        return get_total_norm([p.grad for p in self.net.parameters()])\n"
            "    def f(self):\n        log(self.norm())\n        clip_grad_norm_(self.net.parameters(), 1.0)",
            None,
        ),
    ],
)  # fmt: skip
def test_norms_that_equal_the_result_of_the_clip(body: str, after: str | None) -> None:
    (finding,) = check(body, "CLIP504").findings
    assert (finding.fix is None) == (after is None)
    assert fixed(body, "CLIP504") == (after or body)


@pytest.mark.parametrize(
    "body",
    [
        "norm = sum(p.grad.norm().item() ** 2 for p in ps) ** 0.5",  # reads one by one, which is another rule's
        "norm = sum(p.grad.norm() for p in ps)",
        "norm = sum(p.norm() ** 2 for p in ps) ** 0.5",
        "norm = get_total_norm([p.grad for p in ps])",
        "g = torch.autograd.grad(loss, ps, create_graph=True)\npenalty = sum(x.norm() ** 2 for x in g) ** 0.5",
        "class O(torch.optim.Optimizer):\n    def step(self):\n        norm = sum(p.grad.norm() ** 2 for p in self.ps) ** 0.5",
    ],
)
def test_norms_that_are_not_accumulated_on_the_device(body: str) -> None:
    assert check(body, "CLIP005").findings == ()


@pytest.mark.parametrize(
    "body",
    [
        "norm = sum(p.grad.norm() ** 2 for p in ps) ** 0.5",
        "norm = torch.sqrt(sum((p.grad ** 2).sum() for p in ps))",
        "norm = torch.norm(torch.stack([p.grad.norm() for p in ps]))",
        "total = 0.0\nfor p in ps:\n    total += p.grad.norm() ** 2\nnorm = total ** 0.5",
        "g = torch.autograd.grad(loss, ps)\nnorm = sum(x.norm() ** 2 for x in g) ** 0.5",
    ],
)
def test_norms_that_are_accumulated_on_the_device(body: str) -> None:
    assert len(check(body, "CLIP005").findings) == 1


RUNTIME = "from clipcheck.runtime import grad_norm\n"


@pytest.mark.parametrize(
    ("body", "after"),
    [
        (f"{RUNTIME}norm = grad_norm(ps)\nclip_grad_norm_(ps, 1.0)", "norm = clip_grad_norm_(ps, 1.0)"),
        (f"{RUNTIME}norm = grad_norm(ps).item()\nclip_grad_norm_(ps, 1.0)", "norm = clip_grad_norm_(ps, 1.0).item()"),
        (f"{RUNTIME}norm = grad_norm(ps, 1)\nclip_grad_norm_(ps, 1.0, 1)", "norm = clip_grad_norm_(ps, 1.0, 1)"),
        # the import goes with the last use
        (
            f"{RUNTIME}norm = grad_norm(ps)\nclip_grad_norm_(ps, 1.0)\nother = grad_norm(qs)",
            f"{RUNTIME}norm = clip_grad_norm_(ps, 1.0)\nother = grad_norm(qs)",
        ),
        (
            "from clipcheck.runtime import grad_norm, clipped_grads\nnorm = grad_norm(ps)\nclip_grad_norm_(ps, 1.0)",
            "from clipcheck.runtime import clipped_grads\nnorm = clip_grad_norm_(ps, 1.0)",
        ),
        (
            "from clipcheck.runtime import grad_norm; import os\nnorm = grad_norm(ps)\nclip_grad_norm_(ps, 1.0)",
            "from clipcheck.runtime import grad_norm; import os\nnorm = clip_grad_norm_(ps, 1.0)",
        ),
        (f"{RUNTIME}norm = grad_norm(ps).sqrt()\nclip_grad_norm_(ps, 1.0)", None),
        (f"{RUNTIME}norm = grad_norm(ps).item\nclip_grad_norm_(ps, 1.0)", None),
    ],
)
def test_the_runtimes_own_norm_beside_the_clip(body: str, after: str | None) -> None:
    (finding,) = check(body, "CLIP504").findings
    assert (finding.fix is None) == (after is None)
    assert fixed(body, "CLIP504") == (after or body)


def test_the_runtimes_norm_of_another_type_stays() -> None:
    assert check(f"{RUNTIME}norm = grad_norm(ps, 1)\nclip_grad_norm_(ps, 1.0)", "CLIP504").findings == ()


@pytest.mark.parametrize(
    "norm", ["sum(p.grad.norm() ** k for p in ps) ** q", "sum(p.grad.norm(k) ** 2 for p in ps) ** 0.5"]
)
def test_a_norm_whose_exponents_are_not_known_is_not_the_clips(norm: str) -> None:
    body = f"def f(ps, k, q):\n    clip_grad_norm_(ps, 1.0)\n    log({norm})"
    assert check(body, "CLIP504").findings == ()


@pytest.mark.parametrize(
    ("more", "count"),
    [
        ("for q in qs:\n    total += q.grad.norm() ** 2", 2),
        ("for q in qs:\n    total = total + q.grad.norm() ** 2", 2),  # means the same as the line above
        ("loss = loss + total", 0),  # its square is wanted
        ("loss = total + loss", 0),
        ("total = total * 2", 0),
    ],
)
def test_what_is_added_to_a_total_later_makes_no_formula_of_it(more: str, count: int) -> None:
    body = f"total = 0.0\nfor p in ps:\n    total += p.grad.norm() ** 2\n{more}"
    assert len(check(body, "CLIP005").findings) == count
