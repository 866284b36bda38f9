"""Which scope binds a name, to what, and where it is used: the part of Python's scoping that rules need.

LibCST's own ScopeProvider answers more and costs three parses; this is one walk that skips all whitespace nodes.
"""

from __future__ import annotations

import builtins
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from operator import attrgetter
from typing import Literal, TypeAlias, cast

import libcst as cst

Kind: TypeAlias = Literal["import", "assign", "augmented", "for", "with", "parameter", "def", "class", "other"]

# Fields that hold punctuation and whitespace: nothing that a rule asks about lives below them.
_PUNCTUATION = frozenset(
    "lpar rpar lbracket rbracket leading_lines lines_after_decorators header footer trailing_whitespace comma semicolon "
    "equal colon dot indent star operator_whitespace asynchronous encoding default_indent default_newline "
    "has_trailing_newline lbrace rbrace whitespace relative first_colon second_colon posonly_ind leading_whitespace".split()
)
# Fields that stand in the text before others that LibCST declares before them.
_FIRST: dict[type, tuple[str, ...]] = {
    cst.Arg: ("keyword",),
    cst.ClassDef: ("decorators", "name", "type_parameters", "bases", "keywords"),
    cst.ExceptHandler: ("type", "name"),
    cst.ExceptStarHandler: ("type", "name"),
    cst.FunctionDef: ("decorators", "name", "type_parameters", "params", "returns"),
    cst.IfExp: ("body",),
    cst.MatchCase: ("pattern", "guard"),
    cst.Parameters: ("posonly_params",),
}
_FIELDS: dict[type, Callable[[cst.CSTNode], tuple[object, ...]]] = {}
_IS_NODE: dict[type, bool] = {type(None): False, bool: False, str: False, cst.MaybeSentinel: False}


def children(node: cst.CSTNode) -> list[cst.CSTNode]:
    """The child nodes of `node` in source order, without whitespace and punctuation."""
    kind = type(node)
    values = _FIELDS.get(kind)
    if values is None:
        values = _FIELDS[kind] = _getter(kind)
    found: list[cst.CSTNode] = []
    for value in values(node):
        type_of = type(value)
        if type_of is tuple or type_of is list:
            found += cast("Sequence[cst.CSTNode]", value)  # nothing else comes in sequences
        else:
            # `isinstance(value, CSTNode)`, asked once a class: its abstract metaclass makes a walk a third slower
            known = _IS_NODE.get(type_of)
            if known is None:
                known = _IS_NODE[type_of] = isinstance(value, cst.CSTNode)
            if known:
                found.append(cast("cst.CSTNode", value))
    return found


def _getter(kind: type) -> Callable[[cst.CSTNode], tuple[object, ...]]:
    """All fields of a kind of node in one call, in the order of the text."""
    names = _fields(kind)
    if len(names) > 1:
        return attrgetter(*names)
    return lambda node: tuple(getattr(node, name) for name in names)  # of one name, attrgetter gives no tuple


def _fields(kind: type) -> tuple[str, ...]:
    declared = [f.name for f in fields(kind) if not (f.name in _PUNCTUATION or f.name.startswith("whitespace"))]
    first = [name for name in _FIRST.get(kind, ()) if name in declared]
    return (*first, *(name for name in declared if name not in first))


@dataclass(frozen=True, eq=False)
class Binding:
    """One place that gives a name its value.

    `value` is the right side of a plain assignment, the iterable of a loop whose whole target is this name, or None;
    `path` is the dotted origin of an import, with leading dots where it is relative.
    """

    name: str
    node: cst.CSTNode
    kind: Kind
    value: cst.BaseExpression | None = None
    path: str = ""


@dataclass(eq=False)
class Scope:
    """A module, class, function, lambda or comprehension and the names that it binds."""

    node: cst.CSTNode
    parent: Scope | None
    bindings: dict[str, list[Binding]] = field(default_factory=dict)
    elsewhere: dict[str, Scope] = field(default_factory=dict)  # names declared global or nonlocal
    star: bool = False  # holds a `from x import *`

    def owner(self, name: str) -> Scope | None:
        """The scope whose binding a use of `name` in this scope sees, or None for builtins and unbound names."""
        scope: Scope | None = self
        while scope is not None:
            if name in scope.elsewhere:
                return scope.elsewhere[name]
            # the names of a class body are not seen from the functions inside it
            if name in scope.bindings and (scope is self or not isinstance(scope.node, cst.ClassDef)):
                return scope
            scope = scope.parent
        return None

    @property
    def module(self) -> Scope:
        return self if self.parent is None else self.parent.module


_COMPREHENSIONS = (cst.GeneratorExp, cst.ListComp, cst.SetComp, cst.DictComp)
_INSIDE = frozenset({cst.Element, cst.StarredElement, cst.Tuple, cst.List})
# Looked up by exact type before a `match` is entered: most of a program's nodes are of no such kind.
_SCOPED = frozenset({cst.FunctionDef, cst.Lambda, cst.ClassDef, *_COMPREHENSIONS})
_SPLIT = frozenset({cst.FunctionDef, cst.ClassDef, cst.Param, cst.CompFor})
_BINDING = frozenset(
    {
        *(cst.Import, cst.ImportFrom, cst.Assign, cst.AnnAssign, cst.AugAssign, cst.NamedExpr, cst.For),
        *(cst.CompFor, cst.AsName, cst.FunctionDef, cst.ClassDef, cst.Param, cst.Global, cst.Nonlocal, cst.Del),
        *(cst.MatchAs, cst.MatchStar),
    }
)


# Nodes that hold a name which is not read.
_NO_LOADS = frozenset(
    {
        *(
            cst.Attribute,
            cst.Arg,
            cst.FunctionDef,
            cst.ClassDef,
            cst.Param,
            cst.NameItem,
            cst.ImportAlias,
            cst.ImportFrom,
        ),
        *(cst.AsName, cst.AssignTarget, cst.CompFor, cst.For, cst.AnnAssign, cst.NamedExpr, cst.MatchKeywordElement),
    }
)


class Names:
    """All scopes of a module, the parents of its nodes, and every use of a name."""

    def __init__(self, module: cst.Module) -> None:
        # by identity, in this class alone: a node's own hash is a function in Python, and a walk asks for it three times
        self._parents: dict[int, cst.CSTNode] = {}
        self._scope_of: dict[int, Scope] = {}
        self.scopes: dict[cst.CSTNode, Scope] = {}
        self.by_type: dict[type, list[cst.CSTNode]] = {}
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
        """The number of a node in the order of the text; it comes before those inside of it."""
        return self._ranks[id(node)]

    @cached_property
    def _ranks(self) -> dict[int, int]:
        return {node: rank for rank, node in enumerate(self._scope_of)}

    def scope(self, node: cst.CSTNode) -> Scope:
        """The scope in which `node` is evaluated."""
        return self._scope_of[id(node)]

    def uses(self, scope: Scope | None, name: str) -> list[cst.Name]:
        """The places that read `name` as bound by `scope`, in source order; `None` for names bound nowhere."""
        return self._uses.get((scope, name), [])

    def bindings(self, node: cst.Name) -> list[Binding]:
        """Every binding that the name at `node` can refer to."""
        owner = self.scope(node).owner(node.value)
        return owner.bindings.get(node.value, []) if owner else []

    def qualified(self, node: cst.CSTNode, depth: int = 4) -> str | None:
        """The dotted origin of a name or attribute, `builtins.x` for builtins, None where it is not certain.

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
            # Never assigned in this text, so it comes from a star import, an earlier fragment of the same document or
            # not at all (a NameError); nobody but torch is called that.
            return {"torch": "torch", "nn": "torch.nn"}[name]
        return f"builtins.{name}" if hasattr(builtins, name) else None

    # --- one walk -----------------------------------------------------------------------------------------------

    def _walk(self, root: cst.CSTNode, scope: Scope) -> None:
        # An explicit stack: generated files nest deeper than the interpreter's recursion limit.
        stack: list[tuple[cst.CSTNode, Scope]] = [(root, scope)]
        while stack:
            node, scope = stack.pop()
            kind = type(node)
            self._scope_of[id(node)] = scope
            self.by_type.setdefault(kind, []).append(node)
            if kind is cst.Name:
                if self._is_load(node):
                    self._loads.append((scope, cast("cst.Name", node)))
                continue
            if kind in _BINDING:
                self._bind(node, scope)
            inner = scope
            if kind in _SCOPED:
                inner = self.scopes[node] = Scope(node, scope)
            for child in reversed(children(node)):
                self._parents[id(child)] = node
                stack.append((child, self._scope_for(node, child, scope, inner) if kind in _SPLIT else inner))

    @staticmethod
    def _scope_for(node: cst.CSTNode, child: cst.CSTNode, outer: Scope, inner: Scope) -> Scope:
        """Names, decorators, defaults, bases and a comprehension's first iterable are evaluated outside."""
        match node:
            case cst.FunctionDef() | cst.ClassDef():
                inside = child is node.body or isinstance(child, cst.Parameters)
                return inner if inside else outer
            case cst.Param() if child is node.default or child is node.annotation:
                return outer.parent or outer
            case cst.CompFor() if child is node.iter and isinstance(outer.node, _COMPREHENSIONS):
                return (outer.parent or outer) if outer.node.for_in is node else outer
        return inner

    def _bind(self, node: cst.CSTNode, scope: Scope) -> None:
        match node:
            case cst.Import(names=names):
                for alias in names:
                    self._bind_import(alias, scope)
            case cst.ImportFrom():
                self._bind_from(node, scope)
            case cst.Assign(targets=targets, value=value):
                for target in targets:
                    self._bind_target(target.target, scope, "assign", value)
            case cst.AnnAssign(target=target, value=value) if value is not None:
                self._bind_target(target, scope, "assign", value)
            case cst.AugAssign(target=target):
                self._bind_target(target, scope, "augmented", None)
            case cst.NamedExpr(target=target, value=value):
                while isinstance(scope.node, _COMPREHENSIONS) and scope.parent:
                    scope = scope.parent
                self._bind_target(target, scope, "assign", value)
            case cst.For(target=target, iter=iterable) | cst.CompFor(target=target, iter=iterable):
                self._bind_target(target, scope, "for", iterable)
            case cst.AsName(name=name) if not isinstance(self.parent(node), cst.ImportAlias):
                kind: Kind = "with" if isinstance(self.parent(node), cst.WithItem) else "other"
                self._bind_target(name, scope, kind, None)
            case cst.FunctionDef(name=name):
                self._add(scope, Binding(name.value, node, "def"))
            case cst.ClassDef(name=name):
                self._add(scope, Binding(name.value, node, "class"))
            case cst.Param(name=name):
                self._add(scope, Binding(name.value, node, "parameter"))
            case cst.Global(names=names):
                scope.elsewhere |= {item.name.value: scope.module for item in names}
            case cst.Nonlocal(names=names):
                for item in names:
                    outer = scope.parent.owner(item.name.value) if scope.parent else None
                    scope.elsewhere[item.name.value] = outer or scope.module
            case cst.Del(target=target):
                self._bind_target(target, scope, "other", None)
            case cst.MatchAs(name=cst.Name() as name) | cst.MatchStar(name=cst.Name() as name):
                self._bind_target(name, scope, "other", None)

    def _add(self, scope: Scope, binding: Binding) -> None:
        home = scope.elsewhere.get(binding.name, scope)
        home.bindings.setdefault(binding.name, []).append(binding)

    def _bind_target(self, target: cst.CSTNode, scope: Scope, kind: Kind, value: cst.BaseExpression | None) -> None:
        match target:
            case cst.Name(value=name):
                self._add(scope, Binding(name, target, kind, value))
            case cst.Tuple(elements=elements) | cst.List(elements=elements):
                for element in elements:
                    self._bind_target(element.value, scope, kind, None)
            case cst.StarredElement(value=inner):
                self._bind_target(inner, scope, kind, None)

    def _bind_import(self, alias: cst.ImportAlias, scope: Scope) -> None:
        path = dotted(alias.name)
        match alias.asname:
            case cst.AsName(name=cst.Name(value=name)):
                self._add(scope, Binding(name, alias, "import", path=path))
            case _:
                root = path.partition(".")[0]
                self._add(scope, Binding(root, alias, "import", path=root))

    def _bind_from(self, node: cst.ImportFrom, scope: Scope) -> None:
        base = "." * len(node.relative) + (f"{dotted(node.module)}." if node.module else "")
        if isinstance(node.names, cst.ImportStar):
            scope.star = True
            return
        for alias in node.names:
            original = dotted(alias.name)
            match alias.asname:
                case cst.AsName(name=cst.Name(value=name)):
                    pass
                case _:
                    name = original
            self._add(scope, Binding(name, alias, "import", path=f"{base}{original}"))

    def _is_load(self, node: cst.CSTNode) -> bool:
        whole = node
        parent = self.parent(node)
        # (a, *b) = …: the names stand inside the target
        while type(parent) in _INSIDE:
            whole, parent = cast("cst.CSTNode", parent), self.parent(cast("cst.CSTNode", parent))
        if type(parent) not in _NO_LOADS:
            return True
        match parent:
            case cst.Attribute(attr=attr):
                while type(parent) is cst.Attribute:  # the dotted path of an import reads nothing
                    parent = self.parent(parent)
                return attr is not node and not isinstance(parent, (cst.ImportAlias, cst.ImportFrom))
            case cst.MatchKeywordElement(key=key):
                return key is not node
            case cst.Arg(keyword=keyword):
                return keyword is not node
            case cst.FunctionDef() | cst.ClassDef() | cst.Param() | cst.NameItem():
                return whole is not parent.name
            case cst.ImportAlias() | cst.ImportFrom() | cst.AsName():
                return False
            case cst.AssignTarget() | cst.CompFor() | cst.For() | cst.AnnAssign() | cst.NamedExpr():
                return whole is not parent.target
        return True


def dotted(node: cst.CSTNode) -> str:
    """`a.b.c` for nested attributes of a name, the empty string for anything else."""
    match node:
        case cst.Name(value=value):
            return value
        case cst.Attribute(value=value, attr=attr):
            base = dotted(value)
            return f"{base}.{attr.value}" if base else ""
    return ""


def canonical(path: str) -> str:
    """One spelling for each function that torch offers under several paths."""
    return path.replace("torch.nn.utils.clip_grad.", "torch.nn.utils.")
