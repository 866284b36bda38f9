"""The check before anything of the user's is run: a lifted piece may hold norm and clip arithmetic and nothing else."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping

# What a name or a dotted path may stand for.
FUNCTIONS = frozenset(
    [
        f"builtins.{name}"
        for name in "float int sum pow max min abs list tuple len range zip enumerate bool any all".split()
    ]
    + [f"math.{name}" for name in "sqrt pow inf fsum hypot isfinite isnan isinf".split()]
    + [f"numpy.{name}" for name in "sqrt sum square power inf float64 float32 linalg.norm array max".split()]
    + [
        f"torch.{name}"
        for name in "norm sqrt pow square sum stack cat tensor as_tensor zeros zeros_like dot abs max min clamp mean "
        "linalg.norm linalg.vector_norm inf float float16 float32 float64 double half bfloat16 no_grad where isfinite "
        "isnan isinf logical_or Tensor".split()
    ]
    + [
        f"torch.nn.utils.{name}"
        for name in "clip_grad_norm clip_grad_norm_ clip_grad_value_ get_total_norm clip_grads_with_norm_".split()
    ]
    + [
        f"clipcheck.runtime.{name}"
        for name in "clip_grad_norm_ clip_grad_value_ get_total_norm clip_grads_with_norm_ grad_norm".split()
    ]
    + ["itertools.chain", "itertools.chain.from_iterable"]
)
# Modules on the way to them, and the builtins that are no functions.
PREFIXES = frozenset(path.rpartition(".")[0] for path in FUNCTIONS) | {
    "torch.nn",
    "torch.nn.utils.clip_grad",
    "clipcheck",
}

# Attributes and methods of gradients, parameters, tensors, models and optimizers; `append` is that of a list.
ATTRIBUTES = frozenset(
    "grad data norm item pow sum sqrt square float double half bfloat16 detach abs max min mean mul mul_ div div_ clamp "
    "clamp_ clamp_max view reshape flatten ravel contiguous to cpu numpy clone dot add add_ numel size shape dtype "
    "device is_sparse requires_grad coalesce values _values parameters named_parameters children param_groups isnan "
    "isinf isfinite all any tolist append type dim ndim T".split()
)
_STATEMENTS = (
    ast.Assign,
    ast.AugAssign,
    ast.AnnAssign,
    ast.Expr,
    ast.For,
    ast.If,
    ast.Return,
    ast.Continue,
    ast.Pass,
    ast.With,
)
_EXPRESSIONS = (
    ast.Name,
    ast.Constant,
    ast.BinOp,
    ast.UnaryOp,
    ast.BoolOp,
    ast.Compare,
    ast.IfExp,
    ast.Tuple,
    ast.List,
    ast.ListComp,
    ast.GeneratorExp,
    ast.Subscript,
    ast.Slice,
    ast.Attribute,
    ast.Call,
)


class NotProvable(Exception):
    """Why a fix cannot be tried here, as a clause."""


def check(nodes: Iterable[ast.AST], origins: Mapping[str, str], own: frozenset[str]) -> None:
    """Raises NotProvable where the code holds anything but what may run.

    `origins` says what the global names stand for; `own` are the harness's names, which may be called.
    """
    for root in nodes:
        for node in ast.walk(root):
            _check(node, origins, own)


def _check(node: ast.AST, origins: Mapping[str, str], own: frozenset[str]) -> None:
    match node:
        case ast.Attribute(attr=attr) if path(node, origins) is None and attr not in ATTRIBUTES:
            raise NotProvable(f"`.{attr}` is not part of a norm or a clip")
        case ast.Attribute(ctx=ast.Store(), attr=attr) if attr not in ("grad", "data"):
            raise NotProvable(f"it assigns to `.{attr}`")
        case ast.Subscript(ctx=ast.Store(), value=value) if not _is_gradient(value):
            raise NotProvable("it assigns to an item")
        case ast.With(items=items) if any(_with(item, origins) != "torch.no_grad" for item in items):
            raise NotProvable("it holds a `with` block")
        case ast.comprehension(is_async=1):
            raise NotProvable("it is asynchronous")
        case ast.For(orelse=[_, *_]):
            raise NotProvable("it holds a `for` with an `else`")
        case ast.Call(func=func) if not _may_call(func, origins, own):
            raise NotProvable(f"it calls `{ast.unparse(func)[:40]}`")
        case ast.stmt() if not isinstance(node, _STATEMENTS):
            raise NotProvable(f"it holds a `{type(node).__name__.lower()}` statement")
        case ast.expr() if not isinstance(node, _EXPRESSIONS):
            raise NotProvable(f"it holds a `{type(node).__name__.lower()}` expression")
        case ast.Name(id=name) if name.startswith("__"):
            raise NotProvable(f"it uses `{name}`")
        case ast.Constant(value=str() | bytes() as value) if len(value) > 100:
            raise NotProvable("it holds a long text")
        case ast.Constant(value=int() as value) if abs(value) > 1 << 20:
            raise NotProvable("it holds a large number")


def path(node: ast.AST, origins: Mapping[str, str]) -> str | None:
    """The dotted origin of a name or attribute, None where it is a value."""
    match node:
        case ast.Name(id=name):
            return origins.get(name)
        case ast.Attribute(value=value, attr=attr):
            base = path(value, origins)
            return None if base is None or base not in PREFIXES else canonical(f"{base}.{attr}")
    return None


def canonical(dotted: str) -> str:
    return dotted.replace("torch.nn.utils.clip_grad.", "torch.nn.utils.")


def _may_call(func: ast.AST, origins: Mapping[str, str], own: frozenset[str]) -> bool:
    match func:
        case ast.Name(id=name) if name in own:
            return True
        case ast.Call():  # the call of what a call gives
            return False
    origin = path(func, origins)
    if origin is not None:
        return origin in FUNCTIONS
    return isinstance(func, ast.Attribute)  # its name is checked as an attribute


def _with(item: ast.withitem, origins: Mapping[str, str]) -> str | None:
    match item:
        case ast.withitem(context_expr=ast.Call(func=func, args=[], keywords=[]), optional_vars=None):
            return path(func, origins)
    return None


def _is_gradient(node: ast.AST) -> bool:
    match node:
        case ast.Attribute(value=value, attr="data"):
            return _is_gradient(value)
        case ast.Attribute(attr="grad"):
            return True
    return False
