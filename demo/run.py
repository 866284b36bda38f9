"""`make demo`: the main job on a copy of train.py: the findings, the diff of the fix, its verification, and the training run."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent


def show(*words: str, folder: Path, expected: int = 0) -> None:
    """Run a command as a user would, with its words above its output; stop if it ends otherwise than expected."""
    print(f"\n$ {' '.join(words)}", flush=True)
    command = (
        [sys.executable, "-m", "clipcheck", *words[1:]] if words[0] == "clipcheck" else [sys.executable, *words[1:]]
    )
    done = subprocess.run(command, cwd=folder)
    if done.returncode != expected:
        sys.exit(f"`{' '.join(words)}` ended with {done.returncode}, not {expected}")


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="clipcheck demo ") as name:
        folder = Path(name)
        shutil.copy(HERE / "train.py", folder)
        show("clipcheck", "train.py", folder=folder, expected=1)
        show("clipcheck", "--diff", "train.py", folder=folder, expected=1)
        show("clipcheck", "verify", "train.py", folder=folder)
        show("clipcheck", "--fix", "--verify", "train.py", folder=folder)
        show("clipcheck", "train.py", folder=folder)
        show("python", "train.py", folder=folder)


if __name__ == "__main__":
    main()
