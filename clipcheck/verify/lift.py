"""From a fix to an experiment: the statements or expressions that it replaces, before and after, as two functions.

Nothing runs here. The user's expressions that the fix's roles name become objects of the harness, the other names must
stand for functions of torch and the like, and what else the statements hold is a reason not to try.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, cast

import libcst as cst

from clipcheck.documents.program import apply
from clipcheck.python.source import Source
from clipcheck.rule import Edit, Fix, Role
from clipcheck.verify import allowed
from clipcheck.verify.allowed import NotProvable
from clipcheck.verify.pieces import apart, in_import, inside, kept, pieces

CLIPS = frozenset(f"torch.nn.utils.{name}" for name in ("clip_grad_norm", "clip_grad_norm_")) | {
    "clipcheck.runtime.clip_grad_norm_"
}
# The roles that the battery has objects for.
_MADE = frozenset(
    (Role.PARAMETERS, Role.GRADIENTS, Role.MODEL, Role.OPTIMIZER, Role.MAX_NORM, Role.NORM_TYPE, Role.EPSILON)
)
_LOWER = frozenset("float half bfloat16 float32 float16".split())


class Side(NamedTuple):
    """One side of an experiment: the text of a function `site`, and what the global names in it stand for."""

    code: str
    names: dict[str, str]


class Experiment(NamedTuple):
    """Both sides, the harness's names with their roles, the names that hold a value before, and those read later.

    `reference` is `before` with its conversions to a lower precision made ones to float64.
    A harness name that ends in `_call` stands for an expression that gives a fresh object each time.
    """

    before: Side
    after: Side
    reference: Side
    roles: dict[str, str]
    seeds: tuple[str, ...]
    kept: tuple[str, ...]


def lift(text: str, fix: Fix) -> list[Experiment]:
    """The experiments that together show what a fix does. Raises NotProvable."""
    source = Source(text)
    changed = Source(apply(text, fix.all_edits))
    edits = [edit for edit in fix.edits if not in_import(source, edit)]
    if not edits:
        return _imports_alone(source, changed, fix)
    groups = apart(source, edits)
    return [_experiment(source, changed, fix, group) for group in groups]


def _experiment(source: Source, changed: Source, fix: Fix, edits: Sequence[Edit]) -> Experiment:
    found = pieces(source, fix, edits)
    places = _Placeholders(fix.roles)
    before = _Body(source, [(piece.before, piece.whole) for piece in found], places)
    after = _Body(changed, [(piece.after, piece.whole) for piece in found], places)
    seeds = tuple(sorted(before.seeds | after.seeds))
    unknown = (before.unknown | after.unknown) - set(seeds)
    if unknown:
        raise NotProvable(f"what `{min(unknown)}` stands for is not known")
    own = frozenset(places.roles)
    for body in (before, after):
        allowed.check(body.nodes, body.origins, own)
    read = kept(source, before.stored, [piece.before for piece in found])
    observed = read or any(not piece.whole for piece in found) or before.returns or before.touches_gradients
    names = read if observed else before.stored & after.stored
    if not (observed or names):
        raise NotProvable("it leaves nothing to compare")
    old, new = before.side(seeds), after.side(seeds)
    return Experiment(old, new, _in_float64(old), places.roles, seeds, tuple(sorted(names)))


def _imports_alone(source: Source, changed: Source, fix: Fix) -> list[Experiment]:
    """Only imports change: whatever calls the names then calls the new functions, so those are compared."""
    own = {"parameters_own_call": Role.PARAMETERS.value, "max_norm_own_name": Role.MAX_NORM.value}
    found = []
    for name, bindings in source.names.module.bindings.items():
        origins = {allowed.canonical(source.names.origin(b) or "") for b in bindings}
        others = {allowed.canonical(changed.names.origin(b) or "") for b in changed.names.module.bindings.get(name, [])}
        if origins != others and origins | others <= CLIPS:
            code = f"def site():\n    return ('value', {name}(parameters_own_call(), max_norm_own_name))"
            old, new = Side(code, {name: origins.pop()}), Side(code, {name: others.pop()})
            found.append(Experiment(old, new, old, own, (), ()))
    if not found:
        raise NotProvable("only imports change, and not those of a clip")
    return found


# --- what stands in them ------------------------------------------------------------------------------------------


class _Placeholders(ast.NodeTransformer):
    """Puts harness names where the user's expressions stood; `roles` says what each of them is."""

    def __init__(self, roles: Iterable[tuple[str, Role]]) -> None:
        self.roles: dict[str, str] = {}
        self._names: dict[str, str] = {}
        for text, role in roles:
            tree = ast.parse(f"({text})", mode="eval").body
            if isinstance(tree, ast.Constant) or role is Role.TOTAL:
                continue
            if role not in _MADE:
                raise NotProvable(f"there is no stand-in for `{text}`")
            key = ast.unparse(tree)
            if key not in self._names:
                number = sum(name.startswith(f"{role.value}_") for name in self.roles)
                fresh = any(isinstance(node, ast.Call) for node in ast.walk(tree))
                name = f"{role.value}_{number}_{'call' if fresh else 'name'}"
                self._names[key] = name
                self.roles[name] = role.value

    def own(self, role: Role, kind: str) -> ast.Name:
        """A name of the harness that stands for nothing of the user's."""
        name = f"{role.value}_own_{kind}"
        self.roles[name] = role.value
        return ast.Name(name, ast.Load())

    def visit(self, node: ast.AST) -> ast.AST:
        match node:
            case ast.Call(func=ast.Attribute(attr="to"), args=[ast.Name(id=name) | ast.Attribute(attr=name)]) if (
                name.endswith("device")
            ):
                node = ast.Call(node.func, [ast.Constant("cpu")], node.keywords)
        if isinstance(node, ast.expr) and isinstance(getattr(node, "ctx", ast.Load()), ast.Load):
            known = self._names.get(ast.unparse(node))
            if known is not None:
                found: ast.expr = ast.Name(known, ast.Load())
                return ast.Call(found, [], []) if known.endswith("_call") else found
        return self.generic_visit(node)


class _Body:
    """The pieces of one side as syntax, and what the names in them are."""

    def __init__(self, source: Source, pieces: Sequence[tuple[tuple[int, int], bool]], places: _Placeholders) -> None:
        self.nodes: list[ast.stmt] = []
        for index, (span, whole) in enumerate(pieces):
            text = source.text[span[0] : span[1]]
            statements = _statements(text) if whole else [_value(text, index, source, span, places)]
            self.nodes += [cast("ast.stmt", places.visit(statement)) for statement in statements]
        names = [node for root in self.nodes for node in ast.walk(root) if isinstance(node, ast.Name)]
        self.stored = {name.id for name in names if isinstance(name.ctx, ast.Store)}
        self.stored = {name for name in self.stored if not name.startswith("value_")}
        self.seeds = frozenset(_read_before_bound(self.nodes)) & self.stored
        loaded = {name.id for name in names if isinstance(name.ctx, ast.Load)} - self.stored - set(places.roles)
        self.origins = {name: path for name in loaded if (path := _origin(source, name, [s for s, _ in pieces]))}
        self.unknown = loaded - set(self.origins)
        self.returns = any(isinstance(node, ast.Return) for root in self.nodes for node in ast.walk(root))
        self.touches_gradients = any(self._touches(node) for root in self.nodes for node in ast.walk(root))

    def _touches(self, node: ast.AST) -> bool:
        """Whether a node changes gradients in place."""
        match node:
            case ast.Call(func=ast.Attribute(attr=attr)) if attr.endswith("_"):
                return True
            case ast.Call(func=func):
                return allowed.path(func, self.origins) in CLIPS
            case ast.Attribute(ctx=ast.Store()) | ast.Subscript(ctx=ast.Store()):
                return True
        return False

    def side(self, seeds: Sequence[str]) -> Side:
        """The function `site`: takes the seeds, returns what was returned or all local values."""
        body = [_Returns().visit(node) for node in self.nodes]
        end = ast.parse("('locals', locals())", mode="eval").body
        arguments = ast.arguments([], [ast.arg(name) for name in seeds], None, [], [], None, [])
        function = ast.FunctionDef("site", arguments, [*body, ast.Return(end)], [], None)
        if hasattr(function, "type_params"):
            function.type_params = []
        return Side(ast.unparse(ast.fix_missing_locations(ast.Module([function], []))), self.origins)


def _in_float64(side: Side) -> Side:
    return side._replace(code=ast.unparse(_Float64(side.names).visit(ast.parse(side.code))))


class _Float64(ast.NodeTransformer):
    """`.double()` for `.float()`, `torch.float64` for `torch.float32`, and so on."""

    def __init__(self, names: Mapping[str, str]) -> None:
        self._names = names

    def visit_Attribute(self, node: ast.Attribute) -> ast.expr:
        self.generic_visit(node)
        path = allowed.path(node, self._names)
        if path is None:
            return ast.Attribute(node.value, "double", node.ctx) if node.attr in _LOWER else node
        torch, _, name = path.rpartition(".")
        return ast.Attribute(node.value, "float64", node.ctx) if torch == "torch" and name in _LOWER else node


class _Returns(ast.NodeTransformer):
    def visit_Return(self, node: ast.Return) -> ast.Return:
        value = node.value or ast.Constant(None)
        return ast.Return(ast.Tuple([ast.Constant("return"), value], ast.Load()))


def _statements(text: str) -> list[ast.stmt]:
    """The statements of some whole lines, however deep they stand."""
    indented = text.lstrip("\r\n")[:1].isspace()
    try:
        tree = ast.parse("if 1:\n" + text if indented else text)
    except SyntaxError:
        if not _has_code(text):
            return []
        raise NotProvable("its lines do not stand alone") from None
    return tree.body[0].body if indented and isinstance(tree.body[0], ast.If) else tree.body


def _has_code(text: str) -> bool:
    return any(line.strip() and not line.strip().startswith("#") for line in text.splitlines())


def _value(text: str, index: int, source: Source, span: tuple[int, int], places: _Placeholders) -> ast.stmt:
    """`value_0 = <expression>`; a clip that is not called is called with parameters and a limit of the harness."""
    try:
        tree = ast.parse(f"({text})", mode="eval").body
    except SyntaxError:
        raise NotProvable("its expression does not stand alone") from None
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    origins = {name: path for name in names if (path := _origin(source, name, [span]))}
    if allowed.path(tree, origins) in CLIPS:
        tree = ast.Call(
            tree, [ast.Call(places.own(Role.PARAMETERS, "call"), [], []), places.own(Role.MAX_NORM, "name")], []
        )
    return ast.Assign([ast.Name(f"value_{index}", ast.Store())], tree, lineno=1)


def _origin(source: Source, name: str, spans: Sequence[tuple[int, int]]) -> str | None:
    """What a global name stands for in these stretches: an allowed function, a module on the way to one, or None."""
    found = {
        source.qualified(node)
        for node in source.nodes(cst.Name)
        if node.value == name and inside(source.span(node), spans) and not _is_attribute(source, node)
    }
    path = found.pop() if len(found) == 1 else None
    return path if path and (path in allowed.FUNCTIONS or path in allowed.PREFIXES) else None


def _is_attribute(source: Source, node: cst.Name) -> bool:
    parent = source.parent(node)
    return isinstance(parent, (cst.Attribute, cst.Arg)) and (
        getattr(parent, "attr", None) is node or getattr(parent, "keyword", None) is node
    )


def _read_before_bound(statements: Sequence[ast.stmt]) -> Iterator[str]:
    """The names whose value from before is read, in the order of execution; branches count as taken."""
    bound: set[str] = set()

    def reads(node: ast.AST | None) -> Iterator[str]:
        if node is None:
            return
        inner = {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
        for name in ast.walk(node):
            if isinstance(name, ast.Name) and isinstance(name.ctx, ast.Load) and name.id not in bound | inner:
                yield name.id

    def binds(target: ast.AST) -> None:
        bound.update(n.id for n in ast.walk(target) if isinstance(n, ast.Name))

    def run(block: Sequence[ast.stmt]) -> Iterator[str]:
        for statement in block:
            match statement:
                case ast.Assign(targets=targets, value=value):
                    yield from reads(value)
                    for target in targets:
                        binds(target)
                case ast.AugAssign(target=ast.Name(id=name), value=value):
                    yield from reads(value)
                    if name not in bound:
                        yield name
                case ast.For(target=target, iter=iterable, body=body):
                    yield from reads(iterable)
                    binds(target)
                    yield from run(body)
                case ast.If(test=test, body=body, orelse=orelse):
                    yield from reads(test)
                    yield from run(body)
                    yield from run(orelse)
                case ast.With(body=body):
                    yield from run(body)
                case _:
                    yield from reads(statement)

    yield from run(statements)
