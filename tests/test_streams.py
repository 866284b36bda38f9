"""Any failure around a run ends in one line on stderr and exit code 2, never in a traceback or in exit code 1."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

FAULTY = "import torch\n\ntorch.nn.utils.clip_grad_norm([], 1.0)\n"
POSIX = pytest.mark.skipif(sys.platform == "win32", reason="closes streams as a shell does")


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.py").write_text(FAULTY)
    return tmp_path


def shell(words: str, streams: str) -> subprocess.CompletedProcess[str]:
    """The command with its streams redirected by the shell."""
    command = f'exec "{sys.executable}" -m clipcheck {words} {streams}'
    return subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "clipcheck", *words], capture_output=True, text=True, check=False, errors="replace"
    )


def assert_one_line(result: subprocess.CompletedProcess[str], code: int, *words: str) -> None:
    assert result.returncode == code, result.stderr
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    for word in words:
        assert word in line


@POSIX
@pytest.mark.parametrize("words", ["check --no-cache", "rules", "rule CLIP002", "config", "version"])
def test_a_closed_stdout_is_reported(words: str) -> None:
    assert_one_line(shell(words, ">&-"), 2, "stdout is closed")


@POSIX
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
@pytest.mark.parametrize(
    "words", ["check --no-cache", "check --no-cache --output-format json", "rules", "rule CLIP002"]
)
def test_a_full_disk_is_reported(words: str) -> None:
    assert_one_line(shell(words, ">/dev/full"), 2, "No space left on device")


@POSIX
@pytest.mark.parametrize("streams", ["2>&-", "2>/dev/full"])
def test_the_report_is_written_even_if_stderr_is_closed(streams: str) -> None:
    if "full" in streams and not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full")
    result = shell("check --no-cache train.py no/such.py", streams)
    assert result.returncode == 2
    assert "CLIP002" in result.stdout
    assert shell("check --no-cache train.py", streams).returncode == 1


@POSIX
def test_a_closed_stdin_is_reported_only_if_it_is_read() -> None:
    assert_one_line(shell("check --no-cache -", "<&-"), 2, "stdin is closed")
    assert shell("check --no-cache train.py", "<&-").returncode == 1


@POSIX
def test_all_streams_may_be_closed() -> None:
    assert shell("check --no-cache train.py", "<&- >&- 2>&-").returncode == 2
    assert shell("check --no-cache --silent train.py", "<&- >&- 2>&-").returncode == 1


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("a = " + "[" * 5000 + "]" * 5000, "nested too deeply"),
        ("required-version = '" + "9" * 5000 + "'", "`required-version` must be a version"),
        ("required-version = '>=" + "9." * 5000 + "9'", "is required, this is"),
        ("select = ['" + "X" * 5000 + "']", "unknown rule"),
    ],
    ids=["deep", "digits", "parts", "code"],
)
def test_odd_settings_are_reported(project: Path, text: str, why: str) -> None:
    (project / "clipcheck.toml").write_text(text + "\n")
    result = run("check", "--no-cache", ".")
    assert_one_line(result, 2, "clipcheck.toml", why)
    assert len(result.stderr) < 500


@pytest.mark.parametrize("line", ["!", "\\", "[z-a]"])
def test_meaningless_patterns_have_no_effect(project: Path, line: str) -> None:
    (project / "clipcheck.toml").write_text(
        f"extend-exclude = ['gone.py', '{line}']\nper-file-ignores = {{'{line}' = ['ALL']}}\n"
    )
    (project / "gone.py").write_text(FAULTY)
    result = run("check", "--no-cache", "--output-format", "concise", ".")
    assert (result.returncode, result.stderr) == (1, "")
    assert [row.split(":")[0] for row in result.stdout.splitlines() if "CLIP" in row] == ["train.py"]


@pytest.mark.parametrize("line", ["!", "\\", "[z-a]", "!\\", "x[z-a]y", "[[]", "[", "**", "a\\"])
def test_gitignore_lines_that_git_ignores_have_no_effect(project: Path, line: str) -> None:
    subprocess.run(["git", "init", "-q", "."], check=True)
    (project / "gone.py").write_text(FAULTY)
    (project / ".gitignore").write_text(f"gone.py\n{line}\n" if line != "**" else "gone.py\n")
    result = run("check", "--no-cache", "--output-format", "concise", ".")
    assert (result.returncode, result.stderr) == (1, "")
    assert [row.split(":")[0] for row in result.stdout.splitlines() if "CLIP" in row] == ["train.py"]


def test_a_file_name_with_invalid_characters_is_in_every_report(project: Path) -> None:
    name = os.fsencode(project) + b"/\xff.py"
    try:
        with open(name, "w") as file:
            file.write(FAULTY)
    except (OSError, UnicodeError):
        pytest.skip("this file system takes text only")
    (project / "train.py").unlink()
    for shape in ("full", "concise", "json", "sarif", "junit", "github", "gitlab", "azure", "rdjson", "pylint"):
        for more in ((), ("--output-file", "out")):
            result = run("check", "--no-cache", "--output-format", shape, *more, ".")
            assert (result.returncode, result.stderr) == (1, ""), shape


def test_an_internal_error_is_one_line(project: Path) -> None:
    code = (
        "import clipcheck.cli.check as check\n"
        "def broken(*_): raise ValueError('one\\ntwo')\n"
        "check.find = broken\n"
        "from clipcheck.cli.main import main\n"
        "main(['check', '--no-cache', '.'])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert_one_line(result, 2, "ValueError: one two", "please report it")


# --- the cache --------------------------------------------------------------------------------------------------------


def link(at: Path, to: Path) -> None:
    try:
        at.symlink_to(to, target_is_directory=True)
    except OSError:
        pytest.skip("no links here")


def test_a_linked_cache_is_neither_filled_nor_removed(project: Path) -> None:
    outside = project / "outside"
    inner = project / "inner"
    outside.mkdir()
    inner.mkdir()
    (inner / "train.py").write_text(FAULTY)
    (inner / "clipcheck.toml").write_text("")
    link(inner / ".clipcheck_cache", outside)
    os.chdir(inner)
    result = run("check", ".")
    assert result.returncode == 1
    assert result.stderr.startswith("warning: ") and "is outside the project" in result.stderr
    assert list(outside.iterdir()) == []
    (outside / "CACHEDIR.TAG").write_text("Signature: 8a477f597d28d172789f06886806bc55\n")
    result = run("clean")
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    assert (outside / "CACHEDIR.TAG").exists()


@pytest.mark.parametrize("part", ["CACHEDIR.TAG", ".gitignore", "version"])
def test_a_link_inside_of_the_cache_is_not_followed_either(project: Path, part: str) -> None:
    from clipcheck import __version__

    inner = project / "inner"
    (inner / ".clipcheck_cache").mkdir(parents=True)
    (inner / "train.py").write_text(FAULTY)
    link(inner / ".clipcheck_cache" / (__version__ if part == "version" else part), project / "outside")
    os.chdir(inner)
    assert "is outside the project" in run("check", ".").stderr
    assert not (project / "outside").exists()


@pytest.mark.parametrize("folder", ["../outside", "{absolute}"])
def test_project_settings_cannot_move_the_cache_outside_the_project(project: Path, folder: str) -> None:
    inner, outside = project / "inner", project / "outside"
    inner.mkdir()
    (inner / "train.py").write_text(FAULTY)
    named = folder.format(absolute=outside.as_posix())
    (inner / "clipcheck.toml").write_text(f"cache-dir = '{named}'\n")
    os.chdir(inner)
    assert "is outside the project" in run("check", ".").stderr
    assert not outside.exists()
    (inner / "clipcheck.toml").write_text("cache-dir = 'kept/here'\n")
    assert run("check", ".").stderr == ""
    assert (inner / "kept" / "here").is_dir()
    assert run("check", "--cache-dir", "../outside", ".").stderr == ""  # the user's own choice
    assert outside.is_dir()
