"""Third-party code: 13 packages of training code, and public sites that were labeled by hand."""

from __future__ import annotations

import ast
import os
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from clipcheck.catalogue import RULES
from clipcheck.engine.batch import check_paths
from clipcheck.engine.file import candidate
from clipcheck.engine.find import find
from clipcheck.rule import Safety, Target
from clipcheck.settings.keys import Settings

pytestmark = pytest.mark.corpus

ALL = frozenset(RULES)


@pytest.fixture(scope="module")
def candidates(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A copy of the files with keywords of any rule, so that fixing them harms nothing."""
    copy = tmp_path_factory.mktemp("candidates")
    for path in find([str(tree)]).files:
        if candidate(path, Path(path).read_bytes(), settings()):
            target = copy / Path(path).relative_to(tree)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)
    yield copy
    shutil.rmtree(copy)


def settings(target: Target = "clipcheck", fix: bool = False) -> Settings:
    return Settings(codes=ALL, target=target, fix=fix, safety=Safety.UNSAFE)


def test_the_tree_is_whole(tree: Path) -> None:
    assert len(find([str(tree)]).files) > 7000


def test_nothing_crashes(candidates: Path) -> None:
    outcome = check_paths([str(candidates)], settings())
    assert outcome.errors == ()
    assert {f.code for f in outcome.findings} & ALL, "real training code holds at least one of these faults"


def test_the_prefilter_loses_no_finding(tree: Path) -> None:
    """Runs every rule on every file without it. All files take several minutes: set `CLIPCHECK_WHOLE=1` for that.

    Otherwise the files are those with findings, and two hundred others.
    """
    files = find([str(tree)]).files
    passed = {report.path for report in check_paths([str(tree)], settings()).reports}
    if not os.environ.get("CLIPCHECK_WHOLE"):
        small = [path for path in files if os.path.getsize(path) < 30_000]
        files = [*passed, *random.Random(1).sample(small, 200)]
    with_it, without = (check_paths(files, replace(settings(), prefilter=on)) for on in (True, False))
    assert with_it.errors == without.errors == ()
    assert with_it.candidates < without.candidates
    # a file that no rule applies to is not reported as unreadable
    mine, every = ([f for f in outcome.findings if f.code in RULES] for outcome in (with_it, without))
    assert mine == every
    assert mine


@pytest.mark.parametrize("target", ["clipcheck", "torch"])
def test_every_fix_parses_and_settles(candidates: Path, tmp_path: Path, target: Target) -> None:
    copy = tmp_path / "tree"
    shutil.copytree(candidates, copy)
    first = check_paths([str(copy)], settings(target, fix=True), write=True)
    assert first.errors == ()
    assert first.fixed, "there is something to fix in it"
    for report in first.reports:
        if report.fixed_data is not None:
            ast.parse(report.fixed_data)
            assert Path(report.path).read_bytes() == report.fixed_data
    again = check_paths([str(copy)], settings(target, fix=True), write=True)
    assert again.errors == ()
    assert [report.path for report in again.reports if report.fixed_data is not None] == []
    assert again.fixed == []


LABELS_TEXT = r"recall (\d+)/(\d+) = .*; negatives kept silent (\d+)/(\d+) = .*; unwanted safe fixes (\d+);"


def test_labelled_sites(shared: Path) -> None:
    """Recall on hand-labeled public code, and what must not be reported there; the repositories are not part of this project."""
    repos = os.environ.get("CLIPCHECK_REPOS")
    if not repos:
        pytest.skip("CLIPCHECK_REPOS does not name a folder of the labelled repositories")
    corpus = shared / "corpus"
    command = [sys.executable, str(corpus / "score.py"), str(corpus / "labels.tsv"), "--repos", repos]
    done = subprocess.run(
        [*command, "--clipcheck", f"{sys.executable} -m clipcheck", "--verbose"], capture_output=True, text=True
    )
    match = re.search(LABELS_TEXT, done.stdout)
    assert match, done.stderr
    found, of, silent, negatives, unwanted = map(int, match.groups())
    assert found / of >= 0.95, done.stdout
    assert silent / negatives >= 0.99, done.stdout
    assert unwanted == 0, done.stdout


# --- the two documents ------------------------------------------------------------------------------------------

FENCE = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# The second document shows loops without context; this provides something to loop over.
PRELUDE = "import torch\n\ngradients = [torch.randn(20, 10) for _ in range(3)]\ntotal_norm = 0.0\n"


def blocks(shared: Path) -> list[tuple[str, str]]:
    found = []
    for document in sorted((shared / "seeds").glob("*.md")):
        for number, code in enumerate(FENCE.findall(document.read_text(encoding="utf-8")), 1):
            prelude = "" if "import torch" in code else PRELUDE
            found.append((f"{document.stem}_{number}", prelude + code))
    return found


def test_the_documents_end_up_clean_and_run(shared: Path, tmp_path: Path) -> None:
    written = []
    for name, code in blocks(shared):
        # the benchmark of the second document repeats 100 times 10 million elements: twice is enough to see it run
        (tmp_path / f"{name}.py").write_text(code.replace("range(100)", "range(2)"), encoding="utf-8")
        written.append(tmp_path / f"{name}.py")
    assert len(written) == 6
    core = Settings(codes=frozenset({"CLIP001", "CLIP002"}), fix=True)
    outcome = check_paths([str(tmp_path)], core, write=True)
    assert outcome.errors == ()
    assert len(outcome.fixed) == 6
    assert check_paths([str(tmp_path)], core).findings == []
    for path in written:
        code = path.read_text(encoding="utf-8")
        done = subprocess.run(
            [sys.executable, "-W", "error::FutureWarning", "-c", code], capture_output=True, text=True, cwd=tmp_path
        )
        assert done.returncode == 0, f"{path.name}: {done.stderr[-500:]}"
