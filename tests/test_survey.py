"""The survey of public code: each finding beside the verdict that was given to its place at its commit, and to no other."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parent.parent / "benchmarks" / "survey.py"
CLIP = "from torch.nn.utils import clip_grad_norm\nclip_grad_norm(ps, 1)\n"
HEAD = "repository\tcommit\tpath\tline\tcode\tverdict\treason\n"


@pytest.fixture(scope="module")
def survey() -> ModuleType:
    spec = importlib.util.spec_from_file_location("survey", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["survey"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def checkouts(tmp_path: Path) -> Path:
    folder = tmp_path / "checkouts"
    for name in ("one+train", "two+clean"):
        (folder / name / "src").mkdir(parents=True)
    (folder / "one+train" / "src" / "step.py").write_text(CLIP)
    (folder / "two+clean" / "src" / "step.py").write_text("x = 1\n")
    (folder / "commits.tsv").write_text("one/train\tabc\ntwo/clean\tdef\n")
    return folder


def table(tmp_path: Path, *lines: str) -> Path:
    path = tmp_path / "judged.tsv"
    path.write_text(HEAD + "".join(line + "\n" for line in lines))
    return path


def test_findings_without_a_verdict_are_listed_and_counted(
    survey: ModuleType, checkouts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    judged = table(tmp_path, "one/train\tabc\tsrc/step.py\t1\tCLIP002\tright\tremoved")
    assert survey.main([str(checkouts), "--judged", str(judged)]) == 1
    out, err = capsys.readouterr()
    assert out == (
        HEAD
        + "one/train\tabc\tsrc/step.py\t1\tCLIP002\tright\tremoved\n"
        + "one/train\tabc\tsrc/step.py\t2\tCLIP002\t\t\n"
    )
    assert "2 findings in 2 repositories: 1 right, 1 not judged" in err
    assert "true: 1 of 1 (100.0%)" in err


def test_a_verdict_holds_for_its_commit_alone(survey: ModuleType, checkouts: Path, tmp_path: Path) -> None:
    places = [f"one/train\tabc\tsrc/step.py\t{line}\tCLIP002\tright\t" for line in (1, 2)]
    assert survey.main([str(checkouts), "--judged", str(table(tmp_path, *places))]) == 0
    (checkouts / "commits.tsv").write_text("one/train\txyz\n")
    assert survey.main([str(checkouts), "--judged", str(table(tmp_path, *places))]) == 1


def test_a_word_that_is_no_verdict_is_refused(survey: ModuleType, checkouts: Path, tmp_path: Path) -> None:
    judged = table(tmp_path, "one/train\tabc\tsrc/step.py\t1\tCLIP002\tfine\t")
    with pytest.raises(SystemExit, match="not a verdict: 'fine'"):
        survey.main([str(checkouts), "--judged", str(judged)])


def test_wrong_findings_lower_the_share_and_noise_does_not(survey: ModuleType) -> None:
    rows = [survey.Row("a/b", "c", "d.py", line, "CLIP001", verdict) for line, verdict in enumerate(survey.VERDICTS)]
    assert "true: 2 of 3 (66.7%)" in survey.summary(rows, 1)


def test_the_committed_verdicts_are_read(survey: ModuleType) -> None:
    assert all(row.reason for row in survey.judged(survey.JUDGED).values() if row.verdict != "right")
