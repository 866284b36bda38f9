"""The documents: their code runs or parses, their links have targets, and the site builds from them."""

from __future__ import annotations

import ast
import importlib
import json
import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree

import pytest
from conftest import PROJECT, runner

from clipcheck.catalogue import RULES
from clipcheck.rule import Tier

DOCUMENTS = sorted(
    path for path in [*PROJECT.glob("*.md"), *(PROJECT / "docs").rglob("*.md")] if path.name not in ("CHANGELOG.md",)
)
# Pages whose Python blocks form one program, which is run.
RUN = ("docs/misconceptions.md", "docs/guides/python.md", "docs/gradient-clipping.md", "docs/faq.md")
REFERENCE = (
    "settings", "command-line", "environment", "suppression", "output-formats", "exit-codes", "python", "runtime",
)  # fmt: skip
MADE = {f"docs/rules/{rule.name}.md" for rule in RULES.values()} | {
    f"docs/{name}.md" for name in ("rules/index", "contributing", "changelog")
}
MADE |= {f"docs/reference/{name}.md" for name in REFERENCE}
FENCE = re.compile(r"^( *)```(\w+)[^\n]*\n(.*?)^\1```", re.MULTILINE | re.DOTALL)


def name(path: Path) -> str:
    return path.relative_to(PROJECT).as_posix()


def blocks(path: Path, language: str) -> list[str]:
    return [
        textwrap.dedent(code) for _, found, code in FENCE.findall(path.read_text(encoding="utf-8")) if found == language
    ]


def links(path: Path) -> Iterator[str]:
    text = FENCE.sub("", path.read_text(encoding="utf-8"))
    yield from re.findall(r"\]\(([^)\s]+)\)", text)


@pytest.mark.parametrize("path", DOCUMENTS, ids=name)
def test_every_block_of_python_parses(path: Path) -> None:
    for code in blocks(path, "python"):
        ast.parse(code)


@pytest.mark.parametrize("path", [PROJECT / path for path in RUN], ids=name)
def test_the_python_of_a_page_runs(path: Path, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    (tmp_path / "src").mkdir()
    program = "\n\n".join(blocks(path, "python"))
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert program.count("assert ") >= 5


# What the blocks on sharded training use: here, a group of one process.
ALONE = """
import torch, torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
dist.init_process_group("gloo", rank=0, world_size=1, store=dist.HashStore())
mesh = init_device_mesh("cpu", (1,), mesh_dim_names=("pp",))
model, expert_group, data_group = torch.nn.Linear(3, 2), dist.group.WORLD, dist.new_group([0])
parameters, embedding, is_first_stage = list(model.parameters()), model.weight, True
of_experts = {id(model.bias)}
"""
BEFORE_EACH = "for p in parameters: p.grad = p.main_grad = torch.full_like(p, 2.0)\n"
AFTER_EACH = "\nassert abs(total_norm.item() - 32**0.5) < 1e-6 and model.bias.grad.norm() < 1.0\n"


def test_the_calls_for_sharded_training_run(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    if not (torch.distributed.is_available() and torch.distributed.is_gloo_available()) or sys.platform == "win32":
        pytest.skip("torch has no gloo here")
    calls = blocks(PROJECT / "docs/guides/sharding.md", "python")
    assert len(calls) == 7
    program = ALONE + "".join(BEFORE_EACH + call + AFTER_EACH for call in calls) + "dist.destroy_process_group()"
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("path", DOCUMENTS, ids=name)
def test_settings_in_toml_are_known(path: Path) -> None:
    from clipcheck.settings.files import parse_toml
    from clipcheck.settings.keys import Layer, checked

    for text in blocks(path, "toml"):
        values = parse_toml(text)
        if "language-server" in values or "ruff" in values.get("tool", {}):  # somebody else's
            continue
        checked(Layer(values.get("tool", {}).get("clipcheck", values), str(PROJECT)))


@pytest.mark.parametrize("path", DOCUMENTS, ids=name)
def test_json_is_json(path: Path) -> None:
    for text in blocks(path, "json"):
        json.loads(text)


@pytest.mark.parametrize("path", DOCUMENTS, ids=name)
def test_commands_and_options_exist(path: Path) -> None:

    from clipcheck.cli.main import main

    for text in blocks(path, "console") + blocks(path, "yaml"):
        for line in re.findall(r"(?:^\$ |run: |\d+m)(clipcheck .*)$", text, re.MULTILINE):
            words = line.split("#")[0].split()
            command = words[1] if words[1] in main.commands else "check"
            known = {option for parameter in main.commands[command].params for option in parameter.opts}
            given = {word.partition("=")[0] for word in words if re.match(r"--[a-z]", word)}
            assert given <= known | {"--help", "--version"}, line
    assert runner().invoke(main, ["--help"]).exit_code == 0


@pytest.mark.parametrize("path", DOCUMENTS, ids=name)
def test_links_have_a_target(path: Path) -> None:
    for link in links(path):
        if link.startswith(("http://", "https://", "#")):
            continue
        target = link.partition("#")[0]
        found = (path.parent / target).resolve()
        assert found.exists() or name(found) in MADE, link


@pytest.mark.parametrize("path", DOCUMENTS, ids=name)
def test_rules_that_are_named_exist(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    example = {"CLIP990"} if path.name == "CONTRIBUTING.md" else set()
    assert set(re.findall(r"\bCLIP\d{3}\b", text)) - example <= set(RULES)


def test_clipcheck_has_no_findings_in_its_own_code() -> None:
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    command = [sys.executable, "-m", "clipcheck", "--no-cache"]
    done = subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True)
    found = re.fullmatch(
        r"No problems found in (\d+) files \((\d+) documents, \d+ with gradient-clipping code\), [\d.]+ s\.\n",
        done.stdout,
    )
    assert found is not None, done.stdout
    assert int(found[1]) >= 150 and int(found[2]) >= 10


def test_the_task_for_vs_code_parses_our_output(tmp_path: Path) -> None:
    """The guide's regular expression, on a line that clipcheck prints."""
    (task,) = [text for text in blocks(PROJECT / "docs/guides/editors.md", "json") if "problemMatcher" in text]
    pattern = json.loads(task)["tasks"][0]["problemMatcher"]["pattern"]
    (tmp_path / "train.py").write_text("import torch\n\ntorch.nn.utils.clip_grad_norm([], 1.0)\n")
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    command = [sys.executable, "-m", "clipcheck", "--output-format", "concise", "--quiet", "."]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    found = re.match(pattern["regexp"], done.stdout.splitlines()[0])
    assert found is not None
    parts = [found.group(pattern[key]) for key in ("file", "line", "column", "code")]
    assert parts == ["train.py", "3", "1", "CLIP002"]


@pytest.fixture(scope="module")
def pictures() -> Iterator[ModuleType]:
    sys.path.insert(0, str(PROJECT / "docs"))
    import pictures

    yield pictures
    sys.path.remove(str(PROJECT / "docs"))


def words(svg: str) -> list[str]:
    """The text of a picture, line by line, without the sizes of rounding errors, which depend on the machine."""
    lines = ["".join(ElementTree.fromstring(line).itertext()) for line in svg.splitlines() if line.startswith("<text")]
    return [re.sub(r"off by [\d.e-]+", "off by …", line) for line in lines]


def test_the_terminal_of_the_readme_shows_what_clipcheck_prints(pictures: ModuleType) -> None:
    pytest.importorskip("torch")
    shown = words((pictures.IMAGES / "terminal.svg").read_text(encoding="utf-8"))
    assert any("verified on" in line for line in shown)
    assert shown == words(pictures.terminal()), "run python docs/pictures.py"


def test_the_figure_of_speed_is_drawn_from_the_figures(pictures: ModuleType) -> None:
    measured = json.loads(pictures.FIGURES.read_text(encoding="utf-8"))
    drawn = (pictures.IMAGES / "speed.svg").read_text(encoding="utf-8")
    assert drawn == pictures.speed(measured), "run python docs/pictures.py"
    ours = [row["ratio"] for row in measured["rows"] if row["peer"] == "clipcheck"]
    assert re.findall(r'class="number[^>]*>([\d.]+)<', drawn) == [f"{ratio:.2f}" for ratio in ours]


def test_the_figure_of_a_training_step_is_drawn_from_the_figures_of_the_page(pictures: ModuleType) -> None:
    measured = json.loads(pictures.STEPS.read_text(encoding="utf-8"))
    drawn = (pictures.IMAGES / "step.svg").read_text(encoding="utf-8")
    assert drawn == pictures.step(measured), "run python docs/pictures.py"
    page = (PROJECT / "docs" / "runtime.md").read_text(encoding="utf-8").partition("## In a training step")[2]
    rows = re.findall(r"^\| (.+?) \| (\d+) \| ([\d.]+) \| (.+?) \| (.+?) \| (.+?) \|$", page, re.MULTILINE)
    assert rows == [
        (row["model"], str(row["tensors"]), f"{row['step_ms']}", *map(pictures.percent, (row["torch"], row["clipcheck"], row["loop"])))
        for row in measured["rows"]
    ]  # fmt: skip
    percents = re.findall(r'class="number"[^>]*>([^<]+)<', drawn)
    assert percents == [
        pictures.percent(row[clip]) for row in measured["rows"] for clip in ("loop", "torch", "clipcheck")
    ]
    for part in (measured["machine"]["device"], measured["machine"]["torch"], measured["machine"]["command"]):
        assert part in page and part in drawn


README = (PROJECT / "README.md").read_text(encoding="utf-8")


def test_the_home_page_starts_like_the_readme() -> None:
    opening = README.partition("\n## ")[0]
    assert re.findall(r"/docs/images/(\w+\.svg)\)", opening) == ["terminal.svg", "step.svg"]
    assert "<!-- opening -->" in (PROJECT / "docs" / "index.md").read_text(encoding="utf-8")


def test_the_readme_is_short_and_can_be_read_on_a_package_index() -> None:
    assert README.count("\n") <= 130
    addresses = [link for link in links(PROJECT / "README.md") if not link.startswith("#")]
    assert len(addresses) > 10
    for address in addresses:
        raw, site = (
            "https://raw.githubusercontent.com/clipcheck/clipcheck/main/",
            "https://clipcheck.github.io/clipcheck/",
        )
        page = address.partition("#")[0].removeprefix(site).strip("/")
        if address.startswith(raw):
            assert (PROJECT / address.removeprefix(raw)).is_file(), address
        elif address.startswith(site):
            found = [f"docs/{page or 'index'}.md", f"docs/{page}/index.md"]
            assert any((PROJECT / one).is_file() or one in MADE for one in found), address
        else:
            pytest.fail(f"{address}: neither an image of the repository nor a page of the site")


def test_the_families_in_the_readme_are_those_of_the_site() -> None:
    pytest.importorskip("mkdocs")
    sys.path.insert(0, str(PROJECT / "docs"))
    try:
        hooks = importlib.import_module("hooks")
    finally:
        sys.path.remove(str(PROJECT / "docs"))
    listed = re.findall(r"^\| CLIP(\d)xx \| \w", README, re.MULTILINE)
    assert listed == [rules[0].code[4] for _, _, rules in hooks.families_of_rules()]


def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("material")
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    for rule in RULES.values():
        page = (tmp_path / "site" / "rules" / rule.name / "index.html").read_text(encoding="utf-8")
        assert rule.code in page
        assert "Why is this bad?" in page
        assert f"<title>{rule.code} {rule.name} - clipcheck</title>" in page
        assert ("How to enable it" in page) is (rule.tier is Tier.OPT_IN)
        assert not re.search(r"Example \d", page), "examples have titles"
        assert "# expect" not in page
    html = "".join(path.read_text(encoding="utf-8") for path in (tmp_path / "site").rglob("*.html"))
    loaded = re.findall(r'<(?:script|link(?! rel="?canonical)|img)[^>]+(?:src|href)="?(https?://[^"\s>]+)', html)
    assert loaded == [], "the site loads nothing from elsewhere"
