"""The first line of defense, rule by rule: each snippet breaks one rule, and its closest look-alike breaks none."""

from __future__ import annotations

import ast

import pytest

from clipcheck.verify.allowed import (
    CONSTANTS,
    FUNCTIONS,
    METHODS,
    MODULES,
    VALUES,
    Names,
    NotVerifiable,
    check,
    check_imports,
    flat_name,
)

NAMES = Names(
    {flat_name(path): path for path in (*FUNCTIONS, *CONSTANTS)},
    frozenset(["parameters__0__call", "max_norm__0__name", "optimizer__0__name", "amp__0__name", "group__own__name"]),
)
ASTRAY = {  # by the reason: what is refused, and its look-alike
    "statement": ("import os", "pass"),
    "expression": ("{1: 2}", "[1, 2]"),
    "asynchronous": ("[x async for x in y]", "[x for x in y]"),
    "`for` with an `else`": ("for x in y:\n    pass\nelse:\n    pass", "for x in y:\n    pass"),
    "`torch.norm` as a value": ("f = torch__norm", "f = torch__norm(x)"),
    "`torch.zeros` as a value": ("builtins__map(torch__zeros, x)", "builtins__map(torch__norm, x)"),
    "`torch.stack` as a value": ("functools__reduce(torch__stack, x)", "functools__reduce(torch__norm, x)"),
    "`functools.reduce` as a value": (
        "builtins__map(functools__reduce, x)",
        "functools__reduce(lambda a, b: a + b, x)",
    ),
    "`.all_reduce` is not part": ("x.all_reduce(y)", "group__own__name.all_reduce(y)"),
    "`.optimizer_step` is not part": ("x.optimizer_step(y)", "group__own__name.optimizer_step(y)"),
    "`op` to `.all_reduce`": ("group__own__name.all_reduce(x, op=y)", "group__own__name.get_world_size()"),
    "`builtins.float` as a value": ("builtins__list(builtins__float)", "builtins__max(x, key=builtins__float)"),
    "`builtins.abs` as a value": ("builtins__map(x, builtins__abs)", "builtins__map(builtins__abs, x)"),
    "a function as a value": ("f = parameters__0__call", "f = parameters__0__call()"),
    "it uses `__x`": ("__x = 1", "_x = 1"),
    "it uses `a__b`": ("builtins__map(lambda a__b: 1, x)", "builtins__map(lambda a_b: 1, x)"),
    "attribute of `torch.norm`": ("torch__norm.data", "x.data"),
    "attribute of `torch.inf`": ("torch__inf.data", "torch__inf"),
    "it assigns to `.shape`": ("x.shape = 1", "x.grad = 1"),
    "`.norm` is not part": ("f = x.norm", "f = x.norm()"),
    "`.grad` is not part": ("x.grad()", "x.grad"),
    "`.save` is not part": ("x.save()", "x.clone()"),
    "`.step` is not part": ("x.step()", "optimizer__0__name.step()"),
    "`.step` is not": ("f = optimizer__0__name.step", "f = optimizer__0__name.step()"),
    "`.take` is not part": ("optimizer__0__name.take()", "optimizer__0__name.zero_grad()"),
    "`.update` is not part": ("[].update(x)", "optimizer__0__name.update(x)"),
    "`hook` to `.zero_grad`": ("optimizer__0__name.zero_grad(hook=x)", "optimizer__0__name.zero_grad()"),
    "`retain_graph` to `.backward`": ("x.backward(retain_graph=True)", "x.backward()"),
    "a `with` bloc": ("with optimizer__0__name.step():\n    pass", "with amp__0__name.scale_loss(x) as y:\n    pass"),
    "a `with` blo": ("with x.scale_loss(y):\n    pass", "with optimizer__0__name.skip_synchronize():\n    pass"),
    "`.__class__` is not part": ("x.__class__", "x.T"),
    "assigns to an item": ("x[0] = 1", "x.grad[0] = 1"),
    "it calls `torch.inf`": ("torch__inf()", "torch__norm(1)"),
    "it calls `f`": ("f(1)", "f"),
    "it calls `parameters__0__call`": ("parameters__0__call(1)", "parameters__0__call()"),
    r"it calls `x.norm\(\)`": ("x.norm()()", "x.norm()"),
    "`out` to `torch.sum`": ("torch__sum(x, out=y)", "torch__sum(x, dim=y)"),
    "`out` to `.sum`": ("x.sum(out=y)", "x.sum(dim=y)"),
    r"`\*\*` to `torch.sum`": ("torch__sum(x, **y)", "torch__sum(x, dtype=y)"),
    "a `with` block": ("with torch__no_grad() as x:\n    pass", "with torch__no_grad():\n    pass"),
    "a `with`": ("with x.clone():\n    pass", "with torch__no_grad():\n    pass"),
    "a string": ("x.to('cuda')", "x.to('cpu')"),
    "contains a string": ("'params' % x", "x['params']"),
    "it contains a str": ("f = 'a'", "f = 'a' in x"),
    "it contains a strin": (f"f = {'a' * 101!r} in x", f"f = {'a' * 100!r} in x"),
    "bytes": ("b'a'", "1.0"),
    "complex": ("1j", "1.0"),
    "a large number": ("1048577", "1048576"),
    "repeats a list": ("[0.0] * 1001", "[0.0] * 1000"),
    "it repeats a lis": ("n * [0.0]", "builtins__len(n) * [0.0]"),
    "it repeats": ("(0.0,) * n", "n * n"),
    "large power": ("10 ** 65", "10 ** 64"),
    "a large power": ("10 ** 10 ** 10", "10 ** n"),
    "a large value": ("torch__zeros(1024, 1025)", "torch__zeros(1024, 1024)"),
    "creates a large value": ("torch__zeros([2048, 1024])", "torch__stack([2048, 1024])"),
    "a `lambda` expression": ("f = lambda x: x", "builtins__filter(lambda x: x, y)"),
    "more than plain parameters": ("builtins__map(lambda x=1: x, y)", "builtins__map(lambda x: x, y)"),
    "than plain parameters": ("builtins__map(lambda *x: x, y)", "builtins__max(y, key=lambda x: x)"),
    "too long": ("[" + "1.0," * 4000 + "]", "[" + "1.0," * 1000 + "]"),
}


@pytest.mark.parametrize("reason", ASTRAY)
def test_each_rule_refuses_what_breaks_it_and_nothing_beside_it(reason: str) -> None:
    broken, kept = ASTRAY[reason]
    with pytest.raises(NotVerifiable, match=reason):
        check(ast.parse(broken), NAMES)
    check(ast.parse(kept), NAMES)


HARM = (
    "open load save import eval exec compile write file hub jit ops system environ getattr setattr globals vars input"
)


def test_the_list_contains_nothing_harmful() -> None:
    words = {word for path in (*FUNCTIONS, *CONSTANTS, *METHODS) for word in path.lower().split(".")}
    assert not words & set(HARM.split())
    assert not any(word.startswith("__") for word in words)
    keywords = {keyword for taken in (*FUNCTIONS.values(), *METHODS.values()) for keyword in taken}
    assert not keywords & {"out", "fn", "func", "hook", "f", "file", "filename", "pickle_module", "callback"}
    assert set(FUNCTIONS) >= VALUES and not VALUES & MODULES


@pytest.mark.parametrize("path", ["math.inf", "math.pi", "numpy.inf", "torch.inf", "torch._six.inf", "torch.float32"])
def test_constants_that_hand_written_norms_use(path: str) -> None:
    check(ast.parse(f"x = {flat_name(path)}"), NAMES)


@pytest.mark.parametrize("attribute", ["grad", "data"])
def test_gradients_and_data_are_assigned(attribute: str) -> None:
    check(ast.parse(f"x.{attribute} = y"), NAMES)
    check(ast.parse(f"x.{attribute} *= y"), NAMES)


@pytest.mark.parametrize(
    "attribute", ["T", "data", "device", "dtype", "grad", "is_sparse", "ndim", "param_groups", "requires_grad", "shape"]
)
def test_attributes_that_hand_written_norms_read(attribute: str) -> None:
    check(ast.parse(f"y = x.{attribute}"), NAMES)


# --- what norms and clips are written in ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "code",
    [
        *("x = 1", "x += 1", "f", "return x", "pass", "x, y = z", "if x:\n    pass\nelse:\n    y"),
        *("for x in y:\n    continue", "for x in y:\n    break", "with torch__no_grad():\n    pass"),
        *("x + y", "x - y", "x * y", "x / y", "x // y", "x % y", "x ** y", "+x", "-x", "not x", "x and y", "x or y"),
        *("x < y", "x <= y", "x > y", "x >= y", "x == y", "x != y", "x is None", "x is not None", "x in y", "x not in y"),
        *("x if y else z", "(x, y)", "[x, y]", "[x for x in y if z]", "builtins__sum(x for x in y)", "x[0]", "x[1:2]"),
        *("builtins__max(x, key=lambda a: a.ndim)", "torch__norm(x, p=2)"),
        *(f"x.norm(p={text!r})" for text in ("", "cpu", "fro", "inf", "-inf", "nuc", "params")),
    ],
)  # fmt: skip
def test_code_of_norms_is_tried(code: str) -> None:
    check(ast.parse(code), NAMES)


@pytest.mark.parametrize(
    "code",
    [
        *(
            "while x:\n    pass",
            "try:\n    x\nfinally:\n    y",
            "raise x",
            "assert x",
            "del x",
            "global x",
            "x: int = 1",
        ),
        *(
            "def f():\n    pass",
            "class A:\n    pass",
            "import os",
            "from os import path",
            "match x:\n    case y:\n        z",
        ),
        *("~x", "x @ y", "x << y", "x >> y", "x | y", "x & y", "x ^ y", "f'{x}'", "(x := y)", "torch__norm(*x)"),
        *("{1: 2}", "{1}", "{x for x in y}", "{x: x for x in y}", "yield x", "yield from x", "await x"),
    ],
)
def test_other_code_is_not_tried(code: str) -> None:
    with pytest.raises(NotVerifiable):
        check(ast.parse(code), NAMES)


# --- imports ------------------------------------------------------------------------------------------------------------------

TRY = "try:\n    import a\nexcept {}:\n    "


@pytest.mark.parametrize(
    "code",
    [
        *("import a, b.c as d", "from a import b as c", "from . import a", "x = None", "x = True", "x = y = 1", "pass"),
        *(TRY.format(error) + "pass" for error in ("ImportError", "ModuleNotFoundError", "AttributeError", "OSError")),
        *(TRY.format(error) + "raise" for error in ("RuntimeError", "Exception", "(ImportError, OSError)")),
        TRY.format("ImportError as error") + "raise RuntimeError",
    ],
)
def test_imports_that_are_tried(code: str) -> None:
    check_imports(ast.parse(code))


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("x = 'a'", "contain a value"),
        ("x = b'a'", "contain a value"),
        ("x = 1.5", "contain a value"),
        ("x = 1j", "contain a value"),
        ("x = y", "use `y`"),
        (TRY.format("BaseException") + "pass", "use `BaseException`"),
        ("x = -1", "more than imports"),
        ("if ImportError:\n    import a", "more than imports"),
        ("ImportError()", "more than imports"),
        ("x = ImportError.args", "more than imports"),
        ("__x = 1", "a name of Python's own"),
        ("import a as b__c", "a name of Python's own"),
        ("import a\n" * 1501, "more than imports"),
    ],
)
def test_other_imports_are_not_tried(code: str, why: str) -> None:
    with pytest.raises(NotVerifiable, match=why):
        check_imports(ast.parse(code))


# --- on the edge of a limit ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kept", "broken", "why"),
    [
        (f"[{'1.0,' * 2998}]", f"[{'1.0,' * 2999}]", "it is too long"),  # 3,001 nodes
        ("torch__zeros(1, 1048576)", "torch__zeros(2, 1048576)", "it creates a large value"),
        ("torch__zeros(0, 1048576)", "torch__zeros(0, 2, 1048576)", "it creates a large value"),
        ("torch__Tensor(1024, 1024)", "torch__Tensor(1024, 1025)", "it creates a large value"),
        ("builtins__range(1048576)", "builtins__range(1024, 1025)", "it creates a large value"),
        ("torch__zeros(n, 1024.5)", "torch__zeros(n * 1024, 1025)", "it creates a large value"),
        ("[x for x in y] * 1000", "[x for x in y] * 1001", "it repeats a list"),
        ("1000 * (x, y)", "1001 * (x, y)", "it repeats a list"),
        ("[x] + [y] * 2", "[x] * 2.5", "it repeats a list"),
        ("10 ** (n * 64)", "10 ** (n * 65)", "it contains a large power"),
        ("x ** -64", "x ** -65", "it contains a large power"),
        ("x ** 1e9", "x ** (2 ** y)", "it contains a large power"),
    ],
)
def test_what_is_just_within_a_limit_is_tried(kept: str, broken: str, why: str) -> None:
    check(ast.parse(kept), NAMES)
    with pytest.raises(NotVerifiable) as caught:
        check(ast.parse(broken), NAMES)
    assert str(caught.value) == why


def test_many_imports_are_tried() -> None:
    check_imports(ast.parse("import a\n" * 1500 + "pass"))  # 3,001 nodes


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("torch__sum(x, **y)", "it passes `**` to `torch.sum`"),
        ("x.sum(**y)", "it passes `**` to `.sum`"),
        ("f(a, b)", "it calls `f`"),
        (f"{'a' * 50}(1)", f"it calls `{'a' * 40}`"),
        ("while x:\n    pass", "it contains a `while` statement"),
        ("{1}", "it contains a `set` expression"),
        ("x @ y", "it contains a `matmult` expression"),
    ],
)
def test_why_code_is_not_tried(code: str, why: str) -> None:
    with pytest.raises(NotVerifiable) as caught:
        check(ast.parse(code), NAMES)
    assert str(caught.value) == why
