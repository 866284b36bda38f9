"""Whose tensors a file computes with: torch's, or those of another framework whose arrays answer to the same methods."""

from __future__ import annotations

from typing import Literal, TypeAlias

import libcst as cst

from clipcheck.python.names import dotted
from clipcheck.python.source import Source, memo

Framework: TypeAlias = Literal["torch", "another", "unknown"]

_OTHERS = frozenset(
    "mxnet jax flax haiku optax tensorflow keras paddle mindspore lucid mlx tinygrad chainer cupy oneflow autograd "
    "minitorch needle theano brainstorm dynet megengine jittor".split()
)


@memo
def framework(source: Source) -> Framework:
    """The framework of a file: another one only where it imports that and no torch; clipcheck's runtime is for torch."""
    paths = [b.path for scope in source.names.scopes.values() for bs in scope.bindings.values() for b in bs if b.path]
    roots = {path.lstrip(".").partition(".")[0] for path in paths}
    if any("torch" in root or root == "clipcheck" for root in roots) or source.names.uses(None, "torch"):
        return "torch"
    return "another" if roots & _OTHERS else "unknown"


def is_foreign(source: Source, node: cst.CSTNode) -> bool:
    """Whether a value comes from numpy, jax, a TensorFlow tape or the like."""
    while isinstance(node, (cst.Call, cst.Subscript)):
        node = node.func if isinstance(node, cst.Call) else node.value
    root = (source.qualified(node) or "").partition(".")[0]
    return root in _OTHERS or root == "numpy" or dotted(node).endswith("tape.gradient")
