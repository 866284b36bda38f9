"""clipcheck from Python: check files or a string, fix a string, and verify the rules' examples.

    from pathlib import Path

    from clipcheck import api

    for finding in api.check(Path("src")):
        print(finding.path, finding.place.line, finding.code, finding.message)

Importing this module loads neither torch nor LibCST; `check` and `fix` never execute the code that they read. The command line
uses `run_files`, with its own settings.
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
from clipcheck.settings.keys import select as selected
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
_FILE_ENDINGS = (*SUFFIXES, ".pyi", *MARKDOWN)


class ClipcheckWarning(UserWarning):
    """A file could not be checked, or a rule failed on it; everything else was checked."""


class MissingPath(Exception):
    """A path does not exist or is not a file that can be read."""


class FixResult(NamedTuple):
    """The result of `fix`.

    `text` is the code after the fixes, `fixed` the findings that they removed, `findings` those that remain.
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
    """Returns all findings in files or in a string, sorted by path and place.

    `source` is code if it is a `str`, else a path or several paths, of files and folders. `filename` is the name under
    which code is reported; its ending says whether it is a notebook (`.ipynb`) or Markdown (`.md`) from Python. `select`,
    `extend_select` and `ignore` are codes, prefixes of codes or names of rules, as on the command line; `target` says
    which functions fixes call. They take precedence over settings files, which are read as on the command line, unless `isolated`.

    Raises `MissingPath` for a path that does not exist, `ConfigError` for an unknown rule, and `ValueError` for a
    string that is one file name. Problems with single files are reported as `ClipcheckWarning`.
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
    """Applies the safe fixes to code, with `unsafe` also the unsafe ones, which change training. The other arguments and the errors are the same as for `check`. A fix whose result fails clipcheck's own check is not
    applied, and a `ClipcheckWarning` says so.
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
    """Runs the rules' own examples on torch, before and after their fix: one row per example, with its claim and the result.

    Needs torch, and executes the examples in worker processes; raises `clipcheck.verify.worker.NoTorch` without it.
    """
    from clipcheck.catalogue import RULES
    from clipcheck.verify import pairs

    chosen = tuple(_words(select))
    codes = selected(chosen, (), ()) if chosen else RULES
    return pairs.verify(pairs.find(sorted(codes)), jobs)


def run_files(
    found: Sequence[str],
    projects: Projects,
    jobs: int = 0,
    write: bool = False,
    cache: str | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Outcome:
    """Checks files, each with its own settings, and fixes them if these say so.

    `jobs` processes are used at most, 0 is one per core; `write` writes fixed files to disk; `cache` is a folder for the
    results of unchanged files; `progress` is called with the number of files done and of all files.
    """
    wanted = [(path, projects.of_file(path).for_file(path)) for path in found]
    return check_files(wanted, jobs, write, cache, progress)


def _projects(
    chosen: Iterable[str], extra: Iterable[str], ignored: Iterable[str], target: Target | None, isolated: bool
) -> Projects:
    """The settings of files, with those of the caller on top."""
    given = {"select": chosen, "extend-select": extra, "ignore": ignored}
    values: dict[str, object] = {key: words for key, codes in given.items() if (words := list(_words(codes)))}
    if target is not None:
        values["target"] = target
    return Projects(Layer(values, os.getcwd()), Settings(), isolated)


def _words(codes: Iterable[str]) -> Iterable[str]:
    return (codes,) if isinstance(codes, str) else codes


def _program(text: str) -> str:
    if text.endswith(_FILE_ENDINGS) and "\n" not in text:
        raise ValueError(f"a str is code; for a file pass pathlib.Path({text!r})")
    return text


def _warn(errors: Iterable[str]) -> None:
    for error in errors:
        warnings.warn(error, ClipcheckWarning, stacklevel=3)
