"""The pictures of the README and the site.

    python docs/pictures.py

writes docs/images/terminal.svg from what clipcheck prints about demo/train.py, docs/images/step.svg from
docs/figures/step-h200.json, what `clipcheck bench step` printed, and docs/images/speed.svg from
docs/figures/clip-h100.json, the rows of a `clipcheck bench clip --json`. Text stays text: it can be read aloud, searched
and copied. All are dark cards, which can be read on a light page and on a dark one.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
IMAGES = ROOT / "docs" / "images"
FIGURES = ROOT / "docs" / "figures" / "clip-h100.json"
STEPS = ROOT / "docs" / "figures" / "step-h200.json"
COMMANDS = ("clipcheck --select CLIP001 train.py", "clipcheck --fix --verify train.py")

WIDTH, LINE, LEFT, TOP = 8.4, 20, 22, 58
BACKGROUND, TEXT, PROMPT = "#10181b", "#d3dde0", "#5ad1c0"
# By the numbers of the terminal's colors; bright ones are drawn as the plain ones.
COLORS = {1: "#ff7b72", 2: "#7ee2a0", 3: "#f2c76b", 4: "#79b8ff", 5: "#d7a6ff", 6: "#5ad1c0", 7: TEXT, 0: "#7d8b90"}
_ESCAPE = re.compile(r"\x1b\[([\d;]*)m")


# --- the terminal -----------------------------------------------------------------------------------------------------


def terminal() -> str:
    """A terminal in which COMMANDS were run one after the other, as SVG."""
    with tempfile.TemporaryDirectory() as name:
        shutil.copy(ROOT / "demo" / "train.py", name)
        (Path(name) / "requirements.txt").write_text("clipcheck\ntorch\n")  # else a note on stderr asks for it
        lines = [line for command in COMMANDS for line in run(command, Path(name))][:-1]
    columns = max(len(_ESCAPE.sub("", line)) for line in lines)
    width, height = round(2 * LEFT + columns * WIDTH), TOP + len(lines) * LINE + 8
    body = "\n".join(row(line, TOP + LINE * number) for number, line in enumerate(lines))
    dots = "".join(f'<circle cx="{LEFT + 20 * i}" cy="22" r="6" fill="#33444a"/>' for i in range(3))
    return f"""\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img">
<title>clipcheck finds a gradient norm computed with one .item() per parameter, shows its fix, and verifies it</title>
<style>
text {{ font: 14px ui-monospace, "Cascadia Code", "SF Mono", Menlo, "DejaVu Sans Mono", monospace; fill: {TEXT};
       white-space: pre; }}
.b {{ font-weight: 700; }}
</style>
<rect width="{width}" height="{height}" rx="10" fill="{BACKGROUND}"/>
{dots}
{body}
</svg>
"""


def run(command: str, folder: Path) -> Iterator[str]:
    """The lines that a command prints, below the prompt that it was typed at, and an empty one."""
    words = [sys.executable, "-m", "clipcheck", *command.split()[1:], "--color", "always"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True)
    if done.stderr or done.returncode not in (0, 1):
        sys.exit(f"`{command}` ended with {done.returncode}: {done.stderr}")
    yield f"\x1b[1;36m$\x1b[0m \x1b[1m{command}\x1b[0m"
    yield from done.stdout.rstrip("\n").split("\n")
    yield ""


def row(line: str, y: int) -> str:
    """A line of the terminal: runs of one style, each at its column, so that no font can move what follows."""
    pieces: list[str] = []
    column, style = 0, ""
    for index, part in enumerate(_ESCAPE.split(line)):
        if index % 2:
            style = styled(part, style)
        elif part:
            x, length = LEFT + column * WIDTH, len(part) * WIDTH
            pieces.append(f'<tspan x="{x:.1f}" textLength="{length:.1f}"{style}>{escape(part)}</tspan>')
            column += len(part)
    return f'<text y="{y}">{"".join(pieces)}</text>'


def styled(codes: str, style: str) -> str:
    """The attributes for a terminal's codes (`1;31`), which add to those that hold already until a 0."""
    for code in map(int, codes.split(";") if codes else ["0"]):
        if code == 0:
            style = ""
        elif code == 1:
            style += ' class="b"'
        elif 30 <= code <= 37 or 90 <= code <= 97:
            style = re.sub(r' style="[^"]*"', "", style) + f' style="fill:{COLORS[code % 10]}"'
    return style


# --- speed ------------------------------------------------------------------------------------------------------------

LOOP, TORCH, OURS = "norm(2).item()**2 loop", "torch", "clipcheck"
CASES = {"no clip": "nothing to clip", "clip": "clipped"}
# How the benchmark's workloads are called by those who train such models; another one keeps its own name.
MODELS = {
    "10x1M": "10 tensors of a million",
    "resnet50": "ResNet-50",
    "gpt2": "GPT-2 124M",
    "gpt2-bf16": "GPT-2 124M, bfloat16",
    "gpt2-xl": "GPT-2 XL 1.5B",
    "2000x64": "2,000 tensors of 64",
    "1x100M": "1 tensor of 100 million",
    "7b-bf16": "LLaMA 7B, bfloat16",
}
SPEED_WIDTH, NAMES, PLOT_LEFT, PLOT_RIGHT, BAR, PLOT_TOP = 680, 192, 244, 650, 12, 96
MUTED, LOOP_COLOR = "#8fa1a7", "#f2a65a"
OURS_COLORS = {"no clip": "#5ad1c0", "clip": "#2f9c8d"}


def speed(measured: dict[str, Any]) -> str:
    """Bars of the times relative to torch's, two a workload, and a mark where a hand-written loop ends, as SVG."""
    ratios = {(row["workload"], row["case"], row["peer"]): row["ratio"] for row in measured["rows"]}
    workloads = list(dict.fromkeys(workload for workload, _, _ in ratios))
    longest = max(ratio for (_, _, peer), ratio in ratios.items() if peer in (LOOP, TORCH, OURS))
    scale = (PLOT_RIGHT - PLOT_LEFT) / longest
    step = 2 * (BAR + 3) + 14
    bottom = PLOT_TOP + len(workloads) * step
    groups = [
        line
        for number, workload in enumerate(workloads)
        for line in group(workload, PLOT_TOP + number * step, ratios, scale)
    ]
    at_torch = PLOT_LEFT + scale
    machine = measured["machine"]
    under = f"{machine['device']}, torch {machine['torch']}, {machine['date']}: clipcheck bench clip"
    return f"""\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {SPEED_WIDTH} {bottom + 40}" width="{SPEED_WIDTH}" height="{bottom + 40}" role="img">
<title>The time of clipcheck's clip_grad_norm_ relative to torch's, with nothing to clip and clipped</title>
<style>
text {{ font: 14px system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; fill: {TEXT}; }}
.small {{ font-size: 12px; fill: {MUTED}; }}
.number {{ font-size: 12px; font-weight: 600; }}
.right {{ text-anchor: end; }}
.title {{ font-size: 17px; font-weight: 600; }}
</style>
<rect width="{SPEED_WIDTH}" height="{bottom + 40}" rx="10" fill="{BACKGROUND}"/>
<text class="title" x="{LEFT}" y="34">Time of clip_grad_norm_, relative to torch’s</text>
<text class="small" x="{LEFT}" y="56">Shorter is faster. <tspan fill="{OURS_COLORS["no clip"]}">▬ clipcheck, nothing to clip</tspan> \
 <tspan fill="{OURS_COLORS["clip"]}">▬ clipcheck, clipped</tspan>  <tspan fill="{LOOP_COLOR}">◆ a loop with .item()</tspan></text>
<text class="small" x="{at_torch:.1f}" y="{PLOT_TOP - 10}" text-anchor="middle">torch</text>
{chr(10).join(groups)}
<path d="M{at_torch:.1f} {PLOT_TOP - 4}V{bottom - 8}" stroke="{TEXT}" stroke-dasharray="3 3"/>
<text class="small" x="{LEFT}" y="{bottom + 20}">{escape(under)}</text>
</svg>
"""


def group(workload: str, top: int, ratios: dict[tuple[str, str, str], float], scale: float) -> Iterator[str]:
    """A workload's name beside its two bars."""
    yield f'<text class="right" x="{NAMES}" y="{top + BAR + 6}">{escape(MODELS.get(workload, workload))}</text>'
    for line, case in enumerate(CASES):
        y = top + line * (BAR + 3)
        ours, loop = ratios[workload, case, OURS], PLOT_LEFT + ratios[workload, case, LOOP] * scale
        length = ours * scale
        yield (
            f'<rect x="{PLOT_LEFT}" y="{y}" width="{length:.1f}" height="{BAR}" rx="2" fill="{OURS_COLORS[case]}">'
            f"<title>{CASES[case]}: {ours:.2f} of torch’s time</title></rect>"
        )
        yield f'<text class="number right" x="{PLOT_LEFT - 8}" y="{y + BAR - 1}">{ours:.2f}</text>'
        yield f'<path d="M{PLOT_LEFT + length:.1f} {y + BAR / 2:g}H{loop:.1f}" stroke="{LOOP_COLOR}" opacity=".35"/>'
        yield f'<path d="M{loop:.1f} {y}l6 6l-6 6l-6 -6z" fill="{LOOP_COLOR}"/>'


# --- a training step ----------------------------------------------------------------------------------------------------

CLIPS = {
    "loop": ("a loop with .item()", LOOP_COLOR),
    "torch": ("torch", "#9db4c0"),
    "clipcheck": ("clipcheck", OURS_COLORS["no clip"]),
}
STEP_LEFT, STEP_TOP = 230, 92


def step(measured: dict[str, Any]) -> str:
    """Bars of what each way to clip adds to a training step, in percent of the step, as SVG."""
    rows = measured["rows"]
    scale = (SPEED_WIDTH - STEP_LEFT - 80) / max(row[clip] for row in rows for clip in CLIPS)
    height = 3 * (BAR + 3) + 16
    bottom = STEP_TOP + len(rows) * height
    bars = [line for number, row in enumerate(rows) for line in step_bars(row, STEP_TOP + number * height, scale)]
    keys = "  ".join(f'<tspan fill="{color}">▬ {escape(name)}</tspan>' for name, color in CLIPS.values())
    machine = measured["machine"]
    under = f"{machine['device']}, torch {machine['torch']}, {machine['date']}: {machine['command']}"
    return f"""\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {SPEED_WIDTH} {bottom + 36}" width="{SPEED_WIDTH}" height="{bottom + 36}" role="img">
<title>What gradient clipping adds to the time of a training step: a loop with .item(), torch, clipcheck</title>
<style>
text {{ font: 14px system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; fill: {TEXT}; }}
.small {{ font-size: 12px; fill: {MUTED}; }}
.number {{ font-size: 12px; font-weight: 600; }}
.right {{ text-anchor: end; }}
.title {{ font-size: 17px; font-weight: 600; }}
</style>
<rect width="{SPEED_WIDTH}" height="{bottom + 36}" rx="10" fill="{BACKGROUND}"/>
<text class="title" x="{LEFT}" y="34">Time that gradient clipping adds to a training step</text>
<text class="small" x="{LEFT}" y="58">Less is better.  {keys}</text>
{chr(10).join(bars)}
<text class="small" x="{LEFT}" y="{bottom + 18}">{escape(under)}</text>
</svg>
"""


def step_bars(row: dict[str, Any], top: int, scale: float) -> Iterator[str]:
    """A model's name and its step beside one bar per way to clip; below zero is noise, and drawn as nothing."""
    model, _, batch = row["model"].partition(", ")
    yield f'<text class="right" x="{STEP_LEFT - 14}" y="{top + BAR + 5}">{escape(model)}</text>'
    under = f"{batch}, {row['step_ms']} ms"
    yield f'<text class="small right" x="{STEP_LEFT - 14}" y="{top + 2 * BAR + 11}">{escape(under)}</text>'
    for line, (clip, (name, color)) in enumerate(CLIPS.items()):
        y, length = top + line * (BAR + 3), max(row[clip], 0.0) * scale + 1
        yield f'<rect x="{STEP_LEFT}" y="{y}" width="{length:.1f}" height="{BAR}" rx="2" fill="{color}"><title>{name}</title></rect>'
        yield f'<text class="number" x="{STEP_LEFT + length + 6:.1f}" y="{y + BAR - 1}">{percent(row[clip])}</text>'


def percent(part: float) -> str:
    return f"{100 * part:+.1f} %".replace("-", "−")


def main() -> None:
    IMAGES.mkdir(exist_ok=True)
    (IMAGES / "terminal.svg").write_text(terminal(), encoding="utf-8")
    (IMAGES / "step.svg").write_text(step(json.loads(STEPS.read_text(encoding="utf-8"))), encoding="utf-8")
    (IMAGES / "speed.svg").write_text(speed(json.loads(FIGURES.read_text(encoding="utf-8"))), encoding="utf-8")


if __name__ == "__main__":
    main()
