"""The imports of a module before and after a fix, with and without torch, and with and without clipcheck."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from clipcheck.rule import Edit, Fix, Role, Safety, Verdict
from clipcheck.verify.allowed import NotVerifiable, check_imports
from clipcheck.verify.changes import Change
from clipcheck.verify.import_blocks import import_blocks
from clipcheck.verify.sites import Verifier

pytest.importorskip("torch", reason="needs the extra clipcheck[torch]")

BODY = "\n\ndef norm(params):\n    return sum(p.grad.norm(2) ** 2 for p in params) ** 0.5\n"
CALL = "p.grad.norm(2)"


@pytest.fixture(scope="module")
def verify() -> Iterator[Verifier]:
    with Verifier() as verifier:
        yield verifier


def change(before: str, after: str) -> Change:
    """The fix that replaces the imports of a module, and an expression in it."""
    text = before + BODY
    at = text.index(CALL)
    edits = (Edit(at, at + len(CALL), "p.grad.norm()"),)
    roles = (("params", Role.PARAMETERS),)
    return Change(text, Fix("Change", Safety.SAFE, edits, (Edit(0, len(before), after),), roles))


def tried(verify: Verifier, before: str, after: str) -> Verdict:
    asked = change(before, after)
    return verify(asked.text, asked.fix)


GUARDED = "try:\n    import torch\nexcept ImportError:\n    torch = None\n"
RUNTIME = "from clipcheck.runtime import clip_grad_norm_\n"
FINE = {
    "beside torch": ("import torch\n", "import torch\n" + RUNTIME),
    "under the guard": (
        GUARDED,
        "try:\n    import torch\n    try:\n        from clipcheck.runtime import clip_grad_norm_\n"
        "    except ImportError:\n        clip_grad_norm_ = None\nexcept ImportError:\n    torch = None\n",
    ),
    "a separate guard": (
        GUARDED,
        GUARDED
        + "try:\n    from clipcheck.runtime import clip_grad_norm_\nexcept ImportError:\n    clip_grad_norm_ = None\n",
    ),
    "in place of torch's": (
        "import torch\nfrom torch.nn.utils import clip_grad_norm\n",
        "import torch\nfrom clipcheck.runtime import clip_grad_norm_ as clip_grad_norm\n",
    ),
    "beside what is not installed": (
        "import nowhere\nfrom . import near\nfrom nowhere.deep import x as y\nimport torch\n",
        "import nowhere\nfrom . import near\nfrom nowhere.deep import x as y\nimport torch\n" + RUNTIME,
    ),
    "for type checkers": (
        "import torch\nfrom typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import nowhere\n",
        "import torch\nfrom typing import TYPE_CHECKING\n" + RUNTIME + "if TYPE_CHECKING:\n    import nowhere\n",
    ),
    "a module of one's own": ("import torch\n", "import torch\nfrom lab.clip_runtime import clip_grad_norm_\n"),
    "a version that is tested": (
        "import torch\nimport sys\nif sys.version_info > (3,):\n    import nowhere\n",
        "import torch\nimport sys\nif sys.version_info > (3,):\n    import nowhere\n" + RUNTIME,
    ),
}
BROKEN = {
    "outside of the guard": (GUARDED, GUARDED + RUNTIME, "without torch: the import raises ModuleNotFoundError"),
    "a missing clipcheck taken for a missing torch": (
        GUARDED,
        GUARDED.replace("    import torch\n", "    import torch\n    " + RUNTIME),
        "without clipcheck: `torch` is a module before and None after",
    ),
    "a flag that is no longer true": (
        "try:\n    import torch\n    HAS_TORCH = True\nexcept ImportError:\n    torch = None\n    HAS_TORCH = False\n",
        "try:\n    import torch\n    from clipcheck.runtime import clip_grad_norm_\n    HAS_TORCH = True\n"
        "except ImportError:\n    HAS_TORCH = False\n",
        "without clipcheck: `HAS_TORCH` is True before and False after",
    ),
    "a name that is not there": (
        "import torch\n",
        "import torch\nfrom clipcheck.runtime import clip_gradients\n",
        "all installed: the import raises ImportError",
    ),
    "torch where it was imported in functions alone": (
        "def late():\n    import torch\n",
        RUNTIME + "def late():\n    import torch\n",
        "without torch: the import raises ModuleNotFoundError",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FINE)
def test_imports_that_break_nothing(verify: Verifier, name: str) -> None:
    found = tried(verify, *FINE[name])
    assert found.kind == "verified", found


@pytest.mark.parametrize("name", BROKEN)
def test_imports_that_break_where_something_is_missing(verify: Verifier, name: str) -> None:
    before, after, reason = BROKEN[name]
    found = tried(verify, before, after)
    assert (found.kind, found.reason) == ("refuted", reason)


def test_without_a_changed_import_there_is_nothing_to_try() -> None:
    assert import_blocks(change("import torch\n", "import torch\n")) is None


def test_nothing_but_the_imports_that_change_is_tried() -> None:
    head = "import os\nimport nowhere\nos.remove('x')\nx = open('y')\nimport torch\n"
    found = import_blocks(change(head, head + RUNTIME))
    assert found is not None
    assert found.before.code == "def site():\n    import torch\n    return ('locals', bound__now())"
    assert found.after.code.splitlines()[1:3] == ["    import torch", "    " + RUNTIME.strip()]


HARM = {
    "a call": "try:\n    import torch\nexcept ImportError:\n    print('x')\n",
    "an alias of Python's own": "import torch as __builtins__\n",
    "a value": "import torch\nx = 'x'\n",
    "a function": "def f():\n    import torch\n",
    "another name": "try:\n    import torch\nexcept ImportError:\n    torch = other\n",
    "a loop": "for x in ():\n    import torch\n",
    "an attribute": "import torch\ntorch.x = None\n",
}


@pytest.mark.parametrize("name", HARM)
def test_imports_hold_nothing_else(name: str) -> None:
    with pytest.raises(NotVerifiable):
        check_imports(ast.parse(HARM[name]))


def test_the_modules_of_the_user_are_not_loaded(
    verify: Verifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trace = tmp_path / "trace"
    (tmp_path / "lab.py").write_text(f"open({str(trace)!r}, 'w')\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    found = tried(verify, "import lab\nimport torch\n", "import lab\nimport torch\nfrom lab import clip_grad_norm_\n")
    assert found.kind == "verified" and not trace.exists()


# --- what is taken out of a module, without running it ----------------------------------------------------------------


def site(*lines: str) -> str:
    return "".join(f"{line}\n" for line in ("def site():", *(f"    {line}" for line in lines))) + (
        "    return ('locals', bound__now())"
    )


def test_imports_that_both_sides_share_are_left_out_unless_they_are_those_of_torch() -> None:
    before = "import os\nimport torch\nfrom torch import nn\nimport clipcheck\nimport torchvision\nimport old\n"
    found = import_blocks(change(before, before.replace("import old", "import new")))
    assert found is not None
    shared = ("import torch", "from torch import nn", "import clipcheck")
    assert found.before == (site(*shared, "import old"), {})
    assert found.after == (site(*shared, "import new"), {})
    assert found.torch


@pytest.mark.parametrize(
    ("text", "needs"),
    [
        ("import os\n", False),
        ("import torchvision\n", False),
        ("from . import torch\n", False),
        ("from .torch import nn\n", False),
        ("import clipcheck\n", False),
        ("import os, torch.nn\n", True),
        ("from torch.nn import utils\n", True),
        ("def f():\n    import torch\n", True),
    ],
)
def test_whether_a_module_imports_torch_anywhere(text: str, needs: bool) -> None:
    found = import_blocks(change(text, text + "import json\n"))
    assert found is not None and found.torch is needs


def test_a_fix_that_changes_no_import() -> None:
    assert import_blocks(change("import torch\n", "import torch  # now\n")) is None
    found = import_blocks(change("import json\n", "\n"))
    assert found is not None and (found.before.code, found.after.code) == (site("import json"), site("pass"))


UNKNOWN_EXCEPT = "try:\n    import a\nexcept {}:\n    a = None\n"


@pytest.mark.parametrize("error", ["Mine", "mine.Error", "(ImportError, Mine)", "(ImportError, mine.Error)", "errors()", "BaseException"])  # fmt: skip
def test_an_exception_that_is_not_known_may_be_anything(error: str) -> None:
    text = UNKNOWN_EXCEPT.format(error)
    with pytest.raises(NotVerifiable, match="its imports are inside an unknown `except`"):
        import_blocks(change(text, text + RUNTIME))


@pytest.mark.parametrize("error", [" ImportError", " (ImportError, OSError)", " ()", ""])
def test_exceptions_around_an_import(error: str) -> None:
    text = UNKNOWN_EXCEPT.replace(" {}", error)
    found = import_blocks(change(text, text.replace("import a", "import b")))
    assert found is not None
    assert found.before.code == site("try:", "    import a", f"except{error}:", "    a = None")
