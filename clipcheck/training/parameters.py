"""Whose parameters an expression contains, and which optimizer steps them: needed to relate two calls."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import libcst as cst

from clipcheck.gradients.optimizers import is_optimizer_class
from clipcheck.python.assignments import assigned_value
from clipcheck.python.names import Binding, dotted, last_name
from clipcheck.python.source import Source, memo
from clipcheck.python.words import words

# Calls that pass on their (first or only) iterable argument.
_THROUGH = frozenset("list tuple set iter reversed sorted chain from_iterable islice cast".split())


def assigned(source: Source, node: cst.CSTNode) -> cst.BaseExpression | None:
    """The only expression that is assigned to a name or a `self.` attribute in this file, or None."""
    match node:
        case cst.Name():
            match source.bindings(node):
                case [Binding(kind="assign") as binding]:
                    return assigned_value(source, binding)
            return None
        case cst.Attribute(value=cst.Name("self"), attr=cst.Name(value=attr)):
            values = attribute_values(source, node, attr)
            return values[0] if len(values) == 1 else None
    return None


def attribute_values(source: Source, node: cst.CSTNode, attr: str) -> list[cst.BaseExpression | None]:
    """Everything that the class around `node` assigns to `self.attr`; None for each assignment that is not plain."""
    owner = source.enclosing(node, cst.ClassDef)
    if owner is None:
        return []
    return [value for target, value in _attribute_assignments(source).get((owner, attr), [])]


@memo
def _attribute_assignments(
    source: Source,
) -> dict[tuple[cst.ClassDef, str], list[tuple[cst.Attribute, cst.BaseExpression | None]]]:
    found: dict[tuple[cst.ClassDef, str], list[tuple[cst.Attribute, cst.BaseExpression | None]]] = {}
    for statement in source.nodes(cst.Assign, cst.AnnAssign, cst.AugAssign):
        for place, value in _targets(statement):
            match place:
                case cst.Attribute(value=cst.Name("self"), attr=cst.Name(value=attr)):
                    owner = source.enclosing(place, cst.ClassDef)
                    if owner is not None:
                        found.setdefault((owner, attr), []).append((place, value))
    return found


def _targets(statement: cst.CSTNode) -> Iterator[tuple[cst.CSTNode, cst.BaseExpression | None]]:
    """The targets of a statement, each with its value if it is assigned as a whole."""
    match statement:
        case cst.Assign(targets=targets, value=value):
            for target in targets:
                match target.target:
                    case cst.Tuple(elements=places) | cst.List(elements=places):
                        yield from _pairs(places, value)
                    case whole:
                        yield whole, value
        case cst.AnnAssign(target=target, value=value) if value is not None:
            yield target, value
        case cst.AugAssign(target=target):
            yield target, None


def _pairs(
    places: Sequence[cst.BaseElement], value: cst.BaseExpression
) -> Iterator[tuple[cst.CSTNode, cst.BaseExpression | None]]:
    """The places of `a, b = x, y`, each with its value; without one where they do not correspond."""
    match value:
        case cst.Tuple(elements=values) | cst.List(elements=values) if len(values) == len(places):
            if not any(isinstance(element, cst.StarredElement) for element in (*places, *values)):
                yield from ((place.value, own.value) for place, own in zip(places, values, strict=True))
                return
    yield from ((place.value, None) for place in places)


def attribute_bindings(source: Source, node: cst.Attribute) -> list[tuple[cst.Attribute, cst.BaseExpression | None]]:
    """The places in the class around `node` that assign this `self.` attribute, with the assigned values."""
    owner = source.enclosing(node, cst.ClassDef)
    return _attribute_assignments(source).get((owner, node.attr.value), []) if owner else []


def owners(source: Source, node: cst.CSTNode, depth: int = 4) -> frozenset[str] | None:
    """The modules (as code) whose parameters an expression contains; None if that is unclear."""
    match node:
        case cst.Call(func=cst.Attribute(value=module, attr=cst.Name("parameters" | "named_parameters")), args=[]):
            return frozenset({_unwrapped(_as_attribute(source, module))})
        case cst.Name() | cst.Attribute() if depth:
            value = assigned(source, node)
            return None if value is None else owners(source, value, depth - 1)
    found = [owners(source, part, depth) for part in _parts(node)]
    known = [part for part in found if part is not None]
    return frozenset().union(*known) if found and len(known) == len(found) else None


def _as_attribute(source: Source, module: cst.BaseExpression) -> str:
    """A module's code; a parameter that its method keeps as an attribute is written as other methods write it."""
    written = source.spelled(module)
    root, dot, rest = written.partition(".")
    kept = _kept(source).get((source.function(module), root))
    return f"self.{kept}{dot}{rest}" if kept is not None else written


@memo
def _kept(source: Source) -> dict[tuple[cst.FunctionDef | None, str], str]:
    """The attributes to which a class only assigns a parameter, `self.net = net`, by the method and the parameter."""
    found: dict[tuple[cst.FunctionDef | None, str], str] = {}
    for (_, attr), assignments in _attribute_assignments(source).items():
        match assignments:
            case [(place, cst.Name(value=name) as value)] if [b.kind for b in source.bindings(value)] == ["parameter"]:
                found.setdefault((source.function(place), name), attr)
    return found


def _parts(node: cst.CSTNode) -> Sequence[cst.BaseExpression]:
    """The expressions whose parameters another expression passes on; empty if that is unclear."""
    match node:
        case cst.Call(func=cst.Name("filter" | "map"), args=[_, cst.Arg(value=inner)]):
            return [inner]
        case cst.Call(func=func, args=args) if last_name(func) in _THROUGH:
            return [arg.value for arg in args]
        case cst.List(elements=elements) | cst.Tuple(elements=elements):
            return [element.value for element in elements]
        case cst.BinaryOperation(operator=cst.Add(), left=left, right=right):
            return [left, right]
        case cst.GeneratorExp(for_in=comp) | cst.ListComp(for_in=comp) if comp.inner_for_in is None:
            return [comp.iter]
        case cst.Dict(elements=elements):
            return [element.value for element in elements if _is_params(element)]
    return []


def _is_params(element: cst.BaseDictElement) -> bool:
    match element:
        case cst.DictElement(key=cst.SimpleString() as key):
            return key.evaluated_value == "params"
    return False


def _unwrapped(module: str) -> str:
    """A module's code without the wrapper of data parallelism: `net.module.head` becomes `net.head`."""
    root, *parts = module.split(".")
    return ".".join([root, *(part for part in parts if part not in ("module", "_orig_mod"))])


def stepped(source: Source, optimizer: cst.BaseExpression) -> frozenset[str] | None:
    """The modules whose parameters an optimizer was created with; None if that is unclear."""
    if source.spelled(optimizer) in _extended(source):
        return None
    match assigned(source, optimizer):
        case cst.Call(func=func, args=[first, *_]) if is_optimizer_class(source, func):
            return owners(source, first.value)
    return None


@memo
def _extended(source: Source) -> frozenset[str]:
    """The optimizers (as code) that receive more parameters later."""
    methods = (call.func for call in source.nodes(cst.Call) if last_name(call.func) == "add_param_group")
    return frozenset(source.spelled(method.value) for method in methods if isinstance(method, cst.Attribute))


def belong(source: Source, parameters: cst.BaseExpression | None, optimizer: cst.BaseExpression) -> bool | None:
    """Whether an optimizer steps (some of) these parameters, judging by names, too; None if the file does not say."""
    known = surely_belong(source, parameters, optimizer)
    return named_alike(source, parameters, optimizer) if known is None and parameters is not None else known


def surely_belong(source: Source, parameters: cst.BaseExpression | None, optimizer: cst.BaseExpression) -> bool | None:
    """Like `belong`, but judging only by what the optimizer was created with, not by names."""
    if parameters is None:
        return None
    mine, theirs = owners(source, parameters), stepped(source, optimizer)
    if mine is None or theirs is None:
        return True if _is_given(source, parameters, optimizer) else None
    if any(_within(a, b) or _within(b, a) for a in mine for b in theirs):
        return True
    # `model` in __init__ and `self.model` in a method may be the same
    comparable = _same_scope(source, parameters, optimizer) or all(a.startswith("self.") for a in mine | theirs)
    related = any(_are_related(source, parameters, a, b) for a in mine for b in theirs)
    return False if comparable and not related else None


def named_alike(source: Source, parameters: cst.BaseExpression, optimizer: cst.BaseExpression) -> bool | None:
    """Whether the distinguishing part of a name is the same for the parameters and the optimizer: `netG`, `g_optim`."""
    names = owners(source, parameters) or {source.spelled(parameters)}
    labels = {_label(name) for name in names} - {""}
    other = _label(last_name(optimizer))
    if not labels or not other:
        return None
    return any(label.startswith(other) or other.startswith(label) for label in labels)


def _are_related(source: Source, place: cst.CSTNode, one: str, other: str) -> bool:
    """Whether one of two modules is created from the other: `wrapped = DDP(net)`."""
    first, second = _root(one), _root(other)
    return first != second and any(
        _also_called(source, place, here) & _made_from(source, place, there)
        for here, there in ((first, second), (second, first))
    )


def _also_called(source: Source, place: cst.CSTNode, variable: str) -> frozenset[str]:
    """A variable, and those that are assigned to it as they are."""
    values = _values(source, place, variable)
    return frozenset({variable, *(value.value for value in values if isinstance(value, cst.Name))})


def _root(module: str) -> str:
    """The variable through which a module is accessed: `net` of `net.head`, `self.net` of `self.net.head`."""
    return ".".join(module.split(".")[: 2 if module.startswith("self.") else 1])


def _made_from(source: Source, place: cst.CSTNode, variable: str, depth: int = 3) -> frozenset[str]:
    """The variables from which the values of a variable are computed, and theirs in turn."""
    found = {root for value in _values(source, place, variable) for root in _variables(source, value)}
    if depth:
        found |= {inner for root in found - {variable} for inner in _made_from(source, place, root, depth - 1)}
    return frozenset(found)


def _values(source: Source, place: cst.CSTNode, variable: str) -> Iterator[cst.BaseExpression]:
    if variable.startswith("self."):
        yield from filter(None, attribute_values(source, place, variable.removeprefix("self.")))
        return
    owner = source.scope(place).owner(variable)
    for binding in owner.bindings.get(variable, []) if owner is not None else []:
        statement = source.enclosing(
            binding.node, cst.Assign
        )  # in `a, b = prepare(a, b)`, no single value belongs to one name
        value = binding.value if binding.value is not None or statement is None else statement.value
        if binding.kind == "assign" and value is not None:
            yield value


def _variables(source: Source, value: cst.CSTNode) -> Iterator[str]:
    for node in source.walk(value):
        match node:
            case cst.Attribute(value=cst.Name("self"), attr=cst.Name(value=attr)):
                yield f"self.{attr}"
            case cst.Name(value=name) if name != "self":
                yield name


def is_all_of(source: Source, module: cst.BaseExpression, optimizer: cst.BaseExpression) -> bool:
    """Whether the file shows that an optimizer steps only parameters of this module."""
    theirs = stepped(source, optimizer)
    if not theirs or (isinstance(module, cst.Name) and any(b.kind == "for" for b in source.bindings(module))):
        return False
    mine = _unwrapped(_as_attribute(source, module))
    comparable = _same_scope(source, module, optimizer) or all(name.startswith("self.") for name in {mine, *theirs})
    return comparable and all(_within(name, mine) for name in theirs)


def _is_given(source: Source, parameters: cst.BaseExpression, optimizer: cst.BaseExpression) -> bool:
    """Whether the optimizer is created from this very expression, or the expression reads the optimizer's groups."""
    given = source.spelled(parameters)
    match assigned(source, optimizer):
        case cst.Call(func=func, args=[first, *_]) if is_optimizer_class(source, func):
            if source.spelled(first.value) == given:
                return True
    return given.startswith(source.spelled(optimizer) + ".param_groups")


def _same_scope(source: Source, parameters: cst.CSTNode, optimizer: cst.CSTNode) -> bool:
    made = assigned(source, optimizer)
    return made is not None and source.function(made) is source.function(parameters)


def _within(inner: str, outer: str) -> bool:
    return inner == outer or inner.startswith(outer + ".")


def _label(name: str) -> str:
    """The distinguishing part of a name: the g of `netG`, `optimizer_g` and `g_optim`."""
    parts = words(name.replace("parameters", "").split("(")[0])
    kept = [w for w in parts if w.isalpha() and w not in _GENERIC and not w.startswith("optim")]
    return kept[-1] if kept else ""


_GENERIC = frozenset("self net model module opt opts params param parameters network solver the".split())


def single(bindings: list[Binding]) -> Binding | None:
    return bindings[0] if len(bindings) == 1 else None


def is_plain(node: cst.CSTNode) -> bool:
    """Whether an expression is a name or a chain of attributes, so that reading it twice gives the same value."""
    return bool(dotted(node))
