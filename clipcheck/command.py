"""The command `check`, from the command line's words to an exit code: which files, which settings, what is shown."""

from __future__ import annotations

import errno
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any, NamedTuple

from clipcheck import config, document, engine, files, report, run
from clipcheck.config import ConfigError, Layer, Project, Projects, Settings
from clipcheck.report import paint, text
from clipcheck.report.view import View, shown
from clipcheck.rule import Prove, Safety
from clipcheck.run import Outcome

CLEAN, FINDINGS, ABNORMAL = 0, 1, 2
# Formats that say how things stand in a closing line; the others are for machines.
FOR_PEOPLE = ("full", "concise", "grouped")

Progress = Callable[[int, int], None]


class Options(NamedTuple):
    """The words of the command line, by the names of its options; None where an option was not given."""

    paths: tuple[str, ...] = ()
    fix: bool = False
    unsafe_fixes: bool | None = None
    fix_only: bool = False
    diff: bool = False
    verify: bool = False
    only_verdicts: bool = False
    show_fixes: bool = False
    fixable: tuple[str, ...] = ()
    unfixable: tuple[str, ...] = ()
    target: str | None = None
    exit_zero: bool = False
    exit_non_zero_on_fix: bool = False
    select: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    extend_select: tuple[str, ...] = ()
    per_file_ignores: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    extend_exclude: tuple[str, ...] = ()
    force_exclude: bool | None = None
    respect_gitignore: bool | None = None
    stdin_filename: str | None = None
    since: str | None = None
    diff_only: bool = False
    show_files: bool = False
    add_noqa: str | None = None
    add_ignore: str | None = None
    ignore_noqa: bool = False
    output_format: str | None = None
    output_file: str | None = None
    statistics: bool = False
    color: str = "auto"
    quiet: bool = False
    silent: bool = False
    verbose: bool = False
    sarif_category: str = ""
    config: tuple[str, ...] = ()
    isolated: bool = False
    show_settings: bool = False
    no_cache: bool = False
    cache_dir: str | None = None
    jobs: int = 0
    watch: bool = False

    @property
    def wants_fixes(self) -> bool:
        return self.fix or self.fix_only or self.diff

    @property
    def writes(self) -> bool:
        return (self.fix or self.fix_only) and not self.diff

    @property
    def reads_stdin(self) -> bool:
        return self.paths == ("-",) or (not self.paths and self.stdin_filename is not None)


def check(options: Options, progress: Progress = lambda done, total: None) -> int:
    """Do what the options say and give the exit code. Raises ConfigError."""
    if not options.verify:
        return _check(options, progress)
    from clipcheck.verify.sites import Prover
    from clipcheck.verify.worker import NoTorch

    try:
        with Prover() as prove:
            return _check(options, progress, prove)
    except NoTorch as error:
        raise ConfigError(str(error)) from None


def verify(options: Options, progress: Progress = lambda done, total: None) -> int:
    """Try the fixes of the user's files and show the verdicts; change nothing. Raises ConfigError."""
    return check(options._replace(verify=True, only_verdicts=True), progress)


def verify_examples(select: tuple[str, ...], shape: str, jobs: int, progress: Progress) -> tuple[str, int]:
    """Run the rules' own examples; gives the table, or JSON, and the exit code. Raises ConfigError."""
    from clipcheck.catalogue import RULES
    from clipcheck.verify import pairs, table
    from clipcheck.verify.worker import NoTorch

    found = pairs.find(sorted(config.select(select, (), ()) if select else RULES))
    if not found:
        raise ConfigError("no example of these rules has a fix to verify")
    steps = count(1)
    try:
        rows = pairs.verify(found, jobs or os.cpu_count() or 1, lambda: progress(next(steps), len(found)))
    except NoTorch as error:
        raise ConfigError(str(error)) from None
    return (table.as_json if shape == "json" else table.table)(rows), FINDINGS if table.failed(rows) else CLEAN


def _check(options: Options, progress: Progress, prove: Prove | None = None) -> int:
    projects = _projects(options, prove)
    if options.show_settings:
        return _show_settings(options, projects)
    if options.reads_stdin:
        return _check_stdin(options, projects)
    if options.watch:
        return _watch(options, progress, prove)
    return _check_paths(options, projects, progress)


# --- settings -------------------------------------------------------------------------------------------------------


def _projects(options: Options, prove: Prove | None = None) -> Projects:
    """Where each file's settings come from; options beat `--config 'key = value'`, which beats files."""
    file = ""
    inline: dict[str, Any] = {}
    for word in options.config:
        if os.path.isfile(word) or word.endswith(".toml"):
            file = word
        elif "=" in word:
            inline |= config.parse_toml(word)
        else:
            raise ConfigError(f"--config takes a file or `key = value`, not `{word}`")
    if file and not os.path.isfile(file):
        raise ConfigError(f"{file}: no such file")
    base = Settings(fix=options.wants_fixes, heed=not options.ignore_noqa, prove=prove)
    command = Layer({**inline, **_given(options)}, os.getcwd())
    return Projects(command, base, options.isolated, file)


def _given(options: Options) -> dict[str, Any]:
    """What the options set of the keys that files can set, too."""
    values: dict[str, Any] = {}
    for key in ("select", "ignore", "extend-select", "fixable", "unfixable", "exclude", "extend-exclude"):
        words = config.split(getattr(options, key.replace("-", "_")))
        if words:
            values[key] = words
    for key in ("unsafe-fixes", "force-exclude", "respect-gitignore", "target", "cache-dir", "output-format"):
        value = getattr(options, key.replace("-", "_"))
        if value is not None:
            values[key] = value
    for word in options.per_file_ignores:
        pattern, colon, codes = word.rpartition(":")
        if not colon:
            raise ConfigError(f"--per-file-ignores takes `PATTERN:CODES`, not `{word}`")
        values.setdefault("extend-per-file-ignores", {}).setdefault(pattern, []).extend(config.split([codes]))
    return values


def _show_settings(options: Options, projects: Projects) -> int:
    path = options.stdin_filename or next(iter(options.paths), ".")
    project = projects.of(path)
    settings = project.for_file(path)
    lines = {
        "file": project.origin or "none",
        "select": sorted(settings.codes),
        "target": settings.target,
        "unsafe-fixes": settings.applies(Safety.UNSAFE),
        "unfixable": sorted(settings.unfixable),
        "extend-safe-fixes": sorted(settings.trusted),
        "extend-unsafe-fixes": sorted(settings.distrusted),
        "exclude": [pattern for globs in project.excluded for pattern in globs.patterns],
        "force-exclude": bool(project.value("force-exclude", False)),
        "respect-gitignore": bool(project.value("respect-gitignore", True)),
        "output-format": project.value("output-format", "full"),
        "cache-dir": _cache_folder(project),
    }
    _out(options, f"# settings for {path}\n" + "".join(f"{key} = {_toml(value)}\n" for key, value in lines.items()))
    return CLEAN


def _toml(value: Any) -> str:
    import json

    return json.dumps(value, ensure_ascii=False)


def _cache_folder(project: Project) -> str:
    from clipcheck.cache import NAME

    folder: str | None = project.value("cache-dir")
    if folder is None:
        return os.path.join(project.folder, NAME)
    layer = next(layer for layer in reversed(project.layers) if "cache-dir" in layer.values)
    return os.path.join(layer.folder, os.path.expanduser(folder))


# --- files ----------------------------------------------------------------------------------------------------------


def _check_paths(options: Options, projects: Projects, progress: Progress) -> int:
    started = time.monotonic()
    paths = options.paths or (".",)
    missing = [f"{path}: no such file or directory" for path in paths if not os.path.exists(path)]
    found = files.find([path for path in paths if os.path.exists(path)], projects)
    changed = None
    if options.since is not None or options.diff_only:
        from clipcheck import since

        changed = since.changes(options.since or "HEAD", paths)
        found = [path for path in found if changed.holds(path)]
    if options.show_files:
        _out(options, "".join(f"{path}\n" for path in found))
        return ABNORMAL if missing else CLEAN
    if not found and not missing:
        _say(options, "warning: no Python files found" if changed is None else "warning: no changed files found")
    wanted = [(path, projects.of(path).for_file(path)) for path in found]
    main = projects.of(".")
    # a baseline and a proof speak of the code as it is now; of changes, only some files are known
    keeps = not (
        options.no_cache or options.verify or changed or options.add_ignore is not None or options.add_noqa is not None
    )
    cache = _cache_folder(main) if keeps else None
    outcome = run.check_files(wanted, options.jobs, options.writes, cache, progress)
    if changed is not None and options.diff_only:
        outcome = changed.only(outcome)
    outcome = outcome._replace(errors=(*missing, *outcome.errors))
    if options.verbose:
        _say(
            options,
            f"{len(found)} files, {len(outcome.reports)} with something to say, {time.monotonic() - started:.2f} s",
        )
        for origin in sorted({project.origin for path, _ in wanted if (project := projects.of(path)).origin}):
            _say(options, f"settings from {origin}")
    if options.add_ignore is not None or options.add_noqa is not None:
        return _add_suppressions(options, outcome)
    return _finish(options, outcome, main)


def _watch(options: Options, progress: Progress, prove: Prove | None) -> int:
    """Check again whenever a file changes, until the user stops it."""
    try:
        from watchfiles import watch
    except ImportError:
        raise ConfigError("--watch needs watchfiles: pip install 'clipcheck[watch]'") from None
    paths = [path for path in options.paths or (".",) if os.path.exists(path)]
    if not paths:
        raise ConfigError("--watch: nothing to watch, no such file or directory")
    _say(options, f"watching {', '.join(paths)} (Ctrl-C ends)")
    checked = False
    # the first, empty, round says that changes are noticed from now on: none is lost while the first check runs
    for changes in watch(*paths, rust_timeout=100, yield_on_timeout=True, raise_interrupt=False):
        names = sorted({path for _, path in changes if path.endswith(_WATCHED)})
        if names:
            _say(options, f"{time.strftime('%H:%M:%S')} changed: {', '.join(names)}")
        if names or not checked:
            checked = True
            _check_paths(options, _projects(options, prove), progress)
    return CLEAN


_WATCHED = (*files.SUFFIXES, *document.MARKDOWN, *config.FILES)


def _add_suppressions(options: Options, outcome: Outcome) -> int:
    """Write a baseline."""
    from clipcheck import baseline

    form, reason = ("noqa", options.add_noqa) if options.add_noqa is not None else ("ignore", options.add_ignore)
    reports, count = list(outcome.reports), 0
    errors = list(outcome.errors)
    for one in reports:
        data, added = baseline.added(one, form, reason or "")
        if added:
            try:
                files.write(one.path, data, one.data)
                count += added
            except (OSError, files.Changed) as error:
                errors.append(str(error))
    for line in errors:
        _say(options, f"error: {line}")
    _out(options, f"Added {count} suppression{'' if count == 1 else 's'}.\n")
    return ABNORMAL if errors else CLEAN


# --- standard input -------------------------------------------------------------------------------------------------


def _check_stdin(options: Options, projects: Projects) -> int:
    """Code on stdin; what a fix makes of it goes to stdout, and then findings to stderr."""
    name = options.stdin_filename or "-"
    data = sys.stdin.buffer.read()
    project = projects.of(options.stdin_filename or ".")
    if options.stdin_filename and files.is_left_out(name, projects):
        if options.writes:
            _write_bytes(data)
        return CLEAN
    settings = project.for_file(name) if options.stdin_filename else project.settings
    one = engine.run(name, data, settings)
    outcome = Outcome((one,), 1, one.errors)
    if options.writes:
        _write_bytes(one.now)
    return _finish(options, outcome, project, stdin=True)


def _write_bytes(data: bytes) -> None:
    with _closed_pipe_is_fine():
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()


# --- what is shown ----------------------------------------------------------------------------------------------------


def _finish(options: Options, outcome: Outcome, project: Project, stdin: bool = False) -> int:
    code = _exit_code(options, outcome)
    for error in outcome.errors:
        _say(options, f"error: {error}")
    for warning in outcome.warnings:
        _say(options, f"warning: {warning}")
    if options.diff:
        from clipcheck.report import diff

        names = [("" if stdin else shown(one.path)) for one in outcome.reports]
        pieces = (piece for one, name in zip(outcome.reports, names, strict=True) for piece in diff.of_file(one, name))
        _out(options, "".join(pieces))
        if not options.quiet:
            _say(options, (text.proofs(outcome) + text.would_fix(outcome)).rstrip("\n"))
        return code
    if options.only_verdicts and project.value("output-format", "full") in FOR_PEOPLE:
        _out(options, text.verdicts(outcome))
        return code
    aside = stdin and options.writes
    if options.fix_only:
        closing = text.fixes(outcome) if options.show_fixes else ""
        closing += "" if options.quiet else text.did_fix(outcome)
        _out(options, closing, aside)
        return code
    _out(options, _rendered(options, outcome, project, code, aside), aside)
    return code


def _rendered(options: Options, outcome: Outcome, project: Project, code: int, aside: bool) -> str:
    shape: str = project.value("output-format", "full")
    if options.statistics:
        from clipcheck.report import statistics

        return statistics.report(outcome, shape.startswith("json"))
    stream = sys.stderr if aside else sys.stdout
    view = View(
        color=shape in FOR_PEOPLE and not options.output_file and paint.wanted(options.color, stream),
        fixing=options.writes,
        summary=not options.quiet,
        category=options.sarif_category,
        exit_code=code,
    )
    before = text.fixes(outcome) if options.show_fixes and shape in FOR_PEOPLE else ""
    before += text.proofs(outcome) if options.writes and shape in FOR_PEOPLE else ""
    return before + report.render(shape, outcome, view)


def _exit_code(options: Options, outcome: Outcome) -> int:
    """2 beats 1 beats 0."""
    if outcome.errors:
        return ABNORMAL
    if options.exit_zero or options.only_verdicts:
        return CLEAN
    if options.diff or options.exit_non_zero_on_fix:
        fixed = bool(outcome.fixed)
        left = bool(outcome.findings) and not (options.diff or options.fix_only)
        return FINDINGS if fixed or left else CLEAN
    return FINDINGS if outcome.findings and not options.fix_only else CLEAN


def _out(options: Options, content: str, aside: bool = False) -> None:
    """Show text on stdout, or where the options send it."""
    if options.silent and not options.output_file:
        return
    if options.output_file:
        try:
            with open(options.output_file, "w", encoding="utf-8", newline="\n") as file:
                file.write(content)
        except OSError as error:
            raise ConfigError(f"{options.output_file}: cannot be written: {error.strerror}") from None
        return
    stream = sys.stderr if aside else sys.stdout
    with _closed_pipe_is_fine():
        _encodable(stream.write, content, stream.encoding or "utf-8")
        stream.flush()


def _encodable(write: Callable[[str], Any], content: str, encoding: str) -> None:
    """Write what the stream's encoding has no sign for as an escape."""
    write(content.encode(encoding, "backslashreplace").decode(encoding))


def _say(options: Options, line: str) -> None:
    if not options.silent:
        with _closed_pipe_is_fine():
            _encodable(sys.stderr.write, line + "\n", sys.stderr.encoding or "utf-8")


@contextmanager
def _closed_pipe_is_fine() -> Iterator[None]:
    """A reader such as `head` may go away; Windows says so with EINVAL."""
    try:
        yield
    except OSError as error:
        if not isinstance(error, BrokenPipeError) and error.errno != errno.EINVAL:
            raise
        # what the interpreter flushes at its end must not fail either
        devnull = os.open(os.devnull, os.O_WRONLY)
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except OSError:
                os.dup2(devnull, stream.fileno())


def complain(message: str) -> None:
    """One line on stderr."""
    _say(Options(), "error: " + " ".join(message.split("\n")))
