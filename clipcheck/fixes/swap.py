"""Replaces one function with another, however a file refers to it: attribute, import or alias."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import libcst as cst

from clipcheck.fixes.import_blocks import block_of, is_import
from clipcheck.fixes.import_lines import fewer, in_the_place_of, is_caught, put_in
from clipcheck.fixes.imports import added_to, is_free, reach
from clipcheck.fixes.named_in_string import Named, named_in_strings
from clipcheck.fixes.verbs import comments_of, delete_lines, insert_line_after, replace
from clipcheck.python.names import Binding, Scope
from clipcheck.python.source import Source
from clipcheck.rule import Edit, Fix, Hit, Role, Safety


class Swap(NamedTuple):
    """The function `torch.nn.utils.<old>`, the name of the one that replaces it, and the message."""

    old: str
    new: str
    message: str
    title: str
    help: str = ""

    @property
    def origin(self) -> str:
        return f"{_MODULE}.{self.old}"


_MODULE = "torch.nn.utils"


def swapped(source: Source, swap: Swap) -> Iterator[Hit]:
    """Every reference to the old function, with the edits that replace it by the new one."""
    named = named_in_strings(source, _MODULE, swap.old)
    strings = [one for one in named if not _is_for_old_torch(source, one.string, swap)]
    if any(named.patched for named in strings):
        yield from _with_patches(source, swap, list(_in_code(source, swap)), strings)
        return
    yield from _in_code(source, swap)
    for one in strings if swap.old != swap.new else ():
        yield _looked_up(source, one, swap)


def _in_code(source: Source, swap: Swap) -> Iterator[Hit]:
    for scope in source.names.scopes.values():
        for bindings in scope.bindings.values():
            for binding in bindings:
                is_old = binding.kind == "import" and source.names.origin(binding) == swap.origin
                if is_old and not _is_for_old_torch(source, binding.node, swap):
                    yield from _imported(source, scope, binding, len(bindings) == 1, swap)
    for node in source.nodes(cst.Attribute):
        is_old = node.attr.value == swap.old and source.qualified(node) == swap.origin
        if is_old and not _is_target(source, node) and not _is_for_old_torch(source, node, swap):
            yield _attribute(source, node, swap)
    for name in source.names.uses(None, swap.old):  # by `from torch.nn.utils import *`
        if source.qualified(name) == swap.origin:
            yield _attribute(source, name, swap)


def _looked_up(source: Source, named: Named, swap: Swap) -> Hit:
    """`getattr(utils, "clip_grad_norm")`: the string is replaced by torch's new name."""
    chooses = any(isinstance(above, cst.BooleanOperation) for above in source.ancestors(named.string))
    obstacle = _guard(source, named.string, swap)
    if not obstacle and (named.may_lack or chooses):
        obstacle = BY_HAND.format(why="the program works without it", advice="call `clip_grad_norm_` unconditionally")
    fix = None if obstacle else Fix(swap.title, Safety.SAFE, (_renamed(source, named.string, swap),))
    return Hit(named.string, swap.message, fix, obstacle or swap.help)


def _with_patches(source: Source, swap: Swap, hits: Sequence[Hit], strings: Sequence[Named]) -> Iterator[Hit]:
    """If a test patches the function by name, the name and the calls change together, to torch's new name.

    A patch of a different name would no longer affect the calls. Calls in other files must change too, so it is unsafe.
    """
    if swap.old == swap.new:  # calls of another function would bypass the patch
        yield from (hit._replace(fix=hit.fix and hit.fix._replace(safety=Safety.UNSAFE)) for hit in hits)
        return
    together = BY_HAND.format(
        why="a test patches the old name", advice="rename it together with the calls that it patches"
    )
    renamed = all(isinstance(hit.node, cst.Attribute) and hit.fix is not None for hit in hits)
    edits = [Edit(*source.span(hit.node.attr), swap.new) for hit in hits if isinstance(hit.node, cst.Attribute)]
    edits += [_renamed(source, named.string, swap) for named in strings]
    fix = Fix(swap.title, Safety.UNSAFE, tuple(sorted(edits))) if hits and renamed else None
    for hit in hits:
        yield hit._replace(fix=fix, help=swap.help if fix else together)
    yield from (Hit(named.string, swap.message, fix, swap.help if fix else together) for named in strings)


def _renamed(source: Source, string: cst.SimpleString, swap: Swap) -> Edit:
    return replace(source, string, _END_OF_NAME.sub(swap.new, source.code(string)))


_END_OF_NAME = re.compile(r"\w+(?=['\"]+$)")  # of a dotted path in its quotes

# The parameters of a clip and of a norm, in order.
_CLIP = {"parameters": Role.PARAMETERS, "max_norm": Role.MAX_NORM, "norm_type": Role.NORM_TYPE}
_NORM = {"tensors": Role.GRADIENTS, "norm_type": Role.NORM_TYPE}
BY_HAND = "no automatic fix: {why}; {advice}"


def _attribute(source: Source, node: cst.Attribute | cst.Name, swap: Swap) -> Hit:
    obstacle = _guard(source, node, swap) or _monkeypatch(source, node, swap) or _hides(source, node, swap)
    if obstacle:
        return Hit(node, swap.message, help=obstacle)
    if source.target == "torch":
        edit = replace(source, node.attr if isinstance(node, cst.Attribute) else node, swap.new)
        return Hit(node, swap.message, Fix(swap.title, Safety.SAFE, (edit,), roles=_roles(source, [node])), swap.help)
    reached = reach(source, node, swap.new)
    fix = Fix(
        swap.title, _safety(source), (replace(source, node, reached.text),), reached.imports, _roles(source, [node])
    )
    return Hit(node, swap.message, fix, swap.help)


def _imported(source: Source, scope: Scope, binding: Binding, alone: bool, swap: Swap) -> Iterator[Hit]:
    """The import and every use of the name that it binds: one fix, since no edit works without the others."""
    assert isinstance(binding.node, cst.ImportAlias)
    uses = source.names.uses(scope, binding.name)
    obstacle = _guard(source, binding.node, swap)
    if not alone:
        obstacle = obstacle or BY_HAND.format(
            why=f"`{binding.name}` is bound in several places", advice=f"keep the import of `{swap.new}`"
        )
    if swap.old == swap.new and is_caught(source, binding.node):  # a missing clipcheck would look like a missing torch
        obstacle = BY_HAND.format(why="a failing import is caught here", advice="import it outside of the `try`")
    if _is_exported(source, binding.name):
        obstacle = BY_HAND.format(why="the name is part of `__all__`", advice=f"export `{swap.new}` instead")
    fix = None if obstacle else _import_fix(source, binding, uses, swap)
    fix = fix and fix._replace(roles=_roles(source, uses))
    help_text = obstacle or (
        swap.help if fix else BY_HAND.format(why="it would remove a comment", advice="edit the import")
    )
    yield Hit(binding.node, swap.message, fix, help_text)
    for use in uses if alone else ():
        yield Hit(use, swap.message, fix, help_text)


def _roles(source: Source, uses: Sequence[cst.BaseExpression]) -> tuple[tuple[str, Role], ...]:
    """The roles of the arguments of the calls."""
    roles: dict[tuple[str, Role], None] = {}
    for use in uses:
        call = source.parent(use)
        if isinstance(call, cst.Call) and call.func is use:
            known = _NORM if source.origin(use).endswith("get_total_norm") else _CLIP
            for argument, position in zip(call.args, known, strict=False):
                role = known.get(argument.keyword.value) if argument.keyword else known[position]
                if role and not argument.star:
                    roles[source.code(argument.value), role] = None
    return tuple(roles)


def _import_fix(source: Source, binding: Binding, uses: list[cst.Name], swap: Swap) -> Fix | None:
    alias = binding.node
    assert isinstance(alias, cst.ImportAlias)
    renamed = alias.asname is not None or not uses  # other files may use an unused import, so its name stays
    spelled = f"{swap.new} as {binding.name}" if renamed and binding.name != swap.new else swap.new
    if source.target == "torch" or is_caught(source, alias):
        return _rename(source, alias, uses, spelled, renamed, swap)
    if not renamed and _is_taken(source, alias, swap):
        if swap.old != swap.new and _is_beside(source, alias, swap):
            return _rename(source, alias, uses, spelled, renamed, swap)
        return _to_module(source, alias, uses, swap)
    edits = _swap_import(source, alias, f"from {source.package} import {spelled}")
    if edits is None:
        return None
    if not renamed:  # even if the name stays, so that no other fix removes the last use at the same time
        edits += tuple(replace(source, use, swap.new) for use in uses)
    return Fix(swap.title, _safety(source), edits)


def _is_taken(source: Source, alias: cst.ImportAlias, swap: Swap) -> bool:
    """Whether the new name means something other than what this import binds."""
    if swap.old != swap.new:
        return not is_free(source, alias, swap.new, f"{source.package}.{swap.new}")
    scopes = (scope for scope in source.names.scopes.values() if not isinstance(scope.node, cst.ClassDef))
    return any(binding.node is not alias for scope in scopes for binding in scope.bindings.get(swap.new, []))


def _rename(
    source: Source, alias: cst.ImportAlias, uses: list[cst.Name], spelled: str, renamed: bool, swap: Swap
) -> Fix | None:
    """Imports torch's new name instead of the old one."""
    if not renamed and source.is_taken(swap.new):
        if not _is_beside(source, alias, swap):  # something else is called clip_grad_norm_ here
            return Fix(swap.title, Safety.SAFE, (replace(source, alias, f"{swap.new} as {swap.old}"),))
        edits = _drop_alias(source, alias)
        if edits is None:
            return None
    else:
        edits = (replace(source, alias, spelled),)
    if not renamed:
        edits += tuple(replace(source, use, swap.new) for use in uses)
    return Fix(swap.title, Safety.SAFE, edits)


def _is_beside(source: Source, alias: cst.ImportAlias, swap: Swap) -> bool:
    """Whether torch's new function is imported under its own name where the old one is."""
    bindings = source.scope(alias).bindings.get(swap.new, [])
    return any(source.names.origin(binding) == f"torch.nn.utils.{swap.new}" for binding in bindings)


def _to_module(source: Source, alias: cst.ImportAlias, uses: list[cst.Name], swap: Swap) -> Fix | None:
    """Calls the runtime by its full name, since `clip_grad_norm_` means something else in this file."""
    if source.is_taken(source.package.partition(".")[0]):
        edits = _swap_import(source, alias, f"from {source.package} import {swap.new} as {swap.old}")
        return None if edits is None else Fix(swap.title, _safety(source), edits)
    edits = _swap_import(source, alias, f"import {source.package}")
    if edits is None:
        return None
    return Fix(
        swap.title, _safety(source), (*edits, *(replace(source, use, f"{source.package}.{swap.new}") for use in uses))
    )


def _swap_import(source: Source, alias: cst.ImportAlias, line: str) -> tuple[Edit, ...] | None:
    """Replaces one name of a `from` import with a separate import, or adds the name to an existing import."""
    statement = source.parent(alias)
    assert isinstance(statement, cst.ImportFrom)
    beside = _runtime_import(source, statement) if line.startswith("from ") else ()
    whole = source.statement(statement)
    stands = isinstance(whole, cst.SimpleStatementLine) and len(whole.body) == 1
    if not isinstance(statement.names, cst.ImportStar) and len(statement.names) == 1:
        if "#" in source.code(statement):
            return None
        if beside and stands:
            return (added_to(source, beside, line.partition(" import ")[2]), delete_lines(source, whole))
        if isinstance(whole, cst.SimpleStatementLine) and stands:
            return in_the_place_of(source, whole, line)
        return (replace(source, statement, line),)
    dropped = _drop_alias(source, alias)
    block = block_of(source, whole)
    added = put_in(source, block, line) if block else insert_line_after(source, whole, line)
    return None if dropped is None else (*dropped, added)


def _runtime_import(source: Source, near: cst.ImportFrom) -> Sequence[cst.ImportAlias]:
    """The names of an import from the runtime in the same block, above or below."""
    for node in source.nodes(cst.ImportFrom):
        same = source.parent(source.statement(node)) is source.parent(source.statement(near))
        if same and node.module is not None and not node.relative and source.code(node.module) == source.package:
            return () if isinstance(node.names, cst.ImportStar) else node.names
    return ()


def _drop_alias(source: Source, alias: cst.ImportAlias) -> tuple[Edit, ...] | None:
    """Removes a name from an import, or an import of nothing else; None if that would remove a comment."""
    statement = source.parent(alias)
    assert isinstance(statement, cst.ImportFrom) and not isinstance(statement.names, cst.ImportStar)
    whole = source.statement(statement)
    names = [source.code(name).rstrip(", ") for name in statement.names if name is not alias]
    if "#" in source.code(statement):
        return None
    if names:
        return (replace(source, statement, fewer(source, statement, names)),)
    needed = not is_import(whole) or len(whole.body) > 1 or len(source.siblings(whole)[0]) == 1
    return None if needed or comments_of(source, whole) else (delete_lines(source, whole),)


def _safety(source: Source) -> Safety:
    paths = (b.path for scope in source.names.scopes.values() for bs in scope.bindings.values() for b in bs)
    return Safety.UNSAFE if "torch.distributed.fsdp.FullyShardedDataParallel" in paths else Safety.SAFE


def _is_target(source: Source, node: cst.CSTNode) -> bool:
    """Whether `node` is the target of an assignment: patching the old name does not call it."""
    return isinstance(source.parent(node), (cst.AssignTarget, cst.Del))


def _monkeypatch(source: Source, node: cst.CSTNode, swap: Swap) -> str:
    match source.parent(node):
        case cst.Assign(targets=targets) if any(
            source.qualified(target.target) == f"torch.nn.utils.{swap.new}" for target in targets
        ):
            return BY_HAND.format(why="this patches torch's own function", advice="remove the patch")
    return ""


def _hides(source: Source, node: cst.CSTNode, swap: Swap) -> str:
    """Why a bare name from an `import *` is not renamed: the new name means something else in the file."""
    bound = source.target == "torch" and any(swap.new in scope.bindings for scope in source.names.scopes.values())
    if isinstance(node, cst.Name) and bound:
        return BY_HAND.format(
            why=f"`{swap.new}` is another function here", advice="import torch's function under another name"
        )
    return ""


_VERSION = re.compile(r"version|\btorch_?(\d|major|minor)|hasattr|getattr|\b_?is_?(old|legacy)", re.IGNORECASE)


def _guard(source: Source, node: cst.CSTNode, swap: Swap) -> str:
    """Why a reference in one branch of a version check is not changed: the other branch already uses the new name."""
    if swap.old == swap.new:
        return ""  # both branches may call the same function
    inner = node
    for above in source.ancestors(node):
        match above:
            case cst.If(test=test) | cst.IfExp(test=test) if inner is not test:
                others = [part for part in (above.body, above.orelse) if part is not None and part is not inner]
                if _VERSION.search(source.code(test)) or any(_mentions_new(source, part, swap) for part in others):
                    return BY_HAND.format(why="it is inside a version check", advice="keep the newer branch only")
            case cst.Try(handlers=[*handlers], body=body):
                parts = [part for part in (body, *handlers) if part is not inner]
                if any(_mentions_new(source, part, swap) for part in parts):
                    return BY_HAND.format(
                        why="it is one of two alternatives in a `try`", advice="keep the newer one only"
                    )
            case cst.FunctionDef() | cst.ClassDef():
                break
        inner = above
    return ""


def _is_for_old_torch(source: Source, node: cst.CSTNode, swap: Swap) -> bool:
    """Whether a version check chooses between the old and the new name: an old torch needs the old one."""
    inner = node
    for above in source.ancestors(node) if swap.old != swap.new else ():
        match above:
            case cst.If(test=test, body=body, orelse=other) | cst.IfExp(test=test, body=body, orelse=other) if (
                inner is not test and _VERSION.search(source.code(test))
            ):
                beside = other if inner is body else body
                if beside is not None and _mentions_new(source, beside, swap):
                    return True
        inner = above
    return False


def _mentions_new(source: Source, part: cst.CSTNode, swap: Swap) -> bool:
    return any(
        (isinstance(node, cst.Attribute) and node.attr.value == swap.new)
        or (isinstance(node, cst.ImportAlias) and source.code(node.name) == swap.new)
        or (isinstance(node, cst.Name) and node.value == swap.new)
        for node in source.walk(part)
    )


def _is_exported(source: Source, name: str) -> bool:
    values = (binding.value for binding in source.names.module.bindings.get("__all__", ()))
    nodes = (node for value in values if value is not None for node in source.walk(value))
    return any(isinstance(node, cst.SimpleString) and node.evaluated_value == name for node in nodes)
