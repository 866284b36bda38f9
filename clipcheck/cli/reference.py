"""The commands that explain: rules, settings keys, and the commands themselves."""

from __future__ import annotations

from typing import Any

import click

from clipcheck.cli.group import Choice
from clipcheck.settings.similar import did_you_mean


def output_format() -> click.Option:
    """The option of the commands that print text or JSON."""
    about = "Text for people or JSON for programs."
    return click.Option(["--output-format"], type=Choice(["text", "json"]), default="text", help=about)


@click.command(short_help="Explain a rule.", params=[output_format()])
@click.argument("name", metavar="[RULE]", required=False)
@click.option("--all", "everything", is_flag=True, help="Explain all rules, one after the other.")
def rule(name: str | None, everything: bool, output_format: str) -> None:
    """Explain a rule, given by code or name: what it finds, why that is bad, and what its fix does."""
    from clipcheck import pages
    from clipcheck.catalogue import RULES

    if everything:
        chosen = pages.by_code()
    elif name:
        chosen = [RULES[_code(name)]]
    else:
        raise click.UsageError("give the code or name of a rule, or --all")
    if output_format == "text":
        _print("\n\n".join(map(pages.page, chosen)))
        return
    content = [{**pages.described(one), "page": pages.page(one)} for one in chosen]
    _print_json(content if everything else content[0])


def _code(word: str) -> str:
    """The code of the one rule that a word names."""
    from clipcheck.catalogue import RULES
    from clipcheck.settings.keys import ConfigError, selector

    try:
        code = selector(word)
    except ConfigError as error:
        raise click.UsageError(str(error)) from None
    if code not in RULES:
        raise click.UsageError(f"`{word}` is not a single rule (`clipcheck rules` lists them)")
    return code


@click.command(short_help="List all rules.", params=[output_format()])
def rules(output_format: str) -> None:
    """List all rules by code: whether they run by default, and their names."""
    from clipcheck import pages

    if output_format == "json":
        _print_json([pages.described(one) for one in pages.by_code()])
        return
    for one in pages.by_code():
        _print(f"{one.code}  {one.tier.value:8}  {one.name}")


@click.command(short_help="List or explain the keys of a settings file.", params=[output_format()])
@click.argument("key", required=False)
def config(key: str | None, output_format: str) -> None:
    """List the keys of a settings file, or explain one."""
    from clipcheck.settings.table import KEYS, described

    if key is not None and key not in KEYS:
        hint = did_you_mean(key.replace("_", "-"), KEYS) or " (`clipcheck config` lists the keys)"
        raise click.UsageError(f"unknown key `{key}`{hint}")
    if output_format == "json":
        content = {name: {**one._asdict(), "kind": one.takes} for name, one in KEYS.items()}
        _print_json(content[key] if key else content)
        return
    if key:
        _print(described(key))
        return
    width = max(map(len, KEYS))
    for name, one in KEYS.items():
        _print(f"{name:{width}}  {one.takes}")


@click.command("help")
@click.argument("command", required=False)
@click.pass_context
def show_help(ctx: click.Context, command: str | None) -> None:
    """Show the help of clipcheck or of one command."""
    parent = ctx.parent
    assert parent is not None and isinstance(parent.command, click.Group)
    if command is None:
        _print(parent.get_help())
        return
    found: Any = parent.command.get_command(parent, command)
    if found is None:
        raise click.UsageError(f"unknown command `{command}`{did_you_mean(command, parent.command.commands)}")
    if command == "bench":  # its options come from a separate group, which imports torch
        ctx.invoke(found, words=("--help",))
        return
    _print(found.get_help(click.Context(found, parent, command)))


def _print_json(content: object) -> None:
    import json

    _print(json.dumps(content, indent=2, ensure_ascii=False))


def _print(text: str) -> None:
    from clipcheck.cli.arguments import Options
    from clipcheck.cli.streams import put

    put(Options(), text + "\n")
