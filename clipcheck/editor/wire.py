"""The messages on standard input, found again after one whose length is wrong."""

from __future__ import annotations

import re
from typing import BinaryIO, NamedTuple

# No text that is opened has 100 MB; a header that promises more would take all that follows with it, or all memory.
_HEADER = re.compile(rb"Content-Length: \d{1,8}\r\n\Z")


class Messages(NamedTuple):
    """A stream to read headers and bodies from.

    Where a body was longer than its header said, or shorter, the next header is in the middle of a line. None is
    inside a body: JSON has no line ends in its strings.
    """

    stream: BinaryIO

    def readline(self) -> bytes:
        """The next line, or the header at its end; the reader ignores what is neither a header nor blank."""
        line = self.stream.readline()
        header = _HEADER.search(line)
        if header:
            return header.group()
        return b"skipped\r\n" if line.strip() else line

    def read(self, size: int) -> bytes:
        return self.stream.read(size)
