"""Removes imports and variables that a change leaves unused; those that were unused before stay."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from typing import cast

import libcst as cst

from clipcheck.fixes.import_blocks import is_import, parsed
from clipcheck.fixes.import_lines import fewer
from clipcheck.fixes.verbs import comments_of, delete_lines, deletion, lines_of
from clipcheck.python.names import Binding, Scope, dotted
from clipcheck.python.source import Source, Statement, memo
from clipcheck.rule import RUNTIME, Edit

_LOOKUPS = frozenset(
    {"torch.device", "builtins.next", "builtins.list", "builtins.len", "builtins.float", "builtins.int"}
)
_DYNAMIC = frozenset({"builtins.globals", "builtins.locals", "builtins.vars", "builtins.eval", "builtins.exec"})


def without_unused(source: Source, edits: Sequence[Edit], ours_alone: bool = False) -> list[Edit]:
    """The edits, plus edits that remove imports and variables whose last use they remove.

    With `ours_alone`, only names of clipcheck's runtime are removed: later cells of a notebook may use others.
    """
    left = list(edits)
    lost = list(_lost(source, edits))
    unused = [
        binding
        for bindings in lost
        if all(binding.kind == "import" and _may_go(source, binding.node) for binding in bindings)
        and not _is_needed_elsewhere(source, bindings[0].name)
        for binding in bindings
        if not ours_alone or binding.path.startswith((f"{RUNTIME}.", f"{source.package}."))
    ]
    aliases = {id(binding.node) for binding in unused}
    for statement in _statements(source, unused):
        left = _without(source, statement, aliases, left)
    for bindings in lost:
        if not ours_alone and _is_variable(source, bindings) and _is_plain(source, bindings):
            left.append(delete_lines(source, source.statement(bindings[0].node)))
    return left


def left_unused(source: Source, edits: Sequence[Edit]) -> str:
    """A variable that would no longer be read, but whose value may have side effects when it is computed."""
    names = (b[0].name for b in _lost(source, edits) if _is_variable(source, b) and not _is_plain(source, b))
    return next(names, "")


def _lost(source: Source, edits: Sequence[Edit]) -> Iterator[list[Binding]]:
    """For each name whose uses are all removed by the edits, its bindings."""
    gone = [(edit.start, edit.end) for edit in edits if edit.start < edit.end]
    members = {edit.end for edit in edits if edit.text.endswith(".")}  # a name becomes an attribute
    written = " ".join(edit.text for edit in edits)
    for scope, name in _used_within(source, [*gone, *((at, at + 1) for at in members)]):
        places = [source.span(use)[0] for use in source.names.uses(scope, name)]
        if not all(_within(at, gone) or at in members for at in places):
            continue
        if re.search(rf"(?<![\w.]){re.escape(name)}\b", written):
            continue
        bindings = scope.bindings[name]
        if not any(_within(source.span(binding.node)[0], gone) for binding in bindings):  # these are edited
            yield bindings


def _used_within(source: Source, spans: Sequence[tuple[int, int]]) -> list[tuple[Scope, str]]:
    """The names that are read in the given parts of the program."""
    places, names = _uses(source)
    found: dict[tuple[int, str], tuple[Scope, str]] = {}
    for start, end in spans:
        for scope, name in names[bisect_left(places, start) : bisect_left(places, end)]:
            found[id(scope), name] = (scope, name)
    return list(found.values())


@memo
def _uses(source: Source) -> tuple[list[int], list[tuple[Scope, str]]]:
    """The reads of names that the program binds, in source order."""
    found = [
        (source.span(use)[0], (scope, name))
        for scope in source.names.scopes.values()
        for name in scope.bindings
        for use in source.names.uses(scope, name)
    ]
    found.sort(key=lambda one: one[0])
    return [at for at, _ in found], [name for _, name in found]


def _is_variable(source: Source, bindings: Sequence[Binding]) -> bool:
    """Whether a name is only assigned, in a function: parameters and loop variables may be unused."""
    return all(
        binding.kind == "assign"
        and binding.value is not None
        and source.scope(binding.node).owner(binding.name) is source.scope(binding.node)
        and isinstance(source.scope(binding.node).node, cst.FunctionDef)
        for binding in bindings
    )


def _is_plain(source: Source, bindings: Sequence[Binding]) -> bool:
    """Whether a variable is assigned once, in a separate statement, a value without side effects."""
    match [(source.statement(binding.node), binding.value) for binding in bindings]:
        case [(cst.SimpleStatementLine(body=[cst.Assign(targets=[_]) | cst.AnnAssign()]) as line, value)]:
            block = source.parent(line)
            alone = isinstance(block, cst.IndentedBlock) and len(block.body) == 1
            return not alone and not comments_of(source, line) and _looks_up(source, value)
    return False


def _looks_up(source: Source, value: cst.BaseExpression | None) -> bool:
    for node in source.walk(value) if value is not None else ():
        match node:
            case cst.Call(func=cst.Attribute(attr=cst.Name(value="parameters"))):
                pass
            case cst.Call(func=cst.Name("next"), args=[cst.Arg(value=cst.Name()), *_]):
                return False  # it takes an element from an iterator that others may read
            case cst.Call(func=func) if source.qualified(func) in _LOOKUPS:
                pass
            case cst.Call() | cst.NamedExpr() | cst.Await() | cst.Yield():
                return False
    return True


def _within(offset: int, spans: Sequence[tuple[int, int]]) -> bool:
    return any(start <= offset < end for start, end in spans)


def _may_go(source: Source, alias: cst.CSTNode) -> bool:
    """Whether the import can be deleted: it is alone on its line, without a comment, in a function or the module itself."""
    statement = source.statement(alias)
    if not is_import(statement) or len(statement.body) > 1 or comments_of(source, statement):
        return False
    _, around, *_ = (*source.ancestors(statement), None)
    return around is None or isinstance(around, cst.FunctionDef)


def _is_needed_elsewhere(source: Source, name: str) -> bool:
    """Whether the name is used as a string: exported, in a quoted annotation, or looked up by name."""
    for call in source.nodes(cst.Call):
        function = source.qualified(call.func)
        if function in _DYNAMIC and not (function == "builtins.vars" and call.args):
            return True
    word = re.compile(rf"\b{re.escape(name)}\b")
    strings = (string for string in source.nodes(cst.SimpleString) if word.search(string.value))
    return any(_is_code(source, string) for string in strings)


def _is_code(source: Source, string: cst.SimpleString) -> bool:
    for above in source.ancestors(string):
        match above:
            case cst.Annotation():
                return True
            case cst.Assign(targets=[cst.AssignTarget(target=cst.Name(value="__all__"))]):
                return True
            case cst.AugAssign(target=cst.Name(value="__all__")):
                return True
    return False


def _statements(source: Source, unused: Sequence[Binding]) -> list[cst.Import | cst.ImportFrom]:
    found = (cast("cst.Import | cst.ImportFrom", source.parent(binding.node)) for binding in unused)
    return list(dict.fromkeys(found))


def _without(
    source: Source, statement: cst.Import | cst.ImportFrom, unused: set[int], edits: Sequence[Edit]
) -> list[Edit]:
    """The edits, plus those that remove unused names from an import; names that the edits add to it stay."""
    start, end = source.span(statement)
    inside = [edit for edit in edits if start < edit.end <= end]
    others = [edit for edit in edits if edit not in inside]
    text = _applied(source.text[start:end], start, inside)
    names = [alias for alias in _aliases(statement) if id(alias) not in unused]
    added = [alias for alias in _aliases(parsed(text).body[0]) if dotted(alias.name) not in _known(statement)]
    if not names and not added:
        return [*others, _deletion(source, source.statement(statement), others)]
    kept = [source.code(alias).rstrip(", ") for alias in names] + [dotted(alias.name) for alias in added]
    return [*others, Edit(start, end, fewer(source, statement, sorted(kept)))]


def _aliases(statement: cst.CSTNode) -> Sequence[cst.ImportAlias]:
    match statement:
        case cst.Import(names=names) | cst.ImportFrom(names=[*names]):
            return names
    return ()


def _known(statement: cst.CSTNode) -> set[str]:
    return {dotted(alias.name) for alias in _aliases(statement)}


def _applied(text: str, offset: int, edits: Sequence[Edit]) -> str:
    for edit in sorted(edits, reverse=True):
        text = text[: edit.start - offset] + edit.text + text[edit.end - offset :]
    return text


def _deletion(source: Source, statement: Statement, edits: Sequence[Edit]) -> Edit:
    """Removes an import line, and the blank lines below it if it is the last of its block."""
    start, stop = lines_of(source, statement)
    if any(edit.start in (start, stop) and edit.text for edit in edits):
        return Edit(start, stop, "")
    return deletion(source, start, stop)
