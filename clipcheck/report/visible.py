"""Text from files and their names, made harmless for terminals and for programs that read a build log."""

from __future__ import annotations

import re
from typing import Any

# What moves a cursor, sets colors, starts a new line or changes the direction of writing; a tab does none of that.
_CONTROL = "[\x00-\x08\x0a-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
# Azure reads such a command anywhere in a line, and GitHub its old ones.
_COMMAND = r"#(?=#(?:vso)?\[)"
_COMMANDS = re.compile(_COMMAND)
_IN_LINE = re.compile(f"{_CONTROL}|{_COMMAND}")
_IN_LINES = re.compile(rf"(?!\r?\n){_CONTROL}")


def visible(text: str) -> str:
    """A line, with each character that would do something written as its escape."""
    return text if text.isprintable() and "##" not in text else _IN_LINE.sub(_escape, text)


def visible_lines(text: str) -> str:
    """Like `visible`, for several lines that a terminal shows."""
    return _IN_LINES.sub(_escape, text)


def as_json(value: object, **how: Any) -> str:
    """A value as JSON, in which such a command is spelled so that no log reader takes it for one."""
    import json  # most runs show no JSON

    return _COMMANDS.sub(r"\\u0023", json.dumps(value, **how))


def as_xml(text: str) -> str:
    """XML, likewise."""
    return _COMMANDS.sub("&#35;", text)


def _escape(found: re.Match[str]) -> str:
    return {"\n": "\\n", "\r": "\\r"}.get(found.group()) or f"\\u{ord(found.group()):04x}"
