"""Whether a loop that accumulates a norm and also does something else can be split, and which statements move out."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import libcst as cst

from clipcheck.gradients.accumulations import Accumulation
from clipcheck.gradients.powers import power
from clipcheck.python.names import Binding
from clipcheck.python.reaching import contains, reaching
from clipcheck.python.source import Source, Statement

OTHER = "the loop has side effects"
EACH = "the norm of each tensor is needed"

# Functions that a loop may also call: none of them changes a gradient or consumes the iterable.
_HARMLESS = re.compile(
    r"(?:^|\.)(?:print|len|max|min|abs|float|int|str|round|format|numel|nelement|size|dim|ndimension|item|norm|mean|sum|"
    r"std|var|any|all|isnan|isinf|isfinite|detach|cpu|numpy|append|add_scalar|add_histogram|log|info|debug|warning|write|"
    r"join|replace|split|startswith|endswith|update|setdefault|get)$"
)


def split_off(source: Source, one: Accumulation, extras: Sequence[cst.CSTNode]) -> list[Statement] | str:
    """The statements to move out of the loop, or the reason why the norm cannot be moved out."""
    if not all(_is_independent(source, extra) for extra in extras):
        return OTHER
    if any(_reads_a_norm(source, extra) for extra in extras):
        return EACH
    if not all(_can_be_read_twice(source, clause.iterable) for clause in one.series.clauses):
        return f"{OTHER}, and it may iterate over something that can be read only once"
    inside = [binding for binding in one.term.gradient.via if contains(source, one.loop, binding.node)]
    helpers = [helper for binding in inside if (helper := _only_sets(source, binding)) is not None]
    if len(helpers) < len(inside):
        return OTHER
    own = [one.statement, *helpers]
    for binding in inside:
        uses = source.names.uses(source.scope(binding.node).owner(binding.name), binding.name)
        if not all(any(contains(source, part, use) for part in own) for use in uses):
            return EACH
    return _removable(source, one, own)


def _only_sets(source: Source, binding: Binding) -> cst.Assign | cst.AnnAssign | None:
    """The statement that sets a name, if it sets nothing else."""
    match source.enclosing(binding.node, cst.Assign, cst.AnnAssign):
        case (cst.Assign(targets=[cst.AssignTarget(target=cst.Name())]) | cst.AnnAssign()) as statement:
            return statement
    return None


def _reads_a_norm(source: Source, extra: cst.CSTNode) -> bool:
    """Whether a statement reads a norm on the host itself, so that another call would save nothing."""
    calls = (node for node in source.walk(extra) if isinstance(node, cst.Call))
    return any(found is not None and found.synced for found in (power(source, call) for call in calls))


def _is_independent(source: Source, extra: cst.CSTNode) -> bool:
    """Whether a statement does not affect the gradients or the loop: it counts, compares, prints or logs."""
    for node in source.walk(extra):
        match node:
            case cst.Call(func=func) if not _HARMLESS.search(source.code(func)):
                return False
            case cst.AssignTarget(target=target) | cst.AugAssign(target=target) | cst.AnnAssign(target=target) if (
                not isinstance(target, (cst.Name, cst.Subscript)) or ".grad" in source.code(target)
            ):
                return False
            case cst.For() | cst.While() | cst.With() | cst.Try() | cst.Del() | cst.FunctionDef():
                return False
    return True


def _can_be_read_twice(source: Source, iterable: cst.BaseExpression) -> bool:
    """Whether iterating a second time yields the same elements."""
    match iterable:
        case cst.Call(func=cst.Attribute(attr=cst.Name(value=name)), args=[]):
            return name in ("parameters", "named_parameters", "children", "modules", "values", "items")
        case cst.Call(func=cst.Name(value="enumerate"), args=[cst.Arg(value=inner), *_]):
            return _can_be_read_twice(source, inner)
        case cst.Attribute(attr=cst.Name(value="param_groups")) | cst.List() | cst.ListComp() | cst.Tuple():
            return True
        case cst.Subscript(
            slice=[cst.SubscriptElement(slice=cst.Index(value=cst.SimpleString(evaluated_value="params")))]
        ):
            return True
        case cst.Name():
            bindings = reaching(source, iterable)
            return bool(bindings) and all(_makes_list(source, binding.value) for binding in bindings)
    return False


def _makes_list(source: Source, value: cst.BaseExpression | None) -> bool:
    match value:
        case cst.List() | cst.ListComp() | cst.Tuple():
            return True
        case cst.Call(func=func):
            return source.qualified(func) in ("builtins.list", "builtins.tuple", "builtins.sorted")
    return False


def _removable(source: Source, one: Accumulation, parts: Sequence[cst.CSTNode]) -> list[Statement] | str:
    """The statements to delete: these, or the `if` that contains nothing else."""
    wanted = {id(part) for part in parts}
    removed: list[Statement] = []
    for item in _statements(source, one.loop.body):
        if any(contains(source, outer, item) for outer in removed):
            continue
        smalls = [node for node in source.walk(item) if isinstance(node, cst.BaseSmallStatement)]
        if all(id(small) in wanted for small in smalls):
            removed.append(item)
    if sum(id(node) in wanted for item in removed for node in source.walk(item)) != len(wanted):
        return OTHER
    for item in removed:
        siblings, _ = source.siblings(item)
        if all(sibling in removed for sibling in siblings):
            return OTHER  # the block would be empty
    return removed


def _statements(source: Source, block: cst.BaseSuite) -> Iterator[Statement]:
    """The statements of a block and of the blocks inside, outer ones first."""
    for node in source.walk(block):
        if isinstance(node, (cst.SimpleStatementLine, cst.If)):
            yield node
