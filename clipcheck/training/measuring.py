"""The flows in which the norm of gradients is measured."""

from __future__ import annotations

from collections.abc import Iterator

from clipcheck.python.source import Source
from clipcheck.training.acts import EventKind
from clipcheck.training.flows import Flow, flows
from clipcheck.training.measures import measures


def measuring(source: Source) -> Iterator[Flow]:
    """The flow of every function that measures, or calls one that does; most programs have none, and are skipped."""
    if measures(source):
        yield from flows(source, EventKind.MEASURE)
