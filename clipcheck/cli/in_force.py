"""The settings in force: what `--show-settings` prints, and what `--verbose` says of where they come from."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any

from clipcheck.cli.arguments import Options, cache_folder
from clipcheck.report.visible import visible
from clipcheck.rule import Safety
from clipcheck.settings.files import users_file
from clipcheck.settings.projects import Project, Projects


def effective(options: Options, projects: Projects) -> str:
    """The settings in force for the first path, as TOML."""
    path = options.stdin_filename or options.searched[0]
    project = projects.of(path)
    settings = project.for_file(path)
    lines = {
        "file": project.origin or "none",
        "select": sorted(settings.codes),
        "target": settings.target,
        "unsafe-fixes": settings.applies(Safety.UNSAFE),
        "unfixable": sorted(settings.unfixable),
        "extend-safe-fixes": sorted(settings.trusted),
        "extend-unsafe-fixes": sorted(settings.distrusted),
        "exclude": [pattern for globs in project.excluded for pattern in globs.patterns],
        "force-exclude": bool(project.value("force-exclude", False)),
        "respect-gitignore": bool(project.value("respect-gitignore", True)),
        "output-format": project.value("output-format", "full"),
        "cache-dir": cache_folder(project),
    }
    return f"# settings for {visible(path)}\n" + "".join(f"{key} = {_toml(value)}\n" for key, value in lines.items())


def _toml(value: Any) -> str:
    import json

    return visible(json.dumps(value, ensure_ascii=False))


def reasons(options: Options, projects: Projects, paths: Sequence[str]) -> Iterator[str]:
    """A line for each settings file in force and why it is, then one for each key that is set and where."""
    used = {project.origin: project for project in map(projects.of_file, paths)}
    for origin in sorted(used):
        project = used[origin]
        yield f"settings: {origin or 'defaults'} ({_why(options, project)})"
        for key in dict.fromkeys(key for layer in project.layers for key in layer.values):
            # keys whose lists are combined are set by all layers, others by the last
            layers = [layer for layer in project.layers if key in layer.values]
            for layer in layers if key.startswith("extend-") or key == "unfixable" else layers[-1:]:
                yield f"  {key} = {_toml(layer.values[key])} ({layer.origin or 'command line'})"


def _why(options: Options, project: Project) -> str:
    if options.isolated:
        return "--isolated ignores settings files"
    if not project.origin:
        return "no settings file found"
    if any(map(os.path.isfile, options.config)):
        return "given by --config"
    if os.path.abspath(users_file()) == os.path.abspath(project.origin):
        return "your own settings file; the project has none"
    return "the nearest settings file"
