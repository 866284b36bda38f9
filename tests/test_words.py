"""Words that made readers stop, and must not come back: in what users read, in docstrings, in comments and in test names."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import PROJECT

# What is checked, as globs.
ROOMS = (
    "*.md",
    "CITATION.cff",
    "Makefile",
    ".pre-commit-hooks.yaml",
    ".github/**/*.yml",
    "benchmarks/*.py",
    "clipcheck/**/*.py",
    "demo/*.py",
    "docs/**/*.md",
    "docs/*.py",
    "editors/vscode/**/*.js*",
    "editors/vscode/*.md",
    "fixtures/**/*.py",
    "tests/*.py",
)
# Each with what to write instead.
WORDS = {
    r"mend(s|ed|ing)?": "fix",
    r"anew": "again",
    r"heed(s|ed|ing)?": "respect",
    r"spare[sd]?|sparing": "skip",
    r"doomed": "to delete",
    r"goodbye": "shutdown",
    r"let be": "keep",
    r"idle(?! (?:GPU|device))": "unused",
    r"silenc(?:e|es|ed|ing)": "suppress",
    r"sp(?:eaks?|oken) of": "is about, contains",
    r"(?:some|no|any)thing to say": "with findings",
    r"unprovable|prov(?:e|es|ed|able)|proofs?": "verify",
    r"behind": "after",
    r"pass(?:es|ed)? over": "skip",
    r"part(?:ed|ing)": "split",
    r"put together": "accumulate",
    r"turns? (?:them|it) round|goes round": "flips the sign",
    r"longer than `?max_norm": "a norm above max_norm",
    r"(?:more|less) exact|exactness": "accurate",
    r"(?:a )?factor of its own": "coefficient",
    r"stands? (?:in the way|behind)": "it would remove a comment",
    r"waits? for the (?:device|host)|no wait of": "synchronize",
    r"on(?:e|ce) an? (?:core|file|line|finding|process|tensor|row|rule|example|rank|parameter|module|program|step|worker)": "per",
    r"c[ao]mes? to(?! (?:nothing|light))": "the result",
    r"wishes|obeyed": "settings",
    r"goes? to its end|to its end": "uses up",
    r"draw a line under": "create a baseline",
    r"a text": "a string",
    r"is no (?:directive|norm|number|notebook|file|program|string|list|tensor)": "is not a",
    r"colou?r(?<=colour)\w*|behaviour\w*|neighbour\w*|favour\w*|centre|analys(?:e[sd]?|ing)|licence": "American spelling",
    r"(?:recogni|normali|seriali|minimi|maximi|initiali|synchroni|summari|organi)s(?:e[sdr]?|ing|ation)": "American spelling",
}
FORBIDDEN = re.compile("|".join(rf"(?P<w{n}>\b(?:{word})\b)" for n, word in enumerate(WORDS)), re.IGNORECASE)

FILES = sorted(
    path
    for path in {path for room in ROOMS for path in PROJECT.glob(room)} - {Path(__file__).resolve()}
    if "node_modules" not in path.parts and path.name != "package-lock.json"
)
CODE = re.compile(r"^( *)```.*?^\1```|`[^`\n]*`|\]\([^)\s]*\)|https?://\S+", re.MULTILINE | re.DOTALL)


def found(path: Path) -> Iterator[str]:
    for line, text in prose(path):
        for match in FORBIDDEN.finditer(text):
            number = next(n for n in range(len(WORDS)) if match[f"w{n}"])
            before = text[: match.start()].count("\n")
            yield f"{path.relative_to(PROJECT)}:{line + before}: {match[0]!r}, write: {[*WORDS.values()][number]}"


def prose(path: Path) -> Iterator[tuple[int, str]]:
    """The texts that people read in a file, each with its line: of Python, comments, strings and names of tests."""
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".py":
        yield 1, CODE.sub(lambda code: "\n" * code[0].count("\n"), text)
        return
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], CODE.sub("", token.string)
    for node in ast.walk(ast.parse(text)):
        match node:
            case ast.Constant(value=str(value), lineno=line) if " " in value:
                yield line, CODE.sub(lambda code: "\n" * code[0].count("\n"), value)
            case ast.FunctionDef(name=name, lineno=line) if name.startswith("test_"):
                yield line, name.replace("_", " ")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(PROJECT).as_posix())
def test_the_words_do_not_come_back(path: Path) -> None:
    assert list(found(path)) == []


@pytest.mark.parametrize("room", ROOMS)
def test_every_room_exists(room: str) -> None:
    assert any(PROJECT.glob(room))


@pytest.mark.parametrize(
    ("line", "seen"),
    [
        ("# Mends what is anew idle", ["Mends", "anew", "idle"]),
        ("x = 'proved on 3 cases'", ["proved"]),
        ("def test_a_comment_silences_it(): ...", ["silences"]),
        ('"""The colour behind it."""', ["colour", "behind"]),
        ("# from an idle GPU, see `prove`, https://example.org/proof", []),
        ("prove = 'idle'", []),
        ("# approved, improved, recommended, department, departed", []),
    ],
)
def test_the_search_finds_what_it_is_for(
    line: str, seen: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(globals(), "PROJECT", tmp_path)
    (tmp_path / "a.py").write_text(line + "\n", encoding="utf-8")
    words = [re.search(r"'(.*)', write", one) for one in found(tmp_path / "a.py")]
    assert [word[1] for word in words if word] == seen
