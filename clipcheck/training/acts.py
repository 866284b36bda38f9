"""What a single call or assignment does to the training step: backward, unscale, clip, step, zero_grad, update."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import libcst as cst

from clipcheck.gradients.gradient import is_in_place
from clipcheck.python.names import Binding, last_name
from clipcheck.python.reaching import reaching
from clipcheck.python.source import Source, memo
from clipcheck.python.words import words
from clipcheck.training.calls import calls_of
from clipcheck.training.clips import Clip, clips, partial_clip
from clipcheck.training.measures import measures
from clipcheck.training.optimizers import is_optimizer, is_scaler, makes_scaler
from clipcheck.training.parameters import assigned, attribute_bindings


class EventKind(Enum):
    BACKWARD = "backward"  # gradients are computed, or added to
    UNSCALE = "unscale"
    CLIP = "clip"
    STEP = "step"
    ZERO_GRAD = "zero_grad"
    UPDATE = "update"  # of a loss scaler
    EDIT = "edit"  # gradients are written by hand
    MEASURE = "measure"  # the norm of gradients is computed
    UNKNOWN = "unknown"  # could be any of these
    LOOP = "loop"  # the start of an iteration
    START = "start"
    END = "end"


@dataclass(frozen=True, eq=False)
class Act:
    """One call or assignment that affects the gradients.

    `subject` is what it acts on: the optimizer that steps or zeroes, the loss that runs backward, the parameters that
    are clipped. `scaler` is the loss scaler that it uses, `wrapper` the Accelerator, Fabric or engine.
    """

    kind: EventKind
    node: cst.CSTNode
    subject: cst.BaseExpression | None = None
    scaler: cst.BaseExpression | None = None
    wrapper: str = ""


@memo
def acts(source: Source) -> dict[cst.CSTNode, Act]:
    """The calls and assignments of a program that affect the gradients, each with its act."""
    nodes = source.nodes(cst.Call, cst.Assign, cst.AugAssign)
    measured = {node: Act(EventKind.MEASURE, node) for node in measures(source)}
    return measured | {node: found for node in nodes if (found := _act(source, node))}


def _act(source: Source, node: cst.CSTNode) -> Act | None:
    """What `node` does to the training step; None for nothing."""
    match node:
        case cst.Call():
            return _torch_clip(source, node) or _call(source, node)
        case cst.AugAssign(target=target) if is_in_place(target):
            return Act(EventKind.EDIT, node)
        case cst.Assign(targets=targets, value=value) if any(is_in_place(t.target) for t in targets):
            match value:
                case cst.Name("None"):
                    return Act(EventKind.ZERO_GRAD, node)
            return Act(EventKind.EDIT, node)
    return None


def _torch_clip(source: Source, node: cst.Call) -> Act | None:
    clip = _torch_clips(source).get(node) or partial_clip(source, node)
    return None if clip is None else Act(EventKind.CLIP, node, clip.parameters)


@memo
def _torch_clips(source: Source) -> dict[cst.CSTNode, Clip]:
    return {clip.call: clip for clip in clips(source)}


def _call(source: Source, node: cst.Call) -> Act | None:
    match node.func:
        case cst.Attribute(value=receiver, attr=cst.Name(value=method)):
            return _method(source, node, receiver, method)
        case cst.Name(value="clip_grad_norm_" | "clip_grad_value_"):
            return Act(EventKind.CLIP, node, _parameters(node), wrapper="own")  # a copy of torch's
        case cst.Name(value=name):
            return _suspect(source, node, name)
    return None


def _method(source: Source, node: cst.Call, receiver: cst.BaseExpression, method: str) -> Act | None:
    first = node.args[0].value if node.args else None
    name = words(last_name(receiver))
    match method:
        case "backward" | "manual_backward" if source.code(receiver) not in ("super()",):
            return _backward(source, node, receiver, first)
        case "unscale_" | "unscale_gradients":
            return Act(EventKind.UNSCALE, node, first, receiver)
        case "step":
            return _step(source, node, receiver, first)
        case "optimizer_step" if first is not None:
            return Act(EventKind.STEP, node, first, wrapper=last_name(receiver))
        case "zero_grad":
            return Act(EventKind.ZERO_GRAD, node, receiver)
        case "zero_" if is_in_place(receiver):
            return Act(EventKind.ZERO_GRAD, node)
        case "update" if is_scaler(receiver):
            return Act(EventKind.UPDATE, node, scaler=receiver)
        case "clip_grad_norm_" | "clip_grad_value_" if "accelerator" in name:
            return Act(EventKind.CLIP, node, first, wrapper="accelerator")
        case "clip_gradients" if "fabric" in name:
            return Act(EventKind.CLIP, node, first, wrapper="fabric")
        case "clip_gradients" if _is_lightnings(node):
            return Act(EventKind.CLIP, node, wrapper="lightning")
        case _ if method.endswith("_") and not method.startswith("_") and is_in_place(receiver):
            return Act(EventKind.EDIT, node)
        case "clip_grad_norm_" | "clip_grad_value_":
            return Act(EventKind.CLIP, node, _parameters(node), wrapper="own")
    return _suspect(source, node, method)


def _is_lightnings(node: cst.Call) -> bool:
    """Whether a call is the clip method of a LightningModule, judging by arguments that no other clip has."""
    keywords = {arg.keyword.value for arg in node.args if arg.keyword is not None}
    return bool(keywords & {"gradient_clip_val", "gradient_clip_algorithm"})


def _parameters(node: cst.Call) -> cst.BaseExpression | None:
    """The first argument of a function with torch's name, if it can be parameters rather than a limit."""
    first = node.args[0].value if node.args else None
    return first if isinstance(first, (cst.Call, cst.Name, cst.Attribute)) and len(node.args) > 1 else None


def _backward(source: Source, node: cst.Call, receiver: cst.BaseExpression, first: cst.BaseExpression | None) -> Act:
    origin = source.origin(receiver)
    if origin.startswith("torch.autograd"):
        return Act(EventKind.BACKWARD, node, first, None if first is None else _scaler_of(source, first))
    scaler = _scaler_of(source, receiver)
    if scaler is not None:
        return Act(EventKind.BACKWARD, node, receiver, scaler)
    wrapper = last_name(receiver)
    if first is not None and (is_wrapper(wrapper) or (node.args[0].keyword is None and not _is_loss(wrapper))):
        return Act(EventKind.BACKWARD, node, first, wrapper=wrapper)
    return Act(EventKind.BACKWARD, node, receiver)


def is_wrapper(name: str) -> bool:
    """Whether an object with this name runs backward and step for the program."""
    return any(word in ("accelerator", "fabric", "engine", "optimizer", "manual") for word in words(name))


def _is_loss(name: str) -> bool:
    return any(word.startswith(("loss", "err", "cost", "total", "out")) for word in words(name))


def _scaler_of(source: Source, loss: cst.BaseExpression, depth: int = 2) -> cst.BaseExpression | None:
    """The scaler that scaled a loss: in `scaler.scale(loss)` itself, or in what was assigned to the name."""
    match loss:
        case cst.Call(func=cst.Attribute(value=scaler, attr=cst.Name("scale"))) if is_scaler(scaler) or _is_grad_scaler(
            source, scaler
        ):
            return scaler
        case cst.Name() if depth:
            # under a setting it may be scaled: `if fp16: loss = scaler.scale(loss)`
            values = (binding.value for binding in reaching(source, loss) if binding.kind == "assign")
            found = (_scaler_of(source, value, depth - 1) for value in values if value is not None)
            return next(filter(None, found), None)
    return None


def _is_grad_scaler(source: Source, node: cst.BaseExpression, depth: int = 2) -> bool:
    """Whether the file creates a scaler for a name, or gives one for a parameter in every call of the function."""
    match assigned(source, node) or node:
        case cst.Call() as made:
            return makes_scaler(made)
    match source.bindings(node) if isinstance(node, cst.Name) and depth else ():
        case [Binding(kind="parameter", name=name, node=parameter)]:
            function = source.function(parameter)
            given = [called.given.get(name) for called in calls_of(source, function)] if function is not None else []
            return bool(given) and all(one is not None and _is_grad_scaler(source, one, depth - 1) for one in given)
    return False


def _step(source: Source, node: cst.Call, receiver: cst.BaseExpression, first: cst.BaseExpression | None) -> Act | None:
    if is_scaler(receiver) or _is_grad_scaler(source, receiver):
        return Act(EventKind.STEP, node, first, receiver) if first is not None else None
    if is_optimizer(source, receiver):
        return Act(EventKind.STEP, node, receiver)
    name = words(last_name(receiver))
    if "engine" in name or is_deepspeed(source, receiver):
        return Act(EventKind.STEP, node, receiver, wrapper="engine")
    if first is not None or any(word.startswith(_NO_OPTIMIZER) for word in name) or _steps_schedule(source, receiver):
        return None
    return Act(EventKind.UNKNOWN, node)


_NO_OPTIMIZER = (
    "sched",
    "lr",
    "warm",
    "prof",
    "timer",
    "env",
    "bar",
    "pbar",
    "ema",
    "meter",
    "tracker",
    "progress",
    "sim",
)


def _steps_schedule(source: Source, receiver: cst.BaseExpression) -> bool:
    match assigned(source, receiver):
        case cst.Call(func=func):
            origin = source.origin(func)
            name = words(last_name(func))
            return origin.startswith(("torch.optim.lr_scheduler", "torch.profiler")) or any(
                word.startswith(_NO_OPTIMIZER) for word in name
            )
    return False


def is_deepspeed(source: Source, node: cst.CSTNode) -> bool:
    """Whether a name or a `self.` attribute is bound by `engine, … = deepspeed.initialize(…)`."""
    match node:
        case cst.Name():
            places = [binding.node for binding in source.bindings(node) if binding.kind == "assign"]
        case cst.Attribute(value=cst.Name("self")):
            places = [place for place, _ in attribute_bindings(source, node)]
        case _:
            return False
    return any(_assigns_deepspeed(source, place) for place in places)


def _assigns_deepspeed(source: Source, target: cst.CSTNode) -> bool:
    statement = source.enclosing(target, cst.Assign)
    match statement:
        case cst.Assign(value=cst.Call(func=func)):
            return source.qualified(func) == "deepspeed.initialize"
    return False


def _suspect(source: Source, node: cst.Call, name: str) -> Act | None:
    """A call of code outside the file whose name suggests that it may run a part of the training step."""
    origin = source.origin(node.func)
    if origin.startswith(("torch.", "builtins.", "functools.", "numpy.", "math.")):
        return None
    if name == "optimizers":
        return None  # Lightning's list of them
    parts = words(name)
    if name in _OF_FRAMEWORKS or any(part in _HARMLESS for part in parts):
        return None
    if any(part.startswith(_TELLING) for part in parts) and not (name == "train" and len(node.args) < 2):
        return Act(EventKind.UNKNOWN, node)
    hands_over = any(
        isinstance(arg.value, (cst.Name, cst.Attribute)) and (is_optimizer(source, arg.value) or is_scaler(arg.value))
        for arg in node.args
    )
    return Act(EventKind.UNKNOWN, node) if hands_over else None


_TELLING = (
    "backward",
    "step",
    "optimi",
    "train",
    "unscale",
    "closure",
    "fit",
    "learn",
    "backprop",
    "clip",
    "accumulate",
)
# They receive the optimizer or have `backward` in their names, but run no part of the step.
_OF_FRAMEWORKS = frozenset({"scale_loss", "master_params", "no_backward_sync"})
_HARMLESS = frozenset(
    "lr rate learning save load checkpoint resume schedule scheduler sched log print write state dict warmup "
    "isinstance append summary lambda count counter metrics meter set get scalar wandb loader trained steps "
    "timer progress rewards env plot adjust register".split()
)
