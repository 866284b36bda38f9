"""A loop that sums up a norm and does something else as well: the norm moves out if that changes nothing else."""

from __future__ import annotations

import pytest

from clipcheck.engine.file import check_file
from clipcheck.rule import Safety
from clipcheck.settings.keys import Settings

HEAD = "import torch\n"
SQUARE = "total += p.grad.norm(2).item() ** 2"
EACH, EFFECTS = "the norm of each tensor is needed", "the loop has side effects"


def fixed(text: str) -> tuple[str, str]:
    """The program after the fix, without its imports, and why a finding that is left has no fix."""
    settings = Settings(frozenset({"CLIP001"}), fix=True, safety=Safety.UNSAFE)
    report = check_file("x.py", f"{HEAD}{text}".encode(), settings)
    assert report.errors == ()
    (why,) = [finding.help for finding in report.findings] or [""]
    lines = report.now.decode().splitlines(keepends=True)
    kept = "".join(line for line in lines if not line.startswith(("import torch", "from clipcheck")))
    return kept, why.removeprefix("no automatic fix: ").partition(";")[0]


def loop(extra: str, over: str = "model.parameters()", first: str = "", square: str = SQUARE) -> str:
    inner = "".join(f"    {line}\n" for line in [*extra.splitlines(), square])
    return f"{first}total = 0.0\nfor p in {over}:\n{inner}total = total ** 0.5\n"


def split(extra: str, over: str = "model.parameters()", first: str = "") -> str:
    inner = "".join(f"    {line}\n" for line in extra.splitlines())
    return f"{first}total = grad_norm({over}).item()\nfor p in {over}:\n{inner}"


@pytest.mark.parametrize(
    "extra",
    [
        "print(p)",
        "count += p.numel()",
        "count += 1",
        "largest = max(largest, p.grad.abs().max())",
        "names.append(p.shape)",
        "print(p, total=1)",  # the name of an argument
        "sizes[p] = p.size(0)",
        "writer.add_scalar('x', p.mean())",
        "if p.grad is None:\n    print(p)",
        "if torch.isnan(p.grad).any():\n    logger.warning('NaN')",
        "x = p.detach().cpu().numpy()",
        "print(p.grad.norm())",  # a tensor, for which the host does not wait
        "x: int = p.numel()",
    ],
)
def test_what_only_looks_at_the_parameters_stays_in_the_loop(extra: str) -> None:
    assert fixed(loop(extra)) == (split(extra), "")


@pytest.mark.parametrize(
    ("extra", "why"),
    [
        ("p.grad.zero_()", EFFECTS),
        ("p.grad = p.grad * 2", EFFECTS),
        ("p.grad *= 2", EFFECTS),
        ("p.grad[0] = 0", EFFECTS),
        ("self.x = p", EFFECTS),
        ("self.x: int = 1", EFFECTS),
        ("a, b = p", EFFECTS),
        ("change(p)", EFFECTS),
        ("for x in p:\n    print(x)", EFFECTS),
        ("while x:\n    print(x)", EFFECTS),
        ("with x:\n    print(p)", EFFECTS),
        ("try:\n    print(p)\nexcept E:\n    pass", EFFECTS),
        ("del x", EFFECTS),
        ("def f():\n    pass", EFFECTS),
        ("print(p.grad.norm(2).item())", EACH),
    ],
)
def test_what_may_do_more_keeps_the_loop(extra: str, why: str) -> None:
    assert fixed(loop(extra)) == (loop(extra), why)


@pytest.mark.parametrize(
    ("over", "first"),
    [
        ("model.parameters()", ""),
        ("model.trained.parameters()", ""),
        ("[a, b]", ""),
        ("(a, b)", ""),
        ("[x for x in xs]", ""),
        ("group['params']", ""),
        ("ps", "ps = [a, b]\n"),
        ("ps", "ps = (a, b)\n"),
        ("ps", "ps = [x for x in xs]\n"),
        ("ps", "ps = list(model.parameters())\n"),
        ("ps", "ps = tuple(model.parameters())\n"),
        ("ps", "ps = sorted(xs)\n"),
    ],
)
def test_what_can_be_read_twice_is(over: str, first: str) -> None:
    assert fixed(loop("print(p)", over, first)) == (split("print(p)", over, first), "")


@pytest.mark.parametrize(
    ("over", "first"),
    [
        ("ps", ""),
        ("ps", "ps = model.parameters()\n"),
        ("ps", "ps = filter(f, xs)\n"),
        ("ps", "if a:\n    ps = [b]\nelse:\n    ps = iter(c)\n"),
        ("pick()", ""),
        ("model.pick()", ""),
        ("model.parameters(False)", ""),
        ("iter(ps)", ""),
        ("group['others']", ""),
    ],
)
def test_what_may_be_read_once_is_not_read_twice(over: str, first: str) -> None:
    text = loop("print(p)", over, first)
    assert fixed(text) == (text, f"{EFFECTS}, and it may iterate over something that can be read only once")


def test_statements_that_only_help_the_norm_move_with_it() -> None:
    helped = SQUARE.replace("p.grad", "g")
    for name in ("g", "g: Tensor"):
        assert fixed(loop(f"{name} = p.grad\nprint(p)", square=helped)) == (split("print(p)"), "")
    text = loop("g = p.grad\nprint(g)", square=helped)
    assert fixed(text) == (text, EACH)
    tested = "if p.grad is not None:\n        " + SQUARE
    assert fixed(loop("print(p)", square=tested)) == (split("print(p)"), "")


@pytest.mark.parametrize(
    ("head", "over"),
    [
        (
            "for group in opt.param_groups:\n    for p in group['params']:\n        print(p)\n",
            "[p for group in opt.param_groups for p in group['params']]",
        ),
        (
            "for m in model.children():\n    for p in m.parameters():\n        print(m, p)\n",
            "[p for m in model.children() for p in m.parameters()]",
        ),
        (
            "for m in model.modules():\n    for p in [m.weight, m.bias]:\n        print(m, p)\n",
            "[p for m in model.modules() for p in [m.weight, m.bias]]",
        ),
        ("for n, p in model.named_parameters():\n    print(n)\n", "model.parameters()"),
        ("for p in table.values():\n    print(p)\n", "table.values()"),
        ("for n, p in table.items():\n    print(n)\n", "[p for n, p in table.items()]"),
        ("for i, p in enumerate(model.parameters()):\n    print(i)\n", "[p for i, p in enumerate(model.parameters())]"),
        (
            "for i, p in enumerate(model.parameters(), 1):\n    print(i)\n",
            "[p for i, p in enumerate(model.parameters(), 1)]",
        ),
    ],
)
def test_a_loop_over_what_gives_the_same_each_time_is_split(head: str, over: str) -> None:
    inner = " " * (4 + 4 * head.count("\n    for"))
    text = f"total = 0.0\n{head}{inner}{SQUARE}\ntotal = total ** 0.5\n"
    assert fixed(text) == (f"total = grad_norm({over}).item()\n{head}", "")


@pytest.mark.parametrize(
    "head",
    [
        "for m in model.pick():\n    for p in m.parameters():\n        print(p)\n",
        "for m in model.children():\n    for p in m.pick():\n        print(p)\n",
        "for i, p in enumerate(pick()):\n    print(p)\n",
    ],
)
def test_a_loop_over_what_may_be_used_up_is_not_split(head: str) -> None:
    inner = " " * (4 + 4 * head.count("\n    for"))
    text = f"total = 0.0\n{head}{inner}{SQUARE}\ntotal = total ** 0.5\n"
    assert fixed(text) == (text, f"{EFFECTS}, and it may iterate over something that can be read only once")


@pytest.mark.parametrize(
    "text",
    [
        loop("", square=f"print(p); {SQUARE}"),
        f"ps = [a, b]\ntotal = 0.0\nfor p in ps: print(p); {SQUARE}\ntotal = total ** 0.5\n",
        loop("", square=f"if p.x:\n        print(p)\n    elif p.y:\n        {SQUARE}"),
        # nor one that sets something else as well
        *(
            loop(f"{names}\nprint(p)", square=SQUARE.replace("p.grad", "g"))
            for names in ("g = h = p.grad", "g = self.g = p.grad", "g, h = p.grad, 1")
        ),
    ],
)
def test_a_statement_that_cannot_be_taken_out_by_itself_keeps_the_loop(text: str) -> None:
    assert fixed(text) == (text, EFFECTS)


@pytest.mark.parametrize(
    ("head", "condition"),
    [
        ("n = 0.0\nif p.x:\n    n = p.grad.norm(2).item()\nprint(p)", "p.x"),
        ("if p.x:\n    n = p.grad.norm(2).item()\nelse:\n    n = 0.0\nprint(p)", "p.x"),
        ("if not p.x:\n    n = 0.0\nelse:\n    n = p.grad.norm(2).item()\nprint(p)", "p.x"),
    ],
)
def test_a_norm_that_is_zero_by_default_moves_out_with_its_test(head: str, condition: str) -> None:
    after = f"total = grad_norm([p for p in model.parameters() if {condition}]).item()\nfor p in model.parameters():\n    print(p)\n"
    assert fixed(loop(head, square="total += n ** 2")) == (after, "")


def test_a_test_that_the_norm_shares_stays() -> None:
    shared = f"if p.grad is not None:\n        {SQUARE}\n        print(p)"
    assert fixed(loop("count += 1", square=shared)) == (
        split("count += 1\nif p.grad is not None:\n    print(p)"),
        "",
    )
    other = f"if p.grad is not None:\n        {SQUARE}\n    else:\n        print(p)"
    assert fixed(loop("count += 1", square=other)) == (loop("count += 1", square=other), EFFECTS)


@pytest.mark.parametrize(
    ("end", "begin", "after"),
    [
        ("norm = total ** 0.5\n", "norm = ", ""),
        ("return total ** 0.5\n", "total = ", "return total\n"),
        ("print(total ** 0.5)\n", "total = ", "print(total)\n"),
    ],
)
def test_a_root_after_a_loop_that_stays(end: str, begin: str, after: str) -> None:
    text = loop("print(p)").removesuffix("total = total ** 0.5\n") + end
    assert fixed(text) == (f"{begin}{split('print(p)').removeprefix('total = ')}{after}", "")


def test_a_name_that_the_loop_reads_is_not_assigned_above_it() -> None:
    text = loop("print(norm)").removesuffix("total = total ** 0.5\n") + "norm = total ** 0.5\n"
    assert fixed(text) == (split("print(norm)") + "norm = total\n", "")
