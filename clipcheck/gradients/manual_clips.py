"""Recognizes handwritten clipping: a loop that multiplies gradients by `max_norm` over their norm."""

from __future__ import annotations

from typing import Literal, NamedTuple, TypeAlias

import libcst as cst

from clipcheck.gradients.accumulations import accumulations
from clipcheck.gradients.framework import framework
from clipcheck.gradients.gradient import Gradient, gradient
from clipcheck.gradients.optimizers import is_in_optimizer
from clipcheck.gradients.powers import power
from clipcheck.gradients.roots import root_of
from clipcheck.gradients.totals import total
from clipcheck.python.assignments import assigned_value, assigned_values
from clipcheck.python.reaching import contains, reaching
from clipcheck.python.source import Source, memo
from clipcheck.python.words import words

Bound: TypeAlias = Literal["test", "clamp", ""]
_DEPTH = 6  # maximum number of names and calls to follow

_MAXIMA = frozenset({"max", "maximum"})
# Functions and methods that may clamp a coefficient to 1.
_CLAMPS = frozenset("min minimum fmin clamp clip where clamp_max".split())
_CLAMP_METHODS = frozenset("clamp clamp_ clamp_max clamp_max_ clip minimum min".split())
_WRAPPERS = frozenset("float tensor as_tensor".split())
_THROUGH = frozenset("item to float detach cpu cuda clone data".split())
_LIMIT_WORDS = frozenset("max clip threshold limit maximum theta thresh".split())
_OTHER_WORDS = frozenset("max clip threshold limit param params weight weights layer type".split())


class Ratio(NamedTuple):
    """`max_norm` over a norm: `max_norm / (norm + eps)`; `bound` says what limits it to 1."""

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
    """Every loop that scales gradients by `max_norm` over a norm, in source order."""
    found: dict[int, ManualClip] = {}
    for statement in source.nodes(cst.Expr, cst.Assign, cst.AugAssign):
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
        return None  # numpy arrays can also be multiplied in place, but have no `mul_`
    ratio = _quotient(source, by) if divided else _ratio(source, by)
    if ratio is None or not _is_global(source, ratio, loop):
        return None
    if not ratio.bound and _is_tested(source, statement, ratio):
        ratio = ratio._replace(bound="test")
    return ManualClip(statement, loop, what, ratio)


def _scaled(source: Source, statement: cst.BaseSmallStatement) -> tuple[Gradient, cst.BaseExpression, bool] | None:
    """The gradient that a statement scales in place, the scale, and whether it divides by it."""
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
    match product:
        case cst.BinaryOperation(left=left, operator=cst.Divide(), right=right):
            pairs = [(left, right)]
        case cst.BinaryOperation(left=left, operator=cst.Multiply(), right=right):
            pairs = [(left, right), (right, left)]
        case _:
            return None
    found = _whole(source, target)
    if found is None:
        return None
    divided = isinstance(product.operator, cst.Divide)
    return next(((found, by, divided) for one, by in pairs if _is(source, one, found)), None)


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


# --- the coefficient -------------------------------------------------------------------------------------------------


def _ratio(source: Source, node: cst.CSTNode, depth: int = _DEPTH) -> Ratio | None:
    """`max_norm` over a norm, clamped or not, under any name."""
    if not depth:
        return None
    match node:
        case cst.BinaryOperation(left=limit, operator=cst.Divide(), right=below):
            return _over(source, node, limit, below)
        case cst.Name():
            return _named(source, node, depth)
        case cst.IfExp(body=body, orelse=orelse):
            inner = _ratio(source, body, depth - 1) or _ratio(source, orelse, depth - 1)
            return inner and inner._replace(bound="test")
        case cst.Call():
            return _called(source, node, depth)
    return None


def is_only(source: Source, value: cst.BaseExpression, ratio: Ratio) -> bool:
    """Whether an expression is the ratio, clamped or not, and nothing else."""
    found = _ratio(source, value)
    return found is not None and found.node is ratio.node


def _named(source: Source, name: cst.Name, depth: int) -> Ratio | None:
    """The ratio that is assigned to a name, or 1 if nothing is clipped."""
    bindings = reaching(source, name)
    values = [assigned_value(source, binding) if binding.kind == "assign" else None for binding in bindings]
    others = [value for value in values if value is not None and source.code(value) not in ("1", "1.0")]
    found = [_ratio(source, value, depth - 1) for value in others]
    ratios = [ratio for ratio in found if ratio is not None]
    if not ratios or len(ratios) != len(others):
        return None
    if all(ratio.bound for ratio in ratios):
        return ratios[0]
    chosen = len(bindings) > len(others)  # `coef = 1.0`, and the ratio under a test
    return ratios[0]._replace(bound="clamp" if chosen else "")


def _called(source: Source, call: cst.Call, depth: int) -> Ratio | None:
    """A ratio that a method or a function clamps or passes on."""
    match call.func:
        case cst.Attribute(value=value, attr=cst.Name(value=method)) if not source.qualified(call.func):
            inner = _ratio(source, value, depth - 1)
            if inner is None or method not in _CLAMP_METHODS | _THROUGH:
                return None
            return inner._replace(bound="clamp") if method in _CLAMP_METHODS else inner
    found = (_ratio(source, arg.value, depth - 1) for arg in call.args)
    inner = next((ratio for ratio in found if ratio is not None), None)
    function = _last_name(source, call)
    if inner is None or function not in _CLAMPS | _WRAPPERS:
        return None
    return inner._replace(bound="clamp") if function in _CLAMPS else inner


def _last_name(source: Source, call: cst.Call) -> str:
    return source.origin(call.func).rpartition(".")[2]


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
    return bool(parts & _LIMIT_WORDS)


def _norm_in(source: Source, node: cst.BaseExpression) -> tuple[cst.BaseExpression | None, Bound]:
    match node:
        case cst.BinaryOperation(left=left, operator=cst.Add(), right=right):
            for one in (left, right):
                if is_norm(source, one):
                    return one, ""
        case cst.Call(args=args) if _last_name(source, node) in _MAXIMA:
            for arg in args:
                found, _ = _norm_in(source, arg.value)
                if found is not None:
                    return found, "clamp"
        case _ if is_norm(source, node):
            return node, ""
    return None, ""


def is_norm(source: Source, node: cst.BaseExpression) -> bool:
    """Whether an expression is the norm of gradients, judging by its computation or else by its name."""
    if total(source, node) is not None:
        return True
    match node:
        case cst.Name(value=name):
            values = assigned_values(source, node)
            made = any(value is not None and _is_computed_norm(source, value) for value in values)
            return made or _called_norm(name) or _is_added_up(source, name)
        case cst.Attribute(attr=cst.Name(value=name)):
            return _called_norm(name)
        case cst.Call(func=cst.Attribute(value=value, attr=cst.Name(value="item" | "to" | "float"))):
            return is_norm(source, value)
    return False


def _is_computed_norm(source: Source, value: cst.BaseExpression) -> bool:
    """Whether an expression sums the gradients' norms, or takes the root of a sum from a loop."""
    if total(source, value) is not None:
        return True
    names = [node for node in source.walk(value) if isinstance(node, cst.Name)]
    return any(
        source.code(one.target) == name.value and root_of(source, name, one.term) is not None
        for name in names
        for one in accumulations(source)
    )


def _is_added_up(source: Source, name: str) -> bool:
    sums = (one.target for one in accumulations(source) if one.how != "append")
    return any(isinstance(target, cst.Name) and target.value == name for target in sums)


def _called_norm(name: str) -> bool:
    parts = set(words(name))
    return not parts & _OTHER_WORDS and any(
        "norm" in part and part not in ("normal", "normalize", "normalized") for part in parts
    )


def _quotient(source: Source, by: cst.BaseExpression) -> Ratio | None:
    """The ratio if a gradient is divided by `norm / limit` or `max(1, norm / limit)`."""
    match by:
        case cst.BinaryOperation(left=norm, operator=cst.Divide(), right=limit) if is_norm(source, norm):
            return Ratio(by, limit, norm)
        case cst.Call(args=args) if _last_name(source, by) in _MAXIMA:
            for arg in args:
                inner = _quotient(source, arg.value)
                if inner is not None:
                    return inner._replace(bound="clamp")
    return None


# --- context ---------------------------------------------------------------------------------------------------------


def _is_global(source: Source, ratio: Ratio, loop: cst.For) -> bool:
    """Whether the norm is that of all gradients: computed before the loop, not for each tensor in it."""
    for name in (node for node in source.walk(ratio.norm) if isinstance(node, cst.Name)):
        if any(contains(source, loop, binding.node) for binding in reaching(source, name)):
            return False
        values = assigned_values(source, name)
        if values and all(value is not None and power(source, value) is not None for value in values):
            return False  # the norm of one tensor
    return not contains(source, loop, ratio.node) or not any(
        power(source, node) for node in source.walk(ratio.norm) if isinstance(node, cst.Call)
    )


def _is_tested(source: Source, statement: cst.BaseSmallStatement, ratio: Ratio) -> bool:
    """Whether gradients are scaled only if a test of the norm or the coefficient passes, or after an early return."""
    spelled = {source.code(ratio.norm), source.code(ratio.node), *_names_of(source, ratio)}
    child: cst.CSTNode = statement
    for above in source.ancestors(statement):
        match above:
            case cst.If(test=test) if _compares(source, test, spelled):
                return True
            case cst.IndentedBlock(body=body):
                before = body[: next(index for index, item in enumerate(body) if item is child)]
                if any(_compares(source, test, spelled) for test in map(_left_by, before) if test is not None):
                    return True
            case cst.FunctionDef():
                return False
        child = above
    return False


def _names_of(source: Source, ratio: Ratio) -> set[str]:
    """The names to which the coefficient is assigned."""
    return {
        binding.name
        for scope in source.names.scopes.values()
        for bindings in scope.bindings.values()
        for binding in bindings
        if binding.value is not None and contains(source, binding.value, ratio.node)
    }


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


def _left_by(item: cst.CSTNode) -> cst.BaseExpression | None:
    """The test of an `if` that ends the function or the iteration."""
    match item:
        case (
            cst.If(
                test=test,
                body=cst.IndentedBlock(body=[*_, cst.SimpleStatementLine(body=[*_, cst.Return() | cst.Continue()])]),
            )
            | cst.If(test=test, body=cst.SimpleStatementSuite(body=[*_, cst.Return() | cst.Continue()]))
        ):
            return test
    return None
