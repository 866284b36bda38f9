"""The options of `check`, in the groups that `--help` shows them in."""

from __future__ import annotations

from typing import Any

import click

from clipcheck.formats import FORMATS
from clipcheck.rule import TARGETS

_codes = {"multiple": True, "metavar": "CODES"}
_patterns = {"multiple": True, "metavar": "PATTERNS"}
_flag = {"is_flag": True}


def _option(*names: str, **attributes: Any) -> click.Option:
    return click.Option(names, **attributes)


_GROUPS: dict[str, tuple[click.Option, ...]] = {
    "Fixing": (
        _option("--fix", **_flag, help="Apply safe fixes."),
        _option(
            "--unsafe-fixes/--no-unsafe-fixes", default=None, help="Let --fix take fixes that change training, too."
        ),
        _option("--fix-only", **_flag, help="Apply fixes and do not report what is left."),
        _option("--diff", **_flag, help="Show what --fix would change; change nothing."),
        _option("--verify", **_flag, help="Try each fix on torch; take only what is proved to change nothing."),
        _option("--show-fixes", **_flag, help="List the fixes that were made."),
        _option("--fixable", **_codes, help="Fix these rules only."),
        _option("--unfixable", **_codes, help="Never fix these rules."),
        _option(
            "--target",
            type=click.Choice(TARGETS),
            help="Where rewritten calls go: clipcheck.runtime (default) or torch's own functions.",
        ),
    ),
    "Exit code": (
        _option("-e", "--exit-zero", **_flag, help="Exit 0 with findings, too."),
        _option("--exit-non-zero-on-fix", **_flag, help="Exit 1 if a fix was made, even if nothing is left."),
    ),
    "Rules": (
        _option("--select", **_codes, help="Run these rules only (CLIP001, CLIP1, ALL)."),
        _option("--ignore", **_codes, help="Leave these rules out."),
        _option("--extend-select", **_codes, help="Run these rules as well."),
        _option(
            "--per-file-ignores", multiple=True, metavar="PATTERN:CODES", help="Leave rules out in files of a pattern."
        ),
    ),
    "Files": (
        _option("--exclude", **_patterns, help="Leave these files and folders out, in place of the usual ones."),
        _option("--extend-exclude", **_patterns, help="Leave these out as well."),
        _option(
            "--force-exclude/--no-force-exclude", default=None, help="Leave out excluded files that are named, too."
        ),
        _option(
            "--respect-gitignore/--no-respect-gitignore", default=None, help="Leave out what git ignores (default)."
        ),
        _option("--stdin-filename", metavar="PATH", help="What the code on stdin (`-`) is called."),
        _option("--since", metavar="REV", help="Only files that changed since a git revision."),
        _option("--diff-only", **_flag, help="With --since: only findings on lines that changed."),
        _option("--show-files", **_flag, help="List the files that would be checked."),
    ),
    "Suppression": (
        _option("--add-ignore", metavar="[=REASON]", help="Silence today's findings: `# clipcheck: ignore[…]`."),
        _option("--add-noqa", metavar="[=REASON]", help="Silence today's findings: `# noqa: …`."),
        _option("--ignore-noqa", **_flag, help="Show what comments silence."),
    ),
    "Output": (
        _option(
            "--output-format",
            type=click.Choice(FORMATS),
            envvar="CLIPCHECK_OUTPUT_FORMAT",
            help="How findings are shown.",
        ),
        _option("-o", "--output-file", metavar="FILE", help="Write the report to a file."),
        _option("--statistics", **_flag, help="Count the findings of each rule."),
        _option("--color", type=click.Choice(["auto", "always", "never"]), default="auto", help="Colour."),
        _option("-q", "--quiet", **_flag, help="Findings only, no summary."),
        _option("-s", "--silent", **_flag, help="Nothing but the exit code."),
        _option("-v", "--verbose", **_flag, help="Say which settings were used and how long it took."),
        _option("--sarif-category", default="", metavar="NAME", help="Category of the SARIF report."),
    ),
    "Settings": (
        _option(
            "--config", multiple=True, metavar="FILE|KEY=VALUE", help="A file of settings, or one setting as TOML."
        ),
        _option("--isolated", **_flag, help="Read no configuration file."),
        _option("--show-settings", **_flag, help="Show the settings that hold for a path."),
        _option("-n", "--no-cache", **_flag, envvar="CLIPCHECK_NO_CACHE", help="Read and write no cache."),
        _option("--cache-dir", metavar="FOLDER", envvar="CLIPCHECK_CACHE_DIR", help="Where the cache is kept."),
        _option("-j", "--jobs", type=click.IntRange(min=0), default=0, help="Processes to use; 0: one a core."),
        _option("-w", "--watch", **_flag, help="Check again whenever a file changes."),
    ),
}
# Their value is optional, so that it must follow a `=`: a word behind them is a path.
_OPTIONAL = ("--add-ignore", "--add-noqa")


OF_CHECK: list[click.Parameter] = [
    click.Argument(["paths"], nargs=-1),
    *(option for group in _GROUPS.values() for option in group),
]


class CheckCommand(click.Command):
    """A command that shows its options in groups, and reads `--add-ignore` without a value."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        words = args[: args.index("--")] if "--" in args else args
        valued = [f"{word}=" if word in _OPTIONAL else word for word in words]
        return super().parse_args(ctx, valued + args[len(words) :])

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for title, options in _GROUPS.items():
            with formatter.section(title):
                formatter.write_dl([record for option in options if (record := option.get_help_record(ctx))])
