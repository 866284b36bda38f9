"""Static and dynamic agree: what the rules find in a fixture is seen in it when it runs, and not after the fix."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import PROJECT

torch = pytest.importorskip("torch")

import torch.distributed as dist  # noqa: E402
from audited import OTHERS, audited, name_of, plays  # noqa: E402

from clipcheck.audit.faults import FAULTS, STRANGERS  # noqa: E402
from clipcheck.audit.report import report  # noqa: E402
from clipcheck.audit.watch import Watch  # noqa: E402
from clipcheck.catalogue import RULES  # noqa: E402

# The rules about what happens to gradients in a step. The others are about how a norm is computed, arguments that raise, or
# what the returned norm is taken for: a training looks the same with and without them.
OF_STEPS = [code for code in RULES if code[4] in "134" or code in ("CLIP201", "CLIP505")]

# What a run cannot show, or this one: nothing is reported under these codes here.
CANNOT = {
    "CLIP107": "a result that is thrown away leaves no trace: the steps are called unclipped",
    "CLIP113": "a norm that nothing uses looks like one that is logged: the steps are called unclipped",
    "CLIP116": "a run takes one of the branches: its steps are called clipped, or not clipped",
    "CLIP306": "apex scales by itself, unwatched: a note says that other code changes gradients after the clip",
    "CLIP307": "apex steps copies of the parameters: a note says that no optimizer steps what is clipped",
    "CLIP402": "Lightning raises before the first step",
    "CLIP405": "FSDP1 does not train without a GPU; its parameters are made up in another test",
    "CLIP406": "it takes two processes: the tests of the ranks",
    "CLIP407": "formatting raises, and the program ends with its own error",
    "CLIP412": "the norm is hand-written: the steps are said to use gradients that other code changed",
    "CLIP414": "the other ranks wait in the collective: the program hangs, and nothing can be reported",
}
# Where the audit says something else than the rule, and why that is right: what it says, by fixture and function.
DIFFERENT: dict[tuple[str, str], tuple[set[str], str]] = {
    ("CLIP101/before_5", "adversarial"): (
        {"CLIP117"},
        "the generator's backward comes between the discriminator's step and the clip, which no step uses",
    ),
    ("CLIP101/before_5", "two_parts"): ({"CLIP117"}, "as above: the head's backward comes in between"),
    ("CLIP101/before_5", "by_its_optimizer"): ({"CLIP117"}, "as above: the actor's backward comes in between"),
    ("CLIP101/clean", "whose_step_is_not_known"): ({"CLIP101"}, "here `optimizer` steps the critic before the clip"),
    ("CLIP101/clean", "not_stepped_each_time"): (
        {"CLIP104", "CLIP108", "CLIP117"},
        "here every second batch is zeroed before the discriminator's step, which moves nothing",
    ),
    ("CLIP101/clean", "maybe_no_step"): ({"CLIP101"}, "it is given parts here, so it does step before it clips"),
    ("CLIP106/before_4", "clip"): ({"CLIP106"}, "the rule says it where gradients are passed to it"),
    ("CLIP103/before_2", "main"): (set(), "torch's `clip_grad_value_` raises where there is no gradient at all"),
    ("CLIP105/before_4", "train"): (set(), "the clip is hand-written: the steps are called unclipped"),
    ("CLIP105/clean", "another_name"): ({"CLIP108"}, "the harness steps once after its loop, which clips each batch"),
    ("CLIP108/clean", "stepped_in_a_loop_of_its_own"): (
        {"CLIP108"},
        "each part is clipped indeed; the rule makes no statement where the step is in another loop",
    ),
    ("CLIP108/clean", "a_loop_that_zeroes"): (
        {"CLIP101"},
        "the step of the inner loop has used the gradients; only every second clip is before another step",
    ),
    ("CLIP108/before_3", "train"): ({"CLIP303"}, "the scaler raises before a clip of a second micro-batch"),
    ("CLIP301/clean_4", "Overrides"): (
        {"CLIP301"},
        "its base class unscales nowhere, so it does clip scaled gradients; the rule ignores overridden hooks",
    ),
    ("CLIP303/before_3", "one_part"): (
        set(),
        "called once here: it unscales again where it is called for another part",
    ),
    ("CLIP303/before_2", "train"): ({"CLIP303"}, "the scaler raises before a clip of a second micro-batch"),
    ("CLIP110/before_4", "train"): (
        set(),
        "each parameter has an optimizer of its own, so all of it is clipped at once",
    ),
    ("CLIP110/before_6", "train"): (set(), "some modules have several parameters: the audit notes CLIP111"),
    ("CLIP111/before", "train"): ({"CLIP110"}, "each of its groups holds one parameter"),
    ("CLIP114/clean", "expected"): (
        {"CLIP114", "CLIP201"},
        "a test that expects the error; the harness steps after it",
    ),
    ("CLIP201/clean", "test_rejects_zero"): ({"CLIP201"}, "it expects an error of torch, which accepts the zero"),
    ("CLIP413/before_5", "on_xla"): (
        set(),
        "XLA's reduction is none of torch.distributed: the steps are said to use gradients that other code changed",
    ),
    ("CLIP309/before", "train"): (set(), "the norm is hand-written, and no function that is watched computes it"),
    ("CLIP309/before_2", "late"): (set(), "as above"),
    ("CLIP309/before_2", "by_accelerate"): (set(), "as above"),
    ("CLIP309/before_2", "one_branch_has_a_scaler"): (set(), "as above"),
}
# Functions that end early: torch or a framework raises, or what is made up has no such part.
RAISES = {
    ("CLIP105/clean", "of_unknown_lengths"),
    ("CLIP303/before_3", "train"),
    ("CLIP303/before_3", "helped"),
    ("CLIP103/before_2", "main"),
    ("CLIP105/clean", "of_a_collection"),
    ("CLIP111/clean", "sharded"),
    ("CLIP113/clean", "Watch"),
    ("CLIP201/before", "train"),
    ("CLIP201/before_2", "train"),
    ("CLIP201/clean", "other_libraries"),
    ("CLIP201/clean", "test_rejects_zero"),
    ("CLIP201/clean", "types_of_the_call"),
    ("CLIP301/clean_2", "NotLightning"),
    ("CLIP301/clean_3", "trainers"),
    ("CLIP301/clean_4", "Prepares"),
    ("CLIP301/clean_4", "PreparesOtherwise"),
    ("CLIP305/clean", "other_words"),
    ("CLIP308/before", "train"),
    ("CLIP308/before_2", "train"),
    ("CLIP402/before", "main"),
    ("CLIP402/clean", "main"),
    ("CLIP413/clean", "another_backward"),
    ("CLIP413/clean", "by_hooks"),
}
RAISING_RULES = {"CLIP405", "CLIP407", "CLIP412", "CLIP414"}  # of which most need shards, or FSDP1 without a GPU

FIXTURES = [p for p in sorted((PROJECT / "fixtures").glob("CLIP*/*.py")) if name_of(p).partition("/")[0] in OF_STEPS]


TITLES = ("Which faults it can see", "What it cannot see")


@pytest.fixture(autouse=True, scope="module")
def _one_rank(frozen_heap: None) -> Iterator[None]:
    """A job of one process, for what wraps models and reduces gradients."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize("path", FIXTURES, ids=name_of)
def test_the_audit_sees_what_the_rule_finds(path: Path) -> None:
    code = name_of(path).partition("/")[0]
    ran = 0
    for play in plays(path):
        seen, key = audited(play), (play.fixture, play.name)
        ran += 1
        expected = play.expected.intersection(OF_STEPS) - CANNOT.keys() if path.stem.startswith("before") else set()
        want, _ = DIFFERENT.get(key, (expected, ""))
        notes = {code for code in seen.notes if code in want}  # rules that the audit only notes
        assert seen.codes | notes == want, f"{key}: {seen}"
        assert seen.troubles == []
        raises = (
            play.name == "train" and "before" in path.stem and "# claim: raises" in path.read_text(encoding="utf-8")
        )
        if code not in RAISING_RULES:
            assert (seen.raised is not None) == bool(raises or key in RAISES), f"{key}: {seen.raised!r}"
    assert ran


@pytest.mark.parametrize("stem", ["before", "before_2", "before_3", "after", "after_2", "after_3"])
def test_a_discarded_clamp_is_distinguished_from_a_used_one(stem: str) -> None:
    path = next((PROJECT / "fixtures").glob(f"CLIP107-*/{stem}.py"))
    (play,) = plays(path)
    assert audited(play).how == {"unclipped" if stem.startswith("before") else "by hand"}


@pytest.mark.parametrize(("code", "note"), [("CLIP306", "changed by other code"), ("CLIP307", "no optimizer steps")])
def test_what_apex_hides_is_noted(code: str, note: str) -> None:
    path = next((PROJECT / "fixtures").glob(f"{code}-*/before.py"))
    assert all(note in audited(play).text for play in plays(path))


def test_every_rule_of_the_step_is_judged_or_argued() -> None:
    judged = {fault.code for fault in (*FAULTS, *STRANGERS)}
    assert set(OF_STEPS) - judged == CANNOT.keys() - judged
    assert all(CANNOT.values())
    assert all(reason for _, reason in DIFFERENT.values())


def test_the_guide_names_what_is_seen_and_what_is_not() -> None:
    guide = (PROJECT / "docs" / "guides" / "audit.md").read_text(encoding="utf-8")
    seen, unseen = (guide.partition(f"## {title}\n")[2].partition("\n## ")[0] for title in TITLES)
    judged = {fault.code for fault in (*FAULTS, *STRANGERS)} - {""} | {"CLIP406"}
    assert set(re.findall(r"CLIP\d+", seen)) == judged
    assert CANNOT.keys() - judged <= set(re.findall(r"CLIP\d+", unseen))


def test_every_listed_difference_belongs_to_an_existing_fixture() -> None:
    there = {(play.fixture, play.name) for path in FIXTURES for play in plays(path)}
    assert {*DIFFERENT, *RAISES, *OTHERS} <= there


def _reduced_flat(elements: int) -> set[str]:
    """What is said of a step whose clipped gradients change after an all-reduce of so many elements."""
    other, net = torch.nn.Linear(50, 50), torch.nn.Linear(3, 2)
    optimizers = [torch.optim.SGD(one.parameters(), lr=0.1) for one in (other, net)]
    other(torch.ones(1, 50)).sum().backward()  # its gradients wait for a later step
    watch = Watch(10).begin()
    try:
        net(torch.ones(1, 3)).sum().backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 0.1)
        dist.all_reduce(torch.zeros(elements))
        for p in net.parameters():
            assert p.grad is not None
            p.grad.mul_(0.5)
        optimizers[1].step()
    finally:
        log = watch.end()
    return {one.code for part in report(log).optimizers for one in part.findings if one.is_fault}


def test_a_reduced_copy_is_as_large_as_the_gradients_of_one_optimizer() -> None:
    assert _reduced_flat(8) == {"CLIP413"}
    assert _reduced_flat(7) == set()
