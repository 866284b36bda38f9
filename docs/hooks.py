"""The pages of the site that are not written but made: a page a rule, their table, and the files of the project's root.

A hook of mkdocs. A rule's page is its docstring, its fixtures, and what the run of their proof measured; `make docs`
leaves that run's results in build/verified.json.
"""

from __future__ import annotations

import json
import platform
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from clipcheck import examples as fixtures
from clipcheck import pages
from clipcheck.catalogue import RULES
from clipcheck.rule import Rule
from clipcheck.rules import page_of

ROOT = Path(__file__).resolve().parent.parent
VERIFIED = ROOT / "build" / "verified.json"
FIXES = {"safe": "safe", "unsafe": "unsafe", "–": "none"}
FAMILIES = {
    "0": ("Norms and names", "How a gradient norm is computed, and under which name the clip is called."),
    "1": ("The clip does nothing, or the wrong thing", "Its place in the training step, and what it is given."),
    "2": ("Arguments", "Limits, norm types and keywords that do not mean what they say."),
    "3": ("Mixed precision", "Scaled gradients, and when they are unscaled."),
    "4": ("Frameworks and sharding", "Lightning, Accelerate, DeepSpeed, FSDP."),
    "5": ("The returned norm", "What the clip gives back, and what is done with it."),
}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """The rules' pages, below Rules."""
    families = [{title: [f"rules/{rule.name}.md" for rule in rules]} for title, _, rules in families_of_rules()]
    assert config.nav is not None
    config.nav = [{"Rules": ["rules/index.md", *families]} if "Rules" in entry else entry for entry in config.nav]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    verified = measured()
    for rule in RULES.values():
        files.append(File.generated(config, f"rules/{rule.name}.md", content=rule_page(rule, verified)))
    files.append(File.generated(config, "rules/index.md", content=rules_index()))
    files.append(File.generated(config, "changelog.md", content=(ROOT / "CHANGELOG.md").read_text(encoding="utf-8")))
    contributing = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    files.append(File.generated(config, "contributing.md", content=contributing))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """The home page begins as the README does, up to its first heading."""
    opening = (ROOT / "README.md").read_text(encoding="utf-8").split("\n", 1)[1].split("\n## ", 1)[0]
    return markdown.replace("<!-- opening -->", opening.replace("docs/images/", "images/"))


# --- rules --------------------------------------------------------------------------------------------------------------


def rules_index() -> str:
    parts = [
        "# Rules\n\nEach page says what the rule finds, why that is bad, how far its fix may be trusted, and shows its "
        "examples with what running them on torch measured. In a terminal, `clipcheck rule CODE` gives the same page."
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
        about = f"[`{rule.name}`]({rule.name}.md)<br>{pages.summary(rule)}"
        lines.append(f"| {rule.code} | {about} | {rule.tier.value} | {pages.best_fix(rule)} |")
    return '<div class="rules" markdown>\n\n' + "\n".join(lines) + "\n\n</div>"


def rule_page(rule: Rule, verified: dict[str, dict[str, Any]]) -> str:
    head = (
        f"---\ntitle: {rule.name}\n---\n\n# {rule.name} <small>{rule.code}</small>\n\n"
        f"Runs {'by default' if rule.tier.value == 'default' else 'only where it is selected'} · severity "
        f"{rule.severity.value} · fix: {FIXES[pages.best_fix(rule)]}"
    )
    first, *more = examples(rule, verified)
    if more:
        more.insert(0, "## More examples")
    return "\n\n".join([head, first, linked(page_of(rule)), *more, *silent(rule)])


def examples(rule: Rule, verified: dict[str, dict[str, Any]]) -> Iterator[str]:
    found = list(fixtures.examples(rule))
    for number, example in enumerate(found, 1):
        if example.after:
            block = f"```diff\n{pages.readable(pages.diff_of(example)).strip(chr(10))}\n```\n\n"
            block += proof(rule, example, verified)
        else:
            block = marked(rule, example.before.read_text(encoding="utf-8").strip("\n"))
            block += "\n\nThe marked lines are found, and left to you: there is no fix for them."
        if number == 1:
            yield block
        else:
            claim = re.search(r"^# claim: (\w+)", example.before.read_text(encoding="utf-8"))
            what = "no fix" if not example.after else f"claim: {claim[1]}" if claim else "not a program"
            yield f'??? example "Example {number} of {len(found)} · {what}"\n\n' + indented(block)


def marked(rule: Rule, text: str) -> str:
    """A program with the lines on which the rule has a finding marked."""
    head = len(text.splitlines()) - len(pages.readable(text).splitlines())
    found = [str(n - head) for n, line in enumerate(text.splitlines(), 1) if "# expect:" in line and rule.code in line]
    return f'```python hl_lines="{" ".join(found)}"\n{pages.readable(text)}\n```'


def silent(rule: Rule) -> Iterator[str]:
    clean = fixtures.clean(rule)
    if clean:
        looks = "\n\n".join(f"```python\n{path.read_text(encoding='utf-8').strip()}\n```" for path in clean)
        yield f'## What stays silent\n\n??? example "Look-alikes that are right as they are"\n\n{indented(looks)}'


def indented(text: str) -> str:
    return re.sub("^(?=.)", "    ", text, flags=re.MULTILINE)


def linked(text: str) -> str:
    """Bare addresses and issues as links."""
    text = re.sub(r"(?<![(<])(https?://[^\s)>,]+[^\s)>,.])", r"<\1>", text)
    return re.sub(r"(?<![\w/])([\w.-]+/[\w.-]+)#(\d+)\b", r"[\g<0>](https://github.com/\1/issues/\2)", text)


# --- what was measured --------------------------------------------------------------------------------------------------


def measured() -> dict[str, dict[str, Any]]:
    """The rows of the last run of the proof, by example; none where it was not run."""
    if not VERIFIED.exists():
        return {}
    return {row["fixture"]: row for row in json.loads(VERIFIED.read_text(encoding="utf-8"))}


def proof(rule: Rule, example: fixtures.Example, verified: dict[str, dict[str, Any]]) -> str:
    assert example.after is not None
    row = verified.get(f"{rule.code}/{example.after.stem}")
    if row is None:
        return "Not run for this site."
    claim = f"Claim: [{row['claim']}](../guides/proof.md#{row['claim']}){meaning(row['claim'])}"
    if row["verdict"] != "holds":
        return f"{claim}. {row['verdict'].replace('-', ' ').capitalize()}: {row['reason']}."
    parts = [f"{claim}, holds on torch {torch_version()}, Python {platform.python_version()}"]
    if row["claim"] == "same" and row["difference"] is not None:
        parts.append(
            f"largest relative difference {power(row['difference'])}" if row["difference"] else "bitwise equal"
        )
    if row["nearer"] in ("after", "before"):
        parts.append(f"nearer to a float64 run: {row['nearer']}")
    return "; ".join(parts) + "." + "".join(f"\n\n- {note}" for note in row["notes"])


def meaning(claim: str) -> str:
    """What a claim says, in the words of the guide; nothing for `same`, whose name says it."""
    guide = (ROOT / "docs" / "guides" / "proof.md").read_text(encoding="utf-8")
    found = re.search(rf"^### {claim}\n\n(.+?)\.\n", guide, re.MULTILINE | re.DOTALL)
    return f" ({found[1][0].lower()}{found[1][1:]})" if found and claim != "same" else ""


def power(number: float) -> str:
    """1.2e-07 as people write it."""
    digits, exponent = f"{number:.1e}".split("e")
    return f"{digits}×10<sup>{int(exponent)}</sup>".replace("-", "−")


def torch_version() -> str:
    from importlib.metadata import version

    return version("torch").partition("+")[0]
