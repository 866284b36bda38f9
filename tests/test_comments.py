"""A fix never loses or duplicates a comment: comments move with the new code, or the fix is not offered."""

from __future__ import annotations

import libcst as cst
import pytest

from clipcheck.catalogue import RULES
from clipcheck.documents.program import apply
from clipcheck.engine.file import check_text
from clipcheck.engine.results import FileReport
from clipcheck.fixes.move import moved
from clipcheck.fixes.verbs import unwritten
from clipcheck.python.source import Source
from clipcheck.rule import Safety
from clipcheck.settings.keys import Settings


def fixed(text: str, *codes: str, target: str = "clipcheck") -> FileReport:
    settings = Settings(frozenset(codes), target, fix=True, safety=Safety.UNSAFE)  # type: ignore[arg-type]
    report = check_text("x.py", text, settings)
    assert report.errors == ()
    return report


@pytest.mark.parametrize(
    "call",
    [
        "torch.nn.  # here\n    utils.clip_grad_norm(p, 1.0)",
        "torch.nn.utils  # here\n    .clip_grad_norm(p, 1.0)",
    ],
)
def test_a_comment_inside_a_dotted_name_keeps_the_name(call: str) -> None:
    report = fixed(f"import torch\nx = ({call})\n", "CLIP002")
    assert report.fixed_data is None
    (finding,) = report.findings
    assert finding.help == "no automatic fix: it would remove a comment"


def test_a_comment_next_to_a_name_stays() -> None:
    report = fixed("import torch  # noqa\nx = (torch.nn.utils.clip_grad_norm  # here\n    (p, 1.0))\n", "CLIP002")
    assert report.now.decode() == (
        "import torch  # noqa\nfrom clipcheck.runtime import clip_grad_norm_\nx = (clip_grad_norm_  # here\n    (p, 1.0))\n"
    )


def test_a_comment_on_a_removed_keyword_keeps_the_keyword() -> None:
    text = "import torch\ntorch.nn.utils.clip_grad_norm_(p, float('inf'), norm_type=  # why\n    float('inf'))\n"
    assert b"# why" in fixed(text, *RULES).now


def test_a_comment_that_the_call_repeats_is_not_written_above_it() -> None:
    text = (
        "import torch\n\n\ndef norm(model):\n    total = 0.0  # first\n    for p in model.parameters(  # all\n    ):\n"
        "        total += p.grad.norm().item() ** 2  # add\n    return total ** 0.5\n"
    )
    assert fixed(text, "CLIP001").now.decode() == (
        "import torch\nfrom clipcheck.runtime import grad_norm\n\n\ndef norm(model):\n    # first\n    # add\n"
        "    return grad_norm(model.parameters(  # all\n    )).item()\n"
    )


def test_a_comment_that_would_be_written_twice_keeps_the_loop() -> None:
    """With torch as the target, the call contains the gradients twice."""
    text = (
        "import torch\n\n\ndef norm(model):\n    total = 0.0\n    for p in model.parameters():\n"
        "        total += (p  # one\n                  .grad.norm().item()) ** 2\n    return total ** 0.5\n"
    )
    report = fixed(text, "CLIP001", target="torch")
    assert report.now.count(b"# one") == 1


@pytest.mark.parametrize(
    ("comments", "text", "left"),
    [
        ([], "x  # a", []),
        (["# a"], "x", ["# a"]),
        (["# a", "# b"], "x  # a\n", ["# b"]),
        (["# a", "# a"], "x  # a\n", ["# a"]),
        (["# a"], "x  # a b\n", ["# a"]),
    ],
)
def test_comments_that_the_new_text_does_not_contain(comments: list[str], text: str, left: list[str]) -> None:
    assert unwritten(comments, text) == left


def test_form_feeds_are_not_line_ends_when_a_statement_moves() -> None:
    source = Source("if a:\n    b\nx = 'q\f    r'\n")
    branch, statement = source.module.body
    assert isinstance(branch, cst.If) and isinstance(branch.body, cst.IndentedBlock)
    edits = moved(source, [statement], source.statement(branch.body.body[0]))  # type: ignore[list-item]
    assert edits is not None
    assert apply(source.text, edits) == "if a:\n    x = 'q\f    r'\n    b\n"
