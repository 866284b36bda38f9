"""What is read from a program before any rule looks at it: its words, its places, what a name is assigned. Silent cases first."""

from __future__ import annotations

import ast
import re

import libcst as cst
import pytest

from clipcheck import extras, pages
from clipcheck.catalogue import RULES
from clipcheck.prefilter import contains_clipping_code
from clipcheck.python.assignments import (
    appended,
    assigned_values,
    item,
    loop_of,
    mapped_over,
    only_assignment,
    stored,
    unpacked,
)
from clipcheck.python.classes import bases
from clipcheck.python.literals import is_infinity, is_zero, number
from clipcheck.python.names import canonical, dotted, last_name
from clipcheck.python.nodes import children, walk
from clipcheck.python.parts import NoTree, given, givers, parts, read_outside, tree_of
from clipcheck.python.source import Source
from clipcheck.python.stripped import stripped
from clipcheck.python.syntax import is_python
from clipcheck.python.unread import is_read, readable
from clipcheck.rule import Place

INFINITY = float("inf")
HEAD = "import math\nimport numpy as np\nimport torch\n"


def words(text: str) -> frozenset[str]:
    found = parts(text)
    assert found is not None
    return found.outside


def asked(program: str) -> tuple[Source, cst.BaseExpression]:
    source = Source(HEAD + program + "\n")
    *_, last = source.nodes(cst.Expr)
    return source, last.value


# --- words ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "absent", "present"),
    [
        ("x", ".x x()", "x"),
        ("a.b", ".a a() b()", "a b .b"),
        ("f(x)", "x()", "f f() x <Expr> <Call>"),
        ("a.f(x)", "a()", "a .f f() f();"),
        ("self.f(x)", "f()", "self .f f();"),
        ("a.b.f(x)", "f()", ".b .f f();"),
        ("y = f(x)", "f();", "f()"),
        ("y = a.f(x)", "", "f(); f()"),
        ("y.z = a.f(x)", "f();", "f()"),
        ("y = a.b.f(x)", "f(); f()", ".f"),
        ("y = f", "f();", "f()"),
        ("y = a.f", "f();", "f()"),
        ("y = 1", "y()", "y <Assign>"),
        ("list()", "", "list()"),
        ("[x]", "[]x", "<List>"),
        ("a = []", "", "[]a a="),
        ("a = list()", "", "[]a a="),
        ("a, b = 1, []", "", "[]a []b a= b="),
        ("a: list = []", "", "[]a a="),
        ("a: list", "[]a a=", "a"),
        ("f(a := [])", "", "[]a a="),
        ("a = [x]", "[]a", "a="),
        *((f"a = {value}", "[]a", "a= {}a") for value in ("{}", "dict()")),
        *((f"a = {value}", "{}a", "a=") for value in ("{b: c}", "dict(b)", "[]")),
        ("a[0] = 1", "", "a[]="),
        ("b = a[0]", "a[]=", "a"),
        ("a.b[0] = 1", "a[]= b[]=", "a .b[]"),
        ("a = list(x)", "[]a", "a="),
        *((f"a = {value}", "[]a", "a=") for value in ("None", "()", "{}", "b", "b if c else d", "set()", "tuple(b)", "dict()", "filter(b, c)", "len(b)", "sum(b)", "[b for b in c]", "{b for b in c}", "{b: b for b in c}", "(b for b in c)", "(b := c)")),
        *((f"a = {value}", "[]a a=", "a") for value in ("1", "'b'", "b.c", "f()", "b[0]", "b.list()", "b + c")),
        ("for a in b:\n    pass", "a=", "a"),
        ("global a", "a", "global~a"),
        ("x.dot(x)", "", "<dot>"),
        ("x.vdot(x)", "", "<dot>"),
        ("x.dot(y)", "<dot>", "dot()"),
        ("x.mul(x)", "<dot>", "mul()"),
        ("torch.dot(x, x)", "", "<dot>"),
        ("vdot(x, x)", "", "<dot>"),
        ("torch.dot(x, y)", "<dot>", "dot()"),
        ("torch.mul(x, x)", "<dot>", "mul()"),
        ("x * x", "", "<square> <BinOp>"),
        ("x * y", "<square>", "<BinOp>"),
        ("x + x", "<square>", "<BinOp>"),
        ("x.data[0]", ".x[]", ".data[]"),
        ("x[0]", ".x[] x[]", "x"),
        ("f(a=1)", ".a", "a"),
        ("f(**a)", "None", "a"),
        ("import a.b", "", "a b .a.b a.b()"),
        ("from a.b import c", "", "a b c .c c()"),
        ("from a import b as c", ".a.b", "a b .b b()"),
        ("from . import b", "None", "b .b"),
        ("'a'", "a", "'a'"),
        ("'a.b'", "'a.b'", "'a' 'b'"),
        ("'a.b c'", "'a'", ""),
        ("'a b'", "'a'", ""),
        ("''", "''", ""),
        ("b'a'", "'a'", ""),
        (f"'{'a' * 79}'", "", f"'{'a' * 79}'"),
        (f"'{'a' * 80}'", f"'{'a' * 80}'", ""),
        ("def f(a: b = c) -> d:\n    e", "e a", "def f b c d"),
        ("def clip_it():\n    pass", "", "def clip_it <clips>"),
        ("def f():\n    'Clips it.'", "", "def f <clips>"),
        ("def f():\n    x\n    'clips'", "<clips>", "def f"),
        ("def f():\n    'Steps.'", "<clips>", "def f"),
        ("def f():\n    clip", "<clips>", "def f"),
        ("async def clip():\n    pass", "<clips>", "def clip"),
        ("class A(B):\n    c\n    def d(self):\n        e", "e", "def A B c def d"),
        # a return under a test whether something is there
        ("if x:\n    return", "<return>", "<return>x"),
        ("if not x:\n    return", "", "<return>x"),
        ("if x:\n    pass\nelse:\n    return", "", "<return>x"),
        ("if x and y.z:\n    return", "", "<return>x"),
        ("if 1 and 2:\n    return", "<return>", ""),
        ("if (x := y):\n    return", "<return>x", "<return>y"),
        *((f"if {test}:\n    return", "", "<return>x") for test in ("len(x) == 0", "len(x) != 0", "len(x) > 0", "len(x) <= 0", "len(x) < 1", "len(x) >= 1", "len(x) == n", "len(x) == -1", "sum(x) == 0", "x > 0", "x < 1", "x == y", "len(x) is y")),
        *((f"if {test}:\n    return", "<return>x", "") for test in ("len(x) == 1", "len(x) == 2", "len(x) > 1", "len(x) < 2", "len(x) < 0", "0 < len(x) < 1", "a.len(x) == 0", "max(x) == 0", "sum(x, 0) == 0")),
        *((f"if x {compared}:\n    return", "", "<return>x") for compared in ("is None", "is not None", "== None", "== []", "!= ()", "== {}")),
        *((f"if x {compared}:\n    return", "<return>x", "") for compared in ("> 1", "== 1", "in y", "in []", "== 'a'")),
        *((f"if {name}(x):\n    return", "", "<return>x") for name in ("len", "any", "all", "bool")),
        *((f"if len({name}(x)):\n    return", "", "<return>x") for name in ("list", "tuple", "set")),
        *((f"if len({what}):\n    return", "", "<return>") for what in ("filter(f, x)", "[p for p in x]", "{p for p in x}", "{p: p for p in x}", "y := [p for p in x]")),
        ("if any(p for p in x):\n    return", "", "<return>"),
        *((f"if {test}:\n    return", "<return>x <return>", "") for test in ("f(x)", "a.len(x)", "x.y", "x[0]", "any(x.y)", "any(f(x))", "len(x, y)")),
        ("if x:\n    pass", "<return>x", ""),
        ("if x:\n    if 1:\n        return", "<return>x", ""),
        ("if x:\n    for y in z:\n        return", "", "<return>x"),
        ("if x:\n    with y:\n        return", "", "<return>x"),
        ("if x:\n    try:\n        pass\n    except E:\n        return", "", "<return>x"),
        ("if x:\n    try:\n        pass\n    finally:\n        return", "", "<return>x"),
        ("if x:\n    for y in z:\n        pass\n    else:\n        return", "", "<return>x"),
        ("if x:\n    match y:\n        case 1:\n            return", "", "<return>x"),
    ],
)  # fmt: skip
def test_the_words_of_a_program(text: str, absent: str, present: str) -> None:
    found = words(text)
    for word in present.replace("def ", "def~").split():
        assert word.replace("~", " ") in found
    for word in absent.split():
        assert word.replace("~", " ") not in found


def test_the_functions_of_a_program() -> None:
    found = parts("x\ndef f():\n    a\n    def g():\n        b\nclass C:\n    async def h(self):\n        c  # d e\n")
    assert found is not None
    assert sorted(one.text for one in found.functions) == [
        b"    async def h(self):\n        c   \n",
        b"def f():\n    a\n    def g():\n        b\n",
    ]
    inside = {word for one in found.functions for word in one.words()}
    assert {"a", "b"} <= inside and not {"+a", "+b"} & inside
    assert not {"a", "b", "c"} & found.outside


def given_to(text: str, name: str = "") -> set[str]:
    """The names in capitals that reach a function, or the code outside of functions, by a variable of the module."""
    found = parts(text)
    assert found is not None
    names = {f.words() for f in found.functions if f"def {name}(".encode() in f.text}
    start = next(iter(names)) if name else read_outside(found)
    return {word for word in given(start, givers(found)) if word.isupper() and word.isidentifier()}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("def f():\n    A\ndef g():\n    x", ""),
        ("def f():\n    x = A\ndef g():\n    x", ""),
        ("def f():\n    global y\n    x = y = A\ndef g():\n    x", ""),
        ("x = [1]\ndef f():\n    x.append(A)\ndef g():\n    x", ""),
        ("x = y = []\ndef f(z):\n    z.append(A)\ndef g():\n    x", ""),
        ("x = []\ndef f():\n    x.extend(A)\ndef g():\n    x", ""),
        ("x = {1: 2}\ndef f():\n    x[0] = A\ndef g():\n    x", ""),
        ("x = {}\ndef f():\n    A[0] = x[0]\ndef g():\n    x", ""),
        ("def f():\n    global x\n    x = A\ndef g():\n    x", "A"),
        ("def f():\n    global y, x\n    x = A\ndef g():\n    x", "A"),
        ("def f():\n    global x\n    from A import x\ndef g():\n    x", "A"),
        ("x = []\ndef f():\n    x.append(A)\ndef g():\n    x", "A"),
        ("x = list()\ndef f():\n    x.append(A)\ndef g():\n    x", "A"),
        ("x: list = []\ndef f():\n    x.append(A)\ndef g():\n    x", "A"),
        ("(x := [])\ndef f():\n    x.append(A)\ndef g():\n    x", "A"),
        ("y, x = 1, []\ndef f():\n    x.append(A)\ndef g():\n    x", "A"),
        ("x = {}\ndef f():\n    x[0] = A\ndef g():\n    x", "A"),
        ("x = dict()\ndef f():\n    x[0] = A\ndef g():\n    x", "A"),
        # through a third function, whatever the order
        ("def f():\n    global y\n    y = A\ndef h():\n    global x\n    x = y\ndef g():\n    x", "A"),
        ("def h():\n    global x\n    x = y\ndef g():\n    x\ndef f():\n    global y\n    y = A", "A"),
    ],
)
def test_what_a_function_gives_to_another(text: str, expected: str) -> None:
    assert given_to(text, "g") == set(expected.split())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x = 1", ""),
        ("y = x = 1", ""),
        ("def g():\n    x", ""),
        ("print(x)", "A"),
        ("x += 1", "A"),
        ("class C:\n    y = x", "A"),
        ("def g(y=x):\n    y", "A"),
        ("x.y = 1", "A"),
    ],
)
def test_what_a_function_gives_to_the_module(text: str, expected: str) -> None:
    assert given_to(f"def f():\n    global x\n    x = A\n{text}") == set(expected.split())


def test_programs_without_a_tree() -> None:
    assert tree_of("x = = 1") is NoTree.FAULTY
    assert tree_of("x = '\0'") is NoTree.FAULTY
    assert tree_of("x = 1\n" * 400_000) is NoTree.LARGE
    assert not isinstance(tree_of("#" * 2_000_000), NoTree)
    assert tree_of("#" * 2_000_001) is NoTree.LARGE
    assert parts("x = = 1") is None
    assert not isinstance(tree_of("x = '\\d'"), NoTree)


@pytest.mark.parametrize("error", [RecursionError, MemoryError])
def test_a_program_that_is_too_deep_for_the_interpreter_is_not_called_faulty(
    monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    def fail(text: str) -> None:
        raise error

    monkeypatch.setattr(ast, "parse", fail)
    assert tree_of(f"{error.__name__}()") is NoTree.DEEP
    assert is_python("x")


@pytest.mark.parametrize(
    ("program", "left"),
    [
        (b"'a b'", b" "),
        (b"'a_b'", b"'a_b'"),
        (b"x # a", b"x  "),
        (b"x #ab", b"x  "),
        (b"f'a {b}'", b"f'a {b}'"),
        (b"F'a {b}'", b"F'a {b}'"),
        (b"t'a {b}'", b"t'a {b}'"),
        (b"fr'a {b}'", b"fr'a {b}'"),
        (b"rf'a {b}'", b"rf'a {b}'"),
        (b"TR'a {b}'", b"TR'a {b}'"),
        (b"r'a b'", b"r "),
        (b"b'a b'", b"b "),
        (b"'''a b\nc'''", b" \n"),
        (b"'''a b\rc'''", b" \r"),
        (b"'''a\r\nb c'''", b" \r\n"),
    ],
)
def test_a_program_without_its_prose(program: bytes, left: bytes) -> None:
    assert stripped(program) == left


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x = 1", False),
        ("# p.grad", False),
        ("torch.autograd.grad(y, x)", False),
        ("clip_range = 1", False),
        ("np.clip(x)", False),
        ("gradient_penalty = 1", False),
        ("'the gradient norm of'", False),
        ("norm_of = 1", False),
        ("radial_norm = 1", False),
        ("p.grad", True),
        ("ps[0].grad", True),
        ("f(x).grad", True),
        ("max_grad_norm = 1", True),
        ("grad_norms = 1", True),
        ("GradScaler()", True),
        ("clip_gradients(x)", True),
        ("gradient_clipping = 1", True),
        ("clip_norm = 1", True),
        ("max_norm_clipping = 1", True),
        ("CLIP_NORM = 1", True),
        ("x = = p.grad", True),
        ("p.gr\0ad", True),
    ],
)
def test_what_is_about_clipping(text: str, expected: bool) -> None:
    assert contains_clipping_code(text) is expected


# --- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "path", "name"),
    [
        ("a", "a", "a"),
        ("a.b.c", "a.b.c", "c"),
        ("f(x).b", "", "b"),
        ("a[0]", "", "a"),
        ("a.b[0][1]", "", "b"),
        ("a.f(x)", "", "f"),
        ("await_(x)(y)", "", "await_"),
        ("1", "", ""),
        ("a + b", "", ""),
    ],
)
def test_the_name_of_an_expression(code: str, path: str, name: str) -> None:
    node = cst.parse_expression(code)
    assert (dotted(node), last_name(node)) == (path, name)


def test_one_path_for_each_of_torchs_clips() -> None:
    assert canonical("torch.nn.utils.clip_grad.clip_grad_norm_") == "torch.nn.utils.clip_grad_norm_"
    assert canonical("other.clip_grad.clip_grad_norm_") == "other.clip_grad.clip_grad_norm_"


@pytest.mark.parametrize(
    ("program", "expected"),
    [
        ("x", []),
        ("x = 1\nx", ["1"]),
        ("for x in y:\n    x", [None]),
        ("x, y = 1, 2\nx", ["1"]),
        ("y, x = 1, 2\nx", ["2"]),
        ("[y, x] = [1, 2]\nx", ["2"]),
        ("y, (z, x) = 1, (2, 3)\nx", ["3"]),
        ("y, x = f()\nx", [None]),
        ("y, x = 1, *z\nx", [None]),
        ("*y, x = 1, 2\nx", [None]),
        ("z, y, x = 1, 2\nx", [None]),
        ("y = x = 1\nx", ["1"]),
        ("if y:\n    x = 1\nelse:\n    x = 2\nx", ["1", "2"]),
    ],
)
def test_what_a_name_can_have_been_assigned(program: str, expected: list[str | None]) -> None:
    source, node = asked(program)
    assert isinstance(node, cst.Name)
    found = [None if value is None else source.code(value) for value in assigned_values(source, node)]
    assert sorted(map(str, found)) == sorted(map(str, expected))
    whole = only_assignment(source, node)
    assert (whole is not None) is (program in ("x = 1\nx", "y = x = 1\nx"))


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("x", None),
        ("f(1)", None),
        ("float(x)", None),
        ("float('x')", None),
        ("'1'", None),
        ("+1", None),
        ("1", 1.0),
        ("1.5", 1.5),
        ("-1", -1.0),
        ("--1", 1.0),
        ("-x", None),
        ("float('2')", 2.0),
        ("float('inf')", INFINITY),
        ("-float('inf')", -INFINITY),
        *((name, INFINITY) for name in ("math.inf", "torch.inf", "np.inf", "np.Inf", "np.infty", "torch._six.inf")),
        ("math.nan", None),
    ],
)
def test_numbers(code: str, expected: float | None) -> None:
    assert number(*asked(code)) == expected


@pytest.mark.parametrize(
    ("program", "expected"),
    [
        ("try:\n    from math import inf\nexcept E:\n    from torch import inf\ninf", True),
        ("try:\n    from math import inf\nexcept E:\n    from other import inf\ninf", False),
        ("inf = 1\ninf", False),
        ("from math import inf\ninf", True),
    ],
)
def test_infinities(program: str, expected: bool) -> None:
    assert is_infinity(*asked(program)) is expected


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        *((code, False) for code in ("x", "1", "f(0)", "float()", "float(1)", "torch.tensor(1)", "torch.ones(1)", "[]", "[0, 0]", "[1]", "None", "x.to(0)", "torch.zeros(1).exp()")),
        *((code, True) for code in ("0", "0.0", "float(0)", "int(0)", "torch.tensor(0.0)", "torch.as_tensor(0)", "torch.FloatTensor([0])", "torch.zeros(1)")),
        *((code, True) for code in ("torch.zeros_like(x)", "torch.zeros(1, device=d)", "[0]", "torch.tensor([0.0])")),
        *((f"torch.zeros(1).{method}()", True) for method in ("to", "cuda", "cpu", "float", "double")),
    ],
)  # fmt: skip
def test_zeros(code: str, expected: bool) -> None:
    assert is_zero(*asked(code)) is expected


# --- a source ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "plain", "outer", "spelled"),
    [
        ("x", "x", "x", "x"),
        ("(x)", "x", "(x)", "x"),
        ("a + b", "a + b", "a + b", "a+b"),
        ("((a + b))", "a + b", "((a + b))", "a+b"),
        ("f( x,\n  y )", "f( x,\n  y )", "f( x,\n  y )", "f(x,y)"),
        ("a, b", "a, b", "(a, b)", "a,b"),
    ],
)
def test_the_code_of_an_expression(code: str, plain: str, outer: str, spelled: str) -> None:
    source, node = asked(code)
    assert source.code(node) == plain
    assert source.outer_code(node) == outer
    assert source.spelled(node) == spelled


def test_places_in_words() -> None:
    source, node = asked("x = 1\nprint(x)")
    assert source.where(node) == "line 5"
    source.locate = lambda offset: Place(2, 1, 2, 3)
    assert source.where(node) == "line 2"
    source.locate = lambda offset: Place(2, 1, 2, 3, 4)
    assert source.where(node) == "line 2 of cell 4"


@pytest.mark.parametrize(
    ("code", "limit", "shown"),
    [
        ("abc", 3, "`abc`"),
        ("abcd", 3, "it"),
        ("f(\nx)", 9, "it"),
        ("f('`')", 9, "it"),
    ],
)
def test_code_in_a_message(code: str, limit: int, shown: str) -> None:
    source, node = asked(code)
    assert source.quoted(node, "it", limit) == shown
    assert source.quoted(None, "it", limit) == "it"


@pytest.mark.parametrize(
    ("text", "newline", "lines"),
    [("x", "\n", 1), ("x\ny", "\n", 2), ("x\r\ny\r\n", "\r\n", 3), ("x\ry", "\r", 2), ("x\ny\r\n", "\n", 3)],
)
def test_the_line_ends_of_a_source(text: str, newline: str, lines: int) -> None:
    source = Source(text)
    assert source.newline == newline
    assert len(source.line_starts) == lines
    assert source.line_at(0) == 1 and source.line_at(len(text)) == lines


@pytest.mark.parametrize(
    ("text", "first", "last"),
    [
        ("x = (1,\n     2)\n", 1, 2),
        ("if (a and\n    b):\n    x\n", 1, 2),
        ("if a: x\n", 1, 1),
        ("def f(a,\n      b):\n    x\n", 1, 2),
        ("def f(a,\n      b):  # why\n    x\n", 1, 2),
        ("x = 1", 1, 1),
        ("if a: x", 1, 1),
    ],
)
def test_the_logical_line_of_a_statement(text: str, first: int, last: int) -> None:
    source = Source(text)
    assert source.logical_line(source.module.body[0]) == (first, last)


def test_the_nodes_of_a_tree_come_in_the_order_of_the_text() -> None:
    text = "@a\nclass B(C, d=E):\n    @f\n    def g(h, /, i: J = k) -> L:\n        m(n=o) if p else q\n"
    names = [node.value for node in walk(cst.parse_module(text)) if isinstance(node, cst.Name)]
    assert names == ["a", "B", "C", "d", "E", "f", "g", "h", "i", "J", "k", "L", "m", "n", "o", "p", "q"]
    caught = "try:\n    pass\nexcept A as b:\n    c\nmatch d:\n    case e if f:\n        g\n"
    names = [node.value for node in walk(cst.parse_module(caught)) if isinstance(node, cst.Name)]
    assert names == ["A", "b", "c", "d", "e", "f", "g"]
    assert children(cst.parse_expression("( x )")) == []


@pytest.mark.parametrize(
    ("text", "python"),
    [("x = 1", True), ("x = '\\d'", True), ("x = = 1", False), ("print 1", False), ("x = '\0'", False)],
)
def test_whether_the_interpreter_reads_a_source(text: str, python: bool) -> None:
    assert is_python(text) is python


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("x = 1\n", "x = 1\n"),
        ("x = = 1\n", None),
    ],
)
def test_what_is_left_of_a_source(text: str, left: str | None) -> None:
    assert readable(text) == left
    assert is_read(text) is (left == text)


# --- pages and extras -------------------------------------------------------------------------------------------------


def test_the_facts_of_a_rule() -> None:
    assert pages.facts(RULES["CLIP002"]) == "Runs by default · warning · safe fix"
    assert pages.facts(RULES["CLIP101"]) == "Runs by default · warning · unsafe fix"
    assert pages.facts(RULES["CLIP503"]) == "Opt-in · note · no automatic fix"
    assert pages.facts(RULES["CLIP206"]).startswith("Runs by default · error · ")


def test_a_rule_as_json() -> None:
    found = pages.described(RULES["CLIP101"])
    assert (
        found["summary"].startswith("Finds ") and found["summary"].endswith(".") and found["summary"].count(". ") == 0
    )
    assert {key: found[key] for key in ("code", "name", "severity", "tier", "fix")} == {
        "code": "CLIP101",
        "name": "clip-after-step",
        "severity": "warning",
        "tier": "default",
        "fix": "unsafe",
    }
    assert found["url"].endswith("CLIP101-clip-after-step/") or "clip-after-step" in found["url"]


def test_a_page_ends_in_an_example() -> None:
    fixed = pages.page(RULES["CLIP101"])
    assert fixed.startswith("# CLIP101 `clip-after-step`\n\n*Runs by default")
    example = fixed.partition("## Example\n\n```diff\n")[2]
    lines = example.removesuffix("\n```").split("\n")
    assert {line[:1] for line in lines} <= {" ", "+", "-", ""}
    assert any(line.startswith("+") for line in lines) and any(line.startswith("-") for line in lines)
    assert not any(line.startswith(("---", "+++", "@@")) for line in lines)
    shown = pages.page(RULES["CLIP503"]).partition("## Example\n\n```python\n")[2]
    assert shown.endswith("```") and "# expect" not in shown and "# claim" not in shown


def test_rules_come_in_the_order_of_their_codes() -> None:
    codes = [rule.code for rule in pages.by_code()]
    assert codes == sorted(codes) and len(codes) == len(RULES)


@pytest.mark.parametrize(
    ("prefix", "command"),
    [
        ("/a/pipx/b", "pip install 'clipcheck[x]'"),
        ("/a/venvs/b", "pip install 'clipcheck[x]'"),
        ("/a/uv/b", "pip install 'clipcheck[x]'"),
        ("/a/tools/b", "pip install 'clipcheck[x]'"),
        ("C:\\a\\uv\\tools\\b", "uv tool install 'clipcheck[x]'"),
    ],
)
def test_how_an_extra_is_installed(prefix: str, command: str) -> None:
    assert extras.command("x", prefix) == command


# --- what a call gives to several names ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("net, opt = build()", {"net": (0,), "opt": (1,)}),
        ("net, (opt, other) = build()", {"net": (0,), "opt": (1, 0), "other": (1, 1)}),
        ("net, *others = build()", {}),
        ("net, opt = build", {}),
        ("net = opt, other = build()", {}),
        ("net = build()", {}),
    ],
)
def test_the_place_of_a_name_in_what_a_call_returns(text: str, expected: dict[str, tuple[int, ...]]) -> None:
    source = Source(text + "\n")
    found = {name: unpacked(source, one) for name, (one,) in source.names.module.bindings.items()}
    assert {name: one[1] for name, one in found.items() if one is not None} == expected
    assert all(source.code(one[0]) == "build()" for one in found.values() if one is not None)


# --- how a list or a table is filled ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("xs.append(a)", ["a"]),
        ("xs.append(a)\nfor y in z:\n    xs.append(b)", ["a", "b"]),
        ("xs.append(a)\nprint(xs, xs[0], len(xs))", ["a"]),
        ("xs.append(a)\nxs.sort()", ["a"]),
        ("ys.append(a)", []),
        ("xs.y.append(a)", []),
        ("def f(xs):\n    xs.append(a)", []),
        # filled in another way as well, so that not all elements are known
        ("xs.append(a)\nxs.extend(b)", []),
        ("xs.append(a)\nxs.insert(0, b)", []),
        ("xs.append(a)\nadd = xs.append", []),
        ("xs.append(a)\nxs.append()", []),
        ("xs.append(a)\nxs.append(b, c)", []),
    ],
)
def test_what_is_appended_to_a_list(text: str, expected: list[str]) -> None:
    source, name = asked(f"xs = []\n{text}\nxs")
    assert isinstance(name, cst.Name)
    assert [source.code(call.args[0].value) for call in appended(source, name)] == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("t[a] = 1", ["1"]),
        ("t['a'] = 1\nfor y in z:\n    t[y] = 2", ["1", "2"]),
        ("t[a] = u[b] = 1", ["1"]),
        ("u[a] = 1", []),
        ("u[t] = 1", []),
        ("u[t[a]] = 1", []),
        ("t[a] += 1", []),
        ("b = t[a]", []),
        ("t[a], b = 1, 2", []),
        ("t[a][b] = 1", []),
        ("t.a = 1", []),
        ("for t[a] in b:\n    pass", []),
    ],
)
def test_what_is_stored_in_a_table(text: str, expected: list[str]) -> None:
    source, name = asked(f"t = {{}}\n{text}\nt")
    assert isinstance(name, cst.Name)
    assert [source.code(statement.value) for statement in stored(source, name)] == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("d = {'a': 1, 'b': 2}", "2"),
        ("d = {'a': 1, 'b': 2}\nprint(d['a'])", "2"),
        ("d = {'a': 1, \"b\": 2}", "2"),
        # it may be changed, or something else
        ("d = {'a': 1}", None),
        ("d = {1: 1, b: 2}", None),
        ("d = {'b': 1, **c}", None),
        ("d = dict(b=2)", None),
        ("d = {'b': 2}\nd['a'] = 1", None),
        ("d = {'b': 2}\nd['b'] += 1", None),
        ("d = {'b': 2}\ndel d['b']", None),
        ("d = {'b': 2}\nf(d)", None),
        ("d = {'b': 2}\nd.update(c)", None),
        ("if x:\n    d = {'b': 2}\nelse:\n    d = {'b': 3}", None),
        ("def f(d):\n    pass", None),
    ],
)
def test_the_value_under_a_key(text: str, expected: str | None) -> None:
    source, read = asked(f"{text}\nd['b']")
    assert isinstance(read, cst.Subscript) and isinstance(read.value, cst.Name)
    found = item(source, read.value, cst.parse_expression("'b'"))
    assert (None if found is None else source.code(found)) == expected
    assert item(source, read.value, cst.parse_expression("b")) is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("map(lambda x: x.grad, ps)", "ps"),
        ("list(map(lambda x: x.grad, ps))", "ps"),
        ("mine.map(lambda x: x.grad, ps)", None),
        ("filter(lambda x: x.grad, ps)", None),
        ("sorted(ps, key=lambda x: x)", None),
        ("map(lambda x, y: x, ps, qs)", None),
        ("map(ps, lambda x: x)", None),
        ("map(f(lambda x: x), ps)", None),
        ("map = 1\nmap(lambda x: x, ps)", None),
        ("lambda x: map(x, ps)", None),
        ("def f(x):\n    map(x, ps)", None),
        ("map(f, [x for x in ps])", None),
    ],
)
def test_what_a_lambda_is_mapped_over(text: str, expected: str | None) -> None:
    source = Source(text + "\n")
    (binding,) = (b for scope in source.names.scopes.values() for b in scope.bindings.get("x", []))
    found = mapped_over(source, binding)
    assert (None if found is None else source.code(found)) == expected


@pytest.mark.parametrize(
    ("text", "path", "over"),
    [
        ("for x in y:\n    pass", (), "y"),
        ("for a, x in y:\n    pass", (1,), "y"),
        ("for a, (b, [c, x]) in y:\n    pass", (1, 1, 1), "y"),
        ("for a, *x in y:\n    pass", (1,), "y"),
        ("for a in b:\n    for (x, c) in y:\n        pass", (0,), "y"),
        ("[a for b in c for d, x in y]", (1,), "y"),
    ],
)
def test_the_loop_that_sets_a_name(text: str, path: tuple[int, ...], over: str) -> None:
    source = Source(text + "\n")
    (binding,) = (b for scope in source.names.scopes.values() for b in scope.bindings.get("x", []))
    loop, found = loop_of(source, binding.node)
    assert (found, source.code(loop.iter)) == (path, over)


# --- what a class derives from ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("class C: pass", []),
        ("class C(torch.nn.Module): pass", ["torch.nn.Module"]),
        ("class C(f(x), Y[int], metaclass=M): pass", ["f(x)", "Y[int]"]),
        ("class B(torch.nn.Module): pass\nclass C(B): pass", ["B", "torch.nn.Module"]),
        ("class A(object): pass\nclass B(A): pass\nclass C(B, X): pass", ["B", "X", "A", "builtins.object"]),
        ("B = torch.nn.Module\nclass C(B): pass", ["torch.nn.Module"]),
        ("if x:\n    class B(P): pass\nelse:\n    class B(Q): pass\nclass C(B): pass", ["B", "P", "Q"]),
        ("class C(C): pass", ["C"]),
        # four generations are looked at, which ends circles as well
        ("class B(C): pass\nclass C(B): pass", ["B", "C", "B", "C", "B"]),
    ],
)
def test_the_bases_of_a_class(text: str, expected: list[str]) -> None:
    source = Source(f"{HEAD}{text}\n")
    *_, last = source.nodes(cst.ClassDef)
    assert list(bases(source, last)) == expected


# --- the order of nodes ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "f(a, b=c, *d, **e)",
        "@a\nclass B(c, d=e):\n    g = h",
        "class A[B](c): d = e",
        "@a\ndef f(b: c = d, /, e=g, *h, i=j, **k) -> l:\n    m",
        "def f[A](b: A) -> A: c",
        "try:\n    a\nexcept b as c:\n    d",
        "try:\n    a\nexcept* b as c:\n    d",
        "a if b else c",
        "match a:\n    case b if c:\n        d",
        "lambda a, /, b=c: d",
    ],
)
def test_nodes_are_in_the_order_of_the_text(text: str) -> None:
    module = cst.parse_module(text + "\n")
    source = Source(text + "\n")
    for node in walk(source.module):
        starts = [source.span(child)[0] for child in children(node)]
        assert starts == sorted(starts)
    assert sum(isinstance(node, cst.Name) for node in walk(module)) == len(re.findall(r"\b[a-zA-Z]\b", text))
