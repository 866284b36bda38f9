"""The CUDA code on a machine without a GPU: the kernels run in Triton's interpreter, with the real tables.

`TRITON_INTERPRET=1` must be set when Triton is imported.
"""

from __future__ import annotations

import contextlib
import types

# Error messages of a Triton whose interpreter lacks float64 (2.2), loses track of the kernel (3.2), or fails with this numpy.
LACKING = ("only 0-dimensional arrays can be converted", "get_double_ty", "outside of the scope of a kernel")


def install() -> None:
    """Replaces the code that communicates with a GPU, and makes the chunks small."""
    import torch

    from clipcheck.runtime import cuda, cuda_plan

    empty_like = torch.empty_like
    cuda.CHUNK = cuda_plan.CHUNK = 64
    cuda.BLOCK = 16
    cuda._on = lambda device: contextlib.nullcontext()
    cuda_plan._sent = lambda host, device: host
    cuda_plan._wait_for_tables = lambda plan: None
    torch._C._cuda_getCurrentRawStream = lambda device: 0
    torch.Tensor.pin_memory = lambda host: host
    torch.empty_like = lambda host, pin_memory=False: empty_like(host)
    torch.cuda.Event = lambda: types.SimpleNamespace(record=lambda: None)
    torch.cuda.is_current_stream_capturing = lambda: False
    torch.cuda.get_device_properties = lambda device: types.SimpleNamespace(multi_processor_count=1)


def take_the_place_of_the_cpu() -> None:
    """Sends the gradients of this process through the kernels."""
    from clipcheck.runtime import cuda, local

    install()
    local._kernels = lambda grads: cuda
