"""What is to be verified: a fix on a document, and both versions as sources."""

from __future__ import annotations

from functools import cached_property, lru_cache

from clipcheck.documents.program import apply
from clipcheck.python.source import Source
from clipcheck.rule import Edit, Fix, Target
from clipcheck.verify.pieces import in_import

_parsed = lru_cache(maxsize=1)(Source)  # the fixes of a file are on the same text


class Change:
    """A fix with edits to a document. Both sides are parsed when first needed."""

    def __init__(self, text: str, fix: Fix, target: Target = "clipcheck") -> None:
        self.text, self.fix, self._target = text, fix, target

    @property
    def after(self) -> str:
        return apply(self.text, self.fix.all_edits)

    @cached_property
    def old(self) -> Source:
        return _parsed(self.text, self._target)

    @cached_property
    def new(self) -> Source:
        return Source(self.after, self._target)

    @cached_property
    def edits(self) -> list[Edit]:
        """The edits that change more than imports."""
        return [edit for edit in self.fix.edits if not in_import(self.old, edit)]
