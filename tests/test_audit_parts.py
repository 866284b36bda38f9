"""The audit's parts, each on events and figures that are written down: steps, what is told of them, and the report."""

from __future__ import annotations

import functools
import inspect
import json
import math
import os
import sys
import sysconfig
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from clipcheck.audit import calls, figures, findings, gradients, ranks, report, sites, watch  # noqa: E402
from clipcheck.audit.figures import Norms, Times  # noqa: E402
from clipcheck.audit.findings import Finding, Step, counted, is_used, of_strangers, steps, story, told  # noqa: E402
from clipcheck.audit.log import Call, Event, Log, Optimizer  # noqa: E402
from clipcheck.audit.sites import NOWHERE, Site  # noqa: E402
from clipcheck.audit.watch import Watch  # noqa: E402

SGD = Optimizer(7, "SGD", Site("/x/train.py", 3, "main"), {1: "weight", 2: "bias"}, [], [])
ADAM = Optimizer(8, "Adam", Site("/x/train.py", 4, "main"), {3: "other"}, [], [])
LINE, OTHER_LINE = Site("/x/train.py", 9, "main"), Site("/x/train.py", 12, "main")


def event(kind: str, *about: int, **more: Any) -> Event:
    return Event(kind, frozenset(about), **{"site": LINE, **more})


def clip(*about: int, limit: float = 1.0, listed: tuple[int, ...] = (), norm_type: float = 2.0, **more: Any) -> Event:
    call = Call(more.pop("function", "clip_grad_norm_"), limit, norm_type, listed or about, ())
    return event("C", *about, call=call, **more)


def step(*about: int, kind: str = "s", **more: Any) -> Event:
    return event(kind, *about, **{"optimizer": 7, "norm": 1.0, **more})


def log(*events: Event, optimizers: tuple[Optimizer, ...] = (SGD, ADAM), troubles: tuple[str, ...] = ()) -> Log:
    return Log(list(events), list(optimizers), 1, 0.25, list(troubles))


# --- steps --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "how"),
    [
        ([event("B", 1, 2)], "unclipped"),
        ([event("B", 1, 2), clip(1, 2)], "clipped"),
        ([event("B", 1, 2), clip(1)], "partly"),
        ([event("B", 1, 2), clip(1), clip(2)], "clipped"),
        ([event("B", 1, 2), clip(1, 2), event("B", 2)], "partly"),  # whose gradients are new then
        ([event("B", 1, 2), clip(1, 2), event("A", 1, 2)], "unclipped"),
        ([event("B", 1, 2), clip(1, 2), event("Z", 1, 2), event("B", 1, 2)], "unclipped"),
        ([event("B", 1, 2), clip(1, 2), event("O", 1, 2)], "by hand"),
        ([event("B", 1, 2), event("O", 1)], "by hand"),
        ([event("O", 1), event("B", 1, 2)], "unclipped"),
        ([event("B", 1, 2), event("O", 3)], "unclipped"),  # another optimizer's
        ([event("B", 1, 2), clip(1, 2), event("R", 3)], "clipped"),
        ([event("B", 1, 2), clip(3)], "unclipped"),
        ([event("B", 1, 2), event("<", optimizer=7), clip(1, 2)], "by itself"),
        ([event("B", 1, 2), clip(1, 2), event("<", optimizer=7)], "clipped"),
        ([event("B", 1, 2), event("<", optimizer=8), clip(1, 2)], "clipped"),
    ],
)
def test_how_a_step_gets_its_gradients(before: list[Event], how: str) -> None:
    first, rest = steps(log(*before, step(1, 2)), SGD)
    assert (first.how, rest.how) == (how, "no gradients")


@pytest.mark.parametrize(
    ("probe", "at_step", "how"),
    [
        ({1: 2.0}, {1: 2.0}, "unclipped"),
        ({1: 2.0}, {1: 1.0}, "by hand"),
        ({1: 2.0}, {}, "unclipped"),
        ({1: math.nan}, {1: 1.0}, "unclipped"),
    ],
)
def test_gradients_that_other_code_has_written_to(probe: Any, at_step: Any, how: str) -> None:
    first, _ = steps(log(event("B", 1, 2, probe=probe), event("R", 3), step(1, 2, probe=at_step)), SGD)
    assert first.how == how


def test_steps_of_one_optimizer_in_their_order() -> None:
    events = [event("<", optimizer=7), step(1, 2), event("<", optimizer=8), step(3, optimizer=8), event("B", 1)]
    events += [event("<", optimizer=7), step(1, kind="p"), event("B", 2)]
    found = list(steps(log(*events), SGD))
    assert [(one.before, one.number, len(one.events), one.end) for one in found] == [
        ("", 1, 1, events[1]),
        ("S", 2, 3, events[6]),
        ("P", 0, 1, None),
    ]
    assert found[0].how == "unclipped" and step(kind="s") and found[1].unclipped == {1}


def test_clips_through_a_closure_are_not_the_optimizers_own() -> None:
    of_closure = [event("<", optimizer=7), event("B", 1, 2), clip(1, 2), step(1, 2, in_closure=True)]
    first, _ = steps(log(*of_closure), SGD)
    assert first.how == "clipped"


# --- what is told of a step -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after", "word"),
    [
        ([], [], "!s"),
        ([event("A", 2)], [event("B", 2)], "!s"),  # of another parameter
        ([event("A", 1)], [event("B", 1)], "A!Bs"),
        ([event("G", 3), event("R", 1), event("O", 1), event("Q", 1)], [], "GROQ!s"),
        ([event("U", 1), event("U", 3)], [event("Z", 1), event("C", 1)], "Uu!ZCs"),
        ([event("<", optimizer=7), event("<", optimizer=8)], [event("M", 1), event("X", 1), event("E", 1)], "<!s"),
    ],
)
def test_a_story_is_of_the_same_parameters(before: list[Event], after: list[Event], word: str) -> None:
    this = clip(1)
    assert story(this, Step(SGD, "", [*before, this, *after], step(1))) == word
    assert story(this, Step(SGD, "S", [*before, this, *after])) == "S" + word[:-1]


@pytest.mark.parametrize(
    ("after", "end", "used"),
    [
        ([], step(1), True),
        ([event("B", 1)], step(1), True),
        ([event("Z", 1)], step(1), False),
        ([event("Z", 2)], step(1), True),
        ([], step(2), False),
        ([], None, False),
    ],
)
def test_whether_a_step_uses_what_was_clipped(after: list[Event], end: Event | None, used: bool) -> None:
    this = clip(1)
    assert is_used(this, Step(SGD, "", [event("Z", 1), this, *after], end)) is used
    assert not is_used(event("M", 1), Step(SGD, "", [], step(1)))


def facts(this: Event, *others: Event, end: Event | None = None, clips: tuple[Event, ...] = ()) -> list[str]:
    whole = Step(SGD, "", [*others, this], end, [(one, one.about) for one in clips])
    return [fact for fact in told(this, whole).splitlines() if fact not in ("hook ", "error ", "step ")]


def test_facts_of_an_event() -> None:
    through = Site("/x/train.py", 2, "main", "accelerate/a.py:5", "lightning/b.py:6 training_step")
    assert facts(event("Z", 1), event("A", 1, site=through), event("B", 1), event("U", 1, site=through)) == [
        "backward accelerate/a.py:5",
        "backward ",
    ]
    assert facts(event("Z", 1, site=through)) == ["hook lightning/b.py:6 training_step"]
    assert facts(event("Z", 1), end=step(1, site=through, norm=0.0)) == ["step accelerate/a.py:5", "moves nothing"]
    failed = event("E", 1, call=Call("clip_grad_norm_", 1.0, 2.0, (1,), ("shards",), "two\n  lines"))
    assert facts(failed) == ["shards", "error two lines"]
    for limit, said in ((0.5, []), (0.0, ["not positive"]), (-1.0, ["not positive"]), (math.nan, ["not positive"])):
        assert facts(clip(1, limit=limit)) == said
    assert facts(clip(1, 2, listed=(1, 2, 1))) == ["twice"]


@pytest.mark.parametrize(
    ("first", "second", "is_again"),
    [
        (clip(1, 2), clip(1, 2), True),
        (clip(1, 2), clip(1, 2, limit=2.0), True),
        (clip(1, 2), clip(1), True),
        (clip(1, 2), clip(1, 2, limit=0.5), False),
        (clip(1), clip(1, 2), False),
        (clip(1, 2), clip(1, 2, norm_type=1.0), False),
        (clip(1, 2), clip(1, 2, function="clip_grad_value_"), False),
        (clip(2), clip(1), False),
    ],
)
def test_a_clip_that_is_repeated(first: Event, second: Event, is_again: bool) -> None:
    assert ("again" in facts(second, first)) is is_again
    assert facts(first) == []


@pytest.mark.parametrize(
    ("clips", "said"),
    [
        ([clip(1), clip(2)], ["each alone"]),
        ([clip(1), clip(2, 3)], ["in parts"]),
        ([clip(1)], []),
        ([clip(1), clip(1)], []),
        ([clip(1), clip(2, limit=2.0)], []),
        ([clip(1), clip(2, site=OTHER_LINE)], []),
        ([clip(1, function="clip_grad_value_"), clip(2, function="clip_grad_value_")], []),
    ],
)
def test_clips_of_one_line_that_see_only_a_part_each(clips: list[Event], said: list[str]) -> None:
    assert facts(clips[0], clips=tuple(clips)) == said


# --- findings -------------------------------------------------------------------------------------------------------------------


def test_tensors_that_nothing_steps() -> None:
    seen = log(clip(9), clip(9), clip(1), step(1), clip(3, site=OTHER_LINE), event("M", 9))
    assert [(one.times, one.of, one.site, one.is_fault) for one in of_strangers(seen)] == [
        (2, 3, LINE, False),
        (1, 1, OTHER_LINE, False),  # its optimizer never steps
    ]


def test_findings_of_an_optimizer_are_counted_and_sorted() -> None:
    from clipcheck.audit.faults import FAULTS

    by_code = {fault.code: fault for fault in FAULTS}
    three = [Step(SGD, "", [], step(1), number=1), Step(SGD, "S", [], step(1), number=2), Step(SGD, "S", [], number=3)]
    note, stale, zero = by_code["CLIP505"], by_code["CLIP101"], by_code["CLIP104"]
    found = [[(note, clip(1)), (note, clip(1))], [(note, clip(1)), (zero, clip(1))], [(stale, clip(1))]]
    assert [(one.code, one.times, one.of) for one in counted(three, found)] == [
        ("CLIP101", 1, 2),
        ("CLIP104", 1, 2),
        ("CLIP505", 2, 2),
    ]
    again = [one._replace(number=1) for one in three]  # a closure that is called several times
    assert [(one.code, one.times, one.of) for one in counted(again, found)][2] == ("CLIP505", 1, 1)
    for code in ("CLIP102", "CLIP109"):  # what a line is at first, it is later
        before = [[(by_code[code], clip(1))], [(stale, clip(1))], [(stale, clip(1, site=OTHER_LINE))]]
        assert [(one.code, one.times) for one in counted(three, before)] == [(code, 2), ("CLIP101", 1)]


# --- the report -------------------------------------------------------------------------------------------------------------------

FAULT = Finding("CLIP101", "clips late", True, 2, 3, LINE)
NOTE = Finding("", "may be on purpose", False, 1, 0, OTHER_LINE)


def part(**more: Any) -> report.Part:
    values: dict[str, Any] = {
        "optimizer": "SGD",
        "made_at": "train.py:3",
        "parameters": 2,
        "steps": {"unclipped": 2, "clipped": 1},
        "findings": [],
        "never_clipped": [],
        "norms": Norms([], [], [], 0),
        "times": None,
    }
    return report.Part(**(values | more))


def lines(one: report.Part) -> list[str]:
    return report._of_part(one)


def test_an_optimizer_in_words() -> None:
    assert lines(part(findings=[FAULT, NOTE], never_clipped=["a"])) == [
        "SGD (train.py:3): 3 steps, 2 parameters",
        "  steps    1 of 3 used clipped gradients",
        "  steps    2 of 3 used gradients that were not clipped",
        f"  CLIP101  {LINE}: clips late (in 2 of 3 steps)",
        "           clip-after-step: `clipcheck rule CLIP101`",
        f"  note     {OTHER_LINE}: may be on purpose (1 time)",
        "  never    1 parameter never clipped: a",
    ]
    assert lines(part(made_at="", parameters=1, steps={"clipped": 1}))[0] == "SGD: 1 step, 1 parameter"
    for count, more in ((5, ""), (7, " and 2 more")):
        assert lines(part(never_clipped=[*"abcdefg"][:count]))[-1] == (
            f"  never    {count} parameters never clipped: a, b, c, d, e{more}"
        )


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        ([1.0, 1.0, 1.0, 1.0], ["  max_norm 1 clipped 75% of the steps"]),
        ([0.5, 2.5, math.inf, 2.0], ["  max_norm 0.5 … 2.5 clipped 33% of the steps"]),
        ([math.inf] * 4, []),
    ],
)
def test_norms_in_words(limits: list[float], said: list[str]) -> None:
    norms = Norms([1.0, 2.0, 4.0, 1.5], [1.0, 1.0, math.inf, 0.5], limits, 0)
    assert lines(part(norms=norms))[3:] == [
        "  norm     median 1.5, 90% ≤ 4, 99% ≤ 4, max 4; at the step max 1",
        *said,
        "  max_norm of 1.5 clips 50%, 4 clips 10%, 4 clips 1%",
    ]


def test_norms_that_are_not_finite_in_words() -> None:
    assert lines(part(norms=Norms([math.nan], [math.nan], [1.0], 1)))[3:] == ["  norm     NaN or infinite in 1 step"]
    assert lines(part(norms=Norms([math.nan, 1.0], [math.nan, 1.0], [math.inf] * 2, 2)))[3:5] == [
        "  norm     median 1, 90% ≤ 1, 99% ≤ 1, max 1; at the step max 1",
        "  norm     NaN or infinite in 2 steps",
    ]


def test_times_in_words() -> None:
    assert lines(part(times=Times(2.0, 0.05, None, None)))[3:] == [
        "  time     clipping takes 50 ms of 2.00 s a step, 2.5%"
    ]
    tried = {"torch": 0.002, "clipcheck": 0.0005}
    assert lines(part(times=Times(1.0, 0.002, 3, tried)))[3:] == [
        "  time     clipping takes 2 ms of 1.00 s a step, 0.2%; on gradients of these shapes torch takes 2 ms, "
        "clipcheck.runtime 0.5 ms",
        "  time     a call reads 3 values of the gradients' device: on a GPU, each synchronizes",
    ]


@pytest.mark.parametrize(
    ("faults", "ranks", "count", "closing", "code"),
    [
        ([], [], 1, "no faults found", 0),
        ([FAULT], [], 1, "1 fault found", 1),
        ([FAULT], ["they differ"], 1, "2 faults found", 1),
        ([], ["they differ"], 1, "1 fault found", 1),
        ([], [], 0, "", 2),
        ([FAULT], [], 0, "", 1),
    ],
)
def test_a_report_in_words(faults: list[Finding], ranks: list[str], count: int, closing: str, code: int) -> None:
    made = report.Report(count, 0.25, [part()], [*faults, NOTE], ranks, ["this"])
    text = str(made).splitlines()
    assert text[0] == f"clipcheck audit: watched {count} step{'' if count == 1 else 's'} in 0.2 s"
    assert ("no optimizer was seen to step: nothing can be said about clipping" in text) is (count == 0)
    assert ("  ranks    they differ" in text) is bool(ranks)
    assert f"  CLIP101  {LINE}: clips late (in 2 of 3 calls)" in text or not faults
    assert "not seen: this" in text
    assert made.exit_code == code and (text[-1] == closing or not closing)


def test_a_report_as_json() -> None:
    made = report.Report(1, 0.25, [part(norms=Norms([1.0, math.inf], [], [math.nan], 0))], [FAULT], [], [])
    content = json.loads(report.as_json(made))
    assert content["optimizers"][0]["norms"] == {"before": [1.0, None], "after": [], "limits": [None], "nonfinite": 0}
    assert content["findings"][0]["site"]["line"] == 9
    assert (content["exit_code"], content["seconds"]) == (1, 0.25)
    assert report.as_json(made).startswith("{\n  ") and report.as_json(made).endswith("}\n")


@pytest.mark.parametrize(
    ("seen", "said"),
    [
        (log(step(1)), []),
        (log(step(1), troubles=("a trouble",)), ["a trouble"]),
        (log(step(1), optimizers=(SGD._replace(asks=["clip", "cap"]),)), ["SGD has clip, cap: clipping inside its step is not seen"]),
        (log(event("B", 1), optimizers=(SGD._replace(asks=["clip"]),)), [f"SGD ({SGD.site}) was not seen to step: compiled, or its step is called in another way"]),
        (log(event("B", 3), step(1)), [f"Adam ({ADAM.site}) was not seen to step: compiled, or its step is called in another way"]),
        (log(event("B", 3), event("K", 3), step(1)), [f"Adam ({ADAM.site}) was not seen to step: a GradScaler skipped every step, for NaN or infinity"]),
        (log(event("B", 1, parts=2), step(1)), ["the norms of other ranks' parts: those of sharded parameters are of this rank's part"]),
    ],
)  # fmt: skip
def test_what_was_not_seen(seen: Log, said: list[str]) -> None:
    assert list(report._not_seen(seen)) == said


def test_what_compiled_code_and_deepspeed_hide(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = "torch.compile has compiled some code: calls of clipping functions in it are not seen"
    for count, seen, said in ((1, log(step(1)), [compiled]), (0, log(step(1)), []), (1, log(clip(1), step(1)), [])):
        counters = SimpleNamespace(counters={"frames": {"ok": count}})
        monkeypatch.setitem(sys.modules, "torch._dynamo.utils", counters)
        assert list(report._not_seen(seen)) == said
    monkeypatch.setitem(sys.modules, "torch._dynamo.utils", None)
    monkeypatch.setitem(sys.modules, "deepspeed", SimpleNamespace())
    (only,) = report._not_seen(log(step(1)))
    assert only.startswith("DeepSpeed's engine clips and steps by itself")


def test_a_report_on_what_was_seen() -> None:
    backward, begin = event("B", 1, 2), event("<", optimizer=7)
    first = [backward, clip(1, norm=3.0), clip(2, norm=4.0), begin, step(1, 2, norm=1.0)]
    seen = log(*first, backward, clip(1, norm=1.0), begin, step(1, 2, norm=2.0))
    made = report.report(seen, ["ranks differ"], ["more"])
    (only,) = made.optimizers  # of the other nothing is known
    assert (only.optimizer, only.made_at, only.parameters) == ("SGD", str(SGD.site), 2)
    assert (only.steps, only.never_clipped) == ({"clipped": 1, "partly": 1}, [])
    assert only.norms == Norms([5.0, 2.0], [1.0, 2.0], [1.0, 1.0], 0)
    assert (made.ranks, made.not_seen, made.steps, made.seconds) == (["ranks differ"], ["more"], 1, 0.25)
    nameless = report.report(log(step(1), optimizers=(SGD._replace(site=NOWHERE),)))
    assert nameless.optimizers[0].made_at == ""


def test_parameters_that_are_clipped_in_no_step() -> None:
    seen = log(event("B", 1, 2), clip(1), step(1, 2), event("B", 1, 2), step(1, 2))
    assert report.report(seen).optimizers[0].never_clipped == ["bias"]
    assert report.report(log(event("B", 1, 2), step(1, 2))).optimizers[0].never_clipped == []


# --- figures ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("events", "before", "limits"),
    [
        ([], 2.0, math.inf),
        ([clip(1, 2, norm=6.0)], 6.0, 1.0),
        ([clip(1, 2, norm=6.0), clip(1, 2, norm=1.0, limit=0.5)], 6.0, 0.5),  # of the second, the norm is a clipped one
        ([clip(1, norm=3.0), clip(2, norm=4.0)], 5.0, 1.0),
        ([clip(1, 2, norm=1.0)], 2.0, 1.0),
        ([clip(1, 2, norm=6.0, function="clip_grad_value_")], 2.0, math.inf),
        ([clip(1, 2)], 2.0, math.inf),  # a norm that is not known
    ],
)
def test_the_norm_and_limit_of_a_step(events: list[Event], before: float, limits: float) -> None:
    found = list(steps(log(event("B", 1, 2), *events, step(1, 2, norm=2.0)), SGD))
    assert figures.norms(log(), SGD, found, ()) == Norms([before], [2.0], [limits], 0)


def test_norms_that_do_not_count() -> None:
    scaled = clip(1, 2, norm=6.0)
    found = list(steps(log(event("B", 1, 2), scaled, step(1, 2, norm=2.0)), SGD))
    assert figures.norms(log(), SGD, found, {id(scaled)}).before == [2.0]
    infinite = list(
        steps(log(clip(1, norm=math.nan), step(1, norm=1.0), step(2, norm=math.inf), step(1, norm=None)), SGD)
    )
    found_of = figures.norms(log(event("K", 1), event("K", 3)), SGD, infinite, ())
    assert (len(found_of.before), found_of.nonfinite) == (2, 3)


def timed(*starts: float, seconds: float = 0.5, reads: tuple[int | None, ...] = (None,)) -> Times | None:
    call = Call("clip_grad_norm_", 1.0, 2.0, (1,), (), seconds=seconds)
    called = [event("C", 1, call=call._replace(reads=count)) for count in reads]
    begun = [event("<", optimizer=7, time=start) for start in starts]
    return figures.times(SGD, [Step(SGD, "", [*begun, event("<", optimizer=8, time=99.0), *called])])


def test_times_of_a_step() -> None:
    assert timed(1.0, 3.0, 5.0, 17.0) == Times(2.0, 0.5 / 4, None, None)
    assert timed(1.0, 3.0, reads=(2, None, 4)) == Times(2.0, 0.5 * 3 / 2, 4, None)
    assert timed(1.0) is None
    assert timed(1.0, 2.0, reads=()) is None


# --- what a function is called with -----------------------------------------------------------------------------------------------


def called(name: str = "clip_grad_norm_", is_spent: bool = False, **arguments: Any) -> tuple[Call, list[Any]]:
    return calls.called(name, arguments, is_spent)


def test_the_limit_and_order_of_a_call() -> None:
    weight = torch.nn.Parameter(torch.ones(2))
    assert called(parameters=[weight], max_norm=0.5)[0] == Call("clip_grad_norm_", 0.5, 2.0, (id(weight),), ())
    assert called(parameters=[weight], clip_value=1, norm_type=3.0)[0][1:3] == (1, 3.0)
    limit = torch.tensor(2.0)
    assert called(parameters=weight, max_norm=limit)[0].limit is limit
    assert called(parameters=weight)[0].limit == called(parameters=weight, max_norm=None)[0].limit == math.inf
    assert math.isnan(called(parameters=weight, max_norm="1.0")[0].limit)


def test_the_tensors_of_a_call() -> None:
    layer = torch.nn.Linear(2, 1)
    every = [layer.weight, layer.bias]
    for given in (layer, every, tuple(every), dict.fromkeys(every, 1)):
        assert list(map(id, called(parameters=given)[1])) == list(map(id, every))
    assert called(parameters=layer.weight)[1] == [layer.weight]
    assert called(parameters=[None, layer.bias, "x"])[1] == [layer.bias]
    assert called(parameters=None)[1] == called()[1] == []


def test_oddities_of_a_call() -> None:
    leaf, plain = torch.ones(2, requires_grad=True), torch.ones(2)
    assert called(parameters=[leaf], is_spent=True)[0].oddities == ("spent",)
    assert called(parameters=[plain])[0].oddities == called(parameters=[leaf * 2])[0].oddities == ("no parameters",)
    assert called(parameters=[])[0].oddities == called(parameters=[plain, leaf])[0].oddities == ()
    frozen = torch.nn.Parameter(torch.ones(2), requires_grad=False)
    plain.grad = torch.ones(2)
    assert called(parameters=[plain])[0].oddities == called(parameters=[frozen])[0].oddities == ()


@pytest.mark.parametrize(
    ("made", "spent", "left"),
    [
        (lambda: [1, 2], False, [1, 2]),
        (lambda: (n for n in (1, 2)), False, [1, 2]),
        (lambda: iter([1, 2]), False, [1, 2]),
        (lambda: iter(()), True, []),
        (lambda: (n for n in ()), False, []),  # it is empty, and was not read
        (lambda: exhausted(n for n in (1, 2)), True, []),
        (lambda: None, False, None),
    ],
)
def test_whether_an_iterator_was_read_before(made: Any, spent: bool, left: Any) -> None:
    bound = inspect.signature(lambda parameters, max_norm=1.0: None).bind(made())
    assert calls.is_spent(bound) is spent
    there = bound.arguments["parameters"]
    assert (there if left is None else list(there)) == left


def exhausted(iterator: Any) -> Any:
    list(iterator)
    return iterator


def test_reads_by_the_host() -> None:
    one = torch.tensor([1.0])
    with calls.Reads([one]) as reads:
        one.item(), one.tolist(), one.numpy(), one.cpu(), bool(one), float(one), int(one)
        one + 1, one.norm()
    assert reads.count == 7
    with calls.Reads([torch.empty(1, device="meta")]) as reads:
        one.item()
    assert reads.count == 0


# --- gradients at a moment ----------------------------------------------------------------------------------------------------------


def with_gradients(*sizes: int) -> list[Any]:
    made = [torch.nn.Parameter(torch.ones(size)) for size in sizes]
    for parameter in made:
        parameter.grad = torch.full_like(parameter, 2.0)
    return made


def test_marks_change_with_whatever_is_written() -> None:
    first, second, third = every = with_gradients(1, 2, 3)
    third.grad = None
    before = gradients.versions(every)
    assert before.keys() == {id(first), id(second)}
    assert gradients.versions(every) == before
    first.grad.mul_(2)
    second.grad = second.grad * 2
    after = gradients.versions(every)
    assert [before[id(one)] != after[id(one)] for one in (first, second)] == [True, True]
    assert gradients.versions([first * 2]) == {}


def test_norms_of_the_smallest_gradients() -> None:
    every = with_gradients(*range(12, 0, -1))
    every[-1].grad = None
    every[-2].grad = every[-2].grad.to_sparse()
    found = gradients.probe(every)
    assert list(found) == [id(one) for one in every[-3:-9:-1]]
    assert [float(norm) for norm in found.values()] == pytest.approx([2 * n**0.5 for n in range(3, 9)])
    assert gradients.probe([]) == {}


def test_tensors_that_are_gradients_of_parameters() -> None:
    first, second = with_gradients(2, 3)
    bare = torch.nn.Parameter(torch.ones(2))
    every = [first, second, bare]
    assert gradients.holders([first.grad], every) == {id(first)}
    assert gradients.holders([second.grad.view(-1), torch.ones(3)], every) == {id(second)}
    assert gradients.holders([torch.ones(2)], every) == frozenset()
    assert gradients.fits(torch.ones(5), every) == {id(first), id(second)}
    assert gradients.fits(torch.ones(4), every) == frozenset()


def test_numbers_in_the_place_of_tensors() -> None:
    assert gradients.numbers([torch.tensor(2.0), {"a": torch.tensor(3.0)}, 1, None]) == [2.0, {"a": 3.0}, 1, None]


def test_the_longest_name_of_a_parameter() -> None:
    model = torch.nn.ModuleDict({"body": torch.nn.Linear(1, 1)})
    assert gradients.names()[id(model["body"].weight)] == "body.weight"


# --- ranks ------------------------------------------------------------------------------------------------------------------------------


def test_norms_of_whole_gradients() -> None:
    seen = log(event("C", 1, norm=3.0, parts=2), event("C", 2, norm=1.0), event("s", 1, norm=6.0, parts=2))
    parts = {0: {"parts": [3.0, 6.0]}, 1: {"parts": [4.0, 8.0]}}
    assert [(one.norm, one.parts) for one in ranks.joined(seen, parts).events] == [(5.0, 1), (1.0, 1), (10.0, 1)]
    assert ranks.joined(seen, {0: {"parts": [3.0, 6.0]}, 1: {"parts": [4.0]}}) is seen
    third = {**parts, 2: {"parts": [0.0, 0.0]}}  # over which they are not spread
    assert [one.norm for one in ranks.joined(seen, third).events] == [3.0, 1.0, 6.0]
    unknown = {0: {"parts": [None, 6.0]}, 1: {"parts": [None, None]}}
    assert [one.norm for one in ranks.joined(seen, unknown).events] == [None, 1.0, 6.0]


def test_what_other_ranks_want_to_know() -> None:
    seen = log(clip(1, norm=3.0), clip(1, norm=2.0, parts=2), event("M", 1), step(1, parts=2, weights=(4.0,)), step(2))
    assert ranks.summary(seen) == {
        "clips": [[str(LINE), 1.0, 3.0], [str(LINE), 1.0, None]],
        "parts": [2.0, 1.0],
        "weights": [(4.0,)],
    }


# --- where a call comes from ----------------------------------------------------------------------------------------------------------

OWN, PACKAGES = "/home/me/train.py", sysconfig.get_path("purelib")
TORCH = str(Path(torch.__file__).parent / "nn" / "utils" / "clip_grad.py")
CLIPCHECK = str(Path(sites.__file__))


def library(line: int, function: str = "fit", name: str = "trainers/loop.py") -> tuple[str, int, str]:
    return os.path.join(PACKAGES, *name.split("/")), line, function


@pytest.mark.parametrize(
    ("frames", "site"),
    [
        ([], NOWHERE),
        ([(CLIPCHECK, 1, "here"), (TORCH, 2, "clip")], NOWHERE),
        ([(TORCH, 2, "clip"), (OWN, 9, "main")], Site(OWN, 9, "main")),
        ([(OWN, 9, "inner"), (OWN, 5, "main")], Site(OWN, 9, "inner")),
        ([(TORCH, 2, "clip"), library(5), (OWN, 9, "main")], Site(OWN, 9, "main", "trainers/loop.py:5")),
        ([library(5), library(6, name="other.py"), (OWN, 9, "main")], Site(OWN, 9, "main", "trainers/loop.py:5")),
        ([(OWN, 9, "training_step"), library(20), (OWN, 3, "main")], Site(OWN, 9, "training_step", "", "trainers/loop.py:20 training_step")),
        ([library(5), (OWN, 9, "inner"), (OWN, 8, "hook"), library(20), (OWN, 3, "main")], Site(OWN, 9, "inner", "trainers/loop.py:5", "trainers/loop.py:20 hook")),
        ([(OWN, 9, "hook"), library(20), library(21, name="other.py")], Site(OWN, 9, "hook", "", "trainers/loop.py:20 hook")),
        ([(OWN, 9, "hook"), (TORCH, 2, "step"), (OWN, 3, "main")], Site(OWN, 9, "hook")),  # torch is no framework
        ([(OWN, 9, "main"), ("<frozen runpy>", 88, "_run_code"), (CLIPCHECK, 3, "main")], Site(OWN, 9, "main")),
        ([library(5), library(6)], Site(*library(5))),
    ],
)  # fmt: skip
def test_the_line_that_calls(frames: list[tuple[str, int, str]], site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    stack = [
        (SimpleNamespace(f_code=SimpleNamespace(co_filename=file, co_name=name)), line) for file, line, name in frames
    ]
    monkeypatch.setattr(sites, "walk_stack", lambda frame: iter(stack))
    assert sites.here() == site


def test_a_site_is_shown_relative_to_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert str(Site(str(tmp_path / "runs" / "a.py"), 3, "main")) == f"{Path('runs', 'a.py')}:3"
    elsewhere = Path("/elsewhere/a.py")
    assert (
        str(Site(str(elsewhere), 3, "main", "lib/b.py:4", "lib/c.py:5 hook")) == f"{elsewhere}:3 (through lib/b.py:4)"
    )


# --- the watch ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("function", [functools.partial(print), len, min])
def test_a_function_that_cannot_be_watched_is_named(function: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """As of another library that has put its own in the place of torch's."""
    monkeypatch.setattr("torch.nn.utils.clip_grad.clip_grad_value_", function)
    (trouble,) = Watch(1).begin().end().troubles
    assert trouble.startswith(f"calls of {function!r}: ")


def test_a_wrapper_of_an_optimizer_is_no_optimizer() -> None:
    class Wrapper(torch.optim.Optimizer):
        def __init__(self, inner: torch.optim.Optimizer) -> None:
            self.inner = inner

        @property
        def param_groups(self) -> Any:
            return self.inner.param_groups

    inner = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.1)
    wrapper = Wrapper(inner)
    seen = Watch(1).begin().end()
    keys = [optimizer.key for optimizer in seen.optimizers]
    assert id(inner) in keys and id(wrapper) not in keys


def test_what_is_known_of_an_optimizer() -> None:
    weight = torch.nn.Parameter(torch.ones(2, 3, dtype=torch.float16))
    other = torch.nn.Parameter(torch.ones(4))
    groups = [{"params": [weight], "clip_value": 0.0, "max_grad_norm": 2.0}, {"params": [other], "clip": 3.0}]
    optimizer = torch.optim.SGD(groups, lr=0.1)
    optimizer.defaults |= {"clipping": True, "clip_off": False, "lr": 1.0}
    found = watch._described(optimizer, LINE, {id(weight): "layer.weight"})
    assert (found.key, found.name, found.site) == (id(optimizer), "SGD", LINE)
    assert found.parameters == {id(weight): "layer.weight", id(other): "?"}
    cpu = torch.device("cpu")
    assert found.shapes == [((2, 3), torch.float16, cpu), ((4,), torch.float32, cpu)]
    assert found.asks == ["clipping=True", "max_grad_norm=2.0"]  # of its first group


def test_what_a_call_and_an_event_are_before_more_is_known() -> None:
    call, seen = Call("clip_grad_norm_", 1.0, 2.0, (), ()), Event("B", frozenset())
    assert (call.error, call.seconds, call.reads) == ("", 0.0, None)
    assert (seen.site, seen.optimizer, seen.call, seen.probe, seen.norm) == (NOWHERE, 0, None, None, None)
    assert (seen.parts, seen.time, seen.weights, seen.in_closure) == (1, 0.0, (), False)


def test_a_number_that_a_failed_device_cannot_give_is_nan(monkeypatch: pytest.MonkeyPatch) -> None:
    assert math.isnan(gradients.numbers(torch.empty((), device="meta")))


def test_a_tensor_without_memory_is_itself() -> None:
    class Own(torch.Tensor):
        def data_ptr(self) -> int:
            raise RuntimeError("it has no memory of its own")

    made = torch.ones(1).as_subclass(Own)
    empty = torch.ones(0)
    assert gradients._address(made) == id(made) and gradients._address(empty) == id(empty)
    parameter = torch.nn.Parameter(torch.ones(1))
    parameter.grad = torch.ones(1)
    assert gradients.holders([made], [parameter]) == frozenset()


@pytest.mark.parametrize(("sharding", "oddities"), [("FULL_SHARD", ("shards",)), ("NO_SHARD", ())])
def test_only_flattened_parameters_are_shards(
    sharding: str, oddities: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a sharded model is there, of which other parameters are no part."""
    pytest.importorskip("torch.distributed.fsdp")
    model = SimpleNamespace(sharding_strategy=SimpleNamespace(name=sharding))
    monkeypatch.setattr(gradients, "living", lambda kind: [model])
    calls._shards_models.cache_clear()
    layer = torch.nn.Linear(2, 1)
    assert called(parameters=[*layer.parameters()])[0].oddities == ()
    layer.bias._fsdp_flattened = True  # type: ignore[assignment]
    assert called(parameters=[*layer.parameters()])[0].oddities == oddities
    assert called(parameters=layer)[0].oddities == ()  # which FSDP1 itself is asked for
    calls._shards_models.cache_clear()


def test_the_share_of_steps_that_were_clipped() -> None:
    assert Norms([], [], [], 0).clipped == Norms([3.0], [3.0], [math.inf], 0).clipped == 0.0
    assert Norms([3.0, 0.5, 9.0], [1.0, 0.5, 9.0], [1.0, 1.0, math.inf], 0).clipped == 0.5
    assert Norms([1.0], [1.0], [1.0], 0).clipped == 0.0  # at the limit
    assert math.isnan(Norms([], [], [], 0).at(0.5)) and math.isnan(Norms([math.inf], [], [], 0).at(0.5))
    assert [Norms([4.0, math.nan, 2.0, 3.0, 1.0], [], [], 0).at(share) for share in (0.0, 0.25, 0.5, 0.51, 1.0)] == [
        *(1.0, 1.0, 2.0, 3.0, 4.0),
    ]


def test_torch_and_the_runtime_are_tried_on_made_up_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def interleaved(timed: Any, device: Any, reset: Any, rounds: int, only_wall: bool) -> Any:
        asked.append((device, reset(), rounds, only_wall))
        norms = {name: call().item() for name, call in timed.items()}
        assert 0 < norms["torch"] < 0.1  # of gradients as small as those of a training
        return {"torch": SimpleNamespace(wall=4.0), "clipcheck": SimpleNamespace(wall=1.0)}

    monkeypatch.setattr("clipcheck.bench.measure.interleaved", interleaved)
    cpu = torch.device("cpu")
    shapes: list[Any] = [((3, 2), torch.float32, cpu), ((), torch.bfloat16, cpu)]
    assert figures.tried(SGD._replace(shapes=shapes)) == {"torch": 0.004, "clipcheck": 0.001}
    assert asked == [(cpu, None, 11, True)]
    assert figures.tried(SGD._replace(shapes=[])) is None
    fits: Any = [((figures.MOST // 8,), torch.float32, cpu)]
    monkeypatch.setattr(figures, "Parameter", lambda tensor: 1 / 0)
    monkeypatch.setattr(torch, "empty", lambda *_, **__: None)
    with pytest.raises(ZeroDivisionError):
        figures.tried(SGD._replace(shapes=fits))
    assert figures.tried(SGD._replace(shapes=[*fits, *shapes])) is None  # they would not fit


def test_what_cannot_be_made_up_is_not_tried() -> None:
    integers: list[Any] = [((3,), torch.int64, torch.device("cpu"))]
    assert figures.tried(SGD._replace(shapes=integers)) is None


@pytest.mark.parametrize(("count", "code"), [(3, "CLIP102"), (4, "CLIP103"), (6, "CLIP103")])
def test_a_clip_before_the_training_is_one_among_several_steps(count: int, code: str) -> None:
    training = [one for _ in range(count - 1) for one in (event("B", 1, 2), step(1, 2))]
    seen = log(clip(1, 2, site=OTHER_LINE), *training)
    found = list(steps(seen, SGD))
    assert len(found) == count
    first, *rest = findings.of_steps(seen, found, ())
    assert [(fault.code, one.site) for fault, one in first] == [(code, OTHER_LINE)]
    assert [*rest] == [[]] * (count - 1)


def codes(*events: Event, used: tuple[Event, ...] = ()) -> list[str]:
    """The codes of the faults of all steps, in their order."""
    seen = log(*events)
    found = findings.of_steps(seen, list(steps(seen, SGD)), {id(one) for one in used})
    return [fault.code or fault.says for of in found for fault, _ in of]


def test_whose_events_a_step_is_judged_by() -> None:
    backward, end = event("B", 1, 2), step(1, 2)
    foreign = clip(3)
    assert codes(backward, foreign, end) == ["CLIP117"]
    assert codes(backward, foreign, end, used=(foreign,)) == []  # another optimizer's step uses them
    assert codes(backward, clip(1, 2), foreign, end) == []  # beside one of its own
    assert codes(backward, event("M", 3, call=Call("get_total_norm", math.inf, 2.0, (3,), ())), end) == []
    assert codes(backward, clip(), end) == []  # of nothing
    assert codes(backward, clip(1, 2, site=NOWHERE, limit=0.0), end) == []  # not of the user's code
    assert codes(backward, clip(1, 2, limit=0.0), end) == ["CLIP201"]
    assert codes(backward, event("<", optimizer=7), clip(1, 2, limit=0.0), end) == []  # in its own step
    late = clip(1, 2)
    assert codes(backward, end, late, backward, step(1, 2)) == ["CLIP101"]
    assert codes(backward, end, late, backward, clip(1, 2), step(1, 2)) == []  # whose gradients are clipped
    assert codes(backward, end, late, backward, clip(1), step(1, 2)) == ["CLIP101"]
