"""Whether a project declares clipcheck, and the note if a fix needs it and no file declares it."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import Result
from conftest import runner

from clipcheck.cli.main import main
from clipcheck.settings.dependencies import adds_runtime, declares_clipcheck

DECLARED = {
    "dependencies": ("pyproject.toml", '[project]\ndependencies = ["torch", "clipcheck[torch]>=0.1"]\n'),
    "an extra": ("pyproject.toml", '[project.optional-dependencies]\ntrain = ["Clipcheck>=0.1"]\n'),
    "a group": ("pyproject.toml", '[dependency-groups]\ndev = [{include-group = "x"}, "clipcheck"]\n'),
    "poetry": ("pyproject.toml", '[tool.poetry.dependencies]\npython = "^3.10"\nclipcheck = "^0.1"\n'),
    "a group of poetry's": ("pyproject.toml", '[tool.poetry.group.train.dependencies]\nclipcheck = "*"\n'),
    "uv": ("pyproject.toml", '[tool.uv]\ndev-dependencies = ["clipcheck"]\n'),
    "clipcheck itself": ("pyproject.toml", '[project]\nname = "clipcheck"\n'),
    "requirements": ("requirements.txt", "torch\nclipcheck >= 0.1  # for the runtime\n"),
    "other requirements": ("dev-requirements.txt", "clipcheck[torch]==0.1\n"),
    "a folder of requirements": ("requirements/train.txt", "clipcheck\n"),
    "setup.cfg": ("setup.cfg", "[options]\ninstall_requires =\n    torch\n    clipcheck>=0.1\n"),
    "setup.py": ("setup.py", "from setuptools import setup\nsetup(install_requires=['torch', 'clipcheck>=0.1'])\n"),
    "conda": ("environment.yml", "dependencies:\n  - pytorch\n  - pip:\n    - clipcheck\n"),
}
SILENT = {
    "settings alone": ("pyproject.toml", '[project]\ndependencies = ["torch"]\n[tool.clipcheck]\nselect = ["ALL"]\n'),
    "another package": ("pyproject.toml", '[project]\ndependencies = ["clipcheck-plugins"]\n'),
    "a package of another name": ("requirements.txt", "clipcheckers\nclipcheck.extra\nmy-clipcheck\n"),
    "a comment": ("requirements.txt", "torch  # clipcheck finds what is wrong\n"),
    "prose": ("setup.py", '"""Checked by clipcheck."""\n'),
    "broken TOML": ("pyproject.toml", '[project\ndependencies = ["clipcheck"]\n'),
    "odd TOML": ("pyproject.toml", 'project = "clipcheck"\ntool = 3\n[dependency-groups]\na = 1\n'),
    "another file": ("notes.txt", "clipcheck\n"),
}
LOOP = """\
import torch


def norm(model):
    total = 0.0
    for p in model.parameters():
        if p.grad is not None:
            total += p.grad.data.norm(2).item() ** 2
    return total ** 0.5
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / ".git").mkdir()
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "train.py").write_text(LOOP, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def put(project: Path, name: str, text: str) -> None:
    (project / name).parent.mkdir(exist_ok=True)
    (project / name).write_text(text, encoding="utf-8")


@pytest.mark.parametrize("name", DECLARED)
def test_a_project_that_declares_clipcheck(project: Path, name: str) -> None:
    assert not declares_clipcheck(str(project / "src"))
    put(project, *DECLARED[name])
    assert declares_clipcheck(str(project / "src"))


@pytest.mark.parametrize("name", SILENT)
def test_a_project_that_only_names_clipcheck(project: Path, name: str) -> None:
    put(project, *SILENT[name])
    assert not declares_clipcheck(str(project / "src"))


def test_files_above_the_repository_do_not_belong_to_the_project(project: Path) -> None:
    inner = project / "inner"
    (inner / ".git").mkdir(parents=True)
    put(project, "requirements.txt", "clipcheck\n")
    assert declares_clipcheck(str(project)) and not declares_clipcheck(str(inner))


def run(*words: str) -> Result:
    return runner().invoke(main, ["--no-cache", *words])


NOTE = "note: fixed code imports `clipcheck.runtime`: add `clipcheck` to your dependencies, use `--target torch`"


@pytest.mark.parametrize("words", [("--fix",), ("--diff",), ("--fix-only", "--quiet")])
def test_a_fix_that_needs_clipcheck_says_so_once(project: Path, words: tuple[str, ...]) -> None:
    put(project, "src/more.py", LOOP)
    assert run(*words, ".").stderr.count(NOTE) == 1


@pytest.mark.parametrize(
    "words", [("--fix", "--target", "torch"), ("--fix", "--target", "lab.clip"), (), ("--fix", "--silent")]
)
def test_no_note_if_clipcheck_is_not_needed(project: Path, words: tuple[str, ...]) -> None:
    assert "note: fixed code" not in run(*words, ".").stderr


def test_no_note_if_the_project_declares_clipcheck(project: Path) -> None:
    put(project, "requirements.txt", "clipcheck\n")
    assert "note:" not in run("--fix", ".").stderr


def test_no_note_if_the_file_already_imports_the_runtime(project: Path) -> None:
    put(project, "src/train.py", "from clipcheck.runtime import clip_grad_norm_\n" + LOOP)
    done = run("--fix", ".")
    assert "Found 1 problem (1 fixed" in done.stdout and "note: fixed code" not in done.stderr


# --- other project files ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("pyproject.toml", '[tool.pdm.dev-dependencies]\ndev = ["clipcheck"]\n'),
        ("pyproject.toml", '[project]\ndependencies = "clipcheck"\n'),
        ("pyproject.toml", '[dependency-groups]\na = ["torch"]\nb = ["clipcheck"]\n'),
        ("setup.cfg", "clipcheck\n"),
        ("environment.yaml", "dependencies:\n  - clipcheck\n"),
        ("environment.yml", "dependencies:\n  - 'clipcheck>=0.1'\n"),
        ("requirements.in", "clipcheck\n"),
        ("train-requirements.in", "CLIPCHECK\n"),
        ("requirements/train.in", "clipcheck\n"),
        ("setup.py", 'setup(install_requires=[" Clipcheck"])\n'),
    ],
)
def test_a_file_that_declares_clipcheck(project: Path, name: str, text: str) -> None:
    put(project, name, text)
    assert declares_clipcheck(str(project))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("pyproject.toml", '[project]\nname = "x"\ndescription = "clipcheck"\n'),
        ("pyproject.toml", '[project]\ndependencies = ["x-clipcheck", "see clipcheck"]\n'),
        ("pyproject.toml", '[tool.other.dev-dependencies]\ndev = ["clipcheck"]\n'),
        ("pyproject.toml", '[tool.poetry.group]\nx = 1\n[tool.x]\ny = "clipcheck"\n'),
        ("setup.cfg", "[tool]\nurl = clipcheck\n"),
        ("requirements", "clipcheck\n"),
        ("requirements.md", "clipcheck\n"),
        ("requirements/notes.md", "clipcheck\n"),
        ("other/train.txt", "clipcheck\n"),
        ("environment.toml", "clipcheck\n"),
        ("train.in", "clipcheck\n"),
    ],
)
def test_a_file_that_does_not_declare_clipcheck(project: Path, name: str, text: str) -> None:
    put(project, name, text)
    assert not declares_clipcheck(str(project))


@pytest.mark.parametrize("mark", [".git", ".hg"])
def test_a_repository_is_where_its_mark_is(project: Path, mark: str) -> None:
    put(project, "requirements.txt", "clipcheck\n")
    inner = project / "inner"
    (inner / "src").mkdir(parents=True)
    assert declares_clipcheck(str(inner / "src"))
    (inner / mark).mkdir()
    assert not declares_clipcheck(str(inner / "src"))


def test_what_cannot_be_read_declares_nothing(project: Path) -> None:
    (project / "setup.cfg").mkdir()
    assert not declares_clipcheck(str(project))
    (project / ".git").rmdir()
    assert not declares_clipcheck(str(project / "missing" / "folder"))


@pytest.mark.parametrize(
    ("before", "after", "adds"),
    [
        (b"", b"from clipcheck.runtime import clip_grad_norm_\n", True),
        (b"import clipcheck.runtime\n", b"import clipcheck.runtime\nx\n", False),
        (b"import clipcheck.runtime\n", b"", False),
        (b"", b"import clipcheck\n", False),
    ],
)
def test_which_code_adds_the_runtime(before: bytes, after: bytes, adds: bool) -> None:
    assert adds_runtime(before, after) is adds
