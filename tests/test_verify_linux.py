"""What Linux takes from a worker: the filter's verdict on each system call, and the files that stay readable."""

from __future__ import annotations

import os
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from clipcheck.verify import linux

if sys.platform == "win32":
    pytest.skip("none of it is there on Windows", allow_module_level=True)

ALLOWED, DENIED, UNKNOWN = 0x7FFF0000, 0x00050001, 0x00050026  # SECCOMP_RET_ALLOW; _ERRNO with EPERM, with ENOSYS
MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}  # AUDIT_ARCH_ of linux/audit.h


def judged(program: list[linux.Instruction], number: int, architecture: int, *arguments: int) -> int:
    """What the kernel's interpreter makes of a call: classic BPF over `struct seccomp_data`."""
    data = struct.pack("<IIQ6Q", number, architecture, 0, *arguments, *[0] * (6 - len(arguments)))
    at = accumulator = 0
    while True:
        code, if_true, if_false, value = program[at]
        at += 1
        match code:
            case 0x20:  # BPF_LD | BPF_W | BPF_ABS
                (accumulator,) = struct.unpack_from("<I", data, value)
            case 0x06:  # BPF_RET
                return value
            case 0x15 | 0x35 | 0x45:  # BPF_JMP with BPF_JEQ, BPF_JGE, BPF_JSET
                holds = {0x15: accumulator == value, 0x35: accumulator >= value, 0x45: bool(accumulator & value)}[code]
                at += if_true if holds else if_false
            case _:
                raise AssertionError(f"instruction {code:#x}")


# From the kernel's tables, arch/x86/entry/syscalls/syscall_64.tbl and include/uapi/asm-generic/unistd.h.
REFUSED = {
    "execve": (59, 221), "fork": (57, None), "ptrace": (101, 117), "kill": (62, 129), "socket": (41, 198),
    "connect": (42, 203), "creat": (85, None), "unlinkat": (263, 35), "rename": (82, None), "truncate": (76, 45),
    "mkdirat": (258, 34), "symlinkat": (266, 36), "chmod": (90, None), "setrlimit": (160, 164), "prlimit64": (302, 261),
    "mount": (165, 40), "bpf": (321, 280), "reboot": (169, 142), "mq_open": (240, 180), "execveat": (322, 281),
}  # fmt: skip
NEEDED = {
    "read": (0, 63), "write": (1, 64), "close": (3, 57), "mmap": (9, 222), "munmap": (11, 215), "brk": (12, 214),
    "futex": (202, 98), "exit_group": (231, 94), "clock_gettime": (228, 113), "madvise": (28, 233), "lseek": (8, 62),
    "sched_yield": (24, 124), "getrandom": (318, 278),
}  # fmt: skip
CLONE, OPENAT = (56, 220), (257, 56)
# The same everywhere: what threads and libraries wait with, and what is refused by its being new.
NEW = {"close_range": 436, "faccessat2": 439, "futex_waitv": 449, "map_shadow_stack": 453, "futex_wake": 454,
       "futex_wait": 455, "futex_requeue": 456, "mseal": 462}  # fmt: skip
NEW_UNKNOWN = {"pidfd_send_signal": 424, "io_uring_setup": 425, "clone3": 435, "openat2": 437, "pidfd_getfd": 438,
               "landlock_create_ruleset": 444, "set_mempolicy_home_node": 450, "cachestat": 451, "later": 463}  # fmt: skip


@pytest.fixture(params=MACHINES)
def judge(request: pytest.FixtureRequest) -> Callable[..., int]:
    """The verdict on a call by its numbers on both machines, and its arguments."""
    column, architecture = MACHINES[request.param]
    program = linux._program(column, architecture)
    assert all(0 <= jump < 256 for _, *jumps, _ in program for jump in jumps)

    def verdict(numbers: tuple[int | None, int | None], *arguments: int, of: int = architecture) -> int | None:
        number = numbers[column]
        return None if number is None else judged(program, number, of, *arguments)

    return verdict


def test_what_reaches_out_of_the_process_is_refused(judge: Callable[..., int | None]) -> None:
    assert {name: judge(numbers) for name, numbers in REFUSED.items()} == {
        name: None if judge(numbers) is None else DENIED for name, numbers in REFUSED.items()
    }
    assert sum(judge(numbers) == DENIED for numbers in REFUSED.values()) >= len(REFUSED) - 4


def test_what_computes_is_allowed(judge: Callable[..., int]) -> None:
    assert {name: judge(numbers) for name, numbers in NEEDED.items()} == dict.fromkeys(NEEDED, ALLOWED)


def test_threads_may_start_and_processes_may_not(judge: Callable[..., int]) -> None:
    assert judge(CLONE, 0x3D0F00) == ALLOWED  # what the C library asks for a thread
    assert judge(CLONE, 0x01200011) == DENIED  # and for a fork
    assert judge(CLONE, 0x10000 << 1) == DENIED
    assert judge(CLONE, 0, 0x10000) == DENIED  # the flags are the first argument


@pytest.mark.parametrize("flags", [os.O_WRONLY, os.O_RDWR, os.O_CREAT, os.O_TRUNC, os.O_APPEND])
def test_files_are_opened_for_reading_only(judge: Callable[..., int], flags: int) -> None:
    assert judge(OPENAT, 0, 0, flags) == DENIED
    assert judge(OPENAT, 0, 0, os.O_RDONLY | os.O_CLOEXEC) == ALLOWED
    assert judge(OPENAT, flags, flags, 0) == ALLOWED  # no flags, whatever the folder and the name


@pytest.mark.parametrize("flags", [os.O_WRONLY, os.O_RDWR, os.O_CREAT, os.O_TRUNC, os.O_APPEND])
def test_the_older_call_has_its_flags_elsewhere(flags: int) -> None:
    program = linux._program(*MACHINES["x86_64"])
    assert judged(program, 2, MACHINES["x86_64"][1], 0, flags) == DENIED
    assert judged(program, 2, MACHINES["x86_64"][1], 0, 0) == ALLOWED
    assert judged(program, 2, MACHINES["x86_64"][1], flags, 0, flags) == ALLOWED
    assert judged(linux._program(*MACHINES["aarch64"]), 2, MACHINES["aarch64"][1], 0, flags) == ALLOWED  # another call


def test_of_new_calls_only_some_exist(judge: Callable[..., int]) -> None:
    assert {name: judge((number, number)) for name, number in NEW.items()} == dict.fromkeys(NEW, ALLOWED)
    assert {name: judge((n, n)) for name, n in NEW_UNKNOWN.items()} == dict.fromkeys(NEW_UNKNOWN, UNKNOWN)
    assert judge((423, 423)) == ALLOWED


def test_calls_of_another_architecture_are_refused(judge: Callable[..., int]) -> None:
    assert judge(NEEDED["read"], of=0x40000003) == DENIED  # 32-bit x86
    assert judge((0x40000000, 0x40000000)) == DENIED  # x32's read
    assert judge((0x3FFFFFFF, 0x3FFFFFFF)) == UNKNOWN


class Libc:
    """A C library that notes what is asked of it, and answers as a kernel with some version of Landlock."""

    def __init__(self, version: int = 6, seccomp: int = 0, privileges: int = 0) -> None:
        self.version, self.privileges = version, privileges
        self.seccomp = seccomp
        self.asked: list[tuple[Any, ...]] = []

    def prctl(self, *given: Any) -> int:
        self.asked.append(("prctl", *given))
        return self.privileges if given[0] == 38 else 0

    def syscall(self, number: int, *given: Any) -> int:
        self.asked.append((number, *given))
        match number, given:
            case 444, (None, 0, 1):
                return self.version
            case 444, _:
                return os.open(os.devnull, os.O_RDONLY) if self.version > 0 else -1
            case ((317 | 277), _):
                return self.seccomp
        return 0


def with_libc(monkeypatch: pytest.MonkeyPatch, libc: Libc | None) -> None:
    monkeypatch.setattr(linux, "_libc", lambda: libc)


linux_only = pytest.mark.skipif(sys.platform != "linux", reason="opens folders as Linux does")


@linux_only
@pytest.mark.parametrize(
    ("version", "sizes"),
    [
        # rights over files by linux/landlock.h: those up to MAKE_SYM, then REFER, TRUNCATE, IOCTL_DEV
        (1, [(1 << 13) - 1]),
        (2, [(1 << 14) - 1]),
        (3, [(1 << 15) - 1]),
        (4, [(1 << 15) - 1, 0b11]),  # binding and connecting
        (5, [(1 << 16) - 1, 0b11]),
        (6, [(1 << 16) - 1, 0b11, 0b11]),  # abstract sockets and signals
        (9, [(1 << 16) - 1, 0b11, 0b11]),
    ],
)
def test_all_that_a_version_of_landlock_can_take_is_taken(
    version: int, sizes: list[int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    libc = Libc(version)
    with_libc(monkeypatch, libc)
    opened = set(os.listdir("/proc/self/fd"))
    linux.restrict_files([str(tmp_path), str(tmp_path / "missing")])
    privileges, asked, made, rule, restrict = libc.asked
    assert privileges == ("prctl", 38, 1, 0, 0, 0)
    assert asked == (444, None, 0, 1)
    attributes = struct.pack(f"{len(sizes)}Q", *sizes)
    assert made == (444, attributes, len(attributes), 0)
    assert (rule[0], rule[2], rule[4]) == (445, 1, 0)  # of the one folder that is there
    assert struct.unpack("=Qi", rule[3])[0] == 0b1100  # files and folders are read
    assert restrict == (446, rule[1], 0)
    assert set(os.listdir("/proc/self/fd")) == opened


@linux_only
def test_without_folders_no_file_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    libc = Libc()
    with_libc(monkeypatch, libc)
    linux.restrict_files([])
    assert [asked[0] for asked in libc.asked] == ["prctl", 444, 444, 446]


@pytest.mark.parametrize(
    ("libc", "asked"),
    [
        (Libc(version=0), ["prctl", 444]),  # a kernel before 5.13
        (Libc(version=-1), ["prctl", 444]),
        (Libc(privileges=-1), ["prctl"]),
        (None, []),
    ],
)
def test_what_a_kernel_has_not_is_left_out(
    libc: Libc | None, asked: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    with_libc(monkeypatch, libc)
    linux.restrict_files(["/"])
    assert ([] if libc is None else [one[0] for one in libc.asked]) == asked


def test_rules_that_cannot_be_made_are_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    libc = Libc(version=3)
    real = libc.syscall
    monkeypatch.setattr(libc, "syscall", lambda number, *given: -1 if given[0] is not None else real(number, *given))
    with_libc(monkeypatch, libc)
    linux.restrict_files(["/"])
    assert len(libc.asked) == 2


@pytest.mark.parametrize(("machine", "number"), [("x86_64", 317), ("aarch64", 277)])
def test_the_filter_is_for_all_threads(machine: str, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    import ctypes

    for refuses in (False, True):
        libc = Libc(seccomp=-1 if refuses else 0)
        with_libc(monkeypatch, libc)
        monkeypatch.setattr(linux.os, "uname", lambda: SimpleNamespace(machine=machine))
        given: list[bytes] = []
        real = ctypes.create_string_buffer
        monkeypatch.setattr(
            ctypes, "create_string_buffer", lambda code, real=real, given=given: given.append(code) or real(code)
        )
        linux.filter_calls()
        monkeypatch.undo()
        program = linux._program(*MACHINES[machine])
        assert given == [b"".join(struct.pack("HBBI", *step) for step in program)]
        call, *more = libc.asked
        assert call[:3] == (number, 1, 1)  # SECCOMP_SET_MODE_FILTER with SECCOMP_FILTER_FLAG_TSYNC
        assert len(call[3]) == 16 and struct.unpack_from("H", call[3]) == (len(program),)
        # a kernel that does not know the call may know it under its older name
        assert more == ([("prctl", 22, 2, call[3], 0, 0)] if refuses else [])


def test_an_unknown_machine_has_no_filter(monkeypatch: pytest.MonkeyPatch) -> None:
    libc = Libc()
    with_libc(monkeypatch, libc)
    monkeypatch.setattr(linux.os, "uname", lambda: SimpleNamespace(machine="riscv64"))
    linux.filter_calls()
    assert libc.asked == []
    monkeypatch.setattr(linux.os, "uname", lambda: SimpleNamespace(machine="x86_64"))
    monkeypatch.setattr(linux.struct, "calcsize", lambda kind: 4)  # a 32-bit Python
    linux.filter_calls()
    with_libc(monkeypatch, None)
    linux.filter_calls()
    assert libc.asked == []


def test_a_python_without_ctypes_has_no_filter(monkeypatch: pytest.MonkeyPatch) -> None:
    assert linux._libc() is not None
    monkeypatch.setitem(sys.modules, "ctypes", None)
    assert linux._libc() is None
