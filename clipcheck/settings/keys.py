"""What a run is asked to do with a file, as one frozen value; the keys that set it, and whether what they are given fits."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from clipcheck.catalogue import RULES
from clipcheck.formats import FORMATS
from clipcheck.rule import TARGETS, UNUSED, Prove, Safety, Target, Tier

DEFAULT = frozenset(code for code, rule in RULES.items() if rule.tier is Tier.DEFAULT)


class ConfigError(Exception):
    """Something the user wrote cannot be obeyed; the message is one line."""


@dataclass(frozen=True)
class Settings:
    """The frozen wishes for one file, small enough to send to a worker process."""

    codes: frozenset[str] = DEFAULT
    target: Target = "clipcheck"
    fix: bool = False
    safety: Safety = Safety.SAFE
    trusted: frozenset[str] = frozenset()  # whose unsafe fixes the user takes as safe
    distrusted: frozenset[str] = frozenset()  # whose safe fixes the user takes as unsafe
    unfixable: frozenset[str] = frozenset()
    heed: bool = True  # whether comments silence findings
    report_unused: bool = True
    prefilter: bool = True  # whether rules are left out that cannot find anything; a test runs them all
    prove: Prove | None = field(default=None, compare=False, repr=False)  # tries fixes; only what it proves is applied

    def applies(self, safety: Safety) -> bool:
        return safety >= self.safety

    def trust(self, code: str, safety: Safety) -> Safety:
        """How safe a fix of this rule is here, by the user's word."""
        if code in self.unfixable or safety is Safety.MANUAL:
            return Safety.MANUAL
        if code in self.distrusted:
            return Safety.UNSAFE
        return Safety.SAFE if code in self.trusted else safety


class Layer(NamedTuple):
    """The keys that one place sets: a file, or the command line. Paths and patterns count from `folder`."""

    values: Mapping[str, Any]
    folder: str
    origin: str = ""

    def fault(self, key: str, message: str) -> ConfigError:
        line = _line_of(self.origin, key) if self.origin else 0
        return ConfigError(f"{self.origin}:{line}: {message}" if self.origin else message)


def _line_of(origin: str, key: str) -> int:
    """The line of a file of settings that sets `key`, or opens the table of that name; 1 if that cannot be told."""
    with open(origin, encoding="utf-8", errors="replace") as file:
        lines = file.read().splitlines()
    table = "tool.clipcheck" if os.path.basename(origin) == "pyproject.toml" else ""
    current = ""
    full = f"{table}.{key}" if table else key
    for number, line in enumerate(lines, 1):
        header = re.match(r"\s*\[+\s*([^\]]+?)\s*\]", line)
        if header:
            current = header[1].replace('"', "")
            if current == full or current.startswith(full + "."):
                return number
        elif current == table and re.match(rf"\s*[\"']?{re.escape(key)}[\"']?\s*[=.]", line):
            return number
    return 1


# --- the keys -------------------------------------------------------------------------------------------------------

_CODES, _GLOBS, _TABLE, _FLAG, _TEXT = (
    "a list of rule codes",
    "a list of patterns",
    "a table",
    "true or false",
    "a text",
)
KEYS: dict[str, str | tuple[str, ...]] = {
    "extend": _TEXT,
    "required-version": _TEXT,
    "select": _CODES,
    "ignore": _CODES,
    "extend-select": _CODES,
    "per-file-ignores": _TABLE,
    "extend-per-file-ignores": _TABLE,
    "exclude": _GLOBS,
    "extend-exclude": _GLOBS,
    "force-exclude": _FLAG,
    "respect-gitignore": _FLAG,
    "target": TARGETS,
    "unsafe-fixes": _FLAG,
    "fixable": _CODES,
    "unfixable": _CODES,
    "extend-safe-fixes": _CODES,
    "extend-unsafe-fixes": _CODES,
    "output-format": FORMATS,
    "cache-dir": _TEXT,
}


def checked(layer: Layer) -> Layer:
    """The layer, if every key is known and its value is of the right shape. Raises ConfigError."""
    for key, value in layer.values.items():
        kind = KEYS.get(key)
        if kind is None:
            raise layer.fault(key, f"unknown key `{shortened(key)}`{_alike(key)}")
        if isinstance(kind, tuple):
            if value not in kind:
                raise layer.fault(key, f"`{key}` is one of {', '.join(kind)}, not {shortened(repr(value))}")
        elif not _fits(kind, value):
            raise layer.fault(key, f"`{key}` is {kind}, not {shortened(repr(value))}")
        for prefix in _codes_in(kind, value):
            if not _names_a_rule(prefix):
                raise layer.fault(key, f"unknown rule code `{shortened(prefix)}` in `{key}`")
    return layer


def _fits(kind: str, value: Any) -> bool:
    match kind:
        case "true or false":
            return isinstance(value, bool)
        case "a text":
            return isinstance(value, str)
        case "a table":
            return isinstance(value, dict) and all(_fits(_CODES, codes) for codes in value.values())
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _codes_in(kind: str | tuple[str, ...], value: Any) -> list[str]:
    if kind == _CODES:
        return list(value)
    return [code for codes in value.values() for code in codes] if kind == _TABLE else []


def shortened(text: str) -> str:
    """A value as a message can hold it."""
    return text if len(text) <= 80 else f"{text[:77]}..."


def _alike(key: str) -> str:
    from difflib import get_close_matches

    near = get_close_matches(key.replace("_", "-"), KEYS, 1)
    return f", did you mean `{near[0]}`?" if near else ""


# --- selection ------------------------------------------------------------------------------------------------------


def select(
    chosen: Iterable[str], extra: Iterable[str], ignored: Iterable[str], base: frozenset[str] = DEFAULT
) -> frozenset[str]:
    """The codes that run: the longest prefix that names a code decides, `ignored` wins ties. Raises ConfigError.

    Without `chosen`, `base` stays as far as `ignored` does not name it.
    """
    chosen, extra, ignored = split(chosen), split(extra), split(ignored)
    for prefix in (*chosen, *extra, *ignored):
        if not _names_a_rule(prefix):
            raise ConfigError(f"unknown rule code `{prefix}` (`clipcheck rules` lists them)")
    wanted = set()
    for code in RULES:
        on = max((_reach(code, prefix) for prefix in {*chosen, *extra}), default=-1)
        if not chosen and code in base:
            on = max(on, 0)
        off = max((_reach(code, prefix) for prefix in ignored), default=-1)
        if on >= 0 and on > off:
            wanted.add(code)
    return frozenset(wanted)


def split(words: Iterable[str]) -> list[str]:
    """Codes from words that may hold several, with commas between."""
    return [code.strip() for word in words for code in word.split(",") if code.strip()]


def _names_a_rule(prefix: str) -> bool:
    return prefix in ("ALL", UNUSED) or any(code.startswith(prefix) for code in RULES if prefix)


def _reach(code: str, prefix: str) -> int:
    """How closely a prefix names a code: its length, 0 for ALL, -1 if it does not."""
    if prefix == "ALL":
        return 0
    return len(prefix) if code.startswith(prefix) else -1


def matching(prefixes: Iterable[str]) -> frozenset[str]:
    return frozenset(code for prefix in prefixes for code in RULES if _reach(code, prefix) >= 0)
