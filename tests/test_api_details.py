"""The Python interface in detail: every argument counts, and a forgotten path is distinguished from a string."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest

from clipcheck import api
from clipcheck.catalogue import RULES
from clipcheck.engine.results import FileReport, Outcome

DEPRECATED = "import torch\ntorch.nn.utils.clip_grad_norm(ps, 1.0)\n"
OPT_IN = "from torch.nn.utils import clip_grad_norm_\nclip_grad_norm_(ps, 1.0)\n"


@pytest.mark.parametrize("name", ["train.py", "train.pyi", "train.ipynb", "guide.md", "guide.rst", "a folder/train.py"])
def test_a_file_name_is_not_accepted_as_code(name: str) -> None:
    for function in (api.check, api.fix):
        with pytest.raises(ValueError, match=r"pathlib\.Path"):
            function(name)


@pytest.mark.parametrize("text", ["x = 1  # as in train.py\n", "x = 1\n# as in train.py", "train.py\n", "x", ""])
def test_code_may_end_like_a_file_name(text: str) -> None:
    assert [finding for finding in api.check(text, isolated=True) if finding.code in RULES] == []


def codes(text: str, **more: Any) -> list[str]:
    return [finding.code for finding in api.check(text, isolated=True, **more)]


def test_the_caller_selects_the_rules() -> None:
    assert codes(OPT_IN) == []
    assert codes(OPT_IN, extend_select=["CLIP011"]) == ["CLIP011"] * len(codes(OPT_IN, select=["CLIP011"])) != []
    assert codes(DEPRECATED, extend_select="CLIP011") == codes(DEPRECATED, extend_select=["CLIP011"])
    assert "CLIP002" in codes(DEPRECATED)
    assert "CLIP002" not in codes(DEPRECATED, ignore="CLIP002")
    assert codes(DEPRECATED, select=["CLIP003"]) == []


def test_target_and_safety_of_fixes() -> None:
    text = "import torch\nx = sum(p.grad.norm() ** 2 for p in ps) ** 0.5\n"
    chosen: dict[str, Any] = {"select": ["CLIP005"], "isolated": True}
    assert api.fix(text, **chosen).text == text
    assert "from clipcheck.runtime import grad_norm" in api.fix(text, unsafe=True, **chosen).text
    assert "torch.nn.utils.get_total_norm" in api.fix(text, unsafe=True, target="torch", **chosen).text


def test_the_examples_of_the_chosen_rules_are_run(monkeypatch: pytest.MonkeyPatch) -> None:
    from clipcheck.verify import pairs

    asked: list[tuple[list[str], int]] = []

    def run(found: Any, jobs: int) -> list[str]:
        asked.append((sorted({pair.name.partition("/")[0] for pair in found}), jobs))
        return ["a row"]

    monkeypatch.setattr(pairs, "verify", run)
    assert api.verify(select=["CLIP002"], jobs=3) == ["a row"]
    assert api.verify() == ["a row"]
    assert asked[0] == (["CLIP002"], 3)
    assert asked[1][1] == 1
    assert {"CLIP001", "CLIP002", "CLIP101"} <= set(asked[1][0]) <= set(RULES)


# --- settings files and warnings ------------------------------------------------------------------------------------


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "clipcheck.toml").write_text("select = ['CLIP003']\ntarget = 'torch'\n", encoding="utf-8")
    (tmp_path / "train.py").write_text(DEPRECATED, encoding="utf-8")
    return tmp_path


def test_settings_files_count_unless_isolated(project: Path) -> None:
    def found(source: str | Path, **more: Any) -> list[str]:
        return [finding.code for finding in api.check(source, **more)]

    for source in (DEPRECATED, Path("train.py"), project):
        assert found(source) == found(source, isolated=False) == []
        assert "CLIP002" in found(source, isolated=True)
        assert "CLIP002" in found(source, select=["CLIP002"])
    fixed = api.fix(DEPRECATED, select=["CLIP002"]).text
    assert "torch.nn.utils.clip_grad_norm_" in fixed
    assert "clipcheck.runtime" in api.fix(DEPRECATED, select=["CLIP002"], isolated=True).text
    assert "clipcheck.runtime" in api.fix(DEPRECATED, select=["CLIP002"], target="clipcheck").text


def test_code_has_a_name_of_its_own() -> None:
    assert [finding.path for finding in api.check(DEPRECATED, select=["CLIP002"], isolated=True)] == ["<text>"]
    broken = "import torch\ntorch.nn.utils.clip_grad_norm(\n"
    assert [finding.path for finding in api.fix(broken, isolated=True).findings] == ["<text>"]


def test_files_are_checked_in_all_processes_and_never_written(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def check_files(wanted: Any, *rest: Any) -> Outcome:
        asked.append(([path for path, _ in wanted], *rest[:-1]))
        return Outcome((), 1)

    monkeypatch.setattr(api, "check_files", check_files)
    assert api.check(["train.py"]) == []
    assert asked == [(["train.py"], 0, False, None)]


@pytest.mark.skipif(sys.platform == "win32", reason="needs links")
def test_problems_of_files_and_of_code_are_warnings_where_they_are_asked_for(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = FileReport("train.py", b"", errors=("broken",), warnings=("odd",))
    monkeypatch.setattr(api, "check_text", lambda *_: report)
    monkeypatch.setattr(api, "check_files", lambda *_: Outcome((report,), 1, ("late",)))
    os.symlink("nowhere.py", "gone.py")
    for call, said in (
        (lambda: api.check("x = 1\n"), ["broken", "odd"]),
        (lambda: api.fix("x = 1\n"), ["broken", "odd"]),
        (lambda: api.check(project), [f"{project / 'gone.py'}: broken link, skipped", "late", "odd"]),
    ):
        with pytest.warns(api.ClipcheckWarning) as caught:
            call()
        assert [str(one.message) for one in caught] == said
        assert {(one.filename, one.lineno) for one in caught} == {(__file__, call.__code__.co_firstlineno)}


def test_the_first_missing_path_is_named(project: Path) -> None:
    with pytest.raises(api.MissingPath, match=r"^one\.py: no such file or directory$"):
        api.check(["train.py", "one.py", "two.py"])


def test_settings_files_do_not_choose_the_examples_that_are_run(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from clipcheck.verify import pairs

    monkeypatch.setattr(pairs, "verify", lambda found, jobs: [pair.name.partition("/")[0] for pair in found])
    (project / "clipcheck.toml").write_text("ignore = ['CLIP002']\n", encoding="utf-8")
    assert {*api.verify(select="CLIP002")} == {"CLIP002"}
    assert "CLIP002" in {*api.verify()}
