"""Roots of a power that are taken in a later statement: `total = sum(…)`, then `total ** 0.5`."""

from __future__ import annotations

from typing import NamedTuple

import libcst as cst

from clipcheck.fixes.accumulators import as_kind, beginning, follows, name_of_norm, span_of
from clipcheck.fixes.verbs import comments_of, delete_lines
from clipcheck.gradients.powers import NumberKind
from clipcheck.gradients.roots import Root, root_of
from clipcheck.gradients.totals import Total
from clipcheck.python.names import Binding
from clipcheck.python.reaching import reached, reaching
from clipcheck.python.source import Source, Statement
from clipcheck.rule import Edit


class Norm(NamedTuple):
    """The expression that becomes the norm instead of its power, its type, and the edits that remove the roots."""

    node: cst.BaseExpression
    kind: NumberKind
    numpy: str
    edits: tuple[Edit, ...]


def norm_instead(source: Source, found: Total) -> Norm | None:
    """The norm instead of a power that is assigned to a name, if only roots of it are used."""
    match source.parent(found.node):
        case cst.Assign(targets=[cst.AssignTarget(target=cst.Name() as target)], value=value) if value is found.node:
            statement = source.statement(target)
        case _:
            return None
    binding = next((b for b in source.scope(target).bindings[target.value] if b.value is found.node), None)
    roots = _roots(source, found, target, binding) if binding is not None else None
    if not roots or not isinstance(statement, cst.SimpleStatementLine) or len(statement.body) != 1:
        return None
    if len(roots) == 1:
        whole = _only_root(source, found, statement, target.value, roots[0])
        if whole is not None:
            return whole
    if any(_is_written_back(source, root, target.value) for root in roots):
        return None
    name = name_of_norm(source, target.value)
    named = () if name == target.value else (Edit(*source.span(target), name),)
    edits = (Edit(*span_of(source, root.node), as_kind(name, found.kind, root)) for root in roots)
    return Norm(found.node, found.kind, found.numpy, (*named, *edits))


def _roots(source: Source, found: Total, target: cst.Name, binding: Binding) -> list[Root] | None:
    """The roots that contain all uses of the name; None if one is used in another way, or sees another value."""
    uses = reached(source, source.scope(target), [binding])
    if any(reaching(source, use) != [binding] for use in uses):
        return None
    found_roots = (root_of(source, use, found.term._replace(kind=found.kind)) for use in uses)
    roots = [root for root in found_roots if root is not None]
    return roots if len(roots) == len(uses) else None


def _only_root(source: Source, found: Total, statement: Statement, name: str, root: Root) -> Norm | None:
    """The root in the next statement: one of the two statements is removed."""
    last = source.statement(root.node)
    begins = beginning(source, last, root, name)
    if not begins or not follows(source, statement, last):
        return None
    if begins == f"{name} = ":
        goes, node = last, found.node
    else:
        assert isinstance(root.node, cst.BaseExpression)
        goes, node = statement, root.node
    if comments_of(source, goes):
        return None
    return Norm(node, root.kind, root.numpy, (delete_lines(source, goes),))


def _is_written_back(source: Source, root: Root, name: str) -> bool:
    return isinstance(root.node, cst.AugAssign) or beginning(
        source, source.statement(root.node), root, name
    ).startswith((f"{name} = ", f"{name}: "))
