"""From a fix to an experiment: both sides in the harness's names, what has a value before, and what is read later."""

from __future__ import annotations

import pytest

from clipcheck.rule import Edit, Fix, Role, Safety
from clipcheck.verify.allowed import NotVerifiable
from clipcheck.verify.changes import Change
from clipcheck.verify.lift import Experiment, UnknownName, lift, lift_more

HEAD = "import math\nimport torch\nfrom torch.nn.utils import clip_grad_norm_, clip_grad_value_\n\n\n"
ROLES = (("ps", Role.PARAMETERS), ("gs", Role.GRADIENTS), ("c", Role.MAX_NORM))


def change(code: str, *new: str, roles: tuple[tuple[str, Role], ...] = ROLES, safety: Safety = Safety.SAFE) -> Change:
    """The fix that puts each new text in the place of what is between `«` and `»` in the body of a function."""
    rest = f"{HEAD}def step(net, opt, ps, gs, c, log):\n" + "".join(f"    {line}\n" for line in code.splitlines())
    text, edits = "", []
    for one in new:
        before, _, rest = rest.partition("«")
        old, _, rest = rest.partition("»")
        text += before
        edits.append(Edit(len(text), len(text) + len(old), one))
        text += old
    return Change(text + rest, Fix("Change", safety, tuple(edits), roles=roles))


def bodies(experiment: Experiment) -> tuple[str, str, str]:
    """The lines of both sides and of the reference, without the first and the last."""
    sides = (experiment.before, experiment.after, experiment.reference)
    first, second, third = ("\n".join(line[4:] for line in side.code.splitlines()[1:-1]) for side in sides)
    return first, second, third


NORM = "torch__norm(gradients__0__name)"


def test_a_statement_whose_value_is_read_later() -> None:
    (found,) = lift(change("«total = torch.norm(gs).float()»\nlog(total)", "total = torch.norm(gs)"))
    assert bodies(found) == (f"total = {NORM}.float()", f"total = {NORM}", f"total = {NORM}.double()")
    assert found.roles == {f"{role}__0__name": role for role in ("parameters", "gradients", "max_norm")}
    assert (found.seeds, found.kept) == ((), ("total",))
    assert found.before.names == {"torch__norm": "torch.norm"}
    assert not found.norm


def test_an_unsafe_fix_may_give_the_norm_instead() -> None:
    for safety in (Safety.UNSAFE, Safety.SAFE):
        (found,) = lift(change("total = «torch.norm(gs)»", "torch.norm(gs) * 2", safety=safety))
        assert found.norm is (safety is Safety.UNSAFE)


def test_an_expression_alone() -> None:
    (found,) = lift(change("log(«torch.norm(gs)»)", "math.sqrt(2.0)"))
    assert bodies(found)[:2] == (f"value__0 = {NORM}", "value__0 = math__sqrt(2.0)")
    assert (found.seeds, found.kept) == ((), ())


def test_a_value_from_before_is_given() -> None:
    (found,) = lift(change("total = 0.0\nfor g in gs:\n    «total += torch.norm(g)»\nlog(total)", "total = torch.norm(g)", roles=(*ROLES, ("g", Role.GRADIENTS))))  # fmt: skip
    assert (found.seeds, found.kept) == (("total",), ("total",))
    assert found.before.code.startswith("def site(total):\n") and found.after.code.startswith("def site(total):\n")


@pytest.mark.parametrize(
    ("code", "new", "kept"),
    [
        ("«a = torch.norm(gs)\nb = a»\nlog(b)", "b = torch.norm(gs)", ("b",)),
        ("«a = torch.norm(gs)\nb = a»", "b = torch.norm(gs)", ("b",)),  # nothing is read: what both sides leave
        ("«a = torch.norm(gs)\nreturn a»", "a = 1.0\n    return torch.norm(gs)", ()),
        ("«a = clip_grad_norm_(ps, c)»", "a = clip_grad_norm_(ps, 2 * c)", ()),
    ],
)
def test_what_is_compared_of_statements(code: str, new: str, kept: tuple[str, ...]) -> None:
    (found,) = lift(change(code, new))
    assert found.kept == kept


@pytest.mark.parametrize(
    ("code", "new", "why"),
    [
        ("«pass»", "1", "it leaves nothing to compare"),
        ("«a = 1.0»", "b = 1.0", "it leaves nothing to compare"),
        ("total = «torch.norm(gs)»", "torch.norm(xs)", "`xs` cannot be resolved"),
        ("total = «torch.norm(xs)»", "torch.norm(gs)", "`xs` cannot be resolved"),
        ("total = «torch.norm(zs, ys)»", "torch.norm(xs)", "`xs` cannot be resolved"),  # the first of several
    ],
)
def test_why_a_fix_is_not_lifted(code: str, new: str, why: str) -> None:
    with pytest.raises(NotVerifiable) as caught:
        lift(change(code, new))
    assert str(caught.value) == why


def test_only_imports() -> None:
    text = "import torch\n"
    with pytest.raises(NotVerifiable, match="only imports change"):
        lift(Change(text, Fix("Change", Safety.SAFE, (Edit(7, 12, "json"),))))


def test_exchanged_functions_are_separate_experiments() -> None:
    code = "«clip_grad_norm_»(ps, c)\n«clip_grad_norm_»(ps, 2 * c)"
    first, second = lift(change(code, "torch.nn.utils.clip_grad_norm", "torch.nn.utils.clip_grad_norm"))
    clip = "torch__nn__utils__clip_grad_norm_(parameters__0__name, {}max_norm__0__name)"
    assert bodies(first)[0] == f"value__0 = {clip.format('')}"
    assert bodies(second)[0] == f"value__0 = {clip.format('2 * ')}"


# --- with the code around it -------------------------------------------------------------------------------------------

AROUND = "opt.zero_grad()\nclip_grad_norm_(net.parameters(), c, p, foreach=s)\nopt.step()\n"


def test_the_code_around_a_fix_says_what_names_are() -> None:
    code = f"{AROUND}log(«[net, opt, c, p, s]»)"
    with pytest.raises(UnknownName) as caught:
        lift(change(code, "[s]", roles=()))
    assert caught.value.name == "c"
    (found,) = lift_more(change(code, "[s]", roles=()))
    names = [f"{role}__0__name" for role in ("model", "optimizer", "max_norm", "norm_type", "switch")]
    assert bodies(found)[:2] == (f"value__0 = [{', '.join(names)}]", "value__0 = [switch__0__name]")
    assert found.roles == {name: name.partition("__")[0] for name in names}
    (found,) = lift_more(change("clip_grad_value_(ps, c)\nlog(«[ps, c]»)", "[c]", roles=()))
    assert bodies(found)[0] == "value__0 = [parameters__0__name, max_norm__0__name]"


def test_a_role_that_has_no_stand_in_here_is_not_one() -> None:
    with pytest.raises(NotVerifiable, match="`scaler` cannot be resolved"):
        lift_more(change("scaler.unscale_(opt)\nreturn «scaler»", "[scaler]", roles=()))


def test_where_the_code_around_says_nothing_only_the_fix_does() -> None:
    several = "a_optimizer.step()\nb_optimizer.step()\n"
    (found,) = lift_more(change(f"{several}log(«gs»)", "[gs]"))
    assert bodies(found)[0] == "value__0 = gradients__0__name"
    with pytest.raises(UnknownName):
        lift_more(change(f"{several}log(«a_optimizer»)", "[a_optimizer]"))


def test_what_the_code_around_names_may_not_change_in_between() -> None:
    with pytest.raises(NotVerifiable, match="`c` is assigned in between"):
        lift_more(change("clip_grad_norm_(ps, c)\n«c = c * 2»\nlog(c)", "c = c * 3", roles=()))


def test_statements_above_say_where_a_value_comes_from() -> None:
    code = "norms = []\nfor g in gs:\n    norms.append(torch.norm(g))\nother = log(1)\nlog(«norms»)"
    (found,) = lift_more(change(code, "list(norms)"))
    lines = "norms = []\nfor g in gradients__0__name:\n    norms.append(torch__norm(g))\n"
    assert bodies(found)[:2] == (f"{lines}value__2 = norms", f"{lines}value__2 = builtins__list(norms)")
    assert found.seeds == ()


def test_statements_above_are_followed_further_up() -> None:
    code = "a = torch.norm(gs)\nb = a * 2\nlog(«b»)"
    (found,) = lift_more(change(code, "b + 0"))
    assert bodies(found)[0] == f"a = {NORM}\nb = a * 2\nvalue__2 = b"
    with pytest.raises(UnknownName) as caught:
        lift_more(change("b = unknown * 2\nreturn «b»", "b + 0"))
    assert caught.value.name == "unknown"


def test_functions_of_a_target_of_ones_own_are_those_of_the_runtime() -> None:
    text = "import torch\nfrom lab.clips import clip_grad_norm_\n\nlog(torch.nn.utils.clip_grad_norm_(ps, c))\n"
    start, end = text.index("torch.nn.utils"), text.index("(ps")
    fix = Fix("Change", Safety.SAFE, (Edit(start, end, "clip_grad_norm_"),), roles=ROLES)
    (found,) = lift(Change(text, fix, "lab.clips"))
    assert bodies(found)[:2] == (
        "value__0 = torch__nn__utils__clip_grad_norm_(parameters__0__name, max_norm__0__name)",
        "value__0 = clipcheck__runtime__clip_grad_norm_(parameters__0__name, max_norm__0__name)",
    )
    with pytest.raises(UnknownName):
        lift(Change(text, fix))


def test_both_texts_of_a_fix_and_the_edits_that_are_none_of_imports() -> None:
    text = "import os\nx = 1\n"
    fix = Fix("Change", Safety.SAFE, (Edit(0, 0, "import a\n"), Edit(14, 15, "2")), (Edit(10, 10, "import b\n"),))
    asked = Change(text, fix)
    assert asked.after == asked.new.text == "import a\nimport os\nimport b\nx = 2\n"
    assert asked.old.text == text and asked.edits == [Edit(14, 15, "2")]
