"""A side that several ranks run: where it pauses for the others, and where it cannot."""

from __future__ import annotations

import pytest

from clipcheck.verify.allowed import NotVerifiable
from clipcheck.verify.sides import Side
from clipcheck.verify.turns import in_turns

ROLES = {"g": "group", "h": "horovod", "f": "fsdp", "m": "model", "o": "optimizer"}


def side(body: str) -> Side:
    return Side(f"def site():\n    {body}\n    return 1", {"a": "b"})


@pytest.mark.parametrize(
    "call",
    [
        *("g.all_reduce(x)", "g.all_average(x)", "g.optimizer_step(o)", "g.reduce_gradients(o)"),
        *("h.step()", "h.synchronize()", "f.clip_grad_norm_(c)"),
    ],
)
def test_a_side_pauses_where_ranks_wait(call: str) -> None:
    made = in_turns(side(f"y = {call}"), ROLES)
    assert made == Side(f"def site():\n    y = (yield {call})\n    return 1\n    yield", {"a": "b"})


@pytest.mark.parametrize(
    "call",
    [
        *("g.get_world_size()", "o.step()", "h.zero_grad()", "m.clip_grad_norm_(c)", "f.parameters()", "x.all_reduce(y)"),
        *("g", "g.all_reduce", "all_reduce(x)", "g.x.all_reduce(y)", "h.all_reduce(x)", "g.step()"),
    ],
)  # fmt: skip
def test_other_calls_wait_for_nobody(call: str) -> None:
    assert in_turns(side(f"y = {call}"), ROLES).code == f"def site():\n    y = {call}\n    return 1\n    yield"


def test_calls_within_calls_wait_one_after_the_other() -> None:
    made = in_turns(side("g.all_reduce(h.step())"), ROLES)
    assert made.code.splitlines()[1] == "    yield g.all_reduce((yield h.step()))"


@pytest.mark.parametrize(
    "body", ["[g.all_reduce(x) for x in y]", "z(g.all_reduce(x) for x in y)", "z(lambda: h.step())"]
)
def test_ranks_cannot_wait_inside_of_an_expression(body: str) -> None:
    with pytest.raises(NotVerifiable, match="its ranks wait for one another inside an expression"):
        in_turns(side(body), ROLES)
    for plain in ("[o.step() for x in y]", "z(lambda: o.step())"):
        in_turns(side(plain), ROLES)
