"""The values of a setting that is kept in an attribute, `self.max_norm` or `config.max_norm`, and that no test looks at."""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from clipcheck.python.names import Binding, last_name
from clipcheck.python.source import Source, memo
from clipcheck.training.guards import conditions
from clipcheck.training.parameters import assigned, attribute_bindings


def kept_values(source: Source, node: cst.Attribute) -> list[cst.BaseExpression]:
    """What the file assigns to an attribute; empty where code outside the file, or a test in it, may decide otherwise.

    A test counts wherever it is: `if self.max_norm > 0:` in one method guards the clip in another.
    """
    attr = node.attr.value
    if attr in _tested(source) or _is_switched(source, node):
        return []
    match node.value:
        case cst.Name("self"):
            values = [value for _, value in attribute_bindings(source, node)]
            plain = [value for value in values if value is not None]
            return plain if len(plain) == len(values) else []
        case cst.Name() as owner if attr not in _written(source):
            return list(_defaults(source, owner, attr))
    return []


def is_own(node: cst.Attribute) -> bool:
    """Whether an attribute is one of `self`."""
    return isinstance(node.value, cst.Name) and node.value.value == "self"


@memo
def _tested(source: Source) -> frozenset[str]:
    """The attributes that a test in the file looks at."""
    tests: list[cst.CSTNode] = list(source.nodes(cst.BooleanOperation, cst.Comparison))
    tests += (node.test for node in source.nodes(cst.If))
    tests += (node.test for node in source.nodes(cst.IfExp))
    tests += (node.test for node in source.nodes(cst.While))
    return frozenset(
        inner.attr.value for test in tests for inner in source.walk(test) if isinstance(inner, cst.Attribute)
    )


@memo
def _written(source: Source) -> frozenset[str]:
    """The attributes of other objects than `self` that the file assigns."""
    targets = [node.target for node in source.nodes(cst.AssignTarget)]
    targets += (node.target for node in source.nodes(cst.AnnAssign))
    targets += (node.target for node in source.nodes(cst.AugAssign))
    return frozenset(target.attr.value for target in targets if isinstance(target, cst.Attribute))


def _is_switched(source: Source, node: cst.CSTNode) -> bool:
    """Whether a setting in a test around `node`, or around a call of its function, may switch it off."""
    places = [node]
    function = source.function(node)
    if function is not None:
        places += [call for call in source.nodes(cst.Call) if last_name(call.func) == function.name.value]
    tests = (branch.test for place in places for branch, _ in conditions(source, place))
    return any(isinstance(inner, cst.Attribute) for test in tests for inner in source.walk(test))


def _defaults(source: Source, owner: cst.Name, attr: str) -> Iterator[cst.BaseExpression]:
    """The value in the body of a class without bases: of `Config`, or of `config = Config()`."""
    of_class = _class_of(source, owner) if _is_only_read(source, owner) else None
    for statement in of_class.body.body if of_class is not None and not of_class.bases else ():
        match statement:
            case cst.SimpleStatementLine(
                body=[
                    cst.AnnAssign(target=cst.Name(value=name), value=cst.BaseExpression() as value)
                    | cst.Assign(targets=[cst.AssignTarget(target=cst.Name(value=name))], value=value)
                ]
            ) if name == attr:
                yield value


def _is_only_read(source: Source, owner: cst.Name) -> bool:
    """Whether all that is done with settings is to read their attributes: another function could change them."""
    uses = source.names.uses(source.scope(owner).owner(owner.value), owner.value)
    parents = [source.parent(use) for use in uses]
    return all(isinstance(one, cst.Attribute) or (isinstance(one, cst.Call) and not one.args) for one in parents)


def _class_of(source: Source, owner: cst.Name) -> cst.ClassDef | None:
    match assigned(source, owner):
        case cst.Call(func=cst.Name() as made, args=[]):
            owner = made
    match source.bindings(owner):
        case [Binding(node=cst.ClassDef() as of_class)]:
            return of_class
    return None
