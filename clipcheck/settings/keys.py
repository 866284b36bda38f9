"""What a run is asked to do with a file, as one frozen value; whether the keys that set it are valid; which rules are selected."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from clipcheck.catalogue import RULES
from clipcheck.rule import TARGETS, UNUSED, Safety, Target, Tier, Verify, is_target
from clipcheck.settings.similar import did_you_mean
from clipcheck.settings.table import FLAG, KEYS, MODULE, RULES_LIST, STRING, TABLE

DEFAULT = frozenset(code for code, rule in RULES.items() if rule.tier is Tier.DEFAULT)


class ConfigError(Exception):
    """A setting or an option is wrong; the message is one line."""


@dataclass(frozen=True)
class Settings:
    """The settings for one file, frozen, and small enough to send to a worker process."""

    codes: frozenset[str] = DEFAULT
    target: Target = "clipcheck"
    fix: bool = False
    safety: Safety = Safety.SAFE
    trusted: frozenset[str] = frozenset()  # rules whose unsafe fixes the user considers safe
    distrusted: frozenset[str] = frozenset()  # rules whose safe fixes the user considers unsafe
    unfixable: frozenset[str] = frozenset()
    suppressions: bool = True  # whether comments suppress findings
    report_unused: bool = True
    prefilter: bool = True  # whether rules that cannot find anything are skipped; a test runs them all
    verify: Verify | None = None  # runs fixes on torch; only verified ones are applied

    def applies(self, safety: Safety) -> bool:
        return safety >= self.safety

    def trust(self, code: str, safety: Safety) -> Safety:
        """How safe the user considers a fix of this rule."""
        if code in self.unfixable or safety is Safety.MANUAL:
            return Safety.MANUAL
        if code in self.distrusted:
            return Safety.UNSAFE
        return Safety.SAFE if code in self.trusted else safety


class Layer(NamedTuple):
    """The keys that one place sets: a file, or the command line. Paths and patterns are relative to `folder`."""

    values: Mapping[str, Any]
    folder: str
    origin: str = ""

    def fault(self, key: str, message: str) -> ConfigError:
        line = _line_of(self.origin, key) if self.origin else 0
        return ConfigError(f"{self.origin}:{line}: {message}" if self.origin else message)


def _line_of(origin: str, key: str) -> int:
    """The line of a settings file that sets `key`, or opens the table of that name; 1 if that cannot be told."""
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


def checked(layer: Layer) -> Layer:
    """The layer with its rules by code, if every key is known and its value is of the right type. Raises ConfigError."""
    values = dict(layer.values)
    for key, value in layer.values.items():
        if key not in KEYS:
            raise layer.fault(key, f"unknown key `{shortened(key)}`{did_you_mean(key.replace('_', '-'), KEYS)}")
        kind = KEYS[key].kind
        if isinstance(kind, tuple):
            if value not in kind:
                expected = f"{', '.join(kind[:-1])} or {kind[-1]}"
                raise layer.fault(key, f"invalid value {shortened(repr(value))} for `{key}` (expected {expected})")
        elif not _fits(kind, value):
            raise layer.fault(key, f"`{key}` must be {kind}, not {shortened(repr(value))}")
        try:
            values[key] = _by_code(kind, value, f" in `{key}`")
        except ConfigError as error:
            raise layer.fault(key, str(error)) from None
    return layer._replace(values=values)


def _fits(kind: str, value: Any) -> bool:
    if kind == FLAG:
        return isinstance(value, bool)
    if kind == STRING:
        return isinstance(value, str)
    if kind == MODULE:
        return isinstance(value, str) and is_target(value) and not _is_misspelled(value)
    if kind == TABLE:
        return isinstance(value, dict) and all(_fits(RULES_LIST, rules) for rules in value.values())
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _is_misspelled(target: str) -> bool:
    """Whether a target is similar to one of clipcheck's, as `Torch` and `pytorch` are."""
    return target not in TARGETS and bool(did_you_mean(target.lower(), TARGETS, 0.75))


def _by_code(kind: str | tuple[str, ...], value: Any, where: str) -> Any:
    if kind == RULES_LIST:
        return [selector(word, where) for word in value]
    return {pattern: _by_code(RULES_LIST, rules, where) for pattern, rules in value.items()} if kind == TABLE else value


def shortened(text: str) -> str:
    """A value, short enough for a message."""
    return text if len(text) <= 80 else f"{text[:77]}..."


# --- selection ------------------------------------------------------------------------------------------------------


def select(
    chosen: Iterable[str], extra: Iterable[str], ignored: Iterable[str], base: frozenset[str] = DEFAULT
) -> frozenset[str]:
    """The codes that run: the longest prefix that names a code wins, `ignored` wins ties. Raises ConfigError.

    Without `chosen`, these are the codes in `base` that `ignored` does not name.
    """
    chosen, extra, ignored = ([selector(word) for word in split(words)] for words in (chosen, extra, ignored))
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


def selector(word: str, where: str = "") -> str:
    """What a word selects: `ALL`, the code of a rule or a prefix of codes; a rule may be given by its name. Any case.

    Raises ConfigError.
    """
    upper, lower = word.upper(), word.lower()
    if lower == UNUSED:
        return UNUSED
    if upper and (upper == "ALL" or any(code.startswith(upper) for code in RULES)):
        return upper
    names = {rule.name: code for code, rule in RULES.items()}
    if lower in names:
        return names[lower]
    hint = did_you_mean(lower, names) or did_you_mean(upper, RULES, 0.8) or " (`clipcheck rules` lists them)"
    raise ConfigError(f"unknown rule `{shortened(word)}`{where}{hint}")


def _reach(code: str, prefix: str) -> int:
    """How closely a prefix names a code: its length, 0 for ALL, -1 if it does not."""
    if prefix == "ALL":
        return 0
    return len(prefix) if code.startswith(prefix) else -1


def matching(prefixes: Iterable[str]) -> frozenset[str]:
    return frozenset(code for prefix in prefixes for code in RULES if _reach(code, prefix) >= 0)
