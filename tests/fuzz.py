"""`make fuzz`: random modules around clipping idioms are checked and fixed, and nothing may be lost on the way.

A module is a random sentence of the grammar below, with comments, line breaks, tabs, backslashes and odd blanks put
between its tokens wherever Python allows them, in a file of Python, a notebook or Markdown. All of them are valid Python.
For each: nothing fails and nothing is called invalid, what comes out is Python where what went in was, a second fix finds
nothing to do, every comment is there once more and on its own, and the lines that no fix concerns are byte for byte the
same and in the same order. Every 50th is also tried on torch. What fails is printed as a module that was made as short as
leaving out lines makes it. Usage: fuzz.py [COUNT] [SEED]
"""

from __future__ import annotations

import ast
import io
import json
import random
import re
import sys
import time
import tokenize
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import NamedTuple

from clipcheck.catalogue import RULES
from clipcheck.documents.program import LINE_END
from clipcheck.documents.read import read
from clipcheck.engine.file import check_file
from clipcheck.rule import INVALID_SYNTAX, Fix, Safety, Verdict
from clipcheck.settings.keys import Settings

TRIED = 50  # one module in so many is tried on torch
ALL = Settings(codes=frozenset(RULES), fix=True)

# --- the grammar: `<name>` is one of the lines' alternatives, a name in capitals the same word throughout a module --------

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
        "from torch.cuda.amp import GradScaler, autocast\n", "from clipcheck.runtime import grad_norm\n",
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
        "for x in loader:\n    <steps>", "for i, (x, y) in enumerate(loader):\n    <steps>\n    if (i + 1) % 4 == 0:\n        <late>",
        "while True:\n    <steps>\n    if x: break", "with autocast() as a, open(x) as b:\n    <steps>",
        "for x in loader:\n    match x:\n        case {'a': 1, **rest} if rest:\n            <steps>\n        case [1, *_] | (2 | 3):\n            <keep>\n        case _: pass",
    ],
    "steps": [
        "<zero>\nloss = MODEL(x).sum()\n<amp>\n<clip>\nOPT.step()", "loss = MODEL(x)\nloss.backward()\n<norm>\n<clip>\n<late>",
        "loss = MODEL(x)\n<clip>\nloss.backward(); <call>; OPT.step()", "<amp>\nOPT.step()\n<clip>", "<amp>\n<hand>\nOPT.step()",
        "if x is not None:\n    if (n := len(x)) > 1:\n        <amp>\n        <clip>\n    else:\n        <keep>\nOPT.step()",
        "try:\n    <amp>\n    <clip>\nexcept (ValueError, OSError) as error:\n    <keep>\nfinally:\n    OPT.step()",
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
             "<function>(<params>, norm_type=2, max_norm=<limit>)", "<function>(MODEL, <limit>)", "<function>(*[<params>, <limit>])"],
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
    "keep": ["keep = 'é  \\t'\n", "keep: dict  = {'a' :1}\n", "keep  = (1 ,\n        2)\n", 'keep = f"{x!r:>{10}}"\n', "keep = PEP701\n",
             "keep = lambda *a, k=1: (yield_)\n", "keep = x if(y)else[ z ]\n", "(keep): int = 1\n", "keep = {**a, 'b': [*c]}\n", "keep = '''\n  # no\n'''\n"],
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
    """A random derivation of a symbol; what is put into a line has its further lines as deep as that line."""
    alternatives = GRAMMAR[symbol]
    text = rng.choice(alternatives) if depth < 12 else min(alternatives, key=lambda one: one.count("<"))
    while found := re.search(r"(?m)^(?P<lead> *)(?P<before>.*?)<(?P<name>[a-z]+)>(?P<ends>(?=\n))?", text):
        part = sentence(rng, found["name"], depth + 1)
        part = (part.removesuffix("\n") if found["ends"] is not None else part).replace("\n", "\n" + found["lead"])
        text = text[: found.start()] + found["lead"] + found["before"] + part + text[found.end() :]
    return text


def module(rng: random.Random) -> str:
    """A module of the grammar that is Python, without comments, its words chosen."""
    while True:
        words = {name: rng.choice(some) for name, some in WORDS.items()}
        text = re.sub(r"\b[A-Z]+\b", lambda found: words.get(found[0], found[0]), sentence(rng))
        text = re.sub(r"\bkeep\b", lambda found: f"keep_{rng.randrange(10**6)}", text)
        unit = rng.choice(["    ", "    ", "  ", "\t", "        "])
        text = re.sub(r"(?m)^(?:    )+", lambda found: unit * (len(found[0]) // 4), text)
        if is_python(text):
            return text


def is_python(text: str) -> bool:
    """Whether this interpreter reads the text; what only newer ones read is taken for what they read."""
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
    """The text with comments, blanks and line ends where Python allows them, each comment with a number of its own."""
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
    """What may stand between two tokens: inside brackets line ends and comments as well."""
    blank = rng.choice([" ", "  ", "\t", " \\\n  ", "\\\n", " \f "])
    if not depth or rng.random() < 0.3:
        return blank
    above = rng.choice(["\n", f"\n  {_comment(rng, numbers)}\n\n", f" {_comment(rng, numbers)}\n"])
    return f"{above}{rng.choice(['', '      '])}"


def _ending(rng: random.Random, numbers: Iterator[int], often: float, header: bool) -> str:
    """What may stand behind a logical line, and lines of comments and blanks below it."""
    end = ""
    if rng.random() < often:
        end = rng.choice(["  ", "\t", f"  {_comment(rng, numbers)}", f" {_comment(rng, numbers)} \t"])
        end = end if header else rng.choice(["", "", " ;"]) + end
    if rng.random() < often:
        end += f"\n{rng.choice(['', ' ', '    ', chr(9)])}{_comment(rng, numbers)}"
    if rng.random() < often / 4:
        end += rng.choice(["\n   ", "\n\f", "\n\n"])
    return end


# --- containers -------------------------------------------------------------------------------------------------------


class File(NamedTuple):
    name: str
    data: bytes


def file_of(rng: random.Random, text: str, container: str) -> File:
    """The text as a file of Python, or as cells or blocks among others."""
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
    """The text in two at the start of a top-level statement, where it has one in its middle."""
    if _without_newer(text) != text:
        return [text]
    lines = re.findall(r"[^\n]*\n|[^\n]+", text)
    body = ast.parse(text).body
    for above, node in zip(body[len(body) // 2 :], body[len(body) // 2 + 1 :]):
        first = min([node.lineno, *(one.lineno for one in getattr(node, "decorator_list", []))]) - 1
        if first > (above.end_lineno or 0) and not lines[first - 1].rstrip().endswith(("\\", "@")):
            return ["".join(lines[:first]), "".join(lines[first:])]
    return [text]


# --- what must hold ---------------------------------------------------------------------------------------------------


class Failure(NamedTuple):
    kind: str
    detail: str


def failure(file: File, settings: Settings) -> Failure | None:
    """What goes wrong with a file, if anything."""
    try:
        return _failure(file, settings)
    except Exception as error:
        return Failure("exception", f"{type(error).__name__}: {error}")


def _failure(file: File, settings: Settings) -> Failure | None:
    report = check_file(file.name, file.data, settings)
    if report.errors:
        return Failure("error", report.errors[0])
    for finding in report.findings:
        if finding.code == INVALID_SYNTAX:
            return Failure("false invalid-syntax", finding.message)
    if report.fixed_data is None:
        return None
    again = check_file(file.name, report.fixed_data, settings)
    if again.fixed_data is not None or again.errors:
        return Failure("not idempotent", (*again.errors, *(f"{f.code} {f.message}" for f in again.fixed))[0])
    if again.findings != report.findings:
        return Failure("another report", "what is left of the findings is not what a second look finds")
    before, after = ([p.written for p in read(file.name, data).programs] for data in (file.data, report.fixed_data))
    if all(map(is_python, before)) and not all(map(is_python, after)):
        return Failure("no longer Python", ", ".join(finding.code for finding in report.fixed))
    return _loss(file.name, file.data, report.fixed_data, before, after)


def _loss(name: str, data: bytes, fixed: bytes, before: list[str], after: list[str]) -> Failure | None:
    """A comment that is gone, doubled or behind which something else stands, or a changed line that no fix concerns."""
    was, now = (Counter(_comments(texts)) for texts in (before, after))
    for kind, differ in (("lost comment", was - now), ("new comment", now - was)):
        if differ:
            return Failure(kind, next(iter(differ)))
    for one, other in ((before, after), ([_outside(name, data)], [_outside(name, fixed)])):
        kept, left = (re.findall(r"(?m)^[^\w\n]*keep_.*", "\n".join(texts)) for texts in (one, other))
        if kept != left:
            return Failure("touched line", next((line for line in kept if line not in left), "in another order"))
    return None


def _outside(name: str, data: bytes) -> str:
    """What a file holds besides its code."""
    if not name.endswith(".ipynb"):
        return data.decode("utf-8-sig")
    book = json.loads(data)
    return json.dumps(
        [book, *(cell.pop("source", "") for cell in book["cells"] if cell["cell_type"] == "code")][0], indent=1
    )


def _comments(texts: list[str]) -> Iterator[str]:
    return (found.rstrip() for text in texts for found in TAG.findall(text))


# --- the run ----------------------------------------------------------------------------------------------------------


def case(seed: int, number: int) -> tuple[str, str, Settings, random.Random]:
    """Module number so many of a seed, the container to put it into, and the settings to check it with."""
    rng = random.Random(f"{seed} {number}")
    plain = module(rng)
    text = decorated(rng, plain)
    if not is_python(text):  # a tab or a break at a place where it means something
        text = plain
    # an older interpreter sees its fault in the string, whichever it is that LibCST does not read
    if "PEP701" in text and (sys.version_info >= (3, 12) or not re.search(r"\(\W*keep|\(\s*#.*\s*keep", text)):
        text = text.replace("PEP701", rng.choice(PEP701))
    container = rng.choice(["py", "py", "py", "py", "ipynb", "md"])
    settings = replace(ALL, safety=rng.choice(list(Safety)[1:]), target=rng.choice(["clipcheck", "clipcheck", "torch"]))
    return text, container, settings, rng


def reduced(text: str, fails: Callable[[str], bool]) -> str:
    """The text without the lines that it fails without, too, in stretches that become shorter and shorter."""
    lines = re.findall(r"[^\n]*\n|[^\n]+", text)
    size = len(lines) // 2
    while size:
        start = 0
        while start < len(lines):
            fewer = [*lines[:start], *lines[start + size :]]
            if fails("".join(fewer)):
                lines = fewer
            else:
                start += size
        size //= 2
    return "".join(lines)


def shortest(text: str, container: str, settings: Settings, rng: random.Random) -> tuple[str, Failure] | None:
    """None where all is well with a module, else the module made short and what is wrong with it."""
    state = rng.getstate()

    def looked_at(some: str) -> Failure | None:
        rng.setstate(state)
        return failure(file_of(rng, some, container), settings)

    found = looked_at(text)
    if found is None:
        return None

    def fails(some: str) -> bool:
        again = looked_at(some) if is_python(some) else None
        return again is not None and again.kind == found.kind

    short = reduced(text, fails)
    return short, looked_at(short) or found


def run(
    count: int, seed: int, prove: Callable[[str, Fix], Verdict] | None = None, say: Callable[[str], None] = print
) -> Counter[str]:
    """How many modules failed in which way; `prove` tries the fixes of one in `TRIED`."""
    kinds: Counter[str] = Counter()
    for number in range(count):
        text, container, settings, rng = case(seed, number)
        if prove is not None and number % TRIED == 0:
            settings = replace(settings, prove=prove)
        found = shortest(text, container, settings, rng)
        if found is not None:
            short, why = found
            kinds[why.kind] += 1
            say(
                f"--- module {number} of seed {seed}, .{container}, {settings.target}, {settings.safety.name}: {why.kind}: {why.detail}\n{short}"
            )
    return kinds


def main(count: int = 20_000, seed: int = 1) -> int:
    start = time.time()
    from clipcheck.verify.sites import Prover

    with Prover() as prover:
        kinds = run(count, seed, prover)
    print(f"{count} modules of seed {seed} in {time.time() - start:.0f} s: {dict(kinds) or 'all is well'}")
    return 1 if kinds else 0


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
