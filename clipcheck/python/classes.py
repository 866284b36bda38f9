"""What a class derives from, as far as the file shows."""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from clipcheck.python.source import Source


def bases(source: Source, node: cst.ClassDef) -> Iterator[str]:
    """The dotted origins of a class's bases, and of their bases if the file defines them; else the code of the base."""
    for one in (node, *ancestors(source, node)):
        yield from (source.qualified(base.value) or source.code(base.value) for base in one.bases)


def ancestors(source: Source, node: cst.ClassDef, depth: int = 4) -> Iterator[cst.ClassDef]:
    """The classes of the file that a class derives from."""
    names = (base.value for base in node.bases if isinstance(base.value, cst.Name))
    for binding in (binding for name in names if depth for binding in source.bindings(name)):
        if isinstance(binding.node, cst.ClassDef) and binding.node is not node:
            yield binding.node
            yield from ancestors(source, binding.node, depth - 1)
