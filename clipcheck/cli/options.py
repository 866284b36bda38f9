"""The options of `check`, in the groups that `--help` shows them in."""

from __future__ import annotations

from typing import Any

import click

from clipcheck.cli.group import Choice
from clipcheck.formats import FORMATS

_rules = {"multiple": True, "metavar": "RULES"}
_patterns = {"multiple": True, "metavar": "PATTERNS"}
_flag = {"is_flag": True}


def _option(*names: str, **attributes: Any) -> click.Option:
    return click.Option(names, **attributes)


GROUPS: dict[str, tuple[click.Option, ...]] = {
    "Fixing": (
        _option("--fix/--no-fix", default=False, help="Apply safe fixes."),
        _option(
            "--unsafe-fixes/--no-unsafe-fixes",
            default=None,
            help="Let --fix apply unsafe fixes, which change training.",
        ),
        _option("--fix-only/--no-fix-only", default=False, help="Apply fixes and report nothing else."),
        _option("--diff", **_flag, help="Print what --fix would change as a diff; change nothing."),
        _option("--verify", **_flag, help="Run each fix on torch; apply only those that are verified."),
        _option("--show-fixes/--no-show-fixes", default=False, help="List the fixes that were applied."),
        _option("--fixable", **_rules, help="Fix only these rules."),
        _option("--unfixable", **_rules, help="Never fix these rules."),
        _option(
            "--target",
            metavar="clipcheck|torch|MODULE",
            help="Which functions fixes call: clipcheck.runtime's (default), torch's own, or those of a module that "
            "`clipcheck vendor` wrote.",
        ),
    ),
    "Exit code": (
        _option("-e", "--exit-zero", **_flag, help="Exit with 0 even if there are findings."),
        _option("--exit-non-zero-on-fix", **_flag, help="Exit with 1 if a file was fixed, even if nothing remains."),
    ),
    "Rules": (
        _option("--select", **_rules, help="Run only these rules: codes, prefixes of codes, names, or ALL."),
        _option("--ignore", **_rules, help="Do not run these rules."),
        _option("--extend-select", **_rules, help="Run these rules as well."),
        _option(
            "--per-file-ignores", multiple=True, metavar="PATTERN:RULES", help="Do not run rules in matching files."
        ),
    ),
    "Files": (
        _option("--exclude", **_patterns, help="Skip these files and folders instead of the default ones."),
        _option("--extend-exclude", **_patterns, help="Skip these files and folders as well."),
        _option(
            "--force-exclude/--no-force-exclude",
            default=None,
            help="Skip excluded files even if they are named on the command line.",
        ),
        _option(
            "--respect-gitignore/--no-respect-gitignore", default=None, help="Skip files that git ignores (default)."
        ),
        _option("--stdin-filename", metavar="PATH", help="The file name of the code on stdin (`-`)."),
        _option("--since", metavar="REV", help="Check only files that changed since a git revision."),
        _option("--diff-only", **_flag, help="Report only lines that changed since --since (default: HEAD)."),
        _option("--show-files", **_flag, help="List the files that would be checked."),
    ),
    "Suppression": (
        _option("--add-ignore", metavar="[=REASON]", help="Add `# clipcheck: ignore[…]` to every line with findings."),
        _option("--add-noqa", metavar="[=REASON]", help="Add `# noqa: …` to every line with findings."),
        _option("--ignore-noqa", **_flag, help="Ignore all suppression comments."),
    ),
    "Output": (
        _option(
            "--output-format",
            type=Choice(FORMATS),
            envvar="CLIPCHECK_OUTPUT_FORMAT",
            help="How to print findings.",
        ),
        _option("-o", "--output-file", metavar="FILE", help="Write the report to a file."),
        _option("--statistics", **_flag, help="Print the number of findings of each rule."),
        _option("--color", type=Choice(["auto", "always", "never"]), default="auto", help="When to use color."),
        _option("-q", "--quiet", **_flag, help="Print findings, but no summary."),
        _option("-s", "--silent", **_flag, help="Print nothing; the exit code tells."),
        _option(
            "-v", "--verbose", **_flag, help="Print which settings are in force, where they come from, and the time."
        ),
        _option("--sarif-category", default="", metavar="NAME", help="The category of a SARIF report."),
    ),
    "Settings": (
        _option("--config", multiple=True, metavar="FILE|KEY=VALUE", help="A settings file, or one setting as TOML."),
        _option("--isolated", **_flag, help="Ignore all settings files."),
        _option("--show-settings", **_flag, help="Print the settings in force for a path."),
        _option("-n", "--no-cache", **_flag, envvar="CLIPCHECK_NO_CACHE", help="Do not read or write the cache."),
        _option("--cache-dir", metavar="FOLDER", envvar="CLIPCHECK_CACHE_DIR", help="Where to keep the cache."),
        _option(
            "-j",
            "--jobs",
            type=click.IntRange(min=0),
            default=0,
            metavar="N",
            help="Number of processes; 0 is one per core.",
        ),
        _option("-w", "--watch", **_flag, help="Check again whenever a file changes."),
    ),
}
# Their value is optional, so it must follow a `=`: the next word is a path.
_OPTIONAL = ("--add-ignore", "--add-noqa")


OF_CHECK: list[click.Parameter] = [
    click.Argument(["paths"], nargs=-1),
    *(option for group in GROUPS.values() for option in group),
]


class CheckCommand(click.Command):
    """A command that shows its options in groups, and reads `--add-ignore` without a value."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        words = args[: args.index("--")] if "--" in args else args
        valued = [f"{word}=" if word in _OPTIONAL else word for word in words]
        return super().parse_args(ctx, valued + args[len(words) :])

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for title, options in GROUPS.items():
            with formatter.section(title):
                formatter.write_dl([record for option in options if (record := option.get_help_record(ctx))])
