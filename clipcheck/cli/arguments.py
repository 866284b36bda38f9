"""The options of `check` as a value, and the settings that follow from them."""

from __future__ import annotations

import os
from typing import Any, NamedTuple

from clipcheck.disk import below
from clipcheck.rule import Verify
from clipcheck.settings.files import parse_toml, users_file
from clipcheck.settings.keys import ConfigError, Layer, Settings, split
from clipcheck.settings.projects import Project, Projects


class Options(NamedTuple):
    """The values of the options, by name; None for an option that was not given."""

    paths: tuple[str, ...] = ()
    fix: bool = False
    unsafe_fixes: bool | None = None
    fix_only: bool = False
    diff: bool = False
    verify: bool = False
    only_verdicts: bool = False
    show_fixes: bool = False
    fixable: tuple[str, ...] = ()
    unfixable: tuple[str, ...] = ()
    target: str | None = None
    exit_zero: bool = False
    exit_non_zero_on_fix: bool = False
    select: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    extend_select: tuple[str, ...] = ()
    per_file_ignores: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    extend_exclude: tuple[str, ...] = ()
    force_exclude: bool | None = None
    respect_gitignore: bool | None = None
    stdin_filename: str | None = None
    since: str | None = None
    diff_only: bool = False
    show_files: bool = False
    add_noqa: str | None = None
    add_ignore: str | None = None
    ignore_noqa: bool = False
    output_format: str | None = None
    output_file: str | None = None
    statistics: bool = False
    color: str = "auto"
    quiet: bool = False
    silent: bool = False
    verbose: bool = False
    sarif_category: str = ""
    config: tuple[str, ...] = ()
    isolated: bool = False
    show_settings: bool = False
    no_cache: bool = False
    cache_dir: str | None = None
    jobs: int = 0
    watch: bool = False

    @property
    def searched(self) -> tuple[str, ...]:
        """The files and folders to check."""
        return self.paths or (".",)

    @property
    def wants_fixes(self) -> bool:
        return self.fix or self.fix_only or self.diff

    @property
    def writes(self) -> bool:
        return (self.fix or self.fix_only) and not self.diff

    @property
    def adds_suppressions(self) -> bool:
        return self.add_ignore is not None or self.add_noqa is not None

    @property
    def reads_stdin(self) -> bool:
        return self.paths == ("-",) or (not self.paths and self.stdin_filename is not None)


def projects_of(options: Options, verify: Verify | None) -> Projects:
    """The settings of each file; options win over `--config 'key = value'`, which wins over files."""
    file = ""
    inline: dict[str, Any] = {}
    for word in options.config:
        if os.path.isfile(word) or word.endswith(".toml"):
            file = word
        elif "=" in word:
            inline |= parse_toml(word)
        else:
            raise ConfigError(f"--config takes a file or `key = value`, not `{word}`")
    if file and not os.path.isfile(file):
        raise ConfigError(f"{file}: no such file")
    base = Settings(fix=options.wants_fixes, suppressions=not options.ignore_noqa, verify=verify)
    command = Layer({**inline, **_given(options)}, os.getcwd())
    return Projects(command, base, options.isolated, file)


def _given(options: Options) -> dict[str, Any]:
    """The options that set what files can set too, by key."""
    values: dict[str, Any] = {}
    for key in ("select", "ignore", "extend-select", "fixable", "unfixable", "exclude", "extend-exclude"):
        words = split(getattr(options, key.replace("-", "_")))
        if words:
            values[key] = words
    for key in ("unsafe-fixes", "force-exclude", "respect-gitignore", "target", "cache-dir", "output-format"):
        value = getattr(options, key.replace("-", "_"))
        if value is not None:
            values[key] = value
    for word in options.per_file_ignores:
        pattern, colon, codes = word.rpartition(":")
        if not colon:
            raise ConfigError(f"--per-file-ignores takes `PATTERN:RULES`, not `{word}`")
        values.setdefault("extend-per-file-ignores", {}).setdefault(pattern, []).extend(split([codes]))
    return values


def cache_folder(project: Project) -> str:
    """The folder of a project's cache."""
    from clipcheck.engine.cache import NAME

    layer = _layer_of_cache(project)
    if layer is None:
        return os.path.join(project.folder, NAME)
    return os.path.join(layer.folder, os.path.expanduser(layer.values["cache-dir"]))


def may_hold_cache(project: Project, folder: str) -> bool:
    """Whether a folder may hold a cache: it is in the project, or named by the command line or the user's own file.

    Settings files and links in a project do not count: they may have come with code that nobody has reviewed.
    """
    from clipcheck.engine.cache import written_in

    layer = _layer_of_cache(project)
    if layer is not None and (not layer.origin or os.path.abspath(layer.origin) == os.path.abspath(users_file())):
        return True
    top = os.path.realpath(project.folder)
    return all(below(os.path.realpath(path), top) is not None for path in written_in(folder))


def _layer_of_cache(project: Project) -> Layer | None:
    return next((layer for layer in reversed(project.layers) if "cache-dir" in layer.values), None)
