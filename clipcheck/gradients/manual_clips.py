"""Recognises clipping by hand: gradients that a loop multiplies by a limit over their norm."""

from __future__ import annotations

from typing import Literal, NamedTuple, TypeAlias

import libcst as cst

from clipcheck.gradients.accumulations import accumulations, is_in_optimizer
from clipcheck.gradients.framework import framework
from clipcheck.gradients.gradient import Gradient, gradient
from clipcheck.gradients.powers import power
from clipcheck.gradients.totals import total
from clipcheck.python.assignments import assigned_value
from clipcheck.python.reaching import contains, reaching
from clipcheck.python.source import Source, memo
from clipcheck.python.words import words

Bound: TypeAlias = Literal["test", "clamp", ""]
_DEPTH = 6


class Ratio(NamedTuple):
    """A limit over a norm: `max_norm / (norm + eps)`; `bound` says what keeps it from growing above one."""

    node: cst.BaseExpression
    limit: cst.BaseExpression
    norm: cst.BaseExpression
    bound: Bound = ""


class ManualClip(NamedTuple):
    """A statement that multiplies a gradient by a ratio, and the loop that repeats it."""

    statement: cst.BaseSmallStatement
    loop: cst.For
    gradient: Gradient
    ratio: Ratio


@memo
def manual_clips(source: Source) -> tuple[ManualClip, ...]:
    """Every loop that scales gradients by a limit over a norm, one for each loop, in source order."""
    found: dict[int, ManualClip] = {}
    for kind in (cst.Expr, cst.Assign, cst.AugAssign):
        for statement in source.nodes(kind):
            loop = source.enclosing(statement, cst.For, cst.FunctionDef)
            if isinstance(loop, cst.For) and id(loop) not in found:
                clip = _clip(source, statement, loop)
                if clip is not None:
                    found[id(loop)] = clip
    return tuple(sorted(found.values(), key=lambda one: source.rank(one.statement)))


def _clip(source: Source, statement: cst.BaseSmallStatement, loop: cst.For) -> ManualClip | None:
    scaled = _scaled(source, statement)
    if scaled is None or is_in_optimizer(source, statement):
        return None
    what, by, divided = scaled
    if framework(source) != "torch" and not isinstance(statement, cst.Expr):
        return None  # arrays of numpy's can be multiplied in place, too, but have no `mul_`
    ratio = _quotient(source, by) if divided else _ratio(source, by)
    if ratio is None or not _is_global(source, ratio, loop):
        return None
    if not ratio.bound and _is_tested(source, statement, ratio):
        ratio = ratio._replace(bound="test")
    return ManualClip(statement, loop, what, ratio)


def _scaled(source: Source, statement: cst.BaseSmallStatement) -> tuple[Gradient, cst.BaseExpression, bool] | None:
    """The gradient that a statement scales in place, by what, and whether it divides by it."""
    match statement:
        case cst.AugAssign(target=target, operator=(cst.MultiplyAssign() | cst.DivideAssign()) as operator, value=by):
            found = _whole(source, target)
            return (found, by, isinstance(operator, cst.DivideAssign)) if found else None
        case cst.Expr(
            value=cst.Call(
                func=cst.Attribute(value=target, attr=cst.Name(value="mul_" | "div_" as method)),
                args=[cst.Arg(value=by)],
            )
        ):
            found = _whole(source, target)
            return (found, by, method == "div_") if found else None
        case cst.Expr(
            value=cst.Call(
                func=cst.Attribute(value=target, attr=cst.Name(value="copy_")), args=[cst.Arg(value=product)]
            )
        ):
            return _product(source, target, product)
        case cst.Assign(targets=[cst.AssignTarget(target=target)], value=product):
            return _product(source, target, product)
    return None


def _product(
    source: Source, target: cst.BaseExpression, product: cst.BaseExpression
) -> tuple[Gradient, cst.BaseExpression, bool] | None:
    """`p.grad = p.grad * by`"""
    found = _whole(source, target)
    if found is None:
        return None
    match product:
        case cst.BinaryOperation(left=left, operator=cst.Divide(), right=right):
            return (found, right, True) if _is(source, left, found) else None
        case cst.BinaryOperation(left=left, operator=cst.Multiply(), right=right):
            for one, other in ((left, right), (right, left)):
                if _is(source, one, found):
                    return found, other, False
    return None


def _is(source: Source, node: cst.BaseExpression, found: Gradient) -> bool:
    other = gradient(source, node)
    return other is not None and source.code(other.node) == source.code(found.node)


def _whole(source: Source, target: cst.BaseExpression) -> Gradient | None:
    """A gradient, or all of its elements: `p.grad[:]`."""
    match target:
        case cst.Subscript(value=value, slice=[cst.SubscriptElement(slice=cst.Slice(lower=None, upper=None))]):
            return gradient(source, value)
    found = gradient(source, target)
    return found if found is not None and (found.owner is not None or isinstance(target, cst.Name)) else None


# --- the factor ------------------------------------------------------------------------------------------------------

_THROUGH = frozenset("item to float detach cpu cuda clone data".split())


def _ratio(source: Source, node: cst.CSTNode, depth: int = _DEPTH) -> Ratio | None:
    """A limit over a norm, clamped or not, under any name."""
    if not depth:
        return None
    match node:
        case cst.BinaryOperation(left=limit, operator=cst.Divide(), right=below):
            return _over(source, node, limit, below)
        case cst.Name():
            found = [
                _ratio(source, value, depth - 1)
                for binding in reaching(source, node)
                for value in [assigned_value(source, binding) if binding.kind == "assign" else None]
                if value is not None and source.code(value) not in ("1", "1.0")
            ]
            ratios = [one for one in found if one is not None]
            if len(ratios) != len(found) or not ratios:
                return None
            single = len(reaching(source, node)) > len(found)  # `coef = 1.0`, and the ratio under a test
            clamped = single or all(one.bound for one in ratios)
            return ratios[0]._replace(bound=ratios[0].bound or ("clamp" if clamped else ""))
        case cst.IfExp(body=body, orelse=orelse):
            inner = _ratio(source, body, depth - 1) or _ratio(source, orelse, depth - 1)
            return inner and inner._replace(bound="test")
        case cst.Call():
            return _called(source, node, depth)
    return None


def _called(source: Source, call: cst.Call, depth: int) -> Ratio | None:
    origin = source.qualified(call.func) or ""
    name = origin.rpartition(".")[2]
    values = [arg.value for arg in call.args]
    match call.func:
        case cst.Attribute(value=value, attr=cst.Name(value=method)) if not origin:
            inner = _ratio(source, value, depth - 1)
            if inner is None:
                return None
            if method in ("clamp", "clamp_", "clamp_max", "clamp_max_", "clip", "minimum", "min"):
                return inner._replace(bound="clamp")
            return inner if method in _THROUGH else None
    for value in values:
        inner = _ratio(source, value, depth - 1)
        if inner is not None:
            if name in ("min", "minimum", "fmin", "clamp", "clip", "where", "clamp_max"):
                return inner._replace(bound="clamp")
            return inner if name in ("float", "tensor", "as_tensor") else None
    return None


def _over(
    source: Source, node: cst.BaseExpression, limit: cst.BaseExpression, below: cst.BaseExpression
) -> Ratio | None:
    """`limit / norm`, `limit / (norm + eps)`, `limit / max(norm, limit)`."""
    norm, bound = _norm_in(source, below)
    if norm is None or (_norm_in(source, limit)[0] is not None and not _is_limit(source, limit)):
        return None
    return Ratio(node, limit, norm, bound)


def _is_limit(source: Source, node: cst.BaseExpression) -> bool:
    parts = set(words(source.code(node).rpartition(".")[2]))
    return bool(parts & {"max", "clip", "threshold", "limit", "maximum", "theta", "thresh"})


def _norm_in(source: Source, node: cst.BaseExpression) -> tuple[cst.BaseExpression | None, Bound]:
    match node:
        case cst.BinaryOperation(left=left, operator=cst.Add(), right=right):
            for one in (left, right):
                if is_norm(source, one):
                    return one, ""
        case cst.Call(func=func, args=args) if (source.qualified(func) or "").rpartition(".")[2] in ("max", "maximum"):
            for arg in args:
                found, _ = _norm_in(source, arg.value)
                if found is not None:
                    return found, "clamp"
        case _ if is_norm(source, node):
            return node, ""
    return None, ""


def is_norm(source: Source, node: cst.BaseExpression) -> bool:
    """Whether an expression is the norm of gradients: by what it was computed from, or else by its name."""
    if total(source, node) is not None:
        return True
    match node:
        case cst.Name(value=name):
            if any(
                isinstance(one.target, cst.Name) and one.target.value == name and one.how == "add"
                for one in accumulations(source)
            ):
                return True
            for binding in reaching(source, node):
                value = assigned_value(source, binding) if binding.kind == "assign" else None
                if value is not None and total(source, value) is not None:
                    return True
            return _called_norm(name)
        case cst.Attribute(attr=cst.Name(value=name)):
            return _called_norm(name)
        case cst.Call(func=cst.Attribute(value=value, attr=cst.Name(value="item" | "to" | "float"))):
            return is_norm(source, value)
    return False


def _called_norm(name: str) -> bool:
    parts = set(words(name))
    if parts & {"max", "clip", "threshold", "limit", "param", "params", "weight", "weights", "layer", "type"}:
        return False
    return any("norm" in part and part not in ("normal", "normalize", "normalized") for part in parts)


def _quotient(source: Source, by: cst.BaseExpression) -> Ratio | None:
    """What a gradient is divided by: `norm / limit`, or `max(1, norm / limit)`."""
    match by:
        case cst.BinaryOperation(left=norm, operator=cst.Divide(), right=limit) if is_norm(source, norm):
            return Ratio(by, limit, norm)
        case cst.Call(func=func, args=args) if (source.qualified(func) or "").rpartition(".")[2] in ("max", "maximum"):
            for arg in args:
                inner = _quotient(source, arg.value)
                if inner is not None:
                    return inner._replace(bound="clamp")
    return None


# --- around it -------------------------------------------------------------------------------------------------------


def _is_global(source: Source, ratio: Ratio, loop: cst.For) -> bool:
    """Whether the norm is that of all gradients: computed before the loop, not for each tensor in it."""
    if framework(source) == "another":
        return False
    for name in (node for node in source.walk(ratio.norm) if isinstance(node, cst.Name)):
        if any(contains(source, loop, binding.node) for binding in reaching(source, name)):
            return False
        values = [assigned_value(source, b) if b.kind == "assign" else None for b in reaching(source, name)]
        if values and all(value is not None and power(source, value) is not None for value in values):
            return False  # the norm of one tensor
    return not contains(source, loop, ratio.node) or not any(
        power(source, node) for node in source.walk(ratio.norm) if isinstance(node, cst.Call)
    )


def _is_tested(source: Source, statement: cst.BaseSmallStatement, ratio: Ratio) -> bool:
    """Whether the gradients are only scaled under a test of the norm or of the factor, or behind an early return."""
    spelled = {source.code(ratio.norm), source.code(ratio.node)}
    names = {
        binding.name
        for scope in source.names.scopes.values()
        for bindings in scope.bindings.values()
        for binding in bindings
        if binding.value is ratio.node or (binding.value is not None and contains(source, binding.value, ratio.node))
    }
    child: cst.CSTNode = statement
    for above in source.ancestors(statement):
        match above:
            case cst.If(test=test) if child is not test and _compares(source, test, spelled | names):
                return True
            case cst.IndentedBlock(body=body):
                for item in body:
                    if item is child:
                        break
                    if isinstance(item, cst.If) and _exits(item) and _compares(source, item.test, spelled | names):
                        return True
            case cst.FunctionDef():
                return False
        child = above
    return False


def _compares(source: Source, test: cst.BaseExpression, spelled: set[str]) -> bool:
    return any(
        isinstance(node, cst.Comparison)
        and any(
            isinstance(inner, (cst.Name, cst.Attribute, cst.Call, cst.BinaryOperation))
            and source.code(inner) in spelled
            for inner in source.walk(node)
        )
        for node in source.walk(test)
    )


def _exits(item: cst.If) -> bool:
    match item.body:
        case cst.IndentedBlock(body=[*_, cst.SimpleStatementLine(body=[*_, cst.Return() | cst.Continue()])]):
            return True
        case cst.SimpleStatementSuite(body=[*_, cst.Return() | cst.Continue()]):
            return True
    return False
