"""The report: what was seen of each optimizer, as records, as JSON and as text."""

from __future__ import annotations

import json
import math
import sys
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

from clipcheck.audit import figures, findings
from clipcheck.audit.findings import Finding
from clipcheck.audit.log import Log, Optimizer
from clipcheck.audit.steps import Step, is_used, steps
from clipcheck.catalogue import RULES

SHOWN = 5  # names of parameters

_HOW = {
    "clipped": "used clipped gradients",
    "partly": "used gradients of which only some were clipped",
    "unclipped": "used gradients that were not clipped",
    "by hand": "used gradients that were changed after backward by other code, such as hand-written clipping",
    "by itself": "clipped inside the optimizer's own step",
    "no gradients": "had no gradients",
}


class Part(NamedTuple):
    """What is said of one optimizer."""

    optimizer: str
    made_at: str
    parameters: int
    steps: dict[str, int]
    findings: list[Finding]
    never_clipped: list[str]  # names of parameters that step and are never clipped, though others of it are
    norms: figures.Norms
    times: figures.Times | None
    tried: dict[str, float] | None


class Report(NamedTuple):
    """`str` of it is the text; `exit_code` is 0 without faults, 1 with some, 2 if no step was seen."""

    steps: int
    seconds: float
    optimizers: list[Part]
    findings: list[Finding]  # of calls that concern none of the optimizers
    ranks: list[str]  # faults that comparing the ranks has shown
    not_seen: list[str]

    @property
    def faults(self) -> list[Finding]:
        every = [*(one for part in self.optimizers for one in part.findings), *self.findings]
        return [one for one in every if one.is_fault]

    @property
    def exit_code(self) -> int:
        return 1 if self.faults or self.ranks else 0 if self.steps else 2

    def __str__(self) -> str:
        lines = [f"clipcheck audit: watched {_count(self.steps, 'step')} in {self.seconds:.1f} s"]
        if not self.steps:
            lines.append("no optimizer was seen to step: nothing can be said about clipping")
        for part in self.optimizers:
            lines += ["", *_of_part(part)]
        others = [line for one in self.findings for line in _of_finding(one, "call")]
        others += [f"  ranks    {fault}" for fault in self.ranks]
        lines += ["", *others] if others else []
        lines += ["", *(f"not seen: {one}" for one in self.not_seen)] if self.not_seen else []
        if self.steps:
            faults = len(self.faults) + len(self.ranks)
            lines += ["", f"{_count(faults, 'fault')} found" if faults else "no faults found"]
        return "\n".join(lines) + "\n"


def report(log: Log, ranks: Sequence[str] = (), unseen: Sequence[str] = ()) -> Report:
    """The report on what was seen, with what comparing the ranks has shown, and what could not be seen of them."""
    seen = [(optimizer, list(steps(log, optimizer))) for optimizer in log.optimizers]
    used = {id(event) for _, all_steps in seen for step in all_steps for event in step.events if is_used(event, step)}
    parts = [_part(log, optimizer, all_steps, used) for optimizer, all_steps in seen]
    said = [part for part in parts if part.steps or part.findings]
    return Report(log.steps, log.seconds, said, findings.of_strangers(log), [*ranks], [*_not_seen(log), *unseen])


def _part(log: Log, optimizer: Optimizer, seen: list[Step], used: set[int]) -> Part:
    calls = Counter(event.site for event in log.events if event.call)
    once = {site for site, times in calls.items() if times == 1 and len(seen) > 3}
    found = [list(findings.of_step(step, used, once)) for step in seen]
    scaled = {id(event) for of in found for fault, event in of if fault.group == "scaled"}
    clipped = {p for step in seen for _, of in step.clips for p in of}
    never = {p for step in seen for p in step.unclipped} - clipped if clipped else set()
    times = figures.times(seen)
    return Part(
        optimizer.name,
        str(optimizer.site) if optimizer.site.file else "",
        len(optimizer.parameters),
        dict(Counter({step.number: step.how for step in seen if step.end}.values())),
        findings.of_optimizer(seen, found),
        [name for parameter, name in optimizer.parameters.items() if parameter in never],
        figures.norms(log, optimizer, seen, scaled),
        times,
        figures.tried(optimizer) if times else None,
    )


def _not_seen(log: Log) -> list[str]:
    """What cannot be seen, as far as it concerns this run."""
    stepped = {event.optimizer for event in log.events}
    with_gradients = {p for event in log.events for p in event.about}
    skipped = {p for event in log.events if event.kind == "K" for p in event.about}
    said = list(log.troubles)
    for one in log.optimizers:
        if one.asks and one.key in stepped:
            said.append(f"{one.name} has {', '.join(one.asks)}: clipping inside its step is not seen")
        elif one.key not in stepped and with_gradients.intersection(one.parameters):
            every = "a GradScaler skipped every step, for NaN or infinity"
            why = every if skipped.intersection(one.parameters) else "compiled, or its step is called in another way"
            said.append(f"{one.name} ({one.site}) was not seen to step: {why}")
    if any(event.parts != 1 for event in log.events):
        said.append("the norms of other ranks' parts: those of sharded parameters are of this rank's part")
    if "deepspeed" in sys.modules:
        said.append("DeepSpeed's engine clips and steps by itself: only calls of torch's functions are seen")
    compiled = sys.modules.get("torch._dynamo.utils")
    if compiled and compiled.counters["frames"]["ok"] and not any(event.call for event in log.events):
        said.append("torch.compile has compiled some code: calls of clipping functions in it are not seen")
    return said


def as_json(report: Report) -> str:
    """One object; numbers that are not finite are null, as JSON has none."""
    return json.dumps({**_plain(report), "exit_code": report.exit_code}, indent=2) + "\n"


def _plain(value: Any) -> Any:
    match value:
        case dict():
            return {key: _plain(one) for key, one in value.items()}
        case tuple() if hasattr(value, "_asdict"):
            return _plain(value._asdict())
        case list():
            return [*map(_plain, value)]
        case float() if not math.isfinite(value):
            return None
    return value


# --- as text -------------------------------------------------------------------------------------------------------


def _of_part(part: Part) -> list[str]:
    total, title = sum(part.steps.values()), part.optimizer + f" ({part.made_at})" * bool(part.made_at)
    lines = [f"{title}: {_count(total, 'step')}, {_count(part.parameters, 'parameter')}"]
    lines += [f"  steps    {part.steps[how]} of {total} {words}" for how, words in _HOW.items() if how in part.steps]
    lines += [line for finding in part.findings for line in _of_finding(finding, "step")]
    if names := part.never_clipped:
        more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        lines.append(f"  never    {_count(len(names), 'parameter')} never clipped: {', '.join(names[:SHOWN])}{more}")
    return [*lines, *_of_norms(part.norms), *_of_times(part)]


def _of_finding(finding: Finding, unit: str) -> list[str]:
    often = f"in {finding.times} of {_count(finding.of, unit)}" if finding.of else _count(finding.times, "time")
    lines = [f"  {finding.code or 'note':8} {finding.site}: {finding.message} ({often})"]
    if finding.code:
        lines.append(f"           {RULES[finding.code].name}: `clipcheck rule {finding.code}`")
    return lines


def _of_norms(norms: figures.Norms) -> list[str]:
    lines = [f"  norm     NaN or infinite in {_count(norms.nonfinite, 'step')}"] if norms.nonfinite else []
    if not any(map(math.isfinite, norms.before)):
        return lines
    shares = {"median": 0.5, "90% ≤": 0.9, "99% ≤": 0.99, "max": 1.0}
    quantiles = ", ".join(f"{name} {norms.at(share):.4g}" for name, share in shares.items())
    lines.insert(
        0, f"  norm     {quantiles}; at the step max {max(filter(math.isfinite, norms.after), default=math.nan):.4g}"
    )
    if limits := sorted({limit for limit in norms.limits if limit < math.inf}):
        shown = " … ".join(f"{limit:g}" for limit in dict.fromkeys((limits[0], limits[-1])))
        lines.append(f"  max_norm {shown} clipped {norms.clipped:.0%} of the steps")
    would = ", ".join(f"{norms.at(1 - share):.4g} clips {share:.0%}" for share in (0.5, 0.1, 0.01))
    return [*lines, f"  max_norm of {would}"]


def _of_times(part: Part) -> list[str]:
    if part.times is None:
        return []
    step, clipping, reads = part.times
    said = f"  time     clipping takes {_seconds(clipping)} of {_seconds(step)} a step, {clipping / step:.1%}"
    if part.tried:
        theirs, ours = map(_seconds, part.tried.values())
        said += f"; on gradients of these shapes torch takes {theirs}, clipcheck.runtime {ours}"
    if reads is None:
        return [said]
    return [
        said,
        f"  time     a call reads {_count(reads, 'value')} of the gradients' device: on a GPU, each is a wait",
    ]


def _seconds(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1e3:.3g} ms"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"
