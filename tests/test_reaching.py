"""Which assignments a use of a name can see, on any path through the program."""

from __future__ import annotations

import libcst as cst
import pytest

from clipcheck.python.reaching import contains, reached, reaching, reaching_at
from clipcheck.python.source import Source


def seen(text: str) -> set[int]:
    """The lines of the assignments to `x` that the only `see(x)` of a program can see."""
    source = Source(text)
    (call,) = (c for c in source.nodes(cst.Call) if isinstance(c.func, cst.Name) and c.func.value == "see")
    use = call.args[0].value
    assert isinstance(use, cst.Name)
    found = reaching(source, use)
    assert len({id(binding) for binding in found}) == len(found), "each binding once"
    return {source.line(binding.node) for binding in found}


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("see(x)", set()),
        ("see(sum)", set()),
        ("x = 1\nsee(x)", {1}),
        ("see(x)\nx = 1", {2}),  # one binding is not looked at more closely
        # in a row
        ("x = 1\nx = 2\nsee(x)", {2}),
        ("x = 1\nsee(x)\nx = 2", {1}),
        ("x = 1\nx += 1\nsee(x)", {2}),
        ("x = 1; x = 2\\\n; see(x)", {1}),
        ("import x\nx = 1\nsee(x)", {2}),
        ("x = 1\ndef x(): pass\nsee(x)", {2}),
        ("x = 1\nclass x: pass\nsee(x)", {2}),
        ("x = 1\ndef f():\n    x = 2\nx = 4\nsee(x)", {4}),
        ("x = 1\nx = 2\ndef f():\n    pass\nsee(x)", {2}),
        # branches
        ("x = 1\nif c:\n    x = 3\nsee(x)", {1, 3}),
        ("x = 1\nif c:\n    x = 3\nelse:\n    x = 5\nsee(x)", {3, 5}),
        ("x = 1\nif c:\n    x = 3\nelse:\n    y = 5\nsee(x)", {1, 3}),
        ("x = 1\nif c:\n    y = 3\nelse:\n    x = 5\nsee(x)", {1, 5}),
        ("x = 1\nif c:\n    x = 3\nelif d:\n    x = 5\nelse:\n    x = 7\nsee(x)", {3, 5, 7}),
        ("x = 1\nif c:\n    x = 3\nelif d:\n    x = 5\nsee(x)", {1, 3, 5}),
        ("x = 1\nif c:\n    x = 3\n    x = 4\nelse:\n    x = 6\nsee(x)", {4, 6}),
        ("x = 1\nif c:\n    x = 3\nelse:\n    see(x)", {1}),
        ("x = 1\nif c:\n    x = 3\n    see(x)", {3}),
        ("x = 1\nif c: x = 2\nsee(x)", {1, 2}),
        # a branch that exits before its end contributes nothing here
        ("x = 1\nif c:\n    x = 3\n    return\nsee(x)", {1}),
        ("x = 1\nif c:\n    x = 3\n    raise\nsee(x)", {1}),
        ("for i in y:\n    x = 2\n    if c:\n        x = 4\n        continue\n    see(x)", {2}),
        ("for i in y:\n    x = 2\n    if c:\n        x = 4\n        break\n    see(x)", {2}),
        ("x = 1\nif c:\n    x = 3; return\nsee(x)", {1}),
        ("x = 1\nif c:\n    x = 3\nelse:\n    return\nsee(x)", {3}),
        ("x = 1\nif c:\n    return\nelif d:\n    x = 5\nelse:\n    raise\nsee(x)", {5}),
        ("x = 1\nif c:\n    x = 3\n    if d:\n        return\nsee(x)", {1, 3}),
        # loops
        ("x = 1\nfor i in y:\n    x = 3\nsee(x)", {1, 3}),
        ("x = 1\nwhile c:\n    x = 3\nsee(x)", {1, 3}),
        ("x = 1\nfor i in y:\n    x = 3\n    x = 4\nsee(x)", {1, 4}),
        ("x = 1\nfor i in y:\n    see(x)\n    x = 4", {1, 4}),
        ("x = 1\nwhile c:\n    see(x)\n    x = 4", {1, 4}),
        ("x = 1\nfor i in y:\n    x = 3\n    see(x)\n    x = 5", {3}),
        ("x = 1\nfor i in y:\n    if c:\n        x = 4\n    see(x)", {1, 4}),
        ("x = 1\nfor i in y:\n    x = 3\n    if c:\n        break\n    x = 6\nsee(x)", {1, 3, 6}),
        ("x = 1\nfor i in y:\n    x = 3\n    if c:\n        continue\n    x = 6\nsee(x)", {1, 3, 6}),
        ("x = 1\nfor i in y:\n    pass\nelse:\n    x = 5\nsee(x)", {1, 5}),
        ("x = 1\nfor i in y:\n    x = 3\nelse:\n    see(x)", {1, 3}),
        ("x = 1\nfor x in y:\n    pass\nelse:\n    see(x)\nx = 6", {1, 2}),
        ("x = 1\nfor x in y:\n    see(x)", {2}),
        ("x = 1\nfor x in y:\n    x = 3\n    see(x)", {3}),
        ("x = 1\nfor x in y:\n    see(x)\n    x = 4", {2}),
        ("x = 1\nfor a, (x, b) in y:\n    see(x)", {2}),
        ("x = 1\nfor x in y:\n    pass\nsee(x)", {1, 2}),
        ("x = 1\nfor x in see(x):\n    pass", {1}),
        ("x = 1\nfor a in y:\n    for x in z:\n        pass\n    see(x)", {1, 3}),
        # blocks that surely run
        ("x = 1\nwith c:\n    x = 3\nsee(x)", {3}),
        ("x = 1\nwith c as x:\n    pass\nsee(x)", {2}),
        ("x = 1\nwith c as (a, x):\n    see(x)", {2}),
        ("x = 1\nwith c as x:\n    x = 3\nsee(x)", {3}),
        ("x = 1\nwith c as x:\n    if d:\n        x = 4\nsee(x)", {2, 4}),
        ("x = 1\nwith see(x) as x:\n    pass", {1}),
        ("x = 1\nwith c:\n    see(x)\nx = 4", {1}),
        ("x = 1\nwith c:\n    if d:\n        x = 4\nsee(x)", {1, 4}),
        # errors may occur anywhere
        ("x = 1\ntry:\n    x = 3\nexcept E:\n    pass\nsee(x)", {1, 3}),
        ("x = 1\ntry:\n    x = 3\nexcept E:\n    x = 5\nsee(x)", {3, 5}),
        ("x = 1\ntry:\n    x = 3\nexcept E:\n    x = 5\nexcept F:\n    pass\nsee(x)", {1, 3, 5}),
        ("x = 1\ntry:\n    pass\nexcept E:\n    x = 5\nsee(x)", {1, 5}),
        ("x = 1\ntry:\n    x = 3\nfinally:\n    pass\nsee(x)", {1, 3}),
        ("x = 1\ntry:\n    x = 3\nexcept E:\n    see(x)", {1, 3}),
        ("x = 1\ntry:\n    x = 3\nexcept E:\n    x = 5\nexcept F:\n    see(x)", {1, 3}),
        ("x = 1\ntry:\n    see(x)\nexcept E:\n    x = 5", {1}),
        ("x = 1\ntry:\n    pass\nexcept E:\n    x = 5\nelse:\n    see(x)", {1}),
        ("x = 1\ntry:\n    x = 3\nexcept E:\n    x = 5\nfinally:\n    see(x)", {1, 3, 5}),
        ("x = 1\ntry:\n    x = 3\nexcept* E:\n    see(x)", {1, 3}),
        ("x = 1\ntry:\n    x = 3\nexcept E as x:\n    see(x)", {4}),
        ("x = 1\nmatch c:\n    case 1:\n        x = 4\nsee(x)", {1, 4}),
        ("x = 1\nmatch c:\n    case [x, 1]:\n        see(x)\n    case x:\n        pass", {3}),
        # functions: their own names in their own order, those of others whenever they may run
        ("def f(x):\n    see(x)\n    x = 3", {1}),
        ("def f(x):\n    x = 2\n    see(x)", {2}),
        ("def f(x):\n    if c:\n        x = 3\n    see(x)", {1, 3}),
        ("def f(x=1):\n    for x in y:\n        pass\n    see(x)", {1, 2}),
        ("x = 1\nx = 2\ndef f():\n    see(x)", {1, 2}),
        ("x = 1\ndef f():\n    see(x)\nx = 4", {1, 4}),
        ("x = 1\nx = 2\nlambda: see(x)", {1, 2}),
        ("x = 1\nx = 2\nclass A:\n    see(x)", {2}),
        ("x = 1\nx = 2\n[see(x) for i in y]", {2}),
        ("x = 1\nx = 2\n[see(x) for x in y]", {3}),
        ("x = 1\n[see(x) for x in y for x in z]", {2}),
    ],
)  # fmt: skip
def test_what_a_use_can_see(text: str, lines: set[int]) -> None:
    assert seen(text) == lines


def test_the_bindings_that_a_name_would_have_before_a_statement() -> None:
    source = Source("x = 1\nif c:\n    x = 3\nhere()\nx = 5\n")
    here = source.statement(next(source.nodes(cst.Call)))
    assert {source.line(binding.node) for binding in reaching_at(source, here, "x")} == {1, 3}
    assert reaching_at(source, here, "y") == []


@pytest.mark.parametrize(
    ("text", "line", "uses"),
    [
        ("x = 1\na(x)\nx = 3\nb(x)", 1, {2}),
        ("x = 1\na(x)\nx = 3\nb(x)", 3, {4}),
        ("x = 1\nif c:\n    x = 3\n    a(x)\nb(x)", 1, {5}),
        ("x = 1\nif c:\n    x = 3\n    a(x)\nb(x)", 3, {4, 5}),
        ("x = 1\ndef f(x):\n    return x\nx = 4\na(x)", 1, set()),
        ("x = 1\ndef f():\n    return x\nx = 4\na(x)", 1, {3}),
        ("for i in y:\n    a(x)\n    x = 3\n    b(x)\nx = 5", 3, {2, 4}),
    ],
)
def test_which_uses_an_assignment_reaches(text: str, line: int, uses: set[int]) -> None:
    source = Source(text)
    scope = source.names.module
    wanted = [binding for binding in scope.bindings["x"] if source.line(binding.node) == line]
    assert len(wanted) == 1
    assert {source.line(use) for use in reached(source, scope, wanted)} == uses


def test_which_nodes_contain_which() -> None:
    source = Source("if c:\n    x = f(1)\ny = 2\n")
    branch, other = source.module.body
    call = next(source.nodes(cst.Call))
    assert contains(source, branch, call)
    assert contains(source, call, call)
    assert not contains(source, call, branch)
    assert not contains(source, other, call)
