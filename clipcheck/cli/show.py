"""What a run prints: the report on stdout, errors, warnings and summaries of fixes on stderr."""

from __future__ import annotations

import os
import sys

from clipcheck import report
from clipcheck.cli.arguments import Options
from clipcheck.cli.streams import put, say
from clipcheck.engine.results import Outcome
from clipcheck.report import paint, text
from clipcheck.report.view import Looked, View, shown
from clipcheck.report.visible import visible_lines
from clipcheck.settings.dependencies import NOTE, adds_runtime, declares_clipcheck
from clipcheck.settings.projects import Project

# Formats that end with a summary; the others are for programs.
FOR_PEOPLE = ("full", "concise", "grouped")


def show(
    options: Options,
    outcome: Outcome,
    project: Project,
    exit_code: int,
    looked: Looked | None,
    stdin: bool,
) -> None:
    """Print the result of a run, in the format that the options and the project ask for."""
    for error in outcome.errors:
        say(options, f"error: {error}")
    for warning in outcome.warnings:
        say(options, f"warning: {warning}")
    if _needs_clipcheck(outcome):
        say(options, f"note: {NOTE}")
    if options.diff:
        _show_diff(options, outcome, stdin)
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


def _needs_clipcheck(outcome: Outcome) -> bool:
    """Whether fixed code imports the runtime in a project that does not say so."""
    adding = [one.path for one in outcome.reports if one.fixed_data and adds_runtime(one.data, one.fixed_data)]
    return any(not declares_clipcheck(folder) for folder in {os.path.dirname(os.path.abspath(path)) for path in adding})


def _show_diff(options: Options, outcome: Outcome, stdin: bool) -> None:
    from clipcheck.report import diff

    names = [("" if stdin else shown(one.path)) for one in outcome.reports]
    pieces = (piece for one, name in zip(outcome.reports, names, strict=True) for piece in diff.of_file(one, name))
    content = "".join(pieces)
    if not options.output_file and sys.stdout is not None and sys.stdout.isatty():
        content = visible_lines(content)  # elsewhere it stays as it is: it is to be applied
    in_color = not options.output_file and paint.wanted(options.color, sys.stdout)
    put(options, diff.painted(content, paint.Paint(in_color)) if in_color else content)
    if not options.quiet:
        for line in (text.verified(outcome) + text.would_fix(outcome)).splitlines():
            say(options, line)


def _rendered(
    options: Options, outcome: Outcome, project: Project, exit_code: int, looked: Looked | None, aside: bool
) -> str:
    shape: str = project.value("output-format", "full")
    stream = sys.stderr if aside else sys.stdout
    view = View(
        color=shape in FOR_PEOPLE and not options.output_file and paint.wanted(options.color, stream),
        fixing=options.writes,
        summary=not options.quiet,
        category=options.sarif_category,
        exit_code=exit_code,
        looked=looked,
    )
    if options.statistics:
        from clipcheck.report import statistics

        return statistics.report(outcome, view, shape.startswith("json"))
    content = report.render(shape, outcome, view)
    if shape not in FOR_PEOPLE:
        return content
    return (text.fixes(outcome) if options.show_fixes else "") + text.verified(outcome) + content
