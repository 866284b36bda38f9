"""Where a rule's marks must stand for a file to be parsed: in its code, and some of them together in one function."""

from __future__ import annotations

import pytest

from clipcheck.prefilter import concerned, functions, wanted
from clipcheck.settings.keys import DEFAULT

LOOP = b"""\
    total = 0.0
    for p in model.parameters():
        total += p.grad.norm(2).item() ** 2
    return total ** 0.5
"""


def test_each_outermost_function_is_apart_from_what_stands_outside() -> None:
    outside, inner = functions(
        b"import a\n@deco\ndef f():\n    def g():\n        pass\n    return g\nx = 1\nclass C:\n    y = 2\n    async def h(self): pass\n"
    )
    assert outside == b"import a\nx = 1\nclass C:\n    y = 2\n"
    assert inner == [
        b"@deco\ndef f():\n    def g():\n        pass\n    return g\n",
        b"    async def h(self): pass\n",
    ]


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_lines_end_in_any_way(newline: str) -> None:
    text = newline.join(["x = 1", "def f():", "    return 2", "y = 3", ""]).encode()
    outside, inner = functions(text)
    assert outside.split() == b"x = 1 y = 3".split()
    assert [function.split() for function in inner] == [b"def f(): return 2".split()]


@pytest.mark.parametrize(
    "text",
    [
        b'"""clip_grad_norm_(x)"""\nimport torch\n',
        b'class C:\n    """One.\n\n    clip_grad_norm_(x)\n    """\n\n    x = 1\n',
        b'def f():\n    """torch.nn.utils.clip_grad_norm_(x)"""\n    return 1\n',
        b"x = 1\n    # clip_grad_norm_(x)\n",
        b"def clip_grad_norm_(parameters):\n    pass\n",
    ],
)
def test_prose_and_definitions_are_no_code(text: bytes) -> None:
    assert not concerned(text, DEFAULT)


@pytest.mark.parametrize(
    "text",
    [
        b'def f(): "doc"; clip_grad_norm_(x, 1.0)\n',
        b'def f():\n    "doc"; clip_grad_norm_(x, 1.0)\n',
        b'class C: "doc"; x = clip_grad_norm_(x, 1.0)\n',
        b'x = """\n# clip\n"""; clip_grad_norm_(x, 1.0)\n',
        b"if x:\n    def f():\n        clip_grad_norm_(x, 1.0)\n",
        b"try:\n    pass\nexcept E:\n    def f():\n        clip_grad_norm_(x, 1.0)\n",
        b"def f():\n    def g():\n        clip_grad_norm_(x, 1.0)\n",
        b"def f(limit=clip_grad_norm_(x, 1.0)): pass\n",
        b"print 'no Python 3', clip_grad_norm_(x, 1.0)\n",
        b"clip_grad_norm_ (x, 1.0)\n",
    ],
)
def test_code_beside_prose_is_found(text: bytes) -> None:
    assert "CLIP201" in concerned(text, DEFAULT)


def test_the_marks_of_a_norm_stand_together_in_a_function() -> None:
    assert "CLIP001" in concerned(b"import math\n\n\ndef f(model):\n" + LOOP, DEFAULT)
    apart = b"""\
def f(model):
    return [p.grad for p in model.parameters()]


def g(x):
    total = 0.0
    total += float(x.norm()) ** 2
    return total
"""
    assert "CLIP001" in wanted(apart, DEFAULT)
    assert "CLIP001" not in concerned(apart, DEFAULT)


def test_a_norm_of_what_the_module_holds_is_found() -> None:
    text = b"gradients = [p.grad for p in model.parameters()]\n\n\ndef f():\n    total = 0.0\n"
    text += b"    for g in gradients:\n        total += g.norm(2).item() ** 2\n    return total\n"
    assert "CLIP001" in concerned(text, DEFAULT)


@pytest.mark.parametrize("gap", ["", " "])
def test_calls_are_calls_with_a_space_before_the_parenthesis(gap: str) -> None:
    step = f"loss.backward{gap}()\noptimizer.zero_grad{gap}()\noptimizer.step{gap}()\nclip_grad_norm_{gap}(p, 1.0)\n"
    assert {"CLIP101", "CLIP104"} <= concerned(step.encode(), DEFAULT)
