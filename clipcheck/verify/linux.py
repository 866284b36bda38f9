"""Permanent restrictions of a process by the Linux kernel: Landlock for files, a seccomp filter for system calls.

Neither needs privileges. What a kernel, a processor or a Python without ctypes does not support is silently left out:
this is one line of defense among several.
"""

from __future__ import annotations

import contextlib
import os
import struct
from collections.abc import Sequence
from typing import Any

PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS = 22, 38
EPERM, ENOSYS = 1, 38

# --- Landlock, https://docs.kernel.org/userspace-api/landlock.html -------------------------------------------------

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_READ_FILE, _READ_DIR = 1 << 2, 1 << 3
# By the version that introduced them: the rights to files (that many low bits), TCP, and signals to other processes.
_FILE_RIGHTS = {1: 13, 2: 14, 3: 15, 5: 16}
_TCP, _TCP_SINCE = 0b11, 4
_SCOPES, _SCOPES_SINCE = 0b11, 6

# --- seccomp, linux/seccomp.h, linux/filter.h -----------------------------------------------------------------------

_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _ERROR = 0x7FFF0000, 0x00050000
_ARCHITECTURE, _ARGUMENTS = 4, 16  # offsets in the data that a filter sees; the number of the call comes first
_FILTER, _ALL_THREADS = 1, 1
_CLONE_THREAD = 0x10000
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_FOREIGN_ABI = 0x40000000  # x32
# From 424 on, all processors use the same numbers. Of these calls close_range, faccessat2, futex_waitv,
# map_shadow_stack, futex_wake, futex_wait, futex_requeue and mseal are allowed; libraries can do without the others.
_NEW, _NEW_ALLOWED = 424, (436, 439, 449, 453, 454, 455, 456, 462)
_COLUMNS = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
# By number on x86_64 and aarch64: calls that start programs, reach other processes, open sockets, or change files, the
# machine, or the limits of this process.
_REFUSED = """
    execve:59:221 execveat:322:281 fork:57: vfork:58: ptrace:101:117 process_vm_readv:310:270
    process_vm_writev:311:271 kill:62:129 tkill:200:130 tgkill:234:131 rt_sigqueueinfo:129:138
    rt_tgsigqueueinfo:297:240 socket:41:198 socketpair:53:199 connect:42:203 bind:49:200 listen:50:201 accept:43:202
    accept4:288:242 creat:85: mkdir:83: mkdirat:258:34 rmdir:84: unlink:87: unlinkat:263:35 rename:82: renameat:264:38
    renameat2:316:276 link:86: linkat:265:37 symlink:88: symlinkat:266:36 mknod:133: mknodat:259:33 truncate:76:45
    ftruncate:77:46 fallocate:285:47 chmod:90: fchmod:91:52 fchmodat:268:53 chown:92: fchown:93:55 lchown:94:
    fchownat:260:54 utime:132: utimes:235: utimensat:280:88 futimesat:261: setxattr:188:5 lsetxattr:189:6
    fsetxattr:190:7 removexattr:197:14 lremovexattr:198:15 fremovexattr:199:16 mount:165:40 umount2:166:39
    pivot_root:155:41 chroot:161:51 unshare:272:97 setns:308:268 bpf:321:280 perf_event_open:298:241 keyctl:250:219
    add_key:248:217 request_key:249:218 init_module:175:105 finit_module:313:273 delete_module:176:106
    kexec_load:246:104 reboot:169:142 swapon:167:224 swapoff:168:225 sethostname:170:161 setdomainname:171:162
    settimeofday:164:170 clock_settime:227:112 adjtimex:159:171 setpriority:141:140 setrlimit:160:164
    prlimit64:302:261 userfaultfd:323:282 open_by_handle_at:304:265 fanotify_init:300:262 shmget:29:194 shmat:30:196
    msgget:68:186 semget:64:190 mq_open:240:180
"""
_CLONE, _OPEN, _OPENAT, _SECCOMP = (56, 220), (2, None), (257, 56), (317, 277)

Instruction = tuple[int, int, int, int]


def restrict_files(readable: Sequence[str]) -> None:
    """Permanently deny this process all files but those below `readable`, TCP, and signals to other processes."""
    libc = _libc()
    if libc is None or libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        return
    version = libc.syscall(_CREATE_RULESET, None, 0, 1)
    if version < 1:
        return
    rights = (1 << max(bits for since, bits in _FILE_RIGHTS.items() if since <= version)) - 1
    attributes = struct.pack("Q", rights)
    if version >= _TCP_SINCE:
        attributes += struct.pack("Q", _TCP)
    if version >= _SCOPES_SINCE:
        attributes += struct.pack("Q", _SCOPES)
    rules = libc.syscall(_CREATE_RULESET, attributes, len(attributes), 0)
    if rules < 0:
        return
    for folder in readable:
        with contextlib.suppress(OSError):
            at = os.open(folder, os.O_PATH | os.O_CLOEXEC)
            libc.syscall(_ADD_RULE, rules, 1, struct.pack("=Qi", _READ_FILE | _READ_DIR, at), 0)
            os.close(at)
    libc.syscall(_RESTRICT_SELF, rules, 0)
    os.close(rules)


def filter_calls() -> None:
    """Permanently deny this process the system calls that it does not need, including those that set limits."""
    import ctypes

    libc, machine = _libc(), os.uname().machine
    if libc is None or machine not in _COLUMNS or struct.calcsize("P") != 8:
        return
    program = _program(*_COLUMNS[machine])
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *instruction) for instruction in program))
    described = struct.pack("HxxxxxxP", len(program), ctypes.addressof(code))
    if libc.syscall(_SECCOMP[_COLUMNS[machine][0]], _FILTER, _ALL_THREADS, described) != 0:
        libc.prctl(PR_SET_SECCOMP, 2, described, 0, 0)


def _libc() -> Any:
    try:
        import ctypes

        return ctypes.CDLL(None, use_errno=True)
    except (ImportError, OSError):
        return None


def _program(column: int, architecture: int) -> list[Instruction]:
    """The filter: an error for every denied call, and for calls of other architectures."""
    refused, unknown, allowed = ((_RETURN, 0, 0, value) for value in (_ERROR | EPERM, _ERROR | ENOSYS, _ALLOW))
    program = [(_LOAD, 0, 0, _ARCHITECTURE), (_EQUAL, 1, 0, architecture), refused, (_LOAD, 0, 0, 0)]
    program += [(_AT_LEAST, 0, 1, _FOREIGN_ABI), refused]
    new = [step for number in _NEW_ALLOWED for step in _where(number, [allowed])]
    program += [(_AT_LEAST, 0, len(new) + 1, _NEW), *new, unknown]
    for entry in _REFUSED.split():
        number = entry.split(":")[1 + column]
        program += _where(int(number), [refused]) if number else []
    program += _where(_CLONE[column], [_argument(0), (_ANY_BIT, 0, 1, _CLONE_THREAD), allowed, refused])
    for numbers, flags in ((_OPEN, 1), (_OPENAT, 2)):
        program += _where(numbers[column], [_argument(flags), (_ANY_BIT, 0, 1, _WRITES), refused, allowed])
    return [*program, allowed]


def _where(number: int | None, steps: list[Instruction]) -> list[Instruction]:
    """Runs these steps, which end in a return, if the call has this number."""
    return [] if number is None else [(_EQUAL, 0, len(steps), number), *steps]


def _argument(index: int) -> Instruction:
    return _LOAD, 0, 0, _ARGUMENTS + 8 * index
