"""Fixed code is clean code: ruff reports nothing new.

Import blocks are sorted, no import is unused, blank lines follow PEP 8, and no line ends with white space.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pytest
from conftest import PROJECT

from clipcheck.catalogue import RULES
from clipcheck.engine.batch import check_paths
from clipcheck.engine.file import check_file
from clipcheck.rule import Safety
from clipcheck.settings.keys import Settings

pytest.importorskip("ruff")

ALL = Settings(codes=frozenset(RULES), fix=True, safety=Safety.UNSAFE)


def complaints(folder: Path) -> dict[str, Counter[str]]:
    """What ruff reports for each file, by code. It runs in the folder, where clipcheck is not a first-party package."""
    command = [sys.executable, "-m", "ruff", "check", "--isolated", "--no-cache", "--exit-zero", "--output-format=json"]
    done = subprocess.run(
        [*command, "--preview", "--select", "E3,F,I,W", "."], cwd=folder, capture_output=True, text=True, check=True
    )
    found: dict[str, Counter[str]] = {}
    for one in json.loads(done.stdout):
        found.setdefault(Path(one["filename"]).name, Counter())[one["code"]] += 1
    return found


def new_complaints(pairs: Iterable[tuple[str, bytes, bytes]], folder: Path) -> dict[str, Counter[str]]:
    """What ruff reports only after files were fixed, by file name."""
    names = {}
    for number, (name, before, after) in enumerate(pairs):
        names[f"{number}.py"] = name
        for kind, data in (("before", before), ("after", after)):
            (folder / kind).mkdir(exist_ok=True)
            (folder / kind / f"{number}.py").write_bytes(data)
    assert names
    was, now = complaints(folder / "before"), complaints(folder / "after")
    more = {names[file]: found - was.get(file, Counter()) for file, found in now.items()}
    return {name: found for name, found in more.items() if found}


def fixed(paths: Iterable[Path], settings: Settings) -> list[tuple[str, bytes, bytes]]:
    reports = [check_file(str(path), path.read_bytes(), settings) for path in paths]
    assert [error for report in reports for error in report.errors] == []
    return [(report.path, report.data, report.fixed_data) for report in reports if report.fixed_data is not None]


@pytest.mark.parametrize("each", [True, False], ids=["the rule itself", "all rules"])
def test_fixed_fixtures(tmp_path: Path, each: bool) -> None:
    pairs = []
    for folder in sorted((PROJECT / "fixtures").glob("CLIP*")):
        codes = frozenset({folder.name[:7]}) if each else frozenset(RULES)
        settings = Settings(codes=codes, fix=True, safety=Safety.UNSAFE)
        pairs += fixed(sorted(folder.glob("*.py")), settings)
    assert new_complaints(pairs, tmp_path) == {}


def test_fixed_cases(shared: Path, tmp_path: Path) -> None:
    paths = sorted((shared / "cases").rglob("*.py"))
    assert new_complaints(fixed(paths, ALL), tmp_path) == {}


@pytest.mark.corpus
def test_fixed_packages(tree: Path, tmp_path: Path) -> None:
    reports = check_paths([str(tree)], ALL).reports
    pairs = [(report.path, report.data, report.fixed_data) for report in reports if report.fixed_data is not None]
    assert new_complaints(pairs, tmp_path) == {}


def test_ruff_reports_each_kind_of_fault(tmp_path: Path) -> None:
    """The absence of reports means something: ruff sees each kind of fault."""
    clean = b"import math\n\nimport torch\n\n\ndef f(x):\n    return math.sqrt(torch.norm(x))\n"
    faults = {
        "I001": clean.replace(b"import math\n\nimport torch\n", b"import torch\nimport math\n"),
        "F401": clean.replace(b"math.sqrt", b"abs"),
        "E302": clean.replace(b"\n\n\ndef", b"\ndef"),
        "E303": clean.replace(b"(x):\n", b"(x):\n    x = x + 1\n\n\n"),
        "W291": clean.replace(b"return", b"y = 1 \n    return y and"),
        "F821": clean.replace(b"(x)):", b"(x)):").replace(b"norm(x)", b"norm(z)"),
    }
    found = new_complaints([(code, clean, fault) for code, fault in faults.items()], tmp_path)
    assert {code: code in counted for code, counted in found.items()} == dict.fromkeys(faults, True)
