"""Which expressions are optimizers or loss scalers, judging by their assignments or else by their names."""

from __future__ import annotations

import libcst as cst

from clipcheck.gradients.optimizers import is_optimizer_class
from clipcheck.python.assignments import loop_of
from clipcheck.python.names import Binding, last_name
from clipcheck.python.reaching import reaching
from clipcheck.python.source import Source, memo
from clipcheck.python.words import words
from clipcheck.training.parameters import assigned

_SHORT = {"opt", "opts", "adam", "adamw", "sgd", "rmsprop", "lbfgs"}


def is_optimizer(source: Source, node: cst.CSTNode) -> bool:
    """Whether an expression is an optimizer, judging by its assignment or else by its name."""
    match assigned(source, node):
        case cst.Call(func=func) if is_optimizer_class(source, func):
            return True
        case cst.Call(func=func) if source.origin(func).startswith("torch.optim."):
            return False  # a scheduler or an averaged model
        case cst.Subscript() as one if is_optimizer(source, one):
            return True
    if isinstance(node, cst.Subscript) and _holds_optimizers(source, node.value):
        return True
    return _is_called_optimizer(last_name(node)) or (isinstance(node, cst.Name) and _is_one_of_several(source, node))


def _is_called_optimizer(name: str) -> bool:
    parts = words(name)
    return not _is_schedule(parts) and any(word.startswith("optim") or word in _SHORT for word in parts)


def _is_one_of_several(source: Source, name: cst.Name) -> bool:
    """Whether a name is the target of a loop over optimizers: `for o in self.optimizers.values():`."""
    if not any(binding.kind == "for" for binding in source.bindings(name)):
        return False
    match reaching(source, name):
        case [Binding(kind="for") as binding]:
            pass
        case _:
            return False
    loop, path = loop_of(source, binding.node)
    match loop.iter, path:
        case cst.Tuple(elements=parts) | cst.List(elements=parts), ():
            return bool(parts) and all(is_optimizer(source, part.value) for part in parts)
        case cst.Call(func=cst.Attribute(value=holder, attr=cst.Name("values")), args=[]), ():
            pass
        case cst.Call(func=cst.Attribute(value=holder, attr=cst.Name("items")), args=[]), (1,):
            pass
        case (cst.Name() | cst.Attribute()) as holder, ():
            pass
        case _:
            return False
    return _holds_optimizers(source, holder) or _is_called_optimizer(last_name(holder))


def _holds_optimizers(source: Source, holder: cst.BaseExpression) -> bool:
    """Whether a list or a dict is made of optimizers, or is given one: `self.steppers[p] = torch.optim.SGD([p])`."""
    match assigned(source, holder):
        case cst.ListComp(elt=cst.Call(func=func)) | cst.DictComp(value=cst.Call(func=func)):
            return is_optimizer_class(source, func)
        case cst.List(elements=[cst.Element(value=cst.Call(func=func)), *_]):
            return is_optimizer_class(source, func)
        case cst.Dict(elements=[cst.DictElement(value=cst.Call(func=func)), *_]):
            return is_optimizer_class(source, func)
    return (source.enclosing(holder, cst.ClassDef), source.spelled(holder)) in _given_optimizers(source)


@memo
def _given_optimizers(source: Source) -> frozenset[tuple[cst.CSTNode | None, str]]:
    """The class around and the spelling of what an optimizer is put into: `holder[key] = torch.optim.SGD(…)`."""
    return frozenset(
        (source.enclosing(target, cst.ClassDef), source.spelled(target.target.value))
        for target in source.nodes(cst.AssignTarget)
        if isinstance(target.target, cst.Subscript) and _is_given_optimizer(source, target)
    )


def _is_given_optimizer(source: Source, target: cst.CSTNode) -> bool:
    match source.parent(target):
        case cst.Assign(value=cst.Call(func=func)):
            return is_optimizer_class(source, func)
    return False


def _is_schedule(name: tuple[str, ...]) -> bool:
    return any(word.startswith(("sched", "lr", "warm", "prof", "ema")) for word in name)


def is_scaler(node: cst.CSTNode) -> bool:
    """Whether a name says that an expression is a loss scaler; `scalers["d"]` is one of several."""
    name = words(last_name(node))
    return "scaler" in name or ("scalers" in name and isinstance(node, cst.Subscript))


def makes_scaler(made: cst.Call) -> bool:
    """Whether a call creates one of torch's loss scalers."""
    return last_name(made.func) in ("GradScaler", "ShardedGradScaler")
