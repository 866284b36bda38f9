"""The bytes of a program without its comments and without what its strings say: a tenth as costly as parsing it."""

from __future__ import annotations

import re
from functools import lru_cache

# A comment or a string, each tried where the one before it ends: a quote in a comment opens no string.
_NO_CODE = re.compile(
    rb"""
      \#[^\r\n]*
    | "{3} [^"\\]* (?: (?: \\. | "(?!"") ) [^"\\]* )* "{3}
    | '{3} [^'\\]* (?: (?: \\. | '(?!'') ) [^'\\]* )* '{3}
    | "(?!"") [^"\\\r\n]* (?: \\(?:\r\n|.) [^"\\\r\n]* )* "
    | '(?!'') [^'\\\r\n]* (?: \\(?:\r\n|.) [^'\\\r\n]* )* '
    """,
    re.VERBOSE | re.DOTALL,
)
_IN_LINE = re.compile(rb"[^\r\n]+")


@lru_cache(maxsize=1)  # the prefilter asks for the words, and then for the parts
def stripped(data: bytes) -> bytes:
    """The program with a blank for each comment and for each string of several words, and with all of its lines.

    A string without a blank may be a name. What an f-string has in its braces is code; so all of it stays.
    """
    return _NO_CODE.sub(_blank, data)


def _blank(found: re.Match[bytes]) -> bytes:
    text = found.group()
    if text[:1] != b"#" and (b" " not in text or _is_formatted(found)):
        return text
    return b" " + _IN_LINE.sub(b"", text) if b"\n" in text or b"\r" in text else b" "


def _is_formatted(found: re.Match[bytes]) -> bool:
    """Whether the letters before a string, if they are its own, are those of an f-string or a t-string."""
    before = found.string[max(found.start() - 2, 0) : found.start()].lower()
    return before[-1:] in (b"f", b"t") or before in (b"fr", b"tr")
