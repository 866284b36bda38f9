"""One line of a `.gitignore`, and whether it fits a path, in time that grows with the product of their lengths.

Backtracking would take hours for `*a*a*a*a*b`, and files that name such patterns come from strangers. As in git, a line that
makes no sense (`!`, a lone backslash, `[z-a]`) fits nothing.
Format: https://git-scm.com/docs/gitignore#_pattern_format
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, TypeAlias

Fits: TypeAlias = "Callable[[str], object]"

_WILD = re.compile(r"[*?\[\\]")
_CLASSES = {
    "alnum": "a-zA-Z0-9",
    "alpha": "a-zA-Z",
    "blank": " \\t",
    "cntrl": "\\x00-\\x1f\\x7f",
    "digit": "0-9",
    "graph": "\\x21-\\x7e",
    "lower": "a-z",
    "print": "\\x20-\\x7e",
    "punct": "!-/:-@\\[-`{-~",
    "space": " \\t\\n\\r\\f\\v",
    "upper": "A-Z",
    "xdigit": "0-9A-Fa-f",
}
_ANY_NAMES = re.compile(r"\*{2,}")
_NOTHING = "(?!)"


class Pattern(NamedTuple):
    """A pattern as the names on a path that it requires; None among them stands for any number of names (`**`)."""

    names: tuple[Fits | None, ...]
    negated: bool
    folders_only: bool

    def fits(self, path: Sequence[str], is_folder: bool) -> bool:
        """Whether the pattern matches exactly this path, given as its names."""
        if self.folders_only and not is_folder:
            return False
        match self.names:
            case (None, only) if only is not None:
                return bool(only(path[-1]))
        reached = {0}  # how many of the pattern's names the path's names so far may stand for
        for name in path:
            reached = set(self._after(name, self._with_skipped(reached)))
            if not reached:
                return False
        return len(self.names) in reached

    def _with_skipped(self, reached: set[int]) -> set[int]:
        """With the places after a `**` that stands for nothing."""
        skipped = {at + 1 for at in reached if at < len(self.names) - 1 and self.names[at] is None}
        return reached | skipped if skipped <= reached else self._with_skipped(reached | skipped)

    def _after(self, name: str, reached: set[int]) -> Iterator[int]:
        for at in reached:
            if at < len(self.names):
                fits = self.names[at]
                if fits is None:
                    yield at
                    if at == len(self.names) - 1:  # the last one stands for one name at least
                        yield at + 1
                elif fits(name):
                    yield at + 1


def parse(line: str) -> Pattern | None:
    """The pattern on a line; None for a comment, an empty line, and a pattern that git never matches."""
    text = _without_trailing_blanks(line.rstrip("\r\n"))
    if text.startswith("#"):
        return None
    negated = text.startswith("!")
    text = text[1:] if negated else text
    folders_only = text.endswith("/")
    text = text[:-1] if folders_only else text
    if not text or text == "/":
        return None
    anchored = "/" in text
    words = re.split(r"\\?/", text.removeprefix("/"))  # a slash means the same after a backslash
    names = tuple(None if _ANY_NAMES.fullmatch(word) else _name(word) for word in words)
    return Pattern(names if anchored else (None, *names), negated, folders_only)


def _without_trailing_blanks(text: str) -> str:
    """Blanks at the end do not count unless a backslash comes before them."""
    bare = text.rstrip(" ")
    escaped = (len(bare) - len(bare.rstrip("\\"))) % 2
    return bare + " " if escaped and len(bare) < len(text) else bare


def _name(word: str) -> Fits:
    """Whether a name on the path fits a word of the pattern."""
    if not _WILD.search(word):
        return word.__eq__
    if word.startswith("*") and len(word) > 1 and not _WILD.search(word[1:]):
        ending = word[1:]
        return lambda name: name.endswith(ending)
    return re.compile(_expression(word), re.DOTALL).fullmatch


def _expression(word: str) -> str:
    """A regular expression that never backtracks over a `*`: each matches up to the first place where the rest fits."""
    pieces = [""]
    at = 0
    while at < len(word):
        if word[at] == "*":
            pieces.append("")
            at += 1
        else:
            one, at = _character(word, at)
            pieces[-1] += one
    first, *middle, last = pieces if len(pieces) > 1 else (pieces[0], "")
    if len(pieces) == 1:
        return first
    caught = "".join(f"(?=(?P<g{i}>.*?{piece}))(?P=g{i})" for i, piece in enumerate(middle))
    return f"{first}{caught}.*{last}"


def _character(word: str, at: int) -> tuple[str, int]:
    """The expression for the one character that the pattern asks for at a place, and the place after it."""
    match word[at]:
        case "?":
            return ".", at + 1
        case "\\":
            return (re.escape(word[at + 1]), at + 2) if at + 1 < len(word) else (_NOTHING, at + 1)
        case "[":
            return _set(word, at)
    return re.escape(word[at]), at + 1


def _set(word: str, at: int) -> tuple[str, int]:
    """`[a-z]`, `[!a-z]`, `[[:alpha:]]`; one that is not closed fits nothing."""
    start = at
    at += 1
    negated = word[at : at + 1] in ("!", "^") and word[at : at + 1] != ""
    at += negated
    inside = ""
    first = True
    while at < len(word) and (word[at] != "]" or first):
        first = False
        named = re.compile(r"\[:(\w+):\]").match(word, at)
        if named:
            if named[1] not in _CLASSES:
                return _NOTHING, len(word)
            inside += _CLASSES[named[1]]
            at = named.end()
            continue
        low, at = _literal(word, at)
        high = low
        if word[at : at + 1] == "-" and word[at + 1 : at + 2] not in ("", "]"):
            high, at = _literal(word, at + 1)
        if low <= high:
            inside += f"{re.escape(low)}-{re.escape(high)}"
    if at >= len(word):
        return _NOTHING, start + len(word)
    if not inside:
        return ("." if negated else _NOTHING), at + 1
    return f"[{'^' if negated else ''}{inside}]", at + 1


def _literal(word: str, at: int) -> tuple[str, int]:
    escaped = word[at] == "\\" and at + 1 < len(word)
    return word[at + escaped], at + 1 + escaped
