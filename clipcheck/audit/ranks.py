"""The ranks of a job compared: through files, since a collective that one rank does not join would hang the training."""

from __future__ import annotations

import json
import math
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias

from clipcheck.audit.log import Event, Log

PATIENCE = 30.0  # seconds to wait for the other ranks of this host
UNLIKE = 1e-3  # a relative difference of norms that rounding does not make

Summary: TypeAlias = dict[str, Any]  # what other ranks want to know of one


def number(name: str, default: int = 0) -> int:
    """What the launcher has put into the environment."""
    return int(os.environ.get(name, default))


def world() -> int:
    """The number of ranks on this host."""
    return number("LOCAL_WORLD_SIZE", number("WORLD_SIZE", 1))


def compared(log: Log) -> tuple[Log, list[str], list[str]]:
    """The log with the norms of whole gradients, faults that comparing the ranks has shown, and what could not be seen.

    Only the first rank of a host looks at what the others leave.
    """
    rank, ranks = number("RANK"), world()
    if ranks == 1:
        return log, [], []
    # One for each job on this host: its processes have the same parent and the same port.
    folder = Path(tempfile.gettempdir()) / f"clipcheck-audit-{os.getppid()}-{number('MASTER_PORT')}"
    folder.mkdir(mode=0o700, exist_ok=True)
    part = folder / f"{rank}.part"
    part.write_text(json.dumps(summary(log)), encoding="utf-8")
    part.replace(part.with_suffix(".json"))
    if number("LOCAL_RANK"):
        return log, [], []
    found = _collected({one: folder / f"{one}.json" for one in range(rank, rank + ranks)})
    shutil.rmtree(folder, ignore_errors=True)
    said = "rank {} has told nothing: it was not audited, or ended before"
    unseen = [said.format(one) for one in range(rank, rank + ranks) if one not in found]
    unseen += ["the ranks of other hosts are not compared"] * (number("WORLD_SIZE") > ranks)
    return joined(log, found), faults(found), unseen


def _collected(paths: dict[int, Path]) -> dict[int, Summary]:
    end = time.monotonic() + PATIENCE
    while not all(path.exists() for path in paths.values()) and time.monotonic() < end:
        time.sleep(0.05)
    return {one: json.loads(path.read_text(encoding="utf-8")) for one, path in paths.items() if path.exists()}


def summary(log: Log) -> Summary:
    """`clips` as site, limit and norm, which is null for a part of one; `parts`: such norms; `weights` of all steps."""
    clips = [(event, event.call) for event in log.events if event.kind == "C" and event.call]
    return {
        "clips": [[str(event.site), call.limit, event.norm if event.parts == 1 else None] for event, call in clips],
        "parts": [event.norm for event in log.events if event.parts != 1],
        "weights": [event.weights for event in log.events if event.weights],
    }


def joined(log: Log, ranks: dict[int, Summary]) -> Log:
    """The log with norms of whole gradients in the place of those of this rank's part, where all ranks have told theirs."""
    told = [one["parts"] for one in ranks.values()]
    if len(set(map(len, told))) != 1:
        return log
    whole = zip(*told, strict=True)
    return log._replace(events=[_whole(event, next(whole)) if event.parts != 1 else event for event in log.events])


def _whole(part: Event, norms: tuple[float | None, ...]) -> Event:
    known = [norm for norm in norms if norm is not None]
    return part._replace(norm=math.hypot(*known) if known else None, parts=1) if part.parts == len(norms) else part


def faults(ranks: dict[int, Summary]) -> list[str]:
    """What differs between ranks and must not; only replicas, whose first weights are alike, must have the same norms."""
    first, *others = [one["weights"] or [[]] for one in ranks.values()] or [[[]]]
    are_replicas = bool(others and first[0]) and all(_alike(first[0], other[0]) for other in others)
    said = [*_clips_unlike(ranks, are_replicas)]
    if are_replicas and not all(_alike(first[-1], other[-1]) for other in others):
        said.append("the replicas' parameters were alike at the first step and are not at the last one")
    return said


def _clips_unlike(ranks: dict[int, Summary], are_replicas: bool) -> Iterator[str]:
    """Replicas have the same gradients, so the same norm, so the same coefficient."""
    for site in sorted({site for data in ranks.values() for site, _, _ in data["clips"]}):
        calls = {one: [call for call in data["clips"] if call[0] == site] for one, data in ranks.items()}
        if len(set(map(len, calls.values()))) > 1:
            each = ", ".join(f"{len(of)} times on rank {one}" for one, of in calls.items())
            yield f"CLIP406 {site}: clips on some ranks only, {each}"
        unlike = [call for call in zip(*calls.values(), strict=False) if not _norms_alike([norm for *_, norm in call])]
        if unlike and are_replicas:
            each = ", ".join(
                f"norm {norm:.4g} and coefficient {min(1.0, limit / (norm + 1e-6)):.4g} on rank {one}"
                for one, (_, limit, norm) in zip(ranks, unlike[0], strict=True)
            )
            yield f"{site}: replicas were clipped unlike in {len(unlike)} calls: first {each}"


def _norms_alike(norms: list[float | None]) -> bool:
    return None in norms or _alike(norms[:1] * len(norms), norms)


def _alike(some: Any, others: Any) -> bool:
    return len(some) == len(others) and all(
        math.isclose(a, b, rel_tol=UNLIKE) or (a != a and b != b) for a, b in zip(some, others, strict=True)
    )
