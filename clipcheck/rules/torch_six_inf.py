"""
## What it does
Finds imports from `torch._six`, a private module that was removed in torch 2.0, and uses such as `torch._six.inf`.

## Why is this bad?
The import raises `ModuleNotFoundError`, so the whole file cannot be imported; a use without the import raises
`AttributeError`. Most often, functions that compute a gradient norm use it for the constant `inf`.

## How to fix by hand
Import `inf` from `math`, and use the standard library for the other names: `collections.abc` for `container_abcs`, `str`
for `string_classes`, `int` for `int_classes`.

```python
from math import inf
```

## Fix safety
Safe for `inf`: it is the same float, from `math` or as `torch.inf`. The other names are reported without an automatic
fix.

## When to suppress it
In code that only ever runs on torch 1.x. Imports inside a `try` or a version check are not reported.

## References
- facebookresearch/mae#172, NVIDIA/Megatron-LM#534, VITA-Group/SLaK#18, facebookresearch/fairscale#1106
- pytorch/pytorch#94709
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import libcst as cst

from clipcheck.fixes.import_lines import in_the_place_of
from clipcheck.fixes.verbs import replace
from clipcheck.python.names import dotted
from clipcheck.python.source import Source
from clipcheck.rule import Edit, Fix, Hit, Safety

MESSAGE = "`torch._six` was removed in torch 2.0: this import raises ModuleNotFoundError"
USE = "`torch._six` was removed in torch 2.0: this raises AttributeError"
TITLE = "Use `torch.inf`"
IMPORT = "Import `inf` from `math`"
BY_HAND = "use `math.inf`, `collections.abc`, `str` and `int` instead of its names"
_VERSION = re.compile(r"version|\btorch_?(\d|major|minor)|hasattr|find_spec", re.IGNORECASE)


def check(source: Source) -> Iterator[Hit]:
    for node in source.nodes(cst.ImportFrom):
        if node.module is not None and not node.relative and dotted(node.module) == "torch._six":
            if not _is_guarded(source, node):
                fix = _fix(source, node)
                yield Hit(node, MESSAGE, fix, "" if fix else BY_HAND)
        elif node.module is not None and not node.relative and dotted(node.module) == "torch":
            names = () if isinstance(node.names, cst.ImportStar) else node.names
            if any(dotted(alias.name) == "_six" for alias in names) and not _is_guarded(source, node):
                yield Hit(node, MESSAGE, None, BY_HAND)
    uses = [node for node in source.nodes(cst.Attribute) if _is_use(source, node)]
    plain = [
        node for node in source.nodes(cst.Import) if any(dotted(alias.name) == "torch._six" for alias in node.names)
    ]
    for statement in plain:
        if not _is_guarded(source, statement):
            fix = _import_fix(source, statement, uses)
            yield Hit(statement, MESSAGE, fix, "" if fix else BY_HAND)
    if not plain:
        yield from _uses(source, uses)


def _uses(source: Source, uses: Sequence[cst.Attribute]) -> Iterator[Hit]:
    for use in uses:
        if not _is_guarded(source, use):
            fix = Fix(TITLE, Safety.SAFE, (_to_torch(source, use),)) if use.attr.value == "inf" else None
            yield Hit(use, USE, fix, "" if fix else BY_HAND)


def _is_use(source: Source, node: cst.Attribute) -> bool:
    """Whether an attribute is `torch._six.x`, reached through torch itself."""
    match node.value:
        case cst.Attribute(value=owner, attr=cst.Name("_six")):
            return source.qualified(owner) == "torch"
    return False


def _to_torch(source: Source, use: cst.Attribute) -> Edit:
    """`torch._six.inf` as `torch.inf`."""
    assert isinstance(use.value, cst.Attribute)
    return replace(source, use, f"{source.outer_code(use.value.value)}.{use.attr.value}")


def _import_fix(source: Source, node: cst.Import, uses: Sequence[cst.Attribute]) -> Fix | None:
    """`import torch` in place of `import torch._six` where nothing but `torch._six.inf` is used."""
    match node.names:
        case [cst.ImportAlias(asname=None) as alias] if uses and all(use.attr.value == "inf" for use in uses):
            edits = (replace(source, alias, "torch"), *(_to_torch(source, use) for use in uses))
            return Fix(TITLE, Safety.SAFE, tuple(sorted(edits)))
    return None


def _fix(source: Source, node: cst.ImportFrom) -> Fix | None:
    match node.names:
        case [cst.ImportAlias(name=cst.Name("inf")) as alias] if node.module is not None:
            whole = source.statement(node)
            if isinstance(whole, cst.SimpleStatementLine) and len(whole.body) == 1 and "#" not in source.code(node):
                # from the tree: where the parser does not give the source back exactly, places are off
                line = f"from math import inf as {alias.evaluated_alias}" if alias.asname else "from math import inf"
                return Fix(IMPORT, Safety.SAFE, in_the_place_of(source, whole, line))
            return Fix(IMPORT, Safety.SAFE, (replace(source, node.module, "math"),))
    return None


def _is_guarded(source: Source, node: cst.CSTNode) -> bool:
    """Whether the code handles a missing module: it is inside a `try` or a version check."""
    inner = node
    for above in source.ancestors(node):
        match above:
            case cst.Try(body=body, handlers=[_, *_]) if inner is body:
                return True
            case cst.ExceptHandler():
                return True
            case cst.If(test=test) | cst.IfExp(test=test) if _VERSION.search(source.code(test)):
                return True
        inner = above
    return False
