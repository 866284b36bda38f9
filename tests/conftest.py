"""What several test files share: the location of the project and of the optional corpus."""

from __future__ import annotations

import gc
import importlib
import inspect
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

PROJECT = Path(__file__).resolve().parent.parent
PACKAGES = 13


def runner() -> CliRunner:
    """Runs commands with stdout and stderr separate, which click before 8.2 does only on request."""
    if "mix_stderr" in inspect.signature(CliRunner).parameters:
        return CliRunner(mix_stderr=False)  # type: ignore[call-arg]
    return CliRunner()


@pytest.fixture(scope="module")
def frozen_heap() -> Iterator[None]:
    """A watch of the audit looks through all objects of the process; those that are there before are looked through once."""
    importlib.import_module("torch._dynamo")  # which the first optimizer would load
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder next to the checkout with labeled code and documents; tests that need it skip without it."""
    folder = PROJECT.parent / "shared"
    if not (folder / "corpus").is_dir():
        pytest.skip("the corpus is not beside this checkout (../shared)")
    return folder


@pytest.fixture(scope="session")
def tree(shared: Path) -> Path:
    """The unpacked packages, downloaded once per checkout; skips, naming what is missing, if they are unavailable."""
    folder = PROJECT / ".corpus" / "tree"
    if not folder.is_dir() or len(list(folder.iterdir())) < PACKAGES:
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        done = subprocess.run(
            ["bash", str(shared / "corpus" / "tree.sh"), str(folder)],
            env={**os.environ, "PATH": path},
            capture_output=True,
            text=True,
        )
        missing = re.findall(r"tree.sh: (\S+) could not be downloaded", done.stderr)
        if missing or done.returncode:
            pytest.skip(
                f"packages of real training code cannot be had here: {', '.join(missing) or done.stderr[-200:]}"
            )
    return folder
