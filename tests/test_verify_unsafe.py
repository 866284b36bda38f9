"""What an unsafe fix may change, and the notes about it; nothing counts as verified without a comparison."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from clipcheck.rule import Edit, Fix, Role, Safety, Verdict
from clipcheck.verify.sites import Verifier

pytest.importorskip("torch", reason="needs the extra clipcheck[torch]")

HEAD = "import math\nimport functools\nimport numpy as np\nimport torch\nfrom torch.nn.utils import clip_grad_norm_\nfrom clipcheck.runtime import grad_norm\n\n\n"
PARAMETERS = ("params", Role.PARAMETERS)
LIMIT = ("limit", Role.MAX_NORM)


@pytest.fixture(scope="module")
def verify() -> Iterator[Verifier]:
    with Verifier() as verifier:
        yield verifier


def tried(
    verify: Verifier,
    code: str,
    new: str,
    safety: Safety = Safety.UNSAFE,
    roles: tuple[tuple[str, Role], ...] = (PARAMETERS, LIMIT),
) -> Verdict:
    """The verdict on replacing the text between `«` and `»` in a function by `new`."""
    lines = "".join(f"    {line}\n" for line in code.splitlines())
    text = f"{HEAD}def step(model, optimizer, params, limit, loss, log, skipped, writer):\n{lines}"
    start, end = text.index("«"), text.index("»") - 1
    fix = Fix("Change", safety, (Edit(start, end, new),), roles=roles)
    return verify(text.replace("«", "").replace("»", ""), fix)


# --- torch's clip instead of a handwritten one ----------------------------------------------------------------------

BY_HAND = """\
«norm = torch.sqrt(sum(torch.sum(p.grad ** 2) for p in params))
    if norm > limit:
        for p in params:
            p.grad[:] *= limit / norm»"""


def by_hand(verify: Verifier, new: str, safety: Safety = Safety.UNSAFE) -> Verdict:
    return tried(verify, BY_HAND.replace("\n    ", "\n"), new, safety)


def test_torchs_epsilon_is_noted(verify: Verifier) -> None:
    found = by_hand(verify, "clip_grad_norm_(params, limit)")
    assert found.kind == "verified", found
    assert "gradients are smaller, since torch adds 1e-6 to the norm, with small gradients" in found.reason
    assert "all gradients become NaN with a gradient with NaN" in found.reason
    assert any(note.startswith("gradients that stay above max_norm with") for note in found.exceptions)


def test_an_epsilon_is_no_excuse_for_a_safe_fix(verify: Verifier) -> None:
    assert by_hand(verify, "clip_grad_norm_(params, limit)", Safety.SAFE).kind == "refuted"


NO_CLIP = {
    "a limit a little lower": "clip_grad_norm_(params, limit * 0.9997)",
    "another epsilon": "norm = grad_norm(params)\n    for p in params:\n        p.grad.mul_(torch.clamp(limit / (norm + 1e-4), max=1.0))",
    "twice the limit": "clip_grad_norm_(params, 2 * limit)",
    "the norm alone": "norm = grad_norm(params)",
    "some of the parameters": "clip_grad_norm_(list(params)[1:], limit)",
}


@pytest.mark.parametrize("name", NO_CLIP)
def test_another_clip_is_not_verified(verify: Verifier, name: str) -> None:
    found = by_hand(verify, NO_CLIP[name])
    assert found.kind == "not verified" and found.reason.startswith("an unsafe fix"), found


# --- the norm before the clip instead of the one after it -----------------------------------------------------------

AFTER = "«clip_grad_norm_(params, limit)\nnorm = torch.stack([p.grad.norm() for p in params]).norm()»\nlog(norm)"
NO_NORM = {
    "half of it": "norm = clip_grad_norm_(params, limit) / 2",
    "without a clip": "norm = torch.stack([p.grad.norm() for p in params]).norm()",
    "another limit": "norm = clip_grad_norm_(params, 2 * limit)",
    "another norm": "norm = clip_grad_norm_(params, limit, 1.0)",
    "the limit": "clip_grad_norm_(params, limit)\n    norm = torch.tensor(limit)",
}


def test_the_norm_before_the_clip_is_the_right_one(verify: Verifier) -> None:
    found = tried(verify, AFTER, "norm = clip_grad_norm_(params, limit)")
    assert found.kind == "verified", found
    assert any(note.startswith("a norm of gradients that are clipped") for note in found.exceptions)


@pytest.mark.parametrize("name", NO_NORM)
def test_what_is_not_the_norm_before_the_clip(verify: Verifier, name: str) -> None:
    assert tried(verify, AFTER, NO_NORM[name]).kind == "not verified"


# --- a number instead of a tensor, and statements above -------------------------------------------------------------

NUMBERS = {
    "of a clip": "norm = clip_grad_norm_(params, limit)\nlog(np.isnan(«norm»))",
    "of a list": "norms = []\nfor p in params:\n    norms.append(p.grad.norm())\nlog(torch.stack(norms).norm() if skipped else «torch.stack(norms).norm()»)",
}


@pytest.mark.parametrize("name", NUMBERS)
def test_a_number_instead_of_a_tensor_is_noted(verify: Verifier, name: str) -> None:
    code = NUMBERS[name]
    old = code[code.index("«") + 1 : code.index("»")]
    found = tried(verify, code, f"{old}.item()")
    assert found.kind == "verified" and "`the value` is a float instead of a tensor" in found.reason, found
    assert tried(verify, code, f"{old}.item() * 2").kind == "not verified"
    assert tried(verify, code, f"float({old} > 1)").kind == "not verified"
    assert tried(verify, code, f"{old}.item()", Safety.SAFE).kind == "refuted"


def test_a_sum_without_parameters_is_not_a_tensor(verify: Verifier) -> None:
    code = "total = 0\nfor p in params:\n    total += p.grad.norm() ** 2\nlog(np.sqrt(«total»))"
    found = tried(verify, code, "total.item()")
    assert found.kind == "not verified" and "no parameters: raises" in found.reason, found
    assert tried(verify, code, "float(total)").kind == "verified"


def test_a_value_that_others_bind_in_between_is_followed(verify: Verifier) -> None:
    code = "norm = clip_grad_norm_(params, limit)\nscaled = norm * 2\nif skipped:\n    log(«scaled»)"
    assert tried(verify, code, "(norm * 2)").kind == "verified"
    assert tried(verify, code, "norm").kind == "not verified"


REDUCE = "«functools.reduce(lambda total, p: total + p.grad.norm().item() ** 2, params, 0.0) ** 0.5»"


def test_a_sum_by_reduce(verify: Verifier) -> None:
    code = f"return {REDUCE}"
    assert tried(verify, code, "grad_norm(params).item()", Safety.SAFE).kind == "verified"
    assert tried(verify, code, "grad_norm(params).item() ** 2", Safety.SAFE).kind == "refuted"
    assert tried(verify, code, "grad_norm(params, 1.0).item()", Safety.SAFE).kind == "refuted"


# --- what was not compared is not verified --------------------------------------------------------------------------

STEP = """\
optimizer.zero_grad()
loss.backward()
total = 0.0
for name, p in model.named_parameters():
    if name not in skipped:
        total += p.grad.norm().item() ** 2
total = «total ** 0.5»
clip_grad_norm_(model.parameters(), limit)
optimizer.step()
log(total)"""


@pytest.mark.parametrize("safety", [Safety.SAFE, Safety.UNSAFE])
def test_right_steps_do_not_verify_a_value_that_is_left_out(verify: Verifier, safety: Safety) -> None:
    found = tried(verify, STEP, "0.0", safety, roles=())
    assert found.kind != "verified", found


def test_right_steps_do_not_verify_the_result_of_a_clip(verify: Verifier) -> None:
    """The steps are the same, but the name has a different value."""
    code = "optimizer.zero_grad()\nloss.backward()\n«norm = clip_grad_norm_(model.parameters(), limit, foreach=log())»\noptimizer.step()\nwriter(norm)"
    new = "norm = clip_grad_norm_(model.parameters(), limit, foreach=log()) * 2"
    assert tried(verify, code, new, Safety.SAFE, roles=()).kind == "not verified"


def test_what_raises_with_every_gradient_is_not_compared(verify: Verifier) -> None:
    code = "total = 0.0\nfor group in params:\n    for p in group['params']:\n        total += p.grad.norm().item() ** 2\nreturn «total ** 0.5»"
    found = tried(verify, code, "math.sqrt(total)", Safety.SAFE)
    assert found.kind == "not verified" and "wherever there is a gradient" in found.reason, found
