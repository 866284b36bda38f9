"""Reads and checks what a caller passes: parameters, their gradients, and the values in the gradients."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterable
from typing import NoReturn, ParamSpec, TypeAlias, TypeVar

import torch
from torch import Tensor
from torch.nn import Parameter

Tensors = Tensor | Iterable[Tensor]
Gradient: TypeAlias = (
    "str | Callable[[Tensor], Tensor | None]"  # where the gradient of a parameter is, if not in `.grad`
)

# Public from torch 2.3 on.
is_compiling = torch.compiler.is_compiling if hasattr(torch.compiler, "is_compiling") else torch._utils.is_compiling

P = ParamSpec("P")
T = TypeVar("T")

ORDINARY = frozenset({Tensor, Parameter})


def uncompiled(function: Callable[P, T]) -> Callable[P, T]:
    """Makes torch.compile run a function uncompiled, after a graph break; imports nothing if nothing is compiled."""

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        if is_compiling():
            eager: Callable[P, T] = torch.compiler.disable(function)  # type: ignore[no-untyped-call]
            return eager(*args, **kwargs)
        return function(*args, **kwargs)

    return run


def listed(tensors: Tensors, what: str = "parameters", level: int = 4) -> list[Tensor]:
    """Returns the tensors as a list, reading an iterator once; warns when a one-shot iterator is already empty.

    `level` is the stack level of the warning. torch warns only about generators, but `filter`, `map` and
    `itertools.chain` are used up just as silently.
    """
    if isinstance(tensors, Tensor):
        return [tensors]
    try:
        iterator = iter(tensors)
    except TypeError:
        reject(tensors, what)
    items = list(iterator)
    if not items and iterator is tensors:
        warnings.warn(f"`{what}` is an empty iterator, nothing will be clipped or measured", stacklevel=level)
    return items


def parameters_of(parameters: Tensors) -> list[Tensor]:
    """Returns the parameters as a list; warns about and drops repeats, which torch would count and scale twice."""
    params = listed(parameters)
    if is_compiling() or len(set(map(id, params))) == len(params):
        return params
    warnings.warn("`parameters` lists a parameter more than once, it is counted once", stacklevel=3)
    return list({id(p): p for p in params}.values())


def gradients(parameters: list[Tensor], gradient: Gradient | None = None) -> list[Tensor | None]:
    """Returns the `.grad` of each parameter, or what `gradient` selects: the name of an attribute, or a function.

    Warns if none of the tensors could hold a gradient: that is probably a list of gradients, for which torch silently
    returns 0.
    """
    if gradient is not None:
        return _elsewhere(parameters, gradient)
    try:
        grads = [p.grad for p in parameters]
    except AttributeError:
        reject(next(p for p in parameters if not hasattr(p, "grad")), "parameters")
    if parameters and not is_compiling() and all(g is None for g in grads) and not any(map(_can_hold, parameters)):
        warnings.warn(
            "no tensor in `parameters` can hold a gradient: pass the parameters, not their gradients", stacklevel=3
        )
    return grads


def present(grads: list[Tensor | None]) -> list[Tensor]:
    """Returns the gradients that are not None."""
    return [grad for grad in grads if grad is not None]


def refuse_copies(parameters: list[Tensor], grads: list[Tensor | None], gradient: Gradient | None) -> None:
    """Raises a `ValueError` if the function `gradient` returns copies, whose scaling would be lost; calls it again."""
    if gradient is None or isinstance(gradient, str) or is_compiling():
        return
    for p, grad in zip(parameters, grads, strict=True):
        if grad is not None and grad.numel():
            again = gradient(p)
            if again is not grad and (again is None or _address(again) != _address(grad)):
                raise ValueError("`gradient` must return the gradient itself, to be scaled in place: this is a copy")
            return


def _elsewhere(parameters: list[Tensor], gradient: Gradient) -> list[Tensor | None]:
    if isinstance(gradient, str):
        if parameters and not any(hasattr(p, gradient) for p in parameters):
            raise AttributeError(f"no parameter has the attribute {gradient!r} that `gradient` names")
        grads = [getattr(p, gradient, None) for p in parameters]
    else:
        grads = [gradient(p) for p in parameters]
    if wrong := [grad for grad in grads if grad is not None and not isinstance(grad, Tensor)]:
        raise TypeError(f"`gradient` must give a tensor or None for a parameter, got `{type(wrong[0]).__name__}`")
    return grads


def _address(grad: Tensor) -> int:
    return stored(getattr(grad, "_local_tensor", grad)).data_ptr()


def distinct(grads: list[Tensor]) -> list[Tensor]:
    """Returns each gradient object once: two parameters that share one must not have it scaled twice."""
    return grads if len(set(map(id, grads))) == len(grads) else list({id(grad): grad for grad in grads}.values())


def no_subclass(tensors: list[Tensor]) -> bool:
    """Whether each is exactly a `torch.Tensor` or parameter, not a DTensor, a fake tensor or another subclass."""
    if is_compiling():  # torch.compile of torch 2.2 has no sets
        return all(type(tensor) is Tensor or type(tensor) is Parameter for tensor in tensors)
    return set(map(type, tensors)) <= ORDINARY


def ordinary(grads: list[Tensor]) -> bool:
    """Whether every gradient is a strided `torch.Tensor`, neither sparse nor of a subclass."""
    return no_subclass(grads) and {grad.layout for grad in grads} <= {torch.strided}


def values(grad: Tensor) -> Tensor:
    """Returns the strided tensor that holds a gradient's values; a sparse COO gradient is coalesced first.

    An uncoalesced gradient holds several summands for one element, so the norm of its raw values is wrong.
    """
    match grad.layout:
        case torch.strided:
            return grad
        case torch.sparse_coo:
            return grad.coalesce().values()
        case _:
            return grad.values()


def stored(grad: Tensor) -> Tensor:
    """Returns the strided tensor that has to be scaled to scale the gradient, coalesced or not."""
    match grad.layout:
        case torch.strided:
            return grad
        case torch.sparse_coo:
            return grad._values()
        case _:
            return grad.values()


def _can_hold(tensor: Tensor) -> bool:
    return isinstance(tensor, Parameter) or (tensor.is_leaf and tensor.requires_grad)


def reject(item: object, what: str) -> NoReturn:
    """Raises a `TypeError` that says what to pass instead of `item`."""
    match item:
        case torch.nn.Module():
            advice = "a module: pass `module.parameters()`"
        case torch.optim.Optimizer():
            advice = "an optimizer: pass the parameters of its `param_groups`"
        case (str(), Tensor()):
            advice = "`named_parameters()`: pass `parameters()`"
        case {"params": _}:
            advice = '`param_groups`: pass `[p for group in param_groups for p in group["params"]]`'
        case str():
            advice = "names, as of a `state_dict()`: pass the tensors"
        case None:
            advice = "None among the tensors: leave it out"
        case _ if callable(item):
            advice = "a function: call it, as in `model.parameters()`"
        case _:
            advice = f"`{type(item).__name__}`"
    raise TypeError(f"`{what}` must be a tensor or an iterable of tensors, got {advice}")
