"""What is not Python is named where it stands, and hides nothing of the rest."""

from __future__ import annotations

import pytest

from clipcheck.engine.file import check_file
from clipcheck.engine.results import FileReport
from clipcheck.settings.keys import Settings

CALL = "torch.nn.utils.clip_grad_norm(model.parameters(), 1.0)"


def look(text: str, fix: bool = False) -> FileReport:
    report = check_file("x.py", text.encode(), Settings(frozenset({"CLIP002"}), "torch", fix))
    assert report.errors == ()
    return report


def test_a_file_of_python_2_is_read_around_its_prints() -> None:
    prints = "".join(f"    print 'step', {i}\n" for i in range(20))
    report = look(f"import torch\nfor i in xrange(9):\n{prints}    {CALL}\nexec 'x'\n", fix=True)
    assert [(f.code, f.place.line) for f in report.findings] == [("invalid-syntax", 3), ("CLIP002", 23)]
    assert report.findings[0].message.startswith("not valid Python: Missing parentheses in call to 'print'")
    assert report.fixed_data is None
    assert report.findings[1].fix is None


@pytest.mark.parametrize(
    ("bad", "line"),
    [
        ("for x y in z:\n    pass", 2),
        ("x = = 1", 2),
        ("def f(:\n    pass", 2),
        ("x = 'abc", 2),
        ("\n\nif x\n    y()\n    z()", 4),
        ("  x = 1", 2),
    ],
)
def test_a_fault_is_placed_and_the_lines_behind_it_are_read(bad: str, line: int) -> None:
    report = look(f"import torch\n{bad}\n{CALL}\n")
    assert [(f.code, f.place.line) for f in report.findings] == [
        ("invalid-syntax", line),
        ("CLIP002", 2 + bad.count("\n") + 1),
    ]


def test_a_text_without_sense_is_one_finding() -> None:
    report = look("clip_grad_norm ((( ]]] \n" * 200)
    assert [f.code for f in report.findings] == ["invalid-syntax"]


@pytest.mark.parametrize(
    "text", ["clip_grad_norm(\x00", "clip_grad_norm(\n", "clip_grad_norm('''", "\tclip_grad_norm\n  x"]
)
def test_odd_ends_are_findings_and_no_crash(text: str) -> None:
    assert [f.code for f in look(text).findings] == ["invalid-syntax"]
