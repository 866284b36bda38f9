"""`clipcheck.run` in process: its option, how each kind of program is started, and what is refused."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import PROJECT

from clipcheck import run as starter


@pytest.mark.parametrize(
    ("arguments", "results", "program"),
    [
        ("", "plain", ""),
        ("train.py --results torch", "plain", "train.py --results torch"),
        ("--results torch train.py --epochs 1", "torch", "train.py --epochs 1"),
        ("--results=torch -m train", "torch", "-m train"),
        ("--results=a=b train.py", "a=b", "train.py"),
        ("--results", "plain", "--results"),
        ("--results torch", "torch", ""),
    ],
)
def test_the_option_comes_before_the_program(arguments: str, results: str, program: str) -> None:
    assert starter._parsed(arguments.split()) == (results, program.split())


@pytest.mark.parametrize(
    ("program", "before", "command"),
    [
        ("train.py --epochs 1", "python -m clipcheck.run", "PYTHON train.py --epochs 1"),
        ("-m train", "python -X dev -W ignore -m clipcheck.run", "PYTHON -X dev -W ignore -m train"),
        ("-c pass", "python run.py", "PYTHON -c pass"),
        ("folder", "python -m clipcheck.run", "PYTHON folder"),
        ("torchrun train.py", "python -X dev -m clipcheck.run", "/bin/torchrun train.py"),
        ("nothing", "python -m clipcheck.run", None),
    ],
)
def test_how_a_program_is_started(
    program: str, before: str, command: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    monkeypatch.setattr(sys, "orig_argv", before.split())
    monkeypatch.setattr(sys, "executable", "PYTHON")
    monkeypatch.setattr(starter.shutil, "which", {"torchrun": "/bin/torchrun", "folder": "/bin/folder"}.get)
    assert starter._command(program.split()) == (None if command is None else command.split())


@pytest.mark.parametrize("platform", ["linux", "win32"])
@pytest.mark.parametrize("path", [None, "theirs"])
def test_the_process_is_replaced_where_it_can_be(
    platform: str, path: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def replaced(file: str, command: list[str], environment: dict[str, str]) -> None:
        asked.append((file, command, environment))
        raise SystemExit

    def run(command: list[str], env: dict[str, str]) -> SimpleNamespace:
        asked.append((command[0], command, env))
        return SimpleNamespace(returncode=7)

    monkeypatch.delenv("PYTHONPATH", raising=False)
    if path is not None:
        monkeypatch.setenv("PYTHONPATH", path)
    flushed: list[int] = []
    monkeypatch.setattr(
        starter, "sys", SimpleNamespace(platform=platform, stdout=SimpleNamespace(flush=lambda: flushed.append(1)))
    )
    monkeypatch.setattr(os, "execve", replaced)
    monkeypatch.setattr(subprocess, "run", run)
    command = ["/bin/python", "train.py"]
    if platform == "win32":
        assert starter._run(command, "torch") == 7
    else:
        with pytest.raises(SystemExit):
            starter._run(command, "torch")
    startup = str(PROJECT / "clipcheck" / "startup")
    added = {"CLIPCHECK_RUNTIME": "torch", "PYTHONPATH": os.pathsep.join([startup, *([path] if path else [])])}
    assert asked == [("/bin/python", command, {**os.environ, **added})]
    assert flushed == [1]


@pytest.mark.parametrize(
    ("arguments", "code", "out", "error"),
    [
        ("-h", 0, starter.USAGE, ""),
        ("--help", 0, starter.USAGE, ""),
        ("--results torch --help", 0, starter.USAGE, ""),
        ("", 2, "", "what to run is missing"),
        ("--results x train.py", 2, "", "invalid value 'x' for --results (expected plain or torch)"),
        ("nothing", 2, "", "nothing: no such file or command"),
    ],
)
def test_what_is_not_started(
    arguments: str, code: int, out: str, error: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(starter.shutil, "which", lambda word: None)
    assert starter.main(arguments.split()) == code
    end = "; `python -m clipcheck.run --help` shows how\n"
    assert capsys.readouterr() == (out, f"clipcheck.run: {error}{end}" if error else "")


@pytest.mark.parametrize(("arguments", "results"), [("train.py", "plain"), ("--results torch train.py", "torch")])
def test_the_exit_code_is_that_of_the_program(arguments: str, results: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(starter, "_run", lambda command, how: (command[-1], how))
    assert starter.main(arguments.split()) == ("train.py", results)
