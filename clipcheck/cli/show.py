"""What a run shows, and where: the report on stdout or in a file, what is beside it on stderr."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from clipcheck import report
from clipcheck.cli.arguments import Options
from clipcheck.engine.results import Outcome
from clipcheck.report import paint, text
from clipcheck.report.view import Looked, View, shown
from clipcheck.settings.keys import ConfigError
from clipcheck.settings.projects import Project

# Formats that say how things stand in a closing line; the others are for machines.
FOR_PEOPLE = ("full", "concise", "grouped")


def show(
    options: Options,
    outcome: Outcome,
    project: Project,
    exit_code: int,
    looked: Looked | None = None,
    stdin: bool = False,
) -> None:
    """Show how a run came out, in the shape that the options and the project ask for."""
    for error in outcome.errors:
        say(options, f"error: {error}")
    for warning in outcome.warnings:
        say(options, f"warning: {warning}")
    if options.diff:
        from clipcheck.report import diff

        names = [("" if stdin else shown(one.path)) for one in outcome.reports]
        pieces = (piece for one, name in zip(outcome.reports, names, strict=True) for piece in diff.of_file(one, name))
        put(options, "".join(pieces))
        if not options.quiet:
            say(options, (text.proofs(outcome) + text.would_fix(outcome)).rstrip("\n"))
        return
    if options.only_verdicts and project.value("output-format", "full") in FOR_PEOPLE:
        put(options, text.verdicts(outcome))
        return
    aside = stdin and options.writes
    if options.fix_only:
        closing = text.fixes(outcome) if options.show_fixes else ""
        closing += "" if options.quiet else text.did_fix(outcome)
        put(options, closing, aside)
        return
    put(options, _rendered(options, outcome, project, exit_code, looked, aside), aside)


def _rendered(
    options: Options, outcome: Outcome, project: Project, exit_code: int, looked: Looked | None, aside: bool
) -> str:
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
        exit_code=exit_code,
        looked=looked,
    )
    before = text.fixes(outcome) if options.show_fixes and shape in FOR_PEOPLE else ""
    before += text.proofs(outcome) if options.writes and shape in FOR_PEOPLE else ""
    return before + report.render(shape, outcome, view)


def put(options: Options, content: str, aside: bool = False) -> None:
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


def say(options: Options, line: str) -> None:
    """One line on stderr, beside the report."""
    if not options.silent:
        with _closed_pipe_is_fine():
            _encodable(sys.stderr.write, line + "\n", sys.stderr.encoding or "utf-8")


def put_bytes(data: bytes) -> None:
    """A file's content on stdout, as it is."""
    with _closed_pipe_is_fine():
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()


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
    """A fault of usage: one line on stderr."""
    say(Options(), "error: " + " ".join(message.split("\n")))
