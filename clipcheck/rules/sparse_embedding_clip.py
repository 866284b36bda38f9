"""
## What it does
Finds clipping calls for a model that contains `nn.Embedding(..., sparse=True)`.

## Why is this bad?
The gradient of such an embedding is a sparse tensor. Since torch 2.0, `clip_grad_norm_` and `clip_grad_value_` raise
NotImplementedError for it in the first step.

## How to fix by hand
Call `clipcheck.runtime.clip_grad_norm_`, which handles sparse gradients, exclude the embedding's parameters from
clipping, or drop `sparse=True`:

```python
dense = [p for name, p in model.named_parameters() if not name.startswith("embedding.")]
clip_grad_norm_(dense, max_norm)
```

## Fix safety
There is no automatic fix: each of these changes what is trained or how.

## When to suppress it
If the embedding is frozen, or its gradient is made dense before clipping.

## References
- pytorch/tutorials#2245, pytorch/pytorch#4829
"""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from clipcheck.python.source import Source
from clipcheck.rule import Hit
from clipcheck.training.calls import callee
from clipcheck.training.classes import is_module_class
from clipcheck.training.clips import clips
from clipcheck.training.parameters import assigned
from clipcheck.training.summaries import returned

BY_HAND = "call `clipcheck.runtime.clip_grad_norm_`, exclude its parameters, or drop `sparse=True`"


def check(source: Source) -> Iterator[Hit]:
    sparse = [call for call in source.nodes(cst.Call) if _is_sparse(source, call)]
    for clip in clips(source) if sparse else ():
        if not source.origin(clip.call.func).startswith("torch."):
            continue  # the runtime handles sparse gradients
        match clip.parameters:
            case cst.Call(func=cst.Attribute(value=model, attr=cst.Name("parameters"))):
                for embedding in sparse:
                    if _belongs(source, embedding, model):
                        where = source.where(embedding)
                        message = f"raises in the first step: the embedding on {where} has sparse gradients"
                        yield Hit(clip.call, message, None, BY_HAND, ((embedding, "sparse gradients"),))
                        break


def _is_sparse(source: Source, call: cst.Call) -> bool:
    return source.qualified(call.func) in ("torch.nn.Embedding", "torch.nn.EmbeddingBag") and any(
        arg.keyword is not None and arg.keyword.value == "sparse" and source.code(arg.value) == "True"
        for arg in call.args
    )


def _made(source: Source, model: cst.BaseExpression) -> cst.BaseExpression | None:
    """The expression that a model is assigned, or that the function of the file returns which makes it."""
    made = assigned(source, model)
    maker = callee(source, made) if isinstance(made, cst.Call) else None
    match returned(source, maker.function) if maker is not None else None:
        case [cst.Call() as value]:
            return value
        case [cst.Name() as name]:
            return assigned(source, name)
    return made


def _belongs(source: Source, embedding: cst.Call, model: cst.BaseExpression) -> bool:
    """Whether the embedding is the model itself, or an attribute that the model's class sets."""
    made = _made(source, model)
    if made is embedding:
        return True
    owner = source.enclosing(embedding, cst.ClassDef)
    if owner is None or not is_module_class(source, owner):
        return made is not None and any(node is embedding for node in source.walk(made))
    while isinstance(made, cst.Call) and isinstance(made.func, cst.Attribute):
        made = made.func.value  # Net().to(device)
    match made:
        case cst.Call(func=cst.Name() as name):
            return any(b.node is owner for b in source.bindings(name))
    return isinstance(model, cst.Name) and model.value == "self" and source.enclosing(model, cst.ClassDef) is owner
