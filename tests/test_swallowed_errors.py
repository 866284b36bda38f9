"""CLIP114 on short programs: errors of a clip that are swallowed, and errors that are not."""

from __future__ import annotations

import pytest

from clipcheck.engine.file import check_file
from clipcheck.settings.keys import Settings

HEAD = "import contextlib\nimport torch\nfrom torch.nn.utils import clip_grad_norm_\n"
CLIP = "clip_grad_norm_(ps, limit)"


def found(body: str) -> list[str]:
    text = (
        HEAD
        + "def f(ps, opt, loss, limit, log):\n    loss.backward()\n"
        + "".join(f"    {line}\n" for line in body.split("\n"))
    )
    report = check_file("x.py", text.encode(), Settings(codes=frozenset({"CLIP114"})))
    assert report.errors == () and all(finding.help for finding in report.findings)
    return [finding.message for finding in report.findings]


SWALLOWED = [
    f"try:\n    {CLIP}\nexcept Exception:\n    pass\nopt.step()",
    f"try: {CLIP}\nexcept: pass\nopt.step()",
    f"try:\n    {CLIP}\nexcept Exception:\n    ...\nopt.step()",
    f"try:\n    {CLIP}\nexcept BaseException as e:\n    print(e)\nopt.step()",
    f"try:\n    {CLIP}\nexcept (ValueError, Exception):\n    pass\nopt.step()",
    f"try:\n    {CLIP}\nexcept ValueError:\n    raise\nexcept Exception:\n    pass\nopt.step()",
    f"try:\n    norm = {CLIP}\nexcept Exception:\n    norm = None\nopt.step()",
    f"try:\n    norm = {CLIP}\nexcept Exception:\n    norm = torch.tensor(0.0)\n    self.logger.warning('no clip')\nopt.step()",
    f"try:\n    {CLIP}\nexcept Exception as e:\n    if rank == 0:\n        print(e)\nopt.step()",
    f"try:\n    if limit:\n        {CLIP}\nexcept Exception:\n    import traceback\n    traceback.print_exc()\nopt.step()",
    "try:\n    accelerator.clip_grad_norm_(ps, limit)\nexcept Exception:\n    pass\nopt.step()",
    "try:\n    model.clip_grad_norm_(limit)\nexcept Exception:\n    pass\nopt.step()",
    f"with contextlib.suppress(Exception):\n    {CLIP}\nopt.step()",
    f"with torch.no_grad(), contextlib.suppress(ValueError, Exception):\n    {CLIP}\nopt.step()",
    f"for x in ps:\n    try:\n        {CLIP}\n    except Exception:\n        pass\n    opt.step()",
    f"try:\n    {CLIP}\nexcept Exception:\n    warnings.show('no clip')\nopt.step()",
    f"try:\n    {CLIP}\nexcept Exception:\n    failed = True\nopt.step()\ndef g():\n    failed = tell()\n    if failed:\n        return",  # another variable
    # the clip is in a function
    f"def clip():\n    scaler.unscale_(opt)\n    {CLIP}\ntry:\n    clip()\nexcept Exception:\n    pass\nopt.step()",
    "def clip(ps):\n    return clip_grad_norm_(ps, limit)\nwith contextlib.suppress(Exception):\n    clip(ps)\nopt.step()",
    f"try:\n    {CLIP}\n    opt.zero_grad()\nexcept Exception:\n    pass\nopt.step()",
    f"try:\n    {CLIP}\nexcept Exception:\n    failed = True\nif other:\n    print(1)\nopt.step()",
    f"try:\n    {CLIP}\nexcept Exception:\n    self.failed = True\nopt.step()",
    # a flag that only keeps the next clip from failing again
    f"global failed\nif not failed:\n    try:\n        {CLIP}\n    except Exception as e:\n        log.warning(e)\n        failed = True\nopt.step()",
]  # fmt: skip
HEARD = [
    f"failed = False\nfor x in ps:\n    if not failed:\n        try:\n            {CLIP}\n        except Exception:\n            failed = True\n        opt.step()\nopt.step()",
    f"failed = False\ntry:\n    {CLIP}\nexcept Exception:\n    failed = True\nif not failed:\n    opt.step()",
    f"failed = False\nfor x in ps:\n    if not failed:\n        try:\n            {CLIP}\n        except Exception:\n            failed = True\n        opt.step()",
    f"failed = False\nfor x in ps:\n    if not failed:\n        try:\n            {CLIP}\n        except Exception:\n            failed = True\n    else:\n        continue\n    opt.step()",
    f"failed = False\ntry:\n    {CLIP}\nexcept Exception:\n    failed = True\nopt.step() if not failed else None",
    f"failed = False\nwhile not failed:\n    try:\n        {CLIP}\n    except Exception:\n        failed = True\n    opt.step()",
    f"def clip():\n    {CLIP}\n    opt.step()\ntry:\n    clip()\nexcept Exception:\n    pass\nopt.step()",
    f"def clip():\n    loss.backward()\n    {CLIP}\ntry:\n    clip()\nexcept Exception:\n    pass\nopt.step()",
    "def clip():\n    clip_grad_norm_(ps, torch.inf)\ntry:\n    clip()\nexcept Exception:\n    pass\nopt.step()",
    "def clip():\n    print(ps)\ntry:\n    clip()\nexcept Exception:\n    pass\nopt.step()",
    f"{CLIP}\nopt.step()",
    f"try:\n    {CLIP}\nexcept RuntimeError:\n    pass\nopt.step()",
    f"try:\n    {CLIP}\nexcept AttributeError:\n    pass\nopt.step()",
    f"try:\n    {CLIP}\nexcept Exception:\n    raise\nopt.step()",
    f"try:\n    {CLIP}\nexcept Exception:\n    if strict:\n        raise\nopt.step()",
    f"try:\n    {CLIP}\nexcept Exception:\n    return\nopt.step()",
    f"for x in ps:\n    try:\n        {CLIP}\n    except Exception:\n        continue\n    opt.step()",
    f"for x in ps:\n    try:\n        {CLIP}\n    except Exception:\n        break\n    opt.step()",
    f"try:\n    {CLIP}\nexcept Exception:\n    sys.exit(1)\nopt.step()",
    f"try:\n    {CLIP}\nexcept Exception:\n    opt.zero_grad()\nopt.step()",
    f"try:\n    {CLIP}\nexcept Exception:\n    failed = True\nif not failed:\n    opt.step()",
    f"try:\n    norm = {CLIP}\nexcept Exception:\n    norm = None\nif norm is None:\n    return\nopt.step()",
    f"try:\n    norm = {CLIP}\nexcept Exception:\n    norm = f(ps)\nopt.step()",
    f"try:\n    {CLIP}\nexcept Exception:\n    clip_slowly(ps, limit)\nopt.step()",
    f"try:\n    {CLIP}\n    opt.step()\nexcept Exception:\n    pass",
    f"try:\n    {CLIP}\n    self.train_step()\nexcept Exception:\n    pass",
    f"try:\n    {CLIP}\nexcept Exception:\n    pass\nelse:\n    opt.step()",
    f"try:\n    x = 1\nexcept Exception:\n    {CLIP}\nopt.step()",
    f"try:\n    x = 1\nexcept Exception:\n    pass\nfinally:\n    {CLIP}\nopt.step()",
    f"try:\n    {CLIP}\nfinally:\n    x = 1\nopt.step()",
    "try:\n    clip_grad_norm_(ps, torch.inf)\nexcept Exception:\n    pass\nopt.step()",
    "try:\n    torch.nn.utils.get_total_norm(ps)\nexcept Exception:\n    pass\nopt.step()",
    f"try:\n    def g():\n        {CLIP}\nexcept Exception:\n    pass\nopt.step()",
    f"with contextlib.suppress(RuntimeError):\n    {CLIP}\nopt.step()",
    f"with suppress_output(Exception):\n    {CLIP}\nopt.step()",
    f"with pytest.raises(Exception):\n    try:\n        {CLIP}\n    except Exception:\n        pass",
    f"try:\n    try:\n        {CLIP}\n    except Exception:\n        raise\nexcept Exception:\n    pass\nopt.step()",
]  # fmt: skip


@pytest.mark.parametrize("body", SWALLOWED)
def test_a_clip_whose_error_is_swallowed(body: str) -> None:
    (message,) = found(body)
    assert "the step on line" in message


@pytest.mark.parametrize("body", HEARD)
def test_a_clip_whose_error_is_handled_or_expected(body: str) -> None:
    assert found(body) == []


def test_a_clip_whose_step_is_elsewhere() -> None:
    (message,) = found(f"try:\n    {CLIP}\nexcept Exception:\n    pass")
    assert message == "a failed clip goes unnoticed: training continues with unclipped gradients"


def test_what_happens_to_the_training() -> None:
    """A misspelled setting turns clipping off, and the step is taken with gradients above the limit."""
    torch = pytest.importorskip("torch")
    from conftest import PROJECT

    program = (PROJECT / "fixtures" / "CLIP114-swallowed-clip-error" / "before.py").read_text(encoding="utf-8")
    names: dict[str, object] = {}
    exec(compile(program, "before.py", "exec"), names)
    model, norms = torch.nn.Linear(3, 1), []

    class Watched(torch.optim.SGD):
        def step(self, closure: object = None) -> None:
            norms.append(float(torch.nn.utils.get_total_norm([p.grad for p in model.parameters()])))

    class Config:
        max_nrom = 0.01

    batch = (torch.ones(4, 3), torch.full((4, 1), 9.0))
    train = names["train"]
    assert callable(train)
    train(model, Watched(model.parameters(), lr=0.1), [batch] * 2, torch.nn.functional.mse_loss, Config)
    assert len(norms) == 2 and min(norms) > 100 * Config.max_nrom
    Config.max_norm = Config.max_nrom  # type: ignore[attr-defined]
    train(model, Watched(model.parameters(), lr=0.1), [batch], torch.nn.functional.mse_loss, Config)
    assert norms[-1] == pytest.approx(0.01, rel=1e-3)
