"""CONTRIBUTING.md's recipe for a rule, followed word by word in a copy of the project."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import PROJECT

RECIPE = (PROJECT / "CONTRIBUTING.md").read_text(encoding="utf-8")
ENTRY, MODULE, BEFORE, AFTER, CLEAN = re.findall(r"^```python\n(.*?)^```", RECIPE, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project with the recipe's rule in it."""
    folder = tmp_path_factory.mktemp("copy") / "a project"
    for part in ("clipcheck", "fixtures", "tests"):
        shutil.copytree(PROJECT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
    for part in ("pyproject.toml", "README.md"):
        shutil.copy(PROJECT / part, folder)
    catalogue = folder / "clipcheck" / "catalogue.py"
    text = catalogue.read_text(encoding="utf-8")
    assert text.count("    for rule in (\n") == 1
    catalogue.write_text(text.replace("    for rule in (\n", f"    for rule in (\n        {ENTRY}"), encoding="utf-8")
    (folder / "clipcheck" / "rules" / "quoted_norm_type.py").write_text(MODULE, encoding="utf-8")
    example = folder / "fixtures" / "CLIP990-quoted-norm-type"
    example.mkdir()
    for name, code in (("before", BEFORE), ("after", AFTER), ("clean", CLEAN)):
        (example / f"{name}.py").write_text(code, encoding="utf-8")
    return folder


def run(copy: Path, *words: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(copy)}
    command = [sys.executable, "-m", *words]
    done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_tests_include_the_new_rule(copy: Path) -> None:
    said = run(
        copy, "pytest", "-q", "-p", "no:cacheprovider", "tests/test_fixtures.py", "tests/test_house.py", "-k", "CLIP990"
    )
    passed = re.search(r"(\d+) passed", said)
    assert passed is not None
    assert int(passed[1]) >= 8


def test_verification_includes_the_rule(copy: Path) -> None:
    pytest.importorskip("torch")
    said = run(copy, "clipcheck", "verify", "--select", "CLIP990")
    assert "1 held, 0 failed, 0 not verified here" in said
