"""The prefilter never skips a rule that finds something: results must be the same without it."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import PROJECT

from clipcheck import prefilter
from clipcheck.catalogue import RULES
from clipcheck.engine.file import candidate, check_file
from clipcheck.prefilter import concerned, wanted
from clipcheck.python.parts import parts
from clipcheck.rule import Finding, Need, Rule, Severity, Tier
from clipcheck.settings.keys import DEFAULT, Settings

ALL = frozenset(RULES)
WITH = Settings(codes=ALL)
WITHOUT = replace(WITH, prefilter=False)
CASES = PROJECT.parent / "shared" / "cases"


def found(path: str, data: bytes, settings: Settings) -> list[Finding]:
    """What rules find; unreadable files are reported only if a rule applies to them."""
    return [finding for finding in check_file(path, data, settings).findings if finding.code in RULES]


def assert_nothing_is_lost(path: str, data: bytes) -> list[Finding]:
    without = found(path, data, WITHOUT)
    assert found(path, data, WITH) == without
    return without


def codes(text: str, path: str = "a.py") -> set[str]:
    """The rules with a finding, which must be the same without the prefilter."""
    return {finding.code for finding in assert_nothing_is_lost(path, text.encode())}


# --- nothing is lost ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path", sorted((PROJECT / "fixtures").glob("*/*.py")), ids=lambda path: f"{path.parent.name}/{path.stem}"
)
def test_no_finding_of_an_example_is_lost(path: Path) -> None:
    data = path.read_bytes()
    assert bool(assert_nothing_is_lost(path.name, data)) or "before" not in path.stem


@pytest.mark.skipif(not CASES.is_dir(), reason="the cases are not beside this checkout (../shared/cases)")
def test_the_prefilter_loses_no_finding_of_a_case() -> None:
    paths = [path for path in sorted(CASES.rglob("*")) if path.suffix in (".py", ".ipynb", ".md", ".rst")]
    assert len(paths) > 50
    assert sum(len(assert_nothing_is_lost(str(path), path.read_bytes())) for path in paths) > 100


NORM = """\
import torch

def norm(ps):
    total = 0.0
    for p in ps:
        if p.grad is not None:
            square = p.grad.pow(2).sum()
            total += square.item()
    return total
"""


def test_a_square_on_a_separate_line() -> None:
    assert codes(NORM) >= {"CLIP001"}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("p.grad.pow(2).sum()", "(p.grad * p.grad).sum()"),
        ("p.grad.pow(2).sum()", "(p.grad.data*p.grad.data).sum()"),
        ("p.grad.pow(2).sum()", "torch.dot(p.grad.flatten(), p.grad.flatten())"),
        ("p.grad.pow(2).sum()", "p.grad.norm(2) ** 2"),
        ("p.grad.pow(2).sum()", "p . grad . \\\n pow ( 2 ) . sum ( )"),
        ("square.item()", "float(square)"),
        ("square.item()", "square.cpu().numpy()"),
        ("total += square.item()", "total = total + square.item()"),
        ("for p in ps:", "for p in  (\n  ps):"),
        ("p.grad.pow(2)", "p.grad.pow(2) # the gradient of\n            "),
    ],
)
def test_a_norm_however_it_is_written(old: str, new: str) -> None:
    assert codes(NORM.replace(old, f"({new})" if "#" in new else new)) >= {"CLIP001"}


@pytest.mark.parametrize(
    "text",
    [
        "from math import pow as power\n" + NORM.replace("square.item()", "power(p.grad.norm(), 2)"),
        "from torch import sum as added\n" + NORM.replace("p.grad.pow(2).sum()", "added(p.grad.pow(2))"),
        "from torch.linalg import vector_norm as n\n" + NORM.replace("p.grad.pow(2).sum()", "n(p.grad) ** 2"),
        "import numpy as np\n" + NORM.replace("square.item()", "np.linalg.norm(p.grad.cpu()) ** 2"),
    ],
)  # fmt: skip
def test_a_norm_by_names_that_are_imported_under_others(text: str) -> None:
    assert codes(text) >= {"CLIP001"}


@pytest.mark.parametrize(
    ("imports", "added"),
    [
        ("", "p.\\\n                grad.norm(2).item() ** 2"),
        ("", "(p.grad  # of the parameter\n                .norm(2) .item ()) ** 2"),
        ("from torch import (  # noqa (all of it)\n    dot,\n)\n", "dot(p.grad.flatten(), p.grad.flatten()).item()"),
        ("from torch.linalg import vector_norm as size\n", "size(p.grad).item() ** 2"),
        ("from math import sqrt\n", "sqrt(p.grad.pow(2).sum()) ** 2"),
        ("import math\n", "math.pow(p.grad.norm(), 2)"),
        ("", "float (p.grad.norm()) ** 2"),
        ("", "p.grad.norm().to('cpu') ** 2"),
        ("", "p.grad.data.norm().data[0] ** 2"),
    ],
)
def test_keywords_in_any_form_that_python_allows(imports: str, added: str) -> None:
    text = f"{imports}import torch\n\ndef norm(ps):\n    total = 0.0\n    for p in ps:\n        total += {added}\n    return total\n"
    assert codes(text) >= {"CLIP001"}


def test_a_norm_of_one_vector() -> None:
    joined = "import torch\n\ndef norm(ps):\n    flat = torch.cat([p.grad.cpu().view(-1) for p in ps])\n    return {}\n"
    for whole in ("(flat ** 2).mean().item()", "flat.dot(flat).item()", "torch.dot(flat, flat).sqrt().item()"):
        assert codes(joined.format(whole)) >= {"CLIP001"}
    assert "CLIP001" not in concerned(joined.format("flat.dot(other).item()"), DEFAULT)


def test_a_mean_of_tensors_that_are_not_joined_is_not_a_norm() -> None:
    text = (
        "import torch\n\ndef f(ps):\n    total = 0.0\n    for p in ps:\n        total += (p.grad ** 2).mean().item()\n"
    )
    assert "CLIP001" not in concerned(text, DEFAULT)
    assert "CLIP001" not in codes(text)


RETURNS = """import torch.distributed as dist

def norm(parameters):
    grads = [p.grad for p in parameters if p.grad is not None]
    {test}
        return 0.0
    total = sum(grad.sum() for grad in grads)
    dist.all_reduce(total)
    return total
"""


@pytest.mark.parametrize(
    "test",
    [
        "if not grads:",
        "if len(grads) == 0:",
        "if verbose and not grads:",
        "if not any(grads):",
        "n = len(grads)\n    if n == 0:",
        "if not (n := len(grads)):",
        "if sum(1 for p in parameters if p.grad is not None) == 0:",
    ],
)
def test_a_return_if_there_is_nothing(test: str) -> None:
    assert codes(RETURNS.format(test=test)) >= {"CLIP414"}


@pytest.mark.parametrize("test", ["if self.grads is None:", "for _ in grads:"])
def test_other_returns(test: str) -> None:
    text = RETURNS.format(test=test)
    assert "CLIP414" not in concerned(text, DEFAULT)
    assert "CLIP414" not in codes(text)


def test_only_a_call_measures() -> None:
    used = "from clipcheck.runtime import grad_norm\n\ndef f(model, loss, optimizer):\n    loss.backward()\n    {}\n    optimizer.step()\n"
    assert codes(used.format("grad_norm(model.parameters())")) >= {"CLIP113"}
    assert "CLIP113" not in concerned(used.format("model.hook = grad_norm"), DEFAULT)


@pytest.mark.parametrize(
    "text",
    [
        "p.grad.data.clamp(-1, 1)",
        "g = p.grad; g = g.clamp(-1, 1)",
        "t.clamp(p.grad, -1, 1)",
        "torch. clamp \\\n      (p.grad, -1, 1)",
    ],
)
def test_what_is_discarded(text: str) -> None:
    assert codes(f"import torch\nimport torch as t\nfor p in ps:\n    {text}\n") >= {"CLIP107"}


def test_reads_under_another_name() -> None:
    read = NORM.replace("square.item()", "number(square)")
    assert codes("from builtins import float as number\n" + read) >= {"CLIP001"}
    assert codes("number = float\n" + read) >= {"CLIP001"}
    kept = "x = p.grad.clamp(-1, 1)\ny = x\n"
    assert "CLIP107" in wanted(kept.encode(), DEFAULT, code=True)
    assert "CLIP107" not in concerned("f(p.grad.clamp(-1, 1))\n", DEFAULT)


def test_gradients_that_the_module_holds() -> None:
    text = """\
import torch

parts = [p.grad for p in model.parameters()]

def norm():
    total = 0.0
    for x in parts:
        total += x.norm(2).item() ** 2
    return total ** 0.5
"""
    assert codes(text) >= {"CLIP001"}


def test_gradients_that_another_function_makes_global() -> None:
    text = """\
import torch

def collect(ps):
    global parts
    parts = [p.grad for p in ps]

def norm():
    total = 0.0
    for x in parts:
        total += x.norm(2).item() ** 2
    return total ** 0.5
"""
    assert codes(text) >= {"CLIP001"}


def test_norms_that_another_function_appends() -> None:
    text = """\
import torch

norms = []

def collect(ps):
    for p in ps:
        norms.append(p.grad.norm(2))

def total_norm():
    return torch.stack(norms).norm(2)
"""
    assert codes(text) >= {"CLIP005"}


def test_norms_that_another_function_puts_into_a_table() -> None:
    text = """\
import torch

norms = {}

def collect(model):
    for name, p in model.named_parameters():
        norms[name] = p.grad.norm(2).item()

def total_norm():
    return sum(n ** 2 for n in norms.values()) ** 0.5
"""
    assert codes(text) >= {"CLIP001"}


def test_gradients_that_a_default_binds() -> None:
    text = """\
import torch

def collect(ps=(parts := [p.grad for p in model.parameters()])):
    return ps

def norm():
    total = 0.0
    for x in parts:
        total += x.norm(2).item() ** 2
    return total ** 0.5
"""
    assert codes(text) >= {"CLIP001"}


def test_a_root_that_is_halved_in_another_function() -> None:
    text = """\
import torch

norms = []

def collect(ps):
    for p in ps:
        norms.append(p.grad.norm(2).item())

def total_norm():
    return sum(norms) ** 1 / 2
"""
    assert codes(text) >= {"CLIP006"}


def test_arguments_by_position_and_infinity_as_a_number() -> None:
    step = "import torch\nfor x in xs:\n    scaler.scale(loss).backward()\n    scaler.unscale_(optimizer)\n    {clip}\n    scaler.step(optimizer)\n"
    clip = "torch.nn.utils.clip_grad_norm_(model.parameters(), {})"
    assert codes(step.replace("{clip}", clip.format("1.0, 2.0, True"))) >= {"CLIP304"}
    assert codes(step.replace("{clip}", clip.format("1e999"))) >= {"CLIP205"}
    gradients = "for x in xs:\n    loss.backward()\n    accelerator.unscale_gradients(optimizer)\n"
    assert "CLIP303" in wanted((gradients + "    optimizer.step()\n").encode(), ALL, code=True)


@pytest.mark.parametrize(
    "statement",
    [
        "from torch.nn.utils import clip_grad_norm_ as clip",
        "from torch.nn.utils.clip_grad import clip_grad_norm_ as clip",
        "import torch.nn.utils as u\nclip = u.clip_grad_norm_",
        "from torch import nn\nclip = nn.utils.clip_grad_norm_",
        "import clipcheck.runtime as r\nclip = r.clip_grad_norm_",
        "def other():\n    global clip\n    from torch.nn.utils import clip_grad_norm_ as clip",
    ],
)
def test_a_clip_under_another_name(statement: str) -> None:
    text = f"{statement}\ndef f(model):\n    clip(model.parameters(), 0.0)\n"
    assert codes(text) >= {"CLIP201"}


@pytest.mark.parametrize("text", ["print 'done'\n", "if x\n", "x = (\n"])
def test_what_is_not_python_as_a_whole(text: str) -> None:
    clip = "import torch\ntorch.nn.utils.clip_grad_norm_(model.parameters(), 0.0)\n"
    assert codes(clip + text) >= ({"CLIP201"} if "(" not in text else set())
    codes(NORM + text)


def test_a_norm_of_python_2() -> None:
    assert codes(NORM.replace("    return total", "    print total\n    print p.grad\n    return total")) >= {"CLIP001"}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "latin-1", "cp1252", "shift_jis", "euc_jp", "iso2022_jp"])
def test_every_encoding_of_python(encoding: str) -> None:
    name = encoding.replace("-sig", "")
    text = f"# -*- coding: {name} -*-\n# {'ä' if name in ('latin-1', 'cp1252') else '勾配'}\n{NORM}"
    assert {f.code for f in assert_nothing_is_lost("a.py", text.encode(encoding))} >= {"CLIP001"}


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_utf_16_is_reported_as_unreadable(encoding: str) -> None:
    report = check_file("a.py", NORM.encode(encoding), Settings())
    assert [finding.code for finding in report.findings] == ["invalid-syntax"]


def test_a_notebook_whose_words_are_escaped() -> None:
    cell = NORM.replace("total +=", "%time total +=")
    notebook = {"cells": [{"cell_type": "code", "metadata": {}, "outputs": [], "source": NORM}], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}  # fmt: skip
    assert codes(json.dumps(notebook), "a.ipynb") >= {"CLIP001"}
    assert codes(json.dumps(notebook).replace("grad", "\\u0067rad"), "a.ipynb") >= {"CLIP001"}
    notebook["cells"] = [{"cell_type": "code", "metadata": {}, "outputs": [], "source": cell.splitlines(keepends=True)}]
    codes(json.dumps(notebook), "a.ipynb")


def test_a_magic_before_a_name_is_not_prose() -> None:
    source = (
        "import torch\n%time grads = [p.grad for p in ps]\nt = 0.0\nfor g in grads:\n    t += g.norm(2).item() ** 2\n"
    )
    notebook = {"cells": [{"cell_type": "code", "metadata": {}, "outputs": [], "source": source}], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}  # fmt: skip
    assert codes(json.dumps(notebook), "a.ipynb") >= {"CLIP001"}


def test_markdown_fences_are_separate_programs() -> None:
    pytest.importorskip("markdown_it")
    assert codes(f"The gradient of\n\n```python\n{NORM}```\n\n```python\nx = 1\n```\n", "a.md") >= {"CLIP001"}


# --- what is left out -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        '"""clip_grad_norm_(x), in torch.nn.utils"""\nimport torch\n',
        'class C:\n    """One.\n\n    torch.nn.utils.clip_grad_norm_(x)\n    """\n\n    x = 1\n',
        'def f():\n    """torch.nn.utils.clip_grad_norm_(x)"""\n    return 1\n',
        "x = 1\n    # torch.nn.utils.clip_grad_norm_(x)\n".replace("    #", "#"),
        "def clip_grad_norm_(parameters):\n    pass\n",
        "limit = args.clip_grad_norm\n",
    ],
)
def test_prose_definitions_and_options_are_not_clips(text: str) -> None:
    assert concerned(text, DEFAULT) == frozenset()


@pytest.mark.parametrize(
    "text",
    [
        'def f(): "doc"; u.clip_grad_norm_(x, 1.0)\n',
        'class C: "doc"; x = u.clip_grad_norm_(x, 1.0)\n',
        'x = """\n# clip\n"""; u.clip_grad_norm_(x, 1.0)\n',
        "try:\n    pass\nexcept E:\n    def f():\n        u.clip_grad_norm_(x, 1.0)\n",
        "def f():\n    def g():\n        u.clip_grad_norm_(x, 1.0)\n",
        "def f(limit=u.clip_grad_norm_(x, 1.0)): pass\n",
        "@u.clip_grad_norm_(x, 1.0)\ndef f(): pass\n",
        "u.clip_grad_norm_ (x, 1.0)\n",
        "print 'no Python 3', u.clip_grad_norm_(x, 1.0)\n",
    ],
)
def test_code_next_to_prose_is_found(text: str) -> None:
    assert "CLIP201" in concerned("import torch.nn.utils as u\n" + text, DEFAULT)


@pytest.mark.parametrize(
    ("line", "speaks"),
    [
        ("the gradient of the loss", False),
        ('"gradient"', False),
        ("x = 1  # clip the gradients", False),
        ("requires_grad = gradient_checkpointing", False),
        ("return grads", True),
        ("for gradient in xs:", True),
        ("x = p.grad", True),
        ("y = 1 if x else grad", True),
        ("y = 1 if x == 1else grad", True),
        ("print grads", True),
        ("GRADS.append(x)", True),
        ("meanGrad", False),
        ("bigGrad[0]", True),
    ],
)
def test_prose_is_distinguished_from_gradients_in_code(line: str, speaks: bool) -> None:
    rest = "\nfor p in ps: x.norm(2).item() ** 2\n"
    assert ("CLIP001" in wanted((line + rest).encode(), ALL, code=True)) is speaks


@pytest.mark.parametrize(("method", "there"), [("norm", True), ("norms", False), ("my_norm", False)])
def test_a_longer_name_is_another(method: str, there: bool) -> None:
    text = f"norm = 1\nfor p in ps:\n    total += p.grad.{method}(2).item() ** 2\n"
    assert ("CLIP001" in wanted(text.encode(), DEFAULT, code=True)) is there


def test_words_of_a_norm_are_near_each_other() -> None:
    apart = """\
def f(model):
    return [p.grad for p in model.parameters()]

def g(xs):
    total = 0.0
    for x in xs:
        total += float(x.norm()) ** 2
    return total
"""
    assert "CLIP001" in wanted(apart.encode(), DEFAULT, code=True)
    assert "CLIP001" not in concerned(apart, DEFAULT)


def test_a_file_without_keywords_is_not_a_candidate() -> None:
    plain = b"import torch\nx = torch.ones(3).sum().item()\n"
    assert not candidate("a.py", plain, WITH)
    assert candidate("a.py", plain, WITHOUT)


# --- the parts of a program -----------------------------------------------------------------------------------------


def test_each_outermost_function_is_separate_from_the_code_outside() -> None:
    split = parts(
        "import a.b\n@deco\ndef f(x=first):\n    def g():\n        inner\n    return g\ny = 1\n"
        "class C:\n    z = two\n    async def h(self): last\n"
    )
    assert split is not None
    assert {"a", "b", "deco", "first", "y", "z", "two", "def f", "def C", "def h"} <= split.outside
    assert not {"inner", "g", "last", "def g"} & split.outside
    assert {function.words() & {"inner", "g", "last", "deco", "def g"} for function in split.functions} == {
        frozenset({"inner", "g", "def g"}),
        frozenset({"last"}),
    }


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_all_line_endings_are_accepted(newline: str) -> None:
    split = parts(newline.join(["x = '\x0c \u2028'", "def f():", "    return two", "y = 3", ""]))
    assert split is not None
    assert [function.text.split() for function in split.functions] == [b"def f(): return two".split()]


def test_what_the_parser_rejects_has_no_parts() -> None:
    assert parts("print 'x'\n") is parts("x = 1\0") is None


def test_odd_strings_in_a_program_cause_no_warnings() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert parts('x = "\\d"\nif 1 is 2:\n    pass\n') is not None


# --- the words of a need, as the catalogue describes them -------------------------------------------------------------


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[bool, bool, bool]]:
    """Whether a rule with these needs is wanted by a file's bytes, by its bytes as code, and in the end."""

    def ask(text: str, needs: tuple[Need, ...] = (), near: tuple[Need, ...] = ()) -> tuple[bool, bool, bool]:
        code = f"{needs} near {near}"  # what is known of a rule is kept by its code
        monkeypatch.setattr(prefilter, "RULES", {code: Rule(code, "name", Tier.DEFAULT, Severity.WARNING, needs, near)})
        codes, data = frozenset({code}), text.encode()
        return bool(wanted(data, codes)), bool(wanted(data, codes, code=True)), bool(concerned(text, codes))

    return ask


NO, PROSE, MAYBE, YES = (False, False, False), (True, False, False), (True, True, False), (True, True, True)
FAR = " " * 150


@pytest.mark.parametrize(
    ("word", "texts"),
    [
        ("step", {NO: ["x", "steps", "my_step", "step1", "Step"], PROSE: ["# step", "'a step'", '"""It is a\nstep"""'],
                  MAYBE: ["def step(): pass"], YES: ["step", "a.step", "f(step=1)", "import a.step.b", "from a import step", "x; step"]}),
        (".grad", {NO: ["x.grads", "x.grad_"], PROSE: ["grad", "grad.x", "f(grad=1)", "# p.grad", "'p.grad of'", "x.y; grad"],
                   YES: ["p.grad", "p . grad", "(p.\\\n  grad)", "(p.\n  grad)", "from x import grad", "from x import (\n  y as z,\n  grad)",
                         "grad = p.grad", "p.grad\ngrad"]}),
        ("float()", {NO: ["floats(x)"], PROSE: ["float", "f(float)", "float + 1", "float.x", "def float(x): pass", "# float(x)"],
                     MAYBE: ["x.float", "x.float\ny"],
                     YES: ["float(x)", "float (x)", "float \\\n(x)", "x.float(y)", "y = float", "y = x.float\ny", "float + float(x)", "float(x) + float",
                           f"float{FAR}(x)", "from builtins import float", "from builtins import int, float as f; f(1)"]}),
        ("clamp();", {NO: ["x.clamps(1)"], PROSE: ["clamp", "x.clamp", "x.clamp\ny(1)", "def clamp(x): pass", "# x.clamp(1)"],
                      MAYBE: ["f(x.clamp(1))", "y = clamp(x)", "return_(x.clamp(1)).y"],
                      YES: ["x.clamp(1)", "clamp(x)", "y = x.clamp(1)", "x.clamp\nx.clamp(1)\nx.clamp\ny", "x.clamp (\n1)"]}),
        (".data[]", {NO: ["x.date[0]"], PROSE: ["data[0]", "data"], MAYBE: ["x.data", "x.data.y[0]", "x.data(0)"], YES: ["x.data[0]", "data[1], x.data[0]"]}),
        ("def step", {NO: ["def steps(): pass"], PROSE: ["# def step"], MAYBE: ["step()", "x = step"], YES: ["def step(): pass", "class step: pass", "async def step(): pass"]}),
        ("'utils'", {NO: ["x", "'utilities'"], PROSE: ["'the utils'", "# 'utils'"], MAYBE: ["utils", "utils.x"], YES: ["'utils'", '"utils"', "f('torch.utils')", "f(r'utils')"]}),
        ("*scaler*", {NO: ["x", "scale"], PROSE: ["# scalers", "'my scaler'"], YES: ["scaler", "my_scalers", "x.scaler_", "'scaler'"]}),
        ("<gradient>", {NO: ["x", "grad_norm", "radius", "graduate"], PROSE: ["'grad'", '"gradients"', "x['grad']", "# the gradient"],
                        YES: ["grad", "p.grad", "for gradient in x: pass", "GRADS", "1 if x else grads", "x = 1if y == 1else grad", "grad_of_x if y else z",
                              "'grad', grad", "grad, 'grad'", "safe_get_full_grad(p)"]}),
        ("<gradient norm>", {NO: ["x", "norm(x)", "clip_grad_norm(x)", "grads(x)"], PROSE: ["get_grad_norm", "def grad_norm(x): pass", "f(grad_norm)", "'grad_norm'"],
                             YES: ["get_grad_norm(x)", "x.grad_norm()", "grad_norms (x)", "grad_norm; grad_norm(x); grad_norm"]}),
        ("<clips>", {NO: ["x", "cli"], MAYBE: ["def f(): clip", "clip", "CLIP"],
                     YES: ["def clip(): pass", "def f():\n    'Clips it.'"]}),
        ("<For>", {MAYBE: ["x", "[x for x in y]", "while x: pass"], YES: ["for x in y: pass", "x\nif x:\n    for y in z:\n        pass"]}),
        ("<square>", {MAYBE: ["x * y", "x + x"], YES: ["x * x", "x.y * x.y"]}),
    ],
)  # fmt: skip
def test_what_a_word_means(
    asked: Callable[..., tuple[bool, bool, bool]], word: str, texts: dict[tuple[bool, bool, bool], list[str]]
) -> None:
    for expected, several in texts.items():
        for text in several:
            for whole in (f"{text}\nz\n", f"y\n{text}\nz\n"):
                assert (whole, asked(whole, ((word,),))) == (whole, expected)


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("the grad", False),
        ("grad of", False),
        ("the\tgrad", False),
        ("some (grad of)", False),
        ("x = the grad", False),
        ("return grad", True),
        ("print grad", True),
        ("exec grad", True),
        ("match grad:", True),
        ("grad if x", True),
        ("grad is None", True),
        ("1 grad", True),
        ("1else grad", True),
        ("grad 1", True),
        ("x\ngrad\ny", True),
        ("the grad, grad", True),
        ("grad of, (grad)", True),
        ("'grad", True),
        ("'grad\"", True),
    ],
)
def test_a_name_beside_another_is_prose_also_where_nothing_is_a_string(
    asked: Callable[..., tuple[bool, bool, bool]], line: str, named: bool
) -> None:
    assert asked(line, (("<gradient>",),))[:2] == (True, named)


@pytest.mark.parametrize(
    ("needs", "text", "expected"),
    [
        ((("a", "b"), ("c",)), "a", NO),
        ((("a", "b"), ("c",)), "c", NO),
        ((("a", "b"), ("c",)), "b; c", YES),
        ((("a", "b"), ("c",)), "a  # c", PROSE),
        ((("a", ".b"), ("c",)), "b; c", PROSE),
        ((("a", ".b"), ("c",)), "b.b; c", YES),
        ((("a", "*b*"), ("c",)), "abc; c", YES),
        ((("a", "*b*"), ("c",)), "xyz; c", NO),
        # each of these in a file without the letters `grad`, and in one with them
        ((("get_grad",),), "x", NO),
        ((("get_grad", "a"),), "a", YES),
        ((("get_grad", "a"),), "a; grad", YES),
        ((("get_grad", "a"), ("<gradient>", "b")), "a; b", YES),
        ((("get_grad", "a"), ("<gradient>", "b")), "a; grad", YES),
        ((("get_grad", "a"), ("<gradient>",)), "a", NO),
        ((("get_grad", "a"), ("<gradient>",)), "b; Grad", NO),
        ((("get_grad", "a"), ("<gradient>",)), "a; GRAD", YES),
        ((("a",), ("<For>",)), "a", MAYBE),
        ((("<For>",), ("a",)), "a", MAYBE),
        ((("<For>",), ("a",)), "b", NO),
    ],
)
def test_each_need_asks_for_one_of_its_words(
    asked: Callable[..., tuple[bool, bool, bool]], needs: tuple[Need, ...], text: str, expected: tuple[bool, bool, bool]
) -> None:
    assert asked(text, needs) == expected


AB = (("a",), ("b",))
FUNCTIONS = "def f():\n    {}\ndef g():\n    {}\n{}\n"


@pytest.mark.parametrize(
    ("needs", "near", "text", "expected"),
    [
        # what is needed near must be met by one function together with what is outside
        ((), AB, FUNCTIONS.format("a", "b", "c"), False),
        ((), AB, FUNCTIONS.format("a; b", "c", "c"), True),
        ((), AB, FUNCTIONS.format("c", "a; b", "c"), True),
        ((), AB, FUNCTIONS.format("c", "c", "a; b"), True),
        ((), AB, FUNCTIONS.format("c", "b", "a"), True),
        ((), AB, "a\ndef f():\n    def g():\n        b\n", True),
        ((), AB, "class A:\n    a\n    def f(self):\n        b\n", True),
        ((), AB, "def f(x=a):\n    b\n", True),
        ((), AB, FUNCTIONS.format("global x; x = a", "b; x", "c"), True),
        ((), AB, FUNCTIONS.format("global x; x = a", "b; y", "c"), False),
        ((), (("a",), ("<For>",)), FUNCTIONS.format("a", "for x in y: pass", "c"), False),
        ((), (("a",), ("<For>",)), FUNCTIONS.format("a", "c", "for x in y: pass"), True),
        ((), (("<gradient>",), ("b",)), FUNCTIONS.format("p.grad", "b", "c"), False),
        ((), (("<gradient>",), ("b",)), FUNCTIONS.format("b", "c", "p.grad"), True),
        ((), (("<gradient>",), ("b",)), FUNCTIONS.format("b", "global x; x = p.grad", "c"), False),
        ((), (("<gradient>",), ("b",)), FUNCTIONS.format("b; x", "global x; x = p.grad", "c"), True),
        ((), (("<gradient norm>",), ("b",)), FUNCTIONS.format("b; grad_norm(x)", "c", "c"), True),
        ((), (("<gradient norm>",), ("b",)), FUNCTIONS.format("b; 'grad_norm'", "grad_norm(x)", "c"), False),
        # what is needed elsewhere, by all functions together
        (AB, (), FUNCTIONS.format("a", "b", "c"), True),
        (AB, (), FUNCTIONS.format("a", "c", "b"), True),
        (AB, (), FUNCTIONS.format("a  # b", "c", "c"), False),
        ((("<For>",), ("a",)), (), FUNCTIONS.format("a", "for x in y: pass", "c"), True),
        ((("<For>",), ("a",)), (), FUNCTIONS.format("a", "c", "c"), False),
        ((("<gradient>",), ("a",)), (), FUNCTIONS.format("a", "p.grad", "c"), True),
        ((("<gradient norm>",), ("a",)), (), FUNCTIONS.format("a", "grad_norm(x)", "c"), True),
        ((("*b*",), ("a",)), (), FUNCTIONS.format("a", "xbx", "c"), True),
        ((("c",),), AB, FUNCTIONS.format("a; b", "c", "d"), True),
        ((("c",),), AB, FUNCTIONS.format("a; b", "d", "d  # c"), False),
        ((("c",),), AB, FUNCTIONS.format("a; c", "b", "d"), False),
        ((("<For>",),), AB, FUNCTIONS.format("a; b", "for x in y: pass", "d"), True),
        ((("<For>",),), AB, FUNCTIONS.format("a; b", "c", "d"), False),
        # a return under a test whether there is something, in view of what is outside
        ((), (("<return>",), ("b",)), "def f():\n    b\n    x = []\n    if x:\n        pass\n    if not x:\n        return\n", True),
        ((), (("<return>",), ("b",)), "x = []\ndef f():\n    b\n    if not x:\n        return\n", True),
        ((), (("<return>",), ("b",)), "def f(x):\n    b\n    if not x:\n        return\n", False),
        # what is no Python is not told apart
        ((), AB, FUNCTIONS.format("a", "b", "x = = 1"), True),
    ],
)  # fmt: skip
def test_words_are_near_each_other_or_anywhere(
    asked: Callable[..., tuple[bool, bool, bool]],
    needs: tuple[Need, ...],
    near: tuple[Need, ...],
    text: str,
    expected: bool,
) -> None:
    assert asked(text, needs, near)[2] is expected


def test_null_bytes_are_not_there() -> None:
    data = "torch.nn.utils.clip_grad_norm(x, 1.0)".encode("utf-16-le")
    assert "CLIP002" in wanted(data, ALL) and "CLIP002" in wanted(data, ALL, code=True)
    assert wanted(b"x\0y", ALL) == wanted(b"xy", ALL)
