"""The command line: words in, exit code out. It contains no logic; what a command needs is imported inside it."""

from __future__ import annotations

import sys
from typing import Any

import click

from clipcheck import __version__, extras
from clipcheck.cli import reference
from clipcheck.cli.group import Choice, DefaultGroup
from clipcheck.cli.options import OF_CHECK, CheckCommand
from clipcheck.cli.progress import progress


@click.group(cls=DefaultGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, "--version", "-V", message="clipcheck %(version)s")
def main() -> None:
    """Find gradient-clipping mistakes in PyTorch code, fix them, and verify each fix by running it.

    `clipcheck PATHS` is short for `clipcheck check PATHS`.
    """


for _command in (reference.rule, reference.rules, reference.config, reference.show_help):
    main.add_command(_command)


@main.command(short_help="Check files and folders.", cls=CheckCommand, params=OF_CHECK)
def check(**words: Any) -> None:
    """Check files and folders (default: the current folder; `-` is stdin).

    Exit code: 0 if nothing was found, 1 if there are findings, 2 if something went wrong.
    """
    from clipcheck.cli.arguments import Options
    from clipcheck.cli.check import check as check_as_asked
    from clipcheck.settings.keys import ConfigError

    options = Options(**words)
    try:
        with progress("checking", show=not (options.quiet or options.silent)) as step:
            code = check_as_asked(options, step)
    except ConfigError as error:
        raise click.UsageError(str(error)) from None
    sys.exit(code)


@main.command(short_help="Remove caches.")
@click.argument("folders", nargs=-1)
def clean(folders: tuple[str, ...]) -> None:
    """Remove the caches in the given folders and below (default: the current folder)."""
    from clipcheck.engine.cache import remove
    from clipcheck.report.visible import visible

    for path in remove(folders or (".",)):
        _print(f"removed {visible(path)}")


@main.command(params=[reference.output_format()])
def version(output_format: str) -> None:
    """Print the version."""
    _print(f"clipcheck {__version__}" if output_format == "text" else f'{{"version": "{__version__}"}}')


@main.command("generate-shell-completion")
@click.argument("shell", type=Choice(["bash", "zsh", "fish"]))
def generate_shell_completion(shell: str) -> None:
    """Generate a shell completion script."""
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    assert kind is not None
    completion = kind(main, {}, "clipcheck", "_CLIPCHECK_COMPLETE")
    _print(completion.source_template % completion.source_vars())


@main.command(short_help="Run each fix before and after on torch.")
@click.argument("paths", nargs=-1)
@click.option("--select", multiple=True, metavar="RULES", help="Verify these rules only.")
@click.option("--unsafe-fixes", is_flag=True, default=None, help="With PATHS: verify fixes that change training too.")
@click.option("--target", metavar="clipcheck|torch|MODULE", help="With PATHS: which functions fixes call.")
@click.option("--isolated", is_flag=True, help="With PATHS: ignore all settings files.")
@click.option("--output-format", type=Choice(["full", "json"]), default="full", help="How results are printed.")
@click.option(
    "-j", "--jobs", type=click.IntRange(min=0), default=0, metavar="N", help="Number of processes; 0 is one per core."
)
def verify(paths: tuple[str, ...], output_format: str, jobs: int, **words: Any) -> None:
    """Run code before and after each fix on torch and compare the results.

    With PATHS, each fix found there is run on random gradients: only the statements that it replaces, in a sandboxed
    process. Exit code 2 if a fix is refuted, else 0. Without PATHS, the examples of the rules are trained: exit code 1
    if the claim of one does not hold, else 0.
    """
    from clipcheck.cli.arguments import Options
    from clipcheck.cli.check import verify_examples, verify_paths
    from clipcheck.settings.keys import ConfigError

    try:
        with progress("verifying") as step:
            if paths:
                code = verify_paths(Options(paths=paths, output_format=output_format, **words), step)
            else:
                shown, code = verify_examples(words["select"], output_format, jobs, step)
                _print(shown.removesuffix("\n"))
    except ConfigError as error:
        raise click.UsageError(str(error)) from None
    sys.exit(code)


@main.command(short_help="Copy the runtime into your project.")
@click.argument("folder")
@click.option(
    "--check", "only_check", is_flag=True, help="Check whether the copy is current; exit code 1 if it is not."
)
@click.option("--force", is_flag=True, help="Overwrite files that were edited by hand.")
def vendor(folder: str, only_check: bool, force: bool) -> None:
    """Copy the runtime to FOLDER, as a package of your project.

    Code that is fixed with `--target PACKAGE` runs without clipcheck. Run the command again after an upgrade of
    clipcheck. Files that were edited by hand are never overwritten without --force.
    """
    from clipcheck.cli.vendor import differences, vendor
    from clipcheck.settings.keys import ConfigError

    try:
        found = differences(folder) if only_check else vendor(folder, force)
    except ConfigError as error:
        raise click.UsageError(str(error)) from None
    _print((found or f"{folder} is current.").removesuffix("\n"))
    sys.exit(1 if only_check and found else 0)


@main.command(short_help="Start the language server.")
def server() -> None:
    """Start the language server, for editors (LSP over standard input and output)."""
    try:
        from clipcheck.editor.server import main as serve
    except ModuleNotFoundError as error:
        raise click.UsageError(f"the server needs `{error.name}`: {extras.command('lsp')}") from None
    serve()


def _print(text: str) -> None:
    from clipcheck.cli.arguments import Options
    from clipcheck.cli.streams import put

    put(Options(), text + "\n")


@main.command(
    short_help="Measure the runtime on this machine.",
    context_settings={"ignore_unknown_options": True, "help_option_names": []},
    add_help_option=False,
)
@click.argument("words", nargs=-1, type=click.UNPROCESSED)
@click.pass_context
def bench(ctx: click.Context, words: tuple[str, ...]) -> None:
    """Measure the runtime on this machine against torch and hand-written loops: clip, norm, step, beliefs."""
    try:
        from clipcheck.bench.cli import bench as group  # imports torch
    except ModuleNotFoundError as error:
        raise click.UsageError(f"the benchmark needs `{error.name}`: {extras.command('torch')}") from None
    group().main(list(words) or ["--help"], prog_name=f"{ctx.find_root().info_name} bench", standalone_mode=False)


@main.command(
    short_help="Report what clipping does in a training run.",
    context_settings={"ignore_unknown_options": True, "help_option_names": []},
    add_help_option=False,
)
@click.argument("words", nargs=-1, type=click.UNPROCESSED)
def audit(words: tuple[str, ...]) -> None:
    """Run a training script and report what clipping does in it, as in `clipcheck audit train.py --epochs 1`.

    `clipcheck audit --help` lists the options; it needs torch. Exit code: 0 for no faults, 1 for faults, 2 if the program
    failed or no step was seen.
    """
    try:
        from clipcheck.audit.__main__ import main as run  # imports torch
    except ModuleNotFoundError as error:
        raise click.UsageError(f"the audit needs `{error.name}`: {extras.command('torch')}") from None
    sys.exit(run(list(words)))
