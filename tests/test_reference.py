"""The reference pages agree with the code: every variable, comment, format, option and key, and nothing else."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree

import click
import pytest
from conftest import PROJECT, runner

from clipcheck.cli.main import main
from clipcheck.engine.file import check_file
from clipcheck.formats import FORMATS
from clipcheck.settings.keys import Settings
from clipcheck.settings.table import KEYS, in_pyproject


@pytest.fixture(scope="module")
def reference() -> Iterator[ModuleType]:
    sys.path.insert(0, str(PROJECT / "docs"))
    import reference

    yield reference
    sys.path.remove(str(PROJECT / "docs"))


def test_the_variables_are_those_that_the_code_reads(reference: ModuleType) -> None:
    """Apart from those of torchrun, and of verification, which passes none on."""
    text = "".join(
        path.read_text(encoding="utf-8")
        for path in (PROJECT / "clipcheck").rglob("*.py")
        if path.parent.name not in ("verify", "bench", "runtime", "audit")
    )
    read = set(re.findall(r'os\.environ(?:\.get\(|\[)"(\w+)"', text)) | set(re.findall(r'envvar="(\w+)"', text))
    (colors,) = re.findall(r"for name in \((.*?)\):\n\s+if name in os\.environ", text)
    assert {*read, *re.findall(r'"(\w+)"', colors)} == set(reference.VARIABLES)


@pytest.mark.parametrize("number", range(6))
def test_each_form_of_a_suppression_suppresses(reference: ModuleType, number: int) -> None:
    assert len(reference.SUPPRESSIONS) == 6
    title, _, code = reference.SUPPRESSIONS[number]
    settings = Settings(codes=frozenset({"CLIP002"}))
    assert check_file("a.py", code.encode(), settings).findings == (), title
    without = re.sub(r"#.*", "", code)
    assert [found.code for found in check_file("a.py", without.encode(), settings).findings] == ["CLIP002"]


def test_each_format_has_a_sample_in_that_format(reference: ModuleType) -> None:
    assert list(reference.ABOUT) == list(FORMATS)
    for name in FORMATS:
        language, sample = reference.ABOUT[name][0], reference.sample(name)
        assert "CLIP002" in sample
        assert str(PROJECT) not in sample
        if language == "xml":
            ElementTree.fromstring(sample)
        elif name == "json-lines":
            assert [json.loads(line)["code"] for line in sample.splitlines()] == ["CLIP002"]
        elif language == "json":
            json.loads(sample)


def test_the_page_of_the_command_line_has_every_command_and_option(reference: ModuleType) -> None:
    page = reference.command_line()
    for name, command in main.commands.items():
        part = page.split(f"\n## `{name}`\n")[1].split("\n## ")[0]
        options = [option for option in command.params if isinstance(option, click.Option)]
        for word in [word for option in options for word in (*option.opts, *option.secondary_opts)]:
            assert re.search(rf"[`, ]{re.escape(word)}[`, ]", part), (name, word)


def test_the_page_of_settings_says_what_config_prints(reference: ModuleType) -> None:
    page = reference.settings()
    assert re.findall(r"^## `(.+)`$", page, re.MULTILINE) == list(KEYS)
    for name, key in KEYS.items():
        printed = runner().invoke(main, ["config", name]).stdout
        part = page.split(f"\n## `{name}`\n")[1].split("\n## ")[0]
        assert key.about in printed and key.about in part
        assert in_pyproject(key) in part
        assert key.takes in printed and key.takes in part.replace("`", "")
        assert key.default in printed and key.default in part.replace("`", "")


def test_the_exit_codes_are_those_of_the_command(reference: ModuleType) -> None:
    from clipcheck.cli.check import ABNORMAL, CLEAN, FINDINGS

    assert list(reference.EXIT_CODES) == [CLEAN, FINDINGS, ABNORMAL]


def test_every_page_is_in_the_navigation(reference: ModuleType) -> None:
    nav = (PROJECT / "mkdocs.yml").read_text(encoding="utf-8")
    assert {f"reference/{name}.md" for name in reference.PAGES} == set(re.findall(r"reference/[\w-]+\.md", nav))
    for page in (PROJECT / "docs").rglob("*.md"):
        assert Path(page).relative_to(PROJECT / "docs").as_posix() in nav
