"""A text parsed after an edit gives the same tree, places and names as the text parsed whole."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import libcst as cst
import pytest
from conftest import PROJECT

from clipcheck.documents.program import Program
from clipcheck.documents.read import read
from clipcheck.python import syntax
from clipcheck.python.memory import Memory, remembered
from clipcheck.python.names import children
from clipcheck.python.positions import Tree, parse

FILES = [*sorted((PROJECT / "clipcheck").rglob("*.py"))[::5], PROJECT / "demo" / "train.py"]
# What people type and delete, and what has broken incremental parsers: openers, closers, and what joins lines.
TYPED = [
    *(
        "x",
        " ",
        "\n",
        "\n\n",
        "    ",
        "#",
        "# a comment\n",
        "(",
        ")",
        "]",
        "'",
        '"""',
        "\\",
        "\\\n",
        ":",
        ";",
        ",",
        "=",
        ".",
    ),
    *("@", "@property\n", "else:\n    pass\n", "elif x:\n    pass\n", "except E:\n    pass\n", "finally:\n    pass\n"),
    *(
        "def f():\n    pass\n",
        "if x:\n",
        "\n\n\nclass C:\n    y = 1\n",
        "async ",
        "return",
        "\t",
        "\f",
        "é",
        "\r\n",
        "\r",
    ),
    *("from a import b\n", "    # indented\n", "pass\n", "x = 1; ", "'''", "if x: y\n", "\ufeff"),
]


def walk(node: cst.CSTNode) -> list[cst.CSTNode]:
    return [node, *(below for child in children(node) for below in walk(child))]


def assert_same(one: Tree, other: Tree) -> None:
    assert one.module.deep_equals(other.module)
    assert one.exact == other.exact
    left, right = walk(one.module), walk(other.module)
    assert [(type(node), one.spans[node]) for node in left] == [(type(node), other.spans[node]) for node in right]
    assert sorted(span for node, span in one.spans.items() if isinstance(node, cst.Comment)) == sorted(
        span for node, span in other.spans.items() if isinstance(node, cst.Comment)
    )
    assert [s[:2] for s in one.stretches] == [s[:2] for s in other.stretches]
    assert [[m[:2] for m in s.members] for s in one.stretches] == [[m[:2] for m in s.members] for s in other.stretches]
    assert len(one.spans) == len(other.spans)


def parsed(text: str) -> tuple[Tree | None, str]:
    try:
        return parse(text), ""
    except cst.ParserSyntaxError as error:
        return None, str(error)


def edited(text: str, chance: random.Random) -> str:
    at = chance.randrange(len(text) + 1)
    if chance.random() < 0.3:  # at the end, where most code is written
        at = len(text) - chance.randrange(min(len(text), 60) + 1)
    deleted = chance.choice([0, 0, 0, 1, 1, 4, 40, 400])
    return text[:at] + chance.choice(["", *TYPED]) + text[at + deleted :]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_text_typed_is_a_text_read(path: Path) -> None:
    chance = random.Random(path.name)
    memory = Memory()
    text = path.read_text(encoding="utf-8")
    with remembered(memory):
        parse(text)
    for _ in range(8):
        new = edited(text, chance)
        whole, fault = parsed(new)
        with remembered(memory):
            again, same_fault = parsed(new)
        assert fault == same_fault
        if whole is not None and again is not None:
            assert_same(again, whole)
            text = new


def test_what_was_not_touched_is_not_parsed_again() -> None:
    text = "import torch\n\n\n" + "\n\n".join(f"def f{i}(x):\n    return x + {i}\n" for i in range(20))
    memory = Memory()
    with remembered(memory):
        before = parse(text).module.body
        after = parse(text.replace("x + 7", "x - 7")).module.body
    same = [one is other for one, other in zip(before, after, strict=True)]
    assert [i for i, kept in enumerate(same) if not kept] == [8]
    assert same[0] and same[-1]


def test_the_other_methods_of_a_class_are_not_parsed_again() -> None:
    methods = "\n".join(f"    def f{i}(self, x):\n        return x + {i}\n" for i in range(20))
    text = f"import torch\n\n\nclass C:\n{methods}\n\nprint(C)\n"
    memory = Memory()

    def body(of: str) -> Sequence[cst.CSTNode]:
        owner = parse(of).module.body[1]
        assert isinstance(owner, cst.ClassDef)
        return owner.body.body

    with remembered(memory):
        before = body(text)
        after = body(text.replace("x + 7", "x - 7"))
        again = body(text.replace("x + 7", "x - 77"))
    for other in (after, again):
        assert [i for i, (one, two) in enumerate(zip(before, other, strict=True)) if one is not two] == [7]


def test_a_memory_serves_only_who_asks_for_it() -> None:
    memory = Memory()
    with remembered(memory):
        parse("x = 1\n")
    kept = memory.tree
    parse("y = 1\n")
    assert memory.tree is kept


def program(text: str) -> Program:
    return read("a.py", text.encode()).programs[0]


@pytest.mark.parametrize("typed", ["#", "#   ", "# x "])
@pytest.mark.parametrize("head", ["    for x in xs:", "    if xs:", "    with xs:"])
def test_the_head_of_a_block_behind_a_comment_sign_leaves_the_rest_readable(head: str, typed: str) -> None:
    text = f"def f(xs):\n    y = xs\n{head}\n        print(y)\n    return y\n"
    half = text.replace(head, typed + head)
    with remembered(Memory()):
        syntax.parse(program(text), "clipcheck")
        (fault,) = syntax.parse(program(half), "clipcheck").faults
    assert half[fault.start : fault.end] == typed + head  # the stretch that no fix may touch
