"""Norms that the host reads one tensor at a time, by any call, through any number of names; and look-alikes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from clipcheck.engine.file import check_file
from clipcheck.rule import Finding
from clipcheck.settings.keys import Settings

HEAD = "import functools\nimport operator\nimport numpy as np\nimport torch\nfrom functools import reduce\n\n"
SETTINGS = Settings(codes=frozenset({"CLIP001", "CLIP005", "CLIP008", "CLIP010"}))


def found(text: str, head: str = HEAD) -> list[Finding]:
    """What the rules about norms find; the prefilter must not lose any of it."""
    data = (head + text).encode()
    report, whole = (check_file("a.py", data, one) for one in (SETTINGS, replace(SETTINGS, prefilter=False)))
    assert report.errors == ()
    assert report.findings == whole.findings
    return list(report.findings)


def lines(text: str, code: str = "CLIP001", head: str = HEAD) -> list[int]:
    """The lines of `text` on which a rule finds something."""
    above = head.count("\n")
    return [finding.place.line - above for finding in found(text, head) if finding.code == code]


def loop(statement: str, start: str = "0.0", end: str = "total ** 0.5") -> str:
    return f"def f(ps):\n    total = {start}\n    for p in ps:\n        {statement}\n    return {end}\n"


# --- each tensor is read by itself ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("statement", "read"),
    [
        ("total += p.grad.norm(2).cpu() ** 2", ".cpu()"),
        ('total += p.grad.norm(2).to("cpu") ** 2', ".to()"),
        ('total += p.grad.norm(2).to(torch.device("cpu")) ** 2', ".to()"),
        ("total += p.grad.cpu().norm(2) ** 2", ".cpu()"),
        ("total += np.linalg.norm(p.grad.cpu().numpy()) ** 2", ".numpy()"),
        ("total += np.sum(np.square(p.grad.detach().cpu().numpy()))", ".numpy()"),
        ("total += (p.grad.cpu().numpy() ** 2).sum()", ".numpy()"),
        ("total += p.grad.norm(2).data[0] ** 2", ".data[0]"),
        ("total += p.grad.data.pow(2).sum().tolist()", ".tolist()"),
        ("total = max(total, p.grad.abs().max().item())", ".item()"),
        ("total = max(float(p.grad.abs().amax()), total)", "float()"),
        ("total = max(total, p.grad.norm(float('inf')).item())", ".item()"),
        ("total = np.maximum(total, np.max(np.abs(p.grad.cpu().numpy())))", ".numpy()"),
    ],
)
def test_a_sum_of_values_that_are_read_one_by_one(statement: str, read: str) -> None:
    (finding,) = (one for one in found(loop(statement)) if one.code == "CLIP001")
    assert finding.place.line == HEAD.count("\n") + 4
    assert finding.message.startswith(f"`{read}` synchronizes once per parameter")


def test_a_maximum_in_a_separate_if() -> None:
    text = """\
def f(ps):
    largest = 0.0
    for p in ps:
        value = p.grad.abs().max().item()
        if value > largest:
            largest = value
    return largest
"""
    assert lines(text) == [6]


def test_a_square_on_a_separate_line() -> None:
    text = """\
def f(ps):
    total = 0.0
    for p in ps:
        square = p.grad.square().sum()
        total += square.item()
    return total
"""
    assert lines(text) == [5]


@pytest.mark.parametrize(
    "expression",
    [
        "torch.tensor([p.grad.norm() ** 2 for p in ps]).sum().sqrt()",
        "torch.tensor([p.grad.norm().item() for p in ps]).norm()",
        "torch.FloatTensor([p.grad.norm().item() ** 2 for p in ps]).sum() ** 0.5",
        "torch.norm(torch.as_tensor([p.grad.norm() for p in ps]))",
        "np.linalg.norm([p.grad.norm(2).item() for p in ps])",
        "np.linalg.norm(np.array([p.grad.norm(2).item() for p in ps]))",
        "np.sqrt(np.sum(np.square([p.grad.norm(2).item() for p in ps])))",
        "np.sqrt((np.array([p.grad.norm(2).item() for p in ps]) ** 2).sum())",
        "np.sqrt(sum(np.sum(p.grad.cpu().numpy() ** 2) for p in ps))",
        "functools.reduce(lambda s, p: s + p.grad.norm().item() ** 2, ps, 0.0) ** 0.5",
        "reduce(lambda s, p: p.grad.norm().item() ** 2 + s, ps, 0) ** 0.5",
        "reduce(lambda s, p: s if p.grad is None else s + p.grad.norm().item() ** 2, ps, 0.0) ** 0.5",
        "reduce(operator.add, [p.grad.norm().item() ** 2 for p in ps]) ** 0.5",
        "reduce(lambda m, p: max(m, p.grad.abs().max().item()), ps, 0.0)",
        "sum(map(lambda p: p.grad.norm().item() ** 2, ps)) ** 0.5",
        "sum(map(lambda g: torch.sum(g * g).item(), [p.grad for p in ps])) ** 0.5",
        "sum(v ** 2 for v in {n: p.grad.norm().item() for n, p in net.named_parameters()}.values()) ** 0.5",
        "max(p.grad.abs().max().item() for p in ps)",
        "max([p.grad.detach().abs().max().item() for p in ps if p.grad is not None], default=0.0)",
        "np.max([p.grad.abs().max().cpu() for p in ps])",
        "sum(n ** 2 for n in [p.grad.norm().item() for p in ps]) ** 0.5",
        "np.linalg.norm(np.concatenate([p.grad.cpu().numpy().flatten() for p in ps]))",
        "np.linalg.norm(np.hstack([p.grad.cpu().numpy().ravel() for p in ps]))",
        "torch.cat([p.grad.cpu().view(-1) for p in ps]).norm()",
    ],
)
def test_an_expression_that_reads_each_tensor(expression: str) -> None:
    assert lines(f"def f(ps):\n    return {expression}\n") == [2]


@pytest.mark.parametrize(
    "use",
    [
        "np.linalg.norm(flat)",
        "np.sqrt(np.sum(flat ** 2))",
        "np.sqrt((flat ** 2).sum())",
        "np.sqrt(np.dot(flat, flat))",
        "flat.dot(flat) ** 0.5",
        "np.sqrt(np.mean(np.square(flat)))",
    ],
)
def test_a_vector_of_all_gradients_on_the_host_used_only_for_a_norm(use: str) -> None:
    text = f"def f(ps):\n    flat = np.concatenate([p.grad.cpu().numpy().ravel() for p in ps])\n    return {use}\n"
    assert lines(text) == [2]


@pytest.mark.parametrize(
    "use",
    [
        "np.sum(np.array(norms) ** 2) ** 0.5",
        "np.sqrt(np.sum(np.power(norms, 2)))",
        "sum([n ** 2 for n in norms]) ** 0.5",
        "sum(n * n for n in norms) ** 0.5",
        "np.linalg.norm(norms)",
        "torch.tensor(norms).norm()",
    ],
)
def test_a_list_of_norms_that_is_squared_and_summed_later(use: str) -> None:
    text = (
        f"def f(ps):\n    norms = []\n    for p in ps:\n        norms.append(p.grad.norm().item())\n    return {use}\n"
    )
    assert lines(text) == [4]


def test_a_reduction_by_a_separate_function() -> None:
    text = """\
def add(total, p):
    if p.grad is None:
        return total
    return total + p.grad.norm().item() ** 2


def f(ps):
    return reduce(add, ps, 0.0) ** 0.5
"""
    (finding,) = (one for one in found(text) if one.code == "CLIP001")
    assert finding.fix is None


@pytest.mark.parametrize("square", ["p.grad.pow(2).sum()", "(p.grad ** 2).sum()", "p.grad.norm() ** 2"])
def test_a_module_that_does_not_import_torch(square: str) -> None:
    assert lines(
        loop(f"total += {square}.item()" if "**" not in square else f"total += ({square}).item()"), head=""
    ) == [4]


# --- what only looks like it ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "statement",
    [
        "total = max(total, p.grad.norm().item())",  # the largest of the norms
        "total = max(total, p.grad.max().item())",  # no absolute value
        "total = min(total, p.grad.abs().max().item())",
        "total = max(total, p.abs().max().item())",  # weights
        "total += np.sum(np.square(p.detach().cpu().numpy()))",
        "total += np.mean(np.square(p.grad.cpu().numpy()))",
        "total += p.grad.norm(2).data[1] ** 2",
    ],
)
def test_statements_that_do_not_sum_a_norm(statement: str) -> None:
    assert lines(loop(statement)) == []


@pytest.mark.parametrize(
    "expression",
    [
        "reduce(lambda s, p: s + p.grad.norm().item() ** 2, ps, start) ** 0.5",
        "reduce(lambda s, p: s - p.grad.norm().item() ** 2, ps, 0.0) ** 0.5",
        "reduce(lambda s, p: s + s * p.grad.norm().item() ** 2, ps, 0.0) ** 0.5",
        "reduce(lambda s, p: s + p.norm().item() ** 2, ps, 0.0) ** 0.5",
        "reduce(operator.mul, [p.grad.norm().item() ** 2 for p in ps])",
        "max(p.grad.norm().item() for p in ps)",
        "sum(map(lambda p: p.norm().item() ** 2, ps)) ** 0.5",
        "sum(map(lambda w: torch.sum(w * w).item(), [p for p in ps])) ** 0.5",
        "sum(each(lambda g: torch.sum(g * g).item(), [p.grad for p in ps])) ** 0.5",
        "sum(v ** 2 for v in {n: p.norm().item() for n, p in net.named_parameters()}.values()) ** 0.5",
        "sum(v for v in {n: p.grad.norm().item() for n, p in net.named_parameters()}.values())",
        "sum(v ** 2 for v in {n: other.grad.norm().item() for n, p in net.named_parameters()}.values()) ** 0.5",
        "np.concatenate([p.grad.cpu().numpy().ravel() for p in ps])",
        "np.linalg.norm(np.concatenate([p.detach().cpu().numpy().ravel() for p in ps]))",
        "np.mean([p.grad.norm().item() for p in ps])",
        "torch.tensor([p.grad.norm().item() for p in ps])",
    ],
)
def test_expressions_that_are_not_the_norm_of_all_gradients(expression: str) -> None:
    assert lines(f"def f(ps, start):\n    return {expression}\n") == []


FILLED = "def f(net, ps):\n    own = {}\n    for n, p in net.named_parameters():\n        own{} {}\n    return {}\n"


@pytest.mark.parametrize(
    ("stores", "use", "expected"),
    [
        (("{}", "[n] =", "p.grad.norm().item()"), "sum(v ** 2 for v in own.values()) ** 0.5", [5]),
        (("{}", "[n] =", "p.grad.norm().item()"), "own", []),
        (("{}", "[n] =", "own.get(n, 0.0) + p.grad.norm().item() ** 2"), "own", [4]),
        (("{}", "[n] =", "p.grad.norm().item() ** 2 + own.get(n, 0)"), "own", [4]),
        (("{}", "[n] =", "own.get(n, 1.0) + p.grad.norm().item() ** 2"), "own", []),
        (("{}", "[n] =", "own.get(p, 0.0) + p.grad.norm().item() ** 2"), "own", []),
        (("{}", "[n] =", "net.get(n, 0.0) + p.grad.norm().item() ** 2"), "own", []),
        (("dict()", "[n] =", "p.grad.norm().item()"), "np.sqrt(sum([v ** 2 for v in own.values()]))", [5]),
        (("{}", "[n] =", "p.norm().item()"), "sum(v ** 2 for v in own.values()) ** 0.5", []),
        (("{}", "[n] =", "p.grad.norm().item()"), "sum(own.values())", []),
        (("{1: 2}", "[n] =", "p.grad.norm().item()"), "sum(v ** 2 for v in own.values()) ** 0.5", []),
        (("{}", "[n] =", "p.grad.norm().item(); own[1] = 2"), "sum(v ** 2 for v in own.values()) ** 0.5", []),
        (("[]", ".append(", "p.grad.cpu().numpy().ravel())"), "np.linalg.norm(np.hstack(own))", [5]),
        (("list()", ".append(", "p.grad.cpu().view(-1))"), "torch.cat(own).norm()", [5]),
        (("[]", ".append(", "p.cpu().numpy().ravel())"), "np.linalg.norm(np.hstack(own))", []),
        (("[]", ".append(", "p.grad.cpu().view(-1))"), "torch.cat(own)", []),
        (("[]", ".append(", "p.grad.cpu().view(-1)); own.append(p)"), "torch.cat(own).norm()", []),
        (("[]", ".append(", "p.grad.cpu().view(-1))"), "torch.cat(own).norm(), own", []),
        (("[x]", ".append(", "p.grad.cpu().view(-1))"), "torch.cat(own).norm()", []),
    ],
)
def test_a_table_of_norms_or_a_list_of_gradients_that_a_loop_fills(
    stores: tuple[str, str, str], use: str, expected: list[int]
) -> None:
    empty, place, value = stores
    text = FILLED.replace("own = {}", f"own = {empty}", 1).replace("own{} {}", f"own{place} {value}")
    assert lines(text.replace("return {}", f"return {use}")) == expected


def test_a_norm_that_is_stored_with_its_parts() -> None:
    text = FILLED.replace("own{} {}", "own[n] = p.grad.norm().item()").replace(
        "return {}", "own['all'] = {}\n    return own"
    )
    assert lines(text.replace("= {}\n    return", "= sum(v ** 2 for v in own.values()) ** 0.5\n    return")) == [5]


def test_a_list_of_gradients_that_is_filled_once() -> None:
    text = "def f(w):\n    own = []\n    own.append(w.grad.cpu().view(-1))\n    return torch.cat(own).norm()\n"
    assert lines(text) == []


def test_a_vector_of_all_gradients_that_is_needed_itself() -> None:
    text = """\
def f(ps):
    flat = np.concatenate([p.grad.cpu().numpy().ravel() for p in ps])
    print(np.linalg.norm(flat))
    return flat
"""
    assert lines(text) == []


@pytest.mark.parametrize(
    "head", ["import numpy as np\n", "import jax\n", "class Tensor:\n    def __init__(self):\n        self.grad = 0\n"]
)
def test_gradients_of_another_autograd(head: str) -> None:
    assert lines(loop("total += (p.grad ** 2).sum().item()"), head=head) == []


# --- each iteration computes the gradients of the same tensors again --------------------------------------------------


@pytest.mark.parametrize("code", ["CLIP001", "CLIP005"])
@pytest.mark.parametrize(
    "text",
    [
        # Hutchinson's estimate of a Jacobian's norm
        "def f(y, x, n):\n    total = 0\n    for _ in range(n):\n        v = torch.randn_like(y)\n"
        "        g = torch.autograd.grad(y, x, v, retain_graph=True)[0]\n        total += g.norm() ** 2{READ}\n    return (total / n) ** 0.5\n",
        "def f(y, x, vs):\n    total = 0\n    for v in vs:\n        total += torch.autograd.grad(y, x, v)[0].norm() ** 2{READ}\n    return total ** 0.5\n",
        "def f(y, x, vs):\n    return sum((torch.autograd.grad(y, x, v)[0].norm() ** 2){READ} for v in vs) ** 0.5\n",
        # the gradient of one tensor, batch by batch
        "def f(net, loader):\n    total = 0\n    for x in loader:\n        net(x).backward()\n"
        "        total += (net.weight.grad.norm() ** 2){READ}\n    return total ** 0.5\n",
        # a vector times a Jacobian
        "def f(y, ps):\n    v = torch.randn_like(y)\n    gs = torch.autograd.grad(y, ps, grad_outputs=v)\n"
        "    return sum((g.norm() ** 2){READ} for g in gs) ** 0.5\n",
        # made-up numbers
        "def f(ps):\n    noise = [torch.randn_like(p) for p in ps]\n    return sum((v.norm() ** 2){READ} for v in noise) ** 0.5\n",
    ],
)  # fmt: skip
def test_norms_of_a_single_tensor(text: str, code: str) -> None:
    assert lines(text.replace("{READ}", ".item()" if code == "CLIP001" else ""), code) == []


def test_a_vector_of_ones_only_sums() -> None:
    text = """\
def f(y, ps):
    gs = torch.autograd.grad(y, ps, grad_outputs=torch.ones_like(y))
    return sum(g.norm().item() ** 2 for g in gs) ** 0.5
"""
    assert lines(text) == [3]


# --- CLIP005: sums on the device --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        "    aa = sum(torch.dot(g.flatten(), g.flatten()) for g in grads)\n    return [1 / aa * g for g in grads]\n",
        "    return sum((g * g).sum() for g in grads) / n\n",
        "    return n - sum(g.pow(2).sum() for g in grads)\n",
        "    aa = 0.0\n    for g in grads:\n        aa += (g * g).sum()\n    return n / aa\n",
        "    return sum((g * h).sum() for g, h in zip(grads, others)) ** 0.5\n",
    ],
)
def test_products_in_a_formula(body: str) -> None:
    assert lines("def f(grads, others, n):\n" + body, "CLIP005") == []


@pytest.mark.parametrize(
    "body",
    [
        "    return sum((g * g).sum() for g in grads).sqrt()\n",
        "    aa = sum(torch.dot(g.flatten(), g.flatten()) for g in grads)\n    return n / aa ** 0.5\n",
        "    aa = 0.0\n    for g in grads:\n        aa += (g * g).sum()\n    return n / aa.sqrt()\n",
        "    return sum(g.pow(2).sum() for g in grads)\n",
    ],
)
def test_products_of_which_the_root_is_taken(body: str) -> None:
    assert len(lines("def f(grads, n):\n" + body, "CLIP005")) == 1


@pytest.mark.parametrize(
    ("expression", "said"),
    [
        ("torch.stack([g.norm() for g in grads]).norm()", True),
        ("torch.stack([g.norm(dtype=torch.float32) for g in grads]).norm()", False),
        ("torch.stack([g.float().norm() for g in grads]).norm()", False),
        ("torch.norm(torch.stack([torch.norm(g) for g in grads]), dtype=torch.float32)", False),
        ("torch.linalg.vector_norm(torch.cat([g.flatten() for g in grads]), dtype=torch.float32)", False),
    ],
)
def test_a_dtype_that_the_code_asks_for(expression: str, said: bool) -> None:
    (finding,) = (one for one in found(f"def f(grads):\n    return {expression}\n") if one.code == "CLIP005")
    assert ("in the gradients' dtype" in finding.message) is said


@pytest.mark.parametrize(
    ("base", "silent"),
    [
        ("OptimizationStage", False),
        ("OptimizerMixin", False),
        ("torch.optim.Optimizer", True),
        ("timm.optim.Lookahead", True),
        ("project.optim.FusedAdam", True),
    ],
)
def test_which_classes_are_optimizers(base: str, silent: bool) -> None:
    text = f"""\
import project.optim
import timm.optim

class Own({base}):
    def size(self, ws):
        return sum(w.grad.pow(2).sum() for w in ws).sqrt()
"""
    assert (lines(text, "CLIP005") == []) is silent


# --- CLIP008: the norm by which gradients are scaled ------------------------------------------------------------------

SCALE = """\
    if norm > limit:
        for p in ps:
            p.grad.mul_(limit / norm)
"""


@pytest.mark.parametrize(
    "norm",
    [
        "    norm = torch.norm(torch.stack([p.grad.norm() for p in ps]))\n",
        "    norm = 0.0\n    for p in ps:\n        norm += p.grad.norm().item() ** 2\n    norm = norm ** 0.5\n",
        "    total = torch.zeros(1)\n    for p in ps:\n        total += (p.grad ** 2).sum()\n    norm = total.sqrt().item()\n",
        "    norm = 0.0\n    for p in ps:\n        norm += p.grad.norm().item() ** 2\n    norm **= 0.5\n",
        "    with_gradient = [p for p in ps if p.grad is not None]\n"
        "    norm = torch.norm(torch.stack([p.grad.norm() for p in with_gradient]))\n",
        "    if kind == inf:\n        norm = max(p.grad.abs().max() for p in ps)\n"
        "    else:\n        norm = torch.norm(torch.stack([p.grad.norm() for p in ps]))\n",
    ],
)
def test_the_norm_of_the_scaled_gradients(norm: str) -> None:
    (finding,) = (
        one
        for one in found(f"from torch import inf\n\ndef f(ps, limit, kind):\n{norm}{SCALE}")
        if one.code == "CLIP008"
    )
    assert "`clip_grad_norm_`" in finding.message


@pytest.mark.parametrize(
    "norm",
    [
        "",  # handed in
        "    norm = self.norm\n",
        "    norm = norm_of(ps)\n",
        "    norm = torch.norm(torch.stack([p.grad.norm() for p in others]))\n",
        "    norm = (one ** 2 + torch.norm(torch.stack([p.grad.norm() for p in ps])) ** 2) ** 0.5\n",
        "    norm = torch.norm(torch.stack([p.grad.norm() for p in ps]))\n    dist.all_reduce(norm)\n",
        "    norm = 0.0\n    for p in ps:\n        norm += p.grad.norm().item() ** 2\n    norm += one\n    norm = norm ** 0.5\n",
    ],
)
def test_a_norm_from_elsewhere(norm: str) -> None:
    text = f"import torch.distributed as dist\n\ndef f(self, ps, others, limit, one, norm):\n{norm}{SCALE}"
    (finding,) = (one for one in found(text) if one.code == "CLIP008")
    assert "`clip_grads_with_norm_`" in finding.message
    assert finding.fix is None


def test_random_gradients_in_a_benchmark_count_as_gradients() -> None:
    text = (
        "gradients = [torch.randn(9, 9) for _ in range(3)]\nfor _ in range(100):\n    total = 0.0\n"
        "    for grad in gradients:\n        total += grad.norm(2).item() ** 2\n    total = total ** 0.5\n"
    )
    assert len(lines(text, "CLIP001")) == 1


@pytest.mark.parametrize(
    ("reads", "expected"),
    [
        ("assert total > 0", []),
        ("self.assertLess(total, 1.0)\n    assert total", []),
        ("assert_close(total, 1.0)", []),
        ("assert total > 0\n    log(total)", [2]),
        ("log(total)", [2]),
        ("self.log('norm', total)", [2]),
        ("return total", [2]),
        ("is_asserted = total > 0", [2]),
        ("assert self.scale", [2]),
    ],
)
def test_a_norm_that_only_assertions_read_is_left_alone(reads: str, expected: list[int]) -> None:
    text = f"def f(self, ps):\n    total = sum(p.grad.norm().item() ** 2 for p in ps) ** 0.5\n    {reads}\n"
    assert lines(text) == expected


@pytest.mark.parametrize(
    ("name", "head", "end", "expected"),
    [
        ("test_norms", "", "assert total > 0", []),
        ("test_norms", "", "self.assertGreater(total, 0)", []),
        ("test_norms", "import pytest\n", "print(total)", []),
        ("test_norms", "from unittest import TestCase\n", "print(total)", []),
        ("test_norms", "import pytest\n", "print(total ** 0.5)", [4]),  # a norm, and no check
        ("test_norms", "", "assert total ** 0.5 < 1", [4]),
        ("test_model", "", "print(total)", [4]),  # an evaluation
        ("contest_norms", "import pytest\n", "assert total > 0", [4]),
        ("norms", "import pytest\n", "assert total > 0", [4]),  # tests and trainings may call it
    ],
)
def test_a_check_in_a_test_is_left_alone(name: str, head: str, end: str, expected: list[int]) -> None:
    text = f"def {name}(self, ps):\n    total = 0.0\n    for p in ps:\n        total += p.grad.norm().item() ** 2\n    {end}\n"
    assert lines(text, head=HEAD + head) == expected


def test_a_largest_element_in_a_test_is_left_alone() -> None:
    body = "    top = 0.0\n    for p in ps:\n        top = max(top, p.grad.abs().max().item())\n    assert top < 1\n"
    assert lines(f"def test_f(ps):\n{body}") == []
    assert lines(f"def f(ps):\n{body}") == [4]
    whole = "    norm = sum(p.grad.norm().item() ** 2 for p in ps){root}\n    print(norm)\n"
    assert lines("import pytest\ndef test_f(ps):\n" + whole.format(root="")) == []
    assert lines("import pytest\ndef test_f(ps):\n" + whole.format(root=" ** 0.5")) == [3]
