"""From a fix to an experiment: the statements or expressions that it replaces, before and after, as two functions.

Nothing runs here. The user's expressions that have a role in the fix become objects of the harness; the other names
must mean functions of torch and the like; anything else in the statements is a reason not to run them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from clipcheck.python.source import Source
from clipcheck.rule import Edit, Role, Safety
from clipcheck.verify.allowed import NotVerifiable
from clipcheck.verify.changes import Change
from clipcheck.verify.parts import parts
from clipcheck.verify.pieces import Piece, above, apart, kept, pieces, whole
from clipcheck.verify.program import Program
from clipcheck.verify.sides import Body, Placeholders, Side, function, in_float64


class UnknownName(NotVerifiable):
    """A name that the harness does not know."""

    def __init__(self, name: str) -> None:
        super().__init__(f"`{name}` cannot be resolved")
        self.name = name


class Experiment(NamedTuple):
    """Both sides, the harness's names with their roles, the names that have a value before, and those read later.

    `reference` is `before` with conversions to lower precision turned into conversions to float64. With `norm`, the new
    side may return a different value if that is the norm of the gradients and the old one is not.
    """

    before: Side
    after: Side
    reference: Side
    roles: dict[str, str]
    seeds: tuple[str, ...]
    kept: tuple[str, ...]
    norm: bool = False


def lift(change: Change) -> list[Experiment]:
    """The experiments that together show what a fix does. Raises NotVerifiable."""
    if not change.edits:
        raise NotVerifiable("only imports change")
    groups = apart(change.old, change.edits)
    return [_experiment(change, pieces(change.old, change.fix, group)) for group in groups]


def lift_more(change: Change) -> list[Experiment]:
    """Like `lift`, but also uses the surrounding code to find out what a name is or where its value comes from."""
    extra_roles = _extra_roles(change.old, change.edits)
    try:
        return [_traced(change, pieces(change.old, change.fix, change.edits), extra_roles)]
    except UnknownName:
        return [_traced(change, whole(change.old, change.fix, change.edits), extra_roles)]


def _traced(change: Change, found: list[Piece], extra_roles: Sequence[tuple[str, Role]]) -> Experiment:
    """The experiment for some pieces, together with the statements above that assign their names."""
    start = found[0].before[0]
    while True:
        try:
            return _experiment(change, found, extra_roles)
        except UnknownName as error:
            made = above(change.old, change.fix, start, error.name)
            if not set(made) - set(found):
                raise
            found = sorted({*made, *found})


def _extra_roles(source: Source, edits: Sequence[Edit]) -> list[tuple[str, Role]]:
    """The roles of names that follow from the code around a fix."""
    program = Program(source)
    try:
        found = parts(program, program.around(edits))
    except NotVerifiable:
        return []
    roles = ((text, _ROLES.get(found.roles[name])) for text, name in found.texts.items())
    return [(text, role) for text, role in roles if role is not None]


_ROLES = {
    "model": Role.MODEL,
    "optimizer": Role.OPTIMIZER,
    "parameters": Role.PARAMETERS,
    "max_norm": Role.MAX_NORM,
    "max_value": Role.MAX_NORM,
    "norm_type": Role.NORM_TYPE,
    "switch": Role.SWITCH,
}


def _experiment(change: Change, found: Sequence[Piece], extra_roles: Sequence[tuple[str, Role]] = ()) -> Experiment:
    places = Placeholders((*change.fix.roles, *extra_roles))
    before = Body(change.old, [(piece.before, piece.whole) for piece in found], places)
    after = Body(change.new, [(piece.after, piece.whole) for piece in found], places)
    if overwritten := (before.stored | after.stored) & {text for text, _ in extra_roles}:
        raise NotVerifiable(f"`{min(overwritten)}` is assigned in between")
    seeds = tuple(sorted(before.seeds | after.seeds))
    unknown = (before.unknown | after.unknown) - set(seeds)
    if unknown:
        raise UnknownName(min(unknown))
    own = frozenset(places.roles) | {f"value__{index}" for index in range(len(found))}
    old, new = (function(body.nodes, seeds, body.names, own) for body in (before, after))
    read = kept(change.old, before.stored, [piece.before for piece in found])
    observed = read or any(not piece.whole for piece in found) or before.returns or before.touches_gradients
    names = read if observed else before.left & after.left
    if not (observed or names):
        raise NotVerifiable("it leaves nothing to compare")
    unsafe = change.fix.safety is not Safety.SAFE
    return Experiment(old, new, in_float64(old), places.roles, seeds, tuple(sorted(names)), norm=unsafe)
