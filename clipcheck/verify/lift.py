"""From a fix to an experiment: the statements or expressions that it replaces, before and after, as two functions.

Nothing runs here. The user's expressions that the fix's roles name become objects of the harness, the other names must
stand for functions of torch and the like, and what else the statements hold is a reason not to try.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, cast

import libcst as cst

from clipcheck import document
from clipcheck.flow import reached
from clipcheck.rule import Edit, Fix, Role
from clipcheck.source import Source
from clipcheck.verify import allowed
from clipcheck.verify.allowed import NotProvable

CLIPS = frozenset(f"torch.nn.utils.{name}" for name in ("clip_grad_norm", "clip_grad_norm_")) | {
    "clipcheck.runtime.clip_grad_norm_"
}
# The roles that the battery has objects for.
_MADE = frozenset(
    (Role.PARAMETERS, Role.GRADIENTS, Role.MODEL, Role.OPTIMIZER, Role.MAX_NORM, Role.NORM_TYPE, Role.EPSILON)
)
_LOWER = frozenset("float half bfloat16 float32 float16".split())
_EDITED_IMPORTS = (cst.Import, cst.ImportFrom)


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


class _Piece(NamedTuple):
    """A stretch of both texts: whole statements, or an expression."""

    before: tuple[int, int]
    after: tuple[int, int]
    whole: bool


def lift(text: str, fix: Fix) -> list[Experiment]:
    """The experiments that together show what a fix does. Raises NotProvable."""
    source = Source(text)
    changed = Source(document.apply(text, fix.all_edits))
    edits = [edit for edit in fix.edits if not _in_import(source, edit)]
    if not edits:
        return _imports_alone(source, changed, fix)
    groups = _apart(source, edits)
    return [_experiment(source, changed, fix, group) for group in groups]


def _apart(source: Source, edits: Sequence[Edit]) -> list[list[Edit]]:
    """Edits of expressions in different statements show what they do each by itself; others only together."""
    groups: dict[cst.CSTNode, list[Edit]] = {}
    for edit in edits:
        found = _smallest(source, edit)
        if found is None:
            return [list(edits)]
        groups.setdefault(source.statement(found), []).append(edit)
    free = all(_is_function(source, edit) for edit in edits)
    return list(groups.values()) if free else [list(edits)]


def _is_function(source: Source, edit: Edit) -> bool:
    """Whether an edit only exchanges one function for another."""
    node = _smallest(source, edit)
    return node is not None and source.qualified(node) in allowed.FUNCTIONS


def _experiment(source: Source, changed: Source, fix: Fix, edits: Sequence[Edit]) -> Experiment:
    pieces = _pieces(source, changed, fix, edits)
    places = _Placeholders(fix.roles)
    before = _Body(source, [(piece.before, piece.whole) for piece in pieces], places)
    after = _Body(changed, [(piece.after, piece.whole) for piece in pieces], places)
    seeds = tuple(sorted(before.seeds | after.seeds))
    unknown = (before.unknown | after.unknown) - set(seeds)
    if unknown:
        raise NotProvable(f"what `{min(unknown)}` stands for is not known")
    own = frozenset(places.roles)
    for body in (before, after):
        allowed.check(body.nodes, body.origins, own)
    kept = _kept(source, before.stored, [piece.before for piece in pieces])
    observed = kept or any(not piece.whole for piece in pieces) or before.returns or before.touches_gradients
    names = kept if observed else before.stored & after.stored
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


# --- which stretches ----------------------------------------------------------------------------------------------


def _pieces(source: Source, changed: Source, fix: Fix, edits: Sequence[Edit]) -> list[_Piece]:
    shift = _Shift(fix.all_edits)
    single = _one_expression(source, edits)
    if single is not None:
        return [_Piece(single, shift.stretch(*single), whole=False)]
    statements = _covering(source, edits)
    pieces: list[_Piece] = []
    for group in _grouped(source, statements, edits):
        lines = _lines(source, group)
        here = [edit for edit in edits if lines[0] <= edit.start and edit.end <= lines[1]]
        pieces += _statement_pieces(source, group, lines, here, shift)
    return pieces


def _statement_pieces(
    source: Source, group: list[cst.CSTNode], lines: tuple[int, int], edits: Sequence[Edit], shift: _Shift
) -> Iterator[_Piece]:
    """The group as a whole, or only the edited expressions where the rest of a statement is none of our business."""
    if len(group) == 1 and edits:
        expressions = [_one_expression(source, [edit]) for edit in edits]
        if all(expressions) and not _is_arithmetic(source, group[0]):
            for span in dict.fromkeys(span for span in expressions if span):
                yield _Piece(span, shift.stretch(*span), whole=False)
            return
    yield _Piece(lines, shift.stretch(*lines), whole=True)


def _is_arithmetic(source: Source, statement: cst.CSTNode) -> bool:
    """Whether a statement is an assignment, a return or a loop, and not the call of something unknown."""
    match statement:
        case cst.SimpleStatementLine(body=[cst.Expr(value=cst.Call())]):
            return False
        case cst.If() | cst.With() | cst.While() | cst.Try():
            return False
    return True


def _one_expression(source: Source, edits: Sequence[Edit]) -> tuple[int, int] | None:
    """The span of the smallest expression that holds all edits; for the function of a call, that of the call."""
    whole = Edit(min(edit.start for edit in edits), max(edit.end for edit in edits), "")
    node = _smallest(source, whole)
    if node is None:
        return None
    above = source.parent(node)
    if isinstance(above, cst.Attribute) and above.attr is node:
        node, above = above, source.parent(above)
    if isinstance(above, cst.Call) and above.func is node:
        node, above = above, source.parent(above)
    if isinstance(above, (cst.AssignTarget, cst.AugAssign)) and node is above.target:
        return None
    return source.outer_span(node)


def _smallest(source: Source, edit: Edit) -> cst.BaseExpression | None:
    """The smallest expression whose text holds the edit's, an insertion included."""
    start, end = _trimmed(source.text, edit)
    best: tuple[int, cst.BaseExpression] | None = None
    for node in source.walk(source.module):
        if isinstance(node, cst.BaseExpression):
            first, last = source.span(node)
            if first <= start and end <= last and (best is None or last - first <= best[0]):
                best = last - first, node
    return best[1] if best else None


def _trimmed(text: str, edit: Edit) -> tuple[int, int]:
    """The edit's stretch without white space at its ends."""
    replaced = text[edit.start : edit.end]
    if not replaced.strip():
        return edit.start, edit.start
    return edit.start + len(replaced) - len(replaced.lstrip()), edit.end - len(replaced) + len(replaced.rstrip())


def _covering(source: Source, edits: Sequence[Edit]) -> list[cst.CSTNode]:
    """The statements of the innermost block that hold all edits, from the first edited one to the last."""
    low, high = (pick(_trimmed(source.text, e)[i] for e in edits) for i, pick in ((0, min), (1, max)))
    best: list[cst.CSTNode] = []
    blocks: list[cst.IndentedBlock | cst.Module] = [*source.nodes(cst.IndentedBlock), source.module]
    for block in blocks:
        body: list[cst.CSTNode] = list(block.body)
        touched = [i for i, item in enumerate(body) if _overlap(_lines(source, [item]), (low, high))]
        if not touched:
            continue
        run = body[touched[0] : touched[-1] + 1]
        first, last = _lines(source, run)
        if first <= low and high <= last and (not best or last - first < _width(_lines(source, best))):
            best = run
    if not best:
        raise NotProvable("the edits do not lie in one block")
    return best


def _width(span: tuple[int, int]) -> int:
    return span[1] - span[0]


def _overlap(one: tuple[int, int], other: tuple[int, int]) -> bool:
    return one[0] < max(other[1], other[0] + 1) and other[0] < one[1]


def _grouped(source: Source, statements: list[cst.CSTNode], edits: Sequence[Edit]) -> list[list[cst.CSTNode]]:
    """Statements side by side, those that one edit spans taken together."""
    groups: list[list[cst.CSTNode]] = []
    for statement in statements:
        lines = _lines(source, [statement])
        joined = groups and any(
            edit.start < _lines(source, groups[-1])[1]
            and lines[0] < edit.end
            and _overlap(lines, _trimmed(source.text, edit))
            for edit in edits
        )
        if joined and groups:
            groups[-1].append(statement)
        else:
            groups.append([statement])
    return groups


def _lines(source: Source, statements: Sequence[cst.CSTNode]) -> tuple[int, int]:
    """From the start of the first line to behind the end of the last."""
    start, end = source.span(statements[0])[0], source.span(statements[-1])[1]
    last = source.line_at(max(start, end - 1))
    stop = source.line_starts[last] if last < len(source.line_starts) else len(source.text)
    return source.line_starts[source.line_at(start) - 1], stop


class _Shift:
    """Where a stretch of the old text lies in the new one."""

    def __init__(self, edits: Iterable[Edit]) -> None:
        self._edits = sorted(edits)

    def stretch(self, start: int, end: int) -> tuple[int, int]:
        return self._moved(start, behind=False), self._moved(end, behind=True)

    def _moved(self, offset: int, behind: bool) -> int:
        """`behind`: an insertion at the very offset counts as in front of it; that of an import always does."""
        done = [
            e
            for e in self._edits
            if e.end < offset or (e.end == offset and (behind or e.start < e.end or _adds_import(e)))
        ]
        return offset + sum(len(e.text) - (e.end - e.start) for e in done)


def _in_import(source: Source, edit: Edit) -> bool:
    """Whether an edit changes an import statement, or adds one."""
    if _adds_import(edit):
        return True
    start, end = _trimmed(source.text, edit)
    return any(
        first <= start and end <= last
        for node in source.nodes(*_EDITED_IMPORTS)
        for first, last in [source.span(source.statement(node))]
    )


def _adds_import(edit: Edit) -> bool:
    return edit.start == edit.end and edit.text.split()[:1] in (["import"], ["from"])


def _kept(source: Source, stored: Iterable[str], spans: Sequence[tuple[int, int]]) -> set[str]:
    """The names whose value from the pieces is read by code outside of them."""
    kept = set()
    for name in stored:
        for scope in source.names.scopes.values():
            inside = [b for b in scope.bindings.get(name, []) if _inside(source.span(b.node), spans)]
            if any(not _inside(source.span(use), spans) for use in reached(source, scope, inside)):
                kept.add(name)
    return kept


def _inside(span: tuple[int, int], spans: Sequence[tuple[int, int]]) -> bool:
    return any(first <= span[0] and span[1] <= last for first, last in spans)


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
        if node.value == name and _inside(source.span(node), spans) and not _is_attribute(source, node)
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
