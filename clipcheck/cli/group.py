"""The program as a group of commands: a bare call is `check`, a mistyped command gets a suggestion, an error is one line."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from typing import Any, NoReturn

import click


class DefaultGroup(click.Group):
    """A group whose bare call is its command `check`, so that `clipcheck --fix train.py` works."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        own = {option for parameter in self.get_params(ctx) for option in parameter.opts}
        if not args or (args[0] not in self.commands and args[0] not in own):
            if args and not os.path.exists(args[0]) and (command := alike(args[0], self.commands)):
                raise click.UsageError(f"no command, file or folder `{args[0]}`, did you mean `{command}`?")
            args = ["check", *args]
        return super().parse_args(ctx, args)

    def main(self, *args: Any, **extra: Any) -> Any:
        """Run; whatever goes wrong is one line on stderr and exit code 2."""
        try:
            return super().main(*args, **{**extra, "standalone_mode": False})
        except click.ClickException as error:
            fail(error.format_message())
        except (click.Abort, KeyboardInterrupt):
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


def alike(word: str, known: Iterable[str]) -> str:
    """The known word that is most similar to a mistyped one, "" if none is."""
    from difflib import get_close_matches

    return next(iter(get_close_matches(word, list(known), 1, 0.7)), "")
