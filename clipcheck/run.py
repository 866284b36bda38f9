"""Many files: read them, look at those that hold our marks, in several processes where that pays, and write fixes."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from clipcheck import document, engine, files
from clipcheck.catalogue import wanted
from clipcheck.config import Settings
from clipcheck.engine import FileReport
from clipcheck.rule import Finding

# A worker pays a quarter of a second to import libcst; fewer files than this are done sooner without one.
POOL_FROM = 24


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


def check(paths: Sequence[str], settings: Settings, jobs: int = 0, write: bool = False) -> Outcome:
    """Check the files below `paths`; with `write`, put what the fixes give back to disk. Raises files.MissingPath.

    `jobs` processes are used at most, 0 standing for one a core.
    """
    found = files.find(paths)
    errors: list[str] = []
    candidates = list(_candidates(found, settings, errors))
    reports = [report for report in _run(candidates, settings, jobs) if _says_something(report)]
    if write:
        for report in reports:
            if report.fixed_data is not None:
                try:
                    files.write(report.path, report.fixed_data, report.data)
                except (OSError, files.Changed) as error:
                    errors.append(str(error))
    errors += [error for report in reports for error in report.errors]
    return Outcome(tuple(reports), len(found), tuple(errors))


def _candidates(paths: Sequence[str], settings: Settings, errors: list[str]) -> Iterator[tuple[str, bytes]]:
    """The files that hold a mark of a selected rule, with their bytes."""
    for path in paths:
        try:
            with open(path, "rb") as file:
                data = file.read()
        except OSError as error:
            errors.append(f"{path}: cannot be read: {error.strerror}")
            continue
        if wanted(document.searchable(path, data), settings.codes):
            yield path, data


def _run(candidates: Sequence[tuple[str, bytes]], settings: Settings, jobs: int) -> Iterator[FileReport]:
    jobs = min(jobs or os.cpu_count() or 1, len(candidates))
    if jobs < 2 or len(candidates) < POOL_FROM:
        yield from (engine.run(path, data, settings) for path, data in candidates)
        return
    from concurrent.futures import ProcessPoolExecutor
    from concurrent.futures.process import BrokenProcessPool
    from multiprocessing import get_context

    # The largest first: a big file that starts last would leave the other processes idle.
    order = sorted(candidates, key=lambda item: -len(item[1]))
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        futures = [(path, data, pool.submit(engine.run, path, data, settings)) for path, data in order]
        for path, data, future in futures:
            try:
                yield future.result()
            except BrokenProcessPool:
                yield FileReport(path, data, errors=(f"{path}: the worker process died, the file was not checked",))


def _says_something(report: FileReport) -> bool:
    return bool(report.findings or report.fixed or report.errors)
