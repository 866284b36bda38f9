"""The first line of defense: an allowlist of what lifted code may contain. Anything else never reaches a worker.

Code is checked as it will run: a library function is a name whose path is given, an object of the harness is one of the
harness's names, and everything else is a value computed from these.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

NODES_MOST = 3000
INTEGER_MOST = 1 << 20
POWER_MOST = 64
REPEATS_MOST = 1000
ELEMENTS_MOST = 1 << 20


def _entries(text: str) -> dict[str, frozenset[str]]:
    """Parses a list of `name(keyword keyword)`: the keywords that each function may be called with."""
    return {name: frozenset(words.split()) for name, words in re.findall(r"([\w.]+)(?:\(([\w ]*)\))?", text)}


# Functions that may be called by path. None of them opens, loads, imports, evaluates, compiles, writes or waits.
FUNCTIONS = _entries("""
    builtins.abs builtins.all builtins.any builtins.bool builtins.enumerate(start) builtins.filter builtins.float
    builtins.int builtins.len builtins.list builtins.map builtins.max(default key) builtins.min(default key)
    builtins.pow builtins.range builtins.reversed builtins.round(ndigits) builtins.sum(start) builtins.tuple
    builtins.zip(strict)
    functools.reduce itertools.chain itertools.chain.from_iterable
    math.fsum math.hypot math.isfinite math.isinf math.isnan math.pow math.sqrt
    numpy.array(dtype) numpy.float32 numpy.float64 numpy.isfinite numpy.isinf numpy.isnan
    numpy.linalg.norm(axis keepdims ord) numpy.max(axis keepdims) numpy.power numpy.sqrt numpy.square numpy.sum(axis dtype keepdims)
    torch.abs torch.as_tensor(device dtype) torch.cat(dim) torch.clamp(max min) torch.clamp_(max min) torch.dot torch.isfinite torch.isinf
    torch.isnan torch.linalg.norm(dim dtype keepdim ord) torch.linalg.vector_norm(dim dtype keepdim ord)
    torch.logical_or torch.max(dim keepdim) torch.mean(dim dtype keepdim) torch.min(dim keepdim) torch.no_grad
    torch.norm(dim dtype keepdim p) torch.pow torch.sqrt torch.square torch.stack(dim) torch.sum(dim dtype keepdim)
    torch.tensor(device dtype requires_grad) torch.Tensor torch.where torch.zeros(device dtype requires_grad)
    torch.zeros_like(device dtype)
    torch.nn.utils.clip_grad_norm(error_if_nonfinite foreach max_norm norm_type parameters)
    torch.nn.utils.clip_grad_norm_(error_if_nonfinite foreach max_norm norm_type parameters)
    torch.nn.utils.clip_grad_value_(clip_value foreach parameters)
    torch.nn.utils.clip_grads_with_norm_(foreach max_norm parameters total_norm)
    torch.nn.utils.get_total_norm(error_if_nonfinite foreach norm_type tensors)
    clipcheck.runtime.clip_grad_norm_(error_if_nonfinite foreach max_norm norm_type parameters)
    clipcheck.runtime.clip_grads_with_norm_(foreach max_norm parameters total_norm)
    clipcheck.runtime.get_total_norm(error_if_nonfinite foreach norm_type tensors)
    clipcheck.runtime.grad_norm(error_if_nonfinite foreach norm_type parameters)
""")
CONSTANTS = frozenset(
    ["math.inf", "math.pi", "numpy.inf", "torch._six.inf"]
    + [f"torch.{name}" for name in "bfloat16 double float float16 float32 float64 half inf".split()]
)
# Functions that may be passed as callbacks, as lambdas may.
VALUES = frozenset(
    "builtins.abs builtins.bool builtins.float builtins.int builtins.len builtins.list builtins.sum math.sqrt "
    "torch.abs torch.isfinite torch.isinf torch.isnan torch.linalg.norm torch.linalg.vector_norm torch.norm "
    "torch.sqrt torch.square torch.sum".split()
)
CALLERS = frozenset(["builtins.filter", "builtins.map", "functools.reduce"])
# Calls whose arguments are sizes.
_SIZED = frozenset(["builtins.range", "torch.Tensor", "torch.zeros"])
# The parent modules of all these, which may not be used in any other way.
MODULES = frozenset(
    path.rsplit(".", cut)[0] for path in (*FUNCTIONS, *CONSTANTS) for cut in range(1, path.count(".") + 1)
) | {"torch.nn.utils.clip_grad"}

# Methods of gradients, parameters, tensors, arrays, modules and lists; then attributes that are not methods.
METHODS = _entries("""
    _values abs add(alpha other) add_(alpha other) all(axis dim keepdim) any(axis dim keepdim) append backward bfloat16
    children
    clamp(max min) clamp_(max min) clamp_max clone coalesce contiguous cpu detach dim div(other) div_(other) dot double
    flatten float half isfinite isinf isnan item max(axis dim keepdim) mean(axis dim dtype keepdim)
    min(axis dim keepdim) modules mul(other) mul_(other) named_parameters(prefix recurse) norm(dim dtype keepdim p) numel
    numpy(force) parameters(recurse) pow(exponent) ravel reshape size(dim) sqrt square sum(axis dim dtype keepdim)
    to(device dtype non_blocking) tolist type values view zero_
""")
# Methods of the harness's objects, called on its names: an optimizer, a scaler, a wrapper of them.
OWN_METHODS = _entries("""
    all_average all_reduce backward clip_grad_norm_(max_norm norm_type parameters) clip_grad_value_(clip_value parameters)
    clip_gradients(clip_val error_if_nonfinite max_norm norm_type) get_world_size master_params optimizer_step
    reduce_gradients scale skip_synchronize scale_loss step synchronize unscale_ unscale_gradients update zero_grad
""")
# Those that may be used in a `with`.
CONTEXTS = frozenset(["scale_loss", "skip_synchronize"])
ATTRIBUTES = frozenset("T data device dtype grad is_sparse ndim param_groups requires_grad shape".split())
STORED = frozenset(["data", "grad"])
# The only strings allowed outside comparisons.
STRINGS = frozenset(["", "cpu", "fro", "inf", "-inf", "nuc", "params"])

_NODES = (
    *(ast.Assign, ast.AugAssign, ast.Expr, ast.For, ast.If, ast.Return, ast.Continue, ast.Break, ast.Pass),
    ast.With,
    *(ast.Name, ast.Constant, ast.BinOp, ast.UnaryOp, ast.BoolOp, ast.Compare, ast.IfExp, ast.Tuple, ast.List),
    *(ast.ListComp, ast.GeneratorExp, ast.Subscript, ast.Slice, ast.Attribute, ast.Call, ast.Lambda),
    *(ast.Load, ast.Store, ast.keyword, ast.comprehension, ast.withitem, ast.arguments, ast.arg),
    *(ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod, ast.Pow, ast.UAdd, ast.USub, ast.Not),
    *(ast.And, ast.Or, ast.cmpop),
)


class NotVerifiable(Exception):
    """The fix cannot be run here; the message is a clause that says why."""


class Names(NamedTuple):
    """`listed` maps names that mean functions and constants to their paths; `own` are the harness's names."""

    listed: Mapping[str, str]
    own: frozenset[str]


class _Place(NamedTuple):
    """A node, the field of its parent that it is in, the parent, and the parent's parent."""

    node: ast.AST
    field: str
    parent: ast.AST
    above: ast.AST


def check(root: ast.AST, names: Names) -> None:
    """Raises NotVerifiable if the code below `root` contains anything that is not allowed."""
    for count, place in enumerate(_places(root, root)):
        if count > NODES_MOST:
            raise NotVerifiable("it is too long")
        _check_kind(place.node)
        _check_name(place, names)
        _check_attribute(place, names)
        _check_call(place, names)
        _check_constant(place)
        _check_size(place, names)
        _check_lambda(place, names)


# Exceptions that may be caught around an import.
EXCEPTIONS: dict[str, type[Exception]] = {
    error.__name__: error
    for error in (ImportError, ModuleNotFoundError, AttributeError, OSError, RuntimeError, Exception)
}
_IMPORT_NODES = (
    *(ast.Import, ast.ImportFrom, ast.alias, ast.Try, ast.ExceptHandler, ast.Raise, ast.Assign, ast.Pass),
    *(ast.Name, ast.Constant, ast.Tuple, ast.Load, ast.Store),
)


def check_imports(root: ast.AST) -> None:
    """Raises NotVerifiable if the code below `root` does anything but import and record whether that worked."""
    for count, place in enumerate(_places(root, root)):
        match place.node:
            case ast.Constant(value=str() | bytes() | float() | complex()):
                raise NotVerifiable("its imports contain a value")
            case ast.Name(id=name, ctx=ast.Load()) if name not in EXCEPTIONS:
                raise NotVerifiable(f"its imports use `{name}`")
        if count > NODES_MOST or not isinstance(place.node, _IMPORT_NODES):
            raise NotVerifiable("its imports contain more than imports")
        if "__" in str(getattr(place.node, "id", "")) + str(getattr(place.node, "asname", "")):
            raise NotVerifiable("its imports bind a name of Python's own")


def canonical(dotted: str) -> str:
    return dotted.replace("torch.nn.utils.clip_grad.", "torch.nn.utils.")


def flat_name(path: str) -> str:
    """The name that replaces a path in the code that runs."""
    return path.replace(".", "__")


def _places(parent: ast.AST, above: ast.AST) -> Iterator[_Place]:
    stack = [(parent, above)]
    while stack:
        parent, above = stack.pop()
        for field, value in ast.iter_fields(parent):
            for node in value if isinstance(value, list) else [value]:
                if isinstance(node, ast.AST):
                    yield _Place(node, field, parent, above)
                    stack.append((node, parent))


def _check_kind(node: ast.AST) -> None:
    match node:
        case ast.comprehension(is_async=1):
            raise NotVerifiable("it is asynchronous")
        case ast.For(orelse=[_, *_]):
            raise NotVerifiable("it contains a `for` with an `else`")
    if not isinstance(node, _NODES):
        kind = "statement" if isinstance(node, ast.stmt) else "expression"
        raise NotVerifiable(f"it contains a `{type(node).__name__.lower()}` {kind}")


def _check_name(place: _Place, names: Names) -> None:
    """A function may only be called or passed as a callback; a factory of harness objects must be called at once."""
    match place.node:
        case ast.Name(id=name) if name in names.listed:
            path = names.listed[name]
            if not (path in CONSTANTS or _is_called(place) or (path in VALUES and _is_handed_on(place, names))):
                raise NotVerifiable(f"it uses `{path}` as a value")
        case ast.Name(id=name) if name in names.own and name.endswith("call"):
            if not _is_called(place):
                raise NotVerifiable("it uses a function as a value")
        case ast.Name(id=name) | ast.arg(arg=name) if "__" in name and name not in names.own:
            raise NotVerifiable(f"it uses `{name}`")


def _check_attribute(place: _Place, names: Names) -> None:
    match place.node:
        case ast.Attribute(value=ast.Name(id=name), attr=attr) if (
            name in names.own and attr in OWN_METHODS and _is_called(place)
        ):
            return
        case ast.Attribute(value=ast.Name(id=name)) if name in names.listed:
            raise NotVerifiable(f"it uses an attribute of `{names.listed[name]}`")
        case ast.Attribute(attr=attr, ctx=ast.Store()) if attr not in STORED:
            raise NotVerifiable(f"it assigns to `.{attr}`")
        case ast.Attribute(attr=attr) if attr not in (METHODS if _is_called(place) else ATTRIBUTES):
            raise NotVerifiable(f"`.{attr}` is not part of a norm or a clip")
        case ast.Subscript(ctx=ast.Store(), value=value) if not _is_gradient(value):
            raise NotVerifiable("it assigns to an item")


def _check_call(place: _Place, names: Names) -> None:
    match place.node:
        case ast.Call(func=ast.Name(id=name), keywords=keywords) if path := names.listed.get(name):
            if path not in FUNCTIONS:
                raise NotVerifiable(f"it calls `{path}`")
            _check_keywords(keywords, FUNCTIONS[path], path)
        case ast.Call(func=ast.Attribute(value=ast.Name(id=name), attr=attr), keywords=keywords) if (
            name in names.own and attr in OWN_METHODS
        ):
            _check_keywords(keywords, OWN_METHODS[attr], f".{attr}")
        case ast.Call(func=ast.Attribute(attr=attr), keywords=keywords):
            _check_keywords(keywords, METHODS.get(attr, frozenset()), f".{attr}")
        case ast.Call(func=ast.Name(id=name), args=[], keywords=[]) if name in names.own and name.endswith("call"):
            return
        case ast.Call(func=func):
            raise NotVerifiable(f"it calls `{ast.unparse(func)[:40]}`")
        case ast.withitem(context_expr=ast.Call(func=ast.Name(id=name), args=[], keywords=[]), optional_vars=None) if (
            names.listed.get(name) == "torch.no_grad"
        ):
            return
        case ast.withitem(
            context_expr=ast.Call(func=ast.Attribute(value=ast.Name(id=name), attr=attr)),
            optional_vars=None | ast.Name(),
        ) if name in names.own and attr in CONTEXTS:
            return
        case ast.withitem():
            raise NotVerifiable("it contains a `with` block")


def _check_keywords(keywords: list[ast.keyword], taken: frozenset[str], function: str) -> None:
    for keyword in keywords:
        if keyword.arg not in taken:
            raise NotVerifiable(f"it passes `{keyword.arg or '**'}` to `{function}`")


def _check_constant(place: _Place) -> None:
    match place.node:
        case ast.Constant(value=str() as value):
            compared = isinstance(place.parent, ast.Compare) and len(value) <= 100
            if not compared and (value not in STRINGS or isinstance(place.parent, ast.BinOp)):
                raise NotVerifiable("it contains a string")
        case ast.Constant(value=bytes() | complex()):
            raise NotVerifiable("it contains bytes or a complex number")
        case ast.Constant(value=int() as value) if value > INTEGER_MOST:
            raise NotVerifiable("it contains a large number")


def _check_size(place: _Place, names: Names) -> None:
    """Limits the size of one result; the worker's limits take care of many."""
    match place.node:
        case ast.BinOp(op=ast.Mult(), left=left, right=right) if _is_display(left) or _is_display(right):
            if not any(_is_small(side) or _called(side, names) == "builtins.len" for side in (left, right)):
                raise NotVerifiable("it repeats a list")
        case ast.BinOp(op=ast.Pow(), right=right) if _is_large_power(right):
            raise NotVerifiable("it contains a large power")
        case ast.Call(args=args) if _called(place.node, names) in _SIZED:
            elements = 1
            for node in (inner for arg in args for inner in ast.walk(arg)):
                if isinstance(node, ast.Constant) and isinstance(node.value, int):
                    elements *= max(1, node.value)
            if elements > ELEMENTS_MOST:
                raise NotVerifiable("it creates a large value")


def _check_lambda(place: _Place, names: Names) -> None:
    match place.node:
        case ast.Lambda(args=ast.arguments(posonlyargs=[], vararg=None, kwonlyargs=[], kwarg=None, defaults=[])):
            if not _is_handed_on(place, names):
                raise NotVerifiable("it contains a `lambda` expression")
        case ast.Lambda():
            raise NotVerifiable("it contains a `lambda` with more than plain parameters")


# --- the context of a node ------------------------------------------------------------------------------------------


def _is_called(place: _Place) -> bool:
    return isinstance(place.parent, ast.Call) and place.field == "func"


def _is_handed_on(place: _Place, names: Names) -> bool:
    """Whether a function is the first argument of `map`, `filter` or `reduce`, or the `key` of another function."""
    match place.parent:
        case ast.Call(args=[first, *_]) if place.node is first:
            return _called(place.parent, names) in CALLERS
        case ast.keyword(arg="key"):
            return isinstance(place.above, ast.Call)
    return False


def _called(node: ast.AST, names: Names) -> str | None:
    """The path of the function that a call calls."""
    match node:
        case ast.Call(func=ast.Name(id=name)):
            return names.listed.get(name)
    return None


def _is_gradient(node: ast.AST) -> bool:
    match node:
        case ast.Attribute(value=value, attr="data"):
            return _is_gradient(value)
        case ast.Attribute(attr="grad"):
            return True
    return False


def _is_display(node: ast.AST) -> bool:
    return isinstance(node, (ast.List, ast.Tuple, ast.ListComp))


def _is_small(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, int) and node.value <= REPEATS_MOST


def _is_large_power(exponent: ast.AST) -> bool:
    """Whether an exponent is a large integer, or itself a power."""
    return any(
        isinstance(node, ast.Pow) or (isinstance(node, ast.Constant) and _is_large(node.value))
        for node in ast.walk(exponent)
    )


def _is_large(value: object) -> bool:
    return isinstance(value, int) and value > POWER_MOST
