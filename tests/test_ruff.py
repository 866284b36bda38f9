"""Compared with ruff: the table of what its command line has and ours lacks is complete; ruff ignores our comments."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import PROJECT

from clipcheck.cli.main import main

pytest.importorskip("ruff")
RUFF = [sys.executable, "-m", "ruff"]
# Options of every command of ruff, which are options of `check` here.
GLOBAL = {"--help", "--verbose", "--quiet", "--silent", "--config", "--isolated", "--color"}


def said_by_ruff(*words: str) -> str:
    return subprocess.run([*RUFF, *words], capture_output=True, text=True, check=True).stdout


def commands_of_ruff() -> set[str]:
    return set(re.findall(r"^  (\w+) ", said_by_ruff("help").split("Commands:")[1].split("Options:")[0], re.MULTILINE))


def options_of_ruff(command: str) -> set[str]:
    text = said_by_ruff(command, "--help")
    return set(re.findall(r"^ +(?:-\w, )?(--[\w-]+)", text, re.MULTILINE)) | set(re.findall(r"`(--no-[\w-]+)`", text))


def ours(command: str) -> set[str]:
    return {word for option in main.commands[command].params for word in (*option.opts, *option.secondary_opts)}


def test_the_table_lists_what_ruff_has_and_clipcheck_lacks() -> None:
    page = (PROJECT / "docs" / "comparison.md").read_text(encoding="utf-8")
    (version,) = re.findall(r"commands and options of ruff (\d+\.\d+) that clipcheck lacks", page)
    if f" {version}." not in said_by_ruff("--version"):
        pytest.skip(f"the table is that of ruff {version}")
    table = page.split("that clipcheck lacks:")[1].split("\n\n")[1]
    argued = {
        word for row in re.findall(r"^\| (`.+?`) \|", table, re.MULTILINE) for word in re.findall(r"`(.+?)`", row)
    }
    commands = commands_of_ruff()
    assert {"check", "format"} <= commands, "the list was read"
    lacks = {f"ruff {command}" for command in commands - set(main.commands)}
    lacks |= options_of_ruff("check") - ours("check") - GLOBAL
    for command in commands & set(main.commands) - {"check", "help"}:
        known = ours(command) | lacks | GLOBAL
        lacks |= {f"ruff {command} {option}" for option in options_of_ruff(command) - known}
    assert argued == lacks
    assert ours("check") >= GLOBAL - {"--help"}


def test_ruff_leaves_our_codes_alone_with_the_setting_of_the_guide(tmp_path: Path) -> None:
    guide = (PROJECT / "docs/guides/ci.md").read_text(encoding="utf-8")
    (setting,) = re.findall(r"^```toml\n(.*?external.*?)^```", guide, re.MULTILINE | re.DOTALL)
    line = "torch.nn.utils.clip_grad_norm([], 1.0)  # noqa: CLIP002\n"
    left = {}
    for case, settings in (("with", setting), ("without", "[tool.ruff.lint]\n")):
        (tmp_path / case).mkdir()
        (tmp_path / case / "pyproject.toml").write_text(settings)
        train = tmp_path / case / "train.py"
        train.write_text(f"import torch\n\n{line}")
        command = [*RUFF, "check", "--fix", "--no-cache", "--preview", "--select", "RUF100,RUF102"]
        subprocess.run([*command, str(train)], cwd=tmp_path, capture_output=True, check=True)
        left[case] = line in train.read_text()
    assert left == {"with": True, "without": False}
