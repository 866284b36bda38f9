"""The command line: exit codes, streams, stdin, fixing, and one clear line for every fault of usage."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from click.testing import Result
from conftest import runner

from clipcheck import __version__
from clipcheck.catalogue import RULES
from clipcheck.cli.main import main

CALL = "torch.nn.utils.clip_grad_norm(model.parameters(), 1.0)"
BAD = f"import torch\n{CALL}\n"
GOOD = BAD.replace("norm(", "norm_(")
BOOK = '{"cells": [{"cell_type": "code", "source": ["import torch\\n", "…"]}]}'
# `clip_grad_norm` under FSDP1 gets an unsafe fix
UNSAFE = f"import torch\nfrom torch.distributed.fsdp import FullyShardedDataParallel\n{CALL}\n"


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    for name in ("NO_COLOR", "FORCE_COLOR", "CLICOLOR_FORCE"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def put(name: str, text: str = BAD) -> Path:
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def run(*words: str, stdin: str | bytes | None = None) -> Result:
    shape = [] if any(word.startswith("--output-format") for word in words) else ["--output-format", "concise"]
    fixed = ["--isolated", "--no-cache", "--select", "CLIP002"]
    return runner().invoke(main, ["check", *fixed, *shape, *words], input=stdin)


# --- exit codes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("files", "words", "code"),
    [
        ({"a.py": GOOD}, (), 0),
        ({"a.py": BAD}, (), 1),
        ({"a.py": BAD}, ("--fix", "--target", "torch"), 0),
        ({"a.py": BAD}, ("--fix", "--target", "torch", "--exit-non-zero-on-fix"), 1),
        ({"a.py": GOOD}, ("--fix", "--exit-non-zero-on-fix"), 0),
        ({"a.py": UNSAFE}, ("--fix",), 1),
        ({"a.py": UNSAFE}, ("--fix", "--unsafe-fixes"), 0),
        ({"a.py": UNSAFE}, ("--fix-only",), 0),
        ({"a.py": UNSAFE}, ("--fix-only", "--exit-non-zero-on-fix"), 0),
        ({"a.py": BAD}, ("--fix-only", "--exit-non-zero-on-fix"), 1),
        ({"a.py": BAD}, ("--exit-zero",), 0),
        ({"a.py": BAD}, ("-e",), 0),
        ({"a.py": BAD}, ("--diff",), 1),
        ({"a.py": UNSAFE}, ("--diff",), 0),
        ({"a.py": BAD}, ("--diff", "--exit-zero"), 0),
        ({"a.py": BAD}, ("--exit-zero", "a.py", "missing.py"), 2),
        ({"a.py": BAD}, ("a.py", "missing.py"), 2),
        ({"a.py": "torch.nn.utils.clip_grad_norm(\n"}, (), 1),
        ({"a.py": "torch.nn.utils.clip_grad_norm(\n"}, ("--exit-zero",), 0),
        ({}, (), 0),
        ({"a.py": BAD}, ("--select", "CLIP9999"), 2),
        ({"a.py": BAD}, ("--output-format", "xml"), 2),
        ({"a.py": BAD}, ("--no-such-option",), 2),
        ({"a.py": BAD}, ("-j", "-1"), 2),
    ],
)
def test_exit_codes(files: dict[str, str], words: tuple[str, ...], code: int) -> None:
    for name, text in files.items():
        put(name, text)
    assert run(*words).exit_code == code


def test_a_missing_path_stops_no_other() -> None:
    put("a.py")
    result = run("a.py", "missing.py")
    assert result.stdout.startswith("a.py:2:1: CLIP002")
    assert result.stderr == "error: missing.py: no such file or directory\n"


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root reads everything")
def test_an_unreadable_file_is_an_error() -> None:
    put("a.py").chmod(0)
    assert run().exit_code == 2


def test_no_files_is_a_warning() -> None:
    result = run()
    assert (result.exit_code, result.stderr) == (0, "warning: no Python files found\n")


@pytest.mark.parametrize(
    "words",
    [["check", "--nope"], ["rule"], ["rule", "CLIP9"], ["check", "-j", "x"], ["check", "--color", "red"], ["config", "nope"]],
)  # fmt: skip
def test_faults_of_usage_are_one_line_on_stderr(words: list[str]) -> None:
    result = runner().invoke(main, words)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1


def test_a_syntax_error_is_shown_whatever_is_selected() -> None:
    put("a.py", "import torch\ntorch.nn.utils.clip_grad_norm(((\n")
    result = run("--output-format", "json")
    (finding,) = json.loads(result.stdout)
    assert (finding["code"], finding["name"], finding["url"], finding["fix"], finding["noqa_row"]) == (
        "invalid-syntax", "invalid-syntax", None, None, None,
    )  # fmt: skip


# --- fixing -----------------------------------------------------------------------------------------------------------


def test_fix_reports_what_it_did_and_what_is_left() -> None:
    put("a.py", BAD + CALL + "\n")
    put("b.py", UNSAFE)
    result = run("--fix", "--target", "torch", "--config", "extend-unsafe-fixes = []", "a.py", "b.py")
    assert result.exit_code == 0 or "left" in result.stdout
    assert Path("a.py").read_text() == GOOD + CALL.replace("norm(", "norm_(") + "\n"


def test_the_closing_lines() -> None:
    put("a.py", BAD + CALL + "\n")
    put("b.py", UNSAFE)
    assert run().stdout.endswith(
        "Found 3 problems.\n[*] 2 fixable with `--fix`.\n1 more fixable with --fix --unsafe-fixes.\n"
    )
    assert run("--unsafe-fixes").stdout.endswith("Found 3 problems.\n[*] 3 fixable with `--fix --unsafe-fixes`.\n")
    assert run("--diff").stderr == "Would fix 2 problems (1 more with --unsafe-fixes).\n"
    assert run("--fix").stdout.endswith(
        "Found 3 problems (2 fixed, 1 left).\n1 more fixable with --fix --unsafe-fixes.\n"
    )


def test_fix_only_says_what_it_fixed_and_nothing_of_the_rest() -> None:
    put("a.py", BAD + CALL + "\n")
    put("b.py", UNSAFE)
    result = run("--fix-only", "--show-fixes")
    assert result.stdout == (
        "Fixed 2 problems:\n- a.py:\n    2 × CLIP002 (deprecated-clip-grad-norm)\n"
        "Fixed 2 problems (1 more with --unsafe-fixes).\n"
    )
    assert Path("b.py").read_text() == UNSAFE


def test_diff_writes_nothing_and_can_be_applied() -> None:
    path = put("a.py")
    result = run("--diff", "--target", "torch")
    assert path.read_text() == BAD
    assert result.stdout == (
        f"--- a.py\n+++ a.py\n@@ -1,2 +1,2 @@\n import torch\n-{CALL}\n+{CALL.replace('norm(', 'norm_(')}\n"
    )
    subprocess.run(["git", "apply", "-p0"], input=result.stdout, text=True, check=True)
    assert path.read_text() == GOOD


def test_the_diff_of_a_notebook_is_by_cells() -> None:
    put("n.ipynb", BOOK.replace('\\n", "', '"]}, {"cell_type": "code", "source": ["').replace("…", CALL))
    result = run("--diff", "--target", "torch")
    assert result.stdout.startswith("--- n.ipynb:cell 2\n+++ n.ipynb:cell 2\n@@ -1 +1 @@\n-torch")
    assert result.stdout.count("---") == 1


# --- stdin ------------------------------------------------------------------------------------------------------------


def test_stdin_is_checked_under_its_name() -> None:
    result = run("--stdin-filename", "pkg/x.py", "-", stdin=BAD)
    assert (result.exit_code, result.stdout.split(" ")[0]) == (1, "pkg/x.py:2:1:")
    assert run("-", stdin=BAD).stdout.startswith("-:2:1: CLIP002")
    assert run("-", stdin=GOOD).exit_code == 0


def test_a_fix_of_stdin_gives_the_code_on_stdout_and_the_findings_on_stderr() -> None:
    result = run("--fix", "--target", "torch", "-", stdin=BAD + "x = 1\r\n")
    assert (result.exit_code, result.stdout_bytes) == (0, (GOOD + "x = 1\r\n").encode())
    left = run("--fix", "-", stdin=UNSAFE)
    assert (left.exit_code, left.stdout) == (1, UNSAFE)
    assert "CLIP002" in left.stderr


def test_a_fix_of_code_without_findings_gives_it_back() -> None:
    assert run("--fix", "-", stdin=b"x = '\xe9'\n").stdout_bytes == b"x = '\xe9'\n"
    assert run("--fix", "-", stdin="").stdout_bytes == b""


def test_the_diff_of_stdin_has_no_headers() -> None:
    result = run("--diff", "--target", "torch", "-", stdin=BAD)
    assert result.stdout.startswith("@@ -1,2 +1,2 @@\n")


def test_a_notebook_on_stdin_stays_one() -> None:
    book = BOOK.replace("…", CALL)
    result = run("--fix", "--target", "torch", "--stdin-filename", "n.ipynb", "-", stdin=book)
    assert result.stdout == book.replace("norm(", "norm_(")


def test_an_excluded_name_on_stdin_gives_the_input_back() -> None:
    words = ("--force-exclude", "--exclude", "gen", "--stdin-filename", "gen/x.py", "-")
    assert run("--fix", *words, stdin=BAD).stdout == BAD
    assert run(*words, stdin=BAD).exit_code == 0


# --- streams ----------------------------------------------------------------------------------------------------------


def test_quiet_drops_the_summary_and_silent_everything() -> None:
    put("a.py")
    quiet, silent = run("-q"), run("-s", "a.py", "missing.py")
    assert quiet.stdout.count("\n") == 1 and quiet.exit_code == 1
    assert (silent.stdout, silent.stderr, silent.exit_code) == ("", "", 2)
    assert run("-q", "--isolated", "--config", "exclude = ['a.py']").stdout == ""


def test_a_run_without_findings_says_what_was_looked_at_and_how_long_it_took() -> None:
    put("a.py", f"import torch\n{CALL}  # noqa: CLIP002\n")
    put("folder/b.py", "x = 1\n")
    put("book.ipynb", BOOK)
    put("paper.rst", "A paper\n")
    for shape in ("full", "concise", "grouped"):
        said = run("--output-format", shape)
        assert re.fullmatch(
            r"No problems found in 4 files \(1 notebook, 1 document, 1 speaks of clipping\), \d+\.\d\d s\.\n",
            said.stdout,
        )
        assert (said.stderr, said.exit_code) == ("", 0)
    assert re.fullmatch(r"No problems found in 1 file \(0 speak of clipping\), \d+\.\d\d s\.\n", run("folder").stdout)
    assert re.fullmatch(
        r"No problems found in 1 file \(0 speak of clipping\), \d+\.\d\d s\.\n", run("--fix", "folder").stdout
    )
    assert re.fullmatch(r"No problems found in 1 file \(.*\), .* s\.\n", runner().invoke(main, ["folder"]).stdout)
    assert runner().invoke(main, ["folder", "--output-format", "json"]).stdout == "[]"
    assert runner().invoke(main, ["folder", "-q"]).stdout == ""


def test_a_run_that_did_not_see_everything_does_not_say_that_it_did() -> None:
    put("a.py", GOOD)
    some = run("a.py", "missing.py")
    assert (some.stdout, some.stderr) == ("", "error: missing.py: no such file or directory\n")
    Path("empty").mkdir()
    none = run("empty")
    assert (none.stdout, none.stderr) == ("", "warning: no Python files found\n")
    assert run("-", stdin=GOOD).stdout == "No problems found.\n"


def test_verbose_tells_what_was_done_on_stderr() -> None:
    put("a.py")
    assert "1 files" in run("-v").stderr


def test_an_output_file_takes_the_report() -> None:
    put("a.py")
    result = run("--output-format", "json", "-o", "out.json", "--color", "always")
    assert (result.stdout, result.exit_code) == ("", 1)
    assert json.loads(Path("out.json").read_text())[0]["code"] == "CLIP002"
    assert "cannot be written" in run("-o", "no/such/folder.txt").stderr


def test_a_bare_call_is_check() -> None:
    put("a.py")
    for words in ([], ["a.py"], ["--exit-zero"]):
        result = runner().invoke(main, [*words, "--isolated", "--no-cache"] if words else [])
        assert "CLIP002" in result.stdout


CLOSED = """
import os, subprocess, sys
reader, writer = os.pipe()
os.close(reader)
done = subprocess.run([sys.executable, "-m", "clipcheck", "check", "--isolated", "--no-cache", *sys.argv[1:]],
                      stdout=writer, stderr=subprocess.PIPE, text=True)
print(done.returncode, done.stderr)
"""


@pytest.mark.parametrize("words", [("a.py",), ("--output-format", "json", "a.py"), ("--diff", "a.py")])
def test_a_closed_pipe_is_no_crash(words: tuple[str, ...]) -> None:
    put("a.py", "import torch\n" + f"{CALL}\n" * 500)
    done = subprocess.run([sys.executable, "-c", CLOSED, *words], capture_output=True, text=True, check=True)
    code, _, stderr = done.stdout.strip().partition(" ")
    assert code == "1"
    assert "Traceback" not in stderr and "BrokenPipe" not in stderr and "Exception" not in stderr


def test_windows_word_for_a_closed_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    import errno

    from clipcheck.cli.arguments import Options
    from clipcheck.cli.check import check

    class Closed:
        encoding = "utf-8"

        def write(self, text: str) -> int:
            raise OSError(errno.EINVAL, "Invalid argument")

        def flush(self) -> None: ...

        def isatty(self) -> bool:
            return False

    put("a.py")
    monkeypatch.setattr(sys, "stdout", Closed())
    assert check(Options(paths=("a.py",), isolated=True, no_cache=True)) == 1


def test_a_terminal_that_cannot_show_a_sign_gets_an_escape() -> None:
    put("a.py", f'import torch\nx = "世界"; {CALL}\n')
    done = subprocess.run(
        [sys.executable, "-m", "clipcheck", "check", "--isolated", "--no-cache", "a.py"],
        env={**os.environ, "PYTHONIOENCODING": "ascii"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1 and "\\u4e16" in done.stdout


# --- other commands -----------------------------------------------------------------------------------------------------


def test_version_in_both_spellings() -> None:
    for word in ("--version", "-V", "version"):
        assert runner().invoke(main, [word]).stdout == f"clipcheck {__version__}\n"


def test_help_shows_the_options_in_groups() -> None:
    text = runner().invoke(main, ["check", "--help"]).stdout
    for title in ("Fixing:", "Exit code:", "Rules:", "Files:", "Suppression:", "Output:", "Settings:"):
        assert title in text


def test_rule_as_json() -> None:
    result = runner().invoke(main, ["rule", "CLIP002", "--output-format", "json"])
    content = json.loads(result.stdout)
    assert (content["code"], content["name"], content["severity"], content["tier"]) == (
        "CLIP002", "deprecated-clip-grad-norm", "warning", "default",
    )  # fmt: skip
    assert "## Why is this bad?" in content["page"]


def test_rules_lists_every_rule() -> None:
    assert [line.split()[0] for line in runner().invoke(main, ["rules"]).stdout.splitlines()] == list(RULES)


def test_config_explains_its_keys() -> None:
    from clipcheck.settings.keys import KEYS

    listed = runner().invoke(main, ["config"]).stdout
    assert [line.split()[0] for line in listed.splitlines()] == list(KEYS)
    assert "a list of rule codes" in runner().invoke(main, ["config", "select"]).stdout


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shell_completion(shell: str) -> None:
    result = runner().invoke(main, ["generate-shell-completion", shell])
    assert result.exit_code == 0 and f"{shell}_complete" in result.stdout


# --- what changed -------------------------------------------------------------------------------------------------------


def git(*words: str) -> None:
    subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b.c", *words], check=True, capture_output=True)


def test_since_a_revision_only_changed_files_and_lines() -> None:
    git("init", "-q", ".")
    put("old.py")
    put("both dirs/ö.py", BAD)
    git("add", ".")
    git("commit", "-q", "-m", "x")
    put("both dirs/ö.py", BAD + "x = 1\n" + CALL + "\n")
    put("new.py")
    lines = run("-q", "--since", "HEAD").stdout.splitlines()
    assert [line.split(": ")[0] for line in lines] == ["both dirs/ö.py:2:1", "both dirs/ö.py:4:1", "new.py:2:1"]
    lines = run("-q", "--since", "HEAD", "--diff-only").stdout.splitlines()
    assert [line.split(": ")[0] for line in lines] == ["both dirs/ö.py:4:1", "new.py:2:1"]


def test_since_nothing_that_git_knows() -> None:
    put("a.py")
    assert run("--since", "HEAD").exit_code == 2
    git("init", "-q", ".")
    result = run("--since", "nope")
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert "nope" in result.stderr


# --- long runs ----------------------------------------------------------------------------------------------------------


def test_a_file_that_changes_is_checked_again_while_watching() -> None:
    pytest.importorskip("watchfiles")
    put("a.py", GOOD)
    watching = subprocess.Popen(
        [sys.executable, "-u", "-m", "clipcheck", "check", "--isolated", "--no-cache", "--watch", "--output-format", "concise", "a.py"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert watching.stdout is not None and watching.stderr is not None
    guard = threading.Timer(60, watching.kill)
    guard.start()
    try:
        assert watching.stderr.readline().startswith("watching a.py")
        assert watching.stdout.readline().startswith("No problems found in 1 file (1 speaks of clipping), ")
        put("a.py", BAD)
        assert watching.stdout.readline().startswith("a.py:2:1: CLIP002")
    finally:
        guard.cancel()
        watching.kill()
        watching.communicate()


def test_progress_is_shown_on_a_terminal_after_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    from clipcheck.cli import main as cli

    class Terminal:
        encoding = "utf-8"
        text = ""

        def write(self, text: str) -> int:
            self.text += text
            return len(text)

        def flush(self) -> None: ...

        def isatty(self) -> bool:
            return True

    clock = iter([0.0, 0.5, 1.5])
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(cli.time, "monotonic", lambda: next(clock))
    with cli._progress("checking") as step:
        step(1, 3)
        assert terminal.text == ""
        step(2, 3)
    assert "checking" in terminal.text and "66%" in terminal.text


HEAVY = (
    "clipcheck.settings.keys clipcheck.engine.file json difflib tomllib concurrent.futures hashlib tempfile xml.etree"
)


@pytest.mark.parametrize(
    ("words", "needed"),
    [
        (["--version"], set()),
        (["check", "--help"], set()),
        (["check", "--isolated", "--no-cache", "a.py"], {"clipcheck.settings.keys", "clipcheck.engine.file"}),
    ],
)
def test_nothing_is_loaded_before_it_is_needed(words: list[str], needed: set[str]) -> None:
    put("a.py", "x = 1\n")
    probe = (
        f"import sys\nfrom clipcheck.cli.main import main\ntry: main({words!r})\nexcept SystemExit: pass\n"
        f"print(*[m for m in {HEAVY.split()!r} if m in sys.modules], sep=',')"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert set(done.stdout.splitlines()[-1].split(",")) - {""} == needed
