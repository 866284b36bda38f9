"""CLIP508: which norms are tensors when they are passed to a numpy function. Silent cases first."""

from __future__ import annotations

import pytest

from clipcheck.engine.file import check_file
from clipcheck.engine.results import FileReport
from clipcheck.rule import Safety
from clipcheck.settings.keys import Settings

HEAD = "import math\nimport numpy as np\nimport torch\n\ndef f(model, params, x, other):\n"
NORM = "norm = torch.nn.utils.clip_grad_norm_(params, 1.0)\n"


def check(body: str, fix: bool = False) -> FileReport:
    text = HEAD + "".join(f"    {line}\n" for line in body.replace("NORM;", NORM).splitlines())
    report = check_file("x.py", text.encode(), Settings(codes=frozenset({"CLIP508"}), fix=fix, safety=Safety.UNSAFE))
    assert report.errors == ()
    return report


def fixed(body: str) -> str:
    lines = check(body, fix=True).now.decode().removeprefix(HEAD).splitlines()
    return "\n".join(line.removeprefix("    ") for line in lines if line.strip() != NORM.strip())


# --- tests that distinguish a number from a tensor --------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        "if isinstance(norm, float):\n    np.isnan(norm)",
        "if isinstance(norm, (int, float)):\n    np.isnan(norm)",
        "if isinstance(norm, float) and x:\n    np.isnan(norm)",
        "if x and isinstance(norm, float):\n    np.isnan(norm)",
        "if torch.is_tensor(norm):\n    pass\nelse:\n    np.isnan(norm)",
        "if torch.is_tensor(norm) or x:\n    pass\nelse:\n    np.isnan(norm)",
        "if not isinstance(norm, torch.Tensor):\n    np.isnan(norm)",
        "if not (x or torch.is_tensor(norm)):\n    np.isnan(norm)",
        "if not not isinstance(norm, float):\n    np.isnan(norm)",
        "if torch.is_tensor(norm):\n    return norm\nnp.isnan(norm)",
        "isinstance(norm, float) and np.isnan(norm)",
        "torch.is_tensor(norm) or np.isnan(norm)",
        "x = np.isnan(norm) if isinstance(norm, float) else x",
        "x = x if torch.is_tensor(norm) else np.isnan(norm)",
        "if isinstance(norm, float):\n    x = 1 + np.sqrt(norm)",
    ],
)
def test_a_norm_that_a_test_calls_a_number(body: str) -> None:
    assert check(f"NORM;{body}").findings == ()


@pytest.mark.parametrize(
    "body",
    [
        "if torch.is_tensor(norm):\n    np.isnan(norm)",
        "from torch import Tensor\nif isinstance(norm, Tensor):\n    np.isnan(norm)",
        "a = norm\nb = a\nc = b\nd = c\nnp.isnan(d)",
        "if isinstance(norm, torch.Tensor):\n    np.isnan(norm)",
        "if isinstance(norm, (float, torch.Tensor)):\n    np.isnan(norm)",
        "if isinstance(norm, float):\n    pass\nelse:\n    np.isnan(norm)",
        "if isinstance(norm, float) or x:\n    np.isnan(norm)",  # it need not be one
        "if not (x and torch.is_tensor(norm)):\n    np.isnan(norm)",
        "if torch.is_tensor(norm) and x:\n    pass\nelse:\n    np.isnan(norm)",
        "if isinstance(other, float):\n    np.isnan(norm)",  # the test is of something else
        "if torch.is_tensor(other):\n    pass\nelse:\n    np.isnan(norm)",
        "if isinstance(other, norm):\n    np.isnan(norm)",
        "if math.isfinite(norm):\n    np.isnan(norm)",
        "if isinstance(norm, float):\n    pass\nnp.isnan(norm)",
        "isinstance(norm, float) or np.isnan(norm)",
        "torch.is_tensor(norm) and np.isnan(norm)",
        "np.isnan(norm) and isinstance(norm, float)",  # tested too late
        "x = x if isinstance(norm, float) else np.isnan(norm)",
        "x = np.isnan(norm) if torch.is_tensor(norm) else x",
        "x = 1 if np.isnan(norm) else 2",
    ],
)
def test_a_norm_that_no_test_calls_a_number(body: str) -> None:
    (finding,) = check(f"NORM;{body}").findings
    assert finding.message == "`np.isnan` raises a TypeError for a tensor on a GPU: call `.item()` first"


# --- the type of a norm -----------------------------------------------------------------------------------------------

SQUARES = "for p in params:\n    total += p.grad.norm() ** 2\n"
NUMBERS = SQUARES.replace("norm()", "norm().item()")


@pytest.mark.parametrize(
    "body",
    [
        "np.isnan(x)",
        "norm = x\nnp.isnan(norm)",
        "norm: float\nnp.isnan(norm)",
        "for norm in x:\n    np.isnan(norm)",
        "NORM;np.mean(norm)",  # not one of those that convert
        "NORM;np.linalg.norm(norm)",
        "NORM;math.isnan(norm)",
        "NORM;np.isnan(x, where=norm)",
        "NORM;np.isnan(*norm)",
        "NORM;np.isnan(norm.item())",
        "NORM;np.isnan(norm.cpu())",
        "NORM;np.isnan(norm.detach().to('cpu'))",
        "NORM;np.isnan(float(norm))",
        "NORM;np.isnan(norm.tolist())",
        "NORM;norm = norm.item()\nnp.isnan(norm)",
        "norm = torch.nn.utils.clip_grad_value_(params, 1.0)\nnp.isnan(norm)",
        "np.isnan(torch.stack([p.grad.norm() for p in params]).norm().cpu())",
        "np.isnan(torch.stack([p.grad.norm() for p in params]).to('cpu').norm())",
        "np.isnan(sum(p.grad.norm().item() ** 2 for p in params) ** 0.5)",
        "norm = x\nif x:\n    norm = torch.nn.utils.clip_grad_norm_(params, 1.0)\nnp.isnan(norm)",  # it may be `x`
        "total = 0.0\n" + NUMBERS + "np.sqrt(total)",
        "total = 0.0\n" + SQUARES + "np.sqrt(float(total))",
        "total = 0.0\n" + SQUARES + "total = x\nnp.sqrt(total)",
        "norms = []\nfor p in params:\n    norms.append(p.grad.norm())\nnp.asarray(norms)",
    ],
)
def test_values_that_may_not_be_tensors(body: str) -> None:
    assert check(body).findings == ()


@pytest.mark.parametrize(
    ("body", "after"),
    [
        ("NORM;np.isnan(norm)", "np.isnan(norm.item())"),
        ("NORM;np.isnan(norm.detach())", "np.isnan(norm.detach().item())"),
        ("NORM;np.log(norm.float().sqrt())", "np.log(norm.float().sqrt().item())"),
        ("NORM;np.maximum(x, norm)", "np.maximum(x, norm.item())"),
        ("NORM;same = norm\nnp.isnan(same)", "same = norm\nnp.isnan(same.item())"),
        ("NORM;same = norm * 2\nnp.isnan(same)", "same = norm * 2\nnp.isnan(same.item())"),
        ("NORM;same = 2 * norm\nnp.isnan(same)", "same = 2 * norm\nnp.isnan(same.item())"),
        (
            "np.isnan(torch.nn.utils.clip_grad_norm_(params, 1.0))",
            "np.isnan(torch.nn.utils.clip_grad_norm_(params, 1.0).item())",
        ),
        (
            "np.isnan(torch.stack([p.grad.norm() for p in params]).norm())",
            "np.isnan(torch.stack([p.grad.norm() for p in params]).norm().item())",
        ),
        ("total = 0.0\n" + SQUARES + "np.sqrt(total)", "total = 0.0\n" + SQUARES + "np.sqrt(float(total))"),
    ],
)
def test_tensors_are_converted_to_numbers_first(body: str, after: str) -> None:
    (finding,) = check(body).findings
    assert finding.fix is not None and finding.fix.safety is Safety.UNSAFE
    assert fixed(body) == after


@pytest.mark.parametrize("call", ["np.mean(norms)", "np.array(norms)", "np.std(norms, ddof=1)"])
def test_a_list_of_tensors(call: str) -> None:
    body = "norms = []\nfor y in x:\n    norms.append(torch.nn.utils.clip_grad_norm_(params, 1.0))\n" + call
    (finding,) = check(body).findings
    assert finding.fix is None and "append `norm.item()`" in finding.message


@pytest.mark.parametrize(
    "body",
    [
        "norms = []\nnorms.append(torch.nn.utils.clip_grad_norm_(params, 1.0).item())\nnp.mean(norms)",
        "norms = []\nnorms.append(torch.nn.utils.clip_grad_norm_(params, 1.0))\nnorms.append(x)\nnp.mean(norms)",
        "norms = []\nnorms.append(torch.nn.utils.clip_grad_norm_(params, 1.0))\nnorms.extend(x)\nnp.mean(norms)",
        "norms = [1.0]\nnorms.append(torch.nn.utils.clip_grad_norm_(params, 1.0))\nnp.mean(norms)",
        "other.append(torch.nn.utils.clip_grad_norm_(params, 1.0))\nnp.mean(other)",
        "norms = []\nnp.mean(norms)",
        "norms = []\nnorms.append(torch.nn.utils.clip_grad_norm_(params, 1.0))\nnp.save(x, norms)",
    ],
)
def test_a_list_that_may_hold_numbers(body: str) -> None:
    assert check(body).findings == ()


GIVES = "g = lambda: torch.nn.utils.clip_grad_norm_(params, 1.0)\n"


@pytest.mark.parametrize(
    "body",
    [
        "np.isnan(norm := torch.nn.utils.clip_grad_norm_(params, 1.0))",
        f"{GIVES}np.isnan(g())",
        f"{GIVES}norm = g()\nnp.isnan(norm)",
        "def g(norm):\n    return np.isnan(norm)\ng(torch.nn.utils.clip_grad_norm_(params, 1.0))",
    ],
)
def test_a_norm_of_another_function(body: str) -> None:
    (finding,) = check(body).findings
    assert "np.isnan" in finding.message


@pytest.mark.parametrize(
    "body",
    [
        f"{GIVES.rstrip()}.item()\nnp.isnan(g())",
        "def g():\n    if x:\n        return 0.0\n    return torch.nn.utils.clip_grad_norm_(params, 1.0)\nnp.isnan(g())",
        "def g(norm):\n    return np.isnan(norm)\ng(torch.nn.utils.clip_grad_norm_(params, 1.0))\ng(1.0)",
        "def g(norm):\n    return np.isnan(norm)",
        "np.isnan(norm := x)",
    ],
)
def test_what_another_function_gives_may_be_a_number(body: str) -> None:
    assert check(body).findings == ()


def test_one_finding_for_a_call_and_no_fix_of_a_computation() -> None:
    (finding,) = check("NORM;np.maximum(norm + 1, norm)").findings
    assert finding.fix is None
    assert finding.help.startswith("call `.item()` on the norm")


SUM = "total = 0\nfor p in params:\n    total += p.grad.norm(2) ** 2\n"


def test_a_sum_may_still_be_its_initial_number() -> None:
    """It is if there are no parameters: then `.item()` would raise, but `float` does not."""
    assert fixed(f"{SUM}np.sqrt(total)").splitlines()[-1] == "np.sqrt(float(total))"
    assert fixed(f"{SUM}total = total + x\nnp.sqrt(total ** 0.5)").splitlines()[-1] == "np.sqrt(total ** 0.5)"
    assert fixed("NORM;np.isnan(norm)") == "np.isnan(norm.item())"


def test_no_fix_where_float_is_something_else() -> None:
    report = check(f"float = x\n{SUM}np.sqrt(total)")
    assert [finding.fix for finding in report.findings] == [None]


@pytest.mark.parametrize(
    "body",
    [
        "total = 0.0\nnp.sqrt(total)",
        "a = b\nb = a\nnp.isnan(a)",
        "np.isnan(x.clone())",
        "np.sqrt(torch.tensor([p.grad.norm().item() for p in params]).norm())",
        "total = 0.0\nfor p in params:\n    total += p.grad.norm().item() ** 2\nnp.sqrt(total)",
    ],
)
def test_numbers_and_others_that_are_no_norm_on_a_device(body: str) -> None:
    assert check(body).findings == ()
