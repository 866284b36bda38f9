"""The edits that replace a loop that accumulates a gradient norm, and the statements around it, with one call."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import libcst as cst

from clipcheck.fixes.accumulators import Ending, ending_of, is_label, owned_seed
from clipcheck.fixes.norm_call import Call, norm_call, safety, typed, width
from clipcheck.fixes.slots import slot_of
from clipcheck.fixes.split_loop import split_off
from clipcheck.fixes.verbs import (
    comment_lines,
    comments_of,
    comments_within,
    delete_lines,
    indentation,
    lines_of,
    unwritten,
)
from clipcheck.gradients.accumulations import Accumulation, reduced
from clipcheck.gradients.powers import NumberKind
from clipcheck.gradients.spelling import Refused
from clipcheck.python.reaching import contains, reached
from clipcheck.python.source import Source, Statement
from clipcheck.rule import Edit, Fix, Safety


def rewrite_loop(source: Source, one: Accumulation, title: str, limit: Safety = Safety.SAFE) -> Fix | Refused:
    """Replaces a loop with one call, together with the zero before it and the root after it if they belong to it.

    A loop that also does something else stays, without the statements that accumulate the norm.
    """
    extras, one = one.extras, one._replace(extras=())
    why = unmovable(source, one, stays=bool(extras))
    if why:
        return Refused(why)
    call = norm_call(source, one.loop, one.series, one.term.order, "float" if one.term.synced else "tensor")
    if isinstance(call, Refused):
        return call
    removed: Sequence[Statement] | str = split_off(source, one, extras) if extras else ()
    if isinstance(removed, str):
        return Refused(removed)
    seed = owned_seed(source, one)
    ending = ending_of(source, one, seed, stays=bool(extras)) if seed else None
    if isinstance(ending, str):
        return Refused(ending)
    slot = None if extras else slot_of(source, one)
    if seed and ending:
        edits = _as_whole(source, one, call, source.statement(seed.binding.node), ending, removed)
    elif slot:
        edits = _as_whole(source, one, call, *slot)
    else:
        edits = _as_power(source, one, call, removed)
    return Fix(title, min(limit, safety(source)), tuple(edits), call.imports, call.roles)


def rewrite_linear(source: Source, one: Accumulation, title: str) -> Fix | Refused:
    """Replaces a loop that sums the norms of tensors with the norm of all of them."""
    squared = one._replace(series=one.series._replace(term=one.term._replace(exponent=one.term.order)))
    why = unmovable(source, squared)
    if why:
        return Refused(why)
    call = norm_call(source, one.loop, one.series, one.term.order, "float" if one.term.synced else "tensor")
    if isinstance(call, Refused):
        return call
    seed = owned_seed(source, one)
    if seed is None or seed.flat:
        return Refused("the accumulator does not start at zero")
    start = source.statement(seed.binding.node)
    edits = _as_whole(source, squared, call, start, Ending(f"{seed.name} = ", seed.kind))
    return Fix(title, Safety.UNSAFE, tuple(edits), call.imports, call.roles)


# --- what keeps a loop from being replaced ---------------------------------------------------------------------------


def unmovable(source: Source, one: Accumulation, stays: bool = False) -> str:
    """Why a loop cannot be replaced by one call; empty if it can. One that `stays` may bind names for later code."""
    return next(filter(None, _obstacles(source, one, stays)), "")


def _obstacles(source: Source, one: Accumulation, stays: bool) -> Iterator[str]:
    yield one.obstacle
    if not one.term.order.equals(one.term.exponent):
        yield "the exponent does not match the norm type"
    if isinstance(source.scope(one.loop).node, cst.ClassDef):
        yield "names in a class body are its attributes"
    if one.term.kind == "numpy":
        yield "the sum is a numpy number"
    if one.extras:
        yield "the loop has side effects"
    if _reads_accumulator(source, one):
        yield f"`{source.code(one.target)}` is read inside the loop"
    leaked = "" if stays else _leaked(source, one)
    if leaked:
        yield f"`{leaked}` is used after the loop"
    if not isinstance(one.target, (cst.Name, cst.Attribute, cst.Subscript)):
        yield "the accumulator is not a plain name"
    yield from _inner_names(source, one)
    if reduced(source, one.statement, one.target):
        yield "the sum is reduced over processes"


def _inner_names(source: Source, one: Accumulation) -> Iterator[str]:
    """The names that the loop binds and that the accumulator or the call would need."""
    bound = _bound_inside(source, one)
    if bound & set(_names(source, one.target)):
        yield "each iteration adds to a different accumulator"
    targets = {name for clause in one.series.clauses for name in _names(source, clause.target)}
    helpers = {binding.name for binding in one.term.gradient.via}
    read = {name for node in _repeated(one) for name in _names(source, node)}
    if read & (bound - targets - helpers):
        yield "the condition in the loop depends on what the loop computes"


def _bound_inside(source: Source, one: Accumulation) -> set[str]:
    """The names that the loop binds, except for the accumulator."""
    own = one.target.value if isinstance(one.target, cst.Name) else ""
    return {
        name
        for name, bindings in source.scope(one.loop).bindings.items()
        if name != own and any(contains(source, one.loop, binding.node) for binding in bindings)
    }


def _repeated(one: Accumulation) -> Iterator[cst.CSTNode]:
    """The user's expressions that the call repeats."""
    yield one.term.gradient.node
    for clause in one.series.clauses:
        yield clause.iterable
        yield from (condition.test for condition in clause.conditions)


def _names(source: Source, node: cst.CSTNode) -> Iterator[str]:
    """The names that an expression reads or binds, without attributes and keywords."""
    return (inner.value for inner in source.walk(node) if isinstance(inner, cst.Name) and not is_label(source, inner))


def _reads_accumulator(source: Source, one: Accumulation) -> bool:
    wanted = source.code(one.target)
    return any(
        isinstance(node, (cst.Name, cst.Attribute, cst.Subscript))
        and source.code(node) == wanted
        and not (isinstance(node, cst.Name) and is_label(source, node))
        and not contains(source, one.statement, node)
        for node in source.walk(one.loop)
    )


def _leaked(source: Source, one: Accumulation) -> str:
    """A name that the loop binds and that something after it still uses."""
    scope = source.scope(one.loop)
    accumulator = one.target.value if isinstance(one.target, cst.Name) else ""
    for name, bindings in scope.bindings.items():
        inside = [b for b in bindings if contains(source, one.loop, b.node)]
        if name == accumulator or not inside:
            continue
        if any(not contains(source, one.loop, use) for use in reached(source, scope, inside)):
            return name
    return ""


# --- what a loop becomes ---------------------------------------------------------------------------------------------


def _as_whole(
    source: Source, one: Accumulation, call: Call, zero: Statement, ending: Ending, removed: Sequence[Statement] = ()
) -> list[Edit]:
    """The loop becomes the norm, or the power of it that the code needs; its preparation and the roots are removed."""
    gone = [zero, *ending.gone]
    line = _fitted(source, one.loop, call, lambda norm: ending.target + _valued(norm, one, ending))
    if ending.joined is not None:
        start, end = lines_of(source, one.loop)[0], source.span(ending.joined)[1]
        comments = [*comments_of(source, gone[0]), *comments_within(source, start, end)]
        placed = [Edit(start, end, comment_lines(source, one.loop, unwritten(comments, line)) + line)]
    else:
        placed = _placed(source, one.loop, line, gone, removed)
    return [*ending.edits, *placed, *(delete_lines(source, statement) for statement in gone)]


def _valued(norm: str, one: Accumulation, ending: Ending) -> str:
    text = typed(norm, ending.kind, ending.numpy)
    return text if ending.whole else f"{text} ** {one.term.order.text or 2}"


def _as_power(source: Source, one: Accumulation, call: Call, removed: Sequence[Statement]) -> list[Edit]:
    """The loop becomes a sum, since the accumulator does not start at zero."""
    kind: NumberKind = "float" if one.term.synced else "tensor"
    target = source.code(one.target)

    def written(norm: str) -> str:
        power = f"{typed(norm, kind)} ** {one.term.order.text or 2}"
        match one.statement:
            case cst.Expr(value=cst.Call(func=cst.Attribute(attr=cst.Name(value=method)))):
                return f"{target}.{method}({power})"
        return f"{target} += {power}"

    return _placed(source, one.loop, _fitted(source, one.loop, call, written), [], removed)


def _placed(
    source: Source, loop: cst.For, line: str, gone: Sequence[Statement], removed: Sequence[Statement]
) -> list[Edit]:
    """The line that replaces the loop; or, if the loop stays, the line above it, without the accumulating statements.

    The comments of all replaced statements go above it, in order.
    """
    replaced = sorted([*gone, *(removed or [loop])], key=source.rank)
    comments = [comment for statement in replaced for comment in comments_of(source, statement)]
    text = comment_lines(source, loop, unwritten(comments, line)) + line
    start, stop = lines_of(source, loop)
    if removed:
        return [Edit(start, start, text + source.newline), *(delete_lines(source, one) for one in removed)]
    return [Edit(start, stop, text + source.newline if source.text[start:stop].endswith("\n") else text)]


def _fitted(source: Source, statement: Statement, call: Call, written: Callable[[str], str]) -> str:
    """A statement with a norm call, on one line if that is no longer than the user's lines."""
    pad = indentation(source, statement)
    text = written(call.text)
    if len(pad) + len(text) > width(source):
        text = written(call.broken(pad, width(source)))
    return pad + text.replace("\n", source.newline)
