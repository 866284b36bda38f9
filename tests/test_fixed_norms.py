"""What a fix makes of a hand-written norm: the call, the type of its result, and what is around it."""

from __future__ import annotations

import pytest

from clipcheck.engine.file import check_file
from clipcheck.rule import Role, Safety, Target
from clipcheck.settings.keys import Settings

HEADER = "import math\nimport numpy as np\nimport torch\nps = list(model.parameters())\ngrads = [p.grad for p in ps]\n"
CODES = frozenset({"CLIP001", "CLIP003", "CLIP004", "CLIP005"})


def fixed(text: str, target: Target = "clipcheck") -> tuple[str, str]:
    """The program after the fix, without what is above it, and why a finding that is left has no fix."""
    settings = Settings(CODES, target, fix=True, safety=Safety.UNSAFE)
    report = check_file("x.py", (HEADER + text).encode(), settings)
    assert report.errors == ()
    lines = report.now.decode().splitlines()
    (why,) = [finding.help for finding in report.findings] or [""]
    kept = [line for line in lines if not line.startswith(("import", "from", "ps =", "grads ="))]
    return "\n".join(kept), why.removeprefix("no automatic fix: ").partition(";")[0]


SQUARES = "sum(p.grad.norm(2).item() ** 2 for p in ps)"
NORM = "grad_norm(ps).item()"

# --- conversions --------------------------------------------------------------------------------------------------------------------

FLOAT32 = [".float()", ".to(torch.float32)", ".to(torch.float)"]
FLOAT64 = [".double()", ".to(torch.float64)", ".to(torch.double)"]


@pytest.mark.parametrize("cast", ["", ".cpu()", *FLOAT32, *FLOAT64])
def test_a_number_has_no_dtype(cast: str) -> None:
    assert fixed(f"n = sum(p.grad{cast}.norm(2).item() ** 2 for p in ps) ** 0.5\n") == (f"n = {NORM}", "")


@pytest.mark.parametrize(
    ("cast", "after"), [*((cast, cast) for cast in FLOAT32), *((cast, "") for cast in FLOAT64), ("", "")]
)
def test_a_tensor_keeps_the_precision_that_was_asked_for(cast: str, after: str) -> None:
    found = fixed(f"n = torch.sqrt(sum(p.grad{cast}.norm() ** 2 for p in ps))\n")
    assert found == (f"n = grad_norm(ps){after}", "")


@pytest.mark.parametrize(
    ("expression", "cast", "target"),
    [
        ("sum(p.grad.half().norm(2).item() ** 2 for p in ps) ** 0.5", ".half()", "clipcheck"),
        ("torch.sqrt(sum(p.grad.half().norm() ** 2 for p in ps))", ".half()", "clipcheck"),
        # what takes gradients returns float32
        *((f"sum(g{cast}.norm(2).item() ** 2 for g in grads) ** 0.5", cast, "clipcheck") for cast in FLOAT64),
        ("torch.sqrt(sum(p.grad.float().norm() ** 2 for p in ps))", ".float()", "torch"),
    ],
)
def test_another_precision_is_left(expression: str, cast: str, target: Target) -> None:
    assert fixed(f"n = {expression}\n", target) == (f"n = {expression}", f"each gradient is cast by `{cast}`")


def test_gradients_are_handed_over_where_there_are_no_parameters() -> None:
    assert fixed("n = sum(g.norm(2).item() ** 2 for g in grads) ** 0.5\n")[0] == "n = get_total_norm(grads).item()"
    found = fixed(f"n = {SQUARES} ** 0.5\n", "torch")
    assert found[0] == "n = torch.nn.utils.get_total_norm([p.grad for p in ps if p.grad is not None]).item()"


@pytest.mark.parametrize(
    ("expression", "after"),
    [
        (f"np.sqrt({SQUARES})", f"np.float64({NORM})"),
        (f"math.sqrt({SQUARES})", NORM),
        (f"float({SQUARES}) ** 0.5", NORM),
        (f"({SQUARES} ** 0.5)", NORM),
        (f"{SQUARES} ** 0.5 / 2", f"{NORM} / 2"),
        (f"f({SQUARES})", f"f({NORM} ** 2)"),
        (f"({SQUARES}).real", f"({NORM} ** 2).real"),
        (f"({SQUARES})[0]", f"({NORM} ** 2)[0]"),
        (f"x ** {SQUARES}", f"x ** {NORM} ** 2"),
        (f"float(np.sqrt({SQUARES}))", NORM),
        (f"-{SQUARES}", f"-{NORM} ** 2"),
    ],
)
def test_the_result_is_of_the_same_type_and_power(expression: str, after: str) -> None:
    assert fixed(f"n = {expression}\n") == (f"n = {after}", "")


def test_parentheses_that_only_hold_the_norm_go_with_it() -> None:
    assert fixed(f"n = ({SQUARES} ** 0.5) + 1\n") == (f"n = {NORM} + 1", "")
    assert fixed(f"def f():\n    return({SQUARES} ** 0.5)\n") == (f"def f():\n    return({NORM})", "")
    assert fixed(f"n = (  # why\n    {SQUARES} ** 0.5\n)\n") == (f"n = (  # why\n    {NORM}\n)", "")


@pytest.mark.parametrize(
    ("expression", "after", "safety"),
    [
        (f"torch.sqrt({SQUARES})", "grad_norm(ps)", Safety.UNSAFE),  # it raises for a number, so a tensor was meant
        (f"({SQUARES}).sqrt()", "grad_norm(ps)", Safety.UNSAFE),
        (f"pow({SQUARES}, 0.5)", NORM, Safety.SAFE),
        (f"math.sqrt({SQUARES})", NORM, Safety.SAFE),
    ],
)
def test_a_root_that_raises_becomes_a_tensor(expression: str, after: str, safety: Safety) -> None:
    assert fixed(f"n = {expression}\n") == (f"n = {after}", "")
    (finding,) = check_file("x.py", f"{HEADER}n = {expression}\n".encode(), Settings(CODES)).findings
    assert finding.fix is not None and finding.fix.safety is safety


# --- exponents ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("order", "root", "shown"),
    [
        ("2", "0.5", ""),
        ("2.0", "(1 / 2)", ""),
        ("3", "(1 / 3)", ", 3"),
        ("k", "(1 / k)", ", k"),
        ("k", "(1.0 / k)", ", k"),
    ],
)
def test_the_order_of_a_norm(order: str, root: str, shown: str) -> None:
    found = fixed(f"n = sum(p.grad.norm({order}).item() ** {order} for p in ps) ** {root}\n")
    assert found == (f"n = grad_norm(ps{shown}).item()", "")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (f"n = {SQUARES} ** (1 / 3)", "the root does not match the norm type"),
        (f"n = {SQUARES} ** 2", "the root does not match the norm type"),
        (f"n = ({SQUARES}) ** 3", "the root does not match the norm type"),
        ("n = sum(p.grad.norm(2).item() ** 3 for p in ps) ** 0.5", "the exponent does not match the norm type"),
        ("n = sum(p.grad.norm(2).item() ** 3 for p in ps)", "the exponent does not match the norm type"),
        ("n = sum(p.grad.norm(2).item() ** 2 for p in ps if (x := p.y)) ** 0.5", "the condition in the loop has a side effect"),
    ],
)  # fmt: skip
def test_a_root_or_power_of_another_order_is_left(text: str, why: str) -> None:
    assert fixed(f"{text}\n") == (text, why)


@pytest.mark.parametrize(
    ("expression", "roles"),
    [
        (f"{SQUARES} ** 0.5", [("ps", Role.PARAMETERS)]),
        (f"{SQUARES.replace('ps', 'model.parameters()')} ** 0.5", [("model.parameters()", Role.PARAMETERS)]),
        ("sum(p.grad.norm().item() ** 2 for n, p in model.named_parameters()) ** 0.5", [("model", Role.MODEL)]),
        (
            "sum(p.grad.norm().item() ** 2 for group in opt.param_groups for p in group['params']) ** 0.5",
            [("opt", Role.OPTIMIZER)],
        ),
        ("sum(g.norm().item() ** 2 for g in grads) ** 0.5", [("grads", Role.GRADIENTS)]),
        (
            "sum(p.grad.norm(k).item() ** k for p in ps) ** (1 / k)",
            [("ps", Role.PARAMETERS), ("k", Role.NORM_TYPE)],
        ),
    ],
)
def test_what_the_expressions_of_the_call_are(expression: str, roles: list[tuple[str, Role]]) -> None:
    (finding,) = check_file("x.py", f"{HEADER}n = {expression}\n".encode(), Settings(CODES)).findings
    assert finding.fix is not None
    assert finding.fix.roles == tuple(roles)


@pytest.mark.parametrize(
    ("text", "after"),
    [
        ("total = 0.0\n{LOOP}\ntotal = sqrt(total)", f"total = {NORM} ** 2\ntotal = sqrt(total)"),
        (f"n = {SQUARES}\nprint(sqrt(n))", f"n = {NORM} ** 2\nprint(sqrt(n))"),
    ],
)
def test_a_numpy_number_needs_the_name_of_numpy(text: str, after: str) -> None:
    assert fixed("from numpy import sqrt\n" + text.replace("{LOOP}", LOOP) + "\n") == (after, "")


# --- roots that are taken later -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "after"),
    [
        (f"n = {SQUARES}\nprint(n ** 0.5)", f"n = {NORM}\nprint(n)"),
        (f"n = {SQUARES}\nm = n ** 0.5", f"m = {NORM}"),
        (f"n = {SQUARES}\nm = n ** 0.5  # why", f"m = {NORM}  # why"),
        (f"n = {SQUARES}  # why\nm = n ** 0.5", f"n = {NORM}  # why\nm = n"),
        (f"n = {SQUARES}\nn = n ** 0.5", f"n = {NORM}"),
        (f"n = {SQUARES}\nn **= 0.5", f"n = {NORM}"),
        (f"n = {SQUARES}\nprint(1)\nm = n ** 0.5", f"n = {NORM}\nprint(1)\nm = n"),
        (f"n = {SQUARES}\nprint(n)", f"n = {NORM} ** 2\nprint(n)"),
        (f"n = {SQUARES}\nprint(n, n ** 0.5)", f"n = {NORM} ** 2\nprint(n, n ** 0.5)"),
        (f"sq = {SQUARES}\nprint(sq ** 0.5, sq ** 0.5)", f"norm = {NORM}\nprint(norm, norm)"),
        (f"total_sq = {SQUARES}\nnorm = 1\nprint(total_sq ** 0.5)", f"total_norm = {NORM}\nnorm = 1\nprint(total_norm)"),
        (f"n = {SQUARES}\nn = 2\nprint(n ** 0.5)", f"n = {NORM} ** 2\nn = 2\nprint(n ** 0.5)"),
        (f"n = {SQUARES}; print(n ** 0.5)", f"n = {NORM} ** 2; print(n ** 0.5)"),
        (f"n = m = {SQUARES}\nprint(n ** 0.5)", f"n = m = {NORM} ** 2\nprint(n ** 0.5)"),
        (f"n = {SQUARES}\nm = math.sqrt(n)", f"m = {NORM}"),
        (f"n = {SQUARES}\nm: float = n ** 0.5", f"m: float = {NORM}"),
        (f"n = {SQUARES}\nm = np.sqrt(n)", f"m = np.float64({NORM})"),
        (f"n = {SQUARES}\nprint(np.sqrt(n), (n ** 0.5))", f"n = {NORM}\nprint(np.float64(n), n)"),
        (f"n = {SQUARES}\nm = n ** 0.5; k = 1", f"n = {NORM}\nm = n; k = 1"),
        (f"n = {SQUARES}\nm = k = n ** 0.5", f"n = {NORM}\nm = k = n"),
        (f"n = {SQUARES}\nn = n ** 0.5  # why", f"n = {NORM} ** 2\nn = n ** 0.5  # why"),
        (f"n = {SQUARES}\nif x:\n    n = 1\nprint(n ** 0.5)", f"n = {NORM} ** 2\nif x:\n    n = 1\nprint(n ** 0.5)"),
        *(
            (f"n = {SQUARES}\nprint(n ** 0.5)\n{again}", f"n = {NORM} ** 2\nprint(n ** 0.5)\n{again}")
            for again in ("n = n ** 0.5", "n **= 0.5", "n: float = n ** 0.5")  # another norm than the one printed
        ),
        (f"def f():\n    n = {SQUARES}\n    return n ** 0.5", f"def f():\n    return {NORM}"),
        (f"def f():\n    n = {SQUARES}\n    n: float = n ** 0.5\n    return n", f"def f():\n    n: float = {NORM}\n    return n"),
        ("n = sum(p.grad.norm() ** 2 for p in ps)\nm = n.item() ** 0.5", f"m = {NORM}"),
        ("n = sum(p.grad.norm() ** 2 for p in ps)\nprint(n.item() ** 0.5, n.sqrt())", "n = grad_norm(ps)\nprint(n.item(), n)"),
        *(
            (f"{target} = {SQUARES}{more}\nprint({name} ** 0.5)", f"{target} = {NORM} ** 2{more}\nprint({name} ** 0.5)")
            for target, more, name in (("self.n", "", "self.n"), ("n, m", ", 1", "n"), ("n: float", "", "n"))
        ),
    ],
)  # fmt: skip
def test_a_root_in_a_later_statement(text: str, after: str) -> None:
    assert fixed(f"{text}\n") == (after, "")


# --- statements that only prepare it ------------------------------------------------------------------------------------------------

LIST = "norms = [p.grad.norm(2).item() ** 2 for p in ps]"
FILLED = "norms = []\nfor p in ps:\n    norms.append(p.grad.norm(2).item() ** 2)"


@pytest.mark.parametrize("prepared", [LIST, FILLED, LIST.replace("=", ": list =", 1)])
def test_what_only_prepares_a_norm_goes_with_it(prepared: str) -> None:
    assert fixed(f"{prepared}\nn = sum(norms) ** 0.5\n") == (f"n = {NORM}", "")


def test_all_steps_of_the_preparation_go_with_the_norm() -> None:
    text = "norms = [p.grad.norm() for p in ps]\nstacked = torch.stack(norms)\nn = stacked.norm()\n"
    assert fixed(text) == ("n = grad_norm(ps)", "")
    assert fixed(f"print(1)\n{text}print(2)\n") == ("print(1)\nn = grad_norm(ps)\nprint(2)", "")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (f"{LIST}\nn = sum(norms) ** 0.5\nprint(norms)", "`norms` is used elsewhere"),
        (f"{LIST}  # why\nn = sum(norms) ** 0.5", "it would remove a comment"),
        (f"{LIST}\nprint(1)\nn = sum(norms) ** 0.5", "the norms are computed and combined in different places"),
        (f"{LIST}\nif x:\n    n = sum(norms) ** 0.5", "the norms are computed and combined in different places"),
        (f"x = 1; {LIST}\nn = sum(norms) ** 0.5", "`norms` is used elsewhere"),
        *((f"{first} = {text}\nn = sum(norms) ** 0.5", "`norms` is used elsewhere") for first in ("kept", "self.norms") for text in (LIST, FILLED)),
        (FILLED + "\nn = sum(norms) ** 0.5\nprint(p)", "`p` is used after the loop"),
        (FILLED + "\n    print(p)\nn = sum(norms) ** 0.5", "the loop has side effects"),
        ("norms = [p.grad.norm() for p in ps]\nstacked = torch.stack(norms)\nprint(1)\nn = stacked.norm()", "the norms are computed and combined in different places"),
        (f"n = {SQUARES.replace(' for', '  # why' + chr(10) + '    for')} ** 0.5", "it would remove a comment inside the expression"),
    ],
)  # fmt: skip
def test_what_prepares_something_else_as_well_stays(text: str, why: str) -> None:
    assert fixed(f"{text}\n") == (text, why)


# --- long lines -----------------------------------------------------------------------------------------------------------------------

LONG = "p.is_frozen_by_somebody_else_in_this_project_who_is_no_longer_here"


def test_a_long_call_is_on_several_lines() -> None:
    assert fixed(f"n = sum(p.grad.norm(2).item() ** 2 for p in ps if p.ready and not {LONG}) ** 0.5\n")[0] == (
        f"n = grad_norm(\n    [\n        p\n        for p in ps\n        if p.ready\n        if not {LONG}\n    ]\n).item()"
    )


def test_a_call_may_be_as_long_as_the_longest_line() -> None:
    expression = (
        "sum(p.grad.norm(2).item() ** 2 for p in ps if not p.is_frozen_by_somebody_else_in_this_project_of_us) ** 0.5"
    )
    short = "n = grad_norm([p for p in ps if not p.is_frozen_by_somebody_else_in_this_project_of_us]).item()"
    assert len(short) > 88
    assert "\n" in fixed(f"n = {expression}\n")[0]
    assert fixed(f"# {'x' * 100}\nn = {expression}\n")[0].splitlines()[1] == short
    assert (
        "\n" in fixed(f"# {'grad' * 25}\nn = {expression}\n")[0].partition("\n")[2]
    )  # a line that may go does not count
    assert "\n" in fixed(f"# {'norm' * 25}\nn = {expression}\n")[0].partition("\n")[2]
    longer = expression.replace("of_us", "of_us_who_are_more_than_one_could_count")
    assert "\n" in fixed(f"# {'x' * 200}\nn = {longer}\n")[0].partition("\n")[2]  # no line is longer than 120
    in_a_string = fixed(f"print(f'{{{expression}}}')\n")[0]
    assert in_a_string.count("\n") == 0


# --- loops ----------------------------------------------------------------------------------------------------------------------------

LOOP = "for p in ps:\n    total += p.grad.norm(2).item() ** 2"
ON_DEVICE = "for p in ps:\n    total += p.grad.norm(2) ** 2"
LINEAR = "for p in ps:\n    total_norm += p.grad.norm(2).item()\n"


@pytest.mark.parametrize(
    ("zero", "begins"),
    [("total = 0.0", "total = "), ("total = 0", "total = "), ("total: float = 0.0", "total: float = ")],
)
def test_the_zero_of_a_loop_goes_with_it(zero: str, begins: str) -> None:
    assert fixed(f"{zero}\n{LOOP}\ntotal = total ** 0.5\n") == (f"{begins}{NORM}", "")


@pytest.mark.parametrize("cast", FLOAT32)
def test_a_cast_in_a_loop_matters_for_a_tensor_alone(cast: str) -> None:
    number, tensor = (f"total = 0.0\n{loop.replace('.norm', f'{cast}.norm')}\n" for loop in (LOOP, ON_DEVICE))
    assert fixed(f"{number}total **= 0.5\n") == (f"total = {NORM}", "")
    assert fixed(f"{tensor}total **= 0.5\n") == (f"total = grad_norm(ps){cast}", "")
    kept = fixed(f"{tensor}print(total.item() ** 0.5)\n")
    assert kept == (f"total = grad_norm(ps){cast}\nprint(total.item())", "")


@pytest.mark.parametrize(
    "zero",
    [
        "0.0",
        "torch.tensor(0.0)",
        "torch.tensor(0.0, device=device)",
        "torch.as_tensor(0.0)",
        "torch.zeros(())",
        "torch.zeros([])",
        "torch.tensor(0.0).cuda()",
        "torch.tensor(0.0).to(device)",
    ],
)
def test_a_zero_without_dimensions(zero: str) -> None:
    assert fixed(f"total = {zero}\n{ON_DEVICE}\ntotal = total ** 0.5\n") == ("total = grad_norm(ps)", "")


@pytest.mark.parametrize(
    "zero",
    [
        "torch.zeros(1)",  # a norm has no dimension
        "torch.tensor([0.0])",
        "torch.zeros(2)",
        "torch.zeros(1, 1)",
        "torch.tensor(0.0, dtype=torch.float64)",
        "torch.tensor(0.0).to(torch.float64)",
        "torch.ones(1)",
        "torch.tensor(1.0)",
        "other",
    ],
)
def test_another_zero_stays(zero: str) -> None:
    text = f"total = {zero}\n{ON_DEVICE}\ntotal = total ** 0.5\n"
    after, _ = fixed(text)
    assert f"total = {zero}\n" in after and "total ** 0.5" in after


@pytest.mark.parametrize(
    ("text", "after"),
    [
        (f"total = 0.0\n{LOOP}\nprint(total ** 0.5)", f"total = {NORM}\nprint(total)"),
        (f"total = 0.0\n{LOOP}\nnorm = total ** 0.5", f"norm = {NORM}"),
        (f"total = 0.0\n{LOOP}\nprint(1)\nsize = total ** 0.5", f"size = {NORM}\nprint(1)"),
        (f"total = 0.0\n{LOOP}\nprint(size)\nsize = total ** 0.5", f"total = {NORM}\nprint(size)\nsize = total"),
        (f"total = 0.0\n{LOOP}\ntotal **= 0.5", f"total = {NORM}"),
        (f"sq = 0.0\n{LOOP.replace('total', 'sq')}\nprint(sq ** 0.5)", f"norm = {NORM}\nprint(norm)"),
    ],
)  # fmt: skip
def test_where_the_root_of_a_loop_is_taken(text: str, after: str) -> None:
    assert fixed(f"{text}\n") == (after, "")


@pytest.mark.parametrize(
    ("text", "after"),
    [
        (f"total = 0.0\n{LOOP}\nprint(1)\nn: float = total ** 0.5", f"n: float = {NORM}\nprint(1)"),
        (f"total = 0.0\n{LOOP}\nprint(n)\nn: float = total ** 0.5", f"total = {NORM}\nprint(n)\nn: float = total"),
        (f"total = 0.0\n{LOOP}\nn = 1\nn = total ** 0.5", f"total = {NORM}\nn = 1\nn = total"),
        (f"total = 0.0\n{LOOP}\nif x:\n    total = total ** 0.5", f"total = {NORM}\nif x:\n    total = total"),
        (f"total = 0.0\n{LOOP}\nif x:\n    n = total ** 0.5", f"total = {NORM}\nif x:\n    n = total"),
        (f"total: float = 0.0\n{LOOP}\nprint(total ** 0.5)", f"total: float = {NORM}\nprint(total)"),
        # used without a root, or before it
        (f"acc = 0.0\n{LOOP.replace('total', 'acc')}\nprint(acc)", f"acc = {NORM} ** 2\nprint(acc)"),
        (f"total_norm = 0.0\n{LOOP.replace('total', 'total_norm')}\nprint(total_norm, total_norm ** 0.5)", f"total_norm = {NORM} ** 2\nprint(total_norm, total_norm ** 0.5)"),
        (f"total = 0.0\n{LOOP}\nif x:\n    total = 1\nprint(total ** 0.5)", f"total = {NORM} ** 2\nif x:\n    total = 1\nprint(total ** 0.5)"),
        (f"total = 0.0\n{LOOP}", f"total = {NORM} ** 2"),
        # what does not start from this zero alone is added to
        *((f"{zero}\n{LOOP}\ntotal = total ** 0.5", f"{zero}\ntotal += {NORM} ** 2\ntotal = total ** 0.5") for zero in (
            *("total = 0.0\nprint(total)", "if x:\n    total = 0.0", "total = 0.0; y = 1", "total = 1.0", "total = other = 0.0", "total = start()", "total, y = 0.0, 1"),
        )),
        (f"total = 0.0\ntotal = 0.0\n{LOOP}\ntotal = total ** 0.5", f"total = 0.0\ntotal = {NORM}"),
        (f"total = 0.0\n{LOOP}\nif x:\n    total **= 0.5", f"total = 0.0\ntotal += {NORM} ** 2\nif x:\n    total **= 0.5"),
        (LOOP, f"total += {NORM} ** 2"),
        (ON_DEVICE, "total += grad_norm(ps) ** 2"),
        ("for p in ps:\n    self.total.add_(p.grad.norm() ** 2)", "self.total.add_(grad_norm(ps) ** 2)"),
        ("for p in ps:\n    total += p.grad.norm(3).item() ** 3", f"total += {NORM.replace('ps', 'ps, 3')} ** 3"),
        # a zero with a dimension
        (f"total = torch.zeros(1)\n{ON_DEVICE}\nprint(total.item() ** 0.5)", "total = grad_norm(ps)\nprint(total.item())"),
        (f"total = torch.zeros(1)\n{ON_DEVICE}\nprint(total)", "total = torch.zeros(1)\ntotal += grad_norm(ps) ** 2\nprint(total)"),
        # other orders
        ("total = 0.0\nfor p in ps:\n    total += p.grad.norm(3).item() ** 3\ntotal = total ** (1 / 3)", f"total = {NORM.replace('ps', 'ps, 3')}"),
        ("total = 0.0\nfor p in ps:\n    total += p.grad.norm(k).item() ** k\nprint(total)", f"total = {NORM.replace('ps', 'ps, k')} ** k\nprint(total)"),
        # on one line, and at the end of the file
        ("total = 0.0\nfor p in ps: total += p.grad.norm(2).item() ** 2\ntotal = total ** 0.5", f"total = {NORM}"),
        # norms that are summed without squares
        (f"total_norm = 0.0\n{LINEAR}print(total_norm)", f"total_norm = {NORM}\nprint(total_norm)"),
    ],
)  # fmt: skip
def test_what_a_loop_becomes(text: str, after: str) -> None:
    for end in ("\n", ""):
        assert fixed(text + end) == (after, "")


def test_the_comments_of_what_is_replaced_stay_in_their_order() -> None:
    loop = "# loop\nfor p in ps:  # each\n    # in\n    total += p.grad.norm(2).item() ** 2  # sum\n"
    kept = "# before\n# loop\n# zero\n# each\n# in\n# sum\n"
    begin = f"# before\ntotal = 0.0  # zero\n{loop}"
    assert fixed(f"{begin}# root\ntotal = total ** 0.5  # end\n") == (f"{kept}# end\ntotal = {NORM}\n# root", "")
    assert fixed(f"{begin}print(total ** 0.5)\n") == (f"{kept}total = {NORM}\nprint(total)", "")
    assert fixed(f"{begin}norm = total ** 0.5  # end\n") == (f"{kept}norm = {NORM}  # end", "")


ONE = "total = 0.0\nfor p in ps:\n    {}\ntotal = total ** 0.5"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (f"{LOOP.replace('total', 'sums[p]')}", "each iteration adds to a different accumulator"),
        ("for k in ks:\n    for p in ps:\n        sums[k] += p.grad.norm(2).item() ** 2", "each iteration adds to a different accumulator"),
        ("for p in ps:\n    total().add_(p.grad.norm() ** 2)", "the accumulator is not a plain name"),
        (f"total_norm = 0.0\n{LOOP.replace('total', 'total_norm')}\nprint(total_norm)", "`total_norm` is named like a norm, but no root is taken of its sum"),
        ("class A:\n    " + f"total = 0.0\n{LOOP}\ntotal = total ** 0.5".replace("\n", "\n    "), "names in a class body are its attributes"),
        (ONE.format("total += p.grad.norm(2).item() ** 2\n    print(total)"), "`total` is read inside the loop"),
        (ONE.format("total += p.grad.norm(2).item() ** 2") + "\nprint(p)", "`p` is used after the loop"),
        (f"total = 0.0\n{LOOP}\ndist.all_reduce(total)\ntotal = total ** 0.5", "the sum is reduced over processes"),
        (ONE.format("last = last + 1\n    if last < 3:\n        total += p.grad.norm(2).item() ** 2"), "the condition in the loop depends on what the loop computes"),
        (ONE.format("ok = p.x\n    if ok:\n        total += p.grad.norm(2).item() ** 2"), "the condition in the loop depends on what the loop computes"),
        (ONE.format("total += np.linalg.norm(p.grad.numpy()) ** 2"), "the sum is a numpy number"),
        (ONE.format("total += p.grad.norm(3).item() ** 2"), "the exponent does not match the norm type"),
        (ONE.format("try:\n        total += p.grad.norm(2).item() ** 2\n    except E:\n        pass"), "errors in the loop are caught"),
        *((text, "call `grad_norm(parameters)`, or square each norm and take the square root of the sum") for text in (
            f"total_norm = 0.0\n{LINEAR}    print(p)\nprint(total_norm)",
            f"total_norm = 1.0\n{LINEAR}print(total_norm)",
            f"total_norm = torch.zeros(1)\n{LINEAR.replace('.item()', '')}print(total_norm)",
            f"total_norm = 0.0\n{LINEAR.replace('.norm', '.half().norm')}print(total_norm)",
        )),
    ],
)  # fmt: skip
def test_why_a_loop_stays(text: str, why: str) -> None:
    assert fixed(f"{text}\n") == (text, why)


def test_a_root_that_is_returned_or_annotated() -> None:
    inner = LOOP.replace("\n", "\n    ")
    assert fixed(f"def f():\n    total = 0.0\n    {inner}\n    return total ** 0.5\n") == (
        f"def f():\n    return {NORM}",
        "",
    )
    apart = f"def f():\n    total = 0.0\n    {inner}\n    print(1)\n    return total ** 0.5\n"
    assert fixed(apart) == (f"def f():\n    total = {NORM}\n    print(1)\n    return total", "")
    assert fixed(f"total = 0.0\n{LOOP}\nn: float = total ** 0.5\n") == (f"n: float = {NORM}", "")
    assert fixed(f"total = 0.0\n{LOOP}\nm = n = total ** 0.5\n") == (f"total = {NORM}\nm = n = total", "")
    assert fixed(f"total = 0.0\n{LOOP}\nn = total ** 0.5; m = 1\n") == (f"total = {NORM}\nn = total; m = 1", "")


@pytest.mark.parametrize(
    ("name", "taken", "new"),
    [
        ("sq", "", "norm"),
        ("normsq", "", "norm"),
        ("total_squared", "", "norm"),
        ("sq_total", "norm", "total_norm"),
        ("sq_total", "norm total_norm", "gradient_norm"),
        ("sq_total", "norm total_norm gradient_norm", "sq_total"),
        ("total", "", "total"),
    ],
)
def test_a_name_that_says_squared_becomes_another_one(name: str, taken: str, new: str) -> None:
    others = "".join(f"{one} = 1\n" for one in taken.split())
    text = f"{others}{name} = 0.0\n{LOOP.replace('total', name)}\nprint({name} ** 0.5)\n"
    assert fixed(text) == (f"{others}{new} = {NORM}\nprint({new})", "")


@pytest.mark.parametrize(
    ("line", "safety"),
    [
        ("from torch.distributed import all_reduce", Safety.SAFE),
        ("from torch.distributed.fsdp import fully_shard", Safety.UNSAFE),
        ("from torch.distributed._composable.fsdp import fully_shard", Safety.UNSAFE),
        ("from torch.distributed.tensor import DTensor", Safety.UNSAFE),
    ],
)
def test_a_norm_of_what_may_be_one_ranks_part_is_not_safe(line: str, safety: Safety) -> None:
    report = check_file("x.py", f"{HEADER}{line}\nn = {SQUARES} ** 0.5\n".encode(), Settings(CODES))
    assert [finding.fix and finding.fix.safety for finding in report.findings] == [safety]


@pytest.mark.parametrize(
    ("text", "after"),
    [
        (f"total = 0.0\n{ON_DEVICE}\nprint(total ** 0.5)", "total = grad_norm(ps)\nprint(total)"),
        (f"total = 0.0\n{ON_DEVICE}\nprint(math.sqrt(total))", "total = grad_norm(ps)\nprint(total.item())"),
        (f"total = 0.0\n{ON_DEVICE}\nprint(total.item() ** 0.5)", "total = grad_norm(ps)\nprint(total.item())"),
        (f"total = 0.0\n{LOOP}\nprint(np.sqrt(total))", f"total = {NORM}\nprint(np.float64(total))"),
        (f"total = 0.0\n{LOOP}\nprint(math.sqrt(total))", f"total = {NORM}\nprint(total)"),
    ],
)
def test_a_root_keeps_its_type(text: str, after: str) -> None:
    assert fixed(f"{text}\n") == (after, "")


# --- accumulators that are an element or an attribute -------------------------------------------------------------------------------


def in_slot(slot: str, zero: str = "{} = 0.0\n", between: str = "", root: str = "{} = {} ** 0.5\n") -> str:
    loop = f"for p in ps:\n    {slot} += p.grad.norm(2).item() ** 2\n"
    return zero.format(slot) + between + loop + root.format(slot, slot)


@pytest.mark.parametrize("slot", ["norms[key]", "self.total", "norms['a'].x", "norms[i, j]"])
@pytest.mark.parametrize("zero", ["{} = 0.0\n", "{} = 0\n"])
@pytest.mark.parametrize("root", ["{} = {} ** 0.5\n", "{} **= 0.5\n", "{} = math.sqrt({})\n"])
def test_an_element_or_attribute_becomes_the_norm(slot: str, zero: str, root: str) -> None:
    assert fixed(in_slot(slot, zero, root=root)) == (f"{slot} = {NORM}", "")
    assert fixed(in_slot(slot, zero, "y = 1\n", root)) == (f"y = 1\n{slot} = {NORM}", "")


@pytest.mark.parametrize(
    ("zero", "between", "root"),
    [
        ("", "", "{} = {} ** 0.5\n"),
        ("{} = 1.0\n", "", "{} = {} ** 0.5\n"),
        ("{} = 0.0\n", "key = 2\n", "{} = {} ** 0.5\n"),  # another element
        ("{} = 0.0\n", "norms = []\n", "{} = {} ** 0.5\n"),
        ("{} = 0.0\n", "x = norms\n", "{} = {} ** 0.5\n"),
        ("{} = 0.0\n", "print(x)\n", "{} = {} ** 0.5\n"),  # which may read it
        ("{} = 0.0\n", "", ""),
        ("{} = 0.0\n", "", "print(x)\n{} = {} ** 0.5\n"),
        ("{} = 0.0\n", "", "x = {} ** 0.5\n"),
        ("{} = 0.0\n", "", "{} = {} ** 0.5 + 1\n"),
        ("{} = 0.0\n", "", "{0} = {0} ** 0.5 + {0}\n"),
    ],
)
def test_an_element_that_others_may_see_stays_a_power(zero: str, between: str, root: str) -> None:
    slot = "norms[key]"
    text = in_slot(slot, zero, between, root)
    after = text.replace("for p in ps:\n    norms[key] += p.grad.norm(2).item() ** 2", f"norms[key] += {NORM} ** 2")
    assert fixed(text) == (after.rstrip("\n"), "")


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_what_is_below_a_loop_stays_on_a_line_of_its_own(end: str) -> None:
    text = "total = 0.0\nfor p in ps:\n    total += p.grad.norm(2).item() ** 2\nprint(total)\n"
    settings = Settings(CODES, fix=True, safety=Safety.UNSAFE)
    report = check_file("x.py", (HEADER + text).replace("\n", end).encode(), settings)
    assert report.now.decode().split(end)[-3:] == [f"total = {NORM} ** 2", "print(total)", ""]


def test_a_sum_under_a_test_on_the_same_line_keeps_its_power() -> None:
    text = f"if ok: total = {SQUARES}\nprint(math.sqrt(total))\n"
    assert fixed(text)[0] == f"if ok: total = {NORM} ** 2\nprint(math.sqrt(total))"
