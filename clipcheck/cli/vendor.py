"""The runtime as one package of the user's own: written, renewed, and compared with what this version would write.

Each file says in its first lines which version it is of and the digest of the rest, so that a file
that was edited by hand can be told from one that is merely older.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution
from keyword import iskeyword
from pathlib import Path

from clipcheck import __version__, disk
from clipcheck.settings.keys import ConfigError

LICENSE = "LICENSE"
_HEADER = re.compile(
    rb"# Copied from clipcheck (?P<version>\S+) by `clipcheck vendor`[^\n]*\n# [^\n]*\n# sha256 of the rest: (?P<digest>\w+)\n"
)
_ABSOLUTE = re.compile(rb"^(?P<start>[ \t]*from )clipcheck\.runtime(?P<rest>\.[\w.]+)?(?= import )", re.MULTILINE)

# How a file of the package compares with what this version writes.
CURRENT, MISSING, OUTDATED, EDITED, GONE = "current", "missing", "outdated", "edited by hand", "no longer part of it"


def vendor(folder: str, force: bool) -> str:
    """Write the runtime to a folder, or renew what is there; returns what to tell the user.

    Raises ConfigError, with nothing written, where a file was edited by hand and `force` is not set.
    """
    _check_name(folder)
    states = compared(folder)
    edited = [name for name, state in states.items() if state == EDITED]
    if edited and not force:
        raise ConfigError(f"{os.path.join(folder, edited[0])} was edited by hand; use --force to overwrite it")
    os.makedirs(folder, exist_ok=True)
    wanted = files()
    for name, state in states.items():
        path = os.path.join(folder, name)
        if state == GONE:
            os.unlink(path)
        elif state == MISSING:
            with open(path, "xb") as file:
                file.write(wanted[name])
        elif state != CURRENT:
            disk.write(path, wanted[name], disk.read(path))
    changed = sum(state != CURRENT for state in states.values())
    done = f"{folder} holds the runtime of clipcheck {__version__} ({changed} of {len(states)} files written)"
    return f"{done}.\nFix code with it: clipcheck --fix --target {module_name(folder)}\n"


def differences(folder: str) -> str:
    """Which files are not what this version writes, one per line; "" if all are."""
    if not os.path.isdir(folder):
        raise ConfigError(f"{folder}: no such folder")
    states = compared(folder)
    return "".join(f"{os.path.join(folder, name)}: {state}\n" for name, state in states.items() if state != CURRENT)


def compared(folder: str) -> dict[str, str]:
    """The state of each file of the package. Files that are not clipcheck's are not part of it."""
    wanted = files()
    states = {name: _state(os.path.join(folder, name), data) for name, data in wanted.items()}
    there = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
    for name in there:
        if name.endswith(".py") and name not in wanted:
            found = _HEADER.match(disk.read(os.path.join(folder, name)))
            if found:
                states[name] = _state(os.path.join(folder, name), b"").replace(OUTDATED, GONE)
    return states


def _state(path: str, wanted: bytes) -> str:
    if not os.path.lexists(path):
        return MISSING
    data = disk.read(path).replace(b"\r\n", b"\n")  # as git may check it out
    if data == wanted:
        return CURRENT
    found = _HEADER.match(data)
    untouched = found is not None and found["digest"].decode() == _digest(data[found.end() :])
    return OUTDATED if untouched else EDITED


def files() -> dict[str, bytes]:
    """The package as this version writes it: the runtime with relative imports, and the license."""
    runtime = Path(__file__).resolve().parents[1] / "runtime"
    sources = {path.name: path.read_bytes().replace(b"\r\n", b"\n") for path in sorted(runtime.glob("*.py"))}
    return {name: _with_header(_relative(data)) for name, data in sources.items()} | {LICENSE: _license()}


def _relative(source: bytes) -> bytes:
    """`from .clip import …` for `from clipcheck.runtime.clip import …`."""
    return _ABSOLUTE.sub(lambda found: found["start"] + (found["rest"] or b"."), source)


def _with_header(source: bytes) -> bytes:
    lines = (
        f"# Copied from clipcheck {__version__} by `clipcheck vendor`; changes by hand are not kept.",
        f"# SPDX-License-Identifier: Apache-2.0 (the text is in {LICENSE})",
        f"# sha256 of the rest: {_digest(source)}",
    )
    return "".join(f"{line}\n" for line in lines).encode() + source


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _license() -> bytes:
    """clipcheck's license, from the checkout or from what an installed package says of itself."""
    checkout = Path(__file__).resolve().parents[2] / LICENSE
    if checkout.is_file():
        return checkout.read_bytes().replace(b"\r\n", b"\n")
    for text in _installed_license():
        return text.encode()
    raise ConfigError("the license of clipcheck is not part of this installation")


def _installed_license() -> Iterator[str]:
    try:
        about = distribution("clipcheck")
    except PackageNotFoundError:
        return
    for place in (f"licenses/{LICENSE}", LICENSE):
        text = about.read_text(place)
        if text:
            yield text


def _check_name(folder: str) -> None:
    name = os.path.basename(os.path.abspath(folder))
    if not name.isidentifier() or iskeyword(name):
        raise ConfigError(f"{folder}: `{name}` is not a valid name for a package")
    if os.path.lexists(folder) and not os.path.isdir(folder):
        raise ConfigError(f"{folder}: not a folder")


def module_name(folder: str) -> str:
    """How code imports the package: from the widest package around it."""
    path = Path(os.path.abspath(folder))
    parts = [path.name]
    while (path.parent / "__init__.py").is_file():
        path = path.parent
        parts.insert(0, path.name)
    return ".".join(parts)
