"""Reduces a training step to the statements that affect the gradients, in the harness's names."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from clipcheck.training.acts import EventKind
from clipcheck.verify.allowed import OWN_METHODS, NotVerifiable
from clipcheck.verify.known import Known, Unknown, call
from clipcheck.verify.parts import Parts, is_chain
from clipcheck.verify.program import Program
from clipcheck.verify.seeds import read_before_bound

_ROUNDS = 20
_RUN_ALL = (EventKind.BACKWARD, EventKind.STEP)
# Acts that change gradients or parameters, as opposed to measuring them or being unknown.
_CHANGES = (*_RUN_ALL, EventKind.UNSCALE, EventKind.CLIP, EventKind.ZERO_GRAD, EventKind.UPDATE, EventKind.EDIT)


class Body(NamedTuple):
    """What happens once, and what happens in each turn."""

    setup: list[ast.stmt]
    turn: list[ast.stmt]


def reduced(program: Program, index: int, names: Parts) -> Body:
    """One function's body. Raises NotVerifiable if something that affects the gradients is unknown."""
    setup, turn = program.region(index)
    opaque: frozenset[str] = frozenset()
    for _ in range(_ROUNDS):
        reducer = _Reducer(program, index, names, opaque)
        body = Body(*_Pruner(reducer.known).pruned(reducer.block(setup), reducer.block(turn)))
        reducer.known.hide(reducer.known.held_by(_unbound(body)))
        if reducer.known.opaque == opaque:
            return body
        opaque = reducer.known.opaque
    raise NotVerifiable("its names are bound in too many ways")


def _unbound(body: Body) -> set[str]:
    """The local names that may be read before they are assigned: their values are unknown."""
    every = [*body.setup, *body.turn]
    nodes = [node for root in every for node in ast.walk(root) if isinstance(node, ast.Name)]
    return set(read_before_bound(every, sure=True)) & {node.id for node in nodes if isinstance(node.ctx, ast.Store)}


class _Reducer:
    """Reduces blocks; names that are assigned something unknown are added to `known.opaque` for the next round."""

    def __init__(self, program: Program, index: int, names: Parts, opaque: frozenset[str]) -> None:
        self.program = program
        self.known = Known(program, index, names, opaque)
        self._depth = 0

    def block(self, statements: Sequence[ast.stmt]) -> list[ast.stmt]:
        return [kept for statement in statements for kept in self.statement(statement)]

    def statement(self, node: ast.stmt) -> list[ast.stmt]:
        match node:
            case ast.Expr(value=value):
                return self._expression(value)
            case ast.Assign(targets=targets, value=value):
                return self._assign(node, targets, value)
            case ast.AnnAssign(target=target, value=ast.expr() as value):
                return self._assign(ast.Assign([target], value), [target], value)
            case ast.AugAssign(target=target, op=op, value=value):
                if isinstance(op, ast.Div) and self.program.act(node):
                    self.known.counts(value)
                return self._add(node, target, op, value)
            case ast.If(test=test, body=body, orelse=orelse):
                return self._if(test, self.block(body), self.block(orelse))
            case (
                ast.For(target=target, iter=iterable, body=body) | ast.AsyncFor(target=target, iter=iterable, body=body)
            ):
                return self._for(target, iterable, body)
            case ast.While(body=body):
                return self._loop(ast.Name("_", ast.Store()), self.known.batches(), body)
            case ast.With(items=items, body=body) | ast.AsyncWith(items=items, body=body):
                return self._with(items, body)
            case ast.Try(body=body, finalbody=final):
                return [*self.block(body), *self.block(final)]
            case ast.Return(value=value):
                return [*(self._expression(value) if value else []), self._leave()]
            case ast.Continue() | ast.Break():
                return [node]
        return []

    def _leave(self) -> ast.stmt:
        if self._depth:
            raise NotVerifiable("it returns from within a loop")
        return ast.Continue()

    def _expression(self, value: ast.expr) -> list[ast.stmt]:
        """The whole expression if it is known, otherwise the parts that affect the gradients or use up an iterator."""
        if isinstance(value, ast.Constant):
            return []
        try:
            return [ast.Expr(self.known.made(value))]
        except Unknown as error:
            kept = [ast.Expr(self.known.made(part)) for part in self._telling(value)]
            if not kept and self.program.act(value) is not None and self._concerns([value]):
                raise NotVerifiable(str(error)) from None
            return list(kept)

    def _telling(self, value: ast.expr) -> list[ast.expr]:
        """The outermost parts of an expression that may not be left out. Raises NotVerifiable if one is unknown."""
        found: list[ast.expr] = []
        for child in ast.iter_child_nodes(value):
            if isinstance(child, ast.keyword):
                child = child.value
            if not isinstance(child, ast.expr):
                continue
            if self._concerns([child]) or (isinstance(child, ast.Call) and self.known.uses_up(child)):
                try:
                    self.known.made(child)
                    found.append(child)
                except Unknown as error:
                    inner = self._telling(child)
                    if self.program.act(child) is not None and self._concerns([child]) and not inner:
                        raise NotVerifiable(str(error)) from None
                    found += inner
        return found

    def _concerns(self, nodes: Iterable[ast.AST], kinds: tuple[EventKind, ...] = ()) -> bool:
        """Whether anything in these nodes affects the gradients, as far as is known."""
        every = [node for root in nodes for node in ast.walk(root)]
        found = (self.program.act(node) for node in every)
        together = not kinds and any(self.program.collective(node) not in ("", "get_world_size") for node in every)
        return together or any(act and act.kind in (kinds or _CHANGES) for act in found)

    def _assign(self, node: ast.stmt, targets: list[ast.expr], value: ast.expr) -> list[ast.stmt]:
        texts = [ast.unparse(part) for target in targets for part in _single(target)]
        if any(self.known.role(text) not in ("", "parameters") for text in texts):
            taken = self._given(value) if any(self.known.role(text) == "optimizer" for text in texts) else []
            return [*taken, *(self._expression(value) if self._concerns([value]) else [])]
        try:
            made = self.known.made(value)
            stored = [self.known.stored(target) for target in targets]
        except Unknown as error:
            if self.program.act(node):
                raise NotVerifiable(str(error)) from None
            self.known.hide(texts)
            return self._expression(value) if self._concerns([value]) or self.known.uses_up(value) else []
        self.known.holds(stored, made)
        return [ast.Assign(stored, made)]

    def _given(self, value: ast.expr) -> list[ast.stmt]:
        """An optimizer reads what it is constructed from."""
        if not isinstance(value, ast.Call):
            return []
        return [
            ast.Expr(call("list", self.known.made(arg)))
            for arg in value.args
            if is_chain(arg) and self.known.uses_up(arg)
        ]

    def _add(self, node: ast.stmt, target: ast.expr, op: ast.operator, value: ast.expr) -> list[ast.stmt]:
        if ast.unparse(target) in self.known.names.texts:
            return []
        try:
            return [ast.AugAssign(self.known.stored(target), op, self.known.made(value))]  # type: ignore[arg-type]
        except Unknown as error:
            if self.program.act(node):
                raise NotVerifiable(str(error)) from None
            self.known.hide([ast.unparse(target)])
            return self._expression(value) if self._concerns([value]) else []

    def _if(self, test: ast.expr, body: list[ast.stmt], orelse: list[ast.stmt]) -> list[ast.stmt]:
        acted = self._expression(test) if self._concerns([test]) else []
        if not body and not orelse:
            return acted
        return [*acted, ast.If(self.known.test(test), body or [ast.Pass()], orelse)]

    def _for(self, target: ast.expr, iterable: ast.expr, body: list[ast.stmt]) -> list[ast.stmt]:
        trains = self._concerns(body, _RUN_ALL)
        source, item = self.known.items(target, iterable, trains)
        if source is None:
            if self._matters(body):
                raise Unknown(ast.unparse(iterable))
            return []
        return self._loop(item, source, body)

    def _matters(self, body: list[ast.stmt]) -> bool:
        try:
            return bool(self.block(body))
        except NotVerifiable:
            return True

    def _loop(self, target: ast.expr, source: ast.expr, body: list[ast.stmt]) -> list[ast.stmt]:
        self._depth += 1
        kept = self.block(body)
        self._depth -= 1
        if not kept and not self.known.uses_up(source):
            return []
        return [ast.For(target, source, kept or [ast.Pass()], [])]

    def _with(self, items: list[ast.withitem], body: list[ast.stmt]) -> list[ast.stmt]:
        kept = [made for item in items if (made := self.known.context(item))]
        inner = self.block(body)
        return [ast.With(kept, inner)] if kept and inner else inner


def _single(target: ast.expr) -> list[ast.expr]:
    match target:
        case ast.Tuple(elts=elements) | ast.List(elts=elements):
            return [part for element in elements for part in _single(element)]
        case ast.Starred(value=value):
            return _single(value)
    return [target]


# --- removing what changes nothing ----------------------------------------------------------------------------------


class _Pruner:
    """Keeps only what affects the gradients, and what that reads; values that are merely returned are not compared."""

    def __init__(self, known: Known) -> None:
        self._known = known
        self._read: set[str] = set()

    def pruned(self, *blocks: list[ast.stmt]) -> list[list[ast.stmt]]:
        while True:
            kept = [self._block(block) for block in blocks]
            every = [node for block in kept for statement in block for node in ast.walk(statement)]
            read = {node.id for node in every if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
            if read <= self._read:
                return kept
            self._read |= read

    def _block(self, block: list[ast.stmt]) -> list[ast.stmt]:
        return [kept for node in block for kept in self._statement(node)]

    def _statement(self, node: ast.stmt) -> list[ast.stmt]:
        match node:
            case ast.Expr(value=value) if any(getattr(part, "attr", "") == "grad" for part in ast.walk(value)):
                return [node]  # which has no effect but raises if there is no gradient
            case ast.Expr(value=value):
                return self._effects(value)
            case (
                ast.Assign(targets=[ast.Name(id=name)], value=value)
                | ast.AugAssign(target=ast.Name(id=name), value=value)
            ) if name not in self._read:
                return self._effects(value)
            case ast.If(test=test, body=body, orelse=orelse):
                body, orelse = self._block(body), self._block(orelse)
                if [part for part in (*body, *orelse) if not isinstance(part, ast.Pass)]:
                    return [ast.If(test, body or [ast.Pass()], orelse)]
                return self._effects(test)
            case ast.For(target=target, iter=iterable, body=body):
                body = self._block(body)
                if body or self._known.uses_up(iterable):
                    return [ast.For(target, iterable, body or [ast.Pass()], [])]
                return []
            case ast.With(items=items, body=body):
                return [ast.With(items, self._block(body) or [ast.Pass()])]
            case ast.Pass():
                return []
        return [node]

    def _effects(self, value: ast.AST) -> list[ast.stmt]:
        """The outermost calls in an expression that have an effect, or all of it if it uses up an iterator."""
        if isinstance(value, ast.expr) and (self._known.uses_up(value) or self._acts(value)):
            return [ast.Expr(value)]
        if isinstance(value, (ast.ListComp, ast.GeneratorExp)):  # the names that it binds exist only inside it
            parts = (part for part in ast.walk(value) if isinstance(part, ast.expr))
            return [ast.Expr(value)] if any(map(self._acts, parts)) else []
        return [kept for child in ast.iter_child_nodes(value) for kept in self._effects(child)]

    def _acts(self, node: ast.expr) -> bool:
        """Whether a call affects the gradients, by itself or as a method of a harness object, or fills a list."""
        act, clip = self._known.program.act(node), self._known.program.clip(node)
        if (act is not None and act.kind in _CHANGES) or (clip is not None and clip.function != "get_total_norm"):
            return True
        match node:
            case ast.Call(func=ast.Attribute(value=ast.Name(id=name), attr="append")):
                return name in self._read
            case ast.Call(func=ast.Attribute(value=owner, attr=attr)):
                return attr == "backward" or (attr in OWN_METHODS and "__" in ast.unparse(owner))
        return False
