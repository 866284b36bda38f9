"""Many files: read them, look at those that hold our marks, in several processes where that pays, and write fixes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from clipcheck import engine, files
from clipcheck.config import Settings
from clipcheck.engine import FileReport
from clipcheck.rule import Finding

if TYPE_CHECKING:
    from clipcheck.cache import Cache

# A worker pays a quarter of a second to import libcst; fewer files than this are done sooner without one.
POOL_FROM = 24


class Task(NamedTuple):
    """A file that is worth a look, and the settings that hold for it."""

    path: str
    data: bytes
    settings: Settings


class Outcome(NamedTuple):
    """What a whole run came to: a report for each file with something to say, and how many files were looked at."""

    reports: tuple[FileReport, ...]
    files: int
    errors: tuple[str, ...] = ()

    @property
    def findings(self) -> list[Finding]:
        return sorted((f for report in self.reports for f in report.findings), key=lambda f: f.order)

    @property
    def fixed(self) -> list[Finding]:
        return sorted((f for report in self.reports for f in report.fixed), key=lambda f: f.order)

    @property
    def warnings(self) -> list[str]:
        return [warning for report in self.reports for warning in report.warnings]


def check(paths: Sequence[str], settings: Settings, jobs: int = 0, write: bool = False) -> Outcome:
    """Check the files below `paths`, all with the same settings; with `write`, put what the fixes give back to disk.

    Raises files.MissingPath. `jobs` processes are used at most, 0 standing for one a core.
    """
    found = files.find(paths)
    return check_files([(path, settings) for path in found], jobs, write)


def check_files(
    wanted: Sequence[tuple[str, Settings]],
    jobs: int = 0,
    write: bool = False,
    cache_folder: str | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Outcome:
    """Check each file with its settings. Reports come in the order of `wanted`, whatever the processes' order."""
    errors: list[str] = []
    tasks = list(_tasks(wanted, errors))
    cache = _cache(cache_folder) if cache_folder and tasks else None
    known = {task.path: report for task in tasks if cache and (report := cache.get(task))}
    new = {}
    for report in _run([task for task in tasks if task.path not in known], jobs):
        new[report.path] = report
        progress(len(known) + len(new), len(tasks))
    if cache:
        cache.put((task, new[task.path]) for task in tasks if task.path in new)
    reports = [report for task in tasks if _says_something(report := known.get(task.path) or new[task.path])]
    if write:
        reports = [_written(report, errors) for report in reports]
    errors += [error for report in reports for error in report.errors]
    return Outcome(tuple(reports), len(wanted), tuple(errors))


def _cache(folder: str) -> Cache:
    from clipcheck.cache import Cache

    return Cache(folder)


def _tasks(wanted: Iterable[tuple[str, Settings]], errors: list[str]) -> Iterator[Task]:
    """The files that hold a mark of a selected rule, with their bytes."""
    for path, settings in wanted:
        try:
            with open(path, "rb") as file:
                data = file.read()
        except OSError as error:
            errors.append(f"{path}: cannot be read: {error.strerror}")
            continue
        if engine.candidate(path, data, settings):
            yield Task(path, data, settings)


def _run(tasks: Sequence[Task], jobs: int) -> Iterator[FileReport]:
    jobs = min(jobs or os.cpu_count() or 1, len(tasks))
    # a prover keeps a process of its own and does not travel
    if jobs < 2 or len(tasks) < POOL_FROM or any(task.settings.prove for task in tasks):
        yield from (engine.run(*task) for task in tasks)
        return
    from concurrent.futures import ProcessPoolExecutor, as_completed
    from concurrent.futures.process import BrokenProcessPool
    from multiprocessing import get_context

    # The largest first: a big file that starts last would leave the other processes idle.
    order = sorted(tasks, key=lambda task: -len(task.data))
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        futures = {pool.submit(engine.run, *task): task for task in order}
        for future in as_completed(futures):
            task = futures[future]
            try:
                yield future.result()
            except BrokenProcessPool:
                died = f"{task.path}: the worker process died, the file was not checked"
                yield FileReport(task.path, task.data, errors=(died,))


def _written(report: FileReport, errors: list[str]) -> FileReport:
    """Put the fixed bytes to disk; where that cannot be done, nothing was fixed."""
    if report.fixed_data is not None:
        try:
            files.write(report.path, report.fixed_data, report.data)
        except files.Changed as error:
            errors.append(str(error))
        except OSError as error:
            errors.append(f"{report.path}: cannot be written: {error.strerror or error}")
    return report


def _says_something(report: FileReport) -> bool:
    return bool(report.findings or report.fixed or report.errors or report.warnings)
