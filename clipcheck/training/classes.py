"""The class that a place stands in, as far as the file shows: an optimizer, a LightningModule, a plain module."""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from clipcheck.python.source import Source


def bases(source: Source, node: cst.ClassDef, depth: int = 4) -> Iterator[str]:
    """The dotted origins of a class's bases, and of theirs where the file defines them."""
    for base in node.bases:
        origin = source.qualified(base.value)
        if origin is not None:
            yield origin
        match base.value:
            case cst.Name() as name if depth:
                for binding in source.bindings(name):
                    if isinstance(binding.node, cst.ClassDef) and binding.node is not node:
                        yield from bases(source, binding.node, depth - 1)
                    elif not binding.path:
                        continue
        if origin is None:
            yield source.code(base.value)


def is_optimizer_subclass(source: Source, node: cst.CSTNode) -> bool:
    """Whether `node` stands in a class that is an optimizer, by its base or its base's name."""
    owner = source.enclosing(node, cst.ClassDef)
    return owner is not None and any(
        base.startswith("torch.optim.") or base.rsplit(".", 1)[-1].endswith(("Optimizer", "Adam", "AdamW", "SGD"))
        for base in bases(source, owner)
    )


def is_lightning_module(source: Source, owner: cst.ClassDef) -> bool:
    """Whether a class derives from LightningModule, by import, in this file."""
    return any(
        base.endswith(".LightningModule") and base.startswith(("pytorch_lightning", "lightning"))
        for base in bases(source, owner)
    )


def is_module_class(source: Source, owner: cst.ClassDef) -> bool:
    """Whether a class derives from torch's Module (or Lightning's) in this file."""
    return any(base in _MODULES or base.endswith(".LightningModule") for base in bases(source, owner))


_MODULES = {"torch.nn.Module", "torch.nn.Sequential", "torch.nn.ModuleList", "torch.nn.modules.module.Module"}
