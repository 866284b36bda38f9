"""What DeepSpeed's engine does with gradients (deepspeed/runtime/engine.py with ZeRO): it steps one flat copy of them."""

import torch


def initialize(model, config=None, args=None, model_parameters=None):
    engine = Engine(model, config or {})
    return engine, engine.optimizer, None, None


class Engine:
    def __init__(self, model, config):
        self.model, self.limit = model, config.get("gradient_clipping", 0.0)
        self.flat = torch.nn.Parameter(torch.nn.utils.parameters_to_vector(model.parameters()).detach())
        self.optimizer = torch.optim.SGD([self.flat], lr=0.01)

    def __call__(self, inputs):
        return self.model(inputs)

    def parameters(self):
        return self.model.parameters()

    def backward(self, loss):
        loss.backward()
        self.flat.grad = torch.cat([p.grad.flatten() for p in self.model.parameters()])
        for p in self.model.parameters():
            p.grad = None

    def step(self):
        if self.limit:
            self.flat.grad.mul_(min(1.0, self.limit / self.flat.grad.norm().item()))
        self.optimizer.step()
        torch.nn.utils.vector_to_parameters(self.flat.detach(), self.model.parameters())
