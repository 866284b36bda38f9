"""The proof: the only part of clipcheck that executes code, and that in a process of its own, within limits."""
