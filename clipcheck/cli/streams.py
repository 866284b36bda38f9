"""Where output goes: the report to stdout or a file, everything else to stderr; and what happens when they are closed."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TextIO

from clipcheck.cli.arguments import Options
from clipcheck.report.visible import visible
from clipcheck.settings.keys import ConfigError


def put(options: Options, content: str, aside: bool = False) -> None:
    """Show text on stdout, or where the options send it. Raises ConfigError and OSError."""
    if options.silent and not options.output_file:
        return
    if options.output_file:
        try:
            with open(options.output_file, "w", encoding="utf-8", errors="backslashreplace", newline="") as file:
                file.write(content)
        except OSError as error:
            raise ConfigError(f"{options.output_file}: cannot be written: {error.strerror}") from None
        return
    _write(_open("stderr" if aside else "stdout"), content)


def put_bytes(data: bytes) -> None:
    """A file's content on stdout, as it is. Raises OSError."""
    stream = _open("stdout")
    with _closed_pipe_is_fine():
        stream.buffer.write(data)
        stream.buffer.flush()


def get_bytes() -> bytes:
    """What comes in on stdin. Raises OSError."""
    return _open("stdin").buffer.read()


def say(options: Options, line: str) -> None:
    """One line on stderr; it is lost if stderr is closed."""
    if not options.silent and sys.stderr is not None:
        with suppress(OSError):
            _write(sys.stderr, visible(line) + "\n")


def complain(message: str) -> None:
    """A usage error: one line on stderr."""
    say(Options(), "error: " + " ".join(message.split("\n")))


def let_go() -> None:
    """Drop what is left in the streams, so that the interpreter does not fail over it when it exits."""
    devnull = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except OSError:
            os.dup2(devnull, stream.fileno())


def _open(name: str) -> TextIO:
    """A standard stream; where it was closed before we began, the interpreter has none."""
    stream: TextIO | None = getattr(sys, name)
    if stream is None:
        raise OSError(errno.EBADF, f"{name} is closed")
    return stream


def _write(stream: TextIO, content: str) -> None:
    """Write, with escapes for characters that the stream's encoding lacks."""
    encoding = stream.encoding or "utf-8"
    with _closed_pipe_is_fine():
        stream.write(content.encode(encoding, "backslashreplace").decode(encoding))
        stream.flush()


@contextmanager
def _closed_pipe_is_fine() -> Iterator[None]:
    """A reader such as `head` may stop reading; Windows reports that as EINVAL."""
    try:
        yield
    except OSError as error:
        if not isinstance(error, BrokenPipeError) and error.errno != errno.EINVAL:
            raise
        let_go()
