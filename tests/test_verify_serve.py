"""The worker from inside, without its defenses: its answers to each kind of request."""

from __future__ import annotations

import io
import json
import os
import sys
from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="needs the extra clipcheck[torch]")

from clipcheck.verify import serve as served  # noqa: E402
from clipcheck.verify import warm  # noqa: E402
from clipcheck.verify.claims import Answer, Outcome  # noqa: E402
from clipcheck.verify.importing import load  # noqa: E402
from clipcheck.verify.rehearse import rehearse  # noqa: E402
from clipcheck.verify.replay import COMPILERS, libraries, replay  # noqa: E402
from clipcheck.verify.seal import Refused  # noqa: E402


@pytest.fixture
def process(monkeypatch: pytest.MonkeyPatch) -> Any:
    """What `serve` would do to its process, as a log, and the lines of the input and of the output."""
    log: list[Any] = []
    answers = io.StringIO()
    own = SimpleNamespace(
        dup=lambda descriptor: descriptor,
        fdopen=lambda *given, **how: log.append(("answers", *given, how)) or answers,
        dup2=lambda _, target: log.append(("to nowhere", target)),
        devnull=os.devnull,
    )
    monkeypatch.setattr(served, "os", own)
    monkeypatch.setattr(served.seal, "confine", lambda readable: log.append(("confine", readable)))
    monkeypatch.setattr(served.seal, "watch", lambda readable, compilers: log.append(("watch", readable, compilers)))
    fault = SimpleNamespace(
        dump_traceback_later=lambda seconds, exit, file: log.append(("end in", seconds, exit)),
        cancel_dump_traceback_later=lambda: log.append("cancel"),
    )
    monkeypatch.setattr(served, "faulthandler", fault)
    monkeypatch.setattr(torch, "set_num_threads", lambda number: log.append(("threads", number)))

    def run(answer: Any, *requests: object, kind: str = "sites", compilers: Any = frozenset()) -> list[Any]:
        ready = lambda: log.append("warm") or (answer, compilers)  # noqa: E731
        monkeypatch.setattr(served, "_sites" if kind == "sites" else "_fixtures", ready)
        monkeypatch.setattr(served, "_requests", lambda: iter([json.dumps(request) for request in requests]))
        served.serve(kind, 7.5, ["/lib"])
        return [json.loads(line) for line in answers.getvalue().splitlines()]

    return SimpleNamespace(run=run, log=log)


OPENED = ("answers", 1, "w", {"encoding": "utf-8", "buffering": 1})


def echo(request: Any, at: Any) -> Any:
    at("a case")
    return [request]


@pytest.mark.parametrize("kind", ["sites", "fixtures"])
def test_a_worker_warms_up_before_it_is_sealed_and_is_sealed_before_it_reads(process: Any, kind: str) -> None:
    compilers = frozenset([echo.__code__])
    said = process.run(echo, {"x": 1}, 2, kind=kind, compilers=compilers)
    assert said == [{"ready": True}, {"at": "a case"}, {"result": [{"x": 1}]}, {"at": "a case"}, {"result": [2]}]
    turn = [("end in", 7.5, True), ("end in", 7.5, True), "cancel"]
    assert process.log == [
        OPENED,
        ("to nowhere", 1),
        ("threads", 1),
        "warm",
        ("confine", ["/lib"]),
        ("watch", ["/lib"], compilers),
        *turn,
        *turn,
    ]


def raising(error: BaseException) -> Any:
    def answer(request: Any, at: Any) -> Any:
        raise error

    return answer


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (Refused("open /x"), {"refused": "open /x"}),
        (ValueError("one line\nanother"), {"failed": "ValueError: one line"}),
        (KeyError(), {"failed": "KeyError: "}),
    ],
)
def test_a_worker_goes_on_after_an_error(process: Any, error: BaseException, said: dict[str, str]) -> None:
    assert process.run(raising(error), 1, 2) == [{"ready": True}, said, said]
    assert process.log.count("cancel") == 2


def test_a_worker_without_torch_says_so(process: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    (said,) = process.run(echo, 1)
    assert [*said] == ["missing"] and said["missing"].startswith("import of torch halted")
    assert process.log == [OPENED, ("to nowhere", 1)]


def test_requests_are_lines_until_the_input_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[int] = []
    monkeypatch.setattr(served, "os", SimpleNamespace(_exit=ended.append))
    monkeypatch.setattr(sys, "stdin", io.StringIO("1\n2\n"))
    requests = served._requests()
    assert [next(requests), next(requests)] == ["1\n", "2\n"]
    for _ in range(1000):
        if ended:
            break
        served.threading.Event().wait(0.01)
    assert ended == [0]


# --- what is asked of it --------------------------------------------------------------------------------------------------


def values(after: str) -> dict[str, Any]:
    """An experiment that compares 1 with the value of `after`."""
    sides = [
        [f"def site():\n    value__0 = {value}\n    return ('locals', bound__now())", {}] for value in ("1.0", after)
    ]
    return {"before": sides[0], "after": sides[1], "reference": sides[0], "roles": {}, "seeds": [], "kept": []}


def test_sites_are_asked_in_three_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    warmed: list[str] = []
    monkeypatch.setattr(warm, "sites", lambda: warmed.append("sites"))
    answer, compilers = served._sites()
    assert warmed == ["sites"]
    assert compilers == COMPILERS
    at: list[str] = []
    assert answer({"way": "values", "experiment": values("1.0")}, at.append) == Answer(30)
    assert at[:2] == ["gradients [3, 4], before", "gradients [3, 4], after"]
    assert answer({"way": "values", "experiment": values("2.0")}, at.append)[:3] == (1, (), "gradients [3, 4]")
    assert answer({"way": "training", "experiment": warm._training()}, at.append).refuted == ""
    imports = {"before": [warm._IMPORTS, {}], "after": [warm._IMPORTS, {}], "torch": True}
    assert answer({"way": "imports", "experiment": imports}, at.append) == Answer(3)
    with pytest.raises(KeyError):
        answer({"way": "other", "experiment": {}}, at.append)


def test_fixtures_are_asked_for_their_claims(monkeypatch: pytest.MonkeyPatch) -> None:
    warmed: list[str] = []
    monkeypatch.setattr(warm, "fixtures", lambda: warmed.append("fixtures"))
    answer, compilers = served._fixtures()
    assert (warmed, compilers) == (["fixtures"], frozenset())
    at: list[str] = []
    request = {"pair": ["x = 1", "def train(): pass"], "claim": "raises", "to_torch": False}
    assert answer(request, at.append) == Outcome(False, "the program defines no function `train`")
    assert at == ["the pair"]
    seen: list[Any] = []
    monkeypatch.setattr("clipcheck.verify.trial.judge", lambda *given: seen.append(given))
    answer, _ = served._fixtures()
    answer({"pair": ["a", "b"], "claim": "same", "to_torch": True}, at.append)
    ((claim, *given),) = seen
    assert (claim.kind, given) == ("same", ["a", "b", True])


# --- the warm-up ----------------------------------------------------------------------------------------------------------


def test_the_warm_up_is_made_of_experiments_that_run() -> None:
    for experiment in warm._SITES:
        found = replay(experiment, lambda case: None)
        assert found.refuted == "" and found.cases > 25
    found = rehearse(warm._training(), lambda setting: None)
    assert (found.refuted, found.cases) == ("", 5)
    assert load(
        {"before": [warm._IMPORTS, {}], "after": [warm._IMPORTS, {}], "torch": True}, lambda case: None
    ) == Answer(3)


def test_the_warm_up_calls_all_that_is_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    ran: list[str] = []

    def noted(value: Any) -> None:
        seen.append(value)
        raise RuntimeError("wrongly called")

    monkeypatch.setattr(warm, "libraries", lambda: {"torch.norm": noted})
    monkeypatch.setattr(warm, "METHODS", {"detach": frozenset(), "missing": frozenset()})
    monkeypatch.setattr(warm, "replay", lambda experiment, at: ran.append("replay"))
    monkeypatch.setattr(warm, "rehearse", lambda experiment, at: ran.append("rehearse"))
    monkeypatch.setattr(warm, "load", lambda experiment, at: ran.append("load"))
    calls: list[Any] = []
    real = warm._call
    monkeypatch.setattr(warm, "_call", lambda function, *given: calls.append(function) or real(function, *given))
    warm.sites()
    assert [type(value) for value in seen] == [torch.Tensor, torch.Tensor, int, list, type(None)]
    assert [value.requires_grad for value in seen[:2]] == [True, False]
    assert ran == ["replay", "replay", "rehearse", "load"]
    assert calls.count(repr) == 5
    assert sum(getattr(call, "__name__", "") == "detach" for call in calls) == 5 + 2  # of a tensor, and of each value


def test_the_warm_up_of_fixtures_is_a_training(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(warm, "judge", lambda *given: asked.append(given))
    warm.fixtures()
    ((claim, before, after),) = asked
    assert claim.kind == "same" and before == after
    from clipcheck.verify.harness import Setting, run
    from clipcheck.verify.harness import load as loaded

    trace = run(loaded(before, "warm"), Setting(0, "SGD", torch.float32, 1.0))
    assert trace.raised is None and len(trace.steps) == len(trace.records) == 8


def test_what_is_listed_is_found() -> None:
    found = libraries()
    assert found["torch.norm"] is torch.norm
    assert found["builtins.abs"] is abs
    assert "torch._six.inf" not in found
