"""What a class is for torch, as far as the file shows: a module, or one of Lightning's."""

from __future__ import annotations

import libcst as cst

from clipcheck.python.classes import bases
from clipcheck.python.source import Source


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
