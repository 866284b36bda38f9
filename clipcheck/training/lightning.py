"""What Lightning does around the code of a module: manual optimization, and a Trainer that scales the loss."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import libcst as cst

from clipcheck.python.classes import bases
from clipcheck.python.names import last_name
from clipcheck.python.source import Source
from clipcheck.training.classes import is_lightning_module
from clipcheck.training.parameters import assigned
from clipcheck.training.possible_limits import constants

# Mixed precision with float16 uses a loss scale; "16-true" and bfloat16 do not.
_SCALED = frozenset({"16", "16-mixed", 16.0})
_SCALING_PLUGINS = frozenset({"MixedPrecision", "MixedPrecisionPlugin", "NativeMixedPrecisionPlugin"})


def lightning_modules(source: Source) -> Iterator[cst.ClassDef]:
    return (owner for owner in source.nodes(cst.ClassDef) if is_lightning_module(source, owner))


def is_callback(source: Source, owner: cst.ClassDef) -> bool:
    """Whether a class derives from an imported Lightning Callback, as far as this file shows."""
    return any(
        base.endswith(".Callback") and base.startswith(("pytorch_lightning", "lightning"))
        for base in bases(source, owner)
    )


def manual_at(source: Source, owner: cst.ClassDef) -> cst.CSTNode | None:
    """Where a class, or a base of it in this file, turns off automatic optimization."""
    for node in source.walk(owner):
        match node:
            case cst.Assign(targets=[cst.AssignTarget(target=target)], value=cst.Name("False")):
                if last_name(target) == "automatic_optimization":
                    return node
    for base in owner.bases:
        bindings = source.bindings(base.value) if isinstance(base.value, cst.Name) else []
        for binding in bindings:
            if isinstance(binding.node, cst.ClassDef) and binding.node is not owner:
                return manual_at(source, binding.node)
    return None


def scaling_trainer(source: Source) -> cst.Call | None:
    """The Trainer of this file that scales the loss; None if one does not, or if there is none."""
    trainers = [call for call in source.nodes(cst.Call) if _is_trainer(source, call)]
    return trainers[0] if trainers and all(_scales(source, trainer) for trainer in trainers) else None


def _is_trainer(source: Source, call: cst.Call) -> bool:
    origin = source.origin(call.func)
    return last_name(call.func) == "Trainer" and origin.startswith(("lightning", "pytorch_lightning"))


def _scales(source: Source, trainer: cst.Call) -> bool:
    for keyword, value in _given(source, trainer.args):
        if keyword == "precision":
            return any(constant.value in _SCALED for constant in constants(source, value))
        if keyword == "plugins" and any(
            isinstance(node, cst.Call) and _is_scaling(node) for node in source.walk(value)
        ):
            return True
    return False


def _given(source: Source, args: Iterable[cst.Arg]) -> Iterator[tuple[str, cst.BaseExpression]]:
    """The keyword arguments of a call, also those in a dict that the file writes out: `Trainer(**settings)`."""
    for arg in args:
        if arg.keyword is not None:
            yield arg.keyword.value, arg.value
        match _settings(source, arg.value) if arg.star == "**" else None:
            case cst.Call(func=cst.Name("dict"), args=inner):
                yield from _given(source, inner)
            case cst.Dict(elements=elements):
                for element in elements:
                    match element:
                        case cst.DictElement(key=cst.SimpleString(evaluated_value=str(key)), value=value):
                            yield key, value


def _settings(source: Source, node: cst.BaseExpression) -> cst.BaseExpression | None:
    """What a name is assigned if nothing else in the file uses it, which could change it; else the expression itself."""
    if not isinstance(node, cst.Name):
        return node
    alone = len(source.names.uses(source.scope(node).owner(node.value), node.value)) == 1
    return assigned(source, node) if alone else None


def _is_scaling(plugin: cst.Call) -> bool:
    """Whether a precision plugin is created for float16."""
    first = next((arg.value for arg in plugin.args if not arg.star), None)
    says = isinstance(first, cst.SimpleString) and str(first.evaluated_value) in _SCALED
    return last_name(plugin.func) in _SCALING_PLUGINS and says
