"""The context of a loop that accumulates a norm: the zero that it starts from, and the roots taken at its end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import libcst as cst

from clipcheck.fixes.verbs import with_parentheses
from clipcheck.gradients.accumulations import Accumulation, fresh
from clipcheck.gradients.powers import NumberKind
from clipcheck.gradients.roots import Root, claims_to_be_norm, root_of
from clipcheck.python.literals import is_zero
from clipcheck.python.names import Binding
from clipcheck.python.reaching import contains, reached, reaching
from clipcheck.python.source import Source, Statement
from clipcheck.python.words import words
from clipcheck.rule import Edit

_NAMES = ("norm", "total_norm", "gradient_norm")  # if the name of the accumulator says "squared"


class Seed(NamedTuple):
    """The zero that an accumulator starts from, and its type: a Python number, or a tensor of zero or one dimension."""

    binding: Binding
    kind: NumberKind
    flat: bool = False

    @property
    def name(self) -> str:
        return self.binding.name


class Ending(NamedTuple):
    """The target and type of the norm, the statements that it replaces, and the edits that remove other roots.

    `joined` is the statement right after the loop that becomes the norm together with the loop, `gone` those that only
    took the root. `whole` is False if the accumulator stays a power.
    """

    target: str  # how the new statement begins: `total = `, `return `
    kind: NumberKind
    numpy: str = ""
    joined: Statement | None = None
    gone: tuple[Statement, ...] = ()
    edits: tuple[Edit, ...] = ()
    whole: bool = True


# --- the beginning ----------------------------------------------------------------------------------------------------


def owned_seed(source: Source, one: Accumulation) -> Seed | None:
    """The zero before the loop, if it is in the same block and nothing reads it before the loop."""
    binding = fresh(source, one)
    seed = _seed(source, one, binding) if binding is not None else None
    if seed is None:
        return None
    statement = source.statement(seed.binding.node)
    match statement:
        case cst.SimpleStatementLine(body=[cst.Assign(targets=[_]) | cst.AnnAssign()]):
            start, stop = source.span(statement)[1], source.span(one.loop)[0]
            read = source.names.uses(source.scope(seed.binding.node).owner(seed.name), seed.name)
            between = any(start <= source.span(use)[0] < stop for use in read)
            beside = source.parent(statement) is source.parent(one.loop)
            return seed if beside and not between else None
    return None


def _seed(source: Source, one: Accumulation, binding: Binding) -> Seed | None:
    match binding.value:
        case cst.Integer() | cst.Float() as value if is_zero(source, value):
            return Seed(binding, "float" if one.term.synced else "tensor")
        case cst.Call() as value if is_zero(source, value):
            flat = _is_flat(source, value)
            return None if flat is None else Seed(binding, "tensor", flat)
    return None


def _is_flat(source: Source, zero: cst.Call) -> bool | None:
    """Whether a zero tensor has one dimension rather than none; None for other shapes, or if it sets a dtype."""
    match zero.func:
        case cst.Attribute(value=cst.Call() as inner, attr=cst.Name(value="cuda" | "to" as method)):
            moves = method == "cuda" or all("device" in source.code(arg.value) for arg in zero.args)
            return _is_flat(source, inner) if moves else None
    if not zero.args or any(arg.keyword and arg.keyword.value != "device" for arg in zero.args):
        return None
    match source.qualified(zero.func), zero.args[0].value:
        case "torch.tensor" | "torch.as_tensor", cst.Float():
            return False
        case "torch.tensor" | "torch.as_tensor", cst.List(elements=[cst.Element(value=cst.Float())]):
            return True
        case "torch.zeros", cst.Tuple(elements=[]) | cst.List(elements=[]):
            return False
        case "torch.zeros", cst.Integer(value="1") if len([arg for arg in zero.args if not arg.keyword]) == 1:
            return True
    return None


# --- the end ----------------------------------------------------------------------------------------------------------


def ending_of(source: Source, one: Accumulation, seed: Seed, stays: bool) -> Ending | str | None:
    """What the accumulator becomes; None if it does not start here; or the reason why it cannot be rewritten."""
    later = _later(source, one, seed)
    if later is None:
        return None
    if _is_filled_elsewhere(source, one, seed, later):
        return _unrooted(seed, used=False)
    term = one.term._replace(kind="tensor") if seed.kind == "tensor" else one.term
    found = [root_of(source, use, term) for use in later]
    roots = [root for root in found if root is not None]
    if len(roots) < len(later) or not later:
        return _unrooted(seed, used=bool(later) and not roots)
    if seed.flat and any(root.kind == "tensor" for root in roots):
        return None  # a norm has no dimension
    return _rooted(source, one, seed, roots, stays)


def _later(source: Source, one: Accumulation, seed: Seed) -> list[cst.Name] | None:
    """The reads of the accumulator after the loop; None if it belongs to another scope."""
    assert isinstance(one.target, cst.Name)
    scope = source.scope(one.target).owner(seed.name)
    if scope is None or source.scope(one.loop) is not scope:
        return None
    own = _bindings(source, one, seed)
    return [use for use in reached(source, scope, own) if not contains(source, one.loop, use)]


def _bindings(source: Source, one: Accumulation, seed: Seed) -> list[Binding]:
    scope = source.scope(one.loop)
    return [seed.binding, *(b for b in scope.bindings[seed.name] if contains(source, one.loop, b.node))]


def _is_filled_elsewhere(source: Source, one: Accumulation, seed: Seed, later: Sequence[cst.Name]) -> bool:
    own = _bindings(source, one, seed)
    return any(binding not in own for use in later for binding in reaching(source, use))


def _unrooted(seed: Seed, used: bool) -> Ending | str | None:
    """The accumulator is used as a power, without a root: it is not a norm, whatever its name says."""
    if used and claims_to_be_norm(seed.name):
        return f"`{seed.name}` is named like a norm, but no root is taken of its sum"
    return None if seed.flat else Ending(f"{seed.name} = ", seed.kind, whole=False)


def _rooted(source: Source, one: Accumulation, seed: Seed, roots: Sequence[Root], stays: bool) -> Ending | None:
    target = f"{seed.name} = "
    match source.statement(seed.binding.node):
        case cst.SimpleStatementLine(body=[cst.AnnAssign(annotation=annotation)]):
            target = f"{seed.name}: {source.code(annotation.annotation)} = "
    if len(roots) == 1:
        whole = _only_root(source, one, seed, roots[0], target, stays)
        if whole is not None:
            return whole
    if any(_is_written_back(source, one, root, seed.name) for root in roots):
        return None
    name = name_of_norm(source, seed.name)
    target = target.replace(seed.name, name, 1)
    edits = tuple(Edit(*span_of(source, root.node), as_kind(name, seed.kind, root)) for root in roots)
    return Ending(target, seed.kind, edits=edits)


def _only_root(source: Source, one: Accumulation, seed: Seed, root: Root, target: str, stays: bool) -> Ending | None:
    """The statement that takes the only root: it is written back, returned, or assigned to another name."""
    statement = source.statement(root.node)
    begins = beginning(source, statement, root, seed.name)
    beside = source.parent(statement) is source.parent(one.loop)
    if not begins or not beside:
        return None
    if begins == f"{seed.name} = ":
        return Ending(target, root.kind, root.numpy, gone=(statement,))
    if follows(source, one.loop, statement) and not stays:
        return Ending(begins, root.kind, root.numpy, joined=statement)
    name = begins.removesuffix(" = ").partition(":")[0]
    if begins != "return " and _is_free_between(source, one.loop, statement, name):
        return Ending(begins, root.kind, root.numpy, gone=(statement,))
    return None


def _is_free_between(source: Source, loop: cst.For, statement: Statement, name: str) -> bool:
    """Whether a name can be assigned earlier: nothing between the loop and the statement reads or binds it."""
    start, stop = source.span(loop)[0], source.span(statement)[0]
    same = (node for node in source.nodes(cst.Name) if node.value == name and not is_label(source, node))
    return not any(start <= source.span(node)[0] < stop for node in same)


def is_label(source: Source, name: cst.Name) -> bool:
    """Whether a name is that of an attribute or an argument, not of a variable."""
    match source.parent(name):
        case cst.Attribute(attr=attr):
            return attr is name
        case cst.Arg(keyword=keyword):
            return keyword is name
    return False


def _is_written_back(source: Source, one: Accumulation, root: Root, name: str) -> bool:
    statement = source.statement(root.node)
    again = beginning(source, statement, root, name) == f"{name} = "
    return isinstance(root.node, cst.AugAssign) or (again and source.parent(statement) is source.parent(one.loop))


def beginning(source: Source, statement: Statement, root: Root, name: str) -> str:
    """The start of a statement that only takes the root: `total = `, `return `; empty for any other statement."""
    if not isinstance(statement, cst.SimpleStatementLine) or len(statement.body) != 1:
        return ""
    match statement.body[0]:
        case cst.AugAssign() as small if small is root.node:
            return f"{name} = "
        case cst.Assign(targets=[cst.AssignTarget(target=cst.Name(value=target))], value=value) if value is root.node:
            return f"{target} = "
        case cst.AnnAssign(target=cst.Name(value=target), value=value, annotation=annotation) if value is root.node:
            return f"{target}: {source.code(annotation.annotation)} = "
        case cst.Return(value=value) if value is root.node:
            return "return "
    return ""


def follows(source: Source, one: Statement, statement: Statement) -> bool:
    """Whether a statement directly follows another one."""
    siblings, index = source.siblings(one)
    return index + 1 < len(siblings) and siblings[index + 1] is statement


def name_of_norm(source: Source, name: str) -> str:
    """The name of the accumulator, or another name if it says that it holds squares."""
    parts = words(name)
    if not any(part.startswith("sq") or part.endswith("sq") for part in parts):
        return name
    return next((other for other in _NAMES if not source.is_taken(other)), name)


def span_of(source: Source, node: cst.CSTNode) -> tuple[int, int]:
    return with_parentheses(source, node) if isinstance(node, cst.BaseExpression) else source.span(node)


def as_kind(name: str, kind: NumberKind, root: Root) -> str:
    if root.kind == "numpy":
        return f"{root.numpy}.float64({name})"
    return f"{name}.item()" if root.kind == "float" and kind == "tensor" else name
