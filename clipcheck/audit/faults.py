"""What a run can show of each rule: one table of patterns of events, in the order in which they are asked."""

from __future__ import annotations

from typing import NamedTuple


class Fault(NamedTuple):
    """A pattern. Of each group the first that holds counts; the group `lost` is about clips that reach no step.

    `of` are the kinds of the event in question (`F`: a clip of none of the optimizer's parameters), `story` is a regular
    expression on what happened around it: the letters of `log.Kind`, `S` for the step before (`P` if in a backward), `!` for the event itself,
    `u` for an unscaling of other parameters. `when` is one on what `findings.told` says of it. A note has no code.
    """

    group: str
    code: str
    of: str
    story: str
    when: str
    says: str


_STALE, _EARLY, _OUTSIDE = r"^[SP][^ABOZ]*!", r"(^|S|P|Z)[^ABO]*!.*[AB].*[sp]$", r"!.*<.*[AB].*s$"
_SCALED, _CHANGED = r"^[^G]*A[^GOUZ]*!", r"![^ABZ]*O[^ABZ]*[sp]$"
_HOOK = (
    r"^hook (lightning/pytorch|pytorch_lightning)/.* "  # Lightning calls a function of this name, which makes the call
)
_AFTER = rf"{_HOOK}(on_train_batch_end|on_batch_end|optimizer_step|on_before_zero_grad)$"
OPTIONAL = {"CLIP111", "CLIP505"}  # may be on purpose, and harm nothing

# fmt: off
FAULTS = (
    Fault("lost", "CLIP115", "C", r"!.*p$|^P[^ABO]*!", "", "clips after backward, which stepped and freed the gradients itself"),
    Fault("lost", "CLIP401", "C", _EARLY, rf"{_HOOK}training_step$", "clips in `training_step`, which Lightning calls before backward"),
    Fault("lost", "CLIP410", "C", f"{_STALE}|{_OUTSIDE}", _AFTER, "clips in a hook that Lightning calls after the step or before backward"),
    Fault("lost", "CLIP101", "C", _STALE, "", "clips gradients that the step has used already"),
    Fault("lost", "CLIP109", "C", _OUTSIDE, "", "clips outside the closure, which computes the gradients again"),
    Fault("lost", "CLIP103", "C", _EARLY, "^once$", "clips once, before the training: later gradients are not clipped"),
    Fault("lost", "CLIP102", "C", _EARLY, "", "clips before backward: there are no new gradients yet"),
    Fault("lost", "CLIP408", "C", _CHANGED, "^step torch_xla/", "clips before `xm.optimizer_step` reduces the gradients"),
    Fault("lost", "CLIP409", "C", _CHANGED, "^step horovod/", "clips before Horovod's step reduces the gradients"),
    Fault("lost", "CLIP413", "C", r"!.*(R|Q[^ABZ]*O).*[sp]$", "", "clips before the gradients of all ranks are added up"),
    Fault("lost", "", "C", _CHANGED, "", "clips, then the gradients are changed by other code before the step"),
    Fault("lost", "", "C", r"[ABO][^SPZ]*!.*Z.*[AB].*[sp]$", "", "clips gradients that were zeroed before a step used them"),
    Fault("lost", "", "C", r"[ABO][^SPZ]*![^CZ]*[AB][^C]*[sp]$", "", "clips, then another backward adds to the clipped gradients"),
    Fault("lost", "CLIP114", "E", r"!.*[sp]$", "^error (?!.*non-finite)", "raises, and the step is made without it"),
    Fault("lost", "CLIP117", "F", r"!.*[sp]$", "", "clips parameters that this optimizer does not step, and whose gradients no step used"),
    Fault("scaled", "CLIP403", "C", _SCALED, "^backward accelerate/", "clips scaled gradients: call `accelerator.clip_grad_norm_` instead"),
    Fault("scaled", "CLIP411", "C", _SCALED, "^backward lightning/fabric/", "clips scaled gradients: call `fabric.clip_gradients` instead"),
    Fault("scaled", "CLIP410", "C", _SCALED, rf"{_HOOK}on_after_backward$", "clips scaled gradients in a hook that Lightning calls before it unscales"),
    Fault("scaled", "CLIP305", "C", r"^[^G]*A[^GOUZ]*u[^GOUZ]*!", "", "clips gradients that are still scaled: another optimizer's were unscaled"),
    Fault("scaled", "CLIP301", "C", _SCALED, "", "clips scaled gradients: call `scaler.unscale_(optimizer)` first"),
    Fault("measured", "CLIP309", "M", rf"{_SCALED}[^G]*$", "", "measures scaled gradients: call `scaler.unscale_(optimizer)` first"),
    Fault("unscaled", "CLIP303", "X", r"U[^Z]*!", "", "unscales again in the same accumulation: the scaler raises"),
    Fault("unscaled", "CLIP308", "X", r"U.*!", "", "unscales again after a step that was skipped without `scaler.update()`: the scaler raises"),
    Fault("raised", "CLIP304", "E", r"U.*!", "^error .*non-finite", "raises on gradients that the GradScaler would have skipped"),
    Fault("zeroed", "CLIP104", "Z", r"[AB][^SPZ]*![^ABO]*[sp]$", "^moves nothing$", "zeroes the gradients between backward and the step, which moves nothing"),
    Fault("added to", "CLIP108", "C", r"[AB][^SPZ]*![^OZ]*[AB][^Z]*C.*[sp]$", "", "clips each micro-batch; the next backward adds to what was clipped"),
    Fault("parts", "CLIP110", "C", r"", "^each alone$", "clips each parameter by itself: the norm of all may exceed `max_norm`, and the direction changes"),
    Fault("parts", "CLIP111", "C", r"", "^in parts$", "clips several groups one by one: the norm of all may exceed `max_norm`"),
    Fault("listed", "CLIP112", "C", r"", "^twice$", "lists parameters twice: they are scaled twice"),
    Fault("limit", "CLIP201", "CE", r"", "^not positive$", "has a limit that is not positive: gradients become zero or NaN, or change their sign"),
    Fault("sharded", "CLIP405", "C", r"", "^shards$", "clips this rank's part of FSDP1's parameters by its own norm: ranks scale unlike"),
    Fault("again", "CLIP505", "C", r"C!", "^again$", "clips again what is clipped to at most as much already: it has no effect"),
)
# Of a clip of nothing that any optimizer steps; the step holds all events then.
STRANGERS = (
    Fault("lost", "CLIP404", "C", r"", "^backward deepspeed/", "clips beside DeepSpeed, whose engine has the gradients and clips by itself"),
    Fault("lost", "CLIP105", "C", r"", "^spent$", "gets an iterator that was read before: nothing is clipped"),
    Fault("lost", "CLIP106", "C", r"", "^no parameters$", "gets gradients or other tensors without a `.grad`, not parameters: nothing is clipped"),
    Fault("lost", "", "C", r"", "", "clips tensors that no optimizer steps, as far as this run shows"),
)
# fmt: on
