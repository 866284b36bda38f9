"""The program as a group of commands: a bare call is `check`, a mistyped command gets a suggestion, an error is one line."""

from __future__ import annotations

import os
import sys
from typing import Any, NoReturn

import click

from clipcheck.settings.similar import did_you_mean


class DefaultGroup(click.Group):
    """A group whose bare call is its command `check`, so that `clipcheck --fix train.py` works."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        own = {option for parameter in self.get_params(ctx) for option in parameter.opts}
        if not args or (args[0] not in self.commands and args[0] not in own):
            if args and not os.path.exists(args[0]) and (hint := did_you_mean(args[0], self.commands)):
                raise click.UsageError(f"no command, file or folder `{args[0]}`{hint}")
            args = ["check", *args]
        return super().parse_args(ctx, args)

    def main(self, *args: Any, **extra: Any) -> Any:
        """Run; whatever goes wrong is one line on stderr and exit code 2."""
        try:
            return super().main(*args, **{**extra, "standalone_mode": False})
        except click.NoSuchOption as error:
            fail(f"unknown option `{error.option_name}`{did_you_mean(error.option_name, error.possibilities or ())}")
        except click.ClickException as error:
            fail(error.format_message())
        except click.Abort:  # as click calls Ctrl-C
            fail("interrupted")
        except OSError as error:
            fail(f"{error.filename}: {error.strerror}" if error.filename else error.strerror or str(error))
        except Exception as error:
            fail(f"{type(error).__name__}: {error}. This is a bug in clipcheck, please report it")


def fail(why: str) -> NoReturn:
    from clipcheck.cli.streams import complain, let_go

    complain(why)
    let_go()
    sys.exit(2)


class Choice(click.Choice):  # type: ignore[type-arg]  # not generic before click 8.2
    """A choice whose error suggests the value that was probably meant."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            return super().convert(value, param, ctx)
        except click.BadParameter:
            *others, last = self.choices
            hint = did_you_mean(str(value), self.choices) or f" (expected {', '.join(others)} or {last})"
            name = "" if param is None else f" for `{max(param.opts, key=len)}`"
            raise click.UsageError(f"invalid value {value!r}{name}{hint}") from None
