"""Whether a function only computes its result."""

from __future__ import annotations

import libcst as cst

from clipcheck.python.source import Source
from clipcheck.training.calls import callee

_DEPTH = 2  # maximum depth of calls to follow
_LIBRARIES = ("torch.", "math.", "numpy.", "builtins.", "functools.", "itertools.", "clipcheck.runtime.")
_LOUD = frozenset("builtins.print builtins.setattr builtins.exec builtins.eval builtins.open builtins.input".split())
# Methods of tensors, modules and lists that change at most a local value of the function.
_QUIET = frozenset(
    "norm item tolist pow pow_ sum sqrt sqrt_ square abs max amax mean add add_ mul dot vdot view flatten reshape detach "
    "data float double half cpu cuda to numpy clone append extend parameters named_parameters values items keys get "
    "children modules named_modules size numel is_sparse coalesce unsqueeze squeeze zeros new_zeros to_local full_tensor".split()
)


def only_computes(source: Source, function: cst.FunctionDef | cst.Lambda, depth: int = _DEPTH) -> bool:
    """Whether a function has no side effects: it does not store, print or raise, or change anything that others see."""
    return not any(_is_effect(source, node, depth) for node in source.walk(function.body))


def _is_effect(source: Source, node: cst.CSTNode, depth: int) -> bool:
    match node:
        case cst.Raise() | cst.Assert() | cst.Yield() | cst.Await() | cst.Global() | cst.Nonlocal():
            return True
        case cst.AssignTarget(target=target) | cst.AugAssign(target=target) | cst.AnnAssign(target=target):
            return isinstance(target, (cst.Attribute, cst.Subscript))
        case cst.Call():
            return not _is_quiet(source, node, depth)
    return False


def _is_quiet(source: Source, call: cst.Call, depth: int) -> bool:
    function = source.qualified(call.func)
    if function is not None and function.startswith(_LIBRARIES):
        return function not in _LOUD and not (function.startswith("torch.") and function.endswith("_"))
    own = callee(source, call)
    if own is not None:
        return depth > 0 and only_computes(source, own.function, depth - 1)
    match call.func:
        case cst.Attribute(attr=cst.Name(value=method)):
            return method in _QUIET
    return False
