"""What git ignores below a folder: its files, the nearest of which wins, and those of the repository and of the user."""

from __future__ import annotations

from pathlib import Path

import pytest

from clipcheck.settings.ignores import Ignores


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with the folder `pkg`, in which there is `sub`; the user has no ignore file."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    folder = tmp_path / "root"
    (folder / ".git" / "info").mkdir(parents=True)
    (folder / "pkg" / "sub").mkdir(parents=True)
    return folder


def ignored(top: Path, *names: str, folders: tuple[str, ...] = ()) -> list[str]:
    """Those of the names that are ignored when `top` is walked."""
    ignores = Ignores(str(top))
    return [name for name in names if ignores.match(str(top / name), name in folders)]


def test_files_above_the_named_folder_count(root: Path) -> None:
    (root / ".gitignore").write_text("*.gen.py\n/top.py\n")
    assert ignored(root / "pkg", "x.gen.py", "x.py", "top.py", "sub/y.gen.py") == ["x.gen.py", "sub/y.gen.py"]
    assert ignored(root, "top.py", "pkg/top.py") == ["top.py"]


def test_a_named_folder_is_walked_though_it_is_ignored(root: Path) -> None:
    (root / ".gitignore").write_text("pkg/\n")
    (root / "pkg" / ".gitignore").write_text("x.py\n")
    assert ignored(root / "pkg", "x.py", "y.py") == ["x.py"]
    assert ignored(root, "pkg", folders=("pkg",)) == ["pkg"]


def test_the_nearest_file_wins(root: Path) -> None:
    (root / ".gitignore").write_text("*.log.py\nkept.py\n")
    (root / "pkg" / ".gitignore").write_text("!kept.py\n")
    assert ignored(root, "kept.py", "pkg/kept.py", "pkg/a.log.py", "pkg/sub/kept.py") == ["kept.py", "pkg/a.log.py"]


def test_blank_lines_and_comments_are_no_patterns(root: Path) -> None:
    (root / ".gitignore").write_text("\n   \n# x.py\n\\#y.py\n")
    assert ignored(root, "x.py", "#y.py", "# x.py", "") == ["#y.py"]
    (root / ".gitignore").write_text("# nothing\n\n")
    assert ignored(root, "x.py") == []


def test_folders_and_files_are_told_apart(root: Path) -> None:
    (root / ".gitignore").write_text("build/\n")
    assert ignored(root, "build", "pkg", folders=("build", "pkg")) == ["build"]
    assert ignored(root, "build") == []


def test_the_repositorys_own_and_the_users_file(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / ".git" / "info" / "exclude").write_text("a.py\n")
    (tmp_path / "config" / "git").mkdir(parents=True)
    (tmp_path / "config" / "git" / "ignore").write_text("b.py\n")
    assert ignored(root / "pkg", "a.py", "b.py", "c.py") == ["a.py", "b.py"]
    (root / "pkg" / ".gitignore").write_text("!a.py\n")
    assert ignored(root / "pkg", "a.py", "b.py") == ["b.py"]
    monkeypatch.delenv("XDG_CONFIG_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("USERPROFILE", str(tmp_path / "home"))
    (tmp_path / "home" / ".config" / "git").mkdir(parents=True)
    (tmp_path / "home" / ".config" / "git" / "ignore").write_text("c.py\n")
    assert ignored(root, "b.py", "c.py") == ["c.py"]


def test_a_repository_inside_of_another_one_is_its_own(root: Path) -> None:
    (root / ".gitignore").write_text("x.py\n")
    (root / "pkg" / ".git").mkdir()
    assert ignored(root, "x.py", "pkg/x.py") == ["x.py"]


def test_outside_of_a_repository_files_count_from_the_named_folder_on(tmp_path: Path) -> None:
    folder = tmp_path / "plain" / "top"
    (folder / "sub").mkdir(parents=True)
    (folder.parent / ".gitignore").write_text("a.py\n")
    (folder / ".gitignore").write_text("b.py\n")
    (folder / "sub" / ".gitignore").write_text("c.py\n")
    assert ignored(folder, "a.py", "b.py", "sub/b.py", "sub/c.py", "c.py") == ["b.py", "sub/b.py", "sub/c.py"]


def test_names_may_be_relative(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / ".gitignore").write_text("x.py\n/pkg/y.py\n")
    monkeypatch.chdir(root / "pkg")
    ignores = Ignores(".")
    assert [name for name in ("x.py", "./x.py", "y.py", "sub/x.py", "sub/y.py") if ignores.match(name, False)] == [
        "x.py",
        "./x.py",
        "y.py",
        "sub/x.py",
    ]
