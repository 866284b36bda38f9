"""The words of the command line as values: every option of every command, its short form, its default, its variable."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import pytest
from conftest import runner

from clipcheck.cli import arguments
from clipcheck.cli.arguments import Options, projects_of
from clipcheck.cli.group import Choice, DefaultGroup
from clipcheck.cli.main import main
from clipcheck.formats import FORMATS
from clipcheck.rule import Safety
from clipcheck.settings.keys import ConfigError, Layer, Settings
from clipcheck.settings.projects import Project


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    for name in ("OUTPUT_FORMAT", "NO_CACHE", "CACHE_DIR"):
        monkeypatch.delenv(f"CLIPCHECK_{name}", raising=False)
    return tmp_path


def parsed(command: str, words: str) -> dict[str, Any]:
    program = click.Context(main, **main.context_settings)
    return main.commands[command].make_context(command, words.split(), program).params


# --- the options of `check` -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "given"),
    [
        ("", {}),
        ("a.py b", {"paths": ("a.py", "b")}),
        ("-", {"paths": ("-",)}),
        # fixing
        ("--fix", {"fix": True}),
        ("--fix --no-fix", {}),
        ("--unsafe-fixes", {"unsafe_fixes": True}),
        ("--no-unsafe-fixes", {"unsafe_fixes": False}),
        ("--fix-only", {"fix_only": True}),
        ("--fix-only --no-fix-only", {}),
        ("--diff", {"diff": True}),
        ("--verify", {"verify": True}),
        ("--show-fixes", {"show_fixes": True}),
        ("--show-fixes --no-show-fixes", {}),
        ("--fixable A --fixable B,C", {"fixable": ("A", "B,C")}),
        ("--unfixable A --unfixable B", {"unfixable": ("A", "B")}),
        ("--target lab.clips", {"target": "lab.clips"}),
        # exit code
        ("-e", {"exit_zero": True}),
        ("--exit-zero", {"exit_zero": True}),
        ("--exit-non-zero-on-fix", {"exit_non_zero_on_fix": True}),
        # rules
        ("--select A --select B", {"select": ("A", "B")}),
        ("--ignore A --ignore B", {"ignore": ("A", "B")}),
        ("--extend-select A --extend-select B", {"extend_select": ("A", "B")}),
        ("--per-file-ignores a:A --per-file-ignores b:B", {"per_file_ignores": ("a:A", "b:B")}),
        # files
        ("--exclude a --exclude b", {"exclude": ("a", "b")}),
        ("--extend-exclude a --extend-exclude b", {"extend_exclude": ("a", "b")}),
        ("--force-exclude", {"force_exclude": True}),
        ("--no-force-exclude", {"force_exclude": False}),
        ("--respect-gitignore", {"respect_gitignore": True}),
        ("--no-respect-gitignore", {"respect_gitignore": False}),
        ("--stdin-filename a.py", {"stdin_filename": "a.py"}),
        ("--since main", {"since": "main"}),
        ("--diff-only", {"diff_only": True}),
        ("--show-files", {"show_files": True}),
        # suppression
        ("--add-ignore a.py", {"add_ignore": "", "paths": ("a.py",)}),
        ("--add-ignore=later", {"add_ignore": "later"}),
        ("--add-noqa a.py", {"add_noqa": "", "paths": ("a.py",)}),
        ("--add-noqa=later", {"add_noqa": "later"}),
        ("-- --add-noqa --add-ignore", {"paths": ("--add-noqa", "--add-ignore")}),
        ("--add-noqa -- --add-ignore", {"add_noqa": "", "paths": ("--add-ignore",)}),
        ("--ignore-noqa", {"ignore_noqa": True}),
        # output
        *((f"--output-format {shape}", {"output_format": shape}) for shape in FORMATS),
        ("-o a.txt", {"output_file": "a.txt"}),
        ("--output-file a.txt", {"output_file": "a.txt"}),
        ("--statistics", {"statistics": True}),
        *((f"--color {when}", {"color": when}) for when in ("auto", "always", "never")),
        ("-q", {"quiet": True}),
        ("--quiet", {"quiet": True}),
        ("-s", {"silent": True}),
        ("--silent", {"silent": True}),
        ("-v", {"verbose": True}),
        ("--verbose", {"verbose": True}),
        ("--sarif-category nightly", {"sarif_category": "nightly"}),
        # settings
        ("--config a.toml --config fix=true", {"config": ("a.toml", "fix=true")}),
        ("--isolated", {"isolated": True}),
        ("--show-settings", {"show_settings": True}),
        ("-n", {"no_cache": True}),
        ("--no-cache", {"no_cache": True}),
        ("--cache-dir a", {"cache_dir": "a"}),
        ("-j 3", {"jobs": 3}),
        ("--jobs 0", {"jobs": 0}),
        ("-w", {"watch": True}),
        ("--watch", {"watch": True}),
    ],
)
def test_an_option_of_check(words: str, given: dict[str, Any]) -> None:
    assert Options(**parsed("check", words)) == Options()._replace(**given)


@pytest.mark.parametrize(
    ("name", "value", "given"),
    [
        ("OUTPUT_FORMAT", "json", {"output_format": "json"}),
        ("NO_CACHE", "1", {"no_cache": True}),
        ("CACHE_DIR", "a", {"cache_dir": "a"}),
    ],
)
def test_an_option_by_its_environment_variable(
    name: str, value: str, given: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"CLIPCHECK_{name}", value)
    assert Options(**parsed("check", "")) == Options()._replace(**given)


def test_without_options_a_run_reports_and_changes_nothing() -> None:
    plain = Options()
    assert not any((plain.wants_fixes, plain.writes, plain.adds_suppressions, plain.reads_stdin))
    off = {name for name, value in plain._asdict().items() if value is False}
    assert {"fix", "fix_only", "diff", "verify", "exit_zero", "isolated", "no_cache", "silent", "watch"} <= off


@pytest.mark.parametrize(
    ("given", "wants", "writes"),
    [
        ({"fix": True}, True, True),
        ({"fix_only": True}, True, True),
        ({"diff": True}, True, False),
        ({"fix": True, "diff": True}, True, False),
        ({"fix_only": True, "diff": True}, True, False),
        ({"verify": True, "unsafe_fixes": True}, False, False),
    ],
)
def test_what_is_fixed_and_what_is_written(given: dict[str, Any], wants: bool, writes: bool) -> None:
    options = Options()._replace(**given)
    assert (options.wants_fixes, options.writes) == (wants, writes)


@pytest.mark.parametrize(("given", "adds"), [({}, False), ({"add_ignore": ""}, True), ({"add_noqa": ""}, True)])
def test_when_suppressions_are_added(given: dict[str, Any], adds: bool) -> None:
    assert Options()._replace(**given).adds_suppressions is adds


# --- the options of the other commands ------------------------------------------------------------------------------


VERIFY = {
    "paths": (),
    "select": (),
    "unsafe_fixes": None,
    "target": None,
    "isolated": False,
    "output_format": "full",
    "jobs": 0,
}
VENDOR = {"folder": "clips", "only_check": False, "force": False}
RULE = {"name": None, "everything": False, "output_format": "text"}


@pytest.mark.parametrize(
    ("command", "words", "values"),
    [
        ("verify", "", VERIFY),
        ("verify", "a.py b.py", {**VERIFY, "paths": ("a.py", "b.py")}),
        ("verify", "--select A --select B", {**VERIFY, "select": ("A", "B")}),
        ("verify", "--unsafe-fixes", {**VERIFY, "unsafe_fixes": True}),
        ("verify", "--target torch", {**VERIFY, "target": "torch"}),
        ("verify", "--isolated", {**VERIFY, "isolated": True}),
        ("verify", "--output-format json", {**VERIFY, "output_format": "json"}),
        ("verify", "--output-format full", VERIFY),
        ("verify", "-j 2", {**VERIFY, "jobs": 2}),
        ("verify", "--jobs 0", VERIFY),
        ("vendor", "clips", VENDOR),
        ("vendor", "--check clips", {**VENDOR, "only_check": True}),
        ("vendor", "--force clips", {**VENDOR, "force": True}),
        ("clean", "", {"folders": ()}),
        ("clean", "a b", {"folders": ("a", "b")}),
        ("version", "", {"output_format": "text"}),
        ("version", "--output-format json", {"output_format": "json"}),
        ("rule", "", RULE),
        ("rule", "CLIP002 --output-format json", {**RULE, "name": "CLIP002", "output_format": "json"}),
        ("rule", "--all --output-format text", {**RULE, "everything": True}),
        ("rules", "", {"output_format": "text"}),
        ("config", "", {"key": None, "output_format": "text"}),
        ("config", "select", {"key": "select", "output_format": "text"}),
        ("help", "", {"command": None}),
        ("help", "check", {"command": "check"}),
        ("generate-shell-completion", "fish", {"shell": "fish"}),
        ("audit", "--help train.py --epochs 1", {"words": ("--help", "train.py", "--epochs", "1")}),
        ("bench", "clip --help --size 3", {"words": ("clip", "--help", "--size", "3")}),
        ("server", "", {}),
    ],
)
def test_the_arguments_of_a_command(command: str, words: str, values: dict[str, Any]) -> None:
    assert parsed(command, words) == values


@pytest.mark.parametrize(("command", "words"), [("verify", "-j -1"), ("check", "-j -1"), ("vendor", "")])
def test_arguments_that_are_refused(command: str, words: str) -> None:
    with pytest.raises(click.UsageError):
        parsed(command, words)


@pytest.mark.parametrize(
    ("parameter", "error"),
    [
        (None, "invalid value 'c' (expected a1, b1 or c1)"),
        (click.Option(["-s", "--shape"]), "invalid value 'c' for `--shape` (expected a1, b1 or c1)"),
        (click.Option(["--shape"]), "invalid value 'c' for `--shape` (expected a1, b1 or c1)"),
    ],
)
def test_a_value_that_is_no_choice(parameter: click.Parameter | None, error: str) -> None:
    with pytest.raises(click.UsageError) as caught:
        Choice(["a1", "b1", "c1"]).convert("c", parameter, None)
    assert caught.value.message == error


# --- the program ------------------------------------------------------------------------------------------------------


def test_both_help_options_show_the_commands() -> None:
    short, long = (runner().invoke(main, [word]).stdout for word in ("-h", "--help"))
    assert short == long and "Commands:" in short
    short, long = (runner().invoke(main, ["vendor", word]).stdout for word in ("-h", "--help"))
    assert short == long and "--force" in short


def test_what_is_left_of_the_words_is_what_click_leaves() -> None:
    words = ["vendor", "clips"]
    assert main.parse_args(click.Context(main), [*words]) == click.Group.parse_args(main, click.Context(main), [*words])
    check = main.commands["check"]
    assert check.parse_args(click.Context(check), ["a.py"]) == []


def a_group(error: BaseException) -> DefaultGroup:
    def fails() -> None:
        raise error

    return DefaultGroup("program", {"check": click.Command("check", callback=fails)})


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (click.Abort(), "error: interrupted"),
        (KeyboardInterrupt(), "\nerror: interrupted"),  # after the `^C` of the terminal
        (OSError(28, "No space left on device", "a.py"), "error: a.py: No space left on device"),
        (OSError(28, "No space left on device"), "error: No space left on device"),
        (OSError("something else"), "error: something else"),
        (click.UsageError("two\nlines"), "error: two lines"),
        (ZeroDivisionError("x"), "error: ZeroDivisionError: x. This is a bug in clipcheck, please report it"),
    ],
)
def test_whatever_goes_wrong_is_one_line(error: BaseException, line: str) -> None:
    result = runner().invoke(a_group(error), [])
    assert (result.exit_code, result.stdout, result.stderr) == (2, "", f"{line}\n")


def module(monkeypatch: pytest.MonkeyPatch, name: str, **contents: Any) -> None:
    """Another module in the place of one that a command imports."""
    monkeypatch.setitem(sys.modules, name, SimpleNamespace(**contents))


def test_the_benchmark_gets_its_words(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    @click.command(add_help_option=False, context_settings={"ignore_unknown_options": True})
    @click.argument("words", nargs=-1, type=click.UNPROCESSED)
    @click.pass_context
    def group(ctx: click.Context, words: tuple[str, ...]) -> None:
        asked.append((ctx.info_name, words))

    module(monkeypatch, "clipcheck.bench.cli", bench=lambda: group)
    result = runner().invoke(main, ["bench", "clip", "--size", "3"], prog_name="clipcheck")
    assert result.exit_code == 0, result.stderr
    for words in (["bench"], ["help", "bench"]):
        runner().invoke(main, words, prog_name="clipcheck")
    assert asked == [("clipcheck bench", words) for words in (("clip", "--size", "3"), ("--help",), ("--help",))]


def test_an_error_of_the_benchmark_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    module(monkeypatch, "clipcheck.bench.cli", bench=lambda: click.Group("bench"))
    result = runner().invoke(main, ["bench", "nothing"])
    assert (result.exit_code, result.stderr) == (2, "error: No such command 'nothing'.\n")


def test_the_exit_code_of_the_audit_is_that_of_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []
    module(monkeypatch, "clipcheck.audit.__main__", main=lambda words: asked.append(words) or 7)
    assert runner().invoke(main, ["audit", "train.py", "--epochs", "1"]).exit_code == 7
    assert asked == [["train.py", "--epochs", "1"]]


def test_the_server_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[int] = []
    module(monkeypatch, "clipcheck.editor.server", main=lambda: started.append(1))
    assert runner().invoke(main, ["server"]).exit_code == 0
    assert started == [1]


@pytest.mark.parametrize(
    ("command", "loaded", "missing", "error"),
    [
        ("server", "clipcheck.editor.server", "pygls", "the server needs `pygls`: pip install 'clipcheck[lsp]'"),
        ("bench", "clipcheck.bench.cli", "torch", "the benchmark needs `torch`: pip install 'clipcheck[torch]'"),
        ("audit", "clipcheck.audit.__main__", "torch", "the audit needs `torch`: pip install 'clipcheck[torch]'"),
    ],
)
def test_a_command_whose_extra_is_missing_names_it(
    command: str, loaded: str, missing: str, error: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Missing:
        def __getattr__(self, name: str) -> Any:
            raise ModuleNotFoundError(f"No module named '{missing}'", name=missing)

    monkeypatch.setitem(sys.modules, loaded, Missing())
    result = runner().invoke(main, [command])
    assert (result.exit_code, result.stderr) == (2, f"error: {error}\n")


# --- settings from options ------------------------------------------------------------------------------------------


def settings_of(**given: Any) -> Project:
    return projects_of(Options(isolated=True)._replace(**given), None).of(".")


@pytest.mark.parametrize(
    ("given", "key", "value"),
    [
        ({"select": ("CLIP1,CLIP2", "CLIP3")}, "select", ["CLIP1", "CLIP2", "CLIP3"]),
        ({"ignore": ("CLIP1",)}, "ignore", ["CLIP1"]),
        ({"extend_select": ("CLIP1",)}, "extend-select", ["CLIP1"]),
        ({"fixable": ("CLIP1",)}, "fixable", ["CLIP1"]),
        ({"unfixable": ("CLIP1",)}, "unfixable", ["CLIP1"]),
        ({"exclude": ("a, b",)}, "exclude", ["a", "b"]),
        ({"extend_exclude": ("a",)}, "extend-exclude", ["a"]),
        ({"unsafe_fixes": True}, "unsafe-fixes", True),
        ({"unsafe_fixes": False}, "unsafe-fixes", False),
        ({"force_exclude": False}, "force-exclude", False),
        ({"respect_gitignore": False}, "respect-gitignore", False),
        ({"target": "torch"}, "target", "torch"),
        ({"cache_dir": "a"}, "cache-dir", "a"),
        ({"output_format": "json"}, "output-format", "json"),
        ({"config": ("target = 'torch'",)}, "target", "torch"),
        ({"config": ("target = 'torch'", "select = ['CLIP1']")}, "target", "torch"),
        ({"config": ("target = 'torch'",), "target": "clipcheck"}, "target", "clipcheck"),
        (
            {"per_file_ignores": ("a/*.py:CLIP1,CLIP2", "b:CLIP3", "a/*.py:CLIP4")},
            "extend-per-file-ignores",
            {"a/*.py": ["CLIP1", "CLIP2", "CLIP4"], "b": ["CLIP3"]},
        ),
        ({"per_file_ignores": ("C:/a.py:CLIP1",)}, "extend-per-file-ignores", {"C:/a.py": ["CLIP1"]}),
    ],
)
def test_an_option_sets_a_key(given: dict[str, Any], key: str, value: object) -> None:
    found = settings_of(**given)
    assert found.value(key) == value
    assert settings_of().layers[-1] == Layer({}, os.getcwd())


def test_what_only_the_command_line_sets() -> None:
    def verify(*_: object) -> Any: ...

    assert settings_of().settings == Settings()
    assert settings_of(fix=True).settings.fix and settings_of(diff=True).settings.fix
    assert not settings_of(ignore_noqa=True).settings.suppressions
    assert settings_of(unsafe_fixes=True).settings.safety is Safety.UNSAFE
    assert projects_of(Options(isolated=True), verify).of(".").settings.verify is verify


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ({"config": ("nothing",)}, "--config takes a file or `key = value`, not `nothing`"),
        ({"config": ("missing.toml",)}, "missing.toml: no such file"),
        ({"config": ("a=missing.toml",)}, "a=missing.toml: no such file"),
        ({"per_file_ignores": ("CLIP1",)}, "--per-file-ignores takes `PATTERN:RULES`, not `CLIP1`"),
    ],
)
def test_a_setting_that_is_refused(given: dict[str, Any], error: str) -> None:
    with pytest.raises(ConfigError) as caught:
        settings_of(**given)
    assert str(caught.value) == error


def test_a_settings_file_of_any_name(project: Path) -> None:
    (project / "settings=mine").write_text("target = 'torch'\n", encoding="utf-8")
    (project / "clipcheck.toml").write_text("target = 'lab.clips'\n", encoding="utf-8")
    found = projects_of(Options(config=("settings=mine",)), None).of(".")
    assert (found.value("target"), found.origin) == ("torch", "settings=mine")
    assert projects_of(Options(), None).of(".").value("target") == "lab.clips"
    assert projects_of(Options(isolated=True), None).of(".").value("target") is None


# --- the cache --------------------------------------------------------------------------------------------------------


def test_where_the_cache_is(project: Path) -> None:
    (project / "inner").mkdir()
    plain = Project((Layer({}, "elsewhere"),))
    assert arguments.cache_folder(plain) == os.path.join(os.getcwd(), ".clipcheck_cache")
    settings = Layer({"cache-dir": "kept"}, str(project / "inner"), "inner/clipcheck.toml")
    assert arguments.cache_folder(Project((settings, Layer({}, "")))) == str(project / "inner" / "kept")
    assert arguments.cache_folder(Project((settings, Layer({"cache-dir": "mine"}, "here")))) == os.path.join(
        "here", "mine"
    )
    assert arguments.cache_folder(Project((Layer({"cache-dir": "~/kept"}, "here"),))) == os.path.expanduser("~/kept")


def test_a_cache_outside_of_the_project_is_only_the_users_choice(project: Path) -> None:
    inner, outside = project / "inner", str(project / "outside")
    inner.mkdir()
    users = project / "home" / "clipcheck" / "clipcheck.toml"
    users.parent.mkdir(parents=True)
    users.write_text("", encoding="utf-8")
    key = {"cache-dir": outside}
    stranger = Layer(key, str(inner), str(inner / "clipcheck.toml"))
    of_user = Layer(key, str(users.parent), str(users))
    assert not arguments.may_hold_cache(Project((stranger,)), outside)
    assert arguments.may_hold_cache(Project((of_user,)), outside)
    assert arguments.may_hold_cache(Project((stranger, Layer(key, os.getcwd()))), outside)  # --cache-dir
    within = stranger._replace(values={"cache-dir": "kept"})
    assert arguments.may_hold_cache(Project((within,)), str(inner / "kept"))


@pytest.mark.skipif(sys.platform == "win32", reason="needs links")
def test_a_cache_of_which_a_part_leads_out_of_the_project_is_not_used(project: Path) -> None:
    (project / "kept").mkdir()
    here = Project((Layer({}, str(project)),))
    assert arguments.may_hold_cache(here, str(project / "kept"))
    (project / "kept" / ".gitignore").symlink_to(project.parent / "elsewhere")
    assert not arguments.may_hold_cache(here, str(project / "kept"))
