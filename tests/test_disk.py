"""Files are replaced completely or not at all, keep their owner, and only regular ones are read."""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path

import pytest

from clipcheck import disk

POSIX = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such files or modes")
ROOT = pytest.mark.skipif(getattr(os, "geteuid", lambda: 1)() != 0, reason="only root may give files away")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# --- what is not written ----------------------------------------------------------------------------------------------


def test_a_file_changed_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "x.py"
    path.write_text("newer work of the user")
    with pytest.raises(disk.Changed):
        disk.write(str(path), b"fixed", b"what was read")
    assert path.read_text() == "newer work of the user"
    assert names(tmp_path) == ["x.py"]


@POSIX
def test_a_read_only_file_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "x.py"
    path.write_text("old")
    path.chmod(0o444)
    with pytest.raises(OSError, match="read-only"):
        disk.write(str(path), b"new", b"old")
    assert path.read_text() == "old"


@pytest.mark.parametrize("fails", ["fsync", "replace"])
def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    path = tmp_path / "x.py"
    path.write_text("old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, fails, full)
    with pytest.raises(OSError, match="No space left"):
        disk.write(str(path), b"new", b"old")
    assert path.read_text() == "old"
    assert names(tmp_path) == ["x.py"]


def test_a_file_whose_owner_could_not_be_kept_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.py"
    path.write_text("old")
    real = os.stat

    def of_another(name: str, **options: object) -> os.stat_result:
        status = list(real(name, **options))  # type: ignore[call-overload]
        if os.path.basename(name) == "x.py":
            status[4] += 1
        return os.stat_result(status)

    def not_allowed(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "stat", of_another)
    monkeypatch.setattr(os, "chown", not_allowed, raising=False)
    with pytest.raises(OSError, match="owner"):
        disk.write(str(path), b"new", b"old")
    monkeypatch.undo()
    assert path.read_text() == "old"
    assert names(tmp_path) == ["x.py"]


@POSIX
@pytest.mark.parametrize("path", ["pipe", ".", "/dev/zero"])
def test_only_regular_files_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe")
    with pytest.raises(OSError, match=r"not a regular file|Is a directory"):
        disk.read(path)


# --- what is written --------------------------------------------------------------------------------------------------


@POSIX
def test_writing_keeps_mode_and_links(tmp_path: Path) -> None:
    real = tmp_path / "real.py"
    real.write_text("old")
    real.chmod(0o755)
    link = tmp_path / "link.py"
    link.symlink_to(real)
    disk.write(str(link), b"new", b"old")
    assert link.is_symlink()
    assert real.read_bytes() == b"new"
    assert stat.S_IMODE(real.stat().st_mode) == 0o755
    assert names(tmp_path) == ["link.py", "real.py"]


@POSIX
@ROOT
def test_the_owner_stays(tmp_path: Path) -> None:
    path = tmp_path / "x.py"
    path.write_text("old")
    os.chown(path, 12345, 23456)
    path.chmod(0o4750)
    disk.write(str(path), b"new", b"old")
    status = path.stat()
    assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (12345, 23456, 0o4750)
    assert path.read_bytes() == b"new"


def test_other_hard_links_keep_the_old_content(tmp_path: Path) -> None:
    """Writing through all of them would truncate them first, and a full disk or a kill would leave them empty."""
    one, two = tmp_path / "one.py", tmp_path / "two.py"
    one.write_text("old")
    os.link(one, two)
    assert disk.hard_links(str(one)) == 2
    disk.write(str(one), b"new", b"old")
    assert (one.read_bytes(), two.read_bytes()) == (b"new", b"old")


@pytest.mark.parametrize("size", [0, 1, 70_000])
def test_reading_returns_the_whole_file(tmp_path: Path, size: int) -> None:
    path = tmp_path / "x.py"
    path.write_bytes(b"x" * size)
    assert disk.read(str(path)) == b"x" * size


@pytest.mark.skipif(sys.platform != "linux", reason="Linux has files that say that they are empty")
def test_reading_does_not_trust_the_size() -> None:
    assert disk.read("/proc/self/status").startswith(b"Name:")


# --- what a killed run leaves ----------------------------------------------------------------------------------


@POSIX
def test_only_leftovers_of_killed_runs_are_removed(tmp_path: Path) -> None:
    dead = 2**22 + 1  # above the largest process number
    mine = f".clipcheck-{os.getpid()}-0123456789ab"
    for name in (
        f".clipcheck-{dead}-0123456789ab",
        mine,
        ".clipcheck-notes.py",
        ".clipcheck.toml",
        f".clipcheck-{dead}",
    ):
        (tmp_path / name).write_text("")
    (tmp_path / f".clipcheck-{dead}-folder").mkdir()
    for name in names(tmp_path):
        disk.sweep(str(tmp_path), name)
    assert names(tmp_path) == sorted(
        [mine, ".clipcheck-notes.py", ".clipcheck.toml", f".clipcheck-{dead}", f".clipcheck-{dead}-folder"]
    )
