"""Which event of the training step can follow which, through loops, branches, errors and called functions.

In the programs, `B` runs backward, `C` clips, `S` steps and `Z` zeroes the gradients. The expected result is a list of
pairs: `B>C` means that the next event after a backward can be a clip.
"""

from __future__ import annotations

import itertools
import re
import textwrap

import libcst as cst
import pytest

from clipcheck.python.source import Source
from clipcheck.training.acts import EventKind
from clipcheck.training.flows import Event, Flow, flow, flows

IMPORTS = "import torch\nfrom torch.nn.utils import clip_grad_norm_\n"
CALLS = {
    "B": "loss.backward()",
    "C": "clip_grad_norm_(model.parameters(), 1.0)",
    "S": "optimizer.step()",
    "Z": "optimizer.zero_grad()",
}
KINDS = {EventKind.BACKWARD: "B", EventKind.CLIP: "C", EventKind.STEP: "S", EventKind.ZERO_GRAD: "Z"}
NAMES = {**KINDS, EventKind.START: "start", EventKind.END: "end", EventKind.UNKNOWN: "?"}


def program(text: str) -> Source:
    return Source(IMPORTS + re.sub(r"\b[BCSZ]\b", lambda found: CALLS[found[0]], textwrap.dedent(text)))


def flow_of(source: Source, name: str = "f") -> Flow:
    return flow(source, next(node for node in source.nodes(cst.FunctionDef) if node.name.value == name))


def ways(found: Flow) -> set[str]:
    """All pairs of events that can follow each other; both directions must agree."""
    events = found.of(*KINDS)
    forward = {(e, other) for e in (found.start, *events) for other in e.first_after(*KINDS)}
    backward = {(other, e) for e in (*events, found.end) for other in e.first_before(*KINDS)}
    ends = (EventKind.START, EventKind.END)
    assert {(a, b) for a, b in forward if b.kind not in ends and a.kind not in ends} == {
        (a, b) for a, b in backward if b.kind not in ends and a.kind not in ends
    }
    pairs = forward | backward
    return {f"{NAMES[a.kind]}>{NAMES[b.kind]}" for a, b in pairs if a.kind in NAMES and b.kind in NAMES}


def of(body: str) -> set[str]:
    return ways(
        flow_of(program("def f(model, optimizer, loss, xs):\n" + textwrap.indent(textwrap.dedent(body), "    ")))
    )


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("B\nC\nS", "start>B B>C C>S S>end"),
        ("B; C; S", "start>B B>C C>S S>end"),
        ("pass", "start>end"),
        # branches
        ("B\nif x:\n    C\nS", "start>B B>C B>S C>S S>end"),
        ("B\nif x:\n    C\nelse:\n    Z\nS", "start>B B>C B>Z C>S Z>S S>end"),
        ("if x:\n    B\nelif y:\n    C\nelse:\n    Z\nS", "start>B start>C start>Z B>S C>S Z>S S>end"),
        ("if x:\n    B\nelif y:\n    C\nS", "start>B start>C start>S B>S C>S S>end"),
        ("B\nif C > 1:\n    S", "start>B B>C C>S C>end S>end"),
        ("match x:\n    case 1:\n        B\n    case 2:\n        C\nS", "start>B start>C start>S B>S C>S S>end"),
        ("match x:\n    case 1:\n        B\n    case _:\n        C\nS", "start>B start>C B>S C>S S>end"),
        ("match x:\n    case 1:\n        B\n    case _ if y:\n        C\nS", "start>B start>C start>S B>S C>S S>end"),
        ("match x:\n    case 1:\n        B\n    case [_]:\n        C\nS", "start>B start>C start>S B>S C>S S>end"),
        ("match B:\n    case 1:\n        C", "start>B B>C B>end C>end"),
        # exits
        ("B\nif x:\n    return\nC", "start>B B>C B>end C>end"),
        ("B\nif x:\n    return C\nS", "start>B B>C B>S C>end S>end"),
        ("B\nif x:\n    raise E\nC", "start>B B>C C>end"),
        ("B\nreturn\nC", "start>B B>end"),
        ("B\nraise E\nC", "start>B"),
        # loops
        ("for x in xs:\n    B\n    S\nC", "start>B start>C B>S S>B S>C C>end"),
        ("while x:\n    B\n    S\nC", "start>B start>C B>S S>B S>C C>end"),
        ("while True:\n    B\n    S\nC", "start>B B>S S>B"),
        ("while True:\n    B\n    if x:\n        break\n    S\nC", "start>B B>S S>B B>C C>end"),
        ("while x:\n    B\n    if x:\n        break\n    S\nC", "start>B start>C B>S S>B B>C S>C C>end"),
        ("for x in xs:\n    B\n    if x:\n        continue\n    S\nC", "start>B start>C B>B B>S S>B B>C S>C C>end"),
        ("for x in xs:\n    B\n    if x:\n        return\n    S\nC", "start>B start>C B>S S>B B>end S>C C>end"),
        ("for x in xs:\n    B\nelse:\n    C\nS", "start>B start>C B>B B>C C>S S>end"),
        ("for x in xs:\n    B\n    break\nelse:\n    C\nS", "start>B start>C B>S C>S S>end"),
        ("for x in xs:\n    for y in x:\n        B\n    S\nC", "start>B start>S start>C B>B B>S S>B S>S S>C C>end"),
        ("for x in xs:\n    for y in x:\n        B\n        break\n    S", "start>B start>S start>end B>S S>B S>S S>end"),
        ("for x in B:\n    S", "start>B B>S S>S B>end S>end"),
        ("while B:\n    S", "start>B B>S S>B B>end"),
        # blocks
        ("with x:\n    B\nC", "start>B B>C C>end"),
        ("with B:\n    C\nS", "start>B B>C C>S S>end"),
        ("with B as a, C as b:\n    S", "start>B B>C C>S S>end"),
        ("try:\n    B\n    C\nexcept E:\n    Z\nS", "start>B B>C C>S start>Z B>Z C>Z Z>S S>end"),
        ("try:\n    B\nexcept E:\n    C\nexcept F:\n    Z\nS", "start>B B>S start>C B>C start>Z B>Z C>S Z>S S>end"),
        ("try:\n    B\nexcept E:\n    pass\nelse:\n    C\nS", "start>B B>C C>S B>S start>S S>end"),
        ("try:\n    B\nexcept* E:\n    C", "start>B B>C start>C B>end C>end"),
        # nested functions that are only defined do not run
        ("def g():\n    B\nC", "start>C C>end"),
        ("class A:\n    def g(self):\n        B\nC", "start>C C>end"),
        ("g = lambda: B\nC", "start>C C>end"),
        # the arguments of a call come before the call
        ("print(B, C)\nS", "start>B B>C C>S S>end"),
        ("optimizer.step(C)\n", "start>C C>S S>end"),
    ],
)  # fmt: skip
def test_the_order_of_events(body: str, expected: str) -> None:
    assert of(body) == set(expected.split())


def test_a_finally_block_follows_the_body_and_its_handlers() -> None:
    assert {"B>S", "S>C"} <= of("try:\n    B\nfinally:\n    S\nC")
    assert {"B>Z", "B>S", "Z>S", "S>C"} <= of("try:\n    B\nexcept E:\n    Z\nfinally:\n    S\nC")
    assert {"B>S", "S>end"} <= of("try:\n    B\n    return\nfinally:\n    S")


# --- functions that are called ----------------------------------------------------------------------------------------


def chain(length: int) -> str:
    """`f` calls `g1`, which calls `g2`, and so on; the last one clips."""
    names = ["f", *(f"g{i}" for i in range(1, length + 1))]
    calls = [f"def {one}(model):\n    {other}(model)\n" for one, other in itertools.pairwise(names)]
    return "".join([*calls, f"def {names[-1]}(model):\n    C\n"])


def test_calls_are_followed_three_functions_deep() -> None:
    for depth in (1, 2, 3):
        source = program(chain(depth))
        found = flow_of(source)
        assert ways(found) == {"start>C", "C>end"}
        assert found in list(flows(source, EventKind.CLIP))
    source = program(chain(4))
    assert not flow_of(source).of(EventKind.CLIP)
    assert [one.function.name.value for one in flows(source, EventKind.CLIP)] == ["g1", "g2", "g3", "g4"]  # type: ignore[union-attr]


def clips(text: str) -> list[Event]:
    return flow_of(program(text)).of(EventKind.CLIP)


@pytest.mark.parametrize(
    "text",
    [
        "def f(model):\n    g(model)\ndef g(model):\n    C\n    yield 1",  # does not run when it is called
        "def f(model):\n    g(model)\ndef g(model):\n    yield from C",
        "def f(model):\n    g(model)\ndef g(model):\n    C\ndef g(model):\n    C",  # which of them?
        "def f(model, g):\n    g(model)\ndef g(model):\n    C",  # another one
        "def f(model):\n    model.g()\ndef g(model):\n    C",
        "class A:\n    def f(self):\n        other.g()\n    def g(self):\n        C",
        "class A:\n    def f(self):\n        self.g()\nclass B2:\n    def g(self):\n        C",
        "class A:\n    def f(self):\n        self.g()\n    def g(self):\n        C\n    g = None",
        "def f(self):\n    self.g()\ndef g(self):\n    C",
        "def f(model):\n    h(g)\ndef g(model):\n    C",
        "def f(model):\n    g\ndef g(model):\n    C",
    ],
)
def test_a_call_that_may_run_something_else_is_not_followed(text: str) -> None:
    assert clips(text) == []


@pytest.mark.parametrize(
    "text",
    [
        "def f(model):\n    g(model)\ndef g(model):\n    C",
        "def f(model):\n    def g():\n        C\n    g()",
        "class A:\n    def f(self):\n        self.g()\n    def g(self):\n        C",
        "def f(model):\n    x = [g(model)]\ndef g(model):\n    if x:\n        C",
        "def f(model, optimizer):\n    def g():\n        C\n    optimizer.step(g)",
        "def f(model, optimizer):\n    def g():\n        C\n    optimizer.step(closure=g)",
    ],
)
def test_a_call_of_a_function_of_the_file_is_followed(text: str) -> None:
    (event,) = clips(text)
    assert event.is_called
    assert event.at is not event.node


def test_an_event_of_a_called_function_happens_at_the_call() -> None:
    source = program("def f(model):\n    g(model)\ndef g(model):\n    h(model)\ndef h(model):\n    C\n")
    (event,) = flow_of(source).events
    assert source.code(event.at) == "g(model)"
    assert source.code(event.node) == CALLS["C"]
    (own,) = flow_of(source, "h").events
    assert own.at is own.node
    assert not own.is_called


def test_a_function_called_backward_runs_backward_once() -> None:
    text = "class A:\n    def f(self, loss, model):\n        self.backward(loss)\n        C\n    def backward(self, loss):\n        {}\n"
    (inner,) = flow_of(program(text.format("B"))).of(EventKind.BACKWARD)
    assert inner.is_called
    (call,) = flow_of(program(text.format("print(loss)"))).of(EventKind.BACKWARD)
    assert not call.is_called


def test_paths_through_a_called_function_are_not_mixed() -> None:
    text = "def f(model, loss, optimizer):\n    B\n    g(model, optimizer)\n    Z\ndef g(model, optimizer):\n    if x:\n        return\n    C\n    S\n"
    assert ways(flow_of(program(text))) == {"start>B", "B>C", "C>S", "S>Z", "B>Z", "Z>end"}


def test_a_recursive_function_terminates() -> None:
    text = "def f(model, loss):\n    B\n    f(model, loss)\n    g(model)\ndef g(model):\n    C\n    g(model)\n"
    found = flow_of(program(text))
    assert {"start>B", "B>C", "C>end"} <= ways(found)
    # the effect of running it again is unknown
    assert [event.kind for event in found.events].count(EventKind.UNKNOWN) == 2


def test_the_top_level_of_a_module_has_its_own_flow() -> None:
    source = program("for x in xs:\n    B\n    C\n    S\ndef g(model):\n    C\n")
    assert ways(flow(source, source.module)) == {"start>B", "start>end", "B>C", "C>S", "S>B", "S>end"}
    assert [one.function for one in flows(source, EventKind.BACKWARD)] == [source.module]
    assert len(list(flows(source, EventKind.CLIP))) == 2
    assert list(flows(source, EventKind.ZERO_GRAD)) == []


# --- tests with the same outcome --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("if x:\n    B\nif x:\n    C", "start>B start>end B>C C>end"),
        ("if x:\n    B\nif not x:\n    C", "start>B start>C B>end C>end"),
        ("if x:\n    B\nelse:\n    Z\nif x:\n    C\nelse:\n    S", "start>B start>Z B>C Z>S C>end S>end"),
        ("if x:\n    B\nif y:\n    C", "start>B start>C start>end B>C B>end C>end"),
    ],
)
def test_a_test_has_the_same_outcome_until_something_changes_it(body: str, expected: str) -> None:
    found = of(body)
    # a way around both is only ruled out from an event on
    assert found - {"start>C", "start>end", "start>S", "B>end", "Z>end"} == set(expected.split()) - {
        "start>C", "start>end", "start>S", "B>end", "Z>end",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("call", "subject"),
    [
        ("model.clip_grad_norm_(limit)", None),  # a method of what is clipped
        ("model.clip_grad_norm_(1.0, 2.0)", None),
        ("self.clip_grad_norm_(ps, limit)", "ps"),
        ("self.clip_grad_norm_(model.parameters(), 1.0)", "model.parameters()"),
        ("clip_grad_norm_(ps)", "ps"),
        ("torch.nn.utils.clip_grad_value_(model.parameters(), 1.0)", "model.parameters()"),
        ("accelerator.clip_grad_norm_(ps, 1.0)", "ps"),
        ("fabric.clip_gradients(model, opt)", "model"),
    ],
)
def test_what_a_clip_acts_on(call: str, subject: str | None) -> None:
    source = program(f"def f(self, model, ps, limit, accelerator, fabric, opt):\n    {call}\n")
    (event,) = flow_of(source).events
    assert event.kind is EventKind.CLIP
    assert (None if event.subject is None else source.code(event.subject)) == subject


@pytest.mark.parametrize(
    "word", "backward step optimize train unscale closure fit learn backprop clip accumulate".split()
)
def test_a_training_function_that_receives_the_optimizer_may_do_anything(word: str) -> None:
    for call in (f"{word}_all(optimizer)", f"helper.{word}_it(model)"):
        found = flow_of(program(f"def f(model, optimizer, helper):\n    {call}\n")).events
        assert [event.kind for event in found] == [EventKind.UNKNOWN], call


@pytest.mark.parametrize("call", ["log(optimizer)", "helper.show(model)", "save_training_state(optimizer)"])
def test_a_function_without_gradients_or_arguments_does_nothing(call: str) -> None:
    assert flow_of(program(f"def f(model, optimizer, helper, x):\n    {call}\n")).events == []
