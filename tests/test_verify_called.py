"""Functions of the file that a training step calls: their bodies in the place of the calls, as the caller would write them."""

from __future__ import annotations

import ast
import re

import pytest

from clipcheck.python.source import Source
from clipcheck.verify.called import as_called, copied, original
from clipcheck.verify.program import Program

HEAD = "import torch\nfrom torch.nn.utils import clip_grad_norm_\n\n"
CLIP = "clip_grad_norm_(net.parameters(), c)"


def train(functions: str, body: str) -> Program:
    lines = "".join(f"    {line}\n" for line in body.splitlines())
    return Program(Source(f"{HEAD}{functions}\n\ndef train(model, opt, limit):\n{lines}"))


def lines(functions: str, body: str) -> list[str]:
    """The statements of `train`; the place of a call, which makes local names unique, is written as `#`."""
    program = train(functions, body)
    index = next(i for i, node in enumerate(program.functions) if getattr(node, "name", "") == "train")
    code = program.code(index)
    assert program.region(index)[0] == []
    return re.sub(r"_\d+_\d+\b", "#", code).splitlines()


def clip(parameters: str, body: str = CLIP, head: str = "def clip") -> str:
    return f"{head}({parameters}):\n" + "".join(f"    {line}\n" for line in body.splitlines())


INLINED = {
    "names and constants": (clip("net, c"), "clip(model, 1.0)", ["clip_grad_norm_(model.parameters(), 1.0)"]),
    "a chain of attributes": (clip("net, c"), "clip(self.model, args.c)", ["clip_grad_norm_(self.model.parameters(), args.c)"]),
    "keywords": (clip("net, c"), "clip(c=limit, net=model)", ["clip_grad_norm_(model.parameters(), limit)"]),
    "a default": (clip("net, c=2.0"), "clip(model)", ["clip_grad_norm_(model.parameters(), 2.0)"]),
    "an argument in the place of a default": (clip("net, c=2.0"), "clip(model, 3.0)", ["clip_grad_norm_(model.parameters(), 3.0)"]),
    "two defaults": (clip("net=model, c=2.0"), "clip()", ["clip_grad_norm_(model.parameters(), 2.0)"]),
    "an argument that is evaluated once": (
        clip("net, c"),
        "clip(model, limits.pop())",
        ["c# = limits.pop()", "clip_grad_norm_(model.parameters(), c#)"],
    ),
    "a parameter that is assigned": (
        clip("net, c", f"c = c * 2\n{CLIP}"),
        "clip(model, limit)",
        ["c# = limit", "c# = c# * 2", "clip_grad_norm_(model.parameters(), c#)"],
    ),
    "local names": (
        clip("net", "c = 1.0\nfor p in net.parameters():\n    p.grad.mul_(c)"),
        "c = 2.0\nclip(model)",
        ["c = 2.0", "c# = 1.0", "for p# in model.parameters():", "    p#.grad.mul_(c#)"],
    ),
    "what it returns": (clip("net, c", f"return {CLIP}"), "clip(model, 1.0)", ["clip_grad_norm_(model.parameters(), 1.0)"]),
    "a bare return": (clip("net, c", f"{CLIP}\nreturn"), "clip(model, 1.0)\nopt.step()", ["clip_grad_norm_(model.parameters(), 1.0)", "opt.step()"]),
    "a branch": (
        clip("net, c"),
        "if limit:\n    clip(model, limit)\nelse:\n    opt.step()",
        ["if limit:", "    clip_grad_norm_(model.parameters(), limit)", "else:", "    opt.step()"],
    ),
    "a loop": (
        clip("net, c"),
        "for x in data:\n    clip(model, 1.0)\n    opt.step()",
        ["for x in data:", "    clip_grad_norm_(model.parameters(), 1.0)", "    opt.step()"],
    ),
    "a function that calls another": (
        clip("net, c") + clip("m", "clip(m, 5.0)\nopt.step()", "def both"),
        "both(model)",
        ["clip_grad_norm_(model.parameters(), 5.0)", "opt.step()"],
    ),
    "a call of all ranks": (
        "import torch.distributed as dist\n" + clip("t", "dist.all_reduce(t)", "def reduce"),
        "reduce(total)",
        ["dist.all_reduce(total)"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", INLINED)
def test_a_body_takes_the_place_of_a_call(name: str) -> None:
    functions, body, after = INLINED[name]
    assert lines(functions, body) == after


STAYS = {
    "no acts": (clip("net, c", "print(net, c)"), "clip(model, 1.0)"),
    "a value that is used": (clip("net, c", f"return {CLIP}"), "norm = clip(model, 1.0)"),
    "an unknown function": ("", "clip(model, 1.0)"),
    "a missing argument": (clip("net, c"), "clip(model)"),
    "a list of arguments": (clip("net, c"), "clip(*args)"),
    "any number of arguments": (clip("net, *c", CLIP.replace("c)", "c[0])")), "clip(model, 1.0)"),
    "any keywords": (clip("net, **c", CLIP.replace("c)", "c['x'])")), "clip(model, x=1.0)"),
    "arguments by keyword only": (clip("net, *, c"), "clip(model, c=1.0)"),
    "an early return": (clip("net, c", f"if c:\n    return\n{CLIP}"), "clip(model, 1.0)"),
    "two returns": (clip("net, c", f"{CLIP}\nif c:\n    return 1\nreturn 2"), "clip(model, 1.0)"),
    "an inner function": (clip("net, c", f"def inner():\n    pass\n{CLIP}"), "clip(model, 1.0)"),
    "a lambda": (clip("net, c", f"f = lambda: 1\n{CLIP}"), "clip(model, 1.0)"),
    "a generator": (clip("net, c", f"{CLIP}\nyield c"), "clip(model, 1.0)"),
    "a generator of others": (clip("net, c", f"{CLIP}\nyield from c"), "clip(model, 1.0)"),
    "what waits": (clip("net, c", f"{CLIP}\nawait c", "async def clip"), "clip(model, 1.0)"),
    "a lambda by name": ("clip = lambda net, c: clip_grad_norm_(net.parameters(), c)\n", "clip(model, 1.0)"),
    "a call in an inner function": (clip("net, c"), "def inner():\n    clip(model, 1.0)\nopt.step()"),
    "a method of another object": (
        "class T:\n    def clip(self, net, c):\n        clip_grad_norm_(net.parameters(), c)\n",
        "t = T()\nt.clip(model, 1.0)",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", STAYS)
def test_a_call_stays_where_its_body_is_not_all_that_happens(name: str) -> None:
    functions, body = STAYS[name]
    assert lines(functions, body) == body.splitlines()


def test_functions_are_followed_three_calls_deep() -> None:
    chain = "".join(f"def f{i}(net):\n    opt.step()\n    f{i + 1}(net)\n" for i in range(4))
    assert lines(chain, "f0(model)") == ["opt.step()", "opt.step()", "opt.step()", "f3(model)"]
    assert lines(clip("net", "opt.step()\nclip(net)"), "clip(model)") == ["opt.step()"] * 3 + ["clip(model)"]


def test_a_method_of_the_same_object_is_followed() -> None:
    text = (
        f"{HEAD}class T:\n    def clip(self, c=1.0):\n        clip_grad_norm_(self.net.parameters(), c)\n"
        "    def train(self):\n        self.clip()\n"
    )
    program = Program(Source(text))
    assert program.code(2) == "clip_grad_norm_(self.net.parameters(), 1.0)"


def test_what_a_copy_knows() -> None:
    program = train(clip("net, c"), "clip(model, limit)")
    (statement,) = program.region(2)[1]
    own = next(node for node in ast.walk(program.functions[1]) if isinstance(node, ast.Expr))
    assert statement is not own and original(statement) is own and original(own) is own
    assert original(copied(copied(statement))) is own
    assert (statement.lineno, statement.col_offset) == (own.lineno, own.col_offset)
    assert as_called(statement, "net.a + c + d") == "model.a + limit + d"
    assert as_called(own, "net.a  +  c") == "net.a  +  c"
    assert as_called(statement, "") == ""
    call = next(node for node in ast.walk(statement) if isinstance(node, ast.Call))
    clip_act, own_act = program.act(call), program.act(original(call))
    assert clip_act is own_act is not None
    assert program.clip(call) is not None


def test_where_a_step_with_its_calls_is_written() -> None:
    program = train(clip("net, c", f"{CLIP}\nopt.step()"), "x = 1\nclip(model, limit)\nimport os")
    found = [program.source.text[start:end] for start, end in program.spans(2)]
    assert found == ["x = 1", CLIP, "opt.step()"]
