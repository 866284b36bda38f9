"""What a run is asked to do: selection, target and safety, from the command line's words to one frozen value."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from clipcheck.catalogue import RULES
from clipcheck.rule import Safety, Target, Tier

DEFAULT = frozenset(code for code, rule in RULES.items() if rule.tier is Tier.DEFAULT)


class ConfigError(Exception):
    """Something the user wrote cannot be obeyed; the message is one line."""


@dataclass(frozen=True)
class Settings:
    """The frozen wishes of one run, small enough to send to a worker process."""

    codes: frozenset[str] = DEFAULT
    target: Target = "clipcheck"
    fix: bool = False
    safety: Safety = Safety.SAFE

    def applies(self, safety: Safety) -> bool:
        return safety >= self.safety


def select(chosen: Iterable[str], extra: Iterable[str], ignored: Iterable[str]) -> frozenset[str]:
    """The codes that run: the longest prefix that names a code decides, `ignored` wins ties. Raises ConfigError."""
    chosen, extra, ignored = _split(chosen), _split(extra), _split(ignored)
    for prefix in {*chosen, *extra, *ignored}:
        if prefix != "ALL" and not any(code.startswith(prefix) for code in RULES):
            raise ConfigError(f"unknown rule code `{prefix}` (`clipcheck rules` lists them)")
    wanted = set()
    for code in RULES:
        on = max((_reach(code, prefix) for prefix in {*chosen, *extra}), default=-1)
        if not chosen and code in DEFAULT:
            on = max(on, 0)
        off = max((_reach(code, prefix) for prefix in ignored), default=-1)
        if on >= 0 and on > off:
            wanted.add(code)
    return frozenset(wanted)


def _split(words: Iterable[str]) -> list[str]:
    return [code.strip() for word in words for code in word.split(",") if code.strip()]


def _reach(code: str, prefix: str) -> int:
    """How closely a prefix names a code: its length, 0 for ALL, -1 if it does not."""
    if prefix == "ALL":
        return 0
    return len(prefix) if code.startswith(prefix) else -1
