"""Many files at once: which are checked, the order of reports, and the effect of an error in one file on the others."""

from __future__ import annotations

import gc
import os
import sys
from pathlib import Path

import pytest

from clipcheck import engine
from clipcheck.engine import batch
from clipcheck.engine.batch import check_files, check_paths
from clipcheck.engine.find import find
from clipcheck.engine.results import Outcome
from clipcheck.settings.keys import Layer, Settings
from clipcheck.settings.projects import Projects

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


def test_fixes_and_warnings_of_all_files_are_listed(files: list[str]) -> None:
    Path(files[0]).write_text(OLD + OLD + "# clipcheck: skip\n")
    outcome = check_files(wanted([files[3], files[0]], FIXING), jobs=1)
    assert [(f.path, f.place.line) for f in outcome.fixed] == [(files[0], 2), (files[0], 4), (files[3], 2)]
    assert [warning.partition(": ")[0] for warning in outcome.warnings] == [f"{files[0]}:5"]
    assert Outcome((), 0).fixed == Outcome((), 0).findings == Outcome((), 0).warnings == []


# --- paths and processes ------------------------------------------------------------------------------------------------


def test_what_is_wrong_with_paths_is_told_first(
    files: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone, broken = str(tmp_path / "gone"), tmp_path / "broken.py"
    broken.write_text(OLD)

    def unreadable(path: str) -> bytes:
        if path == str(broken):
            raise PermissionError(13, "Permission denied")
        return real(path)

    real = batch.disk.read
    monkeypatch.setattr(batch.disk, "read", unreadable)
    outcome = check_paths([gone, str(broken), files[0]], SETTINGS)
    assert outcome.errors == (f"{gone}: no such file or directory", f"{broken}: cannot be read: Permission denied")
    assert (reported(outcome), outcome.files) == ([("00.py", "CLIP002")], 2)


def test_all_cores_are_used_unless_told_otherwise(files: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    counts: list[int] = []

    class Pool:
        def __init__(self, count: int) -> None:
            counts.append(count)
            self.count = 0

        def __enter__(self) -> Pool:
            return self

        def __exit__(self, *_: object) -> None:
            pass

    monkeypatch.setattr(batch, "Workers", Pool)
    monkeypatch.setattr(batch.os, "cpu_count", lambda: 5)
    check_paths([os.path.dirname(files[0])], FIXING)
    check_files(wanted(files))
    check_files(wanted(files), 3)
    check_files(wanted(files[:20]))
    assert counts == [5, 5, 3, 0]
    assert all(Path(path).read_text() == OLD for path in files[::3])


def test_a_file_with_only_errors_or_warnings_has_a_report(tmp_path: Path) -> None:
    path = tmp_path / "x.py"
    path.write_text("x = 1  # clipcheck: skip\n")
    (report,) = check_files(wanted([str(path)]), jobs=1).reports
    assert (report.findings, report.errors, len(report.warnings)) == ((), (), 1)


def test_garbage_is_collected_less_often_while_files_are_checked(files: list[str]) -> None:
    usual = gc.get_threshold()
    try:
        gc.set_threshold(700, 10, 10)
        check_files(wanted(files[:1]), jobs=1)
        assert all(now > before for now, before in zip(gc.get_threshold(), (700, 9, 9), strict=True))
    finally:
        gc.set_threshold(*usual)


# --- which files a folder has -------------------------------------------------------------------------------------------


def test_a_folders_files_are_those_of_known_endings(tmp_path: Path) -> None:
    names = ["a.py", "b.ipynb", "c.rst", "d.pyi", "e.txt", "py", "sub/f.py", "sub.py/g.py", ".py"]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    found = find([str(tmp_path)]).files
    assert [os.path.relpath(path, tmp_path) for path in found] == sorted([".py", "a.py", "b.ipynb", "c.rst", os.path.join("sub", "f.py"), os.path.join("sub.py", "g.py")])  # fmt: skip
    assert find([str(tmp_path / name) for name in ("e.txt", "d.pyi")]).files == [str(tmp_path / name) for name in ("d.pyi", "e.txt")]  # fmt: skip


def test_markdown_is_looked_for_where_it_can_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.md").write_text("")
    for spec, count in ((None, 0), (object(), 1)):
        monkeypatch.setattr(engine.find, "find_spec", lambda name, spec=spec: spec)
        assert len(find([str(tmp_path)]).files) == count
        assert find([str(tmp_path / "a.md")]).files == [str(tmp_path / "a.md")]


def test_without_a_project_no_settings_of_a_folder_count(tmp_path: Path) -> None:
    (tmp_path / "clipcheck.toml").write_text('exclude = ["a.py"]\nforce-exclude = true\n')
    (tmp_path / "a.py").write_text("")
    assert find([str(tmp_path), str(tmp_path / "a.py")]).files == [str(tmp_path / "a.py")]


def projects(folder: Path, **values: object) -> Projects:
    return Projects(Layer(values, str(folder)), Settings(), isolated=True)


@pytest.mark.parametrize(
    ("values", "named", "walked"),
    [
        ({}, True, True),
        ({"exclude": ["a.py"]}, True, False),
        ({"exclude": ["b.py"], "force-exclude": True}, True, True),
        ({"exclude": ["a.py"], "force-exclude": True}, False, False),
        ({"extend-exclude": ["pkg"], "force-exclude": True}, False, True),  # the folder itself was named
    ],
)
def test_a_named_file_is_left_out_only_by_force(
    tmp_path: Path, values: dict[str, object], named: bool, walked: bool
) -> None:
    (tmp_path / "pkg").mkdir()
    path = tmp_path / "pkg" / "a.py"
    path.write_text("")
    assert find([str(path)], projects(tmp_path, **values)).files == [str(path)] * named
    assert find([str(path.parent)], projects(tmp_path, **values)).files == [str(path)] * walked


def test_a_folder_below_a_named_one_can_be_left_out(tmp_path: Path) -> None:
    for folder in ("pkg/gen", "pkg/more"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "a.py").write_text("")
    found = find([str(tmp_path / "pkg")], projects(tmp_path, **{"extend-exclude": ["pkg", "gen"]}))
    assert found.files == [str(tmp_path / "pkg" / "more" / "a.py")]
    assert len(find([str(tmp_path / "pkg" / "gen")], projects(tmp_path, **{"extend-exclude": ["gen"]})).files) == 1


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("pkg", ["a.py", "gen/a.py", "pkg/a.py"]),  # it is the named folder's own
        ("pkg/", ["a.py", "gen/a.py", "pkg/a.py"]),
        ("*", ["a.py", "gen/a.py", "pkg/a.py"]),
        ("gen/", ["a.py", "pkg/a.py"]),
        ("a.py/", ["a.py", "gen/a.py", "pkg/a.py"]),  # no folder
        ("a.py", []),
        ("pkg/*", []),
        ("pkg/gen/*", ["a.py", "pkg/a.py"]),
        ("nothing", ["a.py", "gen/a.py", "pkg/a.py"]),
    ],
)
def test_which_patterns_hold_below_a_named_folder(tmp_path: Path, pattern: str, found: list[str]) -> None:
    for name in ("a.py", "gen/a.py", "pkg/a.py"):
        (tmp_path / "pkg" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "pkg" / name).write_text("")
    files = find([str(tmp_path / "pkg")], projects(tmp_path, **{"extend-exclude": [pattern]})).files
    assert files == [str(tmp_path / "pkg" / name) for name in found]


@pytest.mark.parametrize(("respect", "count"), [(True, 1), (False, 3)])
def test_what_git_ignores_is_skipped_unless_told_otherwise(tmp_path: Path, respect: bool, count: int) -> None:
    (tmp_path / ".git").mkdir()
    (tmp_path / ".gitignore").write_text("b.py\nbuild/\n")
    (tmp_path / "build").mkdir()
    for name in ("a.py", "b.py", "build/c.py"):
        (tmp_path / name).write_text("")
    assert len(find([str(tmp_path)], projects(tmp_path, **{"respect-gitignore": respect})).files) == count
    assert len(find([str(tmp_path)]).files) == 1


@pytest.mark.skipif(sys.platform == "win32", reason="whether a process exists cannot be asked there")
def test_what_a_killed_run_left_is_removed_from_searched_folders(tmp_path: Path) -> None:
    left = tmp_path / f".clipcheck-{2**22 + 1}-0123456789ab"
    for path in (left, tmp_path / "a.py", tmp_path / "z.py"):
        path.write_text("")
    assert len(find([str(tmp_path)]).files) == 2
    assert not left.exists()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes here")
def test_what_is_no_regular_file_is_left_out_of_a_folder(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.py")
    (tmp_path / "z.py").write_text("")
    assert find([str(tmp_path)]) == ([str(tmp_path / "z.py")], [], [], [])
    assert find([str(tmp_path / "pipe.py")]).missing == [f"{tmp_path / 'pipe.py'}: not a regular file"]


@pytest.mark.skipif(sys.platform == "win32", reason="links need a privilege there")
def test_of_many_names_of_a_file_one_without_a_link_is_read(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "long_name.py").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    (tmp_path / "a.py").symlink_to(tmp_path / "real" / "long_name.py")
    (tmp_path / "gone.py").symlink_to(tmp_path / "nowhere")
    (tmp_path / "z.py").write_text("")
    names = [str(tmp_path / name) for name in ("a.py", "link/long_name.py", "real/long_name.py", "z.py")]
    assert find(names).files == names[2:]
    assert find(names[:2]).files == [names[0]]
    found = find([str(tmp_path)])
    assert (found.files, found.warnings) == (names[2:], [f"{tmp_path / 'gone.py'}: broken link, skipped"])
