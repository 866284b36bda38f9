"""One side of an experiment: statements in the harness's names, with the paths of the functions that they call."""

from __future__ import annotations

import ast
from typing import Any

import pytest

from clipcheck.python.source import Source
from clipcheck.rule import Role
from clipcheck.verify.allowed import NotVerifiable
from clipcheck.verify.sides import (
    LETTERS_MOST,
    Body,
    Placeholders,
    Side,
    expression,
    flattened,
    function,
    in_float64,
    origin,
    statements,
)

HEAD = "import json\nimport math\nimport numpy as np\nimport torch\nfrom torch.nn.utils import clip_grad_norm_\n\n"
NAMED = {"ps": Role.PARAMETERS, "model.parameters()": Role.PARAMETERS, "gs": Role.GRADIENTS, "c": Role.MAX_NORM}


def body(text: str, whole: bool = True, **roles: Role) -> tuple[Body, Placeholders]:
    source = Source(HEAD + text + "\n")
    places = Placeholders((NAMED | roles).items())
    end = len(source.text) - (not whole)
    return Body(source, [((len(HEAD), end), whole)], places), places


def code(of: Body) -> str:
    return "\n".join(ast.unparse(ast.fix_missing_locations(node)) for node in of.nodes)


WHOLE = {
    "total = torch.norm(gs)": "total = torch__norm(gradients__0__name)",
    "for p in model.parameters():\n    p.grad.mul_(2)": "for p in parameters__1__call():\n    p.grad.mul_(2)",
    "x: float = math.sqrt(2.0)\ny: int": "x = math__sqrt(2.0)\npass",
    "clip_grad_norm_(ps, c)": "torch__nn__utils__clip_grad_norm_(parameters__0__name, max_norm__0__name)",
    "torch.nn.utils.clip_grad.clip_grad_norm_(ps, c)": "torch__nn__utils__clip_grad_norm_(parameters__0__name, max_norm__0__name)",
    "x = gs[0].to(device)": "x = gradients__0__name[0].to('cpu')",
    "x = gs[0].to(torch.float32)": "x = gradients__0__name[0].to(torch__float32)",
    "x = torch.zeros(1, device=self.device)": "x = torch__zeros(1, device='cpu')",
    "x = gs[0].to(f)": "x = gradients__0__name[0].to(f)",
    "x = gs[0].to(f())": "x = gradients__0__name[0].to(f())",
    "x = gs[0].to(self.device, copy=c)": "x = gradients__0__name[0].to('cpu', copy=max_norm__0__name)",
    "x = gs[0].cpu(device)": "x = gradients__0__name[0].cpu(device)",
    "x = torch.zeros(1, device=f)": "x = torch__zeros(1, device=f)",
    "x = torch.zeros(1, dtype=device)": "x = torch__zeros(1, dtype=device)",
    "x = ps": "x = parameters__0__name",
    "x = [model.parameters(), model.parameters()]": "x = [parameters__1__call(), parameters__1__call()]",
    "x = torch.zeros(1, device=gs)": "x = torch__zeros(1, device=gradients__0__name)",
    "ps = 1": "ps = 1",
}


@pytest.mark.parametrize("text", WHOLE)
def test_statements_in_the_words_of_the_harness(text: str) -> None:
    assert code(body(text)[0]) == WHOLE[text]


def test_an_expression_is_a_value_and_a_clip_is_called() -> None:
    assert code(body("torch.norm(gs)", whole=False)[0]) == "value__0 = torch__norm(gradients__0__name)"
    one, places = body("clip_grad_norm_", whole=False)
    assert code(one) == "value__0 = torch__nn__utils__clip_grad_norm_(parameters__own__call(), max_norm__own__name)"
    assert places.roles["parameters__own__call"] == "parameters" and places.roles["max_norm__own__name"] == "max_norm"
    assert code(body("torch.norm", whole=False)[0]) == "value__0 = torch__norm"


@pytest.mark.parametrize(
    ("text", "stored", "left", "seeds", "unknown"),
    [
        ("total += torch.sum(x for x in gs)", "total x", "total", "total", ""),
        ("x = y = z", "x y", "x y", "", "z"),
        ("x = json.loads(y)", "x", "x", "", "json y"),
        ("x = [g for g in gs]\ng = x", "g x", "g x", "", ""),
        ("x = map(lambda g: g, gs)", "x", "x", "", ""),
        ("if c:\n    x = 1\ny = x", "x y", "x y", "", ""),
    ],
)
def test_names_of_a_side(text: str, stored: str, left: str, seeds: str, unknown: str) -> None:
    one, _ = body(text)
    found = (one.stored, one.left, one.seeds, one.unknown)
    assert [" ".join(sorted(names)) for names in found] == [stored, left, seeds, unknown]


@pytest.mark.parametrize(
    ("text", "touches", "returns"),
    [
        ("clip_grad_norm_(ps, c)", True, False),
        ("torch.norm(gs)", False, False),
        ("torch.nn.utils.clip_grad_norm(ps, c)", True, False),
        ("torch.nn.utils.clip_grad_value_(ps, c)", True, False),
        ("torch.clamp_(gs[0], 1.0)", True, False),
        ("torch.clamp(gs[0], 1.0)", False, False),
        ("import clipcheck.runtime\nclipcheck.runtime.clip_grad_norm_(ps, c)", True, False),
        ("import clipcheck.runtime\nclipcheck.runtime.grad_norm(ps)", False, False),
        ("gs[0].mul_(2)", True, False),
        ("gs[0].mul(2)", False, False),
        ("gs[0].grad = c", True, False),
        ("gs[0] = c", True, False),
        ("x = c", False, False),
        ("return c", False, True),
        ("f = lambda x: x", False, False),
    ],
)
def test_what_a_side_does(text: str, touches: bool, returns: bool) -> None:
    one, _ = body(text)
    assert (one.touches_gradients, one.returns) == (touches, returns)


# --- placeholders -------------------------------------------------------------------------------------------------------------------


def test_each_expression_has_one_name() -> None:
    given: Any = [("a", Role.PARAMETERS), ("b.c()", Role.PARAMETERS), ("a", Role.PARAMETERS), ("3", Role.MAX_NORM), ("t", Role.TOTAL), ("d[0]", Role.MAX_NORM)]  # fmt: skip
    assert Placeholders(given).roles == {
        "parameters__0__name": "parameters",
        "parameters__1__call": "parameters",
        "max_norm__0__name": "max_norm",
    }


MADE = [Role.PARAMETERS, Role.GRADIENTS, Role.MODEL, Role.OPTIMIZER, Role.MAX_NORM, Role.NORM_TYPE, Role.EPSILON, Role.SWITCH]  # fmt: skip


@pytest.mark.parametrize("role", list(Role))
def test_roles_that_have_a_stand_in(role: Role) -> None:
    if role in (*MADE, Role.TOTAL):
        assert len(Placeholders([("x", role)]).roles) == (role is not Role.TOTAL)
    else:
        with pytest.raises(NotVerifiable, match="there is no stand-in for `x`"):
            Placeholders([("x", role)])


def test_names_with_two_underscores_are_pythons_own() -> None:
    for text in ("__import__", "lambda a__b: 1"):
        with pytest.raises(NotVerifiable, match="it uses `"):
            Placeholders([]).visit(expression(text))


# --- paths --------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("torch.save(x, y)", "`torch.save` may not run in a verification"),
        ("torch.inf = 3", "it assigns to `torch.inf`"),
        ("x = torch.nn", "`torch.nn` may not run in a verification"),
    ],
)
def test_only_listed_functions_are_called(text: str, why: str) -> None:
    with pytest.raises(NotVerifiable) as caught:
        body(text)
    assert str(caught.value) == why


def test_what_a_name_stands_for() -> None:
    source = Source(HEAD + "torch.norm(x, torch=y)\nz.torch\njson\n")
    everywhere = [(0, len(source.text))]
    assert origin(source, "torch", everywhere) == "torch"
    assert origin(source, "np", everywhere) == "numpy"
    assert origin(source, "clip_grad_norm_", everywhere) == "torch.nn.utils.clip_grad_norm_"
    assert origin(source, "json", everywhere) is None
    assert origin(source, "x", everywhere) is None
    assert origin(source, "torch", []) is None
    two = Source("if a:\n    from math import inf\nelse:\n    from torch import inf\nx = inf\n")
    assert origin(two, "inf", [(0, len(two.text))]) is None  # one of two


def test_a_reduced_side_may_call_what_pythons_own_functions_are() -> None:
    source = Source(HEAD + "x = 1\n")
    one = flattened(
        source, ast.parse("y = list(ps__0__name)").body, [(0, len(source.text))], frozenset(["ps__0__name"])
    )
    assert "builtins__list(ps__0__name)" in one.code
    assert one.names == {"builtins__list": "builtins.list"}
    with pytest.raises(NotVerifiable, match="`eval` cannot be resolved"):
        flattened(source, ast.parse("y = eval(ps__0__name)").body, [], frozenset(["ps__0__name"]))


# --- the function -------------------------------------------------------------------------------------------------------------------


def test_a_side_is_a_function_that_returns_what_it_has() -> None:
    side = function(ast.parse("x = seed\nif x:\n    return\nreturn x").body, ["seed"], {}, frozenset())
    assert side == Side(
        "def site(seed):\n    x = seed\n    if x:\n        return ('return', None)\n    return ('return', x)\n"
        "    return ('locals', bound__now())",
        {},
    )
    with pytest.raises(NotVerifiable):
        function(ast.parse("import os").body, [], {}, frozenset())


@pytest.mark.parametrize(
    ("code", "path", "wide"),
    [
        ("x.float()", "", "x.double()"),
        ("x.half().bfloat16()", "", "x.double().double()"),
        ("x.to(torch__float32)", "torch.float32", "x.to(torch__float64)"),
        ("x.to(torch__half)", "torch.half", "x.to(torch__float64)"),
        ("x.to(torch__int64)", "torch.int64", "x.to(torch__int64)"),
        ("numpy__float32(x)", "numpy.float32", "numpy__float32(x)"),
        ("x.double()", "", "x.double()"),
    ],
)
def test_the_reference_converts_to_float64(code: str, path: str, wide: str) -> None:
    names = {path.replace(".", "__"): path} if path else {}
    side = in_float64(Side(code, names))
    assert side.code == wide
    assert side.names == {**names, "torch__float64": "torch.float64"}


def test_an_infinity_that_is_gone_is_still_there() -> None:
    assert (
        in_float64(Side("torch___six__inf", {"torch___six__inf": "torch._six.inf"})).names["torch___six__inf"]
        == "math.inf"
    )


# --- text ---------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"), [("a +\n b", "a + b"), ("a  # why", "a"), ("(a)", "a"), ("*a,", "(*a,)")]
)
def test_an_expression_may_span_lines(text: str, expected: str) -> None:
    assert ast.unparse(expression(text)) == expected


@pytest.mark.parametrize("text", ["a = 1", "a)", "return"])
def test_what_is_no_expression(text: str) -> None:
    with pytest.raises(NotVerifiable, match="its expression cannot be run alone"):
        expression(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a = 1\nb = 2\n", ["a = 1", "b = 2"]),
        ("    a = 1\n    b = 2\n", ["a = 1", "b = 2"]),
        ("\n    a = 1\n", ["a = 1"]),
        ("\r\n\ta = 1\r\n\tb = 2\r\n", ["a = 1", "b = 2"]),
        (" if a:\n  b\n", ["if a:\n    b"]),
        ("if a:\n  b\n", ["if a:\n    b"]),
        ("# only this\n\n", []),
        ("    # only this\n", []),
        ("", []),
    ],
)
def test_statements_of_whole_lines(text: str, expected: list[str]) -> None:
    assert [ast.unparse(node) for node in statements(text)] == expected


def test_lines_that_are_none_of_their_own_or_too_long() -> None:
    for text in ("else:\n    a = 1\n", "    a = 1\n  b = 2\n"):
        with pytest.raises(NotVerifiable, match="its lines cannot be run alone"):
            statements(text)
    assert statements("#" * LETTERS_MOST) == []
    with pytest.raises(NotVerifiable, match="it is too long"):
        statements("#" * (LETTERS_MOST + 1))
