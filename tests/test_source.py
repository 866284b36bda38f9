"""The answers of a parsed program, and their memoization."""

from __future__ import annotations

import gc
import weakref

import libcst as cst
import pytest

from clipcheck.python.source import Source, memo
from clipcheck.rule import Target


def test_a_memo_computes_once_for_each_source_and_arguments() -> None:
    asked: list[tuple[str, str]] = []

    @memo
    def answer(source: Source, name: str) -> str:
        asked.append((source.text, name))
        return source.text + name

    one, other = Source("1"), Source("2")
    assert [answer(one, "a"), answer(one, "a"), answer(one, "b"), answer(other, "a")] == ["1a", "1a", "1b", "2a"]
    assert asked == [("1", "a"), ("1", "b"), ("2", "a")]


def test_a_memo_stores_none_and_distinguishes_functions() -> None:
    calls = 0

    @memo
    def nothing(source: Source) -> None:
        nonlocal calls
        calls += 1

    @memo
    def length(source: Source) -> int:
        return len(source.text)

    source = Source("1")
    nothing(source)
    nothing(source)
    assert (calls, length(source)) == (1, 1)


def test_a_memo_does_not_store_errors() -> None:
    calls = 0

    @memo
    def fails_once(source: Source) -> int:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise ValueError("the first time")
        return calls

    source = Source("1")
    with pytest.raises(ValueError, match="the first time"):
        fails_once(source)
    assert fails_once(source) == fails_once(source) == 2


def test_the_results_of_a_memo_are_freed_with_the_source() -> None:
    class Answer: ...

    @memo
    def answer(source: Source) -> Answer:
        return Answer()

    source = Source("1")
    kept = weakref.ref(answer(source))
    assert kept() is not None
    del source
    gc.collect()
    assert kept() is None


def test_the_code_of_an_expression_needs_no_positions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Computing those of all nodes takes about half as long as parsing."""
    text = "f(a, (b + c), d.e, *g)\n"
    source = Source(text)

    def fail(*args: object) -> None:
        raise AssertionError("all positions were computed")

    monkeypatch.setattr("clipcheck.python.source.placed", fail)
    (call,) = source.nodes(cst.Call)
    assert source.code(call) == text.strip()
    assert [source.code(arg) for arg in call.args] == ["a", "(b + c)", "d.e", "*g"]
    assert [source.outer_code(arg.value) for arg in call.args] == ["a", "(b + c)", "d.e", "g"]
    assert [source.spelled(arg.value) for arg in call.args] == ["a", "b+c", "d.e", "g"]


def test_the_statement_of_a_node() -> None:
    source = Source("if a:\n    b; c\nelse:\n    d\n")
    (branch,) = source.module.body
    found = {name.value: source.statement(name) for name in source.nodes(cst.Name)}
    assert found["a"] is branch is source.statement(branch)
    assert found["b"] is found["c"] is not found["d"]
    assert source.code(found["b"]) == "b; c"


def test_the_statements_beside_one() -> None:
    source = Source("a\nif b:\n    c\n    d\nif e: f\n")
    names = {name.value: name for name in source.nodes(cst.Name)}

    def beside(name: str) -> tuple[list[str], int]:
        found, index = source.siblings(source.statement(names[name]))
        return [source.code(one).partition("\n")[0] for one in found], index

    assert beside("a") == (["a", "if b:", "if e: f"], 0)
    assert beside("d") == (["c", "d"], 1)
    assert beside("f") == (["a", "if b:", "if e: f"], 2)  # its line is that of the `if`
    assert source.siblings(names["a"]) == ([], 0)


@pytest.mark.parametrize(
    ("target", "module", "origin"),
    [
        # a copy of the runtime counts as the runtime
        ("mine.clipping", "mine.clipping", "clipcheck.runtime"),
        ("mine.clipping", "mine.clippings", "mine.clippings"),
        ("mine.clipping", "mine", "mine"),
        ("mine.clipping", "clipcheck.runtime", "clipcheck.runtime"),
        ("mine.clipping", "torch.nn.utils", "torch.nn.utils"),
        ("clipcheck", "mine.clipping", "mine.clipping"),
        ("clipcheck", "clipcheck.runtime", "clipcheck.runtime"),
        ("torch", "torch.nn.utils", "torch.nn.utils"),
        ("torch", "clipcheck.runtime", "clipcheck.runtime"),
    ],
)
def test_the_origin_of_a_function_of_the_target(target: Target, module: str, origin: str) -> None:
    for text in (f"from {module} import f\nf", f"import {module} as m\nm.f", f"import {module}\n{module}.f"):
        source = Source(text + "\n", target)
        *_, last = source.nodes(cst.Expr)
        assert source.qualified(last.value) == f"{origin}.f"
    unknown = Source("f(x).y\n", target)
    assert unknown.qualified(next(unknown.nodes(cst.Attribute))) is None
