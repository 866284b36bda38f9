"""The second line of defense in any Python: the audit hook that gates what code does, and the limits."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import CodeType, SimpleNamespace
from typing import Any

import pytest

from clipcheck.verify import linux, seal

if sys.platform == "win32":
    pytest.skip("links and limits are POSIX's", allow_module_level=True)


# --- what Python does -----------------------------------------------------------------------------------------------------


def compiles() -> None:
    raise NotImplementedError


def gate(*folders: str, compilers: frozenset[CodeType] = frozenset()) -> Callable[..., None]:
    return seal._gate(folders, compilers)


def is_refused(hook: Callable[..., None], event: str, *args: object) -> bool:
    try:
        hook(event, args)
    except seal.Refused as error:
        return str(error) == f"{event} {args[0] if args else ''}"
    return False


QUIET = ["array.__new__", "builtins.id", "object.__getattr__", "object.__setattr__", "object.__delattr__", "time.sleep"]
LOADING = ["compile", "exec", "import", "marshal.loads", "code.__new__", "function.__new__"]
HARM = ["os.system", "subprocess.Popen", "socket.connect", "os.remove", "os.rename", "shutil.rmtree", "ctypes.dlopen",
        "sys.settrace", "pickle.find_class", "os.putenv", "mmap.__new__", "something.new"]  # fmt: skip


def test_what_changes_nothing_passes_the_gate() -> None:
    assert not any(is_refused(gate(), event) for event in QUIET)
    assert all(is_refused(gate(), event, "x") for event in HARM)
    assert all(is_refused(gate("/lib"), event, "x") for event in HARM)


def test_libraries_may_load_for_fixtures_only() -> None:
    assert all(is_refused(gate(), event, "x") for event in LOADING)
    assert not any(is_refused(gate("/lib"), event, "x") for event in LOADING)


def test_only_the_harness_compiles_and_runs_code() -> None:
    own = sys._getframe().f_code
    hook = gate(compilers=frozenset([own]))
    for event in ("compile", "exec"):
        hook(event, (None,))  # from here
    with pytest.raises(seal.Refused):
        hook("import", ("os",))
    other = gate(compilers=frozenset([compiles.__code__]))
    for event in ("compile", "exec"):
        with pytest.raises(seal.Refused):
            other(event, (None,))


@pytest.mark.parametrize(
    ("event", "args", "refused"),
    [
        ("open", ("{folder}/file", "r", os.O_RDONLY), False),
        ("open", (b"{folder}/file", "r", os.O_RDONLY), False),
        ("open", ("{folder}", "r", os.O_RDONLY), False),
        ("open", ("{folder}/file", "w", os.O_WRONLY), True),
        ("open", ("{folder}/file", "w", os.O_CREAT), True),
        ("open", ("{folder}er/file", "r", os.O_RDONLY), True),  # a folder whose name only begins the same way
        ("open", ("{folder}/../file", "r", os.O_RDONLY), True),
        ("open", ("{folder}/link", "r", os.O_RDONLY), True),  # which leads out of it
        ("open", ("file", "r", os.O_RDONLY), True),
        ("open", (3, "r", os.O_RDONLY), True),
        ("os.listdir", ("{folder}",), False),
        ("os.scandir", ("{folder}/file",), False),
        ("os.listdir", ("/",), True),
        ("os.remove", ("{folder}/file",), True),
    ],
)
def test_only_what_lies_below_the_folders_is_read(event: str, args: Any, refused: bool, tmp_path: Path) -> None:
    folder = Path(os.path.realpath(tmp_path)) / "lib"
    folder.mkdir()
    (folder / "link").symlink_to("/")

    def named(value: object) -> object:
        if isinstance(value, bytes):
            return value.replace(b"{folder}", os.fsencode(folder))
        return value.replace("{folder}", str(folder)) if isinstance(value, str) else value

    assert is_refused(gate("/nowhere", str(folder)), event, *map(named, args)) is refused
    assert is_refused(gate(), event, *map(named, args))


def test_the_gate_is_put_up_for_good(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    hooks: list[Callable[..., None]] = []
    (tmp_path / "lib").mkdir()
    (tmp_path / "other").symlink_to(tmp_path / "lib")
    monkeypatch.setattr(sys, "addaudithook", hooks.append)
    seal.watch([str(tmp_path / "other")], frozenset())
    (hook,) = hooks
    hook("open", (str(tmp_path / "lib" / "x"), "r", os.O_RDONLY))
    with pytest.raises(seal.Refused):
        hook("open", (str(tmp_path / "x"), "r", os.O_RDONLY))


def test_what_is_refused_is_no_exception_that_code_catches() -> None:
    assert issubclass(seal.Refused, BaseException) and not issubclass(seal.Refused, Exception)


# --- limits ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("readable", "files"), [([], 0), (["/lib"], 256)])
@pytest.mark.parametrize("system", ["linux", "darwin"])
def test_a_worker_gives_up_memory_time_files_and_processes(
    readable: list[str], files: int, system: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    log: list[Any] = []
    monkeypatch.setattr(seal, "limit", lambda **limits: log.append(limits))
    monkeypatch.setattr(seal, "_address_space", lambda: 1 << 30)
    monkeypatch.setattr(linux, "restrict_files", lambda readable: log.append(readable))
    monkeypatch.setattr(linux, "filter_calls", lambda: log.append("filter"))
    monkeypatch.setattr(sys, "platform", system)
    seal.confine(readable)
    limits = {
        "RLIMIT_AS": 5 << 30,
        "RLIMIT_DATA": 4 << 30,
        "RLIMIT_CPU": 900,
        "RLIMIT_CORE": 0,
        "RLIMIT_FSIZE": 0,
        "RLIMIT_NOFILE": files,
    }
    assert log == ([readable, limits, "filter"] if system == "linux" else [{**limits, "RLIMIT_NPROC": 0}])


def test_where_memory_is_not_told_it_is_limited_by_its_data_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    log: list[dict[str, int]] = []
    monkeypatch.setattr(seal, "limit", lambda **limits: log.append(limits))
    monkeypatch.setattr(seal, "_address_space", lambda: 0)
    monkeypatch.setattr(sys, "platform", "darwin")
    seal.confine([])
    assert "RLIMIT_AS" not in log[0] and log[0]["RLIMIT_DATA"] == 4 << 30


def test_limits_are_set_where_the_system_has_them(monkeypatch: pytest.MonkeyPatch) -> None:
    log: list[tuple[int, tuple[int, int]]] = []

    def setrlimit(kind: int, limits: tuple[int, int]) -> None:
        log.append((kind, limits))
        if kind == 1:
            raise ValueError("not allowed to exceed maximum limit")

    monkeypatch.setattr(seal, "resource", SimpleNamespace(RLIMIT_A=1, RLIMIT_B=2, setrlimit=setrlimit))
    seal.limit(RLIMIT_A=10, RLIMIT_MISSING=20, RLIMIT_B=30)
    assert log == [(1, (10, 10)), (2, (30, 30))]
    monkeypatch.setattr(seal, "resource", None)  # Windows
    seal.limit(RLIMIT_A=10)
    assert len(log) == 2


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_memory_in_use_is_told_in_bytes() -> None:
    status = Path("/proc/self/status").read_text(encoding="ascii")
    kibibytes = int(next(line for line in status.splitlines() if line.startswith("VmSize")).split()[1])
    assert seal._address_space() == pytest.approx(kibibytes * 1024, rel=0.2)


def test_a_system_that_does_not_tell_has_none_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(path: str) -> None:
        raise FileNotFoundError(path)

    monkeypatch.setattr(seal, "open", missing, raising=False)
    assert seal._address_space() == 0
