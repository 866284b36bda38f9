"""What `lightning.fabric.Fabric` does with gradients at `16-mixed` (lightning/fabric/fabric.py of 2.5)."""

import contextlib

import torch


class Fabric:
    """lightning/fabric/fabric.py, at `16-mixed`, or in float32 with a scaler that is not enabled."""

    def __init__(self, enabled=True):
        self.scaler = torch.amp.GradScaler("cpu", enabled=enabled)

    def no_backward_sync(self, model, enabled=True):
        return contextlib.nullcontext()

    def setup(self, optimizer):
        fabric = self

        class FabricOptimizer:
            zero_grad = optimizer.zero_grad
            wrapped = optimizer

            def step(self):
                fabric.scaler.step(optimizer)
                fabric.scaler.update()

        return FabricOptimizer()

    def backward(self, loss):
        self.scaler.scale(loss).backward()

    def clip_gradients(self, model, optimizer, max_norm):
        self.scaler.unscale_(optimizer.wrapped)
        torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm)

    def print(self, *_):
        pass
