"""Which rules concern a file: it must contain the keywords that `clipcheck.catalogue` names, first as bytes, then in its code.

Two superset tests. The first reads the bytes, takes a hundredth of the time of a parse and is all that most
files get. The second asks Python's own parser, which takes a tenth of the time of LibCST's, what is code, and in which function.
"""

from __future__ import annotations

import keyword
import re
import string
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence, Set
from functools import cache, cached_property, lru_cache

from clipcheck.catalogue import RULES
from clipcheck.gradients.called import GRADIENT_WORDS, gives_gradient_norm, may_be_gradient
from clipcheck.python.parts import Function, Words, given, givers, parts, read_outside
from clipcheck.python.stripped import stripped
from clipcheck.python.words import words as words_of
from clipcheck.rule import Need

_IMPORTED = re.compile(rb"\bimport\b[\s\\]*(?:\([^)]*|(?:[^\\\r\n;]|\\\r?\n?)*)")
_GRAD = (b"grad", b"Grad", b"GRAD")  # three files in four hold none of them
_RAD = (b"rad", b"RAD")  # where one of them is, one of these is
_BY_WORDS = ("<gradient>", "<gradient norm>")  # names of gradients, known by the words in them
_COMMENT = re.compile(rb"#[^\r\n]*")
_LETTERS, _BLANKS = string.ascii_letters.encode() + b"0123456789_", b" \t"
_LETTER = frozenset(bytes([letter]) for letter in _LETTERS)
_LETTERS_ALONE = bytes(byte if byte in _LETTERS else ord(" ") for byte in range(256))
_SPACE = b" \t\f\r\n\\"
_FEW = 5  # of so many names, each is searched for
_REACH = 100  # bytes before and after a name in which its neighbors are looked for
# Words that may be next to a name in code; Python 2 has two more.
_KEYWORDS = frozenset(word.encode() for word in (*keyword.kwlist, *keyword.softkwlist, "print", "exec"))


@lru_cache(maxsize=1)  # the file is asked about, and then the program that is all of it
def wanted(data: bytes, codes: frozenset[str], code: bool = False) -> frozenset[str]:
    """Those of `codes` whose words the bytes hold; `code` says that these are Python and nothing else.

    An identifier is written as it is in every encoding that Python accepts for its programs.
    """
    data = data.replace(b"\0", b"")  # UTF-16 without its mark reads as text, though no parser takes it
    if not any(word in data for word in _GRAD):
        codes = _without_gradients(codes, data)
    held = _held(codes, _Words(data)) if codes else codes
    return _held(held, _Words(stripped(data), code=True)) if held and code else held


def concerned(text: str, codes: frozenset[str]) -> frozenset[str]:
    """Those of `codes` whose words are in a program's code, and where the rule says so in one function."""
    held = wanted(text.encode(errors="replace"), codes, code=True)
    split = parts(text) if held else None
    if split is None:  # not Python as a whole: code and prose cannot be told apart
        return held
    shared = givers(split)
    outside = _heard(split.outside | given(read_outside(split), shared))
    around = outside | _heard(frozenset().union(*(giver.words for giver in shared)))  # of any function, at most
    near = {code for code in held if _met(RULES[code].near, outside)}
    everywhere = outside
    others: list[tuple[Function, _Words]] = []
    for function in split.functions:
        words_in = _Words(function.text, code=True)
        likely = {code for code in held - near if _likely(_asked(RULES[code].near), around, words_in)}
        if likely:
            own = function.words()
            words = outside | _heard(own | given(own, shared), outside)
            everywhere |= words
            near |= {code for code in likely if _met(RULES[code].near, words)}
        else:
            others.append((function, words_in))
    asked = frozenset(_name(word) for code in near for need in RULES[code].needs for word in need)
    # no name is asked for where a node of the grammar would do, which any function may hold
    read = [f.words() for f, said in others if b"" in asked or not asked.isdisjoint(said.names)]
    everywhere |= _heard(frozenset().union(*read))
    return frozenset(code for code in near if _met(RULES[code].needs, everywhere))


def contains_clipping_code(text: str) -> bool:
    """Whether code, also such as no parser reads, clips or measures gradients, or scales them; prose does not count.

    A name for a gradient is not enough: that of a gradient penalty is none of a parameter, and TensorFlow has its `GradientTape`.
    """
    data = _COMMENT.sub(b"", text.encode(errors="replace").replace(b"\0", b""))
    return _OF_PARAMETER.search(data) is not None or _Words(data, code=True).contain_clipping()


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


class _Asked:
    """A need, as it is looked for in bytes: one object for all rules that share it, known by its identity."""

    def __init__(self, need: Need) -> None:
        self.words = need
        others_do = any(word[0] in "<*" for word in need)
        self.names = None if others_do else frozenset(map(_name, need))  # of these identifiers, it asks for one
        self.of_gradients = all(word in _BY_WORDS or any(rad in _name(word) for rad in _RAD) for word in need)


_asked_once = cache(_Asked)


@cache
def _asked(needs: tuple[Need, ...]) -> tuple[_Asked, ...]:
    """The needs; first those that only names with `grad` meet, which are found without reading all others."""
    return tuple(sorted(map(_asked_once, needs), key=lambda asked: not asked.of_gradients))


@cache
def _needs(code: str) -> tuple[_Asked, ...]:
    return _asked((*RULES[code].near, *RULES[code].needs))


def _held(codes: frozenset[str], words: _Words) -> frozenset[str]:
    return frozenset(code for code in codes if all(map(words.meet, _needs(code))))


def _without_gradients(codes: frozenset[str], data: bytes) -> frozenset[str]:
    """Those of `codes` that can concern a file in which no word holds `grad`: most rules are out, and most files."""
    here = {letters for letters in _letters(codes) if letters in data}
    return frozenset(code for code, needed in _other_letters(codes) if not needed.isdisjoint(here))


@cache
def _other_letters(codes: frozenset[str]) -> list[tuple[str, frozenset[bytes]]]:
    """For each rule that can do without `grad`, what one of its needs then asks for."""
    needs = [(code, [_without_grad(asked.words) for asked in _needs(code)]) for code in sorted(codes)]
    return [(code, min(others, key=len)) for code, others in needs if all(others)]


def _without_grad(need: Need) -> frozenset[bytes]:
    return frozenset(_name(word) for word in need if "grad" not in word)


@cache
def _letters(codes: frozenset[str]) -> frozenset[bytes]:
    return frozenset().union(*(needed for _, needed in _other_letters(codes)))


@cache
def _name(word: str) -> bytes:
    """The letters that an identifier must hold; none for a node of the grammar."""
    return b"" if word[0] == "<" else word.strip("*'").removeprefix(".").removeprefix("def ").rstrip("()[];").encode()


class _Words:
    """The identifiers in bytes, and what stands beside them if this is code, stripped of the rest."""

    def __init__(self, data: bytes, code: bool = False) -> None:
        self.data, self.code = data, code
        self._letters = data.translate(_LETTERS_ALONE)
        self._known: dict[str, bool] = {}
        self._met: dict[_Asked, bool] = {}

    def meet(self, asked: _Asked) -> bool:
        """Several rules share their needs, and several needs their words: each is looked for once."""
        met = self._met.get(asked)
        if met is None:
            met = self._met[asked] = self._meets(asked)
        return met

    def _meets(self, asked: _Asked) -> bool:
        if asked.names is not None:
            here = not asked.names.isdisjoint(self._with_rad) if asked.of_gradients else self._hold_one(asked.names)
            if not here or not self.code:
                return here
        return any(map(self.hold, asked.words))

    def _hold_one(self, names: Collection[bytes]) -> bool:
        """Whether one of these is an identifier here; a few are searched for as letters first, before all are read."""
        if "names" not in vars(self) and len(names) <= _FEW and not any(name in self.data for name in names):
            return False
        return not self.names.isdisjoint(names)

    @cached_property
    def names(self) -> frozenset[bytes]:
        return frozenset(self._letters.split())

    def hold(self, word: str) -> bool:
        known = self._known.get(word)
        if known is None:
            known = self._known[word] = self._holds(word)
        return known

    def _holds(self, word: str) -> bool:
        name = _name(word)
        match word[0], word[-1]:
            case "<", _ if word == "<gradient>":
                return self._any(self._with_rad, may_be_gradient)
            case "<", _ if word == "<gradient norm>":
                return self._any(self._with_rad, gives_gradient_norm, called=True)
            case "<", _ if word == "<clips>" and not self.code:  # else, docstrings are gone
                return b"clip" in self.data.lower()
            case "<", _:
                return True  # syntax: the tree will tell
            case "*", _:
                return name in self.data
        if not self._hold_one((name,)):
            return False
        match word[0], word[-1]:
            case _ if not self.code:
                return True
            case ".", _:
                return any(left.rstrip(_SPACE)[-1:] == b"." for left, _ in self._around(name)) or name in self._imported
            case _, ";":
                return any(_calls(*around) for around in self._around(name))
            case _, ")":
                called = any(
                    _calls(*both) or both[0].rstrip(_SPACE)[-1:] in (b".", b"=") for both in self._around(name)
                )
                return called or name in self._imported
        return True

    def _around(self, name: bytes) -> Iterator[tuple[bytes, bytes]]:
        """What is before and after each place of an identifier."""
        return (_around(self.data, at, at + len(name)) for at in _places(name, self.data))

    @cached_property
    def _imported(self) -> Set[bytes]:
        return frozenset(b" ".join(_IMPORTED.findall(self.data)).translate(_LETTERS_ALONE).split())

    @cached_property
    def _with_rad(self) -> frozenset[bytes]:
        """The identifiers with `rad` in them: a search for these letters takes a tenth of the time that reading all takes."""
        return frozenset(name for letters in _RAD for name in _names_with(letters, self._letters))

    def _any(self, names: Iterable[bytes], accepts: Callable[[str], bool], called: bool = False) -> bool:
        """Whether one of these names is accepted, and `called` if this is code.

        In code, no other word is beside it: `the gradient of` is prose, as of two names with nothing but blanks between
        them, one is a keyword.
        """
        accepted = [name for name in names if accepts(name.decode())]
        return bool(accepted) and (not self.code or any(self._is_code(name, called) for name in accepted))

    def _is_code(self, name: bytes, called: bool) -> bool:
        around = self._around(name)
        return any(not _is_no_code(left, right) and (not called or _calls(left, right)) for left, right in around)

    def contain_clipping(self) -> bool:
        return self._any(self._with_rad, _handles_gradients) or self._any(self.names, _is_clip)


def _names_with(letters: bytes, text: bytes) -> Iterator[bytes]:
    """The words that hold these letters; `text` has words and blanks only."""
    at = text.find(letters)
    while at >= 0:
        end = text.find(b" ", at)
        end = len(text) if end < 0 else end
        yield text[text.rfind(b" ", 0, at) + 1 : end]
        at = text.find(letters, end)


def _places(name: bytes, data: bytes) -> Iterator[int]:
    """Where the bytes contain a name as a whole identifier."""
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


def _is_no_code(left: bytes, right: bytes) -> bool:
    """Whether a name between these bytes cannot be code: it is all of a string, or has another name beside it."""
    quoted = left[-1:] in (b"'", b'"') and left[-1:] == right[:1]
    return quoted or _follows_word(left) or _precedes_word(right)


def _follows_word(left: bytes) -> bool:
    text = left.rstrip(_BLANKS)
    return _is_name(text[len(text.rstrip(_LETTERS)) :])


def _precedes_word(right: bytes) -> bool:
    text = right.lstrip(_BLANKS)
    return _is_name(text[: len(text) - len(text.lstrip(_LETTERS))])


def _is_name(word: bytes) -> bool:
    """Whether a word is a name: no keyword, and no number, which may run into one (`1else gradient`)."""
    return bool(word) and word not in _KEYWORDS and not word[:1].isdigit()


# --- the code ---------------------------------------------------------------------------------------------------------


def _heard(words: Words, around: Words = frozenset()) -> Words:
    """The words of code with those that follow from them, in view of the words around it."""
    names = [word for word in words if "rad" in word or "RAD" in word]
    if any(word.isidentifier() and may_be_gradient(word) for word in names):
        words |= {"<gradient>"}
    if any(word.endswith("()") and gives_gradient_norm(word[:-2]) for word in names):
        words |= {"<gradient norm>"}
    # a variable that is bound to a list, and no parameter
    bound = (f"{word.removeprefix('<return>')}=" for word in words if word.startswith("<return>"))
    return words | {"<return>"} if any(name in words or name in around for name in bound) else words


def _met(needs: Sequence[Need], words: Words) -> bool:
    return all(any(word in words or word.startswith("*") for word in need) for need in needs)


def _likely(needs: Sequence[_Asked], around: Words, words: _Words) -> bool:
    """As `_met`, where of a function's words no more is known than what its bytes hold."""
    return all(words.meet(need) or not around.isdisjoint(need.words) for need in needs)
