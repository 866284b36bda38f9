"""A recorded session of an interpreter: what was typed is the program, prompts and output are around it."""

from __future__ import annotations

import re
from collections.abc import Sequence

# `>>> `, `... `, and IPython's `In [1]: `, `   ...: `; a prompt with nothing after it ends a block.
_PROMPT = re.compile(r"[ \t]*(?:>>>|\.\.\.:?|In \[\d+\]:)(?: |$)")
_FIRST = re.compile(r"[ \t]*(?:>>>|In \[\d+\]:) ")


def is_session(lines: Sequence[str]) -> bool:
    """Whether the first line with text in it begins with an interpreter's prompt."""
    return any(_FIRST.match(line) for line in [line for line in lines if line.strip()][:1])


def typed(lines: Sequence[str]) -> list[str]:
    """What was typed on each line of a session, as the end of that line; nothing on lines of output."""
    prompts = [_PROMPT.match(line) for line in lines]
    return ["" if prompt is None else line[prompt.end() :] for line, prompt in zip(lines, prompts, strict=True)]
