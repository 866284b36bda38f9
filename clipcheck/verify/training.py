"""From a fix to a training run: the function around it, reduced on both sides to what affects the gradients.

Nothing runs here. Statements that have nothing to do with the gradients are left out. The optimizer, the model, the
loss, the scaler and the limit are recognized by how the code uses them, and become objects of the harness. If a test is
unknown, each outcome is tried.
"""

from __future__ import annotations

import ast
from typing import NamedTuple

from clipcheck.verify.allowed import NotVerifiable
from clipcheck.verify.changes import Change
from clipcheck.verify.known import OWN
from clipcheck.verify.parts import Parts, is_number, parts
from clipcheck.verify.program import Program
from clipcheck.verify.reduce import reduced
from clipcheck.verify.sides import Side, flattened
from clipcheck.verify.turns import in_turns

FLAGS_MOST = 3
# Acts and objects that occur only in training with several ranks.
_SHARED = frozenset(["fsdp", "group", "horovod"])
LIMIT = 0.5


class Training(NamedTuple):
    """Both sides as functions that train for some turns, and the harness's names in them with their roles.

    `clip` says how gradients should be clipped to `limit`: by `norm`, by `value`, or not at all. If the new side has no
    `backward()` or no step, the harness adds it to each turn, before or after the side. `clears` says whether each step
    should start from cleared gradients, `ranks` how many processes train together.
    """

    before: Side
    after: Side
    roles: dict[str, str]
    clip: str
    norm_type: float
    limit: float
    clears: bool
    groups: int
    implied: tuple[str, ...]
    ranks: int


def rehearsal(change: Change) -> Training:
    """The training run that verifies a fix of the training step. Raises NotVerifiable."""
    if not change.edits:
        raise NotVerifiable("only imports change, and not those of a clip")
    old, new = Program(change.old), Program(change.new)
    index = old.around(change.edits)
    if len(old.functions) != len(new.functions):
        raise NotVerifiable("the fix adds or removes a function")
    found = parts(old, index), parts(new, index)
    names = found[0].joined(found[1])
    before, after = (_side(program, index, names) for program in (old, new))
    if before == after:
        raise NotVerifiable("what it changes is no part of the training step")
    used = {name: role for name, role in names.roles.items() if name in before.code or name in after.code}
    if sum(role in ("flag", "choice") for role in used.values()) > FLAGS_MOST:
        raise NotVerifiable("too many tests decide what happens")
    if not found[1].kinds and not found[1].clip:
        raise NotVerifiable("nothing around it concerns the gradients")
    limit = _limit(*found, old.code(index))
    implied = tuple(kind for kind in ("backward", "step") if kind not in found[1].kinds)
    clears = "zero_grad" in found[0].kinds
    groups = 1 if ".param_groups[0]" in after.code else 2  # a reader of the first one has no other
    ranks = 2 if _SHARED & set(used.values()) else 1
    if ranks > 1:
        before, after = (in_turns(side, used) for side in (before, after))
    return Training(before, after, used, found[1].clip, found[1].norm_type, limit, clears, groups, implied, ranks)


def _limit(old: Parts, new: Parts, code: str) -> float:
    """The limit of both sides: a number in the code, or the harness's limit. Raises NotVerifiable."""
    if old.clip and (old.clip, old.norm_type) != (new.clip, new.norm_type):
        raise NotVerifiable("it clips in another way than before")
    if not new.limits:
        return LIMIT
    (limit, *others) = new.limits
    known = new.limits <= old.limits if old.limits else limit in code
    if others or not known:
        raise NotVerifiable("it clips to another limit than before")
    return float(limit) if is_number(limit) else LIMIT


def _side(program: Program, index: int, names: Parts) -> Side:
    body = reduced(program, index, names)
    turns = ast.parse("for turn__own__item in turns__own__call():\n    pass").body[0]
    assert isinstance(turns, ast.For)
    handed = [name for name, role in names.roles.items() if role == "parameters"]
    given = [ast.parse(f"{name} = {name}__call()").body[0] for name in handed]
    turns.body = [*given, *body.turn] or [ast.Pass()]
    nodes = [ast.fix_missing_locations(node) for node in (*body.setup, turns)]
    own = frozenset({*names.roles, *OWN, *(f"{name}__call" for name in handed)})
    return flattened(program.source, nodes, program.spans(index), own)
