"""The edits that replace a norm and the loop that scales by it with one `clip_grad_norm_`."""

from __future__ import annotations

from collections.abc import Sequence

import libcst as cst

from clipcheck.fixes.imports import reach
from clipcheck.fixes.norm_call import roles
from clipcheck.fixes.verbs import comment_lines, comments_within, indentation, lines_of, unwritten
from clipcheck.gradients.accumulations import Series
from clipcheck.gradients.exponents import ONE, TWO
from clipcheck.gradients.loops import clauses_around, statements_beside
from clipcheck.gradients.manual_clips import ManualClip, is_only
from clipcheck.gradients.powers import Power
from clipcheck.gradients.spelling import Refused, parameters_code, parameters_of
from clipcheck.python.assignments import assigned_values
from clipcheck.python.reaching import contains, reached, reaching
from clipcheck.python.source import Source, Statement
from clipcheck.rule import Edit, Fix, Role, Safety
from clipcheck.training.norm_places import Norm, measured

TITLE = "Clip in one call"


def rewrite_clip(source: Source, clip: ManualClip) -> Fix | Refused:
    """Replaces the statements from the norm to the loop that scales by one call, if they do nothing else."""
    if clip.gradient.owner is None:
        return Refused("the tensors are gradients, and `clip_grad_norm_` takes parameters")
    if not isinstance(clip.ratio.norm, cst.Name) or not isinstance(
        clip.ratio.limit, (cst.Name, cst.Attribute, cst.Float, cst.Integer, cst.Subscript)
    ):
        return Refused("the coefficient is not a plain `max_norm / norm`")
    name = clip.ratio.norm.value
    norm = _norm_of(source, clip.ratio.norm)
    if norm is None:
        return Refused("the norm is not computed in one expression right before")
    statements = _run(source, norm, clip)
    if isinstance(statements, Refused):
        return statements
    around, why = clauses_around(source, clip.statement, clip.loop)
    if why or statements_beside(source, clip.loop.body, [clip.statement, *_assigns(source, clip)]):
        return Refused(why or "the loop has side effects besides scaling")
    scaled = Series(around, Power(clip.gradient, TWO, ONE))
    if not set(parameters_of(source, scaled)) & set(norm.parameters) or _is_one_shot(source, clip):
        return Refused("the norm and the loop may use different parameters")
    return _fix(source, clip, norm, name, statements, scaled)


def _norm_of(source: Source, name: cst.Name) -> Norm | None:
    """The norm that is assigned to a name, as the whole right side of one statement."""
    match assigned_values(source, name):
        case [cst.BaseExpression() as value]:
            return next((norm for norm in measured(source) if norm.value is value), None)
    return None


def _run(source: Source, norm: Norm, clip: ManualClip) -> list[Statement] | Refused:
    """The statements from the norm to the scaling loop, if there is nothing else in between."""
    siblings, first = source.siblings(source.statement(norm.node))
    last = next((i for i, one in enumerate(siblings) if i > first and contains(source, one, clip.loop)), None)
    if last is None:
        return Refused("the norm and the loop are in different blocks")
    allowed = {id(one) for one in _assigns(source, clip)}
    for one in siblings[first + 1 : last]:
        if not isinstance(one, cst.SimpleStatementLine) or any(id(small) not in allowed for small in one.body):
            return Refused("something else happens between the norm and the loop")
    end = siblings[last]
    if isinstance(end, cst.If):
        why = _odd_test(source, end, clip, allowed)
        if why:
            return Refused(why)
    elif end is not clip.loop:
        return Refused("the loop is in another block")
    elif clip.ratio.bound == "test":
        return Refused("the check of the norm is elsewhere")
    return list(siblings[first : last + 1])


def _odd_test(source: Source, end: cst.If, clip: ManualClip, allowed: set[int]) -> str:
    """Why an `if` around the loop is not the check that `clip_grad_norm_` makes."""
    if end.orelse is not None:
        return "the check has another branch"
    for one in end.body.body:
        plain = isinstance(one, cst.SimpleStatementLine) and all(id(small) in allowed for small in one.body)
        if one is not clip.loop and not plain:
            return "the check guards something else as well"
    norm, limit = source.code(clip.ratio.norm), source.code(clip.ratio.limit)
    factors = {name.value for assign in _assigns(source, clip) for name in _names(assign)}
    match end.test:
        case cst.Comparison(left=left, comparisons=[cst.ComparisonTarget(operator=operator, comparator=right)]):
            sides = source.code(left), source.code(right)
            more = isinstance(operator, (cst.GreaterThan, cst.GreaterThanEqual))
            less = isinstance(operator, (cst.LessThan, cst.LessThanEqual))
            if (sides == (norm, limit) and more) or (sides == (limit, norm) and less):
                return ""
            if sides[0] in factors and sides[1] in ("1", "1.0", "1.") and less:
                return ""
    return "the check does not compare the norm with `max_norm`"


def _assigns(source: Source, clip: ManualClip) -> list[cst.Assign]:
    """The assignments that only name the coefficient."""
    function = source.function(clip.statement)
    here = (assign for assign in source.nodes(cst.Assign) if source.function(assign) is function)
    named = (assign for assign in here if len(_names(assign)) == len(assign.targets))
    return [assign for assign in named if is_only(source, assign.value, clip.ratio)]


def _names(assign: cst.Assign) -> list[cst.Name]:
    """The names among the targets of an assignment."""
    return [target.target for target in assign.targets if isinstance(target.target, cst.Name)]


def _is_one_shot(source: Source, clip: ManualClip) -> bool:
    """Whether the loop uses an iterator that the norm has exhausted, so that the original clips nothing."""
    match clip.loop.iter:
        case cst.Name() as name:
            for binding in reaching(source, name):
                match binding.value:
                    case cst.GeneratorExp() | cst.Call(func=cst.Attribute(attr=cst.Name(value="parameters"))):
                        return True
                    case cst.Call(func=func) if source.qualified(func) in ("builtins.filter", "builtins.map"):
                        return True
    return False


def _fix(
    source: Source, clip: ManualClip, norm: Norm, name: str, statements: Sequence[Statement], scaled: Series
) -> Fix | Refused:
    start, end = lines_of(source, statements[0])[0], source.span(statements[-1])[1]
    line = source.statement(norm.node)
    for target in (name for assign in _assigns(source, clip) for name in _names(assign)):
        scope = source.scope(target)
        bindings = [b for b in scope.bindings.get(target.value, []) if b.node is target]
        if any(not start <= source.span(use)[0] < end for use in reached(source, scope, bindings)):
            return Refused(f"`{target.value}` is used later")
    match line:
        case cst.SimpleStatementLine(body=[cst.Assign(targets=[cst.AssignTarget(target=cst.Name() as target)])]):
            uses = source.names.uses(source.scope(target).owner(name), name)
        case _:
            return Refused("the norm is part of a larger statement")
    wanted = any(not start <= source.span(use)[0] < end for use in uses)
    reached_ = reach(source, line, "clip_grad_norm_")
    shown = parameters_code(source, scaled)
    limit = source.code(clip.ratio.limit)
    order = "" if norm.order.value == 2 and not norm.order.symbol else f", norm_type={norm.order.text}"
    call = f"{reached_.text}({shown}, {limit}{order})"
    text = f"{name} = {call}{'.item()' if norm.item else ''}" if wanted else call
    pad = indentation(source, line)
    comments = unwritten(comments_within(source, start, end), text)
    kept = comment_lines(source, line, comments)
    named = (*roles(source, scaled, norm.order), (limit, Role.MAX_NORM))
    return Fix(TITLE, Safety.UNSAFE, (Edit(start, end, f"{kept}{pad}{text}"),), reached_.imports, named)
