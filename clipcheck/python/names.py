"""What binds a name, and in which scope a use of it finds the binding: the part of Python's scoping that rules need."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal, TypeAlias, cast

import libcst as cst

BindingKind: TypeAlias = Literal["import", "assign", "augmented", "for", "with", "parameter", "def", "class", "other"]

COMPREHENSIONS = (cst.GeneratorExp, cst.ListComp, cst.SetComp, cst.DictComp)
# Looked up by exact type before a `match`: most nodes of a program are of other types.
SCOPED = frozenset({cst.FunctionDef, cst.Lambda, cst.ClassDef, *COMPREHENSIONS})
BINDING = frozenset(
    {
        *(cst.Import, cst.ImportFrom, cst.Assign, cst.AnnAssign, cst.AugAssign, cst.NamedExpr, cst.For),
        *(cst.CompFor, cst.AsName, cst.FunctionDef, cst.ClassDef, cst.Param, cst.Del, cst.MatchAs, cst.MatchStar),
    }
)
DECLARING = frozenset({cst.Global, cst.Nonlocal})


@dataclass(frozen=True, eq=False)
class Binding:
    """One place that binds a name.

    `value` is the right side of a plain assignment, the iterable of a loop whose whole target is this name, or None;
    `path` is the dotted origin of an import, with leading dots if it is relative.
    """

    name: str
    node: cst.CSTNode
    kind: BindingKind
    value: cst.BaseExpression | None = None
    path: str = ""


@dataclass(eq=False)
class Scope:
    """A module, class, function, lambda or comprehension and the names that it binds."""

    node: cst.CSTNode
    parent: Scope | None
    bindings: dict[str, list[Binding]] = field(default_factory=dict)
    elsewhere: dict[str, Scope] = field(default_factory=dict)  # names declared global or nonlocal

    def owner(self, name: str) -> Scope | None:
        """The scope whose binding of `name` a use in this scope sees; None for builtins and unbound names."""
        scope: Scope | None = self
        while scope is not None:
            if name in scope.elsewhere:
                return scope.elsewhere[name]
            # functions inside a class do not see the names of its body
            if name in scope.bindings and (scope is self or not isinstance(scope.node, cst.ClassDef)):
                return scope
            scope = scope.parent
        return None

    @property
    def module(self) -> Scope:
        return self if self.parent is None else self.parent.module

    @property
    def of_assignments(self) -> Scope:
        """The scope in which `:=` binds: the one around all comprehensions."""
        return cast("Scope", self.parent).of_assignments if isinstance(self.node, COMPREHENSIONS) else self

    def bind(self, binding: Binding) -> None:
        home = self.elsewhere.get(binding.name, self)
        home.bindings.setdefault(binding.name, []).append(binding)

    def declare(self, node: cst.CSTNode) -> None:
        """Records a `global` or `nonlocal` statement."""
        match node:
            case cst.Global(names=names):
                self.elsewhere |= {item.name.value: self.module for item in names}
            case cst.Nonlocal(names=names):
                for item in names:
                    outer = self.parent.owner(item.name.value) if self.parent else None
                    self.elsewhere[item.name.value] = outer or self.module


def scope_of_child(node: cst.CSTNode, child: cst.CSTNode, scope: Scope, inner: Scope) -> Scope:
    """The scope in which a child of `node` is evaluated: `scope`, that of `node`, or `inner`, the one that it opens.

    Names, decorators, defaults, annotations, bases and the first iterable of a comprehension belong to the outer scope.
    """
    match node:
        case cst.FunctionDef() | cst.ClassDef():
            return inner if child is node.body or isinstance(child, cst.Parameters) else scope
        case cst.Param() if child is node.default or child is node.annotation:
            return scope.parent or scope
        case cst.CompFor() if child is node.iter and getattr(scope.node, "for_in", None) is node:
            return scope.parent or scope
    return inner


def bindings_by(node: cst.CSTNode, parent: cst.CSTNode | None) -> Iterator[Binding]:
    """The names that a node itself binds, without those bound by nodes below it."""
    match node:  # the most frequent ones first
        case cst.Assign(targets=targets, value=value):
            for target in targets:
                yield from _assigned(target.target, "assign", value)
        case cst.Param(name=name):
            yield Binding(name.value, node, "parameter")
        case cst.FunctionDef(name=name):
            yield Binding(name.value, node, "def")
        case cst.Import(names=aliases):
            yield from map(_imported, aliases)
        case cst.ImportFrom(names=[*aliases]):  # no star
            base = "." * len(node.relative) + (f"{dotted(node.module)}." if node.module else "")
            yield from (_imported_from(base, alias) for alias in aliases)
        case cst.ClassDef(name=name):
            yield Binding(name.value, node, "class")
        case cst.For(target=target, iter=iterable) | cst.CompFor(target=target, iter=iterable):
            yield from _assigned(target, "for", iterable)
        case _:
            yield from _bound_by_others(node, parent)


def _bound_by_others(node: cst.CSTNode, parent: cst.CSTNode | None) -> Iterator[Binding]:
    match node:
        case cst.AnnAssign(target=target, value=value) | cst.NamedExpr(target=target, value=value) if value is not None:
            yield from _assigned(target, "assign", value)
        case cst.AugAssign(target=target):
            yield from _assigned(target, "augmented")
        case cst.AsName(name=target) if not isinstance(parent, cst.ImportAlias):
            yield from _assigned(target, "with" if isinstance(parent, cst.WithItem) else "other")
        case cst.Del(target=target):
            yield from _assigned(target, "other")
        case cst.MatchAs(name=cst.Name() as target) | cst.MatchStar(name=cst.Name() as target):
            yield from _assigned(target, "other")


def _assigned(target: cst.CSTNode, kind: BindingKind, value: cst.BaseExpression | None = None) -> Iterator[Binding]:
    """The names in a target; only a name that is the whole target is bound to the value itself."""
    match target:
        case cst.Name(value=name):
            yield Binding(name, target, kind, value)
        case cst.Tuple(elements=elements) | cst.List(elements=elements):
            for element in elements:
                yield from _assigned(element.value, kind)


def _imported(alias: cst.ImportAlias) -> Binding:
    path = dotted(alias.name)
    match alias.asname:
        case cst.AsName(name=cst.Name(value=name)):
            return Binding(name, alias, "import", path=path)
    root = path.partition(".")[0]
    return Binding(root, alias, "import", path=root)


def _imported_from(base: str, alias: cst.ImportAlias) -> Binding:
    original = dotted(alias.name)
    match alias.asname:
        case cst.AsName(name=cst.Name(value=name)):
            return Binding(name, alias, "import", path=f"{base}{original}")
    return Binding(original, alias, "import", path=f"{base}{original}")


def dotted(node: cst.CSTNode) -> str:
    """`a.b.c` for nested attributes of a name; the empty string for anything else."""
    match node:
        case cst.Name(value=value):
            return value
        case cst.Attribute(value=value, attr=attr):
            base = dotted(value)
            return f"{base}.{attr.value}" if base else ""
    return ""


def last_name(node: cst.CSTNode) -> str:
    """The identifier that says what an expression is: `self.optimizers["g"]` is `optimizers`."""
    match node:
        case cst.Name(value=value):
            return value
        case cst.Attribute(attr=cst.Name(value=value)):
            return value
        case cst.Subscript(value=inner) | cst.Call(func=inner) | cst.Await(expression=inner):
            return last_name(inner)
    return ""


def canonical(path: str) -> str:
    """The canonical path of a function that torch offers under several paths."""
    return path.replace("torch.nn.utils.clip_grad.", "torch.nn.utils.")
