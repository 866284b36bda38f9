"""One-shot iterators: where one is made, where it is used up, and which later use finds nothing in it.

`model.parameters()`, `filter`, `map`, `chain` and generator expressions give their items once. A second loop over one
runs zero times, and a function that is given it sees no parameters, without an error.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import libcst as cst

from clipcheck.python.source import Source
from clipcheck.python.words import words
from clipcheck.training.clips import torch_calls
from clipcheck.training.guards import branches, loops
from clipcheck.training.parameters import attribute_bindings, is_optimizer_class, last_name

_ONE_SHOT = {
    "builtins.filter",
    "builtins.map",
    "builtins.zip",
    "builtins.iter",
    "builtins.reversed",
    "builtins.enumerate",
    "itertools.chain",
    "itertools.chain.from_iterable",
    "itertools.islice",
    "itertools.starmap",
    "itertools.compress",
    "itertools.filterfalse",
    "itertools.takewhile",
}
_PARAMETERS = {"parameters", "named_parameters", "buffers"}
# Calls that go through the whole of an iterator that they are given.
_DRAINS = {
    f"builtins.{name}"
    for name in ("list", "tuple", "set", "sorted", "sum", "any", "all", "max", "min", "dict", "frozenset")
} | {"torch.nn.utils.parameters_to_vector"}
# Calls that wrap an iterator: what drains the result drains the iterator, too.
_WRAPS = {"filter", "map", "chain", "zip", "enumerate", "iter", "islice"}


class Spent(NamedTuple):
    """A use that finds nothing: `made` is the expression that makes the iterator, `name` the variable's.

    `drained` is the earlier use that took everything, or the use itself where it takes everything the first time round.
    """

    use: cst.BaseExpression
    made: cst.BaseExpression
    name: str
    drained: cst.CSTNode
    again: bool
    calls: bool = False  # the use is in a method that runs again and again


def is_one_shot(source: Source, node: cst.BaseExpression | None) -> bool:
    """Whether an expression makes an iterator that gives its items once."""
    match node:
        case cst.GeneratorExp():
            return True
        case cst.Call(func=cst.Attribute(value=owner, attr=cst.Name(value=method))) if method in _PARAMETERS:
            return not _gives_a_list(source, owner, method)
        case cst.Call(func=func):
            return source.qualified(func) in _ONE_SHOT
    return False


def _gives_a_list(source: Source, owner: cst.BaseExpression, method: str) -> bool:
    """Whether a class of this file that is no plain module defines that method: it may well return a list."""
    match owner:
        case cst.Name("self"):
            holder = source.enclosing(owner, cst.ClassDef)
            return holder is not None and bool(source.names.scopes[holder].bindings.get(method))
        case cst.Call(func=cst.Name("super")):
            return False
    return any(
        isinstance(scope.node, cst.ClassDef) and method in scope.bindings for scope in source.names.scopes.values()
    )


def spent(source: Source, use: cst.BaseExpression) -> Spent | None:
    """Why the iterator that a name or a `self.` attribute stands for has nothing left at `use`; None if it may have."""
    match use:
        case cst.Name():
            return _spent_name(source, use)
        case cst.Attribute(value=cst.Name("self")):
            return _spent_attribute(source, use)
        case cst.Call(args=[*_, cst.Arg(value=(cst.Name() | cst.Attribute()) as inner)], func=func) if (
            last_name(func) in _WRAPS
        ):
            found = spent(source, inner)
            return None if found is None else found._replace(use=use)
    return None


# --- variables ------------------------------------------------------------------------------------------------------


def _spent_name(source: Source, use: cst.Name) -> Spent | None:
    owner = source.scope(use).owner(use.value)
    if owner is None:
        return None
    bindings = owner.bindings[use.value]
    inner = source.function(use)
    here = owner is source.scope(use) or _function_of(source, bindings[0].node) is inner
    if here:
        reaching = [
            b for b in bindings if source.rank(b.node) < source.rank(use) and not exclusive(source, b.node, use)
        ]
    else:
        reaching = list(bindings)  # read in a function that is defined further in
    if not reaching or any(b.kind != "assign" for b in reaching):
        return None
    made = reaching[-1]
    value = _origin(source, made.value)
    if value is None or not all(is_one_shot(source, _origin(source, b.value)) for b in reaching):
        return None
    for other in source.names.uses(owner, use.value):
        if other is use or source.rank(other) < source.rank(made.node) or exclusive(source, other, use):
            continue
        if here and source.rank(other) > source.rank(use):
            continue
        if _function_of(source, other) is not _function_of(source, made.node):
            continue
        drain = drains(source, other)
        if drain is not None and not _within(source, use, drain):
            return Spent(use, value, use.value, drain, again=False)
    around = loops(source, use)
    repeated = [loop for loop in around if not _within(source, made.node, loop)] if here else []
    fresh = any(_within(source, b.node, loop) for b in bindings for loop in repeated)
    if repeated and not fresh and not _leaves(source, use, repeated[0]):
        return Spent(use, value, use.value, use, again=True)
    return None


def _origin(source: Source, value: cst.BaseExpression | None, depth: int = 2) -> cst.BaseExpression | None:
    """What a variable was assigned, through plain aliases."""
    if isinstance(value, cst.Name) and depth:
        bindings = source.bindings(value)
        if len(bindings) == 1 and bindings[0].kind == "assign":
            return _origin(source, bindings[0].value, depth - 1)
    return value


def _leaves(source: Source, use: cst.CSTNode, loop: cst.CSTNode) -> bool:
    """Whether the loop is left right behind the use, so that it runs once."""
    block, index = source.siblings(source.statement(use))
    for statement in block[index + 1 :]:
        match statement:
            case cst.SimpleStatementLine(body=[*_, cst.Break() | cst.Return() | cst.Raise()]):
                return True
    return False


def drains(source: Source, use: cst.BaseExpression) -> cst.CSTNode | None:
    """The call or loop that takes everything from the iterator at `use`, None where that is not certain."""
    parent = source.parent(use)
    match parent:
        case cst.For(iter=iterable) if iterable is use:
            return None if _breaks(source, parent) else parent
        case cst.CompFor(iter=iterable) if iterable is use:
            return source.enclosing(use, cst.GeneratorExp, cst.ListComp, cst.SetComp, cst.DictComp)
        case cst.Arg():
            call = source.parent(parent)
            if isinstance(call, cst.Call) and call.func is not use:
                return _draining_call(source, call, parent)
        case cst.Element() | cst.StarredElement() | cst.DictElement():
            # Adam([{"params": params, "lr": 0.1}])
            call = source.enclosing(use, cst.Call)
            if call is not None and is_optimizer_class(source, call.func):
                return call
    return None


def _draining_call(source: Source, call: cst.Call, arg: cst.Arg) -> cst.CSTNode | None:
    if is_optimizer_class(source, call.func) or _is_class_of_optimizers(last_name(call.func)):
        return call if call.args[0] is arg or (arg.keyword and arg.keyword.value == "params") else None
    if source.qualified(call.func) in _DRAINS or any(call is clip.call for clip in torch_calls(source)):
        return call
    if last_name(call.func) in ("clip_grad_norm_", "clip_grad_norm", "clip_grad_value_"):
        return call
    if last_name(call.func) in _WRAPS:
        return drains(source, call)
    return None


def _is_class_of_optimizers(name: str) -> bool:
    """Whether a name is that of a class chosen elsewhere: `optimizer_class`, `optim_cls`."""
    parts = words(name)
    return parts[-1:] in (("class",), ("cls",)) and any(part.startswith("optim") for part in parts)


def _breaks(source: Source, loop: cst.For) -> bool:
    return any(isinstance(node, (cst.Break, cst.Return)) for node in source.walk(loop.body))


def exclusive(source: Source, one: cst.CSTNode, other: cst.CSTNode) -> bool:
    """Whether two places stand in different branches of one `if`, or one leaves the function before the other."""
    mine = {id(branch): outcome for branch, outcome in branches(source, one)}
    return any(mine.get(id(branch), outcome) != outcome for branch, outcome in branches(source, other)) or any(
        _returns(source, node, other) for node in (one,)
    )


def _returns(source: Source, one: cst.CSTNode, other: cst.CSTNode) -> bool:
    """Whether the branch of `one` ends the function, so that `other`, outside of it, is not reached from there."""
    for branch, outcome in branches(source, one):
        suite = branch.body if outcome else branch.orelse
        if suite is None or _within(source, other, suite):
            return False
        body = suite.body if isinstance(suite, cst.IndentedBlock) else ()
        match list(body)[-1:]:
            case [cst.SimpleStatementLine(body=[*_, cst.Return() | cst.Raise() | cst.Continue()])]:
                return True
    return False


def _within(source: Source, node: cst.CSTNode, outer: cst.CSTNode) -> bool:
    return node is outer or any(above is outer for above in source.ancestors(node))


def _function_of(source: Source, node: cst.CSTNode) -> cst.CSTNode | None:
    return source.enclosing(node, cst.FunctionDef, cst.Lambda)


# --- attributes -----------------------------------------------------------------------------------------------------


def _spent_attribute(source: Source, use: cst.Attribute) -> Spent | None:
    """`self.params = model.parameters()` in one method, used up in another, or by another."""
    method = _function_of(source, use)
    pairs = attribute_bindings(source, use)
    made = [(target, value) for target, value in pairs if is_one_shot(source, _origin(source, value))]
    others = [value for _, value in pairs if not is_one_shot(source, _origin(source, value))]
    if not made or any(_is_collection(source, value) for value in others):
        return None
    target, value = made[-1]
    assert value is not None
    value = _origin(source, value) or value
    name = source.code(use)
    if any(_function_of(source, place) is method for place, _ in pairs):
        places = [p for p, _ in pairs if _function_of(source, p) is method and source.rank(p) < source.rank(use)]
        if not places:
            return None
        fresh = places[-1]
        if not any(fresh is place for place, _ in made) or exclusive(source, fresh, use):
            return None
        repeated = [loop for loop in loops(source, use) if not _within(source, fresh, loop)]
        if repeated and not any(_within(source, p, loop) for p, _ in pairs for loop in repeated):
            return Spent(use, value, name, use, again=True)
        for other in _attribute_uses(source, use):
            if source.rank(fresh) < source.rank(other) < source.rank(use) and _function_of(source, other) is method:
                drain = drains(source, other)
                if drain is not None and not _within(source, use, drain) and not exclusive(source, other, use):
                    return Spent(use, value, name, drain, again=False)
        return None
    home = _function_of(source, target)
    for other in _attribute_uses(source, use):
        drain = drains(source, other)
        if drain is not None and _function_of(source, other) is home and source.rank(other) > source.rank(target):
            return Spent(use, value, name, drain, again=False)
    if isinstance(method, cst.FunctionDef) and method.name.value in ("__init__", "setup", "build"):
        return None
    return Spent(use, value, name, use, again=True, calls=True)


def _is_collection(source: Source, value: cst.BaseExpression | None) -> bool:
    """Whether an attribute may as well be a list or a tuple; a parameter of the same name or None says nothing."""
    match value:
        case cst.Name("None"):
            return False
        case cst.Name() as name:
            return any(b.kind != "parameter" for b in source.bindings(name))
    return True


def _attribute_uses(source: Source, use: cst.Attribute) -> Iterator[cst.Attribute]:
    owner = source.enclosing(use, cst.ClassDef)
    for node in source.nodes(cst.Attribute):
        match node:
            case cst.Attribute(value=cst.Name("self"), attr=cst.Name(value=attr)) if attr == use.attr.value:
                assigns = isinstance(source.parent(node), cst.AssignTarget)
                if not assigns and source.enclosing(node, cst.ClassDef) is owner:
                    yield node
