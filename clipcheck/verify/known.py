"""Translates expressions of a training step into the harness's names, as far as they are known."""

from __future__ import annotations

import ast
from collections.abc import Iterable
from itertools import count
from typing import cast

from clipcheck.training.acts import Act, EventKind
from clipcheck.verify.allowed import ATTRIBUTES, CONSTANTS, FUNCTIONS, METHODS, OWN_METHODS, NotVerifiable
from clipcheck.verify.called import as_called, copied
from clipcheck.verify.parts import Parts, clip_of, is_chain, last_part
from clipcheck.verify.program import Program
from clipcheck.verify.sides import is_device, origin, path_of

_ATTRIBUTES = {*ATTRIBUTES, *METHODS, *OWN_METHODS}
_COMPREHENSIONS = (ast.ListComp, ast.GeneratorExp)
# Names of the harness that do not replace anything in the user's code.
OWN = ("turns__own__call", "turn__own__item", "loss__0__call", "batches__0__call")


class Unknown(NotVerifiable):
    """The harness does not know what `text` means."""

    def __init__(self, text: str) -> None:
        super().__init__(f"`{text[:60]}` cannot be resolved")


class Known(ast.NodeTransformer):
    """Translates into the harness's names. Raises Unknown, and NotVerifiable for what the harness cannot run.

    `local` maps expressions to which the code assigns something known to the names that hold it; `opaque` are those to
    which it assigns something else.
    """

    def __init__(self, program: Program, index: int, names: Parts, opaque: frozenset[str]) -> None:
        self.program = program
        self.names = names
        self.opaque = opaque
        self.local: dict[str, str] = {}
        self.held: set[str] = set()
        self._spans = program.spans(index)
        self._bound: set[str] = set()
        self._contexts: set[str] = set()  # the losses that a `with` binds

    def made(self, node: ast.expr) -> ast.expr:
        """The expression in the harness's names."""
        before = set(self._bound)
        try:
            return cast("ast.expr", self.visit(copied(node)))
        finally:
            self._bound = before

    def role(self, text: str) -> str:
        return self.names.roles[self.names.texts[text]] if text in self.names.texts else ""

    def hide(self, texts: Iterable[str]) -> None:
        self.opaque |= frozenset(texts)

    def held_by(self, names: Iterable[str]) -> list[str]:
        """The expressions whose values are in these local names."""
        wanted = set(names)
        return [text for text, name in self.local.items() if name in wanted]

    # --- names ------------------------------------------------------------------------------------------------------

    def stored(self, target: ast.expr) -> ast.expr:
        """The target of an assignment, as a local name if it is a plain one."""
        match target:
            case ast.Name(id=name):
                return self._local(name, name)
            case ast.Attribute(attr="grad" | "data") | ast.Subscript():
                return self.made(target)
            case ast.Attribute() if is_chain(target):
                return self._local(ast.unparse(target), self._fresh())
            case ast.Tuple(elts=elements):
                return ast.Tuple([self.stored(element) for element in elements], ast.Store())
        raise Unknown(ast.unparse(target))

    def _local(self, text: str, name: str) -> ast.Name:
        if text in self.opaque:
            raise Unknown(text)
        return ast.Name(self.local.setdefault(text, name), ast.Store())

    def _fresh(self) -> str:
        """A name that neither the program nor another expression uses."""
        used = self.local.values()
        numbers = (f"local_{number}" for number in count())
        return next(name for name in numbers if name not in self.program.source.text and name not in used)

    def _place(self, role: str, kind: str = "name") -> ast.Name:
        """The harness's name for something that has none."""
        name = f"{role}__own__{kind}"
        self.names.roles.setdefault(name, role)
        return ast.Name(name, ast.Load())

    # --- expressions ------------------------------------------------------------------------------------------------

    def visit(self, node: ast.AST) -> ast.AST:
        act = self.program.act(node)
        if isinstance(node, ast.Call) and (kind := self.program.collective(node)):
            return self._collective(node, kind)
        if act is not None and isinstance(node, ast.Call):
            return self._act(node, act)
        if isinstance(node, ast.expr) and isinstance(getattr(node, "ctx", ast.Load()), ast.Load):
            text = ast.unparse(node)
            name = self.names.texts.get(text)
            if name is not None and text not in self.local and base(node) not in self._bound:
                return ast.Name(name, ast.Load())
        match node:
            case ast.keyword(arg="device", value=given) if is_device(given):
                return ast.keyword("device", ast.Constant("cpu"))
            case ast.Name(id=name) if name not in self._bound and name not in self.names.roles and name not in OWN:
                return self._name(node)
            case ast.Attribute() if ast.unparse(node) in self.local:
                return ast.Name(self.local[ast.unparse(node)], node.ctx)
            case ast.Attribute() if is_chain(node) and self._is_global(base(node)):
                return self._path(node)
            case ast.Attribute(attr=attr) if attr not in _ATTRIBUTES:
                raise Unknown(ast.unparse(node))
            case ast.Lambda(args=arguments):
                self._bound |= {argument.arg for argument in arguments.args}
            case _ if isinstance(node, _COMPREHENSIONS):
                self._bound |= {name for part in node.generators for name in bound_in(part.target)}
        return self.generic_visit(node)

    def _name(self, node: ast.Name) -> ast.expr:
        if node.id in self.opaque or "__" in node.id:
            raise Unknown(node.id)
        if node.id in self.local:
            return ast.Name(self.local[node.id], node.ctx)
        return self._path(node) if isinstance(node.ctx, ast.Load) else node

    def _is_global(self, name: str) -> bool:
        known = name in self._bound or name in self.local or name in self.names.roles or name in self.names.texts
        return not known and origin(self.program.source, name, self._spans) is not None

    def _path(self, node: ast.Name | ast.Attribute) -> ast.expr:
        """A function or a constant of a library."""
        name = base(node)
        found = path_of(node, {name: origin(self.program.source, name, self._spans) or ""})
        if found not in FUNCTIONS and found not in CONSTANTS:
            raise Unknown(ast.unparse(node))
        return node

    def _act(self, node: ast.Call, act: Act) -> ast.AST:
        match act.kind:
            case EventKind.BACKWARD:
                return self._backward(node, act)
            case EventKind.CLIP if self.program.clip(node) is not None:
                return self._clip(node)
            case EventKind.STEP if act.wrapper or len(node.args) > (act.scaler is not None) or node.keywords:
                raise NotVerifiable(f"there is no stand-in for `{ast.unparse(node)[:60]}`")
            case EventKind.UNKNOWN:
                raise Unknown(ast.unparse(node.func))
            case EventKind.CLIP if not clip_of(self.program, node, act):
                raise NotVerifiable(f"there is no stand-in for `{ast.unparse(node.func)}`")
            case EventKind.ZERO_GRAD if act.subject is not None:
                node.args, node.keywords = [], []
        return self.generic_visit(node)

    def _collective(self, node: ast.Call, kind: str) -> ast.expr:
        """A collective call, as a call of the harness's group."""
        given = {last_part(value) for value in (*node.args[1:], *(keyword.value for keyword in node.keywords))}
        if kind == "all_reduce":
            if not given <= {"SUM", "AVG"}:
                raise NotVerifiable(f"there is no stand-in for `{ast.unparse(node)[:60]}`")
            kind = "all_average" if "AVG" in given else kind
        arguments = [cast("ast.expr", self.visit(arg)) for arg in node.args[:1]]
        return call(ast.Attribute(self._place("group"), kind, ast.Load()), *arguments)

    def _backward(self, node: ast.Call, act: Act) -> ast.expr:
        loss: ast.expr = call("loss__0__call")
        match node.func:
            case ast.Attribute(value=ast.Name(id=name)) if name in self._contexts:
                return call(ast.Attribute(ast.Name(name, ast.Load()), "backward", ast.Load()))
            case ast.Attribute(value=receiver) if act.wrapper:
                if self.role(ast.unparse(receiver)) not in ("accelerator", "fabric"):
                    raise NotVerifiable(f"there is no stand-in for `{ast.unparse(node.func)}`")
                return call(ast.Attribute(self.made(receiver), "backward", ast.Load()), loss)
        if act.scaler is not None:
            scaler = ast.Name(self.names.texts[as_called(node, self.program.text(act.scaler))], ast.Load())
            loss = call(ast.Attribute(scaler, "scale", ast.Load()), loss)
        return call(ast.Attribute(loss, "backward", ast.Load()))

    def _clip(self, node: ast.Call) -> ast.expr:
        """A call that clips. A limit that is more than a name is replaced as a whole by the harness's limit."""
        match node.args:
            case [ast.Attribute(attr="parameters"), *rest]:  # the method itself
                node.args = [self._place("method"), *rest]
        return cast("ast.expr", self.generic_visit(node))

    def uses_up(self, node: ast.expr) -> bool:
        """Whether an expression reads a local value that contains harness objects and may be an iterator.

        A value whose attribute is read is not an iterator.
        """
        owners = {id(part.value) for part in ast.walk(node) if isinstance(part, ast.Attribute)}
        read = (part for part in ast.walk(node) if is_chain(part) and id(part) not in owners)
        return any(ast.unparse(part) in self.held for part in read)

    def holds(self, stored: Iterable[ast.expr], value: ast.expr) -> None:
        """Records whether an assigned value contains harness objects and may be an iterator."""
        if self.program.clip(value) is not None:
            return
        read = {part.id for part in ast.walk(value) if isinstance(part, ast.Name)}
        if any(name in self.held or name in OWN or name in self.names.roles for name in read):
            names = {part.id for target in stored for part in ast.walk(target) if isinstance(part, ast.Name)}
            self.held |= names | {text for text, name in self.local.items() if name in names}

    # --- tests, loops, blocks ---------------------------------------------------------------------------------------

    def test(self, node: ast.expr) -> ast.expr:
        """A test that is known, or one whose outcome the harness chooses; a number used as a divisor is 2."""
        for part in ast.walk(node):
            match part:
                case ast.BinOp(op=ast.Mod(), right=right):
                    self.counts(right)
        try:
            return self.made(node)
        except Unknown:
            role = "choice" if self._is_settled(node) else "flag"
            number = sum(known == role for known in self.names.roles.values())
            name = self.names.texts.setdefault("test " + ast.unparse(node), f"{role}__{number}__call")
            self.names.roles[name] = role
            return call(name)

    def counts(self, node: ast.expr) -> None:
        """Records that a value is used as a divisor, so that it is a number if nothing else is known about it."""
        if is_chain(node) and ast.unparse(node) not in self.local:
            self.names.texts.setdefault(ast.unparse(node), self._place("count").id)

    def _is_settled(self, test: ast.expr) -> bool:
        """Whether a test has the same outcome each time: it reads attributes of `self` that only `__init__` sets."""
        read = [part for part in ast.walk(test) if isinstance(part, (ast.Call, ast.Name, ast.Attribute))]
        plain = all(isinstance(part, ast.Attribute) or ast.unparse(part) == "self" for part in read)
        return plain and self.program.changing.isdisjoint(map(ast.unparse, read))

    def batches(self) -> ast.expr:
        return call("batches__0__call")

    def items(self, target: ast.expr, iterable: ast.expr, trains: bool) -> tuple[ast.expr | None, ast.expr]:
        """What a loop iterates over (None if unknown), and the names that it binds."""
        match iterable:
            case ast.Call(func=ast.Name(id="enumerate"), args=[_, *start], keywords=[]) if trains:
                match target:
                    case ast.Tuple(elts=[ast.Name() as index, _]):
                        names = [ast.Name(self._local_name(index.id), ast.Store()), ast.Name("_", ast.Store())]
                        counted = call("enumerate", self.batches(), *(self.made(each) for each in start))
                        return counted, ast.Tuple(cast("list[ast.expr]", names), ast.Store())
        is_range = isinstance(iterable, ast.Call) and ast.unparse(iterable.func) == "range"
        if not (is_range and trains):
            try:
                made = self.made(iterable)
                self._bound |= bound_in(target)
                return made, target
            except Unknown:
                if not trains:
                    return None, target
        match target:
            case ast.Name(id=name):
                return self.batches(), ast.Name(self._local_name(name), ast.Store())
        self.hide(bound_in(target))
        return self.batches(), ast.Name("_", ast.Store())

    def _local_name(self, name: str) -> str:
        self.local[name] = name
        return name

    def context(self, item: ast.withitem) -> ast.withitem | None:
        """The context managers of a `with` that matter to the gradients."""
        match item.context_expr:
            case ast.Call(func=ast.Attribute(value=owner, attr="scale_loss")) if self.role(ast.unparse(owner)) == "amp":
                assert isinstance(item.context_expr, ast.Call)
                given = [call("loss__0__call"), *(self.made(arg) for arg in item.context_expr.args[1:])]
                inner = ast.Attribute(self.made(owner), "scale_loss", ast.Load())
                self._contexts |= bound_in(item.optional_vars) if item.optional_vars else set()
                return ast.withitem(call(inner, *given), item.optional_vars)
            case ast.Call(func=ast.Attribute(value=owner, attr="skip_synchronize"), args=[]):
                return ast.withitem(self.made(item.context_expr), None)
        return None


def base(node: ast.AST) -> str:
    """The name that a chain of attributes begins with; "" for anything else."""
    match node:
        case ast.Name(id=name):
            return name
        case ast.Attribute(value=value):
            return base(value)
    return ""


def call(function: str | ast.expr, *args: ast.expr) -> ast.Call:
    return ast.Call(ast.Name(function, ast.Load()) if isinstance(function, str) else function, list(args), [])


def bound_in(target: ast.AST) -> set[str]:
    return {node.id for node in ast.walk(target) if isinstance(node, ast.Name)}
