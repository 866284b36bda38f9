"""The engine's decisions, one by one: what is touched, how many processes, what a worker reads, which lines an edit changes."""

from __future__ import annotations

import io
import os
import pickle
import sys
from collections.abc import Iterator
from pathlib import Path
from queue import SimpleQueue
from types import SimpleNamespace
from typing import Any

import pytest

from clipcheck.documents.program import Document, Program, Segment
from clipcheck.engine import batch, cache, find, touched, workers
from clipcheck.engine.batch import check_files
from clipcheck.engine.file import check_file
from clipcheck.engine.results import FileReport, Task
from clipcheck.engine.suppressions import Standing, edits_line, read, removal, sift
from clipcheck.python.source import Source
from clipcheck.rule import Edit, Finding, Fix, Place, Safety, Severity, Verdict
from clipcheck.settings.keys import Settings

OLD = "import torch\ntorch.nn.utils.clip_grad_norm(p, 1.0)\n"
FIXING = Settings(frozenset({"CLIP002"}), "torch", fix=True)

# --- what is touched ----------------------------------------------------------------------------------------------------------


def place(line: int, last: int = 0, cell: int | None = None) -> Place:
    return Place(line, 1, last or line, 2, cell)


@pytest.mark.parametrize(
    ("at", "related", "touch"),
    [
        (place(5), [], "start"),
        (place(5, 9), [], "start"),
        (place(4), [], None),
        (place(6), [], None),
        (place(4, 6), [], "elsewhere"),  # around it
        (place(3), [place(7)], "elsewhere"),  # before and after it
        (place(7), [place(3)], "elsewhere"),
        (place(7), [place(6)], None),
        (place(3), [place(4)], None),
        (place(3), [place(4, 5)], "elsewhere"),
        (place(7), [place(8), place(5)], "elsewhere"),
        (place(3, cell=1), [place(7, cell=1)], None),  # another cell's lines
        (place(5, cell=1), [], None),
        (place(3), [place(7, cell=2)], None),  # of places in other cells, only they themselves count
        (place(9, cell=1), [place(5)], "elsewhere"),
    ],
)
def test_where_a_finding_is_touched(at: Place, related: list[Place], touch: str | None) -> None:
    finding = Finding("x.py", at, "A", "a", "m", related=tuple((one, "here") for one in related))
    assert touched._touch(finding, frozenset({(None, 5)})) == touch


def at(code: str, line: int, last: int = 0) -> Finding:
    return Finding("x.py", place(line, last), code, code.lower(), "m")


@pytest.mark.parametrize(
    ("before", "taken", "after", "promised"),
    [
        # of line 5, which the fix touches, and of what is around it or elsewhere
        ([at("A", 5)], [at("A", 5)], [], True),
        ([at("A", 5)], [at("A", 5)], [at("A", 5)], False),
        ([at("A", 5), at("A", 5)], [at("A", 5)], [at("A", 5)], True),
        ([at("A", 5)], [at("A", 5)], [at("B", 5)], True),
        ([at("A", 5)], [at("A", 5)], [at("B", 7)], False),
        ([at("A", 5), at("B", 7)], [at("A", 5)], [at("B", 7)], True),
        ([at("A", 5), at("B", 4, 6)], [at("A", 5)], [at("B", 7)], True),  # it may not cover the line any more
        ([at("A", 5), at("B", 4, 6)], [at("A", 5)], [at("B", 4, 6), at("B", 7)], False),
        ([at("A", 4, 6)], [at("A", 4, 6)], [at("A", 7)], False),
        ([at("A", 4, 6), at("A", 4, 6)], [at("A", 4, 6)], [at("A", 7)], True),
    ],
)
def test_what_a_fix_promises(before: list[Finding], taken: list[Finding], after: list[Finding], promised: bool) -> None:
    lines = frozenset({(None, 5)})
    assert touched.is_promised(before, after, taken, lines, lines) is promised


@pytest.mark.parametrize("end", ["\n", "\r"])
def test_a_line_that_is_left_out_or_added_touches_no_other(end: str) -> None:
    def document(text: str) -> Document:
        return Document((Program(text, (Segment(0, len(text)),)),), lambda edits: b"")

    text, less = f"a{end}b{end}c{end}", f"a{end}c{end}"
    assert touched.written_lines(document(text), document(less), [[Edit(2, 4, "")]]) == frozenset()
    assert touched.replaced_lines(document(less), [[Edit(2, 2, f"b{end}")]]) == frozenset()


# --- processes ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("files", "jobs", "count"), [(24, 2, 2), (23, 2, 0), (24, 1, 0), (1000, 8, 8), (24, 0, 5), (0, 4, 0)]
)
def test_processes_are_used_where_they_are_faster(
    files: int, jobs: int, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch.os, "cpu_count", lambda: 5)
    assert batch._worker_count([("x.py", FIXING)] * files, jobs) == count
    monkeypatch.setattr(batch.os, "cpu_count", lambda: None)
    assert batch._worker_count([("x.py", FIXING)] * files, 0) == 0
    verifying = Settings(verify=lambda *_: None)  # type: ignore[arg-type,return-value]
    assert batch._worker_count([*[("x.py", FIXING)] * files, ("y.py", verifying)], jobs) == 0


@pytest.mark.parametrize(("safety", "tried"), [(Safety.SAFE, 1), (Safety.UNSAFE, 3)])
def test_only_fixes_that_may_be_applied_are_verified(safety: Safety, tried: int) -> None:
    asked: list[Fix] = []

    def verify(text: str, fix: Fix, target: str) -> Verdict:
        asked.append(fix)
        return Verdict("verified", 1)

    text = f"{OLD}torch.nn.utils.clip_grad_norm_([p.grad for p in ps], 1.0)\np.grad.clamp(-1, 1)\n"
    settings = Settings(frozenset({"CLIP002", "CLIP106", "CLIP107"}), "torch", safety=safety, verify=verify)
    findings = check_file("x.py", text.encode(), settings).findings
    assert [finding.verdict is not None for finding in findings] == [
        finding.fix is not None and finding.fix.safety >= safety for finding in findings
    ]
    assert (len(findings), len(asked)) == (3, tried)


class Pool:
    """Workers that apply functions here, in the opposite order, and die on some items."""

    def __init__(self, count: int = 2, deadly: tuple[str, ...] = ()) -> None:
        self.count, self.deadly = count, deadly
        self.asked: list[Any] = []

    def each(self, function: Any, items: Any) -> Iterator[Any]:
        self.asked += items
        for item in reversed(items):
            path = item.path if isinstance(item, Task) else item[0][0]
            yield item, workers.Died("ended by signal 9") if path in self.deadly else function(item)


def written(folder: Path, count: int, text: str = OLD) -> list[str]:
    for n in range(count):
        (folder / f"{n:04}.py").write_text(text)
    return [str(folder / f"{n:04}.py") for n in range(count)]


def test_many_files_are_searched_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch, "SIFT_FROM", 5)
    monkeypatch.setattr(batch, "CHUNK", 2)
    files = written(tmp_path, 4)
    wanted = [(path, FIXING) for path in (*files, str(tmp_path / "gone.py"))]
    pool: Any = Pool(deadly=(files[2],))
    tasks, unreadable = batch._sift(wanted, pool)
    assert [task.path for task in tasks] == files  # in order, and those of the dead process too
    assert [*unreadable] == [str(tmp_path / "gone.py")]
    assert [len(chunk) for chunk in pool.asked] == [2, 2, 1]
    alone: Any = Pool()
    batch._sift(wanted[:4], alone)
    none: Any = Pool(count=0)
    assert batch._sift(wanted, none)[1] == unreadable
    assert alone.asked == none.asked == []


def test_the_largest_file_is_checked_first(monkeypatch: pytest.MonkeyPatch) -> None:
    tasks = [Task(f"{n}.py", OLD.encode() + b"#" * n, FIXING) for n in range(24)]
    pool: Any = Pool(deadly=("3.py",))
    reports = {report.path: report for report in batch._run(tasks, pool)}
    assert [task.path for task in pool.asked] == [f"{n}.py" for n in reversed(range(24))]
    assert reports["3.py"] == FileReport(
        "3.py", tasks[3].data, errors=("3.py: not checked, its process ended by signal 9",)
    )
    assert all(report.fixed_data for path, report in reports.items() if path != "3.py")
    few: Any = Pool()
    assert len(list(batch._run(tasks[:23], few))) == 23 and few.asked == []


# --- what is written --------------------------------------------------------------------------------------------------------------


def fixed(path: Path) -> Any:
    return check_files([(str(path), FIXING)], jobs=1, write=True)


def test_a_file_of_several_names_is_told(tmp_path: Path) -> None:
    (path,) = (Path(one) for one in written(tmp_path, 1))
    assert fixed(path).warnings == []
    path.write_text(OLD)
    try:
        os.link(path, tmp_path / "other.py")
    except OSError:
        pytest.skip("no hard links here")
    assert fixed(path).warnings == [f"{path}: was one of 2 hard links; the others keep the old content"]
    assert (tmp_path / "other.py").read_text() == OLD


def test_what_cannot_be_written_stays_a_finding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (path,) = written(tmp_path, 1)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(batch.disk, "write", full)
    outcome = fixed(Path(path))
    assert outcome.errors == (f"{path}: cannot be written: No space left on device",)
    assert [finding.code for finding in outcome.findings] == ["CLIP002"]
    assert outcome.fixed == []


def test_why_a_file_cannot_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    for error, why in ((OSError(5, "Input/output error"), "Input/output error"), (OSError("odd"), "odd")):
        monkeypatch.setattr(batch.disk, "read", lambda path, error=error: (_ for _ in ()).throw(error))
        assert check_files([("x.py", FIXING)], jobs=1).errors == (f"x.py: cannot be read: {why}",)


# --- a worker's streams -------------------------------------------------------------------------------------------------------------


CLIPPING = "def clip(p):\n    torch.nn.utils.clip_grad_norm(p, 1.0)\n"


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("import torch\n" + CLIPPING, [True]),
        ("import torch\n\n\nx = 1\n" + CLIPPING + "\n\ndef other():\n    pass\n", [True]),
        ("import torch\n" + CLIPPING + "\n\n" + CLIPPING, [True, True]),
        ("import torch\n" + CLIPPING.replace("1.0", "2.0"), [False]),
        ("import torch\n" + CLIPPING + "    torch.nn.utils.clip_grad_norm(p, 1.0)\n", [False, False]),
        ("import torch\ntorch.nn.utils.clip_grad_norm(p, 1.0)\n", [False]),
    ],
)
def test_findings_at_the_same_place_of_copies_are_told_as_such(text: str, same: list[bool]) -> None:
    def groups(name: str, text: str) -> list[str]:
        return [
            finding.copied for finding in check_file(name, text.encode(), Settings(frozenset({"CLIP002"}))).findings
        ]

    (one,) = groups("a.py", "import torch\n" + CLIPPING)
    others = groups("b.py", text)
    assert one and all(others)
    assert [one == other for other in others] == same
    assert len(set(others)) == (1 if all(same) else len(same))
    assert others == groups("c.py", text)  # a copy of the file


def test_what_is_sent_is_received() -> None:
    stream = io.BytesIO()
    for value in ("x" * 300, [1, None], b""):
        workers._send(stream, value)
    stream.seek(0)
    assert [workers._receive(stream) for _ in range(3)] == ["x" * 300, [1, None], b""]
    with pytest.raises(EOFError):
        workers._receive(stream)


@pytest.mark.parametrize("missing", [1, 5])
def test_what_is_cut_off_is_an_end(missing: int) -> None:
    stream = io.BytesIO()
    workers._send(stream, "value")
    whole = stream.getvalue()
    for data in (whole[:-missing], whole[: 8 - missing], b"\0" * (8 - missing)):
        with pytest.raises(EOFError):
            workers._receive(io.BytesIO(data))
    assert workers._receive(io.BytesIO(whole + b"more")) == "value"


def test_a_worker_finds_what_we_found_and_nothing_of_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["", "relative", str(tmp_path), "/a/lib", str(tmp_path / "."), "/b/lib"])
    package = str(Path(workers.__file__).resolve().parents[2])
    assert workers._trusted_path() == [package, "/a/lib", "/b/lib"]


def test_how_a_process_ended() -> None:
    assert workers._how(-9) == "ended by signal 9"
    assert workers._how(0) == "ended with exit code 0"
    assert workers._how(7) == "ended with exit code 7"


def test_answers_go_out_until_the_reader_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    requests: SimpleQueue[Any] = SimpleQueue()
    for item in (1, 2, 3):
        requests.put((str, item))

    class Ended(Exception):
        pass

    class Closed(io.BytesIO):
        def flush(self) -> None:
            if self.getvalue().endswith(pickle.dumps("2", pickle.HIGHEST_PROTOCOL)):
                raise BrokenPipeError

    def end(code: int) -> None:
        raise Ended(code)

    monkeypatch.setattr(workers, "os", SimpleNamespace(_exit=end))
    stream = Closed()
    with pytest.raises(Ended, match="1"):
        workers._answer(requests, stream)
    stream.seek(0)
    assert [workers._receive(stream), workers._receive(stream)] == ["1", "2"]
    assert requests.get() == (str, 3)


def test_workers_that_are_stopped_start_nothing() -> None:
    with workers.Workers(1) as some:
        pass
    with pytest.raises(RuntimeError, match="the workers have been stopped"):
        list(some.each(str, [1]))


# --- the cache ----------------------------------------------------------------------------------------------------------------------


def test_a_finding_is_the_same_after_the_cache() -> None:
    fix = Fix("Swap", Safety.UNSAFE, (Edit(1, 2, "x"),), (Edit(0, 0, "import torch\n"),))
    whole = Finding("x.py", Place(1, 2, 3, 4, 5), "CLIP002", "name", "m", Severity.ERROR, fix, ((place(2), "y"),),
                    "help", ((place(7, cell=2), "here"),), 3, 9, "ab")  # fmt: skip
    for finding in (whole, whole._replace(fix=None, changes=(), related=(), help="")):
        packed = cache._packed(finding)
        import json

        assert cache._finding("x.py", json.loads(json.dumps(packed))) == finding


def test_all_that_a_cache_writes_to_is_named(tmp_path: Path) -> None:
    folder = tmp_path / cache.NAME
    one = cache.Cache(str(folder))
    one._write({})
    named = set(cache.written_in(str(folder)))
    below = {str(folder), *(str(path) for path in folder.iterdir())}
    assert below == named


def test_broken_entries_are_empty() -> None:
    assert cache._inner({"a": {"b": 1}}, "a") == {"b": 1}
    assert cache._inner({"a": [1]}, "a") == cache._inner({}, "a") == {}


def test_the_state_of_what_is_not_there_is_unknown(tmp_path: Path) -> None:
    assert cache._state(str(tmp_path / "gone")) == cache._state("a\0b") == ""
    (tmp_path / "x").write_bytes(b"123")
    size, inode, modified, changed = cache._state(str(tmp_path / "x")).split()
    status = (tmp_path / "x").stat()
    assert (int(size), int(inode), int(modified), int(changed)) == (
        3,
        status.st_ino,
        status.st_mtime_ns,
        status.st_ctime_ns,
    )


# --- finding files --------------------------------------------------------------------------------------------------------------------


def test_a_path_that_is_not_a_file_is_named_for_what_it_is(tmp_path: Path) -> None:
    (tmp_path / "broken").symlink_to(tmp_path / "gone")
    names = [str(tmp_path / name) for name in ("gone", "broken")] + [os.devnull]
    found = find.find(names)
    assert found.missing == [
        f"{names[0]}: no such file or directory",
        f"{names[1]}: broken link",
        f"{names[2]}: not a regular file",
    ]


def test_of_a_link_and_its_target_the_target_stays(tmp_path: Path) -> None:
    (target,) = written(tmp_path, 1)
    (tmp_path / "a.py").symlink_to(target)
    (tmp_path / "z").symlink_to(target)
    (tmp_path / "b.py").symlink_to(tmp_path / "gone")
    os.link(target, tmp_path / "hard.py")
    found = find.find([str(tmp_path), str(tmp_path / "z"), target])
    assert found.files == [target, str(tmp_path / "hard.py")]
    assert found.warnings == [f"{tmp_path / 'b.py'}: broken link, skipped"]
    links = find._without_second_names([str(tmp_path / "a.py"), str(tmp_path / "z")])
    assert links == [str(tmp_path / "z")]  # the shortest


def test_a_folder_that_cannot_be_listed_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def walk(top: str, onerror: Any) -> Iterator[Any]:
        onerror(PermissionError(13, "Permission denied", "x/secret"))
        yield from ()

    monkeypatch.setattr(find.os, "walk", walk)
    assert find.find([str(tmp_path)]).errors == ["x/secret: cannot be read: Permission denied"]


# --- suppressions -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("edit", "lines", "expected"),
    [
        (Edit(2, 3, "x"), (2, 2), True),
        (Edit(2, 3, "x"), (1, 1), False),
        (Edit(2, 3, "x"), (3, 3), False),
        (Edit(2, 5, "x"), (3, 4), True),
        (Edit(2, 4, ""), (2, 2), True),  # the whole line
        (Edit(2, 4, ""), (3, 3), False),  # only the one above
        (Edit(2, 2, "x\n"), (2, 2), False),  # a line above it
        (Edit(2, 2, "x\n"), (1, 1), False),  # and one below it
        (Edit(2, 2, "x\n"), (1, 2), True),  # between them
        (Edit(2, 2, "x\r"), (2, 2), False),
        (Edit(2, 2, "x"), (2, 2), True),
        (Edit(3, 3, "\nx"), (2, 2), True),
        (Edit(3, 3, "x\n"), (2, 2), True),
        (Edit(2, 4, "x\n"), (2, 2), True),
        (Edit(2, 4, "x\n"), (3, 3), False),
        (Edit(0, 2, "x\n"), (2, 2), False),
    ],
)
def test_whether_an_edit_changes_some_lines(edit: Edit, lines: tuple[int, int], expected: bool) -> None:
    assert edits_line(Source("a\nb\nc\nd\n"), edit, *lines) is expected


@pytest.mark.parametrize(
    ("line", "names"),
    [
        ("x  # clipcheck: ignore[CLIP001, CLIP002]", ("CLIP001", "CLIP002")),
        ("x  # clipcheck: IGNORE[clip001]", ("CLIP001",)),
        ("x  # clipcheck: ignore", None),
        ("x  # clipcheck:ignore", None),
        ("x  # noqa: CLIP001, E501", ("CLIP001",)),
        ("x  # NOQA:CLIP001 E501", ("CLIP001",)),
        ("x  # noqa", None),
        ("x  # clipcheck: noqa", None),
        ("x  # clipcheck: noqa: CLIP001", ("CLIP001",)),
    ],
)
def test_what_a_directive_names(line: str, names: tuple[str, ...] | None) -> None:
    (directive,), malformed = read(Source(f"{line}\n"))
    assert malformed == []
    assert (None if directive.names is None else tuple(name.code for name in directive.names)) == names
    for name in directive.names or ():
        assert line[name.start : name.end].upper() == name.code
    assert line[directive.start :].startswith("#") and directive.end <= len(line)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            "# clipcheck: skip",
            "`clipcheck: skip`: unknown directive (expected ignore, disable, enable, file-ignore, noqa)",
        ),
        ("# clipcheck: ignore[]", "`clipcheck: ignore[]` names no rule"),
        ("# clipcheck: ignore[CLIP999]", "unknown rule `CLIP999` in a suppression"),
        ("# clipcheck: ignore CLIP001", "malformed suppression, write `# clipcheck: ignore[CLIP001]`"),
        ("# clipcheck: disable clip001, clip002", "malformed suppression, write `# clipcheck: disable[CLIP001]`"),
        ("# clipcheck: noqa CLIP001", "malformed suppression, write `# clipcheck: noqa: CLIP001`"),
        ("# clipcheck: ignore(CLIP001)", "malformed suppression, write `# clipcheck: ignore[CLIP001]`"),
        ("# clipcheck: noqa[CLIP001]", "malformed suppression, write `# clipcheck: noqa: CLIP001`"),
        ("# noqa: CLIP999", "unknown rule `CLIP999` in a `noqa`"),
        ("# noqa: clip-norm", "malformed suppression, write `# noqa: CLIP001`"),
    ],
)
def test_a_malformed_suppression_is_told(line: str, message: str) -> None:
    assert read(Source(f"x = 1\n{line}\n")) == ([], [(6, message)])


@pytest.mark.parametrize(
    ("before", "at", "after"),
    [
        ("x  # clipcheck: ignore[CLIP001]\n", None, "x\n"),
        ("# clipcheck: ignore[CLIP001]\nx\n", None, "x\n"),
        ("x\n    # clipcheck: ignore\n", None, "x\n"),
        ("# clipcheck: ignore[CLIP001]", None, ""),
        ("x  # a  # clipcheck: ignore\n", None, "x  # a\n"),
        ("x  # clipcheck: ignore[CLIP001, CLIP002]\n", 0, "x  # clipcheck: ignore[CLIP002]\n"),
        ("x  # clipcheck: ignore[CLIP001, CLIP002]\n", 1, "x  # clipcheck: ignore[CLIP001]\n"),
        ("x  # clipcheck: ignore[CLIP001]\n", 0, "x\n"),
        ("x  # noqa: E501, CLIP001\n", 0, "x  # noqa: E501\n"),
        ("x  # noqa: CLIP001, E501\n", 0, "x  # noqa: E501\n"),
        ("x  # noqa: E501 CLIP001\n", 0, "x  # noqa: E501\n"),
        ("x  # noqa: CLIP001 E501\n", 0, "x  # noqa: E501\n"),
    ],
)
def test_what_is_unused_is_removed(before: str, at: int | None, after: str) -> None:
    source = Source(before)
    (directive,), _ = read(source)
    fix = removal(source, directive, None if at is None else (directive.names or ())[at])
    (edit,) = fix.edits
    assert before[: edit.start] + edit.text + before[edit.end :] == after
    assert fix.safety is Safety.SAFE


def standing(line: int) -> Standing:
    return Standing(line * 100, line, line, line, line)


def test_what_is_suppressed_and_what_is_unused() -> None:
    text = "a  # clipcheck: ignore[CLIP001, CLIP002]\nb\n# clipcheck: ignore\n\n# more\nc\nd  # noqa\n"
    judged = frozenset({"CLIP001", "CLIP002"})
    found = [("CLIP001", standing(1)), ("CLIP001", standing(2)), ("CLIP002", standing(6)), ("CLIP001", standing(7))]
    sifted = sift(Source(text), found, judged, whole=True)
    assert (sifted.kept, sifted.suppressed) == ((1,), (0, 2, 3))
    assert [name.code for _, name in sifted.unused if name] == ["CLIP002"]
    nothing = sift(Source(text), [], judged, whole=True)
    assert [name.code if name else None for _, name in nothing.unused] == ["CLIP001", "CLIP002", None]
    assert [name.code if name else None for _, name in sift(Source(text), [], judged, whole=False).unused] == ["CLIP001", "CLIP002"]  # fmt: skip
    assert sift(Source(text), [], frozenset(), whole=False).unused == ()
