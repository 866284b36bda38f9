"""Which settings are in force where: the files that set them, found, read, and layered under the command line."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from clipcheck.catalogue import RULES
from clipcheck.rule import UNUSED, Safety
from clipcheck.settings.files import FILES, read_chain, users_file
from clipcheck.settings.globs import Globs
from clipcheck.settings.keys import DEFAULT, Layer, Settings, checked, matching, select
from clipcheck.settings.table import EXCLUDED


@dataclass(frozen=True)
class Project:
    """The settings in force in a folder: layers from the widest (what is extended) to the nearest (the command line)."""

    layers: tuple[Layer, ...]
    base: Settings = field(default_factory=Settings)

    def value(self, key: str, default: Any = None) -> Any:
        """The value in the nearest layer that sets `key`."""
        return next((layer.values[key] for layer in reversed(self.layers) if key in layer.values), default)

    def all_codes(self, *keys: str) -> frozenset[str]:
        return matching(prefix for layer in self.layers for key in keys for prefix in layer.values.get(key, ()))

    @property
    def origin(self) -> str:
        """The file that the settings come from, "" for none."""
        return next((layer.origin for layer in reversed(self.layers) if layer.origin), "")

    @property
    def folder(self) -> str:
        """The project's folder: that of its settings, else the current one."""
        return os.path.dirname(os.path.abspath(self.origin)) if self.origin else os.getcwd()

    @cached_property
    def settings(self) -> Settings:
        codes = DEFAULT
        for layer in self.layers:
            chosen, extra, ignored = (layer.values.get(key, ()) for key in ("select", "extend-select", "ignore"))
            codes = select(chosen, extra, ignored, codes)
        fixable = self.value("fixable")
        unfixable = self.all_codes("unfixable") | (
            frozenset(RULES) - matching(fixable) if fixable is not None else set()
        )
        return replace(
            self.base,
            codes=codes,
            target=self.value("target", self.base.target),
            safety=Safety.UNSAFE if self.value("unsafe-fixes") else Safety.SAFE,
            trusted=self.all_codes("extend-safe-fixes"),
            distrusted=self.all_codes("extend-unsafe-fixes"),
            unfixable=frozenset(unfixable),
            report_unused=not any(UNUSED in layer.values.get("ignore", ()) for layer in self.layers),
        )

    def for_file(self, path: str) -> Settings:
        """The settings of a file of this project: without the rules that `per-file-ignores` takes out."""
        ignored = [codes for globs, codes in self._ignored_in if globs.match(path)]
        if not ignored:
            return self.settings
        unused = self.settings.report_unused and not any(UNUSED in codes for codes in ignored)
        without = self.settings.codes - matching(code for codes in ignored for code in codes)
        return replace(self.settings, codes=without, report_unused=unused)

    @cached_property
    def _ignored_in(self) -> list[tuple[Globs, tuple[str, ...]]]:
        pairs: list[tuple[Globs, tuple[str, ...]]] = []
        for layer in self.layers:
            if "per-file-ignores" in layer.values:
                pairs = []
            for key in ("per-file-ignores", "extend-per-file-ignores"):
                for pattern, codes in layer.values.get(key, {}).items():
                    pairs.append((Globs((pattern,), layer.folder), tuple(codes)))
        return pairs

    def excludes(self, path: str, is_folder: bool = False) -> bool:
        return any(globs.match(path, is_folder) for globs in self.excluded)

    @cached_property
    def excluded(self) -> list[Globs]:
        """What is skipped: a plain `exclude` replaces the default folders and that of a wider layer."""
        plain = Globs(EXCLUDED, self.folder)
        more = []
        for layer in self.layers:
            if "exclude" in layer.values:
                plain = Globs(tuple(layer.values["exclude"]), layer.folder)
            if "extend-exclude" in layer.values:
                more.append(Globs(tuple(layer.values["extend-exclude"]), layer.folder))
        return [plain, *more]


class Projects:
    """Finds the project of any folder; each folder is searched once.

    `command` is what the command line sets and wins over files. `isolated` reads no file, `file` reads that one alone.
    """

    def __init__(self, command: Layer, base: Settings, isolated: bool = False, file: str = "") -> None:
        self._command = checked(command)
        self._base = base
        self._fixed = self._project(read_chain(file) if file else ()) if file or isolated else None
        self._of: dict[str, Project] = {}
        self._of_named: dict[str, Project] = {}  # by the folder as it is named

    @property
    def here(self) -> Project:
        """The project of the current folder."""
        return self._of_folder(os.getcwd())

    def of(self, path: str) -> Project:
        """The project of a file or folder. Raises ConfigError."""
        return self._of_folder(os.path.abspath(path)) if os.path.isdir(path) else self.of_file(path)

    def of_file(self, path: str) -> Project:
        """Like `of`, without asking the disk about each of many files."""
        named = os.path.dirname(path)
        known = self._of_named.get(named)
        if known is None:
            known = self._of_named[named] = self._of_folder(os.path.abspath(named))
        return known

    def _of_folder(self, folder: str) -> Project:
        if self._fixed is not None:
            return self._fixed
        known = self._of.get(folder)
        if known is None:
            known = self._of[folder] = self._look(folder)
        return known

    def _look(self, folder: str) -> Project:
        for name in FILES:
            path = os.path.join(folder, name)
            if os.path.isfile(path) and (chain := read_chain(path)):
                return self._project(chain)
        above = os.path.dirname(folder)
        if above != folder:
            return self._of_folder(above)
        user = users_file()
        return self._project(read_chain(user) if user else ())

    def _project(self, layers: tuple[Layer, ...]) -> Project:
        return Project((*layers, self._command), self._base)
