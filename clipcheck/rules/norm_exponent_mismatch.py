"""
## What it does
Finds gradient norms whose exponents are inconsistent: `x ** 1 / 2`, which is half of `x`; a 1-norm that is squared and
summed; a sum of squares that is returned or logged as a norm, without the root, or that gets its root inside the loop.

## Why is this bad?
The p-norm of many tensors is the p-th root of the sum of the p-th powers of their p-norms. Anything else gives a number
that looks like a norm and is compared with norms but is not one: `** 1 / 2` halves the sum of squares, and a sum of
squares is the squared norm.

## How to fix by hand
Use one `norm_type` for the norm of each tensor, for the exponent and for the root:

```python
total_norm = sum(p.grad.norm(norm_type) ** norm_type for p in parameters) ** (1 / norm_type)
```

Or call `grad_norm(parameters, norm_type)`, which does all of it.

## Fix safety
Unsafe: the number changes, which is the point. `x ** 1 / 2` becomes `x ** (1 / 2)`, and a sum of squares that is only
returned gets its root. If the norm type and the exponent disagree there is no automatic fix: one of them is wrong, and
only you know which.

## When to suppress it
If the value is meant as it is, for example a squared norm under a name that has to stay.

## References
- https://docs.python.org/3/reference/expressions.html#operator-precedence
"""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from clipcheck.fixes.verbs import insert_after, replace
from clipcheck.gradients.accumulations import Accumulation, accumulations, fresh, reduced
from clipcheck.gradients.exponents import Exponent
from clipcheck.gradients.powers import Power
from clipcheck.gradients.roots import claims_to_be_norm, root_of
from clipcheck.gradients.totals import total
from clipcheck.python.reaching import contains, reached
from clipcheck.python.source import Source
from clipcheck.rule import Fix, Hit, Role, Safety

HALVED = "`{base} ** 1 / {root}` divides by {root} instead of taking the root"
MIXED = "sums {order}-norms raised to the power of {exponent}, which is not a norm: use one number for both"
INSIDE = "`{name}` is replaced with its root in every iteration: the result is not a norm"
ROOTLESS = "`{name}` is a sum of squares, but is returned or logged as a norm: take the root"


def check(source: Source) -> Iterator[Hit]:
    sums = accumulations(source)
    yield from _halved(source, sums)
    for one in sums:
        if _disagree(one.term):
            message = MIXED.format(order=_shown(one.term.order), exponent=_shown(one.term.exponent))
            advice = "use the norm type as the exponent, and take the matching root of the sum"
            yield Hit(one.statement, message, help=advice)
        elif one.how == "add" and not one.term.exponent.is_one:
            rooted = _rooted_inside(source, one)
            if rooted is None:
                yield from _rootless(source, one)
            else:
                yield Hit(
                    rooted, INSIDE.format(name=source.code(one.target)), help="take the root once, after the loop"
                )


def _disagree(term: Power) -> bool:
    order, exponent = term.order.value, term.exponent.value
    return order is not None and exponent is not None and order != exponent and exponent != 1


def _shown(exponent: Exponent) -> str:
    return exponent.text or f"{exponent.value:g}"


def _halved(source: Source, sums: tuple[Accumulation, ...]) -> Iterator[Hit]:
    names = {source.code(one.target) for one in sums if not one.term.exponent.is_one}
    for node in source.nodes(cst.BinaryOperation):
        match node:
            case cst.BinaryOperation(
                left=cst.BinaryOperation(
                    left=base, operator=cst.Power(), right=(cst.Integer() | cst.Float()) as one, lpar=()
                ),
                operator=cst.Divide(),
                right=root,
            ) if one.evaluated_value == 1:
                if source.code(base) in names or total(source, base) is not None:
                    text = f"({source.code(one)} / {source.code(root)})"
                    edit = replace(source, node, f"{source.code(base)} ** {text}")
                    fix = Fix("Put the exponent in parentheses", Safety.UNSAFE, (edit,))
                    yield Hit(node, HALVED.format(base=source.code(base), root=source.code(root)), fix)


def _rooted_inside(source: Source, one: Accumulation) -> cst.CSTNode | None:
    """The statement of the loop that replaces the sum so far with its root: the next power is added to a norm."""
    if not isinstance(one.target, cst.Name):
        return None
    name = one.target.value
    for use in source.names.uses(source.scope(one.target).owner(name), name):
        root = root_of(source, use, one.term) if contains(source, one.loop.body, use) else None
        match source.parent(root.node) if root is not None else None:
            case cst.Assign(targets=[cst.AssignTarget(target=cst.Name(value=target))]) if target == name:
                return source.statement(use)
        if root is not None and isinstance(root.node, cst.AugAssign):
            return source.statement(use)
    return None


def _rootless(source: Source, one: Accumulation) -> Iterator[Hit]:
    """A sum of squares that leaves the function under the name of a norm."""
    if not isinstance(one.target, cst.Name) or not claims_to_be_norm(one.target.value) or fresh(source, one) is None:
        return
    scope = source.scope(one.target).owner(one.target.value)
    if scope is None or reduced(source, one.statement, one.target):
        return
    name = one.target.value
    bindings = [b for b in scope.bindings[name] if contains(source, one.loop, b.node)]
    later = [use for use in reached(source, scope, bindings) if not contains(source, one.loop, use)]
    if any(root_of(source, use, one.term) or _is_computed_with(source, use) for use in later):
        return
    left = [use for use in later if _leaves(source, use)]
    if not left:
        return
    fix = None
    if len(later) == 1 and isinstance(source.parent(left[0]), cst.Return):
        root = "0.5" if one.term.order.value == 2 else f"(1.0 / {_shown(one.term.order)})"
        edit = insert_after(source, left[0], f" ** {root}")
        fix = Fix("Take the root", Safety.UNSAFE, (edit,), roles=((name, Role.TOTAL),))
    yield Hit(
        left[0], ROOTLESS.format(name=name), fix, "take the root, or rename it to say that it is the squared norm"
    )


def _is_computed_with(source: Source, use: cst.Name) -> bool:
    """Whether more arithmetic follows: a root that is not recognized, a mean, a ratio."""
    return source.enclosing(use, cst.BinaryOperation, cst.AugAssign, cst.Comparison) is not None


def _leaves(source: Source, use: cst.Name) -> bool:
    match source.parent(use):
        case cst.Return():
            function = source.enclosing(use, cst.FunctionDef)
            return function is not None and claims_to_be_norm(function.name.value)
        case cst.FormattedStringExpression() | cst.DictElement():
            return True
        case cst.Arg() as arg:
            match source.parent(arg):
                case cst.Call(func=func):
                    return source.qualified(func) in (None, "builtins.print")
        case cst.Assign(targets=[cst.AssignTarget(target=cst.Name(value=target))]):
            function = source.enclosing(use, cst.FunctionDef)
            says = function is not None and claims_to_be_norm(function.name.value)
            return target == use.value and says and _returned(source, use)
    return False


def _returned(source: Source, use: cst.Name) -> bool:
    """`total_norm = total_norm`, and then the return."""
    later = source.names.uses(source.scope(use).owner(use.value), use.value)
    return any(isinstance(source.parent(other), cst.Return) for other in later)
