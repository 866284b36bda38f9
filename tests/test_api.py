"""The Python interface: its arguments, results and errors."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from clipcheck import api

BEFORE = "import torch\n\n\ndef clip(model):\n    return torch.nn.utils.clip_grad_norm(model.parameters(), 1.0)\n"
AFTER = BEFORE.replace("clip_grad_norm(", "clip_grad_norm_(")
ONLY = {"select": ["CLIP002"], "isolated": True}


def test_a_string_is_checked_without_a_file() -> None:
    (finding,) = api.check(BEFORE, **ONLY)
    assert (finding.code, finding.place.line, finding.place.column) == ("CLIP002", 5, 12)
    assert finding.path == "<text>"
    assert finding.fix is not None
    assert finding.fix.safety is api.Safety.SAFE


def test_paths_are_files_and_folders(tmp_path: Path) -> None:
    (tmp_path / "package").mkdir()
    for name in ("one.py", "package/two.py", "package/three.txt"):
        (tmp_path / name).write_text(BEFORE)
    both = [str(tmp_path / "one.py"), str(tmp_path / "package" / "two.py")]
    assert [finding.path for finding in api.check(tmp_path, **ONLY)] == both
    assert [finding.path for finding in api.check([both[1], Path(both[0])], **ONLY)] == both
    assert api.check([], **ONLY) == []


def test_a_forgotten_path_is_not_taken_for_a_program() -> None:
    with pytest.raises(ValueError, match=r"pathlib.Path\('train.py'\)"):
        api.check("train.py")


def test_selection_is_that_of_the_command_line() -> None:
    assert api.check(BEFORE, ignore=["CLIP002"]) == []
    assert api.check(BEFORE, select="CLIP0") == api.check(BEFORE, select=["CLIP002"])
    with pytest.raises(api.ConfigError, match="CLIP9"):
        api.check(BEFORE, select=["CLIP9"])


def test_settings_in_files_count(tmp_path: Path) -> None:
    (tmp_path / "clipcheck.toml").write_text('ignore = ["CLIP002"]\n')
    (tmp_path / "train.py").write_text(BEFORE)
    assert api.check(tmp_path) == []
    assert api.check(BEFORE, filename=str(tmp_path / "other.py")) == []
    assert len(api.check(tmp_path, select=["CLIP002"])) == 1
    assert len(api.check(tmp_path, isolated=True)) == 1
    (tmp_path / "clipcheck.toml").write_text('target = "torch"\n')
    assert api.fix(BEFORE, filename=str(tmp_path / "other.py")).text == AFTER
    (tmp_path / "clipcheck.toml").write_text("tarjet = 1\n")
    with pytest.raises(api.ConfigError, match="tarjet"):
        api.check(tmp_path)


def test_a_missing_path_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(api.MissingPath, match="nowhere"):
        api.check(tmp_path / "nowhere")


def test_fix_gives_the_text_and_what_it_did() -> None:
    result = api.fix(BEFORE, target="torch", **ONLY)
    assert result.text == AFTER
    assert [finding.code for finding in result.fixed] == ["CLIP002"]
    assert result.findings == ()
    assert api.fix(result.text, target="torch", **ONLY).text == AFTER


def test_a_string_without_findings_does_not_change() -> None:
    text = "# -*- coding: latin-1 -*-\nname = 'é'\r\n"
    assert api.fix(text) == (text, (), ())


def test_a_declared_encoding_does_not_change_columns() -> None:
    text = "# -*- coding: latin-1 -*-\nimport torch\nx = 'é'; torch.nn.utils.clip_grad_norm([], 1.0)\n"
    (finding,) = api.check(text, **ONLY)
    assert finding.place.column == 10
    assert api.fix(text, target="torch", **ONLY).text == text.replace("norm(", "norm_(")


def test_text_that_its_encoding_cannot_represent_is_a_finding() -> None:
    (finding,) = api.check("# coding: latin-1\nimport torch\nx = '€'; torch.nn.utils.clip_grad_norm([], 1)\n")
    assert finding.code == "invalid-syntax"


def test_a_notebook_is_recognized_by_its_name() -> None:
    cell = {"cell_type": "code", "metadata": {}, "outputs": [], "source": BEFORE}
    notebook = json.dumps({"cells": [cell], "metadata": {}, "nbformat": 4, "nbformat_minor": 5})
    (finding,) = api.check(notebook, filename="train.ipynb", **ONLY)
    assert (finding.place.cell, finding.place.line) == (1, 5)
    result = api.fix(notebook, filename="train.ipynb", target="torch", **ONLY)
    assert result.text == notebook.replace("norm(", "norm_(")


def test_a_rule_that_fails_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    import clipcheck.rules

    def check(source: object) -> object:
        raise RuntimeError("nothing works")

    monkeypatch.setattr(clipcheck.rules, "check_of", lambda rule: check)
    with pytest.warns(api.ClipcheckWarning, match="rule CLIP002 crashed: RuntimeError: nothing works"):
        assert api.check(BEFORE, **ONLY) == []
