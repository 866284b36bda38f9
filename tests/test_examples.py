"""The rules' examples on disk, their order, and the pages and pictures that are made of them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from clipcheck import examples, formats, pages, plots, report, site
from clipcheck.catalogue import RULES
from clipcheck.engine.results import Outcome
from clipcheck.report.view import View
from clipcheck.rule import Rule, Severity, Tier

RULE = Rule("CLIP900", "a-rule", Tier.OPT_IN, Severity.NOTE, ())


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(examples, "root", lambda: tmp_path)
    made = tmp_path / "CLIP900-a-rule"
    made.mkdir()
    return made


def put(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).write_text("", encoding="utf-8")


# --- the examples of a rule -----------------------------------------------------------------------------------------


def test_the_first_example_has_no_number_and_the_others_are_in_the_order_of_theirs(folder: Path) -> None:
    put(folder, *(f"before{end}" for end in ("_10.py", "_2.ipynb", ".py", "_3.md", "hand.py", "_x.py", ".txt", ".pyc")))
    put(folder, "after.py", "after_2.ipynb", "after_torch.py", "after_torch_3.md", "abefore.py", "clean.py")
    found = [(one.before.name, one.after and one.after.name) for one in examples.examples(RULE)]
    assert found == [
        ("before.py", "after.py"),
        ("before_2.ipynb", "after_2.ipynb"),
        ("before_3.md", None),
        ("before_10.py", None),
    ]
    torch = [one.after and one.after.name for one in examples.examples(RULE, "after_torch")]
    assert torch == ["after_torch.py", None, "after_torch_3.md", None]


def test_correct_programs_are_in_order(folder: Path) -> None:
    put(folder, "clean_10.py", "clean_2.py", "clean.py", "clean_2.ipynb", "unclean.py", "before.py")
    assert [path.name for path in examples.clean(RULE)] == ["clean.py", "clean_2.py", "clean_10.py"]


def test_the_examples_are_inside_of_the_package_or_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "clipcheck"
    package.mkdir()
    monkeypatch.setattr(examples, "__file__", str(package / "examples.py"))
    assert examples.root() == tmp_path.resolve() / "fixtures"
    (package / "fixtures").mkdir()
    assert examples.root() == package.resolve() / "fixtures"
    assert examples.folder(RULE) == package.resolve() / "fixtures" / "CLIP900-a-rule"


# --- a rule's page ----------------------------------------------------------------------------------------------------


@pytest.fixture
def documented(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(pages, "page_of", lambda rule: "## What it does\nFinds a fault: it is one. More.\n\nAnd more.")
    monkeypatch.setattr(pages, "best_fix", lambda rule: None)
    return folder


def test_a_page_shows_the_first_example_without_the_comments_of_tests(documented: Path) -> None:
    before = "# claim: same\nx = 1  # expect: CLIP900\ny = 2  # why\n"
    (documented / "before.py").write_text(before, encoding="utf-8")
    (documented / "before_2.py").write_text("z = 3\n", encoding="utf-8")
    head = "# CLIP900 `a-rule`\n\n*Opt-in · note · no automatic fix*"
    text = "## What it does\nFinds a fault: it is one. More.\n\nAnd more."
    assert pages.page(RULE) == f"{head}\n\n{text}\n\n## Example\n\n```python\nx = 1\ny = 2  # why\n```"
    (documented / "after.py").write_text("x = 1\ny = 3  # why\n", encoding="utf-8")
    assert pages.page(RULE) == f"{head}\n\n{text}\n\n## Example\n\n```diff\n x = 1\n-y = 2  # why\n+y = 3  # why\n```"


def test_a_page_without_an_example(documented: Path) -> None:
    assert pages.page(RULE).endswith("*\n\n## What it does\nFinds a fault: it is one. More.\n\nAnd more.")


@pytest.mark.parametrize(
    ("tier", "fix", "facts"),
    [
        (Tier.DEFAULT, "safe", "Runs by default · note · safe fix"),
        (Tier.OPT_IN, "unsafe", "Opt-in · note · unsafe fix"),
        (Tier.OPT_IN, None, "Opt-in · note · no automatic fix"),
    ],
)
def test_the_facts_on_a_page(tier: Tier, fix: str | None, facts: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "best_fix", lambda rule: fix)
    assert pages.facts(RULE._replace(tier=tier)) == facts


@pytest.mark.parametrize(
    ("page", "summary"),
    [
        ("## What it does\nFinds one.\n", "Finds one"),
        ("## What it does\nFinds one\nof two. More.\n\nStill.", "Finds one of two"),
        ("## What it does\nFinds these:\n\n- one\n", "Finds these"),
        ("A title.\n\n## What it does\nFinds v1.2 of it. More.\n\n## Why\nNot this.", "Finds v1.2 of it"),
    ],
)
def test_the_summary_is_the_first_sentence(page: str, summary: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "page_of", lambda rule: page)
    assert pages.summary(RULE) == summary


def test_a_rule_for_programs(documented: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CLIPCHECK_DOCS_URL", raising=False)
    assert pages.described(RULE) == {
        "code": "CLIP900",
        "name": "a-rule",
        "summary": "Finds a fault.",
        "severity": "note",
        "tier": "opt-in",
        "fix": None,
        "url": None,
    }
    assert [rule.code for rule in pages.by_code()] == sorted(RULES)


def test_the_best_fix_is_the_safest_of_all_examples(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = "torch.nn.utils.clip_grad_norm(model.parameters(), 1.0)  # expect: CLIP002\n"
    fsdp = "from torch.distributed.fsdp import FullyShardedDataParallel\n"
    rule = RULES["CLIP002"]
    monkeypatch.setattr(examples, "folder", lambda rule: folder)
    assert pages.best_fix(rule) is None
    (folder / "before.py").write_text("import torch\n", encoding="utf-8")
    assert pages.best_fix(rule) is None
    (folder / "before_2.py").write_text(f"import torch\n{fsdp}{calls}", encoding="utf-8")
    assert pages.best_fix(rule) == "unsafe"
    (folder / "before_3.py").write_text(f"import torch\n{calls}", encoding="utf-8")
    assert pages.best_fix(rule) == "safe"


# --- addresses and formats --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variable", "address"),
    [
        (None, "https://clipcheck.github.io/clipcheck"),
        ("", "https://clipcheck.github.io/clipcheck"),
        ("https://docs.example.org/clips//", "https://docs.example.org/clips"),
    ],
)
def test_the_address_of_the_documentation(variable: str | None, address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CLIPCHECK_DOCS_URL", raising=False)
    if variable is not None:
        monkeypatch.setenv("CLIPCHECK_DOCS_URL", variable)
    assert site.address() == address
    assert site.page("CLIP002", "a-name") == f"{address}/rules/a-name/"
    assert site.page("invalid-syntax", "invalid-syntax") is None


BEGINNINGS = {
    "full": "No problems",
    "concise": "No problems",
    "grouped": "No problems",
    "pylint": "",
    "json": "[]",
    "json-lines": "",
    "github": "",
    "azure": "",
    "gitlab": "[]",
    "rdjson": '{\n  "source"',
    "junit": "<?xml",
    "sarif": '{\n  "$schema"',
}


@pytest.mark.parametrize("name", BEGINNINGS)
def test_a_format_of_a_clean_run(name: str) -> None:
    assert list(formats.FORMATS) == list(BEGINNINGS)
    text = report.render(name, Outcome((), 1), View())
    assert text.startswith(BEGINNINGS[name]) and bool(text) is bool(BEGINNINGS[name])


# --- pictures ---------------------------------------------------------------------------------------------------------


def test_a_picture_for_light_pages_and_one_for_dark_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    styles: list[dict[str, str]] = []
    drawn: list[Any] = []

    class Style:
        def __init__(self, style: dict[str, str]) -> None:
            styles.append(style)

        def __enter__(self) -> None:
            drawn.append("begin")

        def __exit__(self, *_: object) -> None:
            drawn.append("end")

    monkeypatch.setitem(__import__("sys").modules, "matplotlib", SimpleNamespace(rc_context=Style))
    light, dark = tmp_path / "norms.svg", tmp_path / "norms-dark.svg"
    assert plots.for_both(light, lambda file, colors: drawn.append((file, colors))) == (light, dark)
    assert drawn == ["begin", (light, plots.LIGHT), "end", "begin", (dark, plots.DARK), "end"]
    for style, colors in zip(styles, (plots.LIGHT, plots.DARK), strict=True):
        texts = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")
        faces = ("figure.facecolor", "axes.facecolor")
        assert style == {**dict.fromkeys(texts, colors["text"]), **dict.fromkeys(faces, colors["background"])}


def contrast(one: str, other: str) -> float:
    """The contrast of two colors, from 1 to 21: https://www.w3.org/TR/WCAG21/#dfn-contrast-ratio"""

    def luminance(color: str) -> float:
        parts = [int(color[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted(luminance(color) + 0.05 for color in (one, other))
    return high / low


@pytest.mark.parametrize("colors", [plots.LIGHT, plots.DARK])
def test_the_colors_of_a_picture_can_be_read(colors: dict[str, str]) -> None:
    assert contrast(colors["text"], colors["background"]) > 7
    assert 1.3 < contrast(colors["grid"], colors["background"]) < contrast(colors["text"], colors["background"])
