"""The gradients that a lifted site is tried on, from the plainest to the strangest."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

Gradient = Callable[[], "list[Tensor | None]"]
LOW = (torch.bfloat16, torch.float16)


class Case(NamedTuple):
    """One set of gradients and the other inputs of a site.

    `ratio` is max_norm divided by the norm of all gradients, `container` the type of the user's iterable, `seed` the
    initial value of an accumulator, `switch` the value of `error_if_nonfinite` or `foreach`. `exact` are the gradients
    of the float64 reference, if they differ.
    """

    title: str
    gradients: Gradient
    dtype: torch.dtype = torch.float32
    ratio: float = 0.5
    container: str = "list"
    norm_type: float = 2.0
    seed: float | str = 2.5
    frozen: bool = False
    switch: bool = False
    exact: Gradient | None = None

    def as_float64(self) -> Case:
        """The same numbers in float64, for the reference."""
        return self._replace(dtype=torch.float64, gradients=self.exact or self.gradients)


def cases(roles: frozenset[str]) -> Iterator[Case]:
    """All cases that are relevant to these roles, small ones first."""
    small = Case("gradients [3, 4]", _small)
    yield small
    yield small._replace(title="one gradient, a scalar", gradients=lambda: [torch.tensor(-3.0)])
    yield small._replace(title="small gradients", gradients=lambda: _scaled(2.0**-10))
    ordinary = Case("ordinary gradients", _ordinary)
    yield ordinary
    if "max_norm" in roles:
        yield small._replace(title="gradients [3, 4], limit above", ratio=2.0)
        yield small._replace(title="gradients [3, 4], limit met", ratio=1.0)
        yield ordinary._replace(title="ordinary gradients, limit above", ratio=3.0)
        yield ordinary._replace(title="ordinary gradients, limit far below", ratio=1e-4)
    for container in ("a tuple", "a generator"):
        yield ordinary._replace(title=f"ordinary gradients in {container}", container=container)
    if "norm_type" in roles:
        for norm_type in (1.0, 3.0, float("inf")):
            yield ordinary._replace(title=f"ordinary gradients, norm type {norm_type:g}", norm_type=norm_type)
    if "switch" in roles:
        yield ordinary._replace(title="ordinary gradients, switched on", switch=True)
    for seed in (0.0, "int", "tensor"):
        yield small._replace(title=f"gradients [3, 4], accumulator from {seed}", seed=seed)
    yield from _odd_gradients(small, ordinary)
    yield from _odd_numbers(small, ordinary)
    if "gradients" in roles:
        yield small._replace(title="gradients that are part of the graph", gradients=_in_graph)


def _odd_gradients(small: Case, ordinary: Case) -> Iterator[Case]:
    yield ordinary._replace(title="a gradient of many elements", gradients=_large)
    yield small._replace(title="gradients of zero", gradients=lambda: [torch.zeros(3), torch.zeros(2, 2)])
    yield small._replace(title="non-contiguous gradients", gradients=_strided)
    yield small._replace(
        title="a gradient without elements", gradients=lambda: [torch.tensor([3.0]), torch.zeros(0, 2)]
    )
    yield small._replace(title="no parameters", gradients=list)
    yield small._replace(
        title="a gradient that is None", gradients=lambda: [torch.tensor([3.0]), None, torch.tensor([4.0])]
    )
    yield small._replace(title="gradients that are all None", gradients=lambda: [None, None])
    yield ordinary._replace(title="frozen parameters", frozen=True)
    yield small._replace(title="a parameter listed twice", gradients=_twice, exact=_once)
    yield small._replace(title="a sparse gradient", gradients=_sparse)


def _odd_numbers(small: Case, ordinary: Case) -> Iterator[Case]:
    yield small._replace(title="huge gradients", gradients=lambda: _scaled(2.0**66))
    yield small._replace(title="tiny gradients", ratio=2.0**100, gradients=lambda: _scaled(2.0**-100))
    for name, value in (("NaN", "nan"), ("infinity", "inf"), ("minus infinity", "-inf")):
        yield small._replace(title=f"a gradient with {name}", gradients=_special(float(value)))
    yield ordinary._replace(title="float64 gradients", dtype=torch.float64)
    for dtype in LOW:
        name = str(dtype).removeprefix("torch.")
        yield ordinary._replace(title=f"{name} gradients", dtype=dtype)
        yield small._replace(title=f"large {name} gradients", dtype=dtype, gradients=lambda: _scaled(2.0**14))
    yield ordinary._replace(title="float32 and bfloat16 gradients", gradients=_mixed)


class Objects(NamedTuple):
    """The values of a site's names, and the parameters and gradients to inspect afterwards."""

    names: dict[str, Any]
    parameters: list[nn.Parameter]
    gradients: list[Tensor | None]


def build(case: Case, roles: dict[str, str]) -> Objects:
    """Fresh objects for one run of one side."""
    given = case.gradients()
    cast = {id(g): _cast(g, case.dtype) for g in given if g is not None}
    gradients = [None if g is None else cast[id(g)] for g in given]
    made: dict[int, nn.Parameter] = {}
    parameters: list[nn.Parameter] = []
    for index, gradient in enumerate(gradients):
        key = index if gradient is None else id(gradient)
        if key not in made:
            made[key] = _parameter(index, gradient, case)
        parameters.append(made[key])
    if case.frozen and parameters:
        parameters[0].requires_grad_(False)  # it keeps a gradient from earlier steps
        parameters.append(_parameter(1, None, case))
        parameters[-1].requires_grad_(False)
    norm = sum(float(torch.linalg.vector_norm(_dense(g).double())) ** 2 for g in _distinct(gradients) if g is not None)
    values: dict[str, Any] = {
        "max_norm": case.ratio * norm**0.5 if 0 < norm < math.inf else 1.0,
        "norm_type": case.norm_type,
        "epsilon": 1e-6,
        "switch": case.switch,
        "total": torch.tensor(norm**0.5, dtype=case.dtype),
    }
    names = {name: _object(name, role, case, parameters, gradients, values) for name, role in roles.items()}
    return Objects(names, _distinct(parameters), _distinct(gradients))


def _distinct(tensors: list[Any]) -> list[Any]:
    return list({i if t is None else id(t): t for i, t in enumerate(tensors)}.values())


def seed(case: Case) -> Any:
    match case.seed:
        case "int":
            return 0
        case "tensor":
            return torch.zeros(1)
    return case.seed


def _object(
    name: str,
    role: str,
    case: Case,
    parameters: list[nn.Parameter],
    gradients: list[Tensor | None],
    values: dict[str, Any],
) -> Any:
    fresh = name.endswith("_call")
    match role:
        case "parameters":
            return (lambda: _container(case, parameters)) if fresh else _container(case, parameters)
        case "gradients":
            return (lambda: _container(case, gradients)) if fresh else _container(case, gradients)
        case "model":
            value: Any = _Model(parameters)
        case "optimizer":
            value = _Optimizer(parameters)
        case _ if role in values:
            value = values[role]
        case _:
            raise LookupError(role)
    return (lambda: value) if fresh else value


def _container(case: Case, items: list[Any]) -> Any:
    match case.container:
        case "a tuple":
            return tuple(items)
        case "a generator":
            return (item for item in items)
    return list(items)


class _Model(nn.Module):
    """Holds parameters under names that networks use; `parameters` returns a generator, as in every module."""

    def __init__(self, listed: list[nn.Parameter]) -> None:
        super().__init__()
        for index, parameter in enumerate(listed):
            block = nn.Module()
            block.register_parameter("bias" if index % 2 else "weight", parameter)
            self.add_module(f"layer{index}", block)


class _Optimizer:
    """Two groups of parameters, whose gradients it clears."""

    def __init__(self, parameters: list[nn.Parameter]) -> None:
        half = len(parameters) // 2
        self.param_groups = [{"params": parameters[:half]}, {"params": parameters[half:]}]

    def zero_grad(self) -> None:
        for parameter in (parameter for group in self.param_groups for parameter in group["params"]):
            parameter.grad = None


def _parameter(index: int, gradient: Tensor | None, case: Case) -> nn.Parameter:
    if gradient is None:
        return nn.Parameter(torch.ones(2, dtype=case.dtype))
    start = torch.arange(gradient.numel(), dtype=torch.float32).reshape(gradient.shape) % 7 + index
    parameter = nn.Parameter(start.to(gradient.dtype))
    parameter.grad = gradient.detach() if gradient.is_leaf else gradient
    return parameter


def _cast(gradient: Tensor, dtype: torch.dtype) -> Tensor:
    """In the case's dtype and with its strides; mixed cases keep their dtypes, except in the float64 reference."""
    if gradient.dtype is not torch.float32 and dtype is not torch.float64:
        return gradient
    return gradient.to(dtype)


def _dense(gradient: Tensor) -> Tensor:
    return gradient.detach().to_dense() if gradient.is_sparse else gradient.detach()


# --- the gradients ------------------------------------------------------------------------------------------------


def _small() -> list[Tensor | None]:
    return [torch.tensor([3.0]), torch.tensor([[4.0]])]


def _drawn(seed: int, *shapes: tuple[int, ...]) -> list[Tensor]:
    """Random numbers, the same each time, and exact in bfloat16, so that one set of them works for every dtype."""
    generators = (torch.Generator().manual_seed(seed + index) for index in range(len(shapes)))
    return [torch.randn(shape, generator=one).bfloat16().float() for shape, one in zip(shapes, generators, strict=True)]


def _ordinary() -> list[Tensor | None]:
    return [*_drawn(1, (7, 5), (5,), (3, 4, 2), (1,))]


def _scaled(scale: float) -> list[Tensor | None]:
    return [gradient * scale for gradient in _drawn(5, (4, 3), (6,))]


def _large() -> list[Tensor | None]:
    return [*_drawn(7, (300, 90), (90,))]


def _strided() -> list[Tensor | None]:
    transposed, sliced = _drawn(9, (6, 4), (8, 3))
    return [transposed.t(), sliced[::2]]


def _once() -> list[Tensor | None]:
    return [torch.tensor([3.0, 4.0]), torch.tensor([12.0])]


def _twice() -> list[Tensor | None]:
    one, other = _once()
    return [one, other, one]


def _sparse() -> list[Tensor | None]:
    rows, dense = _drawn(12, (3, 2), (4,))
    return [torch.sparse_coo_tensor(torch.tensor([[0, 3, 0]]), rows, (5, 2)).coalesce(), dense]


def _special(value: float) -> Gradient:
    def gradients() -> list[Tensor | None]:
        odd, plain = _drawn(14, (3, 3), (4,))
        odd[1, 1] = value
        return [odd, plain]

    return gradients


def _mixed() -> list[Tensor | None]:
    one, other = _drawn(16, (5, 5), (5,))
    return [one, other.bfloat16()]


def _in_graph() -> list[Tensor | None]:
    return [gradient.requires_grad_() * 1.0 for gradient in _drawn(18, (4,), (2, 2))]
