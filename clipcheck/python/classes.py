"""The bases of a class, as far as the file shows."""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from clipcheck.python.source import Source


def bases(source: Source, node: cst.ClassDef, depth: int = 4) -> Iterator[str]:
    """The dotted origins of a class's bases, and of their bases if the file defines them; else the code of the base."""
    for base in node.bases:
        yield source.qualified(base.value) or source.code(base.value)
        match base.value:
            case cst.Name() as name if depth:
                for binding in source.bindings(name):
                    if isinstance(binding.node, cst.ClassDef) and binding.node is not node:
                        yield from bases(source, binding.node, depth - 1)
