"""What a run of `check` or `verify` does and prints, from its options to its exit code, in process."""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import runner

from clipcheck import api, pages
from clipcheck.catalogue import RULES
from clipcheck.cli import check, in_force, show, streams
from clipcheck.cli.arguments import Options, projects_of
from clipcheck.cli.changed_lines import Changes
from clipcheck.cli.main import main
from clipcheck.disk import Changed
from clipcheck.engine.results import FileReport, Outcome
from clipcheck.rule import Edit, Finding, Fix, Place, Safety, Verdict
from clipcheck.settings.keys import ConfigError
from clipcheck.settings.table import KEYS
from clipcheck.verify import pairs
from clipcheck.verify.claims import Claim
from clipcheck.verify.claims import Outcome as Trained
from clipcheck.verify.worker import NoTorch

CALL = "torch.nn.utils.clip_grad_norm(model.parameters(), 1.0)"
BAD = f"import torch\n{CALL}\n"
UNSAFE = f"import torch\nfrom torch.distributed.fsdp import FullyShardedDataParallel\n{CALL}\n"
FIX = Fix("Replace it", Safety.SAFE, (Edit(0, 1, "y"),))


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    for name in ("NO_COLOR", "FORCE_COLOR", "CLICOLOR_FORCE", "CLIPCHECK_DOCS_URL"):
        monkeypatch.delenv(name, raising=False)
    return folder


def put(name: str, text: str = BAD) -> None:
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).write_text(text, encoding="utf-8")


def options(*paths: str, **more: Any) -> Options:
    plain = Options(paths=paths, isolated=True, no_cache=True, output_format="concise", select=("CLIP002",))
    return plain._replace(**more)


def nothing(done: int, total: int) -> None:
    """A progress bar that is not shown."""


# --- the cache --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "changes", "keeps"),
    [
        ({}, None, True),
        ({"no_cache": True}, None, False),
        ({"verify": True}, None, False),
        ({"add_ignore": ""}, None, False),
        ({"add_noqa": ""}, None, False),
        ({}, Changes({}), False),
    ],
)
def test_what_is_cached(
    given: dict[str, Any], changes: Changes | None, keeps: bool, monkeypatch: pytest.MonkeyPatch, project: Path
) -> None:
    asked: list[Any] = []

    def run_files(*arguments: Any) -> Outcome:
        asked.append(arguments)
        return Outcome((), 0, ("late",))

    monkeypatch.setattr(api, "run_files", run_files)
    wanted = Options(isolated=True, jobs=3, fix=True)._replace(**given)
    projects = projects_of(wanted, None)
    found = check.Found(["a.py"], ["missing"], ["unreadable"], [])
    outcome = check._look(wanted, projects, found, changes, nothing)
    folder = os.path.join(os.getcwd(), ".clipcheck_cache")
    assert asked == [(["a.py"], projects, 3, True, folder if keeps else None, nothing)]
    assert outcome.errors == ("missing", "unreadable", "late")


# --- which files ------------------------------------------------------------------------------------------------------


def test_only_changed_files_are_checked_and_with_diff_only_their_changed_lines(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], project: Path
) -> None:
    for name in "abc":
        put(f"{name}.py", f"{BAD}{CALL}\n")
    asked: list[Any] = []

    def changes(*arguments: Any) -> Changes:
        asked.append(arguments)
        return Changes({os.path.realpath("a.py"): ((3, 3),), os.path.realpath("b.py"): None})

    monkeypatch.setattr("clipcheck.cli.changed_lines.changes", changes)

    def places(**more: Any) -> list[str]:
        assert check.check(options(quiet=True, **more), nothing) == 1
        return [line.split(": ")[0] for line in capsys.readouterr().out.splitlines()]

    of_all = [f"{name}.py:{line}:1" for name in "abc" for line in (2, 3)]
    assert places() == of_all
    assert places(since="main") == of_all[:4]
    assert places(since="main", diff_only=True) == of_all[1:4]
    assert places(diff_only=True) == of_all[1:4]
    assert asked == [("main", (".",)), ("main", (".",)), ("HEAD", (".",))]


@pytest.mark.skipif(sys.platform == "win32", reason="needs links")
def test_a_broken_link_is_a_warning(capsys: pytest.CaptureFixture[str]) -> None:
    put("a.py", "x = 1\n")
    os.symlink("nowhere.py", "b.py")
    assert check.check(options(quiet=True), nothing) == 0
    assert capsys.readouterr() == ("", "warning: b.py: broken link, skipped\n")


def test_files_are_listed_without_being_checked(capsys: pytest.CaptureFixture[str]) -> None:
    put("a.py")
    put("sub/b.py")
    assert check.check(options(show_files=True), nothing) == 0
    assert capsys.readouterr() == (f"a.py\n{os.path.join('sub', 'b.py')}\n", "")


def test_a_run_says_how_long_it_took(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    put("a.py", "x = 1\n")
    monkeypatch.setattr(check, "time", SimpleNamespace(monotonic=iter((100.0, 102.5)).__next__))
    assert check.check(options(verbose=True), nothing) == 0
    said = capsys.readouterr()
    assert said.out == "No problems found in 1 file (none with gradient-clipping code), 2.50 s.\n"
    assert said.err.endswith("checked 1 file, 0 with findings, in 2.50 s\n")
    put("b.py")
    monkeypatch.setattr(check, "time", SimpleNamespace(monotonic=iter((0.0, 1.0)).__next__))
    assert check.check(options(verbose=True, fix=True, target="torch"), nothing) == 0
    assert capsys.readouterr().err.endswith("checked 2 files, 1 with findings, in 1.00 s\n")  # which are fixed now


# --- suppressions ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "comment"),
    [
        ({"add_ignore": ""}, "# clipcheck: ignore[CLIP002]"),
        ({"add_ignore": "later"}, "# clipcheck: ignore[CLIP002] later"),
        ({"add_noqa": ""}, "# noqa: CLIP002"),
        ({"add_noqa": "later", "add_ignore": "x"}, "# noqa: CLIP002 later"),
    ],
)
def test_suppressions_are_added_and_counted(
    given: dict[str, Any], comment: str, capsys: pytest.CaptureFixture[str]
) -> None:
    put("a.py", f"{BAD}{CALL}\n")
    put("b.py")
    assert check.check(options(**given), nothing) == 0
    assert capsys.readouterr() == ("Added 3 suppressions.\n", "")
    assert Path("b.py").read_text(encoding="utf-8") == f"import torch\n{CALL}  {comment}\n"


@pytest.mark.parametrize("error", [Changed("a.py: changed meanwhile"), OSError("a.py: read-only")])
def test_a_file_that_cannot_be_given_suppressions_is_an_error(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    put("a.py")
    put("b.py")
    put("c.py", "x = 1\n")
    written: list[str] = []

    def write(path: str, data: bytes, was: bytes) -> None:
        if path == "a.py":
            raise error
        written.append(path)

    monkeypatch.setattr(check, "write", write)
    assert check.check(options(".", "missing.py", add_ignore=""), nothing) == 2
    missing = "error: missing.py: no such file or directory\n"
    assert capsys.readouterr() == ("Added 1 suppression.\n", f"{missing}error: {error}\n")
    assert written == ["b.py"]


# --- standard input -------------------------------------------------------------------------------------------------


def test_settings_apply_to_stdin_under_its_name(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(check, "get_bytes", BAD.encode)
    put("sub/clipcheck.toml", "per-file-ignores = {'*.py' = ['CLIP002'], '-' = ['CLIP002']}\n")

    def found(name: str | None) -> int:
        code = check.check(options("-", isolated=False, stdin_filename=name), nothing)
        assert ("CLIP002" in capsys.readouterr().out) == bool(code)
        return code

    assert (found("sub/a.py"), found("a.py"), found(None)) == (0, 1, 1)
    os.chdir("sub")
    assert (found("a.py"), found("a.pyi"), found(None)) == (0, 1, 1)  # patterns are of files' names


def test_errors_on_stdin_are_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(check, "get_bytes", lambda: b"")
    monkeypatch.setattr(check, "check_file", lambda name, *_: FileReport(name, b"", errors=(f"{name}: broken",)))
    assert check.check(options("-"), nothing) == 2
    assert capsys.readouterr() == ("", "error: -: broken\n")


# --- verification -----------------------------------------------------------------------------------------------------


class Verifier:
    """In the place of the verifier, which would start a process with torch: what it is to say."""

    verdict = Verdict("verified", 3)

    def __enter__(self) -> Any:
        return lambda *_: self.verdict

    def __exit__(self, *_: object) -> None: ...


@pytest.fixture
def verifier(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Verifier]]:
    monkeypatch.setattr("clipcheck.verify.sites.Verifier", Verifier)
    yield Verifier
    Verifier.verdict = Verdict("verified", 3)


def test_fixes_are_run_and_nothing_is_changed(verifier: type[Verifier], capsys: pytest.CaptureFixture[str]) -> None:
    put("a.py")
    assert check.verify_paths(options("a.py"), nothing) == 0
    assert capsys.readouterr().out == (
        "a.py:2:1: CLIP002 verified on 3 cases\nRan 1 fix: 1 verified, 0 refuted, 0 not verified.\n"
    )
    assert check.verify_paths(options("a.py", output_format="json"), nothing) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["verdict"]["kind"] == "verified"
    assert Path("a.py").read_text(encoding="utf-8") == BAD


def test_only_verified_fixes_are_applied(verifier: type[Verifier], capsys: pytest.CaptureFixture[str]) -> None:
    put("a.py")
    put("requirements.txt", "clipcheck\n")
    verifier.verdict = Verdict("not verified", reason="too slow")
    assert check.check(options("a.py", fix=True, verify=True), nothing) == 1
    assert Path("a.py").read_text(encoding="utf-8") == BAD
    verifier.verdict = Verdict("verified", 3)
    capsys.readouterr()
    assert check.check(options("a.py", diff=True, verify=True), nothing) == 1
    assert capsys.readouterr().err == "a.py:2:1: CLIP002 verified on 3 cases\nWould fix 1 problem.\n"
    assert check.check(options("a.py", fix=True, verify=True, show_fixes=True, output_format="json"), nothing) == 0
    assert json.loads(capsys.readouterr().out) == []
    put("a.py")
    assert check.check(options("a.py", fix=True, verify=True, show_fixes=True), nothing) == 0
    assert capsys.readouterr().out == (
        "Fixed 1 problem:\n- a.py:\n    1 × CLIP002 (deprecated-clip-grad-norm)\n"
        "a.py:2:1: CLIP002 verified on 3 cases\nFound 1 problem (1 fixed, 0 remaining).\n"
    )


def test_without_torch_nothing_can_be_verified(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object) -> Any:
        raise NoTorch("torch cannot be imported")

    monkeypatch.setattr("clipcheck.verify.sites.Verifier", missing)
    monkeypatch.setattr(pairs, "verify", missing)
    put("a.py")
    with pytest.raises(ConfigError, match=r"^torch cannot be imported$"):
        check.check(options("a.py", verify=True), nothing)
    with pytest.raises(ConfigError, match=r"^torch cannot be imported$"):
        check.verify_examples(("CLIP002",), "full", 1, nothing)


@pytest.mark.parametrize(("holds", "code"), [(True, 0), (False, 1), (None, 0)])
def test_the_examples_of_rules_are_run(holds: bool | None, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    steps: list[tuple[int, int]] = []

    def verify(found: list[pairs.Pair], jobs: int, done: Any) -> list[pairs.Row]:
        asked.append(({pair.name.partition("/")[0] for pair in found}, jobs))
        for _ in found:
            done()
        return [pairs.Row("CLIP002/after", Claim("same"), Trained(holds))]

    monkeypatch.setattr(pairs, "verify", verify)
    monkeypatch.setattr(os, "cpu_count", lambda: 5)
    shown, ended = check.verify_examples(("CLIP002", "CLIP101"), "full", 0, lambda *step: steps.append(step))
    assert ended == code
    assert shown.startswith("fixture") and shown.endswith("not verified here.\n")
    assert steps == [(number, len(steps)) for number in range(1, len(steps) + 1)] and steps
    shown, ended = check.verify_examples((), "json", 2, nothing)
    assert (json.loads(shown)[0]["fixture"], ended) == ("CLIP002/after", code)
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    check.verify_examples(("CLIP002",), "json", 0, nothing)
    (first, first_jobs), (every, second_jobs), (_, third_jobs) = asked
    assert (first, first_jobs, second_jobs, third_jobs) == ({"CLIP002", "CLIP101"}, 5, 2, 1)
    assert len(every) > 20


def test_rules_without_a_fix_have_nothing_to_verify() -> None:
    with pytest.raises(ConfigError, match=r"^no example of these rules has a fix to verify$"):
        check.verify_examples(("CLIP406",), "full", 1, nothing)


def test_the_command_verify(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def verify_paths(*arguments: Any) -> int:
        asked.append(arguments[:-1])
        return 2

    def verify_examples(*arguments: Any) -> tuple[str, int]:
        asked.append(arguments[:-1])
        return "shown\n", 1

    monkeypatch.setattr(check, "verify_paths", verify_paths)
    monkeypatch.setattr(check, "verify_examples", verify_examples)
    words = ["--select", "CLIP1", "--target", "torch", "--isolated", "--unsafe-fixes"]
    result = runner().invoke(main, ["verify", "a.py", *words])
    assert (result.exit_code, result.stdout) == (2, "")
    result = runner().invoke(main, ["verify", "--select", "CLIP1", "--output-format", "json", "-j", "3"])
    assert (result.exit_code, result.stdout) == (1, "shown\n")
    of_paths = Options(
        paths=("a.py",), select=("CLIP1",), target="torch", isolated=True, unsafe_fixes=True, output_format="full"
    )
    assert asked == [(of_paths,), (("CLIP1",), "json", 3)]


@pytest.mark.parametrize(
    ("words", "label", "shown"),
    [
        (["check"], "checking", True),
        (["check", "-q"], "checking", False),
        (["check", "-s"], "checking", False),
        (["verify", "."], "verifying", True),
    ],
)
def test_what_the_progress_bar_says(
    words: list[str], label: str, shown: bool, monkeypatch: pytest.MonkeyPatch, verifier: type[Verifier]
) -> None:
    asked: list[Any] = []
    progress = sys.modules["clipcheck.cli.main"].progress  # type: ignore[attr-defined]

    def recorded(label: str, show: bool = True) -> Any:
        asked.append((label, show))
        return progress(label, show)

    monkeypatch.setattr(sys.modules["clipcheck.cli.main"], "progress", recorded)
    assert runner().invoke(main, [*words, "--isolated"]).exit_code == 0
    assert asked == [(label, shown)]


# --- what is printed --------------------------------------------------------------------------------------------------


def test_the_report_comes_after_errors_warnings_and_a_note(capsys: pytest.CaptureFixture[str], project: Path) -> None:
    fixed = b"from clipcheck.runtime import clip_grad_norm_\n"
    report = FileReport("a.py", b"", (), (Finding("a.py", Place(1, 1, 1, 1), "C", "n", "m"),), fixed, (), ("odd",))
    outcome = Outcome((report,), 1, ("broken",))
    here = projects_of(options(), None).here
    show.show(options(fix=True), outcome, here, 2, None, False)
    said = capsys.readouterr().err.splitlines()
    assert said[:2] == ["error: broken", "warning: odd"] and said[2].startswith("note: fixed code imports")
    for one in (report._replace(data=fixed), report._replace(fixed_data=None)):
        show.show(options(fix=True), Outcome((one,), 1), here, 0, None, False)
        assert "note" not in capsys.readouterr().err


def test_with_fix_only_stdout_has_the_fixed_code_of_stdin_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(check, "get_bytes", BAD.encode)
    monkeypatch.setattr(streams, "put_bytes", lambda data: None)
    monkeypatch.setattr(check, "put_bytes", lambda data: None)
    given = {"fix_only": True, "target": "torch", "show_fixes": True}
    listed = "Fixed 1 problem:\n- -:\n    1 × CLIP002 (deprecated-clip-grad-norm)\n"
    check.check(options("-", **given), nothing)
    assert capsys.readouterr() == ("", f"{listed}Fixed 1 problem.\n")
    check.check(options("-", quiet=True, **given), nothing)
    assert capsys.readouterr() == ("", listed)
    check.check(options("-", **{**given, "show_fixes": False}), nothing)
    assert capsys.readouterr() == ("", "Fixed 1 problem.\n")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("where", ["terminal", "pipe", "file", "closed"])
def test_a_diff_is_harmless_on_a_terminal_and_exact_elsewhere(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    put("a.py", f"import torch\n{CALL}  # \x1b[2J\n")
    stream = {"terminal": Terminal(), "pipe": io.StringIO(), "file": Terminal(), "closed": None}[where]
    monkeypatch.setattr(sys, "stdout", stream)
    asked = options("a.py", diff=True, target="torch", color="never", output_file="out" if where == "file" else None)
    if where == "closed":
        with pytest.raises(OSError, match="stdout is closed"):
            check.check(asked, nothing)
        return
    assert check.check(asked, nothing) == 1
    assert stream is not None
    text = Path("out").read_text(encoding="utf-8") if where == "file" else stream.getvalue()
    assert ("\x1b" in text) is (where != "terminal")
    assert f"-{CALL}  # " in text


def test_a_diff_says_on_stderr_what_a_fix_would_do(capsys: pytest.CaptureFixture[str]) -> None:
    put("a.py")
    check.check(options(diff=True, target="torch", color="always", output_file="out"), nothing)
    assert capsys.readouterr() == ("", "Would fix 1 problem.\n")
    assert "\x1b" not in Path("out").read_text(encoding="utf-8")
    check.check(options(diff=True, target="torch", color="always"), nothing)
    assert "\x1b[32m+" in capsys.readouterr().out
    check.check(options(diff=True, target="torch", quiet=True), nothing)
    said = capsys.readouterr()
    assert said.err == "" and "\x1b" not in said.out


@pytest.mark.parametrize("shape", ["concise", "json", "json-lines"])
def test_statistics_are_json_if_the_format_is(shape: str, capsys: pytest.CaptureFixture[str]) -> None:
    put("a.py")
    check.check(options(statistics=True, output_format=shape), nothing)
    text = capsys.readouterr().out
    assert text.startswith("[" if shape.startswith("json") else "1\tCLIP002\t[*]")


def test_reports_are_in_color_where_people_read_them(monkeypatch: pytest.MonkeyPatch) -> None:
    put("a.py")
    put("b.py", UNSAFE)
    monkeypatch.setattr(check, "put_bytes", lambda data: None)
    monkeypatch.setattr(check, "get_bytes", UNSAFE.encode)

    def colors(**more: Any) -> tuple[bool, bool]:
        out, err = Terminal(), io.StringIO()
        monkeypatch.setattr(sys, "stdout", out)
        monkeypatch.setattr(sys, "stderr", err)
        check.check(options("b.py")._replace(**more), nothing)
        return "\x1b" in out.getvalue(), "\x1b" in err.getvalue()

    assert colors() == (True, False)
    assert colors(output_format="json") == (False, False)
    assert colors(paths=("-",), fix=True) == (False, False)  # the report is on stderr, which is no terminal
    colors(output_file="out", color="always")
    assert "\x1b" not in Path("out").read_text(encoding="utf-8")


def test_the_reports_category_and_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    put("a.py")
    check.check(options(output_format="sarif", sarif_category="nightly"), nothing)
    (run,) = json.loads(capsys.readouterr().out)["runs"]
    assert (run["automationDetails"]["id"], run["invocations"][0]["exitCode"]) == ("nightly/", 1)


# --- the settings in force --------------------------------------------------------------------------------------------


def reasons(*paths: str, **more: Any) -> list[str]:
    asked = Options()._replace(**more)
    return list(in_force.reasons(asked, projects_of(asked, None), paths))


def test_a_line_for_each_settings_file_and_each_key() -> None:
    put("wide.toml", "unfixable = ['CLIP1']\nselect = ['CLIP2']\nextend-exclude = ['x']\n")
    put("clipcheck.toml", "extend = 'wide.toml'\nunfixable = ['CLIP3']\nselect = ['CLIP4']\nextend-exclude = ['y']\n")
    put("sub/clipcheck.toml", "")
    sub = os.path.join("sub", "clipcheck.toml")
    assert reasons("a.py", "b.py", os.path.join("sub", "c.py")) == [
        "settings: clipcheck.toml (the nearest settings file)",
        '  unfixable = ["CLIP1"] (wide.toml)',
        '  unfixable = ["CLIP3"] (clipcheck.toml)',
        '  select = ["CLIP4"] (clipcheck.toml)',
        '  extend-exclude = ["x"] (wide.toml)',
        '  extend-exclude = ["y"] (clipcheck.toml)',
        '  extend = "wide.toml" (clipcheck.toml)',
        f"settings: {sub} (the nearest settings file)",
    ]


@pytest.mark.parametrize(
    ("given", "first"),
    [
        ({"isolated": True}, "settings: defaults (--isolated ignores settings files)"),
        ({"config": ("fix.toml",)}, "settings: fix.toml (given by --config)"),
        ({"config": ("target = 'torch'",)}, "settings: clipcheck.toml (the nearest settings file)"),
    ],
)
def test_why_settings_are_in_force(given: dict[str, Any], first: str) -> None:
    put("clipcheck.toml", "")
    put("fix.toml", "")
    assert reasons("a.py", **given)[0] == first


def test_the_users_own_settings_file_is_named(project: Path, tmp_path: Path) -> None:
    assert reasons("a.py") == ["settings: defaults (no settings file found)"]
    users = tmp_path / "home" / "clipcheck" / "clipcheck.toml"
    put(str(users), "")
    assert reasons("a.py") == [f"settings: {users} (your own settings file; the project has none)"]
    put("clipcheck.toml", "")
    assert reasons("a.py") == ["settings: clipcheck.toml (the nearest settings file)"]


def test_settings_are_shown_for_the_first_path_or_stdin(capsys: pytest.CaptureFixture[str]) -> None:
    def title(**more: Any) -> str:
        check.check(Options(show_settings=True)._replace(**more), nothing)
        return capsys.readouterr().out.splitlines()[0]

    assert title() == "# settings for ."
    assert title(paths=("b", "a")) == "# settings for b"
    assert title(paths=("b",), stdin_filename="a.py") == "# settings for a.py"
    assert title(paths=("a\x1bb",)) == "# settings for a\\u001bb"


# --- the commands that explain ----------------------------------------------------------------------------------------


def said(*words: str) -> str:
    result = runner().invoke(main, list(words))
    assert result.exit_code == 0, result.stderr
    return result.stdout


def test_one_rule_or_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "by_code", lambda: [RULES["CLIP002"], RULES["CLIP003"]])
    one = json.loads(said("rule", "CLIP002", "--output-format", "json"))
    every = json.loads(said("rule", "--all", "--output-format", "json"))
    assert every[0] == one and [rule["code"] for rule in every] == ["CLIP002", "CLIP003"]
    assert said("rule", "--all") == f"{one['page']}\n\n{every[1]['page']}\n"
    assert said("rule", "CLIP002") == f"{one['page']}\n"
    assert "·" in said("rule", "CLIP002", "--output-format", "json")


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["rule"], "give the code or name of a rule, or --all"),
        (["rule", "CLIP1"], "`CLIP1` is not a single rule (`clipcheck rules` lists them)"),
        (["rule", "ALL"], "`ALL` is not a single rule (`clipcheck rules` lists them)"),
        (["config", "extend_selct"], "unknown key `extend_selct`, did you mean `extend-select`?"),
        (["config", "zzz"], "unknown key `zzz` (`clipcheck config` lists the keys)"),
        (["help", "zzz"], "unknown command `zzz`"),
    ],
)
def test_what_cannot_be_explained(words: list[str], error: str) -> None:
    result = runner().invoke(main, words)
    assert (result.exit_code, result.stdout, result.stderr) == (2, "", f"error: {error}\n")


def test_lists_are_in_columns() -> None:
    rules = said("rules").splitlines()
    assert rules[:2] == ["CLIP001  default   item-norm-loop", "CLIP002  default   deprecated-clip-grad-norm"]
    assert "CLIP004  opt-in    linear-norm-sum" in rules
    keys = said("config").splitlines()
    longest = max(map(len, KEYS))
    assert [line[:longest].rstrip() for line in keys] == list(KEYS)
    assert [line[longest:] for line in keys] == [f"  {key.takes}" for key in KEYS.values()]


def test_one_key_or_all_as_json() -> None:
    every = json.loads(said("config", "--output-format", "json"))
    assert json.loads(said("config", "target", "--output-format", "json")) == every["target"]
    assert every["force-exclude"]["kind"] == "true or false"


def test_help_of_a_command_names_it() -> None:
    said_help = runner().invoke(main, ["help", "vendor"], prog_name="clipcheck").stdout
    assert said_help.startswith("Usage: clipcheck vendor [OPTIONS] FOLDER\n")


def test_caches_are_removed_and_named(project: Path) -> None:
    put("a.py")
    put("sub/clipcheck.toml", "")
    put("sub/b.py")
    for folder in (".", "sub"):
        os.chdir(project / folder)
        assert runner().invoke(main, ["check", "."]).exit_code == 1
    os.chdir(project)
    inner = os.path.join("sub", ".clipcheck_cache")
    assert Path(".clipcheck_cache").is_dir() and Path(inner).is_dir()
    assert said("clean", "sub") == f"removed {inner}\n"
    assert said("clean").replace(f".{os.sep}", "") == "removed .clipcheck_cache\n"
    assert said("clean") == ""
    assert sorted(os.listdir()) == ["a.py", "sub"]


@pytest.mark.parametrize(
    ("shell", "line"),
    [
        ("bash", "complete -o nosort -F _clipcheck_completion clipcheck"),
        ("zsh", "compdef _clipcheck_completion clipcheck"),
        ("fish", "complete --no-files --command clipcheck"),
    ],
)
def test_a_completion_script_completes_clipcheck(shell: str, line: str) -> None:
    script = said("generate-shell-completion", shell)
    assert line in script and f"_CLIPCHECK_COMPLETE={shell}_complete " in script


# --- streams ----------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform == "win32", reason="closes pipes as POSIX does")
def test_a_stream_that_nobody_reads_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as broken:
        broken.write("x")
        kept = io.StringIO()
        monkeypatch.setattr(sys, "stdout", broken)
        monkeypatch.setattr(sys, "stderr", kept)
        streams.let_go()
        assert os.path.sameopenfile(broken.fileno(), os.open(os.devnull, os.O_WRONLY))
        broken.flush()
    monkeypatch.setattr(sys, "stdout", None)
    streams.let_go()


@pytest.mark.parametrize(("name", "aside"), [("stdout", False), ("stderr", True)])
def test_a_report_needs_its_stream_and_no_other(name: str, aside: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = io.StringIO()
    for each in ("stdout", "stderr"):
        monkeypatch.setattr(sys, each, kept if each == name else None)
    streams.put(Options(), "x\n", aside)
    assert kept.getvalue() == "x\n"


def test_bytes_go_in_and_out_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("stdin", "stdout"):
        monkeypatch.setattr(sys, name, SimpleNamespace(buffer=io.BytesIO(b"\xff\r\n" if name == "stdin" else b"")))
    streams.put_bytes(streams.get_bytes())
    assert sys.stdout.buffer.getvalue() == b"\xff\r\n"  # type: ignore[attr-defined]
