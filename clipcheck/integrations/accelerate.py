"""Accelerate: `clip(accelerator, …)` in place of `accelerator.clip_grad_norm_(…)`; Accelerate itself is not imported here."""

from __future__ import annotations

from typing import Any

from clipcheck.runtime import clip_grad_norm_

_CLIP_THEMSELVES = frozenset({"DEEPSPEED", "MEGATRON_LM", "XLA", "TPU"})


def clip(accelerator: Any, parameters: Any, max_norm: float, norm_type: float = 2.0, **options: Any) -> Any:
    """Unscales the gradients as the accelerator does, clips them with the runtime, and returns the norm before.

    Call it where `accelerator.clip_grad_norm_` is called: if `accelerator.sync_gradients`. DeepSpeed, Megatron-LM, XLA
    and FSDP1 clip in other ways: those calls are passed on to `accelerator.clip_grad_norm_`, whose result may be
    None.

    Args:
        accelerator: an `accelerate.Accelerator`.
        parameters, max_norm, norm_type: as in `clipcheck.runtime.clip_grad_norm_`.
        options: its other arguments, `nonfinite="skip"` or `group=…`.

    Raises:
        ValueError: options are given, but the accelerator clips in another way.
    """
    kind = accelerator.distributed_type.value
    if kind in _CLIP_THEMSELVES or (kind == "FSDP" and not getattr(accelerator, "is_fsdp2", False)):
        if options:
            raise ValueError(f"{', '.join(options)}: {kind} does its own clipping, and takes no such option")
        return accelerator.clip_grad_norm_(parameters, max_norm, norm_type)
    accelerator.unscale_gradients()
    return clip_grad_norm_(parameters, max_norm, norm_type, **options)
