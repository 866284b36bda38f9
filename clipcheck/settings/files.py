"""Settings files: which they are, their TOML, and what they extend."""

from __future__ import annotations

import os
import re
import sys
from typing import Any

from clipcheck import __version__, disk
from clipcheck.settings.keys import ConfigError, Layer, checked, shortened

FILES = (".clipcheck.toml", "clipcheck.toml", "pyproject.toml")


def users_file() -> str:
    """The user's own settings file, for projects without one."""
    home = os.environ.get("APPDATA") if sys.platform == "win32" else os.environ.get("XDG_CONFIG_HOME")
    folder = os.path.join(home or os.path.join(os.path.expanduser("~"), ".config"), "clipcheck")
    found = (os.path.join(folder, name) for name in FILES)
    return next((path for path in found if os.path.isfile(path)), "")


def read_chain(path: str, seen: tuple[str, ...] = ()) -> tuple[Layer, ...]:
    """The layer of a file after those that it extends; nothing for a pyproject.toml without a table of ours."""
    values = _read(path)
    if values is None:
        return ()
    path = _shown(path)
    layer = checked(Layer(values, os.path.dirname(os.path.abspath(path)), path))
    _require(layer)
    if "extend" not in values:
        return (layer,)
    other = os.path.normpath(os.path.join(layer.folder, os.path.expanduser(values["extend"])))
    if os.path.abspath(path) in seen or not os.path.isfile(other):
        wrong = "leads back to this file" if os.path.isfile(other) else f"no such file: {values['extend']}"
        raise layer.fault("extend", f"`extend`: {wrong}")
    return (*read_chain(other, (*seen, os.path.abspath(path))), layer)


def _read(path: str) -> dict[str, Any] | None:
    try:
        data = disk.read(path)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    project = os.path.basename(path) == "pyproject.toml"
    if project and b"clipcheck" not in data:  # reading TOML costs more than the rest of the search
        return None
    values = parse_toml(data.decode("utf-8", "replace"), _shown(path))
    if not project:
        return values
    tool = values.get("tool", {})
    found = tool.get("clipcheck") if isinstance(tool, dict) else None
    return found if isinstance(found, dict) else None


def parse_toml(text: str, origin: str = "") -> dict[str, Any]:
    """The values in a TOML string. Raises ConfigError with the line."""
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        values: dict[str, Any] = tomllib.loads(text)
    except RecursionError:
        raise ConfigError(f"{origin}: nested too deeply" if origin else "nested too deeply") from None
    except tomllib.TOMLDecodeError as error:
        message = str(error)
        at = re.search(r" \(at line (\d+), column \d+\)", message)
        last = text.count("\n") + 1
        where = f"{origin}:{at[1] if at else last}: " if origin else ""
        raise ConfigError(f"{where}{message.replace(at[0], '') if at and origin else message}") from None
    return values


def _require(layer: Layer) -> None:
    """Refuse to run if the settings require another version; a version alone means exactly that one."""
    wanted = layer.values.get("required-version")
    if wanted is None:
        return
    from packaging.specifiers import InvalidSpecifier, SpecifierSet

    alone = wanted.lstrip()[:1] not in ("=", "<", ">", "!", "~")
    try:
        holds = SpecifierSet(f"=={wanted}" if alone else wanted, prereleases=True).contains(__version__)
    except (InvalidSpecifier, ValueError):  # the latter if a number has more digits than Python allows
        message = f"`required-version` must be a version such as `>=0.1`, not {shortened(repr(wanted))}"
        raise layer.fault("required-version", message) from None
    if not holds:
        raise layer.fault("required-version", f"clipcheck {shortened(wanted)} is required, this is {__version__}")


def _shown(path: str) -> str:
    """A path as people read it: relative to the current folder if it is below it."""
    return disk.below(path) or path
