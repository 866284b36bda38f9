"""Training runs of both sides of a fix: in which settings, what is wrong with a step, and what both together show."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="needs the extra clipcheck[torch]")

from clipcheck.verify import rehearse as rehearsing  # noqa: E402
from clipcheck.verify.claims import Answer  # noqa: E402
from clipcheck.verify.rehearse import _Run, rehearse  # noqa: E402
from clipcheck.verify.sides import Side  # noqa: E402
from clipcheck.verify.stand_ins import Aim, Setting, Step, World  # noqa: E402
from clipcheck.verify.turns import in_turns  # noqa: E402

LIMIT = 0.5
ROLES = ("optimizer", "model", "max_norm")
NAMES = {"optimizer": "optimizer__0__name", "model": "model__0__name", "max_norm": "max_norm__0__name",
         "scaler": "scaler__0__name", "flag": "flag__0__call", "choice": "choice__0__call",
         "parameters": "parameters__0__name", "group": "group__own__name", "accelerator": "accelerator__0__name"}  # fmt: skip
CLIP = "clip(model.parameters(), max_norm)"
TURN = "optimizer.zero_grad()\nloss().backward()\n{}\noptimizer.step()"


def code(body: str, roles: Sequence[str]) -> str:
    """A side of these statements in each turn, in the harness's names."""
    lines = "".join(f"        {line}\n" for line in body.splitlines())
    text = f"def site():\n    for turn__own__item in turns__own__call():\n{lines}    return ('locals', bound__now())\n"
    text = text.replace(" loss()", " loss__0__call()").replace("(loss()", "(loss__0__call()")
    for role in roles:
        text = text.replace(f"{role}.", f"{NAMES[role]}.").replace(f" {role})", f" {NAMES[role]})")
        text = text.replace(f"({role})", f"({NAMES[role]})").replace(f"{role}()", f"{NAMES[role]}()")
    return text.replace("clip(", "torch__nn__utils__clip_grad_norm_(")


def experiment(before: str, after: str, roles: Sequence[str] = ROLES, **more: Any) -> dict[str, Any]:
    paths = {"torch__nn__utils__clip_grad_norm_": "torch.nn.utils.clip_grad_norm_"}
    sides = [[code(body, roles), paths] for body in (before, after)]
    usual = {"clip": "norm", "norm_type": 2.0, "limit": LIMIT, "clears": True, "groups": 2, "implied": [], "ranks": 1}
    given = {NAMES[role]: role for role in roles}
    return {"before": sides[0], "after": sides[1], "roles": given, **usual, **more}


def tried(before: str, after: str, roles: Sequence[str] = ROLES, **more: Any) -> Answer:
    return rehearse(experiment(before, after, roles, **more), lambda setting: None)


# --- settings -------------------------------------------------------------------------------------------------------------


def settings(*roles: str) -> list[Setting]:
    return list(rehearsing._settings({f"{role}{at}": role for at, role in enumerate(roles)}))


def test_gradients_are_above_around_and_below_the_limit() -> None:
    found = settings(*ROLES)
    assert [s.title for s in found] == ["gradients above max_norm", "a parameter without gradient",
                                        "gradients around max_norm", "gradients below max_norm"]  # fmt: skip
    above, unused, around, below = found
    assert min(above.sizes) > 1 and max(below.sizes) < 1 and min(around.sizes) < 1 < max(around.sizes)
    assert unused == above._replace(title=unused.title, unused=True)
    assert {(s.flags, s.handed, s.scaled) for s in found} == {((), "list", True)}


def test_what_a_scaler_meets_is_an_overflow() -> None:
    for role, count in (("scaler", 5), ("accelerator", 10), ("fabric", 10), ("amp", 4)):
        found = settings(role)
        assert len(found) == count
        overflows = [s for s in found if s.title == "an overflow"]
        assert [s.sizes[0] for s in overflows] == [math.inf] * (count // 5)
        assert all(s.sizes[1:] == found[0].sizes for s in overflows)
    assert {s.scaled for s in settings("accelerator")} == {True, False}
    assert {s.scaled for s in settings("scaler")} == {True}


def test_tests_have_every_outcome_and_parameters_every_form() -> None:
    assert {s.flags for s in settings("flag")} == {("always",), ("every second time",), ("never",)}
    assert {s.flags for s in settings("choice")} == {("always",), ("never",)}
    assert len(settings("flag", "choice")) == 4 * 3 * 2
    assert {s.handed for s in settings("parameters")} == {"list", "generator"}
    assert len(settings("parameters", "flag")) == 4 * 2 * 3


def test_each_setting_is_told_before_it_runs() -> None:
    at: list[str] = []
    rehearse(experiment(TURN.format(CLIP), TURN.format(CLIP)), at.append)
    assert at == [f"{s.title}, {side}" for s in settings(*ROLES) for side in ("before", "after")]


# --- a step ---------------------------------------------------------------------------------------------------------------


def world(clip: str = "norm", *steps: Step, skips: int = 0, lost: bool = False) -> World:
    made = World(Setting("", (1.0,)), Aim(clip, 2.0, LIMIT, True))
    made.steps, made.skips, made.lost = list(steps), skips, lost
    return made


def step(taken: Any, wanted: Any) -> Step:
    return Step([None if taken is None else torch.tensor(taken)], [torch.tensor(wanted, dtype=torch.float64)])


@pytest.mark.parametrize(
    ("taken", "wanted", "fault"),
    [
        ([0.3, 0.4], [0.3, 0.4], ""),
        ([0.3, 0.4002], [0.3, 0.4], ""),
        ([0.3, 0.401], [0.3, 0.4], "a step in a wrong direction"),
        (None, [0.0, 0.0], ""),
        ([4e-6, 0.0], [0.0, 0.0], ""),  # rounding
        ([6e-6, 0.0], [0.0, 0.0], "a step above max_norm"),
        (None, [0.3, 0.4], "a step without gradients"),
        ([0.0, 0.0], [0.3, 0.4], "a step without gradients"),
        ([math.nan, 0.4], [0.3, 0.4], "a step with a NaN or an infinity"),
        ([math.inf, 0.4], [0.3, 0.4], "a step with a NaN or an infinity"),
        ([0.4, 0.3], [0.3, 0.4], "a step in a wrong direction"),
        ([-0.3, -0.4], [0.3, 0.4], "a step in a wrong direction"),
        ([0.306, 0.408], [0.3, 0.4], "a step above max_norm"),
        ([0.302, 0.402], [0.3, 0.4], "a step in a wrong direction"),
        ([0.294, 0.392], [0.3, 0.4], "a step that is too small"),
        ([0.16, 0.2], [0.3, 0.4], "a step that is too small"),
        ([0.14, 0.2], [0.3, 0.4], "a step that is far too small"),
    ],
)
def test_what_is_wrong_with_a_step(taken: Any, wanted: Any, fault: str) -> None:
    assert rehearsing._fault(world("norm", step(taken, wanted))) == fault
    assert rehearsing._fault(world("norm", step([0.3], [0.3]), step(taken, wanted))) == fault
    other = "a step that is too large" if fault == "a step above max_norm" else fault
    assert rehearsing._fault(world("value", step(taken, wanted))) == other


def test_what_is_wrong_with_a_run() -> None:
    right = step([0.3], [0.3])
    assert rehearsing._fault(world("norm")) == "no step"
    assert rehearsing._fault(world("norm", skips=1)) == ""
    assert rehearsing._fault(world("norm", right, lost=True)) == "lost gradients"


PLAIN = _Run([[[1.0, 2.0]]], 1, "", False, [], False)


@pytest.mark.parametrize(
    ("other", "same"),
    [
        (PLAIN, True),
        (PLAIN._replace(steps=[[[1.000005, 2.0]]]), True),
        (PLAIN._replace(steps=[[[1.00002, 2.0]]]), False),
        (PLAIN._replace(steps=[[[1.0, 0.0]]]), False),
        (PLAIN._replace(steps=[[[1.0, 2.0]], [[1.0]]]), False),
        (PLAIN._replace(steps=[[[1.0, 2.0], [1.0]]]), False),
        (PLAIN._replace(steps=[[[1.0]]]), False),
        (PLAIN._replace(fault="no step"), False),
        (PLAIN._replace(batches=2, clears=[1], lost=True), True),
    ],
)
def test_two_runs_took_the_same_steps(other: _Run, same: bool) -> None:
    assert rehearsing._same(PLAIN, other) is same
    assert rehearsing._same(PLAIN._replace(steps=[[[math.nan]]]), PLAIN._replace(steps=[[[math.nan]]]))


# --- two sides --------------------------------------------------------------------------------------------------------------


def test_two_right_sides_agree() -> None:
    assert tried(TURN.format(CLIP), TURN.format(CLIP)) == Answer(4)


def test_a_clip_that_was_missing() -> None:
    found = tried(TURN.format("pass"), TURN.format(CLIP))
    assert found == Answer(4, ("a step above max_norm with gradients above max_norm, a parameter without gradient and gradients around max_norm",))  # fmt: skip


def test_a_fix_that_drops_the_clip_is_refuted() -> None:
    found = tried(TURN.format(CLIP), TURN.format("pass"))
    assert found == Answer(1, (), "gradients above max_norm", "a step above max_norm", "the right steps", "a step above max_norm")  # fmt: skip


def test_faults_on_both_sides_show_nothing() -> None:
    assert tried(TURN.format("pass"), TURN.format("pass")) == Answer(4, (), "every case", "the steps are wrong after the fix as well")  # fmt: skip
    other = "clip(model.parameters(), 2 * max_norm__0__name)"
    found = tried(TURN.format("pass"), TURN.format(other))
    assert found[2:] == ("gradients above max_norm", "a step above max_norm", "a step above max_norm", "a step above max_norm")  # fmt: skip


def test_another_number_of_steps_is_refuted() -> None:
    found = tried(TURN.format(CLIP), TURN.format(CLIP + "\noptimizer.step()"))
    assert found == Answer(1, (), "gradients above max_norm", "another number of steps", "(3, 3)", "(6, 3)")


def test_where_the_old_side_raises_the_new_one_has_to_be_right() -> None:
    raises = TURN.format("clip(model.parameters, max_norm)")
    assert tried(raises, TURN.format(CLIP)) == Answer(4, ("TypeError in every case",))
    assert tried(raises, TURN.format("pass")).refuted == "gradients above max_norm"
    assert tried(TURN.format(CLIP), raises)[2:] == (
        "gradients above max_norm",
        "TypeError",
        "the right steps",
        "TypeError",
    )
    assert tried(raises, raises) == Answer(4, (), "every case", "the steps are wrong after the fix as well")


SCALED = "optimizer.zero_grad()\nscaler.scale(loss()).backward()\n{}\nscaler.step(optimizer)\nscaler.update()"


def test_gradients_that_are_clipped_while_they_are_scaled() -> None:
    roles = (*ROLES, "scaler")
    found = tried(SCALED.format(CLIP), SCALED.format("scaler.unscale_(optimizer)\n" + CLIP), roles)
    assert found == Answer(5, ("a step that is far too small in every case",))


def test_an_overflow_after_an_error_is_nobodys_fault() -> None:
    """The old side raises at once; what the new one does of an infinity is for its scaler to say."""
    roles = (*ROLES, "scaler")
    raises = SCALED.format("scaler.unscale_(optimizer)\nscaler.unscale_(optimizer)")
    by_hand = "optimizer.zero_grad()\nloss().backward()\n" + CLIP + "\noptimizer.step()"
    found = tried(raises, by_hand, roles)
    assert (found.cases, found.refuted) == (4, "")
    assert found.exceptions == ("RuntimeError in every case",)


def test_gradients_that_both_sides_drop_are_none_of_the_steps() -> None:
    body = "loss().backward()\noptimizer.zero_grad()\nloss().backward()\n{}\noptimizer.step()\noptimizer.zero_grad()"
    found = tried(body.format("pass"), body.format(CLIP))
    assert found.refuted == "" and found.exceptions[0].startswith("a step above max_norm with")
    late = "loss().backward()\nloss().backward()\n{}\noptimizer.step()\noptimizer.zero_grad()"
    assert tried(body.format(CLIP), late.format(CLIP)).refuted == ""  # the new one loses none
    found = tried(late.format(CLIP), body.format(CLIP))
    assert found[2:4] == ("gradients above max_norm", "a step in a wrong direction")  # that of one batch of two


def test_what_a_side_leaves_to_others_is_done_in_each_turn() -> None:
    assert tried("pass", CLIP, implied=["backward", "step"]).exceptions
    found = tried("optimizer.step()", CLIP + "\noptimizer.step()", implied=["backward"], clears=False)
    assert found.refuted == "" and found.exceptions
    scaled = "scaler.unscale_(optimizer)\n{}\nscaler.step(optimizer)\nscaler.update()\noptimizer.zero_grad()"
    found = tried(scaled.format("pass"), scaled.format(CLIP), (*ROLES, "scaler"), implied=["backward"])
    assert found.refuted == "" and found.cases == 5
    wrapped = "optimizer.zero_grad()\naccelerator.backward(loss())\n{}\noptimizer.step()"
    clip = "accelerator.clip_grad_norm_(model.parameters(), max_norm)"
    found = tried(wrapped.format("pass"), wrapped.format(clip), (*ROLES, "accelerator"))
    assert (found.refuted, found.cases) == ("", 10)
    body = "{}\noptimizer.step()\noptimizer.zero_grad()"
    found = tried(body.format("pass"), body.format(clip), (*ROLES, "accelerator"), implied=["backward"])
    assert (found.refuted, found.cases) == ("", 10)


def test_parameters_that_are_used_up() -> None:
    roles = (*ROLES, "parameters")
    twice = "params = parameters__0__name__call()\noptimizer.zero_grad()\nloss().backward()\n{}\noptimizer.step()"
    before = twice.format("builtins__list(params)\nclip(params, max_norm)")
    after = twice.format("params = builtins__list(params)\nclip(params, max_norm)")
    asked = experiment(before, after, roles)
    for side in ("before", "after"):
        asked[side][1] = {**asked[side][1], "builtins__list": "builtins.list"}
    found = rehearse(asked, lambda setting: None)
    assert (found.cases, found.refuted) == (8, "")
    assert found.exceptions[0].startswith("a step above max_norm with gradients above max_norm")


# --- several ranks ------------------------------------------------------------------------------------------------------------


def ranks(before: str, after: str, **more: Any) -> Answer:
    roles = (*ROLES, "group")
    asked = experiment(before, after, roles, ranks=2, **more)
    asked["roles"]["group__own__name"] = "group"
    for side in ("before", "after"):
        asked[side] = list(in_turns(Side(*asked[side]), asked["roles"]))
    return rehearse(asked, lambda setting: None)


REDUCED = "optimizer.zero_grad()\nloss().backward()\n{}\noptimizer.step()"
MEAN = "for p in model.parameters():\n    if p.grad is not None:\n        group.all_average(p.grad)"
SUM = MEAN.replace("all_average", "all_reduce")


def test_ranks_clip_what_all_of_them_have() -> None:
    found = ranks(REDUCED.format(CLIP + "\n" + MEAN), REDUCED.format(MEAN + "\n" + CLIP))
    assert found.refuted == "" and found.exceptions
    assert ranks(REDUCED.format(MEAN + "\n" + CLIP), REDUCED.format(MEAN + "\n" + CLIP)) == Answer(4)


def test_ranks_that_add_up_go_on_doing_so() -> None:
    right = REDUCED.format(SUM + "\n" + CLIP)
    assert ranks(REDUCED.format(CLIP + "\n" + SUM), right).refuted == ""
    assert ranks(right, REDUCED.format(MEAN + "\n" + CLIP)).refuted != ""


def test_ranks_that_wait_forever() -> None:
    alone = REDUCED.format(MEAN.replace("p.grad is not None", "p.grad.sum() > 0") + "\n" + CLIP)
    found = ranks(REDUCED.format(MEAN + "\n" + CLIP), alone)
    assert found.why == found.after == "ranks that wait for one another forever"
    assert found.before == "the right steps"


# --- what is not known --------------------------------------------------------------------------------------------------------

RAISED, RAN = PLAIN._replace(raised=True), PLAIN._replace(fault="no step")


@pytest.mark.parametrize(
    ("before", "after", "setting", "expected"),
    [
        (RAISED, RAN, Setting("", (math.inf, 1.0)), True),
        (RAISED, RAN, Setting("", (1.0,), ("always", "every second time")), True),
        (RAISED, RAN, Setting("", (1.0,), ("always", "never")), False),
        (RAISED, RAN, Setting("", (1.0,)), False),
        (RAN, RAN, Setting("", (math.inf,)), False),
        (RAISED, RAISED, Setting("", (math.inf,)), False),
    ],
)
def test_whose_fault_a_wrong_step_is_after_an_error(
    before: _Run, after: _Run, setting: Setting, expected: bool
) -> None:
    assert rehearsing._is_open(before, after, setting) is expected


LOST = PLAIN._replace(lost=True, clears=[1, 2])


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (LOST, LOST, True),
        (LOST, LOST._replace(clears=[1, 2, 3]), True),  # as far as the old side got
        (LOST, LOST._replace(clears=[1]), False),
        (LOST, LOST._replace(clears=[2, 1]), False),
        (LOST._replace(lost=False), LOST, False),
        (LOST, LOST._replace(lost=False), False),
    ],
)
def test_both_sides_clear_at_the_same_times(before: _Run, after: _Run, expected: bool) -> None:
    assert rehearsing._drop_the_same(before, after) is expected


def test_code_around_a_side_may_unscale_as_well() -> None:
    roles = (*ROLES, "scaler")
    rest = "scaler.step(optimizer)\nscaler.update()\noptimizer.zero_grad()"
    twice = "scaler.unscale_(optimizer)\nscaler.unscale_(optimizer)\n"
    found = tried(twice + rest, f"{CLIP}\n{rest}", roles, implied=["backward"])
    assert found == Answer(1, (), "every case", "whether code around it unscales the gradients is not known")
    whole = "scaler.scale(loss()).backward()\n"
    found = tried(whole + twice + rest, f"{whole}{CLIP}\n{rest}", roles)
    assert found[2:4] == ("gradients above max_norm", "a step that is far too small")


def test_the_harness_runs_backward_through_what_scales() -> None:
    for name, role, scale in (
        ("s", "scaler", 1024.0),
        ("a", "accelerator", 1024.0),
        ("f", "fabric", 1024.0),
        ("m", "model", 1.0),
    ):
        made = world()
        names = rehearsing.objects(made, {name: role}, 1)
        rehearsing._backward(made, {"x": "max_norm", name: role}, names)()
        left = math.hypot(*(float(p.grad.norm()) for p in made.parameters))
        assert left == pytest.approx(LIMIT * scale, rel=1e-4)
