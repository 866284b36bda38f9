"""From a fix to an experiment: the statements or expressions that it replaces, before and after, as two functions.

Nothing runs here. The user's expressions that the fix's roles name become objects of the harness, the other names must
stand for functions of torch and the like, and what else the statements hold is a reason not to try.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from clipcheck.documents.program import apply
from clipcheck.python.source import Source
from clipcheck.rule import Edit, Fix, Role
from clipcheck.verify import allowed
from clipcheck.verify.allowed import NotProvable, flat_name
from clipcheck.verify.pieces import apart, in_import, kept, pieces
from clipcheck.verify.sides import CLIPS, Body, Placeholders, Side, function, in_float64


class Experiment(NamedTuple):
    """Both sides, the harness's names with their roles, the names that hold a value before, and those read later.

    `reference` is `before` with its conversions to a lower precision made ones to float64.
    """

    before: Side
    after: Side
    reference: Side
    roles: dict[str, str]
    seeds: tuple[str, ...]
    kept: tuple[str, ...]


def lift(text: str, fix: Fix) -> list[Experiment]:
    """The experiments that together show what a fix does. Raises NotProvable."""
    source = Source(text)
    changed = Source(apply(text, fix.all_edits))
    edits = [edit for edit in fix.edits if not in_import(source, edit)]
    if not edits:
        return _imports_alone(source, changed, fix)
    groups = apart(source, edits)
    return [_experiment(source, changed, fix, group) for group in groups]


def _experiment(source: Source, changed: Source, fix: Fix, edits: Sequence[Edit]) -> Experiment:
    found = pieces(source, fix, edits)
    places = Placeholders(fix.roles)
    before = Body(source, [(piece.before, piece.whole) for piece in found], places)
    after = Body(changed, [(piece.after, piece.whole) for piece in found], places)
    seeds = tuple(sorted(before.seeds | after.seeds))
    unknown = (before.unknown | after.unknown) - set(seeds)
    if unknown:
        raise NotProvable(f"what `{min(unknown)}` stands for is not known")
    own = frozenset(places.roles) | {f"value__{index}" for index in range(len(found))}
    old, new = (function(body.nodes, seeds, body.names, own) for body in (before, after))
    read = kept(source, before.stored, [piece.before for piece in found])
    observed = read or any(not piece.whole for piece in found) or before.returns or before.touches_gradients
    names = read if observed else before.left & after.left
    if not (observed or names):
        raise NotProvable("it leaves nothing to compare")
    return Experiment(old, new, in_float64(old), places.roles, seeds, tuple(sorted(names)))


def _imports_alone(source: Source, changed: Source, fix: Fix) -> list[Experiment]:
    """Only imports change: whatever calls the names then calls the new functions, so those are compared."""
    own = {"parameters__own__call": Role.PARAMETERS.value, "max_norm__own__name": Role.MAX_NORM.value}
    found = []
    for name, bindings in source.names.module.bindings.items():
        origins = {allowed.canonical(source.names.origin(b) or "") for b in bindings}
        others = {allowed.canonical(changed.names.origin(b) or "") for b in changed.names.module.bindings.get(name, [])}
        if origins != others and origins | others <= CLIPS:
            old, new = (_clip_by(min(paths)) for paths in (origins, others))
            found.append(Experiment(old, new, old, own, (), ()))
    if not found:
        raise NotProvable("only imports change, and not those of a clip")
    return found


def _clip_by(path: str) -> Side:
    name = flat_name(path)
    return Side(
        f"def site():\n    return ('value', {name}(parameters__own__call(), max_norm__own__name))", {name: path}
    )
