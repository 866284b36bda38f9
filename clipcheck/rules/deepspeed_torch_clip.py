"""
## What it does
Finds torch's clip between `engine.backward(loss)` and `engine.step()` of a DeepSpeed engine.

## Why is this bad?
The engine keeps gradients in its own buffers and partitions, and unscales them in `step()`. A clip of `.grad` reaches
none of them, or only a part, and its effect is ignored.

## How to fix by hand
Delete the call, and set `max_norm` in the DeepSpeed configuration; `engine.get_global_grad_norm()` returns the norm:

```json
{"gradient_clipping": 1.0}
```

## Fix safety
No automatic fix: the configuration is often in another file.

## When to suppress it
Where the gradients belong to a model that DeepSpeed does not train.

## References
- https://www.deepspeed.ai/docs/config-json/#gradient-clipping
- deepspeedai/DeepSpeed#6480, axolotl-ai-cloud/axolotl#1381, huggingface/transformers#37566
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import libcst as cst

from clipcheck.python.source import Source
from clipcheck.rule import Hit
from clipcheck.training.acts import EventKind
from clipcheck.training.acts import is_deepspeed as is_engine
from clipcheck.training.flows import Event, flows

BY_HAND = 'set `"gradient_clipping"` in the DeepSpeed configuration'
_IMPORT = re.compile(r"\bdeepspeed\.initialize\b")


def check(source: Source) -> Iterator[Hit]:
    if not _IMPORT.search(source.text):
        return
    for flow in flows(source, EventKind.CLIP):
        for clip in flow.of(EventKind.CLIP):
            earlier = clip.first_before(EventKind.BACKWARD, EventKind.STEP)
            if earlier and not clip.wrapper and all(_runs_engine(source, event) for event in earlier):
                where = source.where(earlier[0].at)
                message = f"has no effect: the DeepSpeed engine on {where} keeps its own gradients"
                yield Hit(clip.at, message, None, BY_HAND, ((earlier[0].at, "the engine runs backward"),))


def _runs_engine(source: Source, event: Event) -> bool:
    match event.node:
        case cst.Call(func=cst.Attribute(value=receiver, attr=cst.Name("backward")), args=[_, *_]):
            return is_engine(source, receiver)
    return False
