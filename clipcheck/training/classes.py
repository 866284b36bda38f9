"""What kind of class a class is, as far as the file shows: a torch module or a Lightning module."""

from __future__ import annotations

import libcst as cst

from clipcheck.python.classes import ancestors, bases
from clipcheck.python.source import Source


def is_lightning_module(source: Source, owner: cst.ClassDef) -> bool:
    """Whether a class derives from an imported LightningModule, as far as this file shows."""
    return any(
        base.endswith(".LightningModule") and base.startswith(("pytorch_lightning", "lightning"))
        for base in bases(source, owner)
    )


def is_in_lightning_module(source: Source, owner: cst.ClassDef) -> bool:
    """Whether a class is a Lightning module, or the base of one in this file, such as a mixin."""
    modules = (one for one in source.nodes(cst.ClassDef) if is_lightning_module(source, one))
    return any(owner in (one, *ancestors(source, one)) for one in modules)


def is_module_class(source: Source, owner: cst.ClassDef) -> bool:
    """Whether a class derives from torch's Module (or Lightning's), as far as this file shows."""
    return any(base in _MODULES or base.endswith(".LightningModule") for base in bases(source, owner))


_MODULES = {"torch.nn.Module", "torch.nn.Sequential", "torch.nn.ModuleList", "torch.nn.modules.module.Module"}
