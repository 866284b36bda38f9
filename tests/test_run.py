"""`python -m clipcheck.run`: real programs in separate processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from conftest import PROJECT

pytest.importorskip("torch")

REPORT = 'print("CALLS", torch.nn.utils.clip_grad_norm_.__module__, flush=True)\n'
OURS, TORCHS = "CALLS clipcheck.runtime.clip", "CALLS torch.nn.utils"


def run(
    *arguments: str | Path, folder: Path, before: tuple[str, ...] = (), **variables: str
) -> subprocess.CompletedProcess[str]:
    """Runs `python -m clipcheck.run`, or the command `before` it, in a folder outside the project."""
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1", **variables}
    command = [sys.executable, *(before or ("-m", "clipcheck.run")), *map(str, arguments)]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)


def written(path: Path, text: str) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(textwrap.dedent(text), encoding="utf-8")
    return path


def test_a_program_runs_as_it_would_alone(tmp_path: Path) -> None:
    """Arguments, names, options of the interpreter, exit code; and torch is loaded when the program does so."""
    program = written(
        tmp_path / "a folder" / "train it.py",
        """
        import importlib.util, json, os, sys
        assert "torch" not in sys.modules and "clipcheck" not in sys.modules
        assert importlib.util.find_spec("torch") is not None  # as libraries ask whether it is installed
        os.environ["OMP_NUM_THREADS"] = "2"
        import torch
        facts = dict(
            argv=sys.argv, name=__name__, file=__file__, spec=__spec__ is None, dev=sys.flags.dev_mode,
            places=[torch.nn.utils.clip_grad_norm_.__module__, torch.nn.utils.clip_grad.clip_grad_norm_.__module__],
            threads=torch.get_num_threads(), path=[entry for entry in sys.path if "startup" in entry],
            finders=[type(finder).__name__ for finder in sys.meta_path if "Waits" in type(finder).__name__],
        )
        print(json.dumps(facts))
        sys.exit(7)
        """,
    )
    before = ("-X", "dev", "-W", "ignore", "-m", "clipcheck.run")
    done = run(program, "--results", "-m", "x y", folder=tmp_path, before=before)
    assert done.returncode == 7, done.stderr
    assert json.loads(done.stdout) == {
        "argv": [str(program), "--results", "-m", "x y"],
        "name": "__main__",
        "file": str(program),
        "spec": True,
        "dev": True,
        "places": ["clipcheck.runtime.clip"] * 2,
        "threads": min(2, os.cpu_count() or 1),
        "path": [],
        "finders": [],
    }


def test_a_module_runs_with_the_results_of_torch(tmp_path: Path) -> None:
    written(tmp_path / "package" / "train.py", f"import sys, torch\nprint(sys.argv[1:])\n{REPORT}")
    for option in (["--results", "torch"], ["--results=torch"]):
        done = run(*option, "-m", "package.train", "--epochs", "1", folder=tmp_path)
        assert done.stdout.splitlines() == ["['--epochs', '1']", "CALLS clipcheck.runtime.as_torch"], done.stderr


def test_nothing_is_installed_without_the_variable(tmp_path: Path) -> None:
    program = written(tmp_path / "train.py", f"import torch\n{REPORT}")
    startup = str(PROJECT / "clipcheck" / "startup")
    done = run(program, folder=tmp_path, before=("-W", "ignore"), PYTHONPATH=startup, CLIPCHECK_RUNTIME="")
    assert done.stdout.startswith(TORCHS), done.stderr


def test_child_processes_have_it_too(tmp_path: Path) -> None:
    """Spawned processes, the workers of a DataLoader, and an interpreter that is started by name."""
    program = written(
        tmp_path / "train.py",
        """
        import subprocess, sys
        import torch
        import torch.multiprocessing as mp

        def where(index):
            return torch.nn.utils.clip_grad_norm_.__module__

        class Data(torch.utils.data.Dataset):
            def __len__(self):
                return 2
            def __getitem__(self, index):
                return where(index)

        if __name__ == "__main__":
            with mp.get_context("spawn").Pool(1) as pool:
                print("CALLS", *pool.map(where, [0]))
            loader = torch.utils.data.DataLoader(Data(), num_workers=1, multiprocessing_context="spawn")
            print("CALLS", *(name for batch in loader for name in batch[:1]))
            code = "import torch; print('CALLS', torch.nn.utils.clip_grad_norm_.__module__)"
            print(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip())
        """,
    )
    done = run(program, folder=tmp_path)
    assert done.stdout.splitlines() == [OURS, f"{OURS} clipcheck.runtime.clip", OURS], done.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="torchrun wants libuv there")
@pytest.mark.parametrize("outside", [True, False])
def test_workers_of_torchrun(tmp_path: Path, outside: bool) -> None:
    """As its parent and as its child, with gradients that are sharded over both workers."""
    program = written(
        tmp_path / "train.py",
        """
        import os, torch, torch.distributed as dist
        from torch.distributed.fsdp import fully_shard
        dist.init_process_group("gloo")
        torch.manual_seed(0)
        model = torch.nn.Linear(5, 3)
        whole = torch.nn.Linear(5, 3)
        whole.load_state_dict(model.state_dict())
        fully_shard(model, mesh=dist.device_mesh.init_device_mesh("cpu", (2,)))
        for each in (model, whole):
            each(torch.ones(2, 5)).square().sum().backward()
        want = sum(p.grad.square().sum() for p in whole.parameters()).sqrt().item()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0).full_tensor().item()
        with open(f"rank{dist.get_rank()}.txt", "w") as file:
            print(torch.nn.utils.clip_grad_norm_.__module__, abs(norm / want - 1) < 1e-5, file=file)
        dist.destroy_process_group()
        os._exit(0)  # even after a plain all_reduce, gloo aborts some processes at their end
        """,
    )
    from torch.distributed import fsdp

    if not hasattr(fsdp, "fully_shard"):
        pytest.skip("this torch has no FSDP2")
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    ours = ("-m", "clipcheck.run", "--results", "torch")
    done = run(program, folder=tmp_path, before=(*ours, *torchrun) if outside else (*torchrun, *ours))
    assert done.returncode == 0, done.stderr
    for rank in (0, 1):
        assert (tmp_path / f"rank{rank}.txt").read_text() == "clipcheck.runtime.as_torch True\n"


def test_the_sitecustomize_that_is_hidden_runs_as_well(tmp_path: Path) -> None:
    written(tmp_path / "theirs" / "sitecustomize.py", 'print("customized")\n')
    program = written(tmp_path / "train.py", f"import sitecustomize, torch\nprint(sitecustomize.__file__)\n{REPORT}")
    theirs = tmp_path / "theirs"
    done = run(program, folder=tmp_path, PYTHONPATH=os.pathsep.join([str(theirs), str(PROJECT)]))
    printed = ["customized", "customized", str(theirs / "sitecustomize.py"), OURS]  # once by `clipcheck.run` itself
    assert done.stdout.splitlines() == printed, done.stderr


def test_a_command_is_found_on_the_path(tmp_path: Path) -> None:
    code = "import os; print(os.environ['CLIPCHECK_RUNTIME'])"
    done = run(os.path.basename(sys.executable), "-c", code, folder=tmp_path)
    assert done.stdout.strip() == "plain", done.stderr


def test_an_interpreter_without_clipcheck_continues(tmp_path: Path) -> None:
    """The program may start a different interpreter, which warns that torch's functions are called."""
    code = f"import sys; sys.modules['clipcheck.runtime'] = None\nimport torch\n{REPORT}"
    done = run("-c", code, folder=tmp_path)
    assert done.stdout.startswith(TORCHS)
    assert done.stderr.startswith("clipcheck.run: torch keeps its own functions in ")
    assert done.stderr.count("\n") == 1


def test_where_torch_xla_is_installed_nothing_is_replaced(tmp_path: Path) -> None:
    """When it is imported, it replaces torch's clip by its own, and raises if the clip is not torch's."""
    written(tmp_path / "torch_xla.py", "")
    program = written(tmp_path / "train.py", f"import torch\n{REPORT}")
    done = run(program, folder=tmp_path, PYTHONPATH=os.pathsep.join([str(PROJECT), str(tmp_path)]))
    assert done.stdout.startswith(TORCHS)
    assert "torch_xla has its own clip" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "what to run is missing"),
        (["--results", "dtensor", "x.py"], "invalid value 'dtensor' for --results (expected plain or torch)"),
        (["no-such-command-anywhere"], "no-such-command-anywhere: no such file or command"),
    ],
)
def test_wrong_arguments_are_one_line(tmp_path: Path, arguments: list[str], says: str) -> None:
    done = run(*arguments, folder=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"clipcheck.run: {says}; `python -m clipcheck.run --help` shows how\n"


def test_help(tmp_path: Path) -> None:
    done = run("--help", folder=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("Usage: python -m clipcheck.run")
