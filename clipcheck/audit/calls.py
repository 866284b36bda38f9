"""What a clipping function is called with."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from types import GeneratorType
from typing import Any, NamedTuple

from torch import Tensor
from torch.nn import Module
from torch.overrides import TorchFunctionMode

from clipcheck.audit import numbers, sites

_READING = {"item", "tolist", "numpy", "cpu", "__bool__", "__float__", "__int__", "__index__"}


class Call(NamedTuple):
    """What a clipping function is called with."""

    site: sites.Site
    function: str
    is_method: bool
    is_iterator: bool
    tensors: list[Tensor]
    limit: Any
    norm_type: float
    norm: Any  # where the caller passes it


def read(
    original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Call, tuple[Any, ...], dict[str, Any]]:
    """Reads a call; with the arguments to pass on, since an iterator can be read once."""
    module = args[0] if args and isinstance(args[0], Module) else None
    first = "tensors" if "tensors" in kwargs else "parameters"
    given = module.parameters() if module else args[0] if args else kwargs.get(first)
    is_iterator = (
        module is None and not isinstance(given, Tensor) and isinstance(given, Iterable) and iter(given) is given
    )
    items = [given] if isinstance(given, Tensor) else list(given) if isinstance(given, Iterable) else []
    if is_iterator:
        again = (item for item in items) if isinstance(given, GeneratorType) else iter(items)
        args, kwargs = ((again, *args[1:]), kwargs) if args else (args, {**kwargs, first: again})
    function = original.__name__.lstrip("_")
    limit, second = (*args[1:3], None, None)[:2]
    limit = kwargs.get("max_norm", kwargs.get("clip_value", limit)) if function.startswith("clip") else None
    norm = kwargs.get("total_norm", second) if function == "clip_grads_with_norm_" else None
    order = kwargs.get("norm_type", second if function == "clip_grad_norm_" and second is not None else 2.0)
    tensors = [item for item in items if isinstance(item, Tensor)]
    call = Call(sites.here(), function, module is not None, is_iterator, tensors, limit, numbers.number(order), norm)
    return call, args, kwargs


class Reads(TorchFunctionMode):
    """Counts how often Python reads a value of a tensor while it is entered: on a device each time is a wait."""

    count = 0

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += getattr(function, "__name__", "") in _READING
        return function(*args, **(kwargs or {}))
