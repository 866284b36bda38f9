"""What `accelerate.Accelerator` does with gradients (accelerate/accelerator.py of 1.10), with a scaler of the CPU for fp16."""

import contextlib

import torch


class Accelerator:
    def __init__(self, mixed_precision="no", gradient_accumulation_steps=1):
        self.scaler = torch.amp.GradScaler("cpu") if mixed_precision == "fp16" else None
        self.every, self.count, self.sync_gradients, self.own = gradient_accumulation_steps, 0, True, []

    def prepare(self, *things):
        optimizers = [thing for thing in things if isinstance(thing, torch.optim.Optimizer)]
        return tuple(AcceleratedOptimizer(one, self) if one in optimizers else one for one in things)

    @contextlib.contextmanager
    def accumulate(self, _):
        self.count += 1
        self.sync_gradients = self.count % self.every == 0
        yield

    def backward(self, loss):
        if self.scaler is not None:
            self.scaler.scale(loss / self.every).backward()
        else:
            (loss / self.every).backward()

    def unscale_gradients(self):
        for optimizer in self.own if self.scaler is not None else ():
            self.scaler.unscale_(optimizer.optimizer)

    def clip_grad_norm_(self, parameters, max_norm, norm_type=2):
        self.unscale_gradients()
        return torch.nn.utils.clip_grad_norm_(parameters, max_norm, norm_type=norm_type)

    def log(self, *_):
        pass

    print = log


class AcceleratedOptimizer:
    """Its `step` and `zero_grad` do something only if gradients are synchronized."""

    def __init__(self, optimizer, accelerator):
        self.optimizer, self.accelerator, self.param_groups = optimizer, accelerator, optimizer.param_groups
        accelerator.own.append(self)
        self.each = {}

    def zero_grad(self):
        if self.accelerator.sync_gradients:
            self.optimizer.zero_grad()

    def step(self):
        if not self.accelerator.sync_gradients:
            return
        if self.accelerator.scaler is None:
            self.optimizer.step()
        else:
            self.accelerator.scaler.get_scale()
            self.accelerator.scaler.step(self.optimizer)
            self.accelerator.scaler.update()

    def step_param(self, parameter):
        """As in a custom trainer: each parameter has an optimizer."""
        if parameter not in self.each:
            self.each[parameter] = torch.optim.SGD([parameter], lr=0.01)
        self.each[parameter].step()
