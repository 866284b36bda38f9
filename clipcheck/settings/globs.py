"""Patterns of paths, read as git reads a `.gitignore`; plain names cost nothing, pathspec is loaded for the rest."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathspec import GitIgnoreSpec

_PLAIN = re.compile(r"[\w.-]+")


@dataclass(frozen=True)
class Globs:
    """Some patterns that count from a folder, and whether they match a path."""

    patterns: tuple[str, ...]
    folder: str

    def match(self, path: str, is_folder: bool = False) -> bool:
        """Whether a pattern takes the path or a folder on its way."""
        return self.decides(path, is_folder) is True

    def decides(self, path: str, is_folder: bool = False) -> bool | None:
        """True where the last pattern that fits takes the path, False where it begins with `!`, None for neither."""
        relative = self._relative(path)
        if self._names is not None:
            parts = [os.path.basename(path)] if relative is None else relative.split("/")
            return True if not self._names.isdisjoint(parts) else None
        if relative is None:
            return None
        return self._spec.check_file(relative + "/" if is_folder else relative).include

    def takes_entry(self, path: str, is_folder: bool) -> bool:
        """As `match`, for an entry of a folder that is being walked: plain names are asked of the entry alone."""
        if self._names is not None:
            return os.path.basename(path) in self._names
        return self.match(path, is_folder)

    @cached_property
    def _names(self) -> frozenset[str] | None:
        """The patterns where all are plain names."""
        return frozenset(self.patterns) if all(map(_PLAIN.fullmatch, self.patterns)) else None

    @cached_property
    def _spec(self) -> GitIgnoreSpec:
        from pathspec import GitIgnoreSpec

        return GitIgnoreSpec.from_lines(self.patterns)

    def _relative(self, path: str) -> str | None:
        """The path as seen from the patterns' folder, None where it lies elsewhere."""
        try:
            relative = os.path.relpath(path, self.folder)
        except ValueError:  # another drive
            return None
        return None if relative == ".." or relative.startswith(".." + os.sep) else relative.replace(os.sep, "/")
