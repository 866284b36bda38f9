"""How far a question follows names, calls and expressions within each other: so far, and not one step further.

A cycle has an answer as well. Each row is a question, where the code is asked about, what is at the
bottom of it, one step around that, and how many such steps are followed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import libcst as cst
import pytest

from clipcheck.catalogue import RULES
from clipcheck.engine.file import check_file
from clipcheck.gradients.gradient import element, gradient
from clipcheck.gradients.graphs import has_graph
from clipcheck.gradients.manual_clips import manual_clips
from clipcheck.gradients.norm_origin import base, origins
from clipcheck.gradients.powers import power
from clipcheck.gradients.series import flat, series
from clipcheck.gradients.totals import total
from clipcheck.python.classes import bases
from clipcheck.python.source import Source
from clipcheck.rules import check_of
from clipcheck.rules.per_parameter_clip import check as per_parameter_clip
from clipcheck.rules.total_norm_of_parameters import are_parameters
from clipcheck.settings.keys import Settings
from clipcheck.training.acts import acts
from clipcheck.training.calls import callee, named_function
from clipcheck.training.effects import only_computes
from clipcheck.training.modules import is_module, is_optimizer
from clipcheck.training.parameters import owners
from clipcheck.training.possible_limits import constants
from clipcheck.training.readings import clips_by, makes_iterator
from clipcheck.training.sharding import wrapped_by_fsdp
from clipcheck.training.split_clips import whole_of
from clipcheck.training.summaries import DEPTH, is_reduction

Question: TypeAlias = Callable[[Source, cst.BaseExpression], object]

HEAD = "import numpy as np\nimport torch\nfrom torch import nn\n\n"
NAME = "name = {}"  # a step that is an assignment
NORMS = "[p.grad.norm() for p in ps]"
STACK = f"torch.stack({NORMS})"


def nested(around: str, inner: str, step: str, times: int) -> str:
    """The program with `inner` in so many steps; each that is an assignment has a line and a name of its own."""
    lines: list[str] = []
    code = inner
    for number in range(times):
        code = step.replace("{}", code)
        if code.startswith("name = "):
            lines.append(code.replace("name", f"name{number}", 1))
            code = f"name{number}"
    return HEAD + "\n".join([*lines, around.replace("{}", code)]) + "\n"


def answer(question: Question, program: str) -> object:
    """The answer to a question about the expression on the last line."""
    source = Source(program)
    *_, last = source.nodes(cst.Expr)
    return question(source, last.value)


def finds(code: str) -> Question:
    """Whether a rule finds anything, wherever it is."""
    return lambda source, _: [*check_of(RULES[code])(source)]


CLIPPED = "nn.utils.clip_grad_norm_({}, 1.0)"
CLIP = "nn.utils.clip_grad_norm_(ps, 1.0)"
SCALED = "for p in ps:\n    p.grad.mul_({})"

ROWS: list[tuple[Question, str, str, str, int]] = [
    # a gradient
    (gradient, "{}", "p.grad", "{}.data", 7),
    (gradient, "{}", "p.grad", "{}.to_local()", 7),
    (gradient, "{}", "p.grad", "{}.float()", 7),
    (gradient, "{}", "p.grad", "({} if x else 0)", 7),
    (gradient, "{}", "p.grad", "(p.grad if x else {})", 7),
    (gradient, "{}", "p.grad", NAME, 7),
    (gradient, "{}[0]", "[p.grad]", "list({})", 5),
    # that of a loop
    (gradient, "for x in {}:\n    x", "[p.grad]", "list({})", 5),
    (gradient, "for x in {}:\n    x", "[p.grad]", "({} + [p.grad])", 5),
    (gradient, "for x in {}:\n    x", "[p.grad]", "([p.grad] if y else {})", 5),
    (gradient, "for x in {}:\n    x", "[p.grad]", "{}[0]", 5),
    (gradient, "for x in {}:\n    x", "[p.grad]", "{}.values()", 5),
    (gradient, "for x in {}:\n    x", "[p.grad]", NAME, 5),
    (gradient, "for x in [{}]:\n    x", "p.grad", "{}.data", 5),
    (gradient, "for x in [{} for p in ps]:\n    x", "p.grad", "{}.data", 5),
    (gradient, "for x, y in zip({}, ps):\n    x", "[p.grad]", "list({})", 4),
    (gradient, "for i, x in enumerate({}):\n    x", "[p.grad]", "list({})", 4),
    (gradient, "for k, x in {}.items():\n    x", "{k: p.grad for k in ks}", NAME, 4),
    (gradient, "for i, x in {}:\n    x", "enumerate([p.grad])", "list({})", 4),
    (gradient, "for i, x in {}:\n    x", "enumerate([p.grad])", NAME, 4),
    (gradient, "for i, x in [(p, {}) for p in ps]:\n    x", "p.grad", "{}.data", 5),
    (element, "[{} for p in ps]", "p.grad", "{}.data", 6),
    (element, "{}", "[p.grad for p in ps]", NAME, 6),
    # whether autograd goes through it
    (has_graph, "{}", "f(create_graph=True)", "list({})", 7),
    (has_graph, "{}", "f(create_graph=True)", "[g for g in {}]", 7),
    (has_graph, "{}", "f(create_graph=True)", "{}[0]", 7),
    (has_graph, "{}", "f(create_graph=True)", NAME, 7),
    # a power of its norm
    (power, "{}", "p.grad.norm()", "({} ** 2)", 7),
    (power, "{}", "p.grad.norm()", "({} if x else 0)", 7),
    (power, "{}", "p.grad.norm()", "({} * {})", 7),
    (power, "{}", "p.grad.norm()", "{}.data", 7),
    (power, "{}", "p.grad.norm()", "{}.data[0]", 7),
    (power, "{}", "p.grad.norm()", "float({})", 7),
    (power, "{}", "p.grad.norm()", NAME, 7),
    # many of these
    (series, "{}", NORMS, "[n ** 2 for n in {}]", 7),
    (series, "{}", NORMS, "list({})", 7),
    (series, "{}", NORMS, "np.array({})", 7),
    (series, "{}", NORMS, "torch.stack({})", 7),
    (series, "{}", NORMS, "torch.tensor({})", 7),
    (series, "{}", NORMS, NAME, 7),
    (series, "{}", STACK, "({} ** 2)", 6),
    (series, "{}", STACK, "torch.sqrt({})", 6),
    (series, "{}", STACK, "{}.float()", 6),
    (flat, "{}", "torch.cat([p.grad for p in ps])", "{}.float()", 7),
    (flat, "{}", "torch.cat([p.grad for p in ps])", NAME, 7),
    # their total
    (total, "{}", "sum(p.grad.norm() ** 2 for p in ps)", "({} ** 0.5)", 7),
    (total, "{}", "sum(p.grad.norm() ** 2 for p in ps)", "float({})", 7),
    (origins, "{}", f"{STACK}.norm()", "({} ** 2)", 12),
    (origins, "{}", f"{STACK}.norm()", "float({})", 12),
    (origins, "{}", f"{STACK}.norm()", "{}.item()", 12),
    (origins, "{}", f"{STACK}.norm()", NAME, 5),
    (lambda source, node: base(source, node) == "ps", "{}", "ps", "name = list({})", 6),
    # modules, optimizers, parameters
    (is_module, "{}", "nn.Linear(2, 2)", "{}.cuda()", 3),
    (is_module, "{}", "nn.Linear(2, 2)", NAME, 3),
    (is_optimizer, "{}", "torch.optim.SGD(ps)", NAME, 3),
    (owners, "{}", "model.parameters()", NAME, 4),
    (are_parameters, "{}", "model.parameters()", "list({})", 5),
    (are_parameters, "{}", "model.parameters()", "[p for p in {}]", 5),
    (are_parameters, "{}", "model.parameters()", NAME, 5),
    # functions
    (named_function, "def f():\n    pass\n\n{}", "f", "partial({}, 1)", 4),
    # limits
    (lambda source, node: [*constants(source, node)], "{}", "None", "float({})", 3),
    (lambda source, node: [*constants(source, node)], "{}", "None", "({} if x else x)", 3),
    (lambda source, node: [*constants(source, node)], "{}", "None", "(x or {})", 3),
    (lambda source, node: [*constants(source, node)], "{}", "None", "options.get('k', {})", 3),
    (lambda source, node: [*constants(source, node)], "{}", "None", NAME, 3),
    # clips by hand
    *((lambda source, _: manual_clips(source), SCALED, "(max_norm / total_norm)", step, 5) for step in (
        *("{}.clamp(max=1.0)", "{}.item()", "min(1.0, {})", "({} if x else 1.0)", "(1.0 if x else {})", NAME),
    )),
    *((lambda source, _: clips_by(source, next(source.nodes(cst.For))), SCALED, "(limit / size)", step, 4) for step in (
        *("float({})", "{}.item()", NAME),
    )),
    # what is clipped, scaled, reduced
    *((finds("CLIP106"), CLIPPED, "[p.grad for p in ps]", step, times) for step, times in (
        *(("list({})", 4), ("filter(None, {})", 4), ("({} if x else {})", 4), ("({} + [p.grad])", 4), (NAME, 1)),
    )),
    (finds("CLIP106"), CLIPPED, "{k: p.grad for k in ks}", "{}.values()", 4),
    (finds("CLIP407"), "fully_shard(model)\nformat({}, '.2f')", CLIP, NAME, 3),
    *((finds("CLIP508"), "np.log({})", CLIP, step, 5) for step in ("{}.sqrt()", "(2 * {})", "({} * 2)", "(n := {})", NAME)),
    (wrapped_by_fsdp, "model = {}\nmodel", "torch.distributed.fsdp.FullyShardedDataParallel(net)", "torch.compile({})", 3),
    (lambda source, node: acts(source)[node].scaler, "{}.backward()", "scaler.scale(loss)", NAME, 2),
    (is_reduction, "dist.all_reduce({})", "torch.cat([p.grad.flatten() for p in ps])", "{}.cpu()", 6),
    (lambda source, node: source.code(whole_of(source, node)) == "ps", "{}", "ps", "name = list({})", 4),
    (makes_iterator, "{}", "iter(ps)", "({} if x else {})", 3),
    # origins
    (lambda source, node: source.qualified(node), "{}", "torch.nn", NAME, 4),
]  # fmt: skip


@pytest.mark.parametrize(("question", "around", "inner", "step", "times"), ROWS)
def test_so_many_steps_are_followed(question: Question, around: str, inner: str, step: str, times: int) -> None:
    assert answer(question, nested(around, inner, step, times))
    assert not answer(question, nested(around, inner, step, times + 1))


# --- functions and classes --------------------------------------------------------------------------------------------


def test_the_bases_of_a_class_are_followed_five_classes_up() -> None:
    source = Source("".join(f"class C{i}(C{i + 1}):\n    pass\n" for i in reversed(range(9))) + "C0\n")
    lowest = next(one for one in source.nodes(cst.ClassDef) if one.name.value == "C0")
    assert [*bases(source, lowest)] == ["C1", "C2", "C3", "C4", "C5"]


@pytest.mark.parametrize(("above", "expected"), [(4, True), (5, False)])
def test_a_method_is_looked_up_in_four_bases(above: int, expected: bool) -> None:
    chain = [f"class C{i}(C{i + 1}):\n    pass\n" for i in reversed(range(above))]
    program = "".join([f"class C{above}:\n    def run(self):\n        pass\n", *chain, "C0.run(x)\n"])
    source = Source(program)
    *_, call = source.nodes(cst.Call)
    assert (callee(source, call) is not None) is expected


@pytest.mark.parametrize(("times", "expected"), [(4, True), (5, False)])
def test_four_names_of_a_function_are_followed(times: int, expected: bool) -> None:
    source = Source(nested("def f():\n    pass\n\n{}()", "f", NAME, times))
    *_, call = source.nodes(cst.Call)
    assert (callee(source, call) is not None) is expected


@pytest.mark.parametrize(("times", "findings"), [(3, 1), (4, 0)])
def test_three_names_of_parameters_are_followed_to_a_clip_of_each(times: int, findings: int) -> None:
    loop = "for x in {}:\n    nn.utils.clip_grad_norm_(x, 1.0)"
    source = Source(nested(loop, "model.parameters()", NAME, times))
    assert len([*per_parameter_clip(source)]) == findings


# --- circles ----------------------------------------------------------------------------------------------------------

IN_A_LOOP = """\
def f(model, loss, grads, optimizer):
    while True:
        a = {b}
        b = {a}
        loss.backward()
        clip_grad_norm_(a, b)
        clip_grad_norm_(a.parameters(), max_norm=a)
        for x in a:
            clip_grad_norm_(x, 1.0)
            total += x.grad.norm().item() ** 2
        torch.cat(a).norm().item()
        [p.grad for p in b]
        if not a:
            return None
        dist.all_reduce(a)
        a.step(b)
"""
OF_AN_OBJECT = """\
class Trainer(Base):
    def __init__(self):
        self.a = {self_b}
        self.b = {self_a}

    def run(self, loss, xs):
        for i, x in enumerate(xs):
            loss.backward()
            clip_grad_norm_(self.a, self.b)
            torch.cat(self.a).norm().item()
            self.a.step(self.b)

class Base(Trainer):
    pass
"""
OF_FUNCTIONS = """\
def f(a):
    while True:
        b = {a}
        clip_grad_norm_(b, g(b))
        b.backward()
        return g(b)

def g(b):
    for a in {b}:
        clip_grad_norm_(a, f(b))
        f(a).step()
    return f(b)
"""


@pytest.mark.parametrize(
    "step", ["{}", "list({})", "[x for x in {}]", "{}.cuda()", "partial({}, 1)", "{}.norm() ** 0.5"]
)
@pytest.mark.parametrize("program", [IN_A_LOOP, OF_AN_OBJECT, OF_FUNCTIONS], ids=["loop", "object", "functions"])
def test_names_that_stand_for_each_other_have_an_answer(program: str, step: str) -> None:
    made = {
        f"{prefix}{name}": step.replace("{}", f"{dot}{name}")
        for name in "ab"
        for prefix, dot in (("", ""), ("self_", "self."))
    }
    text = f"import torch\nimport torch.distributed as dist\nfrom functools import partial\nfrom torch.nn.utils import clip_grad_norm_\n\n{program.format(**made)}"
    report = check_file("x.py", text.encode(), Settings(codes=frozenset(RULES), prefilter=False))
    assert report.errors == ()
    assert {finding.code for finding in report.findings} <= RULES.keys()  # none says that the file is too deep


def test_a_norm_whose_powers_stand_for_each_other_has_no_origin() -> None:
    program = f"n = {STACK}.norm()\nwhile True:\n    n **= 0.5\n    n **= 2.0\n    n\n"
    assert answer(origins, HEAD + program) is None
    assert answer(origins, HEAD + program.replace("    n **= 2.0\n", ""))


# --- through rules ----------------------------------------------------------------------------------------------------


def count_of(code: str, program: str) -> int:
    return len(check_file("x.py", program.encode(), Settings(codes=frozenset({code}), prefilter=False)).findings)


@pytest.mark.parametrize("step", ["{}.float()", "({} + 1)", "(1 + {})", NAME])
def test_five_steps_are_followed_from_a_numpy_function_to_a_norm(step: str) -> None:
    norm = "nn.utils.get_total_norm(grads)"
    assert count_of("CLIP508", nested("np.isnan({})", norm, step, 5)) == 1
    assert count_of("CLIP508", nested("np.isnan({})", norm, step, 6)) == 0


@pytest.mark.parametrize(("names", "expected"), [(1, 1), (2, 1), (3, 0)])
def test_two_names_of_a_scaled_loss_are_followed(names: int, expected: int) -> None:
    clip = "nn.utils.clip_grad_norm_(model.parameters(), 1.0)\nscaler.step(optimizer)"
    program = nested(f"{{}}.backward()\n{clip}", "scaler.scale(loss)", NAME, names)
    assert count_of("CLIP301", program) == expected


@pytest.mark.parametrize(("names", "expected"), [(5, 1), (6, 0)])
def test_five_names_of_a_test_that_counts_are_followed(names: int, expected: int) -> None:
    lines = ["name0 = i % 4 == 0", *(f"name{i} = name{i - 1}" for i in range(1, names))]
    body = "".join(f"        {line}\n" for line in lines)
    program = (
        f"import torch\n\ndef f(xs):\n    for i, x in enumerate(xs):\n{body}        loss.backward()\n"
        "        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)\n"
        f"        if name{names - 1}:\n            optimizer.step()\n            optimizer.zero_grad()\n"
    )
    assert count_of("CLIP108", program) == expected


@pytest.mark.parametrize(("calls", "expected"), [(1, 1), (2, 1), (3, 1), (4, 0)])
def test_three_functions_are_followed_to_what_shards_a_model(calls: int, expected: int) -> None:
    functions = "".join(f"def wrap{i}(n):\n    return wrap{i - 1}(n)\n\n" for i in range(1, calls))
    program = (
        "import torch\nfrom torch.distributed.fsdp import FullyShardedDataParallel as FSDP\n\n"
        f"def wrap0(n):\n    return FSDP(n)\n\n{functions}"
        f"m = wrap{calls - 1}(n)\ntorch.nn.utils.clip_grad_norm_(m.parameters(), 1.0)\n"
    )
    assert count_of("CLIP405", program) == expected


@pytest.mark.parametrize(("calls", "expected"), [(1, True), (2, True), (3, False)])
def test_two_functions_are_followed_to_a_side_effect(calls: int, expected: bool) -> None:
    chain = "".join(f"def f{i}(x):\n    return f{i + 1}(x)\n\n" for i in range(calls))
    source = Source(f"{chain}def f{calls}(x):\n    return abs(x)\n")
    assert only_computes(source, next(iter(source.nodes(cst.FunctionDef)))) is expected


def test_functions_are_followed_to_an_iterator() -> None:
    def program(calls: int) -> str:
        chain = "".join(f"def f{i}():\n    return f{i + 1}()\n\n" for i in range(calls))
        return f"{chain}def f{calls}():\n    return iter([])\n\nf0()\n"

    followed = [bool(answer(makes_iterator, program(calls))) for calls in range(12)]
    assert followed[0]
    assert followed == sorted(followed, reverse=True)
    assert followed.count(True) == DEPTH
