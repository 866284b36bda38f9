"""Which parts of a program a fix is about: an expression, or whole statements, before and after."""

from __future__ import annotations

import pytest

from clipcheck.python.source import Source
from clipcheck.rule import Edit, Fix, Safety
from clipcheck.verify.allowed import NotVerifiable
from clipcheck.verify.pieces import above, apart, in_import, inside, is_clipped, kept, pieces, smallest, trimmed, whole

HEAD = "import torch\nfrom torch.nn.utils import clip_grad_norm_\n\n"


def change(text: str, *new: str) -> tuple[Source, Fix, str]:
    """The program, the fix that puts each new text in the place of what is between `«` and `»`, and the program after it."""
    rest, edits, plain = HEAD + text, [], ""
    for one in new:
        before, _, rest = rest.partition("«")
        old, _, rest = rest.partition("»")
        plain += before
        edits.append(Edit(len(plain), len(plain) + len(old), one))
        plain += old
    plain += rest
    after = plain
    for edit in reversed(edits):
        after = after[: edit.start] + edit.text + after[edit.end :]
    return Source(plain), Fix("Change", Safety.SAFE, tuple(edits)), after


def found(text: str, *new: str) -> list[tuple[str, str, bool]]:
    source, fix, after = change(text, *new)
    return [(source.text[slice(*p.before)], after[slice(*p.after)], p.whole) for p in pieces(source, fix, fix.edits)]


@pytest.mark.parametrize(
    ("text", "new", "before", "after"),
    [
        ("x = f(«a», 1)\n", "b", "a", "b"),
        ("x = «a» + 1\n", "b", "a", "b"),
        ("x = («a»)\n", "b", "(a)", "(b)"),
        ("x = a.b.«c»(1)\n", "d", "a.b.c(1)", "a.b.d(1)"),  # a function is seen with its call
        ("x = «f»(1)\n", "g", "f(1)", "g(1)"),
        ("x = a.«b» + 1\n", "c", "a.b", "a.c"),
        ("print(«a»)\n", "b", "a", "b"),
        ("if «a»:\n    x = 1\n", "b", "a", "b"),
        ("for p in «a»:\n    x = 1\n", "b", "a", "b"),
        ("x: int = «a»\n", "b", "a", "b"),
        ("x += «a»\n", "b", "a", "b"),
        ("clip_grad_norm_(model.«parameters», 1)\n", "parameters()", "model.parameters", "model.parameters()"),
    ],
)
def test_an_edited_expression_is_looked_at_alone(text: str, new: str, before: str, after: str) -> None:
    assert found(text, new) == [(before, after, False)]


@pytest.mark.parametrize(
    ("text", "new", "before", "after"),
    [
        ("«x» = 1\n", "y", "x = 1\n", "y = 1\n"),
        ("«x» += 1\n", "y", "x += 1\n", "y += 1\n"),
        ("«x = 1\n»z = 3\n", "y = 2\n", "x = 1\n", "y = 2\n"),
        (
            "def f():\n    x = 1\n«    y = 2\n»    z = 3\n",
            "    y = 4\n    u = 5\n",
            "    y = 2\n",
            "    y = 4\n    u = 5\n",
        ),
        ("x = 1\n«»y = 2\n", "z = 0\n", "y = 2\n", "z = 0\ny = 2\n"),
        ("with a:\n    «x = 1\n    y = 2»\n    z = 3\n", "x = 3", "    x = 1\n    y = 2\n", "    x = 3\n"),
        ("x = 1  # «a»\n", "b", "x = 1  # a\n", "x = 1  # b\n"),
    ],
)
def test_edited_statements_are_looked_at_whole(text: str, new: str, before: str, after: str) -> None:
    assert found(text, new) == [(before, after, True)]


def test_several_edits() -> None:
    assert found("x = f(«a», «b»)\n", "c", "d") == [("f(a, b)", "f(c, d)", False)]
    assert found("«x» = 1\ny = 2\n«z» = 3\n", "a", "b") == [("x = 1\n", "a = 1\n", True), ("y = 2\n", "y = 2\n", True), ("z = 3\n", "b = 3\n", True)]  # fmt: skip
    assert found("print(«a»)\nprint(«b»)\n", "c", "d") == [("a", "c", False), ("b", "d", False)]
    assert found("x = «a»\ny = «b»\n", "c", "d") == [("x = a\n", "x = c\n", True), ("y = b\n", "y = d\n", True)]


def test_the_statements_down_to_the_last() -> None:
    source, fix, after = change("x = 1\n«y» = 2\nz = 3\n«u» = 4\nv = 5\n", "a", "b")
    (piece,) = whole(source, fix, fix.edits)
    assert source.text[slice(*piece.before)] == "y = 2\nz = 3\nu = 4\n"
    assert after[slice(*piece.after)] == "a = 2\nz = 3\nb = 4\n"
    assert piece.whole


@pytest.mark.parametrize(
    ("text", "groups"),
    [
        ("«clip_grad_norm_»(p, 1)\n«clip_grad_norm_»(q, 1)\n", 2),
        ("f(«clip_grad_norm_», «clip_grad_norm_»)\n", 1),
        ("«x»\n«y»\n", 1),  # what else may belong together
        ("«x = 1\n»\n«y»\n", 1),
    ],
)
def test_exchanged_functions_are_tried_one_by_one(text: str, groups: int) -> None:
    source, fix, _ = change(text, "a", "b")
    assert len(apart(source, fix.edits)) == groups


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("clip_grad_norm_(«a», 1)\n", True),
        ("clip_grad_norm_(a.b.«c», 1)\n", True),
        ("torch.nn.utils.clip_grad_value_(«a», 1)\n", True),
        ("from clipcheck import runtime\nruntime.clip_grad_norm_(«a», 1)\n", True),
        ("clip_grad_norm_(parameters=«a»)\n", True),
        ("clip_grad_norm_(f(«a»), 1)\n", False),
        ("print(«a»)\n", False),
        ("torch.norm(«a»)\n", False),
        ("«clip_grad_norm_»(a, 1)\n", False),
        ("x = «a»\n", False),
    ],
)
def test_whether_only_what_is_clipped_changes(text: str, expected: bool) -> None:
    source, fix, _ = change(text, "b")
    assert is_clipped(source, fix.edits) is expected


@pytest.mark.parametrize(
    ("edit", "span"),
    [(Edit(0, 3, "x"), (0, 3)), (Edit(3, 8, "x"), (5, 7)), (Edit(3, 5, "x"), (3, 3)), (Edit(2, 2, "x"), (2, 2)), (Edit(4, 7, ""), (5, 7))],
)  # fmt: skip
def test_white_space_at_the_ends_of_an_edit_does_not_count(edit: Edit, span: tuple[int, int]) -> None:
    assert trimmed("abc  de  f", edit) == span


@pytest.mark.parametrize(
    ("text", "node"),
    [("f(«a», b)", "a"), ("f(a«», b)", "a"), ("f(«a, b»)", "f(a, b)"), ("«x = 1»\n", None), ("f(a«.b»)", "a.b")],
)
def test_the_smallest_expression_around_an_edit(text: str, node: str | None) -> None:
    source, fix, _ = change(text + "\n", "new")
    found_node = smallest(source, fix.edits[0])
    assert (None if found_node is None else source.code(found_node)) == node


@pytest.mark.parametrize(
    ("text", "new", "expected"),
    [
        ("«import os»\n", "import sys", True),
        ("import «os»\n", "sys", True),
        ("import os  # «why»\n", "", True),
        ("from a import «b»\n", "c", True),
        ("«»x = 1\n", "import os\n", True),
        ("«»x = 1\n", "from os import path\n", True),
        ("«»x = 1\n", "imported = 2\n", False),
        ("«x» = 1\n", "import os; x", False),
        ("import os\n«x» = 1\n", "y", False),
    ],
)
def test_whether_an_edit_is_one_of_imports(text: str, new: str, expected: bool) -> None:
    source, fix, _ = change(text, new)
    assert in_import(source, fix.edits[0]) is expected


def test_where_a_names_value_comes_from() -> None:
    text = "def f(a):\n    xs = []\n    b = 1\n    for x in a:\n        xs.append(x)\n    if a:\n        c: int = 2\n    return «xs»\n"
    source, fix, _ = change(text, "b")
    start = fix.edits[0].start

    def makers(name: str) -> list[str]:
        return [source.text[slice(*piece.before)] for piece in above(source, fix, start, name)]

    loop = "    for x in a:\n        xs.append(x)\n"
    assert makers("xs") == ["    xs = []\n", loop]
    assert makers("b") == ["    b = 1\n"]
    assert makers("x") == [loop]
    assert makers("c") == ["    if a:\n        c: int = 2\n"]
    assert makers("a") == makers("nothing") == []


@pytest.mark.parametrize("block", ["if a:", "for a in b:", "while a:", "with a:", "try:"])
def test_a_value_may_come_from_above_the_block(block: str) -> None:
    after = "    finally:\n        pass\n" if block == "try:" else ""
    source, fix, _ = change(f"def f(a, b):\n    x = 1\n    x += 2\n    {block}\n        «x»\n{after}", "y")
    found = [source.text[slice(*piece.before)] for piece in above(source, fix, fix.edits[0].start, "x")]
    assert found == ["    x = 1\n", "    x += 2\n"]


@pytest.mark.parametrize(
    "text",
    [
        "x = 1\ndef f():\n    «x»\n",  # another function may set it before this one is called
        "x = 1\nif a:\n    def f():\n        «x»\n",
        "x = 1\nif a:\n    class A:\n        «x»\n",
        "def f():\n    x = 1\nif a:\n    «x»\n",
        "class A:\n    x = 1\nif a:\n    «x»\n",
    ],
)
def test_a_value_comes_from_the_same_function(text: str) -> None:
    source, fix, _ = change(text, "y")
    assert above(source, fix, fix.edits[0].start, "x") == []


def test_names_that_are_read_later_are_kept() -> None:
    source, fix, _ = change("def f():\n«    x = 1\n    y = x\n»    return y\n", "pass")
    span = (fix.edits[0].start, fix.edits[0].end)
    assert kept(source, {"x", "y", "z"}, [span]) == {"y"}
    assert kept(source, {"x", "y"}, [(0, len(source.text))]) == set()


def test_one_span_inside_of_others() -> None:
    assert inside((2, 3), [(0, 1), (2, 3)]) and inside((2, 3), [(0, 9)])
    assert not inside((2, 4), [(2, 3)]) and not inside((1, 3), [(2, 3)]) and not inside((1, 2), [])


def test_edits_that_lie_in_no_block_together_are_not_tried() -> None:
    source, fix, _ = change("«x»\n", "y")
    with pytest.raises(NotVerifiable, match="the edits do not lie in one block"):
        whole(source, fix, [Edit(len(source.text) + 5, len(source.text) + 6, "")])


@pytest.mark.parametrize("head", ["if", "while", "with"])
def test_expressions_in_the_head_and_the_body_of_a_block_are_looked_at_alone(head: str) -> None:
    text = f"{head} «a»:\n    print(«b»)\n"
    assert found(text, "c", "d") == [("a", "c", False), ("b", "d", False)]
    before, after = (f"{head} {one}:\n    print({other})\n" for one, other in (("a", "b"), ("c", "d)\n    print(e")))
    assert found(text, "c", "d)\n    print(e") == [(before, after, True)]


def test_expressions_around_an_error_are_looked_at_alone() -> None:
    text = "try:\n    print(«a»)\nexcept ValueError:\n    print(«b»)\n"
    assert found(text, "c", "d") == [("a", "c", False), ("b", "d", False)]


def test_a_loop_is_looked_at_whole() -> None:
    text = "for p in «a»:\n    print(«b»)\n"
    assert found(text, "c", "d") == [("for p in a:\n    print(b)\n", "for p in c:\n    print(d)\n", True)]


def test_a_call_beside_a_sum_is_looked_at_alone() -> None:
    assert found("print(«a»)\nx = «b»\nprint(«c»)\n", "d", "e", "f") == [
        ("a", "d", False),
        ("x = b\n", "x = e\n", True),
        ("c", "f", False),
    ]


def test_what_an_edit_spans_is_one_piece() -> None:
    assert found("a = 1\n«b = 2\nc = 3»\nd = «4»\n", "e = 5", "6") == [
        ("b = 2\nc = 3\n", "e = 5\n", True),
        ("d = 4\n", "d = 6\n", True),
    ]
    assert found("«a = 1\n»b = 2\n«c = 3\n»", "", "d = 4\n") == [
        ("a = 1\n", "", True),
        ("b = 2\n", "b = 2\n", True),
        ("c = 3\n", "d = 4\n", True),
    ]


def test_an_import_that_is_inserted_belongs_to_no_piece() -> None:
    assert found("x = 1\n«»y = f(«a»)\n", "import os\n", "b")[-1] == ("y = f(a)\n", "y = f(b)\n", True)


def test_a_class_or_function_above_binds_nothing_here() -> None:
    text = "def f():\n    def g():\n        x = 1\n    class A:\n        x = 2\n    x = 3\n    return «x»\n"
    source, fix, _ = change(text, "y")
    makers = above(source, fix, fix.edits[0].start, "x")
    assert [source.text[slice(*piece.before)] for piece in makers] == ["    x = 3\n"]


def test_a_method_of_another_name_binds_nothing() -> None:
    source, fix, _ = change("def f(ys):\n    ys.append(1)\n    xs.append(ys)\n    return «ys»\n", "y")
    makers = above(source, fix, fix.edits[0].start, "ys")
    assert [source.text[slice(*piece.before)] for piece in makers] == ["    ys.append(1)\n"]
    assert all(piece.whole and piece.before == piece.after for piece in makers)


def test_pieces_above_are_where_the_text_after_the_fix_has_them() -> None:
    source, fix, after = change("«»x = 1\ny = 2\nprint(«x»)\n", "import os\n", "y")
    (piece,) = above(source, fix, fix.edits[1].start, "x")
    assert source.text[slice(*piece.before)] == after[slice(*piece.after)] == "x = 1\n"


@pytest.mark.parametrize(
    ("inserted", "start"), [("import os\n", ""), ("from os import path\n", ""), ("z = 0\n", "z = 0\n")]
)
def test_what_is_inserted_right_before_a_piece(inserted: str, start: str) -> None:
    """A statement is part of it, an import is not."""
    source, fix, after = change("«»«x» = 1\n", inserted, "y")
    (piece,) = pieces(source, fix, fix.edits[1:])
    assert source.text[slice(*piece.before)] == "x = 1\n"
    assert after[slice(*piece.after)] == f"{start}y = 1\n"


@pytest.mark.parametrize("inserted", ["import os\n", "z = 0\n"])
def test_what_is_inserted_right_after_a_piece_is_part_of_it(inserted: str) -> None:
    source, fix, after = change("«x» = 1\n«»y = 2\n", "y", inserted)
    (piece,) = pieces(source, fix, fix.edits[:1])
    assert after[slice(*piece.after)] == f"y = 1\n{inserted}"


def test_edits_further_down_do_not_move_a_piece() -> None:
    source, fix, after = change("«a» = 1\nprint(«b»)\n«c» = 3\n", "aaa", "bbb", "ccc")
    (piece,) = pieces(source, fix, fix.edits[1:2])
    assert (source.text[slice(*piece.before)], after[slice(*piece.after)]) == ("b", "bbb")
