"""The audit: watches what clipping does in a real training, and reports it under the rules' codes.

with clipcheck.audit.watching() as audit:
    train()
print(audit.report())
"""

from __future__ import annotations

from clipcheck.audit.report import Report
from clipcheck.audit.watch import Watch

__all__ = ["Report", "Watch", "watching"]


def watching(steps: int = 200) -> Watch:
    """Watches until the end of a `with` block, for so many optimizer steps at most; training stays as it is, bit for bit.

    What is seen of a step takes less than 1 KB of memory for each parameter until the end of the block.
    """
    return Watch(steps)
