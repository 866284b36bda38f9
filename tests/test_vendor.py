"""`clipcheck vendor`: the copy is self-contained, is updated, and keeps manual edits; fixes import it."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import Result
from conftest import PROJECT, runner

from clipcheck import __version__
from clipcheck.cli import vendor
from clipcheck.cli.main import main
from clipcheck.engine.file import check_file, check_text
from clipcheck.rule import Safety
from clipcheck.settings.keys import ConfigError, Settings

LOOP = """\
import torch


def gradient_norm(model):
    total_norm = 0.0
    for p in model.parameters():
        if p.grad is not None:
            total_norm += p.grad.data.norm(2).item() ** 2
    return total_norm ** 0.5
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*words: str) -> Result:
    return runner().invoke(main, list(words))


def test_the_copy_imports_nothing_of_clipcheck(folder: Path) -> None:
    assert run("vendor", "clip_runtime").exit_code == 0
    files = sorted((folder / "clip_runtime").glob("*.py"))
    assert {path.name for path in files} == {path.name for path in (PROJECT / "clipcheck" / "runtime").glob("*.py")}
    for path in files:
        tree = ast.parse(path.read_bytes())
        for node in ast.walk(tree):
            match node:
                case ast.Import(names=names):
                    assert not any(alias.name.startswith("clipcheck") for alias in names), path
                case ast.ImportFrom(module=module, level=level):
                    assert level or not str(module).startswith("clipcheck"), path
                case ast.Constant(value=str() as text):
                    assert not text.startswith("clipcheck.runtime"), (path, text)
    assert (folder / "clip_runtime" / "LICENSE").read_bytes() == (PROJECT / "LICENSE").read_bytes()


def test_each_file_says_its_version_and_license() -> None:
    run("vendor", "clip_runtime")
    for path in Path("clip_runtime").glob("*.py"):
        first, second, third = path.read_text(encoding="utf-8").splitlines()[:3]
        assert first.startswith(f"# Copied from clipcheck {__version__} by `clipcheck vendor`")
        assert "SPDX-License-Identifier: Apache-2.0" in second
        assert re.fullmatch(r"# sha256 of the rest: [0-9a-f]{64}", third)


def test_check_says_what_is_not_current(folder: Path) -> None:
    copy = folder / "clip_runtime"
    assert run("vendor", "clip_runtime", "--check").exit_code == 2  # there is none
    run("vendor", "clip_runtime")
    assert (run("vendor", "--check", "clip_runtime").exit_code, run("vendor", "--check", "clip_runtime").stdout) == (
        0,
        "clip_runtime is current.\n",
    )
    (copy / "clip.py").unlink()
    (copy / "plain.py").write_bytes(older(copy / "plain.py"))
    (copy / "rows.py").write_bytes((copy / "rows.py").read_bytes() + b"x = 1\n")
    (copy / "own.py").write_text("mine = 1\n", encoding="utf-8")
    (copy / "former.py").write_bytes(older(copy / "plain.py"))
    done = run("vendor", "--check", "clip_runtime")
    assert done.exit_code == 1
    assert set(done.stdout.replace("\\", "/").splitlines()) == {
        "clip_runtime/clip.py: missing",
        "clip_runtime/plain.py: outdated",
        "clip_runtime/rows.py: edited by hand",
        "clip_runtime/former.py: no longer part of it",
    }


def older(path: Path) -> bytes:
    """A file as another version would have written it."""
    body = b"\n".join(path.read_bytes().split(b"\n")[3:]) + b"# of another version\n"
    return vendor._with_header(body)


def test_what_was_changed_by_hand_is_kept(folder: Path) -> None:
    run("vendor", "clip_runtime")
    copy = folder / "clip_runtime"
    (copy / "plain.py").write_bytes(older(copy / "plain.py"))
    edited = (copy / "rows.py").read_bytes() + b"x = 1\n"
    (copy / "rows.py").write_bytes(edited)
    before = {path.name: path.read_bytes() for path in copy.iterdir()}
    refused = run("vendor", "clip_runtime")
    assert refused.exit_code == 2 and "rows.py was edited by hand" in refused.stderr
    assert {path.name: path.read_bytes() for path in copy.iterdir()} == before
    forced = run("vendor", "--force", "clip_runtime")
    assert forced.exit_code == 0 and "(2 of " in forced.stdout
    assert run("vendor", "--check", "clip_runtime").exit_code == 0


def test_an_older_copy_is_renewed_and_what_is_not_ours_is_left(folder: Path) -> None:
    run("vendor", "clip_runtime")
    copy = folder / "clip_runtime"
    (copy / "plain.py").write_bytes(older(copy / "plain.py"))
    (copy / "former.py").write_bytes(older(copy / "plain.py"))
    (copy / "own.py").write_text("mine = 1\n", encoding="utf-8")
    (copy / "clip.py").write_bytes((copy / "clip.py").read_bytes().replace(b"\n", b"\r\n"))  # as git may check it out
    assert run("vendor", "clip_runtime").exit_code == 0
    assert not (copy / "former.py").exists()
    assert (copy / "own.py").read_text(encoding="utf-8") == "mine = 1\n"
    assert run("vendor", "--check", "clip_runtime").exit_code == 0


def test_a_package_of_the_same_name_is_not_written_over(folder: Path) -> None:
    (folder / "clip_runtime").mkdir()
    (folder / "clip_runtime" / "__init__.py").write_text("mine = 1\n", encoding="utf-8")
    done = run("vendor", "clip_runtime")
    assert done.exit_code == 2 and "edited by hand" in done.stderr
    assert [path.name for path in (folder / "clip_runtime").iterdir()] == ["__init__.py"]


@pytest.mark.parametrize("name", ["my-clip", "class", "a file.py"])
def test_a_folder_that_is_not_a_package_is_rejected(folder: Path, name: str) -> None:
    done = run("vendor", name)
    assert done.exit_code == 2 and "not a valid name" in done.stderr
    assert not (folder / name).exists()


def test_a_file_in_the_way_is_one_line(folder: Path) -> None:
    (folder / "clip_runtime").write_text("", encoding="utf-8")
    done = run("vendor", "clip_runtime")
    assert (done.exit_code, done.stderr.count("\n")) == (2, 1)


def test_the_target_is_named_as_code_imports_it(folder: Path) -> None:
    (folder / "src" / "lab" / "train").mkdir(parents=True)
    for package in ("lab", "lab/train"):
        (folder / "src" / package / "__init__.py").touch()
    assert "--target lab.train.clip_runtime" in run("vendor", "src/lab/train/clip_runtime").stdout
    assert "--target clip_runtime" in run("vendor", "src/clip_runtime").stdout


# --- fixes that import it -------------------------------------------------------------------------------------------


def fixed(text: str, target: str, name: str = "train.py") -> str:
    report = check_text(name, text, Settings(target=target, fix=True, safety=Safety.UNSAFE))
    assert report.errors == ()
    return (report.fixed_data or report.data).decode()


def test_fixes_import_the_target_and_settle() -> None:
    once = fixed(LOOP, "lab.clip_runtime")
    assert "from lab.clip_runtime import grad_norm\n" in once and "clipcheck" not in once
    assert fixed(once, "lab.clip_runtime") == once


def test_calls_of_the_target_are_clips() -> None:
    text = (
        "from lab.clip_runtime import clip_grad_norm_\n\n\ndef step(model, optimizer, loss):\n    loss.backward()\n"
        "    optimizer.step()\n    clip_grad_norm_(model.parameters(), 1.0)\n    optimizer.zero_grad()\n"
    )

    def codes(target: str) -> list[str]:
        settings = Settings(codes=frozenset({"CLIP101"}), target=target)
        return [finding.code for finding in check_file("train.py", text.encode(), settings).findings]

    assert codes("lab.clip_runtime") == ["CLIP101"]


def test_a_name_of_the_user_is_not_taken_for_the_target() -> None:
    text = LOOP.replace("import torch\n", "import torch\n\nlab = grad_norm = 3\n")
    once = fixed(text, "lab.clip_runtime")
    assert "from lab.clip_runtime import grad_norm as " in once
    compile(once, "train.py", "exec")


PROGRAM = """
import torch
{code}

model = torch.nn.Linear(3, 2)
(1e3 * model(torch.ones(4, 3)).sum()).backward()
before = float(sum((p.grad ** 2).sum() for p in model.parameters()) ** 0.5)
{use}
import sys
assert not [name for name in sys.modules if name.partition(".")[0] == "clipcheck"]
"""


def trained(folder: Path, code: str, use: str) -> str:
    """The output of a program that runs the code with the copied runtime, without clipcheck."""
    (folder / "program.py").write_text(PROGRAM.format(code=code, use=use), encoding="utf-8")
    done = subprocess.run([sys.executable, "program.py"], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_fixed_program_runs_without_clipcheck(folder: Path) -> None:
    pytest.importorskip("torch")
    run("vendor", "clip_runtime")
    code = fixed(LOOP, "clip_runtime")
    assert trained(folder, code, "print(abs(gradient_norm(model) - before) < 1e-3 * before)") == "True\n"


def seeds() -> list[str]:
    """The Python of the second document, the one that builds clipping by hand; skips where it is not there."""
    path = PROJECT.parent / "shared" / "seeds" / "gradient-clipping-methods.md"
    if not path.is_file():
        pytest.skip("the documents that the project started from are not beside this checkout (../shared/seeds)")
    return re.findall(r"```python\n(.*?)```", path.read_text(encoding="utf-8"), re.DOTALL)


def test_the_benchmark_of_the_second_document_runs_on_the_copy(folder: Path) -> None:
    pytest.importorskip("torch")
    (program,) = (block for block in seeds() if "import time" in block)
    program = "import torch\ntorch.manual_seed(0)\n" + program.replace("range(100)", "range(1)") + "print(total)\n"
    run("vendor", "clip_runtime")
    after = fixed(program, "clip_runtime")
    assert after.count("get_total_norm(gradients).item()") == 2 and "from clip_runtime import get_total_norm" in after
    lines = {name: alone(folder, f"{name}.py", text) for name, text in (("before", program), ("after", after))}
    assert lines["after"][0].startswith("Method 1 (norm):")
    assert float(lines["after"][-1]) == pytest.approx(float(lines["before"][-1]), rel=1e-5)


def alone(folder: Path, name: str, text: str) -> list[str]:
    (folder / name).write_text(text, encoding="utf-8")
    done = subprocess.run([sys.executable, name], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


# --- the states of files ----------------------------------------------------------------------------------------------


def test_former_files_are_removed_unless_they_were_edited(folder: Path) -> None:
    run("vendor", "clip_runtime")
    copy = folder / "clip_runtime"
    former = older(copy / "plain.py")
    (copy / "former.txt").write_bytes(former)
    (copy / "former.py").write_bytes(former)
    assert vendor.compared("clip_runtime")["former.py"] == vendor.GONE
    assert "former.txt" not in vendor.compared("clip_runtime")
    (copy / "former.py").write_bytes(former + b"x = 1\n")
    assert vendor.compared("clip_runtime")["former.py"] == vendor.EDITED
    assert "former.py was edited by hand" in run("vendor", "clip_runtime").stderr
    assert (copy / "former.py").exists() and (copy / "former.txt").exists()
    (copy / "former.py").write_bytes(former)
    done = run("vendor", "clip_runtime")
    total = len(vendor.files()) + 1
    assert f"(1 of {total} files written)" in done.stdout
    assert not (copy / "former.py").exists() and (copy / "former.txt").exists()


def test_what_is_told_of_a_new_copy(folder: Path) -> None:
    total = len(vendor.files())
    assert run("vendor", "clip_runtime").stdout == (
        f"clip_runtime holds the runtime of clipcheck {__version__} ({total} of {total} files written).\n"
        "Fix code with it: clipcheck --fix --target clip_runtime\n"
    )
    again = run("vendor", "clip_runtime")
    assert f"(0 of {total} files written)" in again.stdout
    assert run("vendor", "--check", "clip_runtime").exit_code == 0
    missing = run("vendor", "--check", "nothing")
    assert (missing.exit_code, missing.stderr) == (2, "error: nothing: no such folder\n")


def test_a_renewed_file_keeps_its_mode(folder: Path) -> None:
    run("vendor", "clip_runtime")
    path = folder / "clip_runtime" / "plain.py"
    wanted = path.read_bytes()
    path.write_bytes(older(path))
    if sys.platform != "win32":
        path.chmod(0o600)
    run("vendor", "clip_runtime")
    assert path.read_bytes() == wanted
    assert sys.platform == "win32" or path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("source", "relative"),
    [
        (b"from clipcheck.runtime.clip import a\n", b"from .clip import a\n"),
        (b"from clipcheck.runtime import a\n", b"from . import a\n"),
        (b"    from clipcheck.runtime.a.b import c\n", b"    from .a.b import c\n"),
        (b"x = 1\nfrom clipcheck.runtime.clip import (\n", b"x = 1\nfrom .clip import (\n"),
        (b"from torch import nn\n", b"from torch import nn\n"),
        (b"x = 'from clipcheck.runtime import a'\n", b"x = 'from clipcheck.runtime import a'\n"),
    ],
)
def test_imports_of_the_runtime_are_relative(source: bytes, relative: bytes) -> None:
    assert vendor._relative(source) == relative


def test_the_license_of_an_installed_package(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vendor, "__file__", str(folder / "clipcheck" / "cli" / "vendor.py"))

    def installed(**texts: str) -> None:
        about = SimpleNamespace(read_text=lambda name: texts.get(name.replace("/", "_")))
        monkeypatch.setattr(vendor, "distribution", {"clipcheck": about}.__getitem__)

    installed(licenses_LICENSE="new", LICENSE="old")
    assert vendor._license() == b"new"
    installed(LICENSE="old")
    assert vendor._license() == b"old"
    installed(licenses_LICENSE="", LICENSE="")
    with pytest.raises(ConfigError, match="license"):
        vendor._license()

    def missing(name: str) -> None:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(vendor, "distribution", missing)
    with pytest.raises(ConfigError, match="license"):
        vendor._license()
    (folder / "LICENSE").write_bytes(b"of the\r\ncheckout\r\n")
    assert vendor._license() == b"of the\ncheckout\n"
