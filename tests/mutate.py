"""`make mutate`: breaks every rule's fix in every way we can think of, and counts how many the verification refutes.

Each mutant is the text after a fix with one change in a line that the fix has touched. Mutants that pass the
verification are shown: either the verification misses them, or they are equivalent.
"""

from __future__ import annotations

import ast
import copy
import os
import sys
from collections.abc import Callable, Iterator
from difflib import SequenceMatcher

from clipcheck.verify.pairs import Pair, find, verify

OURS = ("clip_grad_norm_", "clip_grad_value_", "grad_norm", "get_total_norm", "clip_grads_with_norm_")
CLIPS = ("clip_grad_norm_", "clip_grad_value_")
Operator = Callable[[ast.AST], Iterator[tuple[str, ast.AST]]]


def _name(call: ast.AST) -> str:
    match call:
        case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name)):
            return name
    return ""


def _expression(text: str, **parts: ast.expr) -> ast.expr:
    """An expression with names replaced by nodes."""

    class Fill(ast.NodeTransformer):
        def visit_Name(self, node: ast.Name) -> ast.expr:
            return copy.deepcopy(parts[node.id]) if node.id in parts else node

    filled: ast.expr = Fill().visit(ast.parse(text, mode="eval").body)
    return filled


def calls(node: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    """Mistakes in the call of a norm or a clip."""
    name = _name(node)
    if not isinstance(node, ast.Call) or name not in OURS or not node.args:
        return
    first, rest = node.args[0], node.args[1:]

    def called(*args: ast.expr) -> ast.Call:
        return ast.Call(copy.deepcopy(node.func), [*args], copy.deepcopy(node.keywords))

    yield "one parameter left out", called(_expression("list(x)[1:]", x=first), *rest)
    yield "no parameters", called(ast.List([], ast.Load()), *rest)
    if name in CLIPS:
        for what, text in (("doubled", "2 * x"), ("halved", "x / 2"), ("squared", "x ** 2 + 0.001"), ("zero", "0 * x")):
            if rest:
                yield f"limit {what}", called(first, _expression(text, x=rest[0]), *rest[1:])
        yield "clip dropped", _expression("__import__('torch').zeros(())")
    if name == "clip_grad_norm_" and len(rest) == 1 and not node.keywords:
        yield "norm type 1", called(first, *rest, ast.Constant(1.0))
        yield "norm type inf", called(first, *rest, _expression("float('inf')"))
    if name in ("grad_norm", "get_total_norm"):
        if not rest and not node.keywords:
            yield "norm type 1", called(first, ast.Constant(1.0))
            yield "norm type inf", called(first, _expression("float('inf')"))
        yield "norm squared", _expression("x ** 2", x=node)
        yield "root of the norm", _expression("x ** 0.5", x=node)
        yield "norm doubled", _expression("2 * x", x=node)
        yield "low precision", _expression("x.bfloat16().to(x.dtype)", x=node)


def types(node: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    match node:
        case ast.Call(func=ast.Attribute(value=value, attr="item"), args=[]):
            yield "tensor for float", value
            yield "integer for float", _expression("int(x)", x=node)


def numbers(node: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    match node:
        case ast.BinOp(op=ast.Pow(), left=left):
            yield "power dropped", left
        case ast.Constant(value=bool()):
            yield "flag turned", ast.Constant(not node.value)
        case ast.Constant(value=int() | float() as value) if value:
            yield "number doubled", ast.Constant(value * 2)


def conditions(node: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    match node:
        case ast.If(test=test):
            yield "condition turned", ast.If(ast.UnaryOp(ast.Not(), test), node.body, node.orelse)
            yield "condition dropped", ast.If(ast.Constant(True), node.body, [])
        case ast.comprehension(ifs=[_, *_]):
            yield "filter dropped", ast.comprehension(node.target, node.iter, [], node.is_async)


OPERATORS: tuple[Operator, ...] = (calls, types, numbers, conditions)


def mutants(pair: Pair) -> Iterator[Pair]:
    """All single changes of the lines that the fix has touched, including moved statements."""
    touched = _touched(pair.before, pair.after)
    tree = ast.parse(pair.after)
    nodes = [(i, n) for i, n in enumerate(ast.walk(tree)) if getattr(n, "lineno", 0) in touched]
    for index, node in nodes:
        for operator in OPERATORS:
            for what, new in operator(node):
                yield _mutant(pair, tree, index, what, new)
    for block in (n for n in ast.walk(tree) if isinstance(getattr(n, "body", None), list)):
        for at, statement in enumerate(block.body):
            if statement.lineno in touched and isinstance(statement, (ast.Expr, ast.Assign)):
                yield from _moved(pair, tree, block, at)


def _touched(before: str, after: str) -> set[int]:
    """The lines of `after` that are new, without imports."""
    old, new = before.splitlines(), after.splitlines()
    changed = {
        line + 1
        for kind, _, _, start, end in SequenceMatcher(None, old, new, autojunk=False).get_opcodes()
        if kind != "equal"
        for line in range(start, end)
    }
    return {line for line in changed if not new[line - 1].lstrip().startswith(("import ", "from ", "#"))}


def _mutant(pair: Pair, tree: ast.Module, index: int, what: str, new: ast.AST) -> Pair:
    root = copy.deepcopy(tree)
    target = list(ast.walk(root))[index]

    class Put(ast.NodeTransformer):
        def visit(self, node: ast.AST) -> ast.AST:
            return copy.deepcopy(new) if node is target else self.generic_visit(node)

    line = getattr(list(ast.walk(tree))[index], "lineno", 0)
    text = ast.unparse(ast.fix_missing_locations(Put().visit(root)))
    return pair._replace(name=f"{pair.name}:{line} {what}", after=text)


def _moved(pair: Pair, tree: ast.Module, block: ast.AST, at: int) -> Iterator[Pair]:
    """A statement dropped, and the one after it run first."""
    index = list(ast.walk(tree)).index(block)
    for what in ("dropped", "late"):
        root = copy.deepcopy(tree)
        body: list[ast.stmt] = list(ast.walk(root))[index].body  # type: ignore[attr-defined]
        line = body[at].lineno
        if what == "dropped":
            body[at] = ast.Pass()
        elif at + 1 < len(body):
            body[at], body[at + 1] = body[at + 1], body[at]
        else:
            continue
        text = ast.unparse(ast.fix_missing_locations(root))
        yield pair._replace(name=f"{pair.name}:{line} statement {what}", after=text)


def main() -> int:
    pairs = [
        pair for pair in find() if pair.suffix == ".py" and "not verified here" not in pair.before.partition("\n")[0]
    ]
    spoiled = [mutant for pair in pairs for mutant in mutants(pair)]
    rows = verify(spoiled, jobs=os.cpu_count() or 1)
    alive = [row for row in rows if row.outcome.holds is not False]
    for row in alive:
        print(f"passes: {row.name}")
    killed = len(rows) - len(alive)
    print(
        f"{len(pairs)} fixes, {len(rows)} mutants, {killed} refuted, {len(alive)} pass: {killed / max(len(rows), 1):.1%}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
