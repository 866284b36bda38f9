"""Comments that suppress findings, those that suppress nothing, and the baseline that writes them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import Result
from conftest import runner

from clipcheck.catalogue import RULES
from clipcheck.cli.main import main
from clipcheck.documents.program import apply
from clipcheck.engine.baseline import added
from clipcheck.engine.file import check_file
from clipcheck.engine.results import FileReport
from clipcheck.engine.suppressions import Standing, names_us, read, removal, sift, standing
from clipcheck.python.source import Source
from clipcheck.rule import UNUSED
from clipcheck.settings.keys import DEFAULT, Settings

CALL = "torch.nn.utils.clip_grad_norm(model.parameters(), 1.0)"
BOOK = '{"cells": [{"cell_type": "code", "source": ["import torch\\n", "…"]}]}'
SETTINGS = Settings(frozenset({"CLIP002"}), "torch")


def look(text: str, settings: Settings = SETTINGS, path: str = "x.py") -> FileReport:
    report = check_file(path, text.encode(), settings)
    assert report.errors == ()
    return report


def codes(text: str) -> list[tuple[str, int]]:
    return [(finding.code, finding.place.line) for finding in look(text).findings]


def fixed(text: str) -> str | None:
    after = look(text, Settings(frozenset({"CLIP002"}), "torch", fix=True)).fixed_data
    return None if after is None else after.decode()


@pytest.mark.parametrize(
    "comment",
    [
        "# clipcheck: ignore[CLIP002]",
        "#clipcheck:ignore[CLIP002]",
        "# clipcheck: ignore[CLIP001, CLIP002] because of the old server",
        "# clipcheck: ignore[deprecated-clip-grad-norm]",
        "# clipcheck: ignore",
        "# noqa",
        "# NOQA",
        "# noqa: CLIP002",
        "# noqa:CLIP002",
        "# noqa : CLIP002",
        "# NoQA: clip002",
        "# noqa: E501,CLIP002",
        "# noqa: E501 CLIP002 it has to be",
        "# type: ignore  # noqa: CLIP002",
        "# clipcheck: ignore[CLIP002]  # pragma: no cover",
    ],
)
def test_a_comment_on_the_line_suppresses_it(comment: str) -> None:
    assert "CLIP002" not in {code for code, _ in codes(f"import torch\n{CALL}  {comment}\n")}


@pytest.mark.parametrize(
    "comment",
    [
        "# noqa: E501",
        "# noqa: CLIP001",
        "# flake8: noqa",
        "# noqa-ish",
        "# clipcheck: ignore[CLIP001]",
        "# a word about noqa: CLIP002",
        "# clipcheck:",
    ],
)
def test_other_comments_do_not(comment: str) -> None:
    assert ("CLIP002", 2) in codes(f"import torch\n{CALL}  {comment}\n")


def test_a_comment_in_a_string_does_not_count() -> None:
    assert ("CLIP002", 2) in codes(f'import torch\nx = ["# noqa", {CALL}]\n')


def test_a_comment_on_the_line_above() -> None:
    text = f"import torch\n# clipcheck: ignore[CLIP002]\n# and why\n\n{CALL}\n{CALL}\n"
    assert codes(text) == [("CLIP002", 6)]


@pytest.mark.parametrize(
    "statement",
    [
        "torch.nn.utils.clip_grad_norm(  {}\n    model.parameters(),\n    1.0,\n)",
        "torch.nn.utils.clip_grad_norm(\n    model.parameters(),\n    1.0,\n)  {}",
        "total = [\n    torch.nn.utils.clip_grad_norm(p, 1.0)  {}\n    for p in groups\n]",
        "total = first + \\\n    torch.nn.utils.clip_grad_norm(p, 1.0)  {}",
        "@torch.nn.utils.clip_grad_norm  {}\ndef f():\n    pass",
        "if torch.nn.utils.clip_grad_norm(p, 1.0) > 3:  {}\n    pass",
        "while (\n    torch.nn.utils.clip_grad_norm(p, 1.0) > 3\n):  {}\n    pass",
        'x = """\n# noqa: CLIP001\n"""; torch.nn.utils.clip_grad_norm(p, 1.0)  {}',
    ],
)
@pytest.mark.parametrize("comment", ["# noqa: CLIP002", "# clipcheck: ignore[CLIP002]"])
def test_statements_of_several_lines(statement: str, comment: str) -> None:
    assert codes("import torch\n" + statement.format("") + "\n") != []
    assert codes("import torch\n" + statement.format(comment) + "\n") == []


def test_a_comment_above_a_last_line_without_an_end() -> None:
    for between in ("", "\n", "# why\n"):
        assert codes(f"import torch\n# clipcheck: ignore[CLIP002]\n{between}{CALL}") == []
        assert len(codes(f"import torch\n# clipcheck: ignore[CLIP001]\n{between}{CALL}")) >= 1


def test_a_block_is_suppressed_until_enable() -> None:
    text = f"import torch\n{CALL}\n# clipcheck: disable[CLIP002]\n{CALL}\nif 1:\n    {CALL}\n# clipcheck: enable[CLIP002]\n{CALL}\n"
    assert codes(text) == [("CLIP002", 2), ("CLIP002", 8)]


def test_a_block_without_end_reaches_to_the_end_of_the_file() -> None:
    assert codes(f"import torch\n{CALL}\n# clipcheck: disable\n{CALL}\n{CALL}\n") == [("CLIP002", 2)]


@pytest.mark.parametrize(
    "comment",
    [
        "# clipcheck: file-ignore[CLIP002]",
        "# clipcheck: noqa",
        "# clipcheck: noqa: CLIP002",
        "# clipcheck: file-ignore",
    ],
)
def test_a_whole_file(comment: str) -> None:
    assert codes(f"import torch\n{CALL}\n{comment}\n{CALL}\n") == []


def test_a_notebook_is_suppressed_across_its_cells() -> None:
    cells = ["import torch\\n# clipcheck: disable[CLIP002]", CALL, f"# clipcheck: enable[CLIP002]\\n{CALL}"]
    text = '{"cells": [' + ", ".join(f'{{"cell_type": "code", "source": "{cell}"}}' for cell in cells) + "]}"
    assert [finding.place.cell for finding in look(text, path="n.ipynb").findings] == [3]


# --- what is wrong with suppressions ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "after"),
    [
        ("x = 1  # clipcheck: ignore[CLIP002]", "x = 1"),
        ("x = 1  # noqa: CLIP002", "x = 1"),
        ("x = 1  # noqa: E501, CLIP002", "x = 1  # noqa: E501"),
        ("x = 1  # noqa: CLIP002, E501", "x = 1  # noqa: E501"),
        ("x = 1  # type: ignore  # clipcheck: ignore[CLIP002] why", "x = 1  # type: ignore"),
        ("x = 1  # clipcheck: ignore[CLIP002]  # pragma: no cover", "x = 1  # pragma: no cover"),
        ("x = 1\n# clipcheck: disable[CLIP002]\ny = 2", "x = 1\ny = 2"),
        ("# clipcheck: file-ignore[CLIP002]\nx = 1", "x = 1"),
        ("x = 1\n# clipcheck: enable[CLIP002]", "x = 1"),
    ],
)
def test_an_unused_suppression_is_a_finding_and_its_fix_removes_it(line: str, after: str) -> None:
    assert [code for code, _ in codes(line + "\n")] == ["unused-suppression"]
    assert fixed(line + "\n") == after + "\n"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("# clipcheck: ignore[CLIP002]", "unused suppression of `CLIP002`: there is no finding to suppress"),
        ("# clipcheck: disable[CLIP002]", "unused suppression of `CLIP002`: there is no finding to suppress"),
        ("# clipcheck: ignore", "unused suppression of findings: there is no finding to suppress"),
        ("# clipcheck: enable[CLIP002]", "`enable` without a `disable` of `CLIP002` before it"),
        ("# clipcheck: enable", "`enable` without a `disable` of findings before it"),
    ],
)
def test_an_unused_suppression_says_what_is_missing(line: str, message: str) -> None:
    report = check_file("x.py", f"x = 1\n{line}\n".encode(), Settings(frozenset(RULES)))
    assert [finding.message for finding in report.findings] == [message]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("# clipcheck: disable[CLIP002]\nCALL\n# clipcheck: enable[CLIP002]\n", 0),
        ("# clipcheck: disable\nCALL\n# clipcheck: enable[CLIP002]\n", 0),
        ("# clipcheck: disable[CLIP002]\nCALL\n# clipcheck: disable[CLIP101]\n# clipcheck: enable[CLIP002]\n", 0),
        ("# clipcheck: disable[CLIP101]\nCALL\n# clipcheck: enable[CLIP002]\n", 1),
        ("# clipcheck: disable[CLIP002]\nCALL\n# clipcheck: enable\n", 0),
        ("# clipcheck: enable[CLIP002]\n# clipcheck: disable[CLIP002]\nCALL\n", 1),
    ],
)
def test_enable_needs_a_disable_of_the_same_rule_before_it(text: str, expected: int) -> None:
    report = check_file(
        "x.py", f"import torch\n{text.replace('CALL', CALL)}".encode(), Settings(frozenset({"CLIP002"}))
    )
    assert sum("`enable` without" in finding.message for finding in report.findings) == expected


def test_one_unused_name_of_two_is_removed() -> None:
    both = Settings(frozenset({"CLIP001", "CLIP002"}), "torch", fix=True)
    after = check_file("x.py", f"import torch\n{CALL}  # clipcheck: ignore[CLIP001, CLIP002] old\n".encode(), both)
    assert [finding.code for finding in after.fixed] == ["unused-suppression"]
    assert after.fixed_data == f"import torch\n{CALL}  # clipcheck: ignore[CLIP002] old\n".encode()


def test_a_rule_that_did_not_run_is_not_judged() -> None:
    assert codes("x = 1  # clipcheck: ignore[CLIP001]\n") == []
    assert codes("x = 1  # noqa\n") == []


@pytest.mark.parametrize(
    ("comment", "word"),
    [
        ("# clipcheck: ingore[CLIP002]", "ingore"),
        ("# clipcheck: ignore[CLIP999]", "CLIP999"),
        ("# clipcheck: ignore[CLIP002", "malformed"),
        ("# clipcheck: ignore(CLIP002)", "malformed"),
        ("# clipcheck: ignore[]", "no rule"),
        ("# noqa: CLIP", "malformed"),
        ("# noqa: CLIP999", "CLIP999"),
    ],
)
def test_a_malformed_suppression_is_a_warning_and_suppresses_nothing(comment: str, word: str) -> None:
    report = look(f"import torch\n{CALL}  {comment}\n")
    assert [finding.code for finding in report.findings] == ["CLIP002"]
    (warning,) = report.warnings
    assert warning.startswith("x.py:2: ") and word in warning


def test_a_fix_never_edits_a_line_whose_finding_is_suppressed() -> None:
    text = (
        "from torch.nn.utils import clip_grad_norm\n\nclip_grad_norm(a, 1.0)\n"
        "clip_grad_norm(b, 1.0)  # clipcheck: ignore[CLIP002]\n"
    )
    report = look(text)
    assert {finding.place.line for finding in report.findings} == {1, 3}
    assert all(finding.fix is None and "line 4" in finding.help for finding in report.findings)
    assert fixed(text) is None


def test_a_fix_of_another_line_is_made() -> None:
    text = f"import torch\n{CALL}  # noqa: CLIP002\n{CALL}\n"
    assert fixed(text) == text[: -len(CALL) - 1] + CALL.replace("norm(", "norm_(") + "\n"


# --- on the command line ----------------------------------------------------------------------------------------------


def run(*words: str) -> Result:
    return runner().invoke(main, ["check", "--isolated", "--no-cache", "--select", "CLIP002", *words])


def test_ignore_noqa_shows_everything(tmp_path: Path) -> None:
    path = tmp_path / "x.py"
    path.write_text(f"import torch\n{CALL}  # noqa\n")
    assert run(str(path)).exit_code == 0
    assert run("--ignore-noqa", str(path)).exit_code == 1


def test_a_malformed_suppression_is_reported_on_stderr(tmp_path: Path) -> None:
    path = tmp_path / "x.py"
    path.write_text(f"import torch\n{CALL}  # clipcheck: ignore[CLIP02]\n")
    result = run("--output-format", "concise", str(path))
    assert result.exit_code == 1
    assert result.stderr == f"warning: {path}:2: unknown rule `CLIP02` in a suppression\n"


@pytest.mark.parametrize(
    ("flag", "comment"),
    [
        ("--add-ignore", "# clipcheck: ignore[CLIP002]"),
        ("--add-ignore=see the plan", "# clipcheck: ignore[CLIP002] see the plan"),
        ("--add-noqa", "# noqa: CLIP002"),
        ("--add-noqa=later", "# noqa: CLIP002 later"),
    ],
)
def test_a_baseline_suppresses_existing_findings(tmp_path: Path, flag: str, comment: str) -> None:
    path = tmp_path / "x.py"
    path.write_text(f"import torch\n{CALL}\nif 1:\n    torch.nn.utils.clip_grad_norm(\n        a, 1.0\n    )  # why\n")
    result = run(flag, str(path))
    assert (result.exit_code, result.stdout) == (0, "Added 2 suppressions.\n")
    assert path.read_text() == (
        f"import torch\n{CALL}  {comment}\nif 1:\n    torch.nn.utils.clip_grad_norm(\n        a, 1.0\n"
        f"    )  # why  {comment}\n"
    )
    assert run(str(path)).exit_code == 0
    assert run(flag, str(path)).stdout == "Added 0 suppressions.\n"


def test_a_baseline_extends_existing_directives(tmp_path: Path) -> None:
    path = tmp_path / "x.py"
    path.write_text(f"import torch\n{CALL}  # clipcheck: ignore[CLIP001] old\n{CALL}  # noqa: CLIP001\n")
    run("--add-ignore", str(path))
    assert path.read_text() == (
        f"import torch\n{CALL}  # clipcheck: ignore[CLIP001, CLIP002] old\n"
        f"{CALL}  # noqa: CLIP001  # clipcheck: ignore[CLIP002]\n"
    )


def test_a_baseline_of_a_notebook_and_of_markdown(tmp_path: Path) -> None:
    book, guide = tmp_path / "n.ipynb", tmp_path / "guide.md"
    book.write_text(BOOK.replace("…", CALL))
    guide.write_text(f"> ```python\n> import torch\n> {CALL}\n> ```\n")
    assert run("--add-ignore", str(tmp_path)).stdout == "Added 2 suppressions.\n"
    assert book.read_text() == BOOK.replace("…", f"{CALL}  # clipcheck: ignore[CLIP002]")
    assert guide.read_text() == f"> ```python\n> import torch\n> {CALL}  # clipcheck: ignore[CLIP002]\n> ```\n"
    assert run(str(tmp_path)).exit_code == 0


@pytest.mark.parametrize(
    ("line", "after"),
    [
        # directives of other kinds and of other lines stay as they are
        ("CALL  # clipcheck: ignore", "CALL  # clipcheck: ignore  # clipcheck: ignore[CLIP002]"),
        ("CALL  # clipcheck: disable[CLIP001]", "CALL  # clipcheck: disable[CLIP001]  # clipcheck: ignore[CLIP002]"),
        ("# clipcheck: ignore[CLIP001]\nCALL", "# clipcheck: ignore[CLIP001]\nCALL  # clipcheck: ignore[CLIP002]"),
        ("CALL  # noqa: E501", "CALL  # noqa: E501  # clipcheck: ignore[CLIP002]"),
        ("CALL  # clipcheck: ignore[CLIP001]", "CALL  # clipcheck: ignore[CLIP001, CLIP002]"),
        ("CALL \t ", "CALL  # clipcheck: ignore[CLIP002] \t "),
        ("CALL; CALL", "CALL; CALL  # clipcheck: ignore[CLIP002]"),
    ],
)
@pytest.mark.parametrize("end", ["", "\n", "\r\n", "\nx = 1\n"])
def test_where_a_baseline_writes_its_comment(line: str, after: str, end: str) -> None:
    before, expected = (f"import torch\n{text.replace('CALL', CALL)}{end}" for text in (line, after))
    report = look(before, replace(SETTINGS, suppressions=False))
    count = line.count("CALL")
    assert added(report, "ignore", "") == (expected.encode(), count)


def test_a_baseline_names_all_rules_of_a_line_once() -> None:
    zero = CALL.replace("1.0", "0.0")
    report = look(f"import torch\n{zero}; {zero}\n", Settings(frozenset({"CLIP002", "CLIP201"}), "torch"))
    data, count = added(report, "noqa", "for now")
    assert data == f"import torch\n{zero}; {zero}  # noqa: CLIP002, CLIP201 for now\n".encode()
    assert count == len(report.findings) == 4
    extended = look(f"import torch\n{zero}  # noqa: CLIP009\n", Settings(frozenset({"CLIP002", "CLIP201"}), "torch"))
    assert added(extended, "noqa", "")[0] == f"import torch\n{zero}  # noqa: CLIP009, CLIP002, CLIP201\n".encode()


@pytest.mark.parametrize("form", ["ignore", "noqa"])
def test_a_baseline_of_several_cells_and_blocks(form: str) -> None:
    comment = {"ignore": "# clipcheck: ignore[CLIP002]", "noqa": "# noqa: CLIP002"}[form]
    cells = ["import torch\\n", f"x = 1\\n{CALL}", f"%%writefile a.py\\nimport torch\\n{CALL}", f"{CALL}\\ny = 2"]
    book = '{"cells": [' + ", ".join(f'{{"cell_type": "code", "source": "{cell}"}}' for cell in cells) + "]}"
    report = look(book, path="n.ipynb")
    assert added(report, form, "") == (book.replace(CALL, f"{CALL}  {comment}").encode(), 3)
    pytest.importorskip("markdown_it")
    guide = f"# Guide\n\n```python\nimport torch\n{CALL}\n```\n\n```python\n{CALL}\n{CALL}\n```\n"
    assert added(look(guide, path="g.md"), form, "") == (guide.replace(CALL, f"{CALL}  {comment}").encode(), 3)


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("x.py", "import torch\n"),
        ("x.py", "p.grad = = 1\n"),  # no comment suppresses that
        ("n.ipynb", "clip_grad_norm("),
        ("x.py", "x = 1  # clipcheck: ignore[CLIP002]\n"),
        ("x.rst", f".. code:: python\n\n   import torch\n   {CALL}\n"),  # nothing in it is written
        ("x.md", f"```python\n>>> import torch\n>>> {CALL}\n```\n"),
    ],
)
def test_a_baseline_adds_nothing_for_other_findings(path: str, text: str) -> None:
    assert added(look(text, path=path), "ignore", "") == (text.encode(), 0)


# --- directives, one by one -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", False),
        (b"# clipcheck ignores it", False),
        (b"# noqa", False),
        (b"# NOQA: E501", False),
        (b"# noqa: E501\n# CLIP002", False),
        (b"# noqa: E501\rCLIP002", False),
        (b"# noqa: CLIP", False),
        (b"# noqas: CLIP002", False),
        (b"# CLIP002", False),
        (b"# NoQA: CLIP002", False),  # nobody writes it so; it counts beside a finding
        (b"# clipcheck: ignore", True),
        (b"# noqa: CLIP002", True),
        (b"# NOQA: clip002", True),
        (b"# noqa: E501, Clip002", True),
    ],
)
def test_whether_a_file_names_our_rules_in_a_comment(data: bytes, expected: bool) -> None:
    assert names_us(data) is expected


@pytest.mark.parametrize("line", [2, 4, 6, 8])
def test_a_comment_in_the_middle_of_something_is_none_at_its_ends(line: int) -> None:
    assert not suppressed_by(line)


@pytest.mark.parametrize("line", [1, 3, 5, 7])
def test_a_comment_counts_at_the_ends_of_the_finding_and_of_its_statement(line: int) -> None:
    assert suppressed_by(line)


def suppressed_by(line: int) -> bool:
    """Whether a comment on a line suppresses a finding on lines 3 to 5 of a statement on lines 1 to 7."""
    text = "".join(f"x{n}{'  # noqa: CLIP001' if n == line else ''}\n" for n in range(1, 9))
    sifted = sift(Source(text), [("CLIP001", Standing(text.index("x3"), 3, 5, 1, 7))], frozenset(), True)
    return sifted == ((), (0,), (), ())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("# clipcheck: ignore\nz\nx(\ny)\n", False),
        ("x(\n# clipcheck: ignore\nz,\ny)\n", False),
        ("x(\ny)\n# clipcheck: ignore\n", False),
        ("x(y)\n# clipcheck: ignore", False),
        ("# noqa\nx(\ny)\n", False),
        ("# clipcheck: ignore\nx(\ny)\n", True),
        ("# clipcheck: ignore\n\n  # why\nx(\ny)\n", True),
        ("x(\n  # clipcheck: ignore\ny)\n", True),
        ("# clipcheck: ignore\rx(\ry)\r", True),
    ],
)
def test_a_comment_of_its_own_line_is_for_the_finding_or_the_statement_below(text: str, expected: bool) -> None:
    """The finding is at `y`, in the statement that begins at `x`."""
    source = Source(text)
    at, first = text.index("y"), source.line_at(text.index("x"))
    where = standing(source, at, at + 1, (first, source.line_at(at)))
    assert bool(sift(source, [("CLIP001", where)], frozenset(), True).suppressed) is expected


@pytest.mark.parametrize(("start", "end", "lines"), [(0, 2, (1, 1)), (0, 3, (1, 2)), (2, 2, (2, 2)), (2, 3, (2, 2))])
def test_the_lines_of_a_finding(start: int, end: int, lines: tuple[int, int]) -> None:
    assert standing(Source("a\nb\n"), start, end, (7, 9)) == Standing(start, *lines, 7, 9)


@pytest.mark.parametrize(
    ("text", "unused"),
    [
        ("CALL  # clipcheck: ignore[CLIP002]\n# clipcheck: file-ignore[CLIP002]", []),  # both of them
        ("CALL  # clipcheck: ignore[CLIP002]\nx  # clipcheck: ignore[CLIP002]", [3]),
        ("x  # clipcheck: ignore[CLIP002]\nCALL  # clipcheck: ignore[CLIP002]", [2]),
        ("# clipcheck: disable[CLIP002]\nCALL\nx  # clipcheck: ignore[CLIP002]", [4]),
        ("# clipcheck: enable[CLIP002]\nCALL", [2]),
        ("CALL  # clipcheck: ignore[CLIP002]\n# clipcheck: enable[CLIP002]", [3]),
        ("# clipcheck: file-ignore[CLIP002]\nCALL\n# clipcheck: enable[CLIP002]", [4]),
        ("# clipcheck: disable[CLIP002]\n# clipcheck: enable[CLIP002]\nCALL", [2]),
        ("# clipcheck: disable[CLIP002]\nCALL\n# clipcheck: enable[CLIP002]\nCALL", []),
        ("CALL\n# clipcheck: disable[CLIP002]", [3]),
        ("CALL  # clipcheck: disable[CLIP002]", [2]),
        ("# clipcheck: disable[CLIP002]\n# clipcheck: enable[CLIP101]\nCALL", []),  # CLIP101 did not run
        ("# clipcheck: disable[CLIP002]\nx  # clipcheck: ignore[CLIP002]\nCALL", [3]),
        ("CALL  # noqa: CLIP101", []),  # that rule did not run
        ("x  # noqa\nCALL", []),
        ("x  # clipcheck: ignore\nCALL", []),  # not all rules ran
    ],
)
def test_which_comments_are_unused(text: str, unused: list[int]) -> None:
    assert [line for code, line in codes(f"import torch\n{text.replace('CALL', CALL)}\n") if code == UNUSED] == unused


def test_a_comment_for_all_rules_is_judged_where_the_default_rules_ran() -> None:
    for rules, unused in ((DEFAULT, 1), (DEFAULT | {"CLIP503"}, 1), (DEFAULT - {"CLIP002"}, 0)):
        report = look("x = 1  # clipcheck: ignore\n", Settings(rules))
        assert [finding.code for finding in report.findings] == [UNUSED] * unused
    assert look(f"import torch\n{CALL}  # clipcheck: ignore\n", Settings(DEFAULT)).findings == ()
    ended = f"import torch\n# clipcheck: disable[CLIP002]\n{CALL}\n# clipcheck: enable\n"
    assert look(ended, Settings(DEFAULT)).findings == ()
    assert look("x = 1  # clipcheck: ignore\n", Settings(DEFAULT, report_unused=False)).findings == ()


def test_where_directives_are() -> None:
    text = (
        "x = 1\n"
        "y  # why  # clipcheck: ignore[CLIP001, CLIP999] soon  # noqa: E501 CLIP002 CLIP998, W1 too\n"
        "  # clipcheck: Disable\n"
        "z  # NOQA  # clipcheck: noqa: CLIP003, clip004 # clipcheck: skip\n"
    )
    source = Source(text)
    found, malformed = read(source)
    named = [None if one.names is None else [text[name.start : name.end] for name in one.names] for one in found]
    assert [(one.verb, text[one.start : one.end], names) for one, names in zip(found, named, strict=True)] == [
        ("ignore", "# clipcheck: ignore[CLIP001, CLIP999] soon", ["CLIP001"]),
        ("ignore", "# noqa: E501 CLIP002 CLIP998, W1", ["CLIP002"]),
        ("disable", "# clipcheck: Disable", None),
        ("file-ignore", "# clipcheck: noqa: CLIP003, clip004", ["CLIP003", "clip004"]),
        ("ignore", "# NOQA  ", None),
    ]
    assert [(one.line, one.alone, one.foreign, one.others) for one in found] == [
        (2, False, False, False),
        (2, False, True, True),
        (3, True, False, False),
        (4, False, False, False),
        (4, False, True, False),
    ]
    assert [(text[at:].partition(" ")[2].partition(" ")[0], message) for at, message in malformed] == [
        ("clipcheck:", "unknown rule `CLIP999` in a suppression"),
        ("noqa:", "unknown rule `CLIP998` in a `noqa`"),
        ("clipcheck:", "`clipcheck: skip`: unknown directive (expected ignore, disable, enable, file-ignore, noqa)"),
    ]
    assert text[malformed[2][0] :] == "# clipcheck: skip\n"


@pytest.mark.parametrize("line", ["x  # noqa: because", "x  # noqa:", "x  # noqa: E501", "x  # a clip: noqa"])
def test_what_is_said_to_other_tools_is_none_of_ours(line: str) -> None:
    assert read(Source(f"{line}\n")) == ([], [])


@pytest.mark.parametrize(
    ("line", "name", "after"),
    [
        ("x   # clipcheck: ignore\n", "", "x\n"),
        ("x # clipcheck: ignore\n", "", "x\n"),
        ("x\t# clipcheck: ignore\n", "", "x\n"),
        ("x# clipcheck: ignore", "", "x"),
        ("    # clipcheck: ignore  # noqa\nx\n", "", "  # noqa\nx\n"),
        ("x\r\n\t# clipcheck: ignore\r\ny\r\n", "", "x\r\ny\r\n"),
        ("x  # clipcheck: ignore[CLIP001, CLIP002,CLIP003]\n", "CLIP002", "x  # clipcheck: ignore[CLIP001, CLIP003]\n"),
        ("x  # clipcheck: ignore[CLIP001 , CLIP002]\n", "CLIP002", "x  # clipcheck: ignore[CLIP001]\n"),
        ("x  # clipcheck: ignore[CLIP001 , CLIP002]\n", "CLIP001", "x  # clipcheck: ignore[CLIP002]\n"),
    ],
)
def test_what_is_left_of_a_line_without_its_directive(line: str, name: str, after: str) -> None:
    source = Source(line)
    directive = next(one for one in read(source)[0] if not one.foreign)
    fix = removal(source, directive, next((one for one in directive.names or () if one.code == name), None))
    assert apply(line, fix.edits) == after
    assert fix.title == (f"Remove `{name}` from the suppression" if name else "Remove the suppression")
