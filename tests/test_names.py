"""What a name in a program refers to, by Python's scoping: the import it comes from, or nothing if uncertain."""

from __future__ import annotations

import io
import keyword
import tokenize

import libcst as cst
import pytest

from clipcheck.python.names import dotted, last_name
from clipcheck.python.source import Source


def asked(text: str) -> list[str | None]:
    """The origins of the arguments of all calls `what(…)` in a program, in source order."""
    source = Source(text)
    return [
        source.qualified(argument.value)
        for call in source.nodes(cst.Call)
        if isinstance(call.func, cst.Name) and call.func.value == "what"
        for argument in call.args
    ]


# --- uncertain names have no origin -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "def f(torch):\n    what(torch)",
        "def f(torch, /):\n    what(torch)",
        "def f(*, torch):\n    what(torch)",
        "def f(*torch):\n    what(torch)",
        "def f(**torch):\n    what(torch)",
        "lambda torch: what(torch)",
        "for torch in x:\n    what(torch)",
        "for a, (b, *torch) in x:\n    what(torch)",
        "with x as torch:\n    what(torch)",
        "with x as (a, torch):\n    what(torch)",
        "try:\n    pass\nexcept E as torch:\n    what(torch)",
        "match x:\n    case torch:\n        what(torch)",
        "match x:\n    case [1, *torch]:\n        what(torch)",
        "match x:\n    case {'a': torch}:\n        what(torch)",
        "match x:\n    case [] as torch:\n        what(torch)",
        "torch = 1\nwhat(torch)",
        "torch = f()\nwhat(torch)",
        "torch: object = f()\nwhat(torch)",
        "a = torch = 1\nwhat(torch)",
        "[a, torch] = x\nwhat(torch)",
        "a, *torch = x\nwhat(torch)",
        "if (torch := f()):\n    what(torch)",
        "def torch():\n    what(torch)",
        "class torch:\n    pass\nwhat(torch)",
        "import torch\ndel torch\nwhat(torch)",
        "import torch\ntorch += 1\nwhat(torch)",
        "[what(torch) for torch in x]",
        "{what(torch): 1 for torch in x}",
        "{what(torch) for torch in x}",
        "(what(torch) for y in x for torch in y)",
        "[1 for torch in x if what(torch)]",
        "[1 for torch in x for y in what(torch)]",
        "try:\n    import torch\nexcept ImportError:\n    torch = None\nwhat(torch)",
        "if x:\n    import torch\nelse:\n    import jax as torch\nwhat(torch)",
        "what(unknown)",
        "what(x().torch)",
        "what(torch[0])",
        "sum = 1\nwhat(sum)",
    ],
)
def test_uncertain(text: str) -> None:
    assert asked(text) == [None]


def test_an_origin_that_is_not_known_is_an_empty_text() -> None:
    source = Source("import torch\nx = torch.nn\ny\n")
    known, unknown = ([name for name in source.nodes(cst.Name) if name.value == word][-1] for word in ("torch", "y"))
    assert (source.origin(known), source.origin(unknown)) == ("torch", "")


def test_a_chain_of_aliases_that_goes_in_circles_has_no_origin() -> None:
    assert asked("a = b\nb = a\nwhat(a, b)") == [None, None]


@pytest.mark.parametrize(
    ("text", "origin"),
    [
        # another scope's name is another name
        ("import torch\ndef f(torch):\n    pass\nwhat(torch)", "torch"),
        ("import torch\ndef f():\n    torch = 1\nwhat(torch)", "torch"),
        ("import torch\nclass A:\n    torch = 1\nwhat(torch)", "torch"),
        ("import torch\nlambda torch: 1\nwhat(torch)", "torch"),
        ("import torch\n[torch for torch in x]\nwhat(torch)", "torch"),
        # the names of a class body are not seen by its methods, nor by the functions in these
        ("import torch\nclass A:\n    torch = 1\n    def f(self):\n        what(torch)", "torch"),
        ("import torch\nclass A:\n    torch = 1\n    f = lambda self: what(torch)", "torch"),
        ("import torch\nclass A:\n    torch = 1\n    y = [what(torch) for i in z]", "torch"),
        # … but by the class body itself
        ("import jax as torch\nclass A:\n    import torch\n    what(torch)", "torch"),
        # what is evaluated outside of a function or class sees the names outside
        ("import torch\ndef f(torch=what(torch)):\n    pass", "torch"),
        ("import torch\nlambda torch=what(torch): 1", "torch"),
        ("import torch\ndef f(torch: what(torch)):\n    pass", "torch"),
        ("import torch\ndef f(torch) -> what(torch):\n    pass", "torch"),
        ("import torch\n@what(torch)\ndef f(torch):\n    pass", "torch"),
        ("import torch\nclass A(what(torch)):\n    torch = 1", "torch"),
        ("import torch\nclass A(metaclass=what(torch)):\n    torch = 1", "torch"),
        ("import torch\n@what(torch)\nclass A:\n    torch = 1", "torch"),
        # so is the first iterable of a comprehension, and it alone
        ("import torch\n[1 for torch in what(torch)]", "torch"),
        ("class A:\n    import numpy as torch\n    y = [1 for i in what(torch)]", "numpy"),
        ("import torch\nclass A:\n    import numpy as torch\n    y = [1 for i in z for j in what(torch)]", "torch"),
        ("import torch\nclass A:\n    import numpy as torch\n    y = [1 for i in z if what(torch)]", "torch"),
        # `global` and `nonlocal` name an outer variable
        ("import torch\ndef f():\n    import jax as torch\n    def g():\n        global torch\n        what(torch)", "torch"),
        ("def f():\n    global torch\n    import torch\nwhat(torch)", "torch"),
        (
            "import jax as m\ndef f():\n    import torch as m\n    def g():\n        nonlocal m\n        what(m)\n"
            "    return g",
            "torch",
        ),
        ("def f():\n    import torch as m\n    def g():\n        m = 1\n    what(m)", "torch"),
        # a walrus in a comprehension binds in the function around it
        ("import torch\n[(clip := torch.norm) for i in z]\nwhat(clip)", "torch.norm"),
        ("def f():\n    (sum := 1)\nwhat(sum)", "builtins.sum"),
        ("def f():\n    [(sum := 1) for i in z]\nwhat(sum)", "builtins.sum"),
        ("import torch\ndef f():\n    [[(clip := torch.norm) for i in y] for y in z]\n    what(clip)", "torch.norm"),
    ],
)  # fmt: skip
def test_scopes(text: str, origin: str) -> None:
    assert asked(text) == [origin]


@pytest.mark.parametrize(
    "text",
    [
        "import torch as m\ndef f():\n    global m\n    import jax as m\nwhat(m)",
        "def f():\n    import torch as m\n    def g():\n        nonlocal m\n        m = 1\n    what(m)",
        "import torch as m\ndef f():\n    def g():\n        global m\n        m = 1\nwhat(m)",
        "import torch as m\n[(m := 1) for i in z]\nwhat(m)",
    ],
)
def test_a_variable_that_another_function_assigns_is_uncertain(text: str) -> None:
    assert asked(text) == [None]


# --- imports and aliases ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "origin"),
    [
        ("import torch\nwhat(torch.nn.utils.clip_grad_norm_)", "torch.nn.utils.clip_grad_norm_"),
        ("import torch.nn.utils\nwhat(torch.nn.utils.clip_grad_norm_)", "torch.nn.utils.clip_grad_norm_"),
        ("import torch.nn.utils as u\nwhat(u.clip_grad_norm_)", "torch.nn.utils.clip_grad_norm_"),
        ("from torch.nn import utils\nwhat(utils.clip_grad_norm_)", "torch.nn.utils.clip_grad_norm_"),
        ("from torch.nn import utils as u\nwhat(u.clip_grad_norm_)", "torch.nn.utils.clip_grad_norm_"),
        ("from torch.nn.utils.clip_grad import clip_grad_norm_ as c\nwhat(c)", "torch.nn.utils.clip_grad_norm_"),
        ("import torch\nwhat(torch.nn.utils.clip_grad.clip_grad_norm_)", "torch.nn.utils.clip_grad_norm_"),
        ("import torch\nc = torch.nn.utils.clip_grad_norm_\nwhat(c)", "torch.nn.utils.clip_grad_norm_"),
        ("import torch\na = torch.nn\nb = a.utils\nc = b\nd = c.clip_grad_norm_\nwhat(d)", "torch.nn.utils.clip_grad_norm_"),
        ("from . import utils\nwhat(utils.clip)", ".utils.clip"),
        ("from ..a.b import clip\nwhat(clip)", "..a.b.clip"),
        ("import a.b\nwhat(a.c)", "a.c"),
        ("if x:\n    import torch\nelse:\n    import torch\nwhat(torch)", "torch"),
        ("def f():\n    what(torch)\nimport torch", "torch"),
        ("what(sum)", "builtins.sum"),
        ("from a import *\nwhat(sum)", "builtins.sum"),
        # bound nowhere: from a star import, or from an earlier fragment of a document
        ("what(torch.norm)", "torch.norm"),
        ("what(nn.utils)", "torch.nn.utils"),
        ("import jax.nn as nn\nwhat(nn.utils)", "jax.nn.utils"),
    ],
)  # fmt: skip
def test_origins(text: str, origin: str) -> None:
    assert asked(text) == [origin]


FUNCTIONS = ("clip_grad_norm", "clip_grad_norm_", "clip_grad_value_", "clip_grads_with_norm_", "get_total_norm")


@pytest.mark.parametrize(
    ("module", "names"),
    [
        ("torch.nn", ("functional", "parallel", "utils")),
        ("torch.nn.utils", (*FUNCTIONS, "parameters_to_vector", "vector_to_parameters")),
        ("torch.nn.utils.clip_grad", FUNCTIONS),
    ],
)
def test_the_names_that_a_star_import_from_torch_binds(module: str, names: tuple[str, ...]) -> None:
    base = module.removesuffix(".clip_grad")
    assert asked(f"from {module} import *\nwhat({', '.join(names)}, other)") == [*(f"{base}.{n}" for n in names), None]
    # a star import below may bind the names again, unless it is of torch as well
    assert asked(f"from {module} import *\nfrom mine import *\nwhat({names[0]})") == [None]
    assert asked(f"from {module} import *\nfrom torch import *\nwhat({names[0]})") == [f"{base}.{names[0]}"]
    assert asked(f"from mine import *\nfrom {module} import *\nwhat({names[0]})") == [f"{base}.{names[0]}"]
    assert asked(f"from .{module} import *\nwhat({names[0]})") == [None]


# --- which names a program has ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "x.norm",
        "x.norm = 1",
        "f(norm=1)",
        "class A(norm=B):\n    pass",
        "from a import norm as n",
        "import a.norm",
        "import norm.b as n",
        "from norm import b",
        "x = 'norm'  # norm",
        "match x:\n    case A(norm=1):\n        pass",
    ],
)
def test_words_other_than_variables_do_not_take_a_name(text: str) -> None:
    assert not Source(text).is_taken("norm")


@pytest.mark.parametrize(
    "text",
    [
        "norm",
        "norm.x",
        "f(norm)",
        "f(x=norm)",
        "norm[0] = 1",
        "norm.x = 1",
        "norm = 1",
        "norm += 1",
        "(a, *norm) = x",
        "import norm",
        "import norm.b",
        "from a import norm",
        "import a as norm",
        "def norm(): pass",
        "class norm: pass",
        "class A(norm): pass",
        "def f(norm): pass",
        "def f(x=norm): pass",
        "def f(x: norm): pass",
        "@norm\ndef f(): pass",
        "lambda norm: 1",
        "[1 for norm in x]",
        "[1 for x in norm]",
        "for norm in x: pass",
        "for x in norm: pass",
        "with x as norm: pass",
        "with norm as x: pass",
        "try: pass\nexcept E as norm: pass",
        "try: pass\nexcept norm: pass",
        "(norm := 1)",
        "(x := norm)",
        "def f():\n    global norm",
        "del norm",
        "[norm]",
        "(norm, 1)",
        "{**norm}",
        "f'{norm}'",
        "match norm:\n    case 1: pass",
        "match x:\n    case norm.y: pass",
    ],
)
def test_a_variable_takes_its_name(text: str) -> None:
    assert Source(text).is_taken("norm")


EVERYTHING = """
import a0, a1.a2 as a3
from a4.a5 import a6, a7 as a8
@b0
@b1(b2, b3=b4)
async def c0(d0, /, d1: d2 = d3, *d4: d5, d6, d7=d8, **d9: d10) -> e0:
    async with f0 as f1, f2: await f3
    async for g0 in g1: yield g2
    else: g3
    return h0 if h1 else h2
def c1(*, i0=i1): i2; i3
@j0
class j1(j2, *j3, j4=j5, **j6):
    k0: k1 = k2
    k3 = k4 = k5
    k6 += k7
try: l0
except l1 as l2: l3
except (l4, l5): raise l6 from l7
else: l8
finally: l9
while m0: m1
else: m2
if n0: n1
elif n2: n3
else: n4
match o0, o1:
    case o2.o3(o4, o5=o6) if o7: o8
    case {"a": o9, **p0} | [p1, *p2] as p3: p4
assert q0, q1
del q2, q3[q4:q5:q6]
lambda r0, r1=r2, *r3, r4, **r5: r6
[s0 for s1, s2 in s3 if s4 for s5 in s6 if s7 if s8]
{t0: t1 for t2 in t3}; {t4 for t5 in t6}; (t7 for t8 in t9)
{u0: u1, **u2}; {u3, *u4}; [u5, *u6]; (u7, *u8)
(v0 := v1) + v2 * v3 ** -v4 < v5 <= v6 and not v7 or v8
w0.w1(w2)[w3, w4](*w5, w6=w7, **w8)
def c2():
    global x0, x1
    def c3(): nonlocal x2
"""


def test_nodes_are_in_the_order_of_the_text() -> None:
    """Python's own tokens say what the order is."""
    tokens = tokenize.generate_tokens(io.StringIO(EVERYTHING).readline)
    words = [t.string for t in tokens if t.type == tokenize.NAME and not keyword.iskeyword(t.string) and t.string != "match" and t.string != "case"]  # fmt: skip
    source = Source(EVERYTHING)
    walked = [node for node in source.walk(source.module) if isinstance(node, cst.Name)]
    assert [name.value for name in walked] == words
    assert list(source.nodes(cst.Name)) == walked
    ranks = [source.rank(name) for name in walked]
    assert ranks == sorted(set(ranks))


def test_the_nodes_around_a_node_come_innermost_first() -> None:
    source = Source("def f():\n    for x in y:\n        g(x)\n")
    call = next(source.nodes(cst.Call))
    kinds = [type(node).__name__ for node in source.ancestors(call)]
    assert kinds == ["Expr", "SimpleStatementLine", "IndentedBlock", "For", "IndentedBlock", "FunctionDef", "Module"]
    assert source.parent(source.module) is None


@pytest.mark.parametrize(
    ("code", "whole", "last"),
    [
        ("a", "a", "a"),
        ("a.b.c", "a.b.c", "c"),
        ("a['k']", "", "a"),
        ("a.b['k'][0]", "", "b"),
        ("a.b()", "", "b"),
        ("await a.b", "", "b"),
        ("a().b", "", "b"),
        ("1", "", ""),
        ("a + b", "", ""),
    ],
)
def test_the_dotted_name_and_the_last_word_of_an_expression(code: str, whole: str, last: str) -> None:
    node = cst.parse_expression(code)
    assert (dotted(node), last_name(node)) == (whole, last)


@pytest.mark.parametrize(
    ("text", "reads"),
    [
        ("x", 1),
        ("x.y = x[0]", 2),
        ("f(x, y=x)", 2),
        ("f(x=1)", 0),
        ("a.x", 0),
        ("x = 1", 0),
        ("a, (x, *b) = c", 0),
        ("x: int = 1", 0),
        ("(x := 1)", 0),
        ("(y := x)", 1),
        ("import x", 0),
        ("import x.y as z", 0),
        ("from x import y", 0),
        ("from x.y import z", 0),
        ("from y.x.w import z", 0),
        ("from . import x", 0),
        ("import y.x.w", 0),
        ("x.y.z", 1),
        ("x.y.z = 1", 1),
        ("from y import x", 0),
        ("def x(): pass", 0),
        ("class x: pass", 0),
        ("def f(x): pass", 0),
        ("def f(y=x): pass", 1),
        ("def f():\n    global x", 0),
        ("for x in y: pass", 0),
        ("for y in x: pass", 1),
        ("[1 for x in y]", 0),
        ("with y as x: pass", 0),
        ("with x as y: pass", 1),
        ("try: pass\nexcept E as x: pass", 0),
        ("try: pass\nexcept x: pass", 1),
        ("match y:\n    case A(x=1): pass", 0),
        ("match x:\n    case x.y: pass", 2),
        ("lambda x: 1", 0),
        ("lambda y: x", 1),
        ("f'{x}'", 1),
        ("'x'", 0),
    ],
)
def test_how_often_a_name_is_read(text: str, reads: int) -> None:
    source = Source(text)
    scopes = [None, *source.names.scopes.values()]
    assert sum(len(source.names.uses(scope, "x")) for scope in scopes) == reads


@pytest.mark.parametrize(
    ("text", "kind", "value", "path"),
    [
        ("import x", "import", None, "x"),
        ("import x.y", "import", None, "x"),
        ("import y.z as x", "import", None, "y.z"),
        ("from y import x", "import", None, "y.x"),
        ("from y import z as x", "import", None, "y.z"),
        ("from . import x", "import", None, ".x"),
        ("from ..y import x", "import", None, "..y.x"),
        ("x = 1", "assign", "1", ""),
        ("x: int = 1", "assign", "1", ""),
        ("(x := 1)", "assign", "1", ""),
        ("x, y = z", "assign", None, ""),
        ("[y, *x] = z", "assign", None, ""),
        ("x += 1", "augmented", None, ""),
        ("for x in y: pass", "for", "y", ""),
        ("for x, y in z: pass", "for", None, ""),
        ("[1 for x in y]", "for", "y", ""),
        ("with y as x: pass", "with", None, ""),
        ("with y as (x, z): pass", "with", None, ""),
        ("try: pass\nexcept E as x: pass", "other", None, ""),
        ("del x", "other", None, ""),
        ("match y:\n    case x: pass", "other", None, ""),
        ("match y:\n    case [*x]: pass", "other", None, ""),
        ("def x(): pass", "def", None, ""),
        ("class x: pass", "class", None, ""),
        ("def f(x): pass", "parameter", None, ""),
        ("lambda x: 1", "parameter", None, ""),
    ],
)
def test_how_a_name_is_bound(text: str, kind: str, value: str | None, path: str) -> None:
    source = Source(text + "\n")
    (found,) = (b for scope in source.names.scopes.values() for b in scope.bindings.get("x", []))
    assert (found.kind, found.path) == (kind, path)
    assert (None if found.value is None else source.code(found.value)) == value


def test_an_annotation_alone_binds_nothing() -> None:
    source = Source("x: int\n")
    assert not any("x" in scope.bindings for scope in source.names.scopes.values())
