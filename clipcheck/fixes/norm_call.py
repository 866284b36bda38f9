"""Writes the call that replaces a recognized gradient norm."""

from __future__ import annotations

from typing import NamedTuple

import libcst as cst

from clipcheck.fixes.imports import reach
from clipcheck.gradients.accumulations import Series
from clipcheck.gradients.exponents import Exponent
from clipcheck.gradients.powers import NumberKind
from clipcheck.gradients.spelling import Refused, carried, gradients_pieces, joined, parameters_pieces
from clipcheck.python.source import Source, memo
from clipcheck.rule import Edit, Role, Safety

_SHARDED = ("torch.distributed.fsdp.fully_shard", "torch.distributed._composable", "torch.distributed.tensor")


class Call(NamedTuple):
    """The call that computes a norm, the imports that it needs, and the roles of the user's expressions in it."""

    function: str
    arguments: tuple[tuple[str, ...], ...]  # each as pieces between which a long line may be broken
    imports: tuple[Edit, ...]
    roles: tuple[tuple[str, Role], ...]
    cast: str = ""  # of the result, if each gradient was cast

    @property
    def text(self) -> str:
        return f"{self.function}({', '.join(map(joined, self.arguments))}){self.cast}"

    def broken(self, pad: str, room: int) -> str:
        """The call on several lines, for code indented by `pad`."""
        deeper = pad + "    "
        lines = []
        for pieces in self.arguments:
            whole = joined(pieces)
            if len(pieces) > 1 and len(deeper) + len(whole) > room:
                inner = "".join(f"\n{deeper}    {piece}" for piece in pieces)
                whole = f"[{inner}\n{deeper}]"
            lines.append(f"{deeper}{whole}")
        return f"{self.function}(\n" + ",\n".join(lines) + f"\n{pad}){self.cast}"


_OURS = ("grad", "norm")


@memo
def width(source: Source) -> int:
    """The maximum length of a line: the user's longest line, within the usual bounds.

    Lines that a fix may remove do not count, so that applying fixes one by one or all at once gives the same result.
    """
    kept = (line for line in source.text.splitlines() if not any(word in line for word in _OURS))
    return min(max((88, *map(len, kept))), 120)


# --- the call --------------------------------------------------------------------------------------------------------


def norm_call(source: Source, at: cst.CSTNode, found: Series, order: Exponent, kind: NumberKind) -> Call | Refused:
    """`grad_norm(parameters, p)` or `get_total_norm(gradients, p)` over what the series iterates over."""
    term = found.term
    if term.matrix:
        return Refused("`ord` means a matrix norm here, which is a different number for two-dimensional gradients")
    scoped = carried(source, found)
    if isinstance(scoped, Refused):
        return scoped
    over_parameters = term.gradient.owner is not None and source.target != "torch"
    cast = _cast_of_result(term.gradient.casts, over_parameters, kind)
    if cast is None or (cast and source.target == "torch"):
        return Refused(f"each gradient is cast by `{term.gradient.casts}`")
    tensors = parameters_pieces(source, scoped) if over_parameters else gradients_pieces(source, scoped)
    reached_ = reach(source, at, "grad_norm" if over_parameters else "get_total_norm")
    shown = () if order.value == 2 and not order.symbol else ((order.text or str(order.number),),)
    return Call(reached_.text, (tensors, *shown), reached_.imports, roles(source, scoped, order), cast)


_TO_FLOAT32 = (".float()", ".to(torch.float32)", ".to(torch.float)")
_TO_FLOAT64 = (".double()", ".to(torch.float64)", ".to(torch.double)")


def _cast_of_result(casts: str, over_parameters: bool, kind: NumberKind) -> str | None:
    """The cast of the norm that replaces casts of every gradient; empty if none is needed, None if it is impossible.

    `grad_norm` accumulates in float64 and returns float64, `get_total_norm` returns float32, so gradients need not be
    copied for precision. A Python number has no dtype.
    """
    if not casts:
        return ""
    if casts in _TO_FLOAT64:
        return "" if over_parameters else None
    if casts in _TO_FLOAT32:
        return "" if kind != "tensor" else casts
    return None


def roles(source: Source, found: Series, order: Exponent) -> tuple[tuple[str, Role], ...]:
    """The roles of the user's own expressions in a norm."""
    first = found.clauses[0].iterable
    named: list[tuple[str, Role]] = []
    match first:
        case cst.Call(func=cst.Attribute(value=module, attr=cst.Name(value="named_parameters"))):
            named.append((source.code(module), Role.MODEL))
        case cst.Attribute(value=optimizer, attr=cst.Name(value="param_groups")):
            named.append((source.code(optimizer), Role.OPTIMIZER))
        case _:
            role = Role.GRADIENTS if found.term.gradient.owner is None else Role.PARAMETERS
            named.append((source.code(first), role))
    if order.symbol:
        named.append((order.symbol, Role.NORM_TYPE))
    return tuple(named)


def safety(source: Source) -> Safety:
    """Safe, unless torch is the target or gradients may be sharded, so that this rank's value becomes the total."""
    if source.target == "torch":
        return Safety.UNSAFE
    paths = (b.path for scope in source.names.scopes.values() for bs in scope.bindings.values() for b in bs)
    return Safety.UNSAFE if any(path.startswith(_SHARDED) for path in paths) else Safety.SAFE


def typed(text: str, kind: NumberKind, numpy: str = "") -> str:
    """A norm call converted to the type of the original expression."""
    if kind == "tensor":
        return text
    return f"{numpy}.float64({text}.item())" if kind == "numpy" else f"{text}.item()"
