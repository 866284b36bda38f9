"""How to install the packages of an extra, in the way that clipcheck itself was installed."""

from __future__ import annotations

import sys


def command(extra: str, prefix: str = sys.prefix) -> str:
    """The command that adds an extra to the environment that runs now: one of pipx's, of uv's, or any other."""
    parts = prefix.replace("\\", "/").split("/")
    if "pipx" in parts and "venvs" in parts:
        return f"pipx install --force 'clipcheck[{extra}]'"
    if "uv" in parts and "tools" in parts:
        return f"uv tool install 'clipcheck[{extra}]'"
    return f"pip install 'clipcheck[{extra}]'"
