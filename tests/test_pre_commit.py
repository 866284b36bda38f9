"""The hooks, run by the real pre-commit on a small repository: it builds their environments with pip."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import PROJECT

pytestmark = pytest.mark.slow

BAD = "import torch\ntorch.nn.utils.clip_grad_norm(model.parameters(), 1.0)\n"
GOOD = BAD.replace("norm(", "norm_(")


def git(folder: Path, *words: str) -> str:
    done = subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b.c", *words], cwd=folder, check=True, capture_output=True, text=True)  # fmt: skip
    return done.stdout


@pytest.fixture(scope="module")
def hooks(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A repository with this checkout in its current state, and a folder for pre-commit's environments."""
    snapshot = tmp_path_factory.mktemp("clipcheck")
    for name in git(PROJECT, "ls-files", "--cached", "--others", "--exclude-standard", "-z").split("\0"):
        if name and (PROJECT / name).is_file():
            (snapshot / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(PROJECT / name, snapshot / name)
    git(snapshot, "init", "-q", ".")
    git(snapshot, "add", ".")
    git(snapshot, "commit", "-q", "-m", "as it stands")
    return snapshot, tmp_path_factory.mktemp("home")


@pytest.fixture
def repository(tmp_path: Path, hooks: tuple[Path, Path]) -> Path:
    """A user's repository that asks for all three hooks."""
    revision = git(hooks[0], "rev-parse", "HEAD").strip()
    listed = "".join(f"      - id: {name}\n" for name in ("clipcheck", "clipcheck-fix", "clipcheck-markdown"))
    config = f"repos:\n  - repo: {hooks[0].as_posix()}\n    rev: {revision}\n    hooks:\n{listed}"
    (tmp_path / ".pre-commit-config.yaml").write_text(config)
    git(tmp_path, "init", "-q", ".")
    return tmp_path


def run(repository: Path, hooks: tuple[Path, Path], hook: str) -> tuple[int, str]:
    git(repository, "add", ".")
    done = subprocess.run(
        [sys.executable, "-m", "pre_commit", "run", hook, "--all-files", "--verbose"],
        cwd=repository, env={**os.environ, "PRE_COMMIT_HOME": str(hooks[1])}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "An unexpected error has occurred" not in done.stdout, done.stdout + done.stderr
    return done.returncode, done.stdout


def test_the_hook_fails_on_findings_only(repository: Path, hooks: tuple[Path, Path]) -> None:
    (repository / "train.py").write_text(BAD)
    (repository / "n.ipynb").write_text('{"cells": [{"cell_type": "code", "source": "%s"}]}' % BAD.replace("\n", "\\n"))  # noqa: UP031
    code, output = run(repository, hooks, "clipcheck")
    assert code == 1
    assert "train.py:2:1" in output and "n.ipynb:cell 1:2:1" in output and "Found 2 problems" in output
    (repository / "train.py").write_text(GOOD)
    (repository / "n.ipynb").unlink()
    assert run(repository, hooks, "clipcheck")[0] == 0


def test_what_the_settings_exclude_is_skipped(repository: Path, hooks: tuple[Path, Path]) -> None:
    (repository / "old.py").write_text(BAD)
    (repository / "clipcheck.toml").write_text("extend-exclude = ['old.py']\n")
    assert run(repository, hooks, "clipcheck")[0] == 0


def test_the_fix_hook_fails_once_and_then_passes(repository: Path, hooks: tuple[Path, Path]) -> None:
    (repository / "train.py").write_text(BAD)
    (repository / "clipcheck.toml").write_text("target = 'torch'\n")
    code, output = run(repository, hooks, "clipcheck-fix")
    assert code == 1 and "files were modified by this hook" in output
    assert (repository / "train.py").read_text() == GOOD
    assert run(repository, hooks, "clipcheck-fix")[0] == 0


def test_the_markdown_hook_reads_fences(repository: Path, hooks: tuple[Path, Path]) -> None:
    (repository / "train.py").write_text(BAD)
    for name in ("guide.md", "page.mdx", "report.Rmd"):
        (repository / name).write_text(f"# Guide\n\n```python\n{BAD}```\n")
    code, output = run(repository, hooks, "clipcheck-markdown")
    assert code == 1
    assert all(f"{name}:5:1" in output for name in ("guide.md", "page.mdx", "report.Rmd")) and "train.py" not in output
