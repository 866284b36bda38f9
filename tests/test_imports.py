"""How a fix makes a function available: by an existing name, or by one import that does not shadow another name."""

from __future__ import annotations

import pytest

from clipcheck import api

NORM = "sum(p.grad.norm().item() ** 2 for p in ps) ** 0.5"


def fixed(text: str, target: str = "clipcheck") -> str:
    """The text with `NORM` rewritten to a call of the runtime."""
    code = "CLIP001" if NORM in text else "CLIP002"
    result = api.fix(text, select=[code], target=target, isolated=True)
    assert {finding.code for finding in result.fixed} == {code}
    assert result.findings == ()
    return result.text


# --- what is imported already -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("imports", "call"),
    [
        ("from clipcheck.runtime import grad_norm\n", "grad_norm"),
        ("from clipcheck.runtime import grad_norm as gn\n", "gn"),
        ("import clipcheck.runtime\n", "clipcheck.runtime.grad_norm"),
        ("import clipcheck.runtime as rt\n", "rt.grad_norm"),
        ("from clipcheck import runtime\n", "runtime.grad_norm"),
        ("from clipcheck import runtime\nfrom clipcheck.runtime import grad_norm\n", "grad_norm"),
        ("import clipcheck\nimport clipcheck.runtime\n", "clipcheck.runtime.grad_norm"),
        ("from clipcheck.runtime import grad_norm as gn, grad_norm\n", "grad_norm"),
        ("from clipcheck.runtime import grad_norm as gn\nimport clipcheck.runtime\n", "gn"),
    ],
)
def test_a_name_that_means_the_function_is_used(imports: str, call: str) -> None:
    text = f"import torch\n{imports}x = {NORM}\n"
    assert fixed(text) == f"import torch\n{imports}x = {call}(ps).item()\n"


@pytest.mark.parametrize(
    "text",
    [
        # … not if the name means something else
        f"from clipcheck.runtime import grad_norm as gn\ndef f(gn):\n    return {NORM}\n",
        f"def g():\n    from clipcheck.runtime import grad_norm as gn\ndef f():\n    return {NORM}\n",
        f"from clipcheck.runtime import grad_norm as gn\ngn = None\nx = {NORM}\n",
        f"from .clipcheck.runtime import grad_norm as gn\nx = {NORM}\n",
    ],
)
def test_a_name_that_means_something_else_is_not(text: str) -> None:
    after = fixed("import torch\n" + text)
    assert "from clipcheck.runtime import grad_norm" in after.replace("grad_norm as gn", "")
    assert " grad_norm(ps).item()" in after


def test_a_name_imported_in_the_function_itself_is_used() -> None:
    text = f"import torch\ndef f(ps):\n    from clipcheck.runtime import grad_norm as gn\n    return {NORM}\n"
    assert fixed(text) == text.replace(NORM, "gn(ps).item()")


def test_a_package_whose_module_is_not_loaded_is_not_used() -> None:
    """`import clipcheck` alone does not load `clipcheck.runtime`."""
    text = f"import clipcheck\nimport torch\nx = {NORM}\n"
    after = "import clipcheck\nimport torch\nfrom clipcheck.runtime import grad_norm\nx = grad_norm(ps).item()\n"
    assert fixed(text) == after


# --- a new import -----------------------------------------------------------------------------------------------------


LINE = "from clipcheck.runtime import grad_norm\n"
CALL = "x = grad_norm(ps).item()\n"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        # among torch's imports in their order, if they are in one; else among the first ones, each kind in its own block
        ("import torch\nimport numpy\n", "import torch\nfrom clipcheck.runtime import grad_norm\nimport numpy\n"),
        ("import numpy\nimport torch\nfrom torch import nn\n", "import numpy\nimport torch\n" + LINE + "from torch import nn\n"),
        ("import os\n\nimport torch\n", "import os\n\nimport torch\n" + LINE),
        ("import os\nsetup()\nimport torch\n", "import os\nsetup()\nimport torch\n" + LINE),
        ("import os\nsetup()\nimport sys\n", "import os\n\n" + LINE + "setup()\nimport sys\n"),
        ("import os; import torch\n", "import os; import torch\n" + LINE),
        ("from torch import (\n    nn,\n)\n", LINE + "from torch import (\n    nn,\n)\n"),
        ("from .torch import nn\nimport os\n", "from .torch import nn\n" + LINE + "import os\n"),
        ("import torchvision\nimport os\n", "import torchvision\nimport os\n" + LINE),
        ("import zoo\nimport app\nimport mid\n", "import zoo\nimport app\nimport mid\n" + LINE),
        ("from torch.nn import *\n", LINE + "from torch.nn import *\n"),
        ("from . import app\n", LINE + "\nfrom . import app\n"),
        ("import os\n\n# ours\nfrom . import app\n", "import os\n\n" + LINE + "\n# ours\nfrom . import app\n"),
        # what only a type checker imports is not there
        ("import torch\nif TYPE_CHECKING:\n    " + LINE, "import torch\n" + LINE + "if TYPE_CHECKING:\n    " + LINE),
        # where nothing is imported, after what has to come first
        ("", LINE + "\n"),
        ("# a comment\n\n", "# a comment\n\n" + LINE + "\n"),
        ("#!/usr/bin/env python\n# -*- coding: utf-8 -*-\n", "#!/usr/bin/env python\n# -*- coding: utf-8 -*-\n" + LINE + "\n"),
        ('"""Docs."""\n', '"""Docs."""\n\n' + LINE + "\n"),
        ('"""Docs."""\n"""More."""\n', '"""Docs."""\n\n' + LINE + '\n"""More."""\n'),
        ("setup()\n", LINE + "\nsetup()\n"),
        # a comment stays with the statement that it is about, unless it is about the file
        ("# after the backward pass:\nsetup()\n", LINE + "\n# after the backward pass:\nsetup()\n"),
        ("# train.py\nsetup()\n", "# train.py\n" + LINE + "\nsetup()\n"),
        ("#!/usr/bin/env python\nsetup()\n", "#!/usr/bin/env python\n" + LINE + "\nsetup()\n"),
        ("# Copyright Me\nsetup()\n", "# Copyright Me\n" + LINE + "\nsetup()\n"),
        ("# about the file\n\nsetup()\n", "# about the file\n\n" + LINE + "\nsetup()\n"),
        ("# trains\ndef f():\n    pass\n", "# trains\n" + LINE + "\n\ndef f():\n    pass\n"),
        ("# License: MIT\nsetup()\n", "# License: MIT\n" + LINE + "\nsetup()\n"),
        ('"""Docs."""\n# starts\nsetup()\n', '"""Docs."""\n\n' + LINE + "\n# starts\nsetup()\n"),
        ("'Docs.' 'More.'\n", "'Docs.' 'More.'\n\n" + LINE + "\n"),
        ("b'no docs'\n", LINE + "\nb'no docs'\n"),
        ("'Docs.'; y = 1\n", LINE + "\n'Docs.'; y = 1\n"),
        ('"""Docs."""\nclass A:\n    pass\n', '"""Docs."""\n\n' + LINE + "\n\nclass A:\n    pass\n"),
        ('"""Docs."""\n\n\ndef f():\n    pass\n', '"""Docs."""\n\n\n' + LINE + "\n\ndef f():\n    pass\n"),
        # an import that the new name joins, in its order
        ("from clipcheck.runtime import clip_grad_norm_\nimport torch\n", "from clipcheck.runtime import clip_grad_norm_, grad_norm\nimport torch\n"),
        ("from clipcheck.runtime import zero\nimport torch\n", "from clipcheck.runtime import grad_norm, zero\nimport torch\n"),
        ("from clipcheck.runtime import a, zero\n", "from clipcheck.runtime import a, grad_norm, zero\n"),
        ("from clipcheck.runtime import (\n    a,\n)\n", "from clipcheck.runtime import (\n    a,\n    grad_norm,\n)\n"),
        ("from clipcheck.runtime import \\\n    a\n", "from clipcheck.runtime import \\\n    a, grad_norm\n"),
        ("from clipcheck.runtime import \\\nzero\n", "from clipcheck.runtime import \\\ngrad_norm, zero\n"),
        ("from clipcheck.runtime import grad_norm_\n", "from clipcheck.runtime import grad_norm, grad_norm_\n"),
        ("from .clipcheck.runtime import zero\n", LINE + "\nfrom .clipcheck.runtime import zero\n"),
    ],
)  # fmt: skip
def test_where_a_new_import_goes(before: str, after: str) -> None:
    assert fixed(before + f"x = {NORM}\n") == after + CALL


@pytest.mark.parametrize(
    ("before", "after"),
    [
        # where torch is imported when it is needed, clipcheck is
        ("def f(ps):\n    import torch\n    HERE\n", "def f(ps):\n    import torch\n    NEW\n    HERE\n"),
        ("def f(ps):\n    import os\n\n    import torch\n\n    HERE\n", "def f(ps):\n    import os\n\n    import torch\n    NEW\n\n    HERE\n"),
        ("@app.command()\ndef f(ps):\n    import torch\n    HERE\n", "@app.command()\ndef f(ps):\n    import torch\n    NEW\n    HERE\n"),
        ("@app.command()\ndef f(ps):\n    HERE\n", "NEW\n\n\n@app.command()\ndef f(ps):\n    HERE\n"),
        ("class C:\n    def f(self, ps):\n        HERE\n", "NEW\n\n\nclass C:\n    def f(self, ps):\n        HERE\n"),
        ("def g():\n    import torch\n\n\ndef f(ps):\n    HERE\n", "def g():\n    import torch\n\n\ndef f(ps):\n    NEW\n\n    HERE\n"),
        (
            "def g():\n    import torch\n\n\ndef f(ps):\n    \"\"\"Doc.\"\"\"\n    # why\n    HERE\n",
            "def g():\n    import torch\n\n\ndef f(ps):\n    \"\"\"Doc.\"\"\"\n    NEW\n\n    # why\n    HERE\n",
        ),
        ("def g():\n    import torch\n\n\ndef f(ps):\n    import os\n    HERE\n", "def g():\n    import torch\n\n\ndef f(ps):\n    import os\n    NEW\n    HERE\n"),
        ("def g():\n    if x: import torch\n\n\ndef f(ps):\n    HERE\n", "def g():\n    if x: import torch\n\n\ndef f(ps):\n    NEW\n\n    HERE\n"),
        # a missing clipcheck is not a missing torch
        (
            "try:\n    import torch\nexcept ImportError:\n    torch = None\n\n\ndef f(ps):\n    HERE\n",
            "try:\n    import torch\nexcept ImportError:\n    torch = None\n\n\ndef f(ps):\n    NEW\n\n    HERE\n",
        ),
        (
            "if has_torch():\n    import torch\n\n    def f(ps):\n        HERE\n",
            "if has_torch():\n    import torch\n    NEW\n\n    def f(ps):\n        HERE\n",
        ),
        (
            "if has_torch():\n    import torch\n\n\ndef f(ps):\n    HERE\n",
            "if has_torch():\n    import torch\n\n\ndef f(ps):\n    NEW\n\n    HERE\n",
        ),
        ("try:\n    import torch\nexcept ImportError:\n    torch = None\n\n\ndef f(ps): x = 1; HERE\n", "try:\n    import torch\nexcept ImportError:\n    torch = None\n\n\ndef f(ps): NEW; x = 1; HERE\n"),
        ("try:\n    import torch\nexcept ImportError:\n    torch = None\n\n\ndef f(ps): 'It clips.'; HERE\n", "try:\n    import torch\nexcept ImportError:\n    torch = None\n\n\ndef f(ps): 'It clips.'; NEW; HERE\n"),
        ("try:\n    import torch\nexcept ImportError:\n    pass\nif torch:\n    HERE\n", "try:\n    import torch\nexcept ImportError:\n    pass\nif torch:\n    NEW\n\n    HERE\n"),
        # a default is evaluated before the body is run
        (
            "try:\n    import torch\nexcept ImportError:\n    pass\n\n\ndef g(y=HERE):\n    return y\n".replace("y=HERE", "y=sum(p.grad.norm().item() ** 2 for p in ps) ** 0.5"),
            "try:\n    import torch\nexcept ImportError:\n    pass\n\n\nNEW\n\n\ndef g(y=grad_norm(ps).item()):\n    return y\n",
        ),
        (
            "def g():\n    import torch\n\n\nclass C:\n    HERE\n",
            "def g():\n    import torch\n\n\nclass C:\n    NEW\n\n    HERE\n",
        ),
        ("def g():\n    import torch\n\n\ndef f(ps):\n    b'no doc'\n    HERE\n", "def g():\n    import torch\n\n\ndef f(ps):\n    NEW\n\n    b'no doc'\n    HERE\n"),
        (
            "def g():\n    import torch\n\n\ndef f(ps):\n    def h():\n        pass\n\n    HERE\n",
            "def g():\n    import torch\n\n\ndef f(ps):\n    NEW\n\n    def h():\n        pass\n\n    HERE\n",
        ),
        # what only a type checker runs imports nothing
        (
            "from typing import TYPE_CHECKING\n\nif TYPE_CHECKING:\n    import torch\n\n\ndef f(ps: torch.Tensor):\n    HERE\n",
            "from typing import TYPE_CHECKING\n\nif TYPE_CHECKING:\n    import torch\n\n\ndef f(ps: torch.Tensor):\n    NEW\n\n    HERE\n",
        ),
    ],
)  # fmt: skip
def test_a_program_that_works_without_torch_works_without_clipcheck(before: str, after: str) -> None:
    call = CALL.rstrip().replace("(ps).item()", "(ps).item()")
    assert fixed(before.replace("HERE", f"x = {NORM}")) == after.replace("NEW", LINE.rstrip()).replace("HERE", call)


def test_functions_with_local_imports_each_get_an_import() -> None:
    one = "def f(ps):\n    import torch\n    x = {}\n    return x\n"
    after = one.replace("torch\n", "torch\n    " + LINE).format("grad_norm(ps).item()")
    assert fixed(one.format(NORM) + "\n\n" + one.format(NORM)) == after + "\n\n" + after


def test_an_import_in_a_try_keeps_torchs_function() -> None:
    """If clipcheck were imported there, a missing clipcheck would look like a missing torch."""
    text = "try:\n    from torch.nn.utils import clip_grad_norm\nexcept ImportError:\n    clip = None\nclip_grad_norm(ps, 1)\n"
    assert fixed(text) == text.replace("clip_grad_norm", "clip_grad_norm_")
    new = text.replace("clip_grad_norm", "clip_grad_norm_")
    assert api.fix(new, select=["CLIP011"], unsafe=True, isolated=True).text == new


def test_after_a_future_import() -> None:
    text = f'"""Docs."""\nfrom __future__ import annotations\nx = {NORM}\n'
    assert fixed(text) == '"""Docs."""\nfrom __future__ import annotations\n\n' + LINE + CALL


def test_an_import_below_its_use_does_not_count() -> None:
    text = f"x = {NORM}\nimport torch\nfrom clipcheck.runtime import clip_grad_norm_\n"
    assert fixed(text) == LINE + "\n" + CALL + "import torch\nfrom clipcheck.runtime import clip_grad_norm_\n"
    between = f"import os\nx = {NORM}\nimport torch\n"
    assert fixed(between) == "import os\n\n" + LINE + CALL + "import torch\n"


def test_the_line_ends_of_the_text_are_kept() -> None:
    assert fixed(f"import torch\r\nx = {NORM}\r\n") == f"import torch\r\n{LINE}{CALL}".replace("\r", "").replace(
        "\n", "\r\n"
    )
    assert (
        fixed(f"import torch\r\nx = {NORM}")
        == f"import torch\r\n{LINE}{CALL}".replace("\n", "\r\n").replace("\r\r", "\r")[:-2]
    )


def test_one_import_is_enough_for_several_fixes() -> None:
    text = f"import torch\nx = {NORM}\ndef f(ps):\n    return {NORM}\n"
    assert fixed(text) == f"import torch\n{LINE}{CALL}def f(ps):\n    return grad_norm(ps).item()\n"


# --- names that are taken ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "taken", ["grad_norm = 1", "def grad_norm(): pass", "def f(grad_norm): pass", "print(grad_norm)"]
)
def test_a_taken_name_is_not_reused(taken: str) -> None:
    text = f"import torch\n{taken}\nx = {NORM}\n"
    assert (
        fixed(text) == f"import clipcheck.runtime\nimport torch\n{taken}\nx = clipcheck.runtime.grad_norm(ps).item()\n"
    )


@pytest.mark.parametrize("star", ["from zoo import *", "from .zoo import *", "from clipcheck.runtime import *"])
def test_a_star_may_hide_the_name_that_is_imported_before_it(star: str) -> None:
    after = fixed(f"{star}\nx = {NORM}\n")
    assert after.endswith("x = clipcheck.runtime.grad_norm(ps).item()\n")
    assert "import clipcheck.runtime\n" in after


def test_a_method_does_not_take_a_name() -> None:
    text = f"import torch\nclass C:\n    def grad_norm(self):\n        return {NORM}\n"
    after = text.replace("import torch\n", f"import torch\n{LINE}").replace(NORM, "grad_norm(ps).item()")
    assert fixed(text) == after
    body = f"import torch\nclass C:\n    def grad_norm(self): pass\n    x = {NORM}\n"
    assert "    x = clipcheck.runtime.grad_norm(ps).item()\n" in fixed(body)
    old = "from torch.nn.utils import clip_grad_norm\nclass C:\n    def clip_grad_norm_(self):\n        clip_grad_norm(self.ps, 1)\n"
    new = "from clipcheck.runtime import clip_grad_norm_\nclass C:\n    def clip_grad_norm_(self):\n        clip_grad_norm_(self.ps, 1)\n"
    assert fixed(old) == new


def test_if_the_package_name_is_taken_a_longer_name_is_used() -> None:
    text = f"import torch\nclipcheck = grad_norm = None\nx = {NORM}\n"
    assert fixed(text) == (
        "import torch\nfrom clipcheck.runtime import grad_norm as clipcheck_grad_norm\n"
        "clipcheck = grad_norm = None\nx = clipcheck_grad_norm(ps).item()\n"
    )


# --- torch's own function ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("import torch\ntorch.nn.utils.clip_grad_norm(ps, 1.0)\n", "import torch\ntorch.nn.utils.clip_grad_norm_(ps, 1.0)\n"),
        ("from torch import nn\nnn.utils.clip_grad_norm(ps, 1.0)\n", "from torch import nn\nnn.utils.clip_grad_norm_(ps, 1.0)\n"),
        (
            "from torch.nn.utils import clip_grad_norm\nclip_grad_norm(ps, 1.0)\n",
            "from torch.nn.utils import clip_grad_norm_\nclip_grad_norm_(ps, 1.0)\n",
        ),
        (
            "from torch.nn.utils import clip_grad_norm, clip_grad_norm_\nclip_grad_norm(ps, 1.0)\n",
            "from torch.nn.utils import clip_grad_norm_\nclip_grad_norm_(ps, 1.0)\n",
        ),
    ],
)  # fmt: skip
def test_torchs_function_by_an_existing_name(before: str, after: str) -> None:
    assert fixed(before, target="torch") == after


OLD = "from torch.nn.utils import clip_grad_norm\n"
CLIP = "clip_grad_norm(ps, 1.0)\n"
OWN = "def clip_grad_norm_(x):\n    pass\n"
NEW_LINE = "from clipcheck.runtime import clip_grad_norm_\n"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (OLD + CLIP, NEW_LINE + "clip_grad_norm_(ps, 1.0)\n"),
        (OLD.replace("\n", " as c\n") + "c(ps, 1.0)\n", NEW_LINE.replace("\n", " as c\n") + "c(ps, 1.0)\n"),
        # an import without a use: other files may import the name from this one
        (OLD, NEW_LINE.replace("\n", " as clip_grad_norm\n")),
        # where the new name means something else
        (OLD + OWN + CLIP, "import clipcheck.runtime\n" + OWN + "clipcheck.runtime.clip_grad_norm_(ps, 1.0)\n"),
        (OLD + "clipcheck = 1\n" + OWN + CLIP, NEW_LINE.replace("\n", " as clip_grad_norm\n") + "clipcheck = 1\n" + OWN + CLIP),
        # where the import stood, or where its order puts it
        ("import torch\nfrom torch import nn\n" + OLD + CLIP, "import torch\n" + NEW_LINE + "from torch import nn\nclip_grad_norm_(ps, 1.0)\n"),
        ("import torch\nfrom torch import nn\n" + OLD.replace("\n", "  # old\n") + CLIP, "import torch\n" + NEW_LINE.replace("\n", "  # old\n") + "from torch import nn\nclip_grad_norm_(ps, 1.0)\n"),
        ("import zoo\nimport app\n" + OLD + CLIP, "import zoo\nimport app\n" + NEW_LINE + "clip_grad_norm_(ps, 1.0)\n"),
        ("if x: " + OLD + CLIP, "if x: " + NEW_LINE + "clip_grad_norm_(ps, 1.0)\n"),
        ("y = 1; " + OLD.replace("\n", "; z = 2\n") + CLIP, "y = 1; " + NEW_LINE.replace("\n", "; z = 2\n") + "clip_grad_norm_(ps, 1.0)\n"),
        # with an import of the runtime that is there, above or below
        (LINE + "import torch\n" + OLD + CLIP, "from clipcheck.runtime import clip_grad_norm_, grad_norm\nimport torch\nclip_grad_norm_(ps, 1.0)\n"),
        (OLD + LINE + CLIP, "from clipcheck.runtime import clip_grad_norm_, grad_norm\nclip_grad_norm_(ps, 1.0)\n"),
        # one of several names
        (OLD.replace("\n", ", x\n") + CLIP, NEW_LINE + "from torch.nn.utils import x\nclip_grad_norm_(ps, 1.0)\n"),
        ("from torch.nn.utils import (\n    clip_grad_norm,\n    x,\n)\n" + CLIP, NEW_LINE + "from torch.nn.utils import (\n    x,\n)\nclip_grad_norm_(ps, 1.0)\n"),
        ("def f(ps):\n    y = 1\n    " + OLD.replace("\n", ", x\n    ") + CLIP, "def f(ps):\n    y = 1\n    " + NEW_LINE + "    from torch.nn.utils import x\n    clip_grad_norm_(ps, 1.0)\n"),
    ],
)  # fmt: skip
def test_an_import_of_the_old_name_becomes_one_of_the_runtime(before: str, after: str) -> None:
    assert fixed(before) == after


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (OLD + CLIP, (OLD + CLIP).replace("norm", "norm_")),
        (OLD.replace("\n", " as c\n") + "c(ps, 1.0)\n", "from torch.nn.utils import clip_grad_norm_ as c\nc(ps, 1.0)\n"),
        (OLD, "from torch.nn.utils import clip_grad_norm_ as clip_grad_norm\n"),
        (OLD + OWN + CLIP, "from torch.nn.utils import clip_grad_norm_ as clip_grad_norm\n" + OWN + CLIP),
        ("from torch.nn.utils import (clip_grad_norm,  # why\n    x)\n" + CLIP, "from torch.nn.utils import (clip_grad_norm_,  # why\n    x)\nclip_grad_norm_(ps, 1.0)\n"),
        # the new name is imported already
        ("from torch.nn.utils import clip_grad_norm_, clip_grad_norm, x\n" + CLIP, "from torch.nn.utils import clip_grad_norm_, x\nclip_grad_norm_(ps, 1.0)\n"),
        (OLD + OLD.replace("norm", "norm_") + CLIP, (OLD + CLIP).replace("norm", "norm_")),
        ("if a:\n    " + OLD + "    b()\n" + OLD.replace("norm", "norm_") + CLIP, "if a:\n    b()\n" + (OLD + CLIP).replace("norm", "norm_")),
    ],
)  # fmt: skip
def test_an_import_of_the_old_name_becomes_torchs_new_one(before: str, after: str) -> None:
    assert fixed(before, target="torch") == after


@pytest.mark.parametrize("target", ["clipcheck", "torch"])
def test_an_import_beside_one_of_the_new_name_goes(target: str) -> None:
    both = OLD + OLD.replace("norm", "norm_")
    assert fixed(both + CLIP, target=target) == (OLD + CLIP).replace("norm", "norm_")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (OLD + CLIP + "__all__ = ['clip_grad_norm']\n", "the name is part of `__all__`; export `clip_grad_norm_` instead"),
        (OLD + "if a:\n    from x import clip_grad_norm\n" + CLIP, "`clip_grad_norm` is bound in several places; keep the import of `clip_grad_norm_`"),
        ("from torch.nn.utils import (clip_grad_norm,  # why\n    x)\n" + CLIP, "it would remove a comment; edit the import"),
        ("from torch.nn.utils import (  # why\n    clip_grad_norm)\n" + CLIP, "it would remove a comment; edit the import"),
        (OLD.replace("\n", "  # why\n") + OLD.replace("norm", "norm_") + CLIP, "it would remove a comment; edit the import"),
    ],
)  # fmt: skip
def test_an_import_that_stays_says_why(text: str, why: str) -> None:
    result = api.fix(text, select=["CLIP002"], isolated=True)
    assert result.text == text
    assert {finding.help for finding in result.findings} == {f"no automatic fix: {why}"}


def test_each_function_loses_the_import_that_its_own_fix_leaves_unused() -> None:
    loop = (
        "    import math\n    total = 0.0\n    for p in ps:\n        if p.grad is not None:\n"
        "            total += p.grad.norm(2).item() ** 2\n    return math.sqrt(total)\n"
    )
    found = api.fix(f"import torch\n\n\ndef a(ps):\n{loop}\n\ndef b(ps):\n{loop}", select=["CLIP001"], isolated=True)
    assert found.text.count("return grad_norm(ps).item()\n") == 2
    assert "import math" not in found.text


# --- replacing an import ----------------------------------------------------------------------------------------------


SIX = "from torch._six import inf\n"
MATH = "from math import inf\n"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (SIX, MATH),
        ("import torch\n" + SIX + "import torch.nn as nn\n", MATH + "\nimport torch\nimport torch.nn as nn\n"),
        ("import torch\n" + SIX, MATH + "\nimport torch\n"),
        # among those of the standard library, in their order
        ("import os\nfrom pathlib import Path\n\nimport torch\n" + SIX, "import os\n" + MATH + "from pathlib import Path\n\nimport torch\n"),
        ("import os\nfrom pathlib import Path\nfrom timm import x\n\nimport torch\n" + SIX, "import os\n" + MATH + "from pathlib import Path\nfrom timm import x\n\nimport torch\n"),
        # after the last of them where they are in none
        ("import sys\nimport os\nimport numpy\nimport torch\n" + SIX + "import torch.nn as nn\n", "import sys\nimport os\n" + MATH + "import numpy\nimport torch\nimport torch.nn as nn\n"),
        ("import torch\n" + SIX + "import sys\nimport os\n", "import torch\n" + MATH + "import sys\nimport os\n"),
        ("from __future__ import annotations\nimport torch\n" + SIX + "import b\nimport a\n", "from __future__ import annotations\nimport torch\n" + MATH + "import b\nimport a\n"),
        # with its own comment
        ("import sys\nimport os\nimport torch\n" + SIX.replace("\n", "  # for norms\n"), "import sys\nimport os\n" + MATH.replace("\n", "  # for norms\n") + "import torch\n"),
    ],
)  # fmt: skip
def test_where_an_import_of_the_standard_library_goes(before: str, after: str) -> None:
    result = api.fix(before + "print(inf)\n", select=["CLIP003"], isolated=True)
    assert result.text == after + "print(inf)\n"
