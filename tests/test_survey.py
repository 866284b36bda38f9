"""The survey of public code: each finding gets the verdict for its place at its commit, and no other."""

from __future__ import annotations

import importlib.util
import re
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest
from conftest import PROJECT

SCRIPT = Path(__file__).parent.parent / "benchmarks" / "survey.py"
PAGE = (PROJECT / "docs" / "found.md").read_text(encoding="utf-8")
SILENT = "no longer reported: "
LATER = "first reported later: "
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


def test_an_unknown_verdict_is_rejected(survey: ModuleType, checkouts: Path, tmp_path: Path) -> None:
    judged = table(tmp_path, "one/train\tabc\tsrc/step.py\t1\tCLIP002\tfine\t")
    with pytest.raises(SystemExit, match="not a verdict: 'fine'"):
        survey.main([str(checkouts), "--judged", str(judged)])


def test_wrong_findings_lower_the_share_and_noise_does_not(survey: ModuleType) -> None:
    rows = [survey.Row("a/b", "c", "d.py", line, "CLIP001", verdict) for line, verdict in enumerate(survey.VERDICTS)]
    assert "true: 2 of 3 (66.7%)" in survey.summary(rows, 1)


def test_the_committed_verdicts_are_read(survey: ModuleType) -> None:
    assert all(row.reason for row in survey.judged(survey.JUDGED).values() if row.verdict != "right")


# --- the page on it ---------------------------------------------------------------------------------------------------


def cell(text: str) -> Counter[str]:
    """`7 noise, 1 wrong` as counts."""
    return Counter({word: int(number) for number, word in re.findall(r"(\d+) (\w+)", text)})


def test_the_page_has_the_counts_of_the_table_by_rule(survey: ModuleType) -> None:
    rows = survey.judged(survey.JUDGED).values()
    shown = {}
    for line in re.findall(r"^\| (?:\[?CLIP|invalid|all).*$", PAGE, re.MULTILINE):
        rule, right, noise, gone = (part.strip() for part in line.strip("|").split("|"))
        shown[rule.split("]")[0].lstrip("[")] = (int(right or 0), int(noise or 0), cell(gone))
    expected = {}
    for code in {row.code for row in rows} | {"all"}:
        of_code = [row for row in rows if code in (row.code, "all")]
        left = Counter(row.verdict for row in of_code if not row.reason.startswith(SILENT))
        gone = Counter(row.verdict for row in of_code if row.reason.startswith(SILENT))
        assert set(left) <= {"right", "noise"}
        expected[code] = (left["right"], left["noise"], gone)
    assert shown == expected


def test_the_page_has_the_results_of_the_first_and_the_last_run(survey: ModuleType) -> None:
    rows = survey.judged(survey.JUDGED).values()
    runs = [row for row in rows if not row.reason.startswith(LATER)]
    first = Counter(row.verdict for row in runs)
    last = Counter(row.verdict for row in rows if not row.reason.startswith(SILENT))
    text = " ".join(PAGE.split())
    counts = ", ".join(f"{first[verdict]} {verdict}" for verdict in survey.VERDICTS)
    assert f"{len(runs)} findings in {len({row.repository for row in runs})} repositories: {counts}." in text
    silent, later, left = len(rows) - last.total(), len(rows) - len(runs), last.total()
    assert (
        f"{silent} findings are no longer reported, {later} have been reported since then, and {left} are left" in text
    )
    assert f"are left: {last['right']} right, {last['noise']} noise, {last['wrong']} wrong." in text
    assert f"rely on, {len(runs) - first['wrong']} of {len(runs)}," in text


def test_the_page_says_what_was_found_in_repositories_that_were_not_known(survey: ModuleType) -> None:
    text = " ".join(PAGE.split())
    named = re.search(
        r"copies of those: (.*?)\. (\d+) of the (\d+) .*? Of the other (\d+), (\d+) are right and (\d+) noise", text
    )
    assert named is not None
    left = [row for row in survey.judged(survey.JUDGED).values() if not row.reason.startswith(SILENT)]
    known = set(named[1].split(", "))
    assert known <= {row.repository for row in left}
    others = Counter(row.verdict for row in left if row.repository not in known)
    counts = (len(left) - others.total(), len(left), others.total(), others["right"], others["noise"])
    assert tuple(int(number) for number in named.groups()[1:]) == counts


def test_the_ten_findings_of_the_page_are_right_and_at_their_commit(survey: ModuleType) -> None:
    address = r"^(CLIP\d+), \[[^\]]+\]\(https://github\.com/([^/]+/[^/]+)/blob/(\w+)/(\S+)#L(\d+)\)$"
    told = re.findall(address, PAGE, re.MULTILINE)
    rows = survey.judged(survey.JUDGED)
    places = [(repository, commit, path, int(line), code) for code, repository, commit, path, line in told]
    assert len(set(places)) == 10
    assert [rows[place].verdict for place in places] == ["right"] * 10


def test_the_readme_and_the_changelog_have_the_number_of_repositories_of_the_page() -> None:
    (number,) = re.findall(r"^What the default rules report in (\d+) public repositories", PAGE, re.MULTILINE)
    for name, sentence in {
        "README.md": f"a survey of {number} repositories",
        "CHANGELOG.md": f"what the rules found in {number} public repositories",
    }.items():
        assert sentence in " ".join((PROJECT / name).read_text(encoding="utf-8").split())
