"""Writes the one call that a recognised gradient norm becomes, and the edits that put it there."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import libcst as cst

from clipcheck.edits import delete_lines, indentation, lines_of, reach
from clipcheck.factors import Factor, factor
from clipcheck.flow import contains, reached, reaching
from clipcheck.gradients import Condition, gradient, is_zero
from clipcheck.loops import Accumulation, fresh
from clipcheck.names import Binding
from clipcheck.norms import Clause, Kind, Power, Series, Total, raised
from clipcheck.rule import Edit, Fix, Role, Safety
from clipcheck.source import Source, Statement

_SHARDED = ("torch.distributed.fsdp.fully_shard", "torch.distributed._composable", "torch.distributed.tensor")


class Refused(NamedTuple):
    """Why a norm is reported but not rewritten."""

    why: str


class Call(NamedTuple):
    """The call that computes a norm, the imports that it needs, and what the user's expressions in it are."""

    function: str
    arguments: tuple[tuple[str, ...], ...]  # each in the pieces at which a long line may be broken
    imports: tuple[Edit, ...]
    roles: tuple[tuple[str, Role], ...]

    @property
    def text(self) -> str:
        return f"{self.function}({', '.join(map(_joined, self.arguments))})"

    def broken(self, pad: str, room: int) -> str:
        """The call over several lines, for code that is indented by `pad`."""
        deeper = pad + "    "
        lines = []
        for pieces in self.arguments:
            whole = _joined(pieces)
            if len(pieces) > 1 and len(deeper) + len(whole) > room:
                inner = "".join(f"\n{deeper}    {piece}" for piece in pieces)
                whole = f"[{inner}\n{deeper}]"
            lines.append(f"{deeper}{whole}")
        return f"{self.function}(\n" + ",\n".join(lines) + f"\n{pad})"


def _joined(pieces: tuple[str, ...]) -> str:
    return f"[{' '.join(pieces)}]" if len(pieces) > 1 else pieces[0]


def width(source: Source) -> int:
    """How long a line may be: as long as the user's longest, within the usual bounds."""
    longest = max(map(len, source.text.splitlines()), default=0)
    return min(max(longest, 79), 120)


# --- the call --------------------------------------------------------------------------------------------------------


def norm_call(source: Source, at: cst.CSTNode, found: Series, order: Factor) -> Call | Refused:
    """`grad_norm(parameters, p)` or `get_total_norm(gradients, p)` over what the series goes through."""
    term = found.term
    if term.matrix:
        return Refused("`ord` means a matrix norm here, which is another number for two-dimensional gradients")
    scoped = _carried(source, found)
    if isinstance(scoped, Refused):
        return scoped
    over_parameters = term.gradient.owner is not None and not term.gradient.casts and source.target == "clipcheck"
    tensors = _parameters(source, scoped) if over_parameters else _gradients(source, scoped)
    reached_ = reach(source, at, "grad_norm" if over_parameters else "get_total_norm")
    shown = () if order.value == 2 and not order.symbol else ((order.text or str(order.number),),)
    return Call(reached_.text, (tensors, *shown), reached_.imports, roles(source, scoped, order))


def _carried(source: Source, found: Series) -> Series | Refused:
    """The series with only the tests that a comprehension must repeat, split at `and`."""
    kept = []
    for clause in found.clauses:
        tests = tuple(one for condition in clause.conditions for one in _split(source, condition))
        for test in tests:
            if any(isinstance(node, (cst.NamedExpr, cst.Await, cst.Yield)) for node in source.walk(test.test)):
                return Refused("the test in the loop has a side effect")
        kept.append(clause._replace(conditions=tests))
    inside = {binding.name for binding in found.term.gradient.via}
    for clause in kept:
        for test in clause.conditions:
            if is_none_test(source, found.term, test):
                continue
            for node in source.walk(test.test):
                if isinstance(node, cst.Name) and node.value in inside:
                    return Refused(f"the test in the loop needs `{node.value}`")
    return found._replace(clauses=tuple(kept))


def _split(source: Source, condition: Condition) -> Iterator[Condition]:
    test, holds = condition
    match test:
        case cst.BooleanOperation(left=left, operator=cst.And(), right=right) if holds:
            yield from _split(source, Condition(left, True))
            yield from _split(source, Condition(right, True))
        case cst.BooleanOperation(left=left, operator=cst.Or(), right=right) if not holds:
            yield from _split(source, Condition(left, False))
            yield from _split(source, Condition(right, False))
        case cst.UnaryOperation(operator=cst.Not(), expression=inner):
            yield from _split(source, Condition(inner, not holds))
        case _:
            yield condition


def is_none_test(source: Source, term: Power, condition: Condition) -> bool:
    """Whether a test does no more than to leave out a missing gradient."""
    match condition.test:
        case cst.Comparison(
            left=left,
            comparisons=[
                cst.ComparisonTarget(
                    operator=(cst.IsNot() | cst.NotEqual() | cst.Is() | cst.Equal()) as operator,
                    comparator=cst.Name(value="None"),
                )
            ],
        ):
            positive = isinstance(operator, (cst.IsNot, cst.NotEqual))
            found = gradient(source, left)
            return (
                positive == condition.holds
                and found is not None
                and _plain(source.code(found.node)) == _plain(source.code(term.gradient.node))
            )
        case cst.Call(func=func, args=[cst.Arg(value=owner), cst.Arg(value=cst.SimpleString(evaluated_value="grad"))]):
            return (
                condition.holds
                and source.qualified(func) == "builtins.hasattr"
                and term.gradient.owner is not None
                and source.code(owner) == source.code(term.gradient.owner)
            )
    return False


def _plain(text: str) -> str:
    return "".join(text.split()).replace(".data", "")


def _parameters(source: Source, found: Series) -> tuple[str, ...]:
    """The argument of `grad_norm`: the iterable itself where the loop takes every element as it comes."""
    owner = found.term.gradient.owner
    assert owner is not None
    clauses = tuple(
        clause._replace(conditions=tuple(c for c in clause.conditions if not is_none_test(source, found.term, c)))
        for clause in found.clauses
    )
    return _argument(source, clauses, owner, source.code(owner))


def _gradients(source: Source, found: Series) -> tuple[str, ...]:
    """The argument of `get_total_norm`: gradients without None, cast as they were."""
    term = found.term
    clauses = found.clauses
    tested = any(is_none_test(source, term, c) for clause in clauses for c in clause.conditions)
    element = source.code(term.gradient.node) + term.gradient.casts
    extra = ""
    if term.gradient.owner is not None and not tested and source.target == "torch":
        extra = f"if {source.code(term.gradient.node)} is not None"
    return _argument(source, clauses, term.gradient.node, element, extra)


def _argument(
    source: Source, clauses: Sequence[Clause], wanted: cst.BaseExpression, element: str, extra: str = ""
) -> tuple[str, ...]:
    """The iterable itself, or the pieces of a list comprehension over it."""
    if len(clauses) == 1 and not clauses[0].conditions and not extra:
        clause = clauses[0]
        if element == source.code(clause.target) and source.code(wanted) == element:
            return (outer_code(source, clause.iterable),)
        bare = _without_names(source, clause, element)
        if bare:
            return (bare,)
    parts = [element]
    for clause in clauses:
        parts.append(f"for {source.code(clause.target)} in {outer_code(source, clause.iterable)}")
        parts += [f"if {_condition(source, test)}" for test in clause.conditions]
    return (*parts, extra) if extra else tuple(parts)


def _without_names(source: Source, clause: Clause, element: str) -> str:
    """`model.parameters()` for `model.named_parameters()` whose names play no part."""
    match clause.target, clause.iterable:
        case (
            cst.Tuple(elements=[_, cst.Element(value=cst.Name(value=second))]),
            cst.Call(func=cst.Attribute(value=module, attr=cst.Name(value="named_parameters")), args=()),
        ) if second == element:
            return f"{source.code(module)}.parameters()"
    return ""


def outer_code(source: Source, node: cst.BaseExpression) -> str:
    start, end = source.outer_span(node)
    return source.text[start:end]


_NEGATED: dict[type, str] = {cst.Is: "is not", cst.IsNot: "is", cst.In: "not in", cst.NotIn: "in"}


def _condition(source: Source, condition: Condition) -> str:
    text = outer_code(source, condition.test)
    match condition.test:
        case cst.IfExp() | cst.Lambda() | cst.BooleanOperation(operator=cst.Or()) if not condition.test.lpar:
            text = f"({text})"
    if condition.holds:
        return text
    match condition.test:
        case cst.Comparison(left=left, comparisons=[cst.ComparisonTarget(operator=operator, comparator=right)]) if (
            type(operator) in _NEGATED
        ):
            return f"{source.code(left)} {_NEGATED[type(operator)]} {outer_code(source, right)}"
        case cst.BooleanOperation() | cst.Comparison():
            return f"not ({source.code(condition.test)})"
    return f"not {text}"


def roles(source: Source, found: Series, order: Factor) -> tuple[tuple[str, Role], ...]:
    """What the user's own expressions in a norm stand for."""
    first = found.clauses[0].iterable
    named: list[tuple[str, Role]] = []
    match first:
        case cst.Call(func=cst.Attribute(value=module, attr=cst.Name(value="named_parameters"))):
            named.append((source.code(module), Role.MODEL))
        case cst.Attribute(value=optimizer, attr=cst.Name(value="param_groups")):
            named.append((source.code(optimizer), Role.OPTIMIZER))
        case _:
            role = Role.GRADIENTS if found.term.gradient.owner is None else Role.PARAMETERS
            named.append((source.code(first), role))
    if order.symbol:
        named.append((order.symbol, Role.NORM_TYPE))
    return tuple(named)


def safety(source: Source) -> Safety:
    """Safe but where gradients may be sharded, so that the value changes from this rank's to the whole, and towards torch."""
    if source.target == "torch":
        return Safety.UNSAFE
    paths = (b.path for scope in source.names.scopes.values() for bs in scope.bindings.values() for b in bs)
    return Safety.UNSAFE if any(path.startswith(_SHARDED) for path in paths) else Safety.SAFE


def typed(text: str, kind: Kind, numpy: str = "") -> str:
    """A norm call as the type that the code had before."""
    if kind == "tensor":
        return text
    if kind == "numpy":
        return f"{numpy}.float64({text}.item())" if numpy else f"{text}.item()"
    return f"{text}.item()"


# --- an expression ---------------------------------------------------------------------------------------------------


def rewrite_total(source: Source, found: Total, title: str) -> Fix | Refused:
    """Put one call in the place of an expression."""
    degree = found.degree
    if degree is None:
        return Refused("the exponent does not match the norm type")
    if found.kind == "numpy" and not found.numpy:
        return Refused("the result is one of numpy's numbers, and numpy has no name here")
    if not found.term.gradient.certain:
        return Refused("the norm comes about in more than one way")
    call = norm_call(source, found.node, found.series, found.term.order)
    if isinstance(call, Refused):
        return call
    if not degree.is_one and not degree.equals(found.term.order):
        return Refused("the root does not match the norm type")
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
    return Fix(title, safety(source), (Edit(start, end, text),), call.imports, call.roles)


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


class Root(NamedTuple):
    """The root of an accumulator, taken at one of its uses."""

    use: cst.Name
    node: cst.CSTNode  # the expression, or the statement `t **= 0.5`
    kind: Kind
    numpy: str = ""


def rewrite_loop(source: Source, one: Accumulation, title: str) -> Fix | Refused:
    """Put one call in the place of a loop, with the zero before it and the root behind it where they belong to it."""
    why = unmovable(source, one)
    if why:
        return Refused(why)
    call = norm_call(source, one.loop, one.series, one.term.order)
    if isinstance(call, Refused):
        return call
    seed = fresh(source, one)
    owned = _owned_seed(source, one, seed) if seed else None
    found = _roots(source, one, owned) if owned else None
    edits = _as_norm(source, one, call, owned, found) if owned and found else _as_power(source, one, call)
    return Fix(title, safety(source), tuple(edits), call.imports, call.roles)


def unmovable(source: Source, one: Accumulation) -> str:
    """Why a loop cannot be replaced by one call."""
    if one.obstacle:
        return one.obstacle
    if not one.term.order.equals(one.term.exponent):
        return "the exponent does not match the norm type"
    if one.extras:
        return "the loop does more than add up"
    if _reads_accumulator(source, one):
        return f"`{source.code(one.target)}` is read inside the loop"
    leaked = leaking(source, one)
    if leaked:
        return f"`{leaked}` is used after the loop"
    if not isinstance(one.target, (cst.Name, cst.Attribute, cst.Subscript)):
        return "the accumulator is not a plain name"
    bound = {b for clause in one.series.clauses for b in _names(source, clause.target)}
    if bound & set(_names(source, one.target)):
        return "each round adds to another accumulator"
    return ""


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


def root_of(source: Source, use: cst.Name, term: Power) -> Root | None:
    """The root, fitting the power that `term` adds up, that is taken of an accumulator where it is used."""
    match source.parent(use):
        case cst.AugAssign(target=target, operator=cst.PowerAssign(), value=value) as statement if target is use:
            by = factor(source, value)
            whole = by and term.order.times(by)
            return Root(use, statement, term.kind) if whole and whole.is_one else None
    node: cst.CSTNode = use
    kind: Kind = "float" if term.synced else "tensor"
    numpy = ""
    product: Factor | None = term.order
    best: Root | None = None
    for above in source.ancestors(use):
        if isinstance(above, (cst.Arg, cst.Attribute)):
            continue
        step = raised(source, above)
        if step is not None and step[0] is node and best is None:
            product = product and product.times(step[1])
            if product is None:
                return None
            if step[2] == "numpy":
                match above:
                    case cst.Call(func=cst.Attribute(value=value)):
                        kind, numpy = "numpy", source.code(value)
                    case _:
                        return None
                if not term.synced:
                    return None
            elif step[2] == "float":
                kind = "float"
            elif term.synced and isinstance(above, cst.Call) and source.qualified(above.func) != "builtins.pow":
                return None  # torch.sqrt of a float raises; a method of a float does not exist
            if product.is_one:
                best = Root(use, above, kind, numpy)
            node = above
            continue
        if best is not None and not term.synced:
            match above:
                case cst.Call(func=cst.Attribute(value=value, attr=cst.Name(value="item")), args=()) if value is node:
                    best = Root(use, above, "float")
                    node = above
                    continue
        break
    return best


def _as_power(source: Source, one: Accumulation, call: Call) -> list[Edit]:
    """The loop becomes a sum: the accumulator held something before, or its power is what is wanted."""
    kind: Kind = "float" if one.term.synced else "tensor"
    target = source.code(one.target)
    power = one.term.order.text or 2
    match one.statement:
        case cst.Expr(value=cst.Call(func=cst.Attribute(attr=cst.Name(value=method)))):
            line = fitted(source, one.loop, call, lambda norm: f"{target}.{method}({typed(norm, kind)} ** {power})")
        case _:
            line = fitted(source, one.loop, call, lambda norm: f"{target} += {typed(norm, kind)} ** {power}")
    return [replace_lines(source, one.loop, line, ())]


def fitted(source: Source, statement: Statement, call: Call, written: Callable[[str], str]) -> str:
    """A statement around a norm call, on one line if that is as long as the user's lines at most."""
    pad, room = indentation(source, statement), width(source)
    text = written(call.text)
    if len(pad) + len(text) > room:
        text = written(call.broken(pad, room))
    return pad + text.replace("\n", source.newline)


def _as_norm(source: Source, one: Accumulation, call: Call, seed: Binding, roots: list[Root]) -> list[Edit]:
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
        elif own and own != "same" and len(roots) == 1 and _follows(source, one.loop, statement):
            target, result, numpy, last = own, root.kind, root.numpy, statement
        else:
            edits.append(Edit(*source.span(root.node), _as_kind(name, kind, root)))
    if len(roots) > 1 and any(s is not doomed[0] for s in doomed):
        return _as_power(source, one, call)
    gone = [comment for statement in doomed for comment in comments_of(source, statement)]
    line = fitted(source, one.loop, call, lambda norm: target + typed(norm, result, numpy))
    if last is not one.loop:
        start, end = lines_of(source, one.loop)[0], source.span(last)[1]
        gone += comments_within(source, start, end)
        pad = indentation(source, one.loop)
        edits.append(Edit(start, end, "".join(f"{pad}{comment}{source.newline}" for comment in gone) + line))
    else:
        edits.append(replace_lines(source, one.loop, line, gone))
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
