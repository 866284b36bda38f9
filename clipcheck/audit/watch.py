"""Watches a training: notes what happens to gradients, and changes nothing.

No observer waits for a device: norms stay tensors until the watch is over. What an observer cannot do ends the watch,
not the training.
"""

from __future__ import annotations

import gc
import inspect
import itertools
import math
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, nullcontext, suppress
from types import FrameType
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.nn import Module
from torch.nn.utils import clip_grad
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from clipcheck import runtime
from clipcheck.audit import calls, gradients, log, ranks, sites
from clipcheck.audit.calls import Given
from clipcheck.audit.log import Event, Kind, Log
from clipcheck.audit.report import Report, report
from clipcheck.audit.taps import tap
from clipcheck.runtime import as_torch
from clipcheck.runtime.gradients import is_compiling

_CLIPS = ("clip_grad_norm_", "clip_grad_value_", "clip_grads_with_norm_", "get_total_norm", "grad_norm")
COUNTED = range(2, 5)  # the calls of each place in which reads by the host are counted: counting takes time


# Looks before a call, is sent its result or the text of its error, and looks again. The error itself would keep alive all
# that its traceback knows.
Looking: TypeAlias = Generator[None, tuple[Any, str], None]


class Watch:
    """Notes events from `begin` to `end`; after so many steps it ends by itself."""

    def __init__(self, most: int, stops_program: bool = False) -> None:
        self.most, self.stops_program = most, stops_program
        self.log: Log | None = None
        self.is_on = False
        self.start = 0.0
        self.events: list[Event] = []
        self.marks: gradients.Marks = {}  # at the last event
        self.optimizers: dict[int, Optimizer] = {}
        self.made_at: dict[int, sites.Site] = {}
        self.steps: Counter[int] = Counter()  # of each optimizer
        self.calls: Counter[sites.Site] = Counter()  # of clipping functions
        self.stepping: list[tuple[int, FrameType]] = []  # the optimizers whose `step` has begun, and the call of it
        self.uses: dict[int, Event | None] = {}  # what they are about to use, if they have no closure
        self.backwards = 0  # how many run now, one inside the other
        self.backward: Kind = "B"
        self.is_scaled = self.is_clipping = False
        self.undo = ExitStack()
        self.troubles: list[str] = []

    def begin(self) -> Watch:
        gc.collect()
        for optimizer in gradients.living(Optimizer):
            if "param_groups" in vars(optimizer):  # a framework's wrapper has those of another
                self.optimizers[id(optimizer)] = optimizer
        for function in _watched():
            try:
                self.undo.callback(tap(function, self._observed(function)))
            except (AttributeError, TypeError, ValueError) as error:  # of what is no Python function
                self.troubles.append(f"calls of {function!r}: {error}")
        self.undo.callback(register_optimizer_step_pre_hook(self._before_step).remove)
        self.undo.callback(register_optimizer_step_post_hook(self._after_step).remove)
        self._look()
        self.start, self.is_on = time.perf_counter(), True
        return self

    def end(self) -> Log:
        """Takes everything out again, and returns what was seen; a second call returns the same."""
        if self.log is None:
            seconds = time.perf_counter() - self.start
            self._take_out()
            names = gradients.names()
            seen = [self._described(optimizer, names) for optimizer in self.optimizers.values()]
            events, troubles = gradients.numbers(self.events), [*dict.fromkeys(self.troubles)]
            self.log = Log(events, seen, self.steps.total(), seconds, troubles)
            self.optimizers.clear()
        return self.log

    def report(self) -> Report:
        """What was seen; it ends the watch, if that still runs."""
        return report(self.end())

    def _take_out(self) -> None:
        self.is_on = False
        self.stepping.clear()
        self.undo.close()

    def _described(self, optimizer: Optimizer, names: dict[int, str]) -> log.Optimizer:
        own, site = gradients.parameters(optimizer), self.made_at.get(id(optimizer), sites.NOWHERE)
        options = {k: v for group in (optimizer.defaults, *optimizer.param_groups[:1]) for k, v in group.items()}
        asks = [f"{k}={v}" for k, v in options.items() if v and ("clip" in k or "grad_norm" in k)]
        shapes = [(tuple(gradients.local(p).shape), p.dtype, p.device) for p in own]
        named = {id(p): names.get(id(p), "?") for p in own}
        return log.Optimizer(id(optimizer), type(optimizer).__name__, site, named, shapes, asks)

    # --- how it looks ----------------------------------------------------------------------------------------------

    def _observed(self, function: Any) -> Callable[..., Any]:
        name, signature = function.__name__.lstrip("_"), inspect.signature(function)
        observer = self._clip if name in _CLIPS else self._backward if name == "backward" else self._after

        def run(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            if is_compiling() or not self.is_on or self.is_clipping:
                return original(*args, **kwargs)
            try:
                bound = signature.bind(*args, **kwargs)
            except TypeError:  # which the function raises, too
                return original(*args, **kwargs)
            given = calls.read(bound)
            looking, result, error = observer(name, given), None, ""
            self._safely(self._catch_up)
            self._safely(lambda: next(looking))
            try:
                result = original(*given.bound.args, **given.bound.kwargs)
                return result
            except Exception as raised:
                error = f"{type(raised).__name__}: {raised}"
                raise
            finally:
                self._safely(lambda: looking.send((result, error)))

        return run

    def _safely(self, look: Callable[[], Any]) -> None:
        """If what only looks raises, the watch is over and the training goes on."""
        try:
            if self.is_on:
                with suppress(StopIteration):
                    look()
        except Exception as error:
            self.troubles.append(f"the watch ended early: {type(error).__name__}: {error}")
            self._take_out()

    def _parameters(self) -> list[Tensor]:
        return [p for optimizer in self.optimizers.values() for p in gradients.parameters(optimizer)]

    def _look(self) -> frozenset[int]:
        """The parameters whose gradients were written to, made or removed since it looked last."""
        marks = gradients.marks(self._parameters())
        if marks == self.marks:
            return frozenset()
        changed = frozenset(p for p in marks.keys() | self.marks.keys() if marks.get(p) != self.marks.get(p))
        self.marks = marks
        return changed

    def _catch_up(self) -> None:
        """Notes what has happened since the last event: a backward that still runs, or other code."""
        changed = self._look()
        gone = changed - self.marks.keys()
        if gone:
            self.events.append(Event("Z", gone))
        if changed != gone:
            self.events.append(Event(self.backward if self.backwards else "O", changed - gone))

    def _note(self, kind: Kind, about: frozenset[int] | None = None, **more: Any) -> None:
        changed = self._look()
        if kind in "ABCE":
            of = self.optimizers.values()
            more["probe"] = {k: v for one in of for k, v in gradients.probe(gradients.parameters(one)).items()}
        self.events.append(Event(kind, changed if about is None else about, sites.here(), **more))

    def _with_gradient(self, optimizer: Any) -> frozenset[int]:
        return frozenset(map(id, gradients.parameters(optimizer))) & self.marks.keys()

    # --- what it looks at ------------------------------------------------------------------------------------------

    def _backward(self, name: str, given: Given) -> Looking:
        if not self.backwards:
            self.backward, self.is_scaled = "A" if self.is_scaled else "B", False
        self.backwards += 1
        yield
        self.backwards -= 1
        if not self.backwards:
            self._note(self.backward)

    def _after(self, name: str, given: Given) -> Looking:
        """What is noted after a call of any other function."""
        (one, *others), before = given.bound.args, self.steps.total()
        _, error = yield
        match name:
            case "zero_grad":
                self._note("Z")
            case "add_param_group":
                self.optimizers[id(one)] = one
                self.made_at.setdefault(id(one), sites.here())
                self._look()
            case "all_reduce" if not error:
                held = gradients.holders([one], self._parameters())
                own = map(gradients.parameters, self.optimizers.values())
                self._note("R" if held else "Q", held.union(*(gradients.fits(one, some) for some in own if not held)))
            case "get_scale" if not sites.here().through:  # frameworks read it to see whether a step was skipped
                self._note("G")
            case "scale":
                self.is_scaled |= one.is_enabled()
            case "unscale_" if one.is_enabled():
                self._note("X" if error else "U", self._with_gradient(others[0]))
            case "step" if one.is_enabled() and not error and self.steps.total() == before:
                self._note("K", self._with_gradient(others[0]))

    def _clip(self, name: str, given: Given) -> Looking:
        call, tensors = calls.called(name, given)
        is_limit = isinstance(call.limit, Tensor) or call.limit != math.inf  # reading a tensor would wait
        site, measures = sites.here(), not (name.startswith("clip") and is_limit)
        measured = gradients.holders(tensors, self._parameters()) if measures else frozenset()
        about = measured.union(call.listed) & self.marks.keys()
        self.calls[site] += 1
        is_counted = self.calls[site] in COUNTED
        self.is_clipping, start = True, time.perf_counter()
        with calls.Reads(tensors) if is_counted else nullcontext() as reads:
            result, error = yield
        self.is_clipping, seconds = False, time.perf_counter() - start
        norm = given.bound.arguments.get("total_norm") if result is None else result
        parts = 1
        if any("Partial" in type(one).__name__ for one in getattr(norm, "placements", ())):
            parts = gradients.parts([norm]) if call.norm_type == 2 else 0
        self._note(
            "E" if error else "M" if measures else "C",
            about,
            call=call._replace(error=error, seconds=seconds, reads=reads.count if reads else None),
            norm=norm.detach().clone() if isinstance(norm, Tensor) else norm,  # the program may write to its own
            parts=parts,
            optimizer=next(reversed(self._running()), 0),
        )

    def _running(self) -> list[int]:
        """The optimizers whose `step` runs now, one for each that is inside another; one that has raised is over."""
        calls = {id(frame) for frame, _ in traceback.walk_stack(sys._getframe())}
        self.stepping = [one for one in self.stepping if id(one[1]) in calls]
        return [key for key, _ in self.stepping]

    # --- steps -----------------------------------------------------------------------------------------------------

    def _before_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> Any:
        if is_compiling() or not self.is_on:
            return None
        closure = kwargs.get("closure") or next((one for one in args[1:] if callable(one)), None)
        is_nested = id(optimizer) in self._running()  # its class calls the `step` of the one that it derives from
        self.stepping.append((id(optimizer), sys._getframe(1)))
        self._safely(lambda: self._begin_step(optimizer, is_nested, closure is not None))
        if closure is None or is_nested:
            return None

        def noting() -> Any:
            loss = closure()
            self._safely(self._catch_up)
            self._safely(lambda: self._note_use(optimizer, self._use(optimizer, in_closure=True)))
            return loss

        if "closure" in kwargs:
            return args, {**kwargs, "closure": noting}
        return tuple(noting if one is closure else one for one in args), kwargs

    def _begin_step(self, optimizer: Optimizer, is_nested: bool, has_closure: bool) -> None:
        key = id(optimizer)
        self.optimizers[key] = optimizer
        self._catch_up()
        if not is_nested:
            self.steps[key] += 1
            self._note("<", frozenset(), optimizer=key, time=time.perf_counter())
            self.uses[key] = None  # with a closure
        if not has_closure and (not is_nested or self.uses[key]):
            self.uses[key] = self._use(optimizer)

    def _use(self, optimizer: Optimizer, in_closure: bool = False) -> Event:
        own, key = gradients.parameters(optimizer), id(optimizer)
        values = gradients.values(own)
        # Vectors begin as ones or zeros on all ranks, and shards are no replicas.
        matrices = [p for p in own if p.dim() > 1 and not hasattr(p, "device_mesh")]
        self.is_clipping = True  # it is a call of our own
        try:
            norm = runtime.get_total_norm(values) if values else None
        finally:
            self.is_clipping = False
        return Event(
            "p" if self.backwards else "s",
            frozenset(),
            sites.here(),
            optimizer=key,
            norm=norm,
            parts=gradients.parts(own),
            probe=gradients.probe(own),
            weights=tuple(gradients.norms(gradients.smallest(matrices))) if ranks.world() > 1 else (),
            in_closure=in_closure,
        )

    def _note_use(self, optimizer: Optimizer, use: Event) -> None:
        self._look()
        self.events.append(use._replace(about=self._with_gradient(optimizer)))

    def _after_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        key = id(optimizer)
        if is_compiling() or not self.is_on or key not in self._running():
            return
        self.stepping.pop()
        if key not in self._running():
            use = self.uses.pop(key)
            if use is not None:
                self._safely(lambda: self._note_use(optimizer, use))
        if self.steps.total() >= self.most and not self.stepping:
            self._safely(self.end)
            if self.stops_program:
                raise SystemExit(0)


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
