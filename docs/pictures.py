"""The pictures of the README and the site, made from what the programs themselves say.

    python docs/pictures.py terminal                what clipcheck prints about demo/train.py
    python docs/pictures.py speed RESULTS.json      the figure of a run of `clipcheck bench clip --json`

Both write SVG into docs/images/, with text as text: it can be read out, searched and copied.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from html import escape
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
IMAGES = ROOT / "docs" / "images"
COMMANDS = ("clipcheck --select CLIP001 train.py", "clipcheck --fix --verify train.py")

WIDTH, LINE, LEFT, TOP = 8.4, 20, 22, 58
BACKGROUND, TEXT, PROMPT = "#10181b", "#d3dde0", "#5ad1c0"
# By the numbers of the terminal's colours; bright ones are taken as the plain ones.
COLORS = {1: "#ff7b72", 2: "#7ee2a0", 3: "#f2c76b", 4: "#79b8ff", 5: "#d7a6ff", 6: "#5ad1c0", 7: TEXT, 0: "#7d8b90"}
_ESCAPE = re.compile(r"\x1b\[([\d;]*)m")


def terminal() -> str:
    """A terminal in which COMMANDS were run one after the other, as SVG."""
    with tempfile.TemporaryDirectory() as name:
        shutil.copy(ROOT / "demo" / "train.py", name)
        lines = [line for command in COMMANDS for line in run(command, Path(name))][:-1]
    columns = max(len(_ESCAPE.sub("", line)) for line in lines)
    width, height = round(2 * LEFT + columns * WIDTH), TOP + len(lines) * LINE + 8
    body = "\n".join(row(line, TOP + LINE * number) for number, line in enumerate(lines))
    dots = "".join(f'<circle cx="{LEFT + 20 * i}" cy="22" r="6" fill="#33444a"/>' for i in range(3))
    return f"""\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img">
<title>clipcheck finds a gradient norm computed with one .item() per parameter, shows its fix, and proves it</title>
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
    """A line of the terminal: runs of one style, each at its column, so that no font can shift what stands behind it."""
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


def main() -> None:
    IMAGES.mkdir(exist_ok=True)
    match sys.argv[1:]:
        case ["terminal"]:
            (IMAGES / "terminal.svg").write_text(terminal(), encoding="utf-8")
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main()
