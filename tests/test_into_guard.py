"""Unscaling and clipping of every micro-batch move into the guard of the step, unless that would change more."""

from __future__ import annotations

import pytest

from clipcheck.engine.file import check_file
from clipcheck.rule import Safety
from clipcheck.settings.keys import Settings

HEAD = """\
from torch.nn.utils import clip_grad_norm_


def train(model, optimizer, batches, loss_fn, max_norm, scaler, log, accum):
    for i, (x, y) in enumerate(batches):
"""
BACKWARD = "loss_fn(model(x), y).backward()\n"
CLIP = "clip_grad_norm_(model.parameters(), max_norm)\n"
OTHER = "clip_grad_norm_(other.parameters(), max_norm)\n"
GUARD = "if (i + 1) % accum == 0:\n"
STEP = "    optimizer.step()\n    optimizer.zero_grad()\n"
SCALED = "scaler.scale(loss_fn(model(x), y)).backward()\n"
SCALED_STEP = "    scaler.step(optimizer)\n    scaler.update()\n    optimizer.zero_grad()\n"


def fixed(body: str) -> str:
    """The body of the loop after the fix."""
    lines = "".join(f"        {line}\n" if line else "\n" for line in body.splitlines())
    settings = Settings(frozenset({"CLIP108", "CLIP303"}), fix=True, safety=Safety.UNSAFE)
    report = check_file("x.py", (HEAD + lines).encode(), settings)
    assert report.errors == () and (report.findings or report.fixed)
    after = report.now.decode().removeprefix(HEAD)
    return "".join(line.removeprefix("        ") for line in after.splitlines(keepends=True))


def inner(text: str) -> str:
    return "".join(f"    {line}" for line in text.splitlines(keepends=True))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (BACKWARD + CLIP + GUARD + STEP, BACKWARD + GUARD + inner(CLIP) + STEP),
        (BACKWARD + f"norm = {CLIP}" + GUARD + STEP, BACKWARD + GUARD + inner(f"norm = {CLIP}") + STEP),
        (BACKWARD + f"# why\n{CLIP}" + GUARD + STEP, BACKWARD + GUARD + inner(f"# why\n{CLIP}") + STEP),
        (
            BACKWARD + f"if max_norm:\n    {CLIP}" + GUARD + STEP,
            BACKWARD + GUARD + inner(f"if max_norm:\n    {CLIP}") + STEP,
        ),
        (BACKWARD + CLIP + GUARD + "    log(i)\n" + STEP, BACKWARD + GUARD + "    log(i)\n" + inner(CLIP) + STEP),
        (
            SCALED + "scaler.unscale_(optimizer)\n" + GUARD + SCALED_STEP,
            SCALED + GUARD + "    scaler.unscale_(optimizer)\n" + SCALED_STEP,
        ),
        (
            SCALED + "scaler.unscale_(optimizer)\n" + CLIP + GUARD + SCALED_STEP,
            SCALED + GUARD + "    scaler.unscale_(optimizer)\n" + inner(CLIP) + SCALED_STEP,
        ),
        (
            SCALED + "scaler.unscale_(optimizer)\nlog(1)\n" + CLIP + GUARD + SCALED_STEP,
            SCALED + "log(1)\n" + GUARD + "    scaler.unscale_(optimizer)\n" + inner(CLIP) + SCALED_STEP,
        ),
        (
            SCALED + "scaler.unscale_(optimizer)\n" + GUARD + inner(CLIP) + SCALED_STEP,
            SCALED + GUARD + "    scaler.unscale_(optimizer)\n" + inner(CLIP) + SCALED_STEP,
        ),
        # several of them, above the first that is there already
        (BACKWARD + CLIP + OTHER + GUARD + STEP, BACKWARD + GUARD + inner(CLIP + OTHER) + STEP),
        (BACKWARD + CLIP + GUARD + inner(OTHER) + STEP, BACKWARD + GUARD + inner(CLIP + OTHER) + STEP),
        (
            BACKWARD + CLIP + GUARD + "    with log:\n" + inner(STEP),
            BACKWARD + GUARD + inner(CLIP) + "    with log:\n" + inner(STEP),
        ),
        (
            BACKWARD + f"if max_norm:\n    if log:\n        {CLIP}" + GUARD + STEP,
            BACKWARD + GUARD + inner(f"if max_norm:\n    if log:\n        {CLIP}") + STEP,
        ),
        (
            BACKWARD + f"norm = {CLIP}" + GUARD + STEP + "    log(norm)\n",
            BACKWARD + GUARD + inner(f"norm = {CLIP}") + STEP + "    log(norm)\n",
        ),
    ],
)
def test_what_prepares_the_gradients_moves_above_the_step(before: str, after: str) -> None:
    assert fixed(before) == after


@pytest.mark.parametrize(
    "body",
    [
        BACKWARD + f"norm = {CLIP}" + GUARD + STEP + "log(norm)\n",  # it would be unbound there
        BACKWARD + f"norm = {CLIP}log(norm)\n" + GUARD + STEP,
        BACKWARD + CLIP + "max_norm = max_norm / 2\n" + GUARD + STEP,  # it would clip to another limit
        BACKWARD + CLIP + GUARD + "    max_norm = max_norm / 2\n" + STEP,
        BACKWARD + f"with log:\n    {CLIP}" + GUARD + STEP,
        BACKWARD + f"if max_norm:\n    {CLIP}    log(i)\n" + GUARD + STEP,  # which does something else as well
        BACKWARD + f"if max_norm:\n    {CLIP}else:\n    log(i)\n" + GUARD + STEP,
        BACKWARD + CLIP.replace("\n", "; log(i)\n") + GUARD + STEP,
        BACKWARD + CLIP + GUARD.replace("\n", " optimizer.step()\n"),
        # in functions that others may call as well
        "def go():\n" + STEP + BACKWARD + CLIP + GUARD + "    go()\n",
        "def clip():\n" + inner(CLIP) + BACKWARD + "clip()\n" + GUARD + STEP,
        BACKWARD + CLIP + "if (i + 1) % accum:\n    pass\nelse:\n" + STEP,
        BACKWARD + CLIP + GUARD + "    log(1); optimizer.step()\n    optimizer.zero_grad()\n",
        BACKWARD + f"norm = {CLIP}" + GUARD + "    log(norm)\n" + STEP,
        SCALED + f"scaler.unscale_(optimizer)\nnorm = {CLIP}log(norm)\n" + GUARD + SCALED_STEP,
        SCALED + "if log:\n    scaler.unscale_(optimizer)\n" + inner(CLIP) + GUARD + SCALED_STEP,
    ],
)
def test_what_would_change_more_stays(body: str) -> None:
    assert fixed(body) == body
