"""Many files: read them, look at those that hold our marks, in several processes where that pays, and write fixes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from clipcheck.engine.file import candidate, check_file
from clipcheck.engine.find import find
from clipcheck.engine.results import FileReport, Outcome, Task
from clipcheck.engine.write import Changed
from clipcheck.engine.write import write as write_file
from clipcheck.settings.keys import Settings

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from clipcheck.engine.cache import Cache

# A worker pays a quarter of a second to import libcst; fewer files than this are done sooner without one.
POOL_FROM = 24
# With this many files to read, searching them for marks is shared out, too, so many at a time.
SIFT_FROM, CHUNK = 1000, 250


def check_paths(paths: Sequence[str], settings: Settings, jobs: int = 0, write: bool = False) -> Outcome:
    """Check the files below `paths`, all with the same settings; with `write`, put what the fixes give back to disk.

    Raises MissingPath. `jobs` processes are used at most, 0 standing for one a core.
    """
    found = find(paths)
    return check_files([(path, settings) for path in found], jobs, write)


def check_files(
    wanted: Sequence[tuple[str, Settings]],
    jobs: int = 0,
    write: bool = False,
    cache_folder: str | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Outcome:
    """Check each file with its settings. Reports come in the order of `wanted`, whatever the processes' order."""
    with _workers(wanted, jobs) as pool:
        tasks, errors = _sift(wanted, pool)
        cache = _cache(cache_folder) if cache_folder and tasks else None
        known = {task.path: report for task in tasks if cache and (report := cache.get(task))}
        new = {}
        for report in _run([task for task in tasks if task.path not in known], pool):
            new[report.path] = report
            progress(len(known) + len(new), len(tasks))
    if cache:
        cache.put((task, new[task.path]) for task in tasks if task.path in new)
    reports = [report for task in tasks if _says_something(report := known.get(task.path) or new[task.path])]
    if write:
        reports = [_written(report, errors) for report in reports]
    errors += [error for report in reports for error in report.errors]
    return Outcome(tuple(reports), len(wanted), tuple(errors), len(tasks))


def _cache(folder: str) -> Cache:
    from clipcheck.engine.cache import Cache

    return Cache(folder)


@contextmanager
def _workers(wanted: Sequence[tuple[str, Settings]], jobs: int) -> Iterator[Executor | None]:
    """Processes for a run over many files, None where they would not pay; a prover keeps one of its own."""
    jobs = jobs or os.cpu_count() or 1
    collect_less()
    if jobs < 2 or len(wanted) < POOL_FROM or any(settings.prove for _, settings in wanted):
        yield None
        return
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    # no process starts before the first task
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn"), initializer=collect_less) as pool:
        yield pool


def _sift(wanted: Sequence[tuple[str, Settings]], pool: Executor | None) -> tuple[list[Task], list[str]]:
    """The files that hold a mark of a selected rule, with their bytes; what cannot be read is an error."""
    if pool is None or len(wanted) < SIFT_FROM:
        return _sift_some(wanted)
    chunks = [wanted[start : start + CHUNK] for start in range(0, len(wanted), CHUNK)]
    done = list(pool.map(_sift_some, chunks))
    return [task for tasks, _ in done for task in tasks], [error for _, errors in done for error in errors]


def _sift_some(wanted: Sequence[tuple[str, Settings]]) -> tuple[list[Task], list[str]]:
    tasks: list[Task] = []
    errors: list[str] = []
    for path, settings in wanted:
        try:
            with open(path, "rb", buffering=0) as file:  # a quarter of the system calls
                data = file.read()
        except OSError as error:
            errors.append(f"{path}: cannot be read: {error.strerror}")
            continue
        if candidate(path, data, settings):
            tasks.append(Task(path, data, settings))
    return tasks, errors


def _run(tasks: Sequence[Task], pool: Executor | None) -> Iterator[FileReport]:
    if pool is None or len(tasks) < POOL_FROM:
        yield from (check_file(*task) for task in tasks)
        return
    from concurrent.futures import as_completed
    from concurrent.futures.process import BrokenProcessPool

    # The largest first: a big file that starts last would leave the other processes idle.
    futures = {pool.submit(check_file, *task): task for task in sorted(tasks, key=lambda task: -len(task.data))}
    for future in as_completed(futures):
        task = futures[future]
        try:
            yield future.result()
        except BrokenProcessPool:
            died = f"{task.path}: the worker process died, the file was not checked"
            yield FileReport(task.path, task.data, errors=(died,))


def collect_less() -> None:
    """The trees of a few files are a million objects without a cycle: looking for cycles takes a third of the parse."""
    import gc

    gc.set_threshold(1_000_000, 50, 50)


def _written(report: FileReport, errors: list[str]) -> FileReport:
    """Put the fixed bytes to disk; where that cannot be done, nothing was fixed."""
    if report.fixed_data is not None:
        try:
            write_file(report.path, report.fixed_data, report.data)
        except Changed as error:
            errors.append(str(error))
        except OSError as error:
            errors.append(f"{report.path}: cannot be written: {error.strerror or error}")
    return report


def _says_something(report: FileReport) -> bool:
    return bool(report.findings or report.fixed or report.errors or report.warnings)
