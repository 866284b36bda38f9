"""What surrounds a place: its loops, its branches, the guard that counts micro-batches, and the guarded step."""

from __future__ import annotations

import textwrap

import libcst as cst
import pytest

from clipcheck.python.source import Source
from clipcheck.training.acts import EventKind
from clipcheck.training.flows import Event, flow
from clipcheck.training.guards import branches, conditions, exclusive, is_conditional, is_on_cpu, loops
from clipcheck.training.known_tests import facts
from clipcheck.training.microbatches import guarded_step


def calls(source: Source, name: str) -> list[cst.Call]:
    """The calls of a function, in source order."""
    return [c for c in source.nodes(cst.Call) if isinstance(c.func, cst.Name) and c.func.value == name]


def here(text: str) -> tuple[Source, cst.Call]:
    """A program and its one call `here()`."""
    source = Source(textwrap.dedent(text))
    (call,) = calls(source, "here")
    return source, call


# --- loops and branches -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("here()", False),
        ("if p.is_cuda:\n    here()", False),
        ("if not p.is_cuda:\n    here()", True),
        ("if p.is_cpu:\n    here()", True),
        ("if not p.is_cpu:\n    here()", False),
        ("if p.is_cuda:\n    clip(p)\nelse:\n    here()", True),
        ("def f():\n    if p.is_cuda:\n        return clip(p)\n    here()", True),
        ("def f():\n    if p.is_cuda:\n        clip(p)\n    here()", False),
        ("if p.grad is not None and not p.is_cuda:\n    here()", True),
        ("if p.grad is not None or not p.is_cuda:\n    here()", False),
        ("if p.is_cuda or fast:\n    pass\nelse:\n    here()", True),
        ("if p.is_cuda and fast:\n    pass\nelse:\n    here()", False),
        ("if p.device.type == 'cpu':\n    here()", True),
        ("if p.device.type != 'cpu':\n    here()", False),
        ("if p.device.type != 'cpu':\n    pass\nelse:\n    here()", True),
        ("if p.device.type == 'cpu':\n    pass\nelse:\n    here()", False),
        ("if p.device.type == 'cuda':\n    here()", False),
        ("if p.dtype.type == 'cpu':\n    here()", False),
    ],
)
def test_what_runs_only_for_tensors_on_the_cpu(text: str, expected: bool) -> None:
    assert is_on_cpu(*here(text)) is expected


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("here()", []),
        ("for x in y:\n    pass\nhere()", []),
        ("for x in here():\n    pass", []),
        ("for x in y:\n    pass\nelse:\n    here()", []),
        ("for x in y:\n    def f():\n        here()", []),
        ("for x in y:\n    f = lambda: here()", []),
        ("for x in y:\n    class A:\n        here()", []),
        ("x = [here() for x in y]", []),
        ("for x in y:\n    here()", [1]),
        ("while x:\n    if y:\n        here()", [1]),
        ("for x in y:\n    while x:\n        here()", [2, 1]),
        ("while here():\n    pass", []),
    ],
)
def test_the_loops_around_a_place(text: str, lines: list[int]) -> None:
    source, call = here(text)
    assert [source.line(loop) for loop in loops(source, call)] == lines


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("if x:\n    pass\nhere()", []),
        ("if here():\n    pass", []),
        ("if x:\n    def f():\n        here()", []),
        ("if x:\n    f = lambda: here()", []),
        ("if x:\n    class A:\n        here()", []),
        ("while x:\n    here()", []),
        ("if x:\n    here()", [("x", True)]),
        ("if x:\n    pass\nelse:\n    here()", [("x", False)]),
        ("if x:\n    pass\nelif y:\n    here()", [("y", True), ("x", False)]),
        ("if x:\n    for z in y:\n        if z:\n            here()", [("z", True), ("x", True)]),
    ],
)
def test_the_branches_around_a_place(text: str, expected: list[tuple[str, bool]]) -> None:
    source, call = here(text)
    assert [(source.code(branch.test), outcome) for branch, outcome in branches(source, call)] == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("one()\nother()", False),
        ("if x:\n    one()\n    other()", False),
        ("if x:\n    one()\nother()", False),
        ("if x:\n    one()\nif x:\n    other()", False),
        ("one()\nif x:\n    other()\n    return", False),
        ("if x:\n    one()\n    if y:\n        return\nother()", False),
        ("if x:\n    one()\n    break\nother()", False),  # the loop may be around both
        ("if x:\n    if y:\n        one()\n    other()\n    return", False),
        ("if x:\n    one()\nelse:\n    other()", True),
        ("if x:\n    one()\nelif y:\n    other()", True),
        ("if x:\n    if y:\n        one()\nelse:\n    other()", True),
        ("if x:\n    one()\n    return\nother()", True),
        ("if x:\n    one()\n    raise E\nother()", True),
        ("if x:\n    one()\n    continue\nother()", True),
        ("if x:\n    pass\nelse:\n    one()\n    return 1\nother()", True),
        ("if x:\n    if y:\n        one()\n    return\nother()", True),
    ],
)
def test_places_that_exclude_each_other(text: str, expected: bool) -> None:
    source = Source("def f():\n    for i in n:\n" + textwrap.indent(text, "        "))
    assert exclusive(source, calls(source, "one")[0], calls(source, "other")[0]) is expected


# --- what decides whether a place is reached --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("here()", []),
        ("if x:\n    pass\nhere()", []),
        ("if x:\n    break\nhere()", []),  # the loop is left for good
        ("here()\nif x:\n    continue", []),
        ("if x:\n    def f():\n        here()", []),
        ("if x:\n    here()", [("x", True)]),
        ("if x:\n    pass\nelse:\n    here()", [("x", False)]),
        ("if x:\n    continue\nhere()", [("x", False)]),
        ("if x: continue\nhere()", [("x", False)]),
        ("if x:\n    print(1)\nelse:\n    raise E\nhere()", [("x", True)]),
        ("if x:\n    return\nelse:\n    raise E\nhere()", []),  # it is never reached
        ("if x:\n    continue\nif y:\n    here()", [("y", True), ("x", False)]),
        (
            "if x:\n    continue\nif y:\n    if z:\n        continue\n    here()",
            [("z", False), ("y", True), ("x", False)],
        ),
    ],
)
def test_the_tests_that_decide_whether_a_place_is_reached(text: str, expected: list[tuple[str, bool]]) -> None:
    source, call = here("for i in xs:\n" + textwrap.indent(text, "    "))
    assert [(source.code(test.test), outcome) for test, outcome in conditions(source, call)] == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("here()", False),
        ("if x:\n    here()", False),  # an `if` statement is a test around it
        ("x = 1 if here() else 2", False),
        ("here() and x", False),
        ("try:\n    here()\nexcept E:\n    pass", False),
        ("x = here() if y else None", True),
        ("y and here()", True),
        ("y or not here()", True),
        ("try:\n    x()\nexcept E:\n    here()", True),
        ("match x:\n    case 1:\n        here()", True),
        ("try:\n    x()\nexcept E:\n    f = lambda: here()", False),
    ],
)
def test_what_else_decides_whether_a_place_is_reached(text: str, expected: bool) -> None:
    assert is_conditional(*here(text)) is expected


# --- tests whose outcome is known ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("here()", set()),
        ("if check():\n    here()", set()),
        ("if x[0]:\n    here()", set()),
        ("if x + 1:\n    here()", set()),
        ("for x in y:\n    if x:\n        here()", set()),  # another one in each iteration
        ("for z in y:\n    x = z\n    if x:\n        here()", set()),
        ("x = 0\nx += 1\nif x:\n    here()", set()),
        ("if x or y:\n    here()", {("xory", True)}),
        ("if x:\n    here()", {("x", True)}),
        ("x = get()\nif x:\n    here()", {("x", True)}),
        ("if not x:\n    here()", {("x", False)}),
        ("if x:\n    pass\nelse:\n    here()", {("x", False)}),
        ("if x and not y:\n    here()", {("x", True), ("y", False)}),
        ("if x or y:\n    pass\nelse:\n    here()", {("x", False), ("y", False)}),
        ("if x and y:\n    pass\nelse:\n    here()", {("xandy", False)}),
        ("if a.scaler is not None:\n    here()", {("a.scaler is None", False)}),
        ("if a.scaler is None:\n    here()", {("a.scaler is None", True)}),
        ("if x:\n    if y:\n        here()", {("x", True), ("y", True)}),
    ],
)
def test_what_is_known_from_the_tests_around_a_place(text: str, expected: set[tuple[str, bool]]) -> None:
    source, call = here(text)
    assert facts(source, call, {}, called=False) == expected


@pytest.mark.parametrize(
    ("test", "expected"),
    [
        ("own", set()),  # a name of the called function means nothing in the caller
        ("scaler", {("args.scaler", True)}),
        ("scaler.enabled", {("args.scaler.enabled", True)}),
        ("scaler == other", set()),
        ("self.amp", {("self.amp", True)}),
        ("self.amp == scaler", set()),
    ],
)
def test_what_is_known_in_a_called_function_in_terms_of_its_caller(test: str, expected: set[tuple[str, bool]]) -> None:
    source, call = here(f"def f(self, scaler, other):\n    own = scaler\n    if {test}:\n        here()")
    renamed = {"self": "self", "scaler": "args.scaler", "other": "args.other"}
    assert facts(source, call, renamed, called=True) == expected


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("check()", set()),
        ("not args.x", set()),
        ("*args", set()),
        ("args.x", {("args.x", True)}),
        ("x=own", {("own", True)}),
    ],
)
def test_a_parameter_is_known_by_the_name_of_its_argument(given: str, expected: set[tuple[str, bool]]) -> None:
    source = Source(f"def f(model):\n    g({given})\ndef g(x):\n    if x:\n        optimizer.step()\n")
    (step,) = flow(source, next(source.nodes(cst.FunctionDef))).events
    assert step.facts == expected


@pytest.mark.parametrize(
    ("call", "expected"),
    [("trainer.step()", {("trainer.clips", True)}), ("self.step()", {("self.clips", True)}), ("made().step()", None)],
)
def test_a_nested_function_has_the_self_of_its_method(call: str, expected: set[tuple[str, bool]] | None) -> None:
    source = Source(
        "class Trainer:\n"
        "    def step(self):\n"
        "        def go():\n"
        "            if self.clips:\n"
        "                optimizer.step()\n"
        "        go()\n"
        "    def run(self):\n"
        "        trainer = Trainer()\n"
        f"        {call}\n"
    )
    run = next(node for node in source.nodes(cst.FunctionDef) if node.name.value == "run")
    known = [event.facts for event in flow(source, run).of(EventKind.STEP)]
    assert known == ([] if expected is None else [expected])


def test_what_has_no_name_in_the_caller_has_none_in_what_is_called_next() -> None:
    source = Source(
        "def f():\n    g(made())\ndef g(x):\n    h(x.y, x)\ndef h(y, z):\n    if y and z:\n        optimizer.step()\n"
    )
    (step,) = flow(source, next(source.nodes(cst.FunctionDef))).events
    assert step.facts == set()


# --- micro-batches ----------------------------------------------------------------------------------------------------

LINES = {
    "B": "loss.backward()",
    "C": "torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)",
    "S": "optimizer.step()",
    "Z": "optimizer.zero_grad()",
    "?": "engine.train_step(model)",
    "G": "if i % n == 0:",
}


def step_of(text: str) -> Event | None:
    """The guarded step of the only clip of a function; each letter of the body stands for a line."""
    lines = [line.replace(line.strip(), LINES.get(line.strip(), line.strip())) for line in text.split("\n")]
    source = Source(
        "import torch\ndef f(model, optimizer, loss, batches):\n" + textwrap.indent("\n".join(lines), "    ")
    )
    (clip,) = (found := flow(source, next(source.nodes(cst.FunctionDef)))).of(EventKind.CLIP)
    step = guarded_step(source, clip)
    assert step is None or step in found.of(EventKind.STEP)
    return step


@pytest.mark.parametrize(
    "text",
    [
        "for i in batches:\n    B\n    C\n    S\n    Z",  # one step for each
        "for i in batches:\n    B\n    G\n        C\n        S\n        Z",
        "for i in batches:\n    B\n    C\n    if last:\n        S\n        Z",
        "for i in batches:\n    B\n    C\n    Z\n    G\n        S",
        "for i in batches:\n    B\n    C\n    ?\n    G\n        S",
        "for i in batches:\n    ?\n    C\n    G\n        S\n        Z",
        "for i in batches:\n    B\n    C\nG\n    S",  # the loop, not the guard, decides how many
        "for i in batches:\n    B\n    if ready():\n        C\n        G\n            S\n            Z",
        "for i in batches:\n    if ready():\n        B\n    if ready():\n        C\n    G\n        S\n        Z",
        "for i in batches:\n    if ready():\n        B\n    else:\n        B\n        C\n    G\n        S\n        Z",
        "if ready():\n    B\nelse:\n    B\n    C\nG\n    S\n    Z",
        "for i in batches:\n    for x in y:\n        B\n        Z\n    C\n    G\n        S\n        Z",
        "for i in batches:\n    for x in y:\n        Z\n        B\n        S\n    C\n    G\n        S\n        Z",
        "for x in y:\n    B\nfor i in batches:\n    C\n    G\n        S\n        Z",
        "for i in batches:\n    C\n    G\n        S\n        Z",
        "B\nC\nG\n    S\n    return\nB",
        "G\n    for i in batches:\n        B\n        C\n        S",
    ],
)
def test_a_clip_that_is_guarded_like_its_step(text: str) -> None:
    assert step_of(text) is None


@pytest.mark.parametrize(
    "text",
    [
        "for i in batches:\n    B\n    C\n    G\n        S\n        Z",
        "for i in batches:\n    B\n    if x:\n        C\n    G\n        S\n        Z",
        "for i in batches:\n    for x in y:\n        B\n    C\n    G\n        S\n        Z",  # a sum of several backward passes is one micro-batch
        "B\nC\nG\n    S\n    Z",  # the function is called for each micro-batch
        "for i in batches:\n    if ready():\n        B\n        C\n        G\n            S\n            Z",  # of both
        "G\n    for i in batches:\n        B\n        C\n        G\n            S\n            Z",
    ],
)
def test_a_clip_of_each_micro_batch_before_a_step_that_comes_once_in_several(text: str) -> None:
    assert step_of(text) is not None
