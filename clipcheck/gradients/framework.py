"""Which framework's tensors a file uses: torch's, or those of another framework with the same methods."""

from __future__ import annotations

from typing import Literal, TypeAlias

import libcst as cst

from clipcheck.gradients.called import called_gradients
from clipcheck.python.names import dotted
from clipcheck.python.source import Source, memo

Framework: TypeAlias = Literal["torch", "another", "unknown"]

_OTHERS = frozenset(
    "mxnet jax flax haiku optax tensorflow keras paddle mindspore lucid mlx tinygrad chainer cupy oneflow autograd "
    "minitorch needle theano brainstorm dynet megengine jittor".split()
)
_OF_TENSORS = frozenset({"norm", "cpu", "detach"})


@memo
def framework(source: Source) -> Framework:
    """The framework of a file: a different one only if the file imports it and not torch.

    A file that imports neither uses torch's tensors if its gradients cannot be anything else, or if it calls methods
    that only these have: a fix there imports torch or the runtime, and must not change how the rest is understood.
    """
    names = source.names
    paths = [b.path for scope in names.scopes.values() for bs in scope.bindings.values() for b in bs if b.path]
    ours = ("clipcheck", source.package.partition(".")[0])
    roots = {path.lstrip(".").partition(".")[0] for path in (*paths, *names.stars)}
    if any("torch" in root or root in ours for root in roots) or names.uses(None, "torch") or names.uses(None, "nn"):
        return "torch"
    if roots & _OTHERS:
        return "another"
    made_otherwise = "numpy" in roots or _makes_gradients(source)
    return "unknown" if made_otherwise and not _calls_tensor_method(source) else "torch"


def _calls_tensor_method(source: Source) -> bool:
    """Whether a method of a gradient is called that neither numpy's arrays nor the classes of the file have."""
    own = {function.name.value for function in source.nodes(cst.FunctionDef)}
    for call in source.nodes(cst.Call):
        match call.func:
            case cst.Attribute(value=receiver, attr=cst.Name(value=name)) if (
                name in _OF_TENSORS - own and source.qualified(call.func) is None
            ):
                named = (node.value for node in source.walk(receiver) if isinstance(node, cst.Name))
                if any(map(called_gradients, named)):
                    return True
    return False


def _makes_gradients(source: Source) -> bool:
    """Whether a class of the file sets its gradient, `self.grad = …`: it implements autograd itself."""
    targets = (target.target for assign in source.nodes(cst.Assign) for target in assign.targets)
    annotated = (assign.target for assign in source.nodes(cst.AnnAssign))
    return any(dotted(target) == "self.grad" for target in (*targets, *annotated))


def is_foreign(source: Source, node: cst.CSTNode) -> bool:
    """Whether a value comes from numpy, jax, a TensorFlow tape or the like."""
    while isinstance(node, (cst.Call, cst.Subscript)):
        node = node.func if isinstance(node, cst.Call) else node.value
    root = source.origin(node).partition(".")[0]
    return root in _OTHERS or root == "numpy" or dotted(node).endswith("tape.gradient")
