"""Two and three mistakes in one place: the fix of one uncovers or blocks the other, and the result is still right.

A training loop consists of a measurement, a clip, an order and a framework; each has a right version, and others that
a rule finds. Every mistake of one kind is combined with every mistake of the other kinds.
"""

from __future__ import annotations

import ast
import itertools
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from clipcheck.catalogue import RULES
from clipcheck.engine.file import check_text
from clipcheck.engine.results import FileReport
from clipcheck.rule import Safety
from clipcheck.settings.keys import Settings


class Mistake(NamedTuple):
    """What a rule finds: lines that replace the right ones, and what they need at the top of the file."""

    code: str
    lines: str
    imports: str = ""


MEASURES = [
    Mistake("CLIP001", "total = 0.0\nfor p in model.parameters():\n    total += p.grad.norm().item() ** 2\nlog(total ** 0.5)"),
    Mistake("CLIP001", "norm = sum(p.grad.norm().item() ** 2 for p in model.parameters()) ** 0.5"),
    Mistake("CLIP004", "total_norm = 0.0\nfor p in model.parameters():\n    total_norm += p.grad.norm()\nlog(total_norm)"),
    Mistake("CLIP005", "norm = torch.norm(torch.stack([p.grad.norm() for p in model.parameters()]))\nlog(norm)"),
    Mistake("CLIP006", "norm = 0.0\nfor p in model.parameters():\n    norm += p.grad.norm() ** 2\nlog(norm ** 1 / 2)"),
    Mistake("CLIP007", "grad_norm = torch.nn.utils.get_total_norm(model.parameters())\nlog(grad_norm)"),
    Mistake("CLIP010", "log([p.grad.norm().item() for p in model.parameters()])"),
    Mistake("CLIP205", 'log(torch.nn.utils.clip_grad_norm_(model.parameters(), float("inf")))'),
]  # fmt: skip
CLIPS = [
    Mistake("CLIP002", "torch.nn.utils.clip_grad_norm(model.parameters(), limit)"),
    Mistake("CLIP002", "clip_grad_norm(model.parameters(), limit)", "from torch.nn.utils import clip_grad_norm"),
    Mistake(
        "CLIP008",
        "ps = list(model.parameters())\nlength = torch.norm(torch.stack([p.grad.norm() for p in ps]))\n"
        "if length > limit:\n    for p in ps:\n        p.grad.mul_(limit / length)",
    ),
    Mistake("CLIP011", "torch.nn.utils.clip_grad_norm_(model.parameters(), limit)"),
    Mistake("CLIP110", "for p in model.parameters():\n    torch.nn.utils.clip_grad_norm_(p, limit)"),
    Mistake("CLIP106", "torch.nn.utils.clip_grad_norm_([p.grad for p in model.parameters()], limit)"),
    Mistake("CLIP202", "torch.nn.utils.clip_grad_norm_(model.parameters, limit)"),
    Mistake("CLIP203", 'torch.nn.utils.clip_grad_norm_(model.parameters(), limit, norm_type="two")'),
    Mistake("CLIP204", "torch.nn.utils.clip_grad_norm_(model.parameters(), clip_value=limit)"),
    Mistake("CLIP501", "clipped_norm = torch.nn.utils.clip_grad_norm_(model.parameters(), limit)\nlog(clipped_norm)"),
    Mistake("CLIP505", "torch.nn.utils.clip_grad_norm_(model.parameters(), limit)\n" * 2),
]  # fmt: skip
ORDERS = [
    Mistake("CLIP101", "optimizer.zero_grad()\nBACKWARD\nSTEP\nMEASURE\nCLIP"),
    Mistake("CLIP102", "optimizer.zero_grad()\nMEASURE\nCLIP\nBACKWARD\nSTEP"),
    Mistake("CLIP108", "BACKWARD\nMEASURE\nCLIP\nif i % 4 == 0:\n    STEP\n    optimizer.zero_grad()"),
    Mistake("CLIP104", "BACKWARD\noptimizer.zero_grad()\nMEASURE\nCLIP\nSTEP"),
]
FRAMEWORKS = [
    Mistake("CLIP403", "accelerator.backward(loss)\noptimizer.step()", "from accelerate import Accelerator"),
    Mistake("CLIP411", "fabric.backward(loss)\noptimizer.step()"),
    Mistake("CLIP301", "scaler.scale(loss).backward()\nscaler.step(optimizer)\nscaler.update()"),
]
RIGHT = (
    Mistake("", ""),
    Mistake("", "torch.nn.utils.clip_grad_norm_(model.parameters(), limit)"),
    Mistake("", "optimizer.zero_grad()\nBACKWARD\nMEASURE\nCLIP\nSTEP"),
    Mistake("", "loss.backward()\noptimizer.step()"),
)
KINDS = (MEASURES, CLIPS, ORDERS, FRAMEWORKS)
ALL = Settings(frozenset(RULES), safety=Safety.UNSAFE)


def program(measure: Mistake, clip: Mistake, order: Mistake, framework: Mistake) -> str:
    backward, step = framework.lines.split("\n", 1)
    body = "i, (x, y) = item\nloss = loss_fn(model(x), y)\n" + order.lines
    for word, lines in (("BACKWARD", backward), ("STEP", step), ("MEASURE", measure.lines), ("CLIP", clip.lines)):
        body = "\n".join(_put(line, word, lines) for line in body.split("\n"))
    loop = "".join(f"        {line}\n" for line in body.split("\n") if line.strip())
    imports = "".join(f"{one.imports}\n" for one in (framework, clip) if one.imports)
    arguments = "model, optimizer, loader, loss_fn, limit, log, accelerator, fabric, scaler"
    return f"import torch\n{imports}\n\ndef train({arguments}):\n    for item in enumerate(loader):\n{loop}"


def _put(line: str, word: str, lines: str) -> str:
    pad = line[: len(line) - len(line.lstrip())]
    return "\n".join(pad + one for one in lines.split("\n")) if line.strip() == word else line


def meetings(count: int) -> Iterator[tuple[Mistake, ...]]:
    """The programs with this number of mistakes, each of a different kind."""
    for kinds in itertools.combinations(range(len(KINDS)), count):
        for mistakes in itertools.product(*(KINDS[kind] for kind in kinds)):
            parts = list(RIGHT)
            for kind, mistake in zip(kinds, mistakes, strict=True):
                parts[kind] = mistake
            yield tuple(parts)


def name(parts: tuple[Mistake, ...]) -> str:
    return "-".join(part.code for part in parts if part.code)


def fixed(text: str) -> FileReport:
    return check_text("x.py", text, Settings(frozenset(RULES), fix=True, safety=Safety.UNSAFE))


@pytest.mark.parametrize("parts", [*meetings(1)], ids=name)
def test_one_mistake_is_found(parts: tuple[Mistake, ...]) -> None:
    assert name(parts) in {finding.code for finding in check_text("x.py", program(*parts), ALL).findings}


PAIRS = [*meetings(2)]
THREE = [*meetings(3)][::9]


def test_there_are_many() -> None:
    assert len({frozenset(part.code for part in parts) for parts in PAIRS}) >= 60


@pytest.mark.parametrize("parts", [*PAIRS, *THREE], ids=name)
def test_several_mistakes_end_without_fixable_findings(parts: tuple[Mistake, ...]) -> None:
    text = program(*parts)
    report = fixed(text)
    assert report.errors == ()
    assert [(finding.code, finding.place.line) for finding in report.findings if finding.fix is not None] == []
    ast.parse(report.now)
    again = fixed(report.now.decode())
    assert (again.fixed, again.fixed_data, again.errors) == ((), None, ())
    assert report.now.decode().count("unscale_(") <= 1, "a second call raises"
