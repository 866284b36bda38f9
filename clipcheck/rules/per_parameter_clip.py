"""
## What it does
Finds `clip_grad_norm_` called for one parameter at a time: in a loop, or in a hook that runs as soon as the gradient of
one parameter is ready (`register_post_accumulate_grad_hook`). It also finds a loop over `modules()`, which yields the
whole model first: the first iteration clips everything, and the later ones change nothing.

## Why is this bad?
Each tensor is clipped on its own: the total norm of `n` parameters may be as large as `sqrt(n) * max_norm`, and because
large gradients are scaled and small ones are not, the direction changes. One call for all parameters scales them by the
same coefficient, and is faster.

## How to fix by hand
Replace the loop by one call, `clip_grad_norm_(model.parameters(), max_norm)`. Inside a hook the total norm is not known
yet: clip after `backward()` instead.

## Fix safety
Unsafe: a loop that does nothing else becomes one call, so training changes; over `modules()` it does not. No automatic
fix in a hook. Optimizers that clip each parameter in their own `step` (BertAdam and its derivatives) are not reported.

## When to suppress it
Where each parameter is to be clipped on its own, for instance because the step runs inside the hook.

## References
- huggingface/transformers#581, huggingface/transformers#614, clab/dynet#1374
"""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from clipcheck.gradients.optimizers import is_in_optimizer
from clipcheck.python.names import last_name
from clipcheck.python.reaching import contains, reaching
from clipcheck.python.source import Source, memo
from clipcheck.python.words import words
from clipcheck.rule import Edit, Fix, Hit, Safety
from clipcheck.training.calls import callee, generator_of
from clipcheck.training.clips import Clip
from clipcheck.training.parameters import assigned
from clipcheck.training.split_clips import (
    Loop,
    begins_with_all,
    has_one_limit,
    is_bound_by,
    is_guarded_in,
    loop_of_part,
    loops_around,
    norm_clips,
)
from clipcheck.training.summaries import Hook, home, hooks, returned

TITLE = "Clip all parameters in one call"
MESSAGE = "clips each parameter by its own norm: the total norm is not bounded, and the direction changes"
BY_HAND = "clip all parameters in one call, outside the loop"
IN_HOOK = "clips each parameter by its own norm, in its backward hook: the total norm is not bounded"
HOOK_BY_HAND = "clip all parameters in one call after backward: inside a hook the total norm is not known yet"
WHOLE_FIRST = "the first iteration clips the whole model: the later ones take time and change nothing"
_SINGLE = {"p", "param", "parameter", "w", "weight", "tensor"}


def check(source: Source) -> Iterator[Hit]:
    for clip in norm_clips(source):
        if clip.parameters is not None and not is_in_optimizer(source, clip.call):
            yield from _of_one(source, clip, clip.parameters)


def _of_one(source: Source, clip: Clip, part: cst.BaseExpression) -> Iterator[Hit]:
    name = _single(part)
    loop = _loop_over(source, name) if name is not None else _loop_by_index(source, part, clip)
    if loop is not None and has_one_limit(source, clip, loop):
        fix = _fix(source, clip, loop) if name is not None else None
        yield Hit(clip.call, MESSAGE, fix, "" if fix else BY_HAND, ((loop, "the loop over the parameters"),))
        return
    if name is not None and (mapped := _mapped(source, clip, name)) is not None:
        yield Hit(clip.call, MESSAGE, None, BY_HAND, ((mapped, "called for each parameter"),))
        return
    registered = _registration(source, name) if name is not None else None
    if registered is not None:
        yield Hit(clip.call, IN_HOOK, None, HOOK_BY_HAND, ((registered, "the hook is registered here"),))
        return
    for call, over in _calls_for_each(source, clip, name) if name is not None else ():
        yield Hit(call, MESSAGE, None, BY_HAND, ((clip.call, "clipped here"), (over, "the loop over the parameters")))
    loop = loop_of_part(source, part, clip.call)
    if loop is not None and _is_whole_first(source, clip, part, loop):
        fix = _fix(source, clip, loop)
        yield Hit(clip.call, WHOLE_FIRST, fix, "" if fix else BY_HAND, ((loop, "the loop over all modules"),))


def _is_whole_first(source: Source, clip: Clip, part: cst.BaseExpression, loop: Loop) -> bool:
    all_first = begins_with_all(source, part, loop) and not is_guarded_in(source, clip.call, loop)
    return all_first and has_one_limit(source, clip, loop)


def _single(part: cst.BaseExpression) -> cst.Name | None:
    """The name of what is clipped by itself: `p` in `clip_grad_norm_(p, …)` and in `clip_grad_norm_([p], …)`."""
    match part:
        case cst.Name():
            return part
        case (
            cst.List(elements=[cst.Element(value=cst.Name() as name)])
            | cst.Tuple(elements=[cst.Element(value=cst.Name() as name)])
            | cst.Set(elements=[cst.Element(value=cst.Name() as name)])
        ):
            return name
    return None


def _loop_over(source: Source, name: cst.Name, depth: int = 3) -> Loop | None:
    """The loop whose variable `name` is, if it goes over single parameters."""
    for loop in loops_around(source, name):
        if is_bound_by(source, name, loop):
            others = [b for b in reaching(source, name) if not contains(source, loop.target, b.node)]
            return loop if not others and _gives_parameters(source, loop.iter, name, depth) else None
    return None


def _loop_by_index(source: Source, part: cst.BaseExpression, clip: Clip) -> Loop | None:
    """The loop over `range(len(weights))` around a clip of `weights[i]`."""
    match part:
        case cst.Subscript(value=weights, slice=[cst.SubscriptElement(slice=cst.Index(value=cst.Name() as index))]) if (
            _gives_parameters(source, weights, index)
        ):
            match loop_of_part(source, index, clip.call):
                case (cst.For(iter=cst.Call(func=func)) | cst.CompFor(iter=cst.Call(func=func))) as loop if (
                    source.qualified(func) == "builtins.range"
                ):
                    return loop
    return None


def _mapped(source: Source, clip: Clip, name: cst.Name) -> cst.Call | None:
    """The `map(lambda p: clip_grad_norm_(p, …), parameters)` around a clip."""
    match source.parent(clip.call):
        case cst.Lambda(params=cst.Parameters(params=[cst.Param(name=cst.Name(value=target))])) as function:
            call = source.enclosing(function, cst.Call)
            match call:
                case cst.Call(func=func, args=[cst.Arg(value=first), cst.Arg(value=iterable)]) if (
                    first is function and target == name.value and source.qualified(func) == "builtins.map"
                ):
                    return call if _gives_parameters(source, iterable, name) else None
    return None


def _calls_for_each(source: Source, clip: Clip, name: cst.Name) -> Iterator[tuple[cst.Call, Loop]]:
    """The calls, in a loop over parameters, of a function that clips the one that it is given, and the loop."""
    function = source.function(clip.call)
    if function is None or any(b.kind != "parameter" for b in source.bindings(name)):
        return
    for call in source.nodes(cst.Call):
        called = callee(source, call)
        if called is None or called.function is not function or is_in_optimizer(source, call):
            continue
        one = _single(called.given.get(name.value, clip.call))
        loop = None if one is None else _loop_over(source, one)
        others = (value for other, value in called.given.items() if other != name.value)
        if loop is not None and not any(is_bound_by(source, n, loop) for value in others for n in source.walk(value)):
            yield call, loop


def _gives_parameters(source: Source, iterable: cst.BaseExpression, name: cst.Name, depth: int = 3) -> bool:
    match iterable:
        case cst.Call(func=cst.Attribute(attr=cst.Name("parameters" | "named_parameters"))):
            return True
        case cst.Call(func=cst.Name("filter"), args=[_, cst.Arg(value=inner)]):
            return _gives_parameters(source, inner, name, depth)
        case cst.Call(func=cst.Name("list" | "tuple" | "reversed" | "enumerate"), args=[cst.Arg(value=inner)]):
            return _gives_parameters(source, inner, name, depth)
        case cst.Call(func=cst.Attribute(value=table, attr=cst.Name("values" | "items")), args=[]):
            return _is_table_of_parameters(source, table)
        case cst.Call(func=func, args=[_, *_] as args) if source.qualified(func) == "itertools.chain":
            return all(not arg.star and _gives_parameters(source, arg.value, name, depth) for arg in args)
        case cst.BinaryOperation(left=left, operator=cst.Add(), right=right):
            return all(_gives_parameters(source, part, name, depth) for part in (left, right))
        case cst.List(elements=[_, *_] as parts) | cst.Tuple(elements=[_, *_] as parts):
            spread = all(isinstance(part, cst.StarredElement) for part in parts)
            return spread and all(_gives_parameters(source, part.value, name, depth) for part in parts)
        case cst.Subscript(slice=[cst.SubscriptElement(slice=cst.Index(value=cst.SimpleString() as key))]):
            return key.evaluated_value == "params"
        case cst.GeneratorExp(elt=elt, for_in=comp) | cst.ListComp(elt=elt, for_in=comp):
            return source.code(elt) == source.code(comp.target) and _gives_parameters(source, comp.iter, name, depth)
        case cst.Call() if depth:
            return _returns_parameters(source, iterable, name, depth)
        case cst.Name() | cst.Attribute():
            value = assigned(source, iterable)
            if value is not None and depth:
                return _gives_parameters(source, value, name, depth - 1)
            unknown = not isinstance(iterable, cst.Name) or all(
                b.kind == "parameter" for b in source.bindings(iterable)
            )
            return unknown and name.value in _SINGLE and _is_called_parameters(last_name(iterable))
    return False


def _returns_parameters(source: Source, call: cst.Call, name: cst.Name, depth: int) -> bool:
    """Whether a function of the file returns parameters, or yields one after the other."""
    made = generator_of(source, call)
    if made is not None:
        given = [node.value for node in source.walk(made.body) if isinstance(node, cst.Yield)]
        ones = [value for value in given if isinstance(value, cst.Name) and _loop_over(source, value, depth - 1)]
        return bool(given) and len(ones) == len(given)
    called = callee(source, call)
    values = None if called is None else returned(source, called.function)
    return bool(values) and all(_gives_parameters(source, value, name, depth - 1) for value in values or ())


def _is_table_of_parameters(source: Source, table: cst.BaseExpression) -> bool:
    """Whether an expression is `dict(model.named_parameters())`."""
    match assigned(source, table) or table:
        case cst.Call(
            func=cst.Name("dict"),
            args=[cst.Arg(value=cst.Call(func=cst.Attribute(attr=cst.Name("named_parameters"))))],
        ):
            return True
    return False


def _is_called_parameters(name: str) -> bool:
    return [word for word in words(name) if word.isalpha()][-1:] in (["params"], ["parameters"])


# --- hooks ------------------------------------------------------------------------------------------------------------


def _registration(source: Source, name: cst.Name) -> cst.Call | None:
    """Where the function whose first parameter `name` is becomes a hook on a single parameter's gradient."""
    match source.bindings(name):
        case [binding] if binding.kind == "parameter":
            hook = _hooks_by_home(source).get(home(source, binding.node))
            if hook is not None and _first_parameter(hook.function) == name.value:
                return hook.call
    return None


def _first_parameter(function: cst.FunctionDef | cst.Lambda) -> str:
    names = [param.name.value for param in (*function.params.posonly_params, *function.params.params)]
    return next((name for name in names if name not in ("self", "cls")), "")


@memo
def _hooks_by_home(source: Source) -> dict[cst.CSTNode, Hook]:
    """The hooks on single parameters by their functions."""
    return {hook.function: hook for hook in hooks(source) if hook.when == "accumulated"}


# --- the fix --------------------------------------------------------------------------------------------------------


def _fix(source: Source, clip: Clip, loop: Loop) -> Fix | None:
    """One call in place of a loop that holds nothing else."""
    if isinstance(loop, cst.CompFor):
        return None
    body: cst.BaseSuite = loop.body
    statements = list(body.body)
    match statements:
        case [cst.If(orelse=None, body=cst.IndentedBlock(body=inner), test=test)] if _skips_nothing(source, test):
            statements = list(inner)
    if len(statements) != 1 or loop.orelse is not None or "#" in source.code(loop):
        return None
    match statements[0]:
        case cst.SimpleStatementLine(body=[cst.Expr(value=call)]) | cst.Expr(value=call) if call is clip.call:
            pass
        case _:
            return None
    iterable = _all_of(source, loop, clip)
    if iterable is None or clip.parameters is None:
        return None
    start, end = source.span(clip.call)
    at, to = source.outer_span(clip.parameters)
    text = source.text[start:at] + iterable + source.text[to:end]
    if "\n" in text:
        return None
    first, last = source.span(loop)
    last = first + len(source.text[first:last].rstrip())
    return Fix(TITLE, Safety.UNSAFE, (Edit(first, last, text),))


def _skips_nothing(source: Source, test: cst.BaseExpression) -> bool:
    """Whether a condition leaves out only parameters without a gradient, which the clip skips by itself."""
    return source.code(test).endswith((".grad is not None", ".requires_grad"))


def _all_of(source: Source, loop: cst.For, clip: Clip) -> str | None:
    """The iterable as an expression for the parameters alone."""
    match loop.target, loop.iter:
        case _, cst.Call(func=cst.Attribute(value=model, attr=cst.Name("modules" | "named_modules"))):
            return f"{source.outer_code(model)}.parameters()"
        case cst.Name(), _:
            return source.outer_code(loop.iter)
        case cst.Tuple(), cst.Call(func=cst.Attribute(value=module, attr=cst.Name("named_parameters")), args=()):
            return f"{source.outer_code(module)}.parameters()"
    return None
