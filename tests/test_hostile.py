"""Text that breaks careless tools: what is not fixed stays the same byte for byte, and a bad file stops no other."""

from __future__ import annotations

import codecs
import json
import os
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipcheck.documents.program import apply
from clipcheck.engine.batch import check_paths
from clipcheck.engine.file import check_file
from clipcheck.engine.find import find
from clipcheck.rule import INVALID_SYNTAX, NOT_ANALYZED, NOT_ROUND_TRIPPED, Edit
from clipcheck.settings.keys import Settings

CALL = "torch.nn.utils.clip_grad_norm(model.parameters(), 1.0)"
PROGRAM = f"import torch\n\n\ndef clip(model):\n    {CALL}\n"
FIXED = "from clipcheck.runtime import clip_grad_norm_\n\n\ndef clip(model):\n    clip_grad_norm_(model.parameters(), 1.0)\n"
POSIX = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no pipes among its files")
SETTINGS = Settings(codes=frozenset({"CLIP002"}), fix=True)


def fix(data: bytes) -> bytes | None:
    report = check_file("x.py", data, SETTINGS)
    assert report.errors == ()
    return report.fixed_data


@pytest.mark.parametrize(
    ("encoding", "head", "tail"),
    [
        ("utf-8", "", ""),
        ("utf-8", "# Grüße, 世界 😀\n", "# ende 😀\n"),
        ("latin-1", "# -*- coding: latin-1 -*-\n# naïve\n", "# öß\n"),
        ("cp1252", "#!/usr/bin/env python\n# vim: set fileencoding=cp1252 :\n# “quotes”\n", ""),
        ("shift_jis", "# coding: shift_jis\n# 勾配\n", "# ノルム\n"),
    ],
)
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_encodings_and_line_ends_are_kept(encoding: str, head: str, tail: str, newline: str) -> None:
    data = (head + PROGRAM + tail).replace("\n", newline).encode(encoding)
    assert fix(data) == (head + FIXED + tail).replace("\n", newline).encode(encoding)


def test_a_byte_order_mark_is_kept() -> None:
    assert fix(codecs.BOM_UTF8 + PROGRAM.encode()) == codecs.BOM_UTF8 + FIXED.encode()


def test_columns_count_code_points() -> None:
    data = f"import torch\nx = '😀é'; {CALL}\n".encode()
    (finding,) = check_file("x.py", data, Settings(SETTINGS.codes)).findings
    assert (finding.place.line, finding.place.column) == (2, 11)


def test_mixed_line_ends_tabs_and_a_missing_final_newline_are_kept() -> None:
    data = b"import torch\r\n\n\ndef clip(model):\n\tif model:\r\n\t\t" + CALL.encode() + b"\t# why\r\n\treturn 1"
    wanted = (
        b"from clipcheck.runtime import clip_grad_norm_\r\n\n\ndef clip(model):\n\tif model:\r\n\t\t"
        b"clip_grad_norm_(model.parameters(), 1.0)\t# why\r\n\treturn 1"
    )
    assert fix(data) == wanted


@pytest.mark.parametrize(
    "tail",
    [b"x = 1\n\t#c\n\t", b"x\n  \n\t"],
    ids=["comment before a last line of white space", "two lines of white space"],
)
def test_text_that_the_parser_loses_is_reported_and_not_rewritten(tail: bytes) -> None:
    report = check_file("x.py", PROGRAM.encode() + tail, SETTINGS)
    assert report.fixed_data is None
    assert [finding.code for finding in report.findings] == [NOT_ROUND_TRIPPED, "CLIP002"]


ODD = [b"\r", b"if x:\n  pass\n  \n\t", b"\x0cx = 1\n", b"x = 1 \\\n\n", b'x = """\r"""\n']


@pytest.mark.parametrize("tail", ODD)
def test_odd_text_is_fixed_exactly_or_not_at_all(tail: bytes) -> None:
    report = check_file("x.py", PROGRAM.encode() + tail, SETTINGS)
    assert report.fixed_data in (None, FIXED.encode() + tail)
    if report.fixed_data is None:
        assert {finding.code for finding in report.findings} & {NOT_ROUND_TRIPPED, INVALID_SYNTAX}


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"# coding: utf-16\n" + PROGRAM.encode(), "cannot be decoded"),
        (b"# coding: no-such-codec\n" + PROGRAM.encode(), "cannot be decoded"),
        (PROGRAM.encode() + b"# \xff\xfe\n", "cannot be decoded"),
        (PROGRAM.encode() + b"def (:\n", "not valid Python"),
        (PROGRAM.encode() + b"\x00", "not valid Python"),
    ],
)
def test_unreadable_files_are_visible_findings(data: bytes, says: str) -> None:
    report = check_file("x.py", data, SETTINGS)
    (finding,) = [finding for finding in report.findings if finding.code == INVALID_SYNTAX]
    assert says in finding.message
    assert "\n" not in finding.message
    assert report.fixed_data is None


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("name", ["x.py", "x.ipynb"])
def test_no_encoding_is_silently_skipped(encoding: str, name: str) -> None:
    text = PROGRAM if name == "x.py" else json.dumps({"cells": [{"cell_type": "code", "source": PROGRAM}]})
    assert check_file(name, text.encode(encoding), SETTINGS).findings


PYTHON_2 = """import torch
print 'a'
def g(self, (a, b)):
    try:
        print >>f, 'x'
    except E, e:
        print e
    else:
        exec 'x' in d
    raise E, 'a'
class A:
    x = 0777
    y = `x`
    if x <> y: pass
"""


@pytest.mark.parametrize(
    "text",
    [
        PYTHON_2 + PROGRAM,
        PROGRAM + PYTHON_2,
        PROGRAM.replace("\n", "\r"),
        "import torch\n\n\ndef clip(model):\n        x = 1\n\tprint 'x'\n" + PROGRAM,
    ],
)
def test_an_error_elsewhere_hides_no_finding(text: str) -> None:
    report = check_file("x.py", text.encode(), Settings(SETTINGS.codes))
    codes = {finding.code for finding in report.findings}
    assert "CLIP002" in codes
    assert codes & {INVALID_SYNTAX, NOT_ROUND_TRIPPED}


def test_one_bad_file_does_not_stop_the_others(tmp_path: Path) -> None:
    (tmp_path / "a_broken.py").write_text("torch.nn.utils.clip_grad_norm(\n")
    (tmp_path / "b_deep.py").write_text(PROGRAM + "x = " + "+".join(["1"] * 1500) + "\n")
    (tmp_path / "c_good.py").write_text(PROGRAM)
    outcome = check_paths([str(tmp_path)], SETTINGS, write=True)
    assert (tmp_path / "c_good.py").read_text() == FIXED
    assert [Path(f.path).name for f in outcome.findings if f.code == INVALID_SYNTAX] == ["a_broken.py"]
    assert (tmp_path / "a_broken.py").read_text() == "torch.nn.utils.clip_grad_norm(\n"
    for error in outcome.errors:
        assert "b_deep.py" in error


def test_a_rule_that_crashes_is_named_and_the_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    from clipcheck.rules import deprecated_clip_grad_norm

    def crash(source: object) -> object:
        raise ZeroDivisionError("made up")

    monkeypatch.setattr(deprecated_clip_grad_norm, "check", crash)
    report = check_file("x.py", PROGRAM.encode(), SETTINGS)
    assert report.errors == ("x.py: rule CLIP002 crashed: ZeroDivisionError: made up",)
    assert report.fixed_data is None


def test_a_fix_with_a_wrong_result_is_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine trusts no rule: a fix whose result does not parse or still has the finding is dropped and reported."""
    from clipcheck.rules import deprecated_clip_grad_norm

    real = deprecated_clip_grad_norm.check

    def spoil(source: object) -> object:
        for hit in real(source):
            yield hit._replace(fix=hit.fix._replace(edits=tuple(e._replace(text="(") for e in hit.fix.edits)))

    monkeypatch.setattr(deprecated_clip_grad_norm, "check", spoil)
    report = check_file("x.py", PROGRAM.encode(), SETTINGS)
    assert report.fixed_data is None
    assert len(report.errors) == 1
    assert "bug in clipcheck" in report.errors[0]
    assert [finding.code for finding in report.findings] == ["CLIP002"]


# --- too much ---------------------------------------------------------------------------------------------------------

DEEP = {
    "attributes": lambda n: "x = a" + ".b" * n,
    "calls": lambda n: "x = a" + ".b()" * n,
    "calls on lines": lambda n: "x = (a" + "\n    .b()" * n + ")",
    "subscripts": lambda n: "x = a" + "[0]" * n,
    "sums": lambda n: "x = a" + "+b" * n,
    "powers": lambda n: "x = a" + "**b" * n,
    "and": lambda n: "x = a" + " and b" * n,
    "not": lambda n: "x = " + "not " * n + "a",
    "signs": lambda n: "x = " + "-" * n + "a",
    "lambdas": lambda n: "x = " + "lambda:" * n + "a",
    "conditions": lambda n: "x = " + "a if b else " * n + "c",
    "strings": lambda n: "x = (" + "'a'\n" * n + ")",
    "elif": lambda n: "if a:\n    pass\n" + "elif b:\n    pass\n" * n,
}


@pytest.mark.parametrize("kind", DEEP)
def test_deep_nesting_loses_no_finding(kind: str) -> None:
    report = check_file("x.py", (PROGRAM + DEEP[kind](300) + "\n").encode(), Settings(SETTINGS.codes))
    assert [finding.code for finding in report.findings] == ["CLIP002"]
    assert report.errors == ()


@pytest.mark.parametrize(("kind", "count"), [("strings", 1500), ("elif", 1000), ("and", 1500)])
def test_apparent_nesting_loses_no_finding(kind: str, count: int) -> None:
    report = check_file("x.py", (PROGRAM + DEEP[kind](count) + "\n").encode(), Settings(SETTINGS.codes))
    assert [finding.code for finding in report.findings] == ["CLIP002"]


@pytest.mark.parametrize("kind", DEEP)
def test_too_deep_nesting_is_a_finding_and_takes_no_time(kind: str) -> None:
    started = time.process_time()
    report = check_file("x.py", (PROGRAM + DEEP[kind](5000) + "\n").encode(), SETTINGS)
    assert [finding.code for finding in report.findings] == [NOT_ANALYZED]
    assert "too deeply" in report.findings[0].message
    assert report.fixed_data is None
    assert time.process_time() - started < 5


@pytest.mark.parametrize(
    "text", ["x = " + "(" * 1300 + "a" + ")" * 1300, "x = " + "[" * 5000 + "]" * 5000, "(" * 100_000]
)
def test_brackets_that_would_crash_the_parser_are_a_finding(text: str) -> None:
    report = check_file("x.py", f"{PROGRAM}{text}\n".encode(), SETTINGS)
    assert [finding.code for finding in report.findings] == [NOT_ANALYZED]
    assert report.findings[0].place.line == 6


def test_a_too_large_file_is_a_finding_and_is_not_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    def parse(*_: object, **__: object) -> None:
        raise AssertionError("text of millions of characters takes a parser gigabytes")

    monkeypatch.setattr("ast.parse", parse)
    monkeypatch.setattr("libcst.parse_module", parse)
    report = check_file("x.py", (PROGRAM + "x = 1\n" * 400_000).encode(), SETTINGS)
    assert [finding.code for finding in report.findings] == [NOT_ANALYZED]
    assert "too large" in report.findings[0].message


def test_a_large_file_without_keywords_is_not_a_finding() -> None:
    assert check_file("x.py", b"x = 1\n" * 400_000, SETTINGS).findings == ()


# --- special files ----------------------------------------------------------------------------------------------------


@POSIX
def test_pipes_and_devices_are_skipped_and_never_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.py")
    os.mkfifo(tmp_path / ".gitignore")
    os.mkfifo(tmp_path / "pyproject.toml")
    (tmp_path / "device.py").symlink_to("/dev/zero")
    (tmp_path / "x.py").write_text(PROGRAM)
    outcome = check_paths([str(tmp_path)], Settings(SETTINGS.codes))
    assert [Path(finding.path).name for finding in outcome.findings] == ["x.py"]
    named = find([str(tmp_path / "pipe.py"), str(tmp_path / "device.py")])
    assert named.files == []
    assert [line.rpartition(": ")[2] for line in named.missing] == ["not a regular file"] * 2


@POSIX
def test_a_broken_link_is_a_warning_and_if_named_an_error(tmp_path: Path) -> None:
    lock = tmp_path / ".#train.py"
    lock.symlink_to("user@host.1234")
    (tmp_path / "train.py").write_text(PROGRAM)
    found = find([str(tmp_path)])
    assert [Path(path).name for path in found.files] == ["train.py"]
    assert (found.errors, found.missing) == ([], [])
    assert found.warnings == [f"{lock}: broken link, skipped"]
    assert find([str(lock)]).missing == [f"{lock}: broken link"]


def test_a_folder_that_cannot_be_read_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "secret").mkdir()
    (tmp_path / "x.py").write_text(PROGRAM)
    real = os.scandir

    def refused(path: str) -> object:
        if os.path.basename(path) == "secret":
            raise PermissionError(13, "Permission denied", path)
        return real(path)

    monkeypatch.setattr(os, "scandir", refused)
    found = find([str(tmp_path)])
    assert found.errors == [f"{tmp_path / 'secret'}: cannot be read: Permission denied"]
    assert [Path(path).name for path in found.files] == ["x.py"]


@POSIX
def test_a_file_is_checked_and_fixed_once_however_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("real").mkdir()
    Path("real/x.py").write_text(PROGRAM)
    Path("link.py").symlink_to("real/x.py")
    Path("folder").symlink_to("real")
    names = ["link.py", "real/x.py", "./real/x.py", str(tmp_path / "real" / "x.py"), "folder", "."]
    assert find(names).files == [os.path.join("real", "x.py")]
    outcome = check_paths(names, SETTINGS, write=True)
    assert outcome.errors == ()
    assert len(outcome.fixed) == 1
    assert Path("real/x.py").read_text() == FIXED
    assert Path("link.py").is_symlink()


def test_a_file_that_cannot_be_written_is_not_reported_as_fixed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.py"
    path.write_text(PROGRAM)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    outcome = check_paths([str(path)], SETTINGS, write=True)
    assert outcome.fixed == []
    assert [finding.code for finding in outcome.findings] == ["CLIP002"]
    assert outcome.errors == (f"{path}: cannot be written: No space left on device",)


def test_splitting_hard_links_is_reported(tmp_path: Path) -> None:
    one, two = tmp_path / "one.py", tmp_path / "two.txt"
    one.write_text(PROGRAM)
    os.link(one, two)
    outcome = check_paths([str(one)], SETTINGS, write=True)
    assert one.read_text() == FIXED
    assert two.read_text() == PROGRAM
    assert outcome.warnings == [f"{one}: was one of 2 hard links; the others keep the old content"]


@given(st.text(max_size=60), st.data())
def test_edits_change_nothing_outside_themselves(text: str, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    pairs = list(zip(cuts[::2], cuts[1::2], strict=False))
    edits = [Edit(start, end, "<>") for start, end in pairs]
    kept = [text[a:b] for a, b in zip([0, *[e for _, e in pairs]], [*[s for s, _ in pairs], len(text)], strict=True)]
    assert apply(text, edits) == "<>".join(kept)


def test_an_import_in_a_file_that_libcst_does_not_reproduce_does_not_crash_a_rule() -> None:
    """LibCST drops the blank before the colon, so everything after it is one character off."""
    text = "try:\n    import torch\nexcept ImportError :\n    torch = None\nfrom torch._six import inf{}\nx = inf\n"
    for alias in ("", " as infinity"):
        report = check_file("x.py", text.format(alias).encode(), Settings(fix=True))
        assert report.errors == ()
        assert {finding.code for finding in report.findings} >= {"CLIP003"}


def test_a_file_that_libcst_does_not_reproduce_is_reported_and_its_imports_are_ignored() -> None:
    text = (
        "try:\n    from torch.nn.utils import clip_grad_norm\nexcept ImportError\\\n:\n    clip_grad_norm = None\nimport torch\n"
        "for p in params:\n    norms.append(p.grad.norm())\ngrad_norm = torch.stack([p.grad.norm() for p in params]).norm()\n"
    )
    report = check_file("x.py", text.encode(), Settings(frozenset({"CLIP005"}), fix=True))
    assert report.errors == ()
    assert {"CLIP005", NOT_ROUND_TRIPPED} <= {finding.code for finding in report.findings}
