"""How to install an extra depends on how clipcheck was installed."""

from __future__ import annotations

import pytest

from clipcheck import extras


@pytest.mark.parametrize(
    ("prefix", "command"),
    [
        ("/usr", "pip install 'clipcheck[lsp]'"),
        ("/home/a/project/.venv", "pip install 'clipcheck[lsp]'"),
        ("/home/a/pipx-talk/.venv", "pip install 'clipcheck[lsp]'"),
        ("/home/a/.local/share/pipx/venvs/clipcheck", "pipx install --force 'clipcheck[lsp]'"),
        (r"C:\Users\a\pipx\venvs\clipcheck", "pipx install --force 'clipcheck[lsp]'"),
        ("/home/a/.local/share/uv/tools/clipcheck", "uv tool install 'clipcheck[lsp]'"),
    ],
)
def test_the_command_fits_the_environment(prefix: str, command: str) -> None:
    assert extras.command("lsp", prefix) == command


def test_this_environment_uses_pip() -> None:
    assert extras.command("torch") == "pip install 'clipcheck[torch]'"
