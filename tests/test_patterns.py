"""Patterns mean the same as in git, and no pattern is slow."""

from __future__ import annotations

import random
import re
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from clipcheck.settings.globs import Globs

PATHS = [
    *("a.py", "b.py", "ab.py", "a b.py", "a[1].py", "!a.py", "#a.py", "aXb.py", ".hidden.py", "a\\b.py"),
    *("a/a.py", "a/b.py", "a/b/a.py", "a/b/c/a.py", "b/a.py", "b/a/b.py", "ab/a.py", "build/x.py", "x/build/y.py"),
]
PIECES = [
    *("a", "b", "c", "ab", ".py", "*", "**", "?", "/", "/", "/", "[ab]", "[!ab]", "[^a]", "[a-c]", "[z-a]", "[", "]"),
    *("\\", "\\*", "!", "#", " ", "build", "[[:alpha:]]", "[[:digit:]b]", "[]a]", "[a-]", "**/", "/**", "*.py", "\\ "),
]


def taken(lines: list[str], path: str) -> bool:
    return Globs(tuple(lines), "/project").match(f"/project/{path}")


@pytest.mark.parametrize(
    ("line", "path"),
    [
        ("a.py", "b.py"),
        ("a.py", "xa.py"),
        ("a", "ab"),
        ("/a.py", "sub/a.py"),
        ("sub/a.py", "deep/sub/a.py"),
        ("a/", "a"),  # a folder, and `a` is a file
        ("*.py", "a.pyi"),
        ("a*b", "a/b"),  # a star does not match a slash
        ("a?b", "a/b"),
        ("a[!b]c", "a/c"),
        ("a/**", "a"),
        ("# a.py", "# a.py"),
        ("[b-a]", "a"),
        ("[a", "[a"),
        ("[a", "a"),
        ("a\\", "a\\"),
        ("!", "!"),
        ("/", "a"),
        ("", "a"),
        ("a", ""),
    ],
)
def test_patterns_that_do_not_match(line: str, path: str) -> None:
    assert not taken([line], path)


@pytest.mark.parametrize(
    ("line", "path"),
    [
        ("a.py", "deep/er/a.py"),
        ("a", "a/inside.py"),
        ("/a.py", "a.py"),
        ("a/", "a/x.py"),
        ("*.py", "deep/a.py"),
        ("**/a.py", "a.py"),
        ("a/**/b.py", "a/b.py"),
        ("a/**/b.py", "a/x/y/b.py"),
        ("a/**", "a/x/y.py"),
        ("a[!b]c", "axc"),
        ("[]]", "]"),
        ("\\#a", "#a"),
        ("\\!a", "!a"),
        ("a\\ ", "a "),
        ("a  ", "a"),
        ("a*b*c", "a.b.b.c"),
        ("*a*b", "xaxab"),
    ],
)
def test_patterns_that_match(line: str, path: str) -> None:
    assert taken([line], path)


def test_the_last_matching_line_decides() -> None:
    assert taken(["*.py", "!a.py", "a.py"], "a.py")
    assert not taken(["*.py", "!a.py"], "a.py")
    assert taken(["gen/", "!gen/a.py"], "gen/a.py")  # nothing in an excluded folder can be included again


@pytest.mark.parametrize(
    "line", ["*a" * 40 + "b", "a" + "*" * 60 + "b", "**/" * 60 + "b", "[a-z]*" * 40 + "0", "?*" * 60]
)
def test_no_pattern_is_slow(line: str) -> None:
    started = time.process_time()
    taken([line], "/".join(["a" * 200] * 20))
    assert time.process_time() - started < 0.5


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_patterns_agree_with_git(tmp_path: Path) -> None:
    """Compares with `git check-ignore` on 300 files of random lines; seeded, so that failures are reproducible.

    Two cases are left out: a slash between brackets, which anchors the pattern in git, and non-ASCII letters, which git
    matches byte by byte.
    """
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    for path in PATHS:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text("")
    chance = random.Random(7)
    differ = []
    for _ in range(300):
        lines = ["".join(chance.choices(PIECES, k=chance.randint(1, 5))) for _ in range(chance.randint(1, 3))]
        if any(re.search(r"\[.?[^\]]*/", line) for line in lines):
            continue
        (tmp_path / ".gitignore").write_text("\n".join(lines) + "\n", encoding="utf-8")
        asked = "\0".join(PATHS) + "\0"
        command = [
            "git",
            "-C",
            str(tmp_path),
            "-c",
            "core.excludesFile=",
            "check-ignore",
            "--no-index",
            "-z",
            "--stdin",
        ]
        done = subprocess.run(command, input=asked, capture_output=True, text=True, encoding="utf-8")
        git = set(done.stdout.split("\0")) - {""}
        ours = {path for path in PATHS if Globs(tuple(lines), str(tmp_path)).match(str(tmp_path / path))}
        if git != ours:
            differ.append((lines, sorted(git - ours), sorted(ours - git)))
    assert not differ, "\n".join(map(str, differ))
