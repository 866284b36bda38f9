"""Writes the one call that a recognised gradient norm becomes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import libcst as cst

from clipcheck.fixes.verbs import reach
from clipcheck.gradients.accumulations import Clause, Series
from clipcheck.gradients.exponents import Factor
from clipcheck.gradients.gradient import Condition, gradient
from clipcheck.gradients.powers import Kind, Power
from clipcheck.python.source import Source
from clipcheck.rule import Edit, Role, Safety

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


def parameters_code(source: Source, found: Series) -> str:
    """The parameters whose gradients a series goes through, as code."""
    return _joined(_parameters(source, found))


def parameters_of(source: Source, found: Series) -> tuple[str, ...]:
    """The spellings, without white space, of the parameters whose gradients a series goes through."""
    owner = found.term.gradient.owner
    scoped = _carried(source, found)
    if isinstance(scoped, Refused):
        return ()
    if owner is not None:
        return ("".join(parameters_code(source, scoped).split()),)
    # gradients of a list of parameters: [p.grad for p in parameters]
    match found.clauses:
        case (Clause(iterable=(cst.ListComp() | cst.GeneratorExp()) as inner),):
            element = gradient(source, inner.elt)
            if element is not None and element.owner is not None:
                return ("".join(source.code(inner.for_in.iter).split()),)
    return ()


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
            return (source.outer_code(clause.iterable),)
        bare = _without_names(source, clause, element)
        if bare:
            return (bare,)
    parts = [element]
    for clause in clauses:
        parts.append(f"for {source.code(clause.target)} in {source.outer_code(clause.iterable)}")
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


_NEGATED: dict[type, str] = {cst.Is: "is not", cst.IsNot: "is", cst.In: "not in", cst.NotIn: "in"}


def _condition(source: Source, condition: Condition) -> str:
    text = source.outer_code(condition.test)
    match condition.test:
        case cst.IfExp() | cst.Lambda() | cst.BooleanOperation(operator=cst.Or()) if not condition.test.lpar:
            text = f"({text})"
    if condition.holds:
        return text
    match condition.test:
        case cst.Comparison(left=left, comparisons=[cst.ComparisonTarget(operator=operator, comparator=right)]) if (
            type(operator) in _NEGATED
        ):
            return f"{source.code(left)} {_NEGATED[type(operator)]} {source.outer_code(right)}"
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
