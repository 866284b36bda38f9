"""The imports of a module before and after a fix: the import statements, and the `try` and `except` around them.

Nothing runs here, and the rest of the module is left out: no function is called, no other value is assigned.
"""

from __future__ import annotations

import ast
from typing import NamedTuple

from clipcheck.verify.allowed import EXCEPTIONS, NotVerifiable, check_imports
from clipcheck.verify.changes import Change
from clipcheck.verify.sides import Side

_MINE = ("torch", "clipcheck")


class Imports(NamedTuple):
    """Both sides as functions that import and return the names that this binds.

    `torch` says whether the module imports torch anywhere; a fragment in a document needs it even if it does not.
    """

    before: Side
    after: Side
    torch: bool


def import_blocks(change: Change) -> Imports | None:
    """The imports at the top level that a fix changes; None if it changes none. Raises NotVerifiable."""
    module = ast.parse(change.text)
    old, new = _blocks(module), _blocks(ast.parse(change.after))
    if list(map(ast.unparse, old)) == list(map(ast.unparse, new)):
        return None
    shared = {ast.unparse(node) for node in old} & {ast.unparse(node) for node in new}
    before, after = (
        [node for node in side if ast.unparse(node) not in shared or _is_mine(node)] for side in (old, new)
    )
    return Imports(_side(before), _side(after), _is_mine(module, ("torch",)))


def _side(block: list[ast.stmt]) -> Side:
    text = ast.unparse(ast.Module(block or [ast.Pass()], []))
    check_imports(ast.parse(text))
    lines = "".join(f"    {line}\n" for line in text.splitlines())
    return Side(f"def site():\n{lines}    return ('locals', bound__now())", {})


def _is_mine(code: ast.AST, packages: tuple[str, ...] = _MINE) -> bool:
    """Whether some code imports torch or clipcheck."""
    for node in ast.walk(code):
        match node:
            case ast.Import(names=names):
                paths = [alias.name for alias in names]
            case ast.ImportFrom(module=str() as module, level=0):
                paths = [module]
            case _:
                continue
        if any(path.partition(".")[0] in packages for path in paths):
            return True
    return False


def _blocks(module: ast.Module) -> list[ast.stmt]:
    return [node for statement in module.body for node in _reduced(statement, guarded=False)]


def _reduced(statement: ast.stmt, guarded: bool) -> list[ast.stmt]:
    """A statement reduced to its imports; within a `try`, also the constants that record whether they worked."""
    match statement:
        case ast.Import():
            return [statement]
        case ast.ImportFrom(module="__future__"):
            return []
        case ast.ImportFrom(module=module, names=[ast.alias(name="*")], level=level):
            return [ast.Import([ast.alias(module)])] if module and not level else []
        case ast.ImportFrom():
            return [statement]
        case ast.Try(body=body, handlers=handlers, orelse=orelse):
            return _tried(body, handlers, orelse)
        case ast.If(test=test, body=body, orelse=orelse):
            typing = ast.unparse(test).endswith("TYPE_CHECKING")  # False when the module is imported
            return [node for inner in (orelse if typing else body) for node in _reduced(inner, guarded)]
        case ast.Assign(targets=[ast.Name()], value=ast.Constant(value=None | bool())) if guarded:
            return [statement]
        case ast.Raise() if guarded:
            return [ast.Raise(ast.Name("ImportError", ast.Load()), None)]
    return []


def _tried(body: list[ast.stmt], handlers: list[ast.ExceptHandler], orelse: list[ast.stmt]) -> list[ast.stmt]:
    first, then = ([node for inner in block for node in _reduced(inner, True)] for block in (body, orelse))
    if not any(isinstance(node, (ast.Import, ast.ImportFrom)) for root in first for node in ast.walk(root)):
        return []
    caught = [ast.ExceptHandler(_exceptions(handler.type), None, _kept(handler.body)) for handler in handlers]
    return [ast.Try(first, caught, then, [])] if caught else first


def _kept(body: list[ast.stmt]) -> list[ast.stmt]:
    return [node for inner in body for node in _reduced(inner, True)] or [ast.Pass()]


def _exceptions(caught: ast.expr | None) -> ast.expr | None:
    names = caught.elts if isinstance(caught, ast.Tuple) else [caught] if caught else []
    if not all(isinstance(name, ast.Name) and name.id in EXCEPTIONS for name in names):
        raise NotVerifiable("its imports are inside an unknown `except`")
    return caught
