"""A program as Python's `ast`: which function an edit is in, what happens once and in each turn, what its objects are."""

from __future__ import annotations

import ast

import pytest

from clipcheck.python.source import Source
from clipcheck.rule import Edit
from clipcheck.verify.program import Program

CODE = """\
import torch

def outer():
    a = 1  # first

    def inner():
        b = 2
    c = 3  # last

async def other(): d = 4  # alone

e = 5
"""


def names(program: Program) -> list[str]:
    return [getattr(node, "name", "") for node in program.functions]


@pytest.mark.parametrize(
    ("edited", "name"),
    [
        (("a = 1",), "outer"),
        (("b = 2",), "inner"),
        (("c = 3",), "outer"),
        (("last",), "outer"),
        (("alone",), "other"),
        (("d = 4",), "other"),
        (("e = 5",), ""),
        (("import",), ""),
        (("a = 1", "c = 3"), "outer"),
        (("a = 1", "b = 2"), "outer"),
        (("b = 2", "b"), "inner"),
        (("a = 1", "d = 4"), ""),
        (("def outer",), "outer"),
        (("\n    c = 3",), "outer"),  # white space does not count
    ],
)
def test_the_innermost_function_around_edits(edited: tuple[str, ...], name: str) -> None:
    program = Program(Source(CODE))
    assert names(program) == ["", "outer", "inner", "other"]
    places = [CODE.index(text) if text != "b" else CODE.index("b = 2") for text in edited]
    edits = [Edit(at, at + len(text), "x") for at, text in zip(places, edited, strict=True)]
    assert names(program)[program.around(edits)] == name


def test_a_file_without_a_newline_at_its_end() -> None:
    program = Program(Source("def f():\n    a = 1  # b"))
    assert program.around([Edit(len(program.source.text), len(program.source.text), "x")]) == 1


CLASS = """\
class Trainer:
    def __init__(self, net):
        self.params = net.parameters()
        self.on = True

    def {first}(self, loss):
        {body}

    def log(self):
        print(1)

{rest}
"""


def region(first: str = "step", body: str = "loss.backward()", rest: str = "", of: str = "__init__") -> tuple[str, str]:
    program = Program(Source(CLASS.format(first=first, body=body, rest=rest)))
    setup, turn = program.region(names(program).index(of))
    return "\n".join(map(ast.unparse, setup)), "\n".join(map(ast.unparse, turn))


INIT = "self.params = net.parameters()\nself.on = True"


def test_what_prepares_is_followed_by_the_only_method_that_trains() -> None:
    assert region() == (INIT, "loss.backward()")
    assert region(of="step") == ("", "loss.backward()")
    assert region(of="log") == ("print(1)", "loss.backward()")
    assert region(body="pass") == ("", INIT)  # nobody trains
    two = "    async def other(self, opt):\n        opt.step()\n"
    assert region(rest=two) == ("", INIT)  # not one alone
    outside = "def other(opt):\n    opt.step()\n"
    assert region(rest=outside) == (INIT, "loss.backward()")
    assert region(rest="def other(opt):\n    print(opt)\n", of="other") == ("", "print(opt)")
    nested = "    def more(self, opt):\n        def deep():\n            print(2)\n        return deep\n"
    assert region(rest=nested, of="deep") == ("", "print(2)")


def test_attributes_that_change_are_assigned_outside_constructors() -> None:
    text = CLASS.format(first="step", body="self.count = loss.grad = 1", rest="    def stop(self):\n        del self.on\n        self.other.x += self.y\n")  # fmt: skip
    assert Program(Source(text)).changing == {"self.count", "loss.grad", "self.other.x"}


RANKS = """\
import torch.distributed as dist
import torch_xla.core.xla_model as xm
import horovod.torch as hvd
from torch.distributed.fsdp import FullyShardedDataParallel as FSDP

net = a.net = FSDP(net)
opt = hvd.DistributedOptimizer(opt)
mine = FullyShardedDataParallel(net)
yours = other.DistributedOptimizer(opt)
dist.all_reduce(x)
n = dist.get_world_size()
xm.reduce_gradients(opt)
xm.optimizer_step(opt)
dist.barrier()
"""


def test_objects_and_calls_of_several_ranks() -> None:
    program = Program(Source(RANKS))
    assert program.wrapped == {"net": "fsdp", "a.net": "fsdp", "opt": "horovod"}
    calls = [node for node in ast.walk(program.tree) if isinstance(node, ast.Call)]
    found = {ast.unparse(node.func): program.collective(node) for node in calls if program.collective(node)}
    assert found == {
        "dist.all_reduce": "all_reduce",
        "dist.get_world_size": "get_world_size",
        "xm.reduce_gradients": "reduce_gradients",
        "xm.optimizer_step": "optimizer_step",
    }


def test_an_expression_as_python_would_write_it() -> None:
    import libcst as cst

    program = Program(Source("x = f(a ,\n  'b')\n"))
    (call,) = program.source.nodes(cst.Call)
    assert program.text(call) == "f(a, 'b')"
    assert program.text(None) == "" and program.nodes(None) == []
    assert [type(node) for node in program.nodes(call)] == [ast.Call]
    (statement,) = program.source.nodes(cst.Assign)
    assert [type(node) for node in program.nodes(statement)] == [ast.Assign]
    assert program.text(statement) == ""  # no expression


def test_statements_that_do_nothing_of_a_module_have_no_span() -> None:
    text = "import os\nfrom os import path\nx = 1\ndef f():\n    y = 2\nclass A:\n    z = 3\nif x:\n    u = 4\nasync def g():\n    pass\n"
    program = Program(Source(text))
    found = [text[start:end] for start, end in program.spans(0)]
    assert found == ["x = 1", "if x:\n    u = 4", "u = 4"]
