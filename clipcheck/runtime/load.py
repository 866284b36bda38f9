"""Whether the machine has free cores: threads that share a core wait milliseconds for each other."""

from __future__ import annotations

import functools
import os

import torch

GRAIN = 32_768  # elements: from this size on, torch runs an operation on all threads


def is_serial_better() -> bool:
    """Whether an operation on all threads would wait for cores: the machine has more runnable threads than cores.

    Only Linux reports this at every moment. Reading it takes 2 to 8 µs.
    """
    file = _running()
    if file is None or torch.get_num_threads() == 1:
        return False
    running = os.pread(file, 64, 0).split()[3].partition(b"/")[0]
    return int(running) > (os.cpu_count() or 1)


@functools.cache
def _running() -> int | None:
    """The open file whose fourth word is the number of runnable threads, a slash, and the number of all threads."""
    try:
        return os.open("/proc/loadavg", os.O_RDONLY | os.O_CLOEXEC)
    except (OSError, AttributeError):
        return None
