"""What several test files share: where the project and the optional corpus lie."""

from __future__ import annotations

from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder beside the checkout that holds labelled code and documents; tests that need it skip without it."""
    folder = PROJECT.parent / "shared"
    if not (folder / "corpus").is_dir():
        pytest.skip("the corpus is not beside this checkout (../shared)")
    return folder
