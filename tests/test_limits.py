"""What is too large or too deep to be parsed, where it is, and the stack for what is not."""

from __future__ import annotations

import sys
import threading

import pytest

from clipcheck.python.limits import FRAMES, MAX_DEPTH, STACK_BYTES, excess, with_room

DEEP = "nested too deeply to be analyzed: more than 1,200 levels"
BRACKETS = "nested too deeply to be analyzed: more than 200 open brackets"
LONG = "not valid Python, and a line is too long to find out why"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x = 1\n",
        "x = = 1\n",
        "x = a" + ".b" * 1000,
        "x = " + " and ".join(["a"] * 2300),
        "x = " + " ".join(["'a'"] * 2300),
        "x = " + "'" + "a" * 9000 + "'",
        "x = [" + ", ".join(["a"] * 5000) + "]",
        "x = a\n" * 3000,
        "(" * 200,
        "()" * 300 + " = = 1",
        ")" * 300 + "(" * 200,
        "x = = 1 # " + "a" * 4989,
    ],
)
def test_what_can_be_parsed(text: str) -> None:
    assert excess(text) is None


@pytest.mark.parametrize(
    ("text", "at", "message"),
    [
        ("x = " + "-" * 100_000 + "1", 0, "nested too deeply to be analyzed"),
        ("x = 1\n" * 400_000, 0, "too large to be analyzed: 2,400,000 characters, the limit is 2,000,000"),
        ("x = a" + ".b" * 1300, 0, DEEP),
        ("y = 1\nx = a" + ".b" * 1300, 6, DEEP),
        ("y = 1\r\nz = 2\r\nx = a" + ".b" * 1300, 14, DEEP),
        ("y = 'a\fb'\n\fx = a" + ".b" * 1300, 10, DEEP),  # what Python does not take for the end of a line
        ("y = 1\rx = a" + ".b" * 1300, 6, DEEP),
        ("if y:\n    x = a" + ".b" * 1300 + "\nz = 1\n", 6, DEEP),
        ("x = " + " and ".join(["a"] * 2500), 0, DEEP),
        ("x = " + " ".join(["'a'"] * 2500), 0, DEEP),
        ("x = (" + "\n".join(["f'a'"] * 2500) + ")", 0, DEEP),
        ("x = (" + "\n".join(["b'a'"] * 2500) + ")", 0, DEEP),
        ("(" * 201, 200, BRACKETS),
        ("[" * 100 + "{" * 101, 200, BRACKETS),
        (")))" + "(" * 201, 203, BRACKETS),
        ("()" * 10 + "(" * 201, 220, BRACKETS),
        ("x = = 1\n# " + "a" * 4999, 8, LONG),
    ],
)
def test_what_is_too_large_or_too_deep(text: str, at: int, message: str) -> None:
    found = excess(text)
    assert found is not None
    assert (found.message, found.at) == (message, at)


def test_a_call_with_room_for_deep_code() -> None:
    before = sys.getrecursionlimit(), threading.stack_size()
    inside: list[tuple[int, str]] = []

    def deep(levels: int) -> int:
        return 0 if not levels else 1 + deep(levels - 1)

    def look() -> int:
        inside.append((sys.getrecursionlimit(), threading.current_thread().name))
        return deep(2 * MAX_DEPTH)

    assert with_room(look) == 2 * MAX_DEPTH
    assert inside[0][0] >= FRAMES and inside[0][1] != threading.current_thread().name
    assert (sys.getrecursionlimit(), threading.stack_size()) == before
    assert STACK_BYTES == 2**29


def test_other_threads_keep_their_stacks() -> None:
    before = threading.stack_size(1 << 20)
    try:
        with_room(lambda: None)
        assert threading.stack_size() == 1 << 20
    finally:
        threading.stack_size(before)


def test_a_call_within_another_has_its_room() -> None:
    def name() -> str:
        return threading.current_thread().name

    outer, inner = with_room(lambda: (name(), with_room(name)))
    assert outer == inner != name()


def test_an_error_of_a_call_with_room_is_raised() -> None:
    def fails() -> None:
        raise KeyError("why")

    with pytest.raises(KeyError, match="why"):
        with_room(fails)
    assert with_room(lambda: 3) == 3


@pytest.mark.parametrize("refused", ["the stack", "the thread"])
def test_where_the_system_allows_no_such_thread_the_call_is_direct(
    monkeypatch: pytest.MonkeyPatch, refused: str
) -> None:
    allowed = threading.stack_size

    def stack_size(size: int = 0) -> int:
        if size == STACK_BYTES:
            raise ValueError("size not valid")
        return allowed(size)

    def start(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    if refused == "the stack":
        monkeypatch.setattr(threading, "stack_size", stack_size)
    else:
        monkeypatch.setattr(threading.Thread, "start", start)
    before = sys.getrecursionlimit(), allowed()
    here = threading.current_thread()
    assert with_room(lambda: (threading.current_thread(), sys.getrecursionlimit())) == (here, before[0])
    assert (sys.getrecursionlimit(), allowed()) == before
