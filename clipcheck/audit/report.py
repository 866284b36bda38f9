"""The report: what was seen of each optimizer, as text and as JSON."""

from __future__ import annotations

import json
import math
import sys
from collections import Counter
from typing import Any, NamedTuple

from clipcheck.audit import figures, judge
from clipcheck.audit.events import Clip, Log, Optimizer, Step
from clipcheck.audit.judge import Finding, Outcome
from clipcheck.catalogue import RULES

SHOWN = 5  # names of parameters


class Part(NamedTuple):
    """What is said of one optimizer."""

    optimizer: Optimizer
    steps: Counter[str]
    findings: tuple[Finding, ...]
    norms: figures.Norms
    never: tuple[str, ...]  # names of parameters that step and are never clipped, though others of it are
    times: figures.Times | None
    tried: tuple[float, float] | None


class Report(NamedTuple):
    """`str` of it is the text; `exit_code` is 0 without faults, 1 with some, 2 if no step was seen."""

    log: Log
    parts: tuple[Part, ...]
    others: tuple[Finding, ...]
    ranks: tuple[str, ...]  # faults that comparing the ranks has shown
    blind: tuple[str, ...]

    @property
    def faults(self) -> list[Finding]:
        return [one for one in (*(f for part in self.parts for f in part.findings), *self.others) if one.is_fault]

    @property
    def exit_code(self) -> int:
        if self.faults or self.ranks:
            return 1
        return 0 if self.log.steps else 2

    def __str__(self) -> str:
        return "\n".join(_text(self)) + "\n"


def report(log: Log, ranks: tuple[str, ...] = (), unseen: tuple[str, ...] = ()) -> Report:
    parts = []
    for optimizer in log.optimizers:
        outcomes, rest = judge.outcomes(log, optimizer)
        found = judge.findings(log, optimizer, outcomes, rest)
        if outcomes or found:
            parts.append(_part(log, optimizer, outcomes, found))
    return Report(log, tuple(parts), tuple(judge.strangers(log)), ranks, (*_blind(log), *unseen))


def _part(log: Log, optimizer: Optimizer, outcomes: list[Outcome], found: list[Finding]) -> Part:
    clipped = {p for outcome in outcomes for p in set(outcome.step.state) - outcome.unclipped}
    never = {p for outcome in outcomes for p in outcome.unclipped} - clipped if clipped else set()
    names = tuple(log.names.get(p, "?") for p in optimizer.parameters if p in never)
    times = figures.times(log, optimizer, outcomes)
    return Part(
        optimizer,
        Counter({outcome.step.number: outcome.how for outcome in outcomes}.values()),
        tuple(found),
        figures.norms(log, optimizer, outcomes),
        names,
        times,
        figures.tried(optimizer) if times else None,
    )


def _blind(log: Log) -> list[str]:
    """What cannot be seen, as far as it concerns this run."""
    stepped = {event.optimizer for event in log.events if isinstance(event, Step)}
    with_gradients = {p for event in log.events for p in getattr(event, "state", {})}
    said = list(log.troubles)
    for one in log.optimizers:
        if one.asks and one.key in stepped:
            said.append(f"{one.name} has {', '.join(one.asks)}: clipping inside its step is not seen")
        elif one.key not in stepped and with_gradients.intersection(one.parameters):
            said.append(f"{_title(one)} was not seen to step: compiled, or its step is called in another way")
    if any(getattr(event, "parts", 1) != 1 for event in log.events):
        said.append("the norms of other ranks' parts: those of sharded parameters are of this rank's part")
    if "deepspeed" in sys.modules:
        said.append("DeepSpeed's engine clips and steps by itself: only calls of torch's functions are seen")
    compiled = sys.modules.get("torch._dynamo.utils")
    if compiled and compiled.counters["frames"]["ok"] and not any(isinstance(e, Clip) for e in log.events):
        said.append("torch.compile has compiled some code: calls of clipping functions in it are not seen")
    return said


def _title(optimizer: Optimizer) -> str:
    return f"{optimizer.name} ({optimizer.site})" if optimizer.site else optimizer.name


def _text(report: Report) -> list[str]:
    log = report.log
    lines = [f"clipcheck audit: watched {_count(log.steps, 'step')} in {log.seconds:.1f} s"]
    if not log.steps:
        lines += ["no optimizer was seen to step: nothing can be said about clipping"]
    for part in report.parts:
        lines += ["", *_of_part(part)]
    if report.others or report.ranks:
        lines += ["", *(line for one in report.others for line in _of_finding(one, "call"))]
        lines += [f"  ranks    {fault}" for fault in report.ranks]
    lines += ["", *(f"not seen: {one}" for one in report.blind)] if report.blind else []
    faults = len(report.faults) + len(report.ranks)
    if log.steps:
        lines += ["", f"{_count(faults, 'fault')} found" if faults else "no faults found"]
    return lines


def _of_part(part: Part) -> list[str]:
    total = sum(part.steps.values())
    lines = [
        f"{_title(part.optimizer)}: {_count(total, 'step')}, {_count(len(part.optimizer.parameters), 'parameter')}"
    ]
    words = {
        "clipped": "used clipped gradients",
        "partly": "used gradients of which only some were clipped",
        "unclipped": "used gradients that were not clipped",
        "by hand": "used gradients that were changed after backward by other code, such as hand-written clipping",
        "by itself": "clipped inside the optimizer's own step",
        "no gradients": "had no gradients",
    }
    lines += [f"  steps    {part.steps[how]} of {total} {words[how]}" for how in words if part.steps[how]]
    lines += [line for finding in part.findings for line in _of_finding(finding, "step")]
    if part.never:
        more = f" and {len(part.never) - SHOWN} more" if len(part.never) > SHOWN else ""
        lines.append(
            f"  never    {_count(len(part.never), 'parameter')} never clipped: {', '.join(part.never[:SHOWN])}{more}"
        )
    return [*lines, *_of_norms(part.norms), *_of_times(part)]


def _of_finding(finding: Finding, unit: str) -> list[str]:
    code = finding.code if finding.is_fault or finding.code in judge.NOTES else "note"
    often = f"in {finding.times} of {_count(finding.of, unit)}" if finding.of else f"{_count(finding.times, 'time')}"
    lines = [f"  {code.lower() if code == 'note' else code:8} {finding.site}: {finding.text} ({often})"]
    if finding.code in RULES:
        lines.append(f"           {RULES[finding.code].name}: `clipcheck rule {finding.code}`")
    return lines


def _of_norms(norms: figures.Norms) -> list[str]:
    if not norms.before:
        return []
    quantiles = ", ".join(
        f"{name} {norms.at(q):.4g}" for name, q in (("median", 0.5), ("90% ≤", 0.9), ("99% ≤", 0.99), ("max", 1.0))
    )
    lines = [f"  norm     {quantiles}; at the step max {max(norms.after):.4g}"]
    if norms.nonfinite:
        lines.append(f"  norm     NaN or infinite in {_count(norms.nonfinite, 'step')}")
    limits = sorted({limit for limit in norms.limits if limit < math.inf})
    if limits:
        shown = f"{limits[0]:g}" if len(limits) == 1 else f"{limits[0]:g} … {limits[-1]:g}"
        lines.append(f"  max_norm {shown} clipped {norms.clipped:.0%} of the steps")
    would = ", ".join(f"{norms.at(1 - share):.4g} clips {share:.0%}" for share in (0.5, 0.1, 0.01))
    return [*lines, f"  max_norm of {would}"]


def _of_times(part: Part) -> list[str]:
    if part.times is None:
        return []
    step, clipping, reads = part.times
    said = f"  time     clipping takes {_seconds(clipping)} of {_seconds(step)} a step, {clipping / step:.1%}"
    if part.tried:
        said += f"; on gradients of these shapes torch takes {_seconds(part.tried[0])}, clipcheck.runtime {_seconds(part.tried[1])}"
    if reads is None:
        return [said]
    on_host = all(device == "cpu" for _, _, device in part.optimizer.shapes)
    waits = "the gradients are on the host, nothing waits" if on_host else f"the host waits {_count(reads, 'time')}"
    return [said, f"  time     in a call {waits}"]


def _seconds(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1e3:.3g} ms"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"


def as_json(report: Report) -> str:
    """One object; numbers that are not finite are null, as JSON has none."""

    def finding(one: Finding) -> dict[str, Any]:
        site = {
            "path": one.site.file,
            "line": one.site.line,
            "function": one.site.function,
            "through": one.site.through,
        }
        code = one.code if one.code in RULES else None
        return {"code": code, "message": one.text, "is_fault": one.is_fault, "times": one.times, "of": one.of, **site}

    parts = [
        {
            "optimizer": part.optimizer.name,
            "made_at": str(part.optimizer.site or ""),
            "parameters": len(part.optimizer.parameters),
            "steps": dict(part.steps),
            "findings": [*map(finding, part.findings)],
            "never_clipped": list(part.never),
            "norms": {k: [*map(_finite, v)] if isinstance(v, list) else v for k, v in part.norms._asdict().items()},
            "times": part.times._asdict() if part.times else None,
            "tried": dict(zip(("torch", "clipcheck"), part.tried, strict=True)) if part.tried else None,
        }
        for part in report.parts
    ]
    content = {
        "steps": report.log.steps,
        "seconds": report.log.seconds,
        "optimizers": parts,
        "findings": [*map(finding, report.others)],
        "ranks": list(report.ranks),
        "not_seen": list(report.blind),
        "exit_code": report.exit_code,
    }
    return json.dumps(content, indent=2) + "\n"


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None
