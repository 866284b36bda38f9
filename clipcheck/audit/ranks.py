"""The ranks of a job compared: through files, since a collective that one rank does not join would hang the training."""

from __future__ import annotations

import json
import math
import os
import shutil
import tempfile
import time
from collections import Counter
from itertools import zip_longest
from pathlib import Path
from typing import Any, TypeAlias

from clipcheck.audit.log import Event, Log

PATIENCE = 30.0  # seconds to wait for the other ranks of this host
UNLIKE = 1e-3  # a relative difference of norms that rounding does not make

Summary: TypeAlias = dict[str, Any]  # what other ranks want to know of one


def rank() -> int:
    return int(os.environ.get("RANK", "0"))


def world() -> int:
    """The number of ranks on this host."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", os.environ.get("WORLD_SIZE", "1")))


def _folder() -> Path:
    """One for each job on this host: its processes have the same parent and the same port."""
    return Path(tempfile.gettempdir()) / f"clipcheck-audit-{os.getppid()}-{os.environ.get('MASTER_PORT', '')}"


def leave(log: Log) -> None:
    """Writes the summary of this rank."""
    folder = _folder()
    folder.mkdir(mode=0o700, exist_ok=True)
    part = folder / f"{rank()}.part"
    part.write_text(json.dumps(summary(log)), encoding="utf-8")
    part.replace(folder / f"{rank()}.json")


def summary(log: Log) -> Summary:
    """`clips` as site, limit and norm, which is null for a part of one; `parts`: such norms; `weights` of all steps."""
    clips = [(event.site, event.call) for event in log.events if event.kind == "C" and event.call]
    return {
        "clips": [[str(site), call.limit, call.norm if call.parts == 1 else None] for site, call in clips],
        "parts": [record.norm for event in log.events if (record := _of_part(event))],
        "weights": [event.use.weights for event in log.events if event.use and event.use.weights],
    }


def _of_part(event: Event) -> Any:
    """What holds the norm of this rank's part of sharded gradients."""
    record = event.call or event.use
    return record if record and record.parts != 1 else None


def collect() -> tuple[dict[int, Summary], list[str]]:
    """The summaries of the ranks of this host, and what could not be seen of them."""
    folder, end = _folder(), time.monotonic() + PATIENCE
    paths = {one: folder / f"{one}.json" for one in range(rank(), rank() + world())}
    while not all(path.exists() for path in paths.values()) and time.monotonic() < end:
        time.sleep(0.05)
    found = {one: json.loads(path.read_text(encoding="utf-8")) for one, path in paths.items() if path.exists()}
    shutil.rmtree(folder, ignore_errors=True)
    unseen = [f"rank {one} has told nothing: it was not audited, or ended before" for one in paths if one not in found]
    if int(os.environ.get("WORLD_SIZE", "1")) > world():
        unseen.append("the ranks of other hosts are not compared")
    return found, unseen


def joined(log: Log, ranks: dict[int, Summary]) -> Log:
    """The log with norms of whole gradients in the place of those of this rank's part, where all ranks have told theirs."""
    told = [one["parts"] for one in ranks.values()]
    if len({len(norms) for norms in told}) != 1:
        return log
    whole, events = iter(zip(*told, strict=True)), []
    for event in log.events:
        if record := _of_part(event):
            norms = next(whole)
            if record.parts == len(told):
                known = [norm for norm in norms if norm is not None]
                record = record._replace(norm=math.hypot(*known) if known else None, parts=1)
            event = event._replace(**{"call" if event.call else "use": record})
        events.append(event)
    return log._replace(events=events)


def faults(ranks: dict[int, Summary]) -> list[str]:
    """What differs between ranks and must not; only replicas, whose first weights are alike, must have the same norms."""
    said = _by_calls(ranks)
    first, *others = [one["weights"] or [[]] for one in ranks.values()] or [[[]]]
    if others and first[0] and all(_alike(first[0], other[0]) for other in others):
        said += _by_norms(ranks)
        if not all(_alike(first[-1], other[-1]) for other in others):
            said.append("the replicas' parameters were alike at the first step and are not at the last one")
    return said


def _by_calls(ranks: dict[int, Summary]) -> list[str]:
    counts = {one: Counter(site for site, _, _ in data["clips"]) for one, data in ranks.items()}
    said = []
    for site in sorted({site for count in counts.values() for site in count}):
        if len({count[site] for count in counts.values()}) > 1:
            each = ", ".join(f"{count[site]} times on rank {one}" for one, count in counts.items())
            said.append(f"CLIP406 {site}: clips on some ranks only, {each}")
    return said


def _by_norms(ranks: dict[int, Summary]) -> list[str]:
    """Replicas have the same gradients, so the same norm, so the same coefficient."""
    unlike: Counter[str] = Counter()
    shown: dict[str, str] = {}
    for calls in zip_longest(*(data["clips"] for data in ranks.values())):
        if None in calls or len({site for site, _, _ in calls}) > 1 or any(norm is None for _, _, norm in calls):
            continue
        site, _, norm = calls[0]
        if not _alike([norm] * len(calls), [norm for _, _, norm in calls]):
            unlike[site] += 1
            each = ", ".join(
                f"norm {norm:.4g} and coefficient {min(1.0, limit / (norm + 1e-6)):.4g} on rank {one}"
                for one, (_, limit, norm) in zip(ranks, calls, strict=True)
            )
            shown.setdefault(site, each)
    return [f"{site}: replicas were clipped unlike in {n} calls: first {shown[site]}" for site, n in unlike.items()]


def _alike(some: list[float], others: list[float]) -> bool:
    return len(some) == len(others) and all(
        math.isclose(a, b, rel_tol=UNLIKE) or (a != a and b != b) for a, b in zip(some, others, strict=True)
    )
