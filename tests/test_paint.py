"""When output is in color."""

from __future__ import annotations

import io

import pytest

from clipcheck.report.paint import Paint, wanted


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR", "CLICOLOR_FORCE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")


def test_a_terminal_gets_colors_and_a_file_none() -> None:
    assert wanted("auto", Terminal())
    assert not wanted("auto", io.StringIO())
    assert not wanted("auto", None)


def test_a_terminal_without_colors_gets_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    assert not wanted("auto", Terminal())


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("NO_COLOR", "1", False),
        ("NO_COLOR", "", True),
        *((name, value, True) for name in ("FORCE_COLOR", "CLICOLOR_FORCE") for value in ("1", "true")),
        *((name, value, False) for name in ("FORCE_COLOR", "CLICOLOR_FORCE") for value in ("", "0", "false")),
    ],
)
def test_the_environment_decides_before_the_terminal(
    name: str, value: str, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    assert wanted("auto", Terminal()) is expected
    assert wanted("auto", io.StringIO()) is (expected and name != "NO_COLOR")
    assert wanted("always", io.StringIO())
    assert not wanted("never", Terminal())


def test_only_nonempty_text_is_colored() -> None:
    assert Paint(True)("a", "bold", "red") == "\x1b[1;31ma\x1b[0m"
    assert Paint(True)("", "bold") == Paint(False)("", "bold") == ""
    assert Paint(False)("a", "bold") == "a"
