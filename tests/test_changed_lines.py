"""What git says has changed, whatever the user's own git settings are and however files and revisions are named."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from clipcheck.cli.changed_lines import changes
from clipcheck.settings.keys import ConfigError

# Each alone changes what `git diff` prints.
SETTINGS = {
    "color.ui": "always",
    "color.diff": "always",
    "diff.external": "true",
    "diff.renames": "copies",
    "diff.noprefix": "true",
    "diff.context": "9",
    "diff.interHunkContext": "9",
    "core.quotePath": "true",
    "status.relativePaths": "true",
}


@pytest.fixture(autouse=True)
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for variable in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_EXTERNAL_DIFF"):
        monkeypatch.delenv(variable, raising=False)
    root = tmp_path / "project"
    root.mkdir()
    monkeypatch.chdir(root)
    git("init", "-q", ".")
    return root


def git(*words: str) -> None:
    identity = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    subprocess.run(["git", *identity, *words], check=True, capture_output=True)


def put(name: str, *lines: str) -> None:
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", newline="\n")


def commit(**files: str) -> None:
    """Files of one letter per line, in a commit."""
    for name, letters in files.items():
        put(f"{name}.py", *letters)
    git("add", ".")
    git("commit", "-q", "-m", "x")


def changed(revision: str = "HEAD", *paths: str) -> dict[str, tuple[tuple[int, int], ...] | None]:
    """The changed files, relative to the current folder."""
    found = changes(revision, paths or (".",)).lines
    return {os.path.relpath(path, os.path.realpath(".")).replace(os.sep, "/"): lines for path, lines in found.items()}


def test_lines_that_differ_from_a_revision() -> None:
    commit(same="abc", old="abcdef", gone="abc")
    put("old.py", *"abXdYZ")
    put("new.py", "a")
    os.remove("gone.py")
    assert changed() == {"old.py": ((3, 3), (5, 6)), "new.py": None}
    git("add", ".")
    assert changed() == {"old.py": ((3, 3), (5, 6)), "new.py": ((1, 1),)}
    git("commit", "-q", "-m", "y")
    assert changed() == {}
    assert changed("HEAD~1") == {"old.py": ((3, 3), (5, 6)), "new.py": ((1, 1),)}


@pytest.mark.parametrize("key", SETTINGS)
def test_the_users_git_settings_do_not_matter(key: str) -> None:
    commit(old="abcdef", moved="ghijkl")
    put("old.py", *"aXcdYf")
    os.rename("moved.py", "ö.py")
    git("add", ".")
    git("config", key, SETTINGS[key])
    assert changed() == {"old.py": ((2, 2), (5, 5)), "ö.py": ((1, 6),)}


@pytest.mark.parametrize("attribute", ["binary", "diff=upper"])
def test_the_lines_are_those_of_the_file_whatever_git_shows_of_it(attribute: str) -> None:
    commit(old="abcd")
    put(".gitattributes", f"*.py {attribute}")
    git("add", ".")
    git("commit", "-q", "-m", "y")
    git("config", "diff.upper.textconv", "echo")
    put("old.py", *"aXcd")
    assert changed() == {"old.py": ((2, 2),)}


def test_a_file_that_was_copied_and_changed_is_new_in_all_lines() -> None:
    commit(old="abcdefghij")
    put("copy.py", *"abcdefghiX")
    os.remove("old.py")
    git("add", ".")
    assert changed() == {"copy.py": ((1, 10),)}


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such file names")
@pytest.mark.parametrize("name", ["a b/ö.py", 'quoted".py', "two\nlines.py", "-U9.py", "HEAD", "[xyz].py", ":!x.py"])
def test_a_file_of_any_name(name: str) -> None:
    commit(x="a")
    put(name, "a")
    assert changed() == {name: None}
    git("add", ".")
    git("commit", "-q", "-m", "y")
    put(name, "b")
    put("x.py", "a", "b")
    assert changed() == {name: ((1, 1),), "x.py": ((2, 2),)}


def test_files_that_git_ignores_are_not_new() -> None:
    commit(a="a")
    put(".gitignore", "out", ".gitignore")
    put("out/b.py", "b")
    put("c.py", "c")
    assert changed() == {"c.py": None}


def test_the_repository_is_that_of_the_first_path_that_exists(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit(a="ab", **{"sub/b": "ab"})
    put("a.py", *"aX")
    put("sub/b.py", *"Xb")
    both = {"project/a.py": ((2, 2),), "project/sub/b.py": ((1, 1),)}
    monkeypatch.chdir(repository.parent)
    for paths in (("project",), ("project/sub",), ("project/sub/b.py",), ("missing", "project/a.py")):
        assert changed("HEAD", *paths) == both


@pytest.mark.parametrize("revision", ["nope", "", "--output=a.py", "--all", "HEAD:a.py", "a.py"])
def test_what_is_no_commit_is_refused_in_one_line(revision: str) -> None:
    commit(a="ab")
    with pytest.raises(ConfigError) as caught:
        changes(revision, (".",))
    assert str(caught.value) == f"--since: git knows no revision `{revision}`"
    assert Path("a.py").read_text(encoding="utf-8") == "a\nb\n"


def test_outside_of_a_repository_git_says_why(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(repository.parent))
    outside = repository.parent / "outside"
    outside.mkdir()
    monkeypatch.setenv("LC_ALL", "C")
    with pytest.raises(ConfigError, match=r"^--since: not a git repository"):
        changes("HEAD", (str(outside),))
