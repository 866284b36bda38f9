"""What a run found, kept for the next: by the file's bytes, its settings, and clipcheck's own code.

Only files that hold a mark are kept, since the others are read faster than a cache is asked. A folder of this kind is
marked so that backups (`CACHEDIR.TAG`) and git (`.gitignore`) pass it over.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path
from typing import Any

from clipcheck import __version__
from clipcheck.engine.results import FileReport, Task
from clipcheck.rule import Edit, Finding, Fix, Place, Role, Safety, Severity
from clipcheck.settings.keys import Settings

NAME = ".clipcheck_cache"
_TAG = (
    "Signature: 8a477f597d28d172789f06886806bc55\n# This folder holds clipcheck's cache: https://bford.info/cachedir/\n"
)


class Cache:
    """The entries of one project, one a file; a broken or foreign cache counts as empty, one that cannot be written is let be."""

    def __init__(self, folder: str) -> None:
        self._folder = Path(folder)
        self._file = self._folder / __version__ / "findings.json"
        self._code = _fingerprint()
        self._entries = self._load()

    def get(self, task: Task) -> FileReport | None:
        """The report of an earlier run on the same bytes, unless fixes are to be made, which have to be worked out."""
        entry = self._entries.get(os.path.abspath(task.path))
        if not isinstance(entry, list) or len(entry) != 3 or entry[0] != self._key(task):
            return None
        try:
            findings = tuple(_finding(task.path, packed) for packed in entry[1])
        except (TypeError, ValueError, IndexError):
            return None
        settings = task.settings
        if settings.fix and any(finding.fix and settings.applies(finding.fix.safety) for finding in findings):
            return None
        warnings = tuple(task.path + line for line in entry[2])
        return FileReport(task.path, task.data, findings, warnings=warnings, threshold=settings.safety)

    def put(self, reports: Iterable[tuple[Task, FileReport]]) -> None:
        """Keep what is new, and forget files that are gone. Errors are not kept: they are to be seen again."""
        added = {
            os.path.abspath(task.path): [
                self._key(task),
                [_packed(finding) for finding in report.findings],
                [warning.removeprefix(task.path) for warning in report.warnings],
            ]
            for task, report in reports
            if not report.errors and report.fixed_data is None
        }
        if not added:
            return
        kept = {path: entry for path, entry in self._entries.items() if os.path.exists(path)}
        with suppress(OSError):
            self._write({**kept, **added})

    def _key(self, task: Task) -> str:
        settings = task.settings
        parts = (self._code, os.path.splitext(task.path)[1], *_wishes(settings))
        digest = blake2b(repr(parts).encode(), digest_size=16)
        digest.update(task.data)
        return digest.hexdigest()

    def _load(self) -> dict[str, Any]:
        try:
            entries = json.loads(self._file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return entries if isinstance(entries, dict) else {}

    def _write(self, entries: dict[str, Any]) -> None:
        self._file.parent.mkdir(parents=True, exist_ok=True)
        for name, content in (("CACHEDIR.TAG", _TAG), (".gitignore", "*\n")):
            if not (self._folder / name).exists():
                (self._folder / name).write_text(content, encoding="utf-8")
        handle, temporary = tempfile.mkstemp(dir=self._file.parent)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(entries, file, separators=(",", ":"))
        os.replace(temporary, self._file)


def written_in(folder: str) -> list[str]:
    """All that a cache in this folder writes to."""
    return [folder, *(os.path.join(folder, name) for name in ("CACHEDIR.TAG", ".gitignore", __version__))]


def remove(folders: Iterable[str]) -> Iterator[str]:
    """Delete the caches in folders and below them, and name each. Only what bears our name and our tag is touched."""
    for top in folders:
        for folder, inner, _ in os.walk(top):
            inner[:] = [name for name in inner if name not in (".git", "node_modules", ".venv")]
            if NAME in inner:
                inner.remove(NAME)
                path = os.path.join(folder, NAME)
                if not os.path.islink(path) and os.path.isfile(os.path.join(path, "CACHEDIR.TAG")):
                    shutil.rmtree(path)
                    yield path


def _wishes(settings: Settings) -> tuple[object, ...]:
    """What of the settings can change a finding; whether fixes are made cannot."""
    sets = (settings.codes, settings.trusted, settings.distrusted, settings.unfixable)
    return (*(sorted(codes) for codes in sets), settings.target, settings.heed, settings.report_unused)


def _fingerprint() -> str:
    """Clipcheck's own code: version, and size and time of each module, which change while rules are being written."""
    package = Path(__file__).resolve().parents[1]
    stats = [
        (str(path.relative_to(package)), path.stat().st_size, path.stat().st_mtime_ns)
        for path in sorted(package.rglob("*.py"))
    ]
    return blake2b(repr((__version__, stats)).encode(), digest_size=16).hexdigest()


# --- findings as JSON -------------------------------------------------------------------------------------------------


def _packed(finding: Finding) -> list[Any]:
    """All of a finding but its path, which is the entry's name, and its verdict: runs that try fixes are not kept."""
    return [value for name, value in finding._asdict().items() if name not in ("path", "verdict")]


def _finding(path: str, packed: list[Any]) -> Finding:
    place, code, name, message, severity, fix, changes, help_text, related, program, silent_at = packed
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
