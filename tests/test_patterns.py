"""Patterns mean the same as in git, and no pattern is slow."""

from __future__ import annotations

import random
import re
import shutil
import string
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path

import pytest

from clipcheck.settings.globs import Globs
from clipcheck.settings.patterns import parse

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


# The characters of each class of POSIX, as far as a file's name on any system may have them.
CLASSES = {
    "alnum": string.ascii_letters + string.digits,
    "alpha": string.ascii_letters,
    "blank": " \t",
    "cntrl": "".join(map(chr, range(1, 32))) + "\x7f",
    "digit": string.digits,
    "graph": string.ascii_letters + string.digits + string.punctuation,
    "lower": string.ascii_lowercase,
    "print": string.ascii_letters + string.digits + string.punctuation + " ",
    "punct": string.punctuation,
    "space": string.whitespace,
    "upper": string.ascii_uppercase,
    "xdigit": string.hexdigits,
}
ASCII = [chr(number) for number in range(1, 128) if chr(number) != "/"]


def fitting(line: str, names: Iterable[str] = ASCII) -> set[str]:
    """The names of one file that a line fits."""
    pattern = parse(line)
    return set() if pattern is None else {name for name in names if pattern.fits([name], False)}


@pytest.mark.parametrize("name", CLASSES)
def test_a_class_of_characters(name: str) -> None:
    within = set(CLASSES[name]) - {"/"}
    assert fitting(f"[[:{name}:]]") == within
    assert fitting(f"[![:{name}:]]") == set(ASCII) - within
    assert fitting(f"[[:{name}:]é]", "é") == {"é"}
    assert fitting(f"[[:{name}:]é]") == within


@pytest.mark.parametrize(
    ("line", "fits"),
    [
        ("[[:nothing:]]", ""),
        ("[[:nothing:]a]", ""),
        ("[[:Alpha:]]", ""),
        ("[a-c]", "abc"),
        ("[a-]", "a-"),
        ("[-a]", "a-"),
        ("[]a]", "]a"),
        ("[!]a]", "".join({*ASCII} - {*"]a"})),
        ("[^ -~]", "".join(c for c in ASCII if not " " <= c <= "~")),
        ("[!b-a]", "".join(ASCII)),
        ("[b-ax]", "x"),
        ("[a-a]", "a"),
        ("[\\]]", "]"),
        ("[\\a-\\c]", "abc"),
        ("[a\\-c]", "a-c"),
        ("[+--]", "+,-"),
        ("[.]", "."),
        ("[*?]", "*?"),
        ("[!", ""),
        ("[", ""),
        ("[]", ""),
        ("[a", ""),
        ("[\\", ""),
        ("[a-", ""),
        ("?", "".join(ASCII)),
        ("*", "".join(ASCII)),
        ("**", "".join(ASCII)),
        ("***", "".join(ASCII)),
        ("\\*", "*"),
        ("\\\\", "\\"),
        ("\\?", "?"),
        ("\\a", "a"),
        (".", "."),
        ("a\\", ""),
        ("^", "^"),
    ],
)
def test_a_pattern_of_one_character(line: str, fits: str) -> None:
    assert fitting(line) == set(fits)


@pytest.mark.parametrize(
    ("line", "names"),
    [
        ("*b", "b ab abb a-b"),
        ("a*", "a ab abb a-b aa"),
        ("a*b", "ab abb a-b"),
        ("*b*", "b ab abb ba a-b"),
        ("*a*b*", "ab abb a-b"),
        ("*a*a*", "aa"),
        ("a*a", "aa"),
        ("?*", "b ab abb ba a a-b aa"),
        ("?*?", "ab abb ba a-b aa"),
        ("*?b", "ab abb a-b"),
        ("*[-]*", "a-b"),
        ("**b", "b ab abb a-b"),
        ("*.b", ""),
    ],
)
def test_a_pattern_with_stars(line: str, names: str) -> None:
    known = "b ab abb ba a a-b aa".split()
    assert fitting(line, known) == set(names.split())


def test_a_star_fits_any_character_of_a_name() -> None:
    assert fitting("a*c*", ["a\nb\nc\n"]) == {"a\nb\nc\n"}
    assert fitting("a?c", ["a\nc"]) == {"a\nc"}


@pytest.mark.parametrize(
    ("line", "paths"),
    [
        ("**", "a b a/b a/b/c x/a/b"),
        ("a", "a"),
        ("/a", "a"),
        ("a/b", "a/b"),
        ("/a/b", "a/b"),
        ("**/b", "b a/b x/a/b"),
        ("a/**", "a/b a/b/c"),
        ("**/a/**", "a/b a/b/c x/a/b"),
        ("a/**/b", "a/b"),
        ("x/**/b", "x/a/b"),
        ("**/**/b", "b a/b x/a/b"),
        ("*/b", "a/b"),
        ("*/*/*", "a/b/c x/a/b"),
        ("a\\/b", "a/b"),
        ("a//b", ""),
    ],
)
def test_a_pattern_of_several_names(line: str, paths: str) -> None:
    pattern = parse(line)
    assert pattern is not None
    known = "a b a/b a/b/c x/a/b".split()
    # a name alone fits at any depth
    expected = [path for path in known if path in paths.split() or (line == "a" and path.split("/")[-1] == "a")]
    assert [path for path in known if pattern.fits(path.split("/"), False)] == expected


@pytest.mark.parametrize(
    ("line", "negated", "folders_only"),
    [("a", False, False), ("!a", True, False), ("a/", False, True), ("!a/", True, True), ("\\!a", False, False)],
)
def test_what_a_line_says_apart_from_its_names(line: str, negated: bool, folders_only: bool) -> None:
    pattern = parse(line)
    assert pattern is not None and (pattern.negated, pattern.folders_only) == (negated, folders_only)
    path = ["!a" if line.startswith("\\") else "a"]
    assert pattern.fits(path, True) and pattern.fits(path, False) is not folders_only


@pytest.mark.parametrize("line", ["", "# a", "!", "/", "!/", "   ", "\n", "\r\n"])
def test_lines_without_a_pattern(line: str) -> None:
    assert parse(line) is None


@pytest.mark.parametrize(
    ("line", "name"),
    [("a  ", "a"), ("a\\ ", "a "), ("a\\  ", "a "), ("a\\\\ ", "a\\"), ("a\r\n", "a"), ("  a", "  a"), ("a\t", "a\t")],
)
def test_blanks_at_the_end_of_a_line(line: str, name: str) -> None:
    assert fitting(line, ["a", "a ", "a\\", "  a", "a\t"]) == {name}


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
