"""Plans for gradients on the CPU: which have the same dtype, and how they are divided into rows.

The next call only checks, in one pass of C++, that its gradients match a plan: to inspect one of 1,000 elements from Python
takes as long as its norm.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from clipcheck.runtime import plain, rows
from clipcheck.runtime.gradients import distinct, ordinary
from clipcheck.runtime.looks import look
from clipcheck.runtime.rows import Division

PLANS = 64  # cached plans, the most recently used
FAST = frozenset({torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64, torch.complex128})


@dataclass(frozen=True, eq=False)
class Plan:
    """All that follows from the number, classes, dtypes, shapes and strides of gradients."""

    looks_alike: Callable[..., bool]
    count: int  # of gradients
    members: tuple[list[int], ...]  # those of each dtype, as indices in the list
    divisions: tuple[Division | None, ...]  # of each dtype; None where a gradient is empty or complex
    dtype: torch.dtype  # of the norm

    def groups(self, grads: list[Tensor]) -> list[list[Tensor]]:
        """Returns the gradients of each dtype together."""
        return [grads] if len(self.members) == 1 else [[grads[at] for at in members] for members in self.members]


_plans: tuple[Plan, ...] = ()  # last used first; replaced as a whole, so that threads need no lock


def plan_for(grads: list[Tensor]) -> Plan | None:
    """Returns the plan for such gradients; None for those that are not all ordinary, distinct and on the CPU."""
    global _plans
    known = _plans
    for at, plan in enumerate(known):
        if plan.count == len(grads) and plan.looks_alike(*grads):
            if at:
                _plans = (plan, *known[:at], *known[at + 1 :])
            return plan
    if not (ordinary(grads) and all(grad.is_cpu and grad.dtype in FAST for grad in grads) and distinct(grads) is grads):
        return None
    plan = _new_plan(grads)
    _plans = (plan, *known[: PLANS - 1])
    return plan


def _new_plan(grads: list[Tensor]) -> Plan:
    dtypes = [grad.dtype for grad in grads]
    members = [[at for at, own in enumerate(dtypes) if own == dtype] for dtype in dict.fromkeys(dtypes)]
    groups = [[grads[at] for at in places] for places in members]
    dtype = torch.float64 if plain.DOUBLE & {*dtypes} else torch.float32
    return Plan(look(grads), len(grads), tuple(members), tuple(map(_division, groups)), dtype)


def _division(grads: list[Tensor]) -> Division | None:
    return None if grads[0].is_complex() or not all(map(Tensor.numel, grads)) else rows.division(grads)
