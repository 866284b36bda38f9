"""A hand-written clip becomes one call where it does what torch's does; else the finding says why it stays."""

from __future__ import annotations

import pytest

from clipcheck.engine.file import check_file
from clipcheck.rule import Role, Safety
from clipcheck.settings.keys import Settings

HEADER = "import torch\nps = list(model.parameters())\ncount = 0\n"
NORM = "norm = sum(p.grad.norm() ** 2 for p in ps) ** 0.5\n"
SCALE = "for p in ps:\n    p.grad.mul_(theta / norm)\n"
COEFFICIENT = "coef = theta / (norm + 1e-6)\n"
BY = "for p in ps:\n    p.grad.mul_(coef)\n"


def indented(text: str) -> str:
    return "".join(f"    {line}\n" for line in text.splitlines())


def fixed(text: str) -> tuple[str, str]:
    """The text after the fix, without imports, and what the finding says in its place."""
    settings = Settings(frozenset({"CLIP008"}), fix=True, safety=Safety.UNSAFE)
    report = check_file("x.py", (HEADER + text).encode(), settings)
    assert report.errors == ()
    lines = report.now.decode().splitlines()
    (help_text,) = [finding.help for finding in report.findings] or [""]
    return "\n".join(line for line in lines if not line.startswith(("import", "from", "ps =", "count ="))), help_text


CALL = "clip_grad_norm_(ps, theta)"


@pytest.mark.parametrize("test", ["norm > theta", "norm >= theta", "theta < norm", "theta <= norm"])
def test_the_norm_is_compared_with_the_limit(test: str) -> None:
    assert fixed(f"{NORM}if {test}:\n{indented(SCALE)}") == (CALL, "")


@pytest.mark.parametrize("test", ["coef < 1", "coef <= 1", "coef < 1.0", "coef < 1."])
def test_the_coefficient_is_compared_with_one(test: str) -> None:
    assert fixed(f"{NORM}{COEFFICIENT}if {test}:\n{indented(BY)}") == (CALL, "")


def test_what_the_arguments_of_the_call_are() -> None:
    (finding,) = check_file(
        "x.py", f"{HEADER}{NORM}if norm > theta:\n{indented(SCALE)}".encode(), Settings(frozenset({"CLIP008"}))
    ).findings
    assert finding.fix is not None
    assert finding.help == ""  # with a fix, nothing is left to do by hand
    assert finding.fix.roles == (("ps", Role.PARAMETERS), ("theta", Role.MAX_NORM))


@pytest.mark.parametrize("limit", ["limit", "self.limit", "options['clip']", "1.0", "5"])
def test_the_limit_is_repeated_as_it_is(limit: str) -> None:
    text = f"{NORM}if norm > theta:\n{indented(SCALE)}".replace("theta", limit)
    assert fixed(text) == (f"clip_grad_norm_(ps, {limit})", "")


@pytest.mark.parametrize("limit", ["2 * theta", "limits()", "(a if b else c)", "-theta"])
def test_a_limit_that_has_to_be_computed_is_left(limit: str) -> None:
    text = f"{NORM}if norm > {limit}:\n{indented(SCALE.replace('theta', limit))}"
    after, why = fixed(text)
    assert after == text.rstrip()
    assert "the coefficient is not a plain `max_norm / norm`" in why


OTHER_TEST = "no automatic fix: the check does not compare the norm with `max_norm`"


@pytest.mark.parametrize(
    "test", ["norm < theta", "theta > norm", "norm > 1", "norm == theta", "norm", "norm > theta > 1", "other > theta"]
)
def test_another_comparison_is_another_clip(test: str) -> None:
    text = f"{NORM}if {test}:\n{indented(SCALE)}"
    after, why = fixed(text)
    assert after == text.rstrip()
    assert "compare the norm" in why or why == ""


@pytest.mark.parametrize("test", ["coef > 1", "coef < 2", "coef == 1", "1 > coef", "other < 1"])
def test_another_comparison_of_the_coefficient_is_another_clip(test: str) -> None:
    text = f"{NORM}{COEFFICIENT}if {test}:\n{indented(BY)}"
    after, why = fixed(text)
    assert after == text.rstrip()
    assert "compare the norm" in why or why == ""


OF_ITS = f"{NORM}if norm > theta:\n{indented(SCALE)}".replace("in ps", "in its")


@pytest.mark.parametrize(
    ("text", "after"),
    [
        (f"{NORM}if norm > theta:\n{indented(SCALE)}print(norm)\n", f"norm = {CALL}\nprint(norm)"),
        (f"{NORM}if norm > theta:\n{indented(SCALE)}norm = 3\n", f"{CALL}\nnorm = 3"),
        (f"{NORM}# why\nif norm > theta:\n{indented(SCALE)}", f"# why\n{CALL}"),
        (f"def f():\n{indented(NORM)}    if norm > theta:\n{indented(indented(SCALE))}", f"def f():\n    {CALL}"),
        (f"its = list(ps)\n{OF_ITS}", f"its = list(ps)\n{CALL.replace('ps', 'its')}"),
        (
            "norm = sum(p.grad.norm(3) ** 3 for p in ps) ** (1 / 3)\n" + f"if norm > theta:\n{indented(SCALE)}",
            "clip_grad_norm_(ps, theta, norm_type=3)",
        ),
        (
            "norm = sum(p.grad.norm().item() ** 2 for p in ps) ** 0.5\n"
            + f"if norm > theta:\n{indented(SCALE)}print(norm)\n",
            f"norm = {CALL}.item()\nprint(norm)",
        ),
        (
            "k = 2\nnorm = sum(p.grad.norm(k) ** k for p in ps) ** (1 / k)\n" + f"if norm > theta:\n{indented(SCALE)}",
            "k = 2\nclip_grad_norm_(ps, theta, norm_type=k)",
        ),
        (f"{NORM}if norm > theta:\n    {COEFFICIENT}{indented(BY)}", CALL),
        (f"{NORM}coef = k = theta / (norm + 1e-6)\nif coef < 1:\n{indented(BY)}", CALL),
        (f"{NORM}coef = min(1, theta / norm)\n{BY}", CALL),
        (f"{NORM}{COEFFICIENT}coef = min(1, coef)\n{BY}", CALL),
        (f"{NORM}{COEFFICIENT}clamped = min(1, coef)\n{BY.replace('coef', 'clamped')}", CALL),
        (f"{NORM}{COEFFICIENT}if coef < 1:\n{indented(BY)}coef = 3\nprint(coef)\n", f"{CALL}\ncoef = 3\nprint(coef)"),
        (
            f"{NORM}{COEFFICIENT}if coef < 1:\n{indented(BY)}def g(coef):\n    x = coef\n    return x\n",
            f"{CALL}\ndef g(coef):\n    x = coef\n    return x",
        ),
        (
            f"{NORM}if norm > theta:\n    for p in ps:\n        if p.grad is not None:\n            p.grad *= theta / norm\n",
            CALL,
        ),
        (f"{NORM}if norm > theta:\n    for p in ps:\n        p.grad = p.grad * (theta / norm)\n", CALL),
    ],
)
def test_what_the_call_keeps_of_the_statements(text: str, after: str) -> None:
    assert fixed(text) == (after, "")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (f"{NORM}if norm > theta:\n{indented(SCALE)}else:\n    count += 1\n", "the check has another branch"),
        (f"{NORM}if norm > theta:\n    count += 1\n{indented(SCALE)}", "the check guards something else as well"),
        (f"{NORM}count += 1\nif norm > theta:\n{indented(SCALE)}", "something else happens between the norm and the loop"),
        (f"{NORM}if count:\n    pass\nif norm > theta:\n{indented(SCALE)}", "something else happens between the norm and the loop"),
        (f"if count:\n{indented(NORM)}if norm > theta:\n{indented(SCALE)}", "the norm and the loop are in different blocks"),
        (f"{NORM}{COEFFICIENT}if coef < 1:\n{indented(BY)}print(coef)\n", "`coef` is used later"),
        (f"kept = {NORM}if norm > theta:\n{indented(SCALE)}", "the norm is part of a larger statement"),
        (f"{NORM.replace('norm =', 'norm: float =')}if norm > theta:\n{indented(SCALE)}", "the norm is part of a larger statement"),
        (f"{NORM}if norm > theta:\n{indented(SCALE)}    print(1)\n", "the check guards something else as well"),
        (f"{NORM}if norm > theta:\n{indented(SCALE + '    count += 1' + chr(10))}", "the loop has side effects besides scaling"),
        (f"{NORM}if norm > theta:\n    for p in ps:\n        if p.x:\n            p.grad *= theta / norm\n", "the norm and the loop may use different parameters"),
        (f"{NORM}if norm > theta:\n    for p in ps:\n        try:\n            p.grad *= theta / norm\n        except E:\n            pass\n", "errors in the loop are caught"),
        (f"{NORM}for q in qs:\n    if norm > theta:\n{indented(indented(SCALE))}", "the loop is in another block"),
        (f"{NORM}coef = min(1, theta / norm)\nwith x:\n{indented(BY)}", "the loop is in another block"),
        (f"{NORM}for p in ps:\n    if norm > theta:\n        p.grad.mul_(theta / norm)\n", "the check of the norm is elsewhere"),
        (f"{NORM}if norm > theta:\n    with x:\n{indented(indented(SCALE))}", "the check guards something else as well"),
        (f"{NORM}if norm > theta:\n    coef = theta / norm; count += 1\n{indented(BY)}", "the check guards something else as well"),
        (f"{NORM}{COEFFICIENT}print(1); coef = min(1, coef)\n{BY}", "something else happens between the norm and the loop"),
        (f"{NORM}{COEFFICIENT}clamped = min(1, coef)\n{BY.replace('coef', 'clamped')}print(clamped)\n", "`clamped` is used later"),
        *(
            (f"{NORM}{assign}theta / norm\nif coef < 1:\n{indented(BY)}", "something else happens between the norm and the loop")
            for assign in ("coef = self.coef = ", "coef = table['coef'] = ")  # which others may read
        ),
        (f"{NORM}{COEFFICIENT}x = log(coef)\nif coef < 1:\n{indented(BY)}", "something else happens between the norm and the loop"),
        (f"{NORM}{COEFFICIENT}x = coef = min(1, coef)\n{BY}print(x)\n", "`x` is used later"),
        (f"{NORM}{COEFFICIENT}if coef < 1:\n{indented(BY)}def g():\n    print(coef)\n", "`coef` is used later"),
        (f"{NORM[:-1]}; x = 1\nif norm > theta:\n{indented(SCALE)}", "the norm is part of a larger statement"),
        (
            "grads = [p.grad for p in ps]\nnorm = sum(g.norm() ** 2 for g in grads) ** 0.5\nif norm > theta:\n    for g in grads:\n        g *= theta / norm\n",
            "the tensors are gradients, and `clip_grad_norm_` takes parameters",
        ),
        (f"total = 0.0\nfor p in ps:\n    total += p.grad.norm() ** 2\nnorm = total ** 0.5\nif norm > theta:\n{indented(SCALE)}", "the norm is not computed in one expression right before"),
        *(
            (f"its = {its}\n{OF_ITS}", "the norm and the loop may use different parameters")
            for its in ("(p for p in ps)", "model.parameters()", "filter(f, ps)", "map(f, ps)")
        ),
    ],
)  # fmt: skip
def test_why_a_clip_stays(text: str, why: str) -> None:
    after, told = fixed(text)
    assert after == text.rstrip()
    assert why in told


@pytest.mark.parametrize(
    "text",
    [
        f"self.{NORM}if self.norm > theta:\n{indented(SCALE.replace('norm', 'self.norm'))}",  # others may read it
        f"{NORM}if norm > theta:\n    norm = 3\n{indented(SCALE)}",
        f"if count:\n    norm = 1\nelse:\n{indented(NORM)}if norm > theta:\n{indented(SCALE)}",
        f"{NORM}if norm > theta:\n{indented(SCALE)}".replace("in ps:", "in qs:"),
    ],
)
def test_the_norm_of_something_else_is_kept(text: str) -> None:
    assert fixed(text) == (
        text.rstrip(),
        "keep the norm and scale with `clip_grads_with_norm_(parameters, max_norm, total_norm)`",
    )
