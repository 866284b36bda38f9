"""Thousands of ways to write the same gradient norm: each is found, rewritten, and gives the same number as before.

The programs are assembled from the parts of public code (iterable, guard, receiver, norm, square, accumulation, root),
so that no list of notations can pass for understanding.
"""

from __future__ import annotations

import itertools
import math
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipcheck.engine.file import check_file
from clipcheck.settings.keys import Settings

numpy = pytest.importorskip("numpy")
torch = pytest.importorskip("torch")

CORE = Settings(codes=frozenset({"CLIP001"}), fix=True)


class Loop(NamedTuple):
    head: str
    item: str  # the parameter inside the loop


LOOPS = [
    Loop("for p in model.parameters():", "p"),
    Loop("for param in list(model.parameters()):", "param"),
    Loop("for name, p in model.named_parameters():", "p"),
    Loop("for _, w in model.named_parameters():", "w"),
    Loop("for p in params:", "p"),
    Loop("for p in itertools.chain(model[0].parameters(), model[2].parameters()):", "p"),
    Loop("for p in [q for q in model.parameters() if q.requires_grad]:", "p"),
    Loop("for p in filter(lambda q: q.grad is not None, model.parameters()):", "p"),
]
GUARDS = [
    "",
    "if {p}.grad is not None:",
    "if {p}.grad is None: continue",
    "if {p}.requires_grad and {p}.grad is not None:",
    "if {p}.grad != None:",
]
RECEIVERS = ["{p}.grad", "{p}.grad.data", "{p}.grad.detach()", "{p}.grad.detach().data"]
NORMS = [
    "{g}.norm(2)", "{g}.norm()", "{g}.norm(2.0)", "{g}.norm(p=2)", "torch.norm({g})", "torch.norm({g}, 2)",
    "torch.norm({g}, p=2.0)", "torch.linalg.norm({g})", "torch.linalg.vector_norm({g})", "th.norm({g}, 2)",
    "torch.linalg.vector_norm({g}, ord=2)", "norm({g})",
]  # fmt: skip
SQUARES_OF_NORM = [
    "{n}.item() ** 2", "float({n}) ** 2", "math.pow({n}.item(), 2)", "pow({n}.item(), 2)", "({n} ** 2).item()",
    "float({n} ** 2)", "{n}.item() ** 2.0", "{n}.pow(2).item()", "{n}.square().item()",
]  # fmt: skip
SQUARES = [
    "{g}.pow(2).sum().item()", "({g} ** 2).sum().item()", "torch.sum({g} ** 2).item()", "{g}.square().sum().item()",
    "({g} * {g}).sum().item()", "torch.dot({g}.flatten(), {g}.flatten()).item()", "float(({g} ** 2).sum())",
    "torch.sum({g} * {g}).item()", "{g}.pow(2).sum().cpu().item()",
]  # fmt: skip
ADDS = ["total += {x}", "total = total + {x}", "total = {x} + total"]
SEEDS = ["total = 0.0", "total = 0.", "total = 0"]
ROOTS = [
    "total = total ** 0.5\n    return total", "total **= 0.5\n    return total", "total = math.sqrt(total)\n    return total",
    "return total ** 0.5", "return total ** (1. / 2)", "return math.sqrt(total)", "return np.sqrt(total)",
    "total = total ** (1 / 2)\n    return total", "gn = total ** .5\n    return gn", "return total",
    "return f'{total ** 0.5:.3f}'", "return pow(total, 0.5)",
]  # fmt: skip
FOLDS = [
    "sum({e}) ** 0.5",
    "math.sqrt(sum({e}))",
    "np.sqrt(sum([{e}]))",
    "np.sqrt(np.sum([{e}]))",
    "sum([{e}])",
    "sum([{e}]) ** (1.0 / 2.0)",
]

IMPORTS = (
    "import itertools\nimport math\nimport numpy as np\nimport torch\nimport torch as th\nfrom torch import norm\n\n"
)


@st.composite
def loops(draw: st.DrawFn) -> tuple[str, bool]:
    """A function with a norm loop, and whether it accepts a gradient of None."""
    loop, guard = draw(st.sampled_from(LOOPS)), draw(st.sampled_from(GUARDS))
    grad = draw(st.sampled_from(RECEIVERS)).format(p=loop.item)
    statements = draw(bodies(grad))
    guard = guard.format(p=loop.item)
    deep = guard and not guard.endswith("continue")
    lines = [*([guard] if guard else []), *(("    " if deep else "") + line for line in statements)]
    body = "\n".join("        " + line for line in lines)
    root = draw(st.sampled_from(ROOTS))
    code = f"{IMPORTS}def measure(model, params):\n    {draw(st.sampled_from(SEEDS))}\n    {loop.head}\n{body}\n    {root}\n"
    return code, bool(guard) or "is not None" in loop.head


@st.composite
def bodies(draw: st.DrawFn, grad: str) -> list[str]:
    add = draw(st.sampled_from(ADDS))
    kind = draw(st.sampled_from(["one", "two", "item first", "elements"]))
    norm = draw(st.sampled_from(NORMS)).format(g=grad)
    square = draw(st.sampled_from(SQUARES_OF_NORM))
    match kind:
        case "one":
            return [add.format(x=square.format(n=norm))]
        case "two":
            return [f"param_norm = {norm}", add.format(x=square.format(n="param_norm"))]
        case "item first":
            return [f"param_norm = {norm}.item()", add.format(x="param_norm ** 2")]
    return [add.format(x=draw(st.sampled_from(SQUARES)).format(g=grad))]


@st.composite
def comprehensions(draw: st.DrawFn) -> tuple[str, bool]:
    loop = draw(st.sampled_from(LOOPS))
    guard = draw(st.sampled_from([g for g in GUARDS if "continue" not in g])).format(p=loop.item).rstrip(":")
    grad = draw(st.sampled_from(RECEIVERS)).format(p=loop.item)
    norm = draw(st.sampled_from(NORMS)).format(g=grad)
    if draw(st.booleans()):
        square = draw(st.sampled_from(SQUARES_OF_NORM)).format(n=norm)
    else:
        square = draw(st.sampled_from(SQUARES)).format(g=grad)
    element = f"{square} {loop.head.rstrip(':')} {guard}".strip()
    fold = draw(st.sampled_from(FOLDS)).format(e=element)
    return f"{IMPORTS}def measure(model, params):\n    return {fold}\n", bool(guard) or "is not None" in loop.head


def model_with_gradients(none: bool) -> torch.nn.Sequential:
    generator = torch.Generator().manual_seed(3)
    model = torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.ReLU(), torch.nn.Linear(7, 3))
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    if none:
        model[2].bias.grad = None
    return model


def measured(code: str, none: bool) -> Any:
    names: dict[str, Any] = {}
    exec(compile(code, "program", "exec"), names)
    model = model_with_gradients(none)
    return names["measure"](model, list(model.parameters()))


def rewritten(code: str) -> str:
    report = check_file("x.py", code.encode(), CORE)
    assert report.errors == (), report.errors
    assert report.fixed, f"not found:\n{code}"
    assert report.findings == (), f"left without a fix: {report.findings[0].help}\n{code}"
    assert report.fixed_data is not None
    return report.fixed_data.decode()


def assert_same(before: Any, after: Any, code: str) -> None:
    assert type(before) is type(after), code
    if isinstance(before, str):
        assert before == after, code
    else:
        assert math.isclose(float(before), float(after), rel_tol=1e-6), code


@settings(max_examples=400, deadline=None, derandomize=True)
@given(loops())
def test_every_loop_is_found_and_keeps_its_result(program: tuple[str, bool]) -> None:
    code, copes_with_none = program
    after = rewritten(code)
    assert "for " not in after.split("def measure")[1] or "[" in after, after
    for none in {False, copes_with_none}:
        assert_same(measured(code, none), measured(after, none), after)


@settings(max_examples=250, deadline=None, derandomize=True)
@given(comprehensions())
def test_every_comprehension_is_found_and_keeps_its_result(program: tuple[str, bool]) -> None:
    code, copes_with_none = program
    after = rewritten(code)
    for none in {False, copes_with_none}:
        assert_same(measured(code, none), measured(after, none), after)


# The same shapes with other things than gradients, or without a sum.
SILENT = [
    "    for p in model.parameters():\n        total += p.data.norm(2).item() ** 2",
    "    for p in model.parameters():\n        total += p.norm(2).item() ** 2",
    "    for name, b in model.named_buffers():\n        total += b.norm(2).item() ** 2",
    "    for group in optimizer.param_groups:\n        for p in group['params']:\n            total += optimizer.state[p]['exp_avg'].norm().item() ** 2",
    "    for x, y in batches:\n        total += (x - y).norm(2).item() ** 2",
    "    for w in weights:\n        total += w.norm(2).item() ** 2",
    "    for h in hidden:\n        total += h.pow(2).sum().item()",
    "    for p, q in zip(a.parameters(), b.parameters()):\n        total += (p - q).norm().item() ** 2",
    "    for layer in model.layers:\n        total += np.linalg.norm(layer.W) ** 2",
]


@pytest.mark.parametrize("loop", SILENT)
def test_norms_of_other_things_are_left_alone(loop: str) -> None:
    code = f"{IMPORTS}def measure(model, optimizer, batches, weights, hidden, a, b):\n    total = 0.0\n{loop}\n    return total ** 0.5\n"
    assert check_file("x.py", code.encode(), CORE).findings == ()


def test_the_parts_make_a_thousand_programs() -> None:
    """Guards against a generator that draws the same program repeatedly."""
    loops_there_are = math.prod(map(len, (LOOPS, GUARDS, RECEIVERS, NORMS, SQUARES_OF_NORM, ADDS, SEEDS, ROOTS)))
    assert loops_there_are > 1_000_000
    assert numpy.prod([len(part) for part in (LOOPS, SQUARES, FOLDS)]) > 400
    assert len(set(itertools.chain(NORMS, SQUARES, SQUARES_OF_NORM))) == len(NORMS) + len(SQUARES) + len(
        SQUARES_OF_NORM
    )
