"""What a function of the file does to the training step and to its arguments, and what it returns.

Each question is answered from the function's body and from the answers for the functions that it calls, three calls
deep. What is unknown is left out, so that nothing is concluded from it:

    possible_acts  the acts of the training step that it may perform, including in functions that it calls; measuring a
                   norm is one of them
    returned       what it returns
    reductions     the collectives over gradients that it runs
    hooks          the functions that autograd calls during `backward()`

How often it iterates over its arguments is answered by `clipcheck.training.readings`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Literal, NamedTuple, TypeAlias

import libcst as cst

from clipcheck.gradients.gradient import element, gradient, is_in_place
from clipcheck.python.assignments import only_assignment
from clipcheck.python.names import last_name
from clipcheck.python.source import Source, memo
from clipcheck.training.acts import Act, EventKind, acts
from clipcheck.training.calls import Callee, Function, callee, callees, named_function
from clipcheck.training.parameters import assigned

Place: TypeAlias = "Function | cst.Module"
DEPTH = 3  # maximum depth of calls to follow
MOST = 500  # acts of one function; no handwritten program has more

_JOINS = frozenset({"cat", "concat", "flatten_dense_tensors", "_flatten_dense_tensors", "parameters_to_vector"})
_REDUCE = frozenset({"all_reduce", "all_reduce_coalesced", "allreduce", "all_reduce_", "allreduce_", "Allreduce"})
_KEPT = frozenset("cpu cuda to numpy detach clone contiguous float half".split())  # their result has the same elements
_REDUCERS = frozenset(
    f"{verb}_{what}"
    for verb in ("sync", "synchronize", "average", "avg", "mpi_avg", "reduce", "allreduce", "all_reduce")
    for what in ("grads", "gradients")
)
_HOOKS: dict[str, Literal["computed", "accumulated"]] = {
    "register_hook": "computed",
    "register_post_accumulate_grad_hook": "accumulated",
}


class PossibleAct(NamedTuple):
    """An act of the training step that a function may perform.

    `subject` is what it acts on, as the function writes it, or None; `calls` lead to it, the function's own call first.
    """

    act: Act
    subject: cst.BaseExpression | None
    calls: tuple[cst.Call, ...] = ()

    @property
    def kind(self) -> EventKind:
        return self.act.kind


def home(source: Source, node: cst.CSTNode) -> Place:
    """The function, lambda or module whose run evaluates `node`."""
    return source.enclosing(node, cst.FunctionDef, cst.Lambda) or source.module


# --- acts -----------------------------------------------------------------------------------------------------------


@memo
def possible_acts(source: Source, function: Place, depth: int = DEPTH) -> tuple[PossibleAct, ...]:
    """The acts that a function may perform, in source order; those of called functions follow its own."""
    own = [PossibleAct(act, act.subject) for act in _acts_by_home(source).get(function, ())]
    for call in _calls_by_home(source).get(function, ()):
        for called in callees(source, call):
            inner = possible_acts(source, called.function, depth - 1) if depth else _too_deep(source, call, called)
            own += (
                PossibleAct(d.act, in_caller_terms(source, d.subject, called.given), (call, *d.calls)) for d in inner
            )
            if len(own) > MOST:
                return tuple(own[:MOST])
    return tuple(own)


def _too_deep(source: Source, call: cst.Call, called: Callee) -> list[PossibleAct]:
    """The effect of a call that is too deep to follow: unknown if the function takes part in the training step."""
    return [PossibleAct(Act(EventKind.UNKNOWN, call), None)] if called.function in _acts_by_home(source) else []


def act_of(source: Source, node: cst.CSTNode) -> Act | None:
    """What `node` does itself; not unknown if it calls a function of the file, and nothing if that is an empty `step`."""
    act = acts(source).get(node)
    if act is None or not isinstance(node, cst.Call):
        return act
    if act.kind is EventKind.UNKNOWN and any(callees(source, node)):
        return None
    if act.kind is EventKind.STEP and (own := callee(source, node)) is not None and _does_nothing(source, own.function):
        return None
    return act


@memo
def _does_nothing(source: Source, function: Function) -> bool:
    """Whether a function computes and changes nothing, like the `step` of an optimizer that steps in hooks; it may raise."""
    return not any(
        isinstance(node, (cst.Assign, cst.AugAssign, cst.AnnAssign, cst.For, cst.While, cst.With, cst.Await))
        or (
            isinstance(node, cst.Call) and not isinstance(source.enclosing(node, cst.Raise, cst.FunctionDef), cst.Raise)
        )
        for node in source.walk(function.body)
    )


def does(source: Source, function: Place, *kinds: EventKind) -> bool:
    """Whether a function may perform an act of these kinds."""
    return any(act.kind in kinds for act in possible_acts(source, function))


def in_caller_terms(
    source: Source, node: cst.BaseExpression | None, given: Mapping[str, cst.BaseExpression]
) -> cst.BaseExpression | None:
    """The argument of a call if the expression is a parameter of the called function; else the expression itself."""
    match node:
        case cst.Name(value=name) if name in given and all(b.kind == "parameter" for b in source.bindings(node)):
            return given[name]
    return node


@memo
def _acts_by_home(source: Source) -> Mapping[cst.CSTNode, list[Act]]:
    found: dict[cst.CSTNode, list[Act]] = defaultdict(list)
    for node in sorted(acts(source), key=source.rank):
        act = act_of(source, node)
        if act is not None:
            found[home(source, node)].append(act)
    return found


@memo
def _calls_by_home(source: Source) -> Mapping[cst.CSTNode, list[cst.Call]]:
    """The calls that run functions of the file."""
    found: dict[cst.CSTNode, list[cst.Call]] = defaultdict(list)
    for call in source.nodes(cst.Call):
        if any(callees(source, call)):
            found[home(source, call)].append(call)
    return found


# --- results --------------------------------------------------------------------------------------------------------


@memo
def returned(source: Source, function: Function) -> tuple[cst.BaseExpression, ...] | None:
    """The expressions that a function returns; None if it may return nothing or is a generator."""
    if isinstance(function, cst.Lambda):
        return (function.body,)
    values = [node.value for node in _returns_by_home(source).get(function, ())]
    found = tuple(value for value in values if value is not None)
    return found if found and len(found) == len(values) else None


@memo
def _returns_by_home(source: Source) -> Mapping[cst.CSTNode, list[cst.Return]]:
    found: dict[cst.CSTNode, list[cst.Return]] = defaultdict(list)
    for node in source.nodes(cst.Return):
        found[home(source, node)].append(node)
    return found


# --- gradients ------------------------------------------------------------------------------------------------------


@memo
def reductions(source: Source, function: Place, depth: int = DEPTH) -> tuple[cst.Call, ...]:
    """The calls with which a function sums or averages gradients over ranks, such as `dist.all_reduce(p.grad)`."""
    found = [call for call in _reductions(source) if home(source, call) is function]
    for call in _calls_by_home(source).get(function, ()) if depth else ():
        for called in callees(source, call):
            found += reductions(source, called.function, depth - 1)
    return tuple(found[:MOST])


@memo
def _reductions(source: Source) -> tuple[cst.Call, ...]:
    return tuple(call for call in source.nodes(cst.Call) if is_reduction(source, call))


def is_reduction(source: Source, call: cst.Call) -> bool:
    """Whether a call is a collective over a gradient."""
    if last_name(call.func) not in _REDUCE or not call.args:
        return False
    tensor = call.args[0].value
    return is_in_place(tensor) or gradient(source, tensor) is not None or _joins_gradients(source, tensor)


def is_called_reduction(source: Source, call: cst.Call) -> bool:
    """Whether a function that is not in the file says by its name that it all-reduces the gradients that it is given.

    It is an object's own method, `self.sync_gradients(model)`, or imported, `distributed.avg_grads(model)`.
    """
    if last_name(call.func) not in _REDUCERS or not call.args:
        return False
    match call.func:
        case cst.Attribute(value=cst.Name("self")):
            return True
        case (cst.Name() as root) | cst.Attribute(value=cst.Name() as root):
            bindings = source.bindings(root)
            return bool(bindings) and all(binding.kind == "import" for binding in bindings)
    return False


def _joins_gradients(source: Source, tensor: cst.BaseExpression, depth: int = 6) -> bool:
    """Whether an expression is several gradients: a list or one tensor, `torch.cat([p.grad.flatten() for p in ps])`."""
    match _made(source, tensor):
        case (cst.ListComp() | cst.List()) as parts:
            return _holds_gradients(source, parts)
        case cst.Call(func=func, args=[cst.Arg(value=parts), *_]) if last_name(func) in _JOINS:
            return _holds_gradients(source, _made(source, parts)) or _is_filled(source, parts)
        case cst.Call(func=cst.Attribute(value=inner, attr=cst.Name(value=method))) if method in _KEPT and depth:
            return _joins_gradients(source, inner, depth - 1)
    return False


def _is_filled(source: Source, parts: cst.BaseExpression) -> bool:
    """Whether gradients are appended to a list."""
    spelled, function = source.spelled(parts), source.function(parts)
    for call in source.nodes(cst.Call):
        match call:
            case cst.Call(func=cst.Attribute(value=filled, attr=cst.Name("append")), args=[cst.Arg(value=added)]):
                if source.spelled(filled) == spelled and source.function(call) is function:
                    return _mentions_grad(source, added)
    return False


def _made(source: Source, node: cst.BaseExpression) -> cst.BaseExpression:
    """The expression that a name or an attribute stands for at this place, or else itself."""
    only = only_assignment(source, node) if isinstance(node, cst.Name) else None
    return (only.value if only is not None else assigned(source, node)) or node


def _holds_gradients(source: Source, parts: cst.BaseExpression) -> bool:
    return _mentions_grad(source, parts) or element(source, parts) is not None


def _mentions_grad(source: Source, node: cst.CSTNode) -> bool:
    return any(isinstance(inner, cst.Attribute) and inner.attr.value == "grad" for inner in source.walk(node))


# --- hooks ----------------------------------------------------------------------------------------------------------


class Hook(NamedTuple):
    """A function that autograd calls during `backward()`: with a gradient or, after accumulation, its parameter."""

    call: cst.Call  # the call that registers it
    function: Function
    when: Literal["computed", "accumulated"]


@memo
def hooks(source: Source) -> tuple[Hook, ...]:
    """The hooks on tensors that are functions of the file."""
    return tuple(_registered(source))


def _registered(source: Source) -> Iterator[Hook]:
    for call in source.nodes(cst.Call):
        match call:
            case cst.Call(func=cst.Attribute(attr=cst.Name(value=method)), args=[cst.Arg(value=hook, star=""), *_]) if (
                method in _HOOKS
            ):
                function = _hook(source, hook)
                if function is not None:
                    yield Hook(call, function, _HOOKS[method])


def _hook(source: Source, hook: cst.BaseExpression) -> Function | None:
    """The function that a hook runs: by name, a lambda, or the result of a function that returns a nested one."""
    function = named_function(source, hook)
    if function is not None or not isinstance(hook, cst.Call):
        return function
    maker = callee(source, hook)
    match () if maker is None else returned(source, maker.function):
        case [made]:
            return named_function(source, made)
    return None
