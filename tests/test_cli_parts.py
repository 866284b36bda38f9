"""The command line's parts: the progress bar, exit codes, watching, what changed in a file, and where output goes."""

from __future__ import annotations

import errno
import io
import json
import os
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import pytest
from conftest import runner

import clipcheck
from clipcheck.cli import changed_lines, check, progress, streams
from clipcheck.cli.arguments import Options
from clipcheck.cli.changed_lines import Changes
from clipcheck.cli.main import main
from clipcheck.engine.results import FileReport, Outcome
from clipcheck.formats import FORMATS
from clipcheck.rule import Finding, Place
from clipcheck.settings.keys import ConfigError

CALL = "import torch\ntorch.nn.utils.clip_grad_norm(model.parameters(), 1.0)\n"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


# --- the progress bar -----------------------------------------------------------------------------------------------------------


def a_terminal(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A terminal for stderr of 80 columns, and a clock that is set."""
    stream, clock = Terminal(), SimpleNamespace(now=0.0)
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock.now)
    monkeypatch.setattr("shutil.get_terminal_size", lambda: SimpleNamespace(columns=80))
    return SimpleNamespace(stream=stream, clock=clock)


def test_a_bar_is_drawn_after_a_second_and_cleared_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = a_terminal(monkeypatch)
    with progress.progress("checking") as step:
        for terminal.clock.now in (0.5, 1.0):
            step(1, 4)
        assert terminal.stream.getvalue() == ""
        terminal.clock.now = 1.1
        step(2, 4)
        half = f"checking [{'#' * 15}{'-' * 15}]  50%"
        assert terminal.stream.getvalue() == f"\r{half}"
        step(4, 4)
        assert terminal.stream.getvalue() == f"\r{half}\r{' ' * len(half)}\r"
    assert terminal.stream.getvalue().endswith(f"\r{' ' * len(half)}\r")


def test_a_bar_is_cleared_when_the_work_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = a_terminal(monkeypatch)

    def work() -> None:
        with progress.progress("x") as step:
            terminal.clock.now = 2.0
            step(1, 4)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        work()
    assert terminal.stream.getvalue().endswith("\r")


@pytest.mark.parametrize("how", ["not shown", "no terminal", "no stream"])
def test_no_bar_is_drawn_where_nobody_sees_it(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = a_terminal(monkeypatch)
    stream = {"not shown": terminal.stream, "no terminal": io.StringIO(), "no stream": None}[how]
    monkeypatch.setattr(sys, "stderr", stream)
    with progress.progress("x", show=how != "not shown") as step:
        terminal.clock.now = 2.0
        step(1, 4)
    assert stream is None or stream.getvalue() == ""


@pytest.mark.parametrize(
    ("part", "columns", "bar"),
    [
        (0.0, 80, f"x [{'-' * 30}]   0%"),
        (0.5, 80, f"x [{'#' * 15}{'-' * 15}]  50%"),
        (1.0, 80, f"x [{'#' * 30}] 100%"),
        (0.05, 80, f"x [{'#' * 1}{'-' * 29}]   5%"),
        (0.5, 11, "x [#######"),
    ],
)
def test_a_bar_fits_into_a_line(part: float, columns: int, bar: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.get_terminal_size", lambda: SimpleNamespace(columns=columns))
    assert progress._bar("x", part) == bar


def test_a_shorter_bar_hides_the_one_before(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = a_terminal(monkeypatch)
    assert progress._draw("abc", 5) == 3
    assert progress._draw("", 0) == 0
    assert terminal.stream.getvalue() == "\rabc  "


# --- exit codes -------------------------------------------------------------------------------------------------------------------

FOUND = Finding("x.py", Place(1, 1, 1, 1), "CLIP002", "name", "message")
LEFT = Outcome((FileReport("x.py", b"", (FOUND,)),), 1, ())
FIXED = Outcome((FileReport("x.py", b"", (), (FOUND,)),), 1, ())
BOTH = Outcome((FileReport("x.py", b"", (FOUND,), (FOUND,)),), 1, ())
NOTHING = Outcome((), 1, ())


@pytest.mark.parametrize(
    ("options", "codes"),
    [
        # nothing, something left, something fixed, both
        ({}, (0, 1, 0, 1)),
        ({"exit_zero": True}, (0, 0, 0, 0)),
        ({"only_verdicts": True}, (0, 0, 0, 0)),
        ({"fix_only": True}, (0, 0, 0, 0)),
        ({"diff": True}, (0, 0, 1, 1)),
        ({"exit_non_zero_on_fix": True}, (0, 1, 1, 1)),
        ({"exit_non_zero_on_fix": True, "fix_only": True}, (0, 0, 1, 1)),
    ],
)
def test_what_a_run_ends_with(options: dict[str, bool], codes: tuple[int, ...]) -> None:
    asked = Options()._replace(**options)
    assert tuple(check._exit_code(asked, one) for one in (NOTHING, LEFT, FIXED, BOTH)) == codes
    assert check._exit_code(asked, LEFT._replace(errors=("x.py: cannot be read",))) == 2


@pytest.mark.parametrize(
    ("paths", "name", "reads"),
    [
        (("-",), None, True),
        ((), "a.py", True),
        ((), None, False),
        (("a.py",), "a.py", False),
        (("a.py",), None, False),
        (("-", "a.py"), None, False),
    ],
)
def test_when_code_is_read_from_stdin(paths: tuple[str, ...], name: str | None, reads: bool) -> None:
    assert Options(paths=paths, stdin_filename=name).reads_stdin is reads


def test_every_option_that_takes_a_value_says_which() -> None:
    context = click.Context(main)
    for command in main.commands.values():
        options = (one for one in command.get_params(context) if isinstance(one, click.Option) and not one.is_flag)
        for option in options:
            names, about = option.get_help_record(context) or ("", "")
            assert re.search(r"--[\w-]+ [A-Z[c]\S*$", names), names
            assert about


def test_the_options_of_check_are_shown_in_groups() -> None:
    text = runner().invoke(main, ["check", "--help"]).stdout
    groups = dict(re.findall(r"^(\w[\w ]+):\n +(-[^ ,]+)", text, re.MULTILINE))
    assert groups == {
        "Fixing": "--fix",
        "Exit code": "-e",
        "Rules": "--select",
        "Files": "--exclude",
        "Suppression": "--add-ignore",
        "Output": "--output-format",
        "Settings": "--config",
    }


# --- watching ---------------------------------------------------------------------------------------------------------------------


def watched(monkeypatch: pytest.MonkeyPatch, *rounds: set[tuple[int, str]]) -> list[Any]:
    """A `watchfiles` that sees these changes; what it is asked for."""
    asked: list[Any] = []

    def watch(*paths: str, **how: Any) -> Any:
        asked.append((paths, how))
        return iter(rounds)

    monkeypatch.setitem(sys.modules, "watchfiles", SimpleNamespace(watch=watch))
    return asked


def test_files_are_checked_at_first_and_whenever_one_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x.py").write_text(CALL)
    changes = [set(), set(), {(1, "z.py"), (1, "a.ipynb"), (1, "c.txt")}, {(1, "b.txt")}, {(2, "pyproject.toml")}]
    asked = watched(monkeypatch, *changes)
    result = runner().invoke(main, ["check", "--no-cache", "--isolated", "--watch", str(tmp_path), "missing"])
    assert result.exit_code == 0, result.output
    first, *told = [line for line in result.stderr.splitlines() if "missing:" not in line]
    assert first == f"watching {tmp_path} (Ctrl-C to stop)"
    assert [re.sub(r"\d\d:\d\d:\d\d", "TIME", line) for line in told] == [
        "TIME changed: a.ipynb, z.py",
        "TIME changed: pyproject.toml",
    ]
    assert result.stdout.count("Found 1 problem") == 3
    ((paths, how),) = asked
    assert paths == (str(tmp_path),)
    assert how == {"rust_timeout": 100, "yield_on_timeout": True, "raise_interrupt": False}


def test_the_current_folder_is_watched_if_no_other_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    asked = watched(monkeypatch, set())
    assert check.check(Options(isolated=True, no_cache=True, watch=True)) == 0
    assert [paths for paths, _ in asked] == [(".",)]
    assert capsys.readouterr().err == "watching . (Ctrl-C to stop)\nwarning: no Python files found\n"


def test_what_cannot_be_watched_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    watched(monkeypatch)
    result = runner().invoke(main, ["check", "--isolated", "--watch", "missing"])
    assert (result.exit_code, result.stderr) == (2, "error: --watch: nothing to watch, no such file or directory\n")
    monkeypatch.setitem(sys.modules, "watchfiles", None)
    result = runner().invoke(main, ["check", "--isolated", "--watch"])
    assert result.exit_code == 2
    assert result.stderr.startswith("error: --watch needs watchfiles: ")


# --- the files that are checked -----------------------------------------------------------------------------------------------------


def test_nothing_to_check_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = runner().invoke(main, ["check", "--isolated", str(tmp_path)])
    assert "warning: no Python files found\n" in result.stderr
    result = runner().invoke(main, ["check", "--isolated", str(tmp_path / "missing")])
    assert "warning" not in result.stderr and result.exit_code == 2
    (tmp_path / "x.py").write_text(CALL)
    monkeypatch.setattr(changed_lines, "changes", lambda revision, paths: Changes({}))
    result = runner().invoke(main, ["check", "--isolated", "--since", "HEAD", str(tmp_path)])
    assert "warning: no changed files found\n" in result.stderr
    result = runner().invoke(main, ["check", "--isolated", "--show-files", str(tmp_path), "missing"])
    assert (result.exit_code, Path(result.stdout.strip()).name) == (2, "x.py")


@pytest.mark.parametrize("count", [1, 2])
def test_verbose_counts_what_was_checked(count: int, tmp_path: Path) -> None:
    for n in range(count):
        (tmp_path / f"{n}.py").write_text(CALL if n == 0 else "x = 1\n")
    result = runner().invoke(main, ["check", "--no-cache", "--isolated", "--verbose", str(tmp_path)])
    plural = "" if count == 1 else "s"
    assert re.search(rf"^checked {count} file{plural}, 1 with findings, in \d+\.\d\d s$", result.stderr, re.MULTILINE)


@pytest.mark.parametrize(
    ("hunk", "lines"),
    [
        ("@@ -1 +1 @@", (1, 1)),
        ("@@ -1,2 +3 @@ def f():", (3, 3)),
        ("@@ -1,2 +3,4 @@", (3, 6)),
        ("@@ -1,2 +3,1 @@", (3, 3)),
        ("@@ -4,2 +3,0 @@", (3, 4)),  # lines that are gone were between these
    ],
)
def test_the_lines_of_a_hunk(hunk: str, lines: tuple[int, int]) -> None:
    (found,) = changed_lines._HUNK.finditer(hunk)
    assert changed_lines._range(found) == lines


def at(line: int, last: int) -> Finding:
    return FOUND._replace(place=Place(line, 1, last, 1))


def test_only_findings_that_touch_a_changed_line_are_told(tmp_path: Path) -> None:
    path = str(tmp_path / "x.py")
    findings = tuple(at(*lines)._replace(path=path) for lines in ((1, 2), (3, 3), (4, 5), (5, 6), (2, 9), (7, 7)))
    outcome = Outcome((FileReport(path, b"", findings),), 1, ())
    kept = Changes({str(Path(path).resolve()): ((4, 5), (9, 9))}).only(outcome)
    assert sorted(kept.findings) == sorted(findings[2:5])
    assert len(Changes({str(Path(path).resolve()): None}).only(outcome).findings) == 6
    assert Changes({}).only(outcome).findings == []
    assert Changes({str(Path(path).resolve()): None}).holds(path)
    assert not Changes({}).holds(path)


def test_git_that_is_missing_or_refuses_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object, **__: object) -> None:
        raise FileNotFoundError

    monkeypatch.setattr(changed_lines.subprocess, "run", missing)
    with pytest.raises(ConfigError, match="--since needs git, which is not installed"):
        changed_lines._git(".", "status")
    for said, why in (
        ("fatal: not a git repository\nmore", "not a git repository"),
        ("", "git knows no revision `main`"),
    ):
        done = SimpleNamespace(returncode=128, stderr=said, stdout="")
        monkeypatch.setattr(changed_lines.subprocess, "run", lambda *_, done=done, **__: done)
        with pytest.raises(ConfigError) as caught:
            changed_lines._git(".", "rev-parse", "main^{commit}")
        assert str(caught.value) == f"--since: {why}"


# --- where output goes ----------------------------------------------------------------------------------------------------------------


def test_a_report_goes_to_stdout_to_stderr_or_to_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    streams.put(Options(), "one\n")
    streams.put(Options(), "two\n", aside=True)
    file = tmp_path / "report"
    streams.put(Options()._replace(output_file=str(file)), "é\ud800\n")
    streams.put(Options()._replace(output_file=str(file), silent=True), "three\n")
    streams.put(Options()._replace(silent=True), "four\n")
    assert capsys.readouterr() == ("one\n", "two\n")
    assert file.read_bytes() == b"three\n"
    streams.put(Options()._replace(output_file=str(file)), "é\ud800\n")
    assert file.read_bytes() == b"\xc3\xa9\\ud800\n"
    with pytest.raises(ConfigError, match="cannot be written: "):
        streams.put(Options()._replace(output_file=str(tmp_path)), "x")


def test_what_is_said_is_silent_or_lost(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    streams.say(Options(), "a\x1bline")
    streams.say(Options()._replace(silent=True), "nothing")
    streams.complain("two\nlines")
    first, second = capsys.readouterr().err.splitlines()
    assert "\x1b" not in first and first.startswith("a") and first.endswith("line")
    assert second == "error: two lines"
    monkeypatch.setattr(sys, "stderr", None)
    streams.say(Options(), "lost")


def test_a_stream_takes_what_its_encoding_has() -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii", newline="")
    streams._write(stream, "aé€\n")
    assert raw.getvalue() == b"a\\xe9\\u20ac\n"


class Broken(io.StringIO):
    def __init__(self, error: OSError) -> None:
        super().__init__()
        self.error = error

    def write(self, _: str) -> int:
        raise self.error


@pytest.mark.parametrize(
    ("error", "is_fine"),
    [(BrokenPipeError(), True), (OSError(errno.EINVAL, "x"), True), (OSError(errno.ENOSPC, "x"), False)],
)
def test_a_reader_may_stop_reading(error: OSError, is_fine: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    let_go: list[int] = []
    monkeypatch.setattr(streams, "let_go", lambda: let_go.append(1))
    if is_fine:
        streams._write(Broken(error), "x")
    else:
        with pytest.raises(OSError, match="x"):
            streams._write(Broken(error), "x")
    assert bool(let_go) is is_fine


def test_a_stream_that_was_closed_before_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    with pytest.raises(OSError, match="stdout is closed") as caught:
        streams._open("stdout")
    assert caught.value.errno == errno.EBADF


# --- the report of each format ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", FORMATS)
def test_only_formats_for_people_are_in_color_and_begin_with_the_fixes(shape: str, tmp_path: Path) -> None:
    (tmp_path / "x.py").write_text(CALL + "torch.nn.utils.clip_grad_norm_(model.parameters(), -1.0)\n")
    words = ["--isolated", "--no-cache", "--fix", "--show-fixes", "--color", "always", "--output-format", shape]
    result = runner().invoke(main, ["check", *words, str(tmp_path)], color=True)
    is_for_people = shape in ("full", "concise", "grouped")
    assert (result.exit_code, result.stdout.startswith("Fixed 1 problem:")) == (1, is_for_people)
    assert ("\x1b" in result.stdout) is is_for_people
    (tmp_path / "x.py").write_text(CALL)
    words.remove("--show-fixes")
    assert "Fixed 1" not in runner().invoke(main, ["check", *words, str(tmp_path)], color=True).stdout


def test_the_category_of_code_scanning(tmp_path: Path) -> None:
    words = ["--isolated", "--output-format", "sarif", "--sarif-category"]
    result = runner().invoke(main, ["check", *words, "nightly", str(tmp_path)])
    assert json.loads(result.stdout)["runs"][0]["automationDetails"] == {"id": "nightly/"}


# --- `python -m clipcheck` --------------------------------------------------------------------------------------------------------------

CHECKOUT = str(Path(clipcheck.__file__).parents[1])


@pytest.mark.parametrize(
    ("folder", "first", "is_safe", "left"),
    [
        ("user", "", False, ["rest"]),  # what is to be checked is not imported
        ("user", "user", False, ["rest"]),
        ("user", "other", False, ["other", "rest"]),
        ("user", "user", True, ["user", "rest"]),  # `python -P` adds no folder
        ("checkout", "", False, ["rest", ""]),
        ("checkout", "checkout", False, ["rest", "checkout"]),
    ],
)
def test_the_current_folder_is_not_imported_from(
    folder: str, first: str, is_safe: bool, left: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = {"user": os.path.realpath(tmp_path), "checkout": CHECKOUT}
    monkeypatch.chdir(folders[folder])
    monkeypatch.setattr(sys, "flags", SimpleNamespace(safe_path=is_safe))
    monkeypatch.setattr(sys, "path", [folders.get(first, first), "rest"])
    path = Path(CHECKOUT, "clipcheck", "__main__.py")
    exec(compile(path.read_text(), path, "exec"), {"__name__": "clipcheck.__main__", "__file__": str(path)})
    assert sys.path == [folders.get(name, name) for name in left]
