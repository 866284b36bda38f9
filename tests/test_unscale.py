"""A fix adds one `unscale_` for all readers of a step's scaled gradients, above the first: a second call raises."""

from __future__ import annotations

import pytest

from clipcheck.catalogue import RULES
from clipcheck.engine.file import check_text
from clipcheck.rule import Safety
from clipcheck.settings.keys import Settings

HEAD = """\
import torch
from torch.nn.utils import clip_grad_norm_, get_total_norm


def train(a, b, optimizer, loader, scaler, log):
    for x in loader:
        optimizer.zero_grad()
        scaler.scale(a(x)).backward()
"""
TAIL = """\
        scaler.step(optimizer)
        scaler.update()
"""
LINE = "scaler.unscale_(optimizer)"
CLIP, OTHER = "clip_grad_norm_(a.parameters(), 1.0)", "clip_grad_norm_(b.parameters(), 1.0)"
NORM = "norm = get_total_norm([p.grad for p in b.parameters()])\nlog(norm)"
BOTH = frozenset({"CLIP301", "CLIP309"})


def fixed(body: str, codes: frozenset[str] = BOTH) -> tuple[str, list[str]]:
    """The fixed body after `backward()`, and the remaining findings."""
    text = HEAD + "".join(f"        {line}\n" for line in body.split("\n")) + TAIL
    report = check_text("x.py", text, Settings(codes, fix=True, safety=Safety.UNSAFE))
    assert report.errors == ()
    lines = report.now.decode().removeprefix(HEAD).removesuffix(TAIL).splitlines()
    return "\n".join(line.removeprefix("        ") for line in lines), [finding.code for finding in report.findings]


@pytest.mark.parametrize(
    "body",
    [
        CLIP,
        f"{CLIP}\n{OTHER}",
        f"{NORM}\n{CLIP}",
        f"{NORM}\n{CLIP}\n{OTHER}",
        f"{NORM}\nlog(get_total_norm([p.grad for p in a.parameters()]))",
        "for p in a.parameters():\n    clip_grad_norm_(p, 1.0)",
        "for one in (a, b):\n    clip_grad_norm_(one.parameters(), 1.0)",
        "total = 0.0\nfor p in a.parameters():\n    total += p.grad.norm() ** 2\nlog(total ** 0.5)\n" + CLIP,
    ],
)
def test_all_readers_of_the_gradients_share_one_line(body: str) -> None:
    after, left = fixed(body)
    lines = after.split("\n")
    assert [line for line in lines if LINE not in line] == body.split("\n")
    assert lines.count(LINE) == 1
    assert lines.index(LINE) == (1 if body.startswith("total") else 0)
    assert left == []


def test_a_clip_alone_is_selected_and_the_norm_before_it_is_unscaled_with_it() -> None:
    assert fixed(f"{NORM}\n{CLIP}", frozenset({"CLIP301"})) == (f"{LINE}\n{NORM}\n{CLIP}", [])


def test_a_norm_that_is_divided_by_the_scale_stays_above() -> None:
    """If the gradients were unscaled before it, it would be divided twice."""
    norm = "log(get_total_norm([p.grad for p in b.parameters()]) / scaler.get_scale())"
    assert fixed(f"{norm}\n{CLIP}") == (f"{norm}\n{LINE}\n{CLIP}", [])


def test_a_norm_of_each_micro_batch_stays_above() -> None:
    """Under accumulation the gradients may be unscaled once for all of them."""
    text = """\
import torch
from torch.nn.utils import clip_grad_norm_, get_total_norm


def train(a, optimizer, loader, scaler, log):
    for i, x in enumerate(loader):
        scaler.scale(a(x)).backward()
        log(get_total_norm([p.grad for p in a.parameters()]))
        if i % 4 == 0:
            clip_grad_norm_(a.parameters(), 1.0)
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
"""
    report = check_text("x.py", text, Settings(BOTH, fix=True, safety=Safety.UNSAFE))
    assert report.now.decode() == text.replace("            clip_grad", f"            {LINE}\n            clip_grad")
    assert ([finding.code for finding in report.findings], report.errors) == (["CLIP309"], ())


def test_under_a_test_with_the_only_clip() -> None:
    assert fixed(f"if x.any():\n    {CLIP}") == (f"if x.any():\n    {LINE}\n    {CLIP}", [])


IF, LOOP = "if x.any():\n    ", "for one in (a, b):\n    "
EACH = "clip_grad_norm_(one.parameters(), 1.0)"


@pytest.mark.parametrize(
    ("body", "after"),
    [
        (f"{CLIP}\n{IF}{OTHER}", f"{LINE}\n{CLIP}\n{IF}{OTHER}"),
        (f"{IF}{CLIP}\n    {OTHER}", f"{IF}{LINE}\n    {CLIP}\n    {OTHER}"),
        (f"with log:\n    {CLIP}", f"with log:\n    {LINE}\n    {CLIP}"),
        (f"if x.any(): {CLIP}", f"{LINE}\nif x.any(): {CLIP}"),
        (f"while x:\n    {CLIP}", f"{LINE}\nwhile x:\n    {CLIP}"),
        (f"{LOOP}for two in one:\n        {EACH}", f"{LINE}\n{LOOP}for two in one:\n        {EACH}"),
        (f"{LOOP}{EACH}\n{CLIP}", f"{LINE}\n{LOOP}{EACH}\n{CLIP}"),
        (f"{IF}{LOOP}    {EACH}", f"{IF}{LINE}\n    {LOOP}    {EACH}"),
        (f"norm = {CLIP}\nlog(norm)", f"{LINE}\nnorm = {CLIP}\nlog(norm)"),
        (f"log({CLIP})", f"{LINE}\nlog({CLIP})"),
        (f"{NORM}\n{NORM}\n{CLIP}", f"{LINE}\n{NORM}\n{NORM}\n{CLIP}"),
    ],
)
def test_where_the_line_goes(body: str, after: str) -> None:
    assert fixed(body) == (after, [])


@pytest.mark.parametrize(
    "body",
    [
        f"if x.any():\n    {CLIP}\nif x.all():\n    {OTHER}",
        f"if x.any():\n    {CLIP}\n{OTHER}",  # which comes first depends on the test
        f"if x.any():\n    {CLIP}\nelse:\n    {OTHER}\n{CLIP}",
        f"log(1); {CLIP}",
    ],
)
def test_no_fix_where_no_line_is_above_all_of_them(body: str) -> None:
    after, left = fixed(body)
    assert after == body
    assert set(left) == {"CLIP301"}


# --- gradients that were cleared --------------------------------------------------------------------------------------

CLEARED = "optimizer.zero_grad()"


@pytest.mark.parametrize("body", [f"{CLEARED}\n{CLIP}", f"{CLEARED}\n{NORM}", f"{CLEARED}\n{NORM}\n{CLIP}"])
def test_cleared_gradients_are_not_reported_as_scaled(body: str) -> None:
    assert fixed(body) == (body, [])


def test_what_a_misplaced_zero_grad_masks_is_fixed_once_it_is_moved() -> None:
    text = f"{HEAD.replace('        optimizer.zero_grad()' + chr(10), '')}        {CLEARED}\n        {CLIP}\n{TAIL}"
    codes = frozenset({"CLIP104", "CLIP301"})
    assert [f.code for f in check_text("x.py", text, Settings(codes)).findings] == ["CLIP104"]
    report = check_text("x.py", text, Settings(codes, fix=True, safety=Safety.UNSAFE))
    assert (report.findings, report.errors) == ((), ())
    assert report.now.decode() == f"{HEAD}        {LINE}\n        {CLIP}\n{TAIL}"


def test_a_clip_that_one_of_two_paths_clears_is_still_found() -> None:
    assert fixed(f"if x.any():\n    {CLEARED}\n{CLIP}") == (f"if x.any():\n    {CLEARED}\n{LINE}\n{CLIP}", [])


def test_all_rules_settle_on_a_norm_and_a_clip_of_scaled_gradients() -> None:
    after, _ = fixed(f"{NORM}\n{CLIP}", frozenset(RULES) - {"CLIP011"})
    assert after == f"{LINE}\n{NORM}\n{CLIP}"
