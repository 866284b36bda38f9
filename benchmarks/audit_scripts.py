"""Eight faulty and eight right training scripts: what the audit names in each and, with `--traincheck BIN`, what TrainCheck does.

`python benchmarks/audit_scripts.py` writes the scripts to a temporary folder, runs each under the audit and exits with 1
where one is named wrong. `--traincheck` takes the folder with `traincheck-collect` and the other two commands of
`pip install traincheck==0.2.0`; the invariants are inferred from the first right script.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import clipcheck

PROGRAM = """\
import torch
from torch import nn
from torch.nn.utils import clip_grad_norm_

torch.manual_seed(0)
model = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 1))
optimizer = torch.optim.{optimizer}(model.parameters(), lr=0.1)
{before}
for step in range(20):
    inputs = torch.randn(16, 8)
    loss = (model(inputs) - 3 * inputs.sum(1, keepdim=True)).square().mean()
    {body}
"""
ZERO, BACKWARD, STEP = "optimizer.zero_grad()", "loss.backward()", "optimizer.step()"
CLIP = "clip_grad_norm_(model.parameters(), 1.0)"
SCALER = "scaler = torch.amp.GradScaler('cpu')"
SCALED = "scaler.scale(loss).backward()"


class Script(NamedTuple):
    """`steps` are those that use clipped gradients, of 20 or of 10 with accumulation."""

    name: str
    codes: tuple[str, ...]
    steps: int
    body: tuple[str, ...]
    before: str = ""
    optimizer: str = "SGD"


RIGHT = (
    Script("SGD", (), 20, (ZERO, BACKWARD, CLIP, STEP)),
    Script("AdamW", (), 20, (ZERO, BACKWARD, CLIP, STEP), optimizer="AdamW"),
    Script(
        "a norm that is measured again",
        (),
        20,
        (ZERO, BACKWARD, CLIP, "nn.utils.get_total_norm([p.grad for p in model.parameters()])", STEP),
    ),
    Script(
        "a list of parameters",
        (),
        20,
        (ZERO, BACKWARD, "clip_grad_norm_(parameters, 1.0)", STEP),
        "parameters = list(model.parameters())",
    ),
    Script("a limit that is never reached", (), 20, (ZERO, BACKWARD, CLIP.replace("1.0", "1e6"), STEP)),
    Script(
        "accumulation",
        (),
        10,
        ("(loss / 2).backward()", "if step % 2:", f"    {CLIP}", f"    {STEP}", f"    {ZERO}"),
    ),
    Script(
        "a scaler that unscales",
        (),
        20,
        (ZERO, SCALED, "scaler.unscale_(optimizer)", CLIP, "scaler.step(optimizer)", "scaler.update()"),
        SCALER,
    ),
    Script("by value", (), 20, (ZERO, BACKWARD, "nn.utils.clip_grad_value_(model.parameters(), 0.1)", STEP)),
)
FAULTY = (
    Script("after the step", ("CLIP101",), 0, (ZERO, BACKWARD, STEP, CLIP)),
    Script("before backward", ("CLIP102",), 0, (ZERO, CLIP, BACKWARD, STEP)),
    Script("before the loop", ("CLIP103",), 0, (ZERO, BACKWARD, STEP), CLIP),
    Script(
        "an iterator that is used up",
        ("CLIP105",),
        1,
        (ZERO, BACKWARD, "clip_grad_norm_(parameters, 1.0)", STEP),
        "parameters = model.parameters()",
    ),
    Script(
        "gradients, not parameters",
        ("CLIP106",),
        0,
        (ZERO, BACKWARD, "clip_grad_norm_([p.grad for p in model.parameters()], 1.0)", STEP),
    ),
    Script(
        "each micro-batch",
        ("CLIP108",),
        10,
        ("(loss / 2).backward()", CLIP, "if step % 2:", f"    {STEP}", f"    {ZERO}"),
    ),
    Script(
        "scaled gradients", ("CLIP301",), 20, (ZERO, SCALED, CLIP, "scaler.step(optimizer)", "scaler.update()"), SCALER
    ),
    Script("no clip at all", (), 0, (ZERO, BACKWARD, STEP)),
)


def written(script: Script, folder: Path) -> Path:
    path = folder / f"{script.name.replace(' ', '_').replace(',', '')}.py"
    text = PROGRAM.format(optimizer=script.optimizer, before=script.before, body="\n    ".join(script.body))
    path.write_text(text, encoding="utf-8")
    return path


def ran(folder: Path, *words: str | Path) -> tuple[str, float]:
    """What it printed, and its seconds."""
    start = time.perf_counter()
    path = os.pathsep.join([str(Path(words[0]).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(Path(clipcheck.__file__).parents[1])}
    done = subprocess.run([*map(str, words)], capture_output=True, text=True, env=environment, cwd=folder, timeout=900)
    return done.stdout + done.stderr, time.perf_counter() - start


def audited(script: Script, path: Path) -> bool:
    """Prints what the audit names; returns whether that is so."""
    report = path.with_suffix(".json")
    options = ("--output-format", "json", "--output-file", report)
    printed, seconds = ran(path.parent, sys.executable, "-m", "clipcheck.audit", *options, path)
    assert report.exists(), printed
    content = json.loads(report.read_text(encoding="utf-8"))
    (part,) = content["optimizers"]
    found = [*part["findings"], *content["findings"]]
    said = ", ".join(f"{one['code'] or 'note'} in {one['times']} of {one['of']}" for one in found)
    _, alone = ran(path.parent, sys.executable, path)
    print(f"{script.name}: {said or 'no fault'}; {part['steps']}; {seconds:.1f} s, alone {alone:.1f} s", flush=True)
    codes = tuple(one["code"] for one in found if one["is_fault"])
    return codes == script.codes and part["steps"].get("clipped", 0) == script.steps


def traced(commands: Path, path: Path) -> tuple[Path, float]:
    folder = path.with_suffix("")
    words = ("--pyscript", path, "--models-to-track", "model", "--output-dir", folder)
    printed, seconds = ran(path.parent, commands / "traincheck-collect", *words)
    assert folder.exists(), printed
    return folder, seconds


def checked(commands: Path, script: Script, path: Path, invariants: Path) -> None:
    """Prints how many invariants TrainCheck reports as violated."""
    folder, tracing = traced(commands, path)
    printed, seconds = ran(path.parent, commands / "traincheck-check", "-f", folder, "-i", invariants)
    told = re.findall(r"Total failed invariants: (\d+)/(\d+)", printed)
    print(f"{script.name}: violated, of all: {told}; traced in {tracing:.1f} s, checked in {seconds:.1f} s", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--traincheck", type=Path, help="the folder with TrainCheck's commands")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        paths = {script: written(script, Path(name)) for script in (*FAULTY, *RIGHT)}
        wrong = [script.name for script, path in paths.items() if not audited(script, path)]
        if options.traincheck:
            folder, _ = traced(options.traincheck, paths[RIGHT[0]])
            invariants = Path(name) / "invariants.json"
            _, seconds = ran(Path(name), options.traincheck / "traincheck-infer", "-f", folder, "-o", invariants)
            print(f"TrainCheck: {len(invariants.read_text().splitlines())} invariants in {seconds:.1f} s", flush=True)
            for script, path in paths.items():
                if script != RIGHT[0]:
                    checked(options.traincheck, script, path, invariants)
    print(f"named wrong: {', '.join(wrong)}" if wrong else "all as they should be")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
