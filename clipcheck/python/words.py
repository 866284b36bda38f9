"""The words that an identifier is made of."""

from __future__ import annotations

import re
from functools import lru_cache

_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")


@lru_cache(maxsize=8192)  # a program uses the same names again and again
def words(name: str) -> tuple[str, ...]:
    """The words of an identifier in lower case, digits separate: `gradNorm_L2` is grad, norm, l, 2."""
    return tuple(word.lower() for word in _WORD.findall(name))
