"""
## What it does
Finds norms of single gradients that are read to the host one at a time, in a loop or a comprehension, to be stored or
logged.

## Why is this bad?
Every `.item()`, `float()` or `.cpu().numpy()` synchronizes with the device, once per parameter. Since each value is
wanted, a total norm cannot replace them, but all of them can be read at once.

## Why is this rule opt-in?
Code that logs the norm of each layer usually does so once in a while, where the cost does not matter.

## How to fix by hand
Compute all norms on the device, stack them, and synchronize once with `.tolist()`:

```python
named = [(name, p.grad) for name, p in model.named_parameters() if p.grad is not None]
norms = torch.stack(torch._foreach_norm([grad for _, grad in named])).tolist()
```

## Fix safety
There is no automatic fix: the new code depends on how the values are stored.

## When to suppress it
If the code runs rarely, or if the model is on the CPU, where reading a value does not synchronize.

## References
- pytorch/pytorch#31474
"""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from clipcheck.gradients.powers import Power, power
from clipcheck.gradients.series import clauses as clauses_of
from clipcheck.python.source import Source
from clipcheck.rule import Hit

MESSAGE = "synchronizes once per parameter to read its norm: stack the norms and read them once"
BY_HAND = "read them all at once: `torch.stack(torch._foreach_norm(gradients)).tolist()`"

_REPEATED = (cst.For, cst.ListComp, cst.GeneratorExp, cst.DictComp, cst.SetComp)


def check(source: Source) -> Iterator[Hit]:
    for call in source.nodes(cst.Call):
        found = power(source, call)
        if found is None or not found.synced or not found.exponent.is_one or not _is_read_here(source, call):
            continue
        if _repeats(source, call, found) and not _is_used_up(source, call):
            yield Hit(call, MESSAGE, help=BY_HAND)


def _is_read_here(source: Source, call: cst.Call) -> bool:
    """Whether this call itself reads the value: not one around it, and not an argument that was read before."""
    return not any((found := power(source, node)) and found.synced for node in source.walk(call) if node is not call)


def _repeats(source: Source, call: cst.Call, found: Power) -> bool:
    """Whether the call runs for one gradient after the other: the gradient comes from the loop's own variable."""
    around = source.enclosing(call, *_REPEATED, cst.FunctionDef, cst.Lambda)
    while isinstance(around, _REPEATED):
        if isinstance(around, cst.For):
            targets: list[cst.BaseExpression] = [around.target]
        else:
            targets = [clause.target for clause in clauses_of(around.for_in)]
        bound = {n.value for target in targets for n in source.walk(target) if isinstance(n, cst.Name)}
        used = {n.value for n in source.walk(found.gradient.node) if isinstance(n, cst.Name)}
        if bound & used:
            return True
        around = source.enclosing(around, *_REPEATED, cst.FunctionDef, cst.Lambda)
    return False


def _is_used_up(source: Source, call: cst.Call) -> bool:
    """Whether the value goes into a sum of squares, or is only compared."""
    for above in source.ancestors(call):
        match above:
            case cst.Arg():
                continue
            case cst.BinaryOperation(operator=cst.Power()) | cst.Comparison() | cst.Assert():
                return True
            case cst.BaseExpression():
                larger = power(source, above)
                if larger is None or larger.exponent.is_one:
                    continue
                return True
            case cst.Assign(targets=[cst.AssignTarget(target=cst.Name() as name)]):
                return _is_squared_later(source, name)
    return False


def _is_squared_later(source: Source, name: cst.Name) -> bool:
    uses = source.names.uses(source.scope(name).owner(name.value), name.value)
    return len(uses) == 1 and isinstance(source.parent(uses[0]), cst.BinaryOperation)
