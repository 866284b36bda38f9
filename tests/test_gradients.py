"""What is recognized as a gradient, the power of its norm, a sum of these and the root of that sum; and what is not.

Each program ends with the tested expression on a separate line.
"""

from __future__ import annotations

import libcst as cst
import pytest

from clipcheck.catalogue import RULES
from clipcheck.gradients.accumulations import accumulations
from clipcheck.gradients.called import gives_gradient_norm
from clipcheck.gradients.exponents import exponent_of
from clipcheck.gradients.framework import framework, is_foreign
from clipcheck.gradients.gradient import gradient, is_in_place
from clipcheck.gradients.graphs import has_graph
from clipcheck.gradients.manual_clips import manual_clips
from clipcheck.gradients.powers import power
from clipcheck.gradients.roots import root_of
from clipcheck.gradients.totals import total, totals
from clipcheck.python.source import Source
from clipcheck.python.words import words
from clipcheck.rules import check_of
from clipcheck.training.acts import EventKind, acts

INFINITY = float("inf")
HEADER = "import math\nimport numpy as np\nimport torch\n"


def asked(program: str, header: str = HEADER) -> tuple[Source, cst.BaseExpression]:
    """A program and the expression on its last line."""
    source = Source(header + program)
    *_, last = source.nodes(cst.Expr)
    return source, last.value


# --- what a function name says -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("get_grad_norm", True),
        ("compute_gradient_norms", True),
        ("global_grad_norm", True),
        ("is_invalid_grad_norm", False),  # asks something about a norm
        ("has_finite_grad_norm", False),
        ("log_grad_norm", False),
        ("clip_grad_norm", False),
        ("gradient_penalty_norm", False),
        ("get_norm", False),
    ],
)
def test_functions_that_return_the_norm_of_gradients(name: str, expected: bool) -> None:
    assert gives_gradient_norm(name) is expected


# --- words of names --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("gradNorm_L2", "grad norm l 2"),
        ("GradNorm", "grad norm"),
        ("total_norm2", "total norm 2"),
        ("HTTPGrads", "http grads"),
        ("__grad__", "grad"),
        ("g", "g"),
        ("_", ""),
    ],
)
def test_words_of_a_name(name: str, expected: str) -> None:
    assert " ".join(words(name)) == expected


# --- a gradient ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "program",
    [
        "p",
        "p.data",
        "p.gradient",
        "torch.autograd.grad",
        "p.grad.mean()",
        "p.grad.norm()",
        "p.grad + q.grad",
        "p.grad if p.grad is not None else q",
        "g = p.data\ng",
        "def f(grad_norm):\n    grad_norm",
        "def f(sample_grads):\n    sample_grads[0]",
        "for grad in model.parameters():\n    grad",
        "for p in ps:\n    p",
        "for name, grad in model.named_parameters():\n    grad",
        "for grad, p in zip(norms, ps):\n    p",
        "for i, g in enumerate(hidden):\n    g",
        "for g in hidden:\n    g",
        "for grad_norm in [p.grad.norm() for p in ps]:\n    grad_norm",
        "grad = np.gradient(y)\ngrad",
        "grad = 3\ngrad",
        "grads = torch.autograd.grad(loss, ps)\ngrads",
        "a, g = p.grad, p.data\ng",
        "*a, g = p.data, p.grad, p.data\ng",
    ],
)
def test_expressions_that_are_not_gradients(program: str) -> None:
    assert gradient(*asked(program)) is None


@pytest.mark.parametrize("header", ["import jax\n", "import tensorflow as tf\n", "from mxnet import gluon\n"])
def test_nothing_is_a_gradient_in_a_file_of_another_framework(header: str) -> None:
    assert gradient(*asked("p.grad", header)) is None
    assert gradient(*asked("p.grad", header + "import torch\n")) is not None
    assert gradient(*asked("p.grad", "")) is not None


@pytest.mark.parametrize(
    ("imports", "expected"),
    [
        ("import numpy\n", "unknown"),
        ("import keras\n", "another"),
        ("import numpy\nnn.Linear(1, 1)\n", "torch"),
        ("import numpy\ntorch.zeros(1)\n", "torch"),
        ("import keras\nimport pytorch_lightning\n", "torch"),
        ("from torch.nn import Linear\n", "torch"),
        ("torch.zeros(1)\n", "torch"),
        ("import torch_xla.core.xla_model as xm\n", "torch"),
        ("from clipcheck.runtime import grad_norm\n", "torch"),
        ("import jax\nimport torch\n", "torch"),
        ("import jax\ndef f(x):\n    return torch.norm(x)\n", "torch"),  # of another cell
        ("import jax\ndef f(x):\n    torch = 1\n    return torch\n", "another"),
        ("def f():\n    import mxnet\n", "another"),
        ("import os\n", "torch"),
        ("class Tensor:\n    def f(self, other):\n        other.grad = None\n", "torch"),
        ("nn.Linear(1, 1)\n", "torch"),
        ("import numpy\nfrom torch.nn.utils import *\n", "torch"),
        ("import numpy\nfrom jax.numpy import *\n", "another"),
        ("import numpy\nfrom .layers import *\n", "unknown"),
        # numpy's arrays have no `norm`, and other objects with one may not be gradients
        ("import numpy\nx = p.grad.data.norm(2)\n", "torch"),
        ("class Tensor:\n    def zero(self):\n        self.grad = 0\ng.grad.norm()\n", "torch"),
        ("import numpy\nx = quaternion.norm()\n", "unknown"),
        ("import numpy\nx = numpy.linalg.norm(p.grad)\n", "unknown"),
        ("import numpy as np\nx = np.linalg.norm(p.grad.norm)\n", "unknown"),
        ("import numpy\nx = (p.grad ** 2).sum()\n", "unknown"),
        ("import keras\nx = p.grad.norm()\n", "another"),
        # nor have they `cpu` and `detach`
        ("import numpy\nx = p.grad.cpu().numpy()\n", "torch"),
        ("import numpy\nx = p.grad.detach()\n", "torch"),
        ("import numpy\nclass Tensor:\n    def cpu(self): return self\nx = p.grad.cpu()\n", "unknown"),
        ("import numpy\nx = image.cpu().numpy()\n", "unknown"),
    ],
)
def test_the_framework_of_a_file(imports: str, expected: str) -> None:
    assert framework(Source(imports)) == expected


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("np.zeros(3)", True),
        ("jax.grad(f)(x)", True),
        ("jax.grad(f)(x)[0]", True),
        ("tape.gradient(loss, xs)", True),
        ("self.tape.gradient(loss, xs)[0]", True),
        ("torch.zeros(3)", False),
        ("tape.other(loss)", False),
        ("gradient(loss)", False),
        ("x", False),
    ],
)
def test_values_of_other_frameworks(code: str, expected: bool) -> None:
    source = Source(f"import numpy as np\nimport jax\nimport torch\nx = 1\nsee({code})\n")
    call = next(c for c in source.nodes(cst.Call) if source.code(c.func) == "see")
    assert is_foreign(source, call.args[0].value) is expected


@pytest.mark.parametrize(
    ("program", "plain"),
    [
        ("p.grad", "p.grad"),
        ("p.grad.data", "p.grad"),
        ("p.grad.detach()", "p.grad"),
        ("p.grad.detach().clone().cpu()", "p.grad"),
        ("self.weight.grad.abs()", "self.weight.grad"),
        ("p.grad if p.grad is not None else torch.zeros(1)", "p.grad"),
        ("g = p.grad\nh = g.data\nh", "p.grad"),
        ("a, (b, g) = 1, (2, p.grad)\ng", "p.grad"),
        ("safe_get_full_grad(p)", "safe_get_full_grad(p)"),
        ("def f(grad):\n    grad", "grad"),
        ("grad = compute()\ngrad", "grad"),
        ("for g in [p.grad for p in ps]:\n    g", "g"),
        ("for g in torch.autograd.grad(loss, ps):\n    g", "g"),
        ("for x in tuple(grads):\n    x", "x"),
        ("for x in a_grads + b_grads:\n    x", "x"),
        ("for i, x in enumerate(grads):\n    x", "x"),
        ("for p, x in zip(ps, grads):\n    x", "x"),
        ("for name, x in gradients.items():\n    x", "x"),
        ("for i, (p, x) in enumerate(zip(ps, grads)):\n    x", "x"),
        ("for x in self.grads.values():\n    x", "x"),
        ("pairs = [(p, p.grad) for p in ps]\nfor p, x in pairs:\n    x", "x"),
        ("grads = collect()\ngrads[0]", "grads[0]"),
    ],
)
def test_a_gradient(program: str, plain: str) -> None:
    source, node = asked(program)
    found = gradient(source, node)
    assert found is not None
    assert source.code(found.node) == plain
    assert found.certain


def test_changes_of_dtype_are_kept_and_changes_of_shape_are_not() -> None:
    found = gradient(*asked("p.grad.float().detach().to(torch.float64)"))
    assert found is not None and found.casts == ".float().to(torch.float64)"
    assert not found.flat
    for flat in ("p.grad.flatten()", "p.grad.view(-1)", "p.grad.reshape(-1).float()"):
        found = gradient(*asked(flat))
        assert found is not None and found.flat, flat
    found = gradient(*asked("p.grad.view(2, -1)"))
    assert found is not None and not found.flat


@pytest.mark.parametrize(
    ("program", "certain"),
    [
        ("g = torch.zeros(1)\nif x:\n    g = p.grad\ng", True),
        ("g = None\nif x:\n    g = p.grad\ng", False),
        ("g = p.data\nif x:\n    g = p.grad\ng", False),
        ("g = q.grad\nif x:\n    g = p.grad\ng", False),
        ("g = p.grad.float()\nif x:\n    g = p.grad\ng", False),
        ("g = p.data\ng = p.grad\ng", True),
    ],
)
def test_a_gradient_is_certain_if_every_path_leads_to_it(program: str, certain: bool) -> None:
    found = gradient(*asked(program))
    assert found is not None
    assert found.certain is certain


@pytest.mark.parametrize(
    ("tensor", "expected"),
    [
        ("p.grad", True),
        ("p.grad.data", True),
        ("p.grad.detach()", True),
        ("p.grad.detach().view(-1)", True),
        ("p", False),
        ("p.data", False),
        ("grad", False),
        ("p.grad.clone()", False),
        ("p.grad.float()", False),
        ("p.grad.abs()", False),
        ("p.grad.cpu().view(-1)", False),
    ],
)
def test_views_of_a_gradient_are_gradients_in_place(tensor: str, expected: bool) -> None:
    source, node = asked(f"{tensor}.mul_(2)")
    assert isinstance(node, cst.Call) and isinstance(node.func, cst.Attribute)
    assert is_in_place(node.func.value) is expected
    found = acts(source).get(node)
    assert (found is not None and found.kind is EventKind.EDIT) is expected


@pytest.mark.parametrize(
    ("program", "expected"),
    [
        ("torch.autograd.grad(loss, ps)", False),
        ("torch.autograd.grad(loss, ps, create_graph=False)", False),
        ("torch.autograd.grad(loss, ps, create_graph=True)", True),
        ("torch.autograd.grad(loss, ps, create_graph=second_order)", True),
        ("gs = torch.autograd.grad(loss, ps, create_graph=True)\nlist(gs)", True),
        ("gs = torch.autograd.grad(loss, ps, create_graph=True)\n[g * 2 for g in gs]", True),
        ("gs = torch.autograd.grad(loss, ps, create_graph=True)\ngs[1:]", True),
    ],
)
def test_a_graph_through_gradients_is_seen(program: str, expected: bool) -> None:
    assert has_graph(*asked(program)) is expected


# --- exponents -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("program", ["f(2)", "-x", "x + 1", "'nuc'", "1 / 0", "None + 1"])
def test_expressions_that_are_not_exponents(program: str) -> None:
    assert exponent_of(*asked(program)) is None


@pytest.mark.parametrize(
    ("program", "value"),
    [
        ("2", 2.0),
        ("0.5", 0.5),
        ("1 / 2", 0.5),
        ("1.0 / 4", 0.25),
        ("float(3)", 3.0),
        ("'fro'", 2.0),
        ("'inf'", INFINITY),
        ("float('inf')", INFINITY),
        ("math.inf", INFINITY),
        ("np.inf", INFINITY),
        ("p = 3\np", 3.0),
        ("p = 4\n1 / p", 0.25),
        ("p", None),
        ("p = 3\np = 2\np", 2.0),
        ("p = 3\nif x:\n    p = 2\np", None),
        ("args.p", None),
    ],
)
def test_exponents(program: str, value: float | None) -> None:
    found = exponent_of(*asked(program))
    assert found is not None
    assert found.value == value


def test_exponents_can_be_multiplied_if_their_names_cancel() -> None:
    def exponent(text: str):
        found = exponent_of(*asked(text))
        assert found is not None
        return found

    whole = exponent("p").times(exponent("1 / p"))
    assert whole is not None and whole.is_one
    assert exponent("p").times(exponent("1 / q")) is None
    assert exponent("p").equals(exponent("p"))
    assert not exponent("p").equals(exponent("q"))
    assert exponent("p = 2\np").equals(exponent("2"))
    known = exponent("p = 2\np").times(exponent("q = 3\nq"))
    assert known is not None and known.value == 6.0


# --- one power -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "program",
    [
        "p.norm() ** 2",
        "p.grad",
        "p.grad.norm(2, dim=0)",
        "p.grad.norm(2, keepdim=True)",
        "torch.norm(p.grad, *args)",
        "torch.norm(*args)",
        "torch.linalg.matrix_norm(p.grad)",
        "p.grad.norm(2 + x)",
        "p.grad.norm() * p.grad.mean()",
        "p.grad.norm() * q.grad.norm()",
        "(p.grad ** 3).sum()",
        "(p * p.grad).sum()",
        "p.grad.pow(2).mean()",
        "p.grad.max()",
        "torch.dot(p.grad.flatten(), q.grad.flatten())",
        "n = p.grad.norm()\nn = n + 1\nn",
        "p.grad.norm() if x else 1.0",
        "np.sqrt(p.grad.norm())",
        "for p in ps:\n    n = other(p)\nn ** 2",
    ],
)
def test_expressions_that_are_not_powers_of_a_norm(program: str) -> None:
    assert power(*asked(program)) is None


def test_numpy_arrays_are_gradients_only_with_torch() -> None:
    assert power(*asked("np.linalg.norm(layer.grad)", "import numpy as np\n")) is None
    assert power(*asked("(layer.grad ** 2).sum()", "import numpy as np\n")) is None
    assert power(*asked("np.linalg.norm(p.grad.cpu().numpy())")) is not None


@pytest.mark.parametrize(
    ("program", "order", "exponent", "kind"),
    [
        ("p.grad.norm()", 2, 1, "tensor"),
        ("p.grad.norm(None)", 2, 1, "tensor"),
        ("p.grad.norm(1)", 1, 1, "tensor"),
        ("p.grad.norm(p='fro') ** 2", 2, 2, "tensor"),
        ("torch.norm(p.grad, 3).item() ** 3", 3, 3, "float"),
        ("torch.linalg.vector_norm(p.grad, ord=1)", 1, 1, "tensor"),
        ("p.grad.abs().max()", float("inf"), 1, "tensor"),
        ("torch.max(torch.abs(p.grad)).item()", float("inf"), 1, "float"),
        ("p.grad.pow(2).sum()", 2, 2, "tensor"),
        ("(p.grad.abs() ** 3).sum().item()", 3, 3, "float"),
        ("torch.sum(torch.abs(p.grad) ** 3)", 3, 3, "tensor"),
        ("(p.grad * p.grad).sum().sqrt()", 2, 1, "tensor"),
        ("p.grad.view(-1).dot(p.grad.view(-1))", 2, 2, "tensor"),
        ("n = p.grad.norm()\nn * n", 2, 2, "tensor"),
        ("n = 0.0\nif x:\n    n = p.grad.norm().item()\nn ** 2", 2, 2, "float"),
        ("p.grad.norm() ** 2 if p.grad is not None else 0", 2, 2, "tensor"),
        ("0.0 if p.grad is None else p.grad.norm() ** 2", 2, 2, "tensor"),
        ("math.pow(p.grad.norm(), 2)", 2, 2, "float"),
        ("np.sqrt(p.grad.norm().item())", 2, 0.5, "numpy"),
        ("p.grad.norm().cpu().numpy()", 2, 1, "numpy"),
    ],
)
def test_a_power_of_a_norm(program: str, order: float, exponent: float, kind: str) -> None:
    found = power(*asked(program))
    assert found is not None
    assert (found.order.value, found.exponent.value, found.kind) == (order, exponent, kind)


def test_an_order_of_linalg_norm_means_a_matrix_norm_unless_the_gradient_is_flat() -> None:
    def is_matrix_norm(program: str) -> bool:
        found = power(*asked(program))
        assert found is not None
        return found.matrix

    assert is_matrix_norm("torch.linalg.norm(p.grad, 2)")
    assert not is_matrix_norm("torch.linalg.norm(p.grad)")
    assert not is_matrix_norm("torch.linalg.norm(p.grad, None)")
    assert not is_matrix_norm("torch.linalg.norm(p.grad.flatten(), 2)")
    assert not is_matrix_norm("torch.linalg.vector_norm(p.grad, 2)")


def test_the_dtype_of_a_norm_is_a_cast() -> None:
    found = power(*asked("torch.linalg.vector_norm(p.grad, dtype=torch.float64)"))
    assert found is not None and found.gradient.casts == ".to(torch.float64)"


# --- sums of a loop --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "loop",
    [
        "for p in ps:\n    total = p.grad.norm() ** 2",
        "for p in ps:\n    total -= p.grad.norm() ** 2",
        "for p in ps:\n    total += p.norm() ** 2",
        "for p in ps:\n    total += [p.grad.norm()]",
        "for p in ps:\n    total.extend(p.grad.norm())",
        "for p in ps:\n    other = total + p.grad.norm()",
        "while True:\n    total += p.grad.norm() ** 2",
        "for p in ps:\n    def f():\n        total += p.grad.norm() ** 2",
        "total += p.grad.norm() ** 2",
    ],
)
def test_loops_that_do_not_sum_norms(loop: str) -> None:
    assert accumulations(Source(HEADER + loop)) == ()


@pytest.mark.parametrize(
    ("body", "tests"),
    [
        ("total += p.grad.norm() ** 2", []),
        ("if p.grad is None:\n    continue\ntotal += p.grad.norm() ** 2", ["not p.grad is None"]),
        ("if p.grad is None: continue\ntotal += p.grad.norm() ** 2", ["not p.grad is None"]),
        ("if a:\n    if b:\n        total += p.grad.norm() ** 2", ["a", "b"]),
        ("if a:\n    pass\nelse:\n    total += p.grad.norm() ** 2", ["not a"]),
        ("if a:\n    pass\nelif b:\n    total += p.grad.norm() ** 2", ["not a", "b"]),
        ("n = 0.0\nif p.grad is not None:\n    n = p.grad.norm()\ntotal += n ** 2", ["p.grad is not None"]),
        ("total += p.grad.norm() ** 2 if p.grad is not None else 0.0", ["p.grad is not None"]),
        ("if a:\n    print(p)\ntotal += p.grad.norm() ** 2", []),
        ("if a: print(p); continue\ntotal += p.grad.norm() ** 2", []),
        ("if a:\n    continue\nelse:\n    print(p)\ntotal += p.grad.norm() ** 2", []),
    ],
)
def test_the_tests_under_which_a_loop_adds(body: str, tests: list[str]) -> None:
    indented = "".join(f"    {line}\n" for line in body.splitlines())
    source = Source(f"{HEADER}total = 0.0\nfor p in ps:\n{indented}")
    (found,) = accumulations(source)
    assert found.obstacle == ""
    (clause,) = found.series.clauses
    shown = [("" if test.holds else "not ") + source.code(test.test) for test in clause.conditions]
    assert shown == tests


def test_a_sum_spans_all_loops_that_do_nothing_else() -> None:
    nested = "for group in groups:\n    for p in group['params']:\n        total += p.grad.norm() ** 2\n"
    (found,) = accumulations(source := Source(HEADER + nested))
    assert [source.code(clause.iterable) for clause in found.series.clauses] == ["groups", "group['params']"]
    for between in ("    if x:\n    ", "    if x:\n        pass\n    else:\n    "):
        tested = nested.replace("    for p", between + "    for p").replace("        total", "            total")
        (found,) = accumulations(source := Source(HEADER + tested))
        assert [source.code(clause.iterable) for clause in found.series.clauses] == ["groups", "group['params']"]
    busy = nested.replace("    for p", "    step(group)\n    for p")
    (found,) = accumulations(source := Source(HEADER + busy))
    assert [source.code(clause.iterable) for clause in found.series.clauses] == ["group['params']"]


@pytest.mark.parametrize(
    ("body", "extras"),
    [
        ("total += p.grad.norm() ** 2", []),
        ("pass\n'text'\ntotal += p.grad.norm() ** 2\ncontinue", []),
        ("n = p.grad.norm()\ntotal += n ** 2\ncount += 1", ["count += 1"]),
        ("if a:\n    total += p.grad.norm() ** 2\nelse:\n    print(p)", ["print(p)"]),
        ("if a:\n    total += p.grad.norm() ** 2\nelif b:\n    print(p)", ["if b:\n        print(p)"]),
        ("with torch.no_grad():\n    total += p.grad.norm() ** 2\n    print(p)", ["print(p)"]),
        ("if a: total += p.grad.norm() ** 2; print(p)", ["print(p)"]),
        (
            "try:\n    total += p.grad.norm() ** 2\n    log(p)\nexcept E:\n    pass\nelse:\n    print(p)",
            ["log(p)", "print(p)"],
        ),
        ("for q in p:\n    total += q.grad.norm() ** 2\n    log(q)\nelse:\n    print(p)", ["log(q)", "print(p)"]),
        ("if a: total += p.grad.norm() ** 2; pass", []),
        ("if p.grad is None: continue\ntotal += p.grad.norm() ** 2", []),
        (
            "if p.grad is None: print(p); continue\ntotal += p.grad.norm() ** 2",
            ["if p.grad is None: print(p); continue"],
        ),
        ("if a:\n    print(p)\nelif b:\n    total += p.grad.norm() ** 2\n    log(p)", ["print(p)", "log(p)"]),
        ("if a:\n    print(p)\nelif b:\n    total += p.grad.norm() ** 2\nelse:\n    log(p)", ["print(p)", "log(p)"]),
        (
            "if a:\n    total += p.grad.norm() ** 2\nelif b:\n    print(p)\nelse:\n    log(p)",
            ["if b:\n        print(p)\n    else:\n        log(p)"],
        ),
        ("for q in p:\n    log(q)\ntotal += p.grad.norm() ** 2", ["for q in p:\n        log(q)"]),
        ("while x:\n    log(p)\ntotal += p.grad.norm() ** 2", ["while x:\n        log(p)"]),
    ],
)
def test_what_else_a_loop_does(body: str, extras: list[str]) -> None:
    indented = "".join(f"    {line}\n" for line in body.splitlines())
    source = Source(f"{HEADER}total = 0.0\nfor p in ps:\n{indented}")
    (found,) = accumulations(source)
    shown = [source.code(extra).replace("elif", "if").strip() for extra in found.extras]
    assert shown == extras


OBSTACLES = {
    "the loop is asynchronous": "async def f():\n    async for p in ps:\n        total += p.grad.norm() ** 2",
    "the loop has an `else`": "for p in ps:\n    total += p.grad.norm() ** 2\nelse:\n    pass",
    "the loop may exit early": "for p in ps:\n    total += p.grad.norm() ** 2\n    if x:\n        break",
    "errors in the loop are caught": "for p in ps:\n    try:\n        total += p.grad.norm() ** 2\n    except E:\n        pass",
    "there is another loop inside": "for p in ps:\n    while x:\n        total += p.grad.norm() ** 2",
    "the loop's body is inside a `with`": "for p in ps:\n    with lock:\n        total += p.grad.norm() ** 2",
    "the norm is computed in more than one way": (
        "for p in ps:\n    n = p.grad.norm()\n    if x:\n        n = other(p)\n    total += n ** 2"
    ),
    "`n` of an earlier iteration may be added again": (
        "for p in ps:\n    if p.grad is not None:\n        n = p.grad.norm()\n    total += n ** 2"
    ),
}


@pytest.mark.parametrize(("obstacle", "loop"), OBSTACLES.items(), ids=OBSTACLES)
def test_why_a_loop_is_more_than_a_sum(obstacle: str, loop: str) -> None:
    (found,) = accumulations(Source(HEADER + loop))
    assert found.obstacle == obstacle


@pytest.mark.parametrize("leaves", ["return", "raise E", "break", "yield p", "await p", "log(m := p)"])
def test_a_loop_that_may_exit_early_or_hand_something_out(leaves: str) -> None:
    keyword = "async def" if "await" in leaves else "def"
    (found,) = accumulations(
        Source(f"{HEADER}{keyword} f():\n    for p in ps:\n        total += p.grad.norm() ** 2\n        {leaves}")
    )
    assert found.obstacle == "the loop may exit early"


@pytest.mark.parametrize(
    ("around", "obstacle"),
    [
        ("try:\n        n = p.grad.norm()\n    except E:\n        continue", "errors in the loop are caught"),
        ("with lock:\n        n = p.grad.norm()", "the loop's body is inside a `with`"),
        ("with torch.no_grad():\n        n = p.grad.norm()", ""),
    ],
)
def test_an_obstacle_around_what_a_loop_adds_up(around: str, obstacle: str) -> None:
    (found,) = accumulations(Source(f"{HEADER}for p in ps:\n    {around}\n    total += n ** 2"))
    assert found.obstacle == obstacle


def test_the_first_obstacle_is_reported() -> None:
    loop = "for p in ps:\n    with lock:\n        total += p.grad.norm() ** 2\n        break\nelse:\n    pass"
    (found,) = accumulations(Source(HEADER + loop))
    assert found.obstacle == "the loop's body is inside a `with`"


# --- totals ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "program",
    [
        "sum(p.norm() ** 2 for p in ps)",
        "sum(xs, 5.0)",
        "xs = [p.grad.norm() ** 2 for p in ps]\nsum(xs, 5.0) ** 0.5",
        "sum([p.grad.norm() ** 2 for p in ps], start)",
        "async def f():\n    sum([p.grad.norm() ** 2 async for p in ps])",
        "xs = [p.grad.norm() ** 2 for p in ps]\nif x:\n    xs = other()\nsum(xs)",
        "xs = []\nfor p in ps:\n    xs.append(p.grad.norm())\nfor p in qs:\n    xs.append(p.grad.norm())\nsum(xs)",
        "torch.norm(torch.stack([p.grad.norm(1) for p in ps]), 2)",
        "torch.norm(torch.stack([p.grad.norm(2) for p in ps]), 1)",
        "torch.norm(torch.stack([p.grad.norm() ** 2 for p in ps]))",
        "torch.norm(torch.cat([p.grad.flatten() for p in ps]), *args)",
        "torch.norm(torch.cat([p.grad for p in ps]), dim=0)",
        "torch.norm(torch.stack([p.grad.norm() for p in ps]), 0)",
        "torch.cat([p.data.flatten() for p in ps]).norm()",
        "max(p.grad.norm() for p in ps)",
        "(torch.cat([p.grad.flatten() for p in ps]) ** 3).sum()",
        "(torch.stack([p.grad.norm() ** a for p in ps]) ** b).sum()",
        "torch.stack([p.grad.norm() for p in ps]).pow(f(2)).sum()",
        "(sum([p.grad.norm() ** 2 for p in ps]) ** a) ** b",
        "torch.linalg.matrix_norm(torch.stack([p.grad.norm() for p in ps]))",
    ],
)
def test_expressions_that_are_not_totals(program: str) -> None:
    assert total(*asked(program)) is None


@pytest.mark.parametrize(
    ("program", "degree", "form", "kind"),
    [
        ("sum(p.grad.norm() ** 2 for p in ps)", 2, "sum", "tensor"),
        ("sum([p.grad.norm().item() ** 2 for p in ps], 0.0) ** 0.5", 1, "sum", "float"),
        ("math.sqrt(math.fsum([p.grad.norm().item() ** 2 for p in ps]))", 1, "sum", "float"),
        ("np.sqrt(np.sum([p.grad.norm().item() ** 2 for p in ps]))", 1, "sum", "numpy"),
        ("sum(p.grad.norm(3) ** 3 for p in ps) ** (1 / 3)", 1, "sum", "tensor"),
        ("xs = [p.grad.norm() ** 2 for p in ps]\nsum(xs).sqrt().item()", 1, "sum", "float"),
        ("xs = []\nfor p in ps:\n    xs.append(p.grad.norm() ** 2)\nsum(xs)", 2, "sum", "tensor"),
        ("torch.norm(torch.stack([p.grad.norm() for p in ps]))", 1, "stack", "tensor"),
        ("torch.norm(torch.stack([p.grad.norm() for p in ps]), None)", 1, "stack", "tensor"),
        ("torch.stack([p.grad.norm(1) for p in ps]).norm(1)", 1, "stack", "tensor"),
        ("torch.stack([p.grad.norm() for p in ps]).pow(2).sum()", 2, "stack", "tensor"),
        ("torch.pow(torch.stack([p.grad.norm() for p in ps]), 2).sum()", 2, "stack", "tensor"),
        ("torch.cat([p.grad.flatten() for p in ps]).norm(p=3)", 1, "cat", "tensor"),
        ("v = torch.cat([p.grad.flatten() for p in ps])\n(v ** 2).sum()", 2, "cat", "tensor"),
        ("np.linalg.norm([p.grad.norm().item() for p in ps])", 1, "stack", "numpy"),
    ],
)
def test_a_total(program: str, degree: float, form: str, kind: str) -> None:
    found = total(*asked(program))
    assert found is not None and found.degree is not None
    assert (found.degree.value, found.form, found.kind) == (degree, form, kind)


def test_a_total_with_a_mismatched_root_is_not_a_power_of_a_norm() -> None:
    found = total(*asked("sum(p.grad.norm(3) ** 2 for p in ps) ** 0.5"))
    assert found is not None
    assert found.degree is None


def test_the_largest_of_nested_totals_is_reported() -> None:
    source = Source(HEADER + "print(float(sum(p.grad.norm() ** 2 for p in ps) ** 0.5) / 2)\n")
    assert [source.code(found.node) for found in totals(source)] == [
        "float(sum(p.grad.norm() ** 2 for p in ps) ** 0.5)"
    ]


# --- roots of a loop's sum -------------------------------------------------------------------------------------------


def root(term: str, use: str) -> str | None:
    """The kind and the code of the root of `total` on the last line."""
    source = Source(f"{HEADER}total = 0\nfor p in ps:\n    total += {term}\n{use}\n")
    (found,) = accumulations(source)
    last = [name for name in source.nodes(cst.Name) if name.value == "total"][-1]
    taken = root_of(source, last, found.term)
    return taken and f"{taken.kind}: {source.code(taken.node)}"


@pytest.mark.parametrize(
    ("term", "use"),
    [
        ("p.grad.norm() ** 2", "total"),
        ("p.grad.norm() ** 2", "total ** 2"),
        ("p.grad.norm() ** 2", "total / 2"),
        ("p.grad.norm() ** 2", "2 ** total"),
        ("p.grad.norm() ** 2", "total ** 1 / 2"),
        ("p.grad.norm() ** 2", "(total + 1) ** 0.5"),
        ("p.grad.norm() ** 2", "total **= 2"),
        ("p.grad.norm() ** 2", "np.sqrt(total)"),
        ("p.grad.norm().item() ** 2", "torch.sqrt(total)"),
        ("p.grad.norm().item() ** 2", "total.sqrt()"),
        ("p.grad.norm(3) ** 3", "total ** 0.5"),
        ("p.grad.norm(q) ** q", "total ** (1 / r)"),
    ],
)
def test_expressions_without_a_root(term: str, use: str) -> None:
    assert root(term, use) is None


@pytest.mark.parametrize(
    ("term", "use", "taken"),
    [
        ("p.grad.norm() ** 2", "x = total ** 0.5 + 1", "tensor: total ** 0.5"),
        ("p.grad.norm() ** 2", "total.sqrt().item() * 2", "float: total.sqrt().item()"),
        ("p.grad.norm() ** 2", "math.sqrt(total)", "float: math.sqrt(total)"),
        ("p.grad.norm() ** 2", "total.sqrt().real.item()", "tensor: total.sqrt()"),
        ("p.grad.norm() ** 2", "total.sqrt().item().real", "float: total.sqrt().item()"),
        ("p.grad.norm() ** 2", "total **= 0.5", "tensor: total **= 0.5"),
        ("p.grad.norm().item() ** 2", "total ** (1 / 2)", "float: total ** (1 / 2)"),
        ("p.grad.norm().item() ** 2", "pow(total, 0.5)", "float: pow(total, 0.5)"),
        ("p.grad.norm().item() ** 2", "np.sqrt(total)", "numpy: np.sqrt(total)"),
        ("p.grad.norm().item() ** 2", "(total ** 0.5).item()", "float: total ** 0.5"),
        ("p.grad.norm(q) ** q", "total ** (1.0 / q)", "tensor: total ** (1.0 / q)"),
        ("p.grad.norm(4) ** 4", "(total ** 0.5) ** 0.5", "tensor: (total ** 0.5) ** 0.5"),
    ],
)
def test_a_root(term: str, use: str, taken: str) -> None:
    assert root(term, use) == taken


# --- clipping by hand ------------------------------------------------------------------------------------------------


def bounds(program: str) -> list[str]:
    return [clip.ratio.bound for clip in manual_clips(Source(HEADER + program))]


@pytest.mark.parametrize(
    "program",
    [
        "for p in ps:\n    p.data.mul_(max_norm / total_norm)",
        "for p in ps:\n    p.grad.add_(max_norm / total_norm)",
        "for p in ps:\n    p.grad.mul_(lr / steps)",
        "for p in ps:\n    p.grad.mul_(old_norm / total_norm)",
        "for p in ps:\n    p.grad.mul_(max_norm * total_norm)",
        "for p in ps:\n    p.grad.mul_(max_norm / weight_norm)",
        "for p in ps:\n    p.grad.mul_(max_norm / normalized)",
        "for p in ps:\n    p.grad.mul_(f(max_norm / total_norm))",
        "for p in ps:\n    p.grad = q.grad * (max_norm / total_norm)",
        "for p in ps:\n    p.grad[0] *= max_norm / total_norm",
        "for p in ps:\n    p.grad.mul_(max_norm / p.grad.norm())",
        "for p in ps:\n    n = p.grad.norm()\n    p.grad.mul_(max_norm / n)",
        "for p in ps:\n    p.grad.clone().mul_(total_norm)",
        # the norm of one tensor
        "norm = w.grad.norm()\nfor p in ps:\n    p.grad.mul_(max_norm / norm)",
        "norm = w.grad.norm()\nfor p in ps:\n    p.grad.mul_(max_norm / (norm + 1e-6))",
        "for p in ps:\n    norm = p.grad.norm()\n    p.grad.mul_(max_norm / norm)",
        "for p in ps:\n    p.grad.mul_(max_norm / max(p.grad.norm(), max_norm))",
        "class A(torch.optim.Optimizer):\n    def step(self):\n        for p in ps:\n            p.grad.mul_(c / total_norm)",
        "p.grad.mul_(max_norm / total_norm)",
    ],
)
def test_loops_that_do_not_clip_by_hand(program: str) -> None:
    assert bounds(program) == []


@pytest.mark.parametrize(
    ("program", "bound"),
    [
        ("for p in ps:\n    p.grad.mul_(max_norm / total_norm)", ""),
        ("for p in ps:\n    p.grad[:] *= max_norm / (1e-6 + total_norm)", ""),
        ("for p in ps:\n    p.grad.copy_((max_norm / total_norm) * p.grad)", ""),
        ("for p in ps:\n    p.grad = p.grad / (total_norm / max_norm)", ""),
        (
            "max_norm = sum(q.grad.norm() ** 2 for q in qs) ** 0.5\nfor p in ps:\n    p.grad *= max_norm / total_norm",
            "",
        ),
        ("s = 0.0\nfor p in ps:\n    s += p.grad.norm() ** 2\nfor p in ps:\n    p.grad *= theta / s", ""),
        ("for p in ps:\n    p.grad /= total_norm / max_norm", ""),
        ("for p in ps:\n    p.grad.mul_(min(1.0, max_norm / total_norm))", "clamp"),
        ("for p in ps:\n    p.grad.mul_(max_norm / max(total_norm, max_norm))", "clamp"),
        ("for p in ps:\n    p.grad.div_(max(1.0, total_norm / max_norm))", "clamp"),
        ("coef = (max_norm / total_norm).clamp(max=1.0)\nfor p in ps:\n    p.grad = p.grad * coef", "clamp"),
        ("if total_norm > max_norm:\n    for p in ps:\n        p.grad.mul_(max_norm / total_norm)", "test"),
        ("coef = max_norm / total_norm if x else 1.0\nfor p in ps:\n    p.grad.mul_(coef)", "test"),
        ("coef = 1.0\nif x:\n    coef = max_norm / total_norm\nfor p in ps:\n    p.grad.mul_(coef)", "clamp"),
        # in one of two branches only
        (
            "if x:\n    coef = min(1.0, max_norm / total_norm)\nelse:\n    coef = max_norm / total_norm\nfor p in ps:\n    p.grad.mul_(coef)",
            "",
        ),
        (
            "if x:\n    coef = max_norm / total_norm\nelse:\n    coef = min(1.0, max_norm / total_norm)\nfor p in ps:\n    p.grad.mul_(coef)",
            "",
        ),
        (
            "def f():\n    if total_norm <= max_norm:\n        return\n    for p in ps:\n"
            "        p.grad.mul_(max_norm / total_norm)",
            "test",
        ),
        (
            "def f():\n    for p in ps:\n        p.grad.mul_(max_norm / total_norm)\n    if total_norm <= max_norm:\n"
            "        return",
            "",
        ),
    ],
)
def test_how_a_clip_by_hand_limits_the_coefficient(program: str, bound: str) -> None:
    assert bounds(program) == [bound]


# --- rules that depend on what is a gradient -------------------------------------------------------------------------


def hits(rule: str, program: str) -> list[str]:
    """The code of what a rule finds."""
    source = Source(HEADER + program)
    return [source.code(hit.node) for hit in check_of(RULES[rule])(source)]


@pytest.mark.parametrize(
    "statement",
    [
        "p.clamp(-1, 1)",
        "p.data.clamp(-1, 1)",
        "p.grad.clamp_(-1, 1)",
        "p.grad.clone().clamp(-1, 1)",
        "p.grad.float().clamp(-1, 1)",
        "torch.clamp(p.grad.clone(), -1, 1)",
        "torch.clamp(p.grad, -1, 1, out=p.grad)",
        "g = p.grad.clone()\ng = g.clamp(-1, 1)",
        "g = p.grad\ng = g.clamp(-1, 1)\nprint(g)",
        "g = p.grad\nif x:\n    g = g.clamp(-1, 1)",
        "g = p.grad\nh = 0\nh = g.clamp(-1, 1)",
        "g = p.grad\ndef f():\n    h = g.clamp(-1, 1)",
    ],
)
def test_clamps_that_are_not_discarded(statement: str) -> None:
    assert hits("CLIP107", statement) == []


@pytest.mark.parametrize(
    "statement",
    [
        "p.grad.clamp(-1, 1)",
        "p.grad.data.clamp(-1, 1)",
        "p.grad.detach().clamp(-1, 1)",
        "torch.clamp(p.grad.detach(), -1, 1)",
        "g = p.grad.detach()\ng = g.clamp(-1, 1)",
        "g = p.grad\nh = g.clamp(-1, 1)",
    ],
)
def test_discarded_clamps_of_gradients(statement: str) -> None:
    assert hits("CLIP107", statement) == [statement.rpartition("= ")[2]]


@pytest.mark.parametrize(
    "given",
    [
        "model.parameters()",
        "[p for p in ps]",
        "[p for p in ps if p.grad is not None]",
        "[]",
        "grads",
        "collect_gradients()",
        "[g for g in grads]",
        "[p.grad.sum() for p in ps]",
        "[p, q.grad]",
        "[p.grad if x else p for p in ps]",
        "masters",
    ],
)
def test_arguments_that_are_parameters(given: str) -> None:
    program = f"masters = [p.grad.float() for p in ps]\nfor m in masters:\n    m.grad = m\nclip({given}, 1.0)"
    assert hits("CLIP106", "from torch.nn.utils import clip_grad_norm_ as clip\n" + program) == []


@pytest.mark.parametrize(
    ("program", "after"),
    [
        ("clip([p.grad for p in ps], 1.0)", "clip(ps, 1.0)"),
        ("clip([p.grad.detach() for p in ps if p.grad is not None], 1.0)", "clip(ps, 1.0)"),
        ("clip([p.grad.abs() for p in ps if x], 1.0)", "clip([p for p in ps if x], 1.0)"),
        ("clip((p.data for n, p in named), 1.0)", "clip((p for n, p in named), 1.0)"),
        ("clip([a.grad, b.grad.data], 1.0)", "clip([a, b], 1.0)"),
        ("clip(p.grad, 1.0)", "clip(p, 1.0)"),
        ("clip([p.grad.data for p in ps], 1.0)", "clip(ps, 1.0)"),
        ("clip([p.grad if p.grad is not None else torch.zeros(1) for p in ps], 1.0)", "clip(ps, 1.0)"),
        ("g = p.grad\nclip([g for x in xs], 1.0)", None),
        ("gs = [p.grad for p in ps]\nclip(gs, 1.0)", "gs = ps\nclip(gs, 1.0)"),
        ("g = p.grad\nclip([g], 1.0)", None),
        ("g = p.grad\nclip(g, 1.0)", None),
        ("gs = [p.grad for p in ps]\nprint(gs)\nclip(gs, 1.0)", None),
        ("for g in [p.grad for p in ps]:\n    clip(g, 1.0)", None),
        ("clip(torch.autograd.grad(loss, ps), 1.0)", None),
    ],
)
def test_gradients_in_the_place_of_parameters(program: str, after: str | None) -> None:
    imported = "from torch.nn.utils import clip_grad_norm_ as clip\n"
    source = Source(imported + program)
    (hit,) = check_of(RULES["CLIP106"])(source)
    if after is None:
        assert hit.fix is None and hit.help
        return
    assert hit.fix is not None
    text = source.text
    for edit in sorted(hit.fix.all_edits, reverse=True):
        text = text[: edit.start] + edit.text + text[edit.end :]
    assert text == imported + after
