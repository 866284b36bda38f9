"""The report: what was seen of each optimizer, as records, as JSON and as text."""

from __future__ import annotations

import json
import math
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

from clipcheck.audit import figures, findings
from clipcheck.audit.findings import Finding, Step, is_used, steps
from clipcheck.audit.log import Log, Optimizer
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


@dataclass(frozen=True)
class Part:
    """What is said of one optimizer."""

    optimizer: str
    made_at: str
    parameters: int
    steps: dict[str, int]
    findings: list[Finding]
    never_clipped: list[str]  # names of parameters that step and are never clipped, though others of it are
    norms: figures.Norms
    times: figures.Times | None


@dataclass(frozen=True)
class Report:
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
        return "\n".join(_lines(self)) + "\n"


def report(log: Log, ranks: Sequence[str] = (), unseen: Sequence[str] = ()) -> Report:
    """The report on what was seen, with what comparing the ranks has shown, and what could not be seen of them."""
    seen = [(optimizer, list(steps(log, optimizer))) for optimizer in log.optimizers]
    used = {id(event) for _, all_steps in seen for step in all_steps for event in step.events if is_used(event, step)}
    parts = [_part(log, optimizer, all_steps, used) for optimizer, all_steps in seen]
    said = [part for part in parts if part.steps or part.findings]
    return Report(log.steps, log.seconds, said, findings.of_strangers(log), [*ranks], [*_not_seen(log), *unseen])


def _part(log: Log, optimizer: Optimizer, seen: list[Step], used: set[int]) -> Part:
    found = list(findings.of_steps(log, seen, used))
    scaled = {id(event) for of in found for fault, event in of if fault.group == "scaled"}
    clipped = {p for step in seen for _, of in step.clips for p in of}
    never = {p for step in seen for p in step.unclipped} - clipped if clipped else set()
    return Part(
        optimizer.name,
        str(optimizer.site) if optimizer.site.file else "",
        len(optimizer.parameters),
        dict(Counter({step.number: step.how for step in seen if step.end}.values())),
        findings.counted(seen, found),
        [name for parameter, name in optimizer.parameters.items() if parameter in never],
        figures.norms(log, optimizer, seen, scaled),
        figures.times(optimizer, seen),
    )


def _not_seen(log: Log) -> Iterator[str]:
    """What cannot be seen, as far as it concerns this run."""
    stepped = {event.optimizer for event in log.events}
    with_gradients = {p for event in log.events for p in event.about}
    skipped = {p for event in log.events if event.kind == "K" for p in event.about}
    yield from log.troubles
    for one in log.optimizers:
        if one.asks and one.key in stepped:
            yield f"{one.name} has {', '.join(one.asks)}: clipping inside its step is not seen"
        elif one.key not in stepped and with_gradients.intersection(one.parameters):
            every = "a GradScaler skipped every step, for NaN or infinity"
            why = every if skipped.intersection(one.parameters) else "compiled, or its step is called in another way"
            yield f"{one.name} ({one.site}) was not seen to step: {why}"
    if any(event.parts != 1 for event in log.events):
        yield "the norms of other ranks' parts: those of sharded parameters are of this rank's part"
    if "deepspeed" in sys.modules:
        yield "DeepSpeed's engine clips and steps by itself: only calls of torch's functions are seen"
    compiled = sys.modules.get("torch._dynamo.utils")
    if compiled and compiled.counters["frames"]["ok"] and not any(event.call for event in log.events):
        yield "torch.compile has compiled some code: calls of clipping functions in it are not seen"


def as_json(report: Report) -> str:
    """One object; numbers that are not finite are null, as JSON has none."""
    content = json.dumps({**asdict(report), "exit_code": report.exit_code})
    return json.dumps(json.loads(content, parse_constant=lambda _: None), indent=2) + "\n"


# --- as text -------------------------------------------------------------------------------------------------------


def _lines(report: Report) -> Iterator[str]:
    yield f"clipcheck audit: watched {_count(report.steps, 'step')} in {report.seconds:.1f} s"
    if not report.steps:
        yield "no optimizer was seen to step: nothing can be said about clipping"
    others = [line for one in report.findings for line in _of_finding(one, "call")]
    others += [f"  ranks    {fault}" for fault in report.ranks]
    for lines in (*map(_of_part, report.optimizers), others, [f"not seen: {one}" for one in report.not_seen]):
        yield from ["", *lines] if lines else []
    if report.steps:
        faults = len(report.faults) + len(report.ranks)
        yield f"\n{_count(faults, 'fault')} found" if faults else "\nno faults found"


def _of_part(part: Part) -> list[str]:
    total, title = sum(part.steps.values()), part.optimizer + f" ({part.made_at})" * bool(part.made_at)
    lines = [f"{title}: {_count(total, 'step')}, {_count(part.parameters, 'parameter')}"]
    lines += [f"  steps    {part.steps[how]} of {total} {words}" for how, words in _HOW.items() if how in part.steps]
    lines += [line for finding in part.findings for line in _of_finding(finding, "step")]
    if names := part.never_clipped:
        more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        lines.append(f"  never    {_count(len(names), 'parameter')} never clipped: {', '.join(names[:SHOWN])}{more}")
    return [*lines, *_of_norms(part.norms), *(_of_times(part.times) if part.times else ())]


def _of_finding(finding: Finding, unit: str) -> Iterator[str]:
    often = f"in {finding.times} of {_count(finding.of, unit)}" if finding.of else _count(finding.times, "time")
    yield f"  {finding.code or 'note':8} {finding.site}: {finding.message} ({often})"
    if finding.code:
        yield f"           {RULES[finding.code].name}: `clipcheck rule {finding.code}`"


def _of_norms(norms: figures.Norms) -> Iterator[str]:
    is_known = any(map(math.isfinite, norms.before))
    if is_known:
        shares = {"median": 0.5, "90% ≤": 0.9, "99% ≤": 0.99, "max": 1.0}
        quantiles = ", ".join(f"{name} {norms.at(share):.4g}" for name, share in shares.items())
        largest = max(filter(math.isfinite, norms.after), default=math.nan)
        yield f"  norm     {quantiles}; at the step max {largest:.4g}"
    if norms.nonfinite:
        yield f"  norm     NaN or infinite in {_count(norms.nonfinite, 'step')}"
    if is_known:
        if limits := sorted({limit for limit in norms.limits if limit < math.inf}):
            shown = " … ".join(f"{limit:g}" for limit in dict.fromkeys((limits[0], limits[-1])))
            yield f"  max_norm {shown} clipped {norms.clipped:.0%} of the steps"
        would = ", ".join(f"{norms.at(1 - share):.4g} clips {share:.0%}" for share in (0.5, 0.1, 0.01))
        yield f"  max_norm of {would}"


def _of_times(times: figures.Times) -> Iterator[str]:
    said = (
        f"clipping takes {_seconds(times.clipping)} of {_seconds(times.step)} a step, {times.clipping / times.step:.1%}"
    )
    if times.tried:
        theirs, ours = map(_seconds, times.tried.values())
        said += f"; on gradients of these shapes torch takes {theirs}, clipcheck.runtime {ours}"
    yield f"  time     {said}"
    if times.reads is not None:
        reads = _count(times.reads, "value")
        yield f"  time     a call reads {reads} of the gradients' device: on a GPU, each synchronizes"


def _seconds(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1e3:.3g} ms"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"
