"""Which known word was probably meant by an unknown one."""

from __future__ import annotations

from collections.abc import Iterable


def did_you_mean(word: str, known: Iterable[str], likeness: float = 0.7) -> str:
    """The end of a message about an unknown word: the most similar known one, "" if none is similar."""
    from difflib import get_close_matches

    near = get_close_matches(word, list(known), cutoff=likeness)
    return f", did you mean `{near[0]}`?" if near else ""
