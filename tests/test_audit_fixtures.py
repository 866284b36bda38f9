"""Static and dynamic agree: what the rules find in a fixture is seen in it when it runs, and not after the fix."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from conftest import PROJECT

torch = pytest.importorskip("torch")

import audited  # noqa: E402

# The rules about what happens to gradients. The others are about arguments that raise, what the returned norm is taken
# for, or how a norm is computed: a training looks the same with and without them.
RULES = (*range(101, 113), 115, 117, 201, 301, 303, 304, 305, 308, 505)
# These ask for objects or packages that are not made here.
UNTRIED = {
    *("CLIP105/after_4", "CLIP105/before_4", "CLIP105/clean", "CLIP110/before_4", "CLIP110/before_6", "CLIP110/clean"),
    *("CLIP111/before_3", "CLIP111/clean", "CLIP115/clean", "CLIP117/clean", "CLIP201/before_2", "CLIP201/clean"),
    *("CLIP301/before_4", "CLIP301/clean_2", "CLIP301/clean_3", "CLIP305/clean", "CLIP308/before_2", "CLIP308/clean"),
}


def name_of(path: Path) -> str:
    return f"{path.parent.name[:7]}/{path.stem}"


FIXTURES = [
    path
    for path in sorted((PROJECT / "fixtures").glob("CLIP*/*.py"))
    if int(path.parent.name[4:7]) in RULES and name_of(path) not in UNTRIED
]

# Where the audit says something else than the rule, and why that is right: what it says, by fixture and function.
DIFFERENT: dict[tuple[str, str], tuple[set[str], str]] = {
    ("CLIP103/before_2", "main"): (set(), "torch's `clip_grad_value_` raises where there is no gradient at all"),
    ("CLIP107/before", "train"): (
        set(),
        "a result that is thrown away leaves no trace: the steps are called unclipped",
    ),
    ("CLIP107/before_2", "train"): (set(), "as above"),
    ("CLIP107/before_3", "train"): (set(), "as above"),
    ("CLIP108/before_3", "train"): ({"CLIP303"}, "the scaler raises before a clip of a second micro-batch"),
    ("CLIP303/before_2", "train"): ({"CLIP303"}, "the scaler raises before a clip of a second micro-batch"),
    ("CLIP111/before", "train"): ({"CLIP110"}, "each of its groups holds one parameter"),
    ("CLIP201/clean", "test_rejects_zero"): ({"CLIP201"}, "it expects an error of torch, which accepts the zero"),
    ("CLIP505/before", "train"): (set(), "it harms nothing: the audit notes it without an exit code"),
    ("CLIP505/before", "looser"): (set(), "as above"),
}
# What cannot be called here with made-up objects.
NOT_RUN = {
    "CLIP102/before_2": "a method of a class without a constructor",
    "CLIP106/before_3: per_sample": "it asks for samples of one tensor each",
    "CLIP106/clean: own": "it asks for another library's function",
    "CLIP106/clean: one_by_one": "it asks for several models",
    "CLIP106/clean: leaf": "it asks for a tensor with a gradient, not a model",
    "CLIP107/clean: returned": "it asks for one parameter",
    "CLIP117/before_2": "methods of a class",
    "CLIP117/clean: shared_encoder": "it asks for an encoder and a head",
    "CLIP117/clean: wrapped": "it asks for a distributed model",
    "CLIP110/clean: modules": "it asks for several models",
    "CLIP111/before_2: clip": "it asks for parts of a model",
    "CLIP111/clean: each_steps": "it asks for several agents",
    "CLIP112/clean: clip": "it asks for models of several parts",
}
# Functions that end early: torch raises, or the made-up model has no such part.
RAISES = {
    ("CLIP101/clean", "weight_clipping"),
    ("CLIP103/before_2", "main"),
    ("CLIP104/clean", "computed_again"),
    ("CLIP110/clean", "groups"),
    ("CLIP111/clean", "own_limit"),
    ("CLIP117/clean", "made_elsewhere"),
    ("CLIP201/before", "train"),
    ("CLIP201/clean", "other_libraries"),
    ("CLIP201/clean", "test_rejects_zero"),
    ("CLIP308/before", "train"),
    ("CLIP505/clean", "clip"),
}


@pytest.mark.parametrize("path", FIXTURES, ids=name_of)
def test_the_audit_sees_what_the_rule_finds(path: Path) -> None:
    ran = 0
    for function, expected in audited.functions(path):
        key = (name_of(path), function.__name__)
        try:
            seen = audited.audited(function, path)
        except audited.Missing:
            if ": ".join(key) not in NOT_RUN:
                raise
            continue
        ran += 1
        want, _ = DIFFERENT.get(key, (set(expected) if path.stem.startswith("before") else set(), ""))
        notes = {code for code in seen.notes if code in want}  # rules that the audit only notes
        assert seen.codes | notes == want, f"{key}: {seen}"
        assert seen.troubles == []
        raises = re.search(r"^# claim: raises", path.read_text(encoding="utf-8")) and "before" in path.stem
        assert (seen.raised is not None) == bool(raises or key in RAISES), f"{key}: {seen.raised!r}"
    assert ran or name_of(path) in NOT_RUN or any(key.startswith(f"{name_of(path)}:") for key in NOT_RUN)


@pytest.mark.parametrize("stem", ["before", "before_2", "before_3", "after", "after_2", "after_3"])
def test_a_clamp_that_is_thrown_away_is_told_from_one_that_is_not(stem: str) -> None:
    path = next((PROJECT / "fixtures").glob(f"CLIP107-*/{stem}.py"))
    ((function, _),) = audited.functions(path)
    assert audited.audited(function, path).how == {"unclipped" if stem.startswith("before") else "by hand"}


def test_every_difference_is_of_a_fixture_that_is_there() -> None:
    there = {(name_of(path), function.__name__) for path in FIXTURES for function, _ in audited.functions(path)}
    assert {key for key in set(DIFFERENT) | RAISES if key[0] not in UNTRIED} <= there
    assert all(reason for _, reason in DIFFERENT.values())
    known = {name for name, _ in there} | UNTRIED | {"CLIP102/before_2", "CLIP117/before_2"}
    assert {key.partition(":")[0] for key in NOT_RUN} <= known
