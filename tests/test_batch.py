"""Many files at once: which are checked, the order of reports, and the effect of an error in one file on the others."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from clipcheck.engine import batch
from clipcheck.engine.batch import check_files, check_paths
from clipcheck.engine.results import Outcome
from clipcheck.settings.keys import Settings

OLD = "import torch\ntorch.nn.utils.clip_grad_norm(p, 1.0)\n"
NEW = OLD.replace("norm(", "norm_(")
SETTINGS = Settings(frozenset({"CLIP002"}), "torch")
FIXING = Settings(frozenset({"CLIP002"}), "torch", fix=True)


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    """Thirty files: every third one has a finding, every third one only a keyword, the others neither."""
    texts = (OLD, "clip_grad_norm = 1\n", "x = 1\n")
    for n in range(30):
        (tmp_path / f"{n:02}.py").write_text(texts[n % 3])
    return [str(tmp_path / f"{n:02}.py") for n in range(30)]


def wanted(paths: list[str], settings: Settings = SETTINGS) -> list[tuple[str, Settings]]:
    return [(path, settings) for path in paths]


def reported(outcome: Outcome) -> list[tuple[str, str]]:
    return [(os.path.basename(report.path), f.code) for report in outcome.reports for f in report.findings]


def test_only_files_with_findings_have_a_report(files: list[str]) -> None:
    outcome = check_files(wanted(files), jobs=1)
    assert reported(outcome) == [(f"{n:02}.py", "CLIP002") for n in range(0, 30, 3)]
    assert (outcome.files, outcome.errors, outcome.warnings, outcome.fixed) == (30, (), [], [])
    assert 10 <= outcome.candidates <= 20


def test_reports_are_in_the_order_of_the_request_whichever_process_finishes_first(files: list[str]) -> None:
    backwards = list(reversed(files))
    alone = check_files(wanted(backwards), jobs=1)
    assert [name for name, _ in reported(alone)] == [f"{n:02}.py" for n in range(27, -1, -3)]
    for path in files:  # enough candidates for several processes
        Path(path).write_text(OLD)
    together = check_files(wanted(backwards), jobs=2)
    assert reported(together) == [(f"{n:02}.py", "CLIP002") for n in range(29, -1, -1)]
    assert together == check_files(wanted(backwards), jobs=1)


def test_progress_counts_up_to_the_number_of_checked_files(files: list[str]) -> None:
    seen: list[tuple[int, int]] = []
    outcome = check_files(wanted(files), jobs=1, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(n, outcome.candidates) for n in range(1, outcome.candidates + 1)]


def test_a_file_that_cannot_be_read_stops_no_other(files: list[str], tmp_path: Path) -> None:
    gone = str(tmp_path / "gone.py")
    outcome = check_files(wanted([files[0], gone, str(tmp_path), files[3]]), jobs=1)
    assert [name for name, _ in reported(outcome)] == ["00.py", "03.py"]
    assert [error.partition(": ")[0] for error in outcome.errors] == [gone, str(tmp_path)]
    assert all("cannot be read" in error for error in outcome.errors)


def test_each_file_has_its_own_settings(files: list[str]) -> None:
    outcome = check_files([(files[0], SETTINGS), (files[3], Settings(frozenset({"CLIP003"})))], jobs=1)
    assert reported(outcome) == [("00.py", "CLIP002")]


def test_nothing_is_written_unless_asked(files: list[str]) -> None:
    outcome = check_files(wanted(files, FIXING), jobs=1)
    assert len(outcome.fixed) == 10
    assert all(Path(path).read_text() == OLD for path in files[::3])


def test_fixes_change_only_their_files(files: list[str]) -> None:
    before = {path: Path(path).read_text() for path in files}
    outcome = check_files(wanted(files, FIXING), jobs=1, write=True)
    assert (len(outcome.fixed), outcome.findings, outcome.errors) == (10, [], ())
    for n, path in enumerate(files):
        assert Path(path).read_text() == (before[path] if n % 3 else NEW)


def test_a_file_that_changes_meanwhile_keeps_the_change(files: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    real = batch.check_file

    def slow(path: str, data: bytes, settings: Settings):  # type: ignore[no-untyped-def]
        report = real(path, data, settings)
        if path == files[0]:
            Path(path).write_text("the user was here\n")
        return report

    monkeypatch.setattr(batch, "check_file", slow)
    outcome = check_files(wanted([files[0], files[3]], FIXING), jobs=1, write=True)
    assert Path(files[0]).read_text() == "the user was here\n"
    assert Path(files[3]).read_text() == NEW
    assert [error.startswith(f"{files[0]}: ") for error in outcome.errors] == [True]


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="permissions do not hold here")
def test_a_file_that_cannot_be_written_is_an_error(files: list[str], tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    try:
        outcome = check_files(wanted([files[0]], FIXING), jobs=1, write=True)
    finally:
        tmp_path.chmod(0o755)
    assert [error.startswith(f"{files[0]}: cannot be written") for error in outcome.errors] == [True]
    assert Path(files[0]).read_text() == OLD


def test_paths_are_walked_and_sorted(files: list[str], tmp_path: Path) -> None:
    assert reported(check_paths([str(tmp_path)], SETTINGS, jobs=1)) == [
        (f"{n:02}.py", "CLIP002") for n in range(0, 30, 3)
    ]


def test_documents_are_found_by_extension(tmp_path: Path) -> None:
    pytest.importorskip("markdown_it", reason="needs the extra clipcheck[markdown]")
    for name in ("a.md", "b.markdown", "c.mdx", "d.qmd", "e.rmd", "f.Rmd", "g.txt"):
        (tmp_path / name).write_text(f"```python\n{OLD}```\n")
    found = reported(check_paths([str(tmp_path)], SETTINGS, jobs=1))
    assert [name for name, _ in found] == ["a.md", "b.markdown", "c.mdx", "d.qmd", "e.rmd", "f.Rmd"]


def test_findings_of_all_files_are_sorted_by_path_and_place(files: list[str]) -> None:
    Path(files[0]).write_text(OLD + OLD)
    found = check_files(wanted([files[3], files[0]]), jobs=1).findings
    assert [(os.path.basename(f.path), f.place.line) for f in found] == [("00.py", 2), ("00.py", 4), ("03.py", 2)]
