"""The command line: words in, exit code out. No logic of its own; what a command needs is imported inside it."""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import click

from clipcheck import __version__
from clipcheck.options import OF_CHECK, CheckCommand


class DefaultGroup(click.Group):
    """A group whose bare call is its command `check`, so that `clipcheck --fix train.py` works."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        own = {option for parameter in self.get_params(ctx) for option in parameter.opts}
        if not args or (args[0] not in self.commands and args[0] not in own):
            args = ["check", *args]
        return super().parse_args(ctx, args)

    def main(self, *args: Any, **extra: Any) -> Any:
        """Run, with every fault of usage as one line on stderr and exit code 2."""
        try:
            return super().main(*args, **{**extra, "standalone_mode": False})
        except click.ClickException as error:
            from clipcheck.command import complain

            complain(error.format_message())
        except click.Abort:
            pass
        sys.exit(2)


@click.group(cls=DefaultGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, "--version", "-V", message="clipcheck %(version)s")
def main() -> None:
    """Find gradient-clipping mistakes in PyTorch code, mend them, and prove each mend by running it.

    `clipcheck PATHS` is short for `clipcheck check PATHS`.
    """


@main.command(cls=CheckCommand, params=OF_CHECK)
def check(**words: Any) -> None:
    """Check files and folders (default: the current folder; `-` is stdin).

    Exit code: 0 for no findings, 1 for findings, 2 for anything that went wrong.
    """
    from clipcheck import command

    options = command.Options(**words)
    with _progress("checking", show=not (options.quiet or options.silent)) as step:
        code = command.check(options, step)
    sys.exit(code)


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
        with _progress("verifying") as step:
            done = itertools.count(1)
            rows = pairs.verify(found, jobs or os.cpu_count() or 1, lambda: step(next(done), len(found)))
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
def _progress(label: str, show: bool = True) -> Iterator[Callable[[int, int], None]]:
    """A bar on a terminal's stderr, once the work has taken a second: gives what to call with steps done and to do."""
    start = time.monotonic()
    with ExitStack() as stack:
        bar: Any = None

        def step(done: int, total: int) -> None:
            nonlocal bar
            if bar is None and show and sys.stderr.isatty() and time.monotonic() - start > 1:
                bar = stack.enter_context(click.progressbar(length=total, label=label, file=sys.stderr))
            if bar is not None:
                bar.update(done - bar.pos)

        yield step


if __name__ == "__main__":
    main()
