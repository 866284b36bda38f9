"""Watches a training: notes what happens to gradients, and changes nothing.

No observer waits for a device: norms stay tensors until the watch is over. What an observer cannot do ends the watch,
not the training.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.nn import Module
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from clipcheck import runtime
from clipcheck.audit import calls, events, gradients, numbers, ranks, sites
from clipcheck.audit.events import Event, Log
from clipcheck.audit.taps import tap
from clipcheck.runtime import as_torch
from clipcheck.runtime.gradients import is_compiling

T = TypeVar("T")
Call = Callable[..., Any]

COUNTED = range(2, 5)  # the calls of each place in which reads by the host are counted: counting takes time


class Enough(SystemExit):
    """Ends the program once as many steps were seen as were asked for."""


class Watch:
    """Notes events from `start` to `stop`; after `stop_after` steps it stops by itself, and calls `finished`."""

    def __init__(self, stop_after: int | None = None, ends_program: bool = False) -> None:
        self.stop_after, self.ends_program = stop_after, ends_program
        self.finished: Callable[[Log], None] = lambda log: None
        self.log: Log | None = None
        self.is_on = False
        self.events: list[Event] = []
        self.optimizers: dict[int, Optimizer] = {}
        self.made_at: dict[int, sites.Site] = {}
        self.steps: dict[int, int] = {}
        self.calls: dict[sites.Site, int] = {}
        self.undo: list[Callable[[], None]] = []
        self.troubles: list[str] = []
        self.backwards = self.clips = 0  # of each, how many run now, one inside the other
        self.stepping: list[int] = []  # the optimizers whose `step` runs now
        self.scale_called = self.scale_read = False
        self.scaled: dict[int, events.Mark] = {}  # the parameters whose gradients a GradScaler scales
        self.start = 0.0

    def begin(self) -> Watch:
        gc.collect()
        for optimizer in gradients.living(Optimizer):
            if "param_groups" in vars(optimizer):  # a framework's wrapper has those of another
                self.optimizers[id(optimizer)] = optimizer
        for function, observer in _places(self):
            try:
                self.undo.append(tap(function, self._while_on(observer)))
            except TypeError as error:
                self.troubles.append(str(error))
        self.undo.append(register_optimizer_step_pre_hook(self._before_step).remove)
        self.undo.append(register_optimizer_step_post_hook(self._after_step).remove)
        self.start, self.is_on = time.perf_counter(), True
        return self

    def end(self) -> Log:
        """Takes everything out again, and returns what was seen; a second call returns the same."""
        if self.log is None:
            seconds = time.perf_counter() - self.start
            self._take_out()
            seen = tuple(map(self._described, self.optimizers.values()))
            names = gradients.names({p for one in seen for p in one.parameters})
            read = tuple(map(numbers.read, self.events))
            self.log = Log(read, seen, names, sum(self.steps.values()), seconds, tuple(dict.fromkeys(self.troubles)))
            self.finished(self.log)
            self.optimizers.clear()
        return self.log

    def _take_out(self) -> None:
        self.is_on = False
        while self.undo:
            self.undo.pop()()

    def _described(self, optimizer: Optimizer) -> events.Optimizer:
        own = gradients.parameters(optimizer)
        options = {k: v for group in (optimizer.defaults, *optimizer.param_groups[:1]) for k, v in group.items()}
        asks = tuple(f"{k}={v}" for k, v in options.items() if v and ("clip" in k or "grad_norm" in k))
        kind = type(optimizer).__name__
        shapes = tuple((tuple(gradients.local(p).shape), str(p.dtype), str(p.device)) for p in own)
        return events.Optimizer(id(optimizer), kind, self.made_at.get(id(optimizer)), tuple(map(id, own)), shapes, asks)

    def _while_on(self, observer: Call) -> Call:
        def run(original: Call, *args: Any, **kwargs: Any) -> Any:
            if is_compiling() or not self.is_on:
                return original(*args, **kwargs)
            return observer(original, *args, **kwargs)

        return run

    def _safely(self, function: Callable[[], T]) -> T | None:
        """What a function gives that only looks; if it raises, the watch is over and the training goes on."""
        try:
            return function()
        except Exception as error:
            self.troubles.append(f"the watch ended early: {type(error).__name__}: {error}")
            self._take_out()
            return None

    def _note(self, make: Callable[[], Event]) -> None:
        if self.is_on and (event := self._safely(make)) is not None:
            self.events.append(event)

    def _all(self) -> list[Tensor]:
        return [p for optimizer in self.optimizers.values() for p in gradients.parameters(optimizer)]

    def _state(self, *more: Tensor) -> events.State:
        return gradients.state([*self._all(), *more])

    def _probe(self) -> events.Probe:
        return {k: v for o in self.optimizers.values() for k, v in gradients.probe(gradients.parameters(o)).items()}

    # --- what the taps and hooks call ----------------------------------------------------------------------------

    def _add_param_group(self, original: Call, optimizer: Optimizer, *args: Any, **kwargs: Any) -> Any:
        self.optimizers[id(optimizer)] = optimizer
        self.made_at.setdefault(id(optimizer), sites.here())
        return original(optimizer, *args, **kwargs)

    def _backward(self, original: Call, *args: Any, **kwargs: Any) -> Any:
        before = (self._safely(self._state) or {}) if not self.backwards else {}
        self.backwards += 1
        try:
            return original(*args, **kwargs)
        finally:
            self.backwards -= 1
            if not self.backwards:
                self._note(lambda: self._after_backward(before))

    def _after_backward(self, before: events.State) -> events.Backward:
        state = self._state()
        changed = frozenset(p for p, mark in state.items() if before.get(p) != mark)
        if self.scale_called:
            self.scaled.update((p, state[p]) for p in changed)
        self.scale_called = self.scale_read = False
        return events.Backward(changed, state, self._probe(), self.stepping[-1] if self.stepping else 0)

    def _zero(self, original: Call, *args: Any, **kwargs: Any) -> Any:
        result = original(*args, **kwargs)
        self._note(lambda: events.Zero(sites.here(), self._state()))
        return result

    def _scale(self, original: Call, scaler: Any, *args: Any, **kwargs: Any) -> Any:
        self.scale_called |= scaler.is_enabled()
        return original(scaler, *args, **kwargs)

    def _read_scale(self, original: Call, *args: Any, **kwargs: Any) -> Any:
        self.scale_read = True
        return original(*args, **kwargs)

    def _unscale(self, original: Call, scaler: Any, optimizer: Any, *args: Any, **kwargs: Any) -> Any:
        error = ""
        try:
            result = original(scaler, optimizer, *args, **kwargs)
        except RuntimeError as raised:
            error = str(raised)
            raise
        finally:
            if scaler.is_enabled():
                self._note(lambda: self._after_unscale(optimizer, error))
        return result

    def _after_unscale(self, optimizer: Any, error: str) -> events.Unscale:
        own = tuple(map(id, gradients.parameters(optimizer)))
        for parameter in () if error else own:
            self.scaled.pop(parameter, None)
        return events.Unscale(sites.here(), own, self._state(), error)

    def _scaler_step(self, original: Call, scaler: Any, optimizer: Any, *args: Any, **kwargs: Any) -> Any:
        before = dict(self.steps)
        result = original(scaler, optimizer, *args, **kwargs)
        if scaler.is_enabled() and self.steps == before:
            self._note(lambda: events.Skip(tuple(map(id, gradients.parameters(optimizer)))))
        return result

    def _before_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> Any:
        if is_compiling() or not self.is_on:
            return None
        key = id(optimizer)
        if key in self.stepping:  # its class calls the `step` of the one that it derives from
            self.stepping.append(key)
            return None
        self.optimizers[key] = optimizer
        self.steps[key] = self.steps.get(key, 0) + 1
        closure = kwargs.get("closure") or next((one for one in args[1:] if callable(one)), None)
        if closure is None:
            self._note(lambda: self._use(optimizer, in_closure=False))
        self.stepping.append(key)
        if closure is None:
            return None

        def noting() -> Any:
            loss = closure()
            self._note(lambda: self._use(optimizer, in_closure=True))
            return loss

        if "closure" in kwargs:
            return args, {**kwargs, "closure": noting}
        return tuple(noting if one is closure else one for one in args), kwargs

    def _use(self, optimizer: Optimizer, in_closure: bool) -> events.Step:
        own, key = gradients.parameters(optimizer), id(optimizer)
        norm = self._norm(gradients.values(p.grad for p in own if p.grad is not None))
        at, state, now = sites.here(), gradients.state(own), time.perf_counter()
        probe, weights = self._probe(), gradients.weights(own) if ranks.world() > 1 else ()
        in_backward = self.backwards > 0
        parts = gradients.parts(own)
        return events.Step(
            at, key, self.steps[key], norm, state, probe, in_backward, in_closure, now, state, parts, weights
        )

    def _norm(self, grads: list[Tensor]) -> Tensor | None:
        self.clips += 1  # it is a call of our own
        try:
            return runtime.get_total_norm(grads) if grads else None
        finally:
            self.clips -= 1

    def _after_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        if is_compiling() or not self.is_on or id(optimizer) not in self.stepping:
            return
        self.stepping.remove(id(optimizer))
        if id(optimizer) in self.stepping:
            return
        self._safely(lambda: self._end_step(optimizer))
        if self.stop_after is not None and sum(self.steps.values()) >= self.stop_after and not self.stepping:
            self._safely(self.end)
            if self.ends_program:
                raise Enough(0)

    def _end_step(self, optimizer: Optimizer) -> None:
        for index in range(len(self.events) - 1, -1, -1):
            event = self.events[index]
            if isinstance(event, events.Step) and event.optimizer == id(optimizer):
                self.events[index] = event._replace(after=gradients.state(gradients.parameters(optimizer)))
                return

    def _clip(self, original: Call, *args: Any, **kwargs: Any) -> Any:
        if self.clips:
            return original(*args, **kwargs)
        call, args, kwargs = calls.read(original, args, kwargs)
        before = self._safely(lambda: self._before_clip(call)) or {}
        self.calls[call.site] = count = self.calls.get(call.site, 0) + 1
        reads, norm, error = calls.Reads(), None, ""
        self.clips += 1
        start = time.perf_counter()
        try:
            if count in COUNTED:
                with reads:
                    norm = original(*args, **kwargs)
            else:
                norm = original(*args, **kwargs)
        except Exception as raised:
            error = f"{type(raised).__name__}: {raised}"
            raise
        finally:
            self.clips -= 1
            seconds = time.perf_counter() - start
            after = {"error": error, "seconds": seconds, "reads": reads.count if count in COUNTED else None}
            self._note(lambda: self._after_clip(call, norm, {**before, **after}))
        return norm

    def _before_clip(self, call: calls.Call) -> dict[str, Any]:
        state = self._state(*call.tensors)
        scaled = {p for p, mark in self.scaled.items() if state.get(p) == mark and not self.scale_read}
        return {
            "before": state,
            "can_hold": any(map(gradients.could_hold, call.tensors)),
            "are_gradients": gradients.share_memory(call.tensors, [p.grad for p in self._all()]),
            "scaled": frozenset(scaled),
        }

    def _after_clip(self, call: calls.Call, norm: Any, known: dict[str, Any]) -> events.Clip:
        norm = call.norm if norm is None else norm
        return events.Clip(
            call.site,
            call.function,
            call.limit,
            call.norm_type,
            norm.detach().clone() if isinstance(norm, Tensor) else norm,  # the program may write to its own
            tuple(map(id, call.tensors)),
            call.is_iterator,
            not call.is_method and any(getattr(t, "_fsdp_flattened", False) for t in call.tensors),
            state=self._state(*call.tensors),
            probe=self._probe(),
            within=self.stepping[-1] if self.stepping else 0,
            **known,
        )


def _places(watch: Watch) -> Iterable[tuple[Any, Call]]:
    """Every function that is watched, once, and what observes it."""
    from torch.nn.utils import clip_grad

    names = ("clip_grad_norm_", "clip_grad_value_", "clip_grads_with_norm_", "get_total_norm")
    theirs = (getattr(clip_grad, prefix + name, None) for name in names for prefix in ("", "_"))
    ours = (getattr(module, name, None) for name in (*names, "grad_norm") for module in (runtime, as_torch))
    yield from ((function, watch._clip) for function in {*theirs, *ours} - {None})
    if torch.distributed.is_available():
        from torch.distributed.fsdp import FullyShardedDataParallel

        yield FullyShardedDataParallel.clip_grad_norm_, watch._clip
    yield torch.autograd.backward, watch._backward
    yield Optimizer.add_param_group, watch._add_param_group
    yield Optimizer.zero_grad, watch._zero
    yield Module.zero_grad, watch._zero
    scaler = getattr(torch.amp, "GradScaler", None) or torch.cuda.amp.GradScaler  # before torch 2.3
    yield scaler.scale, watch._scale
    yield scaler.get_scale, watch._read_scale
    yield scaler.unscale_, watch._unscale
    yield scaler.step, watch._scaler_step
