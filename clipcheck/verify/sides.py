"""Turns one side of an experiment into a function: the user's expressions become harness objects, paths become names.

Nothing runs here. No module is ever passed to a side: `torch.nn.utils.clip_grad_norm_`, however it is imported and
written, becomes the single name `torch__nn__utils__clip_grad_norm_`. The user's names may not contain `__`.
"""

from __future__ import annotations

import ast
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, cast

import libcst as cst

from clipcheck.python.source import Source
from clipcheck.rule import Role
from clipcheck.verify import allowed
from clipcheck.verify.allowed import CONSTANTS, FUNCTIONS, MODULES, NotVerifiable, flat_name
from clipcheck.verify.pieces import inside
from clipcheck.verify.seeds import read_before_bound

CLIPS = frozenset(f"torch.nn.utils.{name}" for name in ("clip_grad_norm", "clip_grad_norm_")) | {
    "clipcheck.runtime.clip_grad_norm_"
}
LETTERS_MOST = 20_000
# The roles for which the battery has objects.
_MADE = frozenset(
    (
        Role.PARAMETERS,
        Role.GRADIENTS,
        Role.MODEL,
        Role.OPTIMIZER,
        Role.MAX_NORM,
        Role.NORM_TYPE,
        Role.EPSILON,
        Role.SWITCH,
    )
)
_LOWER = frozenset("float half bfloat16 float32 float16".split())


class Side(NamedTuple):
    """One side of an experiment: the code of a function `site`, and the paths of the listed names in it."""

    code: str
    names: dict[str, str]


def function(body: Sequence[ast.stmt], seeds: Sequence[str], names: Mapping[str, str], own: frozenset[str]) -> Side:
    """The function `site`: takes the seeds, returns what was returned or all local values. Raises NotVerifiable.

    The check parses the very text that a worker will compile, not the syntax tree that it was made from.
    """
    text = ast.unparse(ast.Module(list(body), []))
    allowed.check(ast.parse(text), allowed.Names(names, own))
    site = ast.parse(f"def site({', '.join(seeds)}):\n    return ('locals', bound__now())").body[0]
    assert isinstance(site, ast.FunctionDef)
    site.body = [*_Returns().visit(ast.parse(text)).body, *site.body]
    return Side(ast.unparse(site), dict(names))


def in_float64(side: Side) -> Side:
    """The same side with conversions to lower precision turned into conversions to float64."""
    code = ast.unparse(_Float64(side.names).visit(ast.parse(side.code)))
    names = {name: _STILL_THERE.get(path, path) for name, path in side.names.items()}
    return Side(code, {**names, "torch__float64": "torch.float64"})


# Replacements for paths that torch no longer has.
_STILL_THERE = {"torch._six.inf": "math.inf"}


def flattened(source: Source, nodes: list[ast.stmt], spans: Sequence[tuple[int, int]], own: frozenset[str]) -> Side:
    """A side made of statements that already use the harness's names. Raises NotVerifiable."""
    loaded = _loaded(nodes) - _stored(nodes) - own
    bound = {node.arg for root in nodes for node in ast.walk(root) if isinstance(node, ast.arg)}
    origins = {name: path for name in loaded - bound if (path := origin(source, name, spans) or builtin(name))}
    if unknown := loaded - bound - set(origins):
        raise NotVerifiable(f"`{min(unknown)}` cannot be resolved")
    flat = _Flat(origins)
    return function([cast("ast.stmt", flat.visit(node)) for node in nodes], (), flat.names, own)


class Placeholders(ast.NodeTransformer):
    """Replaces the user's expressions by names of the harness, according to their `roles`.

    A name that ends in `call` replaces an expression that returns a new object each time.
    """

    def __init__(self, roles: Iterable[tuple[str, Role]]) -> None:
        self.roles: dict[str, str] = {}
        self._names: dict[str, str] = {}
        for text, role in roles:
            tree = expression(text)
            if isinstance(tree, ast.Constant) or role is Role.TOTAL:
                continue
            if role not in _MADE:
                raise NotVerifiable(f"there is no stand-in for `{text}`")
            key = ast.unparse(tree)
            if key not in self._names:
                number = sum(name.startswith(f"{role.value}__") for name in self.roles)
                fresh = any(isinstance(node, ast.Call) for node in ast.walk(tree))
                name = f"{role.value}__{number}__{'call' if fresh else 'name'}"
                self._names[key] = name
                self.roles[name] = role.value

    def own(self, role: Role, kind: str) -> ast.Name:
        """A name of the harness that replaces nothing in the user's code."""
        name = f"{role.value}__own__{kind}"
        self.roles[name] = role.value
        return ast.Name(name, ast.Load())

    def visit(self, node: ast.AST) -> ast.AST:
        match node:
            case ast.Call(func=ast.Attribute(attr="to"), args=[given]) if is_device(given):
                node = ast.Call(node.func, [ast.Constant("cpu")], node.keywords)
            case ast.keyword(arg="device", value=given) if is_device(given):
                return ast.keyword("device", ast.Constant("cpu"))
            case ast.AnnAssign(target=target, value=value):  # annotations of local variables are never evaluated
                node = ast.Assign([target], value, lineno=1) if value else ast.Pass()
        if isinstance(node, ast.expr) and isinstance(getattr(node, "ctx", ast.Load()), ast.Load):
            known = self._names.get(ast.unparse(node))
            if known is not None:
                found: ast.expr = ast.Name(known, ast.Load())
                return ast.Call(found, [], []) if known.endswith("call") else found
        match node:
            case ast.Name(id=name) | ast.arg(arg=name) if "__" in name and name not in self.roles:
                raise NotVerifiable(f"it uses `{name}`")
        return self.generic_visit(node)


def is_device(node: ast.expr) -> bool:
    """Whether an expression is, by its name, a device: the harness has one."""
    match node:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name.endswith("device")
    return False


class Body:
    """The pieces of one side as a syntax tree, and the kinds of names in them."""

    def __init__(self, source: Source, pieces: Sequence[tuple[tuple[int, int], bool]], places: Placeholders) -> None:
        spans = [span for span, _ in pieces]
        nodes: list[ast.stmt] = []
        for index, (span, whole) in enumerate(pieces):
            text = source.text[span[0] : span[1]]
            if whole:
                nodes += [cast("ast.stmt", places.visit(statement)) for statement in statements(text)]
            else:
                value = cast("ast.expr", places.visit(_value(text, source, span, places)))
                nodes.append(ast.Assign([ast.Name(f"value__{index}", ast.Store())], value, lineno=1))
        self.stored = {name for name in _stored(nodes) if not name.startswith("value__")}
        self.left = _left(nodes) & self.stored
        self.seeds = frozenset(read_before_bound(nodes)) & self.stored
        bound = self.stored | {node.arg for root in nodes for node in ast.walk(root) if isinstance(node, ast.arg)}
        loaded = _loaded(nodes) - bound - set(places.roles)
        origins = {name: path for name in loaded if (path := origin(source, name, spans))}
        self.unknown = loaded - set(origins)
        flat = _Flat(origins)
        self.nodes = [cast("ast.stmt", flat.visit(node)) for node in nodes]
        self.names = flat.names
        self.returns = any(isinstance(node, ast.Return) for root in self.nodes for node in ast.walk(root))
        self.touches_gradients = any(self._touches(node) for root in self.nodes for node in ast.walk(root))

    def _touches(self, node: ast.AST) -> bool:
        """Whether a node changes gradients in place."""
        match node:
            case ast.Call(func=ast.Attribute(attr=attr)) if attr.endswith("_"):
                return True
            case ast.Call(func=ast.Name(id=name)):
                return self.names.get(name, "").endswith(("_", ".clip_grad_norm"))
            case ast.Attribute(ctx=ast.Store()) | ast.Subscript(ctx=ast.Store()):
                return True
        return False


def _stored(nodes: Iterable[ast.AST]) -> set[str]:
    names = [node for root in nodes for node in ast.walk(root) if isinstance(node, ast.Name)]
    return {name.id for name in names if isinstance(name.ctx, ast.Store)}


def _left(nodes: Iterable[ast.AST]) -> set[str]:
    """The names that are bound after the statements; those of comprehensions are not."""
    every = [node for root in nodes for node in ast.walk(root)]
    own = {id(name) for node in every if isinstance(node, ast.comprehension) for name in ast.walk(node.target)}
    stored = (node for node in every if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store))
    return {name.id for name in stored if id(name) not in own}


def _loaded(nodes: Iterable[ast.AST]) -> set[str]:
    names = [node for root in nodes for node in ast.walk(root) if isinstance(node, ast.Name)]
    return {name.id for name in names if isinstance(name.ctx, ast.Load)}


# --- paths ----------------------------------------------------------------------------------------------------------


class _Flat(ast.NodeTransformer):
    """Replaces each path by a name; raises NotVerifiable for paths that are not listed."""

    def __init__(self, origins: Mapping[str, str]) -> None:
        self._origins = origins
        self.names: dict[str, str] = {}

    def visit(self, node: ast.AST) -> ast.AST:
        found = path_of(node, self._origins)
        if found is None:
            return self.generic_visit(node)
        if found not in FUNCTIONS and found not in CONSTANTS:
            raise NotVerifiable(f"`{found}` may not run in a verification")
        if not isinstance(getattr(node, "ctx", None), ast.Load):
            raise NotVerifiable(f"it assigns to `{found}`")
        self.names[flat_name(found)] = found
        return ast.Name(flat_name(found), ast.Load())


def path_of(node: ast.AST, origins: Mapping[str, str]) -> str | None:
    """The dotted origin of a name or of an attribute of a module; None for a value."""
    match node:
        case ast.Name(id=name):
            return origins.get(name)
        case ast.Attribute(value=value, attr=attr):
            base = path_of(value, origins)
            return allowed.canonical(f"{base}.{attr}") if base in MODULES else None
    return None


def origin(source: Source, name: str, spans: Sequence[tuple[int, int]]) -> str | None:
    """The meaning of a global name in these spans: a listed path, a parent module of one, or None."""
    found = {
        source.qualified(node)
        for node in source.nodes(cst.Name)
        if node.value == name and inside(source.span(node), spans) and not _is_attribute(source, node)
    }
    path = allowed.canonical(found.pop() or "") if len(found) == 1 else ""
    return path if path in FUNCTIONS or path in CONSTANTS or path in MODULES else None


def builtin(name: str) -> str | None:
    """The path of a builtin that the harness adds to a reduced side."""
    path = f"builtins.{name}"
    return path if path in FUNCTIONS else None


def _is_attribute(source: Source, node: cst.Name) -> bool:
    parent = source.parent(node)
    return isinstance(parent, (cst.Attribute, cst.Arg)) and (
        getattr(parent, "attr", None) is node or getattr(parent, "keyword", None) is node
    )


# --- parsing --------------------------------------------------------------------------------------------------------


def parsed(text: str) -> ast.Module:
    """Raises SyntaxError, and NotVerifiable for code that is too long."""
    if len(text) > LETTERS_MOST:
        raise NotVerifiable("it is too long")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # warnings about the user's escape sequences
        return ast.parse(text)


def expression(text: str) -> ast.expr:
    """Parses an expression, which may span lines. Raises NotVerifiable."""
    try:
        match parsed(f"({text}\n)").body:
            case [ast.Expr(value=value)]:
                return value
    except SyntaxError:
        pass
    raise NotVerifiable("its expression cannot be run alone")


def statements(text: str) -> list[ast.stmt]:
    """The statements of some whole lines, however deeply indented. Raises NotVerifiable."""
    indented = text.lstrip("\r\n").startswith((" ", "\t"))
    try:
        tree = parsed("if 1:\n" + text if indented else text)
    except SyntaxError:
        if not any(line.strip() and not line.strip().startswith("#") for line in text.splitlines()):
            return []
        raise NotVerifiable("its lines cannot be run alone") from None
    match tree.body:
        case [ast.If(body=body)] if indented:
            return body
    return tree.body


def _value(text: str, source: Source, span: tuple[int, int], places: Placeholders) -> ast.expr:
    """The expression; a clip that is not called is called with the harness's parameters and limit."""
    tree = expression(text)
    origins = {name: path for name in _loaded([tree]) if (path := origin(source, name, [span]))}
    if path_of(tree, origins) in CLIPS:
        tree = ast.Call(
            tree, [ast.Call(places.own(Role.PARAMETERS, "call"), [], []), places.own(Role.MAX_NORM, "name")], []
        )
    return tree


class _Returns(ast.NodeTransformer):
    def visit_Return(self, node: ast.Return) -> ast.Return:
        value = node.value or ast.Constant(None)
        return ast.Return(ast.Tuple([ast.Constant("return"), value], ast.Load()))


class _Float64(ast.NodeTransformer):
    """`.double()` for `.float()`, `torch.float64` for `torch.float32`, and so on."""

    def __init__(self, names: Mapping[str, str]) -> None:
        self._names = names

    def visit_Attribute(self, node: ast.Attribute) -> ast.expr:
        self.generic_visit(node)
        return ast.Attribute(node.value, "double", node.ctx) if node.attr in _LOWER else node

    def visit_Name(self, node: ast.Name) -> ast.expr:
        torch, _, name = self._names.get(node.id, "").rpartition(".")
        return ast.Name("torch__float64", node.ctx) if torch == "torch" and name in _LOWER else node
