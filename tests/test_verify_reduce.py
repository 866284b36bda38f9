"""What is left of a training step: what concerns the gradients, in the harness's names, and nothing else."""

from __future__ import annotations

import ast

import pytest

from clipcheck.python.source import Source
from clipcheck.verify.allowed import NotVerifiable
from clipcheck.verify.parts import parts
from clipcheck.verify.program import Program
from clipcheck.verify.reduce import reduced

HEAD = "import torch\nfrom torch.nn.utils import clip_grad_norm_, clip_grad_value_\n\n"
SIGNATURE = "model, optimizer, batches, loss_fn, max_norm, scaler"
CLIP = "clip_grad_norm_(model.parameters(), max_norm)\n"


def left(body: str) -> list[str]:
    """The lines that are left of the body of a function; `model` stands for the harness's model, and so on."""
    lines = "".join(f"    {line}\n" for line in body.splitlines())
    program = Program(Source(f"{HEAD}def train({SIGNATURE}):\n{lines}"))
    found = parts(program, 1)
    names = found.joined(found)
    setup, turn = reduced(program, 1, names)
    assert setup == []
    text = ast.unparse(ast.fix_missing_locations(ast.Module(turn, [])))
    for name in names.roles:
        text = text.replace(name, name.partition("__")[0])
    for name in ("loss", "batches"):
        text = text.replace(f"{name}__0__call()", name)
    return text.splitlines()


SAME = {
    "a step": "optimizer.zero_grad()\nloss.backward()\n" + CLIP + "optimizer.step()",
    "a scaler": "scaler.scale(loss).backward()\nscaler.unscale_(optimizer)\n" + CLIP + "scaler.step(optimizer)\nscaler.update()",
    "a norm that decides": "loss.backward()\nnorm = " + CLIP + "if norm > 5:\n    optimizer.zero_grad()\noptimizer.step()",
    "a loop that scales": "for p in model.parameters():\n    p.grad.mul_(0.5)",
    "a loop that assigns": "for p in model.parameters():\n    p.grad = p.grad * 2",
    "a comprehension that clears": "[p.grad.zero_() for p in model.parameters()]",
    "a loop that skips": "for p in model.parameters():\n    if p.grad is None:\n        continue\n    p.grad.clamp_(-0.1, 0.1)",
    "a list of parameters": "params = [p for p in model.parameters() if p.requires_grad]\nclip_grad_norm_(params, max_norm)",
    "several names": "a, b = (model.parameters(), 3)\nclip_grad_norm_(a, max_norm)",
    "a list that is filled": "norms = []\nfor p in model.parameters():\n    norms.append(p.grad.norm())",
    "a sum that decides": "total = 0\nfor p in model.parameters():\n    total += p.grad.norm() ** 2\nif total > 1:\n    optimizer.step()",
}  # fmt: skip


@pytest.mark.parametrize("name", SAME)
def test_what_concerns_the_gradients_stays(name: str) -> None:
    assert left(SAME[name]) == SAME[name].splitlines()


LESS = {
    "the loss": ("loss: float = loss_fn(model(x))\nloss.backward()", "loss.backward()"),
    "what is logged": ("norm = " + CLIP + "log(norm)", CLIP),
    "an annotated name": ("norm: float = " + CLIP, CLIP),
    "an annotated name that decides": ("norm: float = " + CLIP + "if norm > 5:\n    optimizer.step()", "norm = " + CLIP + "if norm > 5:\n    optimizer.step()"),
    "a count": ("seen += 1\noptimizer.step()", "optimizer.step()"),
    "a loop without training": ("for x in things:\n    print(x)\noptimizer.step()", "optimizer.step()"),
    "a loop that waits": ("while busy:\n    print(1)\noptimizer.step()", "optimizer.step()"),
    "a test without consequences": ("if train:\n    print(1)\nelse:\n    print(2)\noptimizer.step()", "optimizer.step()"),
    "a test that calls": ("if ready():\n    pass\noptimizer.step()", "optimizer.step()"),
    "a block": ("with autocast():\n    loss = loss_fn(model(x))\nloss.backward()", "loss.backward()"),
    "an asynchronous block": ("async with lock:\n    loss.backward()", "loss.backward()"),
    "what handles errors": (
        "try:\n    loss.backward()\nexcept ValueError:\n    optimizer.zero_grad()\nelse:\n    print(1)\nfinally:\n    optimizer.step()",
        "loss.backward()\noptimizer.step()",
    ),
    "what makes the optimizer": ("optimizer = make(model)\noptimizer.step()", "optimizer.step()"),
    "constants": ("'docs'\n1\noptimizer.step()", "optimizer.step()"),
    "inner functions and imports": ("def inner():\n    loss.backward()\nimport os\noptimizer.step()", "optimizer.step()"),
    "arguments of backward": ("loss.backward(retain_graph=True)", "loss.backward()"),
    "arguments of zero_grad": ("optimizer.zero_grad(set_to_none=True)\noptimizer.step()", "optimizer.zero_grad()\noptimizer.step()"),
    "a call without an effect": ("model.parameters()\noptimizer.step()", "optimizer.step()"),
    **{
        f"what surrounds {act}": (f"print({act})\noptimizer.step()", f"{act}\noptimizer.step()")
        for act in ("scaler.update()", "scaler.unscale_(optimizer)", "optimizer.zero_grad()", CLIP.strip(), "loss.backward()", "scaler.step(optimizer)")
    },
    "what is printed": ("print(p.grad for p in model.parameters())\noptimizer.step()", "optimizer.step()"),
}  # fmt: skip


@pytest.mark.parametrize("name", LESS)
def test_what_does_not_is_left_out(name: str) -> None:
    before, after = LESS[name]
    assert left(before) == after.splitlines()


OTHER = {
    "an act in a test": ("if " + CLIP.strip() + " > 1:\n    print(1)\noptimizer.step()", CLIP + "optimizer.step()"),
    "an unknown test": ("if train:\n    loss.backward()\nelse:\n    evaluate()", "if flag():\n    loss.backward()"),
    "an unknown test with both branches": (
        "if train:\n    loss.backward()\nelse:\n    optimizer.step()",
        "if flag():\n    loss.backward()\nelse:\n    optimizer.step()",
    ),
    "only the other branch": ("if train:\n    print(1)\nelse:\n    optimizer.step()", "if flag():\n    pass\nelse:\n    optimizer.step()"),
    "the batches": ("for x, y in loader:\n    loss.backward()\n    optimizer.step()", "for _ in batches:\n    loss.backward()\n    optimizer.step()"),
    "an asynchronous loop": ("async for x in loader:\n    loss.backward()", "for x in batches:\n    loss.backward()"),
    "an endless loop": (
        "while True:\n    loss.backward()\n    optimizer.step()\n    if done(loss):\n        break",
        "for _ in batches:\n    loss.backward()\n    optimizer.step()\n    if flag():\n        break",
    ),
    "numbered batches": (
        "for i, x in enumerate(loader, 1):\n    loss.backward()\n    if i % 4 == 0:\n        optimizer.step()",
        "for i, _ in enumerate(batches, 1):\n    loss.backward()\n    if i % 4 == 0:\n        optimizer.step()",
    ),
    "a range": (
        "for i in range(10):\n    loss.backward()\n    if i % 4 == 0:\n        optimizer.step()",
        "for i in batches:\n    loss.backward()\n    if i % 4 == 0:\n        optimizer.step()",
    ),
    "how many there are": (
        "for i in range(10):\n    loss.backward()\n    if (i + 1) % every == 0:\n        optimizer.step()",
        "for i in batches:\n    loss.backward()\n    if (i + 1) % count == 0:\n        optimizer.step()",
    ),
    "the number of ranks": (
        "for p in model.parameters():\n    p.grad /= world",
        "for p in model.parameters():\n    p.grad /= count",
    ),
    "the end": ("loss.backward()\nreturn optimizer.step()", "loss.backward()\noptimizer.step()\ncontinue"),
    "an early end": ("if bad:\n    return\noptimizer.step()", "if flag():\n    continue\noptimizer.step()"),
    "attributes": (
        "self.params = list(model.parameters())\nclip_grad_norm_(self.params, max_norm)",
        "local_0 = list(model.parameters())\nclip_grad_norm_(local_0, max_norm)",
    ),
    "a limit that is made": (
        "x = float('inf') if a else 3\nclip_grad_norm_(model.parameters(), x)",
        "clip_grad_norm_(model.parameters(), max_norm)",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", OTHER)
def test_what_is_known_of_the_rest_is_said_in_the_harness_words(name: str) -> None:
    before, after = OTHER[name]
    assert left(before) == after.splitlines()


UNKNOWN = {
    "a loop over something": ("for x in things:\n    optimizer.zero_grad()\noptimizer.step()", "`things` cannot be resolved"),
    "a closure": ("loss.backward()\noptimizer.step(closure)", "there is no stand-in for `optimizer.step(closure)`"),
    "an end within a loop": ("for x in batches:\n    loss.backward()\n    return", "it returns from within a loop"),
    "gradients of something": ("for p in things:\n    p.grad.zero_()", "`things` cannot be resolved"),
}  # fmt: skip


@pytest.mark.parametrize("name", UNKNOWN)
def test_what_is_not_known_is_not_made_up(name: str) -> None:
    body, why = UNKNOWN[name]
    with pytest.raises(NotVerifiable) as caught:
        left(body)
    assert str(caught.value) == why
