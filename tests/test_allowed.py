"""The check before anything of the user's is run: norm and clip arithmetic passes, and nothing else does."""

from __future__ import annotations

import ast

import pytest

from clipcheck.verify.allowed import NotProvable, check

ORIGINS = {
    "torch": "torch",
    "math": "math",
    "np": "numpy",
    "os": "os",
    "clip": "torch.nn.utils.clip_grad_norm_",
    "clipcheck": "clipcheck",
    "itertools": "itertools",
    "inf": "math.inf",
    **{
        f: f"builtins.{f}"
        for f in ("float", "sum", "open", "eval", "exec", "getattr", "setattr", "print", "map", "type")
    },
}


def passes(text: str) -> bool:
    try:
        check(ast.parse(text).body, ORIGINS, frozenset({"harness"}))
    except NotProvable:
        return False
    return True


@pytest.mark.parametrize(
    "text",
    [
        # other calls
        "open('x')",
        "eval('1')",
        "exec('1')",
        "getattr(p, 'grad')",
        "setattr(p, 'grad', 1)",
        "print(1)",
        "map(float, xs)",
        "type(p)",
        "os.system('x')",
        "os.path.join('x')",
        "np.load('x')",
        "np.linalg.inv(x)",
        "torch.load('x')",
        "torch.save(x, 'x')",
        "torch.hub.load('x')",
        "torch.ops.load_library('x')",
        "torch.nn.Module()",
        "torch.nn.utils.parameters_to_vector(ps)",
        "math.factorial(9)",
        "unknown(1)",
        "float(1)(2)",
        "(lambda: 1)()",
        "xs[0](1)",
        # attributes and names that lead out of arithmetic
        "p.__class__",
        "p.grad.__reduce__",
        "p.grad.storage()",
        "p.grad.numpy().tofile('x')",
        "p.register_hook(f)",
        "p.backward()",
        "model.state_dict()",
        "x = __builtins__",
        "__import__('os')",
        "__name__",
        # what is written elsewhere
        "p.item = 1",
        "p.shape = 1",
        "model.parameters = 1",
        "xs[0] = 1",
        "p.data[0] = 1",
        "p.norm[0] = 1",
        "os.environ['x'] = 1",
        # statements
        "import os",
        "from os import path",
        "while True:\n    pass",
        "def f():\n    pass",
        "class A:\n    pass",
        "del p",
        "raise E",
        "try:\n    pass\nexcept E:\n    pass",
        "global x",
        "assert x",
        "for p in ps:\n    break",
        "for p in ps:\n    pass\nelse:\n    pass",
        "async def f():\n    async for p in ps:\n        pass",
        "with open('x'):\n    pass",
        "with torch.no_grad() as x:\n    pass",
        "with torch.no_grad(), open('x'):\n    pass",
        "with torch.no_grad(1):\n    pass",
        "with torch.no_grad(x=1):\n    pass",
        "with torch.no_grad:\n    pass",
        "with torch.enable_grad():\n    pass",
        # expressions
        "lambda: 1",
        "{1: 2}",
        "{1}",
        "{x for x in xs}",
        "{x: 1 for x in xs}",
        "f'{x}'",
        "(x := 1)",
        "[x async for x in xs]",
        "(yield)",
        # constants that cost time or memory
        f"'{'x' * 101}'",
        f"b'{'x' * 101}'",
        "1048577",
        "-1048577 * x",
        # the same deep inside
        "total = sum(float(p.grad.norm()) for p in ps if open('x'))",
        "for p in ps:\n    if p.grad is not None:\n        total += os.getpid()",
        "p.grad.mul_(min(1.0, eval('1')))",
    ],
)
def test_anything_else_does_not_run(text: str) -> None:
    assert not passes(text)


@pytest.mark.parametrize(
    "text",
    [
        "total = 0.0\nfor p in ps:\n    if p.grad is None:\n        continue\n    total += p.grad.data.norm(2).item() ** 2\ntotal = total ** (1.0 / 2)",
        "total = torch.norm(torch.stack([torch.norm(p.grad.detach(), 2) for p in ps]), 2)",
        "total = np.sqrt(sum(float(g.norm()) ** 2 for g in grads))",
        "for p in ps:\n    p.grad.data.mul_(coef)",
        "for p in ps:\n    p.grad = p.grad * coef",
        "for p in ps:\n    p.grad[:] *= coef",
        "for p in ps:\n    p.grad.data[0] = 0.0",
        "p.data = p.grad",
        "clip(ps, 1.0)",
        "torch.nn.utils.clip_grad_norm_(ps, 1.0)",
        "torch.nn.utils.clip_grad.clip_grad_norm_(ps, 1.0)",
        "clipcheck.runtime.clip_grad_norm_(ps, max_norm=1.0)",
        "harness(1)",
        "with torch.no_grad():\n    pass",
        "x = a if a and not b else (a, -b)",
        "for p in itertools.chain(a, b):\n    pass",
        "x = xs[1:] + [1]",
        "x: float = 1.0",
        "small = math.sqrt(x) < inf",
        f"'{'x' * 100}'",
        "1048576",
        "ps = group['params']",
    ],
)
def test_arithmetic_with_gradients_runs(text: str) -> None:
    assert passes(text)


@pytest.mark.parametrize("text", ["harness(1)", "unknown.grad", "x = p"])
def test_names_of_the_harness_may_be_called_and_unknown_values_read(text: str) -> None:
    check(ast.parse(text).body, {}, frozenset({"harness"}))


def test_the_reason_names_what_is_not_allowed() -> None:
    for text, reason in (("os.system('x')", "system"), ("p.backward", "backward"), ("p.shape = 1", "shape")):
        with pytest.raises(NotProvable, match=reason):
            check(ast.parse(text).body, ORIGINS, frozenset())
