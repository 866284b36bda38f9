"""Benchmarks of the runtime against torch and against hand-written loops, on the user's machine."""
