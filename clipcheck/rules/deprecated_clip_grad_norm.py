"""
## What it does
Finds every way to reach `torch.nn.utils.clip_grad_norm`, the old name of `clip_grad_norm_`: calls, imports under any
alias, and references without a call.

## Why is this bad?
Since torch 0.4 the name is a one-line alias that warns (`FutureWarning` since 2.4) and calls `clip_grad_norm_`. Many
documents say that it leaves the gradients alone and returns the norm of the clipped ones. It does neither: it scales
the gradients **in place** and returns the norm **before** clipping.

If clipped copies are what you want, `clipcheck.runtime.clipped_grads(parameters, max_norm)` returns them, with the norm
before and after, and leaves `.grad` alone.

## Fix safety
Safe: the alias and the function have been the same since 0.4. With `--target clipcheck` the call goes to
`clipcheck.runtime.clip_grad_norm_`, which keeps torch's contract and returns the norm in float32 at least. The fix is
unsafe in a file that uses FSDP1, where the runtime asks for the method of the wrapped model. No fix is offered where
the old name stands in one branch of a version test, replaces another function, or is exported.

## References
- https://pytorch.org/docs/stable/generated/torch.nn.utils.clip_grad_norm_.html
- pytorch/examples#345, NVIDIA/tacotron2#90, yunjey/pytorch-tutorial#143
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import libcst as cst

from clipcheck.edits import RUNTIME, insert_line_after, reach, replace
from clipcheck.names import Binding, Scope
from clipcheck.rule import Edit, Fix, Hit, Role, Safety
from clipcheck.source import Source

OLD = "torch.nn.utils.clip_grad_norm"
NEW = "clip_grad_norm_"
MESSAGE = "`clip_grad_norm` is a deprecated alias: it clips in place, returns the norm before clipping"
TITLE = "Replace with `clip_grad_norm_`"
_ARGUMENTS = {"parameters": Role.PARAMETERS, "max_norm": Role.MAX_NORM, "norm_type": Role.NORM_TYPE}
COPIES = "for clipped copies that leave `.grad` alone there is `clipcheck.runtime.clipped_grads`"
BY_HAND = "no fix here: {why}; {todo}"


def check(source: Source) -> Iterator[Hit]:
    for scope in source.names.scopes.values():
        for bindings in scope.bindings.values():
            for binding in bindings:
                if binding.kind == "import" and binding.path and source.names.origin(binding) == OLD:
                    yield from _imported(source, scope, binding, alone=len(bindings) == 1)
    for node in source.nodes(cst.Attribute):
        if node.attr.value == "clip_grad_norm" and source.qualified(node) == OLD and not _is_target(source, node):
            yield _attribute(source, node)


def _attribute(source: Source, node: cst.Attribute) -> Hit:
    obstacle = _guard(source, node) or _monkeypatch(source, node)
    if obstacle:
        return Hit(node, MESSAGE, help=obstacle)
    if source.target == "torch":
        edit = Edit(*source.span(node.attr), NEW)
        return Hit(node, MESSAGE, Fix(TITLE, Safety.SAFE, (edit,), roles=_roles(source, [node])), COPIES)
    reached = reach(source, node, NEW)
    fix = Fix(TITLE, _safety(source), (replace(source, node, reached.text),), reached.imports, _roles(source, [node]))
    return Hit(node, MESSAGE, fix, COPIES)


def _imported(source: Source, scope: Scope, binding: Binding, alone: bool) -> Iterator[Hit]:
    """The import and every use of the name that it binds: one fix for all of them, since none works without the rest."""
    assert isinstance(binding.node, cst.ImportAlias)
    uses = source.names.uses(scope, binding.name)
    obstacle = _guard(source, binding.node)
    if not alone:
        obstacle = obstacle or BY_HAND.format(
            why=f"`{binding.name}` has several origins", todo="keep the import of `clip_grad_norm_`"
        )
    if _is_exported(source, binding.name):
        obstacle = BY_HAND.format(why="the name is part of `__all__`", todo="export `clip_grad_norm_` instead")
    fix = None if obstacle else _import_fix(source, binding, uses)
    fix = fix and fix._replace(roles=_roles(source, uses))
    help_text = obstacle or (
        COPIES if fix else BY_HAND.format(why="a comment stands in the way", todo="edit the import")
    )
    yield Hit(binding.node, MESSAGE, fix, help_text)
    for use in uses if alone else ():
        yield Hit(use, MESSAGE, fix, help_text)


def _roles(source: Source, uses: Sequence[cst.BaseExpression]) -> tuple[tuple[str, Role], ...]:
    """What the arguments of the calls stand for."""
    roles: dict[tuple[str, Role], None] = {}
    for use in uses:
        call = source.parent(use)
        if isinstance(call, cst.Call) and call.func is use:
            for argument, position in zip(call.args, _ARGUMENTS, strict=False):
                role = _ARGUMENTS.get(argument.keyword.value) if argument.keyword else _ARGUMENTS[position]
                if role and not argument.star:
                    roles[source.code(argument.value), role] = None
    return tuple(roles)


def _import_fix(source: Source, binding: Binding, uses: list[cst.Name]) -> Fix | None:
    alias = binding.node
    assert isinstance(alias, cst.ImportAlias)
    renamed = alias.asname is not None or not uses  # an unused import may serve others: its name stays
    spelled = f"{NEW} as {binding.name}" if renamed else NEW
    if source.target == "torch":
        return _rename(source, alias, uses, spelled, renamed)
    if not renamed and source.is_taken(NEW):
        return _to_module(source, alias, uses)
    edits = _swap_import(source, alias, f"from {RUNTIME} import {spelled}")
    if edits is None:
        return None
    if not renamed:
        edits += tuple(replace(source, use, NEW) for use in uses)
    return Fix(TITLE, _safety(source), edits)


def _rename(source: Source, alias: cst.ImportAlias, uses: list[cst.Name], spelled: str, renamed: bool) -> Fix | None:
    """Import torch's new name in place of the old one."""
    if not renamed and source.is_taken(NEW):
        beside = any(
            source.names.origin(b) == f"torch.nn.utils.{NEW}" for b in source.scope(alias).bindings.get(NEW, [])
        )
        if not beside:  # something else is called clip_grad_norm_ here
            return Fix(TITLE, Safety.SAFE, (replace(source, alias, f"{NEW} as clip_grad_norm"),))
        edits = _drop_alias(source, alias)
        if edits is None:
            return None
    else:
        edits = (replace(source, alias, spelled),)
    if not renamed:
        edits += tuple(replace(source, use, NEW) for use in uses)
    return Fix(TITLE, Safety.SAFE, edits)


def _to_module(source: Source, alias: cst.ImportAlias, uses: list[cst.Name]) -> Fix | None:
    """`clip_grad_norm_` means something else in this file: call the runtime by its full name."""
    if source.is_taken("clipcheck"):
        edits = _swap_import(source, alias, f"from {RUNTIME} import {NEW} as clip_grad_norm")
        return None if edits is None else Fix(TITLE, _safety(source), edits)
    edits = _swap_import(source, alias, f"import {RUNTIME}")
    if edits is None:
        return None
    return Fix(TITLE, _safety(source), (*edits, *(replace(source, use, f"{RUNTIME}.{NEW}") for use in uses)))


def _swap_import(source: Source, alias: cst.ImportAlias, line: str) -> tuple[Edit, ...] | None:
    """Put an import of its own in the place of one name of a `from` import."""
    statement = source.parent(alias)
    assert isinstance(statement, cst.ImportFrom)
    if not isinstance(statement.names, cst.ImportStar) and len(statement.names) == 1:
        return None if "#" in source.code(statement) else (replace(source, statement, line),)
    dropped = _drop_alias(source, alias)
    return None if dropped is None else (*dropped, insert_line_after(source, source.statement(alias), line))


def _drop_alias(source: Source, alias: cst.ImportAlias) -> tuple[Edit, ...] | None:
    """Remove one name of several from an import; None where a comment would go with it."""
    statement = source.parent(alias)
    assert isinstance(statement, cst.ImportFrom) and not isinstance(statement.names, cst.ImportStar)
    names = list(statement.names)
    index = next(i for i, item in enumerate(names) if item is alias)
    start, end = source.span(alias)
    if index + 1 < len(names):
        end = source.span(names[index + 1])[0]
    elif index:
        start = source.span(names[index - 1])[1]
    else:
        return None
    # the span of an alias that is not last may hold its comma
    if index + 1 == len(names) and source.text[start : start + 1] != ",":
        start = source.text.rfind(",", 0, start) if source.text[:start].rstrip().endswith(",") else start
    return None if "#" in source.text[start:end] else (Edit(start, end, ""),)


def _safety(source: Source) -> Safety:
    fsdp = "torch.distributed.fsdp.FullyShardedDataParallel"
    wrapped = any(
        b.path == fsdp for scope in source.names.scopes.values() for bs in scope.bindings.values() for b in bs
    )
    return Safety.UNSAFE if wrapped else Safety.SAFE


def _is_target(source: Source, node: cst.CSTNode) -> bool:
    """Whether `node` is what is assigned to: patching the old name does not call it."""
    return isinstance(source.parent(node), (cst.AssignTarget, cst.Del))


def _monkeypatch(source: Source, node: cst.CSTNode) -> str:
    match source.parent(node):
        case cst.Assign(targets=targets) if any(
            source.qualified(target.target) == f"torch.nn.utils.{NEW}" for target in targets
        ):
            return BY_HAND.format(why="this patches torch's own function", todo="remove the patch")
    return ""


_VERSION = re.compile(r"version|\btorch_?\d|hasattr|getattr|\b_?is_?(old|legacy)", re.IGNORECASE)


def _guard(source: Source, node: cst.CSTNode) -> str:
    """Why a reference in one branch of a version test is left alone: the other branch has the new name already."""
    inner = node
    for above in source.ancestors(node):
        match above:
            case cst.If(test=test) | cst.IfExp(test=test) if inner is not test:
                others = [part for part in (above.body, above.orelse) if part is not None and part is not inner]
                if _VERSION.search(source.code(test)) or any(_mentions_new(source, part) for part in others):
                    return BY_HAND.format(why="it stands behind a version test", todo="keep the newer branch only")
            case cst.Try(handlers=[*handlers], body=body):
                parts = [part for part in (body, *handlers) if part is not inner]
                if any(_mentions_new(source, part) for part in parts):
                    return BY_HAND.format(why="it is one of two ways of a `try`", todo="keep the newer one only")
            case cst.FunctionDef() | cst.ClassDef():
                break
        inner = above
    return ""


def _mentions_new(source: Source, part: cst.CSTNode) -> bool:
    return any(
        (isinstance(node, cst.Attribute) and node.attr.value == NEW)
        or (isinstance(node, cst.ImportAlias) and source.code(node.name) == NEW)
        or (isinstance(node, cst.Name) and node.value == NEW)
        for node in source.walk(part)
    )


def _is_exported(source: Source, name: str) -> bool:
    for binding in source.names.module.bindings.get("__all__", []):
        for node in source.walk(binding.value) if binding.value is not None else ():
            if isinstance(node, cst.SimpleString) and node.evaluated_value == name:
                return True
    return False
