"""Statements that move: which one contains a call, what it may pass, and the lines that come out.

A program contains `HERE` in the statement that moves and `THERE` in the one it moves to.
"""

from __future__ import annotations

import libcst as cst
import pytest
from test_verbs import applied

from clipcheck.fixes.move import carrier, moved, moved_after, names_settled
from clipcheck.python.source import Source, Statement


def named(source: Source, name: str) -> cst.Name:
    (found,) = [node for node in source.nodes(cst.Name) if node.value == name]
    return found


def both(source: Source) -> tuple[Statement, Statement]:
    return source.statement(named(source, "HERE")), source.statement(named(source, "THERE"))


def before(text: str) -> str | None:
    source = Source(text)
    statement, target = both(source)
    edits = moved(source, [statement], target)
    return None if edits is None else applied(text, edits)


def after(text: str) -> str | None:
    source = Source(text)
    statement, target = both(source)
    edits = moved_after(source, [statement], target)
    return None if edits is None else applied(text, edits)


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("THERE\na\nHERE\nb\n", "HERE\nTHERE\na\nb\n"),
        ("a\nTHERE\nHERE\n", "a\nHERE\nTHERE\n"),
        ("THERE\nHERE", "HERE\nTHERE\n"),
        ("THERE\r\nHERE", "HERE\r\nTHERE\r\n"),
        ("THERE\r\nHERE\r\n", "HERE\r\nTHERE\r\n"),
        ("HERE\na\nTHERE\n", "a\nHERE\nTHERE\n"),
        ("THERE\n# why\n# so\nHERE  # here\nb\n", "# why\n# so\nHERE  # here\nTHERE\nb\n"),
        ("# there\nTHERE\nHERE\n", "# there\nHERE\nTHERE\n"),
        ("THERE\n\n# apart\n\nHERE\nb\n", "HERE\nTHERE\n\n# apart\n\nb\n"),
        ("THERE\na\n\nHERE\n\nb\n", "HERE\nTHERE\na\n\nb\n"),
        # to another depth
        ("if x:\n    THERE\nHERE\n", "if x:\n    HERE\n    THERE\n"),
        ("THERE\nif x:\n    HERE\n    a\n", "HERE\nTHERE\nif x:\n    a\n"),
        ("if x:\n    THERE\nf(\n    HERE,\n)\n", "if x:\n    f(\n        HERE,\n    )\n    THERE\n"),
        ("if x:\n    THERE\n# why\nif HERE:\n    b\n", "if x:\n    # why\n    if HERE:\n        b\n    THERE\n"),
        ("if x:\n    THERE\nif HERE:\n    a\n\n    b\n", "if x:\n    if HERE:\n        a\n\n        b\n    THERE\n"),
        ("if x:\n    if y:\n        f(\n  HERE,\n        )\n    THERE\n", "if x:\n    if y:\n    f(\n  HERE,\n    )\n    THERE\n"),
        ("THERE\nx = '''a\n b'''; HERE\n", None),
        ("THERE\nx = HERE, '''a\n b'''\n", "x = HERE, '''a\n b'''\nTHERE\n"),
        ("if x:\n    THERE\nx = HERE, '''a\n b'''\n", None),  # lines inside a string belong to its value
        ("if x:\n    THERE\nx = f'''{HERE}\n b'''\n", None),
        ("if x:\n    THERE\nx = HERE, 'a'\n", "if x:\n    x = HERE, 'a'\n    THERE\n"),
        # lines that something else is on, too
        ("THERE; a\nHERE\n", None),
        ("THERE\nHERE; a\n", None),
        ("if x: THERE\nHERE\n", "HERE\nif x: THERE\n"),
        ("THERE\nif x: HERE\n", "if x: HERE\nTHERE\n"),
        # whole blocks
        ("while THERE:\n    a\nHERE\n", "HERE\nwhile THERE:\n    a\n"),
        ("THERE\nwith HERE:\n    a\nb\n", "with HERE:\n    a\nTHERE\nb\n"),
    ],
)  # fmt: skip
def test_a_statement_moves_to_right_above_another(text: str, result: str | None) -> None:
    assert before(text) == result


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("HERE\na\nTHERE\nb\n", "a\nTHERE\nHERE\nb\n"),
        ("HERE\nTHERE\n", "THERE\nHERE\n"),
        ("HERE\nTHERE", "THERE\nHERE\n"),  # no newline at the end
        ("HERE\r\nTHERE", "THERE\r\nHERE\r\n"),
        ("HERE\rTHERE", "THERE\rHERE\r"),
        ("THERE\na\nHERE\n", "THERE\nHERE\na\n"),
        ("# why\nHERE  # here\nTHERE  # there\n", "THERE  # there\n# why\nHERE  # here\n"),
        ("HERE\nif THERE:\n    a\nb\n", "if THERE:\n    a\nHERE\nb\n"),
        ("if x:\n    HERE\n    y\nTHERE\n", "if x:\n    y\nTHERE\nHERE\n"),
        ("HERE\nTHERE; a\n", None),
    ],
)
def test_a_statement_moves_to_right_below_another(text: str, result: str | None) -> None:
    assert after(text) == result


def test_several_statements_keep_their_order() -> None:
    text = "a\nTHERE\nHERE\nb\nc\n"
    source = Source(text)
    statement, target = both(source)
    edits = moved(source, [statement, source.statement(named(source, "b"))], target)
    assert edits is not None
    assert applied(text, edits) == "a\nHERE\nb\nTHERE\nc\n"


# --- which statement moves --------------------------------------------------------------------------------------------


def pair(text: str) -> tuple[str, str] | None:
    """The first lines of the statement that contains `HERE`, and of the one beside it that contains `THERE`."""
    source = Source(text)
    found = carrier(source, named(source, "HERE"), named(source, "THERE"))
    if found is None:
        return None
    first, second = (source.text[source.span(statement)[0] :].partition("\n")[0] for statement in found)
    return first, second


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("HERE\nTHERE\n", ("HERE", "THERE")),
        ("THERE\na\nx = f(HERE)\n", ("x = f(HERE)", "THERE")),
        ("HERE\nwith x:\n    if y:\n        THERE\n", ("HERE", "with x:")),
        ("if x:\n    HERE\n    THERE\n", ("HERE", "THERE")),
        ("if x:\n    HERE\nTHERE\n", ("if x:", "THERE")),
        ("if x:\n    if y:\n        HERE\nfor z in zs:\n    THERE\n", ("if x:", "for z in zs:")),
        # what does more than decide
        ("if x:\n    HERE\n    a\nTHERE\n", None),
        ("if x:\n    HERE\nelse:\n    a\nTHERE\n", None),
        ("if x:\n    a\nelse:\n    HERE\nTHERE\n", None),
        ("if x:\n    a\nelif y:\n    HERE\nTHERE\n", None),
        ("for x in xs:\n    HERE\nTHERE\n", None),
        ("while x:\n    HERE\nTHERE\n", None),
        ("def f():\n    HERE\nTHERE\n", None),
        # what is not alone on its line
        ("HERE; a\nTHERE\n", None),
        ("if x: HERE\nTHERE\n", None),
        ("if HERE:\n    a\nTHERE\n", None),
        ("f(HERE, THERE)\n", None),
    ],
)
def test_the_statement_that_contains_only_a_call(text: str, result: tuple[str, str] | None) -> None:
    assert pair(text) == result


@pytest.mark.parametrize(
    ("passed", "settled"),
    [
        ("a = 1", True),
        ("print(a)", True),
        ("print(x)", True),  # which it reads, too
        ("x = 1", False),
        ("from a import b as x", False),
        ("def x():\n    pass", False),
        ("class x:\n    pass", False),
        ("with a as x:\n    pass", False),
        ("f(x := 1)", False),
        ("x += 1", False),
        ("for x in a:\n    pass", False),
        ("import x", False),
        ("print(y)", False),
        ("y = 1", False),
        ("def g():\n    return y", False),
        ("del y", False),
    ],
)
def test_a_statement_passes_only_what_leaves_its_names_alone(passed: str, settled: bool) -> None:
    for text in (f"y = HERE(x)\n{passed}\nTHERE\n", f"THERE\n{passed}\ny = HERE(x)\n"):
        source = Source(text)
        statement, target = both(source)
        first, last = sorted((source.span(statement), source.span(target)))
        assert names_settled(source, statement, first[1], last[0]) is settled


def test_what_is_outside_of_the_way_may_change_the_names() -> None:
    text = "x = 1\ny = HERE(x)\na\nTHERE\ny = x = 2\nprint(y)\n"
    source = Source(text)
    statement, target = both(source)
    assert names_settled(source, statement, source.span(statement)[1], source.span(target)[0])
