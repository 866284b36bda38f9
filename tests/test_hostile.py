"""Text that breaks careless tools: what is not fixed is given back byte for byte, and one bad file stops no other."""

from __future__ import annotations

import codecs
import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipcheck.disk import Changed, write
from clipcheck.documents.program import apply
from clipcheck.engine.batch import check_paths
from clipcheck.engine.file import check_file
from clipcheck.rule import INVALID_SYNTAX, NOT_ROUND_TRIPPED, Edit
from clipcheck.settings.keys import Settings

CALL = "torch.nn.utils.clip_grad_norm(model.parameters(), 1.0)"
PROGRAM = f"import torch\n\n\ndef clip(model):\n    {CALL}\n"
FIXED = "import torch\nfrom clipcheck.runtime import clip_grad_norm_\n\n\ndef clip(model):\n    clip_grad_norm_(model.parameters(), 1.0)\n"
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


def test_mixed_line_ends_tabs_and_no_final_newline_stay() -> None:
    data = b"import torch\r\n\n\ndef clip(model):\n\tif model:\r\n\t\t" + CALL.encode() + b"\t# why\r\n\treturn 1"
    wanted = (
        b"import torch\r\nfrom clipcheck.runtime import clip_grad_norm_\r\n\n\ndef clip(model):\n\tif model:\r\n\t\t"
        b"clip_grad_norm_(model.parameters(), 1.0)\t# why\r\n\treturn 1"
    )
    assert fix(data) == wanted


@pytest.mark.parametrize(
    "tail",
    [b"x = 1\n\t#c\n\t", b"x\n  \n\t"],
    ids=["comment before a last line of white space", "two lines of white space"],
)
def test_what_the_parser_loses_is_reported_and_not_rewritten(tail: bytes) -> None:
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


def test_one_bad_file_stops_no_other(tmp_path: Path) -> None:
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


def test_a_fix_whose_outcome_is_wrong_is_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine trusts no rule: what does not parse, or still holds the finding, is dropped and reported."""
    from clipcheck.rules import deprecated_clip_grad_norm

    real = deprecated_clip_grad_norm.check

    def spoil(source: object) -> object:
        for hit in real(source):
            yield hit._replace(fix=hit.fix._replace(edits=tuple(e._replace(text="(") for e in hit.fix.edits)))

    monkeypatch.setattr(deprecated_clip_grad_norm, "check", spoil)
    report = check_file("x.py", PROGRAM.encode(), SETTINGS)
    assert report.fixed_data is None
    assert len(report.errors) == 1
    assert "fault of clipcheck" in report.errors[0]
    assert [finding.code for finding in report.findings] == ["CLIP002"]


def test_writing_keeps_mode_and_links(tmp_path: Path) -> None:
    real = tmp_path / "real.py"
    real.write_text("old")
    real.chmod(0o755)
    link = tmp_path / "link.py"
    link.symlink_to(real)
    write(str(link), b"new", b"old")
    assert link.is_symlink()
    assert real.read_bytes() == b"new"
    assert stat.S_IMODE(real.stat().st_mode) == 0o755
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link.py", "real.py"]


def test_hard_links_stay_together(tmp_path: Path) -> None:
    one, two = tmp_path / "one.py", tmp_path / "two.py"
    one.write_text("old")
    os.link(one, two)
    write(str(one), b"new", b"old")
    assert two.read_bytes() == b"new"


def test_a_file_changed_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "x.py"
    path.write_text("newer work of the user")
    with pytest.raises(Changed):
        write(str(path), b"fixed", b"what was read")
    assert path.read_text() == "newer work of the user"


@given(st.text(max_size=60), st.data())
def test_edits_change_nothing_outside_themselves(text: str, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    pairs = list(zip(cuts[::2], cuts[1::2], strict=False))
    edits = [Edit(start, end, "<>") for start, end in pairs]
    kept = [text[a:b] for a, b in zip([0, *[e for _, e in pairs]], [*[s for s, _ in pairs], len(text)], strict=True)]
    assert apply(text, edits) == "<>".join(kept)
