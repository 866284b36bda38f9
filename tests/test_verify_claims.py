"""Sabotage: for each claim a right fix that holds, and mutations of it, each of which must be refuted."""

from __future__ import annotations

import pytest

from clipcheck.verify.claims import Claim, Kind, Outcome, read

torch = pytest.importorskip("torch", reason="needs the extra clipcheck[torch]")

from clipcheck.verify.trial import is_rename, judge  # noqa: E402

HEAD = """\
import math
import torch
from clipcheck.runtime import clip_grad_norm_, get_total_norm, grad_norm
"""

SAME_BEFORE = (
    HEAD
    + """
def train(model, optimizer, batches, loss_fn, record, max_norm):
    for inputs, targets in batches:
        optimizer.zero_grad()
        loss = loss_fn(model(inputs), targets)
        loss.backward()
        total = 0.0
        for p in model.parameters():
            if p.grad is not None:
                total += p.grad.norm(2).item() ** 2
        total = total ** 0.5
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm)
        optimizer.step()
        record(total, norm, len(batches))
"""
)
SAME_AFTER = SAME_BEFORE.replace(
    """        total = 0.0
        for p in model.parameters():
            if p.grad is not None:
                total += p.grad.norm(2).item() ** 2
        total = total ** 0.5
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm)
""",
    """        total = grad_norm(model.parameters()).item()
        norm = clip_grad_norm_(model.parameters(), max_norm)
""",
)
CLIP = "        norm = clip_grad_norm_(model.parameters(), max_norm)\n"
STEP = "        optimizer.step()\n"
SAME_MUTATIONS = {
    "the clip dropped": (
        CLIP,
        "        norm = get_total_norm([p.grad for p in model.parameters() if p.grad is not None])\n",
    ),
    "the norm squared": ("grad_norm(model.parameters()).item()", "grad_norm(model.parameters()).item() ** 2"),
    "the wrong root": ("grad_norm(model.parameters()).item()", "grad_norm(model.parameters()).item() ** 0.5"),
    "the wrong norm type": ("grad_norm(model.parameters())", "grad_norm(model.parameters(), 1.0)"),
    "the wrong norm type of the clip": ("max_norm)\n        optimizer", "max_norm, math.inf)\n        optimizer"),
    "the clip after the step": (CLIP + STEP, STEP + CLIP),
    "a tensor for a float": (".item()", ""),
    "a float for a tensor": (
        "norm = clip_grad_norm_(model.parameters(), max_norm)",
        "norm = clip_grad_norm_(model.parameters(), max_norm).item()",
    ),
    "no guard for None": (
        "grad_norm(model.parameters()).item()",
        "get_total_norm([p.grad for p in model.parameters()]).item()",
    ),
    "the limit squared": (
        "clip_grad_norm_(model.parameters(), max_norm)",
        "clip_grad_norm_(model.parameters(), max_norm ** 2)",
    ),
    "weights for gradients": ("grad_norm(model.parameters())", "get_total_norm(list(model.parameters()))"),
    "the norm after the clip": (
        "        total = grad_norm(model.parameters()).item()\n" + CLIP,
        CLIP + "        total = grad_norm(model.parameters()).item()\n",
    ),
    "one parameter left out": ("grad_norm(model.parameters())", "grad_norm(list(model.parameters())[:-1])"),
    "one parameter not clipped": (
        "clip_grad_norm_(model.parameters()",
        "clip_grad_norm_(list(model.parameters())[:-1]",
    ),
    "a value clip instead": (
        "norm = clip_grad_norm_(model.parameters(), max_norm)",
        "norm = get_total_norm([p.grad for p in model.parameters() if p.grad is not None]); torch.nn.utils.clip_grad_value_(model.parameters(), max_norm)",
    ),
    "the graph kept": ("record(total, norm", "record(total, norm.clone().requires_grad_()"),
    "the norm in low precision": (
        "grad_norm(model.parameters()).item()",
        "grad_norm(model.parameters()).bfloat16().item()",
    ),
    "an integer for a float": ("grad_norm(model.parameters()).item()", "round(grad_norm(model.parameters()).item())"),
    "a value not recorded": ("record(total, norm", "record(total"),
    "a step too many": (STEP, STEP + STEP),
    "a coefficient without its epsilon": (
        CLIP,
        "        norm = grad_norm(model.parameters())\n        for p in model.parameters():\n            if p.grad is not None:\n                p.grad.mul_(min(1.0, max_norm / norm.item()))\n",
    ),
    "an infinite loop's early end": ("    for inputs, targets in batches:", "    for inputs, targets in batches[:-1]:"),
}

BOUNDED_AFTER = (
    HEAD
    + """
def train(model, optimizer, batches, loss_fn, record, max_norm):
    for inputs, targets in batches:
        optimizer.zero_grad()
        loss_fn(model(inputs), targets).backward()
        clip_grad_norm_(model.parameters(), max_norm)
        optimizer.step()
"""
)
BOUND = "        clip_grad_norm_(model.parameters(), max_norm)\n"
BOUNDED_BEFORE = BOUNDED_AFTER.replace(BOUND + STEP, STEP + BOUND)
BOUNDED_MUTATIONS = {
    "the clip dropped": (BOUND, ""),
    "the clip after the step": (BOUND + STEP, STEP + BOUND),
    "the limit squared": ("max_norm)\n", "max_norm ** 2)\n"),
    "the root of the limit": ("max_norm)\n", "max_norm ** 0.5)\n"),
    "the limit doubled": ("max_norm)\n", "2 * max_norm)\n"),
    "the limit halved": ("max_norm)\n", "max_norm / 2)\n"),
    "the wrong norm type": ("max_norm)\n", "max_norm, math.inf)\n"),
    "the 1-norm": ("max_norm)\n", "max_norm, 1)\n"),
    "one parameter left out": ("model.parameters()", "list(model.parameters())[1:]"),
    "each parameter by itself": (
        BOUND,
        "        for p in model.parameters():\n            clip_grad_norm_(p, max_norm)\n",
    ),
    "gradients for parameters": ("model.parameters()", "[p.grad for p in model.parameters()]"),
    "an exhausted generator": ("(model.parameters()", "(iter([])"),
    "a value clip instead": ("clip_grad_norm_(", "torch.nn.utils.clip_grad_value_("),
    "clipped every other time": (BOUND, BOUND.replace("        clip", "        len(inputs) > 4 and clip")),
    "the gradients thrown away": (BOUND, "        optimizer.zero_grad()\n"),
    "all gradients zeroed": ("max_norm)\n", "0.0)\n"),
    "no step": (STEP, ""),
    "scaled as with a loss scale": ("max_norm)\n", "max_norm / 65536)\n"),
}

FINITE_BEFORE = (
    HEAD
    + """
def train(model, optimizer, batches, loss_fn, record, max_norm):
    for inputs, targets in batches:
        optimizer.zero_grad()
        loss_fn(model(inputs), targets).backward()
        clip_grad_norm_(model.parameters(), math.inf)
        optimizer.step()
"""
)
GUARD = """\
        norm = grad_norm(model.parameters())
        if not torch.isfinite(norm):
            continue
"""
FINITE_AFTER = FINITE_BEFORE.replace("        clip_grad_norm_(model.parameters(), math.inf)\n", GUARD)
FINITE_MUTATIONS = {
    "no guard": (GUARD, ""),
    "the guard reversed": ("if not torch", "if torch"),
    "the step before the guard": (GUARD + STEP, STEP + GUARD),
    "only NaN is seen": ("not torch.isfinite(norm)", "torch.isnan(norm) and False"),
    "only one parameter is seen": ("model.parameters())\n        if", "list(model.parameters())[:0])\n        if"),
    "a guard that goes on": ("            continue\n", "            pass\n"),
    "the clip alone": (GUARD, "        clip_grad_norm_(model.parameters(), max_norm)\n"),
    "a value clip alone": (
        GUARD,
        "        torch.nn.utils.clip_grad_value_(model.parameters(), -max_norm)\n        model.head.bias.grad.fill_(math.nan)\n",
    ),
    "the weights looked at": ("grad_norm(model.parameters())", "get_total_norm(list(model.parameters()))"),
    "raises instead": ("            continue\n", "            raise FloatingPointError('not finite')\n"),
    "never steps": (STEP, ""),
    "NaN for infinity": (
        GUARD,
        "        for p in model.parameters():\n            p.grad.nan_to_num_(nan=math.nan, posinf=math.nan, neginf=0.0)\n",
    ),
}

RAISES_AFTER = BOUNDED_AFTER
RAISES_BEFORE = RAISES_AFTER.replace(
    "clip_grad_norm_(model.parameters()", "torch.nn.utils.clip_grad_norm_(model.parameters"
)
RAISES_MUTATIONS = {
    "the method not called": ("model.parameters()", "model.parameters"),
    "tuples for parameters": ("model.parameters()", "model.named_parameters()"),
    "dicts for parameters": ("model.parameters()", "optimizer.param_groups"),
    "the module for its parameters": ("model.parameters()", "model"),
    "the optimizer": ("model.parameters()", "optimizer"),
    "the state": ("model.parameters()", "model.state_dict()"),
    "no limit": ("max_norm)\n", "None)\n"),
    "no such norm type": ("max_norm)\n", "max_norm, 'l2')\n"),
    "a keyword that is not there": ("max_norm)\n", "clip_value=max_norm)\n"),
    "another name": ("clip_grad_norm_(model", "clip_gradient_norm_(model"),
    "raises when it overflows": ("max_norm)\n", "max_norm, error_if_nonfinite=True)\n"),
    "no step": (STEP, ""),
    "the clip dropped": (BOUND, ""),
    "the limit squared": ("max_norm)\n", "max_norm**2)\n"),
    "one parameter left out": ("model.parameters()", "list(model.parameters())[1:]"),
    "no gradient": (BOUND, BOUND + "        model.head.bias.grad.fill_(None)\n"),
}

NEARLY = """
def nearly_(parameters, max_norm):
    return torch.nn.utils.clip_grad_norm_(parameters, max_norm)

def nearly(parameters, max_norm):
    return torch.nn.utils.clip_grad_norm_(parameters, max_norm * 1.0000001)
"""

PAIRS: dict[Kind, tuple[str, str]] = {
    "same": (SAME_BEFORE, SAME_AFTER),
    "bounded": (BOUNDED_BEFORE, BOUNDED_AFTER),
    "finite": (FINITE_BEFORE, FINITE_AFTER),
    "raises": (RAISES_BEFORE, RAISES_AFTER),
}
MUTATIONS: dict[Kind, dict[str, tuple[str, str]]] = {
    "same": SAME_MUTATIONS,
    "bounded": BOUNDED_MUTATIONS,
    "finite": FINITE_MUTATIONS,
    "raises": RAISES_MUTATIONS,
}


def outcome(kind: Kind, before: str, after: str) -> Outcome:
    return judge(Claim(kind), before, after)


@pytest.mark.parametrize("kind", PAIRS)
def test_a_right_fix_holds(kind: Kind) -> None:
    found = outcome(kind, *PAIRS[kind])
    assert found.holds is True, found.reason


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind in MUTATIONS for name in MUTATIONS[kind]])
def test_a_wrong_fix_is_refuted(kind: Kind, name: str) -> None:
    old, new = MUTATIONS[kind][name]
    before, after = PAIRS[kind]
    mutated = after.replace(old, new)
    assert mutated != after, "the mutation does not apply"
    found = outcome(kind, before, mutated)
    assert found.holds is False, found
    assert found.reason


@pytest.mark.parametrize("kind", ["bounded", "finite", "raises"])
def test_nothing_to_fix_is_no_fix(kind: Kind) -> None:
    after = PAIRS[kind][1]
    found = outcome(kind, after, after)
    assert found.holds is False and "nothing to fix" in found.reason


def test_a_rename_must_agree_to_the_last_bit() -> None:
    after = BOUNDED_AFTER.replace(HEAD, "import torch\n").replace("clip_grad_norm_(", "torch.nn.utils.clip_grad_norm_(")
    before = after.replace("clip_grad_norm_(", "clip_grad_norm(")
    assert is_rename(before, after)
    assert not is_rename(before, after.replace("max_norm)\n", "max_norm * 1.0)\n"))
    assert outcome("same", before, after).difference == 0.0
    # a rename of another function that is only nearly the same
    other = after.replace("torch.nn.utils.clip_grad_norm_(", "nearly(") + NEARLY
    exact = after.replace("torch.nn.utils.clip_grad_norm_(", "nearly_(") + NEARLY
    assert is_rename(exact, other)
    found = outcome("same", exact, other)
    assert found.holds is False and "allowed is 0" in found.reason


def test_before_that_raises_on_none_alone_is_a_note() -> None:
    before = SAME_BEFORE.replace("            if p.grad is not None:\n    ", "")
    found = outcome("same", before, SAME_AFTER)
    assert found.holds is True
    assert any("without gradient" in note and "AttributeError" in note for note in found.notes)


def test_before_that_always_raises_verifies_nothing() -> None:
    found = outcome("same", SAME_BEFORE.replace("total ** 0.5", "total ** missing"), SAME_AFTER)
    assert found.holds is False and "before raised under every setting" in found.reason


def test_a_program_without_train_is_no_experiment() -> None:
    found = outcome("same", "x = 1\n", SAME_AFTER)
    assert found.holds is False and "`train`" in found.reason


def test_an_argument_that_the_harness_lacks_is_named() -> None:
    text = SAME_AFTER.replace("max_norm):", "max_norm, scheduler):")
    found = outcome("same", text, text)
    assert found.holds is False and "`scheduler`" in found.reason


def test_gradients_inside_a_closure_count() -> None:
    after = (
        HEAD
        + """
def train(model, optimizer, batches, loss_fn, record, max_norm):
    for inputs, targets in batches:
        def closure():
            optimizer.zero_grad()
            loss = loss_fn(model(inputs), targets)
            loss.backward()
            clip_grad_norm_(model.parameters(), max_norm)
            return loss
        optimizer.step(closure)
"""
    )
    clip = "            clip_grad_norm_(model.parameters(), max_norm)\n"
    before = after.replace(clip, "").replace("        optimizer.step(", clip[4:] + "        optimizer.step(")
    assert outcome("bounded", before, after).holds is True


def test_one_limit_may_be_shared_by_several_optimizers() -> None:
    after = (
        HEAD
        + """
def train(model, make_optimizer, batches, loss_fn, record, max_norm):
    first, second = make_optimizer(model.body.parameters()), make_optimizer(model.head.parameters())
    for inputs, targets in batches:
        model.zero_grad()
        loss_fn(model(inputs), targets).backward()
        clip_grad_norm_(model.parameters(), max_norm)
        first.step()
        second.step()
"""
    )
    assert (
        outcome("bounded", after.replace("model.parameters(), max", "model.body.parameters(), max"), after).holds
        is True
    )


@pytest.mark.parametrize(
    ("line", "claim"),
    [
        ("# claim: same", Claim("same")),
        ("# claim: bounded\r", Claim("bounded")),
        ("# claim: raises, not verified here: needs two processes", Claim("raises", "needs two processes")),
        ("# claim: better", None),
        ("# claim: same as above", None),
        ("import torch  # claim: same", None),
        ("", None),
    ],
)
def test_the_first_line_names_the_claim(line: str, claim: Claim | None) -> None:
    assert read(f"{line}\nimport torch\n") == claim


@pytest.mark.parametrize("spelling", ["torch.nn.utils.get_total_norm(", "nn.utils.get_total_norm(", "get_total_norm("])
def test_what_this_torch_does_not_have_is_not_verified(spelling: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Older ones lack the two halves of the clip, which says nothing about the fix."""
    monkeypatch.delattr(torch.nn.utils, "get_total_norm", raising=False)
    imports = "from torch import nn\nfrom torch.nn.utils import clip_grad_norm_, get_total_norm\n"
    after = SAME_AFTER.replace("from clipcheck.runtime import clip_grad_norm_, get_total_norm, grad_norm\n", imports)
    after = after.replace("grad_norm(model.parameters())", f"{spelling}[p.grad for p in model.parameters()])")
    tried = outcome("same", SAME_BEFORE, after)
    assert tried.holds is None
    assert tried.reason == "needs torch.nn.utils.get_total_norm, of torch 2.6"


def test_a_name_of_the_runtime_is_not_torchs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.nn.utils, "get_total_norm", raising=False)
    assert outcome("same", SAME_BEFORE, SAME_AFTER).holds is True
