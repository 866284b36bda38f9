"""The command `check`, from its options to an exit code."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from itertools import count
from typing import TYPE_CHECKING, TypeAlias

from clipcheck import api, extras
from clipcheck.cli.arguments import Options, cache_folder, may_hold_cache, projects_of
from clipcheck.cli.in_force import effective, reasons
from clipcheck.cli.show import show
from clipcheck.cli.streams import get_bytes, put, put_bytes, say
from clipcheck.disk import Changed, write
from clipcheck.documents.program import MARKDOWN
from clipcheck.engine.file import check_file
from clipcheck.engine.find import SUFFIXES, Found, find, is_left_out
from clipcheck.engine.results import Outcome
from clipcheck.report.view import Looked, shown
from clipcheck.rule import Verify
from clipcheck.settings import keys
from clipcheck.settings.files import FILES
from clipcheck.settings.keys import ConfigError
from clipcheck.settings.projects import Project, Projects

if TYPE_CHECKING:
    from clipcheck.cli.changed_lines import Changes

CLEAN, FINDINGS, ABNORMAL = 0, 1, 2

Progress: TypeAlias = "Callable[[int, int], None]"


def check(options: Options, progress: Progress = lambda done, total: None) -> int:
    """Do what the options say and return the exit code. Raises ConfigError."""
    if not options.verify:
        return _check(options, progress)
    from clipcheck.verify.sites import Verifier
    from clipcheck.verify.worker import NoTorch

    try:
        with Verifier() as verify:
            return _check(options, progress, verify)
    except NoTorch as error:
        raise ConfigError(str(error)) from None


def verify_paths(options: Options, progress: Progress) -> int:
    """Run the fixes of the user's files and print the verdicts; change nothing. Raises ConfigError."""
    return check(options._replace(verify=True, only_verdicts=True), progress)


def verify_examples(select: tuple[str, ...], shape: str, jobs: int, progress: Progress) -> tuple[str, int]:
    """Run the rules' own examples; returns the table, or JSON, and the exit code. Raises ConfigError."""
    from clipcheck.catalogue import RULES
    from clipcheck.verify import pairs, table
    from clipcheck.verify.worker import NoTorch

    found = pairs.find(sorted(keys.select(select, (), ()) if select else RULES))
    if not found:
        raise ConfigError("no example of these rules has a fix to verify")
    steps = count(1)
    try:
        rows = pairs.verify(found, jobs or os.cpu_count() or 1, lambda: progress(next(steps), len(found)))
    except NoTorch as error:
        raise ConfigError(str(error)) from None
    return (table.as_json if shape == "json" else table.table)(rows), FINDINGS if table.failed(rows) else CLEAN


def _check(options: Options, progress: Progress, verify: Verify | None = None) -> int:
    projects = projects_of(options, verify)
    if options.show_settings:
        put(options, effective(options, projects))
        return CLEAN
    if options.reads_stdin:
        return _check_stdin(options, projects)
    if options.watch:
        return _watch(options, progress, verify)
    return _check_paths(options, projects, progress)


# --- files ----------------------------------------------------------------------------------------------------------


def _check_paths(options: Options, projects: Projects, progress: Progress) -> int:
    started = time.monotonic()
    found, changes = _choose(options, projects)
    if options.show_files:
        put(options, "".join(f"{shown(path)}\n" for path in found.files))
        return ABNORMAL if found.missing else CLEAN
    if not found.files and not found.missing:
        say(options, f"warning: no {'Python' if changes is None else 'changed'} files found")
    outcome = _look(options, projects, found, changes, progress)
    looked = Looked(found.files, time.monotonic() - started)
    if options.verbose:
        _say_what_was_checked(options, projects, outcome, looked)
    if options.adds_suppressions:
        return _add_suppressions(options, outcome)
    return _finish(options, outcome, projects.here, looked)


def _choose(options: Options, projects: Projects) -> tuple[Found, Changes | None]:
    """The files to check, and what changed in them if that is asked for."""
    found = find(options.searched, projects)
    for warning in found.warnings:
        say(options, f"warning: {warning}")
    if options.since is None and not options.diff_only:
        return found, None
    from clipcheck.cli.changed_lines import changes

    changed = changes(options.since or "HEAD", options.searched)
    return found._replace(files=[path for path in found.files if changed.holds(path)]), changed


def _look(options: Options, projects: Projects, found: Found, changes: Changes | None, progress: Progress) -> Outcome:
    # a baseline and a verification need the code as it is now; with --since only some files are checked
    keeps = not (options.no_cache or options.verify or options.adds_suppressions or changes)
    cache = _cache(options, projects.here) if keeps else None
    outcome = api.run_files(found.files, projects, options.jobs, options.writes, cache, progress)
    if changes is not None and options.diff_only:
        outcome = changes.only(outcome)
    return outcome._replace(errors=(*found.missing, *found.errors, *outcome.errors))


def _cache(options: Options, project: Project) -> str | None:
    """The cache's folder, None if it is outside the project and the user has not asked for it."""
    folder = cache_folder(project)
    if may_hold_cache(project, folder):
        return folder
    say(options, f"warning: {folder} is outside the project, so nothing is cached (allow it with --cache-dir)")
    return None


def _say_what_was_checked(options: Options, projects: Projects, outcome: Outcome, looked: Looked) -> None:
    for line in reasons(options, projects, looked.paths):
        say(options, line)
    count, found = len(looked.paths), sum(bool(report.findings or report.fixed) for report in outcome.reports)
    say(options, f"checked {count} file{'' if count == 1 else 's'}, {found} with findings, in {looked.seconds:.2f} s")


def _watch(options: Options, progress: Progress, verify: Verify | None) -> int:
    """Check again whenever a file changes, until the user stops it."""
    try:
        from watchfiles import watch
    except ImportError:
        raise ConfigError(f"--watch needs watchfiles: {extras.command('watch')}") from None
    paths = [path for path in options.searched if os.path.exists(path)]
    if not paths:
        raise ConfigError("--watch: nothing to watch, no such file or directory")
    say(options, f"watching {', '.join(paths)} (Ctrl-C to stop)")
    checked = False
    # the first round is empty and says that changes are noticed from now on: none is lost while the first check runs
    for changes in watch(*paths, rust_timeout=100, yield_on_timeout=True, raise_interrupt=False):
        names = sorted({path for _, path in changes if path.endswith(_WATCHED)})
        if names:
            say(options, f"{time.strftime('%H:%M:%S')} changed: {', '.join(names)}")
        if names or not checked:
            checked = True
            _check_paths(options, projects_of(options, verify), progress)
    return CLEAN


_WATCHED = (*SUFFIXES, *MARKDOWN, *FILES)


def _add_suppressions(options: Options, outcome: Outcome) -> int:
    """Write a baseline."""
    from clipcheck.engine import baseline

    form, reason = ("noqa", options.add_noqa) if options.add_noqa is not None else ("ignore", options.add_ignore)
    added = 0
    errors = list(outcome.errors)
    for one in outcome.reports:
        data, more = baseline.added(one, form, reason)
        if more:
            try:
                write(one.path, data, one.data)
                added += more
            except (OSError, Changed) as error:
                errors.append(str(error))
    for line in errors:
        say(options, f"error: {line}")
    put(options, f"Added {added} suppression{'' if added == 1 else 's'}.\n")
    return ABNORMAL if errors else CLEAN


# --- standard input -------------------------------------------------------------------------------------------------


def _check_stdin(options: Options, projects: Projects) -> int:
    """Code on stdin; with a fix the fixed code goes to stdout and findings to stderr."""
    name = options.stdin_filename or "-"
    data = get_bytes()
    project = projects.of(options.stdin_filename) if options.stdin_filename else projects.here
    if options.stdin_filename and is_left_out(name, projects):
        if options.writes:
            put_bytes(data)
        return CLEAN
    settings = project.for_file(name) if options.stdin_filename else project.settings
    one = check_file(name, data, settings)
    outcome = Outcome((one,), 1, one.errors)
    if options.writes:
        put_bytes(one.now)
    return _finish(options, outcome, project, stdin=True)


# --- how it ends ------------------------------------------------------------------------------------------------------


def _finish(
    options: Options, outcome: Outcome, project: Project, looked: Looked | None = None, stdin: bool = False
) -> int:
    code = _exit_code(options, outcome)
    show(options, outcome, project, code, looked, stdin)
    return code


def _exit_code(options: Options, outcome: Outcome) -> int:
    """The highest one: 2 before 1 before 0."""
    if outcome.errors:
        return ABNORMAL
    if options.exit_zero or options.only_verdicts:
        return CLEAN
    if options.diff or options.exit_non_zero_on_fix:
        fixed = bool(outcome.fixed)
        left = bool(outcome.findings) and not (options.diff or options.fix_only)
        return FINDINGS if fixed or left else CLEAN
    return FINDINGS if outcome.findings and not options.fix_only else CLEAN
