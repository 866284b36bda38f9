"""The command line: exit codes, streams, stdin, fixing, and one clear line for every usage error."""

from __future__ import annotations

import contextlib
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


def test_a_missing_path_does_not_stop_the_others() -> None:
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
def test_usage_errors_are_one_line_on_stderr(words: list[str]) -> None:
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
    put("requirements.txt", "clipcheck\n")
    assert run().stdout.endswith("Found 3 problems.\n[*] 2 fixable with `--fix` (1 more with `--unsafe-fixes`).\n")
    assert run("--unsafe-fixes").stdout.endswith("Found 3 problems.\n[*] 3 fixable with `--fix --unsafe-fixes`.\n")
    assert run("--diff").stderr == "Would fix 2 problems (1 more with `--unsafe-fixes`).\n"
    assert run("--fix").stdout.endswith(
        "Found 3 problems (2 fixed, 1 remaining).\n1 fixable with `--fix --unsafe-fixes`.\n"
    )


def test_fix_only_reports_only_what_it_fixed() -> None:
    put("a.py", BAD + CALL + "\n")
    put("b.py", UNSAFE)
    result = run("--fix-only", "--show-fixes")
    assert result.stdout == (
        "Fixed 2 problems:\n- a.py:\n    2 × CLIP002 (deprecated-clip-grad-norm)\n"
        "Fixed 2 problems (1 more with `--unsafe-fixes`).\n"
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


def test_a_fix_of_stdin_without_findings_returns_it_unchanged() -> None:
    assert run("--fix", "-", stdin=b"x = '\xe9'\n").stdout_bytes == b"x = '\xe9'\n"
    assert run("--fix", "-", stdin="").stdout_bytes == b""


def test_the_diff_of_stdin_has_no_headers() -> None:
    result = run("--diff", "--target", "torch", "-", stdin=BAD)
    assert result.stdout.startswith("@@ -1,2 +1,2 @@\n")


def test_a_notebook_on_stdin_stays_one() -> None:
    book = BOOK.replace("…", CALL)
    result = run("--fix", "--target", "torch", "--stdin-filename", "n.ipynb", "-", stdin=book)
    assert result.stdout == book.replace("norm(", "norm_(")


def test_stdin_under_an_excluded_name_is_returned_unchanged() -> None:
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


def test_a_run_without_findings_reports_what_was_checked_and_the_time() -> None:
    put("a.py", f"import torch\n{CALL}  # noqa: CLIP002\n")
    put("folder/b.py", "x = 1\n")
    put("book.ipynb", BOOK)
    put("paper.rst", "A paper\n")
    for shape in ("full", "concise", "grouped"):
        said = run("--output-format", shape)
        assert re.fullmatch(
            r"No problems found in 4 files \(1 notebook, 1 document, 1 with gradient-clipping code\), \d+\.\d\d s\.\n",
            said.stdout,
        )
        assert (said.stderr, said.exit_code) == ("", 0)
    assert re.fullmatch(
        r"No problems found in 1 file \(none with gradient-clipping code\), \d+\.\d\d s\.\n", run("folder").stdout
    )
    assert re.fullmatch(
        r"No problems found in 1 file \(none with gradient-clipping code\), \d+\.\d\d s\.\n",
        run("--fix", "folder").stdout,
    )
    assert re.fullmatch(r"No problems found in 1 file \(.*\), .* s\.\n", runner().invoke(main, ["folder"]).stdout)
    assert runner().invoke(main, ["folder", "--output-format", "json"]).stdout == "[]"
    assert runner().invoke(main, ["folder", "-q"]).stdout == ""


def test_a_run_that_skipped_files_does_not_claim_otherwise() -> None:
    put("a.py", GOOD)
    some = run("a.py", "missing.py")
    assert (some.stdout, some.stderr) == ("", "error: missing.py: no such file or directory\n")
    Path("empty").mkdir()
    none = run("empty")
    assert (none.stdout, none.stderr) == ("", "warning: no Python files found\n")
    assert run("-", stdin=GOOD).stdout == "No problems found.\n"


def test_verbose_shows_on_stderr_which_settings_apply_and_why() -> None:
    put("a.py")
    lines = run("-v").stderr.splitlines()
    assert lines[0] == "settings: defaults (--isolated ignores settings files)"
    assert '  select = ["CLIP002"] (command line)' in lines
    assert re.fullmatch(r"checked 1 file, 1 with findings, in \d+\.\d\d s", lines[-1])


def test_verbose_names_the_file_of_each_setting() -> None:
    put("a.py")
    put("wide.toml", "target = 'torch'\nextend-select = ['CLIP1']\n")
    put("clipcheck.toml", "extend = 'wide.toml'\nextend-select = ['CLIP011']\nunsafe-fixes = false\n")
    lines = runner().invoke(main, ["check", "-v", "--no-cache", "--unsafe-fixes", "a.py"]).stderr.splitlines()
    assert lines[0] == "settings: clipcheck.toml (the nearest settings file)"
    for line in (
        '  target = "torch" (wide.toml)',
        '  extend-select = ["CLIP1"] (wide.toml)',
        '  extend-select = ["CLIP011"] (clipcheck.toml)',
        "  unsafe-fixes = true (command line)",
    ):
        assert line in lines
    assert "  unsafe-fixes = false (clipcheck.toml)" not in lines
    put("other/b.py")
    Path("clipcheck.toml").rename("other/mine.toml")
    lines = runner().invoke(main, ["check", "-v", "--no-cache", "--config", "wide.toml", "a.py"]).stderr.splitlines()
    assert lines[0] == "settings: wide.toml (given by --config)"
    assert (
        runner()
        .invoke(main, ["check", "-v", "--no-cache", "a.py"])
        .stderr.startswith("settings: defaults (no settings file found)\n")
    )
    put("home/clipcheck/clipcheck.toml", "select = ['CLIP002']\n")
    assert (
        runner()
        .invoke(main, ["check", "-v", "--no-cache", "a.py"])
        .stderr.splitlines()[0]
        .endswith("(your own settings file; the project has none)")
    )


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
def test_a_closed_pipe_does_not_crash(words: tuple[str, ...]) -> None:
    put("a.py", "import torch\n" + f"{CALL}\n" * 500)
    done = subprocess.run([sys.executable, "-c", CLOSED, *words], capture_output=True, text=True, check=True)
    code, _, stderr = done.stdout.strip().partition(" ")
    assert code == "1"
    assert "Traceback" not in stderr and "BrokenPipe" not in stderr and "Exception" not in stderr


def test_the_error_of_windows_for_a_closed_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_a_terminal_that_cannot_display_a_character_gets_an_escape() -> None:
    put("a.py", f'import torch\nx = "世界"; {CALL}\n')
    done = subprocess.run(
        [sys.executable, "-m", "clipcheck", "check", "--isolated", "--no-cache", "a.py"],
        env={**os.environ, "PYTHONIOENCODING": "ascii"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1 and "\\u4e16" in done.stdout


# --- other commands ---------------------------------------------------------------------------------------------------


def test_version_as_command_and_option() -> None:
    for word in ("--version", "-V", "version"):
        assert runner().invoke(main, [word]).stdout == f"clipcheck {__version__}\n"
    assert json.loads(runner().invoke(main, ["version", "--output-format", "json"]).stdout) == {"version": __version__}


def test_help_as_a_command() -> None:
    def said(*words: str) -> str:
        return runner().invoke(main, words).stdout

    assert said("help") == said("--help")
    assert said("help", "check") == said("check", "--help")
    assert "--all" in said("help", "rule")


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (["chekc"], "did you mean `check`?"),
        (["rul", "CLIP001"], "did you mean `rule`?"),
        (["help", "verfy"], "did you mean `verify`?"),
        (
            ["check", "--output-fromat", "json"],
            "error: unknown option `--output-fromat`, did you mean `--output-format`?\n",
        ),
        (["--fixx"], "error: unknown option `--fixx`, did you mean `--fix`?\n"),
        (["--output-format", "jsn"], "error: invalid value 'jsn' for `--output-format`, did you mean `json`?\n"),
        (["--color", "sometimes"], "invalid value 'sometimes' for `--color` (expected auto, always or never)\n"),
        (["rule", "clip-after-stp"], "did you mean `clip-after-step`?"),
        (["rule", "CLP001"], "did you mean `CLIP001`?"),
        (["config", "selct"], "did you mean `select`?"),
        (["check", "--select", "item-norm-lop"], "did you mean `item-norm-loop`?"),
    ],
)
def test_typos_get_a_suggestion(words: list[str], meant: str) -> None:
    result = runner().invoke(main, words)
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert meant in result.stderr


def test_a_file_that_is_named_like_a_command_is_a_file() -> None:
    put("chec")
    assert "CLIP002" in runner().invoke(main, ["chec"]).stdout
    assert runner().invoke(main, ["train.py"]).stderr == "error: train.py: no such file or directory\n"


def test_the_last_of_an_option_and_its_negation_wins() -> None:
    put("a.py")
    run("--fix", "--no-fix")
    run("--fix-only", "--no-fix-only")
    assert Path("a.py").read_text() == BAD
    assert "Fixed 1" not in run("--fix-only", "--no-fix-only", "--show-fixes", "--no-show-fixes").stdout
    run("--no-fix", "--fix", "--target", "torch")
    assert Path("a.py").read_text() == GOOD


@pytest.mark.parametrize("name", ["CLIP002", "clip002", "deprecated-clip-grad-norm"])
def test_rules_are_named_by_code_or_name(name: str) -> None:
    put("a.py")
    for words in (["--select", name], ["--extend-select", name], ["--select", "ALL", "--unfixable", name]):
        found = runner().invoke(main, ["check", "--isolated", "--no-cache", "--output-format", "concise", *words])
        assert "CLIP002" in found.stdout
    for words in (["--ignore", name], ["--per-file-ignores", f"a.py:{name}"]):
        assert "CLIP002" not in runner().invoke(main, ["check", "--isolated", "--no-cache", *words]).stdout
    assert "# CLIP002 " in runner().invoke(main, ["rule", name]).stdout


def test_a_diff_is_colored_if_wanted() -> None:
    put("a.py")
    plain = run("--diff", "--target", "torch").stdout
    colored = run("--diff", "--target", "torch", "--color", "always").stdout
    assert re.sub(r"\x1b\[[\d;]*m", "", colored) == plain
    for line in (
        "\x1b[1m--- a.py\x1b[0m\n",
        "\x1b[36m@@ -1,2 +1,2 @@\x1b[0m\n",
        f"\x1b[31m-{CALL}\x1b[0m\n",
        "\x1b[32m+",
    ):
        assert line in colored
    run("--diff", "--color", "always", "-o", "fix.diff")
    assert "\x1b" not in Path("fix.diff").read_text()


def test_statistics_show_what_can_be_fixed_fully_and_partly() -> None:
    put("a.py", BAD + CALL + "\n")
    assert run("--statistics").stdout == (
        "2\tCLIP002\t[*]\tdeprecated-clip-grad-norm\nFound 2 problems.\n[*] 2 fixable with `--fix`.\n"
    )
    put("b.py", UNSAFE)
    assert run("--statistics").stdout == (
        "3\tCLIP002\t[-]\tdeprecated-clip-grad-norm\n"
        "Found 3 problems.\n[*] 2 fixable with `--fix` (1 more with `--unsafe-fixes`).\n"
    )
    assert run("--statistics", "-q", "--unfixable", "CLIP002").stdout == "3\tCLIP002\t[ ]\tdeprecated-clip-grad-norm\n"
    (row,) = json.loads(run("--statistics", "--output-format", "json").stdout)
    assert (row["count"], row["fixable"], row["fixable_count"]) == (3, False, 2)


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
    assert [line.split()[0] for line in runner().invoke(main, ["rules"]).stdout.splitlines()] == sorted(RULES)


def test_rules_as_json_have_summary_tier_and_fix() -> None:
    listed = json.loads(runner().invoke(main, ["rules", "--output-format", "json"]).stdout)
    assert [one["code"] for one in listed] == sorted(RULES)
    by_code = {one["code"]: one for one in listed}
    assert by_code["CLIP002"] == {
        "code": "CLIP002",
        "name": "deprecated-clip-grad-norm",
        "summary": by_code["CLIP002"]["summary"],
        "severity": "warning",
        "tier": "default",
        "fix": "safe",
        "url": "https://clipcheck.github.io/clipcheck/rules/deprecated-clip-grad-norm/",
    }
    assert (by_code["CLIP011"]["tier"], by_code["CLIP405"]["fix"], by_code["CLIP406"]["fix"]) == (
        "opt-in",
        "unsafe",
        None,
    )
    assert all(re.fullmatch(r"[A-Z`].*[^.]\.", one["summary"]) for one in listed)


def test_config_explains_its_keys() -> None:
    from clipcheck.settings.table import KEYS

    listed = runner().invoke(main, ["config"]).stdout
    assert [line.split()[0] for line in listed.splitlines()] == list(KEYS)
    one = runner().invoke(main, ["config", "select"]).stdout
    for part in (KEYS["select"].about, "Type: a list of rules", "Default: every rule", KEYS["select"].example):
        assert part in one
    as_json = json.loads(runner().invoke(main, ["config", "--output-format", "json"]).stdout)
    assert list(as_json) == list(KEYS)
    assert as_json["target"]["default"] == '"clipcheck"'


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shell_completion(shell: str) -> None:
    result = runner().invoke(main, ["generate-shell-completion", shell])
    assert result.exit_code == 0 and f"{shell}_complete" in result.stdout


# --- what changed -----------------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize(
    ("changed", "found"),
    [({2}, [2]), ({3}, [3]), ({2, 3}, [2, 3]), ({2, 4}, [2, 4]), ({4}, [4]), (set(), [])],
)
def test_only_changed_lines_count(changed: set[int], found: list[int]) -> None:
    git("init", "-q", ".")
    lines = ["import torch", *[CALL.strip()] * 3]
    put("a.py", "\n".join(lines) + "\n")
    git("add", ".")
    git("commit", "-q", "-m", "x")
    put("a.py", "\n".join(f"{line}  # new" if n in changed else line for n, line in enumerate(lines, 1)) + "\n")
    shown = run("-q", "--since", "HEAD", "--diff-only").stdout.splitlines()
    assert [int(line.split(":")[1]) for line in shown] == found


def test_the_lines_around_one_that_was_removed_count() -> None:
    git("init", "-q", ".")
    put("a.py", f"import torch\n{CALL.strip()}\n{CALL.strip()}\nx = 1\n{CALL.strip()}\n{CALL.strip()}\n")
    git("add", ".")
    git("commit", "-q", "-m", "x")
    put("a.py", f"import torch\n{CALL.strip()}\n{CALL.strip()}\n{CALL.strip()}\n{CALL.strip()}\n")
    shown = run("-q", "--since", "HEAD", "--diff-only").stdout.splitlines()
    assert [int(line.split(":")[1]) for line in shown] == [3, 4]


def test_since_an_unknown_revision() -> None:
    put("a.py")
    assert run("--since", "HEAD").exit_code == 2
    git("init", "-q", ".")
    result = run("--since", "nope")
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert "nope" in result.stderr


# --- long runs --------------------------------------------------------------------------------------------------------


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
        assert watching.stdout.readline().startswith("No problems found in 1 file (1 with gradient-clipping code), ")
        put("a.py", BAD)
        assert watching.stdout.readline().startswith("a.py:2:1: CLIP002")
    finally:
        guard.cancel()
        watching.kill()
        watching.communicate()


def test_progress_is_shown_on_a_terminal_after_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    from clipcheck.cli import progress

    class Terminal:
        encoding = "utf-8"
        text = ""

        def write(self, text: str) -> int:
            self.text += text
            return len(text)

        def flush(self) -> None: ...

        def isatty(self) -> bool:
            return True

    clock = iter([0.0, 0.5, 1.5, 1.6])
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    with progress.progress("checking") as step:
        step(1, 3)
        assert terminal.text == ""
        step(2, 3)
        assert terminal.text.startswith("\rchecking [####################----------]  67%")
        step(3, 3)


# A run whose clock advances a second at each reading, so that the bar is drawn for every file.
SLOW = """
import itertools, sys
from clipcheck.cli import main, progress
progress.time.monotonic = itertools.count().__next__
main.main(["check", "--isolated", "--no-cache", "--output-format", "concise", "-j", "1", *sys.argv[1:]])
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudoterminal")
@pytest.mark.parametrize("words", [(), ("missing.py", "."), ("-q",)])
def test_the_progress_bar_is_cleared_before_the_report(words: tuple[str, ...]) -> None:
    pyte = pytest.importorskip("pyte")
    import pty

    for name in "abc":
        put(f"{name}.py")
    main_end, end = pty.openpty()
    with subprocess.Popen([sys.executable, "-c", SLOW, *words], stdin=end, stdout=end, stderr=end) as running:
        os.close(end)
        written = b""
        with contextlib.suppress(OSError):  # how Linux says that the other end is closed
            while piece := os.read(main_end, 4096):
                written += piece
        os.close(main_end)
    assert running.returncode == (2 if "missing.py" in words else 1)
    assert (b"checking [" in written) is ("-q" not in words)
    screen = pyte.Screen(200, 24)
    pyte.ByteStream(screen).feed(written)
    lines = [line.rstrip() for line in screen.display if line.strip()]
    assert not [line for line in lines if "checking" in line or "%" in line]
    expected = ["error: missing.py: no such file or directory"] if "missing.py" in words else []
    assert lines[: len(expected)] == expected
    found = lines[len(expected) :]
    assert [line.split(": ")[0] for line in found[:3]] == ["a.py:2:1", "b.py:2:1", "c.py:2:1"]


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
