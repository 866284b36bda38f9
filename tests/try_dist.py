"""`make dist`: each distribution is installed into an empty environment and tried there, outside this checkout.

    python tests/try_dist.py FOLDER

Without torch the linter and the editors' server must work, and verification must say which extra it needs; with torch
verification must succeed.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import venv
from collections.abc import Sequence
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
FAULTY = "import torch\n\n\ndef clip(model):\n    torch.nn.utils.clip_grad_norm(model.parameters(), 1.0)\n"


class Environment:
    """An empty virtual environment, and a folder to work in."""

    def __init__(self, folder: Path) -> None:
        venv.create(folder / "venv", with_pip=True)
        self.bin = folder / "venv" / ("Scripts" if os.name == "nt" else "bin")
        self.work = folder / "a project"
        self.work.mkdir()

    def run(self, command: str, *words: str, expected: int = 0) -> str:
        clean = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        call = [self.bin / command, *words]
        done = subprocess.run(call, cwd=self.work, env=clean, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        if done.returncode != expected:
            sys.exit(f"{command} {' '.join(words)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
        return done.stdout + done.stderr

    def install(self, *what: str) -> None:
        quiet = ("--quiet", "--disable-pip-version-check", "--constraint", str(PROJECT / "constraints.txt"))
        self.run("python", "-m", "pip", "install", *quiet, *what)


def try_one(distribution: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="clipcheck dist ") as name:
        environment = Environment(Path(name))
        environment.install(str(distribution))
        train = environment.work / "train.py"
        train.write_text(FAULTY)
        assert "CLIP002" in environment.run("clipcheck", "train.py", expected=1)
        assert "clipcheck[torch]" in environment.run("clipcheck", "verify", expected=2)
        assert "clipcheck[lsp]" in environment.run("clipcheck", "server", expected=2)
        assert "## Example" in environment.run("clipcheck", "rule", "CLIP002")
        environment.run("clipcheck", "--fix", "train.py")
        assert "clip_grad_norm_(" in train.read_text()
        assert "No problems found in 1 file" in environment.run("clipcheck")
        environment.install(f"{distribution}[lsp]")
        environment.run("clipcheck", "server")  # its client disconnects at once
        environment.install(f"{distribution}[torch]")
        table = environment.run("clipcheck", "verify")
        assert "CLIP002" in table
        print(f"{distribution.name}: installs, finds, fixes; {table.strip().splitlines()[-1]}")


def main(folders: Sequence[str]) -> None:
    found = [path for folder in folders for path in sorted(Path(folder).resolve().iterdir())]
    if {path.suffix for path in found} != {".whl", ".gz"}:
        sys.exit(f"a wheel and a source distribution are wanted, there is {[path.name for path in found]}")
    for path in found:
        try_one(path)


if __name__ == "__main__":
    main(sys.argv[1:] or ["dist"])
