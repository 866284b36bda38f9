"""What may happen between two acts of a training step so that a rule still finds a mistake there, and what may not.

The programs are those of `test_rules_in_detail`: the body of a loop, in which `{}` stands for the act in between.
"""

from __future__ import annotations

import pytest
from abbreviated import STEPS
from test_rules_in_detail import TOTAL, found, loop

ACTS = {name: name for name in STEPS} | {"edit": "p.grad.mul_(2)", "unknown": "prepare(optimizer)", "print": "print(x)"}
LOGGED = f"log('grad_norm', {TOTAL})"
CLIP = "clip_grad_norm_(ps, 1.0)"
RAISES = "clip_grad_norm_(ps, 1.0, error_if_nonfinite=True)"

# rule, program, acts with which the mistake is still there, acts with which it is not or cannot be told
ROWS = [
    # new gradients, or nobody knows what they are
    ("CLIP101", "Z\nB\nS\n{}\nC", "print U C S SS UP Z", "B SB edit unknown"),
    ("CLIP102", "Z\n{}\nC\nB\nS", "print U C UP Z", "B SB S SS edit unknown"),
    # gradients that were used before they are cleared, or are computed again after that
    ("CLIP104", "B\n{}\nZ\nS", "print B SB U C UP Z", "S SS edit unknown"),
    ("CLIP104", "B\nZ\n{}\nS", "print U C S SS UP Z", "B SB edit unknown"),
    # one step for each micro-batch, or nothing is added up
    ("CLIP108", "B\n{}\nC\nif i % 4 == 0:\n    S\n    Z", "print U C UP", "S SS Z unknown"),
    ("CLIP108", "B\nC\n{}\nif i % 4 == 0:\n    S\n    Z", "print U C UP", "B SB S SS Z unknown"),
    ("CLIP108", "for y in x:\n    B\n    C\n{}\nS\nZ", "print U C UP", "B SB Z edit unknown"),
    # a norm of gradients that something else uses, clips or changes
    ("CLIP113", "B\n{}\nget_total_norm(grads)\nS", "print B SB U UP", "C S SS Z edit unknown"),
    ("CLIP113", "B\nget_total_norm(grads)\n{}\nS", "print U UP S SS", "B SB C Z edit unknown"),
    # the other branch may clip, too, or this one clips something else
    ("CLIP116", "if x:\n    B\n    C\n    S\nelse:\n    B\n    {}\n    S", "print B SB U UP", "C edit unknown"),
    ("CLIP116", "if x:\n    B\n    C\n    {}\n    S\nelse:\n    B\n    S", "print U C UP", "B SB unknown"),
    # gradients that are no longer scaled, or may not be
    ("CLIP301", "SB\n{}\nC\nSS\nUP", "print SB C", "B U S SS UP Z edit unknown"),
    ("CLIP309", "SB\n{}\n" + LOGGED + "\nSS\nUP", "print SB", "B U C S SS UP Z edit unknown"),
    # a scaler forgets what it has unscaled in its step and in its update
    ("CLIP303", "SB\nU\n{}\nU\nSS\nUP", "print B SB C Z edit", "S SS UP unknown"),
    ("CLIP304", "SB\nU\n{}\n" + RAISES + "\nSS\nUP", "print C", "B SB S SS unknown"),
    ("CLIP308", "SB\nU\n{}\nif x:\n    continue\nSS\nUP", "print B SB C Z edit", "UP unknown"),
    # what is measured is neither zero nor what the clip has left
    ("CLIP506", "Z\n{}\n" + LOGGED + "\nB\nS", "print UP Z", "B SB U C S SS edit unknown"),
    ("CLIP507", "B\n" + CLIP + "\n{}\n" + LOGGED + "\nS", "print S UP", "B SB U C Z edit unknown"),
    # the framework has unscaled these gradients, or they are others
    ("CLIP403", "accelerator.backward(loss)\n{}\nC\nS", "print C", "B SB U S SS"),
    ("CLIP411", "fabric.backward(loss)\n{}\nC\nS", "print C", "B SB S SS"),
    ("CLIP413", "B\nC\n{}\nfor p in model.parameters():\n    dist.all_reduce(p.grad)\nS", "print C", "B SB S SS"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("code", "program", "act"), [(code, program, act) for code, program, acts, _ in ROWS for act in acts.split()]
)
def test_an_act_that_does_not_matter(code: str, program: str, act: str) -> None:
    assert found(loop(program.format(ACTS[act])), code) != []


@pytest.mark.parametrize(
    ("code", "program", "act"), [(code, program, act) for code, program, _, acts in ROWS for act in acts.split()]
)
def test_an_act_that_does(code: str, program: str, act: str) -> None:
    assert found(loop(program.format(ACTS[act])), code) == []


TWICE = """\
def measure(ps):
    other = get_total_norm([p.grad for p in ps], 1)
    return get_total_norm([p.grad for p in ps])

def clip(m):
    clip_grad_norm_(m.head.parameters(), 1.0)
    clip_grad_norm_(m.body.parameters(), 1.0)

class A:
    def __init__(self):
        self.opt_g = torch.optim.SGD(self.g.parameters())
        self.opt_d = torch.optim.SGD(self.d.parameters())

    def f(self, ps, loss, optimizer, scaler, xs):
        for x in xs:
            {}
"""
OF_G = "self.opt_g.zero_grad(); B; clip(self.g); self.opt_g.step()"
NORM = "grad_norm = measure(ps)"


@pytest.mark.parametrize(
    ("code", "program", "line"),
    [
        ("CLIP113", "B\nmeasure(ps)\nS", "measure(ps)"),
        ("CLIP117", f"{OF_G}\nself.opt_d.zero_grad()\nB\nclip(self.g)\nself.opt_d.step()", "clip(self.g)"),
        ("CLIP309", f"SB\n{NORM}\nlog(grad_norm)\nSS", NORM),
        ("CLIP506", f"Z\n{NORM}\nlog(grad_norm)\nB\nS", NORM),
        ("CLIP507", f"B\n{CLIP}\n{NORM}\nlog(grad_norm)\nS", NORM),
    ],
)
def test_a_call_that_does_the_same_twice_is_reported_once(code: str, program: str, line: str) -> None:
    assert found(TWICE.format(program.replace("\n", "\n            ")), code) == [line]
