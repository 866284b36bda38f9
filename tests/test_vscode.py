"""The VS Code extension: its tests, run by node if that is installed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import PROJECT

from clipcheck import __version__

FOLDER = PROJECT / "editors" / "vscode"
NODE = shutil.which("node")


def node(*files: str) -> subprocess.CompletedProcess[str]:
    assert NODE is not None
    environment = {**os.environ, "CLIPCHECK": str(Path(sys.executable).with_name("clipcheck"))}
    return subprocess.run(
        [NODE, "--test", *files], cwd=FOLDER, env=environment, capture_output=True, text=True, timeout=240
    )


@pytest.mark.skipif(NODE is None, reason="node is not installed")
def test_the_extension_starts_and_stops_the_server() -> None:
    done = node("test/extension.test.js")
    assert done.returncode == 0, done.stdout
    assert "pass 3" in done.stdout


@pytest.mark.skipif(NODE is None, reason="node is not installed")
@pytest.mark.skipif(not (FOLDER / "node_modules").is_dir(), reason="`npm install` was not run in editors/vscode")
def test_the_server_answers_vs_codes_own_protocol() -> None:
    done = node("test/server.test.js")
    assert done.returncode == 0, done.stdout
    assert "pass 4" in done.stdout


@pytest.mark.skipif(NODE is None, reason="node is not installed")
def test_vs_code_itself_shows_findings_fixes_and_pages() -> None:
    done = node("test/in-vscode.test.js")
    assert done.returncode == 0, done.stdout
    if "skipped 1" in done.stdout:
        pytest.skip("needs code-server, Chromium, and `npm install` in editors/vscode")
    assert "pass 1" in done.stdout


def test_the_manifest_has_the_version_and_addresses_of_the_package() -> None:
    manifest = json.loads((FOLDER / "package.json").read_text(encoding="utf-8"))
    assert manifest["version"] == __version__
    project = (PROJECT / "pyproject.toml").read_text(encoding="utf-8")
    assert f'Repository = "{manifest["repository"]["url"].removesuffix(".git")}"' in project
    assert f'Documentation = "{manifest["homepage"].removesuffix("/guides/editors/")}"' in project
