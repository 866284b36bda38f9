"""Special cases of the output formats: characters to escape, severities, notebooks, several lines and files."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from clipcheck import report
from clipcheck.engine.results import FileReport, Outcome
from clipcheck.report import diff, statistics, text
from clipcheck.report import view as views
from clipcheck.report.paint import Paint
from clipcheck.report.view import View
from clipcheck.rule import Edit, Finding, Fix, Place, Safety, Severity, Verdict

TRAIN = "import torch\n\n\ndef train(p):\n    clip(p,\n         1.0)\n    return p\n"
AT = TRAIN.index("clip")
FIX = Fix("Replace it", Safety.SAFE, (Edit(AT, AT + 4, "clip_"),))


def finding(**more: Any) -> Finding:
    """CLIP002 at the call on lines 5 and 6."""
    values: dict[str, Any] = {
        "path": "train.py",
        "place": Place(5, 5, 6, 14),
        "code": "CLIP002",
        "name": "deprecated-clip-grad-norm",
        "message": "do not",
    }
    return Finding(**(values | more))


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def outcome(*findings: Finding, data: str = TRAIN, **more: Any) -> Outcome:
    by_path: dict[str, list[Finding]] = {}
    for one in findings:
        by_path.setdefault(one.path, []).append(one)
    return Outcome(tuple(FileReport(path, data.encode(), tuple(some), **more) for path, some in by_path.items()), 1)


def shown(name: str, *findings: Finding, view: View = View(), **more: Any) -> str:  # noqa: B008
    return report.render(name, outcome(*findings, **more), view)


# --- characters that would end a line, a field or an attribute --------------------------------------------------------

ODD = "50% of\r\nit: a, b; ]"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("github", r"CLIP002 50%25 of\r\nit: a, b; ]"),
        ("azure", r"]50%AZP25 of\r\nit: a, b; ]"),
    ],
)
def test_a_message_in_a_log_command_stays_on_one_line(name: str, expected: str) -> None:
    line = shown(name, finding(message=ODD))
    assert line.endswith(expected + "\n")
    assert line.count("\n") == 1


def test_properties_of_log_commands_are_escaped(project: Path) -> None:
    odd = finding(path="a;b]%,c:d.py")
    assert f"sourcepath={project}/a%3Bb%5D%AZP25,c:d.py;" in shown("azure", odd)
    assert f",file={project}/a;b]%25%2Cc%3Ad.py,line=5" in shown("github", odd)


def test_characters_that_xml_cannot_represent_are_escaped_or_replaced() -> None:
    root = ElementTree.fromstring(shown("junit", finding(message="a\x00\ud800\ufffe<&>\t\U0001f600\x1f\x7f")))
    failure = root.find(".//failure")
    assert failure is not None
    assert failure.get("message") == "a\\u0000\\ud800\ufffd<&>\t\U0001f600\\u001f\\u007f"


# --- severities and advice --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("severity", "github", "azure", "gitlab", "rdjson", "sarif", "junit"),
    [
        (Severity.ERROR, "error", "error", "critical", "ERROR", "error", "error"),
        (Severity.WARNING, "warning", "warning", "major", "WARNING", "warning", "warning"),
        (Severity.NOTE, "notice", "warning", "minor", "INFO", "note", "note"),
    ],
)
def test_the_names_of_severities_in_each_format(
    severity: Severity, github: str, azure: str, gitlab: str, rdjson: str, sarif: str, junit: str
) -> None:
    one = finding(severity=severity)
    assert shown("github", one).startswith(f"::{github} ")
    assert f"type={azure};" in shown("azure", one)
    assert json.loads(shown("gitlab", one))[0]["severity"] == gitlab
    assert json.loads(shown("rdjson", one))["diagnostics"][0]["severity"] == rdjson
    assert json.loads(shown("sarif", one))["runs"][0]["results"][0]["level"] == sarif
    assert f'type="{junit}"' in shown("junit", one)
    assert json.loads(shown("json", one))[0]["severity"] == severity.value


def test_the_advice_is_the_fix_or_else_the_help_or_nothing() -> None:
    assert "help" not in shown("github", finding())
    assert shown("github", finding(help="by hand")).endswith("do not%0A  help: by hand\n")
    assert shown("github", finding(help="by hand", fix=FIX)).endswith("do not%0A  help: Replace it\n")
    assert json.loads(shown("json", finding()))[0]["help"] is None
    assert json.loads(shown("json", finding(help="by hand")))[0]["help"] == "by hand"


@pytest.mark.parametrize(
    ("safety", "word"), [(Safety.SAFE, "safe"), (Safety.UNSAFE, "unsafe"), (Safety.MANUAL, "display")]
)
def test_json_has_the_safety_of_a_fix(safety: Safety, word: str) -> None:
    changes = ((Place(5, 5, 5, 9), "clip_"), (Place(7, 1, 7, 1), "x"))
    (one,) = json.loads(shown("json", finding(fix=FIX._replace(safety=safety), changes=changes)))
    assert one["fix"] == {
        "applicability": word,
        "message": "Replace it",
        "edits": [
            {"content": "clip_", "location": {"row": 5, "column": 5}, "end_location": {"row": 5, "column": 9}},
            {"content": "x", "location": {"row": 7, "column": 1}, "end_location": {"row": 7, "column": 1}},
        ],
    }


def test_json_of_a_finding_with_related_places(project: Path) -> None:
    other = Place(1, 2, 3, 4, 9)
    (one,) = json.loads(shown("json", finding(related=((other, "here"),), silent_at=6)))
    assert one["related"] == [
        {"cell": 9, "message": "here", "location": {"row": 1, "column": 2}, "end_location": {"row": 3, "column": 4}}
    ]
    assert (one["noqa_row"], one["cell"], one["filename"]) == (6, None, str(project / "train.py"))
    assert json.loads(shown("json", finding()))[0]["noqa_row"] == 5
    assert json.loads(shown("json", finding(code="invalid-syntax")))[0]["noqa_row"] is None


# --- several findings and files ---------------------------------------------------------------------------------------


def test_junit_counts_by_file_and_places_each_failure(project: Path) -> None:
    root = ElementTree.fromstring(shown("junit", finding(), finding(place=Place(7, 5, 7, 9)), finding(path="b.py")))
    assert (root.get("tests"), root.get("failures")) == ("3", "3")
    assert [(s.get("name"), s.get("tests"), s.get("failures")) for s in root] == [
        (str(project / "b.py"), "1", "1"),
        (str(project / "train.py"), "2", "2"),
    ]
    cases = root.findall(".//testcase")
    assert [(c.get("classname"), c.get("line"), c.get("column")) for c in cases] == [
        (str(project / "b"), "5", "5"),
        (str(project / "train"), "5", "5"),
        (str(project / "train"), "7", "5"),
    ]
    assert [c[0].text for c in cases][-1] == "line 7, col 5, do not"
    assert {(s.get("errors"), s.get("skipped")) for s in root} == {("0", "0")}
    clean = ElementTree.fromstring(shown("junit"))
    assert (clean.get("tests"), clean.get("failures"), clean[0].get("tests"), clean[0].get("failures")) == (
        "1",
        "0",
        "1",
        "0",
    )


def test_grouped_shows_each_file_once() -> None:
    output = shown(
        "grouped", finding(), finding(path="b.ipynb", place=Place(2, 3, 2, 4, 7)), finding(place=Place(7, 1, 7, 2))
    )
    assert output.split("\nFound")[0] == (
        "b.ipynb:\n  cell 7:2:3 CLIP002 do not\n\ntrain.py:\n  5:5 CLIP002 do not\n  7:1 CLIP002 do not\n"
    )


def test_pylint_has_the_line_and_the_cell() -> None:
    assert (
        shown("pylint", finding(path="b.ipynb", place=Place(2, 3, 2, 4, 7))) == "b.ipynb:cell 7:2: [CLIP002] do not\n"
    )


@pytest.mark.parametrize("name", ["concise", "pylint", "github", "azure", "json-lines"])
def test_formats_with_one_line_for_each_finding(name: str) -> None:
    lines = shown(name, finding(), finding(place=Place(7, 1, 7, 2)), view=View(summary=False)).splitlines()
    assert [line.count("CLIP002") > 0 for line in lines] == [True, True]
    assert lines[0][:8] == lines[1][:8]


def test_findings_with_their_source_are_apart() -> None:
    blocks = shown("full", finding(), finding(place=Place(7, 1, 7, 2)), view=View(summary=False)).split("\n\n")
    assert [block.splitlines()[0] for block in blocks] == ["CLIP002 do not"] * 2


def test_sarif_says_what_a_verification_found() -> None:
    (run,) = json.loads(shown("sarif", finding(), finding(verdict=Verdict("verified", 3))))["runs"]
    assert [one.get("properties") for one in run["results"]] == [None, {"verdict": "verified on 3 cases"}]
    assert run["automationDetails"] == {"id": "clipcheck/"}


def test_the_fixes_of_a_rule_in_a_file_are_counted() -> None:
    done = outcome(finding(), fixed=(finding(fix=FIX), finding(fix=FIX), finding(fix=FIX, code="CLIP001", name="y")))
    assert text.fixes(done) == (
        "Fixed 3 problems:\n- train.py:\n    1 × CLIP001 (y)\n    2 × CLIP002 (deprecated-clip-grad-norm)\n"
    )


def test_verdicts_are_listed_and_counted() -> None:
    some = outcome(
        finding(verdict=Verdict("verified", 3)),
        finding(place=Place(7, 1, 7, 2), verdict=Verdict("refuted", 2, reason="no")),
    )
    assert text.verdicts(some) == (
        "train.py:5:5: CLIP002 verified on 3 cases\ntrain.py:7:1: CLIP002 refuted: no\n"
        "Ran 2 fixes: 1 verified, 1 refuted, 0 not verified; 2 findings without a fix.\n"
    )


def test_without_a_summary_only_findings_are_shown() -> None:
    quiet = View(summary=False)
    for name in ("full", "concise", "grouped"):
        assert "Found" not in shown(name, finding(), view=quiet)
        assert shown(name, view=quiet) == ""


@pytest.mark.parametrize(
    ("fixes", "threshold", "expected"),
    [
        ([None, None], Safety.SAFE, ["Found 2 problems."]),
        ([Safety.SAFE, None], Safety.SAFE, ["Found 2 problems.", "[*] 1 fixable with `--fix`."]),
        ([Safety.SAFE, Safety.SAFE], Safety.SAFE, ["Found 2 problems.", "[*] 2 fixable with `--fix`."]),
        (
            [Safety.SAFE, Safety.UNSAFE, Safety.UNSAFE],
            Safety.SAFE,
            ["Found 3 problems.", "[*] 1 fixable with `--fix` (2 more with `--unsafe-fixes`)."],
        ),
        ([Safety.UNSAFE], Safety.SAFE, ["Found 1 problem.", "1 fixable with `--fix --unsafe-fixes`."]),
        ([Safety.UNSAFE, Safety.SAFE], Safety.UNSAFE, ["Found 2 problems.", "[*] 2 fixable with `--fix --unsafe-fixes`."]),
        ([Safety.MANUAL], Safety.SAFE, ["Found 1 problem."]),
        ([Safety.MANUAL], Safety.UNSAFE, ["Found 1 problem."]),
    ],
)  # fmt: skip
def test_the_summary_counts_what_could_be_fixed(
    fixes: list[Safety | None], threshold: Safety, expected: list[str]
) -> None:
    some = [
        finding(place=Place(5, n, 5, n + 1), fix=None if safety is None else FIX._replace(safety=safety))
        for n, safety in enumerate(fixes, 1)
    ]
    lines = shown("concise", *some, threshold=threshold).splitlines()
    assert lines[len(some) :] == expected
    marks = [" [*] " in line for line in lines[: len(some)]]
    assert marks == [safety is not None and safety >= threshold for safety in fixes]


def test_after_fixing_the_summary_counts_both() -> None:
    done = outcome(finding(), fixed=(finding(fix=FIX), finding(fix=FIX, path="a.py")))
    assert report.render("concise", done, View(fixing=True)).endswith("\nFound 3 problems (2 fixed, 1 remaining).\n")
    unsafe = outcome(finding(fix=FIX._replace(safety=Safety.UNSAFE)), fixed=(finding(fix=FIX),))
    assert text.would_fix(unsafe) == "Would fix 1 problem (1 more with `--unsafe-fixes`).\n"
    assert text.did_fix(done) == "Fixed 2 problems.\n"
    assert text.fixes(outcome()) == ""
    assert text.fixes(done) == (
        "Fixed 2 problems:\n- a.py:\n    1 × CLIP002 (deprecated-clip-grad-norm)\n"
        "- train.py:\n    1 × CLIP002 (deprecated-clip-grad-norm)\n"
    )


def test_statistics_put_the_most_frequent_rule_first() -> None:
    some = [
        finding(code="CLIP101", name="x"),
        finding(fix=FIX),
        finding(place=Place(7, 1, 7, 2)),
        finding(code="CLIP001", name="y", fix=FIX),
    ]
    assert statistics.report(outcome(*some), View(summary=False), as_json=False) == (
        "2\tCLIP002\t[-]\tdeprecated-clip-grad-norm\n1\tCLIP001\t[*]\ty\n1\tCLIP101\t[ ]\tx\n"
    )
    assert json.loads(statistics.report(outcome(*some), View(), as_json=True)) == [
        {"code": "CLIP002", "count": 2, "fixable": False, "fixable_count": 1, "name": "deprecated-clip-grad-norm"},
        {"code": "CLIP001", "count": 1, "fixable": True, "fixable_count": 1, "name": "y"},
        {"code": "CLIP101", "count": 1, "fixable": False, "fixable_count": 0, "name": "x"},
    ]


# --- places in the file ----------------------------------------------------------------------------------------------


def test_a_finding_on_several_lines_is_shown_completely() -> None:
    def snippet(place: Place, data: str = TRAIN) -> str:
        (run,) = json.loads(shown("sarif", finding(place=place), data=data))["runs"]
        found: str = run["results"][0]["locations"][0]["physicalLocation"]["region"]["snippet"]["text"]
        return found

    assert snippet(Place(5, 5, 6, 14)) == "clip(p,\n         1.0)"
    assert snippet(Place(5, 10, 5, 11)) == "p"
    assert snippet(Place(5, 5, 6, 14), "x = 1\n") == "\n"

    def mark(place: Place) -> str:
        found: str = json.loads(shown("gitlab", finding(place=place)))[0]["fingerprint"]
        return found

    assert len({mark(Place(5, 5, 6, 14)), mark(Place(5, 5, 6, 13)), mark(Place(5, 6, 6, 14))}) == 3


def notebook(source: list[str]) -> str:
    return json.dumps(
        {"cells": [{"cell_type": "code", "source": source}, {"cell_type": "code", "source": ["x\n", "y"]}]}, indent=1
    )


def test_the_fix_of_a_notebook_replaces_lines_of_the_file() -> None:
    data = notebook(["clip(p)\n", "z"])
    one = finding(
        path="n.ipynb",
        place=Place(1, 1, 1, 5, 1),
        fix=Fix("Replace it", Safety.SAFE, (Edit(0, 4, "clip_"),)),
        changes=((Place(1, 1, 1, 5, 1), "clip_"),),
    )
    line = data.splitlines().index('    "clip(p)\\n",') + 1
    (suggestion,) = json.loads(shown("rdjson", one, data=data))["diagnostics"][0]["suggestions"]
    assert suggestion == {
        "range": {"start": {"line": line, "column": 1}, "end": {"line": line + 1, "column": 1}},
        "text": '    "clip_(p)\\n",\n',
    }
    assert json.loads(shown("json", one, data=data))[0]["fix"]["edits"][0]["location"] == {"row": 1, "column": 1}
    assert json.loads(shown("gitlab", one, data=data))[0]["location"]["positions"]["begin"] == {
        "line": line,
        "column": 6,
    }


def test_a_file_that_cannot_be_read_has_no_lines_to_show() -> None:
    one = finding(path="n.ipynb", place=Place(1, 1, 1, 1), fix=FIX)
    assert json.loads(shown("rdjson", one, data="{"))["diagnostics"][0]["suggestions"] == []
    assert shown("full", one, data="{").startswith("CLIP002 [*] do not\n --> n.ipynb:1:1\n")


def test_paths_outside_of_the_folder_are_shown_whole(project: Path) -> None:
    assert views.shown(str(project / "a" / "b.py")) == str(Path("a") / "b.py")
    assert views.shown(str(project.parent / "b.py")) == str(project.parent / "b.py")


def test_the_repository_is_the_nearest_folder_with_a_git(project: Path) -> None:
    (project / "one" / "two").mkdir(parents=True)
    path = str(project / "one" / "two" / "a.py")
    assert views.repository(path) == str(project.resolve())
    (project / "one" / ".git").mkdir()
    assert views.repository(path) == str((project / "one").resolve())


# --- the diff of --diff -----------------------------------------------------------------------------------------------


def test_the_diff_of_a_file() -> None:
    changed = FileReport("train.py", b"one\ntwo", fixed_data=b"one\nthree")
    assert "".join(diff.of_file(FileReport("b.py", b"x"), "b.py")) == ""
    assert "".join(diff.of_file(changed, "train.py")) == (
        "--- train.py\n+++ train.py\n@@ -1,2 +1,2 @@\n one\n-two\n\\ No newline at end of file\n"
        "+three\n\\ No newline at end of file\n"
    )
    assert "".join(diff.of_file(changed, "")).startswith("@@ -1,2 +1,2 @@\n one\n-two\n")


def test_the_diff_of_a_notebook_goes_cell_by_cell() -> None:
    old, new = notebook(["one\n", "two\n"]), notebook(["one\n", "three\n"])
    changed = FileReport("n.ipynb", old.encode(), fixed_data=new.encode())
    assert "".join(diff.of_file(changed, "n.ipynb")) == (
        "--- n.ipynb:cell 1\n+++ n.ipynb:cell 1\n@@ -1,2 +1,2 @@\n one\n-two\n+three\n"
    )


# --- the source around a finding --------------------------------------------------------------------------------------


def framed(data: str, **more: Any) -> str:
    return shown("full", finding(fix=None, **more), data=data, view=View(summary=False)).partition("\n")[2]


def test_a_long_finding_is_shown_by_its_first_lines() -> None:
    data = "".join(f"{n}\n" for n in range(1, 21))
    shown_lines = re.findall(r"^ *(\d+) \|", framed(data, place=Place(4, 1, 16, 2)), re.MULTILINE)
    assert [int(n) for n in shown_lines] == [2, 3, 4, 5, 6, 7, 8, 9, 10]


def test_blank_lines_at_the_edges_are_left_out() -> None:
    assert framed("\n\nx\n\n\ny\n", place=Place(3, 1, 3, 2)) == " --> train.py:3:1\n  |\n3 | x\n  | ^\n  |\n"
    assert "1 | a\n2 |\n3 | x\n  | ^\n4 |\n5 | b\n" in framed("a\n\nx\n\nb\n", place=Place(3, 1, 3, 2))


def test_a_place_on_a_blank_line_or_after_the_last_line() -> None:
    assert framed("\n\n\n\n\n", place=Place(3, 1, 3, 1)) == " --> train.py:3:1\n  |\n3 |\n  | ^\n  |\n"
    assert framed("x\n", place=Place(9, 1, 9, 2)) == " --> train.py:9:1\n  |\n  |\n"


def test_a_place_without_width_has_one_caret_and_one_of_several_lines_goes_to_the_end() -> None:
    assert "1 | abc\n  |  ^\n" in framed("abc\n", place=Place(1, 2, 1, 2))
    assert "1 | abc\n  |  ^^\n2 | d\n" in framed("abc\nd\n", place=Place(1, 2, 2, 1))


def test_related_places_that_are_not_shown_are_named_below() -> None:
    output = framed(
        "abc\n", place=Place(1, 1, 1, 2), related=((Place(9, 1, 9, 2), "far"), (Place(3, 1, 3, 2, 2), "cell"))
    )
    assert output.endswith("  |\n  = line 9: far\n  = cell 2, line 3: cell\n")


def diffed(*changes: tuple[Place, str], data: str = "one\ntwo\nthree\nfour\nfive\nsix\n") -> str:
    output = shown(
        "full", finding(fix=FIX, changes=changes, place=Place(1, 1, 1, 2)), data=data, view=View(summary=False)
    )
    return output.partition("help: Replace it\n")[2]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ([(Place(2, 1, 2, 4), "2")], "1 | one\n  - two\n2 + 2\n3 | three\n"),
        ([(Place(1, 1, 1, 4), "1")], "  - one\n1 + 1\n2 | two\n"),
        ([(Place(6, 1, 6, 4), "6")], "5 | five\n  - six\n6 + 6\n"),
        ([(Place(2, 1, 3, 1), "")], "1 | one\n  - two\n2 | three\n"),
        ([(Place(2, 1, 2, 1), "new\n")], "1 | one\n2 + new\n3 | two\n"),
        ([(Place(2, 4, 2, 4), "\nnew")], "2 | two\n3 + new\n4 | three\n"),
        ([(Place(2, 1, 4, 6), "two\n3\nfour")], "2 | two\n  - three\n3 + 3\n4 | four\n"),
        ([(Place(2, 1, 2, 1), "a\nb\n"), (Place(4, 1, 4, 5), "4")], "1 | one\n2 + a\n3 + b\n4 | two\n5 | three\n  - four\n6 + 4\n7 | five\n"),
        ([(Place(1, 1, 3, 1), ""), (Place(5, 1, 5, 5), "5")], "  - one\n  - two\n1 | three\n2 | four\n  - five\n3 + 5\n4 | six\n"),
        ([(Place(2, 1, 4, 1), "")], "1 | one\n  - two\n  - three\n2 | four\n"),
        ([(Place(2, 1, 2, 4), "2"), (Place(3, 1, 3, 6), "3")], "1 | one\n  - two\n  - three\n2 + 2\n3 + 3\n4 | four\n"),
        ([(Place(1, 1, 1, 4), "1"), (Place(6, 1, 6, 4), "6")], "  - one\n1 + 1\n2 | two\n...\n5 | five\n  - six\n6 + 6\n"),
        ([(Place(1, 1, 2, 1), ""), (Place(6, 1, 6, 4), "6")], "  - one\n1 | two\n...\n4 | five\n  - six\n5 + 6\n"),
        ([(Place(2, 1, 2, 4), "a\r\nb")], "1 | one\n  - two\n2 + a\n3 + b\n4 | three\n"),
    ],
)  # fmt: skip
def test_a_fix_is_shown_as_a_diff(changes: list[tuple[Place, str]], expected: str) -> None:
    assert diffed(*changes) == f"  |\n{expected}  |\n"


def test_a_fix_in_several_cells_is_shown_cell_by_cell() -> None:
    data = json.dumps(
        {"cells": [{"cell_type": "code", "source": ["one\n", "two\n"]}, {"cell_type": "code", "source": ["three"]}]}
    )
    one = finding(
        path="n.ipynb",
        place=Place(1, 1, 1, 4, 1),
        fix=FIX,
        changes=((Place(1, 1, 1, 4, 1), "1"), (Place(1, 1, 1, 6, 2), "3")),
    )
    shown_fix = shown("full", one, data=data, view=View(summary=False)).partition("help: Replace it\n")[2]
    assert shown_fix == (" --> cell 1\n  |\n  - one\n1 + 1\n2 | two\n  |\n --> cell 2\n  |\n  - three\n1 + 3\n  |\n")
    alone = one._replace(changes=one.changes[:1])
    assert "cell" not in shown("full", alone, data=data).partition("help: Replace it\n")[2]


def test_color_is_put_only_around_text() -> None:
    assert Paint(True)("text", "bold", "red") == "\x1b[1;31mtext\x1b[0m"
    assert Paint(True)("", "bold") == ""
    assert Paint(False)("text", "bold") == "text"


# --- verdicts ---------------------------------------------------------------------------------------------------------


def test_a_verdict_names_the_cases_in_which_only_the_original_fails() -> None:
    better = Verdict("verified", 30, ("overflow with huge gradients", "an error of 0.5 with a list"))
    assert str(better) == (
        "verified on 30 cases; the new code is also correct where the original fails: "
        "overflow with huge gradients; an error of 0.5 with a list"
    )
    assert (
        "verify: verified on 30 cases\n    the new code is also correct where the original fails:\n"
        "      overflow with huge gradients\n      an error of 0.5 with a list\n"
    ) in shown("full", finding(fix=FIX, verdict=better))
    assert "verify: verified on 3 cases\n" in shown("full", finding(fix=FIX, verdict=Verdict("verified", 3)))
    unknown = Verdict("not verified", reason="no GPU")
    assert "verify: not verified: no GPU\n" in shown("full", finding(fix=FIX, verdict=unknown))


def test_the_summary_of_verify_counts_the_results() -> None:
    tried = [finding(fix=FIX, verdict=Verdict(kind)) for kind in ("verified", "refuted", "refuted", "not verified")]  # type: ignore[arg-type]
    assert text.verdicts(outcome(*tried, finding())).endswith(
        "Ran 4 fixes: 1 verified, 2 refuted, 1 not verified; 1 finding without a fix.\n"
    )
    assert text.verdicts(outcome()) == "No fixes to verify.\n"


@pytest.mark.parametrize(
    ("code", "severity", "tags", "problem"),
    [
        ("CLIP002", Severity.WARNING, ["pytorch", "gradient-clipping"], "warning"),
        ("CLIP002", Severity.ERROR, ["pytorch", "gradient-clipping"], "error"),
        ("CLIP002", Severity.NOTE, ["pytorch", "gradient-clipping"], "recommendation"),
        ("unused-suppression", Severity.WARNING, ["clipcheck"], "warning"),
    ],
)
def test_a_rule_in_sarif(code: str, severity: Severity, tags: list[str], problem: str) -> None:
    from clipcheck.report import sarif

    found = sarif._rule(Finding("x.py", Place(1, 1, 1, 1), code, "a-name", "message", severity))
    assert (found["id"], found["name"], found["defaultConfiguration"]) == (code, "a-name", {"level": severity.value})
    assert found["properties"] == {"tags": tags, "precision": "very-high", "problem.severity": problem}
    assert found["shortDescription"]["text"].endswith(".")
    assert "#" not in found["fullDescription"]["text"] and found["fullDescription"]["text"]
    assert found["help"]["markdown"].startswith(found["help"]["text"])
