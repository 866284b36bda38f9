"""Replaces torch's functions by ours, so that frameworks call ours without any change to their code.

The places are `torch.nn.utils.X`, `torch.nn.utils.clip_grad.X` and `torch.nn.utils.clip_grad._X`, as far as this torch
has them (before 2.6 `clip_grad_norm_` alone). Functions that another library has put there are never overwritten.
"""

from __future__ import annotations

import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FunctionType, ModuleType
from typing import Any, Literal, NamedTuple, TypeAlias

from torch.nn.utils import clip_grad

from clipcheck.runtime import as_torch, clip

_PACKAGE = __name__.rpartition(".")[0]  # differs if the runtime is vendored

Results: TypeAlias = Literal["plain", "torch"]
Function: TypeAlias = Callable[..., Any]

_FUNCTIONS: dict[str, dict[str, Function]] = {
    "plain": {
        "clip_grad_norm_": clip.clip_grad_norm_,
        "get_total_norm": clip.get_total_norm,
        "clip_grads_with_norm_": clip.clip_grads_with_norm_,
    },
    "torch": {
        "clip_grad_norm_": as_torch.clip_grad_norm_,
        "get_total_norm": as_torch.get_total_norm,
        "clip_grads_with_norm_": clip.clip_grads_with_norm_,
    },
}


class Place(NamedTuple):
    """A place to put a function: an attribute of a loaded module."""

    module: str
    attribute: str

    def __str__(self) -> str:
        return f"{self.module}.{self.attribute}"


_PLACES = [
    Place(module, attribute)
    for module in ("torch.nn.utils", "torch.nn.utils.clip_grad")
    for name in _FUNCTIONS["plain"]
    for attribute in (name, f"_{name}")
]


class Installation(NamedTuple):
    """What `install` and `uninstall` found and did."""

    places: tuple[str, ...]  # where clipcheck's functions are now
    foreign: tuple[str, ...]  # places left alone, since they hold another library's function
    holders: tuple[str, ...]  # names in other modules still bound to torch's functions (after `uninstall`, to ours)


class _Layer(NamedTuple):
    """One request for our functions: by `install`, which lasts, or by an `installed` block."""

    results: Results
    rebind: bool
    lasts: bool


_lock = threading.RLock()
_layers: list[_Layer] = []  # the last one is in force
_found: dict[Place, Function] = {}  # the original function of each place that holds ours


def install(*, results: Results = "plain", rebind: bool = False) -> Installation:
    """Replaces torch's `clip_grad_norm_`, `get_total_norm` and `clip_grads_with_norm_` by clipcheck's.

    Calling it again changes nothing but `results`. It applies to all threads of the process and to processes forked
    later; spawned processes must call it themselves.

    Args:
        results: with "plain", norms are never DTensors; with "torch", they are replicated DTensors wherever torch
            returns a DTensor, for code that calls `.full_tensor()` on every norm.
        rebind: also replace torch's functions in modules that did `from torch.nn.utils import …`. Without it, such
            modules are listed, with a warning. References in classes, closures and objects are not found.

    Returns:
        Which places hold clipcheck's functions now, which do not, and why.

    Warns:
        UserWarning: another library's function is in one of torch's places; or a module holds torch's function.
    """
    layer = _Layer(_known(results), rebind, lasts=True)
    with _lock:
        _layers[:] = [other for other in _layers if not other.lasts]
        _layers.append(layer)
        return _warned(_settle())


def uninstall() -> Installation:
    """Restores the original function in every place, and ends any open `installed` blocks.

    A place that other code has changed since is left alone, with a warning. Modules imported in between may hold our
    function through `from torch.nn.utils import …`; they keep it, and are listed in `holders` of the result.
    """
    with _lock:
        _layers.clear()
        return _warned(_settle())


@contextmanager
def installed(*, results: Results = "plain", rebind: bool = False) -> Iterator[Installation]:
    """Like `install`, until the end of a `with` block or of a decorated function."""
    layer = _Layer(_known(results), rebind, lasts=False)
    with _lock:
        _layers.append(layer)
        installation = _settle()
    try:
        yield _warned(installation, level=4)  # a filter may turn the warning into an error, which ends the block
    finally:
        with _lock:
            if layer in _layers:  # not after an `uninstall`
                _layers.remove(layer)
                _warned(_settle(), level=4)


def _known(results: Results) -> Results:
    if results not in _FUNCTIONS:
        raise ValueError(f'`results` must be "plain" or "torch", got {results!r}')
    return results


def _settle() -> Installation:
    """Puts into every place the function that the last layer asks for, or the original one."""
    rebind = any(layer.rebind for layer in _layers)
    leaving = [place for place in _found if not _layers or not (rebind or place in _PLACES)]
    foreign = _put_back(leaving)
    if not _layers:
        return _installation([], foreign, _held(_is_ours))
    held = _held(_is_torchs)
    foreign += _put_ours([*_PLACES, *_found, *held] if rebind else [*_PLACES, *_found])
    return _installation([place for place in _found if _is_ours(_now(place))], foreign, [] if rebind else held)


def _put_back(places: list[Place]) -> list[Place]:
    """Restores the places that still hold our functions; returns those that other code has changed.

    Such code may put ours back later, as `unittest.mock.patch` does: another `uninstall` then restores it.
    """
    foreign = []
    for place in places:
        now = _now(place)
        if _is_ours(now):
            _put(place, _found[place])
        if _is_ours(now) or now is _found[place] or now is None:
            del _found[place]
        else:
            foreign.append(place)
    return foreign


def _put_ours(places: list[Place]) -> list[Place]:
    """Replaces torch's functions, or ours with other `results`; returns the places that hold anything else."""
    functions = _FUNCTIONS[_layers[-1].results]
    foreign = []
    for place in dict.fromkeys(places):
        now = _now(place)
        if now is None:
            continue  # this torch has no such function, or the module is gone
        if _is_torchs(now):
            _found[place] = now
        if _is_torchs(now) or _is_ours(now):
            _put(place, functions[_role(now)])
        else:
            foreign.append(place)
    return foreign


def _installation(places: list[Place], foreign: list[Place], holders: list[Place]) -> Installation:
    return Installation(*(tuple(map(str, group)) for group in (places, foreign, holders)))


def _warned(installation: Installation, level: int = 3) -> Installation:
    """Warns about what was left alone."""
    is_on = bool(_layers)
    for place in installation.foreign:
        why = "is another library's function" if is_on else "was changed after `install`"
        warnings.warn(f"{place} {why}: it is left as it is", stacklevel=level)
    if is_on and installation.holders:
        warnings.warn(
            f"these still are torch's functions: {', '.join(installation.holders)}; install before importing their "
            "modules, or with `rebind=True`",
            stacklevel=level,
        )
    return installation


def _held(wanted: Callable[[Function], bool]) -> list[Place]:
    """The names of such functions in loaded modules, apart from torch's places and our own modules.

    Nothing is imported: a lazy module is read without calling its `__getattr__`.
    """
    found = []
    modules = {id(module): name for name, module in reversed(list(sys.modules.items()))}  # one may have several names
    for name in modules.values():
        if name in ("torch.nn.utils", "torch.nn.utils.clip_grad") or f"{name}.".startswith(
            ("clipcheck.", f"{_PACKAGE}.")
        ):
            continue
        for attribute, value in list(_namespace(sys.modules.get(name)).items()):
            if type(value) is FunctionType and wanted(value):
                found.append(Place(name, attribute))
    return found


def _is_ours(function: Function | None) -> bool:
    return any(function is own for functions in _FUNCTIONS.values() for own in functions.values())


def _is_torchs(function: Function) -> bool:
    """Whether it is one of the functions as torch defined them; a wrapper around one has other globals."""
    own = getattr(function, "__globals__", None) is vars(clip_grad)
    return own and _role(function) in _FUNCTIONS["plain"]


def _role(function: Function) -> str:
    return function.__name__.lstrip("_")


def _now(place: Place) -> Function | None:
    return _namespace(sys.modules.get(place.module)).get(place.attribute)


def _put(place: Place, function: Function) -> None:
    _namespace(sys.modules[place.module])[place.attribute] = function


def _namespace(module: object) -> dict[str, Any]:
    """The names of a module; none for other objects in `sys.modules`."""
    if not issubclass(type(module), ModuleType):
        return {}
    return object.__getattribute__(module, "__dict__")  # type: ignore[no-any-return]
