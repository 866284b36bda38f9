"""The fixtures' experiments: each example with its fix is sent to a worker, and becomes a row of the table."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import NamedTuple

from clipcheck.catalogue import RULES
from clipcheck.examples import examples
from clipcheck.verify.claims import Claim, Outcome, read
from clipcheck.verify.worker import Lost, Worker

# A second worker has to import torch again, which takes about as long as twelve pairs.
PAIRS_A_WORKER = 24


class Pair(NamedTuple):
    """One example: the code of both sides and their claim."""

    name: str
    before: str
    after: str
    to_torch: bool
    suffix: str = ".py"


class Row(NamedTuple):
    name: str
    claim: Claim | None
    outcome: Outcome


def find(codes: Iterable[str] = tuple(RULES)) -> list[Pair]:
    """All examples with a fix; those for `--target torch` follow the others of their rule."""
    return [pair for code in codes for after in ("after", "after_torch") for pair in _pairs(code, after)]


def _pairs(code: str, after: str) -> Iterator[Pair]:
    for example in examples(RULES[code], after):
        if example.after is not None:
            old, new = (path.read_text(encoding="utf-8") for path in (example.before, example.after))
            yield Pair(f"{code}/{example.after.stem}", old, new, after != "after", example.before.suffix)


def verify(pairs: list[Pair], jobs: int, done: Callable[[], object] = lambda: None) -> list[Row]:
    """Runs every pair; `done` is called after each. Raises NoTorch."""
    jobs = max(1, min(jobs, len(pairs) // PAIRS_A_WORKER + 1))
    free: SimpleQueue[Worker] = SimpleQueue()
    workers = [Worker("fixtures", 60.0) for _ in range(jobs)]
    for worker in workers:
        free.put(worker)

    def one(pair: Pair) -> Row:
        worker = free.get()
        try:
            return _row(pair, worker)
        finally:
            free.put(worker)
            done()

    try:
        with ThreadPoolExecutor(jobs) as threads:
            return list(threads.map(one, pairs))
    finally:
        for worker in workers:
            worker.stop()


def _row(pair: Pair, worker: Worker) -> Row:
    claim = read(pair.before)
    if pair.suffix != ".py":
        return Row(pair.name, claim, Outcome(None, f"a {pair.suffix} file is not a program"))
    if claim is None:
        return Row(pair.name, None, Outcome(False, "the first line of the example claims nothing"))
    if claim.obstacle:
        return Row(pair.name, claim, Outcome(None, claim.obstacle))
    answer = worker.ask({"pair": [pair.before, pair.after], "claim": claim.kind, "to_torch": pair.to_torch})
    if isinstance(answer, Lost):
        return Row(pair.name, claim, Outcome(False, f"the experiment {answer.how}"))
    holds, reason, difference, nearer, speed, notes = answer
    return Row(pair.name, claim, Outcome(holds, reason, difference, nearer, speed, tuple(notes)))
