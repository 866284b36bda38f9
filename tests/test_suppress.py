"""Comments that suppress findings, those that suppress nothing, and the baseline that writes them."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import Result
from conftest import runner

from clipcheck.catalogue import RULES
from clipcheck.cli.main import main
from clipcheck.engine.file import check_file
from clipcheck.engine.results import FileReport
from clipcheck.settings.keys import Settings

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
