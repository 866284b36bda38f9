"""The edits that put one call in the place of a recognised gradient norm: of an expression, or of a loop and what belongs to it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeAlias

import libcst as cst

from clipcheck.fixes.norm_call import Call, norm_call, safety, typed, width
from clipcheck.fixes.part_loop import parting
from clipcheck.fixes.verbs import delete_lines, indentation, lines_of
from clipcheck.gradients.accumulations import Accumulation, fresh, reduced
from clipcheck.gradients.powers import Kind
from clipcheck.gradients.roots import Root, root_of
from clipcheck.gradients.spelling import Refused
from clipcheck.gradients.totals import Total
from clipcheck.python.literals import is_zero
from clipcheck.python.names import Binding
from clipcheck.python.reaching import contains, reached, reaching
from clipcheck.python.source import Source, Statement
from clipcheck.rule import Edit, Fix, Safety

# --- an expression ---------------------------------------------------------------------------------------------------


def rewrite_total(source: Source, found: Total, title: str, limit: Safety = Safety.SAFE) -> Fix | Refused:
    """Put one call in the place of an expression, and of the statements that only prepare it."""
    degree = found.degree
    if degree is None:
        return Refused("the exponent does not match the norm type")
    if found.kind == "numpy" and (not found.numpy or found.term.kind == "numpy"):
        return Refused("the result is one of numpy's numbers")
    if not found.term.gradient.certain:
        return Refused("the norm comes about in more than one way")
    call = norm_call(source, found.node, found.series, found.term.order)
    if isinstance(call, Refused):
        return call
    if not degree.is_one and not degree.equals(found.term.order):
        return Refused("the root does not match the norm type")
    prepared = _prepared(source, found)
    if isinstance(prepared, Refused):
        return prepared
    start, end = source.span(found.node)
    if comments_within(source, start, end):
        return Refused("a comment stands inside the expression")

    def written(norm: str) -> str:
        text = typed(norm, found.kind, found.numpy)
        if degree is not None and not degree.is_one:
            text = f"{text} ** {found.term.order.text or 2}"
            return f"({text})" if _binds_tighter(source, found.node) else text
        return text

    text = written(call.text)
    room = width(source)
    line = source.line_starts[source.line_at(start) - 1]
    rest = source.text[end:].split("\n", 1)[0]
    in_string = source.enclosing(found.node, cst.FormattedString) is not None
    if start - line + len(text) + len(rest) > room and not in_string:
        text = written(call.broken(indentation(source, source.statement(found.node)), room))
    edits = (*(delete_lines(source, statement) for statement in prepared), Edit(start, end, text))
    return Fix(title, min(limit, safety(source)), edits, call.imports, call.roles)


def _prepared(source: Source, found: Total) -> list[Statement] | Refused:
    """The statements that do nothing but prepare a total: lists of norms, stacks of them, the loop that fills a list."""
    names = list(found.series.used)
    loop = found.series.loop
    if loop is not None:
        why = unmovable(source, loop._replace(series=found.series))
        if why:
            return Refused(why)
    statements: list[Statement] = [] if loop is None else [loop.loop]
    for binding in names:
        statement = source.statement(binding.node)
        uses = [
            use
            for use in reached(source, source.scope(binding.node), [binding])
            if loop is None or not contains(source, loop.loop, use)
        ]
        if not isinstance(statement, cst.SimpleStatementLine) or len(statement.body) != 1 or len(uses) != 1:
            return Refused(f"`{binding.name}` has another use")
        statements.append(statement)
    if not statements:
        return []
    siblings, here = source.siblings(source.statement(found.node))
    before = siblings[max(0, here - len(statements)) : here]
    if {id(one) for one in before} != {id(one) for one in statements}:
        return Refused("the norms are taken at another place than they are combined")
    if any(comments_of(source, one) for one in statements):
        return Refused("a comment stands in the way")
    return statements


def _binds_tighter(source: Source, node: cst.BaseExpression) -> bool:
    """Whether what stands around an expression takes hold of it before `**` does."""
    if node.lpar:
        return False
    match source.parent(node):
        case cst.Attribute() | cst.Subscript() | cst.Await():
            return True
        case cst.BinaryOperation(operator=cst.Power(), left=left):
            return left is node
    return False


def comments_within(source: Source, start: int, end: int) -> list[str]:
    return [source.text[a:b] for a, b in source.comments if start <= a < end]


# --- a loop ----------------------------------------------------------------------------------------------------------


def rewrite_loop(source: Source, one: Accumulation, title: str, limit: Safety = Safety.SAFE) -> Fix | Refused:
    """Put one call in the place of a loop, with the zero before it and the root behind it where they belong to it."""
    extras, one = one.extras, one._replace(extras=())
    why = unmovable(source, one, kept=bool(extras))
    if why:
        return Refused(why)
    call = norm_call(source, one.loop, one.series, one.term.order)
    if isinstance(call, Refused):
        return call
    place: Place | None = None
    if extras:
        removed = parting(source, one, extras)
        if isinstance(removed, str):
            return Refused(removed)
        place = _before(source, one.loop, removed)
    seed = fresh(source, one)
    owned = _owned_seed(source, one, seed) if seed else None
    found = _roots(source, one, owned) if owned else None
    norm = _as_norm(source, one, call, owned, found, place) if owned and found else None
    edits = norm or _as_power(source, one, call, place)
    return Fix(title, min(limit, safety(source)), tuple(edits), call.imports, call.roles)


def rewrite_linear(source: Source, one: Accumulation, title: str) -> Fix | Refused:
    """Put the norm of all tensors in the place of a loop that adds up their norms."""
    squared = one._replace(series=one.series._replace(term=one.term._replace(exponent=one.term.order)))
    why = unmovable(source, squared)
    if why:
        return Refused(why)
    call = norm_call(source, one.loop, one.series, one.term.order)
    if isinstance(call, Refused):
        return call
    seed = fresh(source, one)
    owned = _owned_seed(source, one, seed) if seed else None
    if owned is None:
        return Refused("the accumulator held something before")
    edits = _as_norm(source, squared, call, owned, [])
    return Fix(title, Safety.UNSAFE, tuple(edits), call.imports, call.roles)


Place: TypeAlias = Callable[[str, list[str]], list[Edit]]


def _before(source: Source, loop: cst.For, removed: Sequence[Statement]) -> Place:
    """Puts the norm above a loop that goes on without the statements that added it up."""

    def place(line: str, comments: list[str]) -> list[Edit]:
        start = lines_of(source, loop)[0]
        pad = indentation(source, loop)
        kept = [*comments, *(comment for one in removed for comment in comments_of(source, one))]
        text = "".join(f"{pad}{comment}{source.newline}" for comment in kept) + line + source.newline
        return [Edit(start, start, text), *(delete_lines(source, one) for one in removed)]

    return place


def unmovable(source: Source, one: Accumulation, kept: bool = False) -> str:
    """Why a loop cannot be replaced by one call."""
    if one.obstacle:
        return one.obstacle
    if not one.term.order.equals(one.term.exponent):
        return "the exponent does not match the norm type"
    if isinstance(source.scope(one.loop).node, cst.ClassDef):
        return "the names of a class body are its attributes"
    if one.term.kind == "numpy":
        return "the sum is one of numpy's numbers"
    if one.extras:
        return "the loop does more than add up"
    if _reads_accumulator(source, one):
        return f"`{source.code(one.target)}` is read inside the loop"
    leaked = "" if kept else leaking(source, one)
    if leaked:
        return f"`{leaked}` is used after the loop"
    if not isinstance(one.target, (cst.Name, cst.Attribute, cst.Subscript)):
        return "the accumulator is not a plain name"
    bound = _bound_inside(source, one)
    if bound & set(_names(source, one.target)):
        return "each round adds to another accumulator"
    targets = {name for clause in one.series.clauses for name in _names(source, clause.target)}
    helpers = {binding.name for binding in one.term.gradient.via}
    read = {name for node in _carried_along(one) for name in _names(source, node)}
    if read & (bound - targets - helpers):
        return "the test in the loop needs what the loop computes"
    if reduced(source, one.statement, one.target):
        return "the sum is reduced over processes"
    return ""


def _bound_inside(source: Source, one: Accumulation) -> set[str]:
    """The names that the loop binds, but for the accumulator."""
    own = one.target.value if isinstance(one.target, cst.Name) else ""
    return {
        name
        for name, bindings in source.scope(one.loop).bindings.items()
        if name != own and any(contains(source, one.loop, binding.node) for binding in bindings)
    }


def _carried_along(one: Accumulation) -> Iterator[cst.CSTNode]:
    """The user's expressions that the call repeats."""
    yield one.term.gradient.node
    for clause in one.series.clauses:
        yield clause.iterable
        yield from (condition.test for condition in clause.conditions)


def _names(source: Source, node: cst.CSTNode) -> Iterator[str]:
    """The names that an expression reads or binds, without those of attributes and keywords."""
    return (inner.value for inner in source.walk(node) if isinstance(inner, cst.Name) and not _is_label(source, inner))


def _is_label(source: Source, name: cst.Name) -> bool:
    match source.parent(name):
        case cst.Attribute(attr=attr):
            return attr is name
        case cst.Arg(keyword=keyword):
            return keyword is name
    return False


def _reads_accumulator(source: Source, one: Accumulation) -> bool:
    wanted = source.code(one.target)
    return any(
        isinstance(node, (cst.Name, cst.Attribute, cst.Subscript))
        and source.code(node) == wanted
        and not (isinstance(node, cst.Name) and _is_label(source, node))
        and not contains(source, one.statement, node)
        for node in source.walk(one.loop)
    )


def leaking(source: Source, one: Accumulation) -> str:
    """A name that the loop binds and that something behind it still uses."""
    scope = source.scope(one.loop)
    accumulator = one.target.value if isinstance(one.target, cst.Name) else ""
    for name, bindings in scope.bindings.items():
        inside = [b for b in bindings if contains(source, one.loop, b.node)]
        if name == accumulator or not inside:
            continue
        if any(not contains(source, one.loop, use) for use in reached(source, scope, inside)):
            return name
    return ""


def _owned_seed(source: Source, one: Accumulation, seed: Binding) -> Binding | None:
    """The seed, if it is a zero of its own in the loop's block that only the loop and what follows it read."""
    statement = source.statement(seed.node)
    if seed.value is None or not isinstance(seed.value, (cst.Integer, cst.Float)) or not is_zero(source, seed.value):
        return None
    if not isinstance(statement, cst.SimpleStatementLine) or len(statement.body) != 1:
        return None
    match statement.body[0]:
        case cst.Assign(targets=[_]) | cst.AnnAssign():
            pass
        case _:
            return None
    return seed if source.parent(statement) is source.parent(one.loop) else None


def _roots(source: Source, one: Accumulation, seed: Binding) -> list[Root] | None:
    """The roots that are all that becomes of the accumulator behind the loop; None where anything else does."""
    assert isinstance(one.target, cst.Name)
    scope = source.scope(one.target).owner(one.target.value)
    assert scope is not None
    if source.scope(one.loop) is not scope:
        return None
    own = [b for b in scope.bindings[one.target.value] if contains(source, one.loop, b.node)]
    found: list[Root] = []
    for use in reached(source, scope, [*own, seed]):
        if contains(source, one.loop, use):
            continue
        if any(b is not seed and b not in own for b in reaching(source, use)):
            return None
        root = root_of(source, use, one.term)
        if root is None:
            return None
        found.append(root)
    return found or None


def _as_power(source: Source, one: Accumulation, call: Call, place: Place | None = None) -> list[Edit]:
    """The loop becomes a sum: the accumulator held something before, or its power is what is wanted."""
    kind: Kind = "float" if one.term.synced else "tensor"
    target = source.code(one.target)
    power = one.term.order.text or 2
    match one.statement:
        case cst.Expr(value=cst.Call(func=cst.Attribute(attr=cst.Name(value=method)))):
            line = fitted(source, one.loop, call, lambda norm: f"{target}.{method}({typed(norm, kind)} ** {power})")
        case _:
            line = fitted(source, one.loop, call, lambda norm: f"{target} += {typed(norm, kind)} ** {power}")
    return place(line, []) if place else [replace_lines(source, one.loop, line, ())]


def fitted(source: Source, statement: Statement, call: Call, written: Callable[[str], str]) -> str:
    """A statement around a norm call, on one line if that is as long as the user's lines at most."""
    pad, room = indentation(source, statement), width(source)
    text = written(call.text)
    if len(pad) + len(text) > room:
        text = written(call.broken(pad, room))
    return pad + text.replace("\n", source.newline)


def _as_norm(
    source: Source, one: Accumulation, call: Call, seed: Binding, roots: list[Root], place: Place | None = None
) -> list[Edit]:
    """The loop becomes the norm, and every root of the accumulator the accumulator."""
    assert isinstance(one.target, cst.Name)
    name = one.target.value
    kind: Kind = "float" if one.term.synced else "tensor"
    edits: list[Edit] = []
    doomed: list[Statement] = [source.statement(seed.node)]
    target = f"{name} = "
    match doomed[0]:
        case cst.SimpleStatementLine(body=[cst.AnnAssign(annotation=annotation)]):
            target = f"{name}: {source.code(annotation.annotation)} = "
    last: Statement = one.loop
    result, numpy = kind, ""
    for root in roots:
        statement = source.statement(root.node)
        own = _own_statement(source, statement, root, name)
        beside = source.parent(statement) is source.parent(one.loop)
        if own == "same" and beside:
            result, numpy = root.kind, root.numpy
            doomed.append(statement)
        elif own and own != "same" and len(roots) == 1 and _follows(source, one.loop, statement) and not place:
            target, result, numpy, last = own, root.kind, root.numpy, statement
        elif isinstance(root.node, cst.AugAssign):
            return _as_power(source, one, call, place)
        else:
            edits.append(Edit(*source.span(root.node), _as_kind(name, kind, root)))
    if len(roots) > 1 and any(s is not doomed[0] for s in doomed):
        return _as_power(source, one, call, place)
    gone = [comment for statement in doomed for comment in comments_of(source, statement)]
    line = fitted(source, one.loop, call, lambda norm: target + typed(norm, result, numpy))
    if last is not one.loop:
        start, end = lines_of(source, one.loop)[0], source.span(last)[1]
        gone += comments_within(source, start, end)
        pad = indentation(source, one.loop)
        edits.append(Edit(start, end, "".join(f"{pad}{comment}{source.newline}" for comment in gone) + line))
    else:
        edits += place(line, gone) if place else [replace_lines(source, one.loop, line, gone)]
    edits += [delete_lines(source, statement) for statement in doomed]
    return edits


def _as_kind(name: str, kind: Kind, root: Root) -> str:
    if root.kind == "numpy":
        return f"{root.numpy}.float64({name})"
    return f"{name}.item()" if root.kind == "float" and kind == "tensor" else name


def _own_statement(source: Source, statement: Statement, root: Root, name: str) -> str:
    """How a statement begins that does nothing but take the root: "same" where it puts it into the accumulator again."""
    if not isinstance(statement, cst.SimpleStatementLine) or len(statement.body) != 1:
        return ""
    match statement.body[0]:
        case cst.AugAssign() as small if small is root.node:
            return "same"
        case cst.Assign(targets=[cst.AssignTarget(target=cst.Name(value=target))], value=value) if value is root.node:
            return "same" if target == name else f"{target} = "
        case cst.AnnAssign(target=cst.Name(value=target), value=value, annotation=annotation) if value is root.node:
            return f"{target}: {source.code(annotation.annotation)} = "
        case cst.Return(value=value) if value is root.node:
            return "return "
    return ""


def _follows(source: Source, loop: cst.For, statement: Statement) -> bool:
    siblings, index = source.siblings(loop)
    return index + 1 < len(siblings) and siblings[index + 1] is statement


def comments_of(source: Source, statement: Statement) -> list[str]:
    """The comments on a statement's own lines, which deleting it would take away."""
    return comments_within(source, *lines_of(source, statement))


def replace_lines(source: Source, statement: Statement, line: str, comments: Iterable[str]) -> Edit:
    """Another statement in the place of one, and above it the comments that would be lost."""
    start, stop = lines_of(source, statement)
    pad = indentation(source, statement)
    kept = [*comments, *comments_within(source, start, stop)]
    text = "".join(f"{pad}{comment}{source.newline}" for comment in kept) + line
    if source.text[start:stop].endswith(("\n", "\r")):
        text += source.newline
    return Edit(start, stop, text)
