"""The cache: the same findings without the work, never stale, and never in the way."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import PROJECT, runner

from clipcheck import __version__
from clipcheck.cli.main import main
from clipcheck.engine import batch, cache
from clipcheck.engine.results import FileReport
from clipcheck.rule import Safety
from clipcheck.settings.keys import Settings

BAD = "import torch\ntorch.nn.utils.clip_grad_norm(model.parameters(), 1.0)  # 😀\n"


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    (tmp_path / "a.py").write_text(BAD, encoding="utf-8")
    return tmp_path


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that were really checked."""
    seen: list[str] = []
    real = batch.check_file

    def spy(path: str, *rest: object) -> FileReport:
        seen.append(path)
        return real(path, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(batch, "check_file", spy)
    return seen


def entries_file(project: Path) -> Path:
    return project / ".clipcheck_cache" / __version__ / "findings.json"


def contents(project: Path) -> dict[str, Any]:
    kept: dict[str, Any] = json.loads(entries_file(project).read_text(encoding="utf-8"))
    return kept


def run(*words: str) -> str:
    result = runner().invoke(main, ["check", "--select", "CLIP002", "--output-format", "json", *words])
    assert result.exit_code in (0, 1), result.stderr
    return result.stdout


def test_a_second_run_reports_the_same_without_checking(looks: list[str]) -> None:
    first = run()
    assert len(json.loads(first)) == 1
    assert run() == first
    assert looks == ["a.py"]


@pytest.mark.parametrize(
    "words", [("--target", "torch"), ("--ignore-noqa",), ("--select", "CLIP001"), ("--unfixable", "CLIP002")]
)
def test_other_settings_do_not_use_the_entry(looks: list[str], project: Path, words: tuple[str, ...]) -> None:
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


def test_a_changed_file_is_checked_again(looks: list[str], project: Path) -> None:
    run()
    stat = os.stat("a.py")
    (project / "a.py").write_text(BAD.replace("1.0", "2.0"), encoding="utf-8")
    os.utime("a.py", ns=(stat.st_atime_ns, stat.st_mtime_ns))  # as a checkout by git may leave it
    run()
    assert looks == ["a.py", "a.py"]


@pytest.mark.parametrize(
    ("module", "silent"),
    [
        ("rules/deprecated_clip_grad_norm.py", "\n\ncheck = lambda source: iter(())\n"),
        ("prefilter.py", "\n\nconcerned = lambda text, codes: frozenset()\n"),
    ],
)
def test_changed_code_of_clipcheck_does_not_use_the_entry(project: Path, module: str, silent: str) -> None:
    """In a copy of the package: a rule whose code has changed finds something else."""
    package = project / "copy" / "clipcheck"
    shutil.copytree(PROJECT / "clipcheck", package, ignore=shutil.ignore_patterns("__pycache__", "runtime", "bench"))
    command = [sys.executable, "-m", "clipcheck", "check", "--isolated", "--select", "CLIP002", "--quiet", "a.py"]
    environment = {**os.environ, "PYTHONPATH": str(package.parent), "PYTHONDONTWRITEBYTECODE": "1"}

    assert subprocess.run(command, cwd=project, env=environment).returncode == 1
    assert (project / ".clipcheck_cache").is_dir()
    changed = package / module
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


def test_a_fix_is_made_beside_what_has_none(project: Path) -> None:
    (project / "a.py").write_text(BAD.replace("1.0", "0.0"), encoding="utf-8")
    words = ("--select", "CLIP201")
    assert [one["fix"] is None for one in json.loads(run(*words))].count(True) == 1
    run(*words, "--fix")
    assert "clip_grad_norm_(" in (project / "a.py").read_text(encoding="utf-8")


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
    first, second = (runner().invoke(main, words) for _ in range(2))
    assert first.stderr == second.stderr == "warning: a.py:2: unknown rule `CLIP02` in a suppression\n"


def test_the_folder_is_skipped_by_git_and_backups(project: Path) -> None:
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


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"\xff",
        b'{"a": 1}',
        b'{"code": "%s", "files": []}',
        b"[" * 100_000,
        b'{"code": ' + b"9" * 5000,
    ],
)
def test_a_corrupt_cache_is_not_an_error(project: Path, content: bytes) -> None:
    first = run()
    entries_file(project).write_bytes(content.replace(b"%s", str(contents(project)["code"]).encode()))
    assert run() == first


@pytest.mark.parametrize(
    "entry",
    [1, None, [], {}, "x", ["x"], ["x", "DIGEST", [[1, 2]], []], ["x", "DIGEST", 1, []], ["x", "DIGEST", [], [1]]],
)
def test_a_corrupt_entry_is_ignored(looks: list[str], project: Path, entry: object) -> None:
    first = run()
    kept = contents(project)
    (folders,) = kept["files"].values()
    (names,) = folders.values()
    digest = names["a.py"][1]
    names["a.py"] = json.loads(json.dumps(entry).replace("DIGEST", digest))
    entries_file(project).write_text(json.dumps(kept), encoding="utf-8")
    assert run() == first
    assert looks == ["a.py", "a.py"]


@pytest.mark.parametrize("broken", ["groups", "folders", "names"])
def test_a_corrupt_level_of_entries_counts_as_empty(project: Path, broken: str) -> None:
    first = run()
    kept = contents(project)
    ((key, folders),) = kept["files"].items()
    ((folder, _),) = folders.items()
    levels: dict[str, object] = {"groups": 1, "folders": {key: 1}, "names": {key: {folder: 1, "/other": 1}}}
    kept["files"] = levels[broken]
    entries_file(project).write_text(json.dumps(kept), encoding="utf-8")
    assert run() == first == run()


def test_a_cache_that_cannot_be_written_is_not_an_error(project: Path) -> None:
    (project / ".clipcheck_cache").write_text("a file")
    assert len(json.loads(run())) == 1


def test_entries_of_deleted_files_are_removed(project: Path) -> None:
    (project / "b.py").write_text(BAD, encoding="utf-8")
    run()
    (project / "b.py").unlink()
    (project / "a.py").write_text(BAD + "\n", encoding="utf-8")
    run()
    assert [list(names) for folders in contents(project)["files"].values() for names in folders.values()] == [["a.py"]]


def test_no_cache_is_created_for_few_files(project: Path) -> None:
    (project / "a.py").write_text("x = 1\n")
    run()
    assert not (project / ".clipcheck_cache").exists()


# --- files that are not read ----------------------------------------------------------------------------------------


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that were read; the clock says that none of them has changed recently."""
    seen: list[str] = []
    real = batch.candidate

    def spy(path: str, data: bytes, settings: Settings) -> bool:
        seen.append(path)
        return real(path, data, settings)

    monkeypatch.setattr(batch, "candidate", spy)
    later(monkeypatch)
    return seen


def later(monkeypatch: pytest.MonkeyPatch, seconds: int = 3) -> None:
    now = time.time_ns
    monkeypatch.setattr(cache, "now", lambda: now() + seconds * 1_000_000_000)


PLAIN = "x = 1  # nothing of ours\n"
SILENT = "import torch\ntorch.nn.utils.clip_grad_norm_(ps, 1.0)\n"


def test_files_without_findings_are_not_read_again(reads: list[str], project: Path) -> None:
    (project / "plain.py").write_text(PLAIN)
    (project / "silent.py").write_text(SILENT + "clip_grad_norm = 1\n")
    first = run()
    assert reads == ["a.py", "plain.py", "silent.py"]
    assert run() == first
    assert reads[3:] == ["a.py"]  # its lines are shown


def test_a_clean_run_counts_the_files_that_were_not_read(reads: list[str], project: Path) -> None:
    (project / "a.py").write_text(SILENT + "clip_grad_norm = 1\n")
    said = [runner().invoke(main, ["check", "--select", "CLIP002"]).stdout for _ in range(2)]
    assert [text.partition(",")[0] for text in said] == [
        "No problems found in 1 file (1 with gradient-clipping code)"
    ] * 2
    assert reads == ["a.py"]


def clean_then(project: Path, monkeypatch: pytest.MonkeyPatch) -> os.stat_result:
    """A run in which `b.py` has no findings, and the entry for that file."""
    (project / "b.py").write_text(PLAIN.ljust(len(BAD.encode())), encoding="utf-8")
    assert len(json.loads(run())) == 1
    return os.stat("b.py")


def test_a_file_that_changed_is_read(reads: list[str], project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clean_then(project, monkeypatch)
    (project / "b.py").write_text(BAD, encoding="utf-8")
    assert len(json.loads(run())) == 2


@pytest.mark.skipif(os.name == "nt", reason="Windows keeps no time of the last change")
def test_a_file_of_the_same_size_and_time_is_read(
    reads: list[str], project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    was = clean_then(project, monkeypatch)
    time.sleep(0.05)
    (project / "b.py").write_text(BAD, encoding="utf-8")
    os.utime("b.py", ns=(was.st_atime_ns, was.st_mtime_ns))
    assert os.stat("b.py").st_size == was.st_size
    assert len(json.loads(run())) == 2


def test_another_file_in_its_place_is_read(reads: list[str], project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    was = clean_then(project, monkeypatch)
    (project / "other").write_text(BAD, encoding="utf-8")
    os.utime("other", ns=(was.st_atime_ns, was.st_mtime_ns))
    os.replace("other", "b.py")
    assert len(json.loads(run())) == 2


def test_a_file_that_may_change_within_the_resolution_of_the_clock_is_read(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock cannot distinguish two states: the first was recorded right after the file had changed."""
    monkeypatch.setattr(cache, "_state", lambda path: f"{os.path.getsize(path)} 1 {FIXED} {FIXED}")
    monkeypatch.setattr(cache, "now", lambda: FIXED + 1_000_000_000)
    clean_then(project, monkeypatch)
    (project / "b.py").write_text(BAD, encoding="utf-8")
    assert len(json.loads(run())) == 2


FIXED = 1_700_000_000_000_000_000


def test_a_state_that_is_old_enough_is_trusted(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The counterpart of the test above: only the time makes the difference there."""
    monkeypatch.setattr(cache, "_state", lambda path: f"{os.path.getsize(path)} 1 {FIXED} {FIXED}")
    monkeypatch.setattr(cache, "now", lambda: FIXED + 10_000_000_000)
    clean_then(project, monkeypatch)
    (project / "b.py").write_text(BAD, encoding="utf-8")
    assert len(json.loads(run())) == 1


def test_a_file_that_was_only_touched_keeps_its_findings(reads: list[str], looks: list[str], project: Path) -> None:
    first = run()
    os.utime("a.py")
    assert run() == first
    assert (len(reads), looks) == (2, ["a.py"])


def test_a_file_that_was_only_touched_is_read_once_more(reads: list[str], project: Path) -> None:
    (project / "silent.py").write_text(SILENT + "clip_grad_norm = 1\n")
    run()
    os.utime("silent.py")
    run()
    run()
    assert reads == ["a.py", "silent.py", "a.py", "silent.py", "a.py"]


def test_the_entries_of_three_other_settings_are_kept(looks: list[str], project: Path) -> None:
    others = [("--ignore", f"CLIP10{n}", "--extend-select", "CLIP101,CLIP102,CLIP103,CLIP104") for n in range(1, 5)]
    for words in others:
        run(*words)
    (project / "b.py").write_text(BAD, encoding="utf-8")
    run(*others[3])
    assert looks == ["a.py"] * 4 + ["b.py"]
    for words in others[:3]:
        run(*words)
    assert looks[5:] == ["b.py"] * 3
    run()
    assert looks[8:] == ["a.py", "b.py"]


def test_other_settings_have_separate_entries(reads: list[str], looks: list[str], project: Path) -> None:
    (project / "a.py").write_text(BAD.replace("1.0", "0.0"), encoding="utf-8")
    answers = [(run(), run("--select", "CLIP201")) for _ in range(2)]
    assert answers[0] == answers[1]
    assert len(json.loads(answers[0][0])) == 1
    assert len(json.loads(answers[0][1])) == 2
    assert looks == ["a.py", "a.py"]


def test_a_file_that_cannot_be_read_is_reported_in_each_run(reads: list[str], project: Path) -> None:
    (project / "c.py").mkdir()
    wanted = [("a.py", Settings()), ("c.py", Settings())]
    first, second = (batch.check_files(wanted, cache_folder=".clipcheck_cache") for _ in range(2))
    assert [error.partition(":")[0] for error in first.errors] == ["c.py"]
    assert first == second
    assert len(second.findings) == 1


def test_two_runs_that_write_at_once_leave_one_whole_cache(project: Path) -> None:
    for number in range(30):
        (project / f"b{number}.py").write_text(BAD, encoding="utf-8")
    command = [sys.executable, "-m", "clipcheck", "check", "--isolated", "--jobs", "1", "--output-format", "json", "."]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    running = [subprocess.Popen(command, cwd=project, env=environment, stdout=subprocess.PIPE) for _ in range(3)]
    answers = {process.communicate()[0] for process in running}
    assert len(answers) == 1
    assert len(contents(project)["files"]) == 1
    assert os.listdir(entries_file(project).parent) == ["findings.json"]


def test_the_cache_of_another_version_is_not_used(looks: list[str], project: Path) -> None:
    first = run()
    kept = contents(project)
    kept["code"] = "of another version"
    entries_file(project).write_text(json.dumps(kept), encoding="utf-8")
    assert run() == first
    assert looks == ["a.py", "a.py"]
    assert contents(project)["code"] != "of another version"


def test_clean_removes_caches_and_nothing_else(project: Path) -> None:
    run()
    other = project / "sub" / ".clipcheck_cache"
    other.mkdir(parents=True)
    (other / "mine.txt").write_text("not a cache of clipcheck")
    result = runner().invoke(main, ["clean"])
    assert result.exit_code == 0
    assert not (project / ".clipcheck_cache").exists()
    assert (other / "mine.txt").exists()


@pytest.mark.parametrize("folder", [".git", "node_modules", ".venv"])
def test_clean_does_not_look_into_the_folders_of_other_tools(project: Path, folder: str) -> None:
    run()
    (project / folder).mkdir()
    (project / ".clipcheck_cache").rename(project / folder / ".clipcheck_cache")
    assert runner().invoke(main, ["clean"]).exit_code == 0
    assert (project / folder / ".clipcheck_cache").is_dir()


# --- which entries there are ----------------------------------------------------------------------------------------


def test_a_run_with_the_cache_counts_what_a_run_without_it_counts(
    reads: list[str], project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project / "plain.py").write_text(PLAIN)
    (project / "silent.py").write_text(SILENT + "clip_grad_norm = 1\n")
    wanted = [(name, Settings()) for name in ("a.py", "plain.py", "silent.py")]
    runs = [batch.check_files(wanted, jobs=1, cache_folder=".clipcheck_cache") for _ in range(3)]
    assert runs == [batch.check_files(wanted, jobs=1)] * 3
    assert (runs[0].files, runs[0].candidates) == (3, 2)
    assert reads == ["a.py", "plain.py", "silent.py", "a.py", "a.py", "a.py", "plain.py", "silent.py"]


@pytest.mark.parametrize(("files", "kept"), [(1, False), (2, True), (3, True)])
def test_files_without_keywords_have_a_cache_if_they_are_many(
    reads: list[str], project: Path, monkeypatch: pytest.MonkeyPatch, files: int, kept: bool
) -> None:
    monkeypatch.setattr(cache, "FEW", 2)
    (project / "a.py").write_text(PLAIN)
    for number in range(files - 1):
        (project / f"plain{number}.py").write_text(PLAIN)
    run()
    assert (project / ".clipcheck_cache").exists() is kept
    assert len(reads) == files
    run()
    assert len(reads) == (files if kept else 2 * files)


def test_a_file_that_is_gone_is_missed_though_its_state_was_never_trusted(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It changed just before the first run."""
    monkeypatch.setattr(cache, "FEW", 0)
    wanted = [("b.py", Settings())]
    (project / "b.py").write_text(PLAIN)
    assert batch.check_files(wanted, jobs=1, cache_folder=".clipcheck_cache").errors == ()
    (project / "b.py").unlink()
    (error,) = batch.check_files(wanted, jobs=1, cache_folder=".clipcheck_cache").errors
    assert error.startswith("b.py: cannot be read")


@pytest.mark.parametrize(
    ("modified", "changed", "trusted"),
    [(-3, -3, True), (-2, -3, False), (-3, -2, False), (-1, -3, False), (-3, -1, False), (-3, 5, False)],
)
def test_a_state_is_trusted_if_both_of_its_times_are_over(
    modified: int, changed: int, trusted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "now", lambda: FIXED)
    state = f"{FIXED * 2} {FIXED * 2} {FIXED + modified * 10**9} {FIXED + changed * 10**9}"
    monkeypatch.setattr(cache, "_state", lambda path: state)
    one = cache.Cache("nowhere")
    assert one.silent([("a.py", Settings())]) == {}
    assert one._trusted("a.py") == (state if trusted else "")


def test_errors_recur(looks: list[str], project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import clipcheck.rules

    def crash(source: object) -> None:
        raise RuntimeError("what is this?")

    real = clipcheck.rules.check_of
    monkeypatch.setattr(clipcheck.rules, "check_of", lambda rule: crash)
    for _ in range(2):
        assert len(batch.check_files([("a.py", Settings())], jobs=1, cache_folder=".clipcheck_cache").errors) >= 1
    assert looks == ["a.py", "a.py"]
    monkeypatch.setattr(clipcheck.rules, "check_of", real)
    assert len(batch.check_files([("a.py", Settings())], jobs=1, cache_folder=".clipcheck_cache").findings) == 1


def test_what_was_fixed_only_in_a_diff_is_still_found(project: Path) -> None:
    assert runner().invoke(main, ["check", "--select", "CLIP002", "--diff"]).exit_code == 1
    assert len(json.loads(run())) == 1


def test_a_run_that_learns_nothing_writes_nothing(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    later(monkeypatch)
    run()

    def write(*_: object) -> None:
        raise AssertionError("written again")

    monkeypatch.setattr(cache.Cache, "_write", write)
    run()


def test_the_folders_own_files_are_written_once(project: Path) -> None:
    run()
    (project / ".clipcheck_cache" / ".gitignore").write_text("# mine\n")
    (project / "b.py").write_text(BAD, encoding="utf-8")
    assert len(json.loads(run())) == 2
    assert (project / ".clipcheck_cache" / ".gitignore").read_text() == "# mine\n"
    ((_, folders),) = contents(project)["files"].items()
    assert {name: sorted(names) for name, names in folders.items()} == {str(project): ["a.py", "b.py"]}


def test_entries_of_deleted_folders_are_removed(project: Path) -> None:
    (project / "sub").mkdir()
    (project / "sub" / "b.py").write_text(BAD, encoding="utf-8")
    run()
    assert {*next(iter(contents(project)["files"].values()))} == {str(project), str(project / "sub")}
    shutil.rmtree(project / "sub")
    (project / "c.py").write_text(BAD, encoding="utf-8")
    run()
    assert {*next(iter(contents(project)["files"].values()))} == {str(project)}


BASIS = Settings(frozenset({"CLIP001", "CLIP002"}))


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({"fix": True}, True),
        ({"safety": Safety.UNSAFE}, True),
        ({"codes": frozenset({"CLIP002", "CLIP001"})}, True),
        ({"codes": frozenset({"CLIP001"})}, False),
        ({"trusted": frozenset({"CLIP001"})}, False),
        ({"distrusted": frozenset({"CLIP001"})}, False),
        ({"unfixable": frozenset({"CLIP001"})}, False),
        ({"target": "torch"}, False),
        ({"suppressions": False}, False),
        ({"report_unused": False}, False),
        ({"prefilter": False}, False),
    ],
)
def test_which_settings_share_their_entries(change: dict[str, Any], same: bool) -> None:
    assert (cache._result_settings(replace(BASIS, **change)) == cache._result_settings(BASIS)) is same


def test_clipchecks_own_code_is_known_by_its_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def package(folder: str, **files: str) -> str:
        top = tmp_path / folder
        for name, text in {"engine/cache.py": "x", "rule.py": "y", **files}.items():
            (top / name).parent.mkdir(parents=True, exist_ok=True)
            (top / name).write_text(text)
            os.utime(top / name, ns=(FIXED, FIXED))
        monkeypatch.setattr(cache, "__file__", str(top / "engine" / "cache.py"))
        return cache._fingerprint()

    one = package("one")
    assert one == package("a copy of it") == package("with data", **{"rules/words.txt": "x"})
    assert one != package("another size", **{"rule.py": "yy"})
    assert one != package("one more", **{"rules/new.py": ""})
    package("touched")
    os.utime(tmp_path / "touched" / "rule.py", ns=(FIXED, FIXED + 1))
    assert one != cache._fingerprint()


# --- what is removed ------------------------------------------------------------------------------------------------


def test_all_caches_below_folders_are_removed(project: Path) -> None:
    for folder in ("one", "one/two", "one/.venv", "other"):
        (project / folder / ".clipcheck_cache" / "1").mkdir(parents=True)
        (project / folder / ".clipcheck_cache" / "CACHEDIR.TAG").write_text("tag")
    removed = list(cache.remove(["one", "nowhere"]))
    assert removed == [os.path.join("one", ".clipcheck_cache"), os.path.join("one", "two", ".clipcheck_cache")]
    assert not any(os.path.exists(path) for path in removed)
    assert (project / "one" / ".venv" / ".clipcheck_cache").is_dir() and (
        project / "other" / ".clipcheck_cache"
    ).is_dir()


@pytest.mark.skipif(os.name == "nt", reason="links need a privilege there")
def test_what_a_link_points_to_is_not_removed(project: Path) -> None:
    (project / "precious" / "sub").mkdir(parents=True)
    (project / "precious" / "CACHEDIR.TAG").write_text("tag")
    (project / ".clipcheck_cache").symlink_to(project / "precious")
    assert list(cache.remove(["."])) == []
    assert (project / "precious" / "sub").is_dir() and (project / ".clipcheck_cache").is_symlink()


@pytest.mark.parametrize("tag", ["absent", "folder"])
def test_a_folder_without_our_tag_is_not_removed(project: Path, tag: str) -> None:
    inner = project / ".clipcheck_cache"
    inner.mkdir()
    (inner / ("CACHEDIR.TAG" if tag == "folder" else "x")).mkdir()
    (inner / ".clipcheck_cache").mkdir()
    (inner / ".clipcheck_cache" / "CACHEDIR.TAG").write_text("whoever put it there")
    assert list(cache.remove(["."])) == [] and len(list(inner.rglob("*"))) == 3
