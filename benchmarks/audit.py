"""Times what the audit adds to a training step: GPT-2 124M, in turn with the audit and without.

`python benchmarks/audit.py --device cuda` trains in float32 and under autocast to bfloat16, and exits with 1 where the
audit takes more than 5 % of a step or where a loss differs.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import sys
import time
from collections.abc import Callable
from itertools import pairwise

import torch

from clipcheck import audit
from clipcheck.bench.models import TRAININGS, Training

MOST = 0.05  # of a step


def steps(training: Training, optimizer: torch.optim.Optimizer, count: int, dtype: torch.dtype) -> list[torch.Tensor]:
    """The losses, still on the device."""
    device = next(training.model.parameters()).device.type
    losses = []
    for _ in range(count):
        optimizer.zero_grad()
        with torch.autocast(device, dtype, enabled=dtype != torch.float32):
            loss = training.loss()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(training.model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.detach())
    return losses


def seconds(run: Callable[[], object], device: torch.device) -> float:
    """Until the device is done, too."""
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    wait()
    start = time.perf_counter()
    run()
    wait()
    return time.perf_counter() - start


def compared(device: torch.device, dtype: torch.dtype, rounds: int, count: int) -> tuple[float, float]:
    """The median seconds of a step without the audit, and the median share that the audit adds to it.

    Each round with the audit is compared with those before and after it: the pace of a host changes over a minute by more than
    the audit takes.
    """
    training = TRAININGS["gpt2"](device)
    optimizer = torch.optim.AdamW(training.model.parameters(), lr=1e-4)
    steps(training, optimizer, 3, dtype)
    taken: list[float] = []
    for index in range(2 * rounds + 1):
        with audit.watching() if index % 2 else contextlib.nullcontext():
            steps(training, optimizer, 1, dtype)
            taken.append(seconds(lambda: steps(training, optimizer, count, dtype), device) / count)
    without, beside = taken[::2], taken[1::2]
    added = [2 * one / sum(around) - 1 for one, around in zip(beside, pairwise(without), strict=True)]
    return statistics.median(without), statistics.median(added)


def losses_are_the_same(device: torch.device, dtype: torch.dtype, count: int) -> bool:
    """Whether two trainings from the same start have the same losses, bit for bit: with the audit and without."""
    torch.use_deterministic_algorithms(True)
    seen = []
    for watches in (False, True):
        torch.manual_seed(0)
        training = TRAININGS["gpt2"](device)
        optimizer = torch.optim.AdamW(training.model.parameters(), lr=1e-4)
        with audit.watching() if watches else contextlib.nullcontext():
            seen.append(torch.stack(steps(training, optimizer, count, dtype)))
    torch.use_deterministic_algorithms(False)
    return torch.equal(*seen)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda", type=torch.device)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--count", type=int, default=20, help="steps of a round")
    options = parser.parse_args()
    name = torch.cuda.get_device_name() if options.device.type == "cuda" else f"{torch.get_num_threads()} threads"
    print(f"torch {torch.__version__}, {name}", flush=True)
    failed = False
    for dtype in (torch.float32, torch.bfloat16) if options.device.type == "cuda" else (torch.float32,):
        without, share = compared(options.device, dtype, options.rounds, options.count)
        same = losses_are_the_same(options.device, dtype, 5)
        failed |= share > MOST or not same
        print(f"{dtype}: {without * 1e3:.1f} ms a step, the audit adds {share:.1%}", end="; ")
        print(f"losses of 5 steps {'the same bit for bit' if same else 'DIFFER'}", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
