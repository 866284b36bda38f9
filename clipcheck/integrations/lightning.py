"""Lightning: a module that clips with the runtime, and keeps the norm for logging.

It works with `lightning` and with `pytorch_lightning`, and imports neither.
"""

from __future__ import annotations

from typing import Any

from clipcheck.runtime import clip_grad_norm_


class ClipsWithRuntime:
    """A base class for a `LightningModule`, before it: `class Model(ClipsWithRuntime, LightningModule)`.

    What `Trainer(gradient_clip_val=…)` asks for is done by `clipcheck.runtime.clip_grad_norm_`, at the place where
    Lightning calls torch's. The norm before clipping is then in `total_norm`, for `self.log("grad_norm", self.total_norm)`.

    Clipping by value is Lightning's, as are strategies that clip themselves or cannot clip (DeepSpeed, FSDP1, XLA).
    With manual optimization Lightning does not call this; call `clip_grad_norm_` yourself, after unscaling.
    """

    total_norm: Any = None  # a 0-dim tensor on the gradients' device; None before the first clip

    def configure_gradient_clipping(
        self, optimizer: Any, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        """Lightning's hook: the same arguments, and the same checks, which are in the classes after this one."""
        plugin = self.trainer.precision_plugin  # type: ignore[attr-defined]

        def clip_grad_by_norm(optimizer: Any, clip_val: float) -> None:
            self.total_norm = clip_grad_norm_(plugin.main_params(optimizer), clip_val)

        if not _calls_torch(plugin):
            super().configure_gradient_clipping(optimizer, gradient_clip_val, gradient_clip_algorithm)  # type: ignore[misc]
            return
        plugin.clip_grad_by_norm = clip_grad_by_norm
        try:
            super().configure_gradient_clipping(optimizer, gradient_clip_val, gradient_clip_algorithm)  # type: ignore[misc]
        finally:
            del plugin.clip_grad_by_norm


def _calls_torch(plugin: Any) -> bool:
    """Whether a precision plugin clips as Lightning's plain one does; FSDP1's and others have different methods."""
    is_plain = type(plugin).clip_grad_by_norm.__qualname__ == "Precision.clip_grad_by_norm"
    return is_plain and not type(plugin).__name__.startswith("XLA")
