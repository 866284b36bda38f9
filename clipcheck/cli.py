"""The command line: words in, exit code out. No logic of its own; what a command needs is imported inside it."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import click

from clipcheck import __version__

FORMATS = ("full", "concise", "json")


class DefaultGroup(click.Group):
    """A group whose bare call is its command `check`, so that `clipcheck --fix train.py` works."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        own = {option for parameter in self.get_params(ctx) for option in parameter.opts}
        if not args or (args[0] not in self.commands and args[0] not in own):
            args = ["check", *args]
        return super().parse_args(ctx, args)


@click.group(cls=DefaultGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, "--version", "-V", message="clipcheck %(version)s")
def main() -> None:
    """Find gradient-clipping mistakes in PyTorch code, mend them, and prove each mend by running it.

    `clipcheck PATHS` is short for `clipcheck check PATHS`.
    """


@main.command()
@click.argument("paths", nargs=-1)
@click.option("--fix", is_flag=True, help="Apply safe fixes.")
@click.option("--unsafe-fixes", is_flag=True, help="Let --fix and --diff take fixes that change training, too.")
@click.option("--diff", is_flag=True, help="Show what --fix would change; change nothing.")
@click.option("--select", multiple=True, metavar="CODES", help="Run these rules only (CLIP001, CLIP1, ALL).")
@click.option("--ignore", multiple=True, metavar="CODES", help="Leave these rules out.")
@click.option("--extend-select", multiple=True, metavar="CODES", help="Run these rules as well.")
@click.option(
    "--target",
    type=click.Choice(["clipcheck", "torch"]),
    default="clipcheck",
    help="Where rewritten calls go: clipcheck.runtime (default) or torch's own functions.",
)
@click.option("--output-format", type=click.Choice(FORMATS), default="full", help="How findings are shown.")
@click.option("-j", "--jobs", type=click.IntRange(min=0), default=0, help="Processes to use; 0: one a core.")
@click.option("--isolated", is_flag=True, help="Read no configuration file.")
@click.option("--no-cache", is_flag=True, help="Read and write no cache.")
def check(paths: tuple[str, ...], **options: Any) -> None:
    """Check files and folders (default: the current folder)."""
    from clipcheck import run
    from clipcheck.config import ConfigError, Settings, select
    from clipcheck.files import MissingPath
    from clipcheck.rule import Safety

    wants_fixes = options["fix"] or options["diff"]
    try:
        settings = Settings(
            codes=select(options["select"], options["extend_select"], options["ignore"]),
            target=options["target"],
            fix=wants_fixes,
            safety=Safety.UNSAFE if options["unsafe_fixes"] else Safety.SAFE,
        )
        outcome = run.check(paths or (".",), settings, options["jobs"], write=options["fix"] and not options["diff"])
    except (ConfigError, MissingPath) as error:
        raise click.UsageError(str(error)) from None
    for error_line in outcome.errors:
        click.echo(f"error: {error_line}", err=True)
    if not outcome.files:
        click.echo("warning: no Python files found", err=True)
    _show(outcome, settings, options)
    left = outcome.fixed if options["diff"] else outcome.findings
    sys.exit(2 if outcome.errors else 1 if left else 0)


def _show(outcome: Any, settings: Any, options: dict[str, Any]) -> None:
    from clipcheck.report import diff, json, text

    if options["diff"]:
        click.echo(diff.report(outcome), nl=False)
        click.echo(text.would_fix(outcome), nl=False, err=True)
        return
    shapes = {"full": text.full, "concise": text.concise, "json": json.report}
    click.echo(shapes[options["output_format"]](outcome, settings), nl=options["output_format"] == "json")


@main.command()
@click.argument("code", required=False)
@click.option("--all", "everything", is_flag=True, help="All rules, one after the other.")
def rule(code: str | None, everything: bool) -> None:
    """Explain a rule: what it finds, why that is bad, and what its fix does."""
    from clipcheck.catalogue import RULES
    from clipcheck.pages import page

    if everything:
        click.echo("\n\n".join(page(one) for one in RULES.values()))
    elif code in RULES:
        click.echo(page(RULES[code]))
    else:
        raise click.UsageError(f"unknown rule code `{code}`" if code else "name a rule, or give --all")


@main.command()
def rules() -> None:
    """List all rules."""
    from clipcheck.catalogue import RULES

    for one in RULES.values():
        click.echo(f"{one.code}  {one.tier.value:8}  {one.name}")


@main.command()
@click.option("--select", multiple=True, metavar="CODES", help="Only the examples of these rules.")
@click.option("--output-format", type=click.Choice(["full", "json"]), default="full", help="How the outcome is shown.")
@click.option("-j", "--jobs", type=click.IntRange(min=0), default=0, help="Processes to use; 0: one a core.")
def verify(select: tuple[str, ...], output_format: str, jobs: int) -> None:
    """Run the rules' examples before and after their fix on torch, and show whether their claims hold."""
    import os

    from clipcheck import config
    from clipcheck.catalogue import RULES
    from clipcheck.verify import pairs, table
    from clipcheck.verify.worker import NoTorch

    try:
        codes = config.select(select, (), ()) if select else frozenset(RULES)
        found = pairs.find(sorted(codes))
        if not found:
            raise config.ConfigError("no example of these rules has a fix to verify")
        with _progress(len(found), "verifying") as done:
            rows = pairs.verify(found, jobs or os.cpu_count() or 1, done)
    except (config.ConfigError, NoTorch) as error:
        raise click.UsageError(str(error)) from None
    click.echo(table.as_json(rows) if output_format == "json" else table.table(rows), nl=output_format == "json")
    sys.exit(1 if table.failed(rows) else 0)


@main.command()
def server() -> None:
    """Serve an editor over standard input and output (the language server protocol)."""
    try:
        from clipcheck.server import main as serve
    except ModuleNotFoundError as error:
        raise click.UsageError(f"the server needs `{error.name}`: pip install 'clipcheck[lsp]'") from None
    serve()


@contextmanager
def _progress(length: int, label: str) -> Iterator[Callable[[], None]]:
    """A bar on a terminal's stderr, once the work has taken a second: gives what to call after each step."""
    start = time.monotonic()
    steps = 0
    with ExitStack() as stack:
        bar: Any = None

        def done() -> None:
            nonlocal bar, steps
            steps += 1
            if bar is None and sys.stderr.isatty() and time.monotonic() - start > 1:
                bar = stack.enter_context(click.progressbar(length=length, label=label, file=sys.stderr))
                bar.update(steps)
            elif bar is not None:
                bar.update(1)

        yield done


if __name__ == "__main__":
    main()
