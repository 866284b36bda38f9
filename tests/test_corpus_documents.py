"""The notebooks and Markdown files in labeled public repositories: read completely, fixed, and otherwise left alone."""

from __future__ import annotations

import csv
import json
import os
import subprocess
from pathlib import Path

import pytest

from clipcheck.catalogue import RULES
from clipcheck.documents import read as document
from clipcheck.engine.file import check_file
from clipcheck.rule import Safety
from clipcheck.settings.keys import Settings

pytestmark = pytest.mark.corpus


@pytest.fixture(scope="module")
def documents(shared: Path) -> dict[str, bytes]:
    """The labeled files that are not modules, by repository and path."""
    repositories = os.environ.get("CLIPCHECK_REPOS")
    if not repositories:
        pytest.skip("CLIPCHECK_REPOS does not name a folder of the labelled repositories")
    found: dict[str, bytes] = {}
    with open(shared / "corpus" / "labels.tsv", newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE):
            if row["path"].endswith((".ipynb", ".md", ".rst")):
                git_dir = Path(repositories, row["repo"].replace("/", "+"), "repo")
                words = ["git", "--git-dir", str(git_dir), "show", f"{row['commit']}:{row['path']}"]
                shown = subprocess.run(words, capture_output=True, check=False)
                if shown.returncode == 0:
                    found[f"{row['repo']}/{row['path']}"] = shown.stdout
    assert len(found) > 10
    return found


def test_no_edit_returns_the_same_bytes(documents: dict[str, bytes]) -> None:
    for path, data in documents.items():
        read = document.read(path, data)
        assert read.splice([[] for _ in read.programs]) == data, path


def test_a_fix_changes_source_lines_only(documents: dict[str, bytes]) -> None:
    """In a notebook, only source strings change, and only in lines that a fix names."""
    settings = Settings(frozenset(RULES), fix=True, safety=Safety.UNSAFE)
    fixed = 0
    for path, data in documents.items():
        report = check_file(path, data, settings)
        assert report.errors == (), (path, report.errors)
        if report.fixed_data is None:
            continue
        fixed += 1
        again = check_file(path, report.fixed_data, settings)
        assert again.fixed_data is None, path
        if path.endswith(".ipynb"):
            assert _without_sources(report.fixed_data) == _without_sources(data), path
        removed = set(data.splitlines()) - set(report.fixed_data.splitlines())
        assert len(removed) <= 12 * len(report.fixed), path
    assert fixed > 2


def _without_sources(data: bytes) -> object:
    content = json.loads(data)
    for cell in content["cells"]:
        if cell["cell_type"] == "code":
            cell["source"] = None
    return content


def test_positions_in_the_json_cover_the_source(documents: dict[str, bytes]) -> None:
    """The position of every finding in the file covers the same text as its position in the cell."""
    seen = 0
    for path, data in documents.items():
        if not path.endswith(".ipynb"):
            continue
        read = document.read(path, data)
        for finding in check_file(path, data, Settings(frozenset(RULES))).findings:
            place = finding.place
            if place.line != place.end_line or finding.code not in RULES:
                continue
            inside = read.lines(place.cell, finding.program)[place.line][place.column - 1 : place.end_column - 1]
            whole = read.in_file(place)
            line = data.decode().split("\n")[whole.line - 1]
            assert json.loads(f'"{line[whole.column - 1 : whole.end_column - 1]}"') == inside
            seen += 1
    assert seen > 3
