"""The ranks of a job compared: through files, since a collective that one rank does not join would hang the training."""

from __future__ import annotations

import json
import math
import os
import shutil
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from clipcheck.audit.events import Clip, Log, Step

PATIENCE = 30.0  # seconds to wait for the other ranks of this host
UNLIKE = 1e-3  # a relative difference of norms that rounding does not make

Summary = dict[str, Any]


def rank() -> int:
    return int(os.environ.get("RANK", "0"))


def world() -> int:
    return int(os.environ.get("LOCAL_WORLD_SIZE", os.environ.get("WORLD_SIZE", "1")))


def _folder() -> Path:
    """One for each job on this host: its processes have the same parent and the same port."""
    return Path(tempfile.gettempdir()) / f"clipcheck-audit-{os.getppid()}-{os.environ.get('MASTER_PORT', '')}"


def leave(log: Log) -> None:
    """Writes what the other ranks want to know of this one."""
    folder = _folder()
    folder.mkdir(mode=0o700, exist_ok=True)
    part = folder / f"{rank()}.part"
    part.write_text(json.dumps(summary(log)), encoding="utf-8")
    part.replace(folder / f"{rank()}.json")


def summary(log: Log) -> Summary:
    clips = [e for e in log.events if isinstance(e, Clip) and e.limit < math.inf]
    weights = [list(e.weights) for e in log.events if isinstance(e, Step) and e.weights]
    return {
        "clips": [[str(e.site), e.limit, e.norm, e.parts] for e in clips],
        "parts": [e.norm for e in log.events if isinstance(e, (Clip, Step)) and e.parts != 1],
        "first": weights[0] if weights else [],
        "last": weights[-1] if weights else [],
        "steps": log.steps,
    }


def collect() -> tuple[dict[int, Summary], tuple[str, ...]]:
    """The summaries of the ranks of this host, and what could not be seen of them."""
    folder, end = _folder(), time.monotonic() + PATIENCE
    missing = set(range(rank(), rank() + world()))
    found: dict[int, Summary] = {}
    while missing and time.monotonic() < end:
        for one in sorted(missing):
            if (folder / f"{one}.json").exists():
                found[one] = json.loads((folder / f"{one}.json").read_text(encoding="utf-8"))
        missing -= set(found)
        time.sleep(0.05 * bool(missing))
    shutil.rmtree(folder, ignore_errors=True)
    unseen = [f"rank {one} has told nothing: it was not audited, or ended before" for one in sorted(missing)]
    if int(os.environ.get("WORLD_SIZE", "1")) > world():
        unseen.append("the ranks of other hosts are not compared")
    return found, tuple(unseen)


def joined(log: Log, ranks: dict[int, Summary]) -> Log:
    """The log with norms of whole gradients in the place of those of this rank's parts, where all ranks have told theirs."""
    told = [one["parts"] for one in ranks.values()]
    if len({len(one) for one in told}) != 1:
        return log
    whole = iter([_joined(norms) for norms in zip(*told, strict=True)])
    events = []
    for event in log.events:
        if isinstance(event, (Clip, Step)) and event.parts != 1:
            norm = next(whole)
            event = event._replace(norm=norm, parts=1) if event.parts == len(told) else event
        events.append(event)
    return log._replace(events=tuple(events))


def _joined(norms: tuple[float | None, ...]) -> float | None:
    known = [norm for norm in norms if norm is not None]
    return math.hypot(*known) if known else None


def faults(ranks: dict[int, Summary]) -> tuple[str, ...]:
    """What differs between ranks and must not."""
    said = [*_by_calls(ranks)]
    first = [one["first"] for one in ranks.values()]
    are_replicas = len(first) > 1 and bool(first[0]) and all(_alike(first[0], one) for one in first)
    if are_replicas:
        said += _by_norms(ranks)
        if not all(_alike(next(iter(ranks.values()))["last"], one["last"]) for one in ranks.values()):
            said.append("the replicas' parameters were alike at the first step and are not at the last one")
    return tuple(said)


def _by_calls(ranks: dict[int, Summary]) -> list[str]:
    counts = {one: Counter(call[0] for call in data["clips"]) for one, data in ranks.items()}
    said = []
    for site in sorted({site for count in counts.values() for site in count}):
        times = {one: count[site] for one, count in counts.items()}
        if len(set(times.values())) > 1:
            each = ", ".join(f"{number} times on rank {one}" for one, number in times.items())
            said.append(f"CLIP406 {site}: clips on some ranks only, {each}")
    return said


def _by_norms(ranks: dict[int, Summary]) -> list[str]:
    """Replicas have the same gradients, so the same norm, so the same coefficient."""
    calls = [[call for call in data["clips"] if call[3] == 1] for data in ranks.values()]
    unlike: Counter[str] = Counter()
    shown: dict[str, str] = {}
    for together in zip(*calls, strict=False):
        known = [call for call in together if call[2] is not None]
        if len({call[0] for call in together}) == 1 and len(known) == len(together) > 1:
            norms = [call[2] for call in known]
            if not _alike(norms[:1] * len(norms), norms):
                site = known[0][0]
                unlike[site] += 1
                each = ", ".join(
                    f"norm {call[2]:.4g} and coefficient {min(1.0, call[1] / (call[2] + 1e-6)):.4g} on rank {one}"
                    for one, call in zip(ranks, known, strict=True)
                )
                shown.setdefault(site, each)
    return [
        f"{site}: replicas were clipped unlike in {times} calls: first {shown[site]}" for site, times in unlike.items()
    ]


def _alike(some: list[float], others: list[float]) -> bool:
    return len(some) == len(others) and all(
        math.isclose(a, b, rel_tol=UNLIKE) or (a != a and b != b) for a, b in zip(some, others, strict=True)
    )
