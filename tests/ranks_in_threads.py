"""Ranks as threads of this process, over a process group of torch's own tests: a case takes milliseconds, not seconds.

Their collectives are Python, and a maximum of theirs keeps NaN: what gloo and NCCL do differently shows in processes only.
"""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable
from types import ModuleType

import torch
import torch.distributed as dist

PATIENCE = 30.0  # seconds for a case, after which a rank counts as hanging


def threaded() -> ModuleType | None:
    """The module that has the process group, if this torch has one."""
    try:
        from torch.testing._internal.distributed import multi_threaded_pg
    except ImportError:
        return None
    isolates = hasattr(torch._C._distributed_c10d, "_set_thread_isolation_mode")  # before, groups have one namespace
    return multi_threaded_pg if isolates else None


def outcome(case: Callable[[int, int], None], size: int) -> dict[int, str]:
    """Runs a case on so many ranks; returns the error message of each rank that has ended, empty without an error."""
    module = threaded()
    assert module is not None
    store, errors = dist.HashStore(), dict[int, str]()

    def work(rank: int) -> None:
        try:
            dist.init_process_group("threaded", rank=rank, world_size=size, store=store)
            case(rank, size)
            errors[rank] = ""
        except SystemExit:  # another rank has failed
            errors[rank] = ""
        except BaseException as error:
            errors[rank] = traceback.format_exc()
            module.ProcessLocalGroup.exception_handle(error)
        finally:
            dist.destroy_process_group()

    torch._C._distributed_c10d._set_thread_isolation_mode(True)
    module._install_threaded_pg()
    module.ProcessLocalGroup.reset()
    try:
        threads = [threading.Thread(target=work, args=(rank,), daemon=True) for rank in range(size)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
        if len(errors) < size:
            module.ProcessLocalGroup.exception_handle(None)  # ends those that wait for another rank
    finally:
        module._uninstall_threaded_pg()
        torch._C._distributed_c10d._set_thread_isolation_mode(False)
    return errors
