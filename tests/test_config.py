"""Settings: which file is used, what each key does, what is rejected, and which files are checked."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import Result
from conftest import runner

from clipcheck import __version__
from clipcheck.cli.main import main
from clipcheck.engine.find import find
from clipcheck.settings import files
from clipcheck.settings.keys import DEFAULT, ConfigError
from clipcheck.settings.table import EXCLUDED

CALL = "import torch\ntorch.nn.utils.clip_grad_norm(model.parameters(), 1.0)\n"


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder, without user settings."""
    folder = tmp_path / "project"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("APPDATA", str(tmp_path / "home"))
    return folder


def put(path: str, text: str = CALL) -> Path:
    file = Path(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


def run(*words: str) -> Result:
    return runner().invoke(main, ["check", "--no-cache", "--output-format", "json", *words])


def found(*words: str) -> list[str]:
    """The files with a finding of CLIP002, relative to the current folder."""
    result = run(*words)
    assert result.exit_code in (0, 1), result.stderr
    here = Path.cwd()
    return [
        Path(one["filename"]).relative_to(here).as_posix()
        for one in json.loads(result.stdout)
        if one["code"] == "CLIP002"
    ]


def refused(*words: str) -> str:
    """The single line on stderr with which clipcheck refuses to run."""
    result = run(*words)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1, result.stderr
    return result.stderr.strip()


# --- which file ---------------------------------------------------------------------------------------------------


def test_the_hidden_file_beats_the_plain_one_which_beats_pyproject() -> None:
    put("a.py")
    put("pyproject.toml", '[tool.clipcheck]\nignore = ["CLIP002"]\n')
    assert found() == []
    put("clipcheck.toml", "select = ['CLIP002']\n")
    assert found() == ["a.py"]
    put(".clipcheck.toml", "ignore = ['CLIP002']\n")
    assert found() == []
    assert found("--isolated") == ["a.py"]


def test_a_pyproject_without_our_table_is_skipped() -> None:
    put("clipcheck.toml", "ignore = ['CLIP002']\n")
    put("pkg/pyproject.toml", "[tool.ruff]\nline-length = 100\n# clipcheck\n")
    put("pkg/a.py")
    assert found() == []


def test_the_nearest_file_is_used_and_not_merged() -> None:
    put("clipcheck.toml", "ignore = ['CLIP002']\n")
    put("a.py")
    put("pkg/clipcheck.toml", "")
    put("pkg/sub/b.py")
    assert found() == ["pkg/sub/b.py"]


def test_extend_inherits_what_is_not_set_again() -> None:
    put("shared.toml", "exclude = ['old']\nignore = ['CLIP002']\n")
    put("pkg/clipcheck.toml", "extend = '../shared.toml'\nextend-select = ['CLIP002']\n")
    put("pkg/a.py")
    put("pkg/old/b.py")
    assert found("pkg") == ["pkg/a.py"]


def test_extending_in_a_circle_or_nothing_is_refused() -> None:
    put("clipcheck.toml", "\nextend = 'other.toml'\n")
    assert refused() == "error: clipcheck.toml:2: `extend`: no such file: other.toml"
    put("other.toml", "extend = 'clipcheck.toml'\n")
    assert "leads back to this file" in refused()


def test_the_users_settings_file_is_used_if_there_is_no_other(tmp_path: Path) -> None:
    put("a.py")
    put(str(tmp_path / "home" / "clipcheck" / "clipcheck.toml"), "ignore = ['CLIP002']\n")
    assert found() == []
    put("clipcheck.toml", "")
    assert found() == ["a.py"]


def test_config_names_a_file_or_a_setting(tmp_path: Path) -> None:
    put("a.py")
    put("clipcheck.toml", "ignore = ['CLIP002']\n")
    put("special.toml", "")
    assert found("--config", "special.toml") == ["a.py"]
    assert found("--config", "special.toml", "--config", "ignore = ['CLIP002']") == []
    assert found("--isolated", "--config", "exclude = ['a.py']") == []
    assert "no such file" in refused("--config", "missing.toml")
    assert "takes a file or `key = value`" in refused("--config", "what")


# --- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("\n\nselct = ['CLIP002']\n", "clipcheck.toml:3: unknown key `selct`, did you mean `select`?"),
        ("per_file_ignores = {}\n", "clipcheck.toml:1: unknown key `per_file_ignores`, did you mean `per-file-ignores`?"),
        ("[lint]\nselect = []\n", "clipcheck.toml:1: unknown key `lint`"),
        ("target = 'pytorch'\n", "clipcheck.toml:1: `target` must be clipcheck, torch or the dotted name of a module, not"),
        ("\nselect = 'CLIP002'\n", "clipcheck.toml:2: `select` must be a list of rules, not 'CLIP002'"),
        ("unsafe-fixes = 1\n", "clipcheck.toml:1: `unsafe-fixes` must be true or false, not 1"),
        ("ignore = ['CLIP002', 'E501']\n", "clipcheck.toml:1: unknown rule `E501` in `ignore`"),
        ("\n[per-file-ignores]\n'a.py' = ['X']\n", "clipcheck.toml:2: unknown rule `X` in `per-file-ignores`"),
        ("target = 'torch'\n\n[per-file-ignores.'a.py']\nx = 1\n", "clipcheck.toml:3: `per-file-ignores` must be "),
        ("[other]\nselct = 1\n[selct]\n", "clipcheck.toml:1: unknown key `other`"),
        ("select = []\n'selct' = 1\n", "clipcheck.toml:2: unknown key `selct`"),
        ("select = []\n[[selct]]\nx = 1\n", "clipcheck.toml:2: unknown key `selct`"),
        ("select = []\nselct.x = 1\n", "clipcheck.toml:2: unknown key `selct`"),
        ("selected = ['CLIP002']\nselect = 1\n", "clipcheck.toml:1: unknown key `selected`"),
        ("exclude = [\n", "clipcheck.toml:2: "),
        ("required-version = '>=99'\n", "clipcheck.toml:1: clipcheck >=99 is required, this is "),
        ("required-version = 'new'\n", "clipcheck.toml:1: `required-version` must be a version such as"),
    ],
)  # fmt: skip
def test_an_error_names_file_and_line(text: str, message: str) -> None:
    put("clipcheck.toml", text)
    assert refused().startswith(f"error: {message}")


def test_the_line_is_that_of_our_table_in_pyproject() -> None:
    put("pyproject.toml", "[tool.other]\ncolr = 1\n\n[tool.clipcheck]\nselect = []\ncolr = 1\n")
    assert refused() == "error: pyproject.toml:6: unknown key `colr`"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("[tool.other]\nselct = 1\n[tool.clipcheck]\nselct = 1\n", 4),
        ("[project]\nname = 'x'\n\n[tool.clipcheck.selct]\nx = 1\n", 4),
        ("[tool.clipcheck.selct.more]\nx = 1\n", 1),
        ("[tool.clipcheck]\n[tool.clipcheck.selct]\nx = 1\n", 2),
        ("[tool]\nclipcheck.selct = 1\n", 1),  # cannot be told
    ],
)
def test_the_line_of_a_key_in_pyproject(text: str, line: int) -> None:
    put("pyproject.toml", text)
    assert refused().startswith(f"error: pyproject.toml:{line}: unknown key `selct`")


@pytest.mark.parametrize("version", ["0.1.0", ">=0.1,<1", "==0.1", "~=0.1", "!=3", "<1", " >0.0.9", " 0.1"])
def test_a_required_version_that_matches(version: str) -> None:
    put("clipcheck.toml", f"required-version = '{version}'\n")
    put("a.py")
    assert found() == ["a.py"]


@pytest.mark.parametrize("version", ["<0.1", ">0.1", "!=0.1.0", "~=0.2", "0.2", "==0.0.9", "0.1.0.dev1"])
def test_a_required_version_that_does_not_match(version: str) -> None:
    put("clipcheck.toml", f"\nrequired-version = '{version}'\n")
    assert refused() == f"error: clipcheck.toml:2: clipcheck {version} is required, this is {__version__}"


def test_a_version_before_its_release_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "__version__", "0.3.dev1")
    put("clipcheck.toml", "required-version = '>=0.2'\n")
    assert found() == []
    put("clipcheck.toml", "required-version = '>=0.3'\n")
    assert "is required, this is 0.3.dev1" in refused()


@pytest.mark.parametrize(
    ("text", "origin", "message"),
    [
        ("a = 1\nb = \n", "x.toml", "x.toml:2: Invalid value"),
        ("a = [\n\n", "x.toml", "x.toml:3: "),
        ("a = ", "", "Invalid value (at "),
        ("a = 1\na = 2\n", "x.toml", "x.toml:2: Cannot overwrite a value"),
    ],
)
def test_an_error_in_toml_says_where_it_is(text: str, origin: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        files.parse_toml(text, origin)
    said = str(caught.value)
    assert said.startswith(message)
    assert ("(at line" not in said) or not origin


@pytest.mark.parametrize(("origin", "message"), [("", "nested too deeply"), ("x.toml", "x.toml: nested too deeply")])
def test_toml_that_is_nested_too_deeply(origin: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        files.parse_toml("a = " + "[" * 5000 + "]" * 5000, origin)
    assert str(caught.value) == message


def test_a_settings_file_that_cannot_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: str) -> bytes:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(files.disk, "read", refuse)
    with pytest.raises(ConfigError) as caught:
        files.read_chain("clipcheck.toml")
    assert str(caught.value) == "clipcheck.toml: cannot be read: Permission denied"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[project]\nname = 'clipcheck'\n",
        "[tool]\nclipcheck = 1\n",
        "tool = 'clipcheck'\n",
        "[tool.black]\nx = 'clipcheck'\n",
    ],
)
def test_a_pyproject_that_sets_nothing(text: str) -> None:
    put("pyproject.toml", text)
    assert files.read_chain("pyproject.toml") == ()


def test_a_pyproject_without_our_name_is_not_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    put("pyproject.toml", "[tool.black\n")
    assert files.read_chain("pyproject.toml") == ()


def test_what_is_extended_comes_first(project: Path) -> None:
    put("clipcheck.toml", "extend = 'shared/wide.toml'\n")
    put("shared/wide.toml", "extend = '../widest.toml'\ntarget = 'torch'\n")
    put("widest.toml", "unsafe-fixes = true\n")
    layers = files.read_chain("clipcheck.toml")
    assert [layer.origin for layer in layers] == ["widest.toml", os.path.join("shared", "wide.toml"), "clipcheck.toml"]
    assert [layer.folder for layer in layers] == [str(project), str(project / "shared"), str(project)]
    assert layers[0].values == {"unsafe-fixes": True}


def test_a_file_may_be_extended_twice_but_not_by_itself() -> None:
    put("a.toml", "extend = 'a.toml'\n")
    with pytest.raises(ConfigError, match=r"^a\.toml:1: `extend`: leads back to this file$"):
        files.read_chain("a.toml")
    put("b.toml", "extend = 'folder'\n")
    Path("folder").mkdir()
    with pytest.raises(ConfigError, match=r"^b\.toml:1: `extend`: no such file: folder$"):
        files.read_chain("b.toml")


def test_a_file_in_the_home_folder_may_be_extended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    put(str(tmp_path / "mine.toml"), "target = 'torch'\n")
    put("clipcheck.toml", "extend = '~/mine.toml'\n")
    first, _ = files.read_chain("clipcheck.toml")
    assert (first.values, first.origin) == ({"target": "torch"}, str(tmp_path / "mine.toml"))


@pytest.mark.parametrize(
    ("platform", "variables", "folder"),
    [
        ("linux", {"XDG_CONFIG_HOME": "x", "APPDATA": "a"}, "x"),
        ("linux", {"XDG_CONFIG_HOME": "", "APPDATA": "a"}, "home/.config"),
        ("win32", {"XDG_CONFIG_HOME": "x", "APPDATA": "a"}, "a"),
        ("win32", {"XDG_CONFIG_HOME": "x"}, "home/.config"),
    ],
)
def test_where_the_users_settings_are(
    platform: str, variables: dict[str, str], folder: str, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "sys", SimpleNamespace(platform=platform))
    for name in ("XDG_CONFIG_HOME", "APPDATA"):
        monkeypatch.delenv(name)
    for name, value in {**variables, "HOME": "home", "USERPROFILE": "home"}.items():
        monkeypatch.setenv(name, str(project / value) if value else "")
    assert files.users_file() == ""
    for name in ("pyproject.toml", "clipcheck.toml", ".clipcheck.toml"):  # the last one wins
        path = project / folder / "clipcheck" / name
        put(str(path), "")
        assert files.users_file() == str(path)


@pytest.mark.parametrize("option", ["--select", "--ignore", "--extend-select", "--unfixable"])
def test_an_unknown_code_on_the_command_line_is_refused(option: str) -> None:
    assert refused(option, "CLIP999").startswith("error: unknown rule `CLIP999`")


# --- selection --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "on"),
    [
        ((), True),
        (("--select", "CLIP001"), False),
        (("--select", "CLIP"), True),
        (("--select", "ALL"), True),
        (("--select", "CLIP001,CLIP002"), True),
        (("--ignore", "CLIP0"), False),
        (("--select", "CLIP002", "--ignore", "CLIP0"), True),
        (("--select", "CLIP0", "--ignore", "CLIP002"), False),
        (("--select", "CLIP002", "--ignore", "CLIP002"), False),
        (("--ignore", "ALL"), False),
        (("--ignore", "CLIP0", "--extend-select", "CLIP002"), True),
    ],
)
def test_the_longest_prefix_wins_and_ignore_wins_ties(words: tuple[str, ...], on: bool) -> None:
    put("a.py")
    assert found(*words) == (["a.py"] if on else [])


def test_the_command_line_beats_the_file() -> None:
    put("a.py")
    put("clipcheck.toml", "ignore = ['CLIP002']\n")
    assert found("--select", "CLIP002") == ["a.py"]


def test_per_file_ignores() -> None:
    put("pkg/clipcheck.toml", "[per-file-ignores]\n'tests/*' = ['CLIP002']\n'legacy.py' = ['CLIP']\n")
    for name in ("pkg/a.py", "pkg/tests/b.py", "pkg/sub/legacy.py", "pkg/sub/tests/c.py"):
        put(name)
    assert found() == ["pkg/a.py", "pkg/sub/tests/c.py"]
    assert found("--per-file-ignores", "a.py:CLIP002") == ["pkg/sub/tests/c.py"]
    assert "PATTERN:RULES" in refused("--per-file-ignores", "a.py")


def test_the_user_decides_on_safety() -> None:
    file = put("a.py")
    put("clipcheck.toml", "unfixable = ['CLIP002']\n")
    run("--fix")
    assert file.read_text() == CALL
    put("clipcheck.toml", "extend-unsafe-fixes = ['CLIP0']\n")
    run("--fix")
    assert file.read_text() == CALL
    put("clipcheck.toml", "extend-unsafe-fixes = ['CLIP0']\nunsafe-fixes = true\ntarget = 'torch'\n")
    run("--fix", "--no-unsafe-fixes")
    assert file.read_text() == CALL
    run("--fix")
    assert file.read_text() == CALL.replace("norm(", "norm_(")


def test_fixable_keeps_other_rules_from_being_fixed() -> None:
    file = put("a.py")
    run("--fix", "--fixable", "CLIP001")
    assert file.read_text() == CALL
    run("--fix", "--fixable", "CLIP0", "--target", "torch")
    assert file.read_text() == CALL.replace("norm(", "norm_(")


# --- files ------------------------------------------------------------------------------------------------------------


def test_stubs_are_skipped_unless_named() -> None:
    for name in ("a.py", "b.pyi"):
        put(name)
    assert found() == ["a.py"]
    assert found("b.pyi") == ["b.pyi"]


def test_vendored_folders_are_skipped_unless_named() -> None:
    for name in ("a.py", ".venv/lib/b.py", "build/c.py", "node_modules/d.py", "x/__pycache__/e.py"):
        put(name)
    assert found() == ["a.py"]
    assert found("build") == ["build/c.py"]
    assert found(".venv/lib/b.py") == [".venv/lib/b.py"]


def test_exclude_replaces_the_default_and_extend_exclude_adds_to_it() -> None:
    for name in ("a.py", "build/b.py", "old/c.py", "src/gen/d.py"):
        put(name)
    put("clipcheck.toml", "exclude = ['old']\n")
    assert found() == ["a.py", "build/b.py", "src/gen/d.py"]
    put("clipcheck.toml", "extend-exclude = ['src/gen/*.py', 'old']\n")
    assert found() == ["a.py"]
    assert found("--exclude", "a.py") == ["build/b.py"]


def test_a_named_file_is_checked_unless_force_excluded() -> None:
    put("old/a.py")
    put("clipcheck.toml", "exclude = ['old']\n")
    assert found("old/a.py") == ["old/a.py"]
    assert found("--force-exclude", "old/a.py") == []
    put("clipcheck.toml", "exclude = ['old']\nforce-exclude = true\n")
    assert found("old/a.py") == []
    assert found("--no-force-exclude", "old/a.py") == ["old/a.py"]


def test_gitignore_is_respected_while_walking() -> None:
    subprocess.run(["git", "init", "-q", "."], check=True)
    put(".gitignore", "# generated\n/gen/\n*.tmp.py\n!keep.tmp.py\n")
    put("sub/.gitignore", "local.py\n")
    put(".git/info/exclude", "private.py\n")
    for name in (
        "a.py",
        "gen/b.py",
        "sub/gen/c.py",
        "x.tmp.py",
        "keep.tmp.py",
        "sub/local.py",
        "local.py",
        "private.py",
    ):
        put(name)
    assert found() == ["a.py", "keep.tmp.py", "local.py", "sub/gen/c.py"]
    assert found("sub") == ["sub/gen/c.py"]
    assert found("gen/b.py") == ["gen/b.py"]
    assert "gen/b.py" in found("--no-respect-gitignore")


def test_a_pattern_for_folders_does_not_match_a_file() -> None:
    put(".gitignore", "a.py/\n")
    put("clipcheck.toml", "extend-exclude = ['b.py/']\n")
    for name in ("a.py", "b.py", "sub/a.py/c.py", "sub/b.py/c.py", "d/c.py"):
        put(name)
    assert found() == ["a.py", "b.py", "d/c.py"]


def test_a_gitignore_above_the_repository_does_not_count(project: Path) -> None:
    put("../.gitignore", "*\n")
    put("a.py")
    assert found() == ["a.py"]


def test_show_files_and_show_settings() -> None:
    put("a.py")
    put("sub/b.ipynb", "{}")
    put("notes.txt")
    put("clipcheck.toml", "select = ['CLIP002']\ntarget = 'torch'\n")
    result = runner().invoke(main, ["check", "--show-files"])
    assert (result.exit_code, result.stdout.split()) == (0, ["a.py", "sub/b.ipynb"])
    shown = runner().invoke(main, ["check", "--show-settings"])
    assert shown.exit_code == 0
    assert 'file = "clipcheck.toml"' in shown.stdout
    assert 'select = ["CLIP002"]' in shown.stdout
    assert 'target = "torch"' in shown.stdout


def test_all_settings_are_shown() -> None:
    put("a.py")
    assert settings_of("a.py") == {
        "file": "none",
        "select": sorted(DEFAULT),
        "target": "clipcheck",
        "unsafe-fixes": False,
        "unfixable": [],
        "extend-safe-fixes": [],
        "extend-unsafe-fixes": [],
        "exclude": list(EXCLUDED),
        "force-exclude": False,
        "respect-gitignore": True,
        "output-format": "full",
        "cache-dir": os.path.join(os.getcwd(), ".clipcheck_cache"),
    }
    wanted = {
        "select": ["CLIP002"],
        "target": "torch",
        "unsafe-fixes": True,
        "unfixable": ["CLIP002"],
        "extend-safe-fixes": ["CLIP101"],
        "extend-unsafe-fixes": ["CLIP001"],
        "exclude": ["x.py"],
        "force-exclude": True,
        "respect-gitignore": False,
        "output-format": "concise",
        "cache-dir": os.path.join(os.getcwd(), "kept"),
    }
    put("clipcheck.toml", "".join(f"{key} = {json.dumps(value)}\n" for key, value in wanted.items()))
    assert settings_of("a.py") == {"file": "clipcheck.toml", **wanted}


def settings_of(path: str) -> dict[str, Any]:
    first, *lines = runner().invoke(main, ["check", "--show-settings", path]).stdout.splitlines()
    assert first == f"# settings for {path}"
    return {key: json.loads(value) for key, _, value in (line.partition(" = ") for line in lines)}


def test_environment_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    put("a.py")
    monkeypatch.setenv("CLIPCHECK_OUTPUT_FORMAT", "concise")
    result = runner().invoke(main, ["check", "--no-cache"])
    assert result.stdout.startswith("a.py:2:1: CLIP002")
    put("clipcheck.toml", "output-format = 'pylint'\n")
    assert runner().invoke(main, ["check", "--no-cache"]).stdout.startswith("a.py:2:1: CLIP002")
    monkeypatch.delenv("CLIPCHECK_OUTPUT_FORMAT")
    assert runner().invoke(main, ["check", "--no-cache"]).stdout.startswith("a.py:2: [CLIP002]")


def test_a_named_folder_is_searched_even_if_git_ignores_it() -> None:
    put(".gitignore", "downloads/\n")
    put("downloads/package/train.py", "x = 1\n")
    assert find(["downloads"]).files == [os.path.join("downloads", "package", "train.py")]
    assert "train.py" not in {os.path.basename(path) for path in find(["."]).files}
