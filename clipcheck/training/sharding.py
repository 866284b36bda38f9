"""Which models FSDP1 has sharded, as far as the file shows."""

from __future__ import annotations

import libcst as cst

from clipcheck.python.assignments import Path, part, unpacked
from clipcheck.python.names import Binding
from clipcheck.python.reaching import contains
from clipcheck.python.source import Source
from clipcheck.training.calls import callee, calls_of
from clipcheck.training.guards import branches
from clipcheck.training.parameters import attribute_bindings
from clipcheck.training.summaries import home, returned

_DEPTH = 3  # maximum number of calls to follow


def wrapped_by_fsdp(source: Source, model: cst.BaseExpression, depth: int = _DEPTH) -> cst.Call | None:
    """The `FSDP(…)` that is the last thing the name is assigned before, None where it may be something else."""
    match model:
        case cst.Name():
            owner = source.scope(model).owner(model.value)
            bindings = owner.bindings[model.value] if owner else []
            if bindings and all(b.kind == "parameter" for b in bindings):
                return _given_by_callers(source, model, depth - 1) if depth else None
            if any(b.kind != "assign" for b in bindings):
                bindings = [b for b in bindings if b.kind == "assign"] if owner is source.scope(model) else []
            match [b for b in bindings if _comes_before(source, b, model)][-1:]:
                case [last]:
                    return _bound(source, last, model, depth)
        case cst.Attribute(value=cst.Name("self")):
            match attribute_bindings(source, model)[-1:]:
                case [(_, cst.Call() as made)]:
                    return _wrapping(source, made, (), model, depth)
    return None


def _comes_before(source: Source, binding: Binding, use: cst.Name) -> bool:
    """Whether a name is bound above its use, and not by the statement that the use is in."""
    own = binding.value is not None and contains(source, binding.value, use)
    return source.rank(binding.node) < source.rank(use) and not own


def _bound(source: Source, binding: Binding, place: cst.CSTNode, depth: int) -> cst.Call | None:
    """The `FSDP(…)` that a name is given: `net = FSDP(net)`, or `net, optimizer = build()`."""
    match binding.value:
        case cst.Call() as made:
            return _wrapping(source, made, (), place, depth)
        case None:
            match unpacked(source, binding):
                case (made, path):
                    return _wrapping(source, made, path, place, depth)
    return None


def _wrapping(source: Source, made: cst.Call, path: Path, place: cst.CSTNode, depth: int) -> cst.Call | None:
    """The `FSDP(…)` that a call is, or a part of what its function returns, on every path that leads to `place`."""
    if any(True for _ in branches(source, made)) and not _same_branch(source, made, place):
        return None
    if source.origin(made.func).endswith(".FullyShardedDataParallel") and not path:
        return None if "NO_SHARD" in source.code(made) else made
    if source.qualified(made.func) == "torch.compile" and made.args and depth and not path:
        return _returned(source, made.args[0].value, depth - 1)  # it hands on the model's method
    called = callee(source, made) if depth else None
    values = () if called is None else returned(source, called.function) or ()
    found = [_returned(source, part(value, path), depth - 1) for value in values]
    return found[0] if found and None not in found and not any(True for _ in branches(source, values[0])) else None


def _returned(source: Source, value: cst.BaseExpression | None, depth: int) -> cst.Call | None:
    match value:
        case cst.Call():
            return _wrapping(source, value, (), value, depth)
        case None:
            return None
    return wrapped_by_fsdp(source, value, depth)


def _given_by_callers(source: Source, parameter: cst.Name, depth: int) -> cst.Call | None:
    """The `FSDP(…)` that every caller in this file gives for a parameter."""
    function = home(source, source.bindings(parameter)[0].node)
    callers = () if isinstance(function, cst.Module) else calls_of(source, function)
    given = [called.given.get(parameter.value) for called in callers]
    found = [None if value is None else wrapped_by_fsdp(source, value, depth) for value in given]
    return found[0] if found and None not in found else None


def _same_branch(source: Source, one: cst.CSTNode, other: cst.CSTNode) -> bool:
    around = {(id(branch), outcome) for branch, outcome in branches(source, other)}
    return all((id(branch), outcome) in around for branch, outcome in branches(source, one))
