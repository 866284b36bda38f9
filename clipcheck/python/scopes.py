"""The scopes of a module, and what each name in it refers to, found in one walk over its tree.

LibCST's ScopeProvider answers more but takes as long as three parses; this is one walk that skips all whitespace nodes.
"""

from __future__ import annotations

import builtins
from collections import defaultdict
from collections.abc import Iterator
from functools import cached_property
from typing import cast

import libcst as cst

from clipcheck.python.names import (
    BINDING,
    DECLARING,
    SCOPED,
    Binding,
    Scope,
    bindings_by,
    canonical,
    dotted,
    scope_of_child,
)
from clipcheck.python.nodes import children

# Nodes whose children are evaluated in more than one scope; looked up by exact type, since most nodes have other types.
_SPLIT = frozenset({cst.FunctionDef, cst.ClassDef, cst.Param, cst.CompFor})
_INSIDE = frozenset({cst.Element, cst.StarredElement, cst.Tuple, cst.List})
# The part of a node whose names are not read. A table, not a `match`: half of all nodes are names.
_NOT_READ: dict[type, str] = {
    **dict.fromkeys((cst.FunctionDef, cst.ClassDef, cst.Param, cst.NameItem, cst.AsName), "name"),
    **dict.fromkeys((cst.AssignTarget, cst.CompFor, cst.For, cst.AnnAssign, cst.NamedExpr), "target"),
    cst.Attribute: "attr",
    cst.Arg: "keyword",
    cst.MatchKeywordElement: "key",
}
_IMPORTS = frozenset({cst.ImportAlias, cst.ImportFrom})  # a dotted path reads nothing

# The names that `import *` from torch's modules binds, as far as rules need them.
_CLIPS = frozenset({"clip_grad_norm", "clip_grad_norm_", "clip_grad_value_", "clip_grads_with_norm_", "get_total_norm"})
_GIVEN_BY_STAR = {
    "torch.nn": frozenset({"functional", "parallel", "utils"}),
    "torch.nn.utils": _CLIPS | {"parameters_to_vector", "vector_to_parameters"},
    "torch.nn.utils.clip_grad": _CLIPS,
}


class Names:
    """All scopes of a module, the parents of its nodes, and every use of a name."""

    def __init__(self, module: cst.Module) -> None:
        # by identity, only in this class: the hash of a node is a Python function, which a walk would call three times
        self._parents: dict[int, cst.CSTNode] = {}
        self._scope_of: dict[int, Scope] = {}
        self.scopes: dict[cst.CSTNode, Scope] = {}
        self.by_type: defaultdict[type, list[cst.CSTNode]] = defaultdict(list)
        self.module = Scope(module, None)
        self.scopes[module] = self.module
        self._loads: list[tuple[Scope, cst.Name]] = []
        self._walk(module, self.module)
        self._uses: dict[tuple[Scope | None, str], list[cst.Name]] = {}
        for scope, name in self._loads:
            self._uses.setdefault((scope.owner(name.value), name.value), []).append(name)

    def parent(self, node: cst.CSTNode) -> cst.CSTNode | None:
        return self._parents.get(id(node))

    def ancestors(self, node: cst.CSTNode) -> Iterator[cst.CSTNode]:
        """The nodes around `node`, innermost first."""
        above = self._parents.get(id(node))
        while above is not None:
            yield above
            above = self._parents.get(id(above))

    def rank(self, node: cst.CSTNode) -> int:
        """The number of a node in source order; a node comes before those inside it."""
        return self._ranks[id(node)]

    @cached_property
    def _ranks(self) -> dict[int, int]:
        return {node: rank for rank, node in enumerate(self._scope_of)}

    def scope(self, node: cst.CSTNode) -> Scope:
        """The scope in which `node` is evaluated."""
        return self._scope_of[id(node)]

    def uses(self, scope: Scope | None, name: str) -> list[cst.Name]:
        """The places that read `name` as bound by `scope` (None for unbound names), in source order."""
        return self._uses.get((scope, name), [])

    def bindings(self, node: cst.Name) -> list[Binding]:
        """Every binding that the name at `node` can refer to."""
        owner = self.scope(node).owner(node.value)
        return owner.bindings.get(node.value, []) if owner else []

    def qualified(self, node: cst.CSTNode, depth: int = 4) -> str | None:
        """The dotted origin of a name or attribute, `builtins.x` for builtins; None if it is not certain.

        Follows imports in every shape and plain aliases such as `clip = torch.nn.utils.clip_grad_norm_`.
        """
        match node:
            case cst.Attribute(value=value, attr=cst.Name(value=attr)):
                origin = self.qualified(value, depth)
                return None if origin is None else canonical(f"{origin}.{attr}")
            case cst.Name(value=name):
                origins = {self.origin(b, depth) for b in self.bindings(node)}
                if len(origins) == 1:
                    return origins.pop()
                return None if origins else self._unbound(name)
        return None

    def origin(self, binding: Binding, depth: int = 4) -> str | None:
        match binding:
            case Binding(kind="import", path=path):
                return canonical(path)
            case Binding(kind="assign", value=(cst.Name() | cst.Attribute()) as value) if depth:
                return self.qualified(value, depth - 1)
        return None

    def _unbound(self, name: str) -> str | None:
        if name in ("torch", "nn"):
            # Never assigned in this text, so it comes from a star import or an earlier fragment of the same document,
            # or is a NameError; nothing else is called torch.
            return {"torch": "torch", "nn": "torch.nn"}[name]
        return self.from_star(name) or (f"builtins.{name}" if hasattr(builtins, name) else None)

    def from_star(self, name: str) -> str | None:
        """The origin of a name that `from torch.nn.utils import *` binds; a later star import may rebind it."""
        for module in reversed(self.stars):
            if name in _GIVEN_BY_STAR.get(module, ()):
                return canonical(f"{module}.{name}")
            if module.partition(".")[0] != "torch":
                return None
        return None

    @cached_property
    def stars(self) -> list[str]:
        """The modules of `from … import *`, in source order."""
        nodes = cast("list[cst.ImportFrom]", self.by_type.get(cst.ImportFrom, []))
        stars = (node for node in nodes if isinstance(node.names, cst.ImportStar))
        return ["." * len(node.relative) + (dotted(node.module) if node.module else "") for node in stars]

    @cached_property
    def _taken(self) -> frozenset[str]:
        bound = {name for scope in self.scopes.values() for name in (*scope.bindings, *scope.elsewhere)}
        return frozenset(bound | {name for owner, name in self._uses if owner is None})

    def is_taken(self, name: str) -> bool:
        """Whether any scope binds `name`, or some code reads it with an unknown meaning."""
        return name in self._taken

    # --- one walk -----------------------------------------------------------------------------------------------

    def _walk(self, root: cst.CSTNode, scope: Scope) -> None:
        # An explicit stack: generated files nest deeper than the interpreter's recursion limit.
        stack: list[tuple[cst.CSTNode, Scope]] = [(root, scope)]
        parents, scope_of, by_type = self._parents, self._scope_of, self.by_type
        while stack:
            node, scope = stack.pop()
            kind = type(node)
            scope_of[id(node)] = scope
            by_type[kind].append(node)
            if kind is cst.Name:
                if self._is_load(node):
                    self._loads.append((scope, cast("cst.Name", node)))
                continue
            if kind in BINDING:
                home = scope.of_assignments if kind is cst.NamedExpr else scope
                for binding in bindings_by(node, self.parent(node)):
                    home.bind(binding)
            elif kind in DECLARING:
                scope.declare(node)
            inner = scope
            if kind in SCOPED:
                inner = self.scopes[node] = Scope(node, scope)
            for child in reversed(children(node)):
                parents[id(child)] = node
                stack.append((child, scope_of_child(node, child, scope, inner) if kind in _SPLIT else inner))

    def _is_load(self, node: cst.CSTNode) -> bool:
        whole, parent = node, self._parents.get(id(node))
        # (a, *b) = …: the names are inside the target
        while type(parent) in _INSIDE:
            whole, parent = cast("cst.CSTNode", parent), self.parent(cast("cst.CSTNode", parent))
        part = _NOT_READ.get(type(parent))
        if part is not None and getattr(parent, part) is whole:
            return False
        while type(parent) is cst.Attribute:
            parent = self._parents.get(id(parent))
        return type(parent) not in _IMPORTS
