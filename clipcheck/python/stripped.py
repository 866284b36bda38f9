"""The bytes of a program without its comments and the contents of its strings: ten times as fast as parsing it."""

from __future__ import annotations

import re
from functools import lru_cache

# A comment or a string, matched from left to right, so that a quote in a comment does not open a string. Each alternative
# begins with a plain character: only then does `re` skip what is between the matches, in half of the time.
_NO_CODE = re.compile(
    rb"""
      \#[^\r\n]*
    | \"\"\" [^"\\]* (?: (?: \\. | "(?!"") ) [^"\\]* )* \"\"\"
    | \'\'\' [^'\\]* (?: (?: \\. | '(?!'') ) [^'\\]* )* \'\'\'
    | "(?!"") [^"\\\r\n]* (?: \\(?:\r\n|.) [^"\\\r\n]* )* "
    | '(?!'') [^'\\\r\n]* (?: \\(?:\r\n|.) [^'\\\r\n]* )* '
    """,
    re.VERBOSE | re.DOTALL,
)
_IN_LINE = re.compile(rb"[^\r\n]+")


@lru_cache(maxsize=1)  # the prefilter needs the words, and then the parts
def stripped(data: bytes) -> bytes:
    """The program with a blank for each comment and for each string of several words; it keeps all lines.

    A string without a blank may be a name. f-strings are kept, since they contain code in braces.
    """
    return _NO_CODE.sub(_blank, data)


def _blank(found: re.Match[bytes]) -> bytes:
    text = found.group()
    if text[:1] != b"#" and (b" " not in text or _is_formatted(found)):
        return text
    return b" " + _IN_LINE.sub(b"", text)


def _is_formatted(found: re.Match[bytes]) -> bool:
    """Whether the letters before a string are the prefix of an f-string or a t-string."""
    before = found.string[max(found.start() - 2, 0) : found.start()].lower()
    return before[-1:] in (b"f", b"t") or before in (b"fr", b"tr")
