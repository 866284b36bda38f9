"""Which expressions are optimizers or loss scalers, judging by their assignments or else by their names."""

from __future__ import annotations

import libcst as cst

from clipcheck.gradients.optimizers import is_optimizer_class
from clipcheck.python.names import last_name
from clipcheck.python.source import Source, memo
from clipcheck.python.words import words
from clipcheck.training.parameters import assigned

_SHORT = {"opt", "opts", "adam", "adamw", "sgd", "rmsprop", "lbfgs"}


def is_optimizer(source: Source, node: cst.CSTNode) -> bool:
    """Whether an expression is an optimizer, judging by its assignment or else by its name."""
    match assigned(source, node):
        case cst.Call(func=func) if is_optimizer_class(source, func):
            return True
        case cst.Call(func=func) if (source.qualified(func) or "").startswith("torch.optim."):
            return False  # a scheduler or an averaged model
    if isinstance(node, cst.Subscript) and _holds_optimizers(source, node.value):
        return True
    name = words(last_name(node))
    return not _is_schedule(name) and any(word.startswith("optim") or word in _SHORT for word in name)


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
