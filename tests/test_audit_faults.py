"""The table of the audit: which patterns of events are which fault, and which of those alike are none.

A story has the events of some parameters as letters (see `clipcheck.audit.log`), `!` for the one in question.
"""

from __future__ import annotations

import pytest

pytest.importorskip("torch")

from clipcheck.audit.faults import FAULTS, STRANGERS
from clipcheck.audit.findings import _first_of_each

LIGHTNING = "hook lightning/pytorch/loops/fit.py:5 "
OLD_LIGHTNING = "hook pytorch_lightning/trainer.py:5 "


def found(kind: str, story: str, facts: str) -> list[tuple[str, str]]:
    return [(fault.group, fault.code) for fault in _first_of_each(FAULTS, kind, story, facts)]


@pytest.mark.parametrize(
    ("story", "facts", "code"),
    [
        # a step within backward has used the gradients, and freed them
        ("B!p", "", "CLIP115"),
        ("P!Bs", "", "CLIP115"),
        ("PZ!", "", "CLIP115"),
        ("PB!s", "", None),
        ("PO!s", "", None),
        # Lightning's hooks, by what it calls around them
        ("!Bs", f"{LIGHTNING}training_step", "CLIP401"),
        ("S!Bs", f"{OLD_LIGHTNING}training_step", "CLIP401"),
        ("!Bs", "hook mine/pytorch/loops.py:5 training_step", "CLIP102"),
        ("!Bs", f"{LIGHTNING}training_step_end", "CLIP102"),
        ("B!s", f"{LIGHTNING}training_step", None),
        ("S!Bs", f"{LIGHTNING}on_train_batch_end", "CLIP410"),
        ("S!", f"{OLD_LIGHTNING}on_batch_end", "CLIP410"),
        ("S!Bs", f"{LIGHTNING}optimizer_step", "CLIP410"),
        ("!<Bs", f"{LIGHTNING}on_before_zero_grad", "CLIP410"),
        ("S!Bs", f"{LIGHTNING}on_after_backward", "CLIP101"),
        # after the step that they were for
        ("S!Bs", "", "CLIP101"),
        ("S!", "", "CLIP101"),
        ("SC!Bs", "", "CLIP101"),
        ("SB!s", "", None),
        ("SO!s", "", None),
        ("SA!", "backward accelerate/x.py:1", "scaled"),
        # outside of a closure that computes them again
        ("!<Bs", "", "CLIP109"),
        ("B!<Bs", "", "CLIP109"),
        ("B!<s", "", None),
        # before backward
        ("!Bs", "once", "CLIP103"),
        ("!Bs", "once more", "CLIP102"),
        ("!Bs", "", "CLIP102"),
        ("!As", "", "CLIP102"),
        ("SZ!Bs", "", "CLIP102"),
        ("SBZ!Bs", "", "CLIP102"),
        ("Z!B", "", None),  # of a step that is not reached
        ("B!s", "once", None),
        # something else writes to them before the step
        ("B!Os", "step torch_xla/core.py:3", "CLIP408"),
        ("B!Os", "step horovod/torch.py:3", "CLIP409"),
        ("B!Os", "step mine.py:3", "changed by other code"),
        ("B!O", "", None),
        ("B!OZ", "", None),
        ("B!s", "step torch_xla/core.py:3", None),
        # the ranks add them up
        ("B!Rs", "", "CLIP413"),
        ("B!QOs", "", "CLIP413"),
        ("B!QBOs", "", "another backward"),
        ("B!Qs", "", None),
        ("BR!s", "", None),
        # they are gone, or others are added
        ("B!ZBs", "", "zeroed before a step used them"),
        ("B!Zs", "", None),
        ("B!Bs", "", "another backward"),
        ("B!B", "", None),
        ("B!RBs", "", "CLIP413"),
    ],
)
def test_a_clip_that_reaches_no_step(story: str, facts: str, code: str | None) -> None:
    lost = [fault for fault in _first_of_each(FAULTS, "C", story, facts) if fault.group == "lost"]
    if code is None or code == "scaled":
        assert lost == []
    else:
        (fault,) = lost
        assert code == fault.code if code.startswith("CLIP") else (fault.code == "" and code in fault.says)


@pytest.mark.parametrize(
    ("kind", "story", "facts", "expected"),
    [
        ("C", "A!s", "", [("scaled", "CLIP301")]),
        ("C", "SA!s", "", [("scaled", "CLIP301")]),
        ("C", "A!s", "backward accelerate/accelerator.py:9", [("scaled", "CLIP403")]),
        ("C", "A!s", "backward lightning/fabric/fabric.py:9", [("scaled", "CLIP411")]),
        ("C", "A!s", f"{LIGHTNING}on_after_backward", [("scaled", "CLIP410")]),
        ("C", "A!s", f"{LIGHTNING}on_before_optimizer_step", [("scaled", "CLIP301")]),
        ("C", "Au!s", "", [("scaled", "CLIP305")]),
        ("C", "AuU!s", "", []),
        ("C", "GAu!s", "", []),
        ("C", "AU!s", "", []),
        ("C", "AUu!s", "", []),
        ("C", "AO!s", "", []),  # unscaled by hand
        ("C", "AG!s", "", []),  # or the limit is scaled
        ("C", "GA!s", "", []),
        ("C", "AZB!s", "", []),
        ("C", "B!s", "backward accelerate/accelerator.py:9", []),
        ("M", "A!s", "", [("measured", "CLIP309")]),
        ("M", "A!Gs", "", []),  # divided by the scale afterwards
        ("M", "AU!s", "", []),
        ("M", "B!s", "", []),
        ("X", "AU!s", "", [("unscaled", "CLIP303")]),
        ("X", "AUC!s", "", [("unscaled", "CLIP303")]),
        ("X", "UZA!s", "", [("unscaled", "CLIP308")]),
        ("X", "A!s", "", []),
        ("E", "AU!s", "error RuntimeError: The total norm is non-finite", [("raised", "CLIP304")]),
        ("E", "U!", "error RuntimeError: The total norm is non-finite", [("raised", "CLIP304")]),
        ("E", "B!s", "error RuntimeError: The total norm is non-finite", []),
        ("E", "B!s", "error TypeError: must be a number", [("lost", "CLIP114")]),
        ("E", "U!s", "error TypeError: must be a number", [("lost", "CLIP114")]),
        ("E", "B!", "error TypeError: must be a number", []),
        ("F", "!s", "", [("lost", "CLIP117")]),
        ("F", "B!p", "", [("lost", "CLIP117")]),
        ("F", "B!", "", []),
        ("Z", "B!s", "moves nothing", [("zeroed", "CLIP104")]),
        ("Z", "SA!p", "moves nothing", [("zeroed", "CLIP104")]),
        ("Z", "B!s", "", []),
        ("Z", "S!s", "moves nothing", []),
        ("Z", "B!Bs", "moves nothing", []),
        ("Z", "B!", "moves nothing", []),
        ("C", "B!BCs", "", [("added to", "CLIP108")]),
        ("C", "SB!BCs", "", [("added to", "CLIP108")]),
        ("C", "B!ZBCs", "", [("lost", "")]),
        ("C", "B!BZCs", "", []),
        ("C", "B!BC", "", []),
        ("C", "B!s", "each alone", [("parts", "CLIP110")]),
        ("C", "B!s", "in parts", [("parts", "CLIP111")]),
        ("C", "B!s", "twice", [("listed", "CLIP112")]),
        ("C", "B!s", "not positive", [("limit", "CLIP201")]),
        ("E", "B!", "not positive", [("limit", "CLIP201")]),
        ("M", "B!", "not positive", []),
        ("C", "B!s", "shards", [("sharded", "CLIP405")]),
        ("C", "BC!s", "again", [("again", "CLIP505")]),
        ("C", "B!s", "again", []),
        ("C", "BC!s", "", []),
        ("C", "B!s", "hook \nerror \nstep mine.py:3", []),
        ("C", "A!s", "twice\nnot positive\nshards", [("scaled", "CLIP301"), ("listed", "CLIP112"), ("limit", "CLIP201"), ("sharded", "CLIP405")]),
    ],
)  # fmt: skip
def test_the_faults_of_an_event(kind: str, story: str, facts: str, expected: list[tuple[str, str]]) -> None:
    assert found(kind, story, facts) == expected


@pytest.mark.parametrize(
    ("facts", "code"),
    [
        ("backward deepspeed/engine.py:1", "CLIP404"),
        ("backward deepspeed/engine.py:1\nspent", "CLIP404"),
        ("backward mine/deepspeed.py:1", ""),
        ("spent", "CLIP105"),
        ("no parameters", "CLIP106"),
        ("", ""),
    ],
)
def test_a_clip_of_what_nothing_steps(facts: str, code: str) -> None:
    (fault,) = _first_of_each(STRANGERS, "C", "", facts)
    assert (fault.group, fault.code) == ("lost", code)
    assert list(_first_of_each(STRANGERS, "M", "", facts)) == []
