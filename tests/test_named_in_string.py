"""The deprecated name in strings: patches in tests change together with the calls, lookups stay lookups."""

from __future__ import annotations

import pytest

from clipcheck.engine.file import check_file
from clipcheck.engine.results import FileReport
from clipcheck.rule import Safety, Target
from clipcheck.settings.keys import Settings


def run(text: str, code: str = "CLIP002", safety: Safety = Safety.SAFE, target: Target = "clipcheck") -> FileReport:
    report = check_file("x.py", text.encode(), Settings(frozenset({code}), target, True, safety))
    assert report.errors == ()
    return report


@pytest.mark.parametrize(
    "text",
    [
        'mock.patch("torch.nn.utils.clip_grad_norm")',
        "mock.patch('torch.nn.utils.clip_grad.clip_grad_norm', f)",
        'patch("torch.nn.utils.clip_grad_norm")',
        '@mock.patch("torch.nn.utils.clip_grad_norm")\ndef test(clip):\n    pass',
        'mocker.patch("torch.nn.utils.clip_grad_norm")',
        'monkeypatch.setattr("torch.nn.utils.clip_grad_norm", f)',
        'import torch\nmonkeypatch.setattr(torch.nn.utils, "clip_grad_norm", f)',
        'from torch.nn.utils import clip_grad\nmock.patch.object(clip_grad, "clip_grad_norm")',
        'import torch.nn.utils as u\nmocker.spy(u, "clip_grad_norm")',
        'pydoc.locate("torch.nn.utils.clip_grad_norm")',
        'from torch.nn import utils\ngetattr(utils, "clip_grad_norm")',
        'from torch.nn import utils\ngetattr(utils, "clip_grad_norm", None)',
    ],
)
def test_a_string_that_stands_for_the_function(text: str) -> None:
    assert [finding.code for finding in run(text + "\n").findings + run(text + "\n").fixed] == ["CLIP002"]


@pytest.mark.parametrize(
    "function",
    [
        *("patch", "mocker.patch", "mocker.stub", "mocker.spy", "monkeypatch.setattr", "monkeypatch.delattr"),
        *("locate", "resolve_name", "pkgutil.resolve_name", "import_string", "import_from_string", "attrgetter"),
    ],
)
def test_functions_that_replace_or_look_up_what_a_path_names(function: str) -> None:
    (finding,) = (
        run(f'{function}("torch.nn.utils.clip_grad_norm")\n').findings
        or run(f'{function}("torch.nn.utils.clip_grad_norm")\n').fixed
    )
    assert finding.place.line == 1


@pytest.mark.parametrize(
    "text",
    [
        'mock.patch("torch.nn.utils.clip_grad_norm_")',
        'mock.patch("mine.torch.nn.utils.clip_grad_norm")',
        'mock.patch(f"{base}.clip_grad_norm")',
        'mock.patch(b"torch.nn.utils.clip_grad_norm")',
        'print("torch.nn.utils.clip_grad_norm")',
        'import mine.utils as utils\ngetattr(utils, "clip_grad_norm")',
        'mock.patch.object(model, "clip_grad_norm")',
        'import torch\nsetattr(torch.nn.utils, "clip_grad_norm", f)',
        'import torch\nhasattr(torch.nn.utils, "clip_grad_norm")',
        'NAME = "torch.nn.utils.clip_grad_norm"',
    ],
)
def test_a_string_that_does_not(text: str) -> None:
    assert run(text + "\n").findings == ()


CALL = 'import torch\ntorch.nn.utils.clip_grad_norm(ps, 1.0)\nmock.patch("torch.nn.utils.clip_grad_norm")\n'


@pytest.mark.parametrize("target", ["clipcheck", "torch"])
def test_a_patch_changes_together_with_the_calls(target: Target) -> None:
    report = run(CALL, safety=Safety.UNSAFE, target=target)
    assert report.now.decode() == CALL.replace("clip_grad_norm", "clip_grad_norm_")
    assert run(CALL, target=target).fixed_data is None  # calls in other files may be patched, too


def test_no_call_that_is_patched_is_changed_by_another_rule_as_if_it_were_safe() -> None:
    text = CALL.replace("clip_grad_norm", "clip_grad_norm_")
    assert run(text, "CLIP011").fixed_data is None
    assert "clipcheck.runtime" in run(text, "CLIP011", Safety.UNSAFE).now.decode()


@pytest.mark.parametrize(
    "text",
    [
        'mock.patch("torch.nn.utils.clip_grad_norm")\n',
        'from torch.nn.utils import clip_grad_norm\nclip_grad_norm(ps, 1.0)\nmock.patch("torch.nn.utils.clip_grad_norm")\n',
        "import torch\ntry:\n    f = torch.nn.utils.clip_grad_norm_\nexcept AttributeError:\n    f = torch.nn.utils.clip_grad_norm\n"
        'mock.patch("torch.nn.utils.clip_grad_norm")\n',
    ],
)
def test_patches_that_cannot_change_together_are_left_with_a_reason(text: str) -> None:
    report = run(text, safety=Safety.UNSAFE)
    assert report.fixed_data is None
    assert report.findings and all("rename it together" in finding.help for finding in report.findings)


@pytest.mark.parametrize(
    "text",
    [
        'from torch.nn import utils\nclip = getattr(utils, "clip_grad_norm_", None) or getattr(utils, "clip_grad_norm")\n',
        'from torch.nn import utils\nclip = getattr(utils, "clip_grad_norm", None)\n',
        'from torch.nn import utils\nif not hasattr(utils, "clip_grad_norm_"):\n    clip = getattr(utils, "clip_grad_norm")\n',
    ],
)
def test_a_lookup_that_chooses_is_left_alone(text: str) -> None:
    report = run(text, safety=Safety.UNSAFE)
    assert report.fixed_data is None and len(report.findings) == 1 and report.findings[0].help


@pytest.mark.parametrize("quote", ["'", '"', '"""', "r'"])
def test_quotes_stay(quote: str) -> None:
    text = f"import torch\nclip = getattr(torch.nn.utils, {quote}clip_grad_norm{quote.strip('r')})\n"
    assert run(text).now.decode() == text.replace("clip_grad_norm", "clip_grad_norm_")


STAR = "from torch.nn.utils import *\n"


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        (STAR + "clip_grad_norm(ps, 1.0)\n", [2]),
        (STAR + "def f():\n    return {'clip': clip_grad_norm}\n", [3]),
        ("from torch.nn.utils.clip_grad import *\nclip_grad_norm(ps, 1.0)\n", [2]),
        ("from torch.nn import *\nutils.clip_grad_norm(ps, 1.0)\n", [2]),
        ("from mine import *\n" + STAR + "clip_grad_norm(ps, 1.0)\n", [3]),
        (STAR + "from torch import *\nclip_grad_norm(ps, 1.0)\n", [3]),
        # what another gives, or the file itself
        (STAR + "from mine import *\nclip_grad_norm(ps, 1.0)\n", []),
        (STAR + "from .own import *\nclip_grad_norm(ps, 1.0)\n", []),
        ("from mine.utils import *\nclip_grad_norm(ps, 1.0)\n", []),
        (STAR + "def clip_grad_norm(ps, limit):\n    pass\nclip_grad_norm(ps, 1.0)\n", []),
        (STAR + "from mine.utils import clip_grad_norm\nclip_grad_norm(ps, 1.0)\n", []),
        ("from torch.nn.functional import *\nclip_grad_norm(ps, 1.0)\nutils = 1\n", []),
    ],
)
def test_what_a_star_import_binds(text: str, lines: list[int]) -> None:
    report = check_file("x.py", text.encode(), Settings(frozenset({"CLIP002"})))
    assert [finding.place.line for finding in report.findings] == lines


def test_a_name_of_a_star_is_not_renamed_to_one_of_the_files_own() -> None:
    text = STAR + "def clip_grad_norm_(x):\n    pass\nclip_grad_norm(ps, 1.0)\n"
    assert run(text, target="torch").fixed_data is None
    assert run(STAR + "clip_grad_norm(ps, 1.0)\n", target="torch").now.decode() == STAR + "clip_grad_norm_(ps, 1.0)\n"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("if TORCH_VERSION < (1, 0):\n    f = getattr(utils, 'clip_grad_norm', None)", "it is inside a version check; keep the newer branch only"),
        ("f = getattr(utils, 'clip_grad_norm', None)", "the program works without it; call `clip_grad_norm_` unconditionally"),
        ("f = mine or getattr(utils, 'clip_grad_norm')", "the program works without it; call `clip_grad_norm_` unconditionally"),
    ],
)  # fmt: skip
def test_why_a_name_that_is_looked_up_stays(text: str, why: str) -> None:
    (finding,) = run(f"from torch.nn import utils\n{text}\n").findings
    assert finding.fix is None
    assert finding.help == f"no automatic fix: {why}"
