"""Comments that suppress findings: how they are written, what they suppress, and which of them are unused.

Forms: `# clipcheck: ignore[CLIP001]` for its line or, on a separate line, for the next one; `# clipcheck: disable[…]`
to `# clipcheck: enable[…]`; `# clipcheck: file-ignore[…]`; `# noqa: CLIP001` as ruff reads it; `# clipcheck: noqa`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from clipcheck.catalogue import RULES
from clipcheck.documents.program import LINE_END
from clipcheck.rule import Edit, Fix, Safety

if TYPE_CHECKING:
    from clipcheck.python.source import Source

VERBS = ("ignore", "disable", "enable", "file-ignore", "noqa")

_OWN = re.compile(r"#\s*clipcheck:\s*(?P<verb>[\w-]*)(?P<rest>[^#]*)", re.IGNORECASE)
_NOQA = re.compile(r"#\s*noqa(?![\w-])(?P<rest>[^#]*)", re.IGNORECASE)
_IN_BRACKETS = re.compile(r"\s*\[([^\]]*)\]")
_AFTER_COLON = re.compile(r"\s*:((?:[\s,]*[A-Za-z]+\d+\b)+)")
# Also a code without brackets: read as a comment, it would suppress every rule.
_UNCLOSED = re.compile(r"\s*[\[:(]|\w|\s+CLIP\d", re.IGNORECASE)
_CODE = re.compile(r"[A-Za-z]+\d+")
_SEPARATOR = re.compile(r"[\s,]*")
_LISTED = re.compile(r"[\w-]+")
_BY_NAME = {rule.name: code for code, rule in RULES.items()}


# A comment that names one of our rules, used or not.
_NOQA_BYTES = re.compile(rb"noqa\b[^\r\n]*clip\d", re.IGNORECASE)


class Naming(NamedTuple):
    """A rule that a directive names, and where."""

    code: str
    start: int
    end: int


class Directive(NamedTuple):
    """One directive in a comment; `names` is None if it means all rules. Offsets are relative to the program."""

    verb: str
    names: tuple[Naming, ...] | None
    start: int
    end: int
    line: int
    alone: bool  # on a separate line; not asked of a noqa, which means its own line in any case
    foreign: bool = False  # a noqa, which other tools read as well
    others: bool = False  # it names rules of other tools

    def means(self, code: str) -> bool:
        return self.names is None or any(name.code == code for name in self.names)


class Standing(NamedTuple):
    """The place of a finding in its program: its lines, those of its logical line, and its offset."""

    start: int
    first: int
    last: int
    logical_first: int
    logical_last: int


class Sifted(NamedTuple):
    """The findings that remain, the suppressed ones, the unused directives and the malformed ones."""

    kept: tuple[int, ...]
    suppressed: tuple[int, ...]
    unused: tuple[tuple[Directive, Naming | None], ...]
    malformed: tuple[tuple[int, str], ...]


def names_us(data: bytes) -> bool:
    """Whether a file names clipcheck or its rules; plain searches are fifty times as fast, and few files match."""
    return b"clipcheck:" in data or ((b"noqa" in data or b"NOQA" in data) and _NOQA_BYTES.search(data) is not None)


def standing(source: Source, start: int, end: int, logical: tuple[int, int]) -> Standing:
    return Standing(start, source.line_at(start), source.line_at(max(end - 1, start)), *logical)


def sift(source: Source, found: Sequence[tuple[str, Standing]], judged: frozenset[str], whole: bool) -> Sifted:
    """Splits the findings, given as code and place, into those that remain and those that a directive suppresses.

    A directive is unused if a rule that ran (`judged`) finds nothing there; a directive that names no rule can only be
    judged if the `whole` default selection ran.
    """
    directives, malformed = read(source)
    used: set[tuple[int, str]] = set()
    suppressed: list[int] = []
    for number, (code, where) in enumerate(found):
        by = [i for i, directive in enumerate(directives) if _suppresses(source, directives, i, code, where)]
        used.update((i, code) for i in by)
        if by:
            suppressed.append(number)
    unused = [
        (directive, name)
        for i, directive in enumerate(directives)
        for name in _unused_names(directive, {code for j, code in used if j == i}, judged, whole)
        if not (directive.verb == "enable" and _ends_something(directives, i, name))
    ]
    kept = [i for i in range(len(found)) if i not in set(suppressed)]
    return Sifted(tuple(kept), tuple(suppressed), tuple(unused), tuple(malformed))


def read(source: Source) -> tuple[list[Directive], list[tuple[int, str]]]:
    """All directives of a program, and messages about malformed ones, with offsets."""
    directives: list[Directive] = []
    malformed: list[tuple[int, str]] = []
    for start, end in source.comments:
        line = source.line_at(start)
        alone = not source.text[source.line_starts[line - 1] : start].strip()
        comment = _Comment(source.text[start:end], start, line, alone)
        for form, reader in ((_OWN, _own), (_NOQA, _noqa)):
            for found in form.finditer(comment.text):
                directive, wrong = reader(found, comment)
                directives += [directive] if directive else []
                malformed += [(start + found.start(), message) for message in wrong]
    return directives, malformed


class _Comment(NamedTuple):
    text: str
    start: int
    line: int
    alone: bool


def _own(found: re.Match[str], comment: _Comment) -> tuple[Directive | None, list[str]]:
    """A directive of clipcheck: a verb, and rules in brackets; after `noqa`, rules follow a colon."""
    verb = found["verb"].lower()
    if verb not in VERBS:
        return None, [f"`clipcheck: {found['verb']}`: unknown directive (expected {', '.join(VERBS)})"]
    kind = "file-ignore" if verb == "noqa" else verb
    start, end = comment.start + found.start(), comment.start + len(comment.text[: found.end()].rstrip())
    listed = (_AFTER_COLON if verb == "noqa" else _IN_BRACKETS).match(found["rest"])
    if listed is not None:
        first = comment.start + found.start("rest")
        names, wrong = _names(_LISTED.finditer(found["rest"], *listed.span(1)), first, "a suppression")
        if not names:
            return None, wrong or [f"`clipcheck: {verb}[]` names no rule"]
        return Directive(kind, names, start, end, comment.line, comment.alone), wrong
    if _UNCLOSED.match(found["rest"]):
        form = "noqa: CLIP001" if verb == "noqa" else f"{verb}[CLIP001]"
        return None, [f"malformed suppression, write `# clipcheck: {form}`"]
    return Directive(kind, None, start, end, comment.line, comment.alone), []


def _noqa(found: re.Match[str], comment: _Comment) -> tuple[Directive | None, list[str]]:
    """A `noqa` as ruff parses it: codes after a colon, separated by commas or white space, up to any other word."""
    rest, start = found["rest"], comment.start + found.start()
    colon = re.match(r"\s*:", rest)
    if colon is None:
        return Directive("ignore", None, start, comment.start + found.end(), comment.line, False, foreign=True), []
    words = list(_codes_from(rest, colon.end()))
    if not words and re.match(r"\s*clip", rest[colon.end() :], re.IGNORECASE):
        return None, ["malformed suppression, write `# noqa: CLIP001`"]
    ours = [word for word in words if word[0].upper().startswith("CLIP")]
    first = comment.start + found.start("rest")
    names, wrong = _names(ours, first, "a `noqa`")
    if not names:
        return None, wrong
    others, end = len(names) < len(words), first + words[-1].end()
    return Directive("ignore", names, start, end, comment.line, False, foreign=True, others=others), wrong


def _codes_from(text: str, at: int) -> Iterator[re.Match[str]]:
    """The consecutive codes from an offset on."""
    while word := _CODE.match(text, _SEPARATOR.match(text, at).end()):  # type: ignore[union-attr]  # it matches nothing, too
        yield word
        at = word.end()


def _names(words: Iterable[re.Match[str]], first: int, where: str) -> tuple[tuple[Naming, ...], list[str]]:
    """The rules that words name, with offsets relative to `first`, and a message for each unknown word."""
    names: list[Naming] = []
    wrong: list[str] = []
    for word in words:
        if code := _known(word[0]):
            names.append(Naming(code, first + word.start(), first + word.end()))
        else:
            wrong.append(f"unknown rule `{word[0]}` in {where}")
    return tuple(names), wrong


def _known(word: str) -> str:
    """The code of a rule given by code or name; "" if there is no such rule."""
    code = word.upper()
    return code if code in RULES else _BY_NAME.get(word.lower(), "")


# --- what a directive suppresses --------------------------------------------------------------------------------------


def _suppresses(source: Source, directives: Sequence[Directive], i: int, code: str, where: Standing) -> bool:
    directive = directives[i]
    if not directive.means(code):
        return False
    match directive.verb:
        case "file-ignore":
            return True
        case "disable":
            after = (d.start for d in directives[i + 1 :] if d.verb == "enable" and d.means(code))
            return where.start in range(directive.start, next(after, len(source.text)))
        case "ignore" if directive.alone:
            return _next_code_line(source, directive.line) in (where.first, where.logical_first)
        case "ignore":
            return directive.line in where[1:]
    return False


def _next_code_line(source: Source, line: int) -> int:
    """The first line after `line` that contains more than a comment; 0, which no line is, if there is none."""
    below = enumerate(LINE_END.split(source.text)[line:], line + 1)
    return next((number for number, text in below if text.strip() and not text.lstrip().startswith("#")), 0)


def _unused_names(directive: Directive, used: set[str], judged: frozenset[str], whole: bool) -> Iterator[Naming | None]:
    if directive.names is None:
        if not used and whole and not directive.foreign:
            yield None
        return
    for name in directive.names:
        if name.code in judged and name.code not in used:
            yield name


def _ends_something(directives: Sequence[Directive], i: int, name: Naming | None) -> bool:
    """Whether an `enable` has a `disable` before it."""
    return any(d.verb == "disable" and (name is None or d.means(name.code)) for d in directives[:i])


# --- removing ---------------------------------------------------------------------------------------------------------


def removal(source: Source, directive: Directive, name: Naming | None) -> Fix:
    """Removes an unused directive, or only one of its names if others are used."""
    if name is None or (directive.names == (name,) and not directive.others):
        return Fix("Remove the suppression", Safety.SAFE, (_without(source, directive),))
    start, end = name.start, name.end
    text = source.text
    if after := re.compile(r"\s*,\s*").match(text, end):
        end = after.end()
    else:
        start = len(text[:start].rstrip().removesuffix(",").rstrip())
    return Fix(f"Remove `{name.code}` from the suppression", Safety.SAFE, (Edit(start, end, ""),))


def _without(source: Source, directive: Directive) -> Edit:
    """Removes a directive: with its whole line if nothing else is on it, else with the blanks before it."""
    text = source.text
    first = source.line_starts[directive.line - 1]
    stop = source.line_starts[directive.line] if directive.line < len(source.line_starts) else len(text)
    if not text[directive.end : stop].strip() and not text[first : directive.start].strip():
        return Edit(first, stop, "")
    before = text[first : directive.start].rstrip(" \t")
    return Edit(first + len(before), directive.end, "")


def edits_line(source: Source, edit: Edit, first: int, last: int) -> bool:
    """Whether an edit changes one of these lines; a whole line added above or below them does not."""
    start, end = source.line_at(edit.start), source.line_at(edit.end)
    at_line_start = edit.end == source.line_starts[end - 1]
    if edit.start == edit.end and at_line_start and edit.text.endswith(("\n", "\r")):
        return first < start <= last  # between two of them
    if at_line_start and edit.end > edit.start:
        end -= 1
    return start <= last and first <= end
