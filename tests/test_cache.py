"""The cache: the same findings without work, never stale, and a nuisance to nobody."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from conftest import PROJECT

from clipcheck import __version__
from clipcheck.cli.main import main
from clipcheck.engine import batch
from clipcheck.engine.results import FileReport

BAD = "import torch\ntorch.nn.utils.clip_grad_norm(model.parameters(), 1.0)  # 😀\n"


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    (tmp_path / "a.py").write_text(BAD, encoding="utf-8")
    return tmp_path


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that were really looked at."""
    seen: list[str] = []
    real = batch.check_file

    def spy(path: str, *rest: object) -> FileReport:
        seen.append(path)
        return real(path, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(batch, "check_file", spy)
    return seen


def run(*words: str) -> str:
    result = CliRunner().invoke(main, ["check", "--select", "CLIP002", "--output-format", "json", *words])
    assert result.exit_code in (0, 1), result.stderr
    return result.stdout


def test_a_second_run_says_the_same_without_looking(looks: list[str]) -> None:
    first = run()
    assert len(json.loads(first)) == 1
    assert run() == first
    assert looks == ["a.py"]


@pytest.mark.parametrize(
    "words", [("--target", "torch"), ("--ignore-noqa",), ("--select", "CLIP001"), ("--unfixable", "CLIP002")]
)
def test_other_settings_are_another_question(looks: list[str], project: Path, words: tuple[str, ...]) -> None:
    (project / "a.py").write_text(BAD.replace("😀", "noqa: CLIP002") + BAD, encoding="utf-8")
    run()
    answer = run(*words)
    assert looks == ["a.py", "a.py"]
    assert answer == run(*words, "--no-cache")
    assert answer == run(*words)
    assert len(looks) == 3


def test_an_ignored_rule_has_no_findings_from_the_cache(project: Path) -> None:
    assert len(json.loads(run())) == 1
    assert json.loads(run("--ignore", "CLIP002")) == []


def test_a_changed_file_is_looked_at_again(looks: list[str], project: Path) -> None:
    run()
    stat = os.stat("a.py")
    (project / "a.py").write_text(BAD.replace("1.0", "2.0"), encoding="utf-8")
    os.utime("a.py", ns=(stat.st_atime_ns, stat.st_mtime_ns))  # as a checkout by git may leave it
    run()
    assert looks == ["a.py", "a.py"]


@pytest.mark.parametrize("module", ["rules/deprecated_clip_grad_norm.py", "prefilter.py"])
def test_changed_code_of_clipcheck_is_another_question(project: Path, module: str) -> None:
    """In a copy of the package: a rule whose code has changed finds something else."""
    package = project / "copy" / "clipcheck"
    shutil.copytree(PROJECT / "clipcheck", package, ignore=shutil.ignore_patterns("__pycache__", "runtime", "bench"))
    command = [sys.executable, "-m", "clipcheck", "check", "--isolated", "--select", "CLIP002", "--quiet", "a.py"]
    environment = {**os.environ, "PYTHONPATH": str(package.parent), "PYTHONDONTWRITEBYTECODE": "1"}

    assert subprocess.run(command, cwd=project, env=environment).returncode == 1
    assert (project / ".clipcheck_cache").is_dir()
    changed = package / module
    silent = "\n\nimport clipcheck.python.names\nclipcheck.python.names.Names.qualified = lambda *_: None\n"
    changed.write_text(changed.read_text(encoding="utf-8") + silent, encoding="utf-8")
    assert subprocess.run(command, cwd=project, env=environment).returncode == 0


def test_a_fix_is_made_after_a_check_with_the_same_settings(looks: list[str], project: Path) -> None:
    words = ("--target", "torch")
    run(*words)
    run(*words, "--fix")
    assert looks == ["a.py", "a.py"]
    assert "clip_grad_norm_(" in (project / "a.py").read_text(encoding="utf-8")
    assert json.loads(run(*words)) == []


def test_a_fix_without_anything_to_fix_is_answered_from_the_cache(looks: list[str], project: Path) -> None:
    (project / "a.py").write_text(BAD, encoding="utf-8")
    words = ("--unfixable", "CLIP002")
    first = run(*words)
    assert run(*words, "--fix") == first
    assert looks == ["a.py"]


def test_an_unsafe_fix_is_made_after_a_check(looks: list[str], project: Path) -> None:
    (project / "clipcheck.toml").write_text("extend-unsafe-fixes = ['CLIP002']\n")
    words = ("--target", "torch")
    first = run(*words)
    assert run(*words, "--fix") == first
    assert looks == ["a.py"]
    run(*words, "--fix", "--unsafe-fixes")
    assert "clip_grad_norm_(" in (project / "a.py").read_text(encoding="utf-8")


def test_suppressions_and_warnings_are_kept(project: Path) -> None:
    (project / "a.py").write_text(BAD.replace("😀", "clipcheck: ignore[CLIP02]"), encoding="utf-8")
    words = ["check", "--select", "CLIP002"]
    first, second = (CliRunner().invoke(main, words) for _ in range(2))
    assert first.stderr == second.stderr == "warning: a.py:2: unknown rule code `CLIP02` in a suppression\n"


def test_the_folder_is_passed_over_by_git_and_backups(project: Path) -> None:
    run()
    folder = project / ".clipcheck_cache"
    assert (folder / ".gitignore").read_text() == "*\n"
    assert (folder / "CACHEDIR.TAG").read_text().startswith("Signature: 8a477f597d28d172789f06886806bc55")
    assert (folder / __version__ / "findings.json").is_file()


def test_where_it_is_and_that_it_can_be_off(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run("--no-cache")
    monkeypatch.setenv("CLIPCHECK_NO_CACHE", "1")
    run()
    monkeypatch.delenv("CLIPCHECK_NO_CACHE")
    assert not (project / ".clipcheck_cache").exists()
    run("--cache-dir", "here")
    monkeypatch.setenv("CLIPCHECK_CACHE_DIR", "there")
    run()
    (project / "clipcheck.toml").write_text("cache-dir = 'elsewhere'\n")
    monkeypatch.delenv("CLIPCHECK_CACHE_DIR")
    run()
    assert [(project / name / __version__).is_dir() for name in ("here", "there", "elsewhere")] == [True] * 3


@pytest.mark.parametrize("content", ["", "{", "[]", '{"a": 1}', '{"%s": ["k", [[1, 2]], []]}'])
def test_a_broken_cache_is_no_error(project: Path, content: str) -> None:
    first = run()
    file = project / ".clipcheck_cache" / __version__ / "findings.json"
    entries = json.loads(file.read_text())
    key = entries[str(project / "a.py")][0]
    file.write_text(content.replace("%s", str(project / "a.py").replace("\\", "\\\\")).replace('"k"', json.dumps(key)))
    assert run() == first


def test_a_cache_that_cannot_be_written_is_no_error(project: Path) -> None:
    (project / ".clipcheck_cache").write_text("a file")
    assert len(json.loads(run())) == 1


def test_files_that_are_gone_are_forgotten(project: Path) -> None:
    (project / "b.py").write_text(BAD, encoding="utf-8")
    run()
    (project / "b.py").unlink()
    (project / "a.py").write_text(BAD + "\n", encoding="utf-8")
    run()
    entries = json.loads((project / ".clipcheck_cache" / __version__ / "findings.json").read_text())
    assert list(entries) == [str(project / "a.py")]


def test_no_cache_is_made_where_there_is_nothing_to_keep(project: Path) -> None:
    (project / "a.py").write_text("x = 1\n")
    run()
    assert not (project / ".clipcheck_cache").exists()


def test_clean_removes_caches_and_nothing_else(project: Path) -> None:
    run()
    other = project / "sub" / ".clipcheck_cache"
    other.mkdir(parents=True)
    (other / "mine.txt").write_text("not a cache of clipcheck")
    result = CliRunner().invoke(main, ["clean"])
    assert result.exit_code == 0
    assert not (project / ".clipcheck_cache").exists()
    assert (other / "mine.txt").exists()
