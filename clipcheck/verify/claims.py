"""The claim of a fixture about its pair, and the result: plain data, without torch."""

from __future__ import annotations

import re
from typing import Literal, NamedTuple, TypeAlias, cast

Kind: TypeAlias = Literal["same", "bounded", "finite", "raises"]
Nearer: TypeAlias = Literal["after", "before", "equal", ""]

_LINE = re.compile(r"# claim: (?P<kind>same|bounded|finite|raises)(?:, not verified here: (?P<obstacle>.+))?\s*$")


class Claim(NamedTuple):
    """`same`: both sides train in the same way, and the new one is at least as close to a float64 run.

    `bounded`: a gradient norm above `max_norm` is clipped to `max_norm` before the step; on the old side it is not.
    `finite`: no NaN or infinity reaches a step or the parameters; on the old side one does.
    `raises`: the old side raises; the new one does not, and clips to `max_norm` if it takes one.
    `obstacle` says why the pair cannot run here; it is empty if it can.
    """

    kind: Kind
    obstacle: str = ""


def read(text: str) -> Claim | None:
    """The claim in the first line of a program, None if there is none."""
    found = _LINE.match(text.partition("\n")[0].rstrip("\r"))
    return Claim(cast("Kind", found["kind"]), found["obstacle"] or "") if found else None


class Outcome(NamedTuple):
    """The result for a claim. `holds` is None if it could not be run.

    `difference` is the largest relative difference in float32, `speed` the time of the new side divided by that of the
    old one; `notes` are worth knowing but do not count against the claim.
    """

    holds: bool | None
    reason: str = ""
    difference: float | None = None
    nearer: Nearer = ""
    speed: float | None = None
    notes: tuple[str, ...] = ()

    @property
    def verdict(self) -> str:
        return {True: "holds", False: "FAILS", None: "not verified here"}[self.holds]


class Answer(NamedTuple):
    """The result for a site: `refuted` is the first case that failed, with both sides' values, or empty if none did."""

    cases: int
    exceptions: tuple[str, ...] = ()
    refuted: str = ""
    why: str = ""
    before: str = ""
    after: str = ""
