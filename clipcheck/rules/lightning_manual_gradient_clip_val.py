"""
## What it does
Finds `Trainer(gradient_clip_val=...)` in a file whose LightningModule sets `automatic_optimization = False`.

## Why is this bad?
Under manual optimization Lightning does not clip: it raises a MisconfigurationException when training starts.

## How to fix by hand
Remove the argument from the `Trainer` and clip in `training_step`:

```python
self.manual_backward(loss)
self.clip_gradients(optimizer, gradient_clip_val=max_norm, gradient_clip_algorithm="norm")
optimizer.step()
```

Under 16-mixed precision see also CLIP301: only the optimizer's step unscales.

## Fix safety
No automatic fix: where to clip depends on how `training_step` runs `backward()` and its steps.

## When to suppress it
Where the `Trainer` trains another LightningModule, with automatic optimization.

## References
- https://lightning.ai/docs/pytorch/stable/common/optimization.html
- Lightning-AI/pytorch-lightning#7698, #6328, galilai-group/stable-pretraining#246
"""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from clipcheck.python.names import last_name
from clipcheck.python.source import Source
from clipcheck.rule import Hit
from clipcheck.training.lightning import lightning_modules, manual_at

MESSAGE = "raises an error when training starts: Lightning does not clip under manual optimization"
BY_HAND = "call `self.clip_gradients(optimizer, gradient_clip_val=…)` in `training_step`"


def check(source: Source) -> Iterator[Hit]:
    modules = list(lightning_modules(source))
    manual = [place for module in modules if (place := manual_at(source, module)) is not None]
    if not modules or len(manual) != len(modules):
        return
    for call in source.nodes(cst.Call):
        if last_name(call.func) == "Trainer" and _is_lightning(source, call):
            for arg in call.args:
                named = arg.keyword is not None and arg.keyword.value == "gradient_clip_val"
                if named and source.code(arg.value) not in ("None", "0", "0.0"):
                    yield Hit(arg, MESSAGE, None, BY_HAND, ((manual[0], "optimization is manual here"),))


def _is_lightning(source: Source, call: cst.Call) -> bool:
    return source.origin(call.func).startswith(("lightning", "pytorch_lightning"))
