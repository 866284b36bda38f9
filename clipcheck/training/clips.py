"""Calls of torch's clipping functions: which function, and which arguments are the parameters, limit and norm type."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import libcst as cst

from clipcheck.python.literals import number
from clipcheck.python.names import last_name
from clipcheck.python.source import Source, memo
from clipcheck.training.parameters import assigned

SIGNATURES = {
    "clip_grad_norm_": ("parameters", "max_norm", "norm_type", "error_if_nonfinite", "foreach"),
    "clip_grad_value_": ("parameters", "clip_value", "foreach"),
    "clip_grads_with_norm_": ("parameters", "max_norm", "total_norm", "foreach"),
    "get_total_norm": ("tensors", "norm_type", "error_if_nonfinite", "foreach"),
}
KEYWORDS = {name: frozenset(arguments) for name, arguments in SIGNATURES.items()}
_FUNCTIONS = {
    f"{package}.{name}": name for package in ("torch.nn.utils", "clipcheck.runtime") for name in SIGNATURES
} | {"torch.nn.utils.clip_grad_norm": "clip_grad_norm_"}


@dataclass(frozen=True, eq=False)
class Clip:
    """One call; `arguments` are by parameter name; `unknown` is set if `*args` or `**kwargs` may add more."""

    call: cst.Call
    function: str
    arguments: dict[str, cst.BaseExpression]
    keywords: frozenset[str]
    surplus: int
    unknown: bool

    @property
    def parameters(self) -> cst.BaseExpression | None:
        return self.arguments.get("parameters")

    @property
    def limit(self) -> cst.BaseExpression | None:
        """The argument for the maximum norm or maximum absolute value."""
        return self.arguments.get("max_norm", self.arguments.get("clip_value"))

    @property
    def norm_type(self) -> cst.BaseExpression | None:
        return self.arguments.get("norm_type")

    @property
    def is_norm(self) -> bool:
        return self.function == "clip_grad_norm_"


def clips(source: Source) -> tuple[Clip, ...]:
    """Every call that clips gradients in place by a function of torch or of the runtime."""
    return tuple(call for call in torch_calls(source) if call.function != "get_total_norm")


@memo
def torch_calls(source: Source) -> tuple[Clip, ...]:
    return tuple(_torch_calls(source))


def _torch_calls(source: Source) -> Iterator[Clip]:
    for call in source.nodes(cst.Call):
        function = _FUNCTIONS.get(source.origin(call.func))
        if function:
            yield bound(call, function)


def partial_clip(source: Source, call: cst.Call) -> Clip | None:
    """A call of a `functools.partial` of one of torch's clips, with the arguments of both."""
    made = _partials(source).get(last_name(call.func))
    if made is None or assigned(source, call.func) is not made:
        return None
    function = _FUNCTIONS[source.origin(made.args[0].value)]
    return None if function == "get_total_norm" else bound(call, function, made.args[1:])


@memo
def _partials(source: Source) -> dict[str, cst.Call]:
    found: dict[str, cst.Call] = {}
    for statement in source.nodes(cst.Assign):
        match statement.value:
            case cst.Call() as made if _made_partial(source, made) is not None:
                found |= {last_name(target.target): made for target in statement.targets}
    return found


def partials(source: Source) -> Iterator[Clip]:
    """Every `functools.partial` of one of torch's clips, with the arguments that it is given so far."""
    return filter(None, (_made_partial(source, call) for call in source.nodes(cst.Call)))


def _made_partial(source: Source, call: cst.Call) -> Clip | None:
    match call:
        case cst.Call(func=func, args=[cst.Arg(value=clip, keyword=None, star=""), *given]):
            function = _FUNCTIONS.get(source.origin(clip)) if last_name(func) == "partial" else None
            return bound(call, function, given, own=False) if function else None
    return None


def only_measures(source: Source, node: cst.CSTNode) -> bool:
    """Whether a clip's `max_norm` is infinite, so that only the norm is wanted."""
    return isinstance(node, cst.Call) and number(source, bound(node, "clip_grad_norm_").limit) == math.inf


def bound(call: cst.Call, function: str, before: Sequence[cst.Arg] = (), own: bool = True) -> Clip:
    """The arguments of `call` by parameter name of `function`, after those of a partial (`before`); or only the latter."""
    names = SIGNATURES[function]
    arguments: dict[str, cst.BaseExpression] = {}
    keywords: set[str] = set()
    position, surplus, unknown = 0, 0, False
    for arg in (*before, *(call.args if own else ())):
        if arg.star:
            unknown = True
        elif arg.keyword is not None:
            keywords.add(arg.keyword.value)
            arguments[arg.keyword.value] = arg.value
        elif unknown:
            continue  # after *args, its position is unknown
        elif position < len(names):
            arguments[names[position]] = arg.value
            position += 1
        else:
            surplus += 1
    return Clip(call, function, arguments, frozenset(keywords), surplus, unknown)
