"""Which classes are optimizers, and whether code is part of one: optimizers may change gradients as they like."""

from __future__ import annotations

import libcst as cst

from clipcheck.python.classes import bases
from clipcheck.python.names import last_name
from clipcheck.python.source import Source

_CLASSES = frozenset(
    "adadelta adagrad adam adamw adamax asgd lbfgs nadam radam rmsprop rprop sgd sparseadam adafactor lion lamb lars "
    "fusedadam fusedlamb muon adabelief ranger shampoo sophia sophiag adamw8bit adam8bit prodigy novograd "
    "pagedadamw8bit pagedadamw bertadam adahessian madgrad deepspeedcpuadam".split()
)
_NAMED_SO = ("Optimizer", "Adam", "AdamW", "SGD")
_NO_OPTIMIZERS = {"lr_scheduler", "swa_utils"}  # of torch.optim


def is_optimizer_class(source: Source, node: cst.BaseExpression) -> bool:
    """Whether calling `node` creates an optimizer of torch, of a library with its conventions, or of this file."""
    origin = source.origin(node)
    if origin.startswith("torch.optim."):
        return _is_optimizer(origin)
    if last_name(node).lower() in _CLASSES:
        return True
    bindings = source.bindings(node) if isinstance(node, cst.Name) else []
    return any(isinstance(b.node, cst.ClassDef) and _derives_from_optimizer(source, b.node) for b in bindings)


def is_in_optimizer(source: Source, node: cst.CSTNode) -> bool:
    """Whether code is in a class that is an optimizer, judging by its bases, or by its name and methods."""
    owner = source.enclosing(node, cst.ClassDef)
    return owner is not None and (_derives_from_optimizer(source, owner) or _acts_as_optimizer(source, owner))


def _acts_as_optimizer(source: Source, node: cst.ClassDef) -> bool:
    """Whether a class without such a base is called an optimizer, has a `step`, and leaves `backward()` to others."""
    if "step" not in source.names.scopes[node].bindings or not _is_optimizer(node.name.value):
        return False
    return not any(isinstance(n, cst.Attribute) and n.attr.value == "backward" for n in source.walk(node))


def _derives_from_optimizer(source: Source, node: cst.ClassDef) -> bool:
    return any(map(_is_optimizer, bases(source, node)))


def _is_optimizer(path: str) -> bool:
    """Whether a dotted path names an optimizer class, judging by its module or by its name."""
    *modules, name = path.split(".")
    if "optim" in modules:
        return not _NO_OPTIMIZERS & set(modules)
    return name.lower() in _CLASSES or name.endswith(_NAMED_SO)
