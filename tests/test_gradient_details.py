"""What is known of a gradient and of a power of its norm: how it was made, and whether every way leads to it. Silent cases first.

Each program ends in the expression that is asked about, on a line of its own.
"""

from __future__ import annotations

import libcst as cst
import pytest

from clipcheck.gradients.gradient import Gradient, gradient
from clipcheck.gradients.powers import Power, power
from clipcheck.python.source import Source

HEADER = "import jax\nimport math\nimport numpy as np\nimport torch\n"
INFINITY = float("inf")


def asked(program: str) -> tuple[Source, cst.BaseExpression]:
    source = Source(HEADER + program)
    *_, last = source.nodes(cst.Expr)
    return source, last.value


def the_gradient(program: str) -> Gradient:
    found = gradient(*asked(program))
    assert found is not None
    return found


def the_power(program: str) -> Power:
    found = power(*asked(program))
    assert found is not None
    return found


# --- gradients --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "program",
    [
        "jax.grad",
        "print.grad",
        "get(p)",
        "grad_get(p, q)",
        "p.grad.to_local(placements)",
        "def local(t):\n    return t\nlocal(p.grad)",
        "def local(t):\n    return t.to_local() if x else None\nlocal(p.grad)",
        "def local(t):\n    return other.to_local() if x else t\nlocal(p.grad)",
        "def local(t, u):\n    return t.to_local()\nlocal(p.grad)",
        "def local(t):\n    t.to_local()\nlocal(p.grad)",
        "from parallel import local\nlocal(p.grad)",
        "to_local(p.grad)",
        "p.grad.sum()",
        "q if x else p.grad",
        "p.grad if x else q",
        "p.grad if x else q.grad",
        "import grad\ngrad",
        "with made() as grad:\n    grad",
        "def grad():\n    pass\ngrad",
        "grads = compute()\ngrads",
        "grad = x + 1\ngrad",
        "grad = other\ngrad",
        "grad = np.zeros(3)\ngrad",
        "grad = tape.gradient(loss, x)\ngrad",
        "xs[0]",
        "grads = model.parameters()\ngrads[0]",
        # elements
        "for x in []:\n    x",
        "for x in (p.grad, q.data):\n    x",
        "for x in [p.data for p in ps]:\n    x",
        "for x in [p.grad] + others:\n    x",
        "for x in ([p.grad] if y else z):\n    x",
        "for grad in ([p.grad] if y else model.parameters()):\n    grad",
        "for grad in model.parameters() + model.buffers():\n    grad",
        "grads = model.parameters()\nfor x in grads:\n    x",
        "grads = np.zeros(3)\nfor x in grads:\n    x",
        "for grad in np.zeros(3):\n    grad",
        "for grad in model.state_dict():\n    grad",
        "for grad in model.buffers():\n    grad",
        "for grad in model.named_parameters():\n    grad",
        "for grad in range(3):\n    grad",
        "for x in values(grads):\n    x",
        "for x in self.weights:\n    x",
        "for x in mapped(grads):\n    x",
        "for grad in torch.autograd.grad(y, x, torch.randn(3)):\n    grad",
        "v = torch.rand(3)\nfor grad in torch.autograd.grad(y, x, grad_outputs=v):\n    grad",
        "for grad in torch.autograd.grad(y, x, torch.ones(3) + torch.normal(m, s)):\n    grad",
        "for grad in torch.autograd.grad(y, x, 2 * torch.bernoulli(p) - 1):\n    grad",
        # parts of elements
        "for x, grads in enumerate(grads):\n    x",
        "for x, g in grads.items():\n    x",
        "for k, x in items(grads):\n    x",
        "for a, x in zip(*rows, grads):\n    x",
        "for a, x in zip(grads):\n    x",
        "for n, grad in model.named_buffers():\n    grad",
        "for p, x in [(p.grad, p) for p in ps]:\n    x",
        "for p, x in [(p,) for p in ps]:\n    x",
        "for p, (x, y) in [(p, p.grad) for p in ps]:\n    x",
        "pairs = [(p, p.grad) for p in ps]\nif y:\n    pairs = other()\nfor p, x in pairs:\n    x",
    ],
)
def test_no_gradient(program: str) -> None:
    assert gradient(*asked(program)) is None


@pytest.mark.parametrize(
    "program",
    [
        "deepspeed.utils.safe_get_full_grad(p)",
        "p.grad._local_tensor",
        "def f(grads):\n    grads",
        "grad = store[0]\ngrad",
        "grad = state.value\ngrad",
        "a, grad = f()\ngrad",
        "for x in {p.grad for p in ps}:\n    x",
        "for x in {k: p.grad for k in ks}.values():\n    x",
        "for x in (p.grad, q.grad):\n    x",
        "for x in grads[1:]:\n    x",
        "for x in self.grads:\n    x",
        "for x in collect_grads():\n    x",
        "for x in self.collect_grads():\n    x",
        "for grad in other:\n    grad",
        "for grad in ([p.grad] if y else z):\n    grad",
        "xs = [p.grad for p in ps]\nif y:\n    xs = z\nfor x in xs:\n    x",
        *(f"for x in {call}(grads):\n    x" for call in ("list", "tuple", "set", "reversed", "iter", "sorted")),
        "for x in filter(None, grads):\n    x",
        "for x in itertools.chain(grads):\n    x",
        "for x in torch.autograd.grad(y, x, torch.ones(3)):\n    x",
        "for x in torch.autograd.grad(y, x, grad_outputs=v):\n    x",
        "for i, x in enumerate(grads, start=1):\n    x",
        *(f"for p, x in {call}(zip(ps, grads)):\n    x" for call in ("list", "tuple", "sorted", "reversed", "tqdm")),
        "for p, x in tqdm.tqdm(zip(ps, grads)):\n    x",
        "for p, x in ((p, p.grad) for p in ps):\n    x",
    ],
)
def test_a_gradient(program: str) -> None:
    assert the_gradient(program).certain


@pytest.mark.parametrize(
    ("program", "certain"),
    [
        ("p.grad if x else p.grad", True),
        ("p.grad.float() if x else p.grad", False),
        ("p.grad if x else p.grad.float()", False),
        ("p.grad.cpu() if x else p.grad", False),
        ("p.grad.to_local() if x else p.grad", False),
        ("g = p.data\nif y:\n    g = p.grad\ng if x else p.grad", False),
        ("g = p.data\nif y:\n    g = p.grad\np.grad if x else g", False),
        ("g = p.data\nif y:\n    g = p.grad\nh = g\nh", False),
        ("g = p.grad\nfor g in xs:\n    pass\ng", False),
        ("g = 0\nif y:\n    g = p.grad\ng", True),
        ("g = 1\nif y:\n    g = p.grad\ng", False),
    ],
)
def test_whether_every_way_leads_to_the_same_gradient(program: str, certain: bool) -> None:
    assert the_gradient(program).certain is certain


@pytest.mark.parametrize(
    ("program", "host"),
    [
        ("p.grad", ""),
        ("p.grad.cuda()", ""),
        ("p.grad.to('cuda')", ""),
        ("p.grad.to(torch.device('cuda'))", ""),
        ("p.grad.to(other('cpu'))", ""),
        ("p.grad.type('cpu')", ""),
        ("p.grad.cpu()", ".cpu()"),
        ("p.grad.numpy()", ".numpy()"),
        ("p.grad.to('cpu')", ".to()"),
        ("p.grad.to(torch.float32, device='cpu')", ".to()"),
        ("p.grad.to(torch.device('cpu'))", ".to()"),
        ("p.grad.cpu() if x else p.grad", ".cpu()"),
        ("p.grad if x else p.grad.cpu()", ".cpu()"),
        ("for g in [p.grad.cpu() for p in ps]:\n    g", ".cpu()"),
        ("gs = [p.grad.cpu() for p in ps]\nfor g in gs:\n    g", ".cpu()"),
        ("for i, g in enumerate([p.grad.cpu() for p in ps]):\n    g", ""),
    ],
)
def test_the_call_that_copies_a_gradient_to_the_host(program: str, host: str) -> None:
    assert the_gradient(program).host == host


@pytest.mark.parametrize(
    ("program", "local"),
    [
        ("p.grad", False),
        ("p.grad.to_local()", True),
        ("p.grad._local_tensor", True),
        ("p.grad.to_local().float()", True),
        ("p.grad.to_local() if x else p.grad", True),
        ("p.grad if x else p.grad.to_local()", True),
        ("g = p.grad\nif x:\n    g = p.grad.to_local()\ng", True),
        ("for g in [p.grad.to_local() for p in ps]:\n    g", True),
        ("for g in [p.grad for p in ps]:\n    g", False),
        # a list that a loop fills
        ("grads = []\nfor p in ps:\n    grads.append(p.grad.to_local())\nfor g in grads:\n    g", True),
        ("grads = []\nfor p in ps:\n    grads.append(p.grad)\nfor g in grads:\n    g", False),
        (
            "grads = []\nfor p in ps:\n    grads.append(p.grad.to_local())\ngrads.append(other)\nfor g in grads:\n    g",
            False,
        ),
        ("grads = []\nfor g in grads:\n    g", False),
        ("def local_grads():\n    for p in ps:\n        yield p.grad.to_local()\nfor g in local_grads():\n    g", True),
        ("def grads():\n    return [p.grad.to_local() for p in ps]\nfor g in grads():\n    g", True),
        ("def grads():\n    return [p.grad for p in ps]\nfor g in grads():\n    g", False),
        ("def grads():\n    pass\nfor g in grads():\n    g", False),
        (
            "def grads():\n    def each():\n        yield p.grad.to_local()\n    return each()\nfor g in grads():\n    g",
            True,
        ),
        (
            "def grads():\n    if x:\n        return other\n    return [p.grad.to_local() for p in ps]\nfor g in grads():\n    g",
            False,
        ),
        ("def local(t):\n    return t.to_local() if x else t\nlocal(p.grad)", True),
        ("def local(t):\n    if x:\n        return t._local_tensor\n    return t\nlocal(p.grad)", True),
        ("local = lambda t: t.to_local()\nlocal(p.grad)", True),
        ("from parallel import to_local\nto_local(p.grad)", True),
        ("from parallel import _to_local_if_dtensor\n_to_local_if_dtensor(p.grad)", True),
    ],
)
def test_the_shard_of_one_process(program: str, local: bool) -> None:
    assert the_gradient(program).local is local


@pytest.mark.parametrize(
    ("program", "casts"),
    [
        ("p.grad.detach()", ""),
        ("p.grad.type(torch.half)", ".type(torch.half)"),
        ("p.grad.to(torch.half, non_blocking=True)", ".to(torch.half, non_blocking=True)"),
        ("p.grad.to(torch.half, ).double()", ".to(torch.half).double()"),
        ("p.grad.bfloat16()", ".bfloat16()"),
    ],
)
def test_changes_of_dtype(program: str, casts: str) -> None:
    assert the_gradient(program).casts == casts


@pytest.mark.parametrize(
    ("program", "flat"),
    [
        ("p.grad", False),
        ("p.grad.view(-1, 1)", False),
        ("p.grad.view(x)", False),
        ("p.grad.squeeze(-1)", False),
        ("p.grad.ravel()", True),
        ("p.grad.view(-1).float()", True),
    ],
)
def test_changes_of_shape(program: str, flat: bool) -> None:
    assert the_gradient(program).flat is flat


def test_the_tests_that_a_gradient_is_taken_under() -> None:
    source, node = asked("(p.grad if a else 0) if b else torch.zeros(1)")
    found = gradient(source, node)
    assert found is not None
    assert [(source.code(guard.test), guard.holds) for guard in found.guards] == [("a", True), ("b", True)]


def test_a_graph_goes_through_the_elements_of_what_was_made_with_one() -> None:
    loop = "for g in torch.autograd.grad(y, ps, create_graph={}):\n    g"
    assert the_gradient(loop.format("True")).graph
    assert not the_gradient(loop.format("False")).graph
    assert not the_gradient(loop.format("None")).graph
    assert not the_gradient(loop.replace("create_graph", "retain_graph").format("True")).graph


# --- powers -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "program",
    [
        "p.grad.norm().data[1]",
        "p.grad.norm().data[:1]",
        "p.grad.norm().other[0]",
        "torch.exp(p.grad.norm())",
        "p.grad.norm().sqrt(1)",
        "p.grad.norm().square(1)",
        "p.grad.norm().pow(2, 3)",
        "pow(p.grad.norm(), 2, 3)",
        "pow(base=p.grad.norm(), exp=2)",
        "torch.sqrt(input=p.grad.norm())",
        "torch.square(input=p.grad.norm())",
        "np.square(p.grad.norm(), q)",
        "torch.sum(p.grad ** 2, 0)",
        "torch.sum(input=p.grad ** 2)",
        "torch.max(input=p.grad.abs())",
        "torch.mean(p.grad ** 2)",
        "(p.grad ** 2).sum(0)",
        "p.grad.abs().max(0)",
        "p.grad.square().max()",
        "p.grad.abs(0).max()",
        "p.data.abs().max()",
        "torch.max(p.grad)",
        "torch.max(torch.exp(p.grad))",
        "torch.dot(p.grad, q.grad)",
        "torch.mm(p.grad, p.grad)",
        "p.grad.dot(q.grad)",
        "p.data.dot(p.data)",
        "(p.grad * q.grad).sum()",
        "(p.grad ** 2).mean().sum()",
        "(p.grad ** 2).float(1).sum()",
        "p.grad.sum()",
        "p.grad.norm().item(0)",
        "float(*norms)",
        "float(x=p.grad.norm())",
        "int(p.grad.norm())",
        "p.grad.norm() if x else y",
        "x if y else p.grad.norm()",
        "p.grad.norm() + p.grad.norm()",
    ],
)
def test_no_power(program: str) -> None:
    assert power(*asked(program)) is None


@pytest.mark.parametrize(
    ("program", "order", "exponent", "kind", "read"),
    [
        ("p.grad.norm().data", 2, 1, "tensor", ""),
        ("p.grad.norm().data[0]", 2, 1, "float", ".data[0]"),
        ("p.grad.norm().tolist()", 2, 1, "float", ".tolist()"),
        ("float(p.grad.norm())", 2, 1, "float", "float()"),
        ("p.grad.norm().cuda()", 2, 1, "tensor", ""),
        ("p.grad.norm().to('cpu')", 2, 1, "tensor", ".to()"),
        ("p.grad.norm().cpu()", 2, 1, "tensor", ".cpu()"),
        ("p.grad.cpu().norm()", 2, 1, "tensor", ".cpu()"),
        ("p.grad.norm().numpy()", 2, 1, "numpy", ".numpy()"),
        ("np.linalg.norm(p.grad)", 2, 1, "numpy", "numpy.linalg.norm()"),
        ("np.linalg.norm(p.grad.cpu())", 2, 1, "numpy", ".cpu()"),
        ("pow(p.grad.norm(), 2)", 2, 2, "tensor", ""),
        ("torch.pow(p.grad.norm(), 2)", 2, 2, "tensor", ""),
        ("torch.float_power(p.grad.norm(), 2)", 2, 2, "tensor", ""),
        ("torch.float_power(p.grad.norm(), exponent=2)", 2, 2, "tensor", ""),
        ("np.power(p.grad.norm().item(), 2)", 2, 2, "float", ".item()"),
        ("math.pow(p.grad.norm(), 2)", 2, 2, "float", "math.pow()"),
        ("math.sqrt(p.grad.norm())", 2, 0.5, "float", "math.sqrt()"),
        ("math.sqrt(p.grad.norm().item())", 2, 0.5, "float", ".item()"),
        ("torch.sqrt(p.grad.norm())", 2, 0.5, "tensor", ""),
        ("np.sqrt(float(p.grad.norm()))", 2, 0.5, "numpy", "float()"),
        ("torch.square(p.grad.norm())", 2, 2, "tensor", ""),
        ("np.square(p.grad.norm().item())", 2, 2, "float", ".item()"),
        ("p.grad.norm().square()", 2, 2, "tensor", ""),
        ("p.grad.norm().sqrt_()", 2, 0.5, "tensor", ""),
        ("p.grad.norm().pow_(3)", 2, 3, "tensor", ""),
        ("p.grad.norm(3) ** 3 * p.grad.norm(3) ** 3", 3, 6, "tensor", ""),
        ("torch.sum(p.grad ** 2)", 2, 2, "tensor", ""),
        ("np.sum(p.grad.numpy() ** 2)", 2, 2, "numpy", ".numpy()"),
        ("(p.grad.cpu() ** 2).sum()", 2, 2, "tensor", ".cpu()"),
        ("(p.grad ** 2).float().sum()", 2, 2, "tensor", ""),
        ("(p.grad ** 2).flatten().sum()", 2, 2, "tensor", ""),
        ("(p.grad.abs().float() ** 3).sum()", 3, 3, "tensor", ""),
        ("torch.sum(torch.square(p.grad))", 2, 2, "tensor", ""),
        ("torch.dot(p.grad, p.grad)", 2, 2, "tensor", ""),
        ("torch.vdot(p.grad, p.grad)", 2, 2, "tensor", ""),
        ("p.grad.vdot(p.grad)", 2, 2, "tensor", ""),
        *(
            (f"{largest}(p.grad.abs())", INFINITY, 1, "tensor", "")
            for largest in ("torch.max", "torch.amax", "np.max", "np.amax")
        ),
        *(
            (f"torch.max({absolute}(p.grad))", INFINITY, 1, "tensor", "")
            for absolute in ("torch.abs", "np.abs", "np.absolute", "np.fabs", "abs")
        ),
        ("p.grad.abs().amax()", INFINITY, 1, "tensor", ""),
    ],
)
def test_a_power(program: str, order: float, exponent: float, kind: str, read: str) -> None:
    found = the_power(program)
    assert (found.order.value, found.exponent.value, found.kind, found.read) == (order, exponent, kind, read)
    assert found.synced is (read != "")


@pytest.mark.parametrize(
    ("other", "certain"),
    [
        ("p.grad.norm()", True),
        ("0.0", True),
        ("torch.zeros(1)", True),
        ("1.0", False),
        ("other(p)", False),
        ("q.grad.norm()", False),
        ("p.grad.float().norm()", False),
        ("p.grad.norm(1)", False),
        ("p.grad.norm() ** 2", False),
        ("p.grad.norm().float()", True),
    ],
)
def test_whether_a_name_is_always_the_same_power(other: str, certain: bool) -> None:
    for one, two in (("p.grad.norm()", other), (other, "p.grad.norm()")):
        assert the_power(f"n = {one}\nif x:\n    n = {two}\nn").gradient.certain is certain


def test_a_power_of_what_may_be_no_gradient_is_not_certain() -> None:
    assert not the_power("g = p.data\nif x:\n    g = p.grad\nn = g.norm()\nn").gradient.certain


@pytest.mark.parametrize(
    ("program", "holds"), [("p.grad.norm() if a else 0", True), ("0 if a else p.grad.norm()", False)]
)
def test_the_test_that_a_power_is_taken_under(program: str, holds: bool) -> None:
    source, node = asked(program)
    found = power(source, node)
    assert found is not None
    assert [(source.code(guard.test), guard.holds) for guard in found.gradient.guards] == [("a", holds)]
