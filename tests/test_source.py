"""The answers of a parsed program, and their memoization."""

from __future__ import annotations

import gc
import weakref

import pytest

from clipcheck.python.source import Source, memo


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
