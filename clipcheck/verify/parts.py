"""Finds the roles of the user's expressions in a training step from how they are used: optimizer, limit, loss."""

from __future__ import annotations

import ast
import math
from collections.abc import Iterator
from typing import NamedTuple

from clipcheck.training.acts import Act, EventKind
from clipcheck.training.clips import Clip
from clipcheck.training.optimizers import is_optimizer
from clipcheck.verify.allowed import NotVerifiable
from clipcheck.verify.called import as_called
from clipcheck.verify.program import Program

LIMIT_LETTERS_MOST = 200
_KINDS = {EventKind.BACKWARD: "backward", EventKind.STEP: "step", EventKind.ZERO_GRAD: "zero_grad"}
# An expression may be used in two ways, as `model` is in `f(model)` and `model.parameters()`: the first of these wins.
_ORDER = (
    "fsdp",
    "horovod",
    "model",
    "optimizer",
    "scaler",
    "accelerator",
    "fabric",
    "amp",
    "max_norm",
    "max_value",
    "parameters",
    "norm_type",
    "switch",
)


class Parts(NamedTuple):
    """`texts` maps expressions of the user to names of the harness, `roles` maps these names to their roles.

    `kinds` are the acts that occur, `clip` says how gradients are clipped, `limits` are the expressions of the limits.
    """

    texts: dict[str, str]
    roles: dict[str, str]
    kinds: frozenset[str] = frozenset()
    clip: str = ""
    norm_type: float = 2.0
    limits: frozenset[str] = frozenset()

    def joined(self, other: Parts) -> Parts:
        """The names of both sides: what one side shows about an expression holds for the other."""
        said: dict[str, str] = {}
        for one in (self, other):
            for text, name in one.texts.items():
                role = one.roles[name]
                if text not in said or _ORDER.index(role) < _ORDER.index(said[text]):
                    said[text] = role
        return _named(said)


def parts(program: Program, index: int) -> Parts:
    """What is known about the expressions of one function. Raises NotVerifiable."""
    setup, turn = program.region(index)
    region = {node for statement in (*setup, *turn) for node in ast.walk(statement)}
    said: dict[str, str] = {}
    kinds: set[str] = set()
    for node in region:
        act = program.act(node)
        known = act is not None and act.kind not in (EventKind.UNKNOWN, EventKind.MEASURE)
        pairs = list(_of_act(program, node, act)) if act is not None and known else list(_of_call(program, node))
        for text, role in ((as_called(node, text), role) for text, role in pairs):
            role = program.wrapped.get(text, role) if role in ("model", "optimizer") else role
            if text and (text not in said or _ORDER.index(role) < _ORDER.index(said[text])):
                said[text] = role
        if act and act.kind in _KINDS:
            kinds.add(_KINDS[act.kind])
    clip, norm_type = _way_to_clip(program, region)
    if sum(role in ("optimizer", "horovod") for role in said.values()) > 1:
        raise NotVerifiable("it trains with several optimizers")
    limits = frozenset(limit for node in region for limit in _limits(program, node))
    return _named(said)._replace(kinds=frozenset(kinds), clip=clip, norm_type=norm_type, limits=limits)


def _named(said: dict[str, str]) -> Parts:
    texts: dict[str, str] = {}
    roles: dict[str, str] = {}
    for text, role in sorted(said.items()):
        number = sum(known == role for known in roles.values())
        texts[text] = f"{role}__{number}__name"
        roles[texts[text]] = role
    return Parts(texts, roles)


def _of_act(program: Program, node: ast.AST, act: Act) -> Iterator[tuple[str, str]]:
    subject = program.text(act.subject)
    match act.kind:
        case EventKind.STEP | EventKind.UNSCALE if act.wrapper != "engine":
            yield subject, "optimizer"
        case EventKind.ZERO_GRAD if act.subject is not None:
            yield subject, "optimizer" if is_optimizer(program.source, act.subject) else "model"
        case EventKind.CLIP if (clip := program.clip(node)) is not None:
            yield from _of_clip(program, clip)
        case EventKind.CLIP if isinstance(node, ast.Call):
            yield from _of_wrapped_clip(node, clip_of(program, node, act))
        case EventKind.EDIT:
            yield from _of_call(program, node)
    if act.scaler is not None:
        yield program.text(act.scaler), "scaler"
    match node:
        case ast.Call(func=ast.Attribute(value=receiver)) if act.wrapper:
            yield from ((ast.unparse(receiver), kind) for kind in ("accelerator", "fabric") if kind in act.wrapper)


def _of_clip(program: Program, clip: Clip) -> Iterator[tuple[str, str]]:
    limit = program.text(clip.limit)
    if not is_infinite(program.nodes(clip.limit)) and not is_number(limit) and _may_be_limit(limit):
        yield limit, "max_value" if clip.function == "clip_grad_value_" else "max_norm"
    for argument, role in (("norm_type", "norm_type"), ("error_if_nonfinite", "switch"), ("foreach", "switch")):
        given = next(iter(program.nodes(clip.arguments.get(argument))), None)
        if given is not None and is_chain(given) and not is_infinite([given]):
            yield ast.unparse(given), role
    match next(iter(program.nodes(clip.parameters)), None):
        case ast.Attribute(value=owner, attr="parameters") if is_chain(owner):
            yield ast.unparse(owner), "model"
        case ast.Attribute(value=owner, attr="param_groups") if is_chain(owner):
            yield ast.unparse(owner), "optimizer"
        case ast.Name() | ast.Attribute() as whole if is_chain(whole):
            yield ast.unparse(whole), "parameters"


# Which argument of a wrapper's clip method is the limit.
_LIMIT_AT = {"accelerator": 1, "fsdp": 0}


def clip_of(program: Program, node: ast.Call, act: Act) -> str:
    """The kind of object whose method clips, if it is not a function of torch; "" if there is no stand-in for it."""
    match node.func:
        case ast.Attribute(value=owner) if program.wrapped.get(ast.unparse(owner)) == "fsdp":
            return "fsdp"
    return act.wrapper if act.wrapper in ("accelerator", "fabric") else ""


def _of_wrapped_clip(node: ast.Call, wrapper: str) -> Iterator[tuple[str, str]]:
    named = {keyword.arg: keyword.value for keyword in node.keywords}
    given = named.get("max_norm") or next(iter(node.args[_LIMIT_AT.get(wrapper, len(node.args)) :]), None)
    if given is not None and not is_number(ast.unparse(given)):
        yield ast.unparse(given), "max_norm"
    if wrapper == "fabric":
        yield from ((ast.unparse(arg), role) for arg, role in zip(node.args, ("model", "optimizer"), strict=False))


def _of_call(program: Program, node: ast.AST) -> Iterator[tuple[str, str]]:
    """What follows from an ordinary call."""
    match node:
        case ast.Call() if (clip := program.clip(node)) is not None:
            yield from _of_clip(program, clip)
        case ast.Call(func=ast.Attribute(value=owner, attr="parameters" | "named_parameters" | "modules")) if is_chain(
            owner
        ):
            yield ast.unparse(owner), "model"
        case ast.Call(func=ast.Attribute(attr="clamp" | "clamp_"), args=args):
            for arg in args:
                inner = arg.operand if isinstance(arg, ast.UnaryOp) else arg
                if is_chain(inner) and ".grad" not in ast.unparse(inner):
                    yield ast.unparse(inner), "max_value"
        case ast.Call(func=ast.Attribute(value=amp, attr="scale_loss" | "master_params"), args=args):
            yield ast.unparse(amp), "amp"
            yield from ((ast.unparse(arg), "optimizer") for arg in args[-1:])
        case ast.Attribute(value=owner, attr="param_groups") if is_chain(owner):
            yield ast.unparse(owner), "optimizer"


def _limits(program: Program, node: ast.AST) -> Iterator[str]:
    """The expressions of the limits that a call clips to, without signs."""
    clip, act = program.clip(node), program.act(node)
    match node:
        case ast.Call() if clip is not None:
            if clip.limit is not None and not is_infinite(program.nodes(clip.limit)):
                yield program.text(clip.limit)
        case ast.Call(func=func, args=args) if last_part(func) in ("clamp", "clamp_"):
            bounds = args[1:] if ast.unparse(func).startswith("torch.") else args
            yield from (ast.unparse(arg.operand if isinstance(arg, ast.UnaryOp) else arg) for arg in bounds)
        case ast.Call(args=args, keywords=keywords) if act is not None and act.kind is EventKind.CLIP:
            named = [keyword.value for keyword in keywords if keyword.arg in ("max_norm", "clip_val", "clip_value")]
            at = _LIMIT_AT.get(clip_of(program, node, act), len(args))
            yield from (ast.unparse(limit) for limit in named or args[at : at + 1])


def _may_be_limit(text: str) -> bool:
    """Whether an expression, which the harness replaces as a whole, can be a number: it is short and not a display."""
    return len(text) <= LIMIT_LETTERS_MOST and not set(text) & set("[{")


def is_number(text: str) -> bool:
    try:
        return float(text) > 0
    except ValueError:
        return False


def is_chain(node: ast.AST) -> bool:
    """Whether an expression is a name or a chain of attributes."""
    return isinstance(node, ast.Name) or (isinstance(node, ast.Attribute) and is_chain(node.value))


def _way_to_clip(program: Program, region: set[ast.AST]) -> tuple[str, float]:
    """How a side clips, and by which norm, as its calls spell it out. Raises NotVerifiable."""
    ways: set[tuple[str, float]] = set()
    for node in region:
        clip, act = program.clip(node), program.act(node)
        if clip is not None and clip.function != "get_total_norm":
            if not is_infinite(program.nodes(clip.limit)):
                way = "value" if clip.function == "clip_grad_value_" else "norm"
                ways.add((way, _norm_type(program, clip)))
        elif act is not None and act.kind is EventKind.CLIP and isinstance(node, ast.Call):
            if wrapper := clip_of(program, node, act):
                ways.add(_wrapped_way(node, wrapper))
        elif isinstance(node, ast.Call) and last_part(node.func) == "clamp_":
            ways.add(("value", 2.0))
    if len(ways) > 1:
        raise NotVerifiable("it clips in several ways")
    return ways.pop() if ways else ("", 2.0)


def _wrapped_way(node: ast.Call, wrapper: str) -> tuple[str, float]:
    """How the method of a wrapper clips. Raises NotVerifiable."""
    named = {keyword.arg: keyword.value for keyword in node.keywords}
    if last_part(node.func) == "clip_grad_value_" or "clip_val" in named:
        return "value", 2.0
    after_limit = node.args[_LIMIT_AT.get(wrapper, len(node.args)) + 1 :]
    match named.get("norm_type") or next(iter(after_limit), None):
        case None:
            return "norm", 2.0
        case ast.Constant(value=int() | float() as number):
            return "norm", float(number)
    raise NotVerifiable("the norm type is not known")


def _norm_type(program: Program, clip: Clip) -> float:
    match next(iter(program.nodes(clip.norm_type)), None):
        case None:
            return 2.0
        case ast.Constant(value=bool()):
            return 2.0  # replaced by the value of the next argument
        case ast.Constant(value=int() | float() as number):
            return float(number)
        case node if is_infinite([node]):
            return math.inf
        case node if is_chain(node):
            return 2.0  # the harness's
    raise NotVerifiable("the norm type is not known")


def is_infinite(nodes: list[ast.AST]) -> bool:
    return any(
        ast.unparse(node) in ("float('inf')", "math.inf", "torch.inf", "np.inf", "numpy.inf", "inf") for node in nodes
    )


def last_part(node: ast.AST) -> str:
    match node:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
    return ""
