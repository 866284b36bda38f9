"""Warms up a worker before it drops its rights, so that libraries have loaded everything that they load lazily."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import torch

from clipcheck.verify.allowed import METHODS, flat_name
from clipcheck.verify.claims import Claim
from clipcheck.verify.importing import load
from clipcheck.verify.rehearse import rehearse
from clipcheck.verify.replay import libraries, replay
from clipcheck.verify.trial import judge

_CLIPS = """
def site(total):
    value__0 = torch__nn__utils__clip_grad_norm_(parameters__0__call(), max_norm__0__name, norm_type__0__name)
    value__1 = clipcheck__runtime__clip_grad_norm_(parameters__0__call(), max_norm__0__name, norm_type__0__name)
    value__2 = clipcheck__runtime__grad_norm(parameters__0__call(), norm_type__0__name)
    return ('locals', bound__now())
"""
_NORMS = """
def site(total):
    for g in gradients__0__call():
        total += torch__norm(g) ** 2 + g.pow(2).sum().item() + torch__linalg__vector_norm(g.detach())
    value__0 = torch__stack([g.norm() for g in gradients__0__call()]).norm()
    return ('locals', bound__now())
"""


def _site(code: str, paths: str, roles: str) -> dict[str, Any]:
    side = [code, {flat_name(path): path for path in paths.split()}]
    named = {f"{role}__0__{kind}": role for role, kind in (entry.split(":") for entry in roles.split())}
    return {"before": side, "after": side, "reference": side, "roles": named, "seeds": ["total"], "kept": ["total"]}


_SITES = (
    _site(
        _CLIPS,
        "torch.nn.utils.clip_grad_norm_ clipcheck.runtime.clip_grad_norm_ clipcheck.runtime.grad_norm",
        "parameters:call max_norm:name norm_type:name",
    ),
    _site(_NORMS, "torch.norm torch.linalg.vector_norm torch.stack", "gradients:call"),
)

_TRAINING = """
def site():
    for turn__own__item in turns__own__call():
        scaler__0__name.scale(loss__0__call()).backward()
        scaler__0__name.unscale_(optimizer__0__name)
        torch__nn__utils__clip_grad_norm_(model__0__name.parameters(), max_norm__0__name)
        scaler__0__name.step(optimizer__0__name)
        scaler__0__name.update()
        optimizer__0__name.zero_grad()
    return ('locals', bound__now())
"""
_IMPORTS = """
def site():
    try:
        import torch.nn as nn
    except ImportError:
        nn = None
    return ('locals', bound__now())
"""


def _training() -> dict[str, Any]:
    side = [_TRAINING, {"torch__nn__utils__clip_grad_norm_": "torch.nn.utils.clip_grad_norm_"}]
    roles = {f"{role}__0__name": role for role in ("scaler", "optimizer", "model", "max_norm")}
    return {
        "before": side,
        "after": side,
        "roles": roles,
        "clip": "norm",
        "norm_type": 2.0,
        "limit": 0.5,
        "clears": True,
        "groups": 2,
        "implied": (),
        "ranks": 1,
    }


_PROGRAM = """
import torch
from clipcheck.runtime import clip_grad_norm_


def train(model, optimizer, batches, loss_fn, record, max_norm):
    for inputs, targets in batches:
        optimizer.zero_grad()
        loss_fn(model(inputs), targets).backward()
        record(clip_grad_norm_(model.parameters(), max_norm))
        optimizer.step()
"""


def sites() -> None:
    """Calls all allowed functions, correctly or not.

    Then runs two sites on all cases, a training step in all settings, and an import in all circumstances."""
    for value in (torch.ones(2, requires_grad=True), torch.ones(2), 0, [torch.ones(2)], None):
        for function in (repr, *libraries().values()):
            _call(function, value)
        for name in METHODS:
            _call(getattr(torch.ones(2), name, None), value)
            _call(getattr(value, name, None))
    for experiment in _SITES:
        replay(experiment, lambda case: None)
    rehearse(_training(), lambda setting: None)
    load({"before": [_IMPORTS, {}], "after": [_IMPORTS, {}], "torch": True}, lambda case: None)


def _call(function: Callable[..., object] | None, *values: object) -> None:
    with contextlib.suppress(Exception):
        function(*values)  # type: ignore[misc]


def fixtures() -> None:
    """The first step of an optimizer loads many modules and creates folders."""
    judge(Claim("same"), _PROGRAM, _PROGRAM)
