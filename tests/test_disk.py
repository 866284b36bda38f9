"""Files are replaced completely or not at all, keep their owner, and only regular ones are read."""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path
from types import SimpleNamespace

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


@POSIX
@pytest.mark.parametrize(
    ("mode", "may_write", "replaced"),
    [
        (0o644, True, True),
        (0o464, True, True),
        (0o446, True, True),
        (0o222, True, True),
        (0o555, True, False),  # root may write to it all the same
        (0o644, False, False),
    ],
)
def test_a_file_is_replaced_if_somebody_may_write_to_it_and_we_do(
    mode: int, may_write: bool, replaced: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.py"
    path.write_text("old")
    path.chmod(mode)
    monkeypatch.setattr(os, "access", lambda name, how: may_write and (name, how) == (str(path), os.W_OK))
    monkeypatch.setattr(disk, "read", lambda name: b"old")
    if replaced:
        disk.write(str(path), b"new", b"old")
    else:
        with pytest.raises(OSError, match="read-only") as caught:
            disk.write(str(path), b"new", b"old")
        assert (caught.value.errno, caught.value.filename) == (0, str(path))  # no error of the system's
    path.chmod(0o644)
    assert path.read_text() == ("new" if replaced else "old")


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


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has them in Python")
def test_extended_attributes_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.py"
    path.write_text("old")
    given: list[tuple[str, bytes]] = []

    def take(name: str, key: str, value: bytes) -> None:
        if key == "security.own":
            raise PermissionError(1, "Operation not permitted")
        given.append((key, value))

    monkeypatch.setattr(os, "listxattr", lambda name: ["security.own", "user.note"])
    monkeypatch.setattr(os, "getxattr", lambda name, key: f"{os.path.basename(name)}:{key}".encode())
    monkeypatch.setattr(os, "setxattr", take)
    disk.write(str(path), b"new", b"old")
    assert given == [("user.note", b"x.py:user.note")]
    assert path.read_text() == "new"


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


@pytest.mark.parametrize("said", [0, 1, 5, 99])
def test_reading_a_file_that_grows_or_shrinks(said: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.py"
    path.write_bytes(b"x" * 70)
    status = SimpleNamespace(st_size=said, st_mode=path.stat().st_mode)
    monkeypatch.setattr(disk, "os", SimpleNamespace(**{**vars(os), "fstat": lambda handle: status}))
    assert disk.read(str(path)) == b"x" * 70


def test_reading_leaves_no_file_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[int] = []

    def close(handle: int) -> None:
        os.close(handle)
        closed.append(handle)

    monkeypatch.setattr(disk, "os", SimpleNamespace(**{**vars(os), "close": close}))
    path = tmp_path / "x.py"
    path.write_bytes(b"x")
    disk.read(str(path))
    if sys.platform != "win32":
        with pytest.raises(OSError, match="not a regular file") as caught:
            disk.read(str(tmp_path))
        assert (caught.value.errno, caught.value.filename) == (0, str(tmp_path))
    assert len(closed) == (1 if sys.platform == "win32" else 2)


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


@pytest.mark.parametrize(
    ("error", "in_use"), [(None, True), (ProcessLookupError(), False), (PermissionError(), True), (OSError(), True)]
)
def test_a_file_is_in_use_while_its_process_may_run(
    error: OSError | None, in_use: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, int]] = []

    def kill(process: int, signal: int) -> None:
        asked.append((process, signal))
        if error is not None:
            raise error

    monkeypatch.setattr(disk, "sys", SimpleNamespace(platform="linux"))
    monkeypatch.setattr(os, "kill", kill)
    assert disk._in_use(77, 0.0) is in_use
    assert asked == [(77, 0)]  # which only asks whether it is there


@pytest.mark.parametrize(("age", "in_use"), [(0, True), (3599, True), (3600, False), (9999, False)])
def test_on_windows_a_file_is_in_use_for_an_hour(age: int, in_use: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk, "sys", SimpleNamespace(platform="win32"))
    monkeypatch.setattr(disk.time, "time", lambda: 50_000.0)
    assert disk._in_use(77, 50_000.0 - age) is in_use


def test_links_to_a_file_that_is_gone(tmp_path: Path) -> None:
    assert disk.hard_links(str(tmp_path / "gone")) == 1


# --- paths ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "folder", "relative"),
    [
        ("/a/b/c", "/a", "b/c"),
        ("/a", "/a", "."),
        ("/a/../a/b", "/a", "b"),
        ("/a/..b/c", "/a", "..b/c"),
        ("/b", "/a", None),
        ("/", "/a", None),
        ("/ab", "/a", None),
    ],
)
def test_a_path_below_a_folder(path: str, folder: str, relative: str | None) -> None:
    native = [name.replace("/", os.sep) if name else name for name in (path, folder, relative)]
    assert disk.below(str(native[0]), str(native[1])) == native[2]


def test_a_path_is_below_the_current_folder_or_on_another_drive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert disk.below(str(tmp_path / "a.py")) == "a.py"
    assert disk.below(str(tmp_path)) == "."

    def other_drive(path: str, folder: str) -> str:
        raise ValueError("path is on mount 'D:', start on mount 'C:'")

    monkeypatch.setattr(os.path, "relpath", other_drive)
    assert disk.below("D:/x.toml") is None
