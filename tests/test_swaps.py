"""References to torch's functions that become references to others: which are reported, which are fixed, and why not."""

from __future__ import annotations

import pytest

from clipcheck.engine.file import check_file
from clipcheck.engine.results import FileReport
from clipcheck.rule import Role, Safety, Target
from clipcheck.settings.keys import Settings

HEAD = "import torch\nfrom torch.nn import utils\n"
OLD = "utils.clip_grad_norm(ps, 1.0)"
NEW = "utils.clip_grad_norm_(ps, 1.0)"


def run(text: str, code: str = "CLIP002", target: Target = "torch", fix: bool = True) -> FileReport:
    settings = Settings(frozenset({code}), target, fix, Safety.UNSAFE)
    report = check_file("x.py", f"{HEAD}{text}\n".encode(), settings)
    assert report.errors == ()
    return report


# --- versions of torch ------------------------------------------------------------------------------------------------

TESTS = ["version < 1", "torch_1", "torch1", "TORCH_MAJOR < 1", "torchminor", "is_old", "_is_legacy", "isold"]


@pytest.mark.parametrize(
    "text",
    [
        *(f"if {test}:\n    {OLD}\nelse:\n    {NEW}" for test in TESTS),
        *(f"if {test}(utils, 'clip_grad_norm_'):\n    {NEW}\nelse:\n    {OLD}" for test in ("hasattr", "getattr")),
        "clip = utils.clip_grad_norm if version < 1 else utils.clip_grad_norm_",
        "clip = utils.clip_grad_norm_ if version > 1 else utils.clip_grad_norm",
        f"if version < 1:\n    def f(ps):\n        {OLD}\nelse:\n    def f(ps):\n        {NEW}",
        f"if x:\n    pass\nelif version < 1:\n    {OLD}\nelse:\n    {NEW}",
        f"if version < 1:\n    {OLD}\nelse:\n    from torch.nn.utils import clip_grad_norm_",
        f"if version < 1:\n    {OLD}\nelse:\n    clip_grad_norm_(ps, 1.0)",
        "if version < 1:\n    from torch.nn.utils import clip_grad_norm\nelse:\n    from torch.nn.utils import clip_grad_norm_",
        # what is assigned to the old name, or taken from it, is no call of it
        "utils.clip_grad_norm = f",
        "del utils.clip_grad_norm",
        "mine.clip_grad_norm(ps, 1.0)",
        "def clip_grad_norm(ps, limit):\n    pass",
    ],
)
def test_nothing_is_reported(text: str) -> None:
    assert run(text).findings == run(text).fixed == ()


VERSION = "it is inside a version check; keep the newer branch only"
TRIED = "it is one of two alternatives in a `try`; keep the newer one only"
PATCH = "this patches torch's own function; remove the patch"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (f"if version < 1:\n    {OLD}", VERSION),
        (f"if version < 1:\n    {OLD}\nelse:\n    f(ps)", VERSION),
        (f"if x:\n    {NEW}\nelse:\n    {OLD}", VERSION),
        (f"if x:\n    {OLD}\nelse:\n    {NEW}", VERSION),
        ("clip = utils.clip_grad_norm if x else utils.clip_grad_norm_", VERSION),
        ("f = utils.clip_grad_norm if version < 1 else g", VERSION),
        ("try:\n    f = utils.clip_grad_norm_\nexcept AttributeError:\n    f = utils.clip_grad_norm", TRIED),
        ("try:\n    f = utils.clip_grad_norm\nexcept AttributeError:\n    f = utils.clip_grad_norm_", TRIED),
        ("try:\n    f = g\nexcept A:\n    f = utils.clip_grad_norm_\nexcept B:\n    f = utils.clip_grad_norm", TRIED),
        ("utils.clip_grad_norm_ = utils.clip_grad_norm", PATCH),
        ("a = torch.nn.utils.clip_grad_norm_ = utils.clip_grad_norm", PATCH),
    ],
)
def test_what_is_reported_without_a_fix(text: str, why: str) -> None:
    report = run(text)
    assert [finding.help for finding in report.findings] == [f"no automatic fix: {why}"]
    assert report.fixed_data is None


@pytest.mark.parametrize(
    "text",
    [
        OLD,
        f"if x:\n    {OLD}",
        f"if x:\n    {OLD}\nelse:\n    f(ps)",
        f"if {OLD} > version:\n    {NEW}",
        f"y = {NEW} if {OLD} else 1",
        f"if version < 1:\n    def f(ps):\n        {OLD}",
        f"if version < 1:\n    class A:\n        x = {OLD}",
        f"try:\n    {OLD}\nexcept E:\n    pass",
        f"try:\n    {OLD}\nfinally:\n    {NEW}",
        f"try:\n    f(ps)\nexcept E:\n    {OLD}",
        f"{NEW}\n{OLD}",
        f"x = {OLD}",
        "f = utils.clip_grad_norm",
        "f = utils.clip_grad_norm\nf(ps, 1.0)",
        "utils.x = utils.clip_grad_norm",
    ],
)
def test_what_is_fixed(text: str) -> None:
    report = run(text)
    assert report.findings == ()
    assert report.now.decode() == HEAD + text.replace("clip_grad_norm(", "clip_grad_norm_(").replace(
        "clip_grad_norm\n", "clip_grad_norm_\n"
    ) + ("_\n" if text.endswith("clip_grad_norm") else "\n")


# --- what the calls are given -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "call", "roles"),
    [
        ("CLIP002", "utils.clip_grad_norm(ps, a.b)", [("ps", Role.PARAMETERS), ("a.b", Role.MAX_NORM)]),
        (
            "CLIP002",
            "utils.clip_grad_norm(max_norm=a, parameters=ps, norm_type=k)",
            [("a", Role.MAX_NORM), ("ps", Role.PARAMETERS), ("k", Role.NORM_TYPE)],
        ),
        ("CLIP002", "utils.clip_grad_norm(ps, 1.0, k)", [("ps", Role.PARAMETERS), ("1.0", Role.MAX_NORM), ("k", Role.NORM_TYPE)]),
        ("CLIP002", "utils.clip_grad_norm(ps, other=1)", [("ps", Role.PARAMETERS)]),
        ("CLIP002", "utils.clip_grad_norm(*args)", []),
        ("CLIP002", "utils.clip_grad_norm(ps, *args)", [("ps", Role.PARAMETERS)]),
        ("CLIP002", "f = utils.clip_grad_norm", []),
        ("CLIP002", "f(utils.clip_grad_norm, ps)", []),
        ("CLIP011", "utils.get_total_norm(gs, k)", [("gs", Role.GRADIENTS), ("k", Role.NORM_TYPE)]),
        ("CLIP011", "utils.get_total_norm(gs, error_if_nonfinite=True)", [("gs", Role.GRADIENTS)]),
        ("CLIP011", "utils.clip_grad_norm_(ps, 1.0, foreach=True)", [("ps", Role.PARAMETERS), ("1.0", Role.MAX_NORM)]),
    ],
)  # fmt: skip
def test_the_roles_of_the_arguments(code: str, call: str, roles: list[tuple[str, Role]]) -> None:
    (finding,) = run(call, code, "clipcheck", fix=False).findings
    assert finding.fix is not None
    assert finding.fix.roles == tuple(roles)
    imported = f"from torch.nn.utils import {call.partition('utils.')[2].partition('(')[0].partition(',')[0]}\n"
    first, *_ = run(imported + call.replace("utils.", ""), code, "clipcheck", fix=False).findings
    assert first.fix is not None
    assert first.fix.roles == tuple(roles)


@pytest.mark.parametrize(
    ("line", "safety"),
    [
        ("", Safety.SAFE),
        ("from torch.distributed.fsdp import fully_shard\n", Safety.SAFE),
        ("from torch.distributed.fsdp import FullyShardedDataParallel as FSDP\n", Safety.UNSAFE),
        ("def f():\n    from torch.distributed.fsdp import FullyShardedDataParallel\n", Safety.UNSAFE),
    ],
)
def test_a_wrapped_model_has_a_clip_of_its_own(line: str, safety: Safety) -> None:
    for text in (OLD, "from torch.nn.utils import clip_grad_norm\nclip_grad_norm(ps, 1.0)"):
        findings = run(line + text, target="clipcheck", fix=False).findings
        assert {finding.fix and finding.fix.safety for finding in findings} == {safety}
        findings = run(line + text, target="torch", fix=False).findings
        assert {finding.fix and finding.fix.safety for finding in findings} == {Safety.SAFE}


# --- torch's function to the runtime's of the same name ---------------------------------------------------------------

IMPORT = "from torch.nn.utils import clip_grad_norm_\n"
OURS = "from clipcheck.runtime import clip_grad_norm_\n"
CALL = "clip_grad_norm_(ps, 1.0)\n"


@pytest.mark.parametrize(
    ("text", "after"),
    [
        (IMPORT + CALL, OURS + CALL),
        (IMPORT, OURS),
        (IMPORT.replace("\n", " as clip\n") + "clip(ps, 1.0)\n", OURS.replace("\n", " as clip\n") + "clip(ps, 1.0)\n"),
        # versions of torch do not matter
        (f"if version < 1:\n    {IMPORT}", f"if version < 1:\n    {OURS}"),
        # a method or a local name is another one
        (
            f"{IMPORT}class C:\n    def clip_grad_norm_(self):\n        {CALL}",
            f"{OURS}class C:\n    def clip_grad_norm_(self):\n        {CALL}",
        ),
        (
            f"{IMPORT}def f(clip_grad_norm_):\n    clip_grad_norm_(1)\n{CALL}",
            f"import clipcheck.runtime\ndef f(clip_grad_norm_):\n    clip_grad_norm_(1)\nclipcheck.runtime.{CALL}",
        ),
        ("import torch.nn.utils as u\nu." + CALL, OURS + CALL),
    ],
)
def test_torchs_own_clip_becomes_that_of_the_runtime(text: str, after: str) -> None:
    report = check_file("x.py", text.encode(), Settings(frozenset({"CLIP011"}), fix=True, safety=Safety.UNSAFE))
    assert (report.findings, report.errors) == ((), ())
    assert report.now.decode() == after


def test_an_import_that_may_fail_stays_torchs() -> None:
    text = f"try:\n    {IMPORT}except ImportError:\n    pass\n{CALL}"
    report = check_file("x.py", text.encode(), Settings(frozenset({"CLIP011"}), fix=True, safety=Safety.UNSAFE))
    assert report.fixed_data is None
    why = "no automatic fix: a failing import is caught here; import it outside of the `try`"
    assert {finding.help for finding in report.findings} == {why}
