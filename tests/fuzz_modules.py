"""The modules of `make fuzz`: sentences of a grammar of clipping idioms, with comments and blanks wherever Python allows.

All are valid Python, some only for newer interpreters. A module goes into a Python file, a notebook or Markdown.
"""

from __future__ import annotations

import ast
import io
import json
import random
import re
import tokenize
import warnings
from collections.abc import Iterator
from typing import NamedTuple

from clipcheck.documents.program import LINE_END

# --- the grammar: `<name>` is one of the alternatives, an uppercase name is the same word throughout a module -------------

GRAMMAR = {
    "module": ["<head><imports>\n<keep><def><more><tail>", "<imports><def><def><tail>", "<head><imports><block>\n<def>"],
    "head": ["", "", "#!/usr/bin/env python\n", '"""Trains."""\n', "from __future__ import annotations\n", "'a' 'b'\n"],
    "more": ["", "<def>", "<class>", "<keep>", "<class><def>"],
    "tail": ["", "if __name__ == '__main__':\n    train(MODEL, OPT)\n", "<keep>", "__all__ = ['train']\n"],
    "imports": ["<import><import><import>", "<import><keep><import>", "<import>import math; <import>", "import torch\n"],
    "import": [
        *["import torch\n"] * 3, "import torch.nn as nn\n", "import torch, os\n", "from torch import nn, autograd\n",
        "from torch.nn.utils import clip_grad_norm\n", "from torch.nn.utils import clip_grad_norm_ as clip\n",
        "from torch.nn.utils import (clip_grad_norm, clip_grad_value_,)\n", "from torch.nn import utils\n",
        "from torch.nn.utils.clip_grad import clip_grad_norm_, clip_grad_norm\n", "import torch.nn.utils as tools\n",
        "from torch._six import inf, string_classes\n", "from torch._six import inf\n", "import math\n", "import numpy as np\n",
        "try:\n    from torch.nn.utils import clip_grad_norm\nexcept ImportError:\n    clip_grad_norm = None\n",
        "from torch.cuda.amp import GradScaler, autocast\n", "from apex import amp\n", "from torch._six import inf as INF; import os\n",
        "from accelerate import Accelerator\n", "from torch.distributed.fsdp import FullyShardedDataParallel as FSDP\n", "from clipcheck.runtime import grad_norm\n",
        "if True:\n    from torch.nn.utils import clip_grad_norm\n", "from torch.nn.utils import *\n",
    ],
    "def": [
        "<deco>def train(MODEL, OPT, loader, args, SCALER=None)<gives>:\n    <doc><body>\n",
        "async def train(MODEL, OPT, loader):\n    async for x in loader:\n        await x\n        <steps>\n",
        "def measure(MODEL, params<annotated>):\n    <norm>\n    return TOTAL\n",
        "def measure(MODEL, params, *, p=2, **rest): <bare>; return TOTAL\n",
    ],
    "class": ["class Trainer(nn.Module if True else object):\n    <keep>\n    <deco>def step(self, MODEL, OPT, SCALER, x):\n        <body>\n"],
    "deco": ["", "", "@torch.no_grad()\n", "@(lambda f: f)\n", "@torch.compile\n@torch.no_grad()\n"],
    "gives": ["", "", " -> float", " -> 'torch.Tensor | None'"],
    "annotated": ["", ": list[torch.Tensor]", ": 'list' = ()", "=(), /, LIMIT=1.0"],
    "doc": ["", '"""Steps.\n\n      keepd\n    """\n    ', "'''One # line'''\n    "],
    "body": ["<norm>\n<keep>\n<loop>", "<loop>\n<norm>", "<loop>", "<norm>", "<norm>\n<hand>", "<block>", "<closure>"],
    "loop": [
        "for x in loader:\n    <steps>", "for i, x in enumerate(loader):\n    <order>", "for x in loader:\n    <order>", "for i, (x, y) in enumerate(loader):\n    <steps>\n    if (i + 1) % 4 == 0:\n        <late>",
        "while True:\n    <steps>\n    if x: break", "with autocast() as a, open(x) as b:\n    <steps>",
        "for x in loader:\n    match x:\n        case {'a': 1, **rest} if rest:\n            <steps>\n        case [1, *_] | (2 | 3):\n            <keep>\n        case _: pass",
    ],
    "steps": [
        "<zero>\nloss = MODEL(x).sum()\n<amp>\n<clip>\nOPT.step()", "loss = MODEL(x)\nloss.backward()\n<norm>\n<clip>\n<late>",
        "loss = MODEL(x)\n<clip>\nloss.backward(); <call>; OPT.step()", "<amp>\nOPT.step()\n<clip>", "<amp>\n<hand>\nOPT.step()",
        "if x is not None:\n    if (n := len(x)) > 1:\n        <amp>\n        <clip>\n    else:\n        <keep>\nOPT.step()",
        "try:\n    <amp>\n    <clip>\nexcept (ValueError, OSError) as error:\n    <keep>\nfinally:\n    OPT.step()",
    ],
    "order": [
        "with amp.scale_loss(loss, OPT) as scaled:\n    scaled.backward()\n    <clip>\nOPT.step()", "loss.backward()\n<clip>\n<zero>\nOPT.step()",
        "accelerator.backward(loss)\nif accelerator.sync_gradients:\n    <clip>\nOPT.step()", "loss.backward()\nif rank == 0:\n    <clip>\nOPT.step()",
        "loss = MODEL(x)\n(loss / 4).backward()\n<clip>\nif (i + 1) % 4 == 0:\n    OPT.step()\n    <zero>", "params = <params>\n<norm>\n<clip>",
        "SCALER.scale(loss).backward()\nSCALER.unscale_(OPT)\n<clip>\nif (i + 1) % 4 == 0:\n    <keep>\n    SCALER.step(OPT)\n    SCALER.update()",
        "loss.backward()\n<hand>\n<clip>\n<clip>\nOPT.step()", "<clip>\n<norm>\nprint(TOTAL)", "TOTAL = <call>\nTOTAL = TOTAL.item()\n<norm>",
        "<clip>\n<clip>\nOPT.step()", "for group in OPT.param_groups:\n    torch.nn.utils.clip_grad_norm_(group['params'], <limit>)",
    ],
    "late": ["<clip>\nOPT.step()\n<zero>", "SCALER.unscale_(OPT)\n<clip>\nSCALER.step(OPT); SCALER.update()", "OPT.step()\n<clip>", "<norm>\nOPT.step()"],
    "amp": ["SCALER.scale(loss).backward()\n<clip>\nSCALER.step(OPT)\nSCALER.update()", "loss.backward()", "loss.backward(); <keep>",
            "SCALER.scale(loss).backward()\nSCALER.unscale_(OPT)\n<clip>\nSCALER.step(OPT)\nSCALER.update()",
            "SCALER.scale(loss).backward()\nSCALER.step(OPT)\nSCALER.unscale_(OPT)\n<clip>"],
    "zero": ["OPT.zero_grad()", "OPT.zero_grad(set_to_none=True)", "pass"],
    "closure": ["def closure():\n    OPT.zero_grad()\n    loss = MODEL(x)\n    loss.backward()\n    <maybe>\n    return loss\n<clip>\nOPT.step(closure)"],
    "maybe": ["<clip>", "<keep>", "<norm>"],
    "clip": ["<call>", "<call>", "TOTAL = <call>", "if args.clip is not None:\n    <call>", "if args.clip: <call>", "<keep>\n<call>",
             "NORM = <call>.item()", "print(f'{<call>:.3f}')", "<call>; <call>", "MODEL.norm = <call>", "if (NORM := <call>) > 1: <keep>"],
    "call": ["<function>(<params>, <limit><kind>)"] * 5 + ["<function>(parameters=<params>, max_norm=<limit>)", "<value>(<params>, <limit>)",
             "<function>(<params>, norm_type=2, max_norm=<limit>)", "<function>(MODEL, <limit>)", "<function>(*[<params>, <limit>])",
             "accelerator.clip_grad_norm_(<params>, <limit>)", "<function>([P.grad for P in <params>], <limit>)", "<function>(<params>, <limit>, foreach=True)",
             "<function>(MODEL.parameters, <limit>)", "<function>(<params>, max_norm=<limit>, norm=2)", "<function>(max_norm=<limit>, parameters=params)"],
    "function": ["torch.nn.utils.clip_grad_norm_", "torch.nn.utils.clip_grad_norm", "clip_grad_norm", "clip_grad_norm_", "clip",
                 "nn.utils.clip_grad_norm", "utils.clip_grad_norm_", "tools.clip_grad_norm", "utils.clip_grad.clip_grad_norm_"],
    "value": ["torch.nn.utils.clip_grad_value_", "clip_grad_value_", "nn.utils.clip_grad_value_"],
    "params": ["MODEL.parameters()"] * 4 + ["params", "list(MODEL.parameters())", "(p for p in MODEL.parameters() if p.requires_grad)",
               "filter(lambda p: p.requires_grad, MODEL.parameters())", "[p for p in MODEL.parameters() if p.grad is not None]",
               "OPT.param_groups[0]['params']", "(MODEL).parameters()", "MODEL.encoder.parameters()"],
    "limit": ["1.0", "args.clip", "LIMIT", "5", "float('inf')", "inf", "math.inf", "(1.0)", "0.5 if x else 1.", "-1", "args['clip']"],
    "kind": ["", "", "", ", 2", ", norm_type=2.0", ", norm_type=inf", ", error_if_nonfinite=True"],
    "norm": [
        "<start>\nfor P in <params>:\n    <add>\n<root>", "<start>\nfor P in <params>:\n    if P.grad is not None:\n        <add>\n<root>",
        "<start>\nfor P in <params>:\n    if P.grad is None: continue\n    NORM = P.grad.data.norm(2)\n    TOTAL += NORM.item() ** 2\n<root>",
        "<start>\nfor name, P in MODEL.named_parameters():\n    <add>\n    <beside>\n<root>", "TOTAL = <total>", "<bare>", "params = <params>\n<norm>",
        "NORMS = [P.grad.norm(2) for P in <params> if P.grad is not None]\nTOTAL = torch.norm(torch.stack(NORMS), 2)",
        "NORMS = []\nfor P in <params>:\n    NORMS.append(P.grad.norm())\nTOTAL = torch.stack(NORMS).norm()",
        "<start>\nfor group in OPT.param_groups:\n    for P in group['params']:\n        <add>\n<root>",
        "<start>; count = 0\nfor P in <params>: <add>\n<root>",
    ],
    "bare": ["TOTAL = <total>", "TOTAL = sum(P.grad.norm() ** 2 for P in <params>) ** 0.5"],
    "total": [
        "torch.norm(torch.stack([torch.norm(P.grad.detach(), 2) for P in <params>]), 2)",
        "torch.sqrt(sum(P.grad.pow(2).sum() for P in <params> if P.grad is not None))", "max(P.grad.abs().max() for P in <params>)",
        "sum([P.grad.norm(2).item() ** 2 for P in <params>]) ** (1. / 2)", "np.sqrt(sum(P.grad.norm().item()**2 for P in <params>))",
        "math.sqrt(sum(P.grad.data.norm(2).item() ** 2 for P in <params>))",
        "torch.cat([P.grad.flatten() for P in <params>]).norm()", "torch.norm(torch.stack([P.norm() for P in <params>]))",
    ],
    "start": ["TOTAL = 0.0", "TOTAL = 0", "TOTAL = 0.", "TOTAL: float = 0.0", "TOTAL = torch.zeros(1)", "TOTAL = 0.0\n<keep>", "TOTAL = 1"],
    "add": ["TOTAL += P.grad.data.norm(2).item() ** 2", "TOTAL += P.grad.norm() ** 2", "TOTAL = TOTAL + torch.norm(P.grad, 2) ** 2",
            "NORM = P.grad.detach().data.norm(2)\nTOTAL += NORM.item() ** 2", "TOTAL += (P.grad ** 2).sum()", "TOTAL += P.grad.norm().item()",
            "NORM = P.grad.norm(2); TOTAL += NORM ** 2", "TOTAL += P.grad.pow(2).sum().item()", "TOTAL += P.grad.norm(3).item() ** 3"],
    "beside": ["print(name, P)", "<keep>", "count = 1", "print(f'{name!r:>{10}}'); <keep>", "P.grad.mul_(2)"],
    "root": ["TOTAL = TOTAL ** 0.5"] * 3 + ["TOTAL **= 0.5", "TOTAL = math.sqrt(TOTAL)", "NORM = TOTAL ** (1. / 2)", "print(TOTAL ** .5)",
             "TOTAL = torch.sqrt(TOTAL)", "TOTAL = np.sqrt(TOTAL)", "<keep>\nTOTAL = TOTAL ** (1 / 3)", "if x: TOTAL = TOTAL ** 0.5"],
    "hand": [
        "COEF = LIMIT / (TOTAL + 1e-6)\nif COEF < 1:\n    for P in <params>:\n        P.grad.data.mul_(COEF)",
        "if TOTAL > LIMIT:\n    for P in <params>:\n        P.grad *= LIMIT / TOTAL", "for P in <params>: P.grad.clamp_(-1, 1)",
        "COEF = min(1.0, args.clip / (TOTAL + 1e-6))\nfor P in MODEL.parameters():\n    P.grad.mul_(COEF)",
        "for P in MODEL.parameters():\n    torch.nn.utils.clip_grad_norm_(P, 1.0)", "for P in <params>:\n    P.grad.clamp(-1, 1)",
    ],
    "block": ["<norm>", "<loop>", "<call>", "if x:\n    <norm>\nelif y:\n    <clip>\nelse:\n    <keep>", "<hand>"],
    "keep": ["keep = 'é  \\t'\n", "keep: dict  = {'a' :1}\n", "keep  = (1 ,\n        2)\n", 'keep = f"{x!r:>{10}}"\n', "<rare>",
             "keep = lambda *a, k=1: (yield_)\n", "keep = x if(y)else[ z ]\n", "keep = {**a, 'b': [*c]}\n", "keep = '''\n  # no\n'''\n"],
    "rare": ["(keep): int = 1\n", "keep = PEP701\n", "keep = PEP701\n", "if keep_1:\n    keep = 1\nelse: pass\n", "keep = [x async for x in y]\n", "keep = x @ -y ** 2\n"],
}  # fmt: skip
PEP701 = ['f"{a["b"]}"', "f'{a['b']:>{w}}'", 'f"{"\\n".join(a)}"', 'f"{\n  a  # no\n}"', 'f"""{a["""b"""]!r}"""']
WORDS = {
    "TOTAL": ["total", "total_norm", "grad_norm", "норма", "sqsum", "clip_grad_norm_", "損失"], "P": ["p", "param", "parameter", "π"],
    "NORM": ["norm", "param_norm", "n", "total_norm"], "NORMS": ["norms", "grads", "all_norms"], "COEF": ["coef", "clip_coef", "scale"],
    "MODEL": ["model", "self.model", "net"], "OPT": ["optimizer", "opt", "optim"], "SCALER": ["scaler", "self.scaler"], "LIMIT": ["max_norm", "limit"],
}  # fmt: skip
COMMENTS = [
    "# {}",
    "#{}",
    "#  type: ignore {}",
    "# noqa: E501 {}",
    "# TODO(é): é 😀 {}",
    "#\t{}",
    "# fmt: off {}",
    "# a \\ 'b {}",
    "# pylint: disable=x {}",
]
TAG = re.compile(r"#[^\r\n]*?\bc\d+c[^\r\n]*")


def sentence(rng: random.Random, symbol: str = "module", depth: int = 0) -> str:
    """A random derivation of a symbol; further lines are indented like the line into which they are inserted."""
    alternatives = GRAMMAR[symbol]
    text = rng.choice(alternatives) if depth < 12 else min(alternatives, key=lambda one: one.count("<"))
    while found := re.search(r"(?m)^(?P<lead> *)(?P<before>.*?)<(?P<name>[a-z]+)>(?P<ends>(?=\n))?", text):
        part = sentence(rng, found["name"], depth + 1)
        part = (part.removesuffix("\n") if found["ends"] is not None else part).replace("\n", "\n" + found["lead"])
        text = text[: found.start()] + found["lead"] + found["before"] + part + text[found.end() :]
    return text


def module(rng: random.Random) -> str:
    """A valid module of the grammar, without comments, with its words chosen."""
    while not is_python(text := _with_words(rng, sentence(rng))):
        pass
    return text


def _with_words(rng: random.Random, text: str) -> str:
    words = {name: rng.choice(some) for name, some in WORDS.items()}
    unit = rng.choice(["    ", "    ", "  ", "\t", "        "])
    text = re.sub(r"\b[A-Z]+\b", lambda found: words.get(found[0], found[0]), text)
    text = re.sub(r"\bkeep\b", lambda found: f"keep_{rng.randrange(10**6)}", text)
    return re.sub(r"(?m)^(?:    )+", lambda found: unit * (len(found[0]) // 4), text)


def is_python(text: str) -> bool:
    """Whether this interpreter accepts the text; syntax of newer versions is assumed to be valid."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ast.parse(_without_newer(text))
    except SyntaxError:
        return False
    return True


def _without_newer(text: str) -> str:
    for newer in PEP701:
        for written in (newer, newer.replace("\n", "\r\n")):
            text = text.replace(written, "PEP701")
    return text


# --- odd white space and comments between the tokens ------------------------------------------------------------------


def decorated(rng: random.Random, text: str) -> str:
    """The text with comments, blanks and line ends where Python allows them; each comment has a different number."""
    often = rng.choice([0.0, 0.02, 0.1, 0.4])
    numbers = iter(range(10**6))
    pieces: list[str] = []
    depth, at, inside = 0, 0, 0
    first = last = ""  # tokens of the logical line
    starts = [0, *(end.end() for end in LINE_END.finditer(text))]
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        name = tokenize.tok_name[token.type]
        start = min(starts[min(token.start[0], len(starts)) - 1] + token.start[1], len(text))
        pieces.append(text[at:start])
        if name == "NEWLINE":
            pieces.append(_ending(rng, numbers, often, last == ":" or first == "@"))
        elif first and name not in ("NL", "ENDMARKER") and not inside and rng.random() < often:
            pieces.append(_gap(rng, numbers, depth))
        pieces.append(token.string)
        if name not in ("NL", "INDENT", "DEDENT", "COMMENT"):
            first, last = ("", "") if name == "NEWLINE" else (first or token.string, token.string)
        inside += (name == "FSTRING_START") - (name == "FSTRING_END")
        depth += (token.string in ("(", "[", "{")) - (token.string in (")", "]", "}")) if name == "OP" else 0
        at = start + len(token.string)
    return "".join(pieces)


def _comment(rng: random.Random, numbers: Iterator[int]) -> str:
    return rng.choice(COMMENTS).format(f"c{next(numbers)}c")


def _gap(rng: random.Random, numbers: Iterator[int], depth: int) -> str:
    """What may come between two tokens: inside brackets, also line ends and comments."""
    blank = rng.choice([" ", "  ", "\t", " \\\n  ", "\\\n", " \f "])
    if not depth or rng.random() < 0.3:
        return blank
    above = rng.choice(["\n", f"\n  {_comment(rng, numbers)}\n\n", f" {_comment(rng, numbers)}\n"])
    return f"{above}{rng.choice(['', '      '])}"


def _ending(rng: random.Random, numbers: Iterator[int], often: float, header: bool) -> str:
    """What may follow a logical line, and lines of comments and blanks below it."""
    end = ""
    if rng.random() < often:
        end = rng.choice(["  ", "\t", f"  {_comment(rng, numbers)}", f" {_comment(rng, numbers)} \t"])
        end = end if header else rng.choice(["", "", " ;"]) + end
    if rng.random() < often:
        end += f"\n{rng.choice(['', ' ', '    ', chr(9)])}{_comment(rng, numbers)}"
    if rng.random() < often / 4:
        end += rng.choice(["\n   ", "\n\f", "\n\n", "\n\n\n" if rng.random() < 0.9 else "\n\\"])
    return end


# --- containers -------------------------------------------------------------------------------------------------------


class File(NamedTuple):
    name: str
    data: bytes


def file_of(rng: random.Random, text: str, container: str) -> File:
    """The text as a Python file, or as cells or blocks among others."""
    match container:
        case "ipynb":
            parts = _parts(text)
            split = rng.random() < 0.7
            cells = [_cell(re.findall(r"[^\n]*\n|[^\n]+", part) if split else part) for part in parts]
            cells.insert(
                rng.randrange(len(cells) + 1), {"cell_type": "markdown", "metadata": {}, "source": ["keep_é\n"]}
            )
            metadata = {"kernelspec": {"language": "python", "name": "keep_x"}}
            book = {"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}
            written = json.dumps(book, indent=rng.choice([1, None]), ensure_ascii=rng.random() < 0.5)
            return File("x.ipynb", (written + rng.choice(["\n", ""])).encode())
        case "md":
            margin = rng.choice(["", "", "> ", "   "])
            fence = f"{'- ' if margin == '  ' else ''}```python title='x'\n{text}{'' if text.endswith(chr(10)) else chr(10)}```\n"
            block = "".join(margin + line for line in re.findall(r"[^\n]*\n", fence))
            return File("x.md", f"# keep_1  \n\n{block}\nkeep_2 `code`\n\n```bash\nkeep_3\n```\n".encode())
    if rng.random() < 0.2:
        text = text.replace("\n", "\r\n")
    text = text.rstrip("\r\n") if rng.random() < 0.2 else text
    return File("x.py", (b"\xef\xbb\xbf" if rng.random() < 0.1 else b"") + text.encode())


def _cell(source: object) -> dict[str, object]:
    return {"cell_type": "code", "execution_count": None, "metadata": {}, "outputs": [], "source": source}


def _parts(text: str) -> list[str]:
    """The text split in two at a top-level statement near the middle, if there is one."""
    if _without_newer(text) != text:
        return [text]
    lines = re.findall(r"[^\n]*\n|[^\n]+", text)
    body = ast.parse(text).body
    for node in body[len(body) // 2 :]:
        parts = ["".join(lines[: node.lineno - 1]), "".join(lines[node.lineno - 1 :])]
        if all(parts) and all(map(is_python, parts)):
            return parts
    return [text]
