"""Fixes that replace one function by another: both functions are called with arguments of the harness.

Nothing runs here. This is enough if the arguments do not change, whatever they are, and it is all that can be run if
the functions are only named, in an import or in a string.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence

import libcst as cst

from clipcheck.python.source import Source
from clipcheck.rule import Edit, Role
from clipcheck.training.clips import SIGNATURES
from clipcheck.verify import allowed
from clipcheck.verify.allowed import NotVerifiable, flat_name
from clipcheck.verify.changes import Change
from clipcheck.verify.lift import Experiment
from clipcheck.verify.pieces import inside, pieces, smallest
from clipcheck.verify.sides import Side, expression, origin, path_of

_NAMES = {
    "clip_grad_norm": SIGNATURES["clip_grad_norm_"],
    "grad_norm": ("parameters", *SIGNATURES["get_total_norm"][1:]),
}
_PARAMETERS: Mapping[str, Sequence[str]] = {**SIGNATURES, **_NAMES}
_ROLES = {
    "parameters": Role.PARAMETERS,
    "tensors": Role.GRADIENTS,
    "max_norm": Role.MAX_NORM,
    "clip_value": Role.MAX_NORM,
    "total_norm": Role.TOTAL,
    "norm_type": Role.NORM_TYPE,
    "error_if_nonfinite": Role.SWITCH,
    "foreach": Role.SWITCH,
}
_NEEDED = ("parameters", "tensors", "max_norm", "clip_value", "total_norm")


def exchanges(change: Change) -> list[Experiment]:
    """The functions that a fix replaces in calls, strings and imports. Raises NotVerifiable for other changes."""
    if not change.edits:
        return _imported(change.old, change.new)
    return [_exchange(change, edit) for edit in change.edits]


def _exchange(change: Change, edit: Edit) -> Experiment:
    node = smallest(change.old, edit)
    if isinstance(node, cst.SimpleString):
        return _named(change, node, edit)
    (piece,) = pieces(change.old, change.fix, [edit])
    old, new = (_call(source, span) for source, span in ((change.old, piece.before), (change.new, piece.after)))
    if old[0] == new[0] or old[1] != new[1]:
        raise NotVerifiable("it does not only exchange the function that is called")
    return _compared(old[0], new[0], *_arguments(old[1], old[0], new[0]))


def _call(source: Source, span: tuple[int, int]) -> tuple[str, str]:
    """The path of the function that an expression calls, and its arguments as text."""
    match expression(source.text[span[0] : span[1]]):
        case ast.Call(func=func) as call:
            names = {node.id for node in ast.walk(func) if isinstance(node, ast.Name)}
            path = path_of(func, {name: origin(source, name, [span]) or "" for name in names})
            if path in allowed.FUNCTIONS and _last(path) in _PARAMETERS:
                _check_arguments(source, span, call)
                return path, ast.unparse(ast.Call(ast.Name("f", ast.Load()), call.args, call.keywords))
    raise NotVerifiable("it is no call of a clip or a norm")


def _arguments(text: str, *paths: str) -> tuple[list[str], dict[str, str]]:
    """The arguments of a call, replaced by those of the harness, and the roles of these."""
    given: list[str] = []
    roles: dict[str, str] = {}
    call = expression(text)
    assert isinstance(call, ast.Call)
    names = _PARAMETERS[_last(paths[0])]
    if len(call.args) > len(names):
        raise _raises(paths[0], "so many arguments")
    pairs = [*zip(names, call.args, strict=False), *((keyword.arg, keyword.value) for keyword in call.keywords)]
    for index, (name, value) in enumerate(pairs):
        if name is None or isinstance(value, ast.Starred):
            raise NotVerifiable("its arguments are in a list or a dictionary")
        for path in paths:
            if name not in _PARAMETERS[_last(path)]:
                raise _raises(path, f"`{name}`")
        made = _value(name, value, roles)
        given.append(made if index < len(call.args) else f"{name}={made}")
    for name in _NEEDED:
        if name in names and name not in dict(pairs):
            raise NotVerifiable(f"the call raises TypeError, before the fix and after it: it has no `{name}`")
    return given, roles


_PLAIN = (
    *(ast.Name, ast.Attribute, ast.Subscript, ast.Constant, ast.BoolOp, ast.IfExp, ast.Compare, ast.UnaryOp),
    *(ast.expr_context, ast.boolop, ast.cmpop, ast.unaryop),
)
_READS = frozenset(["float", "get", "parameters"])


def _check_arguments(source: Source, span: tuple[int, int], call: ast.Call) -> None:
    """Raises NotVerifiable if an argument does more than read a variable: its side effects may matter."""
    for value in (*call.args, *(keyword.value for keyword in call.keywords)):
        names = {node.id for node in ast.walk(value) if isinstance(node, ast.Name)} - _READS
        constant = path_of(value, {name: origin(source, name, [span]) or "" for name in names}) in allowed.CONSTANTS
        found = (node for node in source.nodes(cst.Name) if node.value in names and inside(source.span(node), [span]))
        imported = not constant and any(source.qualified(node) is not None for node in found)
        if imported or not (_is_plain(value) or isinstance(value, ast.Starred)):
            raise NotVerifiable(f"`{ast.unparse(value)[:60]}` cannot be resolved")


def _is_plain(value: ast.AST) -> bool:
    """Whether an expression only reads a value, by names, attributes and keys."""
    match value:
        case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name), keywords=[]):
            return name in _READS and all(map(_is_plain, ast.iter_child_nodes(value)))
        case ast.Name(id=name) | ast.Attribute(attr=name) if "__" in name:
            return False
    return isinstance(value, _PLAIN) and all(map(_is_plain, ast.iter_child_nodes(value)))


def _raises(path: str, what: str) -> NotVerifiable:
    return NotVerifiable(f"the call raises TypeError: `{_last(path)}` does not take {what}")


def _value(name: str, value: ast.expr, roles: dict[str, str]) -> str:
    """A constant that only chooses how to compute is kept; anything else becomes an object of the harness."""
    role = _ROLES[name].value
    match value:
        case ast.Constant(value=None | bool() | int() | float()) if name not in _NEEDED:
            return ast.unparse(value)
    made = f"{role}__own__{'call' if name in ('parameters', 'tensors') else 'name'}"
    roles[made] = role
    return f"{made}()" if made.endswith("call") else made


# --- names in strings -----------------------------------------------------------------------------------------------


def _named(change: Change, node: cst.SimpleString, edit: Edit) -> Experiment:
    """A string with a function's path, or with the name of an attribute of the module passed next to it."""
    start, end = change.old.span(node)
    old = change.old.text[start:end]
    new = old[: edit.start - start] + edit.text + old[edit.end - start :]
    paths = [_path(change.old, node, text) for text in (old, new)]
    if paths[0] == paths[1]:
        raise NotVerifiable("its string names the same function as before")
    return _compared(paths[0], paths[1], *_ordinary(*paths))


def _path(source: Source, node: cst.SimpleString, literal: str) -> str:
    try:
        text = str(ast.literal_eval(literal))
    except (SyntaxError, ValueError):
        text = ""
    if "." not in text:
        match source.enclosing(node, cst.Call):
            case cst.Call(args=[cst.Arg(value=module), *_]):
                text = f"{source.qualified(module)}.{text}"
    path = allowed.canonical(text)
    if path not in allowed.FUNCTIONS or _last(path) not in _PARAMETERS:
        raise NotVerifiable("its string names no clip or norm")
    return path


# --- imports --------------------------------------------------------------------------------------------------------


def _imported(source: Source, changed: Source) -> list[Experiment]:
    """Only imports change: all uses of the names then get the new functions, so these are compared."""
    found: list[Experiment] = []
    scopes = zip(source.names.scopes.values(), changed.names.scopes.values(), strict=True)
    pairs = ((name, b, new.bindings.get(name, [])) for old, new in scopes for name, b in old.bindings.items())
    for name, bindings, others in pairs:
        old = {allowed.canonical(source.names.origin(b) or "") for b in bindings}
        new = {allowed.canonical(changed.names.origin(b) or "") for b in others}
        if old == new or not new:  # an import that the fix removes
            continue
        if len(old) != 1 or len(new) != 1:
            raise NotVerifiable(f"the import of `{name}` becomes another one")
        found.append(_exchanged(name, min(old), min(new)))
    if not found:
        raise NotVerifiable("only imports change, and not those of a clip")
    return found


def _exchanged(name: str, old: str, new: str) -> Experiment:
    if _last(old) == _last(new) == "inf":  # known even if this torch no longer has it
        return Experiment(_constant(old), _constant(new), _constant("math.inf"), {}, (), ())
    if _last(old) in _PARAMETERS and _last(new) in _PARAMETERS:
        return _compared(old, new, *_ordinary(old, new))
    raise NotVerifiable(f"the import of `{name}` becomes another one")


def _constant(path: str) -> Side:
    return Side(f"def site():\n    return ('value', {flat_name(path)})", {flat_name(path): path})


# --- two functions --------------------------------------------------------------------------------------------------


def _ordinary(*paths: str) -> tuple[list[str], dict[str, str]]:
    """The arguments that both functions need."""
    needed = [[name for name in _PARAMETERS[_last(path)] if name in _NEEDED] for path in paths]
    if needed[0] != needed[1]:
        raise NotVerifiable(f"`{_last(paths[1])}` takes other arguments than `{_last(paths[0])}`")
    roles: dict[str, str] = {}
    return [_value(name, ast.Constant(None), roles) for name in needed[0]], roles


def _compared(old: str, new: str, given: Sequence[str], roles: dict[str, str]) -> Experiment:
    sides = [
        Side(f"def site():\n    return ('value', {flat_name(path)}({', '.join(given)}))", {flat_name(path): path})
        for path in (old, new)
    ]
    return Experiment(sides[0], sides[1], sides[0], roles, (), ())


def _last(path: str) -> str:
    return path.rpartition(".")[2]
