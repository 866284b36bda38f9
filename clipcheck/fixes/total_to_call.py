"""The edits that replace an expression that computes a gradient norm, and its preparation, with one call."""

from __future__ import annotations

import libcst as cst

from clipcheck.fixes.later_roots import norm_instead
from clipcheck.fixes.loop_to_call import unmovable
from clipcheck.fixes.norm_call import Call, norm_call, safety, typed, width
from clipcheck.fixes.verbs import comments_of, comments_within, delete_lines, indentation, with_parentheses
from clipcheck.gradients.exponents import ONE, Exponent
from clipcheck.gradients.powers import raised
from clipcheck.gradients.spelling import Refused
from clipcheck.gradients.totals import Total, total
from clipcheck.python.names import Binding
from clipcheck.python.reaching import contains, reached
from clipcheck.python.source import Source, Statement
from clipcheck.rule import Edit, Fix, Safety


def rewrite_total(source: Source, found: Total, title: str, limit: Safety = Safety.SAFE) -> Fix | Refused:
    """Replaces an expression, and the statements that only prepare it, with one call."""
    degree = found.degree
    if degree is None:
        return Refused("the exponent does not match the norm type")
    if found.kind == "numpy" and (not found.numpy or found.term.kind == "numpy"):
        return Refused("the result is a numpy number")
    if not found.term.gradient.certain:
        return Refused("the norm is computed in more than one way")
    if _raises(source, found):  # if it worked, it would be a tensor: `torch.sqrt` returns one
        found, limit = found._replace(kind="tensor"), Safety.UNSAFE
    call = norm_call(source, found.node, found.series, found.term.order, found.kind)
    if isinstance(call, Refused):
        return call
    if found.cast and found.kind == "tensor":  # Python numbers are float64 anyway
        call = call._replace(cast=found.cast)
    if not degree.is_one and not degree.equals(found.term.order):
        return Refused("the root does not match the norm type")
    prepared = _prepared(source, found)
    if isinstance(prepared, Refused):
        return prepared
    if comments_within(source, *source.span(found.node)):
        return Refused("it would remove a comment inside the expression")
    norm = None if degree.is_one else norm_instead(source, found)
    if norm is not None:
        degree, found = ONE, found._replace(node=norm.node, kind=norm.kind, numpy=norm.numpy)
    start, end = with_parentheses(source, found.node)
    text = _fitted(source, found, degree, call, (start, end))
    gone = (delete_lines(source, statement) for statement in prepared)
    edits = (*gone, Edit(start, end, text), *(norm.edits if norm else ()))
    return Fix(title, min(limit, safety(source)), edits, call.imports, call.roles)


def _raises(source: Source, found: Total) -> bool:
    """Whether the original code raises: `torch.sqrt` does for a Python float, and a float has no method `sqrt`."""
    node: cst.BaseExpression = found.node
    while (step := raised(source, node)) is not None:
        inner = total(source, step.base)
        if inner is not None and inner.kind != "tensor" and step.kind == "tensor" and isinstance(node, cst.Call):
            return source.qualified(node.func) != "builtins.pow"
        node = step.base
    return False


def _fitted(source: Source, found: Total, degree: Exponent, call: Call, span: tuple[int, int]) -> str:
    """The call as an expression, on several lines if one would be longer than the user's lines."""
    start, end = span
    text = _written(source, found, degree, call.text)
    line = source.line_starts[source.line_at(start) - 1]
    rest = source.text[end:].split("\n", 1)[0]
    room = width(source)
    if start - line + len(text) + len(rest) <= room or source.enclosing(found.node, cst.FormattedString) is not None:
        return text
    return _written(source, found, degree, call.broken(indentation(source, source.statement(found.node)), room))


def _written(source: Source, found: Total, degree: Exponent, norm: str) -> str:
    """A norm converted to the type and the power of the original expression."""
    text = typed(norm, found.kind, found.numpy)
    if degree.is_one:
        return text
    text = f"{text} ** {found.term.order.text or 2}"
    bare = with_parentheses(source, found.node) == source.span(found.node) and found.node.lpar
    return f"({text})" if _binds_tighter(source, found.node) and not bare else text


def _prepared(source: Source, found: Total) -> list[Statement] | Refused:
    """The statements that only prepare a total: lists of norms, stacks of them, the loop that fills a list."""
    filling = found.series.loop
    statements: list[Statement] = []
    if filling is not None:
        why = unmovable(source, filling._replace(series=found.series))
        if why:
            return Refused(why)
        statements.append(filling.loop)
    for binding in found.series.used:
        statement = source.statement(binding.node)
        if not _is_used_once(source, binding, filling.loop if filling else None):
            return Refused(f"`{binding.name}` is used elsewhere")
        statements.append(statement)
    if not statements:
        return []
    siblings, here = source.siblings(source.statement(found.node))
    before = siblings[max(0, here - len(statements)) : here]
    if {id(one) for one in before} != {id(one) for one in statements}:
        return Refused("the norms are computed and combined in different places")
    if any(comments_of(source, one) for one in statements):
        return Refused("it would remove a comment")
    return statements


def _is_used_once(source: Source, binding: Binding, filling: cst.For | None) -> bool:
    """Whether a separate statement sets the name alone, and it is read only once outside the loop that fills it."""
    match source.statement(binding.node):
        case cst.SimpleStatementLine(body=[cst.Assign(targets=[_]) | cst.AnnAssign()]):
            uses = reached(source, source.scope(binding.node), [binding])
            return sum(filling is None or not contains(source, filling, use) for use in uses) == 1
    return False


def _binds_tighter(source: Source, node: cst.BaseExpression) -> bool:
    """Whether the operator or access around an expression binds tighter than `**`."""
    match source.parent(node):
        case cst.Attribute() | cst.Subscript():
            return True
        case cst.BinaryOperation(operator=cst.Power(), left=left):
            return left is node
    return False
