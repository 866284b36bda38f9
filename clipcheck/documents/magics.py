"""IPython's own syntax, masked by Python of the same length so that a cell parses and every offset stays true."""

from __future__ import annotations

import re

# Cell magics whose body is Python of the notebook's own namespace.
_TRANSPARENT = frozenset("capture debug heat memit mprun prun pypy snakeviz tab time timeit wandb".split())
# Cell magics whose body is a separate Python program, run or written elsewhere.
_APART = frozenset("python python3 writefile file".split())
_TORCH_TABS = frozenset({"pytorch", "torch", "all"})

_CELL_MAGIC = re.compile(r"[ \t]*%%(\w+)[ \t]*([^\r\n]*)")
_LINE_MAGIC = re.compile(
    r"""(?P<lead>[ \t]*)(?:
        %time[ \t](?=[ \t]*[\w(\[])(?![ \t]*(?:async|class|def|for|if|match|try|while|with)\b)(?P<code>[^\r\n]*)
      | (?:%|!|\?)[^\r\n]*
      | (?:pip3?|conda|mamba)[ \t]+(?:install|uninstall|list)\b[^\r\n]*
      | %{0,2}[\w.*]+(?:\[-?\d+\])*\?\??[ \t]*(?:\#[^\r\n]*)?(?=[\r\n]|\Z)
    )""",
    re.VERBOSE,
)
# `files = !ls` and `timing = %timeit -o f()`: the name is bound, to an unknown value.
_ASSIGNED_MAGIC = re.compile(r"(?P<lead>[ \t]*[A-Za-z_][\w ,.*()\[\]]*=[ \t]*)[%!][^\r\n]*")
_TOKEN = re.compile(
    r'''(?P<string>"""(?:[^\\]|\\.)*?(?:"""|\Z)|\'\'\'(?:[^\\]|\\.)*?(?:\'\'\'|\Z)|"(?:[^"\\\r\n]|\\.)*"?|'(?:[^'\\\r\n]|\\.)*'?)
      | (?P<comment>\#[^\r\n]*)
      | (?P<joined>\\(?:\r\n|\n|\r))
      | (?P<end>\r\n|\n|\r)
      | (?P<open>[(\[{])
      | (?P<close>[)\]}])
      | [^"'#\\\r\n()\[\]{}]+
      | .''',
    re.VERBOSE | re.DOTALL,
)
_SURROGATE = re.compile("[\ud800-\udfff]")


def masked(cell: str) -> tuple[str, bool] | None:
    """The cell as Python of the same length, and whether it is separate from its neighbors; None if it is not Python."""
    text, apart, start = cell, False, 0
    while magic := _CELL_MAGIC.match(text, _first_text(text, start)):
        name, rest = magic.groups()
        if name in _APART and (not name.endswith("file") or rest.strip().endswith(".py")):
            apart = True
        elif name not in _TRANSPARENT or (name == "tab" and not _TORCH_TABS & set(re.findall(r"\w+", rest))):
            return None
        text = text[: magic.start()] + _placeholder(magic.group()) + text[magic.end() :]
        start = magic.end()
    return _SURROGATE.sub("\ufffd", _without_line_magics(text)), apart


def _first_text(text: str, start: int) -> int:
    """The start of the first line from `start` on that is not blank."""
    blank = re.compile(r"[ \t]*(?:\r\n|\n|\r)").match
    while found := blank(text, start):
        start = found.end()
    return start


def _without_line_magics(text: str) -> str:
    """Mask magics where a logical line begins: inside brackets and strings `%` is an operator and `!` is text."""
    if not re.search(r"[%!?]|\b(?:pip3?|conda|mamba)\b", text):
        return text
    pieces: list[str] = []
    at, depth, begins = 0, 0, True
    while at < len(text):
        if begins and (magic := _LINE_MAGIC.match(text, at) or _ASSIGNED_MAGIC.match(text, at)):
            end = _end_of_joined_lines(text, magic.end())
            pieces.append(_mask(magic, text[at:end]))
            at = end  # of the line
            continue
        token = _TOKEN.match(text, at)
        assert token is not None
        kind = token.lastgroup
        depth = max(depth + (kind == "open") - (kind == "close"), 0)
        begins = kind == "end" and depth == 0
        pieces.append(token.group())
        at = token.end()
    return "".join(pieces)


def _end_of_joined_lines(text: str, end: int) -> int:
    """Where a shell command ends that continues after backslashes."""
    while text[:end].endswith("\\") and (more := re.compile(r"(?:\r\n|\n|\r)[^\r\n]*").match(text, end)):
        end = more.end()
    return end


def _mask(magic: re.Match[str], text: str) -> str:
    lead = magic.group("lead")
    code = magic.groupdict().get("code")
    if code is not None:  # `%time step()` runs what follows
        return lead + "_;".ljust(len(text) - len(lead) - len(code)) + code
    return lead + _placeholder(text[len(lead) :])


def _placeholder(text: str) -> str:
    """`_` and blanks, as long as `text` and with its line ends: the name of IPython's last output, so of anything."""
    return "_" + re.sub(r"[^\r\n]", " ", text[1:])
