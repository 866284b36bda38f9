"""Checks many files: reads them, checks those with keywords (in several processes if faster), and writes fixes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from clipcheck import disk
from clipcheck.engine.file import candidate, check_file
from clipcheck.engine.find import find
from clipcheck.engine.results import FileReport, Outcome, Task
from clipcheck.engine.workers import Died, Workers, collect_less
from clipcheck.settings.keys import Settings

if TYPE_CHECKING:
    from clipcheck.engine.cache import Cache

# A worker needs a quarter of a second to import libcst; fewer files than this are checked faster without workers.
POOL_FROM = 24
# From this number of files on, the search for keywords is distributed, too, in chunks of this size.
SIFT_FROM, CHUNK = 1000, 250


def check_paths(paths: Sequence[str], settings: Settings, jobs: int = 0, write: bool = False) -> Outcome:
    """Checks the files below `paths`, all with the same settings; with `write`, writes fixed files to disk.

    At most `jobs` processes are used; 0 means one per core.
    """
    found = find(paths)
    outcome = check_files([(path, settings) for path in found.files], jobs, write)
    return outcome._replace(errors=(*found.missing, *found.errors, *outcome.errors))


def check_files(
    wanted: Sequence[tuple[str, Settings]],
    jobs: int = 0,
    write: bool = False,
    cache_folder: str | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Outcome:
    """Checks each file with its settings. Reports are in the order of `wanted`, whichever process finishes first."""
    collect_less()
    cache = _cache(cache_folder) if cache_folder else None
    silent = cache.silent(wanted) if cache else {}
    unknown = [pair for pair in wanted if pair[0] not in silent]
    with Workers(_worker_count(unknown, jobs)) as workers:
        tasks, unreadable = _sift(unknown, workers)
        known = {task.path: report for task in tasks if cache and (report := cache.get(task))}
        new = {}
        for report in _run([task for task in tasks if task.path not in known], workers):
            new[report.path] = report
            progress(len(known) + len(new), len(tasks))
    if cache:
        without = [pair for pair in unknown if not (pair[0] in known or pair[0] in new or pair[0] in unreadable)]
        cache.put(without, ((task, new[task.path]) for task in tasks if task.path in new))
    errors = [f"{path}: cannot be read: {why}" for path, why in unreadable.items()]
    reports = [report for task in tasks if _has_findings(report := known.get(task.path) or new[task.path])]
    if write:
        settings = {task.path: task.settings for task in tasks}
        reports = [_written(report, settings[report.path]) for report in reports]
    errors += [error for report in reports for error in report.errors]
    return Outcome(tuple(reports), len(wanted), tuple(errors), len(tasks) + sum(silent.values()))


def _cache(folder: str) -> Cache:
    from clipcheck.engine.cache import Cache

    return Cache(folder)


def _worker_count(wanted: Sequence[tuple[str, Settings]], jobs: int) -> int:
    """How many processes to use; 0 if they would not be faster, or if fixes are verified in a separate process."""
    jobs = jobs or os.cpu_count() or 1
    return 0 if jobs < 2 or len(wanted) < POOL_FROM or any(settings.verify for _, settings in wanted) else jobs


def _sift(wanted: Sequence[tuple[str, Settings]], workers: Workers) -> tuple[list[Task], dict[str, str]]:
    """The files with keywords of a selected rule, with their bytes; and errors for files that cannot be read."""
    if not workers.count or len(wanted) < SIFT_FROM:
        return _sift_some(wanted)
    chunks = [wanted[start : start + CHUNK] for start in range(0, len(wanted), CHUNK)]
    sifted = {
        chunk[0][0]: _sift_some(chunk) if isinstance(done, Died) else done
        for chunk, done in workers.each(_sift_some, chunks)
    }
    ordered = [sifted[chunk[0][0]] for chunk in chunks]
    unreadable = {path: why for _, some in ordered for path, why in some.items()}
    return [task for tasks, _ in ordered for task in tasks], unreadable


def _sift_some(wanted: Sequence[tuple[str, Settings]]) -> tuple[list[Task], dict[str, str]]:
    tasks: list[Task] = []
    unreadable: dict[str, str] = {}
    for path, settings in wanted:
        try:
            data = disk.read(path)
        except OSError as error:
            unreadable[path] = error.strerror or str(error)
            continue
        if candidate(path, data, settings):
            tasks.append(Task(path, data, settings))
    return tasks, unreadable


def _run(tasks: Sequence[Task], workers: Workers) -> Iterator[FileReport]:
    if not workers.count or len(tasks) < POOL_FROM:
        yield from map(check_task, tasks)
        return
    # Largest first: a big file that starts last would leave the other processes without work.
    for task, report in workers.each(check_task, sorted(tasks, key=lambda task: -len(task.data))):
        if isinstance(report, Died):
            died = f"{task.path}: not checked, its process {report.how}"
            yield FileReport(task.path, task.data, errors=(died,))
        else:
            yield report


def check_task(task: Task) -> FileReport:
    return check_file(*task)


def _written(report: FileReport, settings: Settings) -> FileReport:
    """Writes the fixed bytes to disk and returns the report; if writing fails, nothing counts as fixed."""
    if report.fixed_data is None:
        return report
    links = disk.hard_links(report.path)
    try:
        disk.write(report.path, report.fixed_data, report.data)
    except (disk.Changed, OSError) as error:
        why = str(error) if isinstance(error, disk.Changed) else f"{report.path}: cannot be written: {error.strerror}"
        unfixed = check_file(report.path, report.data, replace(settings, fix=False, verify=None))
        return unfixed._replace(errors=(*unfixed.errors, why))
    if links > 1:
        warning = f"{report.path}: was one of {links} hard links; the others keep the old content"
        return report._replace(warnings=(*report.warnings, warning))
    return report


def _has_findings(report: FileReport) -> bool:
    return bool(report.findings or report.fixed or report.errors or report.warnings)
