"""What a training step does and in which order: backward, unscale, clip, step; and whose parameters these are."""
