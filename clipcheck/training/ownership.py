"""Whether a clip and a step have the same parameters, even if both are in called functions."""

from __future__ import annotations

import libcst as cst

from clipcheck.python.source import Source
from clipcheck.training.flows import Event
from clipcheck.training.frames import Frame
from clipcheck.training.parameters import owners, stepped, surely_belong


def is_for(source: Source, clip: Event, step: Event) -> bool | None:
    """Whether a step uses (some of) what a clip clips, according to the optimizer's creation; None if unknown."""
    if clip.subject is None or step.subject is None:
        return None
    if clip.frame is None:
        return surely_belong(source, clip.subject, step.subject)
    mine, theirs = _owned(source, clip.subject, clip.frame), stepped(source, step.subject)
    if not mine or not theirs:
        return None
    if any(_overlap(one, other) for one in mine for other in theirs):
        return True
    return False if all(name.startswith("self.") for name in mine | theirs) else None


def _owned(source: Source, clipped: cst.BaseExpression, frame: Frame) -> frozenset[str] | None:
    """The modules whose parameters are clipped, as the analyzed function writes them."""
    found = owners(source, clipped)
    if found is None or source.function(clipped) is not frame.function:
        return found  # already written as in the caller
    spelled = [name.partition(".") for name in found]
    words = {root: frame.words.get(root, "") for root, _, _ in spelled}
    return frozenset(words[root] + dot + rest for root, dot, rest in spelled) if all(words.values()) else None


def _overlap(one: str, other: str) -> bool:
    return one == other or one.startswith(f"{other}.") or other.startswith(f"{one}.")
