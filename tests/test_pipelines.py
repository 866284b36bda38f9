"""Workflows, issue forms and the snippets in the guides are valid according to their official schemas."""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from conftest import PROJECT

yaml = pytest.importorskip("yaml")
pytest.importorskip("check_jsonschema")
pytest.importorskip("pre_commit")

FENCE = re.compile(r"^( *)```yaml\n(.*?)^\1```", re.MULTILINE | re.DOTALL)
GITHUB = PROJECT / ".github"


def snippets(guide: str, mark: str) -> list[str]:
    """The YAML blocks of a guide that contain a string."""
    text = (PROJECT / "docs" / "guides" / guide).read_text(encoding="utf-8")
    return [found for _, block in FENCE.findall(text) if mark in (found := textwrap.dedent(block))]


def problems(schema: str, *files: Path) -> str:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", f"vendor.{schema}", *map(str, files)]
    done = subprocess.run(command, capture_output=True, text=True)
    return "" if done.returncode == 0 else done.stdout + done.stderr


def test_the_workflows_are_valid() -> None:
    files = sorted((GITHUB / "workflows").iterdir())
    assert len(files) == 2
    assert problems("github-workflows", *files) == ""


def test_the_issue_forms_are_valid() -> None:
    forms = [path for path in sorted((GITHUB / "ISSUE_TEMPLATE").iterdir()) if path.name != "config.yml"]
    assert len(forms) == 3
    assert problems("github-issue-forms", *forms) == ""
    assert problems("github-issue-config", GITHUB / "ISSUE_TEMPLATE" / "config.yml") == ""


@pytest.mark.parametrize(("schema", "mark", "count"), [("github-workflows", "runs-on:", 2), ("gitlab-ci", "image:", 1)])
def test_the_snippets_of_the_guide_are_valid(schema: str, mark: str, count: int, tmp_path: Path) -> None:
    found = snippets("ci.md", mark)
    assert len(found) == count
    for number, text in enumerate(found):
        file = tmp_path / f"{number}.yml"
        file.write_text(text)
        assert problems(schema, file) == ""
        file.write_text(text.replace("script:", "scripts:").replace("runs-on:", "run-on:"))
        assert problems(schema, file) != "", "a mistake is seen"


def test_the_recipes_of_pre_commit_are_valid_and_report_once(tmp_path: Path) -> None:
    found = snippets("pre-commit.md", "repos:")
    assert len(found) == 3
    known = {hook["id"] for hook in yaml.safe_load((PROJECT / ".pre-commit-hooks.yaml").read_text())}
    for text in [*found, *re.findall(r"```yaml\n(repos:.*?)```", (PROJECT / "README.md").read_text(), re.DOTALL)]:
        (tmp_path / ".pre-commit-config.yaml").write_text(text)
        command = [sys.executable, "-m", "pre_commit", "validate-config", str(tmp_path / ".pre-commit-config.yaml")]
        assert subprocess.run(command, capture_output=True).returncode == 0
        hooks = {hook["id"] for repo in yaml.safe_load(text)["repos"] for hook in repo["hooks"]}
        assert hooks <= known
        assert not {"clipcheck", "clipcheck-fix"} <= hooks, "both report what is left"


def test_the_workflow_tests_every_python_that_is_supported() -> None:
    jobs = yaml.safe_load((GITHUB / "workflows" / "ci.yml").read_text())["jobs"]
    project = (PROJECT / "pyproject.toml").read_text()
    listed = re.findall(r'"Programming Language :: Python :: (3\.\d+)"', project)
    assert jobs["test"]["strategy"]["matrix"]["python"] == listed
    oldest, newest = jobs["torch"]["strategy"]["matrix"]["include"]
    assert f'torch = ["torch{oldest["torch"].replace("==", ">=").removesuffix(".*")}"' in project
    assert newest["torch"] == ">=2.2"
    for step in jobs["torch"]["steps"]:
        for name in re.findall(r"tests/\w+\.py", step.get("run", "")):
            assert (PROJECT / name).is_file(), name
