"""The Python interface in detail: every argument counts, and a forgotten path is distinguished from a string."""

from __future__ import annotations

from typing import Any

import pytest

from clipcheck import api
from clipcheck.catalogue import RULES

DEPRECATED = "import torch\ntorch.nn.utils.clip_grad_norm(ps, 1.0)\n"
OPT_IN = "from torch.nn.utils import clip_grad_norm_\nclip_grad_norm_(ps, 1.0)\n"


@pytest.mark.parametrize("name", ["train.py", "train.pyi", "train.ipynb", "guide.md", "guide.rst", "a folder/train.py"])
def test_a_file_name_is_not_accepted_as_code(name: str) -> None:
    for function in (api.check, api.fix):
        with pytest.raises(ValueError, match=r"pathlib\.Path"):
            function(name)


@pytest.mark.parametrize("text", ["x = 1  # as in train.py\n", "train.py\n", "x", ""])
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
