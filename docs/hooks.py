"""The pages of the site that are made from code: a page per rule, their table, the reference, and the project's own files.

A hook of mkdocs. A rule's page is its docstring, its fixtures, and what running them on torch measured; `make docs`
leaves the results of that run in build/verified.json.
"""

from __future__ import annotations

import html
import json
import platform
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from clipcheck import examples as fixtures
from clipcheck import pages
from clipcheck.catalogue import RULES
from clipcheck.documents.read import read
from clipcheck.engine.file import check_file
from clipcheck.rule import Rule, Tier
from clipcheck.rules import page_of
from clipcheck.settings.keys import Settings

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "docs"))
import reference  # noqa: E402

VERIFIED = ROOT / "build" / "verified.json"
# Where the README has its images from, so that they are shown on a package index too.
IMAGES = "https://raw.githubusercontent.com/clipcheck/clipcheck/main/docs/images/"
FAMILIES = {
    "0": ("Norms and names", "How a gradient norm is computed, and which function clips."),
    "1": ("A clip that does nothing, or the wrong thing", "Its place in the training step, and what is passed to it."),
    "2": ("Arguments", "Wrong or misleading `max_norm`, norm types and keywords."),
    "3": ("Mixed precision", "Scaled gradients, and when they are unscaled."),
    "4": ("Frameworks and sharding", "Lightning, Accelerate, DeepSpeed, FSDP."),
    "5": ("The returned norm", "What a clip returns, and how the code uses it."),
}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """The rules' pages, below Rules, by code and name."""
    families = [
        {title: [{f"{rule.code} {rule.name}": f"rules/{rule.name}.md"} for rule in rules]}
        for title, _, rules in families_of_rules()
    ]
    assert config.nav is not None
    config.nav = [{"Rules": ["rules/index.md", *families]} if "Rules" in entry else entry for entry in config.nav]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    verified = measured()
    for rule in RULES.values():
        files.append(File.generated(config, f"rules/{rule.name}.md", content=rule_page(rule, verified)))
    files.append(File.generated(config, "rules/index.md", content=rules_index()))
    files.append(File.generated(config, "changelog.md", content=(ROOT / "CHANGELOG.md").read_text(encoding="utf-8")))
    for path, text in reference.pages():
        files.append(File.generated(config, path, content=text))
    contributing = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    files.append(File.generated(config, "contributing.md", content=contributing))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """The home page begins as the README does, up to its first heading."""
    opening = (ROOT / "README.md").read_text(encoding="utf-8").split("\n", 1)[1].split("\n## ", 1)[0]
    return markdown.replace("<!-- opening -->", opening.replace(IMAGES, "images/"))


# --- rules --------------------------------------------------------------------------------------------------------------


def rules_index() -> str:
    parts = [
        "# Rules\n\nEach page says what the rule finds, why that is bad and what its fix does, and shows its examples "
        "with the results of running them on torch. In a terminal, `clipcheck rule CODE` prints the page.\n\n*Default* "
        "rules run unless they are ignored; *opt-in* rules run where they are selected. A *safe* fix keeps training as it "
        "is; an *unsafe* one changes it, because the training itself is wrong, and needs `--unsafe-fixes`."
    ]
    parts += [f"## {title}\n\n{about}\n\n{table(rules)}" for title, about, rules in families_of_rules()]
    return "\n\n".join(parts)


def families_of_rules() -> Iterator[tuple[str, str, list[Rule]]]:
    """Title, sentence and rules of each family that has rules, by code."""
    for digit, (title, about) in FAMILIES.items():
        rules = [RULES[code] for code in sorted(RULES) if code[4] == digit]
        if rules:
            yield title, about, rules


def table(rules: list[Rule]) -> str:
    lines = ["| code | rule | runs | fix |", "| --- | --- | --- | --- |"]
    for rule in rules:
        about = f"[`{rule.name}`]({rule.name}.md)<br>{pages.summary(rule).replace('|', chr(92) + '|')}"
        lines.append(f"| {rule.code} | {about} | {rule.tier.value} | {pages.best_fix(rule) or 'none'} |")
    return '<div class="rules" markdown>\n\n' + "\n".join(lines) + "\n\n</div>"


def rule_page(rule: Rule, verified: dict[str, dict[str, Any]]) -> str:
    head = f"---\ntitle: {rule.code} {rule.name}\n---\n\n# {rule.code} {rule.name}\n\n{pages.facts(rule)}"
    first, *more = examples(rule, verified)
    if more:
        more.insert(0, "## More examples")
    return "\n\n".join([head, first, linked(page_of(rule)), *opt_in(rule), *more, *silent(rule)])


def opt_in(rule: Rule) -> Iterator[str]:
    """How to run a rule that does not run by default."""
    if rule.tier is Tier.OPT_IN:
        yield (
            "## How to enable it\n\nThis rule does not run by default. Select it on the command line with "
            f"`--extend-select {rule.name}`, or in the settings:\n\n"
            f'```toml\n[tool.clipcheck]\nextend-select = ["{rule.name}"]\n```'
        )


def examples(rule: Rule, verified: dict[str, dict[str, Any]]) -> Iterator[str]:
    found = list(fixtures.examples(rule))
    for number, example in enumerate(found, 1):
        if example.after:
            block = f"```diff\n{pages.readable(pages.diff_of(example)).strip(chr(10))}\n```\n\n"
            block += verification(rule, example, verified)
        else:
            block = marked(rule, example.before.read_text(encoding="utf-8").strip("\n"))
            block += "\n\nThe marked lines are reported; there is no automatic fix."
        if number == 1:
            yield block
        else:
            yield f'??? example "{title(rule, example)}"\n\n' + indented(block)


def title(rule: Rule, example: fixtures.Example) -> str:
    """The line of the example's first finding, and what kind of document it is in, if not a program."""
    path = example.before
    findings = check_file(path.name, path.read_bytes(), Settings(codes=frozenset({rule.code}))).findings
    doc = read(path.name, path.read_bytes())
    place = findings[0].place
    line = doc.lines(place.cell, findings[0].program).get(place.line, "").split("  # expect:")[0].strip()
    kind = {".ipynb": "In a notebook: ", ".md": "In Markdown: "}.get(path.suffix, "")
    without = "" if example.after else " (no automatic fix)"
    return f"{kind}<code>{html.escape(line)}</code>{without}"


def marked(rule: Rule, text: str) -> str:
    """A program with the lines on which the rule has a finding marked."""
    head = len(text.splitlines()) - len(pages.readable(text).splitlines())
    found = [str(n - head) for n, line in enumerate(text.splitlines(), 1) if "# expect:" in line and rule.code in line]
    return f'```python hl_lines="{" ".join(found)}"\n{pages.readable(text)}\n```'


def silent(rule: Rule) -> Iterator[str]:
    clean = fixtures.clean(rule)
    if clean:
        looks = "\n\n".join(f"```python\n{path.read_text(encoding='utf-8').strip()}\n```" for path in clean)
        yield f'## What is not reported\n\n??? example "Similar code that is correct"\n\n{indented(looks)}'


def indented(text: str) -> str:
    return re.sub("^(?=.)", "    ", text, flags=re.MULTILINE)


def linked(text: str) -> str:
    """Bare addresses and issues as links."""
    text = re.sub(r"(?<![(<])(https?://[^\s)>,]+[^\s)>,.])", r"<\1>", text)
    return re.sub(r"(?<![\w/])([\w.-]+/[\w.-]+)#(\d+)\b", r"[\g<0>](https://github.com/\1/issues/\2)", text)


# --- what was measured --------------------------------------------------------------------------------------------------


def measured() -> dict[str, dict[str, Any]]:
    """The results of the last `clipcheck verify`, by example; none if it was not run."""
    if not VERIFIED.exists():
        return {}
    return {row["fixture"]: row for row in json.loads(VERIFIED.read_text(encoding="utf-8"))}


def verification(rule: Rule, example: fixtures.Example, verified: dict[str, dict[str, Any]]) -> str:
    assert example.after is not None
    row = verified.get(f"{rule.code}/{example.after.stem}")
    if row is None:
        return "Not run for this site."
    claim = f"Claim: [{row['claim']}](../guides/verification.md#{row['claim']}){meaning(row['claim'])}"
    if row["verdict"] != "holds":
        return f"{claim}. {row['verdict'].replace('-', ' ').capitalize()}: {row['reason']}."
    parts = [f"{claim}, holds on torch {torch_version()}, Python {platform.python_version()}"]
    if row["claim"] == "same" and row["difference"] is not None:
        parts.append(
            f"largest relative difference {power(row['difference'])}" if row["difference"] else "bitwise equal"
        )
    if row["nearer"] in ("after", "before"):
        parts.append(f"closer to a float64 run: {row['nearer']}")
    return "; ".join(parts) + "." + "".join(f"\n\n- {note}" for note in row["notes"])


def meaning(claim: str) -> str:
    """What a claim says, as the guide puts it; nothing for `same`, whose name says it."""
    guide = (ROOT / "docs" / "guides" / "verification.md").read_text(encoding="utf-8")
    found = re.search(rf"^### {claim}\n\n(.+?)\.\n", guide, re.MULTILINE | re.DOTALL)
    return f" ({found[1][0].lower()}{found[1][1:]})" if found and claim != "same" else ""


def power(number: float) -> str:
    """1.2e-07 as people write it."""
    digits, exponent = f"{number:.1e}".split("e")
    return f"{digits}×10<sup>{int(exponent)}</sup>".replace("-", "−")


def torch_version() -> str:
    from importlib.metadata import version

    return version("torch").partition("+")[0]
