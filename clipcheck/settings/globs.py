"""Patterns of paths, read as git reads a `.gitignore`; plain names cost nothing."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial

from clipcheck.disk import below
from clipcheck.settings.patterns import Pattern, parse

_PLAIN = re.compile(r"[\w-][\w.-]*")


@dataclass(frozen=True)
class Globs:
    """Some patterns, relative to a folder, and whether they match a path."""

    patterns: tuple[str, ...]
    folder: str

    def match(self, path: str, is_folder: bool = False) -> bool:
        """Whether a pattern matches the path or a folder that contains it."""
        return self.decides(path, is_folder) is True

    def decides(self, path: str, is_folder: bool) -> bool | None:
        """True if the last pattern that fits matches the path, False if it begins with `!`, None if no pattern fits. A
        folder that matches does so with everything in it.
        """
        parts = self._parts(path)
        if self._names is not None:
            return True if not self._names.isdisjoint(parts or [os.path.basename(path)]) else None
        if parts is None:
            return None
        above = (self._last_word(parts[:end], True) for end in range(1, len(parts)))
        return True if any(above) else self._last_word(parts, is_folder)

    def decides_entry(self, folder: str, name: str, is_folder: bool) -> bool | None:
        """Like `decides`, for an entry of a folder that is being walked, and so does not match itself."""
        if self._names is not None:
            return True if name in self._names else None
        parts = self._parts_of(folder)
        return None if parts is None else self._last_word([*parts, name], is_folder)

    def _last_word(self, parts: list[str], is_folder: bool) -> bool | None:
        for pattern in self._parsed:
            if pattern.fits(parts, is_folder):
                return not pattern.negated
        return None

    @cached_property
    def _names(self) -> frozenset[str] | None:
        """The patterns where all are plain names."""
        return frozenset(self.patterns) if all(map(_PLAIN.fullmatch, self.patterns)) else None

    @cached_property
    def _parsed(self) -> list[Pattern]:
        """The patterns from the last to the first."""
        return [pattern for line in reversed(self.patterns) if (pattern := parse(line)) is not None]

    def _parts(self, path: str) -> list[str] | None:
        """The names on the way from the patterns' folder to the path, None if the path is not below it."""
        return _way(self.folder, path) or None

    @cached_property
    def _parts_of(self) -> Callable[[str], list[str] | None]:
        """The names on the way to a folder, remembered while its entries are looked up one by one."""
        return lru_cache(maxsize=1)(partial(_way, self.folder))


def _way(top: str, path: str) -> list[str] | None:
    """The names on the way from a folder to a path, None if the path is not below it."""
    relative = below(path, top)
    return None if relative is None else [part for part in relative.split(os.sep) if part != os.curdir]
