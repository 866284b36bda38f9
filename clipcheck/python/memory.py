"""What an editor's last look at a text left for the next one; apart from `tree`, so that holding it loads no LibCST."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from clipcheck.python.positions import Tree


class Memory:
    """What the last parse gave, for the next one to start from."""

    tree: Tree | None = None


_memory: ContextVar[Memory | None] = ContextVar("_memory", default=None)


@contextmanager
def remembered(memory: Memory | None) -> Iterator[None]:
    """Within this, a parse starts from what `memory` holds and leaves there what it gave; with None it does neither."""
    token = _memory.set(memory)
    try:
        yield
    finally:
        _memory.reset(token)


def current() -> Memory | None:
    """The memory that a parse may use; None where each text is seen but once, as on the command line."""
    return _memory.get()
