"""The edits of a program: inserting, deleting and replacing lines, and the import that makes a function available.

A program contains `HERE` where the code of a fix goes.
"""

from __future__ import annotations

from collections.abc import Iterable

import libcst as cst
import pytest

from clipcheck.fixes.imports import reach
from clipcheck.fixes.unused import left_unused, without_unused
from clipcheck.fixes.verbs import (
    delete_lines,
    insert_after,
    insert_line_after,
    insert_line_before,
    lines_of,
    replace,
)
from clipcheck.python.source import Source, Statement
from clipcheck.rule import Edit, Target


def applied(text: str, edits: Iterable[Edit]) -> str:
    for edit in sorted(edits, reverse=True):
        text = text[: edit.start] + edit.text + text[edit.end :]
    return text


def here(source: Source) -> cst.Name:
    (found,) = [name for name in source.nodes(cst.Name) if name.value == "HERE"]
    return found


def statement(text: str) -> tuple[Source, Statement]:
    """A program and the statement that contains `HERE`."""
    source = Source(text)
    return source, source.statement(here(source))


# --- lines -----------------------------------------------------------------------------------------------------------


def test_an_expression_is_replaced_in_place() -> None:
    source = Source("x = f(HERE, 1)  # HERE\n")
    assert applied(source.text, [replace(source, here(source), "y")]) == "x = f(y, 1)  # HERE\n"
    assert applied(source.text, [insert_after(source, here(source), "[0]")]) == "x = f(HERE[0], 1)  # HERE\n"


@pytest.mark.parametrize(
    ("text", "before", "after"),
    [
        ("HERE\n", "new\nHERE\n", "HERE\nnew\n"),
        ("HERE", "new\nHERE", "HERE\nnew"),
        ("HERE  # why\n", "new\nHERE  # why\n", "HERE  # why\nnew\n"),
        ("# why\nHERE\n", "# why\nnew\nHERE\n", "# why\nHERE\nnew\n"),
        ("HERE\r\nx\r\n", "new\r\nHERE\r\nx\r\n", "HERE\r\nnew\r\nx\r\n"),
        ("if x:\n    HERE\ny\n", "if x:\n    new\n    HERE\ny\n", "if x:\n    HERE\n    new\ny\n"),
        ("if x:\n\tHERE\n", "if x:\n\tnew\n\tHERE\n", "if x:\n\tHERE\n\tnew\n"),
        ("f(\n  HERE,\n)\ny\n", "new\nf(\n  HERE,\n)\ny\n", "f(\n  HERE,\n)\nnew\ny\n"),
        ("if HERE:\n    y\nz\n", "new\nif HERE:\n    y\nz\n", "if HERE:\n    y\nnew\nz\n"),
    ],
)
def test_a_line_is_inserted_before_or_after_a_statement(text: str, before: str, after: str) -> None:
    source, at = statement(text)
    assert applied(text, [insert_line_before(source, at, "new")]) == before
    assert applied(text, [insert_line_after(source, at, "new")]) == after


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("a\nHERE\nb\n", "a\nb\n"),
        ("a\nHERE", "a\n"),
        ("a\n\nHERE  # why\nb\n", "a\n\nb\n"),
        ("if x:\n    a\n    f(\n        HERE\n    )\nb\n", "if x:\n    a\nb\n"),
        ("a\r\nHERE\r\nb\r\n", "a\r\nb\r\n"),
        # and with the blank lines that only set it off
        ("a\n\nHERE\n\nb\n", "a\n\nb\n"),
        ("a\n\n\nHERE\n\nb\n", "a\n\n\nb\n"),
        ("a\nHERE\n\nb\n", "a\n\nb\n"),
        ("HERE\n\n\nb\n", "b\n"),
        ("@HERE\ndef f():\n    pass\nb\n", "b\n"),
        ("\nHERE\n\n\n\nb\n", "\n\n\nb\n"),
        ("a\n\nHERE\n\n", "a\n\n"),
        ("a\n\n\nHERE\n\n\n", "a\n\n\n"),
        ("a\n  \nHERE\n\t\nb\n", "a\n  \nb\n"),
        ("if a:\n    b\n\n    HERE\n\nc\n", "if a:\n    b\n\nc\n"),
    ],
)
def test_a_statement_is_removed_with_its_lines(text: str, left: str) -> None:
    source, at = statement(text)
    assert applied(text, [delete_lines(source, at)]) == left


# --- imports ---------------------------------------------------------------------------------------------------------


def written(text: str, function: str = "grad_norm", target: Target = "clipcheck") -> str:
    """The program with the function instead of `HERE`, and the import that it needs."""
    source = Source(text, target)
    reached = reach(source, here(source), function)
    return applied(text, [*reached.imports, replace(source, here(source), reached.text)])


NEW = "from clipcheck.runtime import grad_norm\n"

# An available function is used by its existing name.
REUSED = [
    (NEW + "HERE\n", "grad_norm"),
    ("from clipcheck.runtime import grad_norm as gn\nHERE\n", "gn"),
    ("import clipcheck.runtime\nHERE\n", "clipcheck.runtime.grad_norm"),
    ("import clipcheck\nimport clipcheck.runtime\nHERE\n", "clipcheck.runtime.grad_norm"),
    ("import clipcheck.runtime as cr\nHERE\n", "cr.grad_norm"),
    ("from clipcheck import runtime\nHERE\n", "runtime.grad_norm"),
    ("import clipcheck.runtime\nfrom clipcheck.runtime import grad_norm\nHERE\n", "grad_norm"),
    ("def f():\n    from clipcheck.runtime import grad_norm\n    HERE\n", "grad_norm"),
    ("def f():\n    from clipcheck.runtime import grad_norm\n    def g():\n        HERE\n", "grad_norm"),
    ("if x:\n    from clipcheck.runtime import grad_norm\n    HERE\n", "grad_norm"),
    (f"if TYPE_CHECKING:\n    pass\nelse:\n    {NEW}HERE\n", "grad_norm"),
    (f"if TYPE_CHECKING:\n    {NEW}else:\n    {NEW}HERE\n", "grad_norm"),
]


@pytest.mark.parametrize(("text", "name"), REUSED)
def test_what_is_imported_is_used(text: str, name: str) -> None:
    assert written(text) == text.replace("HERE", name)


# Look-alikes that are something else: a new import is added.
@pytest.mark.parametrize(
    ("text", "after"),
    [
        ("import clipcheck\nHERE\n", f"import clipcheck\n{NEW}grad_norm\n"),
        ("from clipcheck import api\nHERE\n", f"from clipcheck import api\n{NEW}grad_norm\n"),
        (
            "from .clipcheck.runtime import clip_grad_norm_\nHERE\n",
            f"{NEW}\nfrom .clipcheck.runtime import clip_grad_norm_\ngrad_norm\n",
        ),
        (
            "import torch\n\n\ndef f():\n    from clipcheck.runtime import grad_norm as gn\n\n\nHERE\n",
            f"import torch\n{NEW}\n\ndef f():\n    from clipcheck.runtime import grad_norm as gn\n\n\ngrad_norm\n",
        ),
        (
            "import torch\nclass C:\n    from clipcheck.runtime import grad_norm as gn\n    def f(self):\n        HERE\n",
            f"import torch\n{NEW}class C:\n    from clipcheck.runtime import grad_norm as gn\n    def f(self):\n"
            "        grad_norm\n",
        ),
    ],
)
def test_what_is_not_available_is_imported(text: str, after: str) -> None:
    assert written(text) == after


@pytest.mark.parametrize(
    ("text", "after"),
    [
        ("HERE\n", f"{NEW}\ngrad_norm\n"),
        ("HERE", f"{NEW}\ngrad_norm"),
        ("# what this does\nHERE\n", f"{NEW}\n# what this does\ngrad_norm\n"),
        *(
            (f"{line}\nHERE\n", f"{line}\n{NEW}\ngrad_norm\n")
            for line in ("# train.py", "# Copyright Somebody", "# -*- coding: utf-8 -*-", "# License: BSD", "#!python")
        ),
        ("#!/usr/bin/env python\n# license\n\nHERE\n", f"#!/usr/bin/env python\n# license\n\n{NEW}\ngrad_norm\n"),
        ('"""What it is."""\n\nHERE\n', f'"""What it is."""\n\n{NEW}\ngrad_norm\n'),
        ("'a'; HERE\n", f"{NEW}\n'a'; grad_norm\n"),
        (
            '"""What it is."""\nfrom __future__ import annotations\n\nHERE\n',
            f'"""What it is."""\nfrom __future__ import annotations\n\n{NEW}\ngrad_norm\n',
        ),
        ("import os\nimport torch\nimport sys\n\nHERE\n", f"import os\nimport torch\n{NEW}import sys\n\ngrad_norm\n"),
        (
            "import os\n\nx = 1\n\nfrom torch import nn\n\nHERE\n",
            f"import os\n\nx = 1\n\n{NEW}from torch import nn\n\ngrad_norm\n",
        ),
        ("import os\n\nx = 1\n\nimport sys\n\nHERE\n", f"import os\n\n{NEW}\nx = 1\n\nimport sys\n\ngrad_norm\n"),
        # sorted by modules, whichever form an import has
        (
            "from a import x\nimport b\nfrom d import y\n\nHERE\n",
            f"from a import x\nimport b\n{NEW}from d import y\n\ngrad_norm\n",
        ),
        (
            "import b\nimport d\nfrom a import x\nfrom e import y\n\nHERE\n",
            f"import b\nimport d\nfrom a import x\n{NEW}from e import y\n\ngrad_norm\n",
        ),
        ("import torch\r\n\r\nHERE\r\n", f"import torch\r\n{NEW[:-1]}\r\n\r\ngrad_norm\r\n"),
        # an import below its use would come too late
        ("def f():\n    HERE\n\nimport torch\n", f"{NEW}\n\ndef f():\n    grad_norm\n\nimport torch\n"),
        ("import os\nHERE\nimport torch\n", f"import os\n\n{NEW}grad_norm\nimport torch\n"),
        ("import torch; HERE\n", f"{NEW}\nimport torch; grad_norm\n"),
        ("if x:\n    import torch\nHERE\n", f"if x:\n    import torch\n{NEW}\ngrad_norm\n"),
    ],
)
def test_a_new_import_goes_to_the_imports_above_its_use(text: str, after: str) -> None:
    assert written(text) == after


@pytest.mark.parametrize(
    ("line", "after"),
    [
        ("from clipcheck.runtime import clip_grad_norm_", "from clipcheck.runtime import clip_grad_norm_, grad_norm"),
        ("from clipcheck.runtime import verify", "from clipcheck.runtime import grad_norm, verify"),
        (
            "from clipcheck.runtime import (\n    clip_grad_norm_,\n)",
            "from clipcheck.runtime import (\n    clip_grad_norm_,\n    grad_norm,\n)",
        ),
    ],
)
def test_a_name_is_added_to_an_import_of_the_runtime(line: str, after: str) -> None:
    assert written(f"import torch\n{line}\nHERE\n") == f"import torch\n{after}\ngrad_norm\n"


def test_a_name_is_not_added_to_an_import_below_its_use() -> None:
    text = "def f():\n    HERE\n\nfrom clipcheck.runtime import clip_grad_norm_\n"
    assert written(text) == f"{NEW}\n\n" + text.replace("HERE", "grad_norm")


@pytest.mark.parametrize(
    "taken",
    [
        "def grad_norm(): ...\n",
        "grad_norm = 1\n",
        "from mine import grad_norm\n",
        "print(grad_norm)\n",
        "def f(grad_norm): ...\n",
        "def f():\n    global grad_norm\n",
        "try:\n    from clipcheck.runtime import grad_norm\nexcept ImportError:\n    grad_norm = None\n",
    ],
)
def test_a_taken_name_keeps_its_meaning(taken: str) -> None:
    after = written(f"import torch\n{taken}HERE\n")
    assert after.endswith(f"{taken}clipcheck.runtime.grad_norm\n")
    assert "import clipcheck.runtime\n" in after
    both = written(f"import torch\n{taken}clipcheck = 1\nHERE\n")
    assert both.endswith("\nclipcheck_grad_norm\n")
    assert "from clipcheck.runtime import grad_norm as clipcheck_grad_norm\n" in both


@pytest.mark.parametrize(
    ("text", "after"),
    [
        ("HERE\n", "import torch\n\ntorch.nn.utils.get_total_norm\n"),
        ("import torch\nHERE\n", "import torch\ntorch.nn.utils.get_total_norm\n"),
        ("import torch as th\nHERE\n", "import torch as th\nth.nn.utils.get_total_norm\n"),
        ("from torch import nn\nHERE\n", "from torch import nn\nnn.utils.get_total_norm\n"),
        (
            "import torch\nfrom torch.nn import utils\nHERE\n",
            "import torch\nfrom torch.nn import utils\nutils.get_total_norm\n",
        ),
        (
            "from torch.nn.utils import get_total_norm as total\nHERE\n",
            "from torch.nn.utils import get_total_norm as total\ntotal\n",
        ),
    ],
)
def test_with_torch_as_the_target_the_shortest_import_is_used(text: str, after: str) -> None:
    assert written(text, "get_total_norm", "torch") == after


@pytest.mark.parametrize(
    ("text", "after"),
    [
        ("import torch\nHERE\n", "import torch\nfrom mine.clips import grad_norm\ngrad_norm\n"),
        ("import torch\ngrad_norm = 1\nHERE\n", "import mine.clips\nimport torch\ngrad_norm = 1\nmine.clips.grad_norm\n"),
        (
            "import torch\nmine = grad_norm = 1\nHERE\n",
            "import torch\nfrom mine.clips import grad_norm as clipcheck_grad_norm\nmine = grad_norm = 1\nclipcheck_grad_norm\n",
        ),
        ("from mine import clips\nHERE\n", "from mine import clips\nclips.grad_norm\n"),
        ("from mine.clips import other\nHERE\n", "from mine.clips import grad_norm, other\ngrad_norm\n"),
        ("import torch\nfrom clipcheck.runtime import grad_norm as g\nHERE\n", "import torch\nfrom clipcheck.runtime import grad_norm as g\nfrom mine.clips import grad_norm\ngrad_norm\n"),
    ],
)  # fmt: skip
def test_with_a_copy_of_the_runtime_as_the_target_the_copy_is_imported(text: str, after: str) -> None:
    assert written(text, target="mine.clips") == after


# --- imports that are no longer needed -------------------------------------------------------------------------------


def without(text: str, added: str = "", ours_alone: bool = False) -> str:
    """The program without the line that contains `HERE`, or with a call of `added` instead."""
    source, at = statement(text)
    reached = reach(source, at, added) if added else None
    change = replace(source, at, reached.text) if reached else Edit(*lines_of(source, at), "")
    return applied(text, without_unused(source, [*(reached.imports if reached else ()), change], ours_alone))


@pytest.mark.parametrize(
    "imports",
    [
        "from clipcheck.runtime import *\n",
        "from clipcheck.runtime import grad_norm  # noqa: F401\n",
        "from clipcheck.runtime import grad_norm; x = 1\n",
        "from clipcheck.runtime import grad_norm\nprint(grad_norm(ps))\n",
        "from clipcheck.runtime import grad_norm\nx: 'grad_norm' = 1\n",
        "from clipcheck.runtime import grad_norm\n__all__ = ['grad_norm']\n",
        "from clipcheck.runtime import grad_norm\n__all__ += ['grad_norm']\n",
        *(
            f"from clipcheck.runtime import grad_norm\nprint({call})\n"
            for call in ("globals()", "locals()", "vars()", "eval(x)", "exec(x)")
        ),
        "try:\n    from mine import grad_norm\n    x = 1\nexcept ImportError:\n    grad_norm = None\n",
        "try:\n    from mine import grad_norm\n    x = 1\nexcept ImportError:\n    pass\n",
        "if x:\n    from mine import grad_norm\n",
        "if x: from mine import grad_norm\n",
        "from clipcheck.runtime import clip_grad_norm_\n",  # unused before
        "try:\n    import grad_norm\nexcept ImportError:\n    import mine as grad_norm\n",
        "import grad_norm\nif x:\n    import mine as grad_norm\n",
        "import grad_norm\ngrad_norm = print\n",
    ],
)
def test_an_import_that_is_used_or_holds_more_stays(imports: str) -> None:
    assert without(f"{imports}HERE = grad_norm(ps)\n") == imports


@pytest.mark.parametrize(
    ("imports", "after"),
    [
        (f"import torch\n{NEW}", "import torch\n"),
        ("import grad_norm\n", ""),
        ("import numpy as np, mine as grad_norm\n", "import numpy as np\n"),
        ("from mine import zero as grad_norm\n", ""),
        ("from mine import a, grad_norm, zero\n", "from mine import a, zero\n"),
        ("from mine import (\n    a,\n    grad_norm,\n)\n", "from mine import (\n    a,\n)\n"),
        ("from mine import (a,\n                  grad_norm)\n", "from mine import a\n"),
        # on one line if it is no longer than 88 characters
        (f"from mine import ({'a' * 71},\n    grad_norm)\n", f"from mine import {'a' * 71}\n"),
        (f"from mine import ({'a' * 72},\n    grad_norm)\n", f"from mine import (\n    {'a' * 72},\n)\n"),
        (f"from mine import {'a' * 90}, grad_norm\n", f"from mine import {'a' * 90}\n"),
        ("import os\n\nimport grad_norm\n\nimport torch\n", "import os\n\nimport torch\n"),
        ("import grad_norm\n\nimport torch\n", "import torch\n"),
        ("import torch\n\nimport grad_norm\n\n\n", "import torch\n\n\n"),
        ("print('grad_norm')\nimport grad_norm\n", "print('grad_norm')\n"),
        ("import grad_norm\nprint(vars(x))\n", "print(vars(x))\n"),
        ("import os\n\nimport grad_norm\n\n", "import os\n\n"),
    ],
)
def test_an_import_is_removed_with_the_last_use_of_its_name(imports: str, after: str) -> None:
    assert without(f"{imports}HERE = grad_norm(ps) + grad_norm(qs)\n") == after


def test_an_import_that_the_new_one_replaces_leaves_its_blank_lines() -> None:
    new = "from clipcheck.runtime import clip_grad_norm_\n"
    for old in ("import grad_norm\n", "from zoo import grad_norm\n"):  # before it in the order of imports, and after it
        for above in ("", "import os\n\n"):
            assert (
                without(f"{above}{old}\nHERE = grad_norm(ps)\n", "clip_grad_norm_")
                == f"{above}{new}\nclip_grad_norm_\n"
            )


def test_an_expression_that_is_replaced_from_its_first_name_on() -> None:
    source = Source("import os\n\nimport math\n\nx = math.sqrt(y)\n")
    call = next(source.nodes(cst.Call))
    assert applied(source.text, without_unused(source, [replace(source, call, "f(y)")])) == "import os\n\nx = f(y)\n"


@pytest.mark.parametrize("lines", ["    device = ps[0]\n    f(device)\n", "    import math\n    f(math.pi)\n"])
def test_what_the_change_itself_replaces_is_replaced_once(lines: str) -> None:
    source = Source(f"def g(ps):\n{lines}    return 1\n")
    start = source.text.index(lines)
    edits = without_unused(source, [Edit(start, start + len(lines), "    h()\n")])
    assert applied(source.text, edits) == "def g(ps):\n    h()\n    return 1\n"


@pytest.mark.parametrize(
    ("target", "module", "goes"),
    [
        ("clipcheck", "clipcheck.runtime", True),
        ("clipcheck", "torch.nn.utils", False),
        ("clipcheck", "mine", False),
        ("torch", "clipcheck.runtime", True),
        ("torch", "torch.nn.utils", True),
        ("torch", "mine", False),
    ],
)
def test_which_imports_are_ours(target: Target, module: str, goes: bool) -> None:
    line = f"from {module} import f\n"
    source = Source(f"{line}HERE(f)\n", target)
    edits = without_unused(source, [replace(source, source.statement(here(source)), "g()")], ours_alone=True)
    assert applied(source.text, edits) == ("" if goes else line) + "g()\n"


def test_where_others_may_need_an_import_only_those_of_the_runtime_go() -> None:
    text = f"import math\n{NEW}HERE = math.sqrt(grad_norm(ps))\n"
    assert without(text) == ""
    assert without(text, ours_alone=True) == "import math\n"


def test_an_import_in_a_function_is_removed_unless_the_body_would_be_empty() -> None:
    text = "def f():\n    import math\n    HERE = math.pi\n    return 1\n"
    assert without(text) == "def f():\n    return 1\n"
    spread = "def f():\r\n    from mine import (\r\n        a,\r\n        grad_norm,\r\n    )\r\n    HERE = grad_norm\r\n    return a\r\n"
    assert without(spread) == spread.replace("        grad_norm,\r\n", "").replace("    HERE = grad_norm\r\n", "")


@pytest.mark.parametrize(
    ("new", "after"), [("torch.abs(g)", "import torch\ntorch.abs(g)\n"), ("f(x.torch)", "f(x.torch)\n")]
)
def test_a_name_that_the_change_writes_again_stays(new: str, after: str) -> None:
    source, at = statement("import torch\nHERE = torch.norm(g)\n")
    assert applied(source.text, without_unused(source, [replace(source, at, new)])) == after


def test_a_name_that_becomes_an_attribute_is_not_a_use() -> None:
    source = Source("from mine import clip\nclip(ps)\n")
    call = next(source.nodes(cst.Call))
    edits = [Edit(source.span(call)[0], source.span(call)[0], "model.")]
    assert applied(source.text, without_unused(source, edits)) == "model.clip(ps)\n"


def test_the_name_of_an_import_makes_way_for_the_one_that_is_needed() -> None:
    after = without(f"{NEW}HERE = grad_norm(ps)\n", "clip_grad_norm_")
    assert after == "from clipcheck.runtime import clip_grad_norm_\nclip_grad_norm_\n"
    both = without(f"{NEW}HERE = grad_norm(ps)\ngrad_norm(qs)\n", "clip_grad_norm_")
    assert both == "from clipcheck.runtime import clip_grad_norm_, grad_norm\nclip_grad_norm_\ngrad_norm(qs)\n"
    known = "from clipcheck.runtime import clip_grad_norm_\n"
    assert without(f"{known}{NEW}HERE = grad_norm(ps)\n", "clip_grad_norm_") == f"{known}clip_grad_norm_\n"


# --- variables that are no longer needed ------------------------------------------------------------------------------


def in_function(before: str, after: str = "x = f()") -> str:
    """The function with these lines after `HERE` is replaced by another statement."""
    text = "def function(ps):\n" + "".join(
        f"    {line}\n" for line in [*before.splitlines(), "x = HERE(device)", "return x"]
    )
    source, at = statement(text)
    edits = without_unused(source, [replace(source, at, after)])
    lines = applied(text, edits).splitlines()[1:-1]
    return "\n".join(line[4:] for line in lines)


@pytest.mark.parametrize(
    "value",
    [
        *("ps[0].grad.device", "torch.device('cpu')", "next(model.parameters()).device", "list(model.parameters())"),
        *("2.0", "len(ps)", "int(ps[0])", "float(ps[0])", "-1", "[p for p in ps]", "next(model.parameters())"),
    ],
)
def test_a_variable_that_looks_something_up_is_removed_with_its_last_use(value: str) -> None:
    assert in_function(f"device = {value}") == "x = f()"
    assert in_function(f"device: str = {value}") == "x = f()"


@pytest.mark.parametrize(
    "before",
    [
        "device = pick(ps)",  # what else it does is not known
        "device = ps[0].device  # why",
        "device = other = ps[0].device",
        "if ps:\n    device = 1\nelse:\n    device = 2",
        "device = ps[0].device\nprint(device)",
        "if ps:\n    device = ps[0].device",  # a block needs a statement
        "for device in ps:\n    pass",
        "device, y = ps",
        "device = next(ps)",  # which takes an element from it
        "device = next(ps, None)",
        *(f"device = {value}" for value in ("(y := ps)[0]", "(yield)", "await ps", "print(ps)", "ps[pick()]")),
        "global device\ndevice = ps[0].device",
        "device: int",
        "y = 1; device = ps[0].device",
    ],
)
def test_a_variable_that_may_be_needed_stays(before: str) -> None:
    assert in_function(before) == f"{before}\nx = f()"


def test_a_variable_that_the_change_writes_again_stays() -> None:
    assert in_function("device = ps[0].device", "x = f(device)") == "device = ps[0].device\nx = f(device)"
    assert in_function("device = ps[0].device", "x = f(x.device)") == "x = f(x.device)"


def test_of_two_variables_the_one_that_is_still_read_stays() -> None:
    text = "def f(ps):\n    a = ps[0].shape\n    b = ps[0].device\n    HERE(a, b)\n    return a\n"
    source, at = statement(text)
    after = applied(text, without_unused(source, [replace(source, at, "g()")]))
    assert after == "def f(ps):\n    a = ps[0].shape\n    g()\n    return a\n"


def test_a_variable_of_the_module_may_be_read_from_elsewhere() -> None:
    text = "device = ps[0].device\nHERE(device)\n"
    source, at = statement(text)
    assert applied(text, without_unused(source, [replace(source, at, "f()")])) == "device = ps[0].device\nf()\n"


@pytest.mark.parametrize(("value", "name"), [("pick(ps)", "device"), ("ps[0].device", "")])
def test_a_fix_that_would_leave_a_variable_unused_is_refused_with_a_reason(value: str, name: str) -> None:
    source, at = statement(f"def f(ps):\n    device = {value}\n    HERE(device)\n")
    assert left_unused(source, [replace(source, at, "f()")]) == name
