"""The order in which Lightning 2.5 calls user code: `Trainer.fit`, the closure, hooks and the scaler of `16-mixed`."""

import torch
from torch import nn


class Callback:
    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        pass

    def on_batch_end(self, trainer, pl_module):
        pass


class LightningModule(nn.Module):
    """The hooks do nothing, as in lightning/pytorch/core/module.py."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = True

    def optimizers(self):
        return self.trainer.optimizer

    def manual_backward(self, loss):
        self.trainer.scaled(loss).backward()

    def clip_gradients(self, optimizer, gradient_clip_val=None, gradient_clip_algorithm=None):
        if gradient_clip_val is not None:
            torch.nn.utils.clip_grad_norm_(self.parameters(), gradient_clip_val)

    def configure_gradient_clipping(self, optimizer, gradient_clip_val=None, gradient_clip_algorithm=None):
        self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def optimizer_step(self, epoch, batch_idx, optimizer, optimizer_closure):
        optimizer.step(closure=optimizer_closure)

    def log(self, *_):
        pass

    def _nothing(self, *_):
        pass

    on_after_backward = on_before_optimizer_step = on_before_zero_grad = on_train_batch_end = _nothing


class LightningOptimizer:
    """What `self.optimizers()` returns and `optimizer_step` receives: its step delegates to the precision plugin."""

    def __init__(self, optimizer, trainer):
        self.optimizer, self.trainer = optimizer, trainer

    def zero_grad(self):
        self.optimizer.zero_grad()

    def __iter__(self):
        yield self

    def step(self, closure=lambda: None):
        trainer, model = self.trainer, self.trainer.model

        def after_closure():
            model.on_before_optimizer_step(self.optimizer)
            if model.automatic_optimization:
                model.configure_gradient_clipping(self.optimizer, trainer.gradient_clip_val, "norm")

        def with_hooks():
            loss = closure()
            after_closure()
            return loss

        if trainer.scaler is None:
            self.optimizer.step(closure=with_hooks)
        else:
            closure()
            trainer.scaler.unscale_(self.optimizer)
            after_closure()
            trainer.scaler.step(self.optimizer)
            trainer.scaler.update()


class Trainer:
    def __init__(self, precision=32, gradient_clip_val=None, callbacks=(), **_):
        self.scaler = torch.amp.GradScaler("cpu") if str(precision) in ("16", "16-mixed") else None
        self.gradient_clip_val, self.callbacks, self.precision_plugin = gradient_clip_val, callbacks, self

    def scaled(self, loss):
        return loss if self.scaler is None else self.scaler.scale(loss)

    def fit(self, model, batches):
        if self.gradient_clip_val and not model.automatic_optimization:
            raise ValueError("Automatic gradient clipping is not supported for manual optimization.")
        self.model, model.trainer = model, self
        self.optimizer = LightningOptimizer(torch.optim.SGD(model.parameters(), lr=0.01), self)
        for index, batch in enumerate(batches):
            outputs = self.manual(batch, index) if not model.automatic_optimization else self.automatic(batch, index)
            for callback in self.callbacks:
                callback.on_train_batch_end(self, model, outputs, batch, index)
                callback.on_batch_end(self, model)  # of Lightning before 2.0
            model.on_train_batch_end(outputs, batch, index)

    def manual(self, batch, index):
        return self.model.training_step(batch, index)

    def automatic(self, batch, index):
        model = self.model

        def closure():
            loss = model.training_step(batch, index)
            model.on_before_zero_grad(self.optimizer.optimizer)
            self.optimizer.zero_grad()
            self.scaled(loss).backward()
            model.on_after_backward()
            return loss

        model.optimizer_step(0, index, self.optimizer, closure)
