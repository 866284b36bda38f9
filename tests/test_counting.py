"""Which tests change from one micro-batch to the next, and which of them count. Tests that guard nothing come first."""

from __future__ import annotations

import textwrap

import libcst as cst
import pytest

from clipcheck.python.source import Source
from clipcheck.training.acts import EventKind
from clipcheck.training.counting import counting_guard, guard_of, may_be_guarded
from clipcheck.training.flows import Event, flow

LOOP = "def f(args, accum, limit, xs, tracker):\n    count = 0\n    for epoch in range(9):\n        for i, x in enumerate(xs):\n"


def guard(body: str) -> str | None:
    """The test around `here()` that counts, in the body of a loop over batches."""
    source = Source(LOOP + textwrap.indent(textwrap.dedent(body), " " * 12))
    (call,) = (c for c in source.nodes(cst.Call) if source.code(c.func) == "here")
    found = guard_of(source, call)
    return None if found is None else source.code(found.test)


@pytest.mark.parametrize(
    "body",
    [
        "here()",
        "if x:\n    here()",
        "if i > 10:\n    here()",  # from then on
        "if '%d' % i:\n    here()",
        "if i % 4 == 0:\n    pass\nhere()",
        "if i % 4 == 0:\n    def f():\n        here()",
        "if accum > 1:\n    here()",  # the same for each batch
        "if args.ACCUMULATION_STEPS > 1:\n    here()",
        "if args.sync_grads:\n    here()",
        "if accum % 2 == 0:\n    here()",
        "accumulate = accum > 1\nif accumulate:\n    here()",
        "if epoch % 2 == 0:\n    here()",  # changes with another loop
        "if self.epoch % 2 == 0:\n    here()",
        "if self.epochs_done % 2 == 0:\n    here()",
        "if tracker.ready():\n    here()",  # may count, or may not
        "last = tell(i)\nif last:\n    here()",
        "if limit == 1.0:\n    here()",
        "count += 1\nif count > 10:\n    here()",  # never reset
        "loss = f(x)\nif loss >= limit:\n    here()",
        "for other in xs % 2:\n    if other:\n        here()",
        "for j in xs:\n    if j == 3:\n        here()",
        "for j, y in zip(xs, xs):\n    if j == 3:\n        here()",
        "self.n += 1\nif self.n >= 4:\n    here()",
        "if args.n == 0:\n    here()",
        "args.m += 1\nif args.n == 0:\n    here()",
        "args.n = x\nif args.n == 0:\n    here()",
        "args.n += 1\nif args.n >= 4:\n    here()",
        "for y in x:\n    if args.n == 0:\n        here()\nargs.n += 1",  # the loop around counts
        "args.n += 1\nfor y in x:\n    if args.n >= 4:\n        here()\nargs.n = 0",
        "count = count + 1\nif count > 10:\n    here()",
        "self.n = self.n + 1\nif self.n >= 4:\n    here()",
        "limit = limit * 0.5\nif limit == 1.0:\n    here()",
        "limit = accum % 2\nif limit:\n    here()",
    ],
)
def test_tests_that_do_not_count(body: str) -> None:
    assert guard(body) is None


@pytest.mark.parametrize(
    ("body", "test"),
    [
        ("if (i + 1) % accum == 0:\n    here()", "(i + 1) % accum == 0"),
        ("if state.step % accum == 0:\n    here()", "state.step % accum == 0"),
        ("count = (count + 1) % accum\nif not count:\n    here()", "not count"),
        ("count = count + 1\nif count == accum:\n    here()", "count == accum"),
        ("count = count + 1\nif count >= accum:\n    count = 0\n    here()", "count >= accum"),
        ("if not i % 4:\n    if x:\n        here()", "not i % 4"),
        ("if i % 4:\n    pass\nelse:\n    here()", "i % 4"),
        ("if i % 4:\n    continue\nhere()", "i % 4"),
        ("if i + 1 == len(xs) or i % 4 == 0:\n    here()", "i + 1 == len(xs) or i % 4 == 0"),
        ("if i == accum:\n    here()", "i == accum"),
        ("if len(xs) - 1 == i:\n    here()", "len(xs) - 1 == i"),
        ("for j in range(9):\n    if j == 3:\n        here()", "j == 3"),
        ("for j in tqdm.trange(9):\n    if j == 3:\n        here()", "j == 3"),
        ("if i != accum:\n    here()", "i != accum"),
        ("if i - 1 == accum:\n    here()", "i - 1 == accum"),
        ("last = i % 4 == 0\nis_last = last\nif is_last:\n    here()", "is_last"),
        ("count += 1\nif count % 4 == 0:\n    here()", "count % 4 == 0"),
        ("count += 1\nif count == accum:\n    here()", "count == accum"),
        ("count += 1\nif count >= accum:\n    here()\n    count = 0", "count >= accum"),
        ("count += 1\nif count > accum:\n    here()\n    count = 0", "count > accum"),
        ("count += 1\nif accum <= count:\n    here()\n    count = 0", "accum <= count"),
        ("if fabric.is_accumulating:\n    pass\nelse:\n    here()", "fabric.is_accumulating"),
        ("args.n += 1\nargs.n = args.n % 4\nif args.n == 0:\n    here()", "args.n == 0"),
        ("args.n += 1\nif args.n >= accum:\n    here()\n    args.n = 0", "args.n >= accum"),
        ("if accelerator.sync_gradients:\n    here()", "accelerator.sync_gradients"),
        ("if engine.is_gradient_accumulation_boundary():\n    here()", "engine.is_gradient_accumulation_boundary()"),
        ("sync = accelerator.sync_gradients\nif sync:\n    here()", "sync"),
        ("accumulated = tell(i)\nif accumulated:\n    here()", "accumulated"),
        ("def due(n):\n    return (n + 1) % accum == 0\nif due(i):\n    here()", "due(i)"),
        ("due = lambda: (i + 1) % accum == 0\nif due():\n    here()", "due()"),
    ],
)
def test_a_guard_that_counts(body: str, test: str) -> None:
    assert guard(body) == test


def named(value: str, times: int) -> str:
    """Lines that give a value so many names, one after the other."""
    return "\n".join(f"name{n} = {value if n == 1 else f'name{n - 1}'}" for n in range(1, times + 1))


@pytest.mark.parametrize(("times", "expected"), [(5, True), (6, False)])
def test_so_many_names_of_a_guard_are_followed(times: int, expected: bool) -> None:
    assert (guard(f"{named('i % 4 == 0', times)}\nif name{times}:\n    here()") is not None) is expected


def clip_of(text: str) -> tuple[Source, Event]:
    """The one clip of the function `f`."""
    source = Source("import torch\n" + textwrap.dedent(text))
    function = next(node for node in source.nodes(cst.FunctionDef) if node.name.value == "f")
    (clip,) = flow(source, function).of(EventKind.CLIP)
    return source, clip


CLIP = "torch.nn.utils.clip_grad_norm_(ps, 1.0)"


@pytest.mark.parametrize(
    ("text", "counted"),
    [
        # a test inside of the helper
        (f"def f(xs):\n    for i, x in enumerate(xs):\n        g(i)\ndef g(i):\n    if i % 4 == 0:\n        {CLIP}", True),
        (f"def f(xs, i):\n    for x in xs:\n        g(i)\ndef g(i):\n    if i % 4 == 0:\n        {CLIP}", False),
        (f"def f(xs, n):\n    for x in xs:\n        g(n)\ndef g(n):\n    if n > 1:\n        {CLIP}", False),
        (f"def f(xs):\n    for i, x in enumerate(xs):\n        g(i % 4 == 0)\ndef g(due):\n    if not due:\n        return\n    {CLIP}", True),
        (f"def f(xs):\n    for x in xs:\n        g(False)\ndef g(due):\n    if due:\n        {CLIP}", False),
        # a test in the caller
        (f"def f(xs):\n    for i, x in enumerate(xs):\n        if i % 4 == 0:\n            g()\ndef g():\n    {CLIP}", True),
        # a test around the loop that repeats it
        (f"def f(xs):\n    for i, x in enumerate(xs):\n        if i % 4 == 0:\n            for y in x:\n                {CLIP}", False),
        # the function is what repeats
        (f"def f(ps, step, every):\n    if step % every == 0:\n        {CLIP}", True),
        (f"def f(ps, step, every):\n    if (step + 1) % every == 0:\n        {CLIP}", True),
        (f"def f(ps, step, every):\n    if step.number % every == 0:\n        {CLIP}", True),
        (f"def f(ps, every):\n    if 12 % every == 0:\n        {CLIP}", False),
        (f"def f(ps, accum):\n    if accum > 1:\n        {CLIP}", False),
        (f"class A:\n    def f(self, ps):\n        self.n += 1\n        if self.n == 4:\n            {CLIP}", True),
        (f"class A:\n    def __init__(self, n):\n        self.n = n\n    def f(self, ps):\n        if self.n == 4:\n            {CLIP}", False),
        (f"class A:\n    def f(self, ps):\n        self.n += 1\n        if self.n >= 4:\n            {CLIP}", False),
        (f"class A:\n    def __init__(self):\n        self.n = 0\n    def f(self, ps):\n        self.n += 1\n        if self.n >= 4:\n            {CLIP}", False),
        (f"class A:\n    def f(self, ps):\n        self.n += 1\n        if self.n >= 4:\n            {CLIP}\n            self.n = 0", True),
        (f"class A:\n    def f(self, ps):\n        self.n += 1\n        if 4 < self.n:\n            {CLIP}\n            self.n = 0", True),
        (f"class A:\n    def f(self, ps):\n        self.n = self.n + 1\n        if self.n >= 4:\n            {CLIP}\n            self.n = 0", True),
        (f"class A:\n    def f(self, ps):\n        self.n = self.n + 1\n        if self.n >= 4:\n            {CLIP}", False),
        (f"class A:\n    def f(self, ps):\n        if self.due():\n            {CLIP}\n    def due(self):\n        return self.n % 4 == 0", True),
    ],
)  # fmt: skip
def test_guards_through_calls(text: str, counted: bool) -> None:
    assert (counting_guard(*clip_of(text)) is not None) is counted


@pytest.mark.parametrize(
    ("test", "expected"),
    [
        ("limit", False),
        ("limit is not None and limit > 0", False),
        ("args.limit", False),
        ("accum > 1", False),
        ("torch.cuda.is_available()", False),
        ("args.get('limit')", False),
        ("not torch.isnan(loss)", False),
        ("loss > limit", False),
        ("isinstance(limit, float)", False),
        ("i % 4 == 0", True),
        ("i in ends", True),
        ("i not in ends", True),
        ("not i in ends", True),
        ("limit in (1, 2)", False),
        ("limit or tracker.ready()", True),
        ("tracker.ready()", True),
        ("tracker.ready() and limit", True),
        ("due", True),
        ("not due", True),
        ("self.due", True),
        ("self.limit", False),
    ],
)
def test_a_test_that_may_guard(test: str, expected: bool) -> None:
    text = f"""
        class A:
            def f(self, ps, xs, limit, accum, args, tracker, ends):
                for i, x in enumerate(xs):
                    loss = x.mean()
                    due = tell(i)
                    self.due = due
                    if {test}:
                        {CLIP}

            def configure(self, limit):
                self.limit = limit
        """
    assert may_be_guarded(*clip_of(text)) is expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        # the same for each micro-batch
        ("len(limits) > 1", False),
        ("math.isnan(limit)", False),
        ("np.isnan(limit)", False),
        ("os.getenv('CLIP')", False),
        ("torch.is_tensor(limit)", False),
        *((f"args.{method}()", False) for method in ("get", "item", "size", "keys", "values")),
        ("constant()", False),
        # known for this one only
        ("math.isnan(x)", True),
        ("x.item()", True),
        ("tell(limit)", True),
        ("args.tell()", True),
        ("one_of_two(x)", True),
        ("fabric.is_accumulating()", True),
    ],
)
def test_a_flag_that_the_loop_computes(value: str, expected: bool) -> None:
    text = f"""
        import math, os
        import numpy as np

        def constant():
            return True

        def one_of_two(x):
            if x:
                return x
            return True

        def f(ps, xs, limit, limits, args, fabric):
            for x in xs:
                due = {value}
                if due:
                    {CLIP}
        """
    assert may_be_guarded(*clip_of(text)) is expected


@pytest.mark.parametrize(
    ("method", "expected"), [("__init__", False), ("setup", False), ("build", False), ("begin_batch", True)]
)
def test_a_flag_that_a_method_sets(method: str, expected: bool) -> None:
    text = f"class A:\n    def {method}(self):\n        self.due = None\n\n    def f(self, ps):\n        if self.due:\n            {CLIP}"
    assert may_be_guarded(*clip_of(text)) is expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("limit", False),  # a setting that is passed on
        ("math.inf", False),
        ("float(limit)", False),
        ("[]", False),
        ("args.limit", False),
        ("accelerator.sync_gradients", True),
        ("fabric.is_accumulating()", True),
        ("tell(limit)", True),
        ("None", True),
        ("4", True),
        ("due", True),
    ],
)
def test_what_a_method_sets_a_flag_to(value: str, expected: bool) -> None:
    text = f"class A:\n    def begin(self, limit):\n        self.due = {value}\n\n    def f(self, ps):\n        if self.due:\n            {CLIP}"
    assert may_be_guarded(*clip_of("import math\n" + text)) is expected


@pytest.mark.parametrize("sets", ["self.due += 1", "self.due, loss = step()", "(self.due, loss) = step()"])
def test_a_flag_that_a_method_changes_in_another_way(sets: str) -> None:
    text = f"class A:\n    def begin(self):\n        {sets}\n\n    def f(self, ps):\n        if self.due:\n            {CLIP}"
    assert may_be_guarded(*clip_of(text))


@pytest.mark.parametrize(("times", "expected"), [(6, True), (7, False)])
def test_so_many_names_of_a_flag_are_followed(times: int, expected: bool) -> None:
    lines = textwrap.indent(f"{named('tell(x)', times)}\nif name{times}:\n    {CLIP}", "        ")
    assert may_be_guarded(*clip_of(f"def f(ps, xs):\n    for x in xs:\n{lines}")) is expected


def test_flags_that_are_set_from_each_other() -> None:
    text = f"""
        class A:
            def begin(self):
                self.one, self.other = not self.other, not self.one

            def f(self, ps):
                if self.one:
                    {CLIP}
        """
    assert not may_be_guarded(*clip_of(text))
