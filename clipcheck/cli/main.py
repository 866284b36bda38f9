"""The command line: words in, exit code out. No logic of its own; what a command needs is imported inside it."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NoReturn

import click

from clipcheck import __version__
from clipcheck.cli.options import OF_CHECK, CheckCommand
from clipcheck.rule import TARGETS


class DefaultGroup(click.Group):
    """A group whose bare call is its command `check`, so that `clipcheck --fix train.py` works."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        own = {option for parameter in self.get_params(ctx) for option in parameter.opts}
        if not args or (args[0] not in self.commands and args[0] not in own):
            args = ["check", *args]
        return super().parse_args(ctx, args)

    def main(self, *args: Any, **extra: Any) -> Any:
        """Run; whatever goes wrong is one line on stderr and exit code 2."""
        try:
            return super().main(*args, **{**extra, "standalone_mode": False})
        except click.ClickException as error:
            _fail(error.format_message())
        except (click.Abort, KeyboardInterrupt):
            _fail("interrupted")
        except OSError as error:
            _fail(f"{error.filename}: {error.strerror}" if error.filename else error.strerror or str(error))
        except Exception as error:
            _fail(f"{type(error).__name__}: {error}. This is a fault of clipcheck, please report it")


def _fail(why: str) -> NoReturn:
    from clipcheck.cli.streams import complain, let_go

    complain(why)
    let_go()
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
    from clipcheck.cli.arguments import Options
    from clipcheck.cli.check import check as check_as_asked
    from clipcheck.settings.keys import ConfigError

    options = Options(**words)
    try:
        with _progress("checking", show=not (options.quiet or options.silent)) as step:
            code = check_as_asked(options, step)
    except ConfigError as error:
        raise click.UsageError(str(error)) from None
    sys.exit(code)


@main.command()
@click.argument("code", required=False)
@click.option("--all", "everything", is_flag=True, help="All rules, one after the other.")
@click.option("--output-format", type=click.Choice(["text", "json"]), default="text", help="How a rule is shown.")
def rule(code: str | None, everything: bool, output_format: str) -> None:
    """Explain a rule: what it finds, why that is bad, and what its fix does."""
    from clipcheck import pages
    from clipcheck.catalogue import RULES

    if not everything and code not in RULES:
        raise click.UsageError(f"unknown rule code `{code}`" if code else "name a rule, or give --all")
    chosen = list(RULES.values()) if everything else [RULES[str(code)]]
    if output_format == "text":
        _print("\n\n".join(map(pages.page, chosen)))
        return
    import json

    described = [{**one._asdict(), "tier": one.tier.value, "page": pages.page(one)} for one in chosen]
    for one in described:
        del one["needs"], one["near"]
    _print(json.dumps(described if everything else described[0], indent=2))


@main.command()
def rules() -> None:
    """List all rules."""
    from clipcheck.catalogue import RULES

    for one in RULES.values():
        _print(f"{one.code}  {one.tier.value:8}  {one.name}")


@main.command()
@click.argument("key", required=False)
def config(key: str | None) -> None:
    """List the keys of a file of settings, or say what one takes."""
    from clipcheck.settings.keys import KEYS

    if key is not None and key not in KEYS:
        raise click.UsageError(f"unknown key `{key}` (`clipcheck config` lists them)")
    for name in [key] if key else KEYS:
        kind = KEYS[name]
        _print(f"{name}  {kind if isinstance(kind, str) else 'one of ' + ', '.join(kind)}")


@main.command()
@click.argument("folders", nargs=-1)
def clean(folders: tuple[str, ...]) -> None:
    """Remove the caches below the given folders (default: the current folder)."""
    from clipcheck.engine.cache import remove
    from clipcheck.report.visible import visible

    for path in remove(folders or (".",)):
        _print(f"removed {visible(path)}")


@main.command()
def version() -> None:
    """Print the version."""
    _print(f"clipcheck {__version__}")


@main.command("generate-shell-completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def generate_shell_completion(shell: str) -> None:
    """Print what makes a shell complete clipcheck's words."""
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    assert kind is not None
    completion = kind(main, {}, "clipcheck", "_CLIPCHECK_COMPLETE")
    _print(completion.source_template % completion.source_vars())


@main.command()
@click.argument("paths", nargs=-1)
@click.option("--select", multiple=True, metavar="CODES", help="Only these rules.")
@click.option("--unsafe-fixes", is_flag=True, default=None, help="With PATHS: try fixes that change training, too.")
@click.option("--target", type=click.Choice(TARGETS), help="With PATHS: whose functions the fixes call.")
@click.option("--isolated", is_flag=True, help="With PATHS: read no settings from files.")
@click.option("--output-format", type=click.Choice(["full", "json"]), default="full", help="How the outcome is shown.")
@click.option("-j", "--jobs", type=click.IntRange(min=0), default=0, help="Processes to use; 0: one a core.")
def verify(paths: tuple[str, ...], output_format: str, jobs: int, **words: Any) -> None:
    """Run code before and after its fix on torch, and show how they compare.

    With PATHS each fix found there is tried on made-up gradients: only the statements that it replaces run, and only
    in a process of their own. Exit code: 0, or 2 where a fix is refuted. Without PATHS the rules' own examples are
    trained with: 0 where all claims hold, 1 where one fails.
    """
    from clipcheck.cli.arguments import Options
    from clipcheck.cli.check import verify_examples, verify_paths
    from clipcheck.settings.keys import ConfigError

    try:
        with _progress("verifying") as step:
            if paths:
                code = verify_paths(Options(paths=paths, output_format=output_format, **words), step)
            else:
                shown, code = verify_examples(words["select"], output_format, jobs, step)
                _print(shown if output_format == "json" else shown.removesuffix("\n"))
    except ConfigError as error:
        raise click.UsageError(str(error)) from None
    sys.exit(code)


@main.command()
def server() -> None:
    """Serve an editor over standard input and output (the language server protocol)."""
    try:
        from clipcheck.editor.server import main as serve
    except ModuleNotFoundError as error:
        raise click.UsageError(f"the server needs `{error.name}`: pip install 'clipcheck[lsp]'") from None
    serve()


def _print(text: str) -> None:
    from clipcheck.cli.arguments import Options
    from clipcheck.cli.streams import put

    put(Options(), text + "\n")


@contextmanager
def _progress(label: str, show: bool = True) -> Iterator[Callable[[int, int], None]]:
    """A bar on a terminal's stderr, once the work has taken a second: gives what to call with steps done and to do."""
    start = time.monotonic()
    on_terminal = sys.stderr is not None and sys.stderr.isatty()
    with ExitStack() as stack:
        bar: Any = None

        def step(done: int, total: int) -> None:
            nonlocal bar
            if bar is None and show and on_terminal and time.monotonic() - start > 1:
                bar = stack.enter_context(click.progressbar(length=total, label=label, file=sys.stderr))
            if bar is not None:
                bar.update(done - bar.pos)

        yield step


@main.command(context_settings={"ignore_unknown_options": True, "help_option_names": []}, add_help_option=False)
@click.argument("words", nargs=-1, type=click.UNPROCESSED)
@click.pass_context
def bench(ctx: click.Context, words: tuple[str, ...]) -> None:
    """Measure the runtime on this machine, beside torch and hand-written loops: clip, norm, beliefs."""
    try:
        from clipcheck.bench.cli import bench as group  # imports torch
    except ModuleNotFoundError as error:
        raise click.UsageError(f"the benchmark needs {error.name}: pip install 'clipcheck[torch]'") from None
    group().main(list(words), prog_name=f"{ctx.find_root().info_name} bench", standalone_mode=False)


if __name__ == "__main__":
    main()
