"""What is a total norm and what is not: look-alikes stay unchanged, whichever fixes are requested."""

from __future__ import annotations

import textwrap

import pytest

from clipcheck.catalogue import RULES
from clipcheck.engine.file import check_file
from clipcheck.rule import Safety
from clipcheck.settings.keys import Settings

HEADER = "import itertools\nimport math\nimport torch\n"


def check(body: str, fix: bool = False) -> tuple[list[str], str]:
    """The codes that all rules find in a program, and the program after every fix, without its imports."""
    text = HEADER + textwrap.dedent(body).strip() + "\n"
    settings = Settings(codes=frozenset(RULES), safety=Safety.UNSAFE, fix=fix)
    report = check_file("train.py", text.encode(), settings)
    assert report.errors == ()
    lines = report.now.decode().splitlines(keepends=True)
    return [f.code for f in report.findings], "".join(x for x in lines if not x.startswith(("import ", "from ")))


def codes(body: str) -> list[str]:
    return check(body)[0]


def fixed(body: str) -> str:
    return check(body, fix=True)[1].strip()


@pytest.mark.parametrize(
    "expression",
    [
        # the norm of the norms is of another type
        "torch.norm(torch.stack([p.grad.norm(1) for p in ps]), 2)",
        "torch.norm(torch.stack([p.grad.norm(2) for p in ps]), 1)",
        "torch.norm(torch.stack([p.grad.norm(2) for p in ps]), 3).item()",
        "torch.stack([p.grad.norm(1) for p in ps]).norm()",
        "torch.stack([p.grad.norm(2) for p in ps]).norm(1)",
        "torch.stack([p.grad.norm(2) for p in ps]).max()",
        "torch.stack([p.grad.norm(2) ** 2 for p in ps]).norm()",
        # the sum does not start at zero
        "sum((p.grad.norm().item() ** 2 for p in ps), 5.0) ** 0.5",
        "sum([p.grad.norm().item() ** 2 for p in ps], start) ** 0.5",
        # not every value is that of a gradient
        "sum(p.norm().item() ** 2 for p in ps) ** 0.5",
        "sum(p.grad.mean().item() ** 2 for p in ps) ** 0.5",
        "sum(p.grad.norm().item() ** 2 + 1 for p in ps) ** 0.5",
        "sum(2 * p.grad.norm().item() ** 2 for p in ps) ** 0.5",
        "sum((p.grad * p).sum().item() for p in ps) ** 0.5",
        "sum((p.grad * q.grad).sum().item() for p, q in zip(ps, qs)) ** 0.5",
        "max(p.grad.max().item() for p in ps)",
        "max(p.grad.norm(2).item() for p in ps)",
        "sum(p.grad.abs().sum().item() for p in ps)",
        # the gradients of one dimension
        "sum(p.grad.norm(dim=0).item() ** 2 for p in ps) ** 0.5",
        "sum(p.grad.norm(2, 0).item() ** 2 for p in ps) ** 0.5",
        "sum((p.grad ** 2).sum(0).item() for p in ps) ** 0.5",
        # asynchronous
        "sum([p.grad.norm().item() ** 2 async for p in ps]) ** 0.5",
    ],
)
def test_look_alikes_of_a_total_norm(expression: str) -> None:
    body = f"async def f(ps, qs, start):\n    x = {expression}\n    return x"
    found, after = check(body, fix=True)
    assert not {"CLIP001", "CLIP005", "CLIP008"} & set(found)
    assert after.strip() == body


@pytest.mark.parametrize(
    "expression",
    ["sum((p.grad.norm().item() ** 2 for p in ps), 0.0) ** 0.5", "sum([p.grad.norm().item() ** 2 for p in ps], start=0) ** 0.5"],
)  # fmt: skip
def test_a_sum_that_starts_at_zero_is_one(expression: str) -> None:
    assert fixed(f"x = {expression}") == "x = grad_norm(ps).item()"


@pytest.mark.parametrize("type_of", ["2", "3", "1.5", "q"])
def test_a_norm_of_norms_of_one_type_is_one(type_of: str) -> None:
    argument = "" if type_of == "2" else f", {type_of}"
    text = f"x = torch.norm(torch.stack([p.grad.norm({type_of}) for p in ps]), {type_of})"
    assert fixed(text) == f"x = grad_norm(ps{argument})"


# --- accumulators -----------------------------------------------------------------------------------------------------


ADD = "for p in ps:\n        total += p.grad.norm().item() ** 2"
APPEND = "for p in ps:\n        xs.append(p.grad.norm().item() ** 2)"
SUM = "total += grad_norm(ps).item() ** 2"
POWER = "total = grad_norm(ps).item() ** 2"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        # from zero to the root in one function: the norm itself
        (f"total = 0.0\n    {ADD}\n    return total ** 0.5", "return grad_norm(ps).item()"),
        (f"total = 0\n    {ADD}\n    return math.sqrt(total)", "return grad_norm(ps).item()"),
        # it held something before, and the square is added; or its square is what is wanted
        (f"total = 1.0\n    {ADD}\n    return total ** 0.5", f"total = 1.0\n    {SUM}\n    return total ** 0.5"),
        (f"total = start\n    {ADD}\n    return total ** 0.5", f"total = start\n    {SUM}\n    return total ** 0.5"),
        (f"{ADD}\n    return total ** 0.5", f"{SUM}\n    return total ** 0.5"),
        (f"total = 0.0\n    {ADD}\n    total += 1\n    return total ** 0.5", f"{POWER}\n    total += 1\n    return total ** 0.5"),
        (f"total = 0.0\n    {ADD}\n    return total", f"{POWER}\n    return total"),
        (f"total = 0.0\n    {ADD}\n    return total ** 2", f"{POWER}\n    return total ** 2"),
        (f"total = 0.0\n    {ADD}\n    return total ** 0.5 + total", f"{POWER}\n    return total ** 0.5 + total"),
        (f"total = other = 0.0\n    {ADD}\n    return total ** 0.5", f"total = other = 0.0\n    {SUM}\n    return total ** 0.5"),
    ],
)  # fmt: skip
def test_accumulators(before: str, after: str) -> None:
    head = "def f(ps, start, total=0.0):\n    "
    assert codes(head + before) == ["CLIP001"]
    assert fixed(head + before) == head + after


@pytest.mark.parametrize(
    "body",
    [
        f"xs = []\n    {APPEND}\n    xs = []\n    return sum(xs) ** 0.5",
        f"xs = []\n    {APPEND}\n    xs.append(3.0)\n    return sum(xs) ** 0.5",
        f"xs = []\n    {APPEND}\n    xs.clear()\n    return sum(xs) ** 0.5",
        f"xs = [1.0]\n    {APPEND}\n    return sum(xs) ** 0.5",
        f"xs = []\n    {APPEND}\n    {APPEND}\n    return sum(xs) ** 0.5",
        f"xs = []\n    {APPEND}\n    return sum(xs, 5.0) ** 0.5",
        f"xs = []\n    {APPEND}\n    return sum(xs[1:]) ** 0.5",
        f"xs = []\n    {APPEND}\n    log(xs)\n    return sum(xs) ** 0.5",
        f"xs = []\n    ys = xs\n    {APPEND}\n    return sum(xs) ** 0.5",
        "xs = [p.grad.norm().item() ** 2 for p in ps]\n    xs = f(xs)\n    return sum(xs) ** 0.5",
        "xs = [p.grad.norm().item() ** 2 for p in ps]\n    return sum(xs, 5.0) ** 0.5",
        "xs = [p.grad.norm().item() ** 2 for p in ps]\n    if c:\n        xs = []\n    return sum(xs) ** 0.5",
    ],
)
def test_a_list_that_has_another_use_is_left(body: str) -> None:
    text = "def f(ps, c):\n    " + body
    assert fixed(text) == text


@pytest.mark.parametrize(
    ("iterable", "argument"),
    [("w, b", "(w, b)"), ("(w, b)", "(w, b)"), ("[w, b]", "[w, b]"), ("(q for q in ps)", "(q for q in ps)")],
)
def test_what_a_loop_iterates_over_is_one_argument(iterable: str, argument: str) -> None:
    text = f"total = 0.0\nfor p in {iterable}:\n    total += p.grad.norm().item() ** 2\ntotal = total ** 0.5"
    assert fixed(text) == f"total = grad_norm({argument}).item()"


# --- gradients under other names --------------------------------------------------------------------------------------

GRADS = "[p.grad for p in ps]"


@pytest.mark.parametrize(
    ("made", "iterable"),
    [
        (GRADS, "xs"),
        (GRADS, "list(xs)"),
        (GRADS, "tuple(xs)"),
        (GRADS, "set(xs)"),
        (GRADS, "reversed(xs)"),
        (GRADS, "iter(xs)"),
        (GRADS, "sorted(xs)"),
        (GRADS, "filter(None, xs)"),
        (GRADS, "itertools.chain(xs)"),
        (GRADS, "xs[1:]"),
        (GRADS, "xs + xs"),
        (GRADS, "xs if c else xs"),
        ("[w.grad, b.grad]", "xs"),
        ("(w.grad, b.grad)", "xs"),
        ("{n: p.grad for n, p in named}", "xs.values()"),
        ("torch.autograd.grad(loss, ps)", "xs"),
    ],
)
def test_gradients_are_followed_through_variables_and_calls(made: str, iterable: str) -> None:
    body = f"def f(ps, c, named, loss, model, w, b):\n    xs = {made}\n    total = 0.0\n    for x in {iterable}:\n        total += x.norm().item() ** 2\n    return total ** 0.5"
    assert codes(body) == ["CLIP001"]


@pytest.mark.parametrize(
    ("made", "iterable"),
    [
        ("[p for p in ps]", "xs"),
        ("[p.data for p in ps]", "list(xs)"),
        ("[w.grad, b]", "xs"),
        (GRADS, "xs + ps"),
        (GRADS, "xs if c else ps"),
        (GRADS, "zip(xs, ps)"),
        (GRADS, "enumerate(xs)"),
        (GRADS, "f(xs)"),
        ("model.parameters()", "xs"),
        ("list(ps)", "xs"),
        ("jax.grad(f)(ps)", "xs"),
    ],
)
def test_other_tensors_are_not_gradients(made: str, iterable: str) -> None:
    body = f"import jax\ndef f(ps, c, model, w, b):\n    xs = {made}\n    total = 0.0\n    for x in {iterable}:\n        total += x.norm().item() ** 2\n    return total ** 0.5"
    assert codes(body) == []


@pytest.mark.parametrize(
    ("target", "iterable"),
    [
        ("p, x", "[(p, p.grad) for p in ps]"),
        ("i, x", "enumerate(p.grad for p in ps)"),
        ("p, x", "zip(ps, [p.grad for p in ps])"),
        ("i, (p, x)", "enumerate(zip(ps, [p.grad for p in ps]))"),
    ],
)
def test_gradients_are_followed_into_the_targets_of_loops(target: str, iterable: str) -> None:
    body = "def f(ps, named):\n    total = 0.0\n    for {} in {}:\n        total += {}.norm().item() ** 2\n    return total ** 0.5"
    assert codes(body.format(target, iterable, "x")) == ["CLIP001"]


@pytest.mark.parametrize(
    "value",
    [
        "0.0 if p.grad is None else p.grad.norm().item() ** 2",
        "p.grad.norm().item() ** 2 if p.grad is not None else 0",
        "0 if p.grad is None else (p.grad ** 2).sum().item()",
    ],
)
def test_a_missing_gradient_may_count_as_zero(value: str) -> None:
    assert fixed(f"x = sum({value} for p in ps) ** 0.5") == "x = grad_norm(ps).item()"


@pytest.mark.parametrize(
    "value",
    [
        "1.0 if p.grad is None else p.grad.norm().item() ** 2",
        "p.grad.norm().item() ** 2 if p.ndim > 1 else 1",
    ],
)
def test_anything_other_than_zero_makes_it_a_different_sum(value: str) -> None:
    text = f"x = sum({value} for p in ps) ** 0.5"
    assert fixed(text) == text


@pytest.mark.parametrize(
    "norm",
    [
        "np.linalg.norm(p.grad.numpy(), 2)",
        "torch.linalg.norm(p.grad, 2)",
        "torch.linalg.matrix_norm(p.grad)",
        "torch.linalg.norm(p.grad, 'nuc')",
        "torch.linalg.norm(p.grad, dim=0)",
        "torch.linalg.norm(p.grad.view(2, -1), 2)",
        "torch.linalg.norm(p.grad.reshape(-1, 2), 2)",
        "torch.linalg.norm(p.grad.view(3), 2)",
    ],
)
def test_a_matrix_norm_is_not_part_of_a_total(norm: str) -> None:
    text = f"import numpy as np\nx = sum(float({norm}) ** 2 for p in ps) ** 0.5"
    assert fixed(text) == text.partition("\n")[2]


@pytest.mark.parametrize(
    "norm",
    [
        "np.linalg.norm(p.grad.numpy())",
        "np.linalg.norm(p.grad.numpy().ravel(), 2)",
        "torch.linalg.norm(p.grad)",
        "torch.linalg.norm(p.grad.flatten(), 2)",
        "torch.linalg.norm(p.grad.view(-1), 2)",
        "torch.linalg.norm(p.grad.reshape(-1), 2)",
        "torch.linalg.vector_norm(p.grad, 2)",
    ],
)
def test_a_norm_of_all_entries_is_part_of_a_total(norm: str) -> None:
    assert fixed(f"import numpy as np\nx = sum(float({norm}) ** 2 for p in ps) ** 0.5") == "x = grad_norm(ps).item()"


# --- a clip by hand ---------------------------------------------------------------------------------------------------

BY_HAND = "ps = list(model.parameters())\nnorm = torch.sqrt(sum(torch.sum(p.grad ** 2) for p in ps))\nif {}:\n    for p in ps:\n        p.grad[:] *= theta / norm"


@pytest.mark.parametrize("test", ["norm > theta", "norm >= theta", "theta < norm", "theta <= norm"])
def test_a_clip_by_hand_becomes_a_call(test: str) -> None:
    assert "clip_grad_norm_(ps, theta)" in fixed(BY_HAND.format(test))


@pytest.mark.parametrize(
    "test", ["norm < theta", "theta > norm", "norm > other", "other < norm", "theta < other", "norm != theta", "x"]
)
def test_a_clip_under_another_test_is_left(test: str) -> None:
    assert "clip_grad_norm_" not in fixed(BY_HAND.format(test))


def test_a_loop_with_side_effects_besides_scaling_says_so() -> None:
    text = HEADER + BY_HAND.format("norm > theta") + "\n        count(p)\n"
    report = check_file("train.py", text.encode(), Settings(codes=frozenset({"CLIP008"})))
    (finding,) = report.findings
    assert finding.fix is None
    assert "the loop has side effects besides scaling" in finding.help


def test_the_dtype_that_a_norm_is_asked_for_stays() -> None:
    norms = "torch.stack([p.grad.norm() for p in ps if p.grad is not None])"
    for asked, kept in ((", dtype=torch.float64", ".to(torch.float64)"), ("", "")):
        assert fixed(f"def f(ps):\n    return torch.linalg.vector_norm({norms}{asked})") == (
            f"def f(ps):\n    return grad_norm(ps){kept}"
        )
    number = f"def f(ps):\n    return torch.linalg.vector_norm({norms}, dtype=torch.float64).item()"
    assert fixed(number) == "def f(ps):\n    return grad_norm(ps).item()"
