"""Reads the sum of many tensors' norms off the statements of a loop: what is added to what, over what, and what else goes on."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Literal, NamedTuple

import libcst as cst

from clipcheck.gradients.gradient import Condition
from clipcheck.gradients.powers import Power, power
from clipcheck.python.assignments import assigned_value
from clipcheck.python.literals import is_zero
from clipcheck.python.names import Binding
from clipcheck.python.reaching import contains, reaching_at
from clipcheck.python.source import Source, memo


class Clause(NamedTuple):
    """One `for target in iterable` with the tests under it."""

    target: cst.BaseExpression
    iterable: cst.BaseExpression
    conditions: tuple[Condition, ...] = ()


class Series(NamedTuple):
    """The power of each tensor that the clauses go through.

    `used` are the bindings of the names that it was read through, `loop` the loop that appended the powers to a list.
    """

    clauses: tuple[Clause, ...]
    term: Power
    used: tuple[Binding, ...] = ()
    loop: Accumulation | None = None


class Accumulation(NamedTuple):
    """A statement that adds the power of one gradient's norm to something, and the loops that repeat it.

    `statement` is that statement, `target` what it adds to; `loop` the outermost loop that does nothing else, `series`
    the loops and tests around the statement together with what is added. `extras` are the statements of the loop that
    have no part in it, `obstacle` says why the loop is more than a sum.
    """

    statement: cst.BaseSmallStatement
    target: cst.BaseExpression
    added: cst.BaseExpression
    how: Literal["add", "append"]
    loop: cst.For
    series: Series
    extras: tuple[cst.CSTNode, ...]
    obstacle: str = ""

    @property
    def term(self) -> Power:
        return self.series.term


@memo
def accumulations(source: Source) -> tuple[Accumulation, ...]:
    """Every accumulation of gradient norms in a program, in source order."""
    found = [
        accumulation
        for kind in (cst.AugAssign, cst.Assign, cst.Expr)
        for statement in source.nodes(kind)
        if source.enclosing(statement, cst.For) is not None
        for accumulation in [_accumulation(source, statement)]
        if accumulation is not None
    ]
    return tuple(sorted(found, key=lambda one: source.rank(one.statement)))


def _accumulation(source: Source, statement: cst.BaseSmallStatement) -> Accumulation | None:
    added = _added(source, statement)
    if added is None:
        return None
    target, value, how = added
    term = power(source, value)
    inner = source.enclosing(statement, cst.For, cst.FunctionDef, cst.Lambda)
    if term is None or not isinstance(inner, cst.For):
        return None
    loop = _outermost(source, inner)
    return _described(source, Accumulation(statement, target, value, how, loop, Series((), term), ()))


def _added(
    source: Source, statement: cst.BaseSmallStatement
) -> tuple[cst.BaseExpression, cst.BaseExpression, Literal["add", "append"]] | None:
    """What a statement adds, and to what."""
    match statement:
        case cst.AugAssign(target=target, operator=cst.AddAssign(), value=value):
            return (target, value, "add") if not isinstance(value, (cst.List, cst.Tuple)) else None
        case cst.Assign(
            targets=[cst.AssignTarget(target=target)],
            value=cst.BinaryOperation(left=left, operator=cst.Add(), right=right),
        ):
            for other, value in ((left, right), (right, left)):
                if source.spelled(other) == source.spelled(target):
                    return target, value, "add"
        case cst.Expr(
            value=cst.Call(
                func=cst.Attribute(value=target, attr=cst.Name(value="add_" | "append" as method)),
                args=[cst.Arg(value=value, keyword=None, star="")],
            )
        ):
            return target, value, "append" if method == "append" else "add"
    return None


def _outermost(source: Source, loop: cst.For) -> cst.For:
    """The loop itself, or a loop around it that does nothing but run it: `for group in …: for p in group["params"]:`."""
    child: cst.CSTNode = loop
    best = loop
    for parent in source.ancestors(loop):
        match parent:
            case cst.IndentedBlock(body=body):
                if any(item is not child and not _is_skip(item) for item in body):
                    break
            case cst.If() | cst.Else():
                pass
            case cst.For(asynchronous=None) if child is parent.body:
                best = parent
            case _:
                break
        child = parent
    return best


def _is_skip(item: cst.CSTNode) -> bool:
    """`if …: continue`"""
    match item:
        case cst.If(orelse=None, body=cst.IndentedBlock(body=[cst.SimpleStatementLine(body=[cst.Continue()])])):
            return True
        case cst.If(orelse=None, body=cst.SimpleStatementSuite(body=[cst.Continue()])):
            return True
    return False


def _described(source: Source, one: Accumulation) -> Accumulation:
    around, obstacle = clauses_around(source, one.statement, one.loop)
    inside = [b for b in one.term.gradient.via if contains(source, one.loop, b.node)]
    guards = [guard for clause in around for guard in clause.conditions]
    extra: list[Condition] = []
    for binding in inside:
        if _is_default(source, binding):
            continue
        own, why = clauses_around(source, binding.node, one.loop)
        obstacle = obstacle or why
        for test in (test for clause in own for test in clause.conditions):
            if _spelled(source, test) not in (_spelled(source, c) for c in (*guards, *extra)):
                extra.append(test)
                if not any(_is_default(source, other) for other in inside if other.name == binding.name):
                    obstacle = obstacle or f"`{binding.name}` of an earlier round may be added again"
    last = around[-1]
    tests = (*last.conditions, *extra, *one.term.gradient.guards)
    clauses = (*around[:-1], last._replace(conditions=tests))
    if not one.term.gradient.certain:
        obstacle = obstacle or "the norm comes about in more than one way"
    if one.loop.asynchronous is not None:
        obstacle = obstacle or "the loop is asynchronous"
    if one.loop.orelse is not None:
        obstacle = obstacle or "the loop has an `else`"
    if any(_leaves(source, node, one.loop) for node in source.walk(one.loop.body)):
        obstacle = obstacle or "the loop may be left early"
    extras = tuple(_extras(source, one.loop.body, {id(one.statement), *(_statement_id(source, b) for b in inside)}))
    return one._replace(series=Series(clauses, one.term), extras=extras, obstacle=obstacle)


def _spelled(source: Source, condition: Condition) -> tuple[str, bool]:
    return "".join(source.code(condition.test).split()), condition.holds


def _is_default(source: Source, binding: Binding) -> bool:
    """Whether a helper is set to the zero that stands in for a missing norm."""
    value = assigned_value(source, binding)
    return value is not None and is_zero(source, value)


def clauses_around(source: Source, node: cst.CSTNode, loop: cst.For) -> tuple[tuple[Clause, ...], str]:
    """The loops from `loop` inwards to `node`, each with the tests that lie between, and what else lies there."""
    found: list[Clause] = []
    tests: list[Condition] = []
    obstacle = ""
    child = node
    for parent in source.ancestors(node):
        match parent:
            case cst.IndentedBlock(body=body):
                for item in reversed(body[: next(i for i, other in enumerate(body) if other is child)]):
                    if _is_skip(item) and isinstance(item, cst.If):
                        tests.append(Condition(item.test, False))
            case cst.If(test=test) if child is parent.body:
                tests.append(Condition(test, True))
            case cst.If(test=test) if child is parent.orelse:
                tests.append(Condition(test, False))
            case cst.Try():
                obstacle = "errors in the loop are caught"
            case cst.While():
                obstacle = "there is another loop inside"
            case cst.With() if not _is_no_grad(source, parent):
                obstacle = "the loop's body stands in a `with`"
            case cst.For():
                found.append(Clause(parent.target, parent.iter, tuple(reversed(tests))))
                tests = []
                if parent is loop:
                    break
        child = parent
    return tuple(reversed(found)), obstacle


def _is_no_grad(source: Source, statement: cst.With) -> bool:
    return all(
        isinstance(item.item, cst.Call)
        and source.qualified(item.item.func) in ("torch.no_grad", "torch.inference_mode", "torch.autograd.no_grad")
        for item in statement.items
    )


def _leaves(source: Source, node: cst.CSTNode, loop: cst.For) -> bool:
    match node:
        case cst.Return() | cst.Raise() | cst.Yield() | cst.Await() | cst.NamedExpr():
            return True
        case cst.Break():
            return True
        case cst.For(asynchronous=cst.Asynchronous()):
            return True
    return False


def _statement_id(source: Source, binding: Binding) -> int:
    small = source.enclosing(binding.node, cst.Assign, cst.AnnAssign)
    return id(small)


def _extras(source: Source, block: cst.BaseSuite, known: set[int]) -> Iterator[cst.CSTNode]:
    """The statements of a loop's body that are not part of the sum."""
    for item in block.body:
        match item:
            case cst.SimpleStatementLine(body=smalls):
                for small in smalls:
                    if id(small) not in known and not _is_idle(source, small):
                        yield small
            case cst.BaseSmallStatement():
                if id(item) not in known and not _is_idle(source, item):
                    yield item
            case cst.If() if _is_skip(item):
                pass
            case cst.If() | cst.For() | cst.With() | cst.Try() if any(id(n) in known for n in source.walk(item)):
                yield from _extras(source, item.body, known)
                yield from _other_branches(source, item, known)
            case _:
                yield item


def extras_in(source: Source, block: cst.BaseSuite, known: Iterable[cst.CSTNode]) -> tuple[cst.CSTNode, ...]:
    """The statements of a block other than these."""
    return tuple(_extras(source, block, {id(node) for node in known}))


def _other_branches(
    source: Source, item: cst.If | cst.For | cst.With | cst.Try, known: set[int]
) -> Iterator[cst.CSTNode]:
    other = getattr(item, "orelse", None)
    match other:
        case cst.Else(body=body):
            yield from _extras(source, body, known)
        case cst.If():
            if any(id(n) in known for n in source.walk(other)):
                yield from _extras(source, other.body, known)
                yield from _other_branches(source, other, known)
            else:
                yield other


def _is_idle(source: Source, small: cst.BaseSmallStatement) -> bool:
    """A statement without effect."""
    match small:
        case cst.Pass() | cst.Continue() | cst.Expr(value=cst.SimpleString()):
            return True
    return False


def fresh(source: Source, one: Accumulation) -> Binding | None:
    """The assignment that sets the accumulator to zero before the loop, if nothing else can have filled it."""
    if not isinstance(one.target, cst.Name):
        return None
    match reaching_at(source, one.loop, one.target.value):
        case [Binding(kind="assign") as seed]:
            return seed
    return None


_REDUCTION = re.compile(r"all_?reduce|reduce_|_reduce\b")


def reduced(source: Source, at: cst.CSTNode, target: cst.BaseExpression) -> bool:
    """Whether what is added up in `target` goes on to other processes: then it is one part of a norm, and the code knows."""
    if not _REDUCTION.search(source.text):  # spares a walk through the file for each loop
        return False
    function = source.function(at)
    names = {source.code(target)}
    for assign in source.nodes(cst.Assign):
        match assign.targets[0].target:
            case cst.Name(value=name) if source.function(assign) is function and _mentions(source, assign.value, names):
                names.add(name)
    return any(
        _REDUCTION.search(source.code(call.func))
        and source.function(call) is function
        and any(_mentions(source, arg.value, names) for arg in call.args)
        for call in source.nodes(cst.Call)
    )


def _mentions(source: Source, node: cst.CSTNode, names: set[str]) -> bool:
    return any(
        isinstance(inner, (cst.Name, cst.Attribute, cst.Subscript)) and source.code(inner) in names
        for inner in source.walk(node)
    )


def is_in_optimizer(source: Source, node: cst.CSTNode) -> bool:
    """Whether code belongs to an optimizer's own step."""
    inside = source.enclosing(node, cst.ClassDef)
    return inside is not None and any("optim" in source.code(base.value).lower() for base in inside.bases)
