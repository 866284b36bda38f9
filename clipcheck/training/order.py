"""The acts in a statement or expression, and its calls of functions that perform acts, in order of evaluation."""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from clipcheck.python.nodes import children
from clipcheck.python.source import Source, memo
from clipcheck.training.calls import Callee, callees
from clipcheck.training.summaries import act_of, possible_acts

# compared by identity: `isinstance` on LibCST's abstract classes is ten times as slow
_CLOSED = frozenset({cst.FunctionDef, cst.Lambda, cst.ClassDef})
_EFFECTIVE = frozenset({cst.Call, cst.Assign, cst.AugAssign})


def called(source: Source, call: cst.Call) -> Iterator[Callee]:
    """The functions that a call runs and that take part in the training step."""
    return (callee for callee in callees(source, call) if possible_acts(source, callee.function))


@memo
def effective(source: Source, node: cst.CSTNode) -> tuple[cst.CSTNode, ...]:
    """The acts in a simple statement or an expression, and its calls of local functions, in order."""
    return tuple(inner for inner in _evaluated(node) if _takes_effect(source, inner))


def _takes_effect(source: Source, node: cst.CSTNode) -> bool:
    if act_of(source, node) is not None:
        return True
    return isinstance(node, cst.Call) and any(called(source, node))


def _evaluated(node: cst.CSTNode) -> Iterator[cst.CSTNode]:
    """Calls and assignments in the order in which they take effect, without those of nested functions."""
    # post-order with an explicit stack: generated files nest deeper than the interpreter's recursion limit
    stack: list[tuple[cst.CSTNode, bool]] = [(node, False)]
    while stack:
        top, done = stack.pop()
        if done:
            yield top
        elif type(top) not in _CLOSED:
            if type(top) in _EFFECTIVE:
                stack.append((top, True))
            stack.extend((child, False) for child in reversed(children(top)))
