"""Caches findings between runs: by a file's state on disk or its bytes, its settings, and clipcheck's code.

A file without findings is recognized by its size, times and inode, and is not even read; one with findings is read, to
show them, and recognized by its bytes. Backups and git skip the folder because of its `CACHEDIR.TAG` and `.gitignore`.
Entries are JSON: a cache may come from anywhere, and nothing in it is ever executed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from time import time_ns as now
from typing import Any

from clipcheck import __version__
from clipcheck.engine.results import FileReport, Task
from clipcheck.rule import Edit, Finding, Fix, Place, Role, Safety, Severity
from clipcheck.settings.keys import Settings

NAME = ".clipcheck_cache"
_TAG = (
    "Signature: 8a477f597d28d172789f06886806bc55\n# This folder holds clipcheck's cache: https://bford.info/cachedir/\n"
)
# A file that was changed this shortly before the run may change again without a new timestamp: FAT has steps of 2 s.
GRAIN = 2_000_000_000
# If so few files lack keywords, reading them again is as fast as a cache, so no folder is created.
FEW = 1000
# How many runs with other settings keep their entries.
OTHER_SETTINGS = 3


class Cache:
    """The entries of one project, by settings, folder and name.

    An entry is the state of a file without keywords, or [state, digest, findings, warnings] of a file with some. A
    corrupt or foreign cache counts as empty; one that cannot be written stays as it is.
    """

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._file = os.path.join(folder, __version__, "findings.json")
        self._started = now()
        self._code = _fingerprint()
        self._groups = self._load()
        self._keys: dict[Settings, str] = {}
        self._absolute: dict[str, str] = {}
        self._states: dict[str, str] = {}
        self._again: list[tuple[str, Settings, Any]] = []  # valid entries, whose files may have a new state

    def silent(self, wanted: Iterable[tuple[str, Settings]]) -> dict[str, bool]:
        """The files that had no findings and have not changed since, each with whether it contains a rule's keywords.

        The states of all others are recorded here, before they are read, so that a later change is noticed.
        """
        found: dict[str, bool] = {}
        for path, settings in wanted:
            state = self._states[path] = _state(path)
            match self._entry(path, settings):
                case str(known) if known == state:
                    found[path] = False
                case [known, _, [], []] if known == state:
                    found[path] = True
        return {path: words for path, words in found.items() if self._states[path]}

    def get(self, task: Task) -> FileReport | None:
        """The report of an earlier run on the same bytes, unless fixes are wanted: these must be computed."""
        settings = task.settings
        match entry := self._entry(task.path, settings):
            case [_, digest, [*packed], [*lines]] if digest == _digest(task.data):
                pass
            case _:
                return None
        try:
            findings = tuple(_finding(task.path, one) for one in packed)
            warnings = tuple(task.path + line for line in lines)
        except (TypeError, ValueError):
            return None
        if settings.fix and any(finding.fix and settings.applies(finding.fix.safety) for finding in findings):
            return None
        self._again.append((task.path, settings, [self._trusted(task.path), *entry[1:]]))
        return FileReport(task.path, task.data, findings, warnings=warnings, threshold=settings.safety)

    def put(self, clean: Iterable[tuple[str, Settings]], reports: Iterable[tuple[Task, FileReport]]) -> None:
        """Stores the results of this run: files without keywords, and reports, but not errors, which recur."""
        entries = [(path, settings, self._trusted(path)) for path, settings in clean]
        reported = [
            (task.path, task.settings, _packed_report(self._trusted(task.path), task, report))
            for task, report in reports
            if not report.errors and report.fixed_data is None
        ]
        if reported or self._again or len(entries) >= FEW:
            changed = [one for one in (*entries, *reported, *self._again) if self._entry(one[0], one[1]) != one[2]]
            if changed:
                with suppress(OSError):
                    self._write(self._merged(changed))

    # --- entries ------------------------------------------------------------------------------------------------

    def _place(self, path: str, settings: Settings) -> tuple[str, str, str]:
        """The location of an entry: the key of the settings, the folder and the name."""
        key = self._keys.get(settings)
        if key is None:
            key = self._keys[settings] = _digest(repr(_result_settings(settings)).encode())
        head, name = os.path.split(path)
        folder = self._absolute.get(head)
        if folder is None:
            folder = self._absolute[head] = os.path.abspath(head)
        return key, folder, name

    def _entry(self, path: str, settings: Settings) -> Any:
        key, folder, name = self._place(path, settings)
        return _inner(_inner(self._groups, key), folder).get(name)

    def _trusted(self, path: str) -> str:
        """The recorded state of a file; "", which no file has, if the file may change without changing its state."""
        state = self._states[path]
        changes = state.split()[2:]
        return state if all(int(time) < self._started - GRAIN for time in changes) else ""

    def _merged(self, changed: Iterable[tuple[str, Settings, Any]]) -> dict[str, dict[str, dict[str, Any]]]:
        """The new entries and the old ones, without deleted files."""
        used = dict.fromkeys(self._keys.values())
        others = [key for key in self._groups if key not in used][:OTHER_SETTINGS]
        groups = {key: _present(_inner(self._groups, key)) for key in (*used, *others)}
        for path, settings, entry in changed:
            key, folder, name = self._place(path, settings)
            groups[key].setdefault(folder, {})[name] = entry
        return groups

    # --- the file -----------------------------------------------------------------------------------------------

    def _load(self) -> Mapping[str, Any]:
        try:
            with open(self._file, "rb") as file:
                content = json.loads(file.read())
        except (OSError, ValueError, RecursionError):
            return {}
        match content:
            case {"code": self._code, "files": dict(groups)}:
                return groups
        return {}

    def _write(self, groups: Mapping[str, Any]) -> None:
        import tempfile

        folder = os.path.dirname(self._file)
        os.makedirs(folder, exist_ok=True)
        for name, content in (("CACHEDIR.TAG", _TAG), (".gitignore", "*\n")):
            if not os.path.exists(path := os.path.join(self._folder, name)):
                with open(path, "w", encoding="utf-8") as file:
                    file.write(content)
        handle, temporary = tempfile.mkstemp(dir=folder)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump({"code": self._code, "files": groups}, file, separators=(",", ":"))
        os.replace(temporary, self._file)


def written_in(folder: str) -> list[str]:
    """Every path to which a cache in this folder writes."""
    return [folder, *(os.path.join(folder, name) for name in ("CACHEDIR.TAG", ".gitignore", __version__))]


def _inner(entries: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """The value of a key; empty if it is corrupt."""
    inner = entries.get(key)
    return inner if isinstance(inner, dict) else {}


def _present(folders: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The entries of files that still exist."""
    present = {
        folder: {name: entry for name, entry in entries.items() if os.path.exists(os.path.join(folder, name))}
        for folder, entries in folders.items()
        if isinstance(entries, dict)
    }
    return {folder: entries for folder, entries in present.items() if entries}


def _state(path: str) -> str:
    """The state of a file on disk, which changes whenever its content does; "" if it is unknown.

    The ctime reveals a change to a file of the same size whose mtime was reset; on Windows, it is the creation time.
    """
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return ""
    return f"{found.st_size} {found.st_ino} {found.st_mtime_ns} {found.st_ctime_ns}"


def _digest(data: bytes) -> str:
    from hashlib import blake2b

    return blake2b(data, digest_size=16).hexdigest()


def remove(folders: Iterable[str]) -> Iterator[str]:
    """Deletes the caches in and below folders, and returns their names; deletes only folders with our name and tag."""
    import shutil

    for top in folders:
        for folder, inner, _ in os.walk(top):
            inner[:] = [name for name in inner if name not in (".git", "node_modules", ".venv")]
            if NAME in inner:
                inner.remove(NAME)
                path = os.path.join(folder, NAME)
                if not os.path.islink(path) and os.path.isfile(os.path.join(path, "CACHEDIR.TAG")):
                    shutil.rmtree(path)
                    yield path


def _result_settings(settings: Settings) -> tuple[object, ...]:
    """The settings that can change findings; whether fixes are applied cannot."""
    sets = (settings.codes, settings.trusted, settings.distrusted, settings.unfixable)
    flags = (settings.target, settings.suppressions, settings.report_unused, settings.prefilter)
    return (*(sorted(codes) for codes in sets), *flags)


def _fingerprint() -> str:
    """Identifies clipcheck's code: the version, and size and time of each module, for those who edit rules."""
    package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    modules = (
        os.path.join(folder, name) for folder, _, names in os.walk(package) for name in names if name.endswith(".py")
    )
    stats = sorted(
        (os.path.relpath(path, package), found.st_size, found.st_mtime_ns)
        for path in modules
        for found in [os.stat(path)]
    )
    return _digest(repr((__version__, stats)).encode())


# --- findings as JSON -------------------------------------------------------------------------------------------------


def _packed_report(state: str, task: Task, report: FileReport) -> list[Any]:
    lines = [warning.removeprefix(task.path) for warning in report.warnings]
    return [state, _digest(task.data), [_packed(finding) for finding in report.findings], lines]


def _packed(finding: Finding) -> list[Any]:
    """A finding without its path, which names the entry, and without a verdict: verifying runs are not cached."""
    return [value for name, value in finding._asdict().items() if name not in ("path", "verdict")]


def _finding(path: str, packed: list[Any]) -> Finding:
    place, code, name, message, severity, fix, changes, help_text, related, program, silent_at, copied = packed
    return Finding(
        path,
        Place(*place),
        code,
        name,
        message,
        Severity(severity),
        _fix(fix) if fix else None,
        tuple((Place(*where), text) for where, text in changes),
        help_text,
        tuple((Place(*where), label) for where, label in related),
        program,
        silent_at,
        copied,
    )


def _fix(packed: list[Any]) -> Fix:
    title, safety, edits, imports, roles = packed
    return Fix(
        title,
        Safety(safety),
        tuple(Edit(*edit) for edit in edits),
        tuple(Edit(*edit) for edit in imports),
        tuple((text, Role(role)) for text, role in roles),
    )
