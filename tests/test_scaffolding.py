"""What belongs to a loop is rewritten with it: the zero before, the root after, names for squares, parentheses."""

from __future__ import annotations

import textwrap

import pytest

from clipcheck.engine.file import check_text
from clipcheck.rule import Finding, Safety
from clipcheck.settings.keys import Settings

HEAD = "import math\nimport numpy as np\nimport torch\nUSED = math, np, torch\n"


def check(body: str, *codes: str, fix: bool = False) -> tuple[str, tuple[Finding, ...]]:
    """A function with this body after the fixes of these rules, and the findings in it."""
    text = (
        HEAD + "def f(ps, gs, model, limit, device):\n" + textwrap.indent(textwrap.dedent(body).strip(), "    ") + "\n"
    )
    settings = Settings(codes=frozenset(codes), fix=fix, safety=Safety.UNSAFE)
    report = check_text("x.py", text, settings)
    assert report.errors == ()
    return textwrap.dedent(report.now.decode().partition(":\n")[2]).strip(), report.findings


def fixed(body: str, *codes: str) -> str:
    return check(body, *(codes or ("CLIP001", "CLIP005")), fix=True)[0]


FLOAT = "for p in ps:\n    total += p.grad.norm().item() ** 2"
TENSOR = "for p in ps:\n    total += p.grad.norm() ** 2"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        # a number
        (f"total = 0.0\n{FLOAT}\nreturn total ** 0.5", "return grad_norm(ps).item()"),
        (f"total = 0.0\n{FLOAT}\nx = total ** 0.5\nreturn x", "x = grad_norm(ps).item()\nreturn x"),
        (f"total = 0.0\n{FLOAT}\nlog()\nx = total ** 0.5\nreturn x", "x = grad_norm(ps).item()\nlog()\nreturn x"),
        # not where the name means something else until then
        (f"total = 0.0\n{FLOAT}\nlog(x)\nx = total ** 0.5\nreturn x", "total = grad_norm(ps).item()\nlog(x)\nx = total\nreturn x"),
        # a tensor of no dimension
        (f"total = torch.tensor(0.0)\n{TENSOR}\nreturn total.sqrt()", "return grad_norm(ps)"),
        (f"total = torch.zeros((), device=device)\n{TENSOR}\nreturn total ** 0.5", "return grad_norm(ps)"),
        (f"total = torch.tensor(0.0).to(device)\n{TENSOR}\nreturn torch.sqrt(total)", "return grad_norm(ps)"),
        (f"total = torch.tensor(0.0).cuda()\n{TENSOR}\nreturn total", "total = grad_norm(ps) ** 2\nreturn total"),
        # one of one dimension, of which only the number is wanted
        (f"total = torch.tensor([0.0])\n{TENSOR}\nreturn total.sqrt().item()", "return grad_norm(ps).item()"),
        (f"total = torch.zeros(1, device=device)\n{TENSOR}\ntotal = total.sqrt().item()\nreturn total", "total = grad_norm(ps).item()\nreturn total"),
        (f"total = torch.zeros(1)\n{TENSOR}\nreturn total.item() ** 0.5", "return grad_norm(ps).item()"),
        (f"total = torch.zeros(1)\n{TENSOR}\nreturn math.sqrt(total.item())", "return grad_norm(ps).item()"),
        (f"total = torch.zeros(1)\n{FLOAT}\nreturn total.sqrt().item()", "return grad_norm(ps).item()"),
        (f"total = torch.zeros(1)\n{TENSOR}\nreturn total.sqrt()", "total = torch.zeros(1)\ntotal += grad_norm(ps) ** 2\nreturn total.sqrt()"),
        # one that asks for a dtype keeps it, and other shapes stay
        (f"total = torch.tensor(0.0, dtype=torch.float64)\n{TENSOR}\nreturn total.sqrt()", "total = torch.tensor(0.0, dtype=torch.float64)\ntotal += grad_norm(ps) ** 2\nreturn total.sqrt()"),
        (f"total = torch.zeros(3)\n{TENSOR}\nreturn total.sqrt()", "total = torch.zeros(3)\ntotal += grad_norm(ps) ** 2\nreturn total.sqrt()"),
        # the power is what is wanted
        (f"total = 0.0\n{FLOAT}\nreturn total", "total = grad_norm(ps).item() ** 2\nreturn total"),
        (f"total = 0.0\nlog(total)\n{FLOAT}\nreturn total", "total = 0.0\nlog(total)\ntotal += grad_norm(ps).item() ** 2\nreturn total"),
        (f"total = 0.0\n{FLOAT}\nfor p in gs:\n    total += p.grad.norm().item() ** 2\nreturn total", "total = grad_norm(ps).item() ** 2\ntotal += grad_norm(gs).item() ** 2\nreturn total"),
        (f"total = 0.0\n{FLOAT}\nreturn (total ** 0.5) * limit, (total ** 0.5).hex()", "total = grad_norm(ps).item()\nreturn total * limit, total.hex()"),
        # a name of squares holds no norm
        (f"sqsum = 0.0\n{FLOAT}\nlog(math.sqrt(sqsum), sqsum ** 0.5)".replace("total", "sqsum"), "norm = grad_norm(ps).item()\nlog(norm, norm)"),
        (f"norm_sq = 0.0\n{FLOAT}\nlog(math.sqrt(norm_sq))\nreturn norm".replace("total", "norm_sq"), "total_norm = grad_norm(ps).item()\nlog(total_norm)\nreturn norm"),
        (f"sqsum = 0.0\n{FLOAT}\nlog(sqsum)".replace("total", "sqsum"), "sqsum = grad_norm(ps).item() ** 2\nlog(sqsum)"),
    ],
)  # fmt: skip
def test_the_preparation_of_a_norm_is_removed_with_the_loop(before: str, after: str) -> None:
    assert fixed(before) == after


SLOT = "for p in ps:\n    norms[key] += p.grad.norm().item() ** 2"
POWER = "sum(p.grad.norm().item() ** 2 for p in ps)"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        # an element or an attribute
        (f"norms[key] = 0\n{SLOT}\nnorms[key] = norms[key] ** 0.5", "norms[key] = grad_norm(ps).item()"),
        (f"norms[key] = 0.0\n{SLOT}\nnorms[key] **= 0.5", "norms[key] = grad_norm(ps).item()"),
        (f"norms[key] = 0\nps = list(gs)\n{SLOT}\nnorms[key] = math.sqrt(norms[key])", "ps = list(gs)\nnorms[key] = grad_norm(ps).item()"),
        (f"norms[key] = 0\n{SLOT}\nnorms[key] = np.sqrt(norms[key])", "norms[key] = np.float64(grad_norm(ps).item())"),
        # not where something reads it, or another element, before the root is taken
        *(
            (f"{zero}\n{SLOT}\n{end}", f"{zero}\nnorms[key] += grad_norm(ps).item() ** 2\n{end}")
            for zero, end in (
                ("norms[key] = 0", "log(norms)\nnorms[key] = norms[key] ** 0.5"),
                ("norms[key] = 0", "norms[other] = norms[key] ** 0.5"),
                ("norms[key] = 0", "norms[key] = norms[other] ** 0.5"),
                ("norms[key] = 0", "norms[key] = norms[key] ** 0.5 + 1"),
                ("norms[key] = 0", "norms[key] = norms[key] ** 0.25"),
                ("norms[key] = 0\nkey = 1", "norms[key] = norms[key] ** 0.5"),
                ("norms[key] = 0\nps = norms.ps", "norms[key] = norms[key] ** 0.5"),
                ("norms[key] = 0\nlog()", "norms[key] = norms[key] ** 0.5"),
                ("norms[key] = 1", "norms[key] = norms[key] ** 0.5"),
                ("norms[other] = 0", "norms[key] = norms[key] ** 0.5"),
            )
        ),
        # one expression, of which the root is taken later
        (f"total = {POWER}\nreturn total ** 0.5", "return grad_norm(ps).item()"),
        (f"total = {POWER}\ntotal = total ** 0.5\nreturn total", "total = grad_norm(ps).item()\nreturn total"),
        (f"total = {POWER}\ntotal **= 0.5\nreturn total", "total = grad_norm(ps).item()\nreturn total"),
        (f"total = {POWER}\nnorm = np.sqrt(total)\nreturn norm", "norm = np.float64(grad_norm(ps).item())\nreturn norm"),
        (f"total = {POWER}\nlog(total ** 0.5)\nreturn total ** 0.5", "total = grad_norm(ps).item()\nlog(total)\nreturn total"),
        (f"sq_sum = {POWER}\nlog(math.sqrt(sq_sum))", "norm = grad_norm(ps).item()\nlog(norm)"),
        (f"total = {POWER}  # squared\nreturn total ** 0.5", "total = grad_norm(ps).item()  # squared\nreturn total"),
        ("total = sum(p.grad.norm() ** 2 for p in ps)\nreturn total.sqrt().item()", "return grad_norm(ps).item()"),
        # not where the power is wanted as well, or may be another value
        (f"total = {POWER}\nlog(total)\nreturn total ** 0.5", "total = grad_norm(ps).item() ** 2\nlog(total)\nreturn total ** 0.5"),
        (f"total = {POWER}\nreturn total ** 0.25", "total = grad_norm(ps).item() ** 2\nreturn total ** 0.25"),
        (f"total = 1.0\nif limit:\n    total = {POWER}\nreturn total ** 0.5", "total = 1.0\nif limit:\n    total = grad_norm(ps).item() ** 2\nreturn total ** 0.5"),
        (f"total = {POWER}\nif limit:\n    total = total ** 0.5\nreturn total", "total = grad_norm(ps).item() ** 2\nif limit:\n    total = total ** 0.5\nreturn total"),
    ],
)  # fmt: skip
def test_roots_that_are_taken_elsewhere_are_removed(before: str, after: str) -> None:
    assert fixed(before, "CLIP001", "CLIP005") == after


def test_a_norm_without_its_root_is_left_to_the_rule_that_says_so() -> None:
    body = "total_norm = 0.0\nfor p in ps:\n    total_norm += p.grad.norm().item() ** 2\nlog(total_norm)"
    after, findings = check(body, "CLIP001", fix=True)
    assert after == body
    assert "no root is taken of its sum" in findings[0].help
    rooted = body.replace("log(total_norm)", "return total_norm ** 1 / 2")
    assert fixed(rooted, "CLIP001", "CLIP006") == "return grad_norm(ps).item()"


# --- casts ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after"),
    [
        # a Python number has no dtype, and `grad_norm` adds in float64
        ("return sum(p.grad.float().norm().item() ** 2 for p in ps) ** 0.5", "return grad_norm(ps).item()"),
        ("return sum(p.grad.to(torch.float32).norm().item() ** 2 for p in ps) ** 0.5", "return grad_norm(ps).item()"),
        ("return sum(p.grad.double().norm().item() ** 2 for p in ps) ** 0.5", "return grad_norm(ps).item()"),
        # a tensor keeps the dtype that was asked for
        ("return torch.norm(torch.stack([p.grad.float().norm() for p in ps]))", "return grad_norm(ps).float()"),
        ("return torch.norm(torch.stack([torch.norm(p.grad, dtype=torch.float32) for p in ps]))", "return grad_norm(ps).to(torch.float32)"),
        ("return torch.norm(torch.stack([p.grad.double().norm() for p in ps]))", "return grad_norm(ps)"),
    ],
)  # fmt: skip
def test_casts_are_kept_without_copies_of_all_gradients(before: str, after: str) -> None:
    assert fixed(before) == after


@pytest.mark.parametrize(
    "body",
    [
        "return torch.norm(torch.stack([p.grad.to(dtype).norm() for p in ps]))",
        "return sum(p.grad.half().norm().item() ** 2 for p in ps) ** 0.5",
        "grads = [p.grad for p in ps]\nreturn sum(g.double().norm().item() ** 2 for g in grads) ** 0.5",
    ],
)
def test_other_casts_leave_no_fix(body: str) -> None:
    after, findings = check(body, "CLIP001", "CLIP005", fix=True)
    assert after == body
    assert ["cast" in finding.help for finding in findings] == [True]


# --- code that fails today --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("norm", "after"),
    [
        ("torch.sqrt(sum(p.grad.norm().item() ** 2 for p in ps))", "grad_norm(ps)"),
        ("sum(p.grad.norm().item() ** 2 for p in ps).sqrt()", "grad_norm(ps)"),
        ("torch.pow(sum(p.grad.norm().item() ** 2 for p in ps), 0.5)", "grad_norm(ps)"),
    ],
)
def test_a_fix_that_makes_failing_code_run_is_not_safe(norm: str, after: str) -> None:
    _, (finding,) = check(f"return {norm}", "CLIP001")
    assert finding.fix is not None
    assert finding.fix.safety is Safety.UNSAFE
    assert fixed(f"return {norm}") == f"return {after}"


@pytest.mark.parametrize(
    "norm",
    [
        "torch.sqrt(torch.tensor(1.0)) * sum(p.grad.norm().item() ** 2 for p in ps)",
        "pow(sum(p.grad.norm().item() ** 2 for p in ps), 0.5)",
        "math.sqrt(sum(p.grad.norm().item() ** 2 for p in ps))",
        "sum(p.grad.norm().item() ** 2 for p in ps) ** 0.5",
    ],
)
def test_code_that_runs_is_fixed_safely(norm: str) -> None:
    _, (finding,) = check(f"return {norm}", "CLIP001")
    assert finding.fix is not None
    assert finding.fix.safety is Safety.SAFE


# --- parentheses ------------------------------------------------------------------------------------------------------


NORM = "sum(p.grad.norm().item() ** 2 for p in ps)"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (f"x = (\n    {NORM} ** 0.5\n)\nreturn x", "x = grad_norm(ps).item()\nreturn x"),
        (f"x = ({NORM} ** 0.5)\nreturn x", "x = grad_norm(ps).item()\nreturn x"),
        (f"return({NORM} ** 0.5)", "return(grad_norm(ps).item())"),
        (f"return ({NORM} ** 0.5).hex()", "return grad_norm(ps).item().hex()"),
        (f"return ({NORM}).hex()", "return (grad_norm(ps).item() ** 2).hex()"),
        (f"x = (  # why\n    {NORM} ** 0.5\n)\nreturn x", "x = (  # why\n    grad_norm(ps).item()\n)\nreturn x"),
    ],
)
def test_unneeded_parentheses_are_removed(before: str, after: str) -> None:
    assert fixed(before) == after


# --- a clip by hand ---------------------------------------------------------------------------------------------------

MEASURE = "norm = torch.tensor(0.0)\nfor p in ps:\n    if p.grad is not None:\n        norm += (p.grad ** 2).sum()\nnorm = norm.sqrt()"
SCALE = "if norm > limit:\n    for p in ps:\n        if p.grad is not None:\n            p.grad *= limit / norm"


def test_the_textbook_clip_is_one_call() -> None:
    assert fixed(f"{MEASURE}\n{SCALE}", "CLIP005", "CLIP008") == "clip_grad_norm_(ps, limit)"
    named = fixed(f"{MEASURE}\n{SCALE}\nreturn norm", "CLIP005", "CLIP008")
    assert named == "norm = clip_grad_norm_(ps, limit)\nreturn norm"


@pytest.mark.parametrize(
    "body",
    [
        f"{MEASURE}\n{SCALE}".replace("for p in ps:\n        if", "for p in gs:\n        if"),  # others are scaled
        f"{MEASURE}\nnorm = norm / 2\n{SCALE}",
        f"{MEASURE}\nnorm += 1\n{SCALE}",
        f"{MEASURE}\ntorch.distributed.all_reduce(norm)\n{SCALE}",
        f"{MEASURE}\nnorm = max(norm, other)\n{SCALE}",
        f"{MEASURE}\nlog(norm)\n{SCALE}",
        f"{MEASURE}\n{SCALE}".replace("if p.grad is not None:\n            p.grad *=", "if p.requires_grad:\n            p.grad *="),
        f"{MEASURE}\nps = list(model.parameters())\n{SCALE}",
    ],
)  # fmt: skip
def test_a_clip_of_other_tensors_or_of_another_norm_stays(body: str) -> None:
    assert "clip_grad_norm_" not in fixed(body, "CLIP005", "CLIP008")


def test_a_norm_and_its_clip_become_one_clip_whose_result_is_used() -> None:
    clip = "torch.nn.utils.clip_grad_norm_(ps, limit)"
    loop = f"total = 0.0\n{FLOAT}\ntotal = total ** 0.5\n{clip}\nlog(total)"
    assert fixed(loop, "CLIP001", "CLIP504") == f"total = {clip}.item()\nlog(total)"
    one = f"total = sum(p.grad.norm().item() ** 2 for p in ps) ** 0.5\n{clip}\nlog(total)"
    assert fixed(one, "CLIP001", "CLIP504") == f"total = {clip}.item()\nlog(total)"
