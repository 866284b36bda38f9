"""What Horovod's optimizer does (horovod/torch/optimizer.py): its step waits for the average of two replicas."""

import contextlib


def DistributedOptimizer(optimizer):  # noqa: N802
    kind = type(optimizer)

    class Distributed(kind):
        waits = True

        def synchronize(self):
            for group in self.param_groups:
                for p in group["params"]:
                    p.grad.copy_((p.grad + p.grad.flip(0)) / 2)

        @contextlib.contextmanager
        def skip_synchronize(self):
            self.waits = False
            yield
            self.waits = True

        def step(self, closure=None):
            if self.waits:
                self.synchronize()
            return super().step(closure)

    return Distributed(optimizer.param_groups, lr=0.1)


def init():
    pass
