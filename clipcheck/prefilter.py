"""Which rules concern a file: it must contain the keywords that `clipcheck.catalogue` names, first as bytes, then in its code.

Two superset tests. The first reads the bytes, takes a hundredth of the time of a parse and is all that most
files get. The second asks Python's own parser, which takes a tenth of the time of LibCST's, what is code, and in which function.
"""

from __future__ import annotations

import keyword
import re
import string
from collections.abc import Callable, Iterator, Sequence, Set
from functools import cache
from itertools import takewhile
from typing import TypeAlias

from clipcheck.catalogue import RULES
from clipcheck.gradients.called import GRADIENT_WORDS, gives_gradient_norm, may_be_gradient
from clipcheck.python.parts import Function, Words, parts, shares
from clipcheck.python.stripped import stripped
from clipcheck.python.words import words as words_of
from clipcheck.rule import Need

Holds: TypeAlias = "Callable[[str], bool]"  # whether text contains a keyword

_IDENTIFIER = re.compile(rb"[A-Za-z_]\w*")
_IMPORTED = re.compile(rb"\bimport\b[\s\\]*(?:\([^)]*|(?:[^\\\r\n;]|\\\r?\n?)*)")
_GRAD = (b"grad", b"Grad", b"GRAD")  # three files in four hold none of them
_IN_GRADIENT = re.compile(rb"rad|RAD")
_IN_CLIP = re.compile(rb"lip|LIP")
_COMMENT = re.compile(rb"#[^\r\n]*")
_LETTERS, _BLANKS = string.ascii_letters.encode() + b"0123456789_", b" \t"
_LETTER = frozenset(bytes([letter]) for letter in _LETTERS)
_SPACE = b" \t\f\r\n\\"
_REACH = 100  # bytes before and after a name in which its neighbors are looked for
# Words that may be next to a name in code; Python 2 has two more.
_KEYWORDS = frozenset(word.encode() for word in (*keyword.kwlist, *keyword.softkwlist, "print", "exec"))


def wanted(data: bytes, codes: frozenset[str], code: bool = False) -> frozenset[str]:
    """Those of `codes` whose words the bytes hold; `code` says that these are Python and nothing else.

    An identifier is written as it is in every encoding that Python accepts for its programs.
    """
    if b"\0" in data:  # UTF-16 without its mark, which reads as text, though no parser takes it
        data = data.replace(b"\0", b"")
    if not code:
        return _held(data, codes, _words_in(data, code))
    held = _held(data, codes, _letters_in(data))
    bare = stripped(data) if held else b""
    return _held(bare, held, _words_in(bare, code))


def _held(data: bytes, codes: frozenset[str], holds: Holds) -> frozenset[str]:
    return frozenset(
        rule
        for first, others in _by_first_need(codes, any(word in data for word in _GRAD))
        if _meets(first, data, holds)
        for rule, rest in others
        if all(_meets(need, data, holds) for need in rest)
    )


def concerned(text: str, codes: frozenset[str]) -> frozenset[str]:
    """Those of `codes` whose words are in a program's code, and where the rule says so in one function."""
    held = wanted(text.encode(errors="replace"), codes, code=True)
    split = parts(text) if held else None
    if split is None:  # not Python as a whole: code and prose cannot be told apart
        return held
    around = _heard(split.outside.union(*(f.words() for f in split.functions if shares(f, split.outside))))
    near = {code for code in held if _met(RULES[code].near, around)}
    everywhere = around
    others: list[tuple[Function, Holds]] = []
    for function in split.functions:
        holds = _words_in(function.text, code=True)
        likely = {code for code in held - near if _likely(RULES[code].near, around, holds)}
        if likely:
            words = around | _heard(function.words())
            everywhere |= words
            near |= {code for code in likely if _met(RULES[code].near, words)}
        else:
            others.append((function, holds))
    asked = frozenset(_name(word) for code in near for need in RULES[code].needs for word in need)
    everywhere |= _heard(frozenset().union(*(f.words() for f, holds in others if any(map(holds, asked)))))
    return frozenset(code for code in near if _met(RULES[code].needs, everywhere))


def speaks_of_clipping(text: str) -> bool:
    """Whether code, also such as no parser reads, clips or measures gradients, or scales them; prose does not count.

    A name for a gradient is not enough: that of a gradient penalty is none of a parameter, and TensorFlow has its `GradientTape`.
    """
    data = _COMMENT.sub(b"", text.encode(errors="replace").replace(b"\0", b""))
    return (
        _OF_PARAMETER.search(data) is not None
        or _names(data, _IN_GRADIENT, _handles_gradients, code=True)
        or _names(data, _IN_CLIP, _is_clip, code=True)
    )


# `p.grad`, but no call of `torch.autograd.grad`
_OF_PARAMETER = re.compile(rb"\w[\])]?\.grad\b(?!\s*\()")


def _handles_gradients(name: str) -> bool:
    """`max_grad_norm`, `GradScaler`, `clip_gradients` and similar names."""
    found = set(words_of(name))
    return bool(found & GRADIENT_WORDS and found & {"norm", "norms", "scaler", "clip", "clipping"})


def _is_clip(name: str) -> bool:
    """`clip_norm`, `max_norm_clip`: what else is clipped (`clip_range`, `np.clip`) is no gradient."""
    found = words_of(name)
    return any(word.startswith("clip") for word in found) and not {"norm", "grad"}.isdisjoint(found)


# --- the bytes --------------------------------------------------------------------------------------------------------


@cache
def _by_first_need(codes: frozenset[str], gradients: bool) -> list[tuple[Need, list[tuple[str, tuple[Need, ...]]]]]:
    """The rules with their other needs under the first one, which most files lack: a few searches instead of fifty.

    Without `gradients`, no word holds `grad`: most rules are out, and what is left of a need are three or four words.
    """
    groups: dict[Need, list[tuple[str, tuple[Need, ...]]]] = {}
    for code in sorted(codes):
        needs = [
            tuple(w for w in need if gradients or "grad" not in w) for need in (*RULES[code].near, *RULES[code].needs)
        ]
        if all(needs):
            groups.setdefault(needs[0], []).append((code, tuple(needs[1:])))
    return list(groups.items())


@cache
def _shared_start(need: Need) -> bytes:
    """The letters that all names of a need begin with: one search instead of several."""
    names = [_name(word) for word in need if word[0] not in "<*"]
    alike = takewhile(lambda letters: len(set(letters)) == 1, zip(*names, strict=False))
    return "".join(letters[0] for letters in alike).encode() if len(names) == len(need) else b""


def _name(word: str) -> str:
    """The letters that an identifier must hold."""
    return word.strip("*'").removeprefix(".").removeprefix("def ").rstrip("()[];")


def _letters_in(data: bytes) -> Holds:
    """Answers whether a word's letters are in bytes, each looked for once: several rules share their words."""
    clips, gradients = (b"clip", b"Clip"), (b"rad", b"RAD")
    syntax = {"<clips>": clips, "<gradient>": gradients, "<gradient norm>": gradients}

    @cache
    def holds(word: str) -> bool:
        if word.startswith("<"):
            return any(letters in data for letters in syntax.get(word, (b"",)))
        return _name(word).encode() in data

    return holds


def _words_in(data: bytes, code: bool) -> Holds:
    """As `_letters_in`, of whole identifiers, and of what stands beside them if this is code, stripped of the rest."""

    @cache
    def imported() -> Set[bytes]:
        return frozenset(_IDENTIFIER.findall(b" ".join(_IMPORTED.findall(data))))

    @cache
    def holds(word: str) -> bool:
        name = _name(word).encode()
        match word[0], word[-1]:
            case "<", _ if word == "<gradient>":
                return _names(data, _IN_GRADIENT, may_be_gradient, code)
            case "<", _ if word == "<gradient norm>":
                return _names(data, _IN_GRADIENT, gives_gradient_norm, code, called=code)
            case "<", _:
                return True  # syntax: the code will tell
            case "*", _:
                return name in data
            case ".", _ if code:
                dotted = any(_around(data, at, at)[0].rstrip(_SPACE)[-1:] == b"." for at in _places(name, data))
                return dotted or (name in data and name in imported())
            case _, ";" if code:
                return any(_calls(*_around(data, at, at + len(name))) for at in _places(name, data))
            case _, ")" if code:
                around = (_around(data, at, at + len(name)) for at in _places(name, data))
                called = any(_calls(left, right) or left.rstrip(_SPACE)[-1:] in (b".", b"=") for left, right in around)
                return called or (name in data and name in imported())
        return any(True for _ in _places(name, data))

    return holds


def _places(name: bytes, data: bytes) -> Iterator[int]:
    """Where the bytes have a name as an identifier of its own."""
    at = data.find(name)
    while at >= 0:
        end = at + len(name)
        if data[at - 1 : at] not in _LETTER and data[end : end + 1] not in _LETTER:
            yield at
        at = data.find(name, end)


def _around(data: bytes, start: int, end: int) -> tuple[bytes, bytes]:
    return data[max(start - _REACH, 0) : start], data[end : end + _REACH]


def _calls(left: bytes, right: bytes) -> bool:
    """Whether a name between these bytes is called, and not defined."""
    return right.lstrip(_SPACE)[:1] in (b"(", b"") and not left.rstrip(_SPACE).endswith(b"def")


def _meets(need: Need, data: bytes, holds: Holds) -> bool:
    return _shared_start(need) in data and any(map(holds, need))


def _names(
    data: bytes, letters: re.Pattern[bytes], accepts: Callable[[str], bool], code: bool, called: bool = False
) -> bool:
    """Whether an identifier with these letters, such as one that may stand for gradients, is in the bytes, and is `called`.

    In code, no other word is beside it: `the gradient of` is prose, as of two names with nothing but blanks between them,
    one is a keyword.
    """
    for found in letters.finditer(data):
        before, after = _around(data, found.start(), found.start())
        left, right = before.rstrip(_LETTERS), after.lstrip(_LETTERS)
        name = before[len(left) :] + after[: len(after) - len(right)]
        if accepts(name.decode()) and not (code and _is_no_code(left, right)) and (not called or _calls(left, right)):
            return True
    return False


def _is_no_code(left: bytes, right: bytes) -> bool:
    """Whether a name between these bytes cannot be code: it is all of a string, or has another name beside it."""
    quoted = left[-1:] in (b"'", b'"') and left[-1:] == right[:1]
    return quoted or _follows_word(left) or _precedes_word(right)


def _follows_word(left: bytes) -> bool:
    text = left.rstrip(_BLANKS)
    return len(text) < len(left) and _is_name(text[len(text.rstrip(_LETTERS)) :])


def _precedes_word(right: bytes) -> bool:
    text = right.lstrip(_BLANKS)
    return len(text) < len(right) and _is_name(text[: len(text) - len(text.lstrip(_LETTERS))])


def _is_name(word: bytes) -> bool:
    """Whether a word is a name: no keyword, and no number, which may run into one (`1else gradient`)."""
    return bool(word) and word not in _KEYWORDS and not word[:1].isdigit()


# --- the code ---------------------------------------------------------------------------------------------------------


def _heard(words: Words) -> Words:
    """The words of code with those that follow from them."""
    names = [word for word in words if "rad" in word or "RAD" in word]
    if any(word.isidentifier() and may_be_gradient(word) for word in names):
        words |= {"<gradient>"}
    called = any(word.endswith("()") and gives_gradient_norm(word[:-2]) for word in names)
    return words | {"<gradient norm>"} if called else words


def _met(needs: Sequence[Need], words: Words) -> bool:
    return all(any(word in words or word.startswith("*") for word in need) for need in needs)


def _likely(needs: Sequence[Need], around: Words, holds: Holds) -> bool:
    """As `_met`, where of a function's words no more is known than what its bytes hold."""
    return all(any(word in around or holds(word) for word in need) for need in needs)
