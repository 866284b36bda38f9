"""Sites: a user's statements are lifted, run and judged; sabotaged fixes are refuted; and nothing else ever runs."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from clipcheck.documents.read import read
from clipcheck.engine.file import check_file
from clipcheck.rule import Edit, Fix, Role, Safety, Verdict
from clipcheck.settings.keys import Settings
from clipcheck.verify.allowed import NotVerifiable
from clipcheck.verify.changes import Change
from clipcheck.verify.lift import lift
from clipcheck.verify.sites import Verifier

pytest.importorskip("torch", reason="needs the extra clipcheck[torch]")

IMPORTS = "import math\nimport numpy as np\nimport torch\nfrom clipcheck.runtime import clip_grad_norm_, get_total_norm, grad_norm\n"
PARAMETERS = (("model.parameters()", Role.PARAMETERS),)


@pytest.fixture(scope="module")
def verify() -> Iterator[Verifier]:
    with Verifier() as verifier:
        yield verifier


def rewrite(before: str, after: str, roles: tuple[tuple[str, Role], ...]) -> tuple[str, Fix]:
    """A program with `before` in a function, and the fix that replaces it by `after`."""
    head = IMPORTS + "\ndef step(model, params, grads, args, norm_type, optimizer, log):\n"
    indented, changed = ("".join(f"    {line}\n" for line in text.splitlines()) for text in (before, after))
    text = head + indented + "    log(total)\n"
    start = len(head)
    return text, Fix("Rewrite", Safety.SAFE, (Edit(start, start + len(indented), changed),), roles=roles)


def verdict(verify: Verifier, before: str, after: str, roles: tuple[tuple[str, Role], ...] = PARAMETERS) -> Verdict:
    return verify(*rewrite(before, after, roles))


# --- right fixes, and sabotage of them ------------------------------------------------------------------------------

LOOP = """\
total = 0.0
for p in model.parameters():
    if p.grad is not None:
        total += p.grad.data.norm(2).item() ** 2
total = total ** 0.5"""
RIGHT_LOOP = "total = grad_norm(model.parameters()).item()"
CLIP = "total = torch.nn.utils.clip_grad_norm_(params, args.clip)"
RIGHT_CLIP = "total = clip_grad_norm_(params, args.clip)"
CLIP_ROLES = (("params", Role.PARAMETERS), ("args.clip", Role.MAX_NORM))
LIST = """\
total = 0.0
for g in grads:
    total += g.norm(norm_type).item() ** norm_type
total = total ** (1.0 / norm_type)"""
RIGHT_LIST = "total = get_total_norm(grads, norm_type).item()"
LIST_ROLES = (("grads", Role.GRADIENTS), ("norm_type", Role.NORM_TYPE))
TENSOR = "total = torch.sqrt(sum(p.grad.detach().norm() ** 2 for p in model.parameters() if p.grad is not None))"
RIGHT_TENSOR = "total = grad_norm(model.parameters())"
SQUARES = """\
total = 1.0
for p in params:
    if p.requires_grad and p.grad is not None:
        total += (p.grad ** 2).sum().item()"""
RIGHT_SQUARES = "total = 1.0\ntotal += grad_norm([p for p in params if p.requires_grad]).item() ** 2"

RIGHT = {
    "a loop": (LOOP, RIGHT_LOOP, PARAMETERS),
    "a clip": (CLIP, RIGHT_CLIP, CLIP_ROLES),
    "a list of gradients": (LIST, RIGHT_LIST, LIST_ROLES),
    "squares with a filter": (SQUARES, RIGHT_SQUARES, (("params", Role.PARAMETERS),)),
}
LOOP_MUTATIONS = {
    "no root": "total = grad_norm(model.parameters()).item() ** 2",
    "a root too many": "total = grad_norm(model.parameters()).item() ** 0.5",
    "the wrong norm type": "total = grad_norm(model.parameters(), 1.0).item()",
    "the largest element": "total = grad_norm(model.parameters(), math.inf).item()",
    "a tensor for a float": "total = grad_norm(model.parameters())",
    "a numpy number for a float": "total = np.float64(grad_norm(model.parameters()).item())",
    "an integer for a float": "total = int(grad_norm(model.parameters()).item())",
    "no guard for None": "total = get_total_norm([p.grad for p in model.parameters()]).item()",
    "no answer for no gradients": (
        "total = torch.stack([p.grad.norm() for p in model.parameters() if p.grad is not None]).norm().item()"
    ),
    "the weights": "total = get_total_norm(list(model.parameters())).item()",
    "one parameter left out": "total = grad_norm(list(model.parameters())[1:]).item()",
    "only what is trained": "total = grad_norm([p for p in model.parameters() if p.requires_grad]).item()",
    "a sum of norms": "total = sum(p.grad.norm().item() for p in model.parameters() if p.grad is not None)",
    "clipped on the way": "total = clip_grad_norm_(model.parameters(), 1.0).item()",
    "in low precision": "total = grad_norm(model.parameters()).bfloat16().item()",
    "nothing at all": "total = 0.0",
    "another name": "norm = grad_norm(model.parameters()).item()",
}
CLIP_MUTATIONS = {
    "the clip dropped": "total = grad_norm(params)",
    "the limit squared": "total = clip_grad_norm_(params, args.clip ** 2)",
    "the limit doubled": "total = clip_grad_norm_(params, 2 * args.clip)",
    "a float for a tensor": "total = clip_grad_norm_(params, args.clip).item()",
    "the wrong norm type": "total = clip_grad_norm_(params, args.clip, 1.0)",
    "the norm after the clip": "clip_grad_norm_(params, args.clip)\ntotal = grad_norm(list(params))",
    "twice": "clip_grad_norm_(params, args.clip)\ntotal = clip_grad_norm_(params, args.clip)",
    "a value clip": "total = grad_norm(list(params))\ntorch.nn.utils.clip_grad_value_(params, args.clip)",
    "the gradients for the parameters": "total = clip_grad_norm_([p.grad for p in params], args.clip)",
    "each by itself": "for p in params:\n    total = clip_grad_norm_(p, args.clip)",
    "a list that is read twice": "grad_norm(params)\ntotal = clip_grad_norm_(params, args.clip)",
    "always scaled": (
        "params = list(params)\ntotal = grad_norm(params)\n"
        "for p in params:\n    if p.grad is not None:\n        p.grad.mul_(args.clip / (total + 1e-6))"
    ),
}
LIST_MUTATIONS = {
    "the norm type fixed": "total = get_total_norm(grads).item()",
    "no root": "total = get_total_norm(grads, norm_type).item() ** norm_type",
    "a tensor for a float": "total = get_total_norm(grads, norm_type)",
}
SQUARES_MUTATIONS = {
    "a root that was not there": "total = 1.0\ntotal += grad_norm([p for p in params if p.requires_grad]).item()",
    "the filter dropped": "total = 1.0\ntotal += grad_norm(params).item() ** 2",
    "the start dropped": "total = grad_norm([p for p in params if p.requires_grad]).item() ** 2",
    "the start taken into the root": "total = (1.0 + grad_norm([p for p in params if p.requires_grad]).item()) ** 2",
}
SABOTAGE = {
    (shape, name): (RIGHT[shape][0], after, RIGHT[shape][2])
    for shape, mutations in (
        ("a loop", LOOP_MUTATIONS),
        ("a clip", CLIP_MUTATIONS),
        ("a list of gradients", LIST_MUTATIONS),
        ("squares with a filter", SQUARES_MUTATIONS),
    )
    for name, after in mutations.items()
}


SPELLED = {
    "a filter": """\
total = 0.0
for p in filter(lambda p: p.grad is not None, model.parameters()):
    total += p.grad.data.norm(2).item() ** 2
total = total ** 0.5""",
    "a map": "total = sum(map(lambda g: g.norm().item() ** 2, [p.grad for p in model.parameters() if p.grad is not None])) ** 0.5",
    "functions handed on": "total = sum(map(float, map(torch.square, map(torch.norm, [p.grad for p in model.parameters() if p.grad is not None])))) ** 0.5",
    "annotations": """\
total: float = 0.0
norms: List[torch.Tensor] = []
for _, p in enumerate(reversed(list(model.parameters()))):
    if p.grad is not None:
        norms.append(p.grad.norm())
for norm, _ in zip(norms, norms):
    total += norm.item() ** 2
total = total ** 0.5""",
    "names in a comparison": """\
total = 0.0
for name, p in model.named_parameters():
    if p.grad is not None and "batch_norm.running_mean" not in name:
        total += p.grad.norm(p=2).item() ** 2
total = math.sqrt(total)""",
}


@pytest.mark.parametrize("name", SPELLED)
def test_ordinary_spellings_stay_verifiable(verify: Verifier, name: str) -> None:
    roles = (*PARAMETERS, ("model", Role.MODEL))
    found = verdict(verify, SPELLED[name], RIGHT_LOOP, roles)
    assert found.kind == "verified", found


@pytest.mark.parametrize("shape", RIGHT)
def test_a_right_fix_is_verified(verify: Verifier, shape: str) -> None:
    found = verdict(verify, *RIGHT[shape])
    assert found.kind == "verified", found
    assert found.cases > 25


@pytest.mark.parametrize(("shape", "name"), SABOTAGE)
def test_a_sabotaged_fix_is_refuted(verify: Verifier, shape: str, name: str) -> None:
    found = verdict(verify, *SABOTAGE[shape, name])
    assert found.kind == "refuted", found
    assert "(before " in found.reason and ", after " in found.reason


def test_a_detached_result_may_not_join_the_graph(verify: Verifier) -> None:
    before = "total = sum(g.detach().norm() ** 2 for g in grads) ** 0.5"
    found = verdict(verify, before, "total = sum(g.norm() ** 2 for g in grads) ** 0.5", LIST_ROLES[:1])
    assert found.kind == "refuted" and "graph" in found.reason


def test_a_result_that_leaves_the_graph_is_noted(verify: Verifier) -> None:
    before = "total = torch.stack([g.norm() for g in grads]).norm()"
    found = verdict(verify, before, "total = get_total_norm(grads)", LIST_ROLES[:1])
    assert found.kind == "verified"
    assert "`total` is part of the graph before only with gradients that are part of the graph" in found.reason
    assert f"; what else is different: {found.reason}" in str(found)
    assert not any("graph" in note for note in found.exceptions)


def test_a_result_of_low_precision_gradients_may_be_wider_and_is_noted(verify: Verifier) -> None:
    before = "total = torch.stack([g.norm() for g in grads]).norm()"
    found = verdict(verify, before, "total = get_total_norm(grads)", LIST_ROLES[:1])
    assert found.kind == "verified"
    assert "`total` is float32 instead of bfloat16 with bfloat16 gradients" in found.reason


KINDS = {
    "a higher precision": ("float32 became float64", "total = get_total_norm(grads).double()"),
    "another shape": ("shape () against (1,)", "total = get_total_norm(grads).reshape(1)"),
    "a number": ("a torch.Tensor became a float", "total = get_total_norm(grads).item()"),
    "an integer tensor": ("float32 became int64", "total = get_total_norm(grads).to(dtype=torch.tensor(1).dtype)"),
}


@pytest.mark.parametrize("name", KINDS)
def test_a_value_keeps_its_kind(verify: Verifier, name: str) -> None:
    reason, after = KINDS[name]
    found = verdict(verify, "total = torch.stack([g.norm() for g in grads]).norm()", after, LIST_ROLES[:1])
    assert found.kind == "refuted" and reason in found.reason


def test_the_smallest_failing_case_is_shown_with_both_values(verify: Verifier) -> None:
    found = verdict(verify, LOOP, LOOP_MUTATIONS["no root"])
    assert found.reason == "gradients [3, 4]: differs by 4 (before total = 5, after total = 25)"


def test_what_only_the_old_code_gets_wrong_is_named(verify: Verifier) -> None:
    unguarded = LOOP.replace("    if p.grad is not None:\n    ", "")
    found = verdict(verify, unguarded, RIGHT_LOOP)
    assert found.kind == "verified"
    assert any(note.startswith("AttributeError with a gradient that is None") for note in found.exceptions)
    assert any(note.startswith("overflow with huge gradients") for note in found.exceptions)


def test_an_unsafe_fix_that_changes_things_is_not_called_refuted(verify: Verifier) -> None:
    text, fix = rewrite(LOOP, LOOP_MUTATIONS["no root"], PARAMETERS)
    found = verify(text, fix._replace(safety=Safety.UNSAFE))
    assert found.kind == "not verified" and found.reason.startswith("an unsafe fix")


def test_a_name_that_is_read_later_must_stay_bound(verify: Verifier) -> None:
    text, fix = rewrite(LOOP, RIGHT_LOOP, PARAMETERS)
    found = verify(text + "    log(p)\n", fix)
    assert found.kind == "refuted" and "`p` is read later" in found.reason


# --- what may not run -----------------------------------------------------------------------------------------------

FORBIDDEN = {
    "a call": "total = 0.0\nopen('x', 'w')",
    "a call of an argument": "total = log(model.parameters())",
    "a method": "total = 0.0\nmodel.save('x')",
    "an import": "import os\ntotal = 0.0",
    "an attribute store": "total = 0.0\nmodel.weight = 1",
    "an item store": "total = 0.0\nlog[0] = 1",
    "a deletion": "total = 0.0\ndel model",
    "a while loop": "total = 0.0\nwhile True:\n    total += 1",
    "a function": "def f():\n    pass\ntotal = 0.0",
    "a class": "class A:\n    pass\ntotal = 0.0",
    "a lambda": "total = (lambda: 0.0)()",
    "an f-string": "total = float(f'{model}')",
    "a comprehension's await": "total = [p async for p in model.parameters()]",
    "a dunder": "total = model.__class__",
    "a dunder of a number": "total = (0.0).__class__.__base__",
    "eval": "total = eval('1.0')",
    "getattr": "total = getattr(model, 'x')",
    "a file of torch's": "total = torch.load('x')",
    "a file of numpy's": "total = np.load('x')",
    "a call of a call": "total = log()()",
    "a global": "global total\ntotal = 0.0",
    "a with": "with open('x') as f:\n    total = 0.0",
    "a try": "try:\n    total = 0.0\nexcept Exception:\n    pass",
    "an assertion": "total = 0.0\nassert log",
    "a raise": "total = 0.0\nraise ValueError",
    "a yield": "total = yield",
    "a starred call of a module": "total = torch.hub.load('x', 'y')",
    "a large number": "total = [0.0] * 10000000000",
    "to_numpy's path": "total = torch.zeros(2).numpy().tofile('x')",
}


@pytest.mark.parametrize("name", FORBIDDEN)
@pytest.mark.parametrize("side", ["before", "after"])
def test_nothing_but_norms_and_clips_is_run(name: str, side: str) -> None:
    sides = (FORBIDDEN[name], RIGHT_LOOP) if side == "before" else (LOOP, FORBIDDEN[name])
    with pytest.raises(NotVerifiable):
        lift(Change(*rewrite(*sides, PARAMETERS)))


def test_an_unknown_name_is_a_reason(verify: Verifier) -> None:
    found = verdict(verify, LOOP.replace("if p.grad is not None", "if p in skipped"), RIGHT_LOOP)
    assert found == Verdict("not verified", reason="`skipped` cannot be resolved")


def test_a_role_without_a_stand_in_is_a_reason() -> None:
    with pytest.raises(NotVerifiable, match="no stand-in for `args`"):
        lift(Change(*rewrite("total = args", "total = args", (("args", Role.SCALER),))))


def test_a_case_that_hangs_gets_a_verdict_and_the_others_run(verify: Verifier, monkeypatch: pytest.MonkeyPatch) -> None:
    endless = "total = sum(p.grad.norm() for p in params for a in range(1000000) for b in range(1000000))"
    with Verifier() as impatient:
        monkeypatch.setattr(impatient._worker, "seconds", 3.0)
        assert verdict(impatient, *RIGHT["a loop"]).kind == "verified"
        found = verdict(impatient, endless, RIGHT_CLIP, CLIP_ROLES)
        assert found.kind == "not verified" and "did not end within 3 s" in found.reason
        found = verdict(impatient, CLIP, endless, CLIP_ROLES)
        assert found.kind == "refuted" and "did not end within 3 s" in found.reason
        assert verdict(impatient, *RIGHT["a clip"]).kind == "verified"


def test_memory_is_bounded(verify: Verifier) -> None:
    if sys.platform != "linux":
        pytest.skip("only Linux bounds the memory of a process")
    big = "total = torch.zeros(40000)\ntotal = (total[:, None] * total[None, :]).sum()"  # 6.4 GB at once
    found = verdict(verify, CLIP, big, CLIP_ROLES)
    assert found.kind == "refuted" and "memory" in found.reason, found
    assert verdict(verify, *RIGHT["a clip"]).kind == "verified"


# --- the user's files -----------------------------------------------------------------------------------------------

TRAIN = """\
import torch
from torch.nn.utils import clip_grad_norm


def step(model, optimizer, loss, log):
    loss.backward()
    total_norm = 0.0
    for p in model.parameters():
        if p.grad is not None:
            total_norm += p.grad.data.norm(2).item() ** 2
    total_norm = total_norm ** 0.5
    log("norm", total_norm)
    clip_grad_norm(model.parameters(), 1.0)
    optimizer.step()
"""
NOT_VERIFIABLE = """\


def other(model, skipped):
    total = 0.0
    for n, p in model.named_parameters():
        if n not in skipped:
            total += p.grad.data.norm(2).item() ** 2
    return total ** 0.5
"""


def clipcheck(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "clipcheck", *words], cwd=cwd, capture_output=True, text=True)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "a project"
    folder.mkdir()
    (folder / "train.py").write_text(TRAIN, encoding="utf-8")
    return folder


def test_verify_shows_a_verdict_on_each_fix(project: Path) -> None:
    done = clipcheck("verify", "--select", "CLIP001,CLIP002", "train.py", cwd=project)
    assert done.returncode == 0, done.stderr
    assert "train.py:10:13: CLIP001 verified on " in done.stdout
    assert "train.py:13:5: CLIP002 verified on " in done.stdout
    assert done.stdout.endswith("Ran 3 fixes: 3 verified, 0 refuted, 0 not verified.\n")
    assert (project / "train.py").read_text(encoding="utf-8") == TRAIN


def test_only_what_is_verified_is_written(project: Path) -> None:
    (project / "train.py").write_text(TRAIN + NOT_VERIFIABLE, encoding="utf-8")
    done = clipcheck("--fix", "--verify", "--select", "CLIP001", "train.py", cwd=project)
    assert done.returncode == 1, done.stderr
    assert "CLIP001 verified on" in done.stdout
    assert "verify: not verified: `skipped` cannot be resolved" in done.stdout
    written = (project / "train.py").read_text(encoding="utf-8")
    assert "total_norm = grad_norm(model.parameters()).item()" in written
    assert written.endswith(NOT_VERIFIABLE)


def test_json_and_diff_carry_the_verdict(project: Path) -> None:
    done = clipcheck("verify", "--select", "CLIP001,CLIP002", "--output-format", "json", "train.py", cwd=project)
    assert {found["verdict"]["kind"] for found in json.loads(done.stdout)} == {"verified"}
    done = clipcheck("--output-format", "json", "train.py", cwd=project)
    assert {found["verdict"] for found in json.loads(done.stdout)} == {None}
    done = clipcheck("--diff", "--verify", "train.py", cwd=project)
    assert "+    total_norm = grad_norm(model.parameters()).item()" in done.stdout
    assert "CLIP001 verified on" in done.stderr


def test_statements_at_the_very_start_are_lifted_without_the_import(verify: Verifier) -> None:
    data = b"for grad in gradients:\n    total_norm += grad.norm(2).item() ** 2\n"
    (finding,) = check_file("fence.py", data, Settings(codes=frozenset({"CLIP001"}))).findings
    assert finding.fix is not None
    assert verify(data.decode(), finding.fix).kind == "verified"


def test_a_refuted_fix_is_reported_as_a_bug_in_clipcheck(tmp_path: Path) -> None:
    def refuting(text: str, fix: Fix, target: str) -> Verdict:
        return Verdict("refuted", 3, reason="with gradients [3, 4] it differs")

    data = TRAIN.encode()
    report = check_file("train.py", data, Settings(fix=True, verify=refuting))
    assert report.fixed == () and report.fixed_data is None
    assert any("is refuted: with gradients [3, 4]" in line and "bug in clipcheck" in line for line in report.errors)


def test_each_verified_fix_is_lifted_from_the_text_it_is_made_for(verify: Verifier) -> None:
    data = TRAIN.replace("\n", "\r\n").encode()
    report = check_file("train.py", data, Settings())
    text = read("train.py", data).programs[0].text
    assert {verify(text, finding.fix).kind for finding in report.findings if finding.fix} == {"verified"}


def test_names_of_comprehensions_do_not_count_as_bound_afterward(verify: Verifier) -> None:
    """Nothing reads the sum, so the names bound afterward are compared; a comprehension's name is not one of them."""
    text = (
        "import torch\n\ntotal = 0.0\nfor group in optimizer.param_groups:\n    for p in group['params']:\n"
        "        total += p.grad.norm(2).item() ** 2\n"
    )
    report = check_file("x.py", text.encode(), Settings(frozenset({"CLIP001"}), fix=True, verify=verify))
    assert report.errors == ()
    assert [finding.verdict.kind for finding in report.fixed if finding.verdict] == ["verified"]
