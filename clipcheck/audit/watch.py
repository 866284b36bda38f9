"""Watches a training: notes what happens to gradients, and changes nothing.

No observer waits for a device: norms stay tensors until the watch is over. What an observer cannot do ends the watch,
not the training.
"""

from __future__ import annotations

import gc
import itertools
import math
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, nullcontext, suppress
from inspect import BoundArguments, signature
from types import FrameType
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.nn import Module
from torch.nn.utils import clip_grad
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from clipcheck import runtime
from clipcheck.audit import calls, gradients, log, ranks
from clipcheck.audit.log import Event, Kind, Log
from clipcheck.audit.report import Report, report
from clipcheck.audit.sites import NOWHERE, Site, here
from clipcheck.audit.taps import tap
from clipcheck.runtime import as_torch
from clipcheck.runtime.gradients import is_compiling

_CLIPS = ("clip_grad_norm_", "clip_grad_value_", "clip_grads_with_norm_", "get_total_norm", "grad_norm")
COUNTED = range(2, 5)  # the calls of each place in which reads by the host are counted: counting takes time


# Looks before a call, is sent its result or the text of its error, and looks again. The error itself would keep alive all
# that its traceback knows.
Looking: TypeAlias = Generator[None, tuple[Any, str], None]


class Watch:
    """Notes events from `begin` to `end`, or in a `with` block; after so many steps it ends by itself."""

    def __init__(self, most: int, stops_program: bool = False) -> None:
        self.most, self.stops_program = most, stops_program
        self.log: Log | None = None
        self.is_on = self.is_scaled = self.is_clipping = False
        self.start, self.steps, self.backwards = 0.0, 0, 0  # of backwards: how many run now, one inside the other
        self.events: list[Event] = []
        self.versions: gradients.Versions = {}  # at the last event
        self.optimizers: dict[int, tuple[Optimizer, Site]] = {}  # and where they were made
        self.calls: Counter[Site] = Counter()  # of clipping functions
        self.running: list[tuple[int, FrameType]] = []  # optimizers whose `step` has begun, and the call of it
        self.uses: dict[int, Event] = {}  # what they are about to use, if they have no closure
        self.taps, self.hooks = ExitStack(), ExitStack()
        self.troubles: list[str] = []

    def begin(self) -> Watch:
        gc.collect()
        for optimizer in gradients.living(Optimizer):
            if "param_groups" in vars(optimizer):  # a framework's wrapper has those of another
                self.optimizers[id(optimizer)] = optimizer, NOWHERE
        for function in _watched():
            try:
                self.taps.callback(tap(function, self._observed(function)))
            except (AttributeError, TypeError, ValueError) as error:  # of what is no Python function
                self.troubles.append(f"calls of {function!r}: {error}")
        self.hooks.callback(register_optimizer_step_pre_hook(self._before_step).remove)
        self.hooks.callback(register_optimizer_step_post_hook(self._after_step).remove)
        self._look()
        self.start, self.is_on = time.perf_counter(), True
        return self

    def end(self) -> Log:
        """Takes everything out again, and returns what was seen; a second call returns the same."""
        self._finish()
        self.hooks.close()
        assert self.log is not None
        return self.log

    def _finish(self) -> None:
        """Leaves the hooks, which do nothing any more: torch may be going through them."""
        if self.log is None:
            seconds = time.perf_counter() - self.start
            self._take_out()
            names = gradients.names()
            seen = [_described(optimizer, site, names) for optimizer, site in self.optimizers.values()]
            events, troubles = gradients.numbers(self.events), [*dict.fromkeys(self.troubles)]
            self.log = Log(events, seen, self.steps, seconds, troubles)
            self.optimizers.clear()

    def __enter__(self) -> Watch:
        return self.begin()

    def __exit__(self, *_: object) -> None:
        self.end()

    def report(self) -> Report:
        """What was seen; it ends the watch, if that still runs."""
        return report(self.end())

    def _take_out(self) -> None:
        self.is_on = False
        self.running.clear()
        self.taps.close()

    # --- how it looks ----------------------------------------------------------------------------------------------

    def _observed(self, function: Any) -> Callable[..., Any]:
        name, arguments = function.__name__.lstrip("_"), signature(function)
        observer = self._clip if name in _CLIPS else self._backward if name == "backward" else self._after

        def run(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            if is_compiling() or not self.is_on or self.is_clipping:
                return original(*args, **kwargs)
            try:
                bound = arguments.bind(*args, **kwargs)
            except TypeError:  # which the function raises, too
                return original(*args, **kwargs)
            is_spent = name in _CLIPS and calls.is_spent(bound)
            looking, result, error = observer(name, bound, is_spent), None, ""
            self._safely(self._catch_up)
            self._safely(next, looking)
            try:
                result = original(*bound.args, **bound.kwargs)
                return result
            except Exception as raised:
                error = f"{type(raised).__name__}: {raised}"
                raise
            finally:
                self._safely(looking.send, (result, error))

        return run

    def _safely(self, look: Callable[..., Any], *of: Any) -> None:
        """If what only looks raises, the watch is over and the training goes on."""
        try:
            if self.is_on:
                with suppress(StopIteration):
                    look(*of)
        except Exception as error:
            self.troubles.append(f"the watch ended early: {type(error).__name__}: {error}")
            self._take_out()

    def _of_each(self) -> list[list[Tensor]]:
        return [gradients.parameters(optimizer) for optimizer, _ in self.optimizers.values()]

    def _parameters(self) -> list[Tensor]:
        return [*itertools.chain(*self._of_each())]

    def _look(self) -> frozenset[int]:
        """The parameters whose gradients were written to, made or removed since it looked last."""
        versions = gradients.versions(self._parameters())
        if versions == self.versions:
            return frozenset()
        changed = frozenset(
            p for p in versions.keys() | self.versions.keys() if versions.get(p) != self.versions.get(p)
        )
        self.versions = versions
        return changed

    def _catch_up(self) -> None:
        """Notes what has happened since the last event: a backward that still runs, or other code."""
        changed = self._look()
        there = changed & self.versions.keys()
        kinds = {"Z": changed - there, self._backwards_kind() if self.backwards else "O": there}
        self.events += [Event(kind, about) for kind, about in kinds.items() if about]

    def _note(self, kind: Kind, about: frozenset[int] | None = None, **more: Any) -> None:
        changed = self._look()
        if kind in "ABCE":
            more["probe"] = {p: norm for own in self._of_each() for p, norm in gradients.probe(own).items()}
        self.events.append(Event(kind, changed if about is None else about, here(), **more))

    def _with_gradient(self, optimizer: Any) -> frozenset[int]:
        return frozenset(map(id, gradients.parameters(optimizer))) & self.versions.keys()

    # --- what it looks at ------------------------------------------------------------------------------------------

    def _backwards_kind(self) -> Kind:
        return "A" if self.is_scaled else "B"

    def _backward(self, name: str, bound: BoundArguments, is_spent: bool) -> Looking:
        self.backwards += 1
        yield
        self.backwards -= 1
        if not self.backwards:
            self._note(self._backwards_kind())
            self.is_scaled = False

    def _after(self, name: str, bound: BoundArguments, is_spent: bool) -> Looking:
        """What is noted after a call of any other function."""
        (one, *others), before = bound.args, self.steps
        _, error = yield
        match name:
            case "zero_grad":
                self._note("Z")
            case "add_param_group":
                self.optimizers.setdefault(id(one), (one, here()))
                self._look()
            case "all_reduce" if not error:
                held = gradients.holders([one], self._parameters())
                copied = [gradients.fits(one, own) for own in self._of_each() if not held]
                self._note("R" if held else "Q", held.union(*copied))
            case "get_scale" if not here().through:  # frameworks read it to see whether a step was skipped
                self._note("G")
            case "scale":
                self.is_scaled |= one.is_enabled()
            case "unscale_" if one.is_enabled():
                self._note("X" if error else "U", self._with_gradient(others[0]))
            case "step" if one.is_enabled() and not error and self.steps == before:
                self._note("K", self._with_gradient(others[0]))

    def _clip(self, name: str, bound: BoundArguments, is_spent: bool) -> Looking:
        call, tensors = calls.called(name, bound.arguments, is_spent)
        is_limit = isinstance(call.limit, Tensor) or call.limit != math.inf  # reading a tensor would wait
        site, measures = here(), not (name.startswith("clip") and is_limit)
        measured = gradients.holders(tensors, self._parameters()) if measures else frozenset()
        about = measured.union(call.listed) & self.versions.keys()
        self.calls[site] += 1
        is_counted = self.calls[site] in COUNTED
        self.is_clipping, start = True, time.perf_counter()
        with calls.Reads(tensors) if is_counted else nullcontext() as reads:
            result, error = yield
        self.is_clipping, seconds = False, time.perf_counter() - start
        norm = bound.arguments.get("total_norm") if result is None else result
        parts = gradients.parts([norm])
        self._note(
            "E" if error else "M" if measures else "C",
            about,
            call=call._replace(error=error, seconds=seconds, reads=reads.count if reads else None),
            norm=norm.detach().clone() if isinstance(norm, Tensor) else norm,  # the program may write to its own
            parts=parts if parts == 1 or call.norm_type == 2 else 0,
        )

    # --- steps -----------------------------------------------------------------------------------------------------

    def _is_inside(self, optimizer: Optimizer) -> bool:
        """Whether a call of its `step` runs now; one that has raised is over."""
        frames = {id(frame) for frame, _ in traceback.walk_stack(sys._getframe())}
        self.running = [(key, frame) for key, frame in self.running if id(frame) in frames]
        return id(optimizer) in dict(self.running)

    def _before_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> Any:
        if is_compiling() or not self.is_on:
            return None
        closure = kwargs.get("closure") or next((one for one in args[1:] if callable(one)), None)
        is_nested = self._is_inside(optimizer)  # its class calls the `step` of the one that it derives from
        self.running.append((id(optimizer), sys._getframe(1)))
        self._safely(self._begin_step, optimizer, is_nested, closure is not None)
        if closure is None or is_nested:
            return None

        def noting() -> Any:
            loss = closure()
            self._safely(self._catch_up)
            self._safely(lambda: self.events.append(self._use(optimizer, in_closure=True)))
            return loss

        if "closure" in kwargs:
            return args, {**kwargs, "closure": noting}
        return tuple(noting if one is closure else one for one in args), kwargs

    def _begin_step(self, optimizer: Optimizer, is_nested: bool, has_closure: bool) -> None:
        key = id(optimizer)
        self.optimizers.setdefault(key, (optimizer, NOWHERE))
        self._catch_up()
        if not is_nested:
            self.steps += 1
            self.events.append(Event("<", frozenset(), optimizer=key, time=time.perf_counter()))
            self.uses.pop(key, None)  # of a step that has raised
        if not has_closure and (not is_nested or key in self.uses):
            self.uses[key] = self._use(optimizer)

    def _use(self, optimizer: Optimizer, in_closure: bool = False) -> Event:
        own = gradients.parameters(optimizer)
        values = gradients.values(own)
        # Vectors begin as ones or zeros on all ranks, and shards are no replicas.
        matrices = [p for p in own if p.dim() > 1 and not hasattr(p, "device_mesh")] if ranks.world() > 1 else []
        self.is_clipping = True  # it is a call of our own; an error ends the watch
        norm = runtime.get_total_norm(values) if values else None
        self.is_clipping = False
        if norm is not None and (scale := getattr(optimizer, "grad_scale", None)) is not None:
            norm = norm / scale.to(norm.device)  # a fused optimizer unscales inside its step
        return Event(
            "p" if self.backwards else "s",
            self._with_gradient(optimizer),
            here(),
            optimizer=id(optimizer),
            norm=norm,
            parts=gradients.parts(own),
            probe=gradients.probe(own),
            weights=tuple(gradients.norms(gradients.smallest(matrices))),
            in_closure=in_closure,
        )

    def _end_step(self, optimizer: Optimizer) -> None:
        self._look()  # what the step itself has written to gradients is its own
        if use := self.uses.pop(id(optimizer), None):
            self.events.append(use)

    def _after_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        if is_compiling() or not self.is_on or not self._is_inside(optimizer):
            return
        self.running.pop()
        if not self._is_inside(optimizer):
            self._safely(self._end_step, optimizer)
        if self.steps >= self.most and not self.running:
            self._safely(self._finish)
            if self.stops_program:
                raise SystemExit(0)


def _described(optimizer: Optimizer, site: Site, names: dict[int, str]) -> log.Optimizer:
    own = gradients.parameters(optimizer)
    options = {k: v for group in (optimizer.defaults, *optimizer.param_groups[:1]) for k, v in group.items()}
    asks = [f"{k}={v}" for k, v in options.items() if v and ("clip" in k or "grad_norm" in k)]
    shapes = [(tuple(gradients.local(p).shape), p.dtype, p.device) for p in own]
    named = {id(p): names.get(id(p), "?") for p in own}
    return log.Optimizer(id(optimizer), type(optimizer).__name__, site, named, shapes, asks)


def _watched() -> Iterator[Any]:
    """Every function that is watched, once."""
    places = itertools.product((clip_grad, runtime, as_torch), ("", "_"), _CLIPS)
    yield from {getattr(module, prefix + name, None) for module, prefix, name in places} - {None}
    yield from (torch.autograd.backward, Optimizer.add_param_group, Optimizer.zero_grad, Module.zero_grad)
    scaler = getattr(torch.amp, "GradScaler", None) or torch.cuda.amp.GradScaler  # before torch 2.3
    yield from (scaler.scale, scaler.get_scale, scaler.unscale_, scaler.step)
    if torch.distributed.is_available():
        from torch.distributed.fsdp import FullyShardedDataParallel

        yield from (torch.distributed.all_reduce, FullyShardedDataParallel.clip_grad_norm_)
