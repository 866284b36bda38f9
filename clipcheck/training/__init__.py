"""What a training step does, in which order (backward, unscale, clip, step), and with which parameters."""
