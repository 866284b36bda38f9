"""What apex.amp does with gradients (apex/amp of 2019): it scales a loss by itself, and at O2 steps copies of the weights."""

import contextlib
from types import SimpleNamespace

import torch

SCALE = 1024.0


def initialize(model, optimizer, opt_level):
    optimizer.masters = {}
    if opt_level == "O2":
        for group in optimizer.param_groups:
            optimizer.masters |= {torch.nn.Parameter(p.detach().clone()): p for p in group["params"]}
            group["params"] = [*optimizer.masters]
        optimizer.register_step_post_hook(_copy_back)
    return model, optimizer


def _copy_back(optimizer, *_):
    for master, p in optimizer.masters.items():
        p.data.copy_(master)


@contextlib.contextmanager
def scale_loss(loss, optimizer):
    yield loss * SCALE
    masters = getattr(optimizer, "masters", {})
    for master, p in masters.items():
        master.grad = p.grad / SCALE
    for p in [] if masters else master_params(optimizer):
        p.grad.div_(SCALE)


def master_params(optimizer):
    for group in optimizer.param_groups:
        yield from group["params"]


amp = SimpleNamespace(initialize=initialize, scale_loss=scale_loss, master_params=master_params)
