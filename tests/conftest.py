"""What several test files share: where the project and the optional corpus lie."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest
from click.testing import CliRunner

PROJECT = Path(__file__).resolve().parent.parent


def runner() -> CliRunner:
    """Calls commands with stdout and stderr apart, which click before 8.2 does only if it is told to."""
    if "mix_stderr" in inspect.signature(CliRunner).parameters:
        return CliRunner(mix_stderr=False)  # type: ignore[call-arg]
    return CliRunner()


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder beside the checkout that holds labelled code and documents; tests that need it skip without it."""
    folder = PROJECT.parent / "shared"
    if not (folder / "corpus").is_dir():
        pytest.skip("the corpus is not beside this checkout (../shared)")
    return folder
