"""clipcheck from Python: check files or a text, fix a text, and run the proof.

    from pathlib import Path

    from clipcheck import api

    for finding in api.check(Path("src")):
        print(finding.path, finding.place.line, finding.code, finding.message)

Importing this module loads neither torch nor LibCST; `check` and `fix` never execute what they look at. The command line
comes in by the same door, `run_files`, with settings of its own.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from clipcheck.documents.program import MARKDOWN
from clipcheck.documents.read import decode
from clipcheck.engine.batch import check_files
from clipcheck.engine.file import check_text
from clipcheck.engine.find import SUFFIXES, find
from clipcheck.engine.results import Outcome
from clipcheck.rule import Edit, Finding, Fix, Place, Safety, Severity, Target
from clipcheck.settings.keys import ConfigError, Layer, Settings
from clipcheck.settings.projects import Projects

if TYPE_CHECKING:
    from clipcheck.verify.pairs import Row

__all__ = [
    "ClipcheckWarning",
    "ConfigError",
    "Edit",
    "Finding",
    "Fix",
    "FixResult",
    "MissingPath",
    "Place",
    "Safety",
    "Severity",
    "check",
    "fix",
    "run_files",
    "verify",
]

Paths: TypeAlias = "os.PathLike[str] | Iterable[str | os.PathLike[str]]"
_FILE_ENDINGS = (*SUFFIXES, *MARKDOWN)


class ClipcheckWarning(UserWarning):
    """A file that could not be looked at, or a rule that failed on one; everything else was checked all the same."""


class MissingPath(Exception):
    """A path that was named does not exist or is no file that can be read."""


class FixResult(NamedTuple):
    """What a fix made of a text.

    `text` is the text after the fixes, `fixed` the findings that are gone with them, `findings` those that are left.
    """

    text: str
    fixed: tuple[Finding, ...]
    findings: tuple[Finding, ...]


def check(
    source: str | Paths,
    *,
    select: Iterable[str] = (),
    extend_select: Iterable[str] = (),
    ignore: Iterable[str] = (),
    target: Target | None = None,
    isolated: bool = False,
    filename: str = "<text>",
) -> list[Finding]:
    """All findings in files or in a text, sorted by path and place.

    `source` is a program text if it is a `str`, else a path or several paths, of files and folders. `filename` is the
    name that a text's findings carry; its ending tells a notebook (`.ipynb`) or Markdown (`.md`) from Python.
    `select`, `extend_select` and `ignore` are rule codes or prefixes of them, as on the command line; `target` says
    whose functions the fixes call. They win over the settings in files, which count as on the command line, unless
    `isolated`.

    Raises `MissingPath` for a path that does not exist, `ConfigError` for a code that no rule has, and `ValueError`
    for a text that is one file name. Faults of single files are given as `ClipcheckWarning`.
    """
    projects = _projects(select, extend_select, ignore, target, isolated)
    if isinstance(source, str):
        report = check_text(filename, _program(source), projects.of(filename).for_file(filename))
        _warn((*report.errors, *report.warnings))
        return list(report.findings)
    paths = [source] if isinstance(source, os.PathLike) else source
    found = find([os.fspath(path) for path in paths], projects)
    if found.missing:
        raise MissingPath(found.missing[0])
    outcome = run_files(found.files, projects)
    _warn((*found.errors, *found.warnings, *outcome.errors, *outcome.warnings))
    return outcome.findings


def fix(
    text: str,
    *,
    unsafe: bool = False,
    select: Iterable[str] = (),
    extend_select: Iterable[str] = (),
    ignore: Iterable[str] = (),
    target: Target | None = None,
    isolated: bool = False,
    filename: str = "<text>",
) -> FixResult:
    """Apply the safe fixes to a text, with `unsafe` also those that may change training.

    The other arguments and the errors are those of `check`. Where a fix fails clipcheck's own check of its outcome,
    it is left out and a `ClipcheckWarning` says so.
    """
    projects = _projects(select, extend_select, ignore, target, isolated)
    settings = replace(projects.of(filename).for_file(filename), fix=True)
    if unsafe:
        settings = replace(settings, safety=Safety.UNSAFE)
    report = check_text(filename, _program(text), settings)
    _warn((*report.errors, *report.warnings))
    after = text if report.fixed_data is None else decode(filename, report.fixed_data)
    return FixResult(after, report.fixed, report.findings)


def verify(*, select: Iterable[str] = (), jobs: int = 1) -> list[Row]:
    """Run the rules' own examples on torch, before and after their fix: one row an example, with how its claim held.

    Needs torch, and executes the examples in worker processes; raises `clipcheck.verify.worker.NoTorch` without it.
    """
    from clipcheck.catalogue import RULES
    from clipcheck.verify import pairs

    chosen = tuple(_words(select))
    codes = _projects(chosen, (), (), None, isolated=True).of(".").settings.codes if chosen else frozenset(RULES)
    return pairs.verify(pairs.find(sorted(codes)), jobs)


def run_files(
    found: Sequence[str],
    projects: Projects,
    jobs: int = 0,
    write: bool = False,
    cache: str | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Outcome:
    """Look at files, each with the settings that hold where it lies: all reports, with fixes as far as these want them.

    `jobs` processes are used at most, 0 standing for one a core; `write` puts what the fixes give back to disk; `cache`
    is a folder for what is known of unchanged files; `progress` is called with the files done and their number.
    """
    wanted = [(path, projects.of_file(path).for_file(path)) for path in found]
    return check_files(wanted, jobs, write, cache, progress)


def _projects(
    chosen: Iterable[str], extra: Iterable[str], ignored: Iterable[str], target: Target | None, isolated: bool
) -> Projects:
    """The settings of files under those that the caller gives."""
    given = {"select": chosen, "extend-select": extra, "ignore": ignored}
    values: dict[str, object] = {key: words for key, codes in given.items() if (words := list(_words(codes)))}
    if target is not None:
        values["target"] = target
    return Projects(Layer(values, os.getcwd()), Settings(), isolated)


def _words(codes: Iterable[str]) -> Iterable[str]:
    return (codes,) if isinstance(codes, str) else codes


def _program(text: str) -> str:
    if text.endswith(_FILE_ENDINGS) and "\n" not in text:
        raise ValueError(f"a str is a program text; for the file give pathlib.Path({text!r})")
    return text


def _warn(errors: Iterable[str]) -> None:
    for error in errors:
        warnings.warn(error, ClipcheckWarning, stacklevel=3)
