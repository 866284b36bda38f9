"""What the runtime is measured against: torch, and the ways that people write by hand."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from clipcheck import runtime

Clip = Callable[[list[Tensor], float], object]
Norm = Callable[[list[Tensor]], object]


def loop_of_norms(grads: list[Tensor]) -> float:
    """Method 1: one `.item()` per gradient, a root that is squared again."""
    total = 0.0
    for grad in grads:
        total += grad.norm(2).item() ** 2
    return float(total**0.5)


def loop_of_squares(grads: list[Tensor]) -> float:
    """Method 2: one `.item()` per gradient, a temporary as large as the gradient."""
    total = 0.0
    for grad in grads:
        total += grad.pow(2).sum().item()
    return float(total**0.5)


def stacked_norms(grads: list[Tensor]) -> Tensor:
    """No `.item()`: the norm of the stacked norms."""
    total: Tensor = torch.norm(torch.stack([torch.norm(grad.detach(), 2) for grad in grads]), 2)
    return total


def foreach_norms(grads: list[Tensor]) -> Tensor:
    """What torch's clip does inside."""
    total: Tensor = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(grads)))
    return total


NORMS: dict[str, Norm] = {
    "clipcheck": runtime.get_total_norm,
    "torch": torch.nn.utils.get_total_norm if hasattr(torch.nn.utils, "get_total_norm") else foreach_norms,
    "norm(2).item()**2 loop": loop_of_norms,
    "pow(2).sum().item() loop": loop_of_squares,
    "stack of norms": stacked_norms,
    "foreach norms": foreach_norms,
}


@torch.no_grad()
def _by_host(norm: Callable[[list[Tensor]], float], params: list[Tensor], max_norm: float) -> float:
    grads = [p.grad for p in params if p.grad is not None]
    total = norm(grads)
    coefficient = max_norm / (total + 1e-6)
    if coefficient < 1:
        for grad in grads:
            grad.mul_(coefficient)
    return total


@torch.no_grad()
def _by_stack(params: list[Tensor], max_norm: float) -> Tensor:
    grads = [p.grad for p in params if p.grad is not None]
    total = stacked_norms(grads)
    coefficient = torch.clamp(max_norm / (total + 1e-6), max=1.0)
    for grad in grads:
        grad.mul_(coefficient)
    return total


CLIPS: dict[str, Clip] = {
    "clipcheck": runtime.clip_grad_norm_,
    "torch": torch.nn.utils.clip_grad_norm_,
    "norm(2).item()**2 loop": lambda params, max_norm: _by_host(loop_of_norms, params, max_norm),
    "pow(2).sum().item() loop": lambda params, max_norm: _by_host(loop_of_squares, params, max_norm),
    "stack of norms": _by_stack,
}


def compiled() -> Clip:
    """torch's clip under `torch.compile`; the first call takes from 5 to 40 seconds."""
    return torch.compile(torch.nn.utils.clip_grad_norm_)


def captured(params: list[Tensor], max_norm: float) -> Callable[[], object]:
    """clipcheck's clip in a CUDA graph; returns what replays it."""
    runtime.clip_grad_norm_(params, max_norm)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        runtime.clip_grad_norm_(params, max_norm)
    return graph.replay
