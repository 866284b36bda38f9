"""The root that is taken of a sum of powers, somewhere behind the loop that added it up."""

from __future__ import annotations

from typing import NamedTuple

import libcst as cst

from clipcheck.gradients.exponents import Exponent, exponent_of
from clipcheck.gradients.powers import Kind, Power, raised
from clipcheck.python.source import Source


class Root(NamedTuple):
    """The root of an accumulator, taken at one of its uses."""

    use: cst.Name
    node: cst.CSTNode  # the expression, or the statement `t **= 0.5`
    kind: Kind
    numpy: str = ""


def root_of(source: Source, use: cst.Name, term: Power) -> Root | None:
    """The root, fitting the power that `term` adds up, that is taken of an accumulator where it is used."""
    match source.parent(use):
        case cst.AugAssign(target=target, operator=cst.PowerAssign(), value=value) as statement if target is use:
            by = exponent_of(source, value)
            whole = by and term.order.times(by)
            return Root(use, statement, term.kind) if whole and whole.is_one else None
    node: cst.CSTNode = use
    kind: Kind = "float" if term.synced else "tensor"
    numpy = ""
    product: Exponent | None = term.order
    best: Root | None = None
    for above in source.ancestors(use):
        if isinstance(above, (cst.Arg, cst.Attribute)):
            continue
        step = raised(source, above)
        if step is not None and step[0] is node and best is None:
            product = product and product.times(step[1])
            if product is None:
                return None
            if step[2] == "numpy":
                match above:
                    case cst.Call(func=cst.Attribute(value=value)):
                        kind, numpy = "numpy", source.code(value)
                    case _:
                        return None
                if not term.synced:
                    return None
            elif step[2] == "float":
                kind = "float"
            elif term.synced and isinstance(above, cst.Call) and source.qualified(above.func) != "builtins.pow":
                return None  # torch.sqrt of a float raises; a method of a float does not exist
            if product.is_one:
                best = Root(use, above, kind, numpy)
            node = above
            continue
        if best is not None and not term.synced:
            match above:
                case cst.Call(func=cst.Attribute(value=value, attr=cst.Name(value="item")), args=()) if value is node:
                    best = Root(use, above, "float")
                    node = above
                    continue
        break
    return best
