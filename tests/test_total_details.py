"""What is known of a norm of many gradients, of a loop that adds one up, and of a clip by hand. Silent cases first.

Each program ends in the expression that is asked about, on a line of its own.
"""

from __future__ import annotations

import libcst as cst
import pytest

from clipcheck.gradients.accumulations import accumulations, fresh, reduced
from clipcheck.gradients.exponents import exponent_of
from clipcheck.gradients.manual_clips import is_norm, manual_clips
from clipcheck.gradients.norm_functions import norm_call_of
from clipcheck.gradients.norm_origin import base, is_over, origins
from clipcheck.gradients.optimizers import is_in_optimizer, is_optimizer_class
from clipcheck.gradients.roots import claims_to_be_norm, is_operand
from clipcheck.gradients.series import flat, series, uses_beside
from clipcheck.gradients.spelling import Refused, carried, gradients_pieces, parameters_code, parameters_of
from clipcheck.gradients.totals import differentiable, total
from clipcheck.python.source import Source

HEADER = "import functools\nimport math\nimport operator\nimport numpy as np\nimport torch\n"
NORMS = "[p.grad.norm() for p in ps]"
NUMBERS = "[p.grad.norm().item() for p in ps]"
INFINITY = float("inf")
VECTOR = "torch.cat([p.grad.flatten() for p in ps])"


def asked(program: str) -> tuple[Source, cst.BaseExpression]:
    source = Source(HEADER + program)
    *_, last = source.nodes(cst.Expr)
    return source, last.value


# --- exponents --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "program",
    ["f(2)", "float(2, 3)", "float()", "int(2)", "2 - 1", "1 / 'nuc'", "'nuc' / 1", "1 / 0.0", "[2]", "None + 1"],
)
def test_no_exponent(program: str) -> None:
    assert exponent_of(*asked(program)) is None


@pytest.mark.parametrize(
    ("program", "text", "value"),
    [
        ("2", "2", 2),
        ("float(2)", "float(2)", 2),
        ("float('inf')", "float('inf')", INFINITY),
        ("'inf'", "'inf'", INFINITY),
        ("math.inf", "math.inf", INFINITY),
        ("1 / 2", "1 / 2", 0.5),
        ("p = 2\n3 / p", "3 / p", 1.5),
        ("orders[0]", "orders[0]", None),
        ("self.p = 2\nself.p", "self.p", None),
        ("p = 2.5\np", "p", 2.5),
        ("p = '2'\np", "p", None),
    ],
)
def test_an_exponent_and_how_it_is_written(program: str, text: str, value: float | None) -> None:
    found = exponent_of(*asked(program))
    assert found is not None
    assert (found.text, found.value) == (text, value)


@pytest.mark.parametrize(
    ("one", "other", "equal"),
    [
        ("2", "2.0", True),
        ("2", "3", False),
        ("math.inf", "float('inf')", True),
        ("0.1 + 0.2", "0.3", False),
        ("p", "p", True),
        ("p", "1 / p", False),
        ("p", "2 / p", False),
        ("p", "2", False),
        ("orders[0]", "orders[0]", True),
        ("orders[0]", "orders[1]", False),
    ],
)
def test_equal_exponents(one: str, other: str, equal: bool) -> None:
    left, right = exponent_of(*asked(one)), exponent_of(*asked(other))
    assert (left is not None and right is not None and left.equals(right)) is equal
    assert (left is not None and right is not None and right.equals(left)) is equal


def test_a_third_and_its_root_are_one() -> None:
    third, three = exponent_of(*asked("1 / 3")), exponent_of(*asked("3"))
    assert third is not None and three is not None
    whole = third.times(three)
    assert whole is not None and whole.is_one
    assert exponent_of(*asked("p = 3\np")).equals(three)  # type: ignore[union-attr]


# --- functions that give a norm ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "program",
    [
        "x.norm(*args)",
        "x.norm(2, 0)",
        "x.norm(2, out=y)",
        "norm(x)",
        "torch.norm()",
        "np.norm(x)",
        "x.size(2)",
        "x.norm('nuc')",
    ],
)
def test_no_norm_of_all_entries(program: str) -> None:
    source, node = asked(program)
    assert isinstance(node, cst.Call)
    assert norm_call_of(source, node) is None


@pytest.mark.parametrize(
    ("program", "order", "matrix", "cast", "numpy"),
    [
        ("x.norm()", 2, False, "", False),
        ("x.norm(ord=3)", 3, False, "", False),
        ("x.norm(p=None)", 2, False, "", False),
        ("torch.norm(x, 1)", 1, False, "", False),
        ("torch.functional.norm(x, 1)", 1, False, "", False),
        ("torch.linalg.norm(x, 1)", 1, True, "", False),
        ("torch.linalg.norm(x, None)", 2, False, "", False),
        ("torch.linalg.vector_norm(x, 1, dtype=torch.double)", 1, False, ".to(torch.double)", False),
        ("np.linalg.norm(x)", 2, False, "", True),
        ("np.linalg.norm(x, ord=2)", 2, True, "", True),
    ],
)
def test_a_norm_of_all_entries(program: str, order: float, matrix: bool, cast: str, numpy: bool) -> None:
    source, node = asked(program)
    assert isinstance(node, cst.Call)
    found = norm_call_of(source, node)
    assert found is not None and source.code(found.tensor) == "x"
    assert (found.order.value, found.matrix, found.cast, found.numpy) == (order, matrix, cast, numpy)


# --- series -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "program",
    [
        "[p.grad for p in ps]",
        "[p.grad.norm() async for p in ps]",
        "[q.grad.norm() for p in ps]",
        "list([p.grad.norm() for p in ps], 1)",
        "list(*[p.grad.norm() for p in ps])",
        "set([p.grad.norm() for p in ps])",
        "[n ** 2 for n in [p.grad.norm() for p in ps] if n]",
        "[m ** 2 for n in [p.grad.norm() for p in ps]]",
        "[n * m for n in [p.grad.norm() for p in ps]]",
        "[n * 2 for n in [p.grad.norm() for p in ps]]",
        "[2 * n for n in [p.grad.norm() for p in ps]]",
        "[f(n) for n in [p.grad.norm() for p in ps]]",
        "[n + 1 for n in [p.grad.norm() for p in ps]]",
        "[p.grad.norm() for p in ps] ** 2",
        "[p.grad.norm() for p in ps].float()",
        "torch.stack([p.grad.norm() for p in ps]).other()",
        "map(lambda p: p.norm(), ps)",
        "map(lambda p, q: p.grad.norm(), ps)",
        "map(lambda p: p.grad.norm(), ps, qs)",
        "map(lambda p: q.grad.norm(), ps)",
        "map(norm, ps)",
        "filter(lambda p: p.grad.norm(), ps)",
        "torch._foreach_norm([p.data for p in ps])",
        "torch._foreach_norm([p.grad for p in ps], 'nuc')",
        "torch._foreach_norm(tensors)",
        "norms = [1.0]\nfor p in ps:\n    norms.append(p.grad.norm())\nnorms",
        "norms = []\nfor p in ps:\n    other.append(p.grad.norm())\nnorms",
        "norms = set()\nfor p in ps:\n    norms.append(p.grad.norm())\nnorms",
    ],
)  # fmt: skip
def test_no_series(program: str) -> None:
    assert series(*asked(program)) is None


@pytest.mark.parametrize(
    ("program", "exponent", "kind", "read", "array"),
    [
        (NORMS, 1, "tensor", "", ""),
        ("(p.grad.norm() for p in ps)", 1, "tensor", "", ""),
        (f"list({NORMS})", 1, "tensor", "", ""),
        (f"tuple({NORMS})", 1, "tensor", "", ""),
        (f"[n for n in {NORMS}]", 1, "tensor", "", ""),
        (f"[n * n for n in {NORMS}]", 2, "tensor", "", ""),
        (f"[n ** 3 for n in {NORMS}]", 3, "tensor", "", ""),
        (f"[n.item() for n in {NORMS}]", 1, "float", ".item()", ""),
        (f"[n.item() ** 2 for n in {NORMS}]", 2, "float", ".item()", ""),
        (f"[n.cpu() for n in {NORMS}]", 1, "tensor", ".cpu()", ""),
        (f"[float(n) for n in {NUMBERS}]", 1, "float", "float()", ""),
        (f"[n.clone() for n in {NUMBERS}]", 1, "float", ".item()", ""),
        *((f"np.{name}({NUMBERS})", 1, "float", ".item()", "numpy") for name in ("array", "asarray", "fromiter")),
        *((f"torch.{name}({NORMS})", 1, "tensor", "", "torch") for name in ("stack", "cat", "hstack")),
        *(
            (f"torch.{name}({NORMS})", 1, "tensor", f"torch.{name}()", "torch")
            for name in ("tensor", "as_tensor", "Tensor", "FloatTensor", "DoubleTensor")
        ),
        (f"torch.tensor({NUMBERS})", 1, "tensor", ".item()", "torch"),
        (f"torch.stack({NORMS}).double()", 1, "tensor", "", "torch"),
        (f"torch.stack({NORMS}) ** 2", 2, "tensor", "", "torch"),
        (f"torch.stack({NORMS}).square()", 2, "tensor", "", "torch"),
        (f"torch.square({NORMS})", 2, "tensor", "", ""),
        ("map(lambda p: p.grad.norm() ** 2, ps)", 2, "tensor", "", ""),
        ("torch._foreach_norm([p.grad for p in ps])", 1, "tensor", "", "fused"),
        ("torch.stack(torch._foreach_norm([p.grad for p in ps]))", 1, "tensor", "", "fused"),
        ("grads = [p.grad for p in ps]\ntorch._foreach_norm(grads)", 1, "tensor", "", "fused"),
        ("norms = []\nfor p in ps:\n    norms.append(p.grad.norm())\nnorms", 1, "tensor", "", ""),
        ("norms = list()\nfor p in ps:\n    norms.append(p.grad.norm())\nnorms", 1, "tensor", "", ""),
    ],
)
def test_a_series(program: str, exponent: float, kind: str, read: str, array: str) -> None:
    found = series(*asked(program))
    assert found is not None
    assert (found.term.exponent.value, found.term.kind, found.term.read, found.array) == (exponent, kind, read, array)


@pytest.mark.parametrize(
    "join", ["cat", "concat", "concatenate", "hstack", "_utils._flatten_dense_tensors", "nn.utils.parameters_to_vector"]
)
def test_gradients_in_one_vector(join: str) -> None:
    assert flat(*asked(f"torch.{join}([p.grad for p in ps])"))
    assert flat(*asked(f"gs = [p.grad for p in ps]\ntorch.{join}(gs)"))
    assert not flat(*asked(f"torch.{join}([p.data for p in ps])"))
    assert not flat(*asked(f"torch.{join}(tensors=[p.grad for p in ps])"))


@pytest.mark.parametrize("join", ["concatenate", "concat", "hstack"])
def test_gradients_in_one_array(join: str) -> None:
    found = flat(*asked(f"np.{join}([p.grad.cpu().numpy() for p in ps])"))
    assert found is not None and found.term.read == ".numpy()"


@pytest.mark.parametrize("method", "detach cpu numpy float double view reshape flatten ravel cuda to".split())
def test_the_same_vector_after_a_method(method: str) -> None:
    assert flat(*asked(f"{VECTOR}.{method}(x)"))


def test_another_vector_after_a_method() -> None:
    assert flat(*asked(f"{VECTOR}.exp()")) is None
    assert flat(*asked("torch.float(x)")) is None
    assert flat(*asked("torch.stack([p.grad for p in ps])")) is None


# --- totals -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "program",
    [
        "x",
        f"torch.prod(torch.stack({NORMS}))",
        f"sum(*{NORMS})",
        f"sum(iterable={NORMS})",
        f"torch.stack({NORMS}).sum(0)",
        f"torch.stack({NORMS}).mean()",
        f"min({NORMS})",
        f"({VECTOR} ** 3).mean()",
        f"{VECTOR}.mean()",
        f"({VECTOR} ** 2).max()",
        f"({VECTOR} ** 2).mean(0)",
        f"{VECTOR}.dot(other)",
        "x.dot(x)",
        f"torch.mv({VECTOR}, {VECTOR})",
        f"torch.norm({NORMS})",
        f"{VECTOR}.norm(0)",
        "torch.norm(torch.stack([p.grad.norm(3) for p in ps]), 2)",
        "torch.norm(torch.stack([p.grad.norm() ** 2 for p in ps]), 2)",
        f"sum({NORMS}).numpy()",
        # reduce
        f"functools.reduce(operator.mul, {NORMS})",
        f"functools.reduce(operator.add, {NORMS}, 1.0)",
        f"functools.reduce(max, {NORMS})",
        f"other.reduce(operator.add, {NORMS})",
        f"functools.reduce({NORMS})",
        "functools.reduce(lambda total, p: total - p.grad.norm() ** 2, ps, 0)",
        "functools.reduce(lambda total, p: p.grad.norm() ** 2, ps, 0)",
        "functools.reduce(lambda total, p: total, ps, 0)",
        "functools.reduce(lambda total, p: other + p.grad.norm() ** 2, ps, 0)",
        "functools.reduce(lambda total, p: p.grad.norm() ** 2 + other, ps, 0)",
        "functools.reduce(lambda total, p: total + p.grad.norm() ** 2 if p.x else other, ps, 0)",
        "functools.reduce(lambda total, p: total + q.grad.norm() ** 2, ps, 0)",
        "functools.reduce(lambda total, p: total + p.norm() ** 2, ps, 0)",
        "functools.reduce(lambda total, p: total + p.grad.norm() if x else total + p.grad.norm(1), ps, 0)",
        "functools.reduce(lambda total, p: min(total, p.grad.abs().max()), ps, 0)",
        "functools.reduce(lambda total, p: max(p.grad.abs().max(), 1.0), ps, 0)",
        "functools.reduce(lambda total, p, q: total + p.grad.norm(), ps, 0)",
        "def add(total, p, q):\n    return total + p.grad.norm()\nfunctools.reduce(add, ps, 0)",
        "functools.reduce(unknown, ps, 0)",
    ],
)
def test_no_total(program: str) -> None:
    assert total(*asked(program)) is None


@pytest.mark.parametrize(
    ("program", "form", "kind", "numpy"),
    [
        (f"sum({NORMS})", "sum", "tensor", ""),
        (f"sum({NORMS}, 0)", "sum", "tensor", ""),
        (f"sum({NUMBERS}, start=0.0)", "sum", "float", ""),
        (f"math.fsum({NUMBERS})", "sum", "float", ""),
        (f"np.sum({NUMBERS})", "sum", "numpy", "np"),
        (f"np.array({NUMBERS}).sum()", "sum", "numpy", ""),
        (f"torch.sum(torch.stack({NORMS}))", "stack", "tensor", ""),
        (f"torch.stack({NORMS}).sum()", "stack", "tensor", ""),
        (f"torch.stack({NORMS}).sum().item()", "stack", "float", ""),
        (f"torch.stack({NORMS}).sum().cuda()", "stack", "tensor", ""),
        ("torch.stack(torch._foreach_norm([p.grad for p in ps])).sum()", "stack", "tensor", ""),
        *(
            (f"{name}([p.grad.abs().max() for p in ps])", "max", kind, numpy)
            for name, kind, numpy in (
                ("max", "tensor", ""),
                ("np.max", "numpy", "np"),
                ("np.amax", "numpy", "np"),
                ("torch.max", "tensor", ""),
                ("torch.amax", "tensor", ""),
            )
        ),
        ("torch.stack([p.grad.abs().max() for p in ps]).max()", "max", "tensor", ""),
        ("torch.stack([p.grad.abs().max() for p in ps]).amax()", "max", "tensor", ""),
        ("torch.stack([p.grad.norm(math.inf) for p in ps]).norm(math.inf)", "max", "tensor", ""),
        (f"({VECTOR} ** 2).sum()", "cat", "tensor", ""),
        (f"torch.sum({VECTOR}.square())", "cat", "tensor", ""),
        (f"({VECTOR} ** 2).mean()", "mean", "tensor", ""),
        (f"torch.mean({VECTOR} ** 2)", "mean", "tensor", ""),
        ("np.mean(np.concatenate([p.grad.numpy() for p in ps]) ** 2)", "mean", "numpy", ""),
        (f"v = {VECTOR}\nv.dot(v)", "cat", "tensor", ""),
        (f"v = {VECTOR}\nv.vdot(v)", "cat", "tensor", ""),
        (f"v = {VECTOR}\ntorch.dot(v, v)", "cat", "tensor", ""),
        (f"v = {VECTOR}\ntorch.vdot(v, v)", "cat", "tensor", ""),
        (f"torch.linalg.vector_norm({VECTOR})", "cat", "tensor", ""),
        (f"np.linalg.norm({NUMBERS})", "stack", "numpy", "np"),
        (f"np.sqrt(sum({NUMBERS}))", "sum", "numpy", "np"),
        (f"math.sqrt(sum({NORMS}))", "sum", "float", ""),
        (f"torch.sqrt(np.sum({NUMBERS}))", "sum", "numpy", "np"),
        (f"from numpy import sum as added\nadded({NUMBERS})", "sum", "numpy", ""),
        # reduce
        *((f"functools.reduce({name}, {NORMS})", "sum", "tensor", "") for name in ("operator.add", "np.add", "torch.add")),
        (f"functools.reduce(operator.add, {NORMS}, 0)", "sum", "tensor", ""),
        ("functools.reduce(max, [p.grad.abs().max() for p in ps])", "max", "tensor", ""),
        ("functools.reduce(lambda total, p: total + p.grad.norm() ** 2, ps, 0)", "sum", "tensor", ""),
        ("functools.reduce(lambda total, p: p.grad.norm() ** 2 + total, ps, 0)", "sum", "tensor", ""),
        ("functools.reduce(lambda total, p: total + p.grad.norm() if p.x else total, ps, 0)", "sum", "tensor", ""),
        ("functools.reduce(lambda total, p: max(total, p.grad.abs().max()), ps, 0)", "max", "tensor", ""),
        ("functools.reduce(lambda total, p: max(p.grad.abs().max(), total), ps, 0)", "max", "tensor", ""),
        ("def add(total, p):\n    if p.x:\n        return total\n    return total + p.grad.norm()\nfunctools.reduce(add, ps, 0)", "sum", "tensor", ""),
    ],
)  # fmt: skip
def test_a_total(program: str, form: str, kind: str, numpy: str) -> None:
    found = total(*asked(program))
    assert found is not None
    assert (found.form, found.kind, found.numpy) == (form, kind, numpy)


@pytest.mark.parametrize(
    ("program", "degree", "is_total"),
    [
        (f"sum({NORMS})", None, False),
        ("sum(p.grad.norm() ** 2 for p in ps)", 2, True),
        ("sum(p.grad.norm() ** 2 for p in ps) ** 0.5", 1, True),
        ("sum(p.grad.norm(1) for p in ps)", 1, False),
        ("max(p.grad.abs().max() for p in ps) ** 2", 2, True),
        (f"({VECTOR} ** 2).mean()", None, True),
        (f"{VECTOR}.norm(1)", 1, True),
        (f"torch.stack({NORMS}).norm()", 1, True),
    ],
)
def test_the_power_of_a_total(program: str, degree: float | None, is_total: bool) -> None:
    found = total(*asked(program))
    assert found is not None
    assert (None if found.degree is None else found.degree.value) == degree
    assert found.is_total is is_total


@pytest.mark.parametrize(
    ("program", "cast"),
    [
        (f"torch.linalg.vector_norm({VECTOR}, dtype=torch.double)", ".to(torch.double)"),
        (f"torch.norm(torch.stack({NORMS}), dtype=torch.double)", ".to(torch.double)"),
        (f"torch.norm(torch.stack({NORMS}))", ""),
        ("torch.stack([p.grad.norm(math.inf) for p in ps]).norm(math.inf, dtype=torch.half)", ".to(torch.half)"),
    ],
)
def test_the_dtype_that_a_total_is_asked_for_in(program: str, cast: str) -> None:
    found = total(*asked(program))
    assert found is not None and found.cast == cast


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        ("[p.grad for p in ps]", False),
        ("torch.autograd.grad(loss, ps)", False),
        ("torch.autograd.grad(loss, ps, create_graph=True)", True),
    ],
)
def test_a_norm_that_autograd_may_go_through(made: str, expected: bool) -> None:
    source, node = asked(f"sum(g.norm() ** 2 for g in {made})")
    found = total(source, node)
    assert found is not None and differentiable(source, found.series) is expected
    source, node = asked(f"gs = {made}\nsum(g.norm() ** 2 for g in [h for h in gs])")
    found = total(source, node)
    assert found is None or differentiable(source, found.series) is expected
    source, node = asked(f"sum(grad.norm() ** 2 for grads in zip({made}) for grad in grads)")
    found = total(source, node)
    assert found is not None and differentiable(source, found.series) is expected


@pytest.mark.parametrize(
    ("more", "expected"),
    [("", False), ("print(norms)\n", True), ("norms = []\n", False), ("def f():\n    return norms\n", True)],
)
def test_whether_a_list_of_norms_has_another_use(more: str, expected: bool) -> None:
    source, node = asked(f"norms = {NORMS}\n{more if 'norms = ' not in more else ''}sum(norms)")
    found = total(source, node)
    assert found is not None and uses_beside(source, found.series, node) is expected


def test_a_list_that_is_made_of_another_is_no_use_of_its_own() -> None:
    source, node = asked(f"norms = {NORMS}\nsquares = [n ** 2 for n in norms]\nsum(squares)")
    found = total(source, node)
    assert found is not None and not uses_beside(source, found.series, node)


# --- loops ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        "total += (p.grad.norm(), 1)",
        "total = total - p.grad.norm()",
        "total = other + p.grad.norm()",
        "total = min(total, p.grad.abs().max())",
        "total = max(total, p.grad.norm())",
        "total = max(other, p.grad.abs().max())",
        "n = p.grad.abs().max()\nif n == total:\n    total = n",
        "n = p.grad.abs().max()\nif n > other:\n    total = n",
        "n = p.grad.abs().max()\nif x:\n    total = n",
        "n = p.grad.abs().max()\nif 0 < n < total:\n    total = n",
        "total.add_(p.grad.norm(), 2)",
        "total.append(item=p.grad.norm())",
        "total.append(*p.grad.norm())",
        "total.sub_(p.grad.norm())",
        "total += torch.autograd.grad(loss, p)[0].norm()",
        "g = torch.autograd.grad(loss, p)[0]\ntotal += g.norm()",
        "total += q.grad.norm() ** 2",
        "total += model.p.grad.norm() ** 2",
        "a = p\nb = a\nc = b\nd = c\ne = d\ntotal += e.grad.norm()",  # too far from the loop's own name
        "sums[k] = sums.get(k, 1.0) + p.grad.norm() ** 2",
        "sums[k] = sums.get(j, 0.0) + p.grad.norm() ** 2",
        "sums[k] = others.get(k, 0.0) + p.grad.norm() ** 2",
        "sums[k] = sums.pop(k, 0.0) + p.grad.norm() ** 2",
        "def f():\n    return total.add_(p.grad.norm())",
    ],
)
def test_no_sum_in_a_loop(body: str) -> None:
    indented = "".join(f"    {line}\n" for line in body.splitlines())
    assert accumulations(Source(f"{HEADER}total = 0.0\nfor p in ps:\n{indented}")) == ()


@pytest.mark.parametrize(
    ("body", "how", "is_total"),
    [
        ("total += p.grad.norm()", "add", False),
        ("total += p.grad.norm() ** 2", "add", True),
        ("total = total + p.grad.norm()", "add", False),
        ("total = p.grad.norm() + total", "add", False),
        ("total.add_(p.grad.norm())", "add", False),
        ("total.append(p.grad.norm())", "append", False),
        *(
            (f"total = {name}(total, p.grad.abs().max())", "max", True)
            for name in ("max", "np.maximum", "torch.maximum", "torch.max")
        ),
        ("total = max(p.grad.abs().max(), total)", "max", True),
        *(
            (f"n = p.grad.abs().max()\nif {test}:\n    total = n", "max", True)
            for test in ("n > total", "n >= total", "total < n", "total <= n")
        ),
        ("q = p.detach()\ntotal += q.grad.norm()", "add", False),
        ("a = p\nb = a\nc = b\nd = c\ntotal += d.grad.norm()", "add", False),
        ("sums[k] = sums.get(k, 0.0) + p.grad.norm() ** 2", "add", True),
        ("sums[k] = p.grad.norm() ** 2 + sums.get(k, 0)", "add", True),
    ],
)
def test_a_sum_in_a_loop(body: str, how: str, is_total: bool) -> None:
    indented = "".join(f"    {line}\n" for line in body.splitlines())
    (found,) = accumulations(Source(f"{HEADER}total = 0.0\nfor p in ps:\n{indented}"))
    assert (found.how, found.is_total) == (how, is_total)


@pytest.mark.parametrize(
    ("before", "expected"),
    [
        ("total = 0.0", True),
        ("total = other()", True),
        ("pass", False),
        ("total = 0.0\nif x:\n    total = 1.0", False),
        ("for total in xs:\n    pass", False),
    ],
)
def test_the_assignment_that_starts_a_sum(before: str, expected: bool) -> None:
    source = Source(f"{HEADER}{before}\nfor p in ps:\n    total += p.grad.norm() ** 2\n")
    (found,) = accumulations(source)
    assert (fresh(source, found) is not None) is expected


def test_a_sum_in_an_attribute_has_no_start() -> None:
    source = Source(f"{HEADER}self.total = 0.0\nfor p in ps:\n    self.total += p.grad.norm() ** 2\n")
    (found,) = accumulations(source)
    assert fresh(source, found) is None


@pytest.mark.parametrize(
    ("after", "expected"),
    [
        ("print(total)", False),
        ("dist.all_reduce(other)", False),
        ("reduce(total)", False),
        ("def g():\n    dist.all_reduce(total)", False),
        ("dist.all_reduce(total)", True),
        ("dist.allreduce(total)", True),
        ("reduce_sum(total)", True),
        ("xm.mesh_reduce('n', total)", True),
        ("n = total.sqrt()\ndist.all_reduce(n)", True),
        ("n = total.sqrt()\nm = n\ndist.all_reduce(m)", True),
        ("n, m = total, 1\ndist.all_reduce(n)", False),
    ],
)
def test_a_sum_that_is_reduced_over_processes(after: str, expected: bool) -> None:
    indented = "".join(f"    {line}\n" for line in after.splitlines())
    text = f"{HEADER}def f():\n    total = 0.0\n    for p in ps:\n        total += p.grad.norm() ** 2\n{indented}"
    source = Source(text)
    (found,) = accumulations(source)
    assert reduced(source, found.loop, found.target) is expected


# --- where a norm comes from ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "program",
    [
        "n",
        "n = other()\nn",
        "for n in xs:\n    n",
        f"n = sum({NORMS})\nif x:\n    n = other()\nn",
        f"n = sum({NORMS})\nn **= f(x)\nn = n + 1\nn",
        f"n = sum({NORMS})\nn += 1\nn",
        f"int(sum({NORMS}))",
        f"n = sum({NORMS})\nn.sub(1)",
        f"n = sum({NORMS})\ndist.all_reduce(n)\nn",
        "n = 0.0\nn",
        "a, n = other()\nn",
        "n: float\nn",
    ],
)
def test_norms_of_another_origin(program: str) -> None:
    assert origins(*asked(program)) is None


@pytest.mark.parametrize(
    "program",
    [
        f"sum({NORMS})",
        f"n = sum({NORMS})\nn",
        f"n = sum({NORMS})\nn ** 0.5",
        f"n = sum({NORMS})\nfloat(n)",
        f"n = sum({NORMS})\nn **= 0.5\nn",
        *(f"n = sum({NORMS})\nn.{method}()" for method in ("item", "to", "float", "detach", "cpu", "cuda", "clone")),
        "n = 0.0\nfor p in ps:\n    n += p.grad.norm() ** 2\nn",
        "n = 0.0\nfor p in ps:\n    n += p.grad.norm() ** 2\nn = n ** 0.5\nn",
        "n = 0.0\nfor p in ps:\n    n += p.grad.norm() ** 2\nn **= 0.5\nn",
        f"n: float = sum({NORMS})\nn",
    ],
)
def test_the_origin_of_a_norm(program: str) -> None:
    source, node = asked(program)
    found = origins(source, node)
    assert found is not None and [source.code(one.clauses[0].iterable) for one in found] == ["ps"]


def test_a_norm_with_two_origins() -> None:
    source, node = asked(f"if x:\n    n = sum({NORMS})\nelse:\n    n = sum({NORMS.replace('ps', 'qs')})\nn")
    found = origins(source, node)
    assert found is not None and [source.code(one.clauses[0].iterable) for one in found] == ["ps", "qs"]


@pytest.mark.parametrize(
    ("iterable", "made_from"),
    [
        ("ps", "ps"),
        ("model . parameters ()", "model.parameters()"),
        ("model.named_parameters()", "model.parameters()"),
        ("model.named_parameters(True)", "model.named_parameters(True)"),
        ("list(model.named_parameters())", "model.parameters()"),
        ("tuple(ps)", "ps"),
        ("filter(lambda p: p.x, ps)", "ps"),
        ("enumerate(ps)", "ps"),
        ("sorted(ps)", "sorted(ps)"),
        ("list()", "list()"),
        ("[p for p in ps if p.x]", "ps"),
        ("(p for p in ps)", "ps"),
        ("[p for g in gs for p in g]", "[pforgingsforping]"),
        ("qs = [p for p in ps]\nqs", "ps"),
        ("qs = ps\nqs", "qs"),
        ("qs = ps\nif x:\n    qs = list(rs)\nqs", "qs"),
    ],
)
def test_what_an_iterable_is_made_from(iterable: str, made_from: str) -> None:
    assert base(*asked(iterable)) == made_from


def test_a_norm_over_the_same_tensors_as_a_loop() -> None:
    source = Source(
        f"{HEADER}sum({NORMS})\nfor p in list(ps):\n    t += p.grad.norm() ** 2\nfor q in qs:\n    u += q.grad.norm() ** 2\n"
    )
    one = series(source, next(n for n in source.nodes(cst.ListComp)))
    same, other = (one.series.clauses for one in accumulations(source))
    assert one is not None
    assert is_over(source, one, same)
    assert not is_over(source, one, other)
    assert not is_over(source, one, ())


# --- roots and names --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        *(("total_norm", True), ("gnorm", True), ("grad_norms", True), ("total", False), ("norm_pow", False)),
        *(("norm_sq", False), ("norm2", False), ("l2_norm", False), ("sum_norm", False), ("norm_acc", False)),
    ],
)
def test_names_that_claim_to_be_a_norm(name: str, expected: bool) -> None:
    assert claims_to_be_norm(name) is expected


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        *(("t", False), ("f(t)", False), ("t ** 2", False), ("2 ** t", True), ("t + 1", True), ("1 / t", True)),
        *(("x += t", True), ("t += x", False), ("t > 1", False), ("-t", False)),
    ],
)
def test_operands_of_arithmetic(code: str, expected: bool) -> None:
    source = Source(f"{code}\n")
    (name,) = (node for node in source.nodes(cst.Name) if node.value == "t")
    assert is_operand(source, name) is expected


# --- optimizers -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("torch.optim.Adam", True),
        ("torch.optim.lr_scheduler.StepLR", False),
        ("torch.optim.swa_utils.AveragedModel", False),
        ("torch.nn.Linear", False),
        ("apex.FusedAdam", True),
        ("Lion", True),
        ("optim_class", False),
        ("Mine", True),
        ("Derived", True),
        ("Other", False),
        ("Scheduler", False),
    ],
)
def test_classes_of_optimizers(code: str, expected: bool) -> None:
    classes = "class Mine(torch.optim.Optimizer):\n    pass\nclass Derived(Mine):\n    pass\nclass Other(Base):\n    pass\nclass Scheduler(torch.optim.lr_scheduler.StepLR):\n    pass\n"
    assert is_optimizer_class(*asked(classes + code)) is expected


@pytest.mark.parametrize(
    ("base_class", "expected"),
    [
        *(
            ("torch.optim.Optimizer", True),
            ("Optimizer", True),
            ("MyAdam", True),
            ("CustomAdamW", True),
            ("lib.FastSGD", True),
        ),
        *(
            ("lib.optim.Base", True),
            ("object", False),
            ("OptimizerWrapper", False),
            ("lib.Trainer", False),
            ("Lamb", True),
        ),
    ],
)
def test_code_in_an_optimizer(base_class: str, expected: bool) -> None:
    source, node = asked(f"class A({base_class}):\n    def step(self):\n        here")
    assert is_in_optimizer(source, node) is expected
    assert not is_in_optimizer(*asked("here"))


# --- how a norm's tensors are spelled ---------------------------------------------------------------------------------


def spelled(program: str) -> tuple[Source, object]:
    source, node = asked(program)
    found = total(source, node)
    assert found is not None
    return source, carried(source, found.series)


@pytest.mark.parametrize(
    ("clauses", "why"),
    [
        ("for p in ps if (n := p.x)", "the condition in the loop has a side effect"),
        ("for p in ps if p.y and (yield)", "the condition in the loop has a side effect"),
    ],
)
def test_tensors_that_are_not_spelled_again(clauses: str, why: str) -> None:
    assert spelled(f"sum([p.grad.norm() ** 2 {clauses}])")[1] == Refused(why)


@pytest.mark.parametrize(
    ("clauses", "written"),
    [
        ("for p in ps", "ps"),
        ("for p in (ps)", "(ps)"),
        ("for p in ps if p.grad is not None", "ps"),
        ("for p in ps if p.grad != None", "ps"),
        ("for p in ps if not p.grad is None", "ps"),
        ("for p in ps if not p.grad == None", "ps"),
        ("for p in ps if not (p.grad is None or p.x)", "[p for p in ps if not p.x]"),
        ("for p in ps if p.grad.data is not None", "ps"),
        ("for p in ps if hasattr(p, 'grad')", "ps"),
        ("for p in ps if not hasattr(p, 'grad')", "[p for p in ps if not hasattr(p, 'grad')]"),
        ("for p in ps if hasattr(q, 'grad')", "[p for p in ps if hasattr(q, 'grad')]"),
        ("for p in ps if hasattr(p, 'x')", "[p for p in ps if hasattr(p, 'x')]"),
        ("for p in ps if test(p, 'grad')", "[p for p in ps if test(p, 'grad')]"),
        ("for p in ps if q.grad is not None", "[p for p in ps if q.grad is not None]"),
        ("for p in ps if p.grad is not x", "[p for p in ps if p.grad is not x]"),
        ("for p in ps if p.grad is None", "[p for p in ps if p.grad is None]"),
        ("for p in ps if p.grad is not None and p.x", "[p for p in ps if p.x]"),
        ("for p in ps if p.x and p.grad is not None", "[p for p in ps if p.x]"),
        ("for p in ps if p.grad  is not None if p. grad is not None", "ps"),
        ("for p in ps if p.grad is not None or p.x", "[p for p in ps if (p.grad is not None or p.x)]"),
        ("for p in ps if p.x and p.y", "[p for p in ps if p.x if p.y]"),
        ("for p in ps if p.x or p.y", "[p for p in ps if (p.x or p.y)]"),
        ("for p in ps if (p.x or p.y)", "[p for p in ps if (p.x or p.y)]"),
        ("for p in ps if not (p.x and p.y)", "[p for p in ps if not (p.x and p.y)]"),
        ("for p in ps if not (p.x or p.y)", "[p for p in ps if not p.x if not p.y]"),
        ("for p in ps if not not p.x", "[p for p in ps if p.x]"),
        ("for p in ps if not p.x in xs", "[p for p in ps if p.x not in xs]"),
        ("for p in ps if not p.x not in xs", "[p for p in ps if p.x in xs]"),
        ("for p in ps if not p.x is y", "[p for p in ps if p.x is not y]"),
        ("for p in ps if not p.x is not y", "[p for p in ps if p.x is y]"),
        ("for p in ps if not p.x > 1", "[p for p in ps if not (p.x > 1)]"),
        ("for g in gs for p in g", "[p for g in gs for p in g]"),
        ("for n, p in model.named_parameters()", "model.parameters()"),
        ("for n, p in model.named_parameters() if n", "[p for n, p in model.named_parameters() if n]"),
        ("for n, p in model.named_parameters(x)", "[p for n, p in model.named_parameters(x)]"),
        ("for n, p in named", "[p for n, p in named]"),
        ("for p, n in model.named_parameters()", "[p for p, n in model.named_parameters()]"),
    ],
)
def test_the_parameters_of_a_norm_as_code(clauses: str, written: str) -> None:
    source, found = spelled(f"sum([p.grad.norm() ** 2 {clauses}])")
    assert not isinstance(found, Refused)
    assert parameters_code(source, found) == written  # type: ignore[arg-type]
    assert parameters_of(source, found) == ("".join(written.split()),)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("program", "spelling"),
    [
        ("sum(g.norm() ** 2 for g in [p.grad for p in ps])", ("ps",)),
        ("sum(g.norm() ** 2 for g in (p.grad for p in  ps))", ("ps",)),
        ("sum(g.norm() ** 2 for g in grads)", ()),
        ("sum(p.grad.norm() ** 2 for p in ps if (y := p.x))", ()),
    ],
)
def test_the_parameters_that_gradients_belong_to(program: str, spelling: tuple[str, ...]) -> None:
    source, node = asked(program)
    found = total(source, node)
    assert found is not None and parameters_of(source, found.series) == spelling


@pytest.mark.parametrize(
    ("target", "clauses", "pieces"),
    [
        ("torch", "for p in ps", ("p.grad", "for p in ps", "if p.grad is not None")),
        ("clipcheck", "for p in ps", ("p.grad", "for p in ps")),
        ("torch", "for p in ps if p.grad is not None", ("p.grad", "for p in ps", "if p.grad is not None")),
    ],
)
def test_the_gradients_of_a_norm_as_code(target: str, clauses: str, pieces: tuple[str, ...]) -> None:
    source = Source(f"{HEADER}sum([p.grad.norm() ** 2 {clauses}])\n", target=target)  # type: ignore[arg-type]
    *_, last = source.nodes(cst.Expr)
    found = total(source, last.value)
    assert found is not None
    assert gradients_pieces(source, found.series) == pieces


# --- clips by hand ----------------------------------------------------------------------------------------------------


def bounds(program: str) -> list[str]:
    return [clip.ratio.bound for clip in manual_clips(Source(HEADER + program))]


@pytest.mark.parametrize(
    "statement",
    [
        "p.grad.mul_(max_norm / total_norm, 2)",
        "p.grad.mul_(max_norm - total_norm)",
        "p.grad.mul_(max_norm / (total_norm - 1))",
        "p.grad.mul_(max_norm / (x + y))",
        "p.grad.mul_(max_norm / min(total_norm, max_norm))",
        "p.grad.mul_((max_norm / total_norm).exp())",
        "p.grad.mul_(abs(max_norm / total_norm))",
        "p.grad.mul_(total_norm / weights_norm)",
        "p.grad.div_(max_norm / total_norm)",
        "p.grad.div_(total_norm)",
        "p.grad /= min(1.0, total_norm / max_norm)",
        "p.grad += max_norm / total_norm",
        "p.grad.copy_(p.grad)",
        "p.grad.copy_(p.grad + max_norm / total_norm)",
        "p.grad = p.grad",
        "p.grad = (max_norm / total_norm) / p.grad",
        "p.grad[1:] *= max_norm / total_norm",
        "p.grad[:1] *= max_norm / total_norm",
        "p.grad.data[0].mul_(max_norm / total_norm)",
        "q = p.grad * (max_norm / total_norm)",
        "coef = 2.0\np.grad.mul_(coef)",
        "for coef in xs:\n    p.grad.mul_(coef)",
    ],
)
def test_no_clip_by_hand(statement: str) -> None:
    indented = "".join(f"    {line}\n" for line in statement.splitlines())
    assert bounds(f"for p in ps:\n{indented}") == []


@pytest.mark.parametrize(
    ("by", "bound"),
    [
        ("max_norm / total_norm", ""),
        ("limit / (total_norm + 1e-6)", ""),
        ("max_norm / np.maximum(max_norm, total_norm)", "clamp"),
        ("max_norm / max(total_norm + 1e-6, max_norm)", "clamp"),
        *((f"(max_norm / total_norm).{method}(1.0)", "clamp") for method in ("clamp", "clamp_", "clamp_max", "clip", "minimum", "min")),
        *((f"(max_norm / total_norm).{method}()", "") for method in ("item", "to", "float", "detach", "cpu", "cuda", "clone")),
        *((f"torch.{function}(max_norm / total_norm, max=1.0)", "clamp") for function in ("clamp", "minimum", "fmin", "clip", "where")),
        ("torch.tensor(max_norm / total_norm)", ""),
        ("float(max_norm / total_norm)", ""),
        ("torch.as_tensor(max_norm / total_norm)", ""),
        ("max_norm / total_norm if x else 1.0", "test"),
        ("1.0 if x else max_norm / total_norm", "test"),
        ("max_norm / self.total_norm", ""),
        ("max_norm / total_norm.item()", ""),
        ("max_norm / total_norm.to(x)", ""),
        ("max_norm / total_norm.float()", ""),
        ("clip_norm / norm", ""),
        ("max_norm / grad_norms", ""),
    ],
)  # fmt: skip
def test_the_coefficient_of_a_clip_by_hand(by: str, bound: str) -> None:
    assert bounds(f"for p in ps:\n    p.grad.mul_({by})\n") == [bound]


@pytest.mark.parametrize(
    ("program", "bound"),
    [
        ("if total_norm > max_norm:\n    for p in ps:\n        p.grad *= max_norm / total_norm", "test"),
        ("coef = max_norm / total_norm\nif coef < 1:\n    for p in ps:\n        p.grad *= coef", "test"),
        ("if x:\n    for p in ps:\n        p.grad *= max_norm / total_norm", ""),
        ("if other > 1:\n    for p in ps:\n        p.grad *= max_norm / total_norm", ""),
        ("for p in ps:\n    if total_norm <= max_norm: continue\n    p.grad *= max_norm / total_norm", "test"),
        ("for p in ps:\n    if total_norm <= max_norm:\n        continue\n    p.grad *= max_norm / total_norm", "test"),
        ("for p in ps:\n    if total_norm <= max_norm:\n        print(p)\n    p.grad *= max_norm / total_norm", ""),
        ("for p in ps:\n    if total_norm <= max_norm: print(p); continue\n    p.grad *= max_norm / total_norm", "test"),
        ("for p in ps:\n    if total_norm <= max_norm: print(p)\n    p.grad *= max_norm / total_norm", ""),
        ("def f():\n    if total_norm <= max_norm: return\n    for p in ps:\n        p.grad *= max_norm / total_norm", "test"),
        ("def f():\n    with lock:\n        return\n    for p in ps:\n        p.grad *= max_norm / total_norm", ""),
        ("def f():\n    while total_norm <= max_norm:\n        continue\n    for p in ps:\n        p.grad *= max_norm / total_norm", ""),
        ("def f():\n    if x:\n        return\n    for p in ps:\n        p.grad *= max_norm / total_norm", ""),
        ("def f():\n    if total_norm <= max_norm:\n        def g():\n            for p in ps:\n                p.grad *= max_norm / total_norm", ""),
        ("coef = 1\nif x:\n    coef = max_norm / total_norm\nfor p in ps:\n    p.grad *= coef", "clamp"),
        ("coef = 2.0\nif x:\n    coef = max_norm / total_norm\nfor p in ps:\n    p.grad *= coef", None),
    ],
)  # fmt: skip
def test_the_tests_around_a_clip_by_hand(program: str, bound: str | None) -> None:
    assert bounds(program) == ([] if bound is None else [bound])


@pytest.mark.parametrize(
    ("program", "expected"),
    [
        ("x", False),
        ("total_norm", True),
        ("max_norm", False),
        ("weight_norm", False),
        ("param_norm", False),
        ("layer_norm", False),
        ("norm_type", False),
        ("normal", False),
        ("normalize", False),
        ("normalized", False),
        ("self.total_norm", True),
        ("self.other", False),
        ("total_norm.item()", True),
        ("total_norm.to(x)", True),
        ("total_norm.exp()", False),
        (f"sum({NORMS})", True),
        (f"n = sum({NORMS})\nn", True),
        (f"n = 2 * sum({NORMS})\nn", False),
        ("t = 0\nfor p in ps:\n    t += p.grad.norm() ** 2\nt", True),
        ("t = []\nfor p in ps:\n    t.append(p.grad.norm() ** 2)\nt", False),
        ("t = 0\nfor p in ps:\n    t += p.grad.norm() ** 2\nn = t ** 0.5\nn", True),
        ("t = 0\nfor p in ps:\n    t += p.grad.norm() ** 2\nn = t ** 2\nn", False),
        ("t = 0\nfor p in ps:\n    t += p.grad.norm() ** 2\nn = u ** 0.5\nn", False),
    ],
)
def test_what_is_the_norm_of_gradients(program: str, expected: bool) -> None:
    assert is_norm(*asked(program)) is expected


@pytest.mark.parametrize(
    ("loops", "pieces"),
    [
        ("for grad in grads", ("grads",)),
        ("for grad in grads for _ in range(2)", ("grad", "for grad in grads", "for _ in range(2)")),  # each one twice
    ],
)
def test_the_gradients_that_a_sum_goes_through(loops: str, pieces: tuple[str, ...]) -> None:
    source, node = asked(f"sum(grad.norm() ** 2 {loops})")
    found = total(source, node)
    assert found is not None and gradients_pieces(source, found.series) == pieces


@pytest.mark.parametrize(
    "coefficient",
    ["a = b", "a = a if x else 2.0", "a = 2.0 if x else a", "a = min(a, 1.0)", "a = float(a)", "a = a.clamp(max=1.0)"],
)
def test_a_coefficient_that_is_computed_from_itself(coefficient: str) -> None:
    source = Source(f"{HEADER}for x in xs:\n    {coefficient}\n    b = a\n    for p in ps:\n        p.grad.mul_(a)\n")
    assert manual_clips(source) == ()
