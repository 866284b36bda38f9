"""Numbers in source code, and the part of an assignment that belongs to one of several names."""

from __future__ import annotations

import math

import libcst as cst
import pytest

from clipcheck.python.assignments import assigned_value, assigned_values, loop_of, only_assignment
from clipcheck.python.literals import is_zero, number
from clipcheck.python.source import Source

HEADER = "import math\nimport numpy as np\nimport torch\n"


def asked(program: str) -> tuple[Source, cst.BaseExpression]:
    """A program and the expression on its last line."""
    source = Source(HEADER + program)
    *_, last = source.nodes(cst.Expr)
    return source, last.value


@pytest.mark.parametrize(
    "program",
    [
        "x",
        "from math import inf\nfrom a import inf\ninf",
        "'1'",
        "float(x)",
        "float('one')",
        "1 + 1",
        "not 1",
        "math.pi",
        "int('1')",
        "f(1)",
    ],
)
def test_expressions_that_are_not_numbers(program: str) -> None:
    assert number(*asked(program)) is None


@pytest.mark.parametrize(
    ("program", "value"),
    [
        ("1", 1.0),
        ("0x10", 16.0),
        ("1e-3", 0.001),
        ("-2.5", -2.5),
        ("float('inf')", math.inf),
        ("-float('inf')", -math.inf),
        ("math.inf", math.inf),
        ("torch.inf", math.inf),
        ("np.inf", math.inf),
        ("-math.inf", -math.inf),
        ("from math import inf\nfrom torch._six import inf\ninf", math.inf),
    ],
)
def test_a_number(program: str, value: float) -> None:
    assert number(*asked(program)) == value


def test_the_number_of_a_missing_expression_is_none() -> None:
    assert number(Source(""), None) is None


@pytest.mark.parametrize(
    "program",
    ["1", "x", "[]", "[0, 0]", "'0'", "float()", "float(1)", "f(0)", "torch.ones(1)", "torch.zeros(1).add(1)", "None"],
)
def test_expressions_that_are_not_zero(program: str) -> None:
    assert not is_zero(*asked(program))


@pytest.mark.parametrize(
    "program",
    [
        *("0", "0.0", "0e5", "[0]", "float(0)", "int(0.0)", "torch.tensor(0)", "torch.tensor([0.0])"),
        *(
            "torch.zeros(1)",
            "torch.zeros(1, device=d)",
            "torch.zeros_like(p)",
            "torch.zeros(1).to(d)",
            "torch.tensor(0.).cuda()",
        ),
    ],
)
def test_a_zero(program: str) -> None:
    assert is_zero(*asked(program))


@pytest.mark.parametrize(
    ("program", "values"),
    [
        ("x = 1\nx", ["1"]),
        ("x = 1\nx = 2\nx", ["2"]),
        ("x = 1\nif y:\n    x = 2\nx", ["2", "1"]),
        ("x = y = 1\nx", ["1"]),
        ("x: int = 1\nx", ["1"]),
        ("y, x = 1, 2\nx", ["2"]),
        ("(a, (x, b)), c = (1, [2, 3]), 4\nx", ["2"]),
        ("[a, x] = [1, 2]\nx", ["2"]),
        ("a, x = f()\nx", [None]),
        ("a, b, x = 1, *y\nx", [None]),
        ("*a, x = 1, 2, 3\nx", [None]),
        ("a, x = (1,)\nx", [None]),
        ("x = 1\nx += 1\nx", [None]),
        ("for x in y:\n    x", [None]),
        ("def f(x):\n    x", [None]),
        ("x", []),
    ],
)
def test_the_value_that_is_assigned_to_a_name(program: str, values: list[str | None]) -> None:
    source, node = asked(program)
    assert isinstance(node, cst.Name)
    found = assigned_values(source, node)
    assert sorted(map(str, (value and source.code(value) for value in found))) == sorted(map(str, values))


@pytest.mark.parametrize(
    ("program", "value"),
    [
        ("x = 1\nx", "1"),
        ("x = 1\nx = 2\nx", "2"),
        ("x = 1\nif y:\n    x = 2\nx", None),
        ("y, x = 1, 2\nx", None),
        ("x = 1\nx += 1\nx", None),
        ("for x in y:\n    x", None),
        ("import x\nx", None),
        ("x", None),
    ],
)
def test_the_only_assignment_of_a_name(program: str, value: str | None) -> None:
    source, node = asked(program)
    assert isinstance(node, cst.Name)
    binding = only_assignment(source, node)
    assert (binding and source.code(assigned_value(source, binding) or node)) == value


@pytest.mark.parametrize(
    ("program", "path"),
    [
        ("for x in y:\n    x", ()),
        ("for a, x in y:\n    x", (1,)),
        ("for i, (x, b) in y:\n    x", (1, 0)),
        ("[x for a, [b, x] in y]", (1, 1)),
    ],
)
def test_the_path_to_a_name_in_the_target_of_a_loop(program: str, path: tuple[int, ...]) -> None:
    source = Source(program)
    scopes = source.names.scopes.values()
    (binding,) = [one for scope in scopes for one in scope.bindings.get("x", []) if one.kind == "for"]
    loop, found = loop_of(source, binding.node)
    assert source.code(loop.iter) == "y"
    assert found == path
