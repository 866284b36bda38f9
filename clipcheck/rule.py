"""The vocabulary that every part shares: a rule, what it finds, and the text edits that fix it."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum, IntEnum
from keyword import iskeyword
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from libcst import CSTNode


# Whose functions a fix calls: clipcheck's own runtime, torch's, or those of a module that has the runtime's functions,
# by its dotted name.
Target: TypeAlias = str
TARGETS = ("clipcheck", "torch")
RUNTIME, TORCH = "clipcheck.runtime", "torch.nn.utils"


def package_of(target: Target) -> str:
    """The module that a target's functions are imported from."""
    return {"clipcheck": RUNTIME, "torch": TORCH}.get(target, target)


def is_target(word: str) -> bool:
    """Whether a word is a target: one of ours, or a dotted name of a module that code can import."""
    return all(part.isidentifier() and not iskeyword(part) for part in word.split("."))


# Codes of findings that no rule makes.
INVALID_SYNTAX = "invalid-syntax"
NOT_ANALYZED = "not-analyzed"
NOT_ROUND_TRIPPED = "not-round-tripped"
UNUSED = "unused-suppression"


class Safety(IntEnum):
    """How safe a fix is; `--fix` applies SAFE ones, `--unsafe-fixes` adds UNSAFE ones."""

    MANUAL = 0
    UNSAFE = 1
    SAFE = 2

    @property
    def applicability(self) -> str:
        return ("display", "unsafe", "safe")[self]


class Severity(str, Enum):
    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"


class Tier(Enum):
    """DEFAULT rules run unless ignored, OPT_IN rules only where they are selected."""

    DEFAULT = "default"
    OPT_IN = "opt-in"


class Role(str, Enum):
    """What an expression of the user means in the statements that a fix replaces.

    With the roles a finding becomes an experiment: verification replaces these expressions by its own objects.
    """

    PARAMETERS = "parameters"
    GRADIENTS = "gradients"
    MODEL = "model"
    MAX_NORM = "max_norm"
    NORM_TYPE = "norm_type"
    EPSILON = "epsilon"
    OPTIMIZER = "optimizer"
    SCALER = "scaler"
    TOTAL = "total"
    SWITCH = "switch"


class Edit(NamedTuple):
    """Replace `text[start:end]` of a block by `text`; offsets count code points."""

    start: int
    end: int
    text: str


class Fix(NamedTuple):
    """Text edits that belong together: all are applied or none.

    `imports` are the edits that make the new names available; they are kept apart from `edits`, the change itself,
    because several fixes share them and because verification runs the change without them.
    """

    title: str
    safety: Safety
    edits: tuple[Edit, ...]
    imports: tuple[Edit, ...] = ()
    roles: tuple[tuple[str, Role], ...] = ()

    @property
    def all_edits(self) -> tuple[Edit, ...]:
        return tuple(sorted({*self.edits, *self.imports}))


# Introduces the cases in which the old code fails and the new code does not.
BETTER = "the new code is also correct where the original fails"
# Introduces what else the new code does differently.
CHANGED = "what else is different"


class Verdict(NamedTuple):
    """What running a fix on torch showed.

    `exceptions` are the cases in which the old code failed or lost digits and the new one does not. `reason` says why a
    fix was refuted, with the case and both values, or why it could not be run; of one that is verified, what else is
    different.
    """

    kind: Literal["verified", "refuted", "not verified"]
    cases: int = 0
    exceptions: tuple[str, ...] = ()
    reason: str = ""

    def __str__(self) -> str:
        if self.kind != "verified":
            return f"{self.kind}: {self.reason}"
        parts = [f"verified on {self.cases} cases"]
        parts += [f"{BETTER}: {'; '.join(self.exceptions)}"] if self.exceptions else []
        parts += [f"{CHANGED}: {self.reason}"] if self.reason else []
        return "; ".join(parts)


class Hit(NamedTuple):
    """What a rule yields: lives inside one parse, while its nodes do.

    `help` says what to do by hand where no fix is offered; `related` are the other places that the message is about.
    A `masked` one is not reported: another mistake keeps it from happening so far, and it comes up once that is fixed. Only
    the rule can tell this from what a bad fix causes, such as one that removes the `unscale_` before a clip.
    """

    node: CSTNode
    message: str
    fix: Fix | None = None
    help: str = ""
    related: tuple[tuple[CSTNode, str], ...] = ()
    masked: bool = False


class Place(NamedTuple):
    """A part of a file: lines and columns count from 1, columns in code points, the end is exclusive.

    In a notebook `cell` is the cell's number from 1 and lines count within the cell; elsewhere `cell` is None.
    """

    line: int
    column: int
    end_line: int
    end_column: int
    cell: int | None = None


class Finding(NamedTuple):
    """A hit as plain data, without its parse; sorts by place."""

    path: str
    place: Place
    code: str
    name: str
    message: str
    severity: Severity = Severity.WARNING
    fix: Fix | None = None
    changes: tuple[tuple[Place, str], ...] = ()  # the fix's edits as places in the file
    help: str = ""
    related: tuple[tuple[Place, str], ...] = ()
    program: int = 0  # which of the file's programs the fix's offsets belong to
    silent_at: int = 0  # the line whose end is the place for a suppression comment, 0 if it cannot be suppressed
    copied: str = ""  # the same for findings at the same place of copies of a function, or of a file
    verdict: Verdict | None = None  # of running the fix on torch, if it was run

    @property
    def order(self) -> tuple[str, int, int, int, str, str]:
        at = self.place
        return self.path, at.cell or 0, at.line, at.column, self.code, self.message


Need: TypeAlias = "tuple[str, ...]"  # words of which one must occur


class Rule(NamedTuple):
    """One kind of mistake. Its check and its page are the module `clipcheck.rules.<name>`, its example the fixture folder.

    A program concerns the rule only if it holds a word of each of `needs`, and of each of `near` in one function (or
    outside of all): `clipcheck.catalogue` says what words there are.
    """

    code: str
    name: str
    tier: Tier
    severity: Severity
    needs: tuple[Need, ...]
    near: tuple[Need, ...] = ()

    @property
    def module(self) -> str:
        return self.name.replace("-", "_")


# Runs a fix, whose edits are on a program's text, on torch.
Verify: TypeAlias = "Callable[[str, Fix, Target], Verdict]"
